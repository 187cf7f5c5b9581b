import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import timedelta
from importlib import metadata
from pathlib import Path

import nbformat
import papermill
import pytest
from helpers import PATIENCE_S, write_notebook
from services import wait_for

from lepton_kit.errors import InputError
from lepton_kit.files import sha256_of
from lepton_kit.ops.watch.status import newest_runs
from lepton_kit.runs import runner
from lepton_kit.runs.ledger import Ledger
from lepton_kit.runs.manifest import Manifest, all_runs, find_run, now, packages
from lepton_kit.runs.pool import run_all
from lepton_kit.runs.repeat import verify
from lepton_kit.runs.runner import Request, execute, prepare, run_notebook

STORY = [
    "lk.record('double', 2 * days, unit='days')",
    "lk.expect(days < 10, 'a short window', days=days)",
    "lk.artifact('left.txt').write_text(open(lk.input(table)).read())",
    "import os; here = os.getcwd(); open('stray.txt', 'w').close()",
]
PARAMETERS = "from pathlib import Path\ndays: int = 5  # window, days\ntable: Path = 'table.csv'  # a table"


@pytest.fixture
def story(project):
    (project / "table.csv").write_text("a,b\n")
    return write_notebook(project / "notebooks/story.ipynb", STORY, PARAMETERS, title="The story")


def test_a_run_leaves_a_folder_that_tells_everything(project, story):
    run = run_notebook(Request(story, {"days": "7"}), project)
    assert run.status == "succeeded"
    assert (run.name, run.title, run.notebook) == ("story", "The story", "notebooks/story.ipynb")
    assert run.parameters == {"days": 7, "table": "table.csv"}
    assert [(i.parameter, i.ref, i.sha256) for i in run.inputs] == [
        ("table", "table.csv", sha256_of(project / "table.csv"))
    ]
    assert run.results["double"].value == 14
    assert run.results["double"].unit == "days"
    assert run.expectations[0].passed
    assert [(a.file, a.bytes) for a in run.artifacts] == [("left.txt", 4)]
    assert all(cell.status == "completed" for cell in run.cells)
    assert run.environment.packages["pandas"]
    assert run.notebook_sha256 == sha256_of(story)
    assert Manifest.load(run.folder(project) / "manifest.json") == run


def test_a_run_knows_the_versions_of_all_packages_as_python_does():
    assert packages() == {package.metadata["Name"]: package.version for package in metadata.distributions()}


def test_a_run_id_is_sortable_and_readable(project, story):
    run = run_notebook(Request(story), project)
    assert run.run_id.startswith(f"{run.started:%Y%m%dT%H%M}")
    assert "-story-" in run.run_id


def test_the_latest_run_is_the_one_that_began_last_also_where_the_clock_was_put_back_between(
    project, story, monkeypatch
):
    with monkeypatch.context() as ahead:
        ahead.setattr(runner, "now", lambda: now() + timedelta(days=3))
        first = run_notebook(Request(story), project)
    second = run_notebook(Request(story), project)
    assert first.run_id > second.run_id
    assert [run.run_id for run in all_runs(project)] == [second.run_id, first.run_id]
    assert find_run("latest", project) == find_run("story", project, "succeeded") == second
    assert [run.run_id for run in newest_runs(project, 1)] == [second.run_id]
    shutil.copytree(second.folder(project), project / "runs" / "20000101T000000Z-story-abcdef")  # of elsewhere
    assert find_run("latest", project) == second
    Ledger(project).path.write_bytes(b"no ledger any more" * 100)
    assert all_runs(project)[0].run_id == first.run_id  # by the times then


def test_a_run_works_in_its_own_folder_and_leaves_this_process_where_it_is(project, story):
    before = Path.cwd()
    run = run_notebook(Request(story), project)
    assert Path.cwd() == before
    assert (run.folder(project) / "stray.txt").exists()
    assert not (project / "notebooks/stray.txt").exists()


def test_a_broken_expectation_that_the_notebook_swallows_still_fails_the_run(project):
    cell = "try:\n    lk.expect(False, 'must hold')\nexcept Exception:\n    pass"
    run = run_notebook(Request(write_notebook(project / "notebooks/n.ipynb", [cell])), project)
    assert (run.status, run.error.name) == ("expectation_failed", "ExpectationFailed")


