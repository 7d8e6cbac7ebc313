"""What each answer, code and failure of the provider means and what follows from it: one table.

The worker reads it for the answer to a request, the webhooks for a ``failed`` status, the command
line to show it. Nothing else decides what a code means. A code that no row names gets the verdict of
a general row (``131xxx``, ``unlisted_5xx``, ``unlisted_4xx``, …) whose ``listed`` is false, so that
its reader can log it.

Three kinds of code share the table and cannot collide: words of our own for what has no number
(``callback_billing``, ``no_answer``), Gupshup's numbers (470, 500, 1001 to 4005) and Meta's.

`TABLE` is what Disparo brings along. An installation may say otherwise of single codes
(`Table.with_overrides`), within what promise 2 leaves open: what may have been sent stays ``unknown``.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType

from disparo.errors import InputError
from disparo.statuses import Lane, Verdict

#: The five V3 message pages that Disparo was built from.
SEND_PAGES = "Gupshup partner docs, V3 message pages, 'Status Codes'; read 2026-11-21"
GUPSHUP_CODES = "Gupshup partner docs, error codes; read 2026-11-21"
GUPSHUP_LIMITS = "Gupshup partner docs, 'Partner Rate Limits'; read 2026-11-21"
GUPSHUP_SIBLING = "Gupshup partner docs, answers of sibling endpoints; read 2026-11-21"
META_CODES = "Meta, WhatsApp Cloud API, 'Error codes'; read 2026-11-21"
FIELD = "seen in public code of other senders, not in the vendors' documentation; read 2026-11-21"
HTTP = "RFC 9110, HTTP Semantics"
OURS = "decision of this project: whether the request can have been accepted"

#: The code of a message that waits for its turn with its recipient.
PAIR_PACING = "pair_pacing"

_RETRY = Verdict.RETRY
_THROTTLE = Verdict.THROTTLE
_FAILED = Verdict.MESSAGE_PERMANENT
_DEFER = Verdict.RECIPIENT_DEFER
_SUPPRESS = Verdict.RECIPIENT_SUPPRESS
_TEMPLATE = Verdict.TEMPLATE_STOP
_STOP = Verdict.SENDER_STOP
_UNKNOWN = Verdict.UNKNOWN


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table: a code, its verdict, and what people read about it."""

    #: A number as text, a range (``200-299``), a family (``131xxx``) or a word of our own.
    code: str
    verdict: Verdict
    #: What else would fail alike: ``message``, ``recipient``, ``lane``, ``template`` or ``app``.
    scope: str
    #: The official meaning.
    sentence: str
    #: What a person does next, in plain words.
    hint: str
    source: str
    #: The part of the scope: a lane for ``lane``, a lane or ``country`` for ``recipient``.
    scope_key: str | None = None
    #: Tries in all, the first one included; only of ``retry``. A throttle spends none.
    attempts: int = 1
    #: The shortest wait before the next try, in seconds.
    base_seconds: float = 0.0
    #: The longest wait before the next try, in seconds, unless the provider asks for more.
    cap_seconds: float = 0.0
    #: How fast the longest wait grows from try to try.
    factor: float = 2.0
    #: How many probes in a row a stop by this row makes by itself before it waits for a person; 0: the fault does
    #: not heal by itself.
    probes: int = 0
    #: The wait before the first probe, in seconds; it grows, up to the longest.
    probe_seconds: float = 0.0
    probe_cap_seconds: float = 0.0
    #: A template's parameters do not fit: when the first messages of a campaign all end so, its template stops.
    mismatch: bool = False
    #: The recipient was written to too often just now: not only the message waits but all to it, ``base_seconds``,
    #: then ``factor`` times longer with each refusal in a row, up to ``cap_seconds``; each of these is the shortest wait.
    pair: bool = False
    #: A ``failed`` status with this code may be sent again by itself (marketing and utility only).
    heals: bool = False
    #: False for the rows that stand for codes which nobody has described.
    listed: bool = True
    #: What the same code means for a session (free-form) message, where that differs.
    session_verdict: Verdict | None = None
    #: Beginnings of the provider's text that mean this row, compared without case and spacing.
    texts: tuple[str, ...] = ()
    #: Recorded by Disparo where there is no answer to judge, so its verdict is not looked up here.
    own: bool = False


@dataclass(frozen=True, slots=True)
class Override:
    """What an installation says of a code; a field that is left out stays as the row has it."""

    verdict: Verdict | None = None
    scope: str | None = None
    attempts: int | None = None
    base_seconds: float | None = None
    cap_seconds: float | None = None
    factor: float | None = None
    #: The row's ``sentence``.
    meaning: str | None = None
    hint: str | None = None
    #: Further beginnings of the provider's text.
    texts: tuple[str, ...] = ()

    def given(self) -> Iterable[str]:
        """The names of the fields that are not left out."""
        return (field.name for field in fields(self) if getattr(self, field.name) not in (None, ()))


