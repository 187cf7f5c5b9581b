"""The embedded telemetry store: samples of series in Parquet files of one folder, written by one process, read by any.

```
telemetry/<first ms>-<last ms>-<level>-<number>-<crc32>.parquet    time, metric, labels, value; by series and time
```

A file is whole or absent (written aside, fsynced, renamed) and never changes; its checksum is compared before it is
read, since a turned bit in a Parquet footer can end the process. `flush` writes one. Files of one UTC day
are merged, ten of a level into one of the next, and those of a day that is over into one or a few. A merged file is
there before its parts are removed, so that a crash may leave samples twice; a reader counts a series' sample of one
time once. Series lie in the dictionaries of `metric` and `labels` (those of a row group, which holds few series), times
as differences, values byte by byte.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import logging
import os
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lepton_kit.errors import InputError
from lepton_kit.files import sync_folder, write_atomically
from lepton_kit.telemetry.selectors import SAMPLE_COLUMNS, Selector, labels_text, parse_selector

logger = logging.getLogger(__name__)

DAY = 86_400_000
FAN_IN = 10
"""So many files of one level become one of the next."""
LATE = 3_600_000
"""Milliseconds after which no more samples of a day that is over are waited for."""
GROUP_ROWS = 65_536
FILE_BYTES = 12_000_000
"""Files are not merged into larger ones: a merge holds them in memory, some 30 bytes for each byte on the disk."""
CACHED_ROWS = 3_000_000
"""Rows that a reader keeps decoded, 20 bytes each."""
BUFFERED_ROWS = 2_000_000
"""Rows that may wait for a disk that takes none; the oldest are given up beyond."""

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


class Store:
    """A telemetry store; a `Source` of samples.

    Parameters
    ----------
    folder
        Where its files lie; made when it is first written to.
    retention_days
        A file whose newest sample is older than this, counted from the store's newest, is removed.

    Examples
    --------
    >>> import tempfile
    >>> with Store(Path(tempfile.mkdtemp())) as store:
    ...     store.append([Sample("up", {"job": "goog"}, 1.5, 1.0)])
    ...     store.flush()
    ...     store.query('up{job="goog"}', 0, 60)["value"].tolist()
    [1.0]
    """

    def __init__(self, folder: Path, retention_days: float = 35.0) -> None:
        self.folder = Path(folder)
        self.retention_days = retention_days
        self._reader = _Reader(self.folder)
        self._buffer: list[_Samples] = []
        self._buffering = threading.Lock()
        self._writing = threading.RLock()
        self._held: IO[str] | None = None
        self._numbers = itertools.count(time.time_ns())

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, samples: Iterable[Sample] | pd.DataFrame) -> None:
        """Take samples; the next `flush` puts them on the disk. This store's own queries see them at once.

        Parameters
        ----------
        samples
            `Sample`s, or a table with the columns that `query` returns.
        """
        taken = _from_frame(samples) if isinstance(samples, pd.DataFrame) else _from_samples(samples)
        if len(taken.times) == 0:
            return
        with self._buffering:
            self._buffer.append(taken)
            while len(self._buffer) > 1 and sum(len(part.times) for part in self._buffer) > BUFFERED_ROWS:
                lost = len(self._buffer.pop(0).times)
                logger.warning("telemetry store %s: gave up %d samples that the disk did not take", self.folder, lost)

    def flush(self) -> None:
        """Put what was appended on the disk, merge small files, and remove those beyond the retention.

        Raises
        ------
        InputError
            When another process writes into this store, or the disk takes nothing; the next flush tries again.
        """
        with self._writing:
            with self._buffering:
                waiting = list(self._buffer)
            if not waiting:
                return
            try:
                self._hold()
                for part in _by_day(_merged(waiting)):
                    self._write(part, 0, next(self._numbers))
                with self._buffering:
                    self._buffer = [one for one in self._buffer if not any(one is done for done in waiting)]
                self._merge_files()
                self._remove_old()
            except OSError as error:
                raise InputError(f"telemetry store {self.folder}: cannot be written ({error})") from error

    def close(self) -> None:
        """Flush, and let another process write."""
        with self._writing:
            try:
                self.flush()
            finally:
                if self._held is not None:
                    self._held.close()
                    self._held = None
                self._reader.sets_aside = False

    def query(self, selector: str, start: float, end: float) -> pd.DataFrame:
        """Return the raw samples of the selected series from `start` to `end` (Unix seconds, both included).

        Returns
        -------
        DataFrame
            Columns `time` (UTC, milliseconds), `metric`, `labels` (JSON text) and `value`, in order of metric,
            labels and time.

        Raises
        ------
        InputError
            When the selector is not one, or a file cannot be read for a reason of the system. A damaged file is left
            out with a warning in the log; the process that writes renames it to `….damaged`.
        """
        return as_frame(self.series(selector, start, end))

    def series(self, selector: str, start: float, end: float) -> list[Series]:
        """Return the same as `query`, series by series, without the cost of a table."""
        chosen = parse_selector(selector)
        low, high = _milliseconds_from(start), _milliseconds_until(end)
        with self._buffering:  # before the files: what is flushed meanwhile is found twice, not missed
            waiting = list(self._buffer)
        found: dict[Key, list[tuple[np.ndarray, np.ndarray]]] = {}
        for part in [*self._reader.parts(chosen.metric, low, high), *waiting]:
            for key, times, values in part.select(chosen, low, high):
                found.setdefault(key, []).append((times, values))
        return [Series(*key, *_joined(found[key])) for key in sorted(found)]

    def newest(self) -> float | None:
        """Return the time (Unix seconds) of the newest sample on the disk; None where there is none."""
        last = max((name.last for name in self._reader.files()), default=None)
        return None if last is None else last / 1000

    def _hold(self) -> None:
        """Become the one process that writes; remove what a killed writer left half done."""
        if self._held is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = (self.folder / ".writer.lock").open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise InputError(f"telemetry store {self.folder}: another process writes into it") from None
        self._held = lock
        self._reader.sets_aside = True
        for left in self.folder.glob(".*.parquet.*"):
            left.unlink()

    def _write(self, samples: _Samples, level: int, number: int) -> None:
        content = _parquet(samples)
        first, last = int(samples.times.min()), int(samples.times.max())
        file = _File(first, last, level, number, zlib.crc32(content))
        write_atomically(self.folder / str(file), content)

    def _merge_files(self) -> None:
        while due := _files_to_merge(self._reader.files(), self._size):
            due.sort(key=lambda file: file.number)
            read = {file: parts for file in due if (parts := self._reader.whole(file))}  # none of a damaged one
            if read:
                held = [part for parts in read.values() for part in parts]
                self._write(_merged(held), max(file.level for file in due) + 1, due[-1].number)
            for file in read:
                (self.folder / str(file)).unlink(missing_ok=True)
            sync_folder(self.folder)

    def _size(self, file: _File) -> int:
        try:
            return (self.folder / str(file)).stat().st_size
        except FileNotFoundError:
            return 0

    def _remove_old(self) -> None:
        files = self._reader.files()
        newest = max((file.last for file in files), default=0)
        oldest_kept = min(newest, time.time() * 1000) - self.retention_days * DAY
        for file in files:
            if file.last < oldest_kept:
                (self.folder / str(file)).unlink(missing_ok=True)


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


@dataclass(frozen=True)
class _File:
    """A file's name: the first and last time in it (Unix milliseconds), level, number, and CRC-32.

    Numbers rise; a merged file has the highest of its parts, so that of a sample that is there twice the later counts.
    """

    first: int
    last: int
    level: int
    number: int
    checksum: int

    def __str__(self) -> str:
        return f"{self.first}-{self.last}-{self.level}-{self.number}-{self.checksum}.parquet"

    @property
    def day(self) -> int:
        return self.first // DAY

    @classmethod
    def read(cls, name: str) -> _File | None:
        parts = name.removesuffix(".parquet").split("-")
        if not name.endswith(".parquet") or len(parts) != 5 or not all(part.isdecimal() for part in parts):
            return None
        return cls(*map(int, parts))


@dataclass(frozen=True)
class _Samples:
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


class _Group(NamedTuple):
    """What a row group can hold."""

    first_metric: str
    last_metric: str
    first: int
    last: int


class _Opened(NamedTuple):
    """A file's footer, and what it says of its row groups."""

    metadata: pq.FileMetaData
    groups: list[_Group]


