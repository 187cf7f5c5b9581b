"""Runs a notebook again and again, each time stopped one step later, and prints a line of JSON on what that left.

    python stops.py PROJECT NOTEBOOK SIGNAL STRIDE

A step is whatever a runner does that others see: it opens a file to write, makes, moves or removes one, opens the
ledger, starts a process. Python's audit events tell of each just before it is done, so nothing here knows the steps of
a run. Those after the start of the kernel are as good as one another: of them every STRIDE-th is tried.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import papermill
from sqlalchemy import select

from lepton_kit.runs.ending import repair
from lepton_kit.runs.ledger import Ledger
from lepton_kit.runs.manifest import all_runs
from lepton_kit.runs.runner import Request, execute, prepare
from lepton_kit.runs.tables import RUNS

CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.link", "os.symlink"}
STARTS = {"subprocess.Popen", "os.posix_spawn", "os.fork", "os.exec"}
LOADED = papermill.__version__  # imported before the forks: the audit would see its files
HEARD, DONE, STOPPED = 7, 0, 3


def is_step(event: str, arguments: tuple[object, ...], project: str) -> bool:
    """Say whether an audit event is something that others see."""
    if event in STARTS:
        return True
    if event == "open":
        flags = arguments[2] if isinstance(arguments[2], int) else 0
        return project in str(arguments[0]) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return (event in CHANGES or event == "sqlite3.connect") and project in str(arguments[0])


def run_and_stop(project: Path, notebook: Path, stop: int, at: int) -> None:
    """Run in this process, which gets the signal at a step; end with a status that says what came of it."""
    done, me = [0], os.getpid()

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if os.getpid() == me and is_step(event, arguments, str(project)):
            done[0] += 1
            if done[0] == at:
                os.kill(me, stop)

    plan = prepare(Request(notebook), project)
    sys.addaudithook(hook)
    try:
        execute(plan, project)
    except KeyboardInterrupt:
        os._exit(STOPPED)
    os._exit(DONE if done[0] < at else HEARD)


def in_fork(work, *arguments) -> int:
    """Do something in a process forked from this one, and return how it ended."""
    if (pid := os.fork()) == 0:
        try:
            work(*arguments)
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(9)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def look(project: Path, ended: int, at: int) -> None:
    """Print what is there, once every process of the run has had the time to end."""
    deadline = time.monotonic() + 120
    while (left := processes_of(project)) and time.monotonic() < deadline:
        time.sleep(0.02)
    repair(project)
    rows = {}
    if Ledger(project).path.exists():
        with Ledger(project).transaction() as ledger:
            rows = dict(ledger.execute(select(RUNS.c.run_id, RUNS.c.status)).all())
    runs = {run.run_id: run.status for run in all_runs(project)}
    folders = {path.name for path in (project / "runs").glob("*/")}
    half = [str(path) for path in (project / "runs").rglob("*/.*")]
    cells = sorted({cell.status for run in all_runs(project) for cell in run.cells})
    told = {"at": at, "ended": ended, "rows": rows, "runs": runs, "strays": sorted(folders ^ set(runs)) + half}
    print(json.dumps({**told, "cells": cells, "processes": left}), flush=True)


def processes_of(project: Path) -> list[str]:
    """Return the processes, other than this, that work for the project."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            about = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if int(entry.name) not in (os.getpid(), os.getppid()) and f"LEPTON_PROJECT={project}".encode() in about:
            found.append(f"{entry.name} {(entry / 'comm').read_text().strip()}")
    return found


def main(project: Path, notebook: Path, stop: int, stride: int) -> None:
    """Stop a run at one step after the other, until one gets to its end."""
    at, ended = 0, HEARD
    while ended != DONE:
        at += 1 if at < 16 else stride
        ended = in_fork(run_and_stop, project, notebook, stop, at)
        in_fork(look, project, ended, at)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), signal.Signals[sys.argv[3]], int(sys.argv[4]))
