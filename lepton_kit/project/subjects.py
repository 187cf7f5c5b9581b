"""Finds what knows the data of a service: a module of the project that its declaration names as its `subject`.

Such a module offers, as far as it can, `asked(needed, source=None)`: what the service is asked, a table of the needed
features and of `actual`, in order; and `plant(fault, seed, scratch)`: a service for simulated drills
(`lepton_kit.ops.simulation.SimulatedService`). Nothing of the kit imports one.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

from lepton_kit.errors import InputError
from lepton_kit.models.registry import Registry
from lepton_kit.project.settings import read_settings


def subject_of(name: str, project: Path) -> ModuleType:
    """Import a subject by its name, such as `subjects.prices`; the project's own modules are found.

    Raises
    ------
    InputError
        When there is no such module, or it cannot be imported.
    """
    if str(project) not in sys.path:
        sys.path.append(str(project))
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"subject = {name!r}: cannot be imported from {project} ({error})") from error


def plant_of(project: Path, service: str | None = None) -> Any:
    """Return what makes a service for simulated drills: the `plant` of its subject, or of the first that has one.

    Raises
    ------
    InputError
        When there is none.
    """
    for name, declared in read_settings(project).services.items():
        is_asked = service in (None, name)
        if is_asked and declared.subject and hasattr(module := subject_of(declared.subject, project), "plant"):
            return module.plant
    raise InputError(f"{project / 'lepton.toml'}: no service has a subject with a plant(…) for simulated drills")


def asked_rows(service: str | None, project: Path, needed: Sequence[str], source: str | None = None) -> pd.DataFrame:
    """Return what a service is asked: a table of the features needed and of `actual`, in order.

    Parameters
    ----------
    service
        Its name; None of one that is known by its address alone.
    project
        The project's root.
    needed
        The features that a row must hold.
    source
        For the service's subject to read; of a service without one, a CSV or Parquet table with these columns. Unless
        given, the subject's own, else the rows kept with the service's model.

    Raises
    ------
    InputError
        When there are no such rows.
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
        raise InputError(f"service {service!r}: names no subject, and no rows are kept with its model; give --source")
    if missing := [name for name in needed if name not in table.columns]:
        raise InputError(f"the rows of {source or service} lack {', '.join(missing)}, which the service's model needs")
    actual = table["actual"] if "actual" in table.columns else float("nan")
    return table[list(needed)].assign(actual=actual)


def _table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise InputError(f"source {path}: cannot be read as a table ({error})") from error
