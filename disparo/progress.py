"""How a campaign goes: its status, what limits it, its failures; and all campaigns."""

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from disparo import apps, counters
from disparo.actions import history
from disparo.campaigns import RESENT_BY_ITSELF, live_workers, shut
from disparo.models import App, Campaign, Import, Stop
from disparo.statuses import CampaignState, LimitedBy, Status


def status(session: Session, campaign: Campaign, now: datetime, zone: ZoneInfo) -> dict[str, Any]:
    """What ``campaign status --json`` prints: true during and after, and never a count of rows per screen."""
    app = session.get_one(App, campaign.app_id)
    counts = counters.counts(session, [campaign.id])[campaign.id]
    rate = counters.recent_rate(session, campaign.id, now) if campaign.state == CampaignState.RUNNING else 0.0
    held = [
        stop
        for stop in apps.stops(session, app.id)
        if stop.scope == "app" or stop.key in (campaign.lane, campaign.template)
    ]
    left = counts[Status.PENDING] + counts[Status.SENDING]
    window_shut = campaign.id in shut(session, now, zone)
    workers = live_workers(session)
    next_try = _next_try(session, campaign, now) if left and not rate else None
    resends = not left and counts[Status.UNKNOWN] > 0 and _resends(session, campaign, now)
    limited_by = _limited_by(campaign, app, counts, rate, held, window_shut, workers, resends)
    loaded = session.scalars(select(Import).where(Import.campaign_id == campaign.id)).first()
    wait = (next_try - now).total_seconds() if next_try else 0.0
    stands = bool(held and counts[Status.PENDING])
    moving = (
        campaign.state == CampaignState.RUNNING
        and not stands
        and limited_by in (LimitedBy.NONE, LimitedBy.RATE, LimitedBy.NETWORK)
    )
    return {
        "name": campaign.name,
        "app": app.name,
        "lane": campaign.lane,
        "state": campaign.state,
        "total": campaign.total,
        "counts": counts,
        "failures": failures(session, campaign.id) if counts[Status.FAILED] else [],
        "rate": round(rate, 1),
        "eta_seconds": None
        if resends or (left and not moving)
        else round(max(left / (rate or app.rate), wait)),
        "next_try_at": next_try.isoformat() if next_try else None,
        "limited_by": limited_by,
        "pause_reason": campaign.pause_reason or (held[0].reason if held else None),
        "workers": workers,
        "stops": [apps.stop_as_json(stop) for stop in held],
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


def _limited_by(
    campaign: Campaign,
    app: App,
    counts: dict[str, int],
    rate: float,
    held: list[Stop],
    window_shut: bool,
    workers: int,
    resends: bool,
) -> LimitedBy:
    if campaign.state in (CampaignState.FINISHED, CampaignState.CANCELLED, CampaignState.IMPORTING):
        return LimitedBy.NONE
    if campaign.state == CampaignState.PAUSED:
        return LimitedBy.PAUSED
    if held and counts[Status.PENDING]:
        passing = all(stop.code in (apps.UNREACHABLE, apps.STRANGE_ANSWERS) for stop in held)
        return LimitedBy.NETWORK if passing else LimitedBy.PAUSED
    if not counts[Status.PENDING] and not counts[Status.SENDING]:
        # What is sent again by itself waits for its webhooks first, and for nobody.
        return LimitedBy.DECISION if counts[Status.UNKNOWN] and not resends else LimitedBy.NONE
    if campaign.state == CampaignState.SCHEDULED or window_shut:
        return LimitedBy.WINDOW
    if not workers:
        return LimitedBy.NO_WORKER
    if not rate:
        # Nothing was answered yet: it has just begun, or goes on after a stop.
        return LimitedBy.NONE
    return LimitedBy.RATE if rate >= 0.8 * app.rate else LimitedBy.NETWORK


def _next_try(session: Session, campaign: Campaign, now: datetime) -> datetime | None:
    """When the first goes on, where all that is left was refused for now and waits to be tried again."""
    found: datetime | None = session.execute(
        text("""
            SELECT min(due_at) FROM messages
            WHERE app_id = :app_id AND campaign_id = :id AND status = 'pending' AND due_at IS NOT NULL
            HAVING min(due_at) > :now AND NOT EXISTS (
                SELECT 1 FROM messages WHERE campaign_id = :id AND status = 'pending' AND due_at IS NULL)"""),
        {"app_id": campaign.app_id, "id": campaign.id, "now": now},
    ).scalar_one_or_none()
    return found


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
