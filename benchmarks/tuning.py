"""How soon self-tuning finds a limit that it was not told: ``make bench-tuning`` (four minutes).

A campaign through ``disparo up`` against the sandbox, which refuses what is more than its limit in any second. The limit
changes after each line; the rate is found when it stays within 10 % of the limit for ten seconds. Exit 1 when it is
not found within a minute, or when less than 90 % of a limit is used once it is found.
"""

import argparse
import os
import sys
import time
from dataclasses import dataclass
from typing import Any

from disparo import apps, tuning
from disparo.sandbox import Options
from tests.acceptance.conftest import Installation, installed

STAYS_SECONDS = 10.0


@dataclass
class Found:
    """What came of one limit."""

    limit: int
    #: None: not within the time.
    seconds: float | None
    refused: int
    #: Accepted per second once it was found, and refused in that time.
    mean: float
    refused_later: int


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--limits", type=int, nargs="+", default=[80, 20, 150, 10])
    parser.add_argument("--rate", type=int, default=300, help="the configured rate")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--latency-ms", default="50-150")
    parser.add_argument("--watch", type=float, default=20.0, help="seconds to look on after it is found")
    options = parser.parse_args()
    print(
        f"{os.cpu_count()} processors, Python {sys.version.split()[0]}; {options.workers} workers, "
        f"configured {options.rate}/s, latency {options.latency_ms} ms"
    )
    print(
        "limit   found after   refused until then   accepted afterwards   of the limit   refused in that time"
    )
    sandbox = Options(rate=options.limits[0], latency_ms=options.latency_ms)
    kept = True
    with installed(sandbox, rate=options.rate) as made:
        made.run("app", "set", "loja", "--tuning", "on")
        made.start("--workers", str(options.workers))
        rows = sum(options.limits) * 120
        made.run("campaign", "launch", *made.campaign("tuning", rows), "--yes")
        made.until(lambda: made.sandbox.stats()["arrivals"], "the campaign to begin")
        for limit in options.limits:
            made.sandbox.control(rate=limit)
            found = look(made, limit, options.watch)
            share = found.mean / limit
            after = "not" if found.seconds is None else f"{found.seconds:.0f} s"
            print(
                f"{limit:>3}/s   {after:>11}   {found.refused:>18}   {found.mean:>17.1f}/s   {share:>12.0%}"
                f"   {found.refused_later:>20}",
                flush=True,
            )
            kept = kept and found.seconds is not None and found.seconds <= 60 and share >= 0.9
        made.stop()
    return 0 if kept else 1


def look(made: Installation, limit: int, watch_seconds: float) -> Found:
    """Look on until the rate is found, and then a little longer."""
    before, begun = made.sandbox.stats(), time.monotonic()
    near_since: float | None = None
    with made.connections() as connections:
        while (now := time.monotonic()) - begun < 150:
            with connections.session() as session:
                rate = tuning.effective_rate(apps.get(session, "loja"))
            if not 0.9 * limit <= rate <= 1.1 * limit:
                near_since = None
            elif near_since is None:
                near_since = now
            elif now - near_since > STAYS_SECONDS:
                break
            time.sleep(0.1)
        else:
            near_since = None
    found = made.sandbox.stats()
    time.sleep(watch_seconds)
    later = made.sandbox.stats()
    return Found(
        limit,
        None if near_since is None else near_since - begun,
        _refused(found) - _refused(before),
        (later["accepted"] - found["accepted"]) / watch_seconds,
        _refused(later) - _refused(found),
    )


def _refused(stats: dict[str, Any]) -> int:
    return int(stats["refused"]["total"])


if __name__ == "__main__":
    sys.exit(main())
