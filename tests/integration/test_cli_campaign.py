"""``disparo campaign``: launch, rejects, duplicates, resumed imports, control, waiting, export."""

import csv
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import text

from disparo import apps, db, recipients, stops
from disparo.statuses import Status
from tests.factories.app import fault

FILE = """\
name: {name}
app: loja
lane: {lane}
message:
  type: text
  text:
    body: "Oi {{{{ nome }}}}"
{more}"""


@pytest.fixture
def loja(run):
    assert run("app", "set", "loja", "--id", "app-1").code == 0


@pytest.fixture
def make(tmp_path, loja):
    """``make("to;nome\\n…")``: a campaign file and a recipients file, as arguments of launch."""

    def make(people, *, name="black-friday", lane="marketing", more="", audience="people.csv"):
        file = tmp_path / f"{name}.yaml"
        file.write_text(FILE.format(name=name, lane=lane, more=more))
        (tmp_path / audience).write_text(people)
        return ["campaign", "launch", file, tmp_path / audience]

    return make


def people(n, first=0):
    return "to;nome\n" + "".join(f"55119{80000000 + i};Ana {i}\n" for i in range(first, first + n))


def ask(connections, query):
    with connections.session() as session:
        return [tuple(row) for row in session.execute(text(query)).all()]


def do(connections, statement):
    with connections.session() as session:
        session.execute(text(statement))


def tables(connections):
    query = "SELECT (SELECT count(*) FROM messages), (SELECT count(*) FROM campaigns), (SELECT count(*) FROM imports)"
    return ask(connections, query)[0]


def test_launch_stores_each_row_and_says_so(run, make, connections):
    done = run(*make(people(3)))
    assert (done.code, done.out) == (0, "black-friday: 3 messages running\n")
    assert ask(connections, "SELECT recipient, line, status, params->>'nome' FROM messages ORDER BY id") == [
        (f"55119{80000000 + i}", i + 2, "pending", f"Ana {i}") for i in range(3)
    ]


def test_json_is_one_document_with_the_fixed_fields_and_all_states(run, make):
    found = run(*make(people(2)), "--json").json
    fixed = {
        "name",
        "app",
        "lane",
        "state",
        "total",
        "counts",
        "failures",
        "rate",
        "eta_seconds",
        "limited_by",
    }
    assert fixed <= set(found)
    assert set(found["counts"]) == {str(status) for status in Status}
    assert (found["total"], found["counts"]["pending"], found["limited_by"]) == (2, 2, "no_worker")
    assert run("campaign", "status", "black-friday", "--json").json["counts"] == found["counts"]
    assert set(run("campaign", "list", "--json").json[0]["counts"]) == set(found["counts"])


BAD = "to;nome\n5511999998888;Ana\n999998888;Bia\n;Caio\n5511977776666\n551155554444;Eva\n=1+1;Fay\n"


def test_rejected_rows_land_in_a_file_of_the_owner_with_line_and_reason_and_good_ones_go_on(
    run, make, tmp_path, connections
):
    done = run(*make(BAD))
    rejects = tmp_path / "black-friday.rejects.csv"
    assert f"black-friday: 2 messages running (4 rows refused; each with its reason in {rejects})" in done.out
    assert rejects.stat().st_mode & 0o777 == 0o600
    with rejects.open(encoding="utf-8-sig", newline="") as stream:
        written = list(csv.DictReader(stream, delimiter=";"))
    assert [(row["line"], row["reason"]) for row in written] == [
        ("3", "no_ddd"), ("4", "empty"), ("5", "bad_row"), ("7", "not_a_number")
    ]  # fmt: skip
    assert written[3]["to"] == "'=1+1"
    assert all(row["explanation"] for row in written)
    assert ask(connections, "SELECT line, reason FROM import_rejects ORDER BY line") == [
        (3, "no_ddd"), (4, "empty"), (5, "bad_row"), (7, "not_a_number")
    ]  # fmt: skip
    assert "99999888" not in str(ask(connections, "SELECT explanation FROM import_rejects")).replace(
        "99999-8888", ""
    )


def test_rejects_are_named_for_the_campaign_and_never_overwritten(run, make, tmp_path):
    old = tmp_path / "black-friday.rejects.csv"
    old.write_text("mine")
    assert "black-friday.rejects-2.csv" in run(*make(BAD)).out
    assert old.read_text() == "mine"


