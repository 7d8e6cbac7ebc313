import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from disparo.supervisor import Child, Supervisor

# A supervisor in a process of its own, as `disparo up` is: stdout has `ready`, stderr the rest.
DRIVER = """
import json, os, sys
from pathlib import Path
from disparo.supervisor import Child, Supervisor

spec = json.loads(Path(sys.argv[1]).read_text())
children = [
    Child(env=dict(os.environ), cwd=Path(c.pop("cwd", spec["cwd"])), **c) for c in spec["children"]
]
def ready():
    if spec.get("ready_raises"):
        raise ValueError("no")
    return not spec.get("ready_file") or Path(spec["ready_file"]).exists()
supervisor = Supervisor(
    children,
    lambda sentence: os.write(2, f"LOG {sentence}\\n".encode()),
    ready=ready,
    on_ready=lambda: print("ready", flush=True),
    **spec["options"],
)
sys.exit(supervisor.run())
"""

# A child: says that it lives, notes its pid, and on SIGTERM notes that it was asked to stop.
POLITE = """
import os, signal, sys
name, folder = sys.argv[1], sys.argv[2]
def stop(*_):
    with open(folder + "/stops", "a") as stops:
        stops.write(name + chr(10))
    os._exit(0)
signal.signal(signal.SIGTERM, stop)
with open(folder + "/" + name + ".pid.new", "w") as file:
    file.write(str(os.getpid()))
os.replace(folder + "/" + name + ".pid.new", folder + "/" + name + ".pid")
print("hello from", name, flush=True)
while True:
    signal.pause()
"""
STUBBORN = POLITE.replace(
    "signal.signal(signal.SIGTERM, stop)", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
)
# Starts a process of its own, in its group, and notes its pid too.
PARENT = POLITE.replace(
    'with open(folder + "/" + name + ".pid.new"',
    """
pid = os.fork()
if pid == 0:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    while True:
        signal.pause()
with open(folder + "/grandchild.pid", "w") as file:
    file.write(str(pid))
with open(folder + "/" + name + ".pid.new\"""",
    1,
)


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 20) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)
    return found


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


class Driven:
    """A running supervisor and the folder in which its children leave their notes."""

    def __init__(
        self, folder: Path, children: list[dict[str, Any]], stderr: int | None = None, **spec: Any
    ) -> None:
        self.folder = folder
        options = {"first_backoff_seconds": 0.02, **spec.pop("options", {})}
        (folder / "spec.json").write_text(
            json.dumps({"children": children, "cwd": str(folder), "options": options, **spec})
        )
        self.err_path, self.out_path = folder / "err", folder / "out"
        with self.err_path.open("wb") as err, self.out_path.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", DRIVER, str(folder / "spec.json")],
                cwd=Path(__file__).parents[2],
                stdout=out,
                stderr=err if stderr is None else stderr,
                start_new_session=True,
            )

    @property
    def err(self) -> str:
        return self.err_path.read_text(errors="replace")

    def log(self) -> list[str]:
        return [line[4:] for line in self.err.splitlines() if line.startswith("LOG ")]

    def is_ready(self) -> bool:
        return self.out_path.read_text() == "ready\n"

    def pid(self, name: str) -> int:
        path = self.folder / f"{name}.pid"
        return int(wait_until(lambda: path.exists() and path.read_text(), f"the pid of {name}"))

    def wait_ready(self) -> None:
        wait_until(self.is_ready, "ready")

    def stops(self) -> list[str]:
        path = self.folder / "stops"
        return path.read_text().split() if path.exists() else []

    def ends(self, seconds: float = 20) -> int:
        return self.process.wait(seconds)


Drive = Callable[..., Driven]


def child(name: str, folder: Path, code: str = POLITE, **more: Any) -> dict[str, Any]:
    argv = [sys.executable, "-I", "-S", "-c", code, name, str(folder)]
    return {"name": name, "argv": argv, "stop_after": 0, "grace_seconds": 10, **more}


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Callable[..., Driven]]:
    started: list[Driven] = []

    def drive(children: list[dict[str, Any]], **spec: Any) -> Driven:
        started.append(Driven(tmp_path, children, **spec))
        return started[-1]

    yield drive
    for driven in started:
        if driven.process.poll() is None:
            driven.process.kill()
            driven.process.wait()
        for path in driven.folder.glob("*.pid"):
            if is_alive(pid := int(path.read_text())):
                os.kill(pid, signal.SIGKILL)


def test_children_are_stopped_group_by_group_and_none_is_left(drive: Drive, tmp_path: Path) -> None:
    driven = drive(
        [
            child("web", tmp_path, stop_after=2),
            child("worker-1", tmp_path, stop_after=1),
            child("worker-2", tmp_path, stop_after=1),
            child("beat", tmp_path, stop_after=0),
        ]
    )
    driven.wait_ready()
    pids = [driven.pid(name) for name in ("web", "worker-1", "worker-2", "beat")]
    assert all(os.getsid(pid) == pid for pid in pids)  # a Ctrl-C on the terminal does not reach them
    driven.process.send_signal(signal.SIGTERM)
    assert driven.ends() == 0
    assert driven.stops()[0] == "beat"
    assert sorted(driven.stops()[1:3]) == ["worker-1", "worker-2"]
    assert driven.stops()[3:] == ["web"]
    assert not any(is_alive(pid) for pid in pids)
    assert driven.log() == ["SIGTERM received: stopping, in at most 28 s"]


