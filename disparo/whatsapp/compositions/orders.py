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
from disparo.whatsapp.orders import SHORTEST, Goods
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
    goods: Goods = "digital-goods"
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
        if self.header is not None and not isinstance(self.header, Image):
            raise InputError("Order: header is an Image")
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


def order_details(
    reference: str,
    *,
    item: str | Sequence[Item],
    amount: object = None,
    amount_cents: int | None = None,
    numbers: money.Numbers | None = None,
    code: str | None = None,
    pix_key: str | None = None,
    pix_key_type: str | None = None,
    merchant_name: str | None = None,
    link: str | None = None,
    digitable_line: str | None = None,
    tax_cents: int = 0,
    shipping_cents: int | None = None,
    discount_cents: int | None = None,
    expires: datetime | None = None,
    expires_text: str | None = None,
    goods: Goods = "digital-goods",
    body: str | None = None,
    header: Image | None = None,
    footer: str | None = None,
) -> Order:
    """The order of few values, as a row of a spreadsheet has them.

        order = order_details("MENS-1", amount="812,50", code=code, pix_key="financeiro@colegio.example", item="Mensalidade")
        Template("mensalidade_pix", "pt_BR", body=["Maria", "R$ 812,50"], buttons=[OrderButton(order)])

    Args:
      reference: 1 to 60 letters, digits, ``_``, ``-``, ``.``; a business uses each once.
      item: What is paid for, in the customer's words (up to 60 characters), or several with their prices.
      amount: The total in reais, as people and spreadsheets write it: ``"1.234,56"``, ``"R$ 12,34"``, ``1234.5``.
      amount_cents: The total in cents, instead of ``amount``. With several items both may be left out.
      numbers: What ``1.234`` means in ``amount``: ``br`` or ``en``.
      code: The BR Code to be copied; line breaks and outer blanks go.
      pix_key: Shown to the payer. A static code names its own, for a dynamic one it must be given.
      pix_key_type: ``CPF``, ``CNPJ``, ``EMAIL``, ``PHONE`` or ``EVP``; else it is found out.
      merchant_name: Who is paid, as it is shown; else the name in the code.
      link: The address of a page on which to pay.
      digitable_line: The 47 or 48 digits of a boleto. Any of the three ways to pay may stand together.
      expires: Aware; after it the button to pay is dead. At least 300 seconds ahead.
      expires_text: Says so to the customer, up to 120 characters; needed with ``expires``.
      body: As in `Order`; with it the order is a message of its own.

    Raises:
      InputError: Something is missing, cannot be right, or the code asks for another amount.
    """
    if expires is not None and not expires_text:
        raise InputError("expires needs expires_text, which tells the customer")
    total = _total(amount, amount_cents, numbers)
    if isinstance(item, str):
        for name, cents in (("tax", tax_cents), ("shipping", shipping_cents), ("discount", discount_cents)):
            if type(cents) is not int and (cents is not None or name == "tax"):
                raise InputError(f"{name}_cents is a whole number of cents")
        if total is None:
            raise InputError("give amount (in reais) or amount_cents")
        price = total - tax_cents - (shipping_cents or 0) + (discount_cents or 0)
        if price < 0:
            raise InputError("the price of the item is below zero; are tax and shipping above the total?")
        item = [Item("1", item, price)]
    elif not item:
        raise InputError("item names what is paid for; at least one")
    pay: list[WayToPay] = []
    if code is not None:
        pay.append(_pix(code, pix_key, pix_key_type, merchant_name))
    if link is not None:
        pay.append(PaymentLink(_text("link", link).strip()))
    if digitable_line is not None:
        pay.append(Boleto(boletos.parse(_text("digitable_line", digitable_line))))
    if not pay:
        raise InputError("give a way to pay: code (PIX), link or digitable_line (boleto)")
    return Order(
        reference,
        pay,
        body,
        items=item,
        total_cents=total,
        goods=goods,
        tax_cents=tax_cents,
        shipping_cents=shipping_cents,
        discount_cents=discount_cents,
        expires=expires,
        expires_text=expires_text or "",
        header=header,
        footer=footer,
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


def _total(amount: object, amount_cents: int | None, numbers: money.Numbers | None) -> int | None:
    if amount is not None and amount_cents is not None:
        raise InputError("give amount (in reais) or amount_cents, not both")
    if amount is not None:
        return money.cents(amount, numbers)
    if amount_cents is not None and type(amount_cents) is not int:
        raise InputError("amount_cents is a whole number of cents")
    return amount_cents


def _pix(code: str, key: str | None, key_type: str | None, merchant_name: str | None) -> PixCode:
    """Name and key of a static code may be its own."""
    found = br_code.parse(_text("code", code))
    key = found.key if key is None else _text("pix_key", key)
    if key is None:
        raise InputError(
            "pix_key is missing: a dynamic code does not name the key that is shown to the payer"
        )
    key_type = None if key_type is None else _text("pix_key_type", key_type)
    return PixCode(
        found.text,
        found.merchant_name if merchant_name is None else merchant_name,
        *pix_keys.parse(key, key_type),
    )


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InputError(f"{name} is text, not {type(value).__name__}")
    return value


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
