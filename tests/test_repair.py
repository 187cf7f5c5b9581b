import json
import os
import random
import signal
import subprocess
import time

import nbformat
import psutil
import pytest
from helpers import PATIENCE_S, lepton, lepton_here, write_notebook
from processes import Forked
from services import wait_for
from sqlalchemy import select

from lepton_kit.runs import saver
from lepton_kit.runs.ending import recorded_results, repair
from lepton_kit.runs.ledger import Ledger
from lepton_kit.runs.manifest import all_runs, find_run
from lepton_kit.runs.runner import Options, Request, prepare, run_notebook
from lepton_kit.runs.tables import RUNS


def run_in(project, notebook, key="", **constants):
    """Start a process that runs a notebook; `constants` are those of the saver that have another value there."""
    return Forked(runner, project, notebook, key, constants)


def runner(_, project, notebook, key, constants):
    for name, value in constants.items():
        setattr(saver, name, value)
    run_notebook(Request(notebook), project, options=Options(idempotency_key=key or None))


def dying_runner(_, project, notebook, key):
    """Run a notebook, and die when the ledger would be told of its end."""
    Ledger.finish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    runner(_, project, notebook, key, {})


def test_a_runner_killed_in_the_middle_of_a_cell_leaves_no_kernel_and_a_run_that_is_told_as_it_is(project):
    cell = "import os; from pathlib import Path; Path('pid').write_text(str(os.getpid())); import time; time.sleep(600)"
    path = write_notebook(project / "notebooks/slow.ipynb", ["lk.record('x', 1)", cell, "3"])
    runner = run_in(project, path)
    pid = wait_for(lambda: next(project.glob("runs/*/pid"), None) and next(project.glob("runs/*/pid")).read_text())
    saved = next(project.glob("runs/*/notebook.ipynb"))
    wait_for(lambda: [*recorded_results(nbformat.read(saved, 4).cells)] == ["x"])
    runner.kill()
    wait_for(lambda: not psutil.pid_exists(int(pid)))
    assert find_run("slow", project).status == "running"
    [run] = repair(project)
    assert (run.status, run.error.name, run.error.cell) == ("failed", "RunnerDied", 3)
    assert [cell.status for cell in run.cells] == ["completed", "completed", "interrupted", "not run"]
    assert run.results["x"].value == 1
    assert run.ended
    assert find_run("slow", project) == run
    assert repair(project) == []


def test_the_next_run_repairs_what_an_earlier_runner_left(project):
    path = write_notebook(project / "notebooks/slow.ipynb", ["import time; time.sleep(600)"])
    runner = run_in(project, path)
    wait_for(lambda: list(project.glob("runs/*/kernel.log")))
    runner.kill()
    quick = write_notebook(project / "notebooks/quick.ipynb", ["1"])
    assert run_notebook(Request(quick), project).status == "succeeded"
    assert find_run("slow", project).status == "failed"


def test_the_command_repairs_and_says_what_it_did(project):
    path = write_notebook(project / "notebooks/slow.ipynb", ["import time; time.sleep(600)"])
    runner = run_in(project, path)
    wait_for(lambda: list(project.glob("runs/*/kernel.log")))
    runner.kill()
    made = lepton_here("runs", "--repair", project=project)
    assert made.returncode == 0, made.stderr
    assert "RunnerDied" in made.stdout
    assert "repaired: 1 runs" in made.stdout


def test_a_run_whose_runner_lives_is_left_alone(project):
    path = write_notebook(project / "notebooks/slow.ipynb", ["import time; time.sleep(600)"])
    runner = run_in(project, path)
    try:
        wait_for(lambda: list(project.glob("runs/*/kernel.log")))
        assert repair(project) == []
        assert find_run("slow", project).status == "running"
    finally:
        runner.kill()


@pytest.mark.parametrize("seed", range(4))
def test_a_runner_killed_at_any_moment_leaves_a_readable_notebook(project, seed, monkeypatch):
    path = write_notebook(
        project / "notebooks/saves.ipynb", ["for i in range(100): print('x' * 100_000, flush=True)"] * 20
    )
    runner = run_in(project, path, SHORTEST_PAUSE_S=1e-9, LARGEST_SHARE=1e-9)
    saved = wait_for(lambda: next(project.glob("runs/*/notebook.ipynb"), None))
    time.sleep(random.Random(seed).uniform(0.2, 2))
    runner.kill()
    nbformat.validate(nbformat.read(saved, 4))
    [run] = repair(project)
    assert run.status == "failed"
    assert {cell.status for cell in run.cells} <= {"completed", "interrupted", "not run"}
    assert not list(saved.parent.glob(".notebook*"))


