"""What is released, claimed, recorded and handed back, on a real PostgreSQL."""

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from threading import Barrier

import pytest
from sqlalchemy import Engine, select, text, update
from sqlalchemy.orm import Session

from disparo import batches, counters, pix, recovery, releases, reminders
from disparo.batches import Claimed, Job, Outcome
from disparo.models import App, Batch, Campaign, Message, SendError
from disparo.statuses import Lane, Status, Verdict
from tests.factories.app import lift_stops, make_app, make_stop
from tests.factories.campaign import make_batch, make_campaign, recount
from tests.factories.charge import make_charge
from tests.factories.installation import make_worker
from tests.factories.message import make_message
from tests.factories.portfolio import make_portfolio
from tests.factories.reminder import make_reminder
from tests.factories.suppression import make_suppression

SECOND = timedelta(seconds=1)


def job_of(batch: Batch) -> Job:
    return Job(batch.app_id, Lane.MARKETING, batch_id=batch.id, size=batch.size)


def accepted(row: Claimed) -> Outcome:
    return Outcome(row.id, row.claim, Status.ACCEPTED, spent=True, verdict="accepted", gs_id=f"gs-{row.id}")


def states(session: Session) -> dict[int, str]:
    return dict(session.execute(select(Message.id, Message.status)).all())


def row_of(session: Session, message_id: int) -> Message:
    return session.get_one(Message, message_id, populate_existing=True)


# -- claim ------------------------------------------------------------------------------------------------


def test_eight_claimers_of_one_batch_get_each_row_once(engine: Engine, now: datetime) -> None:
    with Session(engine, expire_on_commit=False) as session:
        campaign = make_campaign(session, make_app(session), 400)
        job = job_of(make_batch(session, campaign))
        session.commit()
    start = Barrier(8)

    def claim_all(n: int) -> list[tuple[int, int]]:
        mine: list[tuple[int, int]] = []
        start.wait(30)
        empty = 0
        # A look that meets only rows which others are just claiming finds nothing, so look again.
        while empty < 3:
            with Session(engine) as session, session.begin():
                rows = batches.claim(session, job, 7, f"worker-{n}", now)
            mine += [(row.id, row.claim) for row in rows]
            empty = 0 if rows else empty + 1
        return mine

    with ThreadPoolExecutor(8) as threads:
        shares = list(threads.map(claim_all, range(8)))
    claimed = [row for share in shares for row in share]
    assert len(claimed) == len(set(claimed)) == 400
    assert {claim for _, claim in claimed} == {1}
    with Session(engine, expire_on_commit=False) as session:
        for n, share in enumerate(shares):
            owned = session.scalars(select(Message.id).where(Message.claimed_by == f"worker-{n}"))
            assert set(owned) == {message_id for message_id, _ in share}
        assert counters.counts(session, [campaign.id])[campaign.id] == recount(session, campaign)


def test_batches_of_many_apps_are_claimed_in_one_statement_each_up_to_its_own_limit(
    session: Session, now: datetime
) -> None:
    apps = [make_app(session, f"app-{n}") for n in range(4)]
    campaigns = [make_campaign(session, app, 6, name=app.name) for app in apps]
    jobs = [job_of(make_batch(session, campaign)) for campaign in campaigns]
    ids = [
        list(session.scalars(select(Message.id).where(Message.app_id == app.id).order_by(Message.id)))
        for app in apps
    ]
    first = session.get_one(Message, ids[0][0])
    make_suppression(session, first.recipient_key, app=apps[0])
    make_portfolio(session, apps[2], limit=100)
    make_stop(session, apps[3])
    found = batches.claim_batches(
        session, [(job, n) for job, n in zip(jobs, (3, 9, 2, 5), strict=True)], "w", now
    )
    # Another row is claimed for the one that is passed over; who has a daily budget is claimed alone.
    assert [rows and [row.id for row in rows] for rows in found] == [ids[0][1:4], ids[1], None, []]
    assert row_of(session, first.id).status == Status.SUPPRESSED
    assert [row.id for row in batches.claim(session, jobs[2], 2, "w", now, limited=True)] == ids[2][:2]
    of_each = counters.counts(session, [campaign.id for campaign in campaigns])
    assert of_each == {campaign.id: recount(session, campaign) for campaign in campaigns}


def test_a_claim_takes_rows_in_the_order_of_the_file_up_to_its_limit(session: Session, now: datetime) -> None:
    job = job_of(make_batch(session, make_campaign(session, make_app(session), 5)))
    first = batches.claim(session, job, 3, "w", now)
    second = batches.claim(session, job, 3, "w", now)
    assert [row.recipient[-1] for row in first + second] == ["0", "1", "2", "3", "4"]
    assert [len(first), len(second)] == [3, 2]
    assert batches.claim(session, job, 3, "w", now) == []


