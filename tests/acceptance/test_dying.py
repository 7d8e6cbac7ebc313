"""What is left of dying, with real processes: the disk, no scheduler, both servers, sleep, a lost journal, an import.

Counted at the sandbox and in the tables. Lost: a message without an outcome, or accepted in the tables and never
seen by the sandbox. Doubled: one that the sandbox accepted twice.

Each way to die and the tests that prove what follows; the last test of this file looks whether they are there.

Import, in a page and between two:
    test_dying: test_an_import_that_is_killed_goes_on_with_the_same_command_and_has_each_row_once
    test_cli_campaign: test_the_same_command_resumes_an_import_that_died_with_every_row_once
Scheduler, after its commit and before the enqueuing:
    test_ticks: test_work_of_a_scheduler_that_was_killed_before_it_was_all_enqueued_is_named_again
    test_ticks: test_reminders_become_messages_while_redis_is_away
    test_recovery: test_jobs_that_nobody_took_are_named_again_when_the_queues_are_empty
Scheduler twice, then once, then none:
    test_dying: test_two_schedulers_do_no_harm_and_one_may_die_and_then_the_other
    test_ticks: test_of_two_ticks_at_once_one_runs
Worker, before its claim is committed:
    test_batches: test_a_claim_that_was_not_committed_is_nobodys
    test_recovery: test_jobs_whose_worker_was_not_seen_for_some_seconds_are_lost
Worker, after its claim and before the journal's start; after the start; after the answer:
    test_recovery: test_a_dead_worker_leaves_answered_started_and_unstarted_rows
    test_sender: test_a_living_sender_settles_what_a_dead_one_left
    test_journal: test_a_start_is_in_the_file_when_the_owner_is_killed_right_after_it
    test_death: test_killed_workers_lose_nothing_and_double_nothing
Worker, after recording and before its job is acknowledged:
    test_batches: test_a_job_that_comes_twice_finds_nothing_to_take_once_it_is_done
    test_processes: test_the_processes_of_the_compose_file_send_a_campaign_and_one_worker_may_stop_in_its_middle
Worker, again and again by the same row:
    test_recovery: test_a_row_that_kills_its_worker_again_and_again_is_stopped
Worker, by SIGTERM or Ctrl-C:
    test_processes: test_the_processes_of_the_compose_file_send_a_campaign_and_one_worker_may_stop_in_its_middle
    test_processes: test_two_interrupts_and_a_redis_that_is_killed_with_its_data_lose_and_double_nothing
    test_sender: test_not_a_row_is_lost_when_a_sender_drains
Worker or machine, suspended and resumed:
    test_dying: test_a_worker_that_slept_through_a_stop_begins_nothing_more
    test_sender: test_a_row_that_was_claimed_too_long_ago_is_put_back_and_not_sent
Host, with its journal or without:
    test_dying: test_a_journal_that_is_lost_leaves_unknown_what_its_worker_had_claimed_and_nothing_else
    test_recovery: test_only_claims_older_than_the_lease_become_unknown_and_none_pending
    test_recovery: test_without_a_whole_journal_nothing_that_was_claimed_is_sent_again
Any process by SIGKILL, and all of them at once:
    test_chaos: test_workers_redis_and_postgresql_are_killed_and_every_promise_is_kept
    test_death: test_an_installation_that_ends_in_every_way_goes_on_each_time
    test_supervisor: test_a_dead_child_is_started_again_and_one_line_says_why
Redis emptied, and killed with its data:
    test_death: test_an_installation_that_ends_in_every_way_goes_on_each_time
    test_processes: test_two_interrupts_and_a_redis_that_is_killed_with_its_data_lose_and_double_nothing
    test_ticks: test_everything_is_enqueued_again_after_redis_was_emptied
    test_ratelimit: test_an_emptied_redis_grants_nothing_until_what_it_granted_has_left
PostgreSQL killed and started again:
    test_chaos: test_workers_redis_and_postgresql_are_killed_and_every_promise_is_kept
    test_sender: test_rows_of_a_claim_that_postgresql_commits_late_are_put_back_too
PostgreSQL away, Redis away, and both:
    test_dying: test_postgresql_and_redis_away_at_once_lose_double_and_leave_unknown_nothing
    test_network: test_a_database_that_is_cut_off_loses_doubles_and_leaves_unknown_nothing
    test_network: test_a_redis_that_is_cut_off_loses_doubles_and_leaves_unknown_nothing
Network to the provider:
    test_network: test_an_endpoint_that_is_cut_off_leaves_unknown_what_was_in_flight_and_nothing_else
    test_sender: test_a_connection_that_closes_after_the_request_leaves_the_row_unknown
Clocks that step:
    test_recovery: test_what_was_due_before_the_clock_was_set_back_is_due
    test_recovery: test_a_lease_ends_in_its_time_although_the_clock_was_set_back
    test_ratelimit: test_whatever_the_clock_and_the_rate_do_no_second_holds_more_than_the_rate
Disk full under the journal:
    test_dying: test_a_full_disk_stops_sending_with_a_sentence_and_what_has_room_again_goes_on
    test_journal: test_a_full_disk_starts_nothing_and_spoils_no_later_start
Backup restored:
    test_restored_backup: test_a_backup_restored_under_running_workers_sends_nothing_twice
Old code beside new:
    test_old_code: test_old_workers_go_on_while_a_newer_version_upgrades_the_database_and_names_jobs
"""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Interval, bindparam, func, select, text

