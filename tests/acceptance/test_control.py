"""A person stops and lets go while real processes send, and is killed while doing so; counted at the sandbox."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from disparo import campaigns, db
from disparo.sandbox import Options
from tests.acceptance.conftest import TOKEN, installed, wait_for

THREADS = 32
WRONG = "sk_ffffffffffffffffffffffffffffffff"


@pytest.fixture
def guarded():
    """A home on a sandbox that knows its one app and token; the token is in a file."""
    with installed(Options(apps={"app-1": TOKEN})) as made:
        made.extra = {"DISPARO_TOKEN_LOJA": "", "DISPARO_TOKEN_LOJA_FILE": str(made.folder / "token")}
        yield made


def test_a_wrong_token_costs_the_requests_in_flight_and_nothing_is_sent_twice_afterwards(guarded):
    rows, workers = 5_000, 2
    token = guarded.folder / "token"
    token.write_text(WRONG)
    guarded.start("--workers", str(workers))
    guarded.run("campaign", "launch", *guarded.campaign("errada", rows), "--yes")
    guarded.until(lambda: guarded.json("app", "show", "loja")["state"] == "paused", "the app to be paused")
    guarded.until(lambda: "sending" not in guarded.statuses("errada"), "nothing to be under way")
    spent = guarded.statuses("errada")["failed"]
    # Each process learns of it by its own refusal at the latest. The urgent worker sends no campaign.
    assert 1 <= spent <= workers * THREADS
    assert guarded.sandbox.stats()["arrivals"] == spent
    shown = guarded.json("app", "show", "loja")
    assert (shown["code"], shown["effective_rate"]) == ("authentication_failed", 0)
    (stop,) = guarded.status("errada")["stops"]
    assert (stop["scope"], stop["code"], stop["next_probe_at"]) == ("app", "authentication_failed", None)
    assert WRONG not in guarded.log()

    refused = guarded.run("app", "resume", "loja", check=False)
    assert refused.returncode == 1
    assert "one message was tried and refused again" in refused.stderr
    assert guarded.sandbox.stats()["arrivals"] == spent + 1
    assert guarded.statuses("errada") == {"failed": spent, "pending": rows - spent}

    token.write_text(TOKEN)
    done = guarded.run("app", "resume", "loja", "--retry", "--why", "new token")
    assert "loja sends again" in done.stdout
    assert guarded.settled("errada") == {"accepted": rows}
    stats = guarded.sandbox.stats()
    assert (stats["accepted"], stats["distinct"], stats["repeated"]) == (rows, rows, 0)
    guarded.until(lambda: guarded.status("errada")["state"] == "finished", "the campaign to finish")
    said = [(one["verb"], one["why"]) for one in guarded.json("app", "show", "loja")["history"]]
    assert ("resume", "new token") in said
    guarded.stop()


def set_state(connections, name, verb):
    """As ``disparo campaign pause|resume``, without a process for each."""
    with connections.session() as session:
        campaign = campaigns.get(session, name, lock=True)
        if verb == "pause":
            campaigns.pause(session, campaign)
        else:
            campaigns.resume(session, campaign, db.now(session))
    connections.limiter.announce()


def test_two_hundred_pauses_in_a_blast_skip_nothing_and_repeat_nothing(installation):
    rows, pairs = 4000, 200
    chance = random.Random(4)  # noqa: S311 - instants of a test
    installation.sandbox.control(latency_ms="20-60")
    installation.run("app", "set", "loja", "--rate", "500")
    installation.start("--workers", "2")
    installation.run("campaign", "launch", *installation.campaign("pausas", rows), "--yes")
    installation.until(lambda: installation.sandbox.stats()["accepted"] > 50, "the blast to begin")
    still = 0
    with installation.connections() as connections:
        for pair in range(pairs):
            set_state(connections, "pausas", "pause")
            if pair % 20 == 0:
                # What had begun comes to its end; then nothing moves, for as long as one looks.
                wait_for(lambda: "sending" not in installation.statuses("pausas"))
                before = installation.sandbox.stats()["arrivals"]
                time.sleep(0.3)
                assert installation.sandbox.stats()["arrivals"] == before
                still += 1
            else:
                time.sleep(chance.uniform(0.0, 0.03))
            set_state(connections, "pausas", "resume")
            time.sleep(chance.uniform(0.0, 0.05))
    assert still == 10
    assert installation.settled("pausas") == {"accepted": rows}
    stats = installation.sandbox.stats()
    assert (stats["accepted"], stats["repeated"]) == (rows, 0)
    installation.stop()


def killed(installation, *arguments, seconds):
    """A command that is killed after a while, wherever it is then."""
    process = subprocess.Popen(
        [sys.executable, "-m", "disparo", *arguments],
        env=installation.environ,
        cwd=installation.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()


def test_commands_that_are_killed_in_the_middle_leave_each_message_in_one_state(installation):
    """Each verb is killed at a random instant in a running blast, then run to its end; nothing is sent twice."""
    chance = random.Random(9)  # noqa: S311 - instants of a test
    rows = 1500
    installation.sandbox.control(
        latency_ms="20-60", suffix_faults={"7": "meta:131009*1", "3": "close-after*1"}
    )
    installation.run("app", "set", "loja", "--rate", "150")
    installation.start("--workers", "2")
    installation.run("campaign", "launch", *installation.campaign("mortes", rows), "--yes")
    installation.run("campaign", "launch", *installation.campaign("outra", 3000, first=50_000), "--yes")
    installation.until(lambda: installation.sandbox.stats()["arrivals"] > 100, "the blast to begin")

    def twice(*arguments):
        killed(installation, *arguments, seconds=chance.uniform(0.3, 1.2))
        return installation.run(*arguments, check=False)

    twice("campaign", "pause", "mortes", "--why", "test")
    assert installation.status("mortes")["state"] == "paused"
    twice("campaign", "resume", "mortes")
    assert installation.status("mortes")["state"] == "running"
    twice("campaign", "cancel", "outra")
    twice("app", "pause", "loja")
    twice("app", "resume", "loja")
    installation.until(lambda: "pending" not in installation.statuses("mortes"), "the rest to leave")
    installation.until(lambda: "sending" not in installation.statuses("mortes"), "the answers")
    found = installation.statuses("mortes")
    assert (found["failed"], found["unknown"]) == (150, 150)
    twice("campaign", "retry", "mortes", "--code", "131009")
    twice("campaign", "resolve", "mortes", "--sent", "--yes")
    assert installation.settled("mortes") == {"accepted": rows}
    assert installation.settled("outra").keys() <= {"accepted", "cancelled", "failed", "unknown"}
    stats = installation.sandbox.stats()
    assert stats["repeated"] == 0
    installation.until(lambda: installation.status("mortes")["state"] == "finished", "mortes to finish")
    installation.stop()
