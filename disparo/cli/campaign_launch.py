"""What `campaign launch` and `pix send` share: a campaign file and its recipients become a launched campaign."""

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import typer

from disparo.cli.output import FAILED, counted, duration, note, say
from disparo.errors import InputError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from disparo.campaigns import CampaignFile
    from disparo.connections import Connections
    from disparo.models import App, Campaign, Import
    from disparo.progress import Preflight
    from disparo.recipients import Loaded, Recipient
    from disparo.rejects import RejectsFile


#: Warnings of rows that are told one by one.
_TOLD = 5


@dataclass(frozen=True, slots=True)
class Prepared:
    """A campaign that may be launched, and with what."""

    file: "CampaignFile"
    app: "App"
    base_url: str
    now: datetime
    zone: ZoneInfo
    launch_at: datetime | None
    not_after: datetime | None


def read_file(file: Path, *, payment: bool = False) -> "CampaignFile":
    """A campaign file, checked; settings in it that do nothing yet are told."""
    from disparo import campaigns, document

    parsed = campaigns.parse_file(document.load(file, None, str(file)), str(file))
    if payment and parsed.lane != "payment":
        raise InputError(
            f"{file}: a PIX batch is a campaign with `lane: payment`, this one says {parsed.lane}"
        )
    for setting in parsed.without_effect:
        note(f"warning: {file}: {setting} is kept, but this version does not act on it yet")
    return parsed


def when(
    parsed: "CampaignFile", at: str | None, now: datetime, zone: ZoneInfo
) -> tuple[datetime | None, datetime | None]:
    """When a campaign begins and when it is too late; ``at`` wins over what the file says.

    Raises:
      InputError: One of them is no instant, or past.
    """
    from disparo import instants

    at = at or parsed.at
    launch_at = (
        instants.future(instants.parse_instant(at, now, zone), now, zone, what="The launch") if at else None
    )
    not_after = None
    if parsed.not_after:
        late = instants.parse_instant(parsed.not_after, now, zone, end_of_day=True)
        not_after = instants.future(late, now, zone, what="not_after")
    return launch_at, not_after


def prepare(
    connections: "Connections", file: Path, *, at: str | None = None, payment: bool = False
) -> Prepared:
    """What is found out of a campaign file before its recipients are read; nothing is stored."""
    from disparo import apps, campaigns, db

    parsed = read_file(file, payment=payment)
    zone = connections.settings.zone
    with connections.session() as session:
        now = db.now(session)
        app = apps.get(session, parsed.app)
        campaigns.refuse_launched(session, parsed.name)
    connections.require_token(parsed.app)
    launch_at, not_after = when(parsed, at, now, zone)
    base_url = app.base_url or connections.settings.base_url
    return Prepared(parsed, app, base_url, now, zone, launch_at, not_after)


