"""what stops, probes, amended contents, fetched tokens and notifications need

The previous code must still run on the new schema: add before use, remove after the last use.

Revision: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def _now(name: str) -> sa.Column[sa.DateTime]:
    return sa.Column(name, sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False)


def _index_what_is_due(*columns: str) -> None:
    op.drop_index("ix_messages_due", table_name="messages")
    op.create_index(
        "ix_messages_due",
        "messages",
        list(columns),
        unique=False,
        postgresql_where=sa.text("status = 'pending' AND due_at IS NOT NULL"),
    )


def upgrade() -> None:
    op.add_column(
        "apps", sa.Column("token_kind", sa.Text(), server_default=sa.text("'static'"), nullable=False)
    )
    op.add_column("apps", sa.Column("token_scheme", sa.Text(), nullable=True))
    op.create_check_constraint(
        op.f("ck_apps_token_kind"), "apps", "token_kind IN ('static', 'partner', 'universal')"
    )
    op.create_check_constraint(op.f("ck_apps_token_scheme"), "apps", "token_scheme IN ('raw', 'bearer')")
    op.add_column("stops", sa.Column("probe_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("stops", sa.Column("probes", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("stops", sa.Column("probe_message_id", sa.BigInteger(), nullable=True))
    op.add_column("stops", sa.Column("ended_by", sa.Text(), nullable=True))
    op.add_column(
        "campaigns", sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False)
    )
    op.add_column("campaigns", sa.Column("first", sa.Integer(), nullable=True))
    op.add_column("campaigns", sa.Column("stop_if_from", postgresql.JSONB(), nullable=True))
    op.create_table(
        "campaign_contents",
        sa.Column("campaign_id", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.Column("template", sa.Text(), nullable=True),
        sa.Column("content_digest", sa.Text(), nullable=False),
        _now("replaced_at"),
        sa.Column("replaced_by", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["campaign_id"],
            ["campaigns.id"],
            name=op.f("fk_campaign_contents_campaign_id_campaigns"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("campaign_id", "version", name=op.f("pk_campaign_contents")),
    )
    op.add_column(
        "messages", sa.Column("forgiven", sa.Integer(), server_default=sa.text("0"), nullable=False)
    )
    op.add_column("messages", sa.Column("version", sa.Integer(), nullable=True))
    for name in ("gs_id", "wamid"):
        op.add_column("send_errors", sa.Column(name, sa.Text(), nullable=True))
        op.create_index(
            f"ix_send_errors_{name}",
            "send_errors",
            [name],
            unique=False,
            postgresql_where=sa.text(f"{name} IS NOT NULL"),
        )
    op.add_column("messages", sa.Column("moved_to", sa.BigInteger(), nullable=True))
    _index_what_is_due("app_id", "campaign_id", "lane", "due_at", "id")
    op.create_index(
        "ix_reminders_message_id",
        "reminders",
        ["message_id"],
        unique=False,
        postgresql_where=sa.text("message_id IS NOT NULL"),
    )
    op.create_check_constraint(
        op.f("ck_messages_moved_to"), "messages", "moved_to IS NULL OR status NOT IN ('pending', 'sending')"
    )
    op.create_table(
        "tokens",
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("ciphertext", sa.LargeBinary(), nullable=False),
        _now("fetched_at"),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("subject", "key_id", name=op.f("pk_tokens")),
    )
    op.create_table(
        "notifications",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        _now("at"),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("sentence", sa.Text(), nullable=False),
        sa.Column("details", postgresql.JSONB(), nullable=True),
        sa.Column("once", sa.Text(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        _now("due_at"),
        sa.Column("told_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notifications")),
    )
    op.create_index(
        "ix_notifications_due",
        "notifications",
        ["due_at"],
        unique=False,
        postgresql_where=sa.text("told_at IS NULL"),
    )
    op.create_index(
        "uq_notifications_once",
        "notifications",
        ["once"],
        unique=True,
        postgresql_where=sa.text("once IS NOT NULL"),
    )
    # A worker of older code sends to who is suppressed, and what an amended campaign said before.
    op.execute("UPDATE installation SET oldest_code = '0003'")


def downgrade() -> None:
    op.execute("UPDATE installation SET oldest_code = '0001'")
    op.drop_table("notifications")
    op.drop_table("tokens")
    for name in ("wamid", "gs_id"):
        op.drop_index(f"ix_send_errors_{name}", table_name="send_errors")
        op.drop_column("send_errors", name)
    op.drop_constraint(op.f("ck_messages_moved_to"), "messages", type_="check")
    op.drop_column("messages", "moved_to")
    op.drop_column("messages", "version")
    op.drop_column("messages", "forgiven")
    op.drop_table("campaign_contents")
    op.drop_index("ix_reminders_message_id", table_name="reminders")
    _index_what_is_due("app_id", "due_at")
    for column in ("stop_if_from", "first", "version"):
        op.drop_column("campaigns", column)
    for column in ("ended_by", "probe_message_id", "probes", "probe_at"):
        op.drop_column("stops", column)
    op.drop_constraint(op.f("ck_apps_token_scheme"), "apps", type_="check")
    op.drop_constraint(op.f("ck_apps_token_kind"), "apps", type_="check")
    op.drop_column("apps", "token_scheme")
    op.drop_column("apps", "token_kind")
