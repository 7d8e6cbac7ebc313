"""The scheduler's ticks on real servers: one at a time, enqueued after the commit, nothing lost when Redis is."""

import json
from base64 import b64decode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Event

import pytest
from redis import Redis
from sqlalchemy import Interval, bindparam, select, text
from sqlalchemy.orm import Session

from disparo import batches, counters, db, recovery, releases, windows
from disparo.batches import Outcome
from disparo.connections import Connections, connect
from disparo.errors import RedisUnavailable
from disparo.models import App, Batch, Campaign, Counter, Message, Notification, Worker
from disparo.queue import SEND_BATCH, SEND_MESSAGES
from disparo.ratelimit import Ask, Stopped
from disparo.settings import Environment
from disparo.statuses import Lane, Status
from scheduler import ticks
from scheduler.ticks import TICKS, Tick, release
from tests.factories.app import make_app, make_stop
from tests.factories.campaign import make_campaign, recount
from tests.factories.installation import make_worker
from tests.factories.message import make_message
from tests.factories.reminder import make_reminder

Jobs = Callable[[str], list[tuple[str, list[object]]]]


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def jobs(redis: Redis) -> Jobs:
    """``jobs("bulk")``: (task, arguments) of all jobs that wait in that queue, oldest first."""

    def waiting(queue: str) -> list[tuple[str, list[object]]]:
        found = []
        for entry in reversed(redis.lrange(queue, 0, -1)):
            job = json.loads(entry)
            arguments = json.loads(b64decode(job["body"]))[0]
            found.append((job["headers"]["task"], arguments))
        return found

    return waiting


@pytest.fixture
def without_redis(connections: Connections, environment: Environment, home: object) -> Iterator[Connections]:
    """The same database with a Redis that is not there."""
    url = {"DISPARO_REDIS_URL": f"unix://{home}/nobody.sock?db=0"}
    with connect(Environment({**environment.values, **url})) as made:
        yield made


def tick(connections: Connections, name: str) -> bool:
    return ticks.run(f"disparo.tick.{name}", TICKS[f"disparo.tick.{name}"], connections)


# -- one at a time ----------------------------------------------------------------------------------------


def test_of_two_ticks_at_once_one_runs(connections: Connections) -> None:
    inside, leave, runs = Event(), Event(), []

    def slow(_: Connections, __: Session) -> None:
        runs.append(1)
        inside.set()
        assert leave.wait(60)

    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(ticks.run, "disparo.tick.x", Tick(slow, 1.0), connections)
        assert inside.wait(60)
        assert not ticks.run("disparo.tick.x", Tick(slow, 1.0), connections)
        # Another tick has another lock.
        assert ticks.run("disparo.tick.y", Tick(lambda _, __: None, 1.0), connections)
        leave.set()
        assert first.result(60)
    assert runs == [1]
    assert ticks.run("disparo.tick.x", Tick(lambda _, __: None, 1.0), connections)


def test_a_tick_that_fails_gives_its_lock_back_and_stores_nothing(connections: Connections) -> None:
    def fails(_: Connections, session: Session) -> None:
        make_app(session)
        raise RedisUnavailable("away")

    with pytest.raises(RedisUnavailable):
        ticks.run("disparo.tick.x", Tick(fails, 1.0), connections)
    with connections.session() as session:
        assert session.scalars(select(App)).all() == []
    assert ticks.run("disparo.tick.x", Tick(lambda _, __: None, 1.0), connections)


def test_what_a_tick_enqueues_goes_out_after_its_commit(connections: Connections) -> None:
    seen: list[int] = []

    def makes(connections: Connections, session: Session) -> Callable[[], None]:
        make_app(session)

        def after() -> None:
            with connections.session() as other:
                seen.extend(other.scalars(select(App.id)))

        return after

    assert ticks.run("disparo.tick.x", Tick(makes, 1.0), connections)
    assert len(seen) == 1


