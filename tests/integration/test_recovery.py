"""What is put right after a death, a lost host, a silent job and an emptied Redis."""

from datetime import datetime, timedelta

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from disparo import batches, counters, recovery, releases
from disparo.batches import Claimed, Job, Outcome
from disparo.models import App, Batch, Campaign, Message, SendError, Worker
from disparo.statuses import Lane, Status
from tests.factories.app import make_app, make_stop
from tests.factories.campaign import make_batch, make_campaign, recount
from tests.factories.installation import make_worker
from tests.factories.message import make_message

SECOND = timedelta(seconds=1)


def accepted(row: Claimed) -> Outcome:
    return Outcome(row.id, row.claim, Status.ACCEPTED, spent=True, verdict="accepted", gs_id=f"gs-{row.id}")


def row_of(session: Session, message_id: int) -> Message:
    return session.get_one(Message, message_id, populate_existing=True)


def true_counts(session: Session, campaign: Campaign) -> dict[str, int]:
    found = counters.counts(session, [campaign.id])[campaign.id]
    assert found == recount(session, campaign)
    return {status: n for status, n in found.items() if n}


@pytest.fixture
def campaign(session: Session) -> Campaign:
    return make_campaign(session, make_app(session), 6)


@pytest.fixture
def batch(session: Session, campaign: Campaign) -> Batch:
    return make_batch(session, campaign)


@pytest.fixture
def rows(session: Session, batch: Batch, now: datetime) -> list[Claimed]:
    """All six rows of the batch, claimed by ``dead``."""
    job = batches.take(session, [batch.id], "dead", now).get(batch.id)
    assert job is not None
    return batches.claim(session, job, 10, "dead", now)


def test_a_dead_worker_leaves_answered_started_and_unstarted_rows(
    session: Session, campaign: Campaign, batch: Batch, rows: list[Claimed], now: datetime
) -> None:
    make_worker(session, now, "dead")
    started = {row.id: row.claim for row in rows[:4]}
    done = recovery.settle_dead_worker(session, "dead", started, [accepted(row) for row in rows[:2]], now)
    assert done == {"recorded": 2, "unknown": 2, "pending": 2, "failed": 0, "batches": 1}
    assert true_counts(session, campaign) == {"accepted": 2, "unknown": 2, "pending": 2}
    lost = row_of(session, rows[2].id)
    assert (lost.status, lost.code, lost.attempts) == (Status.UNKNOWN, recovery.NO_ANSWER_RECORDED, 1)
    unstarted = row_of(session, rows[5].id)
    assert (unstarted.status, unstarted.due_at, unstarted.attempts) == (Status.PENDING, now, 0)
    assert session.get_one(Batch, batch.id, populate_existing=True).state == "waiting"
    assert session.scalars(select(Worker)).all() == []


def test_settling_a_dead_worker_again_changes_nothing(
    session: Session, campaign: Campaign, rows: list[Claimed], now: datetime
) -> None:
    started = {row.id: row.claim for row in rows[:4]}
    answers = [accepted(row) for row in rows[:2]]
    recovery.settle_dead_worker(session, "dead", started, answers, now)
    before = true_counts(session, campaign)
    again = recovery.settle_dead_worker(session, "dead", started, answers, now + SECOND)
    assert set(again.values()) == {0}
    assert true_counts(session, campaign) == before


def test_rows_that_another_worker_claimed_since_are_not_touched(
    session: Session, campaign: Campaign, rows: list[Claimed], now: datetime
) -> None:
    batches.record(session, [Outcome(row.id, row.claim, Status.PENDING) for row in rows], now)
    job = Job(campaign.app_id, campaign.lane, message_ids=tuple(row.id for row in rows))
    assert len(batches.claim(session, job, 10, "alive", now)) == 6
    started = {row.id: row.claim for row in rows}
    done = recovery.settle_dead_worker(session, "dead", started, [accepted(rows[0])], now)
    assert (done["recorded"], done["unknown"], done["pending"]) == (0, 0, 0)
    assert true_counts(session, campaign) == {"sending": 6}


