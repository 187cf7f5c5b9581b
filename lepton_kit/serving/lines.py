"""Files of JSON lines that several processes append to, bounded in size."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

LOG_BYTES = 64 * 1024 * 1024
QUARANTINE = "quarantine.jsonl"
QUARANTINE_BYTES = 8 * 1024 * 1024


class Lines:
    """A file of JSON lines; once it is large it is put aside (`<name>.1.jsonl`), and the one before removed.

    Parameters
    ----------
    path
        The file, which ends with `.jsonl`.
    most_bytes
        How large it may become, about; twice as much is kept.
    look_every
        Lines that a process writes between two looks at the size.
    """

    def __init__(self, path: Path, most_bytes: int, look_every: int = 1000) -> None:
        self._path, self._most_bytes, self._look_every = path, most_bytes, look_every
        self._file: int | None = None  # made with the first line, which some files never have
        self._count, self._lost, self._torn = 0, 0, b""

    def append(self, line: dict[str, Any]) -> None:
        """Append one line, in one write: those of several processes do not mix.

        A line that the disk refuses is lost; the next one that it takes tells how many were, as `lost_before`.
        """
        text = json.dumps({**line, "lost_before": self._lost} if self._lost else line)
        whole = self._torn + text.encode() + b"\n"
        try:
            self._file = self._opened() if self._file is None else self._file
            written = os.write(self._file, whole)
        except OSError:
            written = 0
        if written == len(whole):
            self._lost, self._torn = 0, b""
        else:
            self._lost, self._torn = self._lost + 1, b"\n" if written else self._torn
        self._count += 1
        if self._file is not None and self._count % self._look_every == 0:
            with contextlib.suppress(OSError):  # the old file goes on; the next look tries again
                self._turn(self._file)

    def _opened(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)

    def _turn(self, file: int) -> None:
        """Put a large file aside, and follow where another worker did so."""
        held = os.fstat(file)
        try:
            is_mine = self._path.stat().st_ino == held.st_ino
        except FileNotFoundError:
            is_mine = False
        if is_mine and held.st_size > self._most_bytes:
            self._path.replace(self._path.with_suffix(".1.jsonl"))
        elif is_mine:
            return
        self._file = self._opened()
        os.close(file)


class LineLog(Lines):
    """The service's log, at most 64 MiB twice.

    Only what the service itself says stands in it: no body, no header, no query.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, LOG_BYTES)

    def write(self, level: str, message: str, **fields: Any) -> None:
        """Append one line."""
        self.append({"time": time_text(), "level": level, "message": message, "fields": {**fields, "pid": os.getpid()}})


class Quarantine(Lines):
    """The rows that a service refused to forecast from: kept aside for a person to look at, never to learn from.

    A line holds `time`, `request_id`, `row`, `version`, and `values` as they were received.
    """

    def __init__(self, folder: Path, most_bytes: int = QUARANTINE_BYTES) -> None:
        super().__init__(folder / QUARANTINE, most_bytes, look_every=100)

    def keep(
        self, request_id: str, version: str, columns: Sequence[str], received: np.ndarray, which: np.ndarray
    ) -> None:
        """Keep those rows of a request (rows, columns) that `which` (rows) tells."""
        head = {"time": time_text(), "request_id": request_id, "version": version}
        for number in np.flatnonzero(which).tolist():
            values = zip(columns, received[number].tolist(), strict=True)
            known = {n: None if isinstance(v, float) and not math.isfinite(v) else v for n, v in values}
            self.append({**head, "row": number, "values": known})


def time_text() -> str:
    """Return the time now, as a line has it: ISO 8601, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
