"""Tell people what they should hear of, beside the ticks: whoever is slow to listen holds up nothing."""

import threading
from collections.abc import Callable

from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from disparo import db, log, notifications, notifier
from disparo.connections import Connections
from disparo.errors import DisparoError
from disparo.notifications import Due
from disparo.notifier import Hook
from disparo.settings import load

#: Held while this process tells something, by a thread that no tick waits for.
_telling = threading.Lock()

logger = log.get(__name__)


def run(connections: Connections, session: Session) -> Callable[[], None] | None:
    """Note what is unknown, let go of what is stale, and have the rest told after the commit."""
    now = db.now(session)
    notifications.forget(session, now)
    for notification_id, event, error in notifications.give_up(session, now):
        logger.warning("notification_given_up", notification_id=notification_id, about=event, error=error)
    notifications.add_unknowns(session, now)
    settings = connections.settings
    if settings.notify_url is None and settings.notify_command is None:
        return None
    return (lambda: _start(connections)) if notifications.is_due(session, now) else None


def _start(connections: Connections) -> None:
    if _telling.acquire(blocking=False):
        try:
            threading.Thread(target=_tell_all, args=(connections,), name="notify", daemon=True).start()
        except RuntimeError:  # no more threads; the next tick tries again
            _telling.release()


def _tell_all(connections: Connections) -> None:
    """Tell what is due, one after the other; after one that was not taken, the next tick goes on."""
    try:
        while (due := _take(connections)) and _tell(connections, due):
            pass
    except (DisparoError, DBAPIError) as err:
        logger.warning("telling_failed", error=" ".join(str(err).split())[:300])
    finally:
        _telling.release()


def _take(connections: Connections) -> Due | None:
    with connections.session() as session:
        return notifications.take(session, db.now(session))


def _tell(connections: Connections, due: Due) -> bool:
    try:
        error = notifier.tell(_hook(connections), due.document())
    except DisparoError as err:
        error = str(err)
    if error and due.attempts == 1:
        logger.warning("not_told", notification_id=due.id, about=due.event, error=error)
    with connections.session() as session:
        notifications.note(session, due.id, error, db.now(session))
    return error is None


def _hook(connections: Connections) -> Hook:
    """As the settings have it now: the file that holds the address may have changed."""
    settings = load(connections.environment)
    return Hook(
        url=settings.notify_url.get_secret_value() if settings.notify_url else None,
        command=settings.notify_command,
        ca_bundle=str(settings.ca_bundle) if settings.ca_bundle else None,
        proxy=settings.proxy.get_secret_value() if settings.proxy else None,
    )
