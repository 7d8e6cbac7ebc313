"""Another content for a campaign that was launched: every message that may still leave is checked with it first.

`begin` looks whether it can be amended, `check_page` checks its messages, a page a transaction, and `apply` puts
the new content in its place in one short transaction, if nothing has changed since `begin`. So whatever is
killed, the campaign has its old content or the new one, and each message says by which one it was sent.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime

import orjson
from sqlalchemy import text
from sqlalchemy.orm import Session

from disparo import actions, campaigns
from disparo.campaigns import CampaignFile, compile_message
from disparo.errors import ConflictError, InputError
from disparo.models import App, Campaign, CampaignContent
from disparo.recipients import check
from disparo.rendering import Content
from disparo.statuses import CampaignState, Status
from disparo.whatsapp import payloads

#: Ids looked at in one transaction.
PAGE_IDS = 10_000
#: Messages that are told one by one when they cannot be sent.
TOLD = 5

#: What may still leave: what waits; what comes back from a worker; what a person may have sent again, being unknown
#: or failed. What was accepted may be reported failed later: if somebody retries it then, it is checked by its worker.
_MAY_LEAVE = (Status.PENDING, Status.SENDING, Status.UNKNOWN, Status.FAILED)
# As there are indexes.
_ENDS = text("""
    SELECT min(least), max(greatest) FROM (
        SELECT min(id), max(id) FROM messages WHERE campaign_id = :id AND status = 'pending'
        UNION ALL
        SELECT min(id), max(id) FROM messages WHERE campaign_id = :id AND status IN ('sending', 'unknown')
        UNION ALL
        SELECT min(id), max(id) FROM messages WHERE campaign_id = :id AND status = 'failed') AS ends (least, greatest)""")
_NEXT = text("""
    SELECT id FROM messages
    WHERE id BETWEEN :next AND :last AND campaign_id = :campaign_id AND status = ANY(:statuses) ORDER BY id LIMIT 1""")


@dataclass(slots=True)
class Amendment:
    """A new content on its way to a campaign, and how its messages took it so far."""

    campaign_id: int
    #: What the campaign was when it began; it must be the same in the end.
    version: int
    total: int
    file: CampaignFile
    message: Content
    envelope: Content
    #: Ids of messages that are still to be checked.
    next_id: int
    last_id: int
    checked: int = 0
    unfit: int = 0
    #: Line and reason of the first ones that cannot be sent with it.
    told: list[str] = field(default_factory=list)


def begin(session: Session, campaign: Campaign, file: CampaignFile, file_name: str) -> Amendment | None:
    """The amendment of a campaign by a whole campaign file; None when the file says what the campaign has already.

    Raises:
      ConflictError: It is neither paused nor finished.
      InputError: The file changes what decided how the list was read.
    """
    _refuse_state(campaign)
    _refuse_other_import(session, campaign, file, file_name)
    if campaign.content_digest == file.digest():
        return None
    message, envelope = compile_message(file.message, file.options)
    first, last = session.execute(_ENDS, {"id": campaign.id}).one()
    return Amendment(
        campaign.id, campaign.version, campaign.total, file, message, envelope, first or 1, last or 0
    )


def check_page(session: Session, amendment: Amendment) -> bool:
    """Check the next messages of the campaign that may still leave; whether there may be more."""
    values = {"campaign_id": amendment.campaign_id, "statuses": list(_MAY_LEAVE)}
    # Between those of a campaign may be millions of others.
    first = session.execute(
        _NEXT, values | {"next": amendment.next_id, "last": amendment.last_id}
    ).scalar_one_or_none()
    if first is None:
        return False
    last = min(first + PAGE_IDS - 1, amendment.last_id)
    rows = session.execute(
        text("""
            SELECT id, line, recipient, CAST(params AS text) AS params FROM messages
            WHERE id BETWEEN :first AND :last AND campaign_id = :campaign_id AND status = ANY(:statuses)
            ORDER BY id"""),
        values | {"first": first, "last": last},
    ).all()
    for row in rows:
        try:
            params = orjson.loads(row.params or "{}")
            check(amendment.message, amendment.envelope, params, row.recipient, raw=amendment.file.raw)
        except InputError as err:
            amendment.unfit += 1
            if len(amendment.told) < TOLD:
                amendment.told.append(f"{f'line {row.line}' if row.line else f'message {row.id}'}: {err}")
    amendment.checked += len(rows)
    amendment.next_id = last + 1
    return True


def apply(
    session: Session,
    amendment: Amendment,
    now: datetime,
    *,
    not_after: datetime | None = None,
    by: str | None = None,
    why: str | None = None,
) -> Campaign:
    """Give the campaign its new content; what was sent before keeps the version that it was sent with.

    Args:
      not_after: The new file's. It can only be brought forward: a message keeps the earlier of the campaign's
        and its own, and no longer knows which of them that was.

    Raises:
      InputError: Messages cannot be sent with the content, or ``not_after`` is later than before.
      ConflictError: The campaign was resumed, amended or added to meanwhile.
    """
    name = session.get_one(Campaign, amendment.campaign_id).name
    if amendment.unfit:
        more = amendment.unfit - len(amendment.told)
        raise InputError(
            f"{amendment.unfit:,} of {amendment.checked:,} messages that may still leave cannot be sent with the new "
            f"content; {name} stays as it is. {'; '.join(amendment.told)}"
            + (f"; and {more:,} more" if more else "")
        )
    campaign = campaigns.get(session, name, lock=True)
    _refuse_state(campaign)
    if campaign.version != amendment.version:
        raise ConflictError(
            f"{name} was amended by somebody else meanwhile (its content is version {campaign.version} now); "
            "nothing was changed. Look at it and amend it again"
        )
    if campaign.total != amendment.total:
        raise ConflictError(f"{name} got more messages meanwhile; nothing was changed. Amend it again")
    if campaign.not_after is not None and (not_after is None or not_after > campaign.not_after):
        raise InputError(
            f"not_after is {campaign.not_after.astimezone(UTC):%Y-%m-%d %H:%M} UTC and can only be brought forward; "
            f"for a later one launch another campaign with --from-campaign {name}"
        )
    by = by or actions.operator()
    file = amendment.file
    session.add(
        CampaignContent(
            campaign_id=campaign.id,
            version=campaign.version,
            content=campaign.content,
            template=campaign.template,
            content_digest=campaign.content_digest,
            replaced_at=now,
            replaced_by=by,
        )
    )
    template = payloads.template_name(payloads.split(file.message)[1])
    moved = (
        {"template": template, "template_before": campaign.template} if template != campaign.template else {}
    )
    campaign.version += 1
    campaign.content, campaign.template, campaign.content_digest = file.message, template, file.digest()
    campaign.window, campaign.weight, campaign.max_per_second = file.window, file.weight, file.max_per_second
    campaign.on_unknown, campaign.stop_if = file.on_unknown, file.effective_stop_if
    campaign.fallback, campaign.not_after = file.fallback, not_after
    actions.record_action(
        session, "amend", f"campaign:{name}", actor=by, why=why,
        version=campaign.version, checked=amendment.checked, **moved,
    )  # fmt: skip
    session.flush()
    return campaign


def _refuse_state(campaign: Campaign) -> None:
    if campaign.state in (CampaignState.RUNNING, CampaignState.SCHEDULED):
        raise ConflictError(
            f"{campaign.name} is {campaign.state}; `disparo campaign pause {campaign.name}` first, then amend it"
        )
    if campaign.state not in (CampaignState.PAUSED, CampaignState.FINISHED):
        raise ConflictError(
            f"{campaign.name} is {campaign.state}; only a paused or finished campaign can be amended"
        )


def _refuse_other_import(session: Session, campaign: Campaign, file: CampaignFile, file_name: str) -> None:
    """What decided which rows of the list were taken, and as what, cannot change any more."""
    app = session.get_one(App, campaign.app_id)
    was = {"name": campaign.name, "app": app.name, "lane": campaign.lane, "dedupe": campaign.dedupe}
    new = {"name": file.name, "app": file.app, "lane": str(file.lane), "dedupe": file.effective_dedupe}
    options = file.options
    for key in sorted(campaigns.OPTIONS):
        # Keys that a campaign of an earlier version does not have were not given then.
        was[key], new[key] = campaign.options.get(key, options[key]), options[key]
    for key, value in was.items():
        if new[key] != value:
            raise InputError(
                f"{file_name}: {key} is {_shown(new[key])}, but {campaign.name} was launched with {_shown(value)}; "
                f"it cannot be changed any more. Another campaign can take over with --from-campaign {campaign.name}"
            )


def _shown(value: object) -> str:
    return orjson.dumps(value).decode() if isinstance(value, dict | bool) else f"{value or 'none'}"
