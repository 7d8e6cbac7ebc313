import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from disparo import document, messages, phone
from disparo.campaigns import parse_file
from disparo.errors import Fault, InputError, PayloadError
from disparo.whatsapp import br_code, payloads
from tests.json_paths import at

# The same cases in every run, and no clock: the machine may be busy.
steady = settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])

SEEDS = Path(__file__).parents[1] / "data" / "seeds"
# The session page of Gupshup shows this instead of a code.
PLACEHOLDER = "00020101021226.gov.bcb.pix.example.com..."
VALID = (
    "00020101021226770014BR.GOV.BCB.PIX2555pix.example.com/qr/93598be0-1bd0-4997-8318-81776a1d8a99"
    "5204000053039865802BR5907EMPRESA6009SAO PAULO62070503***6304EEAB"
)
STATIC_ONE_REAL = (
    "00020126330014BR.GOV.BCB.PIX01115794666323452040000530398654041.005802BR"
    "5925CLENILTON CRUZ DE ALENCAR6006MANAUS62070503***6304FA88"
)


def seed(name: str) -> Any:
    return document.load(SEEDS / f"{name}.json", None, name)


def message(name: str) -> dict[str, Any]:
    return payloads.split(seed(name))[1]


MISSING = object()


def changed(name: str, path: str, value: Any) -> dict[str, Any]:
    found = copy.deepcopy(message(name))
    container, key = at(found, path)
    if value is MISSING:
        del container[key]
    else:
        container[key] = value
    return found


def only_fault(found: dict[str, Any]) -> Fault:
    faults = payloads.check(found)
    assert len(faults) == 1, faults
    return faults[0]


PAGES = ["text", "interactive_button", "pix_session", "pix_template", "mpm_template"]


@pytest.mark.parametrize("name", PAGES)
def test_each_page_of_the_provider_is_sent_as_it_stands(name: str) -> None:
    document_ = seed(name)
    envelope, content = payloads.split(document_)
    assert payloads.check(content) == []
    assert payloads.check_envelope(envelope) == []
    assert payloads.wire(document_["to"], content, envelope) == document_
    assert list(payloads.wire(document_["to"], content, envelope)) == list(document_)


@pytest.mark.parametrize("name", PAGES)
def test_the_envelope_may_be_left_out(name: str) -> None:
    document_ = seed(name)
    sent = payloads.wire(document_["to"], message(name), {})
    assert sent == document_
    assert list(sent)[:4] == ["messaging_product", "recipient_type", "to", "type"]


def test_what_an_envelope_says_stays_and_only_the_recipient_is_replaced() -> None:
    envelope, content = payloads.split(
        {
            "to": "+55 (11) 99999-8888",
            "biz_opaque_callback_data": "b-1",
            "context": {"message_id": "wamid.x"},
            "recipient_type": "group",
            "text": {"body": "Oi"},
            "type": "text",
        }
    )
    assert content == {"text": {"body": "Oi"}, "type": "text"}
    assert payloads.wire("5511999998888", content, envelope) == {
        "messaging_product": "whatsapp",
        "recipient_type": "group",
        "to": "5511999998888",
        "biz_opaque_callback_data": "b-1",
        "context": {"message_id": "wamid.x"},
        "type": "text",
        "text": {"body": "Oi"},
    }


def test_a_recipient_known_only_to_the_business_needs_no_number() -> None:
    sent = payloads.wire("", message("text"), {"recipient": "BR.abc", "to": ""})
    assert sent["recipient"] == "BR.abc"
    assert "to" not in sent


@pytest.mark.parametrize("value", [[], "text", None, 5])
def test_a_document_that_is_no_object_is_no_message(value: Any) -> None:
    with pytest.raises(InputError, match="A message is an object"):
        payloads.split(value)


@pytest.mark.parametrize(
    ("envelope", "path"),
    [
        ({"messaging_product": "sms"}, "messaging_product"),
        ({"recipient_type": "everybody"}, "recipient_type"),
        ({"context": {}}, "context.message_id"),
        ({"biz_opaque_callback_data": "x" * 513}, "biz_opaque_callback_data"),
        ({"recipient": "5511999998888"}, "recipient"),
        ({"recipient": "BR."}, "recipient"),
        ({"recipient": "BR." + "a" * 129}, "recipient"),
        ({"product_policy": "LAX"}, "product_policy"),
        ({"recipient_identity_key_hash": 5}, "recipient_identity_key_hash"),
    ],
)
def test_an_envelope_that_the_provider_refuses_is_refused(envelope: dict[str, Any], path: str) -> None:
    (fault,) = payloads.check_envelope(envelope)
    assert fault.path == path


