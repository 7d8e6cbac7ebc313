"""Senders: set, show, pause, resume, retry."""

import queue
import threading
from datetime import timedelta

import pytest
from sqlalchemy import select, text

from disparo import apps, messages, phone, retries, stops
from disparo.errors import InputError
from disparo.models import Message, Notification
from disparo.ratelimit import Ask
from disparo.statuses import Lane, Status
from tests.factories.app import fault

TEXT = {"type": "text", "text": {"body": "Oi"}}


@pytest.fixture
def app(session):
    return apps.configure(session, "loja", gs_app_id="app-1")[0]


def add(session, app, now, number="5511999998888"):
    to = phone.parse(number)
    return messages.add(session, app, to, messages.compose(TEXT, to), due_at=now, now=now)[0]


def test_set_makes_an_app_with_defaults_and_changes_only_what_is_given(run):
    made = run("app", "set", "loja", "--id", "app-1", "--json").json
    fixed = {"name", "id", "state", "reason", "code", "since", "rate", "effective_rate", "breakers"}
    assert fixed <= set(made)
    assert (made["rate"], made["state"], made["windows"], made["base_url"]) == (10.0, "active", {}, None)
    run(
        "app",
        "set",
        "loja",
        "--rate",
        "2.5",
        "--base-url",
        "http://127.0.0.1:8900/",
        "--window",
        "marketing=mon-sat 8-20",
    )
    run("app", "set", "loja", "--window", "payment=always")
    found = run("app", "set", "loja", "--id", "app-2", "--json").json
    assert (found["id"], found["rate"], found["base_url"]) == ("app-2", 2.5, "http://127.0.0.1:8900")
    assert set(found["windows"]) == {"marketing", "payment"}
    assert run("app", "set", "loja", "--base-url", "", "--json").json["base_url"] is None
    assert run("app", "show", "loja", "--json").json["rate"] == 2.5


def test_the_pacing_of_recipients_is_that_of_whatsapp_until_it_is_set(run):
    made = run("app", "set", "loja", "--id", "app-1", "--json").json
    assert (made["pair_seconds"], made["pair_burst"]) == (6.0, 1)
    run("app", "set", "loja", "--pair-seconds", "0.5", "--pair-burst", "45")
    found = run("app", "set", "loja", "--rate", "20", "--json").json
    assert (found["pair_seconds"], found["pair_burst"]) == (0.5, 45)
    assert "pair seconds    0.5\n" in run("app", "show", "loja").out
    assert run("app", "set", "loja", "--pair-seconds", "0", "--json").json["pair_seconds"] == 0


def test_a_change_of_an_app_is_announced_to_the_workers(run, connections):
    run("app", "set", "loja", "--id", "app-1", "--rate", "10")
    told, ended = queue.SimpleQueue(), threading.Event()
    listener = threading.Thread(target=connections.limiter.listen, args=(lambda: told.put(1), ended))
    listener.start()
    try:
        # Once for having begun to listen.
        told.get(timeout=20)
        run("app", "set", "loja", "--rate", "80")
        told.get(timeout=20)
    finally:
        ended.set()
        listener.join()


def test_a_wrong_value_of_an_app_is_a_sentence_and_changes_nothing(run):
    before = run("app", "set", "loja", "--id", "app-1", "--json").json
    for options, told in [
        (["loja_sul", "--id", "x"], "is no app name"),
        (["Loja", "--id", "x"], "is no app name"),
        (["", "--id", "x"], "is no app name"),
        (["a" * 41, "--id", "x"], "is no app name"),
        (["nova"], "nova is a new app: give its id"),
        (["loja-file", "--id", "x"], "take another name"),
        (["loja", "--id", ""], "--id is the APP_ID"),
        (["loja", "--id", "../a"], "--id is the APP_ID"),
        (["loja", "--id", "sk_0123456789"], "this is a token: keep it in DISPARO_TOKEN_LOJA"),
        (["loja", "--rate", "0"], "--rate 0"),
        (["loja", "--rate", "-1"], "--rate -1"),
        (["loja", "--rate", "nan"], "--rate nan"),
        (["loja", "--rate", "inf"], "--rate inf"),
        (["loja", "--rate", "1e-320"], "--rate 9.99989e-321"),
        (["loja", "--pair-seconds", "-1"], "--pair-seconds -1"),
        (["loja", "--pair-seconds", "nan"], "--pair-seconds nan"),
        (["loja", "--pair-seconds", "86401"], "WhatsApp takes one in 6"),
        (["loja", "--pair-burst", "0"], "1 to 45"),
        (["loja", "--pair-burst", "46"], "1 to 45"),
        (["loja", "--base-url", "partner.gupshup.io"], "--base-url: "),
        (["loja", "--window", "always"], "write LANE=SPEC"),
        (["loja", "--window", "express=always"], "there are the lanes"),
        (["loja", "--window", "marketing=often"], "often"),
    ]:
        sentence = run("app", "set", *options).sentence
        assert told in sentence, options
        assert "0123456789" not in sentence
    assert run("app", "list", "--json").json == [before]


