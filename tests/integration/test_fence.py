"""The send fence: what shows a restored backup or another's database, what it holds, and what lifts it."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from redis import Redis
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from disparo import apps, batches, campaigns, counters, db, fence, progress, recovery, releases, stops
from disparo.batches import Job
from disparo.connections import Connections
from disparo.errors import ConflictError
from disparo.fence import Foreign, Look, Mark, Mirror, Restored
from disparo.models import Action, App, Campaign, Message, Reminder, Stop
from disparo.ratelimit import Ask
from disparo.sandbox import Options, Sandbox
from disparo.settings import Environment
from disparo.statuses import CampaignState, Lane, Status
from tests.factories.app import make_app, make_stop
from tests.factories.campaign import make_batch, make_campaign, make_import, recount
from tests.factories.message import make_message, make_messages
from tests.factories.reminder import make_reminder
from worker.journal import Journal
from worker.sender import Sender

HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)
PATIENCE_SECONDS = 60.0


def until(condition: Callable[[], Any], what: str) -> Any:
    """What ``condition`` gives as soon as it is true."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, f"it did not come to this in time: {what}"
        time.sleep(0.02)
    return found


@pytest.fixture
def mirror(tmp_path: Path) -> Mirror:
    """What the home of these tests has seen; nothing yet."""
    return Mirror(tmp_path / "home")


@pytest.fixture
def present(session: Session) -> datetime:
    """The present by the database, as its rows have it."""
    return db.now(session)


def set_epoch(session: Session, epoch: int) -> Mark:
    session.execute(text("UPDATE installation SET send_epoch = :epoch"), {"epoch": epoch})
    return fence.current(session)


def restore(session: Session, mirror: Mirror) -> Restored:
    """Let the database be older than what the mirror has seen."""
    mark = set_epoch(session, 100)
    mirror.keep(Look(Mark(mark.installation_id, 170)))
    found = fence.look(session, mirror)
    assert found.finding == Restored(mark)
    return Restored(mark)


def in_force(session: Session) -> list[Stop]:
    return list(session.scalars(select(Stop).where(Stop.ended_at.is_(None)).order_by(Stop.id)))


def statuses(session: Session) -> dict[str, str]:
    """Each message's status, by its key."""
    return dict(session.execute(select(Message.key, Message.status)).all())


# -- looks -----------------------------------------------------------------------------------------------


def test_the_epoch_grows_with_each_look_after_a_claim_and_only_then(session: Session, mirror: Mirror) -> None:
    mark = fence.current(session)
    for claimed, advanced in ((False, 0), (True, 1), (True, 2), (False, 2)):
        look = fence.look(session, mirror, claimed=claimed)
        assert look == Look(Mark(mark.installation_id, mark.epoch + advanced), advanced=claimed)
        mirror.keep(look)
    assert mirror.seen == Mark(mark.installation_id, mark.epoch + 2)


def test_a_look_that_was_rolled_back_has_seen_nothing(engine: Engine, mirror: Mirror) -> None:
    with Session(engine) as session:
        fence.look(session, mirror, claimed=True)
        session.rollback()
        assert fence.look(session, mirror).mark.epoch == 0
    assert mirror.seen is None


def test_a_look_waits_for_nobody_who_has_the_epoch_locked(engine: Engine, mirror: Mirror) -> None:
    with Session(engine) as busy, Session(engine) as session:
        busy.execute(text("SELECT 1 FROM installation FOR UPDATE"))
        session.execute(text("SET LOCAL lock_timeout = '1ms'"))
        look = fence.look(session, mirror, claimed=True)
        assert not look.advanced
        busy.rollback()
        assert fence.look(session, mirror, claimed=True).advanced


