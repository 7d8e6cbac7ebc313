"""The shared rate of an app: who may send, and at which instant."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Permits:
    """``n`` instants at which to send: the first in ``wait_seconds``, each next ``interval_seconds`` later."""

    n: int
    wait_seconds: float
    interval_seconds: float


@dataclass(frozen=True, slots=True)
class Wait:
    """No permit is free yet; ask again in ``seconds``."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Stopped:
    """The app may not send."""

    reason: str


class RateLimiter(Protocol):
    """Hands out the permits of apps, over all workers."""

    def acquire(
        self, app_id: int, permits: int, rate: float, horizon_seconds: float, *, probe: bool = False
    ) -> Permits | Wait | Stopped:
        """Reserve up to ``permits`` instants of an app within the horizon, or hand back the stop in force.

        No two reservations share an instant.

        Args:
          app_id: Our id of the app.
          permits: Messages about to be sent, 1 to 500.
          rate: Requests per second of the app.
          horizon_seconds: No instant lies further ahead than this.
          probe: It is to see whether the fault behind a stop is over, which does not hold it.

        Raises:
          RedisUnavailable: Nobody knows what was granted. Callers must not send.
        """
        ...
