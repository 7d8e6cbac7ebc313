"""WhatsApp messages in the provider's JSON: envelope, rules and names of every documented type; pure.

One model per object of the provider's documentation. ``check`` reports what breaks a rule, ``warnings`` what
is odd but may be sent; a message is never changed by either. Keys that a model does not know are kept and
warned of, since the provider adds keys before its documentation is read again.

Sources, as known on 2026-11-21: Gupshup's partner documentation (Text Message, Interactive Messages, PIX
Session Message, PIX Template Message, MPM Template; V3 passthrough) and Meta's WhatsApp Business Platform
documentation in its texts of 2025-11 to 2026-06 (Messages, Interactive, Templates, Payments in Brazil).
Lengths are Unicode code points; Meta does not name its unit.
"""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from disparo.errors import Fault, InputError
from disparo.whatsapp import br_code

ENVELOPE = ("messaging_product", "recipient_type", "to", "recipient", "context", "biz_opaque_callback_data")

_GUPSHUP = "Gupshup, V3 passthrough"
_META = "Meta, WhatsApp Business Platform"

JSONObject: TypeAlias = dict[str, Any]


def _broken(
    sentence: str, at: str = "", value: object = None, limit: str | None = None
) -> PydanticCustomError:
    """A broken rule of several fields; ``at`` is where it shows, from the model that looks."""
    return PydanticCustomError(
        "rule", "{sentence}", {"sentence": sentence, "at": at, "value": value, "limit": limit}
    )


def _blank(text: str) -> str:
    if not text.strip():
        raise _broken("is blank", limit="at least one character")
    return text


