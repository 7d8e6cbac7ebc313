"""What people hear of: at least once, never in anybody's way, not stale, and unknown messages once."""

import json
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from disparo import counters, db, notifications
from disparo.connections import Connections, connect
from disparo.models import App, Campaign, Installation, Notification
from disparo.settings import Environment
from disparo.statuses import Lane, Status
from scheduler import ticks
from scheduler.ticks import TICKS, notify
from tests.factories.app import make_app
from tests.factories.campaign import make_campaign
from tests.factories.message import make_message
from tests.raw_server import Behaviour, Server, http, say

SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)


def add(session: Session, sentence: str = "loja is paused", **columns: Any) -> Notification:
    made = Notification(event="app_paused", subject="app:loja", sentence=sentence, **columns)
    session.add(made)
    session.flush()
    return made


def sentences(session: Session) -> list[str]:
    return list(session.scalars(select(Notification.sentence).order_by(Notification.id)))


# -- in the table -----------------------------------------------------------------------------------------


def test_a_notification_is_that_of_the_transaction(engine: Engine) -> None:
    with Session(engine) as session:
        notifications.add(session, "app_paused", "app:loja", "loja is paused", code="1003")
        notifications.add(session, "x", "y", "once", once="name")
        session.rollback()
    with Session(engine) as session, session.begin():
        notifications.add(session, "app_paused", "app:loja", "loja is paused", code="1003")
        notifications.add(session, "x", "y", "once", once="name")
        notifications.add(session, "x", "y", "once more", once="name")
    with Session(engine) as session:
        assert sentences(session) == ["loja is paused", "once"]
        due = notifications.take(session, db.now(session))
        assert due is not None
        document = json.loads(json.dumps(due.document()))
        assert document == {
            "id": due.id,
            "event": "app_paused",
            "at": due.at.isoformat(),
            "installation": str(session.scalars(select(Installation.id)).one()),
            "subject": "app:loja",
            "text": "loja is paused",
            "details": {"code": "1003"},
        }


def test_one_that_was_taken_waits_longer_each_time(session: Session, now: datetime) -> None:
    made = add(session, at=now, due_at=now)
    waits = []
    for attempt in range(1, 9):
        at = made.due_at
        assert notifications.take(session, at - SECOND) is None
        due = notifications.take(session, at)
        assert due is not None
        assert due.attempts == attempt
        session.refresh(made)
        waits.append((made.due_at - at).total_seconds())
    for wait, least in zip(waits, [15, 45, 135, 405, 1215, 3600, 3600, 3600], strict=True):
        assert least <= wait <= least * 1.25


def test_two_who_take_at_once_get_different_ones(engine: Engine, now: datetime) -> None:
    with Session(engine) as session, session.begin():
        for n in range(2):
            add(session, str(n), at=now, due_at=now)
    with Session(engine) as one, Session(engine) as other:
        taken = [notifications.take(session, now) for session in (one, other, other)]
        assert [due.text if due else None for due in taken] == ["0", "1", None]


def test_what_was_told_is_not_told_again_and_what_failed_keeps_its_reason(
    session: Session, now: datetime
) -> None:
    told, failed = add(session, at=now, due_at=now), add(session, at=now, due_at=now)
    notifications.note(session, told.id, None, now)
    notifications.note(session, failed.id, "it answered HTTP 500", now)
    # The answer to an earlier telling comes late.
    notifications.note(session, told.id, "not done within 5 seconds", now)
    session.expire_all()
    assert (told.told_at, told.error) == (now, None)
    assert (failed.told_at, failed.error) == (None, "it answered HTTP 500")
    due = notifications.take(session, now)
    assert due is not None
    assert due.id == failed.id
    assert not notifications.is_due(session, now)


def test_after_a_day_it_is_given_up_once_kept_for_a_week_and_then_forgotten(
    session: Session, now: datetime
) -> None:
    add(session, "never tried", at=now, due_at=now)
    tried = add(session, "tried", at=now, due_at=now + HOUR, error="it answered HTTP 500", attempts=29)
    add(session, "told", at=now, due_at=now, told_at=now)
    fresh = add(session, "fresh", at=now + HOUR, due_at=now + HOUR)
    assert notifications.give_up(session, now + DAY - SECOND) == []
    assert notifications.give_up(session, now + DAY) == [(tried.id, "app_paused", "it answered HTTP 500")]
    assert notifications.give_up(session, now + DAY) == []
    due = notifications.take(session, now + DAY)
    assert due is not None
    assert due.id == fresh.id
    assert not notifications.is_due(session, now + DAY)
    notifications.forget(session, now + 7 * DAY - SECOND)
    assert len(sentences(session)) == 4
    notifications.forget(session, now + 7 * DAY, page=2)
    assert sentences(session) == ["told", "fresh"]
    notifications.forget(session, now + 7 * DAY)
    assert sentences(session) == ["fresh"]


