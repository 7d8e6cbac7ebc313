"""What placeholders can do with a value: amounts, dates and names as people write and read them in Brazil; pure.

Each is an ordinary function; ``rendering`` offers it in placeholders under its name (``whole`` and ``number`` as
``int`` and ``float``). All raise ``InputError`` with a sentence that says what is expected and never shows the value:
who calls knows whether it may be shown.
"""

import re
from collections.abc import Callable
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from jinja2 import Undefined

from disparo import money
from disparo.errors import InputError
from disparo.money import Numbers


def default(value: Any, default_value: Any = "", boolean: bool = False) -> Any:
    """``value``, or another where the column is missing or its cell blank.

    Args:
      boolean: Zero and false are replaced too.
    """
    missing = isinstance(value, Undefined) or value is None or (isinstance(value, str) and not value.strip())
    return default_value if missing or (boolean and not value) else value


# --- amounts and numbers


def cents(value: Any, numbers: Numbers | None = None) -> int:
    """An amount in reais as people and spreadsheets write it → integer cents: ``1.234,56`` gives 123456.

    Raises:
      InputError: See `disparo.money.cents`.
    """
    if isinstance(value, Undefined):
        str(value)  # raises: the column is missing
    return money.cents(value, numbers)


def brl(value: Any) -> str:
    """Integer cents as people read them: 123456 gives ``R$ 1.234,56``.

    Raises:
      InputError: See `disparo.money.brl`.
    """
    if isinstance(value, Undefined):
        str(value)  # raises: the column is missing
    return money.brl(value)


def whole(value: Any, default_value: int | None = None) -> int:
    """A whole number: ``" 12 "`` and 12.0 give 12. Unlike Jinja's ``int``, what is none is refused, not made 0.

    Args:
      default_value: Taken for what is no number, if given.

    Raises:
      InputError: It is no whole number, and there is no default.
    """
    if isinstance(value, Undefined):
        str(value)  # raises: the column is missing
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,18}", value.strip()):
        return int(value)
    if default_value is None:
        raise InputError("int takes a whole number, such as 12.")
    return default_value


def number(value: Any, default_value: float | None = None) -> float:
    """A number: ``1,5`` and ``1.5`` give 1.5. Thousands have no sign here; amounts go through ``cents``.

    Raises:
      InputError: It is no number, and there is no default.
    """
    if isinstance(value, Undefined):
        str(value)  # raises: the column is missing
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,18}([.,][0-9]{1,18})?", value.strip()):
        return float(value.strip().replace(",", "."))
    if default_value is None:
        raise InputError("float takes a number, such as 12 or 1,5.")
    return default_value


def rounded(value: Any, precision: int = 0) -> int | float:
    """A number with at most so many decimals, 0 to 6; halves go up. Without decimals it is a whole number.

    Raises:
      InputError: It is no number, or ``precision`` is out of its bounds.
    """
    if isinstance(precision, bool) or precision not in range(7):
        raise InputError("round takes 0 to 6 decimals.")
    exact = Decimal(repr(number(value))).quantize(Decimal(1).scaleb(-precision), ROUND_HALF_UP)
    return float(exact) if precision else int(exact)


# --- dates

_MONTHS = ["janeiro", "fevereiro", "março", "abril", "maio", "junho"]
_MONTHS += ["julho", "agosto", "setembro", "outubro", "novembro", "dezembro"]
_DAYS = ["segunda-feira", "terça-feira", "quarta-feira", "quinta-feira", "sexta-feira", "sábado", "domingo"]
_PARTS: dict[str, Callable[[datetime], str]] = {
    "d": lambda at: f"{at.day:02}",
    "m": lambda at: f"{at.month:02}",
    "Y": lambda at: f"{at.year:04}",
    "y": lambda at: f"{at.year % 100:02}",
    "B": lambda at: _MONTHS[at.month - 1],
    "b": lambda at: _MONTHS[at.month - 1][:3],
    "A": lambda at: _DAYS[at.weekday()],
    "a": lambda at: _DAYS[at.weekday()][:3],
    "H": lambda at: f"{at.hour:02}",
    "M": lambda at: f"{at.minute:02}",
    "S": lambda at: f"{at.second:02}",
    "%": lambda _: "%",
}
_DAY_FIRST = re.compile(
    r"(\d{1,2})([/.-])(\d{1,2})\2(\d{4})(?:,?[ T]+(\d{1,2}):(\d{2})(?::(\d{2}))?)?", re.ASCII
)
_ISO = re.compile(r"\d{4}-\d{2}-\d{2}(?P<clock>[T ]\d{2}:\d{2}.*)?", re.ASCII | re.IGNORECASE)
_DIRECTIVE = re.compile(r"%(-?)([^-]?)")
_DATES = "a date is written like 21/11/2026, 2026-11-21 or 2026-11-21T10:00-03:00."


