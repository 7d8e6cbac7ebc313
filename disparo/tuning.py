"""Self-tuning: the rate that the provider bears, found by its refusals and remembered in the app's row.

Down when the provider refuses, up while it does not and the rate is really used. Between a rate that was borne and
one that was refused it tries the one in the middle, until both are close; there it stays, and now and then tries a
little more. The first half of this file is pure, the second is the tables.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import orjson
from sqlalchemy import text
from sqlalchemy.orm import Session

from disparo import notifications
from disparo.models import App

#: Nothing is known: begin here, or at the configured rate where that is less, and double. Source: Gupshup, "Partner
#: Rate Limits" (all other APIs: 10 in 1 second), read 2026-11-21.
START_RATE = 10.0
#: No slower: what refuses even this is not about the rate.
FLOOR_RATE = 0.1
#: Where the refused rate is no more than this times the borne one, the rate is found.
PRECISION = 1.06
#: The first step up beyond what was found, or down from what was borne; each next in a row is twice as large.
STEP = 0.06
#: A rate is borne when it was used for `Tuning.window_seconds` to this share, without a refusal.
USED = 0.9
#: What workers have answered is known to the tick with this delay.
DELAY_SECONDS = 1.0
#: After what was found was proven, more is tried after so many cool-downs; each refused try doubles the pause, up to
#: 2 ** `PATIENCE` times.
PAUSE_COOL_DOWNS = 10
PATIENCE = 2
#: So many refusals in a row halve the rate.
_FALLS = 5
_INSTANTS = ("since", "try_at", "refused_at", "found_at")


@dataclass(frozen=True, slots=True)
class Tuning:
    """What is known of the rate that an app's provider bears, and what is tried now."""

    #: Requests per second; in force where the configured rate is not less.
    rate: float
    #: When the time began in which the rate is looked at: the last change, or the end of its cool-down.
    since: datetime
    #: Answers that were counted by then.
    base: int = 0
    #: Grows with each change of the rate: a refusal of a request that left under an older one says nothing new.
    epoch: int = 0
    #: The highest rate that was borne, and the lowest above it that was refused; None: not known.
    borne: float | None = None
    refused: float | None = None
    #: Refusals in a row, with no rate borne in between. At first as many as halve the rate.
    falls: int = _FALLS
    #: By how much the next step up is more.
    climb: float = 1.0
    #: The provider's cool-down at its last refusal, in seconds; its limit may count over as long.
    cool_seconds: float = 1.0
    #: Refused tries in a row, at most `PATIENCE`; and whether one is under way.
    patience: int = 0
    trying: bool = False
    #: When more is tried than what was found; None while it is looked for.
    try_at: datetime | None = None
    refused_at: datetime | None = None
    found_at: datetime | None = None

    def rate_within(self, limit: float) -> float:
        """The rate in force under a configured one."""
        return min(self.rate, limit)

    def window_seconds(self, limit: float) -> float:
        """How long a rate is looked at: longer than the provider's window, and for a few requests at least."""
        return max(1.0 + 1.5 * self.cool_seconds, 3.0 / self.rate_within(limit))

    def pause(self) -> timedelta:
        """How long what was found is left alone."""
        return timedelta(seconds=PAUSE_COOL_DOWNS * self.cool_seconds * 2**self.patience)


def start(now: datetime, limit: float) -> Tuning:
    """Nothing is known.

    Args:
      limit: The configured rate, in requests per second.
    """
    return Tuning(min(START_RATE, limit), now)


def after_refusal(was: Tuning, now: datetime, *, cool_seconds: float, limit: float, answered: int) -> Tuning:
    """What follows from a refusal of the rate in force; always a new epoch.

    Args:
      cool_seconds: Nothing leaves for so long.
      limit: The configured rate, in requests per second.
      answered: Answers that were counted by now.
    """
    rate, falls, borne = was.rate_within(limit), min(was.falls + 1, _FALLS + 1), was.borne
    if borne is not None and borne < rate:
        # On the way up. Refused twice in a row: back to what is known, and from there again.
        close = falls > 1 or rate <= borne * PRECISION
        following = borne if close else math.sqrt(borne * rate)
    else:
        # Even what was borne is refused: an unlucky moment at first, a lower limit when it goes on.
        borne = None
        following = rate * (1 - min(0.5, STEP * 2 ** (falls - 1)))
    return replace(
        was,
        rate=max(_rounded(following), min(FLOOR_RATE, limit)),
        since=now + timedelta(seconds=cool_seconds),
        base=answered,
        epoch=was.epoch + 1,
        borne=borne,
        refused=rate,
        falls=falls,
        climb=STEP,
        cool_seconds=max(1.0, cool_seconds),
        patience=min(PATIENCE, was.patience + was.trying),
        trying=False,
        try_at=None,
        refused_at=now,
        found_at=was.found_at if was.trying else None,
    )


