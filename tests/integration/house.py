"""The parts around a sender in this process: the tables, the sandbox, and what the scheduler does."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from redis import Redis
from sqlalchemy import select

from disparo import counters, db, releases, stops
from disparo.connections import Connections
from disparo.models import App, Campaign, Message, Stop
from disparo.sandbox import Sandbox
from tests.factories.app import make_app
from tests.factories.campaign import make_campaign, recount
from worker.sender import Sender

PATIENCE_SECONDS = 60.0


def until(condition: Callable[[], Any], what: str, *, seconds: float = PATIENCE_SECONDS) -> Any:
    """What ``condition`` gives as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"it did not come to this in time: {what}"
        time.sleep(0.02)
    return found


@dataclass
class House:
    """The parts around a sender: the tables, the sandbox, and a thread that releases as the scheduler does."""

    connections: Connections
    sandbox: Sandbox
    redis: Redis
    senders: list[Sender] = field(default_factory=list)
    paused: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    turns: releases.Turns = field(default_factory=releases.Turns)

    def app(self, name: str = "loja", *, rate: float = 100.0) -> App:
        with self.connections.session() as session:
            app = make_app(session, name, rate=rate, base_url=self.sandbox.url)
        # The wait after an emptied Redis is another test's.
        self.redis.set(f"disparo:app:{app.id}:free", "0")
        return app

    def campaign(self, app: App, recipients: int, **columns: Any) -> Campaign:
        with self.connections.session() as session:
            return make_campaign(session, app, recipients, **columns)

    def sender(self, **options: Any) -> Sender:
        made = Sender(self.connections, **options)
        self.senders.append(made)
        return made

    def releasing(self) -> None:
        while not self.ended.wait(0.1):
            sender = self.senders[-1] if self.senders else None
            if sender is None or sender.closing.is_set() or self.paused.is_set():
                continue
            with self.connections.session() as session:
                now = db.now(session)
                jobs = stops.as_jobs(stops.release_probes(session, now)) + releases.release(
                    session, now, self.turns
                )
            for job in jobs:
                if job.batch_id is not None:
                    sender.take_batch(job.batch_id)
                else:
                    sender.take_messages(job.app_id, list(job.message_ids))

    def counts(self, campaign: Campaign) -> dict[str, int]:
        """What the counters say, which is what the rows say."""
        with self.connections.session() as session:
            session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            found = counters.counts(session, [campaign.id])[campaign.id]
            assert found == recount(session, campaign)
        return {status: n for status, n in found.items() if n}

    def until_counts(self, campaign: Campaign, **expected: int) -> None:
        until(lambda: self.counts(campaign) == expected, f"{expected}, now {self.counts(campaign)}")

    def rows(self) -> list[Message]:
        with self.connections.session() as session:
            return list(session.scalars(select(Message).order_by(Message.id)))

    def stops(self) -> list[Stop]:
        with self.connections.session() as session:
            return list(session.scalars(select(Stop).where(Stop.ended_at.is_(None))))

    def resume(self, app: App, *, probe: bool = False) -> None:
        """As ``disparo app resume`` and the tick after it."""
        with self.connections.session() as session:
            done = stops.resume(session, session.get_one(App, app.id), db.now(session), probe=probe)
        if not done.probes:
            self.connections.limiter.resume(app.id)
        self.connections.limiter.announce()

    def arrivals(self) -> list[dict[str, Any]]:
        return self.sandbox.messages()
