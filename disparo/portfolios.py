"""Daily budgets: how many recipients the apps of one business may begin to write to in any 24 hours.

WhatsApp limits the distinct users that the numbers of a business portfolio together write to outside service windows.
A message with a template counts, also where its recipient has a service window open: nobody here knows of windows.
Without a template a message is possible only inside one, and counts nothing.

A claim counts, in its own transaction and under the lock of the portfolio's row, so that any number of workers together
never claim more than the limit allows. Who was counted once costs nothing more for a day, however often the message is
put back, tried again or followed by others. Of an app without a portfolio, or one without a limit, nothing is counted.

Source: Meta, WhatsApp Business Platform, "Messaging limits" (distinct users in a rolling 24 hours, per business
portfolio), read 2026-11-21.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from disparo.errors import InputError, NotFoundError
from disparo.models import App, Portfolio
from disparo.settings import APP_NAME

#: How long a recipient counts from its last claim on: the provider's 24 hours, and as long as a claimed message may
#: take to leave (`disparo.recovery.LEASE`).
COUNTED_FOR = timedelta(hours=24, minutes=2)
#: A claim that began before the limit, and counted nothing, is committed after so long.
SETTLED_AFTER = timedelta(seconds=3)
#: Far above WhatsApp's largest limit, 100,000.
LARGEST_LIMIT = 1_000_000_000

#: SQL: CTEs that find which rows of a CTE ``picked`` fit into the room of a portfolio, as ``fits``.
FITTING = """
    seen AS (
        SELECT *, its_template IS NOT NULL AND NOT is_over AND why_not IS NULL AND NOT EXISTS (
            SELECT 1 FROM portfolio_recipients r
            WHERE r.portfolio_id = :portfolio_id AND r.recipient_key = picked.recipient_key) AS is_unseen
        FROM picked),
    firsts AS (
        SELECT *, is_unseen AND row_number() OVER (PARTITION BY recipient_key, is_unseen ORDER BY id) = 1 AS is_first
        FROM seen),
    ranked AS (SELECT *, count(*) FILTER (WHERE is_first) OVER (ORDER BY id) AS nth FROM firsts),
    fitting AS (
        SELECT *, NOT is_unseen OR min(nth) OVER (PARTITION BY recipient_key, is_unseen) <= :room AS fits
        FROM ranked)"""

#: SQL: CTEs that count the recipients of a CTE ``claimed``.
COUNTING = """
    noted AS (
        INSERT INTO portfolio_recipients (portfolio_id, recipient_key, last_at)
        SELECT DISTINCT CAST(:portfolio_id AS bigint), recipient_key, CAST(:now AS timestamptz)
        FROM claimed WHERE its_template IS NOT NULL
        ON CONFLICT (portfolio_id, recipient_key)
            DO UPDATE SET last_at = greatest(portfolio_recipients.last_at, excluded.last_at)
        -- No transaction has touched a row that is new.
        RETURNING xmax = 0 AS is_new),
    counted AS (
        UPDATE portfolios SET used = used + (SELECT count(*) FROM noted WHERE is_new) WHERE id = :portfolio_id)"""


def is_limited(app_id: str) -> str:
    """SQL: the app may only claim what its portfolio's budget allows."""
    return f"""EXISTS (
        SELECT 1 FROM apps a JOIN portfolios p ON p.id = a.portfolio_id
        WHERE a.id = {app_id} AND p.daily_limit IS NOT NULL)"""


#: SQL: new messages of campaign ``c`` may be claimed, though the budgets of the apps ``:full`` are used up.
CAMPAIGN_FITS = "(c.template IS NULL OR c.app_id <> ALL(:full))"


