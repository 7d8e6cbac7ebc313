"""What a campaign sends to one recipient: filled, checked, as bytes; without a database."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disparo import messages, order_details, recipients
from disparo.campaigns import compile_message, parse_file
from disparo.errors import InputError, PayloadError
from disparo.phone import parse
from disparo.recipient_files import Row
from disparo.whatsapp import payloads, texts

SEEDS = sorted((Path(__file__).parents[1] / "data" / "seeds").iterdir())
PHONE = "5511999998888"
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
steady = settings(derandomize=True, deadline=None)


def template(*parameters: Any, **extra: Any) -> dict[str, Any]:
    body = {"type": "body", "parameters": [{"type": "text", "text": text} for text in parameters]}
    named = {"name": "cart", "language": {"code": "pt_BR"}, "components": [body]}
    return {"type": "template", "template": named, **extra}


def sent(message: dict[str, Any], params: dict[str, Any], **options: Any) -> dict[str, Any]:
    filled: dict[str, Any] = orjson.loads(
        recipients.render(*compile_message(message, options), params, PHONE)
    )
    return filled


def refusal(message: dict[str, Any], params: dict[str, Any], *, raw: bool = False, **options: Any) -> str:
    with pytest.raises(PayloadError) as caught:
        recipients.check(*compile_message(message, options), params, PHONE, raw=raw)
    return str(caught.value)


def body_texts(message: dict[str, Any]) -> list[str]:
    return [one["text"] for one in message["template"]["components"][0]["parameters"]]


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: path.stem)
def test_the_bytes_of_a_seed_are_those_of_its_wire_value(path: Path) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    envelope, message = payloads.split(document)
    given = recipients.render(*compile_message(document), {}, PHONE)
    assert given == orjson.dumps(payloads.wire(PHONE, message, envelope))


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: path.stem)
def test_every_text_of_a_seed_may_be_a_column(path: Path) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    params: dict[str, Any] = {}

    def columns(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: columns(item) for key, item in value.items()}
        if isinstance(value, list):
            return [columns(item) for item in value]
        params[f"c{len(params)}"] = value
        return f"{{{{ c{len(params) - 1} }}}}"

    envelope, message = payloads.split(document)
    kept = {key: message[key] for key in ("type",)}
    filled = {**kept, **{key: columns(item) for key, item in message.items() if key != "type"}}
    given = recipients.render(*compile_message(envelope | filled), params, PHONE)
    assert given == orjson.dumps(payloads.wire(PHONE, message, envelope))


def test_the_recipient_is_the_rows_whatever_the_file_says() -> None:
    text = {"to": "{{DESTINATION_NUMBER}}", "type": "text", "text": {"body": "Oi"}}
    message, envelope = compile_message(text)
    assert envelope.columns == {"to"}
    assert recipients.render(message, envelope, {}, PHONE) == (
        b'{"messaging_product":"whatsapp","recipient_type":"individual","to":"5511999998888",'
        b'"type":"text","text":{"body":"Oi"}}'
    )


def test_the_type_comes_first_and_the_envelope_before_it() -> None:
    text = {"text": {"body": "Oi"}, "type": "text", "biz_opaque_callback_data": "{{ n }}"}
    assert list(sent(text, {"n": "x"})) == [
        *("messaging_product", "recipient_type", "to", "biz_opaque_callback_data", "type", "text")
    ]


def test_what_is_sent_unchecked_may_have_no_content() -> None:
    assert sent({"recipient_type": "group"}, {})["recipient_type"] == "group"


def test_the_filled_envelope_is_checked_too() -> None:
    message = template("Oi", biz_opaque_callback_data="{{ n }}")
    told = refusal(message, {"n": "x" * 513})
    assert told.startswith("biz_opaque_callback_data: has 513 characters; 512 are allowed")
    assert told.endswith("; it comes from the column n")


# --- texts that WhatsApp refuses


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a\nb", "a b"),
        ("a\r\n\r\nb", "a b"),
        ("a \t b", "a b"),
        ("a     b", "a b"),
        ("a    b", "a    b"),
        ("a" + " " * 50_000 + "b", "a b"),
        ("  a  b ", "  a  b "),
        ("\n", " "),
        ("a\u00a0\u2028b", "a\u00a0\u2028b"),
    ],
)
def test_a_run_of_breaks_and_blanks_becomes_one_blank(given: str, expected: str) -> None:
    assert texts.one_line(given) == expected


@steady
@given(st.text(st.sampled_from(" \n\r\tab"), max_size=40))
def test_one_line_has_nothing_that_is_refused_and_keeps_the_words(text: str) -> None:
    line = texts.one_line(text)
    assert not any(part in line for part in ("\n", "\r", "\t", " " * 5))
    assert line.split() == text.split()
    assert texts.one_line(line) == line


def test_without_normalise_a_row_is_refused_with_path_column_and_what_to_do() -> None:
    told = refusal(template("Oi", "Rua {{ rua }}"), {"rua": "A,\n12"})
    assert told == (
        "template.components[0].parameters[1].text: holds a line break, a tab or more than four blanks in a row; "
        "it comes from the column rua; `normalise: true` in the campaign file makes one blank of such a run"
    )


@pytest.mark.parametrize("rua", ["A\tB", "A\r\nB", "A     B", "A\n"])
def test_normalise_lets_it_pass_on_one_line(rua: str) -> None:
    message = template("Rua {{ rua }}", "{{ rua }}")
    assert "normalise" in refusal(message, {"rua": rua})
    recipients.check(*compile_message(message, {"normalise": True}), {"rua": rua}, PHONE, raw=False)
    line = " ".join(rua.split()) + (" " if rua.endswith("\n") else "")
    assert body_texts(sent(message, {"rua": rua}, normalise=True)) == [f"Rua {line}", line]
    assert body_texts(sent(message, {"rua": rua})) == [f"Rua {rua}", rua]


def test_static_text_beside_a_placeholder_counts_as_well() -> None:
    message = template("Oi {{ nome }}   ", "Só\ttexto")
    params = {"nome": "Ana  "}
    told = refusal(message, params)
    assert "parameters[0].text: holds a line break, a tab or more than four blanks in a row; it comes" in told
    assert (
        "parameters[1].text: holds a line break, a tab or more than four blanks in a row; `normalise" in told
    )
    assert body_texts(sent(message, params, normalise=True)) == ["Oi Ana ", "Só texto"]


def test_normalise_touches_template_parameters_only() -> None:
    text = {"type": "text", "text": {"body": "Oi {{ nome }},\n\ttudo bem?     Sim"}}
    assert sent(text, {"nome": "A\nB"}, normalise=True)["text"]["body"] == "Oi A\nB,\n\ttudo bem?     Sim"
    payload = {"type": "button", "sub_type": "quick_reply", "index": 0}
    payload["parameters"] = [{"type": "payload", "payload": "{{ p }}"}]  # type: ignore[assignment]
    message = template("x")
    message["template"]["components"].append(payload)
    filled = sent(message, {"p": "a\tb"}, normalise=True)
    assert filled["template"]["components"][1]["parameters"][0]["payload"] == "a\tb"


def test_normalise_reaches_cards_and_lists_that_come_from_a_column() -> None:
    message = template()
    cards = [{"components": [{"type": "body", "parameters": [{"type": "text", "text": "{{ x }}"}]}]}]
    message["template"]["components"] = [
        {"type": "carousel", "cards": cards},
        {"type": "body", "parameters": "{{ ps }}"},
    ]
    ps = [{"type": "text", "text": "a\nb"}]
    filled = sent(message, {"x": "c\nd", "ps": ps}, normalise=True)
    first, second = filled["template"]["components"]
    assert first["cards"][0]["components"][0]["parameters"][0]["text"] == "c d"
    assert second["parameters"][0]["text"] == "a b"


@pytest.mark.parametrize("blank", ["", "  ", "\n"])
@pytest.mark.parametrize("normalise", [True, False])
def test_a_parameter_that_comes_out_blank_refuses_the_row(blank: str, normalise: bool) -> None:
    told = refusal(template("{{ nome }}"), {"nome": blank}, normalise=normalise)
    assert told.startswith("template.components[0].parameters[0].text: ")
    assert "it comes from the column nome" in told
    recipients.check(
        *compile_message(template("{{ nome | default('cliente') }}")), {"nome": blank}, PHONE, raw=False
    )


def test_a_blank_cell_is_told_how_to_be_filled_and_a_number_how_to_be_text() -> None:
    assert refusal(template("{{ nome }}"), {"nome": " "}).endswith(
        "; it comes from the column nome; {{ nome | default('…') }} fills blank cells"
    )
    assert refusal(template("{{ idade }}"), {"idade": 7}).endswith(
        "; it comes from the column idade; {{ idade | string }} makes text of a number"
    )
    recipients.check(*compile_message(template("{{ idade | string }}")), {"idade": 7}, PHONE, raw=False)


def test_a_raw_campaign_is_sent_as_it_is() -> None:
    message, envelope = compile_message(template("{{ x }}"), {})
    recipients.check(message, envelope, {"x": "a\nb"}, PHONE, raw=True)


# --- as the list is read


def read(message: dict[str, Any], values: dict[str, Any], **settings: Any) -> Any:
    file = parse_file({"name": "n", "app": "loja", "message": message, **settings}, "f.yaml")
    reader = recipients.Reader(file, list(values), NOW, ZoneInfo("America/Sao_Paulo"))
    return reader.read(Row(2, {"to": PHONE, **values}, [], None))


def test_a_list_is_read_by_the_options_of_its_campaign() -> None:
    assert "`normalise: true`" in read(template("{{ x }}"), {"x": "a\nb"}).explanation
    assert isinstance(read(template("{{ x }}"), {"x": "a\nb"}, normalise=True), recipients.Recipient)
    assert "ambiguous" in read(template("{{ x | cents | brl }}"), {"x": "1.234"}).explanation
    assert isinstance(
        read(template("{{ x | cents | brl }}"), {"x": "1.234"}, numbers="br"), recipients.Recipient
    )
    assert body_texts(sent(template("{{ x | cents | brl }}"), {"x": "1.234"}, numbers="br")) == [
        "R$ 1.234,00"
    ]


def order(expires_in: int | None = None, reference: str = "{{ pedido }}") -> dict[str, Any]:
    made = order_details("R1", amount_cents=100, link="https://pay.example/1", item="A").order_details()
    made["reference_id"] = reference
    if expires_in is not None:
        at = int((NOW + timedelta(seconds=expires_in)).timestamp())
        made["order"]["expiration"] = {"timestamp": str(at), "description": "Vale hoje"}
    return made


def in_session(order: dict[str, Any]) -> dict[str, Any]:
    action = {"name": "review_and_pay", "parameters": order}
    return {
        "type": "interactive",
        "interactive": {"type": "order_details", "body": {"text": "Oi"}, "action": action},
    }


def in_template(order: dict[str, Any]) -> dict[str, Any]:
    message = template("Oi")
    parameters = [{"type": "action", "action": {"order_details": order}}]
    message["template"]["components"].append(
        {"type": "button", "sub_type": "order_details", "index": 0, "parameters": parameters}
    )
    return message


FORMS = [in_session, in_template]


@pytest.mark.parametrize("form", FORMS)
def test_an_order_of_any_campaign_is_sent_until_300_seconds_before_it_expires(form: Any) -> None:
    def message(expires_in: int | None) -> dict[str, Any]:
        made: dict[str, Any] = form(order(expires_in))
        return made

    for seconds in (-1, 299):
        refused = read(message(seconds), {"pedido": "P1"}, lane="utility")
        assert "past or less than 300 seconds ahead" in refused.explanation
    found = read(message(900), {"pedido": "P1"}, lane="utility")
    assert found.not_after == NOW + timedelta(seconds=600)
    for own, kept in (("2026-11-21T12:05Z", 300), ("2026-11-21T12:14Z", 600)):
        found = read(message(900), {"pedido": "P1", "not_after": own}, lane="utility")
        assert found.not_after == NOW + timedelta(seconds=kept)
    assert read(message(None), {"pedido": "P1"}, lane="utility").not_after is None
    assert isinstance(read(message(-1), {"pedido": "P1"}, raw=True), recipients.Recipient)


@pytest.mark.parametrize("form", FORMS)
def test_orders_of_a_campaign_have_a_reference_each(form: Any) -> None:
    with pytest.raises(InputError, match="every row would ask with the same reference_id, 'R1'"):
        read(form(order(reference="R1")), {"pedido": "P1"})
    assert isinstance(read(form(order(reference="R1")), {}, raw=True), recipients.Recipient)


def test_an_order_status_may_name_one_order() -> None:
    parameters = {"reference_id": "R1", "order": {"status": "processing"}}
    action = {"name": "review_order", "parameters": parameters}
    status = {"type": "order_status", "body": {"text": "Oi"}, "action": action}
    assert isinstance(read({"type": "interactive", "interactive": status}, {}), recipients.Recipient)


def test_normalise_is_no_longer_without_effect() -> None:
    base = {"name": "n", "app": "loja", "message": template("x"), "normalise": True}
    assert parse_file(base, "f").without_effect == []
    assert parse_file({**base, "fallback": {"type": "text"}}, "f").without_effect == ["fallback"]


def button(text: str, **more: Any) -> dict[str, Any]:
    parameters = [{"type": "text", "text": text}]
    return {"type": "button", "sub_type": "url", "index": 0, "parameters": parameters, **more}


@pytest.mark.parametrize("code", ["ab\nc", "abc\t", "a     b"])
@pytest.mark.parametrize("normalise", [True, False])
def test_the_parameter_of_a_link_is_refused_rather_than_repaired(code: str, normalise: bool) -> None:
    message = template("{{ code }}")
    message["template"]["components"].append(button("{{ code }}"))
    told = refusal(message, {"code": code}, normalise=normalise)
    assert "template.components[1].parameters[0].text: holds a line break, a tab or" in told
    assert "normalise" not in told.partition("components[1]")[2]
    filled = sent(message, {"code": code}, normalise=normalise)
    assert filled["template"]["components"][1] == button(code)
    recipients.check(*compile_message(message), {"code": "abc"}, PHONE, raw=False)


def test_a_blank_in_the_parameter_of_a_link_is_odd() -> None:
    message = template("Oi")
    message["template"]["components"].append(button("a b"))
    (odd,) = payloads.warnings(message)
    assert (odd.path, odd.message) == (
        "template.components[1].parameters[0].text",
        "holds a blank, which no address and no one-time code has",
    )
    message["template"]["components"][1] = button("ab")
    assert payloads.warnings(message) == []


def test_normalise_leaves_buttons_of_cards_and_columns_alone() -> None:
    body = {"type": "BODY", "parameters": [{"type": "text", "text": "a\nb"}]}
    message = template()
    message["template"]["components"] = "{{ parts }}"
    parts = [body, button("a\nb"), {"type": "carousel", "cards": [{"components": [body, button("a\nb")]}]}]
    found = sent(message, {"parts": parts}, normalise=True)["template"]["components"]
    line = {"type": "BODY", "parameters": [{"type": "text", "text": "a b"}]}
    assert found == [
        line,
        button("a\nb"),
        {"type": "carousel", "cards": [{"components": [line, button("a\nb")]}]},
    ]


# --- PIX codes


def pix(code: str) -> dict[str, Any]:
    (path,) = [path for path in SEEDS if path.stem == "pix_template"]
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    setting(document)["code"] = code
    return document


def setting(message: dict[str, Any]) -> dict[str, Any]:
    order = message["template"]["components"][0]["parameters"][0]["action"]["order_details"]
    found: dict[str, Any] = order["payment_settings"][0]["pix_dynamic_code"]
    return found


def test_a_code_loses_its_line_breaks_wherever_it_comes_from() -> None:
    code = " 0002 01\r\n0102\n"
    assert setting(sent(pix(code), {}))["code"] == "0002 010102"
    assert setting(sent(pix("{{ code }}"), {"code": code}))["code"] == "0002 010102"
    assert setting(sent(pix("{% if true %}{{ code }}{% endif %}"), {"code": code}))["code"] == "0002 010102"
    message = pix("x")
    whole = dict(setting(message), code=code)
    message["template"]["components"][0]["parameters"][0]["action"]["order_details"]["payment_settings"] = (
        "{{ ways }}"
    )
    ways = [{"type": "pix_dynamic_code", "pix_dynamic_code": whole}]
    assert setting(sent(message, {"ways": ways}))["code"] == "0002 010102"


def payment_request(code: str, **request: Any) -> dict[str, Any]:
    way = {"type": "pix_dynamic_code", "pix_dynamic_code": {"code": code}}
    action = {"payment_request": {"payment_setting": way, **request}}
    parameter = {"type": "action", "action": action}
    message = template("Oi")
    message["template"]["components"].append(
        {"type": "button", "sub_type": "payment_request", "index": 0, "parameters": [parameter]}
    )
    return message


def test_the_code_of_a_payment_request_is_cleaned_without_a_name_beside_it() -> None:
    for message, params in (
        (payment_request("{{ c }}"), {"c": " 0002\n01 "}),
        (payment_request(" 0002\n01 "), {}),
    ):
        for filled in (sent(message, params), payloads.wire(PHONE, sent(message, params), {})):
            action = filled["template"]["components"][1]["parameters"][0]["action"]
            assert action["payment_request"]["payment_setting"]["pix_dynamic_code"] == {"code": "000201"}


def test_the_code_in_a_card_is_cleaned() -> None:
    message = payment_request(" a\nb ")
    cards = [{"card_index": 0, "components": message["template"]["components"]}]
    message["template"]["components"] = [{"type": "carousel", "cards": cards}]
    found = payloads.wire(PHONE, message, {})
    assert found["template"] == sent(message, {})["template"]
    assert " a" not in json.dumps(found)


def test_what_only_looks_like_a_code_stays() -> None:
    data = {"merchant_name": "x", "code": " a\nb ", "pix_dynamic_code": {"code": " a\nb "}}
    message = template("Oi")
    flow = {"type": "action", "action": {"flow_action_data": data}}
    message["template"]["components"].append(
        {"type": "button", "sub_type": "flow", "index": 0, "parameters": [flow]}
    )
    assert sent(message, {})["template"] == message["template"]
    whole = dict(message["template"]["components"][1]["parameters"][0]["action"], flow_action_data="{{ d }}")
    with_column = json.loads(json.dumps(message))
    with_column["template"]["components"][1]["parameters"][0]["action"] = whole
    assert sent(with_column, {"d": data})["template"] == message["template"]
    assert payloads.wire(PHONE, message, {})["template"] is message["template"]


# --- single messages


def test_a_single_message_has_its_envelope_checked_and_nothing_left_to_fill() -> None:
    phone = parse(PHONE)
    text = {"to": "{{DESTINATION_NUMBER}}", "type": "text", "text": {"body": "Oi"}}
    assert messages.compose(text, phone)["to"] == PHONE
    for wrong, part in (
        ({"biz_opaque_callback_data": "{{ n }}"}, "{{ n }} would be sent as it stands"),
        ({"biz_opaque_callback_data": "x" * 513}, "has 513 characters"),
        ({"context": {}}, "context.message_id: is required"),
    ):
        with pytest.raises(PayloadError) as caught:
            messages.compose({**text, **wrong}, phone)
        assert part in str(caught.value)
