"""Blocks of the telemetry store: samples in order of series and time, in memory and as one Parquet file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lepton_kit.errors import InputError
from lepton_kit.telemetry.selectors import SAMPLE_COLUMNS, Selector, labels_text

DAY = 86_400_000
"""Milliseconds."""
GROUP_ROWS = 65_536
Key = tuple[str, str]
"""A series: its metric and its labels (text)."""


class Series(NamedTuple):
    """The samples of one series: times (n,) in Unix milliseconds, rising; values (n,)."""

    metric: str
    labels: str
    times: np.ndarray
    values: np.ndarray


class Sample(NamedTuple):
    """One sample: a metric, its labels, the time in Unix seconds, and the value."""

    metric: str
    labels: dict[str, str]
    time: float
    value: float


@dataclass(frozen=True)
class Samples:
    """Samples in order of series and time; `codes` (n,) are places in `keys`, which are sorted."""

    keys: list[Key]
    codes: np.ndarray
    times: np.ndarray
    values: np.ndarray

    @cached_property
    def places(self) -> dict[str, list[int]]:
        """The places of each metric's series."""
        found: dict[str, list[int]] = {}
        for place, (metric, _) in enumerate(self.keys):
            found.setdefault(metric, []).append(place)
        return found

    def select(self, chosen: Selector, low: int, high: int) -> Iterator[tuple[Key, np.ndarray, np.ndarray]]:
        """Give the samples of each selected series with times from `low` to `high`."""
        for place in self.places.get(chosen.metric, ()):
            if not _is_selected(chosen, self.keys[place][1]):
                continue
            begin, end = np.searchsorted(self.codes, [place, place + 1])
            times = self.times[begin:end]
            inside = slice(begin + np.searchsorted(times, low), begin + np.searchsorted(times, high, "right"))
            if inside.start < inside.stop:
                yield self.keys[place], self.times[inside], self.values[inside]


def as_frame(series: Iterable[Series]) -> pd.DataFrame:
    """Return series as one table: `time` (UTC, milliseconds), `metric`, `labels` and `value`."""
    held = list(series)
    counts = np.array([len(one.times) for one in held], dtype=np.int64)
    times = np.concatenate([one.times for one in held]) if held else np.array([], dtype=np.int64)
    codes = pa.array(np.repeat(np.arange(len(held), dtype=np.int32), counts))
    metrics, labels = ([one[place] for one in held] for place in (0, 1))
    columns = {
        "time": pd.Series(times.astype("datetime64[ms]")).dt.tz_localize("UTC"),
        "metric": pa.array(metrics, pa.large_string()).take(codes).to_pandas().astype("str"),
        "labels": pa.array(labels, pa.large_string()).take(codes).to_pandas().astype("str"),
        "value": np.concatenate([one.values for one in held]) if held else np.array([], dtype=float),
    }
    return pd.DataFrame(columns, columns=list(SAMPLE_COLUMNS))


def from_samples(samples: Iterable[Sample]) -> Samples:
    """Return samples in order.

    Raises
    ------
    InputError
        When a time lies before 1970.
    """
    held = list(samples)
    keys = [(one.metric, labels_text(one.labels)) for one in held]
    times = np.round(np.array([one.time for one in held], dtype=float) * 1000).astype(np.int64)
    return _sorted(keys, np.arange(len(held)), times, np.array([one.value for one in held], dtype=float))


def from_frame(frame: pd.DataFrame) -> Samples:
    """Return the samples of a table (`time`, `metric`, `labels`, `value`) in order.

    Raises
    ------
    InputError
        When a column is missing, labels are not a JSON object, or a time lies before 1970.
    """
    if missing := set(SAMPLE_COLUMNS) - set(frame.columns):
        raise InputError(f"samples: no column {sorted(missing)[0]!r}; needed are {', '.join(SAMPLE_COLUMNS)}")
    codes, named = pd.MultiIndex.from_frame(frame[["metric", "labels"]]).factorize()
    times = pd.to_datetime(frame["time"], utc=True).astype("datetime64[ms, UTC]").astype("int64").to_numpy()
    keys = [(str(metric), _canonical(labels)) for metric, labels in named]
    return _sorted(keys, codes, times, frame["value"].to_numpy(dtype=float))


def from_table(table: pa.Table) -> Samples:
    """Return a row group, which lies in order of series and time already."""
    table = table.unify_dictionaries().combine_chunks()
    pairs, names = [], []
    for column in ("metric", "labels"):
        array = table[column].chunk(0)
        pairs.append(array.indices.to_numpy().astype(np.int64))
        names.append(array.dictionary.to_pylist())
    metric, labels = pairs
    begins = np.flatnonzero(np.r_[True, (np.diff(metric) != 0) | (np.diff(labels) != 0)])
    keys = [(names[0][metric[i]], names[1][labels[i]]) for i in begins]
    codes = np.repeat(np.arange(len(keys), dtype=np.int32), np.diff([*begins, len(metric)]))
    times = table["time"].to_numpy().astype("datetime64[ms]").astype(np.int64)
    return Samples(keys, codes, times, table["value"].to_numpy())