#: What each verdict can stop or hold; the first is meant where nothing else is said. A ``lane`` without
#: ``scope_key`` is that of the refused message.
SCOPES: Mapping[Verdict, tuple[str, ...]] = MappingProxyType(
    {
        Verdict.ACCEPTED: ("message",),
        Verdict.RETRY: ("message", "recipient", "template", "app"),
        Verdict.THROTTLE: ("app", "lane"),
        Verdict.MESSAGE_PERMANENT: ("message",),
        Verdict.RECIPIENT_DEFER: ("recipient",),
        Verdict.RECIPIENT_SUPPRESS: ("recipient",),
        Verdict.TEMPLATE_STOP: ("template",),
        Verdict.SENDER_STOP: ("app", "lane"),
        Verdict.UNKNOWN: ("message",),
    }
)


_SUPPORT = "Ask Gupshup support"
_TOKEN = "Check the app's token (DISPARO_TOKEN_…) in the Gupshup partner portal, then `disparo app resume`."  # noqa: S105 - a sentence
_RESTART = "then `disparo app resume`"
_WAIT = "Nothing to do: it is tried again by itself."
_ASK = (
    "It may have been sent. Wait for its delivery webhook, or look it up at Gupshup and decide with "
    "`disparo campaign resolve`."
)
_PAYLOAD = "Correct the message and send it again under a new key."
_READ = "Read the reason; correct the message or ask Gupshup support."
_MAPPING = "Compare the parameters in the campaign file with the approved template, then amend and resume."

# One row, one look: the formatter would give every argument a line of its own.
# fmt: off
_TRANSPORT: tuple[Rule, ...] = (
    Rule("accepted", Verdict.ACCEPTED, "message", "Accepted for processing, with an id.", "", SEND_PAGES),
    Rule("connection_failed", _RETRY, "app",
         "No connection could be made (name, network, TLS or proxy); nothing was sent.",
         "Check network, DNS, DISPARO_PROXY and DISPARO_CA_BUNDLE; the message is tried again by itself.",
         OURS, attempts=30, base_seconds=1, cap_seconds=300),
    Rule("worker_died", _UNKNOWN, "message",
         "The worker was killed while the request was under way.", _ASK, OURS, own=True),
    Rule("lease_expired", _UNKNOWN, "message",
         "The worker was lost with its host or journal after it had claimed the message.", _ASK, OURS,
         own=True),
    Rule("kills_workers", _FAILED, "message",
         "Worker after worker died while it held the message, each before the request began.",
         "It was never sent. Look at the workers' logs for what ended them, before you send it again under "
         "another key.", OURS, own=True),
    Rule("given_up", _FAILED, "message",
         "A person gave it up while nobody knew whether it was accepted.",
         "It may have been sent. Ask the recipient before you send it again.", OURS, own=True),
    Rule("suppressed", _SUPPRESS, "recipient",
         "The recipient must not be written to; nothing was sent.",
         "`disparo suppress list NUMBER` shows since when and why; `disparo suppress remove NUMBER` ends it.", OURS,
         own=True),
    Rule("database_restored", _UNKNOWN, "message",
         "The database was restored from a backup that does not know whether it was sent.", _ASK, OURS, own=True),
    Rule("internal", _UNKNOWN, "message",
         "Disparo itself failed while the request was under way.", _ASK, OURS, own=True),
    Rule("rendering", _FAILED, "message",
         "The message could not be rendered with its recipient's columns; nothing was sent.",
         "Read the reason; correct the column or the message, and send it again under another key.", OURS,
         own=True),
    Rule("no_token", _STOP, "app",
         "A worker has no token for this app; nothing was sent.",
         "Set the variable that the reason names where the workers run, then `disparo app resume`.", OURS,
         own=True),
    Rule("unreachable", _STOP, "app",
         "One request after the other could not reach the endpoint; nothing of them was sent.",
         "Check network, DNS, DISPARO_PROXY and DISPARO_CA_BUNDLE. It is tried again by itself every few seconds.",
         OURS, own=True, probes=1_000_000, probe_seconds=1, probe_cap_seconds=5),
    Rule("strange_answers", _STOP, "app",
         "One answer after the other was none of the provider's, or there was none.",
         "Check the app's base URL, DISPARO_PROXY and what stands between here and the provider (a captive portal, "
         "a gateway's error page). One message is tried from time to time; `disparo app resume` tries at once.",
         OURS, own=True, probes=1_000_000, probe_seconds=2, probe_cap_seconds=300),
    Rule(PAIR_PACING, _RETRY, "recipient",
         "It waits for its recipient's turn, because the app just wrote to the same recipient; nothing was sent.",
         "Nothing to do: it leaves at its turn. `disparo app set NAME --pair-seconds S` sets the time between two.",
         OURS, own=True),
    Rule("operator", _STOP, "app",
         "A person paused it.", "`disparo app resume` lets it send again.", OURS, own=True),
    Rule("no_answer", _UNKNOWN, "message",
         "The connection ended after the request was written and before an answer.", _ASK, OURS),
    Rule("deadline", _UNKNOWN, "message",
         "No complete answer within the deadline, after the request was written.", _ASK, OURS),
    Rule("cut_answer", _UNKNOWN, "message",
         "The answer ended before its announced length.", _ASK, OURS),
    Rule("too_large", _UNKNOWN, "message",
         "The answer is larger than any answer of the provider.", _ASK, OURS),
    Rule("no_id", _UNKNOWN, "message",
         "A success without a message id that can be read.", _ASK, OURS),
    Rule("odd_answer", _UNKNOWN, "message",
         "An HTTP status that the provider does not document.", _ASK, OURS),
    Rule("request_timeout", _UNKNOWN, "message",
         "HTTP 408 without an error body: some gateways say so after they forwarded the request.", _ASK,
         OURS),
    Rule("server_error", _UNKNOWN, "message",
         "HTTP 5xx without an error body that is recognised.", _ASK, OURS),
    Rule("bad_gateway", _UNKNOWN, "message",
         "HTTP 502, 503 or 504 without an error body: a gateway may have forwarded the request.", _ASK, OURS),
    # RFC 9110, section 15.4: the request is not fulfilled until the client has gone to the other place.
    # The one exception is 303, which may follow a request that was carried out.
    Rule("redirect", _STOP, "app",
         "The endpoint sends to another address; it is not followed, because it would carry the token there.",
         f"Check the app's base URL (https, no captive portal or proxy page in between), {_RESTART}.", HTTP),
    Rule("see_other", _UNKNOWN, "message",
         "HTTP 303: the request may have been carried out and its result be elsewhere.", _ASK, HTTP),
)

