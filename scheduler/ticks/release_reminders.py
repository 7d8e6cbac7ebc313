"""Reminders whose instant has come become messages, which the next release names in the order of their lane."""

from sqlalchemy.orm import Session

from disparo import db, reminders
from disparo.connections import Connections


def run(_connections: Connections, session: Session) -> None:
    """One page a time."""
    reminders.release_due(session, db.now(session))
