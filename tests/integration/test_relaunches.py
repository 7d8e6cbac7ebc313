"""Messages move to another campaign: each once, never to leave twice, whatever dies or comes between."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from disparo import batches, campaigns, counters, progress, relaunches, releases, retries
from disparo.errors import ConflictError, DisparoError, InputError
from disparo.models import App, Campaign, Import, ImportReject, Message
from disparo.recipients import Loaded
from disparo.statuses import Status
from tests.factories.app import make_app, make_stop
from tests.factories.campaign import make_campaign, recount
from tests.racing import meet

HOUR = timedelta(hours=1)
STATES = relaunches.parse_states(None)
Move = Callable[..., Campaign]


def file(message: Any = None, **more: Any) -> campaigns.CampaignFile:
    message = message or {"type": "text", "text": {"body": "De novo, {{ nome }}"}}
    return campaigns.parse_file(
        {"name": "again", "app": "loja", "dedupe": "none", "message": message, **more}, "again.yaml"
    )


@pytest.fixture
def app(session: Session) -> App:
    return make_app(session)


@pytest.fixture
def old(session: Session, app: App) -> Campaign:
    return make_campaign(session, app, 12, name="old", state="paused")


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relaunches, "PAGE_IDS", 5)


def put(session: Session, old: Campaign, columns: str, lines: str) -> None:
    """Change rows of the old campaign as if they had come so far; counters follow."""
    session.execute(
        text(f"UPDATE messages SET {columns} WHERE campaign_id = :id AND line IN ({lines})"), {"id": old.id}
    )
    session.execute(text("DELETE FROM counter_deltas WHERE campaign_id = :id"), {"id": old.id})
    counters.add_deltas(session, [(old.id, status, n) for status, n in recount(session, old).items()])
    session.commit()


def begin(
    session: Session,
    old: Campaign,
    now: datetime,
    states: list[str],
    new: campaigns.CampaignFile,
    **more: Any,
) -> tuple[Campaign, Import]:
    app = session.get_one(App, old.app_id)
    made = campaigns.create(
        session, app, new, audience_name="campaign old",
        audience_digest=relaunches.digest(old, states), now=now, **more,
    )  # fmt: skip
    session.commit()
    return made


def move(
    session: Session,
    old: Campaign,
    now: datetime,
    new: campaigns.CampaignFile | None = None,
    *,
    states: list[str] = STATES,
    pages: list[Loaded] | None = None,
    **more: Any,
) -> Campaign:
    new = new or file()
    relaunches.source(session, "old", new)
    campaign, loaded = begin(session, old, now, states, new, **more)
    told = pages.append if pages is not None else lambda _: None
    relaunches.load(session, campaign, loaded, old, states, new, now, after_page=told)
    campaigns.launch(session, campaign, now)
    session.commit()
    for one in (old, campaign):
        assert counters.counts(session, [one.id])[one.id] == recount(session, one)
    return campaign


def lines(session: Session, campaign: Campaign) -> list[int]:
    return list(
        session.scalars(select(Message.line).where(Message.campaign_id == campaign.id).order_by(Message.id))
    )


def test_what_waited_was_cancelled_or_failed_moves_and_what_may_have_arrived_stays(
    session: Session, old: Campaign, now: datetime
) -> None:
    put(session, old, "status = 'cancelled'", "2, 3")
    put(session, old, "status = 'failed', code = '131026', reason = 'no'", "4")
    put(session, old, "status = 'failed', code = 'given_up'", "5")
    put(session, old, "status = 'failed', accepted_at = now()", "6")
    for line, status in enumerate(("accepted", "unknown", "expired", "suppressed"), 7):
        put(session, old, f"status = '{status}'", str(line))
    assert relaunches.count(session, old, STATES) == (6, 2)
    campaign = move(session, old, now)
    assert lines(session, campaign) == [2, 3, 4, 11, 12, 13]
    assert (campaign.total, campaign.state) == (6, "running")
    first = session.scalars(
        select(Message).where(Message.campaign_id == campaign.id).order_by(Message.id)
    ).first()
    source = session.scalars(select(Message).where(Message.campaign_id == old.id, Message.line == 2)).one()
    assert first is not None
    assert (first.recipient, first.recipient_key, first.params) == (
        source.recipient, source.recipient_key, source.params
    )  # fmt: skip
    assert recount(session, old) | {"pending": 0, "cancelled": 5, "failed": 3} == recount(session, old)
    settled = session.execute(
        select(Message.moved_to, Message.reason, Message.settled_at).where(
            Message.campaign_id == old.id, Message.line == 13
        )
    ).one()
    assert settled == (campaign.id, "moved to again", now)
    # A failure stays told as what it was.
    assert progress.failures(session, old.id)[0]["reason"] == "no"


def test_states_may_be_named_and_those_that_may_have_arrived_may_not(
    session: Session, old: Campaign, now: datetime
) -> None:
    put(session, old, "status = 'expired'", "2")
    put(session, old, "status = 'suppressed'", "3")
    campaign = move(session, old, now, states=relaunches.parse_states("suppressed, expired"))
    assert lines(session, campaign) == [2, 3]
    for given, sentence in (
        ("unknown", "may have been accepted"),
        ("sending", "may be on its way"),
        ("accepted", "was accepted, and would get it twice"),
        ("delivered", "was accepted"),
        ("lost", "--state lost: there are pending, cancelled, failed, expired, suppressed"),
        ("", "--state : there are"),
    ):
        with pytest.raises(InputError, match=sentence):
            relaunches.parse_states(given)


def test_nothing_that_moved_leaves_by_its_old_campaign_or_moves_again(
    session: Session, app: App, old: Campaign, now: datetime
) -> None:
    put(session, old, "status = 'failed', code = '190', failed_at = now()", "2, 3")
    put(session, old, "status = 'cancelled'", "4")
    move(session, old, now)
    assert relaunches.count(session, old, relaunches.parse_states("pending,cancelled,failed,expired")) == (
        0,
        0,
    )
    with pytest.raises(InputError, match="old has no message that is"):
        relaunches.probe(session, old, STATES, file(name="third"), now)
    campaigns.resume(session, old, now)
    assert [job for job in releases.release(session, now) if job.size > 12] == []
    stop = make_stop(session, app, code="190")
    stop.since = now - HOUR
    assert retries.retry_failed_by(session, [stop], now) == 0
    session.flush()
    # Whoever forgets to look is stopped by the table itself.
    with pytest.raises(IntegrityError, match="ck_messages_moved_to"):
        session.execute(text("UPDATE messages SET status = 'pending' WHERE status = 'failed'"))


def test_keys_stay_with_the_old_message_and_are_still_compared(
    session: Session, old: Campaign, now: datetime
) -> None:
    put(session, old, "key = 'k' || line", "2, 3, 4")
    put(session, old, "params = json_build_object('nome', 'Ana')", "5")
    pages: list[Loaded] = []
    campaign = move(session, old, now, file(dedupe="key"), pages=pages)
    rows = session.execute(
        select(Message.key, Message.dedupe_key).where(Message.campaign_id == campaign.id).order_by(Message.id)
    ).all()
    assert rows == [(None, "k2"), (None, "k3"), (None, "k4")]
    assert {reject.reason for page in pages for reject in page.rejects} == {"no_key"}
    assert session.scalars(select(Message.key).where(Message.key == "k2")).all() == ["k2"]


def test_rows_are_checked_and_compared_one_by_one_and_what_is_refused_stays(
    session: Session, old: Campaign, now: datetime
) -> None:
    put(session, old, "params = json_build_object('x', 1)", "3, 9")
    put(session, old, "recipient_key = '11'", "4, 5, 12")
    pages: list[Loaded] = []
    campaign = move(session, old, now, file(dedupe="recipient"), pages=pages)
    assert lines(session, campaign) == [2, 4, 6, 7, 8, 10, 11, 13]
    told = session.execute(select(ImportReject.line, ImportReject.reason, ImportReject.explanation)).all()
    by_line = {line: (reason, text) for line, reason, text in told}
    assert by_line[5] == by_line[12] == ("duplicate", "duplicate of line 4")
    assert by_line[3][0] == by_line[9][0] == "bad_value"
    assert sum(page.accepted for page in pages) == 8
    loaded = session.scalars(select(Import)).one()
    assert (loaded.accepted, loaded.rejected, loaded.duplicates, loaded.state) == (8, 2, 2, "done")
    stayed = select(Message.line).where(Message.campaign_id == old.id, Message.status == "pending")
    assert sorted(session.scalars(stayed)) == [3, 5, 9, 12]


def test_deadlines_are_the_new_campaigns_and_the_rows_own(
    session: Session, old: Campaign, now: datetime
) -> None:
    old.not_after = now + HOUR
    put(session, old, f"not_after = '{(now + HOUR).isoformat()}'", "2, 3, 4")
    put(session, old, f"not_after = '{(now - HOUR).isoformat()}'", "5")
    put(session, old, f"not_after = '{(now + 2 * HOUR).isoformat()}'", "6")
    campaign = move(session, old, now, not_after=now + 3 * HOUR)
    found = dict(
        session.execute(
            select(Message.line, Message.not_after).where(Message.campaign_id == campaign.id)
        ).all()
    )
    assert 5 not in found, "its own has passed"
    assert (found[2], found[6], found[13]) == (now + 3 * HOUR, now + 2 * HOUR, now + 3 * HOUR)


@pytest.mark.parametrize("state", ["running", "scheduled", "importing"])
def test_a_campaign_that_sends_by_itself_gives_nothing_away(
    session: Session, old: Campaign, now: datetime, state: str
) -> None:
    old.state = state
    session.flush()
    with pytest.raises(ConflictError, match=f"old is {state} and sends its messages itself"):
        relaunches.source(session, "old", file())


def test_payments_and_other_apps_are_refused(session: Session, old: Campaign) -> None:
    make_app(session, "outra")
    with pytest.raises(InputError, match="again is of app outra, old of app loja"):
        relaunches.source(session, "old", file(app="outra"))
    with pytest.raises(InputError, match="a request for payment keeps its campaign"):
        relaunches.source(session, "old", file(lane="payment"))
    old.lane = "payment"
    with pytest.raises(InputError, match="a request for payment keeps its campaign"):
        relaunches.source(session, "old", file())


def test_a_content_that_fits_none_is_refused_before_anything_moves(
    session: Session, old: Campaign, now: datetime
) -> None:
    wrong = file({"type": "text", "text": {"body": "{{ cupom }}"}})
    with pytest.raises(
        InputError, match="none of the 12 messages of old can be sent with the new content; line 2"
    ):
        relaunches.probe(session, old, STATES, wrong, now)
    put(session, old, "params = json_build_object('nome', 'Ana', 'cupom', 'X')", "8")
    relaunches.probe(session, old, STATES, wrong, now)
    assert relaunches.columns(session, old)[0] == "nome"


class Killed(BaseException):
    """As if the process were gone at this very point."""


@pytest.mark.parametrize("page", [1, 2, 3])
@pytest.mark.parametrize("where", ["in the middle", "before the commit"])
def test_the_same_command_goes_on_and_nothing_moves_twice_or_is_lost(
    session: Session,
    old: Campaign,
    now: datetime,
    monkeypatch: pytest.MonkeyPatch,
    page: int,
    where: str,
) -> None:
    put(session, old, "status = 'cancelled'", "2, 3, 8")
    put(session, old, "status = 'failed', code = 'x'", "4, 12")
    settle, seen = relaunches._SETTLE, []

    def dies(loaded: Loaded) -> None:
        seen.append(loaded)
        if len(seen) == page:
            raise Killed

    campaign, loaded = begin(session, old, now, STATES, file())
    with monkeypatch.context() as patched:
        if where == "in the middle":
            execute = session.execute

            def until(statement: Any, *args: Any, **more: Any) -> Any:
                if statement is settle:
                    dies(Loaded())
                return execute(statement, *args, **more)

            patched.setattr(session, "execute", until)
        told = dies if where == "before the commit" else lambda _: None
        with pytest.raises(Killed):
            relaunches.load(session, campaign, loaded, old, STATES, file(), now, after_page=told)
    session.rollback()
    session.expire_all()
    copied, gone = lines(session, campaign), select(Message.line).where(Message.moved_to == campaign.id)
    assert sorted(copied) == sorted(session.scalars(gone))
    assert len(copied) < 12
    done = move(session, old, now)
    assert lines(session, done) == list(range(2, 14))
    assert recount(session, old) | {"pending": 0, "failed": 2, "cancelled": 10} == recount(session, old)


def test_another_choice_of_states_is_another_launch(session: Session, old: Campaign, now: datetime) -> None:
    begin(session, old, now, STATES, file())
    with pytest.raises(
        ConflictError, match="again has an unfinished import of campaign old with another content"
    ):
        begin(session, old, now, ["failed"], file())


def test_a_resume_of_the_old_campaign_waits_for_the_page_and_ends_the_move(
    engine: Engine, session: Session, old: Campaign, now: datetime
) -> None:
    campaign, loaded = begin(session, old, now, STATES, file())
    session.commit()

    class Stops(Exception):
        pass

    def first_page(one: Session) -> None:
        """The page as it is before its commit."""
        its, new, import_ = (
            one.get_one(Campaign, old.id),
            one.get_one(Campaign, campaign.id),
            one.get_one(Import, loaded.id),
        )

        def told(_: Loaded) -> None:
            raise Stops

        with pytest.raises(Stops):
            relaunches.load(one, new, import_, its, STATES, file(), now, after_page=told)

    meet(
        engine,
        first_page,
        lambda one: campaigns.resume(one, campaigns.get(one, "old", lock=True), now),
    )
    session.expire_all()
    moved = lines(session, campaign)
    assert 0 < len(moved) < 12
    with pytest.raises(ConflictError, match="old is running and sends its messages itself"):
        relaunches.load(session, campaign, loaded, old, STATES, file(), now, after_page=lambda _: None)
    session.rollback()
    left = select(Message.line).where(Message.campaign_id == old.id, Message.status == "pending")
    assert sorted([*moved, *session.scalars(left)]) == list(range(2, 14))


def test_a_resume_that_comes_first_leaves_everything_where_it_is(
    engine: Engine, session: Session, old: Campaign, now: datetime
) -> None:
    campaign, loaded = begin(session, old, now, STATES, file())

    def load(one: Session) -> Any:
        its, new, import_ = (
            one.get_one(Campaign, old.id),
            one.get_one(Campaign, campaign.id),
            one.get_one(Import, loaded.id),
        )
        one.commit = one.flush  # type: ignore[method-assign]
        return relaunches.load(one, new, import_, its, STATES, file(), now, after_page=lambda _: None)

    _, refused = meet(
        engine, lambda one: campaigns.resume(one, campaigns.get(one, "old", lock=True), now), load
    )
    assert isinstance(refused, DisparoError)
    assert "old is running" in str(refused)
    session.expire_all()
    assert lines(session, campaign) == []


def test_what_a_worker_holds_is_waited_for(session: Session, old: Campaign, now: datetime) -> None:
    put(session, old, "status = 'sending', claimed_by = 'w', claimed_at = now()", "5")
    assert relaunches.is_sending(session, old)
    campaign, loaded = begin(session, old, now, STATES, file())
    with pytest.raises(ConflictError, match="workers still have messages of old"):
        relaunches.load(session, campaign, loaded, old, STATES, file(), now, after_page=lambda _: None)
    session.rollback()
    put(session, old, "status = 'pending', due_at = now()", "5")
    assert not relaunches.is_sending(session, old)
    done = move(session, old, now)
    assert len(lines(session, done)) == 12
    assert session.scalars(select(Message.due_at).where(Message.campaign_id == done.id).distinct()).all() == [
        None
    ]


def test_the_new_campaign_sends_them_and_a_cancelled_move_keeps_them_told(
    session: Session, old: Campaign, now: datetime
) -> None:
    campaign = move(session, old, now)
    sent = 0
    while jobs := releases.release(session, now):
        for job in jobs:
            rows = batches.claim(session, job, 20, "w", now)
            assert all(json.loads(row.params or "")["nome"].startswith("Cliente") for row in rows)
            batches.record(session, [batches.Outcome(r.id, r.claim, Status.ACCEPTED) for r in rows], now)
            batches.finish(session, [job], now)
            sent += len(rows)
    assert sent == 12
    assert campaigns.finish_done(session, now) == ["again"]
    assert session.get_one(Campaign, campaign.id, populate_existing=True).state == "finished"
