"""The schema's version: bring a database up to this code, and say where the two differ."""

from typing import Any

from sqlalchemy import Connection, Engine, text

from disparo.db import migrations_folder, unavailable_as_sentence
from disparo.errors import ConflictError, InputError

#: The revision that this code needs: the newest one in the migrations folder (a test compares them), named
#: here so that no command has to load Alembic to know it.
HEAD = "0004"


def upgrade(engine: Engine, revision: str = "head") -> str | None:
    """Run what is missing up to ``revision``; safe to call from several processes at once.

    Returns:
      The revision the database was at before, or None for an empty database.

    Raises:
      DatabaseUnavailable: PostgreSQL does not answer.
      ConflictError: The database is newer than this code.
      InputError: There is no such revision.
    """
    from alembic import command

    if revision not in {"head", *_known()}:
        raise InputError(
            f"there is no revision {revision!r}; there are {', '.join(sorted(_known()))} and head"
        )
    with unavailable_as_sentence(), engine.connect() as connection:
        before = _revision(connection)
        if _is_newer(before):
            raise _newer(before)
        connection.rollback()
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    return before


def downgrade(engine: Engine, revision: str) -> None:
    """Undo revisions down to ``revision`` (``base`` for all of them)."""
    from alembic import command

    with engine.connect() as connection:
        config = _config()
        config.attributes["connection"] = connection
        command.downgrade(config, revision)


def require_current(engine: Engine, *, set_up_empty: bool = False) -> str:
    """Return the database's revision when this code runs on it.

    That is this code's own revision, or a newer one that says so (``oldest_code`` of table ``installation``):
    while a new version is rolled out, the old workers go on beside the new ones.

    Args:
      set_up_empty: Make the tables where the database holds no table at all.

    Raises:
      ConflictError: It is older, too new or empty; the sentence says what to run.
      DatabaseUnavailable: PostgreSQL does not answer.
    """
    with unavailable_as_sentence(), engine.connect() as connection:
        at = _revision(connection)
        newer = _is_newer(at)
        if newer and not _still_runs_this_code(connection):
            raise _newer(at)
        empty = (
            at is None
            and not connection.execute(
                text("SELECT EXISTS (SELECT 1 FROM pg_tables WHERE schemaname = current_schema())")
            ).scalar_one()
        )
    if empty and set_up_empty:
        upgrade(engine)
        return HEAD
    if at is None:
        raise ConflictError("this database has no tables of Disparo yet; run `disparo db upgrade`")
    if at != HEAD and not newer:
        raise ConflictError(
            f"this database is at revision {at}, this code needs {HEAD}; run `disparo db upgrade`"
        )
    return at


def _revision(connection: Connection) -> str | None:
    exists = connection.execute(text("SELECT to_regclass('alembic_version') IS NOT NULL")).scalar_one()
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar() if exists else None


def _is_newer(revision: str | None) -> bool:
    # Most commands find their own revision, and load no Alembic to ask for others.
    return revision not in (None, HEAD) and revision not in _known()


def _still_runs_this_code(connection: Connection) -> bool:
    """Whether tables of a newer revision still serve this code: no later revision removed what it uses."""
    if connection.execute(text("SELECT to_regclass('installation') IS NULL")).scalar_one():
        return False
    # As JSON, which gives nothing where the column is missing.
    oldest = connection.execute(text("SELECT to_jsonb(i) ->> 'oldest_code' FROM installation i")).scalar()
    # Revisions are numbers of four digits, so that their order is that of their texts.
    return oldest is not None and oldest <= HEAD


def _newer(revision: str | None) -> ConflictError:
    return ConflictError(
        f"this database is at revision {revision}, which this version of Disparo does not know: "
        "it was upgraded by a newer one; run that version"
    )


def _known() -> set[str]:
    from alembic.script import ScriptDirectory

    return {revision.revision for revision in ScriptDirectory(str(migrations_folder())).walk_revisions()}


def _config() -> Any:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    return config
