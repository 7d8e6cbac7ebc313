"""Recipient lists as people have them: CSV and JSONL files read row by row.

``open_rows`` looks at the whole file once (encoding, delimiter, header, digest) and refuses what is no
recipient list in one sentence; ``RecipientFile.rows`` then streams the rows with flat memory. A row that
cannot be read is data, not an error: it carries a ``fault`` and the rows after it go on. What cells mean
(phones, amounts, dates) is for others to say: here they are text, exactly as in the file.
"""

import codecs
import csv
import hashlib
import itertools
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

from disparo.columns import name_cells, plain_header, shown
from disparo.errors import InputError
from disparo.rejects import REJECT_COLUMNS, unguarded

#: Characters of one cell, and of one line of JSONL; a longer one is a fault of its row.
MAX_CELL = 1_000_000

_CHUNK = 1 << 20
_LONGEST_LINE_CHUNKS = 8
_SAMPLE_CHARS = 1 << 18
_SAMPLE_RECORDS = 200
_MAX_COLUMNS = 2_000
_DELIMITERS = (";", "\t", ",")
_JSONL_SUFFIXES = (".jsonl", ".ndjson")
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?[\s,;]*', re.IGNORECASE)

# Half of a surrogate pair, or NUL: PostgreSQL stores neither.
_NO_TEXT = re.compile("[\0\ud800-\udfff]")

_ABOVE_ASCII = re.compile(rb"[\x80-\xff]+")
_WELL_FORMED_UTF_8 = re.compile(
    rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}"
)
_UNDEFINED_IN_CP1252 = re.compile(rb"[\x81\x8d\x8f\x90\x9d]")

