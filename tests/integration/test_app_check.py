"""``app check``, and what ``app set`` and ``app show`` tell of tokens."""

from collections.abc import Iterator

import pytest
from sqlalchemy import text

from disparo.sandbox import Options, Sandbox

TOKEN = "sk_00000000000000000000000000000000"
OTHER = "sk_" + "b2" * 16


@pytest.fixture
def sandbox(run) -> Iterator[Sandbox]:
    with Sandbox(Options(apps={"app-loja": TOKEN}, partners={"a@b.c": "secret-word"})) as started:
        run("app", "set", "loja", "--id", "app-loja", "--base-url", started.url)
        yield started


def results(done) -> dict[str, str]:
    return {check["subject"]: check["result"] for check in done.json["checks"]}


def test_an_app_that_is_well_is_ok_in_four_lines_and_nothing_is_sent(run, sandbox):
    done = run("app", "check", "loja")
    assert done.code == 0
    lines = done.out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [
        ["token", "ok"],
        ["app", "ok"],
        ["wallet", "ok"],
        ["quality", "ok"],
    ]
    assert "100.00 USD" in done.out
    assert "static tokens stop working after 2027-03-31" in done.err
    assert TOKEN not in done.out + done.err
    assert sandbox.stats()["arrivals"] == 0
    assert run("app", "check", "loja", "--json").json["ok"] is True


@pytest.mark.parametrize(
    ("changes", "subject"),
    [({"wallet": 0}, "wallet"), ({"quality": "RED"}, "quality"), ({"health": "App is not live."}, "app")],
)
def test_one_bad_line_exits_1_and_names_what_is_wrong(run, sandbox, changes, subject):
    sandbox.control(**changes)
    done = run("app", "check", "loja", "--json")
    assert done.code == 1
    found = results(done)
    assert found.pop(subject) == "bad"
    assert set(found.values()) == {"ok"}


def test_a_wrong_token_is_a_sentence_with_its_variable(run, sandbox, monkeypatch):
    monkeypatch.setenv("DISPARO_TOKEN_LOJA", OTHER)
    done = run("app", "check", "loja")
    assert done.code == 1
    assert "the provider refuses its token: Authentication Failed" in done.out
    assert "into DISPARO_TOKEN_LOJA" in done.out
    assert OTHER not in done.out + done.err


def test_no_token_is_a_sentence_with_its_variable(run, sandbox, monkeypatch):
    monkeypatch.delenv("DISPARO_TOKEN_LOJA")
    done = run("app", "check", "loja", "--json")
    assert done.code == 1
    assert results(done) == {"token": "bad"}
    assert "set DISPARO_TOKEN_LOJA" in done.json["checks"][0]["sentence"]


def test_without_a_network_nothing_is_bad_and_a_pause_is_told(run, sandbox):
    sandbox.stop()
    run("app", "pause", "loja", "--why", "holiday")
    done = run("app", "check", "loja", "--json")
    assert done.code == 0
    assert results(done) == {
        "token": "not checked",
        "app": "not checked",
        "wallet": "not checked",
        "quality": "not checked",
    }
    assert done.json["paused"] == "holiday"
    assert "loja is paused here: holiday" in run("app", "check", "loja").out


def test_a_fetched_token_is_fetched_and_one_that_was_replaced_is_renewed(
    run, sandbox, monkeypatch, connections
):
    monkeypatch.setenv("DISPARO_PARTNER_EMAIL", "a@b.c")
    monkeypatch.setenv("DISPARO_PARTNER_SECRET", "secret-word")
    assert run("app", "set", "loja", "--token", "partner").code == 0
    assert results(run("app", "check", "loja", "--json"))["token"] == "ok"
    with connections.session() as session:
        session.execute(text("UPDATE tokens SET fetched_at = fetched_at - interval '2 minutes'"))
    sandbox.control(apps={"app-loja": OTHER})
    done = run("app", "check", "loja", "--json")
    assert done.code == 0
    assert set(results(done).values()) == {"ok"}
    assert sandbox.stats()["partner"] == {"logins": 1, "refused_logins": 0, "tokens": {"app-loja": 2}}
    assert "partner, no end known" in run("app", "show", "loja").out


def test_credentials_that_are_refused_or_missing_are_bad(run, sandbox, monkeypatch):
    run("app", "set", "loja", "--token", "partner")
    assert "DISPARO_PARTNER_EMAIL is not set" in run("app", "check", "loja").out
    assert "partner, not set here" in run("app", "show", "loja").out
    monkeypatch.setenv("DISPARO_PARTNER_EMAIL", "a@b.c")
    monkeypatch.setenv("DISPARO_PARTNER_SECRET", "wrong-word")
    done = run("app", "check", "loja")
    assert done.code == 1
    assert "DISPARO_PARTNER_SECRET: Invalid credentials" in done.out
    assert "wrong-word" not in done.out + done.err


def test_show_tells_the_kind_its_end_and_what_becomes_of_static_ones(run, sandbox, monkeypatch, tmp_path):
    shown = run("app", "show", "loja").out
    assert "static, from the environment here" in shown
    assert "stop working after 2027-03-31" in shown
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.delenv("DISPARO_TOKEN_LOJA")
    assert "static, not set here" in run("app", "show", "loja").out
    monkeypatch.setenv("DISPARO_TOKEN_LOJA_FILE", str(tmp_path / "token"))
    assert "static, from a file here" in run("app", "show", "loja").out
    sandbox.control(token_seconds=3600)
    monkeypatch.setenv("DISPARO_PARTNER_EMAIL", "a@b.c")
    monkeypatch.setenv("DISPARO_PARTNER_SECRET", "secret-word")
    run("app", "set", "loja", "--token", "partner", "--token-scheme", "bearer")
    run("app", "check", "loja")
    assert "partner, ends at 20" in run("app", "show", "loja").out
    found = run("app", "show", "loja", "--json").json
    assert (found["token_kind"], found["token_scheme"]) == ("partner", "bearer")
    assert found["token_ends_at"] > "2026"
    assert run("app", "set", "loja", "--token-scheme", "", "--json").json["token_scheme"] is None


def test_a_token_given_in_the_place_of_its_kind_is_refused_and_not_shown(run, sandbox):
    done = run("app", "set", "loja", "--token", OTHER)
    assert "static, partner, universal" in done.sentence
    assert OTHER not in done.err
    assert "raw, bearer" in run("app", "set", "loja", "--token-scheme", "basic").sentence