def _index(value: object) -> object:
    """A button's place: an integer in Gupshup's pages, a text of digits in Meta's."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | str)
        or not re.fullmatch("[0-9]{1,2}", str(value))
    ):
        raise _broken("is the place of the button, counted from 0", value=value)
    return value


def _degrees(value: object) -> object:
    try:
        if isinstance(value, bool) or not -180 <= float(value) <= 180:  # type: ignore[arg-type]
            raise _broken("is a number of degrees, -180 to 180", value=value)
    except (TypeError, ValueError):
        raise _broken("is a number of degrees", value=value) from None
    return value


Text: TypeAlias = Annotated[str, Field(min_length=1)]
Text20: TypeAlias = Annotated[str, Field(min_length=1, max_length=20)]
Text24: TypeAlias = Annotated[str, Field(max_length=24)]
Text60: TypeAlias = Annotated[str, Field(min_length=1, max_length=60)]
Text1024: TypeAlias = Annotated[str, Field(min_length=1, max_length=1024)]
Note60: TypeAlias = Annotated[str, Field(max_length=60)]
Note120: TypeAlias = Annotated[str, Field(max_length=120)]
Degrees: TypeAlias = Annotated[Any, AfterValidator(_degrees)]

Oddity: TypeAlias = tuple[str, str, object]
"""What is odd, from the model that says it: path, sentence, value to show."""


class Model(BaseModel):
    """An object of a message. Types are strict: a text "1" is no number."""

    # Built on first use: most commands check no message, or one type only.
    model_config = ConfigDict(strict=True, extra="allow", defer_build=True)

    def oddities(self) -> Iterator[Oddity]:
        """What is odd about this object but does not keep it from being sent."""
        return iter(())


# --- text, media, location, contacts, reaction


class TextContent(Model):
    body: Annotated[str, Field(min_length=1, max_length=4096)]
    preview_url: bool | None = None


class Media(Model):
    """A file: uploaded before (``id``) or fetched by WhatsApp (``link``)."""

    id: Text | None = None
    link: Text | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "Media":
        if (self.id is None) == (self.link is None):
            raise _broken("needs exactly one of id and link")
        if self.link is not None and not re.match(r"https?://\S+$", self.link):
            raise _broken("is an address that begins with https:// or http://", "link", self.link)
        return self


class CaptionedMedia(Media):
    caption: Annotated[str, Field(max_length=1024)] | None = None


class Document(CaptionedMedia):
    filename: str | None = None


class Audio(Media):
    voice: bool | None = None


class Location(Model):
    latitude: Degrees
    longitude: Degrees
    name: str | None = None
    address: str | None = None


class ContactName(Model):
    formatted_name: Text


class Contact(Model):
    name: ContactName
    phones: list[JSONObject] | None = None
    emails: list[JSONObject] | None = None
    addresses: list[JSONObject] | None = None
    org: JSONObject | None = None
    urls: list[JSONObject] | None = None
    birthday: Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")] | None = None


class Reaction(Model):
    message_id: Text
    emoji: str


# --- payments: order_details and order_status


class Amount(Model):
    """Hundredths of a real: 1234 with offset 100 is R$ 12,34."""

    value: Annotated[int, Field(ge=0)]
    offset: Literal[100]


class DescribedAmount(Amount):
    description: Note60 | None = None


class Discount(DescribedAmount):
    discount_program_name: Note60 | None = None


class Item(Model):
    retailer_id: Text
    name: Text60
    amount: Amount
    quantity: Annotated[int, Field(ge=1)]
    sale_amount: Amount | None = None

    @model_validator(mode="after")
    def _sale_is_cheaper(self) -> "Item":
        if self.sale_amount and self.sale_amount.value >= self.amount.value:
            raise _broken("is not below amount", "sale_amount.value", self.sale_amount.value)
        return self

    @property
    def cents(self) -> int:
        return (self.sale_amount or self.amount).value * self.quantity


class Expiration(Model):
    timestamp: Annotated[str, Field(pattern="^[0-9]{10}$")]
    description: Annotated[str, Field(min_length=1, max_length=120)]


class Order(Model):
    status: Literal["pending"]
    items: Annotated[list[Item], Field(min_length=1)]
    subtotal: Amount
    tax: DescribedAmount
    shipping: DescribedAmount | None = None
    discount: Discount | None = None
    expiration: Expiration | None = None
    catalog_id: str | None = None

    @model_validator(mode="after")
    def _items_add_up(self) -> "Order":
        items = sum(item.cents for item in self.items)
        if self.subtotal.value != items:
            raise _broken(
                f"is not the sum of the items, {items}", "subtotal.value", self.subtotal.value, str(items)
            )
        return self

    @property
    def cents(self) -> int:
        shipping = self.shipping.value if self.shipping else 0
        discount = self.discount.value if self.discount else 0
        return self.subtotal.value + self.tax.value + shipping - discount


_KEY_SHAPES = {
    "CPF": r"[0-9]{11}",
    "CNPJ": r"[0-9A-Z]{12}[0-9]{2}",
    "EMAIL": r"[^@\s]{1,64}@[^@\s]+",
    "PHONE": r"\+[1-9][0-9]{1,14}",
    "EVP": r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
}


class PIXDynamicCode(Model):
    code: Text
    merchant_name: Text
    key: Text
    key_type: Literal["CPF", "CNPJ", "EMAIL", "PHONE", "EVP"]

    def oddities(self) -> Iterator[Oddity]:
        try:
            found = br_code.parse(self.code)
        except InputError as error:
            yield "code", f"payers will not be able to use it: {error}", None
        else:
            if found.text != self.code:
                yield "code", "has line breaks or outer blanks, which are left out when it is sent", None
            if not found.dynamic:
                yield "code", "is a static PIX code, which can be paid more than once", None
        if not re.fullmatch(_KEY_SHAPES[self.key_type], self.key):
            yield "key", f"does not look like a PIX key of type {self.key_type}", None

    @property
    def cents(self) -> int | None:
        """The amount that the code itself holds."""
        try:
            return br_code.parse(self.code).amount_cents
        except InputError:
            return None


class PIXSetting(Model):
    type: Literal["pix_dynamic_code"]
    pix_dynamic_code: PIXDynamicCode


class PaymentLink(Model):
    uri: Annotated[str, Field(pattern=r"^https?://\S+$")]


class PaymentLinkSetting(Model):
    type: Literal["payment_link"]
    payment_link: PaymentLink


class Boleto(Model):
    digitable_line: Text

    def oddities(self) -> Iterator[Oddity]:
        if len(re.sub("[^0-9]", "", self.digitable_line)) not in (47, 48):
            yield "digitable_line", "has neither 47 nor 48 digits", None


class BoletoSetting(Model):
    type: Literal["boleto"]
    boleto: Boleto


class OffsiteCard(Model):
    last_four_digits: Text
    credential_id: Text


class OffsiteCardSetting(Model):
    type: Literal["offsite_card_pay"]
    offsite_card_pay: OffsiteCard


PaymentSetting: TypeAlias = Annotated[
    PIXSetting | PaymentLinkSetting | BoletoSetting | OffsiteCardSetting, Field(discriminator="type")
]

ReferenceId: TypeAlias = Annotated[str, Field(min_length=1, max_length=60, pattern="^[A-Za-z0-9_.-]*$")]


class OrderDetails(Model):
    """A request for payment: the same object in a session message and in a template's button."""

    reference_id: ReferenceId
    type: Literal["digital-goods", "physical-goods"]
    payment_type: Literal["br"]
    payment_settings: Annotated[list[PaymentSetting], Field(min_length=1)]
    currency: Literal["BRL"]
    total_amount: Amount
    # Required by Meta's text of 2025-11, optional in that of 2026-04: taken both ways.
    order: Order | None = None

    @model_validator(mode="after")
    def _total_adds_up(self) -> "OrderDetails":
        total = self.total_amount.value
        if total == 0:
            raise _broken("is zero; a payment asks for at least one cent", "total_amount.value", 0, "above 0")
        if self.order and self.order.cents != total:
            raise _broken(
                f"is not subtotal + tax + shipping - discount, {self.order.cents}",
                "total_amount.value",
                total,
                str(self.order.cents),
            )
        return self

    def oddities(self) -> Iterator[Oddity]:
        if len(self.reference_id) > 35:
            yield "reference_id", "has more than 35 characters; some of Meta's pages allow no more", None
        for place, setting in enumerate(self.payment_settings):
            if isinstance(setting, PIXSetting):
                cents = setting.pix_dynamic_code.cents
                if cents is not None and cents != self.total_amount.value:
                    path = f"payment_settings[{place}].pix_dynamic_code.code"
                    yield path, f"asks for {cents} cents, total_amount says {self.total_amount.value}", None


