"""Template messages: the values for an approved template, its buttons and cards."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Self, TypeAlias

from disparo.errors import InputError
from disparo.whatsapp.compositions.base import Message, given
from disparo.whatsapp.compositions.content import Document, Image, Location, Video
from disparo.whatsapp.compositions.interactive import product_sections
from disparo.whatsapp.compositions.orders import Order
from disparo.whatsapp.payloads.base import JSONObject

Values: TypeAlias = Sequence[str | JSONObject] | Mapping[str, str]
"""In the order of the template's {{1}}, {{2}} …, or by the names of its variables. A JSON object stands for a
parameter of a rarer type, such as ``currency``."""


@dataclass(frozen=True, slots=True)
class CatalogItem:
    """A product as a template's header, by its id in the catalog."""

    catalog_id: str
    product: str


Header: TypeAlias = str | Image | Video | Document | Location | CatalogItem
"""Above the body: the value of the header's variable (up to 60 characters), or what its kind wants."""


class TemplateButton(ABC):
    """A button that takes a value; its place among the template's buttons is its place in ``buttons``."""

    _sub_type: ClassVar[str]

    @abstractmethod
    def parameters(self) -> list[JSONObject]:
        """As in the provider's pages."""

    def component(self, place: int) -> JSONObject:
        return {
            "type": "button",
            "sub_type": self._sub_type,
            "index": place,
            "parameters": self.parameters(),
        }


@dataclass(frozen=True, slots=True)
class QuickReply(TemplateButton):
    """A quick reply.

    Args:
      payload: Comes back in the reply; up to 256 characters, 128 in older pages.
    """

    _sub_type: ClassVar[str] = "quick_reply"

    payload: str

    def parameters(self) -> list[JSONObject]:
        return [{"type": "payload", "payload": self.payload}]


@dataclass(frozen=True, slots=True)
class URLEnding(TemplateButton):
    """What the address of a link ends with.

    Args:
      text: The value of the variable at the end of the address; whole addresses have up to 2000 characters.
    """

    _sub_type: ClassVar[str] = "url"

    text: str

    def parameters(self) -> list[JSONObject]:
        return [{"type": "text", "text": self.text}]


@dataclass(frozen=True, slots=True)
class CouponCode(TemplateButton):
    """A code to copy.

    Args:
      code: 1 to 15 letters and digits.
    """

    _sub_type: ClassVar[str] = "copy_code"

    code: str

    def parameters(self) -> list[JSONObject]:
        return [{"type": "coupon_code", "coupon_code": self.code}]


@dataclass(frozen=True, slots=True)
class CatalogButton(TemplateButton):
    """Opens the catalog.

    Args:
      thumbnail: The product whose picture is shown.
    """

    _sub_type: ClassVar[str] = "catalog"

    thumbnail: str

    def parameters(self) -> list[JSONObject]:
        return [{"type": "action", "action": {"thumbnail_product_retailer_id": self.thumbnail}}]


@dataclass(frozen=True, slots=True)
class MPMButton(TemplateButton):
    """Shows up to 30 products in up to 10 sections.

    Args:
      thumbnail: The product whose picture is shown.
      sections: Title (up to 24 characters) → ids in the catalog; one section alone may have the title "".

    Source: Gupshup, V3 passthrough, MPM Template.
    """

    _sub_type: ClassVar[str] = "mpm"

    thumbnail: str
    sections: Mapping[str, Sequence[str]]

    def parameters(self) -> list[JSONObject]:
        action = {
            "thumbnail_product_retailer_id": self.thumbnail,
            "sections": product_sections(self.sections),
        }
        return [{"type": "action", "action": action}]


@dataclass(frozen=True, slots=True)
class FlowButton(TemplateButton):
    """Opens a flow.

    Args:
      token: Comes back with the answers.
      data: For the first screen.
    """

    _sub_type: ClassVar[str] = "flow"

    token: str | None = None
    data: JSONObject | None = None

    def parameters(self) -> list[JSONObject]:
        return [{"type": "action", "action": given(flow_token=self.token, flow_action_data=self.data)}]