def test_a_claim_carries_what_is_needed_to_send(session: Session, now: datetime) -> None:
    app = make_app(session)
    campaign = make_campaign(session, app, 1, template="oferta/pt_BR")
    row = batches.claim(session, job_of(make_batch(session, campaign)), 1, "w", now)[0]
    assert (row.app_id, row.campaign_id, row.template, row.claim) == (app.id, campaign.id, "oferta/pt_BR", 1)
    assert (row.params, row.content) == ('{"nome": "Cliente 0"}', None)
    stored = row_of(session, row.id)
    assert (stored.status, stored.claimed_by, stored.claimed_at) == (Status.SENDING, "w", now)


def test_rows_that_are_not_due_or_too_late_are_not_claimed(session: Session, now: datetime) -> None:
    app = make_app(session)
    due = make_message(session, app, due_at=now)
    later = make_message(session, app, due_at=now + SECOND)
    too_late = make_message(session, app, due_at=now - SECOND, not_after=now)
    in_time = make_message(session, app, due_at=now, not_after=now + SECOND)
    ids = tuple(message.id for message in (due, later, too_late, in_time))
    rows = batches.claim(session, Job(app.id, Lane.UTILITY, message_ids=ids), 10, "w", now)
    assert [row.id for row in rows] == [due.id, in_time.id]


def test_a_job_of_one_app_claims_no_row_of_another(session: Session, now: datetime) -> None:
    mine, other = make_app(session, "loja"), make_app(session, "outra")
    ids = (make_message(session, mine, due_at=now).id, make_message(session, other, due_at=now).id)
    rows = batches.claim(session, Job(mine.id, Lane.UTILITY, message_ids=ids), 10, "w", now)
    assert [row.id for row in rows] == [ids[0]]


def test_a_claim_that_was_not_committed_is_nobodys(engine: Engine, now: datetime) -> None:
    with Session(engine, expire_on_commit=False) as session:
        job = job_of(make_batch(session, make_campaign(session, make_app(session), 3)))
        session.commit()
        assert len(batches.claim(session, job, 3, "dies", now)) == 3
        session.rollback()
        assert [row.claim for row in batches.claim(session, job, 3, "w", now)] == [1, 1, 1]


def test_a_batch_is_not_done_while_another_workers_claim_of_it_is_open(engine: Engine, now: datetime) -> None:
    with Session(engine, expire_on_commit=False) as session:
        batch = make_batch(session, make_campaign(session, make_app(session), 3))
        job = job_of(batch)
        session.commit()
        batches.claim(session, job, 2, "dies", now)
        with Session(engine) as other:
            # Only what the first one has not locked; the claim that comes short ends the job there.
            rows = other.execute(
                text("SELECT id FROM messages WHERE status = 'pending' FOR UPDATE SKIP LOCKED")
            ).all()
            assert len(rows) == 1
        session.rollback()
        batches.finish(session, [job], now)
        assert session.get_one(Batch, batch.id, populate_existing=True).state == "waiting"


# -- stops ------------------------------------------------------------------------------------------------


def stop_app(session: Session, app: App, campaign: Campaign) -> None:
    make_stop(session, app)


def stop_lane(session: Session, app: App, campaign: Campaign) -> None:
    make_stop(session, app, scope="lane", key=Lane.MARKETING)


def stop_template(session: Session, app: App, campaign: Campaign) -> None:
    make_stop(session, app, scope="template", key="oferta/pt_BR")


def pause_campaign(session: Session, app: App, campaign: Campaign) -> None:
    campaign.state = "paused"
    session.flush()


STOPS: list[Callable[[Session, App, Campaign], None]] = [stop_app, stop_lane, stop_template, pause_campaign]


@pytest.mark.parametrize("stop", STOPS)
def test_nothing_under_a_stop_is_released_and_everything_after_it(
    session: Session, now: datetime, stop: Callable[[Session, App, Campaign], None]
) -> None:
    app = make_app(session)
    campaign = make_campaign(session, app, 5, template="oferta/pt_BR")
    make_message(
        session, app, lane=Lane.MARKETING, campaign_id=campaign.id, template="oferta/pt_BR", due_at=now
    )
    stop(session, app, campaign)
    assert releases.release(session, now) == []
    lift_stops(session, app)
    campaign.state = "running"
    session.flush()
    assert sum(job.size for job in releases.release(session, now)) == 6


@pytest.mark.parametrize("stop", STOPS)
def test_a_stop_after_the_release_leaves_nothing_to_claim_and_loses_nothing(
    session: Session, now: datetime, stop: Callable[[Session, App, Campaign], None]
) -> None:
    app = make_app(session)
    campaign = make_campaign(session, app, 5, template="oferta/pt_BR")
    make_message(
        session, app, lane=Lane.MARKETING, campaign_id=campaign.id, template="oferta/pt_BR", due_at=now
    )
    jobs = releases.release(session, now)
    stop(session, app, campaign)
    for job in jobs:
        if job.batch_id is not None:
            assert batches.take(session, [job.batch_id], "w", now).get(job.batch_id) is not None
        assert batches.claim(session, job, 10, "w", now) == []
        batches.finish(session, [job], now)
    assert releases.release(session, now) == []
    lift_stops(session, app)
    campaign.state = "running"
    session.flush()
    again = releases.release(session, now)
    assert sorted(job.size for job in again) == sorted(job.size for job in jobs)
    assert sum(len(batches.claim(session, job, 10, "w", now)) for job in again) == 6


