"""Messages of which nobody knows whether they were accepted: what proves it, and who decides it.

A message leaves ``unknown`` by a status of the provider that is surely its own (`resolve_by_provider_id`,
`resolve_by_callback_data`), by one that can only be its own (`adopt`), by a person (`decide`) or by its
campaign's ``on_unknown: resend`` (`resend_unknowns`). A late answer of its own claim is `disparo.batches.record`'s.

All of them look at the row under its lock, so that of two that come at once the second finds it decided.
"""

import hashlib
import re
from collections import Counter as Tally
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from uuid import UUID

from sqlalchemy import TextClause, text
from sqlalchemy.orm import Session

from disparo import actions, retries
from disparo.batches import PAID_OR_BOUGHT
from disparo.campaigns import ATTEMPTS_OF_UNKNOWN, RESENT_BY_ITSELF
from disparo.counters import DELTAS_OF_CHANGED
from disparo.errors import ConflictError
from disparo.fence import RESTORED
from disparo.models import Campaign
from disparo.recovery import LEASE, LEASE_EXPIRED
from disparo.retries import GIVEN_UP
from disparo.statuses import ACCEPTED_OR_FURTHER, CampaignState, Status
from disparo.whatsapp.codes import TABLE, Table

#: A message may adopt a status when its attempt began at most this long before the status,
ADOPTION_LOOKBACK = timedelta(minutes=10)
#: and the status has fitted no message for this long: its own may be recorded later than it comes.
ADOPTION_WAIT = timedelta(minutes=1)
#: The provider gives whole seconds, by another clock than ours.
EVENT_SLACK = timedelta(seconds=2)
#: A webhook that can still explain a message comes within this: what adoption needs, and some minutes of delay.
WEBHOOK_WINDOW = timedelta(minutes=15)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ACCEPTED_OR_FURTHER = ", ".join(f"'{status}'" for status in ACCEPTED_OR_FURTHER)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a status of the provider proves of a message."""

    #: accepted, enqueued, sent, delivered, read or failed.
    status: Status
    #: The provider's instant of it.
    at: datetime
    gs_id: str | None = None
    wamid: str | None = None
    #: Why it failed: the provider's code, and its words, cut and redacted.
    code: str | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        if self.status not in (*ACCEPTED_OR_FURTHER, Status.FAILED):
            raise ValueError(f"{self.status} is no status that the provider reports")


@dataclass(frozen=True, slots=True)
class Attempt:
    """Which attempt of a message is meant: its claim, and when that was made."""

    claim: int
    claimed_at: datetime


#: An attempt before the present one, whichever: no claim has its number.
EARLIER = Attempt(0, datetime(1970, 1, 1, tzinfo=UTC))


class Result(StrEnum):
    """What a status came to."""

    RESOLVED = "resolved"  #: the unknown message took it
    OTHER_ATTEMPT = "other_attempt"  #: it is of another attempt than the one in doubt, which stays unknown
    NOT_UNKNOWN = "not_unknown"  #: one message fits, and it is not unknown: to be folded in as usual
    NO_MATCH = "no_match"  #: no message fits
    AMBIGUOUS = "ambiguous"  #: several may be meant; none took it
    TOO_SOON = "too_soon"  #: it may yet fit another message; to be asked again later


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a status came to, and of which message."""

    result: Result
    message_id: int | None = None
    #: The attempt that the status names. Only a ``delivered`` or ``read`` counts for another one, so compare it
    #: with ``claims`` and ``claimed_at`` of the locked row; None: it names none.
    attempt: Attempt | None = None
    #: What a person does about a failure.
    hint: str = ""


class Decision(StrEnum):
    """What a person says of unknown messages."""

    SENT = "sent"  #: they were accepted
    RESEND = "resend"  #: send them again, whatever became of them
    GIVE_UP = "give_up"  #: do not send them again, whatever became of them


# -- what is echoed by the provider ----------------------------------------------------------------------

_CALLBACK_DATA = re.compile(
    r"disparo1\.(?P<id>[0-9]{1,18})\.(?P<claim>[0-9]{1,9})\.(?P<claimed_at>[0-9]{1,16})\.(?P<proof>[0-9a-f]{16})"
)


