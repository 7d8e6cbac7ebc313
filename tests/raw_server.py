"""An HTTP server that answers with whatever bytes a test gives it, in whatever manner."""

import socket
import ssl
import struct
import threading
from collections.abc import Callable
from pathlib import Path

from disparo.gupshup.client import endpoint

TLS = Path(__file__).parent / "data" / "tls"

#: Gets the connection, the body of the request and its number on this server; true keeps the connection.
Behaviour = Callable[[socket.socket, bytes, int], bool]


def http(body: bytes, status: str = "200 OK", *headers: str, length: int | None = None) -> bytes:
    """An ordinary answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def say(data: bytes, keep: bool = False) -> Behaviour:
    """Answer with these bytes."""

    def behave(connection: socket.socket, body: bytes, number: int) -> bool:
        connection.sendall(data)
        return keep

    return behave


def reset(connection: socket.socket) -> None:
    """Close with a RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def tls_context(certificate: str = "localhost.pem") -> ssl.SSLContext:
    """The server's side of TLS, with one of the certificates in tests/data/tls."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / certificate, TLS / "key.pem")
    return context


class Server:
    """A TCP server on 127.0.0.1, one thread per connection, that does to each request what it was told."""

    def __init__(self, behave: Behaviour, context: ssl.SSLContext | None = None, reads: bool = True) -> None:
        self.behave = behave
        self.context = context
        self.reads = reads
        self.requests: list[bytes] = []
        self.connections = 0
        self.stopped = threading.Event()
        self.hung_up = threading.Event()
        self._lock = threading.Condition()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return endpoint(f"{'https' if self.context else 'http'}://127.0.0.1:{self.port}", "app-1")

    def met(self, connections: int) -> bool:
        """Whether that many connections came: the kernel completes one before this server has taken it."""
        with self._lock:
            return self._lock.wait_for(lambda: self.connections >= connections, 10) and self.connections == connections

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self._lock.notify_all()
                self._sockets.append(connection)
                thread = threading.Thread(target=self._serve, args=(connection,))
                self._threads.append(thread)
            thread.start()

    def _serve(self, raw: socket.socket) -> None:
        connection = raw
        try:
            if self.context:
                connection = self.context.wrap_socket(raw, server_side=True)
                with self._lock:
                    self._sockets.append(connection)
            keep = True
            while keep:
                body = b""
                if self.reads:
                    request = self._read(connection)
                    if request is None:
                        return
                    body = request.split(b"\r\n\r\n", 1)[1]
                    with self._lock:
                        self.requests.append(request)
                keep = self.behave(connection, body, len(self.requests))
        except OSError:
            pass
        finally:
            connection.close()
            self.hung_up.set()

    def _read(self, connection: socket.socket) -> bytes | None:
        data = b""
        while True:
            head, _, rest = data.partition(b"\r\n\r\n")
            if b"\r\n\r\n" in data:
                length = next(
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length:")
                )
                if len(rest) >= length:
                    return data
            part = connection.recv(65536)
            if not part:
                return None
            data += part

    def drip(self, connection: socket.socket, data: bytes) -> None:
        """Send a byte at a time."""
        for byte in data:
            if self.stopped.wait(0.05):
                return
            connection.sendall(bytes([byte]))

    def repeat(self, connection: socket.socket, data: bytes) -> None:
        """Send the same again and again, until the other side hangs up."""
        while not self.stopped.is_set():
            connection.sendall(data)

    def stop(self) -> None:
        self.stopped.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(10)
        for connection in self._sockets:
            try:
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
            except OSError:
                continue
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()
