"""A file of recipients becomes messages, in pages; a page is one transaction.

The process that has the file imports it. A death repeats at most one page, and the unique constraints make
that harmless: the same command goes on where it stopped.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from itertools import islice
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import orjson
from sqlalchemy import text
from sqlalchemy.orm import Session

from disparo import instants
from disparo.campaigns import CampaignFile, compile_message
from disparo.errors import ConflictError, Fault, InputError, PayloadError
from disparo.messages import KEY_LENGTH
from disparo.models import Campaign, Import
from disparo.phone import PhoneError, mask_in, parse
from disparo.recipient_files import RecipientFile, Row
from disparo.rendering import Content
from disparo.statuses import CampaignState
from disparo.whatsapp import orders, payloads, texts

#: Rows of one transaction.
PAGE_ROWS = 5_000
#: Columns that are not parameters of the message. ``reference`` is the key of a payment.
RESERVED = ("to", "key", "not_after")


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that was refused, and why.

    ``faults`` has each rule of WhatsApp that it breaks, ``column`` the one that is wrong where that is known.
    """

    line: int
    reason: str
    explanation: str
    raw: list[str]
    faults: tuple[Fault, ...] = ()
    column: str | None = None


def masked(fault: Fault) -> Fault:
    """The fault without phones."""
    return replace(fault, message=mask_in(fault.message), value=fault.value and mask_in(fault.value))


class Recipient(NamedTuple):
    """A row that gives a message; what has a default is of charges only."""

    line: int
    recipient: str
    recipient_key: str
    key: str | None
    dedupe_key: str | None
    not_after: datetime | None
    params: str
    raw: list[str]
    amount_cents: int | None = None
    code: str | None = None
    due_on: date | None = None
    #: Of any order.
    expires_at: datetime | None = None
    txid: str | None = None
    #: Kind and name of what no other open charge may have (`disparo.pix.repeated_bills`).
    bills: tuple[tuple[str, str], ...] = ()
    #: What is odd about it, but may be meant.
    warning: str | None = None


@dataclass(slots=True)
class Loaded:
    """How a page or a file came in."""

    accepted: int = 0
    rejected: int = 0
    duplicates: int = 0
    rejects: list[Reject] = field(default_factory=list)


