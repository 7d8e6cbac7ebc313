"""Texts that are changed once they are filled, found by their place in a message; pure.

PIX codes lose what copying adds, as ``payloads.wire`` has it. Template parameters become one line where a campaign
says ``normalise: true``: WhatsApp refuses those with a line break, a tab or more than four blanks in a row.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from disparo.whatsapp import br_code, payloads

_PARAMETER = re.compile(
    r"template\.components\[\d+\](?:\.cards\[\d+\]\.components\[\d+\])?\.parameters\[\d+\]\.text"
)
_BREAKS = re.compile(r" *[\r\n\t][ \r\n\t]*| {5,}")


def one_line(text: str) -> str:
    """The text with one blank for each run of blanks that holds a line break or a tab, or is longer than four."""
    return _BREAKS.sub(" ", text)


def is_parameter(path: str) -> bool:
    """Whether the text at a JSON path of a message is a text parameter of a template."""
    return _PARAMETER.fullmatch(path) is not None


def finish(
    path: str,
    holder: Mapping[str, Any],  # noqa: ARG001 - a ``rendering.Finish``
    *,
    normalise: bool,
) -> Callable[[str], str] | None:
    """What is done to the text at a JSON path of a message, ``holder`` being its object; None: nothing."""
    if normalise and is_parameter(path):
        return one_line
    if payloads.is_pix_code(path):
        return br_code.clean
    return None