def after_calm(was: Tuning, now: datetime, *, limit: float, answered: int) -> Tuning:
    """What follows from no refusal since; the same object when nothing does.

    A rate that was not used is not proven: where less work waits than may leave, nothing changes.
    """
    rate, seconds = was.rate_within(limit), (now - was.since).total_seconds()
    if seconds < was.window_seconds(limit):
        return was
    n = answered - was.base
    if n < USED * rate * (seconds - DELAY_SECONDS):
        # Looked at anew from here, or an idle hour would count for long. (Less than before: a worker's count is gone.)
        return was if n == 0 else replace(was, since=now, base=answered)
    refused = was.refused if was.refused is not None and was.refused > rate else None
    proven = replace(was, borne=max(rate, was.borne or rate), refused=refused, falls=0)
    again = replace(proven, since=now, base=answered)
    if rate >= limit:
        full = replace(proven, climb=STEP, trying=False, try_at=None)
        return was if full == was else replace(again, climb=STEP, trying=False, try_at=None)
    if refused is not None and refused <= rate * PRECISION and not was.trying:
        if was.try_at is None:
            return replace(again, try_at=now + proven.pause(), found_at=was.found_at or now)
        if now < was.try_at:
            return was
        return _raised(again, rate * (1 + STEP), limit, climb=2 * STEP, trying=True, found_at=was.found_at)
    if refused is not None:
        return _raised(again, math.sqrt(rate * refused), limit, trying=False)
    # The first step beyond may only make up for an unlucky moment; the next ones show a limit that was raised.
    gained = max(0, was.patience - (not was.trying))
    climb = min(1.0, 2 * was.climb)
    return _raised(again, rate * (1 + was.climb), limit, climb=climb, patience=gained, trying=False)


def _raised(state: Tuning, rate: float, limit: float, **changes: Any) -> Tuning:
    changed = {"try_at": None, "found_at": None} | changes
    return replace(state, rate=min(_rounded(rate), limit), epoch=state.epoch + 1, **changed)


def _rounded(rate: float) -> float:
    """As people read it; much finer than `PRECISION`."""
    return float(f"{rate:.4g}")


# -- in the tables -----------------------------------------------------------------------------------------

# What workers counted stands in rows of their own, so that none waits for another.
_ROW = """
    SELECT id, name, rate, tuned_rate, tuning_state, (
        SELECT coalesce(sum(CAST(w.answered ->> CAST(apps.id AS text) AS bigint)), 0) FROM workers w) AS answered
    FROM apps WHERE tuning"""
_ALL = text(f"{_ROW} ORDER BY id")
_LOCKED = text(f"{_ROW} AND id = :id FOR NO KEY UPDATE OF apps")


@dataclass(frozen=True, slots=True)
class Changed:
    """Another rate is in force; tell the workers after the commit."""

    app: str
    was: float
    rate: float


def turn_on(app: App, now: datetime) -> None:
    """Look for the rate that the provider bears; what is known already stays."""
    if not app.tuning:
        app.tuning = True
        _keep(app, start(now, app.rate))


def turn_off(app: App) -> None:
    """Keep to the configured rate, and forget what was found."""
    # But the epoch: a refusal from before must not count for what begins another time.
    app.tuning, app.tuned_rate, app.tuning_state = False, None, {"epoch": _epoch(app)}


def begin_again(app: App, now: datetime) -> None:
    """Forget what was found: it was another number's, or another provider's."""
    if app.tuning:
        _keep(app, start(now, app.rate))


def effective_rate(app: App) -> float:
    """The rate in force, in requests per second, as long as nothing stops the app."""
    return min(app.rate, app.tuned_rate) if app.tuning and app.tuned_rate is not None else app.rate


#: SQL: the same of app ``a``.
EFFECTIVE_RATE = "least(a.rate, CASE WHEN a.tuning THEN a.tuned_rate END)"
#: SQL: at most as much as all apps together may send.
RATE_ALLOWED = f"least({EFFECTIVE_RATE}, (SELECT max_per_second FROM installation))"


def refuse(session: Session, app_id: int, epoch: int, cool_seconds: float, now: datetime) -> Changed | None:
    """Slow an app down, because the provider refused a request for its rate; None: that was done already, or it is off.

    Args:
      epoch: That of the rate under which the request left. Of many refusals of one rate, by whatever workers,
        the first counts.
      cool_seconds: Nothing leaves for so long.
    """
    row = session.execute(_LOCKED, {"id": app_id}).one_or_none()
    if row is None:
        return None
    was = _loaded(row.tuned_rate, row.tuning_state, now, row.rate)
    if was.epoch != epoch:
        return None
    found = after_refusal(was, now, cool_seconds=cool_seconds, limit=row.rate, answered=int(row.answered))
    return _store(session, row, was, found)


