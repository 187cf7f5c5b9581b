"""Where a run differs from JupyterLab it says so: the kernel, the folder it works in, and what a check compares."""

import json

import pytest
from helpers import lepton, lepton_here, write_notebook

from lepton_kit.errors import InputError
from lepton_kit.project.pipeline import run_pipeline
from lepton_kit.runs.manifest import all_runs
from lepton_kit.runs.notebooks import installed_kernel, read_notebook
from lepton_kit.runs.repeat import resume, verify
from lepton_kit.runs.runner import Request, prepare, run_notebook


def with_metadata(path, **metadata):
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "metadata": metadata}))
    return path


def spec(name, language=None):
    return {"name": name, "display_name": name} | ({"language": language} if language else {})


@pytest.fixture
def sales(project):
    """A notebook whose kernel is that of its author's machine."""
    path = write_notebook(project / "notebooks/sales.ipynb", ["lk.record('n', 2 * days)"], "days: int = 3")
    return with_metadata(path, kernelspec=spec("conda-env-analytics-py", "python"))


def test_a_python_notebook_of_another_machine_runs_with_the_python_here_and_says_so(project, sales):
    made = lepton("run", "sales", project=project)
    assert made.returncode == 0, made.stderr
    assert "its kernel 'conda-env-analytics-py' is not installed here; it runs with 'python3'" in made.stdout
    [run] = all_runs(project)
    assert run.environment.kernel == "python3"
    assert read_notebook(run.folder(project) / "notebook.ipynb").metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("option", ["-k", "--kernel"])
def test_a_kernel_can_be_named_and_must_be_installed(project, sales, option):
    made = lepton("run", "sales", option, "python3", project=project)
    assert made.returncode == 0 and "not installed" not in made.stdout
    refused = lepton_here("run", "sales", option, "nowhere", project=project)
    assert refused.returncode == 2
    assert "kernel 'nowhere' is not installed (installed are: " in refused.stderr and "python3" in refused.stderr


def test_resume_check_and_pipeline_take_a_kernel_too(project, sales):
    failing = write_notebook(project / "notebooks/f.ipynb", ["assert lk.path('go').exists()"])
    with_metadata(failing, kernelspec=spec("nowhere"))
    (project / "lepton.toml").write_text('[pipelines.p]\nsteps = [{ notebook = "notebooks/f.ipynb" }]\n')
    with pytest.raises(InputError, match=r"'nowhere' is not installed .*`--kernel NAME` runs it with another"):
        run_pipeline("p", project)
    [step] = run_pipeline("p", project, kernel="python3")
    assert step.run.status == "failed"
    (project / "go").write_text("")
    assert resume(step.run, project, kernel="python3").status == "succeeded"
    for command in (["resume", "x"], ["pipeline", "x"], ["check", "x"], ["run", "x"]):
        assert "--kernel" not in lepton_here(*command, "-k", "python3", project=project).stderr
    assert lepton_here("check", "--update", "notebooks/sales.ipynb", project=project).returncode == 0
    assert lepton_here("check", "notebooks/sales.ipynb", "-k", "python3", project=project).returncode == 0


@pytest.mark.parametrize(
    "metadata",
    [{}, {"kernelspec": {"display_name": "Python 3"}}, {"kernelspec": {"name": "", "display_name": "x"}},
     {"language_info": {"name": "python"}}, {"language_info": {"name": "ipython"}}, {"kernelspec": spec("python3")}],
)  # fmt: skip
def test_a_notebook_that_names_no_kernel_is_python(project, metadata):
    path = with_metadata(write_notebook(project / "notebooks/n.ipynb", ["1"]), **metadata)
    kernel = installed_kernel(read_notebook(path), "n")
    assert (kernel.name, kernel.instead_of) == ("python3", None)


@pytest.mark.parametrize(
    "metadata",
    [{"kernelspec": spec("ir", "R")}, {"kernelspec": {"display_name": "R", "language": "R"}},
     {"language_info": {"name": "R"}}, {"kernelspec": spec("julia-1.9", "julia"), "language_info": {"name": "julia"}}],
)  # fmt: skip
def test_a_notebook_of_another_language_is_refused_and_never_read_as_python(project, metadata):
    path = with_metadata(write_notebook(project / "notebooks/n.ipynb", ["1"], "x = 5"), **metadata)
    with pytest.raises(InputError, match=r"its language is (r|julia)"):
        prepare(Request(path), project)
    refused = lepton_here("params", "n", project=project)
    assert refused.returncode == 2 and "its language is" in refused.stderr


