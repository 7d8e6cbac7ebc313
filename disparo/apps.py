"""Senders: set, list, show, and what stops and resumes them."""

import math
import re
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from disparo import db, portfolios, tokens, tuning
from disparo import windows as send_windows
from disparo.actions import history, record_action
from disparo.errors import InputError, NotFoundError
from disparo.models import App, Portfolio, Stop
from disparo.settings import APP_NAME, checked_base_url, token_variable
from disparo.statuses import AppState, Lane

#: Requests per second where nothing else is known. Source: Gupshup, "Partner Rate Limits" (all other APIs:
#: 10 in 1 second), read 2026-11-21.
DEFAULT_RATE = 10.0
#: A slower app would look like one that stands still.
SLOWEST_RATE = 1e-6
# It becomes a part of the endpoint's path.
_GS_APP_ID = re.compile(r"[A-Za-z0-9][\w-]{0,99}", re.ASCII)
#: WhatsApp takes one message in 6 seconds to one recipient of a number, and a burst of up to 45 within them that is
#: borrowed from the time ahead. Source: Meta, "Throughput", pair rate limits, read 2026-11-21.
PAIR_SECONDS, PAIR_BURST = 6.0, 45
#: A recipient that is written to less often than this is better left to a campaign's dates.
LONGEST_PAIR_SECONDS = 86_400.0
#: The code of a stop that a person ordered.
OPERATOR = "operator"
#: Codes of stops that end by themselves when the endpoint answers again.
UNREACHABLE, STRANGE_ANSWERS = "unreachable", "strange_answers"
#: The key of a stop of the whole app by the send fence (`disparo.fence`): beside any other, and no resume ends it.
FENCE = "database"


def configure(
    session: Session,
    name: str,
    *,
    gs_app_id: str | None = None,
    rate: float | None = None,
    base_url: str | None = None,
    windows: dict[str, str] | None = None,
    token: str | None = None,
    token_scheme: str | None = None,
    portfolio: str | None = None,
    tune: str | None = None,
    pair_seconds: float | None = None,
    pair_burst: int | None = None,
) -> tuple[App, bool]:
    """Create or change an app; what is left out stays. The second value says whether it is new.

    Args:
      windows: Lane → send window (`disparo.windows`).
      token: Where its token comes from (`disparo.tokens`): static, partner or universal.
      token_scheme: How it stands in the header: raw or bearer; empty for as its kind has it.
      portfolio: Whose daily budget it shares (`disparo.portfolios`); empty for none.
      tune: ``on`` to look for the rate that the provider bears (`disparo.tuning`), ``off`` to forget it.
      pair_seconds: From one message to the next one to the same recipient; 0: no matter.
      pair_burst: How many may go to one recipient within that time, borrowed from the time ahead.

    Raises:
      InputError: A value is wrong, or a new app has no id.
      NotFoundError: There is no such portfolio.
    """
    if not APP_NAME.fullmatch(name):
        raise InputError(f"{name!r} is no app name: use 1 to 40 of a-z, 0-9 and -, for example loja-sul")
    if rate is not None:
        _check_rate(rate, "--rate ")
    if name.endswith("-file"):
        raise InputError(
            f"an app cannot be named {name}: the variable of its token would be that of a file for "
            f"{name.removesuffix('-file')}; take another name"
        )
    if gs_app_id is not None and not _GS_APP_ID.fullmatch(gs_app_id.strip()):
        raise InputError(
            "--id is the APP_ID of the app at Gupshup, up to 100 letters, digits and - as its page shows it"
        )
    if gs_app_id is not None and gs_app_id.strip().startswith("sk_"):
        raise InputError(
            f"--id is the APP_ID of the app at Gupshup, and this is a token: keep it in {token_variable(name)}"
        )
    if base_url:
        try:
            base_url = checked_base_url(base_url)
        except ValueError as err:
            raise InputError(f"--base-url: {err}") from err
    if token is not None and token not in tokens.KINDS:
        # A token given here by mistake is not shown again.
        raise InputError(f"--token names where the token comes from: {', '.join(tokens.KINDS)}")
    if token_scheme and token_scheme not in tokens.SCHEMES:
        raise InputError(f"--token-scheme: there are {', '.join(tokens.SCHEMES)}")
    if tune is not None and tune not in ("on", "off"):
        raise InputError(f"--tuning {tune}: there are on and off")
    if pair_seconds is not None and not 0 <= pair_seconds <= LONGEST_PAIR_SECONDS:
        raise InputError(
            f"--pair-seconds {pair_seconds:g}: give the seconds between two messages to one recipient, up to "
            f"{LONGEST_PAIR_SECONDS:.0f}; WhatsApp takes one in {PAIR_SECONDS:g}, and 0 ends the pacing"
        )
    if pair_burst is not None and not 1 <= pair_burst <= PAIR_BURST:
        raise InputError(
            f"--pair-burst {pair_burst}: give how many messages to one recipient may go at once, 1 to {PAIR_BURST}"
        )
    checked = {}
    for lane, spec in (windows or {}).items():
        if lane not in list(Lane):
            raise InputError(f"--window {lane}={spec}: there are the lanes {', '.join(Lane)}")
        checked[lane] = str(send_windows.parse(spec))
    app = session.scalars(select(App).where(App.name == name).with_for_update()).one_or_none()
    created = app is None
    if app is None:
        if gs_app_id is None:
            raise InputError(
                f"{name} is a new app: give its id at Gupshup, `disparo app set {name} --id APP_ID`"
            )
        statement = insert(App).values(name=name, gs_app_id=gs_app_id, rate=rate or DEFAULT_RATE, windows={})
        session.execute(statement.on_conflict_do_nothing(index_elements=["name"]))
        app = session.scalars(select(App).where(App.name == name).with_for_update()).one()
        _hold_by_fence(session, app)
    number = (app.gs_app_id, app.base_url)
    if gs_app_id is not None:
        app.gs_app_id = gs_app_id.strip()
    if rate is not None:
        app.rate = rate
    if base_url is not None:
        app.base_url = base_url or None
    if token is not None:
        app.token_kind = token
    if token_scheme is not None:
        app.token_scheme = token_scheme or None
    if pair_seconds is not None:
        app.pair_seconds = pair_seconds
    if pair_burst is not None:
        app.pair_burst = pair_burst
    if checked:
        app.windows = {**app.windows, **checked}
    if portfolio is not None:
        portfolios.join(session, app, portfolio)
    if tune == "on":
        tuning.turn_on(app, db.now(session))
    elif tune == "off":
        tuning.turn_off(app)
    if (app.gs_app_id, app.base_url) != number:
        tuning.begin_again(app, db.now(session))
    session.flush()
    return app, created


