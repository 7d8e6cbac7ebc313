"""The shared rate on a real Redis: raced, emptied, stopped, cooled down, away."""

import itertools
import json
import math
import random
import subprocess
import sys
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
from redis import Redis

from disparo.errors import RedisUnavailable
from disparo.ratelimit import Ask, Permits, Stopped, Wait
from disparo.ratelimit import redis as on_redis
from disparo.ratelimit.redis import RedisRateLimiter, connect
from disparo.statuses import Lane
from tests.racing import start_racers

HORIZON = 0.5
SECOND = 1_000_000

#: Sixteen threads of one process that take what they get, or give some of it back, until the time is over; prints
#: all instants of the Redis clock, in microseconds, that were used.
RACER = """
import json, random, sys, threading, time
from disparo.ratelimit import Ask, Permits
from disparo.ratelimit.redis import RedisRateLimiter, connect
from disparo.statuses import Lane

url, rate, seconds = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
client = connect(url)
limiter = RedisRateLimiter(client)
granted, given_back, script = [], [], limiter._script

def spy(**call):
    answer = script(**call)
    if answer[0] == 0:
        granted.extend(answer[1] + ahead for got in answer[3:] for ahead in got)
    return answer

limiter._script = spy
client.incr("ready")
while client.get("go") is None:
    time.sleep(0.01)
until = time.monotonic() + seconds

def race(n):
    chance = random.Random(n)
    while time.monotonic() < until:
        lanes = sorted(chance.sample(list(Lane), chance.choice([1, 1, 2, 3])), key=list(Lane).index)
        asks = [Ask(lane, chance.choice([1, 2, 7, 100]), chance.choice([0, 1000])) for lane in lanes]
        got = limiter.acquire(1, asks, rate, 0.5)
        if isinstance(got, Permits) and chance.random() < 0.2:
            back = [instant for one in got.instants for instant in one if chance.random() < 0.5]
            limiter.give_back(1, back, rate)
            given_back.extend(back)
        time.sleep(0.001 if isinstance(got, Permits) else min(0.02, got.seconds))

threads = [threading.Thread(target=race, args=(n,)) for n in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps([granted, given_back]))
"""


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    with connect(redis_url) as opened:
        yield opened


@pytest.fixture
def limiter(client: Redis) -> RedisRateLimiter:
    """A limiter that is past the wait after an emptied Redis, for apps 1 and 2."""
    client.mset({"disparo:app:1:free": "0", "disparo:app:2:free": "0"})
    return RedisRateLimiter(client)


def ask(
    limiter: RedisRateLimiter,
    app_id: int,
    n: int,
    rate: float,
    *,
    lane: Lane = Lane.MARKETING,
    waiting: int = 0,
) -> Permits | Wait | Stopped:
    """One ask of one lane."""
    return limiter.acquire(app_id, [Ask(lane, n, waiting)], rate, HORIZON)


def ahead(got: Permits | Wait | Stopped, ask: int = 0) -> list[float]:
    """Seconds from the call to each permit of an ask."""
    assert isinstance(got, Permits)
    return [(instant - got.now) / SECOND for instant in got.instants[ask]]


