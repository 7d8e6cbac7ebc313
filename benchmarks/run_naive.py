"""Run the naive sender once: ``run_naive.py URL TOKEN PROCESSES COUNT``.

Workers are started and ready before the first message is enqueued, so that imports are not what is measured.
"""

import subprocess
import sys
import time

from benchmarks.naive import app, create_table, send, sent


def main() -> None:
    base, token, processes, count = sys.argv[1:]
    url = f"{base}/partner/app/app-1/v3/message"
    create_table()
    app.control.purge()
    command = [sys.executable, "-m", "celery", "--quiet", "-A", "benchmarks.naive", "worker", "-c", processes]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([*command, "-l", "WARNING"], **quiet) as worker:
        while not app.control.ping(timeout=0.5):
            assert worker.poll() is None, "the naive worker ended before it was ready"
        with app.producer_or_acquire() as producer:
            for n in range(int(count)):
                send.apply_async((url, token, f"55{11_900_000_000 + n}", "Ana", str(n)), producer=producer)
        while sent() < int(count):
            assert worker.poll() is None, "the naive worker ended before it was done"
            time.sleep(0.2)
        worker.terminate()


if __name__ == "__main__":
    main()
