"""The embedded telemetry store: samples of series in Parquet files of one folder, written by one process, read by any.

```
telemetry/<first ms>-<last ms>-<level>-<number>-<crc32>.parquet    time, metric, labels, value; by series and time
```

A file is whole or absent (written aside, fsynced, renamed) and never changes; its checksum is compared before it is
read, since a turned bit in a Parquet footer can end the process. `flush` writes one. Files of one UTC day
are merged, ten of a level into one of the next, and those of a day that is over into one or a few. A merged file is
there before its parts are removed, so that a crash may leave samples twice; a reader counts a series' sample of one
time once.
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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lepton_kit.errors import InputError
from lepton_kit.files import sync_folder, write_atomically
from lepton_kit.telemetry.selectors import SAMPLE_COLUMNS, Selector, labels_text, parse_selector

logger = logging.getLogger(__name__)

BUFFERED_ROWS = 2_000_000
"""Rows that may wait for a disk that takes none; the oldest are given up beyond."""
CACHED_ROWS = 3_000_000
"""Rows that a reader keeps decoded, some 20 bytes each."""
DAY = 86_400_000
"""Milliseconds."""
FAN_IN = 10
"""This many files of one level become one of the next."""
LATE = 3_600_000
"""Milliseconds after which no more samples of a day that is over are waited for."""
FILE_BYTES = 12_000_000
"""Files are not merged into larger ones: a merge holds them in memory, some 30 bytes for each byte on the disk."""
GROUP_ROWS = 65_536
SMALL_BYTES = 262_144
"""A file up to this size is read as a whole, by who asks for one metric."""

NAMES = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema({"time": pa.timestamp("ms", "UTC"), "metric": NAMES, "labels": NAMES, "value": pa.float64()})
TEXTS = pa.schema([one.with_type(pa.large_string()) if one.type == NAMES else one for one in SCHEMA])


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
        self._buffer: list[pa.Table] = []
        self._buffering = threading.Lock()
        self._writing = threading.RLock()
        self._held: IO[str] | None = None
        self._numbers = itertools.count(time.time_ns())

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, samples: Iterable[Sample] | pd.DataFrame) -> None:
        """Take samples, or a table of them as `query` returns; the next `flush` puts them on the disk.

        This store's own queries see them at once.

        Raises InputError when a column is missing, labels are not a JSON object, or a time lies before 1970.
        """
        taken = _from_frame(samples) if isinstance(samples, pd.DataFrame) else _from_samples(list(samples))
        if len(taken) == 0:
            return
        if (first := pc.min(taken["time"]).value) < 0:
            raise InputError(f"samples: a time is {first / 1000} s; must be after 1970")
        with self._buffering:
            self._buffer.append(taken)
            while len(self._buffer) > 1 and sum(map(len, self._buffer)) > BUFFERED_ROWS:
                lost = len(self._buffer.pop(0))
                logger.warning("telemetry store %s: gave up %d samples that the disk did not take", self.folder, lost)

    def flush(self) -> None:
        """Put what was appended on the disk, merge small files, and remove those beyond the retention.

        Raises InputError when another process writes into this store, or the disk takes nothing; the next flush tries
        again.
        """
        with self._writing:
            with self._buffering:
                waiting = list(self._buffer)
            if not waiting:
                return
            try:
                self._hold()
                for part in _by_day(_ordered(waiting)):
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
        """Return the raw samples of the selected series, as every `Source` does, in order of metric, labels and time.

        Raises InputError when the selector is not one, or a file cannot be read for a reason of the system. A damaged
        file is left out with a warning in the log; the process that writes renames it to `….damaged`.
        """
        chosen = parse_selector(selector)
        low, high = int(np.ceil(round(max(start, -1e12) * 1000, 3))), int(np.floor(round(min(end, 1e12) * 1000, 3)))
        with self._buffering:  # before the files: what is flushed meanwhile is found twice, not missed
            waiting = [_of_metric(part, chosen.metric) for part in self._buffer]
        parts = [*self._reader.parts(chosen.metric, low, high), *waiting]
        found = _ordered([_selected(part, chosen, low, high) for part in parts])
        frame: pd.DataFrame = found.cast(TEXTS).to_pandas()  # from dictionaries pandas would make categories first
        return frame

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

    def _write(self, table: pa.Table, level: int, number: int) -> None:
        content = pa.BufferOutputStream()
        pq.write_table(
            table, content, row_group_size=GROUP_ROWS, compression="zstd", compression_level=3,
            use_dictionary=["metric", "labels"], write_statistics=["metric", "time"],
            column_encoding={"time": "DELTA_BINARY_PACKED", "value": "BYTE_STREAM_SPLIT"},
        )  # fmt: skip
        written = content.getvalue()
        times = table["time"].cast(pa.int64()).to_numpy()
        file = BlockFile(int(times.min()), int(times.max()), level, number, zlib.crc32(written))
        write_atomically(self.folder / str(file), written.to_pybytes())

    def _merge_files(self) -> None:
        while due := files_to_merge(self._reader.files(), self._size):
            due.sort(key=lambda file: file.number)
            read = {file: table for file in due if (table := self._reader.whole(file)) is not None}
            if read:
                self._write(_ordered(list(read.values())), max(file.level for file in due) + 1, due[-1].number)
            for file in read:
                (self.folder / str(file)).unlink(missing_ok=True)
            sync_folder(self.folder)

    def _size(self, file: BlockFile) -> int:
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


# --- tables of samples ------------------------------------------------------------------------------------------------


def _from_samples(samples: Sequence[Sample]) -> pa.Table:
    times = np.round(np.array([one.time for one in samples], dtype=float) * 1000).astype(np.int64)
    metrics, labels = [one.metric for one in samples], [labels_text(one.labels) for one in samples]
    return _table(times, metrics, labels, [one.value for one in samples])


def _from_frame(frame: pd.DataFrame) -> pa.Table:
    if missing := set(SAMPLE_COLUMNS) - set(frame.columns):
        raise InputError(f"samples: no column {sorted(missing)[0]!r}; needed are {', '.join(SAMPLE_COLUMNS)}")
    times = pd.to_datetime(frame["time"], utc=True).astype("datetime64[ms, UTC]").astype("int64").to_numpy()
    labels = frame["labels"].map({text: _canonical(text) for text in frame["labels"].unique()})
    return _table(times, frame["metric"].astype(str), labels, frame["value"].to_numpy(dtype=float))


def _canonical(labels: str) -> str:
    try:
        return labels_text(json.loads(labels))
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"samples: labels {str(labels)[:80]!r} are not a JSON object of texts") from error


def _table(times: np.ndarray, metrics: Iterable[str], labels: Iterable[str], values: Iterable[float]) -> pa.Table:
    names = [pa.array(texts, pa.string()).dictionary_encode() for texts in (metrics, labels)]
    when = pa.array(times, pa.int64()).cast(pa.timestamp("ms", "UTC"))
    return pa.Table.from_arrays([when, *names, pa.array(values, pa.float64())], schema=SCHEMA)


def _ordered(tables: Sequence[pa.Table]) -> pa.Table:
    """Return samples in order of series and time; of several of one series and time, the last one counts."""
    table = pa.concat_tables(tables) if tables else SCHEMA.empty_table()
    table = table.unify_dictionaries().combine_chunks()
    if len(table) == 0:
        return table
    names = [table[column].chunk(0) for column in ("metric", "labels")]
    metric, labels = (
        pc.rank(one.dictionary, tiebreaker="dense").to_numpy()[one.indices.to_numpy()].astype(np.int64) for one in names
    )
    times = table["time"].cast(pa.int64()).to_numpy()
    order = np.lexsort((times, labels, metric))
    steps = [np.diff(values[order]) != 0 for values in (metric, labels, times)]
    is_last = np.append(np.logical_or.reduce(steps), True)
    return table.take(pa.array(order[is_last]))


def _of_metric(table: pa.Table, metric: str) -> pa.Table:
    """Return the samples of one metric."""
    return table.filter(pc.equal(table["metric"].cast("string"), metric))


def _by_day(table: pa.Table) -> list[pa.Table]:
    days = table["time"].cast(pa.int64()).to_numpy() // DAY
    return [table.filter(pa.array(days == day)) for day in np.unique(days)]


def _selected(table: pa.Table, chosen: Selector, low: int, high: int) -> pa.Table:
    """Return the samples of one metric's table whose labels are selected, with times from `low` to `high` (ms)."""
    if len(table) == 0:
        return table
    labels = table["labels"].unify_dictionaries().combine_chunks()
    labels = labels.chunk(0) if isinstance(labels, pa.ChunkedArray) else labels
    fits = np.array([_is_selected(chosen, text) for text in labels.dictionary.to_pylist()], dtype=bool)
    times = table["time"].cast(pa.int64()).to_numpy()
    return table.filter(pa.array(fits[labels.indices.to_numpy()] & (times >= low) & (times <= high)))


