"""Failed messages that people have sent again: exactly those, once, with true counters, whatever races or dies."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from disparo import apps, batches, campaigns, counters, pix, reminders, retries, stops
from disparo.batches import Claimed, Job, Outcome
from disparo.db import make_engine
from disparo.errors import ConflictError, NotFoundError
from disparo.models import Action, App, Campaign, Message, SendError
from disparo.statuses import CampaignState, Lane, Status
from tests.conftest import Servers
from tests.conftest import _database as new_database
from tests.factories.app import fault, make_app, make_stop
from tests.factories.campaign import make_campaign, recount
from tests.factories.charge import make_charge
from tests.factories.message import make_message
from tests.factories.reminder import make_reminder
from tests.racing import meet_in

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)


@pytest.fixture(scope="module")
def shared(servers: Servers, template: str) -> Iterator[Engine]:
    """One database for all tests that commit nothing."""
    for url in new_database(servers, template):
        made = make_engine(url)
        yield made
        made.dispose()


@pytest.fixture
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    """A session that is rolled back; of tests that race, and so commit, on a database of their own."""
    name = "engine" if "engine" in request.fixturenames else "shared"
    with Session(request.getfixturevalue(name), expire_on_commit=False) as opened:
        yield opened


@pytest.fixture(autouse=True)
def counters_stay_true(session: Session) -> Iterator[None]:
    """After every scenario the counters say what the rows say, and nothing waits in a finished campaign."""
    yield
    for campaign in session.scalars(select(Campaign).execution_options(populate_existing=True)):
        counts = recount(session, campaign)
        assert counters.counts(session, [campaign.id])[campaign.id] == counts
        assert campaign.state != CampaignState.FINISHED or counts["pending"] == 0


@pytest.fixture
def app(session: Session) -> App:
    return make_app(session)


@pytest.fixture
def campaign(session: Session, app: App) -> Campaign:
    return make_campaign(session, app, 3)


def ids_of(session: Session, campaign: Campaign) -> list[int]:
    return list(
        session.scalars(select(Message.id).where(Message.campaign_id == campaign.id).order_by(Message.id))
    )


def claim(session: Session, app: App, at: datetime, *message_ids: int) -> list[Claimed]:
    return batches.claim(session, Job(app.id, "", message_ids=message_ids), len(message_ids), "w", at)


def refuse(session: Session, app: App, at: datetime, *message_ids: int, code: str = "1003") -> list[Claimed]:
    """The messages are claimed and refused for good."""
    rows = claim(session, app, at, *message_ids)
    assert len(rows) == len(message_ids)
    refused = [
        Outcome(row.id, row.claim, Status.FAILED, spent=True, verdict="sender_stop", code=code, reason="Low", http_status=400)
        for row in rows
    ]  # fmt: skip
    assert batches.record(session, refused, at) == len(rows)
    return rows


def report_failed(session: Session, app: App, at: datetime, message_id: int, code: str = "1003") -> Claimed:
    """The message is accepted, sent, and then reported failed by webhook."""
    (row,) = claim(session, app, at, message_id)
    batches.record(
        session,
        [Outcome(row.id, row.claim, Status.ACCEPTED, spent=True, verdict="accepted", gs_id="gs-1")],
        at,
    )
    found = row_of(session, message_id)
    found.wamid, found.enqueued_at, found.sent_at = "wamid-1", at, at
    found.status, found.code, found.reason, found.failed_at = Status.FAILED, code, "Low", at
    session.flush()
    counters.add_deltas(
        session, [(row.campaign_id, Status.ACCEPTED, -1), (row.campaign_id, Status.FAILED, 1)]
    )
    return row


def row_of(session: Session, message_id: int) -> Message:
    return session.get_one(Message, message_id, populate_existing=True)


def finish(session: Session, campaign: Campaign, now: datetime) -> None:
    assert campaigns.finish_done(session, now) == [campaign.name]
    session.refresh(campaign)


def run(
    session: Session, campaign: Campaign, now: datetime, *codes: str, page: int = 2, **who: Any
) -> retries.Retry:
    retry = retries.begin(session, campaign, codes or ("1003",), **who)
    while retries.next_page(session, retry, now, page=page):
        pass
    return retry


def actions(session: Session) -> list[tuple[Any, ...]]:
    found = session.scalars(select(Action).where(Action.verb == "retry").order_by(Action.id))
    return [(one.subject, one.actor, one.why, one.details) for one in found]


def test_failed_messages_of_the_codes_wait_again_and_a_finished_campaign_runs_again(
    session: Session, app: App, campaign: Campaign, now: datetime
) -> None:
    first, second, other = ids_of(session, campaign)
    refuse(session, app, now, first, second)
    refuse(session, app, now, other, code="131026")
    finish(session, campaign, now)
    retry = run(session, campaign, now + MINUTE, page=1, actor="ana", why="topped up")
    assert dict(retry.done) | {"changed": 0} == {"retried": 2, "changed": 0}
    row = row_of(session, first)
    assert (row.status, row.due_at, row.released_at, row.attempts, row.forgiven) == (
        Status.PENDING, now + MINUTE, None, 1, 1
    )  # fmt: skip
    assert (row.code, row.reason, row.http_status, row.failed_at) == (None, None, None, None)
    assert row_of(session, other).status == Status.FAILED
    session.refresh(campaign)
    assert (campaign.state, campaign.finished_at) == (CampaignState.RUNNING, None)
    assert actions(session) == [
        ("campaign:black-friday", "ana", "topped up", {"codes": ["1003"], "messages": 2})
    ]
    # Its history stays.
    assert session.scalars(select(SendError.code).where(SendError.message_id == first)).all() == ["1003"]
    assert [row.id for row in claim(session, app, now + MINUTE, first, second, other)] == [first, second]


def test_several_codes_are_retried_at_once(
    session: Session, app: App, campaign: Campaign, now: datetime
) -> None:
    first, second, other = ids_of(session, campaign)
    refuse(session, app, now, first)
    refuse(session, app, now, second, code="500")
    refuse(session, app, now, other, code="131026")
    assert run(session, campaign, now, "500", "1003", "500").done["retried"] == 2


def test_a_paused_campaign_stays_paused(
    session: Session, app: App, campaign: Campaign, now: datetime
) -> None:
    refuse(session, app, now, *ids_of(session, campaign))
    campaigns.pause(session, campaign)
    session.flush()
    assert run(session, campaign, now).done["retried"] == 3
    session.refresh(campaign)
    assert campaign.state == CampaignState.PAUSED
    assert claim(session, app, now, *ids_of(session, campaign)) == []


def test_what_an_accepted_attempt_left_is_no_part_of_the_next_one(
    session: Session, app: App, campaign: Campaign, now: datetime
) -> None:
    first, *_ = ids_of(session, campaign)
    report_failed(session, app, now, first)
    run(session, campaign, now + MINUTE)
    row = row_of(session, first)
    assert (row.gs_id, row.wamid) == (None, None)
    assert (row.accepted_at, row.enqueued_at, row.sent_at, row.failed_at) == (None, None, None, None)
    kept = session.scalars(select(SendError).where(SendError.message_id == first)).one()
    assert (kept.verdict, kept.attempt, kept.at, kept.code, kept.text) == ("accepted", 1, now, "1003", "Low")
    assert (kept.gs_id, kept.wamid) == ("gs-1", "wamid-1")


def test_what_was_delivered_paid_for_or_is_too_late_is_not_sent_again(
    session: Session, app: App, now: datetime
) -> None:
    campaign = make_campaign(session, app, 5, lane=Lane.PAYMENT)
    ids = ids_of(session, campaign)
    refuse(session, app, now, *ids)
    delivered, read, late, paid, _ = (row_of(session, one) for one in ids)
    delivered.delivered_at, read.read_at, late.not_after = now, now, now + MINUTE
    paid.key = "fatura-1"
    charge = make_charge(session, app, message_id=paid.id, campaign_id=campaign.id)
    pix.mark_paid(session, charge, now)
    session.flush()
    retry = run(session, campaign, now + MINUTE)
    assert {name: n for name, n in retry.done.items() if n} == {
        "delivered": 2, "too_late": 1, "cancelled": 1, "retried": 1
    }  # fmt: skip
    states = [row_of(session, one).status for one in ids]
    assert states == ["failed", "failed", "failed", "cancelled", "pending"]
    assert row_of(session, paid.id).settled_at == now + MINUTE
    assert row_of(session, late.id).code == "1003"
    assert actions(session)[0][3] == {"codes": ["1003"], "messages": 1, "too_late": 1, "cancelled": 1}


@pytest.mark.parametrize("code", ["given_up", "no_answer", "lease_expired", "database_restored"])
def test_what_may_have_been_sent_is_never_retried(
    session: Session, app: App, campaign: Campaign, now: datetime, code: str
) -> None:
    refuse(session, app, now, *ids_of(session, campaign), code=code)
    with pytest.raises(ConflictError, match=f"ended with {code} may have been sent"):
        retries.begin(session, campaign, ["1003", code])


def test_codes_that_nothing_failed_with_are_told_with_those_that_there_are(
    session: Session, app: App, campaign: Campaign, now: datetime
) -> None:
    with pytest.raises(NotFoundError, match=r"failed with 1003 or 500; none failed at all"):
        retries.begin(session, campaign, ["1003", "500"])
    first, *others = ids_of(session, campaign)
    refuse(session, app, now, first, code="500")
    refuse(session, app, now, *others, code="131026")
    with pytest.raises(NotFoundError, match=r"failed with 1003; there failed with: 131026 \(2\), 500 \(1\)"):
        retries.begin(session, campaign, ["1003"])


@pytest.mark.parametrize(
    ("state", "told"),
    [(CampaignState.CANCELLED, "was cancelled, so nothing more"), (CampaignState.IMPORTING, "is importing")],
)
def test_a_state_in_which_nothing_may_wait_is_told(
    session: Session, app: App, campaign: Campaign, now: datetime, state: str, told: str
) -> None:
    refuse(session, app, now, *ids_of(session, campaign))
    campaign.state = state
    with pytest.raises(ConflictError, match=told):
        retries.begin(session, campaign, ["1003"])


def test_a_message_that_fails_again_while_the_retry_goes_on_is_not_put_back_a_second_time(
    session: Session, app: App, campaign: Campaign, now: datetime
) -> None:
    ids = ids_of(session, campaign)
    refuse(session, app, now, *ids)
    mine = retries.begin(session, campaign, ["1003"])
    theirs = retries.begin(session, campaign, ["1003"])
    assert retries.next_page(session, theirs, now, page=2)
    refuse(session, app, now, *ids[:2])
    while retries.next_page(session, mine, now, page=2):
        pass
    assert (mine.done["retried"], mine.done["changed"]) == (1, 2)
    assert retries.next_page(session, theirs, now, page=2)
    assert (theirs.done["retried"], theirs.done["changed"]) == (2, 1)
    assert recount(session, campaign)["failed"] == 2


def test_a_retry_that_a_cancel_overtakes_ends_with_a_sentence_and_nothing_waits(
    session: Session, app: App, campaign: Campaign, now: datetime
) -> None:
    refuse(session, app, now, *ids_of(session, campaign))
    retry = retries.begin(session, campaign, ["1003"])
    retries.next_page(session, retry, now, page=2)
    session.flush()
    campaigns.cancel(session, campaigns.get(session, campaign.name, lock=True), now)
    campaigns.cancel_rest(session, now)
    with pytest.raises(ConflictError, match=r"cancelled meanwhile.*2 messages had been put back"):
        retries.next_page(session, retry, now, page=2)
    assert {status: n for status, n in recount(session, campaign).items() if n} == {
        "cancelled": 2,
        "failed": 1,
    }


# -- races ------------------------------------------------------------------------------------------------


def test_two_retries_at_once_put_each_message_back_once(
    engine: Engine, session: Session, app: App, campaign: Campaign, now: datetime
) -> None:
    refuse(session, app, now, *ids_of(session, campaign))
    plans = [retries.begin(session, campaign, ["1003"]) for _ in range(2)]
    meet_in(
        engine,
        session,
        lambda one: retries.next_page(one, plans[0], now),
        lambda one: retries.next_page(one, plans[1], now),
    )
    assert [(plan.done["retried"], plan.done["changed"]) for plan in plans] == [(3, 0), (0, 3)]
    assert recount(session, campaign)["pending"] == 3
    assert len(actions(session)) == 1


def test_a_finish_that_looked_before_the_retry_was_committed_finishes_nothing(
    engine: Engine, session: Session, app: App, campaign: Campaign, now: datetime
) -> None:
    refuse(session, app, now, *ids_of(session, campaign))
    plan = retries.begin(session, campaign, ["1003"])
    session.commit()
    with Session(engine) as first, first.begin(), Session(engine) as tick, tick.begin():
        retries.next_page(first, plan, now)
        # It sees no row that waits, and does not stand in the way of the retry either.
        assert campaigns.finish_done(tick, now) == []
    session.expire_all()
    assert (campaign.state, recount(session, campaign)["pending"]) == (CampaignState.RUNNING, 3)


def test_a_retry_waits_for_a_finish_and_reopens_what_it_closed(
    engine: Engine, session: Session, app: App, campaign: Campaign, now: datetime
) -> None:
    refuse(session, app, now, *ids_of(session, campaign))
    plan = retries.begin(session, campaign, ["1003"])
    finished, _ = meet_in(
        engine,
        session,
        lambda one: campaigns.finish_done(one, now),
        lambda one: retries.next_page(one, plan, now),
    )
    assert finished == ["black-friday"]
    session.refresh(campaign)
    assert (campaign.state, campaign.finished_at) == (CampaignState.RUNNING, None)


def test_a_retry_waits_for_a_cancel_and_puts_nothing_back(
    engine: Engine, session: Session, app: App, campaign: Campaign, now: datetime
) -> None:
    refuse(session, app, now, *ids_of(session, campaign))
    plan = retries.begin(session, campaign, ["1003"])

    def retry(one: Session) -> str:
        with pytest.raises(ConflictError, match="was cancelled meanwhile"):
            retries.next_page(one, plan, now)
        return "refused"

    def cancel(one: Session) -> None:
        campaigns.cancel(one, campaigns.get(one, campaign.name, lock=True), now)

    assert meet_in(engine, session, cancel, retry)[1] == "refused"
    session.refresh(campaign)
    assert recount(session, campaign)["failed"] == 3


@pytest.mark.parametrize("paid_first", [True, False])
def test_a_payment_that_meets_a_retry_is_not_asked_for_again(
    engine: Engine, session: Session, app: App, now: datetime, paid_first: bool
) -> None:
    campaign = make_campaign(session, app, 1, lane=Lane.PAYMENT)
    (message_id,) = ids_of(session, campaign)
    row_of(session, message_id).key = "fatura-1"
    make_charge(session, app, message_id=message_id, campaign_id=campaign.id)
    refuse(session, app, now, message_id)
    plan = retries.begin(session, campaign, ["1003"])

    def paid(one: Session) -> bool:
        return pix.mark_paid(one, pix.get(one, app, "fatura-1", lock=True), now)

    def retry(one: Session) -> bool:
        return retries.next_page(one, plan, now)

    meet_in(engine, session, *((paid, retry) if paid_first else (retry, paid)))
    assert row_of(session, message_id).status == Status.CANCELLED


def test_a_retry_beside_a_sender_loses_and_repeats_nothing(
    engine: Engine, session: Session, app: App, now: datetime
) -> None:
    """Claims and records go on between its pages; a late answer of the attempt that failed counts for nothing."""
    campaign = make_campaign(session, app, 6)
    ids = ids_of(session, campaign)
    old = refuse(session, app, now, *ids[:4])
    plan = retries.begin(session, campaign, ["1003"])
    session.commit()
    sent: list[int] = []
    more = True
    while more:
        with Session(engine) as one, one.begin():
            more = retries.next_page(one, plan, now, page=2)
        with Session(engine) as sender, sender.begin():
            rows = claim(sender, app, now, *ids)
            late = [
                Outcome(row.id, row.claim, Status.ACCEPTED, spent=True, verdict="accepted", gs_id="x")
                for row in old
            ]
            assert batches.record(sender, late, now) == 0
            good = [
                Outcome(
                    row.id, row.claim, Status.ACCEPTED, spent=True, verdict="accepted", gs_id=f"g-{row.id}"
                )
                for row in rows
            ]
            assert batches.record(sender, good, now) == len(rows)
            sent += [row.id for row in rows]
    assert sorted(sent) == ids
    session.expire_all()
    assert recount(session, campaign)["accepted"] == 6


# -- by the fault that paused an app ----------------------------------------------------------------------


def test_what_failed_by_an_ended_fault_since_it_began_is_put_back(
    session: Session, app: App, campaign: Campaign, now: datetime
) -> None:
    before, since, other = ids_of(session, campaign)
    refuse(session, app, now - MINUTE, before)
    refuse(session, app, now + SECOND, since)
    refuse(session, app, now + SECOND, other, code="131026")
    single = make_message(session, app, due_at=now)
    refuse(session, app, now + SECOND, single.id)
    finish(session, campaign, now)
    stop = make_stop(session, app, code="1003")
    stop.since = now
    operator = make_stop(session, app, scope="lane", key="marketing")
    assert retries.retry_failed_by(session, [stop, operator], now + MINUTE) == 2
    states = [row_of(session, one).status for one in (before, since, other, single.id)]
    assert states == ["failed", "pending", "failed", "pending"]
    assert row_of(session, since).forgiven == 1
    session.refresh(campaign)
    assert campaign.state == CampaignState.RUNNING


def test_a_reminder_whose_cart_was_bought_and_a_cancelled_campaign_are_left(
    session: Session, app: App, campaign: Campaign, now: datetime
) -> None:
    single = make_message(session, app, due_at=now)
    refuse(session, app, now, single.id, *ids_of(session, campaign))
    make_reminder(session, app, now, message_id=single.id, status="released")
    reminders.convert(session, app, "carrinho-1", now)
    campaign.state = CampaignState.CANCELLED
    stop = make_stop(session, app, code="1003")
    stop.since = now
    session.flush()
    assert retries.retry_failed_by(session, [stop], now) == 0
    assert row_of(session, single.id).status == Status.CANCELLED
    assert recount(session, campaign)["failed"] == 3


def test_what_failed_by_the_fault_before_the_last_one_is_put_back_too(
    session: Session, app: App, campaign: Campaign, now: datetime
) -> None:
    low, wrong, of_lane = ids_of(session, campaign)
    refuse(session, app, now + SECOND, low)
    refuse(session, app, now + SECOND, wrong, code="authentication_failed")
    refuse(session, app, now + SECOND, of_lane, code="131048")
    stop = make_stop(session, app, code="1003")
    stop.since, stop.probe_message_id = now, low
    session.flush()
    stops.fail_probe(session, low, "app", "", fault("authentication_failed"), now)
    assert retries.retry_failed_by(session, [stop], now + MINUTE) == 2
    assert [row_of(session, one).status for one in (low, wrong, of_lane)] == ["pending", "pending", "failed"]


def test_the_first_messages_whose_parameters_did_not_fit_are_put_back_though_they_failed_before_the_stop(
    session: Session, app: App, now: datetime
) -> None:
    earlier = make_campaign(session, app, 1, name="earlier", template="oferta/pt_BR")
    refuse(session, app, now - MINUTE, *ids_of(session, earlier), code="132012")
    campaign = make_campaign(session, app, stops.FIRST_K, name="bad", template="oferta/pt_BR")
    ids = ids_of(session, campaign)
    refuse(session, app, now - MINUTE, *ids, code="132012")
    assert stops.trip_mismatched(session, ids[-1:], ["132012"], fault("132012"), now)
    (stop,) = apps.stops(session, app.id)
    stop.since = now
    assert retries.retry_failed_by(session, [stop], now) == len(ids)
    assert recount(session, earlier)["failed"] == 1


# -- finishing --------------------------------------------------------------------------------------------


def test_a_campaign_is_finished_only_when_nothing_is_pending_sending_or_undecided(
    session: Session, app: App, campaign: Campaign, now: datetime
) -> None:
    first, second, third = ids_of(session, campaign)
    refuse(session, app, now, first, second)
    assert campaigns.finish_done(session, now) == []
    (row,) = claim(session, app, now, third)
    assert campaigns.finish_done(session, now) == []
    batches.record(session, [Outcome(row.id, row.claim, Status.UNKNOWN, spent=True, verdict="unknown")], now)
    assert campaigns.finish_done(session, now) == []
    row_of(session, third).status = Status.ACCEPTED
    session.flush()
    counters.add_deltas(session, [(campaign.id, Status.UNKNOWN, -1), (campaign.id, Status.ACCEPTED, 1)])
    assert campaigns.finish_done(session, now) == ["black-friday"]
    assert session.scalar(select(func.count()).select_from(Action).where(Action.verb == "retry")) == 0