def test_a_new_app_without_a_token_is_told_where_it_goes(run, monkeypatch):
    assert (
        "DISPARO_TOKEN_ESCOLA, or DISPARO_TOKEN_ESCOLA_FILE" in run("app", "set", "escola", "--id", "x").err
    )
    monkeypatch.setenv("DISPARO_TOKEN_ESCOLA", "sk_hidden-word")
    done = run("app", "show", "escola")
    assert "static, from the environment here" in done.out
    assert "hidden-word" not in done.out + done.err


def test_pause_and_resume_of_an_app_and_of_a_lane(run, connections):
    run("app", "set", "loja", "--id", "app-1")
    assert run("app", "pause", "loja", "--lane", "marketing").out == "lane marketing of loja is paused\n"
    found = run("app", "show", "loja", "--json").json
    assert found["state"] == "active"
    assert [(stop["scope"], stop["key"]) for stop in found["breakers"]] == [("lane", "marketing")]
    paused = run("app", "pause", "loja", "--why", "holiday", "--json").json
    assert (paused["state"], paused["reason"], paused["code"], paused["effective_rate"]) == (
        "paused",
        "holiday",
        "operator",
        0,
    )
    assert connections.limiter.acquire(1, [Ask(Lane.MARKETING, 1)], 10.0, 0.5).reason == "holiday"
    assert run("app", "pause", "loja").out == "loja was paused already\n"
    assert "still paused (holiday)" in run("app", "resume", "loja", "--lane", "marketing").out
    assert "loja sends again" in run("app", "resume", "loja").out
    assert run("app", "show", "loja", "--json").json["breakers"] == []
    assert run("app", "resume", "loja").out == "loja was not paused\n"
    for verb in ("pause", "resume"):
        assert "--lane fast: there are payment" in run("app", verb, "loja", "--lane", "fast").sentence
        assert "no app is named 'nope'" in run("app", verb, "nope").sentence


def test_a_pause_counts_even_when_redis_is_away(run, monkeypatch):
    run("app", "set", "loja", "--id", "app-1")
    with monkeypatch.context() as patch:
        patch.setenv("DISPARO_REDIS_URL", "redis://127.0.0.1:1/0")
        done = run("app", "pause", "loja")
    assert done.code == 0
    assert "the workers learn of it when Redis is back" in done.err
    assert run("app", "show", "loja", "--json").json["state"] == "paused"


def test_resume_with_retry_puts_back_what_failed_by_that_fault_and_nothing_else(run, connections):
    run("app", "set", "loja", "--id", "app-1")
    with connections.session() as session:
        app, now = apps.get(session, "loja"), session.execute(text("SELECT now()")).scalar_one()
        stops.trip(session, app.id, "app", "", fault("401", "Authentication Failed"), now=now)
        for number, code in (("5511999998881", "401"), ("5511999998882", "401"), ("5511999998883", "131026")):
            row = add(session, app, now, number)
            row.status, row.code, row.failed_at = Status.FAILED, code, now
    assert "2 failed messages to be sent again" in run("app", "resume", "loja", "--retry").out
    with connections.session() as session:
        found = session.query(Message.status, Message.code).order_by(Message.id).all()
    assert [tuple(row) for row in found] == [("pending", None), ("pending", None), ("failed", "131026")]


def test_a_fault_of_a_request_from_before_the_last_resume_stops_nothing(session, app, now):
    def trip(reason, epoch):
        return stops.trip(session, app.id, "app", "", fault("401", reason), now=now, epoch=epoch)

    assert trip("first", app.epoch)
    assert not trip("again", app.epoch)
    before = app.epoch
    assert len(stops.resume(session, app, now).ended) == 1
    assert not trip("late answer", before)
    assert apps.stops(session, app.id) == []
    assert trip("new", app.epoch)


