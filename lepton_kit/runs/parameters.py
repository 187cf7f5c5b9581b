"""Typed parameters: read from the cell tagged `parameters` with `ast`, checked with pydantic before a kernel starts."""

from __future__ import annotations

import ast
import csv
import difflib
import io
import json
import math
import shlex
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Union

from pydantic import AfterValidator, PydanticUserError, TypeAdapter, ValidationError, ValidationInfo, WithJsonSchema

from lepton_kit.errors import InputError
from lepton_kit.runs.notebooks import language_of, tags
from lepton_kit.runs.references import SUBJECT, is_remote, resolve
from lepton_kit.secrets import ALLOWED, is_reference

_ANY: TypeAdapter[Any] = TypeAdapter(Any)
MISSING: Any = type("Missing", (), {"__repr__": lambda self: "(required)"})()


@dataclass(frozen=True)
class Parameter:
    """One line of the parameters cell: `name: annotation = default  # help`."""

    name: str
    annotation: str
    type: Any
    default: Any
    help: str
    source: str = ""  # of the default, as the cell has it

    @property
    def required(self) -> bool:
        """Whether a value must be given."""
        return self.default is MISSING

    @property
    def holds_path(self) -> bool:
        """Whether the value names files or folders, or artifacts of earlier runs."""
        return "Path" in self.annotation

    @property
    def holds_secret(self) -> bool:
        """Whether the value is a reference to a secret."""
        return "Secret" in self.annotation


@dataclass(frozen=True)
class Sources:
    """Where paths among the values are looked for: the project, the runs that a pipeline just made, and whose."""

    project: Path
    pipeline_runs: Mapping[str, str]
    subject: str | None = None


def _existing(reference: str, info: ValidationInfo) -> str:
    """Check that a path exists, and pin `run:<notebook>/…` to the run that it names now."""
    if is_remote(reference) or info.context is None:
        return reference
    sources: Sources = info.context
    try:
        return resolve(reference, sources.project, sources.pipeline_runs, sources.subject).pinned
    except InputError as error:
        raise ValueError(str(error)) from error


def _reference(text: str) -> str:
    if not is_reference(text):
        raise ValueError(f"must be {ALLOWED}")
    return text


# What an annotation in a parameters cell may be made of. A Path stays text: so it reaches the notebook as written.
NAMES: dict[str, Any] = {
    "int": int, "float": float, "str": str, "bool": bool, "list": list, "dict": dict, "List": list, "Dict": dict,
    "tuple": tuple, "set": set, "frozenset": frozenset, "bytes": bytes, "complex": complex, "Tuple": tuple, "Set": set,
    "date": date, "datetime": datetime, "None": None, "Any": Any, "Optional": Optional, "Union": Union,
    "Literal": Literal,
    "Path": Annotated[str, AfterValidator(_existing), WithJsonSchema({"type": "string", "format": "path"})],
    "Secret": Annotated[
        str, AfterValidator(_reference),
        WithJsonSchema({"type": "string", "pattern": "^(env|file):.+", "writeOnly": True}),
    ],
}  # fmt: skip


def read_parameters(notebook: Any, origin: str) -> list[Parameter] | None:
    """Read the typed parameters of a notebook, in order.

    Parameters
    ----------
    notebook
        A notebook in format 4.
    origin
        The notebook's name, for error messages.

    Returns
    -------
    list of Parameter, or None
        None when no cell is tagged `parameters`.

    Raises
    ------
    InputError
        When the cell is not made of `name: annotation = literal` lines, or there are two such cells.
    """
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and "parameters" in tags(cell)]
    if not cells:
        return None
    if (language := language_of(notebook)) not in ("", "python"):
        raise InputError(f"{origin}: its language is {language}; parameters are read from Python alone")
    if len(cells) > 1:
        raise InputError(f"{origin}: {len(cells)} cells are tagged 'parameters': only one may be")
    return parse_parameters(cells[0].source, origin)


