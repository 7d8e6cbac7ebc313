"""The short form of ``make chaos``, and that its books notice what they are there to notice."""

import json
from collections import Counter

import pytest

from tests.acceptance import chaos
from tests.acceptance.account import Account, Delivery, Row, broken, compare
from tests.acceptance.chaos_report import Plan, Report, Strike, table


def account(*rows, delivered=()):
    """The account of a campaign to all recipients of ``rows``."""
    made = [Row(number, *row) for number, row in enumerate(rows, 1)]
    return compare(
        [row.recipient for row in made],
        made,
        [Delivery(f"id-{to}", to) for to in delivered],
    )


def test_kept_books_break_no_promise():
    found = account(
        ("a", "accepted", None, "id-a"),
        ("b", "read", None, "id-b"),
        ("c", "failed", "131026"),
        ("d", "unknown", "no_answer"),
        ("e", "unknown", "worker_died"),
        delivered="abd",
    )
    assert (found.delivered, found.accepted, found.unknown_delivered) == (3, 2, 1)
    assert (found.failed, found.unknown) == (Counter({"131026": 1}), Counter(no_answer=1, worker_died=1))
    assert broken(found, {"close-after": 1, "500": 7}, in_flight=1) == []


@pytest.mark.parametrize(
    ("row", "delivered", "said"),
    [
        (("a", "pending"), "", "1 of 1 messages were lost"),
        (("a", "sending"), "a", "1 of 1 messages were lost"),
        (("a", "accepted", None, "id-a"), "", "1 of 1 messages were lost"),
        (("a", "accepted", None, "id-a"), "aa", "1 were delivered twice"),
        (("a", "unknown", "no_answer"), "aa", "1 were delivered twice"),
        (("a", "failed", "500"), "a", "1 were delivered and are failed"),
        (("a", "accepted", None, "id-b"), "a", "accepted under another id"),
        (("a", "cancelled"), "", "1 are in a status"),
        (("a", "failed", "500"), "b", "1 are in a status, or went to a number"),
        (("a", "unknown", "lease_expired"), "", "nothing here explains (lease_expired)"),
    ],
)
def test_a_broken_promise_is_noticed(row, delivered, said):
    reasons = broken(account(row, delivered=delivered), {"no-id": 5}, in_flight=5)
    assert len(reasons) == 1
    assert said in reasons[0]


def test_a_message_that_is_in_no_table_is_lost():
    assert compare(["a"], [], [Delivery("id-a", "a")]).lost == ["a"]


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        (["no_answer"] * 3, ["3 are unknown by their answers, and 2"]),
        (["worker_died"] * 2, ["2 are unknown because a worker died, and 1 were"]),
        (["worker_died"] * 2 + ["no_id"] * 2, ["4 are unknown, more than 2", "2 are unknown because"]),
    ],
)
def test_more_unknown_than_the_faults_and_kills_explain_is_noticed(codes, said):
    found = account(*((str(number), "unknown", code) for number, code in enumerate(codes)))
    reasons = broken(found, {"hang": 1, "502-after": 1, "meta:131000": 9, "throttle:1": 9}, in_flight=1)
    assert len(reasons) == len(said)
    assert all(reason.startswith(words) for reason, words in zip(reasons, said, strict=True))


def test_the_table_fits_the_page_and_names_what_was_broken_as_the_document_does():
    plan = Plan(20_000, 7, chaos.FAULTS | chaos.SLOW_FAULTS, ("postgres, worker",) * 3)
    strikes = [
        Strike(kind, 1e9 + 100.5, 64, 30, 120.55, "a person", 10.0, 131.5, 55.5) for kind in plan.strikes
    ]
    books = Account(20_000, 19_999, 19_999, unknown=Counter(worker_died=20_000, no_answer=20_000), lost=["x"])
    faults = dict.fromkeys(plan.faults, 2_000)
    reasons = broken(books, faults, 192)
    report = Report(plan, strikes, books, faults, 249.9, 255, 130.0, 300.0, reasons=reasons)
    shown = table(report).splitlines()
    assert max(len(line) for line in shown[: shown.index("BROKEN:")]) <= 100
    assert shown[shown.index("BROKEN:") + 1] == "  - 1 of 20000 messages were lost"
    document = json.loads(json.dumps(report.shown()))
    assert document["account"]["unknown"] == {"worker_died": 20_000, "no_answer": 20_000}
    assert document["strikes"][0]["healed_seconds"] == pytest.approx(10.95)


def test_the_longest_plan_strikes_all_there_is_to_strike_and_its_seed_decides_the_order():
    plan = chaos.long_plan(20_000, 7, faults=True)
    assert set(plan.strikes) == set(chaos.STRIKES)
    assert plan == chaos.long_plan(20_000, 7, faults=True)
    assert plan.strikes != chaos.long_plan(20_000, 8, faults=True).strikes
    assert chaos.long_plan(20_000, 7, faults=False).faults == {}


@pytest.mark.parametrize("arguments", [["--rows", "5"], ["--faults", "--no-faults"], ["--minutes", "0"]])
def test_a_wrong_option_is_refused(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        chaos.main(arguments)
    assert "usage" in capsys.readouterr().err


def test_workers_redis_and_postgresql_are_killed_and_every_promise_is_kept(tmp_path):
    report = chaos.run(chaos.short_plan(1_600, seed=1, faults=True), evidence=tmp_path / "evidence")
    assert not report.reasons, table(report)
    assert [strike.kind for strike in report.strikes] == ["worker", "redis", "worker", "postgres"]
    assert report.account is not None
    assert report.account.accepted > 1_200
    assert report.account.unknown.total() > 0
    assert set(report.faults) >= {"close-before", "close-after", "cut", "no-id", "502", "504-after"}
