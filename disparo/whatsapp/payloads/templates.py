"""Template messages: components, their parameters, buttons of every kind and cards."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from disparo.whatsapp.payloads.base import (
    EITHER_CASE,
    Address,
    CardPlace,
    JSONObject,
    Model,
    Oddity,
    Text,
    Text1024,
    broken,
    repeated,
    tag_of,
)
from disparo.whatsapp.payloads.content import Document, Location, Media
from disparo.whatsapp.payloads.interactive import ProductSection, Thumbnail, check_sections
from disparo.whatsapp.payloads.names import component_tag
from disparo.whatsapp.payloads.orders import (
    Amount,
    Boleto,
    OrderDetails,
    OrderStatusOrder,
    PaymentLink,
    PIXCode,
    ReferenceId,
)

#: What a body may hold in all, once filled; of a template that is a body alone, some pages say 32,768.
_BODY, _LONE_BODY = 1024, 32768
_OFFER_BODY, _CARD_BODY = 600, 160


# --- parameters


def _blank(text: str) -> str:
    if not text.strip():
        raise broken("is blank", limit="at least one character")
    return text


def _one_line(text: str) -> str:
    """Known from the field, not from Meta's reference: such parameters are refused."""
    if re.search(r"[\n\r\t]| {5}", text):
        raise broken(
            "holds a line break, a tab or more than four blanks in a row", value=text, limit="one line"
        )
    return text


class TextParameter(Model):
    type: str
    text: Annotated[str, AfterValidator(_blank), AfterValidator(_one_line)]
    parameter_name: Text | None = None


class Currency(Model):
    """Thousandths: 12340 is 12.34."""

    fallback_value: Text
    code: Text
    amount_1000: int


class CurrencyParameter(Model):
    type: str
    currency: Currency
    parameter_name: Text | None = None


class DateTime(Model):
    """WhatsApp shows the fallback; the parts are of older pages, and ignored."""

    fallback_value: Text
    day_of_week: int | str | None = None
    year: int | None = None
    month: int | None = None
    day_of_month: int | None = None
    hour: int | None = None
    minute: int | None = None
    calendar: str | None = None
    timestamp: int | None = None


class DateTimeParameter(Model):
    type: str
    date_time: DateTime
    parameter_name: Text | None = None


class ImageParameter(Model):
    type: str
    image: Media


class VideoParameter(Model):
    type: str
    video: Media


class GIFParameter(Model):
    type: str
    gif: Media


class DocumentParameter(Model):
    type: str
    document: Document


class LocationParameter(Model):
    type: str
    location: Location


class CatalogProduct(Model):
    product_retailer_id: Text
    catalog_id: Text | None = None


class ProductParameter(Model):
    type: str
    product: CatalogProduct


HeaderParameter: TypeAlias = Annotated[
    Annotated[TextParameter, Tag("=text")]
    | Annotated[ImageParameter, Tag("=image")]
    | Annotated[VideoParameter, Tag("=video")]
    | Annotated[GIFParameter, Tag("=gif")]
    | Annotated[DocumentParameter, Tag("=document")]
    | Annotated[LocationParameter, Tag("=location")]
    | Annotated[ProductParameter, Tag("=product")],
    Discriminator(tag_of),
]
BodyParameter: TypeAlias = Annotated[
    Annotated[TextParameter, Tag("=text")]
    | Annotated[CurrencyParameter, Tag("=currency")]
    | Annotated[DateTimeParameter, Tag("=date_time")],
    Discriminator(tag_of),
]


# --- header and body


class HeaderComponent(Model):
    type: str
    parameters: Annotated[list[HeaderParameter], Field(max_length=1)] | None = None

    @model_validator(mode="after")
    def _text_fits(self) -> "HeaderComponent":
        for parameter in self.parameters or []:
            if isinstance(parameter, TextParameter) and len(parameter.text) > 60:
                raise broken(
                    f"has {len(parameter.text)} characters; 60 are allowed",
                    "parameters[0].text",
                    parameter.text,
                    "60",
                )
        return self


