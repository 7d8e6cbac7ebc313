"""A worker whose home has a ``codes.yaml``: it sends by it, and does not start when it is wrong."""

import time
from datetime import timedelta

import pytest
from sqlalchemy import text

from disparo.connections import Connections
from disparo.errors import SettingsError
from disparo.sandbox import Options, Sandbox
from tests.factories.app import make_app
from tests.factories.message import make_message
from worker.process import Process


def test_a_changed_verdict_decides_what_becomes_of_a_message(connections: Connections) -> None:
    (connections.settings.home / "codes.yaml").write_text(
        "131049: {verdict: retry, attempts: 2, base_seconds: 86400}\n131026: {verdict: message_permanent}\n"
    )
    faults = {"0001": "meta:131049", "0002": "meta:131026"}
    with Sandbox(Options(suffix_faults=faults)) as sandbox:
        with connections.session() as session:
            app = make_app(session, rate=100, base_url=sandbox.url)
            for number in (1, 2):
                make_message(session, app, f"551198765000{number}")
        process = Process(connections)
        process.start("bulk")
        try:
            process.sender.take_messages(app.id, [1, 2])
            deadline = time.monotonic() + 60
            seen: list[tuple[str, int, str | None]] = []
            while not all(attempts for _, attempts, _ in seen) or not seen:
                assert time.monotonic() < deadline, seen
                time.sleep(0.05)
                with connections.session() as session:
                    rows = session.execute(
                        text("SELECT status, attempts, code, due_at - now() FROM messages ORDER BY id")
                    )
                    seen, waits = [], []
                    for status, attempts, code, wait in rows:
                        seen.append((status, attempts, code))
                        waits.append(wait)
        finally:
            process.drain()
    assert seen == [("pending", 1, "131049"), ("failed", 1, "131026")]
    assert waits[0] > timedelta(hours=23)


def test_a_worker_does_not_start_with_a_table_that_could_send_twice(connections: Connections) -> None:
    (connections.settings.home / "codes.yaml").write_text("no_answer: {verdict: retry}\n")
    with pytest.raises(SettingsError, match="code no_answer, verdict: it stays unknown"):
        Process(connections).start("bulk")