def test_a_row_whose_older_claim_was_started_goes_back_when_its_last_claim_was_not(
    session: Session, campaign: Campaign, rows: list[Claimed], now: datetime
) -> None:
    row = rows[0]
    retry = Outcome(row.id, row.claim, Status.PENDING, spent=True, verdict="retry", code="500")
    batches.record(session, [retry], now)
    job = Job(campaign.app_id, campaign.lane, message_ids=(row.id,))
    (second,) = batches.claim(session, job, 1, "dead", now)
    recovery.settle_dead_worker(session, "dead", {row.id: row.claim}, [retry], now)
    found = row_of(session, row.id)
    assert (second.claim, found.status, found.attempts) == (2, Status.PENDING, 1)


def test_a_journal_with_answers_of_both_claims_gives_the_last_one(
    session: Session, campaign: Campaign, rows: list[Claimed], now: datetime
) -> None:
    row = rows[0]
    retry = Outcome(row.id, row.claim, Status.PENDING, spent=True, verdict="retry", code="500")
    batches.record(session, [retry], now)
    job = Job(campaign.app_id, campaign.lane, message_ids=(row.id,))
    (second,) = batches.claim(session, job, 1, "dead", now)
    recovery.settle_dead_worker(session, "dead", {row.id: 2}, [retry, accepted(second)], now)
    found = row_of(session, row.id)
    assert (found.status, found.attempts) == (Status.ACCEPTED, 2)


def test_the_journal_of_a_worker_decides_rows_that_the_lease_sweep_made_unknown(
    session: Session, campaign: Campaign, rows: list[Claimed], now: datetime
) -> None:
    assert recovery.expire_leases(session, now + recovery.LEASE + SECOND) == 6
    assert true_counts(session, campaign) == {"unknown": 6}
    started = {row.id: row.claim for row in rows[:3]}
    done = recovery.settle_dead_worker(session, "dead", started, [accepted(rows[0])], now)
    assert (done["recorded"], done["unknown"], done["pending"]) == (1, 2, 3)
    assert true_counts(session, campaign) == {"accepted": 1, "unknown": 2, "pending": 3}
    assert row_of(session, rows[1].id).code == recovery.NO_ANSWER_RECORDED
    back = row_of(session, rows[5].id)
    assert (back.code, back.reason, back.settled_at) == (None, None, None)


def test_two_that_settle_one_worker_count_it_once(engine: Engine, now: datetime) -> None:
    with Session(engine, expire_on_commit=False) as session:
        campaign = make_campaign(session, make_app(session), 6)
        batch = make_batch(session, campaign)
        job = Job(batch.app_id, "marketing", batch_id=batch.id, size=6)
        rows = batches.claim(session, job, 10, "dead", now)
        session.commit()
        with Session(engine) as other, other.begin():
            recovery.settle_dead_worker(other, "dead", {rows[0].id: 1}, [], now)
        with session.begin():
            recovery.settle_dead_worker(session, "dead", {rows[0].id: 1}, [], now)
        assert true_counts(session, campaign) == {"unknown": 1, "pending": 5}


def test_a_row_that_kills_its_worker_again_and_again_is_stopped(
    session: Session, campaign: Campaign, rows: list[Claimed], now: datetime
) -> None:
    batches.record(session, [accepted(row) for row in rows[1:]], now)
    job = Job(campaign.app_id, campaign.lane, message_ids=(rows[0].id,))
    for death in range(1, recovery.DEATHS_LIMIT + 1):
        assert row_of(session, rows[0].id).status == Status.SENDING
        done = recovery.settle_dead_worker(session, "dead", {}, [], now)
        last = death == recovery.DEATHS_LIMIT
        assert (done["pending"], done["failed"]) == ((0, 1) if last else (1, 0))
        assert len(batches.claim(session, job, 1, "dead", now)) == (not last)
    row = row_of(session, rows[0].id)
    assert (row.status, row.code, row.attempts) == (Status.FAILED, recovery.KILLS_WORKERS, 0)
    assert true_counts(session, campaign) == {"accepted": 5, "failed": 1}
    deaths = session.scalars(select(SendError).where(SendError.message_id == row.id)).all()
    assert len(deaths) == recovery.DEATHS_LIMIT


