"""What is named to the workers next: how much of each lane, and whose turn it is in it."""

from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice

from sqlalchemy import text
from sqlalchemy.orm import Session

from disparo import portfolios, tuning
from disparo.batches import (
    ALIVE_WITHIN,
    CAMPAIGN_MAY_GO,
    JOB_ROWS,
    MESSAGE_MAY_GO,
    SILENT_AFTER,
    SINGLE_MAY_GO,
    Job,
    is_worked_on,
)
from disparo.statuses import Lane

#: Seconds of an app's rate that each of its lanes may have in the queue.
AHEAD_SECONDS = 2.0
#: So many rows at least where the rate makes them leave within so many seconds: jobs of slow apps would be tiny else.
AHEAD_LEAST, AHEAD_LEAST_SECONDS = 40, 20.0
#: Rows of one lane of one app in the queue at most, whatever the rate.
AHEAD_MOST = 5_000
#: How often the rest of a room is given to others in one release, when somebody had fewer rows than seen.
ROUNDS = 3

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


def ahead_rows(rate: float) -> int:
    """How many rows of one lane are kept in the queue at a rate (per second).

    0.1/s → 2, 1/s → 20, 10/s → 40, 80/s → 160, 1,000/s → 2,000, from 2,500/s on 5,000.
    """
    rows = max(rate * AHEAD_SECONDS, min(AHEAD_LEAST, rate * AHEAD_LEAST_SECONDS))
    return max(1, min(AHEAD_MOST, round(rows)))


