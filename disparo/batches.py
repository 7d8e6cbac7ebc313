"""What a job in the queue names, what a worker claims of it, and what it records."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, TextClause, text
from sqlalchemy.orm import Session

from disparo import portfolios, suppressions
from disparo.counters import DELTAS_OF_CHANGED
from disparo.statuses import Lane, Status

#: A job that nobody has taken rows of for so long is given out again.
SILENT_AFTER = timedelta(seconds=60)
#: A worker that was not seen for so long is not counted on.
ALIVE_WITHIN = timedelta(seconds=7)
#: Rows of one job at most.
JOB_ROWS = 500


def _not_stopped(row: str, template: str, unless: str = "") -> str:
    """SQL: no stop is in force for the app, the lane or the template of ``row``."""
    return f"""NOT EXISTS (
        SELECT 1 FROM stops s WHERE s.app_id = {row}.app_id AND s.ended_at IS NULL AND (
            s.scope = 'app' OR (s.scope = 'lane' AND s.key = {row}.lane)
            OR (s.scope = 'template' AND s.key = {template})) {unless})"""


#: SQL: message ``m`` of campaign ``c``, the campaign itself, a single message: no stop is in force for it. A stop lets
#: its probe through.
MESSAGE_MAY_GO = _not_stopped(
    "m", "coalesce(m.template, c.template)", "AND s.probe_message_id IS DISTINCT FROM m.id"
)
CAMPAIGN_MAY_GO = _not_stopped("c", "c.template")
SINGLE_MAY_GO = _not_stopped("m", "m.template", "AND s.probe_message_id IS DISTINCT FROM m.id")
#: SQL: the customer has paid, or bought, what message ``m`` is about.
PAID_OR_BOUGHT = """(EXISTS (
        SELECT 1 FROM pix_charges p WHERE p.app_id = m.app_id AND p.reference = m.key
            AND p.message_id = m.id AND p.paid_at IS NOT NULL)
    OR m.campaign_id IS NULL AND EXISTS (
        SELECT 1 FROM reminders r WHERE r.message_id = m.id AND r.converted_at IS NOT NULL))"""


def takes(lane: str) -> str:
    """SQL: worker ``w`` takes what the scheduler names of a lane from its queue."""
    queue = f"CASE WHEN {lane} = 'payment' THEN 'urgent' ELSE 'bulk' END"
    return f"(w.queues = '' OR {queue} = ANY (string_to_array(w.queues, ',')))"


def is_worked_on(lane: str) -> str:
    """SQL: a worker lives, seen after ``:alive``, that takes what is named of a lane."""
    return f"EXISTS (SELECT 1 FROM workers w WHERE w.seen_at > :alive AND {takes(lane)})"


@dataclass(frozen=True, slots=True)
class Job:
    """What a job in the queue names: a batch (``batch_id``) or messages by their ids, of one app, lane and campaign."""

    app_id: int
    lane: str
    batch_id: int | None = None
    message_ids: tuple[int, ...] = ()
    size: int = 1
    #: Its one message may leave under a stop, to see whether the fault is over.
    probe: bool = False
    #: None: single messages, which take their turn together as one campaign of weight 1.
    campaign_id: int | None = None
    weight: int = 1
    #: Messages per second of its campaign at most.
    max_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """A row that this process, and no other, may send once."""

    id: int
    claim: int
    app_id: int
    lane: str
    campaign_id: int | None
    template: str | None
    recipient: str
    #: Attempts that count against its tries.
    tries: int
    #: Which content of its campaign it is sent with.
    version: int | None
    #: The row's columns (campaign) or the whole content for the wire, as JSON text.
    params: str | None
    content: str | None
    #: What its recipient is compared by.
    recipient_key: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attempt came to."""

    message_id: int
    claim: int
    status: Status
    #: Whether it counts as an attempt; a throttle and a row put back do not.
    spent: bool = False
    verdict: str = ""
    gs_id: str | None = None
    wa_id: str | None = None
    code: str | None = None
    reason: str | None = None
    http_status: int | None = None
    #: Seconds until the next try, for `Status.PENDING`; without a verdict 0 leaves it due when it was.
    delay_seconds: float = 0.0


