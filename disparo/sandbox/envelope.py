"""The whole body of a request: its envelope, and the simple session types (text, media, location, …).

Source: Gupshup's V3 pages "Text Message" and "Interactive" and Meta's message reference, as of 2026-11-21.
"""

import re
from collections.abc import Callable

from disparo.sandbox import interactive, templates
from disparo.sandbox.rules import (
    INVALID_PARAMETER,
    JSON,
    MISSING_VALUE,
    ShapeError,
    a_match,
    a_text,
    an_array,
    an_object,
    an_optional_boolean,
    an_optional_text,
    is_object,
    media,
    one_of,
    only,
    wrong,
)

#: Digits with country code, as in all of Gupshup's samples; the service itself forgives more.
_PHONE = re.compile(r"[0-9]{8,15}")
#: A business-scoped user id: country, point, letters and digits.
_USER_ID = re.compile(r"[A-Z]{2}\.[A-Za-z0-9]{1,128}")

_ENVELOPE = frozenset(
    {"messaging_product", "recipient_type", "to", "recipient", "type", "context", "biz_opaque_callback_data"}
)
_TEXT = frozenset({"body", "preview_url"})
_CONTEXT = frozenset({"message_id"})


def check(message: JSON) -> str:
    """Return the recipient of a message that keeps the documented rules.

    Strict about the envelope and the five kinds of Gupshup's own pages (text, reply buttons, order_details,
    templates with an order_details or mpm button); of the others it asks for required keys and their types.

    Raises:
      ShapeError: a rule is broken; the first one found.
    """
    _constant(message, "messaging_product", "whatsapp")
    _constant(message, "recipient_type", "individual")
    to = _recipient(message)
    kind = a_text(message, "type", "")
    content = _CONTENT.get(kind)
    if content is None:
        raise ShapeError(INVALID_PARAMETER, "type", one_of(_CONTENT))
    if kind not in message:
        raise ShapeError(MISSING_VALUE, kind, f'is required when type is "{kind}"')
    for key in message:
        if key not in _ENVELOPE and key != kind:
            raise ShapeError(INVALID_PARAMETER, key, "unexpected key")
    if "context" in message:
        context = an_object(message, "context", "")
        if kind == "reaction":
            raise ShapeError(INVALID_PARAMETER, "context", "is not possible with a reaction")
        only(context, _CONTEXT, "context")
        a_text(context, "message_id", "context")
    an_optional_text(message, "biz_opaque_callback_data", "", 512)
    content(message)
    return to


def _recipient(message: JSON) -> str:
    """The phone number, or the user id where there is none."""
    if "to" not in message and "recipient" in message:
        return a_match(message, "recipient", "", _USER_ID, "must be a user id such as BR.1A2B3C")
    to = message.get("to")
    if type(to) is not str:
        if "to" not in message:
            raise ShapeError(MISSING_VALUE, "to", "is required")
        raise wrong("to", "must be a string")
    if _PHONE.fullmatch(to) is None:
        raise wrong("to", "must be 8 to 15 digits with country code and without +")
    return to


def _constant(message: JSON, key: str, word: str) -> None:
    if message.get(key) != word:
        if key not in message:
            raise ShapeError(MISSING_VALUE, key, "is required")
        raise ShapeError(INVALID_PARAMETER, key, f'must be "{word}"')


def _text(message: JSON) -> None:
    content = an_object(message, "text", "")
    only(content, _TEXT, "text")
    a_text(content, "body", "text", 4096)
    an_optional_boolean(content, "preview_url", "text")


def _media(kind: str, caption: int | None) -> Callable[[JSON], None]:
    def content(message: JSON) -> None:
        media(message, kind, "", caption)

    return content


def _location(message: JSON) -> None:
    content = an_object(message, "location", "")
    for key in ("latitude", "longitude"):
        if key not in content:
            raise ShapeError(MISSING_VALUE, f"location.{key}", "is required")
        if type(content[key]) not in (str, int, float):
            raise wrong(f"location.{key}", "must be a number or a string of one")
    an_optional_text(content, "name", "location")
    an_optional_text(content, "address", "location")


def _contacts(message: JSON) -> None:
    for index, contact in enumerate(an_array(message, "contacts", "", 257)):
        path = f"contacts[{index}]"
        a_text(an_object(is_object(contact, path), "name", path), "formatted_name", f"{path}.name")


def _reaction(message: JSON) -> None:
    content = an_object(message, "reaction", "")
    a_text(content, "message_id", "reaction")
    if type(content.get("emoji")) is not str:  # An empty one removes the reaction.
        raise ShapeError(MISSING_VALUE, "reaction.emoji", "is required, as a string")


def _interactive(message: JSON) -> None:
    interactive.check(an_object(message, "interactive", ""))


def _template(message: JSON) -> None:
    templates.check(an_object(message, "template", ""))


_CONTENT: dict[str, Callable[[JSON], None]] = {
    "text": _text,
    "image": _media("image", 1024),
    "audio": _media("audio", None),
    "video": _media("video", 1024),
    "document": _media("document", 1024),
    "sticker": _media("sticker", None),
    "location": _location,
    "contacts": _contacts,
    "reaction": _reaction,
    "interactive": _interactive,
    "template": _template,
}