_HTTP: tuple[Rule, ...] = (
    Rule("callback_billing", _STOP, "app",
         "Callback billing is not enabled for the app.",
         f"{_SUPPORT} to enable callback billing for this app, {_RESTART}.", SEND_PAGES,
         texts=("Callback Billing must be enabled",)),
    Rule("invalid_app", _STOP, "app",
         "The app's details were not found.",
         f"Check the app id and that the token belongs to it, {_RESTART}.", SEND_PAGES,
         texts=("Invalid App Details",)),
    Rule("authentication_failed", _STOP, "app",
         "Authentication of the API key failed.", _TOKEN, SEND_PAGES,
         texts=("Authentication Failed", "Unauthorized Access")),
    Rule("too_many_tokens", _STOP, "app",
         "Too many active tokens.", f"Revoke tokens of this app in the partner portal, {_RESTART}.", FIELD,
         texts=("Too many active tokens",)),
    Rule("invalid_payload", _FAILED, "message",
         "The request is not what the endpoint accepts.", _PAYLOAD, GUPSHUP_SIBLING,
         texts=("Invalid JSON payload", "Please review the request parameters and retry")),
    Rule("forbidden", _STOP, "app",
         "HTTP 403: the app may not do this.", f"Check token, app id and what the app may send, {_RESTART}.",
         FIELD),
    Rule("not_found", _STOP, "app",
         "HTTP 404, 405 or 410: there is no such path or app.",
         f"Check the app id and the base URL, {_RESTART}.", FIELD),
    Rule("too_many_requests", _THROTTLE, "app",
         "Gupshup's limit of requests is reached; its cool-down is a second or a minute.", _WAIT,
         GUPSHUP_LIMITS, base_seconds=1, cap_seconds=60, heals=True, texts=("Too Many Requests",)),
    Rule("internal_error", _RETRY, "message",
         "Internal server error at Gupshup.", _WAIT, GUPSHUP_SIBLING,
         attempts=5, base_seconds=1, cap_seconds=120, heals=True, texts=("Internal server error",)),
    Rule("proxy_refused", _RETRY, "app",
         "HTTP 407: the proxy wants another password; nothing reached the provider.",
         "Check DISPARO_PROXY; the message is tried again by itself.", HTTP,
         attempts=30, base_seconds=5, cap_seconds=300),
)

_GUPSHUP: tuple[Rule, ...] = (
    Rule("470", _FAILED, "message",
         "More than 24 hours since the recipient's last reply (code of older samples).",
         "Use a template, or wait until the customer writes.", GUPSHUP_CODES),
    Rule("500", _RETRY, "message", "Internal error at Gupshup.", _WAIT, GUPSHUP_CODES,
         attempts=5, base_seconds=1, cap_seconds=120, heals=True),
    Rule("1001", _STOP, "app", "Last mapped bot and sender do not match (sandbox app).",
         f"Use a live app, or write to it from this number first, {_RESTART}.", GUPSHUP_CODES),
    Rule("1002", _SUPPRESS, "recipient", "The number is not on WhatsApp.",
         "Correct the number in the list.", GUPSHUP_CODES),
    Rule("1003", _STOP, "app", "The balance of the wallet is low.",
         "Top up the Gupshup wallet; one message is tried from time to time, `disparo app resume` tries at once. "
         "Then `disparo campaign retry NAME --code 1003`.",
         GUPSHUP_CODES, probes=1_000_000, probe_seconds=300, probe_cap_seconds=3600),
    Rule("1004", _STOP, "app", "The session is closed and template messaging is disabled for the app.",
         f"{_SUPPORT} to enable template messages for this app, {_RESTART}.", GUPSHUP_CODES,
         session_verdict=_FAILED),
    Rule("1005", _FAILED, "message", "The session is closed and the text matches no template.",
         "Use a template, or wait until the customer writes.", GUPSHUP_CODES),
    Rule("4003", _FAILED, "message", "The session is closed and the text matches no template.",
         "Use a template, or wait until the customer writes.", GUPSHUP_CODES),
    *(
        Rule(code, _SUPPRESS, "recipient", "The recipient has not opted in.",
             "Get the customer's consent before writing again.", GUPSHUP_CODES)
        for code in ("1006", "1007", "1008")
    ),
    Rule("1010", _FAILED, "message", "The address of the media is not valid.",
         "Check that the link is public and answers with the file.", GUPSHUP_CODES),
    Rule("1011", _FAILED, "message", "The media is larger than allowed.",
         "Make the file smaller.", GUPSHUP_CODES),
    Rule("1012", _SUPPRESS, "recipient", "The number has opted out.",
         "Do not write to this customer until they ask for it.", GUPSHUP_CODES),
    Rule("4001", _THROTTLE, "app", "Requests are limited: stop sending.", _WAIT, GUPSHUP_CODES,
         base_seconds=60, cap_seconds=900, heals=True),
    Rule("4002", _RETRY, "message", "WhatsApp gave Gupshup an answer that is not valid.", _WAIT,
         GUPSHUP_CODES,
         attempts=5, base_seconds=2, cap_seconds=120, heals=True),
    Rule("4004", _STOP, "app", "This type works only for apps hosted on Meta's Cloud API.",
         f"{_SUPPORT} to move the app to the Cloud API, {_RESTART}.", GUPSHUP_CODES),
    Rule("4005", _TEMPLATE, "template", "The template is paused.",
         "Wait until WhatsApp unpauses it or choose another template, then resume.", GUPSHUP_CODES),
)

