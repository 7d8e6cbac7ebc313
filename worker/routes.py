"""Where the messages of each app go, and at which rate."""

import time
from dataclasses import dataclass

from sqlalchemy import text

from disparo import tuning
from disparo.connections import Connections
from disparo.gupshup.client import endpoint

#: How old a route may be; a change is also announced, so that it acts within a second either way.
FRESH_SECONDS = 0.9


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
    """The routes of all apps, read anew every few seconds. Thread-safe."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._known: dict[int, Route] = {}

    def get(self, app_id: int) -> Route:
        """The route of an app, at most `FRESH_SECONDS` old."""
        known = self._known.get(app_id)
        if known is not None and time.monotonic() - known.read_at < FRESH_SECONDS:
            return known
        # Before the look: what is announced in between makes it old.
        read_at = time.monotonic()
        with self._connections.session() as session:
            row = session.execute(
                text(f"""
                    SELECT name, gs_app_id, base_url, epoch, pair_seconds, pair_burst,
                        tuning, coalesce(CAST(tuning_state ->> 'epoch' AS integer), 0) AS tuning_epoch,
                        {tuning.EFFECTIVE_RATE} AS rate,
                        (SELECT max_per_second FROM installation) AS everything
                    FROM apps a WHERE id = :id"""),
                {"id": app_id},
            ).one()
        url = endpoint(row.base_url or self._connections.settings.base_url, row.gs_app_id)
        route = self._known[app_id] = Route(
            app_id,
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
        return route

    def forget(self, app_id: int | None = None) -> None:
        """Read an app's route anew (None: all of them) when it is next asked for."""
        if app_id is None:
            self._known.clear()
        else:
            self._known.pop(app_id, None)
