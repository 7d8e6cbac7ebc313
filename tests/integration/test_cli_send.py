"""``disparo send`` and ``disparo message show``: what is stored, what is refused, what is said."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

SEEDS = sorted((Path(__file__).parent.parent / "data" / "seeds").glob("*.json"))
ENVELOPE = ("messaging_product", "recipient_type", "to")
HELLO = {"type": "text", "text": {"body": "Oi"}}
TO = "5511999998888"


@pytest.fixture
def loja(run):
    assert run("app", "set", "loja", "--id", "app-1").code == 0


@pytest.fixture
def hello(tmp_path):
    path = tmp_path / "hello.json"
    path.write_text(json.dumps(HELLO))
    return path


def rows(connections, query):
    with connections.session() as session:
        return session.execute(text(query)).all()


def stored(connections):
    return [
        json.loads(row.content)
        for row in rows(connections, "SELECT CAST(content AS text) FROM messages ORDER BY id")
    ]


def test_there_are_the_five_kinds_of_the_providers_pages():
    assert len(SEEDS) == 5


@pytest.mark.usefixtures("loja")
@pytest.mark.parametrize("seed", SEEDS, ids=lambda path: path.stem)
def test_a_page_of_the_provider_is_stored_as_exactly_that_json(run, connections, seed):
    assert run("send", "--app", "loja", seed).code == 0
    assert stored(connections) == [json.loads(seed.read_text())]


@pytest.mark.usefixtures("loja")
@pytest.mark.parametrize("seed", SEEDS, ids=lambda path: path.stem)
def test_without_its_envelope_the_same_json_is_stored(run, connections, tmp_path, seed):
    page = json.loads(seed.read_text())
    bare = tmp_path / "bare.json"
    bare.write_text(json.dumps({key: value for key, value in page.items() if key not in ENVELOPE}))
    # As people write numbers; on the wire are digits.
    assert run("send", "--app", "loja", "--to", f"+{page['to']}", bare).code == 0
    assert stored(connections) == [page]


@pytest.mark.usefixtures("loja")
def test_a_message_in_yaml_is_the_same_message(run, connections, tmp_path):
    path = tmp_path / "hello.yaml"
    path.write_text("type: text\ntext:\n  body: Oi\n")
    assert run("send", "--app", "loja", "--to", "(11) 99999-8888", path).code == 0
    assert stored(connections) == [
        {"messaging_product": "whatsapp", "recipient_type": "individual", "to": TO, **HELLO}
    ]


@pytest.mark.usefixtures("loja")
def test_json_is_one_document_with_the_fixed_fields(run, hello):
    found = run("send", "--app", "loja", "--to", TO, "--key", "order-1", "--json", hello).json
    assert {"id", "key", "app", "to", "state", "provider_id", "code", "reason", "attempts"} <= set(found)
    assert (found["key"], found["app"], found["to"], found["state"]) == ("order-1", "loja", TO, "pending")


@pytest.mark.usefixtures("loja")
def test_the_same_key_and_content_is_the_same_message(run, connections, hello):
    first = run("send", "--app", "loja", "--to", TO, "--key", "k", "--json", hello).json
    again = run("send", "--app", "loja", "--to", "+55 11 99999-8888", "--key", "k", "--json", hello).json
    assert again["id"] == first["id"]
    assert "nothing new" in run("send", "--app", "loja", "--to", TO, "--key", "k", hello).out
    assert len(stored(connections)) == 1


@pytest.mark.usefixtures("loja")
@pytest.mark.parametrize("change", ["to", "content"])
def test_the_same_key_with_another_recipient_or_content_is_refused(run, connections, hello, change):
    run("send", "--app", "loja", "--to", TO, "--key", "k", hello)
    if change == "content":
        hello.write_text(json.dumps({"type": "text", "text": {"body": "Tchau"}}))
    refused = run(
        "send", "--app", "loja", "--to", "11988887777" if change == "to" else TO, "--key", "k", hello
    )
    assert "key 'k' of app loja already names message" in refused.sentence
    assert len(stored(connections)) == 1


@pytest.mark.usefixtures("loja")
def test_two_apps_may_use_the_same_key(run, connections, hello, monkeypatch):
    run("app", "set", "escola", "--id", "app-2")
    monkeypatch.setenv("DISPARO_TOKEN_ESCOLA", "sk_1")
    assert run("send", "--app", "loja", "--to", TO, "--key", "k", hello).code == 0
    assert run("send", "--app", "escola", "--to", TO, "--key", "k", hello).code == 0
    assert len(stored(connections)) == 2
    assert "fits several messages" in run("message", "show", "k").sentence


@pytest.mark.usefixtures("loja")
def test_at_is_echoed_with_both_zones_and_kept(run, connections, hello):
    done = run("send", "--app", "loja", "--to", TO, "--at", "2030-12-03T10:00", hello)
    assert "2030-12-03 10:00 America/Sao_Paulo (13:00 UTC)" in done.err
    [row] = rows(connections, "SELECT due_at, released_at FROM messages")
    assert f"{row.due_at:%Y-%m-%dT%H:%M%z}" in ("2030-12-03T13:00+0000", "2030-12-03T10:00-0300")
    assert row.released_at is None


WRONG_OPTIONS = [
    (["--at", "2020-01-01 10:00"], "has passed"),
    (["--at", "someday"], "is not a date or a time"),
    (["--not-after", "2020-01-01"], "not_after must be later"),
    (["--at", "in 2h", "--not-after", "in 1h"], "not_after must be later"),
    (["--key", ""], "a key has 1 to 200 printable characters"),
    (["--key", "k" * 201], "a key has 1 to 200 printable characters"),
    (["--lane", "express"], "--lane express: there are payment, utility, marketing"),
    (["--to", ""], "has no `to`"),
    (["--to", "999998888"], "no area code (DDD)"),
    (["--to", "5511999998888; rm -rf"], "is not one phone number"),
]


@pytest.mark.usefixtures("loja")
def test_a_wrong_option_is_a_sentence_and_nothing_is_stored(run, connections, hello):
    for options, told in WRONG_OPTIONS:
        defaults = [] if "--to" in options else ["--to", TO]
        sentence = run("send", "--app", "loja", *defaults, *options, hello).sentence
        assert told in sentence
        assert "999998888" not in sentence.removesuffix("--to 5511999998888")
    assert stored(connections) == []


NO_MESSAGES = [
    ("", "the file is empty"),
    ("   \n", "the file is empty"),
    ('{"type": "text", "text": {"body": "Oi"}', "line 1, column"),
    ('{"type": "text",\n "text": {"body": Oi}}', "line 2, column"),
    ("type: text\ntext: {body: [}\n", "line 2, column"),
    ("[1, 2]", "A message is an object"),
    ("just words", "not an object of keys and values"),
    ('{"type": "fax", "fax": {}}', "is not a known type of message"),
    ('{"text": {"body": "Oi"}}', "type"),
    ('{"type": "text", "text": {"body": ""}}', "text.body"),
    (json.dumps({"type": "text", "text": {"body": "a" * 4097}}), "4096"),
    ('{"type": "text", "text": {"body": "Oi {{ nome }}"}}', "{{ nome }} would be sent as it stands"),
    ('{"type": "text", "text": {"body": "Oi {{1}}"}}', "would be sent as it stands"),
    ('{"type": "text", "text": {"body": "Oi\\u0000"}}', "NUL"),
    ("[" * 100_000, "nested"),
    ("a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)), "aliases"),
    ("n: " + "9" * 100_000, "too many digits"),
]  # fmt: skip


@pytest.mark.usefixtures("loja")
def test_a_file_that_is_no_message_is_a_sentence_and_nothing_is_stored(run, connections, tmp_path):
    path = tmp_path / "message.json"
    for content, told in NO_MESSAGES:
        path.write_text(content)
        assert told in run("send", "--app", "loja", "--to", TO, path).sentence, content[:100]
    assert stored(connections) == []


@pytest.mark.usefixtures("loja")
def test_a_text_of_exactly_4096_characters_is_taken(run, tmp_path):
    path = tmp_path / "message.json"
    path.write_text(json.dumps({"type": "text", "text": {"body": "ç" * 4096}}))
    assert run("send", "--app", "loja", "--to", TO, path).code == 0


@pytest.mark.usefixtures("loja")
def test_a_file_without_recipient_says_how_to_give_one(run, hello):
    assert "give the recipient with --to" in run("send", "--app", "loja", hello).sentence


def test_an_unknown_app_is_told_with_those_that_there_are(run, hello, connections):
    assert (
        "no app is named 'loja' (there is none yet)"
        in run("send", "--app", "loja", "--to", TO, hello).sentence
    )
    run("app", "set", "escola", "--id", "x")
    assert "(there are: escola)" in run("send", "--app", "loja", "--to", TO, hello).sentence
    assert stored(connections) == []


@pytest.mark.usefixtures("loja")
def test_a_missing_token_is_told_with_its_variable(run, hello, connections, monkeypatch):
    monkeypatch.delenv("DISPARO_TOKEN_LOJA")
    sentence = run("send", "--app", "loja", "--to", TO, hello).sentence
    assert "DISPARO_TOKEN_LOJA, or DISPARO_TOKEN_LOJA_FILE" in sentence
    assert stored(connections) == []


@pytest.mark.usefixtures("loja")
def test_a_token_from_a_file_is_as_good(run, hello, tmp_path, monkeypatch):
    (tmp_path / "token").write_text("sk_1\n")
    monkeypatch.delenv("DISPARO_TOKEN_LOJA")
    monkeypatch.setenv("DISPARO_TOKEN_LOJA_FILE", str(tmp_path / "token"))
    assert run("send", "--app", "loja", "--to", TO, hello).code == 0


@pytest.mark.usefixtures("loja")
def test_waiting_without_a_worker_ends_within_seconds_and_the_message_stays_queued(run, hello, connections):
    done = run("send", "--app", "loja", "--to", TO, "--wait", "--json", hello)
    assert done.code == 1
    assert done.json["state"] == "pending"
    assert "no worker is alive; the message stays queued" in done.err
    assert len(stored(connections)) == 1


@pytest.mark.usefixtures("loja")
def test_waiting_for_an_app_that_is_paused_says_why_and_how_to_go_on(run, hello):
    run("app", "pause", "loja", "--why", "holiday")
    done = run("send", "--app", "loja", "--to", TO, "--wait", hello)
    assert done.code == 1
    assert "the app is paused since" in done.err
    assert "disparo app resume" in done.err


@pytest.mark.usefixtures("loja")
def test_waiting_for_a_message_that_was_accepted_ends_well_and_shows_a_masked_phone(run, hello, connections):
    run("send", "--app", "loja", "--to", TO, "--key", "k", hello)
    rows(connections, "UPDATE messages SET status = 'accepted', gs_id = 'gs-1' RETURNING id")
    done = run("send", "--app", "loja", "--to", TO, "--key", "k", "--wait", hello)
    assert done.code == 0
    assert "gs-1" in done.out
    assert TO not in done.out


@pytest.mark.usefixtures("loja")
def test_waiting_for_a_message_that_was_not_accepted_exits_one(run, hello, connections):
    run("send", "--app", "loja", "--to", TO, "--key", "k", hello)
    for status in ("failed", "unknown", "cancelled", "expired", "suppressed"):
        rows(connections, f"UPDATE messages SET status = '{status}' RETURNING id")
        assert run("send", "--app", "loja", "--to", TO, "--key", "k", "--wait", hello).code == 1


@pytest.mark.usefixtures("loja")
def test_a_message_is_found_by_id_key_and_the_providers_ids(run, hello, connections):
    number = run("send", "--app", "loja", "--to", TO, "--key", "order-1", "--json", hello).json["id"]
    rows(
        connections, "UPDATE messages SET status = 'accepted', gs_id = 'gs-1', wamid = 'wamid.X' RETURNING id"
    )
    for reference in (number, "order-1", "gs-1", "wamid.X"):
        found = run("message", "show", reference, "--json").json
        assert (found["id"], found["provider_id"], found["to"]) == (number, "gs-1", TO)
    assert TO not in run("message", "show", "order-1").out


@pytest.mark.usefixtures("loja")
def test_a_refused_message_is_shown_with_its_attempts_and_a_hint(run, hello, connections):
    number = run("send", "--app", "loja", "--to", TO, "--json", hello).json["id"]
    rows(
        connections,
        "UPDATE messages SET status = 'failed', code = '131026', reason = 'undeliverable', attempts = 1 RETURNING 1",
    )
    rows(
        connections,
        "INSERT INTO send_errors (message_id, attempt, verdict, http_status, code, text)"
        f" VALUES ({number}, 1, 'message_permanent', 400, '131026', 'undeliverable') RETURNING 1",
    )
    shown = run("message", "show", number).out
    assert "attempt 1" in shown
    assert "131026 (HTTP 400)" in shown
    assert run("message", "show", number, "--json").json["hint"]


def test_a_message_that_does_not_exist_is_a_sentence(run):
    for reference in ("999", "9" * 60, "nope", "-1x", "٣"):
        assert "no message has the id" in run("message", "show", "--", reference).sentence


def test_an_argument_that_is_not_utf_8_is_a_usage_error(run):
    done = run("message", "show", "\udcff")
    assert (done.code, done.out) == (2, "")
    assert "not UTF-8" in done.err


@pytest.mark.usefixtures("loja")
@pytest.mark.parametrize(
    ("given", "code", "told"),
    [(json.dumps(HELLO).encode(), 0, "pending"), (b'{"type": "\xff"}', 1, "not UTF-8")],
)
def test_a_message_may_come_from_standard_input(run, environment, given, code, told):
    import os

    done = subprocess.run(
        [sys.executable, "-m", "disparo", "send", "--app", "loja", "--to", TO, "-"],
        input=given,
        env={**os.environ, **environment.values},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert told in (done.stdout + done.stderr).decode()
    assert b"Traceback" not in done.stderr


def test_the_outcome_of_usage_errors_is_two(run):
    for wrong in (
        ["send"],
        ["nonsense"],
        ["send", "--nonsense"],
        ["campaign", "launch", "x"],
        ["app", "set", "a", "--rate", "x"],
    ):
        done = run(*wrong)
        assert done.code == 2, done
        assert re.search("Usage|usage", done.err)
        assert done.out == ""
