"""``disparo campaign launch --from-campaign``: those whom another campaign has not reached become a new one's."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from disparo.cli.campaign_launch import Prepared, ask_for, launched, told_page
from disparo.cli.output import FAILED, counted, note

if TYPE_CHECKING:
    from disparo.connections import Connections

#: Seconds that a launch waits for workers to put back what they hold of the old campaign.
PUT_BACK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Source:
    """The header of what is written of refused messages."""

    original_header: list[str]
    delimiter: str = ";"


def relaunch(
    connections: "Connections",
    file: Path,
    prepared: Prepared,
    old_name: str,
    states: list[str],
    *,
    first: int | None,
    yes: bool,
    by: str | None,
    why: str | None,
    quiet: bool,
) -> str:
    """Check, move in pages, launch; the campaign's name."""
    from disparo import campaigns, db, progress, relaunches
    from disparo.rejects import RejectsFile

    parsed = prepared.file
    with connections.sessions() as session, db.unavailable_as_sentence():
        old = relaunches.source(session, old_name, parsed)
        deadline = time.monotonic() + PUT_BACK_SECONDS
        while relaunches.is_sending(session, old) and time.monotonic() < deadline:
            session.rollback()
            time.sleep(0.2)
        unfinished = campaigns.unfinished(session, parsed.name)
        fit, unsure = relaunches.count(session, old, states)
        header = relaunches.columns(session, old)
        # Of one that goes on, nothing may be left to move.
        if not unfinished:
            relaunches.probe(session, old, states, parsed, prepared.now)
        session.commit()
        connections.limiter.was_emptied()
        if not unfinished:
            flight = progress.preflight(
                session, prepared.app, parsed, fit, prepared.now, prepared.zone,
                begins_at=prepared.launch_at, recipients=fit,
            )  # fmt: skip
            ask_for(prepared, fit, flight, yes=yes, told=f"{counted(fit, 'message')} of {old_name} may move")
        campaign, loaded = campaigns.create(
            session,
            prepared.app,
            parsed,
            audience_name=f"campaign {old_name}",
            audience_digest=relaunches.digest(old, states),
            now=prepared.now,
            launch_at=prepared.launch_at,
            not_after=prepared.not_after,
            first=first,
            by=by,
        )
        session.commit()
        if unfinished:
            note(f"going on with what {old_name} has left")
        with RejectsFile(file.with_name(parsed.name), Source(header)) as rejects_file:
            after_page = told_page(rejects_file, loaded, quiet=quiet)
            try:
                relaunches.load(
                    session, campaign, loaded, old, states, parsed, prepared.now, after_page=after_page
                )
            except KeyboardInterrupt:
                session.invalidate()
                note(
                    "stopped; nothing is launched, and what has moved waits. The same command goes on from there"
                )
                raise typer.Exit(FAILED) from None
            launched(session, prepared, campaign, loaded, rejects_file, by=by, why=why, quiet=quiet)
    if unsure:
        note(
            f"{counted(unsure, 'message')} of {old_name} stayed there: they may have been received "
            "(given up while unknown, or accepted before they failed)"
        )
    return parsed.name
