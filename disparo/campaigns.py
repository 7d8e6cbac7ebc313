"""Campaigns: what a campaign file says, create, launch, pause, resume, reschedule, cancel, finish."""

import functools
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from disparo import actions, batches, counters, notifications, windows
from disparo.errors import ConflictError, InputError, NotFoundError
from disparo.models import App, Campaign, Import, Message
from disparo.rendering import Content, compile_content
from disparo.statuses import CampaignState, Lane, Status
from disparo.stop_rules import BY_LANE, StopIf, answered
from disparo.whatsapp import orders, payloads, texts

_NAME = re.compile(r"[\w][\w .,@+-]{0,99}")

#: Settings of a campaign file that have no column of their own.
OPTIONS = frozenset({"columns", "normalise", "raw", "numbers"})

#: Messages per second; no campaign is meant to be slower, and Redis could not keep the next instant of one.
SLOWEST = 1e-6

#: A worker that was not seen for so long is not counted on.
WORKER_SILENT_SECONDS = 3.0

#: A campaign that resends what is unknown makes so many attempts in all; then a message is held for a person.
RESEND_ATTEMPTS = 3

#: SQL: the attempts of an unknown message ``m``, once it is no longer in doubt. The lease sweep leaves its last one
#: to be counted by the late answer, and a restored backup has forgotten what was sent after it.
ATTEMPTS_OF_UNKNOWN = "greatest(1, m.attempts + CASE WHEN m.code = 'lease_expired' THEN 1 ELSE 0 END)"

#: SQL: campaign ``c`` sends its unknown message ``m`` again by itself, when its time has come. Not when an attempt
#: of it is known to have been accepted, and not after a restored backup: most of those have been sent.
RESENT_BY_ITSELF = f"""(c.on_unknown = 'resend' AND c.state = 'running'
    AND c.lane <> 'payment' AND m.lane <> 'payment'
    AND m.claimed_at IS NOT NULL AND coalesce(m.code, '') <> 'database_restored'
    AND (m.not_after IS NULL OR m.not_after > :now) AND {ATTEMPTS_OF_UNKNOWN} < {RESEND_ATTEMPTS}
    AND coalesce(m.accepted_at, m.enqueued_at, m.sent_at, m.delivered_at, m.read_at) IS NULL)"""


#: SQL: the ``first`` messages of campaign ``c`` were released (`disparo.releases.release`), and each has its outcome.
FIRST_SETTLED = """(c.first <= (SELECT coalesce(sum(b.size), 0) FROM batches b WHERE b.campaign_id = c.id)
    AND NOT EXISTS (
        SELECT 1 FROM messages m WHERE m.campaign_id = c.id AND m.status = 'pending' AND m.id <= c.released_to)
    AND NOT EXISTS (SELECT 1 FROM messages m WHERE m.campaign_id = c.id AND m.status = 'sending'))"""


