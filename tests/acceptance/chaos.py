"""Real processes are killed while a campaign runs; then two books are compared, message by message.

``python -m tests.acceptance.chaos`` (``make chaos``) sends 20,000 messages to a sandbox that is slow and
refuses, garbles or swallows a share of the requests, while workers are killed with kill -9 every few
seconds, then the scheduler and the web process, then Redis, then PostgreSQL, then everything. A second run
does the same without faults of the sandbox. Exit 0 when every promise was kept, 1 with the reasons when one
was broken, 2 for a wrong option. It talks to 127.0.0.1 only, kills only what it has started, and stops by
itself.
"""

import argparse
import contextlib
import json
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import redis
from sqlalchemy import Engine, select, text
from sqlalchemy.exc import DBAPIError

from disparo import campaigns
from disparo.db import make_engine
from disparo.errors import DisparoError
from disparo.models import Message
from disparo.sandbox import Options
from disparo.statuses import Status
from tests.acceptance.account import DIED, UNEXPLAINED, Account, Delivery, Row, broken, compare
from tests.acceptance.chaos_report import Plan, Report, Strike, table
from tests.acceptance.conftest import Installation, installed, wait_for

CAMPAIGN = "caos"
#: Requests in flight of one worker at most (``DISPARO_THREADS``).
THREADS = 32
#: A whole request of a worker takes no longer.
DEADLINE_SECONDS = 40.0
#: A busy machine may take so long to bring a request from one process to the other.
SLACK_SECONDS = 1.0
#: A server that was killed may come back by itself for so long; then it is started as a person would.
REVIVE_SECONDS = 8.0
#: After a strike sending goes on within this time, and all is settled within that after the last one.
HEAL_SECONDS, SETTLE_SECONDS = 10.0, 130.0
#: Sending goes on once a second brings this share of what the rate allows.
GOES_ON_SHARE = 0.25
#: A longer search for a sign of life is given up; the promise is broken by then.
PATIENCE_SECONDS = 60.0
#: Broken promises are shown with the histories of so many of their messages.
HISTORIES = 12

#: Each is met by this share of the requests. Account-level refusals are left out: they pause the app.
FAULTS = {
    **dict.fromkeys(("500", "meta:131026", "502", "503-after", "504-after"), 0.01),
    **dict.fromkeys(("close-before", "close-after", "cut", "no-id"), 0.01),
    # Each holds back the whole app for a second.
    "throttle:1": 0.0005,
}
#: Each holds a thread for the whole deadline of a request.
ENDLESS = {"hang": 0.0005, "drip": 0.0005}
#: Left out where time is short: the next tries of the former take up to a minute.
SLOW_FAULTS = {"meta:131000": 0.01} | ENDLESS


def long_plan(rows: int, seed: int, *, faults: bool) -> Plan:
    """Workers every few seconds, the scheduler and web; then Redis; then PostgreSQL; then everything."""
    phases = [
        ["worker"] * 6 + ["workers"] * 2 + ["control", "beat", "web"],
        ["flushall", "redis", "flushall", "redis", "worker"],
        ["pg backend", "postgres", "pg immediate", "postgres", "postgres, worker"],
        ["up", "everything"],
    ]
    order = random.Random(seed)  # noqa: S311 - no secret
    for phase in phases:
        order.shuffle(phase)
    strikes = tuple(strike for phase in phases for strike in phase)
    return Plan(rows, seed, FAULTS | SLOW_FAULTS if faults else {}, strikes)


def short_plan(rows: int, seed: int, *, faults: bool) -> Plan:
    """Two workers, Redis and PostgreSQL."""
    return Plan(rows, seed, FAULTS if faults else {}, ("worker", "redis", "worker", "postgres"))


class _OutOfTimeError(AssertionError):
    """The run has lasted longer than it may."""


