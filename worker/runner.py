"""The runner of one app in a worker process: permits, then as many claimed rows, then the next ones.

It serves the most urgent lane first, and the campaigns of a lane in turn by their weights. What it asks the limiter
for is what it can claim and the threads can take, so that hardly a permit is left over; one that is goes back.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from sqlalchemy.exc import DBAPIError

from disparo import log
from disparo.batches import Claimed, Job
from disparo.clock import boot_clock
from disparo.errors import DisparoError, RedisUnavailable
from disparo.ratelimit import Ask, Permits, Stopped, Wait
from disparo.statuses import Lane, LimitedBy
from worker.routes import Route
from worker.view import LOOK_SECONDS

#: No row is claimed earlier than this before its instant.
HORIZON_SECONDS = 0.5
#: The next permits are asked for so long before the last one leaves: what they are claimed in takes a part of it.
#: Later than others may reserve, and the rate would not be used; earlier, and each ask would get fewer.
AHEAD_SECONDS = 0.2
#: A runner without work ends after this.
IDLE_SECONDS = 30.0
#: Campaigns that are asked for at once.
MOST_ASKS = 8
#: Campaigns whose turns are remembered; beyond it those that have no job here are forgotten.
MOST_TURNS = 100

logger = log.get(__name__)


class Feeder(Protocol):
    """What a runner needs of the sender."""

    @property
    def closing(self) -> threading.Event: ...
    def route(self, app_id: int) -> Route: ...
    def room(self, app_id: int, rate: float) -> int: ...
    def is_fenced(self) -> bool: ...
    def is_held_up(self) -> bool: ...
    def acquire(
        self, route: Route, asks: Sequence[Ask], *, probe: bool = False
    ) -> Permits | Wait | Stopped: ...
    def give_back(self, route: Route, instants: Sequence[int]) -> None: ...
    def claim(self, job: Job, limit: int, route: Route) -> list[Claimed]: ...
    def dispatch(
        self,
        rows: list[Claimed],
        route: Route,
        instants: Sequence[float],
        claimed_at: float,
        *,
        capped: bool = False,
    ) -> None: ...
    def done(self, job: Job) -> None: ...
    def hand_back(self, jobs: list[Job]) -> None: ...
    def tell(self, event: str, err: Exception | str) -> None: ...


@dataclass(eq=False, slots=True)
class _Held:
    """A job, and how many of its rows were not claimed yet, as far as is known."""

    job: Job
    left: int


@dataclass(eq=False, slots=True)
class _Turn:
    """The jobs of one campaign, or the single messages, of a lane."""

    lane: Lane
    campaign_id: int | None
    #: Start tag of start-time fair queueing (Goyal, Vin and Cheng, 1996): rows served so far by weight.
    served: float
    jobs: deque[_Held] = field(default_factory=deque)
    #: The campaign's own cap has no permit before (monotonic seconds).
    not_before: float = 0.0

    @property
    def left(self) -> int:
        return sum(held.left for held in self.jobs)

    def add(self, job: Job) -> None:
        """Queue a job: retries between the batches that are here, one after each, so that neither pass the others."""
        retries = sum(held.job.batch_id is None for held in self.jobs)
        at = 2 * retries + 1 if job.batch_id is None else len(self.jobs)
        self.jobs.insert(min(at, len(self.jobs)), _Held(job, job.size))


class Runner(threading.Thread):
    """Feeds the sender with one app's rows: asks for permits, claims, and lets the rows leave."""

    def __init__(self, sender: Feeder, app_id: int) -> None:
        super().__init__(name=f"app-{app_id}", daemon=True)
        self._sender, self._app_id = sender, app_id
        self._probes: deque[Job] = deque()
        self._turns: dict[tuple[Lane, int | None], _Turn] = {}
        #: By lane: the start tag of what was served last, from which a new campaign begins.
        self._served = dict.fromkeys(Lane, 0.0)
        self._changed = threading.Condition()
        self._news = False
        self._ended = False
        self._pace: dict[LimitedBy, float] = {}

    def add(self, job: Job) -> bool:
        """Queue a job; False when this runner has ended."""
        with self._changed:
            if self._ended:
                return False
            # A job that comes twice while it is here is one.
            if job not in self.left():
                if job.probe:
                    # It waits behind nothing: what else is here waits for what it finds.
                    self._probes.append(job)
                else:
                    self._turn_of(job).add(job)
            self.wake()
            return True

    def _turn_of(self, job: Job) -> _Turn:
        lane = Lane(job.lane)
        key = lane, job.campaign_id
        turn = self._turns.get(key)
        if turn is None:
            if len(self._turns) >= MOST_TURNS:
                self._turns = {other: one for other, one in self._turns.items() if one.jobs}
            turn = self._turns[key] = _Turn(lane, job.campaign_id, self._served[lane])
        elif not turn.jobs:
            # What it did not use while it had nothing is not made up for.
            turn.served = max(turn.served, self._served[lane])
        return turn

    def wake(self) -> None:
        """Make it look at what has changed."""
        with self._changed:
            self._news = True
            self._changed.notify()

    def rows(self) -> int:
        """Rows of the jobs that are not done, as far as is known."""
        with self._changed:
            return len(self._probes) + sum(turn.left for turn in self._turns.values())

    def left(self) -> list[Job]:
        """Jobs that are not done."""
        with self._changed:
            return [*self._probes, *(held.job for turn in self._turns.values() for held in turn.jobs)]

    def pace(self) -> dict[LimitedBy, float]:
        """Seconds of the last few that its work waited, by cause; each call lets the earlier ones fade."""
        with self._changed:
            found = dict(self._pace)
            self._pace = {cause: seconds * 0.8 for cause, seconds in found.items() if seconds > 0.01}
            return found

    def run(self) -> None:
        """Until there was no job for a while, or the sender drains."""
        sender, backoff = self._sender, 0.1
        while not sender.closing.is_set():
            if not self._has_work():
                return
            try:
                self._step()
                backoff = 0.1
            except Exception as err:
                cause = LimitedBy.DATABASE
                if isinstance(err, DisparoError | DBAPIError):
                    sender.tell("sending_waits", err)
                    cause = LimitedBy.NETWORK if isinstance(err, RedisUnavailable) else LimitedBy.DATABASE
                else:
                    # A fault of ours must not leave the app's jobs without anybody.
                    logger.exception("runner_failed", app_id=self._app_id)
                with self._waiting_for(cause):
                    sender.closing.wait(backoff)
                backoff = min(2.0, backoff * 2)

    def _has_work(self) -> bool:
        with self._changed:
            if not self.left():
                self._changed.wait(IDLE_SECONDS)
            if not self.left():
                self._ended = True
                return False
            self._news = False
            return True

    def _step(self) -> None:
        """Permits for what can leave soon, then as many rows."""
        sender = self._sender
        route = sender.route(self._app_id)
        if sender.is_fenced():
            return sender.hand_back(self._remove(self.left()))
        if sender.is_held_up():
            return self._pause(LOOK_SECONDS, LimitedBy.DATABASE)
        with self._changed:
            probe = self._probes[0] if self._probes else None
        if probe is not None:
            return self._send_probe(probe, route)
        with self._waiting_for(LimitedBy.NETWORK):
            room = sender.room(self._app_id, route.rate)
        turns = self._choose(room, route.rate)
        if not turns:
            if room > 0:
                self._pause(self._until_a_cap_ends(), LimitedBy.RATE)
            return None
        granted = sender.acquire(route, [ask for _, ask in turns])
        asked_at = time.monotonic()
        if isinstance(granted, Stopped):
            return sender.hand_back(self._remove([job for job in self.left() if not job.probe]))
        if isinstance(granted, Wait):
            self._note_caps(turns, granted.seconds)
            if all(ask.max_per_second is not None for _, ask in turns):
                # Others may have a permit at once.
                return None
            several = self._until_several(route, turns[0][1])
            return self._pause(min(granted.seconds + several, LOOK_SECONDS), LimitedBy.RATE)
        last = asked_at
        for (turn, ask), instants in zip(turns, granted.instants, strict=True):
            if instants:
                last = max(last, asked_at + (instants[-1] - granted.now) / 1e6)
                self._serve(turn, route, instants, granted.now, asked_at)
            elif granted.wait_seconds is not None:
                self._note_caps([(turn, ask)], granted.wait_seconds)
        # Ask for the next ones when these have nearly left, and for those that got none in their time.
        pause = last - time.monotonic() - AHEAD_SECONDS
        if granted.wait_seconds is not None:
            pause = min(pause, granted.wait_seconds)
        return self._pause(pause, LimitedBy.RATE)

    def _until_several(self, route: Route, ask: Ask) -> float:
        """How much longer than for one permit to wait, so that as many as are wanted come at once.

        Others reserve what is free meanwhile, until so little of the horizon is that it might be lost.
        """
        if route.everything is not None:
            # Its horizon is short.
            return 0.0
        return min((ask.n - 1) / route.rate, HORIZON_SECONDS - AHEAD_SECONDS)

    def _choose(self, room: int, rate: float) -> list[tuple[_Turn, Ask]]:
        """Whose turn it is, the most urgent lane first, and what to ask for; at least one row of each lane."""
        if room <= 0:
            return []
        now = time.monotonic()
        chosen: list[tuple[_Turn, Ask]] = []
        with self._changed:
            for nth, lane in enumerate(Lane, start=1):
                turns = [turn for turn in self._turns.values() if turn.lane is lane and turn.jobs]
                # Each lane behind keeps an ask.
                most = MOST_ASKS - (len(Lane) - nth)
                waiting = sum(turn.left for turn in turns)
                free = max(1, room)
                for turn in sorted(turns, key=lambda turn: turn.served):
                    if free <= 0 or len(chosen) >= most:
                        break
                    if turn.not_before > now:
                        continue
                    cap = turn.jobs[0].job.max_per_second
                    n = min(free, max(1, turn.left))
                    if cap is not None:
                        # It gets no more; what it were asked for beside would be missing to the others.
                        n = min(n, max(1, round(free * cap / rate)))
                    free -= n
                    room -= n
                    chosen.append((turn, Ask(lane, n, waiting, turn.campaign_id or 0, cap)))
        return chosen

    def _note_caps(self, turns: list[tuple[_Turn, Ask]], seconds: float) -> None:
        """Pass over campaigns with a cap of their own until it may have a permit."""
        until = time.monotonic() + seconds
        with self._changed:
            for turn, ask in turns:
                if ask.max_per_second is not None:
                    turn.not_before = until

    def _until_a_cap_ends(self) -> float:
        with self._changed:
            ends = [turn.not_before for turn in self._turns.values() if turn.jobs]
        return min(LOOK_SECONDS, max(0.001, min(ends, default=0.0) - time.monotonic()))

    def _serve(
        self, turn: _Turn, route: Route, instants: Sequence[int], limiter_now: int, now: float
    ) -> None:
        """Claim a row for each instant, in microseconds of the limiter, whose clock showed ``limiter_now`` at ``now``."""
        sender, free = self._sender, deque(instants)
        with self._changed:
            self._served[turn.lane] = max(self._served[turn.lane], turn.served)
        while free:
            with self._changed:
                held = turn.jobs[0] if turn.jobs else None
            if held is None:
                break
            claimed_at = boot_clock()
            with self._waiting_for(LimitedBy.DATABASE):
                rows = sender.claim(held.job, len(free), route)
            at = [now + (free.popleft() - limiter_now) / 1e6 for _ in rows]
            sender.dispatch(rows, route, at, claimed_at, capped=held.job.max_per_second is not None)
            with self._changed:
                held.left -= len(rows)
                turn.served += len(rows) / held.job.weight
            if free or held.left <= 0:
                # Fewer rows than asked for, or as many as it names: nothing is left to claim of this job.
                sender.done(held.job)
                self._remove([held.job])
        if free:
            try:
                sender.give_back(route, list(free))
            except RedisUnavailable as err:
                sender.tell("redis_unavailable", err)

    def _send_probe(self, job: Job, route: Route) -> None:
        """One permit, under whatever stop is in force, for the one row that it names."""
        sender = self._sender
        granted = sender.acquire(route, [Ask(Lane(job.lane), 1)], probe=True)
        asked_at = time.monotonic()
        if not isinstance(granted, Permits):
            seconds = granted.seconds if isinstance(granted, Wait) else LOOK_SECONDS
            return self._pause(min(seconds, LOOK_SECONDS), LimitedBy.RATE)
        claimed_at = boot_clock()
        rows = sender.claim(job, 1, route)
        at = asked_at + (granted.instants[0][0] - granted.now) / 1e6
        sender.dispatch(rows, route, [at for _ in rows], claimed_at)
        sender.done(job)
        self._remove([job])
        return None

    def _remove(self, jobs: list[Job]) -> list[Job]:
        """Let go of jobs; those that were still here."""
        with self._changed:
            gone = [job for job in self.left() if job in jobs]
            self._probes = deque(job for job in self._probes if job not in gone)
            for turn in self._turns.values():
                turn.jobs = deque(held for held in turn.jobs if held.job not in gone)
            return gone

    def _pause(self, seconds: float, cause: LimitedBy) -> None:
        """Wait so long, or until a job comes."""
        if seconds > 0:
            with self._waiting_for(cause), self._changed:
                self._changed.wait_for(lambda: self._news or self._sender.closing.is_set(), seconds)

    @contextmanager
    def _waiting_for(self, cause: LimitedBy) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            with self._changed:
                self._pace[cause] = self._pace.get(cause, 0.0) + time.monotonic() - began
