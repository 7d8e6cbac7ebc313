from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from disparo.errors import InputError
from disparo.instants import describe, future, parse_delay, parse_instant

SAO_PAULO = ZoneInfo("America/Sao_Paulo")
BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 12, 1, 15, 30, tzinfo=UTC)  # 12:30 in São Paulo


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-12-03T10:00-03:00", "2026-12-03T13:00"),
        ("2026-12-03T10:00:05-0300", "2026-12-03T13:00:05"),
        ("2026-12-03 10:00:00.5+02", "2026-12-03T08:00"),
        ("2026-12-03T10:00Z", "2026-12-03T10:00"),
        ("2026-12-03 10:00 UTC", "2026-12-03T10:00"),
        ("2026-12-03 10:00", "2026-12-03T13:00"),
        ("2026-12-03T10:00", "2026-12-03T13:00"),
        ("2026-12-03", "2026-12-03T03:00"),
        ("03/12 10:00", "2026-12-03T13:00"),
        ("3/12 às 10h30", "2026-12-03T13:30"),
        ("03/12/2026 10:00", "2026-12-03T13:00"),
        ("03/12/26, 9h", "2026-12-03T12:00"),
        ("03/12", "2026-12-03T03:00"),
        ("03/01 10:00", "2027-01-03T13:00"),  # nearest: next January
        ("30/11 10:00", "2026-11-30T13:00"),  # yesterday stays yesterday
        ("13:00", "2026-12-01T16:00"),
        ("10:00", "2026-12-02T13:00"),
        ("12:30", "2026-12-02T15:30"),  # now is not the next one
        ("today 20:00", "2026-12-01T23:00"),
        ("hoje 20:00", "2026-12-01T23:00"),
        ("tomorrow 9:00", "2026-12-02T12:00"),
        ("Amanhã 9:00", "2026-12-02T12:00"),
        ("amanha às 9h", "2026-12-02T12:00"),
        ("tomorrow at 9:00", "2026-12-02T12:00"),
        ("tomorrow", "2026-12-02T03:00"),
        ("in 10m", "2026-12-01T15:40"),
        ("em 1h30m", "2026-12-01T17:00"),
        ("+2h", "2026-12-01T17:30"),
        ("now", "2026-12-01T15:30"),
        ("agora", "2026-12-01T15:30"),
    ],
)
def test_instants_are_read_as_people_type_them(text: str, expected: str) -> None:
    instant = parse_instant(text, NOW, SAO_PAULO)
    assert instant == datetime.fromisoformat(expected).replace(tzinfo=UTC)
    assert instant.utcoffset() == timedelta()


@pytest.mark.parametrize("text", ["2026-12-03", "03/12", "03/12/2026"])
def test_a_date_alone_is_the_end_of_the_day_for_a_deadline(text: str) -> None:
    assert parse_instant(text, NOW, SAO_PAULO, end_of_day=True) == datetime(
        2026, 12, 4, 2, 59, 59, tzinfo=UTC
    )
    # A time that was given counts.
    assert parse_instant(f"{text} 10:00", NOW, SAO_PAULO, end_of_day=True) == datetime(
        2026, 12, 3, 13, tzinfo=UTC
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "not a date"),
        ("soon", "'soon'"),
        ("10", "'10'"),
        ("10h", "in 10h"),
        ("25:00", "0:00 to 23:59"),
        ("2026-13-01", "does not exist"),
        ("2026-02-30 10:00", "does not exist"),
        ("31/02 10:00", "does not exist"),
        ("12/31/2026", "day/month/year"),
        ("2026-12-03 noon", "'noon'"),
        ("2026-12-03 10:00+27:00", "'+27:00'"),
        ("2126-12-03", "ten years"),
        ("0001-01-01", "ten years"),
        ("9999-12-31 23:59", "ten years"),
        ("in a while", "'a while'"),
        ("in 99999d", "ten years"),
    ],
)
def test_what_is_no_instant_is_refused_in_a_sentence(text: str, named: str) -> None:
    with pytest.raises(InputError) as refusal:
        parse_instant(text, NOW, SAO_PAULO)
    assert named in str(refusal.value)


