"""Who is not written to, by whose word and until when; what the provider's answers make of it."""

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from threading import Barrier, Event
from typing import Any

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from disparo import phone, suppressions
from disparo.errors import InputError
from disparo.models import App, Message, Notification, SendError, Suppression
from disparo.statuses import Lane, Status, Verdict
from disparo.suppressions import Refusal, note_refusals, target
from disparo.whatsapp.codes import TABLE, Override
from tests.factories.app import make_app
from tests.factories.message import make_message
from tests.factories.suppression import make_suppression

SECOND, DAY = timedelta(seconds=1), timedelta(days=1)
ANA, INDIA = "5511999998888", "919812345678"
WHY = text(f"SELECT {suppressions.REASON} FROM messages m WHERE m.id = :id")


def message_to(session: Session, app: App, to: str = ANA, **columns: Any) -> Message:
    message = make_message(session, app, to, **columns)
    message.recipient_key = phone.key_of(to)
    session.flush()
    return message


def failed(session: Session, app: App, code: str, now: datetime, to: str = ANA, **columns: Any) -> Refusal:
    """A message that failed, as `disparo.batches.record` leaves it."""
    rule = TABLE.lookup(code)
    columns = {"status": Status.FAILED, "code": code, "failed_at": now} | columns
    message = message_to(session, app, to, **columns)
    session.add(SendError(message_id=message.id, attempt=1, at=now, verdict=rule.verdict, code=code, text=""))
    session.flush()
    return Refusal(message.id, code, "the provider's words.", rule)


def why(session: Session, message: Message, now: datetime) -> str | None:
    return session.execute(WHY, {"id": message.id, "now": now}).scalar_one()


def rows(session: Session) -> list[tuple[str, str, int | None, str, datetime | None]]:
    columns = (
        Suppression.recipient_key,
        Suppression.scope,
        Suppression.app_id,
        Suppression.reason,
        Suppression.expires_at,
    )
    return [tuple(row) for row in session.execute(select(*columns).order_by(Suppression.id))]


# -- what the claim asks ----------------------------------------------------------------------------------


def test_both_spellings_of_a_brazilian_mobile_are_one_person(session: Session, now: datetime) -> None:
    app = make_app(session)
    suppressions.add(session, target("(11) 9999-8888"), reason="asked", by="ana", now=now)
    for spelling in ("5511999998888", "551199998888"):
        assert why(session, message_to(session, app, spelling), now) == "asked"
    assert why(session, message_to(session, app, "5511999998887"), now) is None
    # A landline with the same last digits is somebody else.
    assert why(session, message_to(session, app, "551133338888"), now) is None


@pytest.mark.parametrize(
    ("scope", "of_app", "held"),
    [
        pytest.param("all", None, {"loja", "outra"}, id="all apps"),
        pytest.param("all", "loja", {"loja"}, id="one app"),
    ],
)
def test_a_suppression_counts_for_its_apps(
    session: Session, now: datetime, scope: str, of_app: str | None, held: set[str]
) -> None:
    apps = {name: make_app(session, name) for name in ("loja", "outra")}
    make_suppression(session, target(ANA).key, app=apps.get(of_app or ""), scope=scope)
    assert {name for name, app in apps.items() if why(session, message_to(session, app), now)} == held


@pytest.mark.parametrize(("scope", "held"), [("all", set(Lane)), ("marketing", {Lane.MARKETING})])
def test_a_suppression_counts_for_the_lanes_of_its_scope(
    session: Session, now: datetime, scope: str, held: set[Lane]
) -> None:
    app = make_app(session)
    make_suppression(session, target(ANA).key, scope=scope)
    assert {lane for lane in Lane if why(session, message_to(session, app, lane=lane), now)} == held


def test_it_ends_at_its_instant_and_of_several_the_longest_is_named(session: Session, now: datetime) -> None:
    app = make_app(session)
    message = message_to(session, app, lane=Lane.MARKETING)
    make_suppression(session, target(ANA).key, scope="marketing", reason="short", expires_at=now + SECOND)
    assert why(session, message, now) == "short"
    assert why(session, message, now + SECOND) is None
    make_suppression(session, target(ANA).key, reason="long", expires_at=now + DAY)
    assert why(session, message, now) == "long"
    make_suppression(session, target(ANA).key, app=app, reason="for good")
    assert why(session, message, now) == "for good"


