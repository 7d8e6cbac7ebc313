"""Requests for payment made from few values: whole, adding up, and as WhatsApp takes them."""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disparo import Image, Item, Order, OrderButton, Template, campaigns, money, order_details
from disparo.errors import InputError
from disparo.sandbox import orders as provider
from disparo.whatsapp import br_code, orders, payloads

NOW = datetime(2096, 12, 1, 12, tzinfo=UTC)
KEY = "financeiro@colegio.example"
BOLETO = "03399026944140000002628346101018898510000008848"


def signed(body: str) -> str:
    return f"{body}6304" + br_code.checksum(f"{body}6304")


def dynamic(amount: str = "") -> str:
    return signed(
        f"00020101021226310014br.gov.bcb.pix2509pix.ex/q152040000530398654{len(amount):02}{amount}"
        "5802BR5907EMPRESA6009SAO PAULO"
        if amount
        else "00020101021226310014br.gov.bcb.pix2509pix.ex/q15204000053039865802BR5907EMPRESA6009SAO PAULO"
    )


STATIC = signed("00020126360014br.gov.bcb.pix0114395805250001895204000053039865802BR5907EMPRESA6009SAO PAULO")


def order(**more: Any) -> Order:
    given: dict[str, Any] = {
        "amount": "812,50",
        "code": dynamic(),
        "pix_key": KEY,
        "item": "Mensalidade",
    }
    return order_details("MENS-1", **{**given, **more})


def test_an_order_of_few_values_is_whole() -> None:
    assert order(merchant_name="Colégio Exemplo").order_details() == {
        "reference_id": "MENS-1",
        "type": "digital-goods",
        "payment_type": "br",
        "payment_settings": [
            {
                "type": "pix_dynamic_code",
                "pix_dynamic_code": {
                    "code": dynamic(),
                    "merchant_name": "Colégio Exemplo",
                    "key": KEY,
                    "key_type": "EMAIL",
                },
            }
        ],
        "currency": "BRL",
        "total_amount": {"value": 81250, "offset": 100},
        "order": {
            "status": "pending",
            "items": [
                {
                    "retailer_id": "1",
                    "name": "Mensalidade",
                    "amount": {"value": 81250, "offset": 100},
                    "quantity": 1,
                }
            ],
            "subtotal": {"value": 81250, "offset": 100},
            "tax": {"value": 0, "offset": 100},
        },
    }


def test_a_static_code_names_its_key_and_who_is_paid() -> None:
    setting = order(code=f" {STATIC[:40]}\n{STATIC[40:]}", pix_key=None).order_details()["payment_settings"][
        0
    ]
    assert setting["pix_dynamic_code"] == {
        "code": STATIC,
        "merchant_name": "EMPRESA",
        "key": "39580525000189",
        "key_type": "CNPJ",
    }


def test_all_ways_to_pay_may_stand_together() -> None:
    found = order(
        link=" https://pay.example/1", digitable_line=f"{BOLETO[:10]} {BOLETO[10:]}"
    ).order_details()
    assert found["payment_settings"][1:] == [
        {"type": "payment_link", "payment_link": {"uri": "https://pay.example/1"}},
        {"type": "boleto", "boleto": {"digitable_line": BOLETO}},
    ]
    assert [
        one["type"] for one in order(code=None, digitable_line=BOLETO).order_details()["payment_settings"]
    ] == ["boleto"]


@settings(derandomize=True, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 10**8), st.integers(1, 50), st.booleans()), min_size=1, max_size=5),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.data(),
)
def test_whatever_is_ordered_adds_up_for_us_and_for_the_provider(
    lines: list[tuple[int, int, bool]], tax: int, shipping: int, data: st.DataObject
) -> None:
    items = [
        Item(str(n), f"Item {n}", cents, pieces, cents - 1 if sale else None)
        for n, (cents, pieces, sale) in enumerate(lines)
    ]
    gross = sum(one.total_cents for one in items) + tax + shipping
    if gross == 0:
        return
    discount = data.draw(st.integers(0, gross - 1))
    found = order(
        item=items, amount=None, tax_cents=tax, shipping_cents=shipping, discount_cents=discount,
        expires=NOW, expires_text="até amanhã", body="Olá",
    )  # fmt: skip
    details = found.order_details()
    assert details["total_amount"]["value"] == gross - discount
    provider.check(details, "order")
    header = Image("https://a.example/x.png")
    for message in (
        found.message(),
        Template("cobranca", "pt_BR", body=["Ana"], header=header, buttons=[OrderButton(found)]).message(),
    ):
        assert payloads.check(message) == []
        assert orders.find(message) == details


