"""A campaign to those whom another one has not reached: its messages move, in pages; a page is one transaction.

A message that moved says so (``moved_to``) and never leaves by its old campaign again. A death repeats
at most one page, of which nothing was kept: the same command goes on where it stopped.
"""

import hashlib
from collections.abc import Callable
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from disparo import campaigns
from disparo.campaigns import CampaignFile, compile_message
from disparo.counters import DELTAS_OF_CHANGED
from disparo.errors import ConflictError, InputError, PayloadError
from disparo.models import App, Campaign, Import
from disparo.recipients import Loaded, Reject, check, hold, note, store_rejects
from disparo.statuses import CampaignState, Lane, Status

#: Ids looked at in one transaction.
PAGE_IDS = 5_000
#: Rows of which one must be fit before anything is stored.
PROBED = 1_000

#: States that are taken when none are named, and those that may be named.
STATES = (Status.PENDING, Status.CANCELLED, Status.FAILED)
ALLOWED = (*STATES, Status.EXPIRED, Status.SUPPRESSED)
_WHY_NOT = {
    Status.SENDING: "may be on its way",
    Status.UNKNOWN: "may have been accepted; `disparo campaign resolve` decides it first",
}

#: SQL: message ``m`` was surely not received: nobody has accepted it, and nobody merely gave it up.
_SURELY_NOT = """(coalesce(m.code, '') <> 'given_up'
    AND coalesce(m.accepted_at, m.enqueued_at, m.sent_at, m.delivered_at, m.read_at) IS NULL)"""
_WANTED = f"m.campaign_id = :old AND m.status = ANY(:states) AND m.moved_to IS NULL AND {_SURELY_NOT}"
_COLUMNS = """m.id, m.line, m.status, m.recipient, m.recipient_key, m.key, m.dedupe_key, m.not_after,
    CAST(m.params AS text) AS params"""


def parse_states(given: str | None) -> list[str]:
    """States from ``pending,failed``; without any, those that are taken by default.

    Raises:
      InputError: A state is none, or its messages may have been received.
    """
    if given is None:
        return [str(state) for state in STATES]
    found = sorted({one.strip() for one in given.split(",")})
    for one in found:
        if one not in list(Status):
            raise InputError(f"--state {one}: there are {', '.join(ALLOWED)}")
        if one not in ALLOWED:
            why = _WHY_NOT.get(Status(one), "was accepted, and would get it twice")
            raise InputError(f"--state {one}: a message that is {one} {why}; there are {', '.join(ALLOWED)}")
    return found


def source(session: Session, name: str, file: CampaignFile) -> Campaign:
    """The campaign ``name``, whose messages may move to that of ``file``.

    Raises:
      ConflictError: It may be sending them itself.
      InputError: It is of another app, or one of both asks for payments.
    """
    old = campaigns.get(session, name)
    app = session.get_one(App, old.app_id)
    if app.name != file.app:
        raise InputError(
            f"{file.name} is of app {file.app}, {name} of app {app.name}; a message moves within its app only"
        )
    if Lane.PAYMENT in (old.lane, file.lane):
        raise InputError(
            "a request for payment keeps its campaign, so that its reference names one request: "
            f"`disparo campaign amend {name} FILE` corrects it, `disparo campaign retry {name}` repeats what failed"
        )
    _refuse_moving(old)
    return old


def _refuse_moving(old: Campaign) -> None:
    if old.state not in (CampaignState.PAUSED, CampaignState.FINISHED, CampaignState.CANCELLED):
        raise ConflictError(
            f"{old.name} is {old.state} and sends its messages itself; `disparo campaign pause {old.name}` first, "
            "then the same command again"
        )


def digest(old: Campaign, states: list[str]) -> str:
    """What stands for the sha256 of a list: the same command goes on, another one is refused."""
    return hashlib.sha256(f"campaign {old.id} {','.join(sorted(states))}".encode()).hexdigest()


def is_sending(session: Session, old: Campaign) -> bool:
    """Whether a worker still has messages of it, which it sends or puts back within a minute."""
    found = session.execute(
        text("SELECT EXISTS (SELECT 1 FROM messages WHERE campaign_id = :old AND status = 'sending')"),
        {"old": old.id},
    )
    return bool(found.scalar_one())


def columns(session: Session, old: Campaign) -> list[str]:
    """The columns of its messages, as one of them has them: all are of one list."""
    params = session.execute(
        text("SELECT CAST(params AS text) FROM messages WHERE campaign_id = :old LIMIT 1"), {"old": old.id}
    ).scalar()
    return list(orjson.loads(params or "{}"))


