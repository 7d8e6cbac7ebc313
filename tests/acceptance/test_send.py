"""The main job, one message at a time: the five kinds of the provider's pages and its four answers."""

import json
from pathlib import Path

import pytest

SEEDS = sorted((Path(__file__).parent.parent / "data" / "seeds").glob("*.json"))
ENVELOPE = ("messaging_product", "recipient_type", "to")


@pytest.fixture(autouse=True)
def _fresh(running):
    running.sandbox.control(apps={}, suffix_faults={}, random_faults={}, latency_ms="0")
    running.sandbox.reset()


def test_there_are_the_five_kinds():
    assert len(SEEDS) == 5


@pytest.mark.parametrize("envelope", ["present", "left out"])
@pytest.mark.parametrize("seed", SEEDS, ids=lambda path: path.stem)
def test_a_page_goes_out_as_it_is(running, seed, envelope):
    page = json.loads(seed.read_text())
    given = page if envelope == "present" else {k: v for k, v in page.items() if k not in ENVELOPE}
    done = running.json(
        "send", "--app", "loja", "--to", "+55 (11) 99999-8888", "--wait", "-", stdin=json.dumps(given)
    )
    assert done["state"] == "accepted"
    [arrival] = running.sandbox.messages()
    assert arrival["body"] == page | {"to": "5511999998888"}
    assert done["provider_id"] == arrival["id"]
    assert done["attempts"] == 1


@pytest.mark.parametrize(
    ("fault", "code", "reason"),
    [
        ("auth", "authentication_failed", "Authentication Failed"),
        ("billing", "callback_billing", "Callback Billing must be enabled for this API"),
        ("app", "invalid_app", "Invalid App Details"),
    ],
)
def test_an_account_level_answer_fails_one_message_and_holds_the_rest(running, fault, code, reason):
    text = json.dumps({"type": "text", "text": {"body": fault}})
    running.sandbox.control(suffix_faults={"*": fault})
    refused = running.run(
        "send", "--app", "loja", "--to", "5511999990001", "--wait", "--json", "-", stdin=text, check=False
    )
    found = json.loads(refused.stdout)
    assert refused.returncode == 1
    assert (found["state"], found["code"], found["reason"], found["attempts"]) == ("failed", code, reason, 1)
    assert len(found["hint"].split()) > 4
    app = running.json("app", "show", "loja")
    assert (app["state"], app["code"], app["reason"]) == ("paused", code, reason)

    waiting = running.run(
        "send", "--app", "loja", "--to", "5511999990002", "--wait", "--json", "-", stdin=text, check=False
    )
    assert waiting.returncode == 1
    assert json.loads(waiting.stdout)["state"] == "pending"
    assert "paused" in waiting.stderr
    assert running.sandbox.stats()["arrivals"] == 1

    running.sandbox.control(suffix_faults={})
    running.run("app", "resume", "loja", "--retry")
    for key in (found["id"], json.loads(waiting.stdout)["id"]):
        running.until_message(key, "accepted")
    assert running.sandbox.stats()["accepted"] == 2
    assert running.json("app", "show", "loja")["state"] == "active"


def test_the_request_has_the_raw_token_and_the_right_type(running):
    running.sandbox.control(apps={"app-1": "sk_00000000000000000000000000000000"})
    text = json.dumps({"type": "text", "text": {"body": "oi"}})
    done = running.json("send", "--app", "loja", "--to", "5511999998888", "--wait", "-", stdin=text)
    assert done["state"] == "accepted"


def test_the_same_key_is_sent_once(running):
    text = json.dumps({"type": "text", "text": {"body": "uma vez"}})
    first, second = (
        running.json(
            "send", "--app", "loja", "--to", "5511999998888", "--key", "k-1", "--wait", "-", stdin=text
        )
        for _ in range(2)
    )
    assert first["id"] == second["id"]
    assert running.sandbox.stats()["accepted"] == 1


def test_a_connection_closed_after_acceptance_is_unknown_and_never_repeated(running):
    running.sandbox.control(suffix_faults={"0007": "close-after"})
    text = json.dumps({"type": "text", "text": {"body": "talvez"}})
    done = running.run(
        "send", "--app", "loja", "--to", "5511999990007", "--wait", "--json", "-", stdin=text, check=False
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["state"] == "unknown"
    assert running.sandbox.stats()["accepted"] == 1


def test_a_passing_fault_is_tried_again(running):
    running.sandbox.control(suffix_faults={"0008": "500*1"})
    text = json.dumps({"type": "text", "text": {"body": "de novo"}})
    done = running.json("send", "--app", "loja", "--to", "5511999990008", "--wait", "-", stdin=text)
    assert (done["state"], done["attempts"]) == ("accepted", 2)
    assert [error["verdict"] for error in done["errors"]] == ["retry"]
