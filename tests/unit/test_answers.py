"""The judgement of an answer: what was accepted, what was refused, what nobody can know."""

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disparo.errors import InputError
from disparo.gupshup.answers import Answer, Failure, judge
from disparo.statuses import Verdict
from disparo.whatsapp.codes import TABLE, Override, Table

GUPSHUP_OK = (
    b'{"messages":[{"id":"0a1b-22"}],"messaging_product":"whatsapp",'
    b'"contacts":[{"input":"5511999998888","wa_id":"551199998888"}]}'
)


def answer(
    status: int | None,
    body: Any = b"",
    failure: Failure | None = None,
    headers: dict[str, str] | None = None,
    detail: str = "",
) -> Answer:
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    return Answer(status, headers or {}, body, failure, detail)


def gupshup(message: str, **more: Any) -> dict[str, Any]:
    return {"status": "error", "message": message, **more}


def meta(code: Any, message: str = "(#1) words", details: str | None = None) -> dict[str, Any]:
    error: dict[str, Any] = {"message": message, "type": "OAuthException", "code": code, "fbtrace_id": "A_x"}
    if details:
        error["error_data"] = {"messaging_product": "whatsapp", "details": details}
    return {"error": error}


def test_an_id_means_accepted() -> None:
    judgement = judge(answer(200, GUPSHUP_OK))
    assert judgement.verdict is Verdict.ACCEPTED
    assert (judgement.gs_id, judgement.wa_id, judgement.code) == ("0a1b-22", "551199998888", None)


def test_the_status_of_a_held_message_is_kept() -> None:
    judgement = judge(
        answer(200, {"messages": [{"id": "x", "message_status": "held_for_quality_assessment"}], "more": 1})
    )
    assert judgement.verdict is Verdict.ACCEPTED
    assert judgement.message_status == "held_for_quality_assessment"
    assert judgement.wa_id is None


def test_an_id_counts_more_than_an_error_beside_it() -> None:
    assert judge(answer(200, {"messages": [{"id": "x"}], **gupshup("odd")})).verdict is Verdict.ACCEPTED


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"OK",
        b"<html>",
        b"[]",
        b"null",
        b"1",
        b'"x"',
        b"{}",
        b'{"messages":[]}',
        b'{"messages":{}}',
        b'{"messages":[[]]}',
        b'{"messages":[{}]}',
        b'{"messages":[{"id":null}]}',
        b'{"messages":[{"id":7}]}',
        b'{"messages":[{"id":""}]}',
        b'{"messages":[{"id":"a\\u0000b"}]}',
        b'{"messages":[{"id":"\\ud800"}]}',
        b'{"messages":[{"id":"' + b"x" * 256 + b'"}]}',
        b'{"messages":[{"id":["x"]}]}',
        b'{"messages":[{"id":"x"}],"messages":[]}',
        b'{"id":"x"}',
        GUPSHUP_OK[:-1],
        GUPSHUP_OK[:20],
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b'{"messages":[{"id":' + b"9" * 50_000 + b"}]}",
        b"\xff\xfe\x00",
        json.dumps(gupshup("Too Many Requests")).encode(),
        json.dumps(gupshup("Internal server error. Please try again later")).encode(),
        json.dumps(gupshup("words that nobody knows")).encode(),
        json.dumps(meta(130429)).encode(),
    ],
)
def test_a_200_without_an_id_is_unknown(body: bytes) -> None:
    judgement = judge(answer(200, body))
    assert (judgement.verdict, judgement.code) == (Verdict.UNKNOWN, "no_id")
    assert judgement.gs_id is None
    assert len(judgement.reason) <= 500


def test_a_200_that_names_a_final_refusal_is_believed() -> None:
    judgement = judge(answer(200, gupshup("Callback Billing must be enabled for this API")))
    assert (judgement.verdict, judgement.code) == (Verdict.SENDER_STOP, "callback_billing")


