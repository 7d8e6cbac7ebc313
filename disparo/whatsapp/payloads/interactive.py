"""Interactive messages: buttons, lists, links, products, flows, carousels, requests and calls."""

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag, model_validator

from disparo.whatsapp.payloads.base import (
    Address,
    CardPlace,
    JSONObject,
    Model,
    Oddity,
    Text,
    Text20,
    Text60,
    Text1024,
    Title24,
    broken,
    repeated,
    tag_of,
)
from disparo.whatsapp.payloads.content import Document, Media
from disparo.whatsapp.payloads.orders import OrderDetails, OrderStatus


class Header(Model):
    type: Literal["text", "image", "video", "document"]
    text: Text60 | None = None
    image: Media | None = None
    video: Media | None = None
    document: Document | None = None

    def oddities(self) -> Iterator[Oddity]:
        # Gupshup's page on interactive messages shows a header of a type and nothing else: let through.
        if getattr(self, self.type) is None:
            yield self.type, f"is missing; a header of type {self.type} shows nothing without it", None
        for name in ("text", "image", "video", "document"):
            if name != self.type and getattr(self, name) is not None:
                yield name, f"is not shown by a header of type {self.type}", None


class TextHeader(Header):
    type: Literal["text"]


class ProductListHeader(TextHeader):
    text: Text60


class ImageHeader(Header):
    type: Literal["image"]


class Body(Model):
    text: Text1024


class LongBody(Model):
    text: Annotated[str, Field(min_length=1, max_length=4096)]

    def oddities(self) -> Iterator[Oddity]:
        if len(self.text) > 1024:
            yield "text", "has more than 1024 characters; older clients may cut it", None


class Footer(Model):
    text: Text60


class Interactive(Model):
    """What all interactive messages have."""

    #: Parts that this type cannot have.
    shows_no: ClassVar[tuple[str, ...]] = ()

    type: str
    header: Header | None = None
    body: Body
    footer: Footer | None = None
    action: Model

    @model_validator(mode="before")
    @classmethod
    def _only_what_it_shows(cls, value: Any) -> Any:
        """A type that shows no header or footer says so in words; an unknown key would not."""
        if isinstance(value, dict):
            for name in cls.shows_no:
                if value.get(name) is not None:
                    raise broken(f"is not shown by a message of type {value.get('type')}; leave it out", name)
        return value


# --- buttons and lists


_MARKDOWN = re.compile(r"(?<!\w)([*_~])(?=\S).*(?<=\S)\1(?!\w)|```")


class Reply(Model):
    id: Annotated[str, Field(min_length=1, max_length=256)]
    title: Text20

    @model_validator(mode="after")
    def _id_as_it_comes_back(self) -> "Reply":
        if self.id != self.id.strip():
            raise broken("begins or ends with a blank", "id", self.id)
        return self

    def oddities(self) -> Iterator[Oddity]:
        if _MARKDOWN.search(self.title):
            yield "title", "holds markdown, which is shown as it is written", self.title


class ReplyButton(Model):
    type: Literal["reply"]
    reply: Reply


class ButtonAction(Model):
    buttons: Annotated[list[ReplyButton], Field(min_length=1, max_length=3)]

    @model_validator(mode="after")
    def _buttons_differ(self) -> "ButtonAction":
        for name in ("id", "title"):
            for place, value in repeated([getattr(button.reply, name) for button in self.buttons]):
                raise broken(f"repeats the {name} of another button", f"buttons[{place}].reply.{name}", value)
        return self


class ButtonMessage(Interactive):
    action: ButtonAction


class Row(Model):
    id: Annotated[str, Field(min_length=1, max_length=200)]
    title: Annotated[str, Field(min_length=1, max_length=24)]
    description: Annotated[str, Field(max_length=72)] | None = None


class RowSection(Model):
    title: Title24 | None = None
    rows: Annotated[list[Row], Field(min_length=1)]


class Product(Model):
    product_retailer_id: Text


class ProductSection(Model):
    title: Title24 | None = None
    product_items: Annotated[list[Product], Field(min_length=1)]


Sections: TypeAlias = Sequence[RowSection | ProductSection]


def check_sections(sections: Sections, entries: int, most: int, what: str) -> None:
    """Entries are counted over all sections, and several sections need titles."""
    if entries > most:
        raise broken(
            f"have {entries} {what} together; {most} are allowed", "sections", entries, limit=str(most)
        )
    if len(sections) > 1:
        for place, section in enumerate(sections):
            if not section.title:
                raise broken("is required when there is more than one section", f"sections[{place}].title")


