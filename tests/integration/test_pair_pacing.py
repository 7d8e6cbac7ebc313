"""One message at a time to one recipient: the sender in this process, against a sandbox that refuses what is too much."""

import itertools
import time
from collections import Counter
from datetime import timedelta

import pytest
from sqlalchemy import select, text, update

from disparo import batches, db, messages
from disparo.batches import Job
from disparo.clock import boot_clock
from disparo.errors import DatabaseUnavailable, RedisUnavailable
from disparo.models import App, Campaign, Message, SendError
from disparo.phone import key_of
from disparo.ratelimit.pairs import Turn
from disparo.statuses import Lane, Status
from tests.factories.campaign import make_batch
from tests.factories.message import make_message
from tests.integration.house import House, until
from worker.sender import Sender

ANA = "5511987659999"
SECONDS = 0.5


def paced_app(
    house: House, name: str = "loja", *, rate: float = 200.0, seconds: float = SECONDS, burst: int = 1
) -> App:
    app = house.app(name, rate=rate)
    with house.connections.session() as session:
        session.execute(update(App).where(App.id == app.id).values(pair_seconds=seconds, pair_burst=burst))
    return app


def to_ana(house: House, campaign: Campaign, *lines: int) -> None:
    """Have these lines of a campaign go to one recipient, in the two spellings of its number in turn."""
    with house.connections.session() as session:
        rows = session.scalars(
            select(Message).where(Message.campaign_id == campaign.id).order_by(Message.id)
        ).all()
        for n, line in enumerate(lines):
            to = ANA if n % 2 == 0 else ANA[:4] + ANA[5:]
            rows[line].recipient, rows[line].recipient_key = to, key_of(to)


def arrivals_at_ana(house: House) -> list[dict]:
    return [one for one in house.arrivals() if key_of(one["to"]) == key_of(ANA)]


def gaps(house: House) -> list[float]:
    return [b["at"] - a["at"] for a, b in itertools.pairwise(arrivals_at_ana(house))]


def test_one_recipient_many_times_among_three_thousand_is_never_too_much_and_holds_up_nobody(
    house: House,
) -> None:
    house.sandbox.control(pair=SECONDS)
    campaign = house.campaign(paced_app(house, rate=1000.0), 3_000)
    to_ana(house, campaign, *range(0, 3_000, 150))
    house.sender()
    until(lambda: house.counts(campaign).get("accepted", 0) >= 2_980, "all but those to Ana are accepted")
    # Nobody waited for hers.
    assert len(arrivals_at_ana(house)) < 20
    house.until_counts(campaign, accepted=3_000)
    stats = house.sandbox.stats()
    assert (stats["arrivals"], stats["accepted"], stats["distinct"]) == (3_000, 3_000, 3_000)
    assert min(gaps(house)) >= SECONDS
    texts = [one["body"]["text"]["body"] for one in arrivals_at_ana(house)]
    # In the order of the file.
    assert texts == [f"Oi Cliente {line}" for line in range(0, 3_000, 150)]
    assert {row.attempts for row in house.rows()} == {1}
    with house.connections.session() as session:
        assert session.scalars(select(SendError)).all() == []


def test_campaigns_lanes_and_workers_share_a_recipients_turns(house: House) -> None:
    house.sandbox.control(pair=SECONDS)
    app = paced_app(house)
    campaigns = [
        house.campaign(app, 6, name=f"c{n}", lane=lane)
        for n, lane in enumerate(("marketing", "utility", "payment"))
    ]
    for campaign in campaigns:
        to_ana(house, campaign, 0, 2)
    house.sender()
    other = house.sender()
    with house.connections.session() as session:
        single = make_message(session, app, ANA, due_at=db.now(session))
        single.recipient_key = key_of(ANA)
    # The other worker is given the same work as well.
    other.take_messages(app.id, [single.id])
    for campaign in campaigns:
        house.until_counts(campaign, accepted=6)
    until(lambda: house.rows()[-1].status == Status.ACCEPTED, "the single message is accepted")
    assert house.sandbox.stats()["refused"]["total"] == 0
    assert len(arrivals_at_ana(house)) == 7
    assert min(gaps(house)) >= SECONDS


def test_what_waits_says_so_and_leaves_the_campaign_unfinished(house: House) -> None:
    app = paced_app(house, seconds=3600)
    campaign = house.campaign(app, 4)
    to_ana(house, campaign, 0, 2, 3)
    house.sender()
    house.until_counts(campaign, accepted=2, pending=2)
    waiting = [row for row in house.rows() if row.status == Status.PENDING]
    until(lambda: all(row.code == "pair_pacing" for row in house.rows()[2:]), "it is known why they wait")
    waiting = [row for row in house.rows() if row.status == Status.PENDING]
    assert [row.line for row in waiting] == [4, 5]
    assert all("3600 s" in (row.reason or "") and row.attempts == 0 for row in waiting)
    now = waiting[0].claimed_at
    assert now is not None
    # A place in the line each.
    first, second = sorted((row.due_at - now).total_seconds() for row in waiting if row.due_at)
    assert 3600 <= first < 3605
    assert second - first >= 3600
    with house.connections.session() as session:
        shown = messages.describe(session, session.get_one(Message, waiting[0].id))
    assert (shown["code"], shown["state"]) == ("pair_pacing", "pending")


