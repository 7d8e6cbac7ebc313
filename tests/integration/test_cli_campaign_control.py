"""``disparo campaign``: canaries, amend, reschedule, launch --from-campaign, and what they say."""

import csv

import pytest
from sqlalchemy import text

from disparo import amendments, campaigns, relaunches

FILE = """\
name: {name}
app: loja
lane: {lane}
message:
  type: text
  text:
    body: "{body}"
{more}"""


@pytest.fixture
def write(tmp_path):
    """``write("again", "Oi {{ nome }}")``: a campaign file."""

    def write(name="black-friday", body="Oi {{ nome }}", *, lane="marketing", more="", file=None):
        path = tmp_path / f"{file or name}.yaml"
        path.write_text(FILE.format(name=name, lane=lane, body=body, more=more))
        return path

    return write


@pytest.fixture
def launched(run, write, tmp_path):
    """The campaign black-friday of three messages, running."""
    assert run("app", "set", "loja", "--id", "app-1").code == 0
    (tmp_path / "people.csv").write_text(
        "to;nome\n" + "".join(f"55119{80000000 + i};Ana {i}\n" for i in range(3))
    )
    done = run("campaign", "launch", write(), tmp_path / "people.csv", "--by", "ana", "--why", "sale")
    assert done.code == 0, done.err


def ask(connections, query):
    with connections.session() as session:
        return [tuple(row) for row in session.execute(text(query)).all()]


def do(connections, statement):
    with connections.session() as session:
        session.execute(text(statement))


def actions(connections):
    return ask(connections, "SELECT verb, actor, why FROM actions ORDER BY id")


@pytest.mark.usefixtures("launched")
def test_who_and_why_are_kept_of_every_change(run, write, connections):
    amended = write(body="Olá {{ nome }}", file="amended")
    who = ("--by", "bia", "--why", "because")
    for arguments in (
        ("pause", "black-friday"),
        ("amend", "black-friday", amended),
        ("resume", "black-friday"),
        ("pause", "black-friday"),
        ("reschedule", "black-friday", "--at", "in 2h"),
        ("cancel", "black-friday"),
    ):
        assert run("campaign", *arguments, *who).code == 0
    verbs = ["pause", "amend", "resume", "pause", "reschedule", "cancel"]
    assert actions(connections) == [("launch", "ana", "sale"), *[(verb, "bia", "because") for verb in verbs]]


@pytest.mark.usefixtures("launched")
def test_reschedule_echoes_the_instant_with_both_zones_and_refuses_the_past(run, connections):
    assert (
        "`disparo campaign pause black-friday` first"
        in run("campaign", "reschedule", "black-friday", "--at", "in 2h").sentence
    )
    run("campaign", "pause", "black-friday")
    done = run("campaign", "reschedule", "black-friday", "--at", "2030-12-03T10:00")
    assert done.out == "black-friday goes on at 2030-12-03 10:00 America/Sao_Paulo (13:00 UTC)\n"
    assert (
        "--at 2020-12-03 00:00 America/Sao_Paulo"
        in run("campaign", "reschedule", "black-friday", "--at", "2020-12-03").sentence
    )
    found = run("campaign", "status", "black-friday", "--json").json
    assert (found["state"], found["launch_at"][:10]) == ("scheduled", "2030-12-03")
    assert "begins at 2030-12-03 10:00" in run("campaign", "status", "black-friday").out
    run("campaign", "pause", "black-friday")
    assert (
        run("campaign", "resume", "black-friday").out
        == "black-friday goes on at 2030-12-03 10:00 America/Sao_Paulo (13:00 UTC)\n"
    )
    assert run("campaign", "reschedule", "black-friday").code == 2


@pytest.mark.usefixtures("launched")
def test_amend_says_what_it_did_and_what_to_do_next(run, write, connections, monkeypatch):
    monkeypatch.setattr(amendments, "PAGE_IDS", 2)
    amended = write(body="Olá {{ nome }}", file="amended")
    assert (
        "`disparo campaign pause black-friday` first"
        in run("campaign", "amend", "black-friday", amended).sentence
    )
    run("campaign", "pause", "black-friday")
    done = run("campaign", "amend", "black-friday", amended)
    assert done.out == ("black-friday has version 2 of its content; 3 messages that may still leave fit it\n")
    assert "`disparo campaign resume black-friday` lets it go on" in done.err
    again = run("campaign", "amend", "black-friday", amended)
    assert (again.code, again.out) == (0, "black-friday has this content already; nothing was changed\n")
    found = run("campaign", "amend", "black-friday", write(), "--json").json
    assert (found["version"], found["state"]) == (3, "paused")
    assert ask(connections, "SELECT version FROM campaign_contents ORDER BY version") == [(1,), (2,)]
    wrong = write(body="Olá {{ cupom }}", file="wrong")
    assert (
        "3 of 3 messages that may still leave cannot be sent with the new content"
        in run("campaign", "amend", "black-friday", wrong).sentence
    )
    assert (
        "name is other, but black-friday was launched with black-friday"
        in run("campaign", "amend", "black-friday", write("other")).sentence
    )
    assert "there is no such file" in run("campaign", "amend", "black-friday", "nope.yaml").sentence


