"""Reminders of carts: scheduled, moved, released, and stopped by a purchase at any point."""

import json
import threading
from datetime import timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from disparo import apps, messages, phone, reminders
from disparo.errors import InputError
from disparo.models import Message, Reminder
from disparo.reminders import Conversion
from disparo.statuses import Status

TO = phone.parse("5511999998888")
HOUR = timedelta(hours=1)


def content(words="Volte"):
    return messages.compose({"type": "text", "text": {"body": words}}, TO)


@pytest.fixture
def app(session):
    made, _ = apps.configure(session, "loja", gs_app_id="app-1")
    session.commit()
    return made


@pytest.fixture
def schedule(session, app, now):
    def schedule(key="cart-1", due_at=None, **more):
        return reminders.schedule(
            session, app, key, TO, more.pop("content", content()), due_at=due_at or now + HOUR, **more
        )

    return schedule


def test_nothing_leaves_before_its_time(session, app, now, schedule):
    schedule()
    assert reminders.release_due(session, now + HOUR - timedelta(seconds=1)) == {}
    made = reminders.release_due(session, now + HOUR)
    [message_id] = made[app.id]
    message = session.get_one(Message, message_id)
    assert (message.status, message.recipient, message.content) == ("pending", TO.digits, content())
    assert reminders.release_due(session, now + 9 * HOUR) == {}


def test_scheduling_again_while_it_waits_moves_it_and_takes_the_new_content(session, now, schedule):
    first = schedule()
    again = schedule(due_at=now + 2 * HOUR, content=content("Ainda"), lane="utility")
    assert (again.id, again.run, again.due_at, again.lane) == (first.id, 1, now + 2 * HOUR, "utility")
    assert again.content["text"]["body"] == "Ainda"


def test_a_conversion_before_it_is_due_cancels_all_sequences_of_the_cart_and_no_other(
    session, app, now, schedule
):
    schedule()
    schedule(sequence="last-call")
    other = schedule("cart-2")
    assert reminders.convert(session, app, "cart-1", now) == Conversion(2, 0, 0)
    assert reminders.release_due(session, now + 2 * HOUR)[app.id]
    session.refresh(other)
    assert other.status == "released"
    assert reminders.convert(session, app, "cart-1", now) == Conversion(0, 0, 0)


def test_a_conversion_after_the_release_cancels_the_pending_message(session, app, now, schedule):
    reminder = schedule()
    [message_id] = reminders.release_due(session, now + HOUR)[app.id]
    assert reminders.convert(session, app, "cart-1", now) == Conversion(0, 1, 0)
    assert session.get_one(Message, message_id, populate_existing=True).status == "cancelled"
    session.refresh(reminder)
    assert (reminder.status, reminder.converted_at) == ("cancelled", now)


@pytest.mark.parametrize(
    ("status", "too_late"), [("sending", 1), ("accepted", 1), ("unknown", 1), ("failed", 0), ("expired", 0)]
)
def test_a_conversion_after_the_claim_is_too_late_unless_nothing_left(
    session, app, now, schedule, status, too_late
):
    schedule()
    [message_id] = reminders.release_due(session, now + HOUR)[app.id]
    session.get_one(Message, message_id).status = status
    session.flush()
    assert reminders.convert(session, app, "cart-1", now) == Conversion(0, 0, too_late)
    assert session.get_one(Message, message_id, populate_existing=True).status == status


def test_a_cart_abandoned_again_after_a_conversion_starts_a_new_run(session, app, now, schedule):
    assert schedule().run == 1
    reminders.convert(session, app, "cart-1", now)
    assert schedule().run == 2
    reminders.release_due(session, now + HOUR)
    assert schedule().run == 3
    assert session.scalars(select(Reminder.status).order_by(Reminder.run)).all() == [
        "cancelled",
        "released",
        "scheduled",
    ]


@pytest.mark.parametrize(
    ("key", "sequence"), [("", "cart"), ("k" * 201, "cart"), ("a\nb", "cart"), ("k", "")]
)
def test_a_key_that_cannot_be_kept_is_refused(schedule, key, sequence):
    with pytest.raises(InputError, match="1 to 200 printable characters"):
        schedule(key, sequence=sequence)


