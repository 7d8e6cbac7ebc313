"""How long it takes until the rest of a campaign has left: its speed, its window, its daily budget; pure.

Nobody knows what the network will do, so a forecast goes on as it went in the last minute. What is known is walked
through: the hours in which the window is open, on the days on which the clocks change too, and the recipients of a
budget, each of which makes room 24 hours after it was written to.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from disparo.windows import Window

#: The speed is measured over so long at most.
MEASURED_SECONDS = 60.0
#: So many answers tell a speed to within a few per cent.
TELLING = 200
#: Days that are walked through; what lasts longer goes on as in the last week of them.
WALKED_DAYS, WEEK_DAYS = 14, 7
DAY_SECONDS = 86_400.0
#: Recipients that were written to within so many seconds make room together.
STEP_SECONDS = 600.0
#: Of a message, since shares of a budget are fractions.
NOTHING = 1e-6


@dataclass(frozen=True, slots=True)
class Room:
    """A budget of recipients, every message that is left taken for a new one."""

    limit: int
    #: When those that count now will count no more, and how many; soonest first.
    releases: Sequence[tuple[datetime, int]]
    #: How long a recipient counts.
    counted_for: timedelta
    #: The part of the room that is not used by others, 0 to 1.
    share: float = 1.0


def speed(answers: Sequence[tuple[datetime, int]], now: datetime, expected: float) -> float:
    """Messages per second at which it goes on, in its open hours.

    What was measured; but the expected speed where few answers tell nothing against it, since that is exact while the
    rate is what limits: at 0.2/s a minute has 12 answers, give or take 3.

    Args:
      answers: Instants of the last minute, in order, and how many messages were answered at each.
      expected: What the settings allow, in messages per second.
    """
    if len(answers) < 2:
        return expected
    # Those of the first instant left before it.
    n = sum(n for _, n in answers[1:])
    seconds = max(0.001, (now - answers[0][0]).total_seconds())
    doubt = 2 * math.sqrt(n) + 2
    if n < TELLING and abs(n - expected * seconds) <= doubt:
        return expected
    return n / seconds


def seconds_left(
    left: float,
    rate: float,
    now: datetime,
    *,
    window: Window,
    zone: ZoneInfo,
    begins_at: datetime | None = None,
    room: Room | None = None,
) -> float | None:
    """Seconds from ``now`` until ``left`` messages have left; None when they never will.

    Args:
      rate: Messages per second while the window is open and the budget has room.
      begins_at: Nothing leaves before.
      room: The budget that they share; None: no limit.
    """
    if left <= 0:
        return 0.0
    if rate <= 0:
        return None
    # Differences within one zone would be those of a clock on the wall.
    now = now.astimezone(UTC)
    start = max(now, (begins_at or now).astimezone(UTC))
    budget = None if room is None else _Budget(room, now)
    at = (start - now).total_seconds()
    middle, last = at + (WALKED_DAYS - WEEK_DAYS) * DAY_SECONDS, at + WALKED_DAYS * DAY_SECONDS
    left_in_the_middle = left
    for opens, closes in window.open_spans(start, zone):
        at = max(at, (opens - now).total_seconds())
        end = math.inf if closes is None else (closes - now).total_seconds()
        while at < min(end, last):
            until = min(end, middle if at < middle else last)
            seconds = left / rate
            if budget is not None:
                free, until = budget.free(at, until)
                if not free:
                    at = until
                    continue
                seconds = min(seconds, free / rate, STEP_SECONDS)
            if seconds >= until - at:
                seconds, at = until - at, until
            else:
                at += seconds
            left -= rate * seconds
            if left < NOTHING:
                return at
            if budget is not None:
                budget.take(at, rate * seconds)
            if at <= middle:
                left_in_the_middle = left
        if at >= last:
            in_a_week = left_in_the_middle - left
            return last + WEEK_DAYS * DAY_SECONDS * left / in_a_week if in_a_week > 0 else None
    return None


class _Budget:
    """How much of a room is free as time goes on; second 0 is now."""

    def __init__(self, room: Room, now: datetime) -> None:
        self._counted_for = room.counted_for.total_seconds()
        self._free = room.share * (room.limit - sum(n for _, n in room.releases))
        #: When what is used comes back, and how much.
        self._used = deque(((at - now).total_seconds(), room.share * n) for at, n in room.releases)

    def free(self, at: float, until: float) -> tuple[float, float]:
        """What is free at a second; where that is nothing, the second at which to look again, ``until`` at the latest."""
        while self._used and self._used[0][0] <= at:
            self._free += self._used.popleft()[1]
        if self._free >= NOTHING:
            return self._free, until
        return 0.0, min(until, self._used[0][0]) if self._used else until

    def take(self, at: float, n: float) -> None:
        """Use ``n`` of it."""
        self._free -= n
        back_at = at + self._counted_for
        if self._used and back_at - self._used[-1][0] < STEP_SECONDS:
            back_at, together = self._used.pop()
            n += together
        self._used.append((back_at, n))
