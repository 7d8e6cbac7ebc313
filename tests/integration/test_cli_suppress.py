"""``disparo suppress``: what is kept and said, and that whole numbers show only when asked for."""

import json
import re

import pytest
from sqlalchemy import select

from disparo.models import Action, Suppression


@pytest.fixture
def loja(run):
    assert run("app", "set", "loja", "--id", "app-1").code == 0


def actions(connections):
    with connections.session() as session:
        found = session.scalars(select(Action).order_by(Action.id))
        return [(one.verb, one.subject, one.actor, one.why) for one in found]


@pytest.mark.usefixtures("loja")
def test_a_number_is_suppressed_shown_and_removed_under_either_spelling(run, connections):
    done = run(
        "suppress", "add", "(11) 99999-8888", "--reason", "asked by phone", "--by", "ana", "--app", "loja"
    )
    assert (done.code, done.out) == (0, "55119****8888 (loja, all) is suppressed\n")
    again = run("suppress", "add", "551199998888", "--app", "loja")
    assert again.out == "5511****8888 (loja, all) was suppressed already, for as long or longer\n"
    (shown,) = run("suppress", "list", "--json").json
    assert set(shown) == {"to", "app", "scope", "reason", "phrase", "by", "since", "expires_at"}
    assert (shown["to"], shown["app"], shown["scope"]) == ("55119****8888", "loja", "all")
    assert (shown["reason"], shown["by"], shown["expires_at"]) == ("asked by phone", "ana", None)
    assert re.search(r"ana  \d{4}-\d\d-\d\d \d\d:\d\d$", run("suppress", "list").out, re.MULTILINE)
    gone = run("suppress", "remove", "551199998888", "--why", "asked again", "--by", "bia")
    assert gone.out.endswith("removed\n")
    assert run("suppress", "list", "--json").json == []
    assert actions(connections) == [
        ("suppress", "recipient:55119****8888", "ana", "asked by phone"),
        ("unsuppress", "recipient:5511****8888", "bia", "asked again"),
    ]


@pytest.mark.usefixtures("loja")
def test_whole_numbers_show_only_when_asked_for(run, connections):
    run("suppress", "add", "5511999998888")
    run("suppress", "add", "country:91")
    for arguments in (["list"], ["list", "--json"], ["list", "5511999998888"], ["remove", "5511999998887"]):
        done = run("suppress", *arguments)
        assert "99999888" not in done.out + done.err
    assert [one["to"] for one in run("suppress", "list", "--reveal", "--json").json] == [
        "country:91",
        "5511999998888",
    ]
    assert "5511999998888" in run("suppress", "list", "--reveal").out
    with connections.session() as session:
        told = json.dumps([[one.subject, one.details, one.why] for one in session.scalars(select(Action))])
    assert "99999888" not in told


@pytest.mark.usefixtures("loja")
def test_scope_and_end_are_kept(run, connections):
    run("suppress", "add", "5511999998888", "--scope", "marketing", "--until", "2030-12-03")
    with connections.session() as session:
        one = session.scalars(select(Suppression)).one()
    assert (one.scope, one.app_id, one.expires_at.isoformat()) == (
        "marketing",
        None,
        "2030-12-04T02:59:59+00:00",
    )


@pytest.mark.usefixtures("loja")
def test_what_still_holds_after_a_removal_is_said(run):
    run("suppress", "add", "+919812345678", "--app", "loja")
    run("suppress", "add", "country:91")
    done = run("suppress", "remove", "+919812345678", "--app", "loja")
    first, title, *table = done.out.splitlines()
    assert first == "1 suppression of 9198****5678 removed"
    assert title == "still in force:"
    assert re.match(r"country:91 +all +all +operator ", table[1])
    left = run("suppress", "remove", "+919812345678", "--json").json
    assert (left["removed"], [one["to"] for one in left["left"]]) == (0, ["country:91"])
    assert run("suppress", "remove", "country:91").out == "1 suppression of country:91 removed\n"
    assert run("suppress", "list").out == "nobody is suppressed\n"
    assert run("suppress", "list", "+919812345678").out == "nothing holds 9198****5678\n"


@pytest.mark.usefixtures("loja")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["add", "97777-8888"], "no area code"),
        (["add", "5511999998888", "--scope", "payment"], "--scope payment: there are all, marketing"),
        (["add", "5511999998888", "--until", "2020-01-01"], "--until"),
        (["add", "5511999998888", "--reason", "two\nlines"], "--reason is one line"),
        (["add", "5511999998888", "--app", "lojja"], "no app is named 'lojja'"),
        (["add", "country:0"], "calling code"),
        (["remove", "12"], "too few digits"),
        (["list", "--app", "lojja"], "no app is named"),
    ],
)
def test_what_is_wrong_is_refused_in_a_sentence_and_nothing_is_kept(run, connections, arguments, told):
    refused = run("suppress", *arguments)
    assert told in refused.sentence
    assert "7777" not in refused.sentence
    with connections.session() as session:
        assert session.scalars(select(Suppression)).all() == []
        assert session.scalars(select(Action)).all() == []
