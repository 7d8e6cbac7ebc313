"""``disparo codes``: the verdict table of this installation."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from disparo.cli.output import JSON, print_json, print_wrapped, say

if TYPE_CHECKING:
    from disparo.whatsapp.codes import Rule, Table


def codes(
    code: Annotated[
        str | None,
        typer.Argument(
            metavar="CODE", help="A code, an HTTP status, or the beginning of the provider's words."
        ),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show where each row comes from, too.")
    ] = False,
    as_json: JSON = False,
) -> None:
    """What each code means and what follows from it; with CODE, its row in full."""
    from disparo import overrides
    from disparo.settings import environment

    home = Path(environment().values["DISPARO_HOME"])
    table = overrides.load(home)
    asked = (code or "").strip()
    if asked:
        rows = [_described(rule) | {"when": when} for rule, when in _found(table, asked)]
    else:
        rows = [_described(rule) for rule in table.rules]
    if as_json:
        return print_json(rows)
    if asked:
        return _print_in_full(asked, rows)
    say("  code                  verdict            scope          tries, waits")
    for row in rows:
        _print_short(row, verbose)
    if changed := sum(row["overridden"] for row in rows):
        say(f"* {changed} of {len(rows)} rows are as {home / overrides.FILE} has them")
    return None


def _found(table: "Table", code: str) -> list[tuple["Rule", str | None]]:
    """The rows that an answer with ``code`` can get, and when; one, unless more than the code decides."""
    status = re.fullmatch(r"http_([1-5][0-9]{2})", code)
    if status is None and table.row(code) is None:
        # 300 to 599 are no codes of the provider, apart from those that have rows.
        status = re.fullmatch(r"([345][0-9]{2})", code)
        if by_text := table.lookup_text(code):
            return [(by_text, None)]
    if status:
        cases = [
            (table.lookup_status(int(status[1]), recognised=True), "its body is an error that is recognised"),
            (table.lookup_status(int(status[1]), recognised=False), "its body is anything else"),
        ]
    else:
        cases = [
            (table.lookup(code), "it comes with an HTTP 4xx that has no row of its own, or by webhook"),
            (table.lookup(code, http_status=500), "it comes with an HTTP 5xx"),
        ]
    return [(cases[0][0], None)] if cases[0][0] is cases[1][0] else [*cases]


def _described(rule: "Rule") -> dict[str, Any]:
    """A row as ``--json`` prints it; ``built_in`` holds what its changed fields are without ``codes.yaml``."""
    from disparo.whatsapp.codes import TABLE

    fields = _fields(rule)
    original = TABLE.row(rule.code)
    before = _fields(original) if original else {}
    built_in = {name: value for name, value in before.items() if value != fields[name]}
    return fields | {"overridden": original is None or bool(built_in), "built_in": built_in}


def _fields(rule: "Rule") -> dict[str, Any]:
    return {
        "code": rule.code,
        "listed": rule.listed,
        "verdict": rule.verdict,
        "session_verdict": rule.session_verdict,
        "scope": rule.scope,
        "scope_key": rule.scope_key,
        "attempts": rule.attempts,
        "base_seconds": rule.base_seconds,
        "cap_seconds": rule.cap_seconds,
        "factor": rule.factor,
        "heals": rule.heals,
        "probes": rule.probes,
        "probe_seconds": rule.probe_seconds,
        "probe_cap_seconds": rule.probe_cap_seconds,
        "meaning": rule.sentence,
        "hint": rule.hint,
        "texts": list(rule.texts),
        "source": rule.source,
    }


def _print_short(row: dict[str, Any], verbose: bool) -> None:
    mark = "*" if row["overridden"] else " "
    scope = f"lane {row['scope_key'] or ''}" if row["scope"] == "lane" else row["scope"]
    say(f"{mark} {row['code']:<21} {row['verdict']:<18} {scope:<14} {_pace(row)}".rstrip())
    print_wrapped(row["meaning"], " " * 6)
    if row["hint"]:
        print_wrapped(row["hint"], " " * 6 + "→ ")
    if verbose:
        print_wrapped(f"[{row['source']}]", " " * 6)


def _pace(row: dict[str, Any]) -> str:
    """``6 tries, 4 s to 1 h`` for a row that is tried again, else nothing."""
    never = row["attempts"] == 1 and not row["cap_seconds"]
    if row["verdict"] not in ("retry", "throttle") or (row["verdict"] == "retry" and never):
        return ""
    (least, least_unit), (most, most_unit) = _span(row["base_seconds"]), _span(row["cap_seconds"])
    if (least, least_unit) == (most, most_unit):
        waits = f"{most} {most_unit}"
    elif least_unit == most_unit:
        waits = f"{least} to {most} {most_unit}"
    else:
        waits = f"{least} {least_unit} to {most} {most_unit}"
    return f"{row['attempts']} tries, {waits}" if row["verdict"] == "retry" else waits


def _span(seconds: float) -> tuple[str, str]:
    for unit, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit and seconds % unit == 0:
            return f"{seconds / unit:g}", name
    return f"{seconds:g}", "s"


def _print_in_full(asked: str, rows: list[dict[str, Any]]) -> None:
    if not rows[0]["listed"]:
        say(f"no row lists {asked}; rows that stand for all such answers decide:")
    for row in rows:
        if row["when"]:
            say(f"\nwhen {row['when']}:")
        _print_row(row)


def _print_row(row: dict[str, Any]) -> None:
    """A field a line, under the names that ``codes.yaml`` has for them."""
    names = ["code", "verdict", "session_verdict", "scope", "scope_key"]
    if row["verdict"] == "retry":
        names.append("attempts")
    if row["verdict"] in ("retry", "throttle"):
        names += ["base_seconds", "cap_seconds", "factor"]
    for name in (*names, "meaning", "hint", "texts", "source"):
        if row[name]:
            was = f" (built in: {_value(row['built_in'][name])})" if name in row["built_in"] else ""
            print_wrapped(_value(row[name]) + was, f"{name:<15}  ")


def _value(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
