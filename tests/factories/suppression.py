"""Suppressions."""

from sqlalchemy.orm import Session

from disparo.models import App, Suppression


def make_suppression(
    session: Session, recipient_key: str, *, app: App | None = None, **columns: object
) -> Suppression:
    """An opt-out of everything, for one app or for all."""
    columns = {"scope": "all", "reason": "opt_out", "created_by": "ana"} | columns
    suppression = Suppression(recipient_key=recipient_key, app_id=app.id if app else None, **columns)
    session.add(suppression)
    session.flush()
    return suppression
