"""Templates: the frame, order_details and mpm buttons strictly, other buttons by their required keys.

Source: Gupshup's V3 pages of the PIX and the MPM template and Meta's reference of template messages, as of
2026-11-21.
"""

import re

from disparo.sandbox import orders
from disparo.sandbox.interactive import product_sections
from disparo.sandbox.rules import (
    INVALID_PARAMETER,
    JSON,
    MISSING_VALUE,
    ShapeError,
    a_match,
    a_text,
    a_word,
    an_array,
    an_object,
    an_optional_text,
    is_object,
    media,
    only,
    required,
    wrong,
)

_PATH = "template"
_NAME = re.compile(r"[a-z0-9_]{1,512}")
_LOCALE = re.compile(r"[a-z]{2,3}(_[A-Z]{2,4})?")
_INDEX = re.compile(r"[0-9]")
#: Common knowledge among senders; Meta refuses such a parameter.
_UNSENDABLE = re.compile(r"[\n\r\t]| {5}")

_KEYS = frozenset({"name", "language", "components", "namespace"})
_COMPONENTS = ("header", "body", "button", "carousel", "limited_time_offer", "order_status")
_HEADER = ("text", "image", "video", "document", "location", "product", "gif")
_BODY = ("text", "currency", "date_time")
_BUTTON = ("text", "payload", "coupon_code", "action", "ttl_minutes")
_SUB_TYPES = ("quick_reply", "url", "copy_code", "catalog", "mpm", "flow", "order_details", "voice_call")
_LANGUAGE = frozenset({"code", "policy"})
_PARAMETERS = frozenset({"type", "parameters"})
_CAROUSEL = frozenset({"type", "cards"})
_BUTTON_KEYS = frozenset({"type", "sub_type", "index", "parameters"})
_ACTION = frozenset({"type", "action"})
_ORDER_DETAILS = frozenset({"order_details"})
_MPM = frozenset({"thumbnail_product_retailer_id", "sections"})


def check(template: JSON) -> None:
    """Refuse a ``template`` object that breaks a documented rule, with `ShapeError`."""
    only(template, _KEYS, _PATH)
    a_match(template, "name", _PATH, _NAME, "must be 1 to 512 lower-case letters, digits or underscores")
    language = an_object(template, "language", _PATH)
    only(language, _LANGUAGE, "template.language")
    a_match(language, "code", "template.language", _LOCALE, 'must be a locale such as "pt_BR"')
    if "policy" in language:
        a_word(language, "policy", "template.language", ("deterministic",))
    if "components" in template:
        _components(an_array(template, "components", _PATH, least=0))


def _components(components: list[object]) -> None:
    # A template that is nothing but its body may be much longer (contradictory sources: the looser one).
    most = 1024 if len(components) > 1 else 32768
    seen: set[str] = set()
    for index, value in enumerate(components):
        path = f"template.components[{index}]"
        component = is_object(value, path)
        kind = a_word(component, "type", path, _COMPONENTS)
        place = f"button {_index(component, path)}" if kind == "button" else kind
        if place in seen:
            raise wrong(path, f"is a second {place}")
        seen.add(place)
        if kind == "button":
            _button(component, path)
        elif kind == "carousel":
            only(component, _CAROUSEL, path)
            an_array(component, "cards", path, 10, 2)
        else:
            only(component, _PARAMETERS, path)
            if kind == "header":
                _header(component, path)
            elif kind == "body":
                _body(component, path, most)
            else:
                an_array(component, "parameters", path)


def _header(component: JSON, path: str) -> None:
    parameters = an_array(component, "parameters", path, 1)
    _parameter(parameters[0], f"{path}.parameters[0]", _HEADER, 60)


def _body(component: JSON, path: str, most: int) -> None:
    total = named = 0
    parameters = an_array(component, "parameters", path, least=0)
    for index, parameter in enumerate(parameters):
        here = f"{path}.parameters[{index}]"
        total += _parameter(parameter, here, _BODY, most)
        named += "parameter_name" in parameter
    if total > most:
        raise wrong(path, f"has {total} characters of parameters, more than {most}")
    if named not in (0, len(parameters)):
        raise wrong(path, "has parameters with and without parameter_name")


def _parameter(value: object, path: str, kinds: tuple[str, ...], most: int) -> int:
    """Check one parameter and return the length of its text, 0 for the other kinds."""
    parameter = is_object(value, path)
    kind = a_word(parameter, "type", path, kinds)
    only(parameter, frozenset({"type", kind, "parameter_name"}), path)
    an_optional_text(parameter, "parameter_name", path)
    if kind == "text":
        text = a_text(parameter, "text", path, most)
        if _UNSENDABLE.search(text) is not None:
            raise wrong(f"{path}.text", "has a line break, a tab or more than 4 spaces in a row")
        return len(text)
    if kind in ("image", "video", "document"):
        media(parameter, kind, path)
    elif kind in ("payload", "coupon_code"):
        a_text(parameter, kind, path, 15 if kind == "coupon_code" else 256)
    elif kind == "ttl_minutes":
        required(parameter, kind, path)
    else:
        an_object(parameter, kind, path)
    return 0


def _index(component: JSON, path: str) -> int:
    index = required(component, "index", path)
    if type(index) is int and 0 <= index <= 9:
        return index
    if type(index) is str and _INDEX.fullmatch(index) is not None:
        return int(index)
    raise wrong(f"{path}.index", "must be 0 to 9")


def _button(component: JSON, path: str) -> None:
    only(component, _BUTTON_KEYS, path)
    kind = a_word(component, "sub_type", path, _SUB_TYPES)
    if kind in ("order_details", "mpm"):
        if kind == "order_details" and _index(component, path) != 0:
            raise wrong(f"{path}.index", "must be 0")
        action = _action(component, path)
        path += ".parameters[0].action"
        if kind == "order_details":
            only(action, _ORDER_DETAILS, path)
            orders.check(an_object(action, "order_details", path), f"{path}.order_details")
        else:
            only(action, _MPM, path)
            a_text(action, "thumbnail_product_retailer_id", path)
            product_sections(action, path)
        return
    if kind in ("url", "copy_code") and "parameters" not in component:
        raise ShapeError(MISSING_VALUE, f"{path}.parameters", "is required")
    if "parameters" in component:
        for index, parameter in enumerate(an_array(component, "parameters", path, least=0)):
            _parameter(parameter, f"{path}.parameters[{index}]", _BUTTON, 2000)


def _action(component: JSON, path: str) -> JSON:
    """The action of a button that takes exactly one."""
    parameter = is_object(an_array(component, "parameters", path, 1)[0], f"{path}.parameters[0]")
    only(parameter, _ACTION, f"{path}.parameters[0]")
    if parameter.get("type") != "action":
        raise ShapeError(INVALID_PARAMETER, f"{path}.parameters[0].type", 'must be "action"')
    return an_object(parameter, "action", f"{path}.parameters[0]")