def merged(parts: list[Samples]) -> Samples:
    """Return several blocks as one; of several samples of one series and time, the last one counts."""
    if len(parts) == 1:
        return parts[0]
    offsets = np.cumsum([0, *(len(part.keys) for part in parts)])
    keys = [key for part in parts for key in part.keys]
    codes = np.concatenate([part.codes + offset for part, offset in zip(parts, offsets, strict=False)])
    return _sorted(
        keys, codes, np.concatenate([part.times for part in parts]), np.concatenate([part.values for part in parts])
    )


def by_day(samples: Samples) -> list[Samples]:
    """Return a block for each UTC day."""
    days = samples.times // DAY
    return [
        Samples(samples.keys, samples.codes[chosen], samples.times[chosen], samples.values[chosen])
        for chosen in (days == day for day in np.unique(days))
    ]


def joined(pieces: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Return one series' samples from several files in order of time, each time once."""
    if len(pieces) == 1:
        return pieces[0]
    times, values = (np.concatenate(each) for each in zip(*pieces, strict=True))
    if np.all(np.diff(times) > 0):
        return times, values
    order = np.argsort(times, kind="stable")
    times, values = times[order], values[order]
    last = np.r_[np.diff(times) != 0, True]
    return times[last], values[last]


def to_parquet(samples: Samples) -> bytes:
    """Return a file of samples in row groups, each with the names of its own series alone."""
    schema = pa.schema(
        {
            "time": pa.timestamp("ms", "UTC"),
            "metric": pa.dictionary(pa.int32(), pa.string()),
            "labels": pa.dictionary(pa.int32(), pa.string()),
            "value": pa.float64(),
        }
    )
    content = pa.BufferOutputStream()
    writer = pq.ParquetWriter(
        content, schema, compression="zstd", compression_level=3, use_dictionary=["metric", "labels"],
        column_encoding={"time": "DELTA_BINARY_PACKED", "value": "BYTE_STREAM_SPLIT"},
        write_statistics=["metric", "time"],
    )  # fmt: skip
    with writer:
        for begin in range(0, len(samples.times), GROUP_ROWS):
            writer.write_table(_group_table(samples, slice(begin, begin + GROUP_ROWS), schema))
    written: bytes = content.getvalue().to_pybytes()
    return written


class Group(NamedTuple):
    """What a row group can hold."""

    first_metric: str
    last_metric: str
    first: int
    last: int


def read_group(metadata: pq.FileMetaData, number: int) -> Group:
    """Return what a file's footer says of a row group.

    Raises
    ------
    ValueError
        When it does not say it.
    """
    group = metadata.row_group(number)
    columns = {group.column(i).path_in_schema: group.column(i).statistics for i in range(group.num_columns)}
    metric, when = columns["metric"], columns["time"]
    if metric is None or when is None or not (metric.has_min_max and when.has_min_max):
        raise ValueError("a row group states no least and greatest metric and time")
    first, last = (int(stamp.timestamp() * 1000 + 0.5) for stamp in (when.min, when.max))
    return Group(metric.min, metric.max, first, last)


def _canonical(labels: str) -> str:
    try:
        return labels_text(json.loads(labels))
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"samples: labels {str(labels)[:80]!r} are not a JSON object of texts") from error


def _sorted(keys: list[Key], codes: np.ndarray, times: np.ndarray, values: np.ndarray) -> Samples:
    """Return samples in order; of several of one series and time, the last one counts."""
    if len(times) and times.min() < 0:
        raise InputError(f"samples: a time is {times.min() / 1000} s; must be after 1970")
    distinct = sorted(set(keys))
    place = {key: number for number, key in enumerate(distinct)}
    codes = np.array([place[key] for key in keys], dtype=np.int32)[codes]
    order = _order(codes, times)
    codes, times, values = codes[order], times[order], values[order]
    last = np.r_[(np.diff(codes) != 0) | (np.diff(times) != 0), True] if len(codes) else np.array([], dtype=bool)
    return Samples(distinct, codes[last], times[last], values[last])


def _order(codes: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return the stable order by code and time; as one number where it fits, since runs in order merge fast then."""
    if len(codes) == 0:
        return np.array([], dtype=np.int64)
    since = times - times.min()
    span = int(since.max()) + 1
    if (int(codes.max()) + 1) * span < 2**62:
        return np.argsort(codes.astype(np.int64) * span + since, kind="stable")
    return np.lexsort((times, codes))


def _group_table(samples: Samples, rows: slice, schema: pa.Schema) -> pa.Table:
    used, codes = np.unique(samples.codes[rows], return_inverse=True)
    columns = []
    for place in (0, 1):
        names = [samples.keys[code][place] for code in used]
        distinct = sorted(set(names))
        number = {name: i for i, name in enumerate(distinct)}
        own = np.array([number[name] for name in names], dtype=np.int32)[codes]
        columns.append(pa.DictionaryArray.from_arrays(pa.array(own), pa.array(distinct, pa.string())))
    times = pa.array(samples.times[rows], pa.int64()).cast(pa.timestamp("ms", "UTC"))
    return pa.Table.from_arrays([times, *columns, pa.array(samples.values[rows], pa.float64())], schema=schema)


@lru_cache(maxsize=200_000)
def _is_selected(chosen: Selector, labels: str) -> bool:
    return chosen.matches(chosen.metric, json.loads(labels))
