"""Apps and stops."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from disparo.models import App, Stop
from disparo.stops import Fault
from disparo.whatsapp import codes


def make_app(
    session: Session,
    name: str = "loja",
    *,
    rate: float = 10.0,
    base_url: str | None = None,
    **columns: object,
) -> App:
    """An app that may send; to one recipient as often as it likes, unless ``pair_seconds`` is given."""
    columns = {"pair_seconds": 0.0} | columns
    app = App(name=name, gs_app_id=f"app-{name}", rate=rate, base_url=base_url, windows={}, **columns)
    session.add(app)
    session.flush()
    return app


def fault(code: str, reason: str = "refused") -> Fault:
    """A refusal with that code."""
    rule = codes.lookup(code)
    return Fault(code, reason, rule.hint, rule)


def make_stop(
    session: Session, app: App, *, scope: str = "app", key: str = "", code: str = "operator"
) -> Stop:
    """A stop in force."""
    stop = Stop(app_id=app.id, scope=scope, key=key, code=code, reason=f"stopped by {code}")
    session.add(stop)
    session.flush()
    return stop


def lift_stops(session: Session, app: App) -> None:
    """End every stop of an app, without the new epoch of a resume."""
    for stop in session.scalars(select(Stop).where(Stop.app_id == app.id, Stop.ended_at.is_(None))):
        stop.ended_at = session.scalar(select(func.now()))
    session.flush()