def _check_rate(rate: float, option: str = "") -> None:
    if not (rate > 0 and math.isfinite(rate)):
        raise InputError(f"{option}{rate:g}: give requests per second, any number above 0")
    if rate < SLOWEST_RATE:
        raise InputError(f"{option}{rate:g}: that is less than one request in ten days")


def everything(session: Session) -> float | None:
    """Requests per second of all apps together; None: no limit but theirs."""
    found: float | None = session.execute(text("SELECT max_per_second FROM installation")).scalar_one()
    return found


def limit_everything(
    session: Session, rate: float | None, *, by: str | None = None, why: str | None = None
) -> None:
    """Set the limit of all apps together; None lifts it.

    Raises:
      InputError: It is no rate.
    """
    if rate is not None:
        _check_rate(rate)
    session.execute(text("UPDATE installation SET max_per_second = :rate"), {"rate": rate})
    record_action(session, "limit", "apps", actor=by, why=why, rate=rate)


def get(session: Session, name: str) -> App:
    """The app of that name.

    Raises:
      NotFoundError: There is none; says which there are.
    """
    app = session.scalars(select(App).where(App.name == name)).one_or_none()
    if app is None:
        known = ", ".join(session.scalars(select(App.name).order_by(App.name).limit(10)))
        there = f"there are: {known}" if known else "there is none yet"
        raise NotFoundError(
            f"no app is named {name!r} ({there}); make it with `disparo app set {name} --id APP_ID`"
        )
    return app


def listing(session: Session) -> list[App]:
    """All apps by name."""
    return list(session.scalars(select(App).order_by(App.name)))


def stops(session: Session, app_id: int) -> list[Stop]:
    """What holds an app now: the send fence first, the whole app, then lanes and templates."""
    in_force = select(Stop).where(Stop.app_id == app_id, Stop.ended_at.is_(None))
    order = {"app": 0, "lane": 1, "template": 2}
    return sorted(
        session.scalars(in_force),
        key=lambda stop: (not is_fence(stop), order[stop.scope], stop.key),
    )


def is_fence(stop: Stop) -> bool:
    """Whether the send fence holds by it, which `disparo db restored` or `disparo db adopt` lifts for all apps."""
    return stop.scope == "app" and stop.key == FENCE


def stop_as_json(stop: Stop) -> dict[str, Any]:
    """What ``app show`` and ``campaign status`` print of a stop."""
    return {
        "scope": stop.scope,
        "key": stop.key or None,
        "code": stop.code,
        "reason": stop.reason,
        "hint": stop.hint or None,
        "since": stop.since.isoformat(),
        "probes": stop.probes,
        "probing": stop.probe_message_id is not None,
        # While one is under way this is when it would be taken for lost.
        "next_probe_at": stop.probe_at.isoformat() if stop.probe_at and not stop.probe_message_id else None,
    }


def _hold_by_fence(session: Session, app: App) -> None:
    """Hold a new app by the fence that holds the others."""
    session.execute(
        text("""
            INSERT INTO stops (app_id, scope, key, code, reason, hint)
            SELECT :app_id, scope, key, code, reason, hint FROM stops
            WHERE scope = 'app' AND key = :fence AND ended_at IS NULL ORDER BY id LIMIT 1
            ON CONFLICT (app_id, scope, key) WHERE ended_at IS NULL DO NOTHING"""),
        {"app_id": app.id, "fence": FENCE},
    )


def describe(session: Session, app: App) -> dict[str, Any]:
    """What ``app show --json`` prints."""
    held = stops(session, app.id)
    whole = next((stop for stop in held if stop.scope == "app"), None)
    token_ends = tokens.ends_at(session, app)
    portfolio = session.get(Portfolio, app.portfolio_id) if app.portfolio_id else None
    return {
        "name": app.name,
        "id": app.gs_app_id,
        "state": AppState.PAUSED if whole else AppState.ACTIVE,
        "reason": whole.reason if whole else None,
        "code": whole.code if whole else None,
        "hint": (whole.hint or None) if whole else None,
        "since": whole.since.isoformat() if whole else None,
        "rate": app.rate,
        "effective_rate": 0.0 if whole else tuning.effective_rate(app),
        "tuning": tuning.describe(app),
        "pair_seconds": app.pair_seconds,
        "pair_burst": app.pair_burst,
        "base_url": app.base_url,
        "windows": dict(app.windows),
        "portfolio": portfolio.name if portfolio else None,
        "token_kind": app.token_kind,
        "token_scheme": app.token_scheme,
        "token_ends_at": token_ends.isoformat() if token_ends else None,
        "breakers": [stop_as_json(stop) for stop in held],
        "history": history(session, f"app:{app.name}"),
    }
