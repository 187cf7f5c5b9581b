"""`lepton watch` with a real service: scraped, its objectives evaluated, evidence frozen before a runbook starts."""

from __future__ import annotations

import shutil
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler

import pytest
from bs4 import BeautifulSoup
from helpers import ROOT, lepton, listening, write_notebook
from services import project_with_model, serving, wait_for
from watching import STARTS, alert, watching

from lepton_kit.errors import InputError
from lepton_kit.ops.watch.observer import embedded_changes
from lepton_kit.ops.watch.queue import Queue
from lepton_kit.ops.watch.schedules import Schedules
from lepton_kit.ops.watch.webhook import Alert
from lepton_kit.project.settings import read_settings
from lepton_kit.runs.manifest import all_runs
from lepton_kit.runs.tables import SCHEDULES, replace

SETTINGS = """
[services.goog]
model = "goog"

[watch]
workers = 1
report = false
scrape_interval = 0.5
time_scale = 600

[alerts.GoogErrorsBudgetBurn]
runbook = "runbooks/diagnose.ipynb"

[alerts.Known]
runbook = "runbooks/diagnose.ipynb"
"""
RUNBOOK = """
import json
incident = json.loads((lk.path(recording) / "incident.json").read_text())
lk.record("service", incident["service"])
"""


def kept_project(folder):
    """A project with a model, an objective on errors, and a runbook that reads the incident's recording."""
    (folder / "slo/goog").mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "slo/goog/errors.yaml", folder / "slo/goog")
    (folder / "lepton.toml").write_text(SETTINGS)
    write_notebook(folder / "runbooks/diagnose.ipynb", [RUNBOOK], "recording: 'Path' = ''")
    return folder


def test_errors_of_a_served_model_fire_an_embedded_alert_whose_runbook_reads_its_recording(project):
    project_with_model(project)
    kept_project(project)
    with serving(project) as service, watching(project) as kit:
        wait_for(lambda: kit.client.get("/status.json").json()["services"][0]["is_ready"])

        def fails():
            service.client.post("/v1/predict", json={"row": {}})
            service.predict()
            found = [one for one in kit.queue.incidents() if one.name == "GoogErrorsBudgetBurn"]
            return [job for job in kit.queue.jobs() if job.state in ("ended", "refused")] if found else None

        jobs = wait_for(fails)
        incident = kit.queue.incident(jobs[-1].incident)
        said = kit.client.get("/status.json").json()
        page = kit.client.get("/").text
    assert {(job.status, job.error) for job in jobs} == {("succeeded", None)}
    assert (incident.origin, incident.service) == ("embedded", "goog")
    assert all_runs(project)[0].results["service"].value == "goog"
    assert (project / incident.recording / "incident.json").is_file()
    assert said["services"][0]["budgets"][0]["left"] < 1
    assert "GoogErrorsBudgetBurn" in page


def commands_of(kit, path):
    """Return the commands that a page of the watch tells to type, without the `lepton` in front."""
    parsed = BeautifulSoup(kit.client.get(path).text, "html.parser")
    return [part.split()[1:] for code in parsed.select("pre.command") for part in code.text.split(" && ")]


def test_the_page_of_an_alert_gives_the_command_that_diagnoses_the_open_incident_and_it_does(project):
    project_with_model(project)
    kept_project(project)
    with serving(project) as service, watching(project, "--insecure") as kit:
        service.predict()
        earlier, now = (f"{datetime.now(UTC) - timedelta(seconds=ago):%Y-%m-%dT%H:%M:%S.%fZ}" for ago in (20, 1))
        kit.post(alert(1, starts=earlier))
        kit.post(alert(1, "resolved", starts=earlier))
        kit.post(alert(1, starts=now))
        kit.ended(2)
        [incident] = kit.queue.incidents(status="firing")
        [words] = commands_of(kit, "/runbooks/Known")
        assert words in commands_of(kit, f"/incidents/{incident.id}")
        made = lepton(*words, project=project)
        assert made.returncode == 0, made.stderr
        assert all_runs(project)[0].parameters["recording"] == incident.recording
        kit.post(alert(1, "resolved", starts=now))
        wait_for(lambda: not kit.queue.incidents(status="firing"))
        assert commands_of(kit, "/runbooks/Known") == [["run", "runbooks/diagnose.ipynb"]]  # a rehearsal, and said so
        assert "example that comes with the runbook" in kit.client.get("/runbooks/Known").text


