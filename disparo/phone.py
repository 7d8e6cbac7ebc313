"""Phone numbers as people write them → the digits to send to and a key to compare them by; pure."""

import re
from typing import TYPE_CHECKING, NamedTuple

from disparo.errors import InputError

if TYPE_CHECKING:
    from phonenumbers import PhoneNumber

BRAZIL = "55"

# The area codes (DDD) in use: those for which the table of phonenumbers 9.0.43 knows mobiles.
_AREA = "1[1-9]|2[12478]|3[1-578]|4[1-9]|5[1345]|6[1-9]|7[134579]|8[1-9]|9[1-9]"
_AREA_CODE = re.compile(_AREA)
# A mobile has nine digits and begins with 9, or eight (before 2016) and begins with 6 to 9; a landline
# has eight and begins with 2 to 5.
_BRAZILIAN = re.compile(rf"(?:\+?55)?({_AREA})(?:9([0-9]{{8}})|([2-9][0-9]{{7}}))")

_KEY = re.compile(r"br([0-9]{2})([mf])([0-9]{8})")

# What people put between digits, with what comes along invisibly when a number is copied from a contact card.
_SEPARATORS = dict.fromkeys(
    [
        *map(ord, " \t\r\n().-'’"),
        0xA0,
        0xAD,
        *range(0x2000, 0x2016),
        *range(0x2028, 0x2030),
        0x2060,
        0x2212,
        0xFEFF,
    ]
)
_SPREADSHEET_FLOAT = re.compile(r"\s*'?(\+?[0-9]+)[.,]0{1,2}\s*")
_SCIENTIFIC = re.compile(r"\s*[0-9]+([.,][0-9]*)?[eE]\+?[0-9]{1,3}\s*")
_TRUNK_PLACEHOLDER = re.compile(r"(\+?55)?\(?0?xx\)?", re.IGNORECASE)
_CARRIER = re.compile(rf"0(?:[1-9][0-9])?((?:{_AREA})(?:9[0-9]{{8}}|[2-9][0-9]{{7}}))")

_LONGEST = 15  # ITU-T E.164
_SHORTEST_WITH_COUNTRY = 10  # without a +, fewer digits are more likely a damaged Brazilian number


class Phone(NamedTuple):
    """A number that can be written to.

    ``digits`` is the country code and the number without ``+``, as it goes on the wire. ``key`` is for
    comparing, never for sending: one key for both spellings of a Brazilian mobile.
    """

    digits: str
    key: str


class PhoneError(InputError):
    """A text that is no usable phone number.

    ``reason`` is stable, for counting and for files of rejects: ``empty``, ``no_ddd`` (no area code),
    ``unknown_ddd`` (an area code that does not exist), ``too_short``, ``too_long``, ``excel_damage``
    (digits lost in a spreadsheet) or ``not_a_number``.
    """

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


def parse(text: str | int, default_country: str = BRAZIL) -> Phone:
    """Read one phone number, with or without country code, as people and spreadsheets write it.

    With Brazil as the default country a number of ten or eleven digits that is a possible Brazilian one
    is Brazilian; a foreign number that looks the same (Peru, ``51 9…``) needs its ``+``. Mobiles
    are taken with and without the ninth digit and stay as they were given. Whether somebody answers
    there is not known.

    Shapes understood: ``5511999998888``, ``+55 (11) 99999-8888``, ``11 99999-8888``, ``011…``, ``0xx11…``,
    ``0 15 11…`` (with a carrier), ``0055…``, ``5511999998888.0``, ``+1 650 555 1234``, ``16505551234``.

    Raises:
      PhoneError: with its reason and a sentence that shows at most the last four digits.
    """
    if not isinstance(text, str):
        text = _written(text)
    # The common case costs one match; everything else below may be slow.
    if default_country == BRAZIL and (match := _BRAZILIAN.fullmatch(text)):
        return _brazilian(match)
    return _parse_written(text, default_country)


def key_of(digits: str) -> str:
    """The comparison key of digits that are already known to be a phone number with country code.

    ``5511999998888`` and ``551199998888`` give ``br11m99998888``; the landline ``551133334444`` gives
    ``br11f33334444``; any other country gives the digits. Letters keep the three apart.
    """
    if digits.startswith(BRAZIL) and len(digits) >= 12 and (match := _BRAZILIAN.fullmatch(digits)):
        return _brazilian(match).key
    return digits