@pytest.mark.parametrize(("scope", "key"), [("lane", Lane.UTILITY), ("template", "outra/pt_BR")])
def test_a_stop_of_another_lane_or_template_holds_nobody_else(
    session: Session, now: datetime, scope: str, key: str
) -> None:
    app = make_app(session)
    campaign = make_campaign(session, app, 3, template="oferta/pt_BR")
    make_stop(session, app, scope=scope, key=key)
    (job,) = releases.release(session, now)
    assert len(batches.claim(session, job, 10, "w", now)) == 3
    assert campaign.lane == Lane.MARKETING


# -- jobs --------------------------------------------------------------------------------------------------


def test_a_job_that_comes_twice_finds_nothing_to_take_once_it_is_done(
    session: Session, now: datetime
) -> None:
    campaign = make_campaign(session, make_app(session), 2)
    (job,) = releases.release(session, now)
    assert job.batch_id is not None
    assert batches.take(session, [job.batch_id], "a", now).get(job.batch_id) == job
    assert batches.take(session, [job.batch_id], "b", now).get(job.batch_id) == job
    assert len(batches.claim(session, job, 10, "a", now)) == 2
    assert batches.claim(session, job, 10, "b", now) == []
    batches.finish(session, [job], now)
    assert batches.take(session, [job.batch_id], "a", now).get(job.batch_id) is None
    assert batches.take(session, [999_999], "a", now).get(999_999) is None
    assert recount(session, campaign)["sending"] == 2


def test_a_row_that_was_put_back_is_due_by_itself_though_its_batch_is_done(
    session: Session, now: datetime
) -> None:
    app = make_app(session)
    campaign = make_campaign(session, app, 1)
    (job,) = releases.release(session, now)
    (row,) = batches.claim(session, job, 5, "w", now)
    batches.finish(session, [job], now)
    batches.record(session, [Outcome(row.id, row.claim, Status.PENDING)], now)
    assert row_of(session, row.id).attempts == 0
    again = Job(app.id, campaign.lane, message_ids=(row.id,), campaign_id=campaign.id)
    assert releases.release(session, now) == [again]


def test_what_is_handed_back_is_named_by_the_next_release(session: Session, now: datetime) -> None:
    app = make_app(session)
    make_campaign(session, app, 4)
    make_message(session, app, due_at=now)
    jobs = releases.release(session, now)
    assert len(jobs) == 2
    assert releases.release(session, now) == []
    batches.hand_back(
        session,
        [job.batch_id for job in jobs if job.batch_id is not None],
        [message_id for job in jobs for message_id in job.message_ids],
    )
    assert releases.release(session, now) == jobs


# -- single messages in a worker's hands ------------------------------------------------------------------


def test_a_worker_holds_the_single_messages_that_wait_and_learns_their_most_urgent_lane(
    session: Session, now: datetime
) -> None:
    app = make_app(session)
    held = [
        make_message(session, app, lane=lane, due_at=now)
        for lane in (Lane.MARKETING, Lane.PAYMENT, Lane.UTILITY)
    ]
    cancelled = make_message(session, app, due_at=now, status=Status.CANCELLED)
    sending = make_message(session, app, due_at=now, status=Status.SENDING, claimed_by="other", claims=1)
    settled = [cancelled.id, sending.id]
    ids = [*settled, *(message.id for message in held)]
    assert batches.take_messages(session, app.id, ids, "w") == Job(
        app.id, Lane.PAYMENT, None, tuple(ids), len(ids)
    )
    assert batches.take_messages(session, app.id, [held[0].id, held[2].id], "w").lane == Lane.UTILITY
    assert [row_of(session, message.id).claimed_by for message in held] == ["w", "w", "w"]
    assert [row_of(session, message_id).claimed_by for message_id in settled] == [None, "other"]
    # Nobody waits for these, so there is no work.
    assert batches.take_messages(session, app.id, [*settled, 999_999], "w") is None
    assert batches.take_messages(session, app.id, [], "w") is None


def test_a_row_that_is_just_being_claimed_stays_the_claimers(engine: Engine, now: datetime) -> None:
    with Session(engine, expire_on_commit=False) as session:
        app = make_app(session)
        ids = tuple(make_message(session, app, due_at=now).id for _ in range(2))
        app_id = app.id
        session.commit()
        job = Job(app.id, Lane.UTILITY, message_ids=ids)
        (row,) = batches.claim(session, job, 1, "claimer", now)

        def take() -> Job | None:
            with Session(engine) as other, other.begin():
                return batches.take_messages(other, app_id, ids, "taker")

        with ThreadPoolExecutor(1) as threads:
            taking = threads.submit(take)
            until_someone_waits_for_a_lock(engine)
            session.commit()
            assert taking.result(30) == Job(app_id, Lane.UTILITY, message_ids=ids, size=2)
        assert [row_of(session, message_id).claimed_by for message_id in ids] == ["claimer", "taker"]
        assert batches.claimed_by(session, "claimer") == [(app.id, row.id, row.claim)]


