"""Golden inputs and outputs: a few rows with the forecasts a model gave when it was saved, to ask it again anywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from lepton_kit.errors import InputError
from lepton_kit.models.forecasters import Predictor


def golden_examples(predictor: Predictor, features: pd.DataFrame, rows: int = 5) -> dict[str, Any]:
    """Return the last rows of features with the model's forecasts, as JSON can hold them.

    Parameters
    ----------
    predictor
        The model to remember.
    features
        Rows of features (n, columns), by date.
    rows
        How many of them to keep.
    """
    inputs = features.tail(rows)
    if inputs.empty:
        raise InputError("golden examples need at least one row of features")
    outputs = predictor.predict(inputs)
    return {"dates": [str(day) for day in inputs.index], "inputs": _columns(inputs), "outputs": _columns(outputs)}


def golden_deviation(predictor: Predictor, golden: dict[str, Any]) -> float:
    """Return the largest relative deviation of a model's forecasts from the golden ones; 0 is bit for bit.

    Raises
    ------
    InputError
        When the golden examples are not readable.
    """
    try:
        inputs, expected = pd.DataFrame(golden["inputs"]), pd.DataFrame(golden["outputs"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"golden examples: need `inputs` and `outputs` as columns of numbers ({error})") from error
    found = predictor.predict(inputs)[expected.columns]
    scale = expected.abs().max().clip(lower=1e-12)
    return float(np.max(np.abs(found.to_numpy() - expected.to_numpy()) / scale.to_numpy()))


def _columns(frame: pd.DataFrame) -> dict[str, list[float]]:
    return {str(name): [float(value) for value in frame[name]] for name in frame.columns}