def digits_of(key: str) -> str:
    """A number with that comparison key, mobiles in the spelling with the ninth digit; any other key as it is."""
    if match := _KEY.fullmatch(key):
        area, kind, eight = match.groups()
        return f"{BRAZIL}{area}{'9' if kind == 'm' else ''}{eight}"
    return key


def calling_code(digits: str) -> str | None:
    """The calling code that digits with country code begin with, one to three digits; None: no country has it.

    Source: ITU-T E.164, where no calling code is the beginning of another.
    """
    if digits.startswith(BRAZIL):
        return BRAZIL
    return next((digits[:n] for n in (1, 2, 3) if is_calling_code(digits[:n])), None)


def is_calling_code(text: str) -> bool:
    """Whether some country or service has this calling code."""
    import phonenumbers  # 0.1 s and 20 MB that plain Brazilian lists never need

    known = phonenumbers.COUNTRY_CODE_TO_REGION_CODE
    return text.isascii() and text.isdecimal() and not text.startswith("0") and int(text) in known


def mask(digits: str) -> str:
    """The number for logs and screens: ``5511999998888`` gives ``55119****8888``."""
    if len(digits) < 9:
        return "****" + digits[-2:] if len(digits) > 4 else "****"
    return f"{digits[:-8]}****{digits[-4:]}"


# Dates, amounts and references of the usual forms are none: 2026-12-03 begins with no area code in use.
_GAP = r"[\s().\-‐-–]{0,3}"
_IN_TEXT = re.compile(
    rf"(?<![0-9])(?:[0-9]{{{_SHORTEST_WITH_COUNTRY},{_LONGEST}}}"
    rf"|\+[0-9](?:{_GAP}[0-9]){{{_SHORTEST_WITH_COUNTRY - 1},{_LONGEST - 1}}}"
    rf"|(?:\+?55{_GAP})?\(?0?(?:{_AREA}){_GAP}(?:9{_GAP})?[0-9]{{4}}{_GAP}[0-9]{{4}})(?![0-9])"
)


def mask_in(text: str) -> str:
    """A sentence or a value for logs and screens, all in it that may be a phone masked; 10 to 15 digits are."""
    return _IN_TEXT.sub(lambda match: mask(re.sub("[^0-9]", "", match[0])), text)


def _brazilian(match: re.Match[str]) -> Phone:
    area, after_ninth, eight = match.groups()
    if after_ninth:
        return Phone(f"55{area}9{after_ninth}", f"br{area}m{after_ninth}")
    return Phone(f"55{area}{eight}", f"br{area}{'f' if eight < '6' else 'm'}{eight}")


