"""Interactive messages: buttons, lists, links, products, flows, carousels, requests and calls."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from disparo.whatsapp.compositions.base import Message, Words, given
from disparo.whatsapp.compositions.content import Document, File, Image, Video
from disparo.whatsapp.payloads.base import JSONObject

Header: TypeAlias = str | Image | Video | Document
"""Above the body: a text of up to 60 characters, or a file."""


def interactive(
    kind: str,
    action: JSONObject,
    body: str | None = None,
    header: Header | None = None,
    footer: str | None = None,
) -> JSONObject:
    """The frame that all interactive messages share."""
    return {
        "type": "interactive",
        "interactive": given(
            type=kind,
            header=None if header is None else _header(header),
            body=None if body is None else {"text": body},
            footer=None if footer is None else {"text": footer},
            action=action,
        ),
    }


def _header(header: str | File) -> JSONObject:
    if isinstance(header, str):
        return {"type": "text", "text": header}
    return {"type": header.kind, header.kind: header.content()}


@dataclass(frozen=True, slots=True)
class Buttons(Message):
    """1 to 3 reply buttons.

    Args:
      body: 1 to 1024 characters.
      buttons: Id (up to 256 characters, comes back in the reply) → label (up to 20); all different.
      footer: Up to 60 characters.

    Source: Meta, WhatsApp Business Platform, Interactive reply buttons messages.
    """

    body: str
    buttons: Words
    header: Header | None = None
    footer: str | None = None

    def message(self) -> JSONObject:
        replies = [
            {"type": "reply", "reply": {"id": name, "title": label}} for name, label in self.buttons.items()
        ]
        return interactive("button", {"buttons": replies}, self.body, self.header, self.footer)


@dataclass(frozen=True, slots=True)
class Row:
    """An entry of a `ListMessage`.

    Args:
      id: 1 to 200 characters; comes back in the reply.
      title: 1 to 24 characters.
      description: Up to 72 characters.
    """

    id: str
    title: str
    description: str | None = None


@dataclass(frozen=True, slots=True)
class ListMessage(Message):
    """A list to choose one entry from: up to 10 sections with 10 rows in all.

    Args:
      body: 1 to 4096 characters; older clients may cut it at 1024.
      button: The label that opens the list, up to 20 characters.
      sections: Title (up to 24 characters) → rows; one section alone may have the title "".
      header: A text of up to 60 characters.
      footer: Up to 60 characters.

    Source: Meta, WhatsApp Business Platform, Interactive list messages.
    """

    body: str
    button: str
    sections: Mapping[str, Sequence[Row]]
    header: str | None = None
    footer: str | None = None

    def message(self) -> JSONObject:
        sections = [
            given(
                title=title or None,
                rows=[given(id=row.id, title=row.title, description=row.description) for row in rows],
            )
            for title, rows in self.sections.items()
        ]
        action = {"button": self.button, "sections": sections}
        return interactive("list", action, self.body, self.header, self.footer)


@dataclass(frozen=True, slots=True)
class Link(Message):
    """One button that opens an address.

    Args:
      body: 1 to 1024 characters.
      label: Of the button, up to 20 characters.
      footer: Up to 60 characters.

    Source: Meta, WhatsApp Business Platform, Interactive Call-to-Action URL button messages.
    """

    body: str
    label: str
    url: str
    header: Header | None = None
    footer: str | None = None

    def message(self) -> JSONObject:
        return interactive("cta_url", _link(self.label, self.url), self.body, self.header, self.footer)


def _link(label: str, url: str) -> JSONObject:
    return {"name": "cta_url", "parameters": {"display_text": label, "url": url}}


@dataclass(frozen=True, slots=True)
class Product(Message):
    """One product of the catalog.

    Args:
      product: Its id in the catalog (``product_retailer_id``).
      body: Up to 1024 characters.
      footer: Up to 60 characters.

    Source: Meta, WhatsApp Business Platform, Single-product messages.
    """

    catalog_id: str
    product: str
    body: str | None = None
    footer: str | None = None

    def message(self) -> JSONObject:
        action = {"catalog_id": self.catalog_id, "product_retailer_id": self.product}
        return interactive("product", action, self.body, footer=self.footer)


@dataclass(frozen=True, slots=True)
class ProductList(Message):
    """Up to 30 products in up to 10 sections.

    Args:
      header: 1 to 60 characters.
      body: 1 to 1024 characters.
      sections: Title (up to 24 characters) → ids in the catalog; one section alone may have the title "".
      footer: Up to 60 characters.

    Source: Meta, WhatsApp Business Platform, Multi-product messages.
    """

    header: str
    body: str
    catalog_id: str
    sections: Mapping[str, Sequence[str]]
    footer: str | None = None

    def message(self) -> JSONObject:
        action = {"catalog_id": self.catalog_id, "sections": product_sections(self.sections)}
        return interactive("product_list", action, self.body, self.header, self.footer)


def product_sections(sections: Mapping[str, Sequence[str]]) -> list[JSONObject]:
    """Sections of products as in the provider's pages."""
    return [
        given(title=title or None, product_items=[{"product_retailer_id": product} for product in products])
        for title, products in sections.items()
    ]


