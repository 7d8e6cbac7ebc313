"""``disparo app``: senders."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from disparo.cli.output import (
    FAILED,
    JSON,
    By,
    Why,
    announce,
    connected,
    counted,
    note,
    print_fields,
    print_json,
    print_stop,
    print_table,
    say,
)
from disparo.errors import InputError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from disparo.connections import Connections
    from disparo.models import App
    from disparo.stops import Probe

cli = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The app's name: a-z, 0-9 and -.")]


@cli.command("set")
def set_(
    name: Name,
    app_id: Annotated[str | None, typer.Option("--id", help="The APP_ID at Gupshup.")] = None,
    rate: Annotated[
        float | None, typer.Option(help="Requests per second, any above 0. A new app: 10.")
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="The provider's address; '' for that of the settings.")
    ] = None,
    window: Annotated[
        list[str] | None, typer.Option(help="LANE=SPEC, e.g. marketing='mon-sat 8-20' or payment=always.")
    ] = None,
    token: Annotated[
        str | None, typer.Option(help="Where its token comes from: static (a new app), partner or universal.")
    ] = None,
    token_scheme: Annotated[
        str | None, typer.Option(help="How the token is sent: raw or bearer; '' for as its kind has it.")
    ] = None,
    portfolio: Annotated[
        str | None,
        typer.Option(help="The business whose daily budget it shares (`disparo portfolio`); '' for none."),
    ] = None,
    tune: Annotated[
        str | None,
        typer.Option(
            "--tuning",
            help="on: find the rate that the provider bears, never above --rate; off: keep to --rate.",
        ),
    ] = None,
    pair_seconds: Annotated[
        float | None,
        typer.Option(help="Seconds between two messages to one recipient; 0: not paced. A new app: 6."),
    ] = None,
    pair_burst: Annotated[
        int | None,
        typer.Option(help="Messages to one recipient at once, borrowed from the time ahead. A new app: 1."),
    ] = None,
    as_json: JSON = False,
) -> None:
    """Create an app or change it; what is left out stays."""
    from disparo import apps, tokens
    from disparo.errors import SettingsError

    windows = {}
    for given in window or []:
        lane, equals, spec = given.partition("=")
        if not equals:
            raise InputError(f"--window {given}: write LANE=SPEC, for example marketing=always")
        windows[lane.strip()] = spec.strip()
    with connected() as connections:
        with connections.session() as session:
            app, created = apps.configure(
                session,
                name,
                gs_app_id=app_id,
                rate=rate,
                base_url=base_url,
                windows=windows or None,
                token=token,
                token_scheme=token_scheme,
                portfolio=portfolio,
                tune=tune,
                pair_seconds=pair_seconds,
                pair_burst=pair_burst,
            )
            found = apps.describe(session, app)
        if not created:
            # A rate counts from now on, not from when the workers next look.
            announce(connections)
        if as_json:
            return print_json(found)
        say(f"{'created' if created else 'changed'} {name}: {app.rate:g} requests/s to app {app.gs_app_id}")
        try:
            tokens.require(connections.environment, name, tokens.kind_of(app.token_kind))
        except SettingsError as err:
            note(f"not yet: {err}")
    return None


@cli.command("list")
def list_(as_json: JSON = False) -> None:
    """All apps."""
    from disparo import apps

    with connected() as connections, connections.session() as session:
        found = [apps.describe(session, app) for app in apps.listing(session)]
    if as_json:
        return print_json(found)
    if not found:
        return say("no app yet; make one with `disparo app set NAME --id APP_ID`")
    rows = [(a["name"], a["id"], a["state"], f"{a['rate']:g}", a["reason"]) for a in found]
    return print_table(("name", "id", "state", "rate", "reason"), rows)


@cli.command()
def show(name: Name, as_json: JSON = False) -> None:
    """What is known of an app, and what holds it."""
    from disparo import actions, apps, tokens, tuning

    with connected() as connections, connections.session() as session:
        app = apps.get(session, name)
        found = apps.describe(session, app)
        token = tokens.in_words(connections.environment, app, tokens.ends_at(session, app))
    if as_json:
        return print_json(found)
    entries, held = found.pop("history")[: actions.SHOWN], found.pop("breakers")
    # Why it is paused stands below, with since when and by which code.
    below = ("reason", "code", "hint", "since")
    shown = {
        name: value for name, value in found.items() if not name.startswith("token_") and name not in below
    }
    shown |= {name: f"{found[name]:g}" for name in ("rate", "effective_rate", "pair_seconds")}
    shown["tuning"] = tuning.in_words(found["tuning"], connections.settings.zone)
    print_fields(shown | {"token": token, "warning": tokens.warning(app)})
    for stop in held:
        print_stop(stop, connections.settings.zone)
    for entry in entries:
        say(f"  {actions.in_words(entry, connections.settings.zone)}")
    return None


@cli.command()
def limit(
    rate: Annotated[
        str | None, typer.Argument(help="Requests per second, any above 0, or none to lift the limit.")
    ] = None,
    why: Why = None,
    by: By = None,
    as_json: JSON = False,
) -> None:
    """Limit all apps together, beside the rate of each; without RATE, say what the limit is."""
    from disparo import apps

    wanted = None
    if rate is not None and rate.strip().lower() != "none":
        try:
            wanted = float(rate)
        except ValueError:
            raise InputError(f"{rate!r} is no rate: give requests per second, or none") from None
    with connected() as connections:
        with connections.session() as session:
            if rate is not None:
                apps.limit_everything(session, wanted, by=by, why=why)
            found = apps.everything(session)
        if rate is not None:
            announce(connections)
    if as_json:
        return print_json({"rate": found})
    if found is None:
        return say("all apps together: no limit but the rates of each")
    return say(f"all apps together: at most {found:g} requests/s")


def _check_lane(lane: str | None) -> None:
    from disparo.statuses import Lane

    if lane is not None and lane not in list(Lane):
        raise InputError(f"--lane {lane}: there are {', '.join(Lane)}")


Chosen = Annotated[str | None, typer.Argument(help="The app's name: a-z, 0-9 and -.")]
All = Annotated[bool, typer.Option("--all", help="Every app.")]


def _chosen(session: "Session", name: str | None, every: bool) -> "list[App]":
    from disparo import apps

    if every == (name is not None):
        raise InputError("name one app, or say --all")
    return apps.listing(session) if name is None else [apps.get(session, name)]


@cli.command()
def pause(
    name: Chosen = None,
    every: All = False,
    lane: Annotated[str | None, typer.Option(help="Only this lane: payment, utility or marketing.")] = None,
    why: Why = None,
    by: By = None,
    as_json: JSON = False,
) -> None:
    """Let an app (or a lane of it, or every app) send nothing more until it is resumed."""
    from disparo import actions, apps, stops

    _check_lane(lane)
    scope, key = ("app", "") if lane is None else ("lane", lane)
    reason = why or "paused by an operator"
    with connected() as connections:
        with connections.session() as session:
            chosen = _chosen(session, name, every)
            new = {app.id: stops.pause(session, app, scope, key, reason=reason) for app in chosen}
            for app in chosen:
                if new[app.id]:
                    actions.record_action(session, "pause", f"app:{app.name}", actor=by, why=why, lane=lane)
            found = [apps.describe(session, app) for app in chosen]
        announce(connections, {app_id: reason for app_id in new if lane is None})
    if as_json:
        return print_json(found if every else found[0])
    if not chosen:
        return say("there is no app yet")
    for app in chosen:
        what = stops.in_words(app.name, scope, key)
        say(f"{what} is paused" if new[app.id] else f"{what} was paused already")
    return None


#: How long a resume waits for its probes; no longer than a person does.
PROBE_PATIENCE_SECONDS = 8.0


@cli.command()
def resume(
    name: Chosen = None,
    every: All = False,
    lane: Annotated[str | None, typer.Option(help="Only this lane.")] = None,
    retry: Annotated[
        bool, typer.Option("--retry", help="Also re-queue what failed by the fault that paused it.")
    ] = False,
    probe: Annotated[
        bool,
        typer.Option(
            help="Send one message first where a fault had paused it, and the rest when it is accepted."
        ),
    ] = True,
    why: Why = None,
    by: By = None,
    as_json: JSON = False,
) -> None:
    """Let an app send again; what waited goes on exactly where it was."""
    from disparo import apps

    _check_lane(lane)
    with connected() as connections:
        with connections.session() as session:
            names = [app.name for app in _chosen(session, name, every)]
        codes = [_resume(connections, one, lane, retry, probe, by, why, quiet=as_json) for one in names]
        if as_json:
            with connections.session() as session:
                found = [apps.describe(session, apps.get(session, one)) for one in names]
            print_json(found if every else found[0])
        elif not names:
            say("there is no app yet")
    raise typer.Exit(max(codes, default=0))


def _resume(
    connections: "Connections",
    name: str,
    lane: str | None,
    retry: bool,
    probe: bool,
    by: str | None,
    why: str | None,
    *,
    quiet: bool,
) -> int:
    """Resume one app; the exit code: 1 when its probe was refused."""
    from disparo import actions, apps, campaigns, db, overrides, retries, stops

    tell = note if quiet else say
    with connections.session() as session:
        app, now = apps.get(session, name), db.now(session)
        faults = [stop for stop in apps.stops(session, app.id) if lane is None or stop.key == lane]
        table = overrides.load(connections.settings.home)
        retried = retries.retry_failed_by(session, faults, now, table=table) if retry else 0
        failed = [] if retry else retries.failed_by(session, faults, table=table)
        done = stops.resume(
            session,
            app,
            now,
            lane=lane,
            by=by,
            # Without a worker nobody would send the probe.
            probe=probe and campaigns.live_workers(session) > 0,
            shut=campaigns.shut(session, now, connections.settings.zone),
        )
        if done.ended or done.probes:
            action = actions.record_action(
                session, "resume", f"app:{name}", actor=by, why=why, lane=lane, retried=retried or None
            )
            session.flush()
            action_id = action.id
        app_id, waiting = app.id, {one.stop_id for one in done.probes}
    if any(stop.scope == "app" for stop in done.ended) and not waiting:
        announce(connections, {app_id: None})
    elif done.ended or waiting:
        announce(connections)
    if not done.ended and not waiting:
        tell(f"{name} was not paused" if lane is None else f"lane {lane} of {name} was not paused")
        return 0
    for stop in done.ended:
        tell(f"ended: {stops.in_words(name, stop.scope, stop.key)}: {stop.reason}")
    if retry:
        tell(f"{counted(retried, 'failed message')} to be sent again")
    for campaign, code, n in failed:
        shown = retries.shown(campaign)
        tell(f"{n:,} of {campaign} failed with {code}: `disparo campaign retry {shown} --code {code}`")
    if waiting:
        came_to = _await_probes(connections, name, done.probes, tell)
        if came_to == FAILED:
            with connections.session() as session:
                actions.add_details(session, action_id, probe="refused")
        return came_to
    with connections.session() as session:
        left = apps.describe(session, apps.get(session, name))
    if left["state"] == "paused":
        tell(f"{name} itself is still paused ({left['reason']}); `disparo app resume {name}` lets it send")
    else:
        tell(f"{name} sends again" if lane is None else f"lane {lane} of {name} sends again")
    return 0


def _await_probes(
    connections: "Connections", name: str, probes: "list[Probe]", tell: Callable[[str], None]
) -> int:
    """Wait for what becomes of the probes, which the scheduler enqueues."""
    from disparo import db, stops

    until = time.monotonic() + PROBE_PATIENCE_SECONDS
    while True:
        with connections.session() as session:
            left = stops.undecided(session, [one.stop_id for one in probes])
            now = db.now(session)
            refused = [stop for stop in left if stops.was_refused(stop, now)]
            if not left or refused or time.monotonic() > until:
                session.expunge_all()
                break
        time.sleep(0.05)
    for stop in refused:
        what = stops.in_words(name, stop.scope, stop.key)
        note(
            f"one message was tried and refused again: {stop.reason.rstrip('.')}; {what} stays paused. {stop.hint}".strip()
        )
    if refused:
        return FAILED
    if left:
        tell(f"one message of {name} is being tried; the rest goes on as soon as it is accepted")
    else:
        tell(f"one message was accepted: {name} sends again")
    return 0
