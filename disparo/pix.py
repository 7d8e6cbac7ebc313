"""PIX batches: charges with a reference each, requested once; and what is known of one."""

from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import orjson
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from disparo import instants, messages
from disparo.campaigns import CampaignFile
from disparo.errors import ConflictError, InputError, NotFoundError
from disparo.models import App, Campaign, Message, PIXCharge
from disparo.money import brl, cents
from disparo.recipient_files import Row
from disparo.recipients import Reader, Recipient, Reject, asked_order, reference_columns
from disparo.statuses import Lane
from disparo.whatsapp import boletos, br_code, orders, payloads, pix_keys

#: A larger amount is a typing error.
LARGEST_CENTS = 10**12
#: So long before its code dies a request is too late, unless its row says otherwise.
TIME_TO_PAY = timedelta(minutes=30)


class ChargeReader(Reader):
    """Reads rows of charges: besides ``to`` they have ``reference``, ``amount`` or ``amount_cents``, often ``code``.

    The message sees what is derived of a row, whichever columns that came in: ``amount_cents`` as an integer,
    ``code`` without line breaks, ``pix_key`` with ``pix_key_type`` and ``merchant_name`` (of the code where the row
    says nothing), ``digitable_line`` as digits, ``expires_epoch`` as text of UTC seconds.
    """

    derived = ("amount_cents", "pix_key", "pix_key_type", "merchant_name", "expires_epoch")
    key_columns = ("reference",)

    def __init__(self, file: CampaignFile, columns: list[str], now: datetime, zone: ZoneInfo) -> None:
        if "reference" not in columns:
            raise InputError(
                "a PIX batch needs a column `reference`, unique for each charge (map it under `columns:`)"
            )
        if not {"amount", "amount_cents"} & set(columns):
            raise InputError("a PIX batch needs a column `amount` (in reais) or `amount_cents`")
        super().__init__(file, [*columns, *self.derived], now, zone)
        self._numbers = file.numbers
        self._has_order = not file.raw and orders.find(payloads.split(file.message)[1]) is not None
        self._of_row = "reference" in reference_columns(self._message)

    def _read(self, row: Row, expires_at: datetime | None = None) -> Recipient | Reject:
        """The charge of a row, its amount, code and reference checked, and against what the message asks for."""
        if row.fault:
            return super()._read(row)
        values: dict[str, Any] = dict(row.values)
        values["reference"] = values["reference"].strip()
        if not values["reference"]:
            return Reject(row.line, "no_key", "the column reference is empty", row.raw)
        try:
            amount = values["amount_cents"] = self._amount(values)
            code = self._code(values, amount)
            self._derive(values, code)
            line = values.get("digitable_line", "").strip()
            if line:
                line = values["digitable_line"] = boletos.parse(line)
            expires_at = self._expires_at(values) or expires_at
            due = values.get("due", "").strip()
            due_on = (
                instants.parse_instant(due, self._now, self._zone).astimezone(self._zone).date()
                if due
                else None
            )
            found = super()._read(Row(row.line, values, row.raw, None), expires_at)
            if isinstance(found, Reject):
                return found
            warning = None
            if self._has_order:
                order = orders.find(self._message.render(orjson.loads(found.params))) or {}
                _refuse_other(order, found.key or "", amount, of_row=self._of_row)
                if shown := _shown_with_code(order):
                    if code is None or shown["code"] != code.text:
                        code = _checked_code(shown["code"], amount)
                    warning = _disagreement(code, shown)
        except InputError as err:
            return Reject(row.line, "bad_value", str(err), row.raw)
        txid = values.get("txid", "").strip() or (code.txid if code and not code.dynamic else None)
        return found._replace(
            amount_cents=amount,
            code=code.text if code else None,
            due_on=due_on,
            txid=txid,
            bills=_bills(code, txid, line),
            warning=warning,
        )

    def _amount(self, values: dict[str, Any]) -> int:
        given = values.get("amount_cents", "").strip()
        if given:
            if not (given.isascii() and given.isdigit() and len(given) <= 30):
                raise InputError(f"amount_cents {given[:30]!r} is no whole number of cents")
            amount = int(given)
        else:
            amount = cents(values.get("amount", ""), self._numbers)
        if amount == 0:
            raise InputError("the amount must be above 0")
        if amount > LARGEST_CENTS:
            raise InputError(f"the amount is above {brl(LARGEST_CENTS)}; is it in cents already?")
        return amount

    @staticmethod
    def _code(values: dict[str, Any], amount_cents: int) -> br_code.BRCode | None:
        if not values.get("code", "").strip():
            return None
        parsed = _checked_code(values["code"], amount_cents)
        values["code"] = parsed.text
        return parsed

    def _derive(self, values: dict[str, Any], code: br_code.BRCode | None) -> None:
        """The key and the name that are shown to the payer; only what the message uses has to be there."""
        key = values.get("pix_key", "").strip() or (code.key if code else None)
        if key:
            try:
                found = pix_keys.parse(key, values.get("pix_key_type", "").strip() or None)
                values["pix_key"], values["pix_key_type"] = found
            except InputError:
                if "pix_key" in self._message.columns:
                    raise
        elif "pix_key" in self._message.columns:
            raise InputError("the column pix_key is empty, and a dynamic code does not name its key")
        name = values.get("merchant_name", "").strip() or (code.merchant_name if code else "")
        if name:
            values["merchant_name"] = name
        elif "merchant_name" in self._message.columns:
            raise InputError("the column merchant_name is empty, and there is no code that names who is paid")

    def _expires_at(self, values: dict[str, Any]) -> datetime | None:
        given = values.get("expires", "").strip()
        if not given:
            if "expires_epoch" in self._message.columns:
                raise InputError("the column expires is empty")
            return None
        expires_at = instants.parse_instant(given, self._now, self._zone, end_of_day=True)
        values["expires_epoch"] = str(int(expires_at.timestamp()))
        return expires_at

    def _deadline(self, not_after: datetime | None, expires_at: datetime) -> datetime:
        """When the request is too late: a while before its code dies, unless the row allows less."""
        latest = super()._deadline(not_after, expires_at)
        if not_after is not None:
            return latest
        if expires_at - TIME_TO_PAY <= self._now:
            shown = instants.describe(expires_at, self._zone)
            raise InputError(
                f"it expires at {shown}, which leaves less than 30 minutes to pay; with a later `not_after` of its own "
                "a row is sent until 5 minutes before"
            )
        return expires_at - TIME_TO_PAY