def test_throttles_and_rows_put_back_do_not_count_as_deaths(
    session: Session, campaign: Campaign, rows: list[Claimed], now: datetime
) -> None:
    row = rows[0]
    job = Job(campaign.app_id, campaign.lane, message_ids=(row.id,))
    for n in range(4 * recovery.DEATHS_LIMIT):
        verdict = "throttle" if n % 2 else ""
        batches.record(session, [Outcome(row.id, row.claim, Status.PENDING, verdict=verdict)], now)
        (row,) = batches.claim(session, job, 1, "dead", now)
    recovery.settle_dead_worker(session, "dead", {}, [], now)
    assert row_of(session, row.id).status == Status.PENDING


def test_only_claims_older_than_the_lease_become_unknown_and_none_pending(
    session: Session, campaign: Campaign, rows: list[Claimed], now: datetime
) -> None:
    assert recovery.expire_leases(session, now + recovery.LEASE) == 0
    later = now + recovery.LEASE + SECOND
    assert recovery.expire_leases(session, later, page=4) == 4
    assert recovery.expire_leases(session, later, page=4) == 2
    assert recovery.expire_leases(session, later, page=4) == 0
    assert true_counts(session, campaign) == {"unknown": 6}


def test_batches_of_which_nobody_took_rows_for_a_minute_are_handed_back(
    session: Session, campaign: Campaign, now: datetime
) -> None:
    (job,) = releases.release(session, now)
    assert job.batch_id is not None
    assert recovery.hand_back_silent(session, now + batches.SILENT_AFTER) == 0
    batches.take(session, [job.batch_id], "w", now + 50 * SECOND).get(job.batch_id)
    assert recovery.hand_back_silent(session, now + batches.SILENT_AFTER + SECOND) == 0
    batches.hold_on(session, "another", [job.batch_id], now + 109 * SECOND)
    batches.hold_on(session, "w", [job.batch_id], now + 100 * SECOND)
    assert recovery.hand_back_silent(session, now + 160 * SECOND) == 0
    assert recovery.hand_back_silent(session, now + 161 * SECOND) == 1
    (again,) = releases.release(session, now + 161 * SECOND)
    assert again == job
    assert len(batches.claim(session, job, 10, "w", now + 161 * SECOND)) == 6


def test_everything_named_is_named_again_after_redis_was_emptied(
    session: Session, campaign: Campaign, now: datetime
) -> None:
    make_message(session, session.get_one(App, campaign.app_id), due_at=now)
    jobs = releases.release(session, now)
    assert sum(job.size for job in jobs) == 7
    assert releases.release(session, now) == []
    assert recovery.release_everything_again(session) == len(jobs)
    assert releases.release(session, now) == jobs


# -- lost jobs --------------------------------------------------------------------------------------------

LOST = recovery.LOST_AFTER + SECOND


@pytest.fixture
def released(session: Session, campaign: Campaign, now: datetime) -> list[Job]:
    """A single message and the one batch of the campaign, released at ``now``."""
    make_message(session, session.get_one(App, campaign.app_id), due_at=now)
    jobs = releases.release(session, now)
    assert [job.batch_id is None for job in jobs] == [True, False]
    return jobs


def hold(session: Session, job: Job, worker: str, now: datetime) -> None:
    if job.batch_id is not None:
        assert batches.take(session, [job.batch_id], worker, now).get(job.batch_id) == job
    else:
        assert batches.take_messages(session, job.app_id, job.message_ids, worker) == job


def test_jobs_that_nobody_took_are_named_again_when_the_queues_are_empty(
    session: Session, released: list[Job], now: datetime
) -> None:
    assert recovery.release_lost(session, True, True, now + recovery.LOST_AFTER) == 0
    assert recovery.release_lost(session, False, False, now + LOST) == 0
    assert releases.release(session, now + LOST) == []
    assert recovery.release_lost(session, True, True, now + LOST) == 2
    assert releases.release(session, now + LOST) == released
    # Named anew, they are given the same time again.
    assert recovery.release_lost(session, True, True, now + LOST + recovery.LOST_AFTER) == 0
    assert recovery.release_lost(session, True, True, now + 2 * LOST) == 2


