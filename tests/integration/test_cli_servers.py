"""Servers that do not answer, and addresses that are none: one sentence each, no password in it."""

import json
import socket

import pytest
import redis
from sqlalchemy import text
from sqlalchemy.engine import make_url

HELLO = {"type": "text", "text": {"body": "Oi"}}


@pytest.fixture
def closed_port():
    """A port at which nobody listens, kept bound so that nobody will."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.fixture
def files(tmp_path):
    (tmp_path / "hello.json").write_text(json.dumps(HELLO))
    (tmp_path / "campaign.yaml").write_text(f"name: bf\napp: loja\nmessage: {json.dumps(HELLO)}\n")
    (tmp_path / "people.csv").write_text("to\n5511999998888\n")
    return tmp_path


@pytest.fixture
def refusals(run, files):
    """What `send` and `campaign launch` say, both of which would store something."""
    assert run("app", "set", "loja", "--id", "app-1").code == 0
    commands = (
        ["send", "--app", "loja", "--to", "5511999998888", files / "hello.json"],
        ["campaign", "launch", files / "campaign.yaml", files / "people.csv"],
    )

    def refusals():
        found = [run(*command).sentence for command in commands]
        assert "hidden-word" not in str(found)
        return found

    return refusals


def nothing_stored(connections):
    with connections.session() as session:
        query = "SELECT (SELECT count(*) FROM messages) + (SELECT count(*) FROM campaigns) + (SELECT count(*) FROM imports)"
        return session.execute(text(query)).scalar_one() == 0


def test_a_closed_port_of_postgresql(refusals, connections, monkeypatch, closed_port):
    monkeypatch.setenv("DISPARO_DATABASE_URL", f"postgresql://u:hidden-word@127.0.0.1:{closed_port}/d")
    for sentence in refusals():
        assert sentence.startswith("PostgreSQL does not answer")
        assert "DISPARO_DATABASE_URL" in sentence


def test_a_closed_port_of_redis(refusals, connections, monkeypatch, closed_port):
    monkeypatch.setenv("DISPARO_REDIS_URL", f"redis://:hidden-word@127.0.0.1:{closed_port}/0")
    for sentence in refusals():
        assert sentence.startswith("Redis does not answer")
        assert "DISPARO_REDIS_URL" in sentence
    assert nothing_stored(connections)


def test_a_wrong_password_of_redis(refusals, connections, monkeypatch, redis_url):
    client = redis.Redis.from_url(redis_url)
    client.execute_command("ACL", "SETUSER", "somebody", "on", ">right", "~*", "+@all")
    try:
        monkeypatch.setenv("DISPARO_REDIS_URL", redis_url.replace("://", "://somebody:hidden-word@", 1))
        for sentence in refusals():
            assert "AuthenticationError" in sentence
            assert "DISPARO_REDIS_URL" in sentence
    finally:
        client.execute_command("ACL", "DELUSER", "somebody")
        client.close()
    assert nothing_stored(connections)


def test_a_database_that_does_not_exist(refusals, monkeypatch, database_url):
    url = make_url(database_url).set(database="no_such_database").render_as_string(hide_password=False)
    monkeypatch.setenv("DISPARO_DATABASE_URL", url)
    for sentence in refusals():
        assert "no_such_database" in sentence
        assert "DISPARO_DATABASE_URL" in sentence


def test_a_user_without_rights_is_told_so(refusals, connections, monkeypatch, database_url):
    role = f"{make_url(database_url).database}_reader"
    with connections.session() as session:
        session.execute(text(f'CREATE ROLE "{role}"'))
    try:
        url = make_url(database_url).update_query_dict({"options": f"-c role={role}"})
        monkeypatch.setenv("DISPARO_DATABASE_URL", url.render_as_string(hide_password=False))
        told = refusals()
    finally:
        with connections.session() as session:
            session.execute(text(f'DROP ROLE "{role}"'))
    for sentence in told:
        assert "permission denied" in sentence
        assert "rights of its user" in sentence
    assert nothing_stored(connections)


WRONG_SETTINGS = [
    ("DISPARO_DATABASE_URL", "postgresql://u:hidden-word@127.0.0.1:1/d?no_such_option=1"),
    ("DISPARO_DATABASE_URL", "postgresql://u:hidden-word@127.0.0.1:port/d"),
    ("DISPARO_DATABASE_URL", "mysql://u:hidden-word@127.0.0.1/d"),
    ("DISPARO_REDIS_URL", "http://:hidden-word@127.0.0.1/0"),
    ("DISPARO_REDIS_URL", "redis://:hidden-word@127.0.0.1:port/0"),
    ("DISPARO_REDIS_URL", "redis://:hidden-word@127.0.0.1:1/0?socket_timeout=soon"),
    ("DISPARO_BASE_URL", "partner.gupshup.io"),
    ("DISPARO_DATABASE_URL_FILE", "/nowhere/url"),
]


def test_a_wrong_setting_is_a_sentence_that_names_it(refusals, connections, monkeypatch):
    for variable, value in WRONG_SETTINGS:
        with monkeypatch.context() as patch:
            patch.delenv(variable.removesuffix("_FILE"), raising=False)
            patch.setenv(variable, value)
            for sentence in refusals():
                assert variable in sentence, value
    assert nothing_stored(connections)


def test_addresses_may_come_from_files(run, environment, monkeypatch, tmp_path):
    for name in ("DATABASE_URL", "REDIS_URL"):
        (tmp_path / name).write_text(environment.values[f"DISPARO_{name}"] + "\n")
        monkeypatch.delenv(f"DISPARO_{name}")
        monkeypatch.setenv(f"DISPARO_{name}_FILE", str(tmp_path / name))
    assert run("app", "set", "loja", "--id", "app-1").code == 0
    assert run("app", "list", "--json").json[0]["name"] == "loja"


def test_an_empty_database_is_set_up_by_the_first_command(run, monkeypatch, empty_database_url):
    monkeypatch.setenv("DISPARO_DATABASE_URL", empty_database_url)
    assert "run `disparo db upgrade`" in run("db", "check").sentence
    assert run("app", "list", "--json").json == []
    assert run("db", "check").code == 0


def test_a_database_of_somebody_else_is_not_touched(run, monkeypatch, empty_database_url):
    from disparo.db import make_engine

    engine = make_engine(empty_database_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE theirs (id integer)"))
    monkeypatch.setenv("DISPARO_DATABASE_URL", empty_database_url)
    assert "has no tables of Disparo yet" in run("app", "list").sentence
    with engine.connect() as connection:
        assert connection.execute(text("SELECT to_regclass('apps') IS NULL")).scalar_one()
    engine.dispose()


def test_a_database_of_a_newer_version_is_refused(run, connections):
    with connections.session() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    # It says that this version still runs on it, which is enough for all but an upgrade.
    assert run("app", "list").code == 0
    assert "revision 9999" in run("db", "check").out
    assert "upgraded by a newer one" in run("db", "upgrade").sentence
    with connections.session() as session:
        session.execute(text("UPDATE installation SET oldest_code = '9999'"))
    assert "upgraded by a newer one" in run("app", "list").sentence
    assert "upgraded by a newer one" in run("db", "upgrade").sentence


def test_a_revision_that_does_not_exist_is_told_with_those_that_do(run):
    assert "there is no revision 'nonsense'" in run("db", "upgrade", "nonsense").sentence
    assert "is at revision" in run("db", "upgrade").out