# How the content of a file that is no text begins, and what people call it.
_SIGNATURES = (
    (b"PK\x03\x04", "an Excel workbook (or another zip file)"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook"),
    (b"%PDF", "a PDF document"),
    (b"\x1f\x8b", "a compressed file"),
)
_SAVE_AS_CSV = (
    "Recipients are read from CSV or JSONL; workbooks will come later. Open it in Excel, choose "
    "'Save as' and 'CSV UTF-8 (comma delimited)', and give that file."
)


class Row(NamedTuple):
    """One record of a recipient list.

    ``fault`` says in a sentence why the row cannot be used; ``values`` is empty then.
    """

    line: int  #: physical line of the file on which the record begins, from 1
    values: dict[str, str]  #: cell by column name
    raw: list[str]  #: the cells as in the file, in the order of the header
    fault: str | None


def digest(path: Path) -> str:
    """Give the SHA-256 of the file's bytes, in hexadecimal.

    Raises:
      InputError: it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as err:
        raise _unreadable(path, err) from err


@dataclass(frozen=True, slots=True)
class RecipientFile:
    """A recipient list whose form is known and whose rows can be streamed, any number of times."""

    path: Path
    original_header: list[str]  #: headers as in the file (JSONL: each key that any line has)
    header: list[str]  #: the same as plain names, each once
    columns: list[str]  #: names in ``Row.values``: mapped ones under our name, the others as in ``header``
    delimiter: str  #: of CSV; a comma for JSONL, whose rejects are written as CSV
    encoding: str  #: ``utf-8-sig``, ``cp1252`` or ``utf-16``
    digest: str  #: SHA-256 of the file, hexadecimal
    _cells: list[tuple[str, int]] = field(repr=False)  # name in values, position in the record
    _start_line: int = field(repr=False)
    _header_line: int = field(repr=False)  # physical line after the header; 1 for JSONL
    _has_nul: bool = field(repr=False)
    _is_jsonl: bool = field(repr=False)
    _is_rejects: bool = field(repr=False)
    _identity: tuple[int, int, int] = field(repr=False)

    def rows(self) -> Iterator[Row]:
        """Stream the rows in the order of the file, the faulty ones among them.

        Blank lines and lines of nothing but delimiters are left out.

        Raises:
          InputError: the file was changed or removed since it was opened. Rows were given already:
            whoever stored them has to drop them or to ask.
        """
        try:
            with self.path.open(encoding=self.encoding, newline="") as stream:
                self._check_unchanged(stream)
                yield from self._jsonl_rows(stream) if self._is_jsonl else self._csv_rows(stream)
                self._check_unchanged(stream)
        except OSError as err:
            raise _unreadable(self.path, err) from err
        except UnicodeDecodeError as err:
            raise self._changed() from err

    def _check_unchanged(self, stream: IO[str]) -> None:
        if _identity(os.fstat(stream.fileno())) != self._identity:
            raise self._changed()

    def _changed(self) -> InputError:
        return InputError(f"{self.path} was changed while it was read. Run the same command again.")

    def _csv_rows(self, stream: IO[str]) -> Iterator[Row]:
        for _ in range(1, self._header_line):
            stream.readline()
        skipped = len(REJECT_COLUMNS) if self._is_rejects else 0
        width = len(self.original_header)
        names = [name for name, _ in self._cells]
        positions = [position for _, position in self._cells]
        in_order = positions == list(range(width))
        start_line, has_nul = self._start_line, self._has_nul
        for line, record, broken in _records(stream, self.delimiter, self._header_line):
            if line < start_line:
                continue
            if broken is not None:
                yield Row(line, {}, record, broken)
                continue
            cells = [unguarded(cell) for cell in record[skipped:]] if skipped else record
            if not any(cells):
                continue
            if len(cells) != width:
                # Spreadsheets leave empty cells behind at the end of rows.
                if not any(cell.strip() for cell in cells):
                    continue
                while len(cells) > width and not cells[-1].strip():
                    cells.pop()
                if len(cells) != width:
                    yield Row(line, {}, cells, _wrong_width(len(cells), width))
                    continue
            if has_nul and any("\0" in cell for cell in cells):
                yield Row(line, {}, cells, "A cell holds a NUL byte. Type its text anew.")
            elif in_order:
                yield Row(line, dict(zip(names, cells, strict=True)), cells, None)
            else:
                yield Row(line, {name: cells[position] for name, position in self._cells}, cells, None)

    def _jsonl_rows(self, stream: IO[str]) -> Iterator[Row]:
        for number, text in enumerate(stream, 1):
            if number < self._start_line or not text.strip():
                continue
            found = _read_object(text)
            if isinstance(found, str):
                yield Row(number, {}, [text.strip()[:MAX_CELL]], found)
                continue
            raw = [found.get(key, "") for key in self.original_header]
            yield Row(number, {name: raw[position] for name, position in self._cells}, raw, None)


def open_rows(
    path: Path, columns: Mapping[str, str], *, start_line: int = 0, recipients: bool = True
) -> RecipientFile:
    """Look at a recipient list and hand it back ready to be streamed.

    CSV with commas, semicolons or tabs (a first line ``sep=;`` decides, otherwise the first rows do), or
    JSONL for ``.jsonl`` and ``.ndjson``. UTF-8 with or without BOM, Windows-1252, or UTF-16 with BOM; the
    encoding is decided on all bytes of the file. A rejects file of ours is read like its source.

    Reads the file three times at most (digest, encoding, and for JSONL its keys), in pieces. Sets the
    ``csv`` module's field size limit, which is one for the process, to ``MAX_CELL``.

    Args:
      path: A regular file.
      columns: Our name → the file's header, exactly or as its plain name: ``{"to": "Celular"}``. Without
        one for ``to``, usual headers such as Celular, Telefone or WhatsApp are recognised.
      start_line: Rows that begin on an earlier physical line are passed over; give the ``line`` of the
        last row that was stored, plus one, to go on there.
      recipients: One column has to hold the recipient; not so in a list of references.

    Raises:
      InputError: the file is none that recipients can be read from, or a column is missing or ambiguous.
    """
    identity = _regular_file(path)
    try:
        encoding, has_nul = _scan(path)
        is_jsonl = path.suffix.lower() in _JSONL_SUFFIXES
        layout = (
            _jsonl_layout(path, encoding) if is_jsonl else _csv_layout(path, encoding, columns, recipients)
        )
    except OSError as err:
        raise _unreadable(path, err) from err
    is_rejects = not is_jsonl and tuple(layout.header[:3]) == REJECT_COLUMNS and len(layout.header) > 3
    original = [unguarded(text) for text in layout.header[3:]] if is_rejects else layout.header
    if len(original) > _MAX_COLUMNS:
        raise InputError(f"{path} has {len(original):,} columns; at most {_MAX_COLUMNS:,} are read.")
    header = plain_header(original)
    cells = name_cells(path, original, header, columns, recipients=recipients)
    return RecipientFile(
        path=path,
        original_header=original,
        header=header,
        columns=[name for name, _ in cells],
        delimiter=layout.delimiter,
        encoding=encoding,
        digest=digest(path),
        _cells=cells,
        _start_line=start_line,
        _header_line=layout.first_row_line,
        _has_nul=has_nul,
        _is_jsonl=is_jsonl,
        _is_rejects=is_rejects,
        _identity=identity,
    )


class _Layout(NamedTuple):
    header: list[str]
    delimiter: str
    first_row_line: int


# --- The file as bytes -------------------------------------------------------------------------------


def _regular_file(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError as err:
        raise _unreadable(path, err) from err
    if stat.S_ISDIR(found.st_mode):
        raise InputError(f"{path} is a folder. Give the recipient list itself, a CSV or JSONL file.")
    if not stat.S_ISREG(found.st_mode):
        raise InputError(
            f"{path} is not a regular file. Save the recipient list to a file first and give that."
        )
    if found.st_size == 0:
        raise InputError(f"{path} is empty. Its first line has to name the columns, such as 'to;first_name'.")
    if path.suffix.lower() in {".xlsx", ".xls", ".ods"}:
        raise InputError(f"{path} is a spreadsheet. {_SAVE_AS_CSV}")
    return _identity(found)


def _identity(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_ino, found.st_size, found.st_mtime_ns


def _unreadable(path: Path, err: OSError) -> InputError:
    if isinstance(err, FileNotFoundError):
        return InputError(f"{path} does not exist. Check the name and the folder.")
    if isinstance(err, PermissionError):
        return InputError(f"{path} may not be read by this user. Change its permissions or its owner.")
    return InputError(f"{path} cannot be read: {(err.strerror or 'unknown error').lower()}.")


def _scan(path: Path) -> tuple[str, bool]:
    """Give the file's encoding and whether NUL bytes are in it, from all its bytes."""
    with path.open("rb") as stream:
        start = stream.read(4)
        for signature, name in _SIGNATURES:
            if start.startswith(signature):
                advice = (
                    _SAVE_AS_CSV if "Excel" in name else "Give the recipient list itself, as CSV or JSONL."
                )
                raise InputError(f"{path} holds {name}, not text. {advice}")
        stream.seek(0)
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            encoding = "utf-16"
        else:
            encoding = "utf-8-sig" if start.startswith(codecs.BOM_UTF8) else "utf-8"
        decoder = codecs.getincrementaldecoder(encoding)()
        has_nul, unbroken, lines, broken_line = False, 0, 1, 0
        for chunk in iter(lambda: stream.read(_CHUNK), b""):
            unbroken = 0 if b"\n" in chunk or b"\r" in chunk else unbroken + 1
            if unbroken >= _LONGEST_LINE_CHUNKS:
                raise InputError(
                    f"{path} has a line of more than {_LONGEST_LINE_CHUNKS - 1} MB: it is no recipient list, "
                    "or one without line ends. Save it again as CSV."
                )
            if broken_line == 0:
                try:
                    text = decoder.decode(chunk)
                except UnicodeDecodeError as err:
                    broken_line = lines + err.object[: err.start].count(b"\n")
                else:
                    has_nul = has_nul or "\0" in text
            lines += chunk.count(b"\n")
            has_nul = has_nul or (encoding != "utf-16" and b"\0" in chunk)
        if broken_line == 0:
            try:
                decoder.decode(b"", final=True)
            except UnicodeDecodeError:
                broken_line = lines
    if broken_line == 0:
        # Reads a file without a BOM alike; one name for both.
        return ("utf-16" if encoding == "utf-16" else "utf-8-sig"), has_nul
    if encoding == "utf-16":
        raise InputError(f"{path} begins like UTF-16 but is damaged. Save it again as 'CSV UTF-8'.")
    _check_cp1252(path, broken_line)
    return "cp1252", has_nul


def _check_cp1252(path: Path, broken_line: int) -> None:
    """Refuse a file that is neither UTF-8 nor Windows-1252, or a mixture of both.

    A file of mostly well-formed UTF-8 with a broken byte, such as one that was cut or put together from
    two, would be valid Windows-1252 too, and every name with an accent would go out wrong.
    """
    well_formed = others = 0
    line, undefined_line = 1, 0
    with path.open("rb") as stream:
        for chunk in iter(lambda: stream.read(_CHUNK), b""):
            # Runs of bytes above ASCII, apart: searching them alone is four times as fast.
            runs = b" ".join(_ABOVE_ASCII.findall(chunk))
            well_formed += len(_WELL_FORMED_UTF_8.findall(runs))
            others += len(_WELL_FORMED_UTF_8.sub(b"", runs).replace(b" ", b""))
            if undefined_line == 0 and (match := _UNDEFINED_IN_CP1252.search(chunk)):
                undefined_line = line + chunk[: match.start()].count(b"\n")
            line += chunk.count(b"\n")
    # By accident, Windows-1252 text holds a well-formed sequence once in a great many accents.
    if well_formed and well_formed >= others:
        raise InputError(
            f"{path} is UTF-8 but for line {broken_line}, which holds bytes of another encoding, or is cut. "
            "Repair that line, or save the file again as 'CSV UTF-8'."
        )
    if undefined_line:
        raise InputError(
            f"{path}, line {undefined_line}: the text is neither UTF-8 nor Windows-1252. "
            "Save the file again as 'CSV UTF-8'."
        )


# --- CSV ---------------------------------------------------------------------------------------------


def _records(
    lines: Iterable[str], delimiter: str, first_line: int
) -> Iterator[tuple[int, list[str], str | None]]:
    """Stream (physical line, cells, why it is broken) of each record; a broken one has its text as one cell.

    A quote that is never closed costs its own line only: the lines that it swallowed are read again.
    """
    csv.field_size_limit(MAX_CELL)
    pending: list[str] = []

    def remembered(source: Iterable[str]) -> Iterator[str]:
        for text in source:
            pending.append(text)
            yield text

    source, line = iter(lines), first_line
    while True:
        try:
            for cells in csv.reader(remembered(source), delimiter=delimiter, strict=True):
                yield line, cells, None
                line += len(pending)
                pending.clear()
        except csv.Error as err:
            text = str(err)
        else:
            return
        if "field larger" in text or "unexpected end" in text:
            if len(pending) > 1:
                fault = 'A quote (") is opened and not closed. Close it, or double it inside quotes.'
                source = itertools.chain(pending[1:], source)
            elif "field larger" in text:
                fault = f"A cell has more than {MAX_CELL:,} characters."
            else:
                fault = 'A quote (") is opened and not closed. Close it, or double it inside quotes.'
            taken = 1
        else:
            taken = len(pending)
            fault = 'A quote (") stands inside a quoted cell. Double it there, or close the cell before.'
            if taken > 1:
                fault += f" The cell began lines before: this record goes to line {line + taken - 1}."
        yield line, ["".join(pending[:taken]).rstrip("\r\n")], fault
        line += taken
        pending = []


def _csv_layout(path: Path, encoding: str, columns: Mapping[str, str], recipients: bool) -> _Layout:
    with path.open(encoding=encoding, newline="") as stream:
        sample = stream.readlines(_SAMPLE_CHARS)
        is_whole = not stream.read(1)
    blank = 0
    while blank < len(sample) and not sample[blank].strip():
        blank += 1
    delimiters: Sequence[str] = _DELIMITERS
    if blank < len(sample) and (match := _SEPARATOR_LINE.fullmatch(sample[blank].rstrip("\r\n"))):
        if match[1] not in (*_DELIMITERS, "|"):
            raise InputError(
                f"{path}, line {blank + 1}: '{match[1]}' is no delimiter. Use a comma or a semicolon."
            )
        delimiters, blank = (match[1],), blank + 1
    if not "".join(sample[blank:]).strip():
        raise InputError(
            f"{path} has no text in it. Its first line has to name the columns, such as 'to;first_name'."
        )
    _check_text(path, sample[blank:])
    layouts = [
        _try_delimiter(path, sample[blank:], blank + 1, delimiter, columns, recipients)
        for delimiter in delimiters
    ]
    readings = [reading for reading in layouts if reading is not None]
    if not readings:
        raise InputError(f"{path}, line {blank + 1}: the header cannot be read, a quote in it is not closed.")
    best = max(readings, key=lambda reading: reading.rank)
    if is_whole and best.records == 0:
        raise InputError(f"{path} has a header but no rows. Put one recipient on each line below it.")
    return best.layout


def _check_text(path: Path, lines: Sequence[str]) -> None:
    first = next(text for text in lines if text.strip())
    if "\0" in first:
        raise InputError(
            f"{path} is not text, or text in UTF-16 without its mark. Save it again as 'CSV UTF-8'."
        )
    start = first.lstrip()
    if start.startswith("{"):
        raise InputError(f"{path} holds JSON. One object per line is read from a file named .jsonl.")
    if start.startswith("["):
        raise InputError(f"{path} holds a JSON array. Write one object per line into a file named .jsonl.")
    if start.startswith("<"):
        raise InputError(f"{path} holds a web page or XML, not CSV. {_SAVE_AS_CSV}")


class _Reading(NamedTuple):
    """The sample as one delimiter shows it; the greatest ``rank`` is the most plausible."""

    rank: tuple[bool, bool, float, int]
    layout: _Layout
    records: int


def _try_delimiter(
    path: Path,
    sample: Sequence[str],
    first_line: int,
    delimiter: str,
    columns: Mapping[str, str],
    recipients: bool,
) -> _Reading | None:
    records = list(itertools.islice(_records(sample, delimiter, first_line), _SAMPLE_RECORDS))
    start = next((index for index, (_, cells, _) in enumerate(records) if any(map(str.strip, cells))), None)
    if start is None or records[start][2] is not None:
        return None
    header = [cell.strip() for cell in records[start][1]]
    while not header[-1]:
        header.pop()
    # The sample may end within a record, which then looks broken: the fit only weighs delimiters.
    rows = [cells for _, cells, _ in records[start + 1 :] if any(map(str.strip, cells))]
    fit = sum(len(cells) >= len(header) for cells in rows) / len(rows) if rows else 1.0
    after = records[start + 1][0] if start + 1 < len(records) else first_line + len(sample)
    try:
        body = header[3:] if tuple(header[:3]) == REJECT_COLUMNS else header
        name_cells(path, body, plain_header(body), columns, recipients=recipients)
    except InputError:
        is_known = False
    else:
        is_known = True
    # Names that are recognised prove a delimiter; otherwise the one that cuts all rows alike.
    return _Reading(
        (is_known, len(header) > 1, fit, len(header)), _Layout(header, delimiter, after), len(rows)
    )


def _wrong_width(found: int, width: int) -> str:
    cells = "1 cell" if found == 1 else f"{found} cells"
    if found > width:
        return f"The row has {cells}, the header {width}. Put a cell that holds the delimiter into quotes."
    return f"The row has {cells}, the header {width}. Add the missing ones, empty if need be."


# --- JSONL -------------------------------------------------------------------------------------------


def _jsonl_layout(path: Path, encoding: str) -> _Layout:
    keys: dict[str, None] = {}
    objects, first_fault = 0, ""
    with path.open(encoding=encoding, newline="") as stream:
        for number, text in enumerate(stream, 1):
            if not text.strip():
                continue
            found = _read_object(text)
            if isinstance(found, str):
                first_fault = first_fault or f" Line {number}: {found}"
                continue
            objects += 1
            keys.update(dict.fromkeys(found))
            if len(keys) > _MAX_COLUMNS:
                raise InputError(
                    f"{path}, line {number}: there are more than {_MAX_COLUMNS:,} different keys by here. "
                    "Use the same keys in each line."
                )
    if objects == 0:
        raise InputError(f'{path} has no line that is a JSON object, such as {{"to": "+55…"}}.{first_fault}')
    return _Layout(list(keys), ",", 1)


def _read_object(text: str) -> dict[str, str] | str:
    """Give the object of one line as text by key, or a sentence that says why not.

    Numbers keep the digits that they are written with: a bar code of 47 digits or ``10.50`` would not
    survive as a float.
    """
    if len(text) > MAX_CELL:
        return f"The line has more than {MAX_CELL:,} characters."
    try:
        found = _OBJECT.decode(text)
    except json.JSONDecodeError as err:
        return f"The line is not valid JSON (at character {err.colno}). Write one object per line."
    except (ValueError, RecursionError):
        return "The line is not valid JSON: NaN and Infinity are no numbers, and values are not nested."
    if not isinstance(found, tuple):
        return 'The line is not a JSON object. Write one object per line, such as {"to": "+55…"}.'
    values: dict[str, str] = {}
    for key, value in found:
        if key in values:
            return f"The key '{shown(key)}' stands twice in the object. Keep one."
        if isinstance(value, str):
            values[key] = value
        elif value is None:
            values[key] = ""
        elif isinstance(value, bool):
            values[key] = "true" if value else "false"
        else:
            return f"The value of '{shown(key)}' is nested. Values are text, numbers, true, false or null."
    if "\\u" in text:
        everything = "".join(itertools.chain.from_iterable(values.items()))
        if _NO_TEXT.search(everything):
            return "The line holds a character that text cannot have (\\u0000 or half of a pair)."
    return values


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)


_OBJECT = json.JSONDecoder(
    parse_int=str, parse_float=str, parse_constant=_refuse_constant, object_pairs_hook=tuple
)