def test_a_reaction_quotes_nothing() -> None:
    envelope = {"context": {"message_id": "wamid.x"}, "recipient": "BR.a1", "to": 5}
    assert payloads.check_envelope(envelope, {"type": "text"}) == []
    (fault,) = payloads.check_envelope(envelope, {"type": "reaction"})
    assert fault.path == "context"
    reaction = {"type": "reaction", "reaction": {"message_id": "wamid.y", "emoji": "👍"}}
    with pytest.raises(PayloadError, match="context"):
        messages.compose({**reaction, "context": {"message_id": "wamid.x"}}, phone.parse("5511999998888"))


CODE = "interactive.action.parameters.payment_settings[0].pix_dynamic_code.code"
TEMPLATE_PIX = "template.components[0].parameters[0].action.order_details"


@pytest.mark.parametrize("name", ["pix_session", "pix_template"])
def test_line_breaks_that_came_into_a_pix_code_by_copying_are_taken_out_when_it_is_sent(name: str) -> None:
    path = CODE if name == "pix_session" else f"{TEMPLATE_PIX}.payment_settings[0].pix_dynamic_code.code"
    whole = message(name)
    container, key = at(whole, path)
    code = container[key]
    broken = changed(name, path, f" {code[:90]}\r\n{code[90:]}\n")
    before = copy.deepcopy(broken)
    assert payloads.check(broken) == []
    assert payloads.wire("5511999998888", broken, {}) == payloads.wire("5511999998888", whole, {})
    assert broken == before
    assert "line breaks" in payloads.warnings(broken)[0].message


def test_a_code_that_no_bank_will_take_is_sent_with_a_warning() -> None:
    found = changed("pix_session", CODE, PLACEHOLDER)
    assert payloads.check(found) == []
    (warning,) = payloads.warnings(found)
    assert warning.path == CODE
    assert "payers will not be able to use it" in warning.message
    assert payloads.wire("1", found, {})["interactive"] == found["interactive"]


def test_a_masked_key_is_sent_with_a_warning() -> None:
    name, key = payloads.warnings(message("pix_template"))
    assert name.path == f"{TEMPLATE_PIX}.payment_settings[0].pix_dynamic_code.merchant_name"
    assert key.path == f"{TEMPLATE_PIX}.payment_settings[0].pix_dynamic_code.key"
    assert key.value is None


def test_a_static_code_and_a_code_of_another_amount_are_warned_of() -> None:
    warnings = payloads.warnings(changed("pix_session", CODE, STATIC_ONE_REAL))
    assert [warning.message for warning in warnings] == [
        "asks for 100 cents, total_amount says 50000",
        "is a static PIX code, which can be paid more than once",
        "is another than the code's, “CLENILTON CRUZ DE ALENCAR”",
    ]


PIX = "interactive.action.parameters"
BUTTONS = "interactive.action.buttons"
MPM = "template.components[2].parameters[0].action"
BUTTON = {"type": "reply", "reply": {"id": "x", "title": "X"}}


def buttons(count: int) -> list[Any]:
    return [{"type": "reply", "reply": {"id": f"id{n}", "title": f"Nr {n}"}} for n in range(count)]


def products(count: int) -> list[dict[str, str]]:
    return [{"product_retailer_id": f"sku{n}"} for n in range(count)]


