"""The prediction log: every request as rows, safe from a crash, bounded by size and age.

requests/recent.sqlite       the newest rows, committed within milliseconds, and all feedback that is kept
requests/<first>-<last>.parquet  older rows, rolled out of it, named by the Unix milliseconds of their first and last

A worker's rows are written by a thread of its own, many in one commit. The supervisor, which answers nobody, rolls rows
over and removes files that are too old or too many; a row leaves the database only after its file is on the disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lepton_kit.errors import InputError
from lepton_kit.models.forecasters import FORECAST

FEATURE = "feature_"
DELETED_AT_ONCE = 2000
"""Rows that one transaction takes out of the database: a few milliseconds in which no worker can write."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (
    id INTEGER PRIMARY KEY AUTOINCREMENT, time_ms INTEGER, request_id TEXT, row INTEGER, version TEXT, status INTEGER,
    latency_ms REAL, forecast TEXT, features TEXT);
CREATE INDEX IF NOT EXISTS requests_by_id ON requests (request_id, row);
CREATE TABLE IF NOT EXISTS feedback (
    request_id TEXT, row INTEGER, time_ms INTEGER, actual REAL, rating INTEGER, comment TEXT,
    PRIMARY KEY (request_id, row));
"""
_INSERT = (
    "INSERT INTO requests (time_ms, request_id, row, version, status, latency_ms, forecast, features)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)


@dataclass(frozen=True)
class Bounds:
    """How much is kept.

    Rows beyond `recent_rows`, or older than `recent_seconds`, go to Parquet; Parquet files beyond `bytes` together, or
    older than `days`, are removed, oldest first.
    """

    recent_rows: int = 50_000
    recent_seconds: float = 600.0
    bytes: int = 2 * 1024**3
    days: float = 90.0


@dataclass(frozen=True)
class Entry:
    """One row of a request: its features, and the forecast where there is one."""

    time_ms: int
    request_id: str
    row: int
    version: str
    status: int
    latency_ms: float
    forecast: dict[str, float] | None
    features: dict[str, float] | None

    def values(self) -> tuple[Any, ...]:
        """Return the row as the database keeps it."""
        written = [json.dumps(held) if held is not None else None for held in (self.forecast, self.features)]
        return (self.time_ms, self.request_id, self.row, self.version, self.status, self.latency_ms, *written)


@dataclass(frozen=True)
class Answered:
    """All rows of one request as arrays: features (n, columns) and forecasts (n, 5), None where there are none."""

    time_ms: int
    request_id: str
    version: str
    status: int
    latency_ms: float
    columns: tuple[str, ...] = ()
    features: np.ndarray | None = None
    forecasts: np.ndarray | None = None

    def values(self) -> Iterator[tuple[Any, ...]]:
        """Give the rows as the database keeps them; a request without features is one row."""
        features = [None] if self.features is None else self.features.tolist()
        forecasts = [None] * len(features) if self.forecasts is None else self.forecasts.tolist()
        head = (self.version, self.status, self.latency_ms)
        for number, (given, answer) in enumerate(zip(features, forecasts, strict=True)):
            written = [
                None if held is None else json.dumps(dict(zip(names, held, strict=True)))
                for names, held in ((FORECAST, answer), (self.columns, given))
            ]
            yield (self.time_ms, self.request_id, number, *head, *written)


Taken = list[Entry] | Answered


class RequestLog:
    """The log as one worker writes it.

    Parameters
    ----------
    folder
        The folder of the log; made where it is absent.
    backlog
        Requests that may wait for the disk; `is_full` says when no more shall be taken.
    """

    def __init__(self, folder: Path, backlog: int = 2000) -> None:
        self.folder = folder
        self.failure: str | None = None
        folder.mkdir(parents=True, exist_ok=True)
        with _connect(folder) as database:
            database.executescript(SCHEMA)
        self._database: sqlite3.Connection | None = None  # the writer's own
        self._telling: sqlite3.Connection | None = None  # of feedback, one at a time
        self._told = threading.Lock()
        self._waiting: queue.Queue[Taken | threading.Event | None] = queue.Queue(backlog)
        self._thread = threading.Thread(target=self._write, name="request-log", daemon=True)
        self._thread.start()

    @property
    def is_full(self) -> bool:
        """Say whether the disk is so far behind that no further request shall be taken."""
        return self._waiting.full()

    def append(self, entries: Taken) -> None:
        """Take the rows of one request; they are on the disk a moment later."""
        self._waiting.put(entries)

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

    def add_feedback(self, request_id: str, row: int, actual: float | None, rating: int | None, comment: str) -> Any:
        """Keep what became true of a row.

        Returns
        -------
        tuple
            Whether an actual value is new (a repeated one counts once), and the row's version and forecast, or None
            where no such forecast is kept.
        """
        self.flush()  # the request may have been answered a millisecond ago
        with self._told, self._for_feedback() as database:
            found = database.execute(
                "SELECT version, forecast FROM requests WHERE request_id = ? AND row = ?", (request_id, row)
            ).fetchone() or self._rolled(request_id, row)
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

    def _rolled(self, request_id: str, row: int) -> tuple[str, str] | None:
        for path in reversed(parquet_files(self.folder)):
            with contextlib.suppress(FileNotFoundError):  # removed for its age, this moment
                wanted = [("request_id", "=", request_id), ("row", "=", row)]
                table = pq.read_table(path, filters=wanted, columns=["version", *FORECAST]).to_pylist()
                if table and table[0]["mean"] is not None:
                    return table[0]["version"], json.dumps({name: table[0][name] for name in FORECAST})
        return None

    def _write(self) -> None:
        while True:
            taken = [self._waiting.get()]
            with contextlib.suppress(queue.Empty):
                while len(taken) < 500:
                    taken.append(self._waiting.get_nowait())
            self._commit([one for one in taken if isinstance(one, list | Answered)])
            for one in taken:
                if isinstance(one, threading.Event):
                    one.set()
            if None in taken:
                if self._database is not None:
                    self._database.close()
                return

    def _commit(self, taken: list[Taken]) -> None:
        if not taken:
            return
        try:
            self._insert(taken)
            self.failure = None
        except (OSError, sqlite3.Error) as error:
            if self._database is not None:
                self._database.close()
            self._database = None  # opened anew for the next rows
            self.failure = f"prediction log {self.folder}: {error}"  # /readyz says so; answering goes on

    def _insert(self, taken: list[Taken]) -> None:
        if self._database is None:
            self._database = _open(self.folder)
        with self._database:
            self._database.executemany(_INSERT, [values for one in taken for values in _values(one)])


def roll(folder: Path, bounds: Bounds) -> None:
    """Move old rows of a log to Parquet and remove what is beyond the bounds; one process does so at a time.

    Raises
    ------
    OSError, sqlite3.Error, pyarrow.ArrowException
        When the disk refuses; no row is lost, and the next call tries again.
    """
    if (folder / "recent.sqlite").is_file():
        with contextlib.closing(_open(folder)) as database:
            _roll_rows(folder, database, bounds)
    _remove_files(folder, bounds)


def _roll_rows(folder: Path, database: sqlite3.Connection, bounds: Bounds) -> None:
    rows, oldest, last = database.execute("SELECT count(*), min(time_ms), max(id) FROM requests").fetchone()
    too_old = rows and oldest < (time.time() - bounds.recent_seconds) * 1000
    if rows == 0 or (rows <= bounds.recent_rows and not too_old):
        return
    held = pd.read_sql_query("SELECT * FROM requests WHERE id <= ? ORDER BY id", database, params=(last,))
    path = folder / f"{held['time_ms'].min()}-{held['time_ms'].max()}-{last}.parquet"
    temporary = path.with_suffix(".tmp")
    first = int(held["id"].iloc[0])
    pq.write_table(pa.Table.from_pandas(_flat(held), preserve_index=False), temporary, compression="zstd")
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)  # a crash from here on leaves rows twice; a reader counts each id once
    for end in range(first + DELETED_AT_ONCE - 1, last + DELETED_AT_ONCE, DELETED_AT_ONCE):
        with database:
            database.execute("DELETE FROM requests WHERE id <= ?", (min(end, last),))
        time.sleep(0.01)  # the workers' writers wait for this lock, too
    with database:
        oldest_kept = (time.time() - bounds.days * 86400) * 1000
        database.execute("DELETE FROM feedback WHERE time_ms < ?", (oldest_kept,))


def _remove_files(folder: Path, bounds: Bounds) -> None:
    oldest_kept = (time.time() - bounds.days * 86400) * 1000
    room = bounds.bytes
    for path in reversed(parquet_files(folder)):
        room -= path.stat().st_size
        if room < 0 or int(path.stem.split("-")[1]) < oldest_kept:
            path.unlink()


def parquet_files(folder: Path) -> list[Path]:
    """Return the rolled files, oldest first."""
    return sorted(folder.glob("*-*-*.parquet"), key=lambda path: int(path.stem.split("-")[0]))


def read_requests(folder: Path, start: float, end: float) -> pd.DataFrame:
    """Return the rows of all requests from `start` to `end` (Unix seconds, both included), in order of time.

    Returns
    -------
    DataFrame
        `time` (UTC), `request_id`, `row`, `version`, `status`, `latency_ms`, the forecast (`mean`, `std`, `lower`,
        `upper`, `prob_up`; log return per day), `feature_<name>`, and `actual`, `rating`, `comment` where known.

    Raises
    ------
    InputError
        When there is no log, or a file of it is damaged.
    """
    if not (folder / "recent.sqlite").is_file():
        raise InputError(f"{folder}: holds no prediction log; `lepton serve` writes one")
    low, high = int(start * 1000), int(end * 1000)
    with _connect(folder) as database:  # the database first: a row that is rolled meanwhile is then in both
        where = "SELECT * FROM requests WHERE time_ms BETWEEN ? AND ? ORDER BY id"
        recent = _flat(pd.read_sql_query(where, database, params=(low, high)))
        feedback = pd.read_sql_query("SELECT request_id, row, actual, rating, comment FROM feedback", database)
    parts = [recent]
    for path in parquet_files(folder):
        first, last = map(int, path.stem.split("-")[:2])
        if first <= high and last >= low:
            with contextlib.suppress(FileNotFoundError):
                parts.append(_read_part(path, low, high))
    held = pd.concat([part for part in parts if len(part)] or [recent], ignore_index=True)
    held = held.drop_duplicates("id").sort_values(["time_ms", "id"], ignore_index=True)
    held = held.merge(feedback, on=["request_id", "row"], how="left")
    held.insert(0, "time", pd.to_datetime(held.pop("time_ms"), unit="ms", utc=True))
    return held.drop(columns="id")


def _read_part(path: Path, low: int, high: int) -> pd.DataFrame:
    try:
        table: pd.DataFrame = pq.read_table(path, filters=[("time_ms", ">=", low), ("time_ms", "<=", high)]).to_pandas()
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: not a readable part of a prediction log ({error})") from error
    return table


def _flat(held: pd.DataFrame) -> pd.DataFrame:
    """Return database rows with one column per number of the forecast and per feature."""
    forecasts = _spread(held.pop("forecast"), FORECAST)
    features = [json.loads(text) if isinstance(text, str) else {} for text in held.pop("features")]
    names: Sequence[str] = list(dict.fromkeys(name for row in features for name in row))
    wide = pd.DataFrame({f"{FEATURE}{name}": [row.get(name) for row in features] for name in names}, dtype=float)
    return pd.concat([held.reset_index(drop=True), forecasts, wide], axis=1)


def _spread(texts: pd.Series, names: Sequence[str]) -> pd.DataFrame:
    rows = [json.loads(text) if isinstance(text, str) else {} for text in texts]
    return pd.DataFrame({name: [row.get(name) for row in rows] for name in names}, dtype=float)


def _values(taken: Taken) -> Iterator[tuple[Any, ...]]:
    return taken.values() if isinstance(taken, Answered) else (entry.values() for entry in taken)


def _open(folder: Path) -> sqlite3.Connection:
    database = sqlite3.connect(folder / "recent.sqlite", timeout=10, check_same_thread=False)  # one at a time, though
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=NORMAL")  # a killed process loses nothing; a power cut, the last moments
    return database


@contextlib.contextmanager
def _connect(folder: Path) -> Iterator[sqlite3.Connection]:
    """Give a connection whose changes are committed at the end, or undone."""
    database = _open(folder)
    try:
        with database:
            yield database
    finally:
        database.close()
