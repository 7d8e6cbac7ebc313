"""Businesses whose numbers share one daily budget of recipients."""

from sqlalchemy import CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from disparo.db import Base, BigId, CreatedAt, Instant


class Portfolio(Base):
    """A business portfolio: WhatsApp limits the recipients that its numbers together may begin to write to in a day."""

    __tablename__ = "portfolios"
    __table_args__ = (CheckConstraint("daily_limit > 0", name="daily_limit"),)

    id: Mapped[BigId]
    name: Mapped[str] = mapped_column(unique=True)
    #: Distinct recipients in any 24 hours; None: no limit.
    daily_limit: Mapped[int | None]
    #: Rows of ``portfolio_recipients``, kept with them in the same transactions.
    used: Mapped[int] = mapped_column(server_default=text("0"))
    #: When those were counted whom its apps had written to without counting; until then nobody new is written to.
    counted_at: Mapped[Instant | None]
    created_at: Mapped[CreatedAt]
    #: When its limit or its apps last changed.
    updated_at: Mapped[CreatedAt]


class PortfolioRecipient(Base):
    """A recipient that a portfolio with a limit has sent a template to in the last 24 hours."""

    __tablename__ = "portfolio_recipients"
    __table_args__ = (Index("ix_portfolio_recipients_last_at", "portfolio_id", "last_at"),)

    portfolio_id: Mapped[int] = mapped_column(
        ForeignKey("portfolios.id", ondelete="CASCADE"), primary_key=True
    )
    #: `disparo.phone`: both spellings of a Brazilian mobile have the same.
    recipient_key: Mapped[str] = mapped_column(primary_key=True)
    last_at: Mapped[CreatedAt]
