"""A minimal message of every documented type and sub-type, with its limits and where they are documented; pure.

``python -m disparo.whatsapp.examples`` prints docs/payloads.md, which is made from nothing else. Sources, as
known on 2026-11-21: Gupshup's partner documentation of the V3 passthrough, and Meta's WhatsApp Business
Platform documentation in its texts of 2025-11 to 2026-06.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Limits: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Example:
    """A message that the provider takes.

    ``message`` is without its envelope; ``document`` is the whole of it. ``limits`` are pairs of a JSON path, in
    which ``[]`` is any entry, and a rule in words. ``uncertain`` says what is not known for sure, empty where all is.
    """

    name: str
    says: str
    message: dict[str, Any]
    limits: Limits
    source: str
    uncertain: str = ""
    envelope: Mapping[str, Any] = field(default_factory=dict)

    @property
    def document(self) -> dict[str, Any]:
        """The request body for a recipient that stands for any other."""
        whole = _ENVELOPE | dict(self.envelope) | self.message
        if "recipient" in whole:
            del whole["to"]
        return whole


_ENVELOPE = {"messaging_product": "whatsapp", "recipient_type": "individual", "to": "5511999998888"}

_GUPSHUP = "Gupshup, V3 passthrough, {}"
_META = "Meta, WhatsApp Business Platform, {}"
_BOTH = "Gupshup, V3 passthrough, and Meta, WhatsApp Business Platform, {}"


# --- session messages

_LINK = "https://example.com/files/"
_WAMID = "wamid.HBgNNTUxMTk5OTk5ODg4OBUCABIYFjNFQjBDMTU5"
_ONE_SOURCE = "exactly one of both; a link begins with https:// or http://"
_CAPTION = "up to 1,024 characters"


def _media(kind: str, says: str, file: str, files: str, *more: tuple[str, str], **keys: Any) -> Example:
    return Example(
        kind,
        f"{says}, by its address or the id of an upload.",
        {"type": kind, kind: {"link": _LINK + file, **keys}},
        ((f"{kind}.id, {kind}.link", _ONE_SOURCE), *more, ("the file", files)),
        _META.format(f"{kind.capitalize()} messages"),
    )


_SESSION = (
    Example(
        "text",
        "A text; the first address in it is shown as a preview when preview_url is true.",
        {"type": "text", "text": {"body": "Olá! Seu pedido chegou bem?"}},
        (("text.body", "1 to 4,096 characters"), ("text.preview_url", "true or false; may be left out")),
        _GUPSHUP.format("Text Message"),
    ),
    Example(
        "text reply",
        "Any message as an answer that quotes an earlier one; not a reaction.",
        {"type": "text", "text": {"body": "Sim, ele sai hoje."}},
        (
            ("context.message_id", "the wamid of the message quoted, which is at most about 30 days old"),
            ("biz_opaque_callback_data", "up to 512 characters; Meta gives it back in statuses"),
        ),
        _BOTH.format("Contextual replies"),
        envelope={"context": {"message_id": _WAMID}},
    ),
    Example(
        "text recipient",
        "Any message to a business-scoped user id instead of a phone number.",
        {"type": "text", "text": {"body": "Olá!"}},
        (
            ("recipient", "BR. (the country) and up to 128 letters and digits; to wins when both are there"),
            ("type", "no authentication template"),
        ),
        _GUPSHUP.format("request parameters"),
        "The app must have been enabled for it.",
        envelope={"recipient": "BR.1A2B3C4D5E6F7G8H9I0J"},
    ),
    _media(
        "image", "An image", "oferta.jpg", "JPEG or PNG, 8-bit RGB or RGBA, 5 MB", ("image.caption", _CAPTION),
        caption="A oferta de hoje",
    ),
    _media(
        "audio", "A sound or voice message", "recado.ogg",
        "AAC, AMR, MP3, M4A or OGG (Opus, mono), 16 MB; audio.voice: true needs OGG",
    ),
    _media("video", "A video", "loja.mp4", "MP4 or 3GPP, H.264 and AAC, 16 MB", ("video.caption", _CAPTION)),
    _media(
        "document", "A file", "boleto.pdf", "text, PDF, Word, Excel or PowerPoint, 100 MB", ("document.caption", _CAPTION),
        filename="boleto.pdf",
    ),
    _media("sticker", "A sticker", "oba.webp", "WebP; 100 KB, animated 500 KB"),
    Example(
        "location",
        "A place on the map.",
        {"type": "location", "location": {"latitude": -23.561, "longitude": -46.656, "name": "Loja Paulista"}},
        (
            ("location.latitude, location.longitude", "degrees, a number or a text of one"),
            ("location.address", "shown only beside a name"),
        ),
        _META.format("Location messages"),
    ),
    Example(
        "contacts",
        "One or several address book entries.",
        {
            "type": "contacts",
            "contacts": [
                {
                    "name": {"formatted_name": "Ana Souza", "first_name": "Ana"},
                    "phones": [{"phone": "+5511999998888", "type": "WORK"}],
                }
            ],
        },
        (
            ("contacts", "1 to 257 entries"),
            ("contacts[].name", "formatted_name and at least one other part of the name"),
            ("contacts[].birthday", "written YYYY-MM-DD"),
        ),
        _META.format("Contacts messages"),
    ),
    Example(
        "reaction",
        "An emoji on a message of the recipient; an empty one takes it back.",
        {"type": "reaction", "reaction": {"message_id": _WAMID, "emoji": "👍"}},
        (("reaction.message_id", "the wamid of an incoming message, at most 30 days old"),),
        _META.format("Reaction messages"),
    ),
)  # fmt: skip


# --- interactive messages

_BODY = ("interactive.body.text", "1 to 1,024 characters")
_FOOTER = ("interactive.footer.text", "1 to 60 characters")
_HEADER = ("interactive.header", "text (1 to 60 characters), image, video or document")


def _interactive(kind: str, body: str | None, action: dict[str, Any], **keys: Any) -> dict[str, Any]:
    words = {} if body is None else {"body": {"text": body}}
    return {"type": "interactive", "interactive": {"type": kind, **keys, **words, "action": action}}


def _named(name: str, **parameters: Any) -> dict[str, Any]:
    return {"name": name, "parameters": parameters} if parameters else {"name": name}


def _card(place: int, product: str) -> dict[str, Any]:
    return {
        "card_index": place,
        "type": "cta_url",
        "header": {"type": "image", "image": {"link": f"{_LINK}{product}.jpg"}},
        "body": {"text": f"Oferta {place + 1}"},
        "action": _named("cta_url", display_text="Ver", url=f"https://example.com/{product}"),
    }


_SECTIONS = [{"title": "Mais pedidos", "product_items": [{"product_retailer_id": "sku-1"}]}]
_SECTION_LIMITS: Limits = (
    ("sections", "1 to 10 entries with at most 30 products together"),
    ("sections[].title", "up to 24 characters; required when there is more than one section"),
)

_INTERACTIVE = (
    Example(
        "interactive button",
        "Up to three buttons; what is pressed comes back with its id.",
        _interactive(
            "button", "Seu pedido chegou bem?",
            {"buttons": [{"type": "reply", "reply": {"id": "sim", "title": "Sim"}}]},
            footer={"text": "Loja Exemplo"},
        ),
        (
            _HEADER,
            _BODY,
            _FOOTER,
            ("interactive.action.buttons", "1 to 3 entries"),
            ("interactive.action.buttons[].reply.id", "1 to 256 characters, each once, without outer blanks"),
            ("interactive.action.buttons[].reply.title", "1 to 20 characters, each once"),
        ),
        _GUPSHUP.format("Interactive Messages"),
    ),
    Example(
        "interactive list",
        "A menu of up to ten rows.",
        _interactive(
            "list", "Quando podemos entregar?",
            {
                "button": "Escolher",
                "sections": [{"rows": [{"id": "manha", "title": "De manhã", "description": "8 h às 12 h"}]}],
            },
        ),
        (
            ("interactive.header", "text only"),
            ("interactive.body.text", "1 to 4,096 characters; above 1,024 warns, as older pages allow no more"),
            _FOOTER,
            ("interactive.action.button", "1 to 20 characters"),
            ("interactive.action.sections", "1 to 10 entries with at most 10 rows together"),
            ("interactive.action.sections[].title", "up to 24 characters; required when there is more than one section"),
            ("interactive.action.sections[].rows[].id", "1 to 200 characters"),
            ("interactive.action.sections[].rows[].title", "1 to 24 characters"),
            ("interactive.action.sections[].rows[].description", "up to 72 characters"),
        ),
        _META.format("Interactive list messages"),
    ),
    Example(
        "interactive cta_url",
        "One button that opens an address.",
        _interactive("cta_url", "Acompanhe a entrega.", _named("cta_url", display_text="Abrir", url="https://example.com/pedido/1")),
        (_HEADER, _BODY, _FOOTER, ("interactive.action.parameters.display_text", "1 to 20 characters")),
        _META.format("Interactive call-to-action URL messages"),
    ),
    Example(
        "interactive product",
        "One product of a catalog.",
        _interactive("product", "Chegou!", {"catalog_id": "1234567890", "product_retailer_id": "sku-1"}),
        (("interactive.header", "none"), _BODY, _FOOTER),
        _META.format("Single- and multi-product messages"),
    ),
    Example(
        "interactive product_list",
        "Several products of a catalog; those that it does not have are left out.",
        _interactive(
            "product_list", "Separamos para você:", {"catalog_id": "1234567890", "sections": _SECTIONS},
            header={"type": "text", "text": "Novidades"},
        ),
        (
            ("interactive.header", "required, text only"),
            ("interactive.header.text", "1 to 60 characters"),
            _BODY,
            _FOOTER,
            *((f"interactive.action.{path}", rule) for path, rule in _SECTION_LIMITS),
        ),
        _META.format("Single- and multi-product messages"),
    ),
    Example(
        "interactive catalog_message",
        "The whole catalog.",
        _interactive(
            "catalog_message", "Veja tudo o que temos.",
            _named("catalog_message", thumbnail_product_retailer_id="sku-1"),
        ),
        (_BODY, _FOOTER, ("interactive.action.parameters", "may be left out")),
        _META.format("Catalog messages"),
    ),
    Example(
        "interactive flow",
        "A form within WhatsApp.",
        _interactive(
            "flow", "Agende sua visita.",
            _named("flow", flow_message_version="3", flow_id="1122334455", flow_cta="Agendar"),
        ),
        (
            _HEADER,
            _BODY,
            _FOOTER,
            ("interactive.action.parameters.flow_message_version", '"3"'),
            ("interactive.action.parameters", "flow_id or flow_name, one of both"),
            ("interactive.action.parameters.flow_cta", "no emoji, 30 advised"),
            ("interactive.action.parameters.flow_action_payload.data", "an object that is not empty"),
        ),
        _META.format("Sending a flow"),
    ),
    Example(
        "interactive location_request_message",
        "Asks where the recipient is.",
        _interactive("location_request_message", "Onde entregamos?", _named("send_location")),
        (("interactive", "body and action only"), _BODY),
        _META.format("Location request messages"),
    ),
    Example(
        "interactive carousel",
        "Two to ten cards side by side.",
        _interactive("carousel", "As ofertas da semana:", {"cards": [_card(0, "cafe"), _card(1, "cha")]}),
        (
            _BODY,
            ("interactive.header, interactive.footer", "none"),
            ("interactive.action.cards", "2 to 10 entries with the same kinds of buttons"),
            ("interactive.action.cards[].header", "image or video"),
            ("interactive.action.cards[].body.text", "up to 160 characters, at most two line breaks"),
            ("interactive.action.cards[].action.parameters.display_text", "1 to 20 characters"),
        ),
        _BOTH.format("Media carousel messages"),
    ),
    Example(
        "interactive address_message",
        "Asks for an address.",
        _interactive("address_message", "Para onde enviamos?", _named("address_message", country="IN")),
        (_BODY,),
        _META.format("Address messages"),
        "Meta documents it for numbers of India and Singapore.",
    ),
    Example(
        "interactive call_permission_request",
        "Asks whether the business may call.",
        _interactive("call_permission_request", "Podemos ligar para você?", _named("call_permission_request")),
        (_BODY,),
        _META.format("Calling"),
        "Not documented by Gupshup.",
    ),
    Example(
        "interactive voice_call",
        "A button that calls the business within WhatsApp.",
        _interactive(
            "voice_call", "Fale com a gente.",
            _named("voice_call", display_text="Ligar", ttl_minutes=60, payload="suporte"),
        ),
        (
            _BODY,
            ("interactive.action.parameters.display_text", "1 to 20 characters"),
            ("interactive.action.parameters.ttl_minutes", "1 to 43,200"),
            ("interactive.action.parameters.payload", "up to 512 characters"),
        ),
        _META.format("Calling"),
        "Not documented by Gupshup.",
    ),
    Example(
        "interactive request_contact_info",
        "Asks for the recipient's phone number, where only the user name is known.",
        _interactive("request_contact_info", "Qual é o seu número?", _named("request_contact_info")),
        (_BODY,),
        _META.format("Business-scoped user ids"),
        "Not documented by Gupshup.",
    ),
)  # fmt: skip


# --- requests for payment

_CODE = (
    "00020101021226760014br.gov.bcb.pix2554pix.example.com/qr/v2/9d36b84fc70b478fb95c12729b90ca25"
    "520400005303986540550.005802BR5912LOJA EXEMPLO6009SAO PAULO62070503***6304F2B7"
)
_PIX = {
    "type": "pix_dynamic_code",
    "pix_dynamic_code": {
        "code": _CODE,
        "merchant_name": "LOJA EXEMPLO",
        "key": "11222333000181",
        "key_type": "CNPJ",
    },
}
_PAYMENT_LINK = {"type": "payment_link", "payment_link": {"uri": "https://example.com/pagar/pedido-1001"}}
_BOLETO = {
    "type": "boleto",
    "boleto": {"digitable_line": "34191090081234567890312345678903316900000005000"},
}
_CARD = {
    "type": "offsite_card_pay",
    "offsite_card_pay": {"last_four_digits": "1234", "credential_id": "cred-1"},
}

_PAYMENTS = (
    ("pix", "PIX code", _PIX, (
        ("code", "a BR Code whose check sum holds; dynamic, for the amount of total_amount"),
        ("merchant_name", "the account's holder, shown to the payer"),
        ("key_type", "CPF, CNPJ, EMAIL, PHONE or EVP; key is written as that type asks"),
    )),
    ("payment_link", "payment link", _PAYMENT_LINK, (("uri", "begins with https:// or http://"),)),
    ("boleto", "boleto", _BOLETO, (("digitable_line", "47 or 48 digits"),)),
)  # fmt: skip


def _cents(value: int, **keys: Any) -> dict[str, Any]:
    return {"value": value, "offset": 100, **keys}


def _order_details(payment: dict[str, Any]) -> dict[str, Any]:
    """R$ 50,00: an item of 48,00, tax, shipping and a discount."""
    return {
        "reference_id": "pedido-1001",
        "type": "physical-goods",
        "payment_type": "br",
        "payment_settings": [payment],
        "currency": "BRL",
        "total_amount": _cents(5000),
        "order": {
            "status": "pending",
            "items": [{"retailer_id": "sku-1", "name": "Café 500 g", "amount": _cents(2400), "quantity": 2}],
            "subtotal": _cents(4800),
            "tax": _cents(0),
            "shipping": _cents(700),
            "discount": _cents(500, description="Primeira compra"),
            "expiration": {"timestamp": "2082758399", "description": "Vence em 31/12/2035"},
        },
    }


_ORDER_LIMITS: Limits = (
    (
        "reference_id",
        "1 to 60 characters: letters, digits, _ - and .; above 35 warns; each request of a business has its own",
    ),
    ("type", "digital-goods or physical-goods"),
    ("total_amount.value", "cents, above 0: subtotal + tax + shipping - discount"),
    ("order", "may be left out (Meta's text of 2026-04; required in that of 2025-11)"),
    ("order.items[].name", "1 to 60 characters"),
    ("order.items[].quantity", "at least 1"),
    ("order.subtotal.value", "the sum of (sale_amount or amount) × quantity of the items"),
    ("order.discount.description", "up to 60 characters; that of tax and shipping too"),
    ("order.expiration.timestamp", "a text of seconds since 1970 (UTC), at least 300 s ahead"),
    ("order.expiration.description", "1 to 120 characters"),
)
_IN_SESSION = "interactive.action.parameters"
_IN_TEMPLATE = "template.components[].parameters[].action.order_details"


def _order_limits(at: str, payment: dict[str, Any], limits: Limits) -> Limits:
    """Those of the method of payment; what all requests have in common stands with the PIX codes."""
    common = _ORDER_LIMITS if payment is _PIX else (("…", "as in the example with a PIX code"),)
    setting = f"payment_settings[].{payment['type']}"
    own = tuple((f"{setting}.{path}", rule) for path, rule in limits)
    return tuple((f"{at}.{path}", rule) for path, rule in (*common, *own))


def _payment_sources(name: str, page: str) -> str:
    return (
        _BOTH.format(f"{page}; Payments in Brazil") if name == "pix" else _META.format("Payments in Brazil")
    )


_ORDERS = (
    *(
        Example(
            f"interactive order_details {name}",
            f"A request for payment by {what}, within 24 hours of the recipient's last message.",
            _interactive(
                "order_details", "Falta pouco: pague e o pedido sai hoje.",
                _named("review_and_pay", **_order_details(payment)),
            ),
            (("interactive.header", "image only"), _BODY, _FOOTER, *_order_limits(_IN_SESSION, payment, limits)),
            _payment_sources(name, "PIX Session Message"),
        )
        for name, what, payment, limits in _PAYMENTS
    ),
    Example(
        "interactive order_details offsite_card_pay",
        "A request for payment by a card that the business has stored.",
        _interactive("order_details", "Confirme o pagamento.", _named("review_and_pay", **_order_details(_CARD))),
        _order_limits(_IN_SESSION, _CARD, (("last_four_digits", "4 digits"), ("credential_id", "required"))),
        _META.format("Payments in Brazil, one-click payments"),
        "By invitation of Meta only.",
    ),
    Example(
        "interactive order_status",
        "Tells what became of an order or its payment; WhatsApp itself never learns that a PIX was paid.",
        _interactive(
            "order_status", "Pagamento recebido, obrigado!",
            _named(
                "review_order", reference_id="pedido-1001",
                order={"status": "processing", "description": "Separando os itens"},
                payment={"status": "captured", "timestamp": 1796083200},
            ),
        ),
        (
            _BODY,
            _FOOTER,
            (f"{_IN_SESSION}.reference_id", "that of the request, 1 to 60 characters"),
            (f"{_IN_SESSION}.order.status", "pending, processing, partially-shipped, shipped, completed or canceled"),
            (f"{_IN_SESSION}.order.description", "up to 120 characters"),
            (f"{_IN_SESSION}.payment.status", "pending, captured (paid) or failed; may be left out"),
        ),
        _META.format("Payments in Brazil"),
    ),
)  # fmt: skip


# --- templates

_TEMPLATE_LIMITS: Limits = (
    ("template.name", "1 to 512 characters: lower-case letters, digits and _"),
    ("template.language.code", "the locale of an approved template, such as pt_BR"),
)
_TEXT_RULE = "no line break, tab or more than four blanks in a row"
_PARAMETER = "template.components[].parameters[]"


def _template(name: str, *components: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {"name": name, "language": {"code": "pt_BR"}}
    return {"type": "template", "template": content | ({"components": [*components]} if components else {})}


def _component(kind: str, *parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "parameters": [*parameters]}


def _button(kind: str, *parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "button", "sub_type": kind, "index": 0} | (
        {"parameters": [*parameters]} if parameters else {}
    )


def _words(text: str, **keys: Any) -> dict[str, Any]:
    return {"type": "text", "text": text, **keys}


def _action(**keys: Any) -> dict[str, Any]:
    return {"type": "action", "action": keys}


def _template_card(place: int, product: str) -> dict[str, Any]:
    image = {"type": "image", "image": {"link": f"{_LINK}{product}.jpg"}}
    button = _button("quick_reply", {"type": "payload", "payload": f"quero-{product}"})
    return {"card_index": place, "components": [_component("header", image), button]}


def _product_card(place: int) -> dict[str, Any]:
    product = {"product_retailer_id": f"sku-{place + 1}", "catalog_id": "1234567890"}
    return {
        "card_index": place,
        "components": [_component("header", {"type": "product", "product": product})],
    }


def _headed(kind: str, says: str, content: Any, *limits: tuple[str, str], uncertain: str = "") -> Example:
    return Example(
        f"template header {kind}",
        says,
        _template("aviso_de_pedido", _component("header", {"type": kind, kind: content})),
        limits,
        _META.format("Template messages"),
        uncertain,
    )


_FILE_LIMIT = (f"{_PARAMETER}", "exactly one of id and link in its object")

_TEMPLATES = (
    Example(
        "template",
        "A template without variables.",
        _template("boas_vindas"),
        (*_TEMPLATE_LIMITS, ("template.language.policy", "deterministic, or left out")),
        _BOTH.format("Template messages"),
    ),
    Example(
        "template body",
        "Texts for {{1}}, {{2}} … in their order.",
        _template("pedido_enviado", _component("body", _words("Maria"), _words("R$ 1.234,56"))),
        (
            (f"{_PARAMETER}.text", _TEXT_RULE),
            ("template.components[]", "1,024 characters with the template's own text"),
        ),
        _BOTH.format("Template messages"),
    ),
    Example(
        "template body named",
        "Texts for {{nome}}, {{pedido}} … by their names.",
        _template(
            "pedido_enviado_nomes",
            _component("body", _words("Maria", parameter_name="nome"), _words("1001", parameter_name="pedido")),
        ),
        ((f"{_PARAMETER}.parameter_name", "on all parameters of a component, or on none"),),
        _META.format("Template messages"),
    ),
    Example(
        "template body currency",
        "An amount that WhatsApp writes in the recipient's way.",
        _template(
            "valor_da_fatura",
            _component(
                "body",
                {"type": "currency", "currency": {"fallback_value": "R$ 50,00", "code": "BRL", "amount_1000": 50000}},
            ),
        ),
        ((f"{_PARAMETER}.currency.amount_1000", "a whole number of thousandths"),),
        _META.format("Template messages"),
    ),
    Example(
        "template body date_time",
        "A date, as the text to show.",
        _template(
            "data_da_visita",
            _component("body", {"type": "date_time", "date_time": {"fallback_value": "3 de dezembro de 2026"}}),
        ),
        ((f"{_PARAMETER}.date_time.fallback_value", "required"),),
        _META.format("Template messages"),
    ),
    _headed("text", "A variable in the header's text.", "Maria", (f"{_PARAMETER}.text", f"1 to 60 characters; {_TEXT_RULE}")),
    _headed("image", "An image above the text.", {"link": f"{_LINK}oferta.jpg"}, _FILE_LIMIT),
    _headed("video", "A video above the text.", {"link": f"{_LINK}loja.mp4"}, _FILE_LIMIT),
    _headed("document", "A document above the text.", {"link": f"{_LINK}boleto.pdf", "filename": "boleto.pdf"}, _FILE_LIMIT),
    _headed(
        "location", "A map above the text.",
        {"latitude": "-23.561", "longitude": "-46.656", "name": "Loja Paulista", "address": "Av. Paulista, 1000"},
        (f"{_PARAMETER}.location", "latitude and longitude, name and address"),
    ),
    _headed(
        "gif", "A moving image above the text.", {"link": f"{_LINK}festa.mp4"}, _FILE_LIMIT,
        uncertain="Meta's Marketing Messages API only.",
    ),
    Example(
        "template button quick_reply",
        "What comes back when a quick reply is pressed.",
        _template("pesquisa", _button("quick_reply", {"type": "payload", "payload": "gostei"})),
        (
            ("template.components[].index", "the button's place, counted from 0: a number or a text of one"),
            (f"{_PARAMETER}.payload", "256 characters are known to pass (older pages say 128)"),
            ("template.components", "up to 10 quick replies"),
        ),
        _META.format("Template messages"),
    ),
    Example(
        "template button url",
        "The end of a button's address.",
        _template("rastreio", _button("url", _words("pedido-1001"))),
        (
            (f"{_PARAMETER}.text", "the whole address has at most 2,000 characters"),
            ("template.components", "up to 2 url buttons"),
        ),
        _META.format("Template messages"),
    ),
    Example(
        "template button copy_code",
        "A coupon to be copied.",
        _template("cupom", _button("copy_code", {"type": "coupon_code", "coupon_code": "BLACK20"})),
        (
            (f"{_PARAMETER}.coupon_code", "1 to 15 characters, letters and digits"),
            ("template.components", "one copy_code button"),
        ),
        _META.format("Coupon code templates"),
    ),
    Example(
        "template button catalog",
        "The whole catalog; the action may be left out.",
        _template("catalogo", _button("catalog", _action(thumbnail_product_retailer_id="sku-1"))),
        (),
        _META.format("Catalog templates"),
    ),
    Example(
        "template button mpm",
        "Several products of a catalog.",
        _template("carrinho_esquecido", _button("mpm", _action(thumbnail_product_retailer_id="sku-1", sections=_SECTIONS))),
        tuple((f"{_PARAMETER}.action.{path}", rule) for path, rule in _SECTION_LIMITS),
        _BOTH.format("MPM Template Message"),
    ),
    Example(
        "template button flow",
        "A form within WhatsApp; the action may be left out.",
        _template("agendamento", _button("flow", _action(flow_token="unused", flow_action_data={"loja": "Paulista"}))),  # noqa: S106 - no secret
        (),
        _META.format("Sending a flow"),
    ),
    *(
        Example(
            f"template button order_details {name}",
            f"A request for payment by {what}, at any time.",
            _template("cobranca", _button("order_details", _action(order_details=_order_details(payment)))),
            (("template.components[].index", "0"), *_order_limits(_IN_TEMPLATE, payment, limits)),
            _payment_sources(name, "PIX Template Message"),
        )
        for name, what, payment, limits in _PAYMENTS
    ),
    Example(
        "template button voice_call",
        "A button that calls the business within WhatsApp.",
        _template(
            "fale_conosco",
            _button("voice_call", {"type": "ttl_minutes", "ttl_minutes": 60}, {"type": "payload", "payload": "suporte"}),
        ),
        (),
        _META.format("Calling"),
        "The shape of its parameters is not confirmed.",
    ),
    Example(
        "template carousel",
        "Cards with an image or video each.",
        _template("ofertas_da_semana", {"type": "carousel", "cards": [_template_card(0, "cafe"), _template_card(1, "cha")]}),
        (("template.components[].cards", "2 to 10 entries, as many as were approved"),),
        _META.format("Media card carousel templates"),
    ),
    Example(
        "template carousel product",
        "Cards with a product each.",
        _template("produtos_da_semana", {"type": "carousel", "cards": [_product_card(0), _product_card(1)]}),
        (("template.components[].cards", "2 to 10 entries, as many as were approved"),),
        _GUPSHUP.format("Product carousel templates"),
    ),
    Example(
        "template limited_time_offer",
        "An offer that ends; the end is counted down.",
        _template(
            "oferta_relampago",
            {
                "type": "limited_time_offer",
                "parameters": [
                    {"type": "limited_time_offer", "limited_time_offer": {"expiration_time_ms": 2082758399000}}
                ],
            },
        ),
        ((f"{_PARAMETER}.limited_time_offer.expiration_time_ms", "milliseconds since 1970 (UTC)"),),
        _META.format("Limited-time offer templates"),
    ),
    Example(
        "template order_status",
        "Tells what became of an order, at any time.",
        _template(
            "pedido_atualizado",
            {
                "type": "order_status",
                "parameters": [
                    {
                        "type": "order_status",
                        "order_status": {"reference_id": "pedido-1001", "order": {"status": "shipped"}},
                    }
                ],
            },
        ),
        (),
        _META.format("Payments in India"),
        "Documented for India only.",
    ),
    Example(
        "template authentication",
        "A one-time code: the same text in the body and in the button.",
        _template("codigo_de_acesso", _component("body", _words("482915")), _button("url", _words("482915"))),
        ((f"{_PARAMETER}.text", "the code, at most 15 characters; no address, no emoji"),),
        _META.format("Authentication templates"),
    ),
)  # fmt: skip


EXAMPLES: tuple[Example, ...] = (*_SESSION, *_INTERACTIVE, *_ORDERS, *_TEMPLATES)


def find(wanted: str) -> list[Example]:
    """The examples of a type: those whose name begins with its words, else those that have all of them."""
    words = wanted.replace(".", " ").lower().split()
    if not words:
        return []
    below = [one for one in EXAMPLES if one.name.split()[: len(words)] == words]
    return below or [one for one in EXAMPLES if set(words) <= set(one.name.split())]


# --- docs/payloads.md

_PAGE = """\
# Messages of every type

