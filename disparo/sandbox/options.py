"""What one can set of a sandbox: in Python, on the command line, and by ``POST /control`` while it runs."""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from disparo.errors import InputError
from disparo.sandbox import faults

_LATENCY = re.compile(r"(?P<low>[0-9]+(\.[0-9]+)?)(-(?P<high>[0-9]+(\.[0-9]+)?))?")
_PAIR = re.compile(r"(?P<seconds>[0-9]+(\.[0-9]+)?)(:(?P<burst>[0-9]{1,4}))?")
_SUFFIX = re.compile(r"[0-9]{1,15}|\*")
_APP = re.compile(r"[A-Za-z0-9_-]{1,64}")

#: An hour: more than any client waits.
_LONGEST_LATENCY_MS = 3_600_000
_LONGEST_PAIR_SECONDS = 3_600
_LONGEST_LIFE_SECONDS = 31_536_000


@dataclass(frozen=True)
class Options:
    """The behaviour of a sandbox; every combination that can be made is valid.

    Raises:
      InputError: a value is wrong; the sentence names the option.
    """

    #: App id → its token. Empty: any app id and any token are right.
    apps: Mapping[str, str] = field(default_factory=dict, repr=False)
    #: Time until an answer leaves, in milliseconds: ``50``, or ``"50-150"`` for an even spread.
    latency_ms: float | str = 0
    #: Requests an app may make in any one second; 429 beyond. 0 is no limit.
    rate: int = 0
    #: Seconds from one message to the next one to the same recipient of an app; 131056 before. ``"6:45"`` lets 45 go
    #: within the first 6 seconds, each of which makes the next one wait 6 longer. 0 is no limit.
    pair: float | str = 0
    #: End of the recipient's number → fault; the longest end that fits counts, ``*`` fits all.
    suffix_faults: Mapping[str, str] = field(default_factory=dict)
    #: Fault → probability, 0 to 1, of each message that has met no other fault.
    random_faults: Mapping[str, float] = field(default_factory=dict)
    #: Makes the random faults the same in every run.
    seed: int | None = None
    #: Email of a partner account → its secret. Empty: every login succeeds.
    partners: Mapping[str, str] = field(default_factory=dict, repr=False)
    #: Seconds that fetched tokens of apps live. 0: as the provider's do, the token of ``apps`` without an end.
    token_seconds: float = 0
    #: Seconds that tokens of partner accounts live. 0: as the provider's do.
    login_seconds: float = 0
    #: What is left in the wallet.
    wallet: float = 100.0
    #: GREEN, YELLOW or RED; empty when the provider has no news of it.
    quality: str = "GREEN"
    #: ``true``, ``false``, or the words of a refusal, such as ``App is not live.``
    health: str = "true"

    def __post_init__(self) -> None:
        for app, token in _mapping("apps", self.apps).items():
            if not isinstance(app, str) or _APP.fullmatch(app) is None:
                raise InputError(f'Option apps: "{app}" is no app id; write letters, digits, - and _.')
            if not isinstance(token, str) or not token or any(sign.isspace() for sign in token):
                raise InputError(f'Option apps: the token of app "{app}" must be a word without spaces.')
        self.latency_seconds()
        if type(self.rate) is not int or self.rate < 0:
            raise InputError(
                f"Option rate: {self.rate!r} is not a whole number of requests per second, 0 or more."
            )
        self.pair_limit()
        for suffix, name in _mapping("suffix_faults", self.suffix_faults).items():
            if not isinstance(suffix, str) or _SUFFIX.fullmatch(suffix) is None:
                raise InputError(
                    f'Option suffix_faults: "{suffix}" is not the end of a phone number; '
                    "write digits, or * for all."
                )
            faults.parse(name)
        total = 0.0
        for name, probability in _mapping("random_faults", self.random_faults).items():
            faults.parse(name)
            if type(probability) not in (int, float) or not 0 <= probability <= 1:
                raise InputError(
                    f"Option random_faults: {probability!r} of {name} is no probability from 0 to 1."
                )
            total += probability
        if total > 1 + 1e-9:
            raise InputError(f"Option random_faults: the probabilities add up to {total:g}, more than 1.")
        if self.seed is not None and type(self.seed) is not int:
            raise InputError(f"Option seed: {self.seed!r} is not a whole number.")
        for email, secret in _mapping("partners", self.partners).items():
            if not isinstance(email, str) or not isinstance(secret, str) or not email or not secret:
                raise InputError("Option partners: write an email and its secret, both as text.")
        for name in ("token_seconds", "login_seconds"):
            seconds = getattr(self, name)
            if type(seconds) not in (int, float) or not 0 <= seconds <= _LONGEST_LIFE_SECONDS:
                raise InputError(f"Option {name}: {seconds!r} is no number of seconds up to a year.")
        if type(self.wallet) not in (int, float) or not math.isfinite(self.wallet):
            raise InputError(f"Option wallet: {self.wallet!r} is no amount.")
        for name in ("quality", "health"):
            if not isinstance(getattr(self, name), str):
                raise InputError(f"Option {name}: {getattr(self, name)!r} is no text.")

    def latency_seconds(self) -> tuple[float, float]:
        """The shortest and the longest time until an answer leaves, in seconds."""
        value = self.latency_ms
        low = high = math.nan
        if type(value) in (int, float):
            low = high = float(value)
        elif isinstance(value, str) and (match := _LATENCY.fullmatch(value.strip())):
            low = float(match["low"])
            high = low if match["high"] is None else float(match["high"])
        if not 0 <= low <= high <= _LONGEST_LATENCY_MS:
            raise InputError(
                f"Option latency_ms: {value!r} is neither milliseconds nor MIN-MAX, at most an hour; "
                "write for example 50 or 50-150."
            )
        return low / 1000, high / 1000

    def pair_limit(self) -> tuple[float, int]:
        """Seconds between two messages to one recipient, 0 without a limit, and how many may come at once."""
        value, seconds, burst = self.pair, math.nan, 1
        if type(value) in (int, float):
            seconds = float(value)
        elif isinstance(value, str) and (match := _PAIR.fullmatch(value.strip())):
            seconds, burst = float(match["seconds"]), int(match["burst"] or 1)
        if not 0 <= seconds <= _LONGEST_PAIR_SECONDS or burst < 1:
            raise InputError(
                f"Option pair: {value!r} is neither seconds nor SECONDS:BURST, at most an hour; "
                "write for example 6 or 6:45."
            )
        return seconds, burst

    def changed(self, changes: Mapping[str, Any]) -> "Options":
        """These options with ``changes`` made; what is not named stays.

        Raises:
          InputError: an option does not exist or its value is wrong.
        """
        known = [option.name for option in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                raise InputError(f'There is no option "{name}". Options are: {", ".join(known)}.')
        return dataclasses.replace(self, **changes)

    def shown(self) -> dict[str, Any]:
        """These options as JSON, tokens hidden."""
        return {
            "apps": dict.fromkeys(self.apps, "***"),
            "latency_ms": self.latency_ms,
            "rate": self.rate,
            "pair": self.pair,
            "suffix_faults": dict(self.suffix_faults),
            "random_faults": dict(self.random_faults),
            "seed": self.seed,
            "partners": dict.fromkeys(self.partners, "***"),
            "token_seconds": self.token_seconds,
            "login_seconds": self.login_seconds,
            "wallet": self.wallet,
            "quality": self.quality,
            "health": self.health,
        }


def _mapping(name: str, value: Any) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"Option {name}: write an object of names and values, not {value!r}.")
    return value