@pytest.mark.parametrize(
    ("status", "body", "verdict", "code"),
    [
        (400, gupshup("Callback Billing must be enabled for this API"), "sender_stop", "callback_billing"),
        (400, {"message": "Invalid App Details", "status": "error", "x": []}, "sender_stop", "invalid_app"),
        (401, gupshup("Authentication Failed"), "sender_stop", "authentication_failed"),
        (401, gupshup("Something new"), "sender_stop", "authentication_failed"),
        (401, b"<html>", "sender_stop", "authentication_failed"),
        (403, b"", "sender_stop", "forbidden"),
        (404, gupshup("No such thing"), "sender_stop", "not_found"),
        (400, gupshup("Invalid JSON payload"), "message_permanent", "invalid_payload"),
        (400, gupshup("What is this"), "message_permanent", "http_400"),
        (422, b"nothing known", "message_permanent", "http_422"),
        (409, gupshup("Too many active tokens"), "sender_stop", "too_many_tokens"),
        (429, gupshup("Too Many Requests"), "throttle", "too_many_requests"),
        (429, b"", "throttle", "too_many_requests"),
        (429, gupshup("Slow down please"), "throttle", "too_many_requests"),
        (500, gupshup("Internal server error. Please try again later"), "retry", "internal_error"),
        (500, gupshup("Another error"), "retry", "http_500"),
        (503, gupshup("Service busy"), "retry", "http_503"),
        (500, meta(131000), "retry", "131000"),
        (400, meta(131030), "message_permanent", "131030"),
        (400, meta("131047"), "message_permanent", "131047"),
        (400, meta(250), "sender_stop", "250"),
        (401, meta(0), "sender_stop", "0"),
        (400, meta(131048), "throttle", "131048"),
        (500, meta(131999), "message_permanent", "131999"),
        (500, meta(987654), "retry", "987654"),
        (400, meta(987654), "message_permanent", "987654"),
        (403, meta(987654), "sender_stop", "forbidden"),
        (429, meta(987654), "throttle", "too_many_requests"),
        (400, {"errors": [{"code": 132001, "title": "t"}]}, "template_stop", "132001"),
        (400, {"code": 1003, "reason": "wallet"}, "sender_stop", "1003"),
        (400, {"code": "4005", "reason": "paused"}, "template_stop", "4005"),
        (400, gupshup("(#131056) Pair rate limit hit"), "retry", "131056"),
        (400, gupshup("bad", code=1002), "recipient_suppress", "1002"),
        (400, gupshup(json.dumps(meta(131049))), "recipient_defer", "131049"),
        (500, gupshup('{"error": broken'), "retry", "http_500"),
    ],
)
def test_a_refusal_in_any_known_shape_gets_its_verdict(
    status: int, body: Any, verdict: Any, code: str
) -> None:
    judgement = judge(answer(status, body))
    assert (judgement.verdict, judgement.code) == (Verdict(verdict), code)
    assert judgement.hint
    assert judgement.reason


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b""),
        (500, b"<html>Internal server error</html>"),
        (502, b"Bad Gateway"),
        (503, {"message": "Service Unavailable"}),
        (504, {"message": "Endpoint request timed out"}),
        (503, {"error": "unavailable"}),
        (503, {"error": {"code": 503, "message": "backend", "status": "UNAVAILABLE"}}),
        (503, {"errors": [{"code": "503"}]}),
        (500, {"code": 500, "reason": "Internal Server Error"}),
        (502, {"code": 502, "reason": "x"}),
        (503, {"code": 500, "reason": "x"}),
        (500, {"status": "error"}),
        (500, {"status": "error", "message": None}),
        (500, {"status": "error", "message": {"x": 1}}),
        (500, {"status": "failed", "message": "x"}),
        (500, {"status": 500, "message": "x"}),
        (500, {"error": {"code": True}}),
        (500, {"error": {"code": -1}}),
        (500, {"error": {"code": 1.5}}),
        (500, {"error": {"code": "abc"}}),
        (500, {"error": {"code": 10**40}}),
        (500, b'{"status":"error","message":"x","status":"success"}'),
        (500, b'{"status":"error","message":"x"'),
        (408, b""),
        (303, b""),
        (304, b""),
        (100, b""),
        (302 + 300, b""),
    ],
)
def test_what_may_have_been_accepted_is_unknown(status: int, body: Any) -> None:
    assert judge(answer(status, body)).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_stops_the_app_whatever_its_body_says(status: int) -> None:
    judgement = judge(answer(status, gupshup("Internal server error")))
    assert (judgement.verdict, judgement.code) == (Verdict.SENDER_STOP, "redirect")


