"""Rows of a database's query, in chunks; the part of a large file in which a window lies; what all readers share."""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO
from zoneinfo import ZoneInfo

import pandas as pd

from lepton_kit.errors import InputError
from lepton_kit.secrets import is_reference, resolve_secret
from lepton_kit.telemetry.declaration import Rows

CHUNK = 10_000
"""Rows that are in memory at once, beside those that are kept."""

TIME = "__time"


@dataclass(frozen=True)
class Window:
    """From when to when rows are wanted (Unix seconds, both included), and how many of them are kept at most."""

    start: float
    end: float
    most: int = 100_000


@dataclass(frozen=True)
class Read:
    """What was read: flat columns (a field of an object is `object.field`), with `__time` (UTC) where it was asked for.

    `total` rows lay in the window, of which every `step`-th is in the table.
    """

    table: pd.DataFrame
    problems: tuple[str, ...] = ()
    total: int = 0
    step: int = 1


@dataclass
class Kept:
    """Every n-th of rows that come piece by piece; n doubles whenever there are twice as many as wanted.

    `pick` takes rows out of a piece, and `join` puts pieces together.
    """

    most: int
    pick: Callable[[Any, slice], Any]
    join: Callable[[list[Any]], Any]
    parts: list[Any] = field(default_factory=list)
    total: int = 0
    step: int = 1

    def add(self, part: Any) -> None:
        """Take a piece."""
        first = -self.total % self.step
        self.total += len(part)
        if first < len(part):
            self.parts.append(self.pick(part, slice(first, len(part), self.step)))
        self._thin(2 * self.most)

    def whole(self) -> Any | None:
        """Return the rows that are kept as one; None of none."""
        self._thin(self.most)
        return self.join(self.parts) if self.parts else None

    def _thin(self, most: int) -> None:
        while sum(map(len, self.parts)) > most:
            rows = self.join(self.parts)
            self.parts, self.step = [self.pick(rows, slice(0, len(rows), 2))], self.step * 2


def without_time(what: str, timestamp: str, columns: list[str]) -> Read:
    """Return that nothing is read of a table without the column of its time."""
    known = ", ".join(columns[:20])
    problem = f"{what}: no column {timestamp!r} (columns.timestamp), so that no row is read; there are {known}"
    return Read(pd.DataFrame(), (problem,))


def short(error: Exception) -> str:
    """Return an error's words on one line."""
    return " ".join(str(error).split())[:200]


