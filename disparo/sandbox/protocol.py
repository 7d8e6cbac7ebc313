"""HTTP/1.1 on one connection: pipelining, chunked bodies, ``Expect``, and answers that fail on purpose."""

import asyncio
import http
import logging
import re
import time
from collections import deque
from collections.abc import Iterator
from typing import cast
from urllib.parse import unquote

import httptools

from disparo.sandbox import answers, control
from disparo.sandbox.answers import Answer, Manner
from disparo.sandbox.endpoint import Endpoint

_log = logging.getLogger(__name__)

#: The longest body that is read; a longer one is taken off the wire, forgotten and refused.
LONGEST_BODY = 1_048_576
_LONGEST_HEAD = 65_536

#: Pipelined requests that wait on a connection before no more are read from it.
_MOST_WAITING = 64

_MESSAGE_PATH = re.compile(rb"/partner/app/([A-Za-z0-9_-]{1,64})/v3/message")

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

#: A dripping answer's pace.
_DRIP_SECONDS = 1.0

_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in http.HTTPStatus
}


class Request:
    """One request as it was read."""

    __slots__ = (
        "authorization",
        "body",
        "content_type",
        "ending",
        "keep",
        "method",
        "old",
        "problem",
        "too_large",
        "url",
    )

    def __init__(self) -> None:
        self.method = b""
        self.url = b""
        self.authorization = b""
        self.content_type = b""
        self.body = b""
        #: Whether the connection goes on after the answer.
        self.keep = True
        #: The header line that tells the client so, where the protocol's version does not.
        self.ending = b""
        #: HTTP/1.0, which knows no chunks.
        self.old = False
        self.too_large = False
        #: The answer, where what came is no request.
        self.problem: Answer | None = None


