"""Portfolios."""

from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from disparo.models import App, Portfolio, PortfolioRecipient


def make_portfolio(
    session: Session, *apps: App, limit: int | None = 10, name: str = "grupo", counted: bool = True
) -> Portfolio:
    """A portfolio with these apps, of which all that they have written to is counted."""
    portfolio = Portfolio(name=name, daily_limit=limit)
    session.add(portfolio)
    session.flush()
    session.execute(update(App).where(App.id.in_([app.id for app in apps])).values(portfolio_id=portfolio.id))
    if counted:
        portfolio.counted_at = portfolio.created_at
    session.flush()
    return portfolio


def make_counted(session: Session, portfolio: Portfolio, recipient_key: str, last_at: datetime) -> None:
    """A recipient that counts since ``last_at``."""
    session.add(PortfolioRecipient(portfolio_id=portfolio.id, recipient_key=recipient_key, last_at=last_at))
    session.execute(update(Portfolio).where(Portfolio.id == portfolio.id).values(used=Portfolio.used + 1))
    session.flush()


def recount(session: Session, portfolio: Portfolio) -> set[str]:
    """Recipients that count, as the rows say; ``used`` must say as many."""
    keys = set(
        session.scalars(
            select(PortfolioRecipient.recipient_key).where(PortfolioRecipient.portfolio_id == portfolio.id)
        )
    )
    used = session.execute(select(Portfolio.used).where(Portfolio.id == portfolio.id)).scalar_one()
    assert used == len(keys)
    return keys