def test_a_notebook_that_leaves_early_has_not_succeeded(project):
    run = run_notebook(
        Request(write_notebook(project / "notebooks/n.ipynb", ["import sys; sys.exit(0)", "2"])), project
    )
    assert run.status == "failed"
    assert [cell.status for cell in run.cells][-1] == "not run"


def test_a_project_whose_path_has_braces_and_spaces_works(tmp_path):
    project = tmp_path / "a {b} c"
    path = write_notebook(project / "notebooks/n.ipynb", ["lk.record('x', x)"], "x: int = 1")
    (project / "lepton.toml").touch()
    assert run_notebook(Request(path, {"x": 2}), project).results["x"].value == 2


def test_a_broken_expectation_stops_the_run_and_is_its_status(project, story):
    run = run_notebook(Request(story, {"days": "12"}), project)
    assert run.status == "expectation_failed"
    assert run.error.message == "expected: a short window; got days = 12"
    assert run.expectations[0].values == {"days": 12}
    assert [cell.status for cell in run.cells][-3:] == ["failed", "not run", "not run"]


def test_what_did_not_run_is_never_called_completed_when_the_kernel_dies(project):
    path = write_notebook(project / "notebooks/dies.ipynb", ["1", "import os; os._exit(3)", "2"])
    run = run_notebook(Request(path), project)
    assert run.status == "kernel_died"
    assert [cell.status for cell in run.cells] == ["completed", "completed", "failed", "not run"]
    assert run.error.cell == 3


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_so_and_leaves_no_kernel(stop, project):
    slow = ["print('here', flush=True)", "import time; time.sleep(600)"]
    path = write_notebook(project / "notebooks/slow.ipynb", slow)
    command = [sys.executable, "-m", "lepton_kit.cli", "run", str(path)]
    process = subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(lambda: _running_cell(project) == 3)
    process.send_signal(stop)
    assert process.wait(timeout=PATIENCE_S) == 130
    run = find_run("slow", project)
    assert run.status == "cancelled"
    assert [cell.status for cell in run.cells] == ["completed", "completed", "interrupted"]
    assert not _processes_in(run.folder(project))


KINDS = "weights = {1: 0.5}\nspan = (1, 2)\nlimit: float = 1.0\nbounds: tuple[float, float] = (0.0, 1.0)\ndays = 5"