_META_ACCOUNT: tuple[Rule, ...] = (
    Rule("0", _STOP, "app", "The app user could not be authenticated.",
         f"{_SUPPORT}: Gupshup's own credentials at Meta are refused; {_RESTART}.", META_CODES),
    Rule("190", _STOP, "app", "The access token has expired.",
         f"{_SUPPORT}: Gupshup's own credentials at Meta are refused; {_RESTART}.", META_CODES),
    Rule("3", _STOP, "app", "Capability or permission is missing.",
         f"{_SUPPORT} for the permissions of this app, {_RESTART}.", META_CODES),
    *(
        Rule(code, _STOP, "app", "A permission is not granted or has been removed.",
             f"{_SUPPORT} for the permissions of this app, {_RESTART}.", META_CODES)
        for code in ("10", "200-299", "131005")
    ),
    Rule("368", _STOP, "app", "The business account is restricted or disabled for breaking a policy.",
         f"Read the notice in WhatsApp Manager and appeal there, {_RESTART}.", META_CODES),
    Rule("131031", _STOP, "app", "The business account is locked, or its data could not be verified.",
         f"Read the notice in WhatsApp Manager, {_RESTART}.", META_CODES),
    Rule("130497", _SUPPRESS, "recipient", "The account may not write to users of that country.",
         "Leave numbers of that country out of the list.", META_CODES, scope_key="country"),
    *(
        Rule(code, _STOP, "app", "There is a problem with the means of payment of the business account.",
             f"Check billing of the WhatsApp Business account, {_RESTART}.", META_CODES)
        for code in ("131042", "131044")
    ),
    Rule("131045", _STOP, "app", "The phone number's registration or certificate is not right.",
         f"{_SUPPORT} to register the number again, {_RESTART}.", META_CODES),
    Rule("131037", _STOP, "app", "The number's display name is not approved.",
         f"Have the display name approved in WhatsApp Manager, {_RESTART}.", META_CODES),
    Rule("33", _STOP, "app", "The business phone number has been deleted.",
         f"Check the number in WhatsApp Manager, {_RESTART}.", META_CODES),
    *(
        Rule(code, _STOP, "app", sentence, f"{_SUPPORT} about the number's registration, {_RESTART}.",
             META_CODES)
        for code, sentence in (
            ("133000", "An earlier attempt to deregister the number failed."),
            ("133005", "The PIN of two-step verification does not match."),
            ("133006", "The number has to be verified again before it is registered."),
            ("133008", "Too many wrong PINs for this number."),
            ("133009", "The PIN was entered too quickly."),
            ("133010", "The number is not registered on the WhatsApp Business Platform."),
            ("133015", "The number was deleted recently and the deletion is not complete."),
            ("133016", "Too many registrations and deregistrations of this number."),
        )
    ),
    Rule("133004", _RETRY, "app", "The server is temporarily unavailable.", _WAIT, META_CODES,
         attempts=6, base_seconds=5, cap_seconds=300, heals=True),
    Rule("134011", _STOP, "lane", "The terms for payments are not accepted.",
         "Accept the payments terms in WhatsApp Manager, then `disparo app resume --lane payment`.",
         META_CODES,
         scope_key=Lane.PAYMENT.value),
    Rule("131064", _STOP, "app",
         "The messaging limit was cut because templates were filed under a wrong category.",
         f"Read the notice in WhatsApp Manager and correct the templates' categories, {_RESTART}.", FIELD),
    Rule("131063", _STOP, "lane", "Marketing templates are disabled on the Cloud API for this account.",
         "Ask Gupshup about marketing messages, then `disparo app resume --lane marketing`.", FIELD,
         scope_key=Lane.MARKETING.value),
)

