"""This code on a database that a newer version has upgraded: the old workers go on beside the new ones."""

from datetime import datetime, timedelta

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from disparo import batches, counters, recovery, releases, schema
from disparo.batches import Outcome
from disparo.db import make_engine
from disparo.errors import ConflictError
from disparo.models import Message
from disparo.statuses import Status
from tests import newer_schema
from tests.factories.app import make_app
from tests.factories.campaign import make_campaign, recount
from tests.factories.message import make_message
from tests.newer_schema import NEWER

REFUSED = f"at revision {NEWER}, which this version of Disparo does not know: .* run that version$"


def change(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


@pytest.fixture
def newer(engine: Engine) -> Engine:
    """An engine on a database that the next revision has added to."""
    with engine.connect() as connection:
        newer_schema.upgrade(connection)
    return engine


def test_a_database_of_this_revision_is_named(engine: Engine) -> None:
    assert schema.require_current(engine) == schema.HEAD


def test_a_newer_database_that_only_has_more_is_worked_with(newer: Engine) -> None:
    assert schema.require_current(newer) == NEWER
    assert schema.require_current(newer, set_up_empty=True) == NEWER


def test_releasing_claiming_recording_and_recovering_go_on_with_a_newer_database(
    newer: Engine, now: datetime
) -> None:
    with Session(newer, expire_on_commit=False) as session:
        app = make_app(session, rate=100)
        campaign = make_campaign(session, app, 6)
        single = make_message(session, app, due_at=now)
        jobs = releases.release(session, now)
        assert sum(job.size for job in jobs) == 7
        rows = []
        for job in jobs:
            if job.batch_id is not None:
                assert batches.take(session, [job.batch_id], "w", now).get(job.batch_id) == job
            else:
                assert batches.take_messages(session, job.app_id, job.message_ids, "w") == job
            rows += batches.claim(session, job, 10, "w", now)
        assert len(rows) == 7
        answers = [
            Outcome(row.id, row.claim, Status.ACCEPTED, spent=True, verdict="accepted") for row in rows
        ]
        assert batches.record(session, answers[:4], now) == 4
        done = recovery.settle_dead_worker(session, "w", {rows[4].id: 1, rows[5].id: 1}, answers[:5], now)
        assert (done["recorded"], done["unknown"], done["pending"], done["batches"]) == (1, 1, 1, 1)
        later = now + timedelta(minutes=2)
        assert not recovery.notice_clock_set_back(session, now)
        assert recovery.notice_clock_set_back(session, now - timedelta(minutes=1))
        recovery.release_lost(session, True, True, later)
        recovery.expire_leases(session, later)
        counters.fold(session, later)
        assert counters.counts(session, [campaign.id])[campaign.id] == recount(session, campaign)
        assert session.get_one(Message, single.id, populate_existing=True).status == Status.ACCEPTED
        session.commit()


@pytest.mark.parametrize("oldest", ["0001", schema.HEAD])
def test_a_newer_database_that_names_this_code_or_an_older_one_is_worked_with(
    engine: Engine, oldest: str
) -> None:
    with engine.connect() as connection:
        newer_schema.upgrade(connection, oldest_code=oldest)
    assert schema.require_current(engine) == NEWER


def test_a_newer_database_that_lacks_something_of_this_code_is_refused(engine: Engine) -> None:
    with engine.connect() as connection:
        newer_schema.upgrade(connection, oldest_code=NEWER)
    with pytest.raises(ConflictError, match=REFUSED):
        schema.require_current(engine)


@pytest.mark.parametrize(
    "change_of_it",
    [
        "ALTER TABLE installation DROP COLUMN oldest_code",
        "DROP TABLE installation",
        "DELETE FROM installation",
    ],
)
def test_a_newer_database_that_does_not_say_what_runs_on_it_is_refused(
    newer: Engine, change_of_it: str
) -> None:
    change(newer, change_of_it)
    with pytest.raises(ConflictError, match=REFUSED):
        schema.require_current(newer)


def test_a_newer_database_is_never_upgraded_by_this_code(newer: Engine) -> None:
    with pytest.raises(ConflictError, match=REFUSED):
        schema.upgrade(newer)
    with newer.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == NEWER


def test_an_older_database_is_refused_whatever_it_says_of_old_code(empty_database_url: str) -> None:
    engine = make_engine(empty_database_url)
    schema.upgrade(engine, "0001")
    with pytest.raises(
        ConflictError, match=f"at revision 0001, this code needs {schema.HEAD}; run `disparo db"
    ):
        schema.require_current(engine)
    engine.dispose()
