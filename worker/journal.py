"""What this process has started and what it was answered, in files under a lock.

A line is written, unbuffered, before the socket is opened and another one after the answer. The page cache
keeps them when the process is killed (not when the host loses power: then the lease sweep makes what was
claimed unknown). Who gets the lock of a dead owner's journal may say what became of its rows. It holds ids,
never phones or codes.
"""

import fcntl
import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from errno import EEXIST
from pathlib import Path
from typing import Any, get_type_hints

from disparo.batches import Outcome
from disparo.recovery import NO_ANSWER_RECORDED
from disparo.statuses import Status, Verdict

#: A new file is begun past this, so that what was recorded can be deleted.
SEGMENT_BYTES = 4 * 1024 * 1024
_NAME = re.compile(r"(?P<owner>[\w.-]+)\.lock")
#: What of an outcome is kept, with its type; not the provider's id of the recipient, which is a phone.
_KINDS = {
    name: kind | int if kind is float else kind
    for name, kind in get_type_hints(Outcome).items()
    if name != "wa_id"
}
_FIELDS = tuple(_KINDS)
#: What an attempt can come to.
_ENDS = (Status.ACCEPTED, Status.FAILED, Status.UNKNOWN, Status.PENDING)
_SEGMENT = re.compile(r"(?P<owner>[\w.-]+)\.(?P<n>[0-9]+)\.journal")


class JournalFull(Exception):
    """The journal cannot be written, so nothing may be sent: the message was not started."""


@dataclass(slots=True)
class _Segment:
    path: Path
    descriptor: int
    size: int = 0
    #: Its last line may be torn, so that the next one begins with a line break.
    torn: bool = False
    #: Requests whose start stands here and whose outcome is not in the database yet.
    open: int = 0


