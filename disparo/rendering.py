"""Message content with placeholders, filled for one recipient at a time; pure.

Placeholders are Jinja2, sandboxed: expressions, ``if`` and one level of ``for``; no other statement. What a
recipient's data says is never evaluated. Bounds keep a template from eating time or memory, because
templates also arrive over REST.

All is decided when a content is compiled: what never changes is JSON already, and a placeholder that is a column, or a
column through filters, is filled without Jinja, which costs more than the rest together.
"""

import functools
import math
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any, TypeAlias

import orjson
from jinja2 import StrictUndefined, Template, TemplateSyntaxError, Undefined, UndefinedError, meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from disparo import filters
from disparo.errors import InputError
from disparo.filters import Numbers, brl, cents

__all__ = ["FILTERS", "Content", "brl", "cents", "compile_content"]

LONGEST_TEXT = 200_000  #: characters of one filled value; WhatsApp's longest text has 4,096
LONGEST_SOURCE = 32_768  #: characters of one value that holds placeholders
MOST_PLACEHOLDERS = 2_000  #: values with placeholders in one content
LONGEST_LOOP = 1_000  #: rounds of a loop, numbers of a range
LARGEST_LOOP = 200  #: parts (names, filters, operators, texts) of a loop's body
#: Characters that the filters of one value may read in all; tens of milliseconds at the most.
MOST_WORK = 20_000_000

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
_OTHER_FILTERS = ("abs", "first", "join", "last", "length", "max", "min", "reverse", "sort", "sum", "unique")
#: Filters that placeholders may use.
FILTERS = frozenset({*_OWN_FILTERS, "cents", *_TEXT_FILTERS, *_OTHER_FILTERS})
# Words that no template can use as filters of its own accord: what loops and ``~`` become.
_LOOP, _CONCAT = "for", "in"

_METHODS: dict[type, frozenset[str]] = {
    str: frozenset({"capitalize", "endswith", "lower", "split", "startswith", "strip", "title", "upper"}),
    dict: frozenset({"get", "items", "keys", "values"}),
}
_JSON_TYPES = (str, int, float, bool, type(None), list, dict)
#: Names that Jinja gives a meaning of its own.
_SPECIAL = frozenset({"self", "loop", "super", "caller", "varargs", "kwargs"})

_Fill: TypeAlias = Callable[[dict[str, Any]], Any]
Finish: TypeAlias = Callable[[str, Mapping[str, Any]], Callable[[str], str] | None]
"""What is done to a text once it is filled, by its JSON path and the object that holds it; None: nothing."""


