"""The history of a repaired incident: frozen once it is over and looked back on once; a page that only people write."""

from __future__ import annotations

import json

import pytest
from helpers import copy_folders, write_notebook
from repairs import SETTINGS, Everything, diagnosed, project_with_repairs, proposal, propose
from services import wait_for
from watching import alert, watching

from lepton_kit.diagnosis.history import read_history
from lepton_kit.ops.watch.approvals import make_decision
from lepton_kit.ops.watch.history import freeze_history, open_judgement
from lepton_kit.ops.watch.queue import Queue
from lepton_kit.ops.watch.webhook import Alert
from lepton_kit.project.settings import read_settings
from lepton_kit.runs.manifest import all_runs

POSTMORTEM = """
import json
history = json.loads((lk.path(history)).read_text())
lk.record("id", history["id"])
lk.record("given", [str(after), str(judgement)])
"""
MORE = '\n[postmortem]\nrunbook = "runbooks/postmortem.ipynb"\n'


@pytest.fixture
def repaired(project):
    project_with_repairs(project)
    (project / "lepton.toml").write_text(SETTINGS + MORE)
    parameters = "history: 'Path' = 'x'\nafter: 'Path | None' = None\njudgement: 'Path | None' = None"
    write_notebook(project / "runbooks/postmortem.ipynb", [POSTMORTEM], parameters)
    return project


ACTION = {
    "time": "2026-11-25T03:05:00+00:00", "run": "r", "action": "set_state", "why": "too few workers",
    "before": {"workers": 1}, "after": {"workers": 3}, "outcome": "done",
}  # fmt: skip


def note_actions(project, *actions):
    folder = project / "services/goog"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "actions.jsonl").write_text("".join(json.dumps(action) + "\n" for action in actions))


def test_after_its_repair_and_its_end_an_incident_is_frozen_and_looked_back_on_once(repaired):
    earlier = ACTION | {"time": "2026-11-24T00:00:00+00:00"}
    note_actions(repaired, earlier, ACTION)
    with watching(repaired, "--insecure") as kit:
        kit.post(diagnosed(cause="data", onset="2026-11-25T02:59:00+00:00", long=list(range(10_000))))
        [one] = wait_for(lambda: kit.queue.waiting())
        kit.queue.decide(one.job, make_decision(True, "Kim Lee", "lepton approve", "looks right"))
        kit.ended(2)
        page = repaired / "incidents" / one.incident / "judgement.md"
        assert not page.exists()
        page.parent.mkdir(parents=True)
        page.write_text("## What went well\n\nKim was awake.\n")
        kit.post(diagnosed(status="resolved", cause="data"))
        jobs = kit.ended(3)
    assert [(job.kind, job.status, job.error) for job in jobs][2:] == [("postmortem", "succeeded", None)]
    run = all_runs(repaired)[0]
    path = f"incidents/{one.incident}/history.json"
    assert (run.parameters["history"], run.results["id"].value) == (path, one.incident)
    assert run.results["given"].value == ["None", f"incidents/{one.incident}/judgement.md"]
    assert "Kim was awake." in page.read_text()
    history = read_history(repaired / path)
    assert [job.kind for job in history.jobs] == ["alert", "remedy"]
    diagnosis, repair = history.jobs
    assert (diagnosis.run.results["cause"].value, diagnosis.run.left_out) == ("data", ("long",))
    assert (repair.run.results["verdict"].value, repair.status) == ("recovered", "succeeded")
    [decision] = repair.decisions
    assert (decision.by, decision.is_approved, decision.note) == ("Kim Lee", True, "looks right")
    assert [action.what for action in history.actions] == ["workers 1 → 3"]
    assert history.alert.ends_at.isoformat() == "2026-11-25T03:10:00+00:00"
    told = " ".join(history.missing)
    assert "evidence of what followed: InputError" in told
    assert "recording: the incident has none" in told


def incident_of(project):
    queue = Queue(project)
    incident = queue.incident(propose(queue, proposal("data", "ask")))
    return incident, queue


def test_the_objective_of_the_alert_is_kept_as_it_was(repaired):
    copy_folders(repaired, "slo")
    text = SETTINGS.replace("[watch]", '[services.goog]\nmodel = "goog"\n[watch]\ntime_scale = 60')
    (repaired / "lepton.toml").write_text(text)
    queue = Queue(repaired)
    posted = Alert.model_validate(alert(alertname="GoogLatencyBudgetBurn"))
    queue.receive([posted], "webhook", Everything())
    path = freeze_history(queue.incident(posted.incident), queue, read_settings(repaired), repaired)
    promise = read_history(path).promise
    assert (promise.name, promise.target, promise.time_scale) == ("goog-latency", 0.99, 60)
    assert promise.objective().selector.metric == "http_server_request_duration_seconds_bucket"


def test_what_cannot_be_had_is_named_and_the_rest_is_kept(repaired):
    incident, queue = incident_of(repaired)
    note_actions(repaired, {"time": "soon"})
    history = read_history(freeze_history(incident, queue, read_settings(repaired), repaired, ("a recording",)))
    told = " ".join(history.missing)
    for named in ("a recording", "run run-1", "actions.jsonl: line 1", "no objective of service 'goog'"):
        assert named in told
    assert [job.run for job in history.jobs] == [None, None]


def test_what_people_judged_is_never_written_over(repaired):
    incident, _ = incident_of(repaired)
    path = open_judgement(incident, repaired)
    assert "nobody has written this yet" in path.read_text()
    path.write_text("mine")
    assert open_judgement(incident, repaired).read_text() == "mine"
