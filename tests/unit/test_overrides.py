"""``codes.yaml``: what an installation may say of codes, and each thing that it may not."""

import random
from pathlib import Path

import pytest

from disparo import overrides
from disparo.errors import SettingsError
from disparo.gupshup.answers import Answer, judge
from disparo.retry import next_due
from disparo.statuses import Verdict
from disparo.whatsapp.codes import TABLE, Table


def load(folder: Path, content: str | bytes) -> Table:
    file = folder / "codes.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return overrides.load(folder)


@pytest.mark.parametrize("content", ["", "\n", "# 131049:\n#   verdict: retry\n"])
def test_a_file_that_says_nothing_changes_nothing(tmp_path: Path, content: str) -> None:
    assert load(tmp_path, content) is TABLE


def test_without_a_file_the_table_is_the_built_in_one(tmp_path: Path) -> None:
    assert overrides.load(tmp_path) is TABLE


def test_only_the_fields_that_are_given_change(tmp_path: Path) -> None:
    table = load(tmp_path, "131016:\n  attempts: 3\n'1003': {hint: Call the accountant.}\n")
    before, after = TABLE.lookup("131016"), table.lookup("131016")
    assert (before.attempts, after.attempts) == (6, 3)
    assert (after.verdict, after.base_seconds, after.cap_seconds) == (Verdict.RETRY, 2, 300)
    assert (after.sentence, after.hint, after.source) == (before.sentence, before.hint, before.source)
    assert table.lookup("1003").hint == "Call the accountant."
    assert [rule.code for rule in table.rules] == [rule.code for rule in TABLE.rules]
    others = [rule for rule in table.rules if rule.code not in ("131016", "1003")]
    assert others == [rule for rule in TABLE.rules if rule.code not in ("131016", "1003")]


def test_a_new_verdict_brings_what_goes_with_it(tmp_path: Path) -> None:
    table = load(
        tmp_path,
        """
        131049: {verdict: retry, attempts: 2, base_seconds: 86400}
        130472: {verdict: throttle, scope: lane}
        131016: {verdict: message_permanent}
        131056: {verdict: unknown}
        "1004": {verdict: template_stop}
        131026: {verdict: sender_stop}
        """,
    )
    day = table.lookup("131049")
    assert (day.verdict, day.attempts, day.base_seconds, day.cap_seconds) == ("retry", 2, 86_400, 86_400)
    assert (day.scope, day.scope_key, day.heals) == ("recipient", "marketing", True)
    assert "again by itself" in day.hint
    lane = table.lookup("130472")
    assert (lane.scope, lane.scope_key, lane.base_seconds, lane.cap_seconds) == ("lane", None, 1, 60)
    failed = table.lookup("131016")
    assert (failed.scope, failed.attempts, failed.base_seconds, failed.heals) == ("message", 1, 0, False)
    assert failed.hint.startswith("Read the reason")
    assert "resolve" in table.lookup("131056").hint
    assert table.lookup("1004").session_verdict is None
    assert table.lookup("131026").hint.endswith("Then `disparo app resume`.")


def test_a_code_that_nobody_listed_can_be_listed_by_number(tmp_path: Path) -> None:
    table = load(
        tmp_path,
        "131099: {verdict: template_stop, meaning: Seen in June., hint: Ask Meta.}\n250: {verdict: retry}",
    )
    rule = table.lookup("131099")
    assert (rule.verdict, rule.scope, rule.listed) == (Verdict.TEMPLATE_STOP, "template", True)
    assert (rule.sentence, rule.hint, rule.source) == (
        "Seen in June.",
        "Ask Meta.",
        "codes.yaml of this installation",
    )
    assert table.lookup("250").verdict is Verdict.RETRY
    assert table.lookup("251").verdict is Verdict.SENDER_STOP
    assert table.lookup("131098").code == "131xxx"


