"""A campaign's status: what limits it, until when, and when it ends."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import text, update

from disparo import actions, batches, campaigns, counters, db, portfolios, progress
from disparo.batches import Job
from disparo.models import CounterDelta, Installation, Message
from disparo.portfolios import COUNTED_FOR
from disparo.statuses import LimitedBy
from tests.factories.app import make_app, make_stop
from tests.factories.campaign import make_batch, make_campaign
from tests.factories.installation import make_worker
from tests.factories.portfolio import make_counted, make_portfolio

ZONE = ZoneInfo("America/Sao_Paulo")
SECOND, MINUTE, HOUR, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
TEMPLATE = "oferta/pt_BR"


@pytest.fixture
def now(session):
    return db.now(session)


@pytest.fixture
def app(session):
    return make_app(session, rate=20.0)


@pytest.fixture
def worker(session, now):
    return make_worker(session, now + HOUR)


def status(session, campaign, now):
    return progress.status(session, campaign, now, ZONE)


def limit(session, campaign, now):
    found = status(session, campaign, now)
    return found["limited_by"], found["until"]


def answered(session, campaign, now, *, per_second, seconds, until=0):
    """Answers of so many seconds up to ``until`` seconds ago, as workers record them, the rows moved with them."""
    for ago in range(until + seconds - 1, until - 1, -1):
        changes = [("pending", -per_second), ("accepted", per_second), ("sending", -per_second)]
        counters.add_deltas(session, [(campaign.id, name, n) for name, n in changes])
        counters.add_deltas(session, [(campaign.id, "sending", per_second)])
        young = update(CounterDelta).where(CounterDelta.campaign_id == campaign.id, CounterDelta.at == now)
        session.execute(young.values(at=now - (ago + 0.2) * SECOND))
    session.execute(
        text("""
            UPDATE messages SET status = 'accepted' WHERE id IN (
                SELECT id FROM messages WHERE campaign_id = :id AND status = 'pending' ORDER BY id LIMIT :n)"""),
        {"id": campaign.id, "n": per_second * seconds},
    )


def at(*parts):
    return datetime(*parts, tzinfo=ZONE)


# -- what limits it ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paces", "cause"),
    [
        ([{"rate": 4.0, "network": 0.5}], LimitedBy.RATE),
        ([{"rate": 1.0, "network": 0.5}, {"network": 3.0}], LimitedBy.NETWORK),
        ([{"database": 4, "rate": 1}], LimitedBy.DATABASE),
        ([{"pair": 2.5}, {}], LimitedBy.PAIR),
        ([{}], LimitedBy.NONE),
        ([{"rate": 0.0, "of a newer version": 9.0, "network": "much"}], LimitedBy.NONE),
    ],
)
def test_what_takes_most_of_the_workers_time_limits_it(session, app, now, paces, cause):
    campaign = make_campaign(session, app, 10)
    for n, told in enumerate(paces):
        make_worker(session, now + HOUR, f"w{n}", pace={str(app.id): told, "999999": {"pair": 60.0}})
    # What a dead worker told counts no more.
    make_worker(session, now - HOUR, "dead", pace={str(app.id): {"database": 60.0}})
    assert limit(session, campaign, now) == (cause, None)


def test_where_no_worker_tells_it_the_speed_does(session, app, worker, now):
    campaign, slow = make_campaign(session, app, 900), make_campaign(session, app, 900, name="slow")
    assert limit(session, campaign, now)[0] == LimitedBy.NONE
    # Half of the app's 20/s is that of each.
    answered(session, campaign, now, per_second=9, seconds=12)
    answered(session, slow, now, per_second=5, seconds=12)
    assert [limit(session, one, now)[0] for one in (campaign, slow)] == [LimitedBy.RATE, LimitedBy.NETWORK]


def test_a_campaign_at_its_own_rate_is_limited_by_that_whatever_its_app_waits_for(session, app, now):
    make_worker(session, now + HOUR, pace={str(app.id): {"network": 5.0}})
    campaign = make_campaign(session, app, 900, max_per_second=5.0)
    answered(session, campaign, now, per_second=5, seconds=12)
    assert limit(session, campaign, now)[0] == LimitedBy.RATE


def test_what_waits_for_its_recipients_says_pair_and_until_when(session, app, worker, now):
    campaign = make_campaign(session, app, 3)
    rows = session.query(Message).order_by(Message.id).all()
    for n, row in enumerate(rows):
        row.due_at, row.code = now + (n + 1) * 6 * SECOND, "pair_pacing"
    session.flush()
    found = status(session, campaign, now)
    assert (found["limited_by"], found["eta_seconds"]) == (LimitedBy.PAIR, 18)
    assert found["until"] == found["next_try_at"] == (now + 6 * SECOND).isoformat()
    rows[0].code = "429"
    session.flush()
    assert limit(session, campaign, now) == (LimitedBy.NONE, (now + 6 * SECOND).isoformat())
    # One that may go at once is held up by neither.
    rows[2].due_at = None
    session.flush()
    assert limit(session, campaign, now) == (LimitedBy.NONE, None)


def test_a_window_that_is_shut_says_when_it_opens(session, app, worker):
    app.windows = {"marketing": "mon-fri 8-20"}
    campaign = make_campaign(session, app, 1_200)
    saturday = at(2026, 11, 28, 12)
    found = status(session, campaign, saturday)
    opens = at(2026, 11, 30, 8)
    assert (found["limited_by"], datetime.fromisoformat(found["until"])) == (LimitedBy.WINDOW, opens)
    assert datetime.fromisoformat(found["eta_at"]) == opens + MINUTE
    assert status(session, campaign, opens)["limited_by"] == LimitedBy.NONE
    # Its own window counts before that of its lane.
    campaign.window = "always"
    assert status(session, campaign, saturday)["eta_seconds"] == 60


def test_a_scheduled_campaign_says_when_it_begins_and_when_it_will_end(session, app, worker):
    app.windows = {"marketing": "daily 8-20"}
    launch_at = at(2026, 11, 28, 19, 59, 30)
    campaign = make_campaign(session, app, 1_200, state="scheduled", launch_at=launch_at)
    found = status(session, campaign, at(2026, 11, 27, 12))
    assert (found["limited_by"], datetime.fromisoformat(found["until"])) == (LimitedBy.WINDOW, launch_at)
    assert datetime.fromisoformat(found["eta_at"]) == at(2026, 11, 29, 8, 0, 30)
    campaign.launch_at = at(2026, 11, 28, 22)
    assert datetime.fromisoformat(status(session, campaign, at(2026, 11, 27, 12))["until"]) == at(
        2026, 11, 29, 8
    )


def test_a_used_up_budget_says_whose_and_until_when(session, app, worker, now):
    portfolio = make_portfolio(session, app, limit=100)
    campaign = make_campaign(session, app, 400, template=TEMPLATE)
    free = make_campaign(session, app, 400, name="sessao")
    assert status(session, campaign, now)["limited_by"] == LimitedBy.NONE
    for n in range(100):
        make_counted(session, portfolio, f"x{n}", now - 23 * HOUR + n * SECOND)
    found = status(session, campaign, now)
    frees_at = now - 23 * HOUR + COUNTED_FOR
    assert (found["limited_by"], found["until"]) == (LimitedBy.BUDGET, frees_at.isoformat())
    assert found["budget"] == {
        "portfolio": "grupo",
        "limit": 100,
        "used": 100,
        "left": 0,
        "counting": False,
        "frees_at": frees_at.isoformat(),
    }
    # 100 in an hour, and 300 more in three days.
    assert found["eta_seconds"] == pytest.approx((frees_at - now + 3 * DAY).total_seconds(), rel=0.01)
    found = status(session, free, now)
    assert (found["limited_by"], found["budget"]) == (LimitedBy.NONE, None)
    portfolios.configure(session, "grupo", daily_limit=2_000)
    assert status(session, campaign, now)["limited_by"] == LimitedBy.NONE


def test_a_pause_a_stop_a_missing_worker_and_a_decision_come_before_all_else(session, app, now):
    make_portfolio(session, app, limit=1, counted=False)
    campaign = make_campaign(session, app, 5, template=TEMPLATE)

    def shown():
        found = status(session, campaign, now)
        return found["limited_by"], found["eta_seconds"]

    assert shown() == (LimitedBy.NO_WORKER, None)
    # Of lane marketing, it takes nothing from its queue.
    make_worker(session, now + HOUR, "urgent", queues="urgent")
    assert shown() == (LimitedBy.NO_WORKER, None)
    make_worker(session, now + HOUR)
    assert shown()[0] == LimitedBy.BUDGET
    stop = make_stop(session, app)
    assert shown() == (LimitedBy.PAUSED, None)
    stop.code = "unreachable"
    session.flush()
    assert shown() == (LimitedBy.NETWORK, None)
    campaign.state = "paused"
    assert shown() == (LimitedBy.PAUSED, None)
    counters.add_deltas(session, [(campaign.id, "pending", -5), (campaign.id, "unknown", 5)])
    campaign.state = "running"
    assert shown()[0] == LimitedBy.DECISION
    campaign.state = "finished"
    assert shown() == (LimitedBy.NONE, 0)


# -- when it ends ------------------------------------------------------------------------------------------


def test_the_end_is_told_from_the_last_minute_not_from_the_last_seconds(session, app, worker, now):
    campaign = make_campaign(session, app, 3_600)
    answered(session, campaign, now, per_second=15, seconds=50, until=8)
    answered(session, campaign, now, per_second=1, seconds=8)
    found = status(session, campaign, now)
    left = 3_600 - 758
    assert (found["counts"]["pending"], found["rate"]) == (left, pytest.approx(4, abs=1))
    assert found["eta_seconds"] == pytest.approx(left / (758 / 58), rel=0.03)


def test_a_slow_campaign_is_not_shown_faster_than_it_is(session, app, worker, now):
    campaign = make_campaign(session, app, 900)
    for ago in (25, 20, 15, 10, 5, 0):
        answered(session, campaign, now, per_second=1, seconds=1, until=ago)
    assert status(session, campaign, now)["rate"] == 0.2


def test_what_people_decide_is_no_speed(session, app, worker, now):
    campaign = make_campaign(session, app, 3_600)
    answered(session, campaign, now, per_second=10, seconds=59)
    counters.add_deltas(session, [(campaign.id, "unknown", -3_000), (campaign.id, "accepted", 3_000)])
    found = status(session, campaign, now)
    assert found["rate"] == pytest.approx(10, rel=0.15)
    assert found["eta_seconds"] == pytest.approx((3_600 - 590) / 10, rel=0.03)


def test_time_in_which_it_stood_tells_nothing(session, app, worker, now):
    campaign = make_campaign(session, app, 3_600)
    answered(session, campaign, now, per_second=10, seconds=5, until=50)
    answered(session, campaign, now, per_second=10, seconds=25)
    actions.record_action(session, "resume", f"campaign:{campaign.name}", actor="ana", why=None)
    session.execute(text("UPDATE actions SET at = :at"), {"at": now - 30 * SECOND})
    assert status(session, campaign, now)["eta_seconds"] == pytest.approx(3_300 / 10, rel=0.03)
    session.execute(text("DELETE FROM actions"))
    make_stop(session, app).ended_at = now - 30 * SECOND
    session.flush()
    assert status(session, campaign, now)["eta_seconds"] == pytest.approx(3_300 / 10, rel=0.03)


def test_before_anything_was_answered_the_settings_tell_the_end(session, app, worker, now):
    campaign = make_campaign(session, app, 600)
    assert status(session, campaign, now)["eta_seconds"] == 30
    # Its share beside others of its lane that have something left; other lanes and apps have their own.
    make_campaign(session, app, 5, name="heavy", weight=3)
    make_campaign(session, app, 0, name="empty", weight=9)
    make_campaign(session, app, 5, name="paused", weight=9, state="paused")
    make_campaign(session, app, 5, name="utility", weight=9, lane="utility")
    make_campaign(session, make_app(session, "filial"), 5, name="other", weight=9)
    assert status(session, campaign, now)["eta_seconds"] == 120
    campaign.max_per_second = 2.0
    session.flush()
    assert status(session, campaign, now)["eta_seconds"] == 300
    campaign.max_per_second, app.tuning, app.tuned_rate = None, True, 4.0
    session.flush()
    assert status(session, campaign, now)["eta_seconds"] == 600
    app.tuning = False
    session.execute(update(Installation).values(max_per_second=8.0))
    session.flush()
    assert status(session, campaign, now)["eta_seconds"] == 300


def test_apps_of_one_portfolio_share_what_its_budget_has_left(session, app, worker, now):
    other = make_app(session, "filial", rate=60.0)
    make_portfolio(session, app, other, limit=210)
    campaign = make_campaign(session, app, 400, template=TEMPLATE)
    assert status(session, campaign, now)["eta_seconds"] == pytest.approx(DAY.total_seconds(), rel=0.01)
    make_campaign(session, other, 10, name="other", template=TEMPLATE)
    # A quarter of each day's.
    assert status(session, campaign, now)["eta_seconds"] == pytest.approx(7 * DAY.total_seconds(), rel=0.01)
    # A seventh, beside one that takes half of its rate and nothing of the budget.
    make_campaign(session, app, 10, name="sessao")
    assert status(session, campaign, now)["eta_seconds"] == pytest.approx(13 * DAY.total_seconds(), rel=0.01)


def test_a_canary_ends_with_its_first_and_a_campaign_with_its_last_try_or_its_last_instant(
    session, app, worker, now
):
    campaign = make_campaign(session, app, 2_000, first=600)
    answered(session, campaign, now, per_second=20, seconds=10)
    assert status(session, campaign, now)["eta_seconds"] == 20
    campaign.first = None
    assert status(session, campaign, now)["eta_seconds"] == 90
    session.query(Message).filter_by(status="pending").first().due_at = now + 10 * MINUTE
    session.flush()
    assert status(session, campaign, now)["eta_seconds"] == 600
    campaign.not_after = now + MINUTE
    assert status(session, campaign, now)["eta_seconds"] == 60


def test_the_slowest_rate_has_an_end_without_a_date(session, app, worker, now):
    app.rate = 1e-6
    session.flush()
    found = status(session, make_campaign(session, app, 1_000_000 // 1_000), now)
    assert (found["eta_seconds"], found["eta_at"] is not None) == (10**9, True)
    app.rate = 1e-9
    session.flush()
    assert status(session, make_campaign(session, app, 1_000, name="slower"), now)["eta_at"] is None


def test_a_claim_changes_nothing_of_what_is_left(session, app, worker, now):
    campaign = make_campaign(session, app, 40)
    batch = make_batch(session, campaign)
    batches.claim(session, Job(app.id, campaign.lane, batch_id=batch.id), 10, "w1", now)
    assert status(session, campaign, now)["eta_seconds"] == 2
    assert campaigns.live_workers(session) == 1
