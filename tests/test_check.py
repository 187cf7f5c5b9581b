import re

import nbformat
import pytest
from helpers import write_notebook

from lepton_kit.errors import InputError, LeptonError
from lepton_kit.runs.check import check_notebook, check_run, update_outputs
from lepton_kit.runs.manifest import Result
from lepton_kit.runs.runner import Request, run_notebook

CELLS = [
    "lk.record('mae', rate * 10, unit='USD', rtol=0.1)",
    "print('text')",
    "import time; lk.record('took', time.perf_counter(), unit='s', compare=False)",
    "import matplotlib.pyplot as plt; fig, ax = plt.subplots(); ax.plot([1, 2]); plt.show()",
    "lk.expect(rate < 100, 'a small rate', rate=rate)",
    "lk.input('lepton.toml'); 'read'",
    "from IPython.display import HTML; HTML('<b>one</b>')",
    "lk.expect(rate < 50, 'small', rate=rate)",
    "1 - 1",
]
CHANGES = {
    "lk.record('mae', rate * 10, unit='USD', rtol=0.1)": ("pass", "now 'nothing recorded'"),
    "print('text')": ("print('other')", "'text\\n' == 'other\\n'"),
    "plt.show()": ("plt.close()", "Missing output fields"),
    "lk.expect(rate < 100, 'a small rate', rate=rate)": ("pass", "was [('a small rate', True)], now []"),
    "lk.input('lepton.toml')": ("pass", "dissimilar number of outputs"),
    "HTML('<b>one</b>')": ("HTML('<b>two</b>')", "'<b>one</b>' == '<b>two</b>'"),
    "lk.expect(rate < 50, 'small', rate=rate)": (
        "lk.expect(rate < 50, 'another', rate=rate)", "was [('small', True)], now [('another', True)]",
    ),
    "1 - 1": ("1 / 0", "ZeroDivisionError"),
}  # fmt: skip
"""What is changed in a cell, into what, and what the check says of that cell."""


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """A notebook with its outputs, executed once for all tests here; its project's path, and the runs left there."""
    project = tmp_path_factory.mktemp("executed")
    (project / "lepton.toml").write_text("")
    path = write_notebook(project / "notebooks/n.ipynb", CELLS, "rate: float = 1.0")
    update_outputs(path, project)
    return path.read_text(), str(project), list(project.glob("runs/*"))


@pytest.fixture
def committed(project, executed):
    path = project / "notebooks/n.ipynb"
    path.write_text(executed[0])
    return path


def change(path, old, new):
    """Change the source of a committed notebook, not its outputs."""
    content = nbformat.read(path, 4)
    assert sum(old in cell.source for cell in content.cells) == 1
    for cell in content.cells:
        cell.source = cell.source.replace(old, new)
    nbformat.write(content, path)


def test_an_unchanged_notebook_passes(project, committed):
    check = check_notebook(committed, project)
    assert check.passed, check.report
    assert check.differences == []


def test_a_result_within_its_tolerance_and_another_picture_pass(project, committed):
    change(committed, "rate * 10", "rate * 10.5")
    change(committed, "[1, 2]", "[2, 1]")
    check = check_notebook(committed, project)
    assert check.passed, check.report


def test_a_changed_result_fails_and_names_notebook_result_old_and_new_value(project, committed):
    change(committed, "rate * 10", "rate * 20")
    check = check_notebook(committed, project)
    assert not check.passed
    assert check.name == "n"
    assert [(d.result, d.old, d.new) for d in check.differences] == [("mae", 10.0, 20.0)]


def test_each_changed_cell_fails_and_says_why(project, committed):
    """Text, result, expectation, input, markup and picture, changed or gone, and a cell that fails."""
    for old, (new, _) in CHANGES.items():
        change(committed, old, new)
    check = check_notebook(committed, project)
    assert not check.passed
    told = re.split(r"_+ notebook\.ipynb::Cell (\d+) _+\n", check.report.split("short test summary")[0])[1:]
    failed = dict(zip(map(int, told[::2]), told[1::2], strict=True))
    assert len(failed) == len(CHANGES)
    for (new, says), report in zip(in_order_of_cells(), failed.values(), strict=True):
        assert new in report and says in report


