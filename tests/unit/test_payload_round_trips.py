"""Messages of every type, made at random within the rules: they pass and come out as they went in."""

import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from disparo.whatsapp import payloads

# The same cases in every run, and no clock: the machine may be busy.
steady = settings(derandomize=True, deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))

Strategy = st.SearchStrategy[Any]


def text(most: int, least: int = 1) -> Strategy:
    return st.text(st.characters(exclude_categories=["Cs"]), min_size=least, max_size=most)


def words(most: int) -> Strategy:
    """A text that may stand in a template or as an id: one line, no blanks around."""
    visible = st.characters(categories=["L", "N", "P", "S"])
    return st.text(visible, min_size=1, max_size=most)


def one(required: dict[str, Strategy], **optional: Strategy) -> Strategy:
    return st.fixed_dictionaries(required, optional=optional)


def const(value: str) -> Strategy:
    return st.just(value)


def several(entry: Strategy, least: int, most: int, by: str | None = None) -> Strategy:
    unique = {"unique_by": lambda value: value[by]} if by else {}
    return st.lists(entry, min_size=least, max_size=most, **unique)  # type: ignore[arg-type]


def placed(entry: Strategy, least: int, most: int) -> Strategy:
    """Cards in their places."""
    return several(entry, least, most).map(
        lambda cards: [{"card_index": place, **card} for place, card in enumerate(cards)]
    )


url = st.sampled_from(["https://loja.example/p?x=1", "http://loja.example/á b".replace(" ", "%20")])
media = one({"id": words(20)}) | one({"link": url})
captioned = one({"id": words(20)}, caption=text(1024)) | one({"link": url}, caption=text(1024, 0))
document = one({"link": url}, caption=text(9), filename=text(9))
location = one(
    {"latitude": st.floats(-90, 90) | st.just("-23.5"), "longitude": st.integers(-180, 180)},
    name=text(9),
    address=text(9),
)
contact = one(
    {"name": one({"formatted_name": text(20)}, first_name=text(9), last_name=text(9), suffix=text(9))},
    phones=several(one({"phone": text(9)}, type=text(9), wa_id=text(9)), 0, 2),
    emails=several(one({"email": text(9)}, type=text(9)), 0, 2),
    addresses=several(one({"street": text(9)}, city=text(9), country_code=text(2)), 0, 2),
    org=one({}, company=text(9), title=text(9)),
    urls=several(one({"url": url}, type=text(9)), 0, 2),
    birthday=st.dates().map(str),
)

header = (
    one({"type": const("text"), "text": text(60)})
    | one({"type": const("image"), "image": media})
    | one({"type": const("document"), "document": document})
)
text_header = one({"type": const("text"), "text": text(60)})
body, footer = one({"text": text(1024)}), one({"text": text(60)})
link = one({"name": const("cta_url"), "parameters": one({"display_text": text(20), "url": url})})
product = one({"product_retailer_id": words(20)})
products = several(one({"title": text(24), "product_items": several(product, 1, 3)}), 1, 10)
row = one({"id": text(200), "title": text(24)}, description=text(72, 0))
rows = several(one({"title": text(24), "rows": several(row, 1, 2)}), 1, 5)
replies = several(one({"id": words(256), "title": words(20)}), 1, 3).filter(
    lambda found: all(len({reply[name] for reply in found}) == len(found) for name in ("id", "title"))
)
cents = st.integers(0, 10**9)


def amount(value: int) -> dict[str, int]:
    return {"value": value, "offset": 100}


@st.composite
def order_details(draw: Any) -> dict[str, Any]:
    items = draw(
        several(
            st.builds(
                lambda name, price, quantity: {
                    "retailer_id": "1",
                    "name": name,
                    "amount": amount(price),
                    "quantity": quantity,
                },
                text(60),
                st.integers(1, 10**7),
                st.integers(1, 99),
            ),
            1,
            4,
        )
    )
    subtotal = sum(item["amount"]["value"] * item["quantity"] for item in items)
    tax, shipping = draw(cents), draw(cents)
    setting = draw(
        st.sampled_from(
            [
                {"type": "payment_link", "payment_link": {"uri": "https://pagar.example"}},
                {"type": "boleto", "boleto": {"digitable_line": "0" * 47}},
                {
                    "type": "offsite_card_pay",
                    "offsite_card_pay": {"last_four_digits": "1234", "credential_id": "a"},
                },
                {
                    "type": "pix_dynamic_code",
                    "pix_dynamic_code": {
                        "code": "x",
                        "merchant_name": "A",
                        "key": "a@b.example",
                        "key_type": "EMAIL",
                    },
                },
            ]
        )
    )
    order = {
        "status": "pending",
        "items": items,
        "subtotal": amount(subtotal),
        "tax": amount(tax),
        "shipping": {**amount(shipping), "description": draw(text(60, 0))},
    }
    return {
        "reference_id": draw(st.from_regex(r"[A-Za-z0-9_.-]{1,60}", fullmatch=True)),
        "type": draw(st.sampled_from(["digital-goods", "physical-goods"])),
        "payment_type": "br",
        "payment_settings": [setting],
        "currency": "BRL",
        "total_amount": amount(subtotal + tax + shipping),
        **draw(st.sampled_from([{}, {"order": order}])),
    }


