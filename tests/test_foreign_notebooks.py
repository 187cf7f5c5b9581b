"""Notebooks of other tools, of older ones and of hands: they run where Jupyter opens them, or a line says why not."""

import copy
import json
import random

import nbformat
import pytest
from helpers import lepton, lepton_here, write_notebook

from lepton_kit.errors import InputError
from lepton_kit.runs.ending import repair
from lepton_kit.runs.manifest import Manifest, all_runs
from lepton_kit.runs.notebooks import read_notebook
from lepton_kit.runs.parameters import json_schema, parse_parameters, read_parameters
from lepton_kit.runs.runner import Request, run_notebook

NAMED = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


def code(source="print(42)", **fields):
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "execution_count": None, "outputs": [], "source": source}
    return {name: value for name, value in {**cell, **fields}.items() if value is not ...}


def notebook(*cells, minor=5, metadata=NAMED, **fields):
    return {"cells": list(cells), "metadata": metadata, "nbformat": 4, "nbformat_minor": minor, **fields}


THREE = {
    "metadata": {"name": "old"}, "nbformat": 3, "nbformat_minor": 0,
    "worksheets": [{"metadata": {}, "cells": [
        {"cell_type": "heading", "level": 1, "metadata": {}, "source": ["Old one"]},
        {"cell_type": "code", "collapsed": False, "input": ["print(42)"], "language": "python", "metadata": {},
         "outputs": [{"output_type": "pyout", "prompt_number": 1, "text": ["41"]}], "prompt_number": 1},
    ]}],
}  # fmt: skip
TWO = {
    "metadata": {"name": "older"}, "nbformat": 2,
    "worksheets": [{"cells": [{"cell_type": "code", "input": "print(42)", "language": "python", "outputs": []}]}],
}  # fmt: skip
OPENED = {
    "format 3": THREE,
    "format 2": TWO,
    "no id": notebook(code(id=...)),
    "ids twice": notebook(code(), code("")),
    "an id that is not allowed": notebook(code(id="a b/c")),
    "ids in 4.2": notebook(code(), minor=2),
    "no outputs": notebook(code(outputs=...)),
    "no execution count": notebook(code(execution_count=...)),
    "no cell metadata": notebook(code(metadata=...)),
    "no source in another cell": notebook(code(), code(source=...)),
    "further keys": notebook(code(trusted=True), colab={"x": 1}),
    "no name of the kernel": notebook(code(), metadata={"kernelspec": {"display_name": "Python 3"}}),
    "no kernel": notebook(code(), metadata={"kernelspec": None, "language_info": None}),
    "no metadata": notebook(code(), metadata=None),
    "tags in a text": notebook(code(metadata={"tags": "parameters"})),
    "tags nowhere": notebook(code(metadata={"tags": None, "collapsed": "no", "scrolled": 3})),
    "a stream without name": notebook(code(outputs=[{"output_type": "stream", "text": "x"}])),
    "an output of an old type": notebook(code(outputs=[{"output_type": "pyout", "text": "x"}, None, {"data": 3}])),
    "an output without data": notebook(code(outputs=[{"output_type": "display_data"}, {"output_type": "error"}])),
    "a cell of another type": notebook(code(), {"cell_type": "heading", "source": "x", "id": "b", "metadata": {}}),
    "attachments of code": notebook(code(attachments={"a.png": {"image/png": "AA=="}})),
    "a minor of the future": notebook(code(), minor=9),
    "lines": notebook(code(["x = 42\r\n", "print(x)\r\n"])),
}
REFUSED = {
    "empty": b"", "a page": b"<!DOCTYPE html><html></html>", "a conflict": b"{\n<<<<<<< HEAD\n", "no JSON": b"{'a': 1}",
    "cut off": json.dumps(notebook(code())).encode()[:-30], "a list": b"[]", "nothing": b"null", "a number": b"4",
    "no format": b'{"cells": []}', "a format in words": b'{"nbformat": "4", "cells": []}',
    "a format of the future": b'{"nbformat": 5, "cells": []}', "format 0": b'{"nbformat": 0}',
    "no cells": b'{"nbformat": 4}', "cells in an object": b'{"nbformat": 4, "cells": {}}',
    "a cell of text": b'{"nbformat": 4, "cells": ["x"]}', "format 3 and no sheets": b'{"nbformat": 3, "metadata": {}}',
    "another encoding": json.dumps(notebook(code("# \xe4")), ensure_ascii=False).encode("latin-1"),
    "utf-16": json.dumps(notebook(code())).encode("utf-16"), "a picture": b"\x89PNG\r\n\x1a\n\0\0",
    "too deep": b"[" * 100_000,
}  # fmt: skip