@dataclass(frozen=True, slots=True)
class Catalog(Message):
    """The whole catalog behind one button.

    Args:
      body: 1 to 1024 characters.
      thumbnail: The product whose picture is shown; else the first.
      footer: Up to 60 characters.

    Source: Meta, WhatsApp Business Platform, Catalog messages.
    """

    body: str
    thumbnail: str | None = None
    footer: str | None = None

    def message(self) -> JSONObject:
        parameters = self.thumbnail and {"thumbnail_product_retailer_id": self.thumbnail}
        action = given(name="catalog_message", parameters=parameters)
        return interactive("catalog_message", action, self.body, footer=self.footer)


@dataclass(frozen=True, slots=True)
class Flow(Message):
    """A flow (form), by its id or its name; exactly one of both.

    Args:
      body: 1 to 1024 characters.
      cta: The label of the button; Meta advises up to 30 characters and no emoji.
      token: Comes back with the answers.
      screen: The first screen, with ``data`` (not empty) for it.
      draft: Sends the flow as it is drafted.
      footer: Up to 60 characters.

    Source: Meta, WhatsApp Business Platform, Interactive Flow messages.
    """

    body: str
    cta: str
    flow_id: str | None = None
    flow_name: str | None = None
    token: str | None = None
    action: Literal["navigate", "data_exchange"] | None = None
    screen: str | None = None
    data: JSONObject | None = None
    draft: bool = False
    header: Header | None = None
    footer: str | None = None

    def message(self) -> JSONObject:
        parameters = given(
            flow_message_version="3",
            flow_id=self.flow_id,
            flow_name=self.flow_name,
            flow_cta=self.cta,
            mode="draft" if self.draft else None,
            flow_token=self.token,
            flow_action=self.action,
            flow_action_payload=given(screen=self.screen, data=self.data) or None,
        )
        action = {"name": "flow", "parameters": parameters}
        return interactive("flow", action, self.body, self.header, self.footer)


@dataclass(frozen=True, slots=True)
class LocationRequest(Message):
    """A button to share a place.

    Args:
      body: 1 to 1024 characters.

    Source: Meta, WhatsApp Business Platform, Location request messages.
    """

    body: str

    def message(self) -> JSONObject:
        return interactive("location_request_message", {"name": "send_location"}, self.body)


class Card(ABC):
    """One of the cards of a `Carousel`."""

    @abstractmethod
    def card(self, place: int) -> JSONObject:
        """The object as in the provider's pages."""


@dataclass(frozen=True, slots=True)
class LinkCard(Card):
    """A card with a picture or video and a link.

    Args:
      label: Of the link, up to 20 characters.
      body: Up to 160 characters with up to 2 line breaks.
    """

    header: Image | Video
    label: str
    url: str
    body: str | None = None

    def card(self, place: int) -> JSONObject:
        return _media_card(place, self.header, self.body, _link(self.label, self.url))


