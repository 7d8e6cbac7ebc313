"""Real servers for every room that needs them: embedded, in a home of their own, or those of the environment.

``DISPARO_TEST_DATABASE_URL`` and ``DISPARO_TEST_REDIS_URL`` name servers to test against instead (the
database user must be allowed to create databases). One database is built by Alembic and cloned for each
test that asks for one.
"""

import itertools
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

from disparo import embedded, schema
from disparo.connections import Connections, connect
from disparo.db import make_engine
from disparo.settings import Environment

_numbers = itertools.count(1)
GIVEN = {name: os.environ.get(name) for name in ("DISPARO_TEST_DATABASE_URL", "DISPARO_TEST_REDIS_URL")}


#: A file system in memory, and what must be free there for two test processes with their servers.
MEMORY, MEMORY_BYTES = Path("/dev/shm"), 4 << 30  # noqa: S108 - temporary folders are made in it safely


def pytest_configure() -> None:
    """What holds for this process and for every process that tests start."""
    # Started in the background, a process ignores Ctrl-C.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Hundreds of interpreters start: each would compile the whole library anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # A new database is 300 files: 20 ms in memory, 200 ms on a busy disk.
    if "TMPDIR" not in os.environ and _has_room_in_memory():
        os.environ["TMPDIR"] = str(MEMORY)
        tempfile.tempdir = None


def _has_room_in_memory() -> bool:
    try:
        room, memory = os.statvfs(MEMORY), Path("/proc/meminfo").read_text()
    except OSError:
        return False
    available = re.search(r"^MemAvailable: +(\d+) kB$", memory, re.MULTILINE)
    # Programs of PostgreSQL are copied into a home where its user could not reach them else.
    usable = os.access(MEMORY, os.W_OK) and not room.f_flag & (os.ST_NOEXEC | os.ST_RDONLY)
    free = min(room.f_bavail * room.f_frsize, int(available[1]) << 10 if available else 0)
    return usable and free >= MEMORY_BYTES


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tests see no setting, token or ``.env`` of whoever runs them."""
    for name in list(os.environ):
        if name.startswith("DISPARO_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def home() -> Iterator[Path]:
    """A home below the temporary folder itself, where an unprivileged PostgreSQL may enter."""
    folder = Path(tempfile.mkdtemp(prefix="disparo-test-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Servers:
    """Where the servers of this test session are."""

    database_url: str
    redis_url: str

    def database(self, name: str) -> str:
        """The address of another database of the same server."""
        return make_url(self.database_url).set(database=name).render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """PostgreSQL and Redis for the whole session."""
    database, redis = GIVEN["DISPARO_TEST_DATABASE_URL"], GIVEN["DISPARO_TEST_REDIS_URL"]
    folder = Path(tempfile.mkdtemp(prefix="disparo-tests-"))
    with embedded.use(folder, database=database is None, redis=redis is None) as own:
        found = Servers(database or str(own.database_url), redis or str(own.redis_url))
        if database is None:
            _never_flush(found)
        yield found
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def template(servers: Servers) -> Iterator[str]:
    """The name of a database that Alembic has built, for cloning."""
    name = f"disparo_template_{os.getpid()}"
    admin = _admin(servers)
    with admin.connect() as connection:
        connection.execute(text(f'DROP DATABASE IF EXISTS "{name}"'))
        connection.execute(text(f'CREATE DATABASE "{name}"'))
    engine = make_engine(servers.database(name))
    schema.upgrade(engine)
    engine.dispose()
    yield name
    with admin.connect() as connection:
        connection.execute(text(f'DROP DATABASE "{name}" WITH (FORCE)'))
    admin.dispose()


@pytest.fixture
def empty_database_url(servers: Servers) -> Iterator[str]:
    """The address of a new database without tables."""
    yield from _database(servers, "template1")


@pytest.fixture
def database_url(servers: Servers, template: str) -> Iterator[str]:
    """The address of a new database with all tables."""
    yield from _database(servers, template)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An engine on a new database."""
    made = make_engine(database_url)
    yield made
    made.dispose()


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    """A session on a new database; what it does is rolled back unless the test commits."""
    with Session(engine, expire_on_commit=False) as opened:
        yield opened


@pytest.fixture
def redis_url(servers: Servers) -> Iterator[str]:
    """The address of an empty Redis database."""
    import redis

    parts = urlsplit(servers.redis_url)
    # Processes that test side by side share a server that was given, so each has databases of its own.
    number = next(_numbers) % 7 + 1 + 7 * (os.environ.get("PYTEST_XDIST_WORKER") == "gw1")
    url = (
        f"unix://{parts.path}?db={number}"
        if parts.scheme == "unix"
        else urlunsplit(parts._replace(path=f"/{number}"))
    )
    client = redis.Redis.from_url(url)
    client.flushdb()
    yield url
    client.flushdb()
    client.close()


@pytest.fixture
def environment(database_url: str, redis_url: str, home: Path) -> Environment:
    """Settings of a new database, an empty Redis database and a new home; app ``loja`` has a token."""
    return Environment(
        {
            "DISPARO_HOME": str(home),
            "DISPARO_DATABASE_URL": database_url,
            "DISPARO_REDIS_URL": redis_url,
            "DISPARO_THREADS": "8",
            "DISPARO_TOKEN_LOJA": "sk_00000000000000000000000000000000",
        }
    )


@pytest.fixture
def connections(environment: Environment) -> Iterator[Connections]:
    """The connections of a process with those settings."""
    with connect(environment) as made:
        yield made


@pytest.fixture
def now() -> datetime:
    """An instant for functions that are told the time."""
    return datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def _never_flush(servers: Servers) -> None:
    """What a power cut would lose is of no worth here, and neither are logs of cloned databases."""
    admin = _admin(servers)
    with admin.connect() as connection:
        for setting in ("fsync = off", "max_wal_size = '256MB'"):
            connection.execute(text(f"ALTER SYSTEM SET {setting}"))
        connection.execute(text("SELECT pg_reload_conf()"))
    admin.dispose()


def _admin(servers: Servers) -> Engine:
    return create_engine(servers.database("postgres"), isolation_level="AUTOCOMMIT")


def _database(servers: Servers, template: str) -> Iterator[str]:
    yield from cloned_database(servers, template, f"disparo_test_{os.getpid()}_{next(_numbers)}")


def cloned_database(servers: Servers, template: str, name: str) -> Iterator[str]:
    """The address of a clone of ``template``, which is dropped afterwards."""
    admin = _admin(servers)
    with admin.connect() as connection:
        connection.execute(text(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'))
    yield servers.database(name)
    with admin.connect() as connection:
        connection.execute(text(f'DROP DATABASE "{name}" WITH (FORCE)'))
    admin.dispose()
