from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disparo import windows
from disparo.forecast import Room, seconds_left, speed
from disparo.windows import ALWAYS

SAO_PAULO, BERLIN = ZoneInfo("America/Sao_Paulo"), ZoneInfo("Europe/Berlin")
#: A Monday, 15:00 in São Paulo.
NOW = datetime(2026, 11, 23, 18, tzinfo=UTC)
SECOND, MINUTE, HOUR, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
COUNTED_FOR = DAY


def ends(left, rate, window="always", *, now=NOW, zone=SAO_PAULO, room=None, begins_at=None):
    """When it ends, to the second."""
    seconds = seconds_left(
        left, rate, now, window=windows.parse(window), zone=zone, room=room, begins_at=begins_at
    )
    assert seconds is not None
    return (now.astimezone(UTC) + timedelta(seconds=round(seconds))).astimezone(zone)


def room(limit, *releases, share=1.0):
    return Room(limit, [(NOW + after, n) for after, n in releases], COUNTED_FOR, share)


def at(*parts, zone=SAO_PAULO):
    return datetime(*parts, tzinfo=zone)


# -- windows -----------------------------------------------------------------------------------------------


def test_what_is_left_takes_its_time_at_the_rate():
    assert ends(1_200, 20) == NOW + MINUTE
    assert seconds_left(0, 20, NOW, window=ALWAYS, zone=SAO_PAULO) == 0
    assert seconds_left(5, 0, NOW, window=ALWAYS, zone=SAO_PAULO) is None


def test_hours_in_which_the_window_is_shut_do_not_count():
    # Five hours are left today, then four tomorrow.
    assert ends(9 * 3600, 1, "daily 8-20") == at(2026, 11, 24, 12)
    # Over a weekend, and with a break at noon.
    assert ends(40 * 3600, 1, "mon-fri 8-12 14-18") == at(2026, 11, 30, 15)


def test_a_window_that_is_shut_now_is_waited_for_and_so_is_the_launch():
    evening = at(2026, 11, 23, 22)
    assert ends(3600, 1, "daily 8-20", now=evening) == at(2026, 11, 24, 9)
    assert ends(3600, 1, "daily 8-20", begins_at=at(2026, 11, 25, 19, 30)) == at(2026, 11, 26, 8, 30)
    assert ends(3600, 1, begins_at=at(2026, 11, 25, 19, 30)) == at(2026, 11, 25, 20, 30)


def test_a_night_in_which_the_clocks_change_is_as_long_as_it_is():
    # 22 to 6 has nine hours when the clocks go back, seven when they go forward.
    autumn, spring = at(2026, 10, 24, 22, zone=BERLIN), at(2027, 3, 27, 22, zone=BERLIN)
    assert ends(9 * 3600 - 60, 1, "daily 22-6", now=autumn, zone=BERLIN) == at(
        2026, 10, 25, 5, 59, zone=BERLIN
    )
    assert ends(7 * 3600 + 60, 1, "daily 22-6", now=spring, zone=BERLIN) == at(
        2027, 3, 28, 22, 1, zone=BERLIN
    )


def test_weeks_go_on_like_the_last_week_that_was_walked_through():
    # 40 h a week: 400 h are ten weeks, to within what the last of them begins with.
    end = ends(400 * 3600, 1, "mon-fri 8-16")
    assert abs(end - (NOW + 10 * 7 * DAY)) < 3 * DAY
    assert seconds_left(1e9, 1e-6, NOW, window=ALWAYS, zone=SAO_PAULO) == pytest.approx(1e15)


def test_a_window_that_never_opens_gives_no_end():
    never = windows.Window(week=((),) * 7)
    assert seconds_left(5, 1, NOW, window=never, zone=SAO_PAULO) is None


# -- budgets -----------------------------------------------------------------------------------------------


def test_a_budget_that_is_not_used_up_changes_nothing():
    assert ends(600, 10, room=room(600)) == NOW + MINUTE
    assert ends(600, 10, room=room(1_000, (HOUR, 400))) == NOW + MINUTE


def test_what_does_not_fit_waits_for_the_recipients_that_count_now():
    used = [(HOUR, 50), (2 * HOUR, 50), (5 * HOUR, 100)]
    assert ends(100, 10, room=room(200, *used)) == NOW + 2 * HOUR + 5 * SECOND
    assert ends(101, 10, room=room(200, *used)) == NOW + 5 * HOUR
    # One too many counts, since the limit was lowered: the first that go make no room.
    assert ends(1, 10, room=room(150, *used)) == NOW + 2 * HOUR


def test_each_day_has_the_limit_once():
    # 250 at once, then 250 a day.
    for days in (1, 2, 7, 40, 400):
        left = 250 * days + 1
        assert abs(ends(left, 10, room=room(250)) - (NOW + days * DAY)) <= 0.02 * days * DAY + MINUTE


def test_days_with_a_window_and_a_budget_have_both():
    # 2,000 on Monday before 20:00, the next 2,000 on Tuesday as Monday's fall out, from 15:00 on.
    assert (
        timedelta()
        <= ends(4_000, 10, "mon-fri 8-20", room=room(2_000)) - at(2026, 11, 24, 15, 3, 20)
        < 10 * MINUTE
    )
    # On Saturday and Sunday nothing leaves: Friday's budget is free on Monday at eight.
    assert ends(12_000, 10, "mon-fri 8-20", room=room(2_000)) == at(2026, 11, 30, 8, 3, 20)


def test_a_share_of_the_budget_takes_as_much_longer():
    assert abs(ends(1_001, 10, room=room(1_000, share=0.25)) - (NOW + 4 * DAY)) < 2 * HOUR


@given(
    st.integers(1, 5_000),
    st.floats(0.01, 1_000),
    st.integers(1, 2_000),
    st.lists(st.tuples(st.integers(1, 86_400), st.integers(1, 500)), max_size=8),
)
def test_never_sooner_than_rate_and_budget_allow(left, rate, limit, used):
    releases = sorted((after * SECOND, n) for after, n in used)
    free = limit - sum(n for _, n in releases)
    found = seconds_left(left, rate, NOW, window=ALWAYS, zone=SAO_PAULO, room=room(limit, *releases))
    assert found >= left / rate * 0.999
    # Those that come back until the end, and as many days of the limit as have passed.
    back = sum(n for after, n in releases if after.total_seconds() <= found)
    again = int((found + 700) // 86_400) * limit
    if found < 14 * 86_400:
        assert left <= max(0, free + back) + again + 1


# -- speed -------------------------------------------------------------------------------------------------


def answers(*pairs):
    return [(NOW - seconds * SECOND, n) for seconds, n in pairs]


def test_the_speed_is_what_was_measured_where_that_tells_enough():
    assert speed(answers(*((60 - n, 15) for n in range(60))), NOW, 20.0) == pytest.approx(14.75)


def test_few_answers_that_fit_the_settings_leave_it_to_them():
    assert speed([], NOW, 20.0) == 20.0
    assert speed(answers((1, 40)), NOW, 20.0) == 20.0
    assert speed(answers((2, 5), (1, 21), (0.5, 12)), NOW, 20.0) == 20.0
    assert speed(answers(*((60 - 5 * n, 1) for n in range(12))), NOW, 0.2) == 0.2


def test_few_answers_that_do_not_fit_the_settings_count():
    assert speed(answers((50, 1), (30, 5), (10, 5)), NOW, 20.0) == pytest.approx(0.2)
    # 64 threads that wait 40 s each.
    assert speed(answers((41, 64), (1, 64)), NOW, 100.0) == pytest.approx(64 / 41)
