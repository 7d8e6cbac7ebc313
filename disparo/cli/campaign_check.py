"""``disparo campaign check``: every row rendered and checked as a launch would, and nothing stored."""

import json
import re
import sys
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from disparo.cli.campaign_launch import read_file, when
from disparo.cli.output import FAILED, JSON, counted, print_example, print_json, print_wrapped, printable, say
from disparo.cli.payload import print_known
from disparo.errors import Fault, InputError
from disparo.phone import mask

if TYPE_CHECKING:
    from disparo.campaigns import CampaignFile
    from disparo.recipients import Reader, Recipient, Reject

#: Kinds of errors that are told apart, and rows shown of each.
MOST_KINDS, MOST_ROWS = 50, 3


def check(
    file: Annotated[Path, typer.Argument(help="The campaign file (YAML or JSON).")],
    recipients: Annotated[Path, typer.Argument(help="Who gets it: CSV or JSONL.")],
    as_json: JSON = False,
) -> None:
    """Render and check every row as a launch would, and store nothing: exit 0 when none is refused."""
    from disparo import recipient_files, settings

    parsed = read_file(file)
    now, zone = datetime.now(UTC), settings.load().zone
    when(parsed, None, now, zone)
    opened = recipient_files.open_rows(recipients, parsed.columns)
    reader = _reader(parsed, opened.columns, now, zone)
    tally = Tally(parsed, reader)
    with _Progress() as progress:
        for row in opened.rows():
            tally.take(reader.read(row))
            progress.show(tally.rows)
    if not tally.rows:
        raise InputError(f"{recipients}: has a header, but no rows")
    if as_json:
        print_json(tally.described())
    else:
        _print(tally, recipients)
    if tally.refused:
        raise typer.Exit(FAILED)


def _reader(parsed: "CampaignFile", columns: list[str], now: datetime, zone: Any) -> "Reader":
    """That of a launch; of payments without an order those with the columns of charges are for `pix send`."""
    from disparo import pix
    from disparo.statuses import Lane

    named = {"reference", "amount", "amount_cents"} & set(columns)
    return pix.reader(parsed, columns, now, zone, charges=parsed.lane is Lane.PAYMENT and bool(named))


@dataclass(slots=True)
class Kind:
    """Errors, or warnings, that are alike: how many rows have them, and the first ones."""

    reason: str
    path: str | None
    columns: list[str]
    count: int = 0
    rows: list[tuple[int, Fault]] = field(default_factory=list)

    def add(self, line: int, fault: Fault) -> None:
        self.count += 1
        if len(self.rows) < MOST_ROWS:
            self.rows.append((line, fault))

    def described(self) -> dict[str, Any]:
        rows = [{"line": line, **asdict(fault)} for line, fault in self.rows]
        return {
            "reason": self.reason,
            "path": self.path,
            "columns": self.columns,
            "count": self.count,
            "rows": rows,
        }


class Tally:
    """What the rows of a list come to."""

    def __init__(self, file: "CampaignFile", reader: "Reader") -> None:
        self._file, self._reader = file, reader
        self.headers = file.columns
        self.rows = self.good = self.refused = self.duplicates = 0
        self.cents: int | None = None
        self.example: tuple[int, dict[str, Any]] | None = None
        self.errors: dict[tuple[str, ...], Kind] = {}
        self.warnings: dict[tuple[str, ...], Kind] = {}
        self.repeats = Kind("duplicate", None, [])
        self.untold = 0
        # A hash of each key and recipient → the line that has it: 100 bytes a row are all that grows.
        self._taken: dict[int, int] = {}
        self._bills: dict[int, tuple[str | None, int]] = {}

    def take(self, found: "Recipient | Reject") -> None:
        """Count a row."""
        from disparo.recipients import Reject

        self.rows += 1
        if not isinstance(found, Reject):
            found = self._repeats_a_bill(found) or found
        if isinstance(found, Reject):
            self.refused += 1
            self._refuse(found)
            return
        # As in the database: a row that repeats one name of an earlier row takes no other name either.
        names = [
            hash((place, name))
            for place, name in enumerate((found.dedupe_key, found.key))
            if name is not None
        ]
        first = next((self._taken[name] for name in names if name in self._taken), None)
        if first is not None:
            self.duplicates += 1
            self.repeats.add(found.line, Fault("", f"duplicate of line {first}"))
            return
        self._taken.update(dict.fromkeys(names, found.line))
        self.good += 1
        if found.amount_cents is not None:
            self.cents = (self.cents or 0) + found.amount_cents
        self._look_at(found)

    def _repeats_a_bill(self, found: "Recipient") -> "Reject | None":
        """A charge whose code, or what it leads to, is that of another reference: one would pay the other's."""
        from disparo.recipients import Reject

        for kind, name in found.bills:
            reference, line = self._bills.setdefault(hash((kind, name)), (found.key, found.line))
            if reference != found.key:
                sentence = f"the {kind} is that of line {line}, too: who pays it pays that one"
                return Reject(found.line, "code_used", sentence, found.raw, column="code")
        return None

    def _look_at(self, found: "Recipient") -> None:
        """Keep the first message as an example, and what is odd about any."""
        from disparo.recipients import masked as masked_fault
        from disparo.whatsapp import payloads

        rendered, envelope = self._reader.fill(found)
        if self.example is None:
            whole = payloads.wire(found.recipient, rendered, envelope)
            self.example = found.line, masked(whole, found.recipient)
        if found.warning:
            self._add(self.warnings, "warning", found.line, masked_fault(Fault("", found.warning)))
        if not self._file.raw:
            for fault in payloads.warnings(rendered):
                self._add(self.warnings, "warning", found.line, masked_fault(fault))

    def _refuse(self, row: "Reject") -> None:
        faults = row.faults
        if not faults:
            # Rendering tells the path before its sentence.
            path, _, sentence = row.explanation.partition(": ")
            faults = (Fault(path, sentence) if path in self._reader.places else Fault("", row.explanation),)
        for fault in faults:
            self._add(self.errors, row.reason, row.line, fault, row.column)

    def _add(
        self,
        kinds: dict[tuple[str, ...], Kind],
        reason: str,
        line: int,
        fault: Fault,
        column: str | None = None,
    ) -> None:
        # Sentences of one rule differ in their numbers; those about cells in the cell, too.
        alike = (reason, fault.path, re.sub("[0-9]+", "0", fault.message) if fault.path else "")
        if alike not in kinds:
            if len(kinds) >= MOST_KINDS:
                self.untold += 1
                return
            kinds[alike] = Kind(
                reason, fault.path or None, [column] if column else self._reader.columns_at(fault.path)
            )
        kinds[alike].add(line, fault)

    def described(self) -> dict[str, Any]:
        """What ``campaign check --json`` prints."""
        from disparo.whatsapp import payloads

        _, message = payloads.split(self._file.message)
        line, example = self.example or (None, None)
        return {
            "campaign": self._file.name,
            "app": self._file.app,
            "lane": self._file.lane,
            "type": payloads.kind(message),
            "valid": not self.refused,
            "rows": self.rows,
            "good": self.good,
            "refused": self.refused,
            "duplicates": self.duplicates,
            "sum_cents": self.cents,
            "example": None if example is None else {"line": line, "message": example},
            "errors": [kind.described() for kind in self.errors.values()],
            "warnings": [kind.described() for kind in self.warnings.values()],
            "repeats": [{"line": line, "message": fault.message} for line, fault in self.repeats.rows],
            "untold": self.untold,
        }


