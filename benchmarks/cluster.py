"""Times runs on the workers of a cluster beside the local pool, and writes the table to `benchmarks/RESULTS.md`.

    python benchmarks/cluster.py [--quick] [--runs N] [--rounds N]

A real scheduler and its workers, each a process with a folder of its own, on this machine; both ways have as many runs
going on at once, and their rounds alternate. A notebook of one trivial cell, so that all of it is overhead. Then what
ends the growth: the scheduler with tasks that do nothing, on workers that are objects of one process, and what the
process that asks for runs pays for each. These two costs go into a small queue model with a virtual clock, of more runs
and workers than this machine can have.
"""

from __future__ import annotations

import argparse
import heapq
import importlib
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import nbformat
from distributed import Client, LocalCluster
from results import write_section

from lepton_kit.runs.cluster import Cluster, connected
from lepton_kit.runs.luggage import pack_plan, pack_run, unpack_run
from lepton_kit.runs.pool import run_all
from lepton_kit.runs.runner import Ended, Options, Plan, Request, execute, prepare

SIZES = (2, 4, 8)
TARGET = 1.2
TASKS, WORKERS = 5_000, 50
MANY, MOST = 10_000, 500  # runs and workers that are simulated
LENGTHS = (1, 10, 30, 60, 300)  # seconds that a simulated run takes on its worker
COMMANDS = {
    name: [sys.executable, "-m", f"distributed.cli.dask_{name}", "--no-dashboard"] for name in ("scheduler", "worker")
}


def main() -> None:
    """Measure, print and write the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--runs", type=int, default=12, help="runs of a round")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--quick", action="store_true", help="two workers, one round, and nothing written")
    given = arguments.parse_args()
    sizes, rounds = (SIZES[:1], 1) if given.quick else (SIZES, given.rounds)
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "project"
        plan = make_plan(project)
        taken = {size: measure(plan, project, size, given.runs, rounds) for size in sizes}
        asked = asking(plan, project, 20 if given.quick else 200)
    scheduled = scheduling()
    text = report(taken, asked, scheduled, given.runs, rounds)
    print(text)
    if not given.quick:
        write_section(text)


def make_plan(project: Path) -> Plan:
    """Write the notebook of a project, and check it."""
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path = project / "notebooks/trivial.ipynb"
    path.parent.mkdir(parents=True)
    (project / "lepton.toml").touch()
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")], metadata=kernel), path)
    return prepare(Request(path), project)


@contextmanager
def started(folder: Path, size: int) -> Iterator[Cluster]:
    """Run a scheduler and so many workers, and connect to them."""
    place = folder / f"cluster-{size}"
    place.mkdir()
    told, log = place / "scheduler.json", (place / "log").open("wb")
    words = ["--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(told)]
    processes = [subprocess.Popen([*COMMANDS["scheduler"], *words], stdout=log, stderr=log)]
    try:
        while not told.exists():
            time.sleep(0.1)
        for number in range(size):
            words = ["--no-nanny", "--nthreads", "1", "--local-directory", str(place / str(number))]
            command = [*COMMANDS["worker"], *words, "--scheduler-file", str(told)]
            processes.append(subprocess.Popen(command, stdout=log, stderr=log))
        with Client(scheduler_file=str(told), set_as_default=False) as client:
            client.wait_for_workers(size, timeout=120)
            address = client.scheduler.address
        with connected(address) as cluster:
            yield cluster
    finally:
        for process in processes:
            process.kill()
            process.wait()
        log.close()


def measure(plan: Plan, project: Path, size: int, runs: int, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each round, by way."""
    with started(project.parent, size) as cluster:
        ways = {"local pool": None, "cluster": cluster}

        def once(way: str, count: int) -> float:
            begun = time.perf_counter()
            made = run_all([plan] * count, project, size, lambda _: None, Options(), ways[way])
            assert {run.status for run in made} == {"succeeded"}, made
            return time.perf_counter() - begun

        cluster.client.run(importlib.import_module, "papermill")  # each worker does so once
        for way in ways:
            once(way, size)
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way in ways:
                taken[way].append(once(way, runs))
    return taken


def asking(plan: Plan, project: Path, runs: int) -> float:
    """Return the seconds that who asks pays for a run: folder, ledger, manifest, packing, unpacking; no run is made."""
    packed = pack_run(execute(plan, project).folder(project))

    def nowhere(plan: Plan, project: Path, folder: Path, tell: Callable[..., None], options: Options) -> Ended:
        pack_plan(plan, project)
        unpack_run(packed, folder)
        return Ended("succeeded", None)

    begun = time.perf_counter()
    run_all([plan] * runs, project, 8, lambda _: None, Options(), nowhere)
    return (time.perf_counter() - begun) / runs