from disparo import apps, campaigns, db, recovery
from disparo.connections import connect
from disparo.models import Message
from disparo.recipients import PAGE_ROWS
from disparo.settings import Environment
from tests.acceptance.test_network import (
    GOES_ON_SECONDS,
    PATIENCE_SECONDS,
    THREADS,
    Network,
    _database_address,
    _database_through,
    _redis_address,
    _redis_through,
    _with_path,
)
from tests.acceptance.test_processes import TOKEN, Processes
from tests.conftest import Servers, cloned_database
from tests.factories.campaign import make_campaign
from tests.tcp_proxy import TCPProxy

RATE = 200
WORKER, CONTROL, BEAT = "worker-bulk", "control", "beat"


class Piped(Processes):
    """Processes whose log goes through a pipe, so that a limit on files does not silence them."""

    def __init__(self, folder: Path, **settings: str) -> None:
        super().__init__(folder, **settings)
        with (folder / "processes.log").open("ab") as log:
            self._pipe = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=log, start_new_session=True)

    def spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        log = self._pipe.stdin
        process = subprocess.Popen(
            command, env=self.environ, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
        )
        self.running.append(process)
        return process

    def end(self) -> None:
        super().end()
        self._pipe.communicate(timeout=10)


@dataclass
class House(Network):
    """One worker and two schedulers."""

    worker: subprocess.Popen[bytes] = field(kw_only=True)
    schedulers: dict[str, list[subprocess.Popen[bytes]]] = field(default_factory=dict)

    @property
    def journals(self) -> Path:
        return Path(self.processes.environ["DISPARO_HOME"]) / "journal"

    def begin(self, name: str, rows: int = 300) -> None:
        """A campaign of which a hundred have left."""
        urllib.request.urlopen(f"{self.processes.sandbox_url}/reset", data=b"", timeout=10).close()  # noqa: S310 - http
        self.logged = len(self.processes.log)
        with self.connections.session() as session:
            make_campaign(
                session, apps.get(session, "loja"), rows, name=name, lane="utility", window="always"
            )
        self.until_arrived(100)

    def until_arrived(self, n: int) -> None:
        self.processes.until(lambda: self.arrivals() >= n, f"{n} arrivals")

    def start_worker(self) -> None:
        """Another worker, as soon as it lives."""
        self.worker = self.processes.start(WORKER)
        self.until_ask(
            f"SELECT count(*) FROM workers WHERE pid = {self.worker.pid}",
            lambda n: n == 1,
            "the worker to live",
        )

    def start_scheduler(self, host: str) -> None:
        """Another scheduler, with the home of a host of its own."""
        environ = self.processes.environ
        self.processes.environ = environ | {"DISPARO_HOME": str(self.processes.folder / host)}
        self.schedulers[host] = [self.processes.start(service) for service in (CONTROL, BEAT)]
        self.processes.environ = environ

    def is_scheduling(self, host: str) -> bool:
        """Whether a scheduler shows signs of life."""
        return all((self.processes.folder / host / f"{part}.alive").exists() for part in (CONTROL, BEAT))

    def kill_scheduler(self, host: str) -> None:
        kill(*self.schedulers.pop(host))

    def until_told(self, words: str, times: int = 1) -> None:
        self.processes.until(lambda: self.log().count(words) >= times, f"{words!r} in the log, {times} times")

    def ask(self, query: str) -> Any:
        with self.connections.session() as session:
            return session.execute(text(query)).scalar()

    def until_ask(self, query: str, holds: Callable[[Any], bool], why: str) -> None:
        self.processes.until(lambda: holds(self.ask(query)), why)

    def pass_time(self, statement: str, time: timedelta) -> None:
        """Let instants be so much older, instead of waiting."""
        bound = text(statement).bindparams(bindparam("time", type_=Interval))
        with self.connections.session() as session:
            session.execute(bound, {"time": time})

    def begun(self) -> int:
        """Requests that the worker has written down as begun."""
        files = self.journals.glob(f"*-{self.worker.pid}-*.journal")
        return sum(line.startswith(b"S ") for path in files for line in path.read_bytes().splitlines())

    def until_answered(self) -> None:
        """Wait until no request is open, so that what has arrived is all that was written."""
        self.processes.until(lambda: self.stats()["open_requests"] == 0, "the last answers")

    def goes_on_after(self, heal: Callable[[], object], what: str) -> None:
        """Heal, and measure the time until more has arrived than could have been under way."""
        before = self.arrivals() + THREADS
        healed_at = time.monotonic()
        heal()
        self.processes.until(lambda: self.arrivals() > before, "sending to go on")
        took = time.monotonic() - healed_at
        print(f"{what}: sending went on {took:.1f} s after its end, promised are {GOES_ON_SECONDS:.0f}")  # noqa: T201
        assert took < PATIENCE_SECONDS

    def settled(self, name: str) -> dict[str, int]:
        """Messages by status, once none is pending or sending; nothing is lost or doubled, and the counters are true."""

        def there() -> dict[str, int] | None:
            with self.connections.session() as session:
                campaign = campaigns.get(session, name)
                query = select(Message.status, func.count()).where(Message.campaign_id == campaign.id)
                found = dict(session.execute(query.group_by(Message.status)).all())
            return None if {"pending", "sending"} & set(found) else found

        found: dict[str, int] = self.processes.until(there, f"{name} to be settled")
        status, stats = self.status(name), self.stats()
        assert sum(found.values()) == status["total"]
        assert {state: n for state, n in status["counts"].items() if n} == found
        assert stats["repeated"] == 0
        assert (
            found.get("accepted", 0)
            <= stats["distinct"]
            <= found.get("accepted", 0) + found.get("unknown", 0)
        )
        assert "Traceback" not in self.log()
        assert TOKEN not in self.log()
        return found


