import math
import threading
import time
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from disparo.bounds import LONGEST_SOURCE, LONGEST_TEXT
from disparo.errors import InputError
from disparo.filters import brl, cents, digits, first_name
from disparo.rendering import compile_content

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
    assert render(text + "{{ x }}", x=1) == text + "1"
    assert render("{#{{ x }}", x=1) == "{#1"
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
        "{% for i in range(1000) %}" + "a" * 300 + "{% endfor %}",
        "{{ lipsum() }}",
        "{{ cycler }}",
        "{{ self }}",
        "{{ x.append }}",
        "{{ range }}",
        "{{ 'nan' | float }}",
        "{{ {'a': 1}.items() }}",
        "{{ y | replace('', y) }}",
        "{{ " + " ~ ".join("y" * 200) + " }}",
        "{{ " + " + ".join("y" * 200) + " }}",
        "{{ [" + ", ".join("y" * 200) + "] | join }}",
        "{% for i in range(1000) %}{{ y | replace('a', 'b') | length }}{% endfor %}",
        "{% for i in range(1000) %}{{ y.upper() | length }}{% endfor %}",
        "{% for i in range(1000) %}{{ (y ~ y) | length }}{% endfor %}",
        "{% for i in range(1000) %}{{ y | sort | length }}{% endfor %}",
        "{% for c in y %}{% endfor %}",
        "{% for c in y.split('a') %}{% endfor %}",
        "{{ 1 | round(1000000000) }}",
        "{{ range(10000000000000000000000) }}",
        "{{ x | map('upper') }}",
        "{{ x | attr('__class__') }}",
        "{{ ''.join }}",
        "{{ x.join([x]) }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ (x.upper).__self__ }}",
        "{{ {'a': [" + "y, " * 100 + "]} }}",
        "{{ [" + "y, " * 100 + "] }}",
        "{{ {y: 1, y ~ '': [y]} }}",
        "{{ {'a': [" + "y, " * 9000 + "]} }}!",
        "{{ {'a': [" + "y, " * 9000 + "]} | string }}",
        "{{ {'a': [" + "y, " * 9000 + "]} ~ '' }}",
        "{{ {'a': [" + "y, " * 9000 + "]}.values() | join }}",
        "{% for i in [{'a': [" + "y, " * 90 + "]}] %}{{ i }}{% endfor %}",
        "{{ (1,) * 1000000000 }}",
    ],
)
def test_the_sandbox_neither_opens_python_nor_grows_without_bound(text: str) -> None:
    started = time.thread_time()
    assert refusal(text, x="aaaaaaaaaa", y="a" * LONGEST_TEXT).startswith("v: ")
    assert time.thread_time() - started < 5


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{{ x }}" + "a" * LONGEST_SOURCE, "at most 32,768 characters"),
        ("{% for i in range(3) %}" + "{{ x }}" * 201 + "{% endfor %}", "at most 200 parts"),
        ("{{ 1e400 }}", "a number is too large"),
        ("{{ x | default(1e400) }}", "a number is too large"),
        ("{% for i in [1] if i in x %}{% endfor %}" + "{{ x" * 1000, "v: "),
    ],
)
def test_a_template_that_is_too_large_is_refused_when_compiling(text: str, part: str) -> None:
    with pytest.raises(InputError, match=part):
        compile_content({"v": text})


def test_a_message_with_too_many_placeholders_is_refused_when_compiling() -> None:
    with pytest.raises(InputError, match="at most 262,144 characters in all"):
        compile_content({"v": ["a" * 30_000 + "{{ x }}"] * 9})
    with pytest.raises(InputError, match=r"v\[2000\]: a message has at most 2,000 values with placeholders"):
        compile_content({"v": ["{{ x }}"] * 2_001})


def test_a_loop_within_its_bound_is_rendered() -> None:
    assert render("{% for i in range(3) %}{{ i }}{% endfor %}") == "012"
    assert len(render("{{ x }}!", x="a" * (LONGEST_TEXT - 1))) == LONGEST_TEXT
    items = "{% for p in ps %}{{ loop.index }}. {{ p.name | title }}: {{ p.cents | brl }}\n{% endfor %}"
    listed = render(items, ps=[{"name": "BOLO DE ROLO", "cents": 1990}] * 1000)
    assert listed.endswith("1000. Bolo de Rolo: R$ 19,90\n")


