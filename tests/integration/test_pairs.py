"""Turns of recipients on a real Redis: raced, in bursts, in a line, refused, emptied, with the clock set back."""

import itertools
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from redis import Redis

from disparo.errors import RedisUnavailable
from disparo.ratelimit import pairs as pairs_module
from disparo.ratelimit.pairs import Look, Pairs, Sent, Turn
from disparo.ratelimit.redis import connect
from tests.racing import start_racers

#: Microseconds.
SECOND = 1_000_000
PAYMENT, UTILITY, MARKETING = 0, 1, 2
TIME = "redis.call('TIME')"

#: Sixteen threads of one process that ask for three recipients until the time is over; prints recipient and instant
#: (microseconds of the Redis clock) of each that was let go.
RACER = """
import itertools, json, random, sys, threading, time
from disparo.ratelimit.pairs import Look, Pairs, Turn
from disparo.ratelimit.redis import connect

url, first_id, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
client = connect(url)
pairs = Pairs(client)
gone, ids = [], itertools.count(first_id)

def take(turns):
    return pairs.take(1, turns, seconds=0.05, burst=1, ahead_seconds=0.01, sent={})

client.incr("ready")
while client.get("go") is None:
    time.sleep(0.01)
until = time.monotonic() + seconds

def race(n):
    chance = random.Random(n)
    while time.monotonic() < until:
        turns = [Turn(f"r{chance.randrange(3)}", next(ids), 0, chance.randrange(3)) for _ in range(chance.choice([1, 4]))]
        waits = take(turns)
        gone.extend(turn.message_id for k, turn in enumerate(turns) if k not in waits)
        time.sleep(0.002)

threads = [threading.Thread(target=race, args=(n,)) for n in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps(gone))
"""


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    with connect(redis_url) as opened:
        yield opened


@dataclass
class Clocked:
    """Turns by a clock that the test sets, of one app, after a look at the tables."""

    client: Redis
    pairs: Pairs
    seconds: float = 6.0
    burst: int = 1
    ahead: float = 0.0
    at: float = 1000.0
    ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def ask(
        self,
        who: str = "ana",
        message_id: int | None = None,
        *,
        tries: int = 0,
        lane: int = MARKETING,
        n: int = 1,
        sent: dict[str, Sent] | None = None,
        app_id: int = 1,
    ) -> list[float | None]:
        """Of ``n`` messages (with ids of their own): None that it goes, or the seconds that it waits."""
        self.tell()
        ids = [message_id] if message_id is not None else [next(self.ids) for _ in range(n)]
        turns = [Turn(who, one, tries, lane) for one in ids]
        waits = self.pairs.take(
            app_id, turns, seconds=self.seconds, burst=self.burst, ahead_seconds=self.ahead, sent=sent or {}
        )
        assert not isinstance(waits, Look)
        return [waits.get(n) for n in range(len(turns))]

    def refuse(self, who: str = "ana", message_id: int = 1) -> float:
        self.tell()
        return self.pairs.refused(
            1,
            Turn(who, message_id, 0, MARKETING),
            seconds=self.seconds,
            first_seconds=1,
            factor=4,
            longest_seconds=3600,
        )

    def tell(self) -> None:
        self.client.set("clock", str(round(self.at * SECOND)))


@pytest.fixture
def clocked(client: Redis) -> Clocked:
    script = pairs_module._SCRIPT.replace(TIME, "{0, redis.call('GET', 'clock')}")
    assert script != pairs_module._SCRIPT
    pairs = Pairs(client)
    pairs._script = client.register_script(script)
    return Clocked(client, pairs)


# -- one turn ---------------------------------------------------------------------------------------------


