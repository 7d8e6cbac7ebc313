"""PIX batches: charges with a reference each, requested once; and what is known of one."""

from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from disparo import instants, messages
from disparo.campaigns import CampaignFile
from disparo.errors import ConflictError, InputError, NotFoundError
from disparo.models import App, Campaign, Message, PIXCharge
from disparo.recipient_files import Row
from disparo.recipients import Reader, Recipient, Reject
from disparo.rendering import brl, cents
from disparo.whatsapp import br_code

#: A larger amount is a typing error.
LARGEST_CENTS = 10**12


class ChargeReader(Reader):
    """Reads rows of charges: besides ``to`` they have ``reference``, ``amount`` or ``amount_cents``, often ``code``.

    The message sees ``amount_cents`` as an integer and ``code`` without line breaks, whichever column the
    amount came in.
    """

    derived = ("amount_cents",)
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

    def read(self, row: Row) -> Recipient | Reject:
        """The charge of a row, its amount, code and reference checked."""
        if row.fault:
            return super().read(row)
        values: dict[str, Any] = dict(row.values)
        if not values["reference"].strip():
            return Reject(row.line, "no_key", "the column reference is empty", row.raw)
        try:
            values["amount_cents"] = self._amount(values)
            if values.get("code", "").strip():
                values["code"] = self._code(values["code"], values["amount_cents"])
            expires = values.get("expires", "").strip()
            expires_at = (
                instants.parse_instant(expires, self._now, self._zone, end_of_day=True) if expires else None
            )
            due = values.get("due", "").strip()
            due_on = (
                instants.parse_instant(due, self._now, self._zone).astimezone(self._zone).date()
                if due
                else None
            )
        except InputError as err:
            return Reject(row.line, "bad_value", str(err), row.raw)
        found = super().read(Row(row.line, values, row.raw, None))
        if isinstance(found, Reject):
            return found
        return found._replace(
            amount_cents=values["amount_cents"],
            code=values.get("code") or None,
            due_on=due_on,
            expires_at=expires_at,
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
    def _code(given: str, amount_cents: int) -> str:
        parsed = br_code.parse(given)
        if parsed.amount_cents not in (None, amount_cents):
            raise InputError(
                f"the code asks for {brl(parsed.amount_cents)}, the row says {brl(amount_cents)}"
            )
        return parsed.text


def store_charges(session: Session, campaign: Campaign, rows: list[Recipient]) -> None:
    """Write the charges of rows that became messages, in the same transaction."""
    session.execute(
        text("""
            INSERT INTO pix_charges (app_id, campaign_id, reference, amount_cents, code, due_on, expires_at, message_id)
            SELECT :app_id, :campaign_id, i.reference, i.amount, i.code, i.due_on, i.expires_at, m.id
            FROM unnest(CAST(:references AS text[]), CAST(:amounts AS bigint[]), CAST(:codes AS text[]),
                CAST(:due AS date[]), CAST(:expires AS timestamptz[])) AS i (reference, amount, code, due_on, expires_at)
            JOIN messages m ON m.app_id = :app_id AND m.key = i.reference"""),
        {
            "app_id": campaign.app_id,
            "campaign_id": campaign.id,
            "references": [row.key for row in rows],
            "amounts": [row.amount_cents for row in rows],
            "codes": [row.code for row in rows],
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
