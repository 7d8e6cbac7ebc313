"""Recipients who must not be written to."""

from sqlalchemy import CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from disparo.db import Base, BigId, CreatedAt, Instant


class Suppression(Base):
    """An opt-out, or a number that WhatsApp does not know."""

    __tablename__ = "suppressions"
    __table_args__ = (
        CheckConstraint("scope IN ('all', 'marketing')", name="scope"),
        Index(
            "uq_suppressions_recipient",
            "recipient_key",
            "scope",
            text("coalesce(app_id, 0)"),
            unique=True,
        ),
    )

    id: Mapped[BigId]
    #: None: it counts for all apps.
    app_id: Mapped[int | None] = mapped_column(ForeignKey("apps.id"))
    recipient_key: Mapped[str]
    scope: Mapped[str]
    reason: Mapped[str]
    #: The words by which the customer opted out, as proof.
    phrase: Mapped[str | None]
    created_by: Mapped[str]
    since: Mapped[CreatedAt]
    expires_at: Mapped[Instant | None]