def test_a_file_without_one_good_row_is_refused_with_the_first_reason_and_its_rejects(
    run, make, tmp_path, connections
):
    refused = run(*make("to;nome\n123;Ana\n456;Bia\n"))
    assert "none of the 2 rows can be sent; line 2: " in refused.sentence
    assert len((tmp_path / "black-friday.rejects.csv").read_text().splitlines()) == 3
    assert tables(connections) == (0, 0, 0)


NO_LISTS = [
    ("", "is empty"),
    ("to;nome\n", "no rows"),
    ("nome;idade\nAna;3\n", "to"),
    (
        "to;name\n5511999998888;Ana\n",
        "the message uses {{ nome }}, but the recipients have no such column",
    ),
    ("%PDF-1.7\n", "a PDF document"),
    ("PK\x03\x04", "an Excel workbook"),
    ("x" * 9_000_000, "no recipient list"),
]


def test_a_file_that_is_no_list_is_a_sentence_and_nothing_is_stored(run, make, connections):
    for content, told in NO_LISTS:
        assert told in run(*make(content)).sentence
    assert tables(connections) == (0, 0, 0)


WRONG_FILES = [
    ("app: loja\nmessage: {type: text, text: {body: Oi}}\n", "name is missing"),
    ("name: a\nmessage: {type: text, text: {body: Oi}}\n", "app is missing"),
    ("name: a\napp: loja\n", "message is missing"),
    ("name: a\napp: loja\nmesage: {}\nmessage: {}\n", "mesage: no such setting; there are name, app"),
    ("name: 2026\napp: loja\nmessage: {}\n", "name: is no text; write it in quotes"),
    ("name: ../a\napp: loja\nmessage: {}\n", "name: use 1 to 100 letters"),
    ("name: a\napp: loja\nlane: fast\nmessage: {}\n", "lane: "),
    ("name: a\napp: nope\nmessage: {}\n", "no app is named 'nope' (there are: loja)"),
    ("name: a\napp: loja\nat: 2020-01-01\nmessage: {}\n", "The launch 2020-01-01 00:00 America/Sao_Paulo"),
    ("name: a\napp: loja\nwindow: sometimes\nmessage: {}\n", "sometimes"),
    ("name: a\napp: loja\nlane: payment\non_unknown: resend\nmessage: {}\n", "only `hold` is possible"),
    ("name: a\napp: loja\ndedupe: key\nmessage: {type: text, text: {body: Oi}}\n", "dedupe: key needs a column `key`"),
    ("name: a\napp: loja\nmessage: {type: text, text: {body: '{{ nome '}}\n", "text.body"),
    ("name: a\napp: loja\nmessage: {type: fax}\n", "is not a known type of message"),
    ("name: a\napp: loja\nmessage: {type: text, text: {body: " + "a" * 4097 + "}}\n", "4096"),
    ("- 1\n", "a campaign file is a mapping"),
    ("name: [\n", "line 2, column"),
]  # fmt: skip


def test_a_wrong_campaign_file_is_a_sentence_and_nothing_is_stored(run, make, connections):
    arguments = make(people(1))
    for file, told in WRONG_FILES:
        arguments[2].write_text(file)
        assert told in run(*arguments).sentence, file
    assert tables(connections) == (0, 0, 0)


def test_a_missing_token_is_told_before_anything_is_stored(run, make, connections, monkeypatch):
    monkeypatch.delenv("DISPARO_TOKEN_LOJA")
    assert "app loja has no token: set DISPARO_TOKEN_LOJA" in run(*make(people(1))).sentence
    assert tables(connections) == (0, 0, 0)


def test_files_that_are_not_there_are_told(run, make, tmp_path, connections):
    arguments = make(people(1))
    assert "there is no such file" in run("campaign", "launch", tmp_path / "no.yaml", arguments[3]).sentence
    assert "does not exist" in run(*arguments[:3], tmp_path / "no.csv").sentence
    assert "is a folder" in run(*arguments[:3], tmp_path).sentence
    assert tables(connections) == (0, 0, 0)


TWICE = "to;nome;key\n5511999998888;Ana;a\n551199998888;Bia;b\n5511977776666;Caio;a\n5511966665555;Eva;\n"


