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


@pytest.mark.parametrize(
    ("code", "key", "cents", "txid"),
    [
        # Published samples of other programs, whose checksums were computed again.
        (
            (
                "00020126330014BR.GOV.BCB.PIX01111234567890052040000530398654041.005802BR5914Nome Sobrenome"
                "6015Cidade Ficticia62100506LOJA016304C8E4"
            ),
            "12345678900",
            100,
            "LOJA01",
        ),
        (
            (
                "00020126580014br.gov.bcb.pix0136a629532e-7693-4846-852d-1bbff817b5a8520400005303986540510.005802BR"
                "5908T'Challa6009Sao Paulo62090505123456304B14A"
            ),
            "a629532e-7693-4846-852d-1bbff817b5a8",
            1000,
            "12345",
        ),
        (
            (
                "00020126360014BR.GOV.BCB.PIX0114+55999999999995204000053039865802BR5907No Name6007No city"
                "62070503***63044122"
            ),
            "+5599999999999",
            None,
            None,
        ),
    ],
)
def test_published_codes_are_read(code: str, key: str, cents: int | None, txid: str | None) -> None:
    found = br_code.parse(code)
    assert (found.key, found.amount_cents, found.txid, found.dynamic) == (key, cents, txid, False)


def test_the_official_dynamic_sample_is_read() -> None:
    found = br_code.parse(
        "00020101021226700014br.gov.bcb.pix2548pix.example.com/8b3da2f39a4140d1a91abd93113bd441"
        "5204000053039865802BR5913Fulano de Tal6008BRASILIA62070503***630464E4"
    )
    assert found.url == "pix.example.com/8b3da2f39a4140d1a91abd93113bd441"
    assert (found.dynamic, found.single_use, found.key) == (True, True, None)


def test_a_checksum_in_small_letters_is_the_same() -> None:
    assert br_code.parse(STATIC[:-4] + "1d3d").city == "BRASILIA"


@pytest.mark.parametrize("around", ["\ufeff{}", " \u200b{}\u00a0 ", "{}\u2028", "\t{}\v"])
def test_what_comes_along_invisibly_is_left_out(around: str) -> None:
    assert br_code.parse(around.format(STATIC)).text == STATIC


def test_fields_may_stand_in_any_order_and_others_beside_them() -> None:
    body = (
        "000201" + "5802BR" + "60061BRASI" + "5303986" + "61081234-567" + "5905Maria" + ACCOUNT + "52040000"
        "62160505PED100703abc" + "80380014br.gov.bcb.pix2516pix.example/rec1"
    )
    found = br_code.parse(signed(body))
    assert (found.key, found.txid, found.url) == ("a@b.co", "PED10", None)


def test_lengths_count_characters_of_any_alphabet() -> None:
    found = br_code.parse(signed(HEAD + "5303986" + "5802BR" + "5904José" + "6009São Paulo"))
    assert (found.merchant_name, found.city) == ("José", "São Paulo")


@pytest.mark.parametrize("amount", ["54010", "54040.00"])
def test_a_zero_amount_leaves_it_to_the_payer(amount: str) -> None:
    assert br_code.parse(signed(HEAD + "5303986" + amount + TAIL)).amount_cents is None


@steady
@given(st.integers(1, 10**11))
def test_an_amount_is_exact_to_the_cent(cents: int) -> None:
    written = f"{cents // 100}.{cents % 100:02}"
    found = br_code.parse(signed(HEAD + "5303986" + f"54{len(written):02}{written}" + TAIL))
    assert found.amount_cents == cents


ACCOUNT = "26280014br.gov.bcb.pix0106a@b.co"
HEAD = "000201" + ACCOUNT + "52040000"
TAIL = "5802BR5901A6001B"


@pytest.mark.parametrize(
    ("amount", "cents"), [("5404812.", 81200), ("540512.34", 1234), ("540410.5", 1050), ("540210", 1000)]
)
def test_an_amount_may_have_up_to_two_decimals(amount: str, cents: int) -> None:
    assert br_code.parse(signed(HEAD + "5303986" + amount + TAIL)).amount_cents == cents


def test_a_reference_is_read_as_the_txid() -> None:
    assert br_code.parse(signed(HEAD + "5303986" + TAIL + "62080504PED1")).txid == "PED1"


@pytest.mark.parametrize("nothing", ["62040500", "62070503***", "62080704abcd", ""])
def test_a_code_may_have_no_txid(nothing: str) -> None:
    assert br_code.parse(signed(HEAD + "5303986" + TAIL + nothing)).txid is None


def test_the_pix_account_may_stand_in_a_later_place() -> None:
    code = "000201" + "2604abcd" + ACCOUNT.replace("26", "27", 1) + "5303986" + TAIL
    assert br_code.parse(signed(code)).key == "a@b.co"


