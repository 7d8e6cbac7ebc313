"""What all messages in Python share: they are checked when they are made, and give the provider's JSON."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, TypeAlias

from disparo.errors import Fault, PayloadError
from disparo.whatsapp import payloads
from disparo.whatsapp.payloads.base import JSONObject, Model
from disparo.whatsapp.payloads.check import check_part

Words: TypeAlias = Mapping[str, str]
"""Ids and what is read beside them: ``{"sim": "Sim, quero"}``."""


class Message(ABC):
    """A message that breaks no rule of WhatsApp: making one that does raises `PayloadError`.

    ``messages.compose`` and everything that takes a message as JSON take one of these too.
    """

    @abstractmethod
    def message(self) -> JSONObject:
        """The message as in the provider's pages, without envelope; add what surrounds it with ``|``:
        ``Text("Oi").message() | {"context": {"message_id": "wamid.…"}}``.
        """

    def __post_init__(self) -> None:
        refuse(payloads.check(self.message()), type(self).__name__)


class Part(ABC):
    """A piece of a message, checked by itself when it is made."""

    #: Which object of the provider's JSON it is, and where that is documented.
    _model: ClassVar[type[Model]]
    _source: ClassVar[str] = "Meta, WhatsApp Business Platform, Payments in Brazil, Orders"

    @abstractmethod
    def part(self) -> JSONObject:
        """The object as in the provider's pages."""

    def __post_init__(self) -> None:
        faults = check_part(self._model, self.part(), self._source)
        refuse(faults or list(self._useless()), type(self).__name__)

    def _useless(self) -> Iterable[Fault]:
        """What WhatsApp would take and nobody could use; asked for when all else is right."""
        return ()


def refuse(faults: list[Fault], name: str) -> None:
    """Return when there are none.

    Raises:
      PayloadError: Says all of them in one sentence each: path, value, limit and source.
    """
    if faults:
        told = "; ".join(fault.in_full for fault in faults)
        raise PayloadError(faults, f"{name}: {told}")


def given(**values: Any) -> JSONObject:
    """An object of the values that are there."""
    return {name: value for name, value in values.items() if value is not None}
