"""Tokens: fetched once for everybody, renewed in time, kept secret, and honest when there is none."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import event, text

from disparo import log, tokens
from disparo.connections import Connections, connect
from disparo.errors import DatabaseUnavailable, SettingsError, TokenRefused, TokenUnavailable
from disparo.sandbox import Options, Sandbox
from disparo.settings import Environment
from disparo.tokens import Token, Tokens
from tests.factories.app import make_app
from tests.raw_server import Behaviour, Server, http, say

EMAIL, SECRET = "partner@example.com", "very-secret-client-word"
OLD, NEW = "sk_" + "a1" * 16, "sk_" + "b2" * 16


class Clock:
    """The boot clock of module ``tokens``, moved by hand."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(tokens, "boot_clock", made)
    return made


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(Options(apps={"app-loja": OLD}, partners={EMAIL: SECRET})) as started:
        yield started


@pytest.fixture
def environment(environment: Environment) -> Environment:
    """Those of every test, with a partner account."""
    return with_settings(environment, PARTNER_EMAIL=EMAIL, PARTNER_SECRET=SECRET)


def with_settings(environment: Environment, **changes: str) -> Environment:
    return Environment(
        {**environment.values, **{f"DISPARO_{name}": value for name, value in changes.items()}}
    )


def app_at(connections: Connections, base_url: str, kind: str = "partner", **columns: object) -> int:
    with connections.session() as session:
        return make_app(session, base_url=base_url, token_kind=kind, **columns).id


def asked(sandbox: Sandbox) -> tuple[int, int]:
    """How many logins, and how many requests for the app's token."""
    partner = sandbox.stats()["partner"]
    return partner["logins"], partner["tokens"].get("app-loja", 0)


