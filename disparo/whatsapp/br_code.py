"""PIX BR Codes: the text that a payer copies into a bank's app, taken apart and checked; pure.

The layout is that of EMV's merchant-presented codes with the fields that PIX uses. Not every rule of the Banco
Central is checked: what is, are the things without which a bank's app cannot read the code.
"""

import binascii
import contextlib
import re
import unicodedata
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from disparo.errors import InputError
from disparo.whatsapp import pix_keys

LONGEST = 512  # characters; real codes have 100 to 250

_PIX = "br.gov.bcb.pix"
_WHOLE = "the BR Code"
_ACCOUNTS = [f"{number:02}" for number in range(26, 52)]  # EMVCo leaves these places to account schemes
_NO_TXID = "***"
#: Characters a field may have.
_LONGEST_NAME, _LONGEST_CITY, _LONGEST_TXID = 25, 15, 25
_LINE_BREAKS = re.compile("[\\r\\n\\v\\f\\x85\\u2028\\u2029]")
# Beside what Python takes for blanks, what comes along invisibly when a text is copied.
_INVISIBLE = "\ufeff\u200b\u200e\u200f\u2060"
_AMOUNT = re.compile(r"[0-9]{1,10}(\.[0-9]{0,2})?")
_NAMES = {
    "00": "payload format",
    "01": "point of initiation",
    "26": "PIX account",
    "52": "category",
    "53": "currency",
    "54": "amount",
    "58": "country",
    "59": "merchant name",
    "60": "city",
    "62": "additional data",
    "63": "checksum",
}


@dataclass(frozen=True, slots=True)
class BRCode:
    """What a BR Code says.

    A static code names a ``key`` and can be paid again and again; a dynamic one has a ``url`` from which the
    bank fetches the charge. ``amount_cents`` is None where the code leaves the amount to the charge or payer,
    which some issuers write as zero.
    """

    text: str  #: as it must be copied: without line breaks and outer blanks
    key: str | None
    url: str | None  #: without ``https://``
    single_use: bool
    amount_cents: int | None
    currency: str  #: ISO 4217 number; 986 is the real
    country: str
    merchant_name: str
    city: str
    txid: str | None
    category: str  #: merchant category code, nearly always ``0000``

    @property
    def dynamic(self) -> bool:
        """Whether the bank fetches the charge from ``url``."""
        return self.url is not None


def clean(code: str) -> str:
    """The code without what copying adds: line breaks and outer blanks. Inner blanks belong to names."""
    text = _LINE_BREAKS.sub("", code)
    while (bare := text.strip().strip(_INVISIBLE)) != text:
        text = bare
    return text


def checksum(text: str) -> str:
    """The CRC of everything up to and including ``6304``: CRC-16/CCITT-FALSE, four upper-case hex digits."""
    content = text.encode("utf-8", "replace")
    return f"{binascii.crc_hqx(content, 0xFFFF):04X}"


def parse(code: str, *, verify: bool = True) -> BRCode:
    """Take a BR Code apart, after removing line breaks and outer blanks.

    Lengths in it count characters. Fields may stand in any order between the first and the checksum, and those
    that PIX does not use are left alone.

    Args:
      code: As it was copied.
      verify: Whether the checksum must be right. Some payment providers issue codes with a wrong one.

    Raises:
      InputError: what is wrong with it. The sentence never holds the code.
    """
    text = clean(code)
    if not text:
        raise InputError("The BR Code is empty.")
    if len(text) > LONGEST:
        raise InputError(f"The BR Code has {len(text)} characters; {LONGEST} are allowed.")
    fields = _fields(text, _WHOLE)
    if next(iter(fields)) != "00" or fields["00"] != "01":
        raise InputError("The BR Code does not begin with 000201; copy it whole, from its first character.")
    if fields.get("01", "11") not in ("11", "12"):
        raise InputError(
            f"The BR Code has “{fields['01'][:12]}” as point of initiation (field 01); it is 11 or 12."
        )
    _check_end(text, fields, verify=verify)
    account = _account(fields)
    currency, country = _required(fields, "53", "currency"), _required(fields, "58", "country")
    if currency != "986":
        raise InputError(f"The BR Code is in currency {currency[:12]} (field 53); PIX is in reais (986).")
    if country != "BR":
        raise InputError(f"The BR Code is of country {country[:12]} (field 58); PIX is of BR.")
    category = fields.get("52", "")
    if category and not re.fullmatch("[0-9]{4}", category):
        raise InputError(f"The BR Code has “{category[:12]}” as category (field 52); it is four digits.")
    additional = _fields(fields["62"], "field 62 of the BR Code") if "62" in fields else {}
    txid = _short(additional.get("05") or _NO_TXID, _LONGEST_TXID, "reference (field 62, 05)")
    return BRCode(
        text=text,
        key=account.get("01"),
        url=account.get("25"),
        single_use=fields.get("01") == "12",
        amount_cents=_cents(fields["54"]) if "54" in fields else None,
        currency=currency,
        country=country,
        merchant_name=_short(
            _required(fields, "59", "merchant name"), _LONGEST_NAME, "merchant name (field 59)"
        ),
        city=_short(_required(fields, "60", "city"), _LONGEST_CITY, "city (field 60)"),
        txid=None if txid == _NO_TXID else txid,
        category=category,
    )


