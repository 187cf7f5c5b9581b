"""Prices for simulated drills: real days, and forecasters trained on others."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import pandas as pd

from lepton_kit.models.training import TrainingSettings
from lepton_kit.ops.faults.base import Kind
from subjects.prices.examples import SAMPLE, examples, train
from subjects.prices.features import next_day_return, price_features
from subjects.prices.simulated.world import Days, Trained, World
from subjects.prices.sources import read_prices

LOOKBACK = 3
CALM, WILD = ("2006-03-01", "2007-10-01"), ("2007-11-01", "2008-10-14")
"""Days that a service is asked about, usually and when the market shifts: Google's price became twice as volatile."""

CUTS: Mapping[Kind, Mapping[str, tuple[str, str, str]]] = MappingProxyType(
    {
        "ewma": {"v1": ("2004-08-01", "2005-04-01", "2005-07-01"), "v2": ("2004-08-01", "2005-10-01", "2006-01-01")},
        "constant": {
            "v1": ("2005-05-01", "2005-11-01", "2006-01-01"),
            "v2": ("2006-03-01", "2006-10-01", "2007-01-01"),
        },
    }
)
"""For each version the days that it learnt from: the first, the first of the validation, and the first left out."""


def days_and_versions(kind: Kind) -> World:
    """Return the real days of Google's prices, and two versions trained on earlier ones.

    Parameters
    ----------
    kind
        Forecasters that know the recent volatility (`ewma`), or learnt one width of the interval (`constant`): only
        those are hurt by a market that becomes wilder.
    """
    prices = read_prices(SAMPLE).drop(columns=["open", "adj_close"])
    versions = {name: _trained(prices, kind, *cut) for name, cut in CUTS[kind].items()}
    columns = versions["v1"].forecaster.architecture.needed
    features = price_features(prices, LOOKBACK)
    actual = next_day_return(prices).reindex(features.index)
    calm, wild = (_days(features.loc[slice(*span), list(columns)], actual) for span in (CALM, WILD))
    return World(columns, calm, wild, versions)


def _days(features: pd.DataFrame, actual: pd.Series) -> Days:
    known = actual.reindex(features.index).dropna()
    return Days(features.loc[known.index].to_numpy(float), known.to_numpy(float))


def _trained(prices: pd.DataFrame, kind: Kind, start: str, validation: str, end: str) -> Trained:
    date = prices["date"]
    part = np.select([date < start, date < validation, date < end], ["unused", "train", "validation"], "unused")
    table = prices.assign(split=part)
    settings = TrainingSettings(model="linear", lookback=LOOKBACK, volatility=kind, weight_decay=0.1)
    forecaster = train(table, settings).forecaster
    learnt = examples(table, "train", LOOKBACK)
    reference = learnt.features[list(forecaster.architecture.needed)].assign(actual=learnt.target)
    return Trained(forecaster, reference.reset_index(drop=True))
