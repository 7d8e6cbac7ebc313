"""Which messages the sandbox takes: the five kinds of Gupshup's pages, and one broken rule at a time."""

import contextlib
import copy
import time
from typing import Any

import orjson
import pytest

from disparo.sandbox import envelope
from disparo.sandbox.rules import ShapeError

PIX_CODE = (
    "00020101021226900014br.gov.bcb.pix2568pix.example.com/qr/payload/v2/085e4c08-dede-404f-b312-6566c55d4b10"
    "5204000053039865802BR5925FULANO DE TAL6013Nao_informado62070503***63041235"
)

ORDER_DETAILS: dict[str, Any] = {
    "reference_id": "987654333",
    "type": "digital-goods",
    "payment_type": "br",
    "payment_settings": [
        {
            "type": "pix_dynamic_code",
            "pix_dynamic_code": {
                "code": PIX_CODE,
                "merchant_name": "Account holder name",
                "key": "39580525000189",
                "key_type": "CNPJ",
            },
        }
    ],
    "currency": "BRL",
    "total_amount": {"value": 50000, "offset": 100},
    "order": {
        "status": "pending",
        "tax": {"value": 0, "offset": 100, "description": "optional text"},
        "items": [
            {
                "retailer_id": "1234567",
                "name": "Cake",
                "amount": {"value": 50000, "offset": 100},
                "quantity": 1,
            }
        ],
        "subtotal": {"value": 50000, "offset": 100},
    },
}


def message(kind: str, content: Any) -> dict[str, Any]:
    return {
        "messaging_product": "whatsapp",
        "recipient_type": "individual",
        "to": "5511999990001",
        "type": kind,
        kind: copy.deepcopy(content),
    }


def text() -> dict[str, Any]:
    return message("text", {"body": "Hii meta test"})


def buttons() -> dict[str, Any]:
    return message(
        "interactive",
        {
            "type": "button",
            "header": {"type": "text", "text": "Pedido"},
            "body": {"text": "Chegou?"},
            "footer": {"text": "Loja"},
            "action": {
                "buttons": [
                    {"type": "reply", "reply": {"id": "yes", "title": "Sim"}},
                    {"type": "reply", "reply": {"id": "no", "title": "Não"}},
                ]
            },
        },
    )


def pix() -> dict[str, Any]:
    return message(
        "interactive",
        {
            "type": "order_details",
            "body": {"text": "Your message content"},
            "action": {"name": "review_and_pay", "parameters": ORDER_DETAILS},
        },
    )


def pix_template() -> dict[str, Any]:
    return message(
        "template",
        {
            "name": "pix_test_template",
            "language": {"policy": "deterministic", "code": "en"},
            "components": [
                {
                    "type": "button",
                    "sub_type": "order_details",
                    "index": 0,
                    "parameters": [{"type": "action", "action": {"order_details": ORDER_DETAILS}}],
                }
            ],
        },
    )


def mpm_template() -> dict[str, Any]:
    return message(
        "template",
        {
            "name": "abandoned_cart",
            "language": {"code": "en_US"},
            "components": [
                {"type": "header", "parameters": [{"type": "text", "text": "Pablo"}]},
                {"type": "body", "parameters": [{"type": "text", "text": "10OFF"}]},
                {
                    "type": "button",
                    "sub_type": "mpm",
                    "index": 0,
                    "parameters": [
                        {
                            "type": "action",
                            "action": {
                                "thumbnail_product_retailer_id": "2lc20305pt",
                                "sections": [
                                    {
                                        "title": "Popular Bundles",
                                        "product_items": [
                                            {"product_retailer_id": "2lc20305pt"},
                                            {"product_retailer_id": "nseiw1x3ch"},
                                        ],
                                    },
                                    {
                                        "title": "Premium Packages",
                                        "product_items": [{"product_retailer_id": "n6k6x0y7oe"}],
                                    },
                                ],
                            },
                        }
                    ],
                },
            ],
        },
    )


