"""What holds an app, a lane of it or a template: put in force by a person or a refusal, ended by a person or a probe.

A stop that a refusal tripped ends when one real message, its probe, is accepted. A person's resume asks for that
probe at once; where the fault may heal by itself, the scheduler asks for it from time to time. The stop's row names
the probe, so that this message and no other may leave under it. A probe that is refused for the same fault goes back
and waits like the others.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, select, text
from sqlalchemy.orm import Session

from disparo import actions, apps, notifications, portfolios
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
#: and after one that was not answered, or refused for now, in a while, which grows up to the second: what is not
#: answered may be unknown for good.
LATER, LATEST = timedelta(seconds=15), timedelta(minutes=5)
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
    while _insert(session, app.id, scope, key, code, reason, hint, None, None) is None:
        taken_over = session.execute(
            text("""
                UPDATE stops SET probe_at = NULL, probe_message_id = NULL
                WHERE app_id = :app_id AND scope = :scope AND key = :key AND ended_at IS NULL RETURNING id"""),
            {"app_id": app.id, "scope": scope, "key": key},
        )
        if taken_over.first() is not None:
            return False
        # It has just ended, by a probe that was accepted or by another person.
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
    if epoch is not None:
        # Shared, so that a resume that is under way is waited for and counts.
        present = select(App.epoch).where(App.id == app_id).with_for_update(read=True)
        if session.scalars(present).one() != epoch:
            return False
    rule, name = fault.rule, session.get_one(App, app_id).name
    hint = _named(fault.hint, name)
    probe_at = now + timedelta(seconds=rule.probe_seconds) if rule.probes else None
    made = _insert(session, app_id, scope, key, fault.code, fault.reason, hint, message_id, probe_at)
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
    message_id: int | None,
    probe_at: datetime | None,
) -> int | None:
    made: int | None = session.execute(
        text("""
            INSERT INTO stops (app_id, scope, key, code, reason, hint, message_id, probe_at)
            VALUES (:app_id, :scope, :key, :code, :reason, :hint, :message_id, :probe_at)
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
    # Two that resume at once, or one that trips: one after the other. What only refers to the app, as batches do, does
    # not wait for it: their tick may hold the stops.
    session.refresh(app, with_for_update={"key_share": True})
    held = apps.stops(session, app.id)
    if fence := next(filter(apps.is_fence, held), None):
        raise ConflictError(f"{app.name} stays paused: {fence.reason}")
    app.epoch += 1
    chosen = [stop for stop in held if lane is None or (stop.scope == "lane" and stop.key == lane)]
    for stop in chosen:
        # What the session knows of it may be older: a probe may just have been refused.
        session.refresh(stop, with_for_update=True)
    # What no message was refused for is a person's own.
    ended = [stop for stop in chosen if not probe or stop.message_id is None]
    for stop in ended:
        _end(session, app.name, stop, now, by or actions.operator())
    session.flush()
    probes: list[Probe] = []
    faults = [stop for stop in chosen if stop not in ended]
    for stop in faults:
        named = {one.stop_id for one in probes}
        if stop.id in named:
            continue
        together = [one for one in faults if one.id not in named and one not in ended]
        found = _name(session, stop, now, shut, together)
        if not found:
            _end(session, app.name, stop, now, by or actions.operator())
            ended.append(stop)
        probes += found
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

# The lanes in the order in which their messages are risked. Of each running campaign one message that may leave, and
# single ones. Each branch is looked up in an index, and the one that may meet many in vain comes last.
_MAY_LEAVE = "m.status = 'pending' AND (m.not_after IS NULL OR m.not_after > :now)"
_OF_WIDTH = "(:scope = 'app' OR (:scope = 'lane' AND {0}.lane = :key) OR (:scope = 'template' AND {0}.template = :key))"
_NOT_UNDER_ANOTHER = """NOT EXISTS (
    SELECT 1 FROM other o WHERE o.scope = 'app' OR (o.scope = 'lane' AND o.key = {0}.lane)
        OR (o.scope = 'template' AND o.key = {0}.template))"""
