"""Stops that a sender trips, and the probes that end them, against a sandbox over real HTTP."""

import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text

from disparo import campaigns, db, stops
from disparo.gupshup.answers import Answer
from disparo.models import Action, App, Message, Notification, SendError, Stop
from disparo.statuses import Lane, Status
from disparo.tokens import Tokens
from disparo.whatsapp.codes import TABLE, Table
from tests.factories.app import fault
from tests.factories.campaign import CONTENT
from tests.integration.conftest import Outcome
from tests.integration.house import House, until
from worker.breakers import STREAK

TEMPLATE = {"type": "template", "template": {"name": "oferta", "language": {"code": "pt_BR"}}}


def quick(*codes: str, probes: int = 1_000_000) -> Table:
    """The table with probes of these codes within tenths of a second."""
    return Table(
        replace(rule, probes=probes, probe_seconds=0.1, probe_cap_seconds=0.2) if rule.code in codes else rule
        for rule in TABLE.rules
    )


def workers(house: House) -> int:
    with house.connections.session() as session:
        return campaigns.live_workers(session)


def ended(house: House) -> Stop:
    """The one stop there was, once it is over."""

    def found() -> Any:
        with house.connections.session() as session:
            return session.scalars(select(Stop).where(Stop.ended_at.is_not(None))).one_or_none()

    return until(found, "the stop to end")


def test_a_resume_sends_one_message_first_and_a_refused_one_waits_on(house: House) -> None:
    house.sandbox.control(suffix_faults={"*": "auth"})
    app = house.app()
    campaign = house.campaign(app, 80)
    house.sender()
    until(house.stops, "the app is stopped")
    until(lambda: not house.counts(campaign).get("sending"), "nothing is under way")
    spent = house.counts(campaign)["failed"]
    before = house.sandbox.stats()["arrivals"]

    house.resume(app, probe=True)
    until(lambda: house.stops()[0].probe_message_id is None, "the probe to be refused")
    house.until_counts(campaign, failed=spent, pending=80 - spent)
    assert house.sandbox.stats()["arrivals"] == before + 1
    ((stop),) = house.stops()
    assert (stop.code, stop.probes, stop.probe_at) == ("authentication_failed", 1, None)
    probed = next(row for row in house.rows() if row.status == Status.PENDING and row.code)
    assert (probed.attempts, probed.code) == (0, "authentication_failed")

    house.sandbox.control(suffix_faults={})
    house.resume(app, probe=True)
    house.until_counts(campaign, failed=spent, accepted=80 - spent)
    assert house.stops() == []
    stats = house.sandbox.stats()
    assert (stats["accepted"], stats["distinct"]) == (80 - spent, 80 - spent)
    stop = ended(house)
    assert (stop.ended_by, stop.probes) == ("disparo", 2)
    with house.connections.session() as session:
        done = session.execute(
            select(Action.verb, Action.why).where(Action.actor == "disparo").order_by(Action.id)
        ).all()
        events = session.scalars(select(Notification.event).order_by(Notification.id)).all()
    assert [tuple(one) for one in done] == [
        ("pause", "Authentication Failed"),
        ("resume", "a probe was accepted"),
    ]
    assert events == ["app_paused", "app_resumed"]


def test_a_fault_that_heals_ends_by_itself_when_a_probe_is_accepted(house: House) -> None:
    house.sandbox.control(suffix_faults={"*": "gupshup:1003"})
    campaign = house.campaign(house.app(), 80)
    house.sender(table=quick("1003"))
    until(lambda: house.stops() and house.stops()[0].probes >= 3, "three probes")
    counts = house.counts(campaign)
    house.sandbox.control(suffix_faults={})
    house.until_counts(campaign, failed=counts["failed"], accepted=80 - counts["failed"])
    assert ended(house).ended_by == "disparo"
    with house.connections.session() as session:
        # What was refused as a probe was sent all the same, and spent no attempt by it.
        attempts = session.scalars(select(Message.attempts).where(Message.status == "accepted")).all()
        refused = session.scalar(select(func.count()).select_from(SendError))
    assert set(attempts) == {1}
    assert refused >= counts["failed"] + 2