@pytest.mark.parametrize("kind", OPENED)
@pytest.mark.filterwarnings("error")
def test_what_jupyter_opens_is_read_as_a_valid_notebook(kind, tmp_path):
    path = tmp_path / "n.ipynb"
    path.write_text("\ufeff" * (kind == "lines") + json.dumps(OPENED[kind]), encoding="utf-8")
    read = read_notebook(path)
    nbformat.validate(read)
    assert any("print(" in cell.source for cell in read.cells if cell.cell_type == "code")
    assert read_parameters(read, "n") is None


@pytest.mark.parametrize("kind", ["format 3", "ids twice", "ids in 4.2", "tags in a text", "no metadata", "lines"])
def test_what_jupyter_opens_runs_without_a_word_more(kind, project):
    (project / "notebooks" / "n.ipynb").write_text(json.dumps(OPENED[kind]), encoding="utf-8")
    made = lepton("run", "n", project=project)
    assert made.returncode == 0, made.stdout + made.stderr
    assert made.stderr == ""
    [run] = all_runs(project)
    saved = nbformat.read(run.folder(project) / "notebook.ipynb", 4)
    assert "42\n" in [output.text for cell in saved.cells for output in cell.get("outputs", [])]


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_notebook_is_refused_in_a_line(kind, tmp_path):
    (tmp_path / "bad.ipynb").write_bytes(REFUSED[kind])
    with pytest.raises(InputError, match=r"\Anotebook '[^\n]*bad\.ipynb': not a Jupyter notebook[^\n]+\Z"):
        read_notebook(tmp_path / "bad.ipynb")


def test_every_command_refuses_what_is_no_notebook_and_no_other_is_harmed(project):
    names = [f"bad{number}.ipynb" for number in range(len(REFUSED))]
    for name, content in zip(names, REFUSED.values(), strict=True):
        (project / "notebooks" / name).write_bytes(content)
    write_notebook(project / "notebooks" / "good.ipynb", ["1"], title="A good one")
    for command in (["run", "bad0"], ["params", "bad0"], ["check", "notebooks/bad0.ipynb"]):
        made = lepton_here(*command, project=project)
        assert made.returncode == 2
        assert "bad0.ipynb" in made.stderr and "not a Jupyter notebook" in made.stderr
        assert len(made.stderr.splitlines()) == 1
    listed = lepton_here("list", project=project)
    assert listed.returncode == 0 and "A good one" in listed.stdout and all(name in listed.stdout for name in names)


def test_one_bad_notebook_does_not_keep_the_others_from_being_checked(project):
    (project / "notebooks" / "bad.ipynb").write_text("{}")
    write_notebook(project / "notebooks" / "good.ipynb", ["print(1)"])
    assert lepton_here("check", "--update", "notebooks/good.ipynb", project=project).returncode == 0
    made = lepton_here("check", project=project)
    assert made.returncode == 1
    assert "✓ good" in made.stdout and "✗ notebook" in made.stdout and "Traceback" not in made.stdout + made.stderr


def test_an_older_notebook_can_be_checked_and_published(project):
    write_notebook(project / "notebooks" / "n.ipynb", ["print(42)"])
    document = json.loads((project / "notebooks" / "n.ipynb").read_text())
    for cell in document["cells"]:
        cell.pop("id")
        cell["metadata"]["tags"] = None
    document |= {"nbformat_minor": 2, "extra": 1}
    (project / "notebooks" / "n.ipynb").write_text(json.dumps(document))
    run = run_notebook(Request(project / "notebooks" / "n.ipynb"), project)
    assert lepton_here("check", run.run_id, project=project).returncode == 0


