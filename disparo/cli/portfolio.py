"""``disparo portfolio``: businesses whose numbers share a daily budget of recipients."""

import re
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import typer

from disparo.cli.output import JSON, announce, connected, minute, print_fields, print_json, print_table, say
from disparo.errors import InputError

cli = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The portfolio's name: a-z, 0-9 and -.")]


@cli.command("set")
def set_(
    name: Name,
    daily_limit: Annotated[
        str | None,
        typer.Option(metavar="N", help="Recipients in any 24 hours, as WhatsApp allows; or none."),
    ] = None,
    as_json: JSON = False,
) -> None:
    """Create a portfolio or change it; `disparo app set NAME --portfolio` puts an app into it."""
    from disparo import portfolios

    limit = None if daily_limit is None else _limit(daily_limit)
    with connected() as connections:
        with connections.session() as session:
            portfolio, created = portfolios.configure(session, name, daily_limit=limit)
            found = portfolios.describe(session, portfolio)
        announce(connections)
    if as_json:
        return print_json(found)
    allowed = (
        "no limit" if found["daily_limit"] is None else f"{found['daily_limit']:,} recipients in 24 hours"
    )
    return say(f"{'created' if created else 'changed'} {name}: {allowed}")


def _limit(given: str) -> int | Literal["none"]:
    if given.strip().lower() == "none":
        return "none"
    if re.fullmatch(r"\d{1,12}|\d{1,3}([.,]\d{3}){1,3}", given.strip(), re.ASCII) is None:
        raise InputError(f"--daily-limit {given}: write a number of recipients, for example 2000, or none")
    return int(re.sub(r"\D", "", given))


@cli.command("list")
def list_(as_json: JSON = False) -> None:
    """All portfolios."""
    from disparo import portfolios

    with connected() as connections, connections.session() as session:
        found = [portfolios.describe(session, one) for one in portfolios.listing(session)]
        zone = connections.settings.zone
    if as_json:
        return print_json(found)
    if not found:
        return say("no portfolio yet; make one with `disparo portfolio set NAME --daily-limit N`")
    header = ("name", "daily limit", "used", "left", "frees at", "apps")
    return print_table(header, [tuple(_shown(one, zone).values()) for one in found])


@cli.command()
def show(name: Name, as_json: JSON = False) -> None:
    """What a portfolio has left of its daily budget, and which apps share it."""
    from disparo import portfolios

    with connected() as connections, connections.session() as session:
        found = portfolios.describe(session, portfolios.get(session, name))
        zone = connections.settings.zone
    return print_json(found) if as_json else print_fields(_shown(found, zone))


def _shown(found: dict[str, Any], zone: ZoneInfo) -> dict[str, str]:
    left = "being counted" if found["counting"] else f"{found['left']:,}" if found["left"] is not None else ""
    return {
        "name": found["name"],
        "daily_limit": "none" if found["daily_limit"] is None else f"{found['daily_limit']:,}",
        "used": f"{found['used']:,}",
        "left": left,
        "frees_at": minute(found["frees_at"], zone),
        "apps": ", ".join(found["apps"]),
    }
