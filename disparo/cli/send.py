"""``disparo send``: one message."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from disparo.cli.output import FAILED, JSON, connected, note, print_fields, print_json, say
from disparo.errors import InputError, PayloadError, RedisUnavailable

if TYPE_CHECKING:
    from disparo.connections import Connections

#: How long a `--wait` waits at most when nothing else is said.
WAIT_SECONDS = 60.0
#: Without a live worker it ends after this.
NO_WORKER_SECONDS = 1.5


def send(
    file: Annotated[
        str, typer.Argument(help="The message as in the provider's pages (JSON or YAML), or - for stdin.")
    ],
    app: Annotated[str, typer.Option("--app", help="The app that sends.")],
    to: Annotated[str | None, typer.Option("--to", help="Recipient; else the `to` of the file.")] = None,
    key: Annotated[
        str | None, typer.Option(help="Your name of the message: the same key is never sent twice.")
    ] = None,
    lane: Annotated[str, typer.Option(help="payment, utility or marketing.")] = "utility",
    at: Annotated[
        str | None, typer.Option(help="When it may leave, e.g. 2026-12-03T10:00 or 'in 10m'.")
    ] = None,
    not_after: Annotated[str | None, typer.Option(help="When it is too late.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the outcome: exit 0 when accepted.")] = False,
    timeout: Annotated[float, typer.Option(min=0.0, help="Seconds to wait.")] = WAIT_SECONDS,
    raw: Annotated[bool, typer.Option("--raw", help="Send it without checking it.")] = False,
    as_json: JSON = False,
) -> None:
    """Send one message."""
    from disparo import apps, db, document, instants, messages, phone
    from disparo.statuses import Lane
    from disparo.whatsapp import payloads

    if lane not in list(Lane):
        raise InputError(f"--lane {lane}: there are {', '.join(Lane)}")
    stdin = file == "-"
    # As bytes, so that what is not UTF-8 is told with its line.
    given = document.load(Path("/dev/stdin") if stdin else Path(file), None, "stdin" if stdin else file)
    envelope, message = payloads.split(given)
    recipient = to if to is not None else envelope.get("to")
    if recipient is None or recipient == "":
        raise InputError(f"{file} has no `to`; give the recipient with --to 5511999998888")
    number = phone.parse(recipient)
    try:
        content = messages.compose(given, number, raw=raw)
    except PayloadError as err:
        raise InputError(f"{file}: {err}") from err
    for warning in payloads.warnings(message, raw=raw or payloads.is_raw(given)):
        note(f"warning: {warning}")
    with connected() as connections:
        with connections.session() as session:
            apps.get(session, app)
        connections.require_token(app)
        with connections.session() as session:
            owner, now = apps.get(session, app), db.now(session)
            zone = connections.settings.zone
            due_at = (
                instants.future(instants.parse_instant(at, now, zone), now, zone, what="--at") if at else now
            )
            late = instants.parse_instant(not_after, now, zone, end_of_day=True) if not_after else None
            row, new = messages.add(
                session, owner, number, content, lane=lane, key=key, due_at=due_at, now=now, not_after=late
            )
            message_id, app_id = row.id, owner.id
            # Asked before the commit, so that nothing is stored that could not be enqueued.
            connections.limiter.was_emptied()
        if new and at is None:
            _enqueue(connections, app_id, message_id)
        if at and new:
            note(f"leaves at {instants.describe(due_at, zone)}")
        found = follow(connections, message_id, timeout) if wait else describe(connections, message_id)
    if as_json:
        print_json(found)
    elif wait:
        print_fields(
            found | {"to": phone.mask(found["to"])},
            ("id", "key", "to", "state", "provider_id", "code", "reason", "hint", "attempts"),
        )
    else:
        say(
            f"message {message_id} is {found['state']}"
            + ("" if new else " (this key was sent before; nothing new)")
        )
    if wait and found["state"] not in ("accepted", "enqueued", "sent", "delivered", "read"):
        raise typer.Exit(FAILED)


def _enqueue(connections: "Connections", app_id: int, message_id: int) -> None:
    try:
        connections.queue.send_messages(app_id, [message_id])
    except RedisUnavailable as err:
        note(f"warning: message {message_id} is stored, and leaves when Redis is back: {err}")


def describe(connections: "Connections", message_id: int) -> dict[str, Any]:
    """All that is known of a message, with a hint where it was refused."""
    from disparo import messages, overrides
    from disparo.models import Message

    with connections.session() as session:
        found = messages.describe(session, session.get_one(Message, message_id))
    table = overrides.load(connections.settings.home)
    found["hint"] = table.lookup(found["code"]).hint if found["code"] else None
    return found


def follow(connections: "Connections", message_id: int, timeout: float) -> dict[str, Any]:
    """Wait until a message is settled, its app is stopped, no worker lives, or the time is over."""
    from sqlalchemy import select

    from disparo import apps, campaigns
    from disparo.models import App, Message, Stop
    from disparo.statuses import SETTLED, Status

    begun = time.monotonic()
    alone_since: float | None = begun
    while True:
        with connections.session() as session:
            app_id = session.execute(select(Message.app_id).where(Message.id == message_id)).scalar_one()
            workers = campaigns.live_workers(session)
            name = session.get_one(App, app_id).name
            stop: Stop | None = next((s for s in apps.stops(session, app_id) if s.scope == "app"), None)
            # After the stop: this message may be the one whose refusal has just put it in force.
            status = session.execute(select(Message.status).where(Message.id == message_id)).scalar_one()
        if status in (*SETTLED, Status.UNKNOWN):
            return describe(connections, message_id)
        now = time.monotonic()
        if stop is not None and status == Status.PENDING:
            note(
                f"the app is paused since {stop.since:%Y-%m-%d %H:%M} UTC: {stop.reason}. {stop.hint}".rstrip()
            )
            mended = "" if apps.is_fence(stop) else f"; mend it and run `disparo app resume {name}`"
            note(f"the message waits as {message_id}{mended}")
            return describe(connections, message_id)
        alone_since = None if workers else (alone_since or now)
        if alone_since is not None and now - alone_since > NO_WORKER_SECONDS:
            note(f"no worker is alive; the message stays queued as {message_id}. Start one with `disparo up`")
            return describe(connections, message_id)
        if now - begun > timeout:
            note(f"still {status} after {timeout:g} s; look again with `disparo message show {message_id}`")
            _tell_budget(connections, message_id)
            return describe(connections, message_id)
        time.sleep(0.05 if now - begun < 2 else 0.25)


def _tell_budget(connections: "Connections", message_id: int) -> None:
    """Say that a message waits for its daily budget, if it may."""
    from disparo import portfolios
    from disparo.models import Message

    with connections.session() as session:
        message = session.get_one(Message, message_id)
        budget = portfolios.budget(session, message.app_id) if message.template else None
        free = portfolios.frees_at(session, budget) if budget else None
    if budget is not None and free is not None:
        until = free.astimezone(connections.settings.zone)
        note(
            f"the {budget.limit:,} recipients that {budget.name} may write to in 24 hours are used; somebody new has to "
            f"wait until {until:%Y-%m-%d %H:%M}"
        )