def test_after_so_many_probes_a_person_is_needed(house: House) -> None:
    house.sandbox.control(suffix_faults={"*": "gupshup:1003"})
    campaign = house.campaign(house.app(), 40)
    house.sender(table=quick("1003", probes=2))
    until(lambda: house.stops() and house.stops()[0].probe_at is None, "the last probe to be refused")
    ((stop),) = house.stops()
    assert stop.probes == 2
    counts = house.counts(campaign)
    house.sandbox.control(suffix_faults={})
    arrivals = house.sandbox.stats()["arrivals"]
    with house.connections.session() as session:
        assert stops.release_probes(session, db.now(session)) == []
    assert house.sandbox.stats()["arrivals"] == arrivals
    assert house.counts(campaign) == counts


@pytest.mark.parametrize("answer", ["no-id", "502", "close-after", "503-after"])
def test_a_stream_of_strange_answers_stops_the_app_and_ends_when_one_is_the_providers(
    house: House, answer: str
) -> None:
    house.sandbox.control(suffix_faults={"*": answer})
    campaign = house.campaign(house.app(), 120)
    sender = house.sender(table=quick("strange_answers"))
    until(house.stops, "the app is stopped")
    ((stop),) = house.stops()
    assert (stop.scope, stop.code) == ("app", "strange_answers")
    house.sandbox.control(suffix_faults={})
    until(lambda: not {"pending", "sending"} & set(house.counts(campaign)), "the end")
    counts = house.counts(campaign)
    assert counts["accepted"] + counts["unknown"] == 120
    assert STREAK <= counts["unknown"] <= STREAK + 2 * sender._threads
    assert ended(house).ended_by == "disparo"


def test_an_odd_answer_now_and_then_stops_nothing(house: House) -> None:
    # Nine of ten recipients' answers are lost; each tenth is the provider's.
    house.sandbox.control(suffix_faults={str(digit): "no-id" for digit in range(1, 10)})
    campaign = house.campaign(house.app(rate=50.0), 60)
    house.sender()
    house.until_counts(campaign, accepted=6, unknown=54)
    with house.connections.session() as session:
        assert session.scalar(select(func.count()).select_from(Stop)) == 0


def test_an_endpoint_that_is_away_stops_the_app_and_spends_few_attempts(house: House) -> None:
    app = house.app()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with house.connections.session() as session:
            session.get_one(App, app.id).base_url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        campaign = house.campaign(app, 60)
        house.sender()
        until(house.stops, "the app is stopped")
        ((stop),) = house.stops()
        assert (stop.code, stop.scope) == ("unreachable", "app")
        assert "Connection refused" in stop.reason
        until(lambda: house.stops()[0].probes >= 2, "some probes")
    with house.connections.session() as session:
        session.get_one(App, app.id).base_url = house.sandbox.url
    house.until_counts(campaign, accepted=60)
    assert max(row.attempts for row in house.rows()) <= 6
    assert house.sandbox.stats()["repeated"] == 0


def test_a_lane_is_stopped_alone_and_its_probe_is_of_that_lane(house: House) -> None:
    app = house.app()
    house.sandbox.control(suffix_faults={"*": "meta:131048*1"})
    marketing = house.campaign(app, 30, name="m", lane=Lane.MARKETING)
    house.sender(table=quick("131048"))
    until(house.stops, "the lane is stopped")
    ((stop),) = house.stops()
    assert (stop.scope, stop.key, stop.code) == ("lane", "marketing", "131048")
    house.sandbox.control(suffix_faults={})
    utility = house.campaign(app, 10, name="u", lane=Lane.UTILITY)
    house.until_counts(utility, accepted=10)
    assert ended(house).key == "marketing"
    with house.connections.session() as session:
        session.execute(text("UPDATE messages SET due_at = now() WHERE status = 'pending'"))
    house.until_counts(marketing, accepted=30)


