"""``disparo payload``: what is said of good and bad files, for people and for scripts."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from disparo.sandbox import envelope
from disparo.whatsapp.examples import EXAMPLES
from tests.commands import printed

ROOT = Path(__file__).parent.parent.parent
TEXT = {"type": "text", "text": {"body": "Olá"}}
KEYS = ["file", "valid", "type", "errors", "warnings"]

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """``run("check", "a.json")``: what ``disparo payload`` prints, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISPARO_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: str, code: int = 0) -> str:
        out, err = printed(monkeypatch, capsys, "payload", *arguments, code=code)
        return out or err

    return run


def written(name: str, content: Any) -> str:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    Path(name).write_bytes(text)
    return name


def judged(run: Run, content: Any, *, valid: bool = False) -> dict[str, Any]:
    """The line of a file with this content."""
    line = run("check", "--json", written("message.json", content), code=0 if valid else 1)
    found: dict[str, Any] = json.loads(line)
    assert list(found) == KEYS
    assert found["valid"] == valid
    return found


def test_good_files_are_ok_with_their_type_and_exit_zero(run: Run) -> None:
    examples = sorted(map(str, (ROOT / "examples" / "messages").iterdir()))
    lines = run("check", *examples).splitlines()
    assert [line.rsplit("/", 1)[1] for line in lines[:-1]] == [
        "cart-reminder.json: ok (template)",
        "pix-template.json: ok (template order_details)",
        "pix.json: ok (interactive order_details)",
        "products-template.json: ok (template mpm)",
        "reply-buttons.json: ok (interactive button)",
        "text.json: ok (text)",
    ]
    assert lines[-1] == "6 files: 6 ok, 0 refused"


def test_json_is_one_line_for_each_file_whatever_it_holds(run: Run) -> None:
    files = [
        written("good.json", TEXT),
        written("long.json", {"type": "text", "text": {"body": "a" * 4097}}),
        written("comma.json", b'{"type": "text",\n "text": {"body": "a",}}'),
        "missing.json",
        written("good.yaml", b"type: text\ntext: {body: ol\xc3\xa1\n  voc\xc3\xaa}\n"),
    ]
    lines = [json.loads(line) for line in run("check", "--json", *files, code=1).splitlines()]
    assert [(line["file"], line["valid"], line["type"]) for line in lines] == [
        ("good.json", True, "text"),
        ("long.json", False, "text"),
        ("comma.json", False, None),
        ("missing.json", False, None),
        ("good.yaml", True, "text"),
    ]
    (long,) = lines[1]["errors"]
    assert long == {
        "path": "text.body",
        "message": "has 4097 characters; 4096 are allowed",
        "value": "a" * 59 + "…",
        "limit": "4096",
        "source": "Gupshup, V3 passthrough, Text Message",
    }
    (comma,) = lines[2]["errors"]
    assert comma["path"] == ""
    assert "comma.json, line 2, column " in comma["message"]
    assert lines[3]["errors"][0]["message"] == "missing.json: there is no such file."


def test_errors_are_shown_with_value_limit_and_source_within_80_columns(run: Run) -> None:
    title = "a" * 20 + "\x1b[2J"
    button = {"type": "reply", "reply": {"id": "1", "title": title}}
    content = {"type": "button", "body": {"text": "Oi"}, "action": {"buttons": [button]}}
    shown = run("check", written("b.json", {"type": "interactive", "interactive": content}), code=1)
    assert shown.splitlines()[:2] == [
        "b.json: 1 error (interactive button)",
        "  interactive.action.buttons[0].reply.title: has 24 characters; 20 are allowed",
    ]
    assert 'value "aaaaaaaaaaaaaaaaaaaa\\u001b[2J" · source' in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= 80


def test_a_placeholder_is_said_to_be_one_where_it_stands_and_nothing_else_is_said_of_it(run: Run) -> None:
    document = dict(EXAMPLES[-1].document)
    content = {
        "type": "text",
        "text": {"body": "Oi {{ nome }}", "preview_url": "{{ ver }}"},
        "to": "{{ TO }}",
    }
    found = judged(run, content)
    assert [fault["path"] for fault in found["errors"]] == ["text.body", "text.preview_url"]
    assert found["errors"][0]["message"].startswith("{{ nome }} would be sent as it stands; write the value")
    assert [fault["path"] for fault in found["warnings"]] == ["to"]
    assert judged(run, document, valid=True)["warnings"] == []