class BodyComponent(Model):
    type: str
    parameters: list[BodyParameter] | None = None

    @model_validator(mode="after")
    def _named_or_in_order(self) -> "BodyComponent":
        names = [parameter.parameter_name for parameter in self.parameters or []]
        if any(names) and not all(names):
            place = names.index(None)
            raise broken(
                "is missing, while other parameters have it; a template has names or an order",
                f"parameters[{place}].parameter_name",
            )
        for place, name in repeated(names) if any(names) else ():
            raise broken("repeats another parameter's name", f"parameters[{place}].parameter_name", name)
        return self

    @property
    def length(self) -> int:
        """Characters that the parameters bring; the template's own words come on top."""
        return sum(len(item.text) for item in self.parameters or [] if isinstance(item, TextParameter))

    def check_length(self, most: int, path: str) -> None:
        if self.length > most:
            raise broken(
                f"have {self.length} characters together; {most} are allowed in the whole body",
                f"{path}.parameters",
                None,
                str(most),
            )


# --- buttons


def _index(value: object) -> object:
    """A button's place: an integer in Gupshup's pages, a text of a digit in Meta's."""
    if isinstance(value, bool) or not isinstance(value, int | str) or not re.fullmatch("[0-9]", str(value)):
        raise broken("is the place of the button, counted from 0", value=value, limit="0 to 9")
    return value


class Button(Model):
    """A button of a template, by its place among them."""

    type: str
    sub_type: str
    index: Annotated[Any, AfterValidator(_index)]


class UntypedButton(Button):
    """A button without its sub_type, of which nothing more can be said."""

    parameters: Any = None


class PayloadParameter(Model):
    type: Annotated[Literal["payload"], EITHER_CASE]
    payload: str

    def oddities(self) -> Iterator[Oddity]:
        for most in (256, 128):
            if len(self.payload) > most:
                yield "payload", f"has more than {most} characters; some of Meta's pages allow no more", None
                break


class QuickReplyButton(Button):
    parameters: Annotated[list[PayloadParameter], Field(max_length=1)] | None = None


class URLParameter(TextParameter):
    type: Annotated[Literal["text"], EITHER_CASE]
    text: Annotated[str, Field(max_length=2000), AfterValidator(_blank), AfterValidator(_one_line)]

    def oddities(self) -> Iterator[Oddity]:
        # No page forbids it, and published messages have some.
        if re.search(r"\s", self.text):
            yield "text", "holds a blank, which no address and no one-time code has", None


class URLButton(Button):
    parameters: Annotated[list[URLParameter], Field(min_length=1, max_length=1)]


class CouponParameter(Model):
    type: Annotated[Literal["coupon_code"], EITHER_CASE]
    coupon_code: Annotated[str, Field(min_length=1, max_length=15, pattern="^[A-Za-z0-9]*$")]


class CopyCodeButton(Button):
    parameters: Annotated[list[CouponParameter], Field(min_length=1, max_length=1)]


class CatalogParameter(Model):
    type: Annotated[Literal["action"], EITHER_CASE]
    action: Thumbnail | None = None


class CatalogButton(Button):
    parameters: Annotated[list[CatalogParameter], Field(max_length=1)] | None = None


class FlowData(Model):
    flow_token: str | None = None
    flow_action_data: JSONObject | None = None


class FlowParameter(Model):
    type: Annotated[Literal["action"], EITHER_CASE]
    action: FlowData | None = None


class FlowButton(Button):
    parameters: Annotated[list[FlowParameter], Field(max_length=1)] | None = None


class MPMAction(Model):
    thumbnail_product_retailer_id: Text
    sections: Annotated[list[ProductSection], Field(min_length=1, max_length=10)]

    @model_validator(mode="after")
    def _sections_fit(self) -> "MPMAction":
        products = sum(len(section.product_items) for section in self.sections)
        check_sections(self.sections, products, 30, "products")
        return self


class MPMParameter(Model):
    type: Annotated[Literal["action"], EITHER_CASE]
    action: MPMAction


class MPMButton(Button):
    parameters: Annotated[list[MPMParameter], Field(min_length=1, max_length=1)]


class OrderDetailsButtonAction(Model):
    order_details: OrderDetails


class OrderDetailsParameter(Model):
    type: Annotated[Literal["action"], EITHER_CASE]
    action: OrderDetailsButtonAction


class OrderDetailsButton(Button):
    parameters: Annotated[list[OrderDetailsParameter], Field(min_length=1, max_length=1)]

    @model_validator(mode="after")
    def _is_the_first(self) -> "OrderDetailsButton":
        if str(self.index) != "0":
            raise broken("is 0: an order's button is the only one", "index", self.index, "0")
        return self