def test_a_conversion_that_meets_a_release_waits_for_it_and_cancels_its_message(
    engine, session, app, now, schedule
):
    schedule()
    session.commit()
    done = []

    def convert():
        with Session(engine) as other, other.begin():
            done.append(reminders.convert(other, app, "cart-1", now))

    assert reminders.release_due(session, now + HOUR)
    thread = threading.Thread(target=convert)
    thread.start()
    # The row is held by the release: the conversion cannot have ended, however long it is given.
    thread.join(0.3)
    assert done == []
    session.commit()
    thread.join(60)
    assert done == [Conversion(0, 1, 0)]
    assert session.scalars(select(Message.status)).all() == [Status.CANCELLED]


def test_a_release_that_meets_a_conversion_passes_the_cart_over(engine, session, app, now, schedule):
    schedule()
    session.commit()
    assert reminders.convert(session, app, "cart-1", now) == Conversion(1, 0, 0)
    with Session(engine) as other, other.begin():
        assert reminders.release_due(other, now + HOUR) == {}
    session.commit()
    assert session.scalars(select(Message.id)).all() == []


def test_conversions_and_releases_at_once_leave_no_message_of_a_converted_cart(
    engine, session, app, now, schedule
):
    for number in range(30):
        schedule(f"cart-{number}")
    session.commit()
    results, faults = [], []

    def guarded(work):
        try:
            work()
        except Exception as err:  # noqa: BLE001 - told below
            faults.append(err)

    def convert(numbers):
        for number in numbers:
            with Session(engine) as other, other.begin():
                results.append(reminders.convert(other, app, f"cart-{number}", now))

    def release():
        for _ in range(10):
            with Session(engine) as other, other.begin():
                reminders.release_due(other, now + HOUR, page=3)

    work = [lambda: convert(range(15)), lambda: convert(range(29, 14, -1)), release, release]
    threads = [threading.Thread(target=guarded, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert faults == []
    assert sum(done.reminders + done.messages for done in results) == 30
    assert session.scalars(select(Message.id).where(Message.status == "pending")).all() == []


@pytest.fixture
def cart(run, tmp_path):
    run("app", "set", "loja", "--id", "app-1")
    path = tmp_path / "cart.json"
    path.write_text(json.dumps({"type": "text", "text": {"body": "Volte"}}))
    return ["reminder", "schedule", path, "--app", "loja"]


def test_the_command_line_schedules_lists_and_converts(run, cart):
    done = run(*cart, "--key", "c1", "--to", "11999998888", "--at", "2030-12-03 10:00")
    assert "2030-12-03 10:00 America/Sao_Paulo (13:00 UTC)" in done.out
    assert run(*cart, "--key", "c2", "--to", "11999998888", "--in", "2h", "--json").json["run"] == 1
    listed = run("reminder", "list")
    assert "5511999998888" not in listed.out
    assert [one["key"] for one in run("reminder", "list", "--app", "loja", "--json").json] == ["c2", "c1"]
    converted = run("reminder", "convert", "c1", "--app", "loja", "--json").json
    assert converted == {"reminders": 1, "messages": 0, "too_late": 0}
    assert "has no reminder that waits" in run("reminder", "convert", "c1", "--app", "loja").out


def test_a_wrong_reminder_is_a_sentence_and_nothing_is_stored(run, cart):
    right = {"--key": "c", "--to": "11999998888", "--in": "2h"}
    for change, told in [
        ({"--in": None}, "say when: either --in 30m or --at"),
        ({"--at": "10:00"}, "say when: either --in 30m or --at"),
        ({"--in": "soon"}, "is not a length of time"),
        ({"--in": "0s"}, "has passed"),
        ({"--in": None, "--at": "2020-01-01"}, "has passed"),
        ({"--to": "123"}, "too few digits"),
        ({"--key": ""}, "the key of a reminder"),
        ({"--app": "nope"}, "no app is named 'nope'"),
    ]:
        options = [part for pair in (right | change).items() if pair[1] is not None for part in pair]
        assert told in run(*cart, *options).sentence, change
    assert run("reminder", "list", "--json").json == []