def test_another_worker_that_advances_during_a_look_or_a_claim_is_no_restored_backup(
    engine: Engine, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Session(engine) as session, session.begin():
        mirror.keep(fence.look(session, mirror))
    current = fence.current

    def advance_meanwhile(session: Session) -> Mark:
        mark = current(session)
        monkeypatch.setattr(fence, "current", current)
        other = Mirror(mirror.path.parent)
        with Session(engine) as another, another.begin():
            made = fence.look(another, other, claimed=True)
        assert other.keep(made)
        assert made.advanced
        monkeypatch.setattr(fence, "current", advance_meanwhile)
        return mark

    monkeypatch.setattr(fence, "current", advance_meanwhile)
    with Session(engine) as session, session.begin():
        assert fence.look(session, mirror).finding is None
        fence.require(session, mirror)
        assert fence.look(session, mirror, claimed=True).finding is None


def test_an_older_epoch_is_a_restored_backup_and_does_not_grow_past_what_was_seen(
    session: Session, mirror: Mirror
) -> None:
    mark = set_epoch(session, 7)
    mirror.keep(Look(Mark(mark.installation_id, 8)))
    # Advanced first, it would be as new as what was seen.
    assert fence.look(session, mirror, claimed=True) == Look(mark, Restored(mark))
    assert fence.current(session) == mark


def test_a_backup_that_came_between_look_and_advance_is_not_advanced(
    engine: Engine, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Session(engine) as session:
        mark = set_epoch(session, 7)
        session.commit()
        set_epoch(session, 6)
        session.commit()
        assert fence.advance(session, mark) is None
        assert fence.current(session).epoch == 6


def test_another_installations_database_is_taken_only_while_it_never_held_a_message(
    session: Session, mirror: Mirror
) -> None:
    mirror.keep(Look(Mark(UUID(int=1), 9)))
    mark = fence.current(session)
    look = fence.look(session, mirror)
    assert look == Look(mark, blank=True)
    mirror.keep(look)
    assert mirror.seen == mark

    mirror.replace(Mark(UUID(int=1), 9))
    make_message(session, make_app(session))
    assert fence.look(session, mirror).finding == Foreign(mark)


def test_a_database_without_its_mark_is_being_restored_and_nothing_is_sent(
    session: Session, mirror: Mirror
) -> None:
    session.execute(text("DELETE FROM installation"))
    for look in (lambda: fence.look(session, mirror), lambda: fence.require(session, mirror)):
        with pytest.raises(ConflictError, match="being restored"):
            look()


def test_a_claim_from_a_backup_is_refused_in_its_own_transaction(engine: Engine, mirror: Mirror) -> None:
    with Session(engine) as session:
        app = make_app(session)
        message = make_message(session, app, due_at=db.now(session))
        session.commit()
        job = Job(app.id, Lane.UTILITY, message_ids=(message.id,))

        restore(session, mirror)
        session.commit()
        assert len(batches.claim(session, job, 5, "w", db.now(session))) == 1
        with pytest.raises(ConflictError, match="older than what this installation has sent"):
            fence.require(session, mirror)
        session.rollback()
        assert session.get_one(Message, message.id).status == Status.PENDING

        set_epoch(session, 170)
        assert len(batches.claim(session, job, 5, "w", db.now(session))) == 1
        fence.require(session, mirror)


def test_a_claim_that_the_database_does_not_know_of_shows_a_backup(session: Session) -> None:
    app = make_app(session)
    first, second = make_message(session, app, claims=3), make_message(session, app)
    assert not fence.lacks(session, [(first.id, 3), (first.id, 2), (second.id, 0)])
    assert fence.lacks(session, [(first.id, 3), (second.id, 1)])
    # What is not there, or has an outcome, is not sent from there again.
    failed = make_message(session, app, status=Status.FAILED)
    assert not fence.lacks(session, [(failed.id, 1), (failed.id + 1, 1)])
    assert not fence.lacks(session, [])


# -- what it holds ---------------------------------------------------------------------------------------


def test_every_app_is_paused_beside_what_holds_it_already(
    session: Session, mirror: Mirror, present: datetime
) -> None:
    first, second = make_app(session), make_app(session, "escola")
    operator = make_stop(session, first)
    finding = restore(session, mirror)
    assert fence.trip(session, finding, present) == [first.id, second.id]
    assert fence.trip(session, finding, present + HOUR) == []
    for app in (first, second):
        found = apps.describe(session, app)
        assert (found["state"], found["code"], found["reason"], found["effective_rate"]) == (
            "paused",
            "database_restored",
            finding.reason,
            0.0,
        )
        assert "'2026-12-03 03:00'" in found["hint"]
    assert [stop.code for stop in apps.stops(session, first.id)] == ["database_restored", "operator"]
    assert operator.ended_at is None
    assert {stop.since for stop in in_force(session) if apps.is_fence(stop)} == {present}


def test_apps_made_later_are_paused_too(session: Session, mirror: Mirror, present: datetime) -> None:
    finding = restore(session, mirror)
    # None was there yet: the next look pauses what has come since.
    assert fence.trip(session, finding, present) == []
    apps.configure(session, "loja", gs_app_id="app-1")
    assert len(fence.trip(session, finding, present)) == 1
    # By whoever makes one, with a home that has seen nothing.
    later, _ = apps.configure(session, "escola", gs_app_id="app-2")
    assert apps.describe(session, later)["code"] == "database_restored"
    apps.configure(session, "escola", rate=5)
    assert len(in_force(session)) == 2


def test_no_resume_ends_it(session: Session, mirror: Mirror, present: datetime) -> None:
    app = make_app(session)
    make_stop(session, app)
    make_stop(session, app, scope="lane", key=Lane.MARKETING)
    fence.trip(session, restore(session, mirror), present)
    for lane in (None, Lane.MARKETING):
        with pytest.raises(
            ConflictError, match=r"loja stays paused: .* run `disparo db restored --taken-at T`"
        ):
            stops.resume(session, app, present, lane=lane)
    assert len(in_force(session)) == 3
    assert app.epoch == 0


def test_nothing_is_released_or_claimed_under_it_and_the_status_says_why(
    session: Session, mirror: Mirror, present: datetime
) -> None:
    app = make_app(session)
    campaign = make_campaign(session, app, 3)
    single = make_message(session, app, due_at=present)
    jobs = releases.release(session, present)
    assert {job.size for job in jobs} == {3, 1}

    finding = restore(session, mirror)
    fence.trip(session, finding, present)
    assert [batches.claim(session, job, 5, "w", present) for job in jobs] == [[], []]
    recovery.release_everything_again(session)
    assert releases.release(session, present) == []
    assert single.status == Status.PENDING
    found = progress.status(session, campaign, present, db_zone())
    assert (found["limited_by"], found["pause_reason"]) == ("paused", finding.reason)
    assert [stop["code"] for stop in found["stops"]] == ["database_restored"]


def db_zone() -> Any:
    from zoneinfo import ZoneInfo

    return ZoneInfo("America/Sao_Paulo")


def test_a_fence_is_not_tripped_by_a_look_from_before_a_persons_decision(
    engine: Engine, mirror: Mirror
) -> None:
    with Session(engine) as person, Session(engine) as worker:
        make_app(person)
        finding = restore(person, mirror)
        person.commit()
        now = db.now(person)
        fence.restored(person, now - HOUR, now, mirror)
        tripped: list[list[int]] = []

        def trip() -> None:
            tripped.append(fence.trip(worker, finding, now))
            worker.commit()

        # It waits for the decision that is under way, and then is too late.
        thread = threading.Thread(target=trip)
        thread.start()
        until(lambda: _waits_for_lock(engine), "the trip to wait")
        person.commit()
        thread.join(PATIENCE_SECONDS)
        assert tripped == [[]]
        assert in_force(person) == []


def _waits_for_lock(engine: Engine) -> bool:
    with engine.connect() as connection:
        query = text(
            "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')"
        )
        return bool(connection.execute(query).scalar_one())


# -- a restored backup -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A message of a backup that was taken an hour ago, and what becomes of it."""

    becomes: Status
    message: dict[str, Any]
    campaign: dict[str, Any] | None = None


def minutes(n: float) -> Any:
    """An instant ``n`` minutes after the present, resolved by the test."""
    return timedelta(minutes=n)


UNKNOWN, PENDING = Status.UNKNOWN, Status.PENDING
CASES = {
    "due before the backup": Case(UNKNOWN, {"due_at": minutes(-90)}),
    "due since": Case(UNKNOWN, {"due_at": minutes(-1)}),
    "due later": Case(PENDING, {"due_at": minutes(1)}),
    "being sent": Case(UNKNOWN, {"status": Status.SENDING, "claims": 1}),
    "being sent, due later": Case(UNKNOWN, {"status": Status.SENDING, "due_at": minutes(1)}),
    "expired before the backup": Case(PENDING, {"due_at": minutes(-90), "not_after": minutes(-61)}),
    "expired since": Case(UNKNOWN, {"due_at": minutes(-90), "not_after": minutes(-59)}),
    "accepted under the fence": Case(PENDING, {"due_at": minutes(-1), "created_at": minutes(-9)}),
    "accepted before": Case(Status.ACCEPTED, {"status": Status.ACCEPTED}),
    "failed before": Case(Status.FAILED, {"status": Status.FAILED}),
    "in its turn": Case(UNKNOWN, {}, {"state": CampaignState.RUNNING}),
    "a retry later": Case(PENDING, {"due_at": minutes(1)}, {"state": CampaignState.RUNNING}),
    "scheduled since": Case(UNKNOWN, {}, {"state": CampaignState.SCHEDULED, "launch_at": minutes(-1)}),
    "scheduled later": Case(PENDING, {}, {"state": CampaignState.SCHEDULED, "launch_at": minutes(1)}),
    "paused": Case(UNKNOWN, {}, {"state": CampaignState.PAUSED}),
    "paused before its launch": Case(
        PENDING, {}, {"state": CampaignState.PAUSED, "launch_at": minutes(1)}
    ),
    "cancelled": Case(PENDING, {}, {"state": CampaignState.CANCELLED}),
}  # fmt: skip


def resolved(values: dict[str, Any], present: datetime) -> dict[str, Any]:
    return {k: present + v if isinstance(v, timedelta) else v for k, v in values.items()}


def test_what_may_have_been_sent_since_the_backup_becomes_unknown_and_nothing_else(
    session: Session, mirror: Mirror, present: datetime
) -> None:
    app = make_app(session)
    finding = restore(session, mirror)
    fence.trip(session, finding, present - timedelta(minutes=10))
    made: list[Campaign] = []
    for key, case in CASES.items():
        campaign = None
        if case.campaign is not None:
            campaign = make_campaign(session, app, name=key, **resolved(case.campaign, present))
            made.append(campaign)
        values = {"created_at": minutes(-120), "key": key} | case.message
        row = make_message(
            session, app, campaign_id=campaign.id if campaign else None, **resolved(values, present)
        )
        if campaign is not None:
            counters.add_deltas(session, [(campaign.id, row.status, 1)])
    taken_at = present - HOUR
    expected = {key: case.becomes for key, case in CASES.items()}
    unknown = sum(status == UNKNOWN for status in expected.values())
    pending = sum(status == PENDING for status in expected.values())
    assert fence.in_doubt(session, taken_at, present) == (unknown, pending)

    before = {row.key: row.claims for row in session.scalars(select(Message))}
    done = fence.restored(session, taken_at, present, mirror, actor="ana")
    session.expire_all()
    assert statuses(session) == expected
    assert (sum(done.unknown.values()), done.pending) == (unknown, pending)
    assert done.unknown[None] == sum(
        case.becomes == UNKNOWN and case.campaign is None for case in CASES.values()
    )
    assert done.unknown["paused"] == 1
    for campaign in made:
        assert counters.counts(session, [campaign.id])[campaign.id] == recount(session, campaign)
    for row in session.scalars(select(Message).where(Message.status == UNKNOWN)):
        assert (row.code, row.settled_at, row.attempts) == ("database_restored", present, 0)
        assert row.reason == f"it may have been sent after the backup of {taken_at:%Y-%m-%d %H:%M:%S} UTC"
        # A late answer to what was claimed in the lost time is not that of a later claim.
        assert row.claims > before[row.key] + 1000
    (action,) = session.scalars(select(Action))
    assert (action.verb, action.subject, action.actor) == ("restored", "database", "ana")
    assert action.details == {
        "unknown": unknown,
        "taken_at": taken_at.isoformat(),
        "nothing_resumed": False,
    }
    # Said once more by mistake, it finds nothing new: what waits was accepted under the fence, or is due later.
    again = fence.restored(session, taken_at, present, mirror)
    assert again.unknown == {None: 1}, "without a fence nobody knows what was accepted under it"


def test_it_lifts_the_fence_everywhere_and_lets_the_rest_go_on(
    session: Session, mirror: Mirror, present: datetime, tmp_path: Path
) -> None:
    app, held = make_app(session), make_app(session, "escola")
    make_stop(session, held)
    later = make_message(session, app, due_at=present + SECOND)
    finding = restore(session, mirror)
    fence.trip(session, finding, present)
    done = fence.restored(session, present - HOUR, present, mirror)
    assert done.mark == fence.current(session)
    assert done.mark.installation_id == finding.database.installation_id
    mirror.replace(done.mark)
    assert fence.look(session, mirror).finding is None
    # Whatever the homes of other hosts have seen, it was less.
    elsewhere = Mirror(tmp_path / "elsewhere")
    elsewhere.keep(Look(Mark(done.mark.installation_id, 10**9)))
    assert fence.look(session, elsewhere).finding is None
    # The same backup restored once more is older again.
    set_epoch(session, 100)
    assert fence.look(session, mirror).finding is not None

    session.refresh(app)
    session.refresh(held)
    assert [stop.code for stop in in_force(session)] == ["operator"]
    assert app.epoch == 1, "an answer from before stops nothing"
    (job,) = releases.release(session, present + SECOND)
    assert job.message_ids == (later.id,)


def test_jobs_of_the_backup_hold_up_nothing(session: Session, mirror: Mirror, present: datetime) -> None:
    app = make_app(session, rate=1.0)
    batch = make_batch(
        session, make_campaign(session, app, 5), holder="lives", held_at=present, released_at=present
    )
    fence.restored(session, present - HOUR, present, mirror)
    make_campaign(session, app, 2, name="nova")
    # Named once more, it holds nothing, and takes nobody's room.
    old, new = releases.release(session, present)
    assert (old.batch_id, new.size) == (batch.id, 2)
    batches.finish(session, [old], present)
    assert releases.release(session, present) == []


def test_ids_and_claims_of_the_lost_time_do_not_come_again(
    session: Session, mirror: Mirror, present: datetime
) -> None:
    app = make_app(session)
    waiting = make_message(session, app, due_at=present + HOUR)
    fence.restored(session, present - HOUR, present, mirror)
    assert make_message(session, app).id > waiting.id + 1_000_000
    # A worker that was killed in the lost time had claimed another message under this id.
    assert not fence.lacks(session, [(waiting.id, 1)])
    session.refresh(waiting)
    assert (waiting.status, waiting.claims > 1000) == (Status.PENDING, True)


def test_what_a_person_knows_was_not_resumed_stays_pending(
    session: Session, mirror: Mirror, present: datetime
) -> None:
    taken_at, old = present - HOUR, present - 2 * HOUR
    paused_app, lanes, app = make_app(session, "parada"), make_app(session, "faixas"), make_app(session)
    for stopped, scope, key in (
        (paused_app, "app", ""),
        (lanes, "lane", Lane.MARKETING),
        (lanes, "template", "oferta/pt_BR"),
    ):
        make_stop(session, stopped, scope=scope, key=key).since = old
    # Paused by somebody who saw the trouble, after the restore: it was running in the backup.
    make_stop(session, app).since = present - timedelta(minutes=5)
    expected = {}
    for key, of, status, columns in [
        ("in a paused app", paused_app, PENDING, {}),
        ("in a paused lane", lanes, PENDING, {"lane": Lane.MARKETING}),
        ("of a paused template", lanes, PENDING, {"template": "oferta/pt_BR"}),
        ("in another lane", lanes, UNKNOWN, {}),
        ("in an app paused since", app, UNKNOWN, {}),
        ("being sent in a paused app", paused_app, UNKNOWN, {"status": Status.SENDING}),
    ]:
        make_message(session, of, key=key, created_at=old, due_at=old, **columns)
        expected[key] = status
    for key, status, state, at in [
        ("natal", PENDING, CampaignState.PAUSED, old),
        ("hoje", UNKNOWN, CampaignState.PAUSED, present - timedelta(minutes=5)),
        ("lista", PENDING, CampaignState.IMPORTING, None),
    ]:
        campaign = make_campaign(session, app, name=key, state=state, created_at=old)
        make_message(session, app, key=key, campaign_id=campaign.id, created_at=old)
        if at is not None:
            session.add(Action(actor="ana", verb="pause", subject=f"campaign:{key}", at=at))
        expected[key] = status
    session.flush()

    unknown, pending = fence.in_doubt(session, taken_at, present, nothing_resumed=True)
    assert (unknown, pending) == (4, 5)
    assert fence.in_doubt(session, taken_at, present) == (len(expected), 0)
    fence.restored(session, taken_at, present, mirror, nothing_resumed=True)
    assert statuses(session) == expected
    assert {row.state for row in session.scalars(select(Campaign))} == {"paused", "importing"}


def test_a_reminder_that_came_due_since_the_backup_is_not_sent_a_second_time(
    session: Session, mirror: Mirror, present: datetime
) -> None:
    app = make_app(session)
    old = present - 2 * HOUR
    for key, due_at, created_at in [
        ("venceu", present - timedelta(minutes=30), old),
        ("liberado sob a cerca", present - timedelta(minutes=30), old),
        ("futuro", present + HOUR, old),
        ("novo", present - SECOND, present - timedelta(minutes=5)),
    ]:
        make_reminder(session, app, due_at, key=key, created_at=created_at)
    fence.trip(session, restore(session, mirror), present - timedelta(minutes=10))
    # The scheduler makes messages of them under the fence too.
    released = session.scalars(select(Reminder).where(Reminder.key == "liberado sob a cerca")).one()
    message = make_message(session, app, due_at=present - timedelta(minutes=9))
    released.status, released.message_id = "released", message.id
    session.flush()

    assert fence.in_doubt(session, present - HOUR, present) == (2, 0)
    done = fence.restored(session, present - HOUR, present, mirror)
    assert done.unknown == {None: 2}
    session.expire_all()
    became = {}
    for one in session.scalars(select(Reminder)):
        row = session.get(Message, one.message_id) if one.message_id else None
        became[one.key] = (one.status, row.status if row else None)
    assert became == {
        "venceu": ("released", "unknown"),
        "liberado sob a cerca": ("released", "unknown"),
        "futuro": ("scheduled", None),
        "novo": ("released", "pending"),
    }


def test_an_unfinished_import_counts_as_launched_since(
    session: Session, mirror: Mirror, present: datetime
) -> None:
    app = make_app(session)
    before, during = (
        Campaign(
            name=name, app_id=app.id, lane=Lane.MARKETING, state=CampaignState.IMPORTING, content={},
            content_digest="0" * 64, dedupe="none", created_by="ana", created_at=created_at,
        )
        for name, created_at in (("natal", present - 2 * HOUR), ("novo", present - timedelta(minutes=5)))
    )  # fmt: skip
    session.add_all([before, during])
    session.flush()
    make_messages(session, app, 3, campaign=before, lane=Lane.MARKETING, created_at=present - 2 * HOUR)
    make_messages(
        session, app, 2, campaign=during, lane=Lane.MARKETING, created_at=present - timedelta(minutes=5)
    )
    make_import(session, before)
    fence.trip(session, restore(session, mirror), present - timedelta(minutes=10))
    done = fence.restored(session, present - HOUR, present, mirror)
    session.expire_all()
    assert done.unknown == {"natal": 3}
    assert (before.state, before.total, before.launched_at) == ("running", 3, present)
    assert counters.counts(session, [before.id])[before.id] == recount(session, before)
    with pytest.raises(ConflictError, match=r"natal was launched at .*; nothing done"):
        campaigns.refuse_launched(session, "natal")
    # One that somebody has just begun goes on.
    assert during.state == CampaignState.IMPORTING
    campaigns.launch(session, during, present)
    assert counters.counts(session, [during.id])[during.id] == recount(session, during)


def test_a_thousand_rows_keep_their_counts(session: Session, mirror: Mirror, present: datetime) -> None:
    app = make_app(session)
    campaign = make_campaign(session, app, 1000)
    make_batch(session, campaign)
    job = Job(app.id, Lane.MARKETING, batch_id=1, size=1000)
    batches.claim(session, job, 300, "w", present)
    counters.fold(session, present + HOUR)
    done = fence.restored(session, present - HOUR, present, mirror)
    assert done.unknown == {campaign.name: 1000}
    counts = counters.counts(session, [campaign.id])[campaign.id]
    assert counts == recount(session, campaign)
    assert counts["unknown"] == 1000
    found = progress.status(session, campaign, present, db_zone())
    assert (found["state"], found["limited_by"]) == ("running", "decision")


# -- another's database ----------------------------------------------------------------------------------


def test_a_database_that_was_taken_has_this_homes_id_and_stays_paused(
    session: Session, mirror: Mirror, present: datetime, tmp_path: Path
) -> None:
    ours, theirs = UUID(int=1), set_epoch(session, 500)
    app = make_app(session)
    waiting = make_message(session, app, due_at=present)
    mirror.keep(Look(Mark(ours, 9)))
    finding = fence.look(session, mirror).finding
    assert finding == Foreign(theirs)
    fence.trip(session, finding, present)
    assert apps.describe(session, app)["reason"] == finding.reason
    with pytest.raises(ConflictError, match="disparo db adopt"):
        stops.resume(session, app, present)
    with pytest.raises(ConflictError, match="disparo db adopt"):
        fence.restored(session, present - HOUR, present, mirror)

    done = fence.adopt(session, present, mirror, actor="ana")
    mirror.replace(done.mark)
    assert (done.mark.installation_id, done.was, done.pending) == (ours, theirs.installation_id, 1)
    assert fence.current(session) == done.mark
    session.refresh(waiting)
    assert waiting.claims > 1000, "a journal of this home tells of another database's rows"
    # Other hosts of this installation know it too; its former workers do not any more.
    elsewhere, former = Mirror(tmp_path / "elsewhere"), Mirror(tmp_path / "former")
    elsewhere.keep(Look(Mark(ours, 9)))
    former.keep(Look(theirs))
    assert fence.look(session, elsewhere).finding is None
    assert isinstance(fence.look(session, former).finding, Foreign)

    session.expire_all()
    found = apps.describe(session, app)
    assert (found["state"], found["code"]) == ("paused", "database_adopted")
    assert f"taken over from installation {theirs.installation_id}" in found["reason"]
    assert releases.release(session, present) == []
    stops.resume(session, app, present)
    (job,) = releases.release(session, present)
    assert job.message_ids == (waiting.id,)
    # The next copy of theirs is told from this one.
    session.execute(text("UPDATE installation SET id = :id"), {"id": theirs.installation_id})
    assert isinstance(fence.look(session, mirror).finding, Foreign)


def test_a_home_without_a_mirror_gives_a_database_that_it_takes_a_new_id(
    session: Session, mirror: Mirror, present: datetime
) -> None:
    theirs = set_epoch(session, 500)
    done = fence.adopt(session, present, mirror)
    assert done.mark.installation_id != theirs.installation_id
    assert done.mark.epoch > 500


def test_taking_ones_own_database_only_lifts_what_a_stranger_had_tripped(
    session: Session, mirror: Mirror, present: datetime
) -> None:
    app = make_app(session)
    own = set_epoch(session, 500)
    mirror.keep(Look(own))
    fence.trip(session, Foreign(own), present)
    done = fence.adopt(session, present, mirror)
    assert (done.mark, done.was) == (own, own.installation_id)
    assert in_force(session) == []
    # A restored backup is no stranger's.
    fence.trip(session, Restored(own), present)
    fence.adopt(session, present, mirror)
    assert [stop.code for stop in in_force(session)] == ["database_restored"]
    set_epoch(session, 499)
    with pytest.raises(ConflictError, match="disparo db restored --taken-at T"):
        fence.adopt(session, present, mirror)
    assert apps.describe(session, app)["state"] == "paused"


# -- the commands ----------------------------------------------------------------------------------------


@pytest.fixture
def house(connections: Connections, home: Path) -> tuple[Connections, Mirror]:
    """A database that was restored, with an app, a campaign of three and a message for tomorrow."""
    mirror = Mirror(home)
    with connections.session() as session:
        app = make_app(session)
        make_campaign(session, app, 3)
        make_message(session, app, due_at=db.now(session) + 24 * HOUR)
        restore(session, mirror)
    return connections, mirror


def trip(connections: Connections, mirror: Mirror) -> None:
    """As a worker's look does."""
    with connections.session() as session:
        look = fence.look(session, mirror)
        assert look.finding is not None
        fence.trip(session, look.finding, db.now(session))


def test_db_restored_says_what_became_of_the_messages(house: Any, run: Any) -> None:
    connections, mirror = house
    trip(connections, mirror)
    assert "run `disparo db restored --taken-at T`" in run("app", "show", "loja").out
    assert "run `disparo db restored --taken-at T`" in run("campaign", "status", "black-friday").out
    assert "stays paused" in run("app", "resume", "loja").sentence
    done = run("db", "restored", "--taken-at", "2026-01-02 03:00", "--yes", "--by", "ana")
    assert done.code == 0
    assert "3 messages may have been sent after 2026-01-02 03:00 America/Sao_Paulo (06:00 UTC)" in done.out
    assert "3  campaign black-friday" in done.out
    assert "1 wait" in done.out
    assert "launch no campaign again" in done.err
    assert run("app", "show", "loja", "--json").json["state"] == "active"
    with connections.session() as session:
        assert fence.current(session) == mirror.seen
        assert session.scalars(select(Action.actor)).all() == ["ana"]
    assert connections.limiter.acquire(1, [Ask(Lane.MARKETING, 1)], 10.0, 0.5) is not None


def test_db_restored_as_json_names_what_stays_paused(house: Any, run: Any) -> None:
    run("app", "pause", "loja")
    found = run("db", "restored", "--taken-at", "2026-01-02T03:00-03:00", "--json").json
    assert found == {
        "taken_at": "2026-01-02T06:00:00+00:00",
        "unknown": 3,
        "pending": 1,
        "campaigns": [{"name": "black-friday", "unknown": 3}],
        "paused": ["loja"],
    }


def test_db_restored_refuses_an_instant_that_is_no_backups(house: Any, run: Any) -> None:
    connections, _ = house
    assert "is still to come" in run("db", "restored", "--taken-at", "tomorrow 9:00", "--yes").sentence
    assert "is not a date or a time" in run("db", "restored", "--taken-at", "yesterday", "--yes").sentence
    with connections.session() as session:
        assert set(session.scalars(select(Message.status))) == {"pending"}


@pytest.mark.parametrize("answer", ["n\n", "y\n"])
def test_on_a_terminal_it_asks_and_says_how_many(
    house: Any, run: Any, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    connections, _ = house
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    done = run("db", "restored", "--taken-at", "2026-01-02 03:00")
    assert "3 messages may have been sent since and would become unknown; 1 stay pending" in done.err
    with connections.session() as session:
        unknown = len(session.scalars(select(Message).where(Message.status == UNKNOWN)).all())
    assert (done.code, unknown) == ((0, 3) if answer == "y\n" else (1, 0))
    assert ("nothing was changed" in done.err) == (answer == "n\n")


def test_db_adopt_takes_a_copy_of_another_installations_database(
    connections: Connections, home: Path, run: Any
) -> None:
    mirror = Mirror(home)
    mirror.keep(Look(Mark(UUID(int=1), 9)))
    with connections.session() as session:
        theirs = set_epoch(session, 50)
        make_message(session, make_app(session), due_at=db.now(session))
    trip(connections, mirror)
    assert f"installation {theirs.installation_id}" in run("app", "show", "loja").out
    assert "disparo db adopt" in run("db", "restored", "--taken-at", "2026-01-02 03:00", "--yes").sentence
    done = run("db", "adopt", "--yes", "--json").json
    assert done == {
        "installation": str(UUID(int=1)),
        "was": str(theirs.installation_id),
        "pending": 1,
        "paused": ["loja"],
    }
    assert run("app", "show", "loja", "--json").json["code"] == "database_adopted"
    with connections.session() as session:
        assert fence.look(session, mirror).finding is None
    assert "already" in run("db", "adopt").out
    assert "sends again" in run("app", "resume", "loja").out


# -- workers ---------------------------------------------------------------------------------------------


@dataclass
class Backup:
    """Rows of a database that are put back later in one transaction, as ``pg_restore --clean`` does."""

    connections: Connections
    tables: tuple[str, ...] = (
        "apps",
        "campaigns",
        "batches",
        "messages",
        "counter_deltas",
        "counters",
        "stops",
    )

    def take(self) -> None:
        with self.connections.session() as session:
            session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            for table in (*self.tables, "installation"):
                session.execute(text(f"CREATE TABLE kept_{table} AS TABLE {table}"))

    def restore(self) -> None:
        with self.connections.session() as session:
            session.execute(text(f"TRUNCATE {', '.join(self.tables)}, installation CASCADE"))
            for table in (*self.tables, "installation"):
                session.execute(text(f"INSERT INTO {table} OVERRIDING SYSTEM VALUE TABLE kept_{table}"))


@pytest.fixture
def backup(connections: Connections) -> Backup:
    return Backup(connections)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(Options()) as made:
        yield made


@pytest.fixture
def senders(
    connections: Connections, environment: Environment, redis_url: str
) -> Iterator[Callable[..., Sender]]:
    """Makes senders; all of them are drained in the end."""
    made: list[Sender] = []

    def start(**options: Any) -> Sender:
        made.append(Sender(connections, **options))
        return made[-1]

    yield start
    for sender in made:
        sender.close(5.0)


def sending_app(connections: Connections, sandbox: Sandbox, redis_url: str) -> App:
    with connections.session() as session:
        app = make_app(session, rate=1000.0, base_url=sandbox.url)
    with Redis.from_url(redis_url) as redis:
        redis.set(f"disparo:app:{app.id}:free", "0")
    return app


def singles(connections: Connections, app: App, n: int, first: int = 0) -> list[int]:
    with connections.session() as session:
        now = db.now(session)
        return [
            make_message(session, app, to=f"55119876{first + k:05}", due_at=now, created_at=now).id
            for k in range(n)
        ]


def by_status(connections: Connections) -> dict[str, int]:
    with connections.session() as session:
        found = list(session.scalars(select(Message.status)))
    return {status: found.count(status) for status in set(found)}


def fence_holds(connections: Connections) -> bool:
    with connections.session() as session:
        return any(apps.is_fence(stop) for stop in in_force(session))


def test_a_restore_under_two_running_workers_sends_nothing_twice(
    connections: Connections, sandbox: Sandbox, redis_url: str, senders: Any, backup: Backup, home: Path
) -> None:
    app = sending_app(connections, sandbox, redis_url)
    first, second = senders(), senders()
    warm_up = singles(connections, app, 1)
    ids = singles(connections, app, 20, first=1)
    first.take_messages(app.id, warm_up)
    until(lambda: by_status(connections) == {"accepted": 1, "pending": 20}, "the first one")
    backup.take()
    before = Mirror(home).seen
    first.take_messages(app.id, ids[:15])
    until(lambda: by_status(connections) == {"accepted": 16, "pending": 5}, "the others")
    until(lambda: Mirror(home).seen != before, "the epoch to grow")

    backup.restore()
    # Named at once, before any look: the claims themselves are refused.
    for sender in (first, second):
        sender.take_messages(app.id, ids)
    until(lambda: fence_holds(connections), "the fence")
    later = singles(connections, app, 2, first=30)
    second.take_messages(app.id, later)
    with connections.session() as session:
        fence.restored(session, db.now(session) - HOUR, db.now(session), Mirror(home))
    assert by_status(connections) == {"accepted": 1, "unknown": 20, "pending": 2}

    # The workers go on by themselves with what is surely unsent.
    def sent() -> bool:
        first.take_messages(app.id, later)
        return by_status(connections) == {"accepted": 3, "unknown": 20}

    until(sent, "what was accepted under the fence")
    stats = sandbox.stats()
    assert (stats["accepted"], stats["distinct"]) == (18, 18)


def test_a_worker_that_starts_on_a_restored_backup_claims_nothing(
    connections: Connections, sandbox: Sandbox, redis_url: str, senders: Any, home: Path
) -> None:
    app = sending_app(connections, sandbox, redis_url)
    ids = singles(connections, app, 3)
    with connections.session() as session:
        restore(session, Mirror(home))
    sender = senders()
    assert fence_holds(connections), "it looks before it takes anything"
    sender.take_messages(app.id, ids)
    until(lambda: not any(runner.left() for runner in sender._runners.values()), "the job to be handed back")
    assert by_status(connections) == {"pending": 3}
    assert sandbox.stats()["arrivals"] == 0


def test_between_two_looks_the_claim_itself_is_refused(
    connections: Connections,
    sandbox: Sandbox,
    redis_url: str,
    senders: Any,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = sending_app(connections, sandbox, redis_url)
    ids = singles(connections, app, 3)
    sender = senders()
    monkeypatch.setattr(sender, "_look_at_fence", lambda: True)
    with connections.session() as session:
        restore(session, Mirror(home))
    sender.take_messages(app.id, ids)
    until(lambda: "sending_waits" in sender._told, "the refusal")
    assert (by_status(connections), sandbox.stats()["arrivals"]) == ({"pending": 3}, 0)


def test_the_journal_shows_a_backup_that_has_the_same_epoch(
    connections: Connections, sandbox: Sandbox, redis_url: str, senders: Any, home: Path
) -> None:
    """A database that is lost in the very moment in which its first messages were claimed."""
    app = sending_app(connections, sandbox, redis_url)
    ids = singles(connections, app, 3)
    sender = senders()
    sandbox.control(latency_ms="2000")
    with connections.session() as session:
        # From here on this worker cannot advance the epoch, as if PostgreSQL were gone.
        session.execute(text("SELECT 1 FROM installation FOR SHARE"))
        sender.take_messages(app.id, ids)
        until(lambda: sandbox.stats()["arrivals"] == 3, "the requests")
        assert Mirror(home).seen == fence.current(session)
        # The database as it was before the claims.
        session.execute(text("UPDATE messages SET status = 'pending', claims = 0, claimed_by = NULL"))
    until(lambda: fence_holds(connections), "the fence")
    assert by_status(connections) == {"pending": 3}


def test_what_was_recorded_shows_a_backup_that_has_the_same_epoch(
    connections: Connections, sandbox: Sandbox, redis_url: str, senders: Any
) -> None:
    """As above, with the outcomes recorded in the database that is lost."""
    app = sending_app(connections, sandbox, redis_url)
    ids = singles(connections, app, 3)
    sender = senders()
    with connections.session() as session:
        session.execute(text("SELECT 1 FROM installation FOR SHARE"))
        sender.take_messages(app.id, ids)
        until(lambda: len(sender._recorded) == 3, "the outcomes")
        session.execute(text("UPDATE messages SET status = 'pending', claims = 0, claimed_by = NULL"))
    until(lambda: fence_holds(connections), "the fence")
    assert set(sender._journal._where) == {(message_id, 1) for message_id in ids}


def test_another_process_of_the_home_knows_a_backup_from_before_the_first_claim(
    connections: Connections, sandbox: Sandbox, redis_url: str, senders: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restore right after a claim, before the process that claimed has looked once more."""
    app = sending_app(connections, sandbox, redis_url)
    ids = singles(connections, app, 3)
    first = senders()
    monkeypatch.setattr(first, "_look_at_fence", lambda: True)
    with connections.session() as session:
        before = fence.current(session)
    first.take_messages(app.id, ids)
    until(lambda: by_status(connections) == {"accepted": 3}, "the outcomes")
    with connections.session() as session:
        session.execute(text("UPDATE messages SET status = 'pending', claims = 0, claimed_by = NULL"))
        session.execute(text("UPDATE installation SET send_epoch = :epoch"), {"epoch": before.epoch})
    senders()
    assert fence_holds(connections)


def test_the_journal_of_a_killed_worker_shows_it_too(
    connections: Connections, sandbox: Sandbox, redis_url: str, senders: Any, home: Path
) -> None:
    app = sending_app(connections, sandbox, redis_url)
    (message_id,) = singles(connections, app, 1)
    killed = Journal(home / "journal", "dead")
    killed.start(message_id, 1)
    killed.close()
    senders()
    until(lambda: fence_holds(connections), "the fence")


def test_the_journal_forgets_a_request_only_when_the_epoch_has_grown_since_its_claim(
    connections: Connections, sandbox: Sandbox, redis_url: str, senders: Any
) -> None:
    app = sending_app(connections, sandbox, redis_url)
    ids = singles(connections, app, 2)
    sender = senders()
    with connections.session() as session:
        epoch = session.execute(text("SELECT send_epoch FROM installation FOR SHARE")).scalar_one()
        sender.take_messages(app.id, ids)
        until(lambda: by_status(connections) == {"accepted": 2}, "the outcomes")
        assert set(sender._journal._where) == {(message_id, 1) for message_id in ids}
    until(lambda: not sender._journal._where, "the journal to forget")
    with connections.session() as session:
        assert fence.current(session).epoch == epoch + 1
    sender.close()
    assert list(sender._folder.iterdir()) == []
