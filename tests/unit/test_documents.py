"""What the documents say is so: commands parse, options, settings, keys, filters, files and links exist, both ways."""

import json
import re
import shlex
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import typer
import yaml

from disparo import bounds, campaigns, document, messages, phone, pix, recipient_files, recipients, rendering
from disparo.cli import cli, demo, up
from disparo.sandbox import __main__ as sandbox_main
from disparo.settings import PREFIX, Settings

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
CAMPAIGN_FILE = (ROOT / "docs" / "campaign-file.md").read_text(encoding="utf-8")
RENDERING = (ROOT / "docs" / "rendering.md").read_text(encoding="utf-8")
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
ZONE = ZoneInfo("America/Sao_Paulo")


def shown_commands(text: str) -> list[list[str]]:
    """The commands of the console blocks, as words."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        joined = block.replace("\\\n", " ")
        found += [shlex.split(line[2:]) for line in joined.splitlines() if line.startswith("$ ")]
    return found


def table(text: str, title: str) -> Iterator[list[str]]:
    """The rows of the table whose first header is ``title``, as cells."""
    lines = text.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(f"| {title} |"))
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip("|").split("|")]


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command of ours that the words name, and its arguments."""
    command, rest = typer.main.get_command(cli), list(words)
    while hasattr(command, "commands"):
        assert rest, f"disparo {' '.join(words)}: a group, not a command"
        assert rest[0] in command.commands, f"there is no command disparo {' '.join(words)}"
        command = command.commands[rest.pop(0)]
    return command, rest


def all_commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    command = command or typer.main.get_command(cli)
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, below in command.commands.items():
        yield from all_commands(below, (*path, name))


def check(words: list[str]) -> None:
    program, *rest = words
    if program == "disparo":
        command, arguments = command_of(rest)
        command.make_context(" ".join(words), arguments)
    elif program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in rest)
    elif rest[:2] == ["-m", "disparo.sandbox"]:
        sandbox_main._parser().parse_args(rest[2:])
    elif program in ("celery", "uvicorn"):
        assert words in started_by_up(), "not as `disparo up` starts it"
    elif program == "docker":
        services = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
        if "exec" in rest:
            service, *inside = rest[rest.index("exec") + 1 :]
            assert service in services
            check(inside)
    else:
        assert program in ("export", "curl"), f"{program}: nobody checks this command"


def started_by_up() -> list[list[str]]:
    connections: Any = SimpleNamespace(
        settings=SimpleNamespace(home=Path("home")), environment=SimpleNamespace(values={})
    )
    children = up._children(connections, 1, up.WEB_PORT)
    return [list(child.argv[2:]) for child in children if child.argv[:2] == [sys.executable, "-m"]]


def every_shown_command() -> list[Any]:
    return [
        pytest.param(words, id=f"{path.name}: {' '.join(words)[:60]}")
        for path in DOCUMENTS
        for words in shown_commands(path.read_text(encoding="utf-8"))
    ]


@pytest.mark.parametrize("words", every_shown_command())
def test_every_command_that_a_document_shows_is_one_that_exists_with_these_options(words: list[str]) -> None:
    check(words)


def test_a_wrong_option_a_wrong_command_and_an_unchecked_program_would_be_noticed() -> None:
    with pytest.raises(Exception, match="No such option"):
        check(["disparo", "send", "--nowait", "x"])
    for words in (["disparo", "campaign", "fly"], ["make", "coffee"], ["rm"], ["celery", "worker"]):
        with pytest.raises(AssertionError):
            check(words)


def test_readme_starts_every_process_by_hand_as_up_does() -> None:
    shown = [words for words in shown_commands(README) if words[0] in ("celery", "uvicorn")]
    assert sorted(shown) == sorted(started_by_up())
    deployment = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    for words in started_by_up():
        assert f"`{shlex.join(words)}`" in deployment


def test_the_next_steps_of_the_demo_are_commands_that_exist() -> None:
    for shown, _ in demo.NEXT:
        check(shlex.split(shown))


