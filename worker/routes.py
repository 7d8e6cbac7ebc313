"""Where the messages of each app go, and at which rate."""

import threading
import time
from dataclasses import dataclass

from sqlalchemy import text

from disparo import tuning
from disparo.connections import Connections
from disparo.gupshup.client import endpoint

#: How old a route may be; a change is also announced, so that it acts within a second either way.
FRESH_SECONDS = 0.9
#: Apps that were asked for within this time are read together.
AT_WORK_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Route:
    """Where the messages of an app go."""

    app_id: int
    name: str
    url: str
    #: Requests per second: what the operator allows, or less where less was found to be borne.
    rate: float
    #: Requests per second of all apps together; None: no limit but theirs.
    everything: float | None
    #: Seconds between two messages to one recipient (0: not paced), and how many may borrow from the time ahead.
    pair_seconds: float
    pair_burst: int
    #: Whether the rate that is borne is looked for, and the epoch of the one in force (`disparo.tuning`).
    tuning: bool
    tuning_epoch: int
    #: Grows with each resume: a request of an older one stops nothing.
    epoch: int
    read_at: float


class Routes:
    """The routes of the apps at work here, read anew about once a second, all at once. Thread-safe."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._known: dict[int, Route] = {}
        #: App id → when it was last asked for.
        self._asked: dict[int, float] = {}
        self._reading = threading.Lock()

    def get(self, app_id: int) -> Route:
        """The route of an app, at most `FRESH_SECONDS` old."""
        if (route := self._fresh(app_id)) is not None:
            return route
        with self._reading:
            # Another app may just have had all of them read.
            if (route := self._fresh(app_id)) is None:
                route = self._read(app_id)
            return route

    def _fresh(self, app_id: int) -> Route | None:
        now = time.monotonic()
        self._asked[app_id] = now
        route = self._known.get(app_id)
        return route if route is not None and now - route.read_at < FRESH_SECONDS else None

    def _read(self, app_id: int) -> Route:
        # Before the look: what is announced in between makes it old.
        read_at, known = time.monotonic(), self._known
        asked = [one for one, at in self._asked.copy().items() if read_at - at < AT_WORK_SECONDS]
        with self._connections.session() as session:
            rows = session.execute(
                text(f"""
                    SELECT id, name, gs_app_id, base_url, epoch, pair_seconds, pair_burst,
                        tuning, coalesce(CAST(tuning_state ->> 'epoch' AS integer), 0) AS tuning_epoch,
                        {tuning.EFFECTIVE_RATE} AS rate,
                        (SELECT max_per_second FROM installation) AS everything
                    FROM apps a WHERE id = ANY(:ids)"""),
                {"ids": asked},
            ).all()
        for row in rows:
            url = endpoint(row.base_url or self._connections.settings.base_url, row.gs_app_id)
            known[row.id] = Route(
                row.id,
                row.name,
                url,
                row.rate,
                row.everything,
                row.pair_seconds,
                row.pair_burst,
                row.tuning,
                row.tuning_epoch,
                row.epoch,
                read_at,
            )
        return known[app_id]

    def forget(self) -> None:
        """Read the routes anew when they are next asked for."""
        # What is being read just now stays with the old ones.
        self._known = {}
