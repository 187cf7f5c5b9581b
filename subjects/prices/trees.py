"""Boosted trees as a baseline for the forecasters; they are judged, and not kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor

from lepton_kit.models.forecasters import NORMAL_QUANTILE, Architecture, forecast_table, model_columns, raw_inputs
from lepton_kit.models.training import Examples


@dataclass(frozen=True)
class BoostedTrees:
    """Gradient-boosted trees: quantiles for the interval (Friedman 2001, section 4.4), a classifier for the direction.

    They see the same inputs as the networks, in units of the recent volatility.
    """

    architecture: Architecture
    level: float
    lower: Any
    middle: Any
    upper: Any
    direction: Any

    @classmethod
    def fitted(cls, fit: Examples, seed: int = 0) -> BoostedTrees:
        """Return trees fitted on the training rows; the same rows and seed give the same trees."""
        architecture = Architecture("linear", model_columns(fit.features))
        level = float(fit.target.std(ddof=0))
        inputs, scale = raw_inputs(fit.features, architecture, level)
        target = fit.target.to_numpy() / scale
        shape = {"n_estimators": 60, "max_depth": 2, "learning_rate": 0.05, "subsample": 0.5, "random_state": seed}
        lower, middle, upper = (
            GradientBoostingRegressor(loss="quantile", alpha=alpha, **shape).fit(inputs, target)
            for alpha in (0.05, 0.5, 0.95)
        )
        direction = GradientBoostingClassifier(**shape).fit(inputs, target > 0)
        return cls(architecture, level, lower, middle, upper, direction)

    def predict(self, features: pd.DataFrame) -> pd.DataFrame:
        """Forecast as `Forecaster.predict` does; `mean` is the median, `std` that of a Gaussian with this interval."""
        inputs, scale = raw_inputs(features, self.architecture, self.level)
        bounds = np.sort([model.predict(inputs) * scale for model in (self.lower, self.middle, self.upper)], axis=0)
        lower, middle, upper = bounds  # sorted, because separate quantile models may cross
        std = (upper - lower) / (2 * NORMAL_QUANTILE)
        forecast = forecast_table(middle, std, self.direction.predict_proba(inputs)[:, 1], features.index)
        return forecast.assign(lower=lower, upper=upper)
