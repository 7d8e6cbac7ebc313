"""What came back from the endpoint, and the judgement of it: accepted, refused, or no way to know.

The one question that matters is whether the request can have been accepted. It cannot when nothing
was sent, or when the provider said no in words that we recognise; then the message may be tried
again. In every other case but a readable id the judgement is ``unknown``, and nobody sends it again
blindly.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any

from disparo.statuses import Verdict
from disparo.whatsapp.codes import TABLE, Rule, Table, code_of_status

#: Longest reason that is kept.
REASON_CHARS = 500
#: A provider that asks for more than a day is not believed; a person resumes the app instead.
MAX_RETRY_AFTER_SECONDS = 86_400.0


class Failure(StrEnum):
    """How an exchange ended when it did not end with a whole answer."""

    NOT_CONNECTED = "not_connected"  #: name, refusal, connect timeout, TLS, proxy: nothing was sent
    NO_ANSWER = "no_answer"  #: reset, closed or not HTTP after the request may have been written
    DEADLINE = "deadline"  #: written, and no whole answer in time
    CUT_ANSWER = "cut_answer"  #: the body ended before its announced length
    TOO_LARGE = "too_large"  #: the body is longer than any answer of the provider


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known after one POST."""

    #: None when no status line arrived.
    http_status: int | None
    headers: Mapping[str, str]
    #: As far as it arrived; the token is never in it.
    body: bytes
    failure: Failure | None = None
    #: What the network did, in words; empty without a failure.
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What an answer means for its message."""

    verdict: Verdict
    #: Recorded with the message; None when accepted.
    code: str | None
    #: The provider's own words, or what the network did; at most 500 characters, phones masked.
    reason: str
    #: What a person does next.
    hint: str
    #: Gupshup's message id, which comes back in webhooks; only when accepted.
    gs_id: str | None
    wa_id: str | None
    #: ``accepted``, ``held_for_quality_assessment`` or ``paused``, when WhatsApp says so.
    message_status: str | None
    retry_after_seconds: float | None
    http_status: int | None
    rule: Rule
    #: The answer has a shape that the provider's side makes; false also when none came.
    recognised: bool


@dataclass(frozen=True, slots=True)
class _Refusal:
    """An error body of a known shape: the codes in it, best first, and its words."""

    codes: list[str] = field(default_factory=list)
    text: str = ""


class _RepeatedKeyError(ValueError):
    pass


_ID = re.compile(r"[\x21-\x7e]{1,255}")
#: The answer to a sent message as the provider's pages show it, to the letter: its id and the recipient's.
_AS_DOCUMENTED = re.compile(
    rb'\{"messages":\[\{"id":"([\w.:=-]{1,255})"\}\],"messaging_product":"whatsapp",'
    rb'"contacts":\[\{"input":"\+?[0-9]{1,32}","wa_id":"([0-9]{1,32})"\}\]\}'
)
_CODE = re.compile(r"[0-9]{1,10}")
_CODE_IN_TEXT = re.compile(r"\(#([0-9]{1,10})\)")
_SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
# All but the last four of 10 to 15 digits, also when they are written in groups.
_PHONE = re.compile(
    r"(?<![0-9A-Za-z])\+?[0-9](?:[ ().-]{0,2}[0-9]){5,10}(?=[ ().-]{0,2}[0-9]{4}(?![0-9A-Za-z]))"
)
_TOKEN = re.compile(r"sk_[0-9A-Za-z]{8,}|eyJ[\w-]{5,}(?:\.[\w-]*)*|(?<=Bearer )[\w.~+/=-]{16,}")


def judge(
    answer: Answer, *, session: bool = False, now: datetime | None = None, table: Table = TABLE
) -> Judgement:
    """What ``answer`` means for its message. Pure, and safe for any bytes.

    - Accepted: a 2xx whole answer with ``messages[0].id``, a printable text of at most 255 characters.
    - Refused: the verdict of ``whatsapp.codes``, by code, then by text, then by HTTP status. Codes come
      from ``error.code``, ``errors[0].code``, ``code`` beside ``status`` or ``reason``, JSON inside
      ``message`` and ``(#131030)`` in a text, as numbers or text.
    - A 2xx without an id is ``unknown``. It is believed to be a refusal only when its error is listed
      and fails the message: one that would be sent again by itself is not believed.
    - A 5xx is a refusal only with an error body of the provider's shape. A code that repeats the HTTP
      status is a gateway's habit and makes no such body.
    - A redirect is not followed: 301, 302, 307 and 308 were not carried out (RFC 9110, section 15.4)
      and every message would meet them, so they stop the app; 303 and the rest are ``unknown``.
    - A body in which a key is repeated says two things; neither is believed.

    Args:
      session: The message is a free-form one; a few codes mean less then.
      now: For a ``Retry-After`` date in an answer without a ``Date``; aware, default the present.
      table: What the codes mean, by default as Disparo brings it along.
    """
    status = answer.http_status
    if status is None:
        failure = answer.failure or Failure.NO_ANSWER
        rule = table.lookup("connection_failed" if failure is Failure.NOT_CONNECTED else failure.value)
        return _refused(answer, rule, rule.code, answer.detail, None, recognised=False)

    if status == 200 and answer.failure is None and (told := _AS_DOCUMENTED.fullmatch(answer.body)):
        # A quarter of the cost of reading it as any JSON.
        return _acceptance(answer, table, told[1].decode(), told[2].decode())
    document = _parse(answer.body) if answer.failure is None else None
    if 200 <= status <= 299 and (accepted := _accepted(document, answer, table)) is not None:
        return accepted

    refusal = _refusal(document, status, table)
    rule, code = _rule(refusal, status, table)
    if 200 <= status <= 299 and (
        not rule.listed or refusal is None or rule.verdict in (Verdict.RETRY, Verdict.THROTTLE)
    ):
        rule = table.lookup("no_id")
        code = rule.code
    if rule.verdict is Verdict.UNKNOWN and answer.failure not in (None, Failure.NOT_CONNECTED):
        # How the answer broke tells a reader more than the status before it.
        rule = table.lookup(answer.failure.value)
        code = rule.code
    if session and rule.session_verdict is not None:
        rule = replace(rule, verdict=rule.session_verdict, scope="message")
    words = refusal.text if refusal and refusal.text else answer.body.decode("utf-8", "replace")
    if answer.failure is not None:
        words = f"{answer.detail} {words}"
    retry_after = _retry_after(answer.headers, now)
    return _refused(answer, rule, code, words, retry_after, recognised=refusal is not None)


def _accepted(document: Any, answer: Answer, table: Table) -> Judgement | None:
    if not isinstance(document, dict):
        return None
    message = _first(document.get("messages"))
    gs_id = _identifier(message.get("id"))
    if gs_id is None:
        return None
    return _acceptance(
        answer,
        table,
        gs_id,
        _identifier(_first(document.get("contacts")).get("wa_id")),
        _identifier(message.get("message_status")),
    )


def _acceptance(
    answer: Answer, table: Table, gs_id: str, wa_id: str | None, message_status: str | None = None
) -> Judgement:
    return Judgement(
        verdict=Verdict.ACCEPTED,
        code=None,
        reason="",
        hint="",
        gs_id=gs_id,
        wa_id=wa_id,
        message_status=message_status,
        retry_after_seconds=None,
        http_status=answer.http_status,
        rule=table.lookup("accepted"),
        recognised=True,
    )


def _refused(
    answer: Answer,
    rule: Rule,
    code: str,
    words: str,
    retry_after_seconds: float | None,
    *,
    recognised: bool,
) -> Judgement:
    return Judgement(
        verdict=rule.verdict,
        code=code,
        reason=_reason(words) or rule.sentence,
        hint=rule.hint,
        gs_id=None,
        wa_id=None,
        message_status=None,
        retry_after_seconds=retry_after_seconds,
        http_status=answer.http_status,
        rule=rule,
        recognised=recognised,
    )


def _rule(refusal: _Refusal | None, status: int, table: Table) -> tuple[Rule, str]:
    """The row that decides, and the code to record."""
    if refusal is None or 300 <= status <= 399 or status < 200:
        rule = table.lookup_status(status, recognised=False)
        return rule, code_of_status(rule, status)
    for code in refusal.codes:
        rule = table.lookup(code)
        if rule.listed:
            return rule, code
    by_text = table.lookup_text(refusal.text)
    if by_text is not None:
        return by_text, by_text.code
    by_status = table.lookup_status(status, recognised=True)
    if not refusal.codes or by_status.listed:
        return by_status, code_of_status(by_status, status)
    return table.lookup(refusal.codes[0], status), refusal.codes[0]


def _refusal(document: Any, status: int, table: Table, depth: int = 0) -> _Refusal | None:
    """The error in ``document``, when it has one of the shapes that only the provider's side makes."""
    if not isinstance(document, dict):
        return None
    error = document.get("error")
    if not isinstance(error, dict):
        error = _first(document.get("errors"))
    if (code := _code(error.get("code"), status)) is not None:
        return _Refusal([code], _words(error))
    message = document.get("message")
    if isinstance(document.get("status"), str) and document["status"].casefold() == "error":
        if not isinstance(message, str):
            return None
        inner = None
        if depth == 0 and message.lstrip().startswith("{"):
            inner = _refusal(_parse(message.encode("utf-8", "replace")), status, table, depth=1)
        codes = [*(inner.codes if inner else []), *_CODE_IN_TEXT.findall(message)]
        if (code := _code(document.get("code"), status)) is not None:
            codes.append(code)
        return _Refusal(codes, inner.text if inner and inner.text else message)
    reason = document.get("reason")
    code = _code(document.get("code"), status)
    # Four digits or more: a bare {"code": 503, "reason": …} is any gateway's.
    if isinstance(reason, str) and code is not None and int(code) >= 1000 and table.lookup(code).listed:
        return _Refusal([code], reason)
    return None


def _words(error: Mapping[str, Any]) -> str:
    """Message and details of a Meta error, each once."""
    details = error.get("error_data")
    parts = [
        error.get("message") or error.get("title"),
        details.get("details") if isinstance(details, dict) else None,
    ]
    return ": ".join(dict.fromkeys(part for part in parts if isinstance(part, str) and part))


def _code(value: Any, status: int) -> str | None:
    """A numeric code as text; None for anything else and for an echo of the HTTP status."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    if isinstance(value, int):
        value = str(value) if 0 <= value < 10**10 else ""
    if not _CODE.fullmatch(value) or int(value) == status:
        return None
    return str(int(value))


def _first(value: Any) -> Mapping[str, Any]:
    """The first object of a list; an empty one when there is none."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return value[0]
    return {}


def _identifier(value: Any) -> str | None:
    return value if isinstance(value, str) and _ID.fullmatch(value) else None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise _RepeatedKeyError
    return document


def _parse(body: bytes) -> Any:
    """The JSON value of ``body``; None when it is none, too deep, or repeats a key."""
    try:
        return json.loads(body.decode("utf-8-sig", "replace"), object_pairs_hook=_unique)
    except (ValueError, RecursionError):  # a number of thousands of digits is a ValueError too
        return None


def _reason(words: str) -> str:
    """Words fit for a row, a log line and a terminal."""
    printable = "".join(char if char.isprintable() else " " for char in words[: 8 * REASON_CHARS])
    masked = _PHONE.sub("…", _TOKEN.sub("[token]", " ".join(printable.split())))
    return masked[:REASON_CHARS]


def _retry_after(headers: Mapping[str, str], now: datetime | None) -> float | None:
    """Seconds that the provider asks us to wait: the longest of the headers that say so.

    Source: RFC 9110, section 10.2.3 (seconds or a date); ``X-Rate-Limit-Retry-After-Seconds`` as
    seen at API gateways. Gupshup documents neither.
    """
    found = {name.casefold(): value.strip() for name, value in headers.items()}
    waits: list[float] = []
    for name in ("retry-after", "x-rate-limit-retry-after-seconds"):
        value = found.get(name, "")
        if _SECONDS.fullmatch(value):
            waits.append(float(value))
        elif value and (until := _instant(value)) is not None:
            # Against the answer's own clock, so that a wrong clock here does no harm.
            start = _instant(found.get("date", "")) or now or datetime.now(UTC)
            waits.append((until - start).total_seconds())
    return min(max(waits), MAX_RETRY_AFTER_SECONDS) if waits and max(waits) > 0 else None


def _instant(value: str) -> datetime | None:
    try:
        instant = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)
