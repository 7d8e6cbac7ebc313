"""What the provider's small endpoints answer: JSON objects, or something that is none."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from disparo.gupshup.answers import Answer
from disparo.log import redact

_WORDS_CHARS = 200


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, read."""

    #: None when no whole answer came.
    http_status: int | None
    #: The JSON object of the body; empty when it is none.
    document: dict[str, Any] = field(repr=False)
    #: What went wrong, in the provider's words or ours; secrets and phones are taken out.
    words: str

    @property
    def is_good(self) -> bool:
        """A 2xx whose object is not called an error."""
        return (
            self.http_status is not None
            and 200 <= self.http_status <= 299
            and bool(self.document)
            and self.document.get("status") != "error"
        )

    @property
    def is_for_now(self) -> bool:
        """Whether it tells nothing but that later may be better."""
        status = self.http_status
        return (
            status is None
            or status in (408, 425, 429)
            or status >= 500
            or (status < 300 and not self.document)
        )


def read(answer: Answer, secrets: Iterable[str] = ()) -> Reply:
    """Read ``answer``; ``secrets`` are what was sent and must not come back in its words."""
    if answer.http_status is None or answer.failure is not None:
        return Reply(None, {}, answer.detail or "no answer")
    try:
        document = json.loads(answer.body)
    except (ValueError, RecursionError):
        document = None
    if 300 <= answer.http_status <= 399:
        return Reply(answer.http_status, {}, f"a redirect, which is not followed (HTTP {answer.http_status})")
    if not isinstance(document, dict):
        return Reply(answer.http_status, {}, f"HTTP {answer.http_status} without a JSON object")
    message = document.get("message")
    words = message if isinstance(message, str) else ""
    for secret in secrets:
        words = words.replace(secret, "***") if secret else words
    words = " ".join(redact(words).split()).rstrip(" .")[:_WORDS_CHARS]
    return Reply(answer.http_status, document, f"{words} (HTTP {answer.http_status})".strip())
