"""Jobs of JupyterLab's scheduler, made over HTTP as its dialog makes them, and seen in JupyterLab itself."""

from __future__ import annotations

import json
import tomllib

import nbformat
import pytest
from browser import Browser
from helpers import ROOT, write_notebook
from services import wait_for

from lepton_kit.errors import InputError
from lepton_kit.runs.manifest import Manifest, all_runs

pytest.importorskip("jupyter_scheduler", reason="the extra `lab` is not installed")

from labs import TOKEN, jupyter

PARAMETERS = "days: int = 5  # window, days\nname: str = 'x'\nkey: lk.Secret | None = None"
CELLS = [
    "lk.record('double', 2 * days, unit='days')\nprint('the name is', name)",
    "print('key:', lk.secret('key') if key else 'none')",
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A project, and JupyterLab in it."""
    project = tmp_path_factory.mktemp("lab") / "project"
    write_notebook(project / "notebooks/story.ipynb", CELLS, PARAMETERS, title="The story")
    (project / "lepton.toml").write_text("[lab]\nretries = 1\ntimeout = 120\nbackoff = 0\n")
    with jupyter(project, tmp_path_factory.mktemp("home"), STORY_KEY="open sesame 4711") as client:
        yield project, client


def job(client, notebook="notebooks/story.ipynb", **parameters):
    """Make a job and wait for its end; return what the scheduler says of it."""
    id = begin(client, notebook, **parameters)
    return wait_for(lambda: ended(client, id))


def begin(client, notebook, **parameters):
    environment = client.get("/scheduler/runtime_environments").json()[0]["name"]
    about = {
        "input_uri": notebook, "name": "a job", "runtime_environment_name": environment,
        "output_formats": ["ipynb", "html"], "parameters": parameters,
    }  # fmt: skip
    made = client.post("/scheduler/jobs", json=about)
    assert made.status_code == 200, made.text
    return made.json()["job_id"]


def ended(client, id):
    found = client.get(f"/scheduler/jobs/{id}").json()
    return found if found["status"] in ("COMPLETED", "FAILED") else None  # before it begins it is called STOPPED


def outputs(client, project, id):
    """Fetch a job's output files as the dialog's download does; return them by their format."""
    assert client.get(f"/scheduler/jobs/{id}/download_files").status_code < 300
    names = wait_for(lambda: downloaded(client, id))
    return {one: (project / name).read_text() for one, name in names.items()}


def downloaded(client, id):
    files = client.get(f"/scheduler/jobs/{id}").json()["job_files"]
    names = {one["file_format"]: one["file_path"] for one in files}
    return names if all(names.values()) else None


def test_a_job_is_a_run_with_a_manifest_and_its_outputs_lead_there(lab):
    project, client = lab
    done = job(client, days="7", name="'Kim'", key="env:STORY_KEY")
    assert done["status"] == "COMPLETED", done
    run = all_runs(project)[0]
    assert (run.status, run.trigger, run.notebook) == ("succeeded", "jupyter-scheduler", "notebooks/story.ipynb")
    assert run.results["double"].value == 14
    assert run.parameters["name"] == "Kim"
    assert run.options["retries"] == 1 and run.options["timeout"] == 120
    assert run.run_id in done["status_message"]
    files = outputs(client, project, done["job_id"])
    text = "\n".join(files.values())
    assert "open sesame 4711" not in text and "the name is Kim" in text
    last = nbformat.reads(files["ipynb"], 4).cells[-1].source
    assert f"(/runs/{run.run_id}/manifest.json)" in last
    assert f"(/reports/_site/runs/{run.run_id}/index.html)" in last
    assert (project / "reports/_site/runs" / run.run_id / "index.html").is_file()
    assert f'href="../../runs/{run.run_id}/manifest.json"' in files["html"]


def test_parameters_that_do_not_fit_are_refused_with_the_reason_before_a_kernel_starts(lab):
    project, client = lab
    before = len(all_runs(project))
    done = job(client, days="soon", nmae="Kim")
    assert done["status"] == "FAILED"
    assert "parameter 'days' = 'soon' (from the job's parameters): must be int" in done["status_message"]
    assert "did you mean 'name'?" in done["status_message"]
    assert len(all_runs(project)) == before


def test_a_failed_job_says_where_and_a_new_one_resumes_it(lab):
    project, client = lab
    cells = [
        "answer = lk.checkpoint('slow', lambda: 41)",
        "import os\nassert os.path.exists(os.environ['LEPTON_PROJECT'] + '/repaired'), 'not yet'",
    ]
    write_notebook(project / "notebooks/later.ipynb", cells, "days: int = 1")
    failed = job(client, "notebooks/later.ipynb")
    first = all_runs(project)[0]
    assert failed["status"] == "FAILED"
    assert f"Run {first.run_id}: failed in code cell 4: AssertionError: not yet" in failed["status_message"]
    (project / "repaired").touch()
    again = job(client, "notebooks/later.ipynb")
    assert again["status"] == "COMPLETED", again
    assert all_runs(project)[0].resumed_from == first.run_id


def test_a_job_that_takes_too_long_is_tried_again_and_ends(lab):
    project, client = lab
    settings = (project / "lepton.toml").read_text()
    write_notebook(project / "notebooks/slow.ipynb", ["import time\ntime.sleep(900)"])
    (project / "lepton.toml").write_text(settings.replace("timeout = 120", "timeout = 0.5"))
    try:
        done = job(client, "notebooks/slow.ipynb")
    finally:
        (project / "lepton.toml").write_text(settings)
    assert done["status"] == "FAILED" and "timed_out" in done["status_message"]
    assert [(run.name, run.attempt) for run in all_runs(project)[:2]] == [("slow", 2), ("slow", 1)]


def test_a_stopped_job_is_a_cancelled_run(lab):
    project, client = lab
    write_notebook(project / "notebooks/endless.ipynb", ["import time\ntime.sleep(900)"])
    id = begin(client, "notebooks/endless.ipynb")
    run = wait_for(lambda: next((one for one in all_runs(project) if one.name == "endless"), None))
    wait_for(lambda: client.get(f"/scheduler/jobs/{id}").json()["status"] == "IN_PROGRESS")
    assert client.patch(f"/scheduler/jobs/{id}", json={"status": "STOPPED"}).status_code < 300
    manifest = run.folder(project) / "manifest.json"
    assert wait_for(lambda: Manifest.load(manifest).ended and Manifest.load(manifest)).status == "cancelled"
    assert client.get(f"/scheduler/jobs/{id}").json()["status"] == "STOPPED"


def test_a_job_outside_a_project_whose_notebook_names_no_kernel_is_refused(tmp_path, monkeypatch):
    from lepton_kit.ops.lab.scheduler import LeptonExecutionManager

    monkeypatch.delenv("LEPTON_PROJECT", raising=False)
    notebook = tmp_path / "bare.ipynb"
    nbformat.write(nbformat.v4.new_notebook(), notebook)
    manager = LeptonExecutionManager("1", str(tmp_path), "sqlite://", {"input": str(notebook)})
    with pytest.raises(InputError, match=r"bare\.ipynb: names no kernel"):
        manager.execute()


def test_jupyterlab_lists_the_job_with_its_outputs(lab, tmp_path):
    project, client = lab
    done = job(client, days="3")
    outputs(client, project, done["job_id"])
    with Browser(tmp_path / "profile") as browser:
        browser.visit(f"{client.base_url}/lab?token={TOKEN}&reset", 1400)
        command = "window.jupyterapp?.commands.hasCommand('scheduling:list-jobs-from-launcher')"
        wait_for(lambda: browser.value(command))
        browser.value("window.jupyterapp.commands.execute('scheduling:list-jobs-from-launcher') && 0")
        text = wait_for(lambda: "Completed" in (shown := browser.value("document.body?.innerText ?? ''")) and shown)
    assert "story.ipynb" in text and "HTML" in text


def test_the_wheel_brings_the_setting_that_jupyter_reads():
    from lepton_kit.ops.lab import scheduler

    [(setting, place)] = [(ours, place) for ours, place in shared_data().items() if ours.endswith("_config.json")]
    assert place == "etc/jupyter/jupyter_jupyter_scheduler_config.json"
    named = json.loads((ROOT / setting).read_text())["Scheduler"]["execution_manager_class"]
    assert named == f"{scheduler.__name__}.{scheduler.LeptonExecutionManager.__name__}"


def shared_data():
    hatch = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]
    return hatch["build"]["targets"]["wheel"]["shared-data"]
