"""Runs the revisions in one transaction, under an advisory lock, with lock and statement timeouts."""

from alembic import context
from sqlalchemy import Connection, text

from disparo.db import make_engine
from disparo.models import App
from disparo.settings import load

#: One migration at a time, over all processes.
ADVISORY_LOCK = 0x6469737061726F  # "disparo"

target_metadata = App.metadata


def run(connection: Connection) -> None:
    # Transaction-level, so that PgBouncer's transaction mode is fine; taken before lock_timeout, so that
    # whoever comes second waits for the first and then finds nothing to do.
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
    # A revision that waits for a lock holds everyone behind it: it gives up early and may be started again.
    connection.execute(text("SET LOCAL lock_timeout = '4s'"))
    connection.execute(text("SET LOCAL statement_timeout = '5min'"))
    context.configure(connection=connection, target_metadata=target_metadata, compare_server_default=True)
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()


if context.is_offline_mode():
    context.configure(dialect_name="postgresql", target_metadata=target_metadata)
    with context.begin_transaction():
        context.run_migrations()
else:
    given: Connection | None = context.config.attributes.get("connection")
    if given is not None:
        run(given)
    else:
        settings = load()
        if settings.database_url is None:
            raise SystemExit(
                "set DISPARO_DATABASE_URL, or use `disparo db upgrade` for the embedded database"
            )
        with make_engine(
            settings.database_url.get_secret_value(), name="disparo-migrate"
        ).connect() as connection:
            run(connection)
