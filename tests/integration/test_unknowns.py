"""Unknown messages: resolved by evidence, adopted, decided and resent, each once and with true counters."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from disparo import (
    batches,
    campaigns,
    counters,
    fence,
    pix,
    progress,
    recovery,
    releases,
    reminders,
    retries,
    unknowns,
)
from disparo.batches import Claimed, Job, Outcome
from disparo.db import make_engine
from disparo.errors import ConflictError
from disparo.models import Action, App, Campaign, Installation, Message
from disparo.statuses import CampaignState, Lane, LimitedBy, Status
from disparo.unknowns import Attempt, Decision, Evidence, Resolution, Result
from tests.conftest import Servers
from tests.conftest import _database as new_database
from tests.factories.app import make_app
from tests.factories.campaign import make_campaign, recount
from tests.factories.charge import make_charge
from tests.factories.message import make_message
from tests.factories.reminder import make_reminder
from tests.racing import meet_in

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
#: When no webhook can explain a message that became unknown at 0 any more.
AFTERWARDS = unknowns.WEBHOOK_WINDOW


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
    """After every scenario the counters say what the rows say."""
    yield
    for campaign in session.scalars(select(Campaign)):
        assert counters.counts(session, [campaign.id])[campaign.id] == recount(session, campaign)


@pytest.fixture
def app(session: Session) -> App:
    return make_app(session)


@pytest.fixture
def campaign(session: Session, app: App) -> Campaign:
    return make_campaign(session, app, 3)


@pytest.fixture
def resending(session: Session, app: App) -> Campaign:
    return make_campaign(session, app, 3, name="resending", on_unknown="resend")


def claim(session: Session, app: App, at: datetime, *message_ids: int) -> list[Claimed]:
    return batches.claim(session, Job(app.id, "", message_ids=message_ids), len(message_ids), "w", at)


def lose(session: Session, rows: list[Claimed], at: datetime, code: str = "no_answer") -> None:
    """No answer comes to the requests of ``rows``."""
    lost = [
        Outcome(row.id, row.claim, Status.UNKNOWN, spent=True, verdict="unknown", code=code, reason="cut")
        for row in rows
    ]
    assert batches.record(session, lost, at) == len(rows)


def accept(session: Session, row: Claimed, at: datetime, gs_id: str | None = "gs-late") -> int:
    answer = Outcome(row.id, row.claim, Status.ACCEPTED, spent=True, verdict="accepted", gs_id=gs_id)
    return batches.record(session, [answer], at)


def make_unknown(session: Session, app: App, at: datetime, of: Campaign | Message) -> list[Claimed]:
    """All rows of a campaign, or one message, claimed and lost ``at`` that instant."""
    ids = (
        session.scalars(select(Message.id).where(Message.campaign_id == of.id).order_by(Message.id)).all()
        if isinstance(of, Campaign)
        else [of.id]
    )
    rows = claim(session, app, at, *ids)
    assert len(rows) == len(ids)
    lose(session, rows, at)
    return rows


def row_of(session: Session, message_id: int) -> Message:
    return session.get_one(Message, message_id, populate_existing=True)


def state_of(session: Session, row: Claimed) -> str:
    return row_of(session, row.id).status


def data_of(session: Session, row: Claimed) -> str:
    """The callback data of the row's present claim."""
    stored = row_of(session, row.id)
    assert stored.claimed_at is not None
    attempt = Attempt(stored.claims, stored.claimed_at)
    return unknowns.callback_data(
        session.scalars(select(Installation.id)).one(), row.id, stored.created_at, attempt
    )


def actions(session: Session) -> list[tuple[Any, ...]]:
    found = session.scalars(select(Action).order_by(Action.id))
    return [(one.verb, one.subject, one.actor, one.why, one.details) for one in found]


# -- by provider id ---------------------------------------------------------------------------------------


def with_earlier_id(session: Session, app: App, now: datetime) -> Claimed:
    """A message whose first attempt was accepted and failed by webhook, and whose second had no answer."""
    message = make_message(session, app, due_at=now)
    (first,) = claim(session, app, now, message.id)
    accept(session, first, now, "gs-1")
    row = row_of(session, message.id)
    row.wamid, row.status, row.due_at = "wamid-1", Status.PENDING, now
    session.flush()
    (second,) = claim(session, app, now + MINUTE, message.id)
    lose(session, [second], now + MINUTE)
    return second


@pytest.mark.parametrize("provider_id", ["gs-1", "wamid-1"])
@pytest.mark.parametrize("status", [Status.DELIVERED, Status.READ])
def test_a_delivery_counts_for_any_attempt(
    session: Session, app: App, now: datetime, provider_id: str, status: Status
) -> None:
    row = with_earlier_id(session, app, now)
    evidence = Evidence(status, now + 2 * MINUTE)
    done = unknowns.resolve_by_provider_id(session, app.id, provider_id, evidence, now + 3 * MINUTE)
    assert done == Resolution(Result.RESOLVED, row.id)
    found = row_of(session, row.id)
    assert (found.status, getattr(found, f"{status}_at")) == (status, now + 2 * MINUTE)
    assert (found.code, found.reason, found.settled_at, found.matched_by) == (None, None, None, "webhook")
    assert (found.gs_id, found.wamid, found.attempts) == ("gs-1", "wamid-1", 2)


def test_a_failure_of_an_earlier_attempt_fails_nothing(session: Session, app: App, now: datetime) -> None:
    row = with_earlier_id(session, app, now)
    evidence = Evidence(Status.FAILED, now, code="131026")
    done = unknowns.resolve_by_provider_id(session, app.id, "gs-1", evidence, now)
    assert done == Resolution(Result.OTHER_ATTEMPT, row.id)
    found = row_of(session, row.id)
    assert (found.status, found.code, found.failed_at) == (Status.UNKNOWN, "no_answer", None)


def with_retried_attempt(session: Session, app: App, now: datetime) -> Claimed:
    """A message whose first attempt was accepted and failed by webhook, and that a person has tried anew."""
    row = with_earlier_id(session, app, now)
    stored = row_of(session, row.id)
    stored.status, stored.code = Status.FAILED, "1003"
    session.flush()
    plan = retries.Retry(0, "", ["1003"], [row.id], [stored.claims])
    assert retries.next_page(session, plan, now + 2 * MINUTE)
    assert (row_of(session, row.id).gs_id, plan.done["retried"]) == (None, 1)
    (again,) = claim(session, app, now + 3 * MINUTE, row.id)
    return again