class CampaignFile(BaseModel):
    """A campaign file, checked. All but name, app and message may be left out."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    app: str
    message: dict[str, Any]
    lane: Lane = Field(default=Lane.MARKETING, strict=False)
    #: Our column → the header in the recipients file.
    columns: dict[str, str] = Field(default_factory=dict)
    dedupe: Literal["recipient", "key", "none"] | None = None
    at: str | None = None
    not_after: str | None = None
    window: str | None = None
    weight: int = Field(default=1, ge=1, le=1000)
    max_per_second: float | None = Field(default=None, strict=False)
    on_unknown: Literal["hold", "resend"] = "hold"
    #: None: what holds for the lane.
    stop_if: StopIf | Literal["off"] | None = None
    normalise: bool = False
    fallback: dict[str, Any] | None = None
    #: Send the message without checking it: for types that are newer than this version.
    raw: bool = False
    numbers: Literal["br", "en"] | None = None

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not _NAME.fullmatch(value.strip()):
            raise ValueError(
                "use 1 to 100 letters, digits, spaces and . , @ + - _, beginning with a letter or digit"
            )
        return value.strip()

    @field_validator("message", mode="before")
    @classmethod
    def _message(cls, value: object) -> object:
        return orders.expand(value) if isinstance(value, dict) else value

    @field_validator("window")
    @classmethod
    def _window(cls, value: str | None) -> str | None:
        return None if value is None else str(windows.parse(value))

    @field_validator("max_per_second")
    @classmethod
    def _slowest(cls, value: float | None) -> float | None:
        # As with the rate of an app: what is slower, or no number, is a slip of the pen.
        if value is not None and not SLOWEST <= value < math.inf:
            raise ValueError("give messages per second, any number from 0.000001 on")
        return value

    @field_validator("stop_if", mode="before")
    @classmethod
    def _stop_if(cls, value: object) -> object:
        # YAML's older rules read `off` as false, and people write either.
        if value is False or value == "off":
            return "off"
        return value if value is None or isinstance(value, StopIf) else StopIf.parse(value)

    @model_validator(mode="after")
    def _raw_beside_the_type(self) -> Self:
        # As in a file of one message: it says the same there as at the top.
        self.raw = self.raw or payloads.is_raw(self.message)
        return self

    @model_validator(mode="after")
    def _payments_wait(self) -> Self:
        # A payment asked for twice may be paid twice, so nothing resends one by itself.
        if self.lane is Lane.PAYMENT and self.on_unknown != "hold":
            raise ValueError("on_unknown: a payment campaign holds what is unknown; only `hold` is possible")
        return self

    @property
    def effective_dedupe(self) -> str:
        """What makes a duplicate: marketing compares recipients, payment and utility keys."""
        if self.dedupe:
            return self.dedupe
        return "recipient" if self.lane is Lane.MARKETING else "key"

    @property
    def effective_stop_if(self) -> dict[str, Any] | None:
        """When it pauses by itself, as it is stored; marketing does unless the file says ``off``."""
        rule = BY_LANE.get(self.lane) if self.stop_if is None else self.stop_if
        return rule.model_dump(exclude_none=True) if isinstance(rule, StopIf) else None

    @property
    def without_effect(self) -> list[str]:
        """Settings that the file gives and that this version keeps without acting on them."""
        return ["fallback"] if self.fallback else []

    @property
    def options(self) -> dict[str, Any]:
        """Settings that have no column of their own, as they are stored."""
        return self.model_dump(mode="json", include=set(OPTIONS))

    def digest(self) -> str:
        """sha256 of what the file means."""
        meaning = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(meaning.encode()).hexdigest()


def parse_file(document: Any, file_name: str) -> CampaignFile:
    """A checked campaign file.

    Raises:
      InputError: Names the file, the key and what is wrong with it.
    """
    if not isinstance(document, dict):
        raise InputError(f"{file_name}: a campaign file is a mapping with name, app and message")
    try:
        return CampaignFile.model_validate(document)
    except InputError as err:
        raise InputError(f"{file_name}: {err}") from err
    except ValidationError as err:
        told = []
        for one in err.errors():
            where = ".".join(str(part) for part in one["loc"])
            if one["type"] == "extra_forbidden":
                told.append(f"{where}: no such setting; there are {', '.join(CampaignFile.model_fields)}")
            elif one["type"] == "missing":
                told.append(f"{where} is missing")
            elif one["type"] == "string_type":
                told.append(f"{where}: is no text; write it in quotes")
            else:
                told.append(f"{where}: {one['msg'].removeprefix('Value error, ')}".removeprefix(": "))
        raise InputError(f"{file_name}: {'; '.join(told)}") from err


def compile_message(
    campaign_message: dict[str, Any], options: Mapping[str, Any] | None = None
) -> tuple[Content, Content]:
    """The message and its envelope, compiled for rendering, both with their keys in the order of the wire.

    The envelope takes the recipient's phone as ``{{ to }}``, whatever the file says.

    Args:
      options: The campaign's (`CampaignFile.options`); of these ``normalise`` and ``numbers`` count here.

    Raises:
      InputError: A template in it cannot be read; names the JSON path.
    """
    options = options or {}
    envelope, message = payloads.split(campaign_message)
    finish = functools.partial(texts.finish, normalise=bool(options.get("normalise")))
    around = payloads.wire("{{ to }}", {}, envelope)
    first = {key: message[key] for key in ("type",) if key in message}
    return (
        compile_content(first | message, finish=finish, numbers=options.get("numbers")),
        compile_content(around, numbers=options.get("numbers")),
    )


def content_of(
    session: Session, campaign_id: int, version: int | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The message of a campaign, as it was in that version (None: as it is now), and the campaign's options."""
    content, options = session.execute(
        text("""
            SELECT coalesce(
                (SELECT content FROM campaign_contents WHERE campaign_id = c.id AND version = :version), c.content),
                c.options
            FROM campaigns c WHERE c.id = :id"""),
        {"id": campaign_id, "version": version},
    ).one()
    return content, options