def test_sixty_four_threads_of_four_processes_never_get_two_turns_within_the_time(
    redis_url: str, client: Redis
) -> None:
    spy = pairs_module._SCRIPT.replace(
        "return waiting\n",
        """
        local waits = {}
        for n = 2, #waiting, 2 do waits[waiting[n]] = true end
        for row = 1, rows do
          if not waits[row] then redis.call('RPUSH', 'gone', KEYS[row + 1] .. ' ' .. string.format('%.0f', now)) end
        end
        return waiting
        """,
    )
    racer = RACER.replace("gone, ids =", f"pairs._script = client.register_script({spy!r})\ngone, ids =")
    arguments = [sys.executable, "-c", racer, redis_url]
    racers = [
        subprocess.Popen([*arguments, str(n * 10_000_000 + 1), "3"], stdout=subprocess.PIPE) for n in range(4)
    ]
    try:
        start_racers(client, 4)
        shares = [json.loads(one.communicate(timeout=60)[0]) for one in racers]
    finally:
        for one in racers:
            one.kill()
            one.wait()
    gone = [line.decode().split() for line in client.lrange("gone", 0, -1)]
    assert len(gone) == sum(map(len, shares))
    by_recipient: dict[str, list[int]] = {}
    for key, at in gone:
        by_recipient.setdefault(key, []).append(int(at))
    assert len(by_recipient) == 3
    for instants in by_recipient.values():
        assert len(instants) > 3
        assert min(b - a for a, b in itertools.pairwise(sorted(instants))) >= 0.06 * SECOND


def test_the_next_message_to_a_recipient_waits_until_the_first_has_left_and_its_time_is_over(
    clocked: Clocked,
) -> None:
    clocked.ahead = 0.75
    assert clocked.ask() == [None]
    assert clocked.ask() == [6.75]
    clocked.at += 6.749
    assert clocked.ask(message_id=2) == [pytest.approx(0.001, abs=1e-5)]
    clocked.at += 0.001
    assert clocked.ask(message_id=2) == [None]
    assert clocked.ask(message_id=3) == [6.75]


def test_other_recipients_and_other_apps_are_not_held_up(clocked: Clocked) -> None:
    assert clocked.ask("ana") == [None]
    assert clocked.ask("bia") == [None]
    assert clocked.ask("ana", app_id=2) == [None]
    assert clocked.ask("ana") != [None]


def test_a_message_that_comes_again_keeps_its_turn_unless_it_was_tried(clocked: Clocked) -> None:
    assert clocked.ask(message_id=1) == [None]
    clocked.at += 2
    # Put back before it left: its turn moves along.
    assert clocked.ask(message_id=1) == [None]
    assert clocked.ask(message_id=2) == [6]
    assert clocked.ask(message_id=1, tries=1) == [6]
    clocked.at += 6
    assert clocked.ask(message_id=1, tries=1) == [None]


def test_what_nobody_asks_for_any_more_is_forgotten(client: Redis) -> None:
    pairs = Pairs(client)
    turns = [Turn(f"r{n}", n, 0, MARKETING) for n in range(1, 501)]
    assert pairs.take(1, turns, seconds=6, burst=1, ahead_seconds=0.75, sent={}) == {}
    keys = [key for key in client.scan_iter("disparo:*") if key != b"disparo:app:1:pairs"]
    assert len(keys) == 500
    assert all(6_750 < client.pttl(key) <= 12_000 for key in keys)


def test_no_phone_number_stands_in_redis(client: Redis) -> None:
    Pairs(client).take(1, [Turn("br11m99998888", 1, 0, 0)] * 2, seconds=6, burst=1, ahead_seconds=0, sent={})
    assert not [key for key in client.scan_iter("*") if b"9999" in key]


def test_a_redis_that_is_away_is_told(redis_url: str) -> None:
    with connect("redis://127.0.0.1:1") as nowhere, pytest.raises(RedisUnavailable):
        Pairs(nowhere).take(1, [Turn("ana", 1, 0, 0)], seconds=6, burst=1, ahead_seconds=0)
    with connect("redis://127.0.0.1:1") as nowhere, pytest.raises(RedisUnavailable):
        Pairs(nowhere).refused(
            1, Turn("ana", 1, 0, 0), seconds=6, first_seconds=1, factor=4, longest_seconds=60
        )


