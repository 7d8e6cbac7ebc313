"""What is put right by itself: rows of dead workers, silent jobs, expired leases."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.orm import Session

from disparo.batches import SILENT_AFTER, Outcome, record
from disparo.counters import add_deltas
from disparo.statuses import Status

#: A claim is never older than this while its owner lives: three times the deadline of a request (40 s).
LEASE = timedelta(seconds=120)

#: Codes of messages that became unknown without an answer.
NO_ANSWER_RECORDED, LEASE_EXPIRED = "worker_died", "lease_expired"

#: A row whose worker died this often before its request began is not tried again: it may be what kills it.
DEATHS_LIMIT = 10
#: Code of such a row.
KILLS_WORKERS = "kills_workers"


def settle_dead_worker(
    session: Session, owner: str, started: Mapping[int, int], answers: Iterable[Outcome], now: datetime
) -> dict[str, int]:
    """Put right what a dead worker held, by its journal: the caller has the lock of that journal.

    Rows with an answer take it; rows whose request was started and not answered become unknown; rows that
    were claimed and never started go back to pending, or fail when that happened `DEATHS_LIMIT` times.
    Repeat-safe.

    Args:
      started: message id → last claim of each request that was written down before its socket was opened.
      answers: Outcomes that the journal holds.

    Returns:
      How many were ``recorded``, became ``unknown``, went back to ``pending``, ``failed``; ``batches``
      handed back.
    """
    answers = list(answers)
    recorded = record(session, answers, now)
    answered = {(outcome.message_id, outcome.claim) for outcome in answers}
    lost = [
        Outcome(
            message_id,
            claim,
            Status.UNKNOWN,
            spent=True,
            verdict="unknown",
            code=NO_ANSWER_RECORDED,
            reason="the worker died while the request was under way",
        )
        for message_id, claim in started.items()
        if (message_id, claim) not in answered
    ]
    unknown = record(session, lost, now)
    returned = session.execute(
        text("""
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
                SELECT id, attempts, :now, '', :died, 'its worker died before the request began' FROM changed)
            SELECT campaign_id, before, status FROM changed"""),
        {
            "owner": owner,
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
    add_deltas(
        session,
        [
            change
            for row in returned
            for change in ((row.campaign_id, row.before, -1), (row.campaign_id, row.status, 1))
        ],
    )
    failed = sum(row.status == Status.FAILED for row in returned)
    batches = session.execute(
        text(
            "UPDATE batches SET state = 'waiting', holder = NULL WHERE holder = :owner AND state = 'released' RETURNING id"
        ),
        {"owner": owner},
    ).all()
    session.execute(text("DELETE FROM workers WHERE name = :owner"), {"owner": owner})
    return {
        "recorded": len(recorded.message_ids),
        "unknown": len(unknown.message_ids),
        "pending": len(returned) - failed,
        "failed": failed,
        "batches": len(batches),
    }


def hand_back_silent(session: Session, now: datetime) -> int:
    """Let batches be named again of which nobody has taken rows for a minute; how many."""
    return len(
        session.execute(
            text("""
                UPDATE batches SET state = 'waiting', holder = NULL
                WHERE state = 'released' AND coalesce(held_at, released_at) < :before RETURNING id"""),
            {"before": now - SILENT_AFTER},
        ).all()
    )


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
    return len(record(session, lost, now).message_ids)


def forget_old_workers(session: Session) -> None:
    """Drop workers that were not seen for a day."""
    session.execute(text("DELETE FROM workers WHERE seen_at < now() - interval '1 day'"))