class Journal:
    """The journal of one living process; safe to use from its threads."""

    def __init__(self, folder: Path, owner: str) -> None:
        """Take the name ``owner`` in ``folder``, which is made if need be.

        Raises:
          OSError: The folder cannot be written.
          FileExistsError: Another process has or had that name.
        """
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.owner, self._folder = owner, folder
        self._mutex = threading.Lock()
        self._number = 0
        self._closed = False
        self._where: dict[tuple[int, int], _Segment] = {}
        # The lock file appears under its name only when it is locked: one that could be had for a moment
        # would be taken for a dead process's and deleted.
        lock, coming = folder / f"{owner}.lock", folder / f".{owner}.coming"
        if lock.exists():
            raise FileExistsError(EEXIST, f"another process has or had the name {owner}", str(lock))
        self._lock = os.open(coming, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(self._lock, _boot().encode())
            self._segment = self._new_segment()
            coming.rename(lock)
        except OSError:
            coming.unlink(missing_ok=True)
            os.close(self._lock)
            raise

    def start(self, message_id: int, claim: int) -> None:
        """Write down that a request is about to begin.

        Raises:
          JournalFull: It could not be written; the request must not begin.
        """
        line = b"S %d %d\n" % (message_id, claim)
        with self._mutex:
            segment = self._segment
            if segment.size > SEGMENT_BYTES and not self._closed:
                segment = self._segment = self._rotated()
            self._write(segment, line)
            segment.open += 1
            self._where[message_id, claim] = segment

    def answer(self, outcome: Outcome) -> None:
        """Write down what a started request came to.

        Raises:
          JournalFull: It could not be written; the outcome is still to be recorded.
        """
        # Escaped to ASCII, for whatever the provider's words hold.
        line = b"A %s\n" % json.dumps(_kept(outcome)).encode()
        with self._mutex:
            # Beside its start, so that both are deleted together.
            self._write(self._where.get((outcome.message_id, outcome.claim), self._segment), line)

    def recorded(self, outcomes: list[Outcome]) -> None:
        """Forget requests whose outcomes are in the database; files that hold nothing else are deleted."""
        with self._mutex:
            if self._closed:
                return
            for outcome in outcomes:
                segment = self._where.pop((outcome.message_id, outcome.claim), None)
                if segment is None:
                    continue
                segment.open -= 1
                if segment.open == 0 and segment is not self._segment:
                    _drop(segment)
            if self._segment.open == 0 and self._segment.size > SEGMENT_BYTES:
                os.ftruncate(self._segment.descriptor, 0)
                self._segment.size = 0

    def close(self, *, all_recorded: bool = True) -> None:
        """Give the name up; what is still open stays for whoever adopts it.

        Args:
          all_recorded: Every row that this process claimed has its outcome in the database. Otherwise the
            journal stays, because who adopts it returns those that were never started.
        """
        with self._mutex:
            if self._closed:
                return
            self._closed = True
            for segment in {id(one): one for one in (self._segment, *self._where.values())}.values():
                os.close(segment.descriptor)
            if all_recorded and not self._where:
                for path in _segments(self._folder, self.owner):
                    path.unlink(missing_ok=True)
                (self._folder / f"{self.owner}.lock").unlink(missing_ok=True)
            os.close(self._lock)

    def _write(self, segment: _Segment, line: bytes) -> None:
        if self._closed:
            # Its descriptors may be another file's by now.
            raise JournalFull(f"the journal {segment.path} is closed")
        if segment.torn:
            line = b"\n" + line
        try:
            written = os.write(segment.descriptor, line)
        except OSError as err:
            raise JournalFull(f"the journal {segment.path} cannot be written: {err.strerror}") from err
        if written != len(line):
            # What was torn off would spoil the next line, and with it a start that must not be missed.
            try:
                os.ftruncate(segment.descriptor, segment.size)
            except OSError:
                segment.torn = True
            raise JournalFull(f"the journal {segment.path} cannot be written: no space left")
        segment.size += written
        segment.torn = False

    def _rotated(self) -> _Segment:
        old = self._segment
        try:
            new = self._new_segment()
        except OSError as err:
            raise JournalFull(f"no journal can be begun in {self._folder}: {err.strerror}") from err
        if old.open == 0:
            _drop(old)
        return new

    def _new_segment(self) -> _Segment:
        self._number += 1
        # Somebody may have deleted it under us.
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._folder / f"{self.owner}.{self._number}.journal"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        return _Segment(path, os.open(path, flags, 0o600))


@dataclass(slots=True)
class DeadJournal:
    """The journal of a dead process, under its lock while `dead` is at it."""

    owner: str
    #: message id → last claim whose request was started.
    started: dict[int, int]
    answers: list[Outcome]
    #: Nothing that was written can be missing: the machine runs since then. After a power cut the last lines
    #: may not have reached the disk.
    whole: bool
    _folder: Path

    def settled(self) -> None:
        """Everything in it is in the database: delete it."""
        for path in _segments(self._folder, self.owner):
            path.unlink(missing_ok=True)
        (self._folder / f"{self.owner}.lock").unlink(missing_ok=True)


def dead(folder: Path) -> Iterator[DeadJournal]:
    """The journals in ``folder`` whose owners are dead, one at a time, each under its lock."""
    if not folder.is_dir():
        return
    for path in sorted(folder.glob("*.lock")):
        match = _NAME.fullmatch(path.name)
        if match is None:
            continue
        try:
            lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another process may have settled and deleted it between our open and our lock.
            same = path.exists() and os.fstat(lock).st_ino == path.stat().st_ino
        except (BlockingIOError, FileNotFoundError):
            same = False
        if not same:
            os.close(lock)
            continue
        try:
            whole = os.read(lock, 100).decode("ascii", "replace") == _boot() != ""
            yield DeadJournal(match["owner"], *_read(folder, match["owner"]), whole, folder)
        finally:
            os.close(lock)


def _boot() -> str:
    """What names this run of the machine; the same in each container on it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        command = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
    try:
        # macOS.
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603
    except OSError:
        # Neither: no journal is taken for whole.
        return ""


def _read(folder: Path, owner: str) -> tuple[dict[int, int], list[Outcome]]:
    started: dict[int, int] = {}
    answers: list[Outcome] = []
    for path in _segments(folder, owner):
        for line in path.read_bytes().split(b"\n"):
            try:
                if line.startswith(b"S "):
                    # Another version may write more behind them; a start that is missed would be sent again.
                    message_id, claim = map(int, line[2:].split(b" ")[:2])
                    started[message_id] = max(claim, started.get(message_id, 0))
                elif line.startswith(b"A "):
                    answers.append(_outcome(json.loads(line[2:])))
            except (ValueError, KeyError, AttributeError):
                # The last line of a killed process may be torn; a torn start was never followed by a request.
                continue
    return started, answers


def _kept(outcome: Outcome) -> dict[str, object]:
    """The outcome's own values."""
    # Half of the cost of a line would be asdict's.
    values = ((name, getattr(outcome, name)) for name in _FIELDS)
    return {name: value for name, value in values if value is not None}


def _outcome(values: dict[str, Any]) -> Outcome:
    """The outcome of a line that an older or a newer version may have written.

    What is not known here is left out, and what is missing has its default. Where its status says nothing to
    this version, the message may have been sent: it becomes unknown.

    Raises:
      KeyError: It does not say of which message and claim.
    """
    known: dict[str, Any] = {
        name: value for name, value in values.items() if isinstance(value, _KINDS.get(name, ()))
    }
    message_id, claim = known.pop("message_id"), known.pop("claim")
    status = next((end for end in _ENDS if end == values.get("status")), None)
    if status is None:
        status = Status.UNKNOWN
        known |= {
            "spent": True,
            "verdict": Verdict.UNKNOWN,
            "code": NO_ANSWER_RECORDED,
            "reason": "the worker died, and this version does not know the answer that it had written down",
        }
    return Outcome(message_id, claim, status, **known)


def _segments(folder: Path, owner: str) -> list[Path]:
    found = [(match, path) for path in folder.iterdir() if (match := _SEGMENT.fullmatch(path.name))]
    return [path for _, path in sorted((int(m["n"]), path) for m, path in found if m["owner"] == owner)]


def _drop(segment: _Segment) -> None:
    os.close(segment.descriptor)
    segment.path.unlink(missing_ok=True)
