"""Real processes find a limit that they were not told, and follow it when it falls."""

from disparo import apps, tuning
from disparo.sandbox import Options
from tests.acceptance.conftest import installed


def near(installation, limit):
    """Whether the rate is found, and within 10 % of the limit."""
    with installation.connections() as connections, connections.session() as session:
        app = apps.get(session, "loja")
        found = tuning.describe(app)["state"] == "found"
        return found and 0.9 * limit <= tuning.effective_rate(app) <= 1.1 * limit


def test_an_unknown_limit_is_found_and_followed_with_few_refusals():
    with installed(Options(rate=40, latency_ms="20-60"), rate=200) as made:
        made.run("app", "set", "loja", "--tuning", "on")
        made.start("--workers", "2")
        made.run("campaign", "launch", *made.campaign("ritmo", 1_200), "--yes")
        made.until(lambda: near(made, 40), "40/s to be found")
        refused = made.sandbox.stats()["refused"]["total"]
        assert refused < 40
        made.sandbox.control(rate=15)
        made.until(lambda: near(made, 15), "15/s to be found")
        assert made.sandbox.stats()["refused"]["total"] - refused < 80
        shown = made.json("app", "show", "loja")
        assert (shown["rate"], shown["tuning"]["state"]) == (200, "found")
        assert shown["effective_rate"] == made.status("ritmo")["effective_rate"] < 20
        # Off: the configured rate is in force again. A throttle is no failure, so all of them arrive, each once.
        made.sandbox.control(rate=0)
        off = made.json("app", "set", "loja", "--tuning", "off")
        assert (off["effective_rate"], off["tuning"]) == (200, {"state": "off"})
        assert made.settled("ritmo") == {"accepted": 1_200}
        assert made.sandbox.stats()["repeated"] == 0
        made.stop()