def steps(path: str) -> list[str | int]:
    return [
        int(step) if step.isdigit() else step for step in path.replace("[", ".").replace("]", "").split(".")
    ]


GONE = object()


def changed(body: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """``body`` with the value at ``path`` replaced, or taken out."""
    at: Any = body
    *way, last = steps(path)
    for step in way:
        at = at[step]
    if value is GONE:
        del at[last]
    else:
        at[last] = value
    return body


@pytest.mark.parametrize("make", [text, buttons, pix, pix_template, mpm_template])
def test_the_samples_of_the_providers_pages_are_taken(make: Any) -> None:
    assert envelope.check(make()) == "5511999990001"


MEDIA = {"link": "https://example.com/a"}
PARAMETERS = "interactive.action.parameters"
BUTTON = "template.components[2].parameters[0].action"

OTHERS: list[tuple[str, Any]] = [
    ("image", {**MEDIA, "caption": "c"}),
    ("image", {"id": "123"}),
    ("audio", {**MEDIA, "voice": True}),
    ("video", MEDIA),
    ("document", {**MEDIA, "filename": "a.pdf", "caption": "c"}),
    ("sticker", MEDIA),
    ("location", {"latitude": -23.5, "longitude": "-46.6", "name": "Loja"}),
    ("contacts", [{"name": {"formatted_name": "Ana", "first_name": "Ana"}}]),
    ("reaction", {"message_id": "wamid.x", "emoji": ""}),
    (
        "interactive",
        {
            "type": "list",
            "body": {"text": "b"},
            "action": {"button": "Ver", "sections": [{"rows": [{"id": "1", "title": "t"}]}]},
        },
    ),
    (
        "interactive",
        {
            "type": "cta_url",
            "body": {"text": "b"},
            "action": {
                "name": "cta_url",
                "parameters": {"display_text": "Abrir", "url": "https://example.com"},
            },
        },
    ),
    ("interactive", {"type": "product", "action": {"catalog_id": "1", "product_retailer_id": "2"}}),
    (
        "interactive",
        {
            "type": "product_list",
            "header": {"type": "text", "text": "h"},
            "body": {"text": "b"},
            "action": {"catalog_id": "1", "sections": [{"product_items": [{"product_retailer_id": "2"}]}]},
        },
    ),
    (
        "interactive",
        {"type": "catalog_message", "body": {"text": "b"}, "action": {"name": "catalog_message"}},
    ),
    (
        "interactive",
        {
            "type": "flow",
            "body": {"text": "b"},
            "action": {
                "name": "flow",
                "parameters": {"flow_message_version": "3", "flow_id": "1", "flow_cta": "Abrir"},
            },
        },
    ),
    (
        "interactive",
        {"type": "location_request_message", "body": {"text": "b"}, "action": {"name": "send_location"}},
    ),
    (
        "interactive",
        {
            "type": "carousel",
            "body": {"text": "b"},
            "action": {"cards": [{"card_index": 0, "action": {}}, {"card_index": 1, "action": {}}]},
        },
    ),
    (
        "interactive",
        {
            "type": "order_status",
            "body": {"text": "b"},
            "action": {
                "name": "review_order",
                "parameters": {"reference_id": "1", "order": {"status": "processing"}, "payment": {}},
            },
        },
    ),
    (
        "interactive",
        {"type": "address_message", "body": {"text": "b"}, "action": {"name": "address_message"}},
    ),
    ("template", {"name": "hello", "language": {"code": "pt_BR"}}),
    (
        "template",
        {
            "name": "otp",
            "language": {"code": "pt_BR"},
            "components": [
                {"type": "header", "parameters": [{"type": "image", "image": MEDIA}]},
                {"type": "body", "parameters": [{"type": "text", "parameter_name": "code", "text": "1"}]},
                {
                    "type": "button",
                    "sub_type": "url",
                    "index": "0",
                    "parameters": [{"type": "text", "text": "1"}],
                },
                {"type": "button", "sub_type": "quick_reply", "index": 1},
            ],
        },
    ),
    (
        "template",
        {
            "name": "cards",
            "language": {"code": "pt_BR"},
            "components": [{"type": "carousel", "cards": [{}, {}]}],
        },
    ),
]


@pytest.mark.parametrize(("kind", "content"), OTHERS)
def test_every_other_documented_type_is_taken(kind: str, content: Any) -> None:
    assert envelope.check(message(kind, content)) == "5511999990001"


def test_a_quote_and_callback_data_are_taken() -> None:
    body = text() | {
        "context": {"message_id": "wamid.x"},
        "biz_opaque_callback_data": "m1",
        "recipient": "BR.1",
    }
    assert envelope.check(body) == "5511999990001"


def test_all_payment_methods_and_parts_of_an_order_are_taken() -> None:
    body = pix()
    parameters = body["interactive"]["action"]["parameters"]
    parameters["payment_settings"] += [
        {"type": "payment_link", "payment_link": {"uri": "https://example.com/pay"}},
        {"type": "boleto", "boleto": {"digitable_line": "0" * 47}},
        {"type": "offsite_card_pay", "offsite_card_pay": {"last_four_digits": "1234", "credential_id": "c"}},
    ]
    order = parameters["order"]
    order["items"][0] |= {"quantity": 3, "sale_amount": {"value": 10000, "offset": 100}}
    order["subtotal"]["value"] = 30000
    order["tax"]["value"] = 100
    order["shipping"] = {"value": 900, "offset": 100, "description": "Sedex"}
    order["discount"] = {"value": 1000, "offset": 100, "discount_program_name": "PIX"}
    order["expiration"] = {"timestamp": str(int(time.time()) + 3600), "description": "Vencido"}
    parameters["total_amount"]["value"] = 30000
    assert envelope.check(body) == "5511999990001"


def test_an_order_may_be_just_its_total() -> None:
    assert envelope.check(changed(pix(), f"{PARAMETERS}.order", GONE)) == "5511999990001"


BROKEN: list[tuple[Any, str, Any, int]] = [
    (text, "messaging_product", GONE, 131008),
    (text, "messaging_product", "sms", 100),
    (text, "recipient_type", GONE, 131008),
    (text, "recipient_type", "group", 100),
    (text, "to", GONE, 131008),
    (text, "to", 5511999990001, 131009),
    (text, "to", "+5511999990001", 131009),
    (text, "to", "1234567", 131009),
    (text, "to", "1234567890123456", 131009),
    (text, "to", "551199999000١", 131009),
    (text, "type", GONE, 131008),
    (text, "type", "sms", 100),
    (text, "text", GONE, 131008),
    (text, "text", "Oi", 131009),
    (text, "text.body", GONE, 131008),
    (text, "text.body", None, 131009),
    (text, "text.body", "", 131009),
    (text, "text.body", "x" * 4097, 131009),
    (text, "text.preview_url", "yes", 131009),
    (text, "text.bodi", "x", 100),
    (text, "image", {}, 100),
    (text, "lane", "payment", 100),
    (text, "context", {"message_id": ""}, 131009),
    (text, "biz_opaque_callback_data", "x" * 513, 131009),
    (buttons, "interactive.type", "buttons", 100),
    (buttons, "interactive.body", GONE, 131008),
    (buttons, "interactive.body.text", "x" * 1025, 131009),
    (buttons, "interactive.footer.text", "x" * 61, 131009),
    (buttons, "interactive.header.text", "x" * 61, 131009),
    (buttons, "interactive.header.type", "audio", 131009),
    (buttons, "interactive.header", {"type": "image", "image": {}}, 131009),
    (buttons, "interactive.header", {"type": "image", "image": {"id": "1", "link": "https://e"}}, 131009),
    (buttons, "interactive.header", {"type": "image", "image": {"link": "ftp://e"}}, 131009),
    (buttons, "interactive.action.buttons", [], 131009),
    (buttons, "interactive.action.buttons", [{}] * 4, 131009),
    (buttons, "interactive.action.buttons[0].type", "url", 131009),
    (buttons, "interactive.action.buttons[0].reply.id", "x" * 257, 131009),
    (buttons, "interactive.action.buttons[0].reply.id", " yes", 131009),
    (buttons, "interactive.action.buttons[1].reply.id", "yes", 131009),
    (buttons, "interactive.action.buttons[1].reply.title", "Sim", 131009),
    (buttons, "interactive.action.buttons[0].reply.title", "x" * 21, 131009),
    (buttons, "interactive.fotter", {"text": "x"}, 100),
    (pix, "interactive.header", {"type": "text", "text": "x"}, 131009),
    (pix, "interactive.action.name", "pay", 131009),
    (pix, f"{PARAMETERS}.reference_id", "a b", 131009),
    (pix, f"{PARAMETERS}.reference_id", "x" * 61, 131009),
    (pix, f"{PARAMETERS}.type", "goods", 131009),
    (pix, f"{PARAMETERS}.payment_type", "upi", 131009),
    (pix, f"{PARAMETERS}.payment_settings", [], 131009),
    (pix, f"{PARAMETERS}.payment_settings[0].type", "pix", 131009),
    (pix, f"{PARAMETERS}.payment_settings[0].pix_dynamic_code.code", "", 131009),
    (pix, f"{PARAMETERS}.payment_settings[0].pix_dynamic_code.key", GONE, 131008),
    (pix, f"{PARAMETERS}.payment_settings[0].pix_dynamic_code.key_type", "cnpj", 131009),
    (pix, f"{PARAMETERS}.currency", "USD", 131009),
    (pix, f"{PARAMETERS}.total_amount.value", 0, 131009),
    (pix, f"{PARAMETERS}.total_amount.value", 500.0, 131009),
    (pix, f"{PARAMETERS}.total_amount.value", True, 131009),
    (pix, f"{PARAMETERS}.total_amount.value", 49999, 131009),
    (pix, f"{PARAMETERS}.total_amount.offset", 1, 131009),
    (pix, f"{PARAMETERS}.order.status", "paid", 131009),
    (pix, f"{PARAMETERS}.order.items", [], 131009),
    (pix, f"{PARAMETERS}.order.items[0].name", "x" * 61, 131009),
    (pix, f"{PARAMETERS}.order.items[0].quantity", 0, 131009),
    (pix, f"{PARAMETERS}.order.items[0].quantity", "1", 131009),
    (pix, f"{PARAMETERS}.order.subtotal.value", 1, 131009),
    (pix, f"{PARAMETERS}.order.tax", GONE, 131008),
    (pix, f"{PARAMETERS}.order.tax.description", "x" * 61, 131009),
    (pix, f"{PARAMETERS}.order.expiration", {"timestamp": 1, "description": "d"}, 131009),
    (pix, f"{PARAMETERS}.order.expiration", {"timestamp": "1", "description": "d"}, 131009),
    (pix_template, "template.name", "Pix", 131009),
    (pix_template, "template.language", GONE, 131008),
    (pix_template, "template.language.code", "pt-BR", 131009),
    (pix_template, "template.language.policy", "fallback", 131009),
    (pix_template, "template.components[0].type", "buttons", 131009),
    (pix_template, "template.components[0].sub_type", GONE, 131008),
    (pix_template, "template.components[0].index", 1, 131009),
    (pix_template, "template.components[0].index", GONE, 131008),
    (pix_template, "template.components[0].parameters", [], 131009),
    (pix_template, "template.components[0].parameters[0].type", "text", 100),
    (
        pix_template,
        "template.components[0].parameters[0].action.order_details.order.subtotal.value",
        1,
        131009,
    ),
    (mpm_template, "template.components[0].parameters[0].text", "x" * 61, 131009),
    (mpm_template, "template.components[1].parameters[0].text", "x" * 1025, 131009),
    (mpm_template, "template.components[1].parameters[0].text", "a\nb", 131009),
    (mpm_template, "template.components[1].parameters[0].text", "a     b", 131009),
    (mpm_template, "template.components[1].parameters[0].type", "image", 131009),
    (mpm_template, "template.components[1].type", "footer", 131009),
    (mpm_template, f"{BUTTON}.thumbnail_product_retailer_id", GONE, 131008),
    (mpm_template, f"{BUTTON}.sections", [{"title": "t", "product_items": []}] * 11, 131009),
    (mpm_template, f"{BUTTON}.sections[0].title", "x" * 25, 131009),
    (mpm_template, f"{BUTTON}.sections[0].title", GONE, 131008),
    (mpm_template, f"{BUTTON}.sections[1].product_items", [], 131009),
    (mpm_template, f"{BUTTON}.sections[1].product_items[0].product_retailer_id", 7, 131009),
]


@pytest.mark.parametrize(("make", "path", "value", "code"), BROKEN)
def test_a_broken_rule_is_refused_with_metas_code_and_the_path(
    make: Any, path: str, value: Any, code: int
) -> None:
    with pytest.raises(ShapeError) as caught:
        envelope.check(changed(make(), path, value))
    assert caught.value.code == code
    assert path.startswith(caught.value.path) or caught.value.path.startswith(path)


def test_thirty_one_products_are_too_many() -> None:
    products = [{"product_retailer_id": str(number)} for number in range(16)]
    body = changed(
        mpm_template(),
        f"{BUTTON}.sections",
        [{"title": "a", "product_items": products}, {"title": "b", "product_items": products[:15]}],
    )
    with pytest.raises(ShapeError, match="31 products"):
        envelope.check(body)


def test_a_second_button_at_the_same_index_is_refused() -> None:
    body = pix_template()
    body["template"]["components"] *= 2
    with pytest.raises(ShapeError, match="second button 0"):
        envelope.check(body)


def test_named_and_positional_parameters_do_not_mix() -> None:
    body = mpm_template()
    body["template"]["components"][1]["parameters"].append(
        {"type": "text", "text": "x", "parameter_name": "n"}
    )
    with pytest.raises(ShapeError, match="parameter_name"):
        envelope.check(body)


@pytest.mark.parametrize("junk", [None, True, 0, "", "x", [], [None], {}, {"a": None}])
@pytest.mark.parametrize("make", [text, buttons, pix, pix_template, mpm_template])
def test_junk_anywhere_never_breaks_the_check(make: Any, junk: Any) -> None:
    def paths(value: Any, here: list[str | int]) -> list[list[str | int]]:
        below = (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        )
        return [here] * bool(here) + [path for key, child in below for path in paths(child, [*here, key])]

    sample = orjson.dumps(make())
    for path in paths(orjson.loads(sample), []):
        body = orjson.loads(sample)
        at = body
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = junk
        # Junk is nearly always wrong; what matters is that nothing else is ever raised.
        with contextlib.suppress(ShapeError):
            envelope.check(body)


@pytest.mark.parametrize("recipient", ["BR.1A2B3C4D", "US." + "9" * 128])
def test_a_user_id_stands_in_for_a_phone_number_that_is_not_there(recipient: str) -> None:
    body = text() | {"recipient": recipient}
    assert envelope.check(body) == "5511999990001"
    del body["to"]
    assert envelope.check(body) == recipient


@pytest.mark.parametrize("recipient", ["", "BR.", "br.1", "BR." + "9" * 129, "5511999990001", 5])
def test_what_is_no_user_id_is_refused(recipient: object) -> None:
    body = text() | {"recipient": recipient}
    del body["to"]
    with pytest.raises(ShapeError, match="recipient"):
        envelope.check(body)
