"""Requests for payment (``order_details``) in the JSON of messages: found there, and written out for campaign files; pure.

``expand`` makes one of the short form of campaign files, with placeholders where a row has its values. In Python
`disparo.order_details` makes one of few values.

Source: Gupshup, V3 passthrough (PIX Session Message, PIX Template Message); Meta, Payments in Brazil, as known on
2026-11-21.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, ValidationError

from disparo.errors import InputError
from disparo.whatsapp import pix_keys

#: WhatsApp takes no order that expires sooner than this after it is sent.
SHORTEST = timedelta(seconds=300)

JSONObject: TypeAlias = dict[str, Any]
Goods: TypeAlias = Literal["digital-goods", "physical-goods"]


def find(message: Mapping[str, Any]) -> JSONObject | None:
    """The order in a message, session or template; None when it has none. Nothing is checked."""
    match message:
        case {"type": "interactive", "interactive": {"action": {"parameters": {"reference_id": _} as order}}}:
            return dict(order)
        case {"type": "template", "template": {"components": [*components]}}:
            for component in components:
                match component:
                    case {"parameters": [{"action": {"order_details": {} as order}}, *_]}:
                        return dict(order)
    return None


def expires_at(order: Mapping[str, Any]) -> datetime | None:
    """When an order, as `find` gives it, expires; None when it does not, or does not say it in seconds."""
    match order:
        case {"order": {"expiration": {"timestamp": str(seconds)}}} if re.fullmatch("[0-9]{1,10}", seconds):
            return datetime.fromtimestamp(int(seconds), UTC)
    return None


class ShortForm(BaseModel):
    """``message: {pix: …}`` of a campaign file. Texts may have placeholders; the row's reserved columns are known."""

    model_config = ConfigDict(extra="forbid", strict=True)

    #: What is paid for.
    item: str
    #: The text of a session message, or the values of a template's body.
    body: str | list[str] = []
    template: str | None = None
    language: str = "pt_BR"
    header_image: str | None = None
    footer: str | None = None
    #: Ways to pay; none is given: ``{{ code }}``.
    code: str | None = None
    link: str | None = None
    digitable_line: str | None = None
    merchant_name: str = "{{ merchant_name }}"
    pix_key: str = "{{ pix_key }}"
    pix_key_type: str | None = None
    #: Given: the order expires at the row's ``expires``, and this says so.
    expires_text: str | None = None
    goods: Goods = "digital-goods"


def expand(message: JSONObject) -> JSONObject:
    """The message that ``{"pix": …}`` is short for; any other message as it is.

    Raises:
      InputError: Names what is wrong under ``message.pix``.
    """
    if set(message) != {"pix"}:
        return message
    try:
        short = ShortForm.model_validate(message["pix"])
    except ValidationError as err:
        raise InputError(
            "; ".join(_told(str(one["loc"][0]) if one["loc"] else "", one["type"]) for one in err.errors())
        ) from err
    settings = []
    if short.code is not None or (short.link is None and short.digitable_line is None):
        key, key_type = short.pix_key, short.pix_key_type or "{{ pix_key_type }}"
        if "{{" not in key:
            try:
                key, key_type = pix_keys.parse(key, short.pix_key_type)
            except InputError as err:
                raise InputError(f"message.pix.pix_key: {err}") from err
        code = short.code or "{{ code }}"
        settings.append(
            _setting(
                "pix_dynamic_code", code=code, merchant_name=short.merchant_name, key=key, key_type=key_type
            )
        )
    if short.link is not None:
        settings.append(_setting("payment_link", uri=short.link))
    if short.digitable_line is not None:
        settings.append(_setting("boleto", digitable_line=short.digitable_line))
    total = _cents("{{ amount_cents }}")
    order: JSONObject = {
        "status": "pending",
        "items": [{"retailer_id": "1", "name": short.item, "amount": total, "quantity": 1}],
        "subtotal": total,
        "tax": _cents(0),
    }
    if short.expires_text:
        order["expiration"] = {"timestamp": "{{ expires_epoch }}", "description": short.expires_text}
    details: JSONObject = {
        "reference_id": "{{ reference }}",
        "type": short.goods,
        "payment_type": "br",
        "payment_settings": settings,
        "currency": "BRL",
        "total_amount": total,
        "order": order,
    }
    if short.template is None:
        if not isinstance(short.body, str):
            raise InputError(
                "message.pix.body is the text of the message; only a template has a list of values"
            )
        return _session(details, short.body, short.footer, short.header_image)
    if isinstance(short.body, str):
        raise InputError("message.pix.body of a template is the list of its values, in their order")
    if short.footer is not None:
        raise InputError("message.pix.footer: a template has its own footer")
    return _template(details, short.template, short.body, short.language, short.header_image)


def _told(name: str, kind: str) -> str:
    if kind == "extra_forbidden":
        return f"message.pix.{name}: no such setting; there are {', '.join(ShortForm.model_fields)}"
    if kind == "missing":
        return f"message.pix.{name} is missing"
    if not name:
        return "message.pix is a mapping, such as {item: Mensalidade, body: Olá}"
    return f"message.pix.{name}: " + (
        "digital-goods or physical-goods" if name == "goods" else "is no text; write it in quotes"
    )


def _session(order: JSONObject, body: str, footer: str | None, header_image: str | None) -> JSONObject:
    interactive: JSONObject = {"type": "order_details"}
    if header_image is not None:
        interactive["header"] = {"type": "image", "image": {"link": header_image}}
    interactive["body"] = {"text": body}
    if footer is not None:
        interactive["footer"] = {"text": footer}
    interactive["action"] = {"name": "review_and_pay", "parameters": order}
    return {"type": "interactive", "interactive": interactive}


def _template(
    order: JSONObject, name: str, body: Sequence[str], language: str, header_image: str | None
) -> JSONObject:
    components: list[JSONObject] = []
    if header_image is not None:
        image = {"type": "image", "image": {"link": header_image}}
        components.append({"type": "header", "parameters": [image]})
    if body:
        components.append({"type": "body", "parameters": [{"type": "text", "text": text} for text in body]})
    action = {"type": "action", "action": {"order_details": order}}
    components.append({"type": "button", "sub_type": "order_details", "index": 0, "parameters": [action]})
    return {
        "type": "template",
        "template": {"name": name, "language": {"code": language}, "components": components},
    }


def _setting(kind: str, **content: str) -> JSONObject:
    return {"type": kind, kind: content}


def _cents(value: object) -> JSONObject:
    return {"value": value, "offset": 100}
