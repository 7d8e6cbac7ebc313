"""Requests for payment (``order_details``) made from few values, as session messages and in templates; pure.

    order = order_details("MENS-1", amount="812,50", code=code, pix_key="financeiro@colegio.example", item="Mensalidade")
    in_session(order, "Olá Maria, segue a mensalidade de dezembro.")
    in_template(order, "mensalidade_pix", ["Maria", "R$ 812,50"])

``expand`` makes the same of the short form of campaign files, with placeholders where a row has its values.

Source: Gupshup, V3 passthrough (PIX Session Message, PIX Template Message); Meta, Payments in Brazil, as known on
2026-11-21.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple, TypeAlias

from pydantic import BaseModel, ConfigDict, ValidationError

from disparo import money
from disparo.errors import InputError
from disparo.whatsapp import boletos, br_code, pix_keys

#: WhatsApp takes no order that expires sooner than this after it is sent.
SHORTEST = timedelta(seconds=300)

JSONObject: TypeAlias = dict[str, Any]
Goods: TypeAlias = Literal["digital-goods", "physical-goods"]

_REFERENCE = re.compile(r"[A-Za-z0-9_.-]{1,60}")


class Item(NamedTuple):
    """A line of an order. Prices are cents of one piece; ``sale_cents`` is what is paid where it is cheaper."""

    name: str
    amount_cents: int
    quantity: int = 1
    sale_cents: int | None = None
    id: str | None = None

    @property
    def total_cents(self) -> int:
        """What all pieces come to."""
        return (self.amount_cents if self.sale_cents is None else self.sale_cents) * self.quantity


def order_details(
    reference: str,
    *,
    item: str | Sequence[Item],
    amount: object = None,
    amount_cents: int | None = None,
    numbers: money.Numbers | None = None,
    code: str | None = None,
    pix_key: str | None = None,
    pix_key_type: str | None = None,
    merchant_name: str | None = None,
    link: str | None = None,
    digitable_line: str | None = None,
    tax_cents: int = 0,
    shipping_cents: int = 0,
    discount_cents: int = 0,
    expires_at: datetime | None = None,
    expires_text: str | None = None,
    goods: Goods = "digital-goods",
    now: datetime | None = None,
) -> JSONObject:
    """The order of a request for payment, which adds up: total = items + tax + shipping - discount.

    Args:
      reference: 1 to 60 letters, digits, ``_``, ``-``, ``.``; a business uses each once.
      item: What is paid for, in the customer's words (up to 60 characters), or several with their prices.
      amount: The total in reais, as people and spreadsheets write it: ``"1.234,56"``, ``"R$ 12,34"``, ``1234.5``.
      amount_cents: The total in cents, instead of ``amount``. With several items both may be left out.
      numbers: What ``1.234`` means in ``amount``: ``br`` or ``en``.
      code: The BR Code to be copied; line breaks and outer blanks go.
      pix_key: Shown to the payer. A static code names its own, for a dynamic one it must be given.
      pix_key_type: ``CPF``, ``CNPJ``, ``EMAIL``, ``PHONE`` or ``EVP``; else it is found out.
      merchant_name: Who is paid, as it is shown; else the name in the code.
      link: The address of a page on which to pay.
      digitable_line: The 47 or 48 digits of a boleto. Any of the three ways to pay may stand together.
      expires_at: Aware; after it the button to pay is dead. At least 300 seconds ahead.
      expires_text: Says so to the customer, up to 120 characters; needed with ``expires_at``.
      now: The present, aware; else that of this machine.

    Raises:
      InputError: Something is missing, cannot be right, or the code asks for another amount.
    """
    if not _REFERENCE.fullmatch(reference):
        raise InputError(
            "reference has 1 to 60 letters, digits, hyphens, underscores or dots, and nothing else"
        )
    extras = tax_cents + shipping_cents - discount_cents
    total = _total(amount, amount_cents, numbers)
    if isinstance(item, str):
        if total is None:
            raise InputError("give amount (in reais) or amount_cents")
        items: Sequence[Item] = [Item(item, total - extras)]
    else:
        items = item
        total = sum(one.total_cents for one in items) + extras if total is None else total
    _check_items(items, (tax_cents, shipping_cents, discount_cents), total)
    settings = []
    if code is not None:
        settings.append(_pix(*_checked_code(code, total, merchant_name, pix_key, pix_key_type)))
    if link is not None:
        if not re.fullmatch(r"https?://\S+", link.strip()):
            raise InputError("link is an address that begins with https:// or http://")
        settings.append(_link(link.strip()))
    if digitable_line is not None:
        settings.append(_boleto(boletos.parse(digitable_line)))
    if not settings:
        raise InputError("give a way to pay: code (PIX), link or digitable_line (boleto)")
    expiration = None
    if expires_at is not None:
        if not expires_text:
            raise InputError("expires_at needs expires_text, which tells the customer")
        if expires_at < (now or datetime.now(UTC)) + SHORTEST:
            raise InputError("expires_at is less than 300 seconds ahead, which WhatsApp refuses")
        expiration = _expiration(str(int(expires_at.timestamp())), expires_text)
    order = _order(
        reference, total, settings, [_item(n, one) for n, one in enumerate(items, 1)], goods, expiration
    )
    order["order"]["subtotal"] = _cents(sum(one.total_cents for one in items))
    order["order"]["tax"] = _cents(tax_cents)
    if shipping_cents:
        order["order"]["shipping"] = _cents(shipping_cents)
    if discount_cents:
        order["order"]["discount"] = _cents(discount_cents)
    return order


def in_session(
    order: JSONObject, body: str, *, footer: str | None = None, header_image: str | None = None
) -> JSONObject:
    """The order as a message of its own, which only goes within 24 hours after the customer wrote.

    Args:
      order: As `order_details` gives it.
      body: The text above the order, up to 1024 characters.
      header_image: The address of a picture.
    """
    interactive: JSONObject = {"type": "order_details"}
    if header_image is not None:
        interactive["header"] = {"type": "image", "image": {"link": header_image}}
    interactive["body"] = {"text": body}
    if footer is not None:
        interactive["footer"] = {"text": footer}
    interactive["action"] = {"name": "review_and_pay", "parameters": order}
    return {"type": "interactive", "interactive": interactive}


def in_template(
    order: JSONObject,
    name: str,
    body: Sequence[str] = (),
    *,
    language: str = "pt_BR",
    header_image: str | None = None,
) -> JSONObject:
    """The order in an approved template with one ORDER_DETAILS button, which goes at any time.

    Args:
      order: As `order_details` gives it.
      name: The template's.
      body: The values of its body, in their order.
      header_image: The address of a picture, for a template that has one in its header.
    """
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
        settings.append(_pix(short.code or "{{ code }}", short.merchant_name, key, key_type))
    if short.link is not None:
        settings.append(_link(short.link))
    if short.digitable_line is not None:
        settings.append(_boleto(short.digitable_line))
    total = "{{ amount_cents }}"
    expiration = _expiration("{{ expires_epoch }}", short.expires_text) if short.expires_text else None
    items = [_item(1, Item(short.item, total))]  # type: ignore[arg-type]
    order = _order("{{ reference }}", total, settings, items, short.goods, expiration)
    order["order"] |= {"subtotal": _cents(total), "tax": _cents(0)}
    if short.template is None:
        if not isinstance(short.body, str):
            raise InputError(
                "message.pix.body is the text of the message; only a template has a list of values"
            )
        return in_session(order, short.body, footer=short.footer, header_image=short.header_image)
    if isinstance(short.body, str):
        raise InputError("message.pix.body of a template is the list of its values, in their order")
    if short.footer is not None:
        raise InputError("message.pix.footer: a template has its own footer")
    return in_template(
        order, short.template, short.body, language=short.language, header_image=short.header_image
    )


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


def _total(amount: object, amount_cents: int | None, numbers: money.Numbers | None) -> int | None:
    if amount is not None and amount_cents is not None:
        raise InputError("give amount (in reais) or amount_cents, not both")
    if amount is not None:
        return money.cents(amount, numbers)
    if amount_cents is not None and type(amount_cents) is not int:
        raise InputError("amount_cents is a whole number of cents")
    return amount_cents


def _check_items(items: Sequence[Item], extras: Sequence[int], total: int) -> None:
    if not items:
        raise InputError("item names what is paid for; at least one")
    if any(type(cents) is not int or cents < 0 for cents in extras):
        raise InputError("tax_cents, shipping_cents and discount_cents are whole cents, not below zero")
    for one in items:
        if not one.name.strip() or len(one.name) > 60:
            raise InputError("the name of an item has 1 to 60 characters")
        if type(one.amount_cents) is not int or type(one.quantity) is not int or one.quantity < 1:
            raise InputError(
                f"{one.name}: amount_cents and quantity are whole numbers, of at least one piece"
            )
        if one.amount_cents < 0:
            raise InputError(f"{one.name}: its price is below zero; are tax and shipping above the total?")
        if one.sale_cents is not None and not 0 <= one.sale_cents < one.amount_cents:
            raise InputError(f"{one.name}: sale_cents is not below amount_cents")
    tax, shipping, discount = extras
    found = sum(one.total_cents for one in items) + tax + shipping - discount
    if found != total:
        raise InputError(
            f"the amount is {money.brl(total)}, but items + tax + shipping - discount are {money.brl(found)}"
        )
    if total <= 0:
        raise InputError("the amount must be above 0")


def _checked_code(
    code: str, total: int, merchant_name: str | None, key: str | None, key_type: str | None
) -> tuple[str, str, str, str]:
    """Text, name, key and type of key of a PIX code; of a static one the name and the key may be its own."""
    parsed = br_code.parse(code)
    if parsed.amount_cents not in (None, total):
        raise InputError(
            f"the code asks for {money.brl(parsed.amount_cents)}, the amount is {money.brl(total)}"
        )
    key = key or parsed.key
    if key is None:
        raise InputError(
            "pix_key is missing: a dynamic code does not name the key that is shown to the payer"
        )
    return parsed.text, merchant_name or parsed.merchant_name, *pix_keys.parse(key, key_type)


def _order(
    reference: str, total: object, settings: list[JSONObject], items: list[JSONObject], goods: Goods,
    expiration: JSONObject | None,
) -> JSONObject:  # fmt: skip
    order: JSONObject = {"status": "pending"}
    if expiration is not None:
        order["expiration"] = expiration
    return {
        "reference_id": reference,
        "type": goods,
        "payment_type": "br",
        "payment_settings": settings,
        "currency": "BRL",
        "total_amount": _cents(total),
        "order": {**order, "items": items},
    }


def _cents(value: object) -> JSONObject:
    return {"value": value, "offset": 100}


def _item(number: int, item: Item) -> JSONObject:
    line = {
        "retailer_id": item.id or str(number),
        "name": item.name,
        "amount": _cents(item.amount_cents),
        "quantity": item.quantity,
    }
    return line if item.sale_cents is None else {**line, "sale_amount": _cents(item.sale_cents)}


def _pix(code: str, merchant_name: str, key: str, key_type: str) -> JSONObject:
    content = {"code": code, "merchant_name": merchant_name, "key": key, "key_type": key_type}
    return {"type": "pix_dynamic_code", "pix_dynamic_code": content}


def _link(uri: str) -> JSONObject:
    return {"type": "payment_link", "payment_link": {"uri": uri}}


def _boleto(digitable_line: str) -> JSONObject:
    return {"type": "boleto", "boleto": {"digitable_line": digitable_line}}


def _expiration(timestamp: str, text: str) -> JSONObject:
    return {"timestamp": timestamp, "description": text}
