"""Engine, sessions, the declarative base and the column types that tables share."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from sqlalchemy import JSON, BigInteger, DateTime, Engine, Identity, MetaData, Text, create_engine, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column, sessionmaker

from disparo.errors import DatabaseUnavailable, SettingsError
from disparo.log import redact

#: Every constraint and index has a name, because Alembic can then drop what it made.
NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

#: SQLSTATEs of a database that is not set up for us: no right, read only, no such schema; None: psycopg
#: itself refuses the address.
_NOT_SET_UP = ("42501", "25006", "3F000", None)

#: A server whose host or network is gone answers nothing at all; without these a statement would wait for it two hours.
_NOTICE_LOSS = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 8_000,  # milliseconds
}

BigId = Annotated[int, mapped_column(BigInteger, Identity(), primary_key=True)]
#: An aware instant, UTC.
Instant = Annotated[datetime, mapped_column(DateTime(timezone=True))]
#: When the row was made.
CreatedAt = Annotated[datetime, mapped_column(DateTime(timezone=True), server_default=func.now())]
#: JSON kept to the letter: order, numbers and duplicates of the text that was given.
ExactJSON = Annotated[dict[str, Any], mapped_column(JSON)]
BinaryJSON = Annotated[dict[str, Any], mapped_column(JSONB)]


class Base(DeclarativeBase):
    """The base of all tables."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {str: Text}  # noqa: RUF012 - SQLAlchemy's own protocol


def one_of(column: str, values: Iterator[str] | list[str] | type) -> str:
    """The text of a check that ``column`` holds one of ``values`` (an enum of words, or a list)."""
    words = ", ".join(f"'{value}'" for value in values)  # type: ignore[union-attr]
    return f"{column} IN ({words})"


def make_engine(url: str, *, name: str = "disparo", pool_size: int = 10, pre_ping: bool = True) -> Engine:
    """An engine that holds at most ``pool_size`` connections; nothing is opened yet.

    Args:
      url: ``postgresql://…`` in any of its spellings; psycopg 3 is used whatever driver it names.
      name: Shown in ``pg_stat_activity``.
      pre_ping: Look whether a pooled connection still lives before it is used. Who tries again by itself
        can do without: two round trips less for each transaction.

    Raises:
      SettingsError: The address cannot be read, or is not PostgreSQL's.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as err:
        raise SettingsError(
            "DISPARO_DATABASE_URL is no address like postgresql://user:password@host/database"
        ) from err
    if parsed.drivername.split("+")[0] not in {"postgresql", "postgres"}:
        raise SettingsError(
            f"DISPARO_DATABASE_URL names {parsed.drivername}; Disparo keeps its tables in PostgreSQL only"
        )
    return create_engine(
        parsed.set(drivername="postgresql+psycopg"),
        pool_size=pool_size,
        # A connection beyond the pool would be closed after each use, and cost more than the wait for one.
        max_overflow=0,
        pool_pre_ping=pre_ping,
        # A server-side prepared statement does not survive PgBouncer's transaction mode.
        connect_args={
            "application_name": name,
            "connect_timeout": 5,
            "prepare_threshold": None,
            **{name: value for name, value in _NOTICE_LOSS.items() if name not in parsed.query},
        },
    )


def make_sessions(engine: Engine) -> sessionmaker[Session]:
    """Sessions whose objects stay readable after the commit."""
    return sessionmaker(engine, expire_on_commit=False)


@contextmanager
def unavailable_as_sentence() -> Iterator[None]:
    """Turn "PostgreSQL does not answer" into a `DatabaseUnavailable` that says where it was looked for."""
    try:
        yield
    except NoConnectionFree as err:
        raise DatabaseUnavailable(
            "PostgreSQL does not answer: all connections of this process wait for it. "
            "Look in pg_stat_activity for what they wait for"
        ) from err
    except DBAPIError as err:
        detail = redact(" ".join(str(err.orig).split()))[:300].rstrip(" .?")
        if is_unavailable(err):
            raise DatabaseUnavailable(
                f"PostgreSQL does not answer: {detail}. Check DISPARO_DATABASE_URL and that the server runs"
            ) from err
        if getattr(err.orig, "sqlstate", None) in _NOT_SET_UP:
            raise DatabaseUnavailable(
                f"PostgreSQL refuses what Disparo needs: {detail}. Check DISPARO_DATABASE_URL and the rights of its user"
            ) from err
        raise


def is_unavailable(err: DBAPIError) -> bool:
    """Whether the fault is the connection's, so that the same statement may succeed later."""
    return isinstance(err, OperationalError | InterfaceError) or err.connection_invalidated


def migrations_folder() -> Path:
    """Where the Alembic revisions are: inside the installed package, or beside it in a checkout."""
    inside = Path(__file__).parent / "_migrations"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "migrations"


def now(session: Session) -> datetime:
    """The database's clock, by which all workers agree."""
    instant: datetime = session.execute(text("SELECT now()")).scalar_one()
    return instant


def clock(session: Session) -> datetime:
    """The database's clock at this very moment, where a transaction has waited since it began."""
    instant: datetime = session.execute(text("SELECT clock_timestamp()")).scalar_one()
    return instant