@dataclass(frozen=True, slots=True)
class CallbackData:
    """What a text of `callback_data` says."""

    message_id: int
    attempt: Attempt
    proof: str


def callback_data(installation_id: UUID, message_id: int, created_at: datetime, attempt: Attempt) -> str:
    """A text for the provider to echo with each status: which message and which attempt, at most 74 characters.

    After a restored backup ids and claims may come again. So the text carries what cannot: the instant of the
    claim, and a proof (keyed by the random id of the installation) of when the row was made. A row of the same
    id that was made since has another proof. A row that was in the backup has the same one, rightly: it is the
    same message, and only an attempt that was claimed at that very instant is the same attempt.

    Args:
      created_at: The row's.
    """
    proof = _proof(installation_id, message_id, created_at)
    return f"disparo1.{message_id}.{attempt.claim}.{_microseconds(attempt.claimed_at)}.{proof}"


def parse_callback_data(data: str) -> CallbackData | None:
    """What ``data`` says; None when it is not of `callback_data`: others may use the field too."""
    match = _CALLBACK_DATA.fullmatch(data)
    if match is None:
        return None
    claimed_at = _EPOCH + timedelta(microseconds=int(match["claimed_at"]))
    return CallbackData(int(match["id"]), Attempt(int(match["claim"]), claimed_at), match["proof"])


def _proof(installation_id: UUID, message_id: int, created_at: datetime) -> str:
    row = f"{message_id}.{_microseconds(created_at)}".encode()
    return hashlib.blake2s(row, key=installation_id.bytes, digest_size=8).hexdigest()


def _microseconds(instant: datetime) -> int:
    return (instant - _EPOCH) // timedelta(microseconds=1)


# -- by a status of the provider -------------------------------------------------------------------------


def resolve_by_provider_id(
    session: Session,
    app_id: int,
    provider_id: str,
    evidence: Evidence,
    now: datetime,
    *,
    table: Table = TABLE,
) -> Resolution:
    """Let the unknown message of an app that has this gs_id or wamid take the evidence.

    An id comes with an answer, and the attempt in doubt had none: the id is that of an earlier attempt. So
    ``delivered`` and ``read`` resolve the message, a ``failed`` proves nothing, and the others are noted. The id of
    an attempt that failed and was tried anew is known by its record, and names no later attempt.

    A stand-in may answer every request with one id; what fits several messages resolves none.
    """
    rows = session.execute(
        text("""
            SELECT id, status, bool_and(earlier) AS earlier FROM (
                SELECT id, status, false AS earlier FROM messages WHERE app_id = :app_id AND gs_id = :provider_id
                UNION ALL
                SELECT id, status, false FROM messages WHERE app_id = :app_id AND wamid = :provider_id
                UNION ALL
                SELECT m.id, m.status, true FROM send_errors e JOIN messages m ON m.id = e.message_id
                WHERE m.app_id = :app_id AND e.gs_id = :provider_id
                UNION ALL
                SELECT m.id, m.status, true FROM send_errors e JOIN messages m ON m.id = e.message_id
                WHERE m.app_id = :app_id AND e.wamid = :provider_id) AS found
            GROUP BY id, status LIMIT 2"""),
        {"app_id": app_id, "provider_id": provider_id},
    ).all()
    if len(rows) != 1:
        return Resolution(Result.AMBIGUOUS if rows else Result.NO_MATCH)
    if rows[0].status != Status.UNKNOWN:
        return Resolution(Result.NOT_UNKNOWN, rows[0].id, EARLIER if rows[0].earlier else None)
    return _take(session, rows[0].id, None, evidence, now, "webhook", table)


