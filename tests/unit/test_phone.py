import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from disparo import phone

# The same cases in every run, and no clock: the machine may be busy.
steady = settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])

MOBILE = phone.Phone("5511999998888", "br11m99998888")


@pytest.mark.parametrize(
    "text",
    [
        "5511999998888",
        5511999998888,
        "+5511999998888",
        "+55 (11) 99999-8888",
        "55 11 9 9999 8888",
        "11 99999-8888",
        "(11)99999.8888",
        "11999998888",
        11999998888,
        "011999998888",
        "(011) 99999-8888",
        "0xx11 99999-8888",
        "(0XX11) 99999-8888",
        "0 15 11 99999-8888",
        "+55 (0)11 99999-8888",
        "55 011 99999-8888",
        "0055 11 99999-8888",
        "5511999998888.0",
        "5511999998888,00",
        "'5511999998888",
        "\u202a+55 11 99999\u20118888\u202c",
        "\u00a011 99999\u20138888\n",
    ],
)
def test_a_brazilian_mobile_is_read_however_it_is_written(text: str | int) -> None:
    assert phone.parse(text) == MOBILE


def test_a_number_cell_that_arrives_as_a_float_is_read() -> None:
    assert phone.parse(5511999998888.0) == MOBILE  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "digits", "key"),
    [
        ("16505551234", "16505551234", "16505551234"),
        ("+1 (650) 555-1234", "16505551234", "16505551234"),
        ("917858761234", "917858761234", "917858761234"),
        ("351912345678", "351912345678", "351912345678"),
        ("+51 912 345 678", "51912345678", "51912345678"),
        ("0044 7911 123456", "447911123456", "447911123456"),
    ],
)
def test_a_foreign_number_keeps_its_country(text: str, digits: str, key: str) -> None:
    assert phone.parse(text) == phone.Phone(digits, key)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("  \u200b ", "empty"),
        ("99999-8888", "no_ddd"),
        ("3333-4444", "no_ddd"),
        ("+55 99999-8888", "no_ddd"),
        ("5520999998888", "unknown_ddd"),
        ("5500999998888", "unknown_ddd"),
        ("551199999", "too_short"),
        ("12345", "too_short"),
        ("+1 650", "too_short"),
        ("55119999988881", "too_long"),
        ("5511999998888 11988887777", "too_long"),
        ("+1 650 555 12345", "too_long"),
        (10**40, "too_long"),
        ("91785876xxxx", "not_a_number"),
        ("11 99999-8888 / 11 98888-7777", "not_a_number"),
        ("5511899998888", "not_a_number"),
        ("551901234567", "not_a_number"),
        ("11111111111", "not_a_number"),
        ("+999 1234 56789", "not_a_number"),
        ("ana@example.com", "not_a_number"),
        ("٥٥١١٩٩٩٩٩٨٨٨٨", "not_a_number"),
        ("5,51199E+12", "excel_damage"),
        ("5.51199e12", "excel_damage"),
    ],
)
def test_a_number_that_cannot_be_sent_to_is_refused_with_its_reason(text: str | int, reason: str) -> None:
    with pytest.raises(phone.PhoneError) as caught:
        phone.parse(text)
    assert caught.value.reason == reason
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("value", "reason"),
    [(True, "not_a_number"), (1.5, "not_a_number"), ([], "not_a_number"), (None, "empty")],
)
def test_a_value_that_is_neither_text_nor_a_whole_number_is_refused(value: object, reason: str) -> None:
    with pytest.raises(phone.PhoneError) as caught:
        phone.parse(value)  # type: ignore[arg-type]
    assert caught.value.reason == reason


def test_a_mobile_has_one_key_with_and_without_its_ninth_digit_and_is_sent_as_given() -> None:
    with_ninth, without = phone.parse("5531999998888"), phone.parse("553199998888")
    assert with_ninth.key == without.key
    assert without.digits == "553199998888"


def test_a_landline_is_never_the_mobile_with_the_same_last_eight_digits() -> None:
    assert phone.parse("551133334444").key != phone.parse("5511933334444").key


def test_a_number_of_area_code_55_without_country_code_gets_it() -> None:
    assert phone.parse("55999998888").digits == "5555999998888"


