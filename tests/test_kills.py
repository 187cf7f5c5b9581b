"""Runs whose processes are stopped between any two steps: nothing is left, nothing lies, all can be repaired."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import PATIENCE_S, lepton_here, write_notebook
from services import wait_for
from sqlalchemy import insert, select, update
from stops import DONE, STOPPED
from test_kernels import gone

from lepton_kit.runs.ending import repair
from lepton_kit.runs.ledger import Ledger, Owner
from lepton_kit.runs.manifest import FILE, Manifest, all_runs
from lepton_kit.runs.runner import Options, Request, execute, has_answered, prepare, run_notebook
from lepton_kit.runs.tables import CLAIMS, RUNS

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


def stopped_at_each_step(project: Path, stop: str, stride: int) -> list[dict]:
    path = write_notebook(project / "notebooks/n.ipynb", ["lk.record('x', 1)"])
    command = [sys.executable, str(Path(__file__).with_name("stops.py")), str(project), str(path), stop, str(stride)]
    environment = {**os.environ, "LEPTON_WARM": "0"}
    made = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert made.returncode == 0, made.stderr
    assert "Traceback" not in made.stderr
    return [json.loads(line) for line in made.stdout.splitlines()]


@pytest.mark.parametrize(("stop", "how"), [("SIGKILL", -signal.SIGKILL), ("SIGINT", STOPPED)])
def test_a_run_that_is_stopped_between_any_two_of_its_steps_leaves_nothing_and_lies_about_nothing(project, stop, how):
    told = stopped_at_each_step(project, stop, stride=12)
    assert len(told) > 16
    assert [each["ended"] for each in told] == [how] * (len(told) - 1) + [DONE]
    for each in told:
        assert each["rows"] == each["runs"], each
        assert (each["strays"], each["processes"]) == ([], []), each
        assert "running" not in [*each["runs"].values(), *each["cells"]], each
    said = set(told[-1]["runs"].values())
    assert said <= ({"failed", "succeeded"} if stop == "SIGKILL" else {"cancelled", "succeeded"})


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_stopped_before_it_has_begun_ends_without_a_traceback(project, stop):
    write_notebook(project / "notebooks/n.ipynb", ["1"])
    script = "import os, sys; sys.argv = ['lepton', 'run', 'n']; from lepton_kit import command\n"
    script += f"command.forked = lambda: os.kill(os.getpid(), {int(stop)})\ncommand.main()"
    made = subprocess.run([sys.executable, "-c", script], cwd=project, capture_output=True, text=True)
    assert (made.returncode, made.stdout, made.stderr) == (-stop, "", "")
    assert not (project / "runs").exists()


def pool_of_slow_runs(project: Path) -> subprocess.Popen[str]:
    path = write_notebook(project / "notebooks/slow.ipynb", ["import time; time.sleep(600)"])
    command = [sys.executable, "-m", "lepton_kit.cli", "run", *[str(path)] * 4, "--workers", "2"]
    return subprocess.Popen(
        command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def processes_of(project: Path) -> list[int]:
    """Kernels of the project's runs, and what those started."""
    told = f"LEPTON_PROJECT={project}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            found += [int(entry.parent.name)] if told in entry.read_bytes().split(b"\0") else []
    return found


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_runs_at_once_that_are_stopped_while_they_only_start_end_and_say_so(project, stop):
    process = pool_of_slow_runs(project)
    wait_for(lambda: list(project.glob(f"runs/*/{FILE}")))
    process.send_signal(stop)
    _, told = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert "Traceback" not in told
    assert {run.status for run in all_runs(project)} == {"cancelled"}
    assert gone(processes_of(project))


def test_runs_at_once_whose_process_is_killed_leave_no_kernel_and_are_marked_by_the_next(project):
    process = pool_of_slow_runs(project)
    wait_for(lambda: len(list(project.glob("runs/*/notebook.ipynb"))) == 2)
    process.kill()
    process.communicate()
    assert gone(processes_of(project))
    assert [run.status for run in repair(project)] == ["failed", "failed"]


def killed_run(project: Path) -> Path:
    """Leave a run as one whose process was killed while its first cell ran; return its folder."""
    run = run_notebook(Request(write_notebook(project / "notebooks/n.ipynb", ["lk.record('x', 1)"])), project)
    folder = run.folder(project)
    run.model_copy(update={"status": "running", "ended": None}).save(folder)
    with Ledger(project).transaction() as ledger:
        ledger.execute(update(RUNS).values(status="running", born="never", lease=0))
    return folder


def replace_by(content: bytes | None, path: Path) -> None:
    path.unlink()
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)


DAMAGES = {
    "no manifest": lambda folder: (folder / FILE).unlink(),
    "an empty manifest": lambda folder: replace_by(b"", folder / FILE),
    "half a manifest": lambda folder: replace_by((folder / FILE).read_bytes()[:200], folder / FILE),
    "a manifest that is no text": lambda folder: replace_by(b"\xff\xfe\x00", folder / FILE),
    "a manifest of another format": lambda folder: replace_by(b'{"format": 99}', folder / FILE),
    "a folder for a manifest": lambda folder: replace_by(None, folder / FILE),
    "a link to nowhere for a manifest": lambda folder: ((folder / FILE).unlink(), (folder / FILE).symlink_to("gone")),
    "no folder": shutil.rmtree,
    "a file for a folder": lambda folder: (shutil.rmtree(folder), folder.write_text("")),
    "half a notebook": lambda folder: replace_by(b'{"cells": [', folder / "notebook.ipynb"),
    "a notebook of no cells": lambda folder: replace_by(b'{"cells": 3}', folder / "notebook.ipynb"),
    "a folder for a notebook": lambda folder: replace_by(None, folder / "notebook.ipynb"),
    "an artifact that cannot be read": lambda folder: (folder / "artifacts/gone").symlink_to("gone"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_killed_run_whose_files_cannot_be_read_ends_and_keeps_nobody_from_running(either_project, damage):
    DAMAGES[damage](killed_run(either_project))
    assert lepton_here("runs", "--repair", project=either_project).returncode == 0
    with Ledger(either_project).transaction() as ledger:
        assert ledger.execute(select(RUNS).where(RUNS.c.status == "running")).all() == []
    assert "running" not in [run.status for run in all_runs(either_project)]
    assert repair(either_project) == []


def test_a_damaged_run_stops_neither_the_next_run_nor_the_one_that_its_key_is_for(either_project):
    folder = killed_run(either_project)
    with Ledger(either_project).transaction() as ledger:
        dead = {**vars(Owner.me()), "born": "never", "lease": 0}
        ledger.execute(insert(CLAIMS).values(key="k", run_id=folder.name, done=False, **dead))
    (folder / FILE).write_text("{")
    assert not has_answered(folder.name, either_project)
    plan = prepare(Request(either_project / "notebooks/n.ipynb"), either_project)
    assert execute(plan, either_project, options=Options(idempotency_key="k")).status == "succeeded"


def test_a_repair_that_could_not_be_written_is_tried_again(either_project, monkeypatch):
    folder = killed_run(either_project)
    with monkeypatch.context() as full:
        full.setattr(Manifest, "save", lambda *_: (folder / "no/such/folder").write_text(""))
        assert repair(either_project) == []
    assert [run.status for run in repair(either_project)] == ["failed"]
