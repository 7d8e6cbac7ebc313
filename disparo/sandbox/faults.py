"""Faults by name: ``billing``, ``throttle:2``, ``meta:131026``, ``500*2``, ``close-after`` and their kin."""

import re
from dataclasses import dataclass

from disparo.errors import InputError
from disparo.sandbox import answers
from disparo.sandbox.answers import Answer, Manner

NAMES = (
    "billing, auth, app, throttle, throttle:SECONDS, meta:CODE, gupshup:CODE, 500, 502, 503, 504, 502-after, "
    "503-after, 504-after, close-before, close-after, hang, drip, cut, no-id"
)

_NAME = re.compile(r"(?P<name>[a-z0-9-]+)(:(?P<number>[0-9]{1,9}))?(\*(?P<times>[0-9]{1,6}))?")

_REFUSALS = {
    "billing": answers.BILLING,
    "auth": answers.AUTHENTICATION,
    "app": answers.APP,
    "throttle": answers.THROTTLE,
    "500": answers.INTERNAL,
    "close-before": Answer(0, b"", "close-before"),
} | {str(status): answers.gateway(status) for status in answers.GATEWAY_TITLES}

#: Accepted all the same; only the answer suffers.
_MANNERS = {
    "close-after": Manner.CLOSE,
    "hang": Manner.HANG,
    "drip": Manner.DRIP,
    "cut": Manner.CUT,
    "no-id": Manner.WHOLE,
}


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to a message that meets it.

    Without ``answer`` the message gets its usual 200, in the ``manner`` given. ``accepts`` says whether the
    recipient would get the message; ``times`` that only the first so many attempts of a recipient meet it.
    """

    name: str
    answer: Answer | None
    manner: Manner
    accepts: bool
    times: int | None


def parse(text: str) -> Fault:
    """The fault that ``text`` names.

    Raises:
      InputError: no such fault; the sentence lists those that exist.
    """
    match = _NAME.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise _unknown(text)
    times = None
    if match["times"] is not None:
        times = int(match["times"])
        if times == 0:
            raise InputError(f'Fault "{text}": write how many attempts meet it after the *, 1 or more.')
    name = match["name"]
    number = None if match["number"] is None else int(match["number"])
    full = name if number is None else f"{name}:{number}"

    def fault(answer: Answer | None, manner: Manner, *, accepts: bool) -> Fault:
        return Fault(full, answer, manner, accepts, times)

    if number is not None:
        if name == "meta":
            return fault(answers.meta(number), Manner.WHOLE, accepts=False)
        if name == "gupshup":
            return fault(answers.gupshup(number), Manner.WHOLE, accepts=False)
        if name == "throttle":
            wait = b"Retry-After: %d\r\n" % number
            return fault(answers.THROTTLE._replace(headers=wait), Manner.WHOLE, accepts=False)
    elif name in _REFUSALS:
        manner = Manner.CLOSE if name == "close-before" else Manner.WHOLE
        return fault(_REFUSALS[name], manner, accepts=False)
    elif name in _MANNERS:
        return fault(None, _MANNERS[name], accepts=True)
    elif name.removesuffix("-after") in ("502", "503", "504"):
        page = answers.gateway(int(name.removesuffix("-after")))
        return fault(page, Manner.WHOLE, accepts=True)
    raise _unknown(text)


def _unknown(text: object) -> InputError:
    return InputError(
        f'There is no fault "{text}". Choose one of: {NAMES}; add *N to let only the first N attempts of a '
        "recipient meet it."
    )