def test_another_default_country_reads_its_own_national_numbers() -> None:
    assert phone.parse("912 345 678", default_country="351").digits == "351912345678"
    assert phone.parse("+55 11 99999-8888", default_country="351") == MOBILE
    assert phone.parse("5511999998888", default_country="351") == MOBILE
    with pytest.raises(phone.PhoneError) as caught:
        phone.parse("12", default_country="351")
    assert caught.value.reason == "too_short"


def test_the_key_of_digits_from_a_webhook_is_the_key_of_the_recipient() -> None:
    assert phone.key_of("553199998888") == phone.parse("+55 31 99999-8888").key
    assert phone.key_of("16505551234") == "16505551234"
    # Ten and eleven digits in a webhook have their country code already.
    assert phone.key_of("51912345678") == "51912345678"


@pytest.mark.parametrize(
    ("digits", "masked"),
    [
        ("5511999998888", "55119****8888"),
        ("16505551234", "165****1234"),
        ("1234567", "****67"),
        ("12", "****"),
    ],
)
def test_a_masked_number_hides_four_digits(digits: str, masked: str) -> None:
    assert phone.mask(digits) == masked


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("5511999998888", "55119****8888"),
        ("+55 (11) 99999-8888", "55119****8888"),
        ("(11) 9 9999.8888", "119****8888"),
        ("12 and 11999998888, 1133334444", "12 and 119****8888, 11****4444"),
        ("+1 650 555 1234", "165****1234"),
        ("11 3333‑4444", "11****4444"),
    ],
)
def test_phones_in_a_sentence_are_masked(given: str, shown: str) -> None:
    assert phone.mask_in(f"'{given}' is no date") == f"'{shown}' is no date"


@pytest.mark.parametrize(
    "text",
    [
        "2026-12-03 10:00 America/Sao_Paulo (13:00 UTC), 03/12/2026 10:00:00",
        "R$ 10.000.000.000,00 and 123456789 cents",
        "MENS-2026-12-001",
        "00020101021226310014br.gov.bcb.pix",
        "03399026944140000002628346101018898510000008848",
    ],
)
def test_what_is_no_phone_stays(text: str) -> None:
    assert phone.mask_in(text) == text


def test_a_refusal_never_shows_a_full_number() -> None:
    with pytest.raises(phone.PhoneError) as caught:
        phone.parse("+55 (11) 89999-8888")
    assert "89999" not in str(caught.value)
    assert "8888" in str(caught.value)


@steady
@given(st.one_of(st.text(max_size=30), st.text("0123456789+-() .xX", max_size=20), st.integers()))
def test_any_input_gives_digits_or_a_refusal(value: str | int) -> None:
    try:
        found = phone.parse(value)
    except phone.PhoneError:
        return
    assert found.digits.isdecimal()
    assert 7 <= len(found.digits) <= 15
    assert phone.parse("+" + found.digits) == found
    assert phone.key_of(found.digits) == found.key


def test_plain_brazilian_numbers_do_not_load_the_world_wide_table() -> None:
    program = (
        "import sys; from disparo import phone; phone.parse('+55 11 99999-8888');"
        "print('phonenumbers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_number_that_python_would_not_write_out_is_too_long() -> None:
    with pytest.raises(phone.PhoneError) as caught:
        phone.parse(10**5000)
    assert caught.value.reason == "too_long"


@pytest.mark.parametrize(
    ("digits", "shown"),
    [
        ("5511999998888", "5511999998888"),
        ("551199998888", "5511999998888"),
        ("551133334444", "551133334444"),
        ("16505551234", "16505551234"),
    ],
)
def test_the_digits_of_a_key_are_a_number_with_that_key(digits: str, shown: str) -> None:
    key = phone.key_of(digits)
    assert phone.digits_of(key) == shown
    assert phone.key_of(shown) == key


def test_what_is_no_key_of_a_number_stays_as_it_is() -> None:
    assert phone.digits_of("country:91") == "country:91"


@pytest.mark.parametrize(
    ("digits", "code"),
    [
        ("5511999998888", "55"),
        ("16505551234", "1"),
        ("919812345678", "91"),
        ("351912345678", "351"),
        ("2101234567", None),
        ("", None),
    ],
)
def test_a_number_begins_with_one_calling_code(digits: str, code: str | None) -> None:
    assert phone.calling_code(digits) == code


@pytest.mark.parametrize("text", ["", "0", "01", "999", "+1", "1 ", "\u0661", "5511"])
def test_what_is_no_calling_code_is_none(text: str) -> None:
    assert not phone.is_calling_code(text)
