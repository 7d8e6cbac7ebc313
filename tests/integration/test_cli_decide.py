"""``disparo campaign retry`` and ``resolve``, the history that is shown, and a kill in the middle of each."""

import os
import pty
import signal
import subprocess
import sys
import time

import pytest
from sqlalchemy import text

from disparo import campaigns, counters
from disparo.actions import record_action
from tests.factories.app import make_app
from tests.factories.campaign import make_campaign, recount
from tests.racing import WAITS_FOR_A_LOCK

STATIC = "00020126330014BR.GOV.BCB.PIX01115794666323452040000530398654041.005802BR5911EMPRESA LTD6009SAO PAULO63040000"


@pytest.fixture
def make(connections):
    """``make(failed=3)``: a campaign with that many messages in those states; keys are R1, R2, … in order."""

    def make(*, name="black-friday", code="1003", lane="marketing", state="running", **states):
        with connections.session() as session:
            app = make_app(session)
            campaign = make_campaign(session, app, 0, name=name, lane=lane, state=state)
            for status, n in states.items():
                session.execute(
                    text("""
                        INSERT INTO messages (app_id, campaign_id, lane, status, recipient, recipient_key, key,
                            params, claims, attempts, claimed_at, code, reason, failed_at)
                        SELECT :app, :campaign, :lane, :status, '5511987650001', 'k', 'R' || g, '{"nome": "Ana"}', 1, 1,
                            now() - interval '1 day', :code, 'Low balance', now()
                        FROM generate_series(1, :n) AS g"""),
                    {"app": campaign.app_id, "campaign": campaign.id, "lane": lane, "status": status, "n": n}
                    | {"code": code if status in ("failed", "unknown") else None},
                )
                counters.add_deltas(session, [(campaign.id, status, n)])
                campaign.total += n
            return campaign

    return make


def ask(connections, query):
    with connections.session() as session:
        return [tuple(row) for row in session.execute(text(query)).all()]


def states(connections):
    return dict(ask(connections, "SELECT status, count(*) FROM messages GROUP BY status"))


def assert_counters_true(connections, name="black-friday"):
    with connections.session() as session:
        campaign = campaigns.get(session, name)
        assert counters.counts(session, [campaign.id])[campaign.id] == recount(session, campaign)


def test_status_hints_at_what_can_be_retried_and_retry_does_it(run, make, connections):
    make(failed=3)
    ask_again = "3 failed with 1003: `disparo campaign retry black-friday --code 1003`"
    assert ask_again in run("campaign", "status", "black-friday").out
    done = run("campaign", "retry", "black-friday", "--code", "1003", "--by", "ana", "--why", "topped up")
    assert (done.code, done.out) == (0, "black-friday: 3 failed messages wait to be sent again\n")
    shown = run("campaign", "status", "black-friday")
    assert ask_again not in shown.out
    assert "ana retried (codes 1003, messages 3): topped up" in shown.out
    (entry,) = run("campaign", "status", "black-friday", "--json").json["history"]
    assert (entry["actor"], entry["verb"], entry["why"]) == ("ana", "retry", "topped up")
    assert entry["details"] == {"codes": ["1003"], "messages": 3}
    assert_counters_true(connections)


def test_faults_of_single_recipients_are_no_reason_to_retry(run, make):
    make(failed=2, code="131026")
    assert "campaign retry" not in run("campaign", "status", "black-friday").out


def test_a_campaign_name_with_blanks_is_shown_as_it_is_typed(run, make):
    make(failed=1, name="black friday")
    assert (
        "`disparo campaign retry 'black friday' --code 1003`" in run("campaign", "status", "black friday").out
    )


