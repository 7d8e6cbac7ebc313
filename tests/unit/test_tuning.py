"""The rate that a provider bears is found, kept and followed: the algorithm against a simulated provider."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disparo import tuning
from disparo.tuning import Tuning, after_calm, after_refusal
from tests.throttled import Throttled

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
MINUTE = 60.0


def seconds(n: float) -> timedelta:
    return timedelta(seconds=n)


def refuse(was: Tuning, *, limit: float = 1000.0, cool: float = 1.0, answered: int = 0) -> Tuning:
    return after_refusal(was, NOW, cool_seconds=cool, limit=limit, answered=answered)


def calm(was: Tuning, *, limit: float = 1000.0, after: float = 5.0, used: float = 1.0) -> Tuning:
    """After so many seconds, in which that share of the rate was used."""
    answered = was.base + int(used * was.rate_within(limit) * after) + 1
    return after_calm(was, was.since + seconds(after), limit=limit, answered=answered)


# -- against a provider ------------------------------------------------------------------------------------

LIMITS = [
    (limit, configured, latency, workers)
    for limit, configured in [(3, 10), (3, 1000), (10, 80), (37, 80), (79, 80), (80, 1000), (250, 1000)]
    for latency, workers in [(0.05, 2), (0.2, 8)]
] + [(500, 1000, 0.1, 2), (900, 1000, 0.1, 4), (1000, 1000, 0.1, 2)]


@pytest.mark.parametrize(("limit", "configured", "latency", "workers"), LIMITS)
def test_a_limit_is_found_within_a_minute_with_few_refusals_and_kept(
    limit: int, configured: int, latency: float, workers: int
) -> None:
    made = Throttled(lambda _: limit, configured, latency=latency, workers=workers, seed=limit).run(150)
    found_at = made.found_at(limit)
    assert found_at is not None
    assert found_at < MINUTE
    assert 0.9 * limit < made.mean(MINUTE) <= limit
    # Some tries, and what was on its way when their first refusal came.
    assert made.refusals() <= 20 + 1.5 * limit * latency
    assert all(rate <= configured for _, rate in made.rates)


@pytest.mark.parametrize(("limit", "configured"), [(3, 10), (10, 80), (80, 200)])
def test_for_hours_the_rate_stays_and_refusals_are_rare(limit: int, configured: int) -> None:
    made = Throttled(lambda _: limit, configured, jitter=0.01, seed=5).run(2 * 3600)
    assert made.mean(MINUTE) > 0.93 * limit
    # A try every 40 seconds.
    assert made.refusals(600) / (6600 / 3600) < 220
    outside = [rate for second, rate in made.rates if second > 600 and not 0.88 <= rate / limit <= 1.12]
    assert outside == []


@pytest.mark.parametrize(("before", "after"), [(80, 20), (80, 60), (100, 10), (150, 5), (80, 3)])
@pytest.mark.parametrize("changed_at", [60.0, 400.0])
def test_a_limit_that_falls_is_followed_within_half_a_minute(
    before: int, after: int, changed_at: float
) -> None:
    made = Throttled(lambda at: before if at < changed_at else after, 200, seed=3).run(changed_at + 90)
    found_at = made.found_at(after, since=changed_at)
    assert found_at is not None
    assert found_at < 30
    assert made.refusals(changed_at) < 1.5 * before + 30


@pytest.mark.parametrize(("before", "after"), [(20, 80), (60, 80), (10, 100), (5, 150)])
@pytest.mark.parametrize("changed_at", [60.0, 390.0, 415.0])
def test_a_limit_that_is_raised_is_found_after_the_next_try(
    before: int, after: int, changed_at: float
) -> None:
    made = Throttled(lambda at: before if at < changed_at else after, 200, seed=3).run(changed_at + 120)
    found_at = made.found_at(after, since=changed_at)
    assert found_at is not None
    # A pause of 40 s at most, then ever larger steps.
    assert found_at < 75


def test_a_long_cool_down_makes_everything_slower_and_refusals_rarer() -> None:
    made = Throttled(lambda _: 40, 200, cool_seconds=60.0, seed=1).run(3600)
    assert made.mean(900) > 0.9 * 40
    assert made.refusals(900) <= 12


def test_a_rate_that_nobody_needs_is_not_raised() -> None:
    # Ten messages a second wait for a tenth of the time.
    made = Throttled(lambda _: 100, 200, busy=lambda at: at % 10 < 0.5, seed=1).run(600)
    assert [rate for _, rate in made.rates] == [10.0]
    assert made.refusals() == 0


def test_where_nothing_is_refused_the_configured_rate_is_reached_and_stays() -> None:
    made = Throttled(lambda _: 1e9, 200, seed=1).run(120)
    assert [rate for _, rate in made.rates] == [10, 20, 40, 80, 160, 200]
    assert made.rates[-1][0] < 25


@settings(max_examples=60, deadline=None)
@given(
    limit=st.floats(2, 60),
    configured=st.floats(1, 120),
    latency=st.floats(0.005, 0.5),
    workers=st.integers(1, 8),
    seed=st.integers(0, 1_000_000),
)
def test_whatever_the_limit_the_mean_comes_near_it(
    limit: float, configured: float, latency: float, workers: int, seed: int
) -> None:
    made = Throttled(lambda _: int(limit), configured, latency=latency, workers=workers, seed=seed).run(200)
    assert all(min(0.1, configured) <= rate <= configured for _, rate in made.rates)
    borne = min(int(limit), configured)
    assert made.mean(MINUTE) > 0.85 * borne


# -- step by step ------------------------------------------------------------------------------------------


def test_it_begins_with_the_documented_rate_or_the_configured_one_and_doubles() -> None:
    assert tuning.start(NOW, 4.0).rate == 4.0
    state = tuning.start(NOW, 1000.0)
    rates = [state.rate]
    while state.rate < 1000.0:
        state = calm(state)
        rates.append(state.rate)
    assert rates == [10, 20, 40, 80, 160, 320, 640, 1000]
    state = calm(state)
    assert calm(state) is state


def test_before_anything_was_borne_each_refusal_halves() -> None:
    state, rates = tuning.start(NOW, 1000.0), []
    for _ in range(12):
        state = refuse(state)
        rates.append(state.rate)
    assert rates[:3] == [5.0, 2.5, 1.25]
    # Never slower than one in ten seconds, whatever is refused.
    assert rates[-2:] == [0.1, 0.1]
    assert state.epoch == 12


def test_the_floor_is_not_above_the_configured_rate() -> None:
    assert refuse(tuning.start(NOW, 0.01), limit=0.01).rate == 0.01


def test_between_borne_and_refused_it_tries_the_middle_until_both_are_close_and_stays() -> None:
    state = replace(tuning.start(NOW, 1000.0), rate=80.0, borne=40.0, falls=0)
    state = refuse(state)
    rates = [state.rate]
    while state.try_at is None:
        state = calm(state)
        rates.append(state.rate)
    assert rates == [56.57, 67.27, 73.36, 76.61, 76.61]
    assert (state.borne, state.refused) == (76.61, 80.0)
    assert state.found_at == state.since
    assert state.try_at == state.since + seconds(10)


def test_more_is_tried_after_a_pause_and_each_refused_try_doubles_it() -> None:
    state = Tuning(76.0, NOW, borne=76.0, refused=80.0, falls=0)
    pauses = []
    for _ in range(4):
        state = calm(state)
        assert state.try_at is not None
        pauses.append((state.try_at - state.since).total_seconds())
        assert calm(state, after=5.0) is state
        state = calm(state, after=pauses[-1])
        assert (state.rate, state.trying) == (80.56, True)
        state = refuse(state)
        assert (state.rate, state.trying, state.borne) == (76.0, False, 76.0)
    assert pauses == [10, 20, 40, 40]


def test_a_try_that_is_borne_goes_on_in_growing_steps() -> None:
    state = Tuning(100.0, NOW, borne=100.0, refused=104.0, falls=0, try_at=NOW, found_at=NOW, patience=2)
    rates, patience = [], []
    for _ in range(6):
        state = calm(state)
        rates.append(state.rate)
        patience.append(state.patience)
    assert rates == [106.0, 118.7, 147.2, 217.9, 427.1, 854.2]
    assert state.refused is None
    # The first step may only make up for an unlucky moment.
    assert patience == [2, 2, 1, 0, 0, 0]


def test_twice_refused_on_the_way_up_goes_back_to_what_was_borne() -> None:
    state = refuse(refuse(Tuning(80.0, NOW, borne=40.0, falls=0)))
    assert (state.rate, state.borne, state.refused) == (40.0, 40.0, 56.57)


def test_what_was_borne_and_is_refused_now_falls_in_growing_steps() -> None:
    state, rates = Tuning(80.0, NOW, borne=80.0, falls=0), []
    for _ in range(6):
        state = refuse(state)
        rates.append(state.rate)
        assert state.borne is None
    shares = [round(after / before, 2) for before, after in pairwise([80.0, *rates])]
    assert shares == [0.94, 0.88, 0.76, 0.52, 0.5, 0.5]
    # And what is borne then ends the fall.
    assert refuse(calm(state)).falls == 1


def test_a_rate_that_was_not_used_is_not_proven_and_is_looked_at_anew() -> None:
    state = Tuning(20.0, NOW, borne=10.0, refused=80.0, falls=2)
    found = calm(state, after=60.0, used=0.5)
    assert found == replace(state, since=NOW + seconds(60), base=601)
    # The idle minute does not count for what comes next.
    assert calm(found, after=3.0).rate > 20
    idle = after_calm(state, NOW + seconds(60), limit=1000.0, answered=0)
    assert idle is state
    # A worker with its count is gone.
    assert after_calm(replace(state, base=50), NOW + seconds(60), limit=1000.0, answered=20).base == 20


def test_nothing_is_proven_before_the_window_of_the_provider_is_over() -> None:
    state = refuse(Tuning(80.0, NOW, borne=40.0, falls=0), cool=60.0)
    assert state.since == NOW + seconds(60)
    assert calm(state, after=90.0) is state
    assert calm(state, after=91.0).rate > state.rate
    # Before the cool-down is over, and while the clock is behind.
    assert calm(state, after=-30.0) is state


def test_a_slow_rate_is_looked_at_for_some_requests() -> None:
    state = Tuning(0.1, NOW, refused=0.2, falls=3)
    assert calm(state, after=29.0) is state
    assert calm(state, after=30.0).rate > 0.1


def test_a_configured_rate_below_the_found_one_wins_and_what_was_found_is_kept() -> None:
    state = Tuning(76.0, NOW, borne=76.0, refused=80.0, falls=0)
    assert state.rate_within(50.0) == 50.0
    lowered = calm(state, limit=50.0)
    assert (lowered.rate, lowered.borne, lowered.refused) == (76.0, 76.0, 80.0)
    # Refused even so: it is looked for below.
    assert refuse(state, limit=50.0).rate == 47.0


def test_a_configured_rate_that_is_raised_lets_it_climb() -> None:
    full = calm(Tuning(80.0, NOW, borne=80.0, falls=0), limit=80.0)
    assert calm(full, limit=80.0) is full
    assert calm(full, limit=200.0).rate == 84.8