class OrderStatusOrder(Model):
    status: Literal["pending", "processing", "partially-shipped", "shipped", "completed", "canceled"]
    description: Note120 | None = None


class OrderStatusPayment(Model):
    status: Literal["pending", "captured", "failed"]
    timestamp: int | None = None


class OrderStatus(Model):
    reference_id: ReferenceId
    order: OrderStatusOrder
    payment: OrderStatusPayment | None = None


# --- interactive


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


class TextHeader(Header):
    type: Literal["text"]


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
    """What all interactive messages have; the light check for the rarer ones."""

    type: str
    header: Header | None = None
    body: Body
    footer: Footer | None = None
    action: Model


class Reply(Model):
    id: Annotated[str, Field(min_length=1, max_length=256)]
    title: Text20

    @model_validator(mode="after")
    def _id_as_it_comes_back(self) -> "Reply":
        if self.id != self.id.strip():
            raise _broken("begins or ends with a blank", "id", self.id)
        return self


class ReplyButton(Model):
    type: Literal["reply"]
    reply: Reply


class ButtonAction(Model):
    buttons: Annotated[list[ReplyButton], Field(min_length=1, max_length=3)]

    @model_validator(mode="after")
    def _buttons_differ(self) -> "ButtonAction":
        for name in ("id", "title"):
            values = [getattr(button.reply, name) for button in self.buttons]
            for place, value in enumerate(values):
                if value in values[:place]:
                    raise _broken(
                        f"repeats the {name} of another button", f"buttons[{place}].reply.{name}", value
                    )
        return self


class ButtonMessage(Interactive):
    type: Literal["button"]
    action: ButtonAction


class Row(Model):
    id: Annotated[str, Field(min_length=1, max_length=200)]
    title: Annotated[str, Field(min_length=1, max_length=24)]
    description: Annotated[str, Field(max_length=72)] | None = None


class RowSection(Model):
    title: Text24 | None = None
    rows: Annotated[list[Row], Field(min_length=1)]


class Product(Model):
    product_retailer_id: Text


class ProductSection(Model):
    title: Text24 | None = None
    product_items: Annotated[list[Product], Field(min_length=1)]