def resolve_by_callback_data(
    session: Session, app_id: int, data: str, evidence: Evidence, now: datetime, *, table: Table = TABLE
) -> Resolution:
    """Let the unknown message of an app that ``data`` (see `callback_data`) names take the evidence.

    Evidence of the attempt in doubt resolves it. Of another attempt only ``delivered`` and ``read`` do: that one
    may have been reported failed since.
    """
    named = parse_callback_data(data)
    if named is None:
        return Resolution(Result.NO_MATCH)
    row = session.execute(
        text("""
            SELECT m.status, m.created_at, i.id AS installation_id FROM messages m CROSS JOIN installation i
            WHERE m.id = :id AND m.app_id = :app_id"""),
        {"id": named.message_id, "app_id": app_id},
    ).one_or_none()
    if row is None or _proof(row.installation_id, named.message_id, row.created_at) != named.proof:
        return Resolution(Result.NO_MATCH)
    if row.status != Status.UNKNOWN:
        return Resolution(Result.NOT_UNKNOWN, named.message_id, named.attempt)
    return _take(session, named.message_id, named.attempt, evidence, now, "webhook", table)


# A row of the recipient stands in the way when the status may as well be its own. What was not claimed since the
# lookback began is not concerned.
_NEAR = text(f"""
    SELECT id, claims, claimed_at, fits, earlier FROM (
        SELECT m.id, m.claims, m.claimed_at, coalesce(e.earlier, false) AS earlier,
            m.status = 'unknown' AND NOT restored AND m.claimed_at <= :until AS fits,
            -- When its attempts were made, the backup does not know.
            (m.status = 'unknown' AND restored)
            -- It was resent, and the attempt before had no answer.
            OR e.earlier
            OR (m.claimed_at <= :until AND CASE
                -- Its answer is not recorded yet.
                WHEN m.status = 'sending' THEN true
                -- It may have no id to tell its own statuses by.
                WHEN m.status IN ({_ACCEPTED_OR_FURTHER}) THEN m.gs_id IS NULL OR (
                    CAST(:gs_id AS text) IS NULL AND (m.wamid IS NULL OR CAST(:wamid AS text) IS NULL))
                -- It was unknown, and is given up, resent or expired.
                ELSE e.last END) AS rival
        FROM messages m
        CROSS JOIN LATERAL (
            SELECT m.claimed_at IS NULL OR coalesce(m.code, '') = '{RESTORED}') AS r (restored)
        CROSS JOIN LATERAL (
            SELECT bool_or(at < m.claimed_at), bool_or(at >= m.claimed_at) FROM send_errors
            WHERE message_id = m.id AND verdict = 'unknown' AND at >= :since) AS e (earlier, last)
        WHERE m.app_id = :app_id AND m.recipient_key = :recipient_key
            AND (m.claimed_at >= :since OR (m.status = 'unknown' AND restored))) AS near
    WHERE fits OR rival""")


def adopt(
    session: Session,
    app_id: int,
    recipient_key: str,
    evidence: Evidence,
    unmatched_since: datetime,
    now: datetime,
    *,
    adopts_statuses: bool,
    table: Table = TABLE,
) -> Resolution:
    """Let the one unknown message of a recipient take a status that fits no message by an id or its callback data.

    Only the single unknown of that app and recipient whose attempt began within `ADOPTION_LOOKBACK` before the
    status, and only when no other message of the recipient may be meant: one that is being sent, that was
    accepted without an id, or that has left ``unknown`` without one (resent, given up).

    Args:
      recipient_key: Of the status's recipient, as `disparo.phone` gives it.
      unmatched_since: Since when the status has fitted no message.
      adopts_statuses: Nothing else sends through the app. Otherwise the status may be of a message that is
        not ours.
    """
    if not adopts_statuses:
        return Resolution(Result.NO_MATCH)
    if now - unmatched_since < ADOPTION_WAIT:
        return Resolution(Result.TOO_SOON)
    near = session.execute(
        _NEAR,
        {
            "app_id": app_id,
            "recipient_key": recipient_key,
            "gs_id": evidence.gs_id,
            "wamid": evidence.wamid,
            "since": evidence.at - ADOPTION_LOOKBACK,
            "until": evidence.at + EVENT_SLACK,
        },
    ).all()
    # After the look: a message that was recorded in between is in the way there, or has its id here.
    for provider_id in filter(None, (evidence.gs_id, evidence.wamid)):
        known = resolve_by_provider_id(session, app_id, provider_id, evidence, now, table=table)
        if known.result is not Result.NO_MATCH:
            return known
    if not any(row.fits for row in near):
        return Resolution(Result.NO_MATCH)
    if len(near) > 1:
        return Resolution(Result.AMBIGUOUS)
    row = near[0]
    # Of two attempts without an answer nobody knows which is meant.
    attempt = None if row.earlier else Attempt(row.claims, row.claimed_at)
    return _take(session, row.id, attempt, evidence, now, "recipient", table)


