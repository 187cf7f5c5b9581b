"""The cheapest check that could change an incident's verdict, and looking again."""

import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import lepton_here
from repairs import Everything
from watching import alert

from lepton_kit.diagnosis.causes import diagnose
from lepton_kit.diagnosis.evidence.base import NEEDS
from lepton_kit.diagnosis.sensitivity import Check
from lepton_kit.errors import InputError
from lepton_kit.ops.check_next import next_check, run_check
from lepton_kit.ops.watch.evidence import freeze_alert
from lepton_kit.ops.watch.queue import Queue
from lepton_kit.ops.watch.webhook import Alert
from lepton_kit.project.settings import read_settings
from lepton_kit.telemetry.recordings import read_recording

SETTINGS = """
[services.demo]
task = "classification_binary"
requests = { path = "log.jsonl" }
objectives = "slo"

[services.demo.columns]
timestamp = "ts"
id = "id"
version = "version"
status = "status"
latency_ms = "ms"
features = ["a", "b"]
prediction_probas = "score"

[watch]
evidence_hours = 1
"""
STARTS = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=30)


def log(project, first, last, fails_from=None):
    """Write a request each 10 s between two minutes of the alert's start; from a minute on all are slow."""
    rng, rows = np.random.default_rng(0), []
    for number, second in enumerate(range(first * 60, last * 60, 10)):
        is_slow = fails_from is not None and second >= fails_from * 60
        a, b = rng.normal(size=2).round(3).tolist()
        rows.append({
            "ts": (STARTS + timedelta(seconds=second)).isoformat(), "id": f"{second}", "version": "v1", "status": 200,
            "ms": 900.0 if is_slow else 20.0 + number % 3, "a": a, "b": b, "score": 0.5,
        })  # fmt: skip
    with (project / "log.jsonl").open("a") as file:
        file.writelines(json.dumps(one) + "\n" for one in rows)


@pytest.fixture
def incident(tmp_path):
    """An incident of a service whose log holds a few requests before its alert, and some since."""
    (tmp_path / "lepton.toml").write_text(SETTINGS)
    log(tmp_path, -2, 8, fails_from=1)
    queue = Queue(tmp_path)
    queue.receive(
        [Alert.model_validate(alert(1, starts=f"{STARTS:%Y-%m-%dT%H:%M:%SZ}", service="demo"))], "w", Everything()
    )
    found = queue.incidents(1)[0]
    freeze_alert(found, read_settings(tmp_path), tmp_path)
    return found, tmp_path


def test_a_check_that_the_declaration_does_not_allow_names_the_entries_and_the_exact_command(incident):
    found, project = incident
    made = next_check(found, read_settings(project), project)
    assert made.way == "declare"
    assert made.entries
    assert all(one.startswith("services.demo.") for one in made.entries)
    assert made.command == f"lepton check-next {found.id} --run"
    assert made.parameters_of == ""
    assert [one.cause for one in made.flips]
    assert all(one.cause != made.cause for one in made.flips)


def test_what_the_kit_can_do_by_itself_captures_a_longer_window_and_diagnoses_it(incident):
    found, project = incident
    log(project, -80, -2)  # what was already there before the window
    log(project, 8, 25, fails_from=1)  # what has come since
    settings = read_settings(project)
    made = next_check(found, settings, project)
    assert made.by_itself is not None, made
    again = run_check(made, found, settings, project).again
    assert (project / again.recording / "incident.json").is_file()
    assert again.is_changed == (again.cause != made.cause)
    assert again.recording.endswith("recording-longer-1")


@pytest.mark.parametrize(
    ("lacks", "entries"),
    [
        (("objectives",), ("services.demo.objectives (files in slo)",)),
        (("requests.target",), ("services.demo.labels or columns.target",)),
        (("requests",), ()),
    ],
)
def test_what_a_person_must_add_is_named_and_alternatives_are_told_as_such(incident, monkeypatch, lacks, entries):
    found, project = incident
    check = Check("asked", "why", lacks, "other", 10.0, "data")
    monkeypatch.setattr("lepton_kit.ops.check_next.checks", lambda diagnosis: (check,))
    made = next_check(found, read_settings(project), project)
    assert (made.entries, made.way) == (entries, "declare" if entries else "look again")
    assert (made.by_itself is None) == bool(entries)


def test_a_service_without_objectives_is_told_so_and_not_by_an_empty_list(incident):
    found, project = incident
    case = diagnose(read_recording(project / "incidents" / found.id / "recording")).case
    assert NEEDS["objectives"].lacking(case) == "the recording holds no objective of the service"


def test_the_parameters_of_the_recorded_diagnosis_are_taken(incident, monkeypatch):
    found, project = incident
    queue, run = Queue(project), SimpleNamespace(run_id="looked", parameters={"alpha": 0.2, "promise": 0.0, "other": 1})
    queue.end(queue.take(), "looked", "succeeded")
    monkeypatch.setattr("lepton_kit.ops.check_next.Manifest.load", lambda path: run)
    taken = []

    def diagnosed(recording, criteria=None, likelihoods=None):
        taken.append(criteria)
        return diagnose(recording, criteria, likelihoods)

    monkeypatch.setattr("lepton_kit.ops.check_next.diagnose", diagnosed)
    made = next_check(found, read_settings(project), project)
    assert made.parameters_of == "looked"
    assert [(one.alpha, one.promise) for one in taken] == [(0.2, None)]


def test_an_incident_without_a_recording_says_so(incident):
    found, project = incident
    (project / "incidents" / found.id / "recording").rename(project / "elsewhere")
    with pytest.raises(InputError, match="has no recording in"):
        next_check(found, read_settings(project), project)


def test_the_command_prints_the_fields_as_json(incident):
    found, project = incident
    printed = lepton_here("check-next", found.id, "--json", project=project)
    assert printed.returncode == 0, printed.stderr
    made = next_check(found, read_settings(project), project)
    assert json.loads(printed.stdout) == json.loads(json.dumps(asdict(made)))
    words = lepton_here("check-next", found.id, project=project).stdout
    assert made.check.question in words
