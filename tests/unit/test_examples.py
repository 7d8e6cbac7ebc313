"""The examples of every type: none is missing, each is valid, what they say of limits is what is checked."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from disparo.whatsapp import examples, payloads
from disparo.whatsapp.examples import EXAMPLES, Example

PAGE = Path(__file__).parent.parent.parent / "docs" / "payloads.md"

INTERACTIVE = {
    "button", "list", "cta_url", "product", "product_list", "catalog_message", "flow", "location_request_message",
    "carousel", "address_message", "call_permission_request", "voice_call", "request_contact_info", "order_details",
    "order_status",
}  # fmt: skip
SUB_TYPES = {"quick_reply", "url", "copy_code", "catalog", "mpm", "flow", "order_details", "voice_call"}
COMPONENTS = {"header", "body", "button", "carousel", "limited_time_offer", "order_status"}
HEADERS = {"text", "image", "video", "document", "location", "product", "gif"}
BODIES = {"text", "currency", "date_time"}
OF_BUTTONS = {"text", "payload", "coupon_code", "action", "ttl_minutes"}
PAYMENTS = {"pix_dynamic_code", "payment_link", "boleto", "offsite_card_pay"}

every_example = pytest.mark.parametrize("example", EXAMPLES, ids=lambda one: one.name)


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every object within a value, itself included."""
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from objects(item)


def components(kind: str) -> list[dict[str, Any]]:
    return [one for example in EXAMPLES for one in objects(example.message) if one.get("type") == kind]


def parameters(kind: str) -> set[str]:
    return {parameter["type"] for one in components(kind) for parameter in one.get("parameters", ())}


def test_there_is_one_for_every_type_and_sub_type() -> None:
    assert {example.message["type"] for example in EXAMPLES} == set(payloads.TYPES)
    assert {
        one.message["interactive"]["type"] for one in EXAMPLES if "interactive" in one.message
    } == INTERACTIVE
    of_templates = [one for example in EXAMPLES for one in objects(example.message.get("template"))]
    found = {one["type"] for content in of_templates for one in content.get("components", ())}
    assert found == COMPONENTS
    assert {button["sub_type"] for button in components("button") if "sub_type" in button} == SUB_TYPES
    assert (parameters("header"), parameters("body"), parameters("button")) == (HEADERS, BODIES, OF_BUTTONS)
    paid = [one for example in EXAMPLES for one in objects(example.message) if "payment_settings" in one]
    assert {method["type"] for one in paid for method in one["payment_settings"]} == PAYMENTS
    assert len({example.name for example in EXAMPLES}) == len(EXAMPLES)


@every_example
def test_each_is_valid_without_a_warning_and_goes_out_as_it_stands(example: Example) -> None:
    envelope, message = payloads.split(example.document)
    assert payloads.check(message) == payloads.check_envelope(envelope) == []
    assert example.uncertain or payloads.warnings(message) == []
    assert payloads.wire(envelope.get("to", ""), message, envelope) == example.document


def limits(words: str) -> list[Any]:
    """Each path of the examples whose limit is a number of those ``words``, with the number."""
    return [
        pytest.param(
            example, path.replace("[]", "[0]"), int(match[1].replace(",", "")), id=f"{example.name}: {path}"
        )
        for example in EXAMPLES
        for path, rule in example.limits
        if (match := re.match(rf"(?:\d+ to |up to )([\d,]+) {words}", rule))
    ]


def at(message: dict[str, Any], path: str) -> tuple[Any, str | int]:
    """The object or array that holds the value of a path, and the last step to it."""
    steps = [int(step) if step.isdigit() else step for step in re.findall(r"[^.\[\]]+", path)]
    for step in steps[:-1]:
        message = message[step] if isinstance(step, int) else message.setdefault(step, {})  # type: ignore[index]
    return message, steps[-1]


@pytest.mark.parametrize(("example", "path", "most"), limits("characters"))
def test_a_text_of_so_many_characters_passes_and_a_longer_one_does_not(
    example: Example, path: str, most: int
) -> None:
    def faults(length: int) -> list[str]:
        whole = copy.deepcopy(example.document)
        holder, step = at(whole, path)
        holder[step] = "a" * length
        envelope, message = payloads.split(whole)
        return [fault.path for fault in (*payloads.check(message), *payloads.check_envelope(envelope))]

    assert path not in faults(most)
    assert path in faults(most + 1)


@pytest.mark.parametrize(("example", "path", "most"), limits("entries"))
def test_so_many_entries_pass_and_one_more_does_not(example: Example, path: str, most: int) -> None:
    message = copy.deepcopy(example.message)
    holder, step = at(message, path)
    holder[step] = [holder[step][0]] * (most + 1)
    assert path in [fault.path for fault in payloads.check(message)]


def test_the_page_is_as_the_examples_are() -> None:
    assert PAGE.read_text(encoding="utf-8") == examples.page(), "run `make docs`"


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ("text", ["text", "text reply", "text recipient"]),
        ("interactive.button", ["interactive button"]),
        ("interactive button", ["interactive button"]),
        ("MPM", ["template button mpm"]),
        ("boleto", ["interactive order_details boleto", "template button order_details boleto"]),
        ("interactive.nothing", []),
        ("", []),
    ],
)
def test_an_example_is_found_by_its_name_or_by_words_of_it(wanted: str, names: list[str]) -> None:
    assert [one.name for one in examples.find(wanted)] == names