def _check_sections(
    sections: Sequence[RowSection | ProductSection], entries: int, most: int, what: str
) -> None:
    if entries > most:
        raise _broken(f"have {entries} {what} together", "sections", limit=str(most))
    if len(sections) > 1:
        for place, section in enumerate(sections):
            if not section.title:
                raise _broken("is required when there is more than one section", f"sections[{place}].title")


class ListAction(Model):
    button: Text20
    sections: Annotated[list[RowSection], Field(min_length=1, max_length=10)]

    @model_validator(mode="after")
    def _sections_fit(self) -> "ListAction":
        _check_sections(self.sections, sum(len(section.rows) for section in self.sections), 10, "rows")
        return self


class ListMessage(Interactive):
    type: Literal["list"]
    header: TextHeader | None = None
    body: LongBody  # type: ignore[assignment]  # its own limit
    action: ListAction


class LinkParameters(Model):
    display_text: Text20
    url: Text


class LinkAction(Model):
    name: Literal["cta_url"]
    parameters: LinkParameters


class LinkMessage(Interactive):
    type: Literal["cta_url"]
    action: LinkAction


class ProductAction(Model):
    catalog_id: Text
    product_retailer_id: Text


class ProductMessage(Interactive):
    type: Literal["product"]
    body: Body | None = None  # type: ignore[assignment]  # the product speaks for itself
    action: ProductAction


class ProductListAction(Model):
    catalog_id: Text
    sections: Annotated[list[ProductSection], Field(min_length=1, max_length=10)]

    @model_validator(mode="after")
    def _sections_fit(self) -> "ProductListAction":
        products = sum(len(section.product_items) for section in self.sections)
        _check_sections(self.sections, products, 30, "products")
        return self


class ProductListMessage(Interactive):
    type: Literal["product_list"]
    header: TextHeader
    action: ProductListAction


class CatalogAction(Model):
    name: Literal["catalog_message"]
    parameters: JSONObject | None = None


class CatalogMessage(Interactive):
    type: Literal["catalog_message"]
    action: CatalogAction


class FlowParameters(Model):
    flow_message_version: Text
    flow_id: Text | None = None
    flow_name: Text | None = None
    flow_cta: Text
    mode: Literal["draft", "published"] | None = None
    flow_token: str | None = None
    flow_action: Literal["navigate", "data_exchange"] | None = None
    flow_action_payload: JSONObject | None = None

    @model_validator(mode="after")
    def _one_flow(self) -> "FlowParameters":
        if (self.flow_id is None) == (self.flow_name is None):
            raise _broken("needs exactly one of flow_id and flow_name")
        return self


class FlowAction(Model):
    name: Literal["flow"]
    parameters: FlowParameters


class FlowMessage(Interactive):
    type: Literal["flow"]
    action: FlowAction


class LocationRequestAction(Model):
    name: Literal["send_location"]


class LocationRequestMessage(Interactive):
    type: Literal["location_request_message"]
    action: LocationRequestAction


class CarouselAction(Model):
    cards: Annotated[list[JSONObject], Field(min_length=2, max_length=10)]


class CarouselMessage(Interactive):
    type: Literal["carousel"]
    action: CarouselAction


class NamedAction(Model):
    name: Text
    parameters: JSONObject | None = None


class NamedMessage(Interactive):
    """Messages whose action says no more than their type."""

    type: Literal["address_message", "call_permission_request", "voice_call", "request_contact_info"]
    action: NamedAction

    @model_validator(mode="after")
    def _named_as_typed(self) -> "NamedMessage":
        if self.action.name != self.type:
            raise _broken(f"is {self.type}, like the type", "action.name", self.action.name)
        return self


class OrderDetailsAction(Model):
    name: Literal["review_and_pay"]
    parameters: OrderDetails


class OrderDetailsMessage(Interactive):
    type: Literal["order_details"]
    header: ImageHeader | None = None
    action: OrderDetailsAction


class OrderStatusAction(Model):
    name: Literal["review_order"]
    parameters: OrderStatus


class OrderStatusMessage(Interactive):
    type: Literal["order_status"]
    action: OrderStatusAction