INTERACTIVE: dict[str, Strategy] = {
    "button": one(
        {
            "body": body,
            "action": replies.map(
                lambda found: {"buttons": [{"type": "reply", "reply": reply} for reply in found]}
            ),
        },
        header=header,
        footer=footer,
    ),
    "list": one(
        {"body": one({"text": text(4096)}), "action": one({"button": text(20), "sections": rows})},
        header=text_header,
        footer=footer,
    ),
    "cta_url": one({"body": body, "action": link}, header=header, footer=footer),
    "product": one(
        {"action": one({"catalog_id": words(9), "product_retailer_id": words(9)})},
        body=body,
        footer=footer,
    ),
    "product_list": one(
        {
            "header": text_header,
            "body": body,
            "action": one({"catalog_id": words(9), "sections": products}),
        },
        footer=footer,
    ),
    "catalog_message": one(
        {
            "body": body,
            "action": one(
                {"name": const("catalog_message")},
                parameters=one({"thumbnail_product_retailer_id": words(9)}),
            ),
        },
        footer=footer,
    ),
    "flow": one(
        {
            "body": body,
            "action": one(
                {
                    "name": const("flow"),
                    "parameters": one(
                        {"flow_message_version": const("3"), "flow_name": text(9), "flow_cta": text(40)},
                        mode=st.sampled_from(["draft", "published"]),
                        flow_token=text(9, 0),
                        flow_action=st.sampled_from(["navigate", "data_exchange"]),
                        flow_action_payload=one(
                            {"screen": text(9)},
                            data=st.dictionaries(text(5), st.integers() | text(5), min_size=1),
                        ),
                    ),
                }
            ),
        },
        header=header,
    ),
    "location_request_message": one({"body": body, "action": one({"name": const("send_location")})}),
    "carousel": one(
        {
            "body": body,
            "action": one(
                {
                    "cards": placed(
                        one(
                            {
                                "type": const("cta_url"),
                                "header": one({"type": const("image"), "image": media}),
                                "action": link,
                            },
                            body=one({"text": words(160)}),
                        ),
                        2,
                        10,
                    )
                }
            ),
        }
    ),
    "address_message": one(
        {
            "body": body,
            "action": one(
                {"name": const("address_message")},
                parameters=one({"country": const("IN")}, values=st.dictionaries(text(5), text(5))),
            ),
        }
    ),
    "call_permission_request": one({"action": one({"name": const("call_permission_request")})}, body=body),
    "voice_call": one(
        {
            "body": body,
            "action": one(
                {"name": const("voice_call")},
                parameters=one(
                    {}, display_text=text(20), ttl_minutes=st.integers(1, 43200), payload=text(512)
                ),
            ),
        }
    ),
    "request_contact_info": one({"body": body, "action": one({"name": const("request_contact_info")})}),
    "order_details": one(
        {"body": body, "action": one({"name": const("review_and_pay"), "parameters": order_details()})},
        header=one({"type": const("image"), "image": media}),
        footer=footer,
    ),
    "order_status": one(
        {
            "body": body,
            "action": one(
                {
                    "name": const("review_order"),
                    "parameters": one(
                        {
                            "reference_id": const("a-1"),
                            "order": one(
                                {"status": st.sampled_from(["pending", "shipped", "canceled"])},
                                description=text(120),
                            ),
                        },
                        payment=one({"status": const("captured")}, timestamp=st.integers(0, 2**33)),
                    ),
                }
            ),
        }
    ),
}

