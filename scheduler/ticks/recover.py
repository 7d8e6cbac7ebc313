"""Put right what nobody else notices: silent jobs, and rows whose host was lost."""

from sqlalchemy.orm import Session

from disparo import db, log, recovery, unknowns
from disparo.connections import Connections
from disparo.errors import RedisUnavailable
from disparo.queue import BULK, URGENT

logger = log.get(__name__)


def run(connections: Connections, session: Session) -> None:
    """One page of each a time."""
    # Asked before anything is locked: an absent Redis may take its time to be absent.
    try:
        urgent_empty, bulk_empty = connections.queue.is_empty(URGENT), connections.queue.is_empty(BULK)
    except RedisUnavailable:
        urgent_empty = bulk_empty = False
    now = db.now(session)
    if recovery.notice_clock_set_back(session, now):
        logger.warning("clock_set_back", hint="what was due before is due now; look after PostgreSQL's clock")
    lost = recovery.release_lost(session, urgent_empty, bulk_empty, now)
    silent = recovery.hand_back_silent(session, now)
    expired = recovery.expire_leases(session, now)
    resent = unknowns.resend_unknowns(session, now)
    recovery.forget_old_workers(session)
    if lost or silent or expired or resent:
        logger.warning(
            "recovered", lost_jobs=lost, silent_batches=silent, expired_leases=expired, resent_unknowns=resent
        )
