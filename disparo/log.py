"""Records of events with ids, written to stderr; phones are masked and tokens never written."""

import logging
import re
import sys
from typing import Any

import structlog

#: Digits of a phone, an id of a person or a code: keep the ends, hide the middle.
_LONG_DIGITS = re.compile(r"(?<![\w.-])(\+?\d{4})\d{3,8}(\d{4})(?![\w-]|\.\w)")
_TOKEN = re.compile(r"\b(sk_[0-9A-Za-z]{4,}|Bearer\s+\S+|eyJ[\w-]{5,}(?:\.[\w-]*)*)")
_URL_PASSWORD = re.compile(r"(\w+://[^:/@\s]*:)[^@/\s]+@")


def redact(text: str) -> str:
    """``text`` with tokens, passwords in addresses and the middle of phone numbers taken out."""
    text = _URL_PASSWORD.sub(r"\1***@", text)
    return _LONG_DIGITS.sub(r"\1****\2", _TOKEN.sub("[token]", text))


def _redacted(_logger: Any, _name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {key: _redacted_value(value) for key, value in event.items()}


def _redacted_value(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    # As the line will show them, since a phone may stand anywhere inside.
    return redact(repr(value)) if isinstance(value, dict | list | tuple | set | Exception) else value


def configure(level: str = "info") -> None:
    """Write structured records, and those of the libraries, to stderr from ``level`` on."""
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _redacted,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _redacted,
                structlog.processors.LogfmtRenderer(
                    key_order=["timestamp", "level", "event"], drop_missing=True
                ),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    # Celery and its transport tell of every step at info; what an operator needs is told by our own events.
    for chatty in ("celery", "kombu", "amqp", "urllib3", "alembic", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(max(number, logging.WARNING))


def get(name: str) -> structlog.stdlib.BoundLogger:
    """A logger of events: ``log.get(__name__).info("batch_done", batch_id=7)``."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(name)
    return logger
