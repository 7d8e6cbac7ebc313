"""PIX keys: which type a key is of, its canonical form, and whether it can exist at all; pure.

Source: Banco Central do Brasil, API do DICT (forms of keys); Receita Federal, IN RFB 2.229/2024 (CNPJ with
letters, registered since July 2026), as known on 2026-11-21. Whether the directory of PIX and WhatsApp take a CNPJ with
letters is not confirmed.
"""

import re
from typing import Literal, NamedTuple, TypeAlias, get_args

from disparo.errors import InputError

KeyType: TypeAlias = Literal["CPF", "CNPJ", "EMAIL", "PHONE", "EVP"]
KEY_TYPES: tuple[KeyType, ...] = get_args(KeyType)

LONGEST_EMAIL = 77

_CPF = re.compile(r"[0-9]{11}")
# Check digits are digits still; letters stand in the first twelve places only.
_CNPJ = re.compile(r"[0-9A-Z]{12}[0-9]{2}")
_EMAIL = re.compile(
    r"[a-z0-9.!#$%&'*+/=?^_`{|}~-]+@[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)+"
)
_EVP = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# The area codes (DDD) in use, then a mobile of nine digits or a number of eight.
_PHONE = re.compile(
    r"\+55(1[1-9]|2[12478]|3[1-578]|4[1-9]|5[1345]|6[1-9]|7[134579]|8[1-9]|9[1-9])(9[0-9]{8}|[2-9][0-9]{7})"
)
_ANY_PHONE = re.compile(r"\+[1-9][0-9]{2,15}")
_PUNCTUATION = str.maketrans("", "", " .-/")
_PHONE_PUNCTUATION = str.maketrans("", "", " .-()")


class Key(NamedTuple):
    """A key as the directory of PIX has it, such as ``("39580525000189", "CNPJ")``."""

    value: str
    type: KeyType


def parse(text: str, key_type: str | None = None) -> Key:
    """The key that a person or a spreadsheet wrote, in its canonical form.

    Punctuation of CPF, CNPJ and phones goes, e-mails and EVPs become lower case, letters of a CNPJ capital.
    Without ``key_type`` it is found out: eleven digits are a CPF when its check digits hold, a phone begins
    with ``+55``.

    Raises:
      InputError: It is no key, or none of that type. The sentence shows at most its last four characters.
    """
    given = text.strip()
    if not given:
        raise InputError("the PIX key is empty")
    if key_type is None:
        return _guess(given)
    wanted = key_type.strip().upper()
    for known in KEY_TYPES:
        if known == wanted:
            value = _canonical(given, known)
            if fault := _fault(value, known):
                raise InputError(f"the PIX key {mask(given)} is no {known}: {fault}")
            return Key(value, known)
    raise InputError(f"a PIX key is of type {', '.join(KEY_TYPES)}; {key_type[:20]!r} is none of them")


def fault(key: str, key_type: str) -> str | None:
    """Why ``key`` is not a key of that type in its canonical form, in words that show nothing of it; None when it is."""
    for known in KEY_TYPES:
        if known == key_type:
            if (found := _fault(key, known)) is None:
                return None
            canonical = _canonical(key.strip(), known)
            written = canonical != key and _fault(canonical, known) is None
            return f"is written {_WRITTEN[known]}" if written else found
    return f"is of no known type; there are {', '.join(KEY_TYPES)}"


def has_form(key: str) -> bool:
    """Whether ``key`` is written as a key of some type is, even if its check digits or area code are wrong."""
    text = key.strip()
    bare = text.translate(_PUNCTUATION).upper()
    return (
        any(form.fullmatch(bare) for form in (_CPF, _CNPJ))
        or any(form.fullmatch(text.lower()) for form in (_EMAIL, _EVP))
        or _ANY_PHONE.fullmatch(text.translate(_PHONE_PUNCTUATION)) is not None
    )


