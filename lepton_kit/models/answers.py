"""What a model of any maker says, put into the prediction columns of its task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lepton_kit.errors import InputError
from lepton_kit.models.tasks import PROBA, Task

Raw = Any
"""What a model gives: arrays by name, one array, or a table."""


@dataclass(frozen=True)
class Asked:
    """What a flavor's loader gives: what asks the model, and what the model says of itself."""

    ask: Callable[[pd.DataFrame], Raw]
    columns: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    classes: tuple[Any, ...] = ()


def in_columns(task: Task, raw: Raw, classes: Sequence[Any] = (), positive: Any = None) -> pd.DataFrame:
    """Return what a model gave (a table, arrays by name, or one array (n,) or (n, k)) as its task's prediction columns.

    `classes` are in the order of the probabilities; `proba` belongs to `positive`. Raises InputError when they cannot
    be this task's answers: of another shape, or probabilities that are none.

    Examples
    --------
    >>> from lepton_kit.models.tasks import task_of
    >>> in_columns(task_of("classification_binary"), np.array([[0.2, 0.8]]))["proba"].tolist()
    [0.8]
    >>> in_columns(task_of("classification_multiclass"), np.array([[0.1, 0.9]]), ["cat", "dog"]).iloc[0].to_dict()
    {'label': 'dog', 'proba_cat': 0.1, 'proba_dog': 0.9}
    """
    named = raw if isinstance(raw, pd.DataFrame) else None
    if isinstance(raw, Mapping):
        flat = {name: _flat(np.asarray(values)) for name, values in raw.items()}
        if set(task.required) <= set(raw) and all(values.ndim == 1 for values in flat.values()):
            named = pd.DataFrame(flat)
        else:
            raw = _most_telling(task, raw)
    if isinstance(raw, list) and raw and isinstance(raw[0], Mapping):  # a dict per row: ONNX's ZipMap, MLflow's records
        table = pd.DataFrame(raw)
        named, classes = (table, classes) if set(task.required) <= set(table) else (None, list(table))
        raw = table.to_numpy()
    if named is None:
        made = _of_array(task, _flat(np.asarray(raw)), classes, positive)
    else:
        own = task.columns(named)
        made = named if len(own) == named.shape[1] else named[own]
    _check_probabilities(made)
    return made if isinstance(made.index, pd.RangeIndex) and made.index.start == 0 else made.reset_index(drop=True)


def _most_telling(task: Task, raw: Mapping[str, Raw]) -> Raw:
    """Return the one output that holds the answers: of a classifier the probabilities, not the label."""
    outputs = list(raw.values())
    if task.name.startswith("classification"):
        for given in outputs:
            if isinstance(given, list) or np.asarray(given).dtype.kind == "f":
                return given
    return outputs[0]


def _flat(values: np.ndarray) -> np.ndarray:
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def _of_array(task: Task, values: np.ndarray, classes: Sequence[Any], positive: Any) -> pd.DataFrame:
    wide = values.shape[1] if values.ndim == 2 else 1
    if task.name == "classification_binary" and wide == 2 and values.dtype.kind == "f":
        return pd.DataFrame({"proba": values[:, list(classes).index(positive) if positive is not None else 1]})
    if task.name == "classification_binary" and values.ndim == 1:
        is_number = values.dtype.kind in "fiub" and positive is None
        wanted = positive if positive is not None else (list(classes) or [0, 1])[-1]
        return pd.DataFrame({"proba": (values if is_number else values == wanted).astype(float)})
    names = list(classes) or list(range(wide))
    if task.name == "classification_multiclass" and len(names) == wide > 1 and values.dtype.kind == "f":
        table = pd.DataFrame(values, columns=[f"{PROBA}{name}" for name in names])
        table.insert(0, "label", [names[place] for place in values.argmax(axis=1)])
        return table
    if task.name == "classification_multiclass" and values.ndim == 1 and values.dtype.kind != "f":
        return pd.DataFrame({"label": values})
    if task.name == "regression" and values.ndim == 1 and values.dtype.kind in "fiu":
        return pd.DataFrame({"prediction": values.astype(float)})
    if task.name == "interval_forecast" and wide == 2:
        return pd.DataFrame(values, columns=["lower", "upper"])
    if task.name == "ranking" and values.ndim >= 1 and (wide > 1 or values.dtype == object):
        return pd.DataFrame({"prediction": [list(row) for row in values]})
    if task.name == "text" and values.ndim == 1 and values.dtype.kind in "OU":
        texts = [str(one) for one in values]
        return pd.DataFrame({"tokens": [len(one.split()) for one in texts], "length": [len(one) for one in texts]})
    raise InputError(f"its answers, {values.dtype} of shape {values.shape}, cannot be those of {task.name}")


def _check_probabilities(answers: pd.DataFrame) -> None:
    kept = [name for name in map(str, answers) if name == "proba" or name.startswith(PROBA)]
    values = answers[kept].to_numpy(float) if kept else np.zeros(0)
    if ((values < -1e-6) | (values > 1 + 1e-6)).any():
        raise InputError(f"{', '.join(kept)}: from {values.min():.4g} to {values.max():.4g} are no probabilities")
