"""PIX charges: one for each reference."""

from datetime import date

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from disparo.db import Base, BigId, CreatedAt, Instant


class PIXCharge(Base):
    """A request for payment. Its reference is unique per app, so that no one is asked twice."""

    __tablename__ = "pix_charges"
    __table_args__ = (
        UniqueConstraint("app_id", "reference"),
        CheckConstraint("amount_cents > 0", name="amount_cents"),
    )

    id: Mapped[BigId]
    app_id: Mapped[int] = mapped_column(ForeignKey("apps.id"))
    campaign_id: Mapped[int | None] = mapped_column(ForeignKey("campaigns.id"), index=True)
    reference: Mapped[str]
    amount_cents: Mapped[int] = mapped_column(BigInteger)
    #: The BR Code that the customer pays; None where the content brings its own.
    code: Mapped[str | None]
    txid: Mapped[str | None]
    #: The day the bill is due, which is not when the code dies.
    due_on: Mapped[date | None]
    expires_at: Mapped[Instant | None]
    paid_at: Mapped[Instant | None]
    paid_cents: Mapped[int | None] = mapped_column(BigInteger)
    end_to_end_id: Mapped[str | None]
    message_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("messages.id"))
    created_at: Mapped[CreatedAt]
