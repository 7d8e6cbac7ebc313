"""PIX BR Codes: the text that a payer copies into a bank's app, taken apart and checked; pure.

The layout is that of EMV's merchant-presented codes with the fields that PIX uses. Not every rule of the Banco
Central is checked: what is, are the things without which a bank's app cannot read the code.
"""

import binascii
from dataclasses import dataclass
from decimal import Decimal

from disparo.errors import InputError

LONGEST = 512  # characters; real codes have 100 to 250

_PIX = "br.gov.bcb.pix"
_ACCOUNTS = [f"{number:02}" for number in range(26, 52)]  # EMVCo leaves these places to account schemes
_NO_TXID = "***"


@dataclass(frozen=True, slots=True)
class BRCode:
    """What a BR Code says.

    A static code names a ``key`` and can be paid again and again; a dynamic one has a ``url`` from which the
    bank fetches the charge. ``amount_cents`` is None where the code leaves the amount to the charge or payer.
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
    return code.replace("\r", "").replace("\n", "").strip()


def checksum(text: str) -> str:
    """The CRC of everything up to and including ``6304``: CRC-16/CCITT-FALSE, four upper-case hex digits."""
    content = text.encode("utf-8", "replace")
    return f"{binascii.crc_hqx(content, 0xFFFF):04X}"


def parse(code: str, *, verify: bool = True) -> BRCode:
    """Take a BR Code apart, after removing line breaks and outer blanks.

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
    fields = _fields(text, "the BR Code")
    if next(iter(fields)) != "00" or fields["00"] != "01":
        raise InputError("The BR Code does not begin with 000201; copy it whole, from its first character.")
    _check_end(text, fields, verify=verify)
    account = _account(fields)
    currency, country = _required(fields, "53", "currency"), _required(fields, "58", "country")
    if currency != "986":
        raise InputError(f"The BR Code is in currency {currency}; PIX is in reais (986).")
    if country != "BR":
        raise InputError(f"The BR Code is of country {country}; PIX is of BR.")
    additional = _fields(fields["62"], "field 62 of the BR Code") if "62" in fields else {}
    txid = additional.get("05", _NO_TXID)
    return BRCode(
        text=text,
        key=account.get("01"),
        url=account.get("25"),
        single_use=fields.get("01") == "12",
        amount_cents=_cents(fields["54"]) if "54" in fields else None,
        currency=currency,
        country=country,
        merchant_name=_required(fields, "59", "merchant name"),
        city=_required(fields, "60", "city"),
        txid=None if txid == _NO_TXID else txid,
        category=fields.get("52", ""),
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
            raise InputError(f"In {what}, field {name} is cut off; copy the code whole.")
        if name in fields:
            raise InputError(f"In {what}, field {name} stands twice.")
        fields[name] = value
        position += 4 + length
    return fields


def _check_end(text: str, fields: dict[str, str], *, verify: bool) -> None:
    if list(fields)[-1] != "63" or len(fields["63"]) != 4:
        raise InputError(
            "The BR Code does not end with its checksum (6304 and four characters); copy it whole."
        )
    stated, expected = fields["63"], checksum(text[:-4])
    if verify and stated.upper() != expected:
        raise InputError(
            f"The checksum of the BR Code is {stated}, its characters give {expected}: one was lost or "
            "changed on the way. Copy the code again."
        )


def _account(fields: dict[str, str]) -> dict[str, str]:
    for name in _ACCOUNTS:
        # Other schemes' accounts may stand beside that of PIX and need not be made of fields.
        if name in fields and _PIX in fields[name].lower():
            account = _fields(fields[name], f"field {name} of the BR Code")
            if account.get("00", "").lower() == _PIX:
                if not account.get("01") and not account.get("25"):
                    raise InputError("The BR Code has neither a PIX key nor the address of a charge.")
                return account
    raise InputError("The BR Code holds no PIX account (br.gov.bcb.pix).")


def _required(fields: dict[str, str], name: str, meaning: str) -> str:
    if not fields.get(name):
        raise InputError(f"The BR Code has no {meaning} (field {name}).")
    return fields[name]


def _cents(text: str) -> int:
    whole, _, decimals = text.partition(".")
    if not (text.isascii() and (whole + decimals).isdecimal() and len(decimals) <= 2):
        raise InputError(f"The amount of the BR Code is “{text}”; it is written like 12.34.")
    return int(Decimal(text + "0" if text.endswith(".") else text) * 100)
