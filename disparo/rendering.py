"""Message content with placeholders, filled for one recipient at a time; pure.

Placeholders are Jinja2, sandboxed: expressions, ``if`` and one level of ``for``; no other statement. What a
recipient's data says is never evaluated. Bounds keep a template from eating time or memory, because
templates also arrive over REST.
"""

import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any, TypeAlias

from jinja2 import (
    StrictUndefined,
    Template,
    TemplateSyntaxError,
    Undefined,
    UndefinedError,
    filters,
    meta,
    nodes,
)
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from disparo import money
from disparo.errors import InputError

LONGEST_TEXT = 65_536  #: characters of one filled value; WhatsApp's longest text has 4,096
LONGEST_RANGE = 1_000

_STATEMENTS = (nodes.Output, nodes.If, nodes.For)
_JINJA_FILTERS = (
    *(
        "abs",
        "capitalize",
        "first",
        "float",
        "int",
        "join",
        "last",
        "length",
        "lower",
        "max",
        "min",
        "replace",
    ),
    *(
        "reverse",
        "round",
        "sort",
        "string",
        "sum",
        "title",
        "trim",
        "truncate",
        "unique",
        "upper",
        "wordcount",
    ),
)
_METHODS: dict[type, frozenset[str]] = {
    str: frozenset({"capitalize", "endswith", "lower", "split", "startswith", "strip", "title", "upper"}),
    dict: frozenset({"get", "items", "keys", "values"}),
}
_JSON_TYPES = (str, int, float, bool, type(None), list, dict)

_Fill: TypeAlias = Callable[[dict[str, Any]], Any]


