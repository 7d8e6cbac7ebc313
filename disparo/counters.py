"""Messages of a campaign per status: deltas beside each change of rows, folded from time to time.

No counter row is updated per message (it would be one hot row), and nothing is counted per screen:
folded + deltas = GROUP BY.
"""

from collections import Counter as Tally
from collections.abc import Iterable
from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.orm import Session

from disparo.statuses import Status

#: Deltas younger than this stay apart, because the speed of the last minute is read from them.
FOLD_AFTER = timedelta(seconds=70)

#: SQL: a CTE that writes the deltas of a CTE ``changed (campaign_id, before, status)``, a row per message.
DELTAS_OF_CHANGED = """
    deltas AS (
        INSERT INTO counter_deltas (campaign_id, status, n)
        SELECT campaign_id, status, sum(n) FROM (
            SELECT campaign_id, before AS status, -1 AS n FROM changed
            UNION ALL SELECT campaign_id, status, 1 FROM changed) AS changes
        WHERE campaign_id IS NOT NULL GROUP BY campaign_id, status HAVING sum(n) <> 0)"""


def add_deltas(session: Session, changes: Iterable[tuple[int | None, str, int]]) -> None:
    """Write changes of (campaign or None, status, ±n), summed up, into the caller's transaction."""
    tally: Tally[tuple[int, str]] = Tally()
    for campaign_id, status, n in changes:
        if campaign_id is not None:
            tally[campaign_id, status] += n
    rows = [(campaign_id, status, n) for (campaign_id, status), n in sorted(tally.items()) if n]
    if rows:
        session.execute(
            text("""
                INSERT INTO counter_deltas (campaign_id, status, n)
                SELECT * FROM unnest(CAST(:ids AS bigint[]), CAST(:statuses AS text[]), CAST(:ns AS integer[]))"""),
            {
                "ids": [row[0] for row in rows],
                "statuses": [row[1] for row in rows],
                "ns": [row[2] for row in rows],
            },
        )


def counts(session: Session, campaign_ids: list[int]) -> dict[int, dict[str, int]]:
    """Per campaign all statuses with their numbers of messages, as of now."""
    found = {campaign_id: dict.fromkeys(list(Status), 0) for campaign_id in campaign_ids}
    rows = session.execute(
        text("""
            SELECT campaign_id, status, sum(n) FROM (
                SELECT campaign_id, status, n FROM counters WHERE campaign_id = ANY(:ids)
                UNION ALL SELECT campaign_id, status, n FROM counter_deltas WHERE campaign_id = ANY(:ids)
            ) AS parts GROUP BY campaign_id, status"""),
        {"ids": campaign_ids},
    )
    for campaign_id, status, n in rows:
        found[campaign_id][Status(status)] = int(n)
    return {campaign_id: {str(status): n for status, n in row.items()} for campaign_id, row in found.items()}


def recent_answers(
    session: Session, campaign_id: int, now: datetime, *, seconds: float
) -> list[tuple[datetime, int]]:
    """How many messages got an answer at which instant of the last ``seconds``, in order.

    An answered message leaves ``sending``: what a person decides, or a webhook reports, is no answer.
    """
    rows = session.execute(
        text("""
            SELECT at, least(
                sum(n) FILTER (WHERE n > 0 AND status IN ('accepted', 'failed', 'unknown')),
                -sum(n) FILTER (WHERE n < 0 AND status = 'sending')) AS n
            FROM counter_deltas WHERE campaign_id = :id AND at > :since AND at <= :now
            GROUP BY at HAVING sum(n) FILTER (WHERE n > 0 AND status IN ('accepted', 'failed', 'unknown')) > 0
                AND sum(n) FILTER (WHERE n < 0 AND status = 'sending') < 0
            ORDER BY at"""),
        {"id": campaign_id, "since": now - timedelta(seconds=seconds), "now": now},
    )
    return [(at, int(n)) for at, n in rows]


def fold(session: Session, now: datetime) -> int:
    """Add older deltas to the counters; how many rows were folded."""
    done = session.execute(
        text("""
            WITH old AS (DELETE FROM counter_deltas WHERE at < :before RETURNING campaign_id, status, n),
            summed AS (SELECT campaign_id, status, sum(n) AS n FROM old GROUP BY campaign_id, status),
            kept AS (
                INSERT INTO counters (campaign_id, status, n) SELECT campaign_id, status, n FROM summed
                ON CONFLICT (campaign_id, status) DO UPDATE SET n = counters.n + excluded.n
            )
            SELECT count(*) FROM old"""),
        {"before": now - FOLD_AFTER},
    )
    return int(done.scalar_one())