def test_a_value_that_json_cannot_hold_is_refused() -> None:
    assert "gives a Decimal" in refusal("{{ x }}", x=Decimal("1.5"))
    assert "JSON cannot hold" in refusal("{{ x }}", x=math.inf)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{{ [{'reply': {'id': x.id}}] }}", "v: 'str object' has no attribute 'id'."),
        ("{{ {'a': y} }}", "v: there is no column y; the columns are: n, x."),
        ("{{ {'a': n * 10} }}", "v.a: the placeholder gives a float, which JSON cannot hold"),
        ("{{ [range(3)] }}", "v[0]: the placeholder gives a range, which JSON cannot hold"),
        ("{{ [(1, 2)] }}", "v[0]: the placeholder gives a tuple, which JSON cannot hold"),
        ("{{ {'a': {1: 2}} }}", "v.a: the value cannot be written as JSON: a key is no text."),
        ("{{ [9999999999 * 9999999999] }}", "v[0]: the value cannot be written as JSON: an integer has"),
    ],
)
def test_what_json_cannot_hold_is_refused_within_lists_and_objects_too(text: str, sentence: str) -> None:
    assert refusal(text, x="x", n=1e308).startswith(sentence)


def test_data_that_is_nested_too_deep_is_refused() -> None:
    deep: Any = []
    for _ in range(2_000):
        deep = [deep]
    assert refusal("{{ x }}", x=deep).startswith("v: the value of a column does not suit its placeholder")


@pytest.mark.parametrize("text", ["{{ {'a': 1}[x] }}", "{{ [{'a': 1}[x]] }}", "Oi {{ {'a': 1}[x] }}"])
def test_a_name_that_the_data_gives_is_not_told(text: str) -> None:
    sentence = "v: 'dict object' has no attribute that the data names; columns used: x."
    assert refusal(text, x="5511999998888") == sentence
    assert refusal(text, x=5511999998888) == sentence.replace(
        "'dict object' has no attribute", "dict object has no element"
    )
    assert refusal("{{ {'a': 1}['b'] }}") == "v: 'dict object' has no attribute 'b'."


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
    assert refusal("{{ x | cents }}", x="1.234").startswith(
        "v: the column x ('1.234'): an amount is ambiguous"
    )


def test_what_a_dot_means_can_be_said_for_a_whole_content() -> None:
    for numbers, found in (("br", 123400), ("en", 123)):
        content = compile_content({"v": "{{ x | cents }}", "t": "{{ x | cents | brl }}"}, numbers=numbers)  # type: ignore[arg-type]
        given = "1.234" if numbers == "br" else "1.23"
        assert content.render({"x": given}) == {"v": found, "t": brl(found)}
    own = compile_content({"v": "{{ x | cents('en') }}"}, numbers="br")
    assert own.render({"x": "1,234"}) == {"v": 123400}
    assert "ambiguous" in refusal("{{ x | cents }}", x="1.234")


@pytest.mark.parametrize(
    ("text", "value", "sentence"),
    [
        ("{{ x | date }}", "amanhã", "v: the column x ('amanhã'): a date is written like 21/11/2026"),
        ("Oi {{ x | date }}", "", "v: the column x (blank): a date is missing."),
        ("{{ x | brl }}", 1.5, "v: the column x ('1.5'): brl takes whole cents"),
        ("{{ x | int }}", "5511999998888", ""),
        ("{{ x | date }}", "5511999998888", "v: the column x ('551…'): a date is"),
        ("{{ x | cents }}", ["1"], "v: the column x (a list): an amount is a number or text."),
        ("{{ x ~ y | date }}", "1", "v: the columns x, y ('2'): a date is"),
    ],
)
def test_a_filter_says_which_column_it_refuses_and_what_it_expects(
    text: str, value: Any, sentence: str
) -> None:
    if sentence:
        assert refusal(text, x=value, y="2").startswith(sentence)
    else:
        assert render(text, x=value) == int(value)


def test_of_a_refused_value_only_the_beginning_is_told() -> None:
    code = "00020101021226900014br.gov.bcb.pix2568pix.example"
    for value in (code, "11 99999-8888 ou 11 98888-7777", "Rua das Flores, 12, casa da Maria"):
        told = refusal("{{ x | date }}", x=value)
        assert value not in told
        assert "99999-88" not in told
        assert "…" in told
    assert "('31/02/2026')" in refusal("{{ x | date }}", x="31/02/2026")
    assert "('(11) 99999-8…')" in refusal("{{ x | date }}", x="(11) 99999-8888")


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


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        ("{{ x | date }}", "2026-11-21", "21/11/2026"),
        ("{{ x | date }}", " 21/11/2026 ", "21/11/2026"),
        ("{{ x | date }}", "1/2/2026", "01/02/2026"),
        ("{{ x | date }}", "21-11-2026", "21/11/2026"),
        ("{{ x | date }}", "21.11.2026 10:00", "21/11/2026"),
        ("{{ x | date }}", "2026-11-21 00:00:00", "21/11/2026"),
        ("{{ x | date }}", "2026-11-21T23:59:00-03:00", "21/11/2026"),
        ("{{ x | date('%d/%m %H:%M') }}", "2026-11-21T23:59:00-04:00", "21/11 23:59"),
        ("{{ x | date('%d/%m %H:%M') }}", "2026-11-22T01:30:00Z", "21/11 22:30"),
        ("{{ x | date('%Hh%M', zone='America/Manaus') }}", "2026-11-22T01:30:00Z", "21h30"),
        ("{{ x | date('%Hh%M', zone='America/Manaus') }}", "2026-11-21T22:30-03:00", "21h30"),
        ("{{ x | date('%d de %B de %Y') }}", "2026-03-01", "01 de março de 2026"),
        ("{{ x | date('%-d/%-m/%y, %A') }}", "01/03/2026", "1/3/26, domingo"),
        ("{{ x | date('%a, %d %b') }}", "2026-11-21", "sáb, 21 nov"),
        ("{{ x | date('100%%') }}", "2026-11-21", "100%"),
        ("Vence {{ x | date }}.", "2026-11-21", "Vence 21/11/2026."),
    ],
)
def test_dates_are_read_and_written_as_in_brazil(text: str, value: str, expected: str) -> None:
    assert render(text, x=value) == expected