def parse_parameters(source: str, origin: str) -> list[Parameter]:
    """Read the source of a parameters cell.

    Examples
    --------
    >>> [(p.name, p.type, p.default, p.help) for p in parse_parameters("days: int = 5  # window, days", "n")]
    [('days', <class 'int'>, 5, 'window, days')]

    A comment may give the type, as papermill reads it:

    >>> [(p.annotation, p.help) for p in parse_parameters("x = None  # type: list[int] units", "n")]
    [('list[int] | None', 'units')]
    """
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise InputError(f"{origin}: the parameters cell is not Python: line {error.lineno}: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:  # such as a NUL, or a thousand parentheses
        raise InputError(f"{origin}: the parameters cell is not Python: {error or type(error).__name__}") from error
    comments = dict(_comments(source))
    found: dict[str, Parameter] = {}
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            continue
        parameter = _parameter(node, comments, origin)
        if parameter.name in found:
            raise InputError(f"{origin}: parameter {parameter.name!r} is assigned twice in the parameters cell")
        found[parameter.name] = parameter
    return list(found.values())


def check_values(
    parameters: list[Parameter] | None, given: Mapping[str, Any], sources: Sources | None, origin: str, given_by: str
) -> dict[str, Any]:
    """Check given values, and the defaults of all others, against a notebook's parameters.

    Parameters
    ----------
    parameters
        As `read_parameters` returns them.
    given
        Values by name: text as typed on a command line, or Python values.
    sources
        Where paths and `run:` references are looked for; None checks names and types alone.
    origin, given_by
        The notebook's name and where the values come from (such as `-p`), for error messages.

    Returns
    -------
    dict
        Values by name, in the cell's order: those given as Python has them, but dates as text; defaults as the cell
        has them. `run:` references are pinned to a run.

    Raises
    ------
    InputError
        One message with a line for every unknown name, missing value, wrong type and absent file.
    """
    values, problems = sort_out(parameters, given, sources, origin, given_by)
    if problems:
        raise InputError("\n".join(problems.values()))
    return values


def sort_out(
    parameters: list[Parameter] | None, given: Mapping[str, Any], sources: Sources | None, origin: str, given_by: str
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what `check_values` does, and instead of raising, what is wrong by the name of the parameter."""
    if parameters is None:
        if given:
            raise InputError(
                f"{origin}: has no cell tagged 'parameters', so {', '.join(map(repr, given))} (from {given_by}) "
                "cannot be given; tag a cell of `name: type = value` lines 'parameters'"
            )
        return {}, {}
    unknown = given.keys() - {p.name for p in parameters}
    problems = {name: _unknown(name, parameters, origin, given_by) for name in unknown}
    values = {}
    if sources:
        own = next((given.get(p.name, p.default) for p in parameters if p.name == SUBJECT), None)
        sources = replace(sources, subject=own if isinstance(own, str) else None)
    for parameter in parameters:
        try:
            values[parameter.name] = _value(parameter, given, sources, origin, given_by)
        except InputError as error:
            problems[parameter.name] = str(error)
    return values, problems


def json_schema(parameters: list[Parameter], title: str) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a notebook's parameters."""
    properties = {}
    for parameter in parameters:
        schema = TypeAdapter(parameter.type).json_schema()
        if parameter.help:
            schema["description"] = parameter.help
        if not parameter.required:
            schema["default"] = shown(parameter, parameter.default, is_given=False)
        properties[parameter.name] = schema
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "type": "object",
        "properties": properties,
        "required": [parameter.name for parameter in parameters if parameter.required],
        "additionalProperties": False,
    }


def _comments(source: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("# ").strip()


def _parameter(node: ast.stmt, comments: dict[int, str], origin: str) -> Parameter:
    where = f"{origin}: parameters cell, line {node.lineno}: `{ast.unparse(node)}`"
    match node:
        case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=value):
            text, kind = ast.unparse(annotation), _type(annotation, where)
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            text, kind = _inferred(_literal(value, where))
        case _:
            raise InputError(f"{where}: only `name: type = literal` lines are allowed here")
    default = MISSING if value is None else _literal(value, where)
    lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
    said = [comments[line] for line in lines if line in comments]
    if isinstance(node, ast.Assign):
        for at, comment in enumerate(said):
            if (typed := _type_comment(comment, default, where)) is not None:
                text, kind, said[at] = typed
    return Parameter(name, text, kind, default, " ".join(filter(None, said)), ast.unparse(value) if value else "")


def _type_comment(comment: str, default: Any, where: str) -> tuple[str, Any, str] | None:
    """Return what papermill's convention `# type: int words` says (annotation, type, words), or None.

    Words that begin with `type:` and name no type are words.
    """
    if not comment.startswith("type:"):
        return None
    words = comment.removeprefix("type:").split()
    for count in range(len(words), 0, -1):
        text = " ".join(words[:count])
        with suppress(InputError):
            kind = _type(_expression(text, where), where)
            if default is None:
                text, kind = f"{text} | None", Union[kind, None]  # noqa: UP007 - as below
            return text, kind, " ".join(words[count:])
    return None


def _literal(node: ast.expr, where: str) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        raise InputError(f"{where}: the default must be a literal (dates and paths as text)") from error


def _inferred(default: Any) -> tuple[str, Any]:
    kind = Any if default is None else type(default)
    return ("Any", Any) if kind is Any else (kind.__name__, kind)


def _type(node: ast.expr, where: str) -> Any:
    """Build the type that an annotation names, from the allowed names alone: nothing is evaluated."""
    match node:
        case ast.Constant(value=str(text)):
            return _type(_expression(text, where), where)
        case ast.Constant(value=None):
            return None
        case ast.Name(id=name) | ast.Attribute(attr=name) if name in NAMES:
            return NAMES[name]
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return Union[_type(left, where), _type(right, where)]  # noqa: UP007 - built at run time from two types
        case ast.Subscript(value=ast.Name(id=name) | ast.Attribute(attr=name), slice=inner) if name in NAMES:
            items = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            make = _literal if name == "Literal" else _type
            arguments = tuple(make(item, where) for item in items)
            with suppress(TypeError, IndexError, PydanticUserError):  # such as dict[str]: told below
                made = NAMES[name][arguments if len(arguments) > 1 else arguments[0]]
                TypeAdapter(made)
                return made
    allowed = (
        "int, float, str, bool, list, dict, tuple, set, bytes, Optional, Union, |, Literal, date, datetime, Path, "
        "Secret, Any"
    )
    raise InputError(f"{where}: type {ast.unparse(node)!r} is not known; allowed are {allowed}")


def _expression(text: str, where: str) -> ast.expr:
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"{where}: type {text!r} is not Python") from error


