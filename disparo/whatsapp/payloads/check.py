"""Which rules a message breaks, and what is odd about it, each with path, value, limit and source."""

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from disparo.errors import Fault
from disparo.whatsapp.payloads import content
from disparo.whatsapp.payloads.base import JSONObject, Model
from disparo.whatsapp.payloads.envelope import Envelope
from disparo.whatsapp.payloads.interactive import AnyInteractive
from disparo.whatsapp.payloads.names import kind
from disparo.whatsapp.payloads.templates import Template

_GUPSHUP = "Gupshup, V3 passthrough"
_META = "Meta, WhatsApp Business Platform"

TYPES: dict[str, tuple[Any, str]] = {
    "text": (content.TextContent, f"{_GUPSHUP}, Text Message"),
    "image": (content.CaptionedMedia, f"{_META}, Image messages"),
    "video": (content.CaptionedMedia, f"{_META}, Video messages"),
    "audio": (content.Audio, f"{_META}, Audio messages"),
    "document": (content.Document, f"{_META}, Document messages"),
    "sticker": (content.Media, f"{_META}, Sticker messages"),
    "location": (content.Location, f"{_META}, Location messages"),
    "contacts": (content.Contacts, f"{_META}, Contacts messages"),
    "reaction": (content.Reaction, f"{_META}, Reaction messages"),
    "interactive": (AnyInteractive, f"{_META}, Interactive messages"),
    "template": (Template, f"{_META}, Template messages"),
}
"""Type of a message → model of its content, and where its rules are documented."""

_PAGES = {
    "interactive button": "Interactive reply buttons messages",
    "interactive list": "Interactive list messages",
    "interactive cta_url": "Interactive Call-to-Action URL button messages",
    "interactive product": "Single-product messages",
    "interactive product_list": "Multi-product messages",
    "interactive catalog_message": "Catalog messages",
    "interactive flow": "Interactive Flow messages",
    "interactive location_request_message": "Location request messages",
    "interactive carousel": "Interactive carousel messages",
    "interactive address_message": "Address messages",
    "interactive call_permission_request": "User call permissions",
    "interactive voice_call": "Call button messages",
    "interactive order_details": "Payments in Brazil, Orders",
    "interactive order_status": "Payments in Brazil, Orders",
    "template carousel": "Carousel templates",
    "template limited_time_offer": "Limited-time offer templates",
    "template copy_code": "Coupon code templates",
    "template catalog": "Catalog templates",
    "template mpm": "Multi-product message templates",
    "template payment_request": "Payments in Brazil, Payment request CTA templates",
    "template order_details": "Payments in Brazil, Order details template",
}
"""What a message is, by `kind` → the page of Meta that has its rules, where it has one of its own."""

_SUB_TYPES = (
    "quick_reply",
    "url",
    "copy_code",
    "catalog",
    "mpm",
    "flow",
    "order_details",
    "payment_request",
    "voice_call",
)
_ESCAPE = "With raw: true beside the type, a message is sent unchecked"
# Values that lead to money or to a person stay out of what may be logged.
_SECRET = re.compile(
    r"(^|pix_dynamic_code\.)(code|key)$|(^|\.)(to|recipient|digitable_line|coupon_code|credential_id|phones.*)$"
)


def check(message: JSONObject) -> list[Fault]:
    """Every rule of WhatsApp that ``message`` (without envelope) breaks; empty when it may be sent."""
    if not isinstance(message, dict):
        return [Fault("", "is no object", _cut(message))]
    label = message.get("type")
    if not isinstance(label, str) or label not in TYPES:
        return [_unknown_type(message)]
    unknown = [
        Fault(key, _unknown_key(), source=TYPES[label][1]) for key in message if key not in ("type", label)
    ]
    if label not in message:
        return [
            Fault(label, f"is required: it holds the content of a message of type {label}"),
            *unknown,
        ]
    validate = functools.partial(_adapter(label).validate_python, message[label])
    return [*_faults(validate, message[label], label, _source(message, label)), *unknown]