@pytest.fixture
def beside(project):
    """A notebook with a module, a package and a file beside it."""
    (project / "notebooks/data").mkdir()
    (project / "notebooks/data/x.csv").write_text("a\n1\n")
    (project / "notebooks/helpers.py").write_text("def f(): return 41\n")
    (project / "notebooks/tools").mkdir()
    (project / "notebooks/tools/__init__.py").write_text("from helpers import f\n")
    return project


def test_modules_beside_a_notebook_are_found_in_every_way_to_run_it(beside):
    cells = [
        "import helpers, tools\nlk.record('n', helpers.f() + tools.f())\nimport os; assert not os.path.exists('data')"
    ]
    path = write_notebook(beside / "notebooks/n.ipynb", cells)
    run = run_notebook(Request(path), beside)
    assert run.status == "succeeded", run.error
    assert verify(run, beside).is_same
    assert lepton_here("check", run.run_id, project=beside).returncode == 0
    assert lepton_here("check", "--update", "notebooks/n.ipynb", project=beside).returncode == 0
    assert lepton_here("check", "notebooks/n.ipynb", project=beside).returncode == 0
    cold = lepton("run", "n", project=beside)
    assert cold.returncode == 0, cold.stdout


def test_a_step_runs_again_when_a_module_beside_its_notebook_has_changed(beside):
    write_notebook(beside / "notebooks/n.ipynb", ["import helpers"])
    (beside / "lepton.toml").write_text('[pipelines.p]\nsteps = [{ notebook = "notebooks/n.ipynb" }]\n')
    assert [step.skipped for step in run_pipeline("p", beside) + run_pipeline("p", beside)] == [False, True]
    (beside / "notebooks/helpers.py").write_text("def f(): return 42\n")
    assert [step.skipped for step in run_pipeline("p", beside)] == [False]


@pytest.mark.parametrize(
    "source",
    ["open('data/x.csv')", "import pandas as pd; pd.read_csv('data/x.csv')", "import os; os.listdir('data')",
     "import pathlib; pathlib.Path('data/x.csv').read_text()", "import numpy as np; np.loadtxt('data/x.csv')"],
)  # fmt: skip
def test_a_file_beside_the_notebook_that_is_not_found_says_what_to_write(beside, source):
    run = run_notebook(Request(write_notebook(beside / "notebooks/n.ipynb", [source])), beside)
    assert (run.status, run.error.name) == ("failed", "FileNotFoundError")
    assert "a run works in a folder of its own" in run.error.message
    assert "lk.input('notebooks/data" in run.error.message and "lk.path('notebooks/data" in run.error.message


def test_a_file_that_is_nowhere_gets_no_advice(beside):
    run = run_notebook(Request(write_notebook(beside / "notebooks/n.ipynb", ["open('data/y.csv')"])), beside)
    assert run.error.message == "[Errno 2] No such file or directory: 'data/y.csv'"


REPEATABLE = {
    "warning": "import warnings; warnings.warn('old'); print('x')",
    "progress": "import sys, time\nfor _ in range(3): print(f'\\r{time.time()}', end='', file=sys.stderr)",
    "display": "h = display('a', display_id=True); h.update('b')",
    "cleared later": "from IPython.display import clear_output\nfor i in range(3): clear_output(wait=True); print(i)",
    "cleared at once": "from IPython.display import clear_output\nprint(1); clear_output(); print(2)",
}


def test_warnings_updated_displays_and_cleared_outputs_do_not_fail_a_check(project):
    path = write_notebook(project / "notebooks/n.ipynb", list(REPEATABLE.values()))
    run = run_notebook(Request(path), project)
    made = lepton_here("check", run.run_id, project=project)
    assert made.returncode == 0, made.stdout


@pytest.mark.parametrize(
    "source", ["import os; print(os.getpid())", "h = display(1, display_id=True); h.update(lk.run_id())"]
)
def test_what_differs_fails_a_check_that_names_the_cell(project, source):
    run = run_notebook(Request(write_notebook(project / "notebooks/n.ipynb", [source])), project)
    made = lepton_here("check", run.run_id, project=project)
    assert made.returncode == 1
    assert "Cell 1: Cell outputs differ" in made.stdout
