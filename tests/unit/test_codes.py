"""The table of codes: complete, consistent, and safe for what it does not know."""

import pytest

from disparo.statuses import Lane, Verdict
from disparo.whatsapp.codes import RULES, Rule, code_of_status, lookup, lookup_status, lookup_text

EXPECTED = {
    Verdict.SENDER_STOP: (
        "0 190 3 10 200 250 299 131005 368 131031 131042 131044 131045 131037 33 133000 133005 "
        "133006 133008 133009 133010 133015 133016 134011 131064 131063 1001 1003 1004 4004 "
        "no_token operator"
    ),
    Verdict.THROTTLE: "4 80007 130429 131048 4001 too_many_requests",
    Verdict.RETRY: (
        "133004 131056 131057 2494100 1 2 131016 131000 134101 500 4002 internal_error connection_failed"
    ),
    Verdict.MESSAGE_PERMANENT: (
        "135000 100 131008 131009 131021 131051 131052 131053 131055 134100 131062 137000 131030 "
        "131047 130470 470 132005 132008 132012 132018 2040 2046 2047 1005 4003 1010 1011 "
        "invalid_payload rendering"
    ),
    Verdict.RECIPIENT_SUPPRESS: "130497 131026 131050 1002 1006 1007 1008 1012",
    Verdict.RECIPIENT_DEFER: "131049 130472",
    Verdict.TEMPLATE_STOP: "134102 134103 132000 132001 132007 132015 132016 132068 132069 4005",
    Verdict.UNKNOWN: (
        "no_answer deadline cut_answer too_large no_id server_error bad_gateway request_timeout see_other "
        "worker_died lease_expired internal"
    ),
}


@pytest.mark.parametrize(
    ("code", "verdict"), [(code, verdict) for verdict, codes in EXPECTED.items() for code in codes.split()]
)
def test_each_documented_code_has_its_verdict(code: str, verdict: Verdict) -> None:
    rule = lookup(code)
    assert rule.verdict is verdict
    assert rule.listed


def test_every_row_is_tested_above() -> None:
    tested = {lookup(code).code for codes in EXPECTED.values() for code in codes.split()}
    by_status = {lookup_status(status, recognised=False).code for status in (302, 401, 403, 404, 407, 100)}
    by_text = {rule.code for rule in RULES if rule.texts}
    unlisted = {rule.code for rule in RULES if not rule.listed}
    assert {rule.code for rule in RULES} == tested | by_status | by_text | unlisted | {"accepted"}


def test_codes_are_unique() -> None:
    codes = [rule.code for rule in RULES]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_each_row_is_consistent(rule: Rule) -> None:
    assert rule.scope in ("message", "recipient", "lane", "template", "app")
    assert rule.sentence.endswith(".")
    assert rule.source
    assert rule.hint or rule.verdict is Verdict.ACCEPTED
    assert rule.base_seconds <= rule.cap_seconds
    if rule.verdict is Verdict.RETRY:
        assert rule.attempts > 1
        assert rule.base_seconds > 0
    else:
        assert rule.attempts == 1
    if rule.verdict is Verdict.THROTTLE:
        assert rule.base_seconds > 0
    if rule.scope == "lane":
        assert rule.scope_key in set(Lane)
    if rule.heals:
        assert rule.verdict in (Verdict.RETRY, Verdict.THROTTLE)
    if rule.scope == "template":
        assert rule.verdict in (Verdict.TEMPLATE_STOP, Verdict.RETRY)


@pytest.mark.parametrize(
    ("code", "lane"), [("131063", "marketing"), ("131048", "marketing"), ("134011", "payment")]
)
def test_some_codes_stop_a_lane_and_not_the_app(code: str, lane: str) -> None:
    rule = lookup(code)
    assert (rule.scope, rule.scope_key) == ("lane", lane)


@pytest.mark.parametrize(
    ("code", "http_status", "verdict"),
    [
        ("131999", 500, Verdict.MESSAGE_PERMANENT),
        ("132999", None, Verdict.MESSAGE_PERMANENT),
        ("999999", 500, Verdict.RETRY),
        ("999999", 400, Verdict.MESSAGE_PERMANENT),
        ("999999", None, Verdict.MESSAGE_PERMANENT),
        ("", None, Verdict.MESSAGE_PERMANENT),
        ("99999999999999999999", None, Verdict.MESSAGE_PERMANENT),
        ("http_422", None, Verdict.MESSAGE_PERMANENT),
        ("http_500", None, Verdict.RETRY),
    ],
)
def test_an_unlisted_code_has_a_safe_verdict_and_says_that_it_is_unlisted(
    code: str, http_status: int | None, verdict: Verdict
) -> None:
    rule = lookup(code, http_status)
    assert rule.verdict is verdict
    assert not rule.listed


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Callback Billing must be enabled for this API", "callback_billing"),
        ("  callback  billing must be ENABLED for this API.", "callback_billing"),
        ("Invalid App Details", "invalid_app"),
        ("Authentication Failed", "authentication_failed"),
        ("Unauthorized Access", "authentication_failed"),
        ("Too Many Requests", "too_many_requests"),
        ("Internal server error. Please try again later or contact support", "internal_error"),
        ("Please review the request parameters and retry", "invalid_payload"),
    ],
)
def test_a_gupshup_text_has_a_stable_code(text: str, code: str) -> None:
    rule = lookup_text(text)
    assert rule is not None
    assert rule.code == code


def test_an_unknown_text_has_no_row() -> None:
    assert lookup_text("Something else") is None


@pytest.mark.parametrize(
    ("http_status", "recognised", "verdict"),
    [
        (200, False, Verdict.UNKNOWN),
        (301, False, Verdict.SENDER_STOP),
        (303, False, Verdict.UNKNOWN),
        (304, False, Verdict.UNKNOWN),
        (400, False, Verdict.MESSAGE_PERMANENT),
        (401, False, Verdict.SENDER_STOP),
        (404, True, Verdict.SENDER_STOP),
        (408, False, Verdict.UNKNOWN),
        (429, False, Verdict.THROTTLE),
        (500, False, Verdict.UNKNOWN),
        (500, True, Verdict.RETRY),
        (503, False, Verdict.UNKNOWN),
        (504, True, Verdict.RETRY),
        (600, True, Verdict.UNKNOWN),
    ],
)
def test_a_status_alone_says_no_more_than_it_can(
    http_status: int, recognised: bool, verdict: Verdict
) -> None:
    assert lookup_status(http_status, recognised=recognised).verdict is verdict


def test_a_general_row_is_recorded_with_its_status() -> None:
    assert code_of_status(lookup_status(422, recognised=True), 422) == "http_422"
    assert code_of_status(lookup_status(401, recognised=True), 401) == "authentication_failed"
