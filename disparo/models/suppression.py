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
    #: Of `disparo.phone`; or ``country:<E.164 calling code>``, with scope ``all``: every number of it.
    recipient_key: Mapped[str]
    #: ``marketing``: other lanes still send.
    scope: Mapped[str]
    #: A stable word (``opted_out``, ``not_on_whatsapp``, …), or what a person gave.
    reason: Mapped[str]
    #: The words by which the customer opted out, as proof.
    phrase: Mapped[str | None]
    #: A person, or the message whose refusal it follows from.
    created_by: Mapped[str]
    since: Mapped[CreatedAt]
    #: None: until it is removed.
    expires_at: Mapped[Instant | None]
