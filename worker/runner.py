"""The runner of one app in a worker process: permits, then as many claimed rows, then the next ones."""

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from sqlalchemy.exc import DBAPIError

from disparo import log
from disparo.batches import Claimed, Job
from disparo.clock import boot_clock
from disparo.errors import DisparoError
from disparo.ratelimit import Permits, Stopped, Wait
from worker.routes import Route
from worker.view import LOOK_SECONDS

#: No row is claimed earlier than this before its instant.
HORIZON_SECONDS = 0.5
#: A runner without work ends after this.
IDLE_SECONDS = 30.0

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
        self, app_id: int, permits: int, rate: float, *, probe: bool = False
    ) -> Permits | Wait | Stopped: ...
    def claim(self, job: Job, limit: int) -> list[Claimed]: ...
    def dispatch(
        self, rows: list[Claimed], route: Route, instants: Sequence[float], claimed_at: float
    ) -> None: ...
    def done(self, job: Job) -> None: ...
    def hand_back(self, jobs: list[Job]) -> None: ...
    def tell(self, event: str, err: Exception | str) -> None: ...


class Runner(threading.Thread):
    """Feeds the sender with one app's rows: asks for permits, claims, and lets the rows leave."""

    def __init__(self, sender: Feeder, app_id: int) -> None:
        super().__init__(name=f"app-{app_id}", daemon=True)
        self._sender, self._app_id = sender, app_id
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._ended = False

    def add(self, job: Job) -> bool:
        """Queue a job behind the others; False when this runner has ended."""
        with self._changed:
            if self._ended:
                return False
            # A job that comes twice while it is here is one.
            if job not in self._jobs:
                # A probe waits behind nothing: what else is here waits for what it finds.
                (self._jobs.appendleft if job.probe else self._jobs.append)(job)
            self._changed.notify()
            return True

    def wake(self) -> None:
        """Make it look at what has changed."""
        with self._changed:
            self._changed.notify()

    def rows(self) -> int:
        """Rows of the jobs that are not done, as far as is known."""
        with self._changed:
            return sum(job.size for job in self._jobs)

    def left(self) -> list[Job]:
        """Jobs that are not done."""
        with self._changed:
            return list(self._jobs)

    def run(self) -> None:
        """Until there was no job for a while, or the sender drains."""
        sender, backoff = self._sender, 0.1
        while not sender.closing.is_set():
            job = self._first()
            if job is None:
                return
            try:
                self._step(job)
                backoff = 0.1
            except Exception as err:
                if isinstance(err, DisparoError | DBAPIError):
                    sender.tell("sending_waits", err)
                else:
                    # A fault of ours must not leave the app's jobs without anybody.
                    logger.exception("runner_failed", app_id=self._app_id)
                self._pause(backoff)
                backoff = min(2.0, backoff * 2)

    def _first(self) -> Job | None:
        with self._changed:
            if not self._jobs:
                self._changed.wait(IDLE_SECONDS)
            if not self._jobs:
                self._ended = True
                return None
            return self._jobs[0]

    def _step(self, job: Job) -> None:
        """Permits for what can leave soon, then as many rows."""
        sender = self._sender
        route = sender.route(self._app_id)
        if sender.is_fenced():
            return self._stopped()
        if sender.is_held_up():
            return self._pause(LOOK_SECONDS)
        with self._changed:
            wanted = 1 if job.probe else sum(one.size for one in self._jobs)
        room = min(wanted, sender.room(self._app_id, route.rate))
        if room <= 0:
            return None
        granted = sender.acquire(self._app_id, room, route.rate, probe=job.probe)
        asked_at = time.monotonic()
        if isinstance(granted, Stopped):
            return self._stopped()
        if isinstance(granted, Wait):
            return self._pause(min(granted.seconds, LOOK_SECONDS))
        first = asked_at + granted.wait_seconds
        instants = deque(first + n * granted.interval_seconds for n in range(granted.n))
        while instants and job is not None:
            claimed_at = boot_clock()
            rows = sender.claim(job, len(instants))
            sender.dispatch(rows, route, [instants.popleft() for _ in rows], claimed_at)
            if instants or job.probe:
                # Fewer rows than asked for: nothing is left to claim of this job.
                sender.done(job)
                with self._changed:
                    if job in self._jobs:
                        self._jobs.remove(job)
                    following = self._jobs[0] if self._jobs else None
                if following is None or job.probe:
                    break
                job = following
        # Ask for the next ones when these have nearly left.
        last = instants[0] if instants else first + granted.n * granted.interval_seconds
        return self._pause(max(0.0, last - time.monotonic() - HORIZON_SECONDS / 2))

    def _stopped(self) -> None:
        with self._changed:
            jobs = [job for job in self._jobs if not job.probe or self._sender.is_fenced()]
            for job in jobs:
                self._jobs.remove(job)
        self._sender.hand_back(jobs)

    def _pause(self, seconds: float) -> None:
        if seconds > 0:
            self._sender.closing.wait(seconds)