@pytest.mark.parametrize("provider_id", ["gs-1", "wamid-1"])
def test_a_late_status_of_an_attempt_before_a_retry_settles_the_new_one_only_by_a_delivery(
    session: Session, app: App, now: datetime, provider_id: str
) -> None:
    row = with_retried_attempt(session, app, now)
    failed = Evidence(Status.FAILED, now + 4 * MINUTE, gs_id="gs-1", code="131026")
    # While it is under way the status names an attempt that is none of the message's present one.
    assert unknowns.resolve_by_provider_id(session, app.id, provider_id, failed, now) == Resolution(
        Result.NOT_UNKNOWN, row.id, unknowns.EARLIER
    )
    lose(session, [row], now + 3 * MINUTE)
    for status in (Status.FAILED, Status.SENT):
        told = Evidence(status, now + 3 * MINUTE, gs_id="gs-1", code="131026")
        done = unknowns.resolve_by_provider_id(session, app.id, provider_id, told, now + 4 * MINUTE)
        assert done.result is Result.OTHER_ATTEMPT
        # Nor is it adopted as the status of the only message that is unknown.
        at = now + 9 * MINUTE
        key = row_of(session, row.id).recipient_key
        adopted = unknowns.adopt(session, app.id, key, told, at - 2 * MINUTE, at, adopts_statuses=True)
        assert adopted.result is Result.OTHER_ATTEMPT
    assert state_of(session, row) == Status.UNKNOWN
    delivered = Evidence(Status.DELIVERED, now + 5 * MINUTE)
    unknowns.resolve_by_provider_id(session, app.id, provider_id, delivered, now + 6 * MINUTE)
    assert state_of(session, row) == Status.DELIVERED


def test_an_id_of_another_app_fits_nothing(session: Session, app: App, now: datetime) -> None:
    row = with_earlier_id(session, app, now)
    other = make_app(session, "outra")
    evidence = Evidence(Status.DELIVERED, now)
    done = unknowns.resolve_by_provider_id(session, other.id, "gs-1", evidence, now)
    assert done == Resolution(Result.NO_MATCH)
    assert state_of(session, row) == Status.UNKNOWN


def test_an_id_of_several_messages_resolves_none(session: Session, app: App, now: datetime) -> None:
    rows = [with_earlier_id(session, app, now) for _ in range(2)]
    evidence = Evidence(Status.DELIVERED, now)
    done = unknowns.resolve_by_provider_id(session, app.id, "gs-1", evidence, now)
    assert done == Resolution(Result.AMBIGUOUS)
    assert {state_of(session, row) for row in rows} == {Status.UNKNOWN}


def test_a_message_that_is_not_unknown_is_left_to_the_caller(
    session: Session, app: App, campaign: Campaign, now: datetime
) -> None:
    (row, *_) = claim(session, app, now, *session.scalars(select(Message.id)))
    accept(session, row, now, "gs-1")
    evidence = Evidence(Status.FAILED, now, code="131026")
    done = unknowns.resolve_by_provider_id(session, app.id, "gs-1", evidence, now)
    assert done == Resolution(Result.NOT_UNKNOWN, row.id)
    assert state_of(session, row) == Status.ACCEPTED


# -- by callback data -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "status", [Status.ACCEPTED, Status.ENQUEUED, Status.SENT, Status.DELIVERED, Status.READ]
)
def test_evidence_of_the_attempt_in_doubt_resolves_it(
    session: Session, app: App, campaign: Campaign, now: datetime, status: Status
) -> None:
    row, *others = make_unknown(session, app, now, campaign)
    evidence = Evidence(status, now + SECOND, gs_id="gs-1", wamid="wamid-1")
    done = unknowns.resolve_by_callback_data(session, app.id, data_of(session, row), evidence, now + MINUTE)
    assert done.result is Result.RESOLVED
    found = row_of(session, row.id)
    assert (found.status, getattr(found, f"{status}_at")) == (status, now + SECOND)
    assert (found.gs_id, found.wamid, found.matched_by, found.attempts) == ("gs-1", "wamid-1", "webhook", 1)
    assert (found.code, found.reason, found.settled_at) == (None, None, None)
    assert {state_of(session, other) for other in others} == {Status.UNKNOWN}


def test_a_failure_of_the_attempt_in_doubt_fails_it_with_code_words_and_hint(
    session: Session, app: App, campaign: Campaign, now: datetime
) -> None:
    rows = make_unknown(session, app, now, campaign)
    told = Evidence(Status.FAILED, now, gs_id="gs-1", code="131026", reason="Undeliverable")
    done = unknowns.resolve_by_callback_data(session, app.id, data_of(session, rows[0]), told, now)
    assert done.result is Result.RESOLVED
    assert done.hint
    found = row_of(session, rows[0].id)
    assert (found.status, found.failed_at, found.gs_id) == (Status.FAILED, now, "gs-1")
    assert (found.code, found.reason, found.settled_at) == ("131026", "Undeliverable", None)
    untold = Evidence(Status.FAILED, now)
    unknowns.resolve_by_callback_data(session, app.id, data_of(session, rows[1]), untold, now)
    found = row_of(session, rows[1].id)
    assert (found.status, found.code) == (Status.FAILED, "unlisted_4xx")
    assert found.reason


def test_the_same_evidence_again_changes_nothing(
    session: Session, app: App, campaign: Campaign, now: datetime
) -> None:
    row, *_ = make_unknown(session, app, now, campaign)
    data, delivered = data_of(session, row), Evidence(Status.DELIVERED, now)
    unknowns.resolve_by_callback_data(session, app.id, data, delivered, now)
    for again in (delivered, Evidence(Status.FAILED, now, code="131026"), Evidence(Status.SENT, now)):
        done = unknowns.resolve_by_callback_data(session, app.id, data, again, now)
        assert done == Resolution(Result.NOT_UNKNOWN, row.id, Attempt(1, now))
    found = row_of(session, row.id)
    assert (found.status, found.failed_at, found.sent_at) == (Status.DELIVERED, None, None)


