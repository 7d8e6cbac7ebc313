"""What is put right after a death, a lost host, a silent job and an emptied Redis."""

from datetime import datetime, timedelta

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from disparo import batches, counters, recovery
from disparo.batches import Claimed, Job, Outcome
from disparo.models import App, Batch, Campaign, Message, SendError, Worker
from disparo.statuses import Status
from tests.factories.app import make_app
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
    job = batches.take(session, batch.id, "dead", now)
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
    (job,) = batches.release(session, now)
    assert job.batch_id is not None
    assert recovery.hand_back_silent(session, now + batches.SILENT_AFTER) == 0
    batches.take(session, job.batch_id, "w", now + 50 * SECOND)
    assert recovery.hand_back_silent(session, now + batches.SILENT_AFTER + SECOND) == 0
    batches.hold_on(session, "another", now + 109 * SECOND)
    batches.hold_on(session, "w", now + 100 * SECOND)
    assert recovery.hand_back_silent(session, now + 160 * SECOND) == 0
    assert recovery.hand_back_silent(session, now + 161 * SECOND) == 1
    (again,) = batches.release(session, now + 161 * SECOND)
    assert again == job
    assert len(batches.claim(session, job, 10, "w", now + 161 * SECOND)) == 6


def test_everything_named_is_named_again_after_redis_was_emptied(
    session: Session, campaign: Campaign, now: datetime
) -> None:
    make_message(session, session.get_one(App, campaign.app_id), due_at=now)
    jobs = batches.release(session, now)
    assert sum(job.size for job in jobs) == 7
    assert batches.release(session, now) == []
    assert recovery.release_everything_again(session) == len(jobs)
    assert batches.release(session, now) == jobs
