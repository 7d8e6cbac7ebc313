"""``disparo pix``: requests for payment."""

from pathlib import Path
from typing import Annotated

import typer

from disparo.cli.output import JSON, By, connected, print_fields, print_json, say

cli = typer.Typer(no_args_is_help=True)

App = Annotated[str, typer.Option("--app", help="The app whose reference it is.")]
Reference = Annotated[str, typer.Argument(help="The charge's reference.")]


@cli.command()
def send(
    file: Annotated[Path, typer.Argument(help="The campaign file, with `lane: payment`.")],
    charges: Annotated[
        Path, typer.Argument(help="The charges: to, reference, amount or amount_cents, code, …")
    ],
    at: Annotated[str | None, typer.Option(help="When it begins.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until it is finished.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing.")] = False,
    by: By = None,
    as_json: JSON = False,
) -> None:
    """Request payments in a batch; a reference is requested once."""
    from disparo.cli.campaign import follow, show_status
    from disparo.cli.campaign_launch import import_and_launch

    with connected() as connections:
        name = import_and_launch(
            connections, file, charges, at=at, yes=yes, by=by, quiet=as_json, payment=True
        )
        code = follow(connections, name) if wait else 0
        if as_json or wait:
            show_status(connections, name, as_json)
    raise typer.Exit(code)


@cli.command()
def show(reference: Reference, app: App, as_json: JSON = False) -> None:
    """What is known of a charge and its request."""
    from disparo import apps, pix

    with connected() as connections, connections.session() as session:
        owner = apps.get(session, app)
        found = pix.describe(session, owner, pix.get(session, owner, reference))
    return print_json(found) if as_json else print_fields(found)


@cli.command()
def paid(reference: Reference, app: App, as_json: JSON = False) -> None:
    """Note a payment; a request that has not left is cancelled."""
    from disparo import apps, db, pix

    with connected() as connections, connections.session() as session:
        owner = apps.get(session, app)
        charge = pix.get(session, owner, reference, lock=True)
        cancelled = pix.mark_paid(session, charge, db.now(session))
        found = pix.describe(session, owner, charge)
    if as_json:
        return print_json(found)
    return say(f"{reference} is paid" + ("; its request had not left and is cancelled" if cancelled else ""))
