"""Another content for a launched campaign: checked on every row left, put in place whole or not at all."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from disparo import amendments, campaigns, releases, stops
from disparo.errors import ConflictError, DisparoError, InputError
from disparo.models import Action, App, Campaign, CampaignContent, Message
from disparo.statuses import Status
from tests.factories.app import make_app, make_stop
from tests.factories.campaign import make_campaign
from tests.racing import meet

HOUR = timedelta(hours=1)
OLD = {"type": "text", "text": {"body": "Oi {{ nome }}"}}
NEW = {"type": "text", "text": {"body": "Olá {{ nome }}"}}


def file(message: Any = NEW, **more: Any) -> campaigns.CampaignFile:
    document = {"name": "black-friday", "app": "loja", "dedupe": "none", "message": message, **more}
    return campaigns.parse_file(document, "bf.yaml")


@pytest.fixture
def app(session: Session) -> App:
    return make_app(session)


@pytest.fixture
def campaign(session: Session, app: App) -> Campaign:
    old = file(OLD)
    return make_campaign(
        session,
        app,
        10,
        state="paused",
        content=OLD,
        content_digest=old.digest(),
        options={"columns": {}, "normalise": False, "raw": False, "numbers": None},
    )


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amendments, "PAGE_IDS", 4)


def checked(session: Session, new: campaigns.CampaignFile) -> amendments.Amendment:
    found = amendments.begin(session, campaigns.get(session, "black-friday"), new, "bf.yaml")
    assert found is not None
    while amendments.check_page(session, found):
        pass
    return found


def amend(session: Session, now: datetime, new: campaigns.CampaignFile, **more: Any) -> Campaign:
    return amendments.apply(session, checked(session, new), now, **more)


def test_the_new_content_is_in_force_and_the_old_one_is_kept(
    session: Session, campaign: Campaign, now: datetime
) -> None:
    new = file(window="daily 9-18", weight=3, on_unknown="resend", stop_if={"failed": "5%"}, max_per_second=2)
    amended = amend(session, now, new, by="ana", why="typo")
    assert (amended.version, amended.content, amended.state) == (2, NEW, "paused")
    assert (amended.window, amended.weight, amended.on_unknown, amended.stop_if, amended.max_per_second) == (
        str(new.window), 3, "resend", {"failed": 0.05, "after": 500}, 2.0
    )  # fmt: skip
    [kept] = session.scalars(select(CampaignContent))
    assert (kept.version, kept.content, kept.content_digest) == (1, OLD, file(OLD).digest())
    assert (kept.replaced_by, kept.replaced_at) == ("ana", now)
    [action] = session.scalars(select(Action))
    assert (action.verb, action.actor, action.why) == ("amend", "ana", "typo")
    assert action.details == {"version": 2, "checked": 10}
    assert amendments.begin(session, amended, new, "bf.yaml") is None, "the same again changes nothing"
    assert amend(session, now, file(OLD)).version == 3


@pytest.mark.parametrize("status", [Status.PENDING, Status.SENDING, Status.UNKNOWN, Status.FAILED])
def test_a_row_that_may_still_leave_and_does_not_fit_refuses_all(
    session: Session, campaign: Campaign, now: datetime, status: Status
) -> None:
    session.execute(
        text("""UPDATE messages SET status = :status, params = '{"x": 1}' WHERE line IN (3, 11)"""),
        {"status": status},
    )
    with pytest.raises(InputError) as refused:
        amend(session, now, file())
    sentence = str(refused.value)
    assert sentence.startswith(
        "2 of 10 messages that may still leave cannot be sent with the new content; black-friday stays as it is. "
        "line 3: text.body: there is no column nome"
    )
    assert "line 11: " in sentence
    assert (campaign.version, campaign.content) == (1, OLD)
    assert session.scalars(select(CampaignContent)).all() == []


def test_rows_that_will_not_leave_are_not_asked(session: Session, campaign: Campaign, now: datetime) -> None:
    gone = ["accepted", "enqueued", "sent", "delivered", "read", "cancelled", "expired", "suppressed"]
    for line, status in enumerate(gone, 2):
        session.execute(
            text("UPDATE messages SET status = :status, params = '{}' WHERE line = :line"),
            {"status": status, "line": line},
        )
    assert checked(session, file()).checked == 2


def test_the_rules_of_whatsapp_count_and_many_refusals_are_told_short(
    session: Session, campaign: Campaign, now: datetime
) -> None:
    with pytest.raises(InputError, match=r"^10 of 10 messages.*line 2: .*line 6: .*; and 5 more$"):
        amend(session, now, file({"type": "text", "text": {"body": "{{ nome }}" + "a" * 4096}}))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"name": "other"}, "bf.yaml: name is other, but black-friday was launched with black-friday"),
        ({"app": "outra"}, "app is outra, but black-friday was launched with loja"),
        ({"lane": "utility"}, "lane is utility, but black-friday was launched with marketing"),
        ({"dedupe": "recipient"}, "dedupe is recipient, but black-friday was launched with none"),
        ({"raw": True}, "raw is true, but black-friday was launched with false"),
        ({"normalise": True}, "normalise is true"),
        ({"numbers": "br"}, "numbers is br, but black-friday was launched with none"),
        ({"columns": {"to": "Fone"}}, 'columns is {"to":"Fone"}, but black-friday was launched with {}'),
    ],
)
def test_what_decided_how_the_list_was_read_cannot_change(
    session: Session, campaign: Campaign, change: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError) as refused:
        checked(session, file(**change))
    assert sentence in str(refused.value)
    assert "--from-campaign black-friday" in str(refused.value)


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ("running", "`disparo campaign pause black-friday` first"),
        ("scheduled", "`disparo campaign pause black-friday` first"),
        ("importing", "only a paused or finished campaign"),
        ("cancelled", "only a paused or finished campaign"),
    ],
)
def test_only_what_stands_still_is_amended(
    session: Session, campaign: Campaign, now: datetime, state: str, sentence: str
) -> None:
    campaign.state = state
    with pytest.raises(ConflictError, match=sentence):
        checked(session, file())
    # The same when it happens while the rows are checked.
    campaign.state = "paused"
    found = checked(session, file())
    campaign.state = state
    session.flush()
    with pytest.raises(ConflictError, match=sentence):
        amendments.apply(session, found, now)
    assert campaign.version == 1


def test_a_finished_campaign_is_amended_for_those_that_failed(
    session: Session, campaign: Campaign, now: datetime
) -> None:
    campaign.state = "finished"
    session.execute(text("UPDATE messages SET status = 'delivered', params = '{}' WHERE line > 2"))
    session.execute(text("UPDATE messages SET status = 'failed' WHERE line = 2"))
    assert amend(session, now, file()).state == "finished"


def test_rows_that_came_meanwhile_were_not_checked(
    session: Session, campaign: Campaign, now: datetime
) -> None:
    found = checked(session, file())
    campaign.total += 1
    session.flush()
    with pytest.raises(ConflictError, match="got more messages meanwhile"):
        amendments.apply(session, found, now)


def test_a_deadline_can_be_brought_forward_only(session: Session, campaign: Campaign, now: datetime) -> None:
    assert amend(session, now, file(weight=2), not_after=now + 2 * HOUR).not_after == now + 2 * HOUR
    for later in (now + 3 * HOUR, None):
        with pytest.raises(
            InputError, match="not_after is 2026-11-21 14:00 UTC and can only be brought forward"
        ):
            amend(session, now, file(weight=3), not_after=later)
    assert amend(session, now, file(weight=3), not_after=now + HOUR).not_after == now + HOUR


def test_another_template_is_under_its_own_stop(
    session: Session, app: App, campaign: Campaign, now: datetime
) -> None:
    def template(name: str) -> dict[str, Any]:
        return {"type": "template", "template": {"name": name, "language": {"code": "pt_BR"}}}

    amend(session, now, file(template("velha")))
    make_stop(session, app, scope="template", key="velha/pt_BR", code="132015")
    campaigns.resume(session, campaign, now)
    assert releases.release(session, now) == []
    campaigns.pause(session, campaign)
    assert amend(session, now, file(template("nova"))).template == "nova/pt_BR"
    campaigns.resume(session, campaign, now)
    assert len(releases.release(session, now)) == 1
    details = session.scalars(select(Action.details).where(Action.verb == "amend").order_by(Action.id)).all()
    assert details[1] == {
        "version": 3,
        "checked": 10,
        "template": "nova/pt_BR",
        "template_before": "velha/pt_BR",
    }
    stops.resume(session, app, now)


def test_of_two_amendments_at_once_one_wins(
    engine: Engine, session: Session, campaign: Campaign, now: datetime
) -> None:
    session.commit()
    mine, other = (
        checked(session, file()),
        checked(session, file({"type": "text", "text": {"body": "Ei {{ nome }}"}})),
    )
    session.commit()
    won, lost = meet(
        engine,
        lambda one: amendments.apply(one, mine, now, by="ana"),
        lambda one: amendments.apply(one, other, now, by="bia"),
    )
    assert won.version == 2
    assert "was amended by somebody else meanwhile (its content is version 2 now)" in str(lost)
    assert session.get_one(Campaign, campaign.id, populate_existing=True).content == NEW


def test_a_resume_comes_before_or_after_an_amendment(
    engine: Engine, session: Session, campaign: Campaign, now: datetime
) -> None:
    session.commit()
    found = checked(session, file())
    session.commit()
    _, resumed = meet(
        engine,
        lambda one: amendments.apply(one, found, now),
        lambda one: campaigns.resume(one, campaigns.get(one, "black-friday", lock=True), now),
    )
    assert resumed is None
    running = session.get_one(Campaign, campaign.id, populate_existing=True)
    assert (running.state, running.version) == ("running", 2)
    campaigns.pause(session, campaigns.get(session, "black-friday", lock=True))
    session.commit()
    again = checked(session, file(OLD))
    session.commit()
    _, refused = meet(
        engine,
        lambda one: campaigns.resume(one, campaigns.get(one, "black-friday", lock=True), now),
        lambda one: amendments.apply(one, again, now),
    )
    assert isinstance(refused, DisparoError)
    assert "is running" in str(refused)
    kept = session.get_one(Campaign, campaign.id, populate_existing=True)
    assert (kept.state, kept.version, kept.content) == ("running", 2, NEW)


def test_killed_before_the_commit_it_is_as_before(
    engine: Engine, session: Session, campaign: Campaign, now: datetime
) -> None:
    session.commit()
    with Session(engine) as dying:
        amend(dying, now, file())
        dying.rollback()
    session.expire_all()
    assert (campaign.version, campaign.content) == (1, OLD)
    assert session.scalars(select(CampaignContent)).all() == []
    assert amend(session, now, file()).version == 2
    assert session.scalars(select(Message.status).distinct()).all() == ["pending"]
