"""Campaigns, their imports, batches and counters."""

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from disparo import counters
from disparo.models import App, Batch, Campaign, Import, Message
from disparo.statuses import CampaignState, Lane, Status
from tests.factories.message import make_messages

CONTENT = {"type": "text", "text": {"body": "Oi {{ nome }}"}}


def make_campaign(
    session: Session,
    app: App,
    recipients: int = 0,
    *,
    name: str = "black-friday",
    lane: str = Lane.MARKETING,
    state: str = CampaignState.RUNNING,
    not_after: datetime | None = None,
    **columns: object,
) -> Campaign:
    """A launched campaign with ``recipients`` pending rows, counted as `campaigns.launch` counts them."""
    columns = {
        "content": CONTENT,
        "content_digest": "0" * 64,
        "dedupe": "none",
        "created_by": "ana",
    } | columns
    campaign = Campaign(name=name, app_id=app.id, lane=lane, state=state, total=recipients, **columns)
    session.add(campaign)
    session.flush()
    make_messages(session, app, recipients, campaign=campaign, lane=lane, not_after=not_after)
    counters.add_deltas(session, [(campaign.id, Status.PENDING, recipients)])
    return campaign


def make_import(session: Session, campaign: Campaign, **columns: object) -> Import:
    """An unfinished import."""
    made = Import(**({"campaign_id": campaign.id, "file_name": "lista.csv", "digest": "1" * 64} | columns))
    session.add(made)
    session.flush()
    return made


def make_batch(session: Session, campaign: Campaign, state: str = "released", **columns: object) -> Batch:
    """A batch of all rows of a campaign, past which it then releases."""
    ids = sorted(session.scalars(select(Message.id).where(Message.campaign_id == campaign.id)))
    batch = Batch(
        campaign_id=campaign.id,
        app_id=campaign.app_id,
        first_message_id=ids[0],
        last_message_id=ids[-1],
        size=len(ids),
        state=state,
        **columns,
    )
    campaign.released_to = ids[-1]
    session.add(batch)
    session.flush()
    return batch


def recount(session: Session, campaign: Campaign) -> dict[str, int]:
    """Messages per status as the rows say: what the counters must say too."""
    found = dict.fromkeys((str(status) for status in Status), 0)
    query = select(Message.status, func.count()).where(Message.campaign_id == campaign.id)
    return found | dict(session.execute(query.group_by(Message.status)).all())