text_value = one({"type": const("text"), "text": words(20)})
values = one(
    {
        "type": st.sampled_from(["body", "BODY"]),
        "parameters": several(
            text_value
            | one(
                {
                    "type": const("currency"),
                    "currency": one(
                        {"fallback_value": text(9), "code": const("BRL"), "amount_1000": st.integers()}
                    ),
                }
            )
            | one({"type": const("date_time"), "date_time": one({"fallback_value": text(9)})}),
            0,
            4,
        ),
    }
)
HEADERS: dict[str, Strategy] = {
    "text": words(60),
    "image": media,
    "video": media,
    "gif": media,
    "document": document,
    "location": location,
    "product": one({"product_retailer_id": words(9)}, catalog_id=words(9)),
}
template_header = st.one_of(
    one({"type": const(kind), kind: content}) for kind, content in HEADERS.items()
).map(lambda parameter: {"type": "header", "parameters": [parameter]})
BUTTONS: dict[str, Strategy] = {
    "quick_reply": one({"type": const("payload"), "payload": text(128, 0)}),
    "url": one({"type": const("text"), "text": words(200)}),
    "copy_code": one(
        {
            "type": const("coupon_code"),
            "coupon_code": st.from_regex("[A-Za-z0-9]{1,15}", fullmatch=True),
        }
    ),
    "catalog": one({"type": const("action")}, action=one({"thumbnail_product_retailer_id": words(9)})),
    "flow": one(
        {"type": const("action"), "action": one({}, flow_token=text(9), flow_action_data=st.just({"a": 1}))}
    ),
    "mpm": one(
        {
            "type": const("action"),
            "action": one({"thumbnail_product_retailer_id": words(9), "sections": products}),
        }
    ),
    "order_details": one({"type": const("action"), "action": one({"order_details": order_details()})}),
    "voice_call": one({"type": const("ttl_minutes"), "ttl_minutes": st.integers(1, 43200)}),
}


def components(button: str) -> Strategy:
    place = st.sampled_from([0, "0"]) if button == "order_details" else st.sampled_from([0, "3"])
    last = one(
        {
            "type": const("button"),
            "sub_type": st.sampled_from([button, button.upper()]),
            "index": place,
            "parameters": several(BUTTONS[button], 1, 1),
        }
    )
    return st.tuples(template_header, values, last).map(list)


offer = one(
    {
        "type": const("limited_time_offer"),
        "parameters": several(
            one(
                {
                    "type": const("limited_time_offer"),
                    "limited_time_offer": one({"expiration_time_ms": st.integers(10**12, 10**13)}),
                }
            ),
            1,
            1,
        ),
    }
)
cards = placed(one({"components": st.tuples(template_header, values).map(list)}), 2, 10)
TEMPLATES: dict[str, Strategy] = {
    **{button: components(button) for button in BUTTONS},
    "limited_time_offer": st.tuples(values, offer).map(list),
    "carousel": st.tuples(values, cards).map(lambda two: [two[0], {"type": "carousel", "cards": two[1]}]),
}
CONTENTS: dict[str, Strategy] = {
    "text": one({"body": text(4096)}, preview_url=st.booleans()),
    "image": captioned,
    "video": captioned,
    "audio": media.flatmap(lambda found: st.sampled_from([found, {**found, "voice": True}])),
    "document": document,
    "sticker": media,
    "location": location,
    "contacts": several(contact, 1, 3),
    "reaction": one({"message_id": text(20), "emoji": st.sampled_from(["👍", ""])}),
    **{
        f"interactive {kind}": content.map(lambda found, kind=kind: {"type": kind, **found})  # type: ignore[misc]
        for kind, content in INTERACTIVE.items()
    },
    **{
        f"template {kind}": one(
            {
                "name": st.from_regex("[a-z0-9_]{1,512}", fullmatch=True),
                "language": one(
                    {"code": st.sampled_from(["pt_BR", "en", "es_419"])}, policy=const("deterministic")
                ),
                "components": content,
            }
        )
        for kind, content in TEMPLATES.items()
    },
}


@pytest.mark.parametrize("label", CONTENTS)
@steady
@given(data=st.data())
def test_a_message_within_the_rules_passes_and_comes_out_equal(label: str, data: Any) -> None:
    kind = label.partition(" ")[0]
    message = {"type": kind, kind: data.draw(CONTENTS[label])}
    before = copy.deepcopy(message)
    assert payloads.check(message) == []
    plain = label in ("template quick_reply", "template url")
    assert payloads.kind(message) == ("template" if plain else label)
    told = payloads.warnings(message)
    assert all(fault.message and fault.path for fault in told)
    sent = payloads.wire("5511999998888", message, {})
    assert sent == {
        "messaging_product": "whatsapp",
        "recipient_type": "individual",
        "to": "5511999998888",
        **before,
    }
    assert json.loads(json.dumps(sent)) == sent
    assert message == before
    # An unknown key is refused wherever it stands.
    content = message[kind][0] if kind == "contacts" else message[kind]
    content["colour"] = "red"
    assert [fault.path.rpartition(".")[2] for fault in payloads.check(message)] == ["colour"]


def test_every_known_type_is_made() -> None:
    assert {label.partition(" ")[0] for label in CONTENTS} == set(payloads.TYPES)
