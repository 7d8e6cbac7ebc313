"""Each documented limit: at it and one below pass, one above is refused at its place (or warned of)."""

import copy
from typing import Any

import pytest

from disparo.whatsapp import payloads
from tests.json_paths import at

BODY = {"body": {"text": "Olá"}}
IMAGE = {"type": "image", "image": {"id": "1"}}


def interactive(kind: str, action: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "interactive", "interactive": {"type": kind, **BODY, "action": action, **more}}


def template(*components: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "template",
        "template": {"name": "a", "language": {"code": "pt_BR"}, "components": list(components)},
    }


def button(sub_type: str, *parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "button", "sub_type": sub_type, "index": 0, "parameters": list(parameters)}


def reply(number: int) -> dict[str, Any]:
    return {"type": "reply", "reply": {"id": f"{number}", "title": f"Nr {number}"}}


def row(number: int) -> dict[str, Any]:
    return {"id": f"{number}", "title": "A", "description": "x"}


def section(number: int) -> dict[str, Any]:
    return {"title": f"S{number}", "rows": [row(number)]}


def product(number: int) -> dict[str, str]:
    return {"product_retailer_id": f"sku{number}"}


def product_section(number: int) -> dict[str, Any]:
    return {"title": f"S{number}", "product_items": [product(number)]}


def link_card(place: int) -> dict[str, Any]:
    action = {"name": "cta_url", "parameters": {"display_text": "Ver", "url": "https://x.example"}}
    return {
        "card_index": place,
        "type": "cta_url",
        "header": IMAGE,
        "body": {"text": "x"},
        "action": action,
    }


def reply_card(place: int) -> dict[str, Any]:
    buttons = [{"type": "quick_reply", "quick_reply": {"id": "1", "title": "Sim"}}]
    return {**link_card(place), "action": {"buttons": buttons}}


def template_card(place: int) -> dict[str, Any]:
    body = {"type": "body", "parameters": [{"type": "text", "text": "x"}]}
    return {"card_index": place, "components": [{"type": "header", "parameters": [IMAGE]}, body]}


