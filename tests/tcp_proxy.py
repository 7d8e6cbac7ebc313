"""A TCP proxy on 127.0.0.1 whose network fails on demand, for tests between processes and their servers."""

import asyncio
import contextlib
import ctypes
import socket
import struct
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

_T = TypeVar("_T")

# Linux, asm-generic/socket.h; Python has no names for them.
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
# One instruction of packet filter, "keep nothing of it": such a socket does not even acknowledge.
_NOTHING = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
_DROP_ALL = struct.pack("HL", 1, ctypes.addressof(_NOTHING))
_RESET = struct.pack("ii", 1, 0)


@dataclass(eq=False)
class _Link:
    """A connection of a client, and the one to the server that belongs to it."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter | None = None
    #: Bytes of answers that still pass before it is cut; None for all.
    left: int | None = None
    #: No packet of it passes any more, whatever else heals.
    forgotten: bool = False
    pumps: list[asyncio.Task[None]] = field(default_factory=list)

    def reset(self) -> None:
        """Close both with a RST."""
        for pump in self.pumps:
            pump.cancel()
        for writer in (self.client, self.server):
            if writer is not None:
                with contextlib.suppress(OSError):
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                writer.transport.abort()


class TCPProxy:
    """Forwards connections to one server until it is told otherwise; every method may be called at any time.

    What a method sets lasts until `heal`, and methods add up: ``refuse`` and ``cut`` together are a server
    that is gone. A method returns when its effect is there.
    """

    def __init__(self, upstream: Path | tuple[str, int]) -> None:
        """Begin to forward to ``upstream``: a unix socket, or host and port."""
        self._upstream = upstream
        self._links: set[_Link] = set()
        self._listener: asyncio.Server | None = None
        self._per_second: int | None = None
        self._cut_after: int | None = None
        #: Connections that came, since the beginning.
        self.accepted = 0
        # Never listens, and keeps the port while nobody does, so that no other process gets it.
        self._holder = socket.socket()
        self._holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._holder.bind(("127.0.0.1", 0))
        self.port: int = self._holder.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._requests_pass, self._answers_pass = asyncio.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{self.port}", daemon=True)
        self._thread.start()
        self.heal()

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._links)

    def heal(self) -> None:
        """Listen, and forward everything at once again."""
        self._do(self._heal())

    def refuse(self) -> None:
        """Refuse new connections."""
        self._do(self._refuse())

    def cut(self) -> int:
        """Reset all connections; how many they were."""
        return self._do(self._cut())

    def blackhole(self, *, requests: bool = True, answers: bool = True, acknowledges: bool = True) -> None:
        """Keep connections, take new ones, and forward nothing that way or the other.

        Args:
          requests: Nothing of the clients comes to the server.
          answers: Nothing of the server comes to the clients.
          acknowledges: False for a network that is gone: no packet of a client is acknowledged, and new
            connections hang (Linux only). True for a host that lives and a program that does not.
        """
        self._do(self._blackhole(requests, answers, acknowledges))

    def forget(self) -> int:
        """Forget all connections, as a NAT gateway does that was restarted; how many they were.

        Nothing of them passes or is acknowledged ever again, and neither side is told; new ones pass.
        """
        return self._do(self._forget())

    def slow(self, bytes_per_second: int) -> None:
        """Let each connection have so many bytes a second each way."""
        self._do(self._set(per_second=bytes_per_second))

    def cut_after(self, answer_bytes: int) -> None:
        """Reset each connection when so many bytes of the server's answers have passed from now on."""
        self._do(self._set(cut_after=answer_bytes))

    def close(self) -> None:
        """Reset all connections and give the port back."""
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._holder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- in the loop's thread ------------------------------------------------------------------------

    def _do(self, action: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(action, self._loop).result(10)

    async def _heal(self) -> None:
        self._per_second = self._cut_after = None
        for link in self._links:
            link.left = None
        await self._filter(drops=False)
        self._requests_pass.set()
        self._answers_pass.set()
        if self._listener is None:
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", self.port))
            self._listener = await asyncio.start_server(self._accept, sock=listener, backlog=100)

    async def _refuse(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _cut(self) -> int:
        links = list(self._links)
        for link in links:
            link.reset()
        await asyncio.gather(*(pump for link in links for pump in link.pumps), return_exceptions=True)
        return len(links)

    async def _blackhole(self, requests: bool, answers: bool, acknowledges: bool) -> None:
        for event, stops in ((self._requests_pass, requests), (self._answers_pass, answers)):
            event.clear() if stops else event.set()
        await self._filter(drops=not acknowledges)

    async def _forget(self) -> int:
        links = list(self._links)
        for link in links:
            link.forgotten = True
            _drop(link.client.get_extra_info("socket"), drops=True)
        return len(links)

    async def _set(self, per_second: int | None = None, cut_after: int | None = None) -> None:
        self._per_second, self._cut_after = per_second, cut_after
        for link in self._links:
            link.left = cut_after

    async def _filter(self, *, drops: bool) -> None:
        """Let the kernel drop all that clients send, or take it again."""
        for link in self._links:
            _drop(link.client.get_extra_info("socket"), drops=drops or link.forgotten)
        if self._listener is not None:
            for sock in self._listener.sockets:
                _drop(sock, drops=drops)

    async def _end(self) -> None:
        await self._refuse()
        await self._cut()
        late = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in late:  # a connection that is just being taken
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        link = _Link(writer, left=self._cut_after)
        self._links.add(link)
        try:
            if isinstance(self._upstream, Path):
                answers, link.server = await asyncio.open_unix_connection(self._upstream)
            else:
                answers, link.server = await asyncio.open_connection(*self._upstream)
            link.pumps = [
                asyncio.ensure_future(self._pump(link, reader, link.server, self._requests_pass)),
                asyncio.ensure_future(self._pump(link, answers, writer, self._answers_pass)),
            ]
            await asyncio.gather(*link.pumps)
        except (OSError, asyncio.CancelledError):
            # Either side has gone: the other one is told in the same way.
            link.reset()
        finally:
            for one in (link.client, link.server):
                if one is not None:
                    one.close()
            self._links.discard(link)

    async def _pump(
        self, link: _Link, source: asyncio.StreamReader, target: asyncio.StreamWriter, passes: asyncio.Event
    ) -> None:
        while data := await source.read(65536):
            await passes.wait()
            if link.forgotten:
                await asyncio.Event().wait()
            while data:
                size = len(data)
                if self._per_second is not None:
                    size = max(1, self._per_second // 20)
                if passes is self._answers_pass and link.left is not None:
                    size = min(size, link.left)
                    link.left -= size
                    if size == 0:
                        link.reset()
                        return
                target.write(data[:size])
                await target.drain()
                data = data[size:]
                if self._per_second is not None:
                    await asyncio.sleep(size / self._per_second)
        await passes.wait()
        if link.forgotten:
            await asyncio.Event().wait()
        if target.can_write_eof() and not target.is_closing():
            target.write_eof()


def _drop(sock: Any, *, drops: bool) -> None:
    """Let the kernel drop every packet that comes for ``sock``, or take them again."""
    with contextlib.suppress(OSError):  # it was closed, or dropped none
        if drops:
            sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, _DROP_ALL)
        else:
            sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