def create(
    session: Session,
    app: App,
    file: CampaignFile,
    *,
    audience_name: str,
    audience_digest: str,
    now: datetime,
    launch_at: datetime | None = None,
    not_after: datetime | None = None,
    first: int | None = None,
    by: str | None = None,
) -> tuple[Campaign, Import]:
    """The campaign of that name and its import, made new or found unfinished, to be loaded from ``next_line``.

    Args:
      first: It pauses by itself when so many have left (`disparo.canaries`).

    Raises:
      ConflictError: It was launched already, or its unfinished import is of another file or content.
    """
    # Two that launch the same name at once: the second waits here for the first one's commit.
    session.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 20))"), {"name": file.name})
    campaign = session.scalars(
        select(Campaign).where(Campaign.name == file.name).with_for_update()
    ).one_or_none()
    if campaign is not None:
        found = _unfinished(session, campaign, file, audience_digest)
        # Nothing of it has left yet, so what was said last holds.
        campaign.launch_at, campaign.not_after, campaign.first = launch_at, not_after, first
        session.flush()
        return campaign, found
    _, message = payloads.split(file.message)
    campaign = Campaign(
        name=file.name,
        app_id=app.id,
        lane=file.lane,
        state=CampaignState.IMPORTING,
        content=file.message,
        template=payloads.template_name(message),
        content_digest=file.digest(),
        dedupe=file.effective_dedupe,
        window=file.window,
        weight=file.weight,
        max_per_second=file.max_per_second,
        on_unknown=file.on_unknown,
        stop_if=file.effective_stop_if,
        fallback=file.fallback,
        options=file.options,
        launch_at=launch_at,
        not_after=not_after,
        first=first,
        created_by=by or actions.operator(),
        created_at=now,
    )
    session.add(campaign)
    session.flush()
    started = Import(campaign_id=campaign.id, file_name=audience_name, digest=audience_digest, created_at=now)
    session.add(started)
    session.flush()
    return campaign, started


def refuse_launched(session: Session, name: str) -> None:
    """Return when a campaign of that name may still be imported: none exists, or its import is unfinished.

    Raises:
      ConflictError: It was launched already; says when and by whom.
    """
    campaign = session.scalars(select(Campaign).where(Campaign.name == name)).one_or_none()
    if campaign is not None:
        _refuse_launched(campaign)


def unfinished(session: Session, name: str) -> bool:
    """Whether a campaign of that name is being imported."""
    found = select(Campaign.id).where(Campaign.name == name, Campaign.state == CampaignState.IMPORTING)
    return session.scalars(found).first() is not None


def _refuse_launched(campaign: Campaign) -> None:
    if campaign.state == CampaignState.IMPORTING:
        return
    if campaign.launched_at is None:
        raise ConflictError(
            f"{campaign.name} was cancelled before it was launched; nothing done. Give the campaign another name"
        )
    raise ConflictError(
        f"{campaign.name} was launched at {campaign.launched_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC by "
        f"{campaign.created_by} ({campaign.total:,} messages, now {campaign.state}); nothing done. "
        "Another campaign needs another name"
    )


def _unfinished(session: Session, campaign: Campaign, file: CampaignFile, audience_digest: str) -> Import:
    _refuse_launched(campaign)
    found = session.scalars(select(Import).where(Import.campaign_id == campaign.id)).one()
    if campaign.content_digest != file.digest() or found.digest != audience_digest:
        # Of messages of another campaign it counts ids, which say nothing to people.
        reached = "" if found.file_name.startswith("campaign ") else f" (up to line {found.next_line})"
        raise ConflictError(
            f"{campaign.name} has an unfinished import of {found.file_name}{reached} with "
            f"another content or list; launch it with those, or `disparo campaign cancel {campaign.name}`"
        )
    return found


