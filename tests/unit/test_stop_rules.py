"""``stop_if``: how it is written, what holds without it, and when it is broken."""

import pytest

from disparo import campaigns
from disparo.errors import InputError
from disparo.statuses import Status
from disparo.stop_rules import StopIf, answered

TEXT = {"type": "text", "text": {"body": "Oi"}}


def file(**more):
    return campaigns.parse_file({"name": "a", "app": "loja", "message": TEXT, **more}, "a.yaml")


def counts(**found):
    return dict.fromkeys(map(str, Status), 0) | found


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ({"failed": "20%", "after": 500}, {"failed": 0.2, "after": 500}),
        ({"failed": 0.2}, {"failed": 0.2, "after": 500}),
        ({"failed": "12,5 %", "unknown": "1%", "after": 1}, {"failed": 0.125, "unknown": 0.01, "after": 1}),
        ({"unknown": 0}, {"unknown": 0.0, "after": 500}),
        ({"failed": "100%"}, {"failed": 1.0, "after": 500}),
        ("off", None),
        (False, None),
    ],
)
def test_what_is_written_is_stored_as_shares(given, stored):
    assert file(stop_if=given).effective_stop_if == stored


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("on", "write `{failed: 20%, after: 500}` or `off`"),
        (True, "write `{failed: 20%"),
        ({}, "write `{failed: 20%"),
        ({"after": 5}, "write `{failed: 20%"),
        ({"failed": 20}, "stop_if.failed: is a share such as 20% or 0.2"),
        ({"failed": 1}, "stop_if.failed: is a share"),
        ({"failed": "101%"}, "stop_if.failed: is a share"),
        ({"failed": "-1%"}, "stop_if.failed: is a share"),
        ({"failed": -0.1}, "stop_if.failed: is a share"),
        ({"failed": True}, "stop_if.failed: is a share"),
        ({"unknown": "20"}, "stop_if.unknown: is a share"),
        ({"failed": "5%", "after": 0}, "stop_if.after: is a number of messages"),
        ({"failed": "5%", "after": "500"}, "stop_if.after: is a number of messages"),
        ({"failed": "5%", "fails": 1}, "stop_if.fails: no such setting; there are failed, unknown and after"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_file(given, told):
    with pytest.raises(InputError, match=r"^a\.yaml: stop_if") as refused:
        file(stop_if=given)
    assert told in str(refused.value)


def test_marketing_stops_at_a_fifth_failed_unless_the_file_says_otherwise():
    assert file().effective_stop_if == {"failed": 0.2, "after": 500}
    assert file(lane="utility").effective_stop_if is None
    assert file(lane="payment").effective_stop_if is None
    assert file(lane="payment", stop_if={"unknown": "1%"}).effective_stop_if == {
        "unknown": 0.01,
        "after": 500,
    }
    assert "stop_if" not in file(stop_if={"failed": "5%"}).without_effect


def test_the_same_rule_written_otherwise_is_the_same_campaign():
    assert file(stop_if={"failed": "20%"}).digest() == file(stop_if={"failed": 0.2, "after": 500}).digest()
    assert file(stop_if="off").digest() == file(stop_if=False).digest() != file().digest()


@pytest.mark.parametrize(
    ("found", "broken"),
    [
        ({"accepted": 400, "failed": 99}, False),  # 499 answered
        ({"accepted": 400, "failed": 100}, True),
        ({"accepted": 401, "failed": 100}, False),  # 19.96 %
        ({"delivered": 200, "read": 200, "failed": 100}, True),
        ({"accepted": 0, "failed": 100, "pending": 900, "cancelled": 400}, False),  # not answered
        ({"accepted": 350, "failed": 99, "unknown": 51}, True),
    ],
)
def test_a_share_counts_among_those_answered_once_there_are_enough(found, broken):
    rule = StopIf(failed=0.2, unknown=0.1)
    assert bool(rule.broken(answered(counts(**found)))) is broken


def test_a_share_of_nothing_means_the_first_one():
    rule = StopIf(failed=0.0, after=1)
    assert rule.broken(answered(counts(accepted=5))) is None
    assert rule.broken(answered(counts(accepted=5, failed=1))) == (
        "1 of 6 messages answered are failed (16.7%); stop_if pauses at 0%"
    )


@pytest.mark.parametrize("old", [{}, {"failed": 20}, {"anything": [1]}, "text", None, 5])
def test_what_an_earlier_version_has_stored_unread_stops_nothing(old):
    assert StopIf.stored(old) is None
