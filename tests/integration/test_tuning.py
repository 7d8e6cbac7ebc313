"""Self-tuning in the tables and in real senders: one refusal counts once, and a tick raises what is borne."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from disparo import apps, db, progress, recovery, tuning
from disparo.connections import Connections
from disparo.models import App, Notification, Worker
from disparo.statuses import Status
from scheduler import ticks
from scheduler.ticks import TICKS
from tests.factories.app import make_app
from tests.factories.installation import make_worker
from tests.integration.conftest import Outcome
from tests.integration.house import House, until
from worker.routes import Routes

SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)
#: What the fixture ``now`` is.
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def tuned(session: Session, name: str = "loja", *, rate: float = 200.0, **state: Any) -> App:
    """An app that is tuned, in that state; ``tuned_rate`` among it."""
    app = make_app(session, name, rate=rate)
    tuning.turn_on(app, NOON)
    app.tuned_rate = state.pop("tuned_rate", app.tuned_rate)
    app.tuning_state = (app.tuning_state or {}) | state
    session.flush()
    return app


def rate_of(session: Session, app: App) -> float | None:
    session.expire_all()
    return session.get_one(App, app.id).tuned_rate


def count(session: Session, worker: str, app: App, n: int) -> None:
    tuning.note_answered(session, worker, {app.id: n})


# -- in the tables -----------------------------------------------------------------------------------------


def test_of_the_refusals_of_one_rate_the_first_counts(session: Session, now: datetime) -> None:
    app = tuned(session)
    changed = tuning.refuse(session, app.id, 1, 1.0, now)
    assert changed == tuning.Changed("loja", 10.0, 5.0)
    assert tuning.refuse(session, app.id, 1, 1.0, now) is None
    assert rate_of(session, app) == 5.0
    # A request that left under the new rate is refused too.
    assert tuning.refuse(session, app.id, 2, 1.0, now) == tuning.Changed("loja", 5.0, 2.5)


def test_of_workers_that_are_refused_at_once_one_slows_the_app_down(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        app_id = tuned(session).id
    begin, changed = threading.Barrier(8), []

    def refused() -> None:
        with Session(engine) as session, session.begin():
            begin.wait(60)
            changed.append(tuning.refuse(session, app_id, 1, 1.0, db.now(session)))

    threads = [threading.Thread(target=refused) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [one.rate for one in changed if one] == [5.0]
    assert len(changed) == 8


def test_an_app_that_is_not_tuned_keeps_its_rate(session: Session, now: datetime) -> None:
    app = make_app(session, rate=80.0)
    assert tuning.refuse(session, app.id, 0, 1.0, now) is None
    assert tuning.look(session, now + HOUR) == []
    assert (app.tuned_rate, tuning.effective_rate(app)) == (None, 80.0)


def test_the_answers_of_all_workers_prove_a_rate_and_each_app_has_its_own(
    session: Session, now: datetime
) -> None:
    app, idle = tuned(session), tuned(session, "outra")
    for name in ("one", "two"):
        make_worker(session, now, name)
    count(session, "one", app, 15)
    assert tuning.look(session, now + 3 * SECOND) == []
    count(session, "one", app, 50)
    count(session, "two", app, 20)
    later = now + 9 * SECOND
    assert tuning.look(session, later) == [tuning.Changed("loja", 10.0, 20.0)]
    assert rate_of(session, app) == 20.0
    assert rate_of(session, idle) == 10.0
    # Begun anew: what was answered before proves nothing of the new rate.
    assert tuning.look(session, later + 3 * SECOND) == []


def test_what_was_found_outlives_a_process_and_an_emptied_redis(
    connections: Connections, redis_url: str
) -> None:
    with connections.session() as session:
        app_id = tuned(session, borne=40.0, tuned_rate=40.0, refused=42.0).id
    connections.limiter._redis.flushdb()
    route = Routes(connections).get(app_id)
    assert (route.rate, route.tuning, route.tuning_epoch) == (40.0, True, 1)
    with connections.session() as session:
        session.get_one(App, app_id).rate = 30.0
    assert Routes(connections).get(app_id).rate == 30.0


def test_the_tick_raises_a_rate_and_tells_the_workers(
    connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connections.session() as session:
        now = db.now(session)
        app = tuned(session, since=(now - 10 * SECOND).isoformat())
        make_worker(session, now, "one")
        count(session, "one", app, 100)
    told = []
    monkeypatch.setattr(connections.limiter, "announce", lambda: told.append(True))
    name = "disparo.tick.tune"
    assert ticks.run(name, TICKS[name], connections)
    with connections.session() as session:
        assert rate_of(session, app) == 20.0
    assert told == [True]
    assert ticks.run(name, TICKS[name], connections)
    assert told == [True]


def test_less_than_half_of_the_configured_rate_is_told_once(session: Session, now: datetime) -> None:
    app = tuned(session, tuned_rate=40.0, borne=40.0, refused=42.0, falls=0)
    enough = tuned(session, "outra", tuned_rate=100.0, borne=100.0, refused=104.0, falls=0)
    make_worker(session, now, "one")
    for n in range(1, 4):
        tuning.note_answered(session, "one", {app.id: 400_000 * n, enough.id: 400_000 * n})
        tuning.look(session, now + n * HOUR)
    ((told),) = session.scalars(select(Notification)).all()
    assert (told.event, told.subject) == ("rate_found", "app:loja")
    assert told.sentence.startswith(
        "loja: the provider bears about 40 requests/s, less than half of the configured 200."
    )


def test_a_clock_that_is_set_back_holds_no_rate_for_an_hour(session: Session, now: datetime) -> None:
    app = tuned(session, tuned_rate=40.0, borne=40.0, refused=42.0, falls=0)
    make_worker(session, now, "one")
    count(session, "one", app, 1_000)
    tuning.look(session, now + 5 * SECOND)
    session.refresh(app)
    assert app.tuning_state is not None
    assert app.tuning_state["try_at"] == (now + 15 * SECOND).isoformat()
    assert not recovery.notice_clock_set_back(session, now + 5 * SECOND)
    assert recovery.notice_clock_set_back(session, now + 5 * SECOND - HOUR)
    session.refresh(app)
    assert datetime.fromisoformat(app.tuning_state["since"]) == now + 5 * SECOND - HOUR
    assert datetime.fromisoformat(app.tuning_state["try_at"]) == now + 15 * SECOND - HOUR
    assert app.tuning_state["refused_at"] is None
    count(session, "one", app, 2_000)
    assert tuning.look(session, now + 16 * SECOND - HOUR) == [tuning.Changed("loja", 40.0, 42.4)]


def test_state_of_an_older_or_a_newer_version_is_read(session: Session, now: datetime) -> None:
    app = tuned(session)
    app.tuning_state = {"epoch": 7, "since": now.isoformat(), "of_tomorrow": [1]}
    session.flush()
    assert tuning.refuse(session, app.id, 7, 1.0, now) == tuning.Changed("loja", 10.0, 5.0)
    app.tuned_rate = app.tuning_state = None
    session.flush()
    assert tuning.refuse(session, app.id, 0, 1.0, now) == tuning.Changed("loja", 10.0, 5.0)


# -- commands ----------------------------------------------------------------------------------------------


def test_tuning_is_turned_on_and_off_and_shown(run: Callable[..., Outcome], connections: Connections) -> None:
    made = run("app", "set", "loja", "--id", "app-1", "--rate", "80", "--json").json
    assert (made["effective_rate"], made["tuning"]) == (80, {"state": "off"})
    assert "--tuning yes: there are on and off" in run("app", "set", "loja", "--tuning", "yes").sentence
    on = run("app", "set", "loja", "--tuning", "on", "--json").json
    assert (on["rate"], on["effective_rate"], on["tuning"]["state"]) == (80, 10, "looking")
    # On already: what is known stays.
    with connections.session() as session:
        app = apps.get(session, "loja")
        at = "2026-11-21T12:00:00+00:00"
        app.tuned_rate = 40.0
        app.tuning_state = (app.tuning_state or {}) | {
            "borne": 40.0, "refused": 42.0, "refused_at": at, "found_at": at, "try_at": at,
        }  # fmt: skip
    run("app", "set", "loja", "--tuning", "on")
    shown = run("app", "show", "loja", "--json").json
    assert shown["effective_rate"] == 40
    assert shown["tuning"] == {
        "state": "found", "rate": 40.0, "borne": 40.0, "refused": 42.0,
        "refused_at": at, "found_at": at, "try_at": at,
    }  # fmt: skip
    assert (
        "on: 40/s was found at 2026-11-21 09:00:00; 42/s was refused at 2026-11-21 09:00:00; more is tried at "
        in run("app", "show", "loja").out
    )
    below = run("app", "set", "loja", "--rate", "30", "--json").json
    assert (below["effective_rate"], below["tuning"]["state"]) == (30, "full")
    assert "on: the configured rate is in force" in run("app", "show", "loja").out
    run("app", "pause", "loja")
    assert run("app", "show", "loja", "--json").json["effective_rate"] == 0
    off = run("app", "set", "loja", "--tuning", "off", "--rate", "80", "--json").json
    assert off["tuning"] == {"state": "off"}
    run("app", "resume", "loja")
    again = run("app", "set", "loja", "--tuning", "on", "--json").json
    assert (again["effective_rate"], again["tuning"]["borne"]) == (10, None)


def test_another_number_is_another_limit(run: Callable[..., Outcome], connections: Connections) -> None:
    run("app", "set", "loja", "--id", "app-1", "--rate", "80", "--tuning", "on")
    for option, value, rate in (
        ("--window", "marketing=always", 40),
        ("--id", "app-2", 10),
        ("--base-url", "http://127.0.0.1:1", 10),
    ):
        with connections.session() as session:
            app = apps.get(session, "loja")
            app.tuned_rate, before = 40.0, tuning._epoch(app)
        assert run("app", "set", "loja", option, value, "--json").json["effective_rate"] == rate
        with connections.session() as session:
            # A request of the old number that is refused late says nothing of the new one.
            assert tuning._epoch(apps.get(session, "loja")) == before + (rate == 10)


def test_a_refusal_from_before_tuning_was_turned_off_and_on_counts_for_nothing(
    session: Session, now: datetime
) -> None:
    app = tuned(session)
    epoch = tuning._epoch(app)
    tuning.turn_off(app)
    tuning.turn_on(app, now)
    session.flush()
    assert tuning.refuse(session, app.id, epoch, 1.0, now) is None


# -- in real senders ---------------------------------------------------------------------------------------


def tune(house: House, app: App) -> None:
    with house.connections.session() as session:
        tuning.turn_on(session.get_one(App, app.id), db.now(session))


def state_of(house: House, app: App) -> App:
    with house.connections.session() as session:
        return session.get_one(App, app.id)


def throttle(house: House, name: str) -> None:
    house.sandbox.control(suffix_faults={"*": name})


@pytest.mark.parametrize("refusal", ["throttle", "gupshup:4001", "meta:130429", "meta:80007", "meta:4"])
def test_refusals_of_two_senders_slow_an_app_down_once_and_spend_no_attempt(
    house: House, refusal: str
) -> None:
    throttle(house, refusal)
    app = house.app(rate=200.0)
    tune(house, app)
    with house.connections.session() as session:
        session.execute(text("UPDATE apps SET tuned_rate = 200"))
    house.sender(), house.sender()
    house.campaign(app, 100)
    until(lambda: state_of(house, app).tuned_rate == 100.0, "the rate to be halved")
    until(lambda: not [row for row in house.rows() if row.status == Status.SENDING], "nothing under way")
    # Whatever was under way was refused for the same rate.
    found = state_of(house, app)
    assert found.tuned_rate == 100.0
    assert {row.attempts for row in house.rows()} == {0}
    assert {row.status for row in house.rows()} == {Status.PENDING}


def test_what_was_granted_before_a_refusal_does_not_leave_in_its_cool_down(house: House) -> None:
    """Half a second of permits are out when the refusal comes."""
    throttle(house, "meta:80007*1")
    app = house.app(rate=20.0)
    tune(house, app)
    with house.connections.session() as session:
        session.execute(text("UPDATE apps SET tuned_rate = 20"))
    house.sender()
    house.campaign(app, 50)
    until(house.arrivals, "the first to leave")
    until(lambda: state_of(house, app).tuned_rate == 10.0, "the rate to be halved")
    until(lambda: not [row for row in house.rows() if row.status == Status.SENDING], "nothing under way")
    # Ten were granted, one each twentieth of a second.
    assert len(house.arrivals()) < 7


def test_a_restricted_lane_and_a_crowded_recipient_say_nothing_of_the_rate(house: House) -> None:
    house.sandbox.control(suffix_faults={"1": "meta:131048", "2": "meta:131056"})
    app = house.app(rate=100.0)
    tune(house, app)
    house.sender()
    campaign = house.campaign(app, 10)
    until(house.stops, "the lane to be stopped")
    until(lambda: not house.counts(campaign).get("sending"), "nothing under way")
    assert state_of(house, app).tuned_rate == 10.0


def test_answers_are_counted_with_the_heartbeat_and_only_of_tuned_apps(house: House) -> None:
    house.sandbox.control(suffix_faults={"9": "meta:131026"})
    app, other = house.app(rate=50.0), house.app("outra", rate=50.0)
    house.connections.environment.values["DISPARO_TOKEN_OUTRA"] = "sk_1"
    tune(house, app)
    sender = house.sender()
    house.until_counts(house.campaign(other, 20), accepted=18, failed=2)
    house.until_counts(house.campaign(app, 20, name="b"), accepted=18, failed=2)

    def counted() -> Any:
        with house.connections.session() as session:
            return session.scalars(select(Worker.answered).where(Worker.name == sender.name)).one_or_none()

    # A refusal of the recipient is an answer like any other.
    until(lambda: counted() == {str(app.id): 20}, f"20 answers to be counted, now {counted()}")


def test_status_has_the_rate_in_force(house: House) -> None:
    app = house.app(rate=80.0)
    tune(house, app)
    campaign = house.campaign(app, 5)
    with house.connections.session() as session:
        found = progress.status(session, campaign, db.now(session), house.connections.settings.zone)
    assert found["effective_rate"] == 10.0