def test_ready_is_said_once_when_all_live_and_the_question_is_answered_with_yes(
    drive: Drive, tmp_path: Path
) -> None:
    driven = drive([child("one", tmp_path)], ready_file=str(tmp_path / "go"))
    first = driven.pid("one")
    wait_until(lambda: "one | hello from one" in driven.err, "its greeting")
    assert not driven.out_path.read_text()
    (tmp_path / "go").touch()
    driven.wait_ready()
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: driven.pid("one") != first, "a new process")
    driven.process.send_signal(signal.SIGINT)
    assert driven.ends() == 0
    assert driven.is_ready()


def test_a_dead_child_is_started_again_and_one_line_says_why(drive: Drive, tmp_path: Path) -> None:
    driven = drive([child("worker-1", tmp_path), child("web", tmp_path)])
    driven.wait_ready()
    web, first = driven.pid("web"), driven.pid("worker-1")
    os.kill(first, signal.SIGKILL)
    second = wait_until(lambda: (pid := driven.pid("worker-1")) != first and pid, "a new process")
    (line,) = wait_until(driven.log, "the line")
    assert line.startswith("worker-1 was ended by SIGKILL (by somebody, or for want of memory) after ")
    assert line.endswith("; it is started again in 0.0 s")
    os.kill(second, signal.SIGTERM)  # not by the supervisor: ends with 0, and is wanted none the less
    wait_until(lambda: driven.pid("worker-1") != second, "a third process")
    wait_until(lambda: any("ended with exit code 0" in line for line in driven.log()), "the second line")
    assert driven.pid("web") == web
    driven.process.send_signal(signal.SIGTERM)
    assert driven.ends() == 0


def test_the_backoff_doubles(drive: Drive, tmp_path: Path) -> None:
    # Lives from the fourth time on, so that it is not given up.
    code = """
import os, sys
count = len(open("count").read()) if os.path.exists("count") else 0
open("count", "a").write("x")
if count < 3:
    sys.exit(7)
"""
    driven = drive([child("flaky", tmp_path, code + POLITE)], options={"first_backoff_seconds": 0.1})
    driven.wait_ready()
    driven.pid("flaky")
    driven.process.send_signal(signal.SIGTERM)
    assert driven.ends() == 0
    waits = [line.split()[-2] for line in driven.log() if "exit code 7" in line]
    assert waits == ["0.1", "0.2", "0.4"]


def test_a_child_that_cannot_be_started_ends_everything_with_its_last_words(
    drive: Drive, tmp_path: Path
) -> None:
    bad = child(
        "worker-1", tmp_path, "import sys; print('no module', file=sys.stderr); sys.exit('bad setting')"
    )
    driven = drive([child("web", tmp_path), bad], ready_file="/nonexistent")
    assert driven.ends() == 1
    assert driven.stops() == ["web"]
    assert not driven.out_path.read_text()
    assert "worker-1 ended with exit code 1" in driven.err
    assert "for the 5th time: it cannot be started, stopping. The last that it wrote:" in driven.err
    assert "\n    no module\n    bad setting\n" in driven.err


@pytest.mark.parametrize("wrong", [{"argv": ["/nonexistent/celery"]}, {"cwd": "/nonexistent"}])
def test_a_program_or_folder_that_is_missing_is_said_in_words(
    drive: Drive, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    driven = drive([child("beat", tmp_path, **wrong)], ready_file="/nonexistent")
    assert driven.ends() == 1
    assert "beat" in driven.err
    assert "No such file or directory" in driven.err
    assert "Traceback" not in driven.err


def test_a_child_that_does_not_stop_is_killed_after_its_grace_with_what_it_started(
    drive: Drive, tmp_path: Path
) -> None:
    code = PARENT.replace(
        "signal.signal(signal.SIGTERM, stop)", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    )
    driven = drive([child("stuck", tmp_path, code, grace_seconds=0.3), child("web", tmp_path, stop_after=1)])
    driven.wait_ready()
    stuck, grandchild, web = driven.pid("stuck"), driven.pid("grandchild"), driven.pid("web")
    driven.process.send_signal(signal.SIGTERM)
    assert driven.ends() == 0
    assert "stuck did not stop in time: killed" in driven.log()
    assert driven.stops() == ["web"]
    assert not any(is_alive(pid) for pid in (stuck, grandchild, web))


def test_the_whole_stop_is_bounded_whatever_graces_add_up_to(drive: Drive, tmp_path: Path) -> None:
    children = [child(f"s{n}", tmp_path, STUBBORN, grace_seconds=60, stop_after=n) for n in range(3)]
    driven = drive(children, options={"stop_seconds": 4.0})
    driven.wait_ready()
    pids = [driven.pid(f"s{n}") for n in range(3)]
    begun = time.monotonic()
    driven.process.send_signal(signal.SIGTERM)
    assert driven.ends() == 0
    assert time.monotonic() - begun < 8
    assert not any(is_alive(pid) for pid in pids)


def test_a_second_ctrl_c_says_who_is_still_draining(drive: Drive, tmp_path: Path) -> None:
    driven = drive([child("worker-1", tmp_path, STUBBORN, grace_seconds=60)], options={"stop_seconds": 20.0})
    driven.wait_ready()
    pid = driven.pid("worker-1")
    driven.process.send_signal(signal.SIGINT)
    wait_until(driven.log, "the first line")
    driven.process.send_signal(signal.SIGINT)
    wait_until(lambda: len(driven.log()) == 2, "the second line")
    assert driven.log()[1].startswith("draining: waiting for worker-1 to finish what is begun, at most ")
    os.kill(pid, signal.SIGKILL)
    assert driven.ends() == 0


def test_a_shower_of_signals_is_one_stop(drive: Drive, tmp_path: Path) -> None:
    driven = drive([child(f"c{n}", tmp_path) for n in range(3)])
    driven.wait_ready()
    pids = [driven.pid(f"c{n}") for n in range(3)]
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP) * 10:
        if driven.process.poll() is None:
            driven.process.send_signal(number)
    # The last of them may meet the interpreter at its end, with the default actions back in force.
    assert driven.ends() in {0, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP}
    assert sorted(driven.stops()) == ["c0", "c1", "c2"]
    assert not any(is_alive(pid) for pid in pids)


