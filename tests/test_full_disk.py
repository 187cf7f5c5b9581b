"""Runs on a disk that is full by the time that they end: what ran is told, and what could not be kept is named."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import nbformat
import pytest
from helpers import lepton, write_notebook
from sqlalchemy import select
from test_repair import small_disk

from lepton_kit.errors import InputError
from lepton_kit.runs.ledger import Ledger
from lepton_kit.runs.manifest import all_runs, find_run
from lepton_kit.runs.tables import RUNS

__all__ = ["small_disk"]  # a fixture
FILL = """
with open("filling", "wb", buffering=0) as file:
    try:
        while True:
            file.write(bytes(4096))
    except OSError as error:
        print("full:", error.strerror)
"""


@pytest.fixture
def disk(small_disk):
    (small_disk / "lepton.toml").touch()
    return small_disk


def told_of(name, project):
    """What is on the disk of a run, after each part of it was found to agree with the others."""
    run = find_run(name, project)
    with Ledger(project).transaction() as ledger:
        rows = dict(ledger.execute(select(RUNS.c.run_id, RUNS.c.status)).all())
    assert rows[run.run_id] == run.status
    saved = nbformat.read(run.folder(project) / "notebook.ipynb", 4)
    nbformat.validate(saved)
    cells = [cell for cell in saved.cells if cell.cell_type == "code"]
    assert [cell.metadata.papermill.status for cell in cells] == [cell.status for cell in run.cells]
    assert not list(run.folder(project).glob(".*"))
    return run, cells


def test_a_run_that_fills_the_disk_ends_as_if_it_had_not_where_its_output_is_small(disk):
    write_notebook(disk / "notebooks/n.ipynb", [FILL, "lk.record('x', 6 * 7)", "print('last words')"])
    made = lepton("run", "n", project=disk)
    run, cells = told_of("n", disk)
    assert (made.returncode, run.status, run.results["x"].value) == (0, "succeeded", 42)
    assert {cell.status for cell in run.cells} == {"completed"}
    assert cells[-1].outputs[0].text == "last words\n"
    assert cells[1].outputs[0].text == "full: No space left on device\n"


def test_output_that_a_full_disk_does_not_take_is_left_out_and_named_while_results_stay(disk):
    cells = ["lk.record('x', 6 * 7)", FILL, "print('x' * 900_000)", "print('y' * 900_000)"]
    write_notebook(disk / "notebooks/n.ipynb", cells)
    made = lepton("run", "n", project=disk)
    run, cells = told_of("n", disk)
    assert (made.returncode, run.status, run.error.name) == (1, "failed", "InputError")
    assert "No space left on device" in run.error.message
    assert {cell.status for cell in run.cells} == {"completed"}
    assert run.results["x"].value == 42
    assert "1 outputs of this cell were left out" in cells[-1].outputs[-1].text


@pytest.mark.parametrize("stop", ["1 / 0", "import os; os._exit(3)"])
def test_a_run_that_fails_on_a_full_disk_says_why_it_failed(disk, stop):
    write_notebook(disk / "notebooks/n.ipynb", [FILL, "print('x' * 900_000)", stop, "3"])
    assert lepton("run", "n", project=disk).returncode == 1
    run, _ = told_of("n", disk)
    assert [cell.status for cell in run.cells] == ["completed", "completed", "completed", "failed", "not run"]
    assert run.error.cell == 4


def test_a_disk_that_is_full_before_a_run_is_one_clear_error_that_costs_no_key(disk):
    write_notebook(disk / "notebooks/n.ipynb", ["1"])
    assert lepton("run", "n", "--key", "k", project=disk).returncode == 0
    subprocess.run([sys.executable, "-c", FILL], cwd=disk, check=True)
    made = lepton("run", "n", "--key", "other", project=disk)
    assert made.returncode != 0
    assert "free some space" in made.stderr or "No space left" in made.stderr
    assert "move it away" not in made.stderr
    (disk / "filling").unlink()
    assert len(all_runs(disk)) == 1
    assert "unchanged since" in lepton("run", "n", "--key", "k", project=disk).stdout
    assert len(list(disk.glob("runs/*/"))) == 1


def test_a_full_disk_is_told_by_the_ledger_as_what_it_is(disk):
    subprocess.run([sys.executable, "-c", FILL], cwd=disk, check=True)
    with pytest.raises(InputError, match="free some space on its disk and leave the file where it is"):
        Ledger(disk).claim("k")


def test_a_limit_on_the_size_of_files_is_told_like_a_full_disk(project):
    write_notebook(project / "notebooks/n.ipynb", ["lk.record('x', 1)", "print('x' * 900_000)"])
    command = [sys.executable, "-m", "lepton_kit.cli", "run", "n"]
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, 700_000))  # noqa: E731
    made = subprocess.run(command, cwd=project, capture_output=True, text=True, preexec_fn=limit, env=os.environ)
    run, _ = told_of("n", project)
    assert (made.returncode, run.status) == (1, "failed")
    assert "File too large" in run.error.message
    assert {cell.status for cell in run.cells} == {"completed"}
    assert run.results["x"].value == 1
