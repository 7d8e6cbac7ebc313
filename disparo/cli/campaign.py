"""``disparo campaign``: launch, watch, export."""

import csv
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO
from zoneinfo import ZoneInfo

import typer

from disparo.cli.output import (
    FAILED,
    JSON,
    NEEDS_A_PERSON,
    connected,
    counted,
    duration,
    note,
    print_json,
    print_table,
    say,
)
from disparo.errors import InputError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from disparo.campaigns import CampaignFile
    from disparo.connections import Connections
    from disparo.models import App, Campaign, Import
    from disparo.recipients import Loaded
    from disparo.rejects import RejectsFile

cli = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The campaign's name.")]
By = Annotated[str | None, typer.Option("--by", help="Who does it; else the OS user.")]
Why = Annotated[str | None, typer.Option("--why", help="Why; kept with who did it and when.")]

#: Seconds without a live worker after which a wait ends.
NO_WORKER_SECONDS = 1.5


@cli.command()
def launch(
    file: Annotated[Path, typer.Argument(help="The campaign file (YAML or JSON).")],
    recipients: Annotated[Path | None, typer.Argument(help="Who gets it: CSV or JSONL.")] = None,
    at: Annotated[str | None, typer.Option(help="When it begins, e.g. 2026-12-03T10:00.")] = None,
    first: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Pause by itself when so many have left.")
    ] = None,
    from_campaign: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Those whom this one has not reached, instead of a list."),
    ] = None,
    state: Annotated[
        str | None, typer.Option(help="Of which states there, e.g. pending,cancelled,failed (the default).")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until it is finished.")] = False,
    fail_over: Annotated[
        str | None, typer.Option(metavar="N%", help="With --wait: exit 1 when more failed.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing.")] = False,
    by: By = None,
    why: Why = None,
    as_json: JSON = False,
) -> None:
    """Import the recipients and let the campaign go; rejected rows go to a file beside them."""
    if (recipients is None) == (from_campaign is None):
        raise typer.BadParameter("give a list of recipients or --from-campaign NAME, one of both")
    if state is not None and from_campaign is None:
        raise typer.BadParameter("--state goes with --from-campaign")
    share = _share(fail_over)
    with connected() as connections:
        if recipients is not None:
            name = import_and_launch(
                connections, file, recipients, at=at, first=first, yes=yes, by=by, why=why, quiet=as_json
            )
        else:
            from disparo.cli.campaign_relaunch import relaunch
            from disparo.relaunches import parse_states

            states, prepared = parse_states(state), prepare(connections, file, at=at)
            name = relaunch(
                connections, file, prepared, str(from_campaign), states,
                first=first, yes=yes, by=by, why=why, quiet=as_json,
            )  # fmt: skip
        code = follow(connections, name, share) if wait else 0
        if as_json or wait:
            show_status(connections, name, as_json)
    raise typer.Exit(code)


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