def take(session: Session, batch_ids: Sequence[int], holder: str, now: datetime) -> dict[int, Job]:
    """Hold batches that jobs named, but for those that are done, were handed back or are not there any more."""
    rows = session.execute(
        text("""
            UPDATE batches b SET holder = :holder, held_at = :now FROM campaigns c
            WHERE b.id IN (SELECT id FROM batches WHERE id = ANY(:ids) AND state = 'released' ORDER BY id FOR UPDATE)
                AND c.id = b.campaign_id
            RETURNING b.id, b.app_id, c.lane, b.size, c.id AS campaign_id, c.weight, c.max_per_second"""),
        {"ids": list(batch_ids), "holder": holder, "now": now},
    )
    return {
        row.id: Job(
            row.app_id,
            row.lane,
            batch_id=row.id,
            size=row.size,
            campaign_id=row.campaign_id,
            weight=row.weight,
            max_per_second=row.max_per_second,
        )
        for row in rows
    }


def take_messages(session: Session, app_id: int, message_ids: Sequence[int], holder: str) -> Job | None:
    """Hold messages that a job named by their ids, or None when none of them waits.

    Releases name those of one campaign together. Of several, as an older scheduler named them, they count as single.
    """
    rows = session.execute(
        text("""
            WITH held AS (
                UPDATE messages SET claimed_by = :holder
                WHERE id IN (
                    SELECT id FROM messages WHERE id = ANY(:ids) AND status = 'pending' ORDER BY id FOR UPDATE)
                RETURNING lane, campaign_id)
            SELECT DISTINCT held.lane, c.id AS campaign_id, c.weight, c.max_per_second,
                EXISTS (SELECT 1 FROM stops WHERE ended_at IS NULL AND probe_message_id = ANY(:ids)) AS probe
            FROM held LEFT JOIN campaigns c ON c.id = held.campaign_id"""),
        {"ids": list(message_ids), "holder": holder},
    ).all()
    if not rows:
        return None
    job = Job(
        app_id,
        min((row.lane for row in rows), key=lambda lane: Lane(lane).rank),
        message_ids=tuple(message_ids),
        size=len(message_ids),
        probe=rows[0].probe,
    )
    one = rows[0]
    if one.campaign_id is None or any(row.campaign_id != one.campaign_id for row in rows):
        return job
    return replace(job, campaign_id=one.campaign_id, weight=one.weight, max_per_second=one.max_per_second)


#: Held by each claim until its transaction is over, which may be after its worker died.
_LOCK_OF_OWNER = "hashtextextended(:owner, 0)"