def test_instants_are_the_least_known_and_none_is_in_the_future(
    session: Session, app: App, campaign: Campaign, now: datetime
) -> None:
    row, ahead, *_ = make_unknown(session, app, now, campaign)
    row_of(session, row.id).delivered_at = now + SECOND
    session.flush()
    late = Evidence(Status.DELIVERED, now + MINUTE)
    unknowns.resolve_by_callback_data(session, app.id, data_of(session, row), late, now + MINUTE)
    assert row_of(session, row.id).delivered_at == now + SECOND
    unknowns.resolve_by_callback_data(session, app.id, data_of(session, ahead), late, now)
    assert row_of(session, ahead.id).delivered_at == now


def resent(session: Session, app: App, row: Claimed, at: datetime) -> Claimed:
    """The row, lost once more by the attempt that a person has ordered."""
    unknowns.decide(session, [row.id], Decision.RESEND, actor="ana", now=at)
    (again,) = claim(session, app, at, row.id)
    lose(session, [again], at)
    return again


def test_a_late_failure_of_the_first_attempt_does_not_fail_the_second(
    session: Session, app: App, campaign: Campaign, now: datetime
) -> None:
    row, *_ = make_unknown(session, app, now, campaign)
    data = data_of(session, row)
    resent(session, app, row, now + MINUTE)
    failed = Evidence(Status.FAILED, now, gs_id="gs-1", code="131026")
    done = unknowns.resolve_by_callback_data(session, app.id, data, failed, now + MINUTE)
    assert done == Resolution(Result.OTHER_ATTEMPT, row.id, Attempt(1, now))
    found = row_of(session, row.id)
    assert (found.status, found.code, found.failed_at, found.gs_id) == (
        Status.UNKNOWN,
        "no_answer",
        None,
        None,
    )
    delivered = Evidence(Status.DELIVERED, now, gs_id="gs-1")
    done = unknowns.resolve_by_callback_data(session, app.id, data, delivered, now + MINUTE)
    assert done.result is Result.RESOLVED
    found = row_of(session, row.id)
    assert (found.status, found.gs_id, found.attempts) == (Status.DELIVERED, "gs-1", 2)


def test_an_earlier_attempt_that_was_sent_is_noted_and_keeps_the_message_from_being_resent(
    session: Session, app: App, resending: Campaign, now: datetime
) -> None:
    row, *others = make_unknown(session, app, now, resending)
    data = data_of(session, row)
    again = resent(session, app, row, now + SECOND)
    sent = Evidence(Status.SENT, now, gs_id="gs-1")
    done = unknowns.resolve_by_callback_data(session, app.id, data, sent, now + SECOND)
    assert done.result is Result.OTHER_ATTEMPT
    found = row_of(session, row.id)
    assert (found.status, found.sent_at, found.gs_id, found.matched_by) == (Status.UNKNOWN, now, None, None)
    assert unknowns.resend_unknowns(session, now + AFTERWARDS + SECOND) == len(others)
    assert state_of(session, again) == Status.UNKNOWN


def test_a_status_of_before_a_restore_does_not_match_a_row_made_since_with_its_id(
    session: Session, app: App, campaign: Campaign, now: datetime
) -> None:
    row, *_ = make_unknown(session, app, now, campaign)
    data = data_of(session, row)
    row_of(session, row.id).created_at += SECOND
    session.flush()
    done = unknowns.resolve_by_callback_data(session, app.id, data, Evidence(Status.DELIVERED, now), now)
    assert done == Resolution(Result.NO_MATCH)
    assert state_of(session, row) == Status.UNKNOWN


def test_a_failure_of_before_a_restore_does_not_fail_the_attempt_made_since(
    session: Session, app: App, campaign: Campaign, now: datetime
) -> None:
    """The row was in the backup, so id, creation and the number of the claim are those of then."""
    row, *_ = make_unknown(session, app, now, campaign)
    data = data_of(session, row)
    row_of(session, row.id).claimed_at = now + MINUTE
    session.flush()
    failed = Evidence(Status.FAILED, now, code="131026")
    done = unknowns.resolve_by_callback_data(session, app.id, data, failed, now + MINUTE)
    assert done.result is Result.OTHER_ATTEMPT
    delivered = Evidence(Status.DELIVERED, now)
    done = unknowns.resolve_by_callback_data(session, app.id, data, delivered, now + MINUTE)
    assert (done.result, state_of(session, row)) == (Result.RESOLVED, Status.DELIVERED)


def test_data_of_another_installation_app_or_system_fits_nothing(
    session: Session, app: App, campaign: Campaign, now: datetime
) -> None:
    row, *_ = make_unknown(session, app, now, campaign)
    data, evidence = data_of(session, row), Evidence(Status.DELIVERED, now)
    other = make_app(session, "outra")
    for app_id, given in [
        (app.id, "order-1001"),
        (other.id, data),
        (app.id, data.replace(f".{row.id}.", ".999999.")),
    ]:
        done = unknowns.resolve_by_callback_data(session, app_id, given, evidence, now)
        assert done == Resolution(Result.NO_MATCH)
    session.scalars(select(Installation)).one().id = uuid4()
    session.flush()
    done = unknowns.resolve_by_callback_data(session, app.id, data, evidence, now)
    assert done == Resolution(Result.NO_MATCH)
    assert state_of(session, row) == Status.UNKNOWN


def test_a_late_answer_of_a_row_that_a_webhook_has_resolved_changes_nothing(
    session: Session, app: App, campaign: Campaign, now: datetime
) -> None:
    row, *_ = claim(session, app, now, *session.scalars(select(Message.id)))
    later = now + recovery.LEASE + SECOND
    recovery.expire_leases(session, later)
    delivered = Evidence(Status.DELIVERED, now, gs_id="gs-1")
    unknowns.resolve_by_callback_data(session, app.id, data_of(session, row), delivered, later)
    assert accept(session, row, later) == 0
    found = row_of(session, row.id)
    # The attempt that the lease sweep had left to its late answer is counted.
    assert (found.status, found.gs_id, found.attempts) == (Status.DELIVERED, "gs-1", 1)