class RequestedSetting(Model):
    """One way to pay: the object named like ``type``."""

    type: Literal["pix_dynamic_code", "payment_link", "boleto"]
    pix_dynamic_code: PIXCode | None = None
    payment_link: PaymentLink | None = None
    boleto: Boleto | None = None

    @model_validator(mode="after")
    def _says_how(self) -> "RequestedSetting":
        if getattr(self, self.type) is None:
            raise broken("is required", self.type)
        return self


class PaymentRequest(Model):
    payment_setting: RequestedSetting
    currency: Literal["BRL"] | None = None
    total_amount: Amount | None = None

    def oddities(self) -> Iterator[Oddity]:
        if self.total_amount and (pix := self.payment_setting.pix_dynamic_code):
            yield from pix.against(self.total_amount, "payment_setting.pix_dynamic_code")


class PaymentRequestAction(Model):
    payment_request: PaymentRequest


class PaymentRequestParameter(Model):
    type: Annotated[Literal["action"], EITHER_CASE]
    action: PaymentRequestAction


class PaymentRequestButton(Button):
    """A way to pay without an order; Meta, Payment request CTA templates (Brazil), 2026-06-30."""

    parameters: Annotated[list[PaymentRequestParameter], Field(min_length=1, max_length=1)]

    def oddities(self) -> Iterator[Oddity]:
        yield "sub_type", "is new with WhatsApp, which lets only some businesses use it yet", None


class TTLParameter(Model):
    type: Annotated[Literal["ttl_minutes"], EITHER_CASE]
    ttl_minutes: int | None = None

    def oddities(self) -> Iterator[Oddity]:
        if self.ttl_minutes is not None and not 1 <= self.ttl_minutes <= 43200:
            yield "ttl_minutes", "is not within 1 to 43200 minutes", self.ttl_minutes


class CallPayloadParameter(Model):
    type: Annotated[Literal["payload"], EITHER_CASE]
    payload: str

    def oddities(self) -> Iterator[Oddity]:
        if len(self.payload) > 512:
            yield "payload", "has more than 512 characters", None


class CallButton(Button):
    #: Meta's page shows this button without a place.
    index: Annotated[Any, AfterValidator(_index)] = None
    parameters: (
        list[
            Annotated[
                Annotated[TTLParameter, Tag("=ttl_minutes")]
                | Annotated[CallPayloadParameter, Tag("=payload")],
                Discriminator(tag_of),
            ]
        ]
        | None
    ) = None


# --- cards and the rarer components


class Card(Model):
    card_index: CardPlace
    components: Annotated[list["CardComponent"], Field(min_length=1)]

    @model_validator(mode="after")
    def _fits_a_card(self) -> "Card":
        _once_each(self.components)
        for place, component in enumerate(self.components):
            if isinstance(component, BodyComponent):
                component.check_length(_CARD_BODY, f"components[{place}]")
        if sum(isinstance(component, Button) for component in self.components) > 2:
            raise broken("has more than 2 buttons", "components", None, "2")
        return self


class CarouselComponent(Model):
    type: str
    cards: Annotated[list[Card], Field(min_length=2, max_length=10)]

    @model_validator(mode="after")
    def _cards_differ(self) -> "CarouselComponent":
        for place, value in repeated([card.card_index for card in self.cards]):
            raise broken("repeats the place of another card", f"cards[{place}].card_index", value)
        return self


class Offer(Model):
    #: Milliseconds since 1970.
    expiration_time_ms: Annotated[int, Field(ge=1)]

    def oddities(self) -> Iterator[Oddity]:
        if self.expiration_time_ms < 100_000_000_000:
            yield "expiration_time_ms", "looks like seconds; it is counted in milliseconds", None


class OfferParameter(Model):
    type: Annotated[Literal["limited_time_offer"], EITHER_CASE]
    limited_time_offer: Offer


class OfferComponent(Model):
    type: str
    parameters: Annotated[list[OfferParameter], Field(min_length=1, max_length=1)]


class TemplateOrderStatus(Model):
    reference_id: ReferenceId
    order: OrderStatusOrder


class OrderStatusParameter(Model):
    type: Annotated[Literal["order_status"], EITHER_CASE]
    order_status: TemplateOrderStatus


class OrderStatusComponent(Model):
    type: str
    parameters: Annotated[list[OrderStatusParameter], Field(min_length=1, max_length=1)]

    def oddities(self) -> Iterator[Oddity]:
        yield "type", "is documented for India; whether Brazil has it is not known", None


class TapTarget(Model):
    url: Address
    title: Text1024 | None = None


