"""Finds what knows the data of a service: a module of the project that its declaration names as its `subject`.

Such a module offers, as far as it can, `table()`: labelled rows, as they come; `asked(needed, source=None)`: what the
service is asked, a table of the needed features and of `actual`, in order; and `plant(fault, seed, scratch)`: a service
for simulated drills (`lepton_kit.ops.simulation.SimulatedService`), which can have the faults that `DRILLED` names.
Nothing of the kit imports one.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pandas as pd

from lepton_kit.errors import InputError
from lepton_kit.models.registry import Registry
from lepton_kit.models.tasks import Task, task_of
from lepton_kit.project.declarations import find_declaration
from lepton_kit.project.settings import read_settings
from lepton_kit.telemetry.declaration import Declaration


def subject_of(name: str, project: Path) -> ModuleType:
    """Import a subject by its name, such as `subjects.prices`; the project's own modules are found.

    Raises InputError when there is no such module, or it cannot be imported.
    """
    if str(project) not in sys.path:
        sys.path.append(str(project))
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"subject = {name!r}: cannot be imported from {project} ({error})") from error


@dataclass(frozen=True)
class Subject:
    """What a notebook works on: a declared service, and the module that knows its data, where one does."""

    name: str
    declaration: Declaration
    module: ModuleType | None

    @property
    def task(self) -> Task:
        """What its model does; InputError where the declaration does not say."""
        if self.declaration.task is None:
            raise InputError(f"services.{self.name}.task: is not declared, so that nothing can be trained or judged")
        return task_of(self.declaration.task)

    def table(self, source: str | None = None) -> pd.DataFrame:
        """Return labelled rows as they come: of a CSV or Parquet file, else the subject's own.

        Raises InputError when the file is no table, or no source is given and the subject has no table of its own.
        """
        if source is not None:
            return _table(Path(source))
        if self.module is None or not hasattr(self.module, "table"):
            raise InputError(f"subject {self.name!r}: has no table of its own; name one with source")
        made: pd.DataFrame = self.module.table()
        return made


def find_subject(name: str, project: Path) -> Subject:
    """Find a subject: a service and the module that its declaration names; raises as `find_declaration` does."""
    declared = find_declaration(name, project)
    return Subject(name, declared, subject_of(declared.subject, project) if declared.subject else None)


def asked_rows(service: str | None, project: Path, needed: Sequence[str], source: str | None = None) -> pd.DataFrame:
    """Return what a service is asked: a table of the features needed and of `actual`, in order.

    `source` is for the service's subject to read; of a service without one, a CSV or Parquet table with these columns.
    Unless given, it is the subject's own, or else the rows kept with the service's model. Raises InputError when there
    are no such rows.
    """
    declared = read_settings(project).services.get(service) if service else None
    if declared and declared.subject:
        made: pd.DataFrame = subject_of(declared.subject, project).asked(needed, source)
        return made
    table: pd.DataFrame | None
    if source:
        table = _table(Path(source))
    elif service:
        name = (declared.registered if declared else None) or service
        table = Registry(project / (declared.registry if declared else "models")).reference(name)
    else:
        raise InputError("the rows to send are not known: name a service of this project, or a table with --source")
    if table is None:
        raise InputError(f"service {service!r}: names no subject, and its model has no stored rows; give --source")
    if missing := [name for name in needed if name not in table.columns]:
        raise InputError(f"the rows of {source or service} lack {', '.join(missing)}, which the service's model needs")
    actual = table["actual"] if "actual" in table.columns else float("nan")
    return table[list(needed)].assign(actual=actual)


def _table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise InputError(f"source {path}: cannot be read as a table ({error})") from error