@pytest.mark.parametrize(("path", "command"), [pytest.param(p, c, id=" ".join(p)) for p, c in all_commands()])
def test_commands_md_shows_every_command_and_every_option(path: tuple[str, ...], command: Any) -> None:
    assert any(words[1 : len(path) + 1] == list(path) for words in shown_commands(COMMANDS))
    options = [name for one in command.params if one.param_type_name == "option" for name in one.opts]
    for name in options:
        assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", COMMANDS), f"{name} is not described"


def test_readme_lists_every_setting_with_its_default_and_none_besides() -> None:
    rows = {re.findall(r"`([A-Z_<>]+)`", row[0])[0]: row for row in table(README, "variable")}
    assert set(rows) - {"DISPARO_TOKEN_<APP>"} == {PREFIX + name.upper() for name in Settings.model_fields}
    for name, info in Settings.model_fields.items():
        if info.default is not None and not info.is_required():
            assert rows[PREFIX + name.upper()][1] == f"`{info.default}`"


def test_the_campaign_file_page_lists_every_key_with_its_default_and_none_besides() -> None:
    rows = {name: row for row in table(CAMPAIGN_FILE, "key") for name in re.findall(r"`(\w+)`", row[0])}
    assert set(rows) == set(campaigns.CampaignFile.model_fields)
    for name, info in campaigns.CampaignFile.model_fields.items():
        if info.is_required():
            assert rows[name][1] == "required"
        elif isinstance(info.default, str | int):
            assert rows[name][1] == f"`{str(info.default).lower()}`"


def filters() -> list[list[str]]:
    """The rows of the filters' table: names, example, value, result."""
    rows = table(RENDERING.replace("\\|", "\0"), "filter")
    return [[cell.replace("\0", "|") for cell in row] for row in rows]


def test_the_rendering_page_names_every_filter_and_none_besides() -> None:
    named = [name for row in filters() for name in re.findall(r"`([^`]+)`", row[0])]
    assert sorted(named) == sorted(bounds.FILTERS)


@pytest.mark.parametrize("row", filters(), ids=lambda row: row[1])
def test_every_example_of_a_filter_gives_what_the_page_says(row: list[str]) -> None:
    _, example, value, expected = (cell.strip("`") for cell in row)
    found = rendering.compile_content({"v": example}).render({"x": json.loads(value)})["v"]
    assert json.dumps(found) == json.dumps(json.loads(expected))


def test_the_other_placeholders_of_the_rendering_page_are_filled() -> None:
    (shown,) = re.findall(r"^```yaml\n(.*?)^```", RENDERING, re.DOTALL | re.MULTILINE)
    filled = rendering.compile_content(document.load(None, shown, "page")).render(
        {"nome": "ANA LIMA", "valor": "812,50", "vencimento": "2026-12-05"}
    )
    parameters = filled["message"]["template"]["components"][0]["parameters"]
    assert [one["text"] for one in parameters] == ["Ana", "R$ 812,50", "05 de dezembro"]
    (loop,) = re.findall(r"^```jinja\n(.*?)^```", RENDERING, re.DOTALL | re.MULTILINE)
    items = [{"nome": "BOLO DE ROLO", "centavos": 1990}, {"nome": "café", "centavos": 500}]
    found = rendering.compile_content({"v": loop}).render({"vip": "sim", "nome": "ana", "itens": items})["v"]
    assert found == "Olá, Ana!\n1. Bolo de Rolo: R$ 19,90\n2. Café: R$ 5,00\n\n"


def test_the_campaign_that_the_page_shows_is_valid() -> None:
    (shown,) = re.findall(r"^```yaml\n(.*?)^```", CAMPAIGN_FILE, re.DOTALL | re.MULTILINE)
    assert campaigns.parse_file(document.load(None, shown, "page"), "page").name == "black-friday"


def test_readme_names_the_reason_of_every_dependency() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (required,) = re.findall(r"^dependencies = \[\n(.*?)^\]", pyproject, re.DOTALL | re.MULTILINE)
    (embedded,) = re.findall(r"^embedded = \[(.*?)\]$", pyproject, re.MULTILINE)
    packages = set(re.findall(r'"([a-z0-9-]+)', required + embedded))
    named = {name for row in table(README, "package") for name in re.findall(r"[a-z0-9-]+", row[0])}
    assert packages <= named
    assert named - packages == {"with", "hiredis"}