def check_part(model: type[Model], part: JSONObject, source: str) -> list[Fault]:
    """Every rule that one object of a message breaks by itself, with paths that begin in it."""
    return _faults(functools.partial(model.model_validate, part), part, "", source)


def check_envelope(envelope: Mapping[str, Any], message: Mapping[str, Any] | None = None) -> list[Fault]:
    """Every rule that the envelope of a file breaks; ``to`` is left to ``phone.parse``.

    Args:
      message: What it surrounds, for the rules that concern both.
    """
    found = _faults(functools.partial(Envelope.model_validate, envelope), envelope, "", Envelope.source)
    if message is not None and message.get("type") == "reaction" and "context" in envelope:
        found.append(
            Fault("context", "is not possible with a reaction; leave it out", source=Envelope.source)
        )
    return found


def warnings(message: JSONObject, *, raw: bool = False) -> list[Fault]:
    """What is odd about a message that `check` passes: codes that no bank will take, doubtful limits …

    Args:
      raw: The message is sent unchecked: what `check` finds is then told here.
    """
    label = message.get("type")
    if not isinstance(label, str) or label not in TYPES or label not in message:
        return check(message) if raw else []
    try:
        found = _adapter(label).validate_python(message[label])
    except ValidationError:
        return check(message) if raw else []  # the faults come first
    odd = list(_oddities(found, label, _source(message, label)))
    return [*check(message), *odd] if raw else odd


@functools.cache
def _adapter(label: str) -> TypeAdapter[Any]:
    return TypeAdapter(TYPES[label][0])


def _source(message: Mapping[str, Any], label: str) -> str:
    page = _PAGES.get(kind(message))
    return f"{_META}, {page}" if page else TYPES[label][1]


def _unknown_type(message: JSONObject) -> Fault:
    known = ", ".join(TYPES)
    if "type" not in message:
        present = next((name for name in TYPES if name in message), None)
        hint = f'; write "type": "{present}"' if present else ""
        return Fault("type", f"is required{hint}", limit=known)
    return Fault(
        "type",
        f"{_cut(message['type'])!r} is not a known type of message; known are {known}. {_ESCAPE}",
        _cut(message["type"]),
        known,
        _GUPSHUP,
    )


def _unknown_key() -> str:
    return f"is a key that the documentation does not have here; take it out. {_ESCAPE}"


def _faults(validate: "functools.partial[Any]", value: object, path: str, source: str) -> list[Fault]:
    try:
        validate()
    except ValidationError as error:
        return [_fault(detail, value, path, source) for detail in error.errors(include_url=False)]
    return []


def _fault(detail: ErrorDetails, value: object, path: str, source: str) -> Fault:
    context: dict[str, Any] = detail.get("ctx", {})
    missing = detail["type"] in ("missing", "union_tag_not_found")
    path = _path(path, value, detail["loc"], missing=missing)
    if detail["type"] == "rule":
        path = f"{path}.{context['at']}".strip(".")
        sentence, shown, limit = context["sentence"], context["value"], context["limit"]
    else:
        path, sentence, limit = _explained(detail, context, path)
        shown = None if missing or detail["type"] == "extra_forbidden" else detail["input"]
    if isinstance(shown, dict | list) or _SECRET.search(path):
        shown = None
    return Fault(path, sentence, None if shown is None else _cut(shown), limit, source)


def _explained(detail: ErrorDetails, context: dict[str, Any], path: str) -> tuple[str, str, str | None]:
    """Path, sentence and limit of a rule that pydantic checked."""
    given = detail["input"]
    match detail["type"]:
        case "missing":
            return path, "is required", None
        case "extra_forbidden":
            return path, _unknown_key(), None
        case "union_tag_not_found" | "union_tag_invalid":
            return _untagged(given, context, path)
        case "string_too_long":
            most = str(context["max_length"])
            return path, f"has {len(given)} characters; {most} are allowed", most
        case "string_too_short":
            return path, "is empty", "at least one character"
        case "too_long" | "too_short" as error:
            bound = str(context["max_length" if error == "too_long" else "min_length"])
            word = "at most" if error == "too_long" else "at least"
            return path, f"has {len(given)} entries; {word} {bound} must be there", bound
        case "literal_error":
            return path, f"must be {context['expected']}", context["expected"]
        case "string_pattern_mismatch":
            shape = _SHAPES.get(context["pattern"], context["pattern"])
            return path, f"is not written as it must be: {shape}", shape
        case "greater_than_equal":
            return path, f"is below {context['ge']}", f"at least {context['ge']}"
        case "less_than_equal":
            return path, f"is above {context['le']}", f"at most {context['le']}"
        case error if error in _TYPE_NAMES:
            return path, f"must be {_TYPE_NAMES[error]}, not {_json_type(given)}", None
        case _:
            return path, detail["msg"], None