ORDER = {
    "reference_id": "1",
    "type": "digital-goods",
    "payment_type": "br",
    "payment_settings": [{"type": "payment_link", "payment_link": {"uri": "https://x.example"}}],
    "currency": "BRL",
    "total_amount": {"value": 60, "offset": 100},
    "order": {
        "status": "pending",
        "items": [
            {
                "retailer_id": "1",
                "name": "A",
                "amount": {"value": 90, "offset": 100},
                "sale_amount": {"value": 60, "offset": 100},
                "quantity": 1,
            }
        ],
        "subtotal": {"value": 60, "offset": 100},
        "tax": {"value": 0, "offset": 100, "description": "x"},
        "shipping": {"value": 0, "offset": 100, "description": "x"},
        "discount": {"value": 0, "offset": 100, "description": "x", "discount_program_name": "x"},
        "expiration": {"timestamp": "1795219200", "description": "x"},
    },
}
MESSAGES: dict[str, dict[str, Any]] = {
    "text": {"type": "text", "text": {"body": "x"}},
    "image": {"type": "image", "image": {"id": "1", "caption": "x"}},
    "video": {"type": "video", "video": {"id": "1", "caption": "x"}},
    "document": {"type": "document", "document": {"id": "1", "caption": "x"}},
    "location": {"type": "location", "location": {"latitude": 1, "longitude": 1}},
    "contacts": {"type": "contacts", "contacts": []},
    "button": interactive(
        "button", {"buttons": [reply(0)]}, header={"type": "text", "text": "x"}, footer={"text": "x"}
    ),
    "list": interactive("list", {"button": "Ver", "sections": [section(0)]}),
    "cta_url": interactive("cta_url", link_card(0)["action"]),
    "product_list": interactive(
        "product_list",
        {"catalog_id": "1", "sections": [product_section(0)]},
        header={"type": "text", "text": "x"},
    ),
    "flow": interactive(
        "flow",
        {"name": "flow", "parameters": {"flow_message_version": "3", "flow_id": "1", "flow_cta": "x"}},
    ),
    "links": interactive("carousel", {"cards": [link_card(0), link_card(1)]}),
    "replies": interactive("carousel", {"cards": [reply_card(0), reply_card(1)]}),
    "voice_call": interactive(
        "voice_call", {"name": "voice_call", "parameters": {"display_text": "x", "ttl_minutes": 2}}
    ),
    "order_details": interactive(
        "order_details", {"name": "review_and_pay", "parameters": ORDER}, footer={"text": "x"}
    ),
    "order_status": interactive(
        "order_status",
        {
            "name": "review_order",
            "parameters": {"reference_id": "1", "order": {"status": "shipped", "description": "x"}},
        },
    ),
    "values": template(
        {"type": "header", "parameters": [{"type": "text", "text": "x"}]},
        {"type": "body", "parameters": [{"type": "text", "text": "x"}]},
    ),
    "body alone": template({"type": "body", "parameters": [{"type": "text", "text": "x"}]}),
    "offer": template(
        {"type": "body", "parameters": [{"type": "text", "text": "x"}]},
        {
            "type": "limited_time_offer",
            "parameters": [
                {
                    "type": "limited_time_offer",
                    "limited_time_offer": {"expiration_time_ms": 1795219200000},
                }
            ],
        },
    ),
    "quick_reply": template(button("quick_reply", {"type": "payload", "payload": "x"})),
    "url": template(button("url", {"type": "text", "text": "x"})),
    "copy_code": template(button("copy_code", {"type": "coupon_code", "coupon_code": "x"})),
    "mpm": template(
        button(
            "mpm",
            {
                "type": "action",
                "action": {"thumbnail_product_retailer_id": "1", "sections": [product_section(0)]},
            },
        )
    ),
    "call button": template(button("voice_call", {"type": "ttl_minutes", "ttl_minutes": 2})),
    "cards": template({"type": "carousel", "cards": [template_card(0), template_card(1)]}),
}

ACTION = "interactive.action"
PARAMETERS = f"{ACTION}.parameters"
PART = "template.components[0].parameters[0]"

#: Where a text stands, and how long it may be.
LENGTHS = [
    ("text", "text.body", 4096),
    ("image", "image.caption", 1024),
    ("video", "video.caption", 1024),
    ("document", "document.caption", 1024),
    ("button", "interactive.header.text", 60),
    ("button", "interactive.body.text", 1024),
    ("button", "interactive.footer.text", 60),
    ("button", f"{ACTION}.buttons[0].reply.id", 256),
    ("button", f"{ACTION}.buttons[0].reply.title", 20),
    ("list", "interactive.body.text", 4096),
    ("list", f"{ACTION}.button", 20),
    ("list", f"{ACTION}.sections[0].title", 24),
    ("list", f"{ACTION}.sections[0].rows[0].id", 200),
    ("list", f"{ACTION}.sections[0].rows[0].title", 24),
    ("list", f"{ACTION}.sections[0].rows[0].description", 72),
    ("cta_url", f"{PARAMETERS}.display_text", 20),
    ("product_list", f"{ACTION}.sections[0].title", 24),
    ("product_list", "interactive.header.text", 60),
    ("links", "interactive.body.text", 1024),
    ("links", f"{ACTION}.cards[1].body.text", 160),
    ("links", f"{ACTION}.cards[1].action.parameters.display_text", 20),
    ("replies", f"{ACTION}.cards[1].action.buttons[0].quick_reply.title", 20),
    ("voice_call", f"{PARAMETERS}.display_text", 20),
    ("voice_call", f"{PARAMETERS}.payload", 512),
    ("order_details", "interactive.body.text", 1024),
    ("order_details", "interactive.footer.text", 60),
    ("order_details", f"{PARAMETERS}.reference_id", 60),
    ("order_details", f"{PARAMETERS}.order.items[0].name", 60),
    ("order_details", f"{PARAMETERS}.order.tax.description", 60),
    ("order_details", f"{PARAMETERS}.order.shipping.description", 60),
    ("order_details", f"{PARAMETERS}.order.discount.description", 60),
    ("order_details", f"{PARAMETERS}.order.discount.discount_program_name", 60),
    ("order_details", f"{PARAMETERS}.order.expiration.description", 120),
    ("order_status", f"{PARAMETERS}.order.description", 120),
    ("order_status", f"{PARAMETERS}.reference_id", 60),
    ("values", "template.name", 512),
    ("values", f"{PART}.text", 60),
    ("url", f"{PART}.text", 2000),
    ("copy_code", f"{PART}.coupon_code", 15),
    ("mpm", f"{PART}.action.sections[0].title", 24),
]


