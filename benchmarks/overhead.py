"""What a run costs beyond the notebook's own work: `lepton run` beside the papermill command, in turn, in one session.

    python benchmarks/overhead.py

Prints a table of medians over 7 pairs and the ratio of each pair; `benchmarks/RESULTS.md` keeps one such table.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat

PAIRS = 7
NOTEBOOKS = {
    "one trivial cell": ["1 + 1"],
    "50 trivial cells": [f"x = {n}" for n in range(50)],
    "pandas, a figure": [
        "import pandas as pd\nimport matplotlib.pyplot as plt",
        "frame = pd.DataFrame({'a': range(9)})\nfig, ax = plt.subplots()\nax.plot(frame['a'])\nplt.show()",
    ],
}


def write_notebook(path: Path, sources: list[str]) -> None:
    """Write a notebook of code cells."""
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)


def seconds(command: list[str], folder: Path) -> float:
    """Run a command to its end and return the wall-clock seconds it took."""
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - start


def measure(folder: Path, sources: list[str]) -> tuple[list[float], list[float]]:
    """Time both ways in turn, after one run of each that is not counted."""
    write_notebook(folder / "n.ipynb", sources)
    lepton = [sys.executable, "-m", "lepton_kit.cli", "run", "n.ipynb"]
    papermill = [sys.executable, "-m", "papermill", "n.ipynb", "out.ipynb"]
    pairs = [(seconds(lepton, folder), seconds(papermill, folder)) for _ in range(PAIRS + 1)][1:]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def main() -> None:
    """Print the table."""
    print("| notebook | lepton run, s | papermill, s | ratio (median, min–max) |\n|---|---|---|---|")
    for name, sources in NOTEBOOKS.items():
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "lepton.toml").touch()
            ours, theirs = measure(Path(folder), sources)
        ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
        print(
            f"| {name} | {statistics.median(ours):.2f} | {statistics.median(theirs):.2f} "
            f"| {statistics.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f}) |"
        )


if __name__ == "__main__":
    main()