def reader(
    file: CampaignFile, columns: list[str], now: datetime, zone: ZoneInfo, *, charges: bool = False
) -> Reader:
    """What reads the rows of a campaign, whichever command has them: as charges where a payment has an order.

    Args:
      charges: They are charges in any case.

    Raises:
      InputError: The columns do not suit the message, or charges.
    """
    asks = file.lane is Lane.PAYMENT and asked_order(file.message) is not None
    return (ChargeReader if charges or asks else Reader)(file, columns, now, zone)


def _checked_code(text: str, amount_cents: int) -> br_code.BRCode:
    parsed = br_code.parse(text)
    if parsed.amount_cents not in (None, amount_cents):
        raise InputError(f"the code asks for {brl(parsed.amount_cents)}, the row says {brl(amount_cents)}")
    return parsed


def _refuse_other(order: dict[str, Any], reference: str, amount_cents: int, *, of_row: bool) -> None:
    """Return when reference and total of a message's order are those of its row.

    ``of_row`` says that the reference_id is made of the column; else a short reference may be in it by chance.
    """
    given = str(order.get("reference_id"))
    if given != reference and not (of_row and reference in given):
        raise InputError(
            "the reference_id of the message does not hold the row's reference, so it would not be unique; "
            'write "{{ reference }}"'
        )
    match order:
        case {"total_amount": {"value": int(total)}} if total != amount_cents:
            raise InputError(f"the message asks for {brl(total)}, the row says {brl(amount_cents)}")


def _shown_with_code(order: dict[str, Any]) -> dict[str, Any] | None:
    """The PIX code of a message's order, with what is shown beside it."""
    for setting in order.get("payment_settings", ()):
        match setting:
            case {"pix_dynamic_code": {"code": str()} as content}:
                return dict(content)
    return None


def _disagreement(code: br_code.BRCode, shown: dict[str, Any]) -> str | None:
    found = br_code.disagreement(code, str(shown.get("merchant_name")), str(shown.get("key")))
    return None if found is None else f"{found[0]} {found[1]}"


def _bills(code: br_code.BRCode | None, txid: str | None, line: str) -> tuple[tuple[str, str], ...]:
    """What no other open charge may have: a customer who paid it would pay somebody else's bill."""
    names = [("code", code.text if code else None), ("url", code.url if code else None), ("txid", txid)]
    return tuple((kind, name) for kind, name in [*names, ("digitable_line", line)] if name)


def repeated_bills(
    session: Session, campaign: Campaign, rows: list[Recipient], now: datetime
) -> list[Reject]:
    """Rows whose code, or what it leads to, is also that of an earlier row of the page or of another open charge.

    Open is what is neither paid nor past, and whose request may still arrive or has arrived.
    """
    # Two imports at once look one after the other, so that each sees what the other has committed.
    session.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('pix bills', 20))"))
    wanted = {kind: [name for row in rows for its, name in row.bills if its == kind] for kind in _BILLS}
    found = session.execute(_OPEN, {**wanted, "now": now}).all() if any(wanted.values()) else []
    # A reference that was requested before is told as such, not by its code.
    taken = {
        (kind, getattr(one, kind)): (
            one.reference if one.app_id == campaign.app_id else None,
            f"{one.reference}, still open",
        )
        for one in found
        for kind in ("code", "txid", "url")
    }
    rejects = []
    for row in rows:
        for bill in row.bills:
            reference, whose = taken.setdefault(bill, (row.key, f"line {row.line}"))
            if reference != row.key:
                rejects.append(
                    Reject(
                        row.line,
                        "code_used",
                        f"{_BILLS[bill[0]]} is that of {whose}, too: who pays it pays that one",
                        row.raw,
                    )
                )
                break
    return rejects


