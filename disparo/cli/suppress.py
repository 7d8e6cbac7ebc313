"""``disparo suppress``: who must not be written to."""

from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer

from disparo.cli.output import JSON, By, connected, counted, minute, print_json, print_table, say

cli = typer.Typer(no_args_is_help=True)

Number = Annotated[str, typer.Argument(help="The number, or country:CODE for every number of a country.")]
App = Annotated[str | None, typer.Option("--app", help="Only this app; else all of them.")]


@cli.command()
def add(
    number: Number,
    app: App = None,
    scope: Annotated[str, typer.Option(help="all, or marketing alone.")] = "all",
    reason: Annotated[str | None, typer.Option(help="Recorded with each message that is not sent.")] = None,
    until: Annotated[str | None, typer.Option(help="The instant at which it ends; else never.")] = None,
    by: By = None,
    as_json: JSON = False,
) -> None:
    """Send nothing more to a recipient; what waits for them is not sent."""
    from disparo import actions, apps, db, instants, suppressions

    whom = suppressions.target(number)
    with connected() as connections, connections.session() as session:
        zone, now = connections.settings.zone, db.now(session)
        ends = instants.parse_instant(until, now, zone, end_of_day=True) if until else None
        if ends is not None:
            instants.future(ends, now, zone, what="--until")
        owner = apps.get(session, app) if app else None
        actor = by or actions.operator()
        new = suppressions.add(
            session, whom, app=owner, scope=scope, reason=reason, until=ends, by=actor, now=now
        )
        if new:
            actions.record_action(
                session, "suppress", f"recipient:{whom.masked}", actor=actor, why=reason, app=app, scope=scope
            )
        found = suppressions.find(session, whom, now)
    if as_json:
        return print_json(_masked(found))
    what = f"{whom.masked} ({'all apps' if app is None else app}, {scope})"
    return say(f"{what} is suppressed" if new else f"{what} was suppressed already, for as long or longer")


@cli.command()
def remove(
    number: Number,
    app: App = None,
    why: Annotated[str | None, typer.Option(help="Kept with the action.")] = None,
    by: By = None,
    as_json: JSON = False,
) -> None:
    """Let a recipient be written to again."""
    from disparo import actions, apps, db, suppressions

    whom = suppressions.target(number)
    with connected() as connections, connections.session() as session:
        removed = suppressions.remove(session, whom, app=apps.get(session, app) if app else None)
        if removed:
            actions.record_action(
                session, "unsuppress", f"recipient:{whom.masked}", actor=by, why=why, app=app, removed=removed
            )
        left, zone = suppressions.find(session, whom, db.now(session)), connections.settings.zone
    if as_json:
        return print_json({"removed": removed, "left": _masked(left)})
    say(
        f"{counted(removed, 'suppression')} of {whom.masked} removed"
        if removed
        else f"nothing to remove for {whom.masked}"
    )
    return _show(left, zone, "still in force:") if left else None


@cli.command("list")
def list_(
    number: Annotated[str | None, typer.Argument(help="Only what holds this number.")] = None,
    app: Annotated[str | None, typer.Option("--app", help="Only what counts for this app.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 100,
    reveal: Annotated[bool, typer.Option("--reveal", help="Show whole numbers.")] = False,
    as_json: JSON = False,
) -> None:
    """Who is not written to now, and why."""
    from disparo import apps, db, suppressions

    whom = suppressions.target(number) if number else None
    with connected() as connections, connections.session() as session:
        now, owner = db.now(session), apps.get(session, app) if app else None
        zone = connections.settings.zone
        found = (
            suppressions.find(session, whom, now, app=owner)
            if whom
            else suppressions.listing(session, now, app=owner, limit=limit)
        )
    shown = found if reveal else _masked(found)
    if as_json:
        return print_json(shown)
    if not shown:
        return say(f"nothing holds {whom.masked}" if whom else "nobody is suppressed")
    return _show(shown, zone)


def _masked(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    from disparo import phone

    return [one | {"to": one["to"] if ":" in one["to"] else phone.mask(one["to"])} for one in found]


def _show(found: list[dict[str, Any]], zone: ZoneInfo, title: str = "") -> None:
    if title:
        say(title)
    header = ("to", "app", "scope", "reason", "by", "since", "expires_at")
    shown = [one | {name: minute(one[name], zone) for name in ("since", "expires_at")} for one in found]
    print_table(header, ([one[name] or ("all" if name == "app" else "") for name in header] for one in shown))
