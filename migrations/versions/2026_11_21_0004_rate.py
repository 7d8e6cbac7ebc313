"""what pacing needs: self-tuning, pairs, daily budgets, a rate of everything, where the workers' time goes

The previous code still runs on the new schema; it knows nothing of pairs and budgets.

Revision: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def _now(name: str) -> sa.Column[sa.DateTime]:
    return sa.Column(name, sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False)


def upgrade() -> None:
    op.create_table(
        "portfolios",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("daily_limit", sa.Integer(), nullable=True),
        sa.Column("used", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("counted_at", sa.DateTime(timezone=True), nullable=True),
        _now("created_at"),
        _now("updated_at"),
        sa.CheckConstraint("daily_limit > 0", name=op.f("ck_portfolios_daily_limit")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_portfolios")),
        sa.UniqueConstraint("name", name=op.f("uq_portfolios_name")),
    )
    op.create_table(
        "portfolio_recipients",
        sa.Column("portfolio_id", sa.BigInteger(), nullable=False),
        sa.Column("recipient_key", sa.Text(), nullable=False),
        _now("last_at"),
        sa.ForeignKeyConstraint(
            ["portfolio_id"],
            ["portfolios.id"],
            name=op.f("fk_portfolio_recipients_portfolio_id_portfolios"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("portfolio_id", "recipient_key", name=op.f("pk_portfolio_recipients")),
    )
    op.create_index(
        "ix_portfolio_recipients_last_at", "portfolio_recipients", ["portfolio_id", "last_at"], unique=False
    )
    op.add_column("apps", sa.Column("tuning", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.add_column("apps", sa.Column("tuned_rate", sa.Double(), nullable=True))
    op.add_column("apps", sa.Column("tuning_state", postgresql.JSONB(), nullable=True))
    op.add_column("apps", sa.Column("pair_seconds", sa.Double(), server_default=sa.text("6"), nullable=False))
    op.add_column("apps", sa.Column("pair_burst", sa.Integer(), server_default=sa.text("1"), nullable=False))
    op.add_column("apps", sa.Column("portfolio_id", sa.BigInteger(), nullable=True))
    op.create_foreign_key(
        op.f("fk_apps_portfolio_id_portfolios"), "apps", "portfolios", ["portfolio_id"], ["id"]
    )
    op.create_check_constraint(op.f("ck_apps_tuned_rate"), "apps", "tuned_rate > 0")
    op.create_check_constraint(op.f("ck_apps_pair_seconds"), "apps", "pair_seconds >= 0")
    op.create_check_constraint(op.f("ck_apps_pair_burst"), "apps", "pair_burst BETWEEN 1 AND 45")
    op.add_column("installation", sa.Column("max_per_second", sa.Double(), nullable=True))
    op.create_check_constraint(op.f("ck_installation_max_per_second"), "installation", "max_per_second > 0")
    op.add_column("workers", sa.Column("pace", postgresql.JSONB(), nullable=True))
    op.add_column("workers", sa.Column("answered", postgresql.JSONB(), nullable=True))
    op.create_index(
        "ix_messages_in_turn",
        "messages",
        ["campaign_id", "id"],
        unique=False,
        postgresql_where=sa.text("status = 'pending' AND due_at IS NULL"),
    )
    op.create_index(
        "ix_campaigns_running",
        "campaigns",
        ["id"],
        unique=False,
        postgresql_where=sa.text("state = 'running'"),
    )


def downgrade() -> None:
    op.drop_index("ix_campaigns_running", table_name="campaigns")
    op.drop_index("ix_messages_in_turn", table_name="messages")
    op.drop_column("workers", "answered")
    op.drop_column("workers", "pace")
    op.drop_constraint(op.f("ck_installation_max_per_second"), "installation", type_="check")
    op.drop_column("installation", "max_per_second")
    for name in ("pair_burst", "pair_seconds", "tuned_rate"):
        op.drop_constraint(op.f(f"ck_apps_{name}"), "apps", type_="check")
    op.drop_constraint(op.f("fk_apps_portfolio_id_portfolios"), "apps", type_="foreignkey")
    for name in ("portfolio_id", "pair_burst", "pair_seconds", "tuning_state", "tuned_rate", "tuning"):
        op.drop_column("apps", name)
    op.drop_table("portfolio_recipients")
    op.drop_table("portfolios")