@pytest.mark.parametrize(
    ("text", "value", "part"),
    [
        ("{{ x | date }}", "31/02/2026", "does not exist"),
        ("{{ x | date }}", "11/21/2026", "does not exist"),
        ("{{ x | date }}", "2026-11-21T25:00", "does not exist"),
        ("{{ x | date }}", "21/11/26", "is written like"),
        ("{{ x | date }}", "21/11", "is written like"),
        ("{{ x | date }}", "46347", "is written like"),
        ("{{ x | date }}", 46347, "is written like"),
        ("{{ x | date }}", None, "a date is missing"),
        ("{{ x | date('%H:%M') }}", "2026-11-21", "asks for a time"),
        ("{{ x | date('%Q') }}", "2026-11-21", "does not know %Q"),
        ("{{ x | date('%d', zone='Mars/Base') }}", "2026-11-21T10:00Z", "zone is the name"),
    ],
)
def test_what_is_no_date_is_refused(text: str, value: Any, part: str) -> None:
    assert part in refusal(text, x=value)


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        ("{{ x | title }}", "MARIA JOSÉ DA SILVA E SOUZA", "Maria José da Silva e Souza"),
        ("{{ x | title }}", "DA SILVA", "Da Silva"),
        ("{{ x | title }}", "ana-clara d'ávila McGregor", "Ana-Clara D'Ávila McGregor"),
        ("{{ x | first_name }}", "ANA-CLARA LIMA", "Ana-Clara"),
        ("{{ x | upper }}", "joão", "JOÃO"),
        ("{{ x | lower }}", "É", "é"),
        ("{{ x | upper }}", None, ""),
        ("{{ x | title }}", None, ""),
        ("{{ x | string }}", 7, "7"),
        ("{{ x ~ '!' }}", None, "!"),
        ("{{ x | truncate(20) }}", "Bolo de rolo com goiabada", "Bolo de rolo com…"),
        ("{{ x | truncate(25) }}", "Bolo de rolo com goiabada", "Bolo de rolo com goiabada"),
        ("{{ x | truncate(5) }}", "Pneumoultramicroscopico", "Pneu…"),
        ("{{ x | truncate(5, '...') }}", "Pneumoultramicroscopico", "Pn..."),
        ("{{ x | int + 1 }}", " 12 ", 13),
        ("{{ x | int(0) }}", "doze", 0),
        ("{{ x | float }}", "1,5", 1.5),
        ("{{ x | round }}", 2.5, 3),
        ("{{ x | round(1) }}", "1,25", 1.3),
        ("{{ x | default('você', true) }}", 0, "você"),
        ("{{ x | replace('-', '') }}", "a-b", "ab"),
        ("{{ x | sum }}", [1, 2], 3),
        ("{{ x | join(', ') }}", ["a", 1], "a, 1"),
    ],
)
def test_texts_and_numbers_are_changed_as_people_want_them(text: str, value: Any, expected: Any) -> None:
    found = render(text, x=value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize("text", ["{{ x | int }}", "{{ x | float }}", "{{ x | round }}"])
@pytest.mark.parametrize("value", ["1.234,5", "doze", "", None, "1" * 30])
def test_what_is_no_number_is_refused_not_made_zero(text: str, value: Any) -> None:
    assert "takes a" in refusal(text, x=value)


def test_placeholders_without_jinja_give_what_jinja_gives() -> None:
    texts = [
        "{{ x }}",
        "{{ x | default('d') }}",
        "{{ x | first_name | upper }}",
        "a {{ x }} b {{ x | title | truncate(4, end='.') }}\n",
    ]
    for text in texts:
        for value in ("maria josé", "", "{{ x }}", None, "a\r\nb"):
            without = render(text, x=value)
            # A condition is for Jinja alone.
            with_jinja = render("{% if true %}" + text + "{% endif %}", x=value)
            assert ("" if without is None else without) == with_jinja


def json_of(content: dict[str, Any], params: dict[str, Any]) -> bytes:
    compiled = compile_content(content)
    written = compiled.render_json(params)
    assert orjson.loads(written) == compiled.render(params)
    return written


def test_the_json_is_canonical() -> None:
    content = {"z": "{{ x }}", "a": [{"b": "é {{ x }}", "c": [1.5, True, None]}, {}, []], 'é"': {"k": 1}}
    expected = '{"z":"ü\\n","a":[{"b":"é ü\\n","c":[1.5,true,null]},{},[]],"é\\"":{"k":1}}'
    assert json_of(content, {"x": "ü\n"}) == expected.encode()
    assert json_of({"v": "{{ x }}"}, {"x": {"b": 1, "a": [2]}}) == b'{"v":{"b":1,"a":[2]}}'


HOSTILE = [
    '"}],"to":"5511000000000","x":[{"y":"',
    "{{ 7 * 7 }}",
    "{% raw %}{% endraw %}{# #}",
    "{% for i in range(999) %}a{% endfor %}",
    '\\u0022 \\ \\" / \b\f',
    "\0\x01\x1b[31m\x7f\x85\u2028\u2029",
    "a\r\nb\tc     d",
    "\u202eabc\u202c \u200f\u2066x\u2069 \ufeff",
    "👩‍👩‍👧‍👦🇧🇷 e\u0301 \U0010ffff",
    "a" * 100_000,
    "'; DROP TABLE messages; --",
    "$(reboot) `reboot` %s {0} %(x)s",
]


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_values_arrive_as_data(value: str) -> None:
    content = {"a": "{{ x }}", "b": ["Oi {{ x }}!"], "c": "{{ x | default('?') }}", "d": "{{ x ~ '' }}"}
    written = orjson.loads(json_of(content, {"x": value}))
    assert written == {"a": value, "b": [f"Oi {value}!"], "c": value, "d": value}


utf_8 = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
)
json_values = st.recursive(
    scalars | utf_8,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(utf_8, inner, max_size=3),
    max_leaves=8,
)