PATHS = re.compile(
    r"(?<![\w./-])(?:disparo|worker|scheduler|web|migrations|tests|docs|examples|requirements|\.ci)/[\w./-]*\w"
)
#: Made by a run, or by the build of the wheel.
MADE = {"examples/black-friday.rejects.csv", "disparo/_migrations"}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_a_document_names_exists(path: Path) -> None:
    named = {name for name in PATHS.findall(path.read_text(encoding="utf-8")) if name not in MADE}
    assert {name for name in named if not (ROOT / name).exists()} == set()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_to_a_file(path: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))
    local = [link.split("#")[0] for link in links if not link.startswith("https://")]
    assert [link for link in local if not (path.parent / link).is_file()] == []


def test_readme_follows_a_message_through_files_that_exist() -> None:
    (path,) = re.findall(r"## The path of one message\n+```\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    assert len(set(PATHS.findall(path))) >= 14
    for step in ("permits", "claim", "still wanted?", "journal", "POST", "verdict", "record"):
        assert re.search(rf"^ +\d  {re.escape(step)} ", path, re.MULTILINE), step


@pytest.mark.parametrize(
    "path", sorted((ROOT / "examples" / "messages").iterdir()), ids=lambda path: path.name
)
def test_every_example_message_keeps_the_rules(path: Path) -> None:
    content = messages.compose(document.load(path, None, path.name), phone.parse("5511999998888"))
    assert content["to"] == "5511999998888"


@pytest.mark.parametrize(
    ("kind", "file", "audience", "good", "refused"),
    [
        (
            recipients.Reader,
            ROOT / "examples/black-friday.yaml",
            ROOT / "examples/recipients.csv",
            4,
            {"no_ddd": 1},
        ),
        (pix.ChargeReader, ROOT / "examples/school-fees.yaml", ROOT / "examples/charges.csv", 4, {}),
        (pix.ChargeReader, demo.FILES / "school-fees.yaml", demo.FILES / "charges.csv", 12, {"bad_value": 1}),
    ],
)
def test_the_example_lists_fit_their_campaigns(
    kind: type[recipients.Reader], file: Path, audience: Path, good: int, refused: dict[str, int]
) -> None:
    parsed = campaigns.parse_file(document.load(file, None, file.name), file.name)
    opened = recipient_files.open_rows(audience, parsed.columns)
    reader = kind(parsed, opened.columns, NOW, ZONE)
    read = [reader.read(row) for row in opened.rows()]
    reasons = [row.reason for row in read if isinstance(row, recipients.Reject)]
    assert sum(isinstance(row, recipients.Recipient) for row in read) == good
    assert {reason: reasons.count(reason) for reason in reasons} == refused


def recorded(status: str, gs_id: str | None, recipient: str = "551") -> demo.Recorded:
    return demo.Recorded("black-friday", status, None, 1, gs_id, recipient)


@pytest.mark.parametrize(
    ("messages", "accepted", "account"),
    [
        pytest.param([recorded("accepted", "a")], [("a", "551")], demo.Account(0, 0, 0, 0), id="all is well"),
        pytest.param(
            [recorded("accepted", "b")], [], demo.Account(1, 0, 0, 0), id="an id that was never given"
        ),
        pytest.param([recorded("pending", None)], [], demo.Account(1, 0, 0, 0), id="no outcome"),
        pytest.param(
            [recorded("accepted", "a")],
            [("a", "551"), ("b", "551")],
            demo.Account(0, 1, 0, 0),
            id="sent twice",
        ),
        pytest.param(
            [recorded("unknown", None), recorded("unknown", None, "552")],
            [("a", "551")],
            demo.Account(0, 0, 2, 1),
            id="unknown, one of them accepted",
        ),
        pytest.param(
            [recorded("unknown", None)],
            [("a", "551"), ("b", "551")],
            demo.Account(0, 1, 1, 1),
            id="unknown and sent twice",
        ),
        pytest.param(
            [recorded("failed", None)], [("a", "551")], demo.Account(0, 1, 0, 0), id="failed, yet accepted"
        ),
    ],
)
def test_the_demo_holds_its_books_against_those_of_the_sandbox(
    messages: list[demo.Recorded], accepted: list[tuple[str, str]], account: demo.Account
) -> None:
    assert demo.compare(messages, [{"id": one, "to": to} for one, to in accepted]) == account
