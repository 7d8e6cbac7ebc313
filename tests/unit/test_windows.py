from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disparo import windows
from disparo.errors import InputError

SAO_PAULO = ZoneInfo("America/Sao_Paulo")
BERLIN = ZoneInfo("Europe/Berlin")


def local(zone: ZoneInfo, *parts: int, fold: int = 0) -> datetime:
    return datetime(*parts, tzinfo=zone, fold=fold)  # type: ignore[misc,arg-type]


@pytest.mark.parametrize(
    ("spec", "canonical"),
    [
        ("always", "always"),
        (" Sempre ", "always"),
        ("daily 0-24", "always"),
        ("mon-sat 08:00-20:00", "mon-sat 08:00-20:00"),
        ("mon-fri 8-20, sat 8-14", "mon-fri 08:00-20:00, sat 08:00-14:00"),
        ("daily 9-18", "daily 09:00-18:00"),
        ("diário 9h-18h30", "daily 09:00-18:30"),
        ("seg-sex 8h – 20h, sáb 8h-14h", "mon-fri 08:00-20:00, sat 08:00-14:00"),
        ("Terça-quinta 9-12 14-18", "tue-thu 09:00-12:00 14:00-18:00"),
        ("sat-mon 10-12", "mon, sat-sun 10:00-12:00"),
        ("mon, wed, fri 9-18", "mon, wed, fri 09:00-18:00"),
        ("fri 22-02", "fri 22:00-02:00"),
        ("mon 8-12, mon 11-13", "mon 08:00-13:00"),
        ("mon 22-0", "mon 22:00-24:00"),
        ("mon 0-24 22-02", "mon 00:00-24:00 22:00-02:00"),
    ],
)
def test_a_window_has_one_canonical_text_that_reads_back_to_it(spec: str, canonical: str) -> None:
    window = windows.parse(spec)
    assert str(window) == canonical
    assert windows.parse(canonical) == window


hours = st.tuples(st.integers(0, 23), st.sampled_from((0, 30)), st.integers(0, 23), st.sampled_from((0, 30)))


@given(
    st.lists(
        st.tuples(st.sampled_from(windows.DAYS), hours.filter(lambda h: h[:2] != h[2:])),
        min_size=1,
        max_size=6,
    )
)
def test_any_window_survives_its_own_text(parts: list[tuple[str, tuple[int, int, int, int]]]) -> None:
    spec = ", ".join(f"{day} {a}:{b:02d}-{c}:{d:02d}" for day, (a, b, c, d) in parts)
    window = windows.parse(spec)
    assert windows.parse(str(window)) == window


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("", "empty part"),
        ("mon-fri 8-20,", "empty part"),
        ("xyz 8-20", "'xyz'"),
        ("mon-xyz 8-20", "'mon-xyz'"),
        ("8-20", "'8-20'"),
        ("mon-fri", "mon-fri without hours"),
        ("mon 8", "'8'"),
        ("mon 8-25", "'8-25'"),
        ("mon 24-25", "'24-25'"),
        ("mon 8:60-9", "'8:60-9'"),
        ("mon 8-8", "whole day"),
        ("mon 8-20 fri", "'fri'"),
    ],
)
def test_a_wrong_window_is_refused_with_its_part(spec: str, named: str) -> None:
    with pytest.raises(InputError) as refusal:
        windows.parse(spec)
    assert named in str(refusal.value)


def test_a_window_opens_with_its_first_minute_and_closes_with_its_last() -> None:
    window = windows.parse("mon-sat 8-20")
    assert not window.is_open(local(SAO_PAULO, 2026, 12, 3, 7, 59, 59), SAO_PAULO)
    assert window.is_open(local(SAO_PAULO, 2026, 12, 3, 8), SAO_PAULO)
    assert window.is_open(local(SAO_PAULO, 2026, 12, 3, 19, 59, 59), SAO_PAULO)
    assert not window.is_open(local(SAO_PAULO, 2026, 12, 3, 20), SAO_PAULO)
    assert not window.is_open(local(SAO_PAULO, 2026, 12, 6, 12), SAO_PAULO)  # a Sunday


def test_hours_over_midnight_belong_to_the_day_on_which_they_begin() -> None:
    window = windows.parse("fri 22-02")
    assert window.is_open(local(SAO_PAULO, 2026, 12, 4, 23), SAO_PAULO)
    assert window.is_open(local(SAO_PAULO, 2026, 12, 5, 1, 59), SAO_PAULO)
    assert not window.is_open(local(SAO_PAULO, 2026, 12, 4, 1), SAO_PAULO)
    assert not window.is_open(local(SAO_PAULO, 2026, 12, 5, 22), SAO_PAULO)
    sunday = windows.parse("sun 22-02")
    assert sunday.is_open(local(SAO_PAULO, 2026, 12, 7, 1), SAO_PAULO)  # the week goes round


def test_the_next_opening_is_now_while_open_and_after_the_weekend_otherwise() -> None:
    window = windows.parse("mon-fri 8-20, sat 8-14")
    inside = local(SAO_PAULO, 2026, 12, 3, 9, 30)
    assert window.next_opening(inside, SAO_PAULO) == inside
    assert window.next_opening(local(SAO_PAULO, 2026, 12, 3, 6), SAO_PAULO) == local(
        SAO_PAULO, 2026, 12, 3, 8
    )
    opening = window.next_opening(local(SAO_PAULO, 2026, 12, 5, 14), SAO_PAULO)
    assert opening == local(SAO_PAULO, 2026, 12, 7, 8)
    assert opening is not None
    assert opening.tzinfo is UTC


