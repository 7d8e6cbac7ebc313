"""The table of codes: as documented, consistent, safe for what it does not know, and changed only safely."""

import itertools
import json
from collections.abc import Iterator

import pytest

from disparo.errors import InputError
from disparo.gupshup.answers import Answer, judge
from disparo.statuses import Lane, Verdict
from disparo.whatsapp.codes import RULES, SCOPES, TABLE, Override, Rule, code_of_status, lookup

#: Gupshup's refusals: HTTP status, words, class. ``*`` stands for other words.
#: Source: Gupshup partner docs, V3 message pages and "Partner Rate Limits"; read 2026-11-21.
GUPSHUP_ANSWERS = """
400 | Callback Billing must be enabled for this API     | SENDER_STOP
400 | Invalid App Details                               | SENDER_STOP
401 | Authentication Failed                             | SENDER_STOP
401 | Unauthorized Access                               | SENDER_STOP
400 | Invalid JSON payload                              | MESSAGE_PERMANENT
400 | Please review the request parameters and retry    | MESSAGE_PERMANENT
403 | *                                                 | SENDER_STOP
404 | *                                                 | SENDER_STOP
409 | Too many active tokens                            | SENDER_STOP
429 | Too Many Requests                                 | THROTTLE
429 | *                                                 | THROTTLE
500 | Internal server error. Please try again later     | RETRY
500 | *                                                 | RETRY
502 | *                                                 | RETRY
503 | *                                                 | RETRY
504 | *                                                 | RETRY
400 | *                                                 | MESSAGE_PERMANENT
"""

#: Gupshup's own codes and their classes. Source: Gupshup partner docs, error codes; read 2026-11-21.
GUPSHUP_CODES = """
470              | MESSAGE_PERMANENT
500              | RETRY
1001             | SENDER_STOP
1002             | RECIPIENT_SUPPRESS
1003             | SENDER_STOP
1004             | SENDER_STOP
1005, 4003       | MESSAGE_PERMANENT
1006, 1007, 1008 | RECIPIENT_SUPPRESS
1010, 1011       | MESSAGE_PERMANENT
1012             | RECIPIENT_SUPPRESS
4001             | THROTTLE
4002             | RETRY
4004             | SENDER_STOP
4005             | TEMPLATE_STOP
"""

#: Meta's codes, the HTTP statuses that they come with, and their classes.
#: Source: Meta, WhatsApp Cloud API, "Error codes"; read 2026-11-21.
META_CODES = """
0, 190                                | 401 | SENDER_STOP
3                                     | 500 | SENDER_STOP
10, 200, 250, 299, 131005             | 403 | SENDER_STOP
368                                   | 403 | SENDER_STOP
131031                                | 403 | SENDER_STOP
130497                                | 403 | RECIPIENT_SUPPRESS
131042, 131044                        | 400 | SENDER_STOP
131045                                | 500 | SENDER_STOP
131037                                | 400 | SENDER_STOP
33                                    | 400 | SENDER_STOP
133000, 133005, 133006, 133008        | 400 | SENDER_STOP
133009, 133010, 133015, 133016        | 500 | SENDER_STOP
133004                                | 503 | RETRY
134011                                | 400 | SENDER_STOP
131064                                | 400 | SENDER_STOP
4, 80007                              | 400 | THROTTLE
130429                                | 400 | THROTTLE
130429                                | 429 | THROTTLE
131048                                | 400 | THROTTLE
131056                                | 400 | RETRY
131057                                | 500 | RETRY
2494100                               | 400 | RETRY
1                                     | 400 | RETRY
2                                     | 503 | RETRY
131016                                | 500 | RETRY
131000                                | 500 | RETRY
135000                                | 400 | MESSAGE_PERMANENT
100                                   | 400 | MESSAGE_PERMANENT
131008, 131009                        | 400 | MESSAGE_PERMANENT
131021                                | 400 | MESSAGE_PERMANENT
131051                                | 400 | MESSAGE_PERMANENT
131052                                | 400 | MESSAGE_PERMANENT
131053                                | 400 | MESSAGE_PERMANENT
131055, 134100                        | 400 | MESSAGE_PERMANENT
134101                                | 400 | RETRY
134102, 134103                        | 500 | TEMPLATE_STOP
131063                                | 400 | SENDER_STOP
131062                                | 400 | MESSAGE_PERMANENT
137000                                | 400 | MESSAGE_PERMANENT
131026                                | 400 | RECIPIENT_SUPPRESS
131030                                | 400 | MESSAGE_PERMANENT
131047, 130470, 470                   | 400 | MESSAGE_PERMANENT
131049                                | 400 | RECIPIENT_DEFER
131050                                | 400 | RECIPIENT_SUPPRESS
130472                                | 400 | RECIPIENT_DEFER
132000                                | 400 | TEMPLATE_STOP
132001                                | 404 | TEMPLATE_STOP
132005                                | 400 | MESSAGE_PERMANENT
132007                                | 400 | TEMPLATE_STOP
132008, 132012, 132018                | 400 | MESSAGE_PERMANENT
132015                                | 400 | TEMPLATE_STOP
132016                                | 400 | TEMPLATE_STOP
132068, 132069                        | 400 | TEMPLATE_STOP
2040                                  | 400 | MESSAGE_PERMANENT
2046, 2047                            | 400 | MESSAGE_PERMANENT
131999, 132999                        | 400 | MESSAGE_PERMANENT
131999, 132999                        | 500 | MESSAGE_PERMANENT
999999                                | 400 | MESSAGE_PERMANENT
999999                                | 500 | RETRY
"""

