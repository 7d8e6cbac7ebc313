"""The provider's endpoints beside the messages: logins, tokens, health, wallet and quality of apps.

Written from Gupshup's pages "Get Partner Token", "Get Access Token for an App", "Mint Universal Token", "Mint
Universal App Token (UAT)", "Check Health", "Get Wallet Balance", "Get Quality Rating" and "Partner Rate
Limits", as of 2026-11-21. What the pages do not show (the answers of the universal tokens) is ours.
"""

import base64
import re
import secrets
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import orjson

from disparo.sandbox import answers
from disparo.sandbox.answers import Answer
from disparo.sandbox.options import Options

_FORM = "application/x-www-form-urlencoded"
_APP_PATH = re.compile(r"/partner/app/([A-Za-z0-9_-]{1,64})/(token|health|wallet/balance|ratings)/?")
_LOGIN_PATH = "/partner/account/login"
_UNIVERSAL_PATH = re.compile(r"/partner/([A-Za-z0-9_-]{1,64})/auth/token")

#: Seconds that tokens live (the pages of each).
_LOGIN_LIFE, _UNIVERSAL_LIFE, _UNIVERSAL_APP_LIFE = 86_400.0, 5_184_000.0, 86_400.0
_MOST_ACTIVE = 3

_UNAUTHORISED = answers.problem(
    401,
    "Unauthorised access to the resource. Please review request parameters and headers and retry",
    "auth",
)
_TOO_MANY_TOKENS = answers.problem(409, "Maximum number of active tokens reached", "tokens")


@dataclass(frozen=True)
class _Issued:
    """A token of an account, or a universal one of an app."""

    name: str
    ends: float


