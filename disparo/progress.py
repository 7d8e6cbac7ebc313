"""How a campaign goes: its counts, its speed, what limits it and when it ends; its failures; and all campaigns."""

from collections import Counter as Tally
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from disparo import apps, counters, forecast, portfolios, tuning, windows
from disparo.actions import history
from disparo.campaigns import RESENT_BY_ITSELF, WORKER_SILENT_SECONDS, CampaignFile, live_workers
from disparo.forecast import MEASURED_SECONDS, Room
from disparo.models import App, Campaign, Import, Stop
from disparo.portfolios import COUNTED_FOR, Budget
from disparo.statuses import CampaignState, LimitedBy, Status
from disparo.whatsapp import payloads
from disparo.whatsapp.codes import PAIR_PACING

#: The rate that is shown is that of so many seconds.
SHOWN_SECONDS = 10
#: A campaign waits for its budget when that has no room for what the rate sends within so long.
SHORT_SECONDS = 2.0
#: What the workers' time may go into (`disparo.models.Worker.pace`).
CAUSES = (LimitedBy.RATE, LimitedBy.PAIR, LimitedBy.NETWORK, LimitedBy.DATABASE)
#: An end beyond this has no date: years have four digits.
DATED_SECONDS = 7_000 * 365 * 86_400


@dataclass(frozen=True, slots=True)
class Expected:
    """What the settings allow a campaign."""

    #: Messages per second.
    rate: float
    #: Its part of what its portfolio's budget has left, 0 to 1.
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class _Look:
    """What a status is made of."""

    campaign: Campaign
    app: App
    now: datetime
    counts: dict[str, int]
    window: windows.Window
    zone: ZoneInfo
    #: Instants of the last minute, and how many messages were answered at each.
    answers: list[tuple[datetime, int]]
    expected: Expected
    stops: list[Stop]
    workers: int
    #: Cause → seconds that living workers lately waited for it with the app's messages; None: none of them tells.
    pace: Mapping[LimitedBy, float] | None
    #: Of a campaign with a template.
    budget: Budget | None
    #: Where all that is pending waits for an instant: the first of these, and the code of its message.
    next_try: tuple[datetime, str | None] | None
    #: Unknown messages of it will be sent again without a person.
    resends: bool

    @property
    def left(self) -> int:
        return self.counts[Status.PENDING] + self.counts[Status.SENDING]

    @property
    def leaving(self) -> int:
        """Of what is left, how many leave until it ends or, as a canary, pauses by itself."""
        if self.campaign.first is None:
            return self.left
        return max(0, min(self.left, self.campaign.first - (self.campaign.total - self.left)))

    @property
    def rate(self) -> float:
        """Messages per second that got an answer lately."""
        since = self.now - timedelta(seconds=SHOWN_SECONDS)
        lately = sum(n for at, n in self.answers if at > since)
        if not lately:
            return 0.0
        # From its first answer on, where it has just begun; not from the first of these, which may be the only one.
        return lately / max(1.0, (self.now - max(since, self.answers[0][0])).total_seconds())

    @property
    def is_stopped(self) -> bool:
        return bool(self.stops and self.counts[Status.PENDING])

    @property
    def is_late(self) -> bool:
        """Whether nothing of it may leave any more."""
        return self.campaign.not_after is not None and self.campaign.not_after <= self.now

    @property
    def is_shut(self) -> bool:
        return self.is_late or not self.window.is_open(self.now, self.zone)

    @property
    def lacks_budget(self) -> bool:
        """Whether its portfolio's budget has no room for what it would send next."""
        if self.budget is None:
            return False
        return self.budget.room < min(self.left, max(1.0, SHORT_SECONDS * self.expected.rate))


