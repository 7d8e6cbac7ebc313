"""The life of a worker process: one sender from its start to its end."""

import threading

import pytest
from sqlalchemy import text

from disparo.errors import DatabaseUnavailable, ServiceError
from worker import health
from worker.process import Process
from worker.tasks import take


def journals(connections) -> list[str]:
    return sorted(path.name for path in (connections.settings.home / "journal").iterdir())


def test_a_job_that_comes_after_the_stop_meets_the_same_sender_and_is_handed_back(connections):
    with connections.session() as session:
        session.execute(text("INSERT INTO apps (name, gs_app_id, rate) VALUES ('loja', 'app-1', 10)"))
        session.execute(
            text("""
                INSERT INTO messages (app_id, lane, recipient, recipient_key, status, content, due_at, released_at)
                SELECT id, 'utility', '5511999998888', '1199998888', 'pending', '{}', now(), now() FROM apps""")
        )
    process = Process(connections)
    process.start("bulk")
    sender = process.sender
    process.stop()
    process.stop()
    process.drain()
    assert process.sender is sender
    assert journals(connections) == []

    take(process.sender, lambda: process.sender.take_messages(1, [1]))

    with connections.session() as session:
        status, released_at = session.execute(text("SELECT status, released_at FROM messages")).one()
    assert (status, released_at) == ("pending", None)
    assert journals(connections) == []


def test_a_job_waits_for_a_database_that_is_away(connections):
    process = Process(connections)
    process.start("bulk")
    tries = []

    def job() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise DatabaseUnavailable("PostgreSQL does not answer")

    take(process.sender, job)
    assert len(tries) == 3
    process.drain()


def test_a_job_that_waits_for_the_database_does_not_hold_up_a_stop(connections):
    process = Process(connections)
    process.start("bulk")

    def job() -> None:
        raise DatabaseUnavailable("PostgreSQL does not answer")

    waiting = threading.Thread(target=take, args=(process.sender, job))
    waiting.start()
    process.drain()
    waiting.join(30)
    assert not waiting.is_alive()


def test_the_check_is_healthy_while_a_worker_of_that_host_and_queue_lives(connections):
    with connections.session() as session:
        session.execute(
            text("""
                INSERT INTO workers (name, host, pid, version, queues, seen_at) VALUES
                    ('a', 'here', 1, '1', 'bulk,events', now()),
                    ('b', 'here', 2, '1', 'urgent', now() - interval '1 minute')""")
        )
    health.check(connections, "here")
    health.check(connections, "here", "events")
    with pytest.raises(ServiceError, match="no worker of queue urgent on here was seen for 60 seconds"):
        health.check(connections, "here", "urgent")
    with pytest.raises(ServiceError, match="no worker of queue event on here is known"):
        health.check(connections, "here", "event")
    with pytest.raises(ServiceError, match="no worker on there is known"):
        health.check(connections, "there")