def test_every_tick_is_harmless_when_there_is_nothing_to_do(connections: Connections) -> None:
    for _ in range(2):
        for name, one in TICKS.items():
            assert ticks.run(name, one, connections)


# -- release ----------------------------------------------------------------------------------------------


def test_what_was_named_before_its_window_was_shut_is_not_sent_after_it(connections: Connections) -> None:
    with connections.session() as session:
        campaign = make_campaign(session, make_app(session), 40)
    tick(connections, "release")
    with connections.session() as session:
        now = db.now(session)
        ids = session.scalars(select(Batch.id)).all()
        held = [job for one in ids if (job := batches.take(session, [one], "w", now).get(one))]
        assert len(batches.claim(session, held[0], 1, "w", now)) == 1
        another_day = windows.DAYS[(now + timedelta(days=3)).weekday()]
        session.get_one(Campaign, campaign.id).window = f"{another_day} 8-9"
    tick(connections, "release")
    with connections.session() as session:
        assert [batches.claim(session, job, 20, "w", now) for job in held] == [[], []]
        session.get_one(Campaign, campaign.id).window = "always"
    tick(connections, "release")
    with connections.session() as session:
        assert session.scalars(select(Batch.id).order_by(Batch.id)).all() == ids, "the same are named again"
        assert sum(len(batches.claim(session, job, 20, "w", now)) for job in held) == 39


def test_released_work_is_in_the_queue_of_its_lane(connections: Connections, jobs: Jobs) -> None:
    with connections.session() as session:
        app = make_app(session, rate=10)
        make_campaign(session, app, 25)
        payment = make_message(session, app, lane=Lane.PAYMENT, due_at=db.now(session))
    tick(connections, "release")
    with connections.session() as session:
        released = session.scalars(select(Batch.id).where(Batch.state == "released").order_by(Batch.id)).all()
    assert jobs("urgent") == [(SEND_MESSAGES, [app.id, [payment.id]])]
    assert jobs("bulk") == [(SEND_BATCH, [batch_id]) for batch_id in released]
    assert len(released) == 2
    tick(connections, "release")
    assert len(jobs("bulk")) == 2


@pytest.mark.parametrize(("rate", "rows", "length"), [(10, 40, 2), (80, 160, 8), (1_000, 2_000, 8)])
def test_redis_holds_a_few_jobs_of_a_campaign_of_any_size_however_long_nobody_works(
    connections: Connections, redis: Redis, rate: float, rows: int, length: int
) -> None:
    connections.limiter.mark()
    with connections.session() as session:
        campaign = make_campaign(session, make_app(session, rate=rate))
        session.execute(
            text("""
                INSERT INTO messages (app_id, campaign_id, lane, recipient, recipient_key)
                SELECT :app_id, :id, 'marketing', '55119' || n, '119' || n FROM generate_series(10000000, 10019999) n"""),
            {"app_id": campaign.app_id, "id": campaign.id},
        )
    lengths = []
    for _ in range(5):
        tick(connections, "release")
        tick(connections, "recover")
        lengths.append(redis.llen("bulk"))
        later(connections, timedelta(minutes=5))
    assert lengths == [length] * 5
    with connections.session() as session:
        assert session.scalar(text("SELECT sum(size) FROM batches WHERE state = 'released'")) == rows


def test_a_lost_payment_is_named_again_though_the_other_queue_is_never_empty(
    connections: Connections, redis: Redis, jobs: Jobs
) -> None:
    connections.limiter.mark()
    with connections.session() as session:
        app = make_app(session, rate=10)
        make_campaign(session, app, 5, name="pix", lane=Lane.PAYMENT)
        make_campaign(session, app, 5)
    tick(connections, "release")
    payment, marketing = jobs("urgent"), jobs("bulk")
    assert (len(payment), len(marketing)) == (1, 1)
    redis.delete("urgent")
    later(connections, recovery.LOST_AFTER + timedelta(seconds=1))
    tick(connections, "recover")
    tick(connections, "release")
    assert (jobs("urgent"), jobs("bulk")) == (payment, marketing)


