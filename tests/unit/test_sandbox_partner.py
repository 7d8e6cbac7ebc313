"""The sandbox's logins and tokens: as strict as the provider's pages."""

from typing import Any
from urllib.parse import urlencode

import orjson
import pytest

from disparo.errors import InputError
from disparo.sandbox.endpoint import Endpoint
from disparo.sandbox.options import Options
from disparo.sandbox.partner import Partner

FORM = "application/x-www-form-urlencoded"
PARTNERS = {"a@b.c": "secret"}
EPOCH = 1_800_000_000.0


def ask(
    partner: Partner,
    method: str,
    path: str,
    authorization: str = "",
    form: dict[str, str] | None = None,
    now: float = 0.0,
    content_type: str = FORM,
) -> tuple[int, Any]:
    body = urlencode(form).encode() if form is not None else b""
    answer = partner.handle(method, path, authorization, content_type, body, now, EPOCH + now)
    assert answer is not None
    return answer.status, orjson.loads(answer.body)


def log_in(partner: Partner, now: float = 0.0) -> str:
    status, shown = ask(
        partner, "POST", "/partner/account/login", form={"email": "a@b.c", "password": "secret"}, now=now
    )
    assert status == 200
    return str(shown["token"])


def universal(partner: Partner, name: str, now: float = 0.0) -> tuple[int, Any]:
    form = {"email": "a@b.c", "clientSecret": "secret", "name": name}
    return ask(partner, "POST", "/partner/4711/auth/token", form=form, now=now)


def test_an_apps_token_is_the_one_of_the_options_each_time():
    partner = Partner(Options(apps={"app": "sk_1"}, partners=PARTNERS))
    login = log_in(partner)
    for _ in range(2):
        status, shown = ask(partner, "GET", "/partner/app/app/token", login)
        assert (status, shown["token"]["token"], shown["token"]["expiresOn"]) == (200, "sk_1", 0)
    assert partner.stats() == {"logins": 1, "refused_logins": 0, "tokens": {"app": 2}}
    assert partner.senders == {"app": {"sk_1"}}
    assert ask(partner, "GET", "/partner/app/other/token", login)[0] == 400
    assert ask(partner, "GET", "/partner/app/app/token", "sk_1")[0] == 401


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"email": "a@b.c", "password": "wrong"}, 401),
        ({"email": "x@b.c", "password": "secret"}, 401),
        ({"email": "a@b.c", "secret": "secret"}, 400),
        ({"email": "a@b.c", "password": "secret", "more": "1"}, 400),
        ({}, 400),
    ],
)
def test_a_login_is_strict(form, status):
    partner = Partner(Options(partners=PARTNERS))
    assert ask(partner, "POST", "/partner/account/login", form=form)[0] == status


def test_a_login_must_be_posted_as_a_form():
    partner = Partner(Options())
    assert ask(partner, "GET", "/partner/account/login")[0] == 405
    json = ask(partner, "POST", "/partner/account/login", form={}, content_type="application/json")
    assert json[0] == 415
    assert partner.handle("GET", "/partner/app/app/unknown", "", "", b"", 0.0, EPOCH) is None


def test_more_than_ten_logins_in_a_minute_are_throttled():
    partner = Partner(Options(partners=PARTNERS))
    for _ in range(10):
        log_in(partner, 1.0)
    form = {"email": "a@b.c", "password": "secret"}
    assert ask(partner, "POST", "/partner/account/login", form=form, now=60.0)[0] == 429
    log_in(partner, 61.5)


def test_with_a_life_tokens_end_and_others_follow():
    partner = Partner(Options(apps={"app": "sk_1"}, token_seconds=60, login_seconds=1000))
    login = log_in(partner)
    first = ask(partner, "GET", "/partner/app/app/token", login)[1]["token"]
    assert first["expiresOn"] == int((EPOCH + 60) * 1000)
    assert partner.senders == {"app": {first["token"]}}
    assert partner.next_end == 60
    partner.sweep(60.0)
    assert partner.senders == {"app": set()}
    second = ask(partner, "GET", "/partner/app/app/token", login, now=61.0)[1]["token"]
    assert second["token"] != first["token"]
    assert ask(partner, "GET", "/partner/app/app/token", login, now=1001.0)[0] == 401


def test_another_token_in_the_options_replaces_what_was_issued():
    partner = Partner(Options(apps={"app": "sk_1"}, token_seconds=60))
    ask(partner, "GET", "/partner/app/app/token", log_in(partner))
    partner.set(Options(apps={"app": "sk_2"}))
    assert partner.senders == {"app": {"sk_2"}}


def test_at_most_three_universal_tokens_are_active_and_no_two_of_one_name():
    partner = Partner(Options(apps={"app": "sk_1"}, partners=PARTNERS))
    bearer = f"Bearer {universal(partner, 'first')[1]['token']}"
    assert universal(partner, "first")[0] == 409
    path = "/partner/app/app/token"
    minted = [ask(partner, "POST", path, bearer, {"name": str(n)})[1]["token"] for n in range(3)]
    assert partner.senders["app"] == {"sk_1", *(f"Bearer {token}" for token in minted)}
    assert ask(partner, "POST", path, bearer, {"name": "4"})[0] == 409
    assert ask(partner, "POST", path, bearer, {"name": "5"}, now=86_400.0)[0] == 200
    assert ask(partner, "POST", path, bearer.removeprefix("Bearer "), {"name": "6"}, now=86_400.0)[0] == 401


@pytest.mark.parametrize(
    "wrong",
    [
        {"partners": {"a@b.c": ""}},
        {"token_seconds": -1},
        {"login_seconds": "1"},
        {"wallet": float("nan")},
        {"quality": 7},
        {"health": None},
    ],
)
def test_a_wrong_option_is_named(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        Options(**wrong)


def test_secrets_of_accounts_are_hidden():
    options = Options(partners={"a@b.c": "hidden-word"})
    assert "hidden-word" not in repr(options) + repr(options.shown())


def test_messages_are_taken_with_the_tokens_that_are_active_and_no_others():
    endpoint = Endpoint(Options(apps={"app": "sk_1"}, token_seconds=60))
    message = orjson.dumps(
        {
            "messaging_product": "whatsapp",
            "recipient_type": "individual",
            "to": "5511999990001",
            "type": "text",
        }
        | {"text": {"body": "Oi"}}
    )

    def status(authorization: str, now: float = 0.0, app: str = "app") -> int:
        return endpoint.receive(app, authorization, "application/json", message, now)[0].status

    partner = endpoint.partner
    bearer = f"Bearer {universal(partner, 'first')[1]['token']}"
    minted = ask(partner, "POST", "/partner/app/app/token", bearer, {"name": "n"})[1]["token"]
    assert status(f"Bearer {minted}") == 200
    assert [status(minted), status("sk_1"), status("Bearer sk_1"), status("")] == [401] * 4
    assert status("sk_1", app="other") == 400
    assert status(f"Bearer {minted}", now=60.0) == 401
    endpoint.control({"apps": {"app": "sk_2"}})
    assert status("sk_2", now=60.0) == 200