def _unknown(name: str, parameters: list[Parameter], origin: str, given_by: str) -> str:
    names = [parameter.name for parameter in parameters]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"parameter {name!r} (from {given_by}): {origin} has no such parameter, it has {', '.join(names)}{hint}"


def _value(parameter: Parameter, given: Mapping[str, Any], sources: Sources | None, origin: str, given_by: str) -> Any:
    value, source = given.get(parameter.name, parameter.default), given_by
    if parameter.name not in given:
        source = f"default in {origin}"
    if value is MISSING:
        raise InputError(f"parameter {parameter.name!r} of {origin}: has no default, so a value must be given")
    adapter: TypeAdapter[Any] = TypeAdapter(parameter.type)
    try:
        parsed = _parse(adapter, value, sources, parameter.name in given)
    except TypeError as error:  # such as a list among the items of a set
        raise InputError(
            f"parameter {parameter.name!r} (from {source}): must be {parameter.annotation}: {error}"
        ) from None
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        if parameter.holds_secret:  # what was given may be the secret itself
            raise InputError(f"parameter {parameter.name!r} (from {source}): a Secret {reason}") from None
        named = f"parameter {parameter.name!r} = {value!r} (from {source})"
        raise InputError(f"{named}: must be {parameter.annotation}: {reason}") from error
    is_as_written = parameter.name not in given and not parameter.holds_path  # a path is pinned
    return value if is_as_written else _with_times_as_text(adapter.dump_python(parsed))