class Content:
    """A message whose placeholders are compiled once and filled many times, by any number of threads.

    Attributes:
      columns: Names that the placeholders use.
      optional: Those of them that are used only where a missing one is provided for (``default``,
        ``is defined``).
    """

    def __init__(self, fill: _Fill, columns: frozenset[str], optional: frozenset[str]) -> None:
        self.columns = columns
        self.optional = optional
        self._fill = fill

    def render(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The message for one recipient.

        Parts without placeholders are shared between all messages rendered: change nothing in the result.

        Args:
          params: Column → value; values are text, numbers, true, false, None, lists and dicts.

        Raises:
          InputError: a column is missing or a value does not suit its filter. Names the JSON path of the
            value, the column, and the columns there are; never a value.
        """
        filled: dict[str, Any] = self._fill(dict(params))
        return filled


def compile_content(content: dict[str, Any]) -> Content:
    """Compile every value of ``content`` that holds a placeholder (``{{ … }}`` or ``{% … %}``).

    A value that is exactly one ``{{ expression }}`` becomes what the expression gives, so a number stays
    a number. Keys are never filled. ``content`` itself may be changed afterwards.

    Raises:
      InputError: a placeholder is not well formed or uses what is not offered; with its JSON path.
    """
    used: dict[str, bool] = {}
    static, fill = _compile(content, "", used)
    optional = frozenset(name for name, required in used.items() if not required)
    return Content(fill or (lambda _: static), frozenset(used), optional)


def _compile(value: Any, path: str, used: dict[str, bool]) -> tuple[Any, _Fill | None]:
    """A copy of ``value`` without its placeholders, and what fills them (None when there are none)."""
    if isinstance(value, str):
        if "{{" in value or "{%" in value:
            return None, _compile_text(value, path, used)
        return value, None
    if not isinstance(value, dict | list):
        return value, None
    steps = value.items() if isinstance(value, dict) else enumerate(value)
    copy: Any = dict.fromkeys(value) if isinstance(value, dict) else [None] * len(value)
    fills: list[tuple[Any, _Fill]] = []
    for step, item in steps:
        below = f"{path}[{step}]" if isinstance(step, int) else f"{path}.{step}".removeprefix(".")
        copy[step], fill = _compile(item, below, used)
        if fill:
            fills.append((step, fill))
    return copy, functools.partial(_fill_copy, copy, fills) if fills else None


def _fill_copy(original: Any, fills: list[tuple[Any, _Fill]], params: dict[str, Any]) -> Any:
    copy = original.copy()
    for step, fill in fills:
        copy[step] = fill(params)
    return copy


def _compile_text(source: str, path: str, used: dict[str, bool]) -> _Fill:
    environment = _environment()
    try:
        parsed = environment.parse(source)
        _check_statements(parsed, path)
        columns = meta.find_undeclared_variables(parsed)
        required = columns - _provided_for(parsed)
        expression = _sole_expression(parsed)
        if expression is not None:
            # Jinja renders to text only; assigned to a name, the value keeps its type.
            assign = nodes.Assign(nodes.Name("result", "store"), expression, lineno=1)
            parsed = nodes.Template([assign], lineno=1)
            parsed.set_environment(environment)
        template = environment.from_string(parsed)
    except TemplateSyntaxError as error:
        line = f" (line {error.lineno} of the value)" if "\n" in source else ""
        offered = (
            f" Filters: {', '.join(sorted(environment.filters))}."
            if "filter" in (error.message or "")
            else ""
        )
        raise InputError(f"{path}: {error.message}{line}{offered}") from error
    except (SyntaxError, RecursionError, ValueError, OverflowError, MemoryError) as error:
        raise InputError(f"{path}: the placeholders are too large or nested too deep.") from error
    for name in columns:
        used[name] = used.get(name, False) or name in required
    return _Text(path, columns, template, as_text=expression is None)


class _Text:
    """One value with placeholders."""

    __slots__ = ("_as_text", "_columns", "_path", "_template")

    def __init__(self, path: str, columns: set[str], template: Template, *, as_text: bool) -> None:
        self._path = path
        self._columns = columns
        self._template = template
        self._as_text = as_text

    def __call__(self, params: dict[str, Any]) -> Any:
        # What Template.render does, without its rewriting of tracebacks.
        context: Context = self._template.new_context(params)
        try:
            pieces = self._template.root_render_func(context)
            if self._as_text:
                value = _joined(pieces)
            else:
                for _ in pieces:
                    pass
                value = context.vars["result"]
                if isinstance(value, Undefined):
                    str(value)  # a strict one raises here, with its own sentence
        except InputError as error:
            raise InputError(f"{self._path}: {error}") from error
        except (UndefinedError, SecurityError) as error:
            raise self._refusal(params, error) from error
        except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError) as error:
            # The text of these errors may quote the recipient's data.
            raise InputError(
                f"{self._path}: the value of a column does not suit its placeholder "
                f"({type(error).__name__}); columns used: {_names(self._columns)}."
            ) from error
        if type(value) not in _JSON_TYPES or (isinstance(value, float) and not math.isfinite(value)):
            raise InputError(
                f"{self._path}: the placeholder gives a {type(value).__name__}, which JSON cannot hold; "
                "use a filter that makes text or a number of it."
            )
        return value

    def _refusal(self, params: Mapping[str, Any], error: Exception) -> InputError:
        missing = sorted(name for name in self._columns if name not in params)
        if isinstance(error, UndefinedError) and missing:
            return InputError(
                f"{self._path}: there is no column {missing[0]}; the columns are: {_names(params)}."
            )
        return InputError(f"{self._path}: {error}.")


def _joined(pieces: Iterator[str]) -> str:
    parts: list[str] = []
    left = LONGEST_TEXT
    for piece in pieces:
        parts.append(piece)
        left -= len(piece)
        if left < 0:
            raise InputError(f"the filled text is longer than {LONGEST_TEXT} characters.")
    return "".join(parts)


def _names(columns: Mapping[str, Any] | set[str]) -> str:
    names = sorted(map(str, columns))
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(names[:20]) + more or "none"


def _check_statements(parsed: nodes.Template, path: str) -> None:
    for statement in parsed.find_all(nodes.Stmt):
        if not isinstance(statement, _STATEMENTS):
            raise InputError(
                f"{path}: the statement {type(statement).__name__.lower()} is not offered in placeholders; "
                "there are {{ … }}, {% if %} and {% for %}."
            )
        if isinstance(statement, nodes.For):
            within = [*statement.body, *statement.else_]
            if statement.recursive or any(_has_loop(node) for node in within):
                raise InputError(f"{path}: a {{% for %}} within another is not offered in placeholders.")


def _has_loop(node: nodes.Node) -> bool:
    return isinstance(node, nodes.For) or node.find(nodes.For) is not None


def _sole_expression(parsed: nodes.Template) -> nodes.Expr | None:
    """The expression of a text that is exactly one ``{{ expression }}``."""
    if (
        len(parsed.body) == 1
        and isinstance(output := parsed.body[0], nodes.Output)
        and len(output.nodes) == 1
    ):
        expression = output.nodes[0]
        return None if isinstance(expression, nodes.TemplateData) else expression
    return None


def _provided_for(parsed: nodes.Template) -> set[str]:
    """Names that appear only as ``name | default(…)`` or ``name is defined``."""
    guarded = {
        id(node.node)
        for kind in (nodes.Filter, nodes.Test)
        for node in parsed.find_all(kind)
        if node.name in {"default", "d", "defined", "undefined"}
    }
    names = list(parsed.find_all(nodes.Name))
    bare = {name.name for name in names if id(name) not in guarded}
    return {name.name for name in names} - bare


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, less what can be made to grow without bound."""

    intercepted_binops = frozenset({"**", "*", "%"})

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str | bytes | int | float | Decimal | list | tuple | dict):
            return attr in _METHODS.get(type(obj), ())
        return super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or isinstance(left, str | list) or isinstance(right, str | list):
            raise SecurityError(f"the operator {operator} works on small numbers only")
        return super().call_binop(context, operator, left, right)


