"""The journal in real files: torn lines, full disks, segments, and who may adopt it."""

import errno
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event

import pytest

from disparo.batches import Outcome
from disparo.recovery import NO_ANSWER_RECORDED
from disparo.statuses import Status
from worker import journal
from worker.journal import Journal, JournalFull, dead

PHONE = "5511987650001"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def accepted(message_id: int, claim: int = 1, **fields: object) -> Outcome:
    values = {"spent": True, "verdict": "accepted", "gs_id": f"gs-{message_id}", "http_status": 200} | fields
    return Outcome(message_id, claim, Status.ACCEPTED, **values)


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Another process that dies at its end without closing anything."""
    program = f"import os, sys\nfrom pathlib import Path\n{code}\nsys.stdout.flush()\nos._exit(9)"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def left_by(code: str, folder: Path) -> None:
    """A journal whose owner ``gone`` died after ``code``."""
    ended = run(
        "from worker.journal import Journal\nfrom disparo.batches import Outcome\n"
        f"from disparo.statuses import Status\nj = Journal(Path(sys.argv[1]), 'gone')\n{code}",
        folder,
    )
    assert ended.returncode == 9, ended.stderr


def found(folder: Path) -> list[tuple[str, dict[int, int], list[Outcome]]]:
    return [(one.owner, one.started, one.answers) for one in dead(folder)]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_dead_owners_starts_and_answers_are_found(folder: Path) -> None:
    left_by(
        "j.start(1, 1); j.answer(Outcome(1, 1, Status.ACCEPTED, spent=True, verdict='accepted', gs_id='gs-1',"
        " http_status=200)); j.start(2, 3); j.start(1, 2)",
        folder,
    )
    assert found(folder) == [("gone", {1: 2, 2: 3}, [accepted(1)])]


def test_a_living_owners_journal_is_never_adopted(folder: Path) -> None:
    living = Journal(folder, "living")
    living.start(1, 1)
    assert found(folder) == []
    ended = run(
        "from worker.journal import dead\nprint([one.owner for one in dead(Path(sys.argv[1]))])", folder
    )
    assert ended.stdout.strip() == "[]", ended.stderr
    living.close()
    assert [owner for owner, _, _ in found(folder)] == ["living"]


def test_of_two_adopters_only_one_gets_a_journal_at_a_time(folder: Path) -> None:
    left_by("j.start(1, 1)", folder)
    adopting = dead(folder)
    first = next(adopting)
    assert found(folder) == []
    assert (
        run(
            "from worker.journal import dead\nprint([one.owner for one in dead(Path(sys.argv[1]))])", folder
        ).stdout.strip()
        == "[]"
    )
    first.settled()
    adopting.close()
    assert names(folder) == []


def test_a_journal_that_was_not_settled_is_found_again(folder: Path) -> None:
    left_by("j.start(1, 1)", folder)
    assert len(found(folder)) == 1
    assert len(found(folder)) == 1
    for one in dead(folder):
        one.settled()
    assert found(folder) == []


def test_many_adopters_at_once_settle_each_journal_once(folder: Path) -> None:
    for n in range(12):
        dying = Journal(folder, f"gone-{n}")
        dying.start(n, 1)
        dying.close()
    start = Barrier(8)

    def adopt(_: int) -> list[str]:
        start.wait(30)
        mine = []
        for one in dead(folder):
            mine.append(one.owner)
            one.settled()
        return mine

    with ThreadPoolExecutor(8) as threads:
        settled = [owner for share in threads.map(adopt, range(8)) for owner in share]
    assert sorted(settled) == sorted(f"gone-{n}" for n in range(12))
    assert names(folder) == []


def test_a_journal_that_is_being_made_is_not_taken_for_a_dead_ones(folder: Path) -> None:
    stop = Event()
    adopted: list[str] = []

    def adopt() -> None:
        while not stop.is_set():
            for one in dead(folder):
                adopted.append(one.owner)
                one.settled()

    with ThreadPoolExecutor(1) as threads:
        adopting = threads.submit(adopt)
        try:
            made = [Journal(folder, f"living-{n}") for n in range(300)]
        finally:
            stop.set()
        adopting.result(30)
    assert adopted == []
    assert len(list(folder.glob("*.lock"))) == 300
    for one in made:
        one.close()
    assert names(folder) == []


def test_a_name_that_is_taken_is_refused_and_its_journal_stays(folder: Path) -> None:
    living = Journal(folder, "one")
    living.start(1, 1)
    with pytest.raises(FileExistsError):
        Journal(folder, "one")
    living.close()
    with pytest.raises(FileExistsError):
        Journal(folder, "one")
    assert found(folder) == [("one", {1: 1}, [])]


def test_the_segments_of_an_owner_are_not_those_of_one_with_a_longer_name(folder: Path) -> None:
    short, longer = Journal(folder, "host"), Journal(folder, "host.2")
    longer.start(7, 1)
    short.close()
    longer.close()
    assert found(folder) == [("host.2", {7: 1}, [])]


@pytest.mark.parametrize("torn", [b"S", b"S 1", b"S 17 ", b"A {", b'A {"message_id": 1, "cl', b"\0\0\0"])
def test_a_torn_last_line_spoils_nothing_before_it(folder: Path, torn: bytes) -> None:
    dying = Journal(folder, "gone")
    dying.start(1, 1)
    dying.answer(accepted(1))
    dying.start(2, 1)
    dying.close()
    with (folder / "gone.1.journal").open("ab") as file:
        file.write(torn)
    assert found(folder) == [("gone", {1: 1, 2: 1}, [accepted(1)])]


def test_the_journal_holds_ids_and_no_phone(folder: Path) -> None:
    dying = Journal(folder, "gone")
    dying.start(1, 1)
    dying.answer(accepted(1, wa_id=PHONE))
    dying.close()
    content = (folder / "gone.1.journal").read_text()
    assert "gs-1" in content
    assert PHONE not in content
    assert found(folder)[0][2] == [accepted(1)]


def test_any_words_of_the_provider_come_back_as_they_were(folder: Path) -> None:
    told = Outcome(1, 1, Status.FAILED, verdict="message_permanent", code="1", reason='é\n\0"\ud800 S 5 5\n')
    dying = Journal(folder, "gone")
    dying.start(1, 1)
    dying.answer(told)
    dying.close()
    assert found(folder) == [("gone", {1: 1}, [told])]


def test_others_may_not_read_the_journal(folder: Path) -> None:
    with_umask = os.umask(0)
    try:
        living = Journal(folder, "one")
    finally:
        os.umask(with_umask)
    assert folder.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())
    living.close()


# -- a machine that stopped ---------------------------------------------------------------------------------


def left(folder: Path) -> None:
    """The same as `left_by`, without a process: its lock is free and a request is open."""
    dying = Journal(folder, "gone")
    dying.start(1, 1)
    dying.close()


def whole(folder: Path) -> list[bool]:
    return [one.whole for one in dead(folder)]


def test_a_journal_is_whole_while_the_machine_of_its_owner_runs(folder: Path) -> None:
    left(folder)
    assert whole(folder) == [True]
    # Also to whoever looks a second time.
    assert whole(folder) == [True]


@pytest.mark.parametrize(
    "lock",
    [
        pytest.param(b"00000000-1111-2222-3333-444444444444", id="the machine was started again"),
        pytest.param(b"", id="written by a version that noted nothing, or lost with the power"),
        pytest.param(b"\0" * 36, id="lost with the power"),
        pytest.param(b"\xff\xfe", id="no text"),
    ],
)
def test_a_journal_of_another_run_of_the_machine_is_not_whole(folder: Path, lock: bytes) -> None:
    left(folder)
    (folder / "gone.lock").write_bytes(lock)
    assert whole(folder) == [False]
    assert found(folder) == [("gone", {1: 1}, [])]


def test_without_a_name_for_the_run_of_the_machine_no_journal_is_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_boot", lambda: "")
    left(folder)
    assert (folder / "gone.lock").read_bytes() == b""
    assert whole(folder) == [False]


def test_a_machine_that_does_not_name_its_runs_still_keeps_journals(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "no such file or directory")

    with monkeypatch.context() as neither:
        neither.setattr(Path, "read_text", missing)
        neither.setattr(subprocess, "run", missing)
        left(folder)
        assert whole(folder) == [False]


# -- other versions -----------------------------------------------------------------------------------------


def lines(folder: Path, *written: bytes) -> tuple[dict[int, int], list[Outcome]]:
    """What is read of a journal in which another version wrote these lines behind the start of message 1."""
    Journal(folder, "gone").close(all_recorded=False)
    (folder / "gone.1.journal").write_bytes(b"\n".join([b"S 1 3", *written, b""]))
    ((_, started, answers),) = found(folder)
    return started, answers


def answer(**values: object) -> bytes:
    return b"A " + json.dumps({"message_id": 1, "claim": 3, "status": "accepted"} | values).encode()


KNOWN = Outcome(1, 3, Status.ACCEPTED, spent=True, verdict="accepted", gs_id="gs-1", http_status=200)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        pytest.param(
            {
                "spent": True,
                "verdict": "accepted",
                "gs_id": "gs-1",
                "http_status": 200,
                "cost": 1,
                "tags": [],
            },
            KNOWN,
            id="a newer version says more",
        ),
        pytest.param({}, Outcome(1, 3, Status.ACCEPTED), id="an older version says less"),
        pytest.param(
            # So did the first version, which wrote down every field.
            {
                "spent": False,
                "verdict": "throttle",
                "status": "pending",
                "gs_id": None,
                "wa_id": None,
                "code": "429",
                "reason": None,
                "http_status": 429,
                "delay_seconds": 3,
            },
            Outcome(1, 3, Status.PENDING, verdict="throttle", code="429", http_status=429, delay_seconds=3),
            id="nothing is None",
        ),
        pytest.param(
            {
                "spent": 1,
                "verdict": None,
                "gs_id": 17,
                "code": ["x"],
                "http_status": "200",
                "delay_seconds": "3",
            },
            Outcome(1, 3, Status.ACCEPTED),
            id="another kind of value",
        ),
        pytest.param({"wa_id": PHONE}, Outcome(1, 3, Status.ACCEPTED), id="a phone"),
    ],
)
def test_an_answer_that_another_version_wrote_down_counts(
    folder: Path, written: dict[str, object], read: Outcome
) -> None:
    assert lines(folder, answer(**written)) == ({1: 3}, [read])


@pytest.mark.parametrize("status", ["held", "sending", "", None, 7, ["accepted"]])
def test_an_answer_whose_status_says_nothing_to_this_version_leaves_the_message_unknown(
    folder: Path, status: object
) -> None:
    started, (read,) = lines(folder, answer(status=status, gs_id="gs-1", delay_seconds=5.0))
    assert started == {1: 3}
    assert (read.message_id, read.claim, read.status) == (1, 3, Status.UNKNOWN)
    assert (read.spent, read.verdict, read.code, read.gs_id) == (True, "unknown", NO_ANSWER_RECORDED, "gs-1")
    assert "does not know the answer" in str(read.reason)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b'A {"claim": 3, "status": "accepted"}', id="of no message"),
        pytest.param(b'A {"message_id": "1", "claim": 3, "status": "accepted"}', id="of no number"),
        pytest.param(b'A {"message_id": 1, "status": "accepted"}', id="of no claim"),
        pytest.param(b'A [1, 3, "accepted"]', id="a list"),
        pytest.param(b"A 1", id="a number"),
        pytest.param(b"B 1 3", id="another kind of line"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_a_line_that_cannot_be_read_spoils_no_other(folder: Path, line: bytes) -> None:
    assert lines(folder, line, b"S 2 1") == ({1: 3, 2: 1}, [])


def test_a_start_to_which_another_version_adds_something_is_not_missed(folder: Path) -> None:
    assert lines(folder, b"S 2 5 1763733600 x")[0] == {1: 3, 2: 5}


# -- segments ---------------------------------------------------------------------------------------------


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 200)
    return 200


def test_files_of_which_everything_is_recorded_are_deleted(folder: Path, small_segments: int) -> None:
    living = Journal(folder, "one")
    for message_id in range(200):
        living.start(message_id, 1)
        living.answer(accepted(message_id))
        if message_id != 20:
            living.recorded([accepted(message_id)])
    # That of the open request, and the one that is written to.
    assert len(list(folder.glob("*.journal"))) == 2
    assert sum(path.stat().st_size for path in folder.glob("*.journal")) < 4 * small_segments
    living.recorded([accepted(20)])
    assert len(list(folder.glob("*.journal"))) == 1
    living.close()
    assert names(folder) == []


def test_an_answer_stands_beside_its_start_however_many_files_later(
    folder: Path, small_segments: int
) -> None:
    dying = Journal(folder, "gone")
    dying.start(1, 1)
    for message_id in range(2, 60):
        dying.start(message_id, 1)
    dying.answer(accepted(1))
    assert b"A " in (folder / "gone.1.journal").read_bytes()
    dying.recorded([accepted(message_id) for message_id in range(2, 60)])
    dying.close()
    started, answers = found(folder)[0][1:]
    assert (started[1], answers) == (1, [accepted(1)])


def test_starts_of_all_files_are_found_in_order(folder: Path, small_segments: int) -> None:
    dying = Journal(folder, "gone")
    for claim in range(1, 160):
        for message_id in range(3):
            dying.start(message_id, claim)
    dying.close()
    assert len(list(folder.glob("*.journal"))) > 10
    assert found(folder)[0][1] == {0: 159, 1: 159, 2: 159}


def test_a_clean_end_leaves_nothing_and_an_open_request_leaves_the_journal(folder: Path) -> None:
    clean, dirty = Journal(folder, "clean"), Journal(folder, "dirty")
    clean.start(1, 1)
    clean.recorded([accepted(1)])
    clean.close()
    clean.close()
    dirty.start(2, 1)
    dirty.close()
    assert names(folder) == ["dirty.1.journal", "dirty.lock"]


def test_a_journal_stays_for_rows_that_were_claimed_and_never_recorded(folder: Path) -> None:
    ending = Journal(folder, "one")
    ending.close(all_recorded=False)
    assert found(folder) == [("one", {}, [])]


def test_a_closed_journal_writes_to_no_file_that_was_opened_since(folder: Path, tmp_path: Path) -> None:
    ending = Journal(folder, "one")
    ending.start(1, 1)
    ending.close()
    descriptors = [os.open(tmp_path / f"other-{n}", os.O_RDWR | os.O_CREAT) for n in range(5)]
    with pytest.raises(JournalFull):
        ending.start(2, 1)
    with pytest.raises(JournalFull):
        ending.answer(accepted(1))
    ending.recorded([accepted(1)])
    for descriptor in descriptors:
        assert os.fstat(descriptor).st_size == 0
        os.close(descriptor)
    assert found(folder) == [("one", {1: 1}, [])]


# -- no space ---------------------------------------------------------------------------------------------

FULL = """
import resource
from disparo.batches import Outcome
from disparo.statuses import Status
from worker.journal import Journal, JournalFull
j = Journal(Path(sys.argv[1]), 'gone')
resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
started, refused = [], 0
for message_id in range(1000, 1030):
    try:
        j.start(message_id, 1)
        started.append(message_id)
    except JournalFull as err:
        assert 'cannot be written' in str(err), err
        refused += 1
