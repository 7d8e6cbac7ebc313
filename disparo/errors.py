"""Every error that Disparo raises on purpose.

DisparoError                  a sentence for people; the command line prints it and exits 1
├── SettingsError             a setting is missing or wrong; names the variable
│   └── TokenRefused          the provider gives no token for these credentials, or not for this app
├── InputError                a file or an argument is wrong; names the file, the line or the option
│   └── PayloadError          a message breaks a rule of WhatsApp; carries each fault with its JSON path
├── NotFoundError             a name or an id that does not exist; says what does
├── ConflictError             the same name or key with other content, or not possible in this state
└── ServiceError              a server that Disparo needs does not answer
    ├── DatabaseUnavailable
    ├── RedisUnavailable
    ├── TokenUnavailable      the provider gives no token just now; what needs one waits
    └── EmbeddedServerError   an embedded server cannot be started, or its data folder cannot be used
"""

from dataclasses import dataclass


class DisparoError(Exception):
    """A refusal that its reader can act on.

    The text says what happened, which file, row or setting is meant, and what to do next. It never
    holds a token or a full phone number.
    """


class SettingsError(DisparoError):
    """A setting is missing or wrong."""


class InputError(DisparoError):
    """A file, a row or an argument is wrong."""


class TokenRefused(SettingsError):
    """The provider gives no token for these credentials, or not for this app. Asking again does not help."""

    def __init__(self, sentence: str, http_status: int | None = None) -> None:
        super().__init__(sentence)
        self.http_status = http_status


@dataclass(frozen=True, slots=True)
class Fault:
    """One broken rule of a message.

    ``path`` is written like ``template.components[0].parameters[1].text``; ``value`` is cut for
    showing; ``limit`` and ``source`` say which rule and where it is documented.
    """

    path: str
    message: str
    value: str | None = None
    limit: str | None = None
    source: str | None = None

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message

    @property
    def in_full(self) -> str:
        """The sentence with value, limit and source, for who writes a message in Python."""
        told = {"given": self.value, "limit": self.limit, "source": self.source}
        return f"{self} ({'; '.join(f'{name}: {text}' for name, text in told.items() if text)})"


class PayloadError(InputError):
    """A message breaks the provider's rules; ``faults`` holds each of them."""

    def __init__(self, faults: list[Fault], sentence: str | None = None) -> None:
        super().__init__(sentence or "; ".join(str(fault) for fault in faults))
        self.faults = faults


class NotFoundError(DisparoError):
    """What was named does not exist."""


class ConflictError(DisparoError):
    """What was asked contradicts what is stored, or its state forbids it."""


class ServiceError(DisparoError):
    """A server that Disparo needs does not answer."""


class DatabaseUnavailable(ServiceError):
    """PostgreSQL does not answer."""


class RedisUnavailable(ServiceError):
    """Redis does not answer. Callers must not send."""


class TokenUnavailable(ServiceError):
    """The provider gives no token just now; ``retry_seconds`` is how long it wants to be left alone."""

    def __init__(self, sentence: str, retry_seconds: float = 0.0) -> None:
        super().__init__(sentence)
        self.retry_seconds = retry_seconds


class EmbeddedServerError(ServiceError):
    """An embedded server cannot be started, or its data folder cannot be used."""
