"""One POST to the endpoint, and an honest account of how it ended.

Two things are exact here, because promise 2 (nothing is sent twice in silence) stands on them:
whether anything of the request can have left this machine, and that a POST ends by its deadline. Both
are kept at the socket, below requests and urllib3, whose exceptions tell neither.
"""

import os
import re
import socket
import ssl
import threading
import weakref
from collections.abc import Mapping
from http.client import (
    CONTINUE,
    NO_CONTENT,
    NOT_MODIFIED,
    HTTPException,
    HTTPMessage,
    HTTPResponse,
    UnknownProtocol,
)
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, NameResolutionError, NewConnectionError
from urllib3.util.ssltransport import SSLTransport

from disparo import __version__
from disparo.clock import boot_clock
from disparo.errors import SettingsError
from disparo.gupshup.answers import Answer, Failure

#: A kept connection that was idle for longer is not written to: servers and NAT gateways drop such
#: ones without a word, and a request written into that cannot be told from one that was accepted.
IDLE_SECONDS = 15.0
#: Requests ready for use, by address and token; a few apps per installation, and tokens change.
_PREPARED_MAX = 64
#: Header lines that a connection keeps ready: a few, and lengths.
_LINES_MAX = 1_000
#: Bytes that may come with an answer's body: headers, interim answers, the frames of chunks, trailers.
_AROUND_BODY = 64 * 1024

_TOKEN = re.compile(r"[\x21-\x7e]+(?: [\x21-\x7e]+)?")
_LENGTH = re.compile(r"[0-9]{1,18}")
# RFC 9110, section 5.1: a name is a token, right before the colon. No continued lines.
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*\r?\n")
_HEADERS_MAX, _HEADER_BYTES = 100, 65_536
_PROXY_SCHEMES = ("http", "https")
_FORM = "application/x-www-form-urlencoded"
_UNUSABLE = "The address to send to cannot be used. Check DISPARO_BASE_URL or the app's base URL."


class _TooLongError(OSError):
    """More has come than any answer of the provider holds, wherever in the answer it stands."""


class _Exchange(threading.local):
    """The POST that this thread is making: when it must be over, and whether it has begun to write."""

    ends_at: float = 0.0
    slack: float = 0.0
    connect_seconds: float = 0.0
    written: bool = False
    #: Bytes that may still be received.
    room: int = 0
    connection: "_Connection | None" = None

    def begin(self, connect_seconds: float, deadline_seconds: float, room: int) -> None:
        self.ends_at = boot_clock() + deadline_seconds
        self.slack = deadline_seconds / 40
        self.connect_seconds = connect_seconds
        self.written = False
        self.room = room
        self.connection = None

    def seconds_left(self) -> float:
        """Time for the next operation; ``TimeoutError`` when the deadline has passed, which ends it."""
        left = self.ends_at - boot_clock()
        if left <= 0:
            raise TimeoutError("the deadline has passed")
        return left if self.written else min(left, self.connect_seconds)

    def arm(self, sock: socket.socket) -> None:
        """Give the next operation of ``sock`` the time that is left, to within a fortieth of the whole.

        Setting it is a system call, at which all other threads of a busy process take their turn first.
        """
        left, timeout = self.seconds_left(), sock.gettimeout()
        if timeout is None or abs(timeout - left) > self.slack:
            sock.settimeout(left)

    def receive(self, size: int) -> int:
        """Count ``size`` bytes that came, whatever they are: headers and trailers have no end of their own."""
        self.room -= size
        if self.room < 0:
            raise _TooLongError("the answer is longer than any answer of the provider")
        return size

    def hang_up(self) -> None:
        """Close the connection of this POST, so that the next one begins with another."""
        if self.connection is not None:
            self.connection.close()


_exchange = _Exchange()


