"""The bodies that a service takes: rows of the features that its model needs, and what became true afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, create_model, model_validator

from lepton_kit.models.forecasters import Forecaster

MOST_ROWS = 1000
MOST_UNKNOWN = 100


class Feedback(BaseModel):
    """The actual value of a request's forecast, or a person's rating of it, or both."""

    model_config = ConfigDict(extra="forbid")

    request_id: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")
    row: int = Field(default=0, ge=0, lt=MOST_ROWS, description="which row of the request's batch, from 0")
    actual: FiniteFloat | None = Field(default=None, description="log return of the day that was forecast")
    rating: int | None = Field(default=None, ge=1, le=5, description="a person's rating, 1 (bad) to 5 (good)")
    comment: str = Field(default="", max_length=1000)

    @model_validator(mode="after")
    def _says_something(self) -> Feedback:
        if self.actual is None and self.rating is None:
            raise ValueError("needs an actual value, a rating, or both")
        return self


def prediction_model(forecaster: Forecaster) -> type[BaseModel]:
    """Return the model of the body of `POST /v1/predict`: `{"row": {…}}` or `{"rows": [{…}, …]}`.

    A row may hold names that the model does not know; they are ignored and counted. `as_of` says when the newest data
    behind the request was known.
    """
    fields: dict[str, Any] = dict.fromkeys(forecaster.architecture.needed, (FiniteFloat, ...))
    row = create_model("Row", __config__=ConfigDict(extra="allow"), **fields)
    base = create_model(
        "PredictRequest",
        __config__=ConfigDict(extra="forbid"),
        row=(row | None, None),
        rows=(list[row] | None, Field(default=None, min_length=1, max_length=MOST_ROWS)),  # type: ignore[valid-type]
        as_of=(float | None, Field(default=None, gt=0, allow_inf_nan=False, description="Unix time, seconds")),
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
    """Return validated rows as an array (rows, needed), in the order of the model's `architecture.needed`."""
    return np.array([list(row.__dict__.values()) for row in rows])  # the fields stand in the order of their making


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


def _place(found: Mapping[str, Any]) -> str:
    return ".".join(map(str, found["loc"])) or "body"
