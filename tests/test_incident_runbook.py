"""The runbook on recordings that mean harm or hold little; nbval checks it on the one that ships."""

import json
import shutil

import incident_variants as variants
import nbformat
import pytest
from helpers import copy_folders, lepton

from lepton_kit.telemetry.recordings import write_recording

HOSTILE = "<script>alert('x')</script> $x^2$"


@pytest.fixture
def runbook_project(project):
    copy_folders(project, "runbooks", without=("recordings",))
    return project


def run(project, recording: str):
    done = lepton("run", "runbooks/incident-diagnosis.ipynb", "-p", "recording", recording, project=project)
    (folder,) = (path for path in (project / "runs").iterdir() if (path / "manifest.json").exists())
    return done, folder, json.loads((folder / "artifacts" / "diagnosis.json").read_text())


def test_hostile_text_of_a_recording_never_becomes_markup(runbook_project):
    folder = write_recording(variants.stuck_feed(), runbook_project / "hostile")
    incident = json.loads((folder / "incident.json").read_text())
    incident["service"] = incident["alerts"][0]["name"] = HOSTILE
    (folder / "incident.json").write_text(json.dumps(incident))
    line = {"time": "2007-02-01T00:00:00Z", "level": "ERROR", "message": HOSTILE}
    (folder / "logs.jsonl").write_text(json.dumps(line))

    done, run_folder, diagnosis = run(runbook_project, "hostile")

    assert done.returncode == 0, done.stdout + done.stderr
    assert diagnosis["cause"] == "data"
    outputs = [o for c in nbformat.read(run_folder / "notebook.ipynb", 4).cells for o in c.get("outputs", [])]
    pages = [o["data"]["text/html"] for o in outputs if "text/html" in o.get("data", {})]
    assert sum("&lt;script&gt;" in page for page in pages) >= 2  # the facts and the log show it
    assert not any("<script" in page for page in pages)


def test_a_recording_with_hardly_anything_in_it_says_so_and_still_answers_unknown(runbook_project):
    (runbook_project / "empty").mkdir()
    shutil.copy(variants.SHIPPED / "incident.json", runbook_project / "empty")

    done, _, diagnosis = run(runbook_project, "empty")

    assert done.returncode != 0
    assert "a cause is found, or the recording holds enough requests" in done.stdout + done.stderr
    assert diagnosis["cause"] == "unknown"
    assert any(line.startswith("promise: the recording holds no known actual") for line in diagnosis["not_checked"])
