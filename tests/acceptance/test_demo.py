"""``disparo demo`` as a newcomer runs it: from any folder, whatever is set, with no terminal, and with Ctrl-C."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PATIENCE_SECONDS = 240.0


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A temporary folder of the demo's own, so that whatever it leaves behind is seen."""
    folder = Path(tempfile.mkdtemp(prefix="disparo-test-"))
    folder.chmod(0o755)
    yield folder
    left = processes(folder)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def started(temporary: Path, cwd: Path, **more: str) -> Iterator[subprocess.Popen[str]]:
    """The demo, running; its temporary folder is ``temporary``."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("DISPARO_")}
    with subprocess.Popen(
        [sys.executable, "-m", "disparo", "demo"],
        env=env | {"TMPDIR": str(temporary), "PYTHONSAFEPATH": "1"} | more,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def processes(temporary: Path) -> dict[int, str]:
    """Living processes that the demo in that folder started, or which it is: pid → command line."""
    found = {}
    mark = os.fsencode(temporary)
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environ, command = (entry / "environ").read_bytes(), (entry / "cmdline").read_bytes()
            state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        if state != "Z" and (mark in environ or mark in command):
            found[int(entry.name)] = command.replace(b"\0", b" ").decode(errors="replace")
    return found


def nothing_left(temporary: Path) -> bool:
    return not processes(temporary) and not list(temporary.glob("disparo-demo-*"))


def until_nothing_left(temporary: Path) -> None:
    """Wait for what is just ending: a process that was killed with its group is gone a moment after its parent."""
    until = time.monotonic() + 10
    while not nothing_left(temporary):
        assert time.monotonic() < until, (processes(temporary), list(temporary.glob("disparo-demo-*")))
        time.sleep(0.05)


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """What the demo has printed up to the line with ``words``."""
    assert process.stdout is not None
    told = ""
    for line in process.stdout:
        told += line
        if words in line:
            return told
    raise AssertionError(f"the demo ended before {words!r}:\n{told}")


def test_the_demo_accounts_for_every_message_whatever_is_set_and_leaves_nothing_behind(
    temporary: Path, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("DISPARO_BASE_URL=http://127.0.0.1:9\nDISPARO_THREADS=no number\n")
    hostile = {
        "DISPARO_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
        "DISPARO_REDIS_URL": "redis://127.0.0.1:1/0",
        "DISPARO_TOKEN_LOJA": "sk_that_must_not_be_used",
        "PGOPTIONS": "-c default_transaction_read_only=on",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
    }
    with started(temporary, tmp_path, **hostile) as process:
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, out + err
    rows = {line[:14].strip(): line[14:].split()[:3] for line in out.splitlines()}
    assert rows["refused rows"] == ["-", "7", "1"]
    assert rows["duplicate rows"] == ["-", "5", "-"]
    assert rows["accepted"] == ["2", "293", "12"]
    assert rows["failed"] == ["-", "5", "-"]
    assert rows["unknown"] == ["-", "2", "-"]
    assert rows["cancelled"] == ["1", "-", "-"]
    assert "4 at the second try" in out
    assert "3 not on WhatsApp, 2 opted out" in out
    assert "lost 0, doubled 0, unknown 2, of which the sandbox had accepted 2" in out
    # 307 accepted by the books and the two unknown ones; the refused and the first tries of 4 come on top.
    assert "counted 318 requests and accepted 309" in out
    assert "\x1b" not in out, "escape sequences without a terminal"
    # Two progress bars and a remark join on a terminal.
    assert sum(-(-max(len(line), 1) // 80) for line in out.splitlines()) <= 40 - 3, "more than one screen"
    until_nothing_left(temporary)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".env"]


def test_stopping_the_demo_in_the_middle_ends_all_its_processes_and_removes_the_home(
    temporary: Path, tmp_path: Path
) -> None:
    with started(temporary, tmp_path) as process:
        read_until(process, "campaign launch")
        process.send_signal(signal.SIGINT)
        begun = time.monotonic()
        # What an impatient user or a shell does at once, and next, must not cut the cleaning short.
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        while any(" campaign launch " in command for command in processes(temporary).values()):
            assert time.monotonic() - begun < 60
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 1, out + err
    assert "nothing of the demo is left behind" in err
    assert "Traceback" not in err
    until_nothing_left(temporary)
    assert time.monotonic() - begun < 60


def test_a_process_that_dies_is_named_with_its_last_words(temporary: Path, tmp_path: Path) -> None:
    with started(temporary, tmp_path) as process:
        read_until(process, "are up")
        sandbox = [pid for pid, command in processes(temporary).items() if " disparo sandbox " in command]
        assert len(sandbox) == 1
        os.kill(sandbox[0], signal.SIGKILL)
        _, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 1, err
    assert "`disparo sandbox` ended on its own" in err
    assert "the last of `disparo sandbox`:\n    ready http://127.0.0.1:" in err
    assert "sk_" not in err
    until_nothing_left(temporary)
