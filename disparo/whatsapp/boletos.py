"""Boletos: the digits that a payer types into a bank's app, checked; pure.

Source: Febraban, Layout padrão de arrecadação (48 digits) and Convenção de cobrança, linha digitável (47 digits), as
common descriptions on 2026-11-21 give them.
"""

import re
from collections.abc import Iterable

from disparo.errors import InputError

_BETWEEN = re.compile(r"[\s.-]+")


def parse(line: str) -> str:
    """The digits of a boleto's line, 47 of a bank's or 48 of a tax or utility bill, with right check digits.

    Blanks, line breaks, dots and hyphens between them go.

    Raises:
      InputError: Digits are missing or too many, or one of them is wrong; says in which field. Shows none of them.
    """
    digits = _BETWEEN.sub("", line)
    if not (digits.isascii() and digits.isdigit() and len(digits) in (47, 48)):
        raise InputError(
            f"the line of the boleto has {len(digits)} characters; it has 47 digits, or 48 and an 8 before them all"
        )
    wrong = _wrong_of_bill(digits) if len(digits) == 48 else _wrong_of_bank(digits)
    if wrong:
        raise InputError(f"the line of the boleto has a wrong digit {wrong}; copy it again")
    return digits


def _wrong_of_bank(digits: str) -> str | None:
    for number, field in enumerate((digits[:10], digits[10:21], digits[21:32]), 1):
        if _modulo_10(field[:-1]) != int(field[-1]):
            return f"in its field {number}"
    # The bar code has the same digits in another order; its own check digit is field 4.
    content = digits[:4] + digits[33:] + digits[4:9] + digits[10:20] + digits[21:31]
    check = 11 - _weighed(content) % 11
    return None if (1 if check > 9 else check) == int(digits[32]) else "in its last two fields"


def _wrong_of_bill(digits: str) -> str | None:
    if digits[0] != "8" or digits[2] not in "6789":
        return "among its first three"
    check = _modulo_10 if digits[2] in "67" else _modulo_11
    fields = [digits[at : at + 12] for at in range(0, 48, 12)]
    for number, field in enumerate(fields, 1):
        if check(field[:-1]) != int(field[-1]):
            return f"in its field {number}"
    content = "".join(field[:-1] for field in fields)
    return None if check(content[:3] + content[4:]) == int(content[3]) else "in its first field"


def _modulo_10(digits: str) -> int:
    """Weights 2 and 1 from the right; of a product the digits are added."""
    products = (int(digit) * (2 - at % 2) for at, digit in enumerate(reversed(digits)))
    return -sum(product // 10 + product % 10 for product in products) % 10


def _modulo_11(digits: str) -> int:
    remainder = _weighed(digits) % 11
    return 0 if remainder < 2 else 11 - remainder


def _weighed(digits: Iterable[str]) -> int:
    """The sum with weights 2 to 9 from the right, again and again."""
    return sum(int(digit) * (2 + at % 8) for at, digit in enumerate(reversed(list(digits))))
