"""The network between the processes and what they talk to fails in the middle of a campaign, and heals.

Lost: a message without an outcome, or accepted in the tables and never seen by the sandbox. Doubled: one
that the sandbox accepted twice. Only a request in flight to the endpoint may end unknown.
"""

import os
import shutil
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from sqlalchemy import func, make_url, select, text

from disparo import apps, campaigns, db, progress
from disparo.connections import Connections, connect
from disparo.models import Message
from disparo.settings import Environment
from tests.acceptance.test_processes import TOKEN, Processes
from tests.conftest import Servers, cloned_database
from tests.factories.campaign import make_campaign
from tests.tcp_proxy import TCPProxy

THREADS = 32
RATE = 200
ROWS = 400
#: What is promised after the network has healed, and how long a busy machine may take for it.
GOES_ON_SECONDS, PATIENCE_SECONDS = 10.0, 30.0


@dataclass
class Network:
    """The processes of an installation, each of their servers behind a proxy; tests look past those."""

    processes: Processes
    endpoint: TCPProxy
    database: TCPProxy
    redis: TCPProxy
    connections: Connections
    #: Length of the log before the test.
    logged: int = 0

    def begin(self, name: str) -> None:
        """A campaign, a quarter of which has left."""
        urllib.request.urlopen(f"{self.processes.sandbox_url}/reset", data=b"", timeout=10).close()  # noqa: S310 - http
        self.logged = len(self.processes.log)
        with self.connections.session() as session:
            make_campaign(
                session, apps.get(session, "loja"), ROWS, name=name, lane="utility", window="always"
            )
        self.processes.until(lambda: self.arrivals() > ROWS // 4, f"{name} to be under way")

    def stats(self) -> dict[str, int]:
        found: dict[str, int] = self.processes.until(lambda: self.processes.get("/stats"), "the sandbox")
        return found

    def arrivals(self) -> int:
        return self.stats()["arrivals"]

    def log(self) -> str:
        """What was logged since the campaign began."""
        return self.processes.log[self.logged :]

    def until_told(self, words: str) -> None:
        self.processes.until(lambda: words in self.log(), f"{words!r} in the log")

    def until_worker_is_silent(self) -> None:
        """Wait until the worker could not say for seconds that it lives; its next messages are due meanwhile."""

        def silent() -> bool:
            with self.connections.session() as session:
                return bool(
                    session.execute(
                        text("SELECT max(seen_at) < now() - interval '3 s' FROM workers")
                    ).scalar()
                )

        self.processes.until(silent, "the worker to miss PostgreSQL")

    def until_probed(self, code: str, probes: int) -> None:
        """Wait until the app is stopped by ``code``, and so many messages were tried in vain."""

        def stopped() -> bool:
            with self.connections.session() as session:
                held = apps.stops(session, apps.get(session, "loja").id)
            return any(stop.code == code and stop.probes >= probes for stop in held)

        self.processes.until(stopped, f"{probes} probes of {code}")

    def goes_on(self, proxy: TCPProxy, what: str) -> None:
        """Heal, and measure the time until more has arrived than could have been under way."""
        before = self.arrivals() + THREADS
        healed_at = time.monotonic()
        proxy.heal()
        self.processes.until(lambda: self.arrivals() > before, "sending to go on")
        took = time.monotonic() - healed_at
        print(f"{what}: sending went on {took:.1f} s after healing, promised are {GOES_ON_SECONDS:.0f}")  # noqa: T201
        assert took < PATIENCE_SECONDS

    def status(self, name: str) -> Any:
        """What ``campaign status --json`` would print."""
        with self.connections.session() as session:
            campaign, zone = campaigns.get(session, name), self.connections.settings.zone
            return progress.status(session, campaign, db.now(session), zone)

    def attempts(self, name: str) -> int:
        """The most that a message of a campaign has spent."""
        with self.connections.session() as session:
            query = select(func.max(Message.attempts)).where(
                Message.campaign_id == campaigns.get(session, name).id
            )
            return session.scalar(query) or 0

    def settled(self, name: str) -> dict[str, int]:
        """Messages by status, counted row by row, once none is pending or sending; the counters say the same."""

        def there() -> dict[str, int] | None:
            with self.connections.session() as session:
                campaign = campaigns.get(session, name)
                query = select(Message.status, func.count()).where(Message.campaign_id == campaign.id)
                found = dict(session.execute(query.group_by(Message.status)).all())
            return None if {"pending", "sending"} & set(found) else found

        found: dict[str, int] = self.processes.until(there, f"{name} to be settled")
        assert sum(found.values()) == ROWS
        assert {status: n for status, n in self.status(name)["counts"].items() if n} == found
        assert "Traceback" not in self.log()
        assert TOKEN not in self.log()
        return found

    def nothing_unknown(self, name: str) -> None:
        """Nothing is lost, nothing doubled, and nothing unknown: every answer was written down."""
        assert self.settled(name) == {"accepted": ROWS}
        stats = self.stats()
        assert (self.arrivals(), stats["repeated"]) == (ROWS, 0)


@pytest.fixture(scope="module")
def database_url(servers: Servers, template: str) -> Iterator[str]:
    """A database for all tests of this file."""
    yield from cloned_database(servers, template, f"disparo_network_{os.getpid()}")


@pytest.fixture(scope="module")
def network(servers: Servers, database_url: str) -> Iterator[Network]:
    folder = Path(tempfile.mkdtemp(prefix="disparo-network-"))
    redis_url = _with_path(servers.redis_url, 15)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        database = stack.enter_context(TCPProxy(_database_address(database_url)))
        redis = stack.enter_context(TCPProxy(_redis_address(redis_url)))
        processes = Processes(
            folder,
            DISPARO_HOME=str(folder / "home"),
            DISPARO_DATABASE_URL=_database_through(database_url, database.port),
            DISPARO_REDIS_URL=_redis_through(redis_url, redis.port),
            DISPARO_TOKEN_LOJA=TOKEN,
            DISPARO_THREADS=str(THREADS),
        )
        stack.callback(processes.end)
        processes.start_sandbox("--latency-ms", "100")
        endpoint = stack.enter_context(TCPProxy(("127.0.0.1", int(processes.sandbox_url.rpartition(":")[2]))))
        processes.disparo(
            "app", "set", "loja", "--id", "app-1", "--base-url", f"http://127.0.0.1:{endpoint.port}",
            "--rate", str(RATE),
        )  # fmt: skip
        for service in ("worker-bulk", "control", "beat"):
            processes.start(service)
        direct = {
            "DISPARO_HOME": str(folder / "home"),
            "DISPARO_DATABASE_URL": database_url,
            "DISPARO_REDIS_URL": redis_url,
        }
        connections = stack.enter_context(connect(Environment(direct)))
        yield Network(processes, endpoint, database, redis, connections)


def test_an_endpoint_that_is_cut_off_leaves_unknown_what_was_in_flight_and_nothing_else(network):
    network.begin("endpoint")
    network.endpoint.refuse()
    cut = network.endpoint.cut()
    assert cut <= THREADS
    network.until_probed("unreachable", 2)
    assert network.status("endpoint")["limited_by"] == "network"
    network.goes_on(network.endpoint, "endpoint cut")
    found = network.settled("endpoint")
    assert set(found) <= {"accepted", "unknown"}
    assert found.get("unknown", 0) <= cut
    assert network.attempts("endpoint") <= 3
    assert network.stats()["repeated"] == 0
    assert found["accepted"] <= network.arrivals() <= ROWS


def test_a_database_that_is_cut_off_loses_doubles_and_leaves_unknown_nothing(network):
    network.begin("banco")
    network.database.refuse()
    assert network.database.cut() > 0
    network.until_worker_is_silent()
    network.goes_on(network.database, "database cut")
    network.nothing_unknown("banco")


def test_a_redis_that_is_cut_off_loses_doubles_and_leaves_unknown_nothing(network):
    network.begin("redis")
    network.redis.refuse()
    assert network.redis.cut() > 0
    network.until_told("Trying again in 2.00 seconds")
    network.goes_on(network.redis, "Redis cut")
    network.nothing_unknown("redis")


def test_a_database_that_answers_no_more_holds_up_nobody_once_its_connections_end(network):
    network.begin("banco-mudo")
    network.database.blackhole()
    network.until_worker_is_silent()
    network.database.cut()
    network.goes_on(network.database, "database silent")
    network.nothing_unknown("banco-mudo")


def test_a_redis_that_answers_no_more_holds_up_nobody_once_its_connections_end(network):
    network.begin("redis-mudo")
    network.redis.blackhole()
    network.until_told("Redis does not answer (TimeoutError)")
    network.redis.cut()
    network.goes_on(network.redis, "Redis silent")
    network.nothing_unknown("redis-mudo")


def _with_path(url: str, number: int) -> str:
    parts = urlsplit(url)
    return (
        f"unix://{parts.path}?db={number}"
        if parts.scheme == "unix"
        else parts._replace(path=f"/{number}").geturl()
    )


def _database_address(url: str) -> Path | tuple[str, int]:
    parsed = make_url(url)
    host, port = (
        parsed.host or str(parsed.query.get("host", "")),
        int(parsed.port or parsed.query.get("port", 5432)),
    )
    return Path(host) / f".s.PGSQL.{port}" if host.startswith("/") else (host, port)


def _database_through(url: str, port: int) -> str:
    parsed = make_url(url)
    query = {name: value for name, value in parsed.query.items() if name not in ("host", "port")}
    return parsed.set(host="127.0.0.1", port=port, query=query).render_as_string(hide_password=False)


def _redis_address(url: str) -> Path | tuple[str, int]:
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == "unix" else (parts.hostname or "", parts.port or 6379)


def _redis_through(url: str, port: int) -> str:
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return f"redis://127.0.0.1:{port}/{parts.query.removeprefix('db=')}"
    user = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    return parts._replace(netloc=f"{user}127.0.0.1:{port}").geturl()
