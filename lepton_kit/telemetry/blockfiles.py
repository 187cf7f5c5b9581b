"""The files of the telemetry store: their names, how they are read, and which of them shall be merged."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from lepton_kit.errors import InputError
from lepton_kit.telemetry.blocks import DAY, Group, Samples, from_table, read_group
from lepton_kit.telemetry.selectors import SAMPLE_COLUMNS

logger = logging.getLogger(__name__)

FAN_IN = 10
"""So many files of one level become one of the next."""
LATE = 3_600_000
"""Milliseconds after which no more samples of a day that is over are waited for."""
FILE_BYTES = 12_000_000
"""Files are not merged into larger ones: a merge holds them in memory, some 30 bytes for each byte on the disk."""
CACHED_ROWS = 3_000_000
"""Rows that a reader keeps decoded, 20 bytes each."""


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


class _Opened(NamedTuple):
    """A file's footer, and what it says of its row groups."""

    metadata: pq.FileMetaData
    groups: list[Group]


class Reader:
    """The files of a folder, decoded where a query needs them, and kept while they are asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._opened: dict[BlockFile, _Opened] = {}
        self._decoded: OrderedDict[tuple[BlockFile, int], Samples] = OrderedDict()
        self._left_out: set[BlockFile] = set()
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
        self._forget(present)
        return sorted(present, key=lambda file: file.number)

    def parts(self, metric: str, low: int, high: int) -> list[Samples]:
        """Return all row groups that can hold samples of a metric between two times."""
        while True:
            files = [file for file in self.files() if file.first <= high and file.last >= low]
            with contextlib.suppress(FileNotFoundError):  # merged or removed meanwhile: look again
                found = [self._checked(file, partial(self._parts, file, metric, low, high)) for file in files]
                return [part for parts in found for part in parts]

    def whole(self, file: BlockFile) -> list[Samples]:
        """Return all of a file; nothing where it is damaged or gone."""
        with contextlib.suppress(FileNotFoundError):
            return self._checked(file, partial(self._whole, file))
        return []

    def _names(self) -> set[str]:
        try:
            return {entry.name for entry in os.scandir(self.folder)}
        except FileNotFoundError:
            return set()

    def _forget(self, present: set[BlockFile]) -> None:
        with self._lock:
            for file in self._opened.keys() - present:
                del self._opened[file]
            for key in [key for key in self._decoded if key[0] not in present]:
                del self._decoded[key]

    def _checked(self, file: BlockFile, read: Callable[[], list[Samples]]) -> list[Samples]:
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

    def _leave_out(self, file: BlockFile, error: Exception) -> None:
        path, told = self.folder / str(file), " ".join(str(error).split())[:300]
        self._left_out.add(file)
        logger.warning("telemetry store: %s is damaged; its samples are left out (%s)", path, told)
        if self.sets_aside:
            with contextlib.suppress(OSError):  # it is left out in any case
                path.replace(path.with_suffix(".damaged"))

    def _open(self, file: BlockFile) -> _Opened:
        with self._lock:
            if file not in self._opened:
                content = (self.folder / str(file)).read_bytes()
                if zlib.crc32(content) != file.checksum:
                    raise ValueError("its content has another checksum than its name says")
                metadata = pq.read_metadata(pa.BufferReader(content))
                groups = [read_group(metadata, number) for number in range(metadata.num_row_groups)]
                self._opened[file] = _Opened(metadata, groups)
            return self._opened[file]

    def _parts(self, file: BlockFile, metric: str, low: int, high: int) -> list[Samples]:
        return [
            self._kept(file, number)
            for number, group in enumerate(self._open(file).groups)
            if group.first_metric <= metric <= group.last_metric and group.first <= high and group.last >= low
        ]

    def _whole(self, file: BlockFile) -> list[Samples]:
        return [self._decode(file, number) for number in range(len(self._open(file).groups))]

    def _kept(self, file: BlockFile, number: int) -> Samples:
        with self._lock:
            key = file, number
            if key not in self._decoded:
                self._decoded[key] = self._decode(file, number)
                held = sum(len(part.times) for part in self._decoded.values())
                while held > CACHED_ROWS and len(self._decoded) > 1:
                    held -= len(self._decoded.popitem(last=False)[1].times)
            self._decoded.move_to_end(key)
            return self._decoded[key]

    def _decode(self, file: BlockFile, number: int) -> Samples:
        path, metadata = self.folder / str(file), self._open(file).metadata
        with pq.ParquetFile(path, metadata=metadata) as parquet:
            return from_table(parquet.read_row_group(number, columns=list(SAMPLE_COLUMNS), use_threads=False))


def files_to_merge(files: list[BlockFile], size: Callable[[BlockFile], int]) -> list[BlockFile]:
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