class ListAction(Model):
    button: Text20
    sections: Annotated[list[RowSection], Field(min_length=1, max_length=10)]

    @model_validator(mode="after")
    def _sections_fit(self) -> "ListAction":
        check_sections(self.sections, sum(len(section.rows) for section in self.sections), 10, "rows")
        return self

    def oddities(self) -> Iterator[Oddity]:
        places = [
            (number, place)
            for number, section in enumerate(self.sections)
            for place in range(len(section.rows))
        ]
        ids = [self.sections[number].rows[place].id for number, place in places]
        for entry, identity in repeated(ids):
            number, place = places[entry]
            yield f"sections[{number}].rows[{place}].id", "repeats the id of another row", identity


class ListMessage(Interactive):
    header: TextHeader | None = None
    body: LongBody  # type: ignore[assignment]  # its own limit
    action: ListAction


# --- links, products, flows


class LinkParameters(Model):
    display_text: Text20
    url: Address


class LinkAction(Model):
    name: Literal["cta_url"]
    parameters: LinkParameters


class LinkMessage(Interactive):
    action: LinkAction


class ProductAction(Model):
    catalog_id: Text
    product_retailer_id: Text
    #: In other senders' messages; WhatsApp passes it over.
    name: str | None = None


class ProductMessage(Interactive):
    shows_no: ClassVar[tuple[str, ...]] = ("header",)
    body: Body | None = None  # type: ignore[assignment]  # the product speaks for itself
    action: ProductAction


class ProductListAction(Model):
    catalog_id: Text
    sections: Annotated[list[ProductSection], Field(min_length=1, max_length=10)]
    #: In other senders' messages; WhatsApp passes it over.
    name: str | None = None

    @model_validator(mode="after")
    def _sections_fit(self) -> "ProductListAction":
        products = sum(len(section.product_items) for section in self.sections)
        check_sections(self.sections, products, 30, "products")
        return self


class ProductListMessage(Interactive):
    header: ProductListHeader
    action: ProductListAction


class Thumbnail(Model):
    thumbnail_product_retailer_id: Text | None = None


class CatalogAction(Model):
    name: Literal["catalog_message"]
    parameters: Thumbnail | None = None


class CatalogMessage(Interactive):
    action: CatalogAction


class FlowPayload(Model):
    screen: Text | None = None
    data: Annotated[JSONObject, Field(min_length=1)] | None = None


class FlowParameters(Model):
    flow_message_version: Literal["3"]
    flow_id: Text | None = None
    flow_name: Text | None = None
    flow_cta: Text
    mode: Literal["draft", "published"] | None = None
    flow_token: str | None = None
    flow_action: Literal["navigate", "data_exchange"] | None = None
    flow_action_payload: FlowPayload | None = None

    @model_validator(mode="after")
    def _one_flow(self) -> "FlowParameters":
        if (self.flow_id is None) == (self.flow_name is None):
            raise broken("needs exactly one of flow_id and flow_name")
        return self

    def oddities(self) -> Iterator[Oddity]:
        if len(self.flow_cta) > 30:
            yield "flow_cta", "has more than 30 characters, which Meta advises against", self.flow_cta
        # Symbols and pictures begin there; letters of all living scripts are below.
        if any(char >= "\u2600" and not char.isalpha() for char in self.flow_cta):
            yield "flow_cta", "holds an emoji, which Meta advises against", self.flow_cta


class FlowAction(Model):
    name: Literal["flow"]
    parameters: FlowParameters


class FlowMessage(Interactive):
    action: FlowAction


# --- carousels


class CardHeader(Header):
    type: Literal["image", "video"]

    @model_validator(mode="after")
    def _shows_something(self) -> "CardHeader":
        if getattr(self, self.type) is None:
            raise broken("is required", self.type)
        return self


class CardBody(Model):
    text: Annotated[str, Field(min_length=1, max_length=160)]

    @model_validator(mode="after")
    def _few_lines(self) -> "CardBody":
        if self.text.count("\n") > 2:
            raise broken(f"has {self.text.count(chr(10))} line breaks; 2 are allowed", "text", None, "2")
        return self


class QuickReply(Model):
    id: Annotated[str, Field(min_length=1, max_length=256)]
    title: Text20

    def oddities(self) -> Iterator[Oddity]:
        # Meta's page says so, and its own sample has 21.
        if len(self.id) > 20:
            yield "id", "has more than 20 characters, which Meta's page allows", self.id


class CardButton(Model):
    type: Literal["quick_reply"]
    quick_reply: QuickReply