class _Socket(socket.socket):
    """A socket of which no operation outlasts the exchange.

    Each one gets the time that is left for its timeout. So a server that drips, never reads or never
    ends its headers is cut at the deadline, without a second thread that closes other threads' sockets.
    """

    def settimeout(self, value: float | None) -> None:
        if value != self.gettimeout():
            super().settimeout(value)

    def recv(self, *args: Any) -> bytes:
        _exchange.arm(self)
        data = super().recv(*args)
        _exchange.receive(len(data))
        return data

    def recv_into(self, *args: Any) -> int:
        _exchange.arm(self)
        return _exchange.receive(super().recv_into(*args))

    def send(self, *args: Any) -> int:
        _exchange.arm(self)
        return super().send(*args)

    def sendall(self, *args: Any) -> None:
        # The timeout of sendall is for all of it, however little the other side takes at a time.
        _exchange.arm(self)
        super().sendall(*args)


class _TLSSocket(ssl.SSLSocket):
    """The same over TLS, where ``sendall`` of the base class calls ``send``."""

    def do_handshake(self, block: bool = False) -> None:
        _exchange.arm(self)
        super().do_handshake(block)

    def recv(self, *args: Any) -> bytes:
        _exchange.arm(self)
        data = super().recv(*args)
        _exchange.receive(len(data))
        return data

    def recv_into(self, *args: Any) -> int:
        _exchange.arm(self)
        return _exchange.receive(super().recv_into(*args))

    def send(self, *args: Any) -> int:
        _exchange.arm(self)
        return super().send(*args)


class _Response(HTTPResponse):
    """The final answer: interim ones are skipped, and lines among the headers that are none refused."""

    def _read_status(self) -> tuple[str, int, str]:
        # The base class skips a 100 only. After a 102 or 103 taken for the answer, the answer itself would
        # be read as the next message's (RFC 9110, section 15.2: any number of 1xx come before it).
        version, status, reason = super()._read_status()  # type: ignore[misc]
        return version, CONTINUE if 101 < status < 200 else status, reason

    def begin(self) -> None:
        # The base class parses headers as those of an e-mail, at a sixth of the cost of a whole POST, and
        # takes a line that is none for their end.
        if self.headers is not None:
            return
        status = CONTINUE
        while status == CONTINUE:
            version, status, reason = self._read_status()
            headers = self._read_headers()
        if version != "HTTP/1.0" and not version.startswith("HTTP/1."):
            raise UnknownProtocol(version)
        self.code = self.status = status
        self.reason = reason.strip()
        self.version = 10 if version == "HTTP/1.0" else 11
        self.headers = self.msg = headers
        self.chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        self.chunk_left = None
        self.will_close = self._check_close()
        length = headers.get("content-length", "")
        # A sign is wrong and understood; such a connection is not used again.
        self.length = (
            int(length) if _LENGTH.fullmatch(length.removeprefix("+")) and not self.chunked else None
        )
        if status < 200 or status in (NO_CONTENT, NOT_MODIFIED):
            self.length = 0
        if self.length is None and not self.chunked:
            self.will_close = True

    def _read_headers(self) -> HTTPMessage:
        headers = HTTPMessage()
        for _ in range(_HEADERS_MAX):
            line = self.fp.readline(_HEADER_BYTES + 1)
            if line in (b"\r\n", b"\n"):
                return headers
            header = _HEADER.fullmatch(line)
            if header is None or len(line) > _HEADER_BYTES:
                raise HTTPException("a line among the headers of the answer is no header")
            headers[header[1].decode()] = header[2].decode("latin-1")
        raise HTTPException(f"the answer has more than {_HEADERS_MAX} headers")


