"""The sender in this process, against a sandbox over real HTTP, PostgreSQL and Redis."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from disparo import batches, db, recovery, releases
from disparo.batches import Outcome
from disparo.clock import boot_clock
from disparo.errors import DatabaseUnavailable, RedisUnavailable
from disparo.models import App, Batch, Campaign, SendError, Worker
from disparo.ratelimit import Ask, Permits, Stopped, Wait
from disparo.sandbox import Options, Sandbox
from disparo.statuses import Lane, Status
from tests.factories.app import make_stop
from tests.factories.campaign import CONTENT, make_batch, make_campaign
from tests.factories.message import make_message
from tests.integration.house import PATIENCE_SECONDS, House, until
from worker import claims as claims_module
from worker import posters as posters_module
from worker import runner as runner_module
from worker import sender as sender_module
from worker import view as view_module
from worker.breakers import Breakers
from worker.claims import Claims
from worker.journal import Journal, JournalFull
from worker.posters import Ready
from worker.routes import Route
from worker.runner import Runner
from worker.sender import Sender
from worker.view import View

TEMPLATE = {"type": "template", "template": {"name": "oferta", "language": {"code": "pt_BR"}}}


# -- what is sent -----------------------------------------------------------------------------------------


def test_every_row_of_a_campaign_is_sent_once_and_recorded(house: House) -> None:
    campaign = house.campaign(house.app(), 60)
    house.sender()
    house.until_counts(campaign, accepted=60)
    stats = house.sandbox.stats()
    assert (stats["arrivals"], stats["accepted"], stats["distinct"]) == (60, 60, 60)
    sent = {arrival["to"]: arrival for arrival in house.arrivals()}
    for row in house.rows():
        arrival = sent[row.recipient]
        assert (row.gs_id, row.attempts, row.claims, row.http_status) == (arrival["id"], 1, 1, 200)
        assert arrival["body"]["text"] == {"body": f"Oi {row.params['nome']}"}
        assert arrival["app"] == "app-loja"
    with house.connections.session() as session:
        assert session.scalars(select(SendError)).all() == []


def test_single_messages_go_out_as_they_were_given(house: House) -> None:
    app = house.app()
    with house.connections.session() as session:
        message = make_message(session, app, due_at=db.now(session))
    house.sender()
    until(lambda: house.rows()[0].status == Status.ACCEPTED, "the message is accepted")
    assert house.arrivals()[0]["body"] == message.content


def test_an_apps_rate_is_kept(house: House) -> None:
    campaign = house.campaign(house.app(rate=20.0), 60)
    house.sender()
    house.until_counts(campaign, accepted=60)
    assert house.sandbox.stats()["worst_second"] <= 22


def test_a_slow_app_holds_up_no_other(house: House) -> None:
    slow = house.campaign(house.app("loja", rate=0.05), 5, name="lenta")
    house.sender()
    until(lambda: house.counts(slow).get("accepted") == 1, "the slow app has begun")
    fast_app = house.app("loja-sul")
    house.connections.environment.values["DISPARO_TOKEN_LOJA_SUL"] = "sk_1"
    fast = house.campaign(fast_app, 30, name="rápida")
    house.until_counts(fast, accepted=30)
    assert house.counts(slow)["accepted"] <= 3


def test_an_app_that_hangs_holds_up_no_other_and_keeps_no_more_than_its_threads(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[int] = []
    renew = Sender._renew

    def renewing(self: Sender, late: list[Ready]) -> None:
        dropped.extend(one.row.app_id for one in late)
        renew(self, late)

    monkeypatch.setattr(Sender, "_renew", renewing)
    house.connections.environment.values["DISPARO_TOKEN_LOJA_SUL"] = "sk_1"
    with Sandbox(Options(latency_ms=600_000)) as hanging:
        app = house.app("loja-sul", rate=80.0)
        with house.connections.session() as session:
            session.get_one(App, app.id).base_url = hanging.url
        stuck = house.campaign(app, 200, name="parada")
        sender = house.sender()
        # Of its eight threads this app gets seven.
        until(lambda: hanging.stats()["open_requests"] == 7, "its requests to hang")
        fast = house.campaign(house.app(rate=50.0), 200, name="rápida")
        house.until_counts(fast, accepted=200)
        stats = hanging.stats()
        assert (stats["open_requests"], stats["open_requests_most"]) == (7, 7)
        assert fast.app_id not in dropped
        # Nothing more of it is claimed than it has threads, but for a moment's.
        until(lambda: house.counts(stuck)["sending"] <= 7 + 1, "the other rows to be put back")
        assert house.counts(stuck)["sending"] >= 7
        sender.close(0.5)


# -- refusals ---------------------------------------------------------------------------------------------


def test_an_account_fault_stops_the_app_and_leaves_the_rest_waiting(house: House) -> None:
    house.sandbox.control(suffix_faults={"*": "auth"})
    app = house.app()
    campaign = house.campaign(app, 80)
    sender = house.sender()
    until(house.stops, "the app is stopped")
    until(lambda: not house.counts(campaign).get("sending"), "nothing is under way")
    counts = house.counts(campaign)
    # Only requests that were in flight when the first refusal came.
    assert 1 <= counts["failed"] <= 2 * sender._threads
    assert counts["failed"] + counts["pending"] == 80
    ((stop),) = house.stops()
    assert (stop.scope, stop.app_id) == ("app", app.id)
    failed = [row for row in house.rows() if row.status == Status.FAILED]
    assert all(row.code and row.reason for row in failed)
    assert all(row.attempts == 0 for row in house.rows() if row.status == Status.PENDING)

    house.sandbox.control(suffix_faults={})
    house.resume(app)
    house.until_counts(campaign, failed=counts["failed"], accepted=counts["pending"])
    assert house.stops() == []
    stats = house.sandbox.stats()
    assert (stats["accepted"], stats["distinct"]) == (counts["pending"], counts["pending"])


def test_a_template_fault_stops_its_template_and_nothing_else(house: House) -> None:
    app = house.app()
    house.sandbox.control(suffix_faults={"0": "meta:132015", "1": "meta:132015"})
    bad = house.campaign(app, 40, name="bad", content=TEMPLATE, template="oferta/pt_BR")
    house.sender()
    ((stop),) = until(house.stops, "the template is stopped")
    assert (stop.scope, stop.key) == ("template", "oferta/pt_BR")
    until(lambda: not house.counts(bad).get("sending"), "nothing of it is under way")
    left = house.counts(bad)["pending"]
    assert left > 0
    house.sandbox.control(suffix_faults={})
    good = house.campaign(app, 10, name="good", content=CONTENT)
    house.until_counts(good, accepted=10)
    assert house.counts(bad)["pending"] == left


def test_a_throttle_spends_no_attempt_and_cools_the_app_down(house: House) -> None:
    app = house.app(rate=10.0)
    house.sandbox.control(suffix_faults={"0000": "throttle:2*1"})
    campaign = house.campaign(app, 12)
    house.sender()
    house.until_counts(campaign, accepted=12)
    throttled = house.rows()[0]
    assert (throttled.attempts, throttled.claims) == (1, 2)
    assert house.stops() == []
    with house.connections.session() as session:
        assert session.scalars(select(SendError.verdict)).all() == ["throttle"]
    at = [arrival["at"] for arrival in house.arrivals()]
    # Those that had their permits already may still leave; then nothing does for two seconds.
    gaps = [later - earlier for earlier, later in itertools.pairwise(at)]
    assert max(gaps) >= 1.3


def test_a_refusal_for_now_is_tried_again_and_then_accepted(house: House) -> None:
    house.sandbox.control(suffix_faults={"*": "500*2"})
    campaign = house.campaign(house.app(), 3)
    house.sender()
    house.until_counts(campaign, accepted=3)
    assert [(row.attempts, row.claims) for row in house.rows()] == [(3, 3)] * 3
    assert house.sandbox.stats()["arrivals"] == 9
    with house.connections.session() as session:
        assert Counter(session.scalars(select(SendError.attempt))) == {1: 3, 2: 3}
    for row in house.rows():
        at = [arrival["at"] for arrival in house.sandbox.messages(row.recipient)]
        # The back-off begins at a second.
        assert min(later - earlier for earlier, later in itertools.pairwise(at)) > 0.9


def test_a_connection_that_closes_after_the_request_leaves_the_row_unknown(house: House) -> None:
    house.sandbox.control(suffix_faults={"0001": "close-after", "0002": "no-id", "0003": "502-after"})
    campaign = house.campaign(house.app(), 6)
    house.sender()
    house.until_counts(campaign, accepted=3, unknown=3)
    assert house.sandbox.stats()["arrivals"] == 6
    unknown = [row for row in house.rows() if row.status == Status.UNKNOWN]
    assert [row.recipient[-4:] for row in unknown] == ["0001", "0002", "0003"]
    assert all(row.code and row.settled_at and row.attempts == 1 for row in unknown)


def test_a_row_that_cannot_be_rendered_fails_alone_and_spends_no_attempt(house: House) -> None:
    campaign = house.campaign(house.app(), 4)
    with house.connections.session() as session:
        session.execute(text("UPDATE messages SET params = '{}' WHERE line = 3"))
    house.sender()
    house.until_counts(campaign, accepted=3, failed=1)
    (failed,) = [row for row in house.rows() if row.status == Status.FAILED]
    assert (failed.line, failed.code, failed.attempts) == (3, "rendering", 0)
    assert "nome" in str(failed.reason)
    assert house.sandbox.stats()["arrivals"] == 3


def test_a_campaign_is_filled_by_its_own_options(house: House) -> None:
    texts = ["Oi\n{{ nome }}", "{{ '1.234' | cents | brl }}"]
    body = {"type": "body", "parameters": [{"type": "text", "text": text} for text in texts]}
    content = {
        "type": "template",
        "template": {"name": "cart", "language": {"code": "pt_BR"}, "components": [body]},
    }
    campaign = house.campaign(house.app(), 1, content=content, options={"normalise": True, "numbers": "br"})
    house.sender()
    house.until_counts(campaign, accepted=1)
    (arrival,) = house.arrivals()
    parameters = arrival["body"]["template"]["components"][0]["parameters"]
    assert [one["text"] for one in parameters] == ["Oi Cliente 0", "R$ 1.234,00"]


def test_an_app_without_a_token_is_stopped_and_loses_nothing(house: House) -> None:
    app = house.app("outra")
    campaign = house.campaign(app, 20)
    house.sender()
    ((stop),) = until(house.stops, "the app is stopped")
    assert (stop.scope, stop.code) == ("app", "no_token")
    assert "DISPARO_TOKEN_OUTRA" in stop.reason
    house.until_counts(campaign, pending=20)
    assert house.sandbox.stats()["arrivals"] == 0
    house.connections.environment.values["DISPARO_TOKEN_OUTRA"] = "sk_1"
    house.resume(app)
    house.until_counts(campaign, accepted=20)
    assert all(row.attempts == 1 for row in house.rows())


def test_a_fault_of_a_request_that_began_before_the_resume_stops_nothing(house: House) -> None:
    house.sandbox.control(suffix_faults={"*": "auth"}, latency_ms=1_500)
    app = house.app(rate=1.0)
    campaign = house.campaign(app, 1)
    house.sender()
    until(lambda: house.sandbox.stats()["open_requests"] == 1, "the request is under way")
    house.resume(app)
    house.until_counts(campaign, failed=1)
    assert house.stops() == []
    house.sandbox.control(suffix_faults={}, latency_ms=0)
    after = house.campaign(app, 2, name="after")
    house.until_counts(after, accepted=2)


# -- stops ------------------------------------------------------------------------------------------------


def pause_campaign(house: House, app: App, campaign: Campaign) -> None:
    with house.connections.session() as session:
        session.execute(text("UPDATE campaigns SET state = 'paused'"))


def pause_app(house: House, app: App, campaign: Campaign) -> None:
    with house.connections.session() as session:
        make_stop(session, app)


def pause_lane(house: House, app: App, campaign: Campaign) -> None:
    with house.connections.session() as session:
        make_stop(session, app, scope="lane", key=Lane.MARKETING)


@pytest.mark.parametrize("pause", [pause_campaign, pause_app, pause_lane])
def test_a_pause_acts_within_a_second_and_a_resume_goes_on(
    house: House, pause: Callable[[House, App, Campaign], None]
) -> None:
    app = house.app(rate=40.0)
    campaign = house.campaign(app, 120)
    house.sender()
    until(lambda: house.sandbox.stats()["accepted"] >= 20, "it sends")
    pause(house, app, campaign)
    paused_at = time.time()
    until(
        lambda: "sending" not in house.counts(campaign) and time.time() - paused_at > 1.5,
        "nothing is under way",
    )
    last = max(arrival["at"] for arrival in house.arrivals())
    assert last - paused_at < 1.0
    assert house.counts(campaign)["pending"] > 30
    with house.connections.session() as session:
        session.execute(text("UPDATE campaigns SET state = 'running'"))
        session.execute(text("UPDATE apps SET rate = 400"))
    house.resume(app)
    house.until_counts(campaign, accepted=120)
    assert house.sandbox.stats()["repeated"] == 0


def test_a_job_of_a_paused_campaign_is_not_lost(house: House) -> None:
    campaign = house.campaign(house.app(), 10)
    with house.connections.session() as session:
        jobs = releases.release(session, db.now(session))
        session.execute(text("UPDATE campaigns SET state = 'paused'"))
    sender = house.sender()
    for job in jobs:
        assert job.batch_id is not None
        sender.take_batch(job.batch_id)

    def waiting() -> bool:
        with house.connections.session() as session:
            return set(session.scalars(select(Batch.state))) == {"waiting"}

    until(waiting, "the batch waits")
    with house.connections.session() as session:
        session.execute(text("UPDATE campaigns SET state = 'running'"))
    house.until_counts(campaign, accepted=10)


# -- the end of a sender ----------------------------------------------------------------------------------


def test_not_a_row_is_lost_when_a_sender_drains(house: House) -> None:
    house.sandbox.control(latency_ms=300)
    campaign = house.campaign(house.app(rate=40.0), 100)
    first = house.sender()
    until(lambda: house.sandbox.stats()["arrivals"] >= 15, "it sends")
    first.close(PATIENCE_SECONDS)
    counts = house.counts(campaign)
    assert set(counts) == {"accepted", "pending"}
    assert counts["accepted"] == house.sandbox.stats()["arrivals"] < 100
    with house.connections.session() as session:
        assert "released" not in set(session.scalars(select(Batch.state)))
        assert session.scalars(select(Worker)).all() == []
    assert all(row.attempts == 0 for row in house.rows() if row.status == Status.PENDING)
    assert list((house.connections.settings.home / "journal").iterdir()) == []

    house.sandbox.control(latency_ms=0)
    house.sender()
    house.until_counts(campaign, accepted=100)
    assert house.sandbox.stats()["repeated"] == 0


def test_a_job_that_comes_while_the_sender_drains_is_handed_back(house: House) -> None:
    campaign = house.campaign(house.app(), 5)
    first = house.sender()
    house.paused.set()
    with house.connections.session() as session:
        (job,) = releases.release(session, db.now(session))
    first.close()
    assert job.batch_id is not None
    first.take_batch(job.batch_id)
    with house.connections.session() as session:
        assert session.get_one(Batch, job.batch_id).state == "waiting"
    house.paused.clear()
    house.sender()
    house.until_counts(campaign, accepted=5)


def test_a_request_that_outlasts_the_grace_time_becomes_unknown_by_its_journal(house: House) -> None:
    house.sandbox.control(latency_ms=4_000)
    campaign = house.campaign(house.app(), 1)
    first = house.sender()
    until(lambda: house.sandbox.stats()["open_requests"] == 1, "the request is under way")
    first.close(0.5)
    house.sender()
    house.until_counts(campaign, unknown=1)
    assert house.rows()[0].code == recovery.NO_ANSWER_RECORDED
    # Its answer comes after all, to a process that has given its name up: nothing changes.
    until(lambda: first._posters.join(0.0), "the answer is there")
    assert house.counts(campaign) == {"unknown": 1}


def test_a_living_sender_settles_what_a_dead_one_left(house: House) -> None:
    app = house.app()
    house.paused.set()
    campaign = house.campaign(app, 4)
    dead = Journal(house.connections.settings.home / "journal", "dead")
    with house.connections.session() as session:
        (job,) = releases.release(session, db.now(session))
        answered, lost, *_ = batches.claim(session, job, 4, "dead", db.now(session))
    for row in (answered, lost):
        dead.start(row.id, row.claim)
    dead.answer(
        Outcome(answered.id, answered.claim, Status.ACCEPTED, spent=True, verdict="accepted", gs_id="gs-1")
    )
    dead.close()
    house.sender()
    house.until_counts(campaign, accepted=1, unknown=1, pending=2)
    house.paused.clear()
    house.until_counts(campaign, accepted=3, unknown=1)
    assert house.sandbox.stats()["arrivals"] == 2


def test_a_journal_that_is_full_holds_the_rows_and_loses_none(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign = house.campaign(house.app(), 20)
    sender = house.sender()
    refused: list[int] = []

    def full(message_id: int, _: int) -> None:
        refused.append(message_id)
        raise JournalFull("no space left")

    with monkeypatch.context() as disk:
        disk.setattr(sender._journal, "start", full)
        until(lambda: len(refused) != len(set(refused)), "a row was refused and came again")
        assert set(house.counts(campaign)) <= {"pending", "sending"}
        assert house.sandbox.stats()["arrivals"] == 0
    house.until_counts(campaign, accepted=20)
    assert all(row.attempts == 1 for row in house.rows())


def test_a_worker_shows_that_it_lives(house: House) -> None:
    sender = house.sender(queues="bulk")

    def seen() -> Worker | None:
        with house.connections.session() as session:
            return session.get(Worker, sender.name)

    first = until(seen, "the worker is seen")
    assert first.queues == "bulk"
    until(lambda: (row := seen()) and row.seen_at > first.seen_at, "it is seen again")


def test_the_journals_of_a_finished_campaign_hold_no_phone(house: House) -> None:
    house.sandbox.control(suffix_faults={"0003": "close-after"})
    campaign = house.campaign(house.app(), 6)
    house.sender()
    house.until_counts(campaign, accepted=5, unknown=1)
    folder: Path = house.connections.settings.home / "journal"
    written = b"".join(path.read_bytes() for path in folder.iterdir())
    assert written.count(b"\nA ") == 6
    for row in house.rows():
        assert row.recipient.encode() not in written


def claimed(house: House, rows: int = 4) -> tuple[Sender, Campaign]:
    """A sender whose rows are claimed and wait for their instants."""
    app = house.app(rate=8)
    campaign = house.campaign(app, rows)
    house.paused.set()
    sender = house.sender()
    with house.connections.session() as session:
        [job] = releases.release(session, db.now(session))
    assert job.batch_id is not None
    sender.take_batch(job.batch_id)
    until(lambda: house.counts(campaign).get("sending"), "rows to be claimed")
    return sender, campaign


def test_rows_whose_content_cannot_be_read_now_go_back_and_are_not_unknown(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = itertools.count()
    read = Sender._content

    def away(self: Sender, campaign_id: int, version: int | None) -> Any:
        if next(reads) < 3:
            raise DatabaseUnavailable("PostgreSQL does not answer")
        return read(self, campaign_id, version)

    monkeypatch.setattr(Sender, "_content", away)
    campaign = house.campaign(house.app(), 6)
    house.sender()
    house.until_counts(campaign, accepted=6)
    assert next(reads) > 3


def test_a_fault_of_ours_in_the_view_of_the_stops_fails_no_row(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, faults = View.look, itertools.count()

    def faulty(self: View) -> None:
        if threading.current_thread().name.startswith("post-") and next(faults) < 3:
            raise RuntimeError("dictionary changed size during iteration")
        look(self)

    monkeypatch.setattr(View, "look", faulty)
    # Each view is too old to send by.
    monkeypatch.setattr(view_module, "STALE_SECONDS", 0.0)
    campaign = house.campaign(house.app(), 6)
    house.sender()
    until(lambda: house.counts(campaign) == {"accepted": 6}, "all to be accepted", seconds=20)
    assert next(faults) > 3


def test_a_pool_without_a_free_connection_fails_no_row_and_forgets_no_outcome(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, claimed_all, taken, failed = (
        Sender._content,
        threading.Event(),
        threading.Event(),
        threading.Event(),
    )

    def reading(self: Sender, campaign_id: int, version: int | None) -> Any:
        claimed_all.set()
        assert taken.wait(PATIENCE_SECONDS)
        try:
            return read(self, campaign_id, version)
        except Exception:
            failed.set()
            raise

    monkeypatch.setattr(Sender, "_content", reading)
    campaign = house.campaign(house.app(), 6)
    sender = house.sender()
    assert claimed_all.wait(PATIENCE_SECONDS)
    house.until_counts(campaign, sending=6)
    house.paused.set()
    # All of them wait for a lock, say; the next one who wants one is told after half a minute.
    pool = house.connections.engine.pool
    assert isinstance(pool, QueuePool)
    with ExitStack() as held:
        for _ in range(pool.size() + pool._max_overflow):
            held.enter_context(house.connections.engine.connect())
        monkeypatch.setattr(pool, "_timeout", 0.05)
        taken.set()
        assert failed.wait(PATIENCE_SECONDS)
        until(sender._outcomes.empty, "the recorder to have what became of them")
    house.paused.clear()
    until(lambda: house.counts(campaign) == {"accepted": 6}, "all to be accepted", seconds=20)
    assert house.sandbox.stats()["repeated"] == 0


def test_an_error_of_ours_before_the_request_fails_the_row_and_is_not_unknown(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Sender, row: Any) -> bytes:
        raise RuntimeError("odd data")

    monkeypatch.setattr(Sender, "_body", broken)
    campaign = house.campaign(house.app(), 3)
    house.sender()
    house.until_counts(campaign, failed=3)
    assert {row.code for row in house.rows()} == {"rendering"}
    assert house.arrivals() == []


def test_an_answer_counts_although_what_follows_from_it_fails(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(Breakers, "act", broken)
    campaign = house.campaign(house.app(), 3)
    house.sender()
    house.until_counts(campaign, accepted=3)


def test_what_a_drain_cannot_record_stays_in_the_journal_for_the_next_worker(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender, campaign = claimed(house)
    with monkeypatch.context() as away:

        def fail(*_: Any) -> None:
            raise DatabaseUnavailable("PostgreSQL does not answer")

        away.setattr(batches, "record", fail)
        sender.close(0.5)
    assert house.counts(campaign).get("sending")
    house.sender()
    until(lambda: not house.counts(campaign).get("sending"), "the next worker to put the rows back")
    assert not house.counts(campaign).get("unknown")


def test_a_late_row_does_not_wait_out_a_cool_down_in_its_thread(house: House) -> None:
    app = house.app(rate=100)
    campaign = house.campaign(app, 20)
    house.sandbox.control(suffix_faults={"*": "throttle:3600"})
    sender = house.sender()
    until(lambda: house.counts(campaign).get("pending") == 20 and house.arrivals(), "all to be put back")
    until(lambda: sender._posters.in_flight == 0, "no thread to wait")
    assert house.counts(campaign) == {"pending": 20}


# -- claims of which nobody knows -------------------------------------------------------------------------


def wrap_claims(monkeypatch: pytest.MonkeyPatch, wrap: Callable[[Callable[..., Any]], Any]) -> None:
    """Put what ``wrap`` makes of it in the place of each way to claim."""
    for name in ("claim", "claim_batches"):
        monkeypatch.setattr(batches, name, wrap(getattr(batches, name)))


def note_claims(monkeypatch: pytest.MonkeyPatch, just: threading.local) -> None:
    """Keep the rows of each thread's last claim in ``just.claimed``."""

    def noting(claim: Callable[..., Any]) -> Any:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            found = claim(*arguments, **options)
            just.claimed = [row for one in found for row in (one if isinstance(one, list) else [one])]
            return found

        return wrapped

    wrap_claims(monkeypatch, noting)


