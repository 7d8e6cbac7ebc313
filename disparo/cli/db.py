"""``disparo db``: the database's schema."""

from typing import Annotated

import typer

from disparo.cli.output import say

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
        schema.require_current(connections.engine)
    say(f"the database is at revision {schema.HEAD}, as this version needs it")
