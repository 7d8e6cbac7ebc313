"""The turns of recipients that all workers share: one script call for all rows of a claim, by the Redis clock."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from disparo.ratelimit.redis import unavailable

_SCRIPT = (Path(__file__).parent / "pair.lua").read_text(encoding="utf-8")
#: The line of a recipient is spaced wider than its turns by the time that a message may come back late, so that the
#: next one does not come too early for that.
_LATE_SECONDS = 1.0
#: A turn is kept for who is first in the line for so long: it is released within a second, and then waits behind the
#: about two seconds of work that are in the queue.
_GRACE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Turn:
    """One row that asks for its recipient's turn."""

    recipient_key: str
    message_id: int
    #: With the same number it has not left since it last asked, and keeps the turn that it was given.
    tries: int
    #: 0 for what leaves first, to 9.
    lane: int


@dataclass(frozen=True, slots=True)
class Sent:
    """What was sent to a recipient lately: how many messages, the last one so many seconds ago."""

    n: int
    seconds_ago: float


@dataclass(frozen=True, slots=True)
class Look:
    """Redis was emptied or is new: look up what was sent within the last ``seconds``, and ask again with that."""

    seconds: float


class Pairs:
    """The turns of each pair of an app and a recipient, in Redis.

    No two rows are let go to one recipient within the seconds that the app asks for, whichever workers ask; of a
    burst, as many turns are over before the next one. A turn that is taken and not used is lost.
    """

    def __init__(self, client: Redis) -> None:
        self._script = client.register_script(_SCRIPT)

    def take(
        self,
        app_id: int,
        turns: Sequence[Turn],
        *,
        seconds: float,
        burst: int,
        ahead_seconds: float,
        sent: Mapping[str, Sent] | None = None,
    ) -> dict[int, float] | Look:
        """Take the turns of rows that are about to leave; those of the others that have to wait.

        A row that waits stands in its recipient's line, by lane and then by id, and should ask again when its wait is
        over. None has to: it is passed when it does not come.

        Args:
          turns: 1 to 500.
          seconds: From one message to the next; above 0.
          burst: Messages within ``seconds`` that may borrow from the time ahead.
          ahead_seconds: A row that is let go has left by then.
          sent: By recipient: what the tables say was sent within the time of a `Look`.

        Returns:
          Index of each row that has to wait → seconds; or a `Look`, and no turn is taken.

        Raises:
          RedisUnavailable: Nobody knows what was sent. Callers must not send.
        """
        names = [_name(one) for one in turns]
        before = []
        if sent is not None:
            found = (sent.get(one.recipient_key) for one in turns)
            before = [f"{_micro(max(0.0, one.seconds_ago))} {one.n}" if one else "" for one in found]
        every = _micro(seconds)
        spacing = every + _micro(min(_LATE_SECONDS, seconds / 4))
        arguments: list[str | int] = [
            "take",
            every,
            burst,
            _micro(ahead_seconds),
            spacing,
            _micro(min(_GRACE_SECONDS, 5 * seconds)),
            int(sent is not None),
        ]
        try:
            kind, *answer = self._script(
                keys=[_known(app_id), *(_key(app_id, one.recipient_key) for one in turns)],
                args=[*arguments, *names, *before],
            )
        except RedisError as err:
            raise unavailable(err) from err
        if kind == 1:
            return Look(int(answer[0]) / 1_000_000)
        rows, waits = answer[::2], answer[1::2]
        return {row - 1: int(wait) / 1_000_000 for row, wait in zip(rows, waits, strict=True)}

    def refused(
        self,
        app_id: int,
        turn: Turn,
        *,
        seconds: float,
        first_seconds: float,
        factor: float,
        longest_seconds: float,
    ) -> float:
        """Let nothing leave to a recipient for a while, because the provider said of a row that it gets too much.

        The row stands in the line again.

        With a factor of 4: 1, 4, 16, 64 seconds after one, two, three, four refusals in a row; what was under way
        together is one. A message that is not refused ends the row.

        Returns:
          The wait in seconds.

        Raises:
          RedisUnavailable: The others do not wait.
        """
        arguments: list[str | int] = [
            "refused",
            _micro(seconds),
            _micro(first_seconds),
            repr(factor),
            _micro(longest_seconds),
            _name(turn),
        ]
        try:
            keys = [_known(app_id), _key(app_id, turn.recipient_key)]
            return int(self._script(keys=keys, args=arguments)) / 1_000_000
        except RedisError as err:
            raise unavailable(err) from err


def _name(turn: Turn) -> str:
    return f"{turn.message_id}.{turn.tries}.{turn.lane}"


def _micro(seconds: float) -> int:
    return round(seconds * 1_000_000)


def _known(app_id: int) -> str:
    return f"disparo:app:{app_id}:pairs"


def _key(app_id: int, recipient_key: str) -> str:
    # No phone number stands in Redis.
    return f"disparo:app:{app_id}:pair:{hashlib.blake2b(recipient_key.encode(), digest_size=8).hexdigest()}"
