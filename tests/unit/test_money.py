"""Amounts as they stand in spreadsheets."""

from decimal import Decimal

import pytest

from disparo.errors import InputError
from disparo.money import cents


@pytest.mark.parametrize(
    ("written", "expected"),
    [("1 234,56", 123456), ("R$ 12 345 678,9", 1_234_567_890), ("1 234", 123400), ("r$812,50", 81250),
     ("R$\u00a01.234,56", 123456), (" 10.50 ", 1050), (8.1, 810)],
)  # fmt: skip
def test_a_blank_stands_after_the_sign_and_for_thousands(written: object, expected: int) -> None:
    assert cents(written) == expected


@pytest.mark.parametrize(
    "written", ["10 50", "812 50", "1 2345", "1 234 5", "R $ 10", "1 0", "+5511988887777"]
)
def test_a_blank_elsewhere_parts_two_numbers_and_is_refused(written: str) -> None:
    with pytest.raises(InputError, match="written like"):
        cents(written)


def test_an_amount_of_many_digits_is_not_rounded() -> None:
    assert cents(Decimal("99999999999999999999999999.99")) == 9999999999999999999999999999
    with pytest.raises(InputError, match="more than two decimals"):
        cents(Decimal("99999999999999999999999999.999"))
