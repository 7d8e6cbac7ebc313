"""Daily budgets: count whom a new one finds, and let go of those whose 24 hours are over."""

from sqlalchemy.orm import Session

from disparo import db, log, portfolios
from disparo.connections import Connections

logger = log.get(__name__)


def run(_connections: Connections, session: Session) -> None:
    """One page of each a time, apart from the other ticks: claims wait for the portfolios that this has locked."""
    now = db.now(session)
    portfolios.forget_old(session, now)
    for name in portfolios.count_due(session, now):
        logger.info("budget_counted", portfolio=name)
