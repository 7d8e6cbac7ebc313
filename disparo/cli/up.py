"""``disparo up``: everything on this machine, in the foreground."""

import fcntl
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from disparo.cli.output import note
from disparo.errors import ConflictError, EmbeddedServerError, InputError, SettingsError

if TYPE_CHECKING:
    from disparo.connections import Connections
    from disparo.embedded import EmbeddedServers
    from disparo.supervisor import Child

WEB_PORT = 8787
#: How often is looked whether the embedded servers live.
SERVERS_SECONDS = 0.5


def up(
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that send campaigns.")] = 1,
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Of the web application, on 127.0.0.1.")
    ] = WEB_PORT,
    paused: Annotated[bool, typer.Option("--paused", help="Start everything without sending.")] = False,
) -> None:
    """Migrate, then run servers, workers, scheduler and web until Ctrl-C; prints `ready` when all live."""
    from disparo import log, overrides, schema
    from disparo.connections import connect
    from disparo.settings import environment, load
    from disparo.supervisor import Supervisor

    source = environment()
    settings = load(source)
    log.configure(settings.log_level)
    # Each worker reads it too; here it is one sentence at once.
    overrides.load(settings.home)
    with _alone(settings.home):
        _check_port(port)
        with connect(source, name="disparo-up") as connections:
            schema.upgrade(connections.engine)
            # Redis is asked before anything starts, so that a wrong address is one sentence.
            connections.limiter.was_emptied()
            if paused:
                _pause_all(connections)

            def ready() -> bool:
                return _workers_live(connections) >= workers + 1 and _answers(port)

            def on_ready() -> None:
                sys.stdout.write("ready\n")
                sys.stdout.flush()

            if connections.embedded is not None:
                threading.Thread(
                    target=_keep_servers, args=(connections.embedded,), name="servers", daemon=True
                ).start()
            children = _children(connections, workers, port)
            code = Supervisor(children, log=note, ready=ready, on_ready=on_ready).run()
    raise typer.Exit(code)


def _children(connections: "Connections", workers: int, port: int) -> list["Child"]:
    """The same commands that one would start by hand (docker-compose.yml)."""
    from disparo.supervisor import Child

    home = connections.settings.home
    # Children see the `.env` files of this folder through their environment. PYTHONWARNINGS: Celery warns of
    # root at each start, which for a home of its own is meant.
    given = {**os.environ, **connections.environment.values}
    env = {**given, "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "ignore", "PYTHONSAFEPATH": "1"}
    celery = [sys.executable, "-m", "celery", "--quiet"]
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]

    def worker(name: str, queue: str) -> Child:
        argv = [*celery, "-A", "worker", "worker", "-Q", queue, "-n", f"{name}@%h", *quiet]
        return Child(name, argv, env, home, stop_after=1, grace_seconds=25.0)

    control = [*celery, "-A", "scheduler", "worker", "-Q", "control", "-n", "control@%h", *quiet]
    uvicorn = [sys.executable, "-m", "uvicorn", "--factory", "web.app:create", "--host", "127.0.0.1"]
    return [
        worker("urgent", "urgent"),
        *(worker(f"bulk-{n}", "bulk") for n in range(1, workers + 1)),
        Child("control", control, env, home, stop_after=2, grace_seconds=5.0),
        Child("beat", [*celery, "-A", "scheduler", "beat"], env, home, stop_after=0, grace_seconds=3.0),
        Child(
            "web",
            [*uvicorn, "--port", str(port), "--log-level", "warning"],
            env,
            home,
            stop_after=2,
            grace_seconds=5.0,
        ),
    ]


def _keep_servers(servers: "EmbeddedServers") -> None:
    """Start embedded servers again that were killed: nobody else would, until the next command."""
    while True:
        time.sleep(SERVERS_SECONDS)
        try:
            if servers.revive():
                note("an embedded server had ended; it was started again")
        except EmbeddedServerError as err:
            note(str(err))


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as err:
            raise InputError(
                f"port {port} of 127.0.0.1 cannot be used ({err.strerror}); give another with --port"
            ) from err


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Hold the home: one `up` each."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(home / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as err:
        raise SettingsError(
            f"the home {home} cannot be used ({err.strerror}); set DISPARO_HOME to another folder"
        ) from err
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(
                f"another `disparo up` runs in {home}; stop it, or set DISPARO_HOME to another"
            ) from None
        yield
    finally:
        os.close(descriptor)


def _pause_all(connections: "Connections") -> None:
    from disparo import apps, stops

    with connections.session() as session:
        for app in apps.listing(session):
            stops.pause(session, app, reason="started with --paused", hint="Look around, then let it send.")
    note("all apps are paused; `disparo app resume NAME` lets one send")


def _workers_live(connections: "Connections") -> int:
    from disparo import campaigns
    from disparo.errors import DisparoError

    try:
        with connections.session() as session:
            return campaigns.live_workers(session)
    except DisparoError:
        return 0


def _answers(port: int) -> bool:
    import urllib.request

    # No proxy of the environment stands between this machine and itself.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/health/live", timeout=1):
            return True
    except OSError:
        return False