@pytest.mark.parametrize(
    ("failure", "verdict", "code"),
    [
        (Failure.NOT_CONNECTED, Verdict.RETRY, "connection_failed"),
        (Failure.NO_ANSWER, Verdict.UNKNOWN, "no_answer"),
        (Failure.DEADLINE, Verdict.UNKNOWN, "deadline"),
        (None, Verdict.UNKNOWN, "no_answer"),
    ],
)
def test_without_a_status_only_an_unmade_connection_may_be_tried_again(
    failure: Failure | None, verdict: Any, code: str
) -> None:
    judgement = judge(answer(None, b"", failure, detail="the network's words"))
    assert (judgement.verdict, judgement.code, judgement.reason) == (verdict, code, "the network's words")


@pytest.mark.parametrize("failure", [Failure.CUT_ANSWER, Failure.TOO_LARGE, Failure.DEADLINE])
@pytest.mark.parametrize("body", [GUPSHUP_OK, json.dumps(gupshup("Internal server error")).encode()])
@pytest.mark.parametrize("status", [200, 500, 502])
def test_a_broken_answer_proves_nothing(failure: Failure, body: Any, status: int) -> None:
    judgement = judge(answer(status, body, failure))
    assert (judgement.verdict, judgement.code) == (Verdict.UNKNOWN, failure.value)


@pytest.mark.parametrize(("status", "code"), [(401, "authentication_failed"), (429, "too_many_requests")])
def test_a_refusing_status_counts_though_its_body_was_cut(status: int, code: str) -> None:
    assert judge(answer(status, b"{", Failure.CUT_ANSWER)).code == code


def test_a_code_may_mean_less_for_a_session_message() -> None:
    body = gupshup("closed", code=1004)
    assert judge(answer(400, body)).verdict is Verdict.SENDER_STOP
    judgement = judge(answer(400, body), session=True)
    assert (judgement.verdict, judgement.rule.scope) == (Verdict.MESSAGE_PERMANENT, "message")


def test_details_and_message_of_meta_are_both_in_the_reason() -> None:
    judgement = judge(answer(400, meta(131030, "(#131030) Not allowed", "Recipient not in list")))
    assert judgement.reason == "(#131030) Not allowed: Recipient not in list"


def test_a_reason_is_short_printable_and_holds_no_phone_and_no_token() -> None:
    words = "a\x00b\x1b[31m\n 5511999998888 +55 (11) 99999-7777 sk_0123456789abcdef \ud800 " + "x" * 5000
    reason = judge(answer(400, gupshup(words))).reason
    assert reason.startswith("a b [31m …8888 …-7777 [token] xxx")
    assert len(reason) == 500
    assert reason.isprintable()


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after": " 7 "}, 7.0),
        ({"Retry-After": "0"}, None),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "9" * 5000}, None),
        ({"Retry-After": "999999999"}, 86_400.0),
        ({"X-Rate-Limit-Retry-After-Seconds": "2.5"}, 2.5),
        ({"Retry-After": "3", "X-Rate-Limit-Retry-After-Seconds": "60"}, 60.0),
        ({"Retry-After": "Sat, 21 Nov 2026 12:01:00 GMT"}, 60.0),
        ({"Retry-After": "Sat, 21 Nov 2026 11:59:00 GMT"}, None),
        ({"Retry-After": "Sat, 21 Nov 2026 09:00:30 GMT", "Date": "Sat, 21 Nov 2026 09:00:00 GMT"}, 30.0),
        ({"Retry-After": "Sat, 99 Nov 99999 12:01:00 GMT"}, None),
    ],
)
def test_the_wait_that_the_provider_asks_for_is_read(headers: dict[str, str], seconds: float | None) -> None:
    now = datetime(2026, 11, 21, 12, tzinfo=UTC)
    assert judge(answer(429, b"", None, headers), now=now).retry_after_seconds == seconds