def test_first_messages_that_all_fail_by_their_parameters_stop_the_template(house: House) -> None:
    app = house.app(rate=50.0)
    house.sandbox.control(suffix_faults={"*": "meta:132012"})
    bad = house.campaign(app, 200, name="bad", content=TEMPLATE, template="oferta/pt_BR")
    house.sender()
    ((stop),) = until(house.stops, "the template is stopped")
    assert (stop.scope, stop.key, stop.code) == ("template", "oferta/pt_BR", "132012")
    assert "the first messages of bad all failed" in stop.reason
    until(lambda: not house.counts(bad).get("sending"), "nothing of it is under way")
    counts = house.counts(bad)
    assert stops.FIRST_K <= counts["failed"] <= 100
    # A resume tries one, which fails alike and goes back.
    house.resume(app, probe=True)
    until(lambda: house.stops()[0].probes == 1 and house.stops()[0].probe_message_id is None, "the probe")
    house.until_counts(bad, **counts)
    house.sandbox.control(suffix_faults={})
    house.resume(app, probe=True)
    house.until_counts(bad, failed=counts["failed"], accepted=counts["pending"])


def test_parameters_that_fit_somebody_stop_no_template(house: House) -> None:
    app = house.app()
    house.sandbox.control(suffix_faults={str(digit): "meta:132012" for digit in range(1, 10)})
    campaign = house.campaign(app, 60, content=TEMPLATE, template="oferta/pt_BR")
    house.sender()
    house.until_counts(campaign, accepted=6, failed=54)
    assert house.stops() == []


def test_the_probe_of_one_stop_waits_for_another_that_holds_it(house: House) -> None:
    house.paused.set()
    app = house.app()
    house.campaign(app, 3, content=CONTENT)
    with house.connections.session() as session:
        found = session.get_one(App, app.id)
        stops.pause(session, found, "lane", "marketing", reason="a person")
        session.add(
            Stop(
                app_id=app.id,
                scope="app",
                key="",
                code="1003",
                reason="low",
                message_id=1,
                probe_at=db.now(session),
            )
        )
        session.flush()
        assert stops.release_probes(session, db.now(session)) == []
        stops.resume(session, found, db.now(session), lane="marketing")
        assert len(stops.release_probes(session, db.now(session))) == 1


def test_a_probe_without_a_token_is_refused_and_not_named_again_and_again(house: House) -> None:
    app = house.app("outra")
    campaign = house.campaign(app, 5)
    house.sender()
    until(house.stops, "the app is stopped")
    house.until_counts(campaign, pending=5)
    house.resume(app, probe=True)
    until(lambda: house.stops()[0].probe_message_id is None, "the probe to be refused", seconds=10)
    ((stop),) = house.stops()
    assert (stop.code, stop.probes, stop.probe_at) == ("no_token", 1, None)
    house.connections.environment.values["DISPARO_TOKEN_OUTRA"] = "sk_1"
    house.resume(app, probe=True)
    house.until_counts(campaign, accepted=5)


def test_a_resume_waits_on_when_the_first_message_fails_by_its_own_fault(
    house: House, run: Callable[..., Outcome]
) -> None:
    app = house.app()
    house.paused.set()
    campaign = house.campaign(app, 3)
    house.sandbox.control(suffix_faults={"0000": "meta:131008"})
    with house.connections.session() as session:
        stops.trip(session, app.id, "app", "", fault("1003"), now=db.now(session), message_id=1)
    house.sender()
    until(lambda: workers(house), "a worker to be seen")
    house.paused.clear()
    done = run("app", "resume", "loja")
    assert (done.code, done.out) == (0, "one message was accepted: loja sends again\n")
    house.until_counts(campaign, failed=1, accepted=2)


