"""What arrived and what was accepted: the count that a sender's own books are checked against."""

import hashlib
import struct
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import orjson

#: Arrivals whose bodies are kept for ``GET /messages``.
KEPT = 10_000
#: A longer body is counted but not kept: 10,000 of a megabyte would fill the machine.
LONGEST_KEPT_BODY = 65_536


class Arrival(NamedTuple):
    """One POST to the message path and what became of it."""

    number: int
    #: Seconds since 1970.
    at: float
    app: str
    #: Empty where the body did not tell.
    to: str
    authorization: str
    body: bytes
    #: ``accepted``, ``accepted, FAULT``, or the reason of the refusal.
    outcome: str
    #: HTTP status, 0 where none was sent.
    status: int
    #: The message's id, empty when refused.
    identity: str
    #: What is wrong with a refused body.
    details: str

    def shown(self) -> dict[str, Any]:
        """This arrival as JSON; the token is masked."""
        try:
            body = orjson.loads(self.body)
        except orjson.JSONDecodeError:
            body = None
        return {
            "number": self.number,
            "id": self.identity or None,
            "at": self.at,
            "app": self.app,
            "to": self.to or None,
            "authorization": {"present": bool(self.authorization), "masked": masked(self.authorization)},
            "body": body,
            "outcome": self.outcome,
            "status": self.status or None,
            "details": self.details or None,
        }


def masked(token: str) -> str:
    """``token`` as far as it may be shown: three characters of one that is long enough to stay secret."""
    return f"{token[:3]}***" if len(token) >= 16 else "***" if token else ""


class Window:
    """The most events in any sliding second; two events exactly a second apart are never in one."""

    __slots__ = ("_times", "most")

    def __init__(self) -> None:
        self._times: deque[float] = deque()
        self.most = 0

    def add(self, now: float) -> None:
        """Count an event at ``now``, in seconds of a clock that never goes back."""
        times = self._times
        times.append(now)
        begin = now - 1.0
        while times[0] <= begin:
            times.popleft()
        if len(times) > self.most:
            self.most = len(times)


class Tally:
    """Counts of one app, or of all of them."""

    __slots__ = ("accepted", "accepted_window", "arrivals", "arrivals_window", "refused", "repeated")

    def __init__(self) -> None:
        self.arrivals = 0
        self.accepted = 0
        self.repeated = 0
        self.refused = 0
        self.arrivals_window = Window()
        self.accepted_window = Window()

    def shown(self) -> dict[str, Any]:
        return {
            "arrivals": self.arrivals,
            "accepted": self.accepted,
            "distinct": self.accepted - self.repeated,
            "repeated": self.repeated,
            "worst_second": self.arrivals_window.most,
            "worst_second_accepted": self.accepted_window.most,
        }


class AcceptedLog:
    """Every accepted message in 56 bytes: when, which id, to whom, which content.

    Pages are copies, so that the log may grow while one is read.
    """

    _ENTRY = struct.Struct("<dQ16s16pII")
    _PAGE = 1000

    def __init__(self, name: Callable[[int], str]) -> None:
        """Begin a log; ``name`` gives the id of a message from its number."""
        self._name = name
        self._entries = bytearray()
        self._words: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._entries) // self._ENTRY.size

    def add(self, at: float, number: int, app: str, to: str, digest: bytes, outcome: str) -> None:
        words = self._words
        self._entries += self._ENTRY.pack(
            at,
            number,
            digest,
            to.encode(),
            words.setdefault(app, len(words)),
            words.setdefault(outcome, len(words)),
        )

    def pages(self) -> Iterator[bytes]:
        """All accepted by now as JSON lines of ``{id, at, app, to, digest, outcome}``, by the thousand."""
        end = len(self._entries)
        step = self._ENTRY.size * self._PAGE
        for begin in range(0, end, step):
            words = list(self._words)
            page = bytes(self._entries[begin : min(begin + step, end)])
            yield b"".join(
                orjson.dumps(
                    {
                        "id": self._name(number),
                        "at": at,
                        "app": words[app],
                        "to": to.decode(),
                        "digest": digest.hex(),
                        "outcome": words[outcome],
                    },
                    option=orjson.OPT_APPEND_NEWLINE,
                )
                for at, number, digest, to, app, outcome in self._ENTRY.iter_unpack(page)
            )