@pytest.mark.parametrize(
    ("urgent_empty", "bulk_empty", "lost"),
    [
        (True, False, {("payment", True), ("payment", False)}),
        (False, True, {("marketing", True), ("marketing retry", False)}),
        # What a producer named itself, of whichever lane, may be in either queue.
        (True, True, {(name, single) for name in ("payment", "marketing") for single in (True, False)}
                     | {("marketing retry", False)}),
        (False, False, set()),
    ],
)  # fmt: skip
def test_a_job_is_lost_when_its_own_queue_is_empty_whatever_the_other_holds(
    session: Session, now: datetime, urgent_empty: bool, bulk_empty: bool, lost: set[tuple[str, bool]]
) -> None:
    app = make_app(session)
    for lane in (Lane.PAYMENT, Lane.MARKETING):
        make_campaign(session, app, 2, name=lane, lane=lane)
        make_message(session, app, lane=lane, due_at=now, key=lane)
    retry = session.scalars(select(Message).where(Message.campaign_id.is_not(None))).all()[-1]
    retry.due_at, retry.key = now, "marketing retry"
    session.flush()
    jobs = releases.release(session, now)
    assert len(jobs) == 5
    n = recovery.release_lost(session, urgent_empty, bulk_empty, now + LOST)
    again = releases.release(session, now + LOST)
    assert len(again) == n
    names = set()
    for job in again:
        if job.batch_id is not None:
            names.add((job.lane, True))
        else:
            [message_id] = job.message_ids
            names.add((row_of(session, message_id).key, False))
    assert names == lost


def test_silent_batches_that_nobody_holds_are_left_in_the_queue_while_no_worker_lives(
    session: Session, campaign: Campaign, now: datetime
) -> None:
    (job,) = releases.release(session, now)
    later = now + 60 * batches.SILENT_AFTER
    worker = make_worker(session, later - recovery.ALIVE_WITHIN)
    assert recovery.hand_back_silent(session, later) == 0
    worker.seen_at = later
    session.flush()
    # One that lives takes nothing from the queue in which it waits.
    worker.queues = "urgent"
    session.flush()
    assert recovery.hand_back_silent(session, later) == 0
    worker.queues = "bulk,urgent"
    session.flush()
    assert recovery.hand_back_silent(session, later) == 1
    assert releases.release(session, later) == [job]


def test_jobs_that_a_living_worker_holds_are_not_lost(
    session: Session, released: list[Job], now: datetime
) -> None:
    alive = make_worker(session, now, "alive")
    for job in released:
        hold(session, job, "alive", now)
    for seconds in (5, 30, 50):
        alive.seen_at = now + (seconds + 1) * SECOND - recovery.ALIVE_WITHIN
        session.flush()
        assert recovery.release_lost(session, True, True, now + seconds * SECOND) == 0
    assert releases.release(session, now + 50 * SECOND) == []


def test_jobs_whose_worker_was_not_seen_for_some_seconds_are_lost(
    session: Session, released: list[Job], now: datetime
) -> None:
    later = now + 2 * LOST
    make_worker(session, later, "another")
    make_worker(session, later - recovery.ALIVE_WITHIN, "silent")
    for job, holder in zip(released, ("silent", "gone"), strict=True):
        hold(session, job, holder, now)
    assert recovery.release_lost(session, True, True, later) == 2
    assert releases.release(session, later) == released


def test_rows_that_are_claimed_or_that_no_job_names_are_no_lost_jobs(
    session: Session, campaign: Campaign, rows: list[Claimed], now: datetime
) -> None:
    batches.record(session, [Outcome(rows[0].id, rows[0].claim, Status.PENDING)], now)
    app = session.get_one(App, campaign.app_id)
    make_message(session, app, due_at=now)
    claimed = make_message(session, app, due_at=now, released_at=now)
    assert batches.claim(session, Job(app.id, "utility", message_ids=(claimed.id,)), 1, "gone", now)
    job = Job(campaign.app_id, campaign.lane, batch_id=session.scalars(select(Batch.id)).one())
    batches.finish(session, [job], now)
    assert recovery.release_lost(session, True, True, now + LOST) == 0
    assert true_counts(session, campaign) == {"sending": 5, "pending": 1}


