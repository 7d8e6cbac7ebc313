"""Recipients who must not be written to: opt-outs, numbers that WhatsApp does not know, barred countries.

Applied when messages are claimed (`REASON`). Made by people (`add`) and by what the provider answers
(`note_refusals`). A longer one is never shortened but by `remove`.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from zlib import crc32

from sqlalchemy import ColumnElement, Row, delete, or_, select, text
from sqlalchemy.orm import Session

from disparo import notifications, phone
from disparo.errors import InputError
from disparo.models import App, Suppression
from disparo.statuses import Lane, Verdict
from disparo.whatsapp.codes import Rule

ALL, MARKETING = "all", Lane.MARKETING.value
SCOPES = (ALL, MARKETING)
#: The code of a message that was not sent because of a suppression.
CODE = "suppressed"
#: The reason of one that a person added without saying why.
OPERATOR = "operator"
#: Longest reason.
REASON_CHARS = 200
#: Before the calling code in the key of a whole country.
COUNTRY = "country:"

#: How long a recipient is left alone whom WhatsApp holds marketing back from.
#: Source: Meta, per-user marketing limits (code 131049): wait at least 24 hours; read 2026-11-21.
DEFERRED_FOR = timedelta(hours=24)
#: 131026 may mean an old version of WhatsApp, or terms not accepted yet: one alone says little of the number.
SOFT_CODES = frozenset({"131026"})
SOFT_FAILURES, SOFT_WITHIN = 2, timedelta(days=30)

#: Codes of the provider → why the recipient is left alone; any other is `_REFUSED`.
_REASONS = {
    "1002": "not_on_whatsapp",
    "1006": "no_opt_in",
    "1007": "no_opt_in",
    "1008": "no_opt_in",
    "1012": "opted_out",
    "131026": "undeliverable",
    "131049": "held_back",
    "131050": "opted_out",
    "130472": "experiment",
    "130497": "country_barred",
}
_REFUSED = "refused"

#: SQL: why message ``m`` may not be sent at ``:now``, of several suppressions the one that lasts longest; NULL: it may.
#: Calling codes have one to three digits and none begins with another (ITU-T E.164), so at most one country fits.
REASON = f"""(
    SELECT s.reason FROM suppressions s
    WHERE s.recipient_key = ANY(ARRAY[m.recipient_key, '{COUNTRY}' || left(m.recipient, 1),
            '{COUNTRY}' || left(m.recipient, 2), '{COUNTRY}' || left(m.recipient, 3)])
        AND s.scope IN ('{ALL}', m.lane) AND coalesce(s.app_id, 0) IN (0, m.app_id)
        AND (s.expires_at IS NULL OR s.expires_at > :now)
    ORDER BY s.expires_at DESC, s.id LIMIT 1)"""


@dataclass(frozen=True, slots=True)
class Target:
    """Whom a suppression is of: a recipient, or all numbers of a country."""

    #: What the table keeps: that of `disparo.phone`, or ``country:<calling code>``.
    key: str
    #: For logs and screens: ``55119****8888``, ``country:91``.
    masked: str
    #: The digits of one number.
    digits: str = field(default="", repr=False)

    @property
    def keys(self) -> list[str]:
        """Its own key, and those of the countries that the number may be of."""
        return [self.key, *(COUNTRY + self.digits[:n] for n in (1, 2, 3) if self.digits)]


def target(given: str) -> Target:
    """Read a number as people write it, or ``country:<calling code>``.

    Raises:
      InputError: It is neither.
    """
    if given.startswith(COUNTRY):
        if not phone.is_calling_code(given.removeprefix(COUNTRY)):
            raise InputError(f"{given[:40]!r} is no country: write its calling code, for example country:91")
        return Target(given, given)
    number = phone.parse(given)
    return Target(number.key, phone.mask(number.digits), number.digits)


class _Entry(NamedTuple):
    """A row to be; in the order in which everybody locks rows."""

    recipient_key: str
    scope: str
    #: 0: all apps.
    app_id: int
    reason: str
    created_by: str
    since: datetime
    expires_at: datetime | None


# The first permanent one stays with its reason, whatever comes later.
_STORE = text("""
    INSERT INTO suppressions (recipient_key, scope, app_id, reason, created_by, since, expires_at)
    SELECT recipient_key, scope, nullif(app_id, 0), reason, created_by, since, expires_at
    FROM unnest(CAST(:keys AS text[]), CAST(:scopes AS text[]), CAST(:apps AS bigint[]), CAST(:reasons AS text[]),
        CAST(:creators AS text[]), CAST(:since AS timestamptz[]), CAST(:until AS timestamptz[])) AS given (
        recipient_key, scope, app_id, reason, created_by, since, expires_at)
    ORDER BY recipient_key, scope, app_id
    ON CONFLICT (recipient_key, scope, coalesce(app_id, 0)) DO UPDATE SET
        reason = excluded.reason, phrase = excluded.phrase, created_by = excluded.created_by,
        since = excluded.since, expires_at = excluded.expires_at
    WHERE suppressions.expires_at < coalesce(excluded.expires_at, 'infinity')
    RETURNING recipient_key, scope, app_id""")


def _store(session: Session, entries: Iterable[_Entry]) -> Sequence[Row[Any]]:
    """Make or prolong suppressions; key, scope and app of each that changed. No row may be meant twice."""
    columns = list(zip(*entries, strict=True))
    if not columns:
        return []
    names = ("keys", "scopes", "apps", "reasons", "creators", "since", "until")
    return session.execute(_STORE, dict(zip(names, map(list, columns), strict=True))).all()


def add(
    session: Session,
    whom: Target,
    *,
    app: App | None = None,
    scope: str = ALL,
    reason: str | None = None,
    until: datetime | None = None,
    by: str,
    now: datetime,
) -> bool:
    """Send nothing more to someone; False when that was so already, for as long or longer.

    Args:
      app: None: no app sends to them.
      scope: ``all``, or ``marketing`` alone.
      reason: Recorded with each message that is not sent; by default `OPERATOR`.
      until: None: until it is removed.
      by: Who says so.

    Raises:
      InputError: A value is wrong.
    """
    reason = (reason or OPERATOR).strip()
    if scope not in SCOPES:
        raise InputError(f"--scope {scope}: there are {', '.join(SCOPES)}")
    if not reason.isprintable() or len(reason) > REASON_CHARS:
        raise InputError(f"--reason is one line of up to {REASON_CHARS} characters")
    entry = _Entry(whom.key, scope, app.id if app else 0, reason, by, now, until)
    return bool(_store(session, [entry]))


def remove(session: Session, whom: Target, *, app: App | None = None) -> int:
    """Let someone be written to again: by every app, or by ``app`` alone where it had its own; how many ended."""
    gone = delete(Suppression).where(Suppression.recipient_key == whom.key)
    if app is not None:
        gone = gone.where(Suppression.app_id == app.id)
    return len(session.execute(gone.returning(Suppression.id)).all())


def find(session: Session, whom: Target, now: datetime, *, app: App | None = None) -> list[dict[str, Any]]:
    """Every suppression in force by which someone is not written to, that of their country included."""
    return _listed(session, [*_in_force(now, app), Suppression.recipient_key.in_(whom.keys)])


def listing(
    session: Session, now: datetime, *, app: App | None = None, limit: int = 100
) -> list[dict[str, Any]]:
    """The newest suppressions in force, of ``app`` (those of all apps count for it too) or of any.

    Each as ``{"to", "app", "scope", "reason", "phrase", "by", "since", "expires_at"}``, with the whole number
    in ``to``; ``app`` None means all apps, ``expires_at`` None until it is removed.
    """
    return _listed(session, _in_force(now, app), limit)


def _in_force(now: datetime, app: App | None) -> list[ColumnElement[bool]]:
    lasts = or_(Suppression.expires_at.is_(None), Suppression.expires_at > now)
    return [lasts, or_(Suppression.app_id == app.id, Suppression.app_id.is_(None))] if app else [lasts]


def _listed(
    session: Session, wanted: Collection[ColumnElement[bool]], limit: int | None = None
) -> list[dict[str, Any]]:
    rows = session.execute(
        select(Suppression, App.name)
        .outerjoin(App, App.id == Suppression.app_id)
        .where(*wanted)
        .order_by(Suppression.id.desc())
        .limit(limit)
    ).all()
    return [
        {
            "to": phone.digits_of(one.recipient_key),
            "app": app_name,
            "scope": one.scope,
            "reason": one.reason,
            "phrase": one.phrase,
            "by": one.created_by,
            "since": one.since.isoformat(),
            "expires_at": one.expires_at.isoformat() if one.expires_at else None,
        }
        for one, app_name in rows
    ]


# -- by what the provider answers --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Refusal:
    """A message that failed, and the row of the verdict table that it failed by."""

    message_id: int
    #: As recorded with the message.
    code: str
    #: The provider's words.
    reason: str
    rule: Rule


def note_refusals(session: Session, refusals: Sequence[Refusal], now: datetime) -> int:
    """Suppress for their app the recipients of whom the provider says that later messages would fail too.

    *recipient_suppress* does so until it is removed, for marketing alone or for a whole country where the row
    says so; *recipient_defer* for marketing and `DEFERRED_FOR`; a code of `SOFT_CODES` only when the recipient
    failed by it `SOFT_FAILURES` times within `SOFT_WITHIN`. Other verdicts are passed over.

    Called after the failures were recorded, last in the same transaction. In any order and any number of
    times the same recipients are left alone; a suppression that lasts longer stays as it is.

    Returns:
      How many suppressions were made or prolonged.
    """
    refusals = [
        one for one in refusals if one.rule.verdict in (Verdict.RECIPIENT_SUPPRESS, Verdict.RECIPIENT_DEFER)
    ]
    if not refusals:
        return 0
    found = session.execute(
        text("""
            SELECT id, app_id, recipient, recipient_key, coalesce(failed_at, :now) AS failed_at
            FROM messages WHERE id = ANY(:ids)"""),
        {"ids": [one.message_id for one in refusals], "now": now},
    )
    rows = {row.id: row for row in found}
    refused = [(rows[one.message_id], one) for one in refusals if one.message_id in rows]
    firm = _failed_again(session, [row for row, one in refused if one.code in SOFT_CODES], now)
    entries: dict[tuple[str, str, int], tuple[_Entry, Refusal]] = {}
    for row, one in refused:
        if one.code in SOFT_CODES and (row.app_id, row.recipient_key) not in firm:
            continue
        entry = _entry(row, one)
        if entry is not None:
            known = entries.get(entry[:3])
            if known is None or _outlasts(entry, known[0]):
                entries[entry[:3]] = entry, one
    stored = _store(session, [entry for entry, _ in entries.values()])
    for made in stored:
        if made.recipient_key.startswith(COUNTRY):
            _, refusal = entries[made.recipient_key, made.scope, made.app_id]
            _tell_of_country(session, made.app_id, made.recipient_key, refusal)
    return len(stored)


def _entry(row: Row[Any], refusal: Refusal) -> _Entry | None:
    rule, key, scope, until = refusal.rule, row.recipient_key, ALL, None
    if rule.verdict is Verdict.RECIPIENT_DEFER:
        # A payment is never held back by it.
        scope, until = MARKETING, row.failed_at + DEFERRED_FOR
    elif rule.scope_key == "country":
        code = phone.calling_code(row.recipient)
        if code is None:
            return None
        key = COUNTRY + code
    elif rule.scope_key == MARKETING:
        scope = MARKETING
    reason = _REASONS.get(refusal.code, _REFUSED)
    return _Entry(key, scope, row.app_id, reason, f"message {row.id}", row.failed_at, until)


def _outlasts(one: _Entry, other: _Entry) -> bool:
    return other.expires_at is not None and (one.expires_at is None or one.expires_at > other.expires_at)


def _failed_again(session: Session, rows: Sequence[Row[Any]], now: datetime) -> set[tuple[int, str]]:
    """Which (app, recipient key) of these messages failed by a soft code often enough, this time included."""
    people = sorted({(row.app_id, row.recipient_key) for row in rows})
    if not people:
        return set()
    # Two recorders of one recipient's failures would each see but their own. A few locks stand for all
    # recipients, because PostgreSQL's table of locks is small; in their order, so that nobody waits in a circle.
    locks = sorted({crc32(f"{app_id}:{key}".encode()) % 16 for app_id, key in people})
    session.execute(
        text("SELECT pg_advisory_xact_lock(:space, lock) FROM unnest(CAST(:locks AS integer[])) AS lock"),
        {"space": crc32(b"disparo.undeliverable") & 0x7FFFFFFF, "locks": locks},
    )
    found = session.execute(
        text("""
            SELECT p.app_id, p.recipient_key
            FROM unnest(CAST(:apps AS bigint[]), CAST(:keys AS text[])) AS p (app_id, recipient_key)
            CROSS JOIN LATERAL (
                SELECT sum(greatest(
                    -- A status that came later has no attempt of its own.
                    (m.status = 'failed' AND m.code = ANY(:codes) AND m.failed_at > :since)::integer,
                    (SELECT count(*) FROM send_errors e
                        WHERE e.message_id = m.id AND e.code = ANY(:codes) AND e.at > :since))) AS failures
                FROM messages m WHERE m.app_id = p.app_id AND m.recipient_key = p.recipient_key) AS f
            WHERE f.failures >= :enough"""),
        {
            "apps": [app_id for app_id, _ in people],
            "keys": [key for _, key in people],
            "codes": sorted(SOFT_CODES),
            "since": now - SOFT_WITHIN,
            "enough": SOFT_FAILURES,
        },
    )
    return {(row.app_id, row.recipient_key) for row in found}


def _tell_of_country(session: Session, app_id: int, key: str, refusal: Refusal) -> None:
    """One answer holds back everybody of the country, so a person hears of it."""
    app, code = session.get_one(App, app_id).name, key.removeprefix(COUNTRY)
    why = (refusal.reason or refusal.rule.sentence).rstrip(".")
    notifications.add(
        session,
        "country_suppressed",
        f"app:{app}",
        f"{app} sends nothing more to numbers of +{code}: {why}. "
        f"`disparo suppress remove {key}` lets it try again.",
        code=refusal.code,
        country=code,
    )
