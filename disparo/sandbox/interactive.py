"""Interactive messages: reply buttons and order_details strictly, the other types by their required keys.

Source: Gupshup's V3 pages "Interactive" and "PIX Session Message" and Meta's reference of interactive
messages, as of 2026-11-21.
"""

from collections.abc import Callable

from disparo.sandbox import orders
from disparo.sandbox.rules import (
    INVALID_PARAMETER,
    JSON,
    MISSING_VALUE,
    ShapeError,
    a_text,
    a_word,
    an_array,
    an_object,
    is_object,
    media,
    one_of,
    only,
    required,
    wrong,
)

_PATH = "interactive"
_ACTION = "interactive.action"
_PARAMETERS = "interactive.action.parameters"
_KEYS = frozenset({"type", "header", "body", "footer", "action"})
_WORDS = frozenset({"text"})
_BUTTONS = frozenset({"buttons"})
_BUTTON = frozenset({"type", "reply"})
_REPLY = frozenset({"id", "title"})
_NAMED_ACTION = frozenset({"name", "parameters"})
_SECTION = frozenset({"title", "product_items"})
_PRODUCT = frozenset({"product_retailer_id"})
_ANY_HEADER = ("text", "image", "video", "document")


def check(content: JSON) -> None:
    """Refuse an ``interactive`` object that breaks a documented rule, with `ShapeError`."""
    kind = a_text(content, "type", _PATH)
    rule = _TYPES.get(kind)
    if rule is None:
        raise ShapeError(INVALID_PARAMETER, "interactive.type", one_of(_TYPES))
    rule(content)


def _frame(content: JSON, headers: tuple[str, ...], body: int = 1024, *, body_needed: bool = True) -> JSON:
    """Check header, body and footer, and return ``action``."""
    only(content, _KEYS, _PATH)
    if "header" in content:
        if not headers:
            raise ShapeError(INVALID_PARAMETER, "interactive.header", "is not possible with this type")
        _header(content, headers)
    if body_needed or "body" in content:
        _words(content, "body", body)
    if "footer" in content:
        _words(content, "footer", 60)
    return an_object(content, "action", _PATH)


def _header(content: JSON, kinds: tuple[str, ...]) -> None:
    path = "interactive.header"
    header = an_object(content, "header", _PATH)
    kind = a_word(header, "type", path, kinds)
    only(header, frozenset({"type", kind}), path)
    # The provider's page of interactive messages shows a header that has its type alone.
    if kind not in header:
        return
    if kind == "text":
        a_text(header, "text", path, 60)
    else:
        media(header, kind, path)


def _words(content: JSON, key: str, most: int) -> None:
    path = f"{_PATH}.{key}"
    words = an_object(content, key, _PATH)
    only(words, _WORDS, path)
    a_text(words, "text", path, most)


def _button(content: JSON) -> None:
    action = _frame(content, _ANY_HEADER)
    only(action, _BUTTONS, _ACTION)
    ids: set[str] = set()
    titles: set[str] = set()
    for index, button in enumerate(an_array(action, "buttons", _ACTION, 3)):
        path = f"interactive.action.buttons[{index}]"
        only(is_object(button, path), _BUTTON, path)
        a_word(button, "type", path, ("reply",))
        reply = an_object(button, "reply", path)
        path += ".reply"
        only(reply, _REPLY, path)
        identity = a_text(reply, "id", path, 256)
        if identity != identity.strip():
            raise wrong(f"{path}.id", "must not begin or end with a space")
        title = a_text(reply, "title", path, 20)
        if identity in ids:
            raise wrong(f"{path}.id", "is used by another button")
        if title in titles:
            raise wrong(f"{path}.title", "is used by another button")
        ids.add(identity)
        titles.add(title)


def _order_details(content: JSON) -> None:
    action = _frame(content, ("image",))
    only(action, _NAMED_ACTION, _ACTION)
    a_word(action, "name", _ACTION, ("review_and_pay",))
    orders.check(an_object(action, "parameters", _ACTION), _PARAMETERS)


