"""How exactly a rate is kept: ``make bench-rate`` (tells at its start about how many minutes it takes).

For each rate and number of bulk workers, a campaign goes through ``disparo up`` against the sandbox, and three
figures are read:

- worst: the most arrivals in any sliding second of the sandbox's clock; at most the rate and the greater of 2
  and 2 %, for what the network and the machine add;
- mean: the share of the rate that was used while work waited, from the first arrival to that of the last but
  two seconds' worth; at least 97 %;
- grants: the most permits in any sliding second of the Redis clock, from the workers' log; at most the rate.

Of several runs the one with the lowest worst second is taken for worst and mean; the grants of all runs count.
``--apps 100`` shows instead that many apps, each at its own rate, side by side.
"""

import argparse
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from quick import TOKEN, free_port

#: Seconds of a run: long enough for every part to be asked often.
SECONDS = 20
#: What comes on top of a run, and of starting everything.
AROUND_RUN_SECONDS, START_SECONDS = 4, 12
#: The scheduler keeps so much in the queue: what is sent of the last of it is not limited by the rate alone.
AHEAD_SECONDS = 2.0
LEAST_SHARE = 0.97

#: A worker's record of permits that it got, or gave back: the first instant in microseconds of the Redis clock, and
#: how long after it each one is.
_PERMITS = re.compile(r"\bevent=(permits|permits_given_back)\b")
_FIRST = re.compile(r"\bfirst=([0-9]+)\b")
_AFTER = re.compile(r"\bafter=\"?\[([0-9, ]+)\]")

