"""The request log: every request as rows, safe from a crash, bounded by size and age.

requests/requests.sqlite   the rows, committed within milliseconds, and all feedback on them
service.jsonl              what the service itself says, in lines that several processes append to, bounded in size
quarantine.jsonl           rows that it refused to forecast from

A worker's rows are written by a thread of its own, many in one commit. The supervisor, which answers nobody, removes
rows that are too old or too many. The log is read as any service's is: by a query, which `declared_rows` gives.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from lepton_kit.telemetry.declaration import Rows

FILE = "requests.sqlite"
DELETED_AT_ONCE = 2000
"""Rows that one transaction takes out of the database: a few milliseconds in which no worker can write."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (
    id INTEGER PRIMARY KEY AUTOINCREMENT, time_ms INTEGER, request_id TEXT, row INTEGER, version TEXT, status INTEGER,
    latency_ms REAL, answers TEXT, features TEXT);
CREATE INDEX IF NOT EXISTS requests_by_id ON requests (request_id, row);
CREATE INDEX IF NOT EXISTS requests_by_time ON requests (time_ms);
CREATE TABLE IF NOT EXISTS feedback (
    request_id TEXT, row INTEGER, time_ms INTEGER, actual, rating INTEGER, comment TEXT,
    PRIMARY KEY (request_id, row));
