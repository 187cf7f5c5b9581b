"""One live drill from a healthy service to its postmortem; `make drills` goes through all of them."""

from __future__ import annotations

import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from helpers import copy_project

from lepton_kit.ops import live_drills
from lepton_kit.ops.drill_stages import Served
from lepton_kit.ops.drills import Drill
from lepton_kit.ops.faults import FAULTS, find_fault
from lepton_kit.ops.live_drills import _LiveCourse, _Seen, drill_live
from lepton_kit.runs.manifest import FILE, Manifest


def test_a_bad_version_is_noticed_found_rolled_back_and_looked_back_on(demo_project, tmp_path):
    project = copy_project(tmp_path / "project", "notebooks", "runbooks", "reports", "slo", "subjects")
    shutil.copytree(demo_project / "models", project / "models")
    latency = project / "slo/goog/latency.yaml"  # other tests take cores, and its alert would never end
    assert latency.read_text().count('le="0.1"') == 1
    latency.write_text(latency.read_text().replace('le="0.1"', 'le="2.5"'))
    told: list[str] = []
    [made] = drill_live([Drill("nan-weights", None, 1)], project, FAULTS, told.append)
    assert (made.verdict, made.error) == ("recovered", ""), told
    assert (made.cause, made.also, made.remedy) == ("model", (), "repair-model")
    assert made.detected_after is not None and made.recovered_after is not None
    assert made.extra["postmortem"], told
    postmortem = Manifest.load(Path(made.extra["postmortem"]) / FILE)
    assert postmortem.results["cause"].value == "model"
    assert postmortem.results["time_to_recover_s"].value > 0


class Watch:
    """Stands in for `lepton watch`, whose alerts no test can time: it says what it is told to, answer by answer."""

    def __init__(self, *answers):
        self._answers = list(answers)
        self.client = httpx.Client(base_url="http://watch", transport=httpx.MockTransport(self._answer))

    def _answer(self, _):
        said = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return httpx.Response(503, text="the ledger is busy") if said is None else httpx.Response(200, json=said)


@pytest.fixture
def course(tmp_path, monkeypatch):
    told = []
    for name, seconds in (
        ("HEALTHY_S", 0.6),
        ("HEALTHY_WITHIN_S", 3.0),
        ("ALERT_WITHIN_S", 1.5),
        ("REPAIRED_WITHIN_S", 0.5),
    ):
        monkeypatch.setattr(live_drills, name, seconds)
    made = _LiveCourse(Drill("nulls", None, 1), Served(tmp_path, find_fault("nulls"), "goog", 1), told.append)
    made.told = told
    return made


def test_a_fault_waits_until_no_alert_has_fired_for_a_while(course):
    began = time.monotonic()
    assert course._is_healthy(Watch({"open": 1}, None, {"open": 0}).client)
    assert time.monotonic() - began >= 0.5 + live_drills.HEALTHY_S  # since the second look, which had no answer
    assert any("an alert fires before anything was done" in line for line in course.told)
    assert any("503: the ledger is busy" in line for line in course.told)


def test_a_service_that_is_never_healthy_is_not_harmed(course):
    assert not course._is_healthy(Watch({"open": 1}).client)


def test_an_incident_from_before_the_fault_is_not_its_alert(course):
    def incident(name, starts_at):
        return {"name": name, "starts_at": starts_at, "severity": "page", "summary": "it burns", "runs": []}

    old = incident("Old", datetime.now(UTC).isoformat())
    time.sleep(0.01)
    course._strike()
    seen = _Seen()
    course._follow(Watch(None, {"recent_incidents": [old], "open_incidents": []}).client, seen)
    assert seen.alerted is None
    course._strike()
    time.sleep(0.01)
    new = incident("New", datetime.now(UTC).isoformat())
    course._follow(Watch({"recent_incidents": [old], "open_incidents": [new]}).client, seen)
    assert seen.alert == "New"
