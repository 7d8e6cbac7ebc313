"""A whole installation of real processes: ``disparo up`` on embedded servers, and the sandbox."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from select import POLLIN, poll
from typing import Any

import pytest
from sqlalchemy import func, select

from disparo import campaigns, db, messages, progress
from disparo.connections import Connections, connect
from disparo.models import Message
from disparo.sandbox import Options, Sandbox
from disparo.settings import Environment

TOKEN = "sk_00000000000000000000000000000000"
#: Generous: the machine may be busy. Nothing waits this long when all is well.
PATIENCE_SECONDS = 180.0


def wait_for(what: Callable[[], Any], *, seconds: float = PATIENCE_SECONDS, why: str = "") -> Any:
    """The first true value of ``what()``; fails when it does not come in time."""
    until = time.monotonic() + seconds
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < until, f"not within {seconds:.0f} s: {why or what}"
        time.sleep(0.05)


@dataclass
class Installation:
    """One home, its settings, and the ``disparo up`` that runs in it."""

    folder: Path
    sandbox: Sandbox
    extra: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def environ(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DISPARO_")}
        return kept | {"DISPARO_HOME": str(self.home), "DISPARO_TOKEN_LOJA": TOKEN} | self.extra

    def run(
        self, *arguments: str, stdin: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a ``disparo`` command to its end."""
        done = subprocess.run(
            [sys.executable, "-m", "disparo", *arguments],
            env=self.environ,
            cwd=self.folder,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        if check:
            assert done.returncode == 0, (arguments, done.returncode, done.stdout, done.stderr)
        return done

    def json(self, *arguments: str, stdin: str | None = None, check: bool = True) -> Any:
        """The document that a command with ``--json`` prints."""
        return json.loads(self.run(*arguments, "--json", stdin=stdin, check=check).stdout)

    def start(self, *arguments: str) -> None:
        """Start ``disparo up`` and wait until it says ``ready``."""
        port = free_port()
        log = (self.folder / "up.log").open("a")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "disparo", "up", "--port", str(port), *arguments],
            env=self.environ,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
        log.close()
        assert self.process.stdout is not None
        said = poll()
        said.register(self.process.stdout, POLLIN)
        line = self.process.stdout.readline() if said.poll(PATIENCE_SECONDS * 1000) else "nothing"
        assert line == "ready\n", (line, self.log())

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop ``disparo up`` as an operator would; its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        try:
            return self.process.wait(45)
        finally:
            if self.process.poll() is None:
                self.process.kill()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None

    def kill(self) -> None:
        """Kill ``disparo up`` itself, and nothing else; the kernel tells its children."""
        assert self.process is not None
        assert self.process.stdout is not None
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.process = None

    def log(self) -> str:
        return (self.folder / "up.log").read_text()

    def processes(self) -> dict[int, str]:
        """Living processes of this home, by what is in their environment: pid → command line."""
        return processes_of(self.home)

    def worker_pids(self) -> list[int]:
        """Pids of the processes that send campaigns."""
        return [pid for pid, command in self.processes().items() if " -Q bulk " in command]

    def campaign(
        self, name: str, rows: int, *, lane: str = "marketing", first: int = 0, **more: Any
    ) -> tuple[str, str]:
        """Write a campaign file and its recipients; their names."""
        content = {
            "name": name,
            "app": "loja",
            "lane": lane,
            "dedupe": "none",
            "message": {"type": "text", "text": {"body": "{{ name }}, pedido {{ n }} de " + name}},
        } | more
        (self.folder / f"{name}.yaml").write_text(json.dumps(content))
        lines = [f"{to[2:]},Ana,{n}" for n, to in enumerate(self.recipients(rows, first=first))]
        (self.folder / f"{name}.csv").write_text("\n".join(["to,name,n", *lines]) + "\n")
        return f"{name}.yaml", f"{name}.csv"

    def recipients(self, rows: int, *, first: int = 0) -> list[str]:
        """Where the messages of a campaign with so many rows go, in order, each recipient once."""
        return [f"55{11_900_000_000 + first + n}" for n in range(rows)]

    @contextmanager
    def connections(self) -> Iterator[Connections]:
        """The installation's servers, for looking without a process for each look."""
        with connect(
            Environment({k: v for k, v in self.environ.items() if k.startswith("DISPARO_")})
        ) as made:
            yield made

    def status(self, name: str) -> Any:
        """What ``campaign status --json`` would print."""
        with self.connections() as made, made.session() as session:
            return progress.status(session, campaigns.get(session, name), db.now(session), made.settings.zone)

    def statuses(self, name: str) -> dict[str, int]:
        """Messages of a campaign by status, counted row by row."""
        with self.connections() as made, made.session() as session:
            campaign = campaigns.get(session, name)
            query = select(Message.status, func.count()).where(Message.campaign_id == campaign.id)
            return dict(session.execute(query.group_by(Message.status)).all())

    def settled(self, name: str) -> dict[str, int]:
        """Wait until nothing of a campaign is pending or sending; its messages by status."""

        def there() -> dict[str, int] | None:
            found = self.statuses(name)
            return None if {"pending", "sending"} & set(found) else found

        found: dict[str, int] = self.until(there, f"{name} to be settled")
        counts = self.status(name)["counts"]
        assert {status: n for status, n in counts.items() if n} == found, "counters differ from the rows"
        return found

    def until(self, what: Callable[[], Any], why: str) -> Any:
        """The first true value of ``what()``."""
        return wait_for(
            what, why=f"{why}\n{self.log()[-2000:]}" if (self.folder / "up.log").exists() else why
        )

    def until_message(self, message_id: int, state: str) -> Any:
        """The message once it is in that state."""

        def there() -> Any:
            with self.connections() as made, made.session() as session:
                found = messages.describe(session, messages.find(session, str(message_id)))
            return found if found["state"] == state else None

        return self.until(there, f"message {message_id} to be {state}")


def processes_of(home: Path) -> dict[int, str]:
    found = {}
    for path in Path("/proc").iterdir():
        if not path.name.isdigit():
            continue
        try:
            environ = (path / "environ").read_bytes()
            command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            state = (path / "stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        ours = f"DISPARO_HOME={home}".encode() in environ.split(b"\0") or str(home) in command
        if ours and state != "Z":
            found[int(path.name)] = command
    return found


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def installed(options: Options | None = None, *, rate: int = 1000) -> Iterator[Installation]:
    """A new home with app ``loja`` on a sandbox of its own; nothing runs yet, and nothing is left behind."""
    # Directly below the temporary folder, where an unprivileged PostgreSQL may enter.
    folder = Path(tempfile.mkdtemp(prefix="disparo-acceptance-"))
    folder.chmod(0o755)
    with Sandbox(options) as sandbox:
        made = Installation(folder, sandbox)
        try:
            made.run("app", "set", "loja", "--id", "app-1", "--base-url", sandbox.url, "--rate", str(rate))
            yield made
        finally:
            if made.process is not None:
                made.kill()
            wait_for(lambda: not end(made.home), why="the installation's processes to end")
            shutil.rmtree(folder, ignore_errors=True)


def end(home: Path) -> dict[int, str]:
    """Kill what is left of a home; what was there."""
    left = processes_of(home)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return left


@pytest.fixture
def installation() -> Iterator[Installation]:
    """A home with app ``loja`` on the sandbox; nothing runs yet."""
    with installed() as made:
        yield made


@pytest.fixture(scope="module")
def running() -> Iterator[Installation]:
    """A home with app ``loja`` where ``disparo up`` runs, shared by the tests of a file."""
    with installed() as made:
        made.start()
        yield made
        made.stop()
