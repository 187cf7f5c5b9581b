"""Files of JSON lines that several processes append to, bounded in size."""

from __future__ import annotations

import contextlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

LOG_BYTES = 64 * 1024 * 1024


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
        self._file, self._count = self._opened(), 0
        self._lost, self._torn = 0, b""

    def append(self, line: dict[str, Any]) -> None:
        """Append one line, in one write: those of several processes do not mix.

        A line that the disk refuses is lost; the next one that it takes tells how many were, as `lost_before`.
        """
        text = json.dumps({**line, "lost_before": self._lost} if self._lost else line)
        whole = self._torn + text.encode() + b"\n"
        try:
            written = os.write(self._file, whole)
        except OSError:
            written = 0
        if written == len(whole):
            self._lost, self._torn = 0, b""
        else:
            self._lost, self._torn = self._lost + 1, b"\n" if written else self._torn
        self._count += 1
        if self._count % self._look_every == 0:
            with contextlib.suppress(OSError):  # the old file goes on; the next look tries again
                self._turn()

    def _opened(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)

    def _turn(self) -> None:
        """Put a large file aside, and follow where another worker did so."""
        held = os.fstat(self._file)
        try:
            is_mine = self._path.stat().st_ino == held.st_ino
        except FileNotFoundError:
            is_mine = False
        if is_mine and held.st_size > self._most_bytes:
            self._path.replace(self._path.with_suffix(".1.jsonl"))
        elif is_mine:
            return
        before, self._file = self._file, self._opened()
        os.close(before)


class LineLog(Lines):
    """The service's log, at most 64 MiB twice.

    Only what the service itself says stands in it: no body, no header, no query.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, LOG_BYTES)

    def write(self, level: str, message: str, **fields: Any) -> None:
        """Append one line."""
        self.append({"time": time_text(), "level": level, "message": message, "fields": {**fields, "pid": os.getpid()}})


def time_text() -> str:
    """Return the time now, as a line has it: ISO 8601, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
