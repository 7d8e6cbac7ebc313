"""What people should hear of: written beside the change itself, told afterwards by the scheduler."""

from typing import Any

from sqlalchemy import text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from disparo.models import Notification


def add(
    session: Session, event: str, subject: str, sentence: str, *, once: str | None = None, **details: Any
) -> None:
    """Have something told, if the caller's transaction commits.

    Args:
      event: Which kind of thing it is: ``app_paused``, ``campaign_finished``, …
      subject: ``app:loja``, ``campaign:black-friday``.
      sentence: What happened, for a person.
      once: A name under which it is told only once.
    """
    if once is None:
        session.add(Notification(event=event, subject=subject, sentence=sentence, details=details or None))
        return
    session.execute(
        insert(Notification)
        .values(event=event, subject=subject, sentence=sentence, details=details or None, once=once)
        .on_conflict_do_nothing(index_elements=["once"], index_where=text("once IS NOT NULL"))
    )