def probe(session: Session, old: Campaign, states: list[str], file: CampaignFile, now: datetime) -> None:
    """Return when one of the first messages that would move can be sent.

    Raises:
      InputError: There are none, or none of the first can be sent with the new content; tells of the first.
    """
    rows = session.execute(
        text(f"SELECT {_COLUMNS} FROM messages m WHERE {_WANTED} LIMIT :limit"),
        {"old": old.id, "states": states, "limit": PROBED},
    ).all()
    if not rows:
        raise InputError(f"{old.name} has no message that is {' or '.join(states)} and may be sent again")
    mover, first = _Mover(file, old, now, []), None
    for row in rows:
        refusal = mover.refusal(row)
        if refusal is None:
            return
        first = first or refusal
    assert first is not None  # noqa: S101 - for the type checker
    raise InputError(
        f"none of the {'first ' if len(rows) == PROBED else ''}{len(rows):,} messages of {old.name} can be sent "
        f"with the new content; line {first.line}: {first.explanation}"
    )


def count(session: Session, old: Campaign, states: list[str]) -> tuple[int, int]:
    """How many messages may move, and how many are left out because they may have been received."""
    fit, unsure = session.execute(
        text(f"""
            SELECT count(*) FILTER (WHERE {_SURELY_NOT}), count(*) FILTER (WHERE NOT {_SURELY_NOT})
            FROM messages m WHERE m.campaign_id = :old AND m.status = ANY(:states) AND m.moved_to IS NULL"""),
        {"old": old.id, "states": states},
    ).one()
    return int(fit), int(unsure)


def load(
    session: Session,
    campaign: Campaign,
    loaded: Import,
    old: Campaign,
    states: list[str],
    file: CampaignFile,
    now: datetime,
    *,
    after_page: Callable[[Loaded], None],
) -> Loaded:
    """Move what is left of the old campaign's messages, committing page by page; ``after_page`` is told of each.

    What waits in the old campaign is cancelled there as it moves. What is refused stays there as it was.

    Raises:
      ConflictError: The new campaign was cancelled or another process imports it; the old one goes on, or a
        worker has messages of it still.
    """
    total, mover = Loaded(), _Mover(file, old, now, columns(session, old))
    # What comes later is of other campaigns, or this one's own.
    end = session.execute(text("SELECT max(id) FROM messages")).scalar_one() or 0
    session.commit()
    while True:
        hold(session, campaign, loaded)
        _hold_source(session, old)
        first = session.execute(
            text(
                f"SELECT m.id FROM messages m WHERE m.id BETWEEN :next AND :end AND {_WANTED} ORDER BY m.id LIMIT 1"
            ),
            {"next": loaded.next_line, "end": end, "old": old.id, "states": states},
        ).scalar_one_or_none()
        if first is None:
            break
        rows = session.execute(
            text(f"""
                SELECT {_COLUMNS} FROM messages m WHERE m.id BETWEEN :first AND :last AND {_WANTED}
                ORDER BY m.id FOR UPDATE"""),
            {"first": first, "last": first + PAGE_IDS - 1, "old": old.id, "states": states},
        ).all()
        done = _move(session, campaign, loaded, mover, list(rows), now)
        note(loaded, done, first + PAGE_IDS)
        after_page(done)
        session.commit()
        total.accepted += done.accepted
        total.rejected += done.rejected
        total.duplicates += done.duplicates
    loaded.state = "done"
    return total


def _hold_source(session: Session, old: Campaign) -> None:
    """Keep the old campaign from going on until the page is committed."""
    session.refresh(old, with_for_update={"key_share": True})
    _refuse_moving(old)
    if is_sending(session, old):
        raise ConflictError(
            f"workers still have messages of {old.name}; they send them or put them back within a minute. "
            "The same command goes on then"
        )


