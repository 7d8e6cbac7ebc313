"""Sending speed, side by side: ``make bench-quick`` (about three minutes).

Three ways to send the same text message to distinct recipients, against the sandbox without latency:

- product: a campaign through ``disparo up`` with everything on (claims, limiter, journal, verdicts, counters)
  and a rate that never limits;
- bare: as many processes and threads, each posting ready bytes by ``adapter.send`` of requests, nothing else;
- naive: a Celery task per message with ``requests.post`` and an ORM commit, as many processes.

A round is bare, product, bare, naive, one after the other on the same processors, so that the machine's slow
and fast phases meet all of them; the ratios of a round are taken against the mean of its two bare runs. Speed is
messages from the first to the last arrival at the sandbox, by its clock. While others run, the
product's processes are stopped (SIGSTOP), so that their ticks cost nobody anything.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

PROCESSES = 2
TOKEN = "sk_00000000000000000000000000000000"  # noqa: S105 - the sandbox's, made up
ROOT = Path(__file__).parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--rows", type=int, default=20_000, help="messages of a bare and of a product run")
    parser.add_argument("--naive-rows", type=int, default=1_500)
    parser.add_argument("--threads", type=int, default=16, help="of each of the two processes")
    parser.add_argument("--only", choices=["product", "bare"], help="one way alone, to look at it")
    options = parser.parse_args()
    # Directly below the temporary folder, where an unprivileged PostgreSQL may enter.
    folder = Path(tempfile.mkdtemp(prefix="disparo-bench-"))
    folder.chmod(0o755)
    try:
        with Bench(folder, options.threads) as bench:
            return run(bench, options)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(bench: "Bench", options: argparse.Namespace) -> int:
    print(
        f"{os.cpu_count()} processors, Python {sys.version.split()[0]}; {PROCESSES} processes x {options.threads} threads"
    )
    # The first of each pays for imports and connections.
    bench.product(2_000)
    if options.only:
        rates = [getattr(bench, options.only)(options.rows) for _ in range(options.rounds)]
        print(f"{options.only}: " + ", ".join(f"{rate:,.0f}/s" for rate in rates))
        return 0
    bench.naive(100)
    to_bare, to_naive = [], []
    print("round   bare before   product   bare after    naive   product/bare   product/naive")
    for number in range(1, options.rounds + 1):
        before = bench.bare(options.rows)
        product = bench.product(options.rows)
        after = bench.bare(options.rows)
        naive = bench.naive(options.naive_rows)
        to_bare.append(product / ((before + after) / 2))
        to_naive.append(product / naive)
        print(
            f"{number:>5} {before:>11,.0f}/s {product:>7,.0f}/s {after:>10,.0f}/s {naive:>6,.0f}/s"
            f" {to_bare[-1]:>14.2f} {to_naive[-1]:>15.1f}",
            flush=True,
        )
    print(
        f"median of {options.rounds}: product/bare {statistics.median(to_bare):.2f} (at least 0.70), "
        f"product/naive {statistics.median(to_naive):.1f} (at least 7)"
    )
    return 0


class Bench:
    """A sandbox, and `disparo up` on servers of its own."""

    def __init__(self, folder: Path, threads: int) -> None:
        self.folder, self.threads = folder, threads
        self._launched = 0
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DISPARO_")}
        self.environ = kept | {
            "DISPARO_HOME": str(folder / "home"),
            "DISPARO_THREADS": str(threads),
            "DISPARO_TOKEN_BENCH": TOKEN,
            "DISPARO_LOG_LEVEL": "warning",
        }
        self._started: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        sandbox = self._spawn([sys.executable, "-m", "disparo.sandbox", "--port", "0"])
        assert sandbox.stdout is not None
        self.url = sandbox.stdout.readline().split()[1]
        self._disparo("app", "set", "bench", "--id", "app-1", "--base-url", self.url, "--rate", "100000")
        up = self._spawn(
            [sys.executable, "-m", "disparo", "up", "--workers", str(PROCESSES), "--port", str(free_port())],
            log="up.log",
        )
        assert up.stdout is not None
        assert up.stdout.readline() == "ready\n", (self.folder / "up.log").read_text()
        self._up = up
        return self

    def __exit__(self, *_: object) -> None:
        self._let_product_run()
        for process in reversed(self._started):
            process.terminate()
        for process in reversed(self._started):
            process.wait(40)
            assert process.stdout is not None
            process.stdout.close()

    def product(self, rows: int, patience_seconds: float = 120) -> float:
        """Messages per second of a campaign."""
        self._launched += 1
        name = f"bench-{self._launched}"
        content = {
            "name": name,
            "app": "bench",
            "lane": "marketing",
            "dedupe": "none",
            "message": {"type": "text", "text": {"body": "{{ name }}, o pedido {{ number }} foi enviado"}},
        }
        (self.folder / f"{name}.yaml").write_text(json.dumps(content))
        # Others than the run before: a recipient is not written to again at once.
        first = 11_900_000_000 + self._launched * 1_000_000
        lines = [f"{first + n},Ana,{n}" for n in range(rows)]
        (self.folder / f"{name}.csv").write_text("\n".join(["to,name,number", *lines]) + "\n")
        # Stored while the app is paused, so that the import is not what is measured.
        self._disparo("app", "pause", "bench")
        self._disparo("campaign", "launch", f"{name}.yaml", f"{name}.csv", "--yes")
        self._reset()
        self._disparo("app", "resume", "bench")
        return self._rate(rows, patience_seconds)

    def bare(self, rows: int) -> float:
        """Messages per second of bare loops."""
        with self._product_stopped():
            self._reset()
            command = [sys.executable, str(ROOT / "benchmarks" / "bare.py"), self.url, TOKEN]
            share = [rows // PROCESSES] * PROCESSES
            running = [
                subprocess.Popen([*command, str(self.threads), str(number * rows), str(n)], env=self.environ)
                for number, n in enumerate(share)
            ]
            for process in running:
                assert process.wait() == 0
            return self._rate(sum(share))

    def naive(self, rows: int) -> float:
        """Messages per second of a task per message."""
        with self._product_stopped():
            self._reset()
            command = [sys.executable, str(ROOT / "benchmarks" / "run_naive.py"), self.url, TOKEN]
            environ = self.environ | self._naive_servers() | {"PYTHONPATH": str(ROOT)}
            subprocess.run([*command, str(PROCESSES), str(rows)], env=environ, check=True, cwd=self.folder)
            return self._rate(rows)

    def _naive_servers(self) -> dict[str, str]:
        from disparo import embedded

        servers = embedded.use(self.folder / "home", database=True, redis=True)
        try:
            broker = servers.redis_url.replace("unix://", "redis+socket://").split("?")[0] + "?virtual_host=5"
            database = servers.database_url.replace("postgresql://", "postgresql+psycopg://")
        finally:
            servers.close()
        return {"BENCH_BROKER_URL": broker, "BENCH_DATABASE_URL": database}

    def _rate(self, rows: int, patience_seconds: float = 120) -> float:
        stats = self._until(
            lambda: found if (found := self.get("/stats"))["accepted"] >= rows else None, patience_seconds
        )
        assert stats["arrivals"] == stats["accepted"] == rows, stats
        return float((rows - 1) / (stats["last_at"] - stats["first_at"]))

    def _reset(self) -> None:
        request = urllib.request.Request(f"{self.url}/reset", method="POST")  # noqa: S310 - our own sandbox
        with urllib.request.urlopen(request, timeout=10):  # noqa: S310
            pass

    def get(self, path: str) -> Any:
        """A page of the sandbox."""
        with urllib.request.urlopen(f"{self.url}{path}", timeout=10) as answer:  # noqa: S310
            return json.load(answer)

    def _until(self, what: Callable[[], Any], seconds: float) -> Any:
        until = time.monotonic() + seconds
        while not (found := what()):
            if time.monotonic() > until:
                sys.exit(f"nothing moves any more:\n{(self.folder / 'up.log').read_text()[-3000:]}")
            time.sleep(0.2)
        return found

    def _disparo(self, *arguments: str) -> None:
        subprocess.run(
            [sys.executable, "-m", "disparo", *arguments],
            env=self.environ,
            cwd=self.folder,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _spawn(self, command: list[str], log: str = "sandbox.log") -> subprocess.Popen[str]:
        with (self.folder / log).open("a") as file:
            process = subprocess.Popen(
                command, env=self.environ, cwd=self.folder, stdout=subprocess.PIPE, stderr=file, text=True
            )
        self._started.append(process)
        return process

    @contextmanager
    def _product_stopped(self) -> Iterator[None]:
        for pid, _ in self.children():
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            self._let_product_run()

    def _let_product_run(self) -> None:
        for pid, _ in self.children():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def children(self) -> list[tuple[int, str]]:
        """Pid and command of the processes that `up` started, the servers apart."""
        found = [
            (int(pid), Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
            for task in Path(f"/proc/{self._up.pid}/task").iterdir()
            for pid in (task / "children").read_text().split()
        ]
        return [(pid, command) for pid, command in found if "celery" in command or "uvicorn" in command]

    def server_connections(self) -> tuple[int, int]:
        """Connections to PostgreSQL and to Redis, this look's own left out."""
        import redis
        from sqlalchemy import text

        from disparo.connections import connect
        from disparo.settings import Environment

        mine = {name: value for name, value in self.environ.items() if name.startswith("DISPARO_")}
        with connect(Environment(mine), name="bench") as connections, connections.session() as session:
            postgresql = session.execute(
                text("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'disparo%'")
            ).scalar_one()
            with redis.Redis.from_url(connections.redis_url) as client:
                return int(postgresql), len(client.client_list()) - 1


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