def _list(content: JSON) -> None:
    action = _frame(content, ("text",), body=4096)
    a_text(action, "button", _ACTION, 20)
    rows = 0
    sections = an_array(action, "sections", _ACTION, 10)
    for index, section in enumerate(sections):
        path = f"interactive.action.sections[{index}]"
        is_object(section, path)
        if len(sections) > 1:
            a_text(section, "title", path, 24)
        for place, row in enumerate(an_array(section, "rows", path)):
            here = f"{path}.rows[{place}]"
            a_text(is_object(row, here), "id", here, 200)
            a_text(row, "title", here, 24)
            rows += 1
    if rows > 10:
        raise wrong("interactive.action.sections", f"has {rows} rows in total, more than 10")


def _cta_url(content: JSON) -> None:
    parameters = _named(_frame(content, _ANY_HEADER), "cta_url")
    a_text(parameters, "display_text", _PARAMETERS, 20)
    a_text(parameters, "url", _PARAMETERS)


def _product(content: JSON) -> None:
    action = _frame(content, (), body_needed=False)
    a_text(action, "catalog_id", _ACTION)
    a_text(action, "product_retailer_id", _ACTION)


def _product_list(content: JSON) -> None:
    action = _frame(content, ("text",))
    if "header" not in content:
        raise ShapeError(MISSING_VALUE, "interactive.header", "is required")
    a_text(action, "catalog_id", _ACTION)
    product_sections(action, _ACTION)


def product_sections(action: JSON, path: str) -> None:
    """Refuse ``sections`` of products beyond 10 sections, 30 products or titles of 24 characters."""
    products = 0
    sections = an_array(action, "sections", path, 10)
    for index, section in enumerate(sections):
        here = f"{path}.sections[{index}]"
        only(is_object(section, here), _SECTION, here)
        if len(sections) > 1 or "title" in section:
            a_text(section, "title", here, 24)
        for place, item in enumerate(an_array(section, "product_items", here)):
            there = f"{here}.product_items[{place}]"
            only(is_object(item, there), _PRODUCT, there)
            a_text(item, "product_retailer_id", there)
            products += 1
    if products > 30:
        raise wrong(f"{path}.sections", f"has {products} products in total, more than 30")


def _catalog(content: JSON) -> None:
    a_word(_frame(content, ()), "name", _ACTION, ("catalog_message",))


def _flow(content: JSON) -> None:
    parameters = _named(_frame(content, _ANY_HEADER), "flow")
    a_word(parameters, "flow_message_version", _PARAMETERS, ("3",))
    a_text(parameters, "flow_cta", _PARAMETERS)
    if ("flow_id" in parameters) == ("flow_name" in parameters):
        raise wrong(_PARAMETERS, "needs either flow_id or flow_name")


def _location_request(content: JSON) -> None:
    a_word(_frame(content, ()), "name", _ACTION, ("send_location",))


def _carousel(content: JSON) -> None:
    for index, card in enumerate(an_array(_frame(content, ()), "cards", _ACTION, 10, 2)):
        path = f"interactive.action.cards[{index}]"
        required(is_object(card, path), "card_index", path)
        an_object(card, "action", path)


def _order_status(content: JSON) -> None:
    parameters = _named(_frame(content, ()), "review_order")
    a_text(parameters, "reference_id", _PARAMETERS, 60)
    a_word(
        an_object(parameters, "order", _PARAMETERS),
        "status",
        f"{_PARAMETERS}.order",
        ("pending", "processing", "partially-shipped", "shipped", "completed", "canceled"),
    )


def _named(action: JSON, name: str) -> JSON:
    a_word(action, "name", _ACTION, (name,))
    return an_object(action, "parameters", _ACTION)


def _name_is_type(name: str) -> Callable[[JSON], None]:
    def rule(content: JSON) -> None:
        action = _frame(content, _ANY_HEADER, body_needed=False)
        a_word(action, "name", _ACTION, (name,))

    return rule


_TYPES: dict[str, Callable[[JSON], None]] = {
    "button": _button,
    "order_details": _order_details,
    "list": _list,
    "cta_url": _cta_url,
    "product": _product,
    "product_list": _product_list,
    "catalog_message": _catalog,
    "flow": _flow,
    "location_request_message": _location_request,
    "carousel": _carousel,
    "order_status": _order_status,
    "address_message": _name_is_type("address_message"),
    "call_permission_request": _name_is_type("call_permission_request"),
    "voice_call": _name_is_type("voice_call"),
    "request_contact_info": _name_is_type("request_contact_info"),
}
