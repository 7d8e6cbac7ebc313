"""Two transactions that meet: the second comes upon what the first changed and has not committed; processes that race."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from redis import Redis
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from disparo.errors import DisparoError

WAITS_FOR_A_LOCK = text("""
    SELECT EXISTS (
        SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')""")


def meet(
    engine: Engine, first: Callable[[Session], Any], second: Callable[[Session], Any]
) -> tuple[Any, Any]:
    """What both come to; ``second`` has to wait for ``first``'s commit. A refusal of the second is its result."""

    def late() -> Any:
        try:
            with Session(engine, expire_on_commit=False) as other, other.begin():
                return second(other)
        except DisparoError as err:
            return err

    with (
        ThreadPoolExecutor(1) as threads,
        Session(engine, expire_on_commit=False) as holder,
        engine.connect().execution_options(isolation_level="AUTOCOMMIT") as look,
    ):
        came_first = first(holder)
        holder.flush()
        waits: Future[Any] = threads.submit(late)
        until = time.monotonic() + 30
        while not look.execute(WAITS_FOR_A_LOCK).scalar_one():
            assert not waits.done(), "the second did not wait"
            assert time.monotonic() < until
            time.sleep(0.005)
        holder.commit()
        return came_first, waits.result(30)


def meet_in(
    engine: Engine, session: Session, first: Callable[[Session], Any], second: Callable[[Session], Any]
) -> tuple[Any, Any]:
    """As `meet`, on rows that ``session`` has made and looks at again afterwards."""
    session.commit()
    came = meet(engine, first, second)
    session.expire_all()
    return came


def start_racers(client: Redis, n: int) -> None:
    """Let processes begin at the same moment that count up ``ready`` in Redis and wait for ``go``."""
    deadline = time.monotonic() + 60
    while int(client.get("ready") or 0) < n:
        assert time.monotonic() < deadline, "the racers did not start"
        time.sleep(0.01)
    client.set("go", "1")
