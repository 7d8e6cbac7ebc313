"""Answers that no provider should give, as bytes on a real connection: each has its verdict.

Whatever the first message got, the next one of the same thread must get its own answer, and neither a
log line nor a recorded reason may hold the token.
"""

import gzip
import socket
import ssl
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from disparo.gupshup.answers import Failure, judge
from disparo.gupshup.client import Client
from disparo.statuses import Verdict
from tests.raw_server import TLS, Server, http, reset, say, tls_context

TOKEN = "sk_" + "0123456789abcdef" * 2
BODY = b'{"to":"5511999998888","type":"text"}'
ACCEPTED = b'{"messages":[{"id":"gs-1"}]}'
ERROR = b'{"status":"error","message":"Internal server error. Please try again later"}'
HTML = b"<html><title>Sign in to the airport's network</title></html>"

Serve = Callable[..., Server]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[Server] = []

    def start(*arguments: Any, **options: Any) -> Server:
        servers.append(Server(*arguments, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client(connect_timeout=2, deadline_seconds=5, ca_bundle=str(TLS / "localhost.pem"))
    yield client
    client.close()


@dataclass(frozen=True)
class Bad:
    """One answer, and what it comes to."""

    name: str
    data: bytes
    code: str | None
    verdict: Verdict = Verdict.UNKNOWN
    status: int | None = 200
    failure: Failure | None = None
    #: Whether the server hangs up after it; with False it waits for the next request.
    closes: bool = False
    #: Sent on the same connection when the next request has come, before that one's answer.
    rest: bytes = b""
    #: Whether the next request may go over the same connection.
    keeps: bool = False


def raw(*lines: str, body: bytes = b"") -> bytes:
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def chunked(*parts: bytes, headers: tuple[str, ...] = (), end: bytes = b"0\r\n\r\n") -> bytes:
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return raw("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", *headers, body=chunks + end)


def length(*values: object, body: bytes = ACCEPTED) -> bytes:
    return raw("HTTP/1.1 200 OK", *(f"Content-Length: {value}" for value in values), body=body)


OK, UNKNOWN, STOP, FAILED = (
    Verdict.ACCEPTED,
    Verdict.UNKNOWN,
    Verdict.SENDER_STOP,
    Verdict.MESSAGE_PERMANENT,
)
N = len(ACCEPTED)

FRAMES = [
    # Where the answer ends.
    Bad("length too short", length(N - 3), "no_id"),
    Bad("length too short, the rest later", length(N - 3, body=ACCEPTED[:-3]), "no_id", rest=b"}]}"),
    Bad("length too short by a space", length(N, body=ACCEPTED + b"\r\n"), None, OK, keeps=True),
    Bad("length too long", length(N + 3), "cut_answer", failure=Failure.CUT_ANSWER, closes=True),
    Bad("length and nothing", length(20, body=b""), "cut_answer", failure=Failure.CUT_ANSWER, closes=True),
    Bad("negative length", length(-1), None, OK, closes=True),
    Bad("length with a sign", length(f"+{N}"), None, OK),
    Bad("length that is none", length("many"), None, OK, closes=True),
    Bad("two lengths alike", length(N, N), None, OK),
    Bad("two lengths", length(N, N + 1), "no_answer", status=None, failure=Failure.NO_ANSWER),
    Bad("two lengths in one", length(f"{N}, 5"), "no_answer", status=None, failure=Failure.NO_ANSWER),
    Bad("64 MB announced", length(2**26, body=b"x" * 2**18), "too_large", failure=Failure.TOO_LARGE),
    Bad("64 kB and a byte", length(2**16 + 1, body=b"x" * (2**16 + 1)), "too_large", failure=Failure.TOO_LARGE),
    Bad("no length", raw("HTTP/1.1 200 OK", body=ACCEPTED), None, OK, closes=True),
    Bad("no length, cut", raw("HTTP/1.1 200 OK", body=ACCEPTED[:-1]), "no_id", closes=True),
    Bad("HTTP/1.0", raw("HTTP/1.0 200 OK", body=ACCEPTED), None, OK, closes=True),
    Bad("HTTP/1.0, cut", raw("HTTP/1.0 200 OK", body=ACCEPTED[:9]), "no_id", closes=True),
    Bad("chunks", chunked(ACCEPTED[:5], ACCEPTED[5:]), None, OK, keeps=True),
    Bad("chunks and a length", chunked(ACCEPTED, headers=("Content-Length: 5",)), None, OK),
    Bad("chunks, a length and more later", chunked(ACCEPTED, headers=("Content-Length: 5",)), None, OK,
        rest=http(ACCEPTED)),
    Bad("no last chunk", chunked(ACCEPTED, end=b""), "cut_answer", failure=Failure.CUT_ANSWER, closes=True),
    Bad("half a chunk", raw("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", body=b"1c\r\n" + ACCEPTED[:9]),
        "cut_answer", failure=Failure.CUT_ANSWER, closes=True),
    Bad("no chunk", raw("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", body=ACCEPTED + b"\r\n"),
        "cut_answer", failure=Failure.CUT_ANSWER),
    Bad("negative chunk", raw("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", body=b"-5\r\n" + ACCEPTED),
        "cut_answer", failure=Failure.CUT_ANSWER, closes=True),
    Bad("another coding", raw("HTTP/1.1 200 OK", "Transfer-Encoding: gzip, chunked", body=gzip.compress(ACCEPTED)),
        "no_id", closes=True),
    Bad("nothing", b"", "no_answer", status=None, failure=Failure.NO_ANSWER, closes=True),
    # What is no answer to this request.
    Bad("204 with a body", http(ACCEPTED, "204 No Content"), "no_id", status=204),
    Bad("204, its body later", raw("HTTP/1.1 204 No Content", f"Content-Length: {len(http(ACCEPTED))}"), "no_id",
        status=204, rest=http(ACCEPTED)),
    Bad("204", raw("HTTP/1.1 204 No Content"), "no_id", status=204, keeps=True),
    Bad("304, its body later", raw("HTTP/1.1 304 Not Modified", "Content-Length: 99"), "odd_answer", status=304,
        rest=http(ACCEPTED)),
    Bad("early hints first", raw("HTTP/1.1 103 Early Hints", "Link: </x>") + http(ACCEPTED), None, OK, keeps=True),
    Bad("every interim answer first", b"".join(raw(f"HTTP/1.1 {n} Wait") for n in (100, 102, 103, 199)) + http(ACCEPTED),
        None, OK, keeps=True),
    Bad("only an interim answer", raw("HTTP/1.1 102 Processing"), "no_answer", status=None,
        failure=Failure.NO_ANSWER, closes=True),
    Bad("another protocol from now on", raw("HTTP/1.1 101 Switching Protocols"), "odd_answer", status=101,
        rest=http(ACCEPTED)),
    Bad("a second answer", http(ACCEPTED) + http(b'{"messages":[{"id":"gs-2"}]}'), None, OK, keeps=True),
    Bad("a long second answer", http(ACCEPTED) + http(b'{"x":"' + b"x" * 12_000 + b'"}'), None, OK),
    Bad("HTML and another answer", http(HTML) + http(ACCEPTED), "no_id", rest=http(ACCEPTED)),
]  # fmt: skip

NOT_HTTP = [
    Bad(name, data, "no_answer", status=None, failure=Failure.NO_ANSWER, closes=True)
    for name, data in (
        ("HTTP/0.9", ACCEPTED),
        ("HTTP/2", raw("HTTP/2.0 200 OK", body=ACCEPTED)),
        ("HTTP/2 frames", b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" * 9),
        ("mail", b"220 smtp.example ESMTP\r\n"),
        ("zeros", b"\x00" * 100),
        ("a TLS alert", b"\x15\x03\x03\x00\x02\x02\x46"),
        ("radio", raw("ICY 200 OK", body=ACCEPTED)),
        ("no status", raw("HTTP/1.1 abc", body=ACCEPTED)),
        ("negative status", raw("HTTP/1.1 -200 OK", body=ACCEPTED)),
        ("status 99", raw("HTTP/1.1 099 Odd", body=ACCEPTED)),
        ("status 1000", raw("HTTP/1.1 1000 Odd", body=ACCEPTED)),
        ("an endless reason", b"HTTP/1.1 200 " + b"x" * 70_000),
        ("half a status line", b"HTTP/1."),
        ("half a header", b"HTTP/1.1 200 OK\r\nContent-Le"),
        ("a header that is none", raw("HTTP/1.1 200 OK", "What is this", f"Content-Length: {N}", body=ACCEPTED)),
        ("a header with a space", raw("HTTP/1.1 200 OK", f"Content-Length : {N}", body=ACCEPTED)),
        ("a long header", raw("HTTP/1.1 200 OK", "X: " + "x" * 70_000, body=ACCEPTED)),
        ("many headers", raw("HTTP/1.1 200 OK", *["X: x"] * 200, body=ACCEPTED)),
        ("the token in a header that is none", raw("HTTP/1.1 200 OK", f"Authorization {TOKEN}", body=ACCEPTED)),
    )
]  # fmt: skip

BODIES = [
    Bad(name, http(body, *status), code, verdict, keeps=keeps)
    for name, body, code, verdict, keeps, *status in (
        ("HTML", HTML, "no_id", UNKNOWN, False),
        ("empty", b"", "no_id", UNKNOWN, True),
        ("null", b"null", "no_id", UNKNOWN, False),
        ("a list", b"[" + ACCEPTED + b"]", "no_id", UNKNOWN, False),
        ("two documents", ACCEPTED + ACCEPTED, "no_id", UNKNOWN, True),
        ("half a document", ACCEPTED[:-1], "no_id", UNKNOWN, False),
        ("BOM", b"\xef\xbb\xbf" + ACCEPTED, None, OK, False),
        ("UTF-16", ACCEPTED.decode().encode("utf-16"), "no_id", UNKNOWN, False),
        ("wrong UTF-8 beside the id", b'{"x":"\xff\xc3","messages":[{"id":"gs-1"}]}', None, OK, True),
        ("wrong UTF-8 in the id", b'{"messages":[{"id":"gs-\xff"}]}', "no_id", UNKNOWN, True),
        ("zero in the id", b'{"messages":[{"id":"gs-\\u0000"}]}', "no_id", UNKNOWN, True),
        ("number as id", b'{"messages":[{"id":1}]}', "no_id", UNKNOWN, True),
        ("null as id", b'{"messages":[{"id":null}]}', "no_id", UNKNOWN, True),
        ("list as id", b'{"messages":[{"id":["gs-1"]}]}', "no_id", UNKNOWN, True),
        ("true as id", b'{"messages":[{"id":true}]}', "no_id", UNKNOWN, True),
        ("empty id", b'{"messages":[{"id":""}]}', "no_id", UNKNOWN, True),
        ("blank id", b'{"messages":[{"id":" "}]}', "no_id", UNKNOWN, True),
        ("id of 10 kB", b'{"messages":[{"id":"' + b"x" * 10_000 + b'"}]}', "no_id", UNKNOWN, True),
        ("no messages", b'{"messages":[]}', "no_id", UNKNOWN, True),
        ("messages of another type", b'{"messages":{"id":"gs-1"}}', "no_id", UNKNOWN, True),
        ("messages of text", b'{"messages":["gs-1"]}', "no_id", UNKNOWN, True),
        ("an id after none", b'{"messages":[{},{"id":"gs-1"}]}', "no_id", UNKNOWN, True),
        ("two messages", b'{"messages":[{"id":"gs-1"},{"id":"gs-2"}]}', None, OK, True),
        ("id twice", b'{"messages":[{"id":"gs-1","id":"gs-1"}]}', "no_id", UNKNOWN, True),
        ("a key twice, far down", b'{"messages":[{"id":"gs-1"}],"x":[{"y":{"z":1,"z":1}}]}', "no_id", UNKNOWN, True),
        ("numbers that are none", b'{"messages":[{"id":"gs-1"}],"x":[NaN,-Infinity,1e999]}', None, OK, True),
        ("a number of 40 kB", b'{"messages":[{"id":"gs-1"}],"x":' + b"9" * 40_000 + b"}", "no_id", UNKNOWN, True),
        ("deep", b'{"messages":[{"id":"gs-1"}],"x":' + b"[" * 30_000 + b"]" * 30_000 + b"}", "no_id", UNKNOWN, True),
        ("an error that would be tried again", ERROR, "no_id", UNKNOWN, True),
        ("an error that is final", b'{"status":"error","message":"Invalid App Details"}', "invalid_app", STOP, True),
        ("an error of wrong types", b'{"status":1,"message":["x"],"error":{"code":{}},"errors":7}', "no_id", UNKNOWN, True),
        ("a success without id", b'{"status":"success"}', "no_id", UNKNOWN, True),
    )
] + [
    Bad("gzip", http(gzip.compress(ACCEPTED), "200 OK", "Content-Encoding: gzip"), "no_id"),
    Bad("gzip bomb", http(gzip.compress(b" " * 20_000_000 + ACCEPTED), "200 OK", "Content-Encoding: gzip"), "no_id"),
    Bad("no gzip", http(ACCEPTED, "200 OK", "Content-Encoding: gzip"), None, OK, keeps=True),
    Bad("another type", http(ACCEPTED, "200 OK", "Content-Type: text/html; charset=utf-7"), None, OK, keeps=True),
    Bad("cookies", http(ACCEPTED, "200 OK", "Set-Cookie: a=b", "Set-Cookie: ;;=;"), None, OK, keeps=True),
]  # fmt: skip

STATUSES = [
    Bad(f"{status} {name}", http(body, f"{status} Odd"), code, verdict, status=status, keeps=body != HTML)
    for status, name, body, code, verdict in (
        (500, "HTML", HTML, "server_error", UNKNOWN),
        (502, "HTML", HTML, "bad_gateway", UNKNOWN),
        (503, "HTML", HTML, "bad_gateway", UNKNOWN),
        (504, "HTML", HTML, "bad_gateway", UNKNOWN),
        (503, "error", ERROR, "internal_error", Verdict.RETRY),
        (500, "key twice", ERROR[:-1] + b',"status":"error"}', "server_error", UNKNOWN),
        (500, "error in UTF-8 that is none", ERROR[:-2] + b'\xff"}', "internal_error", Verdict.RETRY),
        (408, "HTML", HTML, "request_timeout", UNKNOWN),
        (425, "HTML", HTML, "http_425", FAILED),
        (599, "HTML", HTML, "server_error", UNKNOWN),
        (600, "HTML", HTML, "odd_answer", UNKNOWN),
        (999, "error", ERROR, "internal_error", Verdict.RETRY),
    )
] + [
    Bad("500, cut", http(ERROR[:-1], "500 Odd", length=len(ERROR)), "cut_answer", status=500,
        failure=Failure.CUT_ANSWER, closes=True),
    Bad("429, cut", http(b"{", "429 Slow down", length=9), "too_many_requests", Verdict.THROTTLE, status=429,
        failure=Failure.CUT_ANSWER, closes=True),
    Bad("408 of an idle connection", raw("HTTP/1.0 408 Request Time-out", "Connection: close", body=HTML),
        "request_timeout", status=408, closes=True),
]  # fmt: skip


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
@pytest.mark.parametrize(
    "bad", [*FRAMES, *NOT_HTTP, *BODIES, *STATUSES], ids=lambda bad: bad.name.replace(" ", "-")
)
def test_a_bad_answer_has_its_verdict_and_the_next_message_its_own_answer(
    serve: Serve, client: Client, caplog: pytest.LogCaptureFixture, bad: Bad, secure: bool
) -> None:
    rests: dict[socket.socket, bytes] = {}

    def behave(connection: socket.socket, body: bytes, number: int) -> bool:
        if number == 1:
            rests[connection] = bad.rest
            connection.sendall(bad.data)
            return not bad.closes
        connection.sendall(rests.pop(connection, b"") + http(b'{"messages":[{"id":"second"}]}'))
        return True

    server = serve(behave, context=tls_context() if secure else None)
    answer = client.post(server.url, TOKEN, BODY)
    judgement = judge(answer)
    assert (answer.http_status, answer.failure) == (bad.status, bad.failure)
    assert (judgement.verdict, judgement.code) == (bad.verdict, bad.code)
    assert judgement.gs_id == ("gs-1" if bad.verdict is OK else None)
    assert len(answer.body) <= 64 * 1024
    assert TOKEN not in judgement.reason
    assert TOKEN not in caplog.text
    assert [record for record in caplog.records if record.exc_info] == []

    assert judge(client.post(server.url, TOKEN, BODY)).gs_id == "second"
    assert (len(server.requests), server.connections) == (2, 1 if bad.keeps else 2)


FLOODS = {
    "body until closed": (raw("HTTP/1.1 200 OK"), b"x" * 65536),
    "announced body": (length(2**40, body=b""), b"x" * 65536),
    "chunks": (raw("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"), b"1\r\nx\r\n" * 1000),
    "chunk extensions": (
        raw("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"),
        b"1;" + b"x" * 60_000 + b"\r\nx\r\n",
    ),
    "trailers": (chunked(ACCEPTED, end=b"0\r\n"), b"X-More: again\r\n" * 1000),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X-More: again\r\n" * 1000),
    "long headers": (b"HTTP/1.1 200 OK\r\n", b"X-More: " + b"x" * 60_000 + b"\r\n"),
    "a header": (b"HTTP/1.1 200 OK\r\nX-More:", b"x" * 65536),
    "status line": (b"HTTP/1.1 200 ", b"x" * 65536),
    "interim answers": (b"", raw("HTTP/1.1 100 Continue") * 1000),
    "interim answers with headers": (b"", raw("HTTP/1.1 103 Early Hints", *["Link: </x>"] * 50) * 50),
}


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("flood", FLOODS)
def test_an_endless_answer_is_cut_off_at_once_wherever_it_has_no_end(
    serve: Serve, client: Client, flood: str, secure: bool
) -> None:
    start, again = FLOODS[flood]

    def behave(connection: socket.socket, body: bytes, number: int) -> bool:
        if number == 1:
            connection.sendall(start)
            server.repeat(connection, again)
        connection.sendall(http(ACCEPTED))
        return True

    server = serve(behave, context=tls_context() if secure else None)
    began = time.monotonic()
    answer = client.post(server.url, TOKEN, BODY)
    assert time.monotonic() - began < 3
    assert answer.failure in (Failure.TOO_LARGE, Failure.NO_ANSWER)
    assert judge(answer).verdict is Verdict.UNKNOWN
    assert len(answer.body) <= 64 * 1024
    assert client.post(server.url, TOKEN, BODY).http_status == 200
    assert server.connections == 2


@pytest.mark.parametrize(
    "start",
    [b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\n", length(5000, body=b""),
     raw("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", body=b"1388\r\n"), chunked(ACCEPTED, end=b"0\r\n")],
    ids=["status line", "interim", "headers", "body", "chunk", "trailer"],
)  # fmt: skip
@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_a_dripping_answer_ends_at_the_deadline(serve: Serve, start: bytes, secure: bool) -> None:
    def behave(connection: socket.socket, body: bytes, number: int) -> bool:
        connection.sendall(start)
        server.drip(connection, b"HTTP/1.1 200 OK and so on for a very long time" * 100)
        return False

    server = serve(behave, context=tls_context() if secure else None)
    client = Client(deadline_seconds=0.3, ca_bundle=str(TLS / "localhost.pem"))
    began = time.monotonic()
    answer = client.post(server.url, TOKEN, BODY)
    assert 0.25 <= time.monotonic() - began < 5
    assert answer.failure is Failure.DEADLINE
    assert answer.http_status == (200 if b"\r\n\r\n" in start.replace(b"100 Continue\r\n\r\n", b"") else None)
    assert judge(answer).verdict is Verdict.UNKNOWN
    client.close()


@pytest.mark.parametrize("body", [b"", HTML, ERROR, ACCEPTED], ids=["empty", "HTML", "error", "accepted"])
@pytest.mark.parametrize(
    ("status", "code", "verdict"),
    [
        (300, "odd_answer", UNKNOWN),
        (301, "redirect", STOP),
        (302, "redirect", STOP),
        (303, "see_other", UNKNOWN),
        (305, "odd_answer", UNKNOWN),
        (307, "redirect", STOP),
        (308, "redirect", STOP),
    ],
)
def test_a_redirect_is_not_followed_and_carries_the_token_nowhere(
    serve: Serve, client: Client, status: int, code: str, verdict: Verdict, body: bytes
) -> None:
    other = serve(say(http(ACCEPTED), keep=True))
    server = serve(say(http(body, f"{status} Elsewhere", f"Location: {other.url}", "Refresh: 0"), keep=True))
    answer = client.post(server.url, TOKEN, BODY)
    judgement = judge(answer)
    assert (answer.http_status, answer.failure) == (status, None)
    assert (judgement.verdict, judgement.code) == (verdict, code)
    assert (len(server.requests), other.connections) == (1, 0)


def test_an_answer_before_the_request_was_read_is_its_answer(serve: Serve, client: Client) -> None:
    def behave(connection: socket.socket, body: bytes, number: int) -> bool:
        connection.sendall(http(b'{"status":"error","message":"Authentication Failed"}', "401 Unauthorized"))
        server.stopped.wait(30)
        return False

    server = serve(behave, reads=False)
    answer = client.post(server.url, TOKEN, b"x" * 1000)
    assert judge(answer).code == "authentication_failed"


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_a_connection_reset_while_a_large_body_is_written_is_no_answer(
    serve: Serve, client: Client, secure: bool
) -> None:
    def behave(connection: socket.socket, body: bytes, number: int) -> bool:
        connection.recv(1000)
        reset(connection)
        return False

    server = serve(behave, reads=False, context=tls_context() if secure else None)
    answer = client.post(server.url, TOKEN, b"x" * 30_000_000)
    assert (answer.http_status, answer.failure) == (None, Failure.NO_ANSWER)
    assert judge(answer).verdict is Verdict.UNKNOWN
    assert server.connections == 1


def test_an_answer_that_ends_the_writing_of_a_large_body_is_read(serve: Serve, client: Client) -> None:
    """As a gateway does that refuses by the headers and hangs up."""

    def behave(connection: socket.socket, body: bytes, number: int) -> bool:
        connection.recv(1000)
        connection.sendall(http(ERROR, "413 Content Too Large", "Connection: close"))
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass
        return False

    server = serve(behave, reads=False)
    answer = client.post(server.url, TOKEN, b"x" * 3_000_000)
    assert (answer.http_status, answer.failure) == (413, None)
    server.behave = say(http(ACCEPTED))
    assert client.post(server.url, TOKEN, BODY).http_status == 200


# TLS: until the handshake has ended well nothing is written, so the message may be tried again.


def _old_protocol() -> ssl.SSLContext:
    context = tls_context()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


@pytest.mark.parametrize(
    ("context", "bundle", "words"),
    [
        (lambda: tls_context("expired.pem"), "localhost.pem", "the certificate is not trusted: certificate has expired"),
        (lambda: tls_context("other_host.pem"), "localhost.pem", "the certificate is not trusted: IP address mismatch"),
        (tls_context, None, "the certificate is not trusted: self-signed certificate"),
        (lambda: tls_context("issued.pem"), None, "the certificate is not trusted: unable to get local issuer"),
        (lambda: tls_context("issued.pem"), "expired.pem", "the certificate is not trusted: unable to get local issuer"),
        (_old_protocol, "localhost.pem", "TLS failed: tlsv1 alert protocol version"),
    ],
    ids=["expired", "another host", "self-signed", "unknown authority", "another authority", "TLS 1.0"],
)  # fmt: skip
def test_a_server_that_tls_does_not_trust_is_sent_nothing(
    serve: Serve, context: Callable[[], ssl.SSLContext], bundle: str | None, words: str
) -> None:
    server = serve(say(http(ACCEPTED)), context=context())
    client = Client(ca_bundle=str(TLS / bundle) if bundle else None)
    answer = client.post(server.url, TOKEN, BODY)
    assert (answer.http_status, answer.failure) == (None, Failure.NOT_CONNECTED)
    assert answer.detail.startswith(words)
    assert judge(answer).verdict is Verdict.RETRY
    assert server.requests == []
    client.close()


@pytest.mark.parametrize("end", [socket.socket.close, reset], ids=["close", "reset"])
@pytest.mark.parametrize("hello", [b"", b"\x16\x03\x03\x00\x7a\x02", http(HTML, "400 Bad Request")],
                         ids=["nothing", "half a hello", "plain HTTP"])  # fmt: skip
def test_a_handshake_that_breaks_off_sent_nothing(
    serve: Serve, client: Client, hello: bytes, end: Callable[[socket.socket], None]
) -> None:
    seen: list[bytes] = []

    def behave(connection: socket.socket, body: bytes, number: int) -> bool:
        seen.append(connection.recv(65536))
        connection.sendall(hello)
        end(connection)
        return False

    server = serve(behave, reads=False)
    answer = client.post(server.url.replace("http:", "https:"), TOKEN, BODY)
    assert (answer.http_status, answer.failure) == (None, Failure.NOT_CONNECTED)
    assert judge(answer).verdict is Verdict.RETRY
    assert TOKEN.encode() not in seen[0]
    assert server.connections == 1


@pytest.mark.parametrize("drips", [False, True], ids=["hangs", "drips"])
def test_a_handshake_that_never_ends_sent_nothing(serve: Serve, drips: bool) -> None:
    def behave(connection: socket.socket, body: bytes, number: int) -> bool:
        if drips:
            server.drip(connection, b"\x16\x03\x03\x3f\xff\x02" + b"\x00" * 16000)
        server.stopped.wait(30)
        return False

    server = serve(behave, reads=False)
    client = Client(connect_timeout=0.3)
    began = time.monotonic()
    answer = client.post(server.url.replace("http:", "https:"), TOKEN, BODY)
    assert (answer.failure, answer.detail) == (Failure.NOT_CONNECTED, "the connection timed out")
    assert time.monotonic() - began < 5
    client.close()


@pytest.mark.parametrize("end", [socket.socket.close, reset], ids=["close", "reset"])
def test_a_connection_that_ends_after_the_handshake_is_no_answer(
    serve: Serve, client: Client, end: Callable[[socket.socket], None]
) -> None:
    def behave(connection: socket.socket, body: bytes, number: int) -> bool:
        end(connection)
        return False

    # Whether the request was read before the end, this side cannot know.
    server = serve(behave, reads=False, context=tls_context())
    answer = client.post(server.url, TOKEN, BODY)
    assert (answer.http_status, answer.failure) == (None, Failure.NO_ANSWER)
    assert judge(answer).verdict is Verdict.UNKNOWN
    assert server.connections == 1


@pytest.mark.parametrize(
    ("body", "code"), [(ACCEPTED, None), (ACCEPTED[:-1], "no_id"), (b"", "no_id")], ids=["whole", "cut", "empty"]
)  # fmt: skip
def test_a_body_without_length_that_tls_does_not_end_counts_only_with_a_whole_document(
    serve: Serve, client: Client, body: bytes, code: str | None
) -> None:
    """TCP ends without TLS's own end, so that anybody on the way may have cut it."""
    server = serve(say(raw("HTTP/1.1 200 OK", body=body)), context=tls_context())
    answer = client.post(server.url, TOKEN, BODY)
    assert answer.failure is None
    assert judge(answer).code == code


def test_a_request_in_the_clear_to_a_tls_port_is_unknown(serve: Serve, client: Client) -> None:
    server = serve(say(http(ACCEPTED)), context=tls_context())
    answer = client.post(server.url.replace("https:", "http:"), TOKEN, BODY)
    assert (answer.http_status, answer.failure) == (None, Failure.NO_ANSWER)
    assert judge(answer).verdict is Verdict.UNKNOWN