def test_a_job_that_comes_late_beside_its_second_naming_sends_no_row_twice(
    session: Session, campaign: Campaign, released: list[Job], now: datetime
) -> None:
    _, job = released
    assert job.batch_id is not None
    later = now + LOST
    make_worker(session, later, "second")
    assert recovery.release_lost(session, True, True, later) == 2
    # Between the look and the naming it waits for that.
    assert batches.take(session, [job.batch_id], "first", later).get(job.batch_id) is None
    assert releases.release(session, later) == released
    hold(session, job, "first", later)
    hold(session, job, "second", later)
    rows = batches.claim(session, job, 2, "first", later)
    rows += batches.claim(session, job, 3, "second", later)
    rows += batches.claim(session, job, 9, "first", later)
    assert [row.claim for row in rows] == [1] * 6
    assert len({row.id for row in rows}) == 6
    # The first one dies, and only what it had claimed goes back.
    assert recovery.settle_dead_worker(session, "first", {}, [], later)["pending"] == 3
    assert true_counts(session, campaign) == {"sending": 3, "pending": 3}


def test_of_single_messages_only_what_a_dead_worker_held_is_named_again(
    session: Session, campaign: Campaign, now: datetime
) -> None:
    campaign.state = "paused"
    app = session.get_one(App, campaign.app_id)
    names = ("dead", "alive", "nobody", "claimed", "since")
    ids = {name: make_message(session, app, due_at=now).id for name in names}
    releases.release(session, now)
    batches.take_messages(session, app.id, [ids["dead"], ids["claimed"], ids["since"]], "dead")
    batches.take_messages(session, app.id, [ids["alive"]], "alive")
    # One of them is being sent by another worker, and one was named anew since the dead one had it.
    assert batches.claim(session, Job(app.id, "utility", message_ids=(ids["claimed"],)), 1, "alive", now)
    batches.hand_back(session, [], [ids["since"]])
    assert releases.release(session, now) == [Job(app.id, "utility", message_ids=(ids["since"],))]

    done = recovery.settle_dead_worker(session, "dead", {}, [], now)
    assert set(done.values()) == {0}
    assert releases.release(session, now) == [Job(app.id, "utility", message_ids=(ids["dead"],))]
    assert row_of(session, ids["claimed"]).status == Status.SENDING


# -- a machine that stopped -------------------------------------------------------------------------------


def test_without_a_whole_journal_nothing_that_was_claimed_is_sent_again(
    session: Session, campaign: Campaign, batch: Batch, rows: list[Claimed], now: datetime
) -> None:
    make_worker(session, now, "dead")
    started = {row.id: row.claim for row in rows[:3]}
    answers = [accepted(rows[0])]
    done = recovery.settle_dead_worker(session, "dead", started, answers, now, whole=False)
    assert done == {"recorded": 1, "unknown": 5, "pending": 0, "failed": 0, "batches": 1}
    assert true_counts(session, campaign) == {"accepted": 1, "unknown": 5}
    asked, unasked = row_of(session, rows[1].id), row_of(session, rows[5].id)
    assert asked.code == unasked.code == recovery.NO_ANSWER_RECORDED
    assert asked.reason == "the worker died while the request was under way"
    assert "may lack the last requests" in str(unasked.reason)
    assert unasked.settled_at == now
    assert session.scalars(select(Worker)).all() == []
    # What it had not claimed is handed back all the same, and nothing else is left to claim.
    assert session.get_one(Batch, batch.id, populate_existing=True).state == "waiting"
    (job,) = releases.release(session, now)
    assert batches.claim(session, job, 10, "next", now) == []


def test_settling_it_again_returns_nothing_of_what_became_unknown(
    session: Session, campaign: Campaign, rows: list[Claimed], now: datetime
) -> None:
    started, answers = {rows[1].id: 1}, [accepted(rows[0])]
    recovery.settle_dead_worker(session, "dead", started, answers, now, whole=False)
    for whole in (False, True):
        again = recovery.settle_dead_worker(session, "dead", started, answers, now + SECOND, whole=whole)
        assert set(again.values()) == {0}
    assert true_counts(session, campaign) == {"accepted": 1, "unknown": 5}


def test_an_answer_of_a_journal_that_is_not_whole_counts_also_after_the_lease(
    session: Session, campaign: Campaign, rows: list[Claimed], now: datetime
) -> None:
    recovery.expire_leases(session, now + recovery.LEASE + SECOND)
    done = recovery.settle_dead_worker(session, "dead", {}, [accepted(rows[0])], now, whole=False)
    assert (done["recorded"], done["pending"]) == (1, 0)
    assert true_counts(session, campaign) == {"accepted": 1, "unknown": 5}