# -- tokens -----------------------------------------------------------------------------------------------


def test_a_token_that_is_replaced_in_the_middle_is_fetched_once_and_fails_no_message(house: House) -> None:
    first, second = f"sk_{'1' * 32}", f"sk_{'2' * 32}"
    house.sandbox.control(apps={"app-loja": first}, partners={"ana@example.com": "s3cret"}, latency_ms=20)
    house.connections.environment.values.update(
        DISPARO_PARTNER_EMAIL="ana@example.com", DISPARO_PARTNER_SECRET="s3cret"
    )
    app = house.app()
    with house.connections.session() as session:
        session.get_one(App, app.id).token_kind = "partner"
    campaign = house.campaign(app, 120)
    house.sender()
    until(lambda: house.counts(campaign).get("accepted", 0) > 20, "the campaign to run")
    house.sandbox.control(apps={"app-loja": second})
    house.until_counts(campaign, accepted=120)
    assert house.stops() == []
    assert {row.attempts for row in house.rows()} == {1}
    stats = house.sandbox.stats()
    assert stats["accepted"] == stats["distinct"] == 120
    assert stats["partner"]["logins"] == 1


def test_a_token_file_that_changes_counts_without_a_stop_and_a_wrong_one_stops(
    house: House, tmp_path: Path
) -> None:
    first, second = f"sk_{'1' * 32}", f"sk_{'2' * 32}"
    path = tmp_path / "token"
    path.write_text(first)
    values = house.connections.environment.values
    values.pop("DISPARO_TOKEN_LOJA", None)
    values["DISPARO_TOKEN_LOJA_FILE"] = str(path)
    house.sandbox.control(apps={"app-loja": first}, latency_ms=20)
    app = house.app()
    campaign = house.campaign(app, 120)
    sender = house.sender()
    until(lambda: house.counts(campaign).get("accepted", 0) > 20, "the campaign to run")
    # The file first, as who is careful does.
    path.write_text(second)
    house.sandbox.control(apps={"app-loja": second})
    house.until_counts(campaign, accepted=120)
    assert house.stops() == []
    path.write_text(first)
    again = house.campaign(app, 80, name="again")
    until(house.stops, "the app is stopped")
    until(lambda: not house.counts(again).get("sending"), "nothing is under way")
    assert 1 <= house.counts(again)["failed"] <= sender._threads


class Gateway:
    """Stands where the provider's client does: answers with a page of its own, never with the provider's words."""

    def __init__(self, status: int) -> None:
        self.status, self.posted = status, 0

    def post(self, *_: object) -> Answer:
        self.posted += 1
        return Answer(self.status, {}, b"<html>not here</html>")

    def close(self) -> None:
        pass


def test_what_a_gateways_page_refuses_is_not_sent_again_although_the_token_is_new(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tokens, "renew", lambda *_: True)
    gateway: Any = Gateway(401)
    campaign = house.campaign(house.app(), 3)
    house.sender(client=gateway)
    house.until_counts(campaign, failed=3)
    assert gateway.posted == 3


@pytest.mark.parametrize("status", [401, 403, 404, 308])
def test_a_probe_that_a_gateways_page_refuses_is_not_sent_again(house: House, status: int) -> None:
    gateway: Any = Gateway(status)
    house.paused.set()
    app = house.app()
    campaign = house.campaign(app, 3)
    with house.connections.session() as session:
        now = db.now(session)
        stops.trip(session, app.id, "app", "", fault("1003"), now=now, message_id=1)
        stops.resume(session, session.get_one(App, app.id), now, probe=True)
    house.sender(client=gateway)
    house.paused.clear()
    until(lambda: gateway.posted, "the probe to leave")
    house.until_counts(campaign, failed=1, pending=2)
    ((stop),) = house.stops()
    assert (stop.probe_message_id, stop.probe_at) == (None, None)