def until_someone_waits_for_a_lock(engine: Engine) -> None:
    deadline = time.monotonic() + 30
    waiting = text("""
        SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'""")
    while True:
        with engine.connect() as connection:
            if connection.execute(waiting).first():
                return
        assert time.monotonic() < deadline, "nobody waits"
        time.sleep(0.01)


def test_a_single_message_that_is_named_anew_is_in_nobodys_hands(session: Session, now: datetime) -> None:
    app = make_app(session)
    message = make_message(session, app, due_at=now)
    (job,) = releases.release(session, now)
    batches.take_messages(session, job.app_id, job.message_ids, "w")
    later = now + batches.SILENT_AFTER
    make_worker(session, later)
    assert releases.release(session, later) == [job]
    row = row_of(session, message.id)
    assert (row.claimed_by, row.released_at) == (None, later)


def test_a_worker_finds_by_the_table_what_it_has_claimed(session: Session, now: datetime) -> None:
    app, other = make_app(session), make_app(session, "outra")
    mine = make_campaign(session, app, 4)
    rows = batches.claim(session, job_of(make_batch(session, mine)), 3, "w", now)
    batches.record(session, [accepted(rows[0]), Outcome(rows[1].id, rows[1].claim, Status.PENDING)], now)
    again = Job(app.id, Lane.MARKETING, message_ids=(rows[1].id,))
    (second,) = batches.claim(session, again, 1, "w", now)
    # Held and not claimed; another app's; another worker's.
    batches.take_messages(session, app.id, [rows[0].id + 3], "w")
    ids = {}
    for owner, its in (("w", other), ("v", app)):
        ids[owner] = make_message(session, its, due_at=now).id
        job = Job(its.id, Lane.UTILITY, message_ids=(ids[owner],))
        assert len(batches.claim(session, job, 1, owner, now)) == 1
    expected = [(app.id, second.id, 2), (app.id, rows[2].id, 1), (other.id, ids["w"], 1)]
    assert sorted(batches.claimed_by(session, "w")) == expected
    assert batches.claimed_by(session, "nobody") == []


def test_a_worker_learns_of_whom_a_job_is_and_how_much_it_may_have(session: Session, now: datetime) -> None:
    app = make_app(session)
    campaign = make_campaign(session, app, 2, weight=5, max_per_second=2.5)
    of_campaign = {"campaign_id": campaign.id, "weight": 5, "max_per_second": 2.5}
    (job,) = releases.release(session, now)
    assert job == Job(app.id, campaign.lane, batch_id=job.batch_id, size=2, **of_campaign)
    assert job.batch_id is not None
    assert batches.take(session, [job.batch_id], "w", now).get(job.batch_id) == job
    first, second = batches.claim(session, job, 2, "w", now)
    batches.record(session, [Outcome(row.id, row.claim, Status.PENDING) for row in (first, second)], now)
    single = make_message(session, app, lane=campaign.lane, due_at=now)
    retries, alone = sorted(releases.release(session, now), key=lambda job: job.message_ids)
    assert retries == Job(app.id, campaign.lane, message_ids=(first.id, second.id), size=2, **of_campaign), (
        "of several campaigns, or of none, there are several jobs"
    )
    assert alone == Job(app.id, campaign.lane, message_ids=(single.id,))
    for one in (retries, alone):
        assert batches.take_messages(session, app.id, one.message_ids, "w") == one
    # As a scheduler of before named them.
    ids = (first.id, single.id)
    mixed = Job(app.id, campaign.lane, message_ids=ids, size=2)
    assert batches.take_messages(session, app.id, ids, "w") == mixed


# -- record -----------------------------------------------------------------------------------------------


@pytest.fixture
def claimed(session: Session, now: datetime) -> Claimed:
    """One claimed row of a campaign."""
    campaign = make_campaign(session, make_app(session), 1)
    (row,) = batches.claim(session, job_of(make_batch(session, campaign)), 1, "w", now)
    return row


def counted(session: Session, campaign_id: int | None) -> dict[str, int]:
    assert campaign_id is not None
    found = counters.counts(session, [campaign_id])[campaign_id]
    assert found == recount(session, session.get_one(Campaign, campaign_id))
    return {status: n for status, n in found.items() if n}


