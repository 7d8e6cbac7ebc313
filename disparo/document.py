"""A message or campaign file, JSON or YAML, as plain values: what JSON knows and nothing else.

YAML is read by its 1.2 core rules narrowed to JSON's types, because the older rules spoil data that
people write without quotes: ``no`` stays text, ``2026-11-21`` stays text, ``0119999`` keeps its zero and
``+5511…`` its plus.
"""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml

from disparo.errors import InputError

try:
    # Ten times as fast; the wheels of PyYAML have it, a build without libyaml does not.
    from yaml import CSafeLoader as _Loader
except ImportError:  # pragma: no cover
    from yaml import SafeLoader as _Loader  # type: ignore[assignment]

LARGEST_BYTES = 5_000_000
DEEPEST = 64  #: objects and arrays within one another; the provider's deepest message has 12
MOST_VALUES = 500_000  #: after YAML's aliases are written out

_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}

# What the parser of JSON says → what to do about it.
_JSON_ADVICE = {
    "Expecting property name enclosed in double quotes": "a key in double quotes must stand here "
    "(is there a comma too many before it?)",
    "Expecting ',' delimiter": "a comma, or the closing bracket, is missing before this place",
    "Expecting ':' delimiter": "a colon is missing after the key",
    "Expecting value": "a value is missing here (text stands in double quotes)",
    "Illegal trailing comma before end of object": "there is a comma too many before the closing brace",
    "Illegal trailing comma before end of array": "there is a comma too many before the closing bracket",
    "Extra data": "something follows after the end of the document; a file holds one",
    "Unterminated string starting at": "the text that begins here is never closed by a double quote",
    "Invalid \\escape": "a backslash in a text is written \\\\",
}


def load(path: Path | None, text: str | None, name: str) -> Any:
    """Read one JSON or YAML document: an object or an array of text, numbers, true, false and null.

    Line breaks inside JSON texts are taken as they are, because codes are pasted with them. Keys stay in
    their order, integers stay integers. Nothing in the document is executed, and YAML's tags are refused.

    Args:
      path: The file; None when the caller has read it (standard input).
      text: The document itself when there is no ``path``.
      name: What error messages call it.

    Raises:
      InputError: it cannot be read, is no such document, says something twice, or holds what JSON has
        no word for. The sentence holds name, line and column, or the JSON path of the value.
    """
    if path is not None:
        text = _read(path, name)
    text = (text or "").removeprefix("\ufeff")
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        _refuse(name, text, error.start, "a character that is not UTF-8; save the file as UTF-8")
    if size > LARGEST_BYTES:
        raise InputError(f"{name}: larger than {LARGEST_BYTES // 1_000_000} MB; is this the right file?")
    if not text.strip():
        raise InputError(f"{name}: the file is empty.")
    document = _json(text, name) if _is_json(text) else _yaml(text, name)
    if not isinstance(document, dict | list):
        raise InputError(
            f"{name}: holds {_kind(document)}, not an object of keys and values; is this the right file?"
        )
    _check_values(document, name)
    return document


def _read(path: Path, name: str) -> str:
    try:
        with path.open("rb") as file:  # may be a pipe: its size is not known beforehand
            content = file.read(LARGEST_BYTES + 1)
    except FileNotFoundError as error:
        raise InputError(f"{name}: there is no such file.") from error
    except IsADirectoryError as error:
        raise InputError(f"{name}: is a folder, not a file.") from error
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror}).") from error
    if len(content) > LARGEST_BYTES:
        raise InputError(f"{name}: larger than {LARGEST_BYTES // 1_000_000} MB; is this the right file?")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{name}: the file is UTF-16; save it as UTF-8.")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        if b"\0" in content[:1024] or content.startswith(b"PK"):
            raise InputError(
                f"{name}: is not a text file; a message or campaign is JSON or YAML in UTF-8."
            ) from error
        raise InputError(
            f"{name}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8 (the file seems to be in "
            "cp1252, Windows' own encoding); save it as UTF-8."
        ) from error