class Pulse(threading.Thread):
    """Looks at the sandbox and at the journals fifty times a second, from the side."""

    def __init__(self, installation: Installation, kept: Path) -> None:
        super().__init__(name="pulse", daemon=True)
        self._sandbox = installation.sandbox
        self._journals = installation.home / "journal"
        self._kept = kept
        self._ended = threading.Event()
        self._times: list[float] = []
        self._arrivals: list[int] = []
        self._unsettled: list[Strike] = []

    def run(self) -> None:
        while not self._ended.wait(0.02):
            stats = self._sandbox.stats()
            self._times.append(time.time())
            self._arrivals.append(stats["arrivals"])
            self._keep_journals()
            for strike in [s for s in self._unsettled if not any(lock.exists() for lock in s.journals)]:
                strike.settled_seconds = time.time() - strike.at
                self._unsettled.remove(strike)

    def end(self) -> None:
        self._ended.set()
        self.join()

    def watch(self, strike: Strike) -> None:
        """See when the journals of a strike's workers are settled."""
        if strike.journals:
            self._unsettled.append(strike)

    def journals(self, pid: int) -> list[Path]:
        """The lock of a worker's journal, which is there once it may send."""
        return list(self._journals.glob(f"*-{pid}-*.lock"))

    def in_flight(self, pid: int) -> int:
        """Requests that a worker has begun and not heard the end of; it must stand still."""
        begun: set[tuple[int, int]] = set()
        for path in self._journals.glob(f"*-{pid}-*.journal"):
            for line in path.read_bytes().splitlines():
                # The last one may be half a line.
                with contextlib.suppress(ValueError, KeyError, IndexError):
                    if line.startswith(b"S "):
                        begun.add((int(line.split()[1]), int(line.split()[2])))
                    elif line.startswith(b"A "):
                        answer = json.loads(line[2:])
                        begun.discard((answer["message_id"], answer["claim"]))
        return len(begun)

    def written_at(self, pid: int) -> float:
        """When a worker last began a request or got an answer, 0 for one that has not begun yet."""
        try:
            return max(path.stat().st_mtime for path in self._journals.glob(f"*-{pid}-*.journal"))
        except (ValueError, FileNotFoundError):
            return 0.0

    def went_on(self, since: float, enough: float) -> float | None:
        """The first instant from ``since`` on at which a second of at least ``enough`` arrivals begins."""
        for at in range(bisect_left(self._times, since), len(self._times)):
            begins, second = self._times[at], bisect_left(self._times, self._times[at] + 1.0)
            if second < len(self._times) and self._arrivals[second] - self._arrivals[at] >= enough:
                return begins
        return None

    def _keep_journals(self) -> None:
        """A second name for each, so that they can still be read when they are settled and deleted."""
        try:
            for path in self._journals.glob("*.journal"):
                if not (self._kept / path.name).exists():
                    os.link(path, self._kept / path.name)
        except FileNotFoundError:
            return  # deleted while we looked, or there is none yet


