"""The command line ``disparo``: thin, over the library's functions.

Results go to stdout (one JSON document with ``--json``), progress and logs to stderr. Exit 0 done, 1
refused or failed with a sentence, 2 usage, 3 waited and nothing moves without a person. Commands import
what they need when they run, so that ``--help`` is quick.
"""

import os
import sys

import typer

from disparo.cli import (
    app,
    app_check,
    campaign,
    campaign_check,
    campaign_control,
    codes,
    db,
    demo,
    message,
    payload,
    pix,
    portfolio,
    reminder,
    sandbox,
    send,
    suppress,
    up,
)
from disparo.errors import DisparoError

cli = typer.Typer(
    name="disparo",
    help="Send WhatsApp messages in bulk through Gupshup's Partner V3 API, and account for every one.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
cli.command("demo")(demo.demo)
cli.command("up")(up.up)
cli.command("sandbox")(sandbox.sandbox)
cli.command("send")(send.send)
cli.command("codes")(codes.codes)
app.cli.command("check")(app_check.check)
cli.add_typer(app.cli, name="app", help="Senders: one WhatsApp number each.")
for _verb in (
    campaign_check.check,
    campaign_control.pause,
    campaign_control.resume,
    campaign_control.reschedule,
    campaign_control.amend,
    campaign_control.cancel,
):
    campaign.cli.command()(_verb)
cli.add_typer(portfolio.cli, name="portfolio", help="Businesses: numbers that share a daily budget.")
cli.add_typer(campaign.cli, name="campaign", help="One content for many recipients.")
cli.add_typer(payload.cli, name="payload", help="Messages of every type: checked, and examples.")
cli.add_typer(message.cli, name="message", help="Single messages, looked up.")
cli.add_typer(reminder.cli, name="reminder", help="Abandoned carts.")
cli.add_typer(pix.cli, name="pix", help="Requests for payment.")
cli.add_typer(suppress.cli, name="suppress", help="Who must not be written to.")
cli.add_typer(db.cli, name="db", help="The database: its schema, and backups that were restored.")


def _show_version(wanted: bool) -> None:
    if wanted:
        import disparo

        typer.echo(f"disparo {disparo.__version__}")
        raise typer.Exit


@cli.callback()
def root(
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Show the version."
    ),
) -> None:
    """Send WhatsApp messages in bulk through Gupshup's Partner V3 API, and account for every one."""


def main() -> None:
    """Run a command; its refusals are sentences, never tracebacks."""
    for argument in sys.argv[1:]:
        # Bytes that are no UTF-8 come in as halves of characters, which nothing can store.
        if not argument.isprintable() and any("\ud800" <= char <= "\udfff" for char in argument):
            sys.stderr.write("disparo: an argument is not UTF-8; type it anew in a UTF-8 terminal\n")
            sys.exit(2)
    try:
        cli()
    except DisparoError as err:
        sys.stderr.write(f"disparo: {err}\n")
        sys.exit(1)
    except BrokenPipeError:
        # The reader went away, as `| head` does; nothing is left to be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
