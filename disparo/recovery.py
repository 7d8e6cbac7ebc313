"""What is put right by itself: rows of dead workers, silent jobs, expired leases."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.orm import Session

from disparo.batches import ALIVE_WITHIN, SILENT_AFTER, Outcome, is_worked_on, record
from disparo.counters import DELTAS_OF_CHANGED
from disparo.statuses import Lane, Status

#: A claim is never older than this while its owner lives: two and a half times the deadline of a request (40 s).
LEASE = timedelta(seconds=100)
#: A job that nobody took in this time, though its queue is empty, is lost.
LOST_AFTER = timedelta(seconds=4)
#: The database's clock may differ by so much from one transaction to the next without having been set back.
CLOCK_SLACK = timedelta(seconds=2)
#: So much may have happened after the last look at the clock and before it was set back.
LOOKED_WITHIN = timedelta(seconds=5)

#: Codes of messages that became unknown without an answer.
NO_ANSWER_RECORDED, LEASE_EXPIRED = "worker_died", "lease_expired"

#: A row whose worker died this often before its request began is not tried again: it may be what kills it.
DEATHS_LIMIT = 10

_HELD = text("SELECT id, claims FROM messages WHERE status = 'sending' AND claimed_by = :owner")
#: Code of such a row.
KILLS_WORKERS = "kills_workers"


def settle_dead_worker(
    session: Session,
    owner: str,
    started: Mapping[int, int],
    answers: Iterable[Outcome],
    now: datetime,
    *,
    whole: bool = True,
) -> dict[str, int]:
    """Put right what a dead worker held, by its journal: the caller has the lock of that journal.

    Rows with an answer take it; rows whose request was started and not answered become unknown; rows that
    were claimed and never started go back to pending, or fail when that happened `DEATHS_LIMIT` times. Jobs
    that it held are named again. Repeat-safe.

    Args:
      started: message id → last claim of each request that was written down before its socket was opened.
      answers: Outcomes that the journal holds.
      whole: No line of the journal can be missing. Otherwise (the machine lost power) a row without a start
        may have been sent all the same, and becomes unknown.

    Returns:
      How many were ``recorded``, became ``unknown``, went back to ``pending``, ``failed``; ``batches``
      handed back.
    """
    answers = list(answers)
    recorded = record(session, answers, now)
    answered = {(outcome.message_id, outcome.claim) for outcome in answers}
    lost = {
        (message_id, claim): "the worker died while the request was under way"
        for message_id, claim in started.items()
        if (message_id, claim) not in answered
    }
    if not whole:
        for message_id, claim in session.execute(_HELD, {"owner": owner}).all():
            if (message_id, claim) not in answered and started.get(message_id) != claim:
                lost[message_id, claim] = (
                    "the worker's machine stopped, so its journal may lack the last requests"
                )
    unknown = record(
        session,
        [
            Outcome(
                message_id,
                claim,
                Status.UNKNOWN,
                spent=True,
                verdict="unknown",
                code=NO_ANSWER_RECORDED,
                reason=reason,
            )
            for (message_id, claim), reason in lost.items()
        ],
        now,
    )
    returned = session.execute(
        text(f"""
            WITH was AS (
                SELECT id, status, 1 + (
                    SELECT count(*) FROM send_errors e WHERE e.message_id = messages.id AND e.code = :died
                        AND e.verdict = '') >= :limit AS kills
                FROM messages WHERE claimed_by = :owner
                    AND NOT EXISTS (
                        SELECT 1 FROM unnest(CAST(:ids AS bigint[]), CAST(:claims AS integer[])) AS s (id, claim)
                        WHERE s.id = messages.id AND s.claim = messages.claims)
                    AND (status = 'sending' OR (status = 'unknown' AND code = :lease_expired))
                ORDER BY id FOR UPDATE),
            changed AS (
                UPDATE messages m SET
                    status = CASE WHEN kills THEN 'failed' ELSE 'pending' END,
                    released_at = NULL,
                    due_at = coalesce(m.due_at, :now),
                    code = CASE WHEN kills THEN :kills END,
                    reason = CASE WHEN kills THEN :why END,
                    failed_at = CASE WHEN kills THEN CAST(:now AS timestamptz) END,
                    settled_at = NULL
                FROM was WHERE m.id = was.id
                RETURNING m.id, m.campaign_id, was.status AS before, m.status, m.attempts),
            errors AS (
                INSERT INTO send_errors (message_id, attempt, at, verdict, code, text)
                SELECT id, attempts, :now, '', :died, 'its worker died before the request began' FROM changed),
            {DELTAS_OF_CHANGED}
            SELECT status FROM changed"""),
        {
            "owner": owner if whole else None,
            "ids": list(started),
            "claims": list(started.values()),
            "now": now,
            "lease_expired": LEASE_EXPIRED,
            "died": NO_ANSWER_RECORDED,
            "limit": DEATHS_LIMIT,
            "kills": KILLS_WORKERS,
            "why": f"{DEATHS_LIMIT} workers died while they held it, before its request began; it was never sent",
        },
    ).all()
    failed = sum(row.status == Status.FAILED for row in returned)
    batches = session.execute(
        text(
            "UPDATE batches SET state = 'waiting', holder = NULL WHERE holder = :owner AND state = 'released' RETURNING id"
        ),
        {"owner": owner},
    ).all()
    session.execute(
        text("""
            UPDATE messages SET released_at = NULL
            WHERE status = 'pending' AND released_at IS NOT NULL AND claimed_by = :owner"""),
        {"owner": owner},
    )
    session.execute(text("DELETE FROM workers WHERE name = :owner"), {"owner": owner})
    return {
        "recorded": recorded,
        "unknown": unknown,
        "pending": len(returned) - failed,
        "failed": failed,
        "batches": len(batches),
    }


def hand_back_silent(session: Session, now: datetime) -> int:
    """Let batches be named again of which nobody has taken rows for a minute; how many.

    While no worker of its queue lives, what nobody holds waits there: named each minute, it would fill Redis.
    """
    return len(
        session.execute(
            text(f"""
                UPDATE batches b SET state = 'waiting', holder = NULL FROM campaigns c
                WHERE b.state = 'released' AND coalesce(b.held_at, b.released_at) < :before AND c.id = b.campaign_id
                    AND (b.holder IS NOT NULL OR {is_worked_on("c.lane")})
                RETURNING b.id"""),
            {"before": now - SILENT_AFTER, "alive": now - ALIVE_WITHIN},
        ).all()
    )


def release_lost(session: Session, urgent_empty: bool, bulk_empty: bool, now: datetime) -> int:
    """Let jobs be named again that are in no queue and that no living worker holds; how many.

    A job gets lost when its worker dies between fetching and taking it, when the scheduler dies between
    its commit and the enqueuing, or when Redis comes back without its last second. Named twice, it does no harm.

    Args:
      urgent_empty: No job waits in the queue of payments now, which single messages of any lane may be in too.
      bulk_empty: No job waits in the queue of the other lanes now.
    """
    if not (urgent_empty or bulk_empty):
        return 0
    values = {
        "before": now - LOST_AFTER,
        "alive": now - ALIVE_WITHIN,
        "payments": urgent_empty,
        "others": bulk_empty,
        "singles": urgent_empty and bulk_empty,
        "payment": Lane.PAYMENT,
    }
    batches = session.execute(
        text("""
            UPDATE batches b SET state = 'waiting', holder = NULL FROM campaigns c
            WHERE b.state = 'released' AND b.released_at < :before AND c.id = b.campaign_id
                AND CASE WHEN c.lane = :payment THEN :payments ELSE :others END AND NOT EXISTS (
                    SELECT 1 FROM workers w WHERE w.name = b.holder AND w.seen_at > :alive)
            RETURNING b.id"""),
        values,
    ).all()
    messages = session.execute(
        text("""
            UPDATE messages m SET released_at = NULL
            WHERE m.status = 'pending' AND m.released_at < :before
                AND CASE WHEN m.lane = :payment THEN :payments WHEN m.campaign_id IS NULL THEN :singles ELSE :others END
                AND NOT EXISTS (SELECT 1 FROM workers w WHERE w.name = m.claimed_by AND w.seen_at > :alive)
            RETURNING id"""),
        values,
    ).all()
    return len(batches) + len(messages)


def notice_clock_set_back(session: Session, now: datetime) -> bool:
    """Bring instants of the present back to it when the database's clock was set back; whether it was.

    What was due before the step is due; what was claimed, held or seen "in the future" was so just now.
    """
    was = session.execute(
        text("""
            UPDATE installation SET clock_at = :now
            FROM (SELECT clock_at FROM installation FOR UPDATE) AS before RETURNING before.clock_at"""),
        {"now": now},
    ).scalar()
    if was is None or was <= now + CLOCK_SLACK:
        return False
    values = {"now": now, "was": was + LOOKED_WITHIN, "step": was - now}
    for statement in (
        """UPDATE stops SET probe_at = greatest(probe_at - CAST(:step AS interval), :now)
           WHERE ended_at IS NULL AND probe_at > :now""",
        """UPDATE apps SET tuning_state = tuning_state || (
               SELECT coalesce(jsonb_object_agg(key, to_jsonb(CAST(value AS timestamptz) - CAST(:step AS interval))), '{}')
               FROM jsonb_each_text(tuning_state)
               WHERE key IN ('since', 'try_at') AND CAST(value AS timestamptz) > :now)
           WHERE tuning AND tuning_state IS NOT NULL""",
        "UPDATE messages SET due_at = :now WHERE status = 'pending' AND due_at > :now AND due_at <= :was",
        # A back-off goes on where it was. What was never claimed is scheduled, and stays.
        """UPDATE messages SET due_at = due_at - CAST(:step AS interval)
           WHERE status = 'pending' AND claims > 0 AND due_at > :was""",
        "UPDATE messages SET released_at = :now WHERE status = 'pending' AND released_at > :now AND released_at <= :was",
        "UPDATE messages SET claimed_at = :now WHERE status = 'sending' AND claimed_at > :now AND claimed_at <= :was",
        """UPDATE batches SET released_at = least(released_at, :now), held_at = least(held_at, :now)
           WHERE state = 'released' AND greatest(released_at, held_at) BETWEEN :now AND :was""",
        "UPDATE workers SET seen_at = :now WHERE seen_at BETWEEN :now AND :was",
        # Locked first, because a claim locks one before it touches its recipients.
        "SELECT 1 FROM portfolios ORDER BY id FOR NO KEY UPDATE",
        "UPDATE portfolio_recipients SET last_at = :now WHERE last_at > :now",
        "UPDATE portfolios SET updated_at = :now WHERE updated_at > :now",
    ):
        session.execute(text(statement), values)
    return True


def release_everything_again(session: Session) -> int:
    """Let all that jobs named be named again, because Redis was emptied; how many batches and messages."""
    batches = session.execute(
        text("UPDATE batches SET state = 'waiting', holder = NULL WHERE state = 'released' RETURNING id")
    ).all()
    singles = session.execute(
        text("""
            UPDATE messages SET released_at = NULL
            WHERE status = 'pending' AND due_at IS NOT NULL AND released_at IS NOT NULL RETURNING id""")
    ).all()
    return len(batches) + len(singles)


def expire_leases(session: Session, now: datetime, *, page: int = 1_000) -> int:
    """Make rows unknown whose worker was lost with its host; time alone never returns a row to pending."""
    rows = session.execute(
        text(
            "SELECT id, claims FROM messages WHERE status = 'sending' AND claimed_at < :before ORDER BY id LIMIT :page"
        ),
        {"before": now - LEASE, "page": page},
    ).all()
    lost = [
        Outcome(
            message_id,
            claim,
            Status.UNKNOWN,
            verdict="unknown",
            code=LEASE_EXPIRED,
            reason="its worker was not heard of again",
        )
        for message_id, claim in rows
    ]
    return record(session, lost, now)


def forget_old_workers(session: Session) -> None:
    """Drop workers that were not seen for a day."""
    session.execute(text("DELETE FROM workers WHERE seen_at < now() - interval '1 day'"))
