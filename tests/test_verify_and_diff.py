import pytest
from helpers import lepton_here, write_notebook

from lepton_kit.errors import InputError
from lepton_kit.runs.diff import diff
from lepton_kit.runs.repeat import verify
from lepton_kit.runs.runner import Request, run_notebook

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def story(project):
    (project / "table.csv").write_text("a\n1\n")
    cells = ["from datetime import datetime", "lk.record('rows', len(open(lk.input(table)).read()) * n)", "print(text)"]
    cells += ["import os; lk.record('noise', os.getpid())", "lk.record('pid', os.getpid(), compare=False)"]
    parameters = "from pathlib import Path\ntable: Path = 'table.csv'\nn: int = 1\ntext: str = 'x'"
    return write_notebook(project / "notebooks/story.ipynb", cells, parameters, title=HOSTILE)


@pytest.fixture
def steady(project, story):
    story.write_text(story.read_text().replace("lk.record('noise', os.getpid())", "0"))
    return run_notebook(Request(story), project)


def test_a_run_that_repeats_is_the_same_result_by_result(project, steady):
    found = verify(steady, project)
    assert found.is_same
    assert {pair.name: pair.verdict for pair in found.results} == {"rows": "same", "pid": "not compared"}
    assert found.repeated.trigger == f"verify:{steady.run_id}"


def test_a_result_that_does_not_repeat_is_named_with_both_values(project, story):
    run = run_notebook(Request(story), project)
    found = verify(run, project)
    assert not found.is_same
    [pair] = [pair for pair in found.results if pair.verdict == "different"]
    assert pair.name == "noise"
    assert str(run.results["noise"].value) in pair.differences[0]
    made = lepton_here("verify", "story", project=project)
    assert made.returncode == 1
    assert "✗ noise: different" in made.stdout


def test_the_notebook_as_it_was_is_repeated_and_not_as_it_is_now(project, story, steady):
    story.write_text(story.read_text().replace("* n", "* n * 7"))
    assert verify(steady, project).is_same


def test_a_run_whose_input_changed_cannot_be_repeated_and_that_is_said(project, steady):
    (project / "table.csv").write_text("other")
    with pytest.raises(InputError, match=r"input 'table\.csv' has changed"):
        verify(steady, project)


def test_two_runs_of_the_same_are_no_different(project, story, steady):
    again = run_notebook(Request(story), project)
    found = diff(steady, again, project)
    assert found.is_same, found
    assert lepton_here("diff", steady.run_id, again.run_id, project=project).returncode == 0


def test_a_diff_names_parameters_inputs_results_sources_and_outputs(project, story, steady):
    (project / "table.csv").write_text("a\n1\n2\n")
    story.write_text(story.read_text().replace("print(text)", "print(text, 'more')"))
    other = run_notebook(Request(story, {"n": 2, "text": HOSTILE}), project)
    found = diff(steady, other, project)
    assert [(change.name, change.before, change.after) for change in found.parameters] == [
        ("n", "1", "2"), ("text", "x", HOSTILE),
    ]  # fmt: skip
    assert [change.name for change in found.inputs] == ["table"]
    assert {pair.name: pair.verdict for pair in found.results}["rows"] == "different"
    assert "+  print(text, 'more')" in found.notebook


def test_the_command_shows_a_diff_and_writes_the_page(project, story, steady):
    other = run_notebook(Request(story, {"n": 2, "text": HOSTILE}), project)
    made = lepton_here("diff", steady.run_id, other.run_id, "--html", "diff.html", project=project)
    assert made.returncode == 1
    assert "different: rows: was" in made.stdout
    page = (project / "diff.html").read_text()
    assert "different: rows: was" in page
    assert HOSTILE not in page and "&lt;script&gt;" in page
    assert "http" not in page
