"""Every answer the sandbox gives, with the exact bodies of the provider's pages."""

import itertools
from enum import Enum
from typing import NamedTuple

import orjson

JSON_TYPE = b"application/json"
HTML_TYPE = b"text/html"


class Answer(NamedTuple):
    """One HTTP answer; ``reason`` is the word under which a refusal is counted."""

    status: int
    body: bytes
    reason: str = ""
    content_type: bytes = JSON_TYPE
    #: Further header lines, each with its line end.
    headers: bytes = b""


class Manner(Enum):
    """How an answer reaches the client, or does not."""

    WHOLE = "whole"
    CLOSE = "close"  #: the connection is closed instead
    HANG = "hang"  #: nothing, until the client goes away
    DRIP = "drip"  #: one byte a second
    CUT = "cut"  #: half of the body that Content-Length announces, then closed


# Gupshup's pages of V3 messages ("Status Codes"), key order included, as of 2026-11-21.
BILLING = Answer(
    400, b'{"message":"Callback Billing must be enabled for this API","status":"error"}', "billing"
)
APP = Answer(400, b'{"message":"Invalid App Details","status":"error"}', "app")
AUTHENTICATION = Answer(401, b'{"status":"error","message":"Authentication Failed"}', "auth")
# Gupshup, "Partner Rate Limits" and sibling endpoints, as of 2026-11-21.
THROTTLE = Answer(429, b'{"status":"error","message":"Too Many Requests"}', "throttle")
NOT_JSON = Answer(400, b'{"status":"error","message":"Invalid JSON payload"}', "json")
INTERNAL = Answer(500, b'{"status":"error","message":"Internal server error. Please try again later"}', "500")


def problem(status: int, message: str, reason: str, headers: bytes = b"") -> Answer:
    """An error in Gupshup's shape whose words are ours."""
    return Answer(status, orjson.dumps({"status": "error", "message": message}), reason, headers=headers)


CONTENT_TYPE = problem(400, "Content-Type must be application/json", "content-type")
TOO_LARGE = problem(413, "Request body is larger than 1 MB", "too-large")
NOT_FOUND = problem(404, "Not Found", "path")


def accepted(identity: str, to: str) -> Answer:
    body = (
        f'{{"messages":[{{"id":"{identity}"}}],"messaging_product":"whatsapp",'
        f'"contacts":[{{"input":"{to}","wa_id":"{to}"}}]}}'
    )
    return Answer(200, body.encode())


def without_id(to: str) -> Answer:
    body = f'{{"messages":[],"messaging_product":"whatsapp","contacts":[{{"input":"{to}","wa_id":"{to}"}}]}}'
    return Answer(200, body.encode())


#: Statuses with which a gateway, not the API, answers.
GATEWAY_TITLES = {502: "Bad Gateway", 503: "Service Temporarily Unavailable", 504: "Gateway Time-out"}


def gateway(status: int) -> Answer:
    """A page of a proxy: no body that a client could recognise."""
    title = f"{status} {GATEWAY_TITLES[status]}"
    page = f"<html><head><title>{title}</title></head>\r\n<body><h1>{title}</h1></body></html>\r\n"
    return Answer(status, page.encode(), str(status), HTML_TYPE)


#: Meta's codes → HTTP status, title (Meta, "Error codes" of the Cloud API, as of 2026-11-21).
_META = {
    0: (401, "AuthException"),
    1: (400, "API Unknown"),
    2: (503, "API Service"),
    3: (500, "API Method"),
    4: (400, "API Too Many Calls"),
    10: (403, "Permission Denied"),
    33: (400, "Parameter value is not valid"),
    100: (400, "Invalid parameter"),
    190: (401, "Access token has expired"),
    368: (403, "Temporarily blocked for policies violations"),
    80007: (400, "Rate limit issues"),
    130429: (400, "Rate limit hit"),
    130472: (400, "User's number is part of an experiment"),
    130497: (403, "Business account is restricted from messaging users in this country"),
    131000: (500, "Something went wrong"),
    131005: (403, "Access denied"),
    131008: (400, "Required parameter is missing"),
    131009: (400, "Parameter value is not valid"),
    131016: (500, "Service unavailable"),
    131021: (400, "Recipient cannot be sender"),
    131026: (400, "Message undeliverable"),
    131030: (400, "Recipient phone number not in allowed list"),
    131031: (403, "Account has been locked"),
    131037: (400, "Display name approval needed"),
    131042: (400, "Business eligibility payment issue"),
    131045: (500, "Incorrect certificate"),
    131047: (400, "Re-engagement message"),
    131048: (400, "Spam rate limit hit"),
    131049: (400, "Meta chose not to deliver"),
    131050: (400, "User has stopped marketing messages"),
    131051: (400, "Unsupported message type"),
    131053: (400, "Media upload error"),
    131056: (400, "Pair rate limit hit"),
    131057: (500, "Account in maintenance mode"),
    132000: (400, "Template param count mismatch"),
    132001: (404, "Template does not exist"),
    132005: (400, "Template hydrated text too long"),
    132007: (400, "Template format character policy violated"),
    132012: (400, "Template parameter format mismatch"),
    132015: (400, "Template is paused"),
    132016: (400, "Template is disabled"),
    132068: (400, "Flow is blocked"),
    132069: (400, "Flow is throttled"),
    133004: (503, "Server temporarily unavailable"),
    133010: (400, "Phone number not registered"),
    134011: (400, "Payments terms of service not accepted"),
    134101: (400, "Template is syncing"),
    134102: (500, "Template is unavailable"),
    135000: (400, "Generic user error"),
}


