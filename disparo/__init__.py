"""Send WhatsApp messages in bulk through Gupshup's Partner V3 API and account for every one.

The messages in Python are here by name, ``from disparo import Text, Template, PixCode``, and loaded when they are
asked for, so that importing the library stays quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from disparo.whatsapp.compositions import *  # noqa: F403  # what its __all__ names

__version__ = "0.1.0"

_COMPOSITIONS = "disparo.whatsapp.compositions"


def __getattr__(name: str) -> Any:
    # Names of modules come by here too when one is asked for before it is imported.
    if (name[:1].isupper() or name == "order_details") and name in (
        compositions := import_module(_COMPOSITIONS)
    ).__all__:
        found = globals()[name] = getattr(compositions, name)
        return found
    raise AttributeError(f"module 'disparo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *import_module(_COMPOSITIONS).__all__})
