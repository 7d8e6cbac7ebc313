"""``python -m disparo.sandbox``: one line ``ready http://HOST:PORT`` on stdout, everything else on stderr."""

import argparse
import logging
import sys

from disparo.errors import InputError
from disparo.sandbox.options import from_arguments
from disparo.sandbox.server import serve


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m disparo.sandbox",
        description="A local stand-in for POST /partner/app/{APP_ID}/v3/message. Its pages: /health, /stats, "
        "/messages, /accepted, /control, /reset.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default %(default)s)")
    parser.add_argument("--port", type=int, default=8900, help="0 takes a free one (default %(default)s)")
    parser.add_argument("--latency-ms", default="0", metavar="MIN[-MAX]", help="time until an answer leaves")
    parser.add_argument("--rate", default="0", metavar="N", help="requests per second and app; 0 is no limit")
    parser.add_argument(
        "--pair",
        default="0",
        metavar="SECONDS[:BURST]",
        help="between two messages to one recipient; 0 is no limit",
    )
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="SUFFIX=FAULT",
        help="for recipients that end so; * is all",
    )
    parser.add_argument(
        "--random", action="append", default=[], metavar="FAULT=PROBABILITY", help="for a share of the rest"
    )
    parser.add_argument(
        "--app",
        action="append",
        default=[],
        metavar="ID=TOKEN",
        help="without any, all apps and tokens are right",
    )
    parser.add_argument(
        "--partner",
        action="append",
        default=[],
        metavar="EMAIL=SECRET",
        help="an account that may fetch tokens; without any, every login succeeds",
    )
    parser.add_argument("--seed", metavar="N", help="makes the random faults repeatable")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT; 0 then, 1 when it cannot listen, 2 when an option is wrong."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if not 0 <= given.port <= 65535:
        parser.error(f"Option --port: {given.port} is not a port, 0 to 65535.")
    try:
        options = from_arguments(
            apps=given.app,
            latency_ms=given.latency_ms,
            rate=given.rate,
            pair=given.pair,
            fault=given.fault,
            random=given.random,
            seed=given.seed,
            partners=given.partner,
        )
    except InputError as error:
        parser.error(str(error))
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    try:
        serve(options, given.host, given.port, _ready)
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _ready(url: str) -> None:
    sys.stdout.write(f"ready {url}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