@lru_cache(maxsize=200_000)
def _is_selected(chosen: Selector, labels: str) -> bool:
    return chosen.matches(chosen.metric, json.loads(labels))


# --- files ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BlockFile:
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
        """The UTC day, as its number since 1970."""
        return self.first // DAY

    @classmethod
    def read(cls, name: str) -> BlockFile | None:
        """Return what a name says; None where it is not that of a block."""
        parts = name.removesuffix(".parquet").split("-")
        if not name.endswith(".parquet") or len(parts) != 5 or not all(part.isdecimal() for part in parts):
            return None
        return cls(*map(int, parts))


class _Reader:
    """The files of a folder: a metric's samples are read where a query needs them, and kept for the next."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sound: set[BlockFile] = set()
        self._small: set[BlockFile] = set()
        self._left_out: set[BlockFile] = set()
        self._kept: OrderedDict[tuple[BlockFile, str | None], pa.Table] = OrderedDict()
        self.sets_aside = False
        """Whether a damaged file is renamed: by the process that writes. Who reads changes nothing."""
        self._lock = threading.RLock()

    def files(self) -> list[BlockFile]:
        """Return the files, oldest first.

        They are listed until two lists agree: one list, taken during a merge, could hold neither side of it.
        """
        before = None
        while (now := self._names()) != before:
            before = now
        present = {file for file in map(BlockFile.read, now) if file is not None} - self._left_out
        with self._lock:
            self._sound &= present
            self._small &= present
            for key in [key for key in self._kept if key[0] not in present]:
                del self._kept[key]
        return sorted(present, key=lambda file: file.number)

    def parts(self, metric: str, low: int, high: int) -> list[pa.Table]:
        """Return the samples of a metric in each file that can hold some between two times."""
        while True:
            files = [file for file in self.files() if file.first <= high and file.last >= low]
            with contextlib.suppress(FileNotFoundError):  # merged or removed meanwhile: look again
                found = [self._checked(file, partial(self._of_metric, file, metric)) for file in files]
                return [part for part in found if part is not None]

    def whole(self, file: BlockFile) -> pa.Table | None:
        """Return all of a file; None where it is damaged or gone."""
        with contextlib.suppress(FileNotFoundError):
            return self._checked(file, partial(self._read, file))
        return None

    def _names(self) -> set[str]:
        try:
            return {entry.name for entry in os.scandir(self.folder)}
        except FileNotFoundError:
            return set()

    def _checked(self, file: BlockFile, read: Callable[[], pa.Table]) -> pa.Table | None:
        """Return what is read of a file; None, and a warning once, where it is damaged."""
        path = self.folder / str(file)
        try:
            if file not in self._sound:
                content = path.read_bytes()
                if zlib.crc32(content) != file.checksum:
                    raise ValueError("its content has another checksum than its name says")
                self._sound.add(file)
                if len(content) <= SMALL_BYTES:
                    self._small.add(file)
            return read()
        except FileNotFoundError:
            raise
        except (pa.ArrowException, ValueError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # the system's fault, not the content's
                raise InputError(f"telemetry store: {path} cannot be read ({error})") from error
            told = " ".join(str(error).split())[:300]
            self._left_out.add(file)
            logger.warning("telemetry store: %s is damaged; its samples are left out (%s)", path, told)
            if self.sets_aside:
                with contextlib.suppress(OSError):  # it is left out in any case
                    path.replace(path.with_suffix(".damaged"))
            return None

    def _of_metric(self, file: BlockFile, metric: str) -> pa.Table:
        with self._lock:
            key = file, metric
            if key not in self._kept:
                self._kept[key] = self._of_small(file, metric) if file in self._small else self._read(file, metric)
                held = sum(map(len, self._kept.values()))
                while held > CACHED_ROWS and len(self._kept) > 1:
                    held -= len(self._kept.popitem(last=False)[1])
            self._kept.move_to_end(key)
            return self._kept[key]

    def _of_small(self, file: BlockFile, metric: str) -> pa.Table:
        """Return a metric's samples of a file that is read once for all: to open one costs more than what is in it."""
        if (whole := self._kept.get((file, None))) is None:
            whole = self._kept[file, None] = self._read(file)
        return _of_metric(whole, metric)

    def _read(self, file: BlockFile, metric: str | None = None) -> pa.Table:
        """Return a file, or of it a metric's samples: only the row groups that can hold some are read."""
        chosen = None if metric is None else pc.field("metric") == metric
        path = self.folder / str(file)
        return pq.read_table(path, columns=SCHEMA.names, filters=chosen, use_threads=False, partitioning=None)


def files_to_merge(files: list[BlockFile], size: Callable[[BlockFile], int]) -> list[BlockFile]:
    """Return files of one day to merge into one: ten of a level; of a day that is over, neighbours of any level."""
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


def _bins(files: list[BlockFile], size: Callable[[BlockFile], int]) -> list[list[BlockFile]]:
    """Return neighbours that are small enough to be one file."""
    bins: list[list[BlockFile]] = []
    room = 0
    for file in files:
        if not bins or size(file) > room:
            bins.append([])
            room = FILE_BYTES
        bins[-1].append(file)
        room -= size(file)
    return bins