def message_fits(row: str, template: str) -> str:
    """SQL: message ``row`` may be claimed all the same: it counts nothing, or its recipient counts already."""
    return f"""({template} IS NULL OR {row}.app_id <> ALL(:full) OR EXISTS (
        SELECT 1 FROM portfolio_recipients r JOIN apps a ON a.portfolio_id = r.portfolio_id
        WHERE a.id = {row}.app_id AND r.recipient_key = {row}.recipient_key))"""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a portfolio has left now."""

    portfolio_id: int
    name: str
    limit: int
    #: Recipients that count now.
    used: int
    #: Whether those are all. While they are being counted nobody new is written to.
    is_counted: bool = True

    @property
    def room(self) -> int:
        """New recipients that may be written to now."""
        return max(0, self.limit - self.used) if self.is_counted else 0


_BUDGET = """
    SELECT p.id, p.name, p.daily_limit, p.used, p.counted_at IS NOT NULL
    FROM apps a JOIN portfolios p ON p.id = a.portfolio_id
    WHERE a.id = :app_id AND p.daily_limit IS NOT NULL"""


def budget(session: Session, app_id: int, *, lock: bool = False) -> Budget | None:
    """The budget that an app shares, or None when it has none; locked against other claims."""
    # Weaker than FOR UPDATE, which would wait for everybody whose rows refer to the portfolio.
    row = session.execute(
        text(_BUDGET + (" FOR NO KEY UPDATE OF p" if lock else "")), {"app_id": app_id}
    ).one_or_none()
    return Budget(*row) if row else None


def rooms(session: Session) -> dict[int, tuple[int, int]]:
    """Of each app with a limit: its portfolio, and how many new recipients that may write to now."""
    rows = session.execute(
        text("""
            SELECT a.id, p.id, CASE WHEN p.counted_at IS NULL THEN 0 ELSE greatest(0, p.daily_limit - p.used) END
            FROM apps a JOIN portfolios p ON p.id = a.portfolio_id WHERE p.daily_limit IS NOT NULL""")
    )
    return {app_id: (portfolio_id, room) for app_id, portfolio_id, room in rows}


def full(session: Session) -> list[int]:
    """Apps whose portfolio may write to nobody new now: of their templates nothing is named but to who is counted."""
    return [app_id for app_id, (_, room) in rooms(session).items() if not room]


def frees_at(session: Session, found: Budget) -> datetime | None:
    """When a full budget has room for one more; None while it has, or while it is being counted."""
    if found.room or not found.is_counted:
        return None
    last_at = session.execute(
        text("""
            SELECT last_at FROM portfolio_recipients WHERE portfolio_id = :id
            ORDER BY last_at OFFSET :excess LIMIT 1"""),
        {"id": found.portfolio_id, "excess": found.used - found.limit},
    ).scalar()
    return None if last_at is None else last_at + COUNTED_FOR


def releases(session: Session, found: Budget) -> list[tuple[datetime, int]]:
    """When recipients that count now will count no more, and how many; soonest first.

    The soonest to the message, later ones together by the minute and by the thirtieth part: a few hundred for any
    number of recipients, and an end is told to within some per cent.
    """
    rows = session.execute(
        text("""
            SELECT max(last_at), count(*) FROM (
                SELECT last_at, row_number() OVER (ORDER BY last_at) AS nth
                FROM portfolio_recipients WHERE portfolio_id = :id) AS each
            GROUP BY floor(30 * ln(nth)), date_trunc('minute', last_at) ORDER BY 1"""),
        {"id": found.portfolio_id},
    )
    return [(last_at + COUNTED_FOR, n) for last_at, n in rows]


def uncounted(session: Session, found: Budget, recipient_keys: Iterable[str]) -> int:
    """How many of these recipients would take room of the budget."""
    keys = set(recipient_keys)
    counted = session.execute(
        text("""
            SELECT count(*) FROM portfolio_recipients WHERE portfolio_id = :id AND recipient_key = ANY(:keys)"""),
        {"id": found.portfolio_id, "keys": list(keys)},
    ).scalar_one()
    return len(keys) - int(counted)


def uncounted_of(session: Session, found: Budget, campaign_id: int) -> int:
    """How many recipients of a campaign that has not begun would take room of the budget."""
    n = session.execute(
        text("""
            SELECT count(DISTINCT m.recipient_key) FROM messages m
            WHERE m.campaign_id = :campaign_id AND NOT EXISTS (
                SELECT 1 FROM portfolio_recipients r
                WHERE r.portfolio_id = :id AND r.recipient_key = m.recipient_key)"""),
        {"id": found.portfolio_id, "campaign_id": campaign_id},
    ).scalar_one()
    return int(n)


# -- what people set ---------------------------------------------------------------------------------------


def configure(
    session: Session, name: str, *, daily_limit: int | Literal["none"] | None = None
) -> tuple[Portfolio, bool]:
    """Create or change a portfolio; what is left out stays. The second value says whether it is new.

    A new limit begins to count with whom the portfolio's apps have written to in the last 24 hours; until that is
    counted (seconds) nobody new is written to. A lower or a higher one counts at once.

    Args:
      daily_limit: Recipients in any 24 hours; ``none`` for no limit, which forgets who was counted.

    Raises:
      InputError: The name or the limit is wrong.
    """
    if not APP_NAME.fullmatch(name):
        raise InputError(
            f"{name!r} is no name of a portfolio: use 1 to 40 of a-z, 0-9 and -, for example grupo-sul"
        )
    if isinstance(daily_limit, int) and not 1 <= daily_limit <= LARGEST_LIMIT:
        raise InputError(
            f"--daily-limit {daily_limit}: give the recipients that WhatsApp allows in 24 hours, 1 or more, or none"
        )
    made = session.execute(
        insert(Portfolio)
        .values(name=name)
        .on_conflict_do_nothing(index_elements=["name"])
        .returning(Portfolio.id)
    ).scalar()
    portfolio = _locked(session, name)
    if daily_limit == "none":
        session.execute(
            text("DELETE FROM portfolio_recipients WHERE portfolio_id = :id"), {"id": portfolio.id}
        )
        portfolio.daily_limit, portfolio.used, portfolio.counted_at = None, 0, None
    elif daily_limit is not None:
        if portfolio.daily_limit is None:
            _count_anew(portfolio)
        portfolio.daily_limit = daily_limit
    session.flush()
    return portfolio, made is not None


def join(session: Session, app: App, name: str) -> None:
    """Let an app share the budget of the portfolio of that name; empty: of none. The caller has the app locked.

    Raises:
      NotFoundError: There is none of that name.
    """
    if not name:
        app.portfolio_id = None
        return
    portfolio = _locked(session, get(session, name).name)
    if app.portfolio_id != portfolio.id:
        app.portfolio_id = portfolio.id
        # What the app has sent in the last 24 hours counts too.
        _count_anew(portfolio)
    session.flush()


def _locked(session: Session, name: str) -> Portfolio:
    query = select(Portfolio).where(Portfolio.name == name).with_for_update(key_share=True)
    return session.scalars(query.execution_options(populate_existing=True)).one()


def _count_anew(portfolio: Portfolio) -> None:
    portfolio.counted_at = None
    # Not that of the transaction, which may have waited for the lock longer than a claim takes.
    portfolio.updated_at = func.clock_timestamp()


def get(session: Session, name: str) -> Portfolio:
    """The portfolio of that name.

    Raises:
      NotFoundError: There is none; says which there are.
    """
    portfolio = session.scalars(select(Portfolio).where(Portfolio.name == name)).one_or_none()
    if portfolio is None:
        known = ", ".join(session.scalars(select(Portfolio.name).order_by(Portfolio.name).limit(10)))
        there = f"there are: {known}" if known else "there is none yet"
        raise NotFoundError(
            f"no portfolio is named {name!r} ({there}); make it with `disparo portfolio set {name} --daily-limit N`"
        )
    return portfolio


def listing(session: Session) -> list[Portfolio]:
    """All portfolios by name."""
    return list(session.scalars(select(Portfolio).order_by(Portfolio.name)))


def describe(session: Session, portfolio: Portfolio) -> dict[str, Any]:
    """What ``portfolio show --json`` prints."""
    limit = portfolio.daily_limit
    found = None
    if limit is not None:
        counted = portfolio.counted_at is not None
        found = Budget(portfolio.id, portfolio.name, limit, portfolio.used, counted)
    free = frees_at(session, found) if found else None
    names = session.scalars(select(App.name).where(App.portfolio_id == portfolio.id).order_by(App.name))
    return {
        "name": portfolio.name,
        "daily_limit": limit,
        "used": portfolio.used,
        "left": found.room if found else None,
        "counting": found is not None and not found.is_counted,
        "frees_at": free.isoformat() if free else None,
        "apps": list(names),
    }


# -- what the scheduler does -------------------------------------------------------------------------------


def count_due(session: Session, now: datetime) -> list[str]:
    """Count whom apps have written to before their portfolio's limit held for them; the portfolios' names.

    What was claimed in the last 24 hours counts, and what may have been sent after a backup that was restored.
    """
    rows = session.execute(
        text("""
            SELECT id, name FROM portfolios
            WHERE daily_limit IS NOT NULL AND counted_at IS NULL AND updated_at <= :settled
            ORDER BY id FOR NO KEY UPDATE SKIP LOCKED"""),
        {"settled": now - SETTLED_AFTER},
    ).all()
    for portfolio_id, _ in rows:
        values = {"id": portfolio_id, "now": now, "since": now - COUNTED_FOR}
        session.execute(
            text("""
                INSERT INTO portfolio_recipients (portfolio_id, recipient_key, last_at)
                SELECT :id, recipient_key, least(max(at), :now) FROM (
                    SELECT m.recipient_key, greatest(
                        m.claimed_at, CASE WHEN m.code = 'database_restored' THEN m.settled_at END) AS at
                    FROM messages m LEFT JOIN campaigns c ON c.id = m.campaign_id
                    WHERE m.app_id IN (SELECT a.id FROM apps a WHERE a.portfolio_id = :id)
                        AND coalesce(m.template, c.template) IS NOT NULL) AS written
                WHERE at > :since GROUP BY recipient_key
                ON CONFLICT (portfolio_id, recipient_key)
                    DO UPDATE SET last_at = greatest(portfolio_recipients.last_at, excluded.last_at)"""),
            values,
        )
        session.execute(
            text("""
                UPDATE portfolios SET counted_at = :now,
                    used = (SELECT count(*) FROM portfolio_recipients r WHERE r.portfolio_id = portfolios.id)
                WHERE id = :id"""),
            values,
        )
    return [name for _, name in rows]


def count_all_anew(session: Session) -> None:
    """Have every portfolio count again, because the tables are those of a backup."""
    session.execute(text("UPDATE portfolios SET counted_at = NULL, updated_at = clock_timestamp()"))


def forget_old(session: Session, now: datetime, *, page: int = 5_000) -> int:
    """Let recipients count no more whose 24 hours are over, a page per portfolio; how many."""
    values = {"before": now - COUNTED_FOR, "page": page}
    # Who claims just now is not waited for: the next look is a second away.
    ids = session.execute(
        text("""
            SELECT id FROM portfolios p WHERE EXISTS (
                SELECT 1 FROM portfolio_recipients r WHERE r.portfolio_id = p.id AND r.last_at <= :before)
            ORDER BY id FOR NO KEY UPDATE OF p SKIP LOCKED"""),
        values,
    ).scalars()
    forgotten = 0
    for portfolio_id in ids.all():
        # A statement of its own: it sees what was committed before the lock.
        forgotten += session.execute(
            text("""
                WITH gone AS (
                    DELETE FROM portfolio_recipients r WHERE r.portfolio_id = :id AND r.recipient_key IN (
                        SELECT old.recipient_key FROM portfolio_recipients old
                        WHERE old.portfolio_id = :id AND old.last_at <= :before ORDER BY old.last_at LIMIT :page)
                    RETURNING 1)
                UPDATE portfolios SET used = used - (SELECT count(*) FROM gone) WHERE id = :id
                RETURNING (SELECT count(*) FROM gone)"""),
            values | {"id": portfolio_id},
        ).scalar_one()
    return forgotten
