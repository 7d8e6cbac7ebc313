"""What requests itself can do: ready bytes through ``adapter.send``, a session and connection per thread.

``bare.py URL TOKEN THREADS FIRST COUNT``; nothing is checked but the status, nothing is kept.
"""

import json
import sys
import threading

import requests

_MESSAGE = {"messaging_product": "whatsapp", "recipient_type": "individual", "type": "text"}


def main() -> None:
    base, token, threads, first, count = sys.argv[1:]
    url = f"{base}/partner/app/app-1/v3/message"
    # Made beforehand: the loop does nothing but send.
    bodies = [
        json.dumps(
            _MESSAGE | {"to": f"55{11_900_000_000 + n}", "text": {"body": f"Ana, o pedido {n} foi enviado"}}
        ).encode()
        for n in range(int(first), int(first) + int(count))
    ]
    share = [bodies[number :: int(threads)] for number in range(int(threads))]
    running = [threading.Thread(target=send, args=(url, token, mine)) for mine in share]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def send(url: str, token: str, bodies: list[bytes]) -> None:
    with requests.Session() as session:
        session.trust_env = False
        headers = {"Authorization": token, "Content-Type": "application/json"}
        adapter = session.get_adapter(url)
        prepared = session.prepare_request(requests.Request("POST", url, headers=headers))
        for body in bodies:
            prepared.body = body
            prepared.headers["Content-Length"] = str(len(body))
            answer = adapter.send(prepared, stream=False, timeout=30)
            assert answer.status_code == 200, answer.text


if __name__ == "__main__":
    main()
