"""The contract of names: what is enqueued by name is registered under that name and takes those arguments."""

import inspect
import json
import os
import subprocess
import sys
from typing import Any

import pytest
from celery import Celery

from disparo import queue
from disparo.connections import Connections
from disparo.queue import CONTROL, Queue, make_celery
from scheduler import ticks
from scheduler.ticks import TICKS
from worker import tasks
from worker.process import Process


@pytest.fixture
def worker(connections: Connections) -> Celery:
    app = make_celery("worker", connections.redis_url)
    tasks.register(app, Process(connections))
    return app


@pytest.fixture
def scheduler(connections: Connections) -> Celery:
    app = make_celery("scheduler", connections.redis_url)
    ticks.register(app, connections)
    return app


def ours(app: Celery) -> set[str]:
    return {name for name in app.tasks if name.startswith("disparo.")}


def test_every_job_that_the_library_enqueues_is_registered_with_its_arguments(
    worker: Celery, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueued: list[tuple[str, list[Any]]] = []
    library = Queue(redis_url)
    monkeypatch.setattr(library, "_send", lambda task, args, _: enqueued.append((task, args)))
    library.send_batch(1)
    library.send_messages(1, (2, 3))
    verbs = [name for name in vars(Queue) if name.startswith("send_")]
    assert len(enqueued) == len(verbs)
    assert {task for task, _ in enqueued} == ours(worker)
    for task, args in enqueued:
        assert json.loads(json.dumps(args)) == args
        inspect.signature(worker.tasks[task].run).bind(*args)


def test_the_names_are_fixed(worker: Celery, scheduler: Celery) -> None:
    # What is in a queue during an upgrade was named by the version before.
    assert ours(worker) == {"disparo.send_batch", "disparo.send_messages"}
    assert ours(scheduler) == {
        "disparo.tick.release",
        "disparo.tick.release_reminders",
        "disparo.tick.finish_campaigns",
        "disparo.tick.budgets",
        "disparo.tick.recover",
        "disparo.tick.notify",
        "disparo.tick.tune",
    }
    named = {
        value for value in vars(queue).values() if isinstance(value, str) and value.startswith("disparo.")
    }
    assert named - {queue.__name__} == ours(worker)


def test_every_tick_is_registered_and_takes_no_argument(scheduler: Celery) -> None:
    assert ours(scheduler) == set(TICKS)
    for name in TICKS:
        inspect.signature(scheduler.tasks[name].run).bind()


def test_the_applications_that_celery_loads_have_them_and_the_clock_names_them(
    connections: Connections,
) -> None:
    # As `celery -A worker` and `celery -A scheduler` do, in a process of its own.
    code = """
import json
from scheduler.celery import app as scheduler
from worker.celery import app as worker
print(json.dumps([
    [name for name in worker.tasks if name.startswith("disparo.")],
    [name for name in scheduler.tasks if name.startswith("disparo.")],
    {entry["task"]: entry["options"] for entry in scheduler.conf.beat_schedule.values()},
]))
"""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("DISPARO_")}
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=environ | dict(connections.environment.values),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    sends, ticked, clock = json.loads(ended.stdout)
    assert set(sends) == {queue.SEND_BATCH, queue.SEND_MESSAGES}
    assert set(ticked) == set(TICKS) == set(clock)
    # A tick that nobody took in time is worth nothing: the next one looks at the same rows.
    assert all(options == {"queue": CONTROL, "expires": 60} for options in clock.values())
