"""Reminders of abandoned carts: rows that wait, and that a purchase cancels.

No job with a delay exists: on Redis it would sit unacknowledged in a worker's memory and be delivered again
after the visibility timeout.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from disparo import messages
from disparo.errors import InputError
from disparo.models import App, Message, Reminder
from disparo.phone import Phone
from disparo.statuses import Lane, Status
from disparo.whatsapp import payloads

_NEVER_LEFT = (Status.FAILED, Status.CANCELLED, Status.EXPIRED, Status.SUPPRESSED)


@dataclass(frozen=True, slots=True)
class Conversion:
    """What a purchase stopped: reminders not yet due, messages not yet claimed, and those already gone."""

    reminders: int
    messages: int
    too_late: int


def schedule(
    session: Session,
    app: App,
    key: str,
    to: Phone,
    content: dict[str, Any],
    *,
    due_at: datetime,
    sequence: str = "cart",
    step: int = 1,
    lane: str = Lane.MARKETING,
) -> Reminder:
    """Remind of the cart ``key`` at ``due_at``; called again while it waits, it moves and takes the new content.

    Works inside the caller's own transaction. A cart that was converted or reminded before starts a new run.

    Args:
      content: As `disparo.messages.compose` gives it.

    Raises:
      InputError: The key or the sequence is empty or too long.
    """
    for what, name in (("key", key), ("sequence", sequence)):
        if not (0 < len(name) <= messages.KEY_LENGTH and name.isprintable()):
            raise InputError(f"the {what} of a reminder has 1 to {messages.KEY_LENGTH} printable characters")
    reminder_id = session.execute(
        text("""
            WITH last AS (
                SELECT run, status FROM reminders
                WHERE app_id = :app_id AND sequence = :sequence AND key = :key AND step = :step
                ORDER BY run DESC LIMIT 1)
            INSERT INTO reminders (app_id, sequence, key, step, run, lane, recipient, recipient_key, content, due_at)
            VALUES (:app_id, :sequence, :key, :step,
                coalesce((SELECT run + CASE WHEN status = 'scheduled' THEN 0 ELSE 1 END FROM last), 1),
                :lane, :recipient, :recipient_key, CAST(:content AS json), :due_at)
            ON CONFLICT (app_id, sequence, key, step, run) DO UPDATE SET
                due_at = excluded.due_at, content = excluded.content, lane = excluded.lane,
                recipient = excluded.recipient, recipient_key = excluded.recipient_key
            WHERE reminders.status = 'scheduled'
            RETURNING id"""),
        {
            "app_id": app.id,
            "sequence": sequence,
            "key": key,
            "step": step,
            "lane": lane,
            "recipient": to.digits,
            "recipient_key": to.key,
            "content": messages.as_json(content),
            "due_at": due_at,
        },
    ).scalar()
    if reminder_id is None:
        # It was released between our look and our write: this is the cart's next run.
        return schedule(
            session, app, key, to, content, due_at=due_at, sequence=sequence, step=step, lane=lane
        )
    return session.get_one(Reminder, reminder_id, populate_existing=True)


def convert(session: Session, app: App, key: str, now: datetime) -> Conversion:
    """The customer bought: cancel what is left of the cart's reminders, in all sequences."""
    stopped = session.execute(
        text("""
            UPDATE reminders SET status = 'cancelled', converted_at = :now
            WHERE app_id = :app_id AND key = :key AND status = 'scheduled' RETURNING id"""),
        {"app_id": app.id, "key": key, "now": now},
    ).all()
    released = session.execute(
        text("""
            UPDATE reminders SET converted_at = :now
            WHERE app_id = :app_id AND key = :key AND status = 'released' AND converted_at IS NULL
            RETURNING id, message_id"""),
        {"app_id": app.id, "key": key, "now": now},
    ).all()
    cancelled = set(messages.cancel_pending(session, [row.message_id for row in released], now))
    ids = [row.id for row in released if row.message_id in cancelled]
    session.execute(text("UPDATE reminders SET status = 'cancelled' WHERE id = ANY(:ids)"), {"ids": ids})
    # A message that failed or expired never reached the customer, so there was nothing to be late for.
    gone = session.scalars(
        select(func.count()).where(
            Message.id.in_([row.message_id for row in released]), Message.status.not_in(_NEVER_LEFT)
        )
    ).one()
    return Conversion(len(stopped), len(cancelled), gone)


def release_due(session: Session, now: datetime, *, page: int = 500) -> dict[int, list[int]]:
    """Make messages of a page of due reminders, for the next release to name; app → message ids."""
    due = session.execute(
        text("""
            SELECT id, app_id, lane, recipient, recipient_key, CAST(content AS text) AS content FROM reminders
            WHERE status = 'scheduled' AND due_at <= :now ORDER BY due_at LIMIT :page FOR UPDATE SKIP LOCKED"""),
        {"now": now, "page": page},
    ).all()
    made: dict[int, list[int]] = {}
    for row in due:
        _, message = payloads.split(messages.from_json(row.content))
        message_id = session.execute(
            text("""
                INSERT INTO messages (app_id, lane, recipient, recipient_key, content, template, due_at)
                VALUES (:app_id, :lane, :recipient, :recipient_key, CAST(:content AS json), :template, :now)
                RETURNING id"""),
            {
                "app_id": row.app_id,
                "lane": row.lane,
                "recipient": row.recipient,
                "recipient_key": row.recipient_key,
                "content": row.content,
                "template": payloads.template_name(message),
                "now": now,
            },
        ).scalar_one()
        session.execute(
            text("UPDATE reminders SET status = 'released', message_id = :message_id WHERE id = :id"),
            {"message_id": message_id, "id": row.id},
        )
        made.setdefault(row.app_id, []).append(message_id)
    return made


def listing(session: Session, app: App | None = None, *, limit: int = 1000) -> list[dict[str, Any]]:
    """The newest reminders, with what became of each."""
    rows = session.execute(
        text("""
            SELECT r.id, a.name AS app, r.sequence, r.key, r.step, r.run, r.status, r.due_at, r.recipient,
                r.message_id, r.converted_at, m.status AS message_state
            FROM reminders r JOIN apps a ON a.id = r.app_id LEFT JOIN messages m ON m.id = r.message_id
            WHERE CAST(:app_id AS bigint) IS NULL OR r.app_id = :app_id ORDER BY r.id DESC LIMIT :limit"""),
        {"app_id": app.id if app else None, "limit": limit},
    ).mappings()
    return [
        {
            "id": row["id"],
            "app": row["app"],
            "sequence": row["sequence"],
            "key": row["key"],
            "step": row["step"],
            "run": row["run"],
            "to": row["recipient"],
            "state": row["status"],
            "due_at": row["due_at"].isoformat(),
            "converted_at": row["converted_at"].isoformat() if row["converted_at"] else None,
            "message_id": row["message_id"],
            "message_state": row["message_state"],
        }
        for row in rows
    ]
