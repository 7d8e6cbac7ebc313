"""A payment in the middle of a blast of two campaigns, with real processes: counted at the sandbox."""

from collections import Counter

from disparo import apps, db, messages, phone
from disparo.sandbox import Options
from disparo.statuses import Lane
from tests.acceptance.conftest import installed

RATE = 40
TEXT = '{"type": "text", "text": {"body": "PIX"}}'


def test_a_payment_passes_a_blast_whose_campaigns_share_the_rate_by_weight():
    with installed(Options(latency_ms="20-60"), rate=RATE) as made:
        made.start("--workers", "2")
        # Both at once, so that neither has begun alone.
        made.run("app", "pause", "loja")
        made.run("campaign", "launch", *made.campaign("um", 1_000), "--yes")
        made.run("campaign", "launch", *made.campaign("tres", 1_000, first=5_000, weight=3), "--yes")
        made.run("app", "resume", "loja")
        made.until(lambda: made.sandbox.stats()["arrivals"] >= 200, "the blast to be under way")

        payer = "5511987654321"
        # What a process does for the first time takes longer.
        made.run(
            "send", "--app", "loja", "--to", "5511976543210", "--lane", "payment", "--wait", "-", stdin=TEXT
        )
        with made.connections() as connections:
            with connections.session() as session:
                app, to, now = apps.get(session, "loja"), phone.parse(payer), db.now(session)
                content = messages.compose({"type": "text", "text": {"body": "PIX"}}, to)
                paid, _ = messages.add(session, app, to, content, lane=Lane.PAYMENT, due_at=now, now=now)
                app_id, message_id = app.id, paid.id
            before = made.sandbox.stats()["arrivals"]
            connections.queue.send_messages(app_id, [message_id])
        made.until_message(message_id, "accepted")
        order = [arrival["to"] for arrival in made.sandbox.messages()]
        # About half a second's messages had permits when it came. In the queue were two seconds' of them.
        assert order.index(payer) - before <= 1.5 * RATE
        shares = Counter(
            "tres" if to >= "5511900005000" else "um" for to in order if to.startswith("55119000")
        )
        assert 2.3 <= shares["tres"] / shares["um"] <= 3.9

        # A changed rate needs no restart.
        made.run("app", "set", "loja", "--rate", "1000")
        assert made.settled("um") == made.settled("tres") == {"accepted": 1_000}
        assert made.sandbox.stats()["repeated"] == 0
        made.stop()