# -- adoption ---------------------------------------------------------------------------------------------

TO = "5511987650001"
KEY = TO[-10:]


def adopt(
    session: Session,
    app: App,
    evidence: Evidence,
    *,
    waited: timedelta = MINUTE,
    adopts_statuses: bool = True,
    key: str = KEY,
) -> Resolution:
    came = evidence.at + SECOND
    return unknowns.adopt(
        session, app.id, key, evidence, came, came + waited, adopts_statuses=adopts_statuses
    )


def to_one_recipient(session: Session, app: App, at: datetime) -> Claimed:
    return make_unknown(session, app, at, make_message(session, app, TO, due_at=at))[0]


def test_the_single_unknown_of_a_recipient_adopts_a_status_that_fits_nothing_else(
    session: Session, app: App, now: datetime
) -> None:
    row = to_one_recipient(session, app, now)
    sent = Evidence(Status.SENT, now + SECOND, gs_id="gs-1", wamid="wamid-1")
    assert adopt(session, app, sent) == Resolution(Result.RESOLVED, row.id, Attempt(1, now))
    found = row_of(session, row.id)
    assert (found.status, found.sent_at, found.matched_by) == (Status.SENT, now + SECOND, "recipient")
    # What follows is found by its id.
    assert (found.gs_id, found.wamid) == ("gs-1", "wamid-1")
    assert adopt(session, app, sent) == Resolution(Result.NOT_UNKNOWN, row.id)


def test_an_adopted_failure_fails_the_message(session: Session, app: App, now: datetime) -> None:
    row = to_one_recipient(session, app, now)
    assert adopt(session, app, Evidence(Status.FAILED, now, code="131026")).result is Result.RESOLVED
    found = row_of(session, row.id)
    assert (found.status, found.code, found.matched_by) == (Status.FAILED, "131026", "recipient")


def test_nothing_is_adopted_where_other_systems_send_nor_before_a_minute(
    session: Session, app: App, now: datetime
) -> None:
    row = to_one_recipient(session, app, now)
    sent = Evidence(Status.SENT, now, gs_id="gs-1")
    assert adopt(session, app, sent, adopts_statuses=False) == Resolution(Result.NO_MATCH)
    assert adopt(session, app, sent, waited=MINUTE - SECOND) == Resolution(Result.TOO_SOON)
    assert adopt(session, make_app(session, "outra"), sent) == Resolution(Result.NO_MATCH)
    assert adopt(session, app, sent, key="1187650002") == Resolution(Result.NO_MATCH)
    assert state_of(session, row) == Status.UNKNOWN


@pytest.mark.parametrize(
    ("seconds", "result"),
    [(-3, Result.NO_MATCH), (-2, Result.RESOLVED), (600, Result.RESOLVED), (601, Result.NO_MATCH)],
)
def test_only_an_attempt_of_the_ten_minutes_before_the_status_adopts_it(
    session: Session, app: App, now: datetime, seconds: int, result: Result
) -> None:
    to_one_recipient(session, app, now)
    assert adopt(session, app, Evidence(Status.SENT, now + seconds * SECOND)).result is result


def test_a_message_of_a_restored_backup_adopts_nothing(session: Session, app: App, now: datetime) -> None:
    """It may have been sent at any time since, and by more than one attempt."""
    row = to_one_recipient(session, app, now)
    row_of(session, row.id).code = fence.RESTORED
    session.flush()
    assert adopt(session, app, Evidence(Status.DELIVERED, now)) == Resolution(Result.NO_MATCH)


def test_of_two_unknowns_none_adopts_until_the_other_is_explained(
    session: Session, app: App, now: datetime
) -> None:
    first, second = to_one_recipient(session, app, now), to_one_recipient(session, app, now)
    sent = Evidence(Status.SENT, now, gs_id="gs-1")
    assert adopt(session, app, sent) == Resolution(Result.AMBIGUOUS)
    explained = Evidence(Status.SENT, now, gs_id="gs-2")
    unknowns.resolve_by_callback_data(session, app.id, data_of(session, second), explained, now)
    assert adopt(session, app, sent).message_id == first.id
    assert state_of(session, first) == Status.SENT


def test_a_status_that_fits_a_message_by_now_is_that_messages(
    session: Session, app: App, now: datetime
) -> None:
    row = to_one_recipient(session, app, now)
    (other,) = claim(session, app, now, make_message(session, app, TO, due_at=now).id)
    sent = Evidence(Status.SENT, now, gs_id="gs-2")
    assert adopt(session, app, sent) == Resolution(Result.AMBIGUOUS)
    accept(session, other, now, "gs-2")
    assert adopt(session, app, sent) == Resolution(Result.NOT_UNKNOWN, other.id)
    assert state_of(session, row) == Status.UNKNOWN


def _sending(session: Session, app: App, now: datetime, other: Message) -> None:
    claim(session, app, now, other.id)


def _without_id(session: Session, app: App, now: datetime, other: Message) -> None:
    (row,) = claim(session, app, now, other.id)
    accept(session, row, now, None)


def _decided(decision: Decision) -> Callable[[Session, App, datetime, Message], None]:
    def decided(session: Session, app: App, now: datetime, other: Message) -> None:
        make_unknown(session, app, now, other)
        unknowns.decide(session, [other.id], decision, actor="ana", now=now)

    return decided


def _resent_and_accepted(session: Session, app: App, now: datetime, other: Message) -> None:
    make_unknown(session, app, now, other)
    unknowns.decide(session, [other.id], Decision.RESEND, actor="ana", now=now)
    (again,) = claim(session, app, now + SECOND, other.id)
    accept(session, again, now + SECOND, "gs-2")


def _expired(session: Session, app: App, now: datetime, other: Message) -> None:
    other.not_after = now + SECOND
    make_unknown(session, app, now, other)
    unknowns.decide(session, [other.id], Decision.RESEND, actor="ana", now=now + SECOND)
    assert row_of(session, other.id).status == Status.EXPIRED


def _restored(session: Session, app: App, now: datetime, other: Message) -> None:
    other.status, other.code, other.settled_at = Status.UNKNOWN, fence.RESTORED, now
    session.flush()


