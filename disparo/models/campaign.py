"""Campaigns, how their recipients came in, what of them is in the queue, and their counters."""

from typing import Any

from sqlalchemy import JSON, BigInteger, CheckConstraint, ForeignKey, Index, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from disparo.db import Base, BigId, BinaryJSON, CreatedAt, ExactJSON, Instant, one_of
from disparo.statuses import CampaignState, Lane, Status


class Campaign(Base):
    """One content for many recipients; content and parameters are frozen at launch."""

    __tablename__ = "campaigns"
    __table_args__ = (
        CheckConstraint(one_of("state", CampaignState), name="state"),
        CheckConstraint(one_of("lane", Lane), name="lane"),
        CheckConstraint("dedupe IN ('recipient', 'key', 'none')", name="dedupe"),
        CheckConstraint("on_unknown IN ('hold', 'resend')", name="on_unknown"),
        CheckConstraint("weight > 0", name="weight"),
        Index("ix_campaigns_app_id_state", "app_id", "state"),
        # Twice a second the scheduler asks for these few of all that ever were.
        Index("ix_campaigns_running", "id", postgresql_where=text("state = 'running'")),
    )

    id: Mapped[BigId]
    name: Mapped[str] = mapped_column(unique=True)
    app_id: Mapped[int] = mapped_column(ForeignKey("apps.id"))
    lane: Mapped[str]
    state: Mapped[str]
    #: The message as in the provider's pages, with ``{{ column }}`` in its values.
    content: Mapped[ExactJSON]
    #: ``name/language`` of the content's template: what a template-level fault stops.
    template: Mapped[str | None]
    #: sha256 of the campaign file's meaning: the same name with another content is refused.
    content_digest: Mapped[str]
    #: What makes two rows duplicates of each other.
    dedupe: Mapped[str]
    #: When messages may leave (`disparo.windows`); empty: what the app says of the lane.
    window: Mapped[str | None]
    weight: Mapped[int] = mapped_column(server_default=text("1"))
    max_per_second: Mapped[float | None]
    #: What becomes of a message of which nobody knows whether it was accepted.
    on_unknown: Mapped[str] = mapped_column(server_default=text("'hold'"))
    stop_if: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    fallback: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    #: Other settings of the campaign file: columns, normalise, raw, numbers.
    options: Mapped[BinaryJSON] = mapped_column(server_default=text("'{}'"))
    launch_at: Mapped[Instant | None]
    not_after: Mapped[Instant | None]
    #: Rows that were imported.
    total: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    #: The last message that was put into a batch; those behind it wait.
    released_to: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    #: Which content is sent now; the earlier ones are in ``campaign_contents``.
    version: Mapped[int] = mapped_column(server_default=text("1"))
    #: No more than so many of its first messages leave; then it pauses by itself. None: all of them.
    first: Mapped[int | None]
    #: Answers and failures of the time before the last resume, which ``stop_if`` does not count again.
    stop_if_from: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    pause_reason: Mapped[str | None]
    created_by: Mapped[str]
    created_at: Mapped[CreatedAt]
    launched_at: Mapped[Instant | None]
    finished_at: Mapped[Instant | None]


class CampaignContent(Base):
    """A content that a campaign had before it was amended; messages say by which one they were sent."""

    __tablename__ = "campaign_contents"

    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaigns.id", ondelete="CASCADE"), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    content: Mapped[ExactJSON]
    template: Mapped[str | None]
    content_digest: Mapped[str]
    #: Until when it was the campaign's, and who put another in its place.
    replaced_at: Mapped[CreatedAt]
    replaced_by: Mapped[str]


class Import(Base):
    """How far a recipients file has come in; the same command goes on from ``next_line``."""

    __tablename__ = "imports"
    __table_args__ = (CheckConstraint("state IN ('running', 'done')", name="state"),)

    id: Mapped[BigId]
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaigns.id"), index=True)
    file_name: Mapped[str]
    #: sha256 of the file: the same name with another file is another audience.
    digest: Mapped[str]
    next_line: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    accepted: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    rejected: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    duplicates: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    state: Mapped[str] = mapped_column(server_default=text("'running'"))
    created_at: Mapped[CreatedAt]


class ImportReject(Base):
    """A row that was refused. The row itself stands in the rejects file, not here."""

    __tablename__ = "import_rejects"

    import_id: Mapped[int] = mapped_column(ForeignKey("imports.id", ondelete="CASCADE"), primary_key=True)
    line: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    reason: Mapped[str]
    explanation: Mapped[str]


class Batch(Base):
    """A range of a campaign's messages that a job in the queue names."""

    __tablename__ = "batches"
    __table_args__ = (
        CheckConstraint("state IN ('waiting', 'released', 'done')", name="state"),
        Index("ix_batches_open", "app_id", "state", postgresql_where=text("state <> 'done'")),
        Index("ix_batches_campaign_id", "campaign_id"),
    )

    id: Mapped[BigId]
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaigns.id"))
    app_id: Mapped[int] = mapped_column(ForeignKey("apps.id"))
    first_message_id: Mapped[int] = mapped_column(BigInteger)
    last_message_id: Mapped[int] = mapped_column(BigInteger)
    size: Mapped[int]
    #: waiting: to be enqueued · released: a job names it, or a worker holds it · done: nothing left to claim
    state: Mapped[str]
    released_at: Mapped[Instant | None]
    #: The worker process that holds it, and when it last took rows.
    holder: Mapped[str | None]
    held_at: Mapped[Instant | None]


class Counter(Base):
    """Messages of a campaign per status; true together with the deltas not yet folded in."""

    __tablename__ = "counters"

    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaigns.id", ondelete="CASCADE"), primary_key=True)
    status: Mapped[str] = mapped_column(primary_key=True)
    n: Mapped[int] = mapped_column(BigInteger)


class CounterDelta(Base):
    """A change of a counter, written in the transaction that changed the rows."""

    __tablename__ = "counter_deltas"
    __table_args__ = (
        CheckConstraint(one_of("status", Status), name="status"),
        Index("ix_counter_deltas_campaign_id", "campaign_id"),
    )

    id: Mapped[BigId]
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaigns.id", ondelete="CASCADE"))
    status: Mapped[str]
    n: Mapped[int]
    at: Mapped[CreatedAt]
