"""Celery's own command line: refusals in a sentence, and health checks that tell the truth."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat")
WORKER = ("celery", "--quiet", "-A", "worker", "worker", "-Q", "bulk", *QUIET)
CONTROL = ("celery", "--quiet", "-A", "scheduler", "worker", "-Q", "control", *QUIET)
BEAT = ("celery", "--quiet", "-A", "scheduler", "beat")
#: Nobody listens there.
AWAY = {
    "database": "postgresql://disparo:geheim@127.0.0.1:1/disparo",
    "redis": "redis://:geheim@127.0.0.1:1/0",
}


@pytest.fixture
def given(servers, home: Path) -> dict[str, str]:
    """Settings with which a process starts."""
    return {"DISPARO_HOME": str(home / "home"), "DISPARO_REDIS_URL": servers.redis_url}


def run(command: tuple[str, ...], settings: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DISPARO_")}
    return subprocess.run(
        [sys.executable, "-m", *command],
        env=kept | settings | {"PYTHONSAFEPATH": "1", "PYTHONWARNINGS": "ignore"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def refusal(command: tuple[str, ...], settings: dict[str, str], folder: Path) -> str:
    """The one sentence with which a process refuses to start."""
    done = run(command, settings, folder)
    assert done.returncode == 1, (done.stdout, done.stderr)
    [sentence] = done.stderr.splitlines()
    assert "geheim" not in sentence
    return sentence


@pytest.mark.parametrize("command", [WORKER, CONTROL], ids=["worker", "control"])
def test_a_database_without_tables_is_refused(command, given, empty_database_url, tmp_path):
    sentence = refusal(command, given | {"DISPARO_DATABASE_URL": empty_database_url}, tmp_path)
    assert "run `disparo db upgrade`" in sentence


@pytest.mark.parametrize("command", [WORKER, CONTROL], ids=["worker", "control"])
def test_a_database_that_does_not_answer_is_named(command, given, tmp_path):
    sentence = refusal(command, given | {"DISPARO_DATABASE_URL": AWAY["database"]}, tmp_path)
    assert "PostgreSQL does not answer" in sentence
    assert "DISPARO_DATABASE_URL" in sentence


@pytest.mark.parametrize("command", [WORKER, CONTROL, BEAT], ids=["worker", "control", "beat"])
def test_a_redis_that_does_not_answer_is_named(command, given, database_url, tmp_path):
    settings = given | {"DISPARO_DATABASE_URL": database_url, "DISPARO_REDIS_URL": AWAY["redis"]}
    sentence = refusal(command, settings, tmp_path)
    assert "Redis does not answer" in sentence
    assert "DISPARO_REDIS_URL" in sentence


@pytest.mark.parametrize("command", [WORKER, CONTROL, BEAT], ids=["worker", "control", "beat"])
def test_an_address_that_is_none_is_named(command, given, database_url, tmp_path):
    settings = given | {"DISPARO_DATABASE_URL": database_url, "DISPARO_REDIS_URL": "http://redis"}
    assert "DISPARO_REDIS_URL" in refusal(command, settings, tmp_path)


@pytest.mark.parametrize("command", [WORKER, CONTROL, BEAT], ids=["worker", "control", "beat"])
def test_a_home_that_cannot_be_written_is_named(command, given, database_url, tmp_path):
    (tmp_path / "file").touch()
    settings = given | {
        "DISPARO_DATABASE_URL": database_url,
        "DISPARO_HOME": str(tmp_path / "file" / "home"),
    }
    sentence = refusal(command, settings, tmp_path)
    assert str(tmp_path / "file") in sentence
    assert "DISPARO_HOME" in sentence


def test_a_worker_refuses_any_pool_but_threads(given, database_url, tmp_path):
    sentence = refusal((*WORKER, "-P", "solo"), given | {"DISPARO_DATABASE_URL": database_url}, tmp_path)
    assert "leave -P (--pool) out" in sentence


@pytest.mark.parametrize("queue", [(), ("bulk",)], ids=["any", "bulk"])
def test_without_a_worker_the_check_is_unhealthy(queue, given, database_url, tmp_path):
    sentence = refusal(("worker.health", *queue), given | {"DISPARO_DATABASE_URL": database_url}, tmp_path)
    assert sentence.startswith("unhealthy: no worker")


def test_without_its_database_a_worker_is_unhealthy(given, tmp_path):
    sentence = refusal(("worker.health",), given | {"DISPARO_DATABASE_URL": AWAY["database"]}, tmp_path)
    assert sentence.startswith("unhealthy: PostgreSQL does not answer")


@pytest.mark.parametrize("part", ["beat", "control"])
def test_a_part_of_the_scheduler_is_healthy_while_its_sign_of_life_is_fresh(part, given, tmp_path):
    check = ("scheduler.health", part)
    assert refusal(check, given, tmp_path).startswith(f"unhealthy: {part} has not run")
    sign = Path(given["DISPARO_HOME"]) / f"{part}.alive"
    sign.parent.mkdir()
    sign.touch()
    assert run(check, given, tmp_path).returncode == 0
    os.utime(sign, (0, 0))
    assert refusal(check, given, tmp_path).startswith(f"unhealthy: {part} has done nothing")
