"""Finds wrong cells of real tables from twenty labelled rows: `python benchmarks/cells.py [--data FOLDER] [--rows 20]`.

Each folder of the data holds a table twice, `dirty.csv` and `clean.csv`; a cell is wrong where they differ. As in
Raha's evaluation (Mahdavi et al., SIGMOD 2019) a method asks for the rows that are to be labelled, and F1 is counted
over all cells; beside it stands F1 over the rows that were not labelled. Nothing was chosen by the tables of a part
kept back. Writes its section of RESULTS.md.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from results import PATH, write_section

from lepton_kit.data.cells import Cells
from lepton_kit.errors import InputError

DATA = Path(os.environ.get("LEPTON_DATA", Path(__file__).parents[2] / "shared" / "data")) / "tables"
PUBLISHED = {
    "hospital": ".97 (ETSB-RNN), 1.00 (Rotom, own protocol)", "rayyan": ".86 (Raha)",
    "beers": ".98 to .99", "flights": ".81 (Raha)",
}  # fmt: skip
SEEDS = range(5)


def read_pair(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a table as it is, and where it is wrong (boolean, of the same shape)."""
    dirty, clean = (pd.read_csv(folder / name, dtype=str, keep_default_na=False) for name in ("dirty.csv", "clean.csv"))
    if dirty.shape != clean.shape:
        raise InputError(f"{folder}: dirty.csv is {dirty.shape}, clean.csv {clean.shape}: both must be alike")
    strip = lambda table: table.apply(lambda cells: cells.str.strip())  # noqa: E731
    return dirty, strip(dirty) != strip(clean).set_axis(dirty.columns, axis=1)


def found_cells(table: pd.DataFrame, wrong: pd.DataFrame, rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Label the rows that are asked for, and return where cells are called wrong, and which rows were labelled."""
    cells, labels = Cells(table), wrong.head(0)
    for _ in range(rows):
        labels = pd.concat([labels, wrong.loc[[cells.next_row(labels, seed)]]])
    called = np.zeros(wrong.shape, dtype=bool)
    for row, column in cells.find(labels, seed)[["row", "column"]].itertuples(index=False):
        called[table.index.get_loc(row), table.columns.get_loc(column)] = True
    return called, table.index.isin(labels.index)


def f1(called: np.ndarray, wrong: np.ndarray) -> float:
    """Return the harmonic mean of precision and recall.

    >>> f1(np.array([True, True, False]), np.array([True, False, False]))
    0.6666666666666666
    """
    return float(2 * (called & wrong).sum() / (called.sum() + wrong.sum()))


def main(arguments: list[str]) -> int:
    """Score all tables, and write the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder with a folder per table [%(default)s]")
    parser.add_argument("--rows", type=int, default=20, help="rows that are labelled [%(default)s]")
    parser.add_argument("--results", type=Path, default=PATH, help="file to write the section into [%(default)s]")
    chosen = parser.parse_args(arguments)
    folders = sorted(path.parent for path in chosen.data.glob("*/dirty.csv"))
    if not folders:
        print(f"{chosen.data}: no table (folders with dirty.csv and clean.csv): give --data or LEPTON_DATA: the tables "
              "are those of BigDaMa/raha (datasets/)", file=sys.stderr)  # fmt: skip
        return 2
    lines = []
    for folder in folders:
        table, wrong = read_pair(folder)
        everywhere, elsewhere = [], []
        began = time.perf_counter()
        for seed in SEEDS:
            called, labelled = found_cells(table, wrong, chosen.rows, seed)
            everywhere.append(f1(called, wrong.to_numpy()))
            elsewhere.append(f1(called[~labelled], wrong.to_numpy()[~labelled]))
        seconds = (time.perf_counter() - began) / len(SEEDS)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        lines.append(
            f"| {folder.name} | {len(table)} × {table.shape[1]} | {wrong.to_numpy().mean():.1%} | "
            f"{np.mean(everywhere):.3f} ({min(everywhere):.3f} to {max(everywhere):.3f}) | {np.mean(elsewhere):.3f} | "
            f"{PUBLISHED.get(folder.name, '–')} | {seconds:.1f} | {memory:.0f} |"
        )
        print(lines[-1], flush=True)
    text = "\n".join([
        "## Wrong cells of a table", "",
        f"`python benchmarks/cells.py` · {chosen.rows} labelled rows; F1 is the mean of {len(SEEDS)} seeds (and their "
        "range); seconds with all questions which row to label next; memory is the process's peak so far.", "",
        "| table | size | wrong | F1 | F1 elsewhere than in labelled rows | best published F1 | s | MiB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |", *lines,
    ])  # fmt: skip
    write_section(text, chosen.results)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