_INSTANTS = ", ".join(
    f"{status}_at = CASE WHEN :status = '{status}' THEN least(m.{status}_at, :at) ELSE m.{status}_at END"
    for status in ACCEPTED_OR_FURTHER
)
# The ids of another attempt are not those of the one in doubt, whose statuses are still to come.
_TAKE = text(f"""
    WITH was AS (
        SELECT id, coalesce(claims = :claim AND claimed_at = :claimed_at, false) AS own
        FROM messages WHERE id = :id AND status = 'unknown' FOR UPDATE),
    took AS (SELECT id, own, own OR :status IN ('delivered', 'read') AS settled FROM was),
    changed AS (
        UPDATE messages m SET
            status = CASE WHEN settled THEN :status ELSE m.status END,
            attempts = CASE WHEN settled THEN {ATTEMPTS_OF_UNKNOWN} ELSE m.attempts END,
            gs_id = CASE WHEN own THEN :gs_id WHEN settled THEN coalesce(m.gs_id, :gs_id) ELSE m.gs_id END,
            wamid = CASE WHEN own THEN :wamid WHEN settled THEN coalesce(m.wamid, :wamid) ELSE m.wamid END,
            code = CASE WHEN settled THEN :code ELSE m.code END,
            reason = CASE WHEN settled THEN :reason ELSE m.reason END,
            {_INSTANTS},
            failed_at = CASE WHEN settled AND :status = 'failed' THEN :at ELSE m.failed_at END,
            settled_at = CASE WHEN NOT settled THEN m.settled_at END,
            matched_by = CASE WHEN settled THEN :matched_by ELSE m.matched_by END
        FROM took WHERE m.id = took.id
        RETURNING m.campaign_id, 'unknown' AS before, m.status),
    {DELTAS_OF_CHANGED}
    SELECT status FROM changed""")


def _take(
    session: Session,
    message_id: int,
    attempt: Attempt | None,
    evidence: Evidence,
    now: datetime,
    matched_by: str,
    table: Table,
) -> Resolution:
    """Resolve a message by evidence of ``attempt`` (None: of one that is not the last), if it is unknown still."""
    code, reason, hint = None, None, ""
    if evidence.status is Status.FAILED:
        rule = table.lookup(evidence.code or "")
        code, reason, hint = evidence.code or rule.code, evidence.reason or rule.sentence, rule.hint
    status = session.execute(
        _TAKE,
        {
            "id": message_id,
            "claim": attempt.claim if attempt else None,
            "claimed_at": attempt.claimed_at if attempt else None,
            "status": evidence.status.value,
            # The provider's clock may be ahead.
            "at": min(evidence.at, now),
            "gs_id": evidence.gs_id,
            "wamid": evidence.wamid,
            "code": code,
            "reason": reason,
            "matched_by": matched_by,
        },
    ).scalar()
    if status is None:
        return Resolution(Result.NOT_UNKNOWN, message_id, attempt)
    if status == Status.UNKNOWN:
        return Resolution(Result.OTHER_ATTEMPT, message_id, attempt)
    return Resolution(Result.RESOLVED, message_id, attempt, hint)


# -- by a person, or by the campaign -----------------------------------------------------------------------


