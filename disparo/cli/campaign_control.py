"""``disparo campaign``: what changes one after its launch: pause, resume, reschedule, amend, cancel."""

import time
from pathlib import Path
from typing import Annotated

import typer

from disparo.cli.campaign import Name, show_status, status_of
from disparo.cli.output import JSON, By, Why, announce, connected, counted, note, print_json, say

#: Seconds that `cancel` waits for workers to put back what they hold.
PUT_BACK_SECONDS = 5.0


def pause(
    name: Name,
    by: By = None,
    why: Annotated[str, typer.Option(help="Kept with the pause.")] = "paused by an operator",
    as_json: JSON = False,
) -> None:
    """Let nothing more of it leave."""
    from disparo import campaigns

    with connected() as connections:
        with connections.session() as session:
            campaign = campaigns.get(session, name, lock=True)
            new, reason = campaigns.pause(session, campaign, reason=why, by=by), campaign.pause_reason
        announce(connections)
        if as_json:
            return show_status(connections, name, as_json)
    return say(f"{name} is paused" if new else f"{name} was paused already: {reason}")


def resume(name: Name, by: By = None, why: Why = None, as_json: JSON = False) -> None:
    """Go on exactly where it stopped."""
    from disparo import campaigns, db, instants

    with connected() as connections:
        zone = connections.settings.zone
        with connections.session() as session:
            campaign = campaigns.get(session, name, lock=True)
            campaigns.resume(session, campaign, db.now(session), by=by, why=why)
            later = campaign.launch_at if campaign.state == "scheduled" else None
            first = campaign.first
        announce(connections)
        found = status_of(connections, name)
    if as_json:
        return print_json(found)
    say(f"{name} goes on" + (f" at {instants.describe(later, zone)}" if later else ""))
    if first is not None:
        note(f"it pauses again when the first {first:,} have left")
    for stop in found["stops"]:
        width = " ".join(filter(None, (stop["scope"], stop["key"])))
        note(
            f"but {found['app']} is stopped ({width}): {stop['reason']}; "
            f"`disparo app resume {found['app']}` lets it send"
        )
    return None


def reschedule(
    name: Name,
    at: Annotated[str, typer.Option(help="When it begins or goes on, e.g. 2026-12-03T10:00.")],
    by: By = None,
    why: Why = None,
    as_json: JSON = False,
) -> None:
    """Let a scheduled campaign begin, or a paused one go on by itself, at another instant."""
    from disparo import campaigns, db, instants

    with connected() as connections:
        zone = connections.settings.zone
        with connections.session() as session:
            now = db.now(session)
            instant = instants.future(instants.parse_instant(at, now, zone), now, zone, what="--at")
            # Waiting for the lock may have taken its time.
            campaign = campaigns.get(session, name, lock=True)
            campaigns.reschedule(session, campaign, instant, db.clock(session), by=by, why=why)
        if as_json:
            return show_status(connections, name, as_json)
    return say(f"{name} goes on at {instants.describe(instant, zone)}")


def amend(
    name: Name,
    file: Annotated[Path, typer.Argument(help="The whole campaign file with its new content.")],
    by: By = None,
    why: Why = None,
    as_json: JSON = False,
) -> None:
    """Give a paused or finished campaign another content; every message that may still leave is checked first."""
    from disparo import amendments, campaigns, db, document, instants

    parsed = campaigns.parse_file(document.load(file, None, str(file)), str(file))
    for setting in parsed.without_effect:
        note(f"warning: {file}: {setting} is kept, but this version does not act on it yet")
    with connected() as connections:
        zone = connections.settings.zone
        with connections.session() as session:
            now = db.now(session)
            campaign = campaigns.get(session, name)
            amendment = amendments.begin(session, campaign, parsed, str(file))
            not_after = (
                instants.parse_instant(parsed.not_after, now, zone, end_of_day=True)
                if parsed.not_after
                else None
            )
        if amendment is None:
            told = f"{name} has this content already; nothing was changed"
        else:
            more, shown = True, 0
            while more:
                with connections.session() as session:
                    more = amendments.check_page(session, amendment)
                if amendment.checked - shown >= 20_000 and not as_json:
                    shown = amendment.checked
                    note(f"{shown:,} messages checked")
            with connections.session() as session:
                campaign = amendments.apply(
                    session, amendment, db.now(session), not_after=not_after, by=by, why=why
                )
                told = (
                    f"{name} has version {campaign.version} of its content; "
                    f"{counted(amendment.checked, 'message')} that may still leave fit it"
                )
        if as_json:
            return show_status(connections, name, as_json)
    say(told)
    if amendment is not None and campaign.state == "paused":
        note(f"`disparo campaign resume {name}` lets it go on")
    return None


def cancel(name: Name, by: By = None, why: Why = None, as_json: JSON = False) -> None:
    """Let nothing more of it leave, for good."""
    from disparo import campaigns, db

    with connected() as connections:
        with connections.session() as session:
            campaign = campaigns.get(session, name, lock=True)
            campaigns.cancel(session, campaign, db.now(session), by=by, why=why)
        announce(connections)
        began = time.monotonic()
        while True:
            with connections.session() as session:
                cancelled = campaigns.cancel_rest(session, db.now(session))
            if cancelled:
                continue
            found = status_of(connections, name)
            # What a worker or the scheduler holds just now comes to its outcome, or back.
            waits = found["counts"]["pending"] or (found["counts"]["sending"] and found["workers"])
            if not waits or time.monotonic() - began > PUT_BACK_SECONDS:
                break
            time.sleep(0.1)
    if as_json:
        return print_json(found)
    counts = found["counts"]
    gone = sum(counts[status] for status in ("accepted", "enqueued", "sent", "delivered", "read"))
    left = counts["cancelled"] + counts["pending"]
    told = f"{name} is cancelled: {left:,} will not be sent, {gone:,} had left already"
    if counts["unknown"]:
        told += f", {counts['unknown']:,} are unknown"
    return say(told + (f", {counts['sending']:,} are on their way" if counts["sending"] else ""))
