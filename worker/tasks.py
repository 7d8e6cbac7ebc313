"""The tasks: thin, each hands over to the sender."""

from celery import Celery

from disparo.queue import SEND_BATCH, SEND_MESSAGES
from worker.process import Process


def register(app: Celery, process: Process) -> None:
    """Register the tasks under their fixed names."""

    @app.task(name=SEND_BATCH)
    def send_batch(batch_id: int) -> None:
        process.sender.take_batch(batch_id)

    @app.task(name=SEND_MESSAGES)
    def send_messages(app_id: int, message_ids: list[int]) -> None:
        process.sender.take_messages(app_id, message_ids)
