"""Failed messages that people have sent again, and what is kept of the attempts before.

A failed message was refused, so its recipient does not get it twice. What may have been sent after all is never put
back here: people decide about it in `disparo.unknowns`.
"""

from collections import Counter as Tally
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from disparo import progress
from disparo.actions import record_progress
from disparo.batches import PAID_OR_BOUGHT
from disparo.counters import DELTAS_OF_CHANGED
from disparo.errors import ConflictError, NotFoundError
from disparo.models import Campaign, Stop
from disparo.recovery import CLOCK_SLACK
from disparo.statuses import CampaignState, Verdict
from disparo.whatsapp.codes import TABLE, Rule, Table

#: Messages of one transaction.
PAGE = 5_000

#: Code of a message that a person has given up while nobody knew whether it was sent.
GIVEN_UP = "given_up"

#: A fault that a person mends, or that passes: what failed by it is worth another try.
_MENDED = (Verdict.SENDER_STOP, Verdict.TEMPLATE_STOP, Verdict.RETRY, Verdict.THROTTLE)

_HOLD_CHARGES = text("""
    SELECT 1 FROM messages m
    JOIN pix_charges p ON p.app_id = m.app_id AND p.reference = m.key AND p.message_id = m.id
    WHERE m.id = ANY(:ids) ORDER BY p.id FOR SHARE OF p""")
_HOLD_REMINDERS = text("""
    SELECT 1 FROM reminders WHERE message_id IN (
        SELECT id FROM messages WHERE id = ANY(:ids) AND campaign_id IS NULL)
    ORDER BY id FOR SHARE""")

_LOCK = text("""
    SELECT m.id FROM messages m
    JOIN unnest(CAST(:ids AS bigint[]), CAST(:claims AS integer[])) AS seen (id, claims)
        ON seen.id = m.id AND seen.claims = m.claims
    WHERE m.status = 'failed' AND m.code = ANY(:codes) AND m.moved_to IS NULL ORDER BY m.id FOR UPDATE OF m""")
_FAILED_SINCE = "m.app_id = :app_id AND m.status = 'failed' AND m.moved_to IS NULL AND m.failed_at >= :since"
_CODES = text(
    f"SELECT DISTINCT m.code, m.http_status FROM messages m WHERE {_FAILED_SINCE} AND m.code IS NOT NULL"
)
_FAILED_BY = text(f"""
    SELECT m.id FROM messages m LEFT JOIN campaigns c ON c.id = m.campaign_id
    WHERE {_FAILED_SINCE} AND m.code = ANY(:codes) AND (:scope = 'app' OR (:scope = 'lane' AND m.lane = :key)
        -- Amended since, the campaign of the refused message has another template now.
        OR (:scope = 'template' AND (coalesce(m.template, c.template) = :key OR m.campaign_id = (
            SELECT campaign_id FROM messages WHERE id = :message_id))))""")
# The first messages of a campaign failed before there was a stop, and after the last one of its template.
_FAILED_FIRST = text("""
    SELECT m.id FROM messages m
    WHERE m.campaign_id = (SELECT campaign_id FROM messages WHERE id = :message_id)
        AND m.status = 'failed' AND m.code = ANY(:codes) AND m.moved_to IS NULL
        AND m.failed_at > coalesce((
            SELECT max(ended_at) FROM stops WHERE app_id = :app_id AND scope = :scope AND key = :key AND id <> :stop_id
            ), '-infinity')""")
_LOCK_FAILED = text("""
    SELECT id FROM messages WHERE id = ANY(:ids) AND status = 'failed' AND moved_to IS NULL
    ORDER BY id FOR UPDATE""")
# Before the messages. Workers only refer to the row, which this lock lets them; a tick that would finish the campaign
# passes it over, or was there before.
_LOCK_CAMPAIGNS = text("""
    SELECT id, state FROM campaigns
    WHERE id IN (SELECT campaign_id FROM messages WHERE id = ANY(:ids)) ORDER BY id FOR NO KEY UPDATE""")
