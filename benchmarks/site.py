"""Times the report site at 1,000 published runs, and writes the table to `benchmarks/RESULTS.md`.

    python benchmarks/site.py [--pages N] [--renderers quarto nbconvert] [--folder F] [--quick]

A runbook is run once on its recorded incident; its run folder is then copied under other ids, times and results, and
all copies are published. With a tenth of the pages and with all of them: the whole site is rendered, then one more run
is published. Each is a `lepton` command of its own, whose time and largest memory are taken from outside.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import psutil
from results import write_section

from lepton_kit.reports.publish import publish_runs
from lepton_kit.reports.quarto import find_quarto
from lepton_kit.runs.manifest import FILE, Manifest
from lepton_kit.runs.runner import Request, run_notebook

ROOT = Path(__file__).parents[1]
RUNBOOK = "runbooks/service-health.ipynb"
SAMPLED_EVERY_S = 0.02
AT_ONCE = 50
"""Runs that are published together: the pages of all of them are in memory."""


@dataclass(frozen=True)
class Cost:
    """What a command took: seconds, and the largest resident memory of it and all its children together, in MiB."""

    seconds: float
    memory: float


@dataclass(frozen=True)
class Measured:
    """A site of so many pages, and what one more cost."""

    renderer: str
    pages: int
    full: Cost
    one_more: Cost
    megabytes: float


def main() -> None:
    """Measure, print and write the section."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--pages", type=int, default=1000)
    arguments.add_argument("--renderers", nargs="+", choices=("quarto", "nbconvert"), default=["quarto", "nbconvert"])
    arguments.add_argument("--folder", type=Path, help="where the project is made; a temporary one unless given")
    arguments.add_argument("--quick", action="store_true", help="20 pages, and nothing written")
    given = arguments.parse_args()
    pages = 20 if given.quick else given.pages
    found = [
        one
        for renderer in given.renderers
        if renderer == "nbconvert" or find_quarto()
        for one in measure(renderer, (pages // 10, pages), given.folder)
    ]
    text = report(found)
    print(text)
    if not given.quick:
        write_section(text)


def measure(renderer: str, sizes: Sequence[int], folder: Path | None) -> list[Measured]:
    """Return what sites of these sizes cost, each in a project of its own."""
    found = []
    for pages in sizes:
        with tempfile.TemporaryDirectory(dir=folder, prefix="lepton-site-") as name:
            project = make_project(Path(name), pages)
            environment = dict(os.environ) | ({"LEPTON_QUARTO": "none"} if renderer == "nbconvert" else {})
            *runs, last = sorted((project / "runs").glob(f"*/{FILE}"))
            publish_all(project, runs)
            full = cost(["publish", runs[-1].parent.name], project, environment)  # there is no site yet
            one_more = cost(["publish", last.parent.name], project, environment)
            rendered = [path.parent.name for path in (project / "reports/_site/runs").glob("*/index.html")]
            assert len(rendered) == pages + 1, f"{len(rendered)} pages, of {pages + 1} runs"
            found.append(Measured(renderer, pages, full, one_more, size_of(project / "reports/_site") / 1e6))
            print(found[-1], flush=True)
    return found


def make_project(project: Path, pages: int) -> Path:
    """Run the runbook once, and copy its run until there is one more than pages to publish."""
    ignored = shutil.ignore_patterns("_site", "runs", "incidents", "listings", ".*")
    for name in ("reports", "runbooks", "slo"):
        shutil.copytree(ROOT / name, project / name, ignore=ignored)
    (project / "lepton.toml").write_text("")
    made = run_notebook(Request(project / RUNBOOK), project)
    assert made.status == "succeeded", made.error
    for number in range(pages):
        copy_run(made, number + 1, project)
    return project


def copy_run(made: Manifest, number: int, project: Path) -> None:
    """Copy a run as one that began so many hours earlier, with another id and other results."""
    earlier = timedelta(hours=number)
    id = f"{made.started - earlier:%Y%m%dT%H%M%SZ}-{made.name}-{number:06x}"
    results = {
        name: fact.model_copy(update={"value": fact.value + number}) if isinstance(fact.value, float) else fact
        for name, fact in made.results.items()
    }
    times = {"started": made.started - earlier, "ended": made.ended - earlier if made.ended else None}
    copied = made.model_copy(update={"run_id": id, "results": results, **times})
    folder = copied.folder(project)
    folder.mkdir()
    os.link(made.folder(project) / "notebook.ipynb", folder / "notebook.ipynb")
    (folder / FILE).write_text(copied.model_dump_json())


def publish_all(project: Path, manifests: Sequence[Path]) -> None:
    """Publish runs without building the site."""
    for start in range(0, len(manifests), AT_ONCE):
        publish_runs(project, [Manifest.load(path) for path in manifests[start : start + AT_ONCE]])


def cost(words: Sequence[str], project: Path, environment: dict[str, str]) -> Cost:
    """Run a `lepton` command to its end and return what it took."""
    command = [sys.executable, "-m", "lepton_kit.cli", *words]
    started, most = time.perf_counter(), 0
    process = psutil.Popen(command, cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while process.poll() is None:
        most = max(most, memory_of(process))
        time.sleep(SAMPLED_EVERY_S)
    taken = time.perf_counter() - started
    assert process.returncode == 0, process.stdout.read().decode()
    return Cost(taken, most / 2**20)


def memory_of(process: psutil.Process) -> int:
    """Return the bytes that a process and all its descendants hold in memory; what they share counts once for each."""
    held = 0
    try:
        for one in [process, *process.children(recursive=True)]:
            held += one.memory_info().rss
    except psutil.NoSuchProcess:  # one has just ended: the next look counts those that remain
        pass
    return held


def size_of(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def report(found: Iterable[Measured]) -> str:
    """Return the section in Markdown."""
    quarto = find_quarto()
    tools = f"{f'Quarto {quarto.version}, ' if quarto else ''}nbconvert {version('nbconvert')}"
    lines = [
        "## Report site",
        "",
        f"`benchmarks/site.py`, {datetime.now(UTC):%Y-%m-%d}: Python {platform.python_version()}, {os.cpu_count()} "
        f"cores, {tools}. Pages of `{RUNBOOK}`, each with its figures and downloads. Each time is that of one command; "
        "memory is the largest sum over its whole process tree.",
        "",
        "| renderer | pages published | all rendered | memory | one more published | memory | target | site |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {one.renderer} | {one.pages:,} | {one.full.seconds:,.1f} s | {one.full.memory:,.0f} MiB "
            f"| {one.one_more.seconds:.1f} s | {one.one_more.memory:,.0f} MiB "
            f"| < 10 s: {'met' if one.one_more.seconds < 10 else 'missed'} | {one.megabytes:,.0f} MB |"
            for one in found
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
