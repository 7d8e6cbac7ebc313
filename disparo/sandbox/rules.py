"""Checks of single values of a message; each refusal names the JSON path that Meta would name."""

import re
from collections.abc import Collection
from typing import Any

JSON = dict[str, Any]

#: Meta's codes for a refused body (Meta, "Error codes", as of 2026-11-21).
INVALID_PARAMETER = 100
MISSING_VALUE = 131008
WRONG_VALUE = 131009


class ShapeError(Exception):
    """A message breaks a documented rule; ``path`` is the value's place in the body."""

    def __init__(self, code: int, path: str, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.code = code
        self.path = path
        self.why = why


def at(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def wrong(path: str, why: str) -> ShapeError:
    return ShapeError(WRONG_VALUE, path, why)


def unfit(parent: JSON, key: str, path: str, why: str) -> ShapeError:
    """The error of a value that is missing, or else is not as ``why`` says."""
    if key not in parent:
        return ShapeError(MISSING_VALUE, at(path, key), "is required")
    return wrong(at(path, key), why)


def required(parent: JSON, key: str, path: str) -> Any:
    if key not in parent:
        raise unfit(parent, key, path, "")
    return parent[key]


def only(parent: JSON, known: frozenset[str], path: str) -> None:
    """Refuse keys that the documentation does not have, as Meta does.

    Source: "Unexpected key" on a sent message, gabrieldwight/Whatsapp-Business-Cloud-Api-Net, issue 50.
    """
    if not known.issuperset(parent):
        key = next(key for key in parent if key not in known)
        raise ShapeError(INVALID_PARAMETER, at(path, key), "unexpected key")


def is_object(value: Any, path: str) -> JSON:
    if type(value) is not dict:
        raise wrong(path, "must be an object")
    return value


def an_object(parent: JSON, key: str, path: str) -> JSON:
    value = parent.get(key)
    if type(value) is not dict:
        raise unfit(parent, key, path, "must be an object")
    return value


def an_array(parent: JSON, key: str, path: str, most: int | None = None, least: int = 1) -> list[Any]:
    value = parent.get(key)
    if type(value) is not list:
        raise unfit(parent, key, path, "must be an array")
    if len(value) < least:
        raise wrong(at(path, key), f"needs at least {least} of them")
    if most is not None and len(value) > most:
        raise wrong(at(path, key), f"has {len(value)} of them, more than {most}")
    return value


def a_text(parent: JSON, key: str, path: str, most: int | None = None) -> str:
    """The string under ``key``, 1 to ``most`` code points long."""
    value = parent.get(key)
    if type(value) is not str:
        raise unfit(parent, key, path, "must be a string")
    if not value:
        raise wrong(at(path, key), "must not be empty")
    if most is not None and len(value) > most:
        raise wrong(at(path, key), f"is {len(value)} characters long, more than {most}")
    return value


def an_optional_text(parent: JSON, key: str, path: str, most: int | None = None) -> None:
    if key in parent:
        a_text(parent, key, path, most)


def a_match(parent: JSON, key: str, path: str, pattern: re.Pattern[str], why: str) -> str:
    value = a_text(parent, key, path)
    if pattern.fullmatch(value) is None:
        raise wrong(at(path, key), why)
    return value


def a_word(parent: JSON, key: str, path: str, words: Collection[str]) -> str:
    value = parent.get(key)
    if type(value) is not str or value not in words:
        raise unfit(parent, key, path, one_of(words))
    return value


def one_of(words: Collection[str]) -> str:
    quoted = [f'"{word}"' for word in words]
    return f"must be {', '.join(quoted[:-1])} or {quoted[-1]}" if len(quoted) > 1 else f"must be {quoted[0]}"


def an_integer(parent: JSON, key: str, path: str, least: int) -> int:
    value = parent.get(key)
    if type(value) is not int:
        raise unfit(parent, key, path, "must be an integer")
    if value < least:
        raise wrong(at(path, key), f"must be {least} or more")
    return value


def an_optional_boolean(parent: JSON, key: str, path: str) -> None:
    if key in parent and type(parent[key]) is not bool:
        raise wrong(at(path, key), "must be true or false")


def media(parent: JSON, kind: str, path: str, caption: int | None = None) -> None:
    """The media object under ``kind``: an uploaded ``id`` or an http(s) ``link``, never both."""
    content = an_object(parent, kind, path)
    here = at(path, kind)
    if ("id" in content) == ("link" in content):
        raise wrong(here, "needs either id or link")
    if "id" in content:
        a_text(content, "id", here)
    elif not a_text(content, "link", here).startswith(("https://", "http://")):
        raise wrong(at(here, "link"), "must begin with https:// or http://")
    if caption is not None:
        an_optional_text(content, "caption", here, caption)
    an_optional_text(content, "filename", here)
