import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import disparo
from disparo import messages, phone
from disparo.errors import InputError, PayloadError
from disparo.whatsapp import compositions, payloads
from disparo.whatsapp.compositions import (
    AddressRequest,
    Audio,
    Boleto,
    Buttons,
    CallButton,
    CallPermissionRequest,
    Carousel,
    Catalog,
    CatalogButton,
    CatalogItem,
    Contact,
    ContactRequest,
    Contacts,
    CouponCode,
    Document,
    Flow,
    FlowButton,
    Image,
    Item,
    Link,
    LinkCard,
    ListMessage,
    Location,
    LocationRequest,
    Message,
    MPMButton,
    OneClickCard,
    Order,
    OrderButton,
    OrderStatus,
    PaymentLink,
    PixCode,
    Product,
    ProductCard,
    ProductList,
    QuickReply,
    Reaction,
    ReplyCard,
    Row,
    Sticker,
    Template,
    TemplateCard,
    Text,
    URLEnding,
    Video,
)

URL = "https://loja.example/a"
END = datetime(2096, 12, 24, 12, 0, tzinfo=UTC)
KEY = "39580525000189"
CODE = (
    "00020101021226770014BR.GOV.BCB.PIX2555pix.example.com/qr/93598be0-1bd0-4997-8318-81776a1d8a99"
    "5204000053039865802BR5907EMPRESA6009SAO PAULO62070503***6304EEAB"
)
OF_ONE_REAL = (
    "00020126330014BR.GOV.BCB.PIX01111234567890052040000530398654041.005802BR5914Nome Sobrenome"
    "6015Cidade Ficticia62100506LOJA016304C8E4"
)
BOLETO = "03399026944140000002628346101018898510000008848"
PIX = PixCode(CODE, "Escola Exemplo", KEY, "CNPJ")
BOLO = Item("sku1", "Bolo", 1000, 3, sale_cents=900)

