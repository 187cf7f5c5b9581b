"""Golden examples: a few rows with the answers that a model gave when it was kept, to ask it again anywhere."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lepton_kit.errors import InputError
from lepton_kit.models.flavors import Model
from lepton_kit.telemetry.recordings import FEATURE

AGREEMENT = 1e-6
"""Answers may differ by this part of their size on another processor."""


def golden_examples(model: Model, features: pd.DataFrame, rows: int = 5) -> pd.DataFrame:
    """Return the last rows of features (`feature_<name>`) with the model's answers (the columns of its task)."""
    inputs = features.tail(rows)
    if inputs.empty:
        raise InputError("golden examples need at least one row of features")
    answers = model.predict(inputs)
    return pd.concat([inputs.add_prefix(FEATURE), answers], axis=1).reset_index(drop=True)


def golden_rows(golden: pd.DataFrame) -> pd.DataFrame:
    """Return the features of golden examples, by their own names."""
    given = [name for name in map(str, golden) if name.startswith(FEATURE)]
    return golden[given].rename(columns=lambda name: str(name).removeprefix(FEATURE))


def golden_deviation(model: Model, golden: pd.DataFrame) -> float:
    """Return how far a model's answers lie from the golden ones; 0 is bit for bit. See `deviation`.

    Raises InputError when the golden examples hold no rows, or no answers of the model's task.
    """
    rows, names = golden_rows(golden), model.task.columns(golden)
    if rows.empty or not names:
        raise InputError(f"golden examples: need columns {FEATURE}<name>, and the answers of {model.task.name}")
    return deviation(model.predict(rows), golden[names])


def deviation(found: pd.DataFrame, expected: pd.DataFrame) -> float:
    """Return the largest deviation of answers from those expected, as a part of the size of their column.

    A class or a list that differs, or an answer that is absent, is a deviation of 1 or more.

    >>> deviation(pd.DataFrame({"mean": [1.0, 2.002]}), pd.DataFrame({"mean": [1.0, 2.0]}))
    0.0009999999999998899
    """
    if missing := [name for name in map(str, expected) if name not in found]:
        raise InputError(f"answers lack {', '.join(missing)}")
    return max(_apart(found[name], expected[name]) for name in map(str, expected))


def _apart(found: pd.Series, expected: pd.Series) -> float:
    if not pd.api.types.is_numeric_dtype(expected):
        same = [_plain(one) == _plain(other) for one, other in zip(found, expected, strict=True)]
        return 1.0 - float(np.mean(same)) if not all(same) else 0.0
    scale = max(float(expected.abs().max()), 1e-12)
    apart = np.abs(found.to_numpy(float) - expected.to_numpy(float)) / scale
    return float(np.max(np.where(np.isnan(apart), 1.0, apart)))


def _plain(value: object) -> object:
    return [str(one) for one in value] if isinstance(value, list | tuple | np.ndarray) else str(value)
