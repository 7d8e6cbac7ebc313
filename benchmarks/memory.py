"""Memory and connections over a long campaign: ``make bench-memory`` (a quarter of an hour for a million).

Sends a campaign through ``disparo up`` against the sandbox without latency, at a rate that never limits, and
looks at each worker process after every tenth of it: resident memory, threads, open files, and the connections
to PostgreSQL and Redis of all processes together.
"""

import argparse
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

from quick import Bench


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=16, help="of each of the two processes")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="disparo-bench-"))
    folder.chmod(0o755)
    try:
        with Bench(folder, options.threads) as bench:
            # Pays for imports and connections, so that the first line shows a worker at work.
            bench.product(2_000)
            watcher = threading.Thread(target=watch, args=(bench, options.rows), daemon=True)
            watcher.start()
            rate = bench.product(options.rows, patience_seconds=3600)
            watcher.join()
            print(f"{options.rows:,} messages at {rate:,.0f}/s")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def watch(bench: Bench, rows: int) -> None:
    """A line for each tenth of the campaign, and the growth from the second to the last."""
    print(" messages   workers' resident memory   threads   open files   PostgreSQL   Redis", flush=True)
    resident = []
    for tenth in range(1, 11):
        while bench.get("/stats")["accepted"] < rows * tenth // 10:
            time.sleep(0.5)
        workers = [pid for pid, command in bench.children() if "-Q bulk" in command]
        resident.append([megabytes(pid) for pid in workers])
        threads = [len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in workers]
        files = [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in workers]
        postgresql, redis = bench.server_connections()
        print(
            f"{rows * tenth // 10:>9,}   {' + '.join(f'{one:.0f} MB' for one in resident[-1]):>24}"
            f"   {'+'.join(map(str, threads)):>7}   {'+'.join(map(str, files)):>10}   {postgresql:>10}   {redis:>5}",
            flush=True,
        )
    grown = sum(resident[-1]) - sum(resident[1])
    print(f"from the second tenth to the last: {grown:+.1f} MB over both workers")


def megabytes(pid: int) -> float:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


if __name__ == "__main__":
    sys.exit(main())
