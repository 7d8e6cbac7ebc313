"""``disparo codes``: the table as people and scripts read it."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from disparo.statuses import Verdict
from disparo.whatsapp.codes import RULES, Override
from tests.commands import printed

PAGE = (Path(__file__).parent.parent.parent / "docs" / "codes.md").read_text(encoding="utf-8")


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """``run("131049")``: what ``disparo codes 131049`` prints; the home is ``tmp_path``."""
    monkeypatch.setenv("DISPARO_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: str, code: int = 0) -> str:
        out, err = printed(monkeypatch, capsys, "codes", *arguments, code=code)
        return out if code == 0 else err

    return run


def change(home: Path, content: str) -> None:
    (home / "codes.yaml").write_text(content)


def test_the_table_shows_every_row_within_80_columns(run: Callable[..., str]) -> None:
    lines = run().splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["code", "verdict", "scope", "tries,", "waits"]
    rows = [line.split()[0] for line in lines[1:] if not line.startswith("    ")]
    assert rows == [rule.code for rule in RULES]
    assert "  131056                retry              recipient      6 tries, 1 s to 1 h" in lines
    assert "  134011                sender_stop        lane payment" in lines
    assert "      Too many messages to the same recipient in a short time." in lines
    assert "      → Nothing to do: it is tried again by itself." in lines
    assert not any("[Meta" in line for line in lines)
    assert sum("[Meta" in line for line in run("--verbose").splitlines()) > 50


def test_changed_and_added_rows_are_marked(run: Callable[..., str], tmp_path: Path) -> None:
    change(
        tmp_path,
        "131049: {verdict: retry, base_seconds: 86400}\n131099: {verdict: unknown}\n130429: {factor: 2}",
    )
    lines = run().splitlines()
    assert [line.split()[1] for line in lines[:-1] if line.startswith("*")] == ["131049", "131099"]
    assert lines[-1] == f"* 2 of {len(RULES) + 1} rows are as {tmp_path / 'codes.yaml'} has them"


def test_one_code_is_shown_in_full_with_what_was_changed(run: Callable[..., str], tmp_path: Path) -> None:
    change(tmp_path, "131049: {verdict: retry, attempts: 2, base_seconds: 86400, hint: Wait a day.}")
    fields = dict(
        re.split(r"\s{2,}", line, maxsplit=1) for line in run("131049").splitlines() if line[0] != " "
    )
    assert fields["verdict"] == "retry (built in: recipient_defer)"
    assert fields["attempts"] == "2 (built in: 1)"
    assert fields["base_seconds"] == "86400 (built in: 0)"
    assert fields["hint"].startswith("Wait a day. (built in: Nothing to correct.")
    assert fields["factor"] == "2"
    assert fields["source"].startswith("Meta")


@pytest.mark.parametrize(
    ("asked", "rows"),
    [
        ("250", ["200-299"]),
        ("131999", ["131xxx"]),
        ("999999", ["unlisted_4xx", "unlisted_5xx"]),
        ("500", ["500"]),
        ("503", ["unlisted_5xx", "bad_gateway"]),
        ("http_500", ["unlisted_5xx", "server_error"]),
        ("429", ["too_many_requests"]),
        ("http_200", ["no_id"]),
        ("Invalid App Details of this one", ["invalid_app"]),
        ("no_answer", ["no_answer"]),
    ],
)
def test_a_code_is_answered_with_the_rows_that_it_can_get(
    run: Callable[..., str], asked: str, rows: list[str]
) -> None:
    found = json.loads(run(asked, "--json"))
    assert [row["code"] for row in found] == rows
    assert all(bool(row["when"]) == (len(rows) > 1) for row in found)
    shown = run(asked)
    assert all(f"code             {row}" in shown for row in rows)
    assert shown.startswith("no row lists") == (not found[0]["listed"])
    assert max(map(len, shown.splitlines())) <= 80


def test_json_is_one_document_with_source_and_what_was_changed(
    run: Callable[..., str], tmp_path: Path
) -> None:
    change(tmp_path, "131049: {verdict: retry}\n131099: {verdict: unknown}")
    rows = {row["code"]: row for row in json.loads(run("--json"))}
    assert list(rows) == [*(rule.code for rule in RULES), "131099"]
    changed = rows["131049"]
    assert (changed["overridden"], changed["built_in"]["verdict"]) == (True, "recipient_defer")
    assert (rows["131099"]["overridden"], rows["131099"]["built_in"]) == (True, {})
    assert (rows["131050"]["overridden"], rows["131050"]["built_in"]) == (False, {})
    assert rows["131050"]["source"].startswith("Meta")
    (alone,) = json.loads(run("131049", "--json"))
    assert alone == changed | {"when": None}


def test_a_wrong_file_is_one_sentence(run: Callable[..., str], tmp_path: Path) -> None:
    change(tmp_path, "no_answer: {verdict: retry}")
    told = run(code=1)
    assert told.startswith(f"disparo: {tmp_path / 'codes.yaml'}, code no_answer, verdict: it stays unknown")
    assert told.count("\n") == 1


def test_the_page_shows_what_the_commands_print(run: Callable[..., str], tmp_path: Path) -> None:
    (file,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    change(tmp_path, file)
    shown = re.findall(r"^\$ (disparo codes.*)\n((?:(?!\$ |```).*\n)*)", PAGE, re.MULTILINE)
    assert len(shown) >= 4
    assert sum(bool(output) for _, output in shown) >= 2
    for command, output in shown:
        printed = run(*shlex.split(command)[2:])
        assert not output or printed == output


def first_column(title: str) -> set[str]:
    """What the first cells of the page's table under ``title`` name."""
    (rows,) = re.findall(rf"^\| {title} \|.*\n\| ---.*\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return {name for row in rows.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])}


def test_the_page_names_every_verdict_every_field_and_every_row_that_stays() -> None:
    assert first_column("verdict") == set(Verdict)
    assert first_column("field") == {field.name for field in fields(Override)}
    stays = PAGE.split("## What stays")[1]
    fixed = [rule.code for rule in RULES if rule.own or rule.verdict is Verdict.UNKNOWN]
    assert [code for code in fixed if f"`{code}`" not in stays] == []


def test_it_needs_no_server_and_loads_none_of_the_heavy_packages(tmp_path: Path) -> None:
    code = (
        "import sys; from disparo.cli import main\n"
        "try:\n    main()\nfinally:\n"
        "    print(sorted({'celery', 'sqlalchemy', 'redis', 'requests'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "codes", "--json"],
        env={"DISPARO_HOME": str(tmp_path), "DISPARO_DATABASE_URL": "postgresql://127.0.0.1:9/none"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert len(json.loads(done.stdout)) == len(RULES)
    assert done.stderr == "[]\n"
    assert list(tmp_path.iterdir()) == []
