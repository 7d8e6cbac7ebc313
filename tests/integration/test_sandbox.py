"""The sandbox over real sockets: HTTP as clients speak it, answers that fail, its thread and its process."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from disparo.errors import InputError
from disparo.sandbox import Options, Sandbox
from disparo.whatsapp.examples import EXAMPLES

PATH = "/partner/app/app-1/v3/message"
TOKEN = "sk_0123456789abcdef"


def message(to: str = "5511999990001", text: str = "Oi") -> dict[str, Any]:
    return {
        "messaging_product": "whatsapp",
        "recipient_type": "individual",
        "to": to,
        "type": "text",
        "text": {"body": text},
    }


def raw(
    body: bytes | None = None,
    *,
    method: str = "POST",
    path: str = PATH,
    extra: str = "",
    version: str = "1.1",
) -> bytes:
    content = json.dumps(message()).encode() if body is None else body
    return (
        f"{method} {path} HTTP/{version}\r\nHost: sandbox\r\nAuthorization: {TOKEN}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n{extra}\r\n"
    ).encode() + content


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as running:
        yield running


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as open_session:
        open_session.trust_env = False
        open_session.headers["Authorization"] = TOKEN
        yield open_session


@contextlib.contextmanager
def connected(sandbox: Sandbox) -> Iterator[socket.socket]:
    host, _, port = sandbox.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        yield client


def all_of(client: socket.socket) -> bytes:
    """Everything that comes until the other side closes."""
    received = b""
    while piece := client.recv(65536):
        received += piece
    return received


def until(client: socket.socket, end: bytes) -> bytes:
    received = b""
    while not received.endswith(end):
        piece = client.recv(65536)
        assert piece, received
        received += piece
    return received


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it has not come true in time"
        threading.Event().wait(0.005)


def test_a_message_is_accepted_counted_and_shown(sandbox: Sandbox, session: requests.Session) -> None:
    for _ in range(2):
        answer = session.post(sandbox.url + PATH, json=message(), timeout=10)
        assert answer.status_code == 200
    [first, second] = sandbox.messages(to="5511999990001")
    assert second["id"] == answer.json()["messages"][0]["id"] != first["id"]
    assert [line["id"] for line in sandbox.accepted()] == [first["id"], second["id"]]
    stats = session.get(sandbox.url + "/stats", timeout=10).json()
    assert stats == sandbox.stats()
    assert (stats["accepted"], stats["distinct"], stats["repeated"]) == (2, 1, 1)
    assert stats["open_requests"] == 0
    assert stats["worst_second"] in (1, 2)
    assert stats["first_at"] <= stats["last_at"] <= time.time()


def test_paths_and_methods_are_strict(sandbox: Sandbox, session: requests.Session) -> None:
    def status(method: str, path: str) -> int:
        return session.request(method, sandbox.url + path, json=message(), timeout=10).status_code

    assert status("POST", PATH + "s") == 404
    assert status("POST", "/partner/app//v3/message") == 404
    assert status("GET", PATH) == 405
    assert status("PUT", PATH) == 405
    assert status("HEAD", "/health") == 200
    assert status("POST", PATH + "?a=b") == 200
    assert sandbox.stats()["arrivals"] == 1


def test_pipelined_requests_are_answered_in_order_whatever_each_waits_for(sandbox: Sandbox) -> None:
    sandbox.control(latency_ms="0-5", seed=1)
    bodies = [json.dumps(message(to=f"55119{number:08d}")).encode() for number in range(200)]
    with connected(sandbox) as client:
        wire = b"".join(raw(body) for body in bodies)
        # In pieces, so that requests are torn anywhere.
        for begin in range(0, len(wire), 1009):
            client.sendall(wire[begin : begin + 1009])
        client.sendall(raw(b"", method="GET", path="/health", extra="Connection: close\r\n"))
        received = all_of(client)
    places = [received.index(f'"input":"55119{number:08d}"'.encode()) for number in range(200)]
    assert places == sorted(places)
    assert received.count(b"HTTP/1.1 200 OK") == 201


def test_a_chunked_body_is_read(sandbox: Sandbox, session: requests.Session) -> None:
    pieces = (json.dumps(message()).encode()[place : place + 7] for place in range(0, 1000, 7))
    answer = session.post(
        sandbox.url + PATH,
        data=(piece for piece in pieces if piece),
        headers={"Content-Type": "application/json"},
        timeout=10,
    )
    assert answer.status_code == 200


def test_a_client_that_expects_to_be_asked_is_asked_for_its_body(sandbox: Sandbox) -> None:
    head, _, body = raw(extra="Expect: 100-continue\r\n").partition(b"\r\n\r\n")
    with connected(sandbox) as client:
        for _ in range(2):
            client.sendall(head + b"\r\n\r\n")
            assert until(client, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.sendall(body)
            assert until(client, b"}]}").startswith(b"HTTP/1.1 200 OK")


def test_it_is_asked_after_the_answer_to_the_request_before(sandbox: Sandbox) -> None:
    sandbox.control(latency_ms=50)
    head, _, body = raw(extra="Expect: 100-continue\r\nConnection: close\r\n").partition(b"\r\n\r\n")
    with connected(sandbox) as client:
        client.sendall(raw() + head + b"\r\n\r\n")
        received = until(client, b"100 Continue\r\n\r\n")
        assert received.startswith(b"HTTP/1.1 200 OK")
        client.sendall(body)
        assert all_of(client).startswith(b"HTTP/1.1 200 OK")


def test_a_body_over_one_megabyte_is_refused_and_the_connection_goes_on(
    sandbox: Sandbox, session: requests.Session
) -> None:
    answer = session.post(sandbox.url + PATH, json=message(text="x" * 1_100_000), timeout=10)
    assert answer.status_code == 413
    assert session.post(sandbox.url + PATH, json=message(), timeout=10).status_code == 200
    assert sandbox.stats()["refused"]["by_reason"] == {"too-large": 1}


def test_a_body_over_one_megabyte_is_not_even_asked_for(sandbox: Sandbox) -> None:
    with connected(sandbox) as client:
        head = f"POST {PATH} HTTP/1.1\r\nHost: s\r\nContent-Length: 2000000\r\nExpect: 100-continue\r\n\r\n"
        client.sendall(head.encode())
        assert all_of(client).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "wire",
    [
        b"hello\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: s\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused_and_the_connection_closed(sandbox: Sandbox, wire: bytes) -> None:
    with connected(sandbox) as client:
        client.sendall(raw() + wire)
        received = all_of(client)
    assert received.startswith(b"HTTP/1.1 200 OK")
    assert b"HTTP/1.1 400 Bad Request" in received


def test_a_header_without_end_is_cut_off(sandbox: Sandbox) -> None:
    # The sandbox closes while the rest is on its way, so the answer itself may get lost.
    with connected(sandbox) as client, contextlib.suppress(ConnectionError):
        client.sendall(b"GET /health HTTP/1.1\r\nX: " + b"x" * 10_000_000)
        assert all_of(client).startswith(b"HTTP/1.1 431 ")
    assert requests.get(sandbox.url + "/health", timeout=10).status_code == 200


def test_http_1_0_clients_are_served(sandbox: Sandbox) -> None:
    with connected(sandbox) as client:
        client.sendall(raw(version="1.0", extra="Connection: keep-alive\r\n"))
        assert b"Connection: keep-alive" in until(client, b"}]}")
        client.sendall(b"GET /accepted HTTP/1.0\r\n\r\n")
        head, _, lines = all_of(client).partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert json.loads(lines)["to"] == "5511999990001"


@pytest.mark.parametrize(("fault", "accepted"), [("close-before", 0), ("close-after", 1)])
def test_a_closed_connection_leaves_no_answer(sandbox: Sandbox, fault: str, accepted: int) -> None:
    sandbox.control(suffix_faults={"0001": fault})
    with connected(sandbox) as client:
        client.sendall(raw())
        assert all_of(client) == b""
    assert (sandbox.stats()["accepted"], sandbox.stats()["open_requests"]) == (accepted, 0)


def test_a_hanging_request_stays_open_until_the_client_goes_away(sandbox: Sandbox) -> None:
    sandbox.control(suffix_faults={"0001": "hang"})
    with connected(sandbox) as client:
        client.sendall(raw())
        eventually(lambda: sandbox.stats()["open_requests"] == 1)
        assert sandbox.stats()["accepted"] == 1
        client.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.recv(1)
    eventually(lambda: sandbox.stats()["open_requests"] == 0)


def test_a_dripping_answer_comes_a_byte_a_second(sandbox: Sandbox) -> None:
    sandbox.control(suffix_faults={"0001": "drip"})
    with connected(sandbox) as client:
        begun = time.monotonic()
        client.sendall(raw())
        received = client.recv(100)
        while len(received) < 2:
            received += client.recv(100)
        taken = time.monotonic() - begun
        assert sandbox.stats()["open_requests"] == 1
    assert b"HTTP/1.1 200 OK".startswith(received)
    assert len(received) - 1 <= taken + 0.1


def test_a_cut_answer_is_shorter_than_it_says(sandbox: Sandbox, session: requests.Session) -> None:
    sandbox.control(suffix_faults={"0001": "cut"})
    with pytest.raises(requests.exceptions.ChunkedEncodingError, match="IncompleteRead"):
        session.post(sandbox.url + PATH, json=message(), timeout=10)
    assert sandbox.stats()["accepted"] == 1


def test_a_gateways_page_and_a_throttle_with_a_wait(sandbox: Sandbox, session: requests.Session) -> None:
    sandbox.control(suffix_faults={"01": "502", "02": "throttle:2"})
    page = session.post(sandbox.url + PATH, json=message("5511999990001"), timeout=10)
    assert (page.status_code, page.headers["Content-Type"]) == (502, "text/html")
    wait = session.post(sandbox.url + PATH, json=message("5511999990002"), timeout=10)
    assert (wait.status_code, wait.headers["Retry-After"]) == (429, "2")


def test_an_answer_takes_the_latency_that_was_set(sandbox: Sandbox, session: requests.Session) -> None:
    sandbox.control(latency_ms="60-90")
    begun = time.monotonic()
    assert session.post(sandbox.url + PATH, json=message(), timeout=10).status_code == 200
    assert time.monotonic() - begun > 0.05


def test_waiting_requests_are_open_at_the_same_time(sandbox: Sandbox) -> None:
    sandbox.control(latency_ms=300)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connected(sandbox)) for _ in range(20)]
        for client in clients:
            client.sendall(raw())
        eventually(lambda: sandbox.stats()["arrivals"] == 20)
        for client in clients:
            assert until(client, b"}]}").startswith(b"HTTP/1.1 200 OK")
    stats = sandbox.stats()
    assert (stats["open_requests"], stats["accepted"], stats["distinct"]) == (0, 20, 1)
    assert 2 <= stats["open_requests_most"] <= 20


def test_the_whole_log_streams_to_a_slow_reader_while_others_are_served(
    sandbox: Sandbox, session: requests.Session
) -> None:
    count = 5000
    with connected(sandbox) as client:
        wire = b"".join(raw(json.dumps(message(text=str(number))).encode()) for number in range(count))
        sender = threading.Thread(target=client.sendall, args=(wire,))
        sender.start()
        received = 0
        tail = b""
        while received < count:
            piece = client.recv(65536)
            received += (tail + piece).count(b"HTTP/1.1 200 OK") - tail.count(b"HTTP/1.1 200 OK")
            tail = piece[-14:]
        sender.join()
    with session.get(sandbox.url + "/accepted", stream=True, timeout=10) as stream:
        lines = stream.iter_lines()
        first = next(lines)
        assert session.post(sandbox.url + PATH, json=message(text="late"), timeout=10).status_code == 200
        rest = list(lines)
    assert len({json.loads(line)["digest"] for line in [first, *rest]}) == count


def test_control_over_http_refuses_with_a_sentence(sandbox: Sandbox, session: requests.Session) -> None:
    answer = session.post(sandbox.url + "/control", json={"latency_ms": "soon"}, timeout=10)
    assert answer.status_code == 400
    assert "latency_ms" in answer.json()["message"]
    assert session.post(sandbox.url + "/control", json={"rate": 2}, timeout=10).json()["rate"] == 2
    assert sandbox.control()["rate"] == 2
    with pytest.raises(InputError, match="speed"):
        sandbox.control(speed=1)


def test_a_stopped_sandbox_keeps_its_books_and_its_port(session: requests.Session) -> None:
    sandbox = Sandbox(Options(suffix_faults={"0002": "hang"}))
    with pytest.raises(RuntimeError, match="not been started"):
        _ = sandbox.url
    sandbox.start()
    url = sandbox.url
    assert session.post(url + PATH, json=message(), timeout=10).status_code == 200
    with connected(sandbox) as hanging:
        hanging.sendall(raw(json.dumps(message("5511999990002")).encode()))
        eventually(lambda: sandbox.stats()["open_requests"] == 1)
        sandbox.stop()
        sandbox.stop()
    assert (sandbox.stats()["accepted"], sandbox.stats()["open_requests"]) == (2, 0)
    with pytest.raises(requests.exceptions.ConnectionError):
        requests.get(url + "/health", timeout=10)
    with sandbox:
        assert sandbox.url == url
        assert requests.get(url + "/health", timeout=10).json() == {"status": "ok"}


def test_a_taken_port_is_a_sentence(sandbox: Sandbox) -> None:
    port = int(sandbox.url.rpartition(":")[2])
    second = Sandbox(port=port)
    with pytest.raises(InputError, match=f"Port {port} of 127.0.0.1 is taken"):
        second.start()
    second.stop()
    assert second.stats()["arrivals"] == 0


def test_an_address_of_another_machine_is_a_sentence() -> None:
    with pytest.raises(InputError, match=r"cannot listen at 192\.0\.2\.1"):
        Sandbox(host="192.0.2.1").start()


def command(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "disparo.sandbox", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONWARNINGS": "error"},
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_says_ready_and_ends_at_a_signal(
    number: signal.Signals, session: requests.Session
) -> None:
    with command("--port", "0", "--fault", "0001=meta:131026", "--app", f"app-1={TOKEN}") as process:
        try:
            assert process.stdout is not None
            ready, url = process.stdout.readline().split()
            assert ready == "ready"
            answer = session.post(url + PATH, json=message(), timeout=10)
            assert answer.json()["error"]["code"] == 131026
            assert session.post(url + PATH, json=message("5511999990002"), timeout=10).status_code == 200
            assert session.post(url + "/control", json={"rate": 5}, timeout=10).status_code == 200
            process.send_signal(number)
            out, err = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (process.returncode, out) == (0, "")
    assert "options changed: rate" in err
    assert TOKEN not in err
    assert "5511999990001" not in err


def test_the_command_refuses_a_taken_port_with_one_sentence(sandbox: Sandbox) -> None:
    with command("--port", sandbox.url.rpartition(":")[2]) as process:
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (1, "")
    assert err.endswith("stop it, or give the sandbox another --port.\n")
    assert "Traceback" not in err


@pytest.mark.parametrize("arguments", [["--rate", "x"], ["--fault", "1=explode"], ["--port", "70000"]])
def test_the_command_refuses_a_wrong_option_as_usage(arguments: list[str]) -> None:
    with command(*arguments) as process:
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (2, "")
    assert "error: Option" in err or "error: There is no fault" in err


def test_the_example_of_every_type_is_accepted(sandbox: Sandbox, session: requests.Session) -> None:
    def answer(body: dict[str, Any]) -> Any:
        return session.post(sandbox.url + PATH, json=body, timeout=10).json()

    refused = {one.name: answer(one.document) for one in EXAMPLES}
    assert {name: told for name, told in refused.items() if not told.get("messages")} == {}
