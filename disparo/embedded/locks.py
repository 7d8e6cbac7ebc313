"""Locked files: what shows, without any pid, that a process lives."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from disparo.errors import EmbeddedServerError

#: Longer than a start, since whoever waits for the lock waits for somebody else's start or stop.
LOCK_SECONDS = 150.0

#: Locked files that this process holds open, those of servers being started among them.
_descriptors: set[int] = set()


def lock_file(path: Path) -> int | None:
    """Descriptor of the locked file, made when missing, or ``None`` when somebody holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    _descriptors.add(descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        close_descriptor(descriptor)
        return None
    except BaseException:
        close_descriptor(descriptor)
        raise
    return descriptor


def is_locked(path: Path) -> bool:
    descriptor = lock_file(path)
    if descriptor is None:
        return True
    unlock(descriptor)
    return False


def unlock(descriptor: int) -> None:
    # Said, not left to closing: a child forked without Python's hooks may hold a copy.
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    close_descriptor(descriptor)


def close_descriptor(descriptor: int) -> None:
    _descriptors.discard(descriptor)
    os.close(descriptor)


def close_in_child() -> None:
    """Close the descriptors that a forked child was born with."""
    # A lock lives as long as any copy of its descriptor: a child would count for its dead parent.
    # They are closed, never unlocked, which would release the parent's locks too.
    for descriptor in _descriptors:
        os.close(descriptor)
    _descriptors.clear()


@contextlib.contextmanager
def home_lock(home: Path) -> Iterator[None]:
    deadline = time.monotonic() + LOCK_SECONDS
    path = home / "servers.lock"
    while (descriptor := lock_file(path)) is None:
        if time.monotonic() > deadline:
            raise EmbeddedServerError(
                f"Another process has been starting or stopping the servers of {home} for {LOCK_SECONDS:.0f} "
                f"s: look for the process that holds {path} and end it, then try again."
            )
        time.sleep(0.01)
    try:
        yield
    finally:
        unlock(descriptor)
