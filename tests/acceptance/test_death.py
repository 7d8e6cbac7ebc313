"""Processes are killed in the middle of a campaign; then the sandbox and the tables are counted.

Lost: a message without an outcome, or accepted in the tables and never seen by the sandbox. Doubled: one
that the sandbox accepted twice. A killed worker leaves at most its requests in flight unknown.
"""

import os
import signal

import redis

THREADS = 32


def account(installation, name, rows, *, kills):
    """Count a settled campaign at both ends."""
    found = installation.settled(name)
    stats = installation.sandbox.stats()
    assert sum(found.values()) == rows
    assert set(found) <= {"accepted", "unknown"}
    assert stats["repeated"] == 0, "a message was accepted twice"
    # What the provider has is accepted or, where nobody heard its answer, unknown.
    assert found.get("accepted", 0) <= stats["distinct"] <= rows
    assert found.get("unknown", 0) <= kills * THREADS
    return found


def launch(installation, name, rows):
    """A campaign that takes some seconds, in its first half."""
    installation.sandbox.control(latency_ms="50-150")
    installation.run("app", "set", "loja", "--rate", "300")
    installation.run("campaign", "launch", *installation.campaign(name, rows), "--yes")
    reached(installation, rows // 5)


def reached(installation, n):
    installation.until(lambda: installation.sandbox.stats()["accepted"] >= n, f"{n} accepted")


def test_killed_workers_lose_nothing_and_double_nothing(installation):
    rows = 1200
    installation.start("--workers", "2")
    launch(installation, "mortes", rows)
    for part in (2, 3, 4):
        # On a busy machine the killed are still being started again.
        pid = installation.until(installation.worker_pids, "a worker to live")[0]
        os.kill(pid, signal.SIGKILL)
        reached(installation, rows * part // 6)
    found = account(installation, "mortes", rows, kills=3)
    assert found["accepted"] >= rows - 3 * THREADS
    refuses_a_second_up(installation)
    if found.get("unknown"):
        assert installation.status("mortes")["limited_by"] == "decision"
        assert installation.run("campaign", "watch", "mortes", check=False).returncode == 3
    else:
        installation.until(
            lambda: installation.status("mortes")["state"] == "finished", "the campaign to finish"
        )


def test_an_installation_that_ends_in_every_way_goes_on_each_time(installation):
    """One campaign through an emptied Redis, a Ctrl-C, a killed parent and a kill of everything at once."""
    rows = 1500
    installation.start()
    launch(installation, "vidas", rows)

    with installation.connections() as connections:
        redis.Redis.from_url(connections.redis_url).flushall()
    reached(installation, rows * 2 // 6)

    assert installation.stop(signal.SIGINT) == 0
    assert installation.processes() == {}, "Ctrl-C leaves nothing behind, the servers included"
    # Drained: every request had its answer recorded, every other row went back.
    found = installation.statuses("vidas")
    assert set(found) == {"accepted", "pending"}
    assert found["accepted"] == installation.sandbox.stats()["accepted"]

    installation.start()
    reached(installation, rows * 3 // 6)
    installation.process.kill()
    installation.process.wait()
    installation.process.stdout.close()
    # Told by the kernel, the children drain and end; the last of them stops the servers.
    installation.until(lambda: installation.processes() == {}, "everything to end with its parent")
    assert set(installation.statuses("vidas")) == {"accepted", "pending"}

    installation.start()
    reached(installation, rows * 4 // 6)
    servers = {pid for pid, command in installation.processes().items() if is_server(command)}
    for pid in set(installation.processes()) - servers:
        os.kill(pid, signal.SIGKILL)
    installation.process.wait()
    installation.process.stdout.close()
    installation.until(lambda: not children(installation), "the killed to be gone")
    left = servers & set(installation.processes())
    assert left, "the servers are not their starter's to take along"
    installation.start()
    assert left & set(installation.processes()), "the servers were not adopted"
    account(installation, "vidas", rows, kills=2)
    assert installation.stop() == 0
    installation.until(lambda: installation.processes() == {}, "the last user to stop the servers")


def is_server(command):
    return "postgres" in command.split(" ")[0] or "valkey-server" in command


def children(installation):
    return [c for c in installation.processes().values() if " celery " in c or " uvicorn " in c]


def refuses_a_second_up(installation):
    """One `up` for each home, and for each port."""
    second = installation.run("up", check=False)
    assert second.returncode == 1
    assert "another `disparo up` runs" in second.stderr
    port = int(
        next(c for c in installation.processes().values() if " uvicorn " in c).split("--port ")[1].split()[0]
    )
    installation.extra["DISPARO_HOME"] = str(installation.folder / "second")
    taken = installation.run("up", "--port", str(port), check=False)
    del installation.extra["DISPARO_HOME"]
    assert taken.returncode == 1
    assert f"port {port}" in taken.stderr
    assert "ready" not in second.stdout + taken.stdout