def scheduling() -> float:
    """Return the seconds that empty tasks take on workers which are all in this process."""
    how = {"threads_per_worker": 1, "processes": False, "dashboard_address": None, "silence_logs": 50}
    with LocalCluster(n_workers=WORKERS, **how) as there, Client(there, set_as_default=False) as client:
        client.wait_for_workers(WORKERS, timeout=300)
        begun = time.perf_counter()
        client.gather(client.map(_nothing, range(TASKS), pure=False))
        return time.perf_counter() - begun


def _nothing(number: int) -> int:
    return number


def simulated(asked: float, scheduled: float, length: float, runs: int, workers: int) -> tuple[float, float]:
    """Return the seconds that runs take by a virtual clock, and the share of that time in which workers are busy.

    The process that asks, and the scheduler, do one thing at a time. Half of what a run costs the former comes before
    the run, half after it, when its folder comes back; as many runs are asked for at once as there are workers.

    >>> simulated(0.0, 0.0, 10.0, 100, 5)
    (200.0, 1.0)
    >>> simulated(1.0, 0.0, 1.0, 100, 50)[0] >= 100
    True
    """
    events = [(0.0, 0, number) for number in range(min(runs, workers))]  # when, step of the run, number
    begun, asker, scheduler, now = len(events), 0.0, 0.0, 0.0
    while events:
        now, step, number = heapq.heappop(events)
        if step in (0, 3):
            asker = now = max(now, asker) + asked / 2
        elif step == 1:
            scheduler = now = max(now, scheduler) + scheduled
        else:
            now += length
        if step < 3:
            heapq.heappush(events, (now, step + 1, number))
        elif begun < runs:
            heapq.heappush(events, (now, 0, begun))
            begun += 1
    return now, runs * length / (now * workers)


def report(taken: dict[int, dict[str, list[float]]], asked: float, scheduled: float, runs: int, rounds: int) -> str:
    """Return the section in Markdown."""
    lines = [
        "## Runs on a cluster",
        "",
        f"`benchmarks/cluster.py`, {datetime.now(UTC):%Y-%m-%d}: Python {platform.python_version()}, {os.cpu_count()} "
        f"cores at a load of {os.getloadavg()[1]:.0f} (five minutes); distributed {version('distributed')}. "
        f"Milliseconds per run of one trivial cell: {runs} runs, the fastest of {rounds} rounds, "
        "as many at once as there are workers; kernels warm, workers connected.",
        "",
        "| workers | local pool | cluster | ratio | target |",
        "|---|---|---|---|---|",
    ]
    for size, ways in taken.items():
        here, there = (1000 * min(ways[way]) / runs for way in ("local pool", "cluster"))
        verdict = "met" if there / here <= TARGET else "missed"
        lines.append(f"| {size} | {here:.0f} | {there:.0f} | {there / here:.2f} | ≤ {TARGET}: {verdict} |")
    return "\n".join([*lines, "", *where_it_ends(asked, scheduled)]) + "\n"


def where_it_ends(asked: float, scheduled: float) -> list[str]:
    """Return what was measured of the ends, and simulated from it, in Markdown."""
    each, ideal = scheduled / TASKS, MANY / MOST
    lines = [
        f"Where it ends ({datetime.now(UTC):%Y-%m-%d}, at a load of {os.getloadavg()[0]:.0f}). "
        f"Measured: {TASKS:,} tasks that do nothing took {scheduled:.1f} s on {WORKERS} workers that are objects of "
        f"one process, scheduler included ({1000 * each:.1f} ms each); who asks pays {1000 * asked:.0f} ms for a run "
        "(folder, ledger, manifest, packing, unpacking). "
        f"Computed, by a queue model with a virtual clock from these two costs: {MANY:,} runs on {MOST} workers. "
        "Neither so many notebooks nor so many workers were run; that half of what who asks pays comes after the run "
        "is assumed, and the network between machines costs nothing here.",
        "",
        "| a run takes, s | all runs take, min | without these costs, min | workers busy |",
        "|---|---|---|---|",
    ]
    for length in LENGTHS:
        took, busy = simulated(asked, each, length, MANY, MOST)
        lines.append(f"| {length} | {took / 60:.1f} | {ideal * length / 60:.1f} | {busy:.0%} |")
    return [
        *lines,
        "",
        f"It ends at {1 / max(asked, each):.0f} runs a second, which is what the slower of the two can do.",
    ]


if __name__ == "__main__":
    main()