def masked(message: Any, digits: str) -> Any:
    """A message for screens: without the recipient's number, PIX codes and boletos shortened."""
    if isinstance(message, str):
        return message.replace(digits, mask(digits))
    if isinstance(message, list):
        return [masked(item, digits) for item in message]
    if not isinstance(message, dict):
        return message
    shown = {key: masked(item, digits) for key, item in message.items()}
    for key in ("code", "digitable_line"):
        # The short ones are codes of languages and currencies.
        if isinstance(value := shown.get(key), str) and len(value) > 40:
            shown[key] = f"{value[:8]}…{value[-4:]} ({len(value)} characters)"
    return shown


class _Progress:
    """A line that counts, on terminals only, and gone at the end."""

    def __init__(self) -> None:
        self._shown, self._at = False, time.monotonic() + 1

    def __enter__(self) -> Self:
        return self

    def show(self, rows: int) -> None:
        if rows % 500 == 0 and sys.stderr.isatty() and time.monotonic() >= self._at:
            self._shown, self._at = True, time.monotonic() + 0.2
            sys.stderr.write(f"\r{rows:,} rows checked")
            sys.stderr.flush()

    def __exit__(self, *_: object) -> None:
        if self._shown:
            sys.stderr.write("\r" + " " * 40 + "\r")


def _print(tally: Tally, recipients: Path) -> None:
    from disparo.money import brl

    told = tally.described()
    # What matters comes last, since an example may be longer than the screen.
    if tally.example:
        line, message = tally.example
        say(f"line {line} becomes")
        print_example(message)
        say("")
    for title, kinds in (("warnings", tally.warnings), ("refused", tally.errors)):
        if kinds:
            say(title)
            for kind in kinds.values():
                _print_kind(kind, tally.headers)
            say("")
    if tally.untold:
        say(f"and {tally.untold:,} of other kinds\n")
    if tally.repeats.count:
        say("duplicates")
        for line, fault in tally.repeats.rows:
            say(f"  line {line}: {fault.message}")
        _print_rest(tally.repeats, "  ")
        say("")
    say(f"{told['campaign']}: {told['type']}, lane {told['lane']}, app {told['app']}")
    say(f"{printable(str(recipients))}: {counted(tally.rows, 'row')}")
    for name in ("good", "refused", "duplicates"):
        say(f"  {name:<10}  {told[name]:,}")
    if tally.cents is not None:
        say(f"  {'sum':<10}  {brl(tally.cents)}")


def _print_kind(kind: Kind, headers: dict[str, str]) -> None:
    where = [kind.path] if kind.path else []
    if kind.columns:
        names = [f"{name} ({headers[name]})" if name in headers else name for name in kind.columns]
        where.append(f"column{'s' if len(names) > 1 else ''} {', '.join(names)}")
    print_wrapped(", ".join([f"{counted(kind.count, 'row')}: {kind.reason}", *where]), "  ")
    # A warning is the same for all rows.
    for line, fault in kind.rows[:1] if kind.reason == "warning" else kind.rows:
        value = f": {json.dumps(fault.value, ensure_ascii=False)}" if fault.value else ""
        print_wrapped(f"line {line}: {fault.message}{value}", "    ")
    if kind.reason != "warning":
        _print_rest(kind, "    ")
    print_known(asdict(kind.rows[0][1]), ("limit", "source"), "    ")


def _print_rest(kind: Kind, before: str) -> None:
    if kind.count > len(kind.rows):
        say(f"{before}and {kind.count - len(kind.rows):,} more")