def _fields(text: str, what: str) -> dict[str, str]:
    """Two digits of id, two of length, then as many characters; nothing may be left over."""
    fields: dict[str, str] = {}
    position = 0
    while position < len(text):
        head = text[position : position + 4]
        if len(head) < 4 or not (head.isascii() and head.isdecimal()):
            raise InputError(
                f"In {what}, an id and a length are expected at character {position + 1}; "
                "characters are missing or too many before it. Copy the code whole."
            )
        name, length = head[:2], int(head[2:])
        value = text[position + 4 : position + 4 + length]
        if len(value) < length:
            raise InputError(
                f"In {what}, field {_named(name, what)} is cut off: {length} characters are announced at character "
                f"{position + 1}, {len(value)} are left. Copy the code whole."
            )
        if name in fields:
            raise InputError(
                f"In {what}, field {_named(name, what)} stands twice; ask its issuer for another."
            )
        fields[name] = value
        position += 4 + length
    return fields


def _named(field: str, what: str) -> str:
    return f"{field} ({_NAMES[field]})" if field in _NAMES and what == _WHOLE else field


def _check_end(text: str, fields: dict[str, str], *, verify: bool) -> None:
    if list(fields)[-1] != "63" or len(fields["63"]) != 4:
        raise InputError(
            "The BR Code does not end with its checksum (6304 and four characters); copy it whole."
        )
    stated, expected = fields["63"], checksum(text[:-4])
    if verify and stated.upper() != expected:
        raise InputError(
            f"The checksum of the BR Code is {stated} (field 63), its characters give {expected}: one was lost or "
            "changed on the way. Copy the code again."
        )


def _account(fields: dict[str, str]) -> dict[str, str]:
    for name in _ACCOUNTS:
        # Other schemes' accounts may stand beside that of PIX and need not be made of fields.
        if name in fields and _PIX in fields[name].lower():
            account = _fields(fields[name], f"field {name} of the BR Code")
            if account.get("00", "").lower() == _PIX:
                _check_account(account, name)
                return account
    raise InputError("The BR Code holds no PIX account (br.gov.bcb.pix).")


def _check_account(account: dict[str, str], place: str) -> None:
    key, url = account.get("01"), account.get("25")
    if not key and not url:
        raise InputError("The BR Code has neither a PIX key nor the address of a charge.")
    if url and "://" in url:
        raise InputError(
            f"The address of the charge in the BR Code (field {place}, 25) stands without https://; "
            "ask its issuer for another."
        )
    # Check digits are left to the bank: published samples have keys that are nobody's.
    if key and not url and not pix_keys.has_form(key):
        raise InputError(
            f"The BR Code names {pix_keys.mask(key)} as PIX key (field {place}, 01), which is no CPF, CNPJ, e-mail, "
            "phone or random key."
        )


def _short(value: str, longest: int, what: str) -> str:
    if len(value) > longest:
        raise InputError(f"The BR Code has {len(value)} characters as {what}; {longest} are allowed.")
    return value


def _required(fields: dict[str, str], name: str, meaning: str) -> str:
    if not fields.get(name):
        raise InputError(f"The BR Code has no {meaning} (field {name}).")
    return fields[name]


def _cents(text: str) -> int | None:
    if not _AMOUNT.fullmatch(text):
        raise InputError(
            f"The amount of the BR Code is “{text[:13]}” (field 54); it is written like 12.34, without separators."
        )
    return int(Decimal(f"{text}0" if text.endswith(".") else text) * 100) or None


def report(code: str) -> dict[str, Any]:
    """What ``pix code --json`` prints of a code, valid or not; ``amount`` is text in reais, ``812.50``.

    Of a code of which only the checksum is wrong the fields are there as well, to find out what it was.
    """
    text, found, errors = clean(code), None, []
    try:
        found = parse(text)
    except InputError as err:
        errors.append(str(err))
        with contextlib.suppress(InputError):
            found = parse(text, verify=False)
    cents = found.amount_cents if found else None
    return {
        "code": text,
        "valid": not errors,
        "kind": ("dynamic" if found.dynamic else "static") if found else None,
        "amount": None if cents is None else f"{cents // 100}.{cents % 100:02}",
        **{name: getattr(found, name, None) for name in ("key", "url", "txid", "merchant_name", "city")},
        "errors": errors,
    }


def disagreement(found: BRCode, merchant_name: str, key: str) -> tuple[str, str] | None:
    """Which of ``merchant_name`` and ``key`` is another than the code's, and a sentence; None when both agree.

    Codes cut names at 25 characters and write them without accents, so beginnings are compared. A dynamic code
    names no key.
    """
    stated, given = _plain(found.merchant_name), _plain(merchant_name)
    if not given.startswith(stated[:20]) and not stated.startswith(given):
        return "merchant_name", f"is another than the code's, “{found.merchant_name[:25]}”"
    if found.key is not None and _plain(found.key) != _plain(key):
        return "key", "is another than the code's, to which the money goes"
    return None


def _plain(text: str) -> str:
    folded = unicodedata.normalize("NFKD", text.casefold())
    return "".join(char for char in folded if char.isalnum())