def at_once(n: int, do: Callable[[], Any]) -> list[Any]:
    """What ``do`` gives in n threads that begin together."""
    barrier, found = threading.Barrier(n), []

    def run() -> None:
        barrier.wait()
        try:
            found.append(do())
        except Exception as err:  # noqa: BLE001 - told to the test
            found.append(err)

    threads = [threading.Thread(target=run) for _ in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def age(connections: Connections, seconds: float, life: float | None = None, subject: str = "app:%") -> None:
    """Make the stored tokens of ``subject`` that much older, and let them live ``life`` seconds in all."""
    with connections.session() as session:
        session.execute(
            text("""
                UPDATE tokens SET fetched_at = fetched_at - make_interval(secs => :age), expires_at =
                    fetched_at - make_interval(secs => :age) + make_interval(secs => :life)
                WHERE subject LIKE :subject"""),
            {"age": seconds, "life": life, "subject": subject},
        )


def forget(connections: Connections, subject: str = "app:%") -> None:
    """Take the stored tokens of ``subject`` away, with the failures beside them."""
    with connections.session() as session:
        session.execute(text("DELETE FROM tokens WHERE subject LIKE :subject"), {"subject": subject})


CHILD = """
import sys
from disparo import log
from disparo.connections import connect
from disparo.tokens import Tokens
log.configure("error")
with connect() as connections:
    tokens = Tokens(connections)
    print("ready", flush=True)
    sys.stdin.readline()
    print(tokens.get(int(sys.argv[1])).authorization, flush=True)
"""


def child(environment: Environment, app_id: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(app_id)],
        env={**os.environ, **environment.values},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


# -- once for everybody ------------------------------------------------------------------------------


def test_32_threads_that_ask_at_once_log_in_once_and_fetch_once(connections, sandbox):
    app_id = app_at(connections, sandbox.url)
    held = Tokens(connections)
    found = at_once(32, lambda: held.get(app_id).authorization)
    assert found == [OLD] * 32
    assert asked(sandbox) == (1, 1)


def test_8_processes_that_ask_at_once_log_in_once_and_fetch_once(connections, environment, sandbox):
    app_id = app_at(connections, sandbox.url)
    children = [child(environment, app_id) for _ in range(8)]
    try:
        for process in children:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in children:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        assert [process.communicate()[0].strip() for process in children] == [OLD] * 8
    finally:
        for process in children:
            process.kill()
            process.wait()
    assert asked(sandbox) == (1, 1)


def test_when_the_process_that_fetches_is_killed_another_goes_on(connections, environment):
    reached = threading.Event()

    def behave(connection: Any, body: bytes, number: int) -> bool:
        if number == 1:
            reached.set()
            return connection.recv(1) != b""
        token = {"token": "partner-token"} if b"email=" in body else {"token": {"token": NEW, "expiresOn": 0}}
        connection.sendall(http(json.dumps(token).encode()))
        return True

    server = Server(behave)
    process: subprocess.Popen[str] | None = None
    try:
        app_id = app_at(connections, f"http://127.0.0.1:{server.port}")
        process = child(environment, app_id)
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert reached.wait(20)
        waiting = threading.Thread(target=lambda: found.append(Tokens(connections).get(app_id).value))
        found: list[str] = []
        waiting.start()
        process.send_signal(signal.SIGKILL)
        waiting.join(5)
        assert found == [NEW]
    finally:
        if process is not None:
            process.kill()
            process.communicate()
        server.stop()


def test_the_common_case_costs_neither_sql_nor_a_request_nor_a_look_at_a_file(
    connections, sandbox, monkeypatch, home
):
    app_id = app_at(connections, sandbox.url)
    held = Tokens(connections)
    held.get(app_id)
    statements: list[str] = []
    event.listen(connections.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    monkeypatch.setattr(Environment, "secret", lambda *_: pytest.fail("a file was read"))
    monkeypatch.setattr(tokens.os, "stat", lambda *_: pytest.fail("a file was looked at"))
    for _ in range(1000):
        held.get(app_id)
    assert statements == []
    assert asked(sandbox) == (1, 1)


def test_another_process_of_the_home_reads_what_was_fetched(connections, environment, sandbox):
    app_id = app_at(connections, sandbox.url)
    Tokens(connections).get(app_id)
    with connect(environment) as others:
        assert Tokens(others).get(app_id).value == OLD
    assert asked(sandbox) == (1, 1)


# -- static ------------------------------------------------------------------------------------------


def test_a_changed_file_is_seen_within_two_seconds_and_an_unchanged_one_is_not_read_again(
    connections, environment, tmp_path, clock, monkeypatch
):
    file = tmp_path / "token"
    file.write_text(OLD)
    os.utime(file, (1, 1))
    values = {**environment.values, "DISPARO_TOKEN_LOJA": "", "DISPARO_TOKEN_LOJA_FILE": str(file)}
    connections.environment = Environment(values)
    app_id = app_at(connections, "http://nowhere", "static")
    reads: list[str] = []
    read_text = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda *args, **options: reads.append("") or read_text(*args, **options)
    )
    held = Tokens(connections)
    for _ in range(50):
        assert held.get(app_id).value == OLD
        clock.ahead += 0.5
    assert len(reads) == 1
    file.write_text(NEW)
    assert held.get(app_id).value in (OLD, NEW)
    clock.ahead += 1.1
    assert held.get(app_id).value == NEW
    # As long as it is so new that a second change might look the same, it is read each time.
    file.write_text(OLD)
    clock.ahead += 1.1
    assert held.get(app_id).value == OLD


def test_a_refused_static_token_is_renewed_only_by_a_change_of_its_file(connections, environment, tmp_path):
    file = tmp_path / "token"
    file.write_text(OLD)
    connections.environment = with_settings(environment, TOKEN_LOJA="", TOKEN_LOJA_FILE=str(file))
    app_id = app_at(connections, "http://nowhere", "static")
    held = Tokens(connections)
    used = held.get(app_id)
    assert held.renew(app_id, used) is False
    file.write_text(NEW)
    assert held.renew(app_id, used) is True
    assert held.get(app_id).value == NEW
    file.unlink()
    assert held.renew(app_id, held.get(app_id)) is False


def test_no_static_token_is_a_sentence_that_names_the_variable_and_is_found_once_it_is_there(
    connections, environment, tmp_path, clock
):
    file = tmp_path / "token"
    connections.environment = with_settings(environment, TOKEN_LOJA="", TOKEN_LOJA_FILE=str(file))
    app_id = app_at(connections, "http://nowhere", "static")
    held = Tokens(connections)
    with pytest.raises(SettingsError, match=r"DISPARO_TOKEN_LOJA_FILE names .* which cannot be read"):
        held.get(app_id)
    file.write_text("")
    clock.ahead += 1.1
    with pytest.raises(SettingsError, match="app loja has no token here: set DISPARO_TOKEN_LOJA or"):
        held.get(app_id)
    file.write_text(NEW)
    clock.ahead += 1.1
    assert held.get(app_id).value == NEW


def test_a_changed_kind_and_scheme_of_the_app_reach_a_running_process(connections, sandbox, clock):
    app_id = app_at(connections, sandbox.url, "static")
    held = Tokens(connections)
    assert held.get(app_id).source == "static"
    with connections.session() as session:
        session.execute(text("UPDATE apps SET token_kind = 'partner', token_scheme = 'bearer'"))
    clock.ahead += 16
    assert held.get(app_id).authorization == f"Bearer {OLD}"


# -- renewal -----------------------------------------------------------------------------------------


def test_a_rotated_token_is_fetched_once_for_a_whole_wave_of_refusals(connections, sandbox):
    app_id = app_at(connections, sandbox.url)
    held = Tokens(connections)
    used = held.get(app_id)
    age(connections, 100)
    sandbox.control(apps={"app-loja": NEW})
    assert at_once(32, lambda: held.renew(app_id, used)) == [True] * 32
    assert held.get(app_id).value == NEW
    assert asked(sandbox) == (1, 2)
    assert held.renew(app_id, used) is True
    # The new one is refused at once as well: nothing better is to be had.
    assert at_once(8, lambda: held.renew(app_id, held.get(app_id))) == [False] * 8
    assert asked(sandbox) == (1, 2)


def test_a_refused_token_that_the_provider_gives_again_is_fetched_at_most_once_a_minute(connections, sandbox):
    app_id = app_at(connections, sandbox.url)
    held = Tokens(connections)
    used = held.get(app_id)
    age(connections, 100)
    assert at_once(16, lambda: held.renew(app_id, used)) == [False] * 16
    assert asked(sandbox) == (1, 2)
    assert held.get(app_id) == used


def test_another_process_takes_what_the_first_one_renewed(connections, environment, sandbox):
    app_id = app_at(connections, sandbox.url)
    held = Tokens(connections)
    used = held.get(app_id)
    with connect(environment) as others:
        second = Tokens(others)
        second.get(app_id)
        age(connections, 100)
        sandbox.control(apps={"app-loja": NEW})
        assert held.renew(app_id, used) is True
        assert second.renew(app_id, used) is True
        assert second.get(app_id).value == NEW
    assert asked(sandbox) == (1, 2)


def test_a_login_that_has_ended_is_renewed_once(connections, sandbox):
    app_id = app_at(connections, sandbox.url)
    held = Tokens(connections)
    used = held.get(app_id)
    age(connections, 100)
    age(connections, 100, 86_400, "account:%")
    sandbox._endpoint.partner._logins.clear()
    sandbox.control(apps={"app-loja": NEW})
    assert held.renew(app_id, used) is True
    assert held.get(app_id).value == NEW
    assert asked(sandbox) == (2, 3)


def test_a_login_that_has_ended_and_cannot_be_renewed_stops_no_app(connections, sandbox, clock):
    app_id = app_at(connections, sandbox.url)
    held = Tokens(connections)
    used = held.get(app_id)
    age(connections, 100)
    age(connections, 100, 86_400, "account:%")
    sandbox._endpoint.partner._logins.clear()
    for _ in range(10):
        sandbox._endpoint.partner._is_too_often("login", 10, time.monotonic())
    sandbox.control(apps={"app-loja": NEW})
    assert held.renew(app_id, used) is True
    with pytest.raises(TokenUnavailable, match="Too Many Requests"):
        held.get(app_id)
    clock.ahead += 10
    with pytest.raises(TokenUnavailable, match="Too Many Requests"):
        held.get(app_id)
    assert asked(sandbox) == (2, 2)


def test_a_token_near_its_end_is_renewed_by_one_thread_while_the_others_go_on(connections, sandbox, clock):
    sandbox.control(token_seconds=3600)
    app_id = app_at(connections, sandbox.url)
    held = Tokens(connections)
    first = held.get(app_id)
    assert first.value not in (OLD, NEW)
    assert first.expires_at is not None
    assert asked(sandbox) == (1, 1)
    # Four minutes before its end; the provider has a new one.
    age(connections, 3360, 3600)
    sandbox._endpoint.partner._apps.clear()
    clock.ahead += 20
    found = set(at_once(16, lambda: held.get(app_id).value))
    second = held.get(app_id).value
    assert found <= {first.value, second}
    assert second != first.value
    assert asked(sandbox) == (1, 2)


def test_while_it_cannot_be_renewed_the_old_token_goes_on_until_its_end(connections, sandbox, clock):
    sandbox.control(token_seconds=3600)
    app_id = app_at(connections, sandbox.url)
    held = Tokens(connections)
    first = held.get(app_id)
    age(connections, 3360, 3600)
    sandbox.stop()
    clock.ahead += 20
    assert held.get(app_id).value == first.value
    age(connections, 300, 3600)
    clock.ahead += 3600
    with pytest.raises(TokenUnavailable, match="does not give the token of app app-loja just now"):
        held.get(app_id)
    sandbox.start()
    forget(connections)
    clock.ahead += 10
    assert held.get(app_id).value == first.value


def test_a_process_that_starts_while_the_login_fails_uses_what_is_still_valid(connections, sandbox):
    sandbox.control(token_seconds=3600)
    app_id = app_at(connections, sandbox.url)
    first = Tokens(connections).get(app_id)
    age(connections, 3360, 3600)
    forget(connections, "account:%")
    sandbox.stop()
    assert Tokens(connections).get(app_id).value == first.value
    age(connections, 300, 3600)
    with pytest.raises(TokenUnavailable, match="does not give the login of DISPARO_PARTNER_EMAIL"):
        Tokens(connections).get(app_id)


def test_a_refused_token_waits_for_a_login_that_does_not_answer(connections, sandbox, clock):
    app_id = app_at(connections, sandbox.url)
    held = Tokens(connections)
    used = held.get(app_id)
    age(connections, 100)
    sandbox.stop()
    assert held.renew(app_id, used) is True
    with pytest.raises(TokenUnavailable):
        held.get(app_id)
    assert held.renew(app_id, used) is True
    sandbox.control(apps={"app-loja": NEW})
    sandbox.start()
    forget(connections)
    clock.ahead += 10
    assert held.get(app_id).value == NEW


def test_a_database_that_does_not_answer_takes_no_valid_token_away(connections, sandbox, clock, monkeypatch):
    app_id = app_at(connections, sandbox.url)
    held = Tokens(connections)
    first = held.get(app_id)

    def gone() -> None:
        raise DatabaseUnavailable("PostgreSQL does not answer")

    monkeypatch.setattr(connections, "session", gone)
    clock.ahead += 20
    assert held.get(app_id) == first


# -- what goes wrong at the provider -----------------------------------------------------------------


def test_wrong_credentials_are_a_sentence_and_no_storm_of_logins(connections, environment, sandbox):
    connections.environment = with_settings(environment, PARTNER_SECRET="wrong-word")
    app_id = app_at(connections, sandbox.url)
    held = Tokens(connections)
    found = at_once(32, lambda: held.get(app_id))
    assert {type(err) for err in found} == {TokenRefused}
    (sentence,) = {str(err) for err in found}
    assert "DISPARO_PARTNER_EMAIL with DISPARO_PARTNER_SECRET: Invalid credentials (HTTP 401)" in sentence
    assert "wrong-word" not in sentence
    with connect(connections.environment) as others, pytest.raises(TokenRefused):
        Tokens(others).get(app_id)
    assert asked(sandbox) == (1, 0)
    # What a person corrects counts at once.
    connections.environment = environment
    assert Tokens(connections).get(app_id).value == OLD


def test_an_app_of_another_account_is_refused_in_a_sentence(connections, sandbox):
    app_id = app_at(connections, sandbox.url)
    with connections.session() as session:
        session.execute(text("UPDATE apps SET gs_app_id = 'app-other'"))
    with pytest.raises(TokenRefused, match=r"refuses the token of app app-other: Invalid App Details"):
        Tokens(connections).get(app_id)


@pytest.mark.parametrize("missing", ["PARTNER_EMAIL", "PARTNER_SECRET"])
def test_a_missing_credential_is_named(connections, environment, sandbox, missing):
    connections.environment = with_settings(environment, **{missing: ""})
    app_id = app_at(connections, sandbox.url)
    with pytest.raises(SettingsError, match=f"app loja fetches its token.*DISPARO_{missing} is not set"):
        Tokens(connections).get(app_id)
    with pytest.raises(SettingsError, match=f"DISPARO_{missing}_FILE"):
        connections.require_token("loja")


def drip(server: Server) -> Behaviour:
    def behave(connection: Any, body: bytes, number: int) -> bool:
        server.drip(connection, http(b'{"token": "' + b"x" * 2000 + b'"}'))
        return False

    return behave


@pytest.mark.parametrize(
    ("behave", "error", "told"),
    [
        (say(http(b"<html>Welcome</html>")), TokenUnavailable, "HTTP 200 without a JSON object"),
        (say(http(b'{"token": ""}')), TokenUnavailable, "holds no token"),
        (say(http(b'{"token": 7}')), TokenUnavailable, "holds no token"),
        (say(http(b'{"status":"error","message":"Internal"}', "500 Oops")), TokenUnavailable, "Internal"),
        (say(http(b"<html>gateway</html>", "502 Bad Gateway")), TokenUnavailable, "HTTP 502"),
        (say(http(b'{"message":"Too Many Requests"}', "429 Slow")), TokenUnavailable, "Too Many Requests"),
        (say(b"SSH-2.0-nothing\r\n"), TokenUnavailable, "just now"),
        (say(http(b"", "302 Found", "Location: http://127.0.0.1:1/")), TokenRefused, "redirect"),
        (
            say(http(b'{"message":"Bad sk_0123456789 %s"}' % SECRET.encode(), "400 Bad")),
            TokenRefused,
            "Bad [token] ***",
        ),
        (None, TokenUnavailable, "no complete answer within the deadline"),
    ],
    ids=["html", "empty", "number", "500", "502", "429", "no-http", "redirect", "400", "drip"],
)
def test_a_provider_that_fails_is_asked_once_and_the_failure_is_everybodys(
    connections, monkeypatch, behave, error, told
):
    monkeypatch.setattr(tokens, "FETCH_SECONDS", 1.0)
    server = Server(say(b""))
    server.behave = behave or drip(server)
    try:
        app_id = app_at(connections, f"http://127.0.0.1:{server.port}")
        held = Tokens(connections)
        began = time.monotonic()
        found = at_once(16, lambda: held.get(app_id))
        assert time.monotonic() - began < 4
        assert {type(err) for err in found} == {error}
        assert all(told in str(err) and SECRET not in str(err) for err in found), found[0]
        assert len(server.requests) == 1
        with pytest.raises(error):
            Tokens(connections).get(app_id)
        assert len(server.requests) == 1
    finally:
        server.stop()


def test_after_a_throttle_the_login_is_left_alone_for_a_minute(connections, clock):
    server = Server(say(http(b'{"message":"Too Many Requests"}', "429 Slow")))
    try:
        app_id = app_at(connections, f"http://127.0.0.1:{server.port}")
        held = Tokens(connections)
        for _ in range(6):
            with pytest.raises(TokenUnavailable):
                held.get(app_id)
            clock.ahead += 9
        assert len(server.requests) == 1
    finally:
        server.stop()


# -- universal tokens --------------------------------------------------------------------------------


def test_a_universal_token_is_minted_once_and_sent_as_bearer(connections, environment, sandbox):
    connections.environment = with_settings(environment, PARTNER_ID="4711")
    app_id = app_at(connections, sandbox.url, "universal")
    held = Tokens(connections)
    (authorization,) = {token.authorization for token in at_once(16, lambda: held.get(app_id))}
    assert re.fullmatch(r"Bearer eyJ[\w-]+\.[\w-]+\.[\w-]+", authorization)
    assert asked(sandbox) == (1, 1)
    assert held.get(app_id).expires_at is not None
    with connections.session() as session:
        session.execute(text("UPDATE apps SET token_scheme = 'raw'"))
    assert Tokens(connections).get(app_id).authorization == authorization.removeprefix("Bearer ")


def test_too_many_universal_tokens_are_a_sentence_of_what_to_do(connections, environment, sandbox):
    connections.environment = with_settings(environment, PARTNER_ID="4711")
    app_id = app_at(connections, sandbox.url, "universal")
    held = Tokens(connections)
    for _ in range(2):
        used = held.get(app_id)
        age(connections, 100, 86_400)
        assert held.renew(app_id, used) is True
        assert held.get(app_id).value != used.value
    age(connections, 100, 86_400)
    assert held.renew(app_id, held.get(app_id)) is False
    forget(connections)
    with pytest.raises(TokenRefused, match="revoke those that nobody uses"):
        Tokens(connections).get(app_id)


# -- secret ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_root_logger")
def test_no_token_and_no_secret_is_in_a_log_a_repr_the_tables_or_redis(
    connections, environment, sandbox, capsys, redis_url, home
):
    log.configure("debug")
    connections.environment = with_settings(environment, PARTNER_ID="4711")
    app_id = app_at(connections, sandbox.url)
    held = Tokens(connections)
    token = held.get(app_id)
    held.renew(app_id, token)
    connections.environment = with_settings(environment, PARTNER_SECRET="wrong-secret-word")
    with pytest.raises(TokenRefused) as refused:
        Tokens(connections).get(app_id)
    with connections.session() as session:
        dump = json.dumps([str(dict(row._mapping)) for row in session.execute(text("SELECT * FROM tokens"))])
        raw = b"".join(
            bytes(row.ciphertext) for row in session.execute(text("SELECT ciphertext FROM tokens"))
        )
    (login,) = sandbox._endpoint.partner._logins
    captured = capsys.readouterr()
    client = redis.Redis.from_url(redis_url)
    kept = b"".join(key + (client.dump(key) or b"") for key in client.keys("*"))
    client.close()
    shown = "\n".join(
        [
            captured.out,
            captured.err,
            repr(token),
            repr(held._slots),
            repr(held._held),
            str(refused.value),
            dump,
        ]
    )
    assert "token_not_fetched" in captured.err
    for secret in (OLD, SECRET, login, "wrong-secret-word", OLD[3:]):
        assert secret not in shown
        assert secret.encode() not in raw + kept
    assert (home / "encryption.key").stat().st_mode & 0o777 == 0o600


def test_two_encryption_keys_do_not_fight(connections, environment, sandbox, clock):
    app_id = app_at(connections, sandbox.url)
    first = Tokens(connections)
    with connect(with_settings(environment, ENCRYPTION_KEY="k" * 32)) as others:
        second = Tokens(others)
        for _ in range(5):
            assert first.get(app_id).value == second.get(app_id).value == OLD
            clock.ahead += 16
    assert asked(sandbox) == (2, 2)


def test_two_accounts_that_share_a_key_do_not_take_turns_in_fetching(
    connections, environment, sandbox, clock
):
    sandbox.control(partners={EMAIL: SECRET, "other@example.com": "other-word"})
    app_id = app_at(connections, sandbox.url)
    first = Tokens(connections)
    with connect(
        with_settings(environment, PARTNER_EMAIL="other@example.com", PARTNER_SECRET="other-word")
    ) as others:
        second = Tokens(others)
        for _ in range(5):
            assert first.get(app_id).value == second.get(app_id).value == OLD
            clock.ahead += 16
    assert asked(sandbox) == (2, 2)


@pytest.mark.usefixtures("_root_logger")
@pytest.mark.parametrize(
    "harm",
    [
        "'\\x00'",
        "ciphertext || '\\x00'::bytea",
        "set_byte(ciphertext, 20, (get_byte(ciphertext, 20) + 1) % 256)",
    ],
)
def test_a_row_that_cannot_be_read_is_as_good_as_absent_and_said_once(connections, sandbox, harm, capsys):
    log.configure("warning")
    app_id = app_at(connections, sandbox.url)
    Tokens(connections).get(app_id)
    with connections.session() as session:
        session.execute(text(f"UPDATE tokens SET ciphertext = {harm} WHERE subject LIKE 'app:%'"))
    held = Tokens(connections)
    assert held.get(app_id).value == OLD
    assert capsys.readouterr().err.count("token_unreadable") == 1
    assert asked(sandbox) == (1, 2)


def test_a_row_of_one_app_is_not_read_as_that_of_another(connections, sandbox):
    sandbox.control(apps={"app-loja": OLD, "app-loja-2": NEW})
    app_id = app_at(connections, sandbox.url)
    with connections.session() as session:
        second_id = make_app(session, "loja-2", base_url=sandbox.url, token_kind="partner").id
    Tokens(connections).get(app_id)
    with connections.session() as session:
        session.execute(text(f"UPDATE tokens SET subject = 'app:{second_id}' WHERE subject = 'app:{app_id}'"))
    assert Tokens(connections).get(second_id).value == NEW


def test_a_home_that_cannot_hold_a_key_is_a_sentence(connections, sandbox, home):
    (home / "encryption.key").write_text("short")
    app_id = app_at(connections, sandbox.url)
    with pytest.raises(SettingsError, match=r"encryption\.key holds no key; delete it"):
        Tokens(connections).get(app_id)
    (home / "encryption.key").unlink()
    connections.settings = connections.settings.model_copy(update={"home": home / "file" / "below"})
    (home / "file").touch()
    with pytest.raises(SettingsError, match="or set DISPARO_ENCRYPTION_KEY"):
        Tokens(connections).get(app_id)


def test_a_tokens_header_is_as_its_scheme_has_it():
    raw = Token(OLD, "raw", None, "static")
    assert raw.authorization == OLD
    assert replace(raw, scheme="bearer").authorization == f"Bearer {OLD}"


def test_what_needs_a_token_takes_credentials_for_one(connections, sandbox):
    app_at(connections, sandbox.url)
    connections.require_token("loja")
    with pytest.raises(SettingsError, match="set DISPARO_TOKEN_UNKNOWN"):
        connections.require_token("unknown")
