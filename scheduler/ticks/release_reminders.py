"""Reminders whose instant has come become messages, enqueued after the commit."""

from collections.abc import Callable

from sqlalchemy.orm import Session

from disparo import batches, db, reminders
from disparo.connections import Connections
from disparo.errors import RedisUnavailable


def run(connections: Connections, session: Session) -> Callable[[], None] | None:
    """One page a time."""
    made = reminders.release_due(session, db.now(session))
    if not made:
        return None

    def enqueue() -> None:
        try:
            for app_id, message_ids in made.items():
                connections.queue.send_messages(app_id, message_ids)
        except RedisUnavailable:
            # Named again as soon as Redis is back, not when they have been silent for a minute.
            with connections.session() as again:
                batches.hand_back(again, [], [message_id for ids in made.values() for message_id in ids])
            raise

    return enqueue