"""
_INSERT = (
    "INSERT INTO requests (time_ms, request_id, row, version, status, latency_ms, answers, features)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_WINDOW = (
    "SELECT requests.time_ms, request_id || CASE row WHEN 0 THEN '' ELSE '/' || row END AS request_id, row, version,"
    " status, latency_ms, answers, features, actual, rating, comment"
    " FROM requests LEFT JOIN feedback USING (request_id, row)"
    " WHERE requests.time_ms BETWEEN :start_ms AND :end_ms ORDER BY id"
)


def declared_rows(folder: Path, project: Path) -> Rows:
    """Return the location of the rows of a log for a declaration; each row of a batch has its own id."""
    place = (folder / FILE).resolve()
    shown = place.relative_to(project) if place.is_relative_to(project) else place
    return Rows(sql=f"sqlite:///{shown}", query=_WINDOW)


@dataclass(frozen=True)
class Answered:
    """All rows of one request as arrays: features (n, columns) and answers (n, names), None where there are none."""

    time_ms: int
    request_id: str
    version: str
    status: int
    latency_ms: float
    columns: tuple[str, ...] = ()
    features: np.ndarray | None = None
    names: tuple[str, ...] = ()
    answers: np.ndarray | None = None

    def values(self) -> Iterator[tuple[Any, ...]]:
        """Give the rows as the database keeps them; a request without features is one row."""
        features = [None] if self.features is None else self.features.tolist()
        answers = [None] * len(features) if self.answers is None else self.answers.tolist()
        head = (self.version, self.status, self.latency_ms)
        for number, (given, answer) in enumerate(zip(features, answers, strict=True)):
            written = [
                None if held is None else json.dumps(dict(zip(names, held, strict=True)))
                for names, held in ((self.names, answer), (self.columns, given))
            ]
            yield (self.time_ms, self.request_id, number, *head, *written)


class RequestLog:
    """The log as one worker writes it; `is_full` says when to take no more."""

    def __init__(self, folder: Path, backlog: int = 2000) -> None:
        self.folder = folder
        self.failure: str | None = None
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(_open(folder)) as database:
            database.executescript(SCHEMA)
        self._database: sqlite3.Connection | None = None  # the writer's own
        self._telling: sqlite3.Connection | None = None  # of feedback, one at a time
        self._told = threading.Lock()
        self._waiting: queue.Queue[Answered | threading.Event | None] = queue.Queue(backlog)
        self._thread = threading.Thread(target=self._write, name="request-log", daemon=True)
        self._thread.start()

    @property
    def is_full(self) -> bool:
        """Say whether the disk is so far behind that no further request may be taken."""
        return self._waiting.full()

    def append(self, answered: Answered) -> None:
        """Take the rows of one request; they are on the disk a moment later."""
        self._waiting.put(answered)

    def flush(self) -> None:
        """Wait until all rows taken so far are on the disk."""
        reached = threading.Event()
        self._waiting.put(reached)
        reached.wait()

    def close(self) -> None:
        """Write what waits, and end."""
        self._waiting.put(None)
        self._thread.join()
        if self._telling is not None:
            self._telling.close()

    def add_feedback(
        self, request_id: str, row: int, actual: float | str | None, rating: int | None, comment: str
    ) -> tuple[bool, tuple[str, dict[str, Any]] | None]:
        """Keep what became true of a row; return whether its actual value is new, and the row's version and answer.

        A repeated value counts once; without an answer that is kept there is None.
        """
        self.flush()  # the request may have been answered a millisecond ago
        with self._told, self._for_feedback() as database:
            found = database.execute(
                "SELECT version, answers FROM requests WHERE request_id = ? AND row = ?", (request_id, row)
            ).fetchone()
            if found is None or found[1] is None:
                return False, None
            held = database.execute(
                "SELECT actual FROM feedback WHERE request_id = ? AND row = ?", (request_id, row)
            ).fetchone()
            database.execute(
                "INSERT INTO feedback VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                " actual = coalesce(excluded.actual, actual), rating = coalesce(excluded.rating, rating),"
                " comment = CASE excluded.comment WHEN '' THEN comment ELSE excluded.comment END",
                (request_id, row, int(time.time() * 1000), actual, rating, comment),
            )
        is_new = actual is not None and (held is None or held[0] is None)
        return is_new, (found[0], json.loads(found[1]))

    @contextlib.contextmanager
    def _for_feedback(self) -> Iterator[sqlite3.Connection]:
        """Give the connection that is kept for feedback; after an error it is opened anew."""
        if self._telling is None:
            self._telling = _open(self.folder)
        try:
            with self._telling:
                yield self._telling
        except sqlite3.Error:
            self._telling = None
            raise

    def _write(self) -> None:
        while True:
            taken = [self._waiting.get()]
            with contextlib.suppress(queue.Empty):
                while len(taken) < 500:
                    taken.append(self._waiting.get_nowait())
            self._commit([one for one in taken if isinstance(one, Answered)])
            for one in taken:
                if isinstance(one, threading.Event):
                    one.set()
            if None in taken:
                if self._database is not None:
                    self._database.close()
                return

    def _commit(self, taken: list[Answered]) -> None:
        if not taken:
            return
        try:
            if self._database is None:
                self._database = _open(self.folder)
            with self._database:
                self._database.executemany(_INSERT, [values for one in taken for values in one.values()])
            self.failure = None
        except (OSError, sqlite3.Error) as error:
            if self._database is not None:
                self._database.close()
            self._database = None  # opened anew for the next rows
            self.failure = f"request log {self.folder}: {error}"  # /readyz says so; answering goes on


def forget(folder: Path, most_bytes: int, days: float) -> None:
    """Remove the oldest rows of a log: those older than `days`, and those beyond `most_bytes` on the disk.

    A few at a time, so that no worker waits long to write.

    Raises sqlite3.Error when the disk refuses; the next call tries again.
    """
    if not (folder / FILE).is_file():
        return
    with contextlib.closing(_open(folder)) as database:
        oldest_kept = int((time.time() - days * 86400) * 1000)
        beyond = "SELECT id FROM requests WHERE time_ms < ? OR ? ORDER BY id LIMIT ?"
        while True:
            with database:
                gone = database.execute(
                    f"DELETE FROM requests WHERE id IN ({beyond})",
                    (oldest_kept, _bytes_used(database) > most_bytes, DELETED_AT_ONCE),
                ).rowcount
            if gone == 0:
                break
            time.sleep(0.01)  # the workers' writers wait for this lock, too
        with database:
            database.execute("DELETE FROM feedback WHERE time_ms < ?", (oldest_kept,))


def _bytes_used(database: sqlite3.Connection) -> int:
    """Return the size of what is kept; pages that were freed are written again before the file grows."""
    pages, free, size = (
        int(database.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size


def _open(folder: Path) -> sqlite3.Connection:
    database = sqlite3.connect(folder / FILE, timeout=10, check_same_thread=False)  # one at a time, though
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=NORMAL")  # a killed process loses nothing; a power cut, the last moments
    return database


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
