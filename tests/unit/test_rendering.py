import math
import threading
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from disparo.errors import InputError
from disparo.rendering import LONGEST_TEXT, brl, cents, compile_content, digits, first_name

# The same cases in every run, and no clock: the machine may be busy.
steady = settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def render(text: str, **params: Any) -> Any:
    return compile_content({"v": text}).render(params)["v"]


def refusal(text: str, **params: Any) -> str:
    with pytest.raises(InputError) as caught:
        render(text, **params)
    return str(caught.value)


def test_placeholders_are_filled_wherever_they_stand_and_the_rest_stays() -> None:
    content = {
        "type": "template",
        "template": {
            "name": "cart",
            "components": [
                {"type": "body", "parameters": [{"type": "text", "text": "{{ first_name }}"}]},
                {"type": "button", "index": 0, "parameters": [{"text": "cart/{{ cart }}?x={{ cart }}"}]},
            ],
        },
    }
    compiled = compile_content(content)
    assert compiled.columns == {"first_name", "cart"}
    filled = compiled.render({"first_name": "Ana", "cart": 7, "unused": "x"})
    assert filled == {
        "type": "template",
        "template": {
            "name": "cart",
            "components": [
                {"type": "body", "parameters": [{"type": "text", "text": "Ana"}]},
                {"type": "button", "index": 0, "parameters": [{"text": "cart/7?x=7"}]},
            ],
        },
    }
    assert list(filled["template"]) == ["name", "components"]


def test_content_changed_after_compiling_changes_no_message() -> None:
    content: dict[str, Any] = {"a": ["{{ x }}", {"b": 1}]}
    compiled = compile_content(content)
    content["a"][1]["b"] = 2
    assert compiled.render({"x": 0}) == {"a": [0, {"b": 1}]}


def test_one_message_does_not_show_in_the_next() -> None:
    compiled = compile_content({"a": [{"b": "{{ x }}"}]})
    first = compiled.render({"x": 1})
    assert compiled.render({"x": 2}) == {"a": [{"b": 2}]}
    assert first == {"a": [{"b": 1}]}


@pytest.mark.parametrize("value", [7, 1.5, True, None, "7", "", ["a"], {"k": 1}])
def test_a_value_that_is_one_expression_keeps_its_type(value: Any) -> None:
    found = render("{{ x }}", x=value)
    assert found == value
    assert type(found) is type(value)


def test_a_column_may_have_any_name() -> None:
    assert render("{{ result }}", result=5) == 5
    assert render("{{ result }} {{ name }}", result=5, name=6) == "5 6"


def test_text_around_an_expression_makes_it_text() -> None:
    assert render(" {{ x }}", x=7) == " 7"
    assert render("{{ x }}{{ x }}", x=7) == "77"
    assert render("R$ {{ x }}\n", x=None) == "R$ \n"


def test_what_the_data_says_is_never_evaluated() -> None:
    assert render("{{ x }}", x="{{ 6 * 7 }}") == "{{ 6 * 7 }}"
    assert render("Oi {{ x }}", x="{% if 1 %}a{% endif %}") == "Oi {% if 1 %}a{% endif %}"


def test_text_without_placeholders_is_left_as_it_is() -> None:
    text = "a {# no comment #} } {x} <b>&amp;</b> %}"
    assert compile_content({"v": text}).render({}) == {"v": text}
    assert render("{{ x }} <b>&", x="<i>") == "<i> <b>&"


def test_conditions_and_one_loop_are_offered() -> None:
    text = "{% if vip %}Olá{% else %}Oi{% endif %}{% for p in ps %} {{ loop.index }}.{{ p.name }}{% endfor %}"
    assert render(text, vip=True, ps=[{"name": "A"}, {"name": "B"}]) == "Olá 1.A 2.B"


def test_columns_with_a_default_are_told_from_those_that_must_be_there() -> None:
    compiled = compile_content(
        {
            "a": "{{ nick | default('você') }}",
            "b": "{% if city is defined %}{{ age }}{% endif %}",
            "c": "{{ x }}",
        }
    )
    assert compiled.columns == {"nick", "city", "age", "x"}
    assert compiled.optional == {"nick", "city"}
    both = compile_content({"a": "{{ x | default(1) }}", "b": "{{ x }}"})
    assert both.optional == frozenset()
    assert compile_content({"a": "{% for p in ps %}{{ p }}{% endfor %}"}).columns == {"ps"}


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, "você"),
        ({"x": None}, "você"),
        ({"x": ""}, "você"),
        ({"x": " \t"}, "você"),
        ({"x": "Ana"}, "Ana"),
        ({"x": 0}, 0),
    ],
)
def test_default_takes_an_empty_cell_for_missing(params: dict[str, Any], expected: Any) -> None:
    assert render("{{ x | default('você') }}", **params) == expected