def prepare(
    connections: "Connections", file: Path, *, at: str | None = None, payment: bool = False
) -> Prepared:
    """What is found out of a campaign file before its recipients are read; nothing is stored."""
    from disparo import apps, campaigns, db, document, instants

    parsed = campaigns.parse_file(document.load(file, None, str(file)), str(file))
    if payment and parsed.lane != "payment":
        raise InputError(
            f"{file}: a PIX batch is a campaign with `lane: payment`, this one says {parsed.lane}"
        )
    for setting in parsed.without_effect:
        note(f"warning: {file}: {setting} is kept, but this version does not act on it yet")
    zone = connections.settings.zone
    with connections.session() as session:
        now = db.now(session)
        app = apps.get(session, parsed.app)
        campaigns.refuse_launched(session, parsed.name)
    connections.require_token(parsed.app)
    at = at or parsed.at
    launch_at = (
        instants.future(instants.parse_instant(at, now, zone), now, zone, what="The launch") if at else None
    )
    not_after = None
    if parsed.not_after:
        late = instants.parse_instant(parsed.not_after, now, zone, end_of_day=True)
        not_after = instants.future(late, now, zone, what="not_after")
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
    """What `campaign launch` and `pix send` share: check, import in pages, launch; the campaign's name."""
    from disparo import campaigns, db, pix, recipient_files, recipients
    from disparo.rejects import RejectsFile

    prepared = prepare(connections, file, at=at, payment=payment)
    parsed, now = prepared.file, prepared.now
    opened = recipient_files.open_rows(audience, parsed.columns)
    kind = pix.ChargeReader if payment else recipients.Reader
    reader = kind(parsed, opened.columns, now, prepared.zone)
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
            _ask(reader, opened, prepared, payment=payment)
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
            try:
                store = pix.store_charges if payment else None
                recipients.load(
                    session, campaign, loaded, reader, opened, after_page=after_page, after_insert=store
                )
            except KeyboardInterrupt:
                session.rollback()
                session.refresh(loaded)
                note(
                    f"stopped at line {max(1, loaded.next_line)} of {audience}; nothing is launched. "
                    "The same command goes on from there"
                )
                raise typer.Exit(FAILED) from None
            launched(session, prepared, campaign, loaded, rejects_file, by=by, why=why, quiet=quiet)
    return parsed.name


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
    if prepared.launch_at:
        note(f"begins at {instants.describe(prepared.launch_at, prepared.zone)}")
    if campaign.first:
        note(f"pauses by itself when the first {campaign.first:,} have left")


def _write_all_rejects(reader: Any, opened: Any, rejects_file: Any) -> None:
    from disparo.recipients import Reject

    for row in opened.rows():
        found = reader.read(row)
        if isinstance(found, Reject):
            rejects_file.write(row, found.reason, found.explanation)


def _ask(reader: Any, opened: Any, prepared: Prepared, *, payment: bool) -> None:
    """Show what would happen and let the person type the number (PIX: the sum) before anything is stored."""
    from disparo.recipients import Recipient

    good, phones, total = 0, set(), 0
    seen: set[tuple[str, str]] = set()
    for row in opened.rows():
        found = reader.read(row)
        if isinstance(found, Recipient):
            names = {("dedupe", found.dedupe_key), ("key", found.key)}
            own = {(kind, name) for kind, name in names if name is not None}
            if own & seen:
                continue
            seen |= own
            good += 1
            phones.add(found.recipient_key)
            total += found.amount_cents or 0
    told = f"{good:,} rows can be sent to {len(phones):,} phones"
    ask_for(prepared, good, yes=False, told=told, cents=total if payment else None)


def ask_for(prepared: Prepared, n: int, *, yes: bool, told: str, cents: int | None = None) -> None:
    """Let the person type ``n``, or the sum of ``cents``; on a terminal only, and unless ``yes``."""
    from disparo.rendering import brl

    if yes or not sys.stdin.isatty():
        return
    real = prepared.base_url.endswith("gupshup.io")
    note(f"campaign {prepared.file.name}, lane {prepared.file.lane}, app {prepared.file.app}")
    note(f"to {'the REAL endpoint' if real else 'a stand-in'} {prepared.base_url}")
    note(f"{told}, in about {duration(n / prepared.app.rate)} at {prepared.app.rate:g}/s")
    if cents is not None:
        note(f"sum {brl(cents)}")
    what = "the number of messages" if cents is None else "the sum in reais"
    given = typer.prompt(f"to send them, type {what}", default="", show_default=False, err=True)
    if _typed(given, in_reais=cents is not None) != (n if cents is None else cents):
        note("not what it says above; nothing was stored")
        raise typer.Exit(FAILED)


def _typed(given: str, *, in_reais: bool) -> int | None:
    """The number that was typed, or the sum in cents, with or without separators."""
    from disparo.rendering import cents

    if not in_reais:
        digits = given.strip().replace(",", "").replace(".", "")
        return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 20 else None
    for numbers in ("br", "en"):
        try:
            return cents(given, numbers)
        except InputError:
            continue
    return None