def launch(
    session: Session, campaign: Campaign, now: datetime, *, by: str | None = None, why: str | None = None
) -> None:
    """Freeze the audience and let it go: at once, or at ``launch_at``.

    Raises:
      ConflictError: It is no longer being imported: launched by another process, or cancelled.
    """
    session.refresh(campaign, with_for_update={"key_share": True})
    _refuse_launched(campaign)
    campaign.total = session.execute(
        select(func.count()).select_from(Message).where(Message.campaign_id == campaign.id)
    ).scalar_one()
    later = campaign.launch_at is not None and campaign.launch_at > now
    campaign.state = CampaignState.SCHEDULED if later else CampaignState.RUNNING
    campaign.launched_at = now
    if campaign.first is not None and campaign.first >= campaign.total:
        campaign.first = None
    counters.add_deltas(session, [(campaign.id, Status.PENDING, campaign.total)])
    first = {} if campaign.first is None else {"first": campaign.first}
    _record(session, "launch", campaign, by, why, messages=campaign.total, **first)
    session.flush()


def get(session: Session, name: str, *, lock: bool = False) -> Campaign:
    """The campaign of that name.

    Raises:
      NotFoundError: There is none; says which came last.
    """
    query = select(Campaign).where(Campaign.name == name)
    if lock:
        # What workers record of its messages (they refer to this row) does not wait for it, nor it for them.
        query = query.with_for_update(key_share=True).execution_options(populate_existing=True)
    campaign = session.scalars(query).one_or_none()
    if campaign is None:
        known = ", ".join(session.scalars(select(Campaign.name).order_by(Campaign.id.desc()).limit(5)))
        raise NotFoundError(
            f"no campaign is named {name!r} ({f'the last ones: {known}' if known else 'there is none yet'})"
        )
    return campaign


def pause(
    session: Session, campaign: Campaign, *, reason: str = "paused by an operator", by: str | None = None
) -> bool:
    """Let nothing more of it leave; what is written already comes to its outcome. The caller has it locked.

    False when it was paused already: what it was first paused for stays.
    """
    if campaign.state == CampaignState.PAUSED:
        return False
    if campaign.state not in (CampaignState.RUNNING, CampaignState.SCHEDULED):
        raise ConflictError(
            f"{campaign.name} is {campaign.state}; only a running or scheduled campaign can be paused"
        )
    campaign.state, campaign.pause_reason = CampaignState.PAUSED, reason
    _record(session, "pause", campaign, by, reason)
    _tell(session, "paused", campaign, f"{campaign.name} is paused: {reason}", reason=reason)
    session.flush()
    return True


def resume(
    session: Session, campaign: Campaign, now: datetime, *, by: str | None = None, why: str | None = None
) -> None:
    """Go on exactly where it stopped; when it was to begin later, then. The caller has it locked.

    ``stop_if`` looks only at what comes after: a person has seen what was before.
    """
    if campaign.state in (CampaignState.RUNNING, CampaignState.SCHEDULED):
        return
    if campaign.state != CampaignState.PAUSED:
        raise ConflictError(f"{campaign.name} is {campaign.state}; only a paused campaign can be resumed")
    later = campaign.launch_at is not None and campaign.launch_at > now
    _go_on(session, campaign, CampaignState.SCHEDULED if later else CampaignState.RUNNING)
    _record(session, "resume", campaign, by, why)
    session.flush()


def _go_on(session: Session, campaign: Campaign, state: CampaignState) -> None:
    campaign.state, campaign.pause_reason = state, None
    if campaign.first is not None:
        settled = text(f"SELECT {FIRST_SETTLED} FROM campaigns c WHERE c.id = :id")
        # It was paused for another reason just then: whoever lets it go on has seen them.
        if session.execute(settled, {"id": campaign.id}).scalar_one():
            campaign.first = None
    campaign.stop_if_from = answered(counters.counts(session, [campaign.id])[campaign.id])


