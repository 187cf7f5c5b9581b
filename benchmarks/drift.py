"""Measures the drift table of a large table beside other ways, and how often it errs; writes its section of RESULTS.md.

    python benchmarks/drift.py [--rows 1000000] [--repeats 200]

20 columns of numbers and 5 of categories; four are planted to have moved. Each way runs in a process of its own:
seconds are medians of its rounds, memory is the peak of the whole process. False alarms are counted on
tables of which nothing moved.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from results import PATH, write_section
from scipy import stats

from lepton_kit.data.drift import chi_squared, effect_sizes
from lepton_kit.data.profiles import drift_table, profile_of, read_profile

ROUNDS, SLOW = 5, 50_000
PLANTED = ("c2", "x11", "x3", "x7")
SHARE, ALPHA = 0.1, 0.01
"""PSI from which on a column counts as moved, and the p-value below which."""


def made(rows: int, seed: int, moved: bool = False) -> pd.DataFrame:
    """Return a table of 20 numbers, normal or skewed, and 5 categories of 3 to 40 values."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(rng.normal(size=(rows, 20))).add_prefix("x")
    table[["x15", "x16", "x17"]] = np.exp(table[["x15", "x16", "x17"]])
    for place, kinds in enumerate((3, 5, 8, 20, 40)):
        shares = 1 / np.arange(1, kinds + 1)
        if moved and place == 2:
            shares = shares[::-1]
        table[f"c{place}"] = pd.Series(rng.choice(kinds, rows, p=shares / shares.sum()).astype(str)).radd("kind ")
    if moved:
        table["x3"] += 0.5
        table["x7"] *= 1.6
        table["x11"] = np.where(rng.random(rows) < 0.1, 5.0, table["x11"])
    return table


def psi_by_hand(before: pd.Series, now: pd.Series) -> float:
    """Return the PSI of a column as one writes it in pandas and numpy."""
    if pd.api.types.is_numeric_dtype(before):
        edges = np.unique(np.quantile(before, np.linspace(0, 1, 11)[1:-1]))
        counts = [np.bincount(np.searchsorted(edges, side), minlength=len(edges) + 1) for side in (before, now)]
        r, c = (np.maximum(one / one.sum(), 1e-4) for one in counts)
    else:
        shares = pd.concat([side.value_counts(normalize=True) for side in (before, now)], axis=1).fillna(0)
        r, c = shares.clip(lower=1e-4).to_numpy().T
    return float(((c - r) * np.log(c / r)).sum())


def by_profile(before: pd.DataFrame, folder: Path) -> Callable[[pd.DataFrame], list[str]]:
    """Store the profile of the reference, and return how a table is compared with it."""
    profile_of(before).save(folder / "profile.json")

    def compare(now: pd.DataFrame) -> list[str]:
        table = drift_table(read_profile(folder / "profile.json"), now)
        return list(table.index[table["moved"]])

    return compare


def by_tables(before: pd.DataFrame, now: pd.DataFrame) -> list[str]:
    """Compare with the reference table itself."""
    table = drift_table(before, now)
    return list(table.index[table["moved"]])


def by_effects(before: pd.DataFrame, now: pd.DataFrame) -> list[str]:
    """Compare by all statistics that the diagnosis asks for."""
    table = effect_sizes(before, now)
    return list(table.index[table["psi"] >= SHARE])


def by_tests(before: pd.DataFrame, now: pd.DataFrame) -> list[str]:
    """Compare by Kolmogorov and Smirnov's test of scipy, and χ² of categories, on the p-value."""
    found = []
    for name in before:
        if pd.api.types.is_numeric_dtype(before[name]):
            p = stats.ks_2samp(before[name], now[name], method="asymp").pvalue
        else:
            names = {one: place for place, one in enumerate(sorted(before[name].unique()))}
            p = chi_squared(before[name].map(names), now[name].map(names))[1]
        found += [name] if p < ALPHA else []
    return found


def by_hand(before: pd.DataFrame, now: pd.DataFrame) -> list[str]:
    """Compare by PSI as one writes it in pandas and numpy."""
    return [name for name in before if psi_by_hand(before[name], now[name]) >= SHARE]