_META_PACE: tuple[Rule, ...] = (
    Rule("4", _THROTTLE, "app", "The app has reached its API call rate limit.", _WAIT, META_CODES,
         base_seconds=60, cap_seconds=900, heals=True),
    Rule("80007", _THROTTLE, "app", "The business account has reached its rate limit.", _WAIT, META_CODES,
         base_seconds=60, cap_seconds=900, heals=True),
    Rule("130429", _THROTTLE, "app", "The throughput of the number has been reached.", _WAIT, META_CODES,
         base_seconds=2, cap_seconds=60, heals=True),
    # Sending on only makes the block longer, so its failed statuses do not heal by themselves.
    Rule("131048", _THROTTLE, "lane",
         "Restricted because many messages of this number were blocked or reported.",
         "Stop marketing, look at the number's quality in WhatsApp Manager, write only to who asked for it.",
         META_CODES, scope_key=Lane.MARKETING.value, base_seconds=900, cap_seconds=3600,
         probes=4, probe_seconds=900, probe_cap_seconds=3600),
    # "Try again after 4^X seconds, X beginning with 0": Meta, "Throughput", pair rate limits, read 2026-11-21.
    Rule("131056", _RETRY, "recipient", "Too many messages to the same recipient in a short time.", _WAIT,
         META_CODES, attempts=6, base_seconds=1, cap_seconds=3600, factor=4, heals=True, pair=True),
    Rule("131057", _RETRY, "app", "The account is in maintenance, perhaps for an upgrade of its throughput.",
         _WAIT,
         META_CODES, attempts=12, base_seconds=60, cap_seconds=300, heals=True),
    Rule("2494100", _RETRY, "app", "The number is in maintenance.", _WAIT, META_CODES,
         attempts=12, base_seconds=60, cap_seconds=300, heals=True),
    Rule("1", _RETRY, "message", "Invalid request or possible server error.", _WAIT, META_CODES,
         attempts=3, base_seconds=2, cap_seconds=60, heals=True),
    Rule("2", _RETRY, "message", "The service is down or overloaded.", _WAIT, META_CODES,
         attempts=6, base_seconds=2, cap_seconds=300, heals=True),
    Rule("131016", _RETRY, "message", "A service is temporarily unavailable.", _WAIT, META_CODES,
         attempts=6, base_seconds=2, cap_seconds=300, heals=True),
    Rule("131000", _RETRY, "message", "Not sent because of an unknown error.", _WAIT, META_CODES,
         attempts=4, base_seconds=2, cap_seconds=120, heals=True),
)

_META_MESSAGE: tuple[Rule, ...] = (
    Rule("135000", _FAILED, "message", "Not sent because of an unknown error with the request's parameters.",
         _PAYLOAD, META_CODES),
    Rule("100", _FAILED, "message", "The request has parameters that are not supported or misspelled.",
         _PAYLOAD, META_CODES),
    Rule("131008", _FAILED, "message", "A required parameter is missing.", _PAYLOAD, META_CODES),
    Rule("131009", _FAILED, "message", "A parameter's value is not valid.", _PAYLOAD, META_CODES),
    Rule("131021", _FAILED, "message", "Sender and recipient are the same number.",
         "Take the sender's own number out of the list.", META_CODES),
    Rule("131051", _FAILED, "message", "The message type is not supported.", _PAYLOAD, META_CODES),
    Rule("131052", _FAILED, "message", "The media sent by the user could not be downloaded.",
         "Ask the customer to send it again.", META_CODES),
    Rule("131053", _FAILED, "message", "The message's media could not be uploaded.",
         "Check type and size of the file and that its link is public.", META_CODES),
    *(
        Rule(code, _FAILED, "message", "Only marketing templates may be sent on this API.",
             "Send this template through the ordinary endpoint.", META_CODES)
        for code in ("131055", "134100")
    ),
    Rule("134101", _RETRY, "template", "The template is still being synchronised (up to ten minutes).", _WAIT,
         META_CODES, attempts=4, base_seconds=600, cap_seconds=900, heals=True),
    *(
        Rule(code, _TEMPLATE, "template", "The template is not available on the marketing API.",
             "Send this template through the ordinary endpoint, or wait until it is approved there.",
             META_CODES)
        for code in ("134102", "134103")
    ),
    Rule("131062", _FAILED, "message", "This message cannot be sent to a business-scoped user id.",
         "Send it to the customer's phone number.", META_CODES),
    Rule("137000", _FAILED, "message", "The recipient's identity key does not match.",
         "Confirm who owns the number now.", FIELD),
    Rule("131030", _FAILED, "message", "The recipient is not on the test number's allowed list.",
         "Add the number to the test list, or use a live number.", META_CODES),
    *(
        Rule(code, _FAILED, "message", "More than 24 hours have passed since the recipient's last reply.",
             "Use a template, or wait until the customer writes.", META_CODES)
        for code in ("131047", "130470")
    ),
    Rule("2040", _FAILED, "message", "This payment message is not supported for this user.",
         "Send the payment code in a template or a text.", META_CODES),
    Rule("2046", _FAILED, "message", "The order cannot change to this status.",
         "Look at the order's last status; send only the next one.", META_CODES),
    Rule("2047", _FAILED, "message", "The order cannot be cancelled any more.",
         "Look at the order's last status.", META_CODES),
)

