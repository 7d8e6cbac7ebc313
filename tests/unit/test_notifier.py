"""Telling a notification once: what is taken, what is not and why, and that nothing outlasts its deadline."""

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from disparo.notifier import Hook, tell
from tests.raw_server import TLS, Behaviour, Server, http, say, tls_context

NOTICE = {"id": 7, "event": "app_paused", "text": "loja está parada", "details": {"code": "1003"}}
SECRET = "T00/B00/s3cr3t"

Start = Callable[..., Server]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[Server] = []

    def start(behave: Behaviour, tls: str | None = None) -> Server:
        started.append(Server(behave, tls_context(tls) if tls else None))
        return started[-1]

    yield start
    for server in started:
        server.stop()


def url_of(server: Server) -> str:
    return f"http://localhost:{server.port}/services/{SECRET}?token={SECRET}"


def python(code: str) -> str:
    return f"{sys.executable} -c '{code}'"


# -- an address -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["200 OK", "204 No Content", "299 Fine"])
def test_a_2xx_takes_it_as_one_json_document(start: Start, status: str) -> None:
    server = start(say(http(b"", status)))
    assert tell(Hook(url=url_of(server)), NOTICE) is None
    (request,) = server.requests
    head, body = request.split(b"\r\n\r\n", 1)
    assert json.loads(body) == NOTICE
    assert head.startswith(f"POST /services/{SECRET}?token={SECRET} HTTP/1.1\r\n".encode())
    assert b"content-type: application/json" in head.lower()


@pytest.mark.parametrize("status", ["301 Moved", "307 Again", "400 Bad", "404 Gone", "500 Fault"])
def test_anything_else_is_told_with_its_status_and_a_redirect_is_not_followed(
    start: Start, status: str
) -> None:
    server = start(say(http(b"secret words", status, "Location: /elsewhere")))
    assert tell(Hook(url=url_of(server)), NOTICE) == f"it answered HTTP {status[:3]}"
    assert len(server.requests) == 1


def test_an_address_without_a_server_an_answer_that_is_no_http_and_a_hang_up_are_said_without_the_address(
    start: Start,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    refused = tell(Hook(url=f"http://127.0.0.1:{port}/{SECRET}"), NOTICE)
    garbage = tell(Hook(url=url_of(start(say(b"SSH-2.0-OpenSSH " + SECRET.encode() + b"\r\n\r\n")))), NOTICE)
    hung_up = tell(Hook(url=url_of(start(lambda *_: False))), NOTICE)
    odd = tell(Hook(url=f"http://localhost:1x/{SECRET}"), NOTICE)
    assert refused == "no connection: Connection refused"
    for said in (garbage, hung_up, odd):
        assert said is not None
        assert said.startswith("no ")
        assert SECRET not in said


@pytest.mark.parametrize("manner", ["silent", "drips"])
def test_a_receiver_that_never_answers_is_given_up_at_the_deadline(start: Start, manner: str) -> None:
    server: list[Server] = []

    def behave(connection: socket.socket, _: bytes, __: int) -> bool:
        if manner == "drips":
            server[0].drip(connection, http(b"x" * 1000))
        return not server[0].stopped.wait(30)

    server.append(start(behave))
    before = time.monotonic()
    assert tell(Hook(url=url_of(server[0])), NOTICE, seconds=1) == "not done within 1 seconds"
    assert time.monotonic() - before < 10
    assert len(server[0].requests) == 1


def test_a_certificate_is_checked_and_the_bundle_of_the_settings_counts(start: Start) -> None:
    server = start(say(http(b"ok")), tls="localhost.pem")
    said = tell(Hook(url=f"https://127.0.0.1:{server.port}/{SECRET}"), NOTICE)
    assert said is not None
    assert said.startswith("its certificate is not trusted: ")
    trusting = Hook(url=f"https://127.0.0.1:{server.port}/{SECRET}", ca_bundle=str(TLS / "localhost.pem"))
    assert tell(trusting, NOTICE) is None


def test_only_the_proxy_of_the_settings_counts(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy, server = start(say(http(b"ok"))), start(say(http(b"ok")))
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
    monkeypatch.delenv("no_proxy", raising=False)
    assert tell(Hook(url=url_of(server)), NOTICE) is None
    assert (len(server.requests), len(proxy.requests)) == (1, 0)
    monkeypatch.delenv("http_proxy")
    assert tell(Hook(url="http://hooks.invalid/x", proxy=f"http://127.0.0.1:{proxy.port}"), NOTICE) is None
    assert proxy.requests[0].startswith(b"POST http://hooks.invalid/x HTTP/1.1\r\n")


# -- a command --------------------------------------------------------------------------------------------


def test_a_command_reads_it_on_its_standard_input_without_a_shell(tmp_path: Path) -> None:
    told = tmp_path / "told json"
    code = 'import sys; open(sys.argv[1], "w").write(sys.stdin.read() + sys.argv[2])'
    assert tell(Hook(command=f"{python(code)} '{told}' $HOME"), NOTICE) is None
    content = told.read_text()
    assert content.endswith("$HOME")
    assert json.loads(content.removesuffix("$HOME")) == NOTICE


def test_a_command_that_fails_or_is_not_there_is_told_without_its_words() -> None:
    code = f'import sys; print("{SECRET}"); sys.exit("{SECRET}")'
    assert tell(Hook(command=python(code)), NOTICE) == "the command ended with 1"
    said = tell(Hook(command=f"/nowhere/{SECRET}"), NOTICE)
    assert said == "the command cannot be run: No such file or directory"


def test_a_command_that_reads_nothing_and_one_that_writes_much_are_taken() -> None:
    large = NOTICE | {"details": {"x": "x" * 500_000}}
    assert tell(Hook(command="true"), large) is None
    assert tell(Hook(command=python('print("x" * 500_000)')), NOTICE) is None


def test_a_command_that_does_not_end_is_killed_with_what_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code = (
        'import os, subprocess, sys; child = subprocess.Popen(["sleep", "60"]); '
        'print(os.getpid(), child.pid, file=open(sys.argv[1], "w")); child.wait()'
    )
    assert tell(Hook(command=f"{python(code)} {pids}"), NOTICE, seconds=1) == "not done within 1 seconds"
    until = time.monotonic() + 10
    left = {int(pid) for pid in pids.read_text().split()}
    while left and time.monotonic() < until:
        left = {pid for pid in left if is_running(pid)}
    assert left == set()


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_nothing_secret_shows_in_a_hook() -> None:
    hook = Hook(url=f"https://h/{SECRET}", command=f"say {SECRET}", proxy=f"http://u:{SECRET}@p")
    assert SECRET not in repr(hook)


def test_a_hook_that_names_nobody_says_so() -> None:
    assert tell(Hook(), NOTICE) == "DISPARO_NOTIFY_URL names nobody any more"
