"""Campaigns that pause by themselves: after the first N, and when too many failed."""

from datetime import datetime

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from disparo import batches, campaigns, canaries, counters, releases
from disparo.batches import Outcome
from disparo.models import Action, App, Batch, Campaign, Message, Notification
from disparo.statuses import Status
from tests.factories.app import make_app
from tests.factories.campaign import make_campaign, recount

RULE = {"failed": 0.2, "unknown": 0.5, "after": 10}


@pytest.fixture
def app(session: Session) -> App:
    return make_app(session, rate=4)


def send(session: Session, now: datetime, status: Status = Status.ACCEPTED, *, limit: int = 1_000) -> int:
    """Release and send until nothing more is released; how many were sent."""
    sent = 0
    while jobs := releases.release(session, now):
        for job in jobs:
            rows = batches.claim(session, job, limit, "w", now)
            batches.record(session, [Outcome(row.id, row.claim, status, spent=True) for row in rows], now)
            batches.finish(session, [job], now)
            sent += len(rows)
    return sent


def state(session: Session, campaign: Campaign) -> tuple[str, str | None]:
    found = session.get_one(Campaign, campaign.id, populate_existing=True)
    return found.state, found.pause_reason


# -- the first N ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [1, 3, 4, 7, 19])
def test_exactly_the_first_leave_then_it_pauses_then_the_rest_goes(
    session: Session, app: App, now: datetime, first: int
) -> None:
    campaign = make_campaign(session, app, 20, first=first)
    other = make_campaign(session, app, 5, name="other")
    assert send(session, now) == first + 5
    sent = session.scalars(
        select(Message.line).where(Message.campaign_id == campaign.id, Message.status == "accepted")
    )
    assert sorted(sent) == list(range(2, first + 2)), "the first rows of the list"
    [(name, reason)] = canaries.pause_due(session)
    assert (name, reason) == (
        "black-friday",
        f"the first {first:,} have left: look at them, then `disparo campaign resume black-friday`",
    )
    assert state(session, campaign) == ("paused", reason)
    assert canaries.pause_due(session) == []
    [(event, subject)] = session.execute(select(Notification.event, Notification.subject)).all()
    assert (event, subject) == ("campaign_paused", "campaign:black-friday")
    campaigns.resume(session, campaign, now)
    assert send(session, now) == 20 - first
    assert canaries.pause_due(session) == []
    assert sorted(campaigns.finish_done(session, now)) == ["black-friday", "other"]
    assert counters.counts(session, [campaign.id])[campaign.id] == recount(session, campaign)
    assert session.get_one(Campaign, other.id).first is None


@pytest.mark.parametrize("first", [20, 21, 1_000])
def test_a_first_that_is_all_of_them_pauses_nothing(
    session: Session, app: App, now: datetime, first: int
) -> None:
    make_campaign(session, app, 20, first=first)
    assert send(session, now) == 20
    assert canaries.pause_due(session) == []
    assert campaigns.finish_done(session, now) == ["black-friday"]


def test_a_launch_forgets_a_first_that_is_all_of_them(session: Session, app: App, now: datetime) -> None:
    small = make_campaign(session, app, 3, name="small", state="importing", first=3)
    large = make_campaign(session, app, 3, name="large", state="importing", first=2)
    for campaign in (small, large):
        campaigns.launch(session, campaign, now, by="ana", why="as agreed")
    assert (small.first, large.first) == (None, 2)
    actions = {a.subject: (a.why, a.details) for a in session.scalars(select(Action))}
    assert actions == {
        "campaign:small": ("as agreed", {"messages": 3}),
        "campaign:large": ("as agreed", {"messages": 3, "first": 2}),
    }


@pytest.mark.parametrize("status", [Status.PENDING, Status.SENDING])
def test_it_waits_for_those_of_the_first_that_are_not_settled(
    session: Session, app: App, now: datetime, status: Status
) -> None:
    campaign = make_campaign(session, app, 20, first=4)
    [job] = releases.release(session, now)
    rows = batches.claim(session, job, 10, "w", now)
    batches.record(session, [Outcome(row.id, row.claim, Status.ACCEPTED) for row in rows[1:]], now)
    if status is Status.PENDING:
        again = Outcome(rows[0].id, rows[0].claim, status, spent=True, verdict="retry", delay_seconds=60)
        batches.record(session, [again], now)
    assert canaries.pause_due(session) == []
    assert [job for job in releases.release(session, now) if job.batch_id] == [], "no fifth one meanwhile"
    session.execute(text("UPDATE messages SET status = 'unknown' WHERE id = :id"), {"id": rows[0].id})
    assert len(canaries.pause_due(session)) == 1
    assert state(session, campaign)[0] == "paused"


def test_a_retry_of_one_of_the_first_leaves_though_all_of_them_are_released(
    session: Session, app: App, now: datetime
) -> None:
    make_campaign(session, app, 20, first=4)
    [job] = releases.release(session, now)
    rows = batches.claim(session, job, 10, "w", now)
    batches.record(session, [Outcome(r.id, r.claim, Status.PENDING, delay_seconds=0.0) for r in rows], now)
    batches.finish(session, [job], now)
    [again] = releases.release(session, now)
    assert sorted(again.message_ids) == sorted(row.id for row in rows)


def test_a_pause_in_the_middle_of_the_first_keeps_the_limit(
    session: Session, app: App, now: datetime
) -> None:
    campaign = make_campaign(session, app, 20, first=6)
    jobs = releases.release(session, now)
    campaigns.pause(session, campaign, by="ana")
    for job in jobs:
        assert batches.claim(session, job, 10, "w", now) == []
        batches.finish(session, [job], now)
    campaigns.resume(session, campaign, now)
    assert send(session, now) == 6
    assert canaries.pause_due(session) != []