def test_an_outcome_that_is_recorded_twice_counts_once(
    session: Session, claimed: Claimed, now: datetime
) -> None:
    assert batches.record(session, [accepted(claimed)], now) == 1
    again = batches.record(session, [replace(accepted(claimed), gs_id="other")], now + SECOND)
    assert again == 0
    row = row_of(session, claimed.id)
    assert (row.status, row.gs_id, row.attempts, row.accepted_at) == (
        Status.ACCEPTED,
        f"gs-{row.id}",
        1,
        now,
    )
    assert counted(session, row.campaign_id) == {"accepted": 1}


def test_of_two_outcomes_of_one_claim_in_a_group_the_first_counts(
    session: Session, claimed: Claimed, now: datetime
) -> None:
    unknown = Outcome(
        claimed.id, claimed.claim, Status.UNKNOWN, spent=True, verdict="unknown", code="internal"
    )
    batches.record(session, [accepted(claimed), unknown], now)
    row = row_of(session, claimed.id)
    assert (row.status, row.attempts) == (Status.ACCEPTED, 1)
    assert counted(session, row.campaign_id) == {"accepted": 1}
    assert session.scalars(select(SendError)).all() == []


def test_two_recorders_of_one_outcome_count_it_once(engine: Engine, now: datetime) -> None:
    with Session(engine, expire_on_commit=False) as session:
        campaign = make_campaign(session, make_app(session), 50)
        rows = batches.claim(session, job_of(make_batch(session, campaign)), 50, "w", now)
        session.commit()
    start = Barrier(4)

    def record(_: int) -> int:
        start.wait(30)
        with Session(engine) as session, session.begin():
            return batches.record(session, [accepted(row) for row in rows], now)

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(record, range(4))) == 50
    with Session(engine, expire_on_commit=False) as session:
        assert counted(session, campaign.id) == {"accepted": 50}


def test_an_id_of_a_new_attempt_leaves_nothing_of_an_earlier_one_but_its_record(
    session: Session, claimed: Claimed, now: datetime
) -> None:
    batches.record(session, [accepted(claimed)], now)
    row = row_of(session, claimed.id)
    row.status, row.due_at, row.code = Status.PENDING, now, "131000"
    row.wamid, row.enqueued_at, row.sent_at = "wamid-1", now, now
    session.flush()
    later = now + timedelta(minutes=1)
    job = Job(claimed.app_id, claimed.lane, message_ids=(claimed.id,))
    (second,) = batches.claim(session, job, 1, "w", later)
    answer = Outcome(second.id, 2, Status.ACCEPTED, spent=True, verdict="accepted", gs_id="gs-new")
    assert batches.record(session, [answer], later) == 1
    row = row_of(session, claimed.id)
    assert (row.gs_id, row.wamid, row.code) == ("gs-new", None, None)
    assert (row.accepted_at, row.enqueued_at, row.sent_at) == (later, None, None)
    kept = session.scalars(select(SendError).where(SendError.message_id == claimed.id)).one()
    assert (kept.attempt, kept.verdict, kept.gs_id, kept.wamid) == (
        1, "accepted", f"gs-{claimed.id}", "wamid-1"
    )  # fmt: skip


def test_an_outcome_of_an_older_claim_changes_nothing(
    session: Session, claimed: Claimed, now: datetime
) -> None:
    retry = Outcome(claimed.id, 1, Status.PENDING, spent=True, verdict="retry", code="500", delay_seconds=0)
    batches.record(session, [retry], now)
    job = Job(claimed.app_id, claimed.lane, message_ids=(claimed.id,))
    (second,) = batches.claim(session, job, 1, "w", now)
    assert (second.claim, second.tries) == (2, 1)
    assert batches.record(session, [accepted(claimed)], now) == 0
    assert row_of(session, claimed.id).status == Status.SENDING


@pytest.mark.parametrize("newest_first", [False, True])
def test_of_outcomes_of_two_claims_in_one_group_only_the_present_claims_counts(
    session: Session, claimed: Claimed, now: datetime, newest_first: bool
) -> None:
    retry = Outcome(claimed.id, 1, Status.PENDING, spent=True, verdict="retry", code="500")
    batches.record(session, [retry], now)
    job = Job(claimed.app_id, claimed.lane, message_ids=(claimed.id,))
    (second,) = batches.claim(session, job, 1, "w", now)
    # So stands it in the journal of a worker that died before it recorded the second one.
    group = [retry, accepted(second)]
    batches.record(session, group[::-1] if newest_first else group, now)
    row = row_of(session, claimed.id)
    assert (row.status, row.gs_id, row.attempts) == (Status.ACCEPTED, f"gs-{row.id}", 2)


