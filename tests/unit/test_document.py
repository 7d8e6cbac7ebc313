import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from disparo import document
from disparo.errors import InputError

# The same cases in every run, and no clock: the machine may be busy.
steady = settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def read(text: str) -> Any:
    return document.load(None, text, "message")


def refusal(text: str) -> str:
    with pytest.raises(InputError) as caught:
        read(text)
    return str(caught.value)


def test_a_json_document_is_read_with_its_types_and_order() -> None:
    found = read('{"to": "5511999998888", "b": [1, 1.5, true, null], "a": {}}')
    assert found == {"to": "5511999998888", "b": [1, 1.5, True, None], "a": {}}
    assert list(found) == ["to", "b", "a"]
    assert type(found["b"][0]) is int


def test_the_same_message_in_yaml_is_the_same_document() -> None:
    yaml_text = """
    # sent in the morning
    type: template
    template:
      name: black_friday
      language: {code: pt_BR}
      components:
        - {type: body, parameters: [{type: text, text: "{{ first_name }}"}]}
    """
    assert read(yaml_text) == {
        "type": "template",
        "template": {
            "name": "black_friday",
            "language": {"code": "pt_BR"},
            "components": [{"type": "body", "parameters": [{"type": "text", "text": "{{ first_name }}"}]}],
        },
    }


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("2026-11-21", "2026-11-21"),
        ("2026-11-21 10:00:00", "2026-11-21 10:00:00"),
        ("12:30", "12:30"),
        ("001517", "001517"),
        ("0x1F", "0x1F"),
        ("0o17", "0o17"),
        ("1_000", "1_000"),
        ("+5511999998888", "+5511999998888"),
        ("1.234,56", "1.234,56"),
        ("5511999998888", 5511999998888),
        ("-7", -7),
        ("0", 0),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("'no'", "no"),
        ("'123'", "123"),
        ("=", "="),
    ],
)
def test_yaml_knows_only_the_types_of_json(word: str, value: Any) -> None:
    found = read(f"v: {word}\n")["v"]
    assert found == value
    assert type(found) is type(value)


def test_yaml_keys_are_text_as_written() -> None:
    assert read("no: 1\n2026-11-21: 2\n1: 3\ntrue: 4\n") == {"no": 1, "2026-11-21": 2, "1": 3, "true": 4}


def test_a_pasted_code_may_hold_a_line_break_inside_a_json_text() -> None:
    assert read('{"code": "0002\n6566\t"}') == {"code": "0002\n6566\t"}


def test_brackets_of_yaml_without_quotes_are_read_too() -> None:
    assert read("{type: text, text: {body: Oi}}") == {"type": "text", "text": {"body": "Oi"}}
    assert read("[a, b]") == ["a", "b"]


