"""Times ways to run a notebook, side by side in one session, and writes the table to `benchmarks/RESULTS.md`.

    python benchmarks/runs.py [--quick] [--repeats N]

Cases: (a) one trivial cell; (b) pandas, matplotlib and torch with a figure and a table; (c) 50 trivial cells; (d) 160
cells of 200 KB output. A way's rounds alternate with the others', so that what else the machine does meets all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import matplotlib
import nbclient
import nbformat
import papermill
import psutil
from matplotlib import pyplot
from results import write_section

from lepton_kit.runs import saver
from lepton_kit.runs.runner import Request, execute, prepare

matplotlib.use("agg")
BIN = Path(sys.executable).parent
TOOLS = [
    "import pandas as pd\nimport matplotlib.pyplot as plt\nimport torch",
    "table = pd.DataFrame({'a': range(100)}).describe()\ntable",
    "figure, axes = plt.subplots()\naxes.plot(torch.linspace(0, 1, 50).numpy())\nplt.show()",
]
CASES = {"a": ["1 + 1"], "b": TOOLS, "c": ["1 + 1"] * 50, "d": ["print('x' * 200_000)"] * 160}
PLOOMBER = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import matplotlib; matplotlib.use("agg")
import pandas, torch, matplotlib.pyplot
from ploomber_engine import execute_notebook
taken = []
for _ in range(int(sys.argv[2]) + 1):
    started = time.perf_counter()
    execute_notebook(sys.argv[1], sys.argv[3], progress_bar=False)
    taken.append(time.perf_counter() - started)
print("TAKEN" + json.dumps(taken[1:]))
"""


def main() -> None:
    """Measure, print and write the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--repeats", type=int, default=7)
    arguments.add_argument("--runs", type=int, default=1000, help="runs in one process, for memory")
    arguments.add_argument("--quick", action="store_true", help="one round, few runs, and nothing written")
    given = arguments.parse_args()
    repeats, runs = (1, 10) if given.quick else (given.repeats, given.runs)
    with tempfile.TemporaryDirectory() as folder:
        project = make_project(Path(folder))
        ways = ways_to_run(project)
        warm_up(ways)
        taken = {case: measure(case, ways, project, repeats) for case in CASES}
        many = forty_runs(project, taken["b"]["papermill CLI"])
        unsaved = without_saves(project, repeats)
        memory = memory_of(runs, project)
    text = report(taken, many, unsaved, memory, repeats, runs)
    print(text)
    if not given.quick:
        write_section(text)


def make_project(folder: Path) -> Path:
    """Write the cases as notebooks of a project."""
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    for case, cells in CASES.items():
        notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, cells)), metadata=kernel)
        (folder / "notebooks").mkdir(exist_ok=True)
        nbformat.write(notebook, folder / f"notebooks/{case}.ipynb")
    (folder / "lepton.toml").touch()
    return folder


def ways_to_run(project: Path) -> dict[str, Callable[[Path], object]]:
    """Return the ways by name; each takes a notebook and runs it."""
    out = str(project / "out.ipynb")

    def command(*words: str) -> None:
        made = subprocess.run(words, cwd=project, capture_output=True, text=True)
        assert made.returncode == 0, made.stdout + made.stderr

    def floor(path: Path) -> None:
        names: dict[str, object] = {}
        pyplot.show = lambda: pyplot.gcf().savefig(io.BytesIO(), format="png", bbox_inches="tight")  # as a kernel does
        with contextlib.redirect_stdout(io.StringIO()):
            for cell in nbformat.read(path, 4).cells:
                exec(cell.source, names)
        pyplot.close("all")

    def nbval(path: Path) -> None:
        command(str(BIN / "python"), "-m", "pytest", "--nbval-lax", "-q", "-p", "no:cacheprovider", str(path))

    return {
        "papermill CLI": lambda path: command(str(BIN / "papermill"), str(path), out, "--no-progress-bar"),
        "papermill, warm process": lambda path: papermill.execute_notebook(str(path), out, progress_bar=False),
        "nbclient, warm process": lambda path: nbclient.execute(nbformat.read(path, 4)),
        "pytest --nbval": nbval,
        "lepton run, command": lambda path: command(str(BIN / "lepton"), "run", str(path)),
        "the kit, warm process": lambda path: succeed(prepare_and_execute(path, project)),
        "floor (exec)": floor,
    }


def prepare_and_execute(path: Path, project: Path) -> str:
    """Run a notebook through the kit and return the run's status."""
    return execute(prepare(Request(path), project), project).status


def succeed(status: str) -> None:
    """Refuse to time what has not worked."""
    assert status == "succeeded", status


def warm_up(ways: dict[str, Callable[[Path], object]]) -> None:
    """Start the fork server and let it load everything: that is once per ten idle minutes, and not what is timed."""
    folder = Path(tempfile.mkdtemp())
    project = make_project(folder)
    for _ in range(2):
        ways_to_run(project)["lepton run, command"](project / "notebooks/b.ipynb")
        ways_to_run(project)["the kit, warm process"](project / "notebooks/b.ipynb")
        time.sleep(12)
    ways["floor (exec)"](project / "notebooks/b.ipynb")
    shutil.rmtree(folder)


def measure(
    case: str, ways: dict[str, Callable[[Path], object]], project: Path, repeats: int
) -> dict[str, list[float]]:
    """Return the seconds of each round of each way."""
    path = project / f"notebooks/{case}.ipynb"
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for done in range(min(repeats, 3) if case == "d" else repeats):
        for name, run in ways.items():
            if case == "d" and name.startswith("papermill") and done:
                continue  # the better part of a minute each
            taken[name].append(seconds(lambda run=run: run(path)))
    taken["ploomber-engine, warm process"] = ploomber(path, repeats)
    return taken


