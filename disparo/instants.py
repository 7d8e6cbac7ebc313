"""Instants as people type them on the command line and in campaign files, and as they are shown back; pure.

``parse_instant`` reads ``--at`` and ``--not-after``, ``parse_delay`` reads ``--in``, ``describe`` writes an
instant with both zones, and ``future`` refuses one that has passed.
"""

import re
import unicodedata
from datetime import UTC, date, datetime, time, timedelta, timezone
from zoneinfo import ZoneInfo

from disparo.errors import InputError

EXAMPLES = "'2026-12-03 10:00', '03/12 10:00', '10:00', 'tomorrow 9:00' or 'in 2h'"

#: The longest delay and the farthest instant from now: further out is a typing error.
FARTHEST = timedelta(days=3660)

_DELAY = re.compile(
    r"(?=\d)(?:(\d{1,6})\s*d)?\s*(?:(\d{1,6})\s*h)?\s*(?:(\d{1,6})\s*m(?:in)?)?\s*(?:(\d{1,8})\s*s)?"
)
_ISO = re.compile(
    r"(?P<day>\d{4}-\d{2}-\d{2})(?:[t ]\s*(?P<clock>\S+?)\s*(?P<offset>z|utc|[+-]\d{2}(?::?\d{2})?)?)?"
)
_DAY_FIRST = re.compile(
    r"(?P<day>\d{1,2})/(?P<month>\d{1,2})(?:/(?P<year>\d{4}|\d{2}))?(?:,?\s+(?P<clock>\S+))?"
)
_DAY_WORD = re.compile(r"(?P<word>today|hoje|tomorrow|amanha)(?:,?\s+(?P<clock>\S+))?")
_RELATIVE = re.compile(r"(?:in|em)\s+(?P<delay>.+)|\+\s*(?P<plus>.+)")
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2})(?:\.\d+)?)?")
_CLOCK_WITH_H = re.compile(r"(\d{1,2})h(\d{2})?")


def parse_delay(text: str) -> timedelta:
    """Read a length of time such as ``3s``, ``10m``, ``2h``, ``1d`` or ``1h30m``.

    A day is 24 hours, whatever the clocks do meanwhile.

    Raises:
      InputError: it is not understood, or longer than ten years.
    """
    match = _DELAY.fullmatch(text.strip().casefold())
    if match is None:
        raise InputError(
            f"'{text}' is not a length of time. "
            "Write a number with its unit: '30s', '10m', '2h', '1d' or '1h30m'."
        )
    days, hours, minutes, seconds = (int(group or 0) for group in match.groups())
    # The sum is taken in seconds: a timedelta of absurd parts would overflow before it can be refused.
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if total > FARTHEST.total_seconds():
        raise InputError(f"'{text}' is more than ten years. Write a shorter time, such as '10m' or '2h'.")
    return timedelta(seconds=total)


def parse_instant(text: str, now: datetime, zone: ZoneInfo, *, end_of_day: bool = False) -> datetime:
    """Read an instant, in UTC.

    Understood are ``2026-12-03T10:00-03:00`` and the same without an offset (then it is local time of
    ``zone``), ``2026-12-03``, ``03/12 10:00`` and ``03/12/2026 10:00`` (day first), ``10:00`` (the next
    one), ``today``/``hoje`` and ``tomorrow``/``amanhã`` with or without a time, ``in 10m`` and ``+2h``,
    ``now``/``agora``. A date without a year is the one nearest to ``now``, so that ``03/01`` typed in
    December is next January, and yesterday's date stays yesterday's.

    A local time that comes twice, when clocks go back, is the first of the two. One that clocks
    going forward skip is refused; of a date alone, the day's first or last instant is taken.

    Args:
      text: As typed.
      now: The present, aware.
      zone: Zone of the app or of the installation.
      end_of_day: A date alone means 23:59:59, as a deadline does, instead of 00:00.

    Raises:
      InputError: it is not understood, names a time that does not exist, or is more than ten years away.
    """
    plain = _plain(text)
    if plain in {"now", "agora"}:
        return now.astimezone(UTC)
    if match := _RELATIVE.fullmatch(plain):
        return (now + parse_delay(match["delay"] or match["plus"])).astimezone(UTC)
    local = now.astimezone(zone)
    if _CLOCK.fullmatch(plain):
        return _next(_clock(plain, text), now, local.date(), zone)
    if _CLOCK_WITH_H.fullmatch(plain):
        raise InputError(
            f"'{text}' may be a time of day or a length of time. "
            "Write '10:00' for the time, 'in 10h' for the length."
        )
    if match := _ISO.fullmatch(plain):
        day, clock, offset = _iso_day(match["day"], local, text), match["clock"], match["offset"]
        if clock and offset:
            return datetime.combine(day, _clock(clock, text), _offset(offset, text)).astimezone(UTC)
    elif match := _DAY_FIRST.fullmatch(plain):
        day, clock = _day_first(match, local, text), match["clock"]
    elif match := _DAY_WORD.fullmatch(plain):
        ahead = 1 if match["word"] in {"tomorrow", "amanha"} else 0
        day, clock = local.date() + timedelta(days=ahead), match["clock"]
    else:
        raise InputError(f"'{text}' is not a date or a time. Write it like {EXAMPLES}.")
    if clock:
        return _exact(day, _clock(clock, text), zone)
    return _last_second(day, zone) if end_of_day else _first_instant(day, zone)