@pytest.mark.parametrize(
    "to", ["{{DESTINATION_NUMBER}}", "<PHONE_NUMBER>", "PHONE_NUMBER", "91785876xxxx", "$TO", "15551234567"]
)
def test_a_recipient_as_pages_write_it_warns(run: Run, to: str) -> None:
    (warning,) = judged(run, {**TEXT, "to": to}, valid=True)["warnings"]
    assert warning["path"] == "to"
    assert warning["value"] == to


@pytest.mark.parametrize("to", ["abc", "123", "99999-8888", 12, ["5511999998888"]])
def test_a_recipient_that_is_no_phone_is_refused_without_showing_all_of_it(run: Run, to: Any) -> None:
    (fault,) = judged(run, {**TEXT, "to": to})["errors"]
    assert fault["path"] == "to"
    assert "99999-8888" not in fault["message"].removesuffix("as in 11 99999-8888.")


@pytest.mark.parametrize("to", ["5511999998888", "+55 (11) 99999-8888", 5511999998888, "16505551234"])
def test_a_recipient_in_any_spelling_is_fine(run: Run, to: Any) -> None:
    assert judged(run, {**TEXT, "to": to}, valid=True)["warnings"] == []


def test_the_envelope_is_checked_too(run: Run) -> None:
    envelope = {"messaging_product": "telegram", "biz_opaque_callback_data": "a" * 513}
    found = judged(run, {**TEXT, **envelope})
    assert {fault["path"] for fault in found["errors"]} == {"messaging_product", "biz_opaque_callback_data"}


def test_raw_lets_what_is_not_known_pass_and_still_tells_it(run: Run) -> None:
    hologram = {"type": "hologram", "hologram": {}}
    assert [fault["path"] for fault in judged(run, hologram)["errors"]] == ["type"]
    passed = judged(run, {"raw": True, **hologram}, valid=True)
    assert passed["type"] == "hologram"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"[1]", "a message is an object"),
        (b"", "the file is empty"),
        (
            b"name: a\napp: loja\nmessage: {type: text}\n",
            "`disparo campaign check message.json RECIPIENTS`",
        ),
        (b'{"type": "text", "text": {"body": "\xe9"}}', "line 1: byte 0xe9 is not UTF-8"),
        (b'{"type": "text", "type": "text"}', "stands twice"),
    ],
)
def test_what_is_no_message_is_told_in_a_sentence(run: Run, content: bytes, told: str) -> None:
    (fault,) = judged(run, content)["errors"]
    assert told in fault["message"]


def test_a_dash_is_standard_input(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "disparo", "payload", "check", "-"],
        input=json.dumps(TEXT), capture_output=True, text=True, timeout=60, check=True, cwd=tmp_path,
        env={**os.environ, "DISPARO_HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout.splitlines() == ["-: ok (text)"]


def test_types_lists_every_example_and_shows_one_in_full_within_80_columns(run: Run) -> None:
    listed = run("types")
    assert [one.name for one in EXAMPLES if f"\n{one.name}  " not in f"\n{listed}"] == []
    assert max(map(len, listed.splitlines())) <= 82
    shown = run("types", "interactive.button")
    assert shown.startswith("interactive button\n  Up to three buttons;")
    assert "  - interactive.action.buttons[].reply.title: 1 to 20 characters" in shown
    example = next(one.document for one in EXAMPLES if one.name == "interactive button")
    assert json.loads(shown[shown.index("\n{") :]) == example
    assert "there is no type of message 'hologram'" in run("types", "hologram", code=1)


def test_types_as_json_has_a_whole_message_for_each_type_that_check_and_sandbox_take(run: Run) -> None:
    found = json.loads(run("types", "--json"))
    assert [one["name"] for one in found] == [one.name for one in EXAMPLES]
    assert {"text", "interactive list", "template mpm"} <= {one["type"] for one in found}
    assert list(found[0]) == ["name", "type", "says", "uncertain", "limits", "source", "example"]
    for one in found:
        envelope.check(one["example"])
    files = [written(f"{place}.json", one["example"]) for place, one in enumerate(found)]
    assert run("check", *files).splitlines()[-1] == f"{len(files)} files: {len(files)} ok, 0 refused"
