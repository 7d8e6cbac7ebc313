"""Campaigns that pause by themselves: too many failures, or the first ones have left and somebody should look."""

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from disparo import campaigns, counters
from disparo.models import Campaign
from disparo.statuses import CampaignState
from disparo.stop_rules import StopIf, answered

#: Who pauses them, in the record of actions.
ACTOR = "disparo"


def pause_due(session: Session) -> list[tuple[str, str]]:
    """Pause running campaigns whose ``stop_if`` is broken or whose first messages are settled; (name, reason) each."""
    return _pause_failing(session) + _pause_after_first(session)


def _pause_failing(session: Session) -> list[tuple[str, str]]:
    """By the counters alone: nothing is counted. Shares are of what was answered since the last resume."""
    running = list(
        session.scalars(
            select(Campaign).where(Campaign.state == CampaignState.RUNNING, Campaign.stop_if.is_not(None))
        )
    )
    counts = counters.counts(session, [campaign.id for campaign in running])
    paused = []
    for campaign in running:
        rule, now = StopIf.stored(campaign.stop_if), answered(counts[campaign.id])
        # After a retry there are fewer failures than before it: those must not make up for new ones.
        before = {name: min(n, int((campaign.stop_if_from or {}).get(name, 0))) for name, n in now.items()}
        if rule is None:
            continue
        reason = rule.broken({name: n - before[name] for name, n in now.items()})
        lowered = campaign.stop_if_from is not None and before != campaign.stop_if_from
        if not (reason or lowered) or not _lock(session, campaign):
            continue
        if lowered:
            campaign.stop_if_from = before
        if reason:
            campaigns.pause(session, campaign, reason=reason, by=ACTOR)
            paused.append((campaign.name, reason))
    session.flush()
    return paused


def _lock(session: Session, campaign: Campaign) -> bool:
    """Whether it still runs as it was seen, now under its lock; who else holds it is left to the next look."""
    seen = campaign.stop_if_from
    held = session.scalars(
        select(Campaign)
        .where(Campaign.id == campaign.id, Campaign.state == CampaignState.RUNNING)
        .with_for_update(key_share=True, skip_locked=True)
        .execution_options(populate_existing=True)
    ).one_or_none()
    return held is not None and held.stop_if_from == seen


def _pause_after_first(session: Session) -> list[tuple[str, str]]:
    """`disparo.releases.release` lets no more than ``first`` leave; this pauses when each of them has its outcome."""
    ids = session.execute(
        text(f"""
            SELECT c.id FROM campaigns c
            WHERE c.state = 'running' AND c.first IS NOT NULL AND {campaigns.FIRST_SETTLED} AND EXISTS (
                SELECT 1 FROM messages m
                WHERE m.campaign_id = c.id AND m.status = 'pending' AND m.id > c.released_to)
            ORDER BY c.id FOR NO KEY UPDATE OF c SKIP LOCKED""")
    ).scalars()
    paused = []
    for campaign_id in ids.all():
        campaign = session.get_one(Campaign, campaign_id, populate_existing=True)
        reason = f"the first {campaign.first:,} have left: look at them, then `disparo campaign resume {campaign.name}`"
        # Whoever lets it go on, now or at an instant, means the rest.
        campaign.first = None
        campaigns.pause(session, campaign, reason=reason, by=ACTOR)
        paused.append((campaign.name, reason))
    return paused