@pytest.mark.parametrize(
    "rival",
    [
        _sending,
        _without_id,
        _decided(Decision.SENT),
        _decided(Decision.GIVE_UP),
        _decided(Decision.RESEND),
        _resent_and_accepted,
        _expired,
        _restored,
    ],
    ids=["sending", "accepted without id", "sent", "given up", "resend", "resent", "expired", "restored"],
)
def test_another_message_of_the_recipient_that_may_be_meant_stands_in_the_way(
    session: Session,
    app: App,
    now: datetime,
    rival: Callable[[Session, App, datetime, Message], None],
) -> None:
    row = to_one_recipient(session, app, now)
    rival(session, app, now, make_message(session, app, TO, due_at=now))
    assert adopt(session, app, Evidence(Status.SENT, now + SECOND, gs_id="gs-1")) == Resolution(
        Result.AMBIGUOUS
    )
    assert state_of(session, row) == Status.UNKNOWN


def _pending(session: Session, app: App, now: datetime, other: Message) -> None:
    """Not claimed yet."""


def _refused(session: Session, app: App, now: datetime, other: Message) -> None:
    (row,) = claim(session, app, now, other.id)
    failed = Outcome(row.id, row.claim, Status.FAILED, spent=True, verdict="message_permanent", code="131009")
    batches.record(session, [failed], now)


def _accepted(session: Session, app: App, now: datetime, other: Message) -> None:
    (row,) = claim(session, app, now, other.id)
    accept(session, row, now, "gs-2")


def _long_ago(session: Session, app: App, now: datetime, other: Message) -> None:
    make_unknown(session, app, now - 20 * MINUTE, other)


def _afterwards(session: Session, app: App, now: datetime, other: Message) -> None:
    make_unknown(session, app, now + MINUTE, other)


def _sending_afterwards(session: Session, app: App, now: datetime, other: Message) -> None:
    claim(session, app, now + MINUTE, other.id)


@pytest.mark.parametrize(
    "bystander", [_pending, _refused, _accepted, _long_ago, _afterwards, _sending_afterwards]
)
def test_a_message_that_cannot_be_meant_does_not(
    session: Session,
    app: App,
    now: datetime,
    bystander: Callable[[Session, App, datetime, Message], None],
) -> None:
    row = to_one_recipient(session, app, now)
    bystander(session, app, now, make_message(session, app, TO, due_at=now - 20 * MINUTE))
    done = adopt(session, app, Evidence(Status.SENT, now + SECOND, gs_id="gs-1"))
    assert (done.result, done.message_id) == (Result.RESOLVED, row.id)


def test_a_status_without_an_id_may_be_of_any_message_accepted_then(
    session: Session, app: App, now: datetime
) -> None:
    to_one_recipient(session, app, now)
    _accepted(session, app, now, make_message(session, app, TO, due_at=now))
    for evidence in (Evidence(Status.SENT, now), Evidence(Status.SENT, now, wamid="wamid-1")):
        assert adopt(session, app, evidence) == Resolution(Result.AMBIGUOUS)


def test_of_two_attempts_without_an_answer_only_a_delivery_is_adopted(
    session: Session, app: App, now: datetime
) -> None:
    row = to_one_recipient(session, app, now)
    resent(session, app, row, now + MINUTE)
    failed = Evidence(Status.FAILED, now + MINUTE, code="131026")
    assert adopt(session, app, failed) == Resolution(Result.OTHER_ATTEMPT, row.id)
    assert adopt(session, app, Evidence(Status.DELIVERED, now + MINUTE)).result is Result.RESOLVED
    assert state_of(session, row) == Status.DELIVERED


# -- decisions --------------------------------------------------------------------------------------------

NOTHING = dict.fromkeys(("accepted", "pending", "failed", "expired", "cancelled", "not_unknown"), 0)


def test_what_a_person_has_seen_sent_is_accepted(
    session: Session, app: App, campaign: Campaign, now: datetime
) -> None:
    rows = make_unknown(session, app, now, campaign)
    done = unknowns.decide(
        session, campaign, Decision.SENT, actor="ana", why="seen at Gupshup", now=now + MINUTE
    )
    assert done == NOTHING | {"accepted": 3}
    found = row_of(session, rows[0].id)
    assert (found.status, found.accepted_at, found.matched_by) == (Status.ACCEPTED, now + MINUTE, "operator")
    assert (found.code, found.reason) == (None, "taken as sent by ana: seen at Gupshup")
    assert found.settled_at is None
    details = {"decision": "sent", "messages": 3}
    assert actions(session) == [("resolve", "campaign:black-friday", "ana", "seen at Gupshup", details)]


def test_what_is_given_up_fails_with_a_code_of_its_own(
    session: Session, app: App, campaign: Campaign, now: datetime
) -> None:
    row, other, _ = make_unknown(session, app, now, campaign)
    done = unknowns.decide(session, [row.id, row.id], Decision.GIVE_UP, actor="ana", now=now + MINUTE)
    assert done == NOTHING | {"failed": 1}
    found = row_of(session, row.id)
    assert (found.status, found.code, found.reason) == (Status.FAILED, unknowns.GIVEN_UP, "given up by ana")
    assert (found.failed_at, found.settled_at, found.matched_by) == (now + MINUTE, None, "operator")
    assert state_of(session, other) == Status.UNKNOWN


def test_what_is_resent_is_due_now_under_a_new_claim_and_counts_on(
    session: Session, app: App, campaign: Campaign, now: datetime
) -> None:
    row, *_ = make_unknown(session, app, now, campaign)
    assert unknowns.decide(session, [row.id], Decision.RESEND, actor="ana", now=now) == NOTHING | {
        "pending": 1
    }
    found = row_of(session, row.id)
    assert (found.status, found.due_at, found.released_at) == (Status.PENDING, now, None)
    assert (found.code, found.reason, found.settled_at, found.matched_by) == (None, None, None, None)
    (job,) = (job for job in releases.release(session, now) if job.message_ids)
    assert job.message_ids == (row.id,)
    (again,) = batches.claim(session, job, 1, "w", now)
    assert (again.claim, again.tries) == (2, 0)
    accept(session, again, now)
    assert row_of(session, row.id).attempts == 2


