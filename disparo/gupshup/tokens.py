"""The provider's endpoints that give tokens: of the partner account, and with that one of each app.

Source: Gupshup partner docs, "Get Partner Token", "Get Access Token for an App", "Mint Universal Token" and
"Mint Universal App Token (UAT)", read 2026-11-21. The last two show no answer: what is read of them is
tolerant, and unverified.
"""

import base64
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from disparo.errors import TokenRefused, TokenUnavailable
from disparo.gupshup.client import Client, app_address, partner_address
from disparo.gupshup.replies import Reply, read

#: How long tokens live where the answer does not say (the same pages).
PARTNER_TOKEN_LIFE = timedelta(hours=24)
UNIVERSAL_TOKEN_LIFE = timedelta(days=60)
UNIVERSAL_APP_TOKEN_LIFE = timedelta(hours=24)
#: After a 429 an endpoint with a limit per minute is left alone for one ("Partner Rate Limits": the cool-down).
COOL_DOWN_SECONDS = 60.0

_TOKEN = re.compile(r"[\x21-\x7e]{1,8192}")
#: What an instant of the end was seen to be called.
_ENDS = ("expiresOn", "expiredOn", "expiresAt", "expiry")


@dataclass(frozen=True, slots=True)
class Fetched:
    """A token as it came."""

    value: str = field(repr=False)
    #: None: the provider names no end.
    expires_at: datetime | None


def partner_token(client: Client, base_url: str, email: str, secret: str) -> Fetched:
    """Log the partner account in. At most 10 in 60 seconds.

    Raises:
      TokenRefused: Email or secret are wrong.
      TokenUnavailable: No answer, a throttle or a fault of the provider.
    """
    # The page of 2026-07 shows `secret`; the guide and all older ones `password`, for a client secret too.
    form = {"email": email, "password": secret}
    reply = _post(client, partner_address(base_url, "account/login"), None, form, secret)
    what = "the login of DISPARO_PARTNER_EMAIL with DISPARO_PARTNER_SECRET"
    return _token(reply, what, PARTNER_TOKEN_LIFE)


def app_token(client: Client, base_url: str, app_id: str, token: str) -> Fetched:
    """The token of an app, which stays the same until the provider replaces it. At most 10 in a minute and app.

    Args:
      app_id: Gupshup's id of the app.
      token: That of the partner account.

    Raises:
      TokenRefused: 401: the partner token has ended; else the app is not this account's.
      TokenUnavailable: As of `partner_token`.
    """
    address = app_address(base_url, app_id, "token")
    return _token(read(client.ask("GET", address, token), [token]), f"the token of app {app_id}", None)


def universal_token(client: Client, base_url: str, partner_id: str, email: str, secret: str) -> Fetched:
    """Mint a universal token of the partner account. At most 3 in 60 seconds, and 3 active. Unverified.

    Raises:
      TokenRefused: The credentials are wrong, or three are active.
      TokenUnavailable: As of `partner_token`.
    """
    form = {"email": email, "clientSecret": secret, "name": _name()}
    reply = _post(
        client, partner_address(base_url, f"{quote(partner_id, safe='')}/auth/token"), None, form, secret
    )
    what = "a universal token for DISPARO_PARTNER_EMAIL with DISPARO_PARTNER_SECRET and DISPARO_PARTNER_ID"
    return _token(reply, what, UNIVERSAL_TOKEN_LIFE)


def universal_app_token(client: Client, base_url: str, app_id: str, token: str) -> Fetched:
    """Mint a universal app token with the account's universal ``token``. Limits as of `app_token`. Unverified.

    Raises:
      TokenRefused: 401: the universal token has ended; else the app is not this account's, or three are active.
      TokenUnavailable: As of `partner_token`.
    """
    address = app_address(base_url, app_id, "token")
    reply = _post(client, address, f"Bearer {token}", {"name": _name()}, token)
    return _token(reply, f"a universal token of app {app_id}", UNIVERSAL_APP_TOKEN_LIFE)


def _post(client: Client, url: str, authorization: str | None, form: Mapping[str, str], secret: str) -> Reply:
    return read(client.ask("POST", url, authorization, form), [secret])


def _name() -> str:
    """A name among the active tokens, where each name may stand once."""
    return f"disparo-{secrets.token_hex(6)}"


def _token(reply: Reply, what: str, life: timedelta | None) -> Fetched:
    if reply.is_for_now:
        wait = COOL_DOWN_SECONDS if reply.http_status == 429 else 0.0
        raise TokenUnavailable(f"the provider does not give {what} just now: {reply.words}", wait)
    if not reply.is_good:
        if reply.http_status == 409:
            raise TokenRefused(
                f"the provider does not give {what}: {reply.words}. Too many tokens are active; "
                "revoke those that nobody uses in the partner portal",
                409,
            )
        raise TokenRefused(f"the provider refuses {what}: {reply.words}", reply.http_status)
    given = reply.document.get("token")
    about: Mapping[str, Any] = given if isinstance(given, dict) else reply.document
    value = about.get("token")
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        raise TokenUnavailable(f"the provider's answer to a request for {what} holds no token")
    if about.get("active") is False:
        raise TokenRefused(f"the provider gives {what}, but says that it is not active")
    now = datetime.now(UTC)
    told = next((about[name] for name in _ENDS if name in about), None)
    ends = _instant(told) or _instant(_claims(value).get("exp"))
    if ends is None and life is not None:
        ends = now + life
    if ends is not None and ends <= now:
        raise TokenUnavailable(
            f"the provider gives {what}, which has ended already at {ends:%Y-%m-%d %H:%M:%S} UTC; "
            "check this machine's clock"
        )
    return Fetched(value, ends)


def _instant(epoch: Any) -> datetime | None:
    """Milliseconds (or, when they would be of 1970, seconds) since 1970; 0 and what is no number: None."""
    if isinstance(epoch, str) and epoch.isascii() and epoch.isdigit():
        epoch = int(epoch[:16])
    if isinstance(epoch, bool) or not isinstance(epoch, int | float) or not 0 < epoch < 1e16:
        return None
    try:
        return datetime.fromtimestamp(epoch / 1000 if epoch >= 1e11 else epoch, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _claims(token: str) -> dict[str, Any]:
    """What a JWT says of itself; nothing of any other token."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        found = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
