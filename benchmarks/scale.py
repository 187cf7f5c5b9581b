"""Measures a table larger than memory, and writes its section of RESULTS.md.

    python benchmarks/scale.py [--rows 100000000]

DuckDB makes the rows (two numbers, an amount, a category and an id) in a temporary folder, which is deleted. Each step
runs in a process of its own: seconds by the clock, and the peak memory of the whole process.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from results import PATH, write_section

from lepton_kit.data import large
from lepton_kit.data.contracts import Contract
from lepton_kit.data.profiles import drift_table, read_profile

CONTRACT = Contract(numbers=("load", "wait", "amount"), categories=("region",), id="id")


def make(folder: Path, rows: int) -> None:
    """Write two tables of so many rows, in ten files each; in the second `load` and `region` have moved."""
    import duckdb

    for name, shift, kinds in (("before", 0.0, 5), ("now", 0.5, 3)):
        (folder / name).mkdir()
        for part in range(10):
            start, end = part * rows // 10, (part + 1) * rows // 10
            load = f"round(sqrt(-2 * ln(1 - random())) * cos(6.2832 * random()) + {shift}, 3)::FLOAT"
            with duckdb.connect(config={"memory_limit": "1GB", "threads": 2}) as database:
                database.execute(f"SELECT setseed({(part + 1) / 100})")
                database.execute(
                    f"COPY (SELECT i - i % 100000 // 99999 AS id, {load} AS load, "
                    "CASE WHEN random() < 0.01 THEN NULL ELSE round(-ln(1 - random()), 3)::FLOAT END AS wait, "
                    f"(random() * 1000)::INT AS amount, 'region ' || (random() * {kinds})::INT AS region "
                    f"FROM range({start}, {end}) AS t(i)) TO '{folder / name / f'part-{part}.parquet'}' "
                    "(FORMAT parquet, COMPRESSION zstd)"
                )


def profile(folder: Path) -> str:
    """Make and store the profile of the first table."""
    made = large.profile_of_files(folder / "before")
    made.save(folder / "profile.json")
    return f"{made.rows:,} rows, {len(made.columns)} columns"


def drift(folder: Path) -> str:
    """Compare the second table with the stored profile."""
    table = drift_table(read_profile(folder / "profile.json"), large.chunks(folder / "now"))
    return "moved: " + ", ".join(sorted(table.index[table["moved"]]))


def faults(folder: Path) -> str:
    """Count what is wrong with the first table."""
    found = large.quality_of_files(folder / "before", CONTRACT)
    return ", ".join(f"{one.check} {one.rows:,}" for one in found.itertuples())


STEPS: dict[str, tuple[str, Callable[[Path], str]]] = {
    "profile": ("profile (`profile_of_files`)", profile),
    "drift": ("drift table (`drift_table` on `chunks`)", drift),
    "faults": ("faults of all rows (`quality_of_files`)", faults),
}


def main() -> None:
    """Measure all steps and write the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000_000, help="rows of either table [%(default)s]")
    parser.add_argument("--step", nargs=2, metavar=("STEP", "FOLDER"), help="do one step in this process, and print it")
    parser.add_argument("--results", type=Path, default=PATH, help="file to write the section into [%(default)s]")
    chosen = parser.parse_args()
    if chosen.step:
        start = time.perf_counter()
        said = STEPS[chosen.step[0]][1](Path(chosen.step[1]))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": time.perf_counter() - start, "peak": peak, "said": said}))
        return
    with tempfile.TemporaryDirectory(prefix="lepton-scale-") as place:
        folder, lines = Path(place), []
        make(folder, chosen.rows)
        size = sum(path.stat().st_size for path in folder.rglob("*.parquet")) / 2 / 1e9
        for step, (name, _) in STEPS.items():
            command = [sys.executable, __file__, "--step", step, place]
            one = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            lines.append(f"| {name} | {one['seconds']:.0f} | {one['peak']:.0f} | {one['said']} |")
            print(lines[-1], flush=True)
    text = "\n".join([
        "## Tables larger than memory", "",
        f"`python benchmarks/scale.py --rows {chosen.rows}` · {chosen.rows:,} rows × 5 columns, {size:.1f} GB of "
        f"Parquet in ten files; DuckDB may take {large.MEMORY} and two threads of a shared machine of two cores.", "",
        "| step | s | peak MiB of the process | result |", "|---|---|---|---|", *lines,
    ])  # fmt: skip
    write_section(text, chosen.results)


if __name__ == "__main__":
    main()
