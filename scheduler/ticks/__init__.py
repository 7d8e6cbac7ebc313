"""The ticks: each is its own transaction under its own lock, so that two schedulers are harmless."""

from collections.abc import Callable
from dataclasses import dataclass
from zlib import crc32

from celery import Celery
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from disparo import log
from disparo.connections import Connections
from disparo.errors import DisparoError
from scheduler.ticks import budgets, finish_campaigns, notify, recover, release, release_reminders, tune

logger = log.get(__name__)


@dataclass(frozen=True, slots=True)
class Tick:
    """What is done, and how often."""

    run: Callable[[Connections, Session], Callable[[], None] | None]
    seconds: float


#: Fixed names, so that moving a function does not orphan what is queued.
TICKS = {
    "disparo.tick.release": Tick(release.run, 0.5),
    "disparo.tick.release_reminders": Tick(release_reminders.run, 1.0),
    "disparo.tick.finish_campaigns": Tick(finish_campaigns.run, 1.0),
    "disparo.tick.budgets": Tick(budgets.run, 1.0),
    "disparo.tick.recover": Tick(recover.run, 2.0),
    "disparo.tick.notify": Tick(notify.run, 1.0),
    "disparo.tick.tune": Tick(tune.run, 1.0),
}


def register(app: Celery, connections: Connections) -> None:
    """Register every tick under its fixed name."""
    for name, tick in TICKS.items():
        # Not shared: every other Celery application of the process, the enqueuing one too, would get it.
        app.task(name=name, shared=False)(_task(name, tick, connections))


def _task(name: str, tick: Tick, connections: Connections) -> Callable[[], None]:
    def task() -> None:
        try:
            run(name, tick, connections)
        except (DisparoError, DBAPIError) as err:
            # The next tick looks again; a traceback each second would hide what else is told.
            logger.warning("tick_failed", tick=name, error=" ".join(str(err).split())[:300])

    return task


def run(name: str, tick: Tick, connections: Connections) -> bool:
    """Run a tick once unless another process runs it now; what it enqueues goes out after its commit."""
    after = None
    with connections.session() as session:
        # Transaction-level: right under PgBouncer's transaction mode, and free when this process dies.
        key = crc32(name.encode())
        if not session.execute(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": key}).scalar_one():
            return False
        after = tick.run(connections, session)
    if after is not None:
        after()
    return True