@pytest.mark.parametrize(
    ("lane", "more", "lines"),
    [
        (
            "marketing",
            "",
            {3: "duplicate of line 2", 4: "duplicate of line 2"},
        ),  # line 4 by its key, which is unique
        ("utility", "", {4: "duplicate of line 2", 5: "the column key is empty"}),
        ("payment", "", {4: "duplicate of line 2", 5: "the column key is empty"}),
        ("marketing", "dedupe: key\n", {4: "duplicate of line 2", 5: "the column key is empty"}),
        ("utility", "dedupe: recipient\n", {3: "duplicate of line 2", 4: "duplicate of line 2"}),
        ("marketing", "dedupe: none\n", {4: "duplicate of line 2"}),
    ],
)
def test_what_is_a_duplicate_follows_the_file_or_the_lane(run, make, connections, lane, more, lines):
    assert run(*make(TWICE, lane=lane, more=more)).code == 0
    assert dict(ask(connections, "SELECT line, explanation FROM import_rejects")) == lines
    assert ask(connections, "SELECT count(*) FROM messages") == [(4 - len(lines),)]


@pytest.mark.parametrize("lane", ["marketing", "utility"])
def test_check_counts_rows_as_the_launch_then_does(run, make, connections, lane):
    people = "to;key;nome\n" + "".join(
        f"{phone};{key};{name}\n"
        for phone, key, name in [
            ("11999990001", "a", "Ana"), ("(11) 99999-0001", "b", "Ana"), ("11999990002", "b", "Bia"),
            ("11999990003", "a", "Caio"), ("99999-0004", "d", "Davi"), ("11999990005", "e", "x" * 5000),
            ("11999990006", "", "Eva"),
        ]
    )  # fmt: skip
    launch = make(people, lane=lane)
    checked = run("campaign", "check", *launch[2:], "--json").json
    assert tables(connections) == (0, 0, 0)
    status = run(*launch, "--yes", "--json").json
    counts = status["total"], status["rejected"], status["duplicates"]
    assert (checked["good"], checked["refused"], checked["duplicates"]) == counts


def test_without_a_key_column_utility_takes_every_row(run, make, connections):
    run(*make("to;nome\n5511999998888;Ana\n5511999998888;Ana\n", lane="utility"))
    assert ask(connections, "SELECT count(*) FROM messages") == [(2,)]


def test_a_key_is_unique_over_the_campaigns_and_single_messages_of_an_app(run, make, connections, tmp_path):
    hello = tmp_path / "hello.json"
    hello.write_text(json.dumps({"type": "text", "text": {"body": "Oi"}}))
    number = run("send", "--app", "loja", "--to", "11966665555", "--key", "s", "--json", hello).json["id"]
    run(*make("to;nome;key\n5511999998888;Ana;a\n", name="first", lane="utility"))
    second = "to;nome;key\n5511988887777;Bia;a\n5511977776666;Caio;b\n5511966665555;Eva;s\n"
    run(*make(second, name="second", lane="utility"))
    told = dict(ask(connections, "SELECT line, explanation FROM import_rejects"))
    assert set(told) == {2, 4}
    assert "the key a already names message" in told[2]
    assert f"the key s already names message {number} of this app" in told[4]
    assert (
        "already names message"
        in run("send", "--app", "loja", "--to", "11966665555", "--key", "a", hello).sentence
    )


def test_launching_twice_is_refused_with_when_who_and_how_many(run, make, connections):
    arguments = make(people(2))
    run(*arguments, "--by", "ana")
    refused = run(*arguments).sentence
    assert "black-friday was launched at 20" in refused
    assert "by ana (2 messages, now running); nothing done" in refused
    # The same is said when the files have changed since, or cannot be read any more.
    arguments[3].unlink()
    assert "nothing done" in run(*arguments).sentence
    assert tables(connections) == (2, 1, 1)


@pytest.fixture
def small_pages(monkeypatch):
    monkeypatch.setattr(recipients, "PAGE_ROWS", 4)


class Killed(BaseException):
    """As if the process were gone at this very point."""