def _claim_statement(asked: str, which: str, is_over: str, *, limited: bool = False) -> TextClause:
    """The claim of the rows ``which`` of each row of ``asked``.

    Of an app whose daily budget is limited, that with ``limited`` alone claims.
    """
    unless = "true" if limited else f"NOT {portfolios.is_limited('o.app_id')}"
    return text(f"""
        WITH asked AS MATERIALIZED (
            SELECT o.*, {unless} AS allowed
            FROM pg_advisory_xact_lock_shared({_LOCK_OF_OWNER}) CROSS JOIN ({asked}) AS o),
        picked AS (
            SELECT a.ask, one.*
            FROM asked a CROSS JOIN LATERAL (
                SELECT m.id, m.recipient_key, coalesce(m.template, c.template) AS its_template,
                    c.version AS its_version, {is_over} AS is_over, {suppressions.REASON} AS why_not
                FROM messages m LEFT JOIN campaigns c ON c.id = m.campaign_id
                WHERE a.allowed AND {which} AND m.app_id = a.app_id AND m.status = 'pending'
                    AND (m.due_at IS NULL OR m.due_at <= :now) AND (m.not_after IS NULL OR m.not_after > :now)
                    AND (c.id IS NULL OR (c.state = 'running' AND (c.not_after IS NULL OR c.not_after > :now)))
                    AND {MESSAGE_MAY_GO}
                ORDER BY m.id LIMIT a.n FOR UPDATE OF m SKIP LOCKED) AS one),
        {portfolios.FITTING + "," if limited else ""}
        claimed AS (
            UPDATE messages m SET status = 'sending', claimed_by = :owner, claimed_at = :now, claims = claims + 1,
                version = its_version
            FROM {"fitting AS picked" if limited else "picked"}
            WHERE m.id = picked.id AND NOT is_over AND why_not IS NULL {"AND fits" if limited else ""}
            RETURNING m.*, ask, its_template),
        {portfolios.COUNTING + "," if limited else ""}
        passed_over AS (
            UPDATE messages m SET status = CASE WHEN is_over THEN 'cancelled' ELSE 'suppressed' END, settled_at = :now,
                code = CASE WHEN is_over THEN m.code ELSE '{suppressions.CODE}' END,
                reason = CASE WHEN is_over THEN m.reason ELSE why_not END
            FROM picked WHERE m.id = picked.id AND (is_over OR why_not IS NOT NULL)
            RETURNING ask, m.campaign_id, m.status),
        changed AS (
            SELECT campaign_id, 'pending' AS before, status FROM claimed
            UNION ALL SELECT campaign_id, 'pending', status FROM passed_over),
        {DELTAS_OF_CHANGED}
        SELECT a.ask, a.allowed, (SELECT count(*) FROM passed_over p WHERE p.ask = a.ask) AS passed_over,
            m.id, claims, m.app_id, lane, m.campaign_id, its_template, recipient, attempts - forgiven, version,
            CAST(params AS text), CAST(content AS text), recipient_key
        FROM asked a LEFT JOIN claimed m ON m.ask = a.ask""")


# What nobody has claimed yet was cancelled with the payment itself.
_IDS = (
    "SELECT 0 AS ask, CAST(:app_id AS bigint) AS app_id, CAST(:limit AS bigint) AS n",
    "m.id = ANY(:ids)",
    f"m.claims > 0 AND {PAID_OR_BOUGHT}",
)
# What was put back is due by itself, and named by its id. A batch that was taken back is nobody's, whoever held it.
_BATCHES = (
    """SELECT o.nth - 1 AS ask, o.app_id, o.n, b.campaign_id, b.first_message_id, b.last_message_id
        FROM unnest(CAST(:app_ids AS bigint[]), CAST(:batch_ids AS bigint[]), CAST(:limits AS bigint[]))
            WITH ORDINALITY AS o (app_id, batch_id, n, nth)
        LEFT JOIN batches b ON b.id = o.batch_id AND b.state = 'released'""",
    """m.due_at IS NULL AND m.campaign_id = a.campaign_id
        AND m.id BETWEEN a.first_message_id AND a.last_message_id""",
    "false",
)
_CLAIM_IDS, _CLAIM_IDS_IN_BUDGET = _claim_statement(*_IDS), _claim_statement(*_IDS, limited=True)
_CLAIM_BATCHES, _CLAIM_BATCH_IN_BUDGET = (
    _claim_statement(*_BATCHES),
    _claim_statement(*_BATCHES, limited=True),
)