#: Message, and what it is in the provider's JSON.
MESSAGES: list[tuple[str, Message, dict[str, Any]]] = [
    ("text", Text("Olá", preview_url=True), {"body": "Olá", "preview_url": True}),
    ("image", Image(URL, caption="x"), {"link": URL, "caption": "x"}),
    ("video", Video(id="1"), {"id": "1"}),
    ("audio", Audio(id="1", voice=True), {"id": "1", "voice": True}),
    ("document", Document(URL, filename="a.pdf"), {"link": URL, "filename": "a.pdf"}),
    ("sticker", Sticker(id="1"), {"id": "1"}),
    ("location", Location(-3.1, -60.0, "Loja"), {"latitude": -3.1, "longitude": -60.0, "name": "Loja"}),
    (
        "contacts",
        Contacts([Contact("Ana Souza", "Ana", phones=["+5592"], company="Loja", birthday="1990-05-01")]),
        [  # type: ignore[list-item]
            {
                "name": {"formatted_name": "Ana Souza", "first_name": "Ana"},
                "phones": [{"phone": "+5592"}],
                "org": {"company": "Loja"},
                "birthday": "1990-05-01",
            }
        ],
    ),
    ("reaction", Reaction("wamid.x"), {"message_id": "wamid.x", "emoji": ""}),
    (
        "interactive button",
        Buttons("Oi", {"s": "Sim", "n": "Não"}, header="Loja", footer="Responda"),
        {
            "header": {"type": "text", "text": "Loja"},
            "body": {"text": "Oi"},
            "footer": {"text": "Responda"},
            "action": {
                "buttons": [
                    {"type": "reply", "reply": {"id": "s", "title": "Sim"}},
                    {"type": "reply", "reply": {"id": "n", "title": "Não"}},
                ]
            },
        },
    ),
    (
        "interactive list",
        ListMessage("Oi", "Ver", {"": [Row("1", "A", "aa")]}),
        {
            "body": {"text": "Oi"},
            "action": {
                "button": "Ver",
                "sections": [{"rows": [{"id": "1", "title": "A", "description": "aa"}]}],
            },
        },
    ),
    (
        "interactive cta_url",
        Link("Oi", "Ver", URL, header=Image(id="1")),
        {
            "header": {"type": "image", "image": {"id": "1"}},
            "body": {"text": "Oi"},
            "action": {"name": "cta_url", "parameters": {"display_text": "Ver", "url": URL}},
        },
    ),
    (
        "interactive product",
        Product("1", "sku1"),
        {"action": {"catalog_id": "1", "product_retailer_id": "sku1"}},
    ),
    (
        "interactive product_list",
        ProductList("Ofertas", "Oi", "1", {"A": ["sku1"], "B": ["sku2"]}),
        {
            "header": {"type": "text", "text": "Ofertas"},
            "body": {"text": "Oi"},
            "action": {
                "catalog_id": "1",
                "sections": [
                    {"title": "A", "product_items": [{"product_retailer_id": "sku1"}]},
                    {"title": "B", "product_items": [{"product_retailer_id": "sku2"}]},
                ],
            },
        },
    ),
    (
        "interactive catalog_message",
        Catalog("Oi", "sku1"),
        {
            "body": {"text": "Oi"},
            "action": {
                "name": "catalog_message",
                "parameters": {"thumbnail_product_retailer_id": "sku1"},
            },
        },
    ),
    (
        "interactive flow",
        Flow("Oi", "Abrir", flow_id="1", token="t", action="navigate", screen="A", data={"a": 1}, draft=True),
        {
            "body": {"text": "Oi"},
            "action": {
                "name": "flow",
                "parameters": {
                    "flow_message_version": "3",
                    "flow_id": "1",
                    "flow_cta": "Abrir",
                    "mode": "draft",
                    "flow_token": "t",
                    "flow_action": "navigate",
                    "flow_action_payload": {"screen": "A", "data": {"a": 1}},
                },
            },
        },
    ),
    (
        "interactive location_request_message",
        LocationRequest("Onde?"),
        {"body": {"text": "Onde?"}, "action": {"name": "send_location"}},
    ),
    (
        "interactive carousel",
        Carousel("Oi", [ProductCard("1", "sku1"), ProductCard("1", "sku2")]),
        {
            "body": {"text": "Oi"},
            "action": {
                "cards": [
                    {
                        "card_index": place,
                        "type": "product",
                        "action": {"product_retailer_id": f"sku{place + 1}", "catalog_id": "1"},
                    }
                    for place in range(2)
                ]
            },
        },
    ),
    (
        "interactive voice_call",
        CallButton("Ligue", "Ligar", 60, "p"),
        {
            "body": {"text": "Ligue"},
            "action": {
                "name": "voice_call",
                "parameters": {"display_text": "Ligar", "ttl_minutes": 60, "payload": "p"},
            },
        },
    ),
    (
        "interactive call_permission_request",
        CallPermissionRequest("Podemos ligar?"),
        {"body": {"text": "Podemos ligar?"}, "action": {"name": "call_permission_request"}},
    ),
    (
        "interactive request_contact_info",
        ContactRequest("Qual é o seu número?"),
        {"body": {"text": "Qual é o seu número?"}, "action": {"name": "request_contact_info"}},
    ),
    (
        "interactive address_message",
        AddressRequest("Onde entregamos?", "IN", {"name": "Ana"}),
        {
            "body": {"text": "Onde entregamos?"},
            "action": {
                "name": "address_message",
                "parameters": {"country": "IN", "values": {"name": "Ana"}},
            },
        },
    ),
    (
        "interactive order_status",
        OrderStatus("p-1", "completed", "Pago", "Obrigado", paid_at=END),
        {
            "body": {"text": "Pago"},
            "action": {
                "name": "review_order",
                "parameters": {
                    "reference_id": "p-1",
                    "order": {"status": "completed", "description": "Obrigado"},
                    "payment": {"status": "captured", "timestamp": 4007188800},
                },
            },
        },
    ),
]


@pytest.mark.parametrize(("kind", "made", "content"), MESSAGES, ids=[kind for kind, _, _ in MESSAGES])
def test_a_message_is_the_json_of_the_provider(kind: str, made: Message, content: Any) -> None:
    name, _, inner = kind.partition(" ")
    expected = {"type": name, name: {"type": inner, **content} if inner else content}
    assert made.message() == expected
    to = phone.parse("5511999998888")
    assert messages.compose(made, to) == messages.compose(expected, to)


