"""What of the messages is in the queue, what a worker claims of it, and what it records."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import TextClause, text
from sqlalchemy.orm import Session

from disparo import suppressions
from disparo.counters import DELTAS_OF_CHANGED
from disparo.statuses import Lane, Status

#: A job that nobody has taken rows of for so long is given out again.
SILENT_AFTER = timedelta(seconds=60)
#: Seconds of an app's rate that are kept in the queue.
AHEAD_SECONDS = 2.0
#: Rows of one job at most, and of one app in the queue at most.
JOB_ROWS, AHEAD_ROWS = 500, 5_000


def _not_stopped(row: str, template: str, unless: str = "") -> str:
    """SQL: no stop is in force for the app, the lane or the template of ``row``."""
    return f"""NOT EXISTS (
        SELECT 1 FROM stops s WHERE s.app_id = {row}.app_id AND s.ended_at IS NULL AND (
            s.scope = 'app' OR (s.scope = 'lane' AND s.key = {row}.lane)
            OR (s.scope = 'template' AND s.key = {template})) {unless})"""


# A stop lets its probe through.
_MESSAGE_MAY_GO = _not_stopped(
    "m", "coalesce(m.template, c.template)", "AND s.probe_message_id IS DISTINCT FROM m.id"
)
_CAMPAIGN_MAY_GO = _not_stopped("c", "c.template")
_SINGLE_MAY_GO = _not_stopped("m", "m.template", "AND s.probe_message_id IS DISTINCT FROM m.id")
#: SQL: message ``m`` of an app and a lane waits for nothing but a job that names it. Looked for by campaign, since those
#: that are held may have a million of them.
_IS_DUE = """m.app_id = :app_id AND m.lane = :lane AND m.status = 'pending' AND m.due_at <= :now
    AND (m.released_at IS NULL OR m.released_at <= :silent)"""


#: SQL: the customer has paid, or bought, what message ``m`` is about.
PAID_OR_BOUGHT = """(EXISTS (
        SELECT 1 FROM pix_charges p WHERE p.app_id = m.app_id AND p.reference = m.key
            AND p.message_id = m.id AND p.paid_at IS NOT NULL)
    OR m.campaign_id IS NULL AND EXISTS (
        SELECT 1 FROM reminders r WHERE r.message_id = m.id AND r.converted_at IS NOT NULL))"""


@dataclass(frozen=True, slots=True)
class Job:
    """What a job in the queue names: a batch (``batch_id``) or single messages (``message_ids``) of one app."""

    app_id: int
    lane: str
    batch_id: int | None = None
    message_ids: tuple[int, ...] = ()
    size: int = 1
    #: Its one message may leave under a stop, to see whether the fault is over.
    probe: bool = False


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


def release(session: Session, now: datetime, *, shut: Sequence[int] = ()) -> list[Job]:
    """Name the next work of every app: what was handed back, what is due, then the next rows of campaigns.

    Keeps about `AHEAD_SECONDS` of each app's rate in the queue. Within an app payment comes before utility
    before marketing, and campaigns of one lane in turn. Nothing under a stop is named. One caller at a
    time (the tick's lock). The caller commits, then enqueues the jobs.

    Args:
      shut: Campaigns whose send window is closed now.
    """
    jobs: list[Job] = []
    apps = session.execute(
        text("""
            SELECT id, rate FROM apps a WHERE NOT EXISTS (
                SELECT 1 FROM stops s WHERE s.app_id = a.id AND s.scope = 'app' AND s.ended_at IS NULL)
            ORDER BY id""")
    ).all()
    for app_id, rate in apps:
        ahead = min(AHEAD_ROWS, max(1, round(rate * AHEAD_SECONDS)))
        size = min(JOB_ROWS, max(1, round(rate)))
        queued = _queued(session, app_id, now)
        taken = 0
        for lane in Lane:
            taken += queued.get(lane, 0)
            for step in (_again, _due, _next):
                if taken < ahead:
                    found = step(session, app_id, lane, now, ahead - taken, size, list(shut))
                    taken += sum(job.size for job in found)
                    jobs += found
    return jobs


def _queued(session: Session, app_id: int, now: datetime) -> dict[str, int]:
    """Rows of an app that jobs name already, per lane."""
    rows = session.execute(
        text("""
            SELECT c.lane, sum(b.size) FROM batches b JOIN campaigns c ON c.id = b.campaign_id
            WHERE b.app_id = :app_id AND b.state = 'released' GROUP BY c.lane
            UNION ALL
            SELECT m.lane, count(*) FROM messages m
            WHERE m.app_id = :app_id AND m.status = 'pending' AND m.due_at <= :now AND m.released_at > :silent
            GROUP BY m.lane"""),
        {"app_id": app_id, "now": now, "silent": now - SILENT_AFTER},
    )
    queued: dict[str, int] = {}
    for lane, n in rows:
        queued[lane] = queued.get(lane, 0) + int(n)
    return queued


def _again(
    session: Session, app_id: int, lane: Lane, now: datetime, room: int, size: int, shut: list[int]
) -> list[Job]:
    """Batches that were handed back."""
    rows = session.execute(
        text(f"""
            UPDATE batches SET state = 'released', released_at = :now, holder = NULL, held_at = NULL
            WHERE id IN (
                SELECT b.id FROM batches b JOIN campaigns c ON c.id = b.campaign_id
                WHERE b.app_id = :app_id AND b.state = 'waiting' AND c.state = 'running' AND c.lane = :lane
                    AND c.id <> ALL(:shut) AND {_CAMPAIGN_MAY_GO}
                ORDER BY b.id LIMIT :room FOR UPDATE OF b SKIP LOCKED)
            RETURNING id, size"""),
        {"now": now, "app_id": app_id, "lane": lane, "room": max(1, room // size), "shut": shut},
    ).all()
    return [Job(app_id, lane, batch_id=batch_id, size=n) for batch_id, n in sorted(rows)]


def _due(
    session: Session, app_id: int, lane: Lane, now: datetime, room: int, size: int, shut: list[int]
) -> list[Job]:
    """Single messages, retries and rows that were put back, whose instant has come and that no job names."""
    ids = session.execute(
        text(f"""
            WITH found AS (
                SELECT first.id, first.due_at FROM campaigns c CROSS JOIN LATERAL (
                    SELECT m.id, m.due_at FROM messages m
                    WHERE m.campaign_id = c.id AND {_IS_DUE} AND {_MESSAGE_MAY_GO}
                    ORDER BY m.due_at, m.id LIMIT :room) AS first
                WHERE c.app_id = :app_id AND c.state = 'running' AND c.id <> ALL(:shut) AND {_CAMPAIGN_MAY_GO}
                UNION ALL (
                    SELECT m.id, m.due_at FROM messages m
                    WHERE m.campaign_id IS NULL AND {_IS_DUE} AND {_SINGLE_MAY_GO}
                    ORDER BY m.due_at, m.id LIMIT :room)
                ORDER BY due_at, id LIMIT :room)
            UPDATE messages SET released_at = :now, claimed_by = NULL WHERE id IN (
                SELECT m.id FROM messages m JOIN found ON found.id = m.id WHERE {_IS_DUE}
                ORDER BY m.id FOR UPDATE OF m SKIP LOCKED)
            RETURNING id"""),
        {
            "now": now,
            "app_id": app_id,
            "lane": lane,
            "silent": now - SILENT_AFTER,
            "room": room,
            "shut": shut,
        },
    ).scalars()
    found = sorted(ids)
    pages = [tuple(found[at : at + size]) for at in range(0, len(found), size)]
    return [Job(app_id, lane, message_ids=page, size=len(page)) for page in pages]


def _next(
    session: Session, app_id: int, lane: Lane, now: datetime, room: int, size: int, shut: list[int]
) -> list[Job]:
    """The next rows of running campaigns, a batch from each in turn; of a canary no more than its first."""
    campaigns = session.execute(
        text(f"""
            SELECT c.id, c.released_to, CASE WHEN c.first IS NOT NULL THEN
                c.first - (SELECT coalesce(sum(b.size), 0) FROM batches b WHERE b.campaign_id = c.id) END
            FROM campaigns c
            WHERE c.app_id = :app_id AND c.lane = :lane AND c.state = 'running' AND c.id <> ALL(:shut)
                AND {_CAMPAIGN_MAY_GO}
            ORDER BY (SELECT coalesce(sum(b.size), 0) FROM batches b
                      WHERE b.campaign_id = c.id AND b.state = 'released') / c.weight, c.id"""),
        {"app_id": app_id, "lane": lane, "shut": shut},
    ).all()
    released_to: dict[int, int] = {campaign_id: cursor for campaign_id, cursor, _ in campaigns}
    allowed = {campaign_id: max(0, int(n)) for campaign_id, _, n in campaigns if n is not None}
    jobs: list[Job] = []
    while released_to and room > 0:
        for campaign_id in list(released_to):
            if room <= 0:
                break
            first, last, n = session.execute(
                text("""
                    SELECT min(id), max(id), count(*) FROM (
                        SELECT id FROM messages
                        WHERE campaign_id = :id AND id > :cursor AND status = 'pending' AND due_at IS NULL
                        ORDER BY id LIMIT :size) AS rows"""),
                {
                    "id": campaign_id,
                    "cursor": released_to[campaign_id],
                    "size": min(size, room, allowed.get(campaign_id, room)),
                },
            ).one()
            if not n:
                del released_to[campaign_id]
                continue
            batch_id = session.execute(
                text("""
                    WITH moved AS (UPDATE campaigns SET released_to = :last WHERE id = :id)
                    INSERT INTO batches (campaign_id, app_id, first_message_id, last_message_id, size, state, released_at)
                    VALUES (:id, :app_id, :first, :last, :n, 'released', :now) RETURNING id"""),
                {"id": campaign_id, "app_id": app_id, "first": first, "last": last, "n": n, "now": now},
            ).scalar_one()
            released_to[campaign_id] = last
            if campaign_id in allowed:
                allowed[campaign_id] -= n
            room -= n
            jobs.append(Job(app_id, lane, batch_id=batch_id, size=n))
    return jobs


def take(session: Session, batch_id: int, holder: str, now: datetime) -> Job | None:
    """Hold a batch that a job named, or None when it is done, was handed back or is not there any more."""
    row = session.execute(
        text("""
            UPDATE batches b SET holder = :holder, held_at = :now FROM campaigns c
            WHERE b.id = :id AND b.state = 'released' AND c.id = b.campaign_id
            RETURNING b.app_id, c.lane, b.size"""),
        {"id": batch_id, "holder": holder, "now": now},
    ).one_or_none()
    return Job(row.app_id, row.lane, batch_id=batch_id, size=row.size) if row else None


def take_messages(session: Session, app_id: int, message_ids: Sequence[int], holder: str) -> Job | None:
    """Hold single messages that a job named, or None when none of them waits."""
    lanes = session.execute(
        text("""
            UPDATE messages SET claimed_by = :holder
            WHERE id IN (SELECT id FROM messages WHERE id = ANY(:ids) AND status = 'pending' ORDER BY id FOR UPDATE)
            RETURNING lane"""),
        {"ids": list(message_ids), "holder": holder},
    ).scalars()
    lane = min(set(lanes), key=list(Lane).index, default=None)
    if lane is None:
        return None
    probe = session.execute(
        text("SELECT EXISTS (SELECT 1 FROM stops WHERE ended_at IS NULL AND probe_message_id = ANY(:ids))"),
        {"ids": list(message_ids)},
    ).scalar_one()
    return Job(app_id, lane, message_ids=tuple(message_ids), size=len(message_ids), probe=probe)


#: Held by each claim until its transaction is over, which may be after its worker died.
_LOCK_OF_OWNER = "hashtextextended(:owner, 0)"


def _claim_statement(which: str, is_over: str) -> TextClause:
    return text(f"""
        WITH claiming AS MATERIALIZED (
            SELECT true AS held FROM pg_advisory_xact_lock_shared({_LOCK_OF_OWNER})),
        picked AS (
            SELECT m.id, coalesce(m.template, c.template) AS its_template, c.version AS its_version,
                {is_over} AS is_over, {suppressions.REASON} AS why_not
            FROM messages m LEFT JOIN campaigns c ON c.id = m.campaign_id
            WHERE (SELECT held FROM claiming) AND {which} AND m.app_id = :app_id AND m.status = 'pending'
                AND (m.due_at IS NULL OR m.due_at <= :now) AND (m.not_after IS NULL OR m.not_after > :now)
                AND (c.id IS NULL OR (c.state = 'running' AND (c.not_after IS NULL OR c.not_after > :now)))
                AND {_MESSAGE_MAY_GO}
            ORDER BY m.id LIMIT :limit FOR UPDATE OF m SKIP LOCKED),
        claimed AS (
            UPDATE messages m SET status = 'sending', claimed_by = :owner, claimed_at = :now, claims = claims + 1,
                version = its_version
            FROM picked WHERE m.id = picked.id AND NOT is_over AND why_not IS NULL
            RETURNING m.*, its_template),
        passed_over AS (
            UPDATE messages m SET status = CASE WHEN is_over THEN 'cancelled' ELSE 'suppressed' END, settled_at = :now,
                code = CASE WHEN is_over THEN m.code ELSE '{suppressions.CODE}' END,
                reason = CASE WHEN is_over THEN m.reason ELSE why_not END
            FROM picked WHERE m.id = picked.id AND (is_over OR why_not IS NOT NULL)
            RETURNING m.campaign_id, m.status),
        changed AS (
            SELECT campaign_id, 'pending' AS before, status FROM claimed
            UNION ALL SELECT campaign_id, 'pending', status FROM passed_over),
        {DELTAS_OF_CHANGED}
        SELECT (SELECT count(*) FROM passed_over) AS passed_over, id, claims, app_id, lane, campaign_id, its_template,
            recipient, attempts - forgiven, version, CAST(params AS text), CAST(content AS text),
            recipient_key
        FROM (SELECT 1) AS one LEFT JOIN claimed ON true""")


# What nobody has claimed yet was cancelled with the payment itself.
_CLAIM_IDS = _claim_statement("m.id = ANY(:ids)", f"m.claims > 0 AND {PAID_OR_BOUGHT}")
# What was put back is due by itself, and named by its id.
_CLAIM_BATCH = _claim_statement(
    """m.due_at IS NULL AND m.campaign_id = (SELECT campaign_id FROM batches WHERE id = :batch_id)
    AND m.id BETWEEN (SELECT first_message_id FROM batches WHERE id = :batch_id)
    AND (SELECT last_message_id FROM batches WHERE id = :batch_id)""",
    "false",
)


def claim(session: Session, job: Job, limit: int, owner: str, now: datetime) -> list[Claimed]:
    """Claim up to ``limit`` rows of a job for ``owner``: in order, due, not expired, wanted.

    Rows on the way whose recipient must not be written to become ``suppressed``; those that were paid for, or whose
    cart was bought, while a worker had them become ``cancelled``. Two callers never get the same
    row. The caller commits before it sends; rows of an uncommitted claim are nobody's.
    """
    values: dict[str, object] = {"app_id": job.app_id, "now": now, "owner": owner}
    values |= {"ids": list(job.message_ids)} if job.batch_id is None else {"batch_id": job.batch_id}
    statement = _CLAIM_IDS if job.batch_id is None else _CLAIM_BATCH
    claimed: list[Claimed] = []
    passed_over = -1
    while passed_over and len(claimed) < limit:
        rows = session.execute(statement, values | {"limit": limit - len(claimed)}).all()
        passed_over = rows[0][0]
        claimed += [Claimed(*row[1:]) for row in rows if row.id is not None]
    return sorted(claimed, key=lambda row: row.id)


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


def hold_on(session: Session, holder: str, batch_ids: Sequence[int], now: datetime) -> None:
    """Say that a worker is at work on these batches, those of them that it still holds."""
    if batch_ids:
        session.execute(
            text("""
                UPDATE batches SET held_at = :now
                WHERE id = ANY(:ids) AND holder = :holder AND state = 'released'"""),
            {"ids": list(batch_ids), "holder": holder, "now": now},
        )


def finish(session: Session, job: Job, now: datetime) -> None:
    """Let go of a job of which nothing can be claimed now.

    A batch is done when none of its rows waits for its turn; else (its campaign is paused, or a stop is in
    force) it waits to be named again. Rows that are put back later are due by themselves.
    """
    if job.batch_id is None:
        session.execute(
            text(
                "UPDATE messages SET released_at = NULL WHERE id = ANY(:ids) AND status = 'pending' AND due_at <= :now"
            ),
            {"ids": list(job.message_ids), "now": now},
        )
        return
    session.execute(
        text("""
            UPDATE batches b SET holder = NULL, state = CASE WHEN EXISTS (
                SELECT 1 FROM messages m WHERE m.campaign_id = b.campaign_id
                    AND m.id BETWEEN b.first_message_id AND b.last_message_id
                    AND m.status = 'pending' AND m.due_at IS NULL) THEN 'waiting' ELSE 'done' END
            WHERE b.id = :id AND b.state = 'released'"""),
        {"id": job.batch_id},
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
