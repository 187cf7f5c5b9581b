"""The scheduled runbooks on recordings that mean harm or hold little; nbval checks them on the one that ships."""

import json
import shutil

import nbformat
import pytest
from helpers import ROOT, copy_folders, lepton

SHIPPED = ROOT / "runbooks" / "recordings" / "stale-feed"
HOSTILE = "<script>alert('x')</script> $x^2$"


@pytest.fixture
def runbook_project(project):
    copy_folders(project, "runbooks", without=("recordings",))
    copy_folders(project, "slo")
    return project


def run(project, name: str):
    done = lepton("run", f"runbooks/{name}.ipynb", "-p", "recording", "given", project=project)
    (folder,) = (path.parent for path in (project / "runs").glob("*/manifest.json"))
    return done, json.loads((folder / "manifest.json").read_text()), nbformat.read(folder / "notebook.ipynb", 4)


@pytest.mark.parametrize("name", ["service-health", "drift-watch"])
def test_hostile_text_never_becomes_markup(name, runbook_project):
    given = shutil.copytree(SHIPPED, runbook_project / "given")
    incident = json.loads((given / "incident.json").read_text())
    incident["service"] = incident["provenance"]["constructed"][0] = HOSTILE
    (given / "incident.json").write_text(json.dumps(incident))
    line = {"time": incident["window"]["end"], "level": "ERROR", "message": HOSTILE}
    (given / "logs.jsonl").write_text(json.dumps(line))
    done, _, notebook = run(runbook_project, name)
    assert done.returncode == 0, done.stdout + done.stderr
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pages = [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert any("&lt;script&gt;" in page for page in pages)
    assert not any("<script" in page for page in pages)


@pytest.mark.parametrize("name", ["service-health", "drift-watch"])
def test_a_recording_with_hardly_anything_in_it_fails_its_expectation_and_says_why(name, runbook_project):
    (runbook_project / "given").mkdir()
    shutil.copy(SHIPPED / "incident.json", runbook_project / "given")
    _, manifest, _ = run(runbook_project, name)
    assert manifest["status"] == "expectation_failed", manifest.get("error")


def test_a_period_longer_than_the_recording_is_refused_and_named(runbook_project):
    shutil.copytree(SHIPPED, runbook_project / "given")
    words = ["-p", "recording", "given", "-p", "period", "60"]
    done = lepton("run", "runbooks/service-health.ipynb", *words, project=runbook_project)
    assert done.returncode != 0
    assert "period = 60 minutes" in done.stdout + done.stderr