def flat(entry: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Return an object's fields, those of objects in it as `object.field`.

    >>> flat({"id": 1, "inputs": {"age": 40, "tags": ["a"]}})
    {'id': 1, 'inputs.age': 40, 'inputs.tags': ['a']}
    """
    made: dict[str, Any] = {}
    for name, value in entry.items():
        if isinstance(value, dict):
            made |= flat(value, f"{before}{name}.")
        else:
            made[f"{before}{name}"] = value
    return made


def read_query(place: Rows, project: Path, timestamp: str | None, window: Window, what: str) -> Read:
    """Read a query's rows in chunks, so that no more than are kept are in memory; `:start` and `:end` are filled in."""
    import sqlalchemy

    kept, undated = Kept(window.most, lambda table, which: table.iloc[which], pd.concat), 0
    try:
        address = database_address(place, project)
        engine = sqlalchemy.create_engine(address)
        file = engine.url.database or ""
        if engine.dialect.name == "sqlite" and not file.startswith((":memory:", "file:")) and not Path(file).is_file():
            raise InputError(f"{Path(file).name}: no such database")
        query = sqlalchemy.text(str(place.query))
        named = query.compile().params
        bounds = {name: value for name, value in _bounds(window, engine.dialect.name).items() if name in named}
        with engine.connect() as connection:
            result = connection.execution_options(stream_results=True).execute(query, bounds)
            names = list(result.keys())
            if timestamp is not None and timestamp not in names:
                return without_time(what, timestamp, names)
            for rows in result.partitions(CHUNK):
                chunk = pd.DataFrame.from_records(rows, columns=names)
                if timestamp is not None:
                    chunk[TIME] = utc(chunk[timestamp], place.timezone)
                    undated += int(chunk[TIME].isna().sum())
                    chunk = chunk[chunk[TIME].between(*pd.to_datetime([window.start, window.end], unit="s", utc=True))]
                kept.add(chunk)
        engine.dispose()
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        raise InputError(f"query {str(place.query)[:60]!r}: {short(error)}") from error
    problems = [f"{what}: {undated} rows have no time in column {timestamp!r}, and are left out"] if undated else []
    table = kept.whole()
    whole = pd.DataFrame() if table is None else table.reset_index(drop=True)
    return Read(whole, tuple(problems), kept.total, kept.step)


def database_address(place: Rows, project: Path) -> str:
    """Return the address of a database; that of an SQLite file is relative to the project."""
    address = resolve_secret(str(place.sql), project) if is_reference(str(place.sql)) else str(place.sql)
    kind, _, path = address.partition(":///")
    return f"{kind}:///{project.resolve() / path}" if kind == "sqlite" and path else address


def _bounds(window: Window, dialect: str) -> dict[str, Any]:
    bounds: dict[str, Any] = {}
    for name, at in (("start", window.start), ("end", window.end)):
        time = datetime.fromtimestamp(at, UTC)
        told = f"{time:%Y-%m-%d %H:%M:%S.%f}" if dialect == "sqlite" else time  # which has no type for times
        bounds |= {name: told, f"{name}_s": at, f"{name}_ms": int(at * 1000)}
    return bounds


def utc(times: pd.Series, timezone: str) -> pd.Series:
    """Return times in UTC: of Unix seconds, milliseconds or finer by their size, of text, or of a table's own times.

    >>> utc(pd.Series(["2026-07-01 12:00"]), "Europe/Berlin")[0].isoformat()
    '2026-07-01T10:00:00+00:00'
    >>> utc(pd.Series([1782907200.0, 1782907200000]), "UTC").nunique()
    1
    """
    if isinstance(times.dtype, pd.DatetimeTZDtype):
        return times.astype("datetime64[us, UTC]")
    numbers = pd.to_numeric(times, errors="coerce") if not pd.api.types.is_datetime64_any_dtype(times) else None
    if numbers is not None and numbers.notna().any():
        size = numbers.abs()
        unit = pd.Series(1.0, index=times.index).mask(size >= 1e11, 1e3).mask(size >= 1e14, 1e6).mask(size >= 1e17, 1e9)
        return pd.to_datetime((numbers / unit * 1e6).round(), unit="us", utc=True).astype("datetime64[us, UTC]")
    zone = ZoneInfo(timezone)

    def known(value: Any) -> Any:
        try:
            moment = pd.Timestamp(value)
        except (ValueError, TypeError):
            return pd.NaT
        is_naive = not pd.isna(moment) and moment.tzinfo is None
        return moment.tz_localize(zone, ambiguous=False, nonexistent="shift_forward") if is_naive else moment

    moments = pd.to_datetime(pd.Series([known(value) for value in times], index=times.index), utc=True)
    return moments.astype("datetime64[us, UTC]")


LARGE = 256 * 1024 * 1024
"""Bytes from which on a file is not read as a whole."""

PROBES = 128
"""Places of a file whose time is looked at; a window is read with two such steps around it."""

PIECE = 1024 * 1024


def part_of(path: Path, timestamp: str, timezone: str, window: Window, scratch: Path) -> Path:
    """Return a copy (in `scratch`) of the part of a file of JSON lines that holds a window.

    The file itself where it is small, or not in order of the time in its field `timestamp`.
    """
    size = path.stat().st_size if path.is_file() else 0
    if size < LARGE or path.suffix in (".gz", ".zst"):
        return path
    with path.open("rb") as file:
        places = [size * number // PROBES for number in range(PROBES)]
        times = [_time_at(file, place, timestamp, timezone) for place in places]
        known = [time for time in times if time is not None]
        if len(known) < PROBES or known != sorted(known):
            return path
        first, last = bisect_left(known, window.start) - 2, bisect_right(known, window.end) + 2
        start = _line_from(file, places[first]) if first > 0 else 0
        end = _line_from(file, places[last]) if last < PROBES else size
        part = scratch / f"part-{path.name}"
        with part.open("wb") as copy:
            file.seek(start)
            _copy(file, copy, end - start)
    return part


def _line_from(file: BinaryIO, place: int) -> int:
    file.seek(place)
    file.readline()
    return file.tell()


def _time_at(file: BinaryIO, place: int, timestamp: str, timezone: str) -> float | None:
    """Return the time of the first whole line from a place on; None where it has none."""
    file.seek(_line_from(file, place) if place else 0)
    try:
        found = flat(json.loads(file.readline()))[timestamp]
    except (ValueError, KeyError, AttributeError, RecursionError):
        return None
    (moment,) = utc(pd.Series([found]), timezone)
    return None if pd.isna(moment) else float(moment.timestamp())


def _copy(file: BinaryIO, copy: BinaryIO, length: int) -> None:
    while length > 0 and (piece := file.read(min(length, PIECE))):
        copy.write(piece)
        length -= len(piece)
