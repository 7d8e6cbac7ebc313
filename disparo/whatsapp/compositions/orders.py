"""Requests for payment in Brazil: the order, the ways to pay, and its status."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal

from disparo import money
from disparo.errors import Fault, InputError
from disparo.whatsapp import boletos, br_code, payloads, pix_keys
from disparo.whatsapp.compositions.base import Message, Part, given, refuse
from disparo.whatsapp.compositions.content import Image
from disparo.whatsapp.orders import SHORTEST
from disparo.whatsapp.payloads import orders
from disparo.whatsapp.payloads.base import JSONObject
from disparo.whatsapp.payloads.check import check_part

_PAGE = "Meta, WhatsApp Business Platform, Payments in Brazil, Orders"


class WayToPay(Part):
    """What an order offers to pay with; one or several."""

    _type: ClassVar[str]

    @abstractmethod
    def part(self) -> JSONObject: ...

    def setting(self) -> JSONObject:
        return {"type": self._type, self._type: self.part()}


@dataclass(frozen=True, slots=True)
class PixCode(WayToPay):
    """A PIX code that the buyer copies. WhatsApp shows it and never learns whether it was paid.

    Args:
      code: The BR Code, "copia e cola", whole and with its right checksum. Line breaks and outer blanks are left out
        when it is sent.
      merchant_name: Who is paid, as it is shown.
      key: The PIX key, as it is shown: digits of CPF or CNPJ, an e-mail, ``+55…``, or a random key.

    Source: Gupshup, V3 passthrough, PIX Session Message.
    """

    _type: ClassVar[str] = "pix_dynamic_code"
    _model: ClassVar[Any] = orders.PIXDynamicCode

    # Codes and keys stay out of logs.
    code: str = field(repr=False)
    merchant_name: str
    key: str = field(repr=False)
    key_type: Literal["CPF", "CNPJ", "EMAIL", "PHONE", "EVP"]

    def part(self) -> JSONObject:
        return given(code=self.code, merchant_name=self.merchant_name, key=self.key, key_type=self.key_type)

    def _useless(self) -> Iterator[Fault]:
        try:
            br_code.parse(self.code)
        except InputError as error:
            yield Fault("code", f"payers would not be able to use it: {error}")
        if not self.merchant_name.strip():
            yield Fault("merchant_name", "is blank")
        if wrong := pix_keys.fault(self.key, self.key_type):
            yield Fault("key", wrong)


@dataclass(frozen=True, slots=True)
class PaymentLink(WayToPay):
    """The address of a page to pay on.

    Source: Meta, WhatsApp Business Platform, Payments in Brazil, Payment links.
    """

    _type: ClassVar[str] = "payment_link"
    _model: ClassVar[Any] = orders.PaymentLink

    uri: str

    def part(self) -> JSONObject:
        return {"uri": self.uri}


@dataclass(frozen=True, slots=True)
class Boleto(WayToPay):
    """A boleto by its digitable line, 47 or 48 digits.

    Source: Meta, WhatsApp Business Platform, Payments in Brazil, Boleto.
    """

    _type: ClassVar[str] = "boleto"
    _model: ClassVar[Any] = orders.Boleto

    digitable_line: str = field(repr=False)

    def part(self) -> JSONObject:
        return {"digitable_line": self.digitable_line}

    def _useless(self) -> Iterator[Fault]:
        try:
            boletos.parse(self.digitable_line)
        except InputError as error:
            yield Fault("digitable_line", f"no bank would take it: {error}")


@dataclass(frozen=True, slots=True)
class OneClickCard(WayToPay):
    """A card that the payment provider keeps for this buyer; by invitation of Meta.

    Source: Meta, WhatsApp Business Platform, Payments in Brazil, One-click payments.
    """

    _type: ClassVar[str] = "offsite_card_pay"
    _model: ClassVar[Any] = orders.OffsiteCard

    last_four_digits: str
    credential_id: str = field(repr=False)

    def part(self) -> JSONObject:
        return {"last_four_digits": self.last_four_digits, "credential_id": self.credential_id}


@dataclass(frozen=True, slots=True)
class Item(Part):
    """A line of an order.

    Args:
      id: Of the article, in the seller's books.
      name: 1 to 60 characters.
      cents: Price of one.
      sale_cents: A lower price that counts instead.
    """

    _model: ClassVar[Any] = orders.Item

    id: str
    name: str
    cents: int
    quantity: int = 1
    sale_cents: int | None = None

    def part(self) -> JSONObject:
        sale = None if self.sale_cents is None else _amount(self.sale_cents)
        return given(
            retailer_id=self.id,
            name=self.name,
            amount=_amount(self.cents),
            quantity=self.quantity,
            sale_amount=sale,
        )

    def _useless(self) -> Iterator[Fault]:
        if not self.name.strip():
            yield Fault("name", "is blank")

    @property
    def total_cents(self) -> int:
        return (self.cents if self.sale_cents is None else self.sale_cents) * self.quantity


@dataclass(frozen=True, slots=True)
class Order(Message):
    """A request for payment: by itself a message inside the 24-hour window; outside it, in a template's `OrderButton`.

    It adds up, and its PIX code asks for what it asks for.

    Args:
      reference: 1 to 60 letters, digits, ``_``, ``-`` and ``.``; of one order of one business only.
      pay: What the buyer may pay with.
      body: 1 to 1024 characters; a template has its own.
      items: At least one, or none with ``total_cents``.
      total_cents: The sum of an order without items; with them it is reckoned.
      expires: Aware; the button stops working then. At least 300 seconds ahead, now and when it is sent.
      expires_text: What is said of it, up to 120 characters.
      footer: Up to 60 characters.

    Source: Meta, WhatsApp Business Platform, Payments in Brazil, Orders.
    """

    reference: str
    pay: Sequence[WayToPay]
    body: str | None = None
    items: Sequence[Item] = ()
    total_cents: int | None = None
    goods: Literal["digital-goods", "physical-goods"] = "digital-goods"
    tax_cents: int = 0
    shipping_cents: int | None = None
    discount_cents: int | None = None
    expires: datetime | None = None
    expires_text: str = "Prazo para pagar"
    header: Image | None = None
    footer: str | None = None

    def __post_init__(self) -> None:
        _all("pay", self.pay, WayToPay, "PixCode, PaymentLink, Boleto or OneClickCard")
        _all("items", self.items, Item, "Item")
        for name in ("tax_cents", "shipping_cents", "discount_cents"):
            if type(cents := getattr(self, name)) is not int and (cents is not None or name == "tax_cents"):
                raise InputError(f"Order: {name} is a whole number of cents")
        if (
            self.expires is not None
            and _instant("Order: expires", self.expires) - datetime.now(UTC) < SHORTEST
        ):
            raise InputError("Order: expires is less than 300 seconds ahead, which WhatsApp refuses")
        if not self.items and (self.tax_cents or self.shipping_cents or self.discount_cents or self.expires):
            raise InputError(
                "Order: tax, shipping, discount and expires belong to an order with items; give at least one item"
            )
        if self.body is None:
            faults = check_part(orders.OrderDetails, self.order_details(), _PAGE)
        else:
            faults = payloads.check(self.message())
        refuse(faults or list(self._contradictions()), "Order")

    def _contradictions(self) -> Iterator[Fault]:
        for place, way in enumerate(self.pay):
            if isinstance(way, PixCode):
                asked = br_code.parse(way.code).amount_cents
                if asked not in (None, self._total):
                    yield Fault(
                        f"payment_settings[{place}].pix_dynamic_code.code",
                        f"asks for {money.brl(asked)}, the order for {money.brl(self._total)}",
                    )

    def order_details(self) -> JSONObject:
        """The object that session message and template share."""
        details = {
            "reference_id": self.reference,
            "type": self.goods,
            "payment_type": "br",
            "payment_settings": [way.setting() for way in self.pay],
            "currency": "BRL",
            "total_amount": _amount(self._total),
        }
        return details if not self.items else {**details, "order": self._order()}

    def message(self) -> JSONObject:
        if self.body is None:
            raise InputError("Order: a message needs a body; without one, it is sent in a template")
        return {
            "type": "interactive",
            "interactive": given(
                type="order_details",
                header=self.header and {"type": "image", "image": self.header.content()},
                body={"text": self.body},
                footer=self.footer and {"text": self.footer},
                action={"name": "review_and_pay", "parameters": self.order_details()},
            ),
        }

    @property
    def _subtotal(self) -> int:
        return sum(item.total_cents for item in self.items)

    @property
    def _total(self) -> int:
        if self.total_cents is not None:
            return self.total_cents
        return self._subtotal + self.tax_cents + (self.shipping_cents or 0) - (self.discount_cents or 0)

    def _order(self) -> JSONObject:
        return given(
            status="pending",
            items=[item.part() for item in self.items],
            subtotal=_amount(self._subtotal),
            tax=_amount(self.tax_cents),
            shipping=None if self.shipping_cents is None else _amount(self.shipping_cents),
            discount=None if self.discount_cents is None else _amount(self.discount_cents),
            expiration=self.expires
            and {"timestamp": str(int(self.expires.timestamp())), "description": self.expires_text},
        )


@dataclass(frozen=True, slots=True)
class OrderStatus(Message):
    """What became of an order, inside the 24-hour window; ``paid_at`` marks it paid.

    Args:
      reference: That of the order.
      body: 1 to 1024 characters.
      description: Up to 120 characters.
      paid_at: Aware.

    Source: Meta, WhatsApp Business Platform, Payments in Brazil, Orders.
    """

    reference: str
    status: Literal["pending", "processing", "partially-shipped", "shipped", "completed", "canceled"]
    body: str
    description: str | None = None
    paid_at: datetime | None = None
    footer: str | None = None

    def __post_init__(self) -> None:
        if self.paid_at is not None:
            _instant("OrderStatus: paid_at", self.paid_at)
        refuse(payloads.check(self.message()), "OrderStatus")

    def message(self) -> JSONObject:
        parameters = given(
            reference_id=self.reference,
            order=given(status=self.status, description=self.description),
            payment=self.paid_at and {"status": "captured", "timestamp": int(self.paid_at.timestamp())},
        )
        return {
            "type": "interactive",
            "interactive": given(
                type="order_status",
                body={"text": self.body},
                footer=self.footer and {"text": self.footer},
                action={"name": "review_order", "parameters": parameters},
            ),
        }


def _all(name: str, values: object, kind: type, told: str) -> None:
    if not isinstance(values, list | tuple) or not all(isinstance(one, kind) for one in values):
        raise InputError(f"Order: {name} is a list, and each in it is made with {told}")


def _instant(name: str, value: object) -> datetime:
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise InputError(
            f"{name} is a datetime with its time zone, such as datetime(2026, 12, 24, tzinfo=UTC)"
        )
    return value


def _amount(cents: int) -> JSONObject:
    return {"value": cents, "offset": 100}
