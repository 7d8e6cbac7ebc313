"""Senders, and what holds them."""

from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from disparo.db import Base, BigId, BinaryJSON, CreatedAt, Instant


class App(Base):
    """A sender: one WhatsApp number at the provider, under a name of our own."""

    __tablename__ = "apps"
    __table_args__ = (
        CheckConstraint("rate > 0", name="rate"),
        CheckConstraint("token_kind IN ('static', 'partner', 'universal')", name="token_kind"),
        CheckConstraint("token_scheme IN ('raw', 'bearer')", name="token_scheme"),
        CheckConstraint("tuned_rate > 0", name="tuned_rate"),
        CheckConstraint("pair_seconds >= 0", name="pair_seconds"),
        CheckConstraint("pair_burst BETWEEN 1 AND 45", name="pair_burst"),
    )

    id: Mapped[BigId]
    name: Mapped[str] = mapped_column(unique=True)
    #: The provider's id of the app: the APP_ID of the endpoint's path.
    gs_app_id: Mapped[str]
    #: Requests per second over all workers.
    rate: Mapped[float]
    #: The provider's address, where it is not that of the settings.
    base_url: Mapped[str | None]
    #: Lane → when it may send (`disparo.windows`); a lane left out sends always.
    windows: Mapped[BinaryJSON] = mapped_column(server_default=text("'{}'"))
    #: Grows with each resume; a fault of a request that started before the last one stops nothing.
    epoch: Mapped[int] = mapped_column(server_default=text("0"))
    #: A status that names no message may be taken for that of the recipient's only unknown one; off where other
    #: systems send through the same number.
    adopts_statuses: Mapped[bool] = mapped_column(server_default=text("true"))
    #: Where its token comes from (`disparo.tokens`): static, partner or universal.
    token_kind: Mapped[str] = mapped_column(server_default=text("'static'"))
    #: How the token stands in the ``Authorization`` header, where it is not as its kind has it.
    token_scheme: Mapped[str | None]
    #: Whether the rate that the provider bears is looked for (`disparo.tuning`); never above ``rate``.
    tuning: Mapped[bool] = mapped_column(server_default=text("false"))
    #: The rate that was found, in requests per second, and what it was found by.
    tuned_rate: Mapped[float | None]
    tuning_state: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    #: Seconds between two messages to one recipient (0: not paced), and how many may borrow from the time ahead.
    pair_seconds: Mapped[float] = mapped_column(server_default=text("6"))
    pair_burst: Mapped[int] = mapped_column(server_default=text("1"))
    #: The business whose daily budget it shares with its other numbers.
    portfolio_id: Mapped[int | None] = mapped_column(ForeignKey("portfolios.id"))
    created_at: Mapped[CreatedAt]
    updated_at: Mapped[CreatedAt]


class Stop(Base):
    """Why an app, one of its lanes or one of its templates may not send; in force until ``ended_at``."""

    __tablename__ = "stops"
    __table_args__ = (
        CheckConstraint("scope IN ('app', 'lane', 'template')", name="scope"),
        Index(
            "uq_stops_in_force",
            "app_id",
            "scope",
            "key",
            unique=True,
            postgresql_where=text("ended_at IS NULL"),
        ),
    )

    id: Mapped[BigId]
    app_id: Mapped[int] = mapped_column(ForeignKey("apps.id"))
    scope: Mapped[str]
    #: The lane, or the template as ``name/language``; empty for the whole app.
    key: Mapped[str] = mapped_column(server_default=text("''"))
    #: Stable code of the fault, or ``operator``.
    code: Mapped[str]
    reason: Mapped[str]
    hint: Mapped[str] = mapped_column(server_default=text("''"))
    #: The message whose refusal tripped it.
    message_id: Mapped[int | None]
    since: Mapped[CreatedAt]
    #: When one real message is let through to see whether the fault is over; None: a person ends it.
    probe_at: Mapped[Instant | None]
    #: How many were let through by now, and the last of them, which no stop but this one holds.
    probes: Mapped[int] = mapped_column(server_default=text("0"))
    probe_message_id: Mapped[int | None] = mapped_column(BigInteger)
    ended_at: Mapped[Instant | None]
    #: Who ended it: a person, or ``disparo`` after a probe.
    ended_by: Mapped[str | None]