def test_cards_have_links_or_replies() -> None:
    links = Carousel("Oi", [LinkCard(Image(id="1"), "Ver", URL, "x"), LinkCard(Video(id="2"), "Ver", URL)])
    first, second = links.message()["interactive"]["action"]["cards"]
    assert first == {
        "card_index": 0,
        "type": "cta_url",
        "header": {"type": "image", "image": {"id": "1"}},
        "body": {"text": "x"},
        "action": {"name": "cta_url", "parameters": {"display_text": "Ver", "url": URL}},
    }
    assert (second["card_index"], "body" in second) == (1, False)
    card = ReplyCard(Image(id="1"), {"s": "Sim"})
    reply = Carousel("Oi", [card, card]).message()["interactive"]["action"]["cards"][1]
    assert reply["action"] == {
        "buttons": [{"type": "quick_reply", "quick_reply": {"id": "s", "title": "Sim"}}]
    }
    with pytest.raises(PayloadError, match="all must be alike"):
        Carousel("Oi", [card, LinkCard(Image(id="1"), "Ver", URL)])


def test_an_order_is_reckoned_and_is_the_same_in_a_session_and_in_a_template() -> None:
    order = Order(
        "p-1",
        [PIX, PaymentLink(URL), Boleto(BOLETO), OneClickCard("1234", "c")],
        "Pague aqui",
        items=[BOLO],
        tax_cents=50,
        shipping_cents=500,
        discount_cents=250,
        expires=END,
        footer="Obrigado",
        header=Image(URL),
    )
    details = order.order_details()
    assert details["total_amount"] == {"value": 3000, "offset": 100}
    assert details["order"] == {
        "status": "pending",
        "items": [
            {
                "retailer_id": "sku1",
                "name": "Bolo",
                "amount": {"value": 1000, "offset": 100},
                "quantity": 3,
                "sale_amount": {"value": 900, "offset": 100},
            }
        ],
        "subtotal": {"value": 2700, "offset": 100},
        "tax": {"value": 50, "offset": 100},
        "shipping": {"value": 500, "offset": 100},
        "discount": {"value": 250, "offset": 100},
        "expiration": {"timestamp": "4007188800", "description": "Prazo para pagar"},
    }
    assert [setting["type"] for setting in details["payment_settings"]] == [
        "pix_dynamic_code",
        "payment_link",
        "boleto",
        "offsite_card_pay",
    ]
    sent = order.message()["interactive"]
    assert sent["action"] == {"name": "review_and_pay", "parameters": details}
    template = Template("pix", "pt_BR", buttons=[OrderButton(order)]).message()["template"]
    assert template["components"] == [
        {
            "type": "button",
            "sub_type": "order_details",
            "index": 0,
            "parameters": [{"type": "action", "action": {"order_details": details}}],
        }
    ]