# -- unknown messages -------------------------------------------------------------------------------------


def become(session: Session, campaign: Campaign, status: Status, n: int) -> None:
    counters.add_deltas(session, [(campaign.id, Status.PENDING, -n), (campaign.id, status, n)])


def test_unknown_messages_of_a_campaign_are_told_once_until_they_are_decided(
    session: Session, now: datetime
) -> None:
    app = make_app(session)
    campaign, other = make_campaign(session, app, 5), make_campaign(session, app, 5, name="other")
    notifications.add_unknowns(session, now)
    assert sentences(session) == []
    become(session, campaign, Status.UNKNOWN, 2)
    for _ in range(2):
        notifications.add_unknowns(session, now)
    become(session, campaign, Status.UNKNOWN, 1)
    counters.fold(session, db.now(session) + HOUR)
    notifications.add_unknowns(session, now)
    session.flush()
    (told,) = session.scalars(select(Notification))
    assert (told.event, told.subject, told.details) == ("unknown", "campaign:black-friday", {"messages": 2})
    assert told.sentence == (
        "black-friday: of 2 messages nobody knows whether they were sent. "
        "Webhooks may tell; else decide with `disparo campaign resolve black-friday`."
    )
    become(session, other, Status.UNKNOWN, 1)
    notifications.add_unknowns(session, now)
    assert len(sentences(session)) == 2
    # All are decided, and later there are others.
    become(session, campaign, Status.UNKNOWN, -3)
    notifications.add_unknowns(session, now)
    become(session, campaign, Status.UNKNOWN, 1)
    notifications.add_unknowns(session, now)
    assert [one.split(":")[0] for one in sentences(session)] == ["black-friday", "other", "black-friday"]


def test_unknown_messages_of_what_was_cancelled_are_told_within_a_day(
    session: Session, now: datetime
) -> None:
    app = make_app(session)
    for name, state, ended in (
        ("just", "cancelled", now - HOUR),
        ("long-ago", "cancelled", now - DAY),
        ("paused", "paused", None),
    ):
        campaign = make_campaign(session, app, 1, name=name, state=state, finished_at=ended)
        become(session, campaign, Status.UNKNOWN, 1)
    notifications.add_unknowns(session, now)
    assert [one.split(":")[0] for one in sentences(session)] == ["just", "paused"]


def unknown(session: Session, app: App, at: datetime, **columns: Any) -> None:
    make_message(session, app, status=Status.UNKNOWN, settled_at=at, lane=Lane.UTILITY, **columns)


def test_unknown_messages_outside_campaigns_are_told_once_an_hour_and_only_new_ones(
    session: Session, now: datetime
) -> None:
    app, other = make_app(session), make_app(session, "outra")

    def look(at: datetime) -> list[tuple[str, int]]:
        """What is told by a look at that instant."""
        before = set(session.scalars(select(Notification.id)))
        notifications.add_unknowns(session, at)
        session.flush()
        new = session.scalars(
            select(Notification).where(Notification.id.not_in(before)).order_by("subject")
        ).all()
        for one in new:
            one.at = at
        session.flush()
        return [(one.subject, (one.details or {})["messages"]) for one in new]

    unknown(session, app, now)
    unknown(session, app, now, campaign_id=make_campaign(session, app).id)
    # It may not be committed yet.
    assert look(now + 9 * SECOND) == []
    assert look(now + 10 * SECOND) == [("app:loja", 1)]
    assert sentences(session)[0].startswith("loja: of 1 message outside campaigns nobody knows whether")
    unknown(session, app, now + SECOND)
    unknown(session, app, now + 60 * SECOND)
    unknown(session, other, now + 60 * SECOND)
    assert look(now + HOUR) == [("app:outra", 1)]
    assert look(now + HOUR + 10 * SECOND) == [("app:loja", 2)]
    # Nothing new: nobody is told of the old ones every hour.
    assert [look(now + n * HOUR) for n in range(2, 6)] == [[]] * 4