class Reader:
    """Turns rows of a file into recipients of one campaign, or says why not; pure."""

    #: Columns of a payment that may be its key, the first that is there.
    key_columns: tuple[str, ...] = ("key", "reference")

    def __init__(self, file: CampaignFile, columns: Iterable[str], now: datetime, zone: ZoneInfo) -> None:
        """Compile the message once.

        Raises:
          InputError: A placeholder names a column that the file does not have, or a template cannot be read.
        """
        self._file, self._now, self._zone = file, now, zone
        self._message, self._envelope = compile_message(file.message, file.options)
        if not file.raw:
            _refuse_one_reference(file.message, self._message)
        there = set(columns) | {"to"}
        required = (self._message.columns - self._message.optional) | (
            self._envelope.columns - self._envelope.optional
        )
        missing = sorted(required - there)
        if missing:
            raise InputError(
                f"the message uses {', '.join('{{ ' + name + ' }}' for name in missing)}, but the recipients have no "
                f"such column; there are: {', '.join(sorted(there))}"
            )
        self._dedupe = file.effective_dedupe
        # A payment without a key of its own goes by its reference.
        names = self.key_columns if file.lane == "payment" else ("key",)
        self._key_column = next((name for name in names if name in there), None)
        if file.dedupe == "key" and self._key_column is None:
            raise InputError("dedupe: key needs a column `key` in the recipients (map it under `columns:`)")

    def read(self, row: Row) -> Recipient | Reject:
        """The recipient of a row, rendered and checked once."""
        found = self._read(row)
        if not isinstance(found, Reject):
            return found
        # It may quote its cells, and people put phones into wrong columns.
        faults = tuple(map(masked, found.faults))
        return replace(found, explanation=mask_in(found.explanation), faults=faults)

    def _read(self, row: Row, expires_at: datetime | None = None) -> Recipient | Reject:
        """The recipient of a row; ``expires_at`` is when it says itself that what it asks for dies."""
        if row.fault:
            return Reject(row.line, "bad_row", row.fault, row.raw)
        values = row.values
        try:
            phone = parse(values.get("to", ""))
            key = values.get(self._key_column, "").strip() if self._key_column else None
            if self._key_column and not key and self._dedupe == "key":
                return Reject(row.line, "no_key", f"the column {self._key_column} is empty", row.raw)
            if key and (len(key) > KEY_LENGTH or not key.isprintable()):
                return Reject(
                    row.line, "bad_key", f"a key has 1 to {KEY_LENGTH} printable characters", row.raw
                )
            not_after = self._not_after(values.get("not_after", ""))
            # Phones go as they will be sent, so that {{ to }} is what the provider sees.
            params = {name: value for name, value in values.items() if name not in RESERVED} | {
                "to": phone.digits
            }
            rendered = check(self._message, self._envelope, params, phone.digits, raw=self._file.raw)
            if not self._file.raw:
                dies = orders.expires_at(orders.find(rendered) or {})
                expires_at = min((one for one in (expires_at, dies) if one), default=None)
            if expires_at is not None:
                not_after = self._deadline(not_after, expires_at)
            packed = orjson.dumps(params).decode()
        except PhoneError as err:
            return Reject(row.line, err.reason, str(err), row.raw, column="to")
        except PayloadError as err:
            return Reject(row.line, "payload", str(err), row.raw, tuple(err.faults))
        except InputError as err:
            return Reject(row.line, "bad_value", str(err), row.raw)
        except (TypeError, ValueError) as err:
            return Reject(row.line, "bad_value", f"a value cannot be kept: {err}", row.raw)
        dedupe_key = {"recipient": phone.key, "key": key, "none": None}[self._dedupe]
        return Recipient(
            row.line,
            phone.digits,
            phone.key,
            key or None,
            dedupe_key,
            not_after,
            packed,
            row.raw,
            expires_at=expires_at,
        )

    def _not_after(self, given: str) -> datetime | None:
        if not given.strip():
            return None
        instant = instants.parse_instant(given, self._now, self._zone, end_of_day=True)
        if instant <= self._now:
            raise InputError(f"not_after {given} is past")
        return instant

    def _deadline(self, not_after: datetime | None, expires_at: datetime) -> datetime:
        """When a message is too late: before WhatsApp refuses its order, however late the row allows."""
        if expires_at < self._now + orders.SHORTEST:
            raise InputError(
                f"it expires at {instants.describe(expires_at, self._zone)}, which is past or less than 300 seconds "
                "ahead; WhatsApp refuses that"
            )
        return min(not_after or expires_at, expires_at - orders.SHORTEST)

    @property
    def places(self) -> Mapping[str, frozenset[str]]:
        """JSON path of each value of message and envelope that holds a placeholder → the columns that it names."""
        return {**self._envelope.places, **self._message.places}

    def columns_at(self, path: str) -> list[str]:
        """The columns from which the value at a JSON path, or what is in it, is made."""
        return sorted({*self._message.columns_at(path), *self._envelope.columns_at(path)})

    def fill(self, found: Recipient) -> tuple[dict[str, Any], dict[str, Any]]:
        """Message and envelope of a row that was read."""
        params = orjson.loads(found.params)
        return self._message.render(params), self._envelope.render(params)


def _refuse_one_reference(message: dict[str, Any], compiled: Content) -> None:
    """Return when the requests for payment of a campaign get a reference each."""
    order = asked_order(message)
    if order is not None and not reference_columns(compiled):
        raise InputError(
            f"every row would ask with the same reference_id, {str(order.get('reference_id'))[:60]!r}, which WhatsApp "
            'takes once; write "{{ reference }}", or another column that differs in each row'
        )


def asked_order(message: dict[str, Any]) -> dict[str, Any] | None:
    """The order with which a campaign's message asks for a payment; None when it asks for none."""
    content = payloads.split(message)[1]
    match content:
        case {"interactive": {"type": "order_status"}}:
            return None
    return orders.find(content)


def reference_columns(message: Content) -> frozenset[str]:
    """Names of the columns that the ``reference_id`` of a message's order is made of."""
    found = (names for path, names in message.places.items() if path.endswith(".reference_id"))
    return frozenset().union(*found)


def check(
    message: Content, envelope: Content, params: dict[str, Any], to: str, *, raw: bool
) -> dict[str, Any]:
    """The message of a campaign with one row's columns, which can be sent; unless ``raw``, by WhatsApp's rules too.

    Raises:
      InputError: It cannot be filled with them.
      PayloadError: It breaks a rule; says which columns the wrong value came from.
    """
    rendered = message.render(params)
    if not raw:
        around = envelope.render(params | {"to": to})
        faults = [_explained(message, rendered, fault) for fault in payloads.check(rendered)]
        faults += [_explained(envelope, around, fault) for fault in payloads.check_envelope(around, rendered)]
        if faults:
            raise PayloadError(faults)
    render(message, envelope, params, to)
    return rendered