@pytest.mark.parametrize("dies_with", ["prctl", "pipe"])
def test_children_die_with_a_supervisor_that_is_killed(drive: Drive, tmp_path: Path, dies_with: str) -> None:
    driven = drive([child("a", tmp_path), child("b", tmp_path)], options={"dies_with": dies_with})
    driven.wait_ready()
    pids = [driven.pid("a"), driven.pid("b")]
    driven.process.kill()
    wait_until(lambda: not any(is_alive(pid) for pid in pids), "the end of the children")
    assert sorted(driven.stops()) == ["a", "b"]  # by SIGTERM: they could finish what was begun


def test_what_a_killed_child_had_started_is_ended(drive: Drive, tmp_path: Path) -> None:
    driven = drive([child("pool", tmp_path, PARENT)])
    driven.wait_ready()
    first, grandchild = driven.pid("pool"), driven.pid("grandchild")
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not is_alive(grandchild), "the end of the orphan")
    wait_until(lambda: driven.pid("pool") != first, "a new process")
    driven.process.send_signal(signal.SIGTERM)
    assert driven.ends() == 0


def test_no_line_is_lost_at_the_end(drive: Drive, tmp_path: Path) -> None:
    code = POLITE.replace(
        "    os._exit(0)",
        "    print(*range(20000), sep=chr(10), flush=True)\n    os.write(2, b'last words')\n    os._exit(0)",
    )
    driven = drive([child("talker", tmp_path, code), child("x", tmp_path)])
    driven.wait_ready()
    wait_until(lambda: driven.err.count("hello from") == 2, "both greetings")
    driven.process.send_signal(signal.SIGTERM)
    assert driven.ends() == 0
    lines = [line for line in driven.err.splitlines() if line.startswith("talker | ")]
    assert lines == [
        "talker | hello from talker",
        *(f"talker | {n}" for n in range(20000)),
        "talker | last words",
    ]
    assert "x      | hello from x" in driven.err.splitlines()


def test_a_reader_that_stalls_holds_up_neither_restarts_nor_the_stop(drive: Drive, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    code = POLITE.replace("signal.pause()", "print('x' * 1000)")
    driven = drive([child("talker", tmp_path, code), child("quiet", tmp_path)], stderr=writer)
    os.close(writer)
    try:
        driven.wait_ready()
        quiet = driven.pid("quiet")
        os.kill(quiet, signal.SIGKILL)
        wait_until(lambda: driven.pid("quiet") != quiet, "a new process")
        driven.process.send_signal(signal.SIGTERM)
        assert driven.ends() == 0
        assert sorted(driven.stops()) == ["quiet", "talker"]
    finally:
        os.close(reader)


def test_a_reader_that_is_gone_ends_nothing(drive: Drive, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    driven = drive([child("a", tmp_path)], stderr=writer)
    os.close(writer)
    driven.wait_ready()
    first = driven.pid("a")
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: driven.pid("a") != first, "a new process")
    driven.process.send_signal(signal.SIGTERM)
    assert driven.ends() == 0


def test_an_error_of_the_caller_stops_the_children_in_order_first(drive: Drive, tmp_path: Path) -> None:
    driven = drive([child("a", tmp_path)], ready_raises=True)
    assert driven.ends() == 1
    assert "LOG the supervisor itself failed (ValueError): stopping" in driven.err
    assert "ValueError: no" in driven.err


def test_it_runs_in_the_main_thread_only(tmp_path: Path) -> None:
    refused: list[BaseException] = []

    def run() -> None:
        try:
            Supervisor([Child("a", ["true"], {}, tmp_path)], print).run()
        except RuntimeError as err:
            refused.append(err)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert "main thread" in str(refused[0])