def changed(name: str, path: str, value: Any) -> dict[str, Any]:
    found = copy.deepcopy(MESSAGES[name])
    container, key = at(found, path)
    container[key] = value
    return found


def assert_limit(name: str, path: str, fits: list[Any], breaks: Any, limit: str | None, told: str) -> None:
    for value in fits:
        assert payloads.check(changed(name, path, value)) == []
    (fault,) = payloads.check(changed(name, path, breaks))
    assert fault.path == told
    assert limit is None or limit in str(fault.limit)
    assert fault.source


@pytest.mark.parametrize(("name", "path", "most"), LENGTHS)
def test_a_text_may_be_as_long_as_documented_and_no_longer(name: str, path: str, most: int) -> None:
    assert_limit(name, path, ["x" * (most - 1), "x" * most], "x" * (most + 1), str(most), path)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (name, path)
        for name, path, _ in LENGTHS
        # The title of a section alone may be empty, and so may what is said besides.
        if not path.endswith(
            ("caption", "description", "discount_program_name", "payload", "sections[0].title")
        )
        or "expiration" in path
    ],
)
def test_a_text_that_must_be_there_is_not_empty(name: str, path: str) -> None:
    (fault,) = payloads.check(changed(name, path, ""))
    assert fault.path == path


def test_lengths_are_counted_in_code_points() -> None:
    assert payloads.check(changed("button", f"{ACTION}.buttons[0].reply.title", "👍" * 20)) == []
    assert payloads.check(changed("button", f"{ACTION}.buttons[0].reply.title", "👍" * 21))


def named(number: int) -> dict[str, Any]:
    return {"name": {"formatted_name": f"Nr {number}", "first_name": "Nr"}}


def contacts(count: int) -> list[Any]:
    return [named(number) for number in range(count)]


@pytest.mark.parametrize(
    ("name", "path", "entry", "least", "most", "told"),
    [
        ("contacts", "contacts", named, 1, 257, "contacts"),
        ("button", f"{ACTION}.buttons", reply, 1, 3, None),
        ("list", f"{ACTION}.sections", section, 1, 10, None),
        ("list", f"{ACTION}.sections[0].rows", row, 1, 10, f"{ACTION}.sections"),
        ("product_list", f"{ACTION}.sections", product_section, 1, 10, None),
        ("product_list", f"{ACTION}.sections[0].product_items", product, 1, 30, f"{ACTION}.sections"),
        ("links", f"{ACTION}.cards", link_card, 2, 10, None),
        ("replies", f"{ACTION}.cards", reply_card, 2, 10, None),
        ("mpm", f"{PART}.action.sections", product_section, 1, 10, None),
        (
            "mpm",
            f"{PART}.action.sections[0].product_items",
            product,
            1,
            30,
            f"{PART}.action.sections",
        ),
        ("cards", "template.components[0].cards", template_card, 2, 10, None),
    ],
)
def test_there_may_be_as_many_as_documented_and_no_more(
    name: str, path: str, entry: Any, least: int, most: int, told: str | None
) -> None:
    def entries(count: int) -> list[Any]:
        return [entry(number) for number in range(count)]

    fits = [entries(count) for count in (least, least + 1, most - 1, most)]
    for value in fits:
        assert payloads.check(changed(name, path, value)) == []
    few = payloads.check(changed(name, path, entries(least - 1)))
    assert [fault.path for fault in few] == [path]
    over = payloads.check(changed(name, path, entries(most + 1)))
    assert (told or path) in [fault.path for fault in over]