def from_arguments(
    *,
    apps: Iterable[str] = (),
    latency_ms: str = "0",
    rate: str | int = 0,
    pair: float | str = 0,
    fault: Iterable[str] = (),
    random: Iterable[str] = (),
    seed: str | int | None = None,
    partners: Iterable[str] = (),
) -> Options:
    """The options that a command line means.

    Args:
      apps: Each ``APP_ID=TOKEN``.
      latency_ms: ``MIN`` or ``MIN-MAX``.
      rate: Requests per second and app; 0 is no limit.
      pair: ``SECONDS`` or ``SECONDS:BURST`` of one recipient; 0 is no limit.
      fault: Each ``SUFFIX=FAULT``.
      random: Each ``FAULT=PROBABILITY``.
      seed: Makes the random faults repeatable.
      partners: Each ``EMAIL=SECRET``.

    Raises:
      InputError: a value is wrong; the sentence names the option.
    """
    return Options(
        # A part that holds a secret is never repeated in an error.
        apps=_pairs("--app", apps, "ID=TOKEN", secret=True),
        latency_ms=latency_ms,
        rate=_whole("--rate", rate),
        pair=pair,
        suffix_faults=_pairs("--fault", fault, "SUFFIX=FAULT, for example 0001=meta:131026"),
        random_faults={
            name: _number(f"--random {name}", value)
            for name, value in _pairs("--random", random, "FAULT=PROBABILITY, for example hang=0.01").items()
        },
        seed=None if seed is None else _whole("--seed", seed),
        partners=_pairs("--partner", partners, "EMAIL=SECRET", secret=True),
    )


def _pairs(option: str, values: Iterable[str], form: str, *, secret: bool = False) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for value in values:
        name, sign, content = value.partition("=")
        if not (name and sign and content):
            shown = "" if secret else f' "{value}"'
            raise InputError(f"Option {option}{shown}: write {form}.")
        if name in pairs:
            raise InputError(f'Option {option}: "{name}" is given twice; give it once.')
        pairs[name] = content
    return pairs


def _whole(option: str, value: str | int) -> int:
    try:
        return int(value)
    except ValueError:
        raise InputError(f'Option {option}: "{value}" is not a whole number.') from None


def _number(option: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise InputError(f'Option {option}: "{value}" is not a number.') from None
