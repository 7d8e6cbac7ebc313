"""The payment request (order_details) of Brazil, the same in a session message and in a template's button.

Source: Gupshup's V3 pages of the PIX session message and template and Meta's of orders in Brazil, as of
2026-11-21.
"""

import re
import time

from disparo.sandbox.rules import (
    JSON,
    a_match,
    a_text,
    a_word,
    an_array,
    an_integer,
    an_object,
    an_optional_text,
    is_object,
    only,
    unfit,
    wrong,
)

_REFERENCE = re.compile(r"[A-Za-z0-9_.-]{1,60}")
_INSTANT = re.compile(r"[0-9]{1,12}")
_BOLETO = re.compile(r"[0-9]{47,48}")
_LAST_FOUR = re.compile(r"[0-9]{4}")

_KEYS = frozenset(
    {"reference_id", "type", "payment_type", "payment_settings", "currency", "total_amount", "order"}
)
_ORDER = frozenset({"status", "items", "subtotal", "tax", "shipping", "discount", "expiration", "catalog_id"})
_ITEM = frozenset({"retailer_id", "name", "amount", "quantity", "sale_amount"})
_PIX = frozenset({"code", "merchant_name", "key", "key_type"})
_PIX_KEYS = ("CPF", "CNPJ", "EMAIL", "PHONE", "EVP")
_METHODS = {
    kind: frozenset({"type", kind})
    for kind in ("pix_dynamic_code", "payment_link", "boleto", "offsite_card_pay")
}
_AMOUNT = frozenset({"value", "offset"})
_NOTED_AMOUNT = frozenset({"value", "offset", "description"})
_EXPIRATION = frozenset({"timestamp", "description"})
_DISCOUNT = frozenset({"value", "offset", "description", "discount_program_name"})

#: An order may not expire sooner than this after it is sent.
_SHORTEST_EXPIRATION_SECONDS = 300


def check(details: JSON, path: str) -> None:
    """Refuse the object of an order that breaks a documented rule or does not add up, with `ShapeError`."""
    only(details, _KEYS, path)
    a_match(
        details,
        "reference_id",
        path,
        _REFERENCE,
        "must be 1 to 60 letters, digits, underscores, hyphens or dots",
    )
    a_word(details, "type", path, ("digital-goods", "physical-goods"))
    a_word(details, "payment_type", path, ("br",))
    if "payment_settings" in details:
        for index, setting in enumerate(an_array(details, "payment_settings", path)):
            _payment_setting(setting, f"{path}.payment_settings[{index}]")
    a_word(details, "currency", path, ("BRL",))
    total = _amount(details, "total_amount", path, _AMOUNT, least=1)
    if "order" in details:
        due = _order(an_object(details, "order", path), f"{path}.order")
        if total != due:
            raise wrong(
                f"{path}.total_amount.value",
                f"is {total}, but subtotal + tax + shipping - discount is {due}",
            )


def _payment_setting(setting: object, path: str) -> None:
    method = is_object(setting, path)
    kind = a_word(method, "type", path, _METHODS)
    only(method, _METHODS[kind], path)
    content = an_object(method, kind, path)
    path = f"{path}.{kind}"
    if kind == "pix_dynamic_code":
        only(content, _PIX, path)
        a_text(content, "code", path)
        a_text(content, "merchant_name", path)
        a_text(content, "key", path)
        a_word(content, "key_type", path, _PIX_KEYS)
    elif kind == "payment_link":
        a_text(content, "uri", path)
    elif kind == "boleto":
        a_match(content, "digitable_line", path, _BOLETO, "must be 47 or 48 digits")
    else:
        a_match(content, "last_four_digits", path, _LAST_FOUR, "must be 4 digits")
        a_text(content, "credential_id", path)


def _order(order: JSON, path: str) -> int:
    """Check an order and return what it comes to, in cents."""
    only(order, _ORDER, path)
    a_word(order, "status", path, ("pending",))
    an_optional_text(order, "catalog_id", path)
    items = 0
    for index, item in enumerate(an_array(order, "items", path)):
        items += _item(item, f"{path}.items[{index}]")
    subtotal = _amount(order, "subtotal", path, _AMOUNT)
    if subtotal != items:
        raise wrong(f"{path}.subtotal.value", f"is {subtotal}, but the items come to {items}")
    tax = _amount(order, "tax", path, _NOTED_AMOUNT)
    shipping = _amount(order, "shipping", path, _NOTED_AMOUNT) if "shipping" in order else 0
    discount = 0
    if "discount" in order:
        discount = _amount(order, "discount", path, _DISCOUNT)
        an_optional_text(order["discount"], "discount_program_name", f"{path}.discount", 60)
    if "expiration" in order:
        _expiration(an_object(order, "expiration", path), f"{path}.expiration")
    return subtotal + tax + shipping - discount


def _item(value: object, path: str) -> int:
    item = is_object(value, path)
    only(item, _ITEM, path)
    a_text(item, "retailer_id", path)
    a_text(item, "name", path, 60)
    price = _amount(item, "amount", path, _AMOUNT)
    quantity = an_integer(item, "quantity", path, 1)
    if "sale_amount" in item:
        sale = _amount(item, "sale_amount", path, _AMOUNT)
        if sale >= price:
            raise wrong(f"{path}.sale_amount.value", "must be less than amount")
        price = sale
    return price * quantity


def _amount(parent: JSON, key: str, path: str, known: frozenset[str], least: int = 0) -> int:
    amount = an_object(parent, key, path)
    value = amount.get("value")
    offset = amount.get("offset")
    if type(offset) is int and offset == 100 and type(value) is int and value >= least and len(amount) == 2:
        return value  # Nearly every amount; an order has at least four of them.
    here = f"{path}.{key}"
    only(amount, known, here)
    if type(offset) is not int or offset != 100:
        raise unfit(amount, "offset", here, "must be 100")
    an_optional_text(amount, "description", here, 60)
    return an_integer(amount, "value", here, least)


def _expiration(expiration: JSON, path: str) -> None:
    only(expiration, _EXPIRATION, path)
    instant = a_match(
        expiration, "timestamp", path, _INSTANT, "must be a string of seconds since 1970 in UTC"
    )
    if int(instant) < time.time() + _SHORTEST_EXPIRATION_SECONDS:
        raise wrong(f"{path}.timestamp", f"must be at least {_SHORTEST_EXPIRATION_SECONDS} seconds from now")
    a_text(expiration, "description", path, 120)
