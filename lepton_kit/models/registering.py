"""Takes a model of any maker into the registry: checks that it answers, and says what its `model.json` left out."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from lepton_kit.errors import InputError
from lepton_kit.models.flavors import LoadedModel, Model, load_model
from lepton_kit.models.golden import AGREEMENT, golden_deviation, golden_examples
from lepton_kit.models.registry import Registry
from lepton_kit.models.tasks import Task
from lepton_kit.telemetry.recordings import FEATURE

TARGETS = ("actual", "target")
"""What the column of a reference table that came true is called, unless it is given."""


def register(
    registry: Registry,
    name: str,
    place: Path,
    task: Task | None = None,
    flavor: str | None = None,
    reference: Path | None = None,
    golden: Path | None = None,
    target: str | None = None,
    note: str = "",
) -> str:
    """Keep a model of any flavor as a new version, not promoted, and return that version.

    Parameters
    ----------
    reference
        A table (Parquet or CSV) of rows that it learnt from: its features, and what came true.
    golden
        A table of rows and the answers that it must give: its features (`<name>` or `feature_<name>`) and the columns
        of its task. Without one, its answers to the last rows of the reference are kept.
    target
        The column of `reference` that came true; `actual` or `target` unless given.

    Raises
    ------
    InputError
        When it cannot be loaded, does not answer the rows, answers otherwise than the golden answers, or a column is
        missing. Nothing is kept then.
    """
    model = load_model(place, task, flavor)
    learnt = None if reference is None else _reference(read_table(reference), model, target)
    if isinstance(model, LoadedModel):
        model = _described(model, learnt)
    if learnt is not None:
        model.predict(learnt[list(model.columns)].tail(5))
    examples = None
    if golden is not None:
        examples = _golden(read_table(golden), model)
        if not (apart := golden_deviation(model, examples)) <= AGREEMENT:
            raise InputError(f"{golden}: the model answers otherwise; the largest relative deviation is {apart:.2g}")
    elif learnt is not None:
        examples = golden_examples(model, learnt[list(model.columns)])
    card: dict[str, Any] = {"purpose": note, "limits": "", "data": None, "flavor": getattr(model, "flavor", "kit")}
    with tempfile.TemporaryDirectory() as scratch:
        model.save(Path(scratch))
        load_model(scratch)  # what is kept must load by itself
    return registry.save(name, model, card, examples, learnt)


def read_table(path: Path) -> pd.DataFrame:
    """Return a table of a Parquet or CSV file; InputError where it is none."""
    try:
        return pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable table, Parquet or .csv ({error})") from error


def _reference(table: pd.DataFrame, model: Model, target: str | None) -> pd.DataFrame:
    known = [name for name in ([target] if target else TARGETS) if name in table]
    if not known:
        raise InputError(f"reference: has no column {target or ' or '.join(TARGETS)}; it must say what came true")
    features = list(model.columns) or [name for name in map(str, table) if name != known[0]]
    if missing := [name for name in features if name not in table]:
        raise InputError(f"reference: lacks {', '.join(missing)}, which the model needs")
    return table[features].assign(actual=table[known[0]])


def _described(model: LoadedModel, learnt: pd.DataFrame | None) -> LoadedModel:
    """Return the model with the columns that only its reference rows tell, and which of them hold categories."""
    if learnt is None:
        if not model.columns:
            raise InputError(f"model {model.place}: does not say its columns; give reference rows, or `columns`")
        return model
    columns = model.columns or tuple(name for name in map(str, learnt) if name != "actual")
    texts = tuple(name for name in columns if not pd.api.types.is_numeric_dtype(learnt[name]))
    lacking = tuple(name for name in columns if learnt[name].isna().any())
    return replace(
        model, columns=columns, categorical=model.categorical or texts, optional=model.optional or lacking
    )  # fmt: skip


def _golden(table: pd.DataFrame, model: Model) -> pd.DataFrame:
    prefixed = [f"{FEATURE}{name}" if f"{FEATURE}{name}" in table else name for name in model.columns]
    answers = model.task.columns(table.drop(columns=prefixed, errors="ignore"))
    if missing := [name for name in (*prefixed, *model.task.required) if name not in table]:
        raise InputError(f"golden: lacks {', '.join(missing)}")
    rows = table[prefixed].set_axis([f"{FEATURE}{name}" for name in model.columns], axis=1)
    return pd.concat([rows, table[answers]], axis=1)