AnyInteractive: TypeAlias = Annotated[
    ButtonMessage
    | ListMessage
    | LinkMessage
    | ProductMessage
    | ProductListMessage
    | CatalogMessage
    | FlowMessage
    | LocationRequestMessage
    | CarouselMessage
    | NamedMessage
    | OrderDetailsMessage
    | OrderStatusMessage,
    Field(discriminator="type"),
]


# --- template


def _one_line(text: str) -> str:
    """Known from the field, not from Meta's reference: such parameters are refused."""
    if re.search(r"[\n\r\t]| {5}", text):
        raise _broken("holds a line break, a tab or more than four blanks in a row", value=text)
    return text


class TextParameter(Model):
    type: Literal["text"]
    text: Annotated[str, AfterValidator(_blank), AfterValidator(_one_line)]
    parameter_name: Text | None = None

    def oddities(self) -> Iterator[Oddity]:
        if len(self.text) > 1024:
            yield "text", "has more than 1024 characters; most templates hold no more in all", None


class Currency(Model):
    fallback_value: Text
    code: Text
    amount_1000: int


class CurrencyParameter(Model):
    type: Literal["currency"]
    currency: Currency
    parameter_name: Text | None = None


class DateTime(Model):
    fallback_value: Text


class DateTimeParameter(Model):
    type: Literal["date_time"]
    date_time: DateTime
    parameter_name: Text | None = None


class ImageParameter(Model):
    type: Literal["image"]
    image: Media


class VideoParameter(Model):
    type: Literal["video"]
    video: Media


class GIFParameter(Model):
    type: Literal["gif"]
    gif: Media


class DocumentParameter(Model):
    type: Literal["document"]
    document: Document


class LocationParameter(Model):
    type: Literal["location"]
    location: Location


class ProductParameter(Model):
    type: Literal["product"]
    product: Product


HeaderParameter: TypeAlias = Annotated[
    TextParameter
    | ImageParameter
    | VideoParameter
    | GIFParameter
    | DocumentParameter
    | LocationParameter
    | ProductParameter,
    Field(discriminator="type"),
]
BodyParameter: TypeAlias = Annotated[
    TextParameter | CurrencyParameter | DateTimeParameter, Field(discriminator="type")
]


class HeaderComponent(Model):
    type: str
    parameters: Annotated[list[HeaderParameter], Field(max_length=1)] | None = None

    @model_validator(mode="after")
    def _text_fits(self) -> "HeaderComponent":
        for parameter in self.parameters or []:
            if isinstance(parameter, TextParameter) and len(parameter.text) > 60:
                raise _broken(
                    f"has {len(parameter.text)} characters", "parameters[0].text", parameter.text, "60"
                )
        return self


class BodyComponent(Model):
    type: str
    parameters: list[BodyParameter] | None = None


class Button(Model):
    """A button of a template, by its place among them."""

    type: str
    sub_type: str
    index: Annotated[Any, AfterValidator(_index)]


class PayloadParameter(Model):
    type: Literal["payload"]
    payload: Annotated[str, Field(max_length=256)]


class QuickReplyButton(Button):
    parameters: Annotated[list[PayloadParameter], Field(max_length=1)] | None = None


class URLButton(Button):
    parameters: Annotated[list[TextParameter], Field(max_length=1)] | None = None


class CouponParameter(Model):
    type: Literal["coupon_code"]
    coupon_code: Annotated[str, Field(min_length=1, max_length=15)]


class CopyCodeButton(Button):
    parameters: Annotated[list[CouponParameter], Field(min_length=1, max_length=1)]


class ActionParameter(Model):
    type: Literal["action"]
    action: JSONObject | None = None


class ActionButton(Button):
    """Catalog and flow buttons: one optional action."""

    parameters: Annotated[list[ActionParameter], Field(max_length=1)] | None = None


class OtherButton(Button):
    parameters: list[JSONObject] | None = None


class MPMAction(Model):
    thumbnail_product_retailer_id: Text
    sections: Annotated[list[ProductSection], Field(min_length=1, max_length=10)]

    @model_validator(mode="after")
    def _sections_fit(self) -> "MPMAction":
        products = sum(len(section.product_items) for section in self.sections)
        _check_sections(self.sections, products, 30, "products")
        return self