def job_rows(ahead: int, *, alone: bool = False) -> int:
    """Rows of one job, where ``ahead`` are kept in the queue.

    An eighth, so that several workers share them and turns are short: 2 → 1, 20 → 5, 40 → 10, 160 → 20, 2,000 → 250,
    5,000 → 500. Who is alone in its lane takes no turns, and at a low rate each job costs more than its rows: then
    20 → 10, 40 → 20.
    """
    least = min(20, ahead // 2) if alone else min(10, ahead // 4)
    return min(JOB_ROWS, max(1, ahead // 8, least))


# -- turns -------------------------------------------------------------------------------------------------

#: Who takes part in a lane: a campaign by its id, or None for all single messages together.
Participant = int | None


class LaneTurns:
    """Whose turn it is in one lane of one app: start-time fair queueing.

    Each participant has a virtual time, which its turns move on by rows/weight; the one that is furthest behind is
    next. So over time each gets rows in proportion to its weight, however few rows there is room for at once. Who
    comes new, or had nothing for a while, begins where the others are and makes up for nothing.

    Source: Goyal, Vin, Cheng: Start-time Fair Queueing, SIGCOMM 1996.
    """

    def __init__(self) -> None:
        #: The virtual time at which the last turn began.
        self._now = 0.0
        self._times: dict[Participant, float] = {}
        #: Rows of retries less new rows that a campaign has named while both waited.
        self._retried: dict[Participant, int] = {}

    def next(self, waiting: Iterable[Participant]) -> Participant:
        """The one whose turn it is of those that have rows; the oldest campaign of several, after single messages."""
        one = min(waiting, key=lambda one: (self._time(one), one is not None, one or 0))
        self._now = self._times[one] = self._time(one)
        return one

    def charge(self, one: Participant, rows: int, weight: float) -> None:
        """Move a participant on by the rows that it has named, or back by those (below 0) that it had not."""
        self._times[one] = self._time(one) + rows / weight

    def is_turn_of_retries(self, one: Participant, *, both: bool) -> bool:
        """Whether retries of a campaign are named now, before new rows of it; each have half while both wait."""
        if not both:
            # What waits alone makes up for nothing later.
            self._retried.pop(one, None)
        return self._retried.get(one, 0) <= 0

    def note_retries(self, one: Participant, rows: int) -> None:
        """Count rows of retries, or (below 0) new rows, that are named."""
        self._retried[one] = self._retried.get(one, 0) + rows

    def keep(self, ones: Collection[Participant]) -> None:
        """Forget who takes no part any more, but for those that are ahead of the others and might come back."""
        for one in [one for one, at in self._times.items() if at <= self._now and one not in ones]:
            del self._times[one]
        for one in [one for one in self._retried if one not in ones]:
            del self._retried[one]

    def _time(self, one: Participant) -> float:
        return max(self._now, self._times.get(one, 0.0))


class Turns:
    """Whose turn it is in every lane of every app; kept by a scheduler's process from release to release.

    When it is lost, all begin anew side by side. Of two schedulers each keeps the shares of what it releases itself,
    so that together they keep them too.
    """

    def __init__(self) -> None:
        self._lanes: dict[tuple[int, str], LaneTurns] = {}

    def lane(self, app_id: int, lane: str) -> LaneTurns:
        """The turns of one lane of an app."""
        return self._lanes.setdefault((app_id, lane), LaneTurns())

    def keep(self, lanes: Collection[tuple[int, str]]) -> None:
        """Forget all other lanes: nobody waits there."""
        self._lanes = {key: turns for key, turns in self._lanes.items() if key in lanes}


# -- release -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Waiting:
    """What of a participant waits to be named, as far as it was looked at."""

    app_id: int
    lane: str
    campaign_id: Participant
    weight: int = 1
    max_per_second: float | None = None
    #: How many more of its first rows may leave; None: all of them.
    first_left: int | None = None
    #: Whether new recipients take room of a daily budget, and whether that has any.
    counts: bool = False
    fits: bool = True
    #: How many of its rows may be named now, of what its lane has room for, and how many by each job.
    room: int = 0
    size: int = 1
    #: Batches that were handed back: (id, size, rows left).
    again: deque[tuple[int, int, int]] = field(default_factory=deque)
    #: Rows whose instant has come, and rows that are named for the first time.
    due: int = 0
    new: int = 0

    @property
    def key(self) -> tuple[int, str, Participant]:
        return self.app_id, self.lane, self.campaign_id

    def has_a_turn(self) -> bool:
        return self.room >= self.size and bool(self.again or self.due or self.new)

    def job(self, size: int, *, batch_id: int | None = None, message_ids: Sequence[int] = ()) -> Job:
        return Job(
            self.app_id,
            self.lane,
            batch_id,
            tuple(message_ids),
            size,
            campaign_id=self.campaign_id,
            weight=self.weight,
            max_per_second=self.max_per_second,
        )


@dataclass(slots=True)
class _Room:
    """A lane of an app in which there is room."""

    turns: LaneTurns
    rows: int
    ones: dict[Participant, _Waiting] = field(default_factory=dict)


#: Rows in the queue by lane of an app and participant.
_Named = dict[tuple[int, str], dict[Participant, int]]


@dataclass(frozen=True, slots=True)
class _Turn:
    """One job that is to be: a batch that was handed back, rows that are due, or new ones."""

    room: _Room
    one: _Waiting
    kind: str
    rows: int
    #: (id, size) of what was handed back.
    batch: tuple[int, int] = (0, 0)

    def came_to(self, rows: int) -> None:
        """Give back what it had too much."""
        missing = self.rows - rows
        if missing:
            self.room.turns.charge(self.one.campaign_id, -missing, self.one.weight)
            self.room.rows += missing
            self.one.room += missing
            if self.kind == "due":
                self.one.due = 0
            elif self.kind == "new":
                self.one.new = 0


#: SQL: what is named before this of the lane of message ``m`` is named again.
_SILENT = "CASE WHEN m.lane = 'payment' THEN :silent_urgent ELSE :silent_bulk END"
#: SQL: message ``m`` waits for nothing but a job that names it. Looked for by campaign, since those that are held may
#: have a million of them.
_IS_DUE = f"""m.status = 'pending' AND m.due_at <= :now
    AND (m.released_at IS NULL OR m.released_at <= {_SILENT})"""


def release(
    session: Session, now: datetime, turns: Turns | None = None, *, shut: Collection[int] = ()
) -> list[Job]:
    """Name the next work of every app: what was handed back, what is due, the next rows of campaigns.

    Each lane of an app has a room of its own (`ahead_rows`), so that nothing which waits in one delays another here;
    it is filled again when half of it is free. Within a lane, campaigns and single messages take turns by weight.
    Within a campaign, what was handed back comes first, then retries and new rows by half. Nothing under a stop is
    named, nor what a used up daily budget holds. One caller at a time (the tick's lock). The caller commits, then
    enqueues the jobs.

    The number of statements does not depend on the number of apps and campaigns.

    Args:
      turns: Whose turn it is, as earlier releases have left it; None: all begin side by side.
      shut: Campaigns whose send window is closed now.

    Returns:
      Jobs, those of payments first, then of utility, then of marketing.
    """
    turns = turns or Turns()
    budgets = portfolios.rooms(session)
    full = [app_id for app_id, (_, left) in budgets.items() if not left]
    values = {"now": now, "full": full, **_silent(session, now)}
    rooms, named = _rooms(session, values, turns, frozenset(shut))
    _look(session, values, rooms)
    _leave_budgets(rooms, named, budgets)
    jobs: list[Job] = []
    for _ in range(ROUNDS):
        planned = [turn for room in rooms.values() for turn in _plan(room)]
        if not planned:
            break
        jobs += _carry_out(session, values, planned)
    return sorted(jobs, key=lambda job: Lane(job.lane).rank)


_LIVE = text("SELECT " + ", ".join(map(is_worked_on, ("'payment'", "'marketing'"))))


def _silent(session: Session, now: datetime) -> dict[str, datetime]:
    """Messages that were named before these instants are named again: the parameters of `_SILENT`."""
    # While nobody takes from a queue, their jobs wait there: named each minute, they would fill Redis.
    urgent, bulk = session.execute(_LIVE, {"alive": now - ALIVE_WITHIN}).one()
    silent = {True: now - SILENT_AFTER, False: _LONG_AGO}
    return {"silent_urgent": silent[urgent], "silent_bulk": silent[bulk]}


_SINGLE_FITS = portfolios.message_fits("m", "m.template")

# An app without anything to send costs a look per lane into an index.
_APPS = text(f"""
    SELECT a.id, {tuning.RATE_ALLOWED},
        ARRAY(SELECT l.lane FROM unnest(CAST(:lanes AS text[])) AS l (lane) WHERE EXISTS (
            SELECT 1 FROM messages m
            WHERE m.app_id = a.id AND m.campaign_id IS NULL AND m.lane = l.lane AND {_IS_DUE} AND {SINGLE_MAY_GO}
                AND {_SINGLE_FITS}))
    FROM apps a WHERE NOT EXISTS (
        SELECT 1 FROM stops s WHERE s.app_id = a.id AND s.scope = 'app' AND s.ended_at IS NULL)""")

_CAMPAIGNS = text(f"""
    SELECT c.app_id, c.lane, c.id, c.weight, c.max_per_second, CASE WHEN c.first IS NOT NULL THEN
        c.first - (SELECT coalesce(sum(b.size), 0) FROM batches b WHERE b.campaign_id = c.id) END,
        c.template IS NOT NULL, {portfolios.CAMPAIGN_FITS}
    FROM campaigns c WHERE c.state = 'running' AND {CAMPAIGN_MAY_GO}""")

#: SQL: rows of batch ``b`` that wait for a claim. Its size says how many it had.
_LEFT = """(SELECT count(*) FROM messages m WHERE m.campaign_id = b.campaign_id
    AND m.id BETWEEN b.first_message_id AND b.last_message_id AND m.status = 'pending' AND m.due_at IS NULL)"""

_NAMED = text(f"""
    SELECT b.app_id, c.lane, b.campaign_id, sum({_LEFT}) FROM batches b JOIN campaigns c ON c.id = b.campaign_id
    WHERE b.state = 'released' GROUP BY b.app_id, c.lane, b.campaign_id
    UNION ALL
    SELECT m.app_id, m.lane, m.campaign_id, count(*) FROM messages m
    WHERE m.status = 'pending' AND m.due_at <= :now AND m.released_at > {_SILENT}
    GROUP BY m.app_id, m.lane, m.campaign_id""")


def _rooms(
    session: Session, values: Mapping[str, object], turns: Turns, shut: frozenset[int]
) -> tuple[dict[tuple[int, str], _Room], _Named]:
    """The lanes that have room, with everybody who may have something to name; and the rows that are named."""
    apps = session.execute(_APPS, {**values, "lanes": [str(lane) for lane in Lane]}).all()
    campaigns = session.execute(_CAMPAIGNS, {"full": values["full"]}).all()
    ones: dict[tuple[int, str], list[_Waiting]] = defaultdict(list)
    rates = {}
    for app_id, rate, lanes in apps:
        rates[app_id] = rate
        for lane in lanes:
            ones[app_id, lane].append(_Waiting(app_id, lane, None))
    for app_id, lane, campaign_id, weight, max_per_second, left, counts, fits in campaigns:
        if campaign_id not in shut and app_id in rates:
            first_left = None if left is None else max(0, int(left))
            ones[app_id, lane].append(
                _Waiting(app_id, lane, campaign_id, weight, max_per_second, first_left, counts, fits)
            )
    turns.keep(ones.keys())
    named: _Named = defaultdict(lambda: defaultdict(int))
    if not ones:
        return {}, named
    for app_id, lane, campaign_id, n in session.execute(_NAMED, values):
        named[app_id, lane][campaign_id] += int(n)
    rooms = {}
    for key, waiting in ones.items():
        rate, there = rates[key[0]], named[key]
        ahead = ahead_rows(rate)
        # Some may not fill the room, however many rows they have in the queue: producers name single messages
        # themselves, and what a campaign's own limit holds back leaves the room only at that limit.
        most: dict[Participant, float] = {None: ahead // 2}
        for one in waiting:
            if one.max_per_second is not None:
                most[one.campaign_id] = ahead * min(1.0, one.max_per_second / rate)
        taken = sum(min(n, most.get(one, n)) for one, n in there.items())
        # Half of what each may have is what it has when it is named again.
        if sum(min(n, most[one] / 2) if one in most else n for one, n in there.items()) * 2 > ahead:
            continue
        room = rooms[key] = _Room(turns.lane(*key), ahead - int(taken))
        alone = len({one.campaign_id for one in waiting} | there.keys()) == 1
        for one in waiting:
            own = ahead
            if one.max_per_second is not None:
                own = min(ahead, max(2, round(most[one.campaign_id])))
            n = there[one.campaign_id]
            if n * 2 <= own:
                one.size, one.room = job_rows(own, alone=alone), own - n
                room.ones[one.campaign_id] = one
        room.turns.keep([one.campaign_id for one in waiting])
    return rooms, named


_CAMPAIGN_DUE = f"""
    SELECT m.id FROM messages m
    WHERE m.app_id = c.app_id AND m.campaign_id = c.id AND m.lane = c.lane AND {_IS_DUE} AND {MESSAGE_MAY_GO}
        AND {portfolios.message_fits("m", "coalesce(m.template, c.template)")}
    ORDER BY m.due_at, m.id LIMIT a.n"""
_SINGLE_DUE = f"""
    SELECT m.id FROM messages m
    WHERE m.app_id = a.app_id AND m.campaign_id IS NULL AND m.lane = a.lane AND {_IS_DUE} AND {SINGLE_MAY_GO}
        AND {_SINGLE_FITS}
    ORDER BY m.due_at, m.id LIMIT a.n"""
_NEW = """
    SELECT m.id FROM messages m
    WHERE m.campaign_id = c.id AND m.id > c.released_to AND m.status = 'pending' AND m.due_at IS NULL
    ORDER BY m.id LIMIT a.n"""
#: SQL: who is asked for how many rows: ``a (app_id, lane, campaign_id, n)``.
_ASKED = """unnest(CAST(:apps AS bigint[]), CAST(:of_lanes AS text[]), CAST(:campaigns AS bigint[]),
    CAST(:ns AS integer[])) AS a (app_id, lane, campaign_id, n)"""

_ROWS = text(f"""
    SELECT a.app_id, a.lane, a.campaign_id, (SELECT count(*) FROM ({_CAMPAIGN_DUE}) AS d),
        (SELECT count(*) FROM ({_NEW}) AS n)
    FROM {_ASKED} JOIN campaigns c ON c.id = a.campaign_id
    UNION ALL
    SELECT a.app_id, a.lane, NULL, (SELECT count(*) FROM ({_SINGLE_DUE}) AS d), 0
    FROM {_ASKED} WHERE a.campaign_id IS NULL""")

_HANDED_BACK = text(f"""
    SELECT b.id, b.app_id, c.lane, b.campaign_id, b.size, {_LEFT} FROM batches b
    JOIN campaigns c ON c.id = b.campaign_id
    WHERE b.state = 'waiting' AND b.campaign_id = ANY(:ids) ORDER BY b.id""")


def _look(session: Session, values: Mapping[str, object], rooms: Mapping[tuple[int, str], _Room]) -> None:
    """Find out what everybody in the rooms has, of each kind up to a job's rows."""
    ones = [one for room in rooms.values() for one in room.ones.values()]
    if not ones:
        return
    asked = _asked({one.key: one.size for one in ones})
    for app_id, lane, campaign_id, due, new in session.execute(_ROWS, {**values, **asked}):
        one = rooms[app_id, lane].ones[campaign_id]
        # As many as were looked for: there may be more, which the naming finds out.
        one.due, one.new = (n if n < one.size else one.room for n in (due, new))
        if one.first_left is not None:
            one.new = min(one.new, one.first_left)
        if not one.fits:
            one.new = 0
    ids = [one.campaign_id for one in ones if one.campaign_id is not None and one.fits]
    for batch_id, app_id, lane, campaign_id, size, left in session.execute(_HANDED_BACK, {"ids": ids}):
        rooms[app_id, lane].ones[campaign_id].again.append((batch_id, size, left))


def _leave_budgets(
    rooms: Mapping[tuple[int, str], _Room], named: _Named, budgets: Mapping[int, tuple[int, int]]
) -> None:
    """Name no more new rows of a lane than a daily budget has left after what more urgent ones wait for.

    In the queue they would take it: payments have workers of their own.
    """
    room = dict(budgets.values())
    left = dict(room)
    for lane in Lane:
        wanted: dict[int, int] = defaultdict(int)
        for app_id, (portfolio_id, _) in budgets.items():
            wanted[portfolio_id] += sum(named.get((app_id, lane), {}).values())
            here = rooms.get((app_id, lane))
            for one in here.ones.values() if here else ():
                if not one.counts:
                    continue
                if left[portfolio_id] < room[portfolio_id]:
                    free = max(0, left[portfolio_id] - wanted[portfolio_id])
                    one.again = deque(batch for batch in one.again if batch[2] <= free)
                    one.new = 0 if one.again else min(one.new, free)
                wanted[portfolio_id] += one.new + sum(rows for _, _, rows in one.again)
        for portfolio_id, n in wanted.items():
            left[portfolio_id] -= n


def _asked(rows: Mapping[tuple[int, str, Participant], int]) -> dict[str, list[object]]:
    """The parameters of `_ASKED`."""
    columns = zip(*((*key, n) for key, n in rows.items()), strict=True)
    return dict(zip(("apps", "of_lanes", "campaigns", "ns"), map(list, columns), strict=True))


def _plan(room: _Room) -> Iterator[_Turn]:
    """Turn by turn, until there is no room for a whole job or nobody has rows."""
    while waiting := [one.campaign_id for one in room.ones.values() if one.has_a_turn()]:
        one = room.ones[room.turns.next(waiting)]
        if room.rows < one.size:
            return
        turn = _turn(room, one)
        room.turns.charge(one.campaign_id, turn.rows, one.weight)
        room.rows -= turn.rows
        one.room -= turn.rows
        yield turn


def _turn(room: _Room, one: _Waiting) -> _Turn:
    if one.again:
        batch_id, size, left = one.again.popleft()
        return _Turn(room, one, "again", max(1, left), (batch_id, size))
    retries = room.turns.is_turn_of_retries(one.campaign_id, both=one.due > 0 and one.new > 0)
    if one.due and (retries or not one.new):
        rows = min(one.size, one.due)
        one.due -= rows
        room.turns.note_retries(one.campaign_id, rows)
        return _Turn(room, one, "due", rows)
    rows = min(one.size, one.new)
    one.new -= rows
    room.turns.note_retries(one.campaign_id, -rows)
    return _Turn(room, one, "new", rows)


_NAME_AGAIN = text("""
    UPDATE batches SET state = 'released', released_at = :now, holder = NULL, held_at = NULL
    WHERE id IN (
        SELECT id FROM batches WHERE id = ANY(:ids) AND state = 'waiting' ORDER BY id FOR UPDATE SKIP LOCKED)
    RETURNING id""")

# By their primary keys: a join with what is due is planned badly while the tables are new to the planner.
_NAME_DUE = text(f"""
    WITH found AS (
        SELECT d.id FROM {_ASKED} JOIN campaigns c ON c.id = a.campaign_id CROSS JOIN LATERAL ({_CAMPAIGN_DUE}) AS d
        UNION ALL
        SELECT d.id FROM {_ASKED} CROSS JOIN LATERAL ({_SINGLE_DUE}) AS d WHERE a.campaign_id IS NULL),
    held AS MATERIALIZED (
        SELECT m.id, {_IS_DUE} AS is_due FROM messages m WHERE m.id = ANY(ARRAY(SELECT id FROM found))
        ORDER BY m.id FOR UPDATE OF m SKIP LOCKED)
    UPDATE messages SET released_at = :now, claimed_by = NULL
    WHERE id = ANY(ARRAY(SELECT id FROM held WHERE is_due))
    RETURNING id, app_id, lane, campaign_id""")

# The cursor is read under the campaign's lock: who amends it may hold it. In order of ids, as everybody locks several.
_NAME_NEW = text(f"""
    WITH held AS MATERIALIZED (
        SELECT c.id, c.app_id, c.released_to FROM campaigns c
        WHERE c.id = ANY(:campaigns) AND c.state = 'running' ORDER BY c.id FOR NO KEY UPDATE),
    found AS (
        SELECT c.id AS campaign_id, c.app_id, m.id, (row_number() OVER (PARTITION BY c.id ORDER BY m.id) - 1) / a.size AS nth
        FROM unnest(CAST(:campaigns AS bigint[]), CAST(:ns AS integer[]), CAST(:sizes AS integer[])) AS a (id, n, size)
        JOIN held c ON c.id = a.id CROSS JOIN LATERAL ({_NEW}) AS m),
    ranges AS (
        SELECT campaign_id, app_id, min(id) AS first, max(id) AS last, count(*) AS n FROM found
        GROUP BY campaign_id, app_id, nth),
    moved AS (
        UPDATE campaigns c SET released_to = r.last
        FROM (SELECT campaign_id, max(last) AS last FROM ranges GROUP BY campaign_id) AS r WHERE c.id = r.campaign_id)
    INSERT INTO batches (campaign_id, app_id, first_message_id, last_message_id, size, state, released_at)
    SELECT campaign_id, app_id, first, last, n, 'released', :now FROM ranges ORDER BY campaign_id, first
    RETURNING id, campaign_id, size""")


def _carry_out(session: Session, values: Mapping[str, object], planned: Sequence[_Turn]) -> list[Job]:
    """Name what was planned, as far as it is there; the jobs in the order of the turns."""
    again, due, new = ([turn for turn in planned if turn.kind == kind] for kind in ("again", "due", "new"))
    jobs: dict[int, Job] = {}
    if again:
        ids = {"now": values["now"], "ids": [turn.batch[0] for turn in again]}
        named = set(session.execute(_NAME_AGAIN, ids).scalars())
        for turn in again:
            batch_id, size = turn.batch
            if batch_id in named:
                jobs[id(turn)] = turn.one.job(size, batch_id=batch_id)
            turn.came_to(turn.rows if batch_id in named else 0)
    if due:
        found: dict[tuple[int, str, Participant], list[int]] = defaultdict(list)
        for message_id, *key in session.execute(_NAME_DUE, {**values, **_asked(_sums(due))}):
            found[key[0], key[1], key[2]].append(message_id)
        pages = {key: iter(sorted(ids)) for key, ids in found.items()}
        for turn in due:
            page = list(islice(pages.get(turn.one.key, iter(())), turn.rows))
            if page:
                jobs[id(turn)] = turn.one.job(len(page), message_ids=page)
            turn.came_to(len(page))
    if new:
        sums = _sums(new)
        sizes = {turn.one.key: turn.one.size for turn in new}
        asked = {
            "now": values["now"],
            "campaigns": [key[2] for key in sums],
            "ns": list(sums.values()),
            "sizes": [sizes[key] for key in sums],
        }
        cut: dict[Participant, deque[tuple[int, int]]] = defaultdict(deque)
        for batch_id, campaign_id, size in sorted(map(tuple, session.execute(_NAME_NEW, asked))):
            cut[campaign_id].append((batch_id, size))
        for turn in new:
            batches = cut[turn.one.campaign_id]
            batch_id, size = batches.popleft() if batches else (0, 0)
            if size:
                jobs[id(turn)] = turn.one.job(size, batch_id=batch_id)
            turn.came_to(size)
    return [jobs[id(turn)] for turn in planned if id(turn) in jobs]


def _sums(turns: Iterable[_Turn]) -> dict[tuple[int, str, Participant], int]:
    """Rows of all turns of each participant."""
    sums: dict[tuple[int, str, Participant], int] = defaultdict(int)
    for turn in turns:
        sums[turn.one.key] += turn.rows
    return sums
