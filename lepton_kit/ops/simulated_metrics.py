"""The metrics that a simulated service shows: the real names, labels and buckets, as samples at the scrapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from prometheus_client.utils import floatToGoString

from lepton_kit.telemetry.selectors import SAMPLE_COLUMNS, labels_text, parse_selector

Labels = Mapping[str, str]


@dataclass(frozen=True)
class Series:
    """One series: its metric, its labels, and its value at any (rising) times, in seconds of the simulated clock."""

    metric: str
    labels: Labels
    at: Callable[[np.ndarray], np.ndarray]


def counter(metric: str, labels: Labels, times: np.ndarray, amounts: np.ndarray | None = None) -> Series:
    """Return a counter that grew at some times, by 1 unless amounts are given.

    >>> counter("x_total", {}, np.array([1.0, 3.0])).at(np.array([0.0, 1.0, 5.0])).tolist()
    [0.0, 1.0, 2.0]
    """

    def at(grid: np.ndarray) -> np.ndarray:
        order = np.argsort(times, kind="stable")
        grown = np.arange(len(times) + 1.0) if amounts is None else np.concatenate([[0.0], np.cumsum(amounts[order])])
        reached: np.ndarray = grown[np.searchsorted(times[order], grid, "right")]
        return reached

    return Series(metric, labels, at)


def histogram(
    metric: str, labels: Labels, times: np.ndarray, values: np.ndarray, bounds: Sequence[float]
) -> Iterator[Series]:
    """Give the series of a histogram of values that were observed at some times.

    >>> made = {one.labels.get("le", one.metric): one for one in histogram("x", {}, np.ones(1), np.ones(1), (0.5, 2))}
    >>> [made[le].at(np.array([2.0])).item() for le in ("0.5", "2.0", "+Inf", "x_sum")]
    [0.0, 1.0, 1.0, 1.0]
    """
    for bound in (*bounds, float("inf")):
        yield counter(f"{metric}_bucket", {**labels, "le": floatToGoString(bound)}, times[values <= bound])
    yield counter(f"{metric}_count", labels, times)
    yield counter(f"{metric}_sum", labels, times, values)


def samples(series: Sequence[Series], grid: np.ndarray, epoch: pd.Timestamp, target: Labels) -> pd.DataFrame:
    """Return the samples of series at scrapes, as `metrics.parquet` and a `Source` have them.

    The grid holds the times of the scrapes, in seconds of the simulated clock, which was 0 at the epoch; `target` holds
    the labels that the scraper adds.
    """
    values = np.concatenate([one.at(grid) for one in series]) if series else np.empty(0)
    known = np.isfinite(values)
    stamps = (epoch.value + np.round(grid * 1000).astype("int64") * 1_000_000).astype("datetime64[ns]")
    texts = np.array([labels_text({**one.labels, **target}) for one in series], dtype=object)
    names = np.array([one.metric for one in series], dtype=object)
    columns = {
        "time": pd.DatetimeIndex(np.tile(stamps, len(series))[known], tz="UTC").as_unit("ms"),
        "metric": pd.Series(np.repeat(names, len(grid))[known], dtype=object),
        "labels": pd.Series(np.repeat(texts, len(grid))[known], dtype=object),
        "value": values[known],
    }
    return pd.DataFrame(columns, columns=list(SAMPLE_COLUMNS))


def selected(series: Iterator[Series] | Sequence[Series], selector: str) -> list[Series]:
    """Return the series that a selector means, in order of their labels."""
    wanted = parse_selector(selector)
    found = [one for one in series if wanted.matches(one.metric, one.labels)]
    return sorted(found, key=lambda one: labels_text(one.labels))