def reschedule(
    session: Session,
    campaign: Campaign,
    at: datetime,
    now: datetime,
    *,
    by: str | None = None,
    why: str | None = None,
) -> None:
    """Let a scheduled campaign begin, or a paused one go on, by itself at ``at``. The caller has it locked.

    Raises:
      ConflictError: It is neither.
      InputError: ``at`` has passed, or lies after the campaign's ``not_after``.
    """
    name = campaign.name
    if campaign.state == CampaignState.RUNNING:
        raise ConflictError(f"{name} is running; `disparo campaign pause {name}` first, then reschedule it")
    if campaign.state not in (CampaignState.SCHEDULED, CampaignState.PAUSED):
        raise ConflictError(
            f"{name} is {campaign.state}; only a scheduled or paused campaign can be rescheduled"
        )
    if at <= now:
        raise InputError(f"{name} can only be rescheduled to an instant that is to come")
    if campaign.not_after is not None and at >= campaign.not_after:
        raise InputError(
            f"{name} may not leave after {campaign.not_after.astimezone(UTC):%Y-%m-%d %H:%M} UTC (its not_after); "
            "give an earlier instant"
        )
    was, before = campaign.state, campaign.launch_at
    campaign.launch_at = at
    if was == CampaignState.PAUSED:
        _go_on(session, campaign, CampaignState.SCHEDULED)
    _record(
        session, "reschedule", campaign, by, why,
        at=at.isoformat(), before=before.isoformat() if before else None, state=was,
    )  # fmt: skip
    session.flush()


def cancel(
    session: Session, campaign: Campaign, now: datetime, *, by: str | None = None, why: str | None = None
) -> None:
    """Let nothing more of it leave, for good. `cancel_rest` then settles the rows. The caller has it locked."""
    if campaign.state in (CampaignState.FINISHED, CampaignState.CANCELLED):
        raise ConflictError(f"{campaign.name} is {campaign.state} already")
    if campaign.state == CampaignState.IMPORTING:
        # Rows of an unfinished import were never counted.
        n = session.execute(
            select(func.count()).select_from(Message).where(Message.campaign_id == campaign.id)
        ).scalar_one()
        campaign.total = n
        counters.add_deltas(session, [(campaign.id, Status.PENDING, n)])
    was = campaign.state
    campaign.state, campaign.finished_at, campaign.pause_reason = CampaignState.CANCELLED, now, None
    by = by or actions.operator()
    _record(session, "cancel", campaign, by, why, state=was)
    sentence = f"{campaign.name} was cancelled by {by}" + (f": {why}" if why else "")
    _tell(session, "cancelled", campaign, sentence, by=by, why=why)
    session.flush()


def _record(
    session: Session, verb: str, campaign: Campaign, by: str | None, why: str | None, **details: Any
) -> None:
    actions.record_action(session, verb, f"campaign:{campaign.name}", actor=by, why=why, **details)


def _tell(session: Session, what: str, campaign: Campaign, sentence: str, **details: Any) -> None:
    notifications.add(session, f"campaign_{what}", f"campaign:{campaign.name}", sentence, **details)


def cancel_rest(session: Session, now: datetime, *, page: int = 5_000) -> int:
    """Settle a page of pending rows of cancelled campaigns; how many, 0 when none is left."""
    rows = session.execute(
        text("""
            UPDATE messages SET status = 'cancelled', settled_at = :now WHERE id IN (
                SELECT m.id FROM campaigns c JOIN messages m ON m.campaign_id = c.id AND m.status = 'pending'
                WHERE c.state = 'cancelled' LIMIT :page FOR UPDATE OF m SKIP LOCKED)
            RETURNING campaign_id"""),
        {"now": now, "page": page},
    ).scalars()
    return _settled(session, rows.all(), Status.CANCELLED)


def expire(session: Session, now: datetime, *, page: int = 5_000) -> int:
    """Settle a page of rows whose ``not_after``, or their campaign's, has passed before they left; how many."""
    # Brought forward by an amendment, a campaign's own comes before those that its rows were made with.
    rows = [
        campaign_id
        for late in (
            "SELECT id FROM messages WHERE status = 'pending' AND not_after <= :now LIMIT :page FOR UPDATE SKIP LOCKED",
            """SELECT m.id FROM campaigns c JOIN messages m ON m.campaign_id = c.id AND m.status = 'pending'
               WHERE c.state IN ('scheduled', 'running', 'paused') AND c.not_after <= :now
               LIMIT :page FOR UPDATE OF m SKIP LOCKED""",
        )
        for campaign_id in session.execute(
            text(f"""
                UPDATE messages SET status = 'expired', settled_at = :now WHERE id IN ({late})
                RETURNING campaign_id"""),
            {"now": now, "page": page},
        ).scalars()
    ]
    return _settled(session, rows, Status.EXPIRED)