def lose_answers_of_claims(monkeypatch: pytest.MonkeyPatch, times: int = 1) -> list[list[int]]:
    """PostgreSQL commits the next claims and goes away before it says so; the messages of each."""
    lost: list[list[int]] = []
    session, just = Sender._session, threading.local()

    @contextmanager
    def losing(self: Sender) -> Iterator[Any]:
        just.claimed = []
        with session(self) as opened:
            yield opened
        if just.claimed and len(lost) < times:
            lost.append([row.id for row in just.claimed])
            raise DatabaseUnavailable("PostgreSQL does not answer")

    note_claims(monkeypatch, just)
    monkeypatch.setattr(Sender, "_session", losing)
    return lost


def test_rows_of_a_claim_whose_answer_was_lost_are_put_back_and_sent_once(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = lose_answers_of_claims(monkeypatch, times=2)
    campaign = house.campaign(house.app(), 30)
    with house.connections.session() as session:
        single = make_message(session, session.get_one(App, campaign.app_id), due_at=db.now(session))
    house.sender()
    # Long before their lease ends, which would make them unknown.
    house.until_counts(campaign, accepted=30)
    until(lambda: house.rows()[-1].status == Status.ACCEPTED, "the single message is accepted")
    assert len(lost) == 2
    again = Counter(message_id for claim in lost for message_id in claim)
    for row in house.rows():
        # One that became late is claimed once more.
        assert row.claims >= 1 + again[row.id]
        assert row.attempts == 1
    assert single.id in {row.id for row in house.rows()}
    assert house.sandbox.stats()["repeated"] == 0


def test_rows_of_a_claim_that_postgresql_commits_late_are_put_back_too(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    late: list[threading.Timer] = []

    def claiming(claim: Callable[..., Any]) -> Any:
        def wrapped(session: Session, *arguments: Any, **options: Any) -> Any:
            if late:
                return claim(session, *arguments, **options)
            # Its commit waits for a disk, or for a second server, while the connection is lost.
            own = house.connections.sessions()
            claim(own, *arguments, **options)
            late.append(threading.Timer(1.5, lambda: (own.commit(), own.close())))
            late[0].start()
            raise DatabaseUnavailable("PostgreSQL does not answer")

        return wrapped

    wrap_claims(monkeypatch, claiming)
    campaign = house.campaign(house.app(), 10)
    house.sender()
    until(lambda: house.counts(campaign) == {"accepted": 10}, "all to be accepted", seconds=20)
    late[0].join()
    assert house.sandbox.stats()["repeated"] == 0


def test_rows_of_a_claim_that_is_just_being_answered_are_not_taken_for_lost(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, just = Sender._session, threading.local()
    looked: list[str] = []

    @contextmanager
    def slow(self: Sender) -> Iterator[Any]:
        just.claimed = []
        with session(self) as opened:
            yield opened
        if just.claimed:
            # It is committed, and before its thread has the turn again the minder looks, for another claim's sake.
            self._claims._doubt_at = time.monotonic()
            minder = threading.Thread(target=self._claims.put_back_unknown)
            minder.start()
            minder.join(PATIENCE_SECONDS)
            looked.append(self.name)

    note_claims(monkeypatch, just)
    monkeypatch.setattr(Sender, "_session", slow)
    campaign = house.campaign(house.app(), 30)
    house.sender()
    house.until_counts(campaign, accepted=30)
    assert looked
    assert {(row.claims, row.attempts) for row in house.rows()} == {(1, 1)}
    assert house.sandbox.stats()["arrivals"] == 30


def test_rows_of_a_claim_that_postgresql_commits_after_its_worker_died_are_put_back(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims_module, "DOUBT_SECONDS", 1.0)
    house.paused.set()
    campaign = house.campaign(house.app(), 4)
    Journal(house.connections.settings.home / "journal", "dead").close(all_recorded=False)
    with house.connections.sessions() as late:
        (job,) = releases.release(late, db.now(late))
        late.commit()
        assert len(batches.claim(late, job, 4, "dead", db.now(late))) == 4
        # It was killed when it had sent the commit, and that takes longer than another needs to find its journal.
        commit = threading.Timer(2.0, late.commit)
        commit.start()
        house.sender()
        commit.join()
    until(lambda: house.counts(campaign) == {"pending": 4}, "the rows to be put back", seconds=15)
    assert {row.claims for row in house.rows()} == {1}


def test_a_sender_that_ends_in_doubt_leaves_its_journal_and_the_next_one_returns_the_rows(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign = house.campaign(house.app(), 12)
    with monkeypatch.context() as away:

        def fail(*_: Any) -> None:
            raise DatabaseUnavailable("PostgreSQL does not answer")

        lost = lose_answers_of_claims(away)
        away.setattr(Claims, "put_back_unknown", lambda *_: fail() if lost else None)
        first = house.sender()
        until(lambda: lost, "an answer to be lost")
        first.close()
    folder: Path = house.connections.settings.home / "journal"
    assert [path.stem for path in folder.glob("*.lock")] == [first.name]
    assert house.counts(campaign)["sending"] == len(lost[0])
    assert house.arrivals() == []
    house.sender()
    house.until_counts(campaign, accepted=12)
    assert {row.id for row in house.rows() if row.claims == 2} == set(lost[0])
    assert house.sandbox.stats()["repeated"] == 0
    until(lambda: list(folder.glob(f"{first.name}*")) == [], "the journal to be settled")


# -- rows that are late -----------------------------------------------------------------------------------


def test_a_row_that_was_claimed_too_long_ago_is_put_back_and_not_sent(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, suspended, awake = Sender._body, threading.Event(), threading.Event()

    def slow(self: Sender, row: Any) -> bytes:
        suspended.set()
        assert awake.wait(PATIENCE_SECONDS)
        return body(self, row)

    monkeypatch.setattr(Sender, "_body", slow)
    campaign = house.campaign(house.app(), 6)
    house.sender()
    assert suspended.wait(PATIENCE_SECONDS)
    until(lambda: house.counts(campaign) == {"sending": 6}, "all to be claimed")
    # The machine slept, and its monotonic clock with it.
    for module in (sender_module, runner_module, view_module):
        monkeypatch.setattr(module, "boot_clock", lambda: boot_clock() + sender_module.START_SECONDS)
    awake.set()
    house.until_counts(campaign, accepted=6)
    assert [(row.claims, row.attempts) for row in house.rows()] == [(2, 1)] * 6
    assert house.sandbox.stats()["arrivals"] == 6


@dataclass
class Suspended:
    """A process that stands still: of four claimed rows one has left, and the others wait for their instants."""

    house: House
    sender: Sender
    campaign: Campaign
    #: What its POST threads asked of the limiter afterwards: permits wanted, and what they got.
    asked: list[tuple[int, Any]]
    _clock: SimpleNamespace

    def goes_on(self) -> None:
        """Five seconds later."""
        awake = time.monotonic() - self._clock.monotonic() - 5.0
        self._clock.monotonic = lambda: time.monotonic() - awake


@pytest.fixture
def suspended(house: House, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Suspended]:
    """``suspended(answer)``: POST threads that ask for permits get ``answer()``, or else the limiter's answer."""

    def suspended(answer: Callable[[], Any] | None = None) -> Suspended:
        asked: list[tuple[int, Any]] = []
        acquire, now = Sender.acquire, time.monotonic()

        def asking(self: Sender, route: Route, asks: Sequence[Ask], *, probe: bool = False) -> Any:
            if not threading.current_thread().name.startswith("post-"):
                return acquire(self, route, asks, probe=probe)
            got = None
            try:
                got = answer() if answer else acquire(self, route, asks)
            finally:
                asked.append((asks[0].n, got))
            return got

        monkeypatch.setattr(Sender, "acquire", asking)
        # The first instant is the one at which the clock stands.
        monkeypatch.setattr(sender_module, "LEAD_SECONDS", 0.0)
        clock = SimpleNamespace(monotonic=lambda: now, sleep=time.sleep)
        for module in (sender_module, runner_module, posters_module):
            monkeypatch.setattr(module, "time", clock)
        # By this clock no instant ahead ever comes.
        monkeypatch.setattr(sender_module, "LEAD_SECONDS", 0.0)
        sender, campaign = claimed(house)
        until(lambda: house.counts(campaign) == {"accepted": 1, "sending": 3}, "the first one to leave")
        until(lambda: not sender._runners[campaign.app_id].left(), "the job to be done")
        return Suspended(house, sender, campaign, asked, clock)

    return suspended


def test_rows_that_became_late_share_a_call_for_new_permits_and_leave_in_order(
    suspended: Callable[..., Suspended],
) -> None:
    found = suspended()
    house = found.house
    assert found.asked == []
    found.goes_on()
    house.until_counts(found.campaign, accepted=4)
    # What the horizon had no permit for asked again.
    assert sum(len(got.instants[0]) for _, got in found.asked if isinstance(got, Permits)) == 3
    assert max(wanted for wanted, _ in found.asked) >= 2
    assert [row.claims for row in house.rows()] == [1] * 4
    arrivals = house.arrivals()
    assert [arrival["to"] for arrival in arrivals] == [row.recipient for row in house.rows()]
    # An eighth of a second apart, as the rate says; never at once because they were late.
    assert min(b["at"] - a["at"] for a, b in itertools.pairwise(arrivals)) > 0.05


def is_away() -> Any:
    raise RedisUnavailable("Redis does not answer")


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda: Stopped("no credit"), id="the app is stopped"),
        pytest.param(lambda: Wait(3600.0), id="the app cools down"),
        pytest.param(is_away, id="Redis is away"),
    ],
)
def test_late_rows_that_get_no_permit_go_back_and_are_sent_once_when_there_are_some(
    suspended: Callable[..., Suspended], monkeypatch: pytest.MonkeyPatch, answer: Callable[[], Any]
) -> None:
    found = suspended(answer)
    house, campaign = found.house, found.campaign
    found.goes_on()
    house.until_counts(campaign, accepted=1, pending=3)
    until(lambda: found.sender._posters.in_flight == 0, "no thread to wait")
    assert sum(wanted for wanted, _ in found.asked) == 3
    assert [(row.claims, row.attempts, row.code) for row in house.rows()[1:]] == [(1, 0, None)] * 3
    assert len(house.arrivals()) == 1
    monkeypatch.undo()
    house.paused.clear()
    house.until_counts(campaign, accepted=4)
    assert house.sandbox.stats()["repeated"] == 0


def test_no_thread_that_sends_waits_for_a_campaigns_content(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers: set[str] = set()
    content_of = sender_module.content_of

    def reading(*arguments: Any) -> Any:
        readers.add(threading.current_thread().name)
        return content_of(*arguments)

    monkeypatch.setattr(sender_module, "content_of", reading)
    campaign = house.campaign(house.app(), 20)
    house.sender()
    house.until_counts(campaign, accepted=20)
    assert readers == {f"app-{campaign.app_id}"}


def test_rows_that_became_late_before_their_request_do_not_leave_at_once(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, slow = Sender._body, threading.Event()

    def rendering(self: Sender, row: Any) -> bytes:
        # What the request needs takes its time, in every thread.
        assert slow.wait(PATIENCE_SECONDS)
        return body(self, row)

    monkeypatch.setattr(Sender, "_body", rendering)
    campaign = house.campaign(house.app(rate=10.0), 16)
    sender = house.sender()
    # One thread stays free for other apps.
    until(lambda: sender._posters.in_flight == sender._threads - 1, "the app's threads to wait")
    slow.set()
    house.until_counts(campaign, accepted=16)
    assert house.sandbox.stats()["worst_second"] <= 12


# -- jobs and runners -------------------------------------------------------------------------------------


def test_a_fault_of_ours_does_not_leave_the_jobs_of_an_app_without_anybody(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = itertools.count()

    def faulty(claim: Callable[..., Any]) -> Any:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            if next(faults) < 2:
                raise RuntimeError("odd data")
            return claim(*arguments, **options)

        return wrapped

    wrap_claims(monkeypatch, faulty)
    campaign = house.campaign(house.app(), 10)
    sender = house.sender()
    house.until_counts(campaign, accepted=10)
    assert next(faults) > 2
    assert len(sender._runners) == 1


def test_a_thread_that_cannot_be_started_takes_no_job_along(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.paused.set()
    campaign = house.campaign(house.app(rate=10.0), 40)
    sender = house.sender()
    with house.connections.session() as session:
        first, second = releases.release(session, db.now(session))
    assert first.batch_id is not None
    assert second.batch_id is not None

    def refuse(_: Any) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as full:
        full.setattr(Runner, "start", refuse)
        sender.take_batch(first.batch_id)
    sender.take_batch(second.batch_id)
    until(lambda: house.counts(campaign).get("accepted") == 20, "the second job to be sent", seconds=15)
    house.paused.clear()
    house.until_counts(campaign, accepted=40)


def test_a_busy_sender_that_has_enough_hands_the_next_job_back_at_once(house: House) -> None:
    house.paused.set()
    house.sandbox.control(latency_ms=200)
    app = house.app(rate=1_000.0)
    with house.connections.session() as session:
        # More than the threads have in hand and may have soon.
        first, second = (
            make_batch(session, make_campaign(session, app, rows, name=name)).id
            for name, rows in {"a": 500, "b": 40}.items()
        )
        urgent = make_batch(session, make_campaign(session, app, 1, name="pix", lane=Lane.PAYMENT)).id
    sender = house.sender()
    sender.take_batch(first)
    until(lambda: sender._has_enough(app.id), "its threads to be busy")
    sender.take_batch(second)
    assert held_by(house, second) == ("waiting", None)
    # A payment waits behind nothing.
    sender.take_batch(urgent)
    until(lambda: [row.status for row in house.rows()][-1] == Status.ACCEPTED, "the payment to be accepted")
    house.paused.clear()
    until(lambda: {row.status for row in house.rows()} == {Status.ACCEPTED}, "all to be accepted")


def held_by(house: House, batch_id: int) -> tuple[str, str | None]:
    """A batch's state and who holds it."""
    with house.connections.session() as session:
        batch = session.get_one(Batch, batch_id)
        return batch.state, batch.holder


def held(house: House, sender: Sender) -> int:
    """How many batches a sender holds, by the table."""
    with house.connections.session() as session:
        return len(session.scalars(select(Batch.id).where(Batch.holder == sender.name)).all())


def test_an_app_that_cools_down_holds_no_job_of_another(house: House) -> None:
    slow = house.app("loja", rate=80.0)
    house.campaign(slow, 160, name="lenta")
    house.connections.limiter.cool_down(slow.id, 3600)
    sender = house.sender()
    until(lambda: held(house, sender) == 8, "the slow app to have jobs")
    house.connections.environment.values["DISPARO_TOKEN_LOJA_SUL"] = "sk_1"
    fast = house.campaign(house.app("loja-sul"), 10, name="rápida")
    until(lambda: house.counts(fast) == {"accepted": 10}, "the other app to send", seconds=15)


def test_a_journal_that_cannot_be_settled_does_not_hold_up_the_others(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.paused.set()
    campaign = house.campaign(house.app(), 4)
    folder = house.connections.settings.home / "journal"
    with house.connections.session() as session:
        (job,) = releases.release(session, db.now(session))
        for owner in ("a-spoilt", "b-good"):
            assert len(batches.claim(session, job, 2, owner, db.now(session))) == 2
    for owner in ("a-spoilt", "b-good"):
        Journal(folder, owner).close(all_recorded=False)
    settle = recovery.settle_dead_worker

    def failing(session: Session, owner: str, *arguments: Any, **options: Any) -> Any:
        if owner == "a-spoilt":
            raise ValueError("garbage of a disk")
        return settle(session, owner, *arguments, **options)

    monkeypatch.setattr(recovery, "settle_dead_worker", failing)
    house.sender()
    until(lambda: house.counts(campaign).get("pending") == 2, "the good one to be settled", seconds=15)
    assert [path.stem for path in folder.glob("?-*.lock")] == ["a-spoilt"]