@pytest.mark.parametrize(
    ("name", "path", "value", "sentence"),
    [
        ("text", "text", MISSING, "is required"),
        ("text", "text", "Oi", "must be an object, not text"),
        ("text", "text.body", MISSING, "is required"),
        ("text", "text.body", "", "is empty"),
        ("text", "text.body", "x" * 4097, "has 4097 characters; 4096 are allowed"),
        ("text", "text.body", 5, "must be text, not a number"),
        ("text", "text.preview_url", "yes", "must be true or false, not text"),
        ("interactive_button", "interactive.type", MISSING, "is required"),
        ("interactive_button", "interactive.type", "butttons", "must be one of button, list, cta_url"),
        ("interactive_button", "interactive.body", MISSING, "is required"),
        ("interactive_button", "interactive.body.text", "x" * 1025, "has 1025 characters; 1024 are allowed"),
        ("interactive_button", "interactive.header.text", "x" * 61, "has 61 characters; 60 are allowed"),
        (
            "interactive_button",
            "interactive.header.type",
            "gif",
            "must be 'text', 'image', 'video' or 'document'",
        ),
        ("interactive_button", "interactive.footer.text", "x" * 61, "has 61 characters; 60 are allowed"),
        ("interactive_button", BUTTONS, [], "has 0 entries; at least 1 must be there"),
        ("interactive_button", BUTTONS, buttons(4), "has 4 entries; at most 3 must be there"),
        ("interactive_button", BUTTONS, {}, "must be an array, not an object"),
        ("interactive_button", f"{BUTTONS}[0].type", "url", "must be 'reply'"),
        ("interactive_button", f"{BUTTONS}[0].reply.title", "x" * 21, "has 21 characters; 20 are allowed"),
        ("interactive_button", f"{BUTTONS}[0].reply.title", "", "is empty"),
        ("interactive_button", f"{BUTTONS}[0].reply.id", "x" * 257, "has 257 characters; 256 are allowed"),
        ("interactive_button", f"{BUTTONS}[0].reply.id", " a", "begins or ends with a blank"),
        ("pix_session", "interactive.action.name", "pay", "must be 'review_and_pay'"),
        ("pix_session", f"{PIX}.reference_id", MISSING, "is required"),
        ("pix_session", f"{PIX}.reference_id", "", "is empty"),
        ("pix_session", f"{PIX}.reference_id", "a b", "is not written as it must be"),
        ("pix_session", f"{PIX}.reference_id", "ção", "is not written as it must be"),
        ("pix_session", f"{PIX}.reference_id", "x" * 61, "has 61 characters; 60 are allowed"),
        ("pix_session", f"{PIX}.type", "goods", "must be 'digital-goods' or 'physical-goods'"),
        ("pix_session", f"{PIX}.payment_type", "upi", "must be 'br'"),
        ("pix_session", f"{PIX}.currency", "USD", "must be 'BRL'"),
        ("pix_session", f"{PIX}.payment_settings", MISSING, "is required"),
        ("pix_session", f"{PIX}.payment_settings", [], "has 0 entries; at least 1"),
        (
            "pix_session",
            f"{PIX}.payment_settings[0].type",
            "pix",
            "must be one of pix_dynamic_code, payment_link",
        ),
        ("pix_session", f"{PIX}.payment_settings[0].pix_dynamic_code", MISSING, "is required"),
        ("pix_session", CODE, MISSING, "is required"),
        ("pix_session", CODE, "", "is empty"),
        ("pix_session", CODE.replace(".code", ".merchant_name"), MISSING, "is required"),
        ("pix_session", CODE.replace(".code", ".key"), MISSING, "is required"),
        (
            "pix_session",
            CODE.replace(".code", ".key_type"),
            "cpf",
            "must be 'CPF', 'CNPJ', 'EMAIL', 'PHONE' or 'EVP'",
        ),
        ("pix_session", f"{PIX}.total_amount", MISSING, "is required"),
        ("pix_session", f"{PIX}.total_amount.value", "50000", "must be a whole number, not text"),
        ("pix_session", f"{PIX}.total_amount.value", 500.5, "must be a whole number, not a number"),
        ("pix_session", f"{PIX}.total_amount.value", True, "must be a whole number, not true or false"),
        ("pix_session", f"{PIX}.total_amount.value", -1, "is below 0"),
        ("pix_session", f"{PIX}.total_amount.value", 0, "is zero"),
        (
            "pix_session",
            f"{PIX}.total_amount.value",
            49999,
            "is not subtotal + tax + shipping - discount, 50000",
        ),
        ("pix_session", f"{PIX}.total_amount.offset", 1000, "must be 100"),
        ("pix_session", f"{PIX}.order.status", "completed", "must be 'pending'"),
        ("pix_session", f"{PIX}.order.items", [], "has 0 entries; at least 1"),
        ("pix_session", f"{PIX}.order.items[0].name", "x" * 61, "has 61 characters; 60 are allowed"),
        ("pix_session", f"{PIX}.order.items[0].quantity", 0, "is below 1"),
        ("pix_session", f"{PIX}.order.items[0].retailer_id", MISSING, "is required"),
        ("pix_session", f"{PIX}.order.items[0].amount.offset", "100", "must be 100"),
        ("pix_session", f"{PIX}.order.subtotal.value", 40000, "is not the sum of the items, 50000"),
        ("pix_session", f"{PIX}.order.tax", MISSING, "is required"),
        ("pix_session", f"{PIX}.order.tax.description", "x" * 61, "has 61 characters; 60 are allowed"),
        ("pix_template", f"{TEMPLATE_PIX}.reference_id", "#1", "is not written as it must be"),
        (
            "pix_template",
            f"{TEMPLATE_PIX}.total_amount.value",
            99,
            "is not subtotal + tax + shipping - discount",
        ),
        ("pix_template", "template.components[0].index", MISSING, "is required"),
        ("pix_template", "template.components[0].index", "first", "is the place of the button"),
        ("pix_template", "template.components[0].sub_type", MISSING, "is required"),
        (
            "pix_template",
            "template.components[0].sub_type",
            "pix",
            "must be one of quick_reply, url, copy_code",
        ),
        ("pix_template", "template.components[0].parameters", [], "has 0 entries; at least 1"),
        ("pix_template", "template.components[0].parameters[0].action", MISSING, "is required"),
        ("pix_template", TEMPLATE_PIX, MISSING, "is required"),
        ("pix_template", "template.language.policy", "fallback", "must be 'deterministic'"),
        ("mpm_template", "template.name", MISSING, "is required"),
        ("mpm_template", "template.name", "Black Friday", "is not written as it must be"),
        ("mpm_template", "template.language", MISSING, "is required"),
        ("mpm_template", "template.language", "pt_BR", "must be an object, not text"),
        ("mpm_template", "template.language.code", "português", "is not written as it must be"),
        ("mpm_template", "template.components", {}, "must be an array, not an object"),
        ("mpm_template", "template.components[0].type", "footer", "must be one of header, body, button"),
        ("mpm_template", "template.components[0].type", MISSING, "is required"),
        ("mpm_template", "template.components[0].parameters[0].text", "x" * 61, "has 61 characters"),
        ("mpm_template", "template.components[1].parameters[0].text", MISSING, "is required"),
        ("mpm_template", "template.components[1].parameters[0].text", "", "is blank"),
        ("mpm_template", "template.components[1].parameters[0].text", " \u00a0", "is blank"),
        ("mpm_template", "template.components[1].parameters[0].text", None, "must be text, not null"),
        ("mpm_template", "template.components[1].parameters[0].text", "a\nb", "holds a line break"),
        ("mpm_template", "template.components[1].parameters[0].text", "a     b", "more than four blanks"),
        ("mpm_template", "template.components[1].parameters[0].type", "txt", "must be one of text, currency"),
        ("mpm_template", f"{MPM}.thumbnail_product_retailer_id", MISSING, "is required"),
        ("mpm_template", f"{MPM}.sections", [], "has 0 entries; at least 1"),
        ("mpm_template", f"{MPM}.sections[0].title", "x" * 25, "has 25 characters; 24 are allowed"),
        (
            "mpm_template",
            f"{MPM}.sections[1].title",
            MISSING,
            "is required when there is more than one section",
        ),
        ("mpm_template", f"{MPM}.sections[0].product_items", [], "has 0 entries; at least 1"),
    ],
)
def test_a_broken_rule_is_named_with_its_place(name: str, path: str, value: Any, sentence: str) -> None:
    fault = only_fault(changed(name, path, value))
    assert fault.path == path
    assert sentence in fault.message
    assert value is MISSING or name == "text" or fault.source
    assert fault.value is None or len(fault.value) <= 60


