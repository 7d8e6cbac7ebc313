import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disparo.errors import InputError
from disparo.whatsapp import boletos

# Samples of Meta's page on boletos and of public descriptions of the layouts.
BANK = "03399026944140000002628346101018898510000008848"
LINES = [
    BANK,
    "00190.50095 40144.816069 06809.350314 3 37370000000100",
    "826500000110 314400081704 924000000027 202104000015",
    "83620000000-5 66780048100-0 18097565731-3 00158963608-1",
]


@pytest.mark.parametrize("line", LINES)
def test_a_line_is_read_as_its_digits(line: str) -> None:
    found = boletos.parse(f" {line}\n")
    assert found == "".join(filter(str.isdigit, line))
    assert boletos.parse(found) == found


@pytest.mark.parametrize("line", [BANK, "826500000110314400081704924000000027202104000015"])
def test_no_digit_can_be_another_one(line: str) -> None:
    for at, digit in enumerate(line):
        wrong = f"{line[:at]}{(int(digit) + 1) % 10}{line[at + 1 :]}"
        with pytest.raises(InputError, match="wrong digit") as caught:
            boletos.parse(wrong)
        assert wrong[:10] not in str(caught.value)


def test_bills_with_modulo_11_have_other_check_digits() -> None:
    # Composed field by field: 858 + check + 40 digits, then a check digit behind each eleven.
    body = "858" + "00000001000" + "02701163000123456780672220251"
    check = _modulo_11(body)
    content = body[:3] + str(check) + body[3:]
    fields = [content[at : at + 11] for at in range(0, 44, 11)]
    line = "".join(field + str(_modulo_11(field)) for field in fields)
    assert boletos.parse(line) == line
    with pytest.raises(InputError, match="field 2"):
        boletos.parse(f"{line[:12]}{(int(line[12]) + 1) % 10}{line[13:]}")


def _modulo_11(digits: str) -> int:
    total, weight = 0, 2
    for digit in reversed(digits):
        total += int(digit) * weight
        weight = 2 if weight == 9 else weight + 1
    return {0: 0, 1: 0, 10: 1}.get(total % 11, 11 - total % 11)


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("", "has 0 characters"),
        (BANK[:-1], "has 46 characters"),
        (BANK + "00", "has 49 characters"),
        (BANK[:-1] + "x", "has 47 characters"),
        ("1" + LINES[2][1:], "among its first three"),
        ("821" + LINES[2][3:], "among its first three"),
    ],
)
def test_what_is_no_line_is_refused(line: str, part: str) -> None:
    with pytest.raises(InputError, match=part):
        boletos.parse(line)


@settings(derandomize=True, deadline=None)
@given(st.one_of(st.text(max_size=60), st.from_regex("[0-9]{46,49}", fullmatch=True)))
def test_any_text_is_a_line_or_refused_in_a_sentence(text: str) -> None:
    try:
        found = boletos.parse(text)
    except InputError:
        return
    assert boletos.parse(found) == found