def test_the_slowest_rate_is_still_one_that_a_status_can_show(session, app):
    changed, created = apps.configure(session, "loja", rate=apps.SLOWEST_RATE)
    assert (changed.rate, created) == (apps.SLOWEST_RATE, False)
    with pytest.raises(InputError):
        apps.configure(session, "loja", rate=apps.SLOWEST_RATE / 10)


def test_a_stop_names_its_app_in_the_command_that_ends_it(session, app, now):
    stops.trip(session, app.id, "app", "", fault("authentication_failed", "No."), now=now)
    stops.trip(session, app.id, "lane", "payment", fault("134011"), now=now)
    told = [stop.hint for stop in apps.stops(session, app.id)]
    assert "`disparo app resume loja`" in told[0]
    assert "`disparo app resume loja --lane payment`" in told[1]
    sentence = session.scalars(select(Notification.sentence).order_by(Notification.id)).first()
    assert sentence.startswith("loja is paused: No. Check")


def test_show_says_once_why_an_app_is_paused_and_who_paused_it(run, connections):
    run("app", "set", "loja", "--id", "app-1")
    with connections.session() as session:
        app, now = apps.get(session, "loja"), session.execute(text("SELECT now()")).scalar_one()
        stops.trip(session, app.id, "app", "", fault("1003", "the wallet is low"), now=now)
    shown = run("app", "show", "loja").out
    assert shown.count("stopped: app, since") == 1
    assert "code 1003: the wallet is low" in shown
    assert "disparo paused (code 1003, scope app): the wallet is low" in shown
    assert "+00:00" not in shown


def test_what_a_lane_s_fault_refused_for_now_is_due_when_the_stop_ends(session, app, now):
    later = now + timedelta(minutes=15)
    rows = [add(session, app, now, f"551199999888{number}") for number in range(3)]
    for row, lane, code in zip(
        rows, ("marketing", "marketing", "utility"), ("131048", "500", "131048"), strict=True
    ):
        row.lane, row.code, row.due_at = lane, code, later
    stops.trip(session, app.id, "lane", "marketing", fault("131048"), now=now)
    stops.resume(session, app, now, lane="marketing")
    session.expire_all()
    assert [row.due_at for row in rows] == [now, later, later]


def test_a_retry_takes_what_failed_by_the_fault_before_the_one_that_a_probe_met(session, app, now):
    stops.trip(session, app.id, "app", "", fault("authentication_failed"), now=now)
    (stop,) = apps.stops(session, app.id)
    for number, code in (("5511999998881", "authentication_failed"), ("5511999998882", "131026")):
        row = add(session, app, now, number)
        row.status, row.code, row.failed_at = Status.FAILED, code, stop.since
    stop.probe_message_id = add(session, app, now).id
    stops.fail_probe(session, stop.probe_message_id, "app", "", fault("1003"), now)
    assert stop.code == "1003"
    assert retries.retry_failed_by(session, [stop], now) == 1


def test_while_a_probe_is_under_way_no_other_one_is_announced(session, app, now):
    row = add(session, app, now)
    stops.trip(session, app.id, "app", "", fault("1003"), now=now, message_id=row.id)
    (stop,) = apps.stops(session, app.id)
    before = apps.stop_as_json(stop)
    assert (before["probing"], before["next_probe_at"]) == (False, (now + timedelta(minutes=5)).isoformat())
    stops.resume(session, app, now, probe=True)
    during = apps.stop_as_json(stop)
    assert (during["probing"], during["next_probe_at"]) == (True, None)


def test_all_apps_together_have_a_limit_that_is_set_shown_and_lifted(run, connections, session):
    assert run("app", "limit", "--json").json == {"rate": None}
    assert run("app", "limit", "50", "--by", "ana", "--why", "shared wallet").out == (
        "all apps together: at most 50 requests/s\n"
    )
    assert apps.everything(session) == 50.0
    session.rollback()
    assert run("app", "limit", "none").out == "all apps together: no limit but the rates of each\n"
    assert apps.everything(session) is None
    done = session.execute(
        text("SELECT verb, actor, why FROM actions WHERE subject = 'apps' ORDER BY id")
    ).all()
    assert tuple(done[0]) == ("limit", "ana", "shared wallet")
    assert len(done) == 2


@pytest.mark.parametrize("rate", ["0", "nan", "inf", "0.00000001", "fast"])
def test_a_limit_that_is_no_rate_is_a_sentence_and_changes_nothing(run, session, rate):
    told = run("app", "limit", rate).sentence
    assert "requests per second" in told or "ten days" in told
    assert apps.everything(session) is None