def _is_json(text: str) -> bool:
    """Whether the text means to be JSON; YAML's own brackets (``{name: x}``) do not quote the first key."""
    return re.match(r'\s*(\{\s*["}]|\[\s*(["\]{\[0-9-]|true|false|null))', text) is not None


def _json(text: str, name: str) -> Any:
    try:
        return json.loads(text, strict=False, object_pairs_hook=_once, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        advice = _JSON_ADVICE.get(error.msg.removesuffix(":"), error.msg)
        if "{{" in text[max(error.pos - 1, 0) : error.pos + 2]:
            advice = 'a placeholder stands in double quotes: "{{ column }}"'
        _refuse(name, text, error.pos, advice)
    except _FaultError as fault:
        _refuse(name, text, _place(text, fault), str(fault))
    except RecursionError:
        raise InputError(f"{name}: objects and arrays are nested more than {DEEPEST} deep.") from None
    except ValueError as error:  # a whole number of thousands of digits
        raise InputError(f"{name}: a number has too many digits; write it as text in quotes.") from error


class _FaultError(Exception):
    """A fault whose place the JSON parser does not tell."""

    def __init__(self, sentence: str, word: str = "") -> None:
        super().__init__(sentence)
        self.word = word


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                # Half of a character can be written in JSON, and be shown nowhere.
                shown = key.encode("utf-8", "replace").decode()
                raise _FaultError(f"the key “{shown}” stands twice in one object; remove one")
            seen.add(key)
    return found


def _no_constant(word: str) -> NoReturn:
    raise _FaultError(f"{word} is no number in JSON", word)


_JSON_MARKS = re.compile(r'("(?:[^"\\]|\\.)*")(\s*:)?|-?Infinity|NaN|[{}\[\]]', re.DOTALL)


def _place(text: str, fault: _FaultError) -> int:
    """Where the first NaN, Infinity or repeated key stands: the slow second look, made for errors only."""
    open_objects: list[set[str]] = []
    for match in _JSON_MARKS.finditer(text):
        mark = match[0]
        if mark in "{[":
            open_objects.append(set())
        elif mark in "}]":
            open_objects.pop()
        elif mark == fault.word:
            return match.start()
        elif match[2]:
            key = json.loads(match[1], strict=False)
            if key in open_objects[-1] and not fault.word:
                return match.start()
            open_objects[-1].add(key)
    return 0


def _yaml(text: str, name: str) -> Any:
    try:
        return _Builder(text, name).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        about = f" ({error.context})" if error.context else ""
        advice = _yaml_advice(str(error.problem), text[mark.index :] if mark else "")
        raise InputError(f"{name}{_where(mark)}: {error.problem}{about}{advice}.") from error
    except yaml.YAMLError as error:
        reason = str(getattr(error, "reason", error)).splitlines()[0]
        raise InputError(f"{name}: {reason}; the file is no valid YAML.") from error
    except RecursionError:
        raise InputError(f"{name}: objects and arrays are nested more than {DEEPEST} deep.") from None


def _yaml_advice(problem: str, rest: str) -> str:
    if rest.startswith("\t"):
        return "; YAML indents with spaces, not tabs"
    if "cannot start any token" in problem or "mapping values are not allowed" in problem:
        return "; a text with a sign of YAML in it (such as : or @) stands in quotes"
    return ""


def _where(mark: Any) -> str:
    return f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""


class _Builder:
    """Builds one document from YAML's events.

    From events, not by a loader: tags, aliases, keys and nesting are then seen before anything is made.
    """

    def __init__(self, text: str, name: str) -> None:
        self._name = name
        self._events: Iterator[yaml.Event] = yaml.parse(text, Loader=_Loader)
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._values = 0

    def document(self) -> Any:
        next(self._events)  # the stream begins
        if isinstance(next(self._events), yaml.StreamEndEvent):
            raise InputError(f"{self._name}: the file is empty.")
        document = self._value(next(self._events), 0)
        next(self._events)  # the document ends
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            self._refuse(event, "a second document begins here; a file holds one")
        return document

    def _value(self, event: yaml.Event, depth: int) -> Any:
        if depth > DEEPEST:
            self._refuse(event, f"objects and arrays are nested more than {DEEPEST} deep")
        before = self._values
        self._count(event, 1)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        if (tag := getattr(event, "tag", None)) not in (None, "!"):
            self._refuse(event, f"the tag {tag} is not read; write the plain value")
        value: Any
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = []
            while not isinstance(item := next(self._events), yaml.SequenceEndEvent):
                value.append(self._value(item, depth + 1))
        else:
            value = {}
            while not isinstance(key := next(self._events), yaml.MappingEndEvent):
                name = self._key(key, value)
                value[name] = self._value(next(self._events), depth + 1)
        if anchor := getattr(event, "anchor", None):
            self._anchors[anchor] = (value, self._values - before)
        return value

    def _alias(self, event: yaml.AliasEvent) -> Any:
        if event.anchor not in self._anchors:
            self._refuse(event, f"*{event.anchor} refers to nothing that stands before it")
        value, size = self._anchors[event.anchor]
        # A few lines of aliases to aliases can stand for billions of values.
        self._count(event, size)
        return value

    def _key(self, event: yaml.Event, found: dict[str, Any]) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            self._refuse(event, 'a key is text; a value with {{ … }} stands in quotes: "{{ column }}"')
        key = str(event.value)
        if key == "<<" and event.implicit[0]:
            self._refuse(event, "merge keys (<<) are not read; write the values out")
        if key in found:
            self._refuse(event, f"the key “{key}” stands twice in one object; remove one")
        return key

    def _scalar(self, event: yaml.ScalarEvent) -> Any:
        word = str(event.value)
        if not event.implicit[0]:  # quoted, or a block of text
            return word
        if word in _WORDS:
            return _WORDS[word]
        if _INTEGER.fullmatch(word):
            if len(word) > 4000:
                self._refuse(event, "a number has too many digits; write it as text in quotes")
            return int(word)
        if _NUMBER.fullmatch(word):
            return float(word)
        if _NOT_FINITE.fullmatch(word):
            self._refuse(event, f"{word} is no number in JSON")
        return word

    def _count(self, event: yaml.Event, values: int) -> None:
        self._values += values
        if self._values > MOST_VALUES:
            self._refuse(event, f"the document holds more than {MOST_VALUES} values, aliases written out")

    def _refuse(self, event: yaml.Event, sentence: str) -> NoReturn:
        raise InputError(f"{self._name}{_where(event.start_mark)}: {sentence}.")


def _check_values(value: Any, name: str, path: tuple[str | int, ...] = ()) -> None:
    """Refuse what neither JSON nor PostgreSQL can hold, and nesting that nobody means."""
    if len(path) > DEEPEST:
        raise InputError(f"{name}: objects and arrays are nested more than {DEEPEST} deep.")
    if isinstance(value, str):
        _check_text(value, name, path)
    elif isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{name}: {_written(path)} is a number too large for JSON.")
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_text(key, name, (*path, key))
            _check_values(item, name, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_values(item, name, (*path, index))


_UNFIT = re.compile("[\0\ud800-\udfff]")


def _check_text(text: str, name: str, path: tuple[str | int, ...]) -> None:
    if unfit := _UNFIT.search(text):
        kind = "the character NUL" if unfit[0] == "\0" else f"half a character (\\u{ord(unfit[0]):04x})"
        raise InputError(f"{name}: {_written(path)} holds {kind}; write the text again.")


def _written(path: tuple[str | int, ...]) -> str:
    """A JSON path as people read it: ``template.components[0].text``."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".").encode("utf-8", "replace").decode() or "the document"


def _kind(value: object) -> str:
    return {str: "plain text", bool: "true or false", type(None): "nothing"}.get(type(value), "a number")


def _refuse(name: str, text: str, position: int, sentence: str) -> NoReturn:
    line = text.count("\n", 0, position) + 1
    column = position - text.rfind("\n", 0, position)
    raise InputError(f"{name}, line {line}, column {column}: {sentence}.")
