"""Reminders of abandoned carts."""

from typing import Any

from sqlalchemy import JSON, BigInteger, CheckConstraint, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from disparo.db import Base, BigId, CreatedAt, Instant


class Reminder(Base):
    """One step of a sequence for one cart; a row that waits, cancelled when the customer buys."""

    __tablename__ = "reminders"
    __table_args__ = (
        CheckConstraint("status IN ('scheduled', 'released', 'cancelled', 'expired')", name="status"),
        # A cart abandoned again starts a new run.
        UniqueConstraint("app_id", "sequence", "key", "step", "run"),
        Index("ix_reminders_due", "due_at", postgresql_where=text("status = 'scheduled'")),
        Index("ix_reminders_key", "app_id", "key"),
        Index("ix_reminders_message_id", "message_id", postgresql_where=text("message_id IS NOT NULL")),
    )

    id: Mapped[BigId]
    app_id: Mapped[int] = mapped_column(ForeignKey("apps.id"))
    sequence: Mapped[str] = mapped_column(server_default=text("'cart'"))
    #: The shop's name of the cart.
    key: Mapped[str]
    step: Mapped[int] = mapped_column(server_default=text("1"))
    run: Mapped[int] = mapped_column(server_default=text("1"))
    lane: Mapped[str] = mapped_column(server_default=text("'marketing'"))
    recipient: Mapped[str]
    recipient_key: Mapped[str]
    content: Mapped[dict[str, Any]] = mapped_column(JSON)
    due_at: Mapped[Instant]
    status: Mapped[str] = mapped_column(server_default=text("'scheduled'"))
    #: The message that it became.
    message_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("messages.id"))
    created_at: Mapped[CreatedAt]
    #: When the customer bought.
    converted_at: Mapped[Instant | None]