def claim(
    session: Session, job: Job, limit: int, owner: str, now: datetime, *, limited: bool = False
) -> list[Claimed]:
    """Claim up to ``limit`` rows of a job for ``owner``: in order, due, not expired, wanted.

    Rows on the way whose recipient must not be written to become ``suppressed``; those that were paid for, or whose
    cart was bought, while a worker had them become ``cancelled``. Of an app with a daily budget no more than that
    allows, counted in this transaction (`disparo.portfolios`). Two callers never get the same row. The caller
    commits before it sends; rows of an uncommitted claim are nobody's.

    Args:
      limited: The app is known to have a daily budget, so that this is not asked first.
    """
    statement = _CLAIM_IDS if job.batch_id is None else _CLAIM_BATCHES
    in_budget = _CLAIM_IDS_IN_BUDGET if job.batch_id is None else _CLAIM_BATCH_IN_BUDGET
    claimed: list[Claimed] = []
    passed_over = -1
    while passed_over and len(claimed) < limit:
        wanted = _values([(job, limit - len(claimed))], owner, now)
        budget = portfolios.budget(session, job.app_id, lock=True) if limited else None
        if budget is None:
            rows = session.execute(statement, wanted).all()
            # The statement itself says so, which also holds when the limit was set a moment ago.
            limited = not rows[0].allowed
            if limited:
                continue
        else:
            wanted |= {"portfolio_id": budget.portfolio_id, "room": budget.room}
            rows = session.execute(in_budget, wanted).all()
        passed_over = rows[0].passed_over
        claimed += [_claimed(row) for row in rows if row.id is not None]
    return sorted(claimed, key=lambda row: row.id)


def claim_batches(
    session: Session, asked: Sequence[tuple[Job, int]], owner: str, now: datetime
) -> list[list[Claimed] | None]:
    """`claim` for several batches in one statement; None for one whose app has a daily budget: it is claimed alone.

    Args:
      asked: Jobs that name batches, each with how many rows of it at most.
    """
    found: list[list[Claimed] | None] = [[] for _ in asked]
    left = list(range(len(asked)))
    while left:
        missing = {n: asked[n][1] - len(found[n] or ()) for n in left}
        rows = session.execute(
            _CLAIM_BATCHES, _values([(asked[n][0], missing[n]) for n in left], owner, now)
        ).all()
        again = set()
        for row in rows:
            n = left[row.ask]
            if not row.allowed:
                found[n] = None
            elif (rows_of := found[n]) is not None and row.id is not None:
                rows_of.append(_claimed(row))
            if row.passed_over:
                again.add(n)
        left = [n for n in left if n in again and len(found[n] or ()) < asked[n][1]]
    return [rows_of and sorted(rows_of, key=lambda row: row.id) for rows_of in found]


def _values(asked: Sequence[tuple[Job, int]], owner: str, now: datetime) -> dict[str, object]:
    """What a claim is asked for: of one job that names messages, or of several that name batches."""
    job, limit = asked[0]
    if job.batch_id is None:
        return {
            "owner": owner,
            "now": now,
            "app_id": job.app_id,
            "limit": limit,
            "ids": list(job.message_ids),
        }
    return {
        "owner": owner,
        "now": now,
        "app_ids": [job.app_id for job, _ in asked],
        "batch_ids": [job.batch_id for job, _ in asked],
        "limits": [limit for _, limit in asked],
    }


def _claimed(row: Row[*tuple[Any, ...]]) -> Claimed:
    return Claimed(*row[3:])


def is_claiming(session: Session, owner: str) -> bool:
    """Whether a claim of a worker is neither committed nor rolled back; the worker itself may be dead."""
    free = session.execute(text(f"SELECT pg_try_advisory_xact_lock({_LOCK_OF_OWNER})"), {"owner": owner})
    return not free.scalar_one()


def claimed_by(session: Session, owner: str) -> list[tuple[int, int, int]]:
    """The rows (app id, message id, claim) that a worker has claimed, by the table."""
    rows = session.execute(
        text("SELECT app_id, id, claims FROM messages WHERE status = 'sending' AND claimed_by = :owner"),
        {"owner": owner},
    )
    return [(app_id, message_id, claim) for app_id, message_id, claim in rows]


def hold_on(
    session: Session, holder: str, batch_ids: Sequence[int], now: datetime, message_ids: Sequence[int] = ()
) -> None:
    """Say that a worker is at work on these batches and messages, those of them that it still holds."""
    if batch_ids:
        session.execute(
            text("""
                UPDATE batches SET held_at = :now
                WHERE id = ANY(:ids) AND holder = :holder AND state = 'released'"""),
            {"ids": list(batch_ids), "holder": holder, "now": now},
        )
    if message_ids:
        # Seldom: the rate lets most of them leave before.
        session.execute(
            text("""
                UPDATE messages SET released_at = :now
                WHERE id = ANY(:ids) AND claimed_by = :holder AND status = 'pending' AND released_at < :before"""),
            {"ids": list(message_ids), "holder": holder, "now": now, "before": now - SILENT_AFTER / 3},
        )


