"""Close campaigns of which nothing is left, settle the rest of cancelled ones, fold counters."""

from sqlalchemy.orm import Session

from disparo import campaigns, counters, db, log
from disparo.connections import Connections

logger = log.get(__name__)


def run(_connections: Connections, session: Session) -> None:
    """One page of each a time."""
    now = db.now(session)
    campaigns.cancel_rest(session, now)
    for name in campaigns.finish_done(session, now):
        logger.info("campaign_finished", campaign=name)
    counters.fold(session, now)
