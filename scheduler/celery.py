"""``celery -A scheduler beat`` and ``celery -A scheduler worker -Q control``."""

from typing import Any

from celery.signals import after_task_publish, beat_init, task_postrun, worker_init, worker_shutdown

from disparo import log, schema
from disparo.connections import connect
from disparo.errors import DisparoError
from disparo.queue import CONTROL, make_celery
from scheduler.health import Pulse
from scheduler.ticks import TICKS, register

try:
    connections = connect(name="disparo-scheduler", pool_size=9)
    log.configure(connections.settings.log_level)
    app = make_celery("scheduler", connections.redis_url)
except DisparoError as err:
    raise SystemExit(f"the scheduler cannot start: {err}") from err
app.conf.update(
    # In memory: the schedule is code, and due work is rows.
    beat_scheduler="scheduler.clock:Clock",
    beat_max_loop_interval=1,
    beat_schedule={
        name: {"task": name, "schedule": tick.seconds, "options": {"queue": CONTROL, "expires": 60}}
        for name, tick in TICKS.items()
    },
)
register(app, connections)


@beat_init.connect(weak=False)
def start_beat(**_: Any) -> None:
    """Refuse what beat would otherwise try for ever, and show signs of life."""
    pulse = Pulse(connections.settings.home, "beat")
    try:
        connections.limiter.was_emptied()
        pulse.begin()
    except DisparoError as err:
        raise SystemExit(f"the scheduler cannot start: {err}") from err

    @after_task_publish.connect(weak=False)
    def published(**_: Any) -> None:
        pulse.beat()


@worker_init.connect(weak=False)
def start(**_: Any) -> None:
    """Refuse servers that this code cannot work with, and show signs of life."""
    pulse = Pulse(connections.settings.home, "control")
    try:
        schema.require_current(connections.engine)
        connections.limiter.was_emptied()
        pulse.begin()
    except DisparoError as err:
        raise SystemExit(f"the scheduler cannot start: {err}") from err

    @task_postrun.connect(weak=False)
    def ran(**_: Any) -> None:
        pulse.beat()


@worker_shutdown.connect(weak=False)
def stop(**_: Any) -> None:
    """Give the servers back."""
    connections.close()
