"""The form of a notebook's parameters: a field for each, and what is wrong beside the field that it is wrong with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lepton_kit.runs.notebooks import locate_notebook, read_notebook, title_of
from lepton_kit.runs.parameters import Parameter, Sources, json_schema, read_parameters, shown, sort_out, typed
from lepton_kit.runs.shipped import name_of

PREFIX = "p."
"""What the names of the fields of parameters begin with, so that none is taken for another field of the form."""


@dataclass(frozen=True)
class Field:
    """One parameter: what stands in its field, which choices it has (none: any text), and what is wrong with it."""

    name: str
    annotation: str
    help: str
    text: str
    choices: tuple[str, ...] = ()
    is_long: bool = False
    is_required: bool = False
    error: str = ""


@dataclass(frozen=True)
class Form:
    """A notebook and the fields of its parameters; `values` are those that differ from its own."""

    notebook: str
    path: Path
    title: str
    fields: tuple[Field, ...]
    values: Mapping[str, str]

    @property
    def is_right(self) -> bool:
        """Whether the notebook can be run with it."""
        return not any(field.error for field in self.fields)


def form_of(notebook: str, project: Path, given: Mapping[str, str] | None = None, checks: bool = False) -> Form:
    """Return the form of a notebook, filled with texts as `-p` takes them, else with its defaults.

    Raises InputError when there is no such notebook, or its parameters cannot be read.
    """
    path = locate_notebook(notebook, project)
    read = read_notebook(path)
    parameters = read_parameters(read, path.name) or []
    schemas = json_schema(parameters, path.stem)["properties"]
    values = {one.name: given[one.name] for one in parameters if given and _is_changed(one, given.get(one.name))}
    problems: dict[str, str] = {}
    if checks:
        _, problems = sort_out(parameters, values, Sources(project, {}), path.name, "the form")
    fields = [_field(one, schemas[one.name], values, problems.get(one.name, "")) for one in parameters]
    return Form(name_of(path, project), path, title_of(read, path.stem), tuple(fields), values)


def default_text(parameter: Parameter) -> str:
    """Return what stands in the field of a parameter that nobody has filled."""
    if parameter.required or parameter.default is None:
        return ""
    return typed(shown(parameter, parameter.default, is_given=False))


def _is_changed(parameter: Parameter, text: str | None) -> bool:
    return text is not None and text != default_text(parameter)


def _field(parameter: Parameter, schema: Mapping[str, Any], values: Mapping[str, str], error: str) -> Field:
    choices: tuple[str, ...] = ()
    if schema.get("type") == "boolean":
        choices = ("true", "false")
    elif "enum" in schema:
        choices = tuple(typed(choice) for choice in schema["enum"])
    elif "const" in schema:
        choices = (typed(schema["const"]),)
    text = values.get(parameter.name, default_text(parameter))
    is_long = len(text) > 60 or schema.get("type") in ("array", "object")
    return Field(
        parameter.name, parameter.annotation, parameter.help, text, choices, is_long, parameter.required, error
    )


def texts_of(form: Mapping[str, str]) -> dict[str, str]:
    """Return the values of parameters among the fields of a form that was sent."""
    return {name[len(PREFIX) :]: text.replace("\r\n", "\n") for name, text in form.items() if name.startswith(PREFIX)}


def texts_of_run(given: Mapping[str, Any]) -> dict[str, str]:
    """Return a run's values as its form shows them."""
    return {name: typed(value) for name, value in given.items()}
