"""Measures reading a price table beside pandas; writes the table to RESULTS.md.

    python benchmarks/tables.py [--rows 1000000]

Both sides run in turn in this process, and times are the process's own: ratios hold on a busy machine.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from results import write_section

from subjects.prices.sources import read_prices

ROUNDS = 3


def seconds(work: Callable[[], object]) -> float:
    """Return the least processor time of a few rounds."""
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def reading(folder: Path, rows: int) -> tuple[float, float]:
    """Return the seconds of the kit and of pandas, which is told the format of the dates, for one CSV."""
    rng = np.random.default_rng(0)
    prices = pd.DataFrame(rng.uniform(50, 60, (rows, 4)).round(2), columns=["open", "high", "low", "close"])
    prices.insert(0, "date", pd.date_range("1500-01-01", periods=rows, unit="us").strftime("%Y-%m-%d"))
    path = folder / "prices.csv"
    prices.to_csv(path, index=False)
    read = seconds(lambda: read_prices(str(path)))
    return read, seconds(lambda: pd.read_csv(path, parse_dates=["date"], date_format="%Y-%m-%d"))


def main() -> None:
    """Measure both and write the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="five times the rows of the CSV")
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        read, pandas = reading(Path(folder), rows // 5)
    told = "`pandas.read_csv`, told the format"
    table = [(f"`read_prices`, CSV of {rows // 5:,} days, the format of its dates found", read, told, pandas)]
    lines = [f"| {work} | {a:.2f} | {beside} | {b:.2f} | {a / b:.2f} |" for work, a, beside, b in table]
    write_section(
        f"""## Tables

`python benchmarks/tables.py --rows {rows}`, {platform.machine()}, Python {platform.python_version()}, processor time,
least of {ROUNDS} rounds in turn.

| work | seconds | beside | seconds | ratio |
|---|---|---|---|---|
"""
        + "\n".join(lines)
    )


if __name__ == "__main__":
    main()