def _written(value: object) -> str:
    """A number cell as text: spreadsheets hand over 5511999998888 and 5511999998888.0 alike."""
    if isinstance(value, float) and value.is_integer() and value < 10**_LONGEST:
        return str(int(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return str(min(value, 10**30))  # Python refuses to write out numbers of thousands of digits
    if value is None:
        return ""
    raise PhoneError("not_a_number", f"A phone number is text or a whole number, not {type(value).__name__}.")


def _parse_written(text: str, default_country: str) -> Phone:
    if _SCIENTIFIC.fullmatch(text):
        raise PhoneError(
            "excel_damage",
            f"Excel lost the digits of {_shown(text)}; format the column as text and export again.",
        )
    if spreadsheet := _SPREADSHEET_FLOAT.fullmatch(text):
        text = spreadsheet[1]
    compact = text.translate(_SEPARATORS)
    if not compact:
        raise PhoneError("empty", "The phone number is empty.")
    compact = _TRUNK_PLACEHOLDER.sub(r"\1", compact, count=1) if "x" in compact.lower() else compact
    if compact.startswith("00"):  # the international prefix of most countries
        compact = "+" + compact[2:]
    digits = compact.removeprefix("+")
    if not (digits.isascii() and digits.isdecimal()):
        raise PhoneError(
            "not_a_number",
            f"{_shown(text)} is not one phone number; write country code, area code and number in digits.",
        )
    signed = compact.startswith("+")
    complete = digits.startswith(BRAZIL) and (signed or len(digits) > 11)
    at_home = default_country == BRAZIL and not signed
    if complete or at_home:
        # +55 (0)11 … and 55 011 …: the trunk zero belongs to calls within the country.
        national = re.sub(r"^(\+?55)0", r"\1", compact)
        if match := _BRAZILIAN.fullmatch(national):
            return _brazilian(match)
        if (carrier := _CARRIER.fullmatch(national)) and (match := _BRAZILIAN.fullmatch(carrier[1])):
            return _brazilian(match)
    if complete and (signed or at_home):
        raise _brazilian_fault(digits[2:], text)
    if signed:
        return _foreign(digits, text)
    return _without_plus(digits, text, default_country)


def _without_plus(digits: str, text: str, default_country: str) -> Phone:
    if default_country != BRAZIL and (phone := _national(digits, default_country)):
        return phone
    if len(digits) >= _SHORTEST_WITH_COUNTRY and not digits.startswith("0"):
        try:
            return _foreign(digits, text, must_be_valid=True)
        except PhoneError:
            if default_country != BRAZIL:
                raise
    if default_country != BRAZIL:
        raise PhoneError("too_short", f"{_shown(text)} has too few digits for a phone number.")
    raise _brazilian_fault(digits.lstrip("0"), text)


def _national(digits: str, country: str) -> Phone | None:
    """The number as one of the default country, when that is possible."""
    import phonenumbers  # 0.1 s and 20 MB that plain Brazilian lists never need

    try:
        number = phonenumbers.parse(digits, phonenumbers.region_code_for_country_code(int(country)))
    except (ValueError, phonenumbers.NumberParseException):
        return None
    return _phone_of(number) if phonenumbers.is_valid_number(number) else None


def _foreign(digits: str, text: str, *, must_be_valid: bool = False) -> Phone:
    """A number by its own country code.

    Without a ``+`` only numbers that exist by their country's plan pass, because any eleven digits begin
    with some country's code. With it the writer meant that country, and a length that it uses is enough.
    """
    import phonenumbers  # see above

    shown = _shown(text)
    if len(digits) > _LONGEST:
        raise PhoneError("too_long", f"{shown} has {len(digits)} digits; a phone number has at most 15.")
    try:
        number = phonenumbers.parse("+" + digits)
    except phonenumbers.NumberParseException as error:
        reason = "too_short" if len(digits) < 7 else "not_a_number"
        raise PhoneError(reason, f"{shown} begins with no country's code, or is too short.") from error
    country = number.country_code
    possible = phonenumbers.is_possible_number_with_reason(number)
    if possible == phonenumbers.ValidationResult.TOO_LONG:
        raise PhoneError("too_long", f"{shown} has too many digits for country code {country}.")
    if possible != phonenumbers.ValidationResult.IS_POSSIBLE:
        raise PhoneError("too_short", f"{shown} has too few digits for country code {country}.")
    if must_be_valid and not phonenumbers.is_valid_number(number):
        raise PhoneError("not_a_number", f"{shown} is no number of country code {country}.")
    return _phone_of(number)


def _phone_of(number: "PhoneNumber") -> Phone:
    from phonenumbers import national_significant_number  # see above

    digits = f"{number.country_code}{national_significant_number(number)}"
    return Phone(digits, key_of(digits))


def _brazilian_fault(national: str, text: str) -> PhoneError:
    """Why digits without country code are no Brazilian number."""
    shown = _shown(text)
    if re.fullmatch(r"9[0-9]{8}|[2-9][0-9]{7}", national):
        return PhoneError(
            "no_ddd", f"{shown} has no area code (DDD); write it in front, as in 11 99999-8888."
        )
    wanted = "a number has its area code (DDD) and 8 or 9 digits"
    if len(national) < 10:
        return PhoneError("too_short", f"{shown} has too few digits; {wanted}.")
    if len(national) > 11:
        return PhoneError("too_long", f"{shown} has too many digits; {wanted}.")
    if not _AREA_CODE.match(national):
        return PhoneError("unknown_ddd", f"{shown}: there is no area code (DDD) {national[:2]} in Brazil.")
    return PhoneError(
        "not_a_number",
        f"{shown} is no Brazilian number: after the area code, nine digits begin with 9, eight with 2 to 9.",
    )


def _shown(text: str) -> str:
    """The text as it was written, with all digits but the last four hidden."""
    text = text.strip()[:40]
    hidden = len(re.findall(r"[0-9]", text)) - 4
    return "“" + re.sub(r"[0-9]", "*", text, count=max(hidden, 0)) + "”"
