"""Single messages: accepted once per key, found again, cancelled while they wait."""

import threading
from datetime import timedelta

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from disparo import apps, messages, order_details, phone
from disparo.errors import ConflictError, InputError, PayloadError
from disparo.models import Message
from disparo.statuses import Status

TO = phone.parse("5511999998888")


def content(words="Oi"):
    return messages.compose({"type": "text", "text": {"body": words}}, TO)


@pytest.fixture
def app(session):
    made, _ = apps.configure(session, "loja", gs_app_id="app-1")
    session.commit()
    return made


def test_a_message_that_is_due_counts_as_handed_out_and_a_later_one_does_not(session, app, now):
    due, _ = messages.add(session, app, TO, content(), due_at=now, now=now)
    later, _ = messages.add(session, app, TO, content(), due_at=now + timedelta(hours=1), now=now)
    assert (due.released_at, later.released_at) == (now, None)


def test_a_key_names_one_content_whatever_the_order_of_its_fields(session, app, now):
    first, new = messages.add(session, app, TO, content(), key="k", due_at=now, now=now)
    turned = dict(reversed(content().items()))
    again, anew = messages.add(session, app, TO, turned, key="k", due_at=now, now=now)
    assert (first.id, new, anew) == (again.id, True, False)
    with pytest.raises(ConflictError, match="another recipient or content"):
        messages.add(session, app, TO, content("Tchau"), key="k", due_at=now, now=now)


def test_a_request_for_payment_is_too_late_before_its_order_expires(session, app, now):
    order = order_details(
        "R1", amount_cents=100, link="https://pay.example/1", item="A", body="Olá"
    ).message()
    expires = str(int((now + timedelta(hours=1)).timestamp()))
    order["interactive"]["action"]["parameters"]["order"]["expiration"] = {
        "timestamp": expires,
        "description": "já",
    }
    asked = messages.compose(order, TO)
    first, _ = messages.add(session, app, TO, asked, key="k", due_at=now, now=now)
    assert first.not_after == now + timedelta(minutes=55)
    later = now + timedelta(minutes=55)
    with pytest.raises(InputError, match="less than 300 seconds after"), session.begin_nested():
        messages.add(session, app, TO, asked, due_at=later, now=now)
    # Asked for again under its key, it is the same message, even when that has become too late.
    assert messages.add(session, app, TO, asked, key="k", due_at=later, now=later) == (first, False)


def test_many_at_once_with_one_key_make_one_message(engine, app, now):
    found, faults = [], []

    def add():
        try:
            with Session(engine) as session, session.begin():
                found.append(messages.add(session, app, TO, content(), key="k", due_at=now, now=now)[1])
        except Exception as err:  # noqa: BLE001 - told below
            faults.append(err)

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert faults == []
    assert sorted(found) == [False] * 7 + [True]


def test_placeholders_and_broken_rules_are_refused_and_raw_lets_them_pass():
    open_text = {"type": "text", "text": {"body": "Oi {{ nome }}"}}
    with pytest.raises(PayloadError, match=r"\{\{ nome \}\} would be sent as it stands"):
        messages.compose(open_text, TO)
    assert messages.compose(open_text, TO, raw=True)["text"] == open_text["text"]
    with pytest.raises(InputError):
        messages.compose([open_text], TO)


def test_a_deadline_before_its_time_is_refused(session, app, now):
    with pytest.raises(InputError, match="not_after"):
        messages.add(session, app, TO, content(), due_at=now, now=now, not_after=now)


def test_only_what_nobody_claimed_is_cancelled(session, app, now):
    rows = [messages.add(session, app, TO, content(), due_at=now, now=now)[0] for _ in range(3)]
    rows[1].status = Status.SENDING
    session.flush()
    ids = [row.id for row in rows]
    assert messages.cancel_pending(session, ids, now) == [ids[0], ids[2]]
    assert messages.cancel_pending(session, ids, now) == []
    assert messages.cancel_pending(session, [], now) == []
    assert session.scalar(select(func.count()).where(Message.settled_at == now)) == 2
