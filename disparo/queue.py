"""Names of queues and tasks, the Celery applications, and the functions that enqueue: the queue's only room.

A job names work ("this batch", "these ids"); the row is the truth. So a job that is lost is made again by
the scheduler, and one that comes twice finds nothing to claim.
"""

import logging
import socket
from collections.abc import Sequence
from typing import Any

from celery import Celery
from celery.app.amqp import AMQP
from celery.signals import setup_logging
from kombu.connection import Connection
from kombu.exceptions import ChannelError, OperationalError

from disparo.errors import SettingsError
from disparo.ratelimit.redis import unavailable

URGENT, BULK, EVENTS, CONTROL = "urgent", "bulk", "events", "control"
QUEUES = (URGENT, BULK, EVENTS, CONTROL)

# Fixed words, so that moving a function does not orphan what is queued.
SEND_BATCH = "disparo.send_batch"
SEND_MESSAGES = "disparo.send_messages"

#: A job is shorter than this by far; Redis hands out what is unacknowledged for longer a second time.
VISIBILITY_TIMEOUT_SECONDS = 3600


#: A gateway that forgot a connection tells nobody; without these the consumer would wait half a minute for it.
_NOTICE_LOSS = {
    getattr(socket, name): value
    for name, value in (
        ("TCP_KEEPIDLE", 5),
        ("TCP_KEEPINTVL", 2),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", 5_000),  # milliseconds
    )
    if hasattr(socket, name)
}


class _Connection(Connection):
    """A connection that looks for a lost Redis every second or two; kombu's own waits grow up to 30 seconds."""

    def ensure_connection(self, *args: Any, **options: Any) -> Any:
        waits = {"interval_start": 0.5, "interval_step": 0.5, "interval_max": 2.0}
        return super().ensure_connection(*args, **(waits | options))  # type: ignore[no-untyped-call]


class _AMQP(AMQP):  # type: ignore[misc]  # Celery has no types
    Connection = _Connection


def broker_url(redis_url: str) -> str:
    """Celery's spelling of a Redis address: ``unix:///path?db=0`` becomes ``redis+socket:///path?virtual_host=0``.

    Raises:
      SettingsError: It is none of redis://, rediss://, unix://.
    """
    if redis_url.startswith("unix://"):
        return "redis+socket://" + redis_url.removeprefix("unix://").replace("?db=", "?virtual_host=")
    if redis_url.startswith(("redis://", "rediss://")):
        return redis_url
    raise SettingsError(
        "DISPARO_REDIS_URL is no address like redis://host:6379/0, rediss://… or unix:///path?db=0"
    )


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a warning tells something: at each loss of the connection Celery explains a default set below."""
    return "cancels all currently executed tasks" not in record.getMessage()


def _in_a_sentence(record: logging.LogRecord) -> bool:
    """Cut the traceback off an acknowledgement that Redis did not take: the job just comes once more."""
    if isinstance(record.msg, str) and record.msg.startswith(("Couldn't ack", "Couldn't reject")):
        record.levelno, record.levelname, record.exc_info = logging.WARNING, "WARNING", None
    return True


@setup_logging.connect(weak=False)  # type: ignore[untyped-decorator]  # Celery has no types
def _keep_our_logging(**_: object) -> None:
    """Have Celery leave the level of the settings as it is: with a receiver it sets up none of its own."""


def make_celery(name: str, redis_url: str) -> Celery:
    """A Celery application on Redis with the settings that Disparo's promises need; nothing is opened yet."""
    logging.getLogger("py.warnings").addFilter(_is_news)
    logging.getLogger("celery.worker.request").addFilter(_in_a_sentence)
    app = Celery(name, broker=broker_url(redis_url), amqp=_AMQP, set_as_current=False)
    app.conf.update(
        # One process is one sender: its threads send, so a second process inside it would be a second journal.
        worker_pool="threads",
        worker_concurrency=4,
        # Late, so that a job whose process died before it was taken over comes back.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        result_backend=None,
        # Celery's own rate limit is per worker; ours is shared.
        worker_disable_rate_limits=True,
        worker_send_task_events=False,
        task_send_sent_event=False,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        task_default_queue=CONTROL,
        task_create_missing_queues=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # An exception in a job leaves it to the scheduler's next look, not to a second delivery in a loop.
        task_acks_on_failure_or_timeout=True,
        # A thread cannot be cancelled; its job, delivered again, finds nothing to claim.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_transport_options={
            "visibility_timeout": VISIBILITY_TIMEOUT_SECONDS,
            "socket_timeout": 10,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "socket_keepalive_options": _NOTICE_LOSS,
            "health_check_interval": 10,
            "queue_order_strategy": "priority",
        },
        enable_utc=True,
        timezone="UTC",
    )
    return app


class Queue:
    """Enqueues by name, without importing what runs the tasks; safe to share between threads."""

    def __init__(self, redis_url: str) -> None:
        self._app = make_celery("disparo", redis_url)

    def send_batch(self, batch_id: int, *, queue: str = BULK) -> None:
        """Name a batch to a worker."""
        self._send(SEND_BATCH, [batch_id], queue)

    def send_messages(self, app_id: int, message_ids: Sequence[int], *, queue: str = URGENT) -> None:
        """Name messages of one app, lane and campaign (or none) to a worker, at most a few hundred."""
        self._send(SEND_MESSAGES, [app_id, list(message_ids)], queue)

    def is_empty(self, queue: str) -> bool:
        """Whether no job waits in a queue; jobs that a worker has fetched are not counted.

        Raises:
          RedisUnavailable: Redis does not answer.
        """
        try:
            with self._app.pool.acquire(block=True, timeout=5) as connection:
                try:
                    return _jobs(connection, queue) == 0
                except connection.connection_errors as err:
                    connection.close()
                    raise unavailable(err) from err
        except (OperationalError, OSError) as err:
            raise unavailable(err) from err

    def close(self) -> None:
        """Give the connections back."""
        self._app.close()

    def _send(self, task: str, args: list[Any], queue: str) -> None:
        try:
            self._app.send_task(
                task,
                args=args,
                queue=queue,
                retry=True,
                retry_policy={"max_retries": 1, "interval_start": 0.1, "interval_max": 0.1},
            )
        except (OperationalError, OSError) as err:
            raise unavailable(err) from err


def _jobs(connection: Any, queue: str) -> int:
    try:
        return int(connection.default_channel.queue_declare(queue=queue, passive=True).message_count)
    except ChannelError:
        # Redis knows a queue only while it holds a job.
        return 0