def test_the_buttons_of_a_message_must_differ() -> None:
    same_id = [BUTTON, {"type": "reply", "reply": {"id": "x", "title": "Y"}}]
    fault = only_fault(changed("interactive_button", BUTTONS, same_id))
    assert (fault.path, fault.value) == (f"{BUTTONS}[1].reply.id", "x")
    same_title = [BUTTON, {"type": "reply", "reply": {"id": "y", "title": "X"}}]
    assert only_fault(changed("interactive_button", BUTTONS, same_title)).path == f"{BUTTONS}[1].reply.title"
    assert payloads.check(changed("interactive_button", BUTTONS, buttons(3))) == []


def test_more_than_thirty_products_in_all_are_refused() -> None:
    sections = [{"title": "A", "product_items": products(16)}, {"title": "B", "product_items": products(15)}]
    fault = only_fault(changed("mpm_template", f"{MPM}.sections", sections))
    assert (fault.path, fault.limit) == (f"{MPM}.sections", "30")
    sections[1]["product_items"] = products(14)
    assert payloads.check(changed("mpm_template", f"{MPM}.sections", sections)) == []


def test_shipping_discount_quantity_and_sale_price_enter_the_total() -> None:
    found = message("pix_session")
    parameters = found["interactive"]["action"]["parameters"]
    item = {"retailer_id": "1", "name": "Bolo", "quantity": 3}
    item |= {"amount": {"value": 1000, "offset": 100}, "sale_amount": {"value": 900, "offset": 100}}
    parameters["order"] |= {
        "items": [item],
        "subtotal": {"value": 2700, "offset": 100},
        "tax": {"value": 50, "offset": 100},
        "shipping": {"value": 500, "offset": 100, "description": "Correios"},
        "discount": {"value": 250, "offset": 100, "discount_program_name": "Clube"},
        "expiration": {"timestamp": "1763719200", "description": "Vence hoje"},
    }
    parameters["total_amount"]["value"] = 3000
    assert payloads.check(found) == []
    item["sale_amount"] = {"value": 1000, "offset": 100}
    assert only_fault(found).message == "is not below amount"


