"""What may never stand in a record: tokens, passwords, whole phone numbers."""

import logging
import sys

import pytest

from disparo import log

TOKEN = "sk_0123456789abcdef0123456789abcdef"


@pytest.fixture
def _root_logger():
    """What other tests' logging was comes back."""
    import structlog

    root = logging.getLogger()
    handlers, level, names = root.handlers[:], root.level, ("celery", "kombu", "amqp", "urllib3", "alembic")
    levels = {name: logging.getLogger(name).level for name in (*names, "uvicorn.access")}
    yield
    root.handlers[:], root.level = handlers, level
    for name, was in levels.items():
        logging.getLogger(name).setLevel(was)
    structlog.reset_defaults()


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("to 5511999998888", "99999"),
        ("to +5511999998888.", "99999"),
        ("to=5511999998888, next", "99999"),
        ("'5511999998888' and \"551133334444\"", "99999"),
        ("(5511999998888)", "99999"),
        ("cpf 12345678901 of somebody", "567"),
        (f"Authorization: {TOKEN}", "0123456789"),
        ("Authorization: Bearer abc.def", "abc"),
        ("eyJhbGciOi.eyJzdWIi.c2ln", "c2ln"),
        ("postgresql://user:hidden-word@host/db", "hidden-word"),
        ("redis://:hidden-word@host", "hidden-word"),
    ],
)
def test_what_is_secret_is_taken_out(text, hidden):
    assert hidden not in log.redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "message 123456789 of campaign 42",
        "at 2026-11-21T10:00:00.123456+00:00",
        "1732183200.123456",
        "0b8a1f2e-1234567890123-ffff",
        "gs id 9f1c2f4e12345678901a",
        "https://partner.gupshup.io/partner/app/0000-1/v3/message",
    ],
)
def test_ids_instants_and_addresses_stay(text):
    assert log.redact(text) == text


def test_a_phone_keeps_its_ends_so_that_people_can_find_it():
    assert log.redact("5511999998888") == "5511****8888"


@pytest.mark.usefixtures("_root_logger")
def test_records_of_ours_and_of_libraries_go_to_stderr_redacted_on_one_line(capsys):
    log.configure("info")
    log.get("test").info(
        "batch_done", batch_id=7, to="5511999998888", many=["5511999998888"], err=ValueError(f"bad {TOKEN}")
    )
    logging.getLogger("library").warning("sent to %s with %s", "5511999998888", TOKEN)
    captured = capsys.readouterr()
    assert captured.out == ""
    first, second = captured.err.splitlines()
    assert "event=batch_done" in first
    assert "batch_id=7" in first
    assert "library" in second or "sent to" in second
    assert "999998888" not in captured.err
    assert TOKEN not in captured.err


@pytest.mark.usefixtures("_root_logger")
def test_what_is_below_the_level_is_not_written(capsys):
    log.configure("warning")
    log.get("test").info("quiet")
    logging.getLogger("library").info("quiet")
    log.get("test").warning("loud")
    err = capsys.readouterr().err
    assert "quiet" not in err
    assert "event=loud" in err


@pytest.mark.usefixtures("_root_logger")
def test_the_text_of_an_exception_is_redacted_too(capsys):
    log.configure("info")
    try:
        int(f"{TOKEN} to 5511999998888")
    except ValueError:
        log.get("test").error("failed", exc_info=sys.exc_info())
    err = capsys.readouterr().err
    assert "ValueError" in err
    assert TOKEN not in err
    assert "999998888" not in err