def status(session: Session, campaign: Campaign, now: datetime, zone: ZoneInfo) -> dict[str, Any]:
    """What ``campaign status --json`` prints: true during and after, and never a count of rows per screen."""
    look = _look(session, campaign, now, zone)
    counts, limited_by = look.counts, _limited_by(look)
    seconds = _seconds_left(session, look, limited_by)
    until = _until(session, look, limited_by)
    loaded = session.scalars(select(Import).where(Import.campaign_id == campaign.id)).first()
    return {
        "name": campaign.name,
        "app": look.app.name,
        "lane": campaign.lane,
        "state": campaign.state,
        "total": campaign.total,
        "counts": counts,
        "failures": failures(session, campaign.id) if counts[Status.FAILED] else [],
        "rate": round(look.rate, 1),
        "effective_rate": 0.0
        if any(stop.scope == "app" for stop in look.stops)
        else tuning.effective_rate(look.app),
        "eta_seconds": None if seconds is None else round(seconds),
        "eta_at": None
        if seconds is None or seconds > DATED_SECONDS
        else (now + timedelta(seconds=round(seconds))).isoformat(),
        "next_try_at": look.next_try[0].isoformat() if look.next_try else None,
        "limited_by": limited_by,
        "until": until.isoformat() if until else None,
        "budget": _budget_as_json(session, look.budget),
        "pause_reason": campaign.pause_reason or (look.stops[0].reason if look.stops else None),
        "workers": look.workers,
        "stops": [apps.stop_as_json(stop) for stop in look.stops],
        "rejected": loaded.rejected if loaded else 0,
        "duplicates": loaded.duplicates if loaded else 0,
        "version": campaign.version,
        "first": campaign.first,
        "launch_at": campaign.launch_at.isoformat() if campaign.launch_at else None,
        "created_by": campaign.created_by,
        "launched_at": campaign.launched_at.isoformat() if campaign.launched_at else None,
        "finished_at": campaign.finished_at.isoformat() if campaign.finished_at else None,
        "history": history(session, f"campaign:{campaign.name}"),
    }


def _look(session: Session, campaign: Campaign, now: datetime, zone: ZoneInfo) -> _Look:
    app = session.get_one(App, campaign.app_id)
    counts = counters.counts(session, [campaign.id])[campaign.id]
    left = counts[Status.PENDING] + counts[Status.SENDING]
    return _Look(
        campaign=campaign,
        app=app,
        now=now,
        counts=counts,
        window=windows.parse(campaign.window or app.windows.get(campaign.lane) or "always"),
        zone=zone,
        answers=_answers(session, campaign, now) if campaign.state == CampaignState.RUNNING else [],
        expected=expected(session, campaign) if left else Expected(0.0),
        stops=[
            stop
            for stop in apps.stops(session, app.id)
            if stop.scope == "app" or stop.key in (campaign.lane, campaign.template)
        ],
        workers=live_workers(session, campaign.lane),
        pace=pace(session, app.id),
        budget=portfolios.budget(session, app.id) if campaign.template else None,
        next_try=_next_try(session, campaign, now) if counts[Status.PENDING] else None,
        resends=not left and counts[Status.UNKNOWN] > 0 and _resends(session, campaign, now),
    )


# -- what limits it ----------------------------------------------------------------------------------------


def _limited_by(look: _Look) -> LimitedBy:
    """The first of these that holds; where none does, what takes most of the workers' time."""
    campaign, counts = look.campaign, look.counts
    if campaign.state in (CampaignState.FINISHED, CampaignState.CANCELLED, CampaignState.IMPORTING):
        return LimitedBy.NONE
    if campaign.state == CampaignState.PAUSED:
        return LimitedBy.PAUSED
    if look.is_stopped:
        passing = all(stop.code in (apps.UNREACHABLE, apps.STRANGE_ANSWERS) for stop in look.stops)
        return LimitedBy.NETWORK if passing else LimitedBy.PAUSED
    if not look.left:
        # What is sent again by itself waits for its webhooks first, and for nobody.
        return LimitedBy.DECISION if counts[Status.UNKNOWN] and not look.resends else LimitedBy.NONE
    if campaign.state == CampaignState.SCHEDULED or look.is_shut:
        return LimitedBy.WINDOW
    if not look.workers:
        return LimitedBy.NO_WORKER
    if look.next_try is not None:
        return LimitedBy.PAIR if look.next_try[1] == PAIR_PACING else LimitedBy.NONE
    if look.lacks_budget:
        return LimitedBy.BUDGET
    cap = campaign.max_per_second
    if cap is not None and look.rate >= 0.8 * cap:
        return LimitedBy.RATE
    told = look.pace
    if told is not None:
        return max(told, key=lambda cause: told[cause], default=LimitedBy.NONE)
    if not look.rate:
        # Nothing was answered yet: it has just begun, or goes on after a stop.
        return LimitedBy.NONE
    return LimitedBy.RATE if look.rate >= 0.8 * look.expected.rate else LimitedBy.NETWORK


