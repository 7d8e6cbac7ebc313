"""The client against a real socket that misbehaves in every way a network can."""

import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from disparo import __version__
from disparo.errors import SettingsError
from disparo.gupshup import client as client_module
from disparo.gupshup.answers import Failure, judge
from disparo.gupshup.client import Client, app_address, endpoint, partner_address
from disparo.statuses import Verdict
from tests.raw_server import TLS, Behaviour, Server, http, reset, say, tls_context

TOKEN = "sk_" + "0123456789abcdef" * 2
BODY = b'{"to":"5511999998888","type":"text"}'
ACCEPTED = b'{"messages":[{"id":"gs-1"}]}'

Serve = Callable[..., Server]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[Server] = []

    def start(behave: Behaviour, **options: Any) -> Server:
        servers.append(Server(behave, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client(connect_timeout=2, deadline_seconds=5)
    yield client
    client.close()


def accept(connection: socket.socket, body: bytes, number: int) -> bool:
    connection.sendall(http(ACCEPTED))
    return True


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def pem() -> Path:
    return TLS / "localhost.pem"


@pytest.fixture
def tls() -> ssl.SSLContext:
    return tls_context()


def test_an_accepted_message_and_the_exact_headers_on_the_wire(serve: Serve, client: Client) -> None:
    server = serve(accept)
    answer = client.post(server.url, TOKEN, BODY)
    assert (answer.http_status, answer.body, answer.failure) == (200, ACCEPTED, None)
    assert judge(answer).gs_id == "gs-1"
    head, body = server.requests[0].decode().split("\r\n\r\n")
    line, *headers = head.split("\r\n")
    assert line == "POST /partner/app/app-1/v3/message HTTP/1.1"
    assert sorted(headers) == [
        "Accept-Encoding: identity",
        "Accept: application/json",
        f"Authorization: {TOKEN}",
        f"Content-Length: {len(BODY)}",
        "Content-Type: application/json",
        f"Host: 127.0.0.1:{server.port}",
        f"User-Agent: disparo/{__version__}",
    ]
    assert body.encode() == BODY


def test_requests_of_a_thread_share_a_connection_and_each_carries_its_own_body(
    serve: Serve, client: Client
) -> None:
    server = serve(accept)
    for size in (10, 70_000, 3):
        assert client.post(server.url, TOKEN, b"x" * size).http_status == 200
    assert [len(request.split(b"\r\n\r\n")[1]) for request in server.requests] == [10, 70_000, 3]
    assert server.connections == 1


def test_threads_get_their_own_answers(serve: Serve, client: Client) -> None:
    def echo(connection: socket.socket, body: bytes, number: int) -> bool:
        connection.sendall(http(b'{"messages":[{"id":"' + body + b'"}]}'))
        return True

    server = serve(echo)
    wrong: list[str] = []

    def work(thread: int) -> None:
        for number in range(20):
            ours = f"{thread}-{number}"
            if judge(client.post(server.url, TOKEN, ours.encode())).gs_id != ours:
                wrong.append(ours)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wrong == []
    assert len(server.requests) == 160
    assert server.connections == 8


def test_chunked_and_bodiless_answers_keep_the_connection(serve: Serve, client: Client) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (
        len(ACCEPTED),
        ACCEPTED,
    )
    answers = {1: chunked, 2: b"HTTP/1.1 204 No Content\r\n\r\n", 3: chunked}

    def behave(connection: socket.socket, body: bytes, number: int) -> bool:
        connection.sendall(answers[number])
        return True

    server = serve(behave)
    assert [client.post(server.url, TOKEN, BODY).http_status for _ in answers] == [200, 204, 200]
    assert server.connections == 1


def test_a_refused_connection_sent_nothing(client: Client) -> None:
    answer = client.post(endpoint(f"http://127.0.0.1:{closed_port()}", "a"), TOKEN, BODY)
    assert (answer.http_status, answer.failure, answer.detail) == (
        None,
        Failure.NOT_CONNECTED,
        "Connection refused",
    )
    assert judge(answer).verdict is Verdict.RETRY


def test_a_name_that_does_not_resolve_sent_nothing(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    answer = client.post(endpoint("https://partner.example", "a"), TOKEN, BODY)
    assert answer.failure is Failure.NOT_CONNECTED
    assert answer.detail == "the host name cannot be resolved: Name or service not known"


Sleep = Callable[[float], None]


@pytest.fixture
def sleep(monkeypatch: pytest.MonkeyPatch) -> Sleep:
    """Let the clock run on, as it does while a machine is suspended; nothing else moves."""
    slept = 0.0
    clock = client_module.boot_clock

    def sleep(seconds: float) -> None:
        nonlocal slept
        slept += seconds

    monkeypatch.setattr(client_module, "boot_clock", lambda: clock() + slept)
    return sleep


@pytest.mark.parametrize(
    ("where", "name", "connections"),
    [
        (socket, "getaddrinfo", 0),
        (client_module._Connection, "_new_conn", 1),
        (client_module._TLSSocket, "do_handshake", 1),
    ],
    ids=["looks the name up", "connects", "shakes hands"],
)
def test_a_machine_that_slept_past_the_deadline_writes_nothing_any_more(
    serve: Serve,
    tls: ssl.SSLContext,
    pem: Path,
    sleep: Sleep,
    monkeypatch: pytest.MonkeyPatch,
    where: Any,
    name: str,
    connections: int,
) -> None:
    server = serve(accept, context=tls)
    client = Client(ca_bundle=str(pem))
    act = getattr(where, name)

    def act_and_sleep(*arguments: Any, **options: Any) -> Any:
        result = act(*arguments, **options)
        sleep(3600)
        return result

    with monkeypatch.context() as patched:
        patched.setattr(where, name, act_and_sleep)
        answer = client.post(server.url, TOKEN, BODY)
    assert (answer.http_status, answer.failure) == (None, Failure.NOT_CONNECTED)
    assert server.met(connections)
    assert server.requests == []
    assert client.post(server.url, TOKEN, BODY).http_status == 200
    assert server.connections == connections + 1
    client.close()


def test_a_machine_that_sleeps_with_a_connection_at_hand_writes_nothing_to_it(
    serve: Serve, client: Client, sleep: Sleep, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(accept)
    assert client.post(server.url, TOKEN, BODY).http_status == 200
    sleep(3600)
    # Idle for an hour, it is not used again.
    assert client.post(server.url, TOKEN, BODY).http_status == 200
    assert server.connections == 2

    request = client_module._Connection.request

    def request_late(*arguments: Any, **options: Any) -> None:
        sleep(3600)
        request(*arguments, **options)

    monkeypatch.setattr(client_module._Connection, "request", request_late)
    assert client.post(server.url, TOKEN, BODY).failure is Failure.NOT_CONNECTED
    assert (len(server.requests), server.connections) == (2, 2)


def test_a_machine_that_sleeps_after_it_has_written_waits_no_longer(
    serve: Serve, client: Client, sleep: Sleep
) -> None:
    def behave(connection: socket.socket, body: bytes, number: int) -> bool:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 28\r\n\r\n")
        sleep(3600)
        connection.sendall(b"{")
        return True

    server = serve(behave)
    began = time.monotonic()
    answer = client.post(server.url, TOKEN, BODY)
    assert answer.failure is Failure.DEADLINE
    assert time.monotonic() - began < 4


def test_the_next_address_is_tried_when_one_refuses(
    serve: Serve, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(accept)
    tcp = (socket.AF_INET, socket.SOCK_STREAM, 0, "")
    addresses = [(*tcp, ("127.0.0.1", closed_port())), (*tcp, ("127.0.0.1", server.port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
    assert client.post(server.url, TOKEN, BODY).http_status == 200


@pytest.mark.parametrize("end", [socket.socket.close, reset], ids=["close", "reset"])
def test_a_connection_that_ends_after_the_request_is_no_answer_and_nothing_is_sent_again(
    serve: Serve, client: Client, end: Callable[[socket.socket], None]
) -> None:
    def behave(connection: socket.socket, body: bytes, number: int) -> bool:
        end(connection)
        return False

    server = serve(behave)
    answer = client.post(server.url, TOKEN, BODY)
    assert (answer.http_status, answer.failure) == (None, Failure.NO_ANSWER)
    assert judge(answer).verdict is Verdict.UNKNOWN
    assert (len(server.requests), server.connections) == (1, 1)


@pytest.mark.parametrize("end", [socket.socket.close, reset], ids=["close", "reset"])
def test_a_kept_connection_that_ends_under_a_request_is_no_answer_and_nothing_is_sent_again(
    serve: Serve, client: Client, end: Callable[[socket.socket], None]
) -> None:
    def behave(connection: socket.socket, body: bytes, number: int) -> bool:
        if number == 1:
            return accept(connection, body, number)
        end(connection)
        return False

    server = serve(behave)
    assert client.post(server.url, TOKEN, BODY).http_status == 200
    assert client.post(server.url, TOKEN, BODY).failure is Failure.NO_ANSWER
    assert (len(server.requests), server.connections) == (2, 1)


@pytest.mark.parametrize("end", [socket.socket.close, reset], ids=["close", "reset"])
def test_a_connection_closed_while_idle_is_noticed_before_it_is_written_to(
    serve: Serve, client: Client, end: Callable[[socket.socket], None]
) -> None:
    def behave(connection: socket.socket, body: bytes, number: int) -> bool:
        connection.sendall(http(ACCEPTED))
        if number == 1:
            end(connection)
        return number > 1

    server = serve(behave)
    assert client.post(server.url, TOKEN, BODY).http_status == 200
    assert server.hung_up.wait(10)
    assert client.post(server.url, TOKEN, BODY).http_status == 200
    assert (len(server.requests), server.connections) == (2, 2)


def test_a_connection_that_was_idle_for_long_is_not_written_to(
    serve: Serve, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(accept)
    client.post(server.url, TOKEN, BODY)
    monkeypatch.setattr(client_module, "IDLE_SECONDS", 0.0)
    assert client.post(server.url, TOKEN, BODY).http_status == 200
    assert server.connections == 2


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_a_server_that_never_answers_ends_at_the_deadline(
    serve: Serve, tls: ssl.SSLContext, pem: Path, secure: bool
) -> None:
    def behave(connection: socket.socket, body: bytes, number: int) -> bool:
        server.stopped.wait(30)
        return False

    server = serve(behave, context=tls if secure else None)
    client = Client(deadline_seconds=0.4, ca_bundle=str(pem))
    began = time.monotonic()
    assert client.post(server.url, TOKEN, BODY).failure is Failure.DEADLINE
    assert 0.35 <= time.monotonic() - began < 5
    client.close()


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_a_server_that_never_reads_ends_at_the_deadline(
    serve: Serve, tls: ssl.SSLContext, pem: Path, secure: bool
) -> None:
    def behave(connection: socket.socket, body: bytes, number: int) -> bool:
        server.stopped.wait(30)
        return False

    server = serve(behave, reads=False, context=tls if secure else None)
    client = Client(deadline_seconds=0.4, ca_bundle=str(pem))
    began = time.monotonic()
    assert client.post(server.url, TOKEN, b"x" * 30_000_000).failure is Failure.DEADLINE
    assert 0.35 <= time.monotonic() - began < 5
    client.close()


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable", "413 Too Large"])
def test_no_status_makes_the_client_send_again(serve: Serve, client: Client, status: str) -> None:
    server = serve(say(http(b"{}", status, "Retry-After: 0"), keep=True))
    answer = client.post(server.url, TOKEN, BODY)
    assert answer.http_status == int(status[:3])
    assert answer.headers["retry-after"] == "0"
    assert len(server.requests) == 1


def test_an_answer_that_repeats_the_token_is_kept_without_it(serve: Serve, client: Client) -> None:
    server = serve(
        say(http(b'{"status":"error","message":"bad token ' + TOKEN.encode() + b'"}', "401 Unauthorized"))
    )
    answer = client.post(server.url, TOKEN, BODY)
    assert TOKEN.encode() not in answer.body
    server.behave = say(TOKEN.encode() + b"\r\n")
    answer = client.post(server.url, TOKEN, BODY)
    assert answer.failure is Failure.NO_ANSWER
    assert TOKEN not in answer.detail


@pytest.mark.parametrize(
    "token",
    ["", " ", "sk_1\n", "sk_1\r\nX-Evil: 1", "sk_\x00", "sk_\u20ac", "clé", " sk_1", "a b c", "sk_1\x7f"],
)
def test_a_token_that_no_header_can_hold_is_refused_before_anything_is_sent(
    serve: Serve, client: Client, token: str
) -> None:
    server = serve(accept)
    with pytest.raises(SettingsError) as refused:
        client.post(server.url, token, BODY)
    assert server.connections == 0
    assert len(token) < 4 or token not in str(refused.value)


@pytest.mark.parametrize("url", ["nonsense", "http://", "http://user:secret@127.0.0.1:1/x", "http://[::1/x"])
def test_an_address_that_cannot_be_used_is_refused(client: Client, url: str) -> None:
    with pytest.raises(SettingsError) as refused:
        client.post(url, TOKEN, BODY)
    assert "secret" not in str(refused.value)


def test_tls_is_verified_against_the_given_bundle(serve: Serve, tls: ssl.SSLContext, pem: Path) -> None:
    server = serve(accept, context=tls)
    client = Client(ca_bundle=str(pem))
    assert [client.post(server.url, TOKEN, BODY).http_status for _ in range(2)] == [200, 200]
    assert server.connections == 1
    client.close()


def test_the_environment_sets_no_proxy_and_no_certificates(
    serve: Serve, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere")
    server = serve(accept)
    assert client.post(server.url, TOKEN, BODY).http_status == 200


def test_a_plain_request_goes_through_the_proxy_with_its_password(serve: Serve) -> None:
    proxy = serve(accept)
    client = Client(proxy=f"http://user:secret@127.0.0.1:{proxy.port}")
    assert client.post("http://partner.example/partner/app/a/v3/message", TOKEN, BODY).http_status == 200
    assert proxy.requests[0].startswith(b"POST http://partner.example/partner/app/a/v3/message HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic dXNlcjpzZWNyZXQ=\r\n" in proxy.requests[0]
    client.close()


@pytest.mark.parametrize(
    "status", [b"407 Proxy Authentication Required", b"403 Forbidden", b"502 Bad Gateway"]
)
def test_a_proxy_that_opens_no_tunnel_sent_nothing(serve: Serve, status: bytes) -> None:
    seen: list[bytes] = []

    def behave(connection: socket.socket, body: bytes, number: int) -> bool:
        seen.append(connection.recv(65536))
        connection.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
        return False

    proxy = serve(behave, reads=False)
    client = Client(proxy=f"http://user:secret@127.0.0.1:{proxy.port}")
    answer = client.post("https://partner.example/x", TOKEN, BODY)
    assert answer.failure is Failure.NOT_CONNECTED
    assert "Tunnel connection failed" in answer.detail
    assert "secret" not in answer.detail
    assert seen[0].startswith(b"CONNECT partner.example:443 ")
    assert TOKEN.encode() not in seen[0]
    client.close()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_tunnel_carries_the_message(serve: Serve, tls: ssl.SSLContext, pem: Path, scheme: str) -> None:
    server = serve(accept, context=tls)

    def behave(connection: socket.socket, body: bytes, number: int) -> bool:
        connection.recv(65536)
        with socket.create_connection(("127.0.0.1", server.port)) as onward:
            connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=pump, args=(onward, connection))
            back.start()
            pump(connection, onward)
            back.join(10)
        return False

    def pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    proxy = serve(behave, reads=False, context=tls if scheme == "https" else None)
    client = Client(proxy=f"{scheme}://127.0.0.1:{proxy.port}", ca_bundle=str(pem))
    assert [client.post(server.url, TOKEN, BODY).http_status for _ in range(2)] == [200, 200]
    assert proxy.connections == 1
    client.close()


def test_a_dripping_proxy_ends_at_the_deadline_with_nothing_sent(serve: Serve) -> None:
    def behave(connection: socket.socket, body: bytes, number: int) -> bool:
        server.drip(connection, b"HTTP/1.1 200 Connection established" * 100)
        return False

    server = serve(behave, reads=False)
    client = Client(proxy=f"http://127.0.0.1:{server.port}", deadline_seconds=0.5)
    began = time.monotonic()
    assert client.post("https://partner.example/x", TOKEN, BODY).failure is Failure.NOT_CONNECTED
    assert 0.45 <= time.monotonic() - began < 5
    client.close()


def test_a_proxy_whose_headers_never_end_is_cut_off_with_nothing_sent(serve: Serve) -> None:
    def behave(connection: socket.socket, body: bytes, number: int) -> bool:
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n")
        server.repeat(connection, b"X-More: again\r\n" * 1000)
        return False

    server = serve(behave, reads=False)
    client = Client(proxy=f"http://127.0.0.1:{server.port}")
    began = time.monotonic()
    assert client.post("https://partner.example/x", TOKEN, BODY).failure is Failure.NOT_CONNECTED
    assert time.monotonic() - began < 3
    client.close()


@pytest.mark.parametrize(
    "proxy", ["socks5://127.0.0.1:1", "127.0.0.1:3128", "http://", "http://x:port", "http://a\n"]
)
def test_a_proxy_that_is_none_is_refused(proxy: str) -> None:
    with pytest.raises(SettingsError, match="DISPARO_PROXY"):
        Client(proxy=proxy)


def test_a_bundle_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("no certificate")
    for path in (tmp_path / "missing.pem", rubbish):
        with pytest.raises(SettingsError, match="DISPARO_CA_BUNDLE"):
            Client(ca_bundle=str(path))


def test_a_closed_client_lets_go_of_its_connections_and_can_be_used_again(
    serve: Serve, client: Client
) -> None:
    server = serve(accept)
    client.post(server.url, TOKEN, BODY)
    client.close()
    assert server.hung_up.wait(10)
    assert client.post(server.url, TOKEN, BODY).http_status == 200
    assert server.connections == 2


def test_a_forked_child_has_connections_of_its_own(serve: Serve) -> None:
    server = serve(accept)
    script = """
import os, sys
from disparo.gupshup.client import Client
client = Client()
def post():
    return client.post(sys.argv[1], "sk_1", b"{}").http_status == 200
ok = post()
child = os.fork()
if child == 0:
    os._exit(0 if post() else 1)
_, status = os.waitpid(child, 0)
sys.exit(0 if ok and status == 0 and post() else 1)
"""
    done = subprocess.run([sys.executable, "-c", script, server.url], timeout=60, check=False)
    assert done.returncode == 0
    # The parent's third request goes over its first connection, which the child has left alone.
    assert (len(server.requests), server.connections) == (3, 2)


@pytest.mark.parametrize(
    ("base_url", "app_id", "expected"),
    [
        ("https://partner.gupshup.io", "ab-1", "https://partner.gupshup.io/partner/app/ab-1/v3/message"),
        (
            "https://partner.gupshup.io/",
            "a/../b?c",
            "https://partner.gupshup.io/partner/app/a%2F..%2Fb%3Fc/v3/message",
        ),
        ("http://127.0.0.1:8080/mock", "x", "http://127.0.0.1:8080/mock/partner/app/x/v3/message"),
    ],
)
def test_the_endpoint_of_an_app(base_url: str, app_id: str, expected: str) -> None:
    assert endpoint(base_url, app_id) == expected


@pytest.mark.parametrize(
    ("base_url", "app_id"),
    [
        *((base_url, "a") for base_url in (
            "partner.gupshup.io", "ftp://x", "https://", "https://u:p@x", "https://x?y", "https://x#y",
            "https://x y", "https://x\n", "https://[x", "https://x:99999",
        )),
        ("https://x", ""),
        ("https://x", ".."),
    ],
)  # fmt: skip
def test_an_endpoint_that_cannot_be_is_refused(base_url: str, app_id: str) -> None:
    with pytest.raises(SettingsError):
        endpoint(base_url, app_id)


def test_a_question_is_asked_by_the_rules_of_a_message(serve, client):
    server = serve(say(http(b'{"a":1}'), keep=True))
    base = f"http://127.0.0.1:{server.port}"
    posted = client.ask(
        "POST", partner_address(base, "account/login"), None, {"email": "a@b", "password": "s&e c"}
    )
    got = client.ask("GET", app_address(base, "app-1", "token"), "Bearer word")
    assert (posted.body, got.body) == (b'{"a":1}', b'{"a":1}')
    post, get = server.requests
    assert post.startswith(b"POST /partner/account/login HTTP/1.1\r\n")
    assert b"\r\nContent-Type: application/x-www-form-urlencoded\r\n" in post
    assert b"\r\nAuthorization:" not in post
    assert post.endswith(b"\r\n\r\nemail=a%40b&password=s%26e+c")
    assert get.startswith(b"GET /partner/app/app-1/token HTTP/1.1\r\n")
    assert b"\r\nAuthorization: Bearer word\r\n" in get
    assert b"\r\nContent-Type:" not in get
    assert server.connections == 1


def test_a_token_that_a_server_repeats_without_its_scheme_is_taken_out(serve, client):
    server = serve(say(http(f'{{"message":"no {TOKEN}"}}'.encode(), "401 No"), keep=True))
    assert client.post(server.url, f"Bearer {TOKEN}", BODY).body == b'{"message":"no [token]"}'
    assert TOKEN.encode() not in client.ask("GET", server.url, f"Bearer {TOKEN}").body


def test_a_question_to_an_address_that_is_none_is_a_sentence(client):
    with pytest.raises(SettingsError, match="DISPARO_BASE_URL"):
        client.ask("GET", "http://[broken/")