class Partner:
    """The partner accounts, and the headers with which each app may send. Used by one thread.

    Without accounts in the options every login succeeds; without apps, every app is known.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        #: App id → the headers it may send with; empty: any app, any header.
        self.senders: dict[str, set[str]] = {}
        #: When the first of the tokens of apps ends.
        self.next_end = float("inf")
        self._logins: dict[str, _Issued] = {}
        self._universal: dict[str, _Issued] = {}
        self._apps: dict[str, dict[str, _Issued]] = {}
        self._static: dict[str, str] = {}
        self._asked: dict[str, deque[float]] = {}
        self.counts: Counter[str] = Counter()
        self.set(options)

    def set(self, options: Options) -> None:
        """Take other options; an app whose token in them is another than before has only that one."""
        for app, token in options.apps.items():
            if self._static.get(app) != token:
                self._apps.pop(app, None)
        self.options = options
        self._static = dict(options.apps)
        self._publish()

    def reset(self) -> None:
        """Forget what was counted and asked; tokens stay."""
        self.counts.clear()
        self._asked.clear()

    def sweep(self, now: float) -> None:
        """End the tokens of apps whose time is over."""
        for issued in self._apps.values():
            for token in [token for token, one in issued.items() if one.ends <= now]:
                del issued[token]
        self._publish()

    def _publish(self) -> None:
        # Changed in place: the endpoint holds on to it.
        self.senders.clear()
        self.next_end = float("inf")
        if not self.options.apps:
            return
        for app, token in self._static.items():
            issued = self._apps.get(app, {})
            # With a life, the token of the options is only what the app began with.
            is_over = self.options.token_seconds and app in self._apps
            self.senders[app] = (set() if is_over else {token}) | set(issued)
            self.next_end = min([self.next_end, *(one.ends for one in issued.values())])

    def handle(
        self,
        method: str,
        path: str,
        authorization: str,
        content_type: str,
        body: bytes,
        now: float,
        epoch: float,
    ) -> Answer | None:
        """The answer to a request below ``/partner``, or None for a path that is none of these.

        Args:
          now: Monotonic seconds.
          epoch: Seconds since 1970.
        """
        if path == _LOGIN_PATH:
            return self._posted(method, content_type, body, lambda form: self._log_in(form, now))
        if universal := _UNIVERSAL_PATH.fullmatch(path):
            partner_id = universal[1]
            return self._posted(
                method, content_type, body, lambda form: self._mint(partner_id, form, now, epoch)
            )
        match = _APP_PATH.fullmatch(path)
        if match is None:
            return None
        app, what = match[1], match[2]
        self.sweep(now)
        if what == "token" and method == "POST":
            return self._posted(
                method,
                content_type,
                body,
                lambda form: self._mint_for_app(app, authorization, form, now, epoch),
            )
        if method != "GET":
            return answers.problem(405, "Method Not Allowed", "method")
        if what == "token":
            return self._token(app, authorization, now, epoch)
        return self._tell(app, what, authorization, now)

    def _posted(
        self, method: str, content_type: str, body: bytes, answer: Callable[[dict[str, str]], Answer]
    ) -> Answer:
        if method != "POST":
            return answers.problem(405, "Method Not Allowed", "method")
        if content_type.partition(";")[0].strip().lower() != _FORM:
            return answers.problem(415, "Unsupported Media Type", "content-type")
        try:
            form = parse_qs(body.decode("ascii"), keep_blank_values=True, strict_parsing=True)
        except ValueError:
            form = {}
        if any(len(values) != 1 for values in form.values()):
            return answers.problem(400, "Please review the request parameters and retry", "form")
        return answer({name: values[0] for name, values in form.items()})

    def _log_in(self, form: dict[str, str], now: float) -> Answer:
        self.counts["logins"] += 1
        if self._is_too_often("login", 10, now):
            return answers.THROTTLE
        if set(form) != {"email", "password"}:
            return answers.problem(400, "Please review the request parameters and retry", "form")
        if not self._knows(form["email"], form["password"]):
            self.counts["refused_logins"] += 1
            return answers.problem(401, "Invalid credentials", "auth")
        token = _jwt()
        self._logins[token] = _Issued(form["email"], now + (self.options.login_seconds or _LOGIN_LIFE))
        return _shown({"token": token, "id": 1, "name": "sandbox", "email": form["email"], "admin": True})

    def _mint(self, partner_id: str, form: dict[str, str], now: float, epoch: float) -> Answer:
        self.counts["logins"] += 1
        if self._is_too_often(f"mint {partner_id}", 3, now):
            return answers.THROTTLE
        if set(form) - {"expiry"} != {"email", "clientSecret", "name"}:
            return answers.problem(400, "Please review the request parameters and retry", "form")
        if not self._knows(form["email"], form["clientSecret"]):
            self.counts["refused_logins"] += 1
            return _UNAUTHORISED
        active = [one for one in self._universal.values() if one.ends > now]
        if refusal := _crowded(active, form["name"]):
            return refusal
        token, life = _jwt(), self.options.login_seconds or _UNIVERSAL_LIFE
        self._universal[token] = _Issued(form["name"], now + life)
        return _shown({"status": "success", "token": token, "expiredOn": int((epoch + life) * 1000)})

    def _knows(self, email: str, secret: str) -> bool:
        partners = self.options.partners
        return not partners or partners.get(email) == secret

    def _token(self, app: str, authorization: str, now: float, epoch: float) -> Answer:
        """The app's one token: that of the options, or with a life one after the other."""
        self.counts[f"token {app}"] += 1
        if self._is_too_often(f"token {app}", 10, now):
            return answers.THROTTLE
        login = self._logins.get(authorization)
        if login is None or login.ends <= now:
            return _UNAUTHORISED
        known = self._static.get(app)
        if self.options.apps and known is None:
            return answers.APP
        issued = self._apps.setdefault(app, {})
        life = self.options.token_seconds
        if not life:
            token = known or next(iter(issued), None) or f"sk_{secrets.token_hex(16)}"
            if known is None:
                issued[token] = _Issued("", float("inf"))
            expires_on = 0
        else:
            if not issued:
                issued[f"sk_{secrets.token_hex(16)}"] = _Issued("", now + life)
                self._publish()
            token, one = next(iter(issued.items()))
            expires_on = int((epoch + one.ends - now) * 1000)
        return _shown(
            {"status": "success", "token": {"token": token, "expiresOn": expires_on, "active": True}}
        )

    def _mint_for_app(
        self, app: str, authorization: str, form: dict[str, str], now: float, epoch: float
    ) -> Answer:
        self.counts[f"token {app}"] += 1
        if self._is_too_often(f"token {app}", 10, now):
            return answers.THROTTLE
        owner = self._universal.get(authorization.removeprefix("Bearer "))
        if not authorization.startswith("Bearer ") or owner is None or owner.ends <= now:
            return _UNAUTHORISED
        if set(form) - {"expiry"} != {"name"}:
            return answers.problem(400, "Please review the request parameters and retry", "form")
        if self.options.apps and app not in self._static:
            return answers.problem(400, "Partner is not authorized", "app")
        issued = self._apps.setdefault(app, {})
        if refusal := _crowded(list(issued.values()), form["name"]):
            return refusal
        token, life = _jwt(), self.options.token_seconds or _UNIVERSAL_APP_LIFE
        issued[f"Bearer {token}"] = _Issued(form["name"], now + life)
        self._publish()
        return _shown({"status": "success", "token": token, "expiredOn": int((epoch + life) * 1000)})

    def _tell(self, app: str, what: str, authorization: str, now: float) -> Answer:
        options = self.options
        if what == "health" and self._is_too_often(f"health {app}", 10, now):
            return answers.THROTTLE
        if not authorization or (self.senders and authorization not in self.senders.get(app, ())):
            return answers.problem(400, "Authentication Failed", "auth")
        if what == "health":
            if options.health not in ("true", "false"):
                return answers.problem(400, options.health, "health")
            return _shown({"status": "success", "healthy": options.health})
        if what == "ratings":
            if not options.quality:
                return _shown({"message": "no event update available", "status": "success"})
            return _shown(
                {
                    "oldLimit": "TIER_10K",
                    "currentLimit": "TIER_10K",
                    "event": "ONBOARDING",
                    "eventTime": 123455556,
                    "phoneQuality": options.quality,
                }
            )
        wallet = {"currency": "USD", "currentBalance": options.wallet, "overDraftLimit": 0}
        return _shown({"status": "success", "walletResponse": wallet})

    def _is_too_often(self, what: str, most: int, now: float) -> bool:
        """Whether ``most`` requests of this kind came in the last minute."""
        asked = self._asked.setdefault(what, deque())
        while asked and asked[0] <= now - 60.0:
            asked.popleft()
        if len(asked) >= most:
            return True
        asked.append(now)
        return False

    def stats(self) -> dict[str, Any]:
        """Counts of ``GET /stats``: requests for logins, those refused, and for tokens of each app."""
        prefix = "token "
        return {
            "logins": self.counts["logins"],
            "refused_logins": self.counts["refused_logins"],
            "tokens": {
                name.removeprefix(prefix): n for name, n in self.counts.items() if name.startswith(prefix)
            },
        }


def _crowded(active: list[_Issued], name: str) -> Answer | None:
    if any(one.name == name for one in active):
        return answers.problem(409, "A token of this name is active", "tokens")
    return _TOO_MANY_TOKENS if len(active) >= _MOST_ACTIVE else None


def _jwt() -> str:
    """Something that looks like a JWT; nobody but this sandbox is to read it."""
    parts = (
        b'{"alg":"HS256","typ":"JWT"}',
        orjson.dumps({"jti": secrets.token_hex(8)}),
        secrets.token_bytes(32),
    )
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def _shown(value: object) -> Answer:
    return Answer(200, orjson.dumps(value))
