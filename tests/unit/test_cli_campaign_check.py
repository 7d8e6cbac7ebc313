"""``disparo campaign check``: every row as a launch would take it, without any server."""

import json
import re
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from disparo import campaigns
from disparo.cli import campaign_check
from disparo.recipient_files import Row
from disparo.recipients import Reader, Recipient
from tests.commands import printed

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples"
COMMANDS = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """``run("a.yaml", "a.csv")``: what ``disparo campaign check`` prints; no socket can be opened."""

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("campaign check opens a connection")

    for name, value in {
        "DISPARO_HOME": str(tmp_path / "home"),
        "DISPARO_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
        "DISPARO_REDIS_URL": "redis://127.0.0.1:1/0",
        "COLUMNS": "80",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(socket.socket, "connect", refused)

    def run(*arguments: object, code: int = 0) -> str:
        out, err = printed(monkeypatch, capsys, "campaign", "check", *map(str, arguments), code=code)
        assert not (tmp_path / "home").exists()
        return out or err

    return run


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """``make("to;nome\\n…")``: a campaign file and a list, as arguments."""

    def make(
        people: str, *, lane: str = "marketing", text: str = "Oi {{ nome }}", more: str = ""
    ) -> tuple[Path, Path]:
        file, audience = tmp_path / "campaign.yaml", tmp_path / "people.csv"
        message = json.dumps({"type": "text", "text": {"body": text}})
        file.write_text(
            f"name: natal\napp: loja\nlane: {lane}\n{more}\nmessage: {message}\n", encoding="utf-8"
        )
        audience.write_text(people, encoding="utf-8")
        return file, audience

    return make


Make = Callable[..., tuple[Path, Path]]


def told(run: Run, *arguments: object, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(*arguments, "--json", code=code))
    return found


def test_the_example_list_is_counted_as_the_launch_does_and_its_phones_are_masked(run: Run) -> None:
    shown = run(EXAMPLES / "black-friday.yaml", EXAMPLES / "recipients.csv", code=1)
    example = json.loads(shown[shown.index("{") : shown.index("\n}") + 2])
    assert shown.startswith("line 2 becomes\n{")
    assert example["to"] == "55119****1001"
    assert example["template"]["components"][0]["parameters"][0] == {"type": "text", "text": "Ana"}
    after = shown[shown.index("\n}") + 3 :]
    assert after.startswith("\nrefused\n  1 row: no_ddd, column to (Celular)\n    line 6: ")
    assert "99999-1004" not in shown
    assert "duplicates\n  line 5: duplicate of line 4\n" in after
    assert after.endswith("recipients.csv: 5 rows\n  good        3\n  refused     1\n  duplicates  1\n")
    assert max(map(len, after.splitlines()[:-4])) <= 80


def test_a_payment_campaign_is_read_as_charges_and_summed_and_its_codes_are_not_shown(run: Run) -> None:
    found = told(run, EXAMPLES / "school-fees.yaml", EXAMPLES / "charges.csv")
    assert (found["valid"], found["good"], found["sum_cents"]) == (True, 4, 351_100)
    assert found["type"] == "template order_details"
    assert "00020101…EAC0 (174 characters)" in json.dumps(found["example"], ensure_ascii=False)
    assert "br.gov.bcb.pix" not in json.dumps(found)
    assert "sum         R$ 3.511,00" in run(EXAMPLES / "school-fees.yaml", EXAMPLES / "charges.csv")


def test_a_payment_with_an_order_is_read_as_charges_whatever_its_columns(run: Run, make: Make) -> None:
    file, audience = make("to;key\n11999998888;a\n")
    message = json.dumps({"pix": {"item": "A", "body": "Oi", "link": "https://pay.example/{{ key }}"}})
    file.write_text(f"name: natal\napp: loja\nlane: payment\nmessage: {message}\n", encoding="utf-8")
    assert "needs a column `reference`" in run(file, audience, code=1)


def test_json_has_the_documented_keys(run: Run, make: Make) -> None:
    documented = re.search(r"^`campaign check --json`: `(\{.*\})`\.$", COMMANDS, re.MULTILINE)
    assert documented is not None
    found = told(run, *make("to;nome\n11999998888;Ana\n1;Bia\n"), code=1)
    kinds = [*found["errors"], *(row for kind in found["errors"] for row in kind["rows"])]
    shown = {key for part in (found, found["example"], *kinds) for key in part}
    assert shown == set(re.findall(r'"(\w+)"', documented[1]))


def test_each_kind_of_error_has_its_path_its_column_and_its_first_rows(run: Run, make: Make) -> None:
    long = "x" * 5000
    rows = [f"1199999{n:04};{long if n % 2 else 'Ana'}" for n in range(10)] + ["1;Bia"]
    found = told(run, *make("to;nome\n" + "\n".join(rows) + "\n", text="{{ nome }}"), code=1)
    assert (found["rows"], found["good"], found["refused"], found["valid"]) == (11, 5, 6, False)
    payload, phone = found["errors"]
    assert (payload["reason"], payload["path"], payload["columns"], payload["count"]) == (
        "payload", "text.body", ["nome"], 5,
    )  # fmt: skip
    assert [row["line"] for row in payload["rows"]] == [3, 5, 7]
    assert payload["rows"][0]["limit"] == "4096"
    assert len(payload["rows"][0]["value"]) == 60
    assert (phone["reason"], phone["columns"], phone["rows"][0]["line"]) == ("too_short", ["to"], 12)


def test_what_cannot_be_filled_tells_path_and_column_too(run: Run, make: Make) -> None:
    arguments = make(
        "to;valor\n11999998888;1,50\n11999997777;abc\n11999996666;\n", text="R$ {{ valor | cents | brl }}"
    )
    (first, *_) = told(run, *arguments, code=1)["errors"]
    assert (first["reason"], first["path"], first["columns"]) == ("bad_value", "text.body", ["valor"])
    assert first["rows"][0]["line"] == 3


def test_a_warning_is_told_once_with_how_many_rows_have_it(run: Run, make: Make) -> None:
    file, audience = make("to;nome\n11999998888;a\n11999997777;b\n11999996666;c\n")
    content = {"type": "list", "body": {"text": "{{ nome }}" + "x" * 1030}, "action": {
        "button": "Ver", "sections": [{"rows": [{"id": "1", "title": "Um"}]}]}}  # fmt: skip
    file.write_text(
        f"name: natal\napp: loja\nmessage: {json.dumps({'type': 'interactive', 'interactive': content})}\n"
    )
    (warning,) = told(run, file, audience)["warnings"]
    assert (warning["path"], warning["count"], warning["columns"]) == ("interactive.body.text", 3, ["nome"])
    shown = run(file, audience)
    assert shown.count("has more than 1024 characters") == 1
    assert "  3 rows: warning, interactive.body.text, column nome\n" in shown


@pytest.mark.parametrize(
    ("lane", "more", "repeats"),
    [
        ("marketing", "", [4]),
        ("marketing", "dedupe: none", [5]),
        ("utility", "", [5]),
        ("marketing", "dedupe: key", [5]),
    ],
)
def test_duplicates_follow_the_file_and_do_not_make_it_fail(
    run: Run, make: Make, lane: str, more: str, repeats: list[int]
) -> None:
    people = "to;key;nome\n11999998888;a;Ana\n11999997777;b;Bia\n(11) 99999-8888;c;Ana\n11999996666;b;Bia\n"
    found = told(run, *make(people, lane=lane, more=more))
    lines = [one["line"] for one in found["repeats"]]
    # A key is unique for an app, whatever makes a duplicate.
    assert lines == sorted({*repeats, 5})
    assert (found["good"], found["duplicates"]) == (4 - len(lines), len(lines))


def test_a_repeated_row_takes_no_key_of_its_own(run: Run, make: Make) -> None:
    people = "to;key;nome\n11999998888;a;Ana\n11999998888;b;Ana\n11999997777;b;Bia\n"
    found = told(run, *make(people))
    assert [one["message"] for one in found["repeats"]] == ["duplicate of line 2"]
    assert found["good"] == 2


def test_phones_in_values_are_masked(run: Run, make: Make) -> None:
    found = told(run, *make("to;nome\n11999998888;" + "x" * 5000 + "\n", text="{{ to }} {{ nome }}"), code=1)
    assert found["errors"][0]["rows"][0]["value"].startswith("55119****8888 xxx")


def test_a_charge_with_the_code_of_another_reference_is_refused_and_an_odd_one_warned_of() -> None:
    file = campaigns.parse_file(
        {"name": "a", "app": "loja", "lane": "payment", "message": {"type": "text", "text": {"body": "Oi"}}},
        "a.yaml",
    )
    reader = Reader(file, ["to", "key"], datetime.now(UTC), ZoneInfo("America/Sao_Paulo"))
    tally = campaign_check.Tally(file, reader)
    for line, key, code in [(2, "a", "X"), (3, "b", "X"), (4, "b", "Y"), (5, "a", "X")]:
        found = reader.read(Row(line, {"to": "11999998888", "key": key}, [], None))
        assert isinstance(found, Recipient)
        tally.take(found._replace(bills=(("code", code),), warning="an odd name"))
    assert (tally.good, tally.refused, tally.duplicates) == (2, 1, 1)
    (kind,) = tally.described()["errors"]
    assert (kind["reason"], kind["rows"][0]["line"]) == ("code_used", 3)
    assert [(one["count"], one["rows"][0]["message"]) for one in tally.described()["warnings"]] == [
        (2, "an odd name")
    ]
    assert kind["rows"][0]["message"] == "the code is that of line 2, too: who pays it pays that one"


def test_raw_is_not_checked(run: Run, make: Make) -> None:
    found = told(run, *make("to;nome\n11999998888;" + "x" * 5000 + "\n", more="raw: true"))
    assert (found["valid"], found["warnings"]) == (True, [])


def test_hostile_cells_are_data_on_the_screen(run: Run, make: Make) -> None:
    shown = run(
        *make('to;nome\n11999998888;"{{ 7*7 }}\x1b[2J\u202e"\n1\x1b[2J;a\n', text="{{ nome }}"), code=1
    )
    assert not {"\x1b", "\u202e"} & set(shown)
    assert "{{ 7*7 }}" in shown


def test_kinds_beyond_the_limit_are_counted(run: Run, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign_check, "MOST_KINDS", 1)
    found = told(run, *make("to;nome\n1;a\n11999998888;" + "x" * 5000 + "\n"), code=1)
    assert (len(found["errors"]), found["untold"], found["example"]) == (1, 1, None)


@pytest.mark.parametrize(
    ("people", "more", "text", "sentence"),
    [
        ("", "", "Oi", "people.csv is empty"),
        ("to;nome\n", "", "Oi", "people.csv has a header but no rows"),
        (
            "to;nome\n11999998888;a\n",
            "",
            "{{ cupom }}",
            "but the recipients have no such column; there are: nome, to",
        ),
        ("nome\na\n", "", "Oi", "people.csv"),
        ("to\n11999998888\n", "colour: red", "Oi", "colour: no such setting; there are name, app"),
        ("to\n11999998888\n", "", "{{ nome", "text.body"),
        ("to\n11999998888\n", "at: 2020-01-01", "Oi", "The launch"),
        ("to\n11999998888\n", "not_after: 2020-01-01", "Oi", "not_after"),
        ("to\n11999998888\n", "dedupe: key", "Oi", "dedupe: key needs a column `key`"),
        ("to;reference\n11999998888;a\n", "lane: payment", "Oi", "needs a column `amount`"),
    ],
)
def test_wrong_input_is_one_sentence(
    run: Run, make: Make, people: str, more: str, text: str, sentence: str
) -> None:
    lane, more = ("payment", "") if more == "lane: payment" else ("marketing", more)
    shown = run(*make(people, lane=lane, more=more, text=text), code=1)
    assert shown.startswith("disparo: ")
    assert sentence in shown
    assert shown.count("\n") == 1


def test_a_file_that_is_not_there_is_one_sentence(run: Run, make: Make, tmp_path: Path) -> None:
    file, audience = make("to\n11999998888\n", text="Oi")
    assert run(tmp_path / "no.yaml", audience, code=1).endswith("no.yaml: there is no such file.\n")
    assert "no.csv does not exist" in run(file, tmp_path / "no.csv", code=1)
