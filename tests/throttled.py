"""A simulated provider that refuses what is too fast, and workers that tune themselves to it; no real time passes.

The provider accepts so many requests in any second (a sliding window) and refuses the rest; refused ones do not
count. Workers learn of a refusal with its answer, and let nothing leave until the cool-down is over. What they
count is known to the tick up to a second later, and the tick looks once a second.
"""

import heapq
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from disparo import tuning
from disparo.tuning import Tuning

BEGIN = datetime(2026, 11, 21, tzinfo=UTC)


@dataclass
class Throttled:
    """One app at one provider. Times are seconds since the beginning."""

    #: Second → requests that are accepted in any second then.
    limit: Callable[[float], float]
    configured: float
    latency: float = 0.1
    jitter: float = 0.01
    workers: int = 2
    cool_seconds: float = 1.0
    seed: int = 0
    #: Second → whether work waits then.
    busy: Callable[[float], bool] = lambda _: True

    #: When the rate changed, and to what.
    rates: list[tuple[float, float]] = field(default_factory=list)
    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)  # noqa: S311 - latencies of a test
        self.state = tuning.start(BEGIN, self.configured)
        self.rates.append((0.0, self.state.rate))
        self._window: deque[float] = deque()
        self._answered = [0] * self.workers
        self._reported = [0] * self.workers
        self._cool = [0.0] * self.workers
        self._free = 0.0
        self._order = 0
        self._events: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._at(0.0, self._grant)
        self._at(self._random.random(), self._tick)
        for worker in range(self.workers):
            self._at(self._random.random(), self._report, worker)

    def run(self, until: float) -> "Throttled":
        """Go on until that second."""
        while self._events[0][0] < until:
            self.now, _, act, arguments = heapq.heappop(self._events)
            act(*arguments)
        return self

    def _at(self, second: float, act: Callable[..., None], *arguments: object) -> None:
        self._order += 1
        heapq.heappush(self._events, (second, self._order, act, arguments))

    def _grant(self) -> None:
        """Permits of a quarter of a second, to one of the workers."""
        rate = self.state.rate_within(self.configured)
        first = max(self._free, self.now, *self._cool)
        if not self.busy(self.now):
            return self._at(self.now + 0.25, self._grant)
        if first > self.now + 0.5:
            return self._at(first - 0.5, self._grant)
        worker, n = self._random.randrange(self.workers), max(1, int(rate / 4))
        for permit in range(n):
            late = self._random.uniform(0, self.jitter)
            self._at(first + permit / rate + late, self._send, worker, self.state.epoch)
        self._free = first + n / rate
        return self._at(max(self.now + 0.001, self._free - 0.25), self._grant)

    def _send(self, worker: int, epoch: int) -> None:
        if self.now < self._cool[worker]:
            return
        while self._window and self._window[0] <= self.now - 1.0:
            self._window.popleft()
        taken = len(self._window) < self.limit(self.now)
        (self.accepted if taken else self.refused).append(self.now)
        if taken:
            self._window.append(self.now)
        latency = self.latency * self._random.uniform(0.7, 1.3)
        self._at(self.now + latency, self._answer, worker, epoch, taken)

    def _answer(self, worker: int, epoch: int, taken: bool) -> None:
        if taken:
            self._answered[worker] += 1
            return
        self._cool[worker] = self.now + self.cool_seconds
        if epoch == self.state.epoch:
            self._become(
                tuning.after_refusal(
                    self.state,
                    self._clock(),
                    cool_seconds=self.cool_seconds,
                    limit=self.configured,
                    answered=sum(self._reported),
                )
            )

    def _report(self, worker: int) -> None:
        self._reported[worker] = self._answered[worker]
        self._at(self.now + 1.0, self._report, worker)

    def _tick(self) -> None:
        answered = sum(self._reported)
        self._become(tuning.after_calm(self.state, self._clock(), limit=self.configured, answered=answered))
        self._at(self.now + 1.0, self._tick)

    def _become(self, state: Tuning) -> None:
        if state.epoch != self.state.epoch:
            self.rates.append((self.now, state.rate))
        self.state = state

    def _clock(self) -> datetime:
        return BEGIN + timedelta(seconds=self.now)

    # -- what came of it -----------------------------------------------------------------------------

    def _stretches(self) -> Iterator[tuple[float, float, float]]:
        ends = [second for second, _ in self.rates[1:]] + [self.now]
        for (begin, rate), end in zip(self.rates, ends, strict=True):
            yield begin, end, rate

    def found_at(self, rate: float, *, since: float = 0.0, stays: float = 10.0) -> float | None:
        """Seconds after ``since`` from which the rate in force is within 10 % of ``rate``, for ``stays`` seconds."""
        begun = None
        for begin, end, was in self._stretches():
            if end <= since:
                continue
            if not 0.9 * rate <= was <= 1.1 * rate:
                begun = None
                continue
            begun = max(begin, since) if begun is None else begun
            if end - begun >= stays:
                return begun - since
        return None

    def mean(self, since: float) -> float:
        """Accepted requests per second from then to now."""
        return sum(second >= since for second in self.accepted) / (self.now - since)

    def refusals(self, since: float = 0.0) -> int:
        return sum(second >= since for second in self.refused)
