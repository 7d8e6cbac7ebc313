"""Turns of recipients: what is claimed and would reach somebody too soon goes back to wait for its turn."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from disparo import db, messages
from disparo.batches import Claimed, Outcome
from disparo.connections import Connections
from disparo.errors import RedisUnavailable
from disparo.ratelimit.pairs import Look, Sent, Turn
from disparo.statuses import Lane, Status
from disparo.whatsapp.codes import PAIR_PACING, Rule
from worker.routes import Route

#: A row whose turn it is leaves within this: no permit is further ahead, none later is used, and requests that
#: leave one after the other may arrive a little closer to each other.
AHEAD_SECONDS = 0.75


class Pairs:
    """Lets the claimed rows pass whose recipient's turn it is, and has the others wait. Thread-safe."""

    def __init__(
        self,
        connections: Connections,
        record: Callable[[Outcome], object],
        tell: Callable[[str, Exception | str], None],
    ) -> None:
        """Rows that wait are handed to ``record``."""
        self._connections, self._record, self._tell = connections, record, tell

    def fill(self, route: Route, limit: int, claim: Callable[[int], list[Claimed]]) -> list[Claimed]:
        """Claim until ``limit`` rows may leave or nothing is left: fewer than ``limit`` mean that nothing is.

        Args:
          claim: Claims up to so many rows, committed; fewer mean that nothing is left.
        """
        going: list[Claimed] = []
        try:
            while len(going) < limit:
                asked = limit - len(going)
                rows = claim(asked)
                going += self.admit(rows, route)
                if len(rows) < asked:
                    break
        except BaseException:
            self._put_back(going)
            raise
        return going

    def admit(self, rows: list[Claimed], route: Route) -> list[Claimed]:
        """Those of the claimed rows that may leave now; the others are recorded as pending, due at their turn.

        A row that was admitted and has not left is admitted again.

        Raises:
          RedisUnavailable: All of them are put back.
          DatabaseUnavailable: The same.
        """
        if not rows or route.pair_seconds <= 0:
            return rows
        try:
            waits = self._waits(rows, route)
        except BaseException:
            self._put_back(rows)
            raise
        if not waits:
            return rows
        reason = f"waits for its recipient's turn: one message every {route.pair_seconds:g} s"
        for n, seconds in waits.items():
            row = rows[n]
            self._record(
                Outcome(
                    row.id,
                    row.claim,
                    Status.PENDING,
                    code=PAIR_PACING,
                    reason=reason,
                    delay_seconds=max(0.001, seconds),
                )
            )
        return [row for n, row in enumerate(rows) if n not in waits]

    def _waits(self, rows: list[Claimed], route: Route) -> dict[int, float]:
        turns = [_turn(row) for row in rows]
        found: dict[int, float] | Look = Look(0.0)
        sent: Mapping[str, Sent] | None = None
        while isinstance(found, Look):
            found = self._connections.pairs.take(
                route.app_id,
                turns,
                seconds=route.pair_seconds,
                burst=route.pair_burst,
                ahead_seconds=AHEAD_SECONDS,
                sent=sent,
            )
            if isinstance(found, Look):
                sent = self._sent(rows, route, found.seconds)
        return found

    def _sent(self, rows: list[Claimed], route: Route, seconds: float) -> Mapping[str, Sent]:
        """What the tables say was sent lately to the recipients of ``rows``, by others than these."""
        keys, ids = list({row.recipient_key for row in rows}), [row.id for row in rows]
        with self._connections.session() as session:
            now = db.now(session)
            found = messages.sent_lately(
                session, route.app_id, keys, ids, now - timedelta(seconds=seconds), now
            )
        return {key: Sent(n, _seconds(now, last)) for key, (n, last) in found.items()}

    def refused(self, row: Claimed, route: Route, rule: Rule) -> None:
        """Have everything to the recipient of ``row`` wait, longer with each refusal in a row."""
        if route.pair_seconds <= 0:
            return
        try:
            self._connections.pairs.refused(
                row.app_id,
                _turn(row),
                seconds=route.pair_seconds,
                first_seconds=rule.base_seconds,
                factor=rule.factor,
                longest_seconds=rule.cap_seconds,
            )
        except RedisUnavailable as err:
            self._tell("redis_unavailable", err)

    def _put_back(self, rows: list[Claimed]) -> None:
        for row in rows:
            self._record(Outcome(row.id, row.claim, Status.PENDING))


def _turn(row: Claimed) -> Turn:
    return Turn(row.recipient_key, row.id, row.tries, Lane(row.lane).rank)


def _seconds(now: datetime, then: datetime) -> float:
    return (now - then).total_seconds()