def test_retry_prints_one_document_and_says_what_stays(run, make, connections):
    make(failed=3, state="paused")
    with connections.session() as session:
        session.execute(text("UPDATE messages SET not_after = now() WHERE key = 'R1'"))
    with connections.session() as session:
        session.execute(text("UPDATE messages SET code = '500' WHERE key = 'R3'"))
    done = run("campaign", "retry", "black-friday", "--code", "1003", "--json")
    assert done.json == {
        "campaign": "black-friday", "codes": ["1003"], "state": "paused", "retried": 1, "too_late": 1,
        "cancelled": 0, "delivered": 0, "changed": 0,
    }  # fmt: skip
    assert done.err == ""
    done = run("campaign", "retry", "black-friday", "--code", "500")
    assert "`disparo campaign resume black-friday` lets it go on" in done.err


def test_a_code_that_nothing_failed_with_and_one_that_may_have_been_sent_are_sentences(run, make):
    make(failed=2)
    assert run("campaign", "retry", "black-friday", "--code", "500").sentence == (
        "no message of black-friday failed with 500; there failed with: 1003 (2)"
    )
    assert "may have been sent" in run("campaign", "retry", "black-friday", "--code", "given_up").sentence


def on_a_terminal(environment, typed, *arguments):
    ours, theirs = pty.openpty()
    process = start(environment, *arguments, stdin=theirs)
    try:
        os.write(ours, f"{typed}\n".encode())
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)
    return process.returncode, out, err


def start(environment, *arguments, **how):
    return subprocess.Popen(
        [sys.executable, "-m", "disparo", *arguments],
        env={**os.environ, **environment.values},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **how,
    )


@pytest.mark.parametrize(("typed", "code", "left"), [("2", 0, "pending"), ("3", 1, "failed")])
def test_a_retry_of_payments_asks_on_a_terminal(environment, make, connections, typed, code, left):
    make(failed=2, lane="payment")
    done, _, err = on_a_terminal(environment, typed, "campaign", "retry", "black-friday", "--code", "1003")
    assert done == code, err
    assert "they were surely refused" in err
    assert states(connections) == {left: 2}


@pytest.mark.parametrize(("typed", "code", "left"), [("2", 0, "accepted"), ("", 1, "unknown")])
def test_resolve_asks_on_a_terminal(environment, make, connections, typed, code, left):
    make(unknown=2)
    done, _, err = on_a_terminal(environment, typed, "campaign", "resolve", "black-friday", "--sent")
    assert done == code, err
    assert states(connections) == {left: 2}


def test_resolve_takes_exactly_one_decision(run, make):
    make(unknown=1)
    for given in ([], ["--sent", "--resend"]):
        done = run("campaign", "resolve", "black-friday", *given)
        assert done.code == 2
        assert "exactly one of --sent, --resend and --give-up" in done.err


def test_resolve_by_reference_and_file_decides_these_and_tells_the_others(run, make, connections, tmp_path):
    make(unknown=4)
    (tmp_path / "answers.csv").write_text("reference;paid\nR1;no\nR9;no\n")
    done = run(
        "campaign", "resolve", "black-friday", "--reference", "R2", "--file", tmp_path / "answers.csv",
        "--give-up", "--by", "ana", "--why", "asked the bank",
    )  # fmt: skip
    assert (done.code, done.out) == (0, "black-friday: 2 are given up\n")
    assert "answers.csv, line 3: black-friday has no message named R9" in done.err
    assert states(connections) == {"failed": 2, "unknown": 2}
    again = run(
        "campaign", "resolve", "black-friday", "--file", tmp_path / "answers.csv", "--give-up", "--json"
    )
    assert again.code == 1
    assert (again.json["decided"], again.json["unmatched"][0]) == (
        0, {"where": "answers.csv, line 2", "why": "R1 is failed, not unknown"}
    )  # fmt: skip
    shown = run("message", "show", "R1")
    assert "given up by ana: asked the bank" in shown.out
    assert_counters_true(connections)


def test_resolve_without_unknowns_says_so(run, make):
    make(failed=1)
    done = run("campaign", "resolve", "black-friday", "--sent")
    assert (done.code, done.out) == (0, "black-friday: nothing is unknown\n")