def mask(key: str) -> str:
    """The key for errors and logs: its last four characters, of a short one fewer."""
    shown = key.strip()[-min(4, len(key.strip()) // 3) :] if len(key.strip()) >= 3 else ""
    return f"…{shown}"


def is_cpf(digits: str) -> bool:
    """Whether eleven digits are a CPF: both check digits hold, and they are not all the same."""
    if not _CPF.fullmatch(digits) or digits == digits[0] * 11:
        return False
    return all(
        _remainder_digit(sum(int(digits[at]) * (length + 1 - at) for at in range(length)))
        == int(digits[length])
        for length in (9, 10)
    )


def is_cnpj(text: str) -> bool:
    """Whether fourteen characters are a CNPJ, of digits alone or with letters (a character counts ASCII - 48)."""
    if not _CNPJ.fullmatch(text) or text == text[0] * 14:
        return False
    return all(
        # Weights 2 to 9 from the right, again and again.
        _remainder_digit(sum((ord(text[at]) - 48) * (2 + (length - 1 - at) % 8) for at in range(length)))
        == int(text[length])
        for length in (12, 13)
    )


def _remainder_digit(total: int) -> int:
    remainder = total % 11
    return 0 if remainder < 2 else 11 - remainder


def _guess(given: str) -> Key:
    if "@" in given:
        return parse(given, "EMAIL")
    if given.startswith("+"):
        return parse(given, "PHONE")
    if len(given) == 36 and given.count("-") == 4:
        return parse(given, "EVP")
    bare = given.translate(_PUNCTUATION).upper()
    if is_cpf(bare):
        return Key(bare, "CPF")
    if _CNPJ.fullmatch(bare):
        return parse(given, "CNPJ")
    if _CPF.fullmatch(bare):
        raise InputError(
            f"the PIX key {mask(given)} has eleven digits that are no CPF; a phone is written with +55 before it"
        )
    raise InputError(
        f"the PIX key {mask(given)} is none: a key is a CPF, a CNPJ, an e-mail, a phone with +55, or the 36 "
        "characters of a random key"
    )


def _canonical(given: str, key_type: KeyType) -> str:
    if key_type in ("CPF", "CNPJ"):
        return given.translate(_PUNCTUATION).upper()
    return given.translate(_PHONE_PUNCTUATION) if key_type == "PHONE" else given.lower()


_WRITTEN: dict[KeyType, str] = {
    "CPF": "as 11 digits, without dots and hyphens",
    "CNPJ": "as 14 digits or capital letters, without dots, slashes and hyphens",
    "EMAIL": "in lower case",
    "PHONE": "as +55, area code and number, without blanks and hyphens",
    "EVP": "in lower case",
}


def _lost(shape: str, value: str) -> str:
    return ", as when a spreadsheet drops leading zeros" if re.fullmatch(shape, value) else ""


def _fault(value: str, key_type: KeyType) -> str | None:
    match key_type:
        case "CPF":
            if not _CPF.fullmatch(value):
                return f"a CPF has 11 digits{_lost('[0-9]{8,10}', value)}"
            return None if is_cpf(value) else "its check digits are not those of a CPF"
        case "CNPJ":
            if not _CNPJ.fullmatch(value):
                lost = _lost("[0-9]{11,13}", value)
                return f"a CNPJ has 14 digits, or capital letters in its first 12 places{lost}"
            return None if is_cnpj(value) else "its check digits are not those of a CNPJ"
        case "EMAIL":
            if len(value) > LONGEST_EMAIL:
                return f"it has {len(value)} characters; an e-mail has at most {LONGEST_EMAIL} as a key"
            return (
                None
                if _EMAIL.fullmatch(value)
                else "an e-mail is written like name@example.com, in lower case"
            )
        case "PHONE":
            if _PHONE.fullmatch(value):
                return None
            return "a phone is written like +5511999998888: +55, an area code that exists, 8 or 9 digits"
        case "EVP":
            if _EVP.fullmatch(value):
                return None
            return "a random key has 36 characters in lower case, like 123e4567-e12b-12d1-a456-426655440000"
