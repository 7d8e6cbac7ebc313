"""kill -9 in the middle of `amend` and of `launch --from-campaign`: all of it or nothing, and the same command goes on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from disparo.connections import Connections
from disparo.models import Campaign
from disparo.settings import Environment
from tests.factories.app import make_app
from tests.factories.campaign import make_campaign, recount

AGAIN = """\
name: {name}
app: loja
dedupe: none
message: {{type: text, text: {{body: "De novo, {{{{ nome }}}}"}}}}
"""


@contextmanager
def killed_when_it_waits(
    connections: Connections, environment: Environment, lock: str, *arguments: object
) -> Iterator[Session]:
    """A command that is killed as soon as it waits for what ``lock`` has locked."""
    with connections.sessions() as holder, connections.sessions() as look:
        holder.execute(text(lock))
        process = subprocess.Popen(
            [sys.executable, "-m", "disparo", *map(str, arguments)],
            env={**os.environ, **environment.values},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            until = time.monotonic() + 60
            while not look.execute(
                text(
                    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
                )
            ).all():
                look.rollback()
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < until
                time.sleep(0.02)
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        holder.rollback()
        # Its transaction ends when the server notices that nobody is there any more.
        while look.execute(
            text(
                "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        ).all():
            look.rollback()
            assert time.monotonic() < until
            time.sleep(0.02)
        yield look


@pytest.fixture
def old(connections: Connections) -> int:
    """A paused campaign of twelve messages."""
    with connections.session() as session:
        options = {"columns": {}, "normalise": False, "raw": False, "numbers": None}
        return make_campaign(session, make_app(session), 12, state="paused", options=options).id


def test_an_amendment_that_is_killed_at_its_last_step_has_changed_nothing(
    connections: Connections, environment: Environment, old: int, tmp_path: Path, run
) -> None:
    file = tmp_path / "amended.yaml"
    file.write_text(AGAIN.format(name="black-friday"))
    versions = text("SELECT c.version, (SELECT count(*) FROM campaign_contents) FROM campaigns c")
    # Its last step: the action is written after the content was replaced.
    lock = "LOCK TABLE actions IN EXCLUSIVE MODE"
    with killed_when_it_waits(
        connections, environment, lock, "campaign", "amend", "black-friday", file
    ) as look:
        assert look.execute(versions).one() == (1, 0)
    assert run("campaign", "amend", "black-friday", file).code == 0
    with connections.session() as session:
        assert session.execute(versions).one() == (2, 1)


@pytest.mark.parametrize(
    "lock",
    [
        # The first row of the first page; the copies are made, their sources wait; the launch itself.
        "SELECT 1 FROM messages WHERE line = 2 FOR UPDATE",
        "LOCK TABLE counter_deltas IN EXCLUSIVE MODE",
        "LOCK TABLE actions IN EXCLUSIVE MODE",
    ],
)
def test_a_move_that_is_killed_goes_on_with_every_message_once(
    connections: Connections, environment: Environment, old: int, tmp_path: Path, run, lock: str
) -> None:
    file = tmp_path / "again.yaml"
    file.write_text(AGAIN.format(name="again"))
    arguments = ("campaign", "launch", file, "--from-campaign", "black-friday", "--yes")
    with killed_when_it_waits(connections, environment, lock, *arguments) as look:
        copied = (
            "SELECT count(*) FROM messages m JOIN campaigns c ON c.id = m.campaign_id AND c.name = 'again'"
        )
        moved = "SELECT count(*) FROM messages WHERE moved_to IS NOT NULL AND status = 'cancelled'"
        assert look.execute(text(copied)).scalar_one() == look.execute(text(moved)).scalar_one()
        assert look.execute(text("SELECT state FROM campaigns WHERE name = 'again'")).scalars().all() == [
            "importing"
        ]
    done = run(*arguments)
    assert (done.code, done.out) == (0, "again: 12 messages running\n"), done.err
    with connections.session() as session:
        rows = session.execute(
            text("SELECT line FROM messages WHERE campaign_id <> :old ORDER BY id"), {"old": old}
        )
        assert rows.scalars().all() == list(range(2, 14))
        assert recount(session, session.get_one(Campaign, old))["cancelled"] == 12
