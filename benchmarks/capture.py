"""Measures reading an hour out of a day's request log, beside pandas; writes the table to RESULTS.md.

    python benchmarks/capture.py [--gigabytes 2] [--kit-only]

The log is generated, as JSON lines and as Parquet. Each side runs in a process of its own;
pandas reads JSON lines in pieces, and Parquet with a filter, as someone would who knows both.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import pandas as pd
from results import write_section

DAY, HOUR = "2026-11-20T00:00:00Z", "2026-11-20T13:00:00Z"
LINE_BYTES = 404
ROW = """SELECT strftime(TIMESTAMP '2026-11-20' + INTERVAL (i * {step}) MICROSECOND, '%Y-%m-%dT%H:%M:%S.%fZ') AS ts,
    'request-' || i AS id, 'v3' AS model, 200 AS status, 3.5 + (i % 97) / 10 AS took_ms,
    {{{fields}}} AS inputs, (i % 1000) / 1000 AS p FROM range({rows}) AS r(i)"""


def generate(folder: Path, gigabytes: float) -> tuple[Path, Path, int]:
    """Write a day's log twice, and return both files and the number of rows."""
    rows = int(gigabytes * 1e9 / LINE_BYTES)
    fields = ", ".join(f"'feature_{n:02d}': (i * {n + 7} % 10007) / 100.0" for n in range(15))
    query = ROW.format(step=86_400_000_000 // rows, fields=fields, rows=rows)
    lines, parquet = folder / "log.jsonl", folder / "log.parquet"
    with duckdb.connect(config={"memory_limit": "1GB", "temp_directory": str(folder)}) as database:
        database.execute(f"COPY ({query}) TO '{lines}' (FORMAT json)")
        timed = f"SELECT * REPLACE (ts::TIMESTAMPTZ AS ts) FROM read_json('{lines}', columns={_types()})"
        database.execute(f"COPY ({timed}) TO '{parquet}' (FORMAT parquet)")
    return lines, parquet, rows


def _types() -> str:
    inputs = "STRUCT(" + ", ".join(f"feature_{n:02d} DOUBLE" for n in range(15)) + ")"
    types = {"ts": "VARCHAR", "id": "VARCHAR", "model": "VARCHAR", "status": "INT", "took_ms": "DOUBLE"}
    return str(types | {"inputs": inputs, "p": "DOUBLE"})


def by_kit(path: Path, start: float, end: float) -> tuple[int, int]:
    """Return how many rows lie in the hour, and how many of them are kept."""
    from lepton_kit.telemetry.declaration import Declaration
    from lepton_kit.telemetry.readers import read_requests

    columns = {"timestamp": "ts", "id": "id", "version": "model", "features": "inputs.*", "prediction_probas": "p"}
    given = {"task": "classification_binary", "columns": columns, "requests": str(path)}
    read = read_requests(Declaration.model_validate(given), Path(), start, end)
    assert not read.problems, read.problems
    return read.total, len(read.table)


def by_pandas(path: Path, start: float, end: float) -> tuple[int, int]:
    """Return the same by pandas, which keeps every row of the hour."""
    first, last = (pd.Timestamp(at, unit="s", tz="UTC") for at in (start, end))
    if path.suffix == ".parquet":
        held = pd.read_parquet(path, filters=[("ts", ">=", first), ("ts", "<=", last)])
    else:
        parts = pd.read_json(path, lines=True, chunksize=100_000, convert_dates=["ts"])
        held = pd.concat([part[part["ts"].between(first, last)] for part in parts])
    wide = pd.concat([held.drop(columns="inputs"), pd.json_normalize(list(held["inputs"]))])
    return len(held), len(held) if len(wide) else 0


def child(side: str, path: Path) -> None:
    """Read once, and print the seconds, the memory and the rows."""
    start = pd.Timestamp(HOUR).timestamp()
    before = time.perf_counter()
    total, kept = {"kit": by_kit, "pandas": by_pandas}[side](path, start, start + 3600)
    took = time.perf_counter() - before
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": took, "memory": memory, "total": total, "kept": kept}))


def measured(side: str, path: Path) -> dict[str, float]:
    """Return what a process of its own measured."""
    command = [sys.executable, __file__, "--child", side, str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0, help="of JSON lines; 10 for what is claimed")
    parser.add_argument("--kit-only", action="store_true", help="leave pandas out, which needs half an hour for 10 GB")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child[0], Path(given.child[1]))
        return
    with tempfile.TemporaryDirectory() as place:
        lines, parquet, rows = generate(Path(place), given.gigabytes)
        size = lines.stat().st_size / 1e9
        table = [
            f"| {path.suffix[1:]}, {path.stat().st_size / 1e9:.2f} GB | {side} | {one['seconds']:.1f} s "
            f"| {one['memory']:.0f} MiB | {one['kept']:,.0f} of {one['total']:,.0f} |"
            for path in (parquet, lines)
            for side in (("kit",) if given.kit_only else ("kit", "pandas"))
            for one in [measured(side, path)]
        ]
    text = (
        "## Capture\n\nAn hour out of a day's request log of "
        f"{rows:,} rows with 15 features ({size:.1f} GB as JSON lines), by `benchmarks/capture.py` on "
        f"{platform.machine()}, Python {platform.python_version()}. The kit keeps every n-th row of more than 100,000; "
        "pandas keeps all.\n\n| log | by | time | most memory | rows kept |\n|---|---|--:|--:|--:|\n" + "\n".join(table)
    )
    print(text)
    write_section(text)


if __name__ == "__main__":
    main()