class Ledger:
    """All counts of a sandbox since its start or the last reset. Used by one thread."""

    def __init__(self, name: Callable[[int], str]) -> None:
        self._name = name
        self.open = 0
        self.reset()

    def reset(self) -> None:
        """Forget everything but the requests that are open now."""
        self._all = Tally()
        self._apps: dict[str, Tally] = {}
        self._reasons: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()
        self._statuses: Counter[str] = Counter()
        self._digests: set[bytes] = set()
        self._recent: deque[Arrival] = deque(maxlen=KEPT)
        self._first_at: float | None = None
        self._last_at: float | None = None
        self._open_most = self.open
        self.log = AcceptedLog(self._name)

    def opened(self) -> None:
        self.open += 1
        if self.open > self._open_most:
            self._open_most = self.open

    def closed(self) -> None:
        self.open -= 1

    def arrive(self, app: str, now: float) -> Tally:
        """Count an arrival at ``now`` (monotonic seconds) and hand back its app's tally."""
        self._last_at = time.time()
        if self._first_at is None:
            self._first_at = self._last_at
        tally = self._apps.get(app)
        if tally is None:
            tally = self._apps[app] = Tally()
        for each in (tally, self._all):
            each.arrivals += 1
            each.arrivals_window.add(now)
        return tally

    def meet(self, fault: str) -> None:
        """Count that the arrival just counted met ``fault``, whether it is accepted or refused."""
        self._faults[fault] += 1

    def accept(
        self,
        tally: Tally,
        now: float,
        app: str,
        to: str,
        authorization: str,
        body: bytes,
        message: object,
        number: int,
        identity: str,
        status: int,
        outcome: str,
    ) -> None:
        """Record that the arrival just counted was accepted as the ``number``-th message, ``identity``."""
        try:
            canonical = orjson.dumps(message, option=orjson.OPT_SORT_KEYS)
        except orjson.JSONEncodeError:  # Nested deeper than can be written: then as it came.
            canonical = body
        digest = hashlib.blake2b(
            b"%b\n%b\n%b" % (app.encode(), to.encode(), canonical), digest_size=16
        ).digest()
        repeated = digest in self._digests
        self._digests.add(digest)
        for each in (tally, self._all):
            each.accepted += 1
            each.repeated += repeated
            each.accepted_window.add(now)
        at = self._last_at or 0.0
        self.log.add(at, number, app, to, digest, outcome)
        self._keep(at, app, to, authorization, body, outcome, status, identity, "")

    def refuse(
        self,
        tally: Tally,
        app: str,
        to: str,
        authorization: str,
        body: bytes,
        status: int,
        reason: str,
        details: str,
    ) -> None:
        """Record that the arrival just counted was refused."""
        tally.refused += 1
        self._all.refused += 1
        self._reasons[reason] += 1
        self._statuses[str(status) if status else "none"] += 1
        self._keep(self._last_at or 0.0, app, to, authorization, body, reason, status, "", details)

    def _keep(
        self,
        at: float,
        app: str,
        to: str,
        authorization: str,
        body: bytes,
        outcome: str,
        status: int,
        identity: str,
        details: str,
    ) -> None:
        if len(body) > LONGEST_KEPT_BODY:
            body = b""
        self._recent.append(
            Arrival(self._all.arrivals, at, app, to, authorization, body, outcome, status, identity, details)
        )

    def stats(self) -> dict[str, Any]:
        """All counts as JSON; instants are seconds since 1970."""
        return {
            **self._all.shown(),
            "refused": {
                "total": self._all.refused,
                "by_status": dict(self._statuses),
                "by_reason": dict(self._reasons),
            },
            "faults": dict(self._faults),
            "open_requests": self.open,
            "open_requests_most": self._open_most,
            "by_app": {app: {**tally.shown(), "refused": tally.refused} for app, tally in self._apps.items()},
            "first_at": self._first_at,
            "last_at": self._last_at,
        }

    def messages(self, to: str | None, limit: int) -> list[dict[str, Any]]:
        """The last ``limit`` arrivals (of recipient ``to``), oldest first."""
        found: list[Arrival] = []
        for arrival in reversed(self._recent):
            if len(found) >= limit:
                break
            if to is None or arrival.to == to:
                found.append(arrival)
        return [arrival.shown() for arrival in reversed(found)]
