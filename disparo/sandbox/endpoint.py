"""What becomes of one message: who may send, how fast, is it well formed, which fault does it meet."""

import random
import secrets
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

import orjson

from disparo.sandbox import answers, envelope, faults
from disparo.sandbox.answers import Answer, Identities, Manner
from disparo.sandbox.faults import Fault
from disparo.sandbox.ledger import Ledger, Tally
from disparo.sandbox.options import Options
from disparo.sandbox.partner import Partner
from disparo.sandbox.rules import ShapeError

#: Beyond this many recipients those are forgotten that may be written to again.
_PAIRS_KEPT = 100_000


def _is_json(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "application/json"


def _user(to: str) -> str:
    """One name for both spellings of a Brazilian mobile, which WhatsApp knows as one user."""
    return to[:4] + to[5:] if len(to) == 13 and to.startswith("55") and to[4] == "9" else to


class Endpoint:
    """The stand-in's judgement and memory, without any network. Used by one thread.

    The order of its questions: token and app, rate, content type, JSON, rules of the message, faults, pair.
    """

    def __init__(self, options: Options) -> None:
        self._identities = Identities(secrets.randbits(74))
        self.ledger = Ledger(self._identities.text)
        # Latency has its own dice, so that the seeded faults depend on nothing but the order of messages.
        self._latency_dice = random.Random(options.seed)  # noqa: S311 - no secret
        self._granted: dict[str, deque[float]] = {}
        #: App and recipient → when its burst began and how many it has had.
        self._pairs: dict[tuple[str, str], tuple[float, int]] = {}
        self._pairs_most = _PAIRS_KEPT
        self.partner = Partner(options)
        self._senders = self.partner.senders
        self._set(options)
        self._shake()

    def _set(self, options: Options) -> None:
        self.options = options
        self._shortest, self._longest = options.latency_seconds()
        self._pair_seconds, self._pair_burst = options.pair_limit()
        self._suffixes = {
            "" if suffix == "*" else suffix: faults.parse(name)
            for suffix, name in options.suffix_faults.items()
        }
        self._lengths = sorted({len(suffix) for suffix in self._suffixes}, reverse=True)
        self._chances: list[tuple[float, Fault]] = []
        reached = 0.0
        for name, probability in options.random_faults.items():
            reached += probability
            self._chances.append((reached, faults.parse(name)))

    def _shake(self) -> None:
        self._dice = random.Random(self.options.seed)  # noqa: S311 - no secret
        self._met: Counter[tuple[str, str]] = Counter()

    def control(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Change the options named, and show all of them.

        New faults or a new seed begin the random series and the counts of ``*N`` anew.

        Raises:
          InputError: an option does not exist or its value is wrong; nothing has changed.
        """
        self._set(self.options.changed(changes))
        self.partner.set(self.options)
        if changes.keys() & {"suffix_faults", "random_faults", "seed"}:
            self._shake()
        return self.options.shown()

    def reset(self) -> None:
        """Forget all arrivals, the attempts counted for ``*N`` and the use of rate and pairs; options stay."""
        self.ledger.reset()
        self.partner.reset()
        self._granted.clear()
        self._pairs.clear()
        self._shake()

    def stats(self) -> dict[str, Any]:
        """All counts as JSON."""
        return {**self.ledger.stats(), "partner": self.partner.stats()}

    def delay(self) -> float:
        """Seconds until the next answer may leave."""
        if self._longest == self._shortest:
            return self._shortest
        return self._latency_dice.uniform(self._shortest, self._longest)

    def receive(
        self,
        app: str,
        authorization: str,
        content_type: str,
        body: bytes,
        now: float,
        *,
        too_large: bool = False,
    ) -> tuple[Answer, Manner]:
        """Judge one POST to the message path of ``app`` and record it.

        Args:
          app: App id from the path.
          authorization: The header as it came, empty without one.
          content_type: The header as it came, empty without one.
          body: The request's body, empty when too large.
          now: Monotonic seconds.
          too_large: The body was longer than is read.
        """
        ledger = self.ledger
        tally = ledger.arrive(app, now)
        refusal = answers.TOO_LARGE if too_large else self._sender(app, authorization, now)
        if refusal is None and content_type != "application/json" and not _is_json(content_type):
            refusal = answers.CONTENT_TYPE
        message: Any = None
        if refusal is None:
            try:
                message = orjson.loads(body)
            except orjson.JSONDecodeError:
                refusal = answers.NOT_JSON
            else:
                if type(message) is not dict:
                    refusal = answers.NOT_JSON
        if refusal is not None:
            ledger.refuse(tally, app, "", authorization, body, refusal.status, refusal.reason, "")
            return refusal, Manner.WHOLE
        try:
            to = envelope.check(message)
        except ShapeError as error:
            refusal = answers.meta(error.code, str(error))
            to = message.get("to")
            if not isinstance(to, str):
                to = ""
            ledger.refuse(tally, app, to, authorization, body, refusal.status, refusal.reason, str(error))
            return refusal, Manner.WHOLE
        return self._judge(tally, app, to, authorization, body, message, now)

    def _judge(
        self, tally: Tally, app: str, to: str, authorization: str, body: bytes, message: Any, now: float
    ) -> tuple[Answer, Manner]:
        fault = self._fault(to) if self._lengths or self._chances else None
        if fault is not None:
            self.ledger.meet(fault.name)
        if fault is not None and not fault.accepts and fault.answer is not None:
            self.ledger.refuse(
                tally, app, to, authorization, body, fault.answer.status, fault.name, f"fault {fault.name}"
            )
            return fault.answer, fault.manner
        if self._pair_seconds and not self._pair(app, to, now):
            refusal = answers.PAIR
            self.ledger.refuse(
                tally, app, to, authorization, body, refusal.status, refusal.reason, "pair rate limit"
            )
            return refusal, Manner.WHOLE
        number = self._identities.next()
        identity = self._identities.text(number)
        answer = answers.accepted(identity, to)
        manner = Manner.WHOLE
        outcome = "accepted"
        if fault is not None:
            manner = fault.manner
            outcome = f"accepted, {fault.name}"
            if fault.answer is not None:
                answer = fault.answer
            elif fault.name == "no-id":
                answer = answers.without_id(to)
        status = 0 if manner in (Manner.CLOSE, Manner.HANG) else answer.status
        self.ledger.accept(
            tally, now, app, to, authorization, body, message, number, identity, status, outcome
        )
        return answer, manner

    def _sender(self, app: str, authorization: str, now: float) -> Answer | None:
        """The refusal that the sender's token, app or pace deserves."""
        if now >= self.partner.next_end:
            self.partner.sweep(now)
        headers = self._senders.get(app)
        if headers is None or authorization not in headers:
            # Gupshup takes the token as it is; a scheme before it is the commonest mistake.
            if not authorization or " " in authorization:
                return answers.AUTHENTICATION
            if self._senders:
                return answers.APP if headers is None else answers.AUTHENTICATION
        if self.options.rate:
            granted = self._granted.get(app)
            if granted is None:
                granted = self._granted[app] = deque()
            while granted and granted[0] <= now - 1.0:
                granted.popleft()
            if len(granted) >= self.options.rate:
                return answers.THROTTLE
            granted.append(now)
        return None

    def _pair(self, app: str, to: str, now: float) -> bool:
        """Whether a recipient may be written to again; counts it then."""
        seconds, burst = self._pair_seconds, self._pair_burst
        if len(self._pairs) > self._pairs_most:
            over = [key for key, (start, n) in self._pairs.items() if now >= start + n * seconds]
            for key in over:
                del self._pairs[key]
            self._pairs_most = max(_PAIRS_KEPT, 2 * len(self._pairs))
        pair = (app, _user(to))
        start, n = self._pairs.get(pair, (now, 0))
        if now >= start + n * seconds:
            start, n = now, 0
        elif n >= burst or now >= start + seconds:
            return False
        self._pairs[pair] = (start, n + 1)
        return True

    def _fault(self, to: str) -> Fault | None:
        for length in self._lengths:
            suffix = to[-length:] if length else ""
            fault = self._suffixes.get(suffix)
            if fault is not None:
                if self._meets(fault, f"={suffix}", to):
                    return fault
                break
        if self._chances:
            drawn = self._dice.random()
            for reached, fault in self._chances:
                if drawn < reached:
                    return fault if self._meets(fault, fault.name, to) else None
        return None

    def _meets(self, fault: Fault, rule: str, to: str) -> bool:
        if fault.times is None:
            return True
        self._met[rule, to] += 1
        return self._met[rule, to] <= fault.times
