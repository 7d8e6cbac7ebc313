"""The sandbox's own pages: health, counts, messages, options. None of them exists at the provider."""

import logging
import re
from collections.abc import Callable, Iterator
from urllib.parse import parse_qs

import orjson

from disparo.errors import InputError
from disparo.sandbox import answers
from disparo.sandbox.answers import Answer
from disparo.sandbox.endpoint import Endpoint
from disparo.sandbox.ledger import KEPT

_log = logging.getLogger(__name__)

_LIMIT = re.compile(r"[0-9]{1,9}")

#: An answer, or the pages of one that is too long to be made at once.
Reply = Answer | Iterator[bytes]


def _health(endpoint: Endpoint, query: str, body: bytes) -> Reply:  # noqa: ARG001 - one signature for all
    return _shown({"status": "ok"})


def _stats(endpoint: Endpoint, query: str, body: bytes) -> Reply:  # noqa: ARG001
    return _shown(endpoint.stats())


def _accepted(endpoint: Endpoint, query: str, body: bytes) -> Reply:  # noqa: ARG001
    return endpoint.ledger.log.pages()


def _reset(endpoint: Endpoint, query: str, body: bytes) -> Reply:  # noqa: ARG001
    endpoint.reset()
    return _shown({"status": "ok"})


def _options(endpoint: Endpoint, query: str, body: bytes) -> Reply:  # noqa: ARG001
    return _shown(endpoint.options.shown())


def _messages(endpoint: Endpoint, query: str, body: bytes) -> Reply:  # noqa: ARG001
    wanted = {name: values[-1] for name, values in parse_qs(query).items()}
    limit = wanted.get("limit", "100")
    if _LIMIT.fullmatch(limit) is None:
        return answers.problem(400, f"limit must be 0 to {KEPT}, the arrivals that are kept.", "limit")
    return _shown(endpoint.ledger.messages(wanted.get("to"), int(limit)))


def _control(endpoint: Endpoint, query: str, body: bytes) -> Reply:  # noqa: ARG001
    try:
        changes = orjson.loads(body)
    except orjson.JSONDecodeError:
        changes = None
    if type(changes) is not dict:
        return answers.problem(400, "Write the options to change as a JSON object.", "json")
    try:
        shown = endpoint.control(changes)
    except InputError as error:
        return answers.problem(400, str(error), "option")
    _log.info("options changed: %s", ", ".join(sorted(changes)))
    return _shown(shown)


def _shown(value: object) -> Answer:
    return Answer(200, orjson.dumps(value))


_PAGES: dict[str, dict[str, Callable[[Endpoint, str, bytes], Reply]]] = {
    "/health": {"GET": _health},
    "/stats": {"GET": _stats},
    "/messages": {"GET": _messages},
    "/accepted": {"GET": _accepted},
    "/control": {"GET": _options, "POST": _control},
    "/reset": {"POST": _reset},
}


def handle(endpoint: Endpoint, method: str, path: str, query: str, body: bytes) -> Reply:
    """The answer to a request for one of the sandbox's own pages, 404 for any other path."""
    page = _PAGES.get(path)
    if page is None:
        return answers.NOT_FOUND
    action = page.get("GET" if method == "HEAD" else method)
    if action is None:
        return not_allowed(", ".join(page))
    return action(endpoint, query, body)


def not_allowed(methods: str) -> Answer:
    return answers.problem(405, "Method Not Allowed", "method", b"Allow: %b\r\n" % methods.encode())
