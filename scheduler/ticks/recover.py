"""Put right what nobody else notices: silent jobs, and rows whose host was lost."""

from sqlalchemy.orm import Session

from disparo import db, log, recovery
from disparo.connections import Connections

logger = log.get(__name__)


def run(_connections: Connections, session: Session) -> None:
    """One page of each a time."""
    now = db.now(session)
    silent = recovery.hand_back_silent(session, now)
    expired = recovery.expire_leases(session, now)
    recovery.forget_old_workers(session)
    if silent or expired:
        logger.warning("recovered", silent_batches=silent, expired_leases=expired)