_CANDIDATE = text(f"""
    WITH other AS (
        SELECT scope, key FROM stops WHERE app_id = :app_id AND ended_at IS NULL AND id <> ALL(:together))
    SELECT found.id, found.lane, found.template FROM (
        SELECT one.id, one.lane, coalesce(one.template, c.template) AS template FROM campaigns c
        CROSS JOIN LATERAL (
            (SELECT m.id, m.lane, m.template FROM batches b JOIN messages m
                ON m.campaign_id = c.id AND m.id BETWEEN b.first_message_id AND b.last_message_id
             WHERE b.app_id = c.app_id AND b.campaign_id = c.id AND b.state <> 'done' AND m.due_at IS NULL
                AND {_MAY_LEAVE} AND {portfolios.CAMPAIGN_FITS} LIMIT 1)
            UNION ALL
            (SELECT m.id, m.lane, m.template FROM messages m
             WHERE m.app_id = c.app_id AND m.campaign_id = c.id AND m.lane = c.lane AND m.due_at <= :now
                AND {_MAY_LEAVE} AND {portfolios.message_fits("m", "coalesce(m.template, c.template)")}
             ORDER BY m.due_at, m.id LIMIT 1)
            UNION ALL
            (SELECT m.id, m.lane, m.template FROM messages m
             WHERE m.campaign_id = c.id AND m.id > c.released_to AND c.first IS NULL AND m.due_at IS NULL
                AND {_MAY_LEAVE} AND {portfolios.CAMPAIGN_FITS} ORDER BY m.id LIMIT 1)
            LIMIT 1) AS one
        WHERE c.app_id = :app_id AND c.state = 'running' AND c.id <> ALL(:shut)
            AND {_OF_WIDTH.format("c")} AND {_NOT_UNDER_ANOTHER.format("c")}
        UNION ALL
        SELECT one.id, one.lane, one.template FROM unnest(ARRAY['marketing', 'utility', 'payment']) AS l (lane)
        CROSS JOIN LATERAL (
            SELECT m.id, m.lane, m.template FROM messages m
            WHERE m.app_id = :app_id AND m.campaign_id IS NULL AND m.lane = l.lane AND m.due_at <= :now
                AND {_MAY_LEAVE} AND {_OF_WIDTH.format("m")} AND {_NOT_UNDER_ANOTHER.format("m")}
                AND {portfolios.message_fits("m", "m.template")}
            ORDER BY m.due_at, m.id LIMIT 1) AS one) AS found
    WHERE {_OF_WIDTH.format("found")} AND {_NOT_UNDER_ANOTHER.format("found")}
    ORDER BY array_position(ARRAY['marketing', 'utility', 'payment'], found.lane), found.id LIMIT 1""")


def _name(
    session: Session, stop: Stop, now: datetime, shut: Sequence[int], together: Sequence[Stop]
) -> list[Probe]:
    """Name the next probe of a stop; none when no message may leave now.

    Args:
      together: Stops of its app, itself included, that are to be tried now. What several of them hold is the probe of
        each: one that waited for the others would never be tried.
    """
    found = session.execute(
        _CANDIDATE,
        {
            "app_id": stop.app_id,
            "together": [one.id for one in together],
            "scope": stop.scope,
            "key": stop.key,
            "now": now,
            "shut": list(shut),
            "full": portfolios.full(session),
        },
    ).one_or_none()
    if found is None:
        return []
    widths = {"app": None, "lane": found.lane, "template": found.template}
    probes = []
    for one in together:
        if one.scope != "app" and one.key != widths[one.scope]:
            continue
        one.probe_message_id = found.id
        one.probes += 1
        one.probe_at = now + LOST_AFTER
        probes.append(Probe(one.id, one.app_id, found.lane, found.id))
    session.flush()
    _say_named(session, found.id, None)
    return probes


def _say_named(session: Session, message_id: int, at: datetime | None) -> None:
    session.execute(
        text(
            "UPDATE messages SET released_at = :at, claimed_by = NULL WHERE id = :id AND status = 'pending'"
        ),
        {"id": message_id, "at": at},
    )


