"""Pause campaigns that stop by themselves, settle cancelled ones, close those of which nothing is left, fold counters."""

from sqlalchemy.orm import Session

from disparo import campaigns, canaries, counters, db, log
from disparo.connections import Connections

logger = log.get(__name__)


def run(_connections: Connections, session: Session) -> None:
    """One page of each a time."""
    now = db.now(session)
    # First, because each second lets more of a bad campaign leave.
    for name, reason in canaries.pause_due(session):
        logger.warning("campaign_paused", campaign=name, reason=reason)
    campaigns.cancel_rest(session, now)
    counters.fold(session, now)
    # Last, because it locks the campaigns out of what is recorded of them until the commit.
    for name in campaigns.finish_done(session, now):
        logger.info("campaign_finished", campaign=name)