def test_a_retry_spends_an_attempt_and_waits_and_a_throttle_only_waits(
    session: Session, claimed: Claimed, now: datetime
) -> None:
    throttled = Outcome(claimed.id, 1, Status.PENDING, verdict=Verdict.THROTTLE, code="429", delay_seconds=3)
    batches.record(session, [throttled], now)
    row = row_of(session, claimed.id)
    assert (row.attempts, row.due_at, row.code) == (0, now + 3 * SECOND, "429")
    job = Job(row.app_id, row.lane, message_ids=(row.id,))
    assert batches.claim(session, job, 1, "w", now + 2 * SECOND) == []
    (again,) = batches.claim(session, job, 1, "w", now + 3 * SECOND)
    refused = Outcome(
        row.id, again.claim, Status.PENDING, spent=True, verdict=Verdict.RETRY, code="500", reason="Oops"
    )
    batches.record(session, [replace(refused, delay_seconds=8)], now)
    row = row_of(session, claimed.id)
    assert (row.attempts, row.due_at, row.code, row.reason) == (1, now + 8 * SECOND, "500", "Oops")
    errors = session.scalars(select(SendError).order_by(SendError.id)).all()
    assert [(error.verdict, error.attempt, error.code) for error in errors] == [
        ("throttle", 0, "429"),
        ("retry", 1, "500"),
    ]


def test_a_row_that_is_put_back_keeps_what_its_last_attempt_came_to(
    session: Session, claimed: Claimed, now: datetime
) -> None:
    refused = Outcome(claimed.id, 1, Status.PENDING, spent=True, verdict="retry", code="500", reason="Oops")
    batches.record(session, [refused], now)
    job = Job(claimed.app_id, claimed.lane, message_ids=(claimed.id,))
    (again,) = batches.claim(session, job, 1, "w", now)
    batches.record(session, [Outcome(claimed.id, again.claim, Status.PENDING)], now)
    row = row_of(session, claimed.id)
    assert (row.status, row.code, row.reason, row.due_at) == (Status.PENDING, "500", "Oops", now)


def test_words_that_postgresql_cannot_keep_do_not_hold_the_group(session: Session, now: datetime) -> None:
    campaign = make_campaign(session, make_app(session), 2)
    good, bad = batches.claim(session, job_of(make_batch(session, campaign)), 2, "w", now)
    spoilt = Outcome(
        bad.id,
        bad.claim,
        Status.FAILED,
        spent=True,
        verdict="message_permanent",
        code="13\0",
        reason="a\0b\ud800c",
        gs_id="\0",
        wa_id="\udfff",
    )
    batches.record(session, [accepted(good), spoilt], now)
    row = row_of(session, bad.id)
    assert (row.status, row.code, row.reason, row.gs_id, row.wa_id) == (Status.FAILED, "13", "ab?c", "", "?")
    assert counted(session, campaign.id) == {"accepted": 1, "failed": 1}


def test_one_provider_id_for_two_messages_fails_neither(session: Session, now: datetime) -> None:
    campaign = make_campaign(session, make_app(session), 2)
    rows = batches.claim(session, job_of(make_batch(session, campaign)), 2, "w", now)
    batches.record(session, [replace(accepted(row), gs_id="same") for row in rows], now)
    assert counted(session, campaign.id) == {"accepted": 2}


def test_a_late_answer_of_a_row_whose_lease_expired_is_taken(
    session: Session, claimed: Claimed, now: datetime
) -> None:
    assert recovery.expire_leases(session, now + recovery.LEASE + SECOND) == 1
    row = row_of(session, claimed.id)
    assert (row.status, row.code) == (Status.UNKNOWN, recovery.LEASE_EXPIRED)
    batches.record(session, [accepted(claimed)], now)
    row = row_of(session, claimed.id)
    assert (row.status, row.code, row.reason, row.settled_at) == (Status.ACCEPTED, None, None, None)
    assert counted(session, row.campaign_id) == {"accepted": 1}


def test_a_row_put_back_after_its_lease_expired_waits_without_that_trace(
    session: Session, claimed: Claimed, now: datetime
) -> None:
    recovery.expire_leases(session, now + recovery.LEASE + SECOND)
    batches.record(session, [Outcome(claimed.id, claimed.claim, Status.PENDING)], now)
    row = row_of(session, claimed.id)
    assert (row.status, row.code, row.settled_at, row.due_at) == (Status.PENDING, None, None, now)


def test_an_unknown_answer_is_final_for_the_worker(session: Session, claimed: Claimed, now: datetime) -> None:
    unknown = Outcome(
        claimed.id, claimed.claim, Status.UNKNOWN, spent=True, verdict="unknown", code="deadline"
    )
    batches.record(session, [unknown], now)
    assert batches.record(session, [accepted(claimed)], now) == 0
    row = row_of(session, claimed.id)
    assert (row.status, row.code, row.settled_at) == (Status.UNKNOWN, "deadline", now)


def test_a_single_message_counts_for_no_campaign(session: Session, now: datetime) -> None:
    app = make_app(session)
    message = make_message(session, app, due_at=now)
    (row,) = batches.claim(session, Job(app.id, "utility", message_ids=(message.id,)), 1, "w", now)
    recorded = batches.record(session, [accepted(row)], now)
    assert recorded == 1
    assert session.scalar(text("SELECT count(*) FROM counter_deltas")) == 0


# -- all of it at random ----------------------------------------------------------------------------------