@functools.cache
def _environment() -> _Sandbox:
    environment = _Sandbox(
        undefined=StrictUndefined,
        autoescape=False,
        keep_trailing_newline=True,
        # Folding constants would run filters while compiling, and writes nan as a name that does not exist.
        optimized=False,
        # An empty cell must not become the word None in a text to a customer.
        finalize=lambda value: "" if value is None else value,
    )
    environment.globals.clear()
    environment.globals["range"] = _range
    offered = {name: _bounded(environment.filters[name]) for name in _JINJA_FILTERS}
    environment.filters.clear()
    environment.filters.update(offered)
    environment.filters.update(
        default=_default, d=_default, cents=cents, brl=brl, first_name=first_name, digits=digits
    )
    return environment


def _range(*limits: int) -> range:
    numbers = range(*limits)
    if len(numbers) > LONGEST_RANGE:
        raise InputError(f"a range has at most {LONGEST_RANGE} numbers.")
    return numbers


_TOO_LONG = f"a filter makes a text longer than {LONGEST_TEXT} characters."


def _bounded(function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, refusing to make a text that a chain of such filters could double for ever."""

    @functools.wraps(function)  # keeps Jinja's mark of what the filter wants as its first argument
    def bounded(*args: Any, **options: Any) -> Any:
        # replace and join can multiply one length by another, so these are looked at first.
        lengths = [len(arg) for arg in (*args, *options.values()) if isinstance(arg, str | list) and arg]
        if math.prod(lengths) > 100 * LONGEST_TEXT:
            raise InputError(_TOO_LONG)
        value = function(*args, **options)
        if isinstance(value, str) and len(value) > LONGEST_TEXT:
            raise InputError(_TOO_LONG)
        return list(value) if isinstance(value, Iterator) else value

    return bounded


def _default(value: Any, default_value: Any = "", boolean: bool = False) -> Any:
    """Jinja's filter, for which an empty cell is missing too."""
    if isinstance(value, str) and not value.strip():
        return default_value
    return default_value if value is None else filters.do_default(value, default_value, boolean)


def cents(value: Any, numbers: money.Numbers | None = None) -> int:
    """An amount in reais → integer cents, see `money.cents`."""
    _require(value)
    return money.cents(value, numbers)


def brl(value: Any) -> str:
    """Integer cents → ``R$ 1.234,56``, see `money.brl`."""
    _require(value)
    return money.brl(value)


def _require(value: Any) -> None:
    if isinstance(value, Undefined):
        str(value)  # a strict one raises: the column is missing


_TITLES = frozenset({"dr", "dra", "sr", "sra", "srta", "prof", "profa"})


def first_name(value: Any) -> str:
    """How to greet somebody: ``MARIA JOSÉ DA SILVA`` and ``Sra. maria`` give ``Maria``."""
    words = str(value if value is not None else "").split()
    for word in words:
        if word.rstrip(".").lower() not in _TITLES:
            return word.capitalize() if word.isupper() or word.islower() else word
    return " ".join(words)


def digits(value: Any) -> str:
    """The digits of a text and nothing else: ``123.456.789-09`` gives ``12345678909``."""
    return re.sub("[^0-9]", "", str(value if value is not None else ""))
