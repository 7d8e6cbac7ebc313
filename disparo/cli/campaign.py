"""``disparo campaign``: launch, watch, export."""

import csv
import json
import re
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from disparo.cli import campaign_decide
from disparo.cli.campaign_launch import import_and_launch, prepare
from disparo.cli.output import (
    FAILED,
    JSON,
    NEEDS_A_PERSON,
    By,
    Why,
    connected,
    counted,
    duration,
    minute,
    note,
    print_json,
    print_stop,
    print_table,
    say,
    waiting,
)
from disparo.errors import InputError

if TYPE_CHECKING:
    from disparo.connections import Connections

cli = typer.Typer(no_args_is_help=True)
cli.add_typer(campaign_decide.cli)

Name = Annotated[str, typer.Argument(help="The campaign's name.")]

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
    from disparo import campaigns, db, progress

    with connections.session() as session:
        campaign = campaigns.get(session, name)
        return progress.status(session, campaign, db.now(session), connections.settings.zone)


def follow(connections: "Connections", name: str, fail_over: float | None = None) -> int:
    """Stay with a campaign until nothing moves any more; the exit code of the wait."""
    from disparo.cli.progress import Progress

    alone_since: float | None = None
    try:
        with Progress(name, connections.settings.zone) as progress:
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
            f"{counts['unknown']:,} messages are unknown: nobody knows whether they were accepted. They are held "
            f"until a person decides: `disparo campaign resolve {found['name']} --sent`, --resend or --give-up"
        )
        return NEEDS_A_PERSON
    if found["limited_by"] == "paused" and not counts["sending"]:
        note(f"paused: {found['pause_reason']}")
        for stop in found["stops"]:
            # What the send fence holds goes on by the command that its reason names.
            fenced = stop["scope"] == "app" and stop["key"] == "database"
            told = fenced or "disparo app resume" in (stop["hint"] or "")
            lane = f" --lane {stop['key']}" if stop["scope"] == "lane" else ""
            again = "" if told else f"`disparo app resume {found['app']}{lane}` lets it go on"
            note(f"{stop['hint'] or ''} {again}".strip())
        if found["state"] == "paused" and "campaign resume" not in (found["pause_reason"] or ""):
            note(f"`disparo campaign resume {found['name']}` lets it go on")
        return NEEDS_A_PERSON
    return None


def show_status(connections: "Connections", name: str, as_json: bool) -> None:
    """Print the status of a campaign."""
    from disparo import actions, overrides, retries

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
    if found["failures"] and found["state"] != "cancelled":
        table = overrides.load(connections.settings.home)
        for failure in retries.worth_retrying(found["failures"], table):
            again = f"disparo campaign retry {retries.shown(name)} --code {failure['code']}"
            say(f"  {failure['count']:,} failed with {failure['code']}: `{again}`")
    if found["limited_by"] != "none":
        # What a stop says stands below.
        told = found["pause_reason"] in [None, *(stop["reason"] for stop in found["stops"])]
        why = waiting(found, connections.settings.zone) if told else found["pause_reason"]
        say(f"  limited by {found['limited_by']}" + (f": {why}" if why else ""))
    for stop in found["stops"]:
        print_stop(stop, connections.settings.zone)
    if found["state"] == "scheduled":
        end = (
            f", ends at about {minute(found['eta_at'], connections.settings.zone)}" if found["eta_at"] else ""
        )
        say(f"  begins at {minute(found['launch_at'], connections.settings.zone)}{end}")
    if found["next_try_at"] and found["limited_by"] != "pair":
        first = datetime.fromisoformat(found["next_try_at"]).astimezone(connections.settings.zone)
        say(f"  what is left was refused for now; the first is tried again at {first:%Y-%m-%d %H:%M:%S}")
    if found["state"] == "running" and (found["counts"]["pending"] or found["counts"]["sending"]):
        end = f", until {minute(found['eta_at'], connections.settings.zone)}" if found["eta_at"] else ""
        say(f"  {found['rate']:g}/s, {duration(found['eta_seconds'])} left{end}")
    if any(entry["verb"] != "launch" for entry in found["history"]):
        for entry in found["history"][: actions.SHOWN]:
            say(f"  {actions.in_words(entry, connections.settings.zone)}")
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
    from disparo import progress

    with connected() as connections, connections.session() as session:
        found = progress.listing(session)
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