class CardAction(Model):
    """One link, or quick replies."""

    name: Literal["cta_url"] | None = None
    parameters: LinkParameters | None = None
    buttons: Annotated[list[CardButton], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> "CardAction":
        if (self.parameters is None) == (self.buttons is None):
            raise broken("needs either parameters (of one link) or buttons (of quick replies)")
        if self.parameters is not None and self.name is None:
            raise broken("is required: cta_url", "name")
        for name in ("id", "title"):
            buttons = [getattr(button.quick_reply, name) for button in self.buttons or []]
            for place, value in repeated(buttons):
                path = f"buttons[{place}].quick_reply.{name}"
                raise broken(f"repeats the {name} of another button", path, value)
        return self

    @property
    def kind(self) -> str:
        return "a link" if self.buttons is None else f"{len(self.buttons)} quick replies"


class MediaCard(Model):
    card_index: CardPlace
    type: Literal["cta_url"]
    header: CardHeader
    body: CardBody | None = None
    action: CardAction

    @property
    def kind(self) -> str:
        return self.action.kind


class ProductCard(Model):
    card_index: CardPlace
    type: Literal["product"]
    action: ProductAction

    @property
    def kind(self) -> str:
        return f"a product of catalog {self.action.catalog_id}"


class CarouselAction(Model):
    cards: Annotated[
        list[
            Annotated[
                Annotated[MediaCard, Tag("=cta_url")] | Annotated[ProductCard, Tag("=product")],
                Discriminator(tag_of),
            ]
        ],
        Field(min_length=2, max_length=10),
    ]

    @model_validator(mode="after")
    def _cards_are_alike(self) -> "CarouselAction":
        for place, value in repeated([card.card_index for card in self.cards]):
            raise broken("repeats the place of another card", f"cards[{place}].card_index", value)
        first = self.cards[0].kind
        for place, card in enumerate(self.cards):
            if card.kind != first:
                path = f"cards[{place}].action"
                raise broken(f"has {card.kind}, the first card has {first}; all must be alike", path)
        return self


class CarouselMessage(Interactive):
    shows_no: ClassVar[tuple[str, ...]] = ("header", "footer")
    action: CarouselAction


# --- requests and calls


class LocationRequestAction(Model):
    name: Literal["send_location"]


class LocationRequestMessage(Interactive):
    shows_no: ClassVar[tuple[str, ...]] = ("header", "footer")
    action: LocationRequestAction


class AddressParameters(Model):
    """Which country's form is shown, and what already stands in it (India and Singapore)."""

    country: Text | None = None
    values: JSONObject | None = None
    saved_addresses: list[JSONObject] | None = None
    validation_errors: JSONObject | None = None


class AddressAction(Model):
    name: Literal["address_message"]
    parameters: AddressParameters | None = None


class AddressMessage(Interactive):
    action: AddressAction


class CallPermissionAction(Model):
    name: Literal["call_permission_request"]
    parameters: JSONObject | None = None


class CallPermissionMessage(Interactive):
    body: Body | None = None  # type: ignore[assignment]  # a request needs no words
    action: CallPermissionAction


class CallParameters(Model):
    display_text: Text20 | None = None
    ttl_minutes: Annotated[int, Field(ge=1, le=43200)] | None = None
    payload: Annotated[str, Field(max_length=512)] | None = None


class CallAction(Model):
    name: Literal["voice_call"]
    parameters: CallParameters | None = None


class CallMessage(Interactive):
    action: CallAction


class ContactRequestAction(Model):
    name: Literal["request_contact_info"]
    parameters: JSONObject | None = None


class ContactRequestMessage(Interactive):
    action: ContactRequestAction


# --- orders


class OrderDetailsAction(Model):
    name: Literal["review_and_pay"]
    parameters: OrderDetails


class OrderDetailsMessage(Interactive):
    header: ImageHeader | None = None
    action: OrderDetailsAction


class OrderStatusAction(Model):
    name: Literal["review_order"]
    parameters: OrderStatus


class OrderStatusMessage(Interactive):
    shows_no: ClassVar[tuple[str, ...]] = ("header",)
    action: OrderStatusAction


AnyInteractive: TypeAlias = Annotated[
    Annotated[ButtonMessage, Tag("=button")]
    | Annotated[ListMessage, Tag("=list")]
    | Annotated[LinkMessage, Tag("=cta_url")]
    | Annotated[ProductMessage, Tag("=product")]
    | Annotated[ProductListMessage, Tag("=product_list")]
    | Annotated[CatalogMessage, Tag("=catalog_message")]
    | Annotated[FlowMessage, Tag("=flow")]
    | Annotated[LocationRequestMessage, Tag("=location_request_message")]
    | Annotated[CarouselMessage, Tag("=carousel")]
    | Annotated[AddressMessage, Tag("=address_message")]
    | Annotated[CallPermissionMessage, Tag("=call_permission_request")]
    | Annotated[CallMessage, Tag("=voice_call")]
    | Annotated[ContactRequestMessage, Tag("=request_contact_info")]
    | Annotated[OrderDetailsMessage, Tag("=order_details")]
    | Annotated[OrderStatusMessage, Tag("=order_status")],
    Discriminator(tag_of),
]
