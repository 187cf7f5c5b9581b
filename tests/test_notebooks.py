"""The committed notebooks: their shape, and that they still give what they gave."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from helpers import ROOT, lepton

from lepton_kit.notebook import RESULT, payloads
from lepton_kit.project.settings import read_settings
from lepton_kit.runs.check import check_notebook
from lepton_kit.runs.manifest import NOTEBOOK, finished_runs
from lepton_kit.runs.notebooks import CONDITION, SKIPPED, find_notebooks, tags
from lepton_kit.runs.parameters import read_parameters

NOTEBOOKS = [path.relative_to(ROOT).as_posix() for path in find_notebooks(ROOT)]
STORY = [name for name in NOTEBOOKS if re.match(r"notebooks/0[1-5]-", name)]
"""The demo's pipeline has run these already, with the parameters that are committed."""

LAST_SECTIONS = ["What we found", "When this is wrong", "Next"]
REPAIRS = ("repair-capacity", "repair-data", "repair-model")
# No steps of the demo's pipeline: they need classes, run by the clock, follow on a diagnosis, or are run for a page.
OUTSIDE = (
    "06-labels",
    "07-balance",
    "08-wrong-cells",
    "drift-watch",
    "drill-scores",
    "model-card",
    "postmortem",
    "rehearsal",
    *REPAIRS,
    "service-health",
)
RUNBOOK_SECTIONS = ["Meaning", "Impact", "Diagnosis", "Mitigation", "Verify"]

every_notebook = pytest.mark.parametrize("name", NOTEBOOKS)


def sections(notebook) -> dict[str, str]:
    """Return the second-level headings with everything under them: words, and code as `code`."""
    found, heading = {}, None
    for cell in notebook.cells:
        lines = cell.source.splitlines() if cell.cell_type == "markdown" else ["code"]
        for line in lines:
            if line.startswith("## "):
                heading = line.removeprefix("## ").strip()
                found[heading] = ""
            elif heading:
                found[heading] += line.strip()
    return found


def test_all_notebooks_of_the_story_are_there():
    expected = ["00-tour", "01-data-cleaning", "02-training", "03-evaluation", "04-deployment", "05-optimisation"]
    expected += ["06-labels", "07-balance", "08-wrong-cells"]
    runbooks = [
        "drift-watch",
        "drill-scores",
        "incident-diagnosis",
        "model-card",
        "postmortem",
        "rehearsal",
        *REPAIRS,
        "service-health",
    ]
    assert [path.stem for path in find_notebooks(ROOT)] == expected + runbooks


@every_notebook
def test_parameters_are_typed_and_commented(name):
    parameters = read_parameters(nbformat.read(ROOT / name, 4), name)
    assert parameters
    for parameter in parameters:
        assert parameter.annotation != "Any", parameter.name
        assert parameter.help, f"{parameter.name}: says nothing of its meaning and unit"


@every_notebook
def test_no_section_is_empty_and_the_last_ones_are_there(name):
    found = sections(nbformat.read(ROOT / name, 4))
    assert [heading for heading, text in found.items() if not text] == []
    assert [heading for heading in found if heading in LAST_SECTIONS] == LAST_SECTIONS
    if name.startswith("runbooks/"):
        assert [heading for heading in found if heading in RUNBOOK_SECTIONS] == RUNBOOK_SECTIONS


@every_notebook
def test_what_a_notebook_found_is_said_by_a_cell_and_no_prose_tells_of_the_committed_run(name):
    """So that a reader of another subject's page, or of another incident's, reads no figures of this one."""
    cells = nbformat.read(ROOT / name, 4).cells
    places = [place for place, cell in enumerate(cells) if "## What we found" in cell.source]
    assert places
    for place in places:
        assert cells[place].source == "## What we found"
        assert "lk.say(" in cells[place + 1].source
        conditions = [[tag for tag in tags(cells[at]) if CONDITION.fullmatch(tag)] for at in (place, place + 1)]
        assert conditions[0] == conditions[1]
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert "committed run" not in prose
    assert "the results recorded above" not in prose.lower()


