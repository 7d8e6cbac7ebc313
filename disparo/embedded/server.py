"""One server of a home: its users, start, adoption, stop, socket and log."""

import contextlib
import hashlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from disparo.embedded.accounts import as_user, may_enter
from disparo.embedded.folders import make_folder
from disparo.embedded.locks import close_descriptor, is_locked, lock_file, unlock
from disparo.embedded.programs import INSTEAD, arguments, environment
from disparo.errors import EmbeddedServerError

#: Bytes of a socket's path. Linux allows 107, macOS 103 (``sun_path`` in unix(7) and unix(4)).
SOCKET_PATH_BYTES = 103

#: Recovery after a crash replays up to 1 GB of log before PostgreSQL answers.
START_SECONDS = 120.0

#: A socket may be missing for a moment while its server starts; after this long it was cleaned away.
SOCKET_LOST_SECONDS = 3.0

LOG_BYTES = 4 * 1024 * 1024

Farewell = tuple[tuple[signal.Signals, float], ...]


@dataclass(frozen=True, slots=True)
class Seat:
    """One user of one server: its file, and the descriptor that keeps it locked."""

    server: "Server"
    path: Path
    descriptor: int


class Server(ABC):
    """What both servers have in common: users, start, adoption, stop. All of it under the home's lock."""

    title: ClassVar[str]
    folder: ClassVar[str]
    socket_name: ClassVar[str]
    #: How it is told to stop: signals, and how long each may take. Together less than half a minute.
    farewell: ClassVar[Farewell]

    def __init__(self, home: Path, box_mode: int = 0o700) -> None:
        self.home = home
        self.box = make_folder(home / self.folder, box_mode)
        self.users = make_folder(self.box / "users")
        self.place = self.box
        self._seen_pid: int | None = None

    @property
    @abstractmethod
    def account(self) -> pwd.struct_passwd | None:
        """Who runs it, when that is not this user."""

    @property
    @abstractmethod
    def pid_file(self) -> Path:
        """Its first line is the pid."""

    @property
    @abstractmethod
    def mark(self) -> str:
        """What the arguments of our server, and of no other process, contain."""

    @abstractmethod
    def prepare(self, lock: int) -> list[str]:
        """Everything in place for a start; hands back the command line."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether it takes requests."""

    @abstractmethod
    def url(self) -> str:
        """Its address."""

    # Users

    def enlist(self) -> Seat:
        path = self.users / f"{os.getpid()}-{secrets.token_hex(4)}"
        descriptor = lock_file(path)
        if descriptor is None:
            raise EmbeddedServerError(f"{path} is locked by another process: remove it, then try again.")
        return Seat(self, path, descriptor)

    def has_users(self) -> bool:
        living = 0
        for path in self.users.iterdir():
            descriptor = lock_file(path)
            if descriptor is None:
                living += 1
            else:
                path.unlink()  # it died without saying good-bye
                unlock(descriptor)
        return living > 0

    def dismiss(self, seat: Seat) -> None:
        stayed = seat.path.exists()
        seat.path.unlink(missing_ok=True)
        unlock(seat.descriptor)
        if not stayed:
            # The home was deleted under us, and what is there now belongs to others. Only the process
            # that we saw running may be stopped, and in a way that lets it tidy up nothing of theirs.
            self._end(
                ((signal.SIGKILL, 5.0),),
                lambda: self._ours(self._seen_pid),
                lambda: self._ours(self._seen_pid) is not None,
            )
        elif not self.has_users():
            self.stop()
        else:
            self._cut_log()

    # Start and stop

    def ensure(self) -> None:
        """Adopt the server that runs, or start it; it answers afterwards."""
        log_from: int | None = None
        deadline = time.monotonic() + START_SECONDS
        lost_after = time.monotonic() + SOCKET_LOST_SECONDS
        while True:
            lock = lock_file(self._lock_path)
            if lock is not None:
                try:
                    if log_from is not None:
                        raise EmbeddedServerError(
                            f"{self.title} of {self.home} did not start.{self._log_tail(log_from)}"
                        )
                    log_from = self._start(lock)
                finally:
                    # Closed, not unlocked: the server holds the same lock from here on.
                    close_descriptor(lock)
                continue
            if self.answers():
                break
            if log_from is not None or self.pid() is None or self._socket().exists():
                lost_after = time.monotonic() + SOCKET_LOST_SECONDS
            elif time.monotonic() > lost_after:
                # Temporary folders are tidied. Nobody can connect any more, so a restart harms nobody.
                self.stop()
            if time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"{self.title} of {self.home} runs but does not answer after {START_SECONDS:.0f} s; end "
                    f"the process named in {self.pid_file}, then try again.{self._log_tail(log_from or 0)}"
                )
            time.sleep(0.01)
        self._seen_pid = self.pid()
        self._cut_log()

    def lives(self) -> bool:
        """Whether any of its processes does."""
        return is_locked(self._lock_path)

    def stop(self) -> None:
        """Stop it if it runs, and wait until all its processes are gone."""
        self._end(self.farewell, self.pid, lambda: is_locked(self._lock_path))
        run = self.place / "run"
        if run.is_symlink():
            with contextlib.suppress(OSError):
                shutil.rmtree(run.readlink())
            run.unlink()

    def pid(self) -> int | None:
        """The pid of our server; ``None`` when neither its starter's note nor its pid file names it."""
        if self._ours(self._seen_pid):
            return self._seen_pid
        for path in (self._lock_path, self.pid_file):
            with contextlib.suppress(OSError, ValueError):
                pid = self._ours(int(path.read_text().split("\n")[0]))
                if pid is not None:
                    return pid
        return None

    def _ours(self, pid: int | None) -> int | None:
        return pid if pid is not None and f" {self.mark} " in arguments(pid) else None

    def _end(self, farewell: Farewell, pid: Callable[[], int | None], alive: Callable[[], bool]) -> None:
        for number, seconds in farewell:
            deadline = time.monotonic() + seconds
            tell_at = time.monotonic()
            while alive():
                # Again each second: a server that has only just been started does not listen yet.
                if time.monotonic() >= tell_at and (target := pid()) is not None:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(target, number)
                    tell_at = time.monotonic() + 1
                if time.monotonic() > deadline:
                    break
                time.sleep(0.01)
            else:
                return
        raise EmbeddedServerError(
            f"{self.title} of {self.home} did not stop: end the process named in {self.pid_file}."
        )

    def _start(self, lock: int) -> int:
        """Start it detached, with ``lock`` as its own; hands back where its part of the log begins."""
        argv = self.prepare(lock)
        self._cut_log()
        log_from = self._log_size()
        # The shell puts it into the background, tells its pid and ends. So it is nobody's child: no zombie
        # in a starter that does not wait for it, no surprise for one that waits for every child.
        told = self._run(["/bin/sh", "-c", '"$@" </dev/null >&2 & echo $!', "sh", *argv], lock)
        self._seen_pid = int(told.stdout)
        os.truncate(lock, 0)
        os.write(lock, told.stdout.encode())
        return log_from

    def _run(
        self, argv: Sequence[str | Path], lock: int, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run one of the programs as its user, errors to the log."""
        log = os.open(self._log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            return subprocess.run(  # noqa: S603 - the wheels' own programs
                argv, input=stdin, text=True, stdout=subprocess.PIPE, stderr=log, cwd="/", umask=0o077,
                check=False, start_new_session=True, pass_fds=(lock,), env=environment(),
                **as_user(self.account),
            )  # fmt: skip
        finally:
            os.close(log)

    @property
    def _lock_path(self) -> Path:
        return self.place / "server.lock"

    # Sockets

    def _socket(self) -> Path:
        run = self.place / "run"
        return (run.readlink() if run.is_symlink() else run) / self.socket_name

    def make_socket_folder(self) -> Path:
        """An empty 0700 folder for the socket: ``run``, or a short one that ``run`` then links to."""
        run = self.place / "run"
        # libpq takes a comma for the end of a host's name.
        if len(os.fsencode(run / self.socket_name)) <= SOCKET_PATH_BYTES and "," not in str(run):
            if run.is_symlink():
                run.unlink()
            folder = make_folder(run, account=self.account)
        else:
            folder = self._make_short_folder()
            if run.is_symlink() or not run.exists():
                run.unlink(missing_ok=True)
            else:
                shutil.rmtree(run)
            run.symlink_to(folder)
        # PostgreSQL keeps a pid file beside its socket too, and obeys it when another process has the pid.
        for leftover in folder.iterdir():
            leftover.unlink()
        return folder

    def _make_short_folder(self) -> Path:
        owner = self.account.pw_uid if self.account else os.geteuid()
        name = f"disparo-{hashlib.sha256(os.fsencode(f'{owner}:{self.place}')).hexdigest()[:16]}"
        bases = [os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp"]  # noqa: S108
        run = self.place / "run"
        if run.is_symlink():
            # After a crash the address stays what it was, whatever the variables of this process say.
            bases.insert(0, str(run.readlink().parent))
        for base in bases:
            folder = Path(base) / name
            if (
                not base.startswith("/")
                or "," in base
                or len(os.fsencode(folder / self.socket_name)) > SOCKET_PATH_BYTES
            ):
                continue
            if self.account is not None and not may_enter(self.account, Path(base)):
                continue
            # Somebody else's folder or link under this name is refused, and the next base tried.
            with contextlib.suppress(OSError, EmbeddedServerError):
                return make_folder(folder, account=self.account)
        raise EmbeddedServerError(
            f"The path of {self.place} is too long for a socket, and no folder {name} could be made in the "
            f"temporary folder: set DISPARO_HOME to a shorter path, or {INSTEAD}."
        )

    # Log

    @property
    def _log_path(self) -> Path:
        return self.place / "server.log"

    def _log_size(self) -> int:
        return self._log_path.stat().st_size if self._log_path.exists() else 0

    def _cut_log(self) -> None:
        # The server appends to an open file, so the file is copied and emptied, not renamed.
        if self._log_size() > LOG_BYTES:
            shutil.copy2(self._log_path, self._log_path.with_suffix(".log.1"))
            os.truncate(self._log_path, 0)

    def _log_tail(self, log_from: int) -> str:
        if not self._log_path.exists():
            return ""
        with self._log_path.open("rb") as log:
            log.seek(max(log_from, self._log_size() - 4096))
            lines = log.read().decode(errors="replace").strip().splitlines()[-6:]
        return "".join([f" The end of {self._log_path}:", *(f"\n  {line}" for line in lines)])


def talk(path: Path, request: bytes = b"") -> bytes | None:
    """What the server at this socket says first to ``request``; ``None`` when nobody listens."""
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(2)
        try:
            line.connect(str(path))
            if not request:
                return b""
            line.sendall(request)
            return line.recv(64)
        except OSError:
            return None