def test_only_given_values_are_put_in_and_those_as_python_has_them(project):
    cells = [
        "assert (weights, span, days) == ({1: 0.5}, (1, 2), 5)",
        "import math; assert math.isnan(limit) and bounds == (0.0, math.inf), (limit, bounds)",
    ]
    path = write_notebook(project / "notebooks/n.ipynb", cells, KINDS)
    run = run_notebook(Request(path, {"limit": "nan", "bounds": "[0, Infinity]"}), project)
    assert run.status == "succeeded", run.error
    saved = (run.folder(project) / "notebook.ipynb").read_text()
    notebook = json.loads(saved, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    [put_in] = [c for c in notebook["cells"] if "injected-parameters" in c["metadata"].get("tags", [])]
    assert "".join(put_in["source"]) == ("# Parameters\nlimit = float('nan')\nbounds = (0.0, float('inf'))\n")
    told = json.loads((run.folder(project) / "manifest.json").read_text(), parse_constant=pytest.fail)
    assert told["parameters"] == {
        "weights": "{1: 0.5}", "span": "(1, 2)", "limit": "nan", "bounds": "[0.0, Infinity]", "days": 5,
    }  # fmt: skip
    assert told["given"] == ["bounds", "limit"]
    assert verify(run, project).repeated.parameters == run.parameters


def test_nothing_is_put_in_where_nothing_is_given_also_from_an_earlier_runs_notebook(project):
    path = write_notebook(project / "notebooks/n.ipynb", ["assert days == 5"], "days: int = 5")
    first = run_notebook(Request(path, {"days": 5}), project)
    again = run_notebook(Request(first.folder(project) / "notebook.ipynb"), project)
    assert (again.status, again.given) == ("succeeded", [])
    assert "injected-parameters" in (first.folder(project) / "notebook.ipynb").read_text()
    assert "injected-parameters" not in (again.folder(project) / "notebook.ipynb").read_text()


@pytest.mark.parametrize("send", [lambda pid: os.killpg(pid, signal.SIGINT), lambda pid: os.kill(pid, signal.SIGTERM)])
def test_ctrl_c_or_a_schedulers_stop_ends_all_runs_of_a_pool_and_starts_no_more(send, project):
    path = write_notebook(project / "notebooks/slow.ipynb", ["import time; time.sleep(600)"])
    command = [sys.executable, "-m", "lepton_kit.cli", "run", *[str(path)] * 3, "--workers", "2"]
    process = subprocess.Popen(
        command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for(lambda: len(list(project.glob("runs/*/notebook.ipynb"))) == 2)
    send(process.pid)  # a terminal tells all processes of the group, a scheduler the first alone
    _, told = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert "Traceback" not in told
    assert [run.status for run in all_runs(project)] == ["cancelled", "cancelled"]


def _running_cell(project):
    """Number of the code cell that a run's saved notebook shows as running."""
    for saved in project.glob("runs/*-slow-*/notebook.ipynb"):
        try:
            cells = [c for c in nbformat.read(saved, 4).cells if c.cell_type == "code"]
        except Exception:  # papermill is just writing it
            return None
        running = [n for n, c in enumerate(cells, 1) if c.metadata.papermill["status"] == "running"]
        return running[0] if running else None


def _processes_in(folder):
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == folder:
                found.append(process.name)
        except OSError:  # it has just ended, or is not ours to look at
            continue
    return found


def test_nothing_is_written_and_no_kernel_starts_when_a_request_is_wrong(project, story):
    with pytest.raises(InputError):
        run_notebook(Request(story, {"table": "gone.csv"}), project)
    assert not (project / "runs").exists()


def test_a_notebook_that_is_not_json_is_one_clear_error(project):
    path = project / "notebooks/bad.ipynb"
    path.write_text("not { json")
    with pytest.raises(InputError, match="not a Jupyter notebook"):
        prepare(Request(path), project)


def test_a_notebook_that_names_no_kernel_runs_on_the_usual_one(project):
    path = write_notebook(project / "notebooks/n.ipynb", ["lk.record('x', x)"], "x: int = 1")
    content = nbformat.read(path, 4)
    content.metadata.clear()
    nbformat.write(content, path)
    assert run_notebook(Request(path, {"x": 2}), project).results["x"].value == 2


def test_a_run_that_cannot_even_start_ends_with_its_error(project, story, monkeypatch):
    plan = prepare(Request(story), project)
    monkeypatch.setattr("papermill.execute_notebook", lambda *args, **kwargs: Path("/nowhere").read_text())
    run = execute(plan, project)
    assert (run.status, run.error.name, run.cells) == ("failed", "FileNotFoundError", [])


def test_a_kernel_that_is_not_installed_is_one_clear_error(project):
    path = write_notebook(project / "notebooks/n.ipynb", ["1"])
    content = nbformat.read(path, 4)
    content.metadata.kernelspec.update(name="cobol", language="cobol")
    nbformat.write(content, path)
    with pytest.raises(InputError, match="kernel 'cobol' is not installed"):
        prepare(Request(path), project)


def test_an_artifact_is_named_by_its_notebook_and_recorded_as_lineage(project, story):
    first = run_notebook(Request(story), project)
    path = write_notebook(
        project / "notebooks/reader.ipynb", ["print(open(lk.input(text)).read())"],
        "from pathlib import Path\ntext: Path = 'run:story/left.txt'",
    )  # fmt: skip
    run = run_notebook(Request(path), project)
    assert run.parameters["text"] == f"run:{first.run_id}/left.txt"
    assert (run.inputs[0].run, run.inputs[0].sha256) == (first.run_id, first.artifacts[0].sha256)
    assert len(run.inputs) == 1


def test_runs_of_two_subjects_are_never_mixed_and_a_reference_says_whose_is_meant(project):
    left = "lk.artifact('left.txt').write_text(subject)"
    maker = write_notebook(project / "notebooks/maker.ipynb", [left], "subject: str = 'prices'")
    prices = run_notebook(Request(maker), project)
    scoring = run_notebook(Request(maker, {"subject": "scoring"}), project)
    reader = project / "notebooks/reader.ipynb"

    def read(parameters, values=None):
        write_notebook(reader, ["1"], f"from pathlib import Path\n{parameters}")
        return prepare(Request(reader, values or {}), project).values["text"]

    one, other = (f"run:{run.run_id}/left.txt" for run in (prices, scoring))
    unsaid = "text: Path = 'run:maker/left.txt'"
    with pytest.raises(InputError, match=r"'maker' ran for prices and scoring; write run:prices/maker/left\.txt or"):
        read(unsaid)
    assert read("text: Path = 'run:prices/maker/left.txt'") == one
    assert read(f"subject: str = 'prices'\n{unsaid}") == one  # its own subject counts, not the newest run
    assert read(f"subject: str = 'prices'\n{unsaid}", {"subject": "scoring"}) == other
    with pytest.raises(InputError, match="no finished run of 'maker' for chat"):
        read("text: Path = 'run:chat/maker/left.txt'")


def test_an_artifact_that_was_not_left_is_named_with_those_that_were(project, story):
    run_notebook(Request(story), project)
    with pytest.raises(InputError, match=r"left no 'other.txt'; it left \['left.txt'\]"):
        prepare(Request(story, {"table": "run:story/other.txt"}), project)


def test_an_artifact_that_was_changed_since_is_refused(project, story):
    first = run_notebook(Request(story), project)
    (first.folder(project) / "artifacts/left.txt").write_text("other")
    with pytest.raises(InputError, match=r"left\.txt has been changed since"):
        prepare(Request(story, {"table": "run:story/left.txt"}), project)


def test_of_a_run_and_work_by_hand_the_newer_file_is_meant(project, story):
    run = run_notebook(Request(story), project)
    by_hand = project / "runs/interactive/story/artifacts/left.txt"
    by_hand.parent.mkdir(parents=True)
    by_hand.write_text("by hand")
    for age, meant in ((-100, f"run:{run.run_id}/left.txt"), (100, "run:story/left.txt")):
        os.utime(by_hand, (time.time() + age,) * 2)
        assert prepare(Request(story, {"table": "run:story/left.txt"}), project).values["table"] == meant


def test_a_manifest_that_cannot_be_read_hides_no_other_run(project, story, caplog):
    run = run_notebook(Request(story), project)
    (project / "runs/broken").mkdir()
    (project / "runs/broken/manifest.json").write_text("{bad")
    assert all_runs(project) == [run]
    assert "broken" in caplog.text


def test_runs_at_once_keep_their_order_and_their_folders(project, story):
    plans = [prepare(Request(story, {"days": str(days)}), project) for days in (1, 2, 3)]
    events = []
    runs = run_all(plans, project, workers=2, on_event=events.append)
    assert [run.results["double"].value for run in runs] == [2, 4, 6]
    assert len({run.run_id for run in runs}) == 3
    assert [event.kind for event in events].count("run_ended") == 3


def test_papermill_itself_can_use_the_engine(project, story):
    output = project / "out.ipynb"
    papermill.execute_notebook(
        str(story), str(output), {"days": 3, "table": "table.csv"}, engine_name="lepton", progress_bar=False
    )
    assert nbformat.read(output, 4).metadata.papermill["exception"] is None


@pytest.mark.parametrize("text", ["'); open('made', 'w') #", '"""', "{{x}}", "line\nbreak", "\\", "ünïcödé 🎉"])
def test_a_text_parameter_arrives_as_it_was_given(text, project):
    path = write_notebook(project / "notebooks/echo.ipynb", ["lk.record('echo', text)"], "text: str = ''")
    run = run_notebook(Request(path, {"text": text}), project)
    assert run.results["echo"].value == text
    assert not (run.folder(project) / "made").exists()