def test_a_payment_request_may_leave_out_the_order_and_offer_several_ways_to_pay() -> None:
    found = message("pix_session")
    parameters = found["interactive"]["action"]["parameters"]
    parameters["payment_settings"][0]["pix_dynamic_code"]["merchant_name"] = "Empresa"
    del parameters["order"]
    parameters["payment_settings"] += [
        {"type": "payment_link", "payment_link": {"uri": "https://pay.example.com/1"}},
        {"type": "boleto", "boleto": {"digitable_line": "03399026944140000002628346101018898510000008848"}},
    ]
    assert payloads.check(found) == []
    assert payloads.warnings(found) == []
    parameters["payment_settings"][1]["payment_link"]["uri"] = "pay.example.com"
    parameters["payment_settings"][2]["boleto"]["digitable_line"] = 5
    assert [fault.path for fault in payloads.check(found)] == [
        f"{PIX}.payment_settings[1].payment_link.uri",
        f"{PIX}.payment_settings[2].boleto.digitable_line",
    ]


def test_the_code_of_a_payment_request_is_looked_at_as_that_of_an_order() -> None:
    path = Path(__file__).parents[1] / "data" / "payloads" / "accepted" / "template_payment_request.json"
    found = json.loads(path.read_text(encoding="utf-8"))[0]
    request = found["template"]["components"][1]["parameters"][0]["action"]["payment_request"]
    pix = request["payment_setting"]["pix_dynamic_code"]
    pix_code = pix["code"]

    def odd() -> dict[str, str]:
        found_odd = payloads.warnings({key: found[key] for key in ("type", "template")})
        return {one.path.partition("payment_request.")[2]: one.message for one in found_odd}

    at = "payment_setting.pix_dynamic_code"
    assert set(odd()) == {""}
    pix |= {"merchant_name": "Outra", "key": "foo", "key_type": "CPF"}
    assert set(odd()) == {"", f"{at}.merchant_name", f"{at}.key"}
    pix["code"] = "garbage"
    assert "payers will not be able to use it" in odd()[f"{at}.code"]
    body, end = pix_code[: pix_code.index("5802BR")] + "540512.34", pix_code[pix_code.index("5802BR") : -4]
    pix["code"] = body + end + br_code.checksum(body + end)
    request |= {"currency": "BRL", "total_amount": {"value": 1234, "offset": 100}}
    assert f"{at}.code" not in odd()
    request["total_amount"]["value"] = 1235
    assert odd()[f"{at}.code"] == "asks for 1234 cents, total_amount says 1235"


@pytest.mark.parametrize(
    ("expiration", "key"),
    [
        ({"timestamp": 1763719200, "description": "x"}, "timestamp"),
        ({"timestamp": "2026-11-21", "description": "x"}, "timestamp"),
        ({"timestamp": "1763719200"}, "description"),
        ({"timestamp": "1763719200", "description": "x" * 121}, "description"),
    ],
)
def test_an_expiration_has_an_instant_as_text_and_a_description(expiration: Any, key: str) -> None:
    found = changed("pix_session", f"{PIX}.order.expiration", expiration)
    assert only_fault(found).path == f"{PIX}.order.expiration.{key}"


def test_every_fault_is_reported_at_once() -> None:
    found = changed("interactive_button", "interactive.footer.text", "x" * 61)
    found["interactive"]["body"] = {}
    found["interactive"]["action"]["buttons"][0]["reply"]["title"] = ""
    assert sorted(fault.path for fault in payloads.check(found)) == [
        "interactive.action.buttons[0].reply.title",
        "interactive.body.text",
        "interactive.footer.text",
    ]


def test_a_fault_shows_the_value_cut_but_never_a_code() -> None:
    long = only_fault(changed("text", "text.body", "x" * 5000))
    assert long.value == "x" * 59 + "…"
    assert (long.limit, long.source) == ("4096", "Gupshup, V3 passthrough, Text Message")
    secret = only_fault(changed("pix_session", CODE, 12345))
    assert secret.value is None


def test_an_unknown_type_names_the_known_ones_and_the_way_around() -> None:
    fault = only_fault({"type": "poll", "poll": {}})
    assert fault.path == "type"
    assert fault.value == "poll"
    assert "text, image, video" in fault.message
    assert "raw: true" in fault.message
    assert only_fault({"text": {"body": "Oi"}}).message == 'is required; write "type": "text"'
    assert only_fault({}).message == "is required"
    assert only_fault({"type": ["text"], "text": {}}).path == "type"
    assert payloads.check([]) == [Fault("", "is no object", "[]")]  # type: ignore[arg-type]