def test_the_29th_of_february_without_a_year_is_the_nearest_one() -> None:
    leap = datetime(2027, 11, 1, tzinfo=UTC)
    assert parse_instant("29/02 10:00", leap, SAO_PAULO) == datetime(2028, 2, 29, 13, tzinfo=UTC)
    with pytest.raises(InputError, match="does not exist"):
        parse_instant("29/02 10:00", datetime(2026, 6, 1, tzinfo=UTC), SAO_PAULO)


def test_a_time_that_the_clocks_skip_is_refused_with_the_one_they_show() -> None:
    now = datetime(2026, 3, 28, 12, tzinfo=UTC)
    with pytest.raises(InputError, match=r"02:30 does not exist in Europe/Berlin.*03:30"):
        parse_instant("2026-03-29 02:30", now, BERLIN)
    # With an offset it is an instant like any other.
    assert parse_instant("2026-03-29 02:30+01:00", now, BERLIN) == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
    with pytest.raises(InputError, match="does not exist"):
        parse_instant("2:30", now, BERLIN)


def test_a_time_that_comes_twice_is_the_first_of_the_two() -> None:
    now = datetime(2026, 10, 24, 12, tzinfo=UTC)
    assert parse_instant("2026-10-25 02:30", now, BERLIN) == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    # ... or the second when the first has passed and the next one was asked for.
    later = datetime(2026, 10, 25, 0, 45, tzinfo=UTC)
    assert parse_instant("02:30", later, BERLIN) == datetime(2026, 10, 25, 1, 30, tzinfo=UTC)


def test_a_day_begins_and_ends_right_where_the_clocks_change_at_midnight() -> None:
    # Brazil, 2018: on 4 November 00:00 became 01:00, on 18 February 00:00 became 23:00 of the 17th.
    now = datetime(2018, 6, 1, tzinfo=UTC)
    begins = parse_instant("2018-11-04", now, SAO_PAULO)
    assert begins == datetime(2018, 11, 4, 3, tzinfo=UTC)
    assert begins.astimezone(SAO_PAULO).hour == 1
    ends = parse_instant("2018-02-17", now, SAO_PAULO, end_of_day=True)
    assert ends == datetime(2018, 2, 18, 2, 59, 59, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("3s", 3),
        ("10m", 600),
        ("10 min", 600),
        ("2h", 7200),
        ("1d", 86400),
        ("1h30m", 5400),
        ("1d 2h", 93600),
        ("0s", 0),
    ],
)
def test_delays_are_read_with_their_units(text: str, seconds: int) -> None:
    assert parse_delay(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "10", "m", "-5m", "1.5h", "30m1h", "10 parsecs", "999999d", "99999999999d"]
)
def test_what_is_no_delay_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_delay(text)


def test_an_instant_is_shown_in_both_zones() -> None:
    at = datetime(2026, 12, 3, 13, tzinfo=UTC)
    assert describe(at, SAO_PAULO) == "2026-12-03 10:00 America/Sao_Paulo (13:00 UTC)"
    assert describe(at.replace(second=5), SAO_PAULO) == "2026-12-03 10:00:05 America/Sao_Paulo (13:00:05 UTC)"
    night = datetime(2026, 12, 4, 1, tzinfo=UTC)
    assert describe(night, SAO_PAULO) == "2026-12-03 22:00 America/Sao_Paulo (2026-12-04 01:00 UTC)"
    assert describe(at, ZoneInfo("UTC")) == "2026-12-03 13:00 UTC"


def test_an_instant_that_has_passed_is_refused() -> None:
    at = NOW + timedelta(seconds=1)
    assert future(at, NOW, SAO_PAULO) == at
    with pytest.raises(InputError, match=r"--at 2026-12-01 12:30 .* has passed"):
        future(NOW, NOW, SAO_PAULO, what="--at")
