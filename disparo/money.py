"""Amounts in reais as people and spreadsheets write them → integer cents, and back; pure."""

import re
from decimal import Decimal, InvalidOperation, localcontext
from typing import Literal, TypeAlias

from disparo.errors import InputError

Numbers: TypeAlias = Literal["br", "en"]
"""How amounts are written: ``br`` is 1.234,56, ``en`` is 1,234.56."""

#: A blank may stand after the sign, and for thousands: ``R$ 1 234,56``. Elsewhere it parts two numbers.
_AMOUNT = re.compile(
    r"(?:R\$\s*)?([0-9]{1,3}(?:\s[0-9]{3})+(?:[.,][0-9]{1,2})?|[0-9][0-9.,]*)", re.IGNORECASE
)
_THOUSANDS = {"br": (".", ","), "en": (",", ".")}


def cents(value: object, numbers: Numbers | None = None) -> int:
    """An amount in reais as people and spreadsheets write it → integer cents.

    ``1.234,56``, ``R$ 1.234,56``, ``1,234.56`` and ``1234.56`` give 123456; ``812`` gives 81200.

    Args:
      value: Text, int, float or Decimal, in reais, not below zero.
      numbers: ``br`` (1.234,56) or ``en`` (1,234.56); says what ``1.234`` means, which is refused otherwise.

    Raises:
      InputError: it is no amount, is ambiguous, or has parts of a cent.
    """
    if numbers not in (None, "br", "en"):
        raise InputError("numbers is br (1.234,56) or en (1,234.56).")
    if isinstance(value, str):
        amount = _read_amount(value, numbers)
    elif isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        amount = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    else:
        raise InputError("an amount is missing." if value is None else "an amount is a number or text.")
    if not amount.is_finite() or amount < 0:
        raise InputError("an amount is a number that is not below zero.")
    with localcontext(prec=400):
        # Nothing is rounded, however long it is written.
        hundredths = amount * 100
    if hundredths != hundredths.to_integral_value():
        raise InputError("an amount has more than two decimals; write reais and cents, as in 1234,56.")
    return int(hundredths)


def _read_amount(text: str, numbers: Numbers | None) -> Decimal:
    stripped = text.strip()
    if not stripped:
        raise InputError("an amount is missing.")
    match = _AMOUNT.fullmatch(stripped)
    if not match or len(stripped) > 30:
        raise InputError("an amount is written like 1.234,56 or R$ 812,50, and is not below zero.")
    written = "".join(match[1].split())
    if written != match[1]:
        # What comes after the thousands is the decimal sign, whichever way numbers are written.
        return Decimal(written.replace(",", "."))
    thousands, point = _THOUSANDS[numbers or _style(written)]
    whole, *decimals = written.split(point)
    groups = whole.split(thousands)
    if len(groups) > 1 and (
        not groups[0] or len(groups[0]) > 3 or any(len(group) != 3 for group in groups[1:])
    ):
        raise InputError("an amount has its separators in odd places; write it like 1.234,56.")
    if len(decimals) > 1 or any(thousands in part for part in decimals):
        raise InputError("an amount has its separators in odd places; write it like 1.234,56.")
    try:
        return Decimal("".join(groups) + "." + "".join(decimals))
    except InvalidOperation as error:
        raise InputError("an amount is written like 1.234,56 or R$ 812,50.") from error


def _style(written: str) -> Numbers:
    """Which of the two ways of writing numbers this is; what comes last is the decimal sign."""
    dots, commas = written.count("."), written.count(",")
    if dots and commas:
        return "br" if written.rfind(",") > written.rfind(".") else "en"
    if dots > 1 or commas > 1:
        return "br" if dots else "en"
    if dots or commas:
        before, after = re.split("[.,]", written)
        if len(after) == 3 and 1 <= len(before) <= 3:
            raise InputError(
                "an amount is ambiguous: one sign and three digits after it may be thousands or decimals; "
                'write it with cents, as in 1.234,00, or say which with numbers "br" or "en".'
            )
    return "en" if dots else "br"


def brl(value: object) -> str:
    """Integer cents as people read them: 123456 gives ``R$ 1.234,56``.

    Raises:
      InputError: it is no whole number (amounts in reais go through ``cents`` first).
    """
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value.strip()):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError("brl takes whole cents; write {{ amount | cents | brl }} for an amount in reais.")
    reais, rest = divmod(abs(value), 100)
    sign = "-" if value < 0 else ""
    return f"{sign}R$ {reais:,}".replace(",", ".") + f",{rest:02}"
