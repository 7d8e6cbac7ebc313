"""The sender: one per worker process, for all apps; its threads and connections outlive the jobs.

The path of a message, each step one call: permits → claim → still wanted? → journal → POST → journal →
verdict → record. A runner per app asks for permits and claims only as many rows as may leave within half a
second; the POST threads send them at their instants; a recorder writes outcomes in groups. A slow answer
holds one thread, a slow app holds nobody else.
"""

import os
import queue
import random
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

import disparo
from disparo import batches, db, fence, log, recovery, retry, tuning
from disparo.batches import Claimed, Job, Outcome
from disparo.campaigns import compile_message, content_of
from disparo.clock import boot_clock
from disparo.connections import Connections
from disparo.errors import (
    DatabaseUnavailable,
    DisparoError,
    InputError,
    RedisUnavailable,
    SettingsError,
    TokenUnavailable,
)
from disparo.gupshup.answers import Judgement, judge
from disparo.gupshup.client import Client
from disparo.ratelimit import Ask, Permits, Stopped, Wait
from disparo.recipients import render
from disparo.rendering import Content
from disparo.statuses import Lane, Status, Verdict
from disparo.stops import Fault
from disparo.tokens import Tokens
from disparo.whatsapp.codes import TABLE, Table
from worker import journal
from worker.breakers import Breakers
from worker.claims import Claims
from worker.pairs import Pairs
from worker.posters import LATE_SECONDS, Posters, Ready
from worker.routes import Route, Routes
from worker.runner import HORIZON_SECONDS, Runner
from worker.together import Together
from worker.view import LOOK_SECONDS, View

#: A claim takes no longer than this, mostly: a row that is claimed after its instant leaves late.
LEAD_SECONDS = 0.08
#: Outcomes are written together that come within this time: the journal keeps them meanwhile.
GROUP_SECONDS = 0.1
GROUP_ROWS = 500
#: A whole POST takes no longer; a lease is more than twice this.
DEADLINE_SECONDS = 40.0
#: No request begins later than this after its row's claim, so that it ends within the lease: the process or
#: its machine may have been suspended in between.
START_SECONDS = recovery.LEASE.total_seconds() - 1.25 * DEADLINE_SECONDS
#: How often a worker says that it lives, and that the batches it holds are at work.
HEARTBEAT_SECONDS = 1.0
#: The code of an answer that refuses the token.
TOKEN_REFUSED = "authentication_failed"  # noqa: S105 - a code
#: How long the database's clock is counted on without asking again.
CLOCK_SECONDS = 1.0

_ALIVE = text("""
    INSERT INTO workers (name, host, pid, version, queues, seen_at, pace)
    VALUES (:name, :host, :pid, :version, :queues, :now, CAST(:pace AS jsonb))
    ON CONFLICT (name) DO UPDATE SET seen_at = excluded.seen_at, pace = excluded.pace""")

logger = log.get(__name__)


def process_name() -> str:
    """A name for this process that no other process, on any host, has or had."""
    host = re.sub(r"[^\w-]", "-", socket.gethostname())[:40]
    return f"{host}-{os.getpid()}-{os.urandom(4).hex()}"