def _with_times_as_text(value: Any) -> Any:
    if isinstance(value, dict):
        return {_with_times_as_text(key): _with_times_as_text(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return type(value)(map(_with_times_as_text, value))
    return _ANY.dump_python(value, mode="json") if isinstance(value, date | time | timedelta) else value


def path_references(parameters: list[Parameter], values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (parameter, reference) for every path among the values."""
    found = []
    for parameter in parameters:
        if parameter.holds_path and (value := values[parameter.name]) is not None:
            items = value.values() if isinstance(value, dict) else [value] if isinstance(value, str) else value
            found += [(parameter.name, item) for item in items if isinstance(item, str)]
    return found


def shown(parameter: Parameter, value: Any, is_given: bool) -> Any:
    """Return a value as stored in a manifest: a JSON value, or text that `check_values` reads back.

    A default that JSON does not hold is shown as the cell has it.

    Examples
    --------
    >>> [weights] = parse_parameters("weights = {1: 0.5}", "n")
    >>> shown(weights, weights.default, is_given=False)
    '{1: 0.5}'
    >>> [limit] = parse_parameters("limit: float = 1.0", "n")
    >>> shown(limit, float("nan"), is_given=True)
    'nan'
    """
    if _is_json(value):
        return value
    if not is_given:
        return parameter.source
    if isinstance(value, float):
        return str(value)
    held = TypeAdapter(parameter.type).dump_python(value, mode="json", warnings=False)
    return held if _is_json(held) else json.dumps(held)  # with NaN or Infinity, which JSON itself lacks


def _is_json(value: Any) -> bool:
    """Say whether a value comes back from JSON as the very same."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(_is_json, value))
    return value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))


def _parse(adapter: TypeAdapter[Any], value: Any, sources: Sources | None, typed: bool) -> Any:
    """Read a value; typed text is first tried as JSON, so that `[1, 2]`, `3` and `null` mean themselves."""
    if typed and isinstance(value, str):
        try:
            if not isinstance(json.loads(value), str):  # quotes that were typed are part of a text
                return adapter.validate_json(value, strict=True, context=sources)
        except (ValueError, RecursionError):  # ValidationError is a ValueError too
            pass
    return adapter.validate_python(value, context=sources)


def combinations(sweeps: Iterable[str]) -> list[dict[str, str]]:
    """Return every combination of swept values; the last sweep varies fastest.

    Each is `NAME=VALUE,VALUE,…`; a value that holds a comma is quoted as in CSV: `NAME="a,b",c`. Raises InputError when
    a sweep has no name or no value, or a name is swept twice.

    Examples
    --------
    >>> combinations(["days=5,10", "model=a"])
    [{'days': '5', 'model': 'a'}, {'days': '10', 'model': 'a'}]
    >>> combinations([])
    [{}]
    """
    values: dict[str, list[str]] = {}
    for text in sweeps:
        name, _, listed = text.partition("=")
        if not name or not listed:
            raise InputError(f"sweep {text!r} (from --sweep): write NAME=VALUE,VALUE,…")
        if name in values:
            raise InputError(f"sweep {text!r} (from --sweep): {name!r} is swept twice")
        values[name] = next(csv.reader([listed]))
    return [dict(zip(values, chosen, strict=True)) for chosen in product(*values.values())]


def run_command(notebook: str, parameters: Mapping[str, Any], between: str = " ") -> str:
    """Return the command that runs a notebook with these values.

    >>> run_command("runbooks/a.ipynb", {"days": 3, "service": "goog"})
    'lepton run runbooks/a.ipynb -p days 3 -p service goog'
    """
    values = [f"-p {shlex.quote(name)} {shlex.quote(typed(value))}" for name, value in parameters.items()]
    return between.join([f"lepton run {shlex.quote(notebook)}", *values])


def typed(value: Any) -> str:
    """Return a parameter's value as `-p` takes it: text as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
