"""Texts that are changed once they are filled, found by their place in a message; pure.

PIX codes lose what copying adds, as ``payloads.wire`` has it. Parameters of a template's header and body become one
line where a campaign says ``normalise: true``: WhatsApp refuses those with a line break, a tab or more than four blanks in a row.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from disparo.whatsapp import br_code, payloads
from disparo.whatsapp.payloads.base import kind_of

_PARAMETER = re.compile(
    r"template\.components\[\d+\](?:\.cards\[\d+\]\.components\[\d+\])?\.parameters\[\d+\]\.text"
)
_BREAKS = re.compile(r" *[\r\n\t][ \r\n\t]*| {5,}")


def one_line(text: str) -> str:
    """The text with one blank for each run of blanks that holds a line break or a tab, or is longer than four."""
    return _BREAKS.sub(" ", text)


def may_normalise(path: str, component: Any) -> bool:
    """Whether the text at a JSON path of a message is a text parameter of a template's header or body.

    Those of buttons are addresses and one-time codes, which are others with a blank in them.

    Args:
      component: The object of the template that has the parameter.
    """
    return _PARAMETER.fullmatch(path) is not None and kind_of(component) in ("header", "body")


def finish(
    path: str, holders: Sequence[Mapping[str, Any]], *, normalise: bool
) -> Callable[[str], str] | None:
    """What is done to the text at a JSON path of a message; None: nothing.

    Args:
      holders: The objects that it is in, the message first.
    """
    # A component holds the parameter, which holds the text.
    if normalise and len(holders) > 1 and may_normalise(path, holders[-2]):
        return one_line
    if payloads.is_pix_code(path):
        return br_code.clean
    return None
