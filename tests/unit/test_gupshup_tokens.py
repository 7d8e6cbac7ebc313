"""What is read of the provider's answers about tokens and accounts, without a network."""

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from disparo.errors import TokenRefused, TokenUnavailable
from disparo.gupshup import tokens
from disparo.gupshup.account import Account, Result
from disparo.gupshup.answers import Answer, Failure

SOON = datetime.now(UTC) + timedelta(hours=2)


class Provider:
    """A client that answers what it was told, and keeps what it was asked."""

    def __init__(self, body: Any = None, status: int | None = 200, failure: Failure | None = None) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.answer = Answer(status, {}, raw, failure, "Connection refused" if failure else "")
        self.asked: list[tuple[Any, ...]] = []

    def ask(self, *asked: Any) -> Answer:
        self.asked.append(asked)
        return self.answer


def jwt(**claims: Any) -> str:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"eyJhbGciOiJIUzI1NiJ9.{payload}.c2lnbmF0dXJl"


def test_a_login_is_the_documented_form():
    provider = Provider({"token": "partner-token", "id": 1})
    fetched = tokens.partner_token(provider, "https://host/", "a@b", "s&e=cret")
    assert provider.asked == [
        ("POST", "https://host/partner/account/login", None, {"email": "a@b", "password": "s&e=cret"})
    ]
    assert fetched.value == "partner-token"
    assert fetched.expires_at is not None
    assert abs(fetched.expires_at - datetime.now(UTC) - timedelta(hours=24)) < timedelta(minutes=1)
    assert "partner-token" not in repr(fetched)


def test_an_apps_token_is_asked_for_with_the_accounts():
    provider = Provider({"status": "success", "token": {"token": "sk_1", "expiresOn": 0, "active": True}})
    assert tokens.app_token(provider, "https://host", "app/1", "partner-token") == tokens.Fetched(
        "sk_1", None
    )
    assert provider.asked == [("GET", "https://host/partner/app/app%2F1/token", "partner-token")]


def test_universal_tokens_are_minted_under_names_that_no_other_has():
    provider = Provider({"token": "ut"})
    tokens.universal_token(provider, "https://host", "47/11", "a@b", "secret")
    tokens.universal_app_token(provider, "https://host", "app-1", "ut")
    first, second = provider.asked
    assert first[:3] == ("POST", "https://host/partner/47%2F11/auth/token", None)
    assert {**first[3], "name": ""} == {"email": "a@b", "clientSecret": "secret", "name": ""}
    assert second[:3] == ("POST", "https://host/partner/app/app-1/token", "Bearer ut")
    assert set(second[3]) == {"name"}
    assert first[3]["name"] != second[3]["name"]


@pytest.mark.parametrize(
    ("told", "ends"),
    [
        ({"expiresOn": 0}, None),
        ({}, None),
        ({"expiresOn": None}, None),
        ({"expiresOn": True}, None),
        ({"expiresOn": "soon"}, None),
        ({"expiresOn": -5}, None),
        ({"expiresOn": 1e300}, None),
        ({"expiresOn": int(SOON.timestamp() * 1000)}, SOON),
        ({"expiresOn": int(SOON.timestamp())}, SOON),
        ({"expiresOn": str(int(SOON.timestamp() * 1000))}, SOON),
        ({"expiredOn": int(SOON.timestamp() * 1000)}, SOON),
        ({"token": jwt(exp=int(SOON.timestamp()))}, SOON),
        ({"token": jwt(exp="x")}, None),
        ({"token": "eyJ.!!!.x"}, None),
    ],
)
def test_the_end_of_a_token_is_read_in_all_the_ways_it_may_be_written(told, ends):
    fetched = tokens.app_token(
        Provider({"token": {"token": "sk_1", **told}}), "https://host", "app-1", "partner-token"
    )
    if ends is None:
        assert fetched.expires_at is None
    else:
        assert fetched.expires_at is not None
        assert abs(fetched.expires_at - ends) < timedelta(seconds=1)


