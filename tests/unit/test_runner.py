"""Whose turn it is in a worker: lanes, campaigns by weight, caps, permits left over; no server, a limiter by hand."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from disparo.batches import Claimed, Job
from disparo.errors import RedisUnavailable
from disparo.ratelimit import Ask, Permits, Stopped, Wait
from disparo.statuses import Lane, LimitedBy
from worker.routes import Route
from worker.runner import MOST_ASKS, MOST_TURNS, Runner

PAYMENT, UTILITY, MARKETING = Lane
ROUTE = Route(
    app_id=1,
    name="loja",
    url="http://127.0.0.1/",
    rate=80.0,
    everything=None,
    pair_seconds=6.0,
    pair_burst=1,
    tuning=False,
    tuning_epoch=0,
    epoch=0,
    read_at=0.0,
)


def row(job: Job, n: int) -> Claimed:
    return Claimed(
        n,
        1,
        job.app_id,
        job.lane,
        job.campaign_id,
        None,
        "5511987654321",
        0,
        None,
        None,
        "{}",
        "5511987654321",
    )


@dataclass
class Feeder:
    """A sender whose threads take ten rows at a time, and a limiter that grants all of it."""

    #: Rows that can still be claimed of a batch; all it names where it is not here.
    claimable: dict[int | None, int] = field(default_factory=dict)
    free: int = 10
    #: Answers of the limiter, each once; then everything is granted.
    answers: list[Any] = field(default_factory=list)
    asked: list[list[Ask]] = field(default_factory=list)
    sent: list[Claimed] = field(default_factory=list)
    ended: list[Job] = field(default_factory=list)
    handed_back: list[Job] = field(default_factory=list)
    given_back: list[int] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)
    told: list[str] = field(default_factory=list)
    _next: "itertools.count[int]" = field(default_factory=itertools.count)

    def route(self, *_: object) -> Route:
        return ROUTE

    def room(self, *_: object) -> int:
        return self.free

    def is_fenced(self) -> bool:
        return False

    def is_held_up(self) -> bool:
        return False

    def acquire(self, _: Route, asks: Sequence[Ask], **__: object) -> Any:
        self.asked.append(list(asks))
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        return Permits(0, tuple(tuple(range(ask.n)) for ask in asks))

    def give_back(self, _: Route, instants: Sequence[int]) -> None:
        self.given_back += instants

    def claim(self, job: Job, limit: int, _: Route) -> list[Claimed]:
        left = self.claimable.setdefault(job.batch_id, job.size)
        n = min(limit, left)
        self.claimable[job.batch_id] = left - n
        return [row(job, next(self._next)) for _n in range(n)]

    def dispatch(
        self, rows: list[Claimed], _: Route, instants: Sequence[float], __: float, **___: object
    ) -> None:
        assert len(rows) == len(instants)
        self.sent += rows

    def done(self, job: Job) -> None:
        self.ended.append(job)

    def hand_back(self, jobs: list[Job]) -> None:
        self.handed_back += jobs

    def tell(self, event: str, _: Exception | str) -> None:
        self.told.append(event)


_batches = itertools.count(1)


def job(lane: Lane, size: int, campaign_id: int | None = None, **more: Any) -> Job:
    return Job(1, lane, batch_id=next(_batches), size=size, campaign_id=campaign_id, **more)


def stepped(feeder: Feeder, jobs: list[Job], steps: int) -> Runner:
    runner = Runner(feeder, 1)
    for one in jobs:
        runner.add(one)
    for _ in range(steps):
        if runner.left():
            runner._step()
    return runner


def test_a_more_urgent_lane_gets_what_the_threads_can_take_and_the_others_one_each() -> None:
    feeder = Feeder()
    stepped(feeder, [job(MARKETING, 100, 1), job(UTILITY, 100), job(PAYMENT, 100, 2)], 1)
    assert [(ask.lane, ask.n, ask.waiting) for ask in feeder.asked[0]] == [
        (PAYMENT, 10, 100),
        (UTILITY, 1, 100),
        (MARKETING, 1, 100),
    ]


def test_what_the_urgent_lane_does_not_need_goes_to_the_next_ones() -> None:
    feeder = Feeder()
    stepped(feeder, [job(MARKETING, 100, 1), job(PAYMENT, 3, 2)], 1)
    assert [(ask.lane, ask.n) for ask in feeder.asked[0]] == [(PAYMENT, 3), (MARKETING, 7)]


@pytest.mark.parametrize("weights", [(1, 1), (1, 3), (2, 5), (1, 10)])
def test_campaigns_of_a_lane_are_served_by_their_weights(weights: tuple[int, int]) -> None:
    feeder = Feeder()
    stepped(feeder, [job(MARKETING, 100_000, n, weight=w) for n, w in enumerate(weights, 1)], 400)
    served = Counter(one.campaign_id for one in feeder.sent)
    assert served[2] / served[1] == pytest.approx(weights[1] / weights[0], rel=0.05)
    # And never for long without one of them.
    runs = [len(list(run)) for _, run in itertools.groupby(one.campaign_id for one in feeder.sent)]
    assert max(runs) <= 10 * (max(weights) // min(weights) + 1)


def test_a_campaign_that_comes_later_makes_up_for_nothing() -> None:
    feeder = Feeder()
    runner = stepped(feeder, [job(MARKETING, 100_000, 1)], 50)
    began = len(feeder.sent)
    runner.add(job(MARKETING, 100_000, 2))
    for _ in range(100):
        runner._step()
    served = Counter(one.campaign_id for one in feeder.sent[began:])
    assert served[1] == pytest.approx(served[2], rel=0.1)


def test_a_job_is_done_when_all_that_it_names_was_claimed_or_nothing_more_can_be() -> None:
    whole, cut = job(MARKETING, 20, 1), job(MARKETING, 20, 1)
    feeder = Feeder(claimable={cut.batch_id: 5})
    runner = stepped(feeder, [whole, cut], 10)
    assert feeder.ended == [whole, cut]
    assert len(feeder.sent) == 25
    assert runner.left() == []
    # Ten were granted for the last five rows.
    assert len(feeder.given_back) == 5


def test_permits_that_one_job_leaves_serve_the_next_of_its_campaign() -> None:
    first, second = job(MARKETING, 10, 1), job(MARKETING, 10, 1)
    feeder = Feeder(claimable={first.batch_id: 4})
    stepped(feeder, [first, second], 1)
    assert len(feeder.sent) == 10
    assert feeder.given_back == []


def test_a_campaign_whose_own_cap_has_no_permit_is_passed_over_until_it_has() -> None:
    feeder = Feeder(answers=[Wait(60.0)])
    capped = job(MARKETING, 100, 1, max_per_second=0.5)
    runner = Runner(feeder, 1)
    runner.add(capped)
    runner.wake()
    runner._step()
    assert feeder.asked[0] == [Ask(MARKETING, 1, 100, 1, 0.5)]
    runner.add(job(MARKETING, 100, 2))
    runner._step()
    assert [ask.campaign_id for ask in feeder.asked[1]] == [2]


def test_a_campaign_with_a_cap_asks_for_no_more_of_the_room_than_its_part_of_the_rate() -> None:
    feeder = Feeder()
    cap = 0.3 * feeder.route(1).rate
    stepped(feeder, [job(MARKETING, 100, 1, max_per_second=cap), job(MARKETING, 100, 2)], 1)
    assert [(ask.campaign_id, ask.n) for ask in feeder.asked[0]] == [(1, 3), (2, 7)]


def test_a_cap_that_has_none_of_several_asks_holds_up_only_its_own_campaign() -> None:
    free = tuple(range(5))
    feeder = Feeder(answers=[Permits(0, ((), free), wait_seconds=60.0)])
    runner = stepped(feeder, [job(MARKETING, 5, 1, max_per_second=0.5), job(MARKETING, 5, 2)], 1)
    assert [one.campaign_id for one in feeder.sent] == [2] * 5
    assert [one.campaign_id for one in runner.left()] == [1]
    runner.wake()
    runner._step()
    assert len(feeder.asked) == 1


def test_a_campaign_with_a_cap_leaves_the_others_the_room_that_it_cannot_use() -> None:
    feeder = Feeder(free=10)
    stepped(feeder, [job(MARKETING, 100, 1, max_per_second=3.0), job(MARKETING, 100, 2)], 1)
    assert [(ask.campaign_id, ask.n) for ask in feeder.asked[0]] == [(1, 1), (2, 9)]


def test_nobody_waits_because_the_only_campaign_that_was_asked_for_has_used_up_its_cap() -> None:
    feeder = Feeder(free=1, answers=[Wait(60.0)])
    runner = stepped(feeder, [job(MARKETING, 100, 1, max_per_second=0.5), job(MARKETING, 100, 2)], 0)
    runner._news = False
    runner._step()
    assert LimitedBy.RATE not in runner.pace()
    runner._step()
    assert [[ask.campaign_id for ask in asks] for asks in feeder.asked] == [[1], [2]]


def test_no_more_campaigns_are_asked_for_at_once_than_a_call_may_hold() -> None:
    feeder = Feeder(free=500)
    stepped(feeder, [job(MARKETING, 1, n) for n in range(40)], 1)
    assert len(feeder.asked[0]) == MOST_ASKS


def test_many_campaigns_of_an_urgent_lane_leave_the_others_their_ask() -> None:
    feeder = Feeder(free=500)
    jobs = [job(PAYMENT, 1, n) for n in range(40)] + [job(UTILITY, 9, 50), job(MARKETING, 9, 51)]
    stepped(feeder, jobs, 1)
    assert [ask.lane for ask in feeder.asked[0]] == [PAYMENT] * (MOST_ASKS - 2) + [UTILITY, MARKETING]


def test_campaigns_that_are_over_are_forgotten() -> None:
    feeder = Feeder()
    runner = stepped(feeder, [], 0)
    for n in range(200):
        runner.add(job(PAYMENT, 3, n))
        runner._step()
    assert len(runner._turns) <= MOST_TURNS


def test_a_probe_leaves_before_everything_and_alone() -> None:
    feeder = Feeder()
    probe = Job(1, MARKETING, message_ids=(7,), probe=True, campaign_id=3)
    runner = stepped(feeder, [job(PAYMENT, 10, 1)], 0)
    runner.add(probe)
    runner._step()
    assert feeder.asked == [[Ask(MARKETING, 1)]]
    assert feeder.ended == [probe]
    assert [one.campaign_id for one in feeder.sent] == [3]


def test_a_stop_hands_back_all_jobs_but_the_probe() -> None:
    feeder = Feeder(answers=[Stopped("no credit")])
    jobs = [job(PAYMENT, 10, 1), job(MARKETING, 10, 2)]
    runner = stepped(feeder, jobs, 1)
    assert feeder.handed_back == jobs
    assert runner.left() == []


def test_retries_of_a_campaign_take_turns_with_its_batches() -> None:
    batches = [job(MARKETING, 10, 1) for _ in range(4)]
    retries = [Job(1, MARKETING, message_ids=(n,), campaign_id=1) for n in range(6)]
    runner = stepped(Feeder(), [*batches, *retries], 0)
    assert runner.left() == [
        *(one for pair in zip(batches, retries, strict=False) for one in pair),
        *retries[4:],
    ]


def test_the_same_job_that_comes_twice_is_one() -> None:
    feeder = Feeder()
    one = job(MARKETING, 10, 1)
    runner = stepped(feeder, [one, replace(one)], 0)
    assert runner.left() == [one]


def until(found: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not found():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def test_a_job_that_comes_while_it_waits_for_the_rate_is_looked_at_at_once() -> None:
    # An hour, of which it waits as long as a look at the stops takes at most.
    feeder = Feeder(answers=[Wait(3600.0)] * 3)
    runner = Runner(feeder, 1)
    runner.add(job(MARKETING, 10, 1))
    runner.start()
    until(lambda: len(feeder.asked) == 1, "the first ask")
    runner.add(job(PAYMENT, 1, 2))
    until(lambda: len(feeder.asked) >= 2, "the payment to be asked for")
    feeder.closing.set()
    runner.wake()
    runner.join(20)
    assert [ask.lane for ask in feeder.asked[1]] == [PAYMENT, MARKETING]
    assert runner.pace()[LimitedBy.RATE] > 0


def test_where_its_time_goes_is_told_by_cause_and_fades() -> None:
    feeder = Feeder(answers=[RedisUnavailable("Redis does not answer")])
    runner = Runner(feeder, 1)
    runner.add(job(MARKETING, 10, 1))
    runner.start()
    until(lambda: len(feeder.sent) == 10, "the rows to be sent")
    feeder.closing.set()
    runner.wake()
    runner.join(20)
    first, second = runner.pace(), runner.pace()
    assert first[LimitedBy.NETWORK] >= 0.05
    assert second[LimitedBy.NETWORK] == pytest.approx(first[LimitedBy.NETWORK] * 0.8)
    assert feeder.told == ["sending_waits"]