def in_order_of_cells():
    return [CHANGES[old] for cell in CELLS for old in CHANGES if old in cell]


def test_a_changed_result_fails_also_in_a_cell_whose_other_output_is_ignored(project):
    path = write_notebook(project / "notebooks/n.ipynb", ["import time; print(time.time()); lk.record('x', 1)"])
    content = nbformat.read(path, 4)
    content.cells[-1].metadata["tags"] = ["nbval-ignore-output"]
    nbformat.write(content, path)
    update_outputs(path, project)
    assert check_notebook(path, project).passed
    change(path, "lk.record('x', 1)", "lk.record('x', 2)")
    assert [(d.old, d.new) for d in check_notebook(path, project).differences] == [(1, 2)]


def test_a_notebook_without_outputs_cannot_be_checked(project):
    path = write_notebook(project / "notebooks/n.ipynb", ["1"])
    with pytest.raises(InputError, match="no outputs to compare"):
        check_notebook(path, project)


def test_outputs_stay_as_they_are_when_a_cell_fails(project, committed):
    change(committed, "print('text')", "1 / 0")
    before = committed.read_bytes()
    with pytest.raises(LeptonError, match="outputs not updated"):
        update_outputs(committed, project)
    assert committed.read_bytes() == before


def test_committed_outputs_carry_no_trace_of_the_machine(executed):
    text, project, left = executed
    assert project not in text
    assert "iopub" not in text
    assert left == []


def test_a_run_is_repeated_with_its_own_parameters(project, committed):
    run = run_notebook(Request(committed, {"rate": 3.0}), project)
    check = check_run(run, project)
    assert check.passed, check.report
    assert [path.parent.name for path in project.glob("runs/*/manifest.json")] == [run.run_id]


def test_a_run_whose_notebook_artifact_or_manifest_was_altered_proves_nothing(project):
    path = write_notebook(project / "notebooks/n.ipynb", ["lk.record('x', 1)", "lk.artifact('a').write_text('a')"])
    run = run_notebook(Request(path), project)
    assert check_run(run, project).passed
    folder = run.folder(project)
    with pytest.raises(InputError, match="results in its manifest are not those in its notebook"):
        check_run(run.model_copy(update={"results": {"x": Result(value=2)}}), project)
    for file in ("notebook.ipynb", "artifacts/a"):
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content + b" ")
        with pytest.raises(InputError, match=rf"{file} has changed since the run wrote it"):
            check_run(run, project)
        (folder / file).write_bytes(content)


def test_a_run_whose_input_changed_cannot_be_repeated(project):
    (project / "t.csv").write_text("a\n")
    path = write_notebook(
        project / "notebooks/n.ipynb", ["open(lk.input(t)).read()"], "from pathlib import Path\nt: Path = 't.csv'"
    )
    run = run_notebook(Request(path), project)
    (project / "t.csv").write_text("b\n")
    with pytest.raises(InputError, match=r"input 't.csv' has changed"):
        check_run(run, project)


def test_a_failed_run_cannot_be_repeated(project):
    run = run_notebook(Request(write_notebook(project / "notebooks/n.ipynb", ["1 / 0"])), project)
    with pytest.raises(InputError, match="its status is failed"):
        check_run(run, project)


def test_a_check_does_not_change_what_notebooks_write(project):
    (project / "models").mkdir()
    (project / "models/count").write_text("1")
    counting = "p = lk.path('models') / 'count'; n = int(p.read_text()); p.write_text(str(n + 1)); lk.record('n', n)"
    path = write_notebook(project / "notebooks/n.ipynb", [counting])
    update_outputs(path, project)
    assert check_notebook(path, project).passed
    assert (project / "models/count").read_text() == "1"