@dataclass(frozen=True, slots=True)
class OrderButton(TemplateButton):
    """Asks for a payment; the only button of its template.

    Source: Gupshup, V3 passthrough, PIX Template Message.
    """

    _sub_type: ClassVar[str] = "order_details"

    order: Order

    def parameters(self) -> list[JSONObject]:
        return [{"type": "action", "action": {"order_details": self.order.order_details()}}]


@dataclass(frozen=True, slots=True)
class TemplateCard:
    """A card of a carousel template.

    Args:
      body: Up to 160 characters in all.
      buttons: Up to 2.
    """

    header: Image | Video | CatalogItem
    body: Values = ()
    buttons: Sequence[TemplateButton | None] = ()

    def components(self) -> list[JSONObject]:
        return _components(self.header, self.body, self.buttons)


@dataclass(frozen=True, slots=True)
class Template(Message):
    """An approved template with its values; the only message outside the 24-hour window.

    Values of text hold no line break, no tab and no five blanks in a row: WhatsApp refuses them.

    Args:
      name: Lower-case letters, digits and ``_``, up to 512.
      language: As approved, ``pt_BR``.
      header: What its kind of header wants.
      body: Up to 1024 characters with the template's own words.
      buttons: In the template's order; None for a button that takes no value.
      cards: 2 to 10, as many as were approved.
      offer_ends_at: Aware; of a limited-time offer.

    Source: Meta, WhatsApp Business Platform, Template messages.
    """

    name: str
    language: str
    header: Header | None = None
    body: Values = ()
    buttons: Sequence[TemplateButton | None] = ()
    cards: Sequence[TemplateCard] = ()
    offer_ends_at: datetime | None = None

    @classmethod
    def authentication(cls, name: str, language: str, code: str) -> Self:
        """A one-time code, which stands in the body and in the button.

        Args:
          code: 1 to 15 characters.

        Source: Meta, WhatsApp Business Platform, Authentication templates.
        """
        if not 0 < len(code) <= 15:
            raise InputError(
                f"Template: a one-time code has {len(code)} characters; 1 to 15 are allowed "
                "(source: Meta, WhatsApp Business Platform, Authentication templates)"
            )
        return cls(name, language, body=[code], buttons=[URLEnding(code)])

    def message(self) -> JSONObject:
        components = _components(self.header, self.body, ())
        if self.offer_ends_at is not None:
            offer = {"expiration_time_ms": int(self.offer_ends_at.timestamp() * 1000)}
            parameter = {"type": "limited_time_offer", "limited_time_offer": offer}
            components.append({"type": "limited_time_offer", "parameters": [parameter]})
        components += _buttons(self.buttons)
        if self.cards:
            cards = [
                {"card_index": place, "components": card.components()}
                for place, card in enumerate(self.cards)
            ]
            components.append({"type": "carousel", "cards": cards})
        return {
            "type": "template",
            "template": given(
                name=self.name, language={"code": self.language}, components=components or None
            ),
        }


def _components(
    header: Header | None, body: Values, buttons: Sequence[TemplateButton | None]
) -> list[JSONObject]:
    components = []
    if header is not None:
        components.append({"type": "header", "parameters": [_header(header)]})
    if body:
        components.append({"type": "body", "parameters": _values(body)})
    return components + _buttons(buttons)


def _buttons(buttons: Sequence[TemplateButton | None]) -> list[JSONObject]:
    return [button.component(place) for place, button in enumerate(buttons) if button is not None]


def _header(header: Header) -> JSONObject:
    if isinstance(header, str):
        return {"type": "text", "text": header}
    if isinstance(header, CatalogItem):
        product = {"product_retailer_id": header.product, "catalog_id": header.catalog_id}
        return {"type": "product", "product": product}
    if isinstance(header, Location):
        return {"type": "location", "location": header.content()}
    return {"type": header.kind, header.kind: header.content()}


def _values(body: Values) -> list[JSONObject]:
    if isinstance(body, Mapping):
        return [{"type": "text", "parameter_name": name, "text": text} for name, text in body.items()]
    return [{"type": "text", "text": value} if isinstance(value, str) else value for value in body]
