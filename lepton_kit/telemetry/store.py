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

import fcntl
import itertools
import logging
import threading
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd

from lepton_kit.errors import InputError
from lepton_kit.files import sync_folder, write_atomically
from lepton_kit.telemetry.blockfiles import BlockFile, Reader, files_to_merge
from lepton_kit.telemetry.blocks import (
    DAY,
    Key,
    Sample,
    Samples,
    Series,
    as_frame,
    by_day,
    from_frame,
    from_samples,
    joined,
    merged,
    to_parquet,
)
from lepton_kit.telemetry.selectors import parse_selector

__all__ = ["Sample", "Series", "Store"]

logger = logging.getLogger(__name__)

BUFFERED_ROWS = 2_000_000
"""Rows that may wait for a disk that takes none; the oldest are given up beyond."""


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
        self._reader = Reader(self.folder)
        self._buffer: list[Samples] = []
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
        taken = from_frame(samples) if isinstance(samples, pd.DataFrame) else from_samples(samples)
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
                for part in by_day(merged(waiting)):
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
        low, high = _first_millisecond(start), _last_millisecond(end)
        with self._buffering:  # before the files: what is flushed meanwhile is found twice, not missed
            waiting = list(self._buffer)
        found: dict[Key, list[tuple[np.ndarray, np.ndarray]]] = {}
        for part in [*self._reader.parts(chosen.metric, low, high), *waiting]:
            for key, times, values in part.select(chosen, low, high):
                found.setdefault(key, []).append((times, values))
        return [Series(*key, *joined(found[key])) for key in sorted(found)]

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

    def _write(self, samples: Samples, level: int, number: int) -> None:
        content = to_parquet(samples)
        first, last = int(samples.times.min()), int(samples.times.max())
        file = BlockFile(first, last, level, number, zlib.crc32(content))
        write_atomically(self.folder / str(file), content)

    def _merge_files(self) -> None:
        while due := files_to_merge(self._reader.files(), self._size):
            due.sort(key=lambda file: file.number)
            read = {file: parts for file in due if (parts := self._reader.whole(file))}  # none of a damaged one
            if read:
                held = [part for parts in read.values() for part in parts]
                self._write(merged(held), max(file.level for file in due) + 1, due[-1].number)
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


def _first_millisecond(seconds: float) -> int:
    return int(np.ceil(round(max(seconds, -1e12) * 1000, 3)))


def _last_millisecond(seconds: float) -> int:
    return int(np.floor(round(min(seconds, 1e12) * 1000, 3)))