def test_a_missing_column_is_named_with_its_place_and_the_columns_there_are() -> None:
    compiled = compile_content({"template": {"components": [{"text": "Oi {{ nmae }}"}]}})
    with pytest.raises(InputError) as caught:
        compiled.render({"name": "Ana Secret", "age": 3})
    assert str(caught.value) == (
        "template.components[0].text: there is no column nmae; the columns are: age, name."
    )


@pytest.mark.parametrize(
    "text",
    [
        "{{ x }}",
        "a {{ x }}",
        "{{ x | cents }}",
        "{{ x | brl }}",
        "{{ x | first_name }}",
        "{{ x | digits }}",
        "{% if x %}{% endif %}",
        "{% for y in x %}{% endfor %}",
    ],
)
def test_a_missing_column_is_refused_however_it_is_used(text: str) -> None:
    assert "v: there is no column x; the columns are: none." in refusal(text)


def test_a_missing_field_of_a_column_is_refused() -> None:
    assert refusal("{{ x.name }}", x={"nome": "Ana"}).startswith("v: 'dict object' has no attribute 'name'")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{{ x", "v: "),
        ("{{ x | nonsense }}", "Filters: abs, brl, "),
        ("{{ }}", "v: "),
        ("{% if x %}", "v: "),
        ("a\n{{ x", "line 2 of the value"),
        ("{% set a = 1 %}{{ a }}", "statement assign is not offered"),
        ("{% macro m() %}{% endmacro %}", "statement macro is not offered"),
        ("{% include 'x' %}", "statement include is not offered"),
        ("{% extends 'x' %}", "statement extends is not offered"),
        ("{% for a in x %}{% for b in a %}{% endfor %}{% endfor %}", "within another"),
        ("{% for a in x recursive %}{{ loop(a) }}{% endfor %}", "within another"),
        ("{{ " + "(" * 5000 + "x" + ")" * 5000 + " }}", "too large or nested too deep"),
        ("{% if x %}" * 150 + "{% endif %}" * 150, "too large or nested too deep"),
    ],
)
def test_a_placeholder_that_is_not_well_formed_is_refused_when_compiling(text: str, part: str) -> None:
    with pytest.raises(InputError) as caught:
        compile_content({"v": text})
    assert part in str(caught.value)
    assert str(caught.value).startswith("v: ")


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ x.__class__ }}",
        "{{ x.format }}",
        "{{ 'a'.ljust(1000000000) }}",
        "{{ x.encode() }}",
        "{{ (1).to_bytes(1000000000, 'big') }}",
        "{{ 9 ** 9 ** 9 ** 9 }}",
        "{{ 'a' * 1000000000 }}",
        "{{ [1] * 1000000000 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ range(100000) | join }}",
        "{{ x" + " | replace('a', 'aaaaaaaaaa')" * 12 + " }}",
        "{{ x" + " | join('bbbbbbbbbbbbbbbb')" * 12 + " }}",
        "{{ y | replace('a', y) }}",
        "{% for i in range(1000) %}" + "a" * 100 + "{% endfor %}",
        "{{ lipsum() }}",
        "{{ cycler }}",
        "{{ self }}",
        "{{ x.append }}",
        "{{ range }}",
        "{{ 'nan' | float }}",
        "{{ {'a': 1}.items() }}",
    ],
)
def test_the_sandbox_neither_opens_python_nor_grows_without_bound(text: str) -> None:
    assert refusal(text, x="aaaaaaaaaa", y="a" * LONGEST_TEXT).startswith("v: ")


def test_a_loop_within_its_bound_is_rendered() -> None:
    assert render("{% for i in range(3) %}{{ i }}{% endfor %}") == "012"
    assert len(render("{{ x }}!", x="a" * (LONGEST_TEXT - 1))) == LONGEST_TEXT


def test_a_value_that_json_cannot_hold_is_refused() -> None:
    assert "gives a Decimal" in refusal("{{ x }}", x=Decimal("1.5"))
    assert "JSON cannot hold" in refusal("{{ x }}", x=math.inf)


def test_a_value_that_does_not_suit_its_placeholder_is_refused_without_showing_it() -> None:
    sentence = refusal("{{ x + 1 }}", x="secret")
    assert sentence == "v: the value of a column does not suit its placeholder (TypeError); columns used: x."


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1.234,56", 123456),
        ("R$ 1.234,56", 123456),
        ("r$\u00a01.234,56", 123456),
        ("1,234.56", 123456),
        ("1234,56", 123456),
        ("1234.56", 123456),
        ("812,50", 81250),
        ("R$ 812,50", 81250),
        ("812,5", 81250),
        ("812.50", 81250),
        ("812", 81200),
        ("812,", 81200),
        ("1.234.567", 123456700),
        ("1,234,567", 123456700),
        ("1.234.567,89", 123456789),
        ("0,01", 1),
        ("0", 0),
        (812, 81200),
        (812.5, 81250),
        (0.29, 29),
        (1234.0, 123400),
        (Decimal("812.50"), 81250),
        (" 10 ", 1000),
    ],
)
def test_amounts_are_read_as_people_write_them(value: Any, expected: int) -> None:
    assert cents(value) == expected