class _Reader:
    """The files of a folder, decoded where a query needs them, and kept while they are asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._opened: dict[_File, _Opened] = {}
        self._decoded: OrderedDict[tuple[_File, int], _Samples] = OrderedDict()
        self._left_out: set[_File] = set()
        self.sets_aside = False
        """Whether a damaged file is renamed: by the process that writes. Who reads changes nothing."""
        self._lock = threading.RLock()

    def files(self) -> list[_File]:
        """Return the files, oldest first.

        They are listed until two lists agree: one list, taken during a merge, could hold neither side of it.
        """
        before = None
        while (now := self._names()) != before:
            before = now
        present = {file for file in map(_File.read, now) if file is not None} - self._left_out
        self._forget(present)
        return sorted(present, key=lambda file: file.number)

    def parts(self, metric: str, low: int, high: int) -> list[_Samples]:
        """Return all row groups that can hold samples of a metric between two times."""
        while True:
            files = [file for file in self.files() if file.first <= high and file.last >= low]
            with contextlib.suppress(FileNotFoundError):  # merged or removed meanwhile: look again
                found = [self._checked(file, partial(self._parts, file, metric, low, high)) for file in files]
                return [part for parts in found for part in parts]

    def whole(self, file: _File) -> list[_Samples]:
        """Return all of a file; nothing where it is damaged or gone."""
        with contextlib.suppress(FileNotFoundError):
            return self._checked(file, partial(self._whole, file))
        return []

    def _names(self) -> set[str]:
        try:
            return {entry.name for entry in os.scandir(self.folder)}
        except FileNotFoundError:
            return set()

    def _forget(self, present: set[_File]) -> None:
        with self._lock:
            for file in self._opened.keys() - present:
                del self._opened[file]
            for key in [key for key in self._decoded if key[0] not in present]:
                del self._decoded[key]

    def _checked(self, file: _File, read: Callable[[], list[_Samples]]) -> list[_Samples]:
        """Return what a file holds; nothing, and a warning once, where it is damaged."""
        try:
            return read()
        except FileNotFoundError:
            raise
        except (pa.ArrowException, ValueError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # the system's fault, not the content's
                raise InputError(f"telemetry store: {self.folder / str(file)} cannot be read ({error})") from error
            self._leave_out(file, error)
            return []

    def _leave_out(self, file: _File, error: Exception) -> None:
        path, told = self.folder / str(file), " ".join(str(error).split())[:300]
        self._left_out.add(file)
        logger.warning("telemetry store: %s is damaged; its samples are left out (%s)", path, told)
        if self.sets_aside:
            with contextlib.suppress(OSError):  # it is left out in any case
                path.replace(path.with_suffix(".damaged"))

    def _open(self, file: _File) -> _Opened:
        with self._lock:
            if file not in self._opened:
                content = (self.folder / str(file)).read_bytes()
                if zlib.crc32(content) != file.checksum:
                    raise ValueError("its content has another checksum than its name says")
                metadata = pq.read_metadata(pa.BufferReader(content))
                groups = [_group(metadata, number) for number in range(metadata.num_row_groups)]
                self._opened[file] = _Opened(metadata, groups)
            return self._opened[file]

    def _parts(self, file: _File, metric: str, low: int, high: int) -> list[_Samples]:
        return [
            self._kept(file, number)
            for number, group in enumerate(self._open(file).groups)
            if group.first_metric <= metric <= group.last_metric and group.first <= high and group.last >= low
        ]

    def _whole(self, file: _File) -> list[_Samples]:
        return [self._decode(file, number) for number in range(len(self._open(file).groups))]

    def _kept(self, file: _File, number: int) -> _Samples:
        with self._lock:
            key = file, number
            if key not in self._decoded:
                self._decoded[key] = self._decode(file, number)
                held = sum(len(part.times) for part in self._decoded.values())
                while held > CACHED_ROWS and len(self._decoded) > 1:
                    held -= len(self._decoded.popitem(last=False)[1].times)
            self._decoded.move_to_end(key)
            return self._decoded[key]

    def _decode(self, file: _File, number: int) -> _Samples:
        path, metadata = self.folder / str(file), self._open(file).metadata
        with pq.ParquetFile(path, metadata=metadata) as parquet:
            return _from_table(parquet.read_row_group(number, columns=list(SAMPLE_COLUMNS), use_threads=False))


def _group(metadata: pq.FileMetaData, number: int) -> _Group:
    group = metadata.row_group(number)
    columns = {group.column(i).path_in_schema: group.column(i).statistics for i in range(group.num_columns)}
    metric, when = columns["metric"], columns["time"]
    if metric is None or when is None or not (metric.has_min_max and when.has_min_max):
        raise ValueError("a row group states no least and greatest metric and time")
    first, last = (int(stamp.timestamp() * 1000 + 0.5) for stamp in (when.min, when.max))
    return _Group(metric.min, metric.max, first, last)


def _from_samples(samples: Iterable[Sample]) -> _Samples:
    held = list(samples)
    keys = [(one.metric, labels_text(one.labels)) for one in held]
    times = np.round(np.array([one.time for one in held], dtype=float) * 1000).astype(np.int64)
    return _sorted(keys, np.arange(len(held)), times, np.array([one.value for one in held], dtype=float))


def _from_frame(frame: pd.DataFrame) -> _Samples:
    if missing := set(SAMPLE_COLUMNS) - set(frame.columns):
        raise InputError(f"samples: no column {sorted(missing)[0]!r}; needed are {', '.join(SAMPLE_COLUMNS)}")
    codes, named = pd.MultiIndex.from_frame(frame[["metric", "labels"]]).factorize()
    times = pd.to_datetime(frame["time"], utc=True).astype("datetime64[ms, UTC]").astype("int64").to_numpy()
    keys = [(str(metric), _canonical(labels)) for metric, labels in named]
    return _sorted(keys, codes, times, frame["value"].to_numpy(dtype=float))


def _canonical(labels: str) -> str:
    try:
        return labels_text(json.loads(labels))
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"samples: labels {str(labels)[:80]!r} are not a JSON object of texts") from error


def _from_table(table: pa.Table) -> _Samples:
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
    return _Samples(keys, codes, times, table["value"].to_numpy())


def _sorted(keys: list[Key], codes: np.ndarray, times: np.ndarray, values: np.ndarray) -> _Samples:
    """Return samples in order; of several of one series and time, the last one counts."""
    if len(times) and times.min() < 0:
        raise InputError(f"samples: a time is {times.min() / 1000} s; must be after 1970")
    distinct = sorted(set(keys))
    place = {key: number for number, key in enumerate(distinct)}
    codes = np.array([place[key] for key in keys], dtype=np.int32)[codes]
    order = _order(codes, times)
    codes, times, values = codes[order], times[order], values[order]
    last = np.r_[(np.diff(codes) != 0) | (np.diff(times) != 0), True] if len(codes) else np.array([], dtype=bool)
    return _Samples(distinct, codes[last], times[last], values[last])


def _order(codes: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return the stable order by code and time; as one number where it fits, since runs in order merge fast then."""
    if len(codes) == 0:
        return np.array([], dtype=np.int64)
    since = times - times.min()
    span = int(since.max()) + 1
    if (int(codes.max()) + 1) * span < 2**62:
        return np.argsort(codes.astype(np.int64) * span + since, kind="stable")
    return np.lexsort((times, codes))