@dataclass
class Owner:
    """A worker process as the engine sees it."""

    name: str
    jobs: list[Job] = field(default_factory=list)
    rows: list[Claimed] = field(default_factory=list)
    started: dict[int, int] = field(default_factory=dict)


class Engines:
    """Scheduler, queue and workers, driven by chance; every step keeps the counters true."""

    def __init__(self, session: Session, seed: int, now: datetime) -> None:
        self.session, self.now, self.random = session, now, random.Random(seed)  # noqa: S311
        self.app = make_app(session, rate=self.random.choice([0.5, 7, 40]))
        self.campaigns = [
            make_campaign(session, self.app, 60, name="oferta", template="oferta/pt_BR"),
            make_campaign(session, self.app, 40, name="pix", lane=Lane.PAYMENT),
        ]
        for n in range(10):
            make_message(session, self.app, due_at=now + n * SECOND)
        self.queue: list[Job] = []
        self.owners = [Owner(f"w{n}") for n in range(3)]
        self.born = len(self.owners)
        #: Requests that the provider may have taken: id → claim.
        self.written: dict[int, int] = {}

    def step(self) -> None:
        actions = [
            (self.release, 4),
            (self.deliver, 6),
            (self.claim, 8),
            (self.record, 8),
            (self.hand_back, 1),
            (self.pause_or_resume, 2),
            (self.stop_or_lift, 2),
            (self.die, 1),
            (self.empty_redis, 1),
            (self.look_after, 2),
            (self.let_time_pass, 2),
            (self.set_clock_back, 0.5),
        ]
        self.random.choices([a for a, _ in actions], [w for _, w in actions])[0]()

    def release(self) -> None:
        for job in releases.release(self.session, self.now):
            # Jobs may be lost, or come twice.
            self.queue += [job] * self.random.choice([0, 1, 1, 1, 1, 2])

    def deliver(self) -> None:
        if not self.queue:
            return
        owner = self.random.choice(self.owners)
        job: Job | None = self.queue.pop(self.random.randrange(len(self.queue)))
        if job is not None and job.batch_id is not None:
            job = batches.take(self.session, [job.batch_id], owner.name, self.now).get(job.batch_id)
        elif (
            job is not None
            and batches.take_messages(self.session, job.app_id, job.message_ids, owner.name) is None
        ):
            job = None
        if job is not None and job not in owner.jobs:
            owner.jobs.append(job)

    def claim(self) -> None:
        owner = self.random.choice(self.owners)
        if not owner.jobs:
            return
        job, limit = owner.jobs[0], self.random.randint(1, 8)
        rows = batches.claim(self.session, job, limit, owner.name, self.now)
        for row in rows:
            assert row.id not in self.written, "a row was claimed whose request may have been accepted"
            assert all(row.id != held.id for one in self.owners for held in one.rows)
            paused = {campaign.id for campaign in self.campaigns if campaign.state != "running"}
            assert row.campaign_id not in paused
        owner.rows += rows
        if len(rows) < limit:
            batches.finish(self.session, [job], self.now)
            owner.jobs.pop(0)

    def record(self, share: float = 0.6) -> None:
        owner = self.random.choice(self.owners)
        group = [self.outcome(row) for row in owner.rows if self.random.random() < share]
        batches.record(self.session, group, self.now)
        done = {outcome.message_id for outcome in group}
        owner.rows = [row for row in owner.rows if row.id not in done]

    def outcome(self, row: Claimed) -> Outcome:
        kind = self.random.choice(["accepted"] * 4 + ["failed", "unknown", "retry", "throttle", "put back"])
        if kind in ("accepted", "failed", "unknown"):
            self.written[row.id] = row.claim
            return Outcome(row.id, row.claim, Status(kind), spent=True, verdict=kind)
        if kind == "put back":
            return Outcome(row.id, row.claim, Status.PENDING)
        delay = self.random.uniform(0, 20)
        return Outcome(
            row.id, row.claim, Status.PENDING, spent=kind == "retry", verdict=kind, delay_seconds=delay
        )

    def hand_back(self) -> None:
        owner = self.random.choice(self.owners)
        jobs, owner.jobs = owner.jobs, []
        batches.hand_back(
            self.session,
            [job.batch_id for job in jobs if job.batch_id is not None],
            [message_id for job in jobs for message_id in job.message_ids],
        )

    def pause_or_resume(self) -> None:
        campaign = self.random.choice(self.campaigns)
        campaign.state = "paused" if campaign.state == "running" else "running"
        self.session.flush()

    def stop_or_lift(self) -> None:
        lift_stops(self.session, self.app)
        if self.random.random() < 0.5:
            scope, key = self.random.choice(
                [("app", ""), ("lane", Lane.PAYMENT), ("lane", Lane.UTILITY), ("template", "oferta/pt_BR")]
            )
            make_stop(self.session, self.app, scope=scope, key=key)

    def die(self) -> None:
        owner = self.random.choice(self.owners)
        started = {row.id: row.claim for row in owner.rows if self.random.random() < 0.5}
        whole = self.random.random() < 0.7
        self.written |= started if whole else {row.id: row.claim for row in owner.rows}
        recovery.settle_dead_worker(self.session, owner.name, started, [], self.now, whole=whole)
        self.owners.remove(owner)
        self.owners.append(Owner(f"w{self.born}"))
        self.born += 1

    def empty_redis(self) -> None:
        self.queue.clear()
        recovery.release_everything_again(self.session)

    def look_after(self) -> None:
        recovery.notice_clock_set_back(self.session, self.now)
        # Of most workers nobody knows that they live, so that jobs in their hands come once more.
        recovery.release_lost(self.session, not self.queue, not self.queue, self.now)
        recovery.hand_back_silent(self.session, self.now)
        recovery.expire_leases(self.session, self.now)
        counters.fold(self.session, datetime.now(UTC) + timedelta(hours=1))

    def let_time_pass(self) -> None:
        self.now += timedelta(seconds=self.random.choice([0.5, 2, 30, 130]))

    def set_clock_back(self) -> None:
        recovery.notice_clock_set_back(self.session, self.now)
        self.now -= timedelta(seconds=self.random.choice([1, 5, 60]))
        recovery.notice_clock_set_back(self.session, self.now)

    def drain(self) -> None:
        """No more stops, deaths or refusals: everything that waits must find its way."""
        lift_stops(self.session, self.app)
        for campaign in self.campaigns:
            campaign.state = "running"
        self.session.execute(update(App).values(rate=100.0))
        self.queue.clear()
        for owner in self.owners:
            batches.record(self.session, [accepted(row) for row in owner.rows], self.now)
            self.written |= {row.id: row.claim for row in owner.rows}
            owner.rows = []
        for _ in range(12):
            self.now += 31 * SECOND
            self.look_after()
            for job in releases.release(self.session, self.now):
                rows = batches.claim(self.session, job, 500, "last", self.now)
                assert not {row.id for row in rows} & self.written.keys()
                self.written |= {row.id: row.claim for row in rows}
                batches.record(self.session, [accepted(row) for row in rows], self.now)
                batches.finish(self.session, [job], self.now)

    def check_counters(self) -> None:
        found = counters.counts(self.session, [campaign.id for campaign in self.campaigns])
        for campaign in self.campaigns:
            assert found[campaign.id] == recount(self.session, campaign)