class Sender:
    """Sends what jobs name, at the apps' rates, and accounts for each message. Thread-safe."""

    def __init__(
        self,
        connections: Connections,
        *,
        queues: str = "",
        name: str | None = None,
        client: Client | None = None,
        table: Table = TABLE,
    ) -> None:
        """Take a journal and start the threads.

        Raises:
          SettingsError: The journal's folder cannot be written.
          DatabaseUnavailable: PostgreSQL does not answer; it is asked whether anything may be sent from it.
        """
        settings = connections.settings
        self.name = name or process_name()
        self._connections = connections
        self._queues = queues
        self._folder: Path = settings.home / "journal"
        self._mutex = threading.Lock()
        self._clock = (datetime.min.replace(tzinfo=UTC), -CLOCK_SECONDS)
        self._told: dict[str, float] = {}
        self._view = View(self._session)
        self._routes = Routes(connections)
        self._mirror = fence.Mirror(settings.home)
        self._take, self._finish = Together(self._take_batches), Together(self._finish_jobs)
        self._claims = Claims(self.name, self._session, self._mirror)
        #: Whether the send fence holds everything; and what was recorded since the epoch was last advanced, which
        #: the journal keeps until then.
        self._fenced = False
        self._recorded: list[Outcome] = []
        try:
            self._journal = journal.Journal(self._folder, self.name)
        except OSError as err:
            raise SettingsError(
                f"the journal folder {self._folder} cannot be written ({err.strerror}); without a journal "
                "nothing is sent. Set DISPARO_HOME to a folder of this process's user"
            ) from err
        try:
            self._look_at_fence()
        except BaseException:
            self._journal.close()
            raise
        self._client = client or Client(
            deadline_seconds=DEADLINE_SECONDS,
            ca_bundle=str(settings.ca_bundle) if settings.ca_bundle else None,
            proxy=settings.proxy.get_secret_value() if settings.proxy else None,
        )
        self._tokens = Tokens(connections)
        self._table = table
        self._threads = settings.threads
        self._random = random.Random()  # noqa: S311 - jitter, not a secret
        self._closing = threading.Event()
        self._runners: dict[int, Runner] = {}
        self._contents: dict[tuple[int, int | None], tuple[Content, Content]] = {}
        self._outcomes: queue.SimpleQueue[Outcome | None] = queue.SimpleQueue()
        self._pairs = Pairs(connections, self._outcomes.put, self.tell)
        self._breakers = Breakers(connections, self._view, self._routes, table, self.tell, self._pairs)
        #: Set when something was announced that the minder should look at.
        self._changed = threading.Event()
        self._posters = Posters(self._threads, self._post, self._renew)
        self._all_recorded = True
        self._minder = threading.Thread(target=self._mind, name="minder", daemon=True)
        # Not waited for: it may just be listening to a Redis that does not answer.
        listener = threading.Thread(target=self._listen, name="listener", daemon=True)
        self._recorder = threading.Thread(target=self._record, name="recorder", daemon=True)
        for thread in (self._minder, listener, self._recorder):
            thread.start()
        self._posters.start()

    # -- jobs in -------------------------------------------------------------------------------------

    def take_batch(self, batch_id: int) -> None:
        """Take over the batch that a job names; from here on the row says who holds it."""
        job = self._take(batch_id)
        if job is not None:
            self.submit(job)

    def _take_batches(self, batch_ids: Sequence[int]) -> list[Job | None]:
        with self._session() as (session, now):
            jobs = batches.take(session, batch_ids, self.name, now)
        return [jobs.get(batch_id) for batch_id in batch_ids]

    def take_messages(self, app_id: int, message_ids: list[int]) -> None:
        """Take over single messages that a job names."""
        with self._session() as (session, _):
            job = batches.take_messages(session, app_id, message_ids, self.name)
        if job is not None:
            self.submit(job)

    def submit(self, job: Job) -> None:
        """Hand a job to the runner of its app.

        A batch that can wait goes back while the threads are busy and that has work for a second: other workers may
        have time for it, and nobody else's job waits behind it.
        """
        can_wait = job.batch_id is not None and job.lane != Lane.PAYMENT
        declined = can_wait and self._has_enough(job.app_id)
        with self._mutex:
            if not self._closing.is_set() and not declined:
                runner = self._runners.get(job.app_id)
                if runner is not None and runner.add(job):
                    return
                runner = Runner(self, job.app_id)
                runner.add(job)
                try:
                    runner.start()
                except RuntimeError as err:  # no more threads
                    self.tell("job_left", err)
                else:
                    self._runners[job.app_id] = runner
                    return
        self.hand_back([job])

    def _has_enough(self, app_id: int) -> bool:
        with self._mutex:
            runner = self._runners.get(app_id)
        return (
            runner is not None
            and self._posters.is_busy(app_id)
            and runner.rows() > max(self._posters.per_second(app_id), 4 * self._threads)
        )

    # -- permits and claims (the runner's side) ------------------------------------------------------

    def route(self, app_id: int) -> Route:
        """Where the app's messages go."""
        return self._routes.get(app_id)

    def room(self, app_id: int, rate: float) -> int:
        """Rows of an app worth claiming now: what may leave within the horizon and its threads can take.

        0 after a wait, when they did not take in time what is claimed already.
        """
        return self._posters.room(app_id, rate, HORIZON_SECONDS)

    def is_fenced(self) -> bool:
        """Whether the send fence holds everything."""
        return self._fenced

    def is_held_up(self) -> bool:
        """Whether nothing may be claimed for a moment: the journal cannot be written, or no stop be seen."""
        return self._view.is_held_up()

    def acquire(self, route: Route, asks: Sequence[Ask], *, probe: bool = False) -> Permits | Wait | Stopped:
        """Permits for instants within the horizon."""
        granted = self._connections.limiter.acquire(
            route.app_id,
            asks,
            route.rate,
            HORIZON_SECONDS,
            lead_seconds=LEAD_SECONDS,
            everything=route.everything,
            probe=probe,
        )
        if isinstance(granted, Permits):
            _log_permits("permits", route, [instant for one in granted.instants for instant in one])
        return granted

    def give_back(self, route: Route, instants: Sequence[int]) -> None:
        """Let others have permits for which nothing is left to claim here."""
        # A limit of everything has counted them. So has a campaign's own cap, which loses them.
        if route.everything is None:
            self._connections.limiter.give_back(route.app_id, instants, route.rate)
            _log_permits("permits_given_back", route, instants)

    def claim(self, job: Job, limit: int, route: Route) -> list[Claimed]:
        """Claim rows of a job whose recipients' turn it is; what has to wait makes room for others."""
        return self._pairs.fill(route, limit, lambda asked: self._claims.claim(job, asked))

    def dispatch(
        self,
        rows: list[Claimed],
        route: Route,
        instants: Sequence[float],
        claimed_at: float,
        *,
        capped: bool = False,
    ) -> None:
        """Let each row leave at its instant (monotonic seconds).

        Args:
          claimed_at: An instant of `boot_clock` before the claim.
          capped: Their campaign has a cap of its own.
        """
        # Here, so that the first rows of a campaign need not wait for it when their instants have come. What is
        # wrong with it concerns each row by itself.
        with suppress(Exception):
            for campaign_id, version in {
                (row.campaign_id, row.version) for row in rows if row.content is None
            }:
                self._content(campaign_id, version)
        self._push(
            [Ready(at, claimed_at, row, route, capped) for row, at in zip(rows, instants, strict=True)]
        )

    def _push(self, ready: list[Ready]) -> None:
        if not self._posters.push(ready):
            for one in ready:
                self._put_back(one.row)

    def done(self, job: Job) -> None:
        """Nothing can be claimed of a job now."""
        self._finish(job)

    def _finish_jobs(self, jobs: Sequence[Job]) -> Sequence[None]:
        with self._session() as (session, now):
            batches.finish(session, jobs, now)
        return [None] * len(jobs)

    def hand_back(self, jobs: list[Job]) -> None:
        """Let jobs be named again that were not done here."""
        try:
            with self._session() as (session, _):
                ids = [message_id for job in jobs for message_id in job.message_ids]
                batches.hand_back(session, [job.batch_id for job in jobs if job.batch_id is not None], ids)
        except (DisparoError, DBAPIError) as err:
            # The scheduler finds them silent after a minute.
            self.tell("hand_back_failed", err)

    # -- POST (the threads' side) --------------------------------------------------------------------

    def _post(self, ready: Ready) -> None:
        try:
            self._send(ready)
        except Exception as err:  # noqa: BLE001 - a fault of ours must not end the thread; the row is accounted for
            self._give_up(ready.row, err)

    def _send(self, ready: Ready) -> None:
        row, route = ready.row, ready.route
        if not self._wanted(row):
            return self._put_back(row)
        try:
            body = self._body(row)
            token = self._tokens.get(row.app_id)
        except InputError as err:
            return self._refused(row, "rendering", str(err))
        except SettingsError as err:
            rule = self._table.lookup("no_token")
            self._breakers.refuse(row, route, Fault(rule.code, str(err), rule.hint, rule))
            return self._put_back(row)
        except TokenUnavailable as err:
            self._breakers.cool_down(row.app_id, err.retry_seconds)
            self.tell("sending_waits", err)
            return self._put_back(row)
        except (DisparoError, DBAPIError) as err:
            self.tell("sending_waits", err)
            return self._put_back(row)
        except Exception as err:  # noqa: BLE001 - nothing was sent: it is this row's fault alone
            return self._refused(row, "rendering", f"{type(err).__name__}: {err}")
        try:
            self._view.see()
        except Exception as err:  # noqa: BLE001 - nothing was sent, and it is no fault of this row
            self.tell("sending_waits", err)
            return self._put_back(row)
        # Again: the content may have come from PostgreSQL, or a new view of the stops.
        if not self._wanted(row) or boot_clock() - ready.claimed_at > START_SECONDS:
            return self._put_back(row)
        if time.monotonic() - ready.at > LATE_SECONDS:
            return self._renew([ready, *self._posters.late(row.app_id)])
        try:
            self._journal.start(row.id, row.claim)
        except journal.JournalFull as err:
            self._view.hold_up(2.0)
            self.tell("journal_full", err)
            return self._put_back(row)
        probed = self._view.probed(row)
        answer = self._client.post(route.url, token.authorization, body)
        judgement = judge(answer, session=row.template is None, table=self._table)
        outcome = back = self._outcome(row, judgement)
        token_refused = judgement.code == TOKEN_REFUSED
        # What no recognised words refuse may have been sent: a person puts it back.
        if judgement.recognised and (token_refused or probed):
            back = replace(outcome, status=Status.PENDING, spent=False)
            if self._breakers.goes_back(probed, judgement):
                outcome = back
        try:
            # Before another token is asked for, which may take a while: it was not sent for sure.
            self._journal.answer(back if token_refused else outcome)
        except journal.JournalFull as err:
            self.tell("journal_full", err)
        try:
            if token_refused and self._tokens.renew(row.app_id, token):
                outcome = back
            else:
                self._breakers.act(row, route, judgement, probed)
        finally:
            # Whatever follows from it, the answer is known.
            self._outcomes.put(outcome)
        return None

    def _wanted(self, row: Claimed) -> bool:
        return not (self._closing.is_set() or self._fenced or self._view.forbids(row))

    def _renew(self, late: list[Ready]) -> None:
        """Get other permits for late rows of one app, all of them in one call.

        Sent now, they would stack on the next ones. Rows that get none are put back: a stop or a cool-down
        holds no thread, and they are claimed again when their turn comes. So are those for which the app has no
        threads, as its requests do not end: they would only be late again.
        """
        app_id = late[0].row.app_id
        # The cap of a campaign is counted when it is asked for.
        for one in [one for one in late if one.capped]:
            late.remove(one)
            self._put_back(one.row)
        until = time.monotonic() + HORIZON_SECONDS
        logger.debug("permits_dropped", app_id=app_id, permits=len(late))
        try:
            while True:
                late = self._still_wanted(late, self._posters.can_take(app_id, HORIZON_SECONDS))
                if not late:
                    break
                lane = min((Lane(one.row.lane) for one in late), key=lambda lane: lane.rank)
                n = min(len(late), batches.JOB_ROWS)
                granted = self.acquire(late[0].route, [Ask(lane, n, len(late))])
                if isinstance(granted, Permits):
                    instants, now = granted.instants[0], time.monotonic()
                    again, late = late[: len(instants)], late[len(instants) :]
                    admitted = {
                        row.id for row in self._pairs.admit([one.row for one in again], again[0].route)
                    }
                    again = [one for one in again if one.row.id in admitted]
                    for one, instant in zip(again, instants, strict=False):
                        one.at = now + (instant - granted.now) / 1e6
                    self._push(again)
                elif isinstance(granted, Wait) and time.monotonic() + granted.seconds <= until:
                    self._closing.wait(min(granted.seconds, LOOK_SECONDS))
                else:
                    break
        except RedisUnavailable as err:
            self.tell("redis_unavailable", err)
        except (DisparoError, DBAPIError) as err:
            self.tell("sending_waits", err)
        except Exception:  # a fault of ours must not end the thread
            logger.exception("renewal_failed", app_id=app_id)
        finally:
            for one in late:
                self._put_back(one.row)

    def _still_wanted(self, rows: list[Ready], most: int) -> list[Ready]:
        """The first ``most`` of the rows that may be sent; the others are put back."""
        wanted: list[Ready] = []
        for one in rows:
            if len(wanted) < most and self._wanted(one.row):
                wanted.append(one)
            else:
                self._put_back(one.row)
        return wanted

    def _body(self, row: Claimed) -> bytes:
        if row.content is not None:
            return row.content.encode()
        message, envelope = self._content(row.campaign_id, row.version)
        return render(message, envelope, orjson.loads(row.params or "{}"), row.recipient)

    def _content(self, campaign_id: int | None, version: int | None) -> tuple[Content, Content]:
        assert campaign_id is not None  # noqa: S101 - a row has a content of its own or a campaign's
        known = self._contents.get((campaign_id, version))
        if known is None:
            with self._connections.session() as session:
                content, options = content_of(session, campaign_id, version)
            if len(self._contents) > 100:
                self._contents.clear()
            known = self._contents[campaign_id, version] = compile_message(content, options)
        return known

    def _outcome(self, row: Claimed, judgement: Judgement) -> Outcome:
        verdict, spent, delay = judgement.verdict, True, 0.0
        match verdict:
            case Verdict.ACCEPTED:
                return Outcome(
                    row.id,
                    row.claim,
                    Status.ACCEPTED,
                    spent=True,
                    verdict=verdict,
                    gs_id=judgement.gs_id,
                    wa_id=judgement.wa_id,
                    http_status=judgement.http_status,
                )
            case Verdict.UNKNOWN:
                status = Status.UNKNOWN
            case Verdict.RETRY | Verdict.THROTTLE:
                spent = verdict is Verdict.RETRY
                seconds = retry.next_due(
                    judgement.rule, row.tries + spent, judgement.retry_after_seconds, self._random
                )
                status, delay = (Status.FAILED, 0.0) if seconds is None else (Status.PENDING, seconds)
            case _:
                status = Status.FAILED
        return Outcome(
            row.id,
            row.claim,
            status,
            spent=spent,
            verdict=verdict,
            code=judgement.code,
            reason=judgement.reason,
            http_status=judgement.http_status,
            delay_seconds=delay,
        )

    def _put_back(self, row: Claimed) -> None:
        self._outcomes.put(Outcome(row.id, row.claim, Status.PENDING))

    def _refused(self, row: Claimed, code: str, reason: str) -> None:
        permanent = str(Verdict.MESSAGE_PERMANENT)
        self._outcomes.put(
            Outcome(row.id, row.claim, Status.FAILED, verdict=permanent, code=code, reason=reason)
        )

    def _give_up(self, row: Claimed, err: Exception) -> None:
        """The request may be under way, and our own code failed: nobody knows. A known answer came first."""
        logger.error("send_failed", message_id=row.id, exc_info=err)
        reason = f"an error of Disparo itself: {type(err).__name__}"
        self._outcomes.put(
            Outcome(
                row.id,
                row.claim,
                Status.UNKNOWN,
                spent=True,
                verdict="unknown",
                code="internal",
                reason=reason,
            )
        )

    # -- recording -----------------------------------------------------------------------------------

    def _record(self) -> None:
        last = False
        while not last:
            group = [self._outcomes.get()]
            if group[0] is not None:
                # Woken for each outcome, this thread would take the POST threads' turns.
                self._closing.wait(GROUP_SECONDS)
            while len(group) < GROUP_ROWS and group[-1] is not None:
                try:
                    group.append(self._outcomes.get_nowait())
                except queue.Empty:
                    break
            last = group[-1] is None
            outcomes = [outcome for outcome in group if outcome is not None]
            if outcomes:
                self._record_group(outcomes)

    def _record_group(self, outcomes: list[Outcome]) -> None:
        """Write a group, however long PostgreSQL is away: the journal keeps the answers meanwhile."""
        delay = 0.1
        claims = {(one.message_id, one.claim) for one in outcomes}
        while True:
            try:
                with self._session() as (session, now):
                    changed = batches.record(session, outcomes, now)
                    if changed < len(claims) and fence.lacks(session, claims):
                        self._trip_fence(session, fence.Restored(fence.current(session)), now)
                    stopped = self._breakers.follow(session, outcomes, now)
                self._claims.recorded(claims)
                with self._mutex:
                    self._recorded += outcomes
                self._breakers.tell_of(stopped)
                return
            except Exception as err:  # whatever it is, the other outcomes must be recorded
                if _may_pass(err):
                    self.tell("outcomes_wait_for_database", err)
                    if not self._closing.is_set() or delay < 3:
                        time.sleep(delay)
                        delay = min(2.0 if not self._closing.is_set() else 4.0, delay * 2)
                        continue
                elif len(outcomes) > 1:
                    # One outcome that cannot be stored must not hold the others.
                    for outcome in outcomes:
                        self._record_group([outcome])
                    return
                else:
                    logger.exception("outcome_not_recorded", message_id=outcomes[0].message_id)
                # It stays in the journal, for whoever adopts it.
                self._all_recorded = False
                return

    # -- minding -------------------------------------------------------------------------------------

    def _mind(self) -> None:
        """Keep the view of stops fresh, tell that this worker lives, and settle the journals of dead ones."""
        seen_at = -HEARTBEAT_SECONDS
        while not self._closing.is_set():
            self._changed.wait(LOOK_SECONDS)
            self._changed.clear()
            try:
                self._view.look()
                self._look_at_fence()
                now = time.monotonic()
                if now - seen_at >= HEARTBEAT_SECONDS:
                    seen_at = now
                    self._say_that_it_lives()
                    self._claims.put_back_unknown()
                    self._settle_dead()
            except Exception as err:  # noqa: BLE001 - without this thread no stop would be seen any more
                self.tell("minding_failed", err)

    def _listen(self) -> None:
        def changed() -> None:
            self._routes.forget()
            self._changed.set()

        self._connections.limiter.listen(changed, self._closing)

    def _look_at_fence(self) -> bool:
        """Compare the database with what this home has seen, and let the journal forget what is recorded.

        Until the epoch has grown past a claim, only the journal tells the database from a backup without it. So
        nothing is forgotten before; False when that has to wait for the next look.
        """
        # What is recorded first: its claims were told before.
        with self._mutex:
            recorded, self._recorded = self._recorded, []
        claimed = self._claims.since_advance()
        settled = False
        try:
            with self._session() as (session, now):
                look = fence.look(session, self._mirror, claimed=claimed)
                claims = [(one.message_id, one.claim) for one in recorded]
                if look.finding is None and claims and fence.lacks(session, claims):
                    # A backup from between two advances: what is recorded here is not in it.
                    look = replace(look, finding=fence.Restored(look.mark), advanced=False)
                if look.finding is not None:
                    self._trip_fence(session, look.finding, now)
            self._fenced = look.finding is not None
            settled = self._mirror.keep(look) and (look.advanced or not claimed)
        finally:
            if not settled:
                if claimed:
                    self._claims.not_advanced()
                with self._mutex:
                    self._recorded = recorded + self._recorded
        if settled and recorded:
            self._journal.recorded(recorded)
        return settled

    def _trip_fence(self, session: Session, finding: fence.Finding, now: datetime) -> None:
        """Hold everything: here at once, for the others by the table, from which the next tick tells Redis."""
        self._fenced = True
        tripped = fence.trip(session, finding, now)
        for app_id in tripped:
            self._view.trip((app_id, "app", ""))
        if tripped:
            logger.error("fenced", code=finding.code, reason=finding.reason, hint=finding.hint)

    def _say_that_it_lives(self) -> None:
        values = {
            "name": self.name,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": disparo.__version__,
            "queues": self._queues,
            "pace": orjson.dumps(self._pace()).decode(),
        }
        with self._session() as (session, now):
            session.execute(_ALIVE, values | {"now": now})
            tuning.note_answered(session, self.name, self._breakers.answered())
            jobs = self._in_hand()
            batches.hold_on(
                session,
                self.name,
                [job.batch_id for job in jobs if job.batch_id is not None],
                now,
                [message_id for job in jobs for message_id in job.message_ids],
            )

    def _pace(self) -> dict[str, dict[str, float]]:
        """By app: seconds of the last few that its work here waited, by cause."""
        with self._mutex:
            runners = dict(self._runners)
        found = {str(app_id): runner.pace() for app_id, runner in runners.items()}
        return {
            app_id: {str(cause): round(seconds, 2) for cause, seconds in pace.items()}
            for app_id, pace in found.items()
            if pace
        }

    def _in_hand(self) -> list[Job]:
        with self._mutex:
            runners = list(self._runners.values())
        return [job for runner in runners for job in runner.left()]

    def _settle_dead(self) -> None:
        for found in journal.dead(self._folder):
            if self._fenced:
                # What is sending in a backup, and not started by its worker's journal, was sent long ago.
                return
            try:
                self._settle(found)
            except Exception as err:  # noqa: BLE001 - one journal must not hold up the others
                self.tell("journal_not_settled", err)

    def _settle(self, found: journal.DeadJournal) -> None:
        with self._session() as (session, now):
            if fence.lacks(session, found.started.items()):
                self._trip_fence(session, fence.Restored(fence.current(session)), now)
                return
            # Asked first: what is committed afterwards would be seen by nobody.
            claiming = batches.is_claiming(session, found.owner)
            done = recovery.settle_dead_worker(
                session, found.owner, found.started, found.answers, now, whole=found.whole
            )
            stopped = self._breakers.follow(session, found.answers, now)
        self._breakers.tell_of(stopped)
        if not claiming:
            found.settled()
        if not claiming or any(done.values()):
            logger.warning("dead_worker_settled", worker=found.owner, **done)

    # -- end -----------------------------------------------------------------------------------------

    def close(self, grace_seconds: float = 20.0) -> None:
        """Drain: claim nothing more, put back what was not started, wait for the answers under way, record.

        Requests still under way after the grace time stay in the journal; who adopts it makes them unknown.
        """
        until = time.monotonic() + grace_seconds
        with self._mutex:
            if self._closing.is_set():
                return
            self._closing.set()
            self._changed.set()
            runners = list(self._runners.values())
        for runner in runners:
            runner.wake()
        self._withdraw()
        for runner in runners:
            runner.join(max(0.1, until - time.monotonic()))
        # Only now: a runner that was just claiming has handed over rows that must be put back.
        self._posters.end()
        self._withdraw()
        self.hand_back([job for runner in runners for job in runner.left()])
        posters_ended = self._posters.join(until)
        self._outcomes.put(None)
        self._recorder.join(max(2.0, until - time.monotonic()))
        late = (
            self._claims.in_doubt
            or not posters_ended
            or any(thread.is_alive() for thread in (self._recorder, *runners))
        )
        # Before its row goes: the minder might write it anew.
        self._minder.join(2.0)
        try:
            with self._session() as (session, _):
                session.execute(text("DELETE FROM workers WHERE name = :name"), {"name": self.name})
        except (DisparoError, DBAPIError) as err:
            self.tell("database_unavailable", err)
        until = time.monotonic() + 2.0
        try:
            # Another process may just be at the epoch, or at the file.
            while not self._look_at_fence() and not self._fenced and time.monotonic() < until:
                time.sleep(0.02)
        except (DisparoError, DBAPIError) as err:
            # Then the journal stays, and whoever adopts it finds its requests recorded.
            self.tell("database_unavailable", err)
        self._journal.close(all_recorded=self._all_recorded and not late)
        self._client.close()
        self._tokens.close()

    def _withdraw(self) -> None:
        for ready in self._posters.withdraw():
            self._put_back(ready.row)

    def tell(self, event: str, err: Exception | str) -> None:
        """Log a trouble that comes by the thousand at most once in five seconds."""
        now = time.monotonic()
        if now - self._told.get(event, -60.0) >= 5.0:
            self._told[event] = now
            logger.warning(event, error=" ".join(str(err).split())[:300])

    @contextmanager
    def _session(self) -> Iterator[tuple[Session, datetime]]:
        """A session of one transaction together with the database's clock."""
        with self._connections.session() as session:
            yield session, self._now(session)

    def _now(self, session: Session) -> datetime:
        """The database's clock, asked for once a second and counted on in between."""
        told, at = self._clock
        elapsed = boot_clock() - at
        if elapsed > CLOCK_SECONDS:
            told, at, elapsed = db.now(session), boot_clock(), 0.0
            self._clock = (told, at)
        return told + timedelta(seconds=elapsed)

    @property
    def closing(self) -> threading.Event:
        """Set once the sender drains."""
        return self._closing


def _may_pass(err: Exception) -> bool:
    """Whether the same statement may succeed later: the fault is the server's or the connection's."""
    return isinstance(err, DatabaseUnavailable) or (isinstance(err, DBAPIError) and db.is_unavailable(err))


def _log_permits(event: str, route: Route, at: Sequence[int]) -> None:
    """Tell instants of the limiter's clock (microseconds): the first, and how long after it the others are."""
    if at:
        # So much of a text of digits would be taken for a phone number.
        logger.debug(event, app_id=route.app_id, first=at[0], after=[one - at[0] for one in at])
