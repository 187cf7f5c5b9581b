"""Typed parameters: read from the cell tagged `parameters` with `ast`, checked with pydantic before a kernel starts."""

from __future__ import annotations

import ast
import difflib
import io
import json
import shlex
import tokenize
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Union

from pydantic import AfterValidator, TypeAdapter, ValidationError, ValidationInfo, WithJsonSchema

from lepton_kit.errors import InputError
from lepton_kit.runs.notebooks import tags
from lepton_kit.runs.references import is_remote, resolve
from lepton_kit.runs.secrets import ALLOWED, is_reference

MISSING: Any = type("Missing", (), {"__repr__": lambda self: "(required)"})()


@dataclass(frozen=True)
class Parameter:
    """One line of the parameters cell: `name: annotation = default  # help`."""

    name: str
    annotation: str
    type: Any
    default: Any
    help: str

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
    """Where the paths among the values are looked for: the project, and the runs that a pipeline has just made."""

    project: Path
    pipeline_runs: Mapping[str, str]


def _existing(reference: str, info: ValidationInfo) -> str:
    """Check that a path exists, and pin `run:<notebook>/…` to the run that it names now."""
    if is_remote(reference) or info.context is None:
        return reference
    sources: Sources = info.context
    try:
        return resolve(reference, sources.project, sources.pipeline_runs).pinned
    except InputError as error:
        raise ValueError(str(error)) from error


def _reference(text: str) -> str:
    if not is_reference(text):
        raise ValueError(f"must be {ALLOWED}")
    return text


# What an annotation in a parameters cell may be made of. A Path stays text: so it reaches the notebook as written.
NAMES: dict[str, Any] = {
    "int": int, "float": float, "str": str, "bool": bool, "list": list, "dict": dict, "List": list, "Dict": dict,
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
    if len(cells) > 1:
        raise InputError(f"{origin}: {len(cells)} cells are tagged 'parameters': only one may be")
    return parse_parameters(cells[0].source, origin)


def parse_parameters(source: str, origin: str) -> list[Parameter]:
    """Read the source of a parameters cell.

    Examples
    --------
    >>> [(p.name, p.type, p.default, p.help) for p in parse_parameters("days: int = 5  # window, days", "n")]
    [('days', <class 'int'>, 5, 'window, days')]
    """
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise InputError(f"{origin}: the parameters cell is not Python: line {error.lineno}: {error.msg}") from error
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
    """Check given values against a notebook's parameters and complete them with the defaults.

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
        Plain values (dates and paths as text) by name, in the cell's order; `run:` references are pinned to a run.

    Raises
    ------
    InputError
        One message with a line for every unknown name, missing value, wrong type and absent file.
    """
    if parameters is None:
        if given:
            raise InputError(
                f"{origin}: has no cell tagged 'parameters', so {', '.join(map(repr, given))} (from {given_by}) "
                "cannot be given; tag a cell of `name: type = value` lines 'parameters'"
            )
        return {}
    problems = [_unknown(name, parameters, origin, given_by) for name in given.keys() - {p.name for p in parameters}]
    values = {}
    for parameter in parameters:
        try:
            values[parameter.name] = _value(parameter, given, sources, origin, given_by)
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError("\n".join(problems))
    return values


def json_schema(parameters: list[Parameter], title: str) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a notebook's parameters."""
    properties = {}
    for parameter in parameters:
        schema = TypeAdapter(parameter.type).json_schema()
        if parameter.help:
            schema["description"] = parameter.help
        if not parameter.required:
            schema["default"] = parameter.default
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
            raise InputError(f"{where}: only `name: type = literal` lines may stand here")
    default = MISSING if value is None else _literal(value, where)
    lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
    words = " ".join(comments[line] for line in lines if line in comments)
    return Parameter(name, text, kind, default, words)


def _literal(node: ast.expr, where: str) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError) as error:
        raise InputError(f"{where}: the default must be a literal (dates and paths as text)") from error


def _inferred(default: Any) -> tuple[str, Any]:
    kind = Any if default is None else type(default)
    return ("Any", Any) if kind in (Any, tuple, set, bytes, complex) else (kind.__name__, kind)


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
            if name == "Literal":
                return Literal[tuple(_literal(item, where) for item in items)]
            arguments = tuple(_type(item, where) for item in items)
            with suppress(TypeError):  # such as dict[str]: told below
                made = NAMES[name][arguments if len(arguments) > 1 else arguments[0]]
                TypeAdapter(made)
                return made
    allowed = "int, float, str, bool, list, dict, Optional, Union, |, Literal, date, datetime, Path, Secret, Any"
    raise InputError(f"{where}: type {ast.unparse(node)!r} is not known; allowed are {allowed}")


def _expression(text: str, where: str) -> ast.expr:
    try:
        return ast.parse(text, mode="eval").body
    except SyntaxError as error:
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
        return adapter.dump_python(_parse(adapter, value, sources, parameter.name in given), mode="json")
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        if parameter.holds_secret:  # what was given may be the secret itself
            raise InputError(f"parameter {parameter.name!r} (from {source}): a Secret {reason}") from None
        shown = f"parameter {parameter.name!r} = {value!r} (from {source})"
        raise InputError(f"{shown}: must be {parameter.annotation}: {reason}") from error


def _parse(adapter: TypeAdapter[Any], value: Any, sources: Sources | None, typed: bool) -> Any:
    """Read a value; typed text is first tried as JSON, so that `[1, 2]`, `3` and `null` mean themselves."""
    if typed and isinstance(value, str):
        try:
            decoded = json.loads(value)
            if not isinstance(decoded, str):  # quotes that were typed are part of a text
                return adapter.validate_python(decoded, strict=True, context=sources)
        except (ValueError, RecursionError):  # ValidationError is a ValueError too
            pass
    return adapter.validate_python(value, context=sources)


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