def test_an_order_without_items_has_a_total_and_nothing_else() -> None:
    order = Order("p-1", [PIX], total_cents=1000)
    assert "order" not in order.order_details()
    with pytest.raises(InputError, match="needs a body"):
        order.message()
    with pytest.raises(InputError, match="give at least one item"):
        Order("p-1", [PIX], total_cents=1000, expires=END)
    with pytest.raises(PayloadError, match="is zero"):
        Order("p-1", [PIX])
    with pytest.raises(PayloadError, match=r"total_amount\.value: is not subtotal"):
        Order("p-1", [PIX], items=[BOLO], total_cents=1)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: PixCode("lixo", "Loja", KEY, "CNPJ"), "PixCode: code: payers would not be able to use it"),
        (lambda: PixCode(CODE, "Loja", "foo", "CNPJ"), "PixCode: key: a CNPJ has 14 digits"),
        (lambda: PixCode(CODE, "   ", KEY, "CNPJ"), "PixCode: merchant_name: is blank"),
        (lambda: Boleto("0" * 47), "Boleto: digitable_line: no bank would take it"),
        (lambda: Item("1", " ", 5), "Item: name: is blank"),
        (lambda: Item("1", "A", "5"), "Item: amount.value: must be a whole number"),  # type: ignore[arg-type]
    ],
)
def test_a_part_of_an_order_that_nobody_can_use_is_refused(make: Any, told: str) -> None:
    with pytest.raises(PayloadError, match=re.escape(told)):
        make()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (
            {"pay": [PixCode(OF_ONE_REAL, "Nome", KEY, "CNPJ")]},
            "code: asks for R$ 1,00, the order for R$ 27,00",
        ),
        ({"pay": None}, "pay is a list, and each in it is made with PixCode,"),
        ({"pay": [Text("Oi")]}, "pay is a list, and each"),
        ({"pay": PIX}, "pay is a list, and each"),
        ({"pay": []}, "payment_settings: has 0 entries"),
        ({"items": [("A", 100)]}, "items is a list, and each in it is made with Item"),
        ({"expires": "tomorrow"}, "expires is a datetime with its time zone"),
        ({"expires": END.replace(tzinfo=None)}, "expires is a datetime with its time zone"),
        ({"expires": datetime(2020, 1, 1, tzinfo=UTC)}, "expires is less than 300 seconds ahead"),
        ({"expires": END, "expires_text": "x" * 121}, "has 121 characters; 120"),
        ({"tax_cents": "5"}, "tax_cents is a whole number of cents"),
        ({"tax_cents": None}, "tax_cents is a whole number of cents"),
        ({"discount_cents": 0.5}, "discount_cents is a whole number of cents"),
        ({"total_cents": "2700"}, "total_amount.value: must be a whole number"),
        ({"reference": 5}, "reference_id: must be text"),
        ({"header": URL}, "header is an Image"),
        ({"goods": "foo"}, "type: must be"),
    ],
)
@pytest.mark.parametrize("body", [None, "Pague"])
def test_an_order_that_cannot_be_right_is_refused(more: dict[str, Any], told: str, body: str | None) -> None:
    given = {"reference": "p-1", "pay": [PIX], "items": [BOLO], "body": body}
    with pytest.raises(InputError, match=re.escape(told)):
        Order(**{**given, **more})


def test_an_order_may_expire_300_seconds_ahead(time_machine: Any) -> None:
    time_machine.move_to(END, tick=False)
    assert Order("p-1", [PIX], items=[BOLO], expires=END + timedelta(seconds=300))
    with pytest.raises(InputError, match="less than 300 seconds ahead"):
        Order("p-1", [PIX], items=[BOLO], expires=END + timedelta(seconds=299))


@pytest.mark.parametrize("paid_at", ["now", END.replace(tzinfo=None), 5])
def test_a_payment_was_at_an_instant(paid_at: Any) -> None:
    with pytest.raises(InputError, match="OrderStatus: paid_at is a datetime with its time zone"):
        OrderStatus("p-1", "completed", "Pago", paid_at=paid_at)


def test_a_template_has_its_values_in_their_places() -> None:
    made = Template(
        "oferta",
        "pt_BR",
        header=Image(URL),
        body=["Ana", {"type": "date_time", "date_time": {"fallback_value": "hoje"}}],
        buttons=[None, URLEnding("abc"), CouponCode("VERAO10"), QuickReply("sim")],
        offer_ends_at=END,
    ).message()
    header, body, offer, *buttons = made["template"]["components"]
    assert header == {"type": "header", "parameters": [{"type": "image", "image": {"link": URL}}]}
    assert body["parameters"] == [
        {"type": "text", "text": "Ana"},
        {"type": "date_time", "date_time": {"fallback_value": "hoje"}},
    ]
    assert offer["parameters"][0]["limited_time_offer"] == {"expiration_time_ms": 4007188800000}
    assert [(button["index"], button["sub_type"]) for button in buttons] == [
        (1, "url"),
        (2, "copy_code"),
        (3, "quick_reply"),
    ]