def test_a_tick_starts_scheduled_campaigns_and_expires_what_is_too_late(
    connections: Connections, jobs: Jobs
) -> None:
    with connections.session() as session:
        app, now = make_app(session), db.now(session)
        due = make_campaign(session, app, 2, name="due", state="scheduled", launch_at=now)
        later = make_campaign(
            session, app, 2, name="later", state="scheduled", launch_at=now + timedelta(hours=1)
        )
        late = make_campaign(session, app, 3, name="late", not_after=now - timedelta(seconds=1))
    tick(connections, "release")
    with connections.session() as session:
        states = dict(session.execute(select(Campaign.name, Campaign.state)).all())
        assert states == {"due": "running", "later": "scheduled", "late": "running"}
        assert recount(session, late)["expired"] == 3
        found = counters.counts(session, [due.id, later.id, late.id])
        assert found[late.id] == recount(session, late)
    assert len(jobs("bulk")) == 1


def test_stops_of_the_table_are_published_and_resumes_too(connections: Connections) -> None:
    with connections.session() as session:
        app = make_app(session)
        stop = make_stop(session, app)
        make_campaign(session, app, 3)
    tick(connections, "release")
    assert connections.limiter.acquire(app.id, [Ask(Lane.MARKETING, 1)], 10, 0.5) == Stopped(stop.reason)
    with connections.session() as session:
        session.execute(text("UPDATE stops SET ended_at = now()"))
    tick(connections, "release")
    assert not isinstance(connections.limiter.acquire(app.id, [Ask(Lane.MARKETING, 1)], 10, 0.5), Stopped)


def test_everything_is_enqueued_again_after_redis_was_emptied(
    connections: Connections, redis: Redis, jobs: Jobs
) -> None:
    with connections.session() as session:
        app = make_app(session, rate=10)
        make_campaign(session, app, 10)
        make_message(session, app, due_at=db.now(session))
        stopped = make_app(session, "outra")
        stop = make_stop(session, stopped)
    tick(connections, "release")
    before = jobs("bulk")
    assert len(before) == 2
    redis.flushdb()
    tick(connections, "release")
    assert sorted(jobs("bulk"), key=str) == sorted(before, key=str)
    assert connections.limiter.acquire(stopped.id, [Ask(Lane.MARKETING, 1)], 10, 0.5) == Stopped(stop.reason)
    tick(connections, "release")
    assert len(jobs("bulk")) == 2


