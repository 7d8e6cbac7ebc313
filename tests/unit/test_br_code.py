import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from disparo.errors import InputError
from disparo.whatsapp import br_code

# The same cases in every run, and no clock: the machine may be busy.
steady = settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# The sample of Gupshup's page on PIX templates, with the line break in it that its page shows.
DYNAMIC = (
    "00020101021226900014br.gov.bcb.pix2568pix.sicoob.com.br/qr/payload/v2/085e4c08-dede-404f-b312-\n"
    "6566c55d4b105204000053039865802BR5925VINICIUS SOARES DA SILVEI6013Nao_informado62070503***63041235"
)
STATIC = (
    "00020126580014br.gov.bcb.pix0136123e4567-e12b-12d1-a456-4266554400005204000053039865802BR"
    "5913Fulano de Tal6008BRASILIA62070503***63041D3D"
)
REUSABLE_DYNAMIC = (
    "00020101021226770014BR.GOV.BCB.PIX2555pix.example.com/qr/93598be0-1bd0-4997-8318-81776a1d8a99"
    "5204000053039865802BR5907EMPRESA6009SAO PAULO62070503***6304EEAB"
)
WITH_AMOUNT = (
    "00020126330014BR.GOV.BCB.PIX01115794666323452040000530398654041.005802BR"
    "5925CLENILTON CRUZ DE ALENCAR6006MANAUS62070503***6304FA88"
)


def signed(body: str) -> str:
    """A code with the right checksum around whatever is wrong with it."""
    return body + "6304" + br_code.checksum(body + "6304")


def test_the_checksum_is_the_one_of_the_standard() -> None:
    assert br_code.checksum("123456789") == "29B1"


def test_a_dynamic_code_is_read_in_spite_of_a_line_break_in_it() -> None:
    found = br_code.parse(f"  {DYNAMIC}\r\n")
    assert found.dynamic
    assert found.single_use
    assert found.url == "pix.sicoob.com.br/qr/payload/v2/085e4c08-dede-404f-b312-6566c55d4b10"
    assert (found.key, found.amount_cents, found.txid) == (None, None, None)
    assert (found.currency, found.country, found.category) == ("986", "BR", "0000")
    assert (found.merchant_name, found.city) == ("VINICIUS SOARES DA SILVEI", "Nao_informado")
    assert len(found.text) == 192
    assert "\n" not in found.text


def test_a_static_code_names_its_key() -> None:
    found = br_code.parse(STATIC)
    assert not found.dynamic
    assert not found.single_use
    assert found.key == "123e4567-e12b-12d1-a456-426655440000"
    assert (found.merchant_name, found.city) == ("Fulano de Tal", "BRASILIA")


def test_a_dynamic_code_without_single_use_and_a_capital_account_name_is_read() -> None:
    found = br_code.parse(REUSABLE_DYNAMIC)
    assert found.url == "pix.example.com/qr/93598be0-1bd0-4997-8318-81776a1d8a99"


def test_an_amount_is_read_in_cents() -> None:
    found = br_code.parse(WITH_AMOUNT)
    assert found.amount_cents == 100
    assert found.key == "57946663234"


ACCOUNT = "26230014br.gov.bcb.pix0101a"
HEAD = "000201" + ACCOUNT + "52040000"
TAIL = "5802BR5901A6001B"


@pytest.mark.parametrize(
    ("amount", "cents"), [("5404812.", 81200), ("540512.34", 1234), ("540410.5", 1050), ("540210", 1000)]
)
def test_an_amount_may_have_up_to_two_decimals(amount: str, cents: int) -> None:
    assert br_code.parse(signed(HEAD + "5303986" + amount + TAIL)).amount_cents == cents


def test_a_reference_is_read_as_the_txid() -> None:
    assert br_code.parse(signed(HEAD + "5303986" + TAIL + "62080504PED1")).txid == "PED1"


def test_the_pix_account_may_stand_in_a_later_place() -> None:
    code = "000201" + "2604abcd" + ACCOUNT.replace("26", "27", 1) + "5303986" + TAIL
    assert br_code.parse(signed(code)).key == "a"


@pytest.mark.parametrize(
    ("code", "part"),
    [
        ("", "is empty"),
        (" \r\n", "is empty"),
        ("0" * 600, "600 characters"),
        (STATIC[1:], "field 00 is cut off|expected at character"),
        (STATIC[6:], "does not begin with 000201"),
        (STATIC[:-1], "field 63 is cut off"),
        (STATIC[:-8], "does not end with its checksum"),
        (STATIC + "x", "expected at character"),
        (STATIC.replace("Fulano", "Fulana"), "checksum of the BR Code is 1D3D"),
        (STATIC.replace("Fulano", "Fulan"), "expected at character|cut off"),
        ("00020101021226.gov.bcb.pix.example.com...", "expected at character 13"),
        ("https://nubank.com.br/pagar/abc", "expected at character 1;"),
        (signed(HEAD + "5303840" + TAIL), "currency 840"),
        (signed(HEAD + TAIL), "no currency"),
        (signed(HEAD + "5303986" + TAIL.replace("BR", "AR")), "country AR"),
        (signed(HEAD + "5303986" + "5802BR6001B"), "no merchant name"),
        (signed(HEAD + "5303986" + "5802BR5901A"), "no city"),
        (signed("000201" + "26040001" + "5303986" + TAIL), "no PIX account"),
        (signed("000201" + "26180014br.gov.bcb.pix" + "5303986" + TAIL), "neither a PIX key nor"),
        (signed(HEAD + "5303986" + "54041,00" + TAIL), "amount of the BR Code is “1,00”"),
        (signed(HEAD + "5303986" + "54051.000" + TAIL), "amount of the BR Code"),
        (signed(HEAD + "5303986" + "5303986" + TAIL), "field 53 stands twice"),
    ],
)
def test_what_is_no_pix_code_is_refused_with_what_is_wrong(code: str, part: str) -> None:
    with pytest.raises(InputError, match=part) as caught:
        br_code.parse(code)
    assert "Fulan" not in str(caught.value)


def test_a_wrong_checksum_can_be_accepted_on_purpose() -> None:
    wrong = STATIC[:-4] + "0000"
    with pytest.raises(InputError, match="checksum"):
        br_code.parse(wrong)
    assert br_code.parse(wrong, verify=False).city == "BRASILIA"


@steady
@given(st.text(max_size=80))
def test_any_text_is_read_or_refused_in_a_sentence(text: str) -> None:
    for candidate in (text, "000201" + text, signed("000201" + text) if text.isascii() else text):
        with pytest.raises(InputError):
            br_code.parse(candidate)