# -- bursts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "wait"), [(20, 120), (45, 270), (1, 6)])
def test_a_burst_is_waited_for_as_documented(clocked: Clocked, n: int, wait: float) -> None:
    clocked.burst = 45
    assert clocked.ask(n=n) == [None] * n
    clocked.at += 6
    # Its six seconds are over, so no more can be borrowed.
    last = clocked.at - 6
    if n > 1:
        assert clocked.ask(message_id=1000) == [last + wait - clocked.at]
    clocked.at = last + wait
    assert clocked.ask(message_id=1000) == [None]


def test_more_than_the_burst_waits(clocked: Clocked) -> None:
    clocked.burst = 3
    first = clocked.ask(n=5)
    assert first[:3] == [None] * 3
    # The line is spaced by a second more than the turns.
    assert first[3:] == [18, 25]


def test_a_burst_ends_with_its_time(clocked: Clocked) -> None:
    clocked.burst = 3
    assert clocked.ask() == [None]
    clocked.at += 5
    assert clocked.ask() == [None]
    clocked.at += 2
    assert clocked.ask() == [10]


# -- the line ---------------------------------------------------------------------------------------------


def test_a_thousand_messages_to_one_recipient_come_back_one_after_the_other(clocked: Clocked) -> None:
    waits = clocked.ask(n=500) + clocked.ask(n=500)
    assert waits[0] is None
    assert waits[1:] == [6 + 7 * n for n in range(999)]


def test_a_line_is_served_in_order_by_messages_that_come_back_late(clocked: Clocked) -> None:
    chance = random.Random(3)  # noqa: S311
    clocked.ask()
    due = {2 + n: clocked.at + wait for n, wait in enumerate(clocked.ask(n=20)) if wait is not None}
    served, asked = [], 0
    while due:
        message_id, at = min(due.items(), key=lambda one: (one[1], one[0]))
        clocked.at = max(clocked.at, at + chance.uniform(0, 1))
        asked += 1
        (wait,) = clocked.ask(message_id=message_id)
        if wait is None:
            served.append(message_id)
            del due[message_id]
        else:
            due[message_id] = clocked.at + wait
    assert served == sorted(served)
    assert asked == 20


def test_after_a_long_stop_the_line_goes_on_in_order(clocked: Clocked) -> None:
    clocked.ask()
    due = {2 + n: clocked.at + wait for n, wait in enumerate(clocked.ask(n=20)) if wait is not None}
    clocked.at += 60
    served = []
    while due:
        # All that are due are claimed together.
        ready = sorted(message_id for message_id, at in due.items() if at <= clocked.at)
        for message_id in ready:
            (wait,) = clocked.ask(message_id=message_id)
            if wait is None:
                served.append(message_id)
                del due[message_id]
            else:
                due[message_id] = clocked.at + wait
        clocked.at += 0.5
    assert served == list(range(2, 22))


def test_a_newcomer_stands_behind_the_line(clocked: Clocked) -> None:
    assert clocked.ask(n=3) == [None, 6, 13]
    clocked.at += 6
    # The turn is that of the second one, which is on its way.
    assert clocked.ask() == [pytest.approx(14)]
    assert clocked.ask(message_id=2) == [None]


def test_payment_stands_before_utility_before_marketing(clocked: Clocked) -> None:
    assert clocked.ask(n=3) == [None, 6, 13]
    assert clocked.ask(lane=UTILITY) == [6]
    assert clocked.ask(lane=PAYMENT) == [6]
    clocked.at += 6
    assert clocked.ask(message_id=2) == [14]
    assert clocked.ask(message_id=4, lane=UTILITY) == [7]
    assert clocked.ask(message_id=5, lane=PAYMENT) == [None]


