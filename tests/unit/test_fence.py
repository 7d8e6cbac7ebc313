"""What a home remembers of its database, and what it makes of a database that disagrees."""

import json
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from disparo import fence
from disparo.fence import Foreign, Look, Mark, Mirror, Restored, compare

OURS, THEIRS = UUID(int=1), UUID(int=2)


def in_file(home: Path) -> tuple[str, int]:
    found = json.loads((home / fence.FILE).read_text())
    return found["installation_id"], found["send_epoch"]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sentences about the file that were logged."""
    found: list[str] = []

    class Logger:
        def info(self, event: str, **_: object) -> None:
            found.append(event)

        def warning(self, _: str, *, problem: str) -> None:
            found.append(problem)

    monkeypatch.setattr(fence, "logger", Logger())
    return found


@pytest.mark.parametrize(
    ("mark", "seen", "finding"),
    [
        pytest.param(Mark(OURS, 5), None, None, id="a new home"),
        pytest.param(Mark(OURS, 5), Mark(OURS, 5), None, id="nothing was sent since"),
        pytest.param(Mark(OURS, 6), Mark(OURS, 5), None, id="another host has sent"),
        pytest.param(Mark(OURS, 4), Mark(OURS, 5), Restored(Mark(OURS, 4)), id="a backup"),
        pytest.param(Mark(THEIRS, 4), Mark(OURS, 5), Foreign(Mark(THEIRS, 4)), id="another's"),
        pytest.param(Mark(THEIRS, 9), Mark(OURS, 5), Foreign(Mark(THEIRS, 9)), id="another's that sent more"),
    ],
)
def test_a_database_is_compared_with_what_was_seen(
    mark: Mark, seen: Mark | None, finding: Restored | Foreign | None
) -> None:
    assert compare(mark, seen) == finding


def test_findings_say_what_to_type() -> None:
    assert Restored(Mark(OURS, 4)).reason == (
        "this database is older than what this installation has sent; run `disparo db restored --taken-at T`"
    )
    assert Foreign(Mark(THEIRS, 4)).reason == (
        f"this database belongs to installation {THEIRS}; `disparo db adopt` to take it"
    )


def test_the_highest_mark_is_kept_and_survives_the_process(tmp_path: Path) -> None:
    home = tmp_path / "new" / "home"
    mirror = Mirror(home)
    assert mirror.seen is None
    for epoch in (3, 7, 5):
        assert mirror.keep(Look(Mark(OURS, epoch)))
    assert mirror.seen == Mirror(home).seen == Mark(OURS, 7)
    assert in_file(home) == (str(OURS), 7)


def test_only_their_user_may_read_the_files(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Mirror(tmp_path).keep(Look(Mark(OURS, 1)))
    finally:
        os.umask(before)
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {
        fence.FILE: 0o600,
        fence.LOCK: 0o600,
    }


def test_what_another_process_of_the_home_has_seen_counts_at_once(tmp_path: Path) -> None:
    one, other = Mirror(tmp_path), Mirror(tmp_path)
    one.keep(Look(Mark(OURS, 3)))
    assert other.seen == Mark(OURS, 3)
    other.keep(Look(Mark(OURS, 8)))
    one.keep(Look(Mark(OURS, 4)))
    assert one.seen == Mark(OURS, 8)
    assert in_file(tmp_path) == (str(OURS), 8)


def test_a_finding_is_not_kept(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path)
    mirror.keep(Look(Mark(OURS, 5)))
    mirror.keep(Look(Mark(THEIRS, 9), Foreign(Mark(THEIRS, 9))))
    mirror.keep(Look(Mark(OURS, 2), Restored(Mark(OURS, 2))))
    assert mirror.seen == Mark(OURS, 5)


def test_a_database_that_a_person_took_replaces_what_was_seen_in_every_process(tmp_path: Path) -> None:
    worker, command = Mirror(tmp_path), Mirror(tmp_path)
    worker.keep(Look(Mark(OURS, 50)))
    command.replace(Mark(THEIRS, 2))
    assert worker.seen == Mark(THEIRS, 2)
    # What it had looked at just before does not bring the former one back.
    worker.keep(Look(Mark(OURS, 51)))
    assert worker.seen == Mark(THEIRS, 2)
    assert in_file(tmp_path) == (str(THEIRS), 2)
    # A blank database of another installation is taken without a person.
    worker.keep(Look(Mark(OURS, 0), blank=True))
    assert command.seen == Mark(OURS, 0)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", "\x80", '{"installation_id": "x", "send_epoch": 1}', '{"send_epoch": 1}', '"1"'],
)
def test_a_damaged_file_counts_as_missing_and_is_written_anew(
    tmp_path: Path, told: list[str], content: str
) -> None:
    (tmp_path / fence.FILE).write_bytes(content.encode("latin-1"))
    mirror = Mirror(tmp_path)
    assert mirror.seen is None
    assert mirror.seen is None
    assert mirror.keep(Look(Mark(OURS, 4)))
    assert in_file(tmp_path) == (str(OURS), 4)
    assert told == [
        f"{tmp_path / fence.FILE} is damaged and counts as missing; it is written anew",
        "installation_seen_first",
    ]


def test_a_file_that_is_lost_or_damaged_under_a_running_process_comes_back(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path)
    mirror.keep(Look(Mark(OURS, 4)))
    for damage in (lambda path: path.unlink(), lambda path: path.write_text("{")):
        damage(tmp_path / fence.FILE)
        assert mirror.seen == Mark(OURS, 4)
        assert mirror.keep(Look(Mark(OURS, 4)))
        assert in_file(tmp_path) == (str(OURS), 4)


def test_a_file_that_cannot_be_written_is_told_once_and_memory_counts(
    tmp_path: Path, told: list[str]
) -> None:
    home = tmp_path / "home"
    home.write_text("no folder")
    mirror = Mirror(home)
    for epoch in (1, 2):
        mirror.keep(Look(Mark(OURS, epoch)))
    assert mirror.seen == Mark(OURS, 2)
    assert len([sentence for sentence in told if "cannot be written" in sentence]) == 1
    assert str(home) in told[-1]


def test_a_disk_that_fills_up_in_the_middle_leaves_the_last_good_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    mirror = Mirror(tmp_path)
    assert mirror.keep(Look(Mark(OURS, 7)))
    write = os.write
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:5]))
        mirror.keep(Look(Mark(OURS, 8)))
    assert in_file(tmp_path) == (str(OURS), 7)
    assert "No space left" in told[-1]
    assert mirror.seen == Mark(OURS, 8)


def test_a_process_that_is_suspended_while_it_writes_holds_up_nobody(tmp_path: Path) -> None:
    import fcntl

    mirror = Mirror(tmp_path)
    mirror.keep(Look(Mark(OURS, 1)))
    with (tmp_path / fence.LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert not mirror.keep(Look(Mark(OURS, 2)))
        assert mirror.seen == Mark(OURS, 2)
        assert in_file(tmp_path) == (str(OURS), 1)
    assert mirror.keep(Look(Mark(OURS, 2)))
    assert in_file(tmp_path) == (str(OURS), 2)


def test_many_that_write_at_once_leave_the_highest_and_never_half_a_file(tmp_path: Path) -> None:
    ended, torn = threading.Event(), []

    def together(work: Callable[[int], None], n: int) -> None:
        threads = [threading.Thread(target=work, args=(k,)) for k in range(n)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def read() -> None:
        while not ended.is_set():
            try:
                in_file(tmp_path)
            except FileNotFoundError:
                continue
            except ValueError as err:
                torn.append(err)

    def write(k: int) -> None:
        mirror = Mirror(tmp_path)
        for epoch in range(k, 200, 8):
            while not mirror.keep(Look(Mark(OURS, epoch))):
                pass

    reader = threading.Thread(target=read)
    reader.start()
    together(write, 8)
    ended.set()
    reader.join()
    assert torn == []
    assert in_file(tmp_path) == (str(OURS), 199)
