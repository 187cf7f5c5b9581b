"""Notebooks as text, as Jupytext writes them, run as any other."""

import json

import jupytext
import nbformat.v4 as nbf
import pytest
from helpers import lepton_here

from lepton_kit.errors import InputError
from lepton_kit.runs.notebooks import find_notebooks, read_notebook, title_of

NOTEBOOK = nbf.new_notebook(
    cells=[
        nbf.new_markdown_cell("# A count\n\nHow many?"),
        nbf.new_code_cell("days: int = 2  # how many days", metadata={"tags": ["parameters"]}),
        nbf.new_code_cell('import lepton_kit as lk\n\n%matplotlib inline\nlk.record("doubled", 2 * days)'),
    ],
    metadata={"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}},
)
TEXTS = {f"count.{ending}": jupytext.writes(NOTEBOOK, fmt) for ending, fmt in (("py", "py:percent"), ("md", "md"))}


@pytest.fixture(params=TEXTS)
def text(request, tmp_path):
    """Give the name of a runbook as text in a project of its own."""
    (tmp_path / "lepton.toml").write_text("")
    (tmp_path / "runbooks").mkdir()
    (tmp_path / "runbooks" / request.param).write_text(TEXTS[request.param])
    return tmp_path, request.param


def test_a_text_notebook_is_read_with_its_parameters_and_the_same_cells_each_time(text):
    project, name = text
    one, other = (read_notebook(project / "runbooks" / name) for _ in range(2))
    assert [cell.cell_type for cell in one.cells] == ["markdown", "code", "code"]
    assert one.cells[1].metadata.tags == ["parameters"]
    assert [cell.id for cell in one.cells] == [cell.id for cell in other.cells]
    assert title_of(one, "") == "A count"


def test_a_text_notebook_runs_by_its_name_and_its_run_is_a_whole_notebook(text):
    project, name = text
    done = lepton_here("run", "count", "-p", "days", "21", project=project)
    assert done.returncode == 0, done.stdout + done.stderr
    [run] = [path for path in (project / "runs").iterdir() if path.is_dir()]
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["results"]["doubled"]["value"] == 42
    assert manifest["notebook"] == f"runbooks/{name}"
    executed = read_notebook(run / "notebook.ipynb")
    assert "injected-parameters" in executed.cells[2].metadata.tags
    assert executed.cells[-1].outputs
    refused = lepton_here("run", "count", "-p", "days", "many", project=project)
    assert refused.returncode == 2
    assert "'many'" in refused.stderr
    checked = lepton_here("check", run.name, project=project)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_text_notebook_holds_no_outputs_to_check(text):
    project, name = text
    for words in (("check", f"runbooks/{name}"), ("check", "--update", f"runbooks/{name}")):
        refused = lepton_here(*words, project=project)
        assert refused.returncode == 2
        assert f"notebook {name!r}: as text it holds no outputs; run it, and check that run" in refused.stderr
    assert (project / "runbooks" / name).read_text() == TEXTS[name]


def test_only_text_that_names_jupytext_is_listed_and_a_pair_is_listed_once(text):
    project, name = text
    (project / "runbooks" / "helpers.py").write_text("import os\n")
    (project / "runbooks" / "README.md").write_text("# Runbooks\n")
    own = [path.name for path in find_notebooks(project) if path.is_relative_to(project)]
    assert own == [name]
    (project / "runbooks" / "count.ipynb").write_text(
        '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}'
    )
    own = [path.name for path in find_notebooks(project) if path.is_relative_to(project)]
    assert own == ["count.ipynb"]


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"# %%\nx = '\xff'\n", "byte 10 is not UTF-8"), (b"---\njupyter: [\n---\n\nHere.\n", "not a Jupyter notebook: ")],
)
def test_a_text_that_is_no_notebook_is_refused_with_the_reason(tmp_path, content, words):
    path = tmp_path / ("broken.py" if b"%%" in content else "broken.md")
    path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_notebook(path)