def test_jobs_that_a_stopped_machine_held_are_named_again(
    session: Session, released: list[Job], now: datetime
) -> None:
    for job in released:
        hold(session, job, "dead", now)
    done = recovery.settle_dead_worker(session, "dead", {}, [], now, whole=False)
    assert done == {"recorded": 0, "unknown": 0, "pending": 0, "failed": 0, "batches": 1}
    assert releases.release(session, now) == released


# -- heartbeats -------------------------------------------------------------------------------------------


def test_a_worker_holds_on_to_the_batches_in_its_hands_and_to_no_other(
    session: Session, now: datetime
) -> None:
    app = make_app(session)
    mine, dropped, others, done = (
        make_batch(session, make_campaign(session, app, 1, name=name), held_at=now, **columns)
        for name, columns in {
            "mine": {"holder": "w"},
            "dropped": {"holder": "w"},
            "others": {"holder": "other"},
            "done": {"holder": "w", "state": "done"},
        }.items()
    )
    later = now + 30 * SECOND
    batches.hold_on(session, "w", [mine.id, others.id, done.id, 999_999], later)
    batches.hold_on(session, "w", [], later + SECOND)
    session.expire_all()
    assert [one.held_at for one in (mine, dropped, others, done)] == [later, now, now, now]
    # Its worker lives, and yet nobody works at it: it is given to another.
    assert recovery.hand_back_silent(session, now + batches.SILENT_AFTER + SECOND) == 2
    session.expire_all()
    assert (mine.state, dropped.state, dropped.holder) == ("released", "waiting", None)


# -- a database's clock that is set back ------------------------------------------------------------------

HOUR = timedelta(hours=1)


def noticed(session: Session, was: datetime, now: datetime) -> bool:
    """Whether the second of two looks, at these instants of the database's clock, finds it set back."""
    assert not recovery.notice_clock_set_back(session, was)
    return recovery.notice_clock_set_back(session, now)


def test_a_clock_that_goes_on_or_jumps_ahead_or_wavers_changes_nothing(
    session: Session, released: list[Job], now: datetime
) -> None:
    single, _ = released
    later = make_message(session, session.get_one(App, single.app_id), due_at=now + SECOND)
    assert len(batches.claim(session, single, 1, "w", now + SECOND)) == 1
    looks = (0, 2, 2, 3600, 3602, 3602 - recovery.CLOCK_SLACK.total_seconds(), 3602)
    assert not any(recovery.notice_clock_set_back(session, now + n * SECOND) for n in looks)
    session.expire_all()
    assert later.due_at == now + SECOND
    assert row_of(session, single.message_ids[0]).claimed_at == now + SECOND
    assert session.scalars(select(Batch.released_at)).one() == now


def test_a_step_back_is_noticed_once(session: Session, now: datetime) -> None:
    assert noticed(session, now, now - HOUR)
    assert not recovery.notice_clock_set_back(session, now - HOUR)
    assert not recovery.notice_clock_set_back(session, now - HOUR + 2 * SECOND)
    assert recovery.notice_clock_set_back(session, now - 3 * HOUR)


def test_the_first_look_ever_has_nothing_to_compare_with(session: Session, now: datetime) -> None:
    session.execute(text("DELETE FROM installation"))
    assert not recovery.notice_clock_set_back(session, now)


def test_what_was_due_before_the_clock_was_set_back_is_due(
    session: Session, campaign: Campaign, now: datetime
) -> None:
    app = session.get_one(App, campaign.app_id)
    long_ago, just_now = (make_message(session, app, due_at=now - n * HOUR) for n in (2, 0))
    scheduled = make_message(session, app, due_at=now + 5 * HOUR)
    accepted_one = make_message(session, app, due_at=now, status=Status.ACCEPTED)
    assert noticed(session, now, now - HOUR)
    session.expire_all()
    assert [one.due_at for one in (long_ago, just_now)] == [now - 2 * HOUR, now - HOUR]
    assert (scheduled.due_at, accepted_one.due_at) == (now + 5 * HOUR, now)
    assert {
        row.id
        for row in batches.claim(
            session,
            Job(app.id, "utility", message_ids=(long_ago.id, just_now.id, scheduled.id)),
            9,
            "w",
            now - HOUR,
        )
    } == {long_ago.id, just_now.id}


