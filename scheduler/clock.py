"""Beat's clock: Celery's in-memory scheduler, that tells of an absent Redis in a sentence."""

import time
from typing import Any

from celery.beat import ScheduleEntry, Scheduler, SchedulingError

from disparo import log

TOLD_EVERY_SECONDS = 5.0

logger = log.get(__name__)


class Clock(Scheduler):  # type: ignore[misc]  # Celery has no types
    """Names what is due; a tick that Redis does not take is dropped, the next one looks again."""

    _told_at = -TOLD_EVERY_SECONDS

    def apply_entry(self, entry: ScheduleEntry, producer: Any = None) -> None:
        """Enqueue a tick. Celery's own writes two tracebacks for each one that fails, several a second."""
        try:
            self.apply_async(entry, producer=producer, advance=False)
        except SchedulingError as err:
            now = time.monotonic()
            if now - self._told_at >= TOLD_EVERY_SECONDS:
                self._told_at = now
                logger.warning("tick_not_enqueued", tick=entry.name, error=" ".join(str(err).split())[:300])