def test_the_providers_words_can_be_listed_for_a_code_and_for_a_new_word(tmp_path: Path) -> None:
    table = load(
        tmp_path,
        """
        "1003": {texts: [Insufficient balance]}
        no_consent: {verdict: recipient_suppress, texts: ["No consent", "Invalid App Details of the user"]}
        """,
    )
    for words, code in {
        "insufficient  BALANCE: 3.20": "1003",
        "No consent on file": "no_consent",
        "Invalid App Details of the user 7": "no_consent",
        "Invalid App Details": "invalid_app",
    }.items():
        rule = table.lookup_text(words)
        assert rule is not None
        assert rule.code == code


def test_json_is_yaml_too(tmp_path: Path) -> None:
    assert load(tmp_path, '{"131016": {"attempts": 2, "factor": 1.5}}').lookup("131016").factor == 1.5


ALL_VERDICTS = (
    "one of retry, throttle, message_permanent, recipient_defer, recipient_suppress, template_stop, "
    "sender_stop, unknown"
)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        # What may have been sent.
        ("no_answer: {verdict: retry}", "code no_answer, verdict: it stays unknown, since the message may"),
        ("deadline: {verdict: throttle}", "code deadline, verdict: it stays unknown"),
        ("server_error: {verdict: retry}", "code server_error, verdict: it stays unknown"),
        ("bad_gateway: {verdict: message_permanent}", "code bad_gateway, verdict: it stays unknown"),
        ("no_id: {verdict: accepted}", f"code no_id, verdict: 'accepted' is not possible; write {ALL_VERDICTS}"),
        ("cut_answer: {attempts: 3}", "code cut_answer, attempts: Disparo records this code by itself"),
        ("no_id: {texts: [No id, sorry]}", "code no_id, texts: Disparo records this code by itself"),
        ("forbidden: {verdict: retry}", "code forbidden, verdict: retry would also send again what was"),
        ("unlisted_4xx: {verdict: throttle}", "code unlisted_4xx, verdict: throttle would also send again"),
        # What is accepted, and what Disparo itself decides.
        ("accepted: {verdict: retry}", "code accepted: an id means accepted"),
        ("accepted: {hint: Hooray.}", "code accepted: an id means accepted"),
        ("131049: {verdict: accepted}", f"code 131049, verdict: 'accepted' is not possible; write {ALL_VERDICTS}"),
        ("rendering: {verdict: retry}", "code rendering, verdict: Disparo records this code by itself"),
        ("operator: {scope: lane}", "code operator, scope: Disparo records this code by itself"),
        # Values.
        ("131049: {verdict: Retry}", f"code 131049, verdict: 'Retry' is not possible; write {ALL_VERDICTS}"),
        ("131049: {verdict: [retry]}", 'code 131049, verdict: ["retry"] is not possible'),
        ("131016: {attempts: 0}", "code 131016, attempts: 0 is not possible; write a whole number of tries in"),
        ("131016: {attempts: 1001}", "from 1 to 1000"),
        ("131016: {attempts: 2.5}", "code 131016, attempts: 2.5 is not possible"),
        ("131016: {attempts: true}", "code 131016, attempts: true is not possible"),
        ("131016: {attempts: '3'}", "code 131016, attempts: '3' is not possible"),
        ("131016: {base_seconds: -1}", "code 131016, base_seconds: -1 is not possible; write seconds, from 0 to"),
        ("131016: {cap_seconds: 2592001}", "code 131016, cap_seconds: 2592001 is not possible"),
        ("131016: {cap_seconds: .inf}", ".inf is no number"),
        ("131016: {cap_seconds: .nan}", ".nan is no number"),
        ("131016: {cap_seconds: 1" + "0" * 400 + "}", "code 131016, cap_seconds: 1000"),
        ("131016: {base_seconds: 5 min}", "code 131016, base_seconds: '5 min' is not possible"),
        ("131016: {factor: 0.5}", "code 131016, factor: 0.5 is not possible; write a number from 1 to 10"),
        ("131016: {factor: 11}", "code 131016, factor: 11 is not possible"),
        ("131016: {scope: world}", "code 131016, scope: 'world' is not possible; write one of app, lane, message"),
        ("131016: {hint: ''}", "code 131016, hint: '' is not possible; write text of one line"),
        ("131016: {hint: \"a\\nb\"}", "code 131016, hint: 'a\\nb' is not possible"),
        ("131016: {meaning: " + "x" * 501 + "}", "up to 500 characters"),
        ("1003: {texts: Insufficient}", "code 1003, texts: 'Insufficient' is not possible; write a list of"),
        ("1003: {texts: []}", "code 1003, texts: [] is not possible"),
        ("1003: {texts: [abcd]}", 'code 1003, texts: ["abcd"] is not possible'),
        # Fields beside one another.
        ("131026: {attempts: 3}", "code 131026, attempts: only retry counts them, and the verdict is recipient_supp"),
        ("130429: {attempts: 3}", "code 130429, attempts: only retry counts them, and the verdict is throttle"),
        ("131026: {base_seconds: 3}", "code 131026, base_seconds: only retry and throttle wait"),
        ("131016: {verdict: unknown, cap_seconds: 3}", "code 131016, cap_seconds: only retry and throttle wait"),
        ("131048: {cap_seconds: 60}", "code 131048, cap_seconds: 60 is less than base_seconds, which is 900"),
        ("130429: {base_seconds: 86401}", "code 130429, base_seconds: a throttle holds all that the app sends"),
        ("131016: {scope: lane}", "code 131016, scope: lane does not go with retry; write message or recipient or"),
        ("190: {scope: template}", "code 190, scope: template does not go with sender_stop; write app or lane"),
        # Codes.
        ("131099: {hint: Ask.}", "code 131099, verdict: it is a new code, which needs one"),
        ("no_consent: {verdict: retry}", "code no_consent, texts: no answer has this code; give the words"),
        ("http_422: {verdict: retry}", "code http_422: an HTTP status has no row of its own; change unlisted_4xx"),
        ("http_503: {verdict: retry}", "change unlisted_5xx"),
        ("503: {verdict: retry}", "code 503: this is an HTTP status, and no code of the provider; see `disparo codes"),
        ("0131049: {verdict: retry}", "code '0131049': a new code is the provider's number, or a word"),
        ("133xxx: {verdict: retry}", "code '133xxx': a new code is the provider's number"),
        ("'': {verdict: retry}", "code '': a new code is the provider's number"),
        ("no_consent: {verdict: retry, texts: [Invalid app  details]}", "means invalid_app already"),
        # Shapes.
        ("131016: retry", "code 131016: write its fields below it, each in a line, such as verdict: retry"),
        ("131016:", "code 131016: write its fields below it"),
        ("131016: {}", "code 131016: write its fields below it"),
        ("131016: {atempts: 3}", "code 131016, atempts: there is no such field; there are verdict, scope, attempts"),
        ("- 131016", "holds a list; write each code with its fields below it"),
        ("retry", "holds plain text"),
        ("131016: {attempts: 3}\n131016: {attempts: 4}", "line 2, column 1: the key “131016” stands twice"),
        ("131016: {attempts: 3", "line "),
        (b"131016: {hint: \xff}", "line 1, column 16: a character that is not UTF-8"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_file_code_and_field(
    tmp_path: Path, content: str | bytes, told: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        load(tmp_path, content)
    sentence = str(refused.value)
    assert sentence.startswith(f"{tmp_path / 'codes.yaml'}")
    assert told in sentence
    assert "\n" not in sentence


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "codes.yaml").mkdir()
    with pytest.raises(SettingsError, match=r"codes\.yaml cannot be read: Is a directory"):
        overrides.load(tmp_path)


def test_marketing_held_back_is_final_unless_the_file_lets_it_wait_a_day(tmp_path: Path) -> None:
    body = b'{"error": {"code": 131049, "message": "(#131049) Not delivered"}}'
    rng = random.Random(1)  # noqa: S311 - jitter
    final = judge(Answer(400, {}, body))
    assert final.verdict is Verdict.RECIPIENT_DEFER
    assert next_due(final.rule, 1, None, rng) is None
    table = load(tmp_path, "131049: {verdict: retry, attempts: 2, base_seconds: 86400}")
    waits = judge(Answer(400, {}, body), table=table)
    assert (waits.verdict, waits.code) == (Verdict.RETRY, "131049")
    assert next_due(waits.rule, 1, None, rng) == 86_400
    assert next_due(waits.rule, 2, None, rng) is None
