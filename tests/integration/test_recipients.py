"""Rows of a file become messages: what of a row is kept, in pages that are whole or not there."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import select

from disparo import apps, campaigns, recipient_files, recipients
from disparo.errors import InputError
from disparo.models import Campaign, Import, Message
from disparo.recipient_files import Row

ZONE = ZoneInfo("America/Sao_Paulo")


def campaign_file(body="Oi {{ nome }}", **more):
    message = {"type": "text", "text": {"body": body}}
    return campaigns.parse_file({"name": "bf", "app": "loja", "message": message, **more}, "bf.yaml")


def read(now, values, file=None):
    reader = recipients.Reader(file or campaign_file(), list(values), now, ZONE)
    return reader.read(Row(2, values, list(values.values()), None))


def test_the_message_sees_the_number_as_it_is_sent_and_every_column_but_the_reserved(now):
    row = read(
        now, {"to": "+55 (11) 99999-8888", "key": "k", "not_after": "2030-12-03", "nome": "Ana", "x": ""}
    )
    assert (row.recipient, row.key) == ("5511999998888", "k")
    assert row.params == '{"nome":"Ana","x":"","to":"5511999998888"}'
    assert row.not_after == datetime(2030, 12, 4, 2, 59, 59, tzinfo=UTC)


@pytest.mark.parametrize(
    ("values", "reason", "told"),
    [
        ({"to": "5511999998888", "nome": "A" * 5000}, "payload", "text.body"),
        ({"to": "5511999998888", "nome": "Ana", "not_after": "2020-01-01"}, "bad_value", "is past"),
        ({"to": "5511999998888", "nome": "Ana", "not_after": "soon"}, "bad_value", "is not a date"),
        ({"to": "5511999998888", "nome": "Ana", "key": "k" * 201}, "bad_key", "1 to 200"),
        ({"to": "5511999998888", "nome": "Ana", "key": "a\tb"}, "bad_key", "1 to 200"),
        ({"to": "5511999998888", "nome": "Ana", "x": "\udcff"}, "bad_value", "cannot be kept"),
        ({"to": "5,51199E+12", "nome": "Ana"}, "excel_damage", "Excel lost the digits"),
        ({"to": "9" * 100_000, "nome": "Ana"}, "too_long", ""),
    ],
)
def test_a_row_that_cannot_be_sent_is_a_reject_with_a_stable_reason(now, values, reason, told):
    found = read(now, values)
    assert isinstance(found, recipients.Reject)
    assert found.reason == reason
    assert told in found.explanation
    assert "999998888" not in found.explanation


def test_what_a_row_says_is_never_evaluated(now):
    row = read(now, {"to": "5511999998888", "nome": "{{ 7 * 7 }}"})
    assert "{{ 7 * 7 }}" in row.params
    file = campaign_file()
    message, envelope = campaigns.compile_message(file.message)
    assert b"Oi {{ 7 * 7 }}" in recipients.render(message, envelope, {"nome": "{{ 7 * 7 }}"}, "5511999998888")


@pytest.fixture
def loading(session, tmp_path, now, monkeypatch):
    """A campaign of ten rows, two of them bad, to be loaded in pages of four."""
    monkeypatch.setattr(recipients, "PAGE_ROWS", 4)
    path = tmp_path / "people.csv"
    rows = [f"55119{80000000 + n};Ana" for n in range(10)]
    rows[1], rows[6] = "1;Bad", "2;Bad"
    path.write_text("to;nome\n" + "\n".join(rows) + "\n")
    file = campaign_file()
    app, _ = apps.configure(session, "loja", gs_app_id="app-1")
    opened = recipient_files.open_rows(path, {})
    campaign, loaded = campaigns.create(
        session, app, file, audience_name=path.name, audience_digest=opened.digest, now=now
    )
    session.commit()
    return campaign, loaded, recipients.Reader(file, opened.columns, now, ZONE), opened


def test_a_page_whose_rejects_cannot_be_written_is_not_kept(session, loading):
    campaign, loaded, reader, opened = loading
    pages = []

    def disk_full(page):
        pages.append(page)
        if len(pages) == 2:
            raise InputError("The rejects cannot be written")

    with pytest.raises(InputError):
        recipients.load(session, campaign, loaded, reader, opened, after_page=disk_full)
    session.rollback()
    session.expire_all()
    assert session.scalars(select(Message.line).order_by(Message.line)).all() == [2, 4, 5]
    assert session.scalars(select(Import.next_line)).one() == 6
    assert session.scalars(select(Campaign.state)).one() == "importing"


def test_each_page_tells_what_became_of_its_rows(session, loading):
    campaign, loaded, reader, opened = loading
    pages = []
    total = recipients.load(session, campaign, loaded, reader, opened, after_page=pages.append)
    assert [(page.accepted, page.rejected, [one.line for one in page.rejects]) for page in pages] == [
        (3, 1, [3]), (3, 1, [8]), (2, 0, [])
    ]  # fmt: skip
    assert (total.accepted, total.rejected, total.duplicates) == (8, 2, 0)
    assert (loaded.next_line, loaded.accepted, loaded.rejected, loaded.state) == (12, 8, 2, "done")


def test_a_file_that_is_changed_while_it_is_imported_stops_the_import(session, loading):
    campaign, loaded, reader, opened = loading

    def change(_page):
        with opened.path.open("a") as stream:
            stream.write("5511999998888;Zoe\n")

    with pytest.raises(InputError, match="was changed while it was read"):
        recipients.load(session, campaign, loaded, reader, opened, after_page=change)
    session.rollback()
    assert session.scalars(select(Campaign.state)).one() == "importing"