def _settled(session: Session, campaign_ids: Sequence[int | None], status: Status) -> int:
    changes = [(campaign_id, Status.PENDING, -1) for campaign_id in campaign_ids]
    counters.add_deltas(session, changes + [(campaign_id, status, 1) for campaign_id in campaign_ids])
    return len(campaign_ids)


def start_due(session: Session, now: datetime) -> list[str]:
    """Let scheduled campaigns run whose instant has come; their names."""
    return list(
        session.execute(
            text(
                "UPDATE campaigns SET state = 'running' WHERE state = 'scheduled' AND launch_at <= :now RETURNING name"
            ),
            {"now": now},
        ).scalars()
    )


#: SQL: nothing of campaign ``c`` is pending, sending or undecided.
_DONE = """NOT EXISTS (SELECT 1 FROM messages m WHERE m.campaign_id = c.id AND m.status = 'pending')
    AND NOT EXISTS (SELECT 1 FROM messages m WHERE m.campaign_id = c.id AND m.status IN ('sending', 'unknown'))"""


def finish_done(session: Session, now: datetime) -> list[str]:
    """Close running campaigns of which nothing is pending, sending or undecided; their names.

    Never under somebody who changes its messages just then: that writes counter deltas, which refer to the
    campaign's row, so that it is passed over here. Who puts messages back (a retry) locks the row first (`get`), or
    opens a finished campaign again after the deltas: before them, it may be closed in between.
    """
    seen = session.execute(
        text(
            f"SELECT c.id FROM campaigns c WHERE c.state = 'running' AND {_DONE} FOR UPDATE OF c SKIP LOCKED"
        )
    ).scalars()
    ids = list(seen)
    if not ids:
        return []
    # A statement of its own: what was committed between that look and its lock is seen now.
    closed = session.execute(
        text(f"""
            UPDATE campaigns c SET state = 'finished', finished_at = :now, first = NULL
            WHERE c.id = ANY(:ids) AND c.state = 'running' AND {_DONE} RETURNING c.id, c.name"""),
        {"ids": ids, "now": now},
    ).all()
    counts = counters.counts(session, [row.id for row in closed])
    for row in closed:
        reached = {str(status): n for status, n in counts[row.id].items() if n}
        told = ", ".join(f"{n:,} {status}" for status, n in reached.items()) or "no messages"
        notifications.add(
            session, "campaign_finished", f"campaign:{row.name}", f"{row.name} is finished: {told}", counts=reached
        )  # fmt: skip
    session.flush()
    return [row.name for row in closed]


def shut(session: Session, now: datetime, zone: ZoneInfo) -> list[int]:
    """Running campaigns whose send window is closed now, or for good: their ``not_after`` has passed."""
    rows = session.execute(
        select(Campaign.id, Campaign.window, Campaign.lane, App.windows, Campaign.not_after)
        .join(App, App.id == Campaign.app_id)
        .where(Campaign.state == CampaignState.RUNNING)
    )
    found = []
    # Of thousands of campaigns few differ in their window.
    is_open = {"": True}
    for campaign_id, own, lane, by_lane, not_after in rows:
        spec: str = own or by_lane.get(lane) or ""
        if spec not in is_open:
            is_open[spec] = windows.parse(spec).is_open(now, zone)
        if not is_open[spec] or (not_after is not None and not_after <= now):
            found.append(campaign_id)
    return found


def live_workers(session: Session, lane: str | None = None) -> int:
    """Worker processes seen within the last seconds, by the database's clock; of a lane those that take from its queue."""
    found = session.execute(
        text(f"""
            SELECT count(*) FROM workers w WHERE w.seen_at > now() - make_interval(secs => :silent)
                AND (CAST(:lane AS text) IS NULL OR {batches.takes("CAST(:lane AS text)")})"""),
        {"silent": WORKER_SILENT_SECONDS, "lane": lane},
    )
    return int(found.scalar_one())
