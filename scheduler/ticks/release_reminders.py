"""Reminders whose instant has come become messages, enqueued after the commit."""

from collections.abc import Callable

from sqlalchemy.orm import Session

from disparo import db, reminders
from disparo.connections import Connections


def run(connections: Connections, session: Session) -> Callable[[], None] | None:
    """One page a time."""
    made = reminders.release_due(session, db.now(session))
    if not made:
        return None

    def enqueue() -> None:
        for app_id, message_ids in made.items():
            connections.queue.send_messages(app_id, message_ids)

    return enqueue
