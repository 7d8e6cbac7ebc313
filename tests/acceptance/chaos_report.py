"""What a run of chaos was to do, what happened, and the table of it. Pure."""

import os
import platform
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.acceptance.account import AMBIGUOUS, Account


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run does; the same plan does the same, as far as the machine lets it."""

    rows: int
    seed: int
    #: Fault of the sandbox → share of the requests that meet it.
    faults: Mapping[str, float]
    #: What is killed, in order.
    strikes: tuple[str, ...]
    #: Messages per second.
    rate: int = 250
    latency_ms: str = "50-150"
    workers: int = 2


@dataclass(slots=True)
class Strike:
    """Something was killed, and what followed. Instants are seconds since 1970."""

    kind: str
    at: float
    #: Requests that the killed workers had in flight.
    in_flight: int = 0
    #: Messages of the killed workers that became unknown.
    unknown: int = 0
    #: From the strike until what was struck was there again, where somebody has to start it.
    down_seconds: float = 0.0
    #: Who started it again: ``itself``, or ``a person`` who waited in vain for that.
    back_by: str = ""
    #: From then until sending went on; None when it did not.
    went_on_seconds: float | None = None
    #: The longest time without a delivery until the next strike.
    silent_seconds: float = 0.0
    #: Until the journals of the killed workers were settled.
    settled_seconds: float | None = None
    #: Lock files of the killed workers' journals.
    journals: list[Path] = field(default_factory=list)

    def healed_seconds(self) -> float | None:
        """How long sending stood still beyond the time for which the thing itself was away."""
        if self.went_on_seconds is None:
            return None
        return max(self.went_on_seconds, self.silent_seconds - self.down_seconds)


@dataclass(slots=True)
class Report:
    """What a run came to."""

    plan: Plan
    strikes: list[Strike] = field(default_factory=list)
    account: Account | None = None
    #: How many requests met each fault of the sandbox.
    faults: dict[str, int] = field(default_factory=dict)
    #: Messages per second between the first and the last arrival.
    throughput: float = 0.0
    worst_second: int = 0
    #: From the end of the last strike.
    settled_seconds: float | None = None
    seconds: float = 0.0
    tracebacks: int = 0
    #: The promises that were broken.
    reasons: list[str] = field(default_factory=list)
    histories: list[str] = field(default_factory=list)

    def in_flight(self) -> int:
        """Requests in flight at the kills, all kills together."""
        return sum(strike.in_flight for strike in self.strikes)

    def shown(self) -> dict[str, Any]:
        """This report as JSON."""
        found = asdict(self)
        for strike, shown in zip(self.strikes, found["strikes"], strict=True):
            del shown["journals"]
            shown["healed_seconds"] = strike.healed_seconds()
        if self.account is not None:
            # `asdict` takes a Counter apart.
            counts = {"failed": dict(self.account.failed), "unknown": dict(self.account.unknown)}
            found["account"] |= counts
        return found | {"in_flight": self.in_flight()}


# The table


def table(report: Report) -> str:
    """A report as text of at most 100 columns."""
    plan, account = report.plan, report.account
    faults = "with" if plan.faults else "without"
    begin = report.strikes[0].at if report.strikes else 0.0
    lines = [
        f"Chaos {faults} faults of the endpoint: {plan.rows:,} messages at {plan.rate}/s",
        f"latency {plan.latency_ms} ms, {plan.workers} workers, seed {plan.seed}",
        f"{machine()}; took {report.seconds:.0f} s",
        "",
        _line(
            "killed", "at", "back by", "down", "went on", "silent", "healed", "in fl.", "unknown", "settled"
        ),
        *(
            _line(
                strike.kind,
                _s(strike.at - begin),
                strike.back_by,
                _s(strike.down_seconds or None),
                _s(strike.went_on_seconds),
                _s(strike.silent_seconds),
                _s(strike.healed_seconds()),
                str(strike.in_flight or ""),
                str(strike.unknown or ""),
                _s(strike.settled_seconds),
            )
            for strike in report.strikes
        ),
    ]
    healed = [(strike.healed_seconds() or 0.0, strike.kind) for strike in report.strikes]
    if healed:
        worst, kind = max(healed)
        lines.append(f"worst: sending stood still for {worst:.1f} s ({kind})")
    lines += ["", f"sent {report.throughput:.0f}/s over all, worst second {report.worst_second}"]
    if report.settled_seconds is not None:
        lines.append(f"all settled {report.settled_seconds:.1f} s after the last of them")
    ambiguous = sum(n for fault, n in report.faults.items() if fault in AMBIGUOUS)
    if report.faults:
        met = ", ".join(f"{fault} {n}" for fault, n in sorted(report.faults.items()))
        lines += ["requests that met a fault:", *_wrapped(met, 2)]
    if account is not None:
        unknown = account.unknown.total()
        undelivered = unknown - account.unknown_delivered
        bound = (
            f"of at most {ambiguous + report.in_flight():,}: {ambiguous:,} ambiguous faults, "
            f"{report.in_flight():,} requests in flight at the kills"
        )
        lines += [
            "",
            f"messages   {account.total:>7,}",
            f"delivered  {account.delivered:>7,}  at the sandbox",
            f"accepted   {account.accepted:>7,}",
            f"failed     {account.failed.total():>7,}  {_codes(account.failed)}",
            f"unknown    {unknown:>7,}  {bound}",
            *_wrapped(_codes(account.unknown), 20),
            *_wrapped(f"{account.unknown_delivered:,} of them delivered, {undelivered:,} not", 20),
            f"lost       {len(account.lost):>7,}",
            f"doubled    {len(account.doubled):>7,}",
            f"lied       {len(account.lied):>7,}  failed although delivered, or accepted under another id",
        ]
    if report.tracebacks:
        lines.append(f"the log has {report.tracebacks} tracebacks")
    lines += ["", "every promise was kept" if not report.reasons else "BROKEN:"]
    lines += [f"  - {reason}" for reason in report.reasons]
    return "\n".join(line.rstrip() for line in [*lines, *report.histories])


def _line(kind: str, at: str, back_by: str, *columns: str) -> str:
    return f"{kind:<16} {at:>7}  {back_by:<8}" + "".join(f"{column:>9}" for column in columns)


def machine() -> str:
    """The machine in a line."""
    return f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}"


def _s(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.1f} s"


def _codes(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{code} {n:,}" for code, n in sorted(counts.items()))


def _wrapped(words: str, indent: int) -> list[str]:
    return textwrap.wrap(words, 98, initial_indent=" " * indent, subsequent_indent=" " * indent)
