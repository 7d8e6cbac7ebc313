"""What may not leave now, as this process sees it: a view of the stops that is never older than a second."""

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.orm import Session

from disparo import recovery
from disparo.batches import Claimed
from disparo.clock import boot_clock

#: How old the view of stops may be.
LOOK_SECONDS = 0.4
#: No request begins on an older view: the process may have been suspended, or PostgreSQL does not answer.
STALE_SECONDS = 1.0

#: Stops in force (of a whole app there may be several), and campaigns that do not run any more of which rows may
#: be claimed.
_STOPS = text("""
    SELECT app_id, scope, CASE scope WHEN 'app' THEN '' ELSE key END, code, probe_message_id
    FROM stops WHERE ended_at IS NULL
    UNION ALL
    SELECT id, 'campaign', '', '', NULL FROM campaigns
    WHERE state IN ('paused', 'scheduled') OR (state = 'cancelled' AND finished_at > :lately)""")

#: App, scope and key of a stop; the key of a whole app is empty.
Width = tuple[int, str, str]


@dataclass(frozen=True, slots=True)
class Probed:
    """A stop under which a message leaves as its probe."""

    scope: str
    key: str
    code: str


@dataclass(frozen=True, slots=True)
class Stops:
    """One look: the stops in force, and the campaigns that do not run."""

    #: With the messages that may leave all the same.
    held: Mapping[Width, frozenset[int]] = field(default_factory=dict)
    campaigns: frozenset[int] = frozenset()
    #: By message: the stops of which it is the probe.
    probes: Mapping[int, tuple[Probed, ...]] = field(default_factory=dict)

    def forbid(self, row: Claimed) -> bool:
        """Whether ``row`` may not be sent now."""
        if row.campaign_id in self.campaigns:
            return True
        if not self.held:
            return False
        return any(row.id not in self.held[width] for width in _widths(row) if width in self.held)


def _widths(row: Claimed) -> tuple[Width, Width, Width]:
    return (
        (row.app_id, "app", ""),
        (row.app_id, "lane", row.lane),
        (row.app_id, "template", row.template or ""),
    )


class View:
    """The last look at the stops, what tripped here since, and whether everything is held up for a moment.

    Thread-safe: looks are replaced whole.
    """

    def __init__(self, session: Callable[[], AbstractContextManager[tuple[Session, datetime]]]) -> None:
        self._session = session
        self._stops = Stops()
        #: What tripped in this process, and when: in force before the table says so.
        self._tripped: dict[Width, float] = {}
        #: When the look was taken, by the boot clock; and which thread takes one that is missing.
        self._looked_at = -STALE_SECONDS
        self._looking = threading.Lock()
        self._held_up_until = 0.0
        #: By app: until when nothing more of it leaves from here, what has its permit already included.
        self._cool_until: dict[int, float] = {}

    def look(self) -> None:
        """Look at the tables.

        Raises:
          DatabaseUnavailable: PostgreSQL does not answer.
        """
        looked, looked_at = time.monotonic(), boot_clock()
        with self._session() as (session, now):
            found = session.execute(_STOPS, {"lately": now - recovery.LEASE}).all()
        held: dict[Width, frozenset[int]] = {}
        probes: dict[int, tuple[Probed, ...]] = {}
        for app_id, scope, key, code, probe in found:
            if scope == "campaign":
                continue
            own = frozenset() if probe is None else frozenset({probe})
            width = (app_id, scope, key)
            held[width] = held[width] & own if width in held else own
            if probe is not None:
                probes[probe] = (*probes.get(probe, ()), Probed(scope, key, code))
        campaigns = frozenset(id_ for id_, scope, *_ in found if scope == "campaign")
        self._stops, self._looked_at = Stops(held, campaigns, probes), looked_at
        # The table holds them from here on, and tells of a resume.
        # A copy, because another thread may just be adding one.
        self._tripped = {width: at for width, at in list(self._tripped.items()) if at > looked - LOOK_SECONDS}

    def see(self) -> None:
        """Take a new look where the last one is too old to send by.

        Raises:
          DatabaseUnavailable: PostgreSQL does not answer, so nobody knows what may leave.
        """
        if boot_clock() - self._looked_at <= STALE_SECONDS:
            return
        with self._looking:
            # Another thread has just done it, or has just failed: then the others do not wait for that too.
            if boot_clock() - self._looked_at <= STALE_SECONDS or self.is_held_up():
                return
            try:
                self.look()
            except Exception:
                self.hold_up(STALE_SECONDS)
                raise

    def forbids(self, row: Claimed) -> bool:
        """Whether ``row`` may not be sent now."""
        if self.is_held_up() or self._stops.forbid(row):
            return True
        tripped = self._tripped
        if tripped and any(width in tripped for width in _widths(row)):
            return True
        # A probe is one request, and somebody waits for its answer.
        return time.monotonic() < self._cool_until.get(row.app_id, 0.0) and not self.probed(row)

    def probed(self, row: Claimed) -> tuple[Probed, ...]:
        """The stops of which ``row`` is the probe."""
        return self._stops.probes.get(row.id, ())

    def trip(self, width: Width) -> None:
        """Hold at once what the table will say in a moment."""
        self._tripped[width] = time.monotonic()

    def untrip(self, width: Width) -> None:
        """The table does not say it."""
        self._tripped.pop(width, None)

    def cool(self, app_id: int, seconds: float) -> None:
        """Let nothing of an app leave for so long, not even what was granted before the provider asked for it."""
        self._cool_until[app_id] = max(self._cool_until.get(app_id, 0.0), time.monotonic() + seconds)

    def hold_up(self, seconds: float) -> None:
        """Let nothing leave for a moment: the journal cannot be written, or no stop be seen."""
        self._held_up_until = time.monotonic() + seconds

    def is_held_up(self) -> bool:
        """Whether nothing may leave for a moment."""
        return time.monotonic() < self._held_up_until