def finish(session: Session, jobs: Sequence[Job], now: datetime) -> None:
    """Let go of jobs of which nothing can be claimed now.

    A batch is done when none of its rows waits for its turn; else (its campaign is paused, or a stop is in
    force) it waits to be named again. Rows that are put back later are due by themselves.
    """
    message_ids = [message_id for job in jobs for message_id in job.message_ids]
    # Messages before batches, as `claim` locks them.
    if message_ids:
        session.execute(
            text("""
                UPDATE messages SET released_at = NULL WHERE id IN (
                    SELECT id FROM messages WHERE id = ANY(:ids) AND status = 'pending' AND due_at <= :now
                    ORDER BY id FOR UPDATE)"""),
            {"ids": message_ids, "now": now},
        )
    batch_ids = [job.batch_id for job in jobs if job.batch_id is not None]
    if batch_ids:
        session.execute(
            text("""
                UPDATE batches b SET holder = NULL, state = CASE WHEN EXISTS (
                    SELECT 1 FROM messages m WHERE m.campaign_id = b.campaign_id
                        AND m.id BETWEEN b.first_message_id AND b.last_message_id
                        AND m.status = 'pending' AND m.due_at IS NULL) THEN 'waiting' ELSE 'done' END
                WHERE b.id IN (
                    SELECT id FROM batches WHERE id = ANY(:ids) AND state = 'released' ORDER BY id FOR UPDATE)"""),
            {"ids": batch_ids},
        )


def take_back(session: Session, campaign_ids: Sequence[int]) -> None:
    """Take batches of campaigns back from the queue and from who holds them; they wait to be named again."""
    if campaign_ids:
        session.execute(
            text("""
                UPDATE batches SET state = 'waiting', holder = NULL
                WHERE state = 'released' AND campaign_id = ANY(:ids)"""),
            {"ids": list(campaign_ids)},
        )


def hand_back(session: Session, batch_ids: Sequence[int], message_ids: Sequence[int] = ()) -> None:
    """Let batches and single messages that were not claimed be named again by the next release."""
    # Messages before batches, as `claim` locks them: two callers in opposite orders would block each other.
    session.execute(
        text("UPDATE messages SET released_at = NULL WHERE id = ANY(:ids) AND status = 'pending'"),
        {"ids": list(message_ids)},
    )
    session.execute(
        text(
            "UPDATE batches SET state = 'waiting', holder = NULL WHERE id = ANY(:ids) AND state = 'released'"
        ),
        {"ids": list(batch_ids)},
    )


