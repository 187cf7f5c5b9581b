"""Tables larger than memory, read by DuckDB: their profile, and what can be counted of them without holding them.

A source is a file, a folder of files or a pattern, Parquet or CSV. DuckDB keeps to `MEMORY` and puts what is more into
a temporary folder; rows pass through in chunks. Cleaning asks for a table in memory: its rules look at whole columns.
"""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from lepton_kit.data.contracts import Contract
from lepton_kit.data.profiles import MOST_SAMPLED, Profile, bins_of
from lepton_kit.errors import InputError

MEMORY, THREADS = "700MB", 2
CHUNK = 250_000
"""Rows of a chunk: tens of megabytes of 25 columns."""


def rows_of(source: str | Path) -> int:
    """Return how many rows the files of a source hold; InputError where they cannot be read."""
    with _opened(source) as (database, table):
        return int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def sample_of(source: str | Path, rows: int, seed: int = 0) -> pd.DataFrame:
    """Return at most `rows` rows, drawn from all parts of a source; the same seed gives the same rows."""
    with _opened(source) as (database, table):
        database.execute("SET threads = 1")  # else the rows depend on which thread read what
        made: pd.DataFrame = database.execute(
            f"SELECT * FROM {table} USING SAMPLE reservoir({int(rows)} ROWS) REPEATABLE ({int(seed)})"
        ).df()
        return made


def chunks(source: str | Path) -> Iterator[pd.DataFrame]:
    """Yield the rows of a source chunk by chunk, in no order."""
    with _opened(source) as (database, table):
        for batch in database.sql(f"SELECT * FROM {table}").to_arrow_reader(CHUNK):
            yield batch.to_pandas()


def profile_of_files(source: str | Path, seed: int = 0) -> Profile:
    """Return the profile of a source of any size: bins by a sample, counts of all rows.

    `profiles.drift_table(profile, chunks(other))` compares another source with it.

    Raises
    ------
    InputError
        When no file is found, or one is not readable, or there are no rows.
    """
    asked = bins_of(sample_of(source, MOST_SAMPLED, seed))
    made: Profile | None = None
    for chunk in chunks(source):
        part = asked.count(chunk)
        made = part if made is None else made + part
    if made is None:
        raise InputError(f"{source}: has no rows")
    return made


def quality_of_files(
    source: str | Path, contract: Contract, columns: Mapping[str, str] = MappingProxyType({})
) -> pd.DataFrame:
    """Count over all rows of a source what needs no column as a whole: the same faults as `quality.quality_report`.

    Parameters
    ----------
    columns
        Names in the files to the contract's, such as `{"Price": "close"}`; same names need none.

    Returns
    -------
    DataFrame
        `check` (`wrong types`, `missing values`, `infinite values`, `exact duplicates`, and `repeated ids` where the
        contract has an id), `rows` and their `share`. Repeats are found by a hash of 64 bits, which makes one too many
        in some thousand tables of 100 million rows.
    """
    numbers = [*contract.numbers, *([contract.target] if contract.target and not contract.is_class else [])]
    needed = [name for name in (*contract.features, contract.target, contract.time) if name]
    with _opened(source, as_text=True) as (database, table):
        held = {name for name, *_ in database.execute(f"DESCRIBE FROM {table}").fetchall()}
        if renamed := {old: new for old, new in columns.items() if old in held}:
            pairs = ", ".join(f"{_name(old)} AS {_name(new)}" for old, new in renamed.items())
            table, held = f"(SELECT * RENAME ({pairs}) FROM {table})", {renamed.get(name, name) for name in held}
        if lacking := [name for name in contract.columns if name not in held]:
            raise InputError(f"{source}: lacks column {', '.join(lacking)}; it has {', '.join(sorted(held))[:300]}")
        wrong = [f"{_blank(name)} IS FALSE AND TRY_CAST({_name(name)} AS DOUBLE) IS NULL" for name in numbers]
        if contract.time:
            time = _name(contract.time)
            wrong.append(f"{_blank(contract.time)} IS FALSE AND TRY_CAST({time} AS TIMESTAMP) IS NULL")
        infinite = [f"isinf(TRY_CAST({_name(name)} AS DOUBLE))" for name in numbers]
        asked = {"wrong types": wrong, "missing values": list(map(_blank, needed)), "infinite values": infinite}
        counts = ", ".join(f"count_if({' OR '.join(tests) or 'false'})" for tests in asked.values())
        total, *found = database.execute(f"SELECT count(*), {counts} FROM {table}").fetchone()
        rows = dict(zip(asked, found, strict=True))
        rows["exact duplicates"] = _repeats(database, table, ", ".join(map(_name, sorted(held))))
        if contract.id:
            rows["repeated ids"] = _repeats(database, table, _name(contract.id))
    made = pd.DataFrame(rows.items(), columns=["check", "rows"])
    return made.assign(share=made["rows"] / max(total, 1))


def _repeats(database: Any, table: str, columns: str) -> int:
    """Return how many rows repeat an earlier one in some columns; the groups that do not fit are on the disk."""
    groups = f"SELECT count(*) AS rows FROM {table} GROUP BY hash({columns})"
    return int(database.execute(f"SELECT coalesce(sum(rows - 1), 0) FROM ({groups})").fetchone()[0])


def _blank(name: str) -> str:
    return f"(trim(coalesce(CAST({_name(name)} AS VARCHAR), '')) IN ('', 'nan'))"


def _name(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'


@contextmanager
def _opened(source: str | Path, as_text: bool = False) -> Iterator[tuple[Any, str]]:
    """Give a database, and what stands for the source in a query; `as_text`: cells of CSV stay text."""
    import duckdb

    paths = _files(source)
    kind = "read_parquet" if paths[0].endswith((".parquet", ".pq")) else "read_csv"
    listed = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
    more = ", all_varchar = true" if as_text and kind == "read_csv" else ""
    with tempfile.TemporaryDirectory(prefix="lepton-large-") as scratch:
        settings: dict[str, Any] = {"memory_limit": MEMORY, "threads": THREADS, "temp_directory": scratch,
                                    "preserve_insertion_order": False}  # fmt: skip
        try:
            with duckdb.connect(config=settings) as database:
                yield database, f"{kind}([{listed}], union_by_name = true{more})"
        except duckdb.Error as error:
            raise InputError(f"{source}: not readable as a table ({' '.join(str(error).split())[:300]})") from error


def _files(source: str | Path) -> list[str]:
    path = Path(source)
    if path.is_dir():
        found = [str(one) for kind in ("parquet", "pq", "csv") for one in sorted(path.rglob(f"*.{kind}"))]
    else:
        found = sorted(glob.glob(str(source), recursive=True))  # noqa: PTH207 - also of an absolute pattern
    if not found:
        raise InputError(
            f"{source}: no file (a Parquet or CSV file, a folder of such, or a pattern such as part-*.csv)"
        )
    if len({Path(one).suffix for one in found}) > 1:
        raise InputError(f"{source}: holds files of several kinds ({found[0]}, {found[-1]}): give one kind")
    return found