class Chaos:
    """One run on a new installation."""

    def __init__(self, installation: Installation, plan: Plan, say: Callable[[str], None]) -> None:
        self.installation, self.plan, self.report = installation, plan, Report(plan)
        self._say = say
        self._random = random.Random(plan.seed)  # noqa: S311 - no secret
        self._kept = installation.folder / "journals"
        self._kept.mkdir()
        self.pulse = Pulse(installation, self._kept)
        #: Name of each killed worker → when.
        self._killed_at: dict[str, float] = {}
        self._redis: redis.Redis
        self._engine: Engine

    def run(self) -> Report:
        """Start everything, strike, let it settle, and compare the books."""
        report, begun = self.report, time.monotonic()
        self.installation.start("--workers", str(self.plan.workers))
        with self.installation.connections() as connections:
            self._redis = redis.Redis.from_url(connections.redis_url)
            self._engine = make_engine(connections.database_url)
        files = self.installation.campaign(CAMPAIGN, self.plan.rows)
        self.installation.run("campaign", "launch", *files, "--yes")
        self.pulse.start()
        try:
            for step in (self._strike_all, self._settle):
                try:
                    step()
                except _OutOfTimeError as err:
                    report.reasons.append(str(err))
                    break
                except (AssertionError, DisparoError, DBAPIError) as err:
                    report.reasons.append(f"it did not go on: {str(err).splitlines()[0]}")
        finally:
            self.pulse.end()
            self._redis.close()
            self._engine.dispose()
        self._compare()
        self._stop()
        report.tracebacks = self.installation.log().count("Traceback")
        report.seconds = time.monotonic() - begun
        return report

    # Strikes

    def _strike_all(self) -> None:
        for number, kind in enumerate(self.plan.strikes, 1):
            self._reach(self.plan.rows * 0.8 * number / len(self.plan.strikes))
            self._strike(kind)

    def _reach(self, arrivals: float) -> None:
        wait_for(
            lambda: self.installation.sandbox.stats()["arrivals"] >= arrivals,
            seconds=PATIENCE_SECONDS + self.plan.rows / self.plan.rate,
            why=f"{arrivals:.0f} requests to arrive",
        )

    def _strike(self, kind: str) -> None:
        strike = Strike(kind, time.time())
        self.report.strikes.append(strike)
        self._say(f"{kind} …")
        STRIKES[kind](self, strike)
        back_at, enough = strike.at + strike.down_seconds, self.plan.rate * GOES_ON_SHARE
        wait_for(
            lambda: self.pulse.went_on(back_at, enough),
            seconds=PATIENCE_SECONDS,
            why=f"sending to go on after {kind}",
        )
        went_on = self.pulse.went_on(back_at, enough)
        assert went_on is not None
        strike.went_on_seconds = went_on - back_at

    def one_worker(self, strike: Strike) -> None:
        """Kill -9 a worker, mostly the one that sent last: the other may have nothing in flight."""
        living = sorted(self._workers())
        busiest = max(living, key=self.pulse.written_at)
        self._kill(strike, [busiest if self._random.random() < 0.75 else self._random.choice(living)])

    def all_workers(self, strike: Strike) -> None:
        """Kill -9 all workers at once."""
        self._kill(strike, self._workers())

    def _workers(self) -> list[int]:
        found: list[int] = wait_for(self.installation.worker_pids, why="a worker to live")
        return found

    def _kill(self, strike: Strike, workers: list[int], others: Iterable[int] = ()) -> None:
        """Kill -9 all of them. What workers have in flight is counted while they stand still."""
        with contextlib.suppress(ProcessLookupError):
            for pid in workers:
                os.kill(pid, signal.SIGSTOP)
            wait_for(lambda: all(map(_stands_still, workers)), why="the workers to stand still")
        for pid in workers:
            strike.in_flight += min(THREADS, self.pulse.in_flight(pid))
            strike.journals += self.pulse.journals(pid)
        self._killed_at |= {journal.stem: time.time() for journal in strike.journals}
        self.pulse.watch(strike)
        for pid in (*workers, *others):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def part(self, part: str) -> None:
        """Kill -9 the process whose command line has ``part``."""
        os.kill(self._pid(part), signal.SIGKILL)

    def _pid(self, part: str) -> int:
        def there() -> int | None:
            return next((p for p, command in self.installation.processes().items() if part in command), None)

        return int(wait_for(there, why=f"a process with {part!r} to live"))

    def flush(self) -> None:
        """Empty Redis."""
        self._redis.flushall()

    def redis(self, strike: Strike) -> None:
        """Kill -9 Redis; it keeps nothing on disk."""
        self._outage(strike, self._pid("valkey-server"), signal.SIGKILL, self._redis_answers)

    def postgres(self, strike: Strike, number: signal.Signals = signal.SIGKILL) -> None:
        """End PostgreSQL by a signal, without a check point or a good-bye."""
        self._outage(strike, self._postmaster(), number, self._postgres_answers)

    def postgres_and_worker(self, strike: Strike) -> None:
        """Kill -9 PostgreSQL, and a worker that has no place for its outcomes but the journal."""
        os.kill(self._postmaster(), signal.SIGKILL)
        time.sleep(0.5)  # the answers to what was in flight come into an outage
        self.one_worker(strike)
        self._await_return(strike, self._postgres_answers)

    def backend(self, strike: Strike) -> None:
        """Kill -9 one process of PostgreSQL: it ends all the others, and recovers by itself."""
        pids = wait_for(lambda: list(_backends(self._postmaster())), why="a connection to PostgreSQL")
        strike.back_by = "itself"
        self._outage(strike, self._random.choice(sorted(pids)), signal.SIGKILL, self._postgres_answers)

    def up(self, strike: Strike) -> None:
        """Kill -9 `disparo up`, and start it again while its children still drain."""
        parent = self.installation.process
        assert parent is not None
        self._kill(strike, [], [parent.pid])
        # The children's drain waits for all answers but those that never come.
        strike.in_flight = self._hanging()
        self._start_again(strike)

    def _hanging(self) -> int:
        since = time.time() - DEADLINE_SECONDS
        return sum(
            one["at"] > since and one["outcome"].removeprefix("accepted, ") in ENDLESS
            for one in self.installation.sandbox.messages()
        )

    def everything(self, strike: Strike) -> None:
        """Kill -9 every process at once, the servers too, and start again."""
        self._kill(strike, self._workers(), self.installation.processes())
        wait_for(lambda: not self.installation.processes(), why="the killed to be gone")
        self._start_again(strike)

    def _start_again(self, strike: Strike) -> None:
        self.installation.kill()
        self.installation.start("--workers", str(self.plan.workers))
        strike.down_seconds, strike.back_by = time.time() - strike.at, "a person"

    def _postmaster(self) -> int:
        return self._pid(f"-D {self.installation.home}")

    def _outage(self, strike: Strike, pid: int, number: signal.Signals, answers: Callable[[], bool]) -> None:
        os.kill(pid, number)
        wait_for(lambda: _is_gone(pid), why=f"process {pid} to end")
        self._await_return(strike, answers)

    def _await_return(self, strike: Strike, answers: Callable[[], bool]) -> None:
        def there() -> bool:
            if answers():
                return True
            if not strike.back_by and time.time() > strike.at + REVIVE_SECONDS:
                strike.back_by = "a person"
                # What any command of a person does.
                with self.installation.connections():
                    pass
            return False

        wait_for(there, seconds=PATIENCE_SECONDS, why=f"the server to be back after {strike.kind}")
        strike.back_by = strike.back_by or "itself"
        strike.down_seconds = time.time() - strike.at

    def _redis_answers(self) -> bool:
        try:
            return bool(self._redis.ping())
        except redis.RedisError:
            return False

    def _postgres_answers(self) -> bool:
        try:
            with self._engine.connect() as connection:
                return bool(connection.execute(text("SELECT 1")).scalar())
        except DBAPIError:
            return False

    # The end

    def _settle(self) -> None:
        last = self.report.strikes[-1]
        ended = last.at + last.down_seconds

        def settled() -> bool:
            time.sleep(0.3)  # each look counts all rows
            return not {"pending", "sending"} & set(self.installation.statuses(CAMPAIGN))

        left = f"all messages to come to an outcome, after the last strike ({last.kind})"
        wait_for(settled, seconds=ended + SETTLE_SECONDS - time.time(), why=left)
        self.report.settled_seconds = time.time() - ended

    def _compare(self) -> None:
        installation, report = self.installation, self.report
        stats, accepted = installation.sandbox.stats(), installation.sandbox.accepted()
        report.faults, report.worst_second = stats["faults"], stats["worst_second"]
        report.throughput = stats["arrivals"] / max(1.0, stats["last_at"] - stats["first_at"])
        self._measure_silence([one["at"] for one in accepted])
        with installation.connections() as made, made.session() as session:
            campaign = campaigns.get(session, CAMPAIGN)
            columns = Message.id, Message.recipient, Message.status, Message.code, Message.gs_id
            found = session.execute(select(*columns).where(Message.campaign_id == campaign.id)).all()
            query = select(Message.recipient, Message.claimed_by).where(
                Message.campaign_id == campaign.id, Message.status == Status.UNKNOWN, Message.code == DIED
            )
            died = {recipient: str(owner) for recipient, owner in session.execute(query)}
        for strike in report.strikes:
            names = {journal.stem for journal in strike.journals}
            strike.unknown = sum(owner in names for owner in died.values())
        rows = [Row(*row) for row in found]
        recipients = installation.recipients(self.plan.rows)
        account = compare(recipients, rows, (Delivery(one["id"], one["to"]) for one in accepted))
        report.account = account
        report.reasons += broken(account, report.faults, report.in_flight())
        late = list(self._not_in_flight(died, {one["to"]: one for one in accepted}))
        if late:
            report.reasons.append(
                f"{len(late)} are unknown because a worker died, and were not in flight when it was killed"
            )
        report.reasons += self._slow_strikes()
        report.reasons += self._product_account(account, rows)
        suspects = [*late, *account.lost, *account.doubled, *account.lied, *account.strange]
        suspects += [row.recipient for row in rows if row.status == "unknown" and row.code in UNEXPLAINED]
        for to in list(dict.fromkeys(suspects))[:HISTORIES]:
            report.histories.append(self._history(to))

    def _not_in_flight(self, died: dict[str, str], deliveries: dict[str, dict[str, Any]]) -> Iterator[str]:
        """Delivered ones, by the sandbox's clock, long before or after the death of their worker."""
        _, longest = Options(latency_ms=self.plan.latency_ms).latency_seconds()
        for to, owner in died.items():
            delivery = deliveries.get(to)
            if delivery is None or delivery["outcome"].removeprefix("accepted, ") in ENDLESS:
                continue
            waited = self._killed_at.get(owner, math.inf) - delivery["at"]
            if not -SLACK_SECONDS < waited < longest + SLACK_SECONDS:
                yield to

    def _measure_silence(self, deliveries: list[float]) -> None:
        """From the instants of all deliveries, in order."""
        strikes = self.report.strikes
        # The last few messages wait for nothing but their next try.
        bulk = deliveries[: len(deliveries) * 98 // 100]
        ends = [*(strike.at for strike in strikes[1:]), *bulk[-1:]]
        for strike, end in zip(strikes, ends, strict=False):
            within = bulk[bisect_left(bulk, strike.at) : bisect_left(bulk, end)]
            gaps = zip([strike.at, *within], [*within, max(end, strike.at)], strict=True)
            strike.silent_seconds = max(after - before for before, after in gaps)

    def _slow_strikes(self) -> Iterator[str]:
        for strike in self.report.strikes:
            healed = strike.healed_seconds()
            if healed is None or healed > HEAL_SECONDS:
                how = f"for {healed:.1f} s" if healed is not None else "until the end"
                yield f"after {strike.kind} sending stood still {how}, more than {HEAL_SECONDS:.0f} s"
            if strike.back_by == "a person" and strike.kind not in ("up", "everything"):
                yield f"after {strike.kind} nobody but a person started the server again"
            if strike.journals and strike.settled_seconds is None:
                yield f"after {strike.kind} the journals of the killed workers were never settled"

    def _product_account(self, account: Account, rows: list[Row]) -> Iterator[str]:
        """Where Disparo's own account of the campaign differs from its rows."""
        if any(row.status in (Status.PENDING, Status.SENDING) for row in rows):
            return  # it still goes on, so two looks at it differ
        shown = self.installation.json("campaign", "status", CAMPAIGN)
        counted = {status: n for status, n in shown["counts"].items() if n}
        by_row = {status: sum(row.status == status for row in rows) for status in {r.status for r in rows}}
        if counted != by_row or shown["total"] != len(rows):
            yield f"the counters say {counted} of {shown['total']}, and the rows {by_row} of {len(rows)}"
        if {one["code"]: one["count"] for one in shown["failures"]} != dict(account.failed):
            yield f"the failures shown, {shown['failures']}, are not those of the rows, {dict(account.failed)}"
        code = self.installation.run("campaign", "watch", CAMPAIGN, check=False).returncode
        if code != (3 if account.unknown else 0):
            yield f"`campaign watch` ended with {code}, with {account.unknown.total()} messages unknown"

    def _stop(self) -> None:
        code = self.installation.stop()
        left = self.installation.processes()
        if code or left:
            self.report.reasons.append(
                f"`disparo up` ended with {code} and left {len(left)} processes behind"
            )

    # Evidence

    def _history(self, to: str) -> str:
        """All that is known of the message to a recipient: its row, its errors, journals, log, arrivals."""
        lines = [f"{to}:"]
        with self.installation.connections() as made, made.session() as session:
            found = session.execute(text("SELECT * FROM messages WHERE recipient = :to"), {"to": to})
            row: dict[str, Any] = dict(found.mappings().one_or_none() or {})
            lines.append("row " + json.dumps({k: v for k, v in row.items() if v is not None}, default=str))
            errors = session.execute(
                text("SELECT * FROM send_errors WHERE message_id = :id ORDER BY id"), {"id": row.get("id")}
            )
            lines += ["error " + json.dumps(dict(error), default=str) for error in errors.mappings()]
        signs = (f"S {row.get('id')} ", f'"message_id": {row.get("id")},')
        owners = {str(row.get("claimed_by"))}
        for path in sorted(self._kept.iterdir(), key=lambda path: path.stat().st_mtime):
            told = [
                one
                for one in path.read_text(errors="replace").splitlines()
                if one.startswith(signs[0]) or signs[1] in one
            ]
            lines += [f"journal {path.name}: {one}" for one in told]
            owners |= {path.name.partition(".")[0]} if told else set()
        for line in self.installation.log().splitlines():
            if any(owner in line for owner in owners):
                lines.append(f"log {line[:300]}")
        for arrival in self.installation.sandbox.messages(to):
            lines.append(f"arrival {arrival['at']:.3f} {arrival['outcome']} {arrival['id']}")
        return "\n    ".join(lines)

    def keep_evidence(self, folder: Path) -> None:
        """Copy logs and journals into the new ``folder``."""
        folder.mkdir()
        home = self.installation.home
        for path in (self.installation.folder / "up.log", *home.glob("*/server.log")):
            shutil.copy(path, folder / f"{path.parent.name}-{path.name}")
        shutil.copytree(self._kept, folder / "journals")


STRIKES: dict[str, Callable[[Chaos, Strike], None]] = {
    "worker": Chaos.one_worker,
    "workers": Chaos.all_workers,
    "control": lambda chaos, _: chaos.part(" -Q control "),
    "beat": lambda chaos, _: chaos.part(" scheduler beat"),
    "web": lambda chaos, _: chaos.part(" uvicorn "),
    "flushall": lambda chaos, _: chaos.flush(),
    "redis": Chaos.redis,
    "pg backend": Chaos.backend,
    "postgres": Chaos.postgres,
    # Source: PostgreSQL 18, "Shutting Down the Server".
    "pg immediate": lambda chaos, strike: chaos.postgres(strike, signal.SIGQUIT),
    "postgres, worker": Chaos.postgres_and_worker,
    "up": Chaos.up,
    "everything": Chaos.everything,
}


def _backends(postmaster: int) -> Iterator[int]:
    """The processes of a PostgreSQL that serve a client."""
    for path in Path("/proc").iterdir():
        try:
            parent = path.name.isdigit() and (path / "stat").read_text().rsplit(")", 1)[1].split()[1]
            if parent == str(postmaster) and b"postgres: disparo" in (path / "cmdline").read_bytes():
                yield int(path.name)
        except OSError:
            continue


def _is_gone(pid: int) -> bool:
    return _state(Path(f"/proc/{pid}")) == "Z"


def _stands_still(pid: int) -> bool:
    """Whether none of a process's threads runs."""
    return all(_state(task) in "TZ" for task in Path(f"/proc/{pid}/task").glob("*"))


def _state(process: Path) -> str:
    """The letter of a state in proc(5); ``Z`` also when the process is gone."""
    try:
        return (process / "stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "Z"


def run(plan: Plan, *, say: Callable[[str], None] = lambda _: None, evidence: Path | None = None) -> Report:
    """Do what ``plan`` says on an installation of its own, of which nothing is left.

    Args:
      say: Told what is being killed.
      evidence: Where logs and journals go when a promise was broken; None: nowhere.
    """
    options = Options(latency_ms=plan.latency_ms, random_faults=plan.faults, seed=plan.seed)
    with installed(options, rate=plan.rate) as installation:
        chaos = Chaos(installation, plan, say)
        report = chaos.run()
        if report.reasons and evidence is not None:
            chaos.keep_evidence(evidence)
        return report


# The command


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0 every promise was kept, 1 one was broken, 2 a wrong option."""
    parser = argparse.ArgumentParser(prog="python -m tests.acceptance.chaos", description=__doc__)
    parser.add_argument(
        "--seed", type=int, default=1, help="of the faults and of what is killed (%(default)s)"
    )
    parser.add_argument("--rows", type=int, help="messages of a run (20,000; 2,000 with --short)")
    parser.add_argument("--short", action="store_true", help="two workers, Redis and PostgreSQL once each")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--faults", action="store_true", help="only the run with faults of the endpoint")
    which.add_argument("--no-faults", action="store_true", help="only the run without them")
    parser.add_argument("--minutes", type=float, default=9.5, help="longest time in all (%(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    given = parser.parse_args(arguments)
    make = short_plan if given.short else long_plan
    rows = given.rows or (2_000 if given.short else 20_000)
    if rows < 1_000 or given.minutes <= 0:
        parser.error("--rows must be 1000 or more, so that there is time to kill; --minutes more than 0")
    modes = [True] if given.faults else [False] if given.no_faults else [True, False]
    evidence = Path(tempfile.mkdtemp(prefix="disparo-chaos-evidence-"))
    reports: list[Report] = []
    reason = ""
    try:
        with _bounded(given.minutes * 60):
            for faults in modes:
                folder = evidence / ("with-faults" if faults else "without-faults")
                reports.append(run(make(rows, given.seed, faults=faults), say=_say, evidence=folder))
                if not given.json:
                    sys.stdout.write(f"{table(reports[-1])}\n\n")
                    sys.stdout.flush()
    except (AssertionError, KeyboardInterrupt) as err:
        reason = str(err) or "ended by a signal"
    if given.json:
        sys.stdout.write(json.dumps([report.shown() for report in reports], indent=2) + "\n")
    if reason:
        _say(f"it was not carried through: {reason}")
    if any(evidence.iterdir()):
        _say(f"logs and journals: {evidence}")
    else:
        evidence.rmdir()
    return 1 if reason or any(report.reasons for report in reports) else 0


def _say(what: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {what}\n")


@contextlib.contextmanager
def _bounded(seconds: float) -> Iterator[None]:
    """End by itself after that time, and in order when it is told to end: what was started is stopped."""

    def late(_number: int, _frame: FrameType | None) -> None:
        raise _OutOfTimeError(f"it has not ended within {seconds / 60:g} minutes")

    def told(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, late)
    signal.signal(signal.SIGTERM, told)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    sys.exit(main())