class Content:
    """A message whose placeholders are compiled once and filled many times, by any number of threads.

    Attributes:
      columns: Names that the placeholders use.
      optional: Those of them that are used only where a missing one is provided for (``default``,
        ``is defined``).
      places: JSON path of each value with placeholders → the names that it uses.
    """

    def __init__(
        self,
        parts: list[bytes | _Fill],
        fill: _Fill,
        used: dict[str, bool],
        places: dict[str, frozenset[str]],
    ) -> None:
        self.columns = frozenset(used)
        self.optional = frozenset(name for name, required in used.items() if not required)
        self.places = places
        self._fill = fill
        self._parts = parts

    def render(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The message for one recipient.

        Parts without placeholders are shared between all messages rendered: change nothing in the result.

        Args:
          params: Column → value; values are text, numbers, true, false, None, lists and dicts.

        Raises:
          InputError: a column is missing or a value does not suit its filter. Names the JSON path of the
            value, the column, and the columns there are; of the value at most its beginning.
        """
        filled: dict[str, Any] = self._fill(dict(params))
        return filled

    def render_json(self, params: dict[str, Any]) -> bytes:
        """The same as canonical JSON: keys in the order of the content, no blanks, UTF-8; equal for equal ``params``.

        Raises:
          InputError: As ``render``, and for what JSON cannot hold.
        """
        return b"".join(
            [part if part.__class__ is bytes else _dumps(part(params), part) for part in self._parts]  # type: ignore[operator]
        )

    def columns_at(self, path: str) -> list[str]:
        """Names that the placeholders at a JSON path, or below it, use."""
        found = self.places.get(path)
        if found is None:
            below = (f"{path}.", f"{path}[")
            found = frozenset().union(*(self.places[one] for one in self.places if one.startswith(below)))
        return sorted(found)


def compile_content(
    content: dict[str, Any], *, finish: Finish | None = None, numbers: Numbers | None = None
) -> Content:
    """Compile every value of ``content`` that holds a placeholder (``{{ … }}`` or ``{% … %}``).

    A value that is exactly one ``{{ expression }}`` becomes what the expression gives, so a number stays
    a number. Keys are never filled. ``content`` itself may be changed afterwards.

    Args:
      finish: Says what is done to the texts of the content after they are filled.
      numbers: What ``cents`` takes for the way amounts are written where a placeholder does not say.

    Raises:
      InputError: a placeholder is not well formed or uses what is not offered; with its JSON path.
    """
    return _Compiler(finish or _nothing, numbers).compile(content)


def _nothing(path: str, holder: Mapping[str, Any]) -> None:  # noqa: ARG001 - a `Finish`
    return None


class _Compiler:
    def __init__(self, finish: Finish, numbers: Numbers | None) -> None:
        self._finish = finish
        self._environment = _environment(numbers)
        self._used: dict[str, bool] = {}
        self._places: dict[str, frozenset[str]] = {}

    def compile(self, content: dict[str, Any]) -> Content:
        static, fill = self._value(content, "", {})
        parts = self._parts(static, fill)
        return Content(parts, fill or (lambda _: static), self._used, self._places)

    def _value(self, value: Any, path: str, holder: Mapping[str, Any]) -> tuple[Any, _Fill | None]:
        """A copy of ``value`` without its placeholders, and what fills them (None when there are none)."""
        if isinstance(value, str):
            finish = self._finish(path, holder)
            if "{{" in value or "{%" in value:
                return None, self._text(value, path, holder, finish)
            return finish(value) if finish else value, None
        if not isinstance(value, dict | list):
            return value, None
        copy: Any = value.copy()
        fills: list[tuple[Any, _Fill]] = []
        for step, item in value.items() if isinstance(value, dict) else enumerate(value):
            below = value if isinstance(value, dict) else {}
            copy[step], fill = self._value(item, _below(path, step), below)
            if fill:
                fills.append((step, fill))
        return copy, _Branch(copy, fills) if fills else None

    def _text(
        self, source: str, path: str, holder: Mapping[str, Any], finish: Callable[[str], str] | None
    ) -> _Fill:
        if len(self._places) >= MOST_PLACEHOLDERS:
            raise InputError(f"{path}: a message has at most {MOST_PLACEHOLDERS:,} values with placeholders.")
        if len(source) > LONGEST_SOURCE:
            raise InputError(
                f"{path}: a value with placeholders has at most {LONGEST_SOURCE:,} characters, this one {len(source):,}."
            )
        try:
            parsed = self._environment.parse(source)
            _check_statements(parsed, path)
            columns = frozenset(meta.find_undeclared_variables(parsed))
            required = columns - _provided_for(parsed)
            evaluate = self._evaluation(parsed)
        except TemplateSyntaxError as error:
            line = f" (line {error.lineno} of the value)" if "\n" in source else ""
            offered = f" Filters: {', '.join(sorted(FILTERS))}." if "filter" in (error.message or "") else ""
            raise InputError(f"{path}: {error.message}{line}{offered}") from error
        except (SyntaxError, RecursionError, ValueError, OverflowError, MemoryError) as error:
            raise InputError(f"{path}: the placeholders are too large or nested too deep.") from error
        for name in columns:
            self._used[name] = self._used.get(name, False) or name in required
        self._places[path] = columns

        def finished(value: Any) -> Any:
            return _finish_value(value, path, holder, self._finish)

        return _Placeholder(path, columns, evaluate, finish, finished)

    def _evaluation(self, parsed: nodes.Template) -> _Fill:
        """What gives the value of a parsed text: its type when it is one expression, else text."""
        expression = _sole_expression(parsed)
        if expression is not None:
            return self._direct(expression) or self._typed(expression)
        if all(isinstance(node, nodes.Output) for node in parsed.body):
            outputs = [node for output in parsed.body for node in output.nodes]  # type: ignore[attr-defined]
            pieces: list[str | _Fill] = []
            for node in outputs:
                piece = node.data if isinstance(node, nodes.TemplateData) else self._direct(node)
                if piece is None:
                    break
                pieces.append(piece)
            else:
                return functools.partial(_joined_pieces, pieces)
        template = self._environment.from_string(_bounded_nodes(parsed))

        def text(params: dict[str, Any]) -> str:
            # What Template.render does, without its rewriting of tracebacks.
            return _joined(template.root_render_func(template.new_context(params)))

        return text

    def _direct(self, node: nodes.Node) -> _Fill | None:
        """A column, or one through filters with constant arguments, without Jinja; None for all else."""
        if isinstance(node, nodes.Name):
            if node.name in _SPECIAL or node.name in self._environment.globals:
                return None
            return functools.partial(_column, self._environment.undefined(name=node.name), node.name)
        if not isinstance(node, nodes.Filter) or node.dyn_args or node.dyn_kwargs or node.node is None:
            return None
        function = self._environment.filters.get(node.name)
        named: list[nodes.Keyword] = node.kwargs  # type: ignore[assignment] # Jinja says Pair
        arguments = [*node.args, *(one.value for one in named)]
        # Jinja's marked filters want its environment or context first.
        if function is None or hasattr(function, "jinja_pass_arg"):
            return None
        below = self._direct(node.node)
        if below is None or not all(isinstance(one, nodes.Const) for one in arguments):
            return None
        args = tuple(one.value for one in node.args if isinstance(one, nodes.Const))
        options = {one.key: one.value.value for one in named if isinstance(one.value, nodes.Const)}
        return lambda params: function(below(params), *args, **options)

    def _typed(self, expression: nodes.Expr) -> _Fill:
        # Jinja renders to text only; assigned to a name, the value keeps its type.
        assign = nodes.Assign(nodes.Name("result", "store"), expression, lineno=1)
        parsed = nodes.Template([assign], lineno=1)
        parsed.set_environment(self._environment)
        template: Template = self._environment.from_string(_bounded_nodes(parsed))

        def value(params: dict[str, Any]) -> Any:
            context: Context = template.new_context(params)
            for _ in template.root_render_func(context):
                pass
            return context.vars["result"]

        return value

    def _parts(self, static: Any, fill: _Fill | None) -> list[bytes | _Fill]:
        """The JSON of a value: bytes that never change, and what fills the places between them."""
        parts: list[bytes | _Fill] = []
        for part in _pieces(static, fill):
            if parts and isinstance(part, bytes) and isinstance(parts[-1], bytes):
                parts[-1] += part
            else:
                parts.append(part)
        return parts


def _below(path: str, step: Any) -> str:
    return f"{path}[{step}]" if isinstance(step, int) else f"{path}.{step}".removeprefix(".")


class _Branch:
    """An object or array in which something is filled."""

    __slots__ = ("fills", "static")

    def __init__(self, static: Any, fills: list[tuple[Any, _Fill]]) -> None:
        self.static, self.fills = static, fills

    def __call__(self, params: dict[str, Any]) -> Any:
        copy = self.static.copy()
        for step, fill in self.fills:
            copy[step] = fill(params)
        return copy


def _pieces(static: Any, fill: _Fill | None) -> Iterator[bytes | _Fill]:
    if fill is None:
        yield _dumps(static, None)
    elif not isinstance(fill, _Branch):
        yield fill
    else:
        fills = dict(fill.fills)
        is_object = isinstance(static, dict)
        yield b"{" if is_object else b"["
        for place, (step, item) in enumerate(static.items() if is_object else enumerate(static)):
            yield (b"," if place else b"") + (_dumps(step, None) + b":" if is_object else b"")
            yield from _pieces(item, fills.get(step))
        yield b"}" if is_object else b"]"


def _dumps(value: Any, fill: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError as error:
        where = (
            f"{fill.path}: the value{_of(fill.columns)}" if isinstance(fill, _Placeholder) else "the message"
        )
        raise InputError(f"{where} cannot be written as JSON: {error}.") from error


def _finish_value(value: Any, path: str, holder: Mapping[str, Any], finish: Finish) -> Any:
    """An array or object that came out of a placeholder, its texts finished as those of the content itself."""
    if isinstance(value, str):
        done = finish(path, holder)
        return done(value) if done else value
    if isinstance(value, dict):
        return {step: _finish_value(item, _below(path, step), value, finish) for step, item in value.items()}
    if isinstance(value, list):
        return [_finish_value(item, f"{path}[{place}]", {}, finish) for place, item in enumerate(value)]
    return value


class _Placeholder:
    """One value with placeholders."""

    __slots__ = ("_evaluate", "_finish", "_finish_below", "columns", "path")

    def __init__(
        self,
        path: str,
        columns: frozenset[str],
        evaluate: _Fill,
        finish: Callable[[str], str] | None,
        finish_below: Callable[[Any], Any],
    ) -> None:
        self.path, self.columns = path, columns
        self._evaluate, self._finish, self._finish_below = evaluate, finish, finish_below

    def __call__(self, params: dict[str, Any]) -> Any:
        _work.left = MOST_WORK
        try:
            value = self._evaluate(params)
            if value.__class__ is str:
                return value if self._finish is None else self._finish(value)
            if isinstance(value, Undefined):
                str(value)  # a strict one raises here, with its own sentence
        except _FilterError as error:
            of = f"{_of(self.columns).removeprefix(' of ') or 'a value'} ({error.shown})"
            raise InputError(f"{self.path}: {of}: {error}") from error
        except InputError as error:
            raise InputError(f"{self.path}: {error}") from error
        except (UndefinedError, SecurityError) as error:
            raise self._refusal(params, error) from error
        except (
            *(TypeError, ValueError, ArithmeticError, LookupError, AttributeError),
            *(RecursionError, MemoryError),
        ) as error:
            # The text of these errors may quote the recipient's data.
            raise InputError(
                f"{self.path}: the value of a column does not suit its placeholder "
                f"({type(error).__name__}); columns used: {_names(self.columns)}."
            ) from error
        if type(value) not in _JSON_TYPES or (isinstance(value, float) and not math.isfinite(value)):
            raise InputError(
                f"{self.path}: the placeholder gives a {type(value).__name__}, which JSON cannot hold; "
                "use a filter that makes text or a number of it."
            )
        return self._finish_below(value) if isinstance(value, dict | list) else value

    def _refusal(self, params: Mapping[str, Any], error: Exception) -> InputError:
        missing = sorted(name for name in self.columns if name not in params)
        if isinstance(error, UndefinedError) and missing:
            return InputError(
                f"{self.path}: there is no column {missing[0]}; the columns are: {_names(params)}."
            )
        return InputError(f"{self.path}: {error}.")


def _column(missing: Undefined, name: str, params: dict[str, Any]) -> Any:
    return params.get(name, missing)


def _joined_pieces(pieces: list[str | _Fill], params: dict[str, Any]) -> str:
    return _joined(piece if isinstance(piece, str) else _written(piece(params)) for piece in pieces)


def _written(value: Any) -> str:
    # An empty cell must not become the word None in a text to a customer.
    return "" if value is None else str(value)


def _joined(pieces: Iterator[str]) -> str:
    parts: list[str] = []
    left = LONGEST_TEXT
    for piece in pieces:
        parts.append(piece)
        left -= len(piece)
        if left < 0:
            raise InputError(f"the filled text is longer than {LONGEST_TEXT:,} characters.")
    return "".join(parts)


def _names(columns: Mapping[str, Any] | frozenset[str]) -> str:
    names = sorted(map(str, columns))
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(names[:20]) + more or "none"


def _of(columns: frozenset[str]) -> str:
    """Which columns a value is made of, as a part of a sentence."""
    if not columns:
        return ""
    return f" of the column{'s' if len(columns) > 1 else ''} {_names(columns)}"


def _check_statements(parsed: nodes.Template, path: str) -> None:
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


# --- bounds


class _Work(threading.local):
    """Characters that filters may still read for the value that this thread fills."""

    left = MOST_WORK


_work = _Work()


def _spend(characters: int) -> None:
    _work.left -= characters
    if _work.left < 0:
        raise InputError("the placeholders of one value have too much to do.")


def _size(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list | tuple):
        return len(value) + sum(len(item) for item in value if isinstance(item, str))
    return 1


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


def _bounded_nodes(parsed: nodes.Template) -> nodes.Template:
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
    return _joined(_written(value) for value in values)


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
        elif operator == "**" or isinstance(left, str | list) or isinstance(right, str | list):
            raise SecurityError(f"the operator {operator} works on small numbers only")
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        _spend(_size(getattr(obj, "__self__", None)) + _size(args))
        return super().call(context, obj, *args, **kwargs)


@functools.cache
def _environment(numbers: Numbers | None) -> _Sandbox:
    environment = _Sandbox(
        undefined=StrictUndefined,
        autoescape=False,
        keep_trailing_newline=True,
        # Folding constants would run filters while compiling, and writes nan as a name that does not exist.
        optimized=False,
        finalize=lambda value: "" if value is None else value,
        # No comments: in a message, {# is text. Nobody writes NUL.
        comment_start_string="{\0#",
        comment_end_string="#\0}",
    )
    environment.globals.clear()
    environment.globals["range"] = _range
    of_jinja = {name: environment.filters[name] for name in (*_TEXT_FILTERS, *_OTHER_FILTERS)}

    def amount(value: Any, style: Numbers | None = None) -> int:
        return cents(value, style or numbers)

    environment.filters.clear()
    for name, function in {**of_jinja, **_OWN_FILTERS, "cents": amount}.items():
        environment.filters[name] = _bounded(function, of_text=name in _TEXT_FILTERS)
    environment.filters |= {_LOOP: _loop, _CONCAT: _concat}
    return environment


class _FilterError(InputError):
    """A filter refuses a value; ``shown`` is what may be told of that."""

    def __init__(self, sentence: str, value: Any) -> None:
        super().__init__(sentence)
        self.shown = _shown(value)


def _shown(value: Any) -> str:
    """The beginning of a value; of long numbers, which may be phones or documents, a few digits only."""
    if value is None or value == "":
        return "blank"
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    text = re.sub(r"[0-9]{9,}", lambda match: f"{match[0][:3]}…", str(value))
    return repr(text if len(text) <= 12 else f"{text[:11]}…")


_TOO_LONG = f"a filter makes a text longer than {LONGEST_TEXT:,} characters."


def _bounded(function: Callable[..., Any], *, of_text: bool) -> Callable[..., Any]:
    """The filter as it is offered: refusing to make a text that a chain of such filters could double for ever."""
    marked = hasattr(function, "jinja_pass_arg")

    @functools.wraps(function)  # keeps Jinja's mark of what the filter wants as its first argument
    def bounded(*args: Any, **options: Any) -> Any:
        if of_text:
            args = tuple(["" if arg is None else arg for arg in args])
        # replace and join can multiply one length by another, so these are looked at first.
        sizes = [_size(arg) or 1 for arg in (*args, *options.values())]
        _spend(sum(sizes))
        if math.prod(sizes) > 100 * LONGEST_TEXT:
            raise InputError(_TOO_LONG)
        try:
            value = function(*args, **options)
        except InputError as error:
            raise _FilterError(str(error), args[1 if marked else 0]) from error
        if isinstance(value, str) and len(value) > LONGEST_TEXT:
            raise InputError(_TOO_LONG)
        return list(value) if isinstance(value, Iterator) else value

    return bounded