@every_notebook
def test_results_are_committed_and_errors_are_not(name):
    notebook = nbformat.read(ROOT / name, 4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and SKIPPED not in tags(cell)]
    outputs = [output for cell in code for output in cell.outputs]
    assert all(cell.execution_count for cell in code)
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.output_type == "stream" and output.name == "stderr"]
    assert [payload["name"] for payload in payloads(outputs, RESULT)]


@every_notebook
def test_every_figure_has_a_label_a_caption_and_words_for_those_who_cannot_see_it(name):
    for cell in nbformat.read(ROOT / name, 4).cells:
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            for option in ("#| label: fig-", "#| fig-cap:", "#| fig-alt:"):
                assert option in cell.source, cell.source


@every_notebook
def test_nothing_in_a_notebook_is_of_one_machine(name):
    text = (ROOT / name).read_text()
    assert str(ROOT) not in text
    assert "papermill" not in nbformat.read(ROOT / name, 4).metadata


@pytest.mark.parametrize("name", [name for name in NOTEBOOKS if name not in STORY])
def test_a_committed_notebook_still_gives_what_it_gave(name, demo_project):
    check = check_notebook(demo_project / name, demo_project)
    assert check.passed, "\n".join([*map(str, check.differences), check.report])


def pipeline_run(name: str, project: Path) -> Path:
    """Return the notebook that the demo's pipeline executed."""
    run = next(run for run in finished_runs(project) if run.notebook == name and run.trigger == "pipeline:goog")
    return run.folder(project) / NOTEBOOK


def compared(committed: Path, executed: Path) -> subprocess.CompletedProcess[str]:
    """Let nbval compare a committed notebook with what a run of it left."""
    plugins = ("-p", "lepton_kit.runs.nbval_plugin", "-p", "replayed", "-p", "no:cacheprovider", "-p", "no:xdist")
    words = ("--nbval", *plugins, "-c", os.devnull, "--rootdir", str(committed.parent), "-q", str(committed))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"PYTHONPATH": str(ROOT / "tests"), "EXECUTED": str(executed)}
    return subprocess.run([sys.executable, "-m", "pytest", *words], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("name", STORY)
def test_the_pipeline_gave_what_is_committed(name, demo_project, tmp_path):
    committed = Path(shutil.copy(ROOT / name, tmp_path))
    made = compared(committed, pipeline_run(name, demo_project))
    assert made.returncode == 0, made.stdout + made.stderr


def test_a_result_that_the_pipeline_did_not_give_is_seen(demo_project, tmp_path):
    committed = Path(shutil.copy(ROOT / STORY[0], tmp_path))
    executed = pipeline_run(STORY[0], demo_project)
    notebook = nbformat.read(committed, 4)
    *_, last = (payload for cell in notebook.cells for payload in payloads(cell.get("outputs", []), RESULT))
    last["name"] = "another_name"
    nbformat.write(notebook, committed)
    made = compared(committed, executed)
    assert made.returncode == 1
    assert "another_name" in made.stdout


def test_the_demo_ran_every_step_with_papermill_and_its_runs_reproduce(demo_project):
    runs = {run.name: run for run in finished_runs(demo_project) if run.trigger == "pipeline:goog"}
    story = {name.split("/")[1].removesuffix(".ipynb") for name in NOTEBOOKS if "00" not in name}
    steps = [Path(step.notebook).stem for step in read_settings(ROOT).pipelines["goog"].steps]
    assert list(reversed(runs)) == steps
    assert set(steps) == story.difference(OUTSIDE)
    assert all(run.status == "succeeded" for run in runs.values())
    checked = lepton("check", runs["01-data-cleaning"].run_id, project=demo_project)
    assert checked.returncode == 0, checked.stdout


def test_a_second_pipeline_run_skips_what_has_not_changed(demo_project):
    made = lepton("pipeline", "goog", project=demo_project)
    assert made.returncode == 0, made.stdout + made.stderr
    assert made.stdout.count("skipped") == 6


def test_no_committed_notebook_holds_injected_parameters():
    """A cell tagged `injected-parameters` is papermill's: it belongs to runs, never to a committed notebook."""
    for name in NOTEBOOKS:
        cells = nbformat.read(ROOT / name, 4).cells
        assert not [cell for cell in cells if "injected-parameters" in tags(cell)]