#: Commands one after another in one process, read as JSON: a process for each would take longer than the runs.
_COMMANDS = """
import json, sys
from disparo.cli import main
for arguments in json.load(sys.stdin):
    sys.argv[1:] = arguments
    try:
        main()
    except SystemExit as end:
        if end.code:
            sys.exit(f"disparo {' '.join(arguments)}: exit {end.code}")
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rates", type=numbers, default=[10, 80, 1000], help="such as 10,80,1000")
    parser.add_argument(
        "--workers", type=numbers, help="bulk worker processes, such as 1,4,8 (2 with --apps)"
    )
    parser.add_argument("--runs", type=int, default=3, help="of each, the best counts")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="of each run")
    parser.add_argument("--threads", type=int, default=32, help="of each worker")
    parser.add_argument("--latency-ms", default="5-15", help="of the sandbox's answers")
    parser.add_argument("--apps", type=int, help="so many apps side by side, at 10/s each or --rates")
    options = parser.parse_args()
    if options.apps:
        rate = options.rates[0] if len(options.rates) == 1 else 10
        return show_apps(options, rate)
    return show_rates(options)


def numbers(text: str) -> list[int]:
    return [int(one) for one in text.split(",")]


@dataclass
class Run:
    """The figures of one campaign."""

    worst: int
    #: Share of the rate.
    mean: float
    #: Most permits in a second; None: not in the log.
    granted: int | None


@dataclass
class Arrivals:
    """What of an app arrived at the sandbox."""

    #: Most in any sliding second, by its monotonic clock.
    worst: int
    #: Seconds since 1970, in order.
    instants: list[float] = field(default_factory=list)


@dataclass
class Figures:
    """What the runs of one rate and number of workers gave."""

    rate: int
    runs: list[Run] = field(default_factory=list)

    def best(self) -> Run:
        return min(
            self.runs, key=lambda run: (run.worst > most(self.rate), run.mean < LEAST_SHARE, run.worst)
        )

    def granted(self) -> int | None:
        known = [run.granted for run in self.runs if run.granted is not None]
        return max(known) if known else None

    def is_kept(self) -> bool:
        best, granted = self.best(), self.granted()
        return (
            best.worst <= most(self.rate)
            and best.mean >= LEAST_SHARE
            and granted is not None
            and granted <= self.rate
        )


def most(rate: int) -> int:
    """Arrivals in one second at most."""
    return rate + max(2, math.floor(rate * 0.02))


def show_rates(options: argparse.Namespace) -> int:
    fleets = options.workers or [1, 4, 8]
    runs = len(fleets) * len(options.rates) * options.runs
    seconds = runs * (options.seconds + AROUND_RUN_SECONDS) + len(fleets) * START_SECONDS
    print(f"{machine()}; {options.threads} threads per worker, answers after {options.latency_ms} ms")
    print(f"{runs} runs of {options.seconds} s: about {math.ceil(seconds / 60)} minutes", flush=True)
    print(" rate   workers   worst (at most)   mean (at least 97 %)   grants (at most the rate)   all runs")
    kept = True
    for workers in fleets:
        with House(options, workers) as house:
            house.apps(["bench"], 100_000)
            house.campaign(["bench"], 1_000, 100_000)
            for rate in options.rates:
                figures = Figures(rate, [house.one(rate) for _ in range(options.runs)])
                kept &= figures.is_kept()
                best, granted = figures.best(), figures.granted()
                print(
                    f"{rate:>5} {workers:>9} {best.worst:>7} {f'({most(rate)})':>9} {best.mean:>14.1%}"
                    f" {'not in the log' if granted is None else granted:>25}"
                    f"   {'' if figures.is_kept() else 'MISSED   '}"
                    f"{', '.join(f'{run.worst} at {run.mean:.1%}' for run in figures.runs)}",
                    flush=True,
                )
    return 0 if kept else 1


def show_apps(options: argparse.Namespace, rate: int) -> int:
    workers = (options.workers or [2])[0]
    rows = rate * options.seconds
    print(f"{machine()}; {options.threads} threads per worker, answers after {options.latency_ms} ms")
    seconds = options.runs * (options.seconds + options.apps * 0.2) + options.apps * 0.1 + START_SECONDS
    print(
        f"{options.apps} apps at {rate}/s on {workers} workers, {options.runs} runs of {options.seconds} s: "
        f"about {math.ceil(seconds / 60)} minutes",
        flush=True,
    )
    print(" run   lowest mean   median mean   apps below 97 %   highest worst second (at most)")
    missed = []
    with House(options, workers) as house:
        names = [f"bench-{n:03}" for n in range(1, options.apps + 1)]
        house.apps(names, rate)
        for number in range(1, options.runs + 1):
            found = house.campaign(names, rows, rate)
            means = sorted(share(one.instants, rate) for one in found.values())
            worst = max(one.worst for one in found.values())
            missed.append(sum(mean < LEAST_SHARE for mean in means) + (worst > most(rate)))
            print(
                f"{number:>4} {means[0]:>13.1%} {means[len(means) // 2]:>13.1%}"
                f" {sum(mean < LEAST_SHARE for mean in means):>17} {worst:>14} ({most(rate)})",
                flush=True,
            )
    return 1 if min(missed) else 0


class House:
    """A sandbox, and `disparo up` on servers of its own, with so many bulk workers."""

    def __init__(self, options: argparse.Namespace, workers: int) -> None:
        self._options, self._workers = options, workers
        self._folder = Path(tempfile.mkdtemp(prefix="disparo-bench-"))
        # Directly below the temporary folder, where an unprivileged PostgreSQL may enter.
        self._folder.chmod(0o755)
        self._launched = 0
        self._started: list[subprocess.Popen[str]] = []
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DISPARO_")}
        self._environ = (
            kept
            | {
                "DISPARO_HOME": str(self._folder / "home"),
                "DISPARO_THREADS": str(options.threads),
                # The permits are in the log at this level; to write those of many apps takes a part of the machine.
                "DISPARO_LOG_LEVEL": "info" if options.apps else "debug",
                "DISPARO_TOKEN_BENCH": TOKEN,
            }
            | {f"DISPARO_TOKEN_BENCH_{n:03}": TOKEN for n in range(1, (options.apps or 0) + 1)}
        )

    def __enter__(self) -> Self:
        sandbox = self._spawn(
            [
                sys.executable,
                "-m",
                "disparo.sandbox",
                "--port",
                "0",
                "--latency-ms",
                self._options.latency_ms,
            ],
            "sandbox.log",
        )
        # What measures must not be what is late.
        with suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, sandbox.pid, -10)
        assert sandbox.stdout is not None
        self._url = sandbox.stdout.readline().split()[1]
        up = self._spawn(
            [
                sys.executable,
                "-m",
                "disparo",
                "up",
                "--workers",
                str(self._workers),
                "--port",
                str(free_port()),
            ],
            "up.log",
        )
        assert up.stdout is not None
        assert up.stdout.readline() == "ready\n", self._log()[-3000:]
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._started):
            process.terminate()
        for process in reversed(self._started):
            process.wait(40)
            assert process.stdout is not None
            process.stdout.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def apps(self, names: list[str], rate: int) -> None:
        """Make apps of this rate, or give them this rate."""
        at = ["--base-url", self._url, "--rate", str(rate)]
        self._disparo(*(["app", "set", name, "--id", f"id-{name}", *at] for name in names))

    def one(self, rate: int) -> Run:
        """A campaign of one app at this rate."""
        self.apps(["bench"], rate)
        begin = (self._folder / "up.log").stat().st_size
        found = self.campaign(["bench"], rate * self._options.seconds, rate)["id-bench"]
        return Run(found.worst, share(found.instants, rate), self._granted(begin))

    def campaign(self, apps: list[str], rows: int, rate: int) -> dict[str, Arrivals]:
        """A campaign of so many rows for each app, all at once; what arrived, by the provider's app id."""
        self._launched += 1
        # Stored while the apps are paused, so that no import is measured.
        commands = [["app", "pause", "--all"]]
        lines = [f"{11_900_000_000 + n},Ana,{n}" for n in range(rows)]
        (self._folder / "rows.csv").write_text("\n".join(["to,name,number", *lines]) + "\n")
        for name in apps:
            content = {
                "name": f"{name}-{self._launched}",
                "app": name,
                "lane": "marketing",
                "dedupe": "none",
                "message": {
                    "type": "text",
                    "text": {"body": "{{ name }}, o pedido {{ number }} foi enviado"},
                },
            }
            (self._folder / f"{name}.yaml").write_text(json.dumps(content))
            commands.append(["campaign", "launch", f"{name}.yaml", "rows.csv", "--yes"])
        self._disparo(*commands)
        self._ask("/reset", method="POST")
        self._disparo(["app", "resume", "--all"])
        total, until = rows * len(apps), time.monotonic() + 60 + 3 * rows / rate
        while (stats := json.loads(self._ask("/stats")))["accepted"] < total:
            if time.monotonic() > until:
                sys.exit(f"nothing moves any more:\n{self._log()[-3000:]}")
            time.sleep(0.5)
        assert stats["arrivals"] == stats["distinct"] == total, stats
        found = {app: Arrivals(one["worst_second"]) for app, one in stats["by_app"].items()}
        for line in self._ask("/accepted").splitlines():
            arrival = json.loads(line)
            found[arrival["app"]].instants.append(arrival["at"])
        return found

    def _granted(self, begin: int) -> int | None:
        """The most permits of one second in the log from there on."""
        with (self._folder / "up.log").open() as log:
            log.seek(begin)
            granted: Counter[int] = Counter()
            for line in log:
                count_instants(line, granted)
        return most_in_a_second(sorted(granted.elements())) if granted else None

    def _log(self) -> str:
        return (self._folder / "up.log").read_text()

    def _ask(self, path: str, method: str = "GET") -> bytes:
        request = urllib.request.Request(self._url + path, method=method)  # noqa: S310 - our own sandbox
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return bytes(answer.read())

    def _disparo(self, *commands: list[str]) -> None:
        done = subprocess.run(
            [sys.executable, "-c", _COMMANDS],
            input=json.dumps(commands),
            env=self._environ | {"DISPARO_LOG_LEVEL": "warning"},
            cwd=self._folder,
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            sys.exit(done.stderr[-2000:])

    def _spawn(self, command: list[str], log: str) -> subprocess.Popen[str]:
        with (self._folder / log).open("a") as file:
            process = subprocess.Popen(
                command, env=self._environ, cwd=self._folder, stdout=subprocess.PIPE, stderr=file, text=True
            )
        self._started.append(process)
        return process


def share(instants: list[float], rate: int) -> float:
    """The part of a rate that was used from the first instant on, while more waited than is kept in the queue."""
    counted = len(instants) - round(rate * AHEAD_SECONDS)
    return (counted - 1) / (instants[counted - 1] - instants[0]) / rate


def count_instants(line: str, granted: Counter[int]) -> None:
    """Count the instants (microseconds) that a line of the workers' log says were granted or given back."""
    record = _PERMITS.search(line)
    if record is None:
        return
    first, after = _FIRST.search(line), _AFTER.search(line)
    if first is None or after is None:
        sys.exit(f"this record of permits says no instants, so nobody can tell what was granted: {line}")
    sign = 1 if record[1] == "permits" else -1
    for one in after[1].split(","):
        granted[int(first[1]) + int(one)] += sign


def most_in_a_second(instants: list[int]) -> int:
    """The most of sorted instants (microseconds) in any second; two exactly a second apart are never in one."""
    worst = begin = 0
    for end, instant in enumerate(instants):
        while instants[begin] <= instant - 1_000_000:
            begin += 1
        worst = max(worst, end - begin + 1)
    return worst


def machine() -> str:
    return f"{os.cpu_count()} processors, Python {sys.version.split()[0]}"


if __name__ == "__main__":
    sys.exit(main())