assert refused > 10, refused
try:
    j.answer(Outcome(1000, 1, Status.ACCEPTED))
    raise SystemExit('an answer was written to a full disk')
except JournalFull:
    pass
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.getrlimit(resource.RLIMIT_FSIZE)[1],) * 2)
j.start(2000, 1)
print(started + [2000])
"""


def test_a_full_disk_starts_nothing_and_spoils_no_later_start(folder: Path) -> None:
    ended = run(FULL, folder)
    assert ended.returncode == 9, ended.stderr
    started = found(folder)[0][1]
    assert str(list(started)) == ended.stdout.strip()
    assert len(started) == 64 // len("S 1000 1\n") + 1


def test_what_could_not_be_torn_off_ends_before_the_next_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = Journal(folder, "gone")
    write, truncate = os.write, os.ftruncate
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda descriptor, line: write(descriptor, line[:4]))

        def refuse(descriptor: int, size: int) -> None:
            raise OSError(errno.EIO, "input/output error")

        full.setattr(os, "ftruncate", refuse)
        with pytest.raises(JournalFull):
            dying.start(123456, 1)
    assert os.ftruncate is truncate
    dying.start(7, 1)
    dying.close()
    assert found(folder) == [("gone", {7: 1}, [])]


def test_a_folder_that_is_full_begins_no_new_file_and_starts_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, small_segments: int
) -> None:
    living = Journal(folder, "one")
    while (folder / "one.1.journal").stat().st_size <= small_segments:
        living.start(1, 1)
    with monkeypatch.context() as full:

        def refuse(*_: object) -> int:
            raise OSError(errno.ENOSPC, "no space left on device")

        full.setattr(os, "open", refuse)
        with pytest.raises(JournalFull, match="no space left"):
            living.start(2, 1)
    living.start(3, 1)
    living.close()
    assert found(folder) == [("one", {1: 1, 3: 1}, [])]


def test_a_start_is_in_the_file_when_the_owner_is_killed_right_after_it(folder: Path) -> None:
    owner = subprocess.Popen(
        [
            sys.executable,
            "-c",
            (
                "import sys, time\nfrom pathlib import Path\nfrom worker.journal import Journal\n"
                "j = Journal(Path(sys.argv[1]), 'gone')\nj.start(5, 2)\nprint('started', flush=True)\ntime.sleep(60)"
            ),
            str(folder),
        ],
        stdout=subprocess.PIPE,
    )
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"started\n"
        assert found(folder) == []
    finally:
        owner.kill()
        owner.communicate()
    deadline = time.monotonic() + 10
    while not (adopted := found(folder)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert adopted == [("gone", {5: 2}, [])]