def describe(instant: datetime, zone: ZoneInfo) -> str:
    """Write an instant in local time with the zone's name, and in UTC.

    ``2026-12-03 10:00 America/Sao_Paulo (13:00 UTC)``; the date is repeated where UTC has another, and
    seconds are shown when there are any.
    """
    local, universal = instant.astimezone(zone), instant.astimezone(UTC)
    clock = "%H:%M:%S" if universal.second else "%H:%M"
    shown = f"{local:%Y-%m-%d {clock}} {zone.key}"
    if zone.key in {"UTC", "Etc/UTC"}:
        return shown
    other = f"{universal:{clock}}" if universal.date() == local.date() else f"{universal:%Y-%m-%d {clock}}"
    return f"{shown} ({other} UTC)"


def future(instant: datetime, now: datetime, zone: ZoneInfo, *, what: str = "The instant") -> datetime:
    """Hand ``instant`` back when it lies after ``now``.

    Args:
      instant: Aware.
      now: The present, aware.
      zone: Zone in which people read it.
      what: How the sentence begins, such as ``--at``.

    Raises:
      InputError: it has passed, or is now.
    """
    if instant > now:
        return instant
    raise InputError(
        f"{what} {describe(instant, zone)} has passed: it is {describe(now, zone)} now. "
        f"Give a later one, such as {EXAMPLES}."
    )


def _plain(text: str) -> str:
    folded = unicodedata.normalize("NFKD", text.strip().casefold())
    plain = "".join(char for char in folded if not unicodedata.combining(char))
    # 'amanhã às 9:00' and 'tomorrow at 9:00'.
    return re.sub(r"\s+", " ", re.sub(r"(?<=\s)(?:as|at)\s+(?=\d)", "", plain))


def _clock(clock: str, text: str) -> time:
    match = _CLOCK.fullmatch(clock) or _CLOCK_WITH_H.fullmatch(clock)
    if match is None:
        raise InputError(f"'{clock}' in '{text}' is not a time of day. Write it like '10:00'.")
    hour, minute, second = (int(group or 0) for group in (*match.groups(), None)[:3])
    try:
        return time(hour, minute, second)
    except ValueError:
        raise InputError(
            f"'{clock}' in '{text}' is not a time of day: hours go from 0:00 to 23:59."
        ) from None


def _iso_day(day: str, local: datetime, text: str) -> date:
    try:
        return _near(date.fromisoformat(day), local, text)
    except ValueError:
        raise InputError(
            f"'{text}' names a day that does not exist. Dates are written year-month-day."
        ) from None


def _day_first(match: re.Match[str], local: datetime, text: str) -> date:
    day, month, year = int(match["day"]), int(match["month"]), match["year"]
    years = [int(year) + (2000 if len(year) == 2 else 0)] if year else [local.year + n for n in (-1, 0, 1)]
    days = []
    for candidate in years:
        try:
            days.append(date(candidate, month, day))
        except ValueError:
            continue  # 29/02 exists in some years only
    if not days:
        raise InputError(f"'{text}' names a day that does not exist. Dates are written day/month/year.")
    return _near(min(days, key=lambda found: abs(found - local.date())), local, text)


def _near(day: date, local: datetime, text: str) -> date:
    if abs(day - local.date()) > FARTHEST:
        raise InputError(f"'{text}' is more than ten years away. Look at its year.")
    return day


def _offset(offset: str, text: str) -> timezone:
    if offset in {"z", "utc"}:
        return UTC
    hours, minutes = int(offset[1:3]), int(offset[3:].lstrip(":") or 0)
    if hours > 14 or minutes > 59:
        raise InputError(f"'{offset}' in '{text}' is not an offset from UTC. Write it like '-03:00'.")
    return timezone(timedelta(hours=hours, minutes=minutes) * (-1 if offset[0] == "-" else 1))


def _exists(wall: datetime) -> bool:
    """Tell whether a clock in the zone of ``wall`` ever shows it."""
    return wall.astimezone(UTC).astimezone(wall.tzinfo).replace(tzinfo=None) == wall.replace(tzinfo=None)


def _exact(day: date, clock: time, zone: ZoneInfo) -> datetime:
    wall = datetime.combine(day, clock, zone)
    if not _exists(wall):
        after = wall.astimezone(UTC).astimezone(zone)
        raise InputError(
            f"{wall:%Y-%m-%d %H:%M} does not exist in {zone.key}: clocks go forward over it. "
            f"Write {after:%H:%M} for the time that they show then, or give an offset such as '-03:00'."
        )
    return wall.astimezone(UTC)


def _next(clock: time, now: datetime, today: date, zone: ZoneInfo) -> datetime:
    first = datetime.combine(today, clock, zone)
    for wall in (first, first.replace(fold=1)):
        if _exists(wall) and wall.astimezone(UTC) > now:
            return wall.astimezone(UTC)
    if not _exists(first) and first.astimezone(UTC) > now:
        return _exact(today, clock, zone)  # refuses it: today's is skipped by the clocks
    return _exact(today + timedelta(days=1), clock, zone)


def _first_instant(day: date, zone: ZoneInfo) -> datetime:
    # Where clocks go forward at midnight (as they did in Brazil), the day begins at the change: the
    # instant that 00:00 would have been by the clock of the day before, which is what fold 0 gives.
    return datetime.combine(day, time(), zone).astimezone(UTC)


def _last_second(day: date, zone: ZoneInfo) -> datetime:
    # Where clocks go back at midnight, 23:59:59 comes twice and the day ends with the second.
    return datetime.combine(day, time(23, 59, 59), zone).replace(fold=1).astimezone(UTC)