def seconds(run: Callable[[], object]) -> float:
    """Return how long something takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def ploomber(path: Path, repeats: int) -> list[float]:
    """Run the case with ploomber-engine in a process of its own; empty where it cannot be installed."""
    target = Path(tempfile.gettempdir()) / "lepton-bench-ploomber"
    if not target.exists():
        words = [sys.executable, "-m", "pip", "install", "-q", "--target", str(target), "ploomber-engine"]
        if subprocess.run(words, capture_output=True).returncode != 0:
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(target)}
    words = [sys.executable, "-c", PLOOMBER, str(path), str(repeats), str(path.with_name("ploomber-out.ipynb"))]
    made = subprocess.run(words, env=environment, capture_output=True, text=True)
    return json.loads(made.stdout.rpartition("TAKEN")[2]) if made.returncode == 0 else []


def forty_runs(project: Path, cli: list[float]) -> tuple[float, float]:
    """Return the seconds of 40 runs of (b) with 2 workers, and of the papermill CLI 40 times (its median, times 40)."""
    words = [str(BIN / "lepton"), "run", *[str(project / "notebooks/b.ipynb")] * 40, "--workers", "2"]
    took = seconds(lambda: subprocess.run(words, cwd=project, capture_output=True, check=True))
    return took, 40 * statistics.median(cli)


def without_saves(project: Path, repeats: int) -> tuple[float, float]:
    """Return the median seconds of (d) with all saves, and with the last one alone."""
    path, due = project / "notebooks/d.ipynb", saver.NotebookSaver.save_if_due
    taken: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(repeats):
        for saves in (True, False):
            saver.NotebookSaver.save_if_due = due if saves else _no_save  # type: ignore[method-assign]
            taken[saves].append(seconds(lambda: prepare_and_execute(path, project)))
    saver.NotebookSaver.save_if_due = due  # type: ignore[method-assign]
    return statistics.median(taken[True]), statistics.median(taken[False])


def _no_save(self: saver.NotebookSaver) -> bool:
    self.due = float("inf")
    return False


def memory_of(runs: int, project: Path) -> list[dict[str, float]]:
    """Return this process' resident MiB, open files and descendants, after a fifth of the runs of (a) and after all."""
    me, path = psutil.Process(), project / "notebooks/a.ipynb"
    found = []
    for number in range(1, runs + 1):
        prepare_and_execute(path, project)
        if number in (runs // 5, runs):
            gc.collect()
            time.sleep(2)  # for spare kernels to be made again
            descendants = me.children(recursive=True)
            held = {"MiB": me.memory_info().rss / 2**20, "files": me.num_fds(), "processes": len(descendants)}
            found.append(held)
    return found


def report(
    taken: dict[str, dict[str, list[float]]],
    many: tuple[float, float],
    unsaved: tuple[float, float],
    memory: list[dict[str, float]],
    repeats: int,
    runs: int,
) -> str:
    """Return the section in Markdown: the table, and each target with what was reached."""
    b = {name: statistics.median(each) for name, each in taken["b"].items() if each}
    lines = [
        "## Running notebooks",
        "",
        f"`benchmarks/runs.py`, {datetime.now(UTC):%Y-%m-%d}: Python {platform.python_version()}, {os.cpu_count()} "
        f"cores, papermill {version('papermill')}, nbclient {version('nbclient')}, torch {version('torch')}. Medians "
        f"of {repeats} (d: 3, and papermill there once), in seconds; the fork server was up. nbval: `--nbval-lax`.",
        "",
        "| way | a: one cell | b: pandas, matplotlib, torch | c: 50 cells | d: 160 × 200 KB |",
        "|---|---|---|---|---|",
    ]
    for name in taken["b"]:
        cells = [f"{statistics.median(taken[case][name]):.3f}" if taken[case][name] else "–" for case in CASES]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    checks = [
        (
            "b in a warm process against papermill there",
            b["papermill, warm process"] / b["the kit, warm process"],
            20,
            1,
        ),
        ("b in a warm process against the floor", b["the kit, warm process"] / b["floor (exec)"], 2.5, -1),
        ("b, `lepton run` against the papermill CLI", b["papermill CLI"] / b["lepton run, command"], 8, 1),
        ("40 runs of b with 2 workers against the CLI in sequence (40 × its median)", many[1] / many[0], 40, 1),
        ("d against the same without saves before the last", unsaved[0] / unsaved[1], 1.3, -1),
    ]
    lines += ["", "| ratio | measured | target | |", "|---|---|---|---|"]
    for words, ratio, target, direction in checks:
        met = ratio * direction >= target * direction
        lines.append(
            f"| {words} | {ratio:.2f} | {'≥' if direction > 0 else '≤'} {target} | {'met' if met else 'missed'} |"
        )

    def grown(what: str, words: str) -> str:
        return f"{memory[0][what]:.0f} → {memory[1][what]:.0f} {words}"

    lines += [
        "",
        f"40 runs of b with 2 workers took {many[0]:.1f} s. Over {runs} runs of a in one process, from the "
        f"{runs // 5}th to the last: {grown('MiB', 'MiB resident')}, {grown('files', 'open files')}, "
        f"{grown('processes', 'descendants')} (the fork server, spare kernels and their watchdogs).",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
