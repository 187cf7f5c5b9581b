"""Rows of tables wherever they lie: JSON lines, CSV and Parquet (files, globs, URLs), and databases.

A window is read by DuckDB, or in chunks through SQLAlchemy, so that memory is bounded by what is returned and not by
what is there. What is wrong with a table is named; the rest of it is used.
"""

from __future__ import annotations

import glob
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from lepton_kit.errors import InputError
from lepton_kit.telemetry.databases import (
    CHUNK,
    TIME,
    Kept,
    Read,
    Window,
    flat,
    part_of,
    read_query,
    short,
    without_time,
)
from lepton_kit.telemetry.declaration import Rows

MEMORY = "400MB"
"""That DuckDB may take; beyond it, it writes to the disk."""

FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".log": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
}
LINE = "__line"
LONGEST_LINE = 1024 * 1024

_MACROS = """
CREATE MACRO moment(x) AS to_timestamp(CASE WHEN abs(x) < 1e11 THEN x WHEN abs(x) < 1e14 THEN x / 1e3
    WHEN abs(x) < 1e17 THEN x / 1e6 ELSE x / 1e9 END);
CREATE MACRO told(t) AS coalesce(TRY_CAST(t AS TIMESTAMPTZ), moment(TRY_CAST(t AS DOUBLE)));
"""


_TOLD = (
    f"coalesce(TRY({LINE} ->> '$.time'), TRY({LINE} ->> '$.timestamp'), TRY({LINE} ->> '$.ts'), "
    f"TRY({LINE} ->> '$.\"@timestamp\"'), TRY({LINE} ->> '$.asctime'), TRY({LINE} ->> '$.datetime'), "
    rf"regexp_extract({LINE}, '^\W{{0,2}}(\d{{4}}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?)', 1))"
)
_LOG_TIME = f"told(replace({_TOLD}, ',', '.'))"
_TELLING = rf"""NOT regexp_matches(left({LINE}, 400), '(?i)\b(INFO|DEBUG|TRACE|NOTICE)\b')"""
"""Lines above INFO: the level stands near the beginning of a line, or in its fields."""


_REJECTED = """SELECT count(DISTINCT (file_path, line)) FROM reject_errors JOIN reject_scans USING (scan_id, file_id)
    WHERE file_path IN ({})"""


def read_rows(
    places: Sequence[Rows], project: Path, timestamp: str | None, window: Window, wanted: Sequence[str], what: str
) -> Read:
    """Read the rows of a window from all places of a table, in order of time.

    A place that cannot be read is a problem, and the others are used. Paths are relative to `project`; without a column
    of the time (`timestamp`) all rows are read. `wanted` are names and patterns of columns; `what` is what the rows
    are, for problems.
    """
    reads: list[Read] = []
    for place in places:
        try:
            reads.append(_read_place(place, project, timestamp, window, wanted, what, len(places) > 1))
        except InputError as error:
            reads.append(Read(pd.DataFrame(), (f"{what}: {error}",)))
    whole = _together(reads)
    if len(whole.table) and timestamp is not None:
        return replace(whole, table=whole.table.sort_values(TIME, kind="stable", ignore_index=True))
    return whole