Made by `make docs` from disparo/whatsapp/examples.py; change it there. The same from the command line:

```console
$ disparo payload types
$ disparo payload types interactive.button
$ disparo payload types template --json
$ disparo payload check examples/messages/text.json
```

Each example is about the least that the provider takes. In a file or campaign the envelope (`messaging_product`,
`recipient_type`, `to`) may be left out. Lengths are counted in Unicode code points. In a path `[]` is any entry. What
breaks a limit is refused with the path, the value, the limit and its source; what is not known for sure warns.
"""

_PARTS = (
    ("Session messages", "Within 24 hours of the recipient's last message only.", _SESSION),
    ("Interactive messages", "Within 24 hours of the recipient's last message only.", _INTERACTIVE),
    (
        "Requests for payment",
        "Within 24 hours of the recipient's last message; at any time as templates, further down.",
        _ORDERS,
    ),
    ("Templates", "At any time, in a form that WhatsApp has approved.", _TEMPLATES),
)


def page() -> str:
    """The text of docs/payloads.md."""
    lines = [_PAGE]
    for title, says, examples in _PARTS:
        lines += [f"## {title}", "", says, ""]
        for one in examples:
            lines += [f"### {one.name}", "", one.says, ""]
            if one.uncertain:
                lines += [f"Not certain: {one.uncertain}", ""]
            if one.limits:
                lines += ["| value | limit |", "| --- | --- |"]
                lines += [f"| {_paths(path)} | {rule} |" for path, rule in one.limits]
                lines.append("")
            shown = dict(one.envelope) | one.message
            lines += ["```json", json.dumps(shown, ensure_ascii=False, indent=2), "```", ""]
            lines += [f"Source: {one.source}.", ""]
    return "\n".join(lines).rstrip() + "\n"


def _paths(path: str) -> str:
    return path if path == "the file" else ", ".join(f"`{one}`" for one in path.split(", "))


if __name__ == "__main__":
    sys.stdout.write(page())