_BILLS = {
    "code": "its code",
    "url": "the charge of its code",
    "txid": "its txid",
    "digitable_line": "its boleto",
}
# The address of a dynamic code stands behind the name of its account, after its length; nearly all are written so.
# What a name looks like may be no length. OFFSET 0: taken out once a row; 0.7 s beside 200,000 open charges.
_AT = "strpos(lower(c.code), 'br.gov.bcb.pix25')"
_OPEN = text(f"""
    SELECT app_id, reference, code, txid, url FROM (
        SELECT c.app_id, c.reference, c.code, c.txid, c.message_id,
            CASE WHEN {_AT} > 0 AND substr(c.code, {_AT} + 16, 2) ~ '^[0-9][0-9]$'
                THEN substr(c.code, {_AT} + 18, CAST(substr(c.code, {_AT} + 16, 2) AS int)) END AS url
        FROM pix_charges c
        WHERE c.paid_at IS NULL AND (c.expires_at IS NULL OR c.expires_at > :now) OFFSET 0) AS open
    WHERE (code = ANY(:code) OR txid = ANY(:txid) OR url = ANY(:url)) AND NOT EXISTS (
        SELECT 1 FROM messages m
        WHERE m.id = open.message_id AND m.status IN ('failed', 'cancelled', 'expired', 'suppressed'))""")


def store_charges(session: Session, campaign: Campaign, rows: list[Recipient]) -> None:
    """Write the charges of rows that became messages, in the same transaction."""
    session.execute(
        text("""
            INSERT INTO pix_charges
                (app_id, campaign_id, reference, amount_cents, code, txid, due_on, expires_at, message_id)
            SELECT :app_id, :campaign_id, i.reference, i.amount, i.code, i.txid, i.due_on, i.expires_at, m.id
            FROM unnest(CAST(:references AS text[]), CAST(:amounts AS bigint[]), CAST(:codes AS text[]),
                CAST(:txids AS text[]), CAST(:due AS date[]), CAST(:expires AS timestamptz[]))
                AS i (reference, amount, code, txid, due_on, expires_at)
            JOIN messages m ON m.app_id = :app_id AND m.key = i.reference"""),
        {
            "app_id": campaign.app_id,
            "campaign_id": campaign.id,
            "references": [row.key for row in rows],
            "amounts": [row.amount_cents for row in rows],
            "codes": [row.code for row in rows],
            "txids": [row.txid for row in rows],
            "due": [row.due_on for row in rows],
            "expires": [row.expires_at for row in rows],
        },
    )


def get(session: Session, app: App, reference: str, *, lock: bool = False) -> PIXCharge:
    """The charge of that reference.

    Raises:
      NotFoundError: There is none.
    """
    query = select(PIXCharge).where(PIXCharge.app_id == app.id, PIXCharge.reference == reference)
    charge = session.scalars(query.with_for_update() if lock else query).one_or_none()
    if charge is None:
        raise NotFoundError(f"app {app.name} has no charge with the reference {reference!r}")
    return charge


def mark_paid(session: Session, charge: PIXCharge, now: datetime) -> bool:
    """Note the payment and cancel the request where it has not left; whether it was cancelled.

    Raises:
      ConflictError: It was paid already.
    """
    if charge.paid_at is not None:
        raise ConflictError(
            f"{charge.reference} was marked as paid at {charge.paid_at:%Y-%m-%d %H:%M} UTC already"
        )
    charge.paid_at, charge.paid_cents = now, charge.amount_cents
    if charge.message_id is None:
        return False
    return bool(messages.cancel_pending(session, [charge.message_id], now))


def describe(session: Session, app: App, charge: PIXCharge) -> dict[str, Any]:
    """What ``pix show --json`` prints."""
    message = session.get(Message, charge.message_id) if charge.message_id else None
    campaign = session.get(Campaign, charge.campaign_id) if charge.campaign_id else None
    return {
        "reference": charge.reference,
        "app": app.name,
        "batch": campaign.name if campaign else None,
        "amount_cents": charge.amount_cents,
        "due": charge.due_on.isoformat() if isinstance(charge.due_on, date) else None,
        "expires_at": charge.expires_at.isoformat() if charge.expires_at else None,
        "paid_at": charge.paid_at.isoformat() if charge.paid_at else None,
        "message_id": charge.message_id,
        "state": message.status if message else None,
        "code": message.code if message else None,
        "reason": message.reason if message else None,
    }
