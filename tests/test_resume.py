import pytest
from helpers import lepton, write_notebook

from lepton_kit.errors import InputError
from lepton_kit.runs.manifest import find_run
from lepton_kit.runs.repeat import resume
from lepton_kit.runs.runner import Request, run_notebook

PARAMETERS = "from pathlib import Path\ntable: Path = 'table.csv'"
CELLS = [
    "import pandas as pd, torch, json\ncount = lk.path('count')",
    "def slow():\n    count.write_text(str(int(count.read_text()) + 1))\n    return pd.read_csv(lk.path(table))",
    "frame = lk.checkpoint('frame', slow)\nlk.record('rows', len(frame))",
    "state = lk.checkpoint('state', lambda: {'weight': torch.arange(6.).reshape(2, 3)})",
    "facts = lk.checkpoint('facts', lambda: {'mae': 1.5, 'names': ['ä', None]})",
    "lk.expect(lk.path('ready').exists(), 'the service is ready')",
    "lk.record('sum', float(state['weight'].sum())); lk.record('facts', facts)",
    "lk.record('count', int(count.read_text()))",
]


@pytest.fixture
def broken(project):
    """A run that computed its checkpoints and then failed."""
    (project / "table.csv").write_text("a,b\n1,x\n2,y\n")
    (project / "count").write_text("0")
    path = write_notebook(project / "notebooks/long.ipynb", CELLS, PARAMETERS)
    run = run_notebook(Request(path), project)
    assert run.status == "expectation_failed", run.error
    (project / "ready").touch()
    return run


def test_a_resumed_run_takes_the_checkpoints_and_goes_on_from_there(project, broken):
    run = resume(broken, project)
    assert run.status == "succeeded", run.error
    assert run.resumed_from == broken.run_id
    assert [each["reused"] for each in run.checkpoints] == [True, True, True]
    assert (run.results["count"].value, run.results["sum"].value, run.results["rows"].value) == (1, 15.0, 2)
    assert run.results["facts"].value == {"mae": 1.5, "names": ["ä", None]}


def test_checkpoints_are_kept_in_open_formats(project, broken):
    folder = broken.folder(project) / "checkpoints"
    assert {each["name"]: each["format"] for each in broken.checkpoints} == {
        "frame": "parquet", "state": "safetensors", "facts": "json",
    }  # fmt: skip
    assert all((folder / each["file"]).is_file() for each in broken.checkpoints)


def test_an_input_that_changed_in_between_makes_the_run_compute_again(project, broken):
    (project / "table.csv").write_text("a,b\n1,x\n2,y\n3,z\n")
    run = resume(broken, project)
    assert not run.checkpoints[0]["reused"]
    assert (run.results["rows"].value, run.results["count"].value) == (3, 2)


def test_a_damaged_checkpoint_is_computed_again(project, broken):
    file = broken.folder(project) / "checkpoints" / broken.checkpoints[0]["file"]
    file.write_bytes(file.read_bytes()[:50])
    run = resume(broken, project)
    assert run.status == "succeeded"
    assert [each["reused"] for each in run.checkpoints] == [False, True, True]


def test_a_resumed_run_that_fails_can_be_resumed_as_well(project, broken):
    (project / "ready").unlink()
    second = resume(broken, project)
    (project / "ready").touch()
    third = resume(second, project)
    assert third.resumed_from == second.run_id
    assert third.results["count"].value == 1


def test_what_no_open_format_keeps_is_refused_by_name(project):
    path = write_notebook(project / "notebooks/n.ipynb", ["lk.checkpoint('odd', lambda: {1, 2})"])
    run = run_notebook(Request(path), project)
    assert run.status == "failed"
    assert "checkpoint 'odd'" in run.error.message


def test_a_run_that_succeeded_has_nothing_to_resume(project):
    run = run_notebook(Request(write_notebook(project / "notebooks/n.ipynb", ["1"])), project)
    with pytest.raises(InputError, match="nothing to resume"):
        resume(run, project)


def test_the_command_resumes(project, broken):
    made = lepton("resume", "long", project=project)
    assert made.returncode == 0, made.stdout + made.stderr
    assert find_run("long", project).resumed_from == broken.run_id


LEAVES = [
    "state = lk.resumable_folder('work') / 'state'\nlk.record('found', state.exists())",
    "state.write_text('half done')\nlk.expect(lk.path('ready').exists(), 'goes on')",
]


def test_a_resumed_run_finds_its_folder_as_it_was_left_and_a_changed_notebook_an_empty_one(project):
    path = write_notebook(project / "notebooks/work.ipynb", LEAVES)
    first = run_notebook(Request(path), project)
    assert first.results["found"].value is False
    (project / "ready").touch()
    assert resume(first, project).results["found"].value is True
    write_notebook(path, ["1 + 1", *LEAVES])
    assert resume(first, project).results["found"].value is False
