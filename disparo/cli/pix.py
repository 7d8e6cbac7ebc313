"""``disparo pix``: requests for payment."""

import json
from pathlib import Path
from typing import Annotated

import typer

from disparo.cli.output import FAILED, JSON, By, connected, print_fields, print_json, print_table, say

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


@cli.command()
def code(
    codes: Annotated[list[str], typer.Argument(metavar="CODE...", help="BR Codes, in quotes.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each code.")] = False,
) -> None:
    """Take PIX codes apart and check them; exit 0 when all are valid."""
    from disparo.money import brl, cents
    from disparo.whatsapp import br_code

    reports = [br_code.report(code) for code in codes]
    if as_json:
        for one in reports:
            say(json.dumps(one, ensure_ascii=False))
    else:
        rows = []
        for number, one in enumerate(reports, 1):
            valid = "valid" if one["valid"] else "not valid"
            amount = brl(cents(one["amount"], "en")) if one["amount"] else ""
            leads = one["url"] or one["key"]
            rows.append(
                [number, valid, one["kind"], amount, leads, one["txid"], one["merchant_name"], one["city"]]
            )
        print_table(["code", "", "kind", "amount", "key or charge", "txid", "merchant name", "city"], rows)
        for number, one in enumerate(reports, 1):
            for error in one["errors"]:
                say(f"code {number}: {error}")
    if not all(one["valid"] for one in reports):
        raise typer.Exit(FAILED)
