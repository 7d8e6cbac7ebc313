"""What the provider says of an app without a message being sent: its health, its wallet, its quality."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from disparo.gupshup.client import Client, app_address
from disparo.gupshup.replies import Reply, read


class Result(StrEnum):
    """How a check came out."""

    OK = "ok"
    BAD = "bad"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check of an app."""

    #: token, app, wallet or quality.
    subject: str
    result: Result
    sentence: str
    #: The provider's own figures and words.
    details: dict[str, Any] = field(default_factory=dict)


class Account:
    """The provider's view of one app, asked for with the app's token."""

    def __init__(self, client: Client, base_url: str, app_id: str, authorization: str) -> None:
        self._client = client
        self._base_url = base_url
        self._app_id = app_id
        self._authorization = authorization

    def health(self) -> tuple[Finding, bool]:
        """Whether the app can send, which verifies its token too; true beside it when the token is refused.

        At most 10 in a minute and app. Source: Gupshup partner docs, "Check Health", read 2026-11-21.
        """
        reply = self._ask("health")
        if reply.is_good:
            healthy = reply.document.get("healthy")
            if healthy is True or healthy == "true":
                return Finding("app", Result.OK, "the provider calls it healthy"), False
            if healthy is False or healthy == "false":
                return Finding(
                    "app", Result.BAD, "the provider calls it not healthy; see its page there"
                ), False
            return _unreadable("app"), False
        if (open_question := _not_checked("app", reply)) is not None:
            return open_question, False
        is_refused = reply.http_status == 401 or "authenti" in reply.words.lower()
        if is_refused:
            return Finding("app", Result.BAD, f"the provider refuses its token: {reply.words}"), True
        return Finding("app", Result.BAD, f"the provider says: {reply.words}"), False

    def wallet(self) -> Finding:
        """What is left to send with. Source: Gupshup partner docs, "Get Wallet Balance", read 2026-11-21."""
        reply = self._ask("wallet/balance")
        if not reply.is_good:
            return _not_checked("wallet", reply) or _refused("wallet", reply)
        wallet = reply.document.get("walletResponse")
        wallet = wallet if isinstance(wallet, dict) else {}
        balance, overdraft = wallet.get("currentBalance"), wallet.get("overDraftLimit", 0)
        if not _is_number(balance) or not _is_number(overdraft):
            return _unreadable("wallet")
        currency = wallet.get("currency")
        currency = currency if isinstance(currency, str) and len(currency) <= 10 else ""
        details = {"balance": balance, "overdraft": overdraft, "currency": currency}
        said = f"{balance:,.2f} {currency}".strip() + (f", overdraft {overdraft:,.2f}" if overdraft else "")
        # The limit is written as a positive or as a negative number on different pages.
        if balance + abs(overdraft) <= 0:
            return Finding(
                "wallet", Result.BAD, f"{said}: empty; messages will be refused until it is filled", details
            )
        return Finding("wallet", Result.OK, said, details)

    def quality(self) -> Finding:
        """WhatsApp's rating of the number. Source: Gupshup partner docs, "Get Quality Rating", read 2026-11-21.

        One page allows one request a day and app, another ten a minute: a refusal is no fault of the app.
        """
        reply = self._ask("ratings")
        if not reply.is_good:
            return _not_checked("quality", reply) or Finding(
                "quality", Result.NOT_CHECKED, f"the provider says: {reply.words}"
            )
        rating, limit = reply.document.get("phoneQuality"), reply.document.get("currentLimit")
        if not isinstance(rating, str):
            return Finding("quality", Result.NOT_CHECKED, f"the provider has no news of it: {reply.words}")
        rating, limit = rating[:20], limit[:30] if isinstance(limit, str) else None
        details = {"rating": rating, "limit": limit}
        said = rating + (f", {limit}" if limit else "")
        if rating.upper() == "RED":
            return Finding(
                "quality", Result.BAD, f"{said}: WhatsApp may restrict the number; stop marketing", details
            )
        if rating.upper() == "YELLOW":
            said += ": falling; send less marketing"
        return Finding("quality", Result.OK, said, details)

    def _ask(self, path: str) -> Reply:
        answer = self._client.ask("GET", app_address(self._base_url, self._app_id, path), self._authorization)
        return read(answer, [self._authorization.rpartition(" ")[2]])


def _not_checked(subject: str, reply: Reply) -> Finding | None:
    """The finding of an answer that tells nothing of the app: no network, a throttle, no such endpoint."""
    if reply.http_status == 429:
        return Finding(subject, Result.NOT_CHECKED, "asked too often; try again in a minute")
    if reply.is_for_now or reply.http_status in (404, 405, 501):
        return Finding(subject, Result.NOT_CHECKED, f"the provider does not tell: {reply.words}")
    return None


def _refused(subject: str, reply: Reply) -> Finding:
    return Finding(subject, Result.BAD, f"the provider says: {reply.words}")


def _unreadable(subject: str) -> Finding:
    return Finding(subject, Result.NOT_CHECKED, "the provider answers in words that are not known here")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