def _merged(parts: list[_Samples]) -> _Samples:
    if len(parts) == 1:
        return parts[0]
    offsets = np.cumsum([0, *(len(part.keys) for part in parts)])
    keys = [key for part in parts for key in part.keys]
    codes = np.concatenate([part.codes + offset for part, offset in zip(parts, offsets, strict=False)])
    return _sorted(
        keys, codes, np.concatenate([part.times for part in parts]), np.concatenate([part.values for part in parts])
    )


def _by_day(samples: _Samples) -> list[_Samples]:
    days = samples.times // DAY
    return [
        _Samples(samples.keys, samples.codes[chosen], samples.times[chosen], samples.values[chosen])
        for chosen in (days == day for day in np.unique(days))
    ]


def _files_to_merge(files: list[_File], size: Callable[[_File], int]) -> list[_File]:
    """Return files of one day that shall become one: ten of a level; of a day that is over, neighbours of any level."""
    now = max((file.last for file in files), default=0)
    by_day = itertools.groupby(sorted(files, key=lambda file: (file.day, file.first)), lambda file: file.day)
    for day, of_day in by_day:
        held = list(of_day)
        is_over = now > (day + 1) * DAY + LATE
        least = 2 if is_over else FAN_IN
        levels = [held] if is_over else [[f for f in held if f.level == level] for level in {f.level for f in held}]
        for candidates in levels:
            for together in _bins(candidates, size):
                if len(together) >= least:
                    return together
    return []


def _bins(files: list[_File], size: Callable[[_File], int]) -> list[list[_File]]:
    """Return neighbours that are small enough to be one file."""
    bins: list[list[_File]] = []
    room = 0
    for file in files:
        if not bins or size(file) > room:
            bins.append([])
            room = FILE_BYTES
        bins[-1].append(file)
        room -= size(file)
    return bins


def _parquet(samples: _Samples) -> bytes:
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


def _group_table(samples: _Samples, rows: slice, schema: pa.Schema) -> pa.Table:
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


def _joined(pieces: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
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


@lru_cache(maxsize=200_000)
def _is_selected(chosen: Selector, labels: str) -> bool:
    return chosen.matches(chosen.metric, json.loads(labels))


def _milliseconds_from(seconds: float) -> int:
    return int(np.ceil(round(max(seconds, -1e12) * 1000, 3)))


def _milliseconds_until(seconds: float) -> int:
    return int(np.floor(round(min(seconds, 1e12) * 1000, 3)))