def pace(session: Session, app_id: int) -> dict[LimitedBy, float] | None:
    """What living workers lately waited for with an app's messages: cause → seconds, summed up.

    Empty where they waited for nothing; None where none of them tells of the app.
    """
    told = session.execute(
        text("""
            SELECT pace -> :app_id FROM workers
            WHERE seen_at > now() - make_interval(secs => :silent) AND pace ? :app_id"""),
        {"app_id": str(app_id), "silent": WORKER_SILENT_SECONDS},
    ).scalars()
    seconds: Tally[str] = Tally()
    each = told.all()
    for causes in each:
        seconds.update({cause: n for cause, n in causes.items() if isinstance(n, int | float)})
    return {cause: seconds[cause] for cause in CAUSES if seconds[cause] > 0} if each else None


def _next_try(session: Session, campaign: Campaign, now: datetime) -> tuple[datetime, str | None] | None:
    """When the first goes on, where all that is left waits to be tried again; and why that one waits."""
    values = {"app_id": campaign.app_id, "id": campaign.id, "lane": campaign.lane}
    first = session.execute(
        text("""
            SELECT due_at, code FROM messages
            WHERE app_id = :app_id AND campaign_id = :id AND lane = :lane AND status = 'pending' AND due_at IS NOT NULL
            ORDER BY due_at, id LIMIT 1"""),
        values,
    ).one_or_none()
    if first is None or first.due_at <= now:
        return None
    in_turn = session.execute(
        text("""
            SELECT EXISTS (SELECT 1 FROM messages WHERE campaign_id = :id AND status = 'pending' AND due_at IS NULL)"""),
        values,
    ).scalar_one()
    return None if in_turn else (first.due_at, first.code)


def _resends(session: Session, campaign: Campaign, now: datetime) -> bool:
    """Whether unknown messages of it will be sent again without a person, by `disparo.unknowns.resend_unknowns`."""
    found = session.execute(
        text(f"""
            SELECT EXISTS (
                SELECT 1 FROM campaigns c JOIN messages m ON m.campaign_id = c.id AND m.status = 'unknown'
                WHERE c.id = :id AND {RESENT_BY_ITSELF})"""),
        {"id": campaign.id, "now": now},
    )
    return bool(found.scalar_one())


def _until(session: Session, look: _Look, limited_by: LimitedBy) -> datetime | None:
    """When what limits it is over by itself, where that is known."""
    if limited_by == LimitedBy.WINDOW and not look.is_late:
        begins_at = look.campaign.launch_at if look.campaign.state == CampaignState.SCHEDULED else None
        return look.window.next_opening(max(look.now, begins_at or look.now), look.zone)
    if limited_by == LimitedBy.BUDGET and look.budget is not None:
        return portfolios.frees_at(session, look.budget)
    if look.next_try is not None and limited_by in (LimitedBy.PAIR, LimitedBy.NONE):
        return look.next_try[0]
    return None


def _budget_as_json(session: Session, budget: Budget | None) -> dict[str, Any] | None:
    if budget is None:
        return None
    free = portfolios.frees_at(session, budget)
    return {
        "portfolio": budget.name,
        "limit": budget.limit,
        "used": budget.used,
        "left": budget.room,
        "counting": not budget.is_counted,
        "frees_at": free.isoformat() if free else None,
    }


