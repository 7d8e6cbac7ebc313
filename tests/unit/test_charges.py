"""Rows of charges: what is derived of them, when they are too late, and what they must not contradict."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from disparo import campaigns, order_details
from disparo.errors import InputError
from disparo.pix import ChargeReader
from disparo.recipient_files import Row
from disparo.recipients import Recipient, Reject
from disparo.whatsapp import br_code, orders

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
ZONE = ZoneInfo("America/Sao_Paulo")
KEY = "financeiro@colegio.example"
BOLETO = "03399026944140000002628346101018898510000008848"


def signed(body: str) -> str:
    return f"{body}6304" + br_code.checksum(f"{body}6304")


def dynamic(number: int = 1) -> str:
    return signed(
        f"00020101021226310014br.gov.bcb.pix2509pix.ex/q{number}5204000053039865802BR5907EMPRESA6001B"
    )


def static(more: str = "") -> str:
    return signed(
        f"00020126360014br.gov.bcb.pix0114395805250001895204000053039865802BR5907EMPRESA6001B{more}"
    )


def read(values: dict[str, str], message: dict[str, Any] | None = None, **more: Any) -> Recipient | Reject:
    message = message or {"pix": {"item": "Mensalidade", "body": "Olá"}}
    document = {"name": "a", "app": "loja", "lane": "payment", "message": message, **more}
    row = {"to": "5511999998888", "reference": "R1", "amount": "812,50", **values}
    reader = ChargeReader(campaigns.parse_file(document, "a.yaml"), list(row), NOW, ZONE)
    return reader.read(Row(2, row, list(row.values()), None))


def good(*args: Any, **more: Any) -> Recipient:
    found = read(*args, **more)
    assert isinstance(found, Recipient), found
    return found


def why(*args: Any, **more: Any) -> str:
    found = read(*args, **more)
    assert isinstance(found, Reject)
    return found.explanation


def test_a_row_of_a_static_code_needs_no_more_than_the_amount() -> None:
    found = good({"code": f"{static()}\n"})
    params = json.loads(found.params)
    assert (params["pix_key"], params["pix_key_type"], params["merchant_name"]) == (
        "39580525000189",
        "CNPJ",
        "EMPRESA",
    )
    assert (found.amount_cents, found.code) == (81250, static())


def test_blanks_around_a_reference_are_left_out() -> None:
    found = good({"code": static(), "reference": " R1\u00a0"})
    assert (found.key, json.loads(found.params)["reference"]) == ("R1", "R1")


def test_a_dynamic_code_needs_the_key_in_the_file_or_in_a_column() -> None:
    assert "the column pix_key is empty, and a dynamic code" in why({"code": dynamic()})
    found = good({"code": dynamic(), "pix_key": "529.982.247-25", "merchant_name": "Colégio"})
    params = json.loads(found.params)
    assert (params["pix_key"], params["pix_key_type"], params["merchant_name"]) == (
        "52998224725",
        "CPF",
        "Colégio",
    )
    assert "no CPF; a phone is written with +55" in why({"code": dynamic(), "pix_key": "11999998888"})
    named = {"pix": {"item": "A", "body": "Olá", "pix_key": KEY}}
    assert good({"code": dynamic()}, named).code == dynamic()


def test_without_a_code_the_row_says_what_is_missing() -> None:
    assert "the column pix_key is empty" in why({"code": ""})
    named = {"pix": {"item": "A", "body": "Olá", "pix_key": KEY}}
    assert "the column merchant_name is empty, and there is no code" in why({"code": ""}, named)


def test_a_boleto_is_checked_and_sent_as_digits() -> None:
    boleto = {"pix": {"item": "A", "body": "Olá", "digitable_line": "{{ digitable_line }}"}}
    found = good({"digitable_line": f"{BOLETO[:10]} {BOLETO[10:]}"}, boleto)
    assert json.loads(found.params)["digitable_line"] == BOLETO
    assert "wrong digit" in why({"digitable_line": f"{BOLETO[:-1]}0"}, boleto)


# -- when it is too late


@pytest.mark.parametrize(
    ("values", "not_after"),
    [
        ({"expires": "2026-12-01T15:00Z"}, "2026-12-01T14:30"),
        ({"expires": "2026-12-03"}, "2026-12-04T02:29:59"),
        ({"expires": "2026-12-01T15:00Z", "not_after": "2026-12-01T14:59Z"}, "2026-12-01T14:55"),
        ({"expires": "2026-12-01T15:00Z", "not_after": "2026-12-01T13:00Z"}, "2026-12-01T13:00"),
        ({"expires": "2026-12-01T12:20Z", "not_after": "2026-12-01T13:00Z"}, "2026-12-01T12:15"),
    ],
)
def test_a_request_is_too_late_a_while_before_its_code_dies(values: dict[str, str], not_after: str) -> None:
    found = good({"code": static(), **values})
    assert found.not_after == datetime.fromisoformat(not_after).replace(tzinfo=UTC)
    assert found.due_on is None


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"expires": "2026-11-30"}, "past or less than 300 seconds ahead"),
        (
            {"expires": "2026-12-01T12:04:59Z", "not_after": "2026-12-01T12:04Z"},
            "past or less than 300 seconds",
        ),
        ({"expires": "2026-12-01T12:30Z"}, "less than 30 minutes to pay; with a later `not_after`"),
        ({"expires": "soon"}, "is not a date"),
    ],
)
def test_a_code_that_dies_too_soon_is_refused(values: dict[str, str], part: str) -> None:
    assert part in why({"code": static(), **values})


@pytest.mark.parametrize("column", ["amount_cents", "amount", "not_after", "due", "expires"])
@pytest.mark.parametrize("phone", ["+5511988887777", "(11) 98888-7777", "+55 11 98888 7777"])
def test_a_phone_in_a_wrong_column_is_not_quoted(column: str, phone: str) -> None:
    told = why({"code": dynamic(), "pix_key": KEY, column: phone})
    assert "8888" not in told
    assert "****7777" in told or column == "amount"


def test_the_day_it_is_due_is_not_when_it_dies() -> None:
    found = good({"code": static(), "due": "03/12"})
    assert (str(found.due_on), found.expires_at, found.not_after) == ("2026-12-03", None, None)


def test_the_order_expires_with_the_row() -> None:
    message = {"pix": {"item": "A", "body": "Olá", "expires_text": "Vale até {{ expires }}"}}
    found = good({"code": static(), "expires": "2026-12-03"}, message)
    content, _ = campaigns.compile_message(orders.expand(message))
    order = orders.find(content.render(json.loads(found.params)))
    assert order is not None
    assert order["order"]["expiration"] == {"timestamp": "1796353199", "description": "Vale até 2026-12-03"}
    assert "the column expires is empty" in why({"code": static(), "expires": ""}, message)


# -- a message that was written by hand


def by_hand(**more: Any) -> dict[str, Any]:
    message = order_details("R1", amount_cents=81250, code=static(), item="A", body="Olá").message()
    message["interactive"]["action"]["parameters"] |= {"reference_id": "{{ reference }}"} | more
    return message


def test_a_message_that_contradicts_its_row_is_refused() -> None:
    assert good({}, by_hand()).code == static()
    assert "does not hold the row's reference" in why({"x": "R2"}, by_hand(reference_id="{{ x }}"))
    for reference in ("1", "2", "12", "26"):
        row = {"reference": reference, "x": "MENS-2026-12"}
        assert "does not hold the row's reference" in why(row, by_hand(reference_id="{{ x }}"))
    assert good({"reference": "R1", "x": "R1"}, by_hand(reference_id="{{ x }}")).key == "R1"
    with pytest.raises(InputError, match="every row would ask with the same reference_id, 'R1'"):
        read({}, by_hand(reference_id="R1"))
    assert good({}, by_hand(reference_id="{{ reference }}-2")).key == "R1"
    assert "the message asks for R$ 812,50, the row says R$ 812,51" in why({"amount": "812,51"}, by_hand())
    other = signed(
        "00020126360014br.gov.bcb.pix01143958052500018952040000530398654041.005802BR5907EMPRESA6001B"
    )
    order = order_details("R1", amount_cents=100, code=other, item="A")
    settings = order.order_details()["payment_settings"]
    assert "the code asks for R$ 1,00, the row says R$ 812,50" in why({}, by_hand(payment_settings=settings))
    settings[0]["pix_dynamic_code"]["code"] = other[:-1] + "x"
    assert "checksum" in why({}, by_hand(payment_settings=settings))
    assert good({}, by_hand(payment_settings=settings), raw=True).code is None


def test_the_expiry_that_a_message_has_by_hand_counts_as_well() -> None:
    message = by_hand()
    order = message["interactive"]["action"]["parameters"]["order"]
    expires_at = NOW + timedelta(hours=2)
    order["expiration"] = {"timestamp": str(int(expires_at.timestamp())), "description": "x"}
    found = good({}, message)
    assert (found.not_after, found.expires_at) == (NOW + timedelta(minutes=90), expires_at)
    # The earlier of both counts.
    assert good({"expires": "2026-12-01T13:00Z"}, message).not_after == NOW + timedelta(minutes=30)
    assert good({"expires": "2026-12-02"}, message).expires_at == expires_at
    order["expiration"]["timestamp"] = str(int(NOW.timestamp()) + 299)
    assert "less than 300 seconds ahead" in why({}, message)


def test_a_name_or_key_that_is_not_the_codes_is_a_warning() -> None:
    assert good({"code": static(), "merchant_name": "Empresa"}).warning is None
    told = good({"code": static(), "merchant_name": "Outra"}).warning
    assert told == "merchant_name is another than the code's, “EMPRESA”"
    told = good({"code": static(), "pix_key": KEY}).warning
    assert told == "key is another than the code's, to which the money goes"


# -- what names one bill


@pytest.mark.parametrize(
    ("values", "bills"),
    [
        ({"code": static()}, {"code": static()}),
        ({"code": static("62080504PED1")}, {"code": static("62080504PED1"), "txid": "PED1"}),
        ({"code": dynamic(), "pix_key": KEY}, {"code": dynamic(), "url": "pix.ex/q1"}),
        ({"code": static(), "txid": "T1"}, {"code": static(), "txid": "T1"}),
        ({"code": static(), "digitable_line": BOLETO}, {"code": static(), "digitable_line": BOLETO}),
    ],
)
def test_what_must_not_be_in_another_charge_is_known_of_a_row(
    values: dict[str, str], bills: dict[str, str]
) -> None:
    assert dict(good(values).bills) == bills
