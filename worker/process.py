"""The sender of this process: made when the worker starts, drained when it is told to stop."""

import os
import threading
from pathlib import Path
from typing import Any

from celery import Celery
from celery.signals import worker_init, worker_process_shutdown, worker_shutdown, worker_shutting_down

from disparo import log, schema
from disparo.connections import Connections
from disparo.errors import DisparoError
from worker.sender import Sender

logger = log.get(__name__)

#: What a drain may take: `disparo up` ends a worker after 25 seconds.
GRACE_SECONDS = 20.0


class Process:
    """Holds the one sender of a worker process; a forked child makes its own."""

    def __init__(self, connections: Connections) -> None:
        self.connections = connections
        self.queues = ""
        self._sender: Sender | None = None
        self._pid = 0
        self._mutex = threading.Lock()

    @property
    def sender(self) -> Sender:
        """The sender of this very process."""
        with self._mutex:
            if self._sender is None or self._pid != os.getpid():
                if self._sender is not None:
                    # Connections of the parent must not be used, nor closed, by its child.
                    self.connections.engine.dispose(close=False)
                self._sender, self._pid = Sender(self.connections, queues=self.queues), os.getpid()
            return self._sender

    def drain(self) -> None:
        """Put back what was not started and wait for what was."""
        with self._mutex:
            if self._sender is not None and self._pid == os.getpid():
                self._sender.close(GRACE_SECONDS)
                self._sender = None


def attach(app: Celery, process: Process) -> None:
    """Tie the process's sender to Celery's start and stop."""

    @worker_init.connect(weak=False)
    def start(**_: Any) -> None:
        try:
            schema.require_current(process.connections.engine)
            process.queues = ",".join(sorted(app.amqp.queues)) if app.amqp.queues else ""
            name = process.sender.name
        except DisparoError as err:
            raise SystemExit(f"this worker cannot start: {err}") from err
        logger.info("worker_ready", worker=name, home=str(Path(process.connections.settings.home)))

    @worker_shutting_down.connect(weak=False)
    def stop(**_: Any) -> None:
        # Jobs that wait for room must end, or the warm shutdown waits for them.
        threading.Thread(target=process.drain, name="drain", daemon=False).start()

    @worker_shutdown.connect(weak=False)
    def stopped(**_: Any) -> None:
        process.drain()
        process.connections.close()

    @worker_process_shutdown.connect(weak=False)
    def child_stopped(**_: Any) -> None:
        process.drain()
