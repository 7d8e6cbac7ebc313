"""``python -m worker.health [QUEUE]``: exit 0 when a worker of this host lives, else 1 and a sentence.

A health check for containers. It asks the table in which each worker says, twice a second, that it lives,
so a worker that has lost PostgreSQL is not healthy: it cannot send.
"""

import sys

from sqlalchemy import text

from disparo.campaigns import WORKER_SILENT_SECONDS
from disparo.connections import Connections, connect
from disparo.errors import DisparoError, ServiceError


def check(connections: Connections, host: str, queue: str | None = None) -> None:
    """Return when a worker on ``host`` was seen lately, one that takes from ``queue`` if that is given.

    Raises:
      ServiceError: None was seen, or PostgreSQL does not answer.
    """
    with connections.session() as session:
        seconds = session.execute(
            text("""
                SELECT extract(epoch FROM now() - max(seen_at)) FROM workers
                WHERE host = :host
                    AND (CAST(:queue AS text) IS NULL OR :queue = ANY (string_to_array(queues, ',')))"""),
            {"host": host, "queue": queue},
        ).scalar_one()
    which = f"no worker of queue {queue} on {host}" if queue else f"no worker on {host}"
    if seconds is None:
        raise ServiceError(f"{which} is known")
    if seconds > WORKER_SILENT_SECONDS:
        raise ServiceError(f"{which} was seen for {seconds:.0f} seconds")


def main(arguments: list[str]) -> int:
    """The exit code."""
    import socket

    if len(arguments) > 1:
        sys.stderr.write("usage: python -m worker.health [QUEUE]\n")
        return 2
    try:
        with connect(name="disparo-health", pool_size=2) as connections:
            check(connections, socket.gethostname(), arguments[0] if arguments else None)
    except DisparoError as err:
        sys.stderr.write(f"unhealthy: {err}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
