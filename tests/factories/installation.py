"""Workers."""

from datetime import datetime

from sqlalchemy.orm import Session

from disparo.models import Worker


def make_worker(session: Session, seen_at: datetime, name: str = "host-1-abcd", **columns: object) -> Worker:
    """A worker process as the table knows it."""
    columns = {"host": "host", "pid": 1, "version": "0", "queues": "bulk"} | columns
    worker = Worker(name=name, seen_at=seen_at, **columns)
    session.add(worker)
    session.flush()
    return worker