def with_unknown_keys() -> dict[str, Any]:
    found = message("mpm_template")
    found["ttl"] = 5
    found["template"]["colour"] = "x"
    found["template"]["components"][2]["parameters"][0]["action"]["sections"][0]["colour"] = "red"
    return found


def test_keys_that_no_page_has_are_refused_with_the_way_around() -> None:
    faults = payloads.check(with_unknown_keys())
    assert [fault.path for fault in faults] == [
        f"{MPM}.sections[0].colour",
        "template.colour",
        "ttl",
    ]
    assert all("raw: true" in fault.message and fault.value is None and fault.source for fault in faults)


def test_a_raw_message_is_sent_with_what_would_have_been_refused_as_warnings() -> None:
    document_ = {"raw": True, "to": "5511999998888", **with_unknown_keys()}
    assert payloads.is_raw(document_)
    envelope, content = payloads.split(document_)
    assert "raw" not in {**envelope, **content}
    told = payloads.warnings(content, raw=True)
    assert [fault.path for fault in told] == [fault.path for fault in payloads.check(content)]
    sent = messages.compose(document_, phone.parse("5511999998888"))
    assert sent["ttl"] == 5
    assert "raw" not in sent
    assert messages.compose({**document_, "raw": False}, phone.parse("5511999998888"), raw=True) == sent
    with pytest.raises(PayloadError, match="ttl"):
        messages.compose({**document_, "raw": False}, phone.parse("5511999998888"))


def test_a_raw_message_of_an_unknown_type_passes_with_a_warning() -> None:
    (told,) = payloads.warnings({"type": "poll", "poll": {}}, raw=True)
    assert told.path == "type"
    assert messages.compose({"raw": True, "type": "poll", "poll": {}}, phone.parse("5511999998888")) == {
        "messaging_product": "whatsapp",
        "recipient_type": "individual",
        "to": "5511999998888",
        "type": "poll",
        "poll": {},
    }


def test_raw_is_true_or_false() -> None:
    assert not payloads.is_raw({"type": "text"})
    assert not payloads.is_raw([])
    with pytest.raises(InputError, match="raw: is true"):
        payloads.is_raw({"raw": "yes"})


def test_raw_beside_the_type_says_the_same_in_a_campaign_file() -> None:
    file = {"name": "a", "app": "loja", "message": {"raw": True, "type": "poll", "poll": {}}}
    assert parse_file(file, "a.yaml").raw
    file["message"] = {"type": "text", "text": {"body": "Oi"}}
    assert not parse_file(file, "a.yaml").raw
    with pytest.raises(InputError, match="raw: is true"):
        parse_file({**file, "message": {"raw": 1}}, "a.yaml")


def test_a_message_with_faults_and_a_message_of_unknown_type_have_no_warnings() -> None:
    assert payloads.warnings({"type": "text", "text": {}}) == []
    assert payloads.warnings({"type": "poll"}) == []


def test_a_header_of_a_type_and_nothing_else_is_warned_of_as_the_page_shows_it() -> None:
    found = changed("interactive_button", "interactive.header", {"type": "image"})
    assert payloads.check(found) == []
    assert [warning.path for warning in payloads.warnings(found)] == ["interactive.header.image"]


LINK = {"link": "https://example.com/a.png"}
BODY = {"body": {"text": "Olá"}}


def product_card(place: int) -> dict[str, Any]:
    action = {"product_retailer_id": f"sku{place}", "catalog_id": "1"}
    return {"card_index": place, "type": "product", "action": action}


