"""``disparo app``: senders."""

from collections.abc import Callable
from typing import Annotated

import typer

from disparo.cli.output import JSON, connected, note, print_fields, print_json, print_table, say
from disparo.errors import InputError, RedisUnavailable

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
    with connected() as connections, connections.session() as session:
        app, created = apps.configure(
            session,
            name,
            gs_app_id=app_id,
            rate=rate,
            base_url=base_url,
            windows=windows or None,
            token=token,
            token_scheme=token_scheme,
        )
        found = apps.describe(session, app)
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
    from disparo import apps, tokens

    with connected() as connections, connections.session() as session:
        app = apps.get(session, name)
        found = apps.describe(session, app)
        token = tokens.in_words(connections.environment, app, tokens.ends_at(session, app))
    if as_json:
        return print_json(found)
    shown = {name: value for name, value in found.items() if not name.startswith("token_")}
    print_fields(shown | {"token": token, "warning": tokens.warning(app)})
    return None


def _check_lane(lane: str | None) -> None:
    from disparo.statuses import Lane

    if lane is not None and lane not in list(Lane):
        raise InputError(f"--lane {lane}: there are {', '.join(Lane)}")


@cli.command()
def pause(
    name: Name,
    lane: Annotated[str | None, typer.Option(help="Only this lane: payment, utility or marketing.")] = None,
    why: Annotated[str, typer.Option(help="Kept with the pause.")] = "",
    as_json: JSON = False,
) -> None:
    """Let an app (or a lane of it) send nothing more until it is resumed."""
    from disparo import apps

    _check_lane(lane)
    what = name if lane is None else f"{name} ({lane})"
    with connected() as connections:
        with connections.session() as session:
            app = apps.get(session, name)
            scope, key = ("app", "") if lane is None else ("lane", lane)
            reason = why or "paused by an operator"
            new = apps.stop(session, app.id, scope=scope, key=key, reason=reason)
            if new:
                apps.record_action(session, "pause", f"app:{what}", why=why or None)
            found = apps.describe(session, app)
        if new and lane is None:
            _publish(lambda: connections.limiter.stop(app.id, reason))
    if as_json:
        return print_json(found)
    return say(f"{what} is paused" if new else f"{what} was paused already")


def _publish(tell: Callable[[], None]) -> None:
    """Tell the workers through Redis; the table has it already, from which the scheduler tells them too."""
    try:
        tell()
    except RedisUnavailable as err:
        note(f"warning: it is stored, and the workers learn of it when Redis is back: {err}")


@cli.command()
def resume(
    name: Name,
    lane: Annotated[str | None, typer.Option(help="Only this lane.")] = None,
    retry: Annotated[
        bool, typer.Option("--retry", help="Also re-queue what failed by the fault that paused it.")
    ] = False,
    as_json: JSON = False,
) -> None:
    """Let an app send again; what waited goes on exactly where it was."""
    from disparo import apps, db

    _check_lane(lane)
    with connected() as connections:
        with connections.session() as session:
            app, now = apps.get(session, name), db.now(session)
            ended = apps.resume(session, app, now, lane=lane)
            retried = apps.retry_failed_by(session, app, ended, now) if retry else 0
            if ended:
                apps.record_action(session, "resume", f"app:{name}", retried=retried)
            found = apps.describe(session, app)
        if any(stop.scope == "app" for stop in ended):
            _publish(lambda: connections.limiter.resume(app.id))
    if as_json:
        return print_json(found)
    if not ended:
        return say(f"{name} was not paused" if lane is None else f"lane {lane} of {name} was not paused")
    for stop in ended:
        say(f"ended: {stop.scope} {stop.key} {stop.reason}".replace("  ", " "))
    if retry:
        say(f"{retried} failed messages wait to be sent again")
    if found["state"] == "paused":
        return say(
            f"{name} itself is still paused ({found['reason']}); `disparo app resume {name}` lets it send"
        )
    return say(f"{name} sends again" if lane is None else f"lane {lane} of {name} sends again")
