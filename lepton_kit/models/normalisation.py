"""Normalisation of a model's numbers: learnt from training rows only, and kept with the model for serving."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.preprocessing import QuantileTransformer, RobustScaler, StandardScaler

from lepton_kit.errors import InputError

Method = Literal["standard", "robust", "quantile", "per-group"]

LEAST_OF_GROUP = 10
"""Rows without which a group's own mean and spread are not known: it is scaled as all rows together."""


@dataclass(frozen=True)
class Normalisation:
    """How numbers are scaled.

    `standard` subtracts the mean and divides by the standard deviation; `robust` does so with the median and the
    quartiles' distance; `quantile` gives the share of training rows below, from 0 to 1; `per-group` is `standard`
    within each value of the column `group`. A column that is constant in the training rows gives 0 for that constant.
    A group that the training rows do not hold, or hold fewer than 10 times, is scaled as all rows together.
    """

    method: Method = "standard"
    group: str | None = None

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise InputError(f"normalisation = {self.method!r}: must be one of {', '.join(get_args(Method))}")
        if (self.method == "per-group") != (self.group is not None):
            raise InputError(f"normalisation group = {self.group!r}: per-group needs one, and no other method has one")

    def part(self, numbers: tuple[str, ...], categories: tuple[str, ...]) -> tuple[Any, list[str]]:
        """Return the transformer before it is fitted, and the columns that it reads.

        Raises InputError when the group is no category of the table.
        """
        if self.group is not None and self.group not in categories:
            listed = ", ".join(categories) or "none"
            raise InputError(f"normalisation group = {self.group!r}: must be a category; there are {listed}")
        if self.group is not None:
            return GroupScaler(), [self.group, *numbers]
        if self.method == "quantile":
            return QuantileTransformer(n_quantiles=100), list(numbers)
        return (StandardScaler() if self.method == "standard" else RobustScaler()), list(numbers)


STANDARD = Normalisation()


class GroupScaler(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """Subtracts the mean of a row's group and divides by its standard deviation; the first column names the group.

    >>> table = pd.DataFrame({"town": ["a"] * 10 + ["b"] * 10, "rent": [*range(10), *range(100, 110)]})
    >>> scaled = GroupScaler().fit(table).transform(table)
    >>> bool(np.array_equal(scaled[:10], scaled[10:]))
    True
    """

    def fit(self, rows: pd.DataFrame, _target: Any = None) -> GroupScaler:
        """Learn mean and standard deviation of all rows, and of each group of at least 10."""
        self.feature_names_in_ = np.asarray(rows.columns, dtype=object)
        self.n_features_in_ = rows.shape[1]
        names, values = rows.iloc[:, 0].astype(str).to_numpy(), rows.iloc[:, 1:].to_numpy(float)
        known, counts = np.unique(names, return_counts=True)
        self.groups_ = [str(name) for name, count in zip(known, counts, strict=True) if count >= LEAST_OF_GROUP]
        parts = [StandardScaler().fit(own) for own in (values, *(values[names == name] for name in self.groups_))]
        self.means_ = np.array([part.mean_ for part in parts])
        self.scales_ = np.array([part.scale_ for part in parts])
        return self

    def transform(self, rows: pd.DataFrame) -> np.ndarray:
        """Return the scaled numbers (n, columns but the first)."""
        place = {name: number for number, name in enumerate(self.groups_, 1)}
        row_of = rows.iloc[:, 0].astype(str).map(place).fillna(0).to_numpy(int)
        scaled: np.ndarray = (rows.iloc[:, 1:].to_numpy(float) - self.means_[row_of]) / self.scales_[row_of]
        return scaled