_META_RECIPIENT: tuple[Rule, ...] = (
    Rule("131026", _SUPPRESS, "recipient",
         "Undeliverable: not on WhatsApp, terms not accepted, or an old version of the app.",
         "Check the number; ask the customer to update WhatsApp.", META_CODES),
    Rule("131049", _DEFER, "recipient",
         "Held back to keep the ecosystem healthy: too much marketing to this user.",
         "Nothing to correct. Try this customer again after a day or more, if it is still worth it.",
         META_CODES,
         scope_key=Lane.MARKETING.value),
    Rule("131050", _SUPPRESS, "recipient", "The recipient has stopped marketing messages of this business.",
         "Send no marketing to this customer until they resume it.", META_CODES,
         scope_key=Lane.MARKETING.value),
    Rule("130472", _DEFER, "recipient", "Not sent: the user's number is part of an experiment.",
         "Nothing to correct; sending again gives the same answer.", META_CODES,
         scope_key=Lane.MARKETING.value),
)

_META_TEMPLATE: tuple[Rule, ...] = (
    Rule("132000", _TEMPLATE, "template", "The number of parameters does not match the template.", _MAPPING,
         META_CODES),
    Rule("132001", _TEMPLATE, "template", "The template does not exist in that language or is not approved.",
         "Check name and language in the campaign file against the approved templates, then resume.",
         META_CODES),
    Rule("132005", _FAILED, "message", "The filled text is too long.", "Shorten this recipient's values.",
         META_CODES),
    Rule("132007", _TEMPLATE, "template", "The template's content breaks a policy.",
         "Correct the template in the Gupshup portal and have it approved, then resume.", META_CODES),
    *(
        Rule(code, _FAILED, "message", sentence,
             "Correct this recipient's values; if all fail alike, compare campaign file and template.",
             META_CODES, mismatch=True)
        for code, sentence in (
            ("132008", "A template parameter is not valid."),
            ("132012", "A template parameter has the wrong format."),
            ("132018", "A template parameter's value does not fit the template."),
        )
    ),
    Rule("132015", _TEMPLATE, "template", "The template is paused because of low quality.",
         "WhatsApp unpauses it after 3 or 6 hours, and one message is tried then; better improve it or choose another "
         "one.",
         META_CODES, probes=8, probe_seconds=10_800, probe_cap_seconds=21_600),
    Rule("132016", _TEMPLATE, "template", "The template is disabled for good because of low quality.",
         "Make a new template.", META_CODES),
    Rule("132068", _TEMPLATE, "template", "The template's flow is blocked.", "Correct the flow, then resume.",
         META_CODES),
    Rule("132069", _TEMPLATE, "template", "The template's flow is throttled to ten messages an hour.",
         "One message is tried after an hour; correct the flow, then resume.", META_CODES,
         probes=24, probe_seconds=3600, probe_cap_seconds=3600),
)

_UNLISTED: tuple[Rule, ...] = (
    Rule("131xxx", _FAILED, "message", "A code of Meta's messaging family that this table does not know.",
         "Look the code up at Meta and tell us.", OURS, listed=False),
    Rule("132xxx", _FAILED, "message", "A code of Meta's template family that this table does not know.",
         "Look the code up at Meta and tell us.", OURS, listed=False),
    Rule("unlisted_5xx", _RETRY, "message", "HTTP 5xx with an error body that this table does not know.",
         _WAIT,
         OURS, attempts=5, base_seconds=1, cap_seconds=120, listed=False),
    Rule("unlisted_4xx", _FAILED, "message", "Refused with a reason that this table does not know.",
         _READ, OURS, listed=False),
)
# fmt: on

#: Every row, in the order in which they are shown.
RULES: tuple[Rule, ...] = (
    *_TRANSPORT,
    *_HTTP,
    *_GUPSHUP,
    *_META_ACCOUNT,
    *_META_PACE,
    *_META_MESSAGE,
    *_META_RECIPIENT,
    *_META_TEMPLATE,
    *_UNLISTED,
)

#: What an HTTP status says by itself, whether or not its body says more.
_BY_STATUS: Mapping[int, str] = MappingProxyType(
    {
        301: "redirect",
        302: "redirect",
        303: "see_other",
        307: "redirect",
        308: "redirect",
        401: "authentication_failed",
        403: "forbidden",
        404: "not_found",
        405: "not_found",
        407: "proxy_refused",
        410: "not_found",
        429: "too_many_requests",
    }
)
# Rows that are also given to an answer without an error body that is recognised.
_WITHOUT_BODY = frozenset({*_BY_STATUS.values(), "unlisted_4xx"})

_NUMBER = re.compile(r"[0-9]{1,10}")
_STATUS_CODE = re.compile(r"http_([1-5][0-9]{2})")
_NEW_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")
_NEW_WORD = re.compile(r"[a-z][a-z0-9_]{2,39}")
#: For longer than a day an app is paused, which people see and can end.
LONGEST_COOL_DOWN_SECONDS = 86_400
_WAITING = (Verdict.RETRY, Verdict.THROTTLE)
_STOPPING = (Verdict.TEMPLATE_STOP, Verdict.SENDER_STOP)
#: The row whose attempts and waits a row takes over that gets this verdict from an installation.
_PACE = {Verdict.RETRY: "unlisted_5xx", Verdict.THROTTLE: "too_many_requests"}


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


