"""``disparo message``: look one up, decide about an unknown one."""

from typing import Annotated

import typer

from disparo.cli.output import JSON, By, connected, print_fields, print_json, say
from disparo.errors import ConflictError

cli = typer.Typer(no_args_is_help=True)


@cli.callback()
def group() -> None:
    """Single messages: looked up, and decided when unknown."""


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


@cli.command()
def resolve(
    reference: Annotated[
        str, typer.Argument(metavar="ID", help="Our id, your key, the provider's id or a wamid.")
    ],
    sent: Annotated[bool, typer.Option("--sent", help="It was sent.")] = False,
    resend: Annotated[bool, typer.Option("--resend", help="Send it again.")] = False,
    give_up: Annotated[
        bool, typer.Option("--give-up", help="Do not send it again, whatever became of it.")
    ] = False,
    by: By = None,
    why: Annotated[str | None, typer.Option(help="Kept with it.")] = None,
    as_json: JSON = False,
) -> None:
    """Decide what became of one unknown message."""
    from disparo import db, messages, unknowns
    from disparo.unknowns import Decision

    given = {Decision.SENT: sent, Decision.RESEND: resend, Decision.GIVE_UP: give_up}
    chosen = [decision for decision, wanted in given.items() if wanted]
    if len(chosen) != 1:
        raise typer.BadParameter("give exactly one of --sent, --resend and --give-up")
    with connected() as connections, connections.session() as session:
        message = messages.find(session, reference)
        if message.status != "unknown":
            raise ConflictError(f"message {message.id} is {message.status}, not unknown; nothing was decided")
        unknowns.decide(session, [message.id], chosen[0], actor=by, why=why, now=db.now(session))
        session.expire_all()
        found = messages.describe(session, messages.find(session, str(message.id)))
    if as_json:
        return print_json(found)
    return say(f"message {found['id']} is {found['state']}")