@pytest.fixture
def die(monkeypatch):
    """``die("in the middle", 2)``: what is left of the process after that page is what the database keeps."""

    def die(where, page):
        original = recipients._load_page
        seen = []

        def load_page(*args):
            seen.append(1)
            if len(seen) == page and where == "before":
                raise Killed
            done = original(*args)
            if len(seen) == page and where == "in the middle":
                raise Killed
            return done

        monkeypatch.setattr(recipients, "_load_page", load_page)
        return lambda: monkeypatch.setattr(recipients, "_load_page", original)

    return die


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("where", ["before", "in the middle"])
@pytest.mark.parametrize("dedupe", ["recipient", "none"])
def test_the_same_command_resumes_an_import_that_died_with_every_row_once(
    run, make, connections, die, where, dedupe
):
    rows = people(6) + "123;Bad\n" + people(6, 6).split("\n", 1)[1] + "456;Bad\n"
    arguments = make(rows, more=f"dedupe: {dedupe}\n")
    revive = die(where, 3)
    with pytest.raises(Killed):
        run(*arguments)
    assert ask(connections, "SELECT state, total FROM campaigns") == [("importing", 0)]
    assert ask(connections, "SELECT count(*) FROM messages") == [(7,)]
    revive()
    done = run(*arguments)
    assert done.code == 0, done.err
    assert "going on with the import" in done.err
    assert "12 messages running (2 rows refused" in done.out
    assert ask(connections, "SELECT count(*), count(DISTINCT line) FROM messages") == [(12, 12)]
    assert ask(connections, "SELECT line FROM import_rejects ORDER BY line") == [(8,), (15,)]
    found = run("campaign", "status", "black-friday", "--json").json
    assert (found["total"], found["counts"]["pending"], found["rejected"]) == (12, 12, 2)


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("change", ["content", "file"])
def test_an_unfinished_import_of_another_content_or_file_is_refused(run, make, connections, die, change):
    arguments = make(people(12))
    revive = die("before", 3)
    with pytest.raises(Killed):
        run(*arguments)
    revive()
    if change == "content":
        arguments[2].write_text(arguments[2].read_text().replace("Oi", "Olá"))
    else:
        arguments[3].write_text(people(12, 1))
    assert "has an unfinished import of people.csv (up to line 10)" in run(*arguments).sentence
    assert ask(connections, "SELECT count(*) FROM messages") == [(8,)]
    done = run("campaign", "cancel", "black-friday")
    assert "8 will not be sent, 0 had left" in done.out
    assert "was cancelled before it was launched" in run(*arguments).sentence


@pytest.mark.usefixtures("small_pages")
def test_two_imports_of_one_campaign_never_store_a_row_twice(run, make, connections, monkeypatch):
    arguments = make(people(12), more="dedupe: none\n")
    advanced = []
    hold = recipients.hold

    def overtaken(session, campaign, loaded):
        if loaded.next_line and not advanced:
            advanced.append(1)
            do(connections, "UPDATE imports SET next_line = next_line + 4")
        hold(session, campaign, loaded)

    monkeypatch.setattr(recipients, "hold", overtaken)
    assert "another process imports black-friday" in run(*arguments).sentence
    assert ask(connections, "SELECT count(*) FROM messages") == [(4,)]


@pytest.mark.usefixtures("small_pages")
def test_a_campaign_that_is_cancelled_while_it_is_imported_stays_cancelled(
    run, make, connections, monkeypatch
):
    arguments = make(people(12))
    hold, seen = recipients.hold, []

    def cancelled(session, campaign, loaded):
        seen.append(1)
        if len(seen) == 3:
            do(connections, "UPDATE campaigns SET state = 'cancelled'")
        hold(session, campaign, loaded)

    monkeypatch.setattr(recipients, "hold", cancelled)
    assert "black-friday is cancelled by now" in run(*arguments).sentence
    assert ask(connections, "SELECT state FROM campaigns") == [("cancelled",)]


def command(environment, *arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "disparo", *map(str, arguments)],
        env={**os.environ, **environment.values},
        start_new_session=True,
        **options,
    )


