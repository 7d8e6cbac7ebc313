"""What people should hear of: written beside the change itself, told afterwards by the scheduler."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from disparo.models import Notification

#: What could not be told for so long is given up: it is no news any more.
TOLD_WITHIN = timedelta(days=1)
#: How long a notification is kept, told or not.
KEPT = timedelta(days=7)
#: What is due so much later is forgotten before.
_NEVER = 10 * KEPT
#: The wait before it is told again is 15 s at first, then 45 s, 2, 7, 20 minutes and an hour, each up to a
#: quarter longer. The first is longer than a telling may take, so that it is never told twice at once.
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 15, 3600
#: Unknown messages outside campaigns are told once in this time per app.
UNKNOWN_EVERY = timedelta(hours=1)
#: What became unknown is committed by then, and so seen in one look and no other.
_COMMITTED_WITHIN = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Due:
    """A notification whose time has come, as it is told."""

    id: int
    event: str
    at: datetime
    installation: UUID
    subject: str
    text: str
    details: dict[str, Any] | None
    #: This telling included.
    attempts: int

    def document(self) -> dict[str, Any]:
        """What the receiver gets. ``text`` stands by itself, since chats show that alone."""
        return {
            "id": self.id,
            "event": self.event,
            "at": self.at.isoformat(),
            "installation": str(self.installation),
            "subject": self.subject,
            "text": self.text,
            "details": self.details or {},
        }


def add(
    session: Session, event: str, subject: str, sentence: str, *, once: str | None = None, **details: Any
) -> None:
    """Have something told, if the caller's transaction commits.

    Args:
      event: Which kind of thing it is: ``app_paused``, ``campaign_finished``, …
      subject: ``app:loja``, ``campaign:black-friday``.
      sentence: What happened, for a person.
      once: A name under which it is told only once.
    """
    if once is None:
        session.add(Notification(event=event, subject=subject, sentence=sentence, details=details or None))
        return
    session.execute(
        insert(Notification)
        .values(event=event, subject=subject, sentence=sentence, details=details or None, once=once)
        .on_conflict_do_nothing(index_elements=["once"], index_where=text("once IS NOT NULL"))
    )


# -- telling -----------------------------------------------------------------------------------------------


def is_due(session: Session, now: datetime) -> bool:
    """Whether something is to be told now."""
    found = session.execute(
        text("SELECT EXISTS (SELECT 1 FROM notifications WHERE told_at IS NULL AND due_at <= :now)"),
        {"now": now},
    )
    return bool(found.scalar_one())


def take(session: Session, now: datetime) -> Due | None:
    """The next notification to be told, which nobody else gets until its wait is over; None: nothing is due.

    The caller commits before it tells, so that a telling that is cut off is made up for later: each is told
    at least once, and may be told again.
    """
    row = session.execute(
        text("""
            UPDATE notifications n SET attempts = attempts + 1, due_at = :now + make_interval(secs =>
                least(:longest, :first * power(3, attempts)) * (1 + random() / 4))
            FROM installation i
            WHERE n.id = (
                SELECT id FROM notifications WHERE told_at IS NULL AND due_at <= :now
                ORDER BY due_at, id LIMIT 1 FOR UPDATE SKIP LOCKED)
            RETURNING n.id, event, at, i.id AS installation, subject, sentence, details, attempts"""),
        {"now": now, "first": FIRST_WAIT_SECONDS, "longest": LONGEST_WAIT_SECONDS},
    ).one_or_none()
    return Due(*row) if row else None


def note(session: Session, notification_id: int, error: str | None, now: datetime) -> None:
    """Write down that a notification was told, or why not."""
    session.execute(
        text("""
            UPDATE notifications SET error = :error,
                told_at = CASE WHEN CAST(:error AS text) IS NULL THEN CAST(:now AS timestamptz) END
            WHERE id = :id AND told_at IS NULL"""),
        {"id": notification_id, "error": error, "now": now},
    )


def give_up(session: Session, now: datetime) -> Sequence[tuple[int, str, str]]:
    """Let be what could not be told within `TOLD_WITHIN`; (id, event, error) of each that was tried.

    It is kept with its error. Where nobody is to be told, nothing piles up by this, and who is told from now
    on hears nothing stale.
    """
    rows = session.execute(
        text("""
            UPDATE notifications SET due_at = at + CAST(:never AS interval)
            WHERE told_at IS NULL AND due_at < at + CAST(:never AS interval) AND at <= :before
            RETURNING id, event, error"""),
        {"never": _NEVER, "before": now - TOLD_WITHIN},
    ).all()
    return [(row.id, row.event, row.error) for row in rows if row.error]


def forget(session: Session, now: datetime, *, page: int = 100) -> None:
    """Delete a page of notifications older than `KEPT`; what still holds is then told anew."""
    session.execute(
        text("""
            DELETE FROM notifications
            WHERE id IN (SELECT id FROM notifications ORDER BY id LIMIT :page) AND at <= :before"""),
        {"page": page, "before": now - KEPT},
    )


# -- unknown messages --------------------------------------------------------------------------------------

_OF_CAMPAIGNS = text("""
    SELECT c.id, c.name, sum(d.n) AS n FROM campaigns c
    CROSS JOIN LATERAL (
        SELECT n FROM counters WHERE campaign_id = c.id AND status = 'unknown'
        UNION ALL SELECT n FROM counter_deltas WHERE campaign_id = c.id AND status = 'unknown') AS d
    WHERE c.state IN ('running', 'paused') OR (c.state = 'cancelled' AND c.finished_at > :lately)
    GROUP BY c.id HAVING sum(d.n) > 0 ORDER BY c.id""")
# The next time that it has unknown messages is another one.
_DECIDED = text("""
    UPDATE notifications SET once = NULL
    WHERE event = 'unknown' AND once IS NOT NULL AND once <> ALL(:names)""")
_SINGLE = text("""
    SELECT a.name, count(*) AS n FROM apps a
    CROSS JOIN LATERAL (
        SELECT max(at) AS at FROM notifications WHERE event = 'unknown' AND subject = 'app:' || a.name) AS told
    JOIN messages m ON m.campaign_id IS NULL AND m.status = 'unknown' AND m.app_id = a.id
        AND m.settled_at > coalesce(told.at - CAST(:slack AS interval), '-infinity')
        AND m.settled_at <= CAST(:now AS timestamptz) - CAST(:slack AS interval)
    WHERE told.at IS NULL OR told.at <= :before
    GROUP BY a.id""")


def add_unknowns(session: Session, now: datetime) -> None:
    """Have it told that messages became unknown. One caller at a time (the tick's lock).

    Once per campaign, until all of its unknown messages are decided; for messages outside campaigns once in
    `UNKNOWN_EVERY` per app, and only when there are new ones.
    """
    names = []
    for row in session.execute(_OF_CAMPAIGNS, {"lately": now - TOLD_WITHIN}).all():
        names.append(f"unknown:campaign:{row.id}")
        n = int(row.n)
        add(
            session,
            "unknown",
            f"campaign:{row.name}",
            f"{row.name}: of {_messages(n)} nobody knows whether they were sent. "
            f"Webhooks may tell; else decide with `disparo campaign resolve {row.name}`.",
            once=names[-1],
            messages=n,
        )
    session.execute(_DECIDED, {"names": names})
    values = {"now": now, "before": now - UNKNOWN_EVERY, "slack": _COMMITTED_WITHIN}
    for row in session.execute(_SINGLE, values).all():
        add(
            session,
            "unknown",
            f"app:{row.name}",
            f"{row.name}: of {_messages(row.n)} outside campaigns nobody knows whether they were sent. "
            "Webhooks may tell; else decide about them one by one.",
            messages=row.n,
        )


def _messages(n: int) -> str:
    return f"{n:,} message" + ("" if n == 1 else "s")
