"""The threads that send: each claimed row leaves at its instant, and no app takes all of them.

One idle thread, the leader, waits for the next instant; the others wait to follow it. So an instant wakes one
thread, however many are idle.

**Late rows.** A row that leaves later than its instant moves those of its app behind it along by as much, so
that they do not stack on one another. Two small things are allowed, each worth less than one message or 1 % of
a second's (`spare`): a delay so short is not passed on, or each wake-up would cost its time for good; and what
was passed on is made up for by leaving so much faster. Beyond `LATE_SECONDS` the permits of all late rows are
dropped, and they get new ones.

**Apps.** An app may have `ALPHA` times as many requests in flight as threads are free besides one. Alone it gets
about eight of nine threads and never the last; its first request may take any. The rows of an app at that limit
are parked: they wait for its own requests to end, or until they are late, and hold up nobody else's.
"""

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from disparo.batches import JOB_ROWS, Claimed
from worker.routes import Route

#: A permit later than this is dropped. Until then its delay is passed on to the rows behind it.
LATE_SECONDS = 0.15
#: A row that no thread has taken so long after its turn shows that the threads are busy.
OVERDUE_SECONDS = 0.03
#: Rows for which the threads need so long may wait for one when the next are claimed.
QUICK_SECONDS = 0.05
#: Requests in flight that an app may have, for each thread that would still be free.
ALPHA = 8
#: How long `Posters.room` waits for busy threads.
PATIENCE_SECONDS = 0.1


def spare(rate: float) -> float:
    """Seconds of delay that are not passed on, and the share by which it is made up for.

    0.08 at 10/s and below, 0.01 at 80/s, 0.005 from 160/s: both at once make less than two messages more in a
    second, or 1 %. The bar is 2 %; the other half is for what happens on the way.
    """
    return min(0.08, max(0.005, 0.8 / rate))


@dataclass(slots=True)
class Ready:
    """A claimed row and the instant (monotonic seconds) at which it may leave."""

    at: float
    #: When it was claimed, by the boot clock.
    claimed_at: float
    row: Claimed
    route: Route
    #: Its campaign has a cap of its own, which has counted its permit.
    capped: bool = False


class _Turn(NamedTuple):
    """When an app's first row may leave; what is not its app's present turn is out of date."""

    due: float
    #: Settles which of two comes first.
    order: int
    app: "_App"


@dataclass(slots=True, eq=False)
class _App:
    """The rows of one app that wait, by instant and then in the order of their claims, and its requests."""

    #: Notified when so few rows wait that the next ones should be claimed.
    room: threading.Condition
    rows: list[tuple[float, int, Ready]] = field(default_factory=list)
    #: None while nothing waits.
    turn: _Turn | None = None
    in_flight: int = 0
    #: When its last row left, as far as the next ones have to make way for that, and what its instant was.
    left: float = 0.0
    left_at: float = 0.0
    #: Rows that may wait for a thread.
    quick: int = 0
    #: Requests that ended since `measured_at`, and how many did per second before that.
    ended: int = 0
    per_second: float = 0.0
    measured_at: float = 0.0
    #: When its threads last could not take what was to be claimed.
    busy_at: float = -1.0

    def due(self) -> float:
        """When its first row may leave: as long after the last one as their permits lie apart, nearly."""
        at, _, ready = self.rows[0]
        return max(at, self.left + (at - self.left_at) / (1 + spare(ready.route.rate)))

    def measure(self, now: float) -> None:
        """Look once a second how fast its requests end: believed at once when slower, half when faster."""
        elapsed = now - self.measured_at
        if elapsed >= 1.0:
            speed = self.ended / elapsed
            self.per_second = speed if speed < self.per_second else (self.per_second + speed) / 2
            self.quick = int(self.per_second * QUICK_SECONDS)
            self.ended, self.measured_at = 0, now


class _Taken(NamedTuple):
    """One row to send, or late ones that need other permits."""

    app: _App
    rows: list[Ready]
    late: bool