def date(value: Any, form: str = "%d/%m/%Y", zone: str | None = None) -> str:
    """A date or an instant as people read it: ``2026-11-21`` gives ``21/11/2026``.

    Read are ``2026-11-21``, ``21/11/2026`` (also with ``.`` or ``-``), both with a time or without, and instants with
    an offset. These keep the clock they are written with; one in UTC (``…Z``), which machines write, becomes the time of
    São Paulo.

    Args:
      form: ``%d`` ``%m`` ``%Y`` ``%y`` day, month, year; ``%B`` ``%b`` novembro, nov; ``%A`` ``%a`` sábado, sáb;
        ``%H`` ``%M`` ``%S`` the time; ``%-d`` and the like without the leading zero.
      zone: The zone whose clock is wanted, for instants with an offset, such as ``America/Manaus``.

    Raises:
      InputError: It is no date, the date does not exist, or ``form`` asks for a time that it does not have.
    """
    found, has_clock = _read_date(value)
    if found.tzinfo is not None and (zone or not found.utcoffset()):
        found = found.astimezone(_zone(zone or "America/Sao_Paulo"))

    def write(match: "re.Match[str]") -> str:
        write_part = _PARTS.get(match[2])
        if write_part is None:
            raise InputError(f"date does not know {match[0]}; there are %{', %'.join(_PARTS)}.")
        if match[2] in "HMS" and not has_clock:
            raise InputError(f"{match[0]} asks for a time, and the date has none.")
        part = write_part(found)
        return part.removeprefix("0") or "0" if match[1] else part

    return _DIRECTIVE.sub(write, form)


def _read_date(value: Any) -> tuple[datetime, bool]:
    """The instant or local time, and whether there is a time at all."""
    if isinstance(value, Undefined):
        str(value)  # raises: the column is missing
    text = value.strip() if isinstance(value, str) else ""
    if not text:
        raise InputError("a date is missing." if value is None or value == "" else _DATES)
    try:
        if match := _DAY_FIRST.fullmatch(text):
            day, _, month, year, hour, minute, second = match.groups()
            clock = int(hour or 0), int(minute or 0), int(second or 0)
            # Without a zone: the clock on the wall is what people read.
            return datetime(int(year), int(month), int(day), *clock), hour is not None  # noqa: DTZ001
        if match := _ISO.fullmatch(text):
            return datetime.fromisoformat(text), match["clock"] is not None
    except ValueError as error:
        raise InputError(
            "the date or its time does not exist, or is not written as it must be; " + _DATES
        ) from error
    raise InputError(_DATES)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InputError("zone is the name of a time zone, such as America/Manaus.") from error


# --- names and other texts

_TITLES = frozenset({"dr", "dra", "sr", "sra", "srta", "prof", "profa"})
#: Words of a Portuguese name or title that stay small inside of it.
_SMALL = frozenset({"da", "das", "de", "do", "dos", "e"})


def first_name(value: Any) -> str:
    """How to greet somebody: ``MARIA JOSÉ DA SILVA`` and ``Sra. maria`` give ``Maria``."""
    words = _text(value).split()
    for word in words:
        if word.rstrip(".").lower() not in _TITLES:
            return _capital(word)
    return " ".join(words)


def title(value: Any) -> str:
    """A name as it is written in Portuguese: ``MARIA DA SILVA`` gives ``Maria da Silva``."""
    words = _text(value).split(" ")
    return " ".join(
        word.lower() if place and word.lower() in _SMALL else _capital(word)
        for place, word in enumerate(words)
    )


def _capital(word: str) -> str:
    """``MARIA`` and ``maria`` as ``Maria``, ``ANA-CLARA`` as ``Ana-Clara``; ``McGregor`` stays."""
    if not (word.isupper() or word.islower()):
        return word
    return "".join(part.capitalize() for part in re.split(r"([-'’])", word))


def digits(value: Any) -> str:
    """The digits of a text and nothing else: ``123.456.789-09`` gives ``12345678909``."""
    return re.sub("[^0-9]", "", _text(value))


def truncate(value: Any, length: int, end: str = "…") -> str:
    """A text of at most ``length`` characters, ``end`` included, cut between words where that keeps half of it.

    Raises:
      InputError: ``length`` is below that of ``end``.
    """
    text = _text(value)
    if length < len(end):
        raise InputError(f"truncate cuts to {len(end)} characters or more.")
    if len(text) <= length:
        return text
    kept = text[: length - len(end)]
    if not text[len(kept)].isspace():
        whole_words = kept[: max(kept.rfind(" "), 0)]
        kept = whole_words if len(whole_words) * 2 >= len(kept) else kept
    return kept.rstrip() + end


def _text(value: Any) -> str:
    return "" if value is None else str(value)