def test_a_refusal_by_whatsapp_holds_the_recipient_and_nobody_else(house: House) -> None:
    # Another system has written to Ana a moment ago.
    house.sandbox.control(suffix_faults={ANA[-4:]: "meta:131056*2"})
    app = paced_app(house, seconds=0.3)
    campaign = house.campaign(app, 12)
    to_ana(house, campaign, 0, 4)
    with house.connections.session() as session:
        # One spelling only: the sandbox counts attempts by number.
        session.execute(update(Message).where(Message.recipient == ANA[:4] + ANA[5:]).values(recipient=ANA))
    house.sender()
    house.until_counts(campaign, accepted=12)
    ana = arrivals_at_ana(house)
    assert [one["outcome"] for one in ana] == ["meta:131056", "meta:131056", "accepted", "accepted"]
    # The documented waits, by the sandbox's clock; the second message tried nothing in vain.
    assert ana[1]["at"] - ana[0]["at"] >= 1
    assert ana[2]["at"] - ana[1]["at"] >= 4
    first, second = (row for row in house.rows() if row.recipient == ANA)
    assert (first.attempts, second.attempts) == (3, 1)
    others = [one for one in house.arrivals() if one["to"] != ANA]
    assert len(others) == 10
    assert max(one["number"] for one in others) < ana[2]["number"]


def test_a_recipient_whom_whatsapp_refuses_for_good_is_given_up_message_by_message(house: House) -> None:
    house.sandbox.control(suffix_faults={ANA[-4:]: "meta:131056"})
    app = paced_app(house, seconds=0.3)
    campaign = house.campaign(app, 1)
    to_ana(house, campaign, 0)
    with house.connections.session() as session:
        session.execute(update(Message).values(attempts=5))
    house.sender()
    house.until_counts(campaign, failed=1)
    assert house.rows()[0].code == "131056"


def test_an_emptied_redis_forgets_no_recipient(house: House) -> None:
    house.sandbox.control(pair=3)
    app = paced_app(house, seconds=3)
    campaign = house.campaign(app, 5)
    to_ana(house, campaign, 0, 2, 4)
    house.sender()
    until(lambda: arrivals_at_ana(house), "the first has left")
    house.until_counts(campaign, accepted=3, pending=2)
    house.redis.flushdb()
    with house.connections.session() as session:
        # Two at once ask again, much too early.
        session.execute(
            text("UPDATE messages SET due_at = now(), released_at = NULL WHERE status = 'pending'")
        )
    house.until_counts(campaign, accepted=5)
    assert house.sandbox.stats()["refused"]["total"] == 0
    assert min(gaps(house)) >= 3


def test_what_was_claimed_just_now_counts_until_it_is_known_what_became_of_it(house: House) -> None:
    app = paced_app(house)
    with house.connections.session() as session:
        now = db.now(session)
        rows = [make_message(session, app, due_at=now) for _ in range(4)]
        for row, columns in zip(
            rows,
            [
                {"status": "sending", "claimed_at": now - timedelta(seconds=60)},
                {
                    "status": "accepted",
                    "claimed_at": now - timedelta(seconds=60),
                    "accepted_at": now - timedelta(seconds=9),
                },
                {
                    "status": "accepted",
                    "claimed_at": now - timedelta(seconds=60),
                    "accepted_at": now - timedelta(seconds=11),
                },
                {"status": "pending", "claimed_at": now - timedelta(seconds=3)},
            ],
            strict=True,
        ):
            for name, value in columns.items():
                setattr(row, name, value)
        session.flush()
        key = rows[0].recipient_key
        since = now - timedelta(seconds=10)

        def lately(*but: int) -> dict:
            return messages.sent_lately(session, app.id, [key, "other"], list(but), since, now)

        assert lately() == {key: (3, now)}
        assert lately(rows[0].id) == {key: (2, now - timedelta(seconds=3))}
        assert lately(rows[0].id, rows[3].id) == {key: (1, now - timedelta(seconds=9))}
        assert lately(*[row.id for row in rows]) == {}
        assert messages.sent_lately(session, app.id + 1, [key], [], since, now) == {}


def claimed(house: House, n: int) -> tuple[Sender, Job]:
    """A sender that nothing is given to, and a job of ``n`` rows to Ana."""
    house.paused.set()
    app = paced_app(house, seconds=30)
    campaign = house.campaign(app, n)
    to_ana(house, campaign, *range(n))
    sender = house.sender()
    with house.connections.session() as session:
        batch = make_batch(session, campaign)
        job = batches.take(session, [batch.id], sender.name, db.now(session)).get(batch.id)
    assert job is not None
    return sender, job