_SHAPES = {
    "^[a-z0-9_]*$": "lower-case letters, digits and _",
    "^[A-Za-z0-9_.-]*$": "letters, digits, _, - and .",
    "^[A-Za-z0-9]*$": "letters and digits",
    "^[0-9]{4}$": "4 digits",
    "^[0-9]{10}$": "10 digits, seconds since 1970",
    "^[0-9]{4}-[0-9]{2}-[0-9]{2}$": "YYYY-MM-DD",
    "^[A-Za-z]{2,3}(_[A-Za-z0-9]{2,4})*$": "a locale such as pt_BR",
    r"^[A-Z]{2}\.[A-Za-z0-9]{1,128}$": "a country such as BR, a dot, and up to 128 letters and digits",
    "^(?i:utility|authentication)$": "utility or authentication",
}
"""Pattern of a model → what it means."""

_TYPE_NAMES = {
    "string_type": "text",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "list_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}


def _json_type(value: object) -> str:
    names = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "an array"}
    return names.get(type(value), "null" if value is None else "an object")


def _untagged(given: object, context: dict[str, Any], path: str) -> tuple[str, str, str | None]:
    """An object whose ``type`` (or ``sub_type``) is missing or unknown."""
    if not isinstance(given, dict):
        return path, f"must be an object, not {_json_type(given)}", None
    tags = [tag.strip(" '=") for tag in str(context.get("expected_tags", "")).split(",")]
    name, known = "type", [tag for tag in tags if tag and not tag.startswith("button ")]
    if str(given.get("type")).lower() == "button" and "button" in known:
        name, known = "sub_type", list(_SUB_TYPES)
    path = path.removesuffix(f".{name}") + f".{name}"
    if name not in given:
        return path, "is required", None
    if not isinstance(given[name], str):
        return path, f"must be text, not {_json_type(given[name])}", None
    return path, f"must be one of {', '.join(known)}. {_ESCAPE}", ", ".join(known)


def _path(path: str, value: object, location: tuple[int | str, ...], *, missing: bool) -> str:
    """Where in the message an error is; members of unions, which Pydantic puts among the keys, are left out."""
    here = value
    for place, step in enumerate(location):
        if isinstance(step, int):
            path += f"[{step}]"
            here = here[step] if isinstance(here, list) and step < len(here) else None
        elif isinstance(here, Mapping) and step in here:
            path += f".{step}"
            here = here[step]
        elif missing and place == len(location) - 1 and not step.startswith("="):
            path += f".{step}"
    return path.removeprefix(".")


def _oddities(value: object, path: str, source: str) -> Iterator[Fault]:
    if isinstance(value, list):
        for place, item in enumerate(value):
            yield from _oddities(item, f"{path}[{place}]", source)
    if not isinstance(value, Model):
        return
    for at, sentence, shown in value.oddities():
        yield Fault(
            f"{path}.{at}".strip("."), sentence, None if shown is None else _cut(shown), source=source
        )
    for name, item in value.__dict__.items():
        if item is None and name in value.model_fields_set:
            yield Fault(f"{path}.{name}", "is null; leave the key out", source=source)
        yield from _oddities(item, f"{path}.{name}", source)


def _cut(value: object) -> str:
    if isinstance(value, int) and abs(value) >= 10**60:
        return "a number of more than 60 digits"
    text = str(value).encode("utf-8", "replace").decode()
    return text if len(text) <= 60 else text[:59] + "…"