def _explained(content: Content, rendered: dict[str, Any], fault: Fault) -> Fault:
    """The fault, with the columns that its value came from and what the person can do about it."""
    columns, value = content.columns_at(fault.path), _at(rendered, fault.path)
    told = (
        [f"it comes from the column{'s' if len(columns) > 1 else ''} {', '.join(columns)}"] if columns else []
    )
    component = _at(rendered, fault.path.rpartition(".parameters")[0])
    if (
        isinstance(value, str)
        and texts.may_normalise(fault.path, component)
        and texts.one_line(value) != value
    ):
        told.append("`normalise: true` in the campaign file makes one blank of such a run")
    elif columns and isinstance(value, str) and not value.strip():
        told.append(f"{{{{ {columns[0]} | default('…') }}}} fills blank cells")
    elif columns and isinstance(value, int | float) and "must be text" in fault.message:
        told.append(f"{{{{ {columns[0]} | string }}}} makes text of a number")
    return replace(fault, message="; ".join([fault.message, *told]))


def _at(value: Any, path: str) -> Any:
    """What stands at a JSON path of a message; None when nothing does."""
    for key, place in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path):
        if key and isinstance(value, dict):
            value = value.get(key)
        elif place and isinstance(value, list) and int(place) < len(value):
            value = value[int(place)]
        else:
            return None
    return value


def render(message: Content, envelope: Content, params: dict[str, Any], to: str) -> bytes:
    """The bytes for the wire of a campaign's content with one row's columns: what `payloads.wire` makes, as JSON.

    Equal bytes for equal columns, made once: keys in the order of the file, no blanks, UTF-8.

    Raises:
      InputError: It cannot be filled with them.
    """
    around, body = envelope.render_json(params | {"to": to}), message.render_json(params)
    return around[:-1] + b"," + body[1:] if len(body) > 2 else around


def probe(reader: Reader, rows: Iterator[Row], *, limit: int = 1_000) -> None:
    """Return when one of the first rows gives a message.

    Raises:
      InputError: None does, so that nothing should be stored; tells of the first.
    """
    seen, first = 0, None
    for row in islice(rows, limit):
        seen += 1
        found = reader.read(row)
        if isinstance(found, Recipient):
            return
        first = first or found
    if first is None:
        raise InputError("the recipients file has a header, but no rows")
    raise InputError(
        f"none of the {'first ' if seen == limit else ''}{seen:,} rows can be sent; line {first.line}: {first.explanation}"
    )


def load(
    session: Session,
    campaign: Campaign,
    loaded: Import,
    reader: Reader,
    file: RecipientFile,
    *,
    after_page: Callable[[Loaded], None],
    before_insert: Callable[[Session, Campaign, list[Recipient]], list[Reject]] | None = None,
    after_insert: Callable[[Session, Campaign, list[Recipient]], None] | None = None,
) -> Loaded:
    """Bring in what is left of the file, committing page by page; ``after_page`` is told of each.

    Args:
      before_insert: Refuses rows of a page for what the database has already.
      after_insert: Stores what else belongs to the rows of a page that became messages.

    Raises:
      InputError: The file cannot be read on.
      ConflictError: It was cancelled, or another process imports it too.
    """
    total = Loaded()
    rows = file.rows()
    while page := list(islice(rows, PAGE_ROWS)):
        hold(session, campaign, loaded)
        done = _load_page(session, campaign, loaded, reader, page, before_insert, after_insert)
        note(loaded, done, page[-1].line + 1)
        # Before the commit: a reject that cannot be written down stops the import, and none is missing after it.
        after_page(done)
        session.commit()
        total.accepted += done.accepted
        total.rejected += done.rejected
        total.duplicates += done.duplicates
    loaded.state = "done"
    return total


def note(loaded: Import, page: Loaded, next_line: int) -> None:
    """Keep how a page came in, and where the next one begins."""
    loaded.next_line = next_line
    loaded.accepted += page.accepted
    loaded.rejected += page.rejected
    loaded.duplicates += page.duplicates


def hold(session: Session, campaign: Campaign, loaded: Import) -> None:
    """Keep cancellation and other imports of the campaign out until the page is committed."""
    reached = loaded.next_line
    # Not against what refers to its row: who changes its messages has them locked and may need that.
    session.refresh(campaign, with_for_update={"key_share": True})
    if campaign.state != CampaignState.IMPORTING:
        raise ConflictError(f"{campaign.name} is {campaign.state} by now; the import ends here")
    session.refresh(loaded)
    if loaded.next_line != reached:
        raise ConflictError(
            f"another process imports {campaign.name} and is at line {loaded.next_line}; this one leaves it to that"
        )