# The ids of the attempt that failed go to its own record: a status of it that comes late is then known as such, and
# is not taken for one of the next attempt.
_PUT_BACK = text(f"""
    WITH was AS (
        SELECT m.*, CASE
            WHEN m.delivered_at IS NOT NULL OR m.read_at IS NOT NULL THEN 'delivered'
            WHEN c.state = 'cancelled' THEN 'campaign_cancelled'
            WHEN {PAID_OR_BOUGHT} THEN 'cancelled'
            WHEN m.not_after <= :now THEN 'too_late'
            ELSE 'retried' END AS fate
        FROM messages m LEFT JOIN campaigns c ON c.id = m.campaign_id WHERE m.id = ANY(:ids)),
    earlier AS (
        INSERT INTO send_errors (message_id, attempt, at, verdict, http_status, code, text, gs_id, wamid)
        SELECT id, attempts, coalesce(failed_at, :now), 'accepted', http_status, coalesce(code, ''),
            coalesce(reason, ''), gs_id, wamid
        FROM was WHERE fate = 'retried' AND (gs_id IS NOT NULL OR wamid IS NOT NULL)),
    put_back AS (
        UPDATE messages m SET status = 'pending', due_at = :now, released_at = NULL, forgiven = m.attempts,
            code = NULL, reason = NULL, http_status = NULL, gs_id = NULL, wamid = NULL, matched_by = NULL,
            accepted_at = NULL, enqueued_at = NULL, sent_at = NULL, failed_at = NULL
        FROM was WHERE m.id = was.id AND was.fate = 'retried'
        RETURNING m.campaign_id, 'failed' AS before, m.status),
    cancelled AS (
        UPDATE messages m SET status = 'cancelled', settled_at = :now
        FROM was WHERE m.id = was.id AND was.fate = 'cancelled'
        RETURNING m.campaign_id, 'failed' AS before, m.status),
    changed AS (SELECT * FROM put_back UNION ALL SELECT * FROM cancelled),
    {DELTAS_OF_CHANGED}
    SELECT fate, count(*) FROM was GROUP BY fate""")
_REOPEN = text("""
    UPDATE campaigns SET state = 'running', finished_at = NULL
    WHERE state = 'finished' AND id IN (
        SELECT campaign_id FROM messages WHERE id = ANY(:ids) AND status = 'pending')""")


def hold_what_ends(session: Session, ids: Sequence[int]) -> None:
    """Let a payment or a purchase that is just being noted wait for who sends these messages again, and he for it.

    It sees messages that do not wait, which it cannot cancel.
    """
    session.execute(_HOLD_CHARGES, {"ids": ids})
    session.execute(_HOLD_REMINDERS, {"ids": ids})


@dataclass(slots=True)
class Retry:
    """A person's wish to have failed messages of a campaign sent again, done in pages."""

    campaign_id: int
    name: str
    codes: list[str]
    #: What had failed when it was begun, and by which claim: what fails again meanwhile is not put back again.
    ids: list[int]
    claims: list[int]
    actor: str | None = None
    why: str | None = None
    #: How many have become what: ``retried``, ``too_late``, ``delivered``, ``cancelled``, ``changed``.
    done: Tally[str] = field(default_factory=Tally)
    #: How many of ``ids`` are done, and the action that says so.
    at: int = 0
    action_id: int | None = None


def begin(
    session: Session,
    campaign: Campaign,
    codes: Sequence[str],
    *,
    actor: str | None = None,
    why: str | None = None,
    table: Table = TABLE,
) -> Retry:
    """Look which messages of a campaign failed with ``codes``; nothing changes yet.

    Raises:
      ConflictError: Its state forbids it, or a code does not say that the message was not sent.
      NotFoundError: No message failed with these codes; says which there are.
    """
    if campaign.state in (CampaignState.CANCELLED, CampaignState.IMPORTING, CampaignState.DRAFT):
        because = (
            "was cancelled, so nothing more of it is sent"
            if campaign.state == CampaignState.CANCELLED
            else f"is {campaign.state}, so nothing of it has failed"
        )
        raise ConflictError(f"{campaign.name} {because}; nothing was retried")
    for code in codes:
        if may_have_been_sent(code, table):
            raise ConflictError(
                f"a message that ended with {code} may have been sent, so it is not retried. Ask its recipient; "
                "then send it as a new message under another key. Unknown messages are decided with "
                f"`disparo campaign resolve {shown(campaign.name)}`"
            )
    found = session.execute(
        text("""
            SELECT coalesce(array_agg(id ORDER BY id), '{}') AS ids,
                coalesce(array_agg(claims ORDER BY id), '{}') AS claims
            FROM messages
            WHERE campaign_id = :id AND status = 'failed' AND code = ANY(:codes) AND moved_to IS NULL"""),
        {"id": campaign.id, "codes": list(codes)},
    ).one()
    if not found.ids:
        there = ", ".join(
            f"{one['code']} ({one['count']:,})" for one in progress.failures(session, campaign.id)
        )
        raise NotFoundError(
            f"no message of {campaign.name} failed with {' or '.join(codes)}; "
            + (f"there failed with: {there}" if there else "none failed at all")
        )
    ids, claims = found
    return Retry(campaign.id, campaign.name, sorted(set(codes)), ids, claims, actor, why)


