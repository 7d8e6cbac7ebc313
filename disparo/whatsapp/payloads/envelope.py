"""What surrounds a message on its way: envelope keys, recipient, ``raw``; and the value for the wire."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from disparo.errors import InputError
from disparo.whatsapp import br_code
from disparo.whatsapp.payloads.base import JSONObject, Model, Text, broken

ENVELOPE = (
    "messaging_product",
    "recipient_type",
    "to",
    "recipient",
    "context",
    "biz_opaque_callback_data",
    "recipient_identity_key_hash",
    "product_policy",
    "message_activity_sharing",
    "category",
    "ttl_seconds",
    "direct_send_config",
)

RAW = "raw"


class Context(Model):
    message_id: Text


class Envelope(Model):
    """What surrounds a message; all of it may be left out of a file."""

    source: ClassVar[str] = "Gupshup, V3 passthrough, request parameters"

    messaging_product: Literal["whatsapp"] = "whatsapp"
    recipient_type: Literal["individual", "group"] = "individual"
    #: Read by ``phone.parse``, not here.
    to: Any = None
    #: A BSUID: how WhatsApp names a user who hides the number.
    recipient: Annotated[str, Field(pattern=r"^[A-Z]{2}\.[A-Za-z0-9]{1,128}$")] | None = None
    context: Context | None = None
    biz_opaque_callback_data: Annotated[str, Field(max_length=512)] | None = None
    # Meta, Identity change check and Marketing Messages API.
    recipient_identity_key_hash: Text | None = None
    product_policy: Literal["CLOUD_API_FALLBACK", "STRICT"] | None = None
    message_activity_sharing: bool | None = None
    # Meta, Direct Send (beta), 2026-07-31; through Gupshup's V3 endpoint too: a text or interactive message outside
    # the window, for which WhatsApp makes the template. A category goes to no other app, and is refused there.
    category: Annotated[str, Field(pattern="^(?i:utility|authentication)$")] | None = None
    ttl_seconds: Annotated[int, Field(ge=30, le=43200)] | None = None
    direct_send_config: JSONObject | None = None

    @model_validator(mode="after")
    def _direct_send_is_one(self) -> "Envelope":
        for name in ("ttl_seconds", "direct_send_config"):
            if getattr(self, name) is not None and self.category is None:
                raise broken("needs a category: it belongs to Direct Send", name)
        if self.category and self.category.lower() == "authentication" and (self.ttl_seconds or 0) > 900:
            raise broken("is above 900", "ttl_seconds", self.ttl_seconds, "at most 900 for authentication")
        return self


def split(document: Any) -> tuple[JSONObject, JSONObject]:
    """The envelope keys of a message file, and the message itself, both in the file's order; `is_raw` apart.

    Raises:
      InputError: the document is no JSON object.
    """
    if not isinstance(document, dict):
        raise InputError('A message is an object, such as {"type": "text", "text": {"body": "Olá"}}.')
    envelope = {key: value for key, value in document.items() if key in ENVELOPE}
    left_out = (*ENVELOPE, RAW)
    return envelope, {key: value for key, value in document.items() if key not in left_out}


def is_raw(document: Any) -> bool:
    """Whether a message file says ``raw: true`` beside its ``type``: send it unchecked. The key is never sent.

    Raises:
      InputError: ``raw`` is something else than true or false.
    """
    raw = document.get(RAW, False) if isinstance(document, Mapping) else False
    if not isinstance(raw, bool):
        raise InputError("raw: is true (send the message without checking it) or false")
    return raw


def wire(to: str, message: JSONObject, envelope: Mapping[str, Any]) -> JSONObject:
    """The JSON value for the request: envelope, recipient, then the message as it is.

    What the file's envelope says stays; what the endpoint requires of it is added. Line breaks and outer
    blanks, which come into PIX codes by copying, are taken out, since banks refuse such a code.

    Args:
      to: Digits with country code, or "" when the envelope names its ``recipient`` (a BSUID).
      message: As `split` or ``rendering.Content.render`` gives it; not changed.
      envelope: As `split` gives it; its ``to`` is replaced.
    """
    value: JSONObject = {"messaging_product": "whatsapp", "recipient_type": "individual"}
    if to:
        value["to"] = to
    value.update((key, item) for key, item in envelope.items() if key != "to")
    if "type" in message:
        value["type"] = message["type"]
    value.update(message)
    cleaned: JSONObject = _cleaned(value, "")
    return cleaned


_PIX_CODE = re.compile(
    r"(?:interactive\.action\.parameters\.payment_settings\[\d+\]"
    r"|template\.components\[\d+\](?:\.cards\[\d+\]\.components\[\d+\])?\.parameters\[\d+\]\.action"
    r"\.(?:order_details\.payment_settings\[\d+\]|payment_request\.payment_setting))"
    r"\.pix_dynamic_code\.code"
)


def is_pix_code(path: str) -> bool:
    """Whether a PIX code stands at a JSON path of a message."""
    # The end first: nearly every path has another, and each value of a campaign's message is asked for.
    return path.endswith(".code") and _PIX_CODE.fullmatch(path) is not None


def _cleaned(value: Any, path: str) -> Any:
    """The value with its PIX codes cleaned; the very same object when there is nothing to clean."""
    if isinstance(value, str):
        return br_code.clean(value) if is_pix_code(path) else value
    if isinstance(value, dict):
        for key, item in value.items():
            if (better := _cleaned(item, f"{path}.{key}".removeprefix("."))) is not item:
                value = {**value, key: better}
    elif isinstance(value, list):
        for place, item in enumerate(value):
            if (better := _cleaned(item, f"{path}[{place}]")) is not item:
                value = [*value[:place], better, *value[place + 1 :]]
    return value