#: Columns of a group of outcomes, with their types.
_OUTCOME_COLUMNS = {
    "id": "bigint",
    "claim": "integer",
    "status": "text",
    "spent": "integer",
    "verdict": "text",
    "gs_id": "text",
    "wa_id": "text",
    "code": "text",
    "reason": "text",
    "http_status": "integer",
    "delay": "double precision",
}
_OUTCOME_ARRAYS = ", ".join(f"CAST(:{name} AS {kind}[])" for name, kind in _OUTCOME_COLUMNS.items())
_RECORD = text(f"""
    WITH o AS (
        SELECT DISTINCT ON (id, claim) *
        FROM unnest({_OUTCOME_ARRAYS}) WITH ORDINALITY AS o ({", ".join(_OUTCOME_COLUMNS)}, nth)
        ORDER BY id, claim, nth),
    -- With all that follows from it, because a join of two lists of a few hundred is planned as if they were short.
    was AS (
        SELECT o.*, m.status AS before, m.gs_id AS earlier_gs_id, m.wamid AS earlier_wamid,
            -- The provider has given this attempt an id, and what the row has is of an earlier one.
            coalesce(o.gs_id <> m.gs_id, false) AS replaced
        FROM messages m JOIN o ON o.id = m.id AND o.claim = m.claims
        WHERE m.status = 'sending' OR (m.status = 'unknown' AND m.code = 'lease_expired')
        ORDER BY m.id FOR UPDATE OF m),
    changed AS (
        UPDATE messages m SET
            status = o.status,
            attempts = m.attempts + o.spent,
            gs_id = coalesce(o.gs_id, m.gs_id),
            wamid = CASE WHEN NOT o.replaced THEN m.wamid END,
            wa_id = coalesce(o.wa_id, m.wa_id),
            -- What was put back keeps what is known of it, unless it is said why.
            code = CASE WHEN o.verdict = '' AND o.before = 'sending' THEN coalesce(o.code, m.code) ELSE o.code END,
            reason = CASE WHEN o.verdict = '' AND o.before = 'sending' AND o.code IS NULL THEN m.reason ELSE o.reason END,
            http_status = coalesce(o.http_status, m.http_status),
            released_at = NULL,
            due_at = CASE WHEN o.status <> 'pending' THEN m.due_at
                          WHEN o.verdict = '' AND o.delay = 0 THEN coalesce(m.due_at, :now)
                          ELSE :now + o.delay * interval '1 second' END,
            accepted_at = CASE WHEN o.status = 'accepted' THEN CAST(:now AS timestamptz) ELSE m.accepted_at END,
            enqueued_at = CASE WHEN NOT o.replaced THEN m.enqueued_at END,
            sent_at = CASE WHEN NOT o.replaced THEN m.sent_at END,
            failed_at = CASE WHEN o.status = 'failed' THEN CAST(:now AS timestamptz) ELSE m.failed_at END,
            settled_at = CASE WHEN o.status = 'unknown' THEN CAST(:now AS timestamptz) END
        FROM was o WHERE m.id = o.id
        RETURNING m.id, m.campaign_id, o.before, m.status, m.attempts, o.spent, o.verdict, o.http_status, o.code,
            o.reason, o.replaced, o.earlier_gs_id, o.earlier_wamid),
    errors AS (
        INSERT INTO send_errors (message_id, attempt, at, verdict, http_status, code, text, gs_id, wamid)
        SELECT id, attempts, CAST(:now AS timestamptz), verdict, http_status, coalesce(code, ''),
            coalesce(reason, ''), NULL, NULL
        FROM changed WHERE verdict NOT IN ('', 'accepted')
        UNION ALL
        SELECT id, attempts - spent, :now, 'accepted', NULL, '', '', earlier_gs_id, earlier_wamid
        FROM changed WHERE replaced),
    {DELTAS_OF_CHANGED}
    SELECT count(*) FROM changed""")


def record(session: Session, outcomes: Sequence[Outcome], now: datetime) -> int:
    """Write a group of outcomes with their counter deltas in one statement; repeat-safe.

    An outcome counts for its own claim only: a row that was claimed again since stays as it is. Of two
    outcomes of one claim the first counts. A row that the lease sweep made unknown takes the late answer.

    Returns:
      How many messages changed.
    """
    if not outcomes:
        return 0
    rows = [
        (
            o.message_id,
            o.claim,
            o.status.value,
            int(o.spent),
            str(o.verdict),
            _text(o.gs_id),
            _text(o.wa_id),
            _text(o.code),
            _text(o.reason),
            o.http_status,
            o.delay_seconds,
        )
        for o in outcomes
    ]
    columns = dict(zip(_OUTCOME_COLUMNS, map(list, zip(*rows, strict=True)), strict=True))
    return int(session.execute(_RECORD, columns | {"now": now}).scalar_one())


def _text(value: str | None) -> str | None:
    """``value`` as PostgreSQL can keep it: it has no NUL and no lone surrogates."""
    return None if value is None else value.replace("\0", "").encode("utf-8", "replace").decode()