@pytest.mark.parametrize(
    ("more", "part"),
    [
        ({"amount": None}, "give amount .in reais. or amount_cents"),
        ({"amount_cents": 1}, "not both"),
        ({"amount": None, "amount_cents": 10.5}, "whole number of cents"),
        ({"amount": "0"}, "is zero"),
        ({"amount": "1.234"}, "ambiguous"),
        ({"code": dynamic("500.00")}, "asks for R. 500,00, the order for R. 812,50"),
        ({"code": dynamic()[:-1] + "x"}, "checksum"),
        ({"pix_key": None}, "pix_key is missing: a dynamic code"),
        ({"pix_key": "12345678900"}, "eleven digits that are no CPF"),
        ({"code": None}, "give a way to pay"),
        ({"code": None, "link": "pay.example"}, "PaymentLink: uri: "),
        ({"code": None, "digitable_line": BOLETO[:-1]}, "46 characters"),
        ({"code": 123}, "code is text, not int"),
        ({"code": None, "link": 5}, "link is text, not int"),
        ({"pix_key": 5}, "pix_key is text, not int"),
        ({"pix_key_type": 5}, "pix_key_type is text, not int"),
        ({"merchant_name": "   "}, "merchant_name: is blank"),
        ({"merchant_name": 5}, "merchant_name: must be text"),
        ({"item": [Item("1", "A", 81249)]}, "total_amount.value: is not subtotal"),
        ({"item": []}, "at least one"),
        ({"item": [("A", 81250)]}, "each in it is made with Item"),
        ({"item": Item("1", "A", 81250)}, "each in it is made with Item"),
        ({"item": "x" * 61}, "name: has 61 characters; 60"),
        ({"item": " "}, "name: is blank"),
        ({"tax_cents": 90000}, "price of the item is below zero"),
        ({"tax_cents": -1}, "order.tax.value: is below 0"),
        ({"tax_cents": "5"}, "tax_cents is a whole number"),
        ({"goods": "foo"}, "type: must be"),
        ({"expires": NOW}, "needs expires_text"),
        ({"expires": NOW, "expires_text": "x" * 121}, "has 121 characters; 120"),
        ({"expires": NOW.replace(tzinfo=None), "expires_text": "x"}, "with its time zone"),
        ({"expires": datetime(2020, 1, 1, tzinfo=UTC), "expires_text": "x"}, "300 seconds ahead"),
    ],
)
def test_what_cannot_be_right_is_refused(more: dict[str, Any], part: str) -> None:
    with pytest.raises(InputError, match=part):
        order(**more)


@pytest.mark.parametrize("reference", ["", "a b", "é", "a" * 61, "a/b", "a\n", 5])
def test_a_reference_is_of_few_characters(reference: Any) -> None:
    with pytest.raises(InputError, match="Order: reference_id: "):
        order_details(reference, amount=1, link="https://a.example", item="A")


@pytest.mark.parametrize(
    ("amount", "cents"),
    [
        ("1.234,56", 123456),
        ("1234.56", 123456),
        (1234.5, 123450),
        ("R$ 12,34", 1234),
        (8.1, 810),
        (19.99, 1999),
    ],
)
def test_an_amount_is_never_off_by_a_cent(amount: object, cents: int) -> None:
    assert order(amount=amount).order_details()["total_amount"]["value"] == cents