def next_page(session: Session, retry: Retry, now: datetime, *, page: int = PAGE) -> bool:
    """Put a page of the messages back, due now; False when none was left. The caller commits each page.

    A message that is not failed any more, or by a later claim, stays as it is. A finished campaign runs again
    with the first message that waits; a paused one stays paused. Killed between two pages, the same command
    does the rest.

    Raises:
      ConflictError: The campaign was cancelled meanwhile.
    """
    ids = retry.ids[retry.at : retry.at + page]
    if not ids:
        return False
    claims = retry.claims[retry.at : retry.at + page]
    session.execute(_LOCK_CAMPAIGNS, {"ids": ids})
    locked = session.scalars(_LOCK, {"ids": ids, "claims": claims, "codes": retry.codes}).all()
    fates = _put_back(session, locked, now)
    if "campaign_cancelled" in fates:
        raise ConflictError(
            f"{retry.name} was cancelled meanwhile, so nothing more of it is sent; "
            f"{retry.done['retried']:,} messages had been put back and are cancelled with it"
        )
    fates["changed"] = len(ids) - len(locked)
    retry.done.update(fates)
    retry.at += len(ids)
    if retry.done["retried"] or retry.done["cancelled"]:
        told = {name: retry.done[name] for name in ("too_late", "cancelled") if retry.done[name]}
        retry.action_id = record_progress(
            session,
            retry.action_id,
            "retry",
            f"campaign:{retry.name}",
            actor=retry.actor,
            why=retry.why,
            codes=retry.codes,
            messages=retry.done["retried"],
            **told,
        )
    return True


def failed_by(session: Session, stops: Sequence[Stop], *, table: Table = TABLE) -> list[tuple[str, str, int]]:
    """What `retry_failed_by` would put back of campaigns: (campaign, code, how many), most first."""
    rows = session.execute(
        text("""
            SELECT c.name, m.code, count(*) AS n FROM messages m JOIN campaigns c ON c.id = m.campaign_id
            WHERE m.id = ANY(:ids) GROUP BY c.name, m.code ORDER BY n DESC, c.name"""),
        {"ids": _failed_ids(session, stops, table)},
    )
    return [(name, code, n) for name, code, n in rows]


def retry_failed_by(session: Session, stops: Sequence[Stop], now: datetime, *, table: Table = TABLE) -> int:
    """Put back the messages that were spent on the faults of these stops since each began; how many.

    A stop has the code of its last refusal; those of other faults of its width, before it, were spent on it too.
    """
    ids = _failed_ids(session, stops, table)
    session.execute(_LOCK_CAMPAIGNS, {"ids": ids})
    total = 0
    for at in range(0, len(ids), PAGE):
        locked = session.scalars(_LOCK_FAILED, {"ids": ids[at : at + PAGE]}).all()
        total += _put_back(session, locked, now)["retried"]
    return total


def _failed_ids(session: Session, stops: Sequence[Stop], table: Table) -> list[int]:
    return sorted({message_id for stop in stops for message_id in _failed_by(session, stop, table)})


def _failed_by(session: Session, stop: Stop, table: Table) -> Sequence[int]:
    values = {
        "app_id": stop.app_id,
        "stop_id": stop.id,
        "scope": stop.scope,
        "key": stop.key,
        "message_id": stop.message_id,
        # Failures carry the clock of their worker, which may lag behind the database's own.
        "since": stop.since - CLOCK_SLACK,
    }
    if table.lookup(stop.code).mismatch:
        codes = [rule.code for rule in table.rules if rule.mismatch]
        return session.scalars(_FAILED_FIRST, values | {"codes": codes}).all()
    codes = [
        code
        for code, http_status in session.execute(_CODES, values).all()
        if code == stop.code or _stops(table.lookup(code, http_status), stop.scope)
    ]
    return session.scalars(_FAILED_BY, values | {"codes": codes}).all()


def _stops(rule: Rule, scope: str) -> bool:
    """Whether a refusal by this row stops so much."""
    if scope == "template":
        return rule.verdict is Verdict.TEMPLATE_STOP
    return rule.verdict is Verdict.SENDER_STOP and (rule.scope == "lane") == (scope == "lane")


def _put_back(session: Session, ids: Sequence[int], now: datetime) -> Tally[str]:
    """What became of these failed messages, which are locked behind their campaigns."""
    if not ids:
        return Tally()
    hold_what_ends(session, ids)
    fates = Tally({fate: int(n) for fate, n in session.execute(_PUT_BACK, {"ids": ids, "now": now})})
    session.execute(_REOPEN, {"ids": ids})
    return fates


def may_have_been_sent(code: str, table: Table = TABLE) -> bool:
    """Whether a message that ended with ``code`` may have reached its recipient."""
    return code == GIVEN_UP or table.lookup(code).verdict is Verdict.UNKNOWN


def worth_retrying(failures: list[dict[str, Any]], table: Table = TABLE) -> list[dict[str, Any]]:
    """Of a campaign's failures (`progress.failures`) those by a fault that is mended or passes by itself.

    What failed for its own recipient or content would fail again.
    """
    return [one for one in failures if one["code"] and table.lookup(one["code"]).verdict in _MENDED]


def shown(name: str) -> str:
    """A campaign's name as it is typed behind a command."""
    return f"'{name}'" if " " in name else name
