"""The sender of this process: made when the worker starts, drained when it is told to stop."""

import threading
from typing import Any

from celery import Celery
from celery.concurrency import get_implementation
from celery.signals import worker_init, worker_shutdown, worker_shutting_down

from disparo import log, overrides, schema
from disparo.connections import Connections
from disparo.errors import DisparoError, SettingsError
from worker.sender import Sender

logger = log.get(__name__)

#: What a drain may take: `disparo up` ends a worker after 25 seconds.
GRACE_SECONDS = 20.0


class Process:
    """Holds the one sender of a worker process, from its start to its end."""

    def __init__(self, connections: Connections) -> None:
        self.connections = connections
        self._sender: Sender | None = None
        self._draining: threading.Thread | None = None

    @property
    def sender(self) -> Sender:
        """The sender of this process; once it drains, it hands back whatever job still comes."""
        if self._sender is None:
            raise RuntimeError("jobs come only after the worker has started")
        return self._sender

    def start(self, queues: str) -> None:
        """Look whether everything is there, and take up work.

        Raises:
          DisparoError: PostgreSQL, its tables, Redis, the journal's folder or ``codes.yaml`` are not as they
            must be.
        """
        table = overrides.load(self.connections.settings.home)
        schema.require_current(self.connections.engine)
        # Redis is asked too: Celery would try for ever, and nobody would see why nothing is sent.
        self.connections.limiter.was_emptied()
        self._sender = Sender(self.connections, queues=queues, table=table)
        logger.info(
            "worker_ready", worker=self._sender.name, queues=queues, home=str(self.connections.settings.home)
        )

    def stop(self) -> None:
        """Begin to drain, in a thread of its own; safe in a signal handler, and any number of times."""
        if self._sender is None or self._draining is not None:
            return
        # Not a daemon: a second Ctrl-C ends Celery's own threads at once, never a drain.
        self._draining = threading.Thread(
            target=self._sender.close, args=(GRACE_SECONDS,), name="drain", daemon=False
        )
        self._draining.start()

    def drain(self) -> None:
        """Put back what was not started and wait for what was."""
        self.stop()
        if self._draining is not None:
            self._draining.join()


def attach(app: Celery, process: Process) -> None:
    """Tie the process's sender to Celery's start and stop."""

    @worker_init.connect(weak=False)
    def start(sender: Any, **_: Any) -> None:
        try:
            _require_threads(sender.pool_cls)
            process.start(",".join(sorted(app.amqp.queues.consume_from)))
        except DisparoError as err:
            raise SystemExit(f"this worker cannot start: {err}") from err

    @worker_shutting_down.connect(weak=False)
    def stop(**_: Any) -> None:
        # At once: jobs that wait for room must end, or the warm shutdown waits for them.
        process.stop()

    @worker_shutdown.connect(weak=False)
    def stopped(**_: Any) -> None:
        # Celery has joined the jobs' threads by now, so nothing can come to the sender any more.
        process.drain()
        process.connections.close()


def _require_threads(pool: Any) -> None:
    if get_implementation(pool) is not get_implementation("threads"):
        raise SettingsError(
            "it runs with Celery's thread pool only, since one process is one sender with one journal; "
            "leave -P (--pool) out, and start more workers instead"
        )
