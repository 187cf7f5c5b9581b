"""What a forecaster must beat: two naive forecasts of a random walk, with its `.predict` and nothing to keep."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from lepton_kit.errors import InputError
from lepton_kit.models.forecasters import forecast_table
from lepton_kit.models.training import Examples


@dataclass(frozen=True)
class ConstantVolatility:
    """A random walk whose daily volatility is that of the training rows, for ever.

    Examples
    --------
    >>> ConstantVolatility(0.02).predict(pd.DataFrame(index=[0]))["upper"].round(4).tolist()
    [0.0329]
    """

    level: float

    @classmethod
    def fitted(cls, fit: Examples) -> ConstantVolatility:
        """Return the baseline for the training rows."""
        return cls(float(np.sqrt((fit.target**2).mean())))

    def predict(self, features: pd.DataFrame) -> pd.DataFrame:
        """Forecast as `Forecaster.predict` does."""
        return _driftless(np.full(len(features), self.level), features.index)


@dataclass(frozen=True)
class EwmaVolatility:
    """A random walk whose volatility is the exponentially weighted one of the past days (RiskMetrics 1996).

    Examples
    --------
    >>> EwmaVolatility().predict(pd.DataFrame({"volatility_ewma": [0.01]}))["upper"].round(4).tolist()
    [0.0164]
    """

    def predict(self, features: pd.DataFrame) -> pd.DataFrame:
        """Forecast as `Forecaster.predict` does."""
        if "volatility_ewma" not in features.columns:
            raise InputError("features lack volatility_ewma")
        return _driftless(features["volatility_ewma"].to_numpy(dtype=float), features.index)


def _driftless(std: np.ndarray, index: pd.Index) -> pd.DataFrame:
    return forecast_table(np.zeros(len(std)), std, np.full(len(std), 0.5), index)
