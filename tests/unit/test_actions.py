"""Who did what, in words."""

from typing import Any
from zoneinfo import ZoneInfo

import pytest

from disparo.actions import in_words

ZONE = ZoneInfo("America/Sao_Paulo")


@pytest.mark.parametrize(
    ("verb", "why", "details", "words"),
    [
        ("pause", "wrong price", {}, "ana paused: wrong price"),
        ("launch", None, {"messages": 487312}, "ana launched (messages 487,312)"),
        (
            "retry",
            "topped up",
            {"codes": ["1003", "500"], "messages": 3, "too_late": 2},
            "ana retried (codes 1003, 500, messages 3, too late 2): topped up",
        ),
        ("reschedule", None, {"at": "2026-12-03T13:00:00+00:00"}, "ana rescheduled (at 2026-12-03 10:00)"),
        ("resume", None, {"retried": 0, "lane": None}, "ana resumed"),
        ("fly", None, {"nothing_resumed": True}, "ana fly (nothing resumed True)"),
    ],
)
def test_an_action_is_a_line_with_when_who_what_and_why(
    verb: str, why: str | None, details: dict[str, Any], words: str
) -> None:
    entry = {"at": "2026-11-21T13:02:07+00:00", "actor": "ana", "verb": verb, "why": why, "details": details}
    assert in_words(entry, ZONE) == f"2026-11-21 10:02  {words}"
