"""When a message is tried again."""

import random

import pytest

from disparo.retry import next_due
from disparo.statuses import Verdict
from disparo.whatsapp.codes import RULES, TABLE, Override, Rule, lookup

RETRY = lookup("internal_error")
THROTTLE = lookup("too_many_requests")


class Recorder(random.Random):
    """Keeps the range that it is asked to choose from."""

    chosen: tuple[float, float]

    def uniform(self, a: float, b: float) -> float:
        self.chosen = (a, b)
        return a


def waits_between(
    rule: Rule, attempts: int, retry_after_seconds: float | None = None
) -> tuple[float, float] | None:
    """The range that the next wait is chosen from; None when there is none."""
    recorder = Recorder()
    wait = next_due(rule, attempts, retry_after_seconds, recorder)
    return None if wait is None else recorder.chosen


def test_the_range_doubles_from_try_to_try_until_the_attempts_are_used_up() -> None:
    ranges = [waits_between(RETRY, attempts) for attempts in range(1, 6)]
    assert ranges == [(1, 2), (1, 4), (1, 8), (1, 16), None]


def test_the_range_ends_at_the_cap() -> None:
    assert waits_between(lookup("connection_failed"), 29) == (1, 300)


def test_a_pair_limit_waits_four_times_longer_each_time() -> None:
    waits = [waits_between(lookup("131056"), attempts) for attempts in range(1, 7)]
    assert waits == [(1, 1), (4, 4), (16, 16), (64, 64), (256, 256), None]


def test_a_pair_limit_never_waits_longer_than_its_longest() -> None:
    table = TABLE.with_overrides({"131056": Override(attempts=9, cap_seconds=100)}, "test")
    assert waits_between(table.lookup("131056"), 5) == (100, 100)


def test_a_throttle_spends_no_attempt_and_is_never_given_up() -> None:
    assert waits_between(THROTTLE, 0) == (1, 2)
    assert waits_between(THROTTLE, 10_000) == (1, 60)


@pytest.mark.parametrize(("wait", "expected"), [(0.5, (1, 2)), (1.5, (1.5, 2.5)), (90, (90, 91))])
def test_what_the_provider_asks_for_is_a_floor(wait: float, expected: tuple[float, float]) -> None:
    assert waits_between(RETRY, 1, wait) == expected


def test_a_floor_does_not_bring_back_spent_attempts() -> None:
    assert waits_between(RETRY, RETRY.attempts, 30) is None


@pytest.mark.parametrize(
    "rule",
    [rule for rule in RULES if rule.verdict not in (Verdict.RETRY, Verdict.THROTTLE)],
    ids=lambda r: r.code,
)
def test_nothing_else_is_tried_again(rule: Rule) -> None:
    assert next_due(rule, 0, 1.0, random.Random(1)) is None  # noqa: S311


def test_the_choice_is_spread_over_the_range() -> None:
    rng = random.Random(7)  # noqa: S311
    waits = [next_due(RETRY, 4, None, rng) or 0.0 for _ in range(500)]
    assert 1 <= min(waits) < 2
    assert 15 < max(waits) <= 16


def test_a_row_that_an_installation_changed_waits_as_it_says() -> None:
    changes = {
        "131049": Override(
            verdict=Verdict.RETRY, attempts=3, base_seconds=86_400, cap_seconds=259_200, factor=3
        ),
        "131016": Override(attempts=1),
        "130429": Override(verdict=Verdict.RETRY, base_seconds=0, cap_seconds=0, attempts=2),
    }
    table = TABLE.with_overrides(changes, "test")
    ranges = [waits_between(table.lookup("131049"), attempts) for attempts in (1, 2, 3)]
    assert ranges == [(86_400, 259_200), (86_400, 259_200), None]
    assert waits_between(table.lookup("131016"), 1) is None
    assert waits_between(table.lookup("130429"), 1) == (0, 0)
