"""Counters: deltas beside the rows, folded, equal to a count of the rows at every moment."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, func, select, text, update
from sqlalchemy.orm import Session

from disparo import batches, counters
from disparo.batches import Job, Outcome
from disparo.models import Campaign, Counter, CounterDelta
from disparo.statuses import Status
from tests.factories.app import make_app
from tests.factories.campaign import make_batch, make_campaign, recount


@pytest.fixture
def later() -> datetime:
    """When deltas that are written now are old enough to be folded."""
    return datetime.now(UTC) + counters.FOLD_AFTER + timedelta(minutes=1)


def test_counts_have_every_status(session: Session) -> None:
    campaign = make_campaign(session, make_app(session), 3)
    found = counters.counts(session, [campaign.id])[campaign.id]
    assert set(found) == {str(status) for status in Status}
    assert found["pending"] == 3
    assert sum(found.values()) == 3


def test_changes_are_summed_up_and_those_that_cancel_out_cost_no_row(session: Session) -> None:
    campaign = make_campaign(session, make_app(session))
    changes = [(campaign.id, "pending", 1), (campaign.id, "pending", 2), (campaign.id, "sending", 1)]
    counters.add_deltas(session, [*changes, (campaign.id, "sending", -1), (None, "accepted", 5)])
    deltas = session.execute(select(CounterDelta.status, CounterDelta.n)).all()
    assert deltas == [("pending", 3)]


def test_folding_changes_no_count_and_leaves_young_deltas(session: Session, later: datetime) -> None:
    campaign = make_campaign(session, make_app(session), 10)
    before = counters.counts(session, [campaign.id])
    assert counters.fold(session, datetime.now(UTC)) == 0
    assert counters.fold(session, later) == 1
    assert counters.counts(session, [campaign.id]) == before
    counters.add_deltas(session, [(campaign.id, "pending", -4), (campaign.id, "sending", 4)])
    assert counters.counts(session, [campaign.id])[campaign.id]["sending"] == 4
    assert counters.fold(session, later) == 2
    folded = dict(session.execute(select(Counter.status, Counter.n)).all())
    assert folded == {"pending": 6, "sending": 4}
    assert session.scalar(select(func.count()).select_from(CounterDelta)) == 0


def test_counts_equal_the_rows_while_workers_send_and_the_tick_folds(engine: Engine, later: datetime) -> None:
    with Session(engine, expire_on_commit=False) as session:
        campaign = make_campaign(session, make_app(session), 240)
        batch = make_batch(session, campaign)
        session.commit()
    job = Job(batch.app_id, campaign.lane, batch_id=batch.id, size=240)
    now = datetime.now(UTC)

    def work(n: int) -> None:
        for _ in range(10):
            with Session(engine) as session, session.begin():
                rows = batches.claim(session, job, 10, f"w{n}", now)
            statuses = [Status.ACCEPTED, Status.FAILED, Status.PENDING]
            outcomes = [Outcome(row.id, row.claim, statuses[row.id % 3], spent=True) for row in rows]
            with Session(engine) as session, session.begin():
                batches.record(session, outcomes, now)

    def fold(_: int) -> None:
        for _ in range(15):
            with Session(engine) as session, session.begin():
                counters.fold(session, later)

    def watch(_: int) -> None:
        for _ in range(30):
            with Session(engine.execution_options(isolation_level="REPEATABLE READ")) as session:
                found = counters.counts(session, [campaign.id])[campaign.id]
                assert found == recount(session, campaign)

    with ThreadPoolExecutor(6) as threads:
        parts = [threads.submit(work, n) for n in range(3)]
        # Two ticks at once must not count a delta twice.
        parts += [threads.submit(fold, n) for n in range(2)] + [threads.submit(watch, 0)]
        for part in parts:
            part.result(120)
    with Session(engine) as session:
        found = counters.counts(session, [campaign.id])[campaign.id]
        assert found == recount(session, session.get_one(Campaign, campaign.id))
        assert found["accepted"] + found["failed"] > 0
        assert sum(found.values()) == 240


def test_answers_are_messages_that_left_sending_with_an_outcome(session: Session) -> None:
    campaign = make_campaign(session, make_app(session))
    now = session.execute(text("SELECT now()")).scalar_one()

    def at(ago: float, **changes: int) -> None:
        counters.add_deltas(session, [(campaign.id, status, n) for status, n in changes.items()])
        young = update(CounterDelta).where(CounterDelta.at == now)
        session.execute(young.values(at=now - timedelta(seconds=ago)))

    # As workers record them, one of them put back; then claims.
    at(50, sending=-30, accepted=19, failed=10, pending=1)
    at(5, sending=-2, accepted=2)
    at(4, pending=-10, sending=10)
    # A person decides, a webhook reports, and nobody has answered.
    at(3, unknown=-900, accepted=900)
    at(2, accepted=-2, delivered=2)
    at(1, pending=-40, suppressed=40)
    found = counters.recent_answers(session, campaign.id, now, seconds=60)
    assert found == [(now - timedelta(seconds=50), 29), (now - timedelta(seconds=5), 2)]
    assert counters.recent_answers(session, campaign.id, now, seconds=10) == found[1:]
    assert counters.recent_answers(session, campaign.id, now + timedelta(seconds=60), seconds=60) == []