def test_two_processes_asked_for_one_key_run_it_once(either_project):
    project = either_project
    path = write_notebook(project / "notebooks/n.ipynb", ["import time; time.sleep(1)"])
    runners = [run_in(project, path, "today") for _ in range(2)]
    assert [runner.wait(PATIENCE_S) for runner in runners] == [0, 0]
    assert len(all_runs(project)) == 1


def test_a_key_whose_runner_was_killed_is_taken_over(either_project):
    project = either_project
    path = write_notebook(
        project / "notebooks/n.ipynb", ["import time; time.sleep(0 if list(lk.path('.').glob('go')) else 600)"]
    )
    runner = run_in(project, path, "today")
    wait_for(lambda: list(project.glob("runs/*/kernel.log")))
    runner.kill()
    (project / "go").touch()
    run = run_notebook(Request(path), project, options=Options(idempotency_key="today"))
    assert run.status == "succeeded"
    assert run_notebook(Request(path), project, options=Options(idempotency_key="today")) == run


def test_a_key_whose_run_had_ended_when_its_runner_was_killed_is_answered_by_that_run(either_project):
    project = either_project
    path = write_notebook(project / "notebooks/n.ipynb", ["1"])
    with Forked(dying_runner, project, path, "today") as dying:
        assert dying.wait(PATIENCE_S) == -signal.SIGKILL
    run = run_notebook(Request(path), project, options=Options(idempotency_key="today"))
    assert [run] == all_runs(project)


def test_eight_runs_at_once_never_mix(project):
    cell = "import os, time; open('mine', 'w').write(str(n)); time.sleep(.5); lk.record('n', int(open('mine').read()))"
    write_notebook(project / "notebooks/n.ipynb", [cell, "lk.record('here', os.getcwd())"], "n: int = 0")
    made = lepton("run", "n", "--sweep", "n=1,2,3,4,5,6,7,8", "--workers", "8", project=project)
    assert made.returncode == 0, made.stderr
    runs = all_runs(project)
    assert sorted(run.results["n"].value for run in runs) == list(range(1, 9))
    assert all(run.results["n"].value == run.parameters["n"] for run in runs)
    assert all(run.results["here"].value == str(run.folder(project)) for run in runs)


def test_a_run_on_a_full_disk_is_one_clear_error_and_the_earlier_state_stays(project, monkeypatch):
    path = write_notebook(project / "notebooks/n.ipynb", ["1"])
    first = run_notebook(Request(path), project)

    def full(*_):
        raise OSError(28, "No space left on device")

    plan = prepare(Request(path), project)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Exception, match="No space left on device"):
        from lepton_kit.runs.runner import execute

        execute(plan, project)
    monkeypatch.undo()
    assert find_run(first.run_id, project) == first


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)], capture_output=True)
    if made.returncode != 0:
        pytest.skip("only root may mount a small file system")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_run_that_fills_the_disk_ends_with_a_clear_error_and_harms_nothing(small_disk):
    (small_disk / "lepton.toml").touch()
    write_notebook(small_disk / "notebooks/small.ipynb", ["1"])
    write_notebook(small_disk / "notebooks/large.ipynb", ["print('x' * 5_000_000)"])
    assert lepton("run", "small", project=small_disk).returncode == 0
    before = {path: path.read_bytes() for path in small_disk.glob("runs/*small*/*.*")}
    made = lepton("run", "large", project=small_disk)
    assert made.returncode != 0
    assert "No space left on device" in made.stdout + made.stderr
    assert "Traceback" not in made.stdout + made.stderr
    assert {path: path.read_bytes() for path in before} == before
    assert lepton("run", "small", project=small_disk).returncode == 0
    ends = {run.name: run.status for run in all_runs(small_disk)}
    assert ends == {"small": "succeeded", "large": "failed"}


def test_the_ledger_keeps_every_runs_end(project):
    run = run_notebook(Request(write_notebook(project / "notebooks/n.ipynb", ["1"])), project)
    with Ledger(project).transaction() as ledger:
        assert ledger.execute(select(RUNS.c.run_id, RUNS.c.status)).all() == [(run.run_id, "succeeded")]
    assert json.loads((run.folder(project) / "manifest.json").read_text())["status"] == "succeeded"