GOOD: list[tuple[str, dict[str, Any]]] = [
    ("image", {"image": {**LINK, "caption": "x"}}),
    ("video", {"video": {"id": "1"}}),
    ("audio", {"audio": {**LINK, "voice": True}}),
    ("document", {"document": {**LINK, "filename": "a.pdf"}}),
    ("sticker", {"sticker": LINK}),
    ("location", {"location": {"latitude": "-23.5", "longitude": -46.6, "name": "Loja"}}),
    (
        "contacts",
        {"contacts": [{"name": {"formatted_name": "Ana", "first_name": "Ana"}, "phones": [{"phone": "1"}]}]},
    ),
    ("reaction", {"reaction": {"message_id": "wamid.x", "emoji": ""}}),
    (
        "interactive list",
        {
            "interactive": BODY
            | {"action": {"button": "Ver", "sections": [{"rows": [{"id": "1", "title": "A"}]}]}}
        },
    ),
    (
        "interactive cta_url",
        {
            "interactive": BODY
            | {"action": {"name": "cta_url", "parameters": {"display_text": "Ver", "url": "https://x"}}}
        },
    ),
    ("interactive product", {"interactive": {"action": {"catalog_id": "1", "product_retailer_id": "2"}}}),
    (
        "interactive product_list",
        {
            "interactive": BODY
            | {"header": {"type": "text", "text": "A"}}
            | {"action": {"catalog_id": "1", "sections": [{"product_items": products(1)}]}}
        },
    ),
    ("interactive catalog_message", {"interactive": BODY | {"action": {"name": "catalog_message"}}}),
    (
        "interactive flow",
        {
            "interactive": BODY
            | {
                "action": {
                    "name": "flow",
                    "parameters": {"flow_message_version": "3", "flow_id": "1", "flow_cta": "Abrir"},
                }
            }
        },
    ),
    ("interactive location_request_message", {"interactive": BODY | {"action": {"name": "send_location"}}}),
    (
        "interactive carousel",
        {"interactive": BODY | {"action": {"cards": [product_card(0), product_card(1)]}}},
    ),
    ("interactive address_message", {"interactive": BODY | {"action": {"name": "address_message"}}}),
    (
        "interactive order_status",
        {
            "interactive": BODY
            | {
                "action": {
                    "name": "review_order",
                    "parameters": {"reference_id": "1", "order": {"status": "completed"}},
                }
            }
        },
    ),
]


def typed(label: str, content: dict[str, Any]) -> dict[str, Any]:
    name, _, inner = label.partition(" ")
    found: dict[str, Any] = {"type": name, **copy.deepcopy(content)}
    if inner:
        found[name]["type"] = inner
    return found


@pytest.mark.parametrize(("label", "content"), GOOD, ids=[label for label, _ in GOOD])
def test_every_documented_type_is_known_by_name(label: str, content: dict[str, Any]) -> None:
    found = typed(label, content)
    assert payloads.check(found) == []
    assert payloads.warnings(found) == []
    assert payloads.kind(found) == label


@pytest.mark.parametrize(("label", "content"), GOOD, ids=[label for label, _ in GOOD])
def test_every_documented_type_wants_its_content(label: str, content: dict[str, Any]) -> None:
    found = typed(label, content)
    name, _, inner = label.partition(" ")
    found[name] = [] if name == "contacts" else ({"type": inner} if inner else {})
    faults = payloads.check(found)
    assert faults
    assert all(fault.path.startswith(name) for fault in faults)


@pytest.mark.parametrize(
    ("media", "path"),
    [
        ({}, "image"),
        ({"id": "1", "link": "https://x"}, "image"),
        ({"link": "file.png"}, "image.link"),
        ({"id": "1", "caption": "x" * 1025}, "image.caption"),
    ],
)
def test_a_file_has_one_source(media: dict[str, Any], path: str) -> None:
    assert only_fault({"type": "image", "image": media}).path == path


def test_rows_of_a_list_are_counted_over_its_sections() -> None:
    sections = [
        {"title": f"S{n}", "rows": [{"id": f"{n}.{m}", "title": "A"} for m in range(4)]} for n in range(3)
    ]
    found = typed(
        "interactive list", {"interactive": BODY | {"action": {"button": "Ver", "sections": sections}}}
    )
    assert only_fault(found).message == "have 12 rows together; 10 are allowed"
    del found["interactive"]["action"]["sections"][2]["rows"][2:]
    assert payloads.check(found) == []