class TapTargetParameter(Model):
    type: Annotated[Literal["tap_target_configuration"], EITHER_CASE]
    tap_target_configuration: Annotated[list[TapTarget], Field(min_length=1)]


class TapTargetComponent(Model):
    """Where a tap on the header's picture leads, and what it is called."""

    type: str
    parameters: Annotated[list[TapTargetParameter], Field(min_length=1, max_length=1)]


def _tag_of_component(value: object) -> str | None:
    tag = component_tag(value)
    return tag and f"={tag}"


_OfBoth: TypeAlias = (
    Annotated[HeaderComponent, Tag("=header")]
    | Annotated[BodyComponent, Tag("=body")]
    | Annotated[UntypedButton, Tag("=button")]
    | Annotated[QuickReplyButton, Tag("=button quick_reply")]
    | Annotated[URLButton, Tag("=button url")]
    | Annotated[CopyCodeButton, Tag("=button copy_code")]
    | Annotated[CatalogButton, Tag("=button catalog")]
    | Annotated[FlowButton, Tag("=button flow")]
    | Annotated[MPMButton, Tag("=button mpm")]
    | Annotated[OrderDetailsButton, Tag("=button order_details")]
    | Annotated[PaymentRequestButton, Tag("=button payment_request")]
    | Annotated[CallButton, Tag("=button voice_call")]
)
CardComponent: TypeAlias = Annotated[_OfBoth, Discriminator(_tag_of_component)]
Component: TypeAlias = Annotated[
    _OfBoth
    | Annotated[CarouselComponent, Tag("=carousel")]
    | Annotated[OfferComponent, Tag("=limited_time_offer")]
    | Annotated[OrderStatusComponent, Tag("=order_status")]
    | Annotated[TapTargetComponent, Tag("=tap_target_configuration")],
    Discriminator(_tag_of_component),
]


# --- the template


def _once_each(components: list[Any]) -> None:
    """Each part stands once, and each button has a place of its own."""
    places = [
        f"button {component.index}"
        if isinstance(component, Button) and component.index is not None
        else component.type.lower()
        for component in components
    ]
    for place, value in repeated(places):
        if value.startswith("button "):
            raise broken(
                "is the place of another button", f"components[{place}].index", components[place].index
            )
        if value != "button":
            raise broken(f"is a second {value}", f"components[{place}].type", components[place].type)


_MOST_BUTTONS = {"url": 2, "payment_request": 3, "copy_code": 1, "order_details": 1, "mpm": 1, "catalog": 1}


class Language(Model):
    code: Annotated[str, Field(pattern="^[A-Za-z]{2,3}(_[A-Za-z0-9]{2,4})*$")]
    policy: Literal["deterministic"] | None = None


class Template(Model):
    name: Annotated[str, Field(min_length=1, max_length=512, pattern="^[a-z0-9_]*$")]
    language: Language
    components: list[Component] | None = None
    #: Of the on-premises API, still in many files; WhatsApp passes it over.
    namespace: str | None = None

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "Template":
        components = self.components or []
        _once_each(components)
        buttons = [
            (place, component.sub_type.lower())
            for place, component in enumerate(components)
            if isinstance(component, Button)
        ]
        for sub_type, most in _MOST_BUTTONS.items():
            places = [place for place, kind in buttons if kind == sub_type]
            if len(places) > most:
                sentence = f"is one {sub_type} button too many; {most} may be in a template"
                raise broken(sentence, f"components[{places[most]}].sub_type", sub_type, str(most))
        offer = any(isinstance(component, OfferComponent) for component in components)
        for place, component in enumerate(components):
            if isinstance(component, BodyComponent):
                most = _LONE_BODY if len(components) == 1 else _OFFER_BODY if offer else _BODY
                component.check_length(most, f"components[{place}]")
        return self

    def oddities(self) -> Iterator[Oddity]:
        match self.components or []:
            case [
                BodyComponent(parameters=[TextParameter(text=code)]),
                URLButton(parameters=[URLParameter(text=same)]),
            ] if code == same and len(code) > 15:
                yield (
                    "components[0].parameters[0].text",
                    "is too long for a one-time code, which has 15",
                    None,
                )
            case _:
                pass
        for place, component in enumerate(self.components or []):
            if isinstance(component, BodyComponent) and component.length > _BODY:
                path = f"components[{place}].parameters"
                yield path, f"have more than {_BODY} characters; most templates hold no more in all", None