def import_and_launch(
    connections: "Connections",
    file: Path,
    audience: Path,
    *,
    at: str | None,
    yes: bool,
    by: str | None,
    quiet: bool,
    first: int | None = None,
    why: str | None = None,
    payment: bool = False,
) -> str:
    """Check, import in pages, launch; the campaign's name."""
    from disparo import campaigns, db, pix, recipient_files, recipients
    from disparo.models import Import
    from disparo.rejects import RejectsFile

    prepared = prepare(connections, file, at=at, payment=payment)
    parsed, now = prepared.file, prepared.now
    opened = recipient_files.open_rows(audience, parsed.columns)
    reader = pix.reader(parsed, opened.columns, now, prepared.zone, charges=payment)
    # A payment that asks with an order is a batch whichever command launches it.
    payment = isinstance(reader, pix.ChargeReader)
    with RejectsFile(audience.with_name(parsed.name), opened) as rejects_file:
        try:
            recipients.probe(reader, opened.rows())
        except InputError:
            _write_all_rejects(reader, opened, rejects_file)
            if rejects_file.path:
                note(f"each row with its reason: {rejects_file.path}")
            raise
        # Asked before anything is stored, so that nothing is launched which nobody could take up.
        connections.limiter.was_emptied()
        if not yes and sys.stdin.isatty():
            _ask(connections, reader, opened, prepared, payment=payment)
        with connections.sessions() as session, db.unavailable_as_sentence():
            campaign, loaded = campaigns.create(
                session,
                prepared.app,
                parsed,
                audience_name=audience.name,
                audience_digest=opened.digest,
                now=now,
                launch_at=prepared.launch_at,
                not_after=prepared.not_after,
                first=first,
                by=by,
            )
            session.commit()
            if loaded.next_line:
                note(f"going on with the import of {audience} at line {loaded.next_line}")
                opened = recipient_files.open_rows(audience, parsed.columns, start_line=loaded.next_line)
            after_page = told_page(rejects_file, loaded, quiet=quiet)
            odd: list[str] = []
            import_id = loaded.id

            def store_charges(session: "Session", campaign: "Campaign", rows: "list[Recipient]") -> None:
                pix.store_charges(session, campaign, rows)
                odd.extend(f"line {row.line}: {row.warning}" for row in rows if row.warning)

            try:
                repeated = functools.partial(pix.repeated_bills, now=now)
                recipients.load(
                    session,
                    campaign,
                    loaded,
                    reader,
                    opened,
                    after_page=after_page,
                    before_insert=repeated if payment else None,
                    after_insert=store_charges if payment else None,
                )
            except KeyboardInterrupt:
                # Its connection may be in the middle of a statement, of no use for another one.
                session.invalidate()
                with connections.sessions() as other:
                    reached = other.get_one(Import, import_id).next_line
                note(
                    f"stopped at line {max(1, reached)} of {audience}; nothing is launched. "
                    "The same command goes on from there"
                )
                raise typer.Exit(FAILED) from None
            _tell_odd(odd)
            launched(session, prepared, campaign, loaded, rejects_file, by=by, why=why, quiet=quiet)
    return parsed.name


def _tell_odd(odd: list[str]) -> None:
    for one in odd[:_TOLD]:
        note(f"warning: {one}")
    if len(odd) > _TOLD:
        note(f"warning: and {counted(len(odd) - _TOLD, 'row')} like these")


def told_page(rejects_file: "RejectsFile", loaded: "Import", *, quiet: bool) -> "Callable[[Loaded], None]":
    """What writes the refused rows of each page to their file and says how far it is."""
    from disparo.recipient_files import Row

    done = loaded.accepted + loaded.rejected + loaded.duplicates

    def after_page(page: "Loaded") -> None:
        nonlocal done
        for reject in page.rejects:
            rejects_file.write(Row(reject.line, {}, reject.raw, None), reject.reason, reject.explanation)
        rejects_file.flush()
        done += page.accepted + page.rejected + page.duplicates
        if done >= 20_000 and not quiet:
            note(f"{done:,} rows read")

    return after_page


def launched(
    session: "Session",
    prepared: Prepared,
    campaign: "Campaign",
    loaded: "Import",
    rejects_file: "RejectsFile",
    *,
    by: str | None,
    why: str | None,
    quiet: bool,
) -> None:
    """Launch what was brought in, and say so."""
    from disparo import campaigns, db, instants

    campaigns.launch(session, campaign, db.now(session), by=by, why=why)
    session.commit()
    told = f"{campaign.name}: {campaign.total:,} messages {campaign.state}"
    left = [f"{counted(loaded.rejected, 'row')} refused"] if loaded.rejected else []
    left += [counted(loaded.duplicates, "duplicate")] if loaded.duplicates else []
    where = f"; each with its reason in {rejects_file.path}" if rejects_file.path else ""
    (note if quiet else say)(f"{told} ({', '.join(left)}{where})" if left else told)
    _tell_budget(_preflight_of(session, prepared, campaign))
    if prepared.launch_at:
        note(f"begins at {instants.describe(prepared.launch_at, prepared.zone)}")
    if campaign.first:
        note(f"pauses by itself when the first {campaign.first:,} have left")