def test_a_pause_for_another_reason_when_the_first_are_settled_is_the_last_one(
    session: Session, app: App, now: datetime
) -> None:
    campaign = make_campaign(session, app, 20, first=6, stop_if={"failed": 0.5, "after": 5})
    assert send(session, now, Status.FAILED) == 6
    [(_, reason)] = canaries.pause_due(session)
    assert "6 of 6 messages answered are failed" in reason
    campaigns.resume(session, campaign, now)
    assert canaries.pause_due(session) == []
    assert send(session, now) == 14


def test_rows_that_expired_or_were_cancelled_before_their_turn_are_not_among_the_first(
    session: Session, app: App, now: datetime
) -> None:
    campaign = make_campaign(session, app, 10, first=3)
    session.execute(text("UPDATE messages SET status = 'cancelled' WHERE line IN (2, 4)"))
    assert send(session, now) == 3
    assert len(canaries.pause_due(session)) == 1
    assert session.scalars(select(Batch.size).where(Batch.campaign_id == campaign.id)).all() == [3]


def test_a_cancelled_or_paused_canary_is_left_alone(session: Session, app: App, now: datetime) -> None:
    paused = make_campaign(session, app, 9, name="paused", first=2)
    cancelled = make_campaign(session, app, 9, name="cancelled", first=2)
    send(session, now)
    campaigns.pause(session, paused, reason="lunch", by="ana")
    campaigns.cancel(session, cancelled, now)
    assert canaries.pause_due(session) == []
    assert (state(session, paused), state(session, cancelled)[0]) == (("paused", "lunch"), "cancelled")


# -- stop_if ----------------------------------------------------------------------------------------------


def count(session: Session, campaign: Campaign, **changes: int) -> None:
    counters.add_deltas(session, [(campaign.id, status, n) for status, n in changes.items()])


@pytest.fixture
def watched(session: Session, app: App) -> Campaign:
    return make_campaign(session, app, stop_if=RULE)


def test_too_many_failures_pause_it_with_the_numbers(session: Session, watched: Campaign) -> None:
    count(session, watched, accepted=8, failed=1)
    assert canaries.pause_due(session) == []
    count(session, watched, failed=1)
    [(_, reason)] = canaries.pause_due(session)
    assert reason == "2 of 10 messages answered are failed (20.0%); stop_if pauses at 20%"
    assert state(session, watched) == ("paused", reason)
    [action] = session.scalars(select(Action))
    assert (action.verb, action.actor, action.why) == ("pause", "disparo", reason)
    [told] = session.scalars(select(Notification))
    assert (told.event, told.sentence) == ("campaign_paused", f"black-friday is paused: {reason}")
    assert canaries.pause_due(session) == []


def test_failures_that_come_by_webhook_count_too(session: Session, watched: Campaign) -> None:
    count(session, watched, accepted=10)
    assert canaries.pause_due(session) == []
    count(session, watched, accepted=-2, failed=2)
    assert len(canaries.pause_due(session)) == 1


def test_after_a_resume_it_counts_anew(session: Session, watched: Campaign, now: datetime) -> None:
    count(session, watched, accepted=8, failed=4, unknown=0)
    canaries.pause_due(session)
    campaigns.resume(session, watched, now)
    assert watched.stop_if_from == {"answered": 12, "failed": 4, "unknown": 0}
    count(session, watched, accepted=8, failed=1)
    assert canaries.pause_due(session) == []
    count(session, watched, failed=1)
    [(_, reason)] = canaries.pause_due(session)
    assert reason.startswith("2 of 10 messages")


def test_failures_that_are_retried_do_not_make_up_for_new_ones(
    session: Session, watched: Campaign, now: datetime
) -> None:
    count(session, watched, accepted=90, failed=60)
    campaigns.pause(session, watched)
    campaigns.resume(session, watched, now)
    count(session, watched, failed=-60, pending=60)
    assert canaries.pause_due(session) == []
    count(session, watched, failed=2, accepted=8, pending=-10)
    assert len(canaries.pause_due(session)) == 1


def test_unknowns_have_a_share_of_their_own(session: Session, watched: Campaign) -> None:
    count(session, watched, accepted=6, unknown=5)
    assert canaries.pause_due(session) == []
    count(session, watched, unknown=1)
    [(_, reason)] = canaries.pause_due(session)
    assert reason == "6 of 12 messages answered are unknown (50.0%); stop_if pauses at 50%"


def test_what_was_stored_before_it_had_an_effect_stops_nothing(session: Session, app: App) -> None:
    old = make_campaign(session, app, stop_if={"failed": "a lot"})
    count(session, old, failed=1_000)
    assert canaries.pause_due(session) == []


def test_who_resumes_just_then_is_not_overruled_by_old_numbers(
    engine: Engine, session: Session, app: App, now: datetime
) -> None:
    campaign = make_campaign(session, app, stop_if=RULE)
    count(session, campaign, failed=20)
    session.commit()
    with Session(engine) as person, person.begin():
        held = campaigns.get(person, "black-friday", lock=True)
        campaigns.pause(person, held)
        campaigns.resume(person, held, now)
        person.flush()
        # Seen as it was before, and locked by the person: left to the next look, which counts anew.
        assert canaries.pause_due(session) == []
        session.commit()
    assert canaries.pause_due(session) == []
    assert state(session, campaign)[0] == "running"