@dataclass(frozen=True, slots=True)
class ReplyCard(Card):
    """A card with a picture or video and quick replies.

    Args:
      replies: Id → label, each up to 20 characters.
      body: Up to 160 characters with up to 2 line breaks.
    """

    header: Image | Video
    replies: Words
    body: str | None = None

    def card(self, place: int) -> JSONObject:
        buttons = [
            {"type": "quick_reply", "quick_reply": {"id": name, "title": label}}
            for name, label in self.replies.items()
        ]
        return _media_card(place, self.header, self.body, {"buttons": buttons})


@dataclass(frozen=True, slots=True)
class ProductCard(Card):
    """A card with a product; all cards are of one catalog."""

    catalog_id: str
    product: str

    def card(self, place: int) -> JSONObject:
        action = {"product_retailer_id": self.product, "catalog_id": self.catalog_id}
        return {"card_index": place, "type": "product", "action": action}


def _media_card(place: int, header: File, body: str | None, action: JSONObject) -> JSONObject:
    return given(
        card_index=place,
        type="cta_url",
        header=_header(header),
        body=None if body is None else {"text": body},
        action=action,
    )


@dataclass(frozen=True, slots=True)
class Carousel(Message):
    """2 to 10 cards side by side, all with the same kind and number of buttons.

    Args:
      body: 1 to 1024 characters, above the cards.

    Source: Meta, WhatsApp Business Platform, Interactive carousel messages.
    """

    body: str
    cards: Sequence[Card]

    def message(self) -> JSONObject:
        cards = [card.card(place) for place, card in enumerate(self.cards)]
        return interactive("carousel", {"cards": cards}, self.body)


@dataclass(frozen=True, slots=True)
class CallButton(Message):
    """A button that calls the business on WhatsApp.

    Args:
      body: 1 to 1024 characters.
      label: Up to 20 characters.
      ttl_minutes: How long the button works, 1 to 43200.
      payload: Comes back with the call, up to 512 characters.

    Source: Meta, WhatsApp Business Platform, Call button messages.
    """

    body: str
    label: str | None = None
    ttl_minutes: int | None = None
    payload: str | None = None

    def message(self) -> JSONObject:
        parameters = given(display_text=self.label, ttl_minutes=self.ttl_minutes, payload=self.payload)
        return interactive("voice_call", given(name="voice_call", parameters=parameters or None), self.body)


@dataclass(frozen=True, slots=True)
class CallPermissionRequest(Message):
    """Asks whether the business may call.

    Args:
      body: 1 to 1024 characters.

    Source: Meta, WhatsApp Business Platform, User call permissions.
    """

    body: str

    def message(self) -> JSONObject:
        return interactive("call_permission_request", {"name": "call_permission_request"}, self.body)


@dataclass(frozen=True, slots=True)
class ContactRequest(Message):
    """Asks for the recipient's contact details, such as a number that WhatsApp hides.

    Args:
      body: 1 to 1024 characters.

    Source: Meta, WhatsApp Business Platform, Interactive messages.
    """

    body: str

    def message(self) -> JSONObject:
        return interactive("request_contact_info", {"name": "request_contact_info"}, self.body)


@dataclass(frozen=True, slots=True)
class AddressRequest(Message):
    """A form for an address; documented for India and Singapore only.

    Args:
      body: 1 to 1024 characters.
      country: ``IN`` or ``SG``.
      values: What already stands in the form.

    Source: Meta, WhatsApp Business Platform, Address messages.
    """

    body: str
    country: str
    values: Words | None = None

    def message(self) -> JSONObject:
        parameters = given(country=self.country, values=self.values and dict(self.values))
        action = {"name": "address_message", "parameters": parameters}
        return interactive("address_message", action, self.body)