def test_a_country_holds_its_numbers_and_no_others(session: Session, now: datetime) -> None:
    app = make_app(session)
    suppressions.add(session, target("country:91"), reason="barred", by="ana", now=now)
    suppressions.add(session, target("country:351"), reason="too", by="ana", now=now)
    assert why(session, message_to(session, app, INDIA), now) == "barred"
    assert why(session, message_to(session, app, "351912345678"), now) == "too"
    for other in (ANA, "9647912345678", "35312345678", "16505551234"):
        assert why(session, message_to(session, app, other), now) is None


# -- by people --------------------------------------------------------------------------------------------


def test_a_longer_one_is_not_shortened_by_adding(session: Session, now: datetime) -> None:
    whom = target(ANA)
    assert suppressions.add(session, whom, until=now + DAY, by="ana", now=now)
    assert not suppressions.add(session, whom, until=now + SECOND, by="bia", now=now)
    assert not suppressions.add(session, whom, until=now + DAY, by="bia", now=now)
    assert suppressions.add(session, whom, reason="for good", by="bia", now=now)
    assert not suppressions.add(session, whom, until=now + DAY, by="ana", now=now)
    assert rows(session) == [(whom.key, "all", None, "for good", None)]


def test_removing_ends_all_of_a_number_or_those_of_one_app(session: Session, now: datetime) -> None:
    app, whom = make_app(session), target(ANA)
    suppressions.add(session, whom, by="ana", now=now)
    suppressions.add(session, whom, app=app, by="ana", now=now)
    suppressions.add(session, whom, app=app, scope="marketing", by="ana", now=now)
    suppressions.add(session, target("5511999998887"), by="ana", now=now)
    assert suppressions.remove(session, whom, app=app) == 2
    assert [one["app"] for one in suppressions.find(session, whom, now)] == [None]
    assert suppressions.remove(session, target("551199998888")) == 1
    assert suppressions.remove(session, whom) == 0
    assert len(rows(session)) == 1


def test_listing_has_what_is_in_force_and_counts_for_the_app(session: Session, now: datetime) -> None:
    app, other = make_app(session), make_app(session, "outra")
    for at, (owner, until) in enumerate([(app, None), (other, None), (None, now + DAY), (app, now)]):
        suppressions.add(session, target(f"551199999888{at}"), app=owner, until=until, by="ana", now=now)
    listed = suppressions.listing(session, now, app=app)
    assert [(one["to"], one["app"]) for one in listed] == [("5511999998882", None), ("5511999998880", "loja")]
    assert len(suppressions.listing(session, now)) == 3
    assert [one["to"] for one in suppressions.listing(session, now, limit=1)] == ["5511999998882"]


def test_finding_a_number_finds_its_country_too(session: Session, now: datetime) -> None:
    suppressions.add(session, target("country:91"), by="ana", now=now)
    assert [one["to"] for one in suppressions.find(session, target(f"+{INDIA}"), now)] == ["country:91"]
    assert suppressions.find(session, target(ANA), now) == []


@pytest.mark.parametrize(
    "given", ["country:", "country:999", "country:0", "country:5511", "country:٩", "11 9"]
)
def test_who_is_neither_a_number_nor_a_country_is_refused(given: str) -> None:
    with pytest.raises(InputError):
        target(given)


# -- by what the provider answers -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "reason", "scope"),
    [
        ("1002", "not_on_whatsapp", "all"),
        ("1006", "no_opt_in", "all"),
        ("1007", "no_opt_in", "all"),
        ("1008", "no_opt_in", "all"),
        ("1012", "opted_out", "all"),
        ("131050", "opted_out", "marketing"),
    ],
)
def test_a_refusal_of_the_recipient_suppresses_them_for_that_app_for_good(
    session: Session, now: datetime, code: str, reason: str, scope: str
) -> None:
    app = make_app(session)
    refusal = failed(session, app, code, now)
    assert note_refusals(session, [refusal], now) == 1
    assert rows(session) == [(target(ANA).key, scope, app.id, reason, None)]
    (listed,) = suppressions.listing(session, now)
    assert listed["by"] == f"message {refusal.message_id}"


