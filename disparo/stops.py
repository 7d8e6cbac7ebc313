"""What holds an app, a lane of it or a template: put in force by a person or a refusal, ended by a person or a probe.

A stop that a refusal tripped ends when one real message, its probe, is accepted. A person's resume asks for that
probe at once; where the fault may heal by itself, the scheduler asks for it from time to time. The stop's row names
the probe, so that this message and no other may leave under it. A probe that is refused for the same fault goes back
and waits like the others.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, select, text
from sqlalchemy.orm import Session

from disparo import actions, apps, notifications
from disparo.apps import OPERATOR
from disparo.batches import Job
from disparo.errors import ConflictError
from disparo.models import App, Stop
from disparo.statuses import ACCEPTED_OR_FURTHER
from disparo.whatsapp.codes import Rule

#: A probe without an outcome for so long is lost, and another one is named: no POST takes longer.
LOST_AFTER = timedelta(seconds=45)
#: The waits between probes grow by this.
GROWTH = 2.0
#: After a probe that told nothing of the fault, the next one follows at once,
SOON = timedelta(seconds=1)
#: and after one that was not answered, or refused for now, in a while.
LATER = timedelta(seconds=15)
#: Messages of a campaign that must all have failed alike before its template stops.
FIRST_K = 10


@dataclass(frozen=True, slots=True)
class Fault:
    """A refusal that means more than its message."""

    code: str
    reason: str
    hint: str
    rule: Rule


@dataclass(frozen=True, slots=True)
class Probe:
    """A message that may leave under a stop."""

    stop_id: int
    app_id: int
    lane: str
    message_id: int


@dataclass(frozen=True, slots=True)
class Resumed:
    """What a resume came to: stops that ended, and probes that decide about the others."""

    ended: list[Stop]
    probes: list[Probe]


def pause(
    session: Session,
    app: App,
    scope: str = "app",
    key: str = "",
    *,
    reason: str,
    hint: str = "",
    code: str = OPERATOR,
) -> bool:
    """Stop an app, a lane or a template by a person's will; False when it was stopped already.

    A stop that would end by itself is a person's to end from now on.
    """
    made = _insert(session, app.id, scope, key, code, reason, hint, None, None, None)
    if made is None:
        session.execute(
            text("""
                UPDATE stops SET probe_at = NULL, probe_message_id = NULL
                WHERE app_id = :app_id AND scope = :scope AND key = :key AND ended_at IS NULL"""),
            {"app_id": app.id, "scope": scope, "key": key},
        )
        return False
    _tell(session, app.name, scope, key, code, reason, hint)
    return True


def trip(
    session: Session,
    app_id: int,
    scope: str,
    key: str,
    fault: Fault,
    *,
    now: datetime,
    epoch: int | None = None,
    message_id: int | None = None,
) -> bool:
    """Stop an app, a lane or a template because of a refusal; whether it was not stopped before.

    An answer to a request that began before the last resume (another ``epoch``) tells of a fault that was mended
    since, so it stops nothing.
    """
    rule, name = fault.rule, session.get_one(App, app_id).name
    hint = _named(fault.hint, name)
    probe_at = now + timedelta(seconds=rule.probe_seconds) if rule.probes else None
    made = _insert(session, app_id, scope, key, fault.code, fault.reason, hint, epoch, message_id, probe_at)
    if made is None:
        return False
    _tell(session, name, scope, key, fault.code, fault.reason, hint)
    actions.record_action(
        session,
        "pause",
        f"app:{name}",
        actor="disparo",
        why=fault.reason,
        scope=scope,
        key=key or None,
        code=fault.code,
    )
    return True


def _named(hint: str, app: str) -> str:
    """A hint of the table with its command as it is typed for this app."""
    return re.sub(r"`disparo app resume(?=`| --)", f"`disparo app resume {app}", hint)


def _insert(
    session: Session,
    app_id: int,
    scope: str,
    key: str,
    code: str,
    reason: str,
    hint: str,
    epoch: int | None,
    message_id: int | None,
    probe_at: datetime | None,
) -> int | None:
    made: int | None = session.execute(
        text("""
            INSERT INTO stops (app_id, scope, key, code, reason, hint, message_id, probe_at)
            SELECT id, :scope, :key, :code, :reason, :hint, :message_id, :probe_at FROM apps
            WHERE id = :app_id AND (CAST(:epoch AS integer) IS NULL OR epoch = :epoch)
            ON CONFLICT (app_id, scope, key) WHERE ended_at IS NULL DO NOTHING
            RETURNING id"""),
        {
            "app_id": app_id,
            "scope": scope,
            "key": key,
            "code": code,
            "reason": reason,
            "hint": hint,
            "message_id": message_id,
            "epoch": epoch,
            "probe_at": probe_at,
        },
    ).scalar()
    return made


def _tell(session: Session, app: str, scope: str, key: str, code: str, reason: str, hint: str) -> None:
    notifications.add(
        session,
        f"{scope}_paused",
        f"app:{app}",
        f"{in_words(app, scope, key)} is paused: {reason.rstrip('.')}. {hint}".strip(),
        code=code,
        scope=scope,
        key=key or None,
    )


def in_words(app: str, scope: str, key: str) -> str:
    """``loja``, ``lane marketing of loja``, ``template oferta/pt_BR of loja``."""
    return app if scope == "app" else f"{scope} {key} of {app}"


def is_stopped(session: Session, app_id: int, scope: str, key: str) -> bool:
    """Whether a stop of that width is in force."""
    return bool(
        session.execute(
            text("""
                SELECT EXISTS (SELECT 1 FROM stops
                WHERE app_id = :app_id AND scope = :scope AND key = :key AND ended_at IS NULL)"""),
            {"app_id": app_id, "scope": scope, "key": key},
        ).scalar_one()
    )


def resume(
    session: Session,
    app: App,
    now: datetime,
    *,
    lane: str | None = None,
    by: str | None = None,
    probe: bool = False,
    shut: Sequence[int] = (),
) -> Resumed:
    """Let an app (or one lane of it) send again; what waited goes on where it was.

    Args:
      probe: Let one message go first where a refusal had stopped it, and end that stop when it is accepted
        (`release_probes` names it to a worker). A stop under which no message may leave now ends at once.
      shut: Campaigns whose send window is closed now.

    Raises:
      ConflictError: The send fence holds it: what the database says may be sent may have been sent already.
    """
    # Two that resume at once, or one that trips: one after the other.
    session.refresh(app, with_for_update=True)
    held = apps.stops(session, app.id)
    if fence := next(filter(apps.is_fence, held), None):
        raise ConflictError(f"{app.name} stays paused: {fence.reason}")
    app.epoch += 1
    chosen = [stop for stop in held if lane is None or (stop.scope == "lane" and stop.key == lane)]
    # What no message was refused for is a person's own.
    ended = [stop for stop in chosen if not probe or stop.message_id is None]
    for stop in ended:
        _end(session, app.name, stop, now, by or actions.operator())
    session.flush()
    probes = []
    for stop in chosen:
        if stop in ended:
            continue
        found = _name(session, stop, now, shut)
        if found is None:
            _end(session, app.name, stop, now, by or actions.operator())
            ended.append(stop)
        else:
            probes.append(found)
    session.flush()
    return Resumed(ended, probes)


# What it refused for now (131048) would wait on by itself, long after the others have left.
_DUE_AT_ONCE = text("""
    UPDATE messages SET due_at = :now WHERE id IN (
        SELECT id FROM messages
        WHERE app_id = :app_id AND status = 'pending' AND due_at > :now AND code = :code
            AND (:scope <> 'lane' OR lane = :key)
        FOR UPDATE SKIP LOCKED)""")


def _end(session: Session, app: str, stop: Stop, now: datetime, by: str) -> None:
    stop.ended_at, stop.ended_by = now, by
    session.execute(
        _DUE_AT_ONCE,
        {"app_id": stop.app_id, "code": stop.code, "scope": stop.scope, "key": stop.key, "now": now},
    )
    notifications.add(
        session,
        f"{stop.scope}_resumed",
        f"app:{app}",
        f"{in_words(app, stop.scope, stop.key)} sends again, by {by}",
        code=stop.code,
        scope=stop.scope,
        key=stop.key or None,
    )


# -- probes ----------------------------------------------------------------------------------------------

# The lanes in the order in which their messages are risked. Of each running campaign the first message that may
# leave, and single ones.
_CANDIDATE = text("""
    WITH other AS (
        SELECT scope, key FROM stops WHERE app_id = :app_id AND ended_at IS NULL AND id <> :stop_id)
    SELECT m.id, m.lane FROM (
        SELECT first.id, first.lane, coalesce(first.template, c.template) AS template FROM campaigns c
        CROSS JOIN LATERAL (
            SELECT id, lane, template FROM messages
            WHERE campaign_id = c.id AND status = 'pending' AND (due_at IS NULL OR due_at <= :now)
                AND (not_after IS NULL OR not_after > :now) AND (c.first IS NULL OR id <= c.released_to)
            ORDER BY id LIMIT 1) AS first
        WHERE c.app_id = :app_id AND c.state = 'running' AND c.id <> ALL(:shut)
        UNION ALL (
            SELECT id, lane, template FROM messages
            WHERE app_id = :app_id AND status = 'pending' AND due_at <= :now AND campaign_id IS NULL
                AND (not_after IS NULL OR not_after > :now)
                AND (:scope = 'app' OR (:scope = 'lane' AND lane = :key) OR (:scope = 'template' AND template = :key))
            ORDER BY due_at LIMIT 20)) AS m
    WHERE (:scope = 'app' OR (:scope = 'lane' AND m.lane = :key) OR (:scope = 'template' AND m.template = :key))
        AND NOT EXISTS (
            SELECT 1 FROM other o WHERE o.scope = 'app' OR (o.scope = 'lane' AND o.key = m.lane)
                OR (o.scope = 'template' AND o.key = m.template))
    ORDER BY array_position(ARRAY['marketing', 'utility', 'payment'], m.lane), m.id LIMIT 1""")


def _name(session: Session, stop: Stop, now: datetime, shut: Sequence[int]) -> Probe | None:
    """Name the next probe of a stop; None when no message may leave now."""
    found = session.execute(
        _CANDIDATE,
        {
            "app_id": stop.app_id,
            "stop_id": stop.id,
            "scope": stop.scope,
            "key": stop.key,
            "now": now,
            "shut": list(shut),
        },
    ).one_or_none()
    if found is None:
        return None
    stop.probe_message_id = found.id
    stop.probes += 1
    stop.probe_at = now + LOST_AFTER
    session.flush()
    _say_named(session, found.id, None)
    return Probe(stop.id, stop.app_id, found.lane, found.id)


def _say_named(session: Session, message_id: int, at: datetime | None) -> None:
    session.execute(
        text(
            "UPDATE messages SET released_at = :at, claimed_by = NULL WHERE id = :id AND status = 'pending'"
        ),
        {"id": message_id, "at": at},
    )


_WAITING = text("""
    SELECT s.id, s.app_id, s.probe_at <= :now AS due, m.lane, m.id AS message_id FROM stops s
    LEFT JOIN messages m ON m.id = s.probe_message_id AND m.status = 'pending' AND m.released_at IS NULL
        AND (m.due_at IS NULL OR m.due_at <= :now)
    WHERE s.ended_at IS NULL AND s.probe_at IS NOT NULL AND (s.probe_at <= :now OR m.id IS NOT NULL)
    ORDER BY s.id FOR UPDATE OF s SKIP LOCKED""")


def release_probes(session: Session, now: datetime, *, shut: Sequence[int] = ()) -> list[Probe]:
    """Name the probes whose time has come, and again those that were put back before they could leave.

    The caller commits, then enqueues them.
    """
    rows: Sequence[Row[Any]] = session.execute(_WAITING, {"now": now}).all()
    probes = []
    for row in rows:
        if row.due:
            found = _name(session, session.get_one(Stop, row.id), now, shut)
            if found is not None:
                _say_named(session, found.message_id, now)
                probes.append(found)
        else:
            _say_named(session, row.message_id, now)
            probes.append(Probe(row.id, row.app_id, row.lane, row.message_id))
    return probes


def undecided(session: Session, stop_ids: Sequence[int]) -> list[Stop]:
    """Those of the stops that are in force still."""
    query = select(Stop).where(Stop.id.in_(stop_ids), Stop.ended_at.is_(None)).order_by(Stop.id)
    return list(session.scalars(query))


def as_jobs(probes: Sequence[Probe]) -> list[Job]:
    """What to enqueue for them."""
    return [Job(one.app_id, one.lane, message_ids=(one.message_id,), probe=True) for one in probes]


def pass_probe(session: Session, message_id: int, now: datetime) -> list[Stop]:
    """End the stops of which an accepted message was the probe; those that ended."""
    # The app before its stops, as `resume` locks them.
    session.execute(
        text("""
            SELECT 1 FROM apps WHERE id IN (SELECT app_id FROM messages WHERE id = :id) FOR UPDATE"""),
        {"id": message_id},
    )
    ended = _probed(session, message_id)
    for stop in ended:
        app = session.get_one(App, stop.app_id, with_for_update=True)
        # What still comes of requests from before tells of a fault that is over.
        app.epoch += 1
        _end(session, app.name, stop, now, "disparo")
        actions.record_action(
            session,
            "resume",
            f"app:{app.name}",
            actor="disparo",
            why="a probe was accepted",
            scope=stop.scope,
            key=stop.key or None,
            code=stop.code,
        )
    session.flush()
    return ended


def fail_probe(session: Session, message_id: int, scope: str, key: str, fault: Fault, now: datetime) -> None:
    """Keep the stop of this width, whose probe was refused by ``fault``, and say when to try again.

    Stops of another width, whose probe it was too, have learnt nothing: they try again in a while.
    """
    rule = fault.rule
    for stop in _probed(session, message_id):
        stop.probe_message_id = None
        if (stop.scope, stop.key) != (scope, key):
            stop.probe_at = now + LATER
            continue
        name = session.get_one(App, stop.app_id).name
        stop.code, stop.reason, stop.hint = fault.code, fault.reason, _named(fault.hint, name)
        seconds = min(rule.probe_cap_seconds, rule.probe_seconds * GROWTH ** min(stop.probes, 32))
        stop.probe_at = now + timedelta(seconds=seconds) if stop.probes < rule.probes else None
    session.flush()


def repeat_probe(session: Session, message_id: int, after: timedelta, now: datetime) -> None:
    """Name another probe in a while: this one told nothing of the fault."""
    for stop in _probed(session, message_id):
        stop.probe_message_id, stop.probe_at = None, now + after
    session.flush()


def _probed(session: Session, message_id: int) -> list[Stop]:
    query = (
        select(Stop)
        .where(Stop.probe_message_id == message_id, Stop.ended_at.is_(None))
        .order_by(Stop.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return list(session.scalars(query))


# -- the first messages of a campaign ----------------------------------------------------------------------

_FURTHER = ", ".join(f"'{status}'" for status in ACCEPTED_OR_FURTHER)
_ALL_FAILED = text(f"""
    SELECT c.name, c.app_id, c.template, failed.message_id FROM campaigns c
    JOIN (SELECT campaign_id, max(id) AS message_id FROM messages WHERE id = ANY(:ids) GROUP BY campaign_id) AS failed
        ON failed.campaign_id = c.id
    WHERE c.template IS NOT NULL
        AND coalesce((SELECT sum(n) FROM (
            SELECT n FROM counters WHERE campaign_id = c.id AND status IN ({_FURTHER})
            UNION ALL SELECT n FROM counter_deltas WHERE campaign_id = c.id AND status IN ({_FURTHER})) AS n), 0) = 0
        AND (SELECT count(*) FROM (
            SELECT 1 FROM messages m WHERE m.campaign_id = c.id AND m.status = 'failed' AND m.code = ANY(:codes)
                AND coalesce(m.version, 1) = c.version
                AND m.failed_at > coalesce((
                    SELECT max(ended_at) FROM stops s
                    WHERE s.app_id = c.app_id AND s.scope = 'template' AND s.key = c.template), '-infinity')
            LIMIT :k) AS alike) >= :k
        AND NOT EXISTS (SELECT 1 FROM stops s WHERE s.app_id = c.app_id AND s.scope = 'template'
            AND s.key = c.template AND s.ended_at IS NULL)""")


def trip_mismatched(
    session: Session, message_ids: Sequence[int], codes: Sequence[str], fault: Fault, now: datetime
) -> list[tuple[int, str]]:
    """Stop the templates of campaigns of which all messages so far failed by the template's parameters.

    Args:
      message_ids: Messages that just failed so.
      codes: The codes that say it.
      fault: The last of them.

    Returns:
      (app id, template) of each stop that was made.
    """
    found = session.execute(_ALL_FAILED, {"ids": list(message_ids), "codes": list(codes), "k": FIRST_K}).all()
    made = []
    for row in found:
        reason = f"the first messages of {row.name} all failed: {fault.reason}"
        told = Fault(fault.code, reason, fault.hint, fault.rule)
        if trip(session, row.app_id, "template", row.template, told, now=now, message_id=row.message_id):
            made.append((row.app_id, row.template))
    return made
