"""What the sandbox answers on one core: ``.venv/bin/python benchmarks/sandbox.py``.

A sandbox process is asked over some kept connections, each with several requests under way; every message
is another one, so that its checks and books do their full work. The figure is the sandbox's own processor
time per request (user and system), from which the requests per second of one core follow: so it does not
depend on how fast this client is.
"""

import json
import os
import selectors
import socket
import subprocess
import sys
import time
from urllib.parse import urlsplit

STATUS = b"HTTP/1.1 200"
CONNECTIONS, WINDOW, REQUESTS, ROUNDS = 16, 8, 40_000, 3


def main() -> int:
    command = [sys.executable, "-m", "disparo.sandbox", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as sandbox:
        assert sandbox.stdout is not None
        address = urlsplit(sandbox.stdout.readline().split()[1])
        rates = []
        for number in range(ROUNDS):
            before, begun = processor_seconds(sandbox.pid), time.perf_counter()
            ask(str(address.hostname), int(address.port or 0), first=number * REQUESTS)
            seconds, busy = time.perf_counter() - begun, processor_seconds(sandbox.pid) - before
            rates.append(REQUESTS / busy)
            print(
                f"round {number + 1}: {busy / REQUESTS * 1e6:.0f} us of processor per request, "
                f"{rates[-1]:,.0f} requests/s of one core ({REQUESTS / seconds:,.0f}/s seen by this client)"
            )
        sandbox.terminate()
    print(f"median {sorted(rates)[ROUNDS // 2]:,.0f} requests/s of one core")
    return 0


def request(number: int) -> bytes:
    text = f"Pedido {number}: " + "x" * 800
    message = {"messaging_product": "whatsapp", "recipient_type": "individual"}
    message |= {"to": f"55119{number:08d}", "type": "text", "text": {"body": text}}
    body = json.dumps(message).encode()
    head = (
        "POST /partner/app/bench/v3/message HTTP/1.1\r\nHost: sandbox\r\nAuthorization: sk_bench\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def ask(host: str, port: int, first: int) -> None:
    """Send ``REQUESTS`` distinct messages and wait for every answer."""
    numbers = iter(range(first, first + REQUESTS))
    selector = selectors.DefaultSelector()
    answered, tails = 0, {}
    for _ in range(CONNECTIONS):
        connection = socket.create_connection((host, port))
        connection.sendall(b"".join(request(next(numbers)) for _ in range(WINDOW)))
        tails[connection] = b""
        selector.register(connection, selectors.EVENT_READ)
    while answered < REQUESTS:
        for key, _ in selector.select(timeout=10):
            connection = key.fileobj
            assert isinstance(connection, socket.socket)
            received = tails[connection] + connection.recv(262_144)
            n = received.count(STATUS)
            # A status line may come in two pieces.
            tails[connection] = received[-len(STATUS) + 1 :]
            answered += n
            more = b"".join(request(number) for _, number in zip(range(n), numbers, strict=False))
            if more:
                connection.sendall(more)
    for key in list(selector.get_map().values()):
        assert isinstance(key.fileobj, socket.socket)
        key.fileobj.close()


def processor_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:  # noqa: PTH123 - a file of the kernel
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
