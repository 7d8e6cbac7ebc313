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
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import orjson
from jinja2 import Template, TemplateSyntaxError, Undefined, UndefinedError, meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context

from disparo.bounds import (
    FILTERS,
    LONGEST_SOURCE,
    LONGEST_TEXT,
    MOST_PLACEHOLDERS,
    MOST_SOURCE,
    FilterError,
    begin_work,
    check_statements,
    environment_for,
    joined,
    with_bounds,
    written,
)
from disparo.errors import InputError
from disparo.money import Numbers

_JSON_TYPES = (str, int, float, bool, type(None), list, dict)
_LEAST_INTEGER, _LARGEST_INTEGER = -(2**63), 2**64 - 1  # what orjson writes
#: Names that Jinja gives a meaning of its own.
_SPECIAL = frozenset({"self", "loop", "super", "caller", "varargs", "kwargs"})

#: How Jinja tells of what a value does not have.
_LACKING = re.compile(r"(?P<beginning>.*? has no (?:attribute|element)) (?P<name>.*)", re.DOTALL)

_Fill: TypeAlias = Callable[[dict[str, Any]], Any]
_Holders: TypeAlias = tuple[Mapping[str, Any], ...]
Finish: TypeAlias = Callable[[str, _Holders], Callable[[str], str] | None]
"""What is done to a text once it is filled, by its JSON path and the objects that it is in, the outermost first;
None: nothing."""


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


def _nothing(path: str, holders: _Holders) -> None:  # noqa: ARG001 - a `Finish`
    return None


class _Compiler:
    def __init__(self, finish: Finish, numbers: Numbers | None) -> None:
        self._finish = finish
        self._environment = environment_for(numbers)
        self._source = 0
        self._used: dict[str, bool] = {}
        self._places: dict[str, frozenset[str]] = {}

    def compile(self, content: dict[str, Any]) -> Content:
        try:
            static, fill = self._value(content, "", ())
            parts = self._parts(static, fill)
        except RecursionError as error:
            raise InputError("the message is nested too deep.") from error
        return Content(parts, fill or (lambda _: static), self._used, self._places)

    def _value(self, value: Any, path: str, holders: _Holders) -> tuple[Any, _Fill | None]:
        """A copy of ``value`` without its placeholders, and what fills them (None when there are none)."""
        if isinstance(value, str):
            finish = self._finish(path, holders)
            if "{{" in value or "{%" in value:
                return None, self._text(value, path, holders, finish)
            return finish(value) if finish else value, None
        if not isinstance(value, dict | list):
            return value, None
        copy: Any = value.copy()
        fills: list[tuple[Any, _Fill]] = []
        if isinstance(value, dict):
            holders = (*holders, value)
        for step, item in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(value, dict) and not isinstance(step, str):
                raise InputError(f"{path or 'the message'}: the key {step} is no text; write it in quotes.")
            copy[step], fill = self._value(item, _below(path, step), holders)
            if fill:
                fills.append((step, fill))
        return copy, _Branch(copy, fills) if fills else None

    def _text(self, source: str, path: str, holders: _Holders, finish: Callable[[str], str] | None) -> _Fill:
        if len(self._places) >= MOST_PLACEHOLDERS:
            raise InputError(f"{path}: a message has at most {MOST_PLACEHOLDERS:,} values with placeholders.")
        if len(source) > LONGEST_SOURCE:
            raise InputError(
                f"{path}: a value with placeholders has at most {LONGEST_SOURCE:,} characters, this one {len(source):,}."
            )
        self._source += len(source)
        if self._source > MOST_SOURCE:
            raise InputError(
                f"{path}: the values with placeholders of a message have at most {MOST_SOURCE:,} characters in all."
            )
        try:
            parsed = self._environment.parse(source)
            check_statements(parsed, path)
            columns = frozenset(meta.find_undeclared_variables(parsed))
            words = _words(parsed)
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
            return _Finishing(path, columns, self._finish).value(value, path, holders)

        return _Placeholder(path, columns, words, evaluate, finish, finished)

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
        template = self._environment.from_string(with_bounds(parsed))

        def text(params: dict[str, Any]) -> str:
            # What Template.render does, without its rewriting of tracebacks.
            return joined(template.root_render_func(template.new_context(params)))

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
        template: Template = self._environment.from_string(with_bounds(parsed))

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


class _NotJSONError(InputError):
    """What an expression gives is nothing that a message can hold; names its JSON path."""