class MPMParameter(Model):
    type: Literal["action"]
    action: MPMAction


class MPMButton(Button):
    parameters: Annotated[list[MPMParameter], Field(min_length=1, max_length=1)]


class OrderDetailsButtonAction(Model):
    order_details: OrderDetails


class OrderDetailsParameter(Model):
    type: Literal["action"]
    action: OrderDetailsButtonAction


class OrderDetailsButton(Button):
    parameters: Annotated[list[OrderDetailsParameter], Field(min_length=1, max_length=1)]


class CarouselComponent(Model):
    type: str
    cards: Annotated[list[JSONObject], Field(min_length=2, max_length=10)]


class OtherComponent(Model):
    """Limited-time offers and order status."""

    type: str
    parameters: Annotated[list[JSONObject], Field(min_length=1)]


_SUB_TYPES = ("quick_reply", "url", "copy_code", "catalog", "mpm", "flow", "order_details", "voice_call")


def _component_tag(value: object) -> str | None:
    """Which model reads a component. Meta takes its types in either case."""
    if not isinstance(value, Mapping) or not isinstance(value.get("type"), str):
        return None
    kind: str = value["type"].lower()
    if kind != "button":
        return kind
    sub_type = value.get("sub_type")
    return f"button {sub_type.lower()}" if isinstance(sub_type, str) else "button"


Component: TypeAlias = Annotated[
    Annotated[HeaderComponent, Tag("header")]
    | Annotated[BodyComponent, Tag("body")]
    | Annotated[Button, Tag("button")]
    | Annotated[QuickReplyButton, Tag("button quick_reply")]
    | Annotated[URLButton, Tag("button url")]
    | Annotated[CopyCodeButton, Tag("button copy_code")]
    | Annotated[ActionButton, Tag("button catalog")]
    | Annotated[ActionButton, Tag("button flow")]
    | Annotated[MPMButton, Tag("button mpm")]
    | Annotated[OrderDetailsButton, Tag("button order_details")]
    | Annotated[OtherButton, Tag("button voice_call")]
    | Annotated[CarouselComponent, Tag("carousel")]
    | Annotated[OtherComponent, Tag("limited_time_offer")]
    | Annotated[OtherComponent, Tag("order_status")],
    Discriminator(_component_tag),
]


class Language(Model):
    code: Annotated[str, Field(pattern="^[A-Za-z]{2,3}(_[A-Za-z0-9]{2,4})*$")]
    policy: Literal["deterministic"] | None = None


class Template(Model):
    name: Annotated[str, Field(min_length=1, max_length=512, pattern="^[a-z0-9_]*$")]
    language: Language
    components: list[Component] | None = None


# --- the messages


class Context(Model):
    message_id: Text


class Envelope(Model):
    """What surrounds a message; all of it may be left out of a file."""

    messaging_product: Literal["whatsapp"] = "whatsapp"
    recipient_type: Literal["individual", "group"] = "individual"
    context: Context | None = None
    biz_opaque_callback_data: Annotated[str, Field(max_length=512)] | None = None
    source: ClassVar[str] = f"{_GUPSHUP}, request parameters"


TYPES: dict[str, tuple[Any, str]] = {
    "text": (TextContent, f"{_GUPSHUP}, Text Message"),
    "image": (CaptionedMedia, f"{_META}, Image messages"),
    "video": (CaptionedMedia, f"{_META}, Video messages"),
    "audio": (Audio, f"{_META}, Audio messages"),
    "document": (Document, f"{_META}, Document messages"),
    "sticker": (Media, f"{_META}, Sticker messages"),
    "location": (Location, f"{_META}, Location messages"),
    "contacts": (
        Annotated[list[Contact], Field(min_length=1, max_length=257)],
        f"{_META}, Contacts messages",
    ),
    "reaction": (Reaction, f"{_META}, Reaction messages"),
    "interactive": (AnyInteractive, f"{_META}, Interactive messages"),
    "template": (Template, f"{_META}, Template messages"),
}
"""Type of a message → model of its content, and where its rules are documented."""