def test_a_decision_is_kept_with_who_decided_for_each_campaign_and_single_message(
    session: Session, app: App, campaign: Campaign, now: datetime
) -> None:
    row, *_ = make_unknown(session, app, now, campaign)
    single = to_one_recipient(session, app, now)
    unknowns.decide(session, [row.id, single.id], Decision.RESEND, actor="ana", why="asked them", now=now)
    details = {"decision": "resend", "messages": 1}
    assert actions(session) == [
        ("resolve", "campaign:black-friday", "ana", "asked them", details),
        ("resolve", f"message:{single.id}", "ana", "asked them", details),
    ]


@pytest.mark.parametrize("decision", Decision)
def test_what_is_not_unknown_is_never_touched(
    session: Session, app: App, campaign: Campaign, now: datetime, decision: Decision
) -> None:
    ids = session.scalars(select(Message.id).order_by(Message.id)).all()
    _, sent = claim(session, app, now, *ids[:2])
    accept(session, sent, now)
    before = recount(session, campaign)
    assert unknowns.decide(session, [*ids, 10**9], decision, actor="ana", now=now) == NOTHING | {
        "not_unknown": 4
    }
    assert unknowns.decide(session, campaign, decision, actor="ana", now=now) == NOTHING
    assert recount(session, campaign) == before
    assert actions(session) == []


@pytest.mark.parametrize("decision", Decision)
def test_a_decision_repeated_changes_nothing(
    session: Session, app: App, campaign: Campaign, now: datetime, decision: Decision
) -> None:
    rows = make_unknown(session, app, now, campaign)
    unknowns.decide(session, campaign, decision, actor="ana", now=now)
    before = recount(session, campaign)
    done = unknowns.decide(session, [row.id for row in rows], decision, actor="ana", now=now)
    assert (done, recount(session, campaign)) == (NOTHING | {"not_unknown": 3}, before)


def test_what_is_too_late_expires_instead_of_being_resent(session: Session, app: App, now: datetime) -> None:
    campaign = make_campaign(session, app, 2, not_after=now + MINUTE)
    rows = make_unknown(session, app, now, campaign)
    done = unknowns.decide(session, campaign, Decision.RESEND, actor="ana", now=now + MINUTE)
    assert done == NOTHING | {"expired": 2}
    found = row_of(session, rows[0].id)
    assert (found.status, found.settled_at, found.matched_by) == (Status.EXPIRED, now + MINUTE, "operator")
    # That it may have been sent stays to be read.
    assert found.code == "no_answer"


def test_a_payment_is_resent_by_decision_unless_it_was_paid_meanwhile(
    session: Session, app: App, now: datetime
) -> None:
    campaign = make_campaign(session, app, 2, lane=Lane.PAYMENT)
    unpaid, paid = make_unknown(session, app, now, campaign)
    for row, paid_at in [(unpaid, None), (paid, now)]:
        row_of(session, row.id).key = f"fatura-{row.id}"
        make_charge(session, app, f"fatura-{row.id}", message_id=row.id, paid_at=paid_at)
    done = unknowns.decide(session, campaign, Decision.RESEND, actor="ana", now=now)
    assert done == NOTHING | {"pending": 1, "cancelled": 1}
    assert (state_of(session, unpaid), state_of(session, paid)) == (Status.PENDING, Status.CANCELLED)


def test_a_reminder_is_not_resent_to_who_has_bought(session: Session, app: App, now: datetime) -> None:
    row = to_one_recipient(session, app, now)
    make_reminder(session, app, now, status="released", message_id=row.id, converted_at=now)
    assert unknowns.decide(session, [row.id], Decision.RESEND, actor="ana", now=now)["cancelled"] == 1


def test_nothing_is_resent_that_a_living_worker_may_still_send(
    session: Session, app: App, campaign: Campaign, now: datetime
) -> None:
    """The sweep waits for the lease; only a clock that was set back makes such a row look younger."""
    rows = claim(session, app, now, *session.scalars(select(Message.id)))
    later = now + recovery.LEASE + SECOND
    recovery.expire_leases(session, later)
    with pytest.raises(
        ConflictError, match=r"3 of these messages were claimed less than 100 s ago.*Try again"
    ):
        unknowns.decide(session, campaign, Decision.RESEND, actor="ana", now=later - 2 * SECOND)
    assert {state_of(session, row) for row in rows} == {Status.UNKNOWN}
    assert actions(session) == []
    done = unknowns.decide(session, [rows[0].id], Decision.GIVE_UP, actor="ana", now=later - 2 * SECOND)
    assert done["failed"] == 1
    assert unknowns.decide(session, campaign, Decision.RESEND, actor="ana", now=later)["pending"] == 2
    assert row_of(session, rows[1].id).attempts == 1


def test_nothing_of_a_cancelled_campaign_is_resent(
    session: Session, app: App, campaign: Campaign, now: datetime
) -> None:
    make_unknown(session, app, now, campaign)
    campaigns.cancel(session, campaign, now, by="ana")
    with pytest.raises(ConflictError, match="black-friday was cancelled, so nothing more of it is sent"):
        unknowns.decide(session, campaign, Decision.RESEND, actor="ana", now=now)
    assert unknowns.decide(session, campaign, Decision.SENT, actor="ana", now=now)["accepted"] == 3


def test_a_late_answer_of_the_old_claim_is_not_recorded_on_a_resent_row(
    session: Session, app: App, campaign: Campaign, now: datetime
) -> None:
    row, *others = claim(session, app, now, *session.scalars(select(Message.id)))
    later = now + recovery.LEASE + SECOND
    recovery.expire_leases(session, later)
    unknowns.decide(session, [row.id], Decision.RESEND, actor="ana", now=later)
    assert accept(session, row, later) == 0
    assert state_of(session, row) == Status.PENDING
    (again,) = claim(session, app, later, row.id)
    assert accept(session, row, later) == 0
    recovery.expire_leases(session, later + recovery.LEASE + SECOND)
    assert accept(session, row, later) == 0
    assert state_of(session, row) == Status.UNKNOWN
    journal = recovery.settle_dead_worker(session, "w", {row.id: row.claim}, [], later)
    assert (journal["unknown"], again.claim) == (0, 2)
    assert len(others) == 2