NO_AMOUNTS = [
    "",
    " ",
    "abc",
    "-5",
    "R$",
    "US$ 5",
    "٣",
    ",",
    ".",
    True,
    None,
    -1,
    math.nan,
    math.inf,
    [],
    "9" * 40,
]
ODD_AMOUNTS = ["1.234", "1,234", "1,2,3", "1.23.456", "12.34,567", "10,0055", "1.2345,6", "1..2", "1.234.56"]
PARTS_OF_CENTS = [1.234, Decimal("0.001"), "0,0055"]


@pytest.mark.parametrize("value", [*NO_AMOUNTS, *ODD_AMOUNTS, *PARTS_OF_CENTS])
def test_an_amount_that_is_ambiguous_or_none_is_refused(value: Any) -> None:
    with pytest.raises(InputError):
        cents(value)


def test_what_a_dot_means_can_be_said() -> None:
    assert cents("1.234", "br") == 123400
    assert cents("1,234", "en") == 123400
    assert cents("1.23", "en") == 123
    with pytest.raises(InputError, match="ambiguous"):
        cents("1.234")
    with pytest.raises(InputError, match="more than two decimals"):
        cents("1.234", "en")
    with pytest.raises(InputError, match="numbers is br"):
        cents("1", "pt")  # type: ignore[arg-type]
    assert render("{{ x | cents('br') }}", x="1.234") == 123400


def test_an_ambiguous_amount_is_refused_with_its_place() -> None:
    assert refusal("{{ x | cents }}", x="1.234").startswith("v: an amount is ambiguous")


@steady
@given(st.integers(0, 10**12))
def test_cents_and_brl_undo_each_other(amount: int) -> None:
    assert cents(brl(amount), "br") == amount


@steady
@given(st.text("0123456789.,R$ -", max_size=15))
def test_any_text_is_an_amount_or_refused(text: str) -> None:
    try:
        found = cents(text)
    except InputError:
        return
    assert found >= 0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (123456, "R$ 1.234,56"),
        (0, "R$ 0,00"),
        (5, "R$ 0,05"),
        (-100, "-R$ 1,00"),
        ("81250", "R$ 812,50"),
        (10**9, "R$ 10.000.000,00"),
    ],
)
def test_cents_are_written_as_people_read_them(value: Any, text: str) -> None:
    assert brl(value) == text


@pytest.mark.parametrize("value", [1.5, "1,50", None, True, "x"])
def test_what_is_not_whole_cents_is_not_written_as_an_amount(value: Any) -> None:
    with pytest.raises(InputError, match="whole cents"):
        brl(value)


@pytest.mark.parametrize(
    ("name", "greeting"),
    [
        ("MARIA JOSÉ DA SILVA", "Maria"),
        ("maria", "Maria"),
        ("  João  Souza ", "João"),
        ("ÉRICA", "Érica"),
        ("McGregor Silva", "McGregor"),
        ("Dra. ANA LIMA", "Ana"),
        ("Sr.", "Sr."),
        ("", ""),
        (None, ""),
    ],
)
def test_a_full_name_gives_the_name_to_greet_with(name: Any, greeting: str) -> None:
    assert first_name(name) == greeting


def test_only_digits_are_kept() -> None:
    assert digits("123.456.789-09 ²") == "12345678909"
    assert digits(12) == "12"
    assert digits(None) == ""
    assert render("{{ cpf | digits }}", cpf="123.456.789-09") == "12345678909"


def test_filters_chain_and_keep_the_type_of_the_last() -> None:
    assert render("{{ amount | cents }}", amount="R$ 812,50") == 81250
    assert render("Valor: {{ amount | cents | brl }}", amount=812.5) == "Valor: R$ 812,50"


def test_one_content_is_rendered_by_many_threads_at_once() -> None:
    compiled = compile_content({"a": "{{ x }}", "b": "n {{ x }}"})
    wrong: list[Any] = []

    def work(first: int) -> None:
        for number in range(first, first + 200):
            filled = compiled.render({"x": number})
            if filled != {"a": number, "b": f"n {number}"}:
                wrong.append(filled)

    threads = [threading.Thread(target=work, args=(n * 1000,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