def test_work_that_could_not_be_enqueued_is_named_by_the_next_tick(
    connections: Connections, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connections.session() as session:
        app = make_app(session, rate=10)
        make_campaign(session, app, 40)
        make_message(session, app, due_at=db.now(session))
    send, sent = connections.queue.send_batch, []

    def breaks(batch_id: int, *, queue: str) -> None:
        if sent:
            raise RedisUnavailable("away")
        sent.append(batch_id)
        send(batch_id, queue=queue)

    with monkeypatch.context() as broken:
        broken.setattr(connections.queue, "send_batch", breaks)
        with pytest.raises(RedisUnavailable):
            tick(connections, "release")
    assert len(jobs("bulk")) == 2
    tick(connections, "release")
    named = [str(arguments) for _, arguments in jobs("bulk")]
    assert len(named) == len(set(named)) == 3


class Killed(BaseException):
    """As if the process were gone at this very point."""


def later(connections: Connections, by: timedelta) -> None:
    """Let what was named and who was seen be older, as if so much time had passed."""
    with connections.session() as session:
        for statement in (
            "UPDATE batches SET released_at = released_at - :by, held_at = held_at - :by",
            "UPDATE messages SET released_at = released_at - :by WHERE released_at IS NOT NULL",
            "UPDATE workers SET seen_at = seen_at - :by",
        ):
            session.execute(text(statement).bindparams(bindparam("by", type_=Interval)), {"by": by})


@pytest.mark.parametrize("named", [0, 1])
def test_work_of_a_scheduler_that_was_killed_before_it_was_all_enqueued_is_named_again(
    connections: Connections, jobs: Jobs, redis: Redis, monkeypatch: pytest.MonkeyPatch, named: int
) -> None:
    with connections.session() as session:
        app = make_app(session, rate=10)
        campaign = make_campaign(session, app, 10)
        single = make_message(session, app, due_at=db.now(session))
    enqueue = release.enqueue

    def dies(connections: Connections, work: list[batches.Job]) -> None:
        enqueue(connections, work[:named])
        raise Killed

    with monkeypatch.context() as killed:
        killed.setattr(release, "enqueue", dies)
        with pytest.raises(Killed):
            tick(connections, "release")
    assert len(jobs("bulk")) == named
    # A worker takes what was named; the rest is in no queue, and only the tables know of it.
    for task, arguments in jobs("bulk"):
        assert task == SEND_MESSAGES, "the single message, which is due, comes first"
        with connections.session() as session:
            make_worker(session, db.now(session), "alive")
            batches.take_messages(session, arguments[0], arguments[1], "alive")  # type: ignore[arg-type]
    redis.delete("bulk", "urgent")
    tick(connections, "recover")
    tick(connections, "release")
    assert jobs("bulk") == [], "it may still be on its way"

    later(connections, recovery.LOST_AFTER + timedelta(seconds=1))
    tick(connections, "recover")
    tick(connections, "release")
    with connections.session() as session:
        held = session.scalars(
            select(Batch.id).where(Batch.campaign_id == campaign.id).order_by(Batch.id)
        ).all()
    assert [job for job in jobs("bulk") if job[0] == SEND_BATCH] == [(SEND_BATCH, [one]) for one in held]
    assert len(held) == 1
    singles = [job for job in jobs("bulk") if job[0] == SEND_MESSAGES]
    assert singles == ([] if named else [(SEND_MESSAGES, [app.id, [single.id]])])
    # Once: the next look finds it named.
    tick(connections, "recover")
    tick(connections, "release")
    assert len(jobs("bulk")) == len(held) + len(singles)


def test_nothing_is_named_while_redis_is_away(without_redis: Connections) -> None:
    with without_redis.session() as session:
        campaign = make_campaign(session, make_app(session), 5)
    with pytest.raises(RedisUnavailable):
        tick(without_redis, "release")
    with without_redis.session() as session:
        assert session.scalars(select(Batch)).all() == []
        assert session.get_one(Campaign, campaign.id).released_to == 0


# -- reminders --------------------------------------------------------------------------------------------


def test_due_reminders_become_messages_that_are_named_in_the_order_of_their_lane(
    connections: Connections, jobs: Jobs
) -> None:
    with connections.session() as session:
        app, now = make_app(session), db.now(session)
        due = make_reminder(session, app, now)
        make_reminder(session, app, now + timedelta(hours=1), key="carrinho-2")
    for _ in range(2):
        tick(connections, "release_reminders")
    with connections.session() as session:
        message = session.scalars(select(Message)).one()
        assert (message.status, message.recipient) == (Status.PENDING, due.recipient)
    # Whatever their number: payments have the urgent queue for themselves.
    assert jobs("urgent") == jobs("bulk") == []
    for _ in range(2):
        tick(connections, "release")
    assert jobs("bulk") == [(SEND_MESSAGES, [app.id, [message.id]])]
    assert jobs("urgent") == []


def test_reminders_become_messages_while_redis_is_away(
    connections: Connections, without_redis: Connections, jobs: Jobs
) -> None:
    with connections.session() as session:
        app = make_app(session)
        make_reminder(session, app, db.now(session))
    tick(without_redis, "release_reminders")
    tick(connections, "release")
    with connections.session() as session:
        message = session.scalars(select(Message)).one()
    assert jobs("bulk") == [(SEND_MESSAGES, [app.id, [message.id]])]


# -- recovery and the end ---------------------------------------------------------------------------------


def test_a_silent_batch_and_an_expired_lease_are_put_right(connections: Connections, jobs: Jobs) -> None:
    with connections.session() as session:
        app, now = make_app(session, rate=0.1), db.now(session)
        campaign = make_campaign(session, app, 4)
        long_ago = now - recovery.LEASE - timedelta(seconds=1)
        silent, held = releases.release(session, long_ago)
        batches.claim(session, held, 1, "lost-host", long_ago)
        make_worker(session, now - timedelta(days=2), "old")
        make_worker(session, now, "alive")
    tick(connections, "recover")
    with connections.session() as session:
        assert recount(session, campaign) | {"pending": 3, "unknown": 1} == recount(session, campaign)
        assert session.scalars(select(Worker.name)).all() == ["alive"]
    tick(connections, "release")
    assert (SEND_BATCH, [silent.batch_id]) in jobs("bulk")
    assert (SEND_BATCH, [held.batch_id]) in jobs("bulk")


def test_a_campaign_of_which_nothing_is_left_is_finished_and_its_counters_folded(
    connections: Connections,
) -> None:
    with connections.session() as session:
        app, now = make_app(session), db.now(session)
        done = make_campaign(session, app, 2, name="done")
        waits = make_campaign(session, app, 2, name="waits")
        cancelled = make_campaign(session, app, 2, name="cancelled")
        statuses = {done.id: Status.ACCEPTED, waits.id: Status.UNKNOWN}
        for job in releases.release(session, now):
            for row in batches.claim(session, job, 5, "w", now):
                assert row.campaign_id is not None
                status = statuses.get(row.campaign_id, Status.PENDING)
                batches.record(session, [Outcome(row.id, row.claim, status)], now)
            batches.finish(session, [job], now)
        cancelled.state = "cancelled"
        session.flush()
        session.execute(text("UPDATE counter_deltas SET at = at - interval '5 minutes'"))
    tick(connections, "finish_campaigns")
    with connections.session() as session:
        states = dict(session.execute(select(Campaign.name, Campaign.state)).all())
        assert states == {"done": "finished", "waits": "running", "cancelled": "cancelled"}
        found = counters.counts(session, [done.id, waits.id, cancelled.id])
        assert (found[done.id]["accepted"], found[waits.id]["unknown"]) == (2, 2)
        assert found[cancelled.id]["cancelled"] == 2
        assert session.get_one(Counter, (done.id, "accepted")).n == 2


def test_campaigns_that_stop_by_themselves_are_paused_and_the_end_is_told_once(
    connections: Connections,
) -> None:
    with connections.session() as session:
        app = make_app(session)
        failing = make_campaign(session, app, name="failing", stop_if={"failed": 0.2, "after": 10})
        counters.add_deltas(session, [(failing.id, Status.FAILED, 2), (failing.id, Status.ACCEPTED, 8)])
        make_campaign(session, app, name="empty")
        # Nothing of it is left either, but it was paused in the same look.
    for _ in range(2):
        tick(connections, "finish_campaigns")
    with connections.session() as session:
        states = dict(session.execute(select(Campaign.name, Campaign.state)).all())
        assert states == {"failing": "paused", "empty": "finished"}
        told = session.scalars(select(Notification.event).order_by(Notification.id)).all()
        assert told == ["campaign_paused", "campaign_finished"]


def test_a_failing_tick_is_told_in_one_line_and_does_not_end_the_worker(
    without_redis: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, dict[str, object]]] = []
    monkeypatch.setattr(ticks.logger, "warning", lambda event, **more: told.append((event, more)))
    name = "disparo.tick.release"
    ticks._task(name, TICKS[name], without_redis)()
    ((event, more),) = told
    assert (event, more["tick"]) == ("tick_failed", name)
    assert str(more["error"]).startswith("Redis does not answer")