# -- the tick ---------------------------------------------------------------------------------------------


@pytest.fixture
def receiver() -> Iterator[Callable[[Behaviour], Server]]:
    started: list[Server] = []

    def start(behave: Behaviour) -> Server:
        started.append(Server(behave))
        return started[-1]

    yield start
    for server in started:
        server.stop()
    settle()


@pytest.fixture
def hooked(environment: Environment, connections: Connections) -> Iterator[Callable[..., Connections]]:
    """``hooked(NOTIFY_URL=…)``: the connections of a scheduler with these settings."""
    opened: list[Connections] = []

    def hooked(**values: str) -> Connections:
        given = {f"DISPARO_{name}": value for name, value in values.items()}
        opened.append(connect(Environment({**environment.values, **given})))
        return opened[-1]

    yield hooked
    settle()
    for one in opened:
        one.close()


def tick(connections: Connections, name: str = "notify") -> bool:
    return ticks.run(f"disparo.tick.{name}", TICKS[f"disparo.tick.{name}"], connections)


def settle() -> None:
    """Wait for the telling that is under way."""
    for thread in threading.enumerate():
        if thread.name == "notify":
            thread.join(60)
            assert not thread.is_alive()


def written(connections: Connections) -> list[tuple[str, bool, int, str | None]]:
    """Each notification with whether it was told, its attempts and its error."""
    with connections.session() as session:
        return [
            (one.sentence, one.told_at is not None, one.attempts, one.error)
            for one in session.scalars(select(Notification).order_by(Notification.id))
        ]


def url_of(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}/hook/s3cr3t"


def test_what_is_due_is_told_after_the_commit_one_after_the_other(hooked, receiver) -> None:
    server = receiver(say(http(b"ok")))
    connections = hooked(NOTIFY_URL=url_of(server))
    with connections.session() as session:
        for sentence in ("first", "second"):
            add(session, sentence)
    assert tick(connections)
    settle()
    told = [json.loads(request.split(b"\r\n\r\n", 1)[1])["text"] for request in server.requests]
    assert told == ["first", "second"]
    assert written(connections) == [("first", True, 1, None), ("second", True, 1, None)]
    tick(connections)
    settle()
    assert len(server.requests) == 2


def test_a_command_is_told_too(hooked, tmp_path) -> None:
    told = tmp_path / "told.json"
    connections = hooked(NOTIFY_COMMAND=f"tee {told}")
    with connections.session() as session:
        add(session, "first")
    tick(connections)
    settle()
    assert json.loads(told.read_text())["text"] == "first"
    assert written(connections) == [("first", True, 1, None)]


def test_a_refusal_is_kept_without_the_address_and_told_again_later(hooked, receiver) -> None:
    answers = iter([b"500 Fault", b"200 OK"])
    server = receiver(lambda connection, *_: connection.sendall(http(b"", next(answers).decode())))
    connections = hooked(NOTIFY_URL=url_of(server))
    with connections.session() as session:
        add(session, "first")
    tick(connections)
    settle()
    assert written(connections) == [("first", False, 1, "it answered HTTP 500")]
    tick(connections)
    settle()
    assert len(server.requests) == 1
    with connections.session() as session:
        session.execute(text("UPDATE notifications SET due_at = now()"))
    tick(connections)
    settle()
    assert written(connections) == [("first", True, 2, None)]
    first, second = (json.loads(request.split(b"\r\n\r\n", 1)[1]) for request in server.requests)
    assert first == second


def test_one_that_is_refused_does_not_hold_the_next(hooked, receiver) -> None:
    def behave(connection, body, _):
        connection.sendall(http(b"", "400 No" if b"first" in body else "200 OK"))
        return False

    connections = hooked(NOTIFY_URL=url_of(receiver(behave)))
    with connections.session() as session:
        for sentence in ("first", "second"):
            add(session, sentence)
    for _ in range(2):
        tick(connections)
        settle()
    assert [(sentence, told) for sentence, told, *_ in written(connections)] == [
        ("first", False),
        ("second", True),
    ]


