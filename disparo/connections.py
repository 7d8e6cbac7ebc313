"""What one process is connected to: PostgreSQL and Redis, given by the settings or embedded in the home."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session, sessionmaker

from disparo import tokens
from disparo.db import make_engine, make_sessions, unavailable_as_sentence
from disparo.errors import SettingsError
from disparo.models import App
from disparo.settings import Environment, Settings, environment, load

if TYPE_CHECKING:
    from disparo.embedded import EmbeddedServers
    from disparo.queue import Queue
    from disparo.ratelimit.pairs import Pairs
    from disparo.ratelimit.redis import RedisRateLimiter


@dataclass
class Connections:
    """The servers of this process; made by `connect`, given back by `close`."""

    environment: Environment
    settings: Settings
    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    engine: Engine
    sessions: sessionmaker[Session]
    embedded: "EmbeddedServers | None" = None
    _queue: "Queue | None" = None
    _limiter: "RedisRateLimiter | None" = None
    _pairs: "Pairs | None" = None

    @property
    def queue(self) -> "Queue":
        """Where jobs are enqueued; opened on first use."""
        from disparo.queue import Queue

        if self._queue is None:
            self._queue = Queue(self.redis_url)
        return self._queue

    @property
    def limiter(self) -> "RedisRateLimiter":
        """The rate limiter that all workers share; opened on first use."""
        from disparo.ratelimit import redis

        if self._limiter is None:
            try:
                client = redis.connect(self.redis_url)
            except ValueError as err:
                raise SettingsError(
                    "DISPARO_REDIS_URL has an option that Redis does not know; write it like redis://host:6379/0"
                ) from err
            self._limiter = redis.RedisRateLimiter(client)
        return self._limiter

    @property
    def pairs(self) -> "Pairs":
        """The turns of recipients that all workers share; opened on first use."""
        from disparo.ratelimit.pairs import Pairs

        if self._pairs is None:
            self._pairs = Pairs(self.limiter.client)
        return self._pairs

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A session of one transaction: committed at the end, rolled back on an error.

        Raises:
          DatabaseUnavailable: PostgreSQL does not answer.
        """
        with unavailable_as_sentence(), self.sessions() as session, session.begin():
            yield session

    def require_token(self, app_name: str) -> None:
        """Return when the provider's token of an app is there, or what fetches it, before anything is stored.

        Raises:
          SettingsError: It is missing; names the variable.
        """
        with self.session() as session:
            kind = session.scalars(select(App.token_kind).where(App.name == app_name)).one_or_none()
        tokens.require(self.environment, app_name, tokens.kind_of(kind))

    def close(self) -> None:
        """Give everything back; the last user of the embedded servers stops them."""
        if self._queue is not None:
            self._queue.close()
        self.engine.dispose()
        if self.embedded is not None:
            self.embedded.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect(
    source: Environment | None = None, *, name: str = "disparo", pool_size: int = 10, pre_ping: bool = True
) -> Connections:
    """Connect this process, with embedded servers for what has no address in the settings.

    Nothing embedded starts for a server whose address is set. Of given servers nothing is opened yet.

    Raises:
      SettingsError: A setting is missing or wrong.
      EmbeddedServerError: An embedded server cannot be started.
    """
    source = source or environment()
    settings = load(source)
    database = settings.database_url.get_secret_value() if settings.database_url else None
    redis = settings.redis_url.get_secret_value() if settings.redis_url else None
    # A wrong address is told before a server is started for the other.
    engine = make_engine(database, name=name, pool_size=pool_size, pre_ping=pre_ping) if database else None
    servers = None
    if database is None or redis is None:
        from disparo import embedded

        servers = embedded.use(settings.home, database=database is None, redis=redis is None)
        database = database or servers.database_url
        redis = redis or servers.redis_url
    assert database is not None  # noqa: S101 - for the type checker: `use` gives what was asked for
    assert redis is not None  # noqa: S101
    engine = engine or make_engine(database, name=name, pool_size=pool_size, pre_ping=pre_ping)
    return Connections(source, settings, database, redis, engine, make_sessions(engine), servers)