@pytest.fixture(scope="module")
def database(servers: Servers, template: str) -> Iterator[str]:
    """A database for all tests of this file."""
    yield from cloned_database(servers, template, f"disparo_dying_{os.getpid()}")


@pytest.fixture(scope="module")
def house(servers: Servers, database: str) -> Iterator[House]:
    folder = Path(tempfile.mkdtemp(prefix="disparo-dying-"))
    redis_url = _with_path(servers.redis_url, 0)
    home = str(folder / "home")
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        to_database = stack.enter_context(TCPProxy(_database_address(database)))
        to_redis = stack.enter_context(TCPProxy(_redis_address(redis_url)))
        processes = Piped(
            folder,
            DISPARO_HOME=home,
            DISPARO_DATABASE_URL=_database_through(database, to_database.port),
            DISPARO_REDIS_URL=_redis_through(redis_url, to_redis.port),
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
        worker = processes.start(WORKER)
        direct = {"DISPARO_HOME": home, "DISPARO_DATABASE_URL": database, "DISPARO_REDIS_URL": redis_url}
        connections = stack.enter_context(connect(Environment(direct)))
        made = House(processes, endpoint, to_database, to_redis, connections, worker=worker)
        for host in ("first", "second"):
            made.start_scheduler(host)
        yield made


def test_a_full_disk_stops_sending_with_a_sentence_and_what_has_room_again_goes_on(house: House) -> None:
    house.begin("disco")
    pid, limit = house.worker.pid, resource.RLIMIT_FSIZE
    soft, hard = resource.prlimit(pid, limit)
    resource.prlimit(pid, limit, (0, hard))
    house.until_told("journal_full")
    house.until_answered()
    stopped_at = house.arrivals()
    # It tries again, without a request.
    house.until_ask(
        "SELECT max(claims) FROM messages WHERE status = 'pending'",
        lambda n: n >= 2,
        "the worker to try again",
    )
    assert house.arrivals() == stopped_at
    assert "cannot be written: File too large" in house.log()
    status = house.status("disco")
    assert (status["state"], status["workers"]) == ("running", 1)
    house.goes_on_after(lambda: resource.prlimit(pid, limit, (soft, hard)), "full disk")
    assert house.settled("disco") == {"accepted": 300}


def test_two_schedulers_do_no_harm_and_one_may_die_and_then_the_other(house: House) -> None:
    house.processes.until(lambda: all(map(house.is_scheduling, ("first", "second"))), "two schedulers")
    house.begin("dois", 1_200)
    house.kill_scheduler("first")
    # Further than the first of them had named work.
    house.until_arrived(100 + 3 * RATE)
    house.kill_scheduler("second")
    # What was named before leaves; then nobody names more.
    house.until_ask(
        "SELECT count(*) FROM batches WHERE state = 'released'", lambda n: n == 0, "the queue to run dry"
    )
    house.until_answered()
    assert house.stats()["arrivals"] < 1_200 - THREADS, "the scheduler died too late: this tests nothing"
    house.goes_on_after(lambda: house.start_scheduler("third"), "no scheduler")
    assert house.settled("dois") == {"accepted": 1_200}


def test_postgresql_and_redis_away_at_once_lose_double_and_leave_unknown_nothing(house: House) -> None:
    house.begin("ambos")
    for proxy in (house.database, house.redis):
        proxy.refuse()
        assert proxy.cut() > 0
    house.until_worker_is_silent()
    house.until_told("tick_not_enqueued")
    # Each of the two that are left.
    house.until_told("Trying again in 2.00 seconds", 2)

    def heal() -> None:
        house.database.heal()
        house.redis.heal()

    house.goes_on_after(heal, "PostgreSQL and Redis away")
    assert house.settled("ambos") == {"accepted": 300}


@pytest.mark.parametrize("end", ["paused", "cancelled"])
def test_a_worker_that_slept_through_a_stop_begins_nothing_more(house: House, end: str) -> None:
    house.begin(end)
    house.worker.send_signal(signal.SIGSTOP)
    try:
        with house.connections.session() as session:
            campaign = campaigns.get(session, end)
            if end == "paused":
                campaigns.pause(session, campaign)
            else:
                campaigns.cancel(session, campaign, db.now(session))
        house.until_answered()
        house.until_worker_is_silent()
        begun = house.begun()
        # A machine that wakes up has no network for a moment: nobody can tell the worker of the stop.
        house.database.refuse()
        house.database.cut()
    finally:
        house.worker.send_signal(signal.SIGCONT)
    house.until_told("outcomes_wait_for_database")
    house.database.heal()
    house.until_ask(
        "SELECT count(*) FROM messages WHERE status = 'sending'", lambda n: n == 0, "rows to be put back"
    )
    # Some threads may have been stopped between their look at the stops and their line in the journal.
    assert house.begun() - begun < THREADS // 3, "it sent what it had claimed before it slept"
    if end == "paused":
        with house.connections.session() as session:
            campaigns.resume(session, campaigns.get(session, end), db.now(session))
        assert house.settled(end) == {"accepted": 300}
    else:
        found = house.settled(end)
        assert found == {"accepted": house.arrivals(), "cancelled": 300 - house.arrivals()}


def test_a_journal_that_is_lost_leaves_unknown_what_its_worker_had_claimed_and_nothing_else(
    house: House,
) -> None:
    house.begin("perdido", 600)
    # Deleted under its worker: that goes on, and nobody can say any more what it had begun.
    shutil.rmtree(house.journals)
    house.until_arrived(200)
    lost = house.worker
    kill(lost)
    house.until_answered()
    its = f"claimed_by LIKE '%-{lost.pid}-%'"
    sending = f"SELECT count(*) FROM messages WHERE status = 'sending' AND {its}"
    claimed = house.ask(sending)
    assert claimed > 0
    house.pass_time(
        f"UPDATE workers SET seen_at = seen_at - :time WHERE pid = {lost.pid}", recovery.ALIVE_WITHIN
    )
    house.goes_on_after(house.start_worker, "journal lost")
    assert house.ask(sending) == claimed
    house.pass_time(
        f"UPDATE messages SET claimed_at = claimed_at - :time WHERE status = 'sending' AND {its}",
        recovery.LEASE,
    )
    expired_at = time.monotonic()
    house.until_ask(
        "SELECT count(*) FROM messages WHERE status = 'unknown' AND code = 'lease_expired'",
        lambda n: n == claimed,
        "the expired to be unknown",
    )
    took = time.monotonic() - expired_at
    found = f"{claimed} unknown {recovery.LEASE.seconds + took:.1f} s after their claim"
    print(f"journal lost: {found}, promised are 120")  # noqa: T201
    assert took < PATIENCE_SECONDS
    assert house.settled("perdido") == {"accepted": 600 - claimed, "unknown": claimed}


def test_an_import_that_is_killed_goes_on_with_the_same_command_and_has_each_row_once(house: House) -> None:
    rows = PAGE_ROWS + 2_000
    content = {"name": "lista", "app": "loja", "message": {"type": "text", "text": {"body": "{{ n }}"}}}
    folder = house.processes.folder
    (folder / "lista.yaml").write_text(json.dumps(content))
    lines = [f"{11_900_000_000 + n},{n}" for n in range(rows)]
    (folder / "lista.csv").write_text("\n".join(["to,n", *lines]) + "\n")
    command = ["campaign", "launch", "lista.yaml", "lista.csv", "--at", "in 2h"]
    with house.connections.session() as session:
        # The second page stands still before its commit.
        session.execute(
            text(
                "CREATE FUNCTION stand_still() RETURNS trigger LANGUAGE plpgsql AS"
                " 'BEGIN PERFORM pg_sleep(600); RETURN NEW; END'"
            )
        )
        session.execute(
            text(
                "CREATE TRIGGER second_page BEFORE UPDATE ON imports FOR EACH ROW"
                " WHEN (OLD.accepted > 0) EXECUTE FUNCTION stand_still()"
            )
        )
    importing = house.processes.spawn([sys.executable, "-m", "disparo", *command])
    standing = "FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
    house.until_ask(f"SELECT count(*) {standing}", lambda n: n == 1, "the second page")
    kill(importing)
    # PostgreSQL sees only at the end of a statement that nobody is there any more.
    house.ask(f"SELECT pg_terminate_backend(pid, 10000) {standing}")
    with house.connections.session() as session:
        session.execute(text("DROP FUNCTION stand_still CASCADE"))
    stored = "SELECT count(*) FROM messages JOIN campaigns c ON c.id = campaign_id WHERE c.name = 'lista'"
    assert house.ask(stored) == PAGE_ROWS
    house.processes.disparo(*command)
    assert house.ask(stored) == house.ask(stored.replace("count(*)", "count(DISTINCT line)")) == rows
    status = house.status("lista")
    assert (status["state"], status["total"], status["counts"]["pending"]) == ("scheduled", rows, rows)


def test_the_tests_that_are_named_above_are_there() -> None:
    named = re.findall(r"^    (\w+): (test_\w+)$", __doc__ or "", re.MULTILINE)
    files = {path.stem: path.read_text() for path in Path(__file__).parent.parent.glob("*/test_*.py")}
    missing = [(file, test) for file, test in named if f"\ndef {test}(" not in files.get(file, "")]
    assert len(named) > 40
    assert missing == []


def kill(*processes: subprocess.Popen[bytes]) -> None:
    for process in processes:
        process.kill()
        process.wait(10)