@steady
@given(json_values, utf_8)
def test_any_value_arrives_as_it_is_and_the_same_each_time(value: Any, text: str) -> None:
    content = {"type": "text", "a": {"v": "{{ x }}"}, "b": ["<{{ y }}>", "{{ x }}"]}
    written = json_of(content, {"x": value, "y": text})
    assert orjson.loads(written) == {"type": "text", "a": {"v": value}, "b": [f"<{text}>", value]}
    assert compile_content(content).render_json({"y": text, "x": value}) == written


@steady
@given(st.text(alphabet="{}%#x 'a|+~()[]\n-", max_size=30))
def test_any_text_is_a_template_or_refused_in_a_sentence(text: str) -> None:
    try:
        found = json_of({"v": text}, {"x": "{{ y }}", "a": 1})
    except InputError as error:
        found = str(error).encode()
    assert found.startswith((b'{"v":', b"v: "))


def test_what_is_no_message_at_all_is_refused_in_a_sentence() -> None:
    deep: Any = "{{ x }}"
    for _ in range(5_000):
        deep = [deep]
    with pytest.raises(InputError, match="the message is nested too deep"):
        compile_content({"v": deep})
    with pytest.raises(InputError, match="v: the key 1 is no text"):
        compile_content({"v": {1: "{{ x }}"}})


def test_keys_are_never_filled() -> None:
    assert json_of({"{{ x }}": "{{ x }}"}, {"x": 1}) == b'{"{{ x }}":1}'


def test_what_json_cannot_hold_is_refused_with_its_column() -> None:
    for value, path in (("\ud800", ""), ("a\udfffb", ""), (2**64, ""), ({1: 2}, ""), ([2**70], "[0]")):
        compiled = compile_content({"v": {"w": "{{ x }}"}})
        with pytest.raises(InputError) as caught:
            compiled.render_json({"x": value})
        assert str(caught.value).startswith(
            f"v.w{path}: the value of the column x cannot be written as JSON: "
        )
    with pytest.raises(InputError, match="the message cannot be written as JSON"):
        compile_content({"v": "\ud800"})


def test_the_columns_of_a_place_are_known() -> None:
    compiled = compile_content({"a": [{"b": "{{ x }} {{ y }}"}, {"b": "{{ z | default }}"}], "ab": "{{ w }}"})
    assert compiled.columns_at("a[0].b") == ["x", "y"]
    assert compiled.columns_at("a[1]") == ["z"]
    assert compiled.columns_at("a") == ["x", "y", "z"]
    assert compiled.columns_at("c") == []


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