@pytest.mark.parametrize("code", ["131049", "130472"])
def test_a_deferral_holds_marketing_for_a_day_from_the_failure(
    session: Session, now: datetime, code: str
) -> None:
    app = make_app(session)
    refusal = failed(session, app, code, now)
    # Settled from a dead worker's journal, say: the wait began with the answer.
    assert note_refusals(session, [refusal], now + timedelta(hours=3)) == 1
    ((key, scope, app_id, _, until),) = rows(session)
    assert (key, scope, app_id, until) == (target(ANA).key, "marketing", app.id, now + DAY)


def test_other_verdicts_and_overridden_ones_suppress_nobody(session: Session, now: datetime) -> None:
    app = make_app(session)
    table = TABLE.with_overrides({"1012": Override(verdict=Verdict.MESSAGE_PERMANENT)}, "test")
    refusals = [failed(session, app, code, now) for code in ("131056", "132005", "1003", "132015")]
    overridden = failed(session, app, "1012", now)
    refusals.append(Refusal(overridden.message_id, "1012", "", table.lookup("1012")))
    assert note_refusals(session, refusals, now) == 0
    assert note_refusals(session, [], now) == 0
    assert rows(session) == []


def test_a_code_that_an_installation_lists_has_a_reason_of_its_own(session: Session, now: datetime) -> None:
    table = TABLE.with_overrides({"131099": Override(verdict=Verdict.RECIPIENT_SUPPRESS)}, "test")
    refusal = failed(session, make_app(session), "131099", now)
    note_refusals(session, [Refusal(refusal.message_id, "131099", "", table.lookup("131099"))], now)
    assert [row[3] for row in rows(session)] == ["refused"]


def test_undeliverable_counts_the_second_time_within_thirty_days(session: Session, now: datetime) -> None:
    app, other = make_app(session), make_app(session, "outra")
    assert note_refusals(session, [failed(session, app, "131026", now - 31 * DAY)], now - 31 * DAY) == 0
    # Of another recipient, another app, and another code.
    others = [
        failed(session, app, "131026", now, to="5511999998887"),
        failed(session, other, "131026", now),
        failed(session, app, "132005", now),
    ]
    first = failed(session, app, "131026", now - 29 * DAY)
    assert note_refusals(session, [*others, first], now) == 0
    # Told again, it is still the same failure.
    assert note_refusals(session, [first, first], now) == 0
    assert note_refusals(session, [failed(session, app, "131026", now, to="551199998888")], now) == 1
    assert rows(session) == [(target(ANA).key, "all", app.id, "undeliverable", None)]


def test_two_failed_attempts_of_one_message_are_two(session: Session, now: datetime) -> None:
    refusal = failed(session, make_app(session), "131026", now)
    session.add(
        SendError(
            message_id=refusal.message_id,
            attempt=2,
            at=now,
            verdict="recipient_suppress",
            code="131026",
            text="",
        )
    )
    session.flush()
    assert note_refusals(session, [refusal], now) == 1


def test_a_failure_by_webhook_counts_though_it_has_no_attempt_of_its_own(
    session: Session, now: datetime
) -> None:
    app = make_app(session)
    message_to(session, app, status=Status.FAILED, code="131026", failed_at=now - DAY)
    assert note_refusals(session, [failed(session, app, "131026", now)], now) == 1


def test_a_bar_of_a_country_holds_the_country_and_is_told_once(session: Session, now: datetime) -> None:
    app = make_app(session)
    refusals = [failed(session, app, "130497", now, to=INDIA) for _ in range(2)]
    assert note_refusals(session, refusals, now) == 1
    assert note_refusals(session, refusals, now) == 0
    assert rows(session) == [("country:91", "all", app.id, "country_barred", None)]
    session.flush()
    (told,) = session.scalars(select(Notification))
    assert (told.event, told.subject) == ("country_suppressed", "app:loja")
    assert told.sentence == (
        "loja sends nothing more to numbers of +91: the provider's words. "
        "`disparo suppress remove country:91` lets it try again."
    )
    assert why(session, message_to(session, app, "919800000000"), now) == "country_barred"