def eventually(process, condition, seconds=120):
    """Return when ``condition`` holds, which it must while ``process`` runs."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)


def test_ctrl_c_in_the_middle_of_a_statement_is_a_sentence_too(run, make, monkeypatch):
    def interrupted(session, *_, **__):
        session.connection().connection.driver_connection.pgconn.send_query(b"SELECT pg_sleep(1)")
        raise KeyboardInterrupt

    arguments = make(people(3))
    with monkeypatch.context() as patch:
        patch.setattr(recipients, "load", interrupted)
        done = run(*arguments)
    assert done.code == 1
    assert "stopped at line 1 of" in done.err
    assert run(*arguments).code == 0


def test_ctrl_c_while_importing_launches_nothing_and_the_same_command_goes_on(
    run, make, environment, connections
):
    arguments = make(people(60_000))
    process = command(environment, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        eventually(process, lambda: ask(connections, "SELECT 1 FROM messages LIMIT 1"))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 1, err
    assert out == ""
    assert "nothing is launched. The same command goes on from there" in err
    assert "Traceback" not in err
    assert ask(connections, "SELECT state FROM campaigns") == [("importing",)]
    [(before,)] = ask(connections, "SELECT count(*) FROM messages")
    assert 0 < before < 60_000
    assert run(*arguments).code == 0
    assert ask(connections, "SELECT count(*), count(DISTINCT line), min(total) FROM messages, campaigns") == [
        (60_000, 60_000, 60_000)
    ]


def test_ctrl_c_while_waiting_detaches_and_the_campaign_goes_on(make, environment, connections):
    live_worker(connections)
    process = command(
        environment, *make(people(2)), "--wait", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        eventually(process, lambda: ask(connections, "SELECT 1 FROM campaigns WHERE state = 'running'"))
        assert "black-friday: 0 of 2" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 1
    assert "detached; black-friday goes on" in err
    assert ask(connections, "SELECT state FROM campaigns") == [("running",)]


@pytest.mark.parametrize(("typed", "code"), [("2", 0), ("3", 1), ("", 1)])
def test_on_a_terminal_the_number_of_messages_is_to_be_typed(make, environment, connections, typed, code):
    # Two rows, one of them a repeat, and one more: two messages.
    arguments = make("to;nome\n5511999998888;Ana\n5511999998888;Ana\n5511977776666;Caio\n")
    ours, theirs = pty.openpty()
    process = command(
        environment, *arguments, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        os.write(ours, f"{typed}\n".encode())
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)
    assert process.returncode == code, err
    assert "to the REAL endpoint https://partner.gupshup.io" in err
    assert "2 rows can be sent to 2 phones" in err
    assert tables(connections)[:2] == ((2, 1) if code == 0 else (0, 0))


def test_yes_answers_the_question_on_a_terminal(make, environment, connections):
    ours, theirs = pty.openpty()
    process = command(environment, *make(people(1)), "--yes", stdin=theirs, stdout=subprocess.PIPE, text=True)
    try:
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)
    assert (process.returncode, out) == (0, "black-friday: 1 messages running\n")


def test_at_is_echoed_with_both_zones_and_the_campaign_waits(run, make, connections):
    done = run(*make(people(1)), "--at", "2030-12-03T10:00", "--json")
    assert "begins at 2030-12-03 10:00 America/Sao_Paulo (13:00 UTC)" in done.err
    assert done.json["state"] == "scheduled"
    assert done.json["launch_at"].startswith("2030-12-03T")
    assert "has passed" in run(*make(people(1), name="late"), "--at", "2020-12-03").sentence
    assert tables(connections) == (1, 1, 1)


def live_worker(connections):
    do(
        connections,
        "INSERT INTO workers (name, host, pid, version, queues, seen_at)"
        " VALUES ('w', 'h', 1, '1', 'bulk', now() + interval '1 hour')",
    )


def settle(connections, *states):
    """Give the campaign's messages these states, with their counters, as workers and ticks do."""
    for number, state in enumerate(states, 1):
        do(connections, f"UPDATE messages SET status = '{state}' WHERE id = {number}")
    do(connections, "DELETE FROM counter_deltas")
    do(
        connections,
        "INSERT INTO counter_deltas (campaign_id, status, n)"
        " SELECT campaign_id, status, count(*) FROM messages GROUP BY campaign_id, status",
    )


@pytest.mark.parametrize(
    ("states", "ended", "code", "told"),
    [
        (("accepted", "delivered"), True, 0, "2 of 2"),
        (("accepted", "failed"), True, 0, "failed 1"),
        (("accepted", "unknown"), False, 3, "1 messages are unknown"),
    ],
)
def test_the_exit_code_of_waiting_tells_how_it_ended(run, make, connections, states, ended, code, told):
    run(*make(people(2)))
    live_worker(connections)
    settle(connections, *states)
    if ended:
        do(connections, "UPDATE campaigns SET state = 'finished', finished_at = now()")
    done = run("campaign", "watch", "black-friday")
    assert done.code == code
    assert told in done.err


def test_waiting_without_a_worker_is_said_within_seconds(run, make):
    arguments = make(people(1))
    began = time.monotonic()
    done = run(*arguments, "--wait", "--json")
    assert time.monotonic() - began < 20
    assert done.code == 1
    assert "no worker is alive" in done.err
    assert done.json["counts"]["pending"] == 1