class _Connection(HTTPConnection):
    """A connection that knows when its first byte is about to leave, and how long it was idle."""

    response_class = _Response
    _buffer: list[bytes]  # of the base class: the lines of the head that is being put together
    _used_at = 0.0
    _unsent: list[bytes] | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._lines: dict[tuple[str, tuple[Any, ...]], bytes] = {}

    def _new_conn(self) -> socket.socket:
        # Name resolution has only the resolver's own time limit; nothing has been sent then.
        try:
            addresses = socket.getaddrinfo(self._dns_host, self.port, 0, socket.SOCK_STREAM)
        except socket.gaierror as err:
            raise NameResolutionError(self.host, self, err) from err
        except UnicodeError as err:
            raise NewConnectionError(self, f"{self.host!r} is not a host name") from err
        refusal = OSError("the name has no address")
        for family, kind, protocol, _, address in addresses:
            try:
                sock = _Socket(family, kind, protocol)
            except OSError as err:  # an address family that this machine does not have
                refusal = err
                continue
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.settimeout(_exchange.seconds_left())
                sock.connect(address)
            except OSError as err:
                sock.close()
                refusal = err
            else:
                return sock
        raise NewConnectionError(self, str(refusal)) from refusal

    @property
    def is_connected(self) -> bool:
        # A readable idle connection was closed by the other side, or holds what nobody asked for.
        return (
            boot_clock() - self._used_at < IDLE_SECONDS
            and super().is_connected
            and not _holds_unread(self.sock)
        )

    def request(self, *args: Any, **kwargs: Any) -> None:
        _exchange.connection = self
        if self.sock is None:
            self.connect()
        # Head and body leave together: one packet and one system call, not two.
        self._unsent = []
        try:
            super().request(*args, **kwargs)
            data = b"".join(self._unsent)
        finally:
            self._unsent = None
        _exchange.seconds_left()
        _exchange.written = True
        self.send(data)

    def putheader(self, header: Any, *values: Any) -> None:
        # All messages of an app have the same headers but for the length, and checking one takes its time.
        line = self._lines.get((header, values))
        if line is not None:
            self._buffer.append(line)
            return
        super().putheader(header, *values)
        if len(self._lines) < _LINES_MAX:
            self._lines[header, values] = self._buffer[-1]

    def send(self, data: Any) -> None:
        if self._unsent is None:
            super().send(data)
        else:
            self._unsent.append(data)

    def getresponse(self) -> Any:
        response = super().getresponse()
        self._used_at = boot_clock()
        return response


class _TLSConnection(_Connection, HTTPSConnection):
    """The same over TLS."""


def _holds_unread(sock: Any) -> bool:
    """Whether decrypted bytes wait above the kernel's socket, where looking at that does not show them."""
    if isinstance(sock, SSLTransport):  # TLS inside the TLS of a proxy
        return sock.incoming.pending > 0 or sock.sslobj.pending() > 0 or _holds_unread(sock.socket)
    return isinstance(sock, ssl.SSLSocket) and sock.pending() > 0


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


class _Adapter(HTTPAdapter):
    """The adapter of one thread: one connection per host, one TLS context for all, nothing sent again."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self.pools: dict[str | None, Any] = {}
        self._paths: dict[str | None, str] = {}
        super().__init__(pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, proxy_ssl_context=self._context, **kwargs)
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}
        return manager

    def build_connection_pool_key_attributes(self, *args: Any, **kwargs: Any) -> Any:
        # The context holds the certificates. Given a path instead, urllib3 would read the bundle again
        # for each connection.
        host, _ = super().build_connection_pool_key_attributes(*args, **kwargs)
        return host, {"ssl_context": self._context}

    def cert_verify(self, *args: Any) -> None:
        """Nothing: the context verifies."""

    def get_connection_with_tls_context(
        self, request: requests.PreparedRequest, *args: Any, **kwargs: Any
    ) -> Any:
        # Finding the pool means parsing the address; done once.
        pool = self.pools.get(request.url)
        if pool is None:
            pool = self.pools[request.url] = super().get_connection_with_tls_context(request, *args, **kwargs)
        return pool

    def forget(self) -> None:
        """Begin anew with the addresses."""
        self.pools.clear()
        self._paths.clear()

    def request_url(self, request: requests.PreparedRequest, proxies: Any) -> str:
        if proxies:
            return super().request_url(request, proxies)
        # Parsing the address for it is done once.
        path = self._paths.get(request.url)
        if path is None:
            path = self._paths[request.url] = super().request_url(request, proxies)
        return path

    def build_response(self, _request: requests.PreparedRequest, response: Any) -> requests.Response:
        # Status, headers and stream: nobody reads the cookies, the encoding and the rest of it.
        built = requests.Response()
        built.status_code, built.headers, built.raw = response.status, response.headers, response
        return built

    def close(self) -> None:
        for pool in self.pools.values():
            pool.close()
        super().close()


class _Line:
    """What one thread sends with."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.adapter = _Adapter(context)
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers = CaseInsensitiveDict(
            {
                "Content-Type": "application/json",
                "Accept": "application/json",
                "User-Agent": f"disparo/{__version__}",
            }
        )
        self.session.mount("https://", self.adapter)
        self.session.mount("http://", self.adapter)
        self.prepared: dict[tuple[str, str], requests.PreparedRequest] = {}

    def prepare(self, url: str, token: str) -> requests.PreparedRequest:
        """A request for this address and token, without its body."""
        prepared = self.prepared.get((url, token))
        if prepared is None:
            _check_token(token)
            try:
                prepared = self.session.prepare_request(
                    requests.Request("POST", url, headers={"Authorization": token})
                )
            except ValueError:  # of which requests' InvalidURL and MissingSchema are
                prepared = None
            # A user in the address would have taken the token's place.
            if prepared is None or prepared.headers["Authorization"] != token:
                raise SettingsError(_UNUSABLE)
            if len(self.prepared) >= _PREPARED_MAX:
                self.prepared.clear()
                self.adapter.forget()
            self.prepared[url, token] = prepared
        return prepared