def test_what_an_installation_says_of_a_code_counts() -> None:
    table = TABLE.with_overrides(
        {
            "131049": Override(verdict=Verdict.RETRY, attempts=2, base_seconds=86_400),
            "131026": Override(verdict=Verdict.MESSAGE_PERMANENT),
            "987654": Override(verdict=Verdict.SENDER_STOP, hint="Ask Ana."),
            "1003": Override(texts=("Insufficient balance",)),
            "1004": Override(verdict=Verdict.SENDER_STOP),
        },
        "test",
    )
    held_back = judge(answer(400, meta(131049)), table=table)
    assert (held_back.verdict, held_back.code, held_back.rule.base_seconds) == ("retry", "131049", 86_400)
    assert judge(answer(400, meta(131026)), table=table).verdict is Verdict.MESSAGE_PERMANENT
    listed = judge(answer(500, meta(987654)), table=table)
    assert (listed.verdict, listed.code, listed.hint) == (Verdict.SENDER_STOP, "987654", "Ask Ana.")
    by_words = judge(answer(400, gupshup("Insufficient balance: 0.02")), table=table)
    assert (by_words.verdict, by_words.code) == (Verdict.SENDER_STOP, "1003")
    assert (
        judge(answer(400, gupshup("x", code=1004)), session=True, table=table).verdict is Verdict.SENDER_STOP
    )
    assert judge(answer(400, meta(131049))).verdict is Verdict.RECIPIENT_DEFER


def test_a_code_that_was_made_to_be_tried_again_is_not_believed_in_a_200() -> None:
    table = TABLE.with_overrides({"131049": Override(verdict=Verdict.RETRY)}, "test")
    judgement = judge(answer(200, meta(131049)), table=table)
    assert (judgement.verdict, judgement.code) == (Verdict.UNKNOWN, "no_id")


def all_rows_as(verdict: Verdict) -> Table:
    """The table in which each row has that verdict which may have it."""
    table = TABLE
    for rule in TABLE.rules:
        with suppress(InputError):
            table = table.with_overrides({rule.code: Override(verdict=verdict)}, "test")
    return table


TABLES = [TABLE, *(all_rows_as(verdict) for verdict in Verdict if verdict is not Verdict.ACCEPTED)]


@pytest.mark.parametrize("table", TABLES)
def test_no_table_lets_what_may_have_been_sent_be_sent_again_or_fail(table: Table) -> None:
    ok, error = GUPSHUP_OK, json.dumps(gupshup("Internal server error")).encode()
    ambiguous = [
        *(answer(None, b"", failure) for failure in Failure if failure is not Failure.NOT_CONNECTED),
        answer(None),
        *(answer(status, body) for status in (500, 502, 503, 504, 599) for body in (b"", b"<html>", b"{}")),
        *(answer(status) for status in (100, 200, 204, 300, 303, 304, 408, 600)),
        *(
            answer(status, body, failure)
            for status in (200, 500, 502)
            for body in (ok, error)
            for failure in Failure
        ),
    ]
    for one in ambiguous:
        assert judge(one, table=table).verdict is Verdict.UNKNOWN, one


@pytest.mark.parametrize("table", TABLES)
def test_no_table_sends_again_what_a_status_alone_refused_but_407_and_429(table: Table) -> None:
    for status in range(100, 600):
        for body in (b"", b"<html>", {"message": "x"}, {"error": "x"}):
            verdict = judge(answer(status, body), table=table).verdict
            assert verdict not in (Verdict.RETRY, Verdict.THROTTLE) or status in (407, 429), (status, body)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "status",
                    "message",
                    "messages",
                    "id",
                    "error",
                    "errors",
                    "code",
                    "reason",
                    "error_data",
                    "details",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(
    status=st.integers(min_value=100, max_value=599) | st.none(),
    body=st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()),
    failure=st.none() | st.sampled_from(list(Failure)),
    table=st.sampled_from(TABLES),
)
def test_any_answer_is_judged_and_only_a_clear_refusal_may_be_sent_again(
    status: int | None, body: Any, failure: Failure | None, table: Table
) -> None:
    judgement = judge(Answer(status, {}, body, failure), table=table)
    assert judgement.reason.isprintable()
    if judgement.verdict in (Verdict.RETRY, Verdict.THROTTLE):
        assert status is None or status >= 400
        assert failure is None or status in (407, 429) or failure is Failure.NOT_CONNECTED
    if judgement.verdict is Verdict.ACCEPTED:
        assert judgement.gs_id
        assert status is not None
        assert 200 <= status <= 299
        assert failure is None