class Connection(asyncio.Protocol):
    """One client's connection.

    Requests are read into a line and answered one after the other, so that the answers to pipelined ones
    keep their order whatever each has to wait for.
    """

    def __init__(self, endpoint: Endpoint, everyone: "set[Connection]") -> None:
        self._endpoint = endpoint
        self._everyone = everyone
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._parser = httptools.HttpRequestParser(self)
        self._last_url = b""
        self._app = ""
        self._request = Request()
        self._parts: list[bytes] = []
        self._size = 0
        self._in_head = False
        self._head_began = False
        self._head_size = 0
        self._expects = False
        self._waiting: deque[Request] = deque()
        self._deaf = False
        self._busy = False
        self._open = False
        self._owes_continue = False
        self._reading = True
        self._writable = True
        self._pages: tuple[Request, Iterator[bytes], bool] | None = None
        self._timer: asyncio.TimerHandle | None = None

    # The transport's calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do what asyncio's do without being of their class.
        self._transport = cast("asyncio.Transport", transport)
        self._everyone.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._everyone.discard(self)
        self._deaf = True
        self._waiting.clear()
        self._pages = None
        if self._timer is not None:
            self._timer.cancel()
        self._close_request()

    def abort(self) -> None:
        """Drop the connection at once, whatever it waits for."""
        self._transport.abort()

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        if self._pages is not None:
            self._stream()
        elif not self._busy:
            self._go_on()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._head_began = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse_unread(answers.problem(400, "Upgrades are not offered", "protocol"))
        except httptools.HttpParserError:
            self._refuse_unread(answers.problem(400, "Bad Request", "protocol"))
        if self._in_head and not self._head_began:
            self._head_size += len(data)
            if self._head_size > _LONGEST_HEAD:
                self._refuse_unread(answers.problem(431, "Request header is larger than 64 KB", "protocol"))
        if not self._busy:
            self._go_on()
        elif self._reading and len(self._waiting) >= _MOST_WAITING:
            self._reading = False
            self._transport.pause_reading()

    def _refuse_unread(self, problem: Answer) -> None:
        """Answer, after all that waits, that what comes now cannot be read; and read no more."""
        if self._deaf:
            return
        self._deaf = True
        request = Request()
        request.problem = problem
        request.keep = False
        request.ending = b"Connection: close\r\n"
        self._waiting.append(request)

    # The parser's calls, named by httptools.

    def on_message_begin(self) -> None:
        self._request = Request()
        self._parts = []
        self._size = 0
        self._expects = False
        self._in_head = self._head_began = True
        self._head_size = 0

    def on_url(self, url: bytes) -> None:
        self._request.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"authorization":
            self._request.authorization = value
        elif name == b"content-type":
            self._request.content_type = value
        elif name == b"expect":
            self._expects = value.strip().lower() == b"100-continue"
        elif name == b"content-length":
            self._request.too_large = value.isdigit() and int(value[:18]) > LONGEST_BODY

    def on_headers_complete(self) -> None:
        self._in_head = False
        request = self._request
        request.method = self._parser.get_method()
        request.keep = self._parser.should_keep_alive()
        if not request.keep:
            request.ending = b"Connection: close\r\n"
        request.old = self._parser.get_http_version() == "1.0"
        if request.old and request.keep:
            request.ending = b"Connection: keep-alive\r\n"
        if not self._expects:
            return
        if request.too_large:
            # The client has not sent the body and, once refused, never will.
            request.keep = False
            request.ending = b"Connection: close\r\n"
            self._waiting.append(request)
            self._deaf = True
        elif self._busy or self._waiting:
            self._owes_continue = True
        else:
            self._transport.write(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size <= LONGEST_BODY:
            self._parts.append(body)
        else:
            self._request.too_large = True
            self._parts.clear()

    def on_message_complete(self) -> None:
        if self._deaf:
            return
        request = self._request
        request.body = b"" if request.too_large else b"".join(self._parts)
        self._owes_continue = False
        self._waiting.append(request)

    # One request after the other.

    def _go_on(self) -> None:
        while self._waiting and not self._busy and self._writable and not self._transport.is_closing():
            request = self._waiting.popleft()
            try:
                self._handle(request)
            except Exception:  # noqa: BLE001 - asyncio would print it and leave the client waiting
                _log.exception("a fault of the sandbox itself; the connection is closed")
                self._transport.abort()
        if not self._busy and not self._transport.is_closing():
            if self._owes_continue and not self._waiting:
                self._owes_continue = False
                self._transport.write(_CONTINUE)
            if not self._reading and len(self._waiting) < _MOST_WAITING:
                self._reading = True
                self._transport.resume_reading()

    def _handle(self, request: Request) -> None:
        if request.problem is not None:
            self._write(request, request.problem)
            return
        # A sender's connection asks for the same path again and again.
        if request.url != self._last_url:
            path, _, query = request.url.partition(b"?")
            match = _MESSAGE_PATH.fullmatch(path)
            if match is None:
                self._handle_own_page(request, path, query)
                return
            self._last_url = request.url
            self._app = match[1].decode()
        if request.method != b"POST":
            self._write(request, control.not_allowed("POST"))
            return
        answer, manner = self._endpoint.receive(
            self._app,
            request.authorization.decode("latin-1"),
            request.content_type.decode("latin-1"),
            request.body,
            time.monotonic(),
            too_large=request.too_large,
        )
        self._open = True
        self._endpoint.ledger.opened()
        delay = self._endpoint.delay()
        if delay > 0:
            self._busy = True
            self._timer = self._loop.call_later(delay, self._settle_late, request, answer, manner)
        else:
            self._settle(request, answer, manner)

    def _settle_late(self, request: Request, answer: Answer, manner: Manner) -> None:
        self._busy = False
        self._settle(request, answer, manner)
        if not self._busy:
            self._go_on()

    def _settle(self, request: Request, answer: Answer, manner: Manner) -> None:
        if manner is Manner.WHOLE:
            self._close_request()
            self._write(request, answer)
        elif manner is Manner.CLOSE:
            self._close_request()
            self._transport.close()
        elif manner is Manner.CUT:
            self._close_request()
            whole = self._compose(request, answer)
            self._transport.write(whole[: -len(answer.body) // 2])
            self._transport.close()
        else:
            # Dripping or hanging, until done or until the client goes away: open for as long.
            self._busy = True
            if manner is Manner.DRIP:
                self._drip(request, self._compose(request, answer), 0)

    def _drip(self, request: Request, wire: bytes, place: int) -> None:
        self._transport.write(wire[place : place + 1])
        if place + 1 < len(wire):
            self._timer = self._loop.call_later(_DRIP_SECONDS, self._drip, request, wire, place + 1)
            return
        self._close_request()
        self._end(request)

    def _close_request(self) -> None:
        if self._open:
            self._open = False
            self._endpoint.ledger.closed()

    def _write(self, request: Request, answer: Answer) -> None:
        self._transport.write(self._compose(request, answer))
        if not request.keep:
            self._transport.close()

    def _end(self, request: Request) -> None:
        """Go on after an answer that took its time."""
        self._busy = False
        if request.keep:
            self._go_on()
        else:
            self._transport.close()

    def _compose(self, request: Request, answer: Answer) -> bytes:
        return b"%bContent-Type: %b\r\nContent-Length: %d\r\n%b%b\r\n%b" % (
            _STATUS_LINES[answer.status],
            answer.content_type,
            len(answer.body),
            answer.headers,
            request.ending,
            answer.body if request.method != b"HEAD" else b"",
        )

    def _handle_own_page(self, request: Request, path: bytes, query: bytes) -> None:
        if request.too_large:
            self._write(request, answers.TOO_LARGE)
            return
        reply = self._partner_reply(request, path) or control.handle(
            self._endpoint,
            request.method.decode(),
            unquote(path.decode("latin-1")),
            query.decode("latin-1"),
            request.body,
        )
        if isinstance(reply, Answer):
            self._write(request, reply)
            return
        chunked = not request.old
        if not chunked:
            # Then only the end of the connection tells the end of the pages.
            request.keep = False
            request.ending = b"Connection: close\r\n"
        self._transport.write(
            b"%bContent-Type: application/x-ndjson\r\n%b%b\r\n"
            % (
                _STATUS_LINES[200],
                b"Transfer-Encoding: chunked\r\n" if chunked else b"",
                request.ending,
            )
        )
        if request.method == b"HEAD":
            self._end(request)
            return
        self._busy = True
        self._pages = (request, reply, chunked)
        self._stream()

    def _partner_reply(self, request: Request, path: bytes) -> Answer | None:
        if not path.startswith(b"/partner/"):
            return None
        return self._endpoint.partner.handle(
            request.method.decode(),
            path.decode("latin-1"),
            request.authorization.decode("latin-1"),
            request.content_type.decode("latin-1"),
            request.body,
            time.monotonic(),
            time.time(),
        )

    def _stream(self) -> None:
        """Write one page and come back for the next, so that others are served in between."""
        if self._pages is None or not self._writable:
            return
        request, pages, chunked = self._pages
        page = next(pages, None)
        if page is None:
            self._pages = None
            if chunked:
                self._transport.write(b"0\r\n\r\n")
            self._end(request)
            return
        self._transport.write(b"%x\r\n%b\r\n" % (len(page), page) if chunked else page)
        self._loop.call_soon(self._stream)