def meta(code: int, details: str | None = None) -> Answer:
    """The error that Meta answers with ``code``, passed through; a code unknown here is a 400."""
    if 200 <= code <= 299:
        status, title = 403, "API Permission"
    else:
        status, title = _META.get(code, (400, "Error"))
    message = f"(#{code}) {title}"
    body = {
        "error": {
            "message": message,
            "type": "OAuthException",
            "code": code,
            "error_data": {"messaging_product": "whatsapp", "details": details or title},
            "fbtrace_id": "ASandboxTraceOfNoMeaning",
        }
    }
    return Answer(status, orjson.dumps(body), f"meta:{code}")


#: Meta, "Throughput", pair rate limits, as of 2026-11-21.
PAIR = meta(131056, "Too many messages sent from the sender phone number to the same recipient phone number")

#: Gupshup's own codes → HTTP status, text (Gupshup's failure codes as of 2026-11-21; the statuses are ours).
_GUPSHUP = {
    500: (500, "Internal server error. Please try again later"),
    1001: (400, "Last mapped bot sender mismatch"),
    1002: (400, "Number does not exist on WhatsApp"),
    1003: (400, "Unable to send message: wallet balance is low"),
    1004: (400, "Message sending is blocked: session closed and templates are disabled"),
    1005: (400, "Message sending failed as user is inactive for session message and template did not match"),
    1006: (400, "Message sending failed as user is not opted in"),
    1007: (400, "Message sending failed as user is not opted in and is inactive"),
    1008: (400, "User is not opted in and inactive"),
    1010: (400, "Invalid media url"),
    1011: (400, "Invalid media size"),
    1012: (400, "User has opted out"),
    4001: (429, "API rate limited, stop sending"),
    4002: (500, "Invalid response from WhatsApp"),
    4003: (400, "Session is closed and no template matched"),
    4004: (400, "Message type is not supported by this hosting"),
    4005: (400, "Template is paused"),
}


def gupshup(code: int) -> Answer:
    """An error in Gupshup's shape that carries one of its numeric codes; an unknown one is a 400."""
    status, message = _GUPSHUP.get(code, (400, "Message sending failed"))
    body = {"status": "error", "message": message, "code": code}
    return Answer(status, orjson.dumps(body), f"gupshup:{code}")


class Identities:
    """Ids that look like Gupshup's (UUIDs), unique among all sandboxes, for the price of a string format."""

    #: Odd, so that multiplying by it visits each number of 48 bits once: ids do not come out in order.
    _SCATTER = 0x9E3779B97F4B
    _MASK = (1 << 48) - 1

    def __init__(self, origin: int) -> None:
        """Begin a series; ``origin`` is 74 random bits, different for each sandbox."""
        low = origin & ((1 << 62) - 1)
        third = origin >> 62 & 0xFFF
        self._tail = f"4{third:03x}-{0x8000 | low >> 48:04x}-{low & self._MASK:012x}"
        self._numbers = itertools.count(1)

    def next(self) -> int:
        return next(self._numbers)

    def text(self, number: int) -> str:
        """The id of the ``number``-th message."""
        scattered = number * self._SCATTER & self._MASK
        return f"{scattered >> 16:08x}-{scattered & 0xFFFF:04x}-{self._tail}"
