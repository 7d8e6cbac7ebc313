"""A newer version is rolled out: it upgrades the database under the workers of this one, and names them jobs."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select

from disparo import counters, db
from disparo.connections import Connections
from disparo.models import App, Campaign, Message, Worker
from disparo.queue import BULK, SEND_BATCH, SEND_MESSAGES, make_celery
from disparo.sandbox import Options, Sandbox
from disparo.statuses import Status
from tests import newer_schema
from tests.acceptance.test_processes import Processes
from tests.factories.app import make_app
from tests.factories.campaign import make_campaign, recount
from tests.factories.message import make_message


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(Options(latency_ms="50-100")) as made:
        yield made


@pytest.fixture
def system(tmp_path: Path, connections: Connections) -> Iterator[Processes]:
    """The processes that send, on the servers of ``connections``."""
    made = Processes(tmp_path, **connections.environment.values)
    for service in ("worker-bulk", "control", "beat"):
        made.start(service)
    yield made
    made.end()


def accepted(connections: Connections) -> int:
    with connections.session() as session:
        query = select(func.count()).where(Message.status == Status.ACCEPTED)
        return session.scalar(query) or 0


def workers(connections: Connections) -> set[str]:
    with connections.session() as session:
        return set(session.scalars(select(Worker.name)))


def test_old_workers_go_on_while_a_newer_version_upgrades_the_database_and_names_jobs(
    system: Processes, connections: Connections, sandbox: Sandbox
) -> None:
    with connections.session() as session:
        app = make_app(session, rate=200.0, base_url=sandbox.url)
        before = make_campaign(session, app, 500, name="before")
    system.until(lambda: sandbox.stats()["arrivals"] > 100, "the campaign to be under way")
    (old,) = workers(connections)

    with connections.engine.connect() as connection:
        newer_schema.upgrade(connection)
    assert sandbox.stats()["arrivals"] < 500, "the worker had ended its work before"
    # One more worker of this code, that finds the newer tables.
    second = system.start("worker-bulk")
    with connections.session() as session:
        # Only the jobs of a newer version name these; the scheduler sees that they are named.
        now, app = db.now(session), session.get_one(App, app.id)
        single, other = (
            make_message(session, app, to, due_at=now, released_at=now)
            for to in ("5511987650001", "5511987650002")
        )
    newer = make_celery("newer", connections.redis_url)
    newer.send_task(SEND_MESSAGES, args=[app.id, [single.id]], kwargs={"shard": 3}, queue=BULK)
    newer.send_task(SEND_BATCH, args=[1], kwargs={"shard": 3, "trace": {"id": "x"}}, queue=BULK)
    newer.send_task("disparo.send_shard", args=[app.id, [other.id]], kwargs={"shard": 3}, queue=BULK)
    newer.close()
    system.until(lambda: accepted(connections) >= 501, "the campaign and a message to be accepted")
    system.until(lambda: len(workers(connections)) == 2, "the other worker")
    assert old in workers(connections), "the old worker did not go on"

    # Drained, it leaves the rest to the other.
    first = system.running[0]
    first.terminate()
    assert first.wait(25) == 0, system.log[-3000:]
    assert second.poll() is None
    with connections.session() as session:
        content = {"type": "text", "text": {"body": "Até mais, {{ nome }}"}}
        after = make_campaign(session, session.get_one(App, app.id), 50, name="after", content=content)
    # The job that nobody understood is lost, and what it named is named again.
    system.until(
        lambda: accepted(connections) == 552, "the second campaign and the other message to be accepted"
    )

    stats = sandbox.stats()
    assert (stats["arrivals"], stats["repeated"]) == (552, 0)
    with connections.session() as session:
        (sender,) = set(session.scalars(select(Message.claimed_by).where(Message.campaign_id == after.id)))
        assert sender != old
        for campaign in (before, after):
            found = counters.counts(session, [campaign.id])[campaign.id]
            assert found == recount(session, session.get_one(Campaign, campaign.id))
    assert "unexpected keyword" not in system.log
