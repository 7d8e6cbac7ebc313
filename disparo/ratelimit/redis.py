"""The rate limiter that all workers share: one script call for several permits, timed by the Redis clock."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Event

from redis import BlockingConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from disparo.errors import RedisUnavailable
from disparo.ratelimit import Ask, Permits, Stopped, Wait

_SCRIPT = (Path(__file__).parent / "permits.lua").read_text(encoding="utf-8")
_COOL_DOWN = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local till = now + tonumber(ARGV[1])
local cool = redis.call('GET', KEYS[1])
if cool then
  local longest, seen = string.match(cool, '(%d+) (%d+)')
  -- As in permits.lua: what is left of the one in force, also when the clock was set back since.
  till = math.max(till, longest - math.max(0, seen - now))
end
redis.call('SET', KEYS[1], string.format('%.0f %.0f', till, now))
"""
#: Present while Redis still holds what Disparo put there; missing once it was emptied.
_EPOCH = "disparo:epoch"
#: The channel of `announce`.
_CHANGED = "disparo:changed"
#: The next free instant of all apps together, and those that wait for it.
_EVERYTHING = ("disparo:everything", "disparo:waiting")
_SECOND = 1_000_000


def connect(redis_url: str, *, max_connections: int = 16) -> Redis:
    """A client with bounded connections and waits; nothing is opened yet."""
    # Threads beyond the connections wait for one: a full pool is no Redis that does not answer.
    pool = BlockingConnectionPool.from_url(
        redis_url,
        max_connections=max_connections,
        timeout=5,
        socket_timeout=5,
        socket_connect_timeout=5,
        health_check_interval=10,
        # A permit call that is repeated would reserve twice; the caller asks again by itself.
        retry=Retry(NoBackoff(), 0),
    )
    return Redis.from_pool(pool)


class RedisRateLimiter:
    """`disparo.ratelimit.RateLimiter` on Redis, and the stops that its permit call hands out.

    What was granted and is neither used nor given back is lost; nothing is granted twice. After Redis was emptied it
    grants nothing for one horizon.
    """

    def __init__(self, client: Redis) -> None:
        self.client = self._redis = client
        self._script = client.register_script(_SCRIPT)
        self._cool_down = client.register_script(_COOL_DOWN)

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
        """See `disparo.ratelimit.RateLimiter.acquire`."""
        interval = _interval(rate)
        keys = [_key(app_id, name) for name in ("free", "stop", "cool")]
        of_everything = _interval(everything)
        # With another limit what was passed over would not keep its distance from what comes after it.
        keys += [
            _returned(app_id, interval),
            _key(app_id, "lanes"),
            *_EVERYTHING,
            f"disparo:gaps:{of_everything}",
        ]
        args = [interval, round(horizon_seconds * _SECOND), int(probe), of_everything]
        args.append(round(lead_seconds * _SECOND))
        for ask in asks:
            keys += [f"disparo:campaign:{ask.campaign_id}:{name}" for name in ("due", "last")]
            args += [ask.lane.rank + 1, ask.n, max(ask.n, ask.waiting), _interval(ask.max_per_second)]
        try:
            kind, now, told, *got = self._script(keys=keys, args=args)
        except RedisError as err:
            raise unavailable(err) from err
        if kind == 2:
            return Stopped(told.decode())
        if kind == 1:
            return Wait(max(0.001, told / _SECOND))
        instants = tuple(tuple(now + ahead for ahead in one) for one in got)
        return Permits(now, instants, max(0.001, told / _SECOND) if told else None)

    def give_back(self, app_id: int, instants: Sequence[int], rate: float) -> None:
        """See `disparo.ratelimit.RateLimiter.give_back`."""
        if not instants:
            return
        key = _returned(app_id, _interval(rate))
        try:
            with self._redis.pipeline(transaction=True) as pipe:
                pipe.zadd(key, {str(instant): instant for instant in instants})
                # By then all of them have passed.
                pipe.pexpire(key, 2_000)
                pipe.execute()
        except RedisError as err:
            raise unavailable(err) from err

    def stop(self, app_id: int, reason: str) -> None:
        """Hand ``reason`` to every worker that asks for permits of the app from now on."""
        self._do("set", _key(app_id, "stop"), reason)

    def resume(self, app_id: int) -> None:
        """Grant permits of the app again."""
        self._do("delete", _key(app_id, "stop"))

    def publish_stops(self, reasons: Mapping[int, str | None]) -> None:
        """Make Redis say what the table says: the reason of each app's stop, or None where it may send."""
        if not reasons:
            return
        try:
            with self._redis.pipeline(transaction=False) as pipe:
                for app_id, reason in reasons.items():
                    if reason is None:
                        pipe.delete(_key(app_id, "stop"))
                    else:
                        pipe.set(_key(app_id, "stop"), reason)
                pipe.execute()
        except RedisError as err:
            raise unavailable(err) from err

    def cool_down(self, app_id: int, seconds: float) -> None:
        """Grant no permit of the app before ``seconds`` from now."""
        try:
            self._cool_down(keys=[_key(app_id, "cool")], args=[round(seconds * 1_000_000)])
        except RedisError as err:
            raise unavailable(err) from err

    def announce(self) -> None:
        """Have every worker look at the tables at once: something may not leave any more, or may again."""
        self._do("publish", _CHANGED, "")

    def listen(self, changed: Callable[[], None], until: Event) -> None:
        """Call ``changed`` at each `announce`, in this thread, until the event is set.

        What was announced while Redis did not answer is lost, so ``changed`` is also called when it answers again.
        """
        while not until.is_set():
            try:
                with self._redis.pubsub(ignore_subscribe_messages=True) as heard:  # type: ignore[no-untyped-call]
                    heard.subscribe(_CHANGED)
                    changed()
                    while not until.is_set():
                        if heard.get_message(timeout=1.0) is not None:
                            changed()
            except RedisError:
                until.wait(1.0)

    def was_emptied(self) -> bool:
        """Whether Redis has lost what Disparo put there; `mark` ends that."""
        return not self._do("exists", _EPOCH)

    def mark(self) -> None:
        """What was lost has been given out again."""
        self._do("set", _EPOCH, "1")

    def _do(self, command: str, *args: object, **options: object) -> object:
        try:
            return getattr(self._redis, command)(*args, **options)
        except RedisError as err:
            raise unavailable(err) from err


def unavailable(err: Exception) -> RedisUnavailable:
    """The sentence for a Redis that does not answer."""
    return RedisUnavailable(
        f"Redis does not answer ({type(err).__name__}). Check DISPARO_REDIS_URL and that the server runs"
    )


def _key(app_id: int, what: str) -> str:
    return f"disparo:app:{app_id}:{what}"


def _interval(rate: float | None) -> int:
    """Whole microseconds between two permits, rounded up: never more of them than the rate; 0 for no limit."""
    return 0 if rate is None else math.ceil(_SECOND / rate)


def _returned(app_id: int, interval: int) -> str:
    # With another rate they would not keep their distance from the permits beside them.
    return _key(app_id, f"returned:{interval}")
