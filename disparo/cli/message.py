"""``disparo message``: look one up."""

from typing import Annotated

import typer

from disparo.cli.output import JSON, connected, print_fields, print_json, say

cli = typer.Typer(no_args_is_help=True)


@cli.callback()
def group() -> None:
    """Single messages, looked up."""


@cli.command()
def show(
    reference: Annotated[
        str, typer.Argument(metavar="ID", help="Our id, your key, the provider's id or a wamid.")
    ],
    as_json: JSON = False,
) -> None:
    """All that is known of one message, its attempts included."""
    from disparo import actions, messages, overrides, phone

    with connected() as connections, connections.session() as session:
        found = messages.describe(session, messages.find(session, reference))
        table = overrides.load(connections.settings.home)
    found["hint"] = table.lookup(found["code"]).hint if found["code"] else None
    if as_json:
        return print_json(found)
    errors, history = found.pop("errors"), found.pop("history")
    print_fields(found | {"to": phone.mask(found["to"])})
    if errors:
        say("attempts that were not plainly accepted:")
        for error in errors:
            code = error["code"] + (f" (HTTP {error['http_status']})" if error["http_status"] else "")
            say(f"  {error['at']}  attempt {error['attempt']}  {error['verdict']}  {code}  {error['reason']}")
    for entry in history[: actions.SHOWN]:
        say(actions.in_words(entry, connections.settings.zone))
    return None