def test_a_template_has_named_values_cards_and_every_kind_of_header() -> None:
    named = Template("a", "pt_BR", header="Ana", body={"nome": "Ana"}).message()["template"]["components"]
    assert named == [
        {"type": "header", "parameters": [{"type": "text", "text": "Ana"}]},
        {"type": "body", "parameters": [{"type": "text", "parameter_name": "nome", "text": "Ana"}]},
    ]
    cards = [TemplateCard(CatalogItem("1", "sku1"), ["x"], [QuickReply("a")]) for _ in range(2)]
    carousel = Template("a", "pt_BR", cards=cards).message()["template"]["components"][0]
    assert [card["card_index"] for card in carousel["cards"]] == [0, 1]
    assert carousel["cards"][0]["components"][0] == {
        "type": "header",
        "parameters": [{"type": "product", "product": {"product_retailer_id": "sku1", "catalog_id": "1"}}],
    }
    place = Template("a", "pt_BR", header=Location(1, 2, "Loja")).message()
    assert place["template"]["components"][0]["parameters"][0]["location"]["name"] == "Loja"
    assert Template("a", "pt_BR").message()["template"] == {"name": "a", "language": {"code": "pt_BR"}}


@pytest.mark.parametrize(
    ("button", "action"),
    [
        (CatalogButton("sku1"), {"thumbnail_product_retailer_id": "sku1"}),
        (FlowButton("t", {"a": 1}), {"flow_token": "t", "flow_action_data": {"a": 1}}),
        (
            MPMButton("sku1", {"": ["sku1"]}),
            {
                "thumbnail_product_retailer_id": "sku1",
                "sections": [{"product_items": [{"product_retailer_id": "sku1"}]}],
            },
        ),
    ],
    ids=["catalog", "flow", "mpm"],
)
def test_a_template_button_may_hold_an_action(button: Any, action: dict[str, Any]) -> None:
    (component,) = Template("a", "pt_BR", buttons=[button]).message()["template"]["components"]
    assert component["parameters"] == [{"type": "action", "action": action}]


def test_a_one_time_code_stands_twice_and_is_short() -> None:
    body, button = Template.authentication("codigo", "pt_BR", "123456").message()["template"]["components"]
    assert body["parameters"] == button["parameters"] == [{"type": "text", "text": "123456"}]
    assert button["sub_type"] == "url"
    assert Template.authentication("codigo", "pt_BR", "x" * 15)
    for code in ("", "x" * 16):
        with pytest.raises(InputError, match="1 to 15"):
            Template.authentication("codigo", "pt_BR", code)


def test_a_wrong_value_is_one_sentence_with_path_value_limit_and_source() -> None:
    with pytest.raises(PayloadError) as error:
        Buttons("Oi", {"a": "x" * 21})
    assert str(error.value) == (
        "Buttons: interactive.action.buttons[0].reply.title: has 21 characters; 20 are allowed "
        "(given: xxxxxxxxxxxxxxxxxxxxx; limit: 20; source: Meta, WhatsApp Business Platform, "
        "Interactive reply buttons messages)"
    )
    assert error.value.faults[0].path == "interactive.action.buttons[0].reply.title"
    with pytest.raises(PayloadError, match="PixCode: key_type: must be 'CPF'"):
        PixCode("x", "Loja", "x", "cpf")  # type: ignore[arg-type]
    with pytest.raises(PayloadError, match="PixCode: code: is empty") as error:
        PixCode("", "Loja", "segredo", "CPF")
    assert "segredo" not in str(error.value)
    order = Order("p-1", [PIX, Boleto(BOLETO)], total_cents=1)
    for secret in (CODE, KEY, BOLETO):
        assert secret not in repr(order)


def test_all_of_them_come_from_disparo_itself_and_only_when_asked_for() -> None:
    for name in compositions.__all__:
        assert getattr(disparo, name) is getattr(compositions, name)
        assert name in dir(disparo)
    with pytest.raises(AttributeError, match="Nope"):
        disparo.Nope  # noqa: B018
    code = (
        "import sys, disparo; print('pydantic' in sys.modules); from disparo import Text; print(Text('Oi'))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.splitlines() == ["False", "Text(body='Oi', preview_url=None)"]


def test_the_page_runs_as_written() -> None:
    page = (Path(__file__).parents[2] / "docs" / "python.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102  # our own page
    made = [value for value in names.values() if isinstance(value, Message)]
    assert len(made) == 5
    sent = [one for one in made if not isinstance(one, Order)]
    assert [payloads.warnings(one.message()) for one in sent] == [[]] * 4


def test_every_message_type_of_the_provider_can_be_made() -> None:
    made = {message.message()["type"] for _, message, _ in MESSAGES} | {"template"}
    assert made == set(payloads.TYPES)
