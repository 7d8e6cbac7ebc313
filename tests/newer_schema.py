"""A database as a newer version of Disparo leaves it, one revision after the newest that this code knows."""

from sqlalchemy import Connection, text

from disparo import schema

#: Revisions are numbers of four digits.
NEWER = f"{int(schema.HEAD) + 1:04}"
#: What a revision may do while older code runs: it adds.
_ADDED = (
    "ALTER TABLE messages ADD COLUMN priority integer",
    "ALTER TABLE messages ADD COLUMN tags jsonb NOT NULL DEFAULT '[]'",
    "ALTER TABLE batches ADD COLUMN priority integer",
    "ALTER TABLE installation ADD COLUMN region text",
    """CREATE TABLE priorities (
        message_id bigint PRIMARY KEY REFERENCES messages (id) ON DELETE CASCADE, n integer NOT NULL)""",
)


def upgrade(connection: Connection, *, oldest_code: str | None = None) -> None:
    """Bring a database to `NEWER`, in one transaction as Alembic would.

    Args:
      oldest_code: What the revision says of the oldest code that still runs on it; by default nothing new.
    """
    with connection.begin():
        # As `migrations/env.py`: a lock that does not come at once holds up everybody behind it.
        connection.execute(text("SET LOCAL lock_timeout = '4s'"))
        for statement in _ADDED:
            connection.execute(text(statement))
        if oldest_code is not None:
            connection.execute(text("UPDATE installation SET oldest_code = :oldest"), {"oldest": oldest_code})
        connection.execute(text("UPDATE alembic_version SET version_num = :newer"), {"newer": NEWER})