def test_a_resend_of_payments_says_what_it_means_also_with_yes(run, make, connections):
    make(unknown=2, lane="payment")
    with connections.session() as session:
        content = {"type": "text", "text": {"body": f"Copie: {STATIC}"}}
        campaigns.get(session, "black-friday").content = content
    done = run("campaign", "resolve", "black-friday", "--resend", "--yes")
    assert done.code == 0
    assert "2 of 2 messages hold a static code, a link or a boleto: they may be paid twice" in done.err
    assert done.out == "black-friday: 2 wait to be sent again\n"


def test_the_history_of_an_app_and_of_a_message_is_shown(run, make, connections):
    make(accepted=1)
    run("app", "pause", "loja", "--lane", "marketing", "--why", "wrong price")
    entries = run("app", "show", "loja", "--json").json["history"]
    assert [(one["verb"], one["why"]) for one in entries] == [("pause", "wrong price")]
    assert "paused (lane marketing): wrong price" in run("app", "show", "loja").out
    with connections.session() as session:
        session.execute(text("UPDATE messages SET version = 2"))
        record_action(session, "resolve", "message:1", actor="ana", decision="sent")
    found = run("message", "show", "R1", "--json").json
    assert (found["version"], found["history"][0]["actor"]) == (2, "ana")
    assert "ana resolved (decision sent)" in run("message", "show", "R1").out


def test_status_shows_the_last_five_actions_and_json_the_last_twenty_newest_first(run, make, connections):
    make(accepted=1)
    for number in range(25):
        with connections.session() as session:
            record_action(session, "pause", "campaign:black-friday", actor="ana", why=f"reason {number}")
    found = run("campaign", "status", "black-friday", "--json").json["history"]
    assert [one["why"] for one in found] == [f"reason {number}" for number in range(24, 4, -1)]
    shown = run("campaign", "status", "black-friday").out
    assert [f"reason {number}" in shown for number in range(18, 25)] == [False, False, *[True] * 5]


# -- killed in the middle ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "arguments"),
    [
        ("failed", "pending", ["retry", "black-friday", "--code", "1003"]),
        ("unknown", "accepted", ["resolve", "black-friday", "--sent"]),
        ("unknown", "pending", ["resolve", "black-friday", "--resend"]),
    ],
    ids=["retry", "sent", "resend"],
)
def test_killed_between_two_pages_it_has_done_the_first_and_the_same_command_does_the_rest(
    run, environment, connections, make, before, after, arguments
):
    make(**{before: 6_000})
    finished = "UPDATE campaigns SET state = 'finished' WHERE NOT EXISTS (SELECT FROM messages WHERE status = 'unknown')"
    with connections.session() as session:
        session.execute(text(finished))
    with connections.sessions() as holder, holder.begin():
        holder.execute(text("SELECT 1 FROM messages WHERE key = 'R5500' FOR UPDATE"))
        process = start(environment, "campaign", *arguments)
        try:
            until = time.monotonic() + 60
            while not ask(connections, WAITS_FOR_A_LOCK.text)[0][0]:
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < until
                time.sleep(0.01)
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        assert states(connections) == {after: 5_000, before: 1_000}
    assert_counters_true(connections)
    assert ask(connections, "SELECT state FROM campaigns") == [("running",)]
    assert ask(connections, "SELECT details->>'messages' FROM actions") == [("5000",)]
    assert run("campaign", *arguments).code == 0
    assert states(connections) == {after: 6_000}
    assert_counters_true(connections)
    assert ask(connections, "SELECT details->>'messages' FROM actions ORDER BY id") == [("5000",), ("1000",)]


def test_one_unknown_message_is_decided_by_its_key_and_once(run, make, connections):
    make(unknown=2)
    assert "give exactly one" in run("message", "resolve", "R1").err
    done = run("message", "resolve", "R1", "--give-up", "--by", "ana", "--why", "called", "--json")
    assert (done.json["state"], done.json["code"]) == ("failed", "given_up")
    assert "is failed, not unknown" in run("message", "resolve", "R1", "--sent").sentence
    assert run("message", "resolve", "R2", "--sent").out.endswith(" is accepted\n")
    assert states(connections) == {"failed": 1, "accepted": 1}
    assert_counters_true(connections)