def test_a_receiver_that_hangs_holds_up_neither_the_ticks_nor_sending(
    hooked, receiver, redis_url: str
) -> None:
    asked, answer = threading.Event(), threading.Event()

    def hang(connection, *_):
        asked.set()
        answer.wait(60)
        connection.sendall(http(b"ok"))
        return False

    connections = hooked(NOTIFY_URL=url_of(receiver(hang)))
    with connections.session() as session:
        app = make_app(session)
        make_message(session, app, lane=Lane.PAYMENT, due_at=db.now(session))
        for sentence in ("first", "second"):
            add(session, sentence)
    assert tick(connections)
    assert asked.wait(60)
    # The receiver has it and is silent. Every tick runs, this one too, and no second thread begins to tell.
    for name in TICKS:
        assert ticks.run(name, TICKS[name], connections)
    with Redis.from_url(redis_url) as redis:
        assert redis.llen("urgent") == 1
    assert [thread.name for thread in threading.enumerate()].count("notify") == 1
    with connections.session() as session:
        locked = session.execute(
            text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted")
        ).scalar_one()
        idle = session.execute(
            text(
                "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
                " AND datname = current_database()"
            )
        ).scalar_one()
    assert (locked, idle) == (0, 0)
    assert [attempts for _, _, attempts, _ in written(connections)] == [1, 0]
    answer.set()
    settle()
    assert [told for _, told, _, _ in written(connections)] == [True, True]


def test_a_telling_that_was_cut_off_is_made_up_for(hooked, receiver) -> None:
    server = receiver(say(http(b"ok")))
    connections = hooked(NOTIFY_URL=url_of(server))
    with connections.session() as session:
        add(session, "first")
        # The process was killed after it had taken it.
        assert notifications.take(session, db.now(session)) is not None
    tick(connections)
    settle()
    assert server.requests == []
    with connections.session() as session:
        session.execute(text("UPDATE notifications SET due_at = now()"))
    tick(connections)
    settle()
    assert written(connections) == [("first", True, 2, None)]


def test_without_a_hook_nothing_is_taken_and_nothing_piles_up(connections: Connections) -> None:
    with connections.session() as session:
        now = db.now(session)
        add(session, "ancient", at=now - 7 * DAY)
        add(session, "stale", at=now - DAY)
        add(session, "fresh")
    tick(connections)
    settle()
    assert written(connections) == [("stale", False, 0, None), ("fresh", False, 0, None)]


def test_a_hook_that_is_set_later_hears_of_the_last_day_only(hooked, receiver, connections) -> None:
    with connections.session() as session:
        add(session, "stale", at=db.now(session) - DAY)
        add(session, "fresh")
    tick(connections)
    server = receiver(say(http(b"ok")))
    later = hooked(NOTIFY_URL=url_of(server))
    tick(later)
    settle()
    assert [json.loads(request.split(b"\r\n\r\n", 1)[1])["text"] for request in server.requests] == ["fresh"]


def test_an_address_in_a_file_is_read_anew_and_one_that_is_wrong_is_said_without_it(
    hooked, receiver, tmp_path
) -> None:
    server, file = receiver(say(http(b"ok"))), tmp_path / "url"
    file.write_text("https://hooks.example.com/s3cr3t")
    connections = hooked(NOTIFY_URL_FILE=str(file))
    with connections.session() as session:
        add(session, "first")
    file.write_text("file:///s3cr3t")
    tick(connections)
    settle()
    ((_, told, _, error),) = written(connections)
    assert not told
    assert error is not None
    assert error.startswith("DISPARO_NOTIFY_URL: it is no address like https://")
    assert "s3cr3t" not in error
    file.write_text(url_of(server))
    with connections.session() as session:
        session.execute(text("UPDATE notifications SET due_at = now()"))
    tick(connections)
    settle()
    assert len(server.requests) == 1


def test_what_cannot_be_told_is_logged_the_first_time_and_when_it_is_given_up(
    hooked, receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(
        notify, "logger", type("", (), {"warning": lambda _, event, **more: logged.append((event, more))})()
    )
    connections = hooked(NOTIFY_URL=url_of(receiver(say(http(b"s3cr3t", "500 Fault")))))
    with connections.session() as session:
        made = add(session, "first")
    for _ in range(2):
        tick(connections)
        settle()
        with connections.session() as session:
            session.execute(text("UPDATE notifications SET due_at = now()"))
    with connections.session() as session:
        session.execute(text("UPDATE notifications SET at = at - interval '1 day'"))
    for _ in range(2):
        tick(connections)
        settle()
    said = {"notification_id": made.id, "about": "app_paused", "error": "it answered HTTP 500"}
    assert logged == [("not_told", said), ("notification_given_up", said)]