def look(session: Session, now: datetime) -> list[Changed]:
    """Raise the rates that were borne and used; one caller at a time (the tick's lock)."""
    changed: list[Changed] = []
    for seen in session.execute(_ALL).all():
        was, found = _calm(seen, now)
        if was is found:
            continue
        # Once more under the lock: it may just have been refused, or turned off.
        row = session.execute(_LOCKED, {"id": seen.id}).one_or_none()
        if row is None:
            continue
        was, found = _calm(row, now)
        if was is found:
            continue
        changed += filter(None, [_store(session, row, was, found)])
        if found.try_at is not None and found.rate_within(row.rate) < row.rate / 2:
            _tell(session, row, found)
    return changed


def note_answered(session: Session, worker: str, answered: Mapping[int, int]) -> None:
    """Keep how many answers of each tuned app a worker got since it started, throttles apart."""
    if answered:
        session.execute(
            text("UPDATE workers SET answered = CAST(:answered AS jsonb) WHERE name = :name"),
            {"name": worker, "answered": orjson.dumps({str(app): n for app, n in answered.items()}).decode()},
        )


def describe(app: App) -> dict[str, Any]:
    """What ``app show --json`` prints: ``state`` is off, looking, found, or full (the configured rate is in force)."""
    if not app.tuning:
        return {"state": "off"}
    state = app.tuning_state or {}
    if app.tuned_rate is not None and app.tuned_rate >= app.rate:
        word = "full"
    else:
        borne, refused = state.get("borne"), state.get("refused")
        word = "found" if borne and refused and refused <= borne * PRECISION**2 else "looking"
    names = ("borne", "refused", "refused_at", "found_at", "try_at")
    return {"state": word, "rate": effective_rate(app)} | {name: state.get(name) for name in names}


def in_words(found: dict[str, Any], zone: ZoneInfo) -> str:
    """One line for people of what `describe` has."""

    def at(name: str) -> str:
        return f"{datetime.fromisoformat(found[name]).astimezone(zone):%Y-%m-%d %H:%M:%S}"

    if found["state"] == "off":
        return "off"
    said = {
        "full": "the configured rate is in force",
        "looking": f"looking for the rate that is borne, now {found['rate']:.3g}/s",
        "found": f"{found['rate']:.3g}/s",
    }[found["state"]]
    if found["state"] == "found" and found["found_at"]:
        said += f" was found at {at('found_at')}"
    if found["state"] != "full" and found["refused"]:
        said += f"; {found['refused']:.3g}/s was refused at {at('refused_at')}"
    if found["try_at"]:
        said += f"; more is tried at {at('try_at')}, if it is needed"
    return f"on: {said}"


def _calm(row: Any, now: datetime) -> tuple[Tuning, Tuning]:
    was = _loaded(row.tuned_rate, row.tuning_state, now, row.rate)
    return was, after_calm(was, now, limit=row.rate, answered=int(row.answered))


def _store(session: Session, row: Any, was: Tuning, found: Tuning) -> Changed | None:
    session.execute(
        text("UPDATE apps SET tuned_rate = :rate, tuning_state = CAST(:state AS jsonb) WHERE id = :id"),
        {"id": row.id, "rate": found.rate, "state": orjson.dumps(_dumped(found)).decode()},
    )
    if found.epoch == was.epoch:
        return None
    return Changed(row.name, was.rate_within(row.rate), found.rate_within(row.rate))


def _keep(app: App, state: Tuning) -> None:
    app.tuned_rate, app.tuning_state = state.rate, _dumped(replace(state, epoch=_epoch(app) + 1))


def _epoch(app: App) -> int:
    return int((app.tuning_state or {}).get("epoch", 0))


def _dumped(state: Tuning) -> dict[str, Any]:
    found = {name: value for name, value in asdict(state).items() if name != "rate"}
    return found | {name: found[name] and found[name].isoformat() for name in _INSTANTS}


def _loaded(rate: float | None, stored: dict[str, Any] | None, now: datetime, limit: float) -> Tuning:
    """As it was stored; what another version wrote besides is left out."""
    if rate is None or not stored or not stored.get("since"):
        return replace(start(now, limit), epoch=int((stored or {}).get("epoch", 0)))
    known = {one.name for one in fields(Tuning)} - {"rate"}
    values = {name: value for name, value in stored.items() if name in known}
    instants = {
        name: values[name] and datetime.fromisoformat(values[name]) for name in _INSTANTS if name in values
    }
    return Tuning(rate, **values | instants)


def _tell(session: Session, row: Any, found: Tuning) -> None:
    rate = found.rate_within(row.rate)
    notifications.add(
        session,
        "rate_found",
        f"app:{row.name}",
        f"{row.name}: the provider bears about {rate:.3g} requests/s, less than half of the configured {row.rate:g}. "
        "Ask Gupshup for the account's limit; `disparo app show` has what was refused.",
        once=f"rate_found:{row.id}:{row.rate:g}",
        rate=round(rate, 2),
        configured=row.rate,
    )