#: What has no number and no words of the provider.
OWN_WORDS = {
    Verdict.ACCEPTED: "accepted",
    Verdict.RETRY: "connection_failed proxy_refused pair_pacing",
    Verdict.MESSAGE_PERMANENT: "rendering kills_workers given_up",
    Verdict.RECIPIENT_SUPPRESS: "suppressed",
    Verdict.SENDER_STOP: "no_token operator redirect unreachable strange_answers",
    Verdict.UNKNOWN: (
        "no_answer deadline cut_answer too_large no_id odd_answer request_timeout server_error bad_gateway "
        "see_other worker_died lease_expired database_restored internal"
    ),
}

GENERAL = {"131xxx", "132xxx", "unlisted_4xx", "unlisted_5xx"}


def facts(text: str) -> Iterator[list[str]]:
    """The cells of each line, a line for each code of its first cell."""
    for line in text.strip().splitlines():
        first, *rest = [cell.strip() for cell in line.split("|")]
        for code in first.split(", "):
            yield [code, *rest]


def shapes(code: str) -> Iterator[object]:
    """The bodies in which Meta's codes may be passed through."""
    error = {"message": "words", "type": "OAuthException", "code": int(code), "error_data": {"details": "x"}}
    yield {"error": error}
    yield {"error": error | {"code": code}}
    yield {"errors": [{"code": int(code), "title": "words"}]}
    yield {"status": "error", "message": f"(#{code}) words"}
    yield {"status": "error", "message": "words", "code": code}
    yield {"message": json.dumps({"error": error}), "status": "error"}


@pytest.mark.parametrize(("code", "http_status", "verdict"), list(facts(META_CODES)))
def test_a_code_of_meta_has_its_documented_class_in_every_shape(
    code: str, http_status: str, verdict: str
) -> None:
    expected = Verdict(verdict.lower())
    assert lookup(code, int(http_status)).verdict is expected
    for body in shapes(code):
        judgement = judge(Answer(int(http_status), {}, json.dumps(body).encode()))
        assert (judgement.verdict, judgement.code) == (expected, code), body


@pytest.mark.parametrize(("code", "verdict"), list(facts(GUPSHUP_CODES)))
def test_a_code_of_gupshup_has_its_documented_class(code: str, verdict: str) -> None:
    assert lookup(code).verdict is Verdict(verdict.lower())
    bodies: list[object] = [{"status": "error", "message": "words", "code": int(code)}]
    if len(code) == 4:  # shorter ones are any gateway's
        bodies.append({"code": code, "reason": "words"})
    for body in bodies:
        judgement = judge(Answer(400, {}, json.dumps(body).encode()))
        assert (judgement.verdict, judgement.code) == (Verdict(verdict.lower()), code), body


@pytest.mark.parametrize(("http_status", "words", "verdict"), list(facts(GUPSHUP_ANSWERS)))
def test_an_answer_of_gupshup_has_its_documented_class(http_status: str, words: str, verdict: str) -> None:
    words = words.replace("*", "words that nobody has seen before")
    for body in ({"status": "error", "message": words}, {"message": words, "more": [], "status": "error"}):
        judgement = judge(Answer(int(http_status), {}, json.dumps(body).encode()))
        assert judgement.verdict is Verdict(verdict.lower())


@pytest.mark.parametrize(
    ("code", "verdict"), [(code, verdict) for verdict, codes in OWN_WORDS.items() for code in codes.split()]
)
def test_a_word_of_our_own_has_its_verdict(code: str, verdict: Verdict) -> None:
    assert lookup(code).verdict is verdict
    assert lookup(code).listed


def test_every_row_is_tested_above() -> None:
    numbers = {lookup(code).code for code, *_ in itertools.chain(facts(META_CODES), facts(GUPSHUP_CODES))}
    words = {code for codes in OWN_WORDS.values() for code in codes.split()}
    by_text = {rule.code for rule in RULES if rule.texts}
    by_status = {"forbidden", "not_found"}
    assert {rule.code for rule in RULES} == numbers | words | by_text | by_status | GENERAL