def _becomes(status: str, columns: str) -> TextClause:
    """A statement by which the unknown messages ``ids``, locked before, become ``status`` with these columns."""
    return text(f"""
        WITH was AS (
            SELECT m.id, {status} AS becomes FROM messages m WHERE m.id = ANY(:ids) AND m.status = 'unknown'),
        changed AS (
            UPDATE messages m SET status = becomes, attempts = {ATTEMPTS_OF_UNKNOWN}, {columns}
            FROM was WHERE m.id = was.id
            RETURNING m.campaign_id, 'unknown' AS before, m.status),
        {DELTAS_OF_CHANGED}
        SELECT status, count(*) FROM changed GROUP BY status""")


_SENT = _becomes(
    "'accepted'",
    """accepted_at = least(m.accepted_at, :now), code = NULL, reason = :reason, settled_at = NULL,
       matched_by = 'operator'""",
)
_GIVEN_UP = _becomes(
    "'failed'",
    f"failed_at = :now, code = '{GIVEN_UP}', reason = :reason, settled_at = NULL, matched_by = 'operator'",
)
# What a payment, a purchase or the time would have stopped, had it waited, is not sent. A late answer of the old
# claim counts for nothing: the message is not being sent, and its next claim has another number.
_RESENT_COLUMNS = """due_at = CASE WHEN becomes = 'pending' THEN :now ELSE m.due_at END,
    code = CASE WHEN becomes <> 'pending' THEN m.code END,
    reason = CASE WHEN becomes <> 'pending' THEN m.reason END,
    http_status = CASE WHEN becomes <> 'pending' THEN m.http_status END,
    settled_at = CASE WHEN becomes <> 'pending' THEN :now END,
    matched_by = CASE WHEN becomes <> 'pending' THEN 'operator' END"""
_RESENT_BECOMES = f"""CASE WHEN {PAID_OR_BOUGHT} THEN 'cancelled'
    WHEN m.not_after <= :now THEN 'expired' ELSE 'pending' END"""
_RESENT = _becomes(_RESENT_BECOMES, _RESENT_COLUMNS)
# A person begins its tries anew.
_RESENT_BY_A_PERSON = _becomes(_RESENT_BECOMES, f"forgiven = {ATTEMPTS_OF_UNKNOWN}, {_RESENT_COLUMNS}")

_DECIDED = ("accepted", "pending", "failed", "expired", "cancelled")


def decide(
    session: Session,
    which: Campaign | Sequence[int],
    decision: Decision,
    *,
    actor: str | None = None,
    why: str | None = None,
    now: datetime,
    claims: Sequence[int] | None = None,
    noted: bool = False,
) -> dict[str, int]:
    """Settle unknown messages as a person says: all of a campaign, or those of these ids.

    ``sent`` makes them ``accepted``; ``give_up`` makes them ``failed`` with code ``given_up``. ``resend`` makes
    them ``pending`` and due now, in the payment lane too; but ``expired`` when it is too late for them, and
    ``cancelled`` when the customer has paid or bought meanwhile. A late answer of the old claim is not recorded
    any more. A message that is not unknown, or not any more, stays as it is.

    Args:
      actor: Who decides, by default the OS user.
      claims: Of each id the claim by which it was unknown when the person decided; a later one is not meant.
      noted: The caller keeps who did it and why (`disparo.decisions` does so once for all its pages).

    Returns:
      How many became ``accepted``, ``pending``, ``failed``, ``expired``, ``cancelled``; how many of the ids were
      ``not_unknown``.

    Raises:
      ConflictError: For ``resend``: a worker may still be at one of them, or its campaign was cancelled.
        Nothing was decided then.
    """
    actor = actor or actions.operator()
    column, ids = ("campaign_id", {which.id}) if isinstance(which, Campaign) else ("id", set(which))
    found = session.execute(
        text(f"""
            SELECT m.id, m.claims, c.name AS campaign, c.state,
                coalesce(m.code = :lease_expired AND m.claimed_at > :begun, false) AS in_lease
            FROM messages m LEFT JOIN campaigns c ON c.id = m.campaign_id
            WHERE m.{column} = ANY(:ids) AND m.status = 'unknown' ORDER BY m.id FOR UPDATE OF m"""),
        {"lease_expired": LEASE_EXPIRED, "begun": now - LEASE, "ids": sorted(ids)},
    ).all()
    meant = None if claims is None or isinstance(which, Campaign) else set(zip(which, claims, strict=True))
    rows = [row for row in found if meant is None or (row.id, row.claims) in meant]
    values: dict[str, object] = {"ids": [row.id for row in rows], "now": now}
    match decision:
        case Decision.SENT:
            statement, values["reason"] = _SENT, _said("taken as sent", actor, why)
        case Decision.GIVE_UP:
            statement, values["reason"] = _GIVEN_UP, _said("given up", actor, why)
        case Decision.RESEND:
            cancelled = (row.campaign for row in rows if row.state == CampaignState.CANCELLED)
            _refuse(sum(row.in_lease for row in rows), next(cancelled, None))
            retries.hold_what_ends(session, [row.id for row in rows])
            statement = _RESENT_BY_A_PERSON
    settled = session.execute(statement, values).all()
    subjects = Tally(f"campaign:{row.campaign}" if row.campaign else f"message:{row.id}" for row in rows)
    for subject, n in () if noted else subjects.items():
        actions.record_action(
            session, "resolve", subject, actor=actor, why=why, decision=decision.value, messages=n
        )
    session.flush()
    counts = dict.fromkeys(_DECIDED, 0) | {status: int(n) for status, n in settled}
    return counts | {"not_unknown": len(ids) - len(rows) if column == "id" else 0}


