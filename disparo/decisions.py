"""What a person decides of a campaign's unknown messages: which are meant, what it means, and done in pages."""

import re
from collections import Counter as Tally
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import text
from sqlalchemy.orm import Session

from disparo import campaigns, phone, recipient_files, unknowns
from disparo.actions import record_progress
from disparo.columns import USUAL_NAMES, shown
from disparo.errors import ConflictError, InputError
from disparo.models import Campaign
from disparo.statuses import CampaignState, Lane, Status
from disparo.unknowns import Decision
from disparo.whatsapp import br_code

#: Messages of one transaction.
PAGE = 5_000
#: So many references that were typed are kept with the action.
_KEPT_REFERENCES = 20
#: What a column of a list names messages by, by its plain header.
_KINDS = {
    "reference": "key",
    "referencia": "key",
    "key": "key",
    "chave": "key",
    "id": "id",
    "to": "to",
    **dict.fromkeys(USUAL_NAMES, "to"),
}
_PREFERRED = ("key", "id", "to")


class Named(NamedTuple):
    """A message as a person names it."""

    where: str  #: ``--reference 1`` (the first), ``answers.csv, line 7``
    value: str
    #: ``key``, ``id``, ``to``, or ``any`` for a key or an id; ``header``: the same, if it names a message at all.
    kind: str
    #: Why its row cannot be used.
    fault: str | None = None


class Unmatched(NamedTuple):
    """A name that stands for no unknown message of the campaign."""

    where: str
    why: str


@dataclass(slots=True)
class Undecided:
    """Unknown messages that a person decides, in pages."""

    name: str
    decision: Decision
    #: What was unknown when he decided, and by which claim: what becomes unknown anew meanwhile is not meant.
    ids: list[int]
    claims: list[int]
    unmatched: list[Unmatched]
    references: list[str]
    actor: str | None = None
    why: str | None = None
    #: How many became ``accepted``, ``pending``, ``failed``, ``expired``, ``cancelled``; were ``not_unknown`` any more.
    done: Tally[str] = field(default_factory=Tally)
    #: How many of ``ids`` are done, and the action that says so.
    at: int = 0
    action_id: int | None = None

    @property
    def decided(self) -> int:
        """How many messages are unknown no more."""
        return self.done.total() - self.done["not_unknown"]


def begin(
    session: Session,
    campaign: Campaign,
    decision: Decision,
    named: Iterable[Named] | None,
    now: datetime,
    *,
    actor: str | None = None,
    why: str | None = None,
) -> Undecided:
    """Look which unknown messages of a campaign are meant; nothing changes yet.

    Args:
      named: None: all that are unknown.

    Raises:
      ConflictError: They cannot be resent: a worker may still be at one of them, or the campaign was cancelled.
    """
    if named is None:
        ids, claims = session.execute(
            text("""
                SELECT coalesce(array_agg(id ORDER BY id), '{}'), coalesce(array_agg(claims ORDER BY id), '{}')
                FROM messages WHERE campaign_id = :id AND status = 'unknown'"""),
            {"id": campaign.id},
        ).one()
        unmatched: list[Unmatched] = []
        references: list[str] = []
    else:
        named = list(named)
        found, unmatched = _find(session, campaign, named)
        ids, claims = sorted(found), [found[one] for one in sorted(found)]
        told = {one.where for one in unmatched}
        typed = [one.value for one in named if one.where.startswith("--reference") and one.where not in told]
        references = typed[:_KEPT_REFERENCES]
    if decision is Decision.RESEND and ids:
        unknowns.refuse_resend(session, ids, now)
    return Undecided(campaign.name, decision, ids, claims, unmatched, references, actor, why)