def test_codes_are_unique() -> None:
    codes = [rule.code for rule in RULES]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_each_row_is_consistent(rule: Rule) -> None:
    assert rule.scope in SCOPES[rule.verdict]
    assert rule.sentence.endswith(".")
    assert rule.source
    assert rule.hint or rule.verdict is Verdict.ACCEPTED
    assert rule.base_seconds <= rule.cap_seconds
    if rule.verdict is Verdict.RETRY and not rule.own:
        assert rule.attempts > 1
        assert rule.base_seconds > 0
    else:
        assert rule.attempts == 1
    if rule.pair:
        assert (rule.verdict, rule.scope) == (Verdict.RETRY, "recipient")
    if rule.verdict is Verdict.THROTTLE:
        assert rule.base_seconds > 0
    if rule.scope == "lane":
        assert rule.scope_key in set(Lane)
    if rule.heals:
        assert rule.verdict in (Verdict.RETRY, Verdict.THROTTLE)


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
    rule = TABLE.lookup_text(text)
    assert rule is not None
    assert rule.code == code


def test_an_unknown_text_has_no_row() -> None:
    assert TABLE.lookup_text("Something else") is None


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
    assert TABLE.lookup_status(http_status, recognised=recognised).verdict is verdict


def test_a_general_row_is_recorded_with_its_status() -> None:
    assert code_of_status(TABLE.lookup_status(422, recognised=True), 422) == "http_422"
    assert code_of_status(TABLE.lookup_status(401, recognised=True), 401) == "authentication_failed"


VERDICTS = [verdict for verdict in Verdict if verdict is not Verdict.ACCEPTED]


@pytest.mark.parametrize("code", OWN_WORDS[Verdict.UNKNOWN].split())
def test_what_may_have_been_sent_stays_unknown(code: str) -> None:
    for verdict in set(VERDICTS) - {Verdict.UNKNOWN}:
        with pytest.raises(InputError, match=f"^code {code}, verdict: it stays unknown"):
            TABLE.with_overrides({code: Override(verdict=verdict)}, "test")
    same = TABLE.with_overrides({code: Override(verdict=Verdict.UNKNOWN, hint="Ask Ana.")}, "test")
    assert (same.lookup(code).verdict, same.lookup(code).hint) == (Verdict.UNKNOWN, "Ask Ana.")


@pytest.mark.parametrize("rule", [rule for rule in RULES if not rule.own], ids=lambda rule: rule.code)
def test_any_row_may_become_unknown_and_none_accepted(rule: Rule) -> None:
    with pytest.raises(InputError, match=f"^code {rule.code}.*accepted"):
        TABLE.with_overrides({rule.code: Override(verdict=Verdict.ACCEPTED)}, "test")
    if rule.verdict is not Verdict.ACCEPTED:
        table = TABLE.with_overrides({rule.code: Override(verdict=Verdict.UNKNOWN)}, "test")
        changed = table.lookup(rule.code)
        assert (changed.verdict, changed.scope, changed.heals) == (Verdict.UNKNOWN, "message", False)
        assert "resolve" in changed.hint


#: Given also where the HTTP status alone decides, which proves too little for another try.
BY_STATUS_ALONE = {"authentication_failed", "forbidden", "not_found", "redirect", "unlisted_4xx"}


def may_become(rule: Rule, verdict: Verdict) -> bool:
    if rule.own or rule.verdict in (Verdict.ACCEPTED, Verdict.UNKNOWN):
        return verdict is rule.verdict is not Verdict.ACCEPTED
    return rule.code not in BY_STATUS_ALONE or verdict not in (Verdict.RETRY, Verdict.THROTTLE)


@pytest.mark.parametrize("verdict", VERDICTS)
def test_a_row_takes_the_verdicts_that_it_may_have_and_is_consistent_with_them(verdict: Verdict) -> None:
    for rule in RULES:
        override = {rule.code: Override(verdict=verdict)}
        if not may_become(rule, verdict):
            with pytest.raises(InputError, match=f"^code {rule.code}"):
                TABLE.with_overrides(override, "test")
            continue
        changed = TABLE.with_overrides(override, "test").lookup(rule.code)
        assert changed.verdict is verdict
        test_each_row_is_consistent(changed)


def test_the_table_itself_never_changes() -> None:
    before = TABLE.rules
    TABLE.with_overrides({"131049": Override(verdict=Verdict.RETRY)}, "test")
    assert TABLE.rules is before
    assert lookup("131049").verdict is Verdict.RECIPIENT_DEFER