class Client:
    """Posts ready bytes, from any number of threads, each with connections of its own.

    Never follows a redirect, never sends a request again, reads no proxy or certificate from the
    environment, and tells of each POST whether anything of it can have been sent. A connection is used
    again only after an answer whose end is beyond doubt, so that no message gets another one's answer.

    After a fork the child begins with connections of its own.
    """

    def __init__(
        self,
        connect_timeout: float = 5.0,
        deadline_seconds: float = 40.0,
        ca_bundle: str | None = None,
        proxy: str | None = None,
        max_body: int = 64 * 1024,
    ) -> None:
        """Prepare a client; nothing is opened before the first ``post``.

        Args:
          connect_timeout: Seconds for each address of the host, a proxy's tunnel and the TLS handshake.
          deadline_seconds: Seconds for a whole POST, from the call to the last byte of the answer.
          ca_bundle: PEM file or folder of the authorities to trust; default those that requests ships.
          proxy: ``http://`` or ``https://`` address of a proxy; may hold user and password.
          max_body: Bytes of an answer that are read.

        Raises:
          SettingsError: The bundle cannot be read, or the proxy is no such address.
        """
        if proxy is not None:
            _check_proxy(proxy)
        self._proxies = {"http": proxy, "https": proxy} if proxy else {}
        self._connect_seconds = connect_timeout
        self._deadline_seconds = deadline_seconds
        self._max_body = max_body
        self._context = _tls_context(ca_bundle)
        self._forget()
        # A child must not write to its parent's connections, nor wait for a lock that a thread held
        # which the child does not have.
        forget = weakref.WeakMethod(self._forget)
        os.register_at_fork(after_in_child=lambda: (method := forget()) and method())

    def _forget(self) -> None:
        self._threads = threading.local()
        self._lock = threading.Lock()
        self._lines: weakref.WeakSet[_Line] = weakref.WeakSet()

    def post(self, url: str, token: str, body: bytes) -> Answer:
        """Post ``body`` once, and tell how it ended. Never raises for what the network does.

        ``not_connected`` is given only when not one byte of the request was written; from the first
        write on, an exchange that breaks is ``no_answer``, ``deadline``, ``cut_answer`` or ``too_large``.
        A connection that the server closed while it was idle is noticed before it is written to,
        unless the closing is still on its way: then it is ``no_answer``, since it cannot be known.
        All of it ends by the deadline but the resolution of the host's name, which has the resolver's own
        limit. Nothing is written after the deadline, which runs on while the machine sleeps.

        Args:
          url: As made by ``endpoint``.
          token: The app's token, as it stands in the header (usually no ``Bearer`` before it).
          body: A JSON document, UTF-8.

        Raises:
          SettingsError: Token or address cannot be sent; nothing was.
        """
        line = self._line()
        prepared = line.prepare(url, token)
        prepared.body = body
        prepared.headers["Content-Length"] = str(len(body))
        return self._carry_out(line, prepared, token)

    def ask(
        self, method: str, url: str, authorization: str | None = None, form: Mapping[str, str] | None = None
    ) -> Answer:
        """Make a request that is no message, once, by the same rules as ``post``.

        Args:
          method: ``GET`` or ``POST``.
          url: As made by ``app_address`` or ``partner_address``.
          authorization: The header as it stands, if there is to be one.
          form: What is posted, ``application/x-www-form-urlencoded``.

        Raises:
          SettingsError: The address cannot be used; nothing was sent.
        """
        line = self._line()
        headers = {"Authorization": authorization, "Content-Type": None if form is None else _FORM}
        try:
            prepared = line.session.prepare_request(
                # None leaves a header of the session out.
                requests.Request(method, url, headers=headers, data=None if form is None else urlencode(form))
            )
        except ValueError as err:
            raise SettingsError(_UNUSABLE) from err
        return self._carry_out(line, prepared, authorization or "")

    def _carry_out(self, line: "_Line", prepared: requests.PreparedRequest, authorization: str) -> Answer:
        # A server may repeat the token without the scheme before it.
        token = authorization.rpartition(" ")[2]
        _exchange.begin(self._connect_seconds, self._deadline_seconds, self._max_body + _AROUND_BODY)
        response: requests.Response | None = None
        received = bytearray()
        whole = sound = False
        try:
            response = line.adapter.send(
                prepared, stream=True, timeout=self._deadline_seconds, proxies=self._proxies
            )
            whole = self._read(response.raw, received)
            sound = whole and _is_plain(response.raw, received)
        except Exception as err:
            if not _exchange.written and not isinstance(
                err, requests.RequestException | HTTPError | HTTPException | OSError | ValueError
            ):
                raise
            # Whatever a strange answer does to the libraries: once written, it may have been accepted.
            return _broken(err, response, bytes(received), token)
        finally:
            prepared.body = None
            if not sound:
                _exchange.hang_up()
            if response is not None and not whole:
                response.raw.close()
        failure = None if whole else Failure.TOO_LARGE
        detail = "" if whole else f"the answer is longer than {self._max_body} bytes"
        return Answer(
            response.status_code, response.headers, _without(bytes(received), token), failure, detail
        )

    def close(self) -> None:
        """Close the idle connections of all threads. A later ``post`` opens new ones."""
        with self._lock:
            lines = list(self._lines)
        self._forget()
        for line in lines:
            line.session.close()

    def _line(self) -> _Line:
        line: _Line | None = getattr(self._threads, "line", None)
        if line is None:
            line = self._threads.line = _Line(self._context)
            with self._lock:
                self._lines.add(line)
        return line

    def _read(self, raw: Any, received: bytearray) -> bool:
        """Read the body into ``received``; False when there is more than ``max_body`` of it.

        One read returns less than asked only at the end. A second one makes urllib3 notice an end
        before the announced length, and hand the connection back.
        """
        while len(received) <= self._max_body:
            data = raw.read(self._max_body + 1 - len(received), decode_content=False)
            received += data
            if not data or raw.length_remaining == 0:
                break
        whole = len(received) <= self._max_body
        del received[self._max_body :]
        return whole


