"""The bodies that a service takes: rows of the features that its model needs, and what became true afterwards."""

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

from lepton_kit.models.forecasters import Forecaster

MOST_ROWS = 1000
MOST_UNKNOWN = 100
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


class Feedback(BaseModel):
    """The actual value of a request's forecast, or a person's rating of it, or both."""

    model_config = ConfigDict(extra="forbid")

    request_id: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")
    row: int = Field(default=0, ge=0, lt=MOST_ROWS, description="which row of the request's batch, from 0")
    actual: Measured | None = Field(default=None, description="log return of the day that was forecast")
    rating: int | None = Field(default=None, ge=1, le=5, description="a person's rating, 1 (bad) to 5 (good)")
    comment: str = Field(default="", max_length=1000)

    @model_validator(mode="after")
    def _says_something(self) -> Feedback:
        if self.actual is None and self.rating is None:
            raise ValueError("needs an actual value, a rating, or both")
        return self


def prediction_model(forecaster: Forecaster, may_lack: Collection[str] = ()) -> type[BaseModel]:
    """Return the model of the body of `POST /v1/predict`: `{"row": {…}}` or `{"rows": [{…}, …]}`.

    A row may hold names that the model does not know; they are ignored and counted. `as_of` says when the newest data
    behind the request was known. Features that a row `may_lack` are absent, null or not finite in it.
    """
    present: tuple[Any, Any] = (Measured, ...)
    absent: tuple[Any, Any] = (Annotated[float | None, AfterValidator(_is_measured_or_missing)], None)
    moment = Annotated[float | None, AfterValidator(_is_past)]
    fields: dict[str, Any] = {n: absent if n in may_lack else present for n in forecaster.architecture.needed}
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


def feature_values(rows: list[BaseModel]) -> np.ndarray:
    """Return validated rows as an array (rows, needed), in the order of the model's `architecture.needed`.

    What a row lacks is NaN.
    """
    return np.array([list(row.__dict__.values()) for row in rows], float)  # fields stand in the order of their making


def received_values(body: bytes, columns: Sequence[str]) -> np.ndarray | None:
    """Return what can be read of the rows of a refused body (rows, columns), NaN for the rest; None where it has none.

    >>> received_values(b'{"row": {"return_0": 0.5, "return_1": "x"}}', ("return_0", "return_1"))
    array([[0.5, nan]])
    """
    try:
        read = json.loads(body)
        rows = [read["row"]] if read.get("row") is not None else read["rows"][:MOST_ROWS]
        return np.array([[_number(row.get(name)) for name in columns] for row in rows]).reshape(-1, len(columns))
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
