"""The threads that send, without a socket: rows are numbers, and a request ends when the test says so."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from worker import posters as posters_module
from worker.posters import LATE_SECONDS, Posters, Ready, spare

PATIENCE_SECONDS = 30.0


class Clock:
    """Time that stands until a test moves it. Posters look at it when they are woken."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Endpoint:
    """Takes requests; those of a slow app end when the test lets them."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.sent: list[tuple[float, Any]] = []
        self.renewed: list[list[Any]] = []
        self.slow: set[int] = set()
        #: Requests of slow apps that may end.
        self.ends: Counter[int] = Counter()

    def send(self, ready: Ready) -> None:
        app_id = ready.row.app_id
        with self.changed:
            self.sent.append((posters_module.time.monotonic(), ready.row.id))
            self.changed.notify_all()
            assert self.changed.wait_for(
                lambda: app_id not in self.slow or self.ends[app_id] > 0, PATIENCE_SECONDS
            )
            self.ends[app_id] -= 1
            self.changed.notify_all()

    def renew(self, late: list[Ready]) -> None:
        with self.changed:
            self.renewed.append([one.row.id for one in late])
            self.changed.notify_all()

    def until(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, PATIENCE_SECONDS), (self.sent, self.renewed)

    def until_sent(self, n: int) -> None:
        self.until(lambda: len(self.sent) >= n)

    def answer(self, app_id: int, n: int | None = None) -> None:
        """End so many requests of an app (None: all of them, those to come at once)."""
        with self.changed:
            if n is None:
                self.slow.discard(app_id)
            else:
                self.ends[app_id] += n
            self.changed.notify_all()


def rows(instants: list[float], app_id: int = 1, rate: float = 100.0) -> list[Ready]:
    """Rows of an app, numbered from 0, one at each instant."""
    row: Any = [SimpleNamespace(id=(app_id, n), app_id=app_id) for n in range(len(instants))]
    route: Any = SimpleNamespace(rate=rate)
    return [Ready(at, 0.0, one, route) for at, one in zip(instants, row, strict=True)]


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint()


@pytest.fixture
def start(endpoint: Endpoint) -> Iterator[Callable[[int], Posters]]:
    made: list[Posters] = []

    def start(threads: int) -> Posters:
        made.append(Posters(threads, endpoint.send, endpoint.renew))
        made[-1].start()
        return made[-1]

    yield start
    for posters in made:
        posters.withdraw()
        posters.end()
        for app_id in list(endpoint.slow):
            endpoint.answer(app_id)
        assert posters.join(time.monotonic() + PATIENCE_SECONDS)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(posters_module, "time", made)
    return made


# -- instants ---------------------------------------------------------------------------------------------


def test_each_row_leaves_once_in_order_and_never_before_its_instant(start, endpoint) -> None:
    now = time.monotonic()
    instants = [now + n / 200 for n in range(100)]
    posters = start(16)
    # Not in order: another claim may have earlier instants.
    assert posters.push(rows(instants)[50:])
    assert posters.push(rows(instants)[:50])
    endpoint.until_sent(100)
    assert [row for _, row in endpoint.sent] == [(1, n) for n in range(100)]
    assert all(left >= at for (left, _), at in zip(endpoint.sent, instants, strict=True))
    assert endpoint.renewed == []


def test_an_instant_wakes_one_idle_thread_and_no_other(
    start, endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: Counter[str] = Counter()
    first = Posters._first_turn

    def looking(self: Posters) -> Any:
        looks[threading.current_thread().name] += 1
        return first(self)

    monkeypatch.setattr(Posters, "_first_turn", looking)
    posters = start(32)
    now = time.monotonic()
    posters.push(rows([now + 0.2 + n / 100 for n in range(50)]))
    endpoint.until_sent(50)
    # At its start each thread looks once. A row costs the looks of its thread before and after, and of the next leader.
    assert sum(looks.values()) <= 32 + 50 * 4


def test_what_is_pushed_with_an_earlier_instant_does_not_wait_for_the_later_one(start, endpoint) -> None:
    posters = start(4)
    posters.push(rows([time.monotonic() + 3600]))
    posters.push(rows([time.monotonic()], app_id=2))
    endpoint.until_sent(1)
    assert [row for _, row in endpoint.sent] == [(2, 0)]
    assert [one.row.id for one in posters.withdraw()] == [(1, 0)]


# -- late rows --------------------------------------------------------------------------------------------


def due_of_first(posters: Posters) -> float | None:
    with posters._guard:
        turn = posters._first_turn()
        return None if turn is None else turn.due


def take(posters: Posters, now: float) -> None:
    """As a thread whose request takes no time."""
    with posters._guard:
        turn = posters._first_turn()
        assert turn is not None
        taken = posters._pop(turn.app, now)
    assert not taken.late
    posters._end_of_request(taken)


def leave(posters: Posters, clock: Clock, begin: float, until: float) -> list[float]:
    """When rows leave whose turn comes before ``until``, in seconds since ``begin``."""
    left = []
    while (due := due_of_first(posters)) is not None and due < until:
        clock.now = max(clock.now, due)
        take(posters, clock.now)
        left.append(clock.now - begin)
    return left


def most_in_a_second(instants: list[float]) -> int:
    worst = begin = 0
    for end, instant in enumerate(instants):
        while instants[begin] <= instant - 1.0 + 1e-9:
            begin += 1
        worst = max(worst, end - begin + 1)
    return worst


@pytest.mark.parametrize("rate", [10, 80, 1000])
@pytest.mark.parametrize("late", [0.004, 0.02, 0.06, 0.14])
def test_rows_behind_a_late_one_move_along_and_make_up_for_it_within_two_per_cent(
    endpoint: Endpoint, clock: Clock, rate: int, late: float
) -> None:
    posters = Posters(2000, endpoint.send, endpoint.renew)
    n = 30 * rate if rate < 1000 else 4 * rate
    posters.push(rows([clock.now + one / rate for one in range(n)], rate=rate))
    begin = clock.now
    before = leave(posters, clock, begin, begin + 1.0)
    # The process stands still, and all that should have left meanwhile is late.
    clock.now = begin + 1.0 + late
    after = leave(posters, clock, begin, begin + n / rate + 2.0)
    left = before + after
    assert len(left) == n
    assert most_in_a_second(left) <= rate + max(2, rate * 0.02)
    if rate < 1000:
        # Made up for: the last one leaves at its instant again.
        assert left[-1] - (n - 1) / rate < 0.002
    # No delay lasts longer than it was, nor is anything early.
    assert all(-1e-6 <= at - one / rate <= late + spare(rate) for one, at in enumerate(left))


def test_the_jitter_of_waking_up_is_not_passed_on(endpoint: Endpoint, clock: Clock) -> None:
    posters = Posters(64, endpoint.send, endpoint.renew)
    begin = clock.now
    posters.push(rows([begin + one / 80 for one in range(1600)], rate=80))
    left = []
    for n in range(1600):
        # Each row leaves up to 6 ms after its turn, as on a busy machine.
        due = due_of_first(posters)
        assert due is not None
        clock.now = max(clock.now, due) + (n * 7 % 13) / 2000
        take(posters, clock.now)
        left.append(clock.now - begin)
    assert left[-1] < 1600 / 80 + 0.01
    assert most_in_a_second(left) <= 82


def test_the_permits_of_late_rows_are_dropped_and_the_others_leave_at_their_own_instants(
    endpoint: Endpoint, clock: Clock
) -> None:
    posters = Posters(4, endpoint.send, endpoint.renew)
    begin = clock.now
    posters.push(rows([begin + n / 100 for n in range(100)]))
    # What is late already by most of what a delay may be, as the process stands still once more.
    clock.now = begin + LATE_SECONDS - 0.02
    assert len(leave(posters, clock, begin, begin + 0.3)) == 18
    clock.now = begin + 0.353
    with posters._guard:
        turn = posters._first_turn()
        assert turn is not None
        taken = posters._pop(turn.app, clock.now)
    assert taken.late
    posters._end_of_request(taken)
    # All that should have left by now, the nearly punctual ones too: others behind them would stack.
    assert [one.row.id for one in taken.rows] == [(1, n) for n in range(18, 36)]
    left = leave(posters, clock, begin, begin + 2.0)
    assert left == pytest.approx([n / 100 for n in range(36, 100)])


# -- apps -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("threads", "most"), [(1, 1), (2, 1), (4, 3), (8, 7), (32, 28), (64, 56)])
def test_an_app_alone_gets_most_threads_and_never_the_last(start, endpoint, threads: int, most: int) -> None:
    posters = start(threads)
    endpoint.slow.add(1)
    now = time.monotonic()
    posters.push(rows([now] * 100))
    endpoint.until_sent(most)
    posters.push(rows([now], app_id=2))
    if threads > 1:
        endpoint.until_sent(most + 1)
        assert Counter(app_id for _, (app_id, _) in endpoint.sent) == {1: most, 2: 1}
    assert posters.in_flight >= most
    assert posters.room(1, 1000.0, 0.5) == 0
    assert posters.is_busy(1)
    assert not posters.is_busy(2)


def test_apps_that_hang_leave_threads_for_one_that_does_not(start, endpoint, clock) -> None:
    posters = start(32)
    endpoint.slow |= {1, 2}
    posters.push(rows([clock.now] * 40, app_id=1))
    endpoint.until_sent(28)
    posters.push(rows([clock.now] * 40, app_id=2))
    endpoint.until_sent(31)
    for one in range(200):
        posters.push(rows([clock.now], app_id=3))
        endpoint.until_sent(31 + one + 1)
    assert Counter(app_id for _, (app_id, _) in endpoint.sent) == {1: 28, 2: 3, 3: 200}
    assert endpoint.renewed == []


def test_what_ends_of_an_app_that_hangs_goes_to_others_while_few_threads_are_free(
    start, endpoint, clock
) -> None:
    posters = start(32)
    endpoint.slow |= {1, 2, 3, 4}
    for app_id, sent in ((1, 28), (2, 31), (3, 32)):
        posters.push(rows([clock.now] * 40, app_id=app_id))
        endpoint.until_sent(sent)
    # No thread is free any more. One of the first app's ends, and one more.
    posters.push(rows([clock.now], app_id=4))
    endpoint.answer(1, 1)
    endpoint.until_sent(33)
    endpoint.answer(1, 1)
    endpoint.until(lambda: endpoint.ends[1] == 0)
    posters.push(rows([clock.now], app_id=5))
    endpoint.until_sent(34)
    assert Counter(app_id for _, (app_id, _) in endpoint.sent) == {1: 28, 2: 3, 3: 1, 4: 1, 5: 1}


def test_rows_that_wait_for_requests_of_their_app_leave_as_these_end(start, endpoint, clock) -> None:
    posters = start(8)
    endpoint.slow.add(1)
    posters.push(rows([clock.now] * 9))
    endpoint.until_sent(7)
    assert posters.in_flight == 7
    clock.now += LATE_SECONDS / 2
    endpoint.answer(1)
    endpoint.until_sent(9)
    assert sorted(row for _, row in endpoint.sent) == [(1, n) for n in range(9)]


def test_rows_that_wait_in_vain_for_requests_of_their_app_are_handed_out_when_late(start, endpoint) -> None:
    posters = start(8)
    endpoint.slow.add(1)
    posters.push(rows([time.monotonic()] * 12))
    endpoint.until(lambda: endpoint.renewed != [])
    assert endpoint.renewed == [[(1, n) for n in range(7, 12)]]
    # No thread is there for them as long as none of the requests ends.
    assert posters.in_flight >= 7
    assert [row for _, row in endpoint.sent] == [(1, n) for n in range(7)]


# -- room -------------------------------------------------------------------------------------------------


def test_no_more_is_worth_claiming_than_leaves_in_time_or_finds_a_thread(
    endpoint: Endpoint, clock: Clock
) -> None:
    posters = Posters(32, endpoint.send, endpoint.renew)
    assert posters.room(1, 10.0, 0.5) == 5
    assert posters.room(1, 0.01, 0.5) == 1
    assert posters.room(1, 1000.0, 0.5) == 32
    # What its requests lately took within a moment may be claimed too.
    posters._app(1).ended = 4000
    clock.now += 1.0
    posters._app(1).measured_at = clock.now - 1.0
    assert posters.room(1, 1000.0, 0.5) == 100


# -- the end ----------------------------------------------------------------------------------------------


def test_at_the_end_nothing_is_left_and_nothing_more_is_taken(start, endpoint) -> None:
    posters = start(8)
    later = time.monotonic() + 3600
    posters.push(rows([later] * 5))
    posters.push(rows([later + 1], app_id=2))
    assert {one.row.id for one in posters.withdraw()} == {(1, n) for n in range(5)} | {(2, 0)}
    assert posters.withdraw() == []
    posters.end()
    assert posters.push(rows([later])) is False
    assert posters.join(time.monotonic() + PATIENCE_SECONDS)
    assert endpoint.sent == []


def test_rows_that_come_before_the_end_are_sent_by_the_threads_that_are_left(start, endpoint) -> None:
    posters = start(4)
    now = time.monotonic()
    posters.push(rows([now + 0.1 + n / 100 for n in range(10)]))
    posters.end()
    assert posters.join(time.monotonic() + PATIENCE_SECONDS)
    assert len(endpoint.sent) == 10