def endpoint(base_url: str, app_id: str) -> str:
    """The address that takes the messages of an app.

    Args:
      base_url: ``https://partner.gupshup.io``, or the app's own; a path before ``/partner`` is kept.
      app_id: Gupshup's id of the app; whatever an address cannot hold is quoted.

    Raises:
      SettingsError: ``base_url`` is not the beginning of an http address, or the id is empty.

    Source: Gupshup partner docs, V3 message pages; read 2026-11-21.
    """
    return app_address(base_url, app_id, "v3/message")


def app_address(base_url: str, app_id: str, path: str) -> str:
    """The address of ``path`` of an app; arguments and errors as of ``endpoint``."""
    if app_id.strip(".") == "":
        raise SettingsError("The app has no id. Give it the app id of the Gupshup partner portal.")
    return partner_address(base_url, f"app/{quote(app_id, safe='')}/{path}")


def partner_address(base_url: str, path: str) -> str:
    """The address of ``path`` below ``/partner``.

    Raises:
      SettingsError: ``base_url`` is not the beginning of an http address.
    """
    try:
        parts = urlsplit(base_url)
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:
        named = False
    if (
        not named
        or parts.scheme not in ("http", "https")
        or parts.username is not None
        or parts.query
        or parts.fragment
        or not base_url.isprintable()
        or " " in base_url
    ):
        raise SettingsError(
            "The base URL must look like https://partner.gupshup.io, without user, query or fragment. "
            "Check DISPARO_BASE_URL or the app's base URL."
        )
    return f"{base_url.rstrip('/')}/partner/{path}"