JUNK = [None, True, -1, 1e9, "", "x", [], ["x", 1], {}, {"a": None}, [[]], "\ud800", "a,b"]


def places(node, path=()):
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


@pytest.mark.parametrize("seed", range(100))
def test_a_notebook_with_junk_in_any_place_is_valid_once_it_is_read_or_is_refused(seed, tmp_path):
    chance = random.Random(seed)
    whole = notebook(
        code(metadata={"tags": ["parameters"], "execution": {}}, outputs=[
            {"output_type": "stream", "name": "stdout", "text": ["a"]},
            {"output_type": "error", "ename": "E", "evalue": "e", "traceback": ["t"]},
            {"output_type": "execute_result", "data": {"text/plain": "1"}, "metadata": {}, "execution_count": 1},
        ]),
        {"cell_type": "markdown", "id": "b", "metadata": {}, "source": "# T", "attachments": {"a": {"image/png": "A"}}},
    )  # fmt: skip
    made = copy.deepcopy(chance.choice([whole, whole, THREE, TWO]))
    for _ in range(chance.randrange(1, 4)):
        *above, last = chance.choice(list(places(made)))
        holder = made
        for key in above:
            holder = holder[key]
        if chance.random() < 0.3 and isinstance(holder, dict):
            del holder[last]
        else:
            holder[last] = copy.deepcopy(chance.choice(JUNK))
    path = tmp_path / "n.ipynb"
    path.write_text(json.dumps(made))
    try:
        nbformat.validate(read_notebook(path))
    except InputError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize(
    "source",
    ["x = 1\0", "x = " + "(" * 5000, "x = " + "[" * 90 + "]" * 90, "x = '\ud800'", "x: Literal[[1]] = 1",
     "x: list[()] = 1", "x: set[list[int]] = 1", "x: dict[list[int], int] = {}",
     "x = " + "-" * 20_000 + "1", "x = " + "9" * 5000],
)  # fmt: skip
def test_a_strange_parameters_cell_is_read_or_refused(source):
    try:
        json_schema(parse_parameters(source, "n"), "n")
    except InputError as error:
        assert str(error).startswith("n: ")


def test_an_artifact_whose_name_is_not_utf_8_ends_its_run_and_harms_no_other(project):
    source = "import os; open(os.path.join(os.fsencode(lk.artifact('a').parent), b'b\\xff.txt'), 'w').close()"
    path = write_notebook(project / "notebooks" / "n.ipynb", [source, "lk.record('n', 1)"])
    run = run_notebook(Request(path), project)
    assert run.status == "failed"
    assert "name is not UTF-8" in run.error.message and "\\udcff" in run.error.message
    assert run.results["n"].value == 1
    assert Manifest.load(run.folder(project) / "manifest.json") == run
    assert repair(project) == []
    assert (
        run_notebook(Request(write_notebook(project / "notebooks" / "m.ipynb", ["1"])), project).status == "succeeded"
    )


@pytest.mark.parametrize(
    ("source", "name", "words"),
    [
        ("import sys; sys.exit(0)", "SystemExit", "this cell left the notebook"),
        ("raise SystemExit", "SystemExit", "this cell left the notebook"),
        ("import sys; sys.exit('no data')", "SystemExit", "no data"),
        ("%nope", "UsageError", "Line magic function `%nope` not found"),
        ("%%nope\n1", "UsageError", "Cell magic `%%nope` not found"),
        ("x = %nope 3", "UsageError", "Line magic function `%nope` not found"),
    ],
)
def test_a_cell_that_leaves_or_names_an_unknown_magic_is_told_as_it_is(source, name, words, project):
    run = run_notebook(Request(write_notebook(project / "notebooks" / "n.ipynb", [source, "1"])), project)
    assert (run.status, run.error.name, run.error.cell) == ("failed", name, 2)
    assert words in run.error.message
    assert [cell.status for cell in run.cells] == ["completed", "failed", "not run"]