class Table:
    """Rows, found by code, by text or by HTTP status. It never changes and is safe to share."""

    __slots__ = ("_by_code", "_by_text", "rules")

    def __init__(self, rules: Iterable[Rule]) -> None:
        """``rules`` hold each code once, and all general rows and words of our own of `RULES`."""
        #: Every row, in the order in which they are shown.
        self.rules = tuple(rules)
        self._by_code: Mapping[str, Rule] = MappingProxyType({rule.code: rule for rule in self.rules})
        texts = [(_plain(text), rule) for rule in self.rules for text in rule.texts]
        # The longest first: it says most.
        self._by_text = tuple(sorted(texts, key=lambda found: -len(found[0])))

    def row(self, code: str) -> Rule | None:
        """The row of exactly that name; None when there is none."""
        return self._by_code.get(code)

    def lookup(self, code: str, http_status: int | None = None) -> Rule:
        """The row of a code, or the row that stands for codes like it.

        Never fails: a code that no row names gives one of the rows with ``listed`` false.

        Args:
          code: As recorded: a number as text, a word of our own, or ``http_422`` (see ``code_of_status``).
          http_status: Status of the answer that carried the code; None when it came by webhook, where
            nothing is left to be refused and an unknown code fails the message.
        """
        rule = self._by_code.get(code)
        if rule is not None:
            return rule
        if _NUMBER.fullmatch(code):
            number = int(code)
            if 200 <= number <= 299:
                return self._by_code["200-299"]
            if 131_000 <= number <= 132_999:
                return self._by_code["131xxx" if number < 132_000 else "132xxx"]
        if status := _STATUS_CODE.fullmatch(code):
            return self.lookup_status(int(status[1]), recognised=True)
        server_side = http_status is not None and http_status >= 500
        return self._by_code["unlisted_5xx" if server_side else "unlisted_4xx"]

    def lookup_text(self, text: str) -> Rule | None:
        """The row whose text the provider's words begin with; None when no row has it."""
        words = _plain(text)
        return next((rule for beginning, rule in self._by_text if words.startswith(beginning)), None)

    def lookup_status(self, http_status: int, *, recognised: bool) -> Rule:
        """The row of an HTTP status that came without a listed code or text.

        A 4xx is a refusal also without a body that we know: the status class says that the request was
        not carried out, and nothing is sent again by itself but a 429. Three statuses mean the app, not
        the message (401, 403 and the missing paths). A 408 is the exception, and a 5xx says nothing.

        Args:
          http_status: Anything but an accepted 2xx; a 2xx that comes here has no id.
          recognised: The body was an error of the provider's shape, so that a 5xx is its refusal and not
            a gateway's guess.
        """
        code = _BY_STATUS.get(http_status)
        if code is None:
            if 200 <= http_status <= 299:
                code = "no_id"
            elif 500 <= http_status <= 599 and recognised:
                code = "unlisted_5xx"
            elif 500 <= http_status <= 599:
                code = "bad_gateway" if http_status in (502, 503, 504) else "server_error"
            elif 400 <= http_status <= 499:
                code = "request_timeout" if http_status == 408 and not recognised else "unlisted_4xx"
            else:
                code = "odd_answer"
        return self._by_code[code]

    def with_overrides(self, overrides: Mapping[str, Override], source: str) -> "Table":
        """A table in which ``overrides`` (by code) count; codes that it does not have are added.

        Promise 2 holds in every such table: what is ``unknown`` stays so, nothing but an id is
        ``accepted``, and an answer without an error body that is recognised is never tried again, apart
        from HTTP 407 and 429.

        Args:
          source: Where added codes come from, for their rows.

        Raises:
          InputError: An override that cannot be; the sentence begins with code and field.
        """
        rows = dict(self._by_code)
        for code, override in overrides.items():
            rows[code] = _overridden(rows.get(code) or _added(code, override, source), override)
        owners: dict[str, str] = {}
        for code, rule in rows.items():
            for text in rule.texts:
                if (other := owners.setdefault(_plain(text), code)) != code:
                    raise _refusal(code, "texts", f"{text!r} means {other} already")
        return Table(rows.values())


def _refusal(code: str, field: str, sentence: str) -> InputError:
    return InputError(f"code {code}, {field}: {sentence}")


def _added(code: str, override: Override, source: str) -> Rule:
    """The row to begin with for a code that the table does not have."""
    if _STATUS_CODE.fullmatch(code):
        general = "unlisted_5xx" if code.startswith("http_5") else "unlisted_4xx"
        raise InputError(
            f"code {code}: an HTTP status has no row of its own; change {general}, or give a row the "
            "provider's words as texts"
        )
    if _NEW_NUMBER.fullmatch(code) and 300 <= int(code) <= 599:
        raise InputError(
            f"code {code}: this is an HTTP status, and no code of the provider; see `disparo codes http_{code}`"
        )
    if not _NEW_NUMBER.fullmatch(code):
        if not _NEW_WORD.fullmatch(code):
            raise InputError(
                f"code {code[:60]!r}: a new code is the provider's number, or a word of a-z, 0-9 and _ with the "
                "provider's words as texts; `disparo codes` shows those that there are"
            )
        if not override.texts:
            raise _refusal(
                code, "texts", "no answer has this code; give the words with which the answers begin"
            )
    if override.verdict is None:
        raise _refusal(code, "verdict", "it is a new code, which needs one")
    return Rule(code, _FAILED, "message", "A code that this installation has listed.", _READ, source)


