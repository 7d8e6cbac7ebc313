"""Stops in the tables: two that meet at one, and probes that never leave."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, event, select, text
from sqlalchemy.orm import Session

from disparo import apps, batches, releases, stops
from disparo.models import App, Stop
from disparo.statuses import Lane
from tests.factories.app import fault, make_app, make_stop
from tests.factories.campaign import make_campaign
from tests.factories.message import make_message
from tests.racing import meet_in

SECOND = timedelta(seconds=1)


@pytest.fixture
def app(session: Session) -> App:
    return make_app(session)


def probing(session: Session, app: App, now: datetime, **columns: Any) -> Stop:
    """A stop by a fault that heals, whose next probe is due."""
    stop = make_stop(session, app, **({"code": "1003"} | columns))
    stop.message_id, stop.probe_at = 1, now
    session.flush()
    return stop


def in_force(session: Session, app: App) -> list[Stop]:
    return list(session.scalars(select(Stop).where(Stop.app_id == app.id, Stop.ended_at.is_(None))))


# -- two at once ------------------------------------------------------------------------------------------


def test_a_pause_that_meets_an_accepted_probe_holds(
    engine: Engine, session: Session, app: App, now: datetime
) -> None:
    message = make_message(session, app, due_at=now)
    probing(session, app, now).probe_message_id = message.id

    def accepted(first: Session) -> None:
        # The stop is locked, and ends when the pause has come upon it.
        first.execute(text("SELECT 1 FROM stops FOR UPDATE"))
        event.listen(first, "before_commit", lambda _: stops.pass_probe(first, message.id, now))

    def pause(other: Session) -> bool:
        return stops.pause(other, other.get_one(App, app.id), reason="a person")

    meet_in(engine, session, accepted, pause)
    (stop,) = in_force(session, app)
    assert (stop.code, stop.reason) == ("operator", "a person")


def test_a_refusal_from_before_that_meets_a_resume_stops_nothing(
    engine: Engine, session: Session, app: App, now: datetime
) -> None:
    epoch = app.epoch
    make_stop(session, app, code="1003")

    def resume(first: Session) -> None:
        stops.resume(first, first.get_one(App, app.id), now)

    def trip(late: Session) -> bool:
        return stops.trip(late, app.id, "app", "", fault("1003"), now=now, epoch=epoch)

    _, tripped = meet_in(engine, session, resume, trip)
    assert (tripped, in_force(session, app)) == (False, [])


def test_a_resume_and_a_release_at_once_do_not_wait_for_each_other(
    engine: Engine, session: Session, app: App, now: datetime
) -> None:
    probing(session, app, now, scope="lane", key="marketing", code="131048")
    make_campaign(session, app, 5, lane=Lane.UTILITY)
    named: list[batches.Job] = []

    def tick(first: Session) -> None:
        # Nothing of the lane waits, so its stop stays locked while the tick goes on.
        assert stops.release_probes(first, now) == []
        event.listen(first, "before_commit", lambda _: named.extend(releases.release(first, now)))

    def resume(other: Session) -> int:
        return len(stops.resume(other, other.get_one(App, app.id), now).ended)

    assert meet_in(engine, session, tick, resume)[1] == 1
    assert [job.size for job in named] == [5]


def test_a_resume_goes_by_what_has_become_of_the_last_probe_since_the_session_looked(
    engine: Engine, session: Session, app: App, now: datetime
) -> None:
    message = make_message(session, app, due_at=now)
    stop = probing(session, app, now)
    stop.probe_message_id = message.id
    session.commit()
    with Session(engine) as person, person.begin():
        seen = apps.stops(person, app.id)
        with Session(engine) as worker, worker.begin():
            stops.fail_probe(worker, message.id, "app", "", fault("401"), now)
        assert len(seen) == 1
        done = stops.resume(person, person.get_one(App, app.id), now, probe=True)
        assert [one.message_id for one in done.probes] == [message.id]
    session.refresh(stop)
    assert stop.probe_message_id == message.id


# -- probes that never leave ------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["suppressed", "cancelled", "expired", "failed"])
def test_a_probe_that_will_never_leave_is_followed_by_another(
    session: Session, app: App, now: datetime, status: str
) -> None:
    first, second = (make_message(session, app, due_at=now + n * SECOND) for n in (0, 1))
    now += 2 * SECOND
    probing(session, app, now)
    (named,) = stops.release_probes(session, now)
    assert named.message_id == first.id
    assert stops.release_probes(session, now + SECOND) == []
    first.status = status
    session.flush()
    (named,) = stops.release_probes(session, now + SECOND)
    assert named.message_id == second.id


def test_messages_under_another_stop_do_not_hide_one_that_may_leave(
    session: Session, app: App, now: datetime
) -> None:
    make_stop(session, app, scope="template", key="carrinho/pt_BR")
    for _ in range(30):
        make_message(session, app, due_at=now - SECOND, template="carrinho/pt_BR")
    free = make_message(session, app, due_at=now)
    probing(session, app, now)
    (named,) = stops.release_probes(session, now)
    assert named.message_id == free.id


def test_probes_that_are_not_answered_come_ever_more_rarely(
    session: Session, app: App, now: datetime
) -> None:
    make_campaign(session, app, 10, lane=Lane.PAYMENT)
    stop = probing(session, app, now)
    waits, at = [], now
    for _ in range(7):
        (named,) = stops.release_probes(session, at)
        stops.repeat_probe(session, named.message_id, stops.LATER, at)
        assert stop.probe_at is not None
        waits.append((stop.probe_at - at).total_seconds())
        at = stop.probe_at
    assert waits == [15, 30, 60, 120, 240, 300, 300]


def test_two_faults_that_hold_the_same_messages_are_tried_by_one_of_them(
    session: Session, app: App, now: datetime
) -> None:
    make_campaign(session, app, 5, lane=Lane.MARKETING)
    held = [probing(session, app, now), probing(session, app, now, scope="lane", key="marketing")]
    found = stops.release_probes(session, now)
    (job,) = stops.as_jobs(found)
    (row,) = batches.claim(session, job, 1, "w", now)
    assert {stop.probe_message_id for stop in held} == {row.id}
    assert stops.release_probes(session, now + SECOND) == []
    assert len(stops.pass_probe(session, row.id, now + SECOND)) == 2
    assert in_force(session, app) == []


def test_a_resume_tries_one_message_for_two_faults_that_hold_it(
    session: Session, app: App, now: datetime
) -> None:
    make_campaign(session, app, 5, lane=Lane.MARKETING)
    for scope, key in (("app", ""), ("lane", "marketing")):
        make_stop(session, app, scope=scope, key=key, code="1003").message_id = 1
    done = stops.resume(session, app, now, probe=True)
    assert done.ended == []
    assert len({one.message_id for one in done.probes}) == 1
    assert len(in_force(session, app)) == 2


def test_an_answer_that_accepts_nothing_ends_only_the_stop_that_is_about_answers(
    session: Session, app: App, now: datetime
) -> None:
    make_campaign(session, app, 5, lane=Lane.MARKETING)
    probing(session, app, now, code="unreachable")
    lane = probing(session, app, now, scope="lane", key="marketing", code="131048")
    named = stops.release_probes(session, now)
    assert len(named) == 2
    stops.pass_probe(session, named[0].message_id, now, codes=["unreachable"])
    assert in_force(session, app) == [lane]
