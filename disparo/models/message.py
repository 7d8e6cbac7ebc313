"""Messages, and what went wrong with their attempts."""

from typing import Any

from sqlalchemy import JSON, BigInteger, CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from disparo.db import Base, BigId, CreatedAt, Instant, one_of
from disparo.statuses import Lane, Status


class Message(Base):
    """One message to one recipient: the row is the truth, a job in the queue only says "look"."""

    __tablename__ = "messages"
    __table_args__ = (
        CheckConstraint(one_of("status", Status), name="status"),
        CheckConstraint(one_of("lane", Lane), name="lane"),
        # Another campaign sends it now: here it may never leave again, whoever forgets to look.
        CheckConstraint("moved_to IS NULL OR status NOT IN ('pending', 'sending')", name="moved_to"),
        # Idempotency is this constraint, not a look before the insert.
        Index(
            "uq_messages_app_id_key", "app_id", "key", unique=True, postgresql_where=text("key IS NOT NULL")
        ),
        Index(
            "uq_messages_campaign_id_dedupe_key",
            "campaign_id",
            "dedupe_key",
            unique=True,
            postgresql_where=text("dedupe_key IS NOT NULL"),
        ),
        Index("ix_messages_pending", "campaign_id", "id", postgresql_where=text("status = 'pending'")),
        # What a batch claims and what follows it, in the order of the file: apart from what is due by itself, of which
        # a resend may put a million in the way.
        Index(
            "ix_messages_in_turn",
            "campaign_id",
            "id",
            postgresql_where=text("status = 'pending' AND due_at IS NULL"),
        ),
        # What is due by itself: single messages, retries, rows that were put back; by campaign, because of one that is
        # held a million may be due.
        Index(
            "ix_messages_due",
            "app_id",
            "campaign_id",
            "lane",
            "due_at",
            "id",
            postgresql_where=text("status = 'pending' AND due_at IS NOT NULL"),
        ),
        # What jobs in the queue name by id.
        Index(
            "ix_messages_released",
            "app_id",
            "released_at",
            postgresql_where=text("status = 'pending' AND released_at IS NOT NULL"),
        ),
        Index("ix_messages_sending", "claimed_at", postgresql_where=text("status = 'sending'")),
        Index(
            "ix_messages_undecided", "campaign_id", postgresql_where=text("status IN ('sending', 'unknown')")
        ),
        Index(
            "ix_messages_not_after",
            "not_after",
            postgresql_where=text("status = 'pending' AND not_after IS NOT NULL"),
        ),
        Index("ix_messages_failed", "campaign_id", "code", postgresql_where=text("status = 'failed'")),
        # Not unique: a stand-in may answer every request with one id, and no answer may fail a whole group.
        Index("ix_messages_gs_id", "gs_id", postgresql_where=text("gs_id IS NOT NULL")),
        Index("ix_messages_wamid", "wamid", postgresql_where=text("wamid IS NOT NULL")),
        Index("ix_messages_recipient", "app_id", "recipient_key"),
    )

    id: Mapped[BigId]
    app_id: Mapped[int] = mapped_column(ForeignKey("apps.id"))
    campaign_id: Mapped[int | None] = mapped_column(ForeignKey("campaigns.id"))
    lane: Mapped[str]
    status: Mapped[str] = mapped_column(server_default=text("'pending'"))
    #: Where it goes, as it was given: digits with country code, without ``+``.
    recipient: Mapped[str]
    #: What recipients are compared by: both spellings of a Brazilian mobile have the same.
    recipient_key: Mapped[str]
    #: The producer's own name of the message, unique per app.
    key: Mapped[str | None]
    #: What makes it a duplicate within its campaign; None where the campaign allows any.
    dedupe_key: Mapped[str | None]
    #: Line of the recipients file.
    line: Mapped[int | None] = mapped_column(BigInteger)
    #: The row's columns, for the campaign's content.
    params: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    #: A content of its own, for a message outside a campaign.
    content: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    #: ``name/language`` of its own content's template.
    template: Mapped[str | None]
    #: sha256 of recipient and content: the same key with another is refused.
    content_digest: Mapped[str | None]
    #: Not before; None: in its turn within the campaign.
    due_at: Mapped[Instant | None]
    #: Not later: what is still pending then expires.
    not_after: Mapped[Instant | None]
    #: When a job last named it by id.
    released_at: Mapped[Instant | None]
    #: Attempts spent: requests that may have reached the provider or failed, throttles left out.
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    #: Attempts that no longer count against its tries, since a person had it tried anew.
    forgiven: Mapped[int] = mapped_column(server_default=text("0"))
    #: The version of its campaign's content that it was last claimed with.
    version: Mapped[int | None]
    #: The campaign that sends to its recipient in its place (``launch --from-campaign``).
    moved_to: Mapped[int | None] = mapped_column(BigInteger)
    #: How often it was claimed: which claim an answer belongs to, and what stops a row that kills its worker.
    claims: Mapped[int] = mapped_column(server_default=text("0"))
    #: The worker that holds its job or claimed it last.
    claimed_by: Mapped[str | None]
    claimed_at: Mapped[Instant | None]
    #: The provider's id of the message.
    gs_id: Mapped[str | None]
    #: WhatsApp's id, learnt from the first status webhook.
    wamid: Mapped[str | None]
    wa_id: Mapped[str | None]
    #: Stable code of the last refusal, and the provider's words.
    code: Mapped[str | None]
    reason: Mapped[str | None]
    http_status: Mapped[int | None]
    created_at: Mapped[CreatedAt]
    accepted_at: Mapped[Instant | None]
    enqueued_at: Mapped[Instant | None]
    sent_at: Mapped[Instant | None]
    delivered_at: Mapped[Instant | None]
    read_at: Mapped[Instant | None]
    failed_at: Mapped[Instant | None]
    #: When it became unknown, cancelled, expired or suppressed.
    settled_at: Mapped[Instant | None]
    #: How an unknown one was decided: webhook, recipient, operator.
    matched_by: Mapped[str | None]


class SendError(Base):
    """One attempt that was not plainly accepted, or was accepted, reported failed and tried anew.

    The common case costs no row.
    """

    __tablename__ = "send_errors"
    __table_args__ = (
        Index("ix_send_errors_message_id", "message_id"),
        Index("ix_send_errors_gs_id", "gs_id", postgresql_where=text("gs_id IS NOT NULL")),
        Index("ix_send_errors_wamid", "wamid", postgresql_where=text("wamid IS NOT NULL")),
    )

    id: Mapped[BigId]
    message_id: Mapped[int] = mapped_column(ForeignKey("messages.id", ondelete="CASCADE"))
    attempt: Mapped[int]
    at: Mapped[CreatedAt]
    verdict: Mapped[str]
    http_status: Mapped[int | None]
    code: Mapped[str]
    #: The provider's words, cut and redacted.
    text: Mapped[str]
    #: The ids that the provider had given the attempt, since the message has those of a later one, or none.
    gs_id: Mapped[str | None]
    wamid: Mapped[str | None]