def test_a_canary_is_said_at_launch_and_ends_a_wait_with_three(run, write, launched, connections, tmp_path):
    done = run("campaign", "launch", write("second"), tmp_path / "people.csv", "--first", "2")
    assert "pauses by itself when the first 2 have left" in done.err
    assert run("campaign", "status", "second", "--json").json["first"] == 2
    do(connections, "UPDATE messages SET status = 'accepted' WHERE campaign_id = 2 AND line < 4")
    with connections.session() as session:
        campaign = campaigns.get(session, "second", lock=True)
        campaigns.pause(session, campaign, reason="the first 2 have left: look at them", by="disparo")
    waited = run("campaign", "watch", "second")
    assert waited.code == 3
    assert "paused: the first 2 have left: look at them" in waited.err
    resumed = run("campaign", "resume", "second")
    assert "it pauses again when the first 2 have left" in resumed.err
    assert run("campaign", "launch", write("third"), tmp_path / "people.csv", "--first", "0").code == 2


def test_a_cancel_counts_what_a_worker_still_holds_apart(run, launched, connections):
    do(connections, "UPDATE messages SET status = 'sending', claimed_at = now() WHERE line = 2")
    do(
        connections,
        "INSERT INTO counter_deltas (campaign_id, status, n) VALUES (1, 'pending', -1), (1, 'sending', 1)",
    )
    assert run("campaign", "cancel", "black-friday").out == (
        "black-friday is cancelled: 2 will not be sent, 0 had left already, 1 are on their way\n"
    )


# -- launch --from-campaign -------------------------------------------------------------------------------


@pytest.mark.usefixtures("launched")
def test_what_another_campaign_has_not_reached_is_launched_with_its_rejects(
    run, write, connections, tmp_path
):
    do(
        connections,
        """UPDATE messages SET params = '{"nome": "=Bia", "to": "5511980000001"}' WHERE line = 3""",
    )
    do(connections, "UPDATE messages SET status = 'failed', accepted_at = now() WHERE line = 4")
    again = write("again", "{{ nome | first_name }}{{ '' if nome != '=Bia' else cupom }}")
    assert (
        "`disparo campaign pause black-friday` first"
        in run("campaign", "launch", again, "--from-campaign", "black-friday").sentence
    )
    run("campaign", "pause", "black-friday")
    done = run("campaign", "launch", again, "--from-campaign", "black-friday", "--by", "bia", "--at", "in 2h")
    rejects = tmp_path / "again.rejects.csv"
    assert done.out == f"again: 1 messages scheduled (1 row refused; each with its reason in {rejects})\n"
    assert "1 message of black-friday stayed there: they may have been received" in done.err
    with rejects.open(encoding="utf-8-sig", newline="") as stream:
        [row] = csv.DictReader(stream, delimiter=";")
    assert (row["line"], row["reason"], row["nome"]) == ("3", "bad_value", "'=Bia")
    assert ask(connections, "SELECT line, status FROM messages WHERE campaign_id = 1 ORDER BY line") == [
        (2, "cancelled"), (3, "pending"), (4, "failed")
    ]  # fmt: skip
    assert (
        "again was launched at"
        in run("campaign", "launch", again, "--from-campaign", "black-friday").sentence
    )
    third = run("campaign", "launch", write("third"), "--from-campaign", "black-friday", "--state", "failed")
    assert "black-friday has no message that is failed and may be sent again" in third.sentence


@pytest.mark.usefixtures("launched")
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), 2),
        (("people.csv", "--from-campaign", "black-friday"), 2),
        (("people.csv", "--state", "failed"), 2),
        (("--from-campaign", "black-friday", "--state", "unknown"), 1),
        (("--from-campaign", "nope"), 1),
        (("--from-campaign", "black-friday", "--at", "2020-01-01"), 1),
    ],
)
def test_a_launch_needs_a_list_or_a_campaign(run, write, connections, arguments, code):
    run("campaign", "pause", "black-friday")
    done = run("campaign", "launch", write("again"), *arguments)
    assert done.code == code, done
    assert "Traceback" not in done.err
    assert ask(connections, "SELECT count(*) FROM campaigns") == [(1,)]


@pytest.mark.usefixtures("launched")
def test_a_move_that_was_interrupted_goes_on_by_the_same_command(run, write, connections, monkeypatch):
    run("campaign", "pause", "black-friday")
    monkeypatch.setattr(relaunches, "PAGE_IDS", 1)
    move, seen = relaunches._move, []

    def interrupted(*args):
        seen.append(1)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return move(*args)

    with monkeypatch.context() as patched:
        patched.setattr(relaunches, "_move", interrupted)
        done = run("campaign", "launch", write("again"), "--from-campaign", "black-friday")
    assert done.code == 1
    assert "nothing is launched, and what has moved waits" in done.err
    assert ask(connections, "SELECT state FROM campaigns ORDER BY id") == [("paused",), ("importing",)]
    other = run("campaign", "launch", write("again"), "--from-campaign", "black-friday", "--state", "failed")
    assert (
        "again has an unfinished import of campaign black-friday with another content or list"
        in other.sentence
    )
    done = run("campaign", "launch", write("again"), "--from-campaign", "black-friday")
    assert "going on with what black-friday has left" in done.err
    assert done.out == "again: 3 messages running\n"
    assert ask(connections, "SELECT count(*) FROM messages WHERE moved_to = 2") == [(3,)]