def test_rows_that_wait_make_room_for_the_rows_behind_them(house: House) -> None:
    sender, job = claimed(house, 40)
    with house.connections.session() as session:
        last = session.scalars(select(Message).order_by(Message.id.desc()).limit(3)).all()
        for row in last:
            row.recipient_key = row.recipient = f"55119876500{row.id:02}"
    rows = sender.claim(job, 4, sender.route(job.app_id))
    assert [row.id for row in rows] == [1, 38, 39, 40]
    until(
        lambda: Counter(row.status for row in house.rows()) == {"sending": 4, "pending": 36},
        "the others wait",
    )


@pytest.mark.parametrize("fault", [RedisUnavailable("away"), DatabaseUnavailable("away")])
def test_nothing_leaves_while_nobody_knows_whose_turn_it_is(
    house: House, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    sender, job = claimed(house, 5)
    pairs = house.connections.pairs

    def fails(*_: object, **__: object) -> object:
        raise fault

    if isinstance(fault, RedisUnavailable):
        monkeypatch.setattr(pairs, "take", fails)
    else:
        monkeypatch.setattr(messages, "sent_lately", fails)
    with pytest.raises(type(fault)):
        sender.claim(job, 5, sender.route(job.app_id))
    until(lambda: {row.status for row in house.rows()} == {"pending"}, "all are put back")
    assert house.arrivals() == []


def test_a_worker_that_dies_with_a_turn_costs_that_turn_and_no_message(house: House) -> None:
    sender, job = claimed(house, 2)
    with house.connections.session() as session:
        session.execute(update(App).values(pair_seconds=2.0))
    sender._routes.forget()
    (row,) = sender.claim(job, 2, sender.route(job.app_id))
    # As its journal is settled: it never began.
    with house.connections.session() as session:
        batches.record(session, [batches.Outcome(row.id, row.claim, Status.PENDING)], db.now(session))
    house.paused.clear()
    until(lambda: {row.status for row in house.rows()} == {"accepted"}, "both have left")
    assert [one["body"]["text"]["body"] for one in arrivals_at_ana(house)] == ["Oi Cliente 0", "Oi Cliente 1"]
    assert min(gaps(house)) >= 2


def test_a_late_row_asks_for_its_turn_again(house: House) -> None:
    sender, job = claimed(house, 2)
    (late,) = sender.claim(job, 1, sender.route(job.app_id))
    route = sender.route(job.app_id)
    # Its turn went by, and another message has the next one.
    house.redis.delete(*house.redis.keys("disparo:app:*:pair:*"))
    other = Turn(late.recipient_key, 999, 0, 0)
    waits = house.connections.pairs.take(
        job.app_id, [other], seconds=30, burst=1, ahead_seconds=0.75, sent={}
    )
    assert waits == {}
    sender.dispatch([late], route, [time.monotonic() - 5], boot_clock())
    until(lambda: house.rows()[0].status == Status.PENDING, "it is put back")
    assert house.rows()[0].code == "pair_pacing"
    assert house.arrivals() == []


def test_a_late_row_that_still_has_its_turn_leaves(house: House) -> None:
    sender, job = claimed(house, 2)
    (late,) = sender.claim(job, 1, sender.route(job.app_id))
    sender.dispatch([late], sender.route(job.app_id), [time.monotonic() - 5], boot_clock())
    until(lambda: house.rows()[0].status == Status.ACCEPTED, "it has left")
    # Counted from then on.
    other = Turn(late.recipient_key, 999, 0, 0)
    waits = house.connections.pairs.take(
        job.app_id, [other], seconds=30, burst=1, ahead_seconds=0.75, sent={}
    )
    assert isinstance(waits, dict)
    assert waits[0] > 29


def test_without_pacing_nobody_waits(house: House) -> None:
    app = paced_app(house, seconds=0)
    campaign = house.campaign(app, 30)
    to_ana(house, campaign, *range(30))
    house.sender()
    house.until_counts(campaign, accepted=30)
    assert {row.claims for row in house.rows()} == {1}
    assert not house.redis.keys("disparo:app:*:pair*")


def test_payment_leaves_before_utility_before_marketing_to_one_recipient(house: House) -> None:
    app = paced_app(house, seconds=1)
    house.sender()
    with house.connections.session() as session:
        first = make_message(session, app, ANA, due_at=db.now(session), lane=Lane.MARKETING)
    until(lambda: house.rows()[0].status == Status.ACCEPTED, "the first has left")
    with house.connections.session() as session:
        now = db.now(session)
        later = [
            make_message(session, app, ANA, due_at=now, lane=lane)
            for lane in (Lane.MARKETING, Lane.MARKETING, Lane.UTILITY, Lane.PAYMENT)
        ]
    until(lambda: {row.status for row in house.rows()} == {"accepted"}, "all have left")
    in_order = sorted(house.rows(), key=lambda row: row.accepted_at)
    expected = [first, later[3], later[2], later[0], later[1]]
    assert [row.id for row in in_order] == [row.id for row in expected]
