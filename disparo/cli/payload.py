"""``disparo payload``: messages checked before anything is sent, and an example of every type."""

import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from disparo.cli.output import FAILED, JSON, counted, print_example, print_json, print_wrapped, printable, say
from disparo.errors import Fault, InputError

if TYPE_CHECKING:
    from disparo.whatsapp.examples import Example

cli = typer.Typer(no_args_is_help=True)

#: How pages write a recipient that is to be filled in: {{TO}}, <PHONE>, $TO, PHONE_NUMBER, 91785876xxxx; and the
#: numbers that are kept free for examples in the United States and the United Kingdom.
_STANDS_FOR_A_PHONE = re.compile(
    r"\{\{.*\}\}|[<\[{].*[>\]}]|\$\w+|[A-Z]+(_[A-Z]+)*|\+?[0-9 -]*[xX]{2,}[0-9xX -]*"
    r"|1555[0-9]{7}|1[0-9]{3}555[0-9]{4}|447700900[0-9]{3}"
)


@cli.command()
def check(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE", help="Messages as `send` takes them (JSON or YAML); - for stdin."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON for each file.")] = False,
) -> None:
    """Check whole messages by WhatsApp's rules, without sending them: exit 0 when all may be sent."""
    valid = 0
    for file in files:
        result = checked(file)
        valid += result["valid"]
        if as_json:
            sys.stdout.write(json.dumps(result, ensure_ascii=False) + "\n")
            sys.stdout.flush()
        else:
            _print_result(result)
    if len(files) > 1 and not as_json:
        say(f"{counted(len(files), 'file')}: {valid:,} ok, {len(files) - valid:,} refused")
    if valid < len(files):
        raise typer.Exit(FAILED)


def checked(file: str) -> dict[str, Any]:
    """What there is to say of a message file, as ``payload check --json`` prints it."""
    from disparo.whatsapp import payloads

    kind: str | None = None
    errors: list[Fault] = []
    warnings: list[Fault] = []
    try:
        given = _read(file)
        envelope, message = payloads.split(given)
        kind = payloads.kind(message)
        errors, warnings = _judged(envelope, message)
        if payloads.is_raw(given):
            # What it breaks is told, and holds nothing up.
            errors, warnings = [], [*errors, *warnings]
    except InputError as err:
        errors = [Fault("", str(err))]
    return {
        "file": file,
        "valid": not errors,
        "type": kind,
        "errors": [asdict(fault) for fault in errors],
        "warnings": [asdict(fault) for fault in warnings],
    }


def _read(file: str) -> dict[str, Any]:
    """The message of a file, as it stands there."""
    from disparo import document

    # As bytes, so that what is not UTF-8 is told with its line.
    path, name = (Path("/dev/stdin"), "stdin") if file == "-" else (Path(file), file)
    given: Any = document.load(path, None, name)
    if not isinstance(given, dict):
        raise InputError(
            f'{name}: a message is an object, such as {{"type": "text", "text": {{"body": "Olá"}}}}'
        )
    if isinstance(given.get("message"), dict) and "type" not in given:
        raise InputError(
            f"{name}: a campaign file, not a message; check it with `disparo campaign check {name} RECIPIENTS`"
        )
    return given


def _judged(envelope: dict[str, Any], message: dict[str, Any]) -> tuple[list[Fault], list[Fault]]:
    """Errors and warnings of a message."""
    from disparo.messages import unfilled
    from disparo.whatsapp import payloads

    errors, warnings = _recipient(envelope)
    # The recipient is another one in a campaign, or with --to.
    holes = unfilled(
        {key: value for key, value in (envelope | message).items() if key not in ("to", "recipient")}
    )
    paths = {hole.path for hole in holes}
    # That a placeholder is no number, or no known word, is not what is wrong with it.
    found = [*payloads.check_envelope(envelope, message), *payloads.check(message)]
    errors += [*holes, *(fault for fault in found if fault.path not in paths)]
    return errors, [*warnings, *payloads.warnings(message)]


def _recipient(envelope: dict[str, Any]) -> tuple[list[Fault], list[Fault]]:
    """What is wrong, or odd, about ``to``; a file need not have one."""
    from disparo import phone

    to = envelope.get("to")
    if to is None or envelope.get("recipient_type") == "group":
        return [], []
    try:
        phone.parse(to)
    except InputError as err:
        if isinstance(to, str) and _STANDS_FOR_A_PHONE.fullmatch(to.strip()):
            warning = "stands for a phone number; give one with --to when it is sent"
            return [], [Fault("to", warning, to[:60])]
        return [Fault("to", str(err))], []
    return [], []


def _print_result(result: dict[str, Any]) -> None:
    errors, kind = result["errors"], f" ({result['type']})" if result["type"] else ""
    file = printable(result["file"])
    say(f"{file}: ok{kind}" if not errors else f"{file}: {counted(len(errors), 'error')}{kind}")
    for fault in errors:
        print_fault(fault)
    for fault in result["warnings"]:
        print_fault(fault, "warning: ")


def print_fault(fault: dict[str, Any], mark: str = "", before: str = "  ") -> None:
    """Path and sentence, and below them what else is known: value, limit, source."""
    path = f"{fault['path']}: " if fault["path"] else ""
    print_wrapped(f"{mark}{path}{fault['message']}", before)
    print_known(fault, ("value", "limit", "source"), before + "  ")


def print_known(fault: dict[str, Any], names: Iterable[str], before: str) -> None:
    """What there is of value, limit and source, in a line; not what the sentence says already."""
    known = [(name, str(fault[name])) for name in names if fault[name]]
    shown = [
        (name, json.dumps(text, ensure_ascii=False) if name == "value" else text) for name, text in known
    ]
    left = [f"{name} {text}" for name, text in shown if text.strip('"') not in fault["message"]]
    if left:
        print_wrapped(" · ".join(left), before)


@cli.command()
def types(
    wanted: Annotated[
        str | None,
        typer.Argument(metavar="TYPE", help="Such as text, interactive.button, template or order_details."),
    ] = None,
    as_json: JSON = False,
) -> None:
    """List every type of message with its least example; with TYPE, those examples and their limits."""
    from disparo.whatsapp import examples

    found: Sequence[Example] = examples.EXAMPLES if wanted is None else examples.find(wanted)
    if not found:
        raise InputError(f"there is no type of message {wanted!r}; `disparo payload types` lists them")
    if as_json:
        return print_json([_described(one) for one in found])
    if wanted is not None:
        return _print_examples(found)
    width = max(len(one.name) for one in found)
    for one in found:
        print_wrapped(one.says, f"{one.name:<{width}}  ")
    return say("\n`disparo payload types TYPE` shows examples and limits, with --json of all of them")


def _described(one: "Example") -> dict[str, Any]:
    from disparo.whatsapp import payloads

    return {
        "name": one.name,
        "type": payloads.kind(one.message),
        "says": one.says,
        "uncertain": one.uncertain or None,
        "limits": [{"path": path, "limit": limit} for path, limit in one.limits],
        "source": one.source,
        "example": one.document,
    }


def _print_examples(found: "Iterable[Example]") -> None:
    for place, one in enumerate(found):
        say(f"{chr(10) if place else ''}{one.name}")
        print_wrapped(one.says, "  ")
        if one.uncertain:
            print_wrapped(f"not certain: {one.uncertain}", "  ")
        for path, limit in one.limits:
            print_wrapped(f"{path}: {limit}", "  - ")
        print_wrapped(f"source: {one.source}", "  ")
        print_example(one.document)