def test_waiting_for_a_later_launch_without_a_worker_is_said_too(run, make):
    done = run(*make(people(1)), "--at", "in 2h", "--wait")
    assert done.code == 1
    assert "no worker is alive" in done.err


def test_waiting_for_what_a_fault_has_paused_exits_three_and_says_how_to_go_on(run, make, connections):
    run(*make(people(2)))
    live_worker(connections)
    do(
        connections,
        "INSERT INTO stops (app_id, scope, code, reason, hint)"
        " SELECT id, 'app', '401', 'Authentication Failed', 'Renew the token.' FROM apps",
    )
    done = run("campaign", "watch", "black-friday")
    assert done.code == 3
    assert "paused: Authentication Failed" in done.err
    assert "Renew the token. `disparo app resume loja` lets it go on" in done.err


def test_waiting_for_a_campaign_that_somebody_cancels_does_not_end_well(run, make, connections):
    run(*make(people(2)))
    run("campaign", "cancel", "black-friday")
    done = run("campaign", "watch", "black-friday")
    assert (done.code, "black-friday was cancelled" in done.err) == (1, True)


def test_fail_over_makes_too_many_failures_an_error(connections, run, make):
    from disparo.cli.campaign import _share, follow

    run(*make(people(2)))
    settle(connections, "accepted", "failed")
    do(connections, "UPDATE campaigns SET state = 'finished'")
    codes = {
        share: follow(connections, "black-friday", _share(share)) for share in ("60%", "50%", "49,9%", "0%")
    }
    assert codes == {"60%": 0, "50%": 0, "49,9%": 1, "0%": 1}


def test_a_share_that_is_none_is_refused_before_anything_is_stored(run, make, connections):
    arguments = make(people(1))
    for share in ("", "five", "-5%", "101%", "nan", "1e400%", "5%%", "٥%"):
        assert "write a share like 5%" in run(*arguments, "--wait", f"--fail-over={share}").sentence
    assert tables(connections) == (0, 0, 0)


def test_pause_resume_and_cancel_say_what_they_did_and_who_did_it_is_kept(run, make, connections):
    run(*make(people(3)), "--by", "ana")
    assert (
        run("campaign", "pause", "black-friday", "--by", "bia", "--why", "typo").out
        == "black-friday is paused\n"
    )
    again = run("campaign", "pause", "black-friday", "--why", "lunch").out
    assert again == "black-friday was paused already: typo\n"
    found = run("campaign", "status", "black-friday", "--json").json
    assert (found["state"], found["limited_by"], found["pause_reason"]) == ("paused", "paused", "typo")
    assert run("campaign", "resume", "black-friday", "--json").json["state"] == "running"
    settle(connections, "accepted")
    assert "2 will not be sent, 1 had left already" in run("campaign", "cancel", "black-friday").out
    assert "is cancelled" in run("campaign", "resume", "black-friday").sentence
    assert "is cancelled already" in run("campaign", "cancel", "black-friday").sentence
    assert "only a running or scheduled campaign" in run("campaign", "pause", "black-friday").sentence
    done = ask(
        connections,
        "SELECT verb, actor, why FROM actions WHERE subject = 'campaign:black-friday' ORDER BY id",
    )
    assert [row[:2] for row in done][:2] == [("launch", "ana"), ("pause", "bia")]
    assert [row[0] for row in done] == ["launch", "pause", "resume", "cancel"]
    assert done[1][2] == "typo"


def test_what_is_left_but_refused_for_now_says_when_it_is_tried_again(run, make, connections):
    run(*make(people(2)))
    live_worker(connections)
    with connections.session() as session:
        session.execute(text("UPDATE messages SET due_at = now() + interval '10 minutes'"))
    found = run("campaign", "status", "black-friday", "--json").json
    assert 590 <= found["eta_seconds"] <= 600
    assert found["next_try_at"] is not None
    assert "refused for now; the first is tried again at" in run("campaign", "status", "black-friday").out
    with connections.session() as session:
        session.execute(text("UPDATE messages SET due_at = NULL WHERE line = 2"))
    assert run("campaign", "status", "black-friday", "--json").json["next_try_at"] is None


