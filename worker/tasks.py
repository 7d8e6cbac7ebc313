"""The tasks: thin, each hands over to the sender.

While a newer version is being rolled out, its scheduler names jobs to workers of this one. A keyword argument
that is not known here is ignored: a job only says where to look, and the rows say what to do.
"""

from collections.abc import Callable

from celery import Celery
from sqlalchemy.exc import DBAPIError

from disparo import log
from disparo.errors import DatabaseUnavailable, DisparoError
from disparo.queue import SEND_BATCH, SEND_MESSAGES
from worker.process import Process
from worker.sender import Sender

logger = log.get(__name__)

LONGEST_WAIT_SECONDS = 2.0


def register(app: Celery, process: Process) -> None:
    """Register the tasks under their fixed names."""

    @app.task(name=SEND_BATCH, shared=False)
    def send_batch(batch_id: int, **_: object) -> None:
        take(process.sender, lambda: process.sender.take_batch(batch_id))

    @app.task(name=SEND_MESSAGES, shared=False)
    def send_messages(app_id: int, message_ids: list[int], **_: object) -> None:
        take(process.sender, lambda: process.sender.take_messages(app_id, message_ids))


def take(sender: Sender, job: Callable[[], None]) -> None:
    """Hand a job over, once PostgreSQL answers; one that cannot be taken is named again after a minute."""
    delay = 0.1
    while True:
        try:
            return job()
        except DatabaseUnavailable as err:
            # Nothing else could be done with this thread: all work begins in the tables.
            sender.tell("job_waits_for_database", err)
            if sender.closing.wait(delay):
                return None
            delay = min(LONGEST_WAIT_SECONDS, delay * 2)
        except (DisparoError, DBAPIError) as err:
            sender.tell("job_left", err)
            return None