class _Finishing:
    """What an expression gives, checked and finished: its texts as those of the content itself."""

    def __init__(self, path: str, columns: frozenset[str], finish: Finish) -> None:
        self._path, self._columns, self._finish = path, columns, finish
        # A list can name one long text many times, which costs nothing until it is written.
        self._left = LONGEST_TEXT

    def value(self, value: Any, path: str, holders: _Holders) -> Any:
        kind = type(value)
        self._spend(len(value) if kind is str else 1)
        if kind is str:
            done = self._finish(path, holders)
            return done(value) if done else value
        if kind is dict:
            return {
                self._key(step, path): self.value(item, _below(path, step), (*holders, value))
                for step, item in value.items()
            }
        if kind is list:
            return [self.value(item, f"{path}[{place}]", holders) for place, item in enumerate(value)]
        if isinstance(value, Undefined):
            str(value)  # a strict one raises here, with its own sentence
        if kind not in _JSON_TYPES or (kind is float and not math.isfinite(value)):
            raise _NotJSONError(
                f"{path}: the placeholder gives a {kind.__name__}, which JSON cannot hold; "
                "use a filter that makes text or a number of it."
            )
        if kind is int and not _LEAST_INTEGER <= value <= _LARGEST_INTEGER:
            raise self._unwritable(path, "an integer has more than 64 bits")
        return value

    def _key(self, key: Any, path: str) -> str:
        if type(key) is not str:
            raise self._unwritable(path, "a key is no text")
        self._spend(len(key))
        return key

    def _spend(self, characters: int) -> None:
        self._left -= characters
        if self._left < 0:
            raise _NotJSONError(f"{self._path}: the filled value is longer than {LONGEST_TEXT:,} characters.")

    def _unwritable(self, path: str, why: str) -> _NotJSONError:
        return _NotJSONError(f"{path}: the value{_of(self._columns)} cannot be written as JSON: {why}.")


class _Placeholder:
    """One value with placeholders."""

    __slots__ = ("_evaluate", "_finish", "_finish_below", "_words", "columns", "path")

    def __init__(
        self,
        path: str,
        columns: frozenset[str],
        words: frozenset[str],
        evaluate: _Fill,
        finish: Callable[[str], str] | None,
        finish_below: Callable[[Any], Any],
    ) -> None:
        self.path, self.columns, self._words = path, columns, words
        self._evaluate, self._finish, self._finish_below = evaluate, finish, finish_below

    def __call__(self, params: dict[str, Any]) -> Any:
        begin_work()
        try:
            value = self._evaluate(params)
            if value.__class__ is str:
                return value if self._finish is None else self._finish(value)
            if value.__class__ is int and _LEAST_INTEGER <= value <= _LARGEST_INTEGER:
                return value  # as below, but amounts are common
            return self._finish_below(value)
        except _NotJSONError:
            raise
        except FilterError as error:
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

    def _refusal(self, params: Mapping[str, Any], error: Exception) -> InputError:
        missing = sorted(name for name in self.columns if name not in params)
        if isinstance(error, UndefinedError) and missing:
            return InputError(
                f"{self.path}: there is no column {missing[0]}; the columns are: {_names(params)}."
            )
        told = str(error).rstrip(".")
        # A name that the data gives may be a phone; one that the template has is told.
        if (found := _LACKING.match(told)) and found["name"] not in self._words:
            told = f"{found['beginning']} that the data names; columns used: {_names(self.columns)}"
        return InputError(f"{self.path}: {told}.")


def _column(missing: Undefined, name: str, params: dict[str, Any]) -> Any:
    return params.get(name, missing)


def _joined_pieces(pieces: list[str | _Fill], params: dict[str, Any]) -> str:
    return joined(piece if isinstance(piece, str) else written(piece(params)) for piece in pieces)


def _names(columns: Mapping[str, Any] | frozenset[str]) -> str:
    names = sorted(map(str, columns))
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(names[:20]) + more or "none"


def _of(columns: frozenset[str]) -> str:
    """Which columns a value is made of, as a part of a sentence."""
    if not columns:
        return ""
    return f" of the column{'s' if len(columns) > 1 else ''} {_names(columns)}"


def _words(parsed: nodes.Template) -> frozenset[str]:
    """What the template itself says, as Jinja's errors quote it: attributes and constants."""
    attributes = {repr(node.attr) for node in parsed.find_all(nodes.Getattr)}
    return frozenset(attributes | {repr(node.value) for node in parsed.find_all(nodes.Const)})


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