def test_in_any_order_and_any_number_of_times_the_outcome_is_the_same(
    session: Session, now: datetime
) -> None:
    app = make_app(session)
    refusals = [
        failed(session, app, "131049", now),
        failed(session, app, "131049", now + 60 * SECOND),
        failed(session, app, "131050", now),
        failed(session, app, "131026", now),
        failed(session, app, "131026", now),
        failed(session, app, "130472", now, to="5511999998887"),
        failed(session, app, "1012", now, to=INDIA),
    ]
    outcomes = set()
    for order in itertools.islice(itertools.permutations(refusals), 0, 5040, 97):
        with session.begin_nested() as savepoint:
            for part in (order[:3], order[3:], order[1:5]):
                note_refusals(session, part, now)
            outcomes.add(frozenset((key, scope, until) for key, scope, _, _, until in rows(session)))
            savepoint.rollback()
    assert outcomes == {
        frozenset(
            {
                (target(ANA).key, "marketing", None),
                (target(ANA).key, "all", None),
                (target("5511999998887").key, "marketing", now + DAY),
                (phone.key_of(INDIA), "all", None),
            }
        )
    }


def test_what_lasts_longer_or_was_said_by_a_person_is_not_weakened(session: Session, now: datetime) -> None:
    app = make_app(session)
    suppressions.add(session, target(ANA), app=app, scope="marketing", reason="in writing", by="ana", now=now)
    suppressions.add(
        session, target(INDIA), app=app, scope="marketing", until=now + 30 * DAY, by="ana", now=now
    )
    before = rows(session)
    refusals = [
        failed(session, app, "131049", now),
        failed(session, app, "131050", now),
        failed(session, app, "131049", now, to=INDIA),
    ]
    assert note_refusals(session, refusals, now) == 0
    assert rows(session) == before


def test_a_message_that_is_gone_and_a_number_of_no_country_are_passed_over(
    session: Session, now: datetime
) -> None:
    app = make_app(session)
    odd = failed(session, app, "130497", now, to="2101234567890")
    gone = Refusal(987_654, "1012", "", TABLE.lookup("1012"))
    assert note_refusals(session, [odd, gone], now) == 0


# -- two at once ------------------------------------------------------------------------------------------


def at_once(engine: Engine, *works: Callable[[Session], None]) -> None:
    """Run each in a transaction of its own, begun together."""
    start = Barrier(len(works))

    def run(work: Callable[[Session], None]) -> None:
        with Session(engine) as session, session.begin():
            session.execute(text("SELECT 1"))
            start.wait(30)
            work(session)

    with ThreadPoolExecutor(len(works)) as threads:
        list(threads.map(run, works))


def test_recorders_that_note_the_same_people_in_opposite_orders_do_not_block_each_other(
    engine: Engine, now: datetime
) -> None:
    with Session(engine, expire_on_commit=False) as session, session.begin():
        app = make_app(session)
        # Not 131026, whose own lock would have them wait for each other.
        codes = ("1012", "131049", "131050")
        refusals = [failed(session, app, codes[n % 3], now, to=f"55119999{n:05}") for n in range(300)]
    for _ in range(5):
        at_once(
            engine,
            lambda session: note_refusals(session, refusals, now) and None,
            lambda session: note_refusals(session, refusals[::-1], now) and None,
            lambda session: note_refusals(session, refusals[1::2], now) and None,
        )
        with Session(engine) as session, session.begin():
            assert len(rows(session)) == 300
            session.execute(text("DELETE FROM suppressions"))


def test_of_two_failures_recorded_at_once_one_knows_of_the_other(engine: Engine, now: datetime) -> None:
    with Session(engine, expire_on_commit=False) as session, session.begin():
        app = make_app(session)
    noted, commit = Event(), Event()

    def first() -> int:
        with Session(engine) as session, session.begin():
            made = note_refusals(session, [failed(session, app, "131026", now)], now)
            noted.set()
            assert commit.wait(30)
            return made

    def second() -> int:
        with Session(engine) as session, session.begin():
            refusal = failed(session, app, "131026", now)
            assert noted.wait(30)
            return note_refusals(session, [refusal], now)

    with ThreadPoolExecutor(2) as threads:
        one, two = threads.submit(first), threads.submit(second)
        with Session(engine) as session:
            waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            while session.execute(waiting).scalar_one() == 0:
                session.rollback()
                assert not two.done()
        commit.set()
        assert (one.result(30), two.result(30)) == (0, 1)