def _preflight_of(session: "Session", prepared: Prepared, campaign: "Campaign") -> "Preflight":
    from disparo import portfolios, progress

    budget = portfolios.budget(session, campaign.app_id) if campaign.template else None
    new = portfolios.uncounted_of(session, budget, campaign.id) if budget else 0
    return progress.preflight(
        session, prepared.app, prepared.file, campaign.total, prepared.now, prepared.zone,
        begins_at=prepared.launch_at, recipients=new,
    )  # fmt: skip


def _tell_budget(flight: "Preflight") -> None:
    budget = flight.budget
    if budget is not None and flight.exceeds:
        note(
            f"warning: {budget.used:,} of the {budget.limit:,} recipients that {budget.name} may write to in 24 hours are "
            f"used, and this has {flight.recipients:,} more: the rest waits, and all have left in about "
            f"{duration(flight.seconds)}"
        )


def _write_all_rejects(reader: Any, opened: Any, rejects_file: Any) -> None:
    from disparo.recipients import Reject

    for row in opened.rows():
        found = reader.read(row)
        if isinstance(found, Reject):
            rejects_file.write(row, found.reason, found.explanation)


def _ask(connections: "Connections", reader: Any, opened: Any, prepared: Prepared, *, payment: bool) -> None:
    """Show what would happen and let the person type the number (PIX: the sum) before anything is stored."""
    from disparo import progress
    from disparo.recipients import Recipient

    good, phones, total, odd = 0, set(), 0, []
    seen: set[tuple[str, str]] = set()
    for row in opened.rows():
        found = reader.read(row)
        if isinstance(found, Recipient):
            names = {("dedupe", found.dedupe_key), ("key", found.key)}
            own = {(kind, name) for kind, name in names if name is not None} | set(found.bills)
            if own & seen:
                continue
            seen |= own
            good += 1
            phones.add(found.recipient_key)
            total += found.amount_cents or 0
            if found.warning:
                odd.append(f"line {found.line}: {found.warning}")
    _tell_odd(odd)
    told = f"{good:,} rows can be sent to {len(phones):,} phones"
    with connections.session() as session:
        flight = progress.preflight(
            session, prepared.app, prepared.file, good, prepared.now, prepared.zone,
            begins_at=prepared.launch_at, recipients=phones,
        )  # fmt: skip
    ask_for(prepared, good, flight, yes=False, told=told, cents=total if payment else None)


def ask_for(
    prepared: Prepared, n: int, flight: "Preflight", *, yes: bool, told: str, cents: int | None = None
) -> None:
    """Let the person type ``n``, or the sum of ``cents``; on a terminal only, and unless ``yes``."""
    from disparo.money import brl

    if yes or not sys.stdin.isatty():
        return
    real = prepared.base_url.endswith("gupshup.io")
    note(f"campaign {prepared.file.name}, lane {prepared.file.lane}, app {prepared.file.app}")
    note(f"to {'the REAL endpoint' if real else 'a stand-in'} {prepared.base_url}")
    begins_in = max(0.0, (prepared.launch_at - prepared.now).total_seconds()) if prepared.launch_at else 0.0
    lasts = None if flight.seconds is None else flight.seconds - begins_in
    note(f"{told}, in about {duration(lasts)} at {flight.rate:g}/s")
    _tell_budget(flight)
    if cents is not None:
        note(f"sum {brl(cents)}")
    what = "the number of messages" if cents is None else "the sum in reais"
    given = typer.prompt(f"to send them, type {what}", default="", show_default=False, err=True)
    if _typed(given, in_reais=cents is not None) != (n if cents is None else cents):
        note("not what it says above; nothing was stored")
        raise typer.Exit(FAILED)


def _typed(given: str, *, in_reais: bool) -> int | None:
    """The number that was typed, or the sum in cents, with or without separators."""
    from disparo.money import cents

    if not in_reais:
        digits = given.strip().replace(",", "").replace(".", "")
        return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 20 else None
    for numbers in ("br", "en"):
        try:
            return cents(given, numbers)
        except InputError:
            continue
    return None