def next_page(session: Session, undecided: Undecided, now: datetime, *, page: int = PAGE) -> bool:
    """Decide a page of the messages; False when none was left. The caller commits each page.

    Killed between two pages, the same command does the rest.

    Raises:
      ConflictError: See `unknowns.decide`; says how many had been decided before.
    """
    ids = undecided.ids[undecided.at : undecided.at + page]
    if not ids:
        return False
    try:
        counts = unknowns.decide(
            session,
            ids,
            undecided.decision,
            actor=undecided.actor,
            why=undecided.why,
            now=now,
            claims=undecided.claims[undecided.at : undecided.at + page],
            noted=True,
        )
    except ConflictError as err:
        if not undecided.decided:
            raise
        raise ConflictError(f"{undecided.decided:,} messages were decided; of the others: {err}") from err
    undecided.done.update(counts)
    undecided.at += len(ids)
    if undecided.decided:
        details: dict[str, Any] = {"decision": undecided.decision.value, "messages": undecided.decided}
        if undecided.references:
            details["references"] = undecided.references
        undecided.action_id = record_progress(
            session,
            undecided.action_id,
            "resolve",
            f"campaign:{undecided.name}",
            actor=undecided.actor,
            why=undecided.why,
            **details,
        )
    return True


# -- which messages -----------------------------------------------------------------------------------------


def by_references(references: Sequence[str]) -> list[Named]:
    """References, keys or ids that were typed."""
    return [Named(f"--reference {n}", one.strip(), "any") for n, one in enumerate(references, 1)]


def by_file(path: Path) -> Iterator[Named]:
    """The messages that a list names: by a column ``reference``, ``key``, ``id`` or ``to``, or by its only one.

    Read as recipient lists are: CSV or JSONL, any usual encoding and separator.

    Raises:
      InputError: It is no list, or has several columns and none of these.
    """
    opened = recipient_files.open_rows(path, {}, recipients=False)
    kinds = {name: _KINDS[name] for name in opened.columns if name in _KINDS}
    named = min(kinds, key=lambda name: _PREFERRED.index(kinds[name]), default=None)
    if named is None and len(opened.columns) > 1:
        raise InputError(
            f"{path} has no column reference, key, id or to, so nobody can tell which messages are meant. "
            f"Its columns are: {', '.join(map(shown, opened.original_header[:30]))}"
        )
    column = named or opened.columns[0]
    kind = kinds.get(column, "any")
    if named is None:
        # A list without a header begins with a reference like the others.
        yield Named(f"{path.name}, line 1", opened.original_header[0].strip(), "header")
    for row in opened.rows():
        value = row.values.get(column, "").strip()
        fault = row.fault or (None if value else f"{column} is empty")
        yield Named(f"{path.name}, line {row.line}", value, kind, fault)


def _find(
    session: Session, campaign: Campaign, named: Sequence[Named]
) -> tuple[dict[int, int], list[Unmatched]]:
    """Claims by message id, and what stands for none."""
    phones = {one.value: _phone_key(one.value) for one in named if one.kind == "to" and not one.fault}
    keys = sorted({one.value for one in named if one.kind not in ("id", "to")})
    ids = sorted({int(one.value) for one in named if one.kind not in ("key", "to") and _is_id(one.value)})
    rows = session.execute(
        text("""
            SELECT m.id, m.key, m.recipient_key, m.status, m.claims, m.campaign_id, c.name AS campaign FROM (
                SELECT id FROM messages WHERE app_id = :app_id AND key = ANY(:keys)
                UNION SELECT id FROM messages WHERE id = ANY(:ids)
                UNION SELECT id FROM messages WHERE app_id = :app_id AND campaign_id = :campaign_id
                    AND recipient_key = ANY(:phones)) AS named
            JOIN messages m ON m.id = named.id LEFT JOIN campaigns c ON c.id = m.campaign_id"""),
        {
            "app_id": campaign.app_id,
            "campaign_id": campaign.id,
            "keys": keys,
            "ids": ids,
            "phones": sorted({key for key in phones.values() if key}),
        },
    ).all()
    by_key = {row.key: row for row in rows if row.key is not None}
    by_id = {row.id: row for row in rows}
    by_phone: dict[str, list[Any]] = {}
    for row in rows:
        if row.campaign_id == campaign.id:
            by_phone.setdefault(row.recipient_key, []).append(row)
    found: dict[int, int] = {}
    unmatched: list[Unmatched] = []
    for one in named:
        is_phone = one.kind == "to" or _phone_key(one.value) is not None
        what = phone.mask(re.sub("[^0-9]", "", one.value)) if is_phone else shown(one.value)
        if one.kind == "to":
            fitting = by_phone.get(phones.get(one.value) or "", [])
        else:
            fits = by_key.get(one.value) if one.kind != "id" else None
            if fits is None and one.kind != "key" and _is_id(one.value):
                fits = by_id.get(int(one.value))
            fitting = [fits] if fits else []
        if one.fault:
            why = one.fault
        elif one.kind == "to" and not phones[one.value]:
            why = f"{what} is no phone number"
        elif one.kind == "header" and not fitting:
            continue
        elif not fitting:
            why = f"{campaign.name} has no message {'to' if one.kind == 'to' else 'named'} {what}"
        elif len(fitting) > 1:
            why = f"{campaign.name} has {len(fitting)} messages to {what}; name them by reference or id"
        elif fitting[0].campaign_id != campaign.id:
            why = f"{what} is a message of {fitting[0].campaign or 'no campaign'}, not of {campaign.name}"
        elif fitting[0].status != Status.UNKNOWN:
            why = f"{what} is {fitting[0].status}, not unknown"
        else:
            found[fitting[0].id] = fitting[0].claims
            continue
        unmatched.append(Unmatched(one.where, why))
    return found, unmatched