@pytest.mark.parametrize(
    ("body", "status", "error", "told"),
    [
        (
            {"status": "error", "message": "Unauthorized Access"},
            401,
            TokenRefused,
            "Unauthorized Access (HTTP 401)",
        ),
        ({"status": "error", "message": "No such partner"}, 200, TokenRefused, "No such partner"),
        ({"status": "error", "message": "too many"}, 409, TokenRefused, "revoke those that nobody uses"),
        ({"token": {"token": "sk_1", "active": False}}, 200, TokenRefused, "not active"),
        ({"token": {"token": "with space"}}, 200, TokenUnavailable, "holds no token"),
        (
            {"token": {"token": "sk_1", "expiresOn": 1_000_000_000_000}},
            200,
            TokenUnavailable,
            "check this machine's clock",
        ),
        ({"message": "Too Many Requests"}, 429, TokenUnavailable, "Too Many Requests"),
        ([], 200, TokenUnavailable, "without a JSON object"),
        (b"[" * 100_000, 200, TokenUnavailable, "without a JSON object"),
        (b"", 403, TokenRefused, "HTTP 403"),
        (b"", 503, TokenUnavailable, "HTTP 503"),
    ],
)
def test_an_answer_without_a_token_says_why(body, status, error, told):
    with pytest.raises(error) as refused:
        tokens.app_token(Provider(body, status), "https://host", "app-1", "partner-token")
    assert told in str(refused.value)
    if status == 429:
        assert refused.value.retry_seconds == 60


def test_what_a_provider_repeats_of_a_secret_is_in_no_sentence():
    leaky = {"message": f"password hidden-word of 5511999998888, {jwt(a=1)} and Bearer abcdefghijklmnop"}
    with pytest.raises(TokenRefused) as refused:
        tokens.partner_token(Provider(leaky, 400), "https://host", "a@b", "hidden-word")
    for secret in ("hidden-word", "5511999998888", "eyJ", "abcdefghijklmnop"):
        assert secret not in str(refused.value)


GOOD = {"status": "success"}


def account(*answer: Any, **more: Any) -> Account:
    return Account(Provider(*answer, **more), "https://host", "app-1", "sk_token")


@pytest.mark.parametrize(
    ("body", "status", "result", "refused"),
    [
        ({**GOOD, "healthy": "true"}, 200, Result.OK, False),
        ({**GOOD, "healthy": True}, 200, Result.OK, False),
        ({**GOOD, "healthy": "false"}, 200, Result.BAD, False),
        ({**GOOD, "healthy": "perhaps"}, 200, Result.NOT_CHECKED, False),
        ({"status": "error", "message": "Authentication Failed"}, 400, Result.BAD, True),
        ({"status": "error", "message": "Unauthorized Access"}, 401, Result.BAD, True),
        ({"status": "error", "message": "App is not live."}, 400, Result.BAD, False),
        ({"message": "Too Many Requests"}, 429, Result.NOT_CHECKED, False),
        (b"<html>", 502, Result.NOT_CHECKED, False),
        ({"message": "Not Found"}, 404, Result.NOT_CHECKED, False),
    ],
)
def test_health_tells_the_token_from_the_app(body, status, result, refused):
    finding, is_refused = account(body, status).health()
    assert (finding.result, is_refused) == (result, refused)


def test_without_a_network_nothing_is_called_bad():
    offline = account(None, None, Failure.NOT_CONNECTED)
    findings = [offline.health()[0], offline.wallet(), offline.quality()]
    assert {finding.result for finding in findings} == {Result.NOT_CHECKED}
    assert all("Connection refused" in finding.sentence for finding in findings)


@pytest.mark.parametrize(
    ("wallet", "result", "said"),
    [
        ({"currency": "USD", "currentBalance": 1234.5, "overDraftLimit": 0}, Result.OK, "1,234.50 USD"),
        (
            {"currency": "USD", "currentBalance": -3, "overDraftLimit": -20},
            Result.OK,
            "-3.00 USD, overdraft -20.00",
        ),
        ({"currency": "USD", "currentBalance": 0}, Result.BAD, "empty"),
        ({"currentBalance": "much"}, Result.NOT_CHECKED, "not known"),
        (None, Result.NOT_CHECKED, "not known"),
    ],
)
def test_an_empty_wallet_is_bad(wallet, result, said):
    finding = account({**GOOD, "walletResponse": wallet}).wallet()
    assert finding.result == result
    assert said in finding.sentence


@pytest.mark.parametrize(
    ("body", "status", "result", "said"),
    [
        ({"phoneQuality": "GREEN", "currentLimit": "TIER_10K"}, 200, Result.OK, "GREEN, TIER_10K"),
        ({"phoneQuality": "YELLOW"}, 200, Result.OK, "send less marketing"),
        ({"phoneQuality": "RED"}, 200, Result.BAD, "stop marketing"),
        (
            {**GOOD, "message": "no event update available"},
            200,
            Result.NOT_CHECKED,
            "no event update available",
        ),
        ({"status": "error", "message": "Once a day"}, 400, Result.NOT_CHECKED, "Once a day"),
    ],
)
def test_a_red_number_is_bad(body, status, result, said):
    finding = account(body, status).quality()
    assert finding.result == result
    assert said in finding.sentence
