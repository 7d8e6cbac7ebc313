"""What is named to the workers, in whose turn and how much of it, on a real PostgreSQL."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta

import pytest
from sqlalchemy import event, select, text
from sqlalchemy.orm import Session

from disparo import batches, recovery, releases
from disparo.batches import Claimed, Job, Outcome
from disparo.models import App, Batch, Campaign, Message
from disparo.releases import LaneTurns, Turns, ahead_rows, job_rows
from disparo.statuses import Lane, Status
from tests.factories.app import make_app, make_stop
from tests.factories.campaign import make_campaign
from tests.factories.installation import make_worker
from tests.factories.message import make_message

SECOND = timedelta(seconds=1)


def accepted(row: Claimed) -> Outcome:
    return Outcome(row.id, row.claim, Status.ACCEPTED, spent=True, verdict="accepted", gs_id=f"gs-{row.id}")


def send(session: Session, jobs: Sequence[Job], now: datetime, limit: int = 100_000) -> Counter[int | None]:
    """Let up to so many rows of the jobs be accepted, in their order; how many of each campaign."""
    sent: Counter[int | None] = Counter()
    for job in jobs:
        rows = batches.claim(session, job, limit, "w", now)
        batches.record(session, [accepted(row) for row in rows], now)
        limit -= len(rows)
        sent[job.campaign_id] += len(rows)
        if not limit:
            break
        batches.finish(session, [job], now)
    return sent


def sizes(jobs: Sequence[Job]) -> list[int]:
    return [job.size for job in jobs]


# -- how much ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "ahead", "job"),
    [(0.01, 1, 1), (0.1, 2, 1), (1, 20, 5), (2, 40, 10), (10, 40, 10), (20, 40, 10), (80, 160, 20),
     (1_000, 2_000, 250), (2_000, 4_000, 500), (2_500, 5_000, 500), (100_000, 5_000, 500)],
)  # fmt: skip
def test_about_two_seconds_of_the_rate_are_kept_ahead_in_some_jobs(rate: float, ahead: int, job: int) -> None:
    assert (ahead_rows(rate), job_rows(ahead)) == (ahead, job)


@pytest.mark.parametrize(("ahead", "job"), [(1, 1), (2, 1), (20, 10), (40, 20), (160, 20), (2_000, 250)])
def test_jobs_of_who_is_alone_in_its_lane_are_larger_where_the_rate_is_low(ahead: int, job: int) -> None:
    assert job_rows(ahead, alone=True) == job


@pytest.mark.parametrize("rate", [0.1, 1.0, 10.0, 80.0, 500.0])
def test_a_lane_is_filled_when_half_of_it_is_free_and_never_beyond(
    session: Session, now: datetime, rate: float
) -> None:
    ahead, job = ahead_rows(rate), job_rows(ahead_rows(rate), alone=True)
    make_campaign(session, make_app(session, rate=rate), 3 * ahead)
    first = releases.release(session, now)
    assert set(sizes(first)) == {job}
    assert sum(sizes(first)) == ahead
    assert releases.release(session, now) == []
    # Claimed in part, it counts in part.
    send(session, first, now, (ahead - 1) // 2)
    assert releases.release(session, now) == [] or ahead == 2
    send(session, first, now, ahead // 2 - (ahead - 1) // 2)
    again = releases.release(session, now)
    assert {one.batch_id for one in again}.isdisjoint(one.batch_id for one in first)
    assert ahead - job < ahead - ahead // 2 + sum(sizes(again)) <= ahead or ahead == 2


def test_each_lane_has_room_of_its_own_and_payments_are_named_first(session: Session, now: datetime) -> None:
    app = make_app(session, rate=10)
    for lane in (Lane.MARKETING, Lane.UTILITY):
        make_campaign(session, app, 100, name=lane, lane=lane)
    jobs = releases.release(session, now)
    assert [job.lane for job in jobs] == [Lane.UTILITY] * 2 + [Lane.MARKETING] * 2
    make_campaign(session, app, 100, name="pix", lane=Lane.PAYMENT)
    jobs = releases.release(session, now)
    assert [(job.lane, job.size) for job in jobs] == [(Lane.PAYMENT, 20)] * 2
    assert releases.release(session, now) == []


@pytest.mark.parametrize(("rate", "tuned", "everything", "rows"), [
    (100, 20, None, 40), (100, 500, None, 200), (100, None, 30, 60), (100, 40, 30, 60), (100, None, 300, 200),
])  # fmt: skip
def test_the_room_follows_the_rate_that_is_in_force(
    session: Session, now: datetime, rate: float, tuned: float | None, everything: float | None, rows: int
) -> None:
    app = make_app(session, rate=rate, tuning=True, tuned_rate=tuned)
    session.execute(text("UPDATE installation SET max_per_second = :n"), {"n": everything})
    make_campaign(session, app, 300)
    assert sum(sizes(releases.release(session, now))) == rows
    app.tuning = False
    session.flush()
    recovery.release_everything_again(session)
    everywhere = sum(sizes(releases.release(session, now)))
    assert everywhere <= ahead_rows(min(rate, everything or rate))


def test_what_its_own_limit_holds_back_takes_no_room_of_others(session: Session, now: datetime) -> None:
    app = make_app(session, rate=100)
    slow = make_campaign(session, app, 300, name="devagar", max_per_second=1.0)
    other = make_campaign(session, app, 300, name="outra")
    rows = Counter[int | None]()
    for job in releases.release(session, now):
        rows[job.campaign_id] += job.size
    assert rows == {slow.id: 2, other.id: 175}, "175: seven whole jobs"
    assert releases.release(session, now) == []


@pytest.mark.parametrize(("rate", "limits"), [(10.0, (1.0, 1.0)), (80.0, (10.0,) * 3), (80.0, (2.0,) * 20)])
def test_campaigns_with_limits_of_their_own_leave_the_rest_of_the_rate_to_others(
    session: Session, now: datetime, rate: float, limits: tuple[float, ...]
) -> None:
    app, turns, jobs = make_app(session, rate=rate), Turns(), list[Job]()
    slow = [make_campaign(session, app, name=f"c{n}", max_per_second=cap) for n, cap in enumerate(limits)]
    other = make_campaign(session, app, name="outra")
    for campaign in [*slow, other]:
        add_rows(session, campaign, round(10 * rate))
    sent: Counter[int | None] = Counter()
    for half_second in range(20):
        jobs += releases.release(session, now, turns)
        quotas = {other.id: round((rate - sum(limits)) / 2)}
        if half_second % 2:
            quotas |= {one.id: round(cap) for one, cap in zip(slow, limits, strict=True)}
        for campaign_id, quota in quotas.items():
            sent += send(session, [job for job in jobs if job.campaign_id == campaign_id], now, quota)
        jobs = [job for job in jobs if left_of(session, job)]
    assert sent[other.id] == round(10 * (rate - sum(limits)))


def test_messages_that_a_producer_named_itself_take_at_most_half_of_the_room(
    session: Session, now: datetime
) -> None:
    app = make_app(session, rate=10)
    for n in range(100):
        make_message(session, app, f"55119876{n:05}", lane=Lane.MARKETING, due_at=now, released_at=now)
    campaign = make_campaign(session, app, 100)
    jobs = releases.release(session, now)
    assert {job.campaign_id for job in jobs} == {campaign.id}
    assert sum(sizes(jobs)) == ahead_rows(10) // 2
    # It is filled again when half of that is free, not when nothing is left.
    assert send(session, jobs[:1], now) == {campaign.id: 10}
    assert sum(sizes(releases.release(session, now))) == 10


def test_the_queue_holds_no_more_than_the_rooms_however_large_a_campaign_is(
    session: Session, now: datetime
) -> None:
    make_worker(session, now)
    rates = {"devagar": 0.1, "padrao": 10.0, "loja": 80.0, "rapida": 1_000.0}
    apps = {name: make_app(session, name, rate=rate) for name, rate in rates.items()}
    lanes = {(name, lane): 0 for name in apps for lane in Lane}
    for name, lane in lanes:
        campaign = make_campaign(session, apps[name], name=f"{name}-{lane}", lane=lane)
        add_rows(session, campaign, 20_000 if name == "rapida" else 2_000)
    jobs: list[Job] = []
    turns = Turns()
    for _ in range(5):
        jobs += releases.release(session, now, turns)
    found: Counter[tuple[int, str]] = Counter()
    for job in jobs:
        found[job.app_id, job.lane] += job.size
    assert found == {(apps[name].id, lane): ahead_rows(rates[name]) for name, lane in lanes}
    assert Counter(job.app_id for job in jobs) == {
        apps["devagar"].id: 3 * 2, apps["padrao"].id: 3 * 2, apps["loja"].id: 3 * 8, apps["rapida"].id: 3 * 8,
    }  # fmt: skip
    assert session.scalar(text("SELECT sum(size) FROM batches WHERE state = 'released'")) == sum(sizes(jobs))


def add_rows(session: Session, campaign: Campaign, n: int, **columns: object) -> None:
    """Many pending rows at once."""
    values = {"app_id": campaign.app_id, "campaign_id": campaign.id, "lane": campaign.lane} | columns
    names = ", ".join(values)
    session.execute(
        text(f"""
            INSERT INTO messages ({names}, recipient, recipient_key)
            SELECT {", ".join(f":{name}" for name in values)}, '55119' || line, '119' || line
            FROM generate_series(10000000, 9999999 + CAST(:n AS integer)) AS line"""),
        values | {"n": n},
    )


# -- whose turn -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1.0, 10.0, 80.0])
@pytest.mark.parametrize("weights", [(1, 1), (1, 3), (1, 2, 7)])
def test_campaigns_of_a_lane_leave_in_proportion_to_their_weights(
    session: Session, now: datetime, rate: float, weights: tuple[int, ...]
) -> None:
    app, rows = make_app(session, rate=rate), round(40 * job_rows(ahead_rows(rate)))
    campaigns = [make_campaign(session, app, name=f"c{n}", weight=n) for n in set(weights)]
    campaigns += [make_campaign(session, app, name="igual")] if len(campaigns) < len(weights) else []
    for campaign in campaigns:
        add_rows(session, campaign, rows)
    turns, sent, waiting = Turns(), Counter[int | None](), list[Job]()
    while sent.total() < rows:
        waiting += releases.release(session, now, turns)
        sent += send(session, waiting, now, ahead_rows(rate) // 4)
        waiting = [job for job in waiting if left_of(session, job)]
    job = job_rows(ahead_rows(rate))
    for campaign in campaigns:
        share = sent.total() * campaign.weight / sum(one.weight for one in campaigns)
        assert abs(sent[campaign.id] - share) <= 2 * job, (campaign.weight, sent)


def left_of(session: Session, job: Job) -> bool:
    assert job.batch_id is not None
    return session.get_one(Batch, job.batch_id, populate_existing=True).state == "released"


def test_two_schedulers_keep_the_shares_together(session: Session, now: datetime) -> None:
    app = make_app(session, rate=10)
    one, two = (make_campaign(session, app, name=f"c{n}", weight=n) for n in (1, 3))
    for campaign in (one, two):
        add_rows(session, campaign, 800)
    schedulers, sent = (Turns(), Turns()), Counter[int | None]()
    for n in range(20):
        # As uneven as their ticks come.
        sent += send(session, releases.release(session, now, schedulers[n % 3 == 0]), now)
    assert sent.total() == 20 * 40
    assert abs(sent[two.id] - 600) <= 2 * 10


def test_who_comes_later_begins_where_the_others_are(session: Session, now: datetime) -> None:
    app, turns = make_app(session, rate=10), Turns()
    first = make_campaign(session, app, 200, name="primeira")
    for _ in range(3):
        assert send(session, releases.release(session, now, turns), now) == {first.id: 40}
    later = make_campaign(session, app, 200, name="depois")
    # But for half a job: the last one of the first was one of twice the size, since nobody else waited.
    assert send(session, releases.release(session, now, turns), now) == {first.id: 10, later.id: 30}


def test_single_messages_of_a_lane_take_turns_with_its_campaigns(session: Session, now: datetime) -> None:
    app, turns = make_app(session, rate=10), Turns()
    campaign = make_campaign(session, app, 200)
    for n in range(100):
        make_message(session, app, f"55119876{n:05}", lane=Lane.MARKETING, due_at=now)
    sent: Counter[int | None] = Counter()
    for _ in range(3):
        sent += send(session, releases.release(session, now, turns), now)
    assert sent == {None: 60, campaign.id: 60}


def test_a_storm_of_retries_passes_neither_other_campaigns_nor_new_rows_of_its_own(
    session: Session, now: datetime
) -> None:
    app, turns = make_app(session, rate=10), Turns()
    storm, other = (make_campaign(session, app, name=name) for name in ("tempestade", "outra"))
    add_rows(session, storm, 300, due_at=now)
    for campaign in (storm, other):
        add_rows(session, campaign, 300)
    named = Counter[tuple[int | None, bool]]()
    for _ in range(4):
        jobs = releases.release(session, now, turns)
        for job in jobs:
            named[job.campaign_id, job.batch_id is None] += job.size
        send(session, jobs, now)
    assert named == {(storm.id, True): 40, (storm.id, False): 40, (other.id, False): 80}


def test_what_was_handed_back_comes_before_retries_and_new_rows(session: Session, now: datetime) -> None:
    app, turns = make_app(session, rate=80), Turns()
    campaign = make_campaign(session, app, 400)
    first = releases.release(session, now, turns)
    batches.hand_back(session, [job.batch_id for job in first[1:3] if job.batch_id is not None])
    add_rows(session, campaign, 10, due_at=now)
    send(session, [first[0], *first[3:]], now)
    jobs = releases.release(session, now, turns)
    assert jobs[:2] == first[1:3]
    assert [job.batch_id is None for job in jobs[2:4]] == [True, False]


def test_a_room_that_many_small_campaigns_share_is_filled(session: Session, now: datetime) -> None:
    app = make_app(session, rate=10)
    for n in range(60):
        make_campaign(session, app, 1, name=f"c{n}")
    jobs = releases.release(session, now)
    assert len({job.campaign_id for job in jobs}) == len(jobs) == 31, "less than a whole job is left"


def test_of_a_canary_no_more_than_its_first_rows_are_named(session: Session, now: datetime) -> None:
    app, turns = make_app(session, rate=10), Turns()
    make_campaign(session, app, 100, first=13)
    jobs = releases.release(session, now, turns)
    assert sizes(jobs) == [13]
    send(session, jobs, now)
    assert releases.release(session, now, turns) == []


def test_what_nobody_waits_for_any_more_is_forgotten(session: Session, now: datetime) -> None:
    app, turns = make_app(session, rate=10), Turns()
    gone = make_campaign(session, app, 40, name="acaba")
    stays = make_campaign(session, app, 400, name="fica")
    add_rows(session, gone, 20, due_at=now)
    for _ in range(2):
        send(session, releases.release(session, now, turns), now)
    gone.state = "finished"
    session.flush()
    for _ in range(2):
        send(session, releases.release(session, now, turns), now)
    lane = turns.lane(app.id, Lane.MARKETING)
    assert set(lane._times) == {stays.id}
    assert set(lane._retried) <= {stays.id}
    stays.state = "paused"
    session.flush()
    assert releases.release(session, now, turns) == []
    assert turns.lane(app.id, Lane.MARKETING) is not lane


def test_who_has_nothing_at_times_makes_up_for_nothing() -> None:
    turns, served = LaneTurns(), Counter[int | None]()
    for n in range(400):
        waiting = [1, 2] if n % 4 == 0 else [1]
        one = turns.next(waiting)
        turns.charge(one, 10, 1)
        turns.keep(waiting)
        served[one] += 1
    assert served[2] in (99, 100)
    # All the turns that the second was not there for are gone.
    following = []
    for _ in range(6):
        following.append(turns.next([1, 2]))
        turns.charge(following[-1], 10, 1)
    assert Counter(following) == {1: 3, 2: 3}


# -- what not ---------------------------------------------------------------------------------------------


def test_a_campaign_whose_window_is_shut_is_not_released(session: Session, now: datetime) -> None:
    app = make_app(session)
    one = make_campaign(session, app, 3, name="um")
    make_campaign(session, app, 4, name="dois")
    assert sizes(releases.release(session, now, shut=[one.id])) == [4]


@pytest.mark.parametrize(("scope", "key"), [("app", ""), ("lane", Lane.UTILITY), ("template", "oi/pt_BR")])
def test_single_messages_under_a_stop_are_not_released(
    session: Session, now: datetime, scope: str, key: str
) -> None:
    app, other = make_app(session), make_app(session, "outra")
    make_stop(session, app, scope=scope, key=key)
    for one in (app, other):
        make_message(session, one, template="oi/pt_BR", due_at=now)
    assert [job.app_id for job in releases.release(session, now)] == [other.id]


def test_a_message_is_named_once_until_it_is_silent_for_a_minute(session: Session, now: datetime) -> None:
    app = make_app(session)
    message = make_message(session, app, due_at=now)
    expected = [Job(app.id, Lane.UTILITY, message_ids=(message.id,))]
    assert releases.release(session, now - SECOND) == []
    assert releases.release(session, now) == expected
    worker = make_worker(session, now + 59 * SECOND)
    assert releases.release(session, now + 59 * SECOND) == []
    assert releases.release(session, now + 60 * SECOND) == expected
    worker.seen_at = now + 120 * SECOND
    # While nobody takes from its queue, nothing is named each minute.
    worker.queues = "urgent"
    session.flush()
    assert releases.release(session, now + 120 * SECOND) == []
    worker.queues, worker.seen_at = "bulk", now
    session.flush()
    assert releases.release(session, now + timedelta(hours=1)) == []


def test_what_a_worker_has_in_its_hands_is_not_silent(session: Session, now: datetime) -> None:
    app = make_app(session, rate=0.1)
    held, dropped = (make_message(session, app, due_at=now) for _ in range(2))
    worker = make_worker(session, now, "w")
    for job in releases.release(session, now):
        assert batches.take_messages(session, app.id, job.message_ids, "w") == job
    for seconds in range(0, 200, 5):
        at = now + seconds * SECOND
        worker.seen_at = at
        batches.hold_on(session, "w", [], at, [held.id])
    assert [job.message_ids for job in releases.release(session, at)] == [(dropped.id,)]
    # Not what somebody else holds.
    batches.hold_on(session, "other", [], at + 100 * SECOND, [held.id])
    worker.seen_at = at + 100 * SECOND
    session.flush()
    assert (held.id,) in [job.message_ids for job in releases.release(session, at + 100 * SECOND)]


# -- what it costs ----------------------------------------------------------------------------------------


@contextmanager
def statements(session: Session) -> Iterator[list[str]]:
    """What is sent to the database meanwhile."""
    seen: list[str] = []

    def note(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    engine = session.get_bind()
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)


@pytest.mark.parametrize("apps", [1, 100])
def test_the_number_of_statements_does_not_grow_with_the_apps(
    session: Session, now: datetime, apps: int
) -> None:
    turns = Turns()
    made = [make_app(session, f"app-{n}") for n in range(apps)]
    with statements(session) as idle:
        assert releases.release(session, now, turns) == []
    for app in made:
        campaign = make_campaign(session, app, name=app.name)
        add_rows(session, campaign, 60)
        add_rows(session, campaign, 60, due_at=now)
        make_message(session, app, due_at=now)
    with statements(session) as busy:
        jobs = releases.release(session, now, turns)
    assert Counter(job.app_id for job in jobs) == dict.fromkeys((app.id for app in made), 3)
    with statements(session) as full:
        assert releases.release(session, now, turns) == []
    assert [len(seen) for seen in (idle, busy, full)] == [4, 9, 5]


def test_rows_that_are_due_stand_in_nobodys_way(session: Session, now: datetime) -> None:
    app = make_app(session, rate=10)
    campaign = make_campaign(session, app)
    add_rows(session, campaign, 5_000, due_at=now + timedelta(hours=1))
    add_rows(session, campaign, 50)
    session.execute(text("ANALYZE messages"))
    assert sum(sizes(releases.release(session, now))) == 40
    plan = "\n".join(
        session.scalars(
            text(
                "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) SELECT id FROM messages WHERE campaign_id = :id"
                " AND id > 0 AND status = 'pending' AND due_at IS NULL ORDER BY id LIMIT 10"
            ),
            {"id": campaign.id},
        )
    )
    assert "ix_messages_in_turn" in plan
    assert "Rows Removed" not in plan


def test_nothing_is_named_twice_and_nothing_is_left_out(session: Session, now: datetime) -> None:
    app, turns = make_app(session, rate=80), Turns()
    for lane in Lane:
        for n in range(3):
            campaign = make_campaign(session, app, name=f"{lane}-{n}", lane=lane, weight=n + 1)
            add_rows(session, campaign, 137)
            add_rows(session, campaign, 41, due_at=now)
    sent: Counter[int | None] = Counter()
    for _ in range(100):
        jobs = releases.release(session, now, turns)
        if not jobs:
            break
        ids = [message_id for job in jobs for message_id in job.message_ids]
        assert len(ids) == len(set(ids))
        sent += send(session, jobs, now)
    assert set(sent.values()) == {137 + 41}
    assert set(session.scalars(select(Message.status))) == {Status.ACCEPTED}
    assert session.scalars(select(App.id)).all() == [app.id]