@pytest.mark.parametrize(
    ("name", "path", "least", "most"),
    [
        ("location", "location.latitude", -90, 90),
        ("location", "location.longitude", -180, 180),
        ("voice_call", f"{PARAMETERS}.ttl_minutes", 1, 43200),
        ("links", f"{ACTION}.cards[1].card_index", 1, 9),
        ("cards", "template.components[0].cards[1].card_index", 1, 9),
        ("quick_reply", "template.components[0].index", 0, 9),
    ],
)
def test_a_number_stays_within_its_bounds(name: str, path: str, least: int, most: int) -> None:
    assert_limit(name, path, [least, least + 1, most - 1, most], most + 1, None, path)
    assert payloads.check(changed(name, path, least - 1))


@pytest.mark.parametrize(
    ("name", "path", "least"),
    [
        ("order_details", f"{PARAMETERS}.order.items[0].quantity", 1),
        ("order_details", f"{PARAMETERS}.order.tax.value", 0),
    ],
)
def test_a_number_has_a_least_value(name: str, path: str, least: int) -> None:
    assert payloads.check(changed(name, path, least)) == []
    assert path in [fault.path for fault in payloads.check(changed(name, path, least - 1))]


def test_a_sale_price_is_below_the_price() -> None:
    path = f"{PARAMETERS}.order.items[0].amount.value"
    assert payloads.check(changed("order_details", path, 61)) == []
    (fault,) = payloads.check(changed("order_details", path, 60))
    assert fault.path == f"{PARAMETERS}.order.items[0].sale_amount.value"


def test_a_card_has_two_line_breaks() -> None:
    path = f"{ACTION}.cards[0].body.text"
    assert_limit("links", path, ["a\nb", "a\nb\nc"], "a\nb\nc\nd", "2", path)


@pytest.mark.parametrize("blanks", [4, 5])
def test_a_template_value_has_four_blanks_in_a_row(blanks: int) -> None:
    found = payloads.check(changed("values", f"{PART}.text", f"a{' ' * blanks}b"))
    assert [fault.path for fault in found] == ([] if blanks == 4 else [f"{PART}.text"])


@pytest.mark.parametrize(
    ("name", "component", "most"),
    [("values", 1, 1024), ("body alone", 0, 32768), ("offer", 0, 600)],
)
def test_the_values_of_a_body_are_counted_together(name: str, component: int, most: int) -> None:
    def values(length: int) -> list[dict[str, str]]:
        return [{"type": "text", "text": "x" * (length - 1)}, {"type": "text", "text": "x"}]

    path = f"template.components[{component}].parameters"
    assert_limit(name, path, [values(most - 1), values(most)], values(most + 1), str(most), path)


def test_the_values_of_a_card_are_counted_together() -> None:
    path = "template.components[0].cards[1].components[1].parameters"
    over = [{"type": "text", "text": "x" * 161}]
    assert_limit("cards", path, [[{"type": "text", "text": "x" * 160}]], over, "160", path)


@pytest.mark.parametrize(
    ("sub_type", "parameter", "most"),
    [
        ("url", {"type": "text", "text": "a"}, 2),
        ("copy_code", {"type": "coupon_code", "coupon_code": "a"}, 1),
        ("quick_reply", {"type": "payload", "payload": "a"}, 10),
    ],
)
def test_a_template_has_so_many_buttons_of_a_kind(sub_type: str, parameter: Any, most: int) -> None:
    def buttons(count: int) -> dict[str, Any]:
        return template(*({**button(sub_type, parameter), "index": place} for place in range(count)))

    assert payloads.check(buttons(most)) == []
    assert payloads.check(buttons(most + 1))


