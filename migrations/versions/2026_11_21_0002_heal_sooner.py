"""find released messages and wamids by index, notice a clock set back, say which code the tables are for

The previous code must still run on the new schema: add before use, remove after the last use.

Revision: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_messages_released",
        "messages",
        ["app_id", "released_at"],
        unique=False,
        postgresql_where=sa.text("status = 'pending' AND released_at IS NOT NULL"),
    )
    op.create_index(
        "ix_messages_wamid",
        "messages",
        ["wamid"],
        unique=False,
        postgresql_where=sa.text("wamid IS NOT NULL"),
    )
    op.add_column(
        "apps", sa.Column("adopts_statuses", sa.Boolean(), server_default=sa.text("true"), nullable=False)
    )
    op.add_column("installation", sa.Column("clock_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column(
        "installation", sa.Column("oldest_code", sa.Text(), server_default=sa.text("'0001'"), nullable=False)
    )


def downgrade() -> None:
    op.drop_column("installation", "oldest_code")
    op.drop_column("installation", "clock_at")
    op.drop_column("apps", "adopts_statuses")
    op.drop_index("ix_messages_wamid", table_name="messages")
    op.drop_index("ix_messages_released", table_name="messages")
