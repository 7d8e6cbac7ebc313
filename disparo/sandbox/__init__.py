"""A local stand-in for Gupshup's ``POST /partner/app/{APP_ID}/v3/message``, for tests, demo and benchmarks.

It is written from the provider's pages and shares no code with the sender, so that it catches the
sender's mistakes. One request goes ``protocol`` (bytes) → ``endpoint`` (who may send, how fast) →
``envelope`` and the shapes beneath it → ``faults`` → ``ledger`` (what was accepted) → ``protocol``.
"""

from disparo.sandbox.options import Options, from_arguments
from disparo.sandbox.server import Sandbox, serve

__all__ = ["Options", "Sandbox", "from_arguments", "serve"]