def test_jobs_that_were_lost_before_the_clock_was_set_back_are_found(
    session: Session, released: list[Job], now: datetime
) -> None:
    before = now - HOUR
    assert noticed(session, now + SECOND, before)
    assert recovery.release_lost(session, True, True, before + recovery.LOST_AFTER) == 0
    assert recovery.release_lost(session, True, True, before + LOST) == 2
    assert releases.release(session, before + LOST) == released


def test_a_silent_batch_of_a_worker_that_died_before_the_clock_was_set_back_is_found(
    session: Session, released: list[Job], now: datetime
) -> None:
    hold(session, released[1], "w", now + SECOND)
    make_worker(session, now + SECOND, "w")
    before = now - HOUR
    assert noticed(session, now + SECOND, before)
    assert session.scalars(select(Worker.seen_at)).one() == before
    assert recovery.hand_back_silent(session, before + batches.SILENT_AFTER) == 0
    # The single message is in nobody's hands; the batch is as long as its worker is counted on.
    assert recovery.release_lost(session, True, True, before + LOST) == 1
    assert recovery.release_lost(session, True, True, before + recovery.ALIVE_WITHIN + SECOND) == 1


def test_a_lease_ends_in_its_time_although_the_clock_was_set_back(
    session: Session, campaign: Campaign, rows: list[Claimed], now: datetime
) -> None:
    before = now - HOUR
    assert noticed(session, now, before)
    assert recovery.expire_leases(session, before + recovery.LEASE) == 0
    assert recovery.expire_leases(session, before + recovery.LEASE + SECOND) == 6
    assert true_counts(session, campaign) == {"unknown": 6}


def test_what_happened_between_the_last_look_and_the_step_back_heals_as_soon(
    session: Session, campaign: Campaign, rows: list[Claimed], now: datetime
) -> None:
    """The look comes every two seconds: a step falls between two of them, and the work goes on until it."""
    app, step = session.get_one(App, campaign.app_id), now + 1.9 * SECOND
    make_worker(session, step, "host was lost")
    new = make_message(session, app, due_at=step)
    lost = make_message(session, app, due_at=now, released_at=step)
    batches.record(session, [Outcome(rows[0].id, rows[0].claim, Status.PENDING)], step)
    session.execute(
        text("UPDATE messages SET due_at = :step WHERE id = :id"), {"step": step, "id": rows[0].id}
    )
    session.execute(text("UPDATE messages SET claimed_at = :step WHERE status = 'sending'"), {"step": step})
    session.execute(text("UPDATE batches SET released_at = :step, held_at = :step"), {"step": step})
    before = now - HOUR
    assert noticed(session, now, before)
    within = before + 5 * SECOND
    session.expire_all()
    assert new.due_at <= within
    assert row_of(session, rows[0].id).due_at <= within
    assert lost.released_at <= within
    assert max(session.scalars(select(Message.claimed_at).where(Message.status == "sending"))) <= within
    assert session.scalars(select(Worker.seen_at)).one() <= within
    for released_at, held_at in session.execute(select(Batch.released_at, Batch.held_at)):
        assert (released_at <= within, held_at <= within) == (True, True)


def test_a_stop_is_tried_in_its_time_although_the_clock_was_set_back(
    session: Session, campaign: Campaign, now: datetime
) -> None:
    stop = make_stop(session, session.get_one(App, campaign.app_id), code="1003")
    stop.message_id, stop.probe_at = 1, now + 300 * SECOND
    session.flush()
    before = now - HOUR
    assert noticed(session, now, before)
    session.refresh(stop)
    assert before + 295 * SECOND <= stop.probe_at <= before + 305 * SECOND


def test_a_retry_waits_for_the_rest_of_its_back_off_although_the_clock_was_set_back(
    session: Session, campaign: Campaign, rows: list[Claimed], now: datetime
) -> None:
    refused = Outcome(
        rows[0].id, rows[0].claim, Status.PENDING, spent=True, verdict="retry", code="500", delay_seconds=8
    )
    batches.record(session, [refused], now)
    before = now - HOUR
    assert noticed(session, now, before)
    due_at = row_of(session, rows[0].id).due_at
    assert due_at is not None
    assert before + 3 * SECOND <= due_at <= before + 13 * SECOND