def test_what_does_not_come_back_holds_nobody(clocked: Clocked) -> None:
    assert clocked.ask(n=3) == [None, 6, 13]
    # The second one is cancelled.
    clocked.at += 10.9
    assert clocked.ask(message_id=3) != [None]
    clocked.at += 0.1
    assert clocked.ask(message_id=3) == [None]
    clocked.at += 6
    assert clocked.ask() == [None]


# -- refusals ---------------------------------------------------------------------------------------------


def test_refusals_in_a_row_wait_four_times_longer_each(clocked: Clocked) -> None:
    clocked.seconds = 0.5
    waits = []
    for tries in range(5):
        assert clocked.ask(message_id=1, tries=tries) == [None]
        waits.append(clocked.refuse())
        clocked.at += waits[-1]
    assert waits == [1, 4, 16, 64, 256]


def test_all_to_the_recipient_wait_after_a_refusal_and_nobody_else(clocked: Clocked) -> None:
    clocked.seconds = 0.5
    assert clocked.ask(message_id=1) == [None]
    clocked.refuse()
    assert clocked.ask(message_id=1, tries=1) == [1]
    assert clocked.ask(message_id=1) == [1]
    assert clocked.ask("bia", message_id=2) == [None]


def test_what_was_refused_together_is_one_refusal(clocked: Clocked) -> None:
    clocked.burst, clocked.seconds = 45, 1
    assert clocked.ask(n=45) == [None] * 45
    assert {clocked.refuse() for _ in range(45)} == {1}


def test_a_message_that_is_not_refused_ends_the_row(clocked: Clocked) -> None:
    clocked.seconds = 0.5
    for tries, wait in enumerate((1, 4)):
        assert clocked.ask(message_id=1, tries=tries) == [None]
        assert clocked.refuse() == wait
        clocked.at += wait
    assert clocked.ask(message_id=1, tries=2) == [None]
    clocked.at += 1
    assert clocked.ask(message_id=2) == [None]
    assert clocked.refuse(message_id=2) == 1


def test_who_was_refused_is_first_in_the_line(clocked: Clocked) -> None:
    clocked.seconds = 1
    assert clocked.ask(message_id=1) == [None]
    clocked.refuse()
    clocked.at += 1
    assert clocked.ask(message_id=2) == [1.25]
    assert clocked.ask(message_id=1, tries=1) == [None]


# -- a Redis that forgets, and a clock that is set back ------------------------------------------------------


def test_an_emptied_redis_asks_what_was_sent_before(clocked: Clocked) -> None:
    def take(sent: dict[str, Sent] | None = None) -> dict[int, float] | Look:
        clocked.tell()
        return clocked.pairs.take(1, [Turn("ana", 9, 0, 2)], seconds=6, burst=2, ahead_seconds=0.5, sent=sent)

    assert take() == Look(12.5)
    clocked.at += 12.4
    assert isinstance(take(), Look)
    clocked.at += 0.1
    assert take() == {}
    clocked.client.flushdb()
    assert isinstance(take(), Look)
    # Two were sent, the last one two seconds ago.
    assert take({"ana": Sent(2, 2.0)}) == {0: 10.5}
    clocked.at += 10.5
    assert take({"ana": Sent(2, 12.5)}) == {}


def test_what_redis_knows_counts_more_than_what_the_tables_say(clocked: Clocked) -> None:
    assert clocked.ask() == [None]
    clocked.at += 6
    assert clocked.ask(sent={"ana": Sent(1, 0.0)}) == [None]


@pytest.mark.parametrize("back", [1, 100, 10_000_000])
def test_a_clock_that_is_set_back_holds_nobody_for_longer(clocked: Clocked, back: float) -> None:
    clocked.at = 20_000_000
    assert clocked.ask() == [None]
    assert clocked.ask() == [6]
    clocked.at -= back
    assert clocked.ask(message_id=2) == [6]
    clocked.at += 6
    assert clocked.ask(message_id=2) == [None]