# -- when it ends ------------------------------------------------------------------------------------------


def _answers(session: Session, campaign: Campaign, now: datetime) -> list[tuple[datetime, int]]:
    """Its answers of the last minute, or since it last went on: the time in which it stood tells nothing."""
    went_on = session.execute(
        text("""
            SELECT greatest(
                (SELECT max(at) FROM actions WHERE subject = :subject AND verb IN ('launch', 'resume')),
                (SELECT max(ended_at) FROM stops WHERE app_id = :app_id))"""),
        {"subject": f"campaign:{campaign.name}", "app_id": campaign.app_id},
    ).scalar_one()
    found = counters.recent_answers(session, campaign.id, now, seconds=MEASURED_SECONDS)
    return [(at, n) for at, n in found if went_on is None or at > went_on]


def expected(session: Session, campaign: Campaign) -> Expected:
    """What the settings allow a campaign: by its app's rate, its own, and the weights of those that run beside it."""
    rows = session.execute(
        text(f"""
            SELECT c.id, c.app_id, c.lane, c.weight, c.max_per_second AS cap, {tuning.RATE_ALLOWED} AS rate,
                c.template IS NOT NULL AND a.portfolio_id = own.portfolio_id AS shares
            FROM apps own, campaigns c JOIN apps a ON a.id = c.app_id
            WHERE own.id = :app_id AND (
                c.id = :id OR (c.state = 'running' AND (
                    (c.app_id = :app_id AND c.lane = :lane)
                    OR (c.template IS NOT NULL AND a.portfolio_id = own.portfolio_id))
                AND EXISTS (SELECT 1 FROM messages m WHERE m.campaign_id = c.id AND m.status = 'pending')))"""),
        {"id": campaign.id, "app_id": campaign.app_id, "lane": campaign.lane},
    ).all()
    weights: Tally[tuple[int, str]] = Tally()
    for row in rows:
        weights[row.app_id, row.lane] += row.weight
    rates = {}
    for row in rows:
        fair = row.rate * row.weight / weights[row.app_id, row.lane]
        rates[row.id] = min(fair, row.cap) if row.cap is not None else fair
    sharing = sum(rates[row.id] for row in rows if row.shares)
    own = rates[campaign.id]
    return Expected(own, min(1.0, own / sharing) if sharing else 1.0)


def _seconds_left(session: Session, look: _Look, limited_by: LimitedBy) -> float | None:
    """Seconds until its last message has left (a canary: until it pauses); None where nobody can tell."""
    campaign, now = look.campaign, look.now
    if not look.left:
        return None if look.resends else 0.0
    if (
        look.is_stopped
        or limited_by in (LimitedBy.PAUSED, LimitedBy.NO_WORKER)
        or campaign.state not in (CampaignState.RUNNING, CampaignState.SCHEDULED)
    ):
        return None
    flows = limited_by not in (LimitedBy.WINDOW, LimitedBy.BUDGET)
    begins_at = campaign.launch_at if campaign.state == CampaignState.SCHEDULED else None
    found = forecast.seconds_left(
        look.leaving,
        forecast.speed(look.answers, now, look.expected.rate) if flows else look.expected.rate,
        now,
        window=look.window,
        zone=look.zone,
        begins_at=look.next_try[0] if look.next_try else begins_at,
        room=_room(session, look),
    )
    last = _last_try(session, campaign)
    if found is not None and last is not None:
        found = max(found, (last - now).total_seconds())
    if campaign.not_after is not None:
        # What has not left by then expires.
        ends = max(0.0, (campaign.not_after - now).total_seconds())
        return ends if found is None else min(found, ends)
    return found


def _room(session: Session, look: _Look) -> Room | None:
    """The budget, where what is left may not fit into it."""
    budget = look.budget
    if budget is None or look.leaving <= look.expected.share * budget.room:
        return None
    return Room(budget.limit, portfolios.releases(session, budget), COUNTED_FOR, look.expected.share)


