"""Raise the rates of tuned apps that the provider bears; the workers lower them when it refuses."""

from collections.abc import Callable

from sqlalchemy.orm import Session

from disparo import db, log, tuning
from disparo.connections import Connections

logger = log.get(__name__)


def run(connections: Connections, session: Session) -> Callable[[], None] | None:
    """Look at each tuned app; the workers are told after the commit."""
    changed = tuning.look(session, db.now(session))
    for one in changed:
        logger.info("rate_raised", app=one.app, rate=round(one.rate, 3), borne=round(one.was, 3))
    return connections.limiter.announce if changed else None
