"""${message}

The previous code must still run on the new schema: add before use, remove after the last use.
Workers and commands of an older version go on with this schema while installation.oldest_code says so. A revision
after which older code misses something, or meets a word that it does not know, names the oldest that still runs:
op.execute("UPDATE installation SET oldest_code = '0003'").

Revision: ${up_revision}
Revises: ${down_revision | comma,n}
"""

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
