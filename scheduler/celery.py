"""``celery -A scheduler beat`` and ``celery -A scheduler worker -Q control``."""

from typing import Any

from celery.signals import worker_init, worker_shutdown

from disparo import log, schema
from disparo.connections import connect
from disparo.errors import DisparoError
from disparo.queue import CONTROL, make_celery
from scheduler.ticks import TICKS, register

try:
    connections = connect(name="disparo-scheduler", pool_size=4)
    log.configure(connections.settings.log_level)
    app = make_celery("scheduler", connections.redis_url)
except DisparoError as err:
    raise SystemExit(f"the scheduler cannot start: {err}") from err
app.conf.beat_schedule = {
    name: {"task": name, "schedule": tick.seconds, "options": {"queue": CONTROL, "expires": 60}}
    for name, tick in TICKS.items()
}
register(app, connections)


@worker_init.connect(weak=False)
def start(**_: Any) -> None:
    """Refuse a database that this code does not fit."""
    try:
        schema.require_current(connections.engine)
    except DisparoError as err:
        raise SystemExit(f"the scheduler cannot start: {err}") from err


@worker_shutdown.connect(weak=False)
def stop(**_: Any) -> None:
    """Give the servers back."""
    connections.close()
