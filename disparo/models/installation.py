"""The installation itself: who it is, who did what, and which workers live."""

from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Index, LargeBinary, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from disparo.db import Base, BigId, CreatedAt, Instant


class Installation(Base):
    """One row: which installation this database belongs to, and how far it has sent."""

    __tablename__ = "installation"
    __table_args__ = (
        CheckConstraint("singleton", name="singleton"),
        CheckConstraint("max_per_second > 0", name="max_per_second"),
    )

    singleton: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    id: Mapped[UUID] = mapped_column(server_default=text("gen_random_uuid()"))
    #: Grows while sending; mirrored outside the database, it tells a restored backup from the present.
    send_epoch: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    created_at: Mapped[CreatedAt]
    #: The latest instant that the scheduler saw on this database's clock.
    clock_at: Mapped[Instant | None]
    #: The oldest revision whose code still runs on these tables; moved by a revision that removes something.
    oldest_code: Mapped[str] = mapped_column(server_default=text("'0001'"))
    #: Requests per second of all apps together; None: no limit but theirs.
    max_per_second: Mapped[float | None]


class Action(Base):
    """Who did what, when and why."""

    __tablename__ = "actions"
    __table_args__ = (Index("ix_actions_subject", "subject", "at"),)

    id: Mapped[BigId]
    at: Mapped[CreatedAt]
    #: The OS user, an API key's name, or ``disparo`` itself.
    actor: Mapped[str]
    #: launch, pause, resume, cancel, …
    verb: Mapped[str]
    #: ``app:loja``, ``campaign:black-friday``.
    subject: Mapped[str]
    why: Mapped[str | None]
    details: Mapped[dict[str, Any] | None] = mapped_column(JSONB)


class Worker(Base):
    """A process that sends; alive while ``seen_at`` moves."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(primary_key=True)
    host: Mapped[str]
    pid: Mapped[int]
    version: Mapped[str]
    queues: Mapped[str]
    started_at: Mapped[CreatedAt]
    seen_at: Mapped[Instant]
    #: App id → cause (`disparo.statuses.LimitedBy`) → seconds of the last few that the app's work here waited for it.
    pace: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    #: App id → answers since its start that were no throttles; of apps whose rate is looked for (`disparo.tuning`).
    answered: Mapped[dict[str, Any] | None] = mapped_column(JSONB)


class Token(Base):
    """A token that was fetched from the provider, encrypted; one row for each key that processes share."""

    __tablename__ = "tokens"

    #: ``app:<id>``, or the account that app tokens are fetched with.
    subject: Mapped[str] = mapped_column(primary_key=True)
    #: Fingerprint of the key that it is encrypted with.
    key_id: Mapped[str] = mapped_column(primary_key=True)
    ciphertext: Mapped[bytes] = mapped_column(LargeBinary)
    fetched_at: Mapped[CreatedAt]
    #: None: the provider names no end.
    expires_at: Mapped[Instant | None]


class Notification(Base):
    """Something that a person should hear of, until it is told or given up."""

    __tablename__ = "notifications"
    __table_args__ = (
        Index("ix_notifications_due", "due_at", postgresql_where=text("told_at IS NULL")),
        Index("uq_notifications_once", "once", unique=True, postgresql_where=text("once IS NOT NULL")),
    )

    id: Mapped[BigId]
    at: Mapped[CreatedAt]
    #: ``app_paused``, ``campaign_finished``, …
    event: Mapped[str]
    #: ``app:loja``, ``campaign:black-friday``.
    subject: Mapped[str]
    sentence: Mapped[str]
    details: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    #: What is told only once carries a name of its own.
    once: Mapped[str | None]
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    #: When it is told, or told again.
    due_at: Mapped[CreatedAt]
    told_at: Mapped[Instant | None]
    #: Why it could not be told the last time.
    error: Mapped[str | None]
