"""What is asked for at the same time is carried out in one go."""

import threading
import time
from collections.abc import Sequence

import pytest

from worker.together import MOST, Together

PATIENCE_SECONDS = 30.0


class Desk:
    """Carries out asks when it is let to, and keeps the groups they came in."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.began, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.together = Together(self.carry_out)
        self.answers: dict[int, object] = {}
        self.threads: list[threading.Thread] = []

    def carry_out(self, asks: Sequence[int]) -> list[int]:
        self.groups.append(list(asks))
        self.began.release()
        assert self.go.acquire(timeout=PATIENCE_SECONDS)
        if -1 in asks:
            raise ValueError("one of them is odd")
        return [ask * 10 for ask in asks]

    def ask(self, *asks: int) -> None:
        """Ask in a thread each while a group is under way, and go on when all of them wait."""
        for ask in asks:
            self.start(ask)
        end = time.monotonic() + PATIENCE_SECONDS
        while len(self.together._waiting) < len(asks):
            assert time.monotonic() < end, "not all of them wait"
            time.sleep(0.001)

    def start(self, ask: int) -> None:
        thread = threading.Thread(target=self._ask, args=(ask,), daemon=True)
        thread.start()
        self.threads.append(thread)

    def _ask(self, ask: int) -> None:
        try:
            self.answers[ask] = self.together(ask)
        except ValueError as err:
            self.answers[ask] = str(err)

    def lead(self) -> None:
        """Let one group go, once it has begun."""
        assert self.began.acquire(timeout=PATIENCE_SECONDS)
        self.go.release()

    def join(self) -> None:
        for thread in self.threads:
            thread.join(PATIENCE_SECONDS)
            assert not thread.is_alive()


@pytest.fixture
def desk() -> Desk:
    """A desk that is busy with the ask 1."""
    desk = Desk()
    desk.start(1)
    assert desk.began.acquire(timeout=PATIENCE_SECONDS)
    return desk


def test_who_asks_while_a_group_is_under_way_is_in_the_next_one_and_gets_its_own_answer(desk: Desk) -> None:
    desk.ask(2, 3, 4)
    desk.go.release()
    desk.lead()
    desk.join()
    assert desk.answers == {1: 10, 2: 20, 3: 30, 4: 40}
    first, second = desk.groups
    assert (first, sorted(second)) == ([1], [2, 3, 4])


def test_a_group_is_bounded_and_what_is_over_waits_for_the_next(desk: Desk) -> None:
    desk.ask(*range(2, MOST + 12))
    desk.go.release()
    desk.lead()
    desk.lead()
    desk.join()
    assert [len(group) for group in desk.groups] == [1, MOST, 10]
    assert desk.answers == {ask: ask * 10 for ask in range(1, MOST + 12)}


def test_what_fails_is_raised_to_its_group_and_the_next_one_goes_on(desk: Desk) -> None:
    desk.ask(-1, 2)
    desk.go.release()
    assert desk.began.acquire(timeout=PATIENCE_SECONDS)
    desk.ask(3)
    desk.go.release()
    desk.lead()
    desk.join()
    assert desk.answers == {1: 10, -1: "one of them is odd", 2: "one of them is odd", 3: 30}


def test_alone_each_ask_is_carried_out_at_once(desk: Desk) -> None:
    desk.go.release()
    desk.join()
    desk.go.release()
    assert desk.together(5) == 50
    assert desk.groups == [[1], [5]]
