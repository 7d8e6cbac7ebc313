"""What this process claims: committed before it is sent, and together what is asked for at the same time."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime

from sqlalchemy.orm import Session

from disparo import batches, fence, log
from disparo.batches import Claimed, Job, Outcome
from disparo.errors import ConflictError
from disparo.statuses import Status
from worker.together import Together

#: A commit that was not answered may still take effect within this time.
DOUBT_SECONDS = 20.0

logger = log.get(__name__)


class Claims:
    """Claims rows for one process, and knows which of them are not recorded yet. Thread-safe."""

    def __init__(
        self,
        owner: str,
        session: Callable[[], AbstractContextManager[tuple[Session, datetime]]],
        mirror: fence.Mirror,
    ) -> None:
        self._owner, self._session, self._mirror = owner, session, mirror
        self._mutex = threading.Lock()
        self._claim_batch = Together(self._claim_batches)
        #: What this process claimed and has not recorded; the apps of which it is claiming rows just now; when it
        #: last may have claimed rows that it does not know of; and whether claims were committed since the epoch
        #: was last advanced.
        self._held: set[tuple[int, int]] = set()
        self._claiming: set[int] = set()
        self._doubt_at: float | None = None
        self._claimed = False

    def claim(self, job: Job, limit: int) -> list[Claimed]:
        """Claim rows of a job, committed; when that fails, nobody knows whether they are ours.

        An app claims one job at a time.
        """
        is_batch = job.batch_id is not None
        if is_batch and (rows := self._claim_batch((job, limit))) is not None:
            return rows
        # By themselves, since they may wait for the lock of a daily budget.
        (found,) = self._carry_out(
            [job],
            lambda session, now: [
                batches.claim(session, job, limit, self._owner, now, limited=is_batch),
            ],
        )
        return found or []

    def _claim_batches(self, asked: Sequence[tuple[Job, int]]) -> list[list[Claimed] | None]:
        return self._carry_out(
            [job for job, _ in asked],
            lambda session, now: batches.claim_batches(session, asked, self._owner, now),
        )

    def _carry_out(
        self, jobs: list[Job], claim: Callable[[Session, datetime], list[list[Claimed] | None]]
    ) -> list[list[Claimed] | None]:
        apps = {job.app_id for job in jobs}
        with self._mutex:
            self._claiming |= apps
        try:
            with self._session() as (session, now):
                found = claim(session, now)
                rows = [row for its_rows in found for row in its_rows or ()]
                fence.require(session, self._mirror)
                # With the first claim since the epoch last grew, so that the other processes of this home too
                # know a backup from before it, whose journals are not theirs.
                grown = fence.advance(session, fence.current(session)) if rows and not self._claimed else None
            if grown is not None:
                self._mirror.keep(fence.Look(grown, advanced=True))
            with self._mutex:
                self._held.update((row.id, row.claim) for row in rows)
                self._claimed = self._claimed or bool(rows)
        except ConflictError:
            # Rolled back for sure: the fence holds.
            raise
        except Exception:
            self._doubt_at = time.monotonic()
            raise
        finally:
            with self._mutex:
                self._claiming -= apps
        return found

    def recorded(self, claims: set[tuple[int, int]]) -> None:
        """Forget claims (message id, claim) whose outcomes are in the table."""
        with self._mutex:
            self._held -= claims

    def since_advance(self) -> bool:
        """Whether claims were committed since this was last asked."""
        with self._mutex:
            claimed, self._claimed = self._claimed, False
            return claimed

    def not_advanced(self) -> None:
        """What `since_advance` told is not covered by the epoch yet."""
        with self._mutex:
            self._claimed = True

    @property
    def in_doubt(self) -> bool:
        """Whether rows may be ours by the table that we never got."""
        return self._doubt_at is not None

    def put_back_unknown(self) -> None:
        """Put back rows that are ours by the table and that we never got.

        PostgreSQL may go away before it answers a commit, and finish it all the same, later too.
        """
        doubt_at = self._doubt_at
        if doubt_at is None:
            return
        asked_at = time.monotonic()
        with self._mutex:
            busy = set(self._claiming)
        with self._session() as (session, now):
            claimed = batches.claimed_by(session, self._owner)
            with self._mutex:
                # A claim that is being answered is not lost: its app is busy before or after our look.
                busy |= self._claiming
                lost = [
                    (id_, n)
                    for app_id, id_, n in claimed
                    if app_id not in busy and (id_, n) not in self._held
                ]
            n = batches.record(session, [Outcome(*claim, Status.PENDING) for claim in lost], now)
            # In a restored backup they are what was sending then: it was sent long ago.
            fence.require(session, self._mirror)
        if asked_at - doubt_at > DOUBT_SECONDS and self._doubt_at == doubt_at and not busy:
            self._doubt_at = None
        if n:
            logger.warning("unknown_claims_put_back", messages=n)