def test_a_stop_is_said_once_and_leaves_no_time_to_go(run, make, connections):
    run(*make(people(2)))
    with connections.session() as session:
        app = apps.get(session, "loja")
        told = fault("unreachable", "Connection refused")
        stops.trip(session, app.id, "app", "", told, now=db.now(session))
    done = run("campaign", "status", "black-friday")
    assert done.out.count("Connection refused") == 1
    assert "– left" in done.out
    assert run("campaign", "status", "black-friday", "--json").json["eta_seconds"] is None


def test_a_wait_that_meets_a_stop_says_the_command_once_and_as_wide_as_the_stop(run, make, connections):
    run(*make(people(1)))
    with connections.session() as session:
        app = apps.get(session, "loja")
        stops.trip(session, app.id, "lane", "marketing", fault("131063"), now=db.now(session))
    waited = run("campaign", "watch", "black-friday")
    assert waited.code == 3
    assert waited.err.count("disparo app resume loja --lane marketing`") == 1
    assert "`disparo app resume loja`" not in waited.err


def test_resuming_under_a_paused_app_says_that_it_does_not_send_yet(run, make):
    run(*make(people(1)))
    run("app", "pause", "loja")
    run("campaign", "pause", "black-friday")
    assert (
        "but loja is stopped (app): paused by an operator; `disparo app resume loja`"
        in run("campaign", "resume", "black-friday").err
    )


def test_a_campaign_that_does_not_exist_is_told_with_the_last_ones(run, make):
    run(*make(people(1)))
    for verb in ("status", "pause", "resume", "cancel", "watch", "export"):
        told = "no campaign is named 'nope' (the last ones: black-friday)"
        assert told in run("campaign", verb, "nope").sentence


def test_an_export_is_safe_to_open_and_says_when_with_offset(run, make, connections):
    run(*make("to;nome;key\n5511999998888;Ana;=1+1\n5511977776666;Caio;+55\n", lane="utility"))
    done = run("campaign", "export", "black-friday")
    found = list(csv.DictReader(done.out.splitlines()))
    assert [row["key"] for row in found] == ["'=1+1", "+55"]
    assert [row["to"] for row in found] == ["5511999998888", "5511977776666"]
    assert all(row["created_at"].endswith("-03:00") for row in found)
    lines = run("campaign", "export", "black-friday", "--format", "jsonl").out.splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["=1+1", "+55"]


def test_an_export_never_overwrites_and_leaves_no_half_file(run, make, tmp_path, connections):
    run(*make(people(2)))
    output = tmp_path / "out.csv"
    assert run("campaign", "export", "nope", "--output", output).code == 1
    assert not output.exists()
    assert f"written to {output}" in run("campaign", "export", "black-friday", "--output", output).out
    before = output.read_text()
    assert len(before.splitlines()) == 3
    assert "exports never overwrite" in run("campaign", "export", "black-friday", "--output", output).sentence
    assert output.read_text() == before
    assert (
        "cannot be written"
        in run("campaign", "export", "black-friday", "--output", tmp_path / "no" / "x").sentence
    )


def test_an_export_can_be_of_some_states_only(run, make, connections):
    run(*make(people(3)))
    settle(connections, "failed", "unknown")
    lines = run("campaign", "export", "black-friday", "--state", "failed, unknown").out.splitlines()
    assert len(lines) == 3
    assert (
        "--state lost: there are pending"
        in run("campaign", "export", "black-friday", "--state", "lost").sentence
    )
    assert "there are csv and jsonl" in run("campaign", "export", "black-friday", "--format", "xls").sentence


def test_a_reader_of_an_export_may_go_away(run, make, environment):
    run(*make(people(5_000)))
    process = command(
        environment, "campaign", "export", "black-friday", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stdout.readline().startswith(b"id,line")
        process.stdout.close()
        err = process.stderr.read()
        process.stderr.close()
        process.wait(60)
    finally:
        process.kill()
        process.wait()
    assert err == b""
    assert process.returncode == 1


def test_lists_hold_no_phone(run, make):
    run(*make(people(2)))
    for arguments in (
        ["campaign", "list"],
        ["campaign", "status", "black-friday"],
        ["app", "list"],
        ["app", "show", "loja"],
    ):
        done = run(*arguments)
        assert done.code == 0
        assert "5511980000000" not in done.out + done.err


def test_the_example_of_the_repository_is_a_campaign_file():
    from disparo import campaigns, document

    path = Path(__file__).parents[2] / "examples" / "black-friday.yaml"
    assert campaigns.parse_file(document.load(path, None, path.name), path.name).name == "black-friday"
