"""``disparo reminder``: abandoned carts."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from disparo.cli.output import JSON, connected, counted, print_json, print_table, say
from disparo.errors import InputError, PayloadError

cli = typer.Typer(no_args_is_help=True)

App = Annotated[str, typer.Option("--app", help="The app that sends.")]


@cli.command()
def schedule(
    file: Annotated[Path, typer.Argument(help="The message as in the provider's pages (JSON or YAML).")],
    app: App,
    key: Annotated[str, typer.Option(help="The shop's name of the cart.")],
    to: Annotated[str, typer.Option(help="The customer's number.")],
    in_: Annotated[str | None, typer.Option("--in", help="After this long, e.g. 3s, 30m, 2h.")] = None,
    at: Annotated[str | None, typer.Option(help="Or at this instant.")] = None,
    sequence: Annotated[str, typer.Option(help="Which sequence it belongs to.")] = "cart",
    as_json: JSON = False,
) -> None:
    """Remind a customer of a cart later, unless it is converted before."""
    from disparo import apps, db, document, instants, messages, phone, reminders

    if (in_ is None) == (at is None):
        raise InputError("say when: either --in 30m or --at 2026-12-03T10:00")
    number = phone.parse(to)
    given = document.load(file, None, str(file))
    try:
        content = messages.compose(given, number)
    except PayloadError as err:
        raise InputError(f"{file}: {err}") from err
    delay = instants.parse_delay(in_) if in_ else timedelta()
    with connected() as connections:
        zone = connections.settings.zone
        with connections.session() as session:
            now = db.now(session)
            due_at = instants.parse_instant(at, now, zone) if at else now + delay
            owner = apps.get(session, app)
            made = reminders.schedule(
                session,
                owner,
                key,
                number,
                content,
                due_at=instants.future(due_at, now, zone),
                sequence=sequence,
            )
            found = {"id": made.id, "key": made.key, "run": made.run, "due_at": made.due_at.isoformat()}
    if as_json:
        return print_json(found)
    return say(f"reminder {found['id']} of cart {key} leaves at {instants.describe(due_at, zone)}")


@cli.command()
def convert(key: Annotated[str, typer.Argument(help="The cart.")], app: App, as_json: JSON = False) -> None:
    """The customer bought: cancel what is left of the cart's reminders."""
    from disparo import apps, db, reminders

    with connected() as connections, connections.session() as session:
        done = reminders.convert(session, apps.get(session, app), key, db.now(session))
    if as_json:
        return print_json({"reminders": done.reminders, "messages": done.messages, "too_late": done.too_late})
    if not (done.reminders or done.messages or done.too_late):
        return say(f"cart {key} has no reminder that waits; nothing to cancel")
    late = f"; too late for {done.too_late}, which had left" if done.too_late else ""
    return say(
        f"cart {key} is converted: {counted(done.reminders + done.messages, 'reminder')} cancelled{late}"
    )


@cli.command("list")
def list_(app: Annotated[str | None, typer.Option("--app")] = None, as_json: JSON = False) -> None:
    """The newest reminders, with what became of each."""
    from disparo import apps, phone, reminders

    with connected() as connections, connections.session() as session:
        found = reminders.listing(session, apps.get(session, app) if app else None)
    if as_json:
        return print_json(found)
    if not found:
        return say("no reminder yet")
    header = ("id", "app", "key", "run", "to", "state", "due_at", "message_state")
    rows = [[phone.mask(one[name]) if name == "to" else one[name] for name in header] for one in found]
    return print_table(header, rows)