# -- races ------------------------------------------------------------------------------------------------


def test_a_webhook_that_meets_a_decision_leaves_it(
    engine: Engine, session: Session, app: App, campaign: Campaign, now: datetime
) -> None:
    row, *_ = make_unknown(session, app, now, campaign)
    data, failed = data_of(session, row), Evidence(Status.FAILED, now, code="131026")
    decided, told = meet_in(
        engine,
        session,
        lambda one: unknowns.decide(one, [row.id], Decision.RESEND, actor="ana", now=now),
        lambda one: unknowns.resolve_by_callback_data(one, app.id, data, failed, now),
    )
    assert decided["pending"] == 1
    assert told == Resolution(Result.NOT_UNKNOWN, row.id, Attempt(1, now))
    assert state_of(session, row) == Status.PENDING


@pytest.mark.parametrize("decision", Decision)
def test_a_decision_that_meets_a_webhook_leaves_what_it_proved(
    engine: Engine, session: Session, app: App, campaign: Campaign, now: datetime, decision: Decision
) -> None:
    row, other, _ = make_unknown(session, app, now, campaign)
    data, delivered = data_of(session, row), Evidence(Status.DELIVERED, now)
    _, decided = meet_in(
        engine,
        session,
        lambda one: unknowns.resolve_by_callback_data(one, app.id, data, delivered, now),
        lambda one: unknowns.decide(one, [row.id, other.id], decision, actor="ana", now=now),
    )
    assert decided["not_unknown"] == 1
    assert state_of(session, row) == Status.DELIVERED


def test_a_decision_that_meets_the_late_answer_leaves_it(
    engine: Engine, session: Session, app: App, campaign: Campaign, now: datetime
) -> None:
    row, *_ = claim(session, app, now, *session.scalars(select(Message.id)))
    later = now + recovery.LEASE + SECOND
    recovery.expire_leases(session, later)
    recorded, decided = meet_in(
        engine,
        session,
        lambda one: accept(one, row, later),
        lambda one: unknowns.decide(one, [row.id], Decision.RESEND, actor="ana", now=later),
    )
    assert (recorded, decided) == (1, NOTHING | {"not_unknown": 1})
    assert state_of(session, row) == Status.ACCEPTED


def test_a_late_answer_that_meets_a_decision_is_not_recorded(
    engine: Engine, session: Session, app: App, campaign: Campaign, now: datetime
) -> None:
    row, *_ = claim(session, app, now, *session.scalars(select(Message.id)))
    later = now + recovery.LEASE + SECOND
    recovery.expire_leases(session, later)
    decided, recorded = meet_in(
        engine,
        session,
        lambda one: unknowns.decide(one, [row.id], Decision.RESEND, actor="ana", now=later),
        lambda one: accept(one, row, later),
    )
    assert (decided["pending"], recorded) == (1, 0)
    assert state_of(session, row) == Status.PENDING


def test_evidence_that_meets_a_row_claimed_and_lost_again_is_of_its_own_attempt_only(
    engine: Engine, session: Session, app: App, campaign: Campaign, now: datetime
) -> None:
    row, *_ = make_unknown(session, app, now, campaign)
    data, failed = data_of(session, row), Evidence(Status.FAILED, now, code="131026")
    _, told = meet_in(
        engine,
        session,
        lambda one: resent(one, app, row, now + MINUTE),
        lambda one: unknowns.resolve_by_callback_data(one, app.id, data, failed, now + MINUTE),
    )
    assert told.result is Result.OTHER_ATTEMPT
    assert (state_of(session, row), row_of(session, row.id).claims) == (Status.UNKNOWN, 2)


def test_two_statuses_of_one_message_at_once_are_adopted_once(
    engine: Engine, session: Session, app: App, campaign: Campaign, now: datetime
) -> None:
    row, *_ = make_unknown(session, app, now, campaign)
    key = row_of(session, row.id).recipient_key
    first, second = meet_in(
        engine,
        session,
        lambda one: adopt(one, app, Evidence(Status.SENT, now, gs_id="gs-1"), key=key),
        lambda one: adopt(one, app, Evidence(Status.DELIVERED, now, gs_id="gs-1"), key=key),
    )
    assert (first.result, second.result) == (Result.RESOLVED, Result.NOT_UNKNOWN)
    assert state_of(session, row) == Status.SENT


def test_two_that_decide_one_campaign_count_it_once(
    engine: Engine, session: Session, app: App, campaign: Campaign, now: datetime
) -> None:
    make_unknown(session, app, now, campaign)
    first, second = meet_in(
        engine,
        session,
        lambda one: unknowns.decide(
            one, one.get_one(Campaign, campaign.id), Decision.SENT, actor="ana", now=now
        ),
        lambda one: unknowns.decide(
            one, one.get_one(Campaign, campaign.id), Decision.GIVE_UP, actor="rui", now=now
        ),
    )
    assert (first["accepted"], second) == (3, NOTHING)
    assert [action[2] for action in actions(session)] == ["ana"]


@pytest.mark.parametrize("paid_first", [True, False])
def test_a_payment_that_meets_a_decision_to_resend_is_not_asked_for_again(
    engine: Engine, session: Session, app: App, now: datetime, paid_first: bool
) -> None:
    message = make_message(session, app, lane=Lane.PAYMENT, key="fatura-1", due_at=now)
    make_unknown(session, app, now, message)
    make_charge(session, app, "fatura-1", message_id=message.id)

    def paid(one: Session) -> bool:
        return pix.mark_paid(one, pix.get(one, app, "fatura-1", lock=True), now)

    def resend(one: Session) -> dict[str, int]:
        return unknowns.decide(one, [message.id], Decision.RESEND, actor="ana", now=now)

    meet_in(engine, session, *((paid, resend) if paid_first else (resend, paid)))
    assert row_of(session, message.id).status == Status.CANCELLED