@pytest.mark.parametrize(
    "component",
    [
        {"type": "BODY", "parameters": [{"type": "text", "text": "a", "parameter_name": "nome"}]},
        {"type": "body", "parameters": [{"type": "date_time", "date_time": {"fallback_value": "hoje"}}]},
        {
            "type": "header",
            "parameters": [{"type": "document", "document": {"id": "1", "filename": "a.pdf"}}],
        },
        {
            "type": "button",
            "sub_type": "quick_reply",
            "index": "0",
            "parameters": [{"type": "payload", "payload": "x"}],
        },
        {"type": "button", "sub_type": "URL", "index": 1, "parameters": [{"type": "text", "text": "abc"}]},
        {
            "type": "button",
            "sub_type": "copy_code",
            "index": 0,
            "parameters": [{"type": "coupon_code", "coupon_code": "A"}],
        },
        {"type": "button", "sub_type": "flow", "index": 0, "parameters": [{"type": "action", "action": {}}]},
        {"type": "button", "sub_type": "catalog", "index": 0},
        {"type": "button", "sub_type": "voice_call", "index": 0, "parameters": [{"type": "ttl_minutes"}]},
        {"type": "button", "sub_type": "voice_call", "parameters": [{"type": "payload", "payload": "x"}]},
        {
            "type": "CAROUSEL",
            "cards": [
                {
                    "card_index": place,
                    "components": [
                        {"type": "HEADER", "parameters": [{"type": "IMAGE", "image": {"id": "1"}}]}
                    ],
                }
                for place in range(2)
            ],
        },
        {
            "type": "limited_time_offer",
            "parameters": [
                {
                    "type": "limited_time_offer",
                    "limited_time_offer": {"expiration_time_ms": 1795219200000},
                }
            ],
        },
        {
            "type": "tap_target_configuration",
            "parameters": [
                {
                    "type": "tap_target_configuration",
                    "tap_target_configuration": [{"url": "https://loja.example", "title": "Ver"}],
                }
            ],
        },
    ],
    ids=lambda component: component.get("sub_type", component["type"]),
)
def test_every_documented_component_of_a_template_is_known(component: dict[str, Any]) -> None:
    found = {
        "type": "template",
        "template": {"name": "a", "language": {"code": "pt_BR"}, "components": [component]},
    }
    assert payloads.check(found) == []
    assert payloads.warnings(found) == []


def test_messages_have_short_names() -> None:
    assert [payloads.kind(message(name)) for name in PAGES] == [
        "text",
        "interactive button",
        "interactive order_details",
        "template order_details",
        "template mpm",
    ]
    assert payloads.kind({"type": "template", "template": {"components": [{"type": "body"}]}}) == "template"
    assert (
        payloads.kind({"type": "template", "template": {"components": [{"type": "CAROUSEL"}, 5]}})
        == "template carousel"
    )
    assert payloads.kind({"type": "text"}) == "text"
    assert payloads.kind({}) == "unknown"


def test_a_template_is_named_with_its_language() -> None:
    assert payloads.template_name(message("mpm_template")) == "abandoned_cart/en_US"
    assert payloads.template_name(message("text")) is None
    assert payloads.template_name({"type": "template", "template": {"name": "a"}}) == "a"
    assert payloads.template_name({"type": "template", "template": []}) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def places(value: Any, path: str = "") -> list[str]:
    found = [path] if path else []
    if isinstance(value, dict):
        for key, item in value.items():
            found += places(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found += places(item, f"{path}[{index}]")
    return found


@steady
@given(st.sampled_from([(name, place) for name in PAGES for place in places(message(name))]), json_values)
def test_whatever_stands_anywhere_is_reported_and_never_raises(spot: tuple[str, str], value: Any) -> None:
    name, place = spot
    found = changed(name, place, value)
    before = json.dumps(found)
    for fault in [*payloads.check(found), *payloads.warnings(found)]:
        assert fault.message
        assert str(fault)
    payloads.kind(found)
    payloads.template_name(found)
    payloads.wire("5511999998888", found, {})
    assert json.dumps(found) == before


def test_a_type_that_is_no_text_is_told_as_such() -> None:
    (fault,) = payloads.check({"type": "interactive", "interactive": {"type": None, "body": {"text": "x"}}})
    assert (fault.path, fault.message) == ("interactive.type", "must be text, not null")


def test_the_header_of_a_product_list_has_a_text() -> None:
    sections = [{"title": "Novos", "product_items": [{"product_retailer_id": "a"}]}]
    content = {
        "type": "product_list",
        "body": {"text": "x"},
        "action": {"catalog_id": "1", "sections": sections},
    }
    message = {"type": "interactive", "interactive": {**content, "header": {"type": "text"}}}
    assert [fault.path for fault in payloads.check(message)] == ["interactive.header.text"]


def test_half_a_character_and_an_endless_number_are_refused_in_a_sentence() -> None:
    (fault,) = payloads.check({"type": "image", "image": {"link": "\ud800"}})
    assert (fault.path, fault.value) == ("image.link", "?")
    order = changed("pix_session", f"{PIX}.total_amount.value", 10**5_000)
    assert f"{PIX}.total_amount.value" in [fault.path for fault in payloads.check(order)]


def test_many_parameters_are_compared_in_no_time_worth_noting() -> None:
    parameters = [{"type": "text", "parameter_name": f"p{n}", "text": "x"} for n in range(20_000)]
    parameters.append(parameters[7])
    template = {
        "name": "x",
        "language": {"code": "pt_BR"},
        "components": [{"type": "body", "parameters": parameters}],
    }
    (fault,) = payloads.check({"type": "template", "template": template})
    assert fault.path == "template.components[0].parameters[20000].parameter_name"
