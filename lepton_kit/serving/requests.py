"""The bodies that a service takes: rows of the features that its model needs, and what became true afterwards.

Also as the Open Inference Protocol v2 (https://github.com/kserve/open-inference-protocol) has them.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    model_validator,
)

from lepton_kit.errors import InputError
from lepton_kit.models.flavors import Model
from lepton_kit.models.remote import tensors
from lepton_kit.models.tasks import PROBA, Task

MOST_ROWS = 1000
LARGEST = 1e30
"""A number beyond this is nothing that was measured, and its square would be infinite in single precision soon."""

AHEAD_SECONDS = 86400.0
"""So far ahead of the service's clock a client's may be; what says more counts milliseconds, or is no time."""


def _is_measured_or_missing(value: float | None) -> float | None:
    if value is not None and math.isfinite(value) and abs(value) > LARGEST:
        raise ValueError(f"must be from {-LARGEST:g} to {LARGEST:g}")
    return value


def _is_past(value: float | None) -> float | None:
    if value is not None and value > time.time() + AHEAD_SECONDS:
        raise ValueError("must be a Unix time in seconds, at most a day ahead of the service's clock")
    return value


Measured = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
Category = Annotated[str, Field(max_length=1000, strict=True)] | bool | int


class Feedback(BaseModel):
    """What came true of a request's answer, or a person's rating of it, or both."""

    model_config = ConfigDict(extra="forbid")

    request_id: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")
    row: int = Field(default=0, ge=0, lt=MOST_ROWS, description="which row of the request's batch, from 0")
    actual: Measured | Annotated[str, Field(max_length=1000)] | None = Field(
        default=None, description="what came true: a number, or of a classifier the class"
    )
    rating: int | None = Field(default=None, ge=1, le=5, description="a person's rating, 1 (bad) to 5 (good)")
    comment: str = Field(default="", max_length=1000)

    @model_validator(mode="after")
    def _says_something(self) -> Feedback:
        if self.actual is None and self.rating is None:
            raise ValueError("needs an actual value, a rating, or both")
        return self


def prediction_model(model: Model, may_lack: Collection[str] = ()) -> type[BaseModel]:
    """Return the model of the body of `POST /v1/predict`: `{"row": {…}}` or `{"rows": [{…}, …]}`.

    A row may hold names that the model does not know; they are ignored and counted. `as_of` says when the newest data
    behind the request was known. Features that a row `may_lack` are absent, null or not finite in it.
    """
    present: tuple[Any, Any] = (Measured, ...)
    absent: tuple[Any, Any] = (Annotated[float | None, AfterValidator(_is_measured_or_missing)], None)
    moment = Annotated[float | None, AfterValidator(_is_past)]
    fields: dict[str, Any] = {}
    for number, name in enumerate(model.columns):  # a column may be called as no field of Python can be
        kind, default = absent if name in may_lack else present
        kind = Category if name in model.categorical else kind
        kind, default = (kind | None, None) if name in model.optional else (kind, default)
        fields[f"feature_{number}"] = (kind, Field(default, alias=name))
    row = create_model("Row", __config__=ConfigDict(extra="allow"), **fields)
    base = create_model(
        "PredictRequest",
        __config__=ConfigDict(extra="forbid"),
        row=(row | None, None),
        rows=(list[row] | None, Field(default=None, min_length=1, max_length=MOST_ROWS)),  # type: ignore[valid-type]
        as_of=(moment, Field(default=None, gt=0, allow_inf_nan=False, description="Unix time, seconds")),
    )

    class PredictRequest(base):  # type: ignore[misc, valid-type]
        """One row, or a batch."""

        @model_validator(mode="after")
        def _one_of_both(self) -> PredictRequest:
            if (self.row is None) == (self.rows is None):
                raise ValueError("needs either 'row' (one) or 'rows' (a batch)")
            return self

    return PredictRequest


def rows_of(body: Any) -> list[BaseModel]:
    """Return the rows of a body, one or many."""
    return [body.row] if body.row is not None else list(body.rows)


def feature_values(rows: list[BaseModel], model: Model) -> np.ndarray:
    """Return validated rows as an array (rows, columns): of numbers, unless the model takes categories.

    A number that a row lacks is NaN.
    """
    kind = object if model.categorical else float
    return np.array([list(row.__dict__.values()) for row in rows], kind)  # fields stand in the order of their making


def numbers_of(values: np.ndarray, model: Model) -> np.ndarray:
    """Return the columns of an array (rows, columns) that hold numbers; what is absent is NaN."""
    if not model.categorical:
        return values
    places = [place for place, name in enumerate(model.columns) if name not in model.categorical]
    return values[:, places].astype(float)


def with_numbers(values: np.ndarray, numbers: np.ndarray, model: Model) -> np.ndarray:
    """Return an array (rows, columns) with other numbers in the columns that hold numbers."""
    if not model.categorical:
        return numbers
    places = [place for place, name in enumerate(model.columns) if name not in model.categorical]
    changed = values.copy()
    changed[:, places] = numbers
    return changed


def wrong_target(task: Task, actual: float | str | None) -> str | None:
    """Say why a value cannot be what came true of an answer of this task; None where it can, or none is given."""
    if actual is None or task.name in ("classification_multiclass", "ranking"):
        return None
    if isinstance(actual, str):
        return f"must be a number: the service does {task.name}"
    return "must be 0 or 1" if task.name == "classification_binary" and actual not in (0, 1) else None


def received_values(body: bytes, columns: Sequence[str], categorical: Sequence[str] = ()) -> np.ndarray | None:
    """Return what can be read of the rows of a refused body (rows, columns), NaN for the rest; None where it has none.

    >>> received_values(b'{"row": {"return_0": 0.5, "return_1": "x"}}', ("return_0", "return_1"))
    array([[0.5, nan]])
    """
    kind = object if categorical else float
    try:
        read = json.loads(body)
        rows = [read["row"]] if read.get("row") is not None else read["rows"][:MOST_ROWS]
        values = [[row.get(n) if n in categorical else _number(row.get(n)) for n in columns] for row in rows]
        return np.array(values, kind).reshape(-1, len(columns))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _number(value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST
    return float(value) if is_number else float("nan")


def unknown_names(rows: list[BaseModel]) -> int:
    """Return how many values carry a name that the model does not know."""
    return sum(len(row.model_extra or {}) for row in rows)


def missing_fields(error: ValidationError) -> list[str]:
    """Return the names of the fields that were absent or null, as often as they were."""
    absent = (found for found in error.errors(include_url=False) if _is_absent(found))
    return [str(found["loc"][-1]) for found in absent]


def field_errors(error: ValidationError, most: int = 20) -> list[dict[str, Any]]:
    """Return a validation's errors as an answer can hold them: where, what, and the beginning of the value."""
    return [
        {
            "field": ".".join(map(str, found["loc"])) or "body",
            "message": found["msg"],
            "input": repr(found["input"])[:80],
        }
        for found in error.errors(include_url=False, include_context=False)[:most]
    ]


def _is_absent(found: Mapping[str, Any]) -> bool:
    return found["type"] == "missing" or (found["input"] is None and len(found["loc"]) > 1)


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
