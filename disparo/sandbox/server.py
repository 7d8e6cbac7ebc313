"""Running a sandbox: in a thread of the tests, or in the foreground for the command line."""

import asyncio
import errno
import logging
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypeVar

import orjson
import uvloop

from disparo.errors import InputError
from disparo.sandbox.endpoint import Endpoint
from disparo.sandbox.options import Options
from disparo.sandbox.protocol import Connection

_log = logging.getLogger(__name__)

_T = TypeVar("_T")


async def _run(
    endpoint: Endpoint, host: str, port: int, ready: Callable[[str], None], stop: asyncio.Event
) -> None:
    """Serve until ``stop`` is set; ``ready`` is told the URL once connections are taken."""
    loop = asyncio.get_running_loop()
    connections: set[Connection] = set()
    try:
        server = await loop.create_server(lambda: Connection(endpoint, connections), host, port, backlog=2048)
    except OSError as error:
        raise _cannot_listen(host, port, error) from error
    try:
        bound = server.sockets[0].getsockname()[1]
        ready(f"http://{f'[{host}]' if ':' in host else host}:{bound}")
        await stop.wait()
    finally:
        server.close()
        # Some may hang on purpose: none is waited for.
        while connections:
            for connection in tuple(connections):
                connection.abort()
            await asyncio.sleep(0)
        await server.wait_closed()


def _cannot_listen(host: str, port: int, error: OSError) -> InputError:
    if error.errno == errno.EADDRINUSE:
        return InputError(
            f"Port {port} of {host} is taken by another program; stop it, or give the sandbox another --port."
        )
    if error.errno == errno.EACCES:
        return InputError(
            f"Port {port} of {host} is not for this user; give the sandbox a --port above 1023."
        )
    return InputError(
        f"The sandbox cannot listen at {host}, port {port} ({error.strerror or error}); "
        "give an address of this machine."
    )


def serve(options: Options, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Run a sandbox in the foreground until SIGTERM or SIGINT. For the main thread of a process.

    Args:
      options: How it behaves at first; ``POST /control`` changes it.
      host: Address to listen at.
      port: Port, 0 for any free one.
      ready: Called with the URL once connections are taken.

    Raises:
      InputError: the address or the port cannot be used.
    """

    async def foreground() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await _run(Endpoint(options), host, port, ready, stop)
        _log.info("stopped")

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(foreground())


class Sandbox:
    """A sandbox in a thread of its own, for tests.

    >>> with Sandbox(Options(rate=80)) as sandbox:
    ...     requests.post(f"{sandbox.url}/partner/app/APP_ID/v3/message", ...)
    ...     sandbox.control(suffix_faults={"0001": "meta:131026"})
    ...     sandbox.stats()["accepted"]

    Its methods may be called from any thread; `stats`, `messages` and `accepted` also after `stop`.
    """

    def __init__(self, options: Options | None = None, host: str = "127.0.0.1", port: int = 0) -> None:
        self._endpoint = Endpoint(options or Options())
        self._host = host
        self._port = port
        self._url: str | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """``http://HOST:PORT``, to be used as the provider's base URL. It stays the same over a restart."""
        if self._url is None:
            raise RuntimeError("the sandbox has not been started")
        return self._url

    def start(self) -> Self:
        """Begin to take connections; what was counted before a stop stays.

        Raises:
          InputError: the address or the port cannot be used.
        """
        if self._thread is not None:
            raise RuntimeError("the sandbox runs already")
        up: Future[str] = Future()
        self._thread = threading.Thread(target=self._work, args=(up,), name="sandbox", daemon=True)
        self._thread.start()
        try:
            self._url = up.result()
        except BaseException:
            self._thread.join()
            self._thread = self._loop = None
            raise
        self._port = int(self._url.rpartition(":")[2])
        return self

    def _work(self, up: Future[str]) -> None:
        async def background() -> None:
            self._loop = asyncio.get_running_loop()
            self._stop = asyncio.Event()
            await _run(self._endpoint, self._host, self._port, up.set_result, self._stop)

        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(background())
        except BaseException as error:
            if up.done():
                raise
            up.set_exception(error)

    def stop(self) -> None:
        """Close the port and every connection, and end the thread. Harmless when it does not run."""
        thread, loop = self._thread, self._loop
        if thread is None or loop is None:
            return
        loop.call_soon_threadsafe(self._stop.set)
        thread.join()
        self._thread = self._loop = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _call(self, function: Callable[[], _T]) -> _T:
        """The result of ``function`` in the sandbox's thread, so that no count is seen half made."""
        loop = self._loop
        if loop is None:
            return function()
        done: Future[_T] = Future()

        def run() -> None:
            try:
                done.set_result(function())
            except Exception as error:  # noqa: BLE001 - raised in the caller's thread
                done.set_exception(error)

        loop.call_soon_threadsafe(run)
        return done.result()

    def stats(self) -> dict[str, Any]:
        """The counts of ``GET /stats``."""
        return self._call(self._endpoint.stats)

    def control(self, **changes: Any) -> dict[str, Any]:
        """Change the options named and return all of them.

        Raises:
          InputError: an option does not exist or its value is wrong; nothing has changed.
        """
        return self._call(lambda: self._endpoint.control(changes))

    def messages(self, to: str | None = None, limit: int = 10_000) -> list[dict[str, Any]]:
        """The last arrivals (of recipient ``to``), oldest first, as in ``GET /messages``."""
        return self._call(lambda: self._endpoint.ledger.messages(to, limit))

    def accepted(self) -> list[dict[str, Any]]:
        """Every accepted message, oldest first, as in ``GET /accepted``."""
        pages = self._call(lambda: list(self._endpoint.ledger.log.pages()))
        return [orjson.loads(line) for page in pages for line in page.splitlines()]

    def reset(self) -> None:
        """Forget all arrivals; options stay."""
        self._call(self._endpoint.reset)
