"""Stops and probes in the tables: which message may leave, when, and what ends a stop."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, text

from disparo import apps, batches, releases, stops
from disparo.batches import Job
from disparo.models import App, Message, Notification, Stop
from disparo.statuses import Lane, Status
from tests.factories.app import fault, make_app
from tests.factories.campaign import make_campaign
from tests.factories.message import make_message

SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)


@pytest.fixture
def app(session):
    return make_app(session)


def trip(session, app: App, code: str, now, scope: str = "app", key: str = "") -> Stop:
    assert stops.trip(session, app.id, scope, key, fault(code), now=now, message_id=1)
    query = select(Stop).where(Stop.app_id == app.id, Stop.scope == scope, Stop.key == key)
    return session.scalars(query.order_by(Stop.id.desc())).first()


def probed(session, now, **options: Any) -> list[int]:
    return [one.message_id for one in stops.release_probes(session, now, **options)]


def test_a_probe_is_of_the_least_urgent_lane_and_may_leave_now(session, app, now):
    payment = make_campaign(session, app, 1, name="p", lane=Lane.PAYMENT)
    make_campaign(session, app, 1, name="paused", lane=Lane.MARKETING, state="paused")
    shut = make_campaign(session, app, 1, name="shut", lane=Lane.MARKETING)
    make_campaign(session, app, 1, name="late", lane=Lane.MARKETING, not_after=now - SECOND)
    utility = make_message(session, app, due_at=now)
    make_message(session, app, lane=Lane.MARKETING, due_at=now + HOUR)
    stop = trip(session, app, "1003", now)
    assert stop.probe_at == now + timedelta(minutes=5)
    assert probed(session, now) == [], "not yet"
    later = stop.probe_at
    assert probed(session, later, shut=[shut.id]) == [utility.id]
    assert (stop.probes, stop.probe_message_id, stop.probe_at) == (1, utility.id, later + stops.LOST_AFTER)
    # Its job was lost: after the longest that a request takes, one is named again.
    assert probed(session, later + SECOND, shut=[shut.id]) == []
    utility.status = Status.CANCELLED
    session.flush()
    lost = later + stops.LOST_AFTER
    rows = session.scalars(select(Message.id).where(Message.campaign_id == payment.id)).all()
    assert probed(session, lost, shut=[shut.id]) == rows


def test_only_the_probe_can_be_claimed_and_it_is_named_again_when_it_comes_back(session, app, now):
    make_campaign(session, app, 5)
    (job,) = releases.release(session, now)
    stop = trip(session, app, "1003", now)
    later = stop.probe_at
    assert batches.claim(session, job, 5, "w", later) == []
    (probe,) = stops.release_probes(session, later)
    (named,) = stops.as_jobs([probe])
    assert named == Job(app.id, Lane.MARKETING, message_ids=(probe.message_id,), probe=True)
    held = batches.take_messages(session, app.id, named.message_ids, "w")
    assert held == replace(named, campaign_id=job.campaign_id)
    (row,) = batches.claim(session, job, 5, "w", later)
    assert row.id == probe.message_id
    batches.record(session, [batches.Outcome(row.id, row.claim, Status.PENDING)], later)
    assert probed(session, later + SECOND) == [row.id]
    assert probed(session, later + SECOND) == [], "named once"


def test_an_accepted_probe_ends_its_stop_and_makes_older_refusals_worthless(session, app, now):
    make_campaign(session, app, 2)
    stop = trip(session, app, "1003", now)
    (message_id,) = probed(session, stop.probe_at)
    epoch = app.epoch
    assert stops.pass_probe(session, message_id + 1, now) == []
    assert stops.pass_probe(session, message_id, now) == [stop]
    assert (stop.ended_at, stop.ended_by, app.epoch) == (now, "disparo", epoch + 1)
    assert not stops.trip(session, app.id, "app", "", fault("1003"), now=now, epoch=epoch, message_id=9)
    assert apps.stops(session, app.id) == []
    assert session.scalars(select(Notification.event).order_by(Notification.id)).all() == [
        "app_paused",
        "app_resumed",
    ]
    assert releases.release(session, now) != []


def test_waits_between_probes_grow_and_the_last_one_leaves_it_to_a_person(session, app, now):
    make_campaign(session, app, 2)
    stop = trip(session, app, "131048", now, "lane", "marketing")
    waits, at = [], now
    while stop.probe_at is not None:
        waits.append((stop.probe_at - at) / timedelta(minutes=1))
        at = stop.probe_at
        (message_id,) = probed(session, at)
        stops.fail_probe(session, message_id, "lane", "marketing", fault("131048", "again"), at)
    assert waits == [15, 15, 30, 60]
    assert (stop.reason, stop.probe_message_id, stop.ended_at) == ("again", None, None)


def test_another_fault_of_the_same_width_takes_the_stop_over(session, app, now):
    make_campaign(session, app, 2)
    stop = trip(session, app, "1003", now)
    (message_id,) = probed(session, stop.probe_at)
    stops.fail_probe(session, message_id, "app", "", fault("authentication_failed", "wrong"), now)
    assert (stop.code, stop.reason, stop.probe_at) == ("authentication_failed", "wrong", None)


def test_a_fault_of_another_width_says_nothing_of_a_stop(session, app, now):
    make_campaign(session, app, 2)
    stop = trip(session, app, "131048", now, "lane", "marketing")
    (message_id,) = probed(session, stop.probe_at)
    stops.fail_probe(session, message_id, "app", "", fault("1003"), now)
    assert (stop.code, stop.probe_at) == ("131048", now + stops.LATER)


def test_a_person_takes_over_what_would_end_by_itself(session, app, now):
    make_campaign(session, app, 2)
    stop = trip(session, app, "1003", now)
    assert not stops.pause(session, app, reason="let me look")
    assert probed(session, now + HOUR) == []
    assert stops.resume(session, app, now, by="ana").ended == [stop]
    assert stop.ended_by == "ana"


def test_a_resume_ends_a_persons_pause_at_once_and_probes_a_fault(session, app, now):
    stops.pause(session, app, "lane", "utility", reason="a person")
    stop = trip(session, app, "authentication_failed", now)
    make_campaign(session, app, 2)
    done = stops.resume(session, app, now, probe=True, by="ana")
    assert [one.scope for one in done.ended] == ["lane"]
    assert [one.stop_id for one in done.probes] == [stop.id]
    assert probed(session, now) == [done.probes[0].message_id]
    # Twice: another probe is not named beside the first.
    again = stops.resume(session, app, now, probe=True)
    assert [one.message_id for one in again.probes] == [done.probes[0].message_id]
    # Nothing waits any more: there is nothing to try, so the stop ends.
    session.execute(text("UPDATE messages SET status = 'cancelled'"))
    assert stops.resume(session, app, now, probe=True, by="ana").ended == [stop]
    assert stop.ended_by == "ana"