def _last_try(session: Session, campaign: Campaign) -> datetime | None:
    """When the last of what was refused for now is tried again."""
    found: datetime | None = session.execute(
        text("""
            SELECT due_at FROM messages
            WHERE app_id = :app_id AND campaign_id = :id AND lane = :lane AND status = 'pending' AND due_at IS NOT NULL
            ORDER BY due_at DESC LIMIT 1"""),
        {"app_id": campaign.app_id, "id": campaign.id, "lane": campaign.lane},
    ).scalar()
    return found


@dataclass(frozen=True, slots=True)
class Preflight:
    """What a launch will come to, were it alone."""

    #: Messages per second.
    rate: float
    #: Until the last has left; None: it never does.
    seconds: float | None
    #: Of a template; None: its app has none.
    budget: Budget | None
    #: Recipients that take room of it.
    recipients: int

    @property
    def exceeds(self) -> bool:
        """Whether some of it waits for another day's budget."""
        return self.budget is not None and self.recipients > self.budget.limit - self.budget.used


def preflight(
    session: Session,
    app: App,
    file: CampaignFile,
    messages: int,
    now: datetime,
    zone: ZoneInfo,
    *,
    begins_at: datetime | None = None,
    recipients: Collection[str] | int = (),
) -> Preflight:
    """How long a campaign would take, and whether its app's daily budget has room for it.

    Args:
      messages: How many it has.
      begins_at: When it is launched; None: now.
      recipients: Keys of its recipients (`disparo.phone`), or how many of them take room of the budget.
    """
    rate: float = session.execute(
        text(f"SELECT {tuning.RATE_ALLOWED} FROM apps a WHERE a.id = :id"), {"id": app.id}
    ).scalar_one()
    rate = min(rate, file.max_per_second) if file.max_per_second is not None else rate
    window = windows.parse(file.window or app.windows.get(file.lane) or "always")
    _, message = payloads.split(file.message)
    budget = portfolios.budget(session, app.id) if payloads.template_name(message) else None
    new, room = 0, None
    if budget is not None:
        new = recipients if isinstance(recipients, int) else portfolios.uncounted(session, budget, recipients)
        room = Room(budget.limit, portfolios.releases(session, budget), COUNTED_FOR)

    def seconds_left(left: int, room: Room | None) -> float | None:
        return forecast.seconds_left(
            left, rate, now, window=window, zone=zone, begins_at=begins_at, room=room
        )

    seconds, by_budget = seconds_left(messages, None), seconds_left(new, room)
    lasts = None if seconds is None or by_budget is None else max(seconds, by_budget)
    return Preflight(rate, lasts, budget, new)


# -- failures, and all campaigns ---------------------------------------------------------------------------


def failures(session: Session, campaign_id: int) -> list[dict[str, Any]]:
    """Failed messages by code, most first: ``[{"code", "reason", "count"}]``."""
    rows = session.execute(
        text("""
            SELECT coalesce(code, ''), min(reason), count(*) FROM messages
            WHERE campaign_id = :id AND status = 'failed' GROUP BY code ORDER BY count(*) DESC, code LIMIT 50"""),
        {"id": campaign_id},
    )
    return [{"code": code, "reason": reason, "count": n} for code, reason, n in rows]


def listing(session: Session) -> list[dict[str, Any]]:
    """All campaigns, newest first, with their counts."""
    rows = session.execute(
        select(Campaign, App.name).join(App, App.id == Campaign.app_id).order_by(Campaign.id.desc())
    ).all()
    counts = counters.counts(session, [campaign.id for campaign, _ in rows])
    return [
        {
            "name": campaign.name,
            "app": app_name,
            "lane": campaign.lane,
            "state": campaign.state,
            "total": campaign.total,
            "counts": counts[campaign.id],
            "created_at": campaign.created_at.isoformat(),
        }
        for campaign, app_name in rows
    ]
