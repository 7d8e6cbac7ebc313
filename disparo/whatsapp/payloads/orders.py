"""Requests for payment (Brazil) and what became of them: ``order_details`` and ``order_status``."""

from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag, model_validator

from disparo.errors import InputError
from disparo.whatsapp import boletos, br_code, pix_keys
from disparo.whatsapp.payloads.base import (
    Address,
    Model,
    Note60,
    Note120,
    Oddity,
    Text,
    Text60,
    broken,
    tag_of,
)


class Amount(Model):
    """Hundredths of a real: 1234 with offset 100 is R$ 12,34."""

    value: Annotated[int, Field(ge=0, le=10**15)]
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
            raise broken("is not below amount", "sale_amount.value", self.sale_amount.value)
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
            raise broken(
                f"is not the sum of the items, {items}", "subtotal.value", self.subtotal.value, str(items)
            )
        return self

    @property
    def cents(self) -> int:
        shipping = self.shipping.value if self.shipping else 0
        discount = self.discount.value if self.discount else 0
        return self.subtotal.value + self.tax.value + shipping - discount


class PIXCode(Model):
    """A code to pay with; payment requests may leave out whom it pays."""

    code: Text
    merchant_name: str | None = None
    key: str | None = None
    key_type: str | None = None

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
            if told := br_code.disagreement(
                found, self.merchant_name or found.merchant_name, self.key or found.key or ""
            ):
                yield *told, None
        if self.key is None or self.key_type is None:
            return
        if wrong := pix_keys.fault(self.key, self.key_type):
            yield "key", wrong, None
        elif self.key_type == "CNPJ" and not self.key.isdigit():
            yield (
                "key",
                "is a CNPJ with letters, which not every bank and not surely WhatsApp takes yet",
                None,
            )

    def against(self, total: Amount, path: str) -> Iterator[Oddity]:
        """What is odd when the code itself holds another amount than the message asks for."""
        try:
            cents = br_code.parse(self.code).amount_cents
        except InputError:
            return
        if cents is not None and cents != total.value:
            yield f"{path}.code", f"asks for {cents} cents, total_amount says {total.value}", None


class PIXDynamicCode(PIXCode):
    merchant_name: Text
    key: Text
    key_type: Literal["CPF", "CNPJ", "EMAIL", "PHONE", "EVP"]


class PIXSetting(Model):
    type: Literal["pix_dynamic_code"]
    pix_dynamic_code: PIXDynamicCode


class PaymentLink(Model):
    uri: Address


class PaymentLinkSetting(Model):
    type: Literal["payment_link"]
    payment_link: PaymentLink


class Boleto(Model):
    digitable_line: Text

    def oddities(self) -> Iterator[Oddity]:
        try:
            boletos.parse(self.digitable_line)
        except InputError as error:
            yield "digitable_line", f"no bank will take it: {error}", None


class BoletoSetting(Model):
    type: Literal["boleto"]
    boleto: Boleto


class OffsiteCard(Model):
    last_four_digits: Annotated[str, Field(pattern="^[0-9]{4}$")]
    credential_id: Text


class OffsiteCardSetting(Model):
    type: Literal["offsite_card_pay"]
    offsite_card_pay: OffsiteCard


PaymentSetting: TypeAlias = Annotated[
    Annotated[PIXSetting, Tag("=pix_dynamic_code")]
    | Annotated[PaymentLinkSetting, Tag("=payment_link")]
    | Annotated[BoletoSetting, Tag("=boleto")]
    | Annotated[OffsiteCardSetting, Tag("=offsite_card_pay")],
    Discriminator(tag_of),
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
            raise broken("is zero; a payment asks for at least one cent", "total_amount.value", 0, "above 0")
        if self.order and self.order.cents != total:
            raise broken(
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
                path = f"payment_settings[{place}].pix_dynamic_code"
                yield from setting.pix_dynamic_code.against(self.total_amount, path)


class OrderStatusOrder(Model):
    status: Literal[
        "pending", "processing", "partially-shipped", "partially_shipped", "shipped", "completed", "canceled"
    ]
    description: Note120 | None = None

    def oddities(self) -> Iterator[Oddity]:
        if self.status == "partially_shipped":
            yield "status", "is written partially-shipped in most of Meta's pages", self.status


class OrderStatusPayment(Model):
    status: Literal["pending", "captured", "failed"]
    #: Seconds since 1970.
    timestamp: Annotated[int, Field(ge=0)] | None = None


class OrderStatus(Model):
    reference_id: ReferenceId
    order: OrderStatusOrder
    payment: OrderStatusPayment | None = None