def test_a_purchase_that_meets_a_decision_to_resend_is_not_reminded_of_again(
    engine: Engine, session: Session, app: App, now: datetime
) -> None:
    row = to_one_recipient(session, app, now)
    make_reminder(session, app, now, status="released", message_id=row.id)
    meet_in(
        engine,
        session,
        lambda one: reminders.convert(one, app, "carrinho-1", now),
        lambda one: unknowns.decide(one, [row.id], Decision.RESEND, actor="ana", now=now),
    )
    assert state_of(session, row) == Status.CANCELLED


# -- the campaign's policy --------------------------------------------------------------------------------


def test_a_campaign_that_resends_does_so_once_its_webhooks_had_their_time(
    session: Session, app: App, resending: Campaign, campaign: Campaign, now: datetime
) -> None:
    make_unknown(session, app, now, campaign)
    rows = make_unknown(session, app, now, resending)
    assert unknowns.resend_unknowns(session, now + AFTERWARDS - SECOND) == 0
    assert unknowns.resend_unknowns(session, now + AFTERWARDS, page=2) == 2
    assert unknowns.resend_unknowns(session, now + AFTERWARDS, page=2) == 1
    assert unknowns.resend_unknowns(session, now + AFTERWARDS, page=2) == 0
    assert recount(session, resending)["pending"] == 3
    assert recount(session, campaign)["unknown"] == 3
    found = row_of(session, rows[0].id)
    assert (found.due_at, found.attempts, found.matched_by) == (now + AFTERWARDS, 1, None)
    done = [
        ("resend", "campaign:resending", "disparo", "on_unknown: resend", {"messages": n}) for n in (2, 1)
    ]
    assert actions(session) == done


def test_the_window_is_longer_than_adoption_needs_and_than_the_lease() -> None:
    needed = unknowns.ADOPTION_LOOKBACK + unknowns.ADOPTION_WAIT
    assert max(needed, recovery.LEASE) < unknowns.WEBHOOK_WINDOW


@pytest.mark.parametrize("code", ["no_answer", recovery.LEASE_EXPIRED])
def test_after_three_attempts_a_message_is_held(
    session: Session, app: App, resending: Campaign, now: datetime, code: str
) -> None:
    ids = session.scalars(select(Message.id).where(Message.campaign_id == resending.id)).all()
    for attempt in (1, 2, 3):
        rows = claim(session, app, now, *ids)
        if code == recovery.LEASE_EXPIRED:
            recovery.expire_leases(session, now + recovery.LEASE + SECOND)
        else:
            lose(session, rows, now)
        now += AFTERWARDS + recovery.LEASE + SECOND
        assert unknowns.resend_unknowns(session, now) == (0 if attempt == 3 else 3)
    assert recount(session, resending)["unknown"] == 3


def _paused(session: Session, campaign: Campaign, row: Message, now: datetime) -> None:
    campaigns.pause(session, campaign, by="ana")


def _cancelled(session: Session, campaign: Campaign, row: Message, now: datetime) -> None:
    campaigns.cancel(session, campaign, now, by="ana")


def _too_late(session: Session, campaign: Campaign, row: Message, now: datetime) -> None:
    row.not_after = now


def _payment(session: Session, campaign: Campaign, row: Message, now: datetime) -> None:
    row.lane = Lane.PAYMENT


def _payment_campaign(session: Session, campaign: Campaign, row: Message, now: datetime) -> None:
    campaign.lane = Lane.PAYMENT


def _from_a_backup(session: Session, campaign: Campaign, row: Message, now: datetime) -> None:
    row.code = fence.RESTORED


def _never_claimed(session: Session, campaign: Campaign, row: Message, now: datetime) -> None:
    row.claimed_at = None


def _once_accepted(session: Session, campaign: Campaign, row: Message, now: datetime) -> None:
    row.enqueued_at = now


def _just_unknown(session: Session, campaign: Campaign, row: Message, now: datetime) -> None:
    row.settled_at = now


@pytest.mark.parametrize(
    "held",
    [
        _paused,
        _cancelled,
        _too_late,
        _payment,
        _payment_campaign,
        _from_a_backup,
        _never_claimed,
        _once_accepted,
        _just_unknown,
    ],
)
def test_what_is_never_resent_by_itself(
    session: Session,
    app: App,
    now: datetime,
    held: Callable[[Session, Campaign, Message, datetime], None],
) -> None:
    campaign = make_campaign(session, app, 1, on_unknown="resend")
    (row,) = make_unknown(session, app, now, campaign)
    held(session, campaign, row_of(session, row.id), now + AFTERWARDS)
    session.flush()
    assert unknowns.resend_unknowns(session, now + AFTERWARDS) == 0
    assert state_of(session, row) == Status.UNKNOWN


def test_two_that_resend_at_once_never_take_the_same_message(
    engine: Engine, session: Session, app: App, resending: Campaign, now: datetime
) -> None:
    make_unknown(session, app, now, resending)
    session.commit()
    assert unknowns.resend_unknowns(session, now + AFTERWARDS, page=2) == 2
    with Session(engine) as other, other.begin():
        other.execute(text("SET LOCAL lock_timeout = '5s'"))
        assert unknowns.resend_unknowns(other, now + AFTERWARDS) == 1
    session.commit()


def test_a_campaign_whose_unknowns_will_be_resent_waits_for_nobody_and_is_not_finished(
    session: Session, app: App, resending: Campaign, now: datetime
) -> None:
    def shown(at: datetime) -> tuple[str, int | None]:
        found = progress.status(session, resending, at, ZoneInfo("America/Sao_Paulo"))
        return found["limited_by"], found["eta_seconds"]

    rows = make_unknown(session, app, now, resending)
    assert shown(now) == (LimitedBy.NONE, None)
    assert campaigns.finish_done(session, now) == []
    for row in rows[:2]:
        row_of(session, row.id).attempts = campaigns.RESEND_ATTEMPTS
    session.flush()
    assert shown(now) == (LimitedBy.NONE, None)
    row_of(session, rows[2].id).claimed_at = None
    session.flush()
    assert shown(now) == (LimitedBy.DECISION, 0)
    assert campaigns.finish_done(session, now) == []
    unknowns.decide(session, resending, Decision.SENT, actor="ana", now=now)
    assert campaigns.finish_done(session, now) == ["resending"]
    assert session.get_one(Campaign, resending.id, populate_existing=True).state == CampaignState.FINISHED