def _share(text: str | None) -> float | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,3}(?:[.,]\d+)?)\s*%?", text.strip(), re.ASCII)
    share = float(match[1].replace(",", ".")) / 100 if match else None
    if share is None or share > 1:
        raise InputError(f"--fail-over {text}: write a share like 5%")
    return share


def status_of(connections: "Connections", name: str) -> dict[str, Any]:
    """The status of a campaign, now."""
    from disparo import campaigns, db

    with connections.session() as session:
        campaign = campaigns.get(session, name)
        return campaigns.status(session, campaign, db.now(session), connections.settings.zone)


def follow(connections: "Connections", name: str, fail_over: float | None = None) -> int:
    """Stay with a campaign until nothing moves any more; the exit code of the wait."""
    from disparo.cli.progress import Progress

    alone_since: float | None = None
    try:
        with Progress(name) as progress:
            while True:
                found = status_of(connections, name)
                progress.update(found)
                code = _ended(found, fail_over)
                if code is not None:
                    break
                now = time.monotonic()
                alone_since = None if found["workers"] else (alone_since or now)
                if alone_since is not None and now - alone_since > NO_WORKER_SECONDS:
                    note("no worker is alive; the messages stay queued. Start one with `disparo up`")
                    return FAILED
                time.sleep(0.25)
    except KeyboardInterrupt:
        note(f"detached; {name} goes on. Look again with `disparo campaign status {name}`")
        return FAILED
    return code


def _ended(found: dict[str, Any], fail_over: float | None) -> int | None:
    counts = found["counts"]
    if found["state"] == "cancelled":
        note(f"{found['name']} was cancelled")
        return FAILED
    if found["state"] == "finished":
        if fail_over is not None and counts["failed"] > fail_over * max(1, found["total"]):
            note(f"{counts['failed']:,} of {found['total']:,} failed, more than {fail_over:.1%}")
            return FAILED
        return 0
    if found["limited_by"] == "decision":
        note(
            f"{counts['unknown']:,} messages are unknown: nobody knows whether they were accepted. They are held"
        )
        return NEEDS_A_PERSON
    if found["limited_by"] == "paused" and not counts["sending"]:
        note(f"paused: {found['pause_reason']}")
        for stop in found["stops"]:
            # What the send fence holds goes on by the command that its reason names.
            fenced = stop["scope"] == "app" and stop["key"] == "database"
            again = "" if fenced else f"`disparo app resume {found['app']}` lets it go on"
            note(f"{stop['hint']} {again}".strip())
        if found["state"] == "paused":
            note(f"`disparo campaign resume {found['name']}` lets it go on")
        return NEEDS_A_PERSON
    return None


def show_status(connections: "Connections", name: str, as_json: bool) -> None:
    """Print the status of a campaign."""
    found = status_of(connections, name)
    if as_json:
        return print_json(found)
    say(
        f"{found['name']}: {found['state']}, lane {found['lane']}, app {found['app']}, {found['total']:,} messages"
    )
    for status, n in found["counts"].items():
        if n:
            say(f"  {status:<10} {n:>10,}")
    if found["rejected"] or found["duplicates"]:
        say(
            f"  not taken from the file: {found['rejected']:,} refused, {counted(found['duplicates'], 'duplicate')}"
        )
    for failure in found["failures"]:
        say(f"  failed with {failure['code']}: {failure['count']:,} ({failure['reason']})")
    if found["limited_by"] != "none":
        say(
            f"  limited by {found['limited_by']}"
            + (f": {found['pause_reason']}" if found["pause_reason"] else "")
        )
    for stop in found["stops"]:
        width = " ".join(filter(None, (stop["scope"], stop["key"])))
        say(f"  stopped: {width}, {stop['code']} {stop['hint']}".rstrip())
    if found["state"] == "running":
        say(f"  {found['rate']:g}/s, {duration(found['eta_seconds'])} left")
    return None


@cli.command()
def status(name: Name, as_json: JSON = False) -> None:
    """Counts by state, failures by code, rate, time left and what limits it."""
    with connected() as connections:
        show_status(connections, name, as_json)