def test_the_hour_of_opening_is_kept_when_the_clocks_change_at_night() -> None:
    window = windows.parse("daily 8-20")
    # 2026-03-29: 02:00 +01:00 becomes 03:00 +02:00; 2026-10-25: 03:00 +02:00 becomes 02:00 +01:00.
    spring = window.next_opening(local(BERLIN, 2026, 3, 28, 21), BERLIN)
    assert spring == datetime(2026, 3, 29, 6, tzinfo=UTC)
    autumn = window.next_opening(local(BERLIN, 2026, 10, 24, 21), BERLIN)
    assert autumn == datetime(2026, 10, 25, 7, tzinfo=UTC)


def test_an_opening_in_the_hour_that_is_skipped_is_the_change_of_the_clocks() -> None:
    window = windows.parse("daily 02:30-05:00")
    assert window.next_opening(local(BERLIN, 2026, 3, 29, 1), BERLIN) == datetime(2026, 3, 29, 1, tzinfo=UTC)
    # Of a window that lies in that hour as a whole nothing is left on that day.
    short = windows.parse("sun 02:10-02:50")
    assert short.next_opening(local(BERLIN, 2026, 3, 29, 1), BERLIN) == local(BERLIN, 2026, 4, 5, 2, 10)


def test_an_hour_that_comes_twice_opens_the_window_twice() -> None:
    window = windows.parse("sun 02:00-02:30")
    assert window.is_open(local(BERLIN, 2026, 10, 25, 2, 10), BERLIN)
    assert window.is_open(local(BERLIN, 2026, 10, 25, 2, 10, fold=1), BERLIN)
    between = local(BERLIN, 2026, 10, 25, 2, 40)
    assert not window.is_open(between, BERLIN)
    assert window.next_opening(between, BERLIN) == datetime(2026, 10, 25, 1, tzinfo=UTC)
    # Also when the hours began before it.
    earlier = windows.parse("sun 01:00-02:30")
    assert earlier.next_opening(between, BERLIN) == datetime(2026, 10, 25, 1, tzinfo=UTC)


@given(
    st.sampled_from(("daily 02:30-03:30", "sun 23-03", "mon-fri 8-20, sat 8-14", "sun 2-3", "daily 0-0:30")),
    st.sampled_from((BERLIN, SAO_PAULO, ZoneInfo("America/New_York"), ZoneInfo("Australia/Lord_Howe"))),
    st.integers(0, 366 * 24 * 4),
)
def test_the_window_is_open_at_its_next_opening_and_closed_until_then(
    spec: str, zone: ZoneInfo, quarters: int
) -> None:
    window = windows.parse(spec)
    now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=15 * quarters)
    opening = window.next_opening(now, zone)
    assert opening is not None
    assert window.is_open(opening, zone)
    assert opening == now or not window.is_open(opening - timedelta(seconds=1), zone)
    steps = int((opening - now) / timedelta(minutes=10))
    assert not any(
        window.is_open(now + timedelta(minutes=10 * step), zone) for step in range(min(steps, 300))
    )


def test_a_naive_instant_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="naive"):
        windows.ALWAYS.is_open(datetime(2026, 1, 1), SAO_PAULO)  # noqa: DTZ001


@pytest.mark.parametrize(
    ("spec", "now", "closes"),
    [
        ("daily 8-20", local(SAO_PAULO, 2026, 11, 23, 9), local(SAO_PAULO, 2026, 11, 23, 20)),
        ("daily 8-20", local(SAO_PAULO, 2026, 11, 23, 20), local(SAO_PAULO, 2026, 11, 23, 20)),
        ("mon-fri 8-24, sat 0-2", local(SAO_PAULO, 2026, 11, 27, 9), local(SAO_PAULO, 2026, 11, 28, 2)),
        ("fri 22-02", local(SAO_PAULO, 2026, 11, 28, 1), local(SAO_PAULO, 2026, 11, 28, 2)),
        # The clocks jump from 2 to 3, over its end.
        ("sun 0-2:30", local(BERLIN, 2027, 3, 28, 1), local(BERLIN, 2027, 3, 28, 3)),
        # 2:30 comes twice, and each time it is over: in between it opens again.
        ("sun 0-2:30", local(BERLIN, 2026, 10, 25, 1), local(BERLIN, 2026, 10, 25, 2, 30)),
        ("sun 0-2:30", local(BERLIN, 2026, 10, 25, 2, 5, fold=1), local(BERLIN, 2026, 10, 25, 2, 30, fold=1)),
    ],
)
def test_it_closes_when_a_clock_on_the_wall_shows_its_end(spec: str, now: datetime, closes: datetime) -> None:
    zone = now.tzinfo
    assert isinstance(zone, ZoneInfo)
    found = windows.parse(spec).next_closing(now, zone)
    assert found == closes.astimezone(UTC)


def test_what_is_always_open_never_closes() -> None:
    now = local(SAO_PAULO, 2026, 11, 23, 9)
    assert windows.ALWAYS.next_closing(now, SAO_PAULO) is None
    assert next(windows.ALWAYS.open_spans(now, SAO_PAULO)) == (now.astimezone(UTC), None)
    assert windows.parse("mon-fri 0-24, sat-sun 0-12 12-24").next_closing(now, SAO_PAULO) is None


@given(st.integers(0, 60 * 24 * 14))
def test_open_spans_hold_every_open_minute_and_no_other(minute: int) -> None:
    window, start = (
        windows.parse("mon-fri 8-12 14-18, sat 22-03"),
        local(BERLIN, 2026, 10, 19).astimezone(UTC),
    )
    now = start + timedelta(minutes=minute)
    spans = window.open_spans(start, BERLIN)
    opens, closes = next((a, b) for a, b in spans if b is None or b > now)
    assert closes is not None
    assert window.is_open(now, BERLIN) == (opens <= now < closes)
