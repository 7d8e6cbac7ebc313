"""``disparo sandbox``: a local stand-in for the provider's endpoint."""

from typing import Annotated

import typer

from disparo.cli.output import note, say


def sandbox(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8900,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    latency_ms: Annotated[str, typer.Option(metavar="MIN[-MAX]", help="Time until an answer leaves.")] = "0",
    rate: Annotated[str, typer.Option(metavar="N", help="Requests per second and app; 0 is no limit.")] = "0",
    pair: Annotated[
        str,
        typer.Option(
            metavar="S[:BURST]", help="Seconds between two messages to one recipient; 0 is no limit."
        ),
    ] = "0",
    fault: Annotated[
        list[str] | None,
        typer.Option(metavar="SUFFIX=FAULT", help="For recipients that end so, e.g. 0001=meta:131026."),
    ] = None,
    random: Annotated[
        list[str] | None,
        typer.Option(metavar="FAULT=P", help="For a share of the rest, e.g. close-after=0.01."),
    ] = None,
    app: Annotated[
        list[str] | None, typer.Option(metavar="ID=TOKEN", help="Without any, all apps and tokens are right.")
    ] = None,
    partner: Annotated[
        list[str] | None,
        typer.Option(metavar="EMAIL=SECRET", help="May fetch tokens. Without any, every login succeeds."),
    ] = None,
    seed: Annotated[str | None, typer.Option(metavar="N", help="Makes the random faults repeatable.")] = None,
) -> None:
    """Answer like the provider, on this machine, with the faults that you ask for (docs/sandbox.md)."""
    from disparo.errors import InputError
    from disparo.sandbox.options import from_arguments
    from disparo.sandbox.server import serve

    try:
        options = from_arguments(
            apps=app or [],
            latency_ms=latency_ms,
            rate=rate,
            pair=pair,
            fault=fault or [],
            random=random or [],
            seed=seed,
            partners=partner or [],
        )
    except InputError as err:
        note(f"disparo: {err}")
        raise typer.Exit(2) from err
    serve(options, host, port, lambda url: say(f"ready {url}"))