def split(document: Any) -> tuple[JSONObject, JSONObject]:
    """The envelope keys of a message file, and the message itself, both in the file's order.

    Raises:
      InputError: the document is no JSON object.
    """
    if not isinstance(document, dict):
        raise InputError('A message is an object, such as {"type": "text", "text": {"body": "Olá"}}.')
    envelope = {key: value for key, value in document.items() if key in ENVELOPE}
    return envelope, {key: value for key, value in document.items() if key not in ENVELOPE}


def wire(to: str, message: JSONObject, envelope: Mapping[str, Any]) -> JSONObject:
    """The JSON value for the request: envelope, recipient, then the message as it is.

    What the file's envelope says stays; what the endpoint requires of it is added. Line breaks and outer
    blanks, which come into PIX codes by copying, are taken out, since banks refuse such a code.

    Args:
      to: Digits with country code, or "" when the envelope names its ``recipient`` (a BSUID).
      message: As ``split`` or ``rendering.Content.render`` gives it; not changed.
      envelope: As ``split`` gives it; its ``to`` is replaced.
    """
    value: JSONObject = {"messaging_product": "whatsapp", "recipient_type": "individual"}
    if to:
        value["to"] = to
    value.update((key, item) for key, item in envelope.items() if key != "to")
    if "type" in message:
        value["type"] = message["type"]
    value.update(message)
    return _with_clean_codes(value)


def check(message: JSONObject) -> list[Fault]:
    """Every rule of WhatsApp that ``message`` (without envelope) breaks; empty when it may be sent."""
    if not isinstance(message, dict):
        return [Fault("", "is no object", _cut(message))]
    label = message.get("type")
    if not isinstance(label, str) or label not in TYPES:
        return [_unknown_type(message)]
    if label not in message:
        return [Fault(label, f"is required: it holds the content of a message of type {label}")]
    source = TYPES[label][1]
    return _faults(
        functools.partial(_adapter(label).validate_python, message[label]), message[label], label, source
    )


def check_envelope(envelope: Mapping[str, Any]) -> list[Fault]:
    """Every rule that the envelope of a file breaks; ``to`` is left to ``phone.parse``."""
    return _faults(functools.partial(Envelope.model_validate, envelope), envelope, "", Envelope.source)


def warnings(message: JSONObject) -> list[Fault]:
    """What is odd about a message that ``check`` passes: unknown keys, codes that no bank will take …"""
    label = message.get("type")
    if not isinstance(label, str) or label not in TYPES or label not in message:
        return []
    try:
        content = _adapter(label).validate_python(message[label])
    except ValidationError:
        return []  # the faults come first
    source = TYPES[label][1]
    found = [
        Fault(key, _UNKNOWN_KEY, source=source) for key in message if key not in ("type", label, *ENVELOPE)
    ]
    found.extend(_oddities(content, label, source))
    return found


def kind(message: Mapping[str, Any]) -> str:
    """A short label for screens: ``text``, ``interactive button``, ``template``, ``template mpm`` …"""
    label = message.get("type")
    if not isinstance(label, str):
        return "unknown"
    content = message.get(label)
    if not isinstance(content, Mapping):
        return label
    if label == "interactive" and isinstance(content.get("type"), str):
        return f"{label} {content['type']}"
    if label == "template" and isinstance(components := content.get("components"), list):
        for component in components:
            tag = _component_tag(component)
            if tag in _TELLING:
                return f"{label} {tag.removeprefix('button ')}"
    return label


def template_name(message: Mapping[str, Any]) -> str | None:
    """Name and language of a template message, ``black_friday/pt_BR``; None for every other message."""
    template = message.get("template")
    if message.get("type") != "template" or not isinstance(template, Mapping):
        return None
    language = template.get("language")
    code = language.get("code") if isinstance(language, Mapping) else None
    return f"{template.get('name')}/{code}" if code else str(template.get("name"))


# What a template is called by when it has such a component.
_TELLING = frozenset(
    {"carousel", "limited_time_offer", "order_status"}
    | {f"button {name}" for name in ("copy_code", "catalog", "mpm", "flow", "order_details", "voice_call")}
)
_UNKNOWN_KEY = "is a key that the documentation does not know; it is sent as it is"
# Values that lead to money or to a person stay out of what may be logged.
_SECRET = re.compile(r"(^|\.)(code|key|digitable_line|coupon_code|to|recipient|credential_id|phones.*)$")


