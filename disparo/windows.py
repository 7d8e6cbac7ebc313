"""Send windows: on which weekdays and between which hours messages may leave; pure.

A window is read from a short text such as ``mon-fri 8-20, sat 8-14`` and answers three questions: is it
open now, when does it open next, and when does it close. Hours are those that a clock on the wall shows in the zone of the
app, so a window of 08:00 to 20:00 keeps to them on the days on which the clocks change.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

from disparo.errors import InputError

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_MINUTES_OF_DAY = 24 * 60

_DAY_NUMBERS = {
    **{name: number for number, name in enumerate(DAYS)},
    **{
        name: number
        for number, name in enumerate(
            ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
        )
    },
    **{name: number for number, name in enumerate(("seg", "ter", "qua", "qui", "sex", "sab", "dom"))},
    **{
        name: number
        for number, name in enumerate(("segunda", "terca", "quarta", "quinta", "sexta", "sabado", "domingo"))
    },
}
_EVERY_DAY = ("daily", "diario", "diariamente")
_ALWAYS = ("always", "sempre")

#: ``8``, ``08:30``, ``8h``, ``8h30``.
_TIME = r"(\d{1,2})(?:(?::|h)(\d{2})|h)?"
_HOURS = re.compile(rf"{_TIME}-{_TIME}")
_EXAMPLE = "Write it like 'mon-fri 8-20, sat 8-14', 'daily 9-18' or 'always'."

# A window may fall into the hour that is skipped when the clocks go forward; a week later it opens.
_HORIZON_DAYS = 15

#: Minutes after midnight, from (open) to (closed); past 1440 they belong to the following day.
Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Window:
    """When messages may leave, by weekday.

    ``parse(str(window))`` gives an equal one.

    Attributes:
      week: Seven tuples, Monday first, each of the day's spans in minutes after midnight. A span that
        runs over midnight ends past 1440: Friday ``22-02`` is ``(1320, 1560)`` of Friday.
    """

    week: tuple[tuple[Span, ...], ...]

    def is_open(self, now: datetime, zone: ZoneInfo) -> bool:
        """Tell whether a clock on the wall in ``zone`` shows an hour inside the window.

        The first minute belongs to it, the last does not: ``8-20`` is closed at 20:00:00.
        """
        local = _aware(now).astimezone(zone)
        minute = local.hour * 60 + local.minute
        today, yesterday = self.week[local.weekday()], self.week[local.weekday() - 1]
        return any(start <= minute < end for start, end in today) or any(
            start <= minute + _MINUTES_OF_DAY < end for start, end in yesterday
        )

    def next_opening(self, now: datetime, zone: ZoneInfo) -> datetime | None:
        """Give the first instant from ``now`` on at which the window is open, in UTC.

        That is ``now`` itself while it is open. None when it never opens in the next fifteen days,
        which no text accepted by ``parse`` leads to in a zone that exists.
        """
        if self.is_open(now, zone):
            return now.astimezone(UTC)
        instants = self._instants(now, zone, [[start for start, _ in spans] for spans in self.week])
        return next((at for at in instants if at >= now and self.is_open(at, zone)), None)

    def next_closing(self, now: datetime, zone: ZoneInfo) -> datetime | None:
        """Give the first instant from ``now`` on at which the window is closed, in UTC.

        That is ``now`` itself while it is closed. None when it stays open for the next fifteen days.
        """
        if not self.is_open(now, zone):
            return now.astimezone(UTC)
        if self == ALWAYS:
            return None
        instants = self._instants(now, zone, [[end for _, end in spans] for spans in self.week])
        return next((at for at in instants if at >= now and not self.is_open(at, zone)), None)

    def open_spans(self, now: datetime, zone: ZoneInfo) -> Iterator[tuple[datetime, datetime | None]]:
        """Give the spans (UTC) in which the window is open from ``now`` on, without end; None: not seen to close."""
        opens = self.next_opening(now, zone)
        while opens is not None:
            closes = self.next_closing(opens, zone)
            yield opens, closes
            opens = None if closes is None else self.next_opening(closes, zone)

    def _instants(self, now: datetime, zone: ZoneInfo, minutes: Sequence[Sequence[int]]) -> list[datetime]:
        """Give the instants (UTC) around and after ``now`` at which it may open or close, in order.

        Args:
          minutes: By weekday, Monday first: minutes after its midnight.
        """
        today = now.astimezone(zone).date()
        instants = set(_clock_changes(today, zone))
        # What began yesterday may end today.
        for offset in range(-1, _HORIZON_DAYS):
            day = today + timedelta(days=offset)
            for minute in minutes[day.weekday()]:
                further, rest = divmod(minute, _MINUTES_OF_DAY)
                clock = time(rest // 60, rest % 60)
                wall = datetime.combine(day + timedelta(days=further), clock, zone)
                # An hour that comes twice opens the window twice; one that is skipped gives two
                # instants outside it, and the change of the clocks itself is the opening.
                instants |= {wall.astimezone(UTC), wall.replace(fold=1).astimezone(UTC)}
        return sorted(instants)

    def __str__(self) -> str:
        if self == ALWAYS:
            return "always"
        parts: dict[tuple[Span, ...], list[int]] = {}
        for number, spans in enumerate(self.week):
            if spans:
                parts.setdefault(spans, []).append(number)
        return ", ".join(
            f"{_days_text(days)} {' '.join(f'{_clock(start)}-{_clock(end)}' for start, end in spans)}"
            for spans, days in parts.items()
        )


#: Open at any time.
ALWAYS = Window(week=(((0, _MINUTES_OF_DAY),),) * 7)


def parse(spec: str) -> Window:
    """Read a window from text.

    ``always``; or parts separated by commas, each of days and hours: ``mon-sat 08:00-20:00``,
    ``mon-fri 8-12 14-18, sat 8-14``, ``mon, wed 9-18``, ``daily 9-18``. Days may be English or
    Portuguese (``seg-sex 8h-20h``). Hours that run over midnight belong to the day on which they begin:
    ``fri 22-02`` ends on Saturday at 02:00.

    Raises:
      InputError: names the part that is not understood and shows an example.
    """
    folded = unicodedata.normalize("NFKD", spec.casefold())
    plain = "".join(char for char in folded if not unicodedata.combining(char))
    plain = re.sub(r"\s*[-‐‑‒–—]\s*", "-", plain.strip())
    if plain in _ALWAYS:
        return ALWAYS
    week: list[list[Span]] = [[] for _ in DAYS]
    waiting: list[int] = []  # days of 'mon, wed 9-18' whose hours come with a later part
    for part in (text.strip() for text in plain.split(",")):
        words = part.split()
        if not words:
            raise InputError(f"The send window '{spec}' has an empty part. {_EXAMPLE}")
        waiting += _days(words[0], spec)
        if len(words) == 1:
            continue
        for word in words[1:]:
            span = _span(word, spec)
            for number in waiting:
                week[number].append(span)
        waiting = []
    if waiting:
        raise InputError(
            f"The send window '{spec}' names {_days_text(sorted(set(waiting)))} without hours. {_EXAMPLE}"
        )
    return Window(week=tuple(_merged(spans) for spans in week))


def _days(word: str, spec: str) -> list[int]:
    if word in _EVERY_DAY:
        return list(range(7))
    first, _, last = word.partition("-")
    last = last or first
    if first not in _DAY_NUMBERS or last not in _DAY_NUMBERS:
        raise InputError(
            f"'{word}' in the send window '{spec}' is not a weekday or a range of them. {_EXAMPLE}"
        )
    start = _DAY_NUMBERS[first]
    return [(start + step) % 7 for step in range((_DAY_NUMBERS[last] - start) % 7 + 1)]


def _span(word: str, spec: str) -> Span:
    match = _HOURS.fullmatch(word)
    if match is None:
        raise InputError(f"'{word}' in the send window '{spec}' is not a range of hours. {_EXAMPLE}")
    start_hour, start_minute, end_hour, end_minute = (int(group or 0) for group in match.groups())
    start, end = start_hour * 60 + start_minute, end_hour * 60 + end_minute
    if max(start_minute, end_minute) > 59 or start >= _MINUTES_OF_DAY or end > _MINUTES_OF_DAY:
        raise InputError(f"'{word}' in the send window '{spec}' holds a time that does not exist. {_EXAMPLE}")
    if start == end:
        raise InputError(
            f"'{word}' in the send window '{spec}' begins and ends at the same time: "
            "write 0-24 for the whole day, or leave the day out."
        )
    # An end before the start is the next morning.
    return (start, end) if end > start else (start, end + _MINUTES_OF_DAY)


def _merged(spans: Sequence[Span]) -> tuple[Span, ...]:
    merged: list[Span] = []
    for start, end in sorted(spans):
        joined = (merged[-1][0], max(end, merged[-1][1])) if merged and start <= merged[-1][1] else None
        # A span of 24 hours or more cannot be written as two hours, but for 0-24: its parts stay apart.
        if joined and (joined == (0, _MINUTES_OF_DAY) or joined[1] - joined[0] < _MINUTES_OF_DAY):
            merged[-1] = joined
        elif (start, end) not in merged:
            merged.append((start, end))
    return tuple(merged)


def _days_text(days: Sequence[int]) -> str:
    if len(days) == 7:
        return "daily"
    runs: list[list[int]] = []
    for number in days:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    # The canonical text uses commas for days too: 'mon, wed 09:00-18:00'.
    return ", ".join(DAYS[run[0]] if len(run) == 1 else f"{DAYS[run[0]]}-{DAYS[run[-1]]}" for run in runs)


def _clock(minutes: int) -> str:
    if minutes > _MINUTES_OF_DAY:
        minutes -= _MINUTES_OF_DAY
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def _clock_changes(day: date, zone: ZoneInfo) -> list[datetime]:
    """Give the instants (UTC) within the horizon at which the clocks of ``zone`` are changed."""
    midnight = datetime.combine(day, time(), UTC)
    marks = [midnight + timedelta(days=offset) for offset in range(-1, _HORIZON_DAYS + 1)]
    changes = []
    for before, after in pairwise(marks):
        low, high = before, after
        offset = low.astimezone(zone).utcoffset()
        if high.astimezone(zone).utcoffset() == offset:
            continue
        while high - low > timedelta(seconds=1):
            middle = low + (high - low) // 2
            if middle.astimezone(zone).utcoffset() == offset:
                low = middle
            else:
                high = middle
        changes.append(high.replace(microsecond=0))
    return changes


def _aware(now: datetime) -> datetime:
    if now.tzinfo is None:
        raise ValueError("an instant carries its zone; this one is naive")
    return now