def test_where_no_evidence_was_captured_yet_the_command_captures_it_first(project):
    project_with_model(project)
    kept_project(project)
    (project / "lepton.toml").write_text(SETTINGS.replace("workers = 1", "workers = 0"))
    with serving(project) as service, watching(project, "--insecure") as kit:
        service.predict()
        wait_for(lambda: list((project / "telemetry").glob("**/*")))
        kit.post(alert(1, starts=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"))
        [incident] = kit.queue.incidents()
        capture, run = commands_of(kit, "/runbooks/Known")
        for words in (capture, run):
            made = lepton(*words, project=project)
            assert made.returncode == 0, made.stderr
    assert all_runs(project)[0].parameters["recording"] == f"incidents/{incident.id}/recording"


def test_a_recovery_check_and_a_schedule_are_given_evidence_of_their_own(project):
    project_with_model(project)
    kept_project(project)
    nightly = '[schedules.nightly]\nnotebook = "runbooks/diagnose.ipynb"\ncron = "0 3 * * *"\nservice = "goog"\n'
    text = (project / "lepton.toml").read_text() + 'on_resolved = "runbooks/diagnose.ipynb"\n' + nightly
    (project / "lepton.toml").write_text(text)
    queue = Queue(project)
    with queue.transaction() as ledger:
        replace(ledger, SCHEDULES, name="nightly", handled=time.time() - 2 * 86400)
    with serving(project) as service, watching(project, "--insecure") as kit:
        service.predict()
        now = datetime.now(UTC).isoformat()
        kit.post(alert(starts=now))
        kit.post(alert(status="resolved", starts=now))
        jobs = kit.ended(3)
    assert [(job.kind, job.status, job.error) for job in jobs if job.status != "succeeded"] == []
    given = {run.trigger: run.parameters["recording"] for run in all_runs(project)}
    assert len(set(given.values())) == 3
    assert given["recovery:Known"] == given["alert:Known"].replace("/recording", "-recovery/recording")
    assert given["schedule:nightly"].endswith("T030000Z-nightly/recording")


def test_a_schedule_that_needs_a_recording_and_names_no_service_is_an_error_at_the_start(project):
    kept_project(project)
    text = '[schedules.nightly]\nnotebook = "runbooks/diagnose.ipynb"\ncron = "0 3 * * *"\n'
    (project / "lepton.toml").write_text((project / "lepton.toml").read_text() + text)
    with pytest.raises(InputError, match="needs a recording"):
        Schedules(read_settings(project), project, Queue(project), lambda: None)


def test_without_evidence_the_runbook_is_not_started_and_the_page_says_why(project):
    kept_project(project)
    with watching(project, "--insecure") as kit:
        assert kit.post(alert(), alert(2, service="other")).status_code == 202
        jobs = kit.ended(2)
        page = kit.client.get("/").text
        notes = [incident.note for incident in kit.queue.incidents()]
    assert [job.state for job in jobs] == ["refused", "refused"]
    assert all(job.error.startswith("no recording: ") for job in jobs)
    assert set(notes) == {"the runbook did not start: its evidence could not be captured"}
    assert "neither in lepton.toml" in page
    assert all_runs(project) == []


def test_a_service_is_shown_as_down_not_ready_or_ready(project):
    class Answers(BaseHTTPRequestHandler):
        code, said = 503, b'{"status": "not ready", "version": "v7", "error": "<b>still loading</b>"}'

        def do_GET(self):
            self.send_response(self.code)
            self.end_headers()
            self.wfile.write(self.said)

        def log_message(self, *_):
            pass

    kept_project(project)
    with watching(project) as kit:

        def state():
            return kit.client.get("/status.json").json()["services"][0]

        wait_for(lambda: state()["problem"] == "not running")
        (project / "services/goog").mkdir(parents=True)
        with listening(Answers) as address:
            (project / "services/goog/address").write_text(f"{address}\n")
            found = wait_for(lambda: state()["is_up"] and state())
            assert (found["is_ready"], found["version"], found["problem"]) == (False, "v7", "<b>still loading</b>")
            assert "&lt;b&gt;still loading&lt;/b&gt;" in kit.client.get("/").text
            Answers.code, Answers.said = 200, b'{"status": "ready", "version": "v7", "error": null}'
            wait_for(lambda: state()["is_ready"])
        wait_for(lambda: not state()["is_up"])


class NoRouter:
    def on_firing(self, _):
        return "nothing"

    def on_resolved(self, _):
        return None


@pytest.fixture
def queue(project):
    return Queue(project)


def test_an_embedded_alert_stays_one_incident_when_the_evaluator_starts_anew(queue):
    first, later = (Alert.model_validate(alert(starts=starts)) for starts in (STARTS, "2026-11-25T03:20:00Z"))
    queue.receive(embedded_changes([first], [], 0), "embedded", NoRouter())
    assert embedded_changes([later], queue.incidents(status="firing", origin="embedded"), 0) == []


def test_an_embedded_alert_that_no_longer_fires_is_resolved(queue):
    queue.receive([Alert.model_validate(alert())], "embedded", NoRouter())
    queue.receive([Alert.model_validate(alert(2))], "webhook", NoRouter())
    end = datetime(2026, 11, 25, 4, tzinfo=UTC)
    queue.receive(
        embedded_changes([], queue.incidents(status="firing", origin="embedded"), end.timestamp()),
        "embedded",
        NoRouter(),
    )
    found = {incident.origin: (incident.status, incident.ends_at) for incident in queue.incidents()}
    assert found == {"embedded": ("resolved", end.isoformat(timespec="microseconds")), "webhook": ("firing", None)}


def test_an_embedded_alert_of_which_nothing_is_known_does_not_end(queue):
    known = Alert.model_validate(alert())
    queue.receive([known], "embedded", NoRouter())
    assert embedded_changes([], queue.incidents(status="firing", origin="embedded"), 0, {known.fingerprint}) == []