def _is_plain(raw: Any, body: bytes | bytearray) -> bool:
    """Whether it is beyond doubt where an answer that was read whole ended, so that the next one may follow.

    Its length is told once, and what came is empty or an object, as every answer of the provider is. Others
    come from somebody in between, who may have counted wrong, and the rest would be read as the next answer.
    """
    told = raw.headers.getlist("content-length") + raw.headers.getlist("transfer-encoding")
    if raw.status in (101, 204, 304):  # these have no body, whatever they say
        return raw.status != 101 and told in ([], ["0"])
    if len(told) != 1 or not (told[0].lower() == "chunked" or _LENGTH.fullmatch(told[0])):
        return False
    document = body.strip()
    return not document or (document[:1] == b"{" and document[-1:] == b"}")


def _broken(err: Exception, response: requests.Response | None, body: bytes, token: str) -> Answer:
    """The answer of an exchange that ended with ``err``."""
    bottom: BaseException = err
    while below := bottom.__cause__ or (not bottom.__suppress_context__ and bottom.__context__):
        bottom = below
    detail = _words(bottom)
    if token:
        detail = detail.replace(token, "[token]")
    if not _exchange.written:
        failure = Failure.NOT_CONNECTED
    elif isinstance(bottom, TimeoutError) or boot_clock() >= _exchange.ends_at:
        failure, detail = Failure.DEADLINE, "no complete answer within the deadline"
    elif isinstance(bottom, _TooLongError):
        failure = Failure.TOO_LARGE
    else:
        failure = Failure.NO_ANSWER if response is None else Failure.CUT_ANSWER
    if response is None:
        return Answer(None, {}, b"", failure, detail)
    return Answer(response.status_code, response.headers, _without(body, token), failure, detail)


def _words(err: BaseException) -> str:
    if isinstance(err, ssl.SSLCertVerificationError):
        return f"the certificate is not trusted: {err.verify_message}"
    if isinstance(err, socket.gaierror):
        return f"the host name cannot be resolved: {err.strerror}"
    if isinstance(err, TimeoutError):
        return "the connection timed out"
    if type(err) is HTTPException:
        return str(err)
    if isinstance(err, ssl.SSLError) and err.reason:
        return f"TLS failed: {err.reason.replace('_', ' ').lower()}"
    if isinstance(err, OSError):
        return err.strerror or str(err) or type(err).__name__
    return f"{type(err).__name__}: {err}"


def _without(body: bytes, token: str) -> bytes:
    """``body`` without the token, should a server repeat it."""
    secret = token.encode()
    return body.replace(secret, b"[token]") if secret and secret in body else body


def _check_token(token: str) -> None:
    if not _TOKEN.fullmatch(token):
        raise SettingsError(
            "The app's token is empty or holds a line break, a space at an end or a character that a header "
            "cannot hold. Copy it again from the Gupshup partner portal into DISPARO_TOKEN_… or its _FILE."
        )


def _check_proxy(proxy: str) -> None:
    try:
        parts = urlsplit(proxy)
        good = parts.scheme in _PROXY_SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or not proxy.isprintable():
        raise SettingsError("DISPARO_PROXY must look like http://proxy.example:3128 (http or https).")


def _tls_context(ca_bundle: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = _TLSSocket
    try:
        if ca_bundle is None:
            context.load_verify_locations(DEFAULT_CA_BUNDLE_PATH)
        elif os.path.isdir(ca_bundle):  # noqa: PTH112 - a setting, compared only
            context.load_verify_locations(capath=ca_bundle)
        else:
            context.load_verify_locations(ca_bundle)
    except OSError as err:  # SSLError is one
        raise SettingsError(
            f"The certificates in {ca_bundle or DEFAULT_CA_BUNDLE_PATH!r} cannot be read: "
            f"{err.strerror or err}. DISPARO_CA_BUNDLE must name a PEM file or a folder of them."
        ) from err
    return context
