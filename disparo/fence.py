"""The send fence: a database that is older than what was sent, or another installation's, sends nothing.

The row of table ``installation`` says whose the database is and holds an epoch that grows while messages are
claimed: together its mark. Each home keeps the highest mark that it has seen outside the database, in
``installation.json``. Where the two disagree, all apps are paused until a person says what became of the
database: `restored` or `adopt`.

Between two advances of the epoch a database and its backup have the same mark. What was claimed meanwhile
stands in the workers' journals, which forget nothing before the next advance; `lacks` compares by that.
"""

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from errno import ENOSPC
from pathlib import Path
from typing import ClassVar
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.orm import Session

from disparo import actions, apps, log, portfolios, recovery, reminders, stops
from disparo.counters import DELTAS_OF_CHANGED, add_deltas
from disparo.errors import ConflictError
from disparo.statuses import Status

FILE, LOCK = "installation.json", "installation.lock"

#: Codes of stops, and of messages that a restored backup left in doubt.
RESTORED, FOREIGN, ADOPTED = "database_restored", "foreign_database", "database_adopted"

#: What a person's decision adds to the epoch, so that it passes every home's mirror, whichever host it is on: at
#: a hundred advances a second that is three centuries.
JUMP = 2**40
#: So that no message id and no claim of the lost time comes again: a late answer would be taken for another's.
IDS_GAP, CLAIMS_GAP = 100_000_000, 1_000_000

logger = log.get(__name__)


@dataclass(frozen=True, slots=True)
class Mark:
    """Whose a database is, and how far it has sent."""

    installation_id: UUID
    epoch: int


@dataclass(frozen=True, slots=True)
class Restored:
    """The database is older than what was sent from it."""

    database: Mark

    code: ClassVar[str] = RESTORED
    hint: ClassVar[str] = (
        "T is when the backup was taken, e.g. '2026-12-03 03:00'; what may have been sent since then becomes unknown."
    )

    @property
    def reason(self) -> str:
        """A sentence for people."""
        return "this database is older than what this installation has sent; run `disparo db restored --taken-at T`"


@dataclass(frozen=True, slots=True)
class Foreign:
    """The database belongs to another installation, or is a copy of its."""

    database: Mark

    code: ClassVar[str] = FOREIGN
    hint: ClassVar[str] = "A copy of it would send the same messages once more; taken, it stays paused."

    @property
    def reason(self) -> str:
        """A sentence for people."""
        return f"this database belongs to installation {self.database.installation_id}; `disparo db adopt` to take it"


