"""The sandbox that placeholders run in: Jinja's, with the filters that are offered and bounds on what they may do.

Work is counted in characters that filters, methods and operators read, never in time, so that the same template is
refused on every machine.
"""

import functools
import math
import re
import threading
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, ValuesView
from decimal import Decimal
from typing import Any

from jinja2 import StrictUndefined, Undefined, nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from disparo import filters
from disparo.errors import InputError
from disparo.filters import cents
from disparo.money import Numbers

LONGEST_TEXT = 200_000  #: characters of one filled value; WhatsApp's longest text has 4,096
LONGEST_SOURCE = 32_768  #: characters of one value that holds placeholders
MOST_PLACEHOLDERS = 2_000  #: values with placeholders in one content
LONGEST_LOOP = 1_000  #: rounds of a loop, numbers of a range
LARGEST_LOOP = 200  #: parts (names, filters, operators, texts) of a loop's body
MOST_SOURCE = 262_144  #: characters of all of these in one content
#: Characters that the filters of one value may read in all; about a second with the slowest, in a loop.
MOST_WORK = 4_000_000

_STATEMENTS = (nodes.Output, nodes.If, nodes.For)
_OWN_FILTERS: dict[str, Callable[..., Any]] = {
    "default": filters.default,
    "d": filters.default,
    "brl": filters.brl,
    "date": filters.date,
    "digits": filters.digits,
    "first_name": filters.first_name,
    "float": filters.number,
    "int": filters.whole,
    "round": filters.rounded,
    "title": filters.title,
    "truncate": filters.truncate,
}
#: Of Jinja's own; those of texts take an empty cell for an empty text, not for the word None.
_TEXT_FILTERS = ("capitalize", "lower", "replace", "string", "trim", "upper")
_OTHER_FILTERS = ("abs", "first", "join", "last", "length", "reverse")
#: These look at each item of a list in Python, ten times as slow as those above.
_SLOW_FILTERS = ("max", "min", "sort", "sum", "unique")
#: Filters that placeholders may use.
FILTERS = frozenset({*_OWN_FILTERS, "cents", *_TEXT_FILTERS, *_OTHER_FILTERS, *_SLOW_FILTERS})
# What loops and ``~`` become; words that nobody takes for filters.
_LOOP, _CONCAT = "for", "in"

_METHODS: dict[type, frozenset[str]] = {
    str: frozenset({"capitalize", "endswith", "lower", "split", "startswith", "strip", "title", "upper"}),
    dict: frozenset({"get", "items", "keys", "values"}),
}


def check_statements(parsed: nodes.Template, path: str) -> None:
    """Return when a parsed value uses nothing but what is offered.

    Raises:
      InputError: It does; begins with ``path``.
    """
    if any(
        isinstance(one.value, float) and not math.isfinite(one.value) for one in parsed.find_all(nodes.Const)
    ):
        raise InputError(f"{path}: a number is too large.")
    for statement in parsed.find_all(nodes.Stmt):
        if not isinstance(statement, _STATEMENTS):
            raise InputError(
                f"{path}: the statement {type(statement).__name__.lower()} is not offered in placeholders; "
                "there are {{ … }}, {% if %} and {% for %}."
            )
        if isinstance(statement, nodes.For):
            within = [*statement.body, *statement.else_, *([statement.test] if statement.test else [])]
            if statement.recursive or any(_has_loop(node) for node in within):
                raise InputError(f"{path}: a {{% for %}} within another is not offered in placeholders.")
            if sum(1 + sum(1 for _ in node.find_all(nodes.Node)) for node in within) > LARGEST_LOOP:
                raise InputError(f"{path}: the body of a {{% for %}} has at most {LARGEST_LOOP} parts.")


def _has_loop(node: nodes.Node) -> bool:
    return isinstance(node, nodes.For) or node.find(nodes.For) is not None


def written(value: Any) -> str:
    """A value as a part of a text. An empty cell must not become the word None in a text to a customer.

    Raises:
      InputError: It is a list or an object of more than `LONGEST_TEXT` characters.
    """
    if value.__class__ is str:
        text: str = value
        return text
    if _size(value) > LONGEST_TEXT:
        raise InputError(f"the filled text is longer than {LONGEST_TEXT:,} characters.")
    return "" if value is None else str(value)


def joined(pieces: Iterable[str]) -> str:
    """The pieces as one text.

    Raises:
      InputError: It is longer than `LONGEST_TEXT`; told as soon as it is.
    """
    parts: list[str] = []
    left = LONGEST_TEXT
    for piece in pieces:
        parts.append(piece)
        left -= len(piece)
        if left < 0:
            raise InputError(f"the filled text is longer than {LONGEST_TEXT:,} characters.")
    return "".join(parts)


class _Work(threading.local):
    """Characters that filters may still read for the value that this thread fills."""

    left = MOST_WORK


_work = _Work()


def begin_work() -> None:
    """Let the filters of the value that this thread fills next read as much as a value may."""
    _work.left = MOST_WORK


def _spend(characters: int) -> None:
    _work.left -= characters
    if _work.left < 0:
        raise InputError("the placeholders of one value have too much to do.")


_CONTAINERS = (list, tuple, dict, KeysView, ValuesView, ItemsView)


