"""``disparo db``: the database's schema, and what a person says of a database that the send fence holds."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from disparo.cli.output import FAILED, JSON, By, Yes, announce, connected, counted, note, print_json, say
from disparo.errors import InputError

if TYPE_CHECKING:
    from datetime import datetime
    from zoneinfo import ZoneInfo

    from disparo.connections import Connections

cli = typer.Typer(no_args_is_help=True)


@cli.command()
def upgrade(revision: Annotated[str, typer.Argument(help="Up to this revision.")] = "head") -> None:
    """Bring the tables up to this version; safe to run at any time and by several at once."""
    from disparo import schema
    from disparo.connections import connect

    with connect(name="disparo-migrate") as connections:
        before = schema.upgrade(connections.engine, revision)
    say(
        f"the database is at revision {schema.HEAD if revision == 'head' else revision}"
        + (f", was at {before}" if before else "")
    )


@cli.command()
def check() -> None:
    """Say whether the tables fit this version; exit 1 when they do not."""
    from disparo import schema
    from disparo.connections import connect

    with connect(name="disparo-migrate") as connections:
        revision = schema.require_current(connections.engine)
    say(f"the database is at revision {revision}, and this version runs on it")


@cli.command()
def restored(
    taken_at: Annotated[
        str, typer.Option("--taken-at", help="When the backup was taken, e.g. '2026-12-03 03:00'.")
    ],
    nothing_resumed: Annotated[
        bool,
        typer.Option(
            "--nothing-resumed", help="What was paused in the backup was not resumed since: it stays pending."
        ),
    ] = False,
    yes: Yes = False,
    by: By = None,
    as_json: JSON = False,
) -> None:
    """Say that the database is a restored backup: what may have been sent since becomes unknown, the rest goes on."""
    from disparo import db, fence, instants

    with connected() as connections:
        zone = connections.settings.zone
        mirror = fence.Mirror(connections.settings.home)
        with connections.session() as session:
            now = db.now(session)
            taken = _past(taken_at, now, zone)
            shown = instants.describe(taken, zone)
            if not yes and sys.stdin.isatty():
                unknown, pending = fence.in_doubt(session, taken, now, nothing_resumed=nothing_resumed)
                seen = mirror.seen
                if fence.compare(fence.current(session), seen) is None and not fence.holds(session):
                    note("nothing here shows that this database is older than what was sent from it")
                note(f"this database is taken as the backup of {shown}")
                note(
                    f"{counted(unknown, 'message')} may have been sent since and would become unknown; "
                    f"{pending:,} stay pending"
                )
                _confirm("go on?")
        with connections.session() as session:
            done = fence.restored(
                session, taken, db.now(session), mirror, nothing_resumed=nothing_resumed, actor=by
            )
        mirror.replace(done.mark)
        paused = _publish_stops(connections)
    total = sum(done.unknown.values())
    if as_json:
        return print_json(
            {
                "taken_at": taken.isoformat(),
                "unknown": total,
                "pending": done.pending,
                "campaigns": [{"name": name, "unknown": n} for name, n in done.unknown.items() if name],
                "paused": paused,
            }
        )
    say(
        f"{counted(total, 'message')} may have been sent after {shown}, and are unknown now; {done.pending:,} wait"
    )
    for name, n in done.unknown.items():
        say(f"  {n:>10,}  {f'campaign {name}' if name else 'single messages and reminders'}")
    if paused:
        say(f"paused for another reason: {', '.join(paused)}; see `disparo app show NAME`")
    note(
        "what was decided after the backup is not in it: enter opt-outs, purchases, cancellations and pauses again, "
        "and launch no campaign again that was launched since"
    )
    return None


@cli.command()
def adopt(yes: Yes = False, by: By = None, as_json: JSON = False) -> None:
    """Take another installation's database, or a copy of it, for this home; its apps stay paused."""
    from disparo import db, fence

    with connected() as connections:
        mirror = fence.Mirror(connections.settings.home)
        with connections.session() as session:
            mark = fence.current(session)
        seen = mirror.seen
        own = seen is not None and seen.installation_id == mark.installation_id
        if not own and not yes and sys.stdin.isatty():
            note(f"this database belongs to installation {mark.installation_id}")
            note(
                "taken over, its apps are paused until you resume them, and that installation sends nothing from it"
            )
            _confirm("take it?")
        with connections.session() as session:
            done = fence.adopt(session, db.now(session), mirror, actor=by)
        mirror.replace(done.mark)
        paused = _publish_stops(connections)
    if as_json:
        return print_json(
            {
                "installation": str(done.mark.installation_id),
                "was": str(done.was),
                "pending": done.pending,
                "paused": paused,
            }
        )
    if own:
        say(f"this database is this installation's ({done.was}) already")
    else:
        say(f"this database is installation {done.mark.installation_id} now, and was {done.was}")
    if paused:
        say(f"paused: {', '.join(paused)}; {counted(done.pending, 'message')} wait")
        say("cancel what must not be sent from here, then let an app send by `disparo app resume NAME`")
    return None


def _past(given: str, now: "datetime", zone: "ZoneInfo") -> "datetime":
    from disparo import instants

    taken = instants.parse_instant(given, now, zone)
    if taken > now:
        raise InputError(
            f"--taken-at {instants.describe(taken, zone)} is still to come: it is {instants.describe(now, zone)} "
            "now. Write the day too, such as 'today 3:00' or '2026-12-03 03:00'"
        )
    return taken


def _confirm(question: str) -> None:
    if not typer.confirm(question, err=True):
        note("nothing was changed")
        raise typer.Exit(FAILED)


def _publish_stops(connections: "Connections") -> list[str]:
    """Make Redis say which apps are paused, as the scheduler does; their names."""
    from disparo import apps

    reasons, paused = {}, []
    with connections.session() as session:
        for app in apps.listing(session):
            held = [stop.reason for stop in apps.stops(session, app.id) if stop.scope == "app"]
            reasons[app.id] = held[0] if held else None
            paused += [app.name] if held else []
    announce(connections, reasons)
    return paused