Finding = Restored | Foreign


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at the database came to; to be kept by `Mirror.keep` once its transaction is committed."""

    mark: Mark
    finding: Finding | None = None
    #: The epoch was advanced, so that what was claimed before the look cannot be forgotten any more.
    advanced: bool = False
    #: Another installation's database that has never held a message: it may be anyone's.
    blank: bool = False


class Mirror:
    """The highest mark that a home has seen, in its file and in memory; safe for its threads and processes.

    The file of another process of the home counts as soon as it is written. A missing or damaged one is as
    good as a new home: then there is nothing to compare with.
    """

    def __init__(self, home: Path) -> None:
        """Nothing is read or written yet."""
        self.path = home / FILE
        self._lock = home / LOCK
        self._mutex = threading.Lock()
        self._seen: Mark | None = None
        #: What tells one version of the file from another, and the mark that the present one holds.
        self._version: tuple[int, int, int] | None = None
        self._written: Mark | None = None
        self._told: set[str] = set()

    @property
    def seen(self) -> Mark | None:
        """The highest mark that this home has seen; None: there is nothing to compare with."""
        with self._mutex:
            self._read()
            return self._seen

    def keep(self, look: Look) -> bool:
        """Keep what a committed look has seen; False while another process is at the file: call it again."""
        if look.finding is not None:
            return True
        return self.replace(look.mark) if look.blank else self._remember(look.mark)

    def replace(self, mark: Mark) -> bool:
        """Forget what was seen, and begin anew with ``mark``; False when the file stayed taken for a second."""
        until = time.monotonic() + 1.0
        with self._mutex:
            logger.info("installation_taken", installation=str(mark.installation_id), path=str(self.path))
            self._seen = mark
            while not self._write(instead=True):
                if time.monotonic() > until:
                    return False
                time.sleep(0.01)
        return True

    def _remember(self, mark: Mark) -> bool:
        with self._mutex:
            self._read()
            if self._seen is None:
                logger.info(
                    "installation_seen_first",
                    installation=str(mark.installation_id),
                    path=str(self.path),
                    hint="nothing was there to compare the database with",
                )
                self._seen = mark
            elif self._seen.installation_id == mark.installation_id:
                self._seen = max(self._seen, mark, key=lambda one: one.epoch)
            # Else another process has taken another database for this home since the look.
            return self._written == self._seen or self._write()

    def _read(self) -> None:
        """Take what the file says, where it is newer than what is known."""
        try:
            stat = self.path.stat()
            version = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if version == self._version:
                return
            content = self.path.read_bytes()
        except FileNotFoundError:
            self._version = self._written = None
            return
        except OSError as err:
            self._tell(f"{self.path} cannot be read: {err.strerror}")
            return
        self._version, self._written = version, _parsed(content)
        found = self._written
        if found is None:
            self._tell(f"{self.path} is damaged and counts as missing; it is written anew")
        elif (
            self._seen is None
            # Only a person's decision, made by another process, gives a home another installation.
            or found.installation_id != self._seen.installation_id
            or found.epoch > self._seen.epoch
        ):
            self._seen = found

    def _write(self, *, instead: bool = False) -> bool:
        """Write what was seen, unless the file has more already; False while another process is at it."""
        wanted = self._seen
        assert wanted is not None  # noqa: S101 - both callers have just set it
        try:
            self._lock.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                # Never waited for: a process may be suspended while it has the lock.
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not instead:
                    self._read()
                if self._seen == wanted:
                    self._put(wanted)
            finally:
                os.close(lock)
        except BlockingIOError:
            return False
        except OSError as err:
            # What was seen stays in memory; a home that cannot be written keeps no journal either.
            self._tell(f"{self.path} cannot be written: {err.strerror}")
        return True

    def _put(self, mark: Mark) -> None:
        content = {"installation_id": str(mark.installation_id), "send_epoch": mark.epoch}
        new = self.path.with_name(f".{FILE}.new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            line = json.dumps(content).encode() + b"\n"
            if os.write(descriptor, line) != len(line):
                # A disk that fills up takes a part of it; the file as it was says more than a torn one.
                raise OSError(ENOSPC, os.strerror(ENOSPC))
            # A power cut is what backups are restored after, and it must not leave an empty file.
            os.fsync(descriptor)
            stat = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        new.replace(self.path)
        self._version, self._written = (stat.st_ino, stat.st_mtime_ns, stat.st_size), mark
        self._told.clear()

    def _tell(self, sentence: str) -> None:
        """Log a trouble once, however often it is met."""
        if sentence not in self._told:
            self._told.add(sentence)
            logger.warning("installation_file", problem=sentence)


def _parsed(content: bytes) -> Mark | None:
    try:
        values = json.loads(content)
        return Mark(UUID(values["installation_id"]), int(values["send_epoch"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


# -- what the workers do ---------------------------------------------------------------------------------


def current(session: Session) -> Mark:
    """The database's mark.

    Raises:
      ConflictError: It has none: it is being restored, or something removed it. Nothing may be claimed.
    """
    row = session.execute(text("SELECT id, send_epoch FROM installation")).one_or_none()
    if row is None:
        raise ConflictError(
            "the table installation is empty: this database is being restored, or its restore failed; "
            "nothing is sent from it"
        )
    return Mark(row.id, row.send_epoch)


def compare(mark: Mark, seen: Mark | None) -> Finding | None:
    """What is wrong with a database of that mark, for a home that has seen ``seen``; None: nothing."""
    if seen is None:
        return None
    if mark.installation_id != seen.installation_id:
        return Foreign(mark)
    return Restored(mark) if mark.epoch < seen.epoch else None


def require(session: Session, mirror: Mirror) -> None:
    """Return when what this transaction has claimed may be sent.

    Asked after the claim and in its transaction: rows that are locked cannot be replaced by a restore, so
    what the mark says is true of them.

    Raises:
      ConflictError: The database is older than what was sent, or another's: roll back.
    """
    seen = mirror.seen
    # The database is asked after the mirror: whoever advances it in between makes it newer, never older.
    finding = compare(current(session), seen)
    if finding is not None:
        raise ConflictError(finding.reason)


def look(session: Session, mirror: Mirror, *, claimed: bool = False) -> Look:
    """Compare the database with the mirror, and advance its epoch when this process has claimed since it last did.

    Args:
      claimed: Claims were committed since the last look that has ``advanced``.

    Raises:
      ConflictError: The database has no mark (see `current`).
    """
    seen = mirror.seen
    # In this order, as in `require`.
    mark = current(session)
    finding = compare(mark, seen)
    if isinstance(finding, Foreign) and mark.epoch == 0 and _holds_no_message(session):
        return Look(mark, blank=True)
    if finding is not None or not claimed:
        return Look(mark, finding)
    advanced = advance(session, mark)
    return Look(advanced or mark, advanced=advanced is not None)


def advance(session: Session, mark: Mark) -> Mark | None:
    """Let the epoch grow past ``mark``; None when another process is at it or it was replaced: look again."""
    row = session.execute(
        text("""
            UPDATE installation SET send_epoch = send_epoch + 1 WHERE singleton IN (
                SELECT singleton FROM installation WHERE id = :id AND send_epoch >= :epoch
                FOR UPDATE SKIP LOCKED)
            RETURNING id, send_epoch"""),
        {"id": mark.installation_id, "epoch": mark.epoch},
    ).one_or_none()
    return Mark(row.id, row.send_epoch) if row else None


def lacks(session: Session, claims: Collection[tuple[int, int]]) -> bool:
    """Whether the database would send again what was claimed (message id, claim): then it is older than the claims.

    Messages that are not there, or that have an outcome, prove nothing and are sent by nobody.
    """
    return bool(
        session.execute(
            text("""
                SELECT EXISTS (
                    SELECT 1 FROM unnest(CAST(:ids AS bigint[]), CAST(:claims AS integer[])) AS c (id, claim)
                    -- One after the other by its id; joined, they may be looked for in the whole table.
                    CROSS JOIN LATERAL (SELECT claims, status FROM messages WHERE id = c.id OFFSET 0) AS m
                    WHERE m.claims < c.claim AND m.status IN ('pending', 'sending'))"""),
            {"ids": [one[0] for one in claims], "claims": [one[1] for one in claims]},
        ).scalar_one()
    )


def trip(session: Session, finding: Finding, now: datetime) -> list[int]:
    """Pause every app that the fence does not hold yet; their ids. Repeat-safe, beside whatever else holds them.

    Does nothing when a person has decided since the finding.
    """
    return list(
        session.execute(
            text("""
                WITH undecided AS (
                    SELECT 1 FROM installation WHERE id = :id AND send_epoch < :decided FOR SHARE)
                INSERT INTO stops (app_id, scope, key, code, reason, hint, since)
                SELECT a.id, 'app', :key, :code, :reason, :hint, :now FROM apps a
                WHERE EXISTS (SELECT 1 FROM undecided) AND NOT EXISTS (
                    SELECT 1 FROM stops s
                    WHERE s.app_id = a.id AND s.scope = 'app' AND s.key = :key AND s.ended_at IS NULL)
                ORDER BY a.id
                ON CONFLICT (app_id, scope, key) WHERE ended_at IS NULL DO NOTHING
                RETURNING app_id"""),
            {
                "id": finding.database.installation_id,
                "decided": finding.database.epoch + JUMP,
                "key": apps.FENCE,
                "code": finding.code,
                "reason": finding.reason,
                "hint": f"{finding.hint} Found on host {socket.gethostname()}.",
                "now": now,
            },
        ).scalars()
    )


def holds(session: Session) -> bool:
    """Whether the fence is tripped now, by whichever home."""
    found = session.execute(
        text("""
            SELECT EXISTS (SELECT 1 FROM stops WHERE scope = 'app' AND key = :fence AND ended_at IS NULL)"""),
        {"fence": apps.FENCE},
    )
    return bool(found.scalar_one())


# -- what people decide ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Restoration:
    """What `restored` has done."""

    mark: Mark
    #: Campaign (None: single messages) → messages that became unknown.
    unknown: dict[str | None, int]
    #: Messages that are still to be sent: nothing can have sent them since the backup.
    pending: int


@dataclass(frozen=True, slots=True)
class Adoption:
    """What `adopt` has done."""

    mark: Mark
    #: Whose the database was.
    was: UUID
    #: Messages that wait in it.
    pending: int


# A message that was accepted under the fence, or a reminder, cannot have been sent in the lost time. What is
# due later neither. That an app or a campaign was paused in the backup proves nothing: it may have been resumed
# since, and nobody resumes it a second time thinking of doubles.
_MAY_HAVE_LEFT = """(
    m.status = 'sending' OR (
        m.status = 'pending'
        AND (m.due_at IS NULL OR m.due_at <= :now) AND (m.not_after IS NULL OR m.not_after > :taken_at)
        AND (m.created_at < :fenced_at OR EXISTS (
            SELECT 1 FROM reminders r WHERE r.message_id = m.id AND r.created_at < :fenced_at))
        AND (c.id IS NULL OR c.state IN ('draft', 'importing', 'running')
            OR (c.state IN ('scheduled', 'paused') AND coalesce(c.launch_at, :now) <= :now))
        AND NOT (:nothing_resumed AND (
            coalesce(c.state, '') IN ('draft', 'importing')
            OR (coalesce(c.state, '') = 'paused' AND NOT EXISTS (
                SELECT 1 FROM actions a
                WHERE a.subject = 'campaign:' || c.name AND a.verb = 'pause' AND a.at > :taken_at))
            OR EXISTS (
                SELECT 1 FROM stops s
                WHERE s.app_id = m.app_id AND s.ended_at IS NULL AND s.since <= :taken_at AND (
                    (s.scope = 'app' AND s.key <> :fence) OR (s.scope = 'lane' AND s.key = m.lane)
                    OR (s.scope = 'template' AND s.key = coalesce(m.template, c.template))))))))"""


def in_doubt(
    session: Session, taken_at: datetime, now: datetime, *, nothing_resumed: bool = False
) -> tuple[int, int]:
    """How many messages `restored` would make unknown, reminders that are due included, and how many stay pending."""
    values = _values(session, taken_at, now, nothing_resumed=nothing_resumed)
    unknown, pending = session.execute(
        text(f"""
            SELECT count(*) FILTER (WHERE {_MAY_HAVE_LEFT}), count(*) FILTER (WHERE NOT {_MAY_HAVE_LEFT})
            FROM messages m LEFT JOIN campaigns c ON c.id = m.campaign_id
            WHERE m.status IN ('pending', 'sending')"""),
        values,
    ).one()
    due = session.execute(
        text("""
            SELECT count(*) FROM reminders
            WHERE status = 'scheduled' AND due_at <= :now AND created_at < :fenced_at"""),
        values,
    ).scalar_one()
    return unknown + due, pending


def restored(
    session: Session,
    taken_at: datetime,
    now: datetime,
    mirror: Mirror,
    *,
    nothing_resumed: bool = False,
    actor: str | None = None,
) -> Restoration:
    """Make unknown what may have been sent since the backup was taken, and let the rest go on.

    Unknown becomes what was being sent, what was due by now and what waited in its turn, in paused apps and
    campaigns too; reminders that came due are made messages for that. What is due later, and what was accepted
    since the fence tripped, stays pending. An import that was unfinished counts as launched since. One
    transaction; the caller commits, then calls `Mirror.replace` with the mark.

    Args:
      taken_at: When the backup was taken.
      nothing_resumed: A person knows that nothing which was paused or not launched in the backup was resumed or
        launched since, so it stays pending.

    Raises:
      ConflictError: The database is another installation's.
    """
    seen = mirror.seen
    finding = compare(current(session), seen)
    if isinstance(finding, Foreign):
        raise ConflictError(finding.reason)
    values = _values(session, taken_at, now, nothing_resumed=nothing_resumed)
    while reminders.release_due(session, now):
        pass
    if not nothing_resumed:
        _count_as_launched(session, values)
    reason = f"it may have been sent after the backup of {taken_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    rows = session.execute(
        text(f"""
            WITH was AS (
                SELECT m.id, m.status FROM messages m LEFT JOIN campaigns c ON c.id = m.campaign_id
                WHERE {_MAY_HAVE_LEFT} ORDER BY m.id FOR UPDATE OF m),
            changed AS (
                UPDATE messages m SET status = 'unknown', code = :code, reason = :reason, settled_at = :now,
                    released_at = NULL, claims = m.claims + :claims_gap
                FROM was WHERE m.id = was.id
                RETURNING m.campaign_id, was.status AS before, m.status),
            {DELTAS_OF_CHANGED}
            SELECT (SELECT c.name FROM campaigns c WHERE c.id = changed.campaign_id), count(*)
            FROM changed GROUP BY changed.campaign_id ORDER BY changed.campaign_id NULLS FIRST"""),
        values | {"code": RESTORED, "reason": reason, "claims_gap": CLAIMS_GAP},
    ).all()
    unknown: dict[str | None, int] = {name: int(n) for name, n in rows}
    _begin_anew(session)
    portfolios.count_all_anew(session)
    # The mark before the stops: a trip that comes in between waits for it, and then finds that it is decided.
    mark = _decide(session, seen)
    _lift(session, now, (RESTORED, FOREIGN))
    actions.record_action(
        session,
        "restored",
        "database",
        actor=actor,
        taken_at=taken_at.isoformat(),
        unknown=sum(unknown.values()),
        nothing_resumed=nothing_resumed,
    )
    session.flush()
    return Restoration(mark, unknown, _pending(session))


def adopt(session: Session, now: datetime, mirror: Mirror, *, actor: str | None = None) -> Adoption:
    """Take another installation's database (or a copy of it) for this home; all its apps stay paused.

    It gets the installation id that this home has, so that the other hosts of this installation know it too, or
    a new one. What waits in it may be sent by its former installation as well, so an ordinary stop holds each
    app until a person resumes it. Of a database that is this home's already only a fence that said otherwise is
    lifted. The caller commits, then calls `Mirror.replace` with the mark.

    Raises:
      ConflictError: It is this home's own, restored from a backup.
    """
    seen, was = mirror.seen, current(session)
    if seen is not None and seen.installation_id == was.installation_id:
        finding = compare(was, seen)
        if finding is not None:
            raise ConflictError(finding.reason)
        if _lift(session, now, (FOREIGN,)):
            actions.record_action(session, "adopt", "database", actor=actor)
        session.flush()
        return Adoption(was, was.installation_id, _pending(session))
    for app in apps.listing(session):
        stops.pause(
            session,
            app,
            code=ADOPTED,
            reason=f"this database was taken over from installation {was.installation_id}, which may send what waits in it",
            hint="Cancel what this installation must not send, then let the app send.",
        )
    _begin_anew(session)
    mark = _decide(session, seen, seen.installation_id if seen else uuid4())
    _lift(session, now, (RESTORED, FOREIGN))
    actions.record_action(
        session,
        "adopt",
        "database",
        actor=actor,
        was=str(was.installation_id),
        installation=str(mark.installation_id),
    )
    session.flush()
    return Adoption(mark, was.installation_id, _pending(session))


def _values(
    session: Session, taken_at: datetime, now: datetime, *, nothing_resumed: bool
) -> dict[str, object]:
    """What `_MAY_HAVE_LEFT` asks for."""
    tripped = session.execute(
        text("""
            SELECT min(since) FROM stops
            WHERE scope = 'app' AND key = :fence AND ended_at IS NULL AND since > :taken_at"""),
        {"fence": apps.FENCE, "taken_at": taken_at},
    ).scalar_one()
    return {
        "taken_at": taken_at,
        "now": now,
        # Later than anything where no worker has tripped the fence: nobody knows then what is newer.
        "fenced_at": tripped or datetime.max.replace(tzinfo=UTC),
        "fence": apps.FENCE,
        "nothing_resumed": nothing_resumed,
    }


def _count_as_launched(session: Session, values: dict[str, object]) -> None:
    """Let unfinished imports of the backup run: launched again by the same command, they might be sent twice."""
    opened = session.execute(
        text("""
            UPDATE campaigns c SET state = 'running', launched_at = :now,
                total = (SELECT count(*) FROM messages m WHERE m.campaign_id = c.id)
            WHERE c.state IN ('draft', 'importing') AND c.created_at < :fenced_at
            RETURNING c.id, c.total"""),
        values,
    ).all()
    # Rows of an unfinished import were never counted.
    add_deltas(session, [(campaign_id, Status.PENDING, total) for campaign_id, total in opened])


def _begin_anew(session: Session) -> None:
    """Keep apart what workers, journals and queues still know of another state of this database."""
    session.execute(
        text("UPDATE messages SET claims = claims + :gap WHERE status IN ('pending', 'sending')"),
        {"gap": CLAIMS_GAP},
    )
    session.execute(
        text("""
            SELECT setval(pg_get_serial_sequence('messages', 'id'),
                nextval(pg_get_serial_sequence('messages', 'id')) + :gap)"""),
        {"gap": IDS_GAP},
    )
    # Their jobs are in no queue, though the workers that held them may live.
    recovery.release_everything_again(session)


def _decide(session: Session, seen: Mark | None, installation_id: UUID | None = None) -> Mark:
    row = session.execute(
        text("""
            UPDATE installation SET id = coalesce(:id, id), send_epoch = greatest(send_epoch, :seen) + :jump
            RETURNING id, send_epoch"""),
        {"id": installation_id, "seen": seen.epoch if seen else 0, "jump": JUMP},
    ).one()
    return Mark(row.id, row.send_epoch)


def _lift(session: Session, now: datetime, codes: tuple[str, ...]) -> list[int]:
    lifted = list(
        session.execute(
            text("""
                UPDATE stops SET ended_at = :now
                WHERE scope = 'app' AND key = :fence AND code = ANY(:codes) AND ended_at IS NULL
                RETURNING app_id"""),
            {"now": now, "fence": apps.FENCE, "codes": list(codes)},
        ).scalars()
    )
    # As a resume does: what a request from before answers stops nothing.
    session.execute(text("UPDATE apps SET epoch = epoch + 1 WHERE id = ANY(:ids)"), {"ids": lifted})
    return lifted


def _pending(session: Session) -> int:
    found = session.execute(text("SELECT count(*) FROM messages WHERE status = 'pending'"))
    return int(found.scalar_one())


def _holds_no_message(session: Session) -> bool:
    found = session.execute(text("SELECT NOT EXISTS (SELECT 1 FROM messages)"))
    return bool(found.scalar_one())