class _Mover:
    """Says of messages of the old campaign whether the new one can send them, and as what."""

    def __init__(self, file: CampaignFile, old: Campaign, now: datetime, columns: list[str]) -> None:
        self._message, self._envelope = compile_message(file.message, file.options)
        self._raw, self._dedupe, self._needs_key = file.raw, file.effective_dedupe, file.dedupe == "key"
        # Amended since, it still is the deadline that rows got by their campaign, or an earlier one.
        self._not_after, self._keyed, self._now = old.not_after, old.dedupe == "key", now
        self._columns = columns

    def dedupe_key(self, row: Row[Any]) -> str | None:
        # The key itself stays with the old message; by it, this one is still compared.
        key = row.key or (row.dedupe_key if self._keyed else None)
        compared: str | None = {"recipient": row.recipient_key, "key": key, "none": None}[self._dedupe]
        return compared

    def not_after(self, row: Row[Any]) -> datetime | None:
        """The row's own deadline; the old campaign's does not count for the new one."""
        own: datetime | None = None if row.not_after == self._not_after else row.not_after
        return own

    def refusal(self, row: Row[Any]) -> Reject | None:
        own = self.not_after(row)
        if own is not None and own <= self._now:
            return self.reject(row, "bad_value", "its own not_after has passed")
        if self._needs_key and self.dedupe_key(row) is None:
            return self.reject(row, "no_key", "it has no key")
        try:
            check(self._message, self._envelope, _params(row), row.recipient, raw=self._raw)
        except PayloadError as err:
            return self.reject(row, "payload", str(err))
        except InputError as err:
            return self.reject(row, "bad_value", str(err))
        return None

    def reject(self, row: Row[Any], reason: str, explanation: str) -> Reject:
        params = _params(row)
        raw = [str(params.get(name, "")) for name in self._columns]
        return Reject(row.line or row.id, reason, explanation, raw)


def _params(row: Row[Any]) -> dict[str, Any]:
    params: dict[str, Any] = orjson.loads(row.params or "{}")
    return params


def _move(
    session: Session,
    campaign: Campaign,
    loaded: Import,
    mover: _Mover,
    rows: list[Row[Any]],
    now: datetime,
) -> Loaded:
    keys = [key for row in rows if (key := mover.dedupe_key(row)) is not None]
    # Nobody else adds to the new campaign: its lock is held.
    found = session.execute(
        text("SELECT dedupe_key, line FROM messages WHERE campaign_id = :id AND dedupe_key = ANY(:keys)"),
        {"id": campaign.id, "keys": keys},
    )
    there: dict[str, int | None] = {row.dedupe_key: row.line for row in found}
    moved, rejects = [], []
    for row in rows:
        key = mover.dedupe_key(row)
        if refusal := mover.refusal(row):
            rejects.append(refusal)
        elif key is not None and key in there:
            rejects.append(mover.reject(row, "duplicate", f"duplicate of line {there[key]}"))
        else:
            moved.append((row.id, key, mover.not_after(row)))
            if key is not None:
                there[key] = row.line
    if moved:
        ids, dedupe_keys, deadlines = map(list, zip(*moved, strict=True))
        session.execute(
            _COPY,
            {
                "ids": ids,
                "dedupe_keys": dedupe_keys,
                "deadlines": deadlines,
                "new": campaign.id,
                "lane": campaign.lane,
                "not_after": campaign.not_after,
            },
        )
        session.execute(
            _SETTLE, {"ids": ids, "new": campaign.id, "reason": f"moved to {campaign.name}", "now": now}
        )
    return store_rejects(session, loaded, len(moved), rejects)


_COPY = text("""
    INSERT INTO messages (app_id, campaign_id, lane, recipient, recipient_key, dedupe_key, line, params, not_after)
    SELECT m.app_id, :new, :lane, m.recipient, m.recipient_key, moved.dedupe_key, m.line, m.params,
        least(moved.not_after, CAST(:not_after AS timestamptz))
    FROM unnest(CAST(:ids AS bigint[]), CAST(:dedupe_keys AS text[]), CAST(:deadlines AS timestamptz[]))
        AS moved (id, dedupe_key, not_after) JOIN messages m ON m.id = moved.id ORDER BY m.id""")
_SETTLE = text(f"""
    WITH was AS (SELECT id, status FROM messages WHERE id = ANY(:ids)),
    changed AS (
        UPDATE messages m SET
            moved_to = :new,
            status = CASE WHEN was.status = 'pending' THEN 'cancelled' ELSE m.status END,
            settled_at = CASE WHEN was.status = 'pending' THEN CAST(:now AS timestamptz) ELSE m.settled_at END,
            reason = CASE WHEN was.status = 'failed' THEN m.reason ELSE :reason END
        FROM was WHERE m.id = was.id
        RETURNING m.campaign_id, was.status AS before, m.status),
    {DELTAS_OF_CHANGED}
    SELECT count(*) FROM changed""")
