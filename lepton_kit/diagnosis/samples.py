"""Samples of the service's own metrics as series by time: gauges added up, counters as what they grew."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pandas as pd

from lepton_kit.telemetry.recordings import Recording

NO_SAMPLES = pd.Series(dtype=float, index=pd.DatetimeIndex([], tz="UTC"))


def gauge(samples: pd.DataFrame, **labels: str) -> pd.Series:
    """Return a gauge by time, added up over its series with these labels, from what `Recording.samples` gives.

    >>> time = pd.to_datetime([0, 0, 10, 10], unit="s", utc=True)
    >>> held = pd.DataFrame({"time": time, "labels": ['{"pid":"1"}', '{"pid":"2"}'] * 2, "value": [1.0, 2.0, 3.0, 4.0]})
    >>> gauge(held).tolist(), gauge(held, pid="2").tolist()
    ([3.0, 7.0], [2.0, 4.0])
    """
    chosen = _with_labels(samples, labels)
    by_time: pd.Series = chosen.groupby("time")["value"].sum()
    return by_time


def growth(samples: pd.DataFrame, **labels: str) -> pd.Series:
    """Return what a counter grew since the scrape before, by time, added up over its series.

    A counter that fell was reset, and grew by its value; a series that first shows grew from 0 if there was a scrape
    before.

    >>> time = pd.to_datetime([0, 10, 20, 30], unit="s", utc=True)
    >>> growth(pd.DataFrame({"time": time, "labels": "{}", "value": [5.0, 7.0, 1.0, 1.0]})).tolist()
    [2.0, 1.0, 0.0]
    """
    chosen = _with_labels(samples, labels)
    if chosen.empty:
        return NO_SAMPLES
    wide = chosen.pivot_table(index="time", columns="labels", values="value", aggfunc="last")
    wide = wide.reindex(samples["time"].drop_duplicates().sort_values())
    values = wide.ffill().fillna(0.0)
    grown = values.diff()
    by_time: pd.Series = grown.where(grown >= 0, values).iloc[1:].sum(axis=1)
    return by_time


def _with_labels(samples: pd.DataFrame, labels: Mapping[str, str]) -> pd.DataFrame:
    if not labels or samples.empty:
        return samples
    fitting = [text for text in samples["labels"].unique() if labels.items() <= json.loads(text).items()]
    return samples[samples["labels"].isin(fitting)]


def mean_seconds(recording: Recording, role: str) -> pd.Series:
    """Return the mean of what a histogram's signal counted since the scrape before, s; without those of no event."""
    total, count = (growth(recording.samples(role, part)) for part in ("sum", "count"))
    total, count = total.align(count, join="inner")
    mean: pd.Series = (total / count.where(count > 0)).replace([np.inf, -np.inf], np.nan).dropna()
    return mean
