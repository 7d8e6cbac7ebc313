"""``python -m scheduler.health beat|control``: exit 0 when that process of this home lives, else 1.

A health check for containers. Beat touches a file whenever Redis took a tick from it, the control worker
whenever it has run one; the check looks how old the file is, and asks no server.
"""

import contextlib
import sys
import time
from pathlib import Path

from disparo.errors import DisparoError, ServiceError, SettingsError
from disparo.settings import load

PARTS = ("beat", "control")
#: A tick comes twice a second; one that waits for a server that is away takes some seconds.
SILENT_SECONDS = 30.0


class Pulse:
    """The sign of life of one process."""

    def __init__(self, home: Path, part: str) -> None:
        self._path = home / f"{part}.alive"

    def begin(self) -> None:
        """Beat for the first time.

        Raises:
          SettingsError: The home cannot be written.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._path.touch()
        except OSError as err:
            raise SettingsError(
                f"the home {self._path.parent} cannot be written ({err.strerror}); "
                "set DISPARO_HOME to a folder of this process's user"
            ) from err

    def beat(self) -> None:
        """Beat; a disk that is full stops the sign, never the process."""
        with contextlib.suppress(OSError):
            self._path.touch()

    def check(self) -> None:
        """Return when it beat lately.

        Raises:
          ServiceError: It did not.
        """
        part = self._path.stem
        try:
            # A file's time is the wall clock's; a clock set back makes it look fresh, never dead.
            age = time.time() - self._path.stat().st_mtime
        except FileNotFoundError:
            raise ServiceError(f"{part} has not run in {self._path.parent}") from None
        if age > SILENT_SECONDS:
            raise ServiceError(f"{part} has done nothing for {age:.0f} seconds")


def main(arguments: list[str]) -> int:
    """The exit code."""
    if len(arguments) != 1 or arguments[0] not in PARTS:
        sys.stderr.write(f"usage: python -m scheduler.health {'|'.join(PARTS)}\n")
        return 2
    try:
        Pulse(load().home, arguments[0]).check()
    except DisparoError as err:
        sys.stderr.write(f"unhealthy: {err}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