# What was settled without an answer (suppressed, too late, cancelled, not to be rendered) is no probe any more; an
# answer that settles one takes its name from the stop.
_WAITING = text("""
    SELECT s.id, s.app_id, s.probe_at <= :now OR m.status <> 'pending' AS due, m.lane, m.id AS message_id FROM stops s
    LEFT JOIN messages m ON m.id = s.probe_message_id AND (
        m.status IN ('suppressed', 'expired', 'cancelled', 'failed')
        OR (m.status = 'pending' AND m.released_at IS NULL AND (m.due_at IS NULL OR m.due_at <= :now)))
    WHERE s.ended_at IS NULL AND s.probe_at IS NOT NULL AND (s.probe_at <= :now OR m.id IS NOT NULL)
    ORDER BY s.id FOR UPDATE OF s SKIP LOCKED""")


def release_probes(session: Session, now: datetime, *, shut: Sequence[int] = ()) -> list[Probe]:
    """Name the probes whose time has come, and again those that were put back before they could leave.

    The caller commits, then enqueues them.
    """
    rows: Sequence[Row[Any]] = session.execute(_WAITING, {"now": now}).all()
    probes: list[Probe] = []
    due = [session.get_one(Stop, row.id) for row in rows if row.due]
    for stop in due:
        named = {one.stop_id for one in probes}
        if stop.id not in named:
            together = [one for one in due if one.app_id == stop.app_id and one.id not in named]
            found = _name(session, stop, now, shut, together)
            for one in found[:1]:
                _say_named(session, one.message_id, now)
            probes += found
    for row in rows:
        if not row.due:
            _say_named(session, row.message_id, now)
            probes.append(Probe(row.id, row.app_id, row.lane, row.message_id))
    return probes


def undecided(session: Session, stop_ids: Sequence[int]) -> list[Stop]:
    """Those of the stops that are in force still."""
    query = select(Stop).where(Stop.id.in_(stop_ids), Stop.ended_at.is_(None)).order_by(Stop.id)
    return list(session.scalars(query))


def was_refused(stop: Stop, now: datetime) -> bool:
    """Whether its last probe has left it in force; one that told nothing of the fault is followed by another."""
    return stop.probe_message_id is None and (stop.probe_at is None or stop.probe_at > now + SOON)


def as_jobs(probes: Sequence[Probe]) -> list[Job]:
    """What to enqueue for them."""
    jobs = (Job(one.app_id, one.lane, message_ids=(one.message_id,), probe=True) for one in probes)
    return list(dict.fromkeys(jobs))


def pass_probe(
    session: Session, message_id: int, now: datetime, *, codes: Collection[str] | None = None
) -> list[Stop]:
    """End the stops of which an accepted message was the probe; those that ended.

    Args:
      codes: It was only answered, which ends the stops of these codes.
    """
    # The app before its stops, as `resume` locks them.
    session.execute(
        text("""
            SELECT 1 FROM apps WHERE id IN (SELECT app_id FROM messages WHERE id = :id) FOR NO KEY UPDATE"""),
        {"id": message_id},
    )
    ended = [stop for stop in _probed(session, message_id) if codes is None or stop.code in codes]
    for stop in ended:
        app = session.get_one(App, stop.app_id, with_for_update={"key_share": True})
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
        if stop.code != fault.code:
            # Another fault, whose waits begin anew.
            stop.probes = 1
        name = session.get_one(App, stop.app_id).name
        stop.code, stop.reason, stop.hint = fault.code, fault.reason, _named(fault.hint, name)
        seconds = min(rule.probe_cap_seconds, rule.probe_seconds * GROWTH ** min(stop.probes - 1, 32))
        stop.probe_at = now + timedelta(seconds=seconds) if stop.probes < rule.probes else None
    session.flush()


def repeat_probe(session: Session, message_id: int, after: timedelta, now: datetime) -> None:
    """Name another probe ``after`` a while (`SOON`, or ever later from `LATER` on): this one told nothing of the fault."""
    for stop in _probed(session, message_id):
        wait = after if after == SOON else min(LATEST, after * GROWTH ** min(stop.probes - 1, 32))
        stop.probe_message_id, stop.probe_at = None, now + wait
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