@pytest.mark.parametrize("seed", range(8))
def test_whatever_happens_every_row_is_reached_and_counted_once(
    session: Session, now: datetime, seed: int
) -> None:
    engines = Engines(session, seed, now)
    for _ in range(150):
        engines.step()
        engines.check_counters()
    engines.drain()
    engines.check_counters()
    left = set(states(session).values())
    assert left <= {Status.ACCEPTED, Status.FAILED, Status.UNKNOWN}
    assert len(engines.written) == 110


# -- what was paid or bought meanwhile -----------------------------------------------------------------------


def test_what_was_paid_while_a_worker_had_it_is_not_asked_for_when_it_comes_back(
    session: Session, now: datetime
) -> None:
    app = make_app(session)
    campaign = make_campaign(session, app, 2, lane=Lane.PAYMENT)
    asked, other = session.scalars(select(Message).order_by(Message.id)).all()
    asked.key = "fatura-1"
    charge = make_charge(session, app, message_id=asked.id)
    session.flush()
    job = job_of(make_batch(session, campaign))
    rows = batches.claim(session, job, 2, "w", now)
    assert not pix.mark_paid(session, charge, now), "it may be under way"
    batches.record(session, [Outcome(row.id, row.claim, Status.PENDING) for row in rows], now)
    assert batches.claim(session, job, 2, "w", now) == [], "what was put back is named by its id"
    again = Job(app.id, Lane.PAYMENT, message_ids=(asked.id, other.id))
    assert [row.id for row in batches.claim(session, again, 2, "w", now)] == [other.id]
    assert states(session) == {asked.id: "cancelled", other.id: "sending"}
    assert row_of(session, asked.id).settled_at == now
    assert counters.counts(session, [campaign.id])[campaign.id] == recount(session, campaign)


def test_a_reminder_whose_cart_was_bought_while_a_worker_had_it_is_not_sent_when_it_comes_back(
    session: Session, now: datetime
) -> None:
    app = make_app(session)
    make_reminder(session, app, now)
    ((message_id,),) = reminders.release_due(session, now).values()
    job = Job(app.id, Lane.MARKETING, message_ids=(message_id,))
    (row,) = batches.claim(session, job, 1, "w", now)
    assert reminders.convert(session, app, "carrinho-1", now).too_late == 1
    batches.record(session, [Outcome(row.id, row.claim, Status.PENDING, verdict="throttle")], now)
    assert batches.claim(session, job, 1, "w", now) == []
    assert states(session) == {message_id: "cancelled"}
