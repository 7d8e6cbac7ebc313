"""WhatsApp messages in the provider's JSON: envelope, rules and names of every documented type; pure.

One model per object of the provider's documentation. `check` reports what breaks a rule, `warnings` what is odd
but may be sent: limits that the pages contradict each other on, codes that no bank will take. A message is never
changed by either. A type or key that no page has is refused, since a slip of the pen looks just like it; because
the provider adds keys before its documentation is read again, ``raw: true`` in the file lets everything pass.

Sources, as known on 2026-11-21: Gupshup's partner documentation (Text Message, Interactive Messages, PIX
Session Message, PIX Template Message, MPM Template; V3 passthrough) and Meta's WhatsApp Business Platform
documentation in its texts of 2025-11 to 2026-06 (Messages, Interactive, Templates, Payments in Brazil).
Lengths are Unicode code points; Meta does not name its unit.

Rooms: ``content`` (text, files, places, contacts), ``interactive``, ``orders`` (payments), ``templates``,
``envelope``, ``names``, and ``check``, which walks them.
"""

from disparo.whatsapp.payloads.base import JSONObject
from disparo.whatsapp.payloads.check import TYPES, check, check_envelope, warnings
from disparo.whatsapp.payloads.envelope import ENVELOPE, is_pix_code, is_raw, split, wire
from disparo.whatsapp.payloads.names import kind, template_name

__all__ = [
    "ENVELOPE",
    "TYPES",
    "JSONObject",
    "check",
    "check_envelope",
    "is_pix_code",
    "is_raw",
    "kind",
    "split",
    "template_name",
    "warnings",
    "wire",
]