@functools.cache
def _adapter(kind: str) -> TypeAdapter[Any]:
    return TypeAdapter(TYPES[kind][0])


def _unknown_type(message: JSONObject) -> Fault:
    known = ", ".join(TYPES)
    if "type" not in message:
        present = next((name for name in TYPES if name in message), None)
        hint = f'; write "type": "{present}"' if present else ""
        return Fault("type", f"is required{hint}", limit=known)
    return Fault(
        "type",
        f"{_cut(message['type'])!r} is not a known type of message; known are {known}. "
        "With raw: true a message of any other type is sent unchecked",
        _cut(message["type"]),
        known,
        _GUPSHUP,
    )


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
        shown = None if missing else detail["input"]
    if isinstance(shown, dict | list) or _SECRET.search(path):
        shown = None
    return Fault(path, sentence, None if shown is None else _cut(shown), limit, source)


def _explained(detail: ErrorDetails, context: dict[str, Any], path: str) -> tuple[str, str, str | None]:
    """Path, sentence and limit of a rule that pydantic checked."""
    given = detail["input"]
    match detail["type"]:
        case "missing":
            return path, "is required", None
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
            return path, f"is not written as it must be ({context['pattern']})", context["pattern"]
        case "greater_than_equal":
            return path, f"is below {context['ge']}", f"at least {context['ge']}"
        case error if error in _TYPE_NAMES:
            return path, f"must be {_TYPE_NAMES[error]}, not {_json_type(given)}", None
        case _:
            return path, detail["msg"], None


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
    name, known = "type", str(context.get("expected_tags", "")).replace("'", "")
    if str(given.get("type")).lower() == "button" and "button" in known:
        name, known = "sub_type", ", ".join(_SUB_TYPES)
    elif not known or "button " in known:
        known = ", ".join(["header", "body", "button", "carousel", "limited_time_offer", "order_status"])
    path = path.removesuffix(f".{name}") + f".{name}"
    if name not in given:
        return path, "is required", None
    return path, f"must be one of {known}", known


def _path(path: str, value: object, location: tuple[int | str, ...], *, missing: bool) -> str:
    """Where in the message an error is.

    Pydantic puts the names of union members among the keys; a step that the value does not have is such a
    name, unless it is the last one of a missing key.
    """
    here = value
    for place, step in enumerate(location):
        if isinstance(step, int):
            path += f"[{step}]"
            here = here[step] if isinstance(here, list) and step < len(here) else None
        elif isinstance(here, Mapping) and step in here:
            path += f".{step}"
            here = here[step]
        elif missing and place == len(location) - 1:
            path += f".{step}"
    return path.removeprefix(".")


def _oddities(value: object, path: str, source: str) -> Iterator[Fault]:
    if isinstance(value, list):
        for place, item in enumerate(value):
            yield from _oddities(item, f"{path}[{place}]", source)
    if not isinstance(value, Model):
        return
    for at, sentence, shown in value.oddities():
        yield Fault(f"{path}.{at}", sentence, None if shown is None else _cut(shown), source=source)
    for name in value.__pydantic_extra__ or {}:
        yield Fault(f"{path}.{name}", _UNKNOWN_KEY, source=source)
    for name, item in value.__dict__.items():
        yield from _oddities(item, f"{path}.{name}", source)


def _cut(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _with_clean_codes(message: JSONObject) -> JSONObject:
    """The message with its PIX codes cleaned; the very same object when there is nothing to clean."""
    if not kind(message).endswith(" order_details"):
        return message
    cleaned: JSONObject = _cleaned(message)
    return cleaned


def _cleaned(value: Any) -> Any:
    if isinstance(value, dict):
        if isinstance(code := value.get("code"), str) and "merchant_name" in value:
            return value if (text := br_code.clean(code)) == code else {**value, "code": text}
        for key, item in value.items():
            if isinstance(item, dict | list) and (better := _cleaned(item)) is not item:
                value = {**value, key: better}
    elif isinstance(value, list):
        for place, item in enumerate(value):
            if isinstance(item, dict | list) and (better := _cleaned(item)) is not item:
                value = [*value[:place], better, *value[place + 1 :]]
    return value
