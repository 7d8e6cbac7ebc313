"""Pause, resume, reschedule, cancel and the end of campaigns: exact when two come at once, and told."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from disparo import batches, campaigns, counters, recipients, releases
from disparo.batches import Job, Outcome
from disparo.errors import ConflictError, InputError
from disparo.models import Action, App, Campaign, Message, Notification
from disparo.statuses import CampaignState, Status
from tests.factories.app import make_app
from tests.factories.campaign import make_campaign, make_import, recount
from tests.factories.message import make_messages
from tests.racing import meet

HOUR = timedelta(hours=1)
ZONE = ZoneInfo("America/Sao_Paulo")


@pytest.fixture
def app(session: Session) -> App:
    return make_app(session)


def state(session: Session, campaign: Campaign) -> str:
    return session.get_one(Campaign, campaign.id, populate_existing=True).state


def told(session: Session) -> list[tuple[str, str]]:
    return [
        (row.event, row.sentence) for row in session.scalars(select(Notification).order_by(Notification.id))
    ]


def settle(session: Session, campaign: Campaign, now: datetime, *statuses: Status) -> None:
    """Send the messages of a campaign; these are their outcomes, the last one of all that are left."""
    ids = session.scalars(select(Message.id).where(Message.campaign_id == campaign.id)).all()
    rows = batches.claim(session, Job(campaign.app_id, "", message_ids=tuple(ids)), len(ids), "w", now)
    outcomes = [*statuses, *[statuses[-1]] * (len(rows) - len(statuses))]
    batches.record(
        session, [Outcome(r.id, r.claim, status) for r, status in zip(rows, outcomes, strict=True)], now
    )


def retry(session: Session, campaign: Campaign, now: datetime) -> None:
    """Put failed messages back, as every command does that has some sent again."""
    rows = session.execute(
        text("""
            UPDATE messages SET status = 'pending', due_at = :now WHERE campaign_id = :id AND status = 'failed'
            RETURNING id"""),
        {"id": campaign.id, "now": now},
    ).all()
    counters.add_deltas(session, [(campaign.id, "failed", -len(rows)), (campaign.id, "pending", len(rows))])
    session.execute(
        text(
            "UPDATE campaigns SET state = 'running', finished_at = NULL WHERE id = :id AND state = 'finished'"
        ),
        {"id": campaign.id},
    )


# -- the end ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [Status.PENDING, Status.SENDING, Status.UNKNOWN])
def test_a_campaign_is_finished_only_when_nothing_is_left(
    session: Session, app: App, now: datetime, left: Status
) -> None:
    campaign = make_campaign(session, app, 3)
    settle(session, campaign, now, Status.ACCEPTED, Status.FAILED, Status.ACCEPTED)
    session.execute(text("UPDATE messages SET status = :left WHERE line = 2"), {"left": left})
    assert campaigns.finish_done(session, now) == []
    session.execute(text("UPDATE messages SET status = 'accepted' WHERE line = 2"))
    assert campaigns.finish_done(session, now) == ["black-friday"]
    assert told(session) == [("campaign_finished", "black-friday is finished: 2 accepted, 1 failed")]
    assert campaigns.finish_done(session, now) == []
    assert len(told(session)) == 1


@pytest.mark.parametrize("there", [s for s in CampaignState if s is not CampaignState.RUNNING])
def test_only_what_runs_is_finished(session: Session, app: App, now: datetime, there: CampaignState) -> None:
    make_campaign(session, app, 0, state=there)
    assert campaigns.finish_done(session, now) == []


def test_a_campaign_is_not_finished_under_a_retry(
    engine: Engine, session: Session, app: App, now: datetime
) -> None:
    campaign = make_campaign(session, app, 3)
    settle(session, campaign, now, Status.FAILED)
    session.commit()
    with Session(engine) as person, person.begin():
        retry(person, campaign, now)
        # Its rows are not seen yet; that somebody is at them is.
        assert campaigns.finish_done(session, now) == []
        session.commit()
    assert campaigns.finish_done(session, now) == []
    assert (state(session, campaign), recount(session, campaign)["pending"]) == ("running", 3)


def test_a_retry_that_meets_the_end_opens_the_campaign_again(
    engine: Engine, session: Session, app: App, now: datetime
) -> None:
    campaign = make_campaign(session, app, 3)
    settle(session, campaign, now, Status.FAILED)
    session.commit()
    finished, _ = meet(
        engine, lambda one: campaigns.finish_done(one, now), lambda one: retry(one, campaign, now)
    )
    assert finished == ["black-friday"]
    assert (state(session, campaign), recount(session, campaign)["pending"]) == ("running", 3)
    assert counters.counts(session, [campaign.id])[campaign.id] == recount(session, campaign)


# -- pause, resume, cancel --------------------------------------------------------------------------------


def test_a_pause_and_its_end_repeat_and_skip_nothing(session: Session, app: App, now: datetime) -> None:
    campaign = make_campaign(session, app, 50)
    sent: list[int] = []
    for stop in range(60):
        campaigns.resume(session, campaign, now) if stop else None
        for job in releases.release(session, now):
            # A worker is in the middle of a batch when it is paused, and puts back what it has not begun.
            rows = batches.claim(session, job, 3, "w", now)
            campaigns.pause(session, campaign)
            done, back = rows[:2], rows[2:]
            sent += [row.id for row in done]
            batches.record(session, [Outcome(r.id, r.claim, Status.ACCEPTED) for r in done], now)
            batches.record(session, [Outcome(r.id, r.claim, Status.PENDING) for r in back], now)
            assert batches.claim(session, job, 3, "w", now) == []
            batches.finish(session, [job], now)
        if campaign.state == "running":
            break
    assert len(sent) == len(set(sent)) == 50
    assert campaigns.finish_done(session, now) == ["black-friday"]


def test_pausing_twice_is_one_pause_and_its_reason_stays(session: Session, app: App) -> None:
    campaign = make_campaign(session, app, 1)
    campaigns.pause(session, campaign, reason="wrong price", by="ana")
    campaigns.pause(session, campaign, reason="lunch", by="bia")
    assert campaign.pause_reason == "wrong price"
    assert told(session) == [("campaign_paused", "black-friday is paused: wrong price")]


def test_what_was_paused_before_it_began_goes_on_at_its_instant_or_at_once_after_it(
    session: Session, app: App, now: datetime
) -> None:
    campaign = make_campaign(session, app, 1, state="scheduled", launch_at=now + HOUR)
    campaigns.pause(session, campaign)
    campaigns.resume(session, campaign, now)
    assert campaign.state == "scheduled"
    campaigns.pause(session, campaign)
    assert campaigns.start_due(session, now + HOUR) == []
    campaigns.resume(session, campaign, now + HOUR)
    assert campaign.state == "running"


def test_a_resume_that_meets_a_cancel_finds_it_cancelled(
    engine: Engine, session: Session, app: App, now: datetime
) -> None:
    campaign = make_campaign(session, app, 3, state="paused")
    session.commit()
    _, refused = meet(
        engine,
        lambda one: campaigns.cancel(one, campaigns.get(one, "black-friday", lock=True), now, by="ana"),
        lambda one: campaigns.resume(one, campaigns.get(one, "black-friday", lock=True), now),
    )
    assert isinstance(refused, ConflictError)
    assert state(session, campaign) == "cancelled"


def test_a_cancel_that_meets_a_resume_cancels(
    engine: Engine, session: Session, app: App, now: datetime
) -> None:
    campaign = make_campaign(session, app, 3, state="paused")
    session.commit()
    meet(
        engine,
        lambda one: campaigns.resume(one, campaigns.get(one, "black-friday", lock=True), now),
        lambda one: campaigns.cancel(
            one, campaigns.get(one, "black-friday", lock=True), now, by="ana", why="late"
        ),
    )
    assert state(session, campaign) == "cancelled"
    assert releases.release(session, now) == []
    while campaigns.cancel_rest(session, now, page=2):
        pass
    assert recount(session, campaign)["cancelled"] == 3
    assert counters.counts(session, [campaign.id])[campaign.id] == recount(session, campaign)
    assert told(session) == [("campaign_cancelled", "black-friday was cancelled by ana: late")]


def test_a_pause_does_not_wait_for_what_workers_record(
    engine: Engine, session: Session, app: App, now: datetime
) -> None:
    campaign = make_campaign(session, app, 3)
    session.commit()
    with Session(engine) as worker, worker.begin():
        settle(worker, campaign, now, Status.ACCEPTED)
        session.execute(text("SET LOCAL lock_timeout = '1s'"))
        campaigns.pause(session, campaigns.get(session, "black-friday", lock=True))
        session.commit()
    assert state(session, campaign) == "paused"


def test_who_has_a_campaign_in_hand_sees_it_as_it_is_when_it_is_locked(
    engine: Engine, session: Session, app: App, now: datetime
) -> None:
    make_campaign(session, app, 3)
    session.commit()
    seen = campaigns.get(session, "black-friday")
    session.commit()
    with Session(engine) as other, other.begin():
        campaigns.pause(other, campaigns.get(other, "black-friday", lock=True))
    assert seen.state == "running"
    assert campaigns.get(session, "black-friday", lock=True).state == "paused"


# -- reschedule -------------------------------------------------------------------------------------------


def test_a_scheduled_campaign_begins_at_the_new_instant(session: Session, app: App, now: datetime) -> None:
    campaign = make_campaign(session, app, 1, state="scheduled", launch_at=now)
    campaigns.reschedule(session, campaign, now + HOUR, now, by="ana", why="rain")
    assert campaigns.start_due(session, now) == []
    assert campaigns.start_due(session, now + HOUR) == ["black-friday"]
    [action] = session.scalars(select(Action))
    assert (action.verb, action.actor, action.why) == ("reschedule", "ana", "rain")
    assert action.details == {
        "at": (now + HOUR).isoformat(),
        "before": now.isoformat(),
        "state": "scheduled",
    }


def test_a_paused_campaign_goes_on_by_itself_where_it_was(session: Session, app: App, now: datetime) -> None:
    campaign = make_campaign(session, app, 20)
    [job, *_] = releases.release(session, now)
    rows = batches.claim(session, job, 5, "w", now)
    batches.record(session, [Outcome(r.id, r.claim, Status.ACCEPTED) for r in rows], now)
    campaigns.pause(session, campaign, reason="night")
    campaigns.reschedule(session, campaign, now + HOUR, now)
    assert (campaign.state, campaign.pause_reason) == ("scheduled", None)
    assert campaign.stop_if_from == {"answered": 5, "failed": 0, "unknown": 0}
    assert batches.claim(session, job, 5, "w", now) == []
    assert campaigns.start_due(session, now + HOUR) == ["black-friday"]
    assert len(batches.claim(session, job, 20, "w", now)) == job.size - 5


@pytest.mark.parametrize(
    ("there", "sentence"),
    [
        ("running", "is running; `disparo campaign pause black-friday` first"),
        ("importing", "is importing; only a scheduled or paused campaign"),
        ("finished", "is finished; only"),
        ("cancelled", "is cancelled; only"),
    ],
)
def test_what_neither_waits_nor_is_paused_is_not_rescheduled(
    session: Session, app: App, now: datetime, there: str, sentence: str
) -> None:
    campaign = make_campaign(session, app, 1, state=there)
    with pytest.raises(ConflictError, match=sentence):
        campaigns.reschedule(session, campaign, now + HOUR, now)
    assert (campaign.state, campaign.launch_at) == (there, None)


def test_an_instant_that_has_passed_or_is_too_late_is_refused(
    session: Session, app: App, now: datetime
) -> None:
    campaign = make_campaign(session, app, 1, state="paused", not_after=now + 2 * HOUR)
    campaign.not_after = now + 2 * HOUR
    for at, sentence in ((now, "is to come"), (now + 2 * HOUR, "may not leave after 2026-11-21 14:00 UTC")):
        with pytest.raises(InputError, match=sentence):
            campaigns.reschedule(session, campaign, at, now)
    assert campaign.state == "paused"


def test_a_start_that_meets_a_reschedule_does_not_happen(
    engine: Engine, session: Session, app: App, now: datetime
) -> None:
    campaign = make_campaign(session, app, 1, state="scheduled", launch_at=now)
    session.commit()
    _, started = meet(
        engine,
        lambda one: campaigns.reschedule(
            one, campaigns.get(one, "black-friday", lock=True), now + HOUR, now - HOUR
        ),
        lambda one: campaigns.start_due(one, now),
    )
    assert started == []
    assert state(session, campaign) == "scheduled"


def test_a_reschedule_that_meets_the_start_says_that_it_runs(
    engine: Engine, session: Session, app: App, now: datetime
) -> None:
    campaign = make_campaign(session, app, 1, state="scheduled", launch_at=now)
    session.commit()
    started, refused = meet(
        engine,
        lambda one: campaigns.start_due(one, now),
        lambda one: campaigns.reschedule(one, campaigns.get(one, "black-friday", lock=True), now + HOUR, now),
    )
    assert started == ["black-friday"]
    assert "is running" in str(refused)
    assert state(session, campaign) == "running"


def test_an_import_does_not_keep_out_who_settles_its_rows(
    engine: Engine, session: Session, app: App, now: datetime
) -> None:
    """Else the two could wait for each other, where a move needs the rows of another campaign."""
    campaign = make_campaign(session, app, 3, state="importing", not_after=now)
    loaded = make_import(session, campaign)
    session.commit()
    with Session(engine) as other, other.begin():
        recipients.hold(session, campaign, loaded)
        other.execute(text("SET LOCAL lock_timeout = '1s'"))
        assert campaigns.expire(other, now) == 3


# -- not_after --------------------------------------------------------------------------------------------


def test_a_campaigns_own_deadline_counts_for_rows_that_were_made_with_a_later_one(
    session: Session, app: App, now: datetime
) -> None:
    campaign = make_campaign(session, app, 5, not_after=now + HOUR)
    make_messages(session, app, 2, campaign=make_campaign(session, app, name="other"), lane="marketing")
    campaign.not_after = now
    session.flush()
    assert campaigns.shut(session, now - HOUR, ZONE) == []
    assert campaigns.shut(session, now, ZONE) == [campaign.id]
    assert campaigns.expire(session, now, page=3) == 3
    assert campaigns.expire(session, now, page=3) == 2
    assert campaigns.expire(session, now) == 0
    assert recount(session, campaign)["expired"] == 5
    assert counters.counts(session, [campaign.id])[campaign.id] == recount(session, campaign)
