"""Two transactions on the same rows, the second of which comes while the first is not committed."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

WAITS_FOR_A_LOCK = text("""
    SELECT EXISTS (
        SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')""")


def meet(
    engine: Engine, session: Session, first: Callable[[Session], Any], second: Callable[[Session], Any]
) -> tuple[Any, Any]:
    """What both come to, when ``second`` meets the rows that ``first`` has changed and not committed yet."""
    session.commit()

    def late() -> Any:
        with Session(engine) as other, other.begin():
            return second(other)

    with ThreadPoolExecutor(1) as threads, Session(engine) as holder, holder.begin():
        came_first = first(holder)
        waits: Future[Any] = threads.submit(late)
        until = time.monotonic() + 30
        while not session.scalar(WAITS_FOR_A_LOCK):
            assert not waits.done()
            assert time.monotonic() < until
            # What is seen of other connections is kept for the whole transaction.
            session.rollback()
            time.sleep(0.005)
        holder.commit()
        came_second = waits.result(30)
    session.expire_all()
    return came_first, came_second