def _overridden(rule: Rule, override: Override) -> Rule:
    _check_changeable(rule, override)
    verdict = override.verdict or rule.verdict
    changes = verdict is not rule.verdict
    scope = override.scope or (rule.scope if rule.scope in SCOPES[verdict] else SCOPES[verdict][0])
    _check_fits(rule.code, override, verdict, scope)
    pace = lookup(_PACE.get(verdict, "unlisted_4xx")) if changes else rule
    base = pace.base_seconds if override.base_seconds is None else override.base_seconds
    cap = max(base, pace.cap_seconds) if override.cap_seconds is None else override.cap_seconds
    if cap < base:
        raise _refusal(rule.code, "cap_seconds", f"{cap:g} is less than base_seconds, which is {base:g}")
    if verdict is Verdict.THROTTLE and base > LONGEST_COOL_DOWN_SECONDS:
        raise _refusal(
            rule.code,
            "base_seconds",
            "a throttle holds all that the app sends, so write at most 86400 (a day)",
        )
    return replace(
        rule,
        verdict=verdict,
        scope=scope,
        scope_key=rule.scope_key if scope == rule.scope else None,
        sentence=override.meaning or rule.sentence,
        hint=override.hint or _hint(rule, verdict),
        attempts=override.attempts or pace.attempts,
        base_seconds=base,
        cap_seconds=cap,
        factor=override.factor or pace.factor,
        pair=rule.pair and not changes and scope == rule.scope,
        # Most codes come by webhook; who asks for another try means those too.
        heals=verdict in _WAITING and (changes or rule.heals),
        session_verdict=rule.session_verdict if override.verdict is None else None,
        texts=(*rule.texts, *override.texts),
    )


def _check_changeable(rule: Rule, override: Override) -> None:
    """Refuse what would break promise 2, or would be said in vain."""
    if rule.verdict is Verdict.ACCEPTED:
        raise InputError(f"code {rule.code}: an id means accepted, and nothing about it can be changed")
    verdict = override.verdict or rule.verdict
    if verdict is Verdict.ACCEPTED:
        raise _refusal(rule.code, "verdict", "only an answer with an id is accepted")
    if rule.verdict is Verdict.UNKNOWN and verdict is not Verdict.UNKNOWN:
        raise _refusal(
            rule.code,
            "verdict",
            f"it stays unknown, since the message may have been sent, and {verdict} could lead to a second one. "
            "People decide about unknowns with `disparo campaign resolve`",
        )
    if rule.own or rule.verdict is Verdict.UNKNOWN:
        for field in override.given():
            if field not in ("meaning", "hint") and not (field == "verdict" and verdict is rule.verdict):
                raise _refusal(
                    rule.code,
                    field,
                    "Disparo records this code by itself; only meaning and hint can be changed",
                )
    if rule.code in _WITHOUT_BODY and verdict in _WAITING and rule.verdict not in _WAITING:
        raise _refusal(
            rule.code,
            "verdict",
            f"{verdict} would also send again what was answered without an error body that is recognised, "
            "and might have been sent. Write a verdict that sends nothing again, or list the provider's code or "
            "words in a row of their own",
        )


def _check_fits(code: str, override: Override, verdict: Verdict, scope: str) -> None:
    """Refuse what has no meaning beside the verdict."""
    if scope not in SCOPES[verdict]:
        there_are = " or ".join(SCOPES[verdict])
        raise _refusal(code, "scope", f"{scope} does not go with {verdict}; write {there_are}")
    if override.attempts is not None and verdict is not Verdict.RETRY:
        raise _refusal(code, "attempts", f"only retry counts them, and the verdict is {verdict}")
    for field in ("base_seconds", "cap_seconds", "factor"):
        if getattr(override, field) is not None and verdict not in _WAITING:
            raise _refusal(code, field, f"only retry and throttle wait, and the verdict is {verdict}")


def _hint(rule: Rule, verdict: Verdict) -> str:
    """What a person does next when the verdict of ``rule`` is now another one."""
    if verdict is rule.verdict:
        return rule.hint
    if verdict in _WAITING:
        return _WAIT
    if verdict is Verdict.UNKNOWN:
        return _ASK
    hint = _READ if rule.verdict in _WAITING else rule.hint
    if verdict in _STOPPING and rule.verdict not in _STOPPING:
        return f"{hint} Then `disparo app resume`."
    return hint


#: The table that Disparo brings along.
TABLE = Table(RULES)

lookup = TABLE.lookup


def code_of_status(rule: Rule, http_status: int) -> str:
    """The code to record for a row found by status: its own, or ``http_422`` for a general row."""
    return rule.code if rule.listed else f"http_{http_status}"
