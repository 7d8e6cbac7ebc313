"""One transaction for all that is asked for at the same time: group commit, for what is not a commit only."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Ask = TypeVar("Ask")
Answer = TypeVar("Answer")

#: Asks of one group at most.
MOST = 64


@dataclass(eq=False, slots=True)
class _Waiting(Generic[Ask, Answer]):
    """One caller's ask, and what came of it."""

    ask: Ask
    #: Set when it is answered, or has to lead.
    news: threading.Event = field(default_factory=threading.Event)
    answers: tuple[Answer] | None = None
    error: BaseException | None = None


class Together(Generic[Ask, Answer]):
    """Carries out asks of many threads, those that come while others are under way in one go. Thread-safe.

    A transaction takes about the same time for one app's rows as for those of many. Alone nobody waits; with a
    hundred apps the groups are as large as the machine needs them. Each group is led by a thread that waits for it,
    so no ask costs a change of threads more.
    """

    def __init__(self, carry_out: Callable[[Sequence[Ask]], Sequence[Answer]]) -> None:
        """Groups are given to ``carry_out``, which answers each ask; what it raises is raised to all of them."""
        self._carry_out = carry_out
        self._mutex = threading.Lock()
        self._waiting: list[_Waiting[Ask, Answer]] = []
        self._is_led = False

    def __call__(self, ask: Ask) -> Answer:
        """Have it carried out, and wait for the answer."""
        mine = _Waiting[Ask, Answer](ask)
        with self._mutex:
            self._waiting.append(mine)
            leads, self._is_led = not self._is_led, True
        if not leads:
            mine.news.wait()
        if mine.answers is None and mine.error is None:
            self._lead()
        if mine.answers is None:
            assert mine.error is not None  # noqa: S101 - for the type checker
            raise mine.error
        return mine.answers[0]

    def _lead(self) -> None:
        """Carry out what is asked for, ours first; then the first who asked meanwhile leads."""
        with self._mutex:
            group, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
        try:
            answers = self._carry_out([one.ask for one in group])
            for one, answer in zip(group, answers, strict=True):
                one.answers = (answer,)
        except BaseException as err:  # noqa: BLE001 - each of them raises it
            for one in group:
                one.answers, one.error = None, err
        with self._mutex:
            following = self._waiting[0] if self._waiting else None
            self._is_led = following is not None
        if following is not None:
            following.news.set()
        for one in group:
            one.news.set()