class Posters:
    """Threads, and the rows that wait for them. Thread-safe."""

    def __init__(
        self, threads: int, send: Callable[[Ready], None], renew: Callable[[list[Ready]], None]
    ) -> None:
        """Prepare ``threads`` threads; `start` starts them.

        Args:
          send: Sends one row, in one of the threads, and accounts for it whatever happens.
          renew: Gets other permits for late rows of one app, earliest first, or accounts for them.
        """
        self._size, self._send, self._renew = threads, send, renew
        # For a moment at a time only: nothing that may wait is called under it.
        guard = threading.Lock()
        self._guard = guard
        #: The leader waits here, all other idle threads there.
        self._lead, self._follow = threading.Condition(guard), threading.Condition(guard)
        self._has_leader = False
        self._apps: dict[int, _App] = {}
        self._turns: list[_Turn] = []
        #: Apps with rows that wait for their own requests to end.
        self._parked: set[_App] = set()
        self._order = itertools.count()
        self._in_flight = 0
        self._ended = False
        self._threads = [
            threading.Thread(target=self._work, name=f"post-{n}", daemon=True) for n in range(threads)
        ]

    def start(self) -> None:
        """Begin to send."""
        for thread in self._threads:
            thread.start()

    # -- the runners' side ---------------------------------------------------------------------------

    def push(self, ready: Sequence[Ready]) -> bool:
        """Let rows leave at their instants; False after `end`, when nobody would send them."""
        with self._guard:
            if self._ended:
                return False
            changed = set()
            for one in ready:
                app = self._app(one.row.app_id)
                heapq.heappush(app.rows, (one.at, next(self._order), one))
                changed.add(app)
            for app in changed - self._parked:
                self._line_up(app)
            return True

    def room(self, app_id: int, rate: float, ahead_seconds: float) -> int:
        """Rows of an app worth claiming now: what may leave within that time and its threads can take.

        0 after a wait, when its threads did not take in time what is claimed already.

        Args:
          rate: Requests per second of the app.
        """
        with self._guard:
            app, now = self._app(app_id), time.monotonic()
            app.measure(now)
            waiting = len(app.rows)
            overdue = waiting > app.quick and app.due() + OVERDUE_SECONDS < now
            if overdue or (waiting >= app.quick and not self._may_take(app)):
                app.busy_at = now
                app.room.wait(PATIENCE_SECONDS)
                return 0
            free = self._spare_threads(app)
        # What waits for a thread gets late. So no more is claimed at once than there are threads for, or than
        # they lately took within a moment.
        return min(JOB_ROWS, max(1, int(rate * ahead_seconds)), max(free, app.quick, 1))

    def can_take(self, app_id: int, seconds: float) -> int:
        """Rows of an app that the threads can take now, the caller's too, or by their speed within that time."""
        with self._guard:
            app = self._app(app_id)
            threads = min(self._free() + 1, max(1, ALPHA * self._free()) - (app.in_flight - 1))
            return max(0, threads, int(app.per_second * seconds))

    def is_busy(self, app_id: int) -> bool:
        """Whether the threads lately were what an app waited for."""
        with self._guard:
            return time.monotonic() - self._app(app_id).busy_at < 1.0

    def per_second(self, app_id: int) -> float:
        """Requests of an app that lately ended per second."""
        with self._guard:
            return self._app(app_id).per_second

    @property
    def in_flight(self) -> int:
        """Threads that are at work."""
        return self._in_flight

    # -- late rows and the end -----------------------------------------------------------------------

    def late(self, app_id: int) -> list[Ready]:
        """Take out the rows of an app that should have left before now, earliest first."""
        with self._guard:
            app = self._app(app_id)
            late = self._pop_late(app, time.monotonic())
            self._line_up(app)
            return late

    def withdraw(self) -> list[Ready]:
        """Take out all rows that wait."""
        with self._guard:
            rows = [ready for app in self._apps.values() for *_, ready in app.rows]
            for app in self._apps.values():
                app.rows.clear()
                app.turn = None
                app.room.notify_all()
            self._turns.clear()
            self._parked.clear()
            return rows

    def end(self) -> None:
        """Take no more rows; each thread ends when it has nothing to send."""
        with self._guard:
            self._ended = True
            self._lead.notify_all()
            self._follow.notify_all()

    def join(self, until: float) -> bool:
        """Wait for the threads until an instant (monotonic seconds); whether all have ended."""
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    # -- the threads' side ---------------------------------------------------------------------------

    def _work(self) -> None:
        while (taken := self._take()) is not None:
            try:
                if taken.late:
                    self._renew(taken.rows)
                else:
                    self._send(taken.rows[0])
            finally:
                self._end_of_request(taken)

    def _take(self) -> _Taken | None:
        """What to do next, as soon as there is anything; None at the end."""
        with self._guard:
            while True:
                now = time.monotonic()
                turn = self._first_turn()
                if turn is not None and turn.due <= now:
                    return self._pop(turn.app, now)
                if self._ended and turn is None:
                    self._lead.notify_all()
                    self._follow.notify_all()
                    return None
                if self._has_leader:
                    self._follow.wait()
                    continue
                self._has_leader = True
                try:
                    self._lead.wait(None if turn is None else turn.due - now)
                finally:
                    self._has_leader = False

    def _first_turn(self) -> _Turn | None:
        """The next turn of an app that may take a thread; the others on the way are parked until they are late."""
        while self._turns:
            turn = self._turns[0]
            app = turn.app
            if app.turn is not turn:
                heapq.heappop(self._turns)
            elif app in self._parked or self._may_take(app):
                return turn
            else:
                heapq.heappop(self._turns)
                self._parked.add(app)
                self._give_turn(app, app.rows[0][0] + LATE_SECONDS)
        return None

    def _pop(self, app: _App, now: float) -> _Taken:
        app.in_flight += 1
        self._in_flight += 1
        at, _, first = app.rows[0]
        late = now - at > LATE_SECONDS or app in self._parked
        if late:
            rows = self._pop_late(app, now)
        else:
            due = app.due()
            heapq.heappop(app.rows)
            rows, app.left, app.left_at = [first], max(due, now - spare(first.route.rate)), at
        if len(app.rows) <= app.quick:
            app.room.notify_all()
        self._line_up(app)
        if not self._has_leader:
            self._follow.notify()
        return _Taken(app, rows, late)

    def _pop_late(self, app: _App, now: float) -> list[Ready]:
        late = []
        while app.rows and app.rows[0][0] < now:
            late.append(heapq.heappop(app.rows)[2])
        # Who is left is not late, and those who were leave at other instants.
        app.left = app.left_at = now
        return late

    def _end_of_request(self, taken: _Taken) -> None:
        app = taken.app
        with self._guard:
            app.in_flight -= 1
            self._in_flight -= 1
            app.ended += not taken.late
            if len(app.rows) <= app.quick:
                app.room.notify_all()
            for parked in [one for one in self._parked if self._may_take(one)]:
                self._line_up(parked)

    # -- turns ---------------------------------------------------------------------------------------

    def _app(self, app_id: int) -> _App:
        app = self._apps.get(app_id)
        if app is None:
            app = self._apps[app_id] = _App(threading.Condition(self._guard))
        return app

    def _free(self) -> int:
        return self._size - self._in_flight

    def _most(self) -> int:
        """Requests that one app may have in flight now: one at least, and more while others find free threads."""
        return max(1, ALPHA * (self._free() - 1))

    def _spare_threads(self, app: _App) -> int:
        return max(0, min(self._free(), self._most() - app.in_flight))

    def _may_take(self, app: _App) -> bool:
        return self._free() > 0 and app.in_flight < self._most()

    def _line_up(self, app: _App) -> None:
        """Give an app its turn by its first row."""
        self._parked.discard(app)
        if not app.rows:
            app.turn = None
            return
        due = app.due()
        if app.turn is None or app.turn.due != due:
            self._give_turn(app, due)

    def _give_turn(self, app: _App, due: float) -> None:
        app.turn = _Turn(due, next(self._order), app)
        heapq.heappush(self._turns, app.turn)
        if self._turns[0] is app.turn:
            # The leader waits for another instant, or for any.
            self._lead.notify()
