"""What commands print: JSON, tables and lines; and what they are connected to."""

import json
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import typer

if TYPE_CHECKING:
    from disparo.connections import Connections

JSON = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
By = Annotated[str | None, typer.Option("--by", help="Who does it; else the OS user.")]
Why = Annotated[str | None, typer.Option("--why", help="Kept with it.")]
Yes = Annotated[bool, typer.Option("--yes", help="Ask nothing.")]

#: Exit codes of waiting.
FAILED, NEEDS_A_PERSON = 1, 3


@contextmanager
def connected() -> Iterator["Connections"]:
    """The servers of the settings; an empty database is set up, any other must fit this code."""
    from disparo import log, schema
    from disparo.connections import connect

    with connect() as connections:
        log.configure(
            "warning" if connections.settings.log_level == "info" else connections.settings.log_level
        )
        schema.require_current(connections.engine, set_up_empty=True)
        yield connections


def announce(connections: "Connections", stops: Mapping[int, str | None] | None = None) -> None:
    """Have the workers look at what was just stored; without it they do so within a second.

    Args:
      stops: What Redis is to hand out for apps: the reason of each one's stop, or None where it may send.
    """
    from disparo.errors import RedisUnavailable

    try:
        connections.limiter.publish_stops(stops or {})
        connections.limiter.announce()
    except RedisUnavailable as err:
        note(f"warning: it is stored, and the workers learn of it when Redis is back: {err}")


def say(text: str) -> None:
    """A line of the result."""
    typer.echo(text)


def note(text: str) -> None:
    """A line about what is going on."""
    typer.echo(text, err=True)


def print_json(value: Any) -> None:
    """One JSON document."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2, default=str) + "\n")
    sys.stdout.flush()


def print_example(value: Any) -> None:
    """A JSON value for people, other people's texts in it included."""
    for line in json.dumps(value, ensure_ascii=False, indent=2).split("\n"):
        say(printable(line))


def print_fields(values: dict[str, Any], names: Sequence[str] | None = None) -> None:
    """Name and value, a line each; what is empty is left out."""
    shown = [(name, values[name]) for name in (names or values) if values.get(name) not in (None, "", [], {})]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        say(f"{name.replace('_', ' '):<{width}}  {value}")


def print_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Columns under a header, as wide as they need."""
    cells = [list(header), *([("" if cell is None else str(cell)) for cell in row] for row in rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(header))]
    for row in cells:
        say("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def print_stop(stop: dict[str, Any], zone: ZoneInfo) -> None:
    """What holds, since when, why, and what ends it; a line each."""

    def at(text: str) -> str:
        return f"{datetime.fromisoformat(text).astimezone(zone):%Y-%m-%d %H:%M:%S}"

    width = " ".join(filter(None, (stop["scope"], stop["key"])))
    say(f"  stopped: {width}, since {at(stop['since'])}, code {stop['code']}: {stop['reason']}")
    if stop["hint"]:
        say(f"    {stop['hint']}")
    if stop["probing"]:
        say("    one message is being tried")
    elif stop["next_probe_at"]:
        say(f"    tried by itself {counted(stop['probes'], 'time')}, next at {at(stop['next_probe_at'])}")


def print_wrapped(text: str, before: str) -> None:
    """``text`` behind ``before``, as wide as the terminal; commands in it stay whole, nothing in it moves the cursor."""
    width = max(40, min(100, shutil.get_terminal_size().columns))
    kept = re.sub(r"`[^`]*`", lambda command: command[0].replace(" ", "\0"), printable(text))
    lines = textwrap.wrap(
        kept, width, initial_indent=before, subsequent_indent=" " * len(before),
        break_on_hyphens=False, break_long_words=False,
    )  # fmt: skip
    for line in lines:
        say(line.replace("\0", " "))


# Control characters, line separators, and what turns the direction of writing.
_MOVES = re.compile("[\0-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """``text`` with all that moves the cursor as JSON writes it."""
    return _MOVES.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def minute(instant: str | None, zone: ZoneInfo) -> str:
    """An ISO instant as people of that zone read it; empty when there is none."""
    return f"{datetime.fromisoformat(instant).astimezone(zone):%Y-%m-%d %H:%M}" if instant else ""


def counted(n: int, what: str) -> str:
    """``1 row``, ``1,204 rows``."""
    return f"{n:,} {what}" + ("" if n == 1 else "s")


def duration(seconds: float | None) -> str:
    """``3 days 4 h``, ``3 h 28 min``, ``41 s``, or a dash."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400:,} days {whole % 86400 // 3600} h"


def waiting(status: dict[str, Any], zone: ZoneInfo) -> str:
    """What a campaign waits for, as its status tells, and until when; empty where that is not known."""
    until, budget = minute(status["until"], zone), status["budget"]
    match status["limited_by"]:
        case "window" if until:
            return f"it opens at {until}"
        case "budget" if budget["counting"]:
            return f"whom the apps of {budget['portfolio']} have written to is being counted"
        case "budget":
            used = f"{budget['used']:,} of {budget['limit']:,} recipients in 24 hours are used by {budget['portfolio']}"
            return f"{used}; the next at {until}" if until else used
        case "pair" if status["until"]:
            first = datetime.fromisoformat(status["until"]).astimezone(zone)
            return f"each waits for its recipient's turn, the first until {first:%Y-%m-%d %H:%M:%S}"
    return ""
