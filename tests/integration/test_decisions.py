"""What people decide of a campaign's unknown messages: the ones they name, once, in pages."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from disparo import batches, campaigns, counters, decisions, unknowns
from disparo.actions import history
from disparo.batches import Job, Outcome
from disparo.errors import ConflictError, InputError
from disparo.models import App, Campaign, Message
from disparo.phone import key_of
from disparo.statuses import CampaignState, Lane, Status
from disparo.unknowns import Decision
from tests.factories.app import make_app
from tests.factories.campaign import make_campaign, recount
from tests.racing import meet_in

MINUTE = timedelta(minutes=1)
DYNAMIC = (
    "00020101021226770014BR.GOV.BCB.PIX2555pix.example.com/qr/93598be0-1bd0-4997-8318-81776a1d8a99"
    "5204000053039865802BR5911EMPRESA LTD6009SAO PAULO62070503***63040000"
)
STATIC = "00020126330014BR.GOV.BCB.PIX01115794666323452040000530398654041.005802BR5911EMPRESA LTD6009SAO PAULO63040000"


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with Session(engine, expire_on_commit=False) as opened:
        yield opened


@pytest.fixture(autouse=True)
def counters_stay_true(session: Session) -> Iterator[None]:
    yield
    for campaign in session.scalars(select(Campaign)):
        assert counters.counts(session, [campaign.id])[campaign.id] == recount(session, campaign)


@pytest.fixture
def app(session: Session) -> App:
    return make_app(session)


@pytest.fixture
def campaign(session: Session, app: App) -> Campaign:
    """Four messages with the references R0 to R3; the last one is accepted, the others are unknown."""
    made = make_campaign(session, app, 4, name="school-fees", lane=Lane.PAYMENT)
    for number, row in enumerate(rows_of(session, made)):
        row.key, row.recipient_key = f"R{number}", key_of(row.recipient)
    session.flush()
    return made


def rows_of(session: Session, campaign: Campaign) -> list[Message]:
    query = select(Message).where(Message.campaign_id == campaign.id).order_by(Message.id)
    return list(session.scalars(query.execution_options(populate_existing=True)))


def make_unknown(session: Session, campaign: Campaign, at: datetime, *, accepted: int = 1) -> list[int]:
    ids = [row.id for row in rows_of(session, campaign)]
    job = Job(campaign.app_id, "", message_ids=tuple(ids))
    rows = batches.claim(session, job, len(ids), "w", at)
    good = len(rows) - accepted
    batches.record(
        session,
        [
            Outcome(row.id, row.claim, Status.UNKNOWN, spent=True, verdict="unknown", code="no_answer")
            if number < good
            else Outcome(
                row.id, row.claim, Status.ACCEPTED, spent=True, verdict="accepted", gs_id=f"g-{row.id}"
            )
            for number, row in enumerate(rows)
        ],
        at,
    )
    session.commit()
    return ids


def run(
    session: Session,
    campaign: Campaign,
    decision: Decision,
    named: Any,
    now: datetime,
    *,
    page: int = 2,
    **who: Any,
) -> decisions.Undecided:
    undecided = decisions.begin(session, campaign, decision, named, now, **who)
    while decisions.next_page(session, undecided, now, page=page):
        pass
    return undecided


def states(session: Session, campaign: Campaign) -> list[str]:
    return [row.status for row in rows_of(session, campaign)]


@pytest.mark.parametrize(
    ("decision", "becomes"),
    [(Decision.SENT, "accepted"), (Decision.RESEND, "pending"), (Decision.GIVE_UP, "failed")],
)
def test_all_unknown_messages_of_a_campaign_are_decided_in_pages_under_one_action(
    session: Session, campaign: Campaign, now: datetime, decision: Decision, becomes: str
) -> None:
    make_unknown(session, campaign, now)
    done = run(session, campaign, decision, None, now + MINUTE, actor="ana", why="asked the bank")
    assert (done.decided, done.done[becomes], done.unmatched) == (3, 3, [])
    assert states(session, campaign) == [becomes] * 3 + ["accepted"]
    (entry,) = history(session, "campaign:school-fees")
    assert (entry["actor"], entry["verb"], entry["why"]) == ("ana", "resolve", "asked the bank")
    assert entry["details"] == {"decision": decision.value, "messages": 3}
    assert run(session, campaign, decision, None, now).decided == 0
    assert len(history(session, "campaign:school-fees")) == 1


def test_a_person_who_resends_begins_the_tries_anew_and_the_campaign_itself_does_not(
    session: Session, app: App, campaign: Campaign, now: datetime
) -> None:
    make_unknown(session, campaign, now)
    run(session, campaign, Decision.RESEND, None, now)
    assert [(row.attempts, row.forgiven) for row in rows_of(session, campaign)] == [(1, 1)] * 3 + [(1, 0)]
    itself = make_campaign(session, app, 1, name="itself", on_unknown="resend")
    make_unknown(session, itself, now, accepted=0)
    assert unknowns.resend_unknowns(session, now + unknowns.WEBHOOK_WINDOW) == 1
    assert [(row.status, row.forgiven) for row in rows_of(session, itself)] == [("pending", 0)]


def test_a_campaign_whose_last_unknown_was_decided_finishes(
    session: Session, campaign: Campaign, now: datetime
) -> None:
    make_unknown(session, campaign, now)
    assert campaigns.finish_done(session, now) == []
    run(session, campaign, Decision.SENT, None, now)
    assert campaigns.finish_done(session, now) == ["school-fees"]


def test_references_keys_and_ids_name_messages_and_the_rest_is_told(
    session: Session, app: App, campaign: Campaign, now: datetime
) -> None:
    ids = make_unknown(session, campaign, now)
    other = make_campaign(session, app, 1, name="other")
    (elsewhere,) = rows_of(session, other)
    elsewhere.key = "R9"
    session.flush()
    given = ["R0", str(ids[1]), "R3", "R9", "nobody", "5511987650000", "R0"]
    done = run(session, campaign, Decision.SENT, decisions.by_references(given), now)
    assert states(session, campaign) == ["accepted", "accepted", "unknown", "accepted"]
    assert done.decided == 2
    assert [tuple(one) for one in done.unmatched] == [
        ("--reference 3", "R3 is accepted, not unknown"),
        ("--reference 4", "R9 is a message of other, not of school-fees"),
        ("--reference 5", "school-fees has no message named nobody"),
        ("--reference 6", "school-fees has no message named 55119****0000"),
    ]
    (entry,) = history(session, "campaign:school-fees")
    assert entry["details"]["references"] == ["R0", str(ids[1]), "R0"]


@pytest.mark.parametrize(
    ("name", "content", "decided"),
    [
        ("a.csv", "Reference;Amount\nR0;10\nR1;20\n", 2),
        ("b.csv", "Valor,Referência\n10,R0\n20,R2\n", 2),
        ("c.csv", "key\nR0\n\nR1\n", 2),
        ("d.csv", "fatura\nR0\n", 1),
        ("e.csv", "R0\nR1\nR2\n", 3),
        ("f.jsonl", '{"reference": "R0", "paid": false}\n', 1),
        ("g.csv", "Celular;Nome\n(11) 98765-0000;Ana\n", 1),
        ("h.csv", "sep=;\nto;reference\n5511987650001;R0\n", 1),
    ],
)
def test_a_list_names_messages_by_the_column_that_it_has(
    session: Session, campaign: Campaign, now: datetime, tmp_path: Path, name: str, content: str, decided: int
) -> None:
    make_unknown(session, campaign, now)
    path = tmp_path / name
    path.write_text(content, encoding="cp1252")
    done = run(session, campaign, Decision.GIVE_UP, decisions.by_file(path), now)
    assert (done.decided, done.unmatched) == (decided, [])
    assert rows_of(session, campaign)[0].status == Status.FAILED


def test_lines_that_name_no_unknown_message_are_told_with_line_and_why(
    session: Session, campaign: Campaign, now: datetime, tmp_path: Path
) -> None:
    make_unknown(session, campaign, now)
    path = tmp_path / "answers.csv"
    path.write_text("reference;note\nR1;x\nR3;x\nR8;x\n;x\nR2\n")
    done = run(session, campaign, Decision.SENT, decisions.by_file(path), now)
    assert done.decided == 1
    assert [one.where for one in done.unmatched] == [f"answers.csv, line {n}" for n in (3, 4, 5, 6)]
    assert [one.why for one in done.unmatched][:3] == [
        "R3 is accepted, not unknown",
        "school-fees has no message named R8",
        "reference is empty",
    ]
    assert "1 cell" in done.unmatched[3].why


def test_a_phone_names_a_message_only_when_it_fits_one(
    session: Session, campaign: Campaign, now: datetime, tmp_path: Path
) -> None:
    rows = rows_of(session, campaign)
    for row in rows[2:]:
        row.recipient_key = rows[1].recipient_key
    session.flush()
    make_unknown(session, campaign, now)
    path = tmp_path / "answers.csv"
    path.write_text("to\n11 98765-0000\n+55 11 98765-0001\nnobody\n11 98765-0009\n")
    done = run(session, campaign, Decision.SENT, decisions.by_file(path), now)
    assert states(session, campaign) == ["accepted", "unknown", "unknown", "accepted"]
    assert [one.why for one in done.unmatched] == [
        "school-fees has 3 messages to 55119****0001; name them by reference or id",
        "**** is no phone number",
        "school-fees has no message to 119****0009",
    ]


def test_a_list_of_several_columns_without_one_that_is_known_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    path.write_text("fatura;valor\nR1;10\n")
    with pytest.raises(InputError, match=r"no column reference, key, id or to.*fatura, valor"):
        list(decisions.by_file(path))


def test_what_became_unknown_anew_since_it_was_decided_is_not_meant(
    session: Session, campaign: Campaign, now: datetime
) -> None:
    make_unknown(session, campaign, now)
    undecided = decisions.begin(session, campaign, Decision.SENT, None, now)
    run(session, campaign, Decision.RESEND, decisions.by_references(["R0"]), now)
    make_unknown(session, campaign, now, accepted=0)
    while decisions.next_page(session, undecided, now):
        pass
    assert states(session, campaign) == ["unknown", "accepted", "accepted", "accepted"]
    assert (undecided.decided, undecided.done["not_unknown"]) == (2, 1)


def test_two_decisions_at_once_count_once(
    engine: Engine, session: Session, campaign: Campaign, now: datetime
) -> None:
    make_unknown(session, campaign, now)
    given_up = decisions.begin(session, campaign, Decision.GIVE_UP, None, now)
    resent = decisions.begin(session, campaign, Decision.RESEND, None, now)
    meet_in(
        engine,
        session,
        lambda one: decisions.next_page(one, given_up, now),
        lambda one: decisions.next_page(one, resent, now),
    )
    assert (given_up.decided, resent.decided, resent.done["not_unknown"]) == (3, 0, 3)
    assert states(session, campaign) == ["failed", "failed", "failed", "accepted"]
    assert len(history(session, "campaign:school-fees")) == 1


def test_a_resend_that_cannot_be_is_refused_before_anything_is_decided(
    session: Session, campaign: Campaign, now: datetime
) -> None:
    make_unknown(session, campaign, now)
    campaign.state = CampaignState.CANCELLED
    session.flush()
    with pytest.raises(ConflictError, match="school-fees was cancelled"):
        decisions.begin(session, campaign, Decision.RESEND, None, now)
    assert run(session, campaign, Decision.GIVE_UP, None, now).decided == 3


def test_a_resend_that_a_cancel_overtakes_says_what_was_decided_before(
    session: Session, campaign: Campaign, now: datetime
) -> None:
    make_unknown(session, campaign, now)
    undecided = decisions.begin(session, campaign, Decision.RESEND, None, now)
    decisions.next_page(session, undecided, now, page=2)
    campaigns.cancel(session, campaign, now)
    with pytest.raises(ConflictError, match="2 messages were decided; of the others: school-fees was canc"):
        decisions.next_page(session, undecided, now, page=2)


# -- what sending again means -----------------------------------------------------------------------------


def settings(*ways: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "interactive",
        "interactive": {"action": {"parameters": {"payment_settings": list(ways), "code": "{{ nome }}"}}},
    }


PIX = {"type": "pix_dynamic_code", "pix_dynamic_code": {"code": "{{ code }}"}}
LINK = {"type": "payment_link", "payment_link": {"uri": "https://pay.example/{{ nome }}"}}
BOLETO = {"type": "boleto", "boleto": {"digitable_line": "1" * 47}}
ONCE, AGAIN = "one-use dynamic code: resending repeats a message, hardly a payment", "may be paid twice"


@pytest.mark.parametrize(
    ("content", "code", "told"),
    [
        (settings(PIX), DYNAMIC, ONCE),
        (settings(PIX), DYNAMIC.replace("010212", "010211"), AGAIN),
        (settings(PIX), STATIC, AGAIN),
        (settings(PIX, LINK), DYNAMIC, AGAIN),
        (settings(BOLETO), "", AGAIN),
        ({"type": "text", "text": {"body": "Copie: {{ code }}"}}, DYNAMIC, ONCE),
        ({"type": "text", "text": {"body": "Copie {{ code }} e pague"}}, DYNAMIC, AGAIN),
        ({"type": "text", "text": {"body": "Oi {{ nome }}"}}, "", "in a way that cannot be told"),
    ],
)
def test_resending_payments_says_whether_they_may_be_paid_twice(
    session: Session, app: App, content: dict[str, Any], code: str, told: str
) -> None:
    campaign = make_campaign(session, app, 2, lane=Lane.PAYMENT, content=content)
    rows = rows_of(session, campaign)
    for row in rows:
        row.params = {"nome": "Ana", "code": code}
    session.flush()
    (sentence,) = decisions.what_resend_means(session, campaign, [row.id for row in rows])
    assert sentence.startswith("2 of 2 messages ")
    assert told in sentence
    assert "000201" not in sentence


def test_kinds_are_counted_apart_and_what_asks_for_no_payment_says_nothing(
    session: Session, app: App
) -> None:
    campaign = make_campaign(session, app, 3, lane=Lane.UTILITY, content=settings(PIX))
    rows = rows_of(session, campaign)
    for row, code in zip(rows, (DYNAMIC, STATIC, "-"), strict=True):
        row.params = {"nome": "Ana", "code": code}
    session.flush()
    told = decisions.what_resend_means(session, campaign, [row.id for row in rows])
    assert [sentence.split(" messages")[0] for sentence in told] == ["1 of 3", "1 of 3"]