def _size(value: Any) -> int:
    """Characters and parts of a value, with all that is in it; counted no further than it matters."""
    if isinstance(value, str):
        return len(value)
    if not isinstance(value, _CONTAINERS):
        return 1
    size, waiting = 0, [value]
    while waiting and size <= MOST_WORK:
        container = waiting.pop()
        size += len(container)
        parts = container.items() if isinstance(container, dict) else container
        for part in parts:
            if isinstance(part, str):
                size += len(part)
            elif isinstance(part, _CONTAINERS):
                waiting.append(part)
    return size


class _Bounds(NodeTransformer):
    """Sends what could grow without bound through filters that look at it."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - the visitor's name for it
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), _CONCAT)

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.iter = _filter(node.iter, _LOOP)
        return node


def _filter(node: Any, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def with_bounds(parsed: nodes.Template) -> nodes.Template:
    """The parsed value, its loops and ``~`` bounded."""
    bounded: nodes.Template = _Bounds().visit(parsed)
    bounded.set_environment(parsed.environment)  # type: ignore[arg-type]
    return bounded


def _loop(values: Any) -> list[Any]:
    if isinstance(values, Undefined):
        str(values)  # raises: the column is missing
    if isinstance(values, str):
        raise InputError("a {% for %} goes through a list, and this is a text.")
    rounds = []
    for value in values:
        rounds.append(value)
        if len(rounds) > LONGEST_LOOP:
            raise InputError(f"a {{% for %}} has at most {LONGEST_LOOP:,} rounds.")
    return rounds


def _concat(values: list[Any]) -> str:
    _spend(_size(values))
    return joined(written(value) for value in values)


def _range(*limits: int) -> range:
    numbers = range(*limits)
    if len(numbers) > LONGEST_LOOP:
        raise InputError(f"a range has at most {LONGEST_LOOP:,} numbers.")
    return numbers


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, less what can be made to grow without bound."""

    intercepted_binops = frozenset({"**", "*", "%", "+"})

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str | bytes | int | float | Decimal | list | tuple | dict):
            return attr in _METHODS.get(type(obj), ())
        return super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "+":
            _spend(_size(left) + _size(right))
        elif (
            operator == "**" or isinstance(left, str | list | tuple) or isinstance(right, str | list | tuple)
        ):
            raise SecurityError(f"the operator {operator} works on small numbers only")
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        _spend(_size(getattr(obj, "__self__", None)) + _size(args))
        return super().call(context, obj, *args, **kwargs)


@functools.cache
def environment_for(numbers: Numbers | None) -> _Sandbox:
    """Jinja with what is offered, for one way of writing amounts; made once."""
    environment = _Sandbox(
        undefined=StrictUndefined,
        autoescape=False,
        keep_trailing_newline=True,
        # Folding constants would run filters while compiling, and writes nan as a name that does not exist.
        optimized=False,
        finalize=written,
        # No comments: in a message, {# is text. Nobody writes NUL.
        comment_start_string="{\0#",
        comment_end_string="#\0}",
    )
    environment.globals.clear()
    environment.globals["range"] = _range
    of_jinja = {name: environment.filters[name] for name in (*_TEXT_FILTERS, *_OTHER_FILTERS, *_SLOW_FILTERS)}

    def amount(value: Any, style: Numbers | None = None) -> int:
        return cents(value, style or numbers)

    environment.filters.clear()
    for name, function in {**of_jinja, **_OWN_FILTERS, "cents": amount}.items():
        environment.filters[name] = _bounded(
            function, of_text=name in _TEXT_FILTERS, weight=10 if name in _SLOW_FILTERS else 1
        )
    environment.filters |= {_LOOP: _loop, _CONCAT: _concat}
    return environment


class FilterError(InputError):
    """A filter refuses a value; ``shown`` is what may be told of that."""

    def __init__(self, sentence: str, value: Any) -> None:
        super().__init__(sentence)
        self.shown = _shown(value)


def _shown(value: Any) -> str:
    """The beginning of a value: twelve characters, and no more digits than a date has, since it may be a phone."""
    if value is None or value == "":
        return "blank"
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    text = str(value)
    beginning = re.match(r"(?:[^0-9]*[0-9]){0,8}[^0-9]*", text[:12])
    kept = beginning[0] if beginning else ""
    if re.search(r"[0-9]{9}", text[:12]):
        kept = text[:3]
    return repr(kept if kept == text else f"{kept}…")


_TOO_LONG = f"a filter makes a text longer than {LONGEST_TEXT:,} characters."


def _bounded(function: Callable[..., Any], *, of_text: bool, weight: int) -> Callable[..., Any]:
    """The filter as it is offered: refusing to make a text that a chain of such filters could double for ever."""
    marked = hasattr(function, "jinja_pass_arg")

    @functools.wraps(function)  # keeps Jinja's mark of what the filter wants as its first argument
    def bounded(*args: Any, **options: Any) -> Any:
        if of_text:
            args = tuple(["" if arg is None else arg for arg in args])
        # replace and join can multiply one length by another, so these are looked at first.
        sizes = [_size(arg) or 1 for arg in (*args, *options.values())]
        _spend(sum(sizes) * weight)
        if math.prod(sizes) > 100 * LONGEST_TEXT:
            raise InputError(_TOO_LONG)
        try:
            value = function(*args, **options)
        except InputError as error:
            raise FilterError(str(error), args[1 if marked else 0]) from error
        if isinstance(value, str) and len(value) > LONGEST_TEXT:
            raise InputError(_TOO_LONG)
        return list(value) if isinstance(value, Iterator) else value

    return bounded
