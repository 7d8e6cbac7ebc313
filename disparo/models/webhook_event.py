"""The inbox of the provider's events."""

from sqlalchemy import Index, text
from sqlalchemy.orm import Mapped, mapped_column

from disparo.db import Base, BigId, BinaryJSON, CreatedAt, Instant


class WebhookEvent(Base):
    """One event as it came; applied later, in groups."""

    __tablename__ = "webhook_events"
    __table_args__ = (Index("ix_webhook_events_waiting", "id", postgresql_where=text("applied_at IS NULL")),)

    id: Mapped[BigId]
    #: Id, status and timestamp: an event that comes twice is one.
    key: Mapped[str] = mapped_column(unique=True)
    payload: Mapped[BinaryJSON]
    received_at: Mapped[CreatedAt]
    applied_at: Mapped[Instant | None]
