import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disparo.errors import InputError
from disparo.whatsapp import pix_keys

steady = settings(derandomize=True, deadline=None)
EVP = "123e4567-e12b-12d1-a456-426655440000"


@pytest.mark.parametrize(
    ("text", "value", "kind"),
    [
        ("52998224725", "52998224725", "CPF"),
        (" 529.982.247-25 ", "52998224725", "CPF"),
        ("39580525000189", "39580525000189", "CNPJ"),
        ("11.222.333/0001-81", "11222333000181", "CNPJ"),
        ("12abc34501de35", "12ABC34501DE35", "CNPJ"),
        ("Financeiro@Colegio.example", "financeiro@colegio.example", "EMAIL"),
        ("+55 (11) 99999-8888", "+5511999998888", "PHONE"),
        ("+551133334444", "+551133334444", "PHONE"),
        (EVP.upper(), EVP, "EVP"),
    ],
)
def test_a_key_is_read_in_its_canonical_form_and_its_type_is_found_out(
    text: str, value: str, kind: str
) -> None:
    assert pix_keys.parse(text) == (value, kind)
    assert pix_keys.parse(text, kind.lower()) == (value, kind)
    assert pix_keys.fault(value, kind) is None


@pytest.mark.parametrize(
    ("text", "kind", "part"),
    [
        ("", None, "is empty"),
        ("11999998888", None, "eleven digits that are no CPF; a phone is written with .55"),
        ("52998224726", "CPF", "check digits"),
        ("11111111111", "CPF", "check digits"),
        ("2998224725", "CPF", "drops leading zeros"),
        ("11222333000182", None, "check digits"),
        ("00000000000000", None, "check digits"),
        ("12ABC34501DEA5", "CNPJ", "first 12 places"),
        ("1222333000181", "CNPJ", "drops leading zeros"),
        ("5521988887777", "PHONE", "like .5511999998888"),
        ("+5520999998888", None, "area code"),
        ("+16505551234", None, "area code"),
        ("a@b", None, "like name@example"),
        ("a b@example.com", None, "like name@example"),
        ("joão@example.com", None, "like name@example"),
        ("123e4567e12b12d1a456426655440000", None, "is none: a key is"),
        (EVP[:-1] + "g", None, "36 characters"),
        ("52998224725", "RG", "is none of them"),
    ],
)
def test_what_is_no_key_is_refused_without_showing_it(text: str, kind: str | None, part: str) -> None:
    with pytest.raises(InputError, match=part) as caught:
        pix_keys.parse(text, kind)
    assert not text or text not in str(caught.value)


def test_an_email_key_has_at_most_77_characters() -> None:
    tail = "@example.com"
    assert pix_keys.fault("a" * (77 - len(tail)) + tail, "EMAIL") is None
    assert "78 characters" in (pix_keys.fault("a" * (78 - len(tail)) + tail, "EMAIL") or "")


@pytest.mark.parametrize(
    ("key", "kind", "part"),
    [
        ("529.982.247-25", "CPF", "is written as 11 digits, without dots"),
        ("A@example.com", "EMAIL", "is written in lower case"),
        ("+55 11 99999 8888", "PHONE", "is written as .55"),
        (EVP.upper(), "EVP", "is written in lower case"),
        ("11222333000182", "CNPJ", "check digits"),
        ("x", "BOLETO", "no known type"),
    ],
)
def test_a_key_that_is_not_as_the_directory_has_it_is_told_how_it_is_written(
    key: str, kind: str, part: str
) -> None:
    told = pix_keys.fault(key, kind)
    assert told is not None
    assert part.replace(".55", "+55") in told


def test_a_cnpj_of_letters_counts_them_by_their_place_in_ascii() -> None:
    # Receita Federal's own example.
    assert pix_keys.is_cnpj("12ABC34501DE35")
    assert not pix_keys.is_cnpj("12ABC34501DE36")
    assert not pix_keys.is_cnpj("12ABD34501DE35")


@steady
@given(st.from_regex(r"[0-9]{9}", fullmatch=True))
def test_of_all_check_digits_exactly_one_pair_makes_a_cpf(first: str) -> None:
    fitting = [end for end in range(100) if pix_keys.is_cpf(f"{first}{end:02}")]
    assert len(fitting) == (0 if len(set(first)) == 1 else 1)


@steady
@given(st.text(max_size=100), st.sampled_from([None, *pix_keys.KEY_TYPES]))
def test_any_text_is_a_key_or_refused_in_a_sentence(text: str, kind: str | None) -> None:
    try:
        value, found = pix_keys.parse(text, kind)
    except InputError:
        return
    assert pix_keys.parse(value, found) == (value, found)
    assert pix_keys.fault(value, found) is None


@pytest.mark.parametrize(
    ("key", "shown"),
    [("52998224725", "…725"), ("financeiro@colegio.example", "…mple"), ("abc", "…c"), ("a", "…")],
)
def test_of_a_key_little_is_shown(key: str, shown: str) -> None:
    assert pix_keys.mask(key) == shown
