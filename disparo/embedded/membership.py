"""Users of the servers: the seats that a process takes, and gives up when it ends."""

import atexit
import contextlib
import os
import threading
from pathlib import Path

from disparo.embedded.folders import sentences
from disparo.embedded.locks import close_in_child, home_lock
from disparo.embedded.server import Seat, Server
from disparo.errors import EmbeddedServerError


class Membership:
    """The seats that one call of ``use`` took, to be given up together."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.pid = os.getpid()
        self.seats: list[Seat] = []

    def join(self, server: Server) -> str:
        """Take a seat; the home's lock is held. Hands back the server's address."""
        try:
            server.ensure()
            self.seats.append(server.enlist())
        except BaseException:
            with contextlib.suppress(EmbeddedServerError, OSError):
                if not server.has_users():
                    server.stop()
            raise
        return server.url()

    def revive(self) -> bool:
        """Start again those of our servers that have died."""
        if all(seat.server.lives() for seat in self.seats):
            return False
        with sentences(self.home), home_lock(self.home):
            # Again, under the lock: seats may have been given up meanwhile, and nobody would stop the server.
            dead = [seat.server for seat in self.seats if not seat.server.lives()]
            for server in dead:
                server.ensure()
        return bool(dead)

    def leave(self) -> None:
        """Give up all seats; the home's lock is held."""
        faults: list[EmbeddedServerError] = []
        while self.seats:
            seat = self.seats.pop()
            try:
                seat.server.dismiss(seat)
            except EmbeddedServerError as err:
                faults.append(err)
        if faults:
            raise faults[0]

    def end(self) -> None:
        with registry.guard:
            if self.pid != os.getpid() or self not in registry.opened:
                return
            registry.opened.remove(self)
        with contextlib.ExitStack() as held, sentences(self.home):
            # A home that was deleted under its servers has no lock left, and nobody who could join.
            if self.home.is_dir():
                held.enter_context(home_lock(self.home))
            self.leave()


class Registry:
    """What this process holds open: to be given up at exit, and forgotten by a forked child."""

    def __init__(self) -> None:
        self.guard = threading.Lock()
        self.opened: list[Membership] = []
        self.listening = False

    def listen(self) -> None:
        with self.guard:
            if not self.listening:
                atexit.register(self.end_all)
                os.register_at_fork(after_in_child=self.forget)
                self.listening = True

    def end_all(self) -> None:
        for membership in reversed(self.opened.copy()):
            # At exit nobody is left to act on it, and the next user adopts what still runs.
            with contextlib.suppress(EmbeddedServerError):
                membership.end()

    def forget(self) -> None:
        close_in_child()
        self.opened.clear()
        self.guard = threading.Lock()  # a thread that does not exist here may have held it


registry = Registry()