def _load_page(
    session: Session,
    campaign: Campaign,
    loaded: Import,
    reader: Reader,
    page: list[Row],
    before_insert: Callable[[Session, Campaign, list[Recipient]], list[Reject]] | None,
    after_insert: Callable[[Session, Campaign, list[Recipient]], None] | None,
) -> Loaded:
    read = [reader.read(row) for row in page]
    good = [row for row in read if isinstance(row, Recipient)]
    rejects = [row for row in read if isinstance(row, Reject)]
    if before_insert is not None and (refused := before_insert(session, campaign, good)):
        lines = {one.line for one in refused}
        good = [row for row in good if row.line not in lines]
        rejects += refused
    stored = _insert(session, campaign, good)
    if after_insert is not None and stored:
        after_insert(session, campaign, [row for row in good if row.line in stored])
    left = [row for row in good if row.line not in stored]
    duplicates = _why_left(session, campaign, left)
    rejects = sorted(rejects + duplicates, key=lambda reject: reject.line)
    return store_rejects(session, loaded, len(stored), rejects)


def store_rejects(session: Session, loaded: Import, accepted: int, rejects: list[Reject]) -> Loaded:
    """Write down the refused rows of a page of which ``accepted`` others came in; the page, told."""
    if rejects:
        session.execute(
            text("""
                INSERT INTO import_rejects (import_id, line, reason, explanation)
                SELECT :id, * FROM unnest(CAST(:lines AS bigint[]), CAST(:reasons AS text[]), CAST(:texts AS text[]))
                ON CONFLICT DO NOTHING"""),
            {
                "id": loaded.id,
                "lines": [reject.line for reject in rejects],
                "reasons": [reject.reason for reject in rejects],
                "texts": [reject.explanation for reject in rejects],
            },
        )
    repeated = sum(reject.reason == "duplicate" for reject in rejects)
    return Loaded(accepted, len(rejects) - repeated, repeated, rejects)


def _insert(session: Session, campaign: Campaign, rows: list[Recipient]) -> set[int]:
    """Lines that became messages; a row whose key or recipient is there already does not."""
    cursor = session.connection().connection.cursor()
    cursor.execute(
        "CREATE TEMP TABLE IF NOT EXISTS incoming (line bigint, recipient text, recipient_key text, key text,"
        " dedupe_key text, not_after timestamptz, params json) ON COMMIT DELETE ROWS"
    )
    cursor.execute("TRUNCATE incoming")
    with cursor.copy("COPY incoming FROM STDIN") as copy:
        for row in rows:
            copy.write_row(
                (
                    row.line,
                    row.recipient,
                    row.recipient_key,
                    row.key,
                    row.dedupe_key,
                    row.not_after,
                    row.params,
                )
            )
    inserted = session.execute(
        text("""
            INSERT INTO messages (app_id, campaign_id, lane, recipient, recipient_key, key, dedupe_key, line, params, not_after)
            SELECT :app_id, :campaign_id, :lane, recipient, recipient_key, key, dedupe_key, line, params,
                least(not_after, CAST(:not_after AS timestamptz))
            FROM incoming ORDER BY line
            ON CONFLICT DO NOTHING RETURNING line"""),
        {
            "app_id": campaign.app_id,
            "campaign_id": campaign.id,
            "lane": campaign.lane,
            "not_after": campaign.not_after,
        },
    ).scalars()
    return set(inserted)


def _why_left(session: Session, campaign: Campaign, rows: list[Recipient]) -> list[Reject]:
    """Say of each row that was not stored which earlier one it repeats."""
    if not rows:
        return []
    known = session.execute(
        text("""
            SELECT dedupe_key, NULL AS key, line, id, campaign_id FROM messages
            WHERE campaign_id = :campaign_id AND dedupe_key = ANY(:dedupe_keys)
            UNION ALL SELECT NULL, key, line, id, campaign_id FROM messages WHERE app_id = :app_id AND key = ANY(:keys)"""),
        {
            "campaign_id": campaign.id,
            "app_id": campaign.app_id,
            "dedupe_keys": [row.dedupe_key for row in rows if row.dedupe_key],
            "keys": [row.key for row in rows if row.key],
        },
    ).all()
    by_dedupe = {found.dedupe_key: found for found in known if found.dedupe_key}
    by_key = {found.key: found for found in known if found.key}
    left = []
    for row in rows:
        found = by_dedupe.get(row.dedupe_key) if row.dedupe_key else None
        if found is None and row.key:
            found = by_key.get(row.key)
        if found is not None and found.campaign_id == campaign.id:
            left.append(Reject(row.line, "duplicate", f"duplicate of line {found.line}", row.raw))
        else:
            message = f"message {found.id}" if found else "another message"
            left.append(
                Reject(
                    row.line, "key_used", f"the key {row.key} already names {message} of this app", row.raw
                )
            )
    return left
