"""The rows of a recipient list that were refused, in a file beside it that can be repaired and launched."""

import csv
import itertools
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self

from disparo.errors import InputError

#: The columns that a rejects file has before those of its source.
REJECT_COLUMNS = ("line", "reason", "explanation")

# Endings of a list's name that are not repeated in the name of its rejects.
_LIST_SUFFIXES = (".csv", ".tsv", ".txt", ".xlsx", ".jsonl", ".ndjson")

# Cells that begin so are run as formulas by spreadsheets. OWASP, "CSV Injection" (read 2026).
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
# Signed numbers and phones: nothing in them can be run.
_SIGNED_NUMBER = re.compile(r"[+-][\d\s().,/%-]*")


def guarded(cell: str) -> str:
    """Give the cell safe to be opened in a spreadsheet: a formula gets an apostrophe before it.

    ``+5511999990000`` and ``-10,00`` stay as they are.
    """
    # One that begins with an apostrophe of its own gets another, of which reading back takes off one.
    if cell.lstrip("'").startswith(_FORMULA_STARTS) and not _SIGNED_NUMBER.fullmatch(cell):
        return f"'{cell}"
    return cell


def unguarded(cell: str) -> str:
    """Give the cell without the apostrophe that ``guarded`` puts before a formula."""
    return cell[1:] if cell[:1] == "'" and cell.lstrip("'").startswith(_FORMULA_STARTS) else cell


class RejectedRow(Protocol):
    """What is written of a row."""

    @property
    def line(self) -> int: ...  #: physical line of the source, from 1
    @property
    def raw(self) -> Sequence[str]: ...  #: its cells as in the source


class RejectsSource(Protocol):
    """What is known of the list whose rows are refused."""

    @property
    def original_header(self) -> Sequence[str]: ...
    @property
    def delimiter(self) -> str: ...


class RejectsFile:
    """The rows that were refused, in a CSV beside their source, each with its line and the reason.

    The columns are ``line``, ``reason`` and ``explanation``, then those of the source with its delimiter,
    in UTF-8 with BOM. Repaired, the file can be launched as it is: ``open_rows`` knows it. It exists
    from the first reject on, is readable by its owner only, and never replaces an older one.

    Use as a context manager, or call ``close``.

    Attributes:
      path: Where it was written; None while nothing was refused.
      count: Rows written.
    """

    def __init__(self, path: Path, source: RejectsSource) -> None:
        """Prepare ``NAME.rejects.csv`` for ``path``, which is that name, ``NAME`` or ``NAME.csv``."""
        name = path.name.removesuffix(".rejects.csv")
        for suffix in _LIST_SUFFIXES:
            name = name[: -len(suffix)] if name.lower().endswith(suffix) else name
        self._base = path.with_name(name)
        self._source = source
        self._stream: IO[str] | None = None
        self._write: Callable[[Iterable[Any]], Any] | None = None
        self.path: Path | None = None
        self.count = 0

    def write(self, row: RejectedRow, reason: str, explanation: str) -> None:
        """Add a row with its reason (a stable word) and the sentence that explains it.

        Raises:
          InputError: the file cannot be made or written.
        """
        try:
            if self._write is None:
                self._write = self._create()
            self._write([row.line, reason, *map(guarded, (explanation, *row.raw))])
        except OSError as err:
            raise self._unwritable(err) from err
        self.count += 1

    def flush(self) -> None:
        """Hand what was written to the system, so that it outlives this process.

        Raises:
          InputError: the file cannot be written.
        """
        if self._stream is not None:
            try:
                self._stream.flush()
            except OSError as err:
                raise self._unwritable(err) from err

    def close(self) -> None:
        """Write out what is left; does nothing when nothing was refused."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _unwritable(self, err: OSError) -> InputError:
        return InputError(
            f"The rejects cannot be written to {self.path or self._candidate(1)}: "
            f"{(err.strerror or 'unknown error').lower()}. "
            "Make room there, or run the command where its user may write."
        )

    def _candidate(self, number: int) -> Path:
        ending = ".rejects.csv" if number == 1 else f".rejects-{number}.csv"
        return self._base.with_name(self._base.name + ending)

    def _create(self) -> Callable[[Iterable[Any]], Any]:
        for number in itertools.count(1):
            path = self._candidate(number)
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            except FileExistsError:
                continue
            break
        self.path = path
        self._stream = open(descriptor, "w", encoding="utf-8-sig", newline="")  # noqa: PTH123, SIM115 - kept open
        write = csv.writer(self._stream, delimiter=self._source.delimiter, lineterminator="\r\n").writerow
        write([*REJECT_COLUMNS, *map(guarded, self._source.original_header)])
        return write