WAYS: dict[str, tuple[str, Callable[[pd.DataFrame, pd.DataFrame], list[str]] | None]] = {
    "profile": ("`drift_table`, stored profile", None),
    "tables": ("`drift_table`, reference table", by_tables),
    "effects": ("`effect_sizes` (PSI, KS, Wasserstein, spread)", by_effects),
    "hand": ("PSI by numpy and pandas", by_hand),
    "tests": ("scipy `ks_2samp` and χ², p < 0.01", by_tests),
}


def measure(way: str, rows: int) -> dict[str, object]:
    """Return the median seconds, peak MiB and found columns of one way."""
    before, now = made(rows, 1), made(rows, 2, moved=True)
    _, work = WAYS[way]
    rounds = ROUNDS if way in ("profile", "tables", "hand") else 3
    with tempfile.TemporaryDirectory() as folder:
        compare = by_profile(before, Path(folder)) if work is None else lambda table: work(before, table)
        if work is None:
            del before
        times, work_times = [], []
        for _ in range(rounds):
            start, begun = time.perf_counter(), time.process_time()
            found = compare(now)
            times.append(time.perf_counter() - start)
            work_times.append(time.process_time() - begun)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds = {"seconds": statistics.median(times), "least": min(times), "work": statistics.median(work_times)}
    return {**seconds, "peak": peak, "found": sorted(found)}


def false_alarms(rows: int, repeats: int) -> str:
    """Count the tables without drift of which a column counts as moved; the tests are asked of small tables only."""
    tables = [(made(rows, 2 * seed + 10), made(rows, 2 * seed + 11)) for seed in range(repeats if rows < SLOW else 0)]
    tests = f"{np.mean([bool(by_tests(*one)) for one in tables]):.1%}" if tables else "–"
    pairs = ((made(rows, 2 * seed + 10), made(rows, 2 * seed + 11)) for seed in range(repeats))
    ours = np.mean([bool(by_tables(*one)) for one in pairs])
    return f"| {rows:,} | {ours:.1%} | {tests} |"


def main() -> None:
    """Measure all ways and write the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of either table [%(default)s]")
    parser.add_argument("--repeats", type=int, default=200, help="tables without drift of each size [%(default)s]")
    parser.add_argument("--way", choices=WAYS, help="measure one way in this process, and print it")
    parser.add_argument("--results", type=Path, default=PATH, help="file to write the section into [%(default)s]")
    chosen = parser.parse_args()
    if chosen.way:
        print(json.dumps(measure(chosen.way, chosen.rows)))
        return
    lines = []
    for way, (name, _) in WAYS.items():
        command = [sys.executable, __file__, "--way", way, "--rows", str(chosen.rows)]
        one = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        said = "exactly the planted" if tuple(one["found"]) == PLANTED else ", ".join(one["found"])
        lines.append(
            f"| {name} | {one['seconds']:.2f} | {one['least']:.2f} | {one['work']:.2f} | {one['peak']:.0f} | {said} |"
        )
        print(lines[-1], flush=True)
    alarms = []
    for rows in (200, 2_000, 100_000):
        alarms.append(false_alarms(rows, chosen.repeats))
        print(alarms[-1], flush=True)
    text = "\n".join([
        "## Drift of a large table", "",
        f"`python benchmarks/drift.py --rows {chosen.rows}` · {chosen.rows:,} rows × 25 columns (20 numbers, 5 "
        f"categories as text), planted: {', '.join(PLANTED)}; seconds by the clock on a shared machine of 2 "
        "cores, memory of the whole process with its tables.", "",
        "| way | median s | least s | processor s | peak MiB | columns that moved |", "|---|---|---|---|---|---|",
        *lines, "",
        f"Tables without drift of which a column counts as moved, of {chosen.repeats} each (alpha = {ALPHA} of a "
        "table; the tests take it of each column):", "",
        "| rows of either table | `drift_table` | KS and χ² |", "|---|---|---|", *alarms,
    ])  # fmt: skip
    write_section(text, chosen.results)


if __name__ == "__main__":
    main()
