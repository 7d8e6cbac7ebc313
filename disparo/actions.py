"""Who did what, when and why: recorded beside the change itself, shown newest first."""

import getpass
import re
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import select
from sqlalchemy.orm import Session

from disparo.models import Action
from disparo.statuses import Lane

_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?\+00:00", re.ASCII)
#: So many of the last actions are shown as text.
SHOWN = 5

#: What a verb is called once it is done; others are shown as they were recorded.
_DONE = {
    "launch": "launched",
    "pause": "paused",
    "resume": "resumed",
    "cancel": "cancelled",
    "amend": "amended",
    "reschedule": "rescheduled",
    "retry": "retried",
    "resolve": "resolved",
    "resend": "resent",
    "suppress": "suppressed",
    "limit": "limited",
    "adopt": "adopted",
}


def record_action(
    session: Session,
    verb: str,
    subject: str,
    *,
    actor: str | None = None,
    why: str | None = None,
    **details: Any,
) -> Action:
    """Keep who did what, when and why.

    Args:
      subject: ``app:loja``, ``campaign:black-friday``, ``message:17``.
      actor: By default the OS user.
    """
    action = Action(actor=actor or operator(), verb=verb, subject=subject, why=why, details=details or None)
    session.add(action)
    return action


def record_progress(
    session: Session,
    action_id: int | None,
    verb: str,
    subject: str,
    *,
    actor: str | None = None,
    why: str | None = None,
    **details: Any,
) -> int:
    """Keep in one action how far something that is done in pages has come; its id, for the next page.

    In the transaction of each page, so that after a kill the action says what was done.
    """
    if action_id is None:
        action = record_action(session, verb, subject, actor=actor, why=why, **details)
    else:
        action = session.get_one(Action, action_id)
        action.details = details
    session.flush()
    return action.id


def add_details(session: Session, action_id: int, **details: Any) -> None:
    """Keep beside an action what came of it."""
    action = session.get_one(Action, action_id)
    action.details = {**(action.details or {}), **details}
    session.flush()


def operator() -> str:
    """The OS user who runs this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def history(session: Session, subject: str, limit: int = 20) -> list[dict[str, Any]]:
    """What was done to ``subject``, newest first: ``[{"at", "actor", "verb", "why", "details"}]``.

    Of an app, what was done to one of its lanes too. ``at`` is an ISO instant in UTC, ``details`` a mapping.
    """
    subjects = [subject, *(f"{subject} ({lane})" for lane in Lane)]
    found = session.scalars(
        select(Action)
        .where(Action.subject.in_(subjects))
        .order_by(Action.at.desc(), Action.id.desc())
        .limit(limit)
    )
    return [
        {
            "at": one.at.isoformat(),
            "actor": one.actor,
            "verb": one.verb,
            "why": one.why,
            "details": one.details or {},
        }
        for one in found
    ]


def in_words(entry: dict[str, Any], zone: ZoneInfo) -> str:
    """An entry of `history` as a line: ``2026-11-21 10:02  ana paused: wrong price``."""
    at = datetime.fromisoformat(entry["at"]).astimezone(zone)
    told = ", ".join(
        f"{name.replace('_', ' ')} {_value(value, zone)}"
        for name, value in entry["details"].items()
        if value not in (None, "", [], 0)
    )
    why = f": {entry['why']}" if entry["why"] else ""
    verb = _DONE.get(entry["verb"], entry["verb"])
    return f"{at:%Y-%m-%d %H:%M}  {entry['actor']} {verb}" + (f" ({told})" if told else "") + why


def _value(value: Any, zone: ZoneInfo) -> str:
    if isinstance(value, str) and _INSTANT.fullmatch(value):
        return f"{datetime.fromisoformat(value).astimezone(zone):%Y-%m-%d %H:%M}"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