def _phone_key(value: str) -> str | None:
    try:
        return phone.parse(value).key
    except InputError:
        return None


def _is_id(value: str) -> bool:
    return value.isascii() and value.isdigit() and len(value) <= 18


# -- what sending again means --------------------------------------------------------------------------------


def what_resend_means(session: Session, campaign: Campaign, ids: Sequence[int]) -> list[str]:
    """Sentences about payments that may be made twice when these messages are sent again; none where none is asked.

    Looks at each message as it would be sent.
    """
    content, _ = campaigns.compile_message(campaign.content, campaign.options)
    asks = campaign.lane == Lane.PAYMENT
    kinds: Tally[str] = Tally()
    for at in range(0, len(ids), PAGE):
        for params in session.scalars(
            text("SELECT params FROM messages WHERE id = ANY(:ids)"), {"ids": ids[at : at + PAGE]}
        ):
            try:
                ways = list(_ways_to_pay(content.render(params or {})))
            except InputError:
                ways = []
            kinds["once" if ways and all(ways) else "again" if ways else "unseen"] += 1
    told = [
        (
            kinds["once"],
            "hold a one-use dynamic code: resending repeats a message, hardly a payment",
        ),
        (kinds["again"], "hold a static code, a link or a boleto: they may be paid twice"),
        (
            kinds["unseen"] if asks else 0,
            "ask for a payment in a way that cannot be told from them: they may be paid twice",
        ),
    ]
    return [f"{n:,} of {len(ids):,} messages {sentence}" for n, sentence in told if n]


def _ways_to_pay(value: Any) -> Iterator[bool]:
    """Of each code, link or slip in a message whether it can surely be paid only once."""
    if isinstance(value, dict):
        for name, below in value.items():
            if name in ("payment_link", "boleto", "offsite_card_pay"):
                yield False
            else:
                yield from _ways_to_pay(below)
    elif isinstance(value, list):
        for below in value:
            yield from _ways_to_pay(below)
    elif isinstance(value, str) and (at := value.find("000201")) >= 0:
        try:
            code = br_code.parse(value[at:], verify=False)
        except InputError:
            # Text goes on behind it, or it is none: what nobody can read is not taken for harmless.
            if "br.gov.bcb.pix" in value.lower():
                yield False
        else:
            yield code.dynamic and code.single_use


def can_be_resolved(campaign: Campaign) -> None:
    """Return when there may be something to decide of a campaign.

    Raises:
      ConflictError: It is still being imported.
    """
    if campaign.state in (CampaignState.IMPORTING, CampaignState.DRAFT):
        raise ConflictError(
            f"{campaign.name} is {campaign.state}, so nothing of it is unknown; nothing was decided"
        )
