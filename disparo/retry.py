"""When a refused message is tried again, and when it is given up; pure."""

import random

from disparo.statuses import Verdict
from disparo.whatsapp.codes import Rule

# Beyond this many doublings every cap is reached, and the power would overflow a float.
_MOST_DOUBLINGS = 64


def next_due(
    rule: Rule, attempts: int, retry_after_seconds: float | None, rng: random.Random
) -> float | None:
    """Seconds until the next try, or None when there is none.

    Exponential with full jitter above a floor: a uniform choice between ``base_seconds`` and
    ``base_seconds * factor ** attempts``, the latter at most ``cap_seconds``. A wait that the provider
    asked for raises the floor, also above the cap, and what was refused together is then spread over
    one more ``base_seconds``.

    A refusal for too many messages to one recipient (``rule.pair``) waits without jitter, since its recipient meets
    nobody else's: ``base_seconds * factor ** (attempts - 1)``, which is 1, 4, 16, 64, 256 seconds.

    For a base of 1, a factor of 2, a cap of 60 and five attempts: 1 to 2, 1 to 4, 1 to 8, 1 to 16
    seconds after the first, second, third and fourth try; None after the fifth.

    A throttle spends no attempt and is never given up; what bounds it is the message's ``not_after``.

    Args:
      rule: The row of ``whatsapp.codes`` that the try ended with. Any verdict but *retry* and
        *throttle* gives None.
      attempts: Tries spent so far, the one just made included (a throttled one is not counted, so 0
        is possible).
      retry_after_seconds: What the provider asked for, if it did.
      rng: Source of the jitter.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    if rule.verdict is Verdict.RETRY:
        if attempts >= rule.attempts:
            return None
    elif rule.verdict is not Verdict.THROTTLE:
        return None
    ceiling = min(rule.cap_seconds, rule.base_seconds * rule.factor ** min(max(attempts, 1), _MOST_DOUBLINGS))
    floor = rule.base_seconds
    if rule.pair:
        floor = ceiling = min(
            rule.cap_seconds, floor * rule.factor ** min(max(attempts - 1, 0), _MOST_DOUBLINGS)
        )
    if retry_after_seconds is not None and retry_after_seconds > floor:
        floor = retry_after_seconds
        ceiling = max(ceiling, floor + rule.base_seconds)
    return rng.uniform(floor, max(floor, ceiling))