def _together(reads: Sequence[Read]) -> Read:
    """Return what was read in several places as one, every n-th row of all of them."""
    step = max((one.step for one in reads), default=1)
    tables = [one.table.iloc[:: step // one.step] for one in reads if len(one.table)]
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    problems = tuple(dict.fromkeys(problem for one in reads for problem in one.problems))
    return Read(table, problems, sum(one.total for one in reads), step)


def _read_place(
    place: Rows, project: Path, timestamp: str | None, window: Window, wanted: Sequence[str], what: str, is_part: bool
) -> Read:
    if place.sql is not None:
        return read_query(place, project, timestamp, window, what)
    with _opened(place, project) as (database, paths, scratch):
        if not paths:
            problem = () if is_part and glob.has_magic(str(place.path)) else (f"{what}: {place.path}: no such file",)
            return Read(pd.DataFrame(), problem)
        kind = place.format or _format(paths[0], str(place.path))
        if kind == "jsonl" and timestamp is not None:
            local = [one for one in paths if "://" not in one]
            parts = [one for one in paths if "://" in one]
            parts += [str(part_of(Path(one), timestamp, place.timezone, window, scratch)) for one in local]
            found = _Reader(database, parts, kind, what, str(place.path)).read(timestamp, window, wanted)
            if found.total or sorted(parts) == sorted(paths):
                return found
        files = [[path] for path in paths] if kind == "csv" else [paths]  # of several, rejected lines are not counted
        readers = [_Reader(database, some, kind, what, str(place.path)) for some in files]
        return _together([reader.read(timestamp, window, wanted) for reader in readers])


def read_lines(path: str, project: Path, window: Window, is_telling: bool) -> Read:
    """Read the lines of a log in a window, JSON or plain text: those above INFO (`is_telling`), or the others."""
    with _opened(Rows(path=path), project) as (database, paths, _):
        if not paths:
            return Read(pd.DataFrame(), (f"logs: {path}: no such file",))
        only = _TELLING if is_telling else f"NOT {_TELLING}"
        return _Reader(database, paths, "log", "logs", path, only).read("time", window, ())


def _format(path: str, given: str) -> str:
    suffixes = [one for one in Path(path).suffixes if one not in (".gz", ".zst")]
    kind = FORMATS.get(suffixes[-1].lower() if suffixes else "")
    if kind is None:
        raise InputError(f"path = {given!r}: its format is not known by its name; give `format`: jsonl, csv or parquet")
    return kind


@contextmanager
def _opened(place: Rows, project: Path) -> Iterator[tuple[Any, list[str], Path]]:
    """Give a database that can read the files of a place, their names, and a folder for files of one's own."""
    import duckdb

    with tempfile.TemporaryDirectory() as scratch:
        settings: dict[str, Any] = {
            "memory_limit": MEMORY,
            "temp_directory": scratch,
            "autoinstall_known_extensions": "false",
        }
        with duckdb.connect(config=settings) as database:
            database.execute("SET TimeZone = " + _text(place.timezone))
            database.execute(_MACROS)
            yield database, _files(str(place.path), project, Path(scratch), database), Path(scratch)


def _files(path: str, project: Path, scratch: Path, database: Any) -> list[str]:
    if "://" not in path:
        return sorted(glob.glob(str(project / path), recursive=True))  # noqa: PTH207 - also of an absolute path
    try:
        if path.startswith(("http://", "https://")):
            return [_downloaded(path, scratch)]
        import fsspec

        files, _, names = fsspec.get_fs_token_paths(path)
        database.register_filesystem(files)
        return sorted(files.unstrip_protocol(name) for name in names if files.exists(name))
    except (ImportError, ValueError, OSError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error


def _downloaded(address: str, scratch: Path) -> str:
    import httpx

    path = scratch / (Path(httpx.URL(address).path).name or "rows")
    try:
        with httpx.stream("GET", address, timeout=60, follow_redirects=True) as answer, path.open("wb") as file:
            answer.raise_for_status()
            for part in answer.iter_bytes():
                file.write(part)
    except httpx.HTTPError as error:
        raise InputError(f"{address}: cannot be read ({error})") from error
    return str(path)


@dataclass(frozen=True)
class _Reader:
    """Files of one format, and the database that reads them."""

    database: Any
    paths: list[str]
    kind: str
    what: str
    place: str
    only: str = "true"

    @property
    def _is_of_lines(self) -> bool:
        return self.kind in ("jsonl", "log")

    def read(self, timestamp: str | None, window: Window, wanted: Sequence[str]) -> Read:
        import duckdb

        try:
            columns = self._columns()
            if not self._is_of_lines and timestamp is not None and timestamp not in columns:
                return without_time(self.what, timestamp, list(columns))
            query = self._query(columns, timestamp, window, wanted)
            kept, undated, future, shown = self._kept(query, window.most)
            problems = self._problems(timestamp, undated, future, shown, kept.total)
        except duckdb.Error as error:
            raise InputError(f"{self.place}: not readable as {self.kind} ({short(error)})") from error
        rows = kept.whole()
        table = pd.DataFrame() if rows is None else _flat_lines(rows) if self.kind == "jsonl" else _flat_columns(rows)
        return Read(table, tuple(problems), kept.total, kept.step)

    def _relation(self) -> str:
        paths = "[" + ", ".join(map(_text, self.paths)) + "]"
        if self.kind == "parquet":
            return f"read_parquet({paths}, union_by_name=true)"
        if self.kind == "csv":
            return f"read_csv({paths}, all_varchar=true, header=true, store_rejects=true)"
        # A line is one value: what is no JSON is then a row of its own, which can be counted and left out.
        return (
            f"read_csv({paths}, columns={{'{LINE}': 'VARCHAR'}}, delim='\x01', quote='', escape='', header=false, "
            f"auto_detect=false, max_line_size={LONGEST_LINE}, store_rejects=true)"
        )

    def _columns(self) -> dict[str, str]:
        """Return the types of the columns; of JSON lines nothing is known before they are read."""
        if self._is_of_lines:
            return {LINE: "VARCHAR"}
        return {name: kind for name, kind, *_ in self.database.execute(f"DESCRIBE FROM {self._relation()}").fetchall()}

    def _query(self, columns: dict[str, str], timestamp: str | None, window: Window, wanted: Sequence[str]) -> str:
        chosen = [name for name in columns if name == LINE or _is_wanted(name, wanted)]
        if timestamp is None:
            time = f"CASE WHEN TRY(json_type({LINE})) = 'OBJECT' THEN TIMESTAMPTZ 'epoch' END"
            told = time if self.kind == "jsonl" else "TIMESTAMPTZ 'epoch'"
            return f"SELECT {told} AS {TIME}, {', '.join(map(_name, chosen))} FROM {self._relation()}"
        if self._is_of_lines:
            told, column, is_raw = self._line_time(timestamp), TIME, False
        else:
            told, is_raw = _time_of(timestamp, columns[timestamp])
            column = _name(timestamp) if is_raw else TIME
        bounds = [_bound(at, columns.get(timestamp, "") if is_raw else "") for at in (window.start, window.end)]
        now = _bound(datetime.now(UTC).timestamp() + 60, columns.get(timestamp, "") if is_raw else "")
        return (
            f"SELECT {told} AS {TIME}, {', '.join(map(_name, chosen))} FROM {self._relation()} "
            f"WHERE {column} BETWEEN {bounds[0]} AND {bounds[1]} AND {self.only} "
            f"OR {column} IS NULL OR {column} > {now}"
        )

    def _line_time(self, timestamp: str) -> str:
        return _LOG_TIME if self.kind == "log" else f"told({_json_field(timestamp)})"

    def _kept(self, query: str, most: int) -> tuple[Kept, int, int, str]:
        """Return the rows of the window, how many have no time, and how many are from the future."""
        kept, undated, future, shown = Kept(most, _pick, _join), 0, 0, ""
        limit = pa.scalar(datetime.now(UTC) + timedelta(minutes=1), pa.timestamp("us", "UTC"))
        for batch in self.database.sql(query).to_arrow_reader(CHUNK):
            table = pa.Table.from_batches([batch])
            time = table[TIME].cast(pa.timestamp("us", "UTC"))
            table = table.set_column(0, TIME, time)
            if time.null_count:
                undated += time.null_count
                shown = shown or _first_undated(table)
                table = table.filter(pa.compute.is_valid(table[TIME]))
            late = pa.compute.greater(table[TIME], limit)
            if number := pa.compute.sum(late).as_py():
                future += number
                table = table.filter(pa.compute.invert(late))
            kept.add(table)
        return kept, undated, future, shown

    def _problems(self, timestamp: str | None, undated: int, future: int, shown: str, total: int) -> Iterator[str]:
        damaged = 0
        if self.kind != "parquet":
            ((damaged,),) = self.database.execute(_REJECTED.format(", ".join(map(_text, self.paths)))).fetchall()
        if self.kind == "jsonl" and undated:
            broken = self._damaged_lines() if undated < 1000 else 0
            damaged, undated = damaged + broken, undated - broken
        if self.kind == "log":
            damaged, undated = damaged + undated, 0
        if damaged:
            yield f"{self.what}: {damaged} lines are damaged, and left out"
        if undated and timestamp is not None:
            yield (
                f"{self.what}: {undated} rows have no time in column {timestamp!r} (columns.timestamp), and are left "
                f"out{shown}"
            )
        if future:
            yield (f"{self.what}: {future} rows are from the future, and left out: the clock, or `timezone`, is wrong")
        if not total and timestamp is not None and not future:
            yield from self._when(timestamp)

    def _damaged_lines(self) -> int:
        query = f"SELECT count(*) FROM {self._relation()} WHERE TRY(json_type({LINE})) IS DISTINCT FROM 'OBJECT'"
        ((broken,),) = self.database.execute(query).fetchall()
        return int(broken)

    def _when(self, timestamp: str) -> Iterator[str]:
        """Yield a hint with the time range of the rows, none of which is in the window."""
        columns = self._columns()
        told = self._line_time(timestamp) if self._is_of_lines else _time_of(timestamp, columns[timestamp])[0]
        query = f"SELECT epoch(min({told})), epoch(max({told})) FROM {self._relation()}"
        ((first, last),) = self.database.execute(query).fetchall()
        if first is not None:
            span = " to ".join(f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}" for at in (first, last))
            yield f"{self.what}: no row in the window; the rows are from {span}: is `timezone` right?"


def _join(parts: list[pa.Table]) -> pa.Table:
    return pa.concat_tables(parts, promote_options="permissive")


def _pick(table: pa.Table, which: slice) -> pa.Table:
    return table.take(list(range(*which.indices(len(table)))))


def _first_undated(table: pa.Table) -> str:
    if LINE not in table.column_names:
        return ""
    line = table.filter(pa.compute.is_null(table[TIME]))[LINE][0].as_py()
    try:
        fields = json.loads(line)
    except (TypeError, ValueError, RecursionError):
        return ""
    return f"; there are {', '.join(list(map(str, fields))[:20])}" if isinstance(fields, dict) else ""


def _is_wanted(name: str, wanted: Sequence[str]) -> bool:
    return any(fnmatchcase(name, one) or one.partition(".")[0] == name for one in wanted)


def _json_field(name: str) -> str:
    """Return the SQL of a field of a line: of this name, or, where it has dots, of objects in objects."""
    whole = f"TRY({LINE} ->> {_text(f'$.{_name(name)}')})"
    if "." not in name:
        return whole
    nested = ".".join(map(_name, name.split(".")))
    return f"coalesce({whole}, TRY({LINE} ->> {_text(f'$.{nested}')}))"


def _time_of(name: str, kind: str) -> tuple[str, bool]:
    """Return the SQL of a column's time, and whether the column itself can be compared with a window's bounds."""
    if kind.startswith(("TIMESTAMP", "DATE")):
        return f"{_name(name)}::TIMESTAMPTZ", True
    if kind == "VARCHAR":
        return f"told({_name(name)})", False
    return f"moment({_name(name)}::DOUBLE)", False


def _bound(at: float, kind: str) -> str:
    moment = f"to_timestamp({at!r})"
    return f"{moment}::TIMESTAMP" if kind.startswith(("TIMESTAMP", "DATE")) and "ZONE" not in kind else moment


def _name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


# --- flat columns -----------------------------------------------------------------------------------------------------


def _flat_lines(lines: pa.Table) -> pd.DataFrame:
    table = pd.DataFrame([flat(json.loads(line)) for line in lines[LINE].to_pylist()])
    return table.assign(**{TIME: pd.Series(lines[TIME].to_pylist(), dtype="datetime64[us, UTC]")})


def _flat_columns(table: pa.Table) -> pd.DataFrame:
    while any(pa.types.is_struct(column.type) for column in table.schema):
        table = table.flatten()
    flattened: pd.DataFrame = table.to_pandas()
    return flattened
