"""The Open Inference Protocol v2 (KServe, Triton, MLServer) beside the service's own endpoints.

https://github.com/kserve/open-inference-protocol: health, what a model takes and gives, and `infer` over JSON.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_kit.errors import InputError
from lepton_kit.models.flavors import Model
from lepton_kit.models.remote import tensors
from lepton_kit.models.tasks import PROBA

TEXTS = {"label", "language"}


def metadata(name: str, versions: list[str], model: Model) -> dict[str, Any]:
    """Return what a model takes and gives: a tensor for each feature (n, 1), and for each prediction column (n)."""
    classes = getattr(model, "classes", ()) if model.task.name == "classification_multiclass" else ()
    outputs = (*model.task.required, *(f"{PROBA}{one}" for one in classes))
    return {
        "name": name,
        "versions": versions,
        "platform": f"lepton_{model.task.name}",
        "inputs": [
            {"name": column, "datatype": "BYTES" if column in model.categorical else "FP64", "shape": [-1, 1]}
            for column in model.columns
        ],
        "outputs": [
            {"name": column, "datatype": "BYTES" if column in TEXTS else "FP64", "shape": [-1]} for column in outputs
        ],
    }


def rows_asked(body: Any, model: Model) -> list[dict[str, Any]]:
    """Return the rows of a request to infer: from a tensor for each feature, or one (n, columns) for all.

    Raises InputError when the body holds no such tensors.
    """
    given = body.get("inputs") if isinstance(body, dict) else None
    if not isinstance(given, list) or not given:
        raise InputError("'inputs' must be a list of tensors with name, shape, datatype and data")
    held = tensors(given, "inputs")
    (first, *others) = held.values()
    if not others and first.ndim == 2 and first.shape[1] == len(model.columns) > 1:
        held = dict(zip(model.columns, first.T, strict=True))
    columns = {name: values.reshape(len(values), -1) for name, values in held.items() if values.ndim in (1, 2)}
    lengths = {values.shape for values in columns.values()}
    if len(columns) < len(held) or len(lengths) != 1 or next(iter(lengths))[1] != 1:
        shown = ", ".join(f"{name} {list(values.shape)}" for name, values in list(held.items())[:20])
        raise InputError(f"tensors {shown}: must be one of [n] or [n, 1] for each feature, or one of [n, columns]")
    lists = {name: values[:, 0].tolist() for name, values in columns.items()}
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def inferred(name: str, version: str, request_id: str, names: tuple[str, ...], answers: np.ndarray) -> dict[str, Any]:
    """Return the answer to a request to infer: a tensor for each prediction column."""
    outputs = [_tensor(column, answers[:, place].tolist()) for place, column in enumerate(names)]
    return {"model_name": name, "model_version": version, "id": request_id, "outputs": outputs}


def _tensor(name: str, values: list[Any]) -> dict[str, Any]:
    if values and all(isinstance(value, list) for value in values):  # ranked items
        flat = [str(item) for value in values for item in value]
        return {"name": name, "shape": [len(values), len(flat) // len(values)], "datatype": "BYTES", "data": flat}
    kinds = {type(value) for value in values}
    kind = "BOOL" if kinds == {bool} else "INT64" if kinds == {int} else "FP64" if kinds <= {float, int} else "BYTES"
    data = [str(value) for value in values] if kind == "BYTES" else values
    return {"name": name, "shape": [len(values)], "datatype": kind, "data": data}
