"""The shared rate: who may send, and at which instants."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from disparo.statuses import Lane


@dataclass(frozen=True, slots=True)
class Ask:
    """Permits wanted for messages of one lane, all of one campaign where that has a cap of its own."""

    lane: Lane
    #: Messages about to be sent, 1 to 500.
    n: int
    #: Messages of the lane that wait here in all, these among them.
    waiting: int = 0
    campaign_id: int = 0
    #: The campaign's cap, in requests per second; None: no limit but the app's.
    max_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class Permits:
    """Instants at which to send, in whole microseconds of the limiter's clock."""

    #: That clock, when it was asked.
    now: int
    #: For each ask, in the order of the asks; ascending.
    instants: tuple[tuple[int, ...], ...]
    #: Seconds until it is worth asking again for an ask that got none; None where each got some.
    wait_seconds: float | None = None


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
        self,
        app_id: int,
        asks: Sequence[Ask],
        rate: float,
        horizon_seconds: float,
        *,
        lead_seconds: float = 0.0,
        everything: float | None = None,
        probe: bool = False,
    ) -> Permits | Wait | Stopped:
        """Reserve instants of an app within the horizon, or hand back the stop in force.

        No two reservations share an instant, and no second holds more of them than the rate. While a lane waits for
        the rate, the lanes behind it get a twentieth of it each.

        Args:
          app_id: Our id of the app.
          asks: The most urgent lane first.
          rate: Requests per second of the app.
          horizon_seconds: No instant lies further ahead than this.
          lead_seconds: None lies less far ahead.
          everything: Requests per second of all apps together; None: no limit but theirs.
          probe: It is to see whether the fault behind a stop is over, which does not hold it.

        Raises:
          RedisUnavailable: Nobody knows what was granted. Callers must not send.
        """
        ...

    def give_back(self, app_id: int, instants: Sequence[int], rate: float) -> None:
        """Let others have permits that will not be used; those whose instant has passed are lost.

        Raises:
          RedisUnavailable: They are lost.
        """
        ...