@pytest.mark.parametrize(
    ("rate", "emptied"), [(10, False), (80, False), (1_000, False), (333, False), (2.5, False), (80, True)]
)
def test_thirty_two_threads_of_two_processes_never_exceed_the_rate(
    redis_url: str, client: Redis, rate: float, emptied: bool
) -> None:
    arguments = [sys.executable, "-c", RACER, redis_url, str(rate), "3"]
    racers = [subprocess.Popen(arguments, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        start_racers(client, 2)
        if emptied:
            # In the middle of it, with permits ahead that only the workers know of.
            time.sleep(1.5)
            client.delete("disparo:app:1:free")
        shares = [json.loads(racer.communicate(timeout=60)[0]) for racer in racers]
    finally:
        for racer in racers:
            racer.kill()
            racer.wait()
    used = Counter[int]()
    for granted, given_back in shares:
        used.update(granted)
        used.subtract(given_back)
    # What was given back may have been granted again, once.
    assert set(used.values()) <= {0, 1}
    assert rate < 20 or any(given_back for _, given_back in shares)
    instants = sorted(instant for instant, n in used.items() if n)
    assert min(b - a for a, b in itertools.pairwise(instants)) >= 1_000_000 / rate
    # A second that begins with one permit ends before the permit that would be one too many.
    seconds = zip(instants, instants[math.ceil(rate) :], strict=False)
    assert min((b - a for a, b in seconds), default=1_000_000) >= 1_000_000
    assert len(instants) > rate / 2


def test_permits_follow_each_other_without_a_gap_while_work_waits(
    limiter: RedisRateLimiter, client: Redis
) -> None:
    got = [ask(limiter, 1, 40, 100), ask(limiter, 1, 100, 100)]
    assert [type(one) for one in got] == [Permits, Permits]
    assert [len(ahead(one)) for one in got] == [40, pytest.approx(11, abs=1)]
    clock = client.time()
    free = float(client.get("disparo:app:1:free")) - (clock[0] * 1_000_000 + clock[1])
    assert 0 < free <= 510_000
    instants = got[0].instants[0] + got[1].instants[0]
    assert {b - a for a, b in itertools.pairwise(instants)} == {10_000}


def test_no_permit_lies_beyond_the_horizon(limiter: RedisRateLimiter) -> None:
    got = ask(limiter, 1, 500, 10)
    assert len(ahead(got)) == 6
    assert ahead(got)[-1] <= HORIZON
    then = ask(limiter, 1, 1, 10)
    assert isinstance(then, Wait)
    assert 0 < then.seconds <= 0.1


def test_time_that_nobody_used_is_not_caught_up(limiter: RedisRateLimiter, client: Redis) -> None:
    clock = client.time()
    client.set("disparo:app:1:free", str((clock[0] - 60) * 1_000_000))
    got = ask(limiter, 1, 500, 20)
    assert (len(ahead(got)), ahead(got)[0]) == (11, 0.0)


def test_apps_do_not_wait_for_each_other(limiter: RedisRateLimiter) -> None:
    ask(limiter, 1, 500, 10)
    assert isinstance(ask(limiter, 1, 1, 10), Wait)
    assert isinstance(ask(limiter, 2, 1, 10), Permits)


def test_a_rate_below_one_grants_one_and_then_waits_its_interval(limiter: RedisRateLimiter) -> None:
    got = ask(limiter, 1, 10, 0.1)
    assert len(ahead(got)) == 1
    then = ask(limiter, 1, 1, 0.1)
    assert isinstance(then, Wait)
    assert 5 < then.seconds <= 9.6


@pytest.mark.parametrize("rate", [1_000, 10, 0.1])
def test_an_emptied_redis_grants_nothing_until_what_it_granted_has_left(
    limiter: RedisRateLimiter, client: Redis, rate: float
) -> None:
    interval = min(1 / rate, 1.0)
    got = ask(limiter, 1, 500, rate)
    last = time.monotonic() + ahead(got)[-1]
    client.flushdb()
    after = ask(limiter, 1, 500, rate)
    assert isinstance(after, Wait)
    deadline = time.monotonic() + 30
    while isinstance(after, Wait):
        assert time.monotonic() < deadline
        time.sleep(after.seconds)
        asked_at = time.monotonic()
        after = ask(limiter, 1, 500, rate)
    assert asked_at + ahead(after)[0] >= last + interval - 0.005


def test_a_redis_that_forgot_the_script_is_given_it_again(limiter: RedisRateLimiter, client: Redis) -> None:
    ask(limiter, 1, 1, 10)
    client.script_flush()
    assert isinstance(ask(limiter, 1, 1, 10), Permits)
    client.script_flush()
    limiter.cool_down(1, 5)
    assert isinstance(ask(limiter, 1, 1, 10), Wait)


def test_a_stop_is_handed_out_instead_of_permits_until_it_ends(limiter: RedisRateLimiter) -> None:
    limiter.stop(1, "sem créditos")
    assert ask(limiter, 1, 1, 10) == Stopped("sem créditos")
    assert isinstance(ask(limiter, 2, 1, 10), Permits)
    limiter.resume(1)
    assert isinstance(ask(limiter, 1, 1, 10), Permits)


def test_published_stops_replace_what_redis_said(limiter: RedisRateLimiter) -> None:
    limiter.stop(1, "old")
    limiter.publish_stops({1: None, 2: "operator"})
    assert isinstance(ask(limiter, 1, 1, 10), Permits)
    assert ask(limiter, 2, 1, 10) == Stopped("operator")
    limiter.publish_stops({})
    assert ask(limiter, 2, 1, 10) == Stopped("operator")


def test_a_cool_down_grants_nothing_for_its_time_and_shortens_no_longer_one(
    limiter: RedisRateLimiter,
) -> None:
    limiter.cool_down(1, 20)
    limiter.cool_down(1, 1)
    got = ask(limiter, 1, 1, 10)
    assert isinstance(got, Wait)
    assert 15 < got.seconds <= 19.5
    assert isinstance(ask(limiter, 2, 1, 10), Permits)


def test_a_cool_down_ends(limiter: RedisRateLimiter) -> None:
    limiter.cool_down(1, 0.7)
    began = time.monotonic()
    got = ask(limiter, 1, 5, 10)
    while isinstance(got, Wait):
        assert time.monotonic() - began < 30
        time.sleep(got.seconds)
        got = ask(limiter, 1, 5, 10)
    assert time.monotonic() - began + ahead(got)[0] >= 0.69


def test_an_emptied_redis_is_noticed_until_it_is_marked(limiter: RedisRateLimiter, client: Redis) -> None:
    assert limiter.was_emptied()
    limiter.mark()
    assert not limiter.was_emptied()
    client.flushdb()
    assert limiter.was_emptied()


def test_a_redis_that_is_away_is_told_in_a_sentence_and_grants_nothing(home: object) -> None:
    limiter = RedisRateLimiter(connect(f"unix://{home}/nobody.sock"))
    calls = [
        lambda: ask(limiter, 1, 1, 10),
        lambda: limiter.cool_down(1, 1),
        lambda: limiter.stop(1, "x"),
        lambda: limiter.resume(1),
        lambda: limiter.publish_stops({1: "x"}),
        lambda: limiter.was_emptied(),
        lambda: limiter.mark(),
    ]
    for call in calls:
        with pytest.raises(RedisUnavailable, match="Redis does not answer"):
            call()


def test_more_threads_than_connections_wait_for_one(redis_url: str) -> None:
    with connect(redis_url, max_connections=2) as client:
        limiter = RedisRateLimiter(client)
        with ThreadPoolExecutor(24) as threads:
            got = list(threads.map(lambda _: ask(limiter, 1, 1, 10), range(240)))
    assert all(isinstance(one, Permits | Wait) for one in got)


# -- the server's clock is set back -----------------------------------------------------------------------

TIME = "redis.call('TIME')"


@dataclass
class Clocked:
    """A limiter whose server has its clock from us; beside it the true time goes on. All in microseconds."""

    client: Redis
    limiter: RedisRateLimiter
    clock: int = 1_800_000_000 * SECOND
    true: int = 0
    #: The true instants of all permits.
    granted: list[float] = field(default_factory=list)

    def tell(self) -> None:
        self.client.set("clock", self.clock)

    def sleep(self, seconds: float) -> None:
        self.clock += round(seconds * SECOND)
        self.true += round(seconds * SECOND)
        self.tell()

    def set_back(self, seconds: float) -> None:
        self.clock -= round(seconds * SECOND)
        self.tell()

    def acquire(self, permits: int, rate: float) -> Permits | Wait:
        got = ask(self.limiter, 1, permits, rate)
        assert not isinstance(got, Stopped)
        if isinstance(got, Permits):
            assert ahead(got)[-1] <= HORIZON
            self.granted += [self.true + instant - got.now for instant in got.instants[0]]
        return got

    def work(self, seconds: float, rate: float) -> None:
        """Ask again and again, as a sender does, for so long."""
        until = self.true + seconds * SECOND
        while self.true < until:
            got = self.acquire(500, rate)
            self.sleep(min(got.seconds, 0.4) if isinstance(got, Wait) else 0.25)

    @property
    def gaps(self) -> list[float]:
        """Seconds between one permit and the next, as they were granted."""
        return [(b - a) / SECOND for a, b in itertools.pairwise(self.granted)]


@pytest.fixture
def clocked(client: Redis) -> Clocked:
    assert _with_our_clock(on_redis._SCRIPT) != on_redis._SCRIPT
    limiter = RedisRateLimiter(client)
    limiter._script = client.register_script(_with_our_clock(on_redis._SCRIPT))
    limiter._cool_down = client.register_script(_with_our_clock(on_redis._COOL_DOWN))
    made = Clocked(client, limiter)
    made.tell()
    client.set("disparo:app:1:free", "0")
    return made


def _with_our_clock(script: str) -> str:
    return script.replace(TIME, "{0, redis.call('GET', 'clock')}")


@pytest.mark.parametrize("rate", [1_000, 80, 2.5])
@pytest.mark.parametrize("seconds", [0.003, 0.3, 0.7, 2, 3600, 10_000_000])
def test_a_clock_that_is_set_back_stops_nobody_for_long_and_nothing_exceeds_the_rate(
    clocked: Clocked, rate: float, seconds: float
) -> None:
    clocked.work(2, rate)
    for _ in range(2):
        clocked.set_back(seconds)
        clocked.work(3, rate)
    # By the true time, and by the order of the grants too.
    assert min(clocked.gaps) >= 1 / rate - 2e-6
    # What had been granted before leaves first; a small step is waited out.
    assert max(clocked.gaps) <= 2 * (HORIZON + 1 / rate) + 0.4


def test_whatever_the_clock_and_the_rate_do_no_second_holds_more_than_the_rate(clocked: Clocked) -> None:
    chance = random.Random(7)  # noqa: S311
    rates = [10.0, 11.0, 80.0, 0.1]
    for _ in range(1_500):
        if chance.random() < 0.02:
            clocked.set_back(chance.choice([0.01, 0.5, 0.61, 1.6, 11, 86_400]))
        clocked.acquire(chance.choice([1, 3, 500]), chance.choice(rates))
        clocked.sleep(chance.choice([0.001, 0.02, 0.1]))
    assert len(clocked.granted) > 200
    assert min(clocked.gaps) >= 1 / max(rates) - 2e-6


def test_a_rate_that_is_raised_counts_within_a_second(clocked: Clocked) -> None:
    assert isinstance(clocked.acquire(1, 0.1), Permits)
    assert isinstance(clocked.acquire(1, 0.1), Wait)
    clocked.work(3, 10)
    before, *after = clocked.gaps
    assert HORIZON + 0.1 <= before <= 1.0
    assert len(after) >= 20
    assert after == pytest.approx([0.1] * len(after), abs=2e-6)


def test_a_slow_rate_waits_its_whole_interval_each_time(clocked: Clocked) -> None:
    clocked.work(45, 0.1)
    assert clocked.gaps == pytest.approx([10.0] * 4, abs=1e-5)


def test_a_free_instant_of_another_clock_is_forgotten_on_a_real_server(
    limiter: RedisRateLimiter, client: Redis
) -> None:
    clock = client.time()
    client.set("disparo:app:1:free", str((clock[0] + 3_600) * SECOND))
    began = time.monotonic()
    got = ask(limiter, 1, 5, 10)
    assert isinstance(got, Wait)
    assert got.seconds <= 0.11
    while isinstance(got, Wait):
        assert time.monotonic() - began < 30
        time.sleep(got.seconds)
        got = ask(limiter, 1, 5, 10)
    # What another worker was granted just now leaves first.
    assert time.monotonic() - began + ahead(got)[0] >= HORIZON + 0.099


# -- cool-downs -------------------------------------------------------------------------------------------


def cooled_for(clocked: Clocked, began: int, rate: float = 10) -> float:
    """Seconds from the true instant ``began`` until the next permit."""
    while isinstance(got := clocked.acquire(1, rate), Wait):
        assert clocked.true - began < 10_000 * SECOND, "it does not end"
        clocked.sleep(min(got.seconds, 0.4))
    return (clocked.true - began) / SECOND + ahead(got)[0]


def cooling(clocked: Clocked, seconds: float) -> None:
    """Time passes while a worker asks."""
    for _ in range(round(seconds / 0.25)):
        assert isinstance(clocked.acquire(1, 10), Wait)
        clocked.sleep(0.25)


@pytest.mark.parametrize(("first", "second"), [(20, 1), (1, 20), (20, 20)])
def test_of_two_cool_downs_the_one_that_ends_last_counts(
    clocked: Clocked, first: float, second: float
) -> None:
    clocked.limiter.cool_down(1, first)
    began = clocked.true
    clocked.limiter.cool_down(1, second)
    assert cooled_for(clocked, began) == pytest.approx(20, abs=0.01)


def test_a_cool_down_in_force_may_be_prolonged_by_what_the_provider_says_next(clocked: Clocked) -> None:
    clocked.limiter.cool_down(1, 20)
    cooling(clocked, 15)
    clocked.limiter.cool_down(1, 20)
    assert cooled_for(clocked, clocked.true) == pytest.approx(20, abs=0.01)


def test_after_a_cool_down_nothing_is_caught_up_and_its_key_is_gone(clocked: Clocked, client: Redis) -> None:
    clocked.limiter.cool_down(1, 3)
    clocked.work(3, 80)
    began = len(clocked.granted)
    clocked.work(2, 80)
    assert clocked.gaps[began:] == pytest.approx([1 / 80] * len(clocked.gaps[began:]), abs=2e-6)
    assert client.get("disparo:app:1:cool") is None


@pytest.mark.parametrize("seconds", [10, 3600])
def test_a_clock_that_is_set_back_neither_shortens_nor_prolongs_a_cool_down(
    clocked: Clocked, seconds: float
) -> None:
    clocked.limiter.cool_down(1, 20)
    began = clocked.true
    cooling(clocked, 15)
    clocked.set_back(seconds)
    # Only what passed since a worker asked last is not known.
    assert 20 - 0.01 <= cooled_for(clocked, began) <= 20 + 0.5


def test_a_shorter_cool_down_after_the_clock_was_set_back_does_not_end_a_longer_one(clocked: Clocked) -> None:
    clocked.limiter.cool_down(1, 600)
    began = clocked.true
    clocked.set_back(3600)
    clocked.limiter.cool_down(1, 1)
    assert cooled_for(clocked, began) >= 600 - 0.01


def test_a_cool_down_that_a_server_with_another_clock_left_ends_in_its_time(
    limiter: RedisRateLimiter, client: Redis
) -> None:
    ahead = (client.time()[0] + 3_600) * SECOND
    client.set("disparo:app:1:cool", f"{ahead + 2 * SECOND} {ahead}")
    got = ask(limiter, 1, 1, 10)
    assert isinstance(got, Wait)
    assert 1.4 <= got.seconds <= 1.5


# -- lanes, campaigns, everything -------------------------------------------------------------------------

PAYMENT, UTILITY, MARKETING = Lane


def several(clocked: Clocked, asks: list[Ask], rate: float, **options: Any) -> list[list[int]]:
    """The true instants that each ask got."""
    got = clocked.limiter.acquire(1, asks, rate, HORIZON, **options)
    if not isinstance(got, Permits):
        return [[] for _ in asks]
    return [[clocked.true + instant - got.now for instant in instants] for instants in got.instants]


def worked(
    clocked: Clocked, seconds: float, rate: float, asks: list[Ask], pause: float = 0.05, **options: Any
) -> list[list[int]]:
    """Ask for the same again and again, each ask by a process of its own; the instants of each."""
    found: list[list[int]] = [[] for _ in asks]
    until = clocked.true + seconds * SECOND
    while clocked.true < until:
        for n, one in enumerate(asks):
            found[n] += several(clocked, [one], rate, **options)[0]
        clocked.sleep(pause)
    return found


def most_in_a_second(instants: list[int]) -> int:
    ordered = sorted(instants)
    return max((bisect_left(ordered, at + SECOND) - n for n, at in enumerate(ordered)), default=0)


@pytest.mark.parametrize("rate", [10.0, 80.0, 1_000.0])
@pytest.mark.parametrize("urgent", [PAYMENT, UTILITY])
def test_while_a_lane_waits_for_the_rate_those_behind_it_get_their_share_and_no_more(
    clocked: Clocked, rate: float, urgent: Lane
) -> None:
    # The marketing worker asks first, each time.
    marketing, first = worked(
        clocked, 20, rate, [Ask(MARKETING, 500, 1_000_000), Ask(urgent, 500, 1_000_000)], pause=0.02
    )
    assert len(marketing) + len(first) == pytest.approx(20 * rate, rel=0.05)
    # A twentieth, and what was reserved before the others came.
    assert 0.04 * 20 * rate <= len(marketing) <= 0.06 * 20 * rate + rate
    assert most_in_a_second(marketing[round(rate) :]) <= math.ceil(rate / 20) + 1
    assert most_in_a_second(marketing + first) <= rate


def test_all_three_lanes_get_something_of_a_rate_that_payments_use_up(clocked: Clocked) -> None:
    shares = worked(clocked, 30, 80, [Ask(lane, 100, 10_000) for lane in (MARKETING, UTILITY, PAYMENT)])
    marketing, utility, payment = (len(share) / (30 * 80) for share in shares)
    assert 0.03 <= marketing <= 0.07
    assert 0.03 <= utility <= 0.07
    assert payment >= 0.85


@pytest.mark.parametrize("rate", [10.0, 80.0, 1_000.0])
def test_a_payment_waits_for_what_was_reserved_before_it_and_no_longer(clocked: Clocked, rate: float) -> None:
    blast = Ask(MARKETING, 500, 1_000_000)
    worked(clocked, 3, rate, [blast], pause=0.02)
    came = clocked.true
    paid: list[int] = []
    while not paid:
        several(clocked, [blast], rate)
        paid = several(clocked, [Ask(PAYMENT, 1, 1)], rate)[0]
        clocked.sleep(0.01)
    assert (paid[0] - came) / SECOND <= HORIZON + 2 / rate
    # And the others go on at the whole rate.
    (after,) = worked(clocked, 3, rate, [blast], pause=0.02)
    assert len(after) >= 0.95 * 3 * rate


def test_a_lane_that_waits_for_nothing_but_its_threads_leaves_the_rate_to_the_others(
    clocked: Clocked,
) -> None:
    # Two payments a second are sent of the hundreds that wait; of eighty that might.
    asks = [Ask(PAYMENT, 1, 500), Ask(MARKETING, 40, 10_000)]
    payment, marketing = [], []
    busy_until = 0
    while clocked.true < 20 * SECOND:
        if clocked.true >= busy_until and (got := several(clocked, asks[:1], 80)[0]):
            payment += got
            busy_until = got[0] + SECOND // 2
        marketing += several(clocked, asks[1:], 80)[0]
        clocked.sleep(0.02)
    assert len(payment) >= 18
    assert len(marketing) >= 0.8 * 80 * 20


def test_a_capped_campaign_of_a_lane_does_not_end_the_waiting_of_the_others_in_it(clocked: Clocked) -> None:
    payments = [Ask(PAYMENT, 500, 1_000), Ask(PAYMENT, 500, 1_000, campaign_id=7, max_per_second=1.0)]
    marketing: list[int] = []
    while clocked.true < 10 * SECOND:
        several(clocked, payments, 80)
        marketing += several(clocked, [Ask(MARKETING, 500, 1_000_000)], 80)[0]
        clocked.sleep(0.02)
    assert 0.03 * 80 * 10 <= len(marketing) <= 0.07 * 80 * 10


def test_in_one_call_the_urgent_ask_comes_first(clocked: Clocked) -> None:
    payment, marketing = several(clocked, [Ask(PAYMENT, 2, 2), Ask(MARKETING, 10, 10)], 80)
    assert len(payment) == 2
    assert len(marketing) == 10
    assert max(payment) < min(marketing)


@pytest.mark.parametrize(("rate", "cap"), [(80.0, 5.0), (80.0, 33.0), (10.0, 0.5), (1_000.0, 100.0)])
def test_a_campaign_with_a_cap_keeps_it_and_takes_nothing_from_the_others(
    clocked: Clocked, rate: float, cap: float
) -> None:
    capped, free = worked(
        clocked,
        20,
        rate,
        [Ask(MARKETING, 500, 1_000, campaign_id=7, max_per_second=cap), Ask(MARKETING, 500, 1_000)],
        pause=0.01,
    )
    assert most_in_a_second(capped) <= math.ceil(cap)
    assert len(capped) >= 0.9 * 20 * cap - 1
    assert len(capped) + len(free) >= 0.95 * 20 * rate
    assert most_in_a_second(capped + free) <= rate


def test_a_campaign_with_a_cap_alone_holds_nothing_up_that_comes_later(clocked: Clocked) -> None:
    one = Ask(MARKETING, 500, 1_000, campaign_id=7, max_per_second=1.0)
    worked(clocked, 5, 80, [one])
    came = clocked.true
    got = several(clocked, [Ask(UTILITY, 1, 1)], 80)[0]
    assert got
    assert got[0] - came <= 0.12 * SECOND


def test_a_clock_that_is_set_back_holds_no_campaign_with_a_cap(clocked: Clocked) -> None:
    one = Ask(MARKETING, 500, 1_000, campaign_id=7, max_per_second=5.0)
    worked(clocked, 3, 80, [one])
    clocked.set_back(3_600)
    assert len(worked(clocked, 5, 80, [one])[0]) >= 5 * 4


def shared(
    clocked: Clocked, seconds: float, rates: list[float], everything: float, pause: float = 0.02
) -> list[list[int]]:
    """What apps 1, 2, … of these rates get, which ask one after the other, and again after a pause; the instants."""
    clocked.client.mset({f"disparo:app:{n}:free": "0" for n in range(1, len(rates) + 1)})
    found: list[list[int]] = [[] for _ in rates]
    for _ in range(round(seconds / pause)):
        for n, rate in enumerate(rates):
            asks = [Ask(MARKETING, max(1, round(rate * HORIZON)), 1_000)]
            got = clocked.limiter.acquire(n + 1, asks, rate, HORIZON, everything=everything)
            if isinstance(got, Permits):
                found[n] += [clocked.true + instant - got.now for instant in got.instants[0]]
        clocked.sleep(pause)
    return found


def test_everything_together_keeps_its_limit_and_each_app_its_own(clocked: Clocked) -> None:
    big, small = shared(clocked, 20, [80.0, 10.0], 50.0)
    assert most_in_a_second(big + small) <= 50
    assert most_in_a_second(small) <= 10
    assert len(big + small) >= 0.95 * 20 * 50
    # The big one leaves the small one most of what it may have; each that waits for another comes a little later.
    assert len(small) >= 0.6 * 20 * 10


@pytest.mark.parametrize("pause", [0.005, 0.04])
@pytest.mark.parametrize("everything", [50.0, 1_000.0])
def test_apps_that_ask_seldom_use_up_everything_and_get_about_as_much_each(
    clocked: Clocked, everything: float, pause: float
) -> None:
    found = shared(clocked, 5, [1_000.0] * 4, everything, pause)
    together = [instant for one in found for instant in one]
    assert most_in_a_second(together) <= everything
    # All but the half second after Redis was emptied.
    assert len(together) >= 0.97 * 4.4 * everything
    assert min(map(len, found)) >= 0.6 * len(together) / 4


def test_a_limit_of_everything_that_nobody_reaches_holds_nobody_up(clocked: Clocked) -> None:
    rates = [80.0, 10.0, 10.0, 40.0]
    for rate, one in zip(rates, shared(clocked, 5, rates, 1_000.0), strict=True):
        assert len(one) >= 0.95 * 4.4 * rate


@pytest.mark.parametrize("lane", Lane)
def test_a_limit_of_everything_is_used_up_after_the_lead_of_a_claim(clocked: Clocked, lane: Lane) -> None:
    found = worked(
        clocked, 5, 1_000, [Ask(lane, 500, 1_000_000)], pause=0.04, everything=500.0, lead_seconds=0.08
    )[0]
    assert len(found) >= 0.97 * 4.4 * 500


def test_who_waited_for_everything_before_the_clock_was_set_back_takes_no_share(clocked: Clocked) -> None:
    shared(clocked, 2, [1_000.0] * 4, 100.0)
    clocked.set_back(3_600)
    assert len(shared(clocked, 5, [1_000.0], 100.0)[0]) >= 0.97 * 4.4 * 100


def test_what_an_app_passes_over_of_everything_is_not_granted_by_another_clock(clocked: Clocked) -> None:
    (before,) = shared(clocked, 2, [10.0], 100.0)
    clocked.client.set("disparo:app:2:free", "0")
    while not (got := several(clocked, [Ask(MARKETING, 5, 5)], 10.0, everything=100.0)[0]):
        clocked.sleep(0.005)
    before += got
    clocked.set_back(0.055)
    back = clocked.limiter.acquire(2, [Ask(MARKETING, 500, 500)], 1_000.0, HORIZON, everything=100.0)
    after = [clocked.true + one - back.now for one in back.instants[0]] if isinstance(back, Permits) else []
    assert min(b - a for a, b in itertools.pairwise(sorted(before + after))) >= SECOND // 100


@pytest.mark.parametrize("lane", list(Lane))
@pytest.mark.parametrize("rate", [50.0, 1_000.0])
def test_a_sender_that_asks_for_a_lead_can_use_all_of_the_limit_of_everything(
    client: Redis, clocked: Clocked, rate: float, lane: Lane
) -> None:
    found: list[int] = []
    for _ in range(1_000):
        asks = [Ask(lane, 100, 1_000)]
        got = clocked.limiter.acquire(1, asks, rate, HORIZON, lead_seconds=0.08, everything=rate)
        if isinstance(got, Permits):
            assert got.instants[0][0] - got.now >= 0.08 * SECOND
            found += [clocked.true + instant - got.now for instant in got.instants[0]]
        clocked.sleep(0.015)
    assert most_in_a_second(found) <= rate
    assert len(found) >= 0.95 * 15 * rate


def test_a_permit_given_back_is_granted_once_more_unless_its_instant_has_passed(clocked: Clocked) -> None:
    (got,) = several(clocked, [Ask(MARKETING, 40, 40)], 80)
    now = clocked.clock - clocked.true
    clocked.limiter.give_back(1, [now + instant for instant in got], 80)
    clocked.sleep(0.26)
    (again,) = several(clocked, [Ask(MARKETING, 500, 500)], 80)
    assert again[:19] == got[21:]
    assert min(b - a for a, b in itertools.pairwise(again)) >= SECOND / 80
    (third,) = several(clocked, [Ask(MARKETING, 500, 500)], 80)
    assert third == []


def test_permits_given_back_that_nobody_took_are_forgotten(clocked: Clocked) -> None:
    for _ in range(20):
        (got,) = several(clocked, [Ask(MARKETING, 10, 10)], 80)
        now = clocked.clock - clocked.true
        clocked.limiter.give_back(1, [now + instant for instant in got], 80)
        clocked.sleep(1)
    several(clocked, [Ask(MARKETING, 10, 10)], 80)
    assert clocked.client.zcard("disparo:app:1:returned:12500") == 0


def test_a_permit_of_another_rate_or_of_a_clock_that_was_set_back_is_not_granted_again(
    clocked: Clocked,
) -> None:
    (got,) = several(clocked, [Ask(MARKETING, 40, 40)], 80)
    now = clocked.clock - clocked.true
    clocked.limiter.give_back(1, [now + instant for instant in got], 80)
    (other,) = several(clocked, [Ask(MARKETING, 500, 500)], 70)
    assert min(other, default=got[-1] + SECOND) > got[-1]
    clocked.set_back(0.2)
    (after,) = several(clocked, [Ask(MARKETING, 500, 500)], 80)
    assert min(after, default=got[-1] + SECOND) > got[-1]
