"""The shared rate on a real Redis: raced, emptied, stopped, cooled down, away."""

import itertools
import json
import math
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
from redis import Redis

from disparo.errors import RedisUnavailable
from disparo.ratelimit import Permits, Stopped, Wait
from disparo.ratelimit import redis as on_redis
from disparo.ratelimit.redis import RedisRateLimiter, connect

HORIZON = 0.5

#: Sixteen threads of one process that take what they get until the time is over; prints all instants of the
#: Redis clock as [first permit in microseconds, how many, microseconds between].
RACER = """
import json, random, sys, threading, time
from disparo.ratelimit import Permits
from disparo.ratelimit.redis import RedisRateLimiter, connect

url, rate, seconds = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
client = connect(url)
limiter = RedisRateLimiter(client)
granted, script = [], limiter._script

def spy(**call):
    answer = script(**call)
    if answer[0] == 0:
        granted.append((int(answer[2]), int(answer[3]), float(call["args"][1])))
    return answer

limiter._script = spy
client.incr("ready")
while client.get("go") is None:
    time.sleep(0.01)
until = time.monotonic() + seconds

def race(n):
    chance = random.Random(n)
    while time.monotonic() < until:
        got = limiter.acquire(1, chance.choice([1, 2, 7, 100]), rate, 0.5)
        time.sleep(0.001 if isinstance(got, Permits) else min(0.02, got.seconds))

threads = [threading.Thread(target=race, args=(n,)) for n in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps(granted))
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


def wait_for(client: Redis, ready: int) -> None:
    deadline = time.monotonic() + 60
    while int(client.get("ready") or 0) < ready:
        assert time.monotonic() < deadline, "the racers did not start"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("rate", "emptied"), [(10, False), (80, False), (1_000, False), (333, False), (2.5, False), (80, True)]
)
def test_thirty_two_threads_of_two_processes_never_exceed_the_rate(
    redis_url: str, client: Redis, rate: float, emptied: bool
) -> None:
    arguments = [sys.executable, "-c", RACER, redis_url, str(rate), "3"]
    racers = [subprocess.Popen(arguments, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        wait_for(client, 2)
        client.set("go", "1")
        if emptied:
            # In the middle of it, with permits ahead that only the workers know of.
            time.sleep(1.5)
            client.delete("disparo:app:1:free")
        shares = [json.loads(racer.communicate(timeout=60)[0]) for racer in racers]
    finally:
        for racer in racers:
            racer.kill()
            racer.wait()
    grants = sorted(tuple(grant) for share in shares for grant in share)
    # From the first one, so that a float holds each exactly.
    start = grants[0][0]
    instants = [first - start + n * interval for first, count, interval in grants for n in range(count)]
    assert instants == sorted(instants)
    interval, per_second = 1_000_000 / rate, math.ceil(rate)
    assert min(b - a for a, b in itertools.pairwise(instants)) >= interval - 1e-3
    # A second that begins with one permit ends before the permit that would be one too many.
    seconds = zip(instants, instants[per_second:], strict=False)
    assert min((b - a for a, b in seconds), default=1e6) >= 1_000_000 - 1e-3
    assert len(instants) > rate / 2


def test_permits_follow_each_other_without_a_gap_while_work_waits(
    limiter: RedisRateLimiter, client: Redis
) -> None:
    got = [limiter.acquire(1, 40, 100, HORIZON), limiter.acquire(1, 100, 100, HORIZON)]
    assert [type(one) for one in got] == [Permits, Permits]
    assert [one.n for one in got] == [40, pytest.approx(11, abs=1)]
    clock = client.time()
    ahead = float(client.get("disparo:app:1:free")) - (clock[0] * 1_000_000 + clock[1])
    assert 0 < ahead <= 510_000
    assert got[0].interval_seconds == pytest.approx(0.01)


def test_no_permit_lies_beyond_the_horizon(limiter: RedisRateLimiter) -> None:
    got = limiter.acquire(1, 500, 10, HORIZON)
    assert isinstance(got, Permits)
    assert got.n == 6
    assert got.wait_seconds + (got.n - 1) * got.interval_seconds <= HORIZON + 1e-6
    then = limiter.acquire(1, 1, 10, HORIZON)
    assert isinstance(then, Wait)
    assert 0 < then.seconds <= 0.1


def test_time_that_nobody_used_is_not_caught_up(limiter: RedisRateLimiter, client: Redis) -> None:
    clock = client.time()
    client.set("disparo:app:1:free", str((clock[0] - 60) * 1_000_000))
    got = limiter.acquire(1, 500, 20, HORIZON)
    assert isinstance(got, Permits)
    assert (got.n, got.wait_seconds) == (11, 0.0)


def test_apps_do_not_wait_for_each_other(limiter: RedisRateLimiter) -> None:
    limiter.acquire(1, 500, 10, HORIZON)
    assert isinstance(limiter.acquire(1, 1, 10, HORIZON), Wait)
    assert isinstance(limiter.acquire(2, 1, 10, HORIZON), Permits)


def test_a_rate_below_one_grants_one_and_then_waits_its_interval(limiter: RedisRateLimiter) -> None:
    got = limiter.acquire(1, 10, 0.1, HORIZON)
    assert (got.n, got.interval_seconds) == (1, pytest.approx(10))
    then = limiter.acquire(1, 1, 0.1, HORIZON)
    assert isinstance(then, Wait)
    assert 5 < then.seconds <= 9.6


@pytest.mark.parametrize("rate", [1_000, 10, 0.1])
def test_an_emptied_redis_grants_nothing_until_what_it_granted_has_left(
    limiter: RedisRateLimiter, client: Redis, rate: float
) -> None:
    interval = min(1 / rate, 1.0)
    got = limiter.acquire(1, 500, rate, HORIZON)
    last = time.monotonic() + got.wait_seconds + (got.n - 1) * got.interval_seconds
    client.flushdb()
    after = limiter.acquire(1, 500, rate, HORIZON)
    assert isinstance(after, Wait)
    deadline = time.monotonic() + 30
    while isinstance(after, Wait):
        assert time.monotonic() < deadline
        time.sleep(after.seconds)
        asked_at = time.monotonic()
        after = limiter.acquire(1, 500, rate, HORIZON)
    assert asked_at + after.wait_seconds >= last + interval - 0.005


def test_a_redis_that_forgot_the_script_is_given_it_again(limiter: RedisRateLimiter, client: Redis) -> None:
    limiter.acquire(1, 1, 10, HORIZON)
    client.script_flush()
    assert isinstance(limiter.acquire(1, 1, 10, HORIZON), Permits)
    client.script_flush()
    limiter.cool_down(1, 5)
    assert isinstance(limiter.acquire(1, 1, 10, HORIZON), Wait)


def test_a_stop_is_handed_out_instead_of_permits_until_it_ends(limiter: RedisRateLimiter) -> None:
    limiter.stop(1, "sem créditos")
    assert limiter.acquire(1, 1, 10, HORIZON) == Stopped("sem créditos")
    assert isinstance(limiter.acquire(2, 1, 10, HORIZON), Permits)
    limiter.resume(1)
    assert isinstance(limiter.acquire(1, 1, 10, HORIZON), Permits)


def test_published_stops_replace_what_redis_said(limiter: RedisRateLimiter) -> None:
    limiter.stop(1, "old")
    limiter.publish_stops({1: None, 2: "operator"})
    assert isinstance(limiter.acquire(1, 1, 10, HORIZON), Permits)
    assert limiter.acquire(2, 1, 10, HORIZON) == Stopped("operator")
    limiter.publish_stops({})
    assert limiter.acquire(2, 1, 10, HORIZON) == Stopped("operator")


def test_a_cool_down_grants_nothing_for_its_time_and_shortens_no_longer_one(
    limiter: RedisRateLimiter,
) -> None:
    limiter.cool_down(1, 20)
    limiter.cool_down(1, 1)
    got = limiter.acquire(1, 1, 10, HORIZON)
    assert isinstance(got, Wait)
    assert 15 < got.seconds <= 19.5
    assert isinstance(limiter.acquire(2, 1, 10, HORIZON), Permits)


def test_a_cool_down_ends(limiter: RedisRateLimiter) -> None:
    limiter.cool_down(1, 0.7)
    began = time.monotonic()
    got = limiter.acquire(1, 5, 10, HORIZON)
    while isinstance(got, Wait):
        assert time.monotonic() - began < 30
        time.sleep(got.seconds)
        got = limiter.acquire(1, 5, 10, HORIZON)
    assert time.monotonic() - began + got.wait_seconds >= 0.69


def test_an_emptied_redis_is_noticed_until_it_is_marked(limiter: RedisRateLimiter, client: Redis) -> None:
    assert limiter.was_emptied()
    limiter.mark()
    assert not limiter.was_emptied()
    client.flushdb()
    assert limiter.was_emptied()


def test_a_redis_that_is_away_is_told_in_a_sentence_and_grants_nothing(home: object) -> None:
    limiter = RedisRateLimiter(connect(f"unix://{home}/nobody.sock"))
    calls = [
        lambda: limiter.acquire(1, 1, 10, HORIZON),
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
            got = list(threads.map(lambda _: limiter.acquire(1, 1, 10, HORIZON), range(240)))
    assert all(isinstance(one, Permits | Wait) for one in got)


# -- the server's clock is set back -----------------------------------------------------------------------

SECOND = 1_000_000
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
        got = self.limiter.acquire(1, permits, rate, HORIZON)
        assert not isinstance(got, Stopped)
        if isinstance(got, Permits):
            first = self.true + got.wait_seconds * SECOND
            assert got.wait_seconds + (got.n - 1) * got.interval_seconds <= HORIZON + 1e-6
            self.granted += [first + n * got.interval_seconds * SECOND for n in range(got.n)]
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
    got = limiter.acquire(1, 5, 10, HORIZON)
    assert isinstance(got, Wait)
    assert got.seconds <= 0.11
    while isinstance(got, Wait):
        assert time.monotonic() - began < 30
        time.sleep(got.seconds)
        got = limiter.acquire(1, 5, 10, HORIZON)
    # What another worker was granted just now leaves first.
    assert time.monotonic() - began + got.wait_seconds >= HORIZON + 0.099


# -- cool-downs -------------------------------------------------------------------------------------------


def cooled_for(clocked: Clocked, began: int, rate: float = 10) -> float:
    """Seconds from the true instant ``began`` until the next permit."""
    while isinstance(got := clocked.acquire(1, rate), Wait):
        assert clocked.true - began < 10_000 * SECOND, "it does not end"
        clocked.sleep(min(got.seconds, 0.4))
    return (clocked.true - began) / SECOND + got.wait_seconds


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
    got = limiter.acquire(1, 1, 10, HORIZON)
    assert isinstance(got, Wait)
    assert 1.4 <= got.seconds <= 1.5