@settings(derandomize=True, deadline=None)
@given(st.integers(1, 10**12))
def test_any_amount_in_any_writing_is_the_same_cents(cents: int) -> None:
    reais, rest = divmod(cents, 100)
    written = [
        money.brl(cents),
        f"{reais},{rest:02}",
        f"{reais}.{rest:02}",
        f"{reais:,}.{rest:02}",
        cents / 100,
        Decimal(cents) / 100,
    ]
    assert {money.cents(one) for one in written} == {cents}


def test_only_orders_are_found() -> None:
    assert orders.find({"type": "text", "text": {"body": "Olá"}}) is None
    assert orders.find({"type": "interactive", "interactive": {"action": []}}) is None
    assert orders.find({"type": "template", "template": {"components": None}}) is None
    assert orders.find({}) is None


# --- the short form of campaign files


def expanded(**pix: Any) -> dict[str, Any]:
    file = campaigns.parse_file(
        {"name": "a", "app": "loja", "lane": "payment", "message": {"pix": pix}}, "a.yaml"
    )
    return file.message


ROW = {
    "reference": "MENS-1", "amount_cents": 81250, "code": dynamic(), "merchant_name": "EMPRESA", "pix_key": KEY,
    "pix_key_type": "EMAIL", "expires_epoch": "4005201900", "nome": "Ana", "digitable_line": BOLETO,
}  # fmt: skip


def test_the_short_form_is_what_the_helper_makes_of_a_row() -> None:
    message = expanded(item="Mensalidade", body="Olá {{ nome }}", expires_text="já")
    content, _ = campaigns.compile_message(message)
    made = order(expires=NOW + timedelta(seconds=300), expires_text="já", body="Olá Ana")
    assert content.render(ROW) == made.message()
    message = expanded(
        item="Mensalidade", template="mensalidade_pix", body=["{{ nome }}"], pix_key=KEY, language="pt_BR"
    )
    content, _ = campaigns.compile_message(message)
    sent = Template("mensalidade_pix", "pt_BR", body=["Ana"], buttons=[OrderButton(order())])
    assert content.render(ROW) == sent.message()


def test_the_short_form_may_ask_for_a_boleto_instead_or_beside() -> None:
    message = expanded(item="A", body="Olá", digitable_line="{{ digitable_line }}")
    assert [one["type"] for one in orders.find(message)["payment_settings"]] == ["boleto"]  # type: ignore[index]
    message = expanded(item="A", body="Olá", code="{{ code }}", link="https://a.example/{{ reference }}")
    assert [one["type"] for one in orders.find(message)["payment_settings"]] == [
        "pix_dynamic_code",
        "payment_link",
    ]  # type: ignore[index]


@pytest.mark.parametrize(
    ("pix", "part"),
    [
        ({"body": "Olá"}, "message.pix.item is missing"),
        (
            {"item": "A", "body": "Olá", "colour": "red"},
            "message.pix.colour: no such setting; there are item, ",
        ),
        ({"item": 1, "body": "Olá"}, "message.pix.item: is no text"),
        ({"item": "A", "body": ["Olá"]}, "only a template has a list"),
        ({"item": "A", "body": "Olá", "template": "x"}, "the list of its values"),
        ({"item": "A", "template": "x", "footer": "y"}, "has its own footer"),
        ({"item": "A", "body": "Olá", "pix_key": "11999998888"}, "message.pix.pix_key: .* no CPF"),
        ({"item": "A", "body": "Olá", "goods": "x"}, "message.pix.goods: digital-goods or physical-goods"),
    ],
)
def test_a_short_form_that_is_wrong_is_refused_with_its_place(pix: dict[str, Any], part: str) -> None:
    with pytest.raises(InputError, match=f"^a.yaml: .*{part}"):
        expanded(**pix)


def test_a_short_form_is_a_mapping() -> None:
    with pytest.raises(InputError, match=r"message\.pix is a mapping"):
        campaigns.parse_file({"name": "a", "app": "loja", "message": {"pix": "x"}}, "a.yaml")


def test_the_page_runs_as_written() -> None:
    page = (Path(__file__).parents[2] / "docs" / "pix.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {"code": dynamic("943.00")}
    exec(example, names)  # noqa: S102  # our own page
    assert payloads.check(names["message"]) == []
