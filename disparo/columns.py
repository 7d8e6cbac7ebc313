"""The columns of a recipient list: headers as plain names, and which of them our names stand for."""

import itertools
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from disparo.errors import InputError

#: Headers by which the recipient's number is known when nothing maps to ``to``, as plain names.
USUAL_NAMES = frozenset({
    "cel", "cell", "cellphone", "celular", "fone", "mobile", "mobile_number", "mobile_phone",
    "n_celular", "n_telefone", "numero", "numero_celular", "numero_de_celular", "numero_de_telefone",
    "numero_de_whatsapp", "numero_do_celular", "numero_do_telefone", "numero_do_whatsapp",
    "numero_telefone", "numero_whatsapp", "phone", "phone_number", "tel", "telefone",
    "telefone_celular", "telefone_com_ddd", "telefone_whatsapp", "wa", "whats", "whatsapp",
    "whatsapp_number", "wpp",
})  # fmt: skip

# What a template cannot use as a name of its own.
_TEMPLATE_WORDS = frozenset({
    "and", "elif", "else", "false", "for", "if", "in", "is", "none", "not", "or", "recursive", "true",
})  # fmt: skip


def plain_name(header: str) -> str:
    """Give the header as a name that templates can use: ``Valor (R$)`` becomes ``valor_r``.

    Lower case, without accents, words joined by one underscore. Empty when nothing is left.
    """
    folded = unicodedata.normalize("NFKD", header.casefold())
    bare = "".join(char for char in folded if not unicodedata.combining(char))
    name = re.sub(r"[^a-z0-9]+", "_", bare).strip("_")
    if name[:1].isdigit():
        return f"col_{name}"
    return f"{name}_" if name in _TEMPLATE_WORDS else name


def plain_header(original: Sequence[str]) -> list[str]:
    names: list[str] = []
    taken: set[str] = set()
    for position, text in enumerate(original, 1):
        names.append(_unused(plain_name(text) or f"column_{position}", taken))
        taken.add(names[-1])
    return names


def _unused(name: str, taken: set[str]) -> str:
    if name not in taken:
        return name
    return next(found for n in itertools.count(2) if (found := f"{name}_{n}") not in taken)


def name_cells(
    path: Path,
    original: Sequence[str],
    header: Sequence[str],
    columns: Mapping[str, str],
    *,
    recipients: bool = True,
) -> list[tuple[str, int]]:
    """Give (name, position) of each value of a row, in the order of the columns.

    Args:
      recipients: One column has to hold the recipient.
    """
    named: dict[str, int] = {}
    for name, wanted in columns.items():
        if not name.isidentifier():
            raise InputError(
                f"'{shown(name)}' under 'columns' is no name. Use letters, digits and underscores."
            )
        named[name] = _position(path, original, header, name, wanted)
    if recipients and "to" not in named:
        named["to"] = _recipient_column(path, original, header, set(named.values()))
    cells = list(named.items())
    taken, mapped = set(named), set(named.values())
    for position, plain in enumerate(header):
        if position not in mapped:
            # The mapping has the first right to a name; a column that is called so too gets a number.
            free = _unused(plain, taken)
            taken.add(free)
            cells.append((free, position))
    return sorted(cells, key=lambda cell: cell[1])


def _position(path: Path, original: Sequence[str], header: Sequence[str], name: str, wanted: str) -> int:
    exact = [position for position, text in enumerate(original) if text == wanted.strip()]
    if len(exact) == 1:
        return exact[0]
    # The second of two columns 'Nome' can be named by its plain name, nome_2.
    if not exact and wanted.strip() in header:
        return header.index(wanted.strip())
    folded = plain_name(wanted)
    alike = exact or [
        position for position, text in enumerate(original) if folded and plain_name(text) == folded
    ]
    if len(alike) == 1:
        return alike[0]
    if alike:
        choices = " or ".join(header[position] for position in alike)
        raise InputError(
            f"{path}: {len(alike)} columns are called '{shown(wanted)}'. "
            f"Write {choices} for '{name}' under 'columns'."
        )
    _check_not_data(path, original)
    raise InputError(
        f"{path} has no column '{shown(wanted)}', which 'columns' names for '{name}'. "
        f"Its columns are: {_listed(original)}."
    )


def _recipient_column(path: Path, original: Sequence[str], header: Sequence[str], mapped: set[int]) -> int:
    if "to" in header and header.index("to") not in mapped:
        return header.index("to")
    usual = [n for n, text in enumerate(original) if n not in mapped and plain_name(text) in USUAL_NAMES]
    if len(usual) == 1:
        return usual[0]
    if usual:
        raise InputError(
            f"{path} has {len(usual)} columns that may hold the recipient: "
            f"{_listed([original[n] for n in usual])}. "
            f"Say which one in the campaign file: columns: {{to: {shown(original[usual[0]])}}}."
        )
    _check_not_data(path, original)
    raise InputError(
        f"{path} has no column that is known to hold the recipient's number. "
        f"Its columns are: {_listed(original)}. "
        f"Say which one in the campaign file: columns: {{to: {shown(original[0])}}}."
    )


def _check_not_data(path: Path, original: Sequence[str]) -> None:
    # Without a header the first line is somebody's row: none of it may be shown.
    if any(sum(map(str.isdigit, text)) >= 8 for text in original):
        raise InputError(
            f"The first line of {path} holds data, not the names of the columns. "
            "Put a line such as 'to;first_name' before it."
        )


def shown(text: str) -> str:
    plain = "".join(char if char.isprintable() else "?" for char in text)
    return plain if len(plain) <= 40 else f"{plain[:39]}…"


def _listed(names: Sequence[str]) -> str:
    text = ", ".join(shown(name) or "(empty)" for name in names[:30])
    return text if len(names) <= 30 else f"{text} and {len(names) - 30} more"