@pytest.mark.parametrize(
    ("name", "path", "fits", "odd"),
    [
        ("list", "interactive.body.text", "x" * 1024, "x" * 1025),
        ("body alone", f"{PART}.text", "x" * 1024, "x" * 1025),
        ("flow", f"{PARAMETERS}.flow_cta", "x" * 30, "x" * 31),
        ("flow", f"{PARAMETERS}.flow_cta", "Abrir já", "Abrir 🎉"),
        ("order_details", f"{PARAMETERS}.reference_id", "x" * 35, "x" * 36),
        ("quick_reply", f"{PART}.payload", "x" * 128, "x" * 129),
        ("quick_reply", f"{PART}.payload", "x" * 128, "x" * 257),
        ("replies", f"{ACTION}.cards[0].action.buttons[0].quick_reply.id", "x" * 20, "x" * 21),
        ("call button", f"{PART}.ttl_minutes", 43200, 43201),
        ("button", f"{ACTION}.buttons[0].reply.title", "a_b_c", "*Sim*"),
        ("order_status", f"{PARAMETERS}.order.status", "partially-shipped", "partially_shipped"),
        (
            "offer",
            "template.components[1].parameters[0].limited_time_offer.expiration_time_ms",
            1795219200000,
            1795219200,
        ),
    ],
)
def test_what_the_pages_disagree_on_is_warned_of(name: str, path: str, fits: Any, odd: Any) -> None:
    assert payloads.warnings(changed(name, path, fits)) == []
    found = changed(name, path, odd)
    assert payloads.check(found) == []
    (told,) = payloads.warnings(found)
    assert path.startswith(told.path)
    assert told.source


def test_an_address_without_a_name_and_a_lone_name_are_warned_of() -> None:
    (told,) = payloads.warnings(changed("location", "location.address", "Rua 1"))
    assert told.path == "location.address"
    (told,) = payloads.warnings({"type": "contacts", "contacts": [{"name": {"formatted_name": "Ana"}}]})
    assert told.path == "contacts[0].name"


def test_a_null_is_warned_of() -> None:
    found = changed("text", "text.preview_url", None)
    assert payloads.check(found) == []
    assert [fault.path for fault in payloads.warnings(found)] == ["text.preview_url"]


@pytest.mark.parametrize(("length", "told"), [(14, []), (15, []), (16, [f"{PART}.text"])])
def test_a_long_one_time_code_is_warned_of(length: int, told: list[str]) -> None:
    parameter = {"type": "text", "text": "x" * length}
    found = template({"type": "body", "parameters": [parameter]}, button("url", parameter))
    assert payloads.check(found) == []
    assert [fault.path for fault in payloads.warnings(found)] == told


def test_two_rows_of_one_id_are_warned_of() -> None:
    (told,) = payloads.warnings(changed("list", f"{ACTION}.sections[0].rows", [row(1), row(1)]))
    assert told.path == f"{ACTION}.sections[0].rows[1].id"


@pytest.mark.parametrize(
    ("category", "seconds", "told"),
    [
        ("utility", 29, "ttl_seconds"),
        ("utility", 30, None),
        ("utility", 43200, None),
        ("utility", 43201, "ttl_seconds"),
        ("AUTHENTICATION", 900, None),
        ("authentication", 901, "ttl_seconds"),
        ("marketing", None, "category"),
        (None, 60, "ttl_seconds"),
    ],
)
def test_direct_send_has_a_category_and_a_time_to_live(category: Any, seconds: Any, told: Any) -> None:
    envelope = {"category": category, "ttl_seconds": seconds}
    found = payloads.check_envelope({name: value for name, value in envelope.items() if value is not None})
    assert [fault.path for fault in found] == ([told] if told else [])