def refuse_resend(session: Session, ids: Sequence[int], now: datetime) -> None:
    """Return when these unknown messages may be sent again, as far as can be seen before the first is.

    Raises:
      ConflictError: See `decide`.
    """
    found = session.execute(
        text("""
            SELECT count(*) FILTER (WHERE m.code = :lease_expired AND m.claimed_at > :begun) AS in_lease,
                min(c.name) FILTER (WHERE c.state = 'cancelled') AS cancelled
            FROM messages m LEFT JOIN campaigns c ON c.id = m.campaign_id
            WHERE m.id = ANY(:ids) AND m.status = 'unknown'"""),
        {"lease_expired": LEASE_EXPIRED, "begun": now - LEASE, "ids": ids},
    ).one()
    _refuse(found.in_lease, found.cancelled)


def _refuse(in_lease: int, cancelled: str | None) -> None:
    if in_lease:
        raise ConflictError(
            f"{in_lease:,} of these messages were claimed less than {LEASE.total_seconds():.0f} s ago, so their "
            "worker may still be sending them; nothing was decided. Try again in two minutes"
        )
    if cancelled is not None:
        raise ConflictError(
            f"{cancelled} was cancelled, so nothing more of it is sent; nothing was decided. Say that its messages "
            "were sent, or give them up"
        )


def _said(what: str, actor: str, why: str | None) -> str:
    return f"{what} by {actor}" + (f": {why}" if why else "")


def resend_unknowns(session: Session, now: datetime, *, page: int = 1_000) -> int:
    """Let a page of unknown messages be sent again whose campaign says ``on_unknown: resend``; how many.

    Only when no webhook can explain them any more and the lease of their claim is over; while the campaign runs,
    up to `disparo.campaigns.RESEND_ATTEMPTS` attempts in all, never past ``not_after`` and never in the payment
    lane. The others are held for a person. Two callers never take the same message.
    """
    rows = session.execute(
        text(f"""
            SELECT m.id, c.name AS campaign
            FROM campaigns c JOIN messages m ON m.campaign_id = c.id AND m.status = 'unknown'
            WHERE {RESENT_BY_ITSELF} AND m.settled_at <= :before AND m.claimed_at <= :before
            LIMIT :page FOR UPDATE OF m SKIP LOCKED"""),
        {"now": now, "before": now - max(LEASE, WEBHOOK_WINDOW), "page": page},
    ).all()
    if rows:
        session.execute(_RESENT, {"ids": [row.id for row in rows], "now": now})
    for campaign, n in Tally(row.campaign for row in rows).items():
        actions.record_action(
            session, "resend", f"campaign:{campaign}", actor="disparo", why="on_unknown: resend", messages=n
        )
    session.flush()
    return len(rows)