@pytest.mark.parametrize(
    ("code", "part"),
    [
        ("", "is empty"),
        (" \r\n", "is empty"),
        ("0" * 600, "600 characters"),
        (STATIC[1:], "field 00 is cut off|expected at character"),
        (STATIC[6:], "does not begin with 000201"),
        (
            STATIC[:-1],
            "field 63 .checksum. is cut off: 4 characters are announced at character [0-9]+, 3 are left",
        ),
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
        (signed("000201" + "010213" + HEAD[6:] + "5303986" + TAIL), "point of initiation .field 01."),
        (
            signed("000201" + "26280014br.gov.bcb.pix0106abc" + "5303986" + TAIL),
            "In field 26 .*field 01 is cut off|cut off",
        ),
        (signed("000201" + "26280014br.gov.bcb.pix0101a0101b" + "5303986" + TAIL), "field 01 stands twice"),
        (signed(HEAD + "5303986" + TAIL + "62100501a0501b"), "field 05 stands twice"),
        (signed(HEAD + "5303986" + "5414" + "1" * 14 + TAIL), "written like 12.34"),
        (STATIC[:-4].replace("6304", "6303") + "1D3", "does not end with its checksum"),
        (signed(HEAD + "5303986" + "5303986" + TAIL), "field 53 .currency. stands twice"),
    ],
)
def test_what_is_no_pix_code_is_refused_with_what_is_wrong(code: str, part: str) -> None:
    with pytest.raises(InputError, match=part) as caught:
        br_code.parse(code)
    assert "Fulan" not in str(caught.value)


def code(
    account: str = "0106a@b.co", category: str = "0000", name: str = "A", city: str = "B", txid: str = "***"
) -> str:
    def field(place: str, value: str) -> str:
        return f"{place}{len(value):02}{value}"

    return signed(
        "000201" + field("26", f"0014br.gov.bcb.pix{account}") + field("52", category) + "53039865802BR"
        + field("59", name) + field("60", city) + field("62", field("05", txid))
    )  # fmt: skip


@pytest.mark.parametrize(
    ("at", "over", "part"),
    [
        ({"name": "n" * 25}, {"name": "n" * 26}, "26 characters as merchant name .field 59.; 25"),
        ({"city": "c" * 15}, {"city": "c" * 16}, "16 characters as city .field 60.; 15"),
        ({"txid": "t" * 25}, {"txid": "t" * 26}, "26 characters as reference .field 62, 05.; 25"),
        ({"category": "5411"}, {"category": "54x1"}, "“54x1” as category .field 52.; it is four digits"),
        ({"category": ""}, {"category": "541"}, "“541” as category"),
        (
            {"account": "2508pix.ex/q"},
            {"account": "2516https://pix.ex/q"},
            "field 26, 25. stands without https",
        ),
        ({"account": "011112345678900"}, {"account": "011012345678AB"}, "as PIX key .field 26, 01."),
        ({"account": "0106A@b.co"}, {"account": "0103foo"}, "names …o as PIX key"),
    ],
)
def test_a_field_is_of_the_form_that_the_standard_gives_it(
    at: dict[str, str], over: dict[str, str], part: str
) -> None:
    assert br_code.report(code(**at))["errors"] == []
    with pytest.raises(InputError, match=part):
        br_code.parse(code(**over))


@pytest.mark.parametrize(
    "key",
    [
        "12345678900",
        "39580525000189",
        "12ABC34501DE35",
        "+5511999998888",
        "ana@b.co",
        "123E4567-e12b-12d1-a456-426655440000",
    ],
)
def test_a_key_of_any_type_may_stand_in_a_code(key: str) -> None:
    assert br_code.parse(code(account=f"01{len(key):02}{key}")).key == key


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


@steady
@given(st.integers(0, len(STATIC) - 1), st.characters(min_codepoint=32, max_codepoint=0x2FF))
def test_a_code_with_one_character_changed_is_never_taken(at: int, char: str) -> None:
    changed = STATIC[:at] + char + STATIC[at + 1 :]
    if br_code.clean(changed).upper() != STATIC.upper():
        with pytest.raises(InputError):
            br_code.parse(changed)


@steady
@given(st.binary(max_size=120))
def test_random_bytes_are_refused_in_a_sentence(data: bytes) -> None:
    for text in (data.decode("latin-1"), data.decode("utf-8", "surrogateescape")):
        with pytest.raises(InputError):
            br_code.parse("000201" + text)
        assert not br_code.report(text)["valid"]


@pytest.mark.parametrize(
    ("name", "key", "wrong"),
    [
        ("Fulano de Tal", "123E4567-e12b-12d1-a456-426655440000", None),
        ("FULANO DE TAL COMÉRCIO LTDA", "123e4567-e12b-12d1-a456-426655440000", None),
        ("Beltrano", "123e4567-e12b-12d1-a456-426655440000", "merchant_name"),
        ("Fulano de Tal", "fulano@example.com", "key"),
    ],
)
def test_a_name_or_key_that_is_not_the_codes_is_told(name: str, key: str, wrong: str | None) -> None:
    found = br_code.disagreement(br_code.parse(STATIC), name, key)
    assert (found and found[0]) == wrong


def test_a_report_has_the_same_keys_for_every_code() -> None:
    good, damaged, none = map(br_code.report, (f" {WITH_AMOUNT}\n", WITH_AMOUNT[:-1] + "0", "x"))
    keys = ["code", "valid", "kind", "amount", "key", "url", "txid", "merchant_name", "city", "errors"]
    assert list(good) == list(damaged) == list(none) == keys
    assert (good["code"], good["valid"], good["kind"], good["amount"], good["errors"]) == (
        WITH_AMOUNT, True, "static", "1.00", [],
    )  # fmt: skip
    assert (damaged["valid"], damaged["amount"], len(damaged["errors"])) == (False, "1.00", 1)
    assert [none[key] for key in keys[1:-1]] == [False, *[None] * 7]