@cli.command()
def watch(name: Name, as_json: JSON = False) -> None:
    """Stay with a campaign until it is finished or needs a person."""
    with connected() as connections:
        code = follow(connections, name)
        show_status(connections, name, as_json)
    raise typer.Exit(code)


@cli.command("list")
def list_(as_json: JSON = False) -> None:
    """All campaigns, newest first."""
    from disparo import campaigns

    with connected() as connections, connections.session() as session:
        found = campaigns.listing(session)
    if as_json:
        return print_json(found)
    if not found:
        return say("no campaign yet")
    header = ("name", "app", "lane", "state", "total", "pending", "accepted", "failed", "unknown")
    further = ("accepted", "enqueued", "sent", "delivered", "read")
    rows = [
        (
            *(one[field] for field in header[:5]),
            one["counts"]["pending"] + one["counts"]["sending"],
            sum(one["counts"][status] for status in further),
            one["counts"]["failed"],
            one["counts"]["unknown"],
        )
        for one in found
    ]
    return print_table(header, rows)


EXPORT_COLUMNS = (
    "id", "line", "key", "to", "state", "provider_id", "code", "reason", "attempts",
    "created_at", "accepted_at", "sent_at", "delivered_at", "read_at", "failed_at", "settled_at",
)  # fmt: skip


@cli.command()
def export(
    name: Name,
    form: Annotated[str, typer.Option("--format", help="csv or jsonl.")] = "csv",
    output: Annotated[Path | None, typer.Option(help="A new file; else stdout.")] = None,
    state: Annotated[str | None, typer.Option(help="Only these, e.g. failed,unknown.")] = None,
) -> None:
    """Stream one row per message."""
    from disparo import campaigns
    from disparo.statuses import Status

    if form not in ("csv", "jsonl"):
        raise InputError(f"--format {form}: there are csv and jsonl")
    states = [one.strip() for one in state.split(",")] if state else [str(status) for status in Status]
    if wrong := [one for one in states if one not in list(Status)]:
        raise InputError(f"--state {', '.join(wrong)}: there are {', '.join(Status)}")
    write = _write_csv if form == "csv" else _write_jsonl
    with connected() as connections:
        with connections.session() as session:
            campaigns.get(session, name)
        rows = _exported(connections, name, states)
        if output is None:
            write(sys.stdout, rows)
            sys.stdout.flush()
            return
        try:
            with output.open("x", encoding="utf-8", newline="") as stream:
                try:
                    write(stream, rows)
                    stream.flush()
                except BaseException:
                    # Half a file looks like a whole one.
                    output.unlink()
                    raise
        except FileExistsError:
            raise InputError(f"{output} exists; exports never overwrite a file") from None
        except OSError as err:
            raise InputError(f"{output} cannot be written: {err.strerror}") from err
    say(f"written to {output}")


def _write_csv(stream: TextIO, rows: Iterator[dict[str, Any]]) -> None:
    from disparo.rejects import guarded

    writer = csv.writer(stream)
    writer.writerow(EXPORT_COLUMNS)
    for row in rows:
        writer.writerow(["" if value is None else guarded(str(value)) for value in row.values()])


def _write_jsonl(stream: TextIO, rows: Iterator[dict[str, Any]]) -> None:
    stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _exported(connections: "Connections", name: str, states: list[str]) -> Iterator[dict[str, Any]]:
    from sqlalchemy import text

    from disparo import campaigns

    zone = connections.settings.zone
    with connections.session() as session:
        campaign = campaigns.get(session, name)
        result = session.execute(
            text("""
                SELECT id, line, key, recipient, status, gs_id, code, reason, attempts, created_at, accepted_at,
                    sent_at, delivered_at, read_at, failed_at, settled_at
                FROM messages WHERE campaign_id = :id AND status = ANY(:states) ORDER BY id"""),
            {"id": campaign.id, "states": states},
            execution_options={"yield_per": 1000},
        )
        for row in result:
            values = [
                value.astimezone(zone).isoformat() if hasattr(value, "astimezone") else value for value in row
            ]
            yield dict(zip(EXPORT_COLUMNS, values, strict=True))
