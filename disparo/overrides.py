"""What an installation says of codes instead: ``codes.yaml`` in the home, laid over the verdict table.

Each process reads the file of its own home once, when it starts.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from disparo import document
from disparo.errors import DisparoError, SettingsError
from disparo.statuses import Verdict
from disparo.whatsapp.codes import SCOPES, TABLE, Override, Table

FILE = "codes.yaml"
#: A message that is tried more often keeps its campaign running for weeks.
MOST_ATTEMPTS = 1000
#: Thirty days; no message is worth more waiting.
LONGEST_SECONDS = 2_592_000
FASTEST_GROWTH = 10
LONGEST_WORDS = 500
#: A shorter beginning would mean answers that nobody had in mind.
SHORTEST_TEXT = 5

_VERDICTS = [verdict for verdict in Verdict if verdict is not Verdict.ACCEPTED]
_SCOPES = sorted({scope for scopes in SCOPES.values() for scope in scopes})


def _is_attempts(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MOST_ATTEMPTS


def _is_number(value: Any, least: float, most: float) -> bool:
    return type(value) in (int, float) and least <= value <= most


def _is_seconds(value: Any) -> bool:
    return _is_number(value, 0, LONGEST_SECONDS)


def _is_words(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and 0 < len(value.strip()) <= LONGEST_WORDS


def _is_texts(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(_is_words(text) and len(text.strip()) >= SHORTEST_TEXT for text in value)
    )


_SECONDS = (_is_seconds, f"seconds, from 0 to {LONGEST_SECONDS} (thirty days)")
_WORDS = (_is_words, f"text of one line, up to {LONGEST_WORDS} characters")

#: Field → whether a value is one, and what is. The names are those of `Override`.
_FIELDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "verdict": (_VERDICTS.__contains__, f"one of {', '.join(_VERDICTS)}"),
    "scope": (_SCOPES.__contains__, f"one of {', '.join(_SCOPES)}"),
    "attempts": (_is_attempts, f"a whole number of tries in all, from 1 to {MOST_ATTEMPTS}"),
    "base_seconds": _SECONDS,
    "cap_seconds": _SECONDS,
    "factor": (lambda value: _is_number(value, 1, FASTEST_GROWTH), f"a number from 1 to {FASTEST_GROWTH}"),
    "meaning": _WORDS,
    "hint": _WORDS,
    "texts": (
        _is_texts,
        f"a list of beginnings of the provider's words, of {SHORTEST_TEXT} to {LONGEST_WORDS} characters each",
    ),
}


def load(home: Path) -> Table:
    """The verdict table with what ``codes.yaml`` in ``home`` says instead; without the file, `TABLE`.

    Raises:
      SettingsError: The file cannot be read, or says what cannot be; names file, code, field and what
        is allowed.
    """
    path = home / FILE
    try:
        # Bytes that are no UTF-8 are told with line and column further on.
        content = path.read_text(encoding="utf-8", errors="surrogateescape")
    except (FileNotFoundError, NotADirectoryError):  # a home that is no folder is refused by who writes there
        return TABLE
    except OSError as err:
        raise SettingsError(f"{path} cannot be read: {err.strerror}") from err
    if all(not line or line.startswith("#") for line in map(str.strip, content.splitlines())):
        return TABLE
    try:
        rows = document.load(None, content, str(path))
    except DisparoError as err:
        raise SettingsError(str(err)) from err
    if not isinstance(rows, dict):
        raise SettingsError(f"{path}: holds a list; write each code with its fields below it")
    try:
        return TABLE.with_overrides(
            {code: _override(code, given) for code, given in rows.items()}, f"{FILE} of this installation"
        )
    except DisparoError as err:
        raise SettingsError(f"{path}, {err}") from err


def _override(code: str, given: Any) -> Override:
    code = code if code.isprintable() and len(code) <= 60 else repr(_cut(code))
    if not isinstance(given, dict) or not given:
        raise SettingsError(f"code {code}: write its fields below it, each in a line, such as verdict: retry")
    for field, value in given.items():
        if field not in _FIELDS:
            raise SettingsError(
                f"code {code}, {_cut(field)}: there is no such field; there are {', '.join(_FIELDS)}"
            )
        is_one, allowed = _FIELDS[field]
        if not is_one(value):
            raise SettingsError(f"code {code}, {field}: {_shown(value)} is not possible; write {allowed}")
    values = dict(given)
    if "verdict" in values:
        values["verdict"] = Verdict(values["verdict"])
    if "texts" in values:
        values["texts"] = tuple(values["texts"])
    return Override(**values)


def _shown(value: Any) -> str:
    return repr(_cut(value)) if isinstance(value, str) else _cut(json.dumps(value, ensure_ascii=False))


def _cut(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"