def test_aliases_are_written_out() -> None:
    assert read("a: &x {n: 1}\nb: *x\n") == {"a": {"n": 1}, "b": {"n": 1}}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["empty"]),
        (" \n\t", ["empty"]),
        ("# only a comment\n", ["empty"]),
        ('{"a": 1,}', ["line 1, column", "comma"]),
        ('{"a": 1\n "b": 2}', ["line 2, column 2", "comma"]),
        ('{"a" 1}', ["line 1, column 6", "colon"]),
        ('{"a": }', ["line 1, column 7", "value is missing"]),
        ('{"to": {{ phone }}, "type": "text"}', ["line 1, column", 'double quotes: "{{ column }}"']),
        ('{"a": "x', ["line 1, column 7", "never closed"]),
        ('{"a": 1} {"b": 2}', ["line 1, column 10", "holds one"]),
        ('{"a": 1, "b": {"c": 1,\n "c": 2}}', ["line 2, column 2", "“c” stands twice"]),
        ('{"a": [{"x": "{\\"x\\": 1"}, {"x": 1}],\n  "a": 2}', ["line 2, column 3", "“a” stands twice"]),
        ('{"a": NaN}', ["line 1, column 7", "NaN is no number"]),
        ('{"a": "NaN", "b": -Infinity}', ["line 1, column 19", "-Infinity is no number"]),
        ('{"a": 1e999}', ["message: a is a number too large"]),
        ('{"a": ' + "1" * 5000 + "}", ["too many digits"]),
        ('{"a": [{"b": "\\ud83d"}]}', ["a[0].b holds half a character (\\ud83d)"]),
        ('{"a": {"\\u0000": 1}}', ["holds the character NUL"]),
        ('{"a": "x\\u0000y"}', ["a holds the character NUL"]),
        ('{"a": "\0"}', ["a holds the character NUL"]),
        ("[" * 2000, ["nested more than 64"]),
        ("[" * 70 + "]" * 70, ["nested more than 64"]),
        ("{a: " * 70 + "1" + "}" * 70, ["line 1, column", "nested more than 64"]),
        ("a: 1\na: 2\n", ["line 2, column 1", "“a” stands twice"]),
        ("a: {{ phone }}\n", ["line 1, column 5", 'in quotes: "{{ column }}"']),
        ("a: .nan\n", ["line 1, column 4", ".nan is no number"]),
        ("a: -.inf\n", ["-.inf is no number"]),
        ("a: 1e999\n", ["message: a is a number too large"]),
        ("a: " + "1" * 5000, ["too many digits"]),
        ("a: !!python/object/apply:os.system [id]\n", ["line 1, column 4", "tag"]),
        ("a: !secret x\n", ["tag !secret"]),
        ("base: &b {x: 1}\nc:\n  <<: *b\n", ["line 3, column 3", "merge keys"]),
        ("a: *nobody\n", ["*nobody refers to nothing"]),
        ("a: &a [*a]\n", ["*a refers to nothing"]),
        ("a: 1\n---\nb: 2\n", ["line 2, column 1", "second document"]),
        ("a:\n\tb: 1\n", ["line 2, column 1", "spaces, not tabs"]),
        ("a: 'x\n", ["line "]),
        ("a: Oi: tudo bem\n", ["line 1, column 6", "stands in quotes"]),
        ("a: @ana\n", ["line 1, column 4", "stands in quotes"]),
        ("a: \x07\n", ["no valid YAML"]),
        ('a: "\\0"\n', ["a holds the character NUL"]),
        ("to,first_name\n5511999998888,Ana\n", ["plain text", "right file"]),
        ("42", ["a number", "right file"]),
        ("a: \udce7\n", ["line 1, column 4", "not UTF-8"]),
    ],
)
def test_what_is_no_document_is_refused_with_its_place_and_what_to_do(text: str, parts: list[str]) -> None:
    sentence = refusal(text)
    assert sentence.startswith("message")
    assert sentence.endswith((".", "?"))
    for part in parts:
        assert part in sentence


def test_a_bomb_of_aliases_is_refused_before_it_grows() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    assert "500000 values" in refusal("\n".join(lines))


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": "\xc3\xa7"}')
    assert document.load(path, None, "m.json") == {"a": "ç"}


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("a: 1\nb: ação\n".encode("cp1252"), "line 2: byte 0xe7 is not UTF-8"),
        ("a: 1".encode("utf-16"), "UTF-16"),
        (b"PK\x03\x04\x14\x00\xff\x00", "not a text file"),
        (b"a" * (document.LARGEST_BYTES + 1), "larger than 5 MB"),
        (b"", "empty"),
    ],
)
def test_a_file_in_another_encoding_or_size_is_refused(tmp_path: Path, content: bytes, part: str) -> None:
    path = tmp_path / "m.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=part):
        document.load(path, None, "m.yaml")


def test_a_text_larger_than_the_bound_is_refused() -> None:
    assert "larger than 5 MB" in refusal("a" * (document.LARGEST_BYTES + 1))


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^gone\.json: there is no such file"):
        document.load(tmp_path / "gone.json", None, "gone.json")
    with pytest.raises(InputError, match=r"^here: is a folder"):
        document.load(tmp_path, None, "here")


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), inner)
    ),
    max_leaves=20,
)


@steady
@given(st.dictionaries(st.sampled_from(["a", "b", "ç"]), values))
def test_every_json_document_reads_back_as_it_was_written(value: dict[str, Any]) -> None:
    assert read(json.dumps(value)) == value
    assert read(json.dumps(value, ensure_ascii=False, indent=2)) == value


@steady
@given(st.text(max_size=60))
def test_any_text_gives_a_document_or_a_sentence(text: str) -> None:
    try:
        assert isinstance(read(text), dict | list)
    except InputError as refused:
        assert str(refused).startswith("message")  # noqa: PT017  both outcomes are right


def test_a_repeated_key_that_holds_half_a_character_is_told_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"\\ud800": 1, "\\ud800": 2}')
    with pytest.raises(InputError, match="the key “\\?” stands twice"):
        document.load(path, None, "a.json")
