"""Incidents of the two services that the kit did not make, with real processes and nothing forged.

The service runs itself and is asked by its own clients through a proxy; its `/metrics` are scraped, its own objectives
are evaluated, and what its declaration names is captured and diagnosed.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from declared import course, example_stage, judged
from helpers import lepton_here, unhurried
from monitors import (
    BEARER,
    alertmanager,
    alertmanager_settings,
    needs_alertmanager,
    needs_prometheus,
    prometheus,
    prometheus_settings,
)
from services import wait_for
from watching import Watching, watching

from lepton_kit.diagnosis.causes import Diagnosis, diagnose
from lepton_kit.ops.faults.base import Fault
from lepton_kit.ops.faults.compute import QueueSaturation
from lepton_kit.ops.faults.data import Scaled
from lepton_kit.ops.faults.model import BadVersion
from lepton_kit.project.settings import REMEDIES_VARIABLE, WATCH_VARIABLE
from lepton_kit.runs.manifest import FILE, Manifest
from lepton_kit.telemetry.recordings import Recording, read_recording

RIGHT, SCALE = "ScoringRightBudgetBurn", 600
COURSE_S = 900.0
"""Of a course with three runbooks on a machine that has other work."""

QUIET = {
    "LEPTON_QUARTO": "none",
    REMEDIES_VARIABLE: "data = { policy = 'auto', parameters = { observe_seconds = 30.0 } }",
}
"""Plain pages, and a repair that starts by itself."""


def findings(diagnosis: Diagnosis) -> dict[str, str]:
    return {one.name: one.finding for one in diagnosis.evidence}


@contextlib.contextmanager
def prometheus_and_alertmanager(project: Path, address: str) -> Iterator[Watching]:
    """Run `lepton watch` with what others scrape, evaluate and post, by the rules that the kit writes."""
    rules = lepton_here("slo", "rules", "--time-scale", str(SCALE), "-o", "rules.yml", project=project)
    assert rules.returncode == 0, rules.stderr
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(prometheus(project, prometheus_settings(project, "scoring", address)))
        settings = {WATCH_VARIABLE: f"time_scale = {SCALE}\nsource = '{source}'\ntoken = 'env:WATCH_TOKEN'"}
        kit = stack.enter_context(watching(project, WATCH_TOKEN=BEARER, **QUIET, **settings))
        manager = stack.enter_context(alertmanager(project, alertmanager_settings(str(kit.client.base_url))))
        # Prometheus must know Alertmanager, which must know the watch, which must know Prometheus: it looks here.
        (project / "managers.json").write_text(json.dumps([{"targets": [manager.removeprefix("http://")]}]))
        yield kit
    assert not (project / "telemetry").exists()


@needs_prometheus
@needs_alertmanager
def test_what_others_watch_is_diagnosed_and_repaired_as_what_the_kit_watches(tmp_path):
    stage = example_stage(tmp_path, "scoring", Scaled(seed=3))  # smoothness
    unhurried(tmp_path / stage.declaration.objectives / "latency.yaml")
    with stage.running() as address, prometheus_and_alertmanager(tmp_path, address) as kit, stage.asked():
        wait_for(lambda: judged(stage) >= 80 and not kit.client.get("/status.json").json()["open"])
        injected = time.time()
        stage.inject()
        incident = wait_for(lambda: looked_back(kit), COURSE_S)
    assert (incident["name"], incident["service"], incident["status"]) == (RIGHT, "scoring", "resolved")
    recording = read_recording(tmp_path / incident["recording"])
    assert recording.requests["actual"].notna().sum() > 50
    assert "scoring_decisions_total" in set(recording.metrics["metric"])
    alert, remedy, postmortem = (
        results_of(tmp_path, next(one for one in incident["runs"] if one["kind"] == kind))
        for kind in ("alert", "remedy", "postmortem")
    )
    assert alert["cause"] == "data" and {*alert["also"]} <= {"compute"}, alert  # a busy machine is slow as well
    assert abs(pd.Timestamp(alert["onset"]).timestamp() - injected) < 15
    assert "smoothness" in next(item.summary for item in diagnose(recording).evidence if item.name == "units")
    assert remedy["verdict"] == "recovered", remedy
    assert "restart_feed" in (tmp_path / "services/scoring/actions.jsonl").read_text()
    assert postmortem["cause"] == "data"
    page = tmp_path / "reports/_site/incidents" / incident["id"] / "index.html"
    assert "smoothness" in page.read_text()


def looked_back(kit: Watching) -> dict[str, Any] | None:
    """Return the incident whose postmortem has ended, once nothing is left to run."""
    status = kit.client.get("/status.json").json()
    if status["queue"]["queued"] or status["queue"]["running"]:
        return None
    known = [*status["recent_incidents"], *status["open_incidents"]]
    ended = {"kind": "postmortem", "state": "ended"}.items()
    return next((one for one in known for job in one["runs"] if ended <= job.items()), None)


def results_of(project: Path, job: dict[str, Any]) -> dict[str, Any]:
    assert job["status"] == "succeeded", job
    return {name: one.value for name, one in Manifest.load(project / "runs" / job["run_id"] / FILE).results.items()}


def checked(recording: Recording) -> tuple[Recording, Diagnosis] | None:
    """Diagnose an incident once each of these could be checked: where the machine is slow, the onset is found late."""
    diagnosis = diagnose(recording)
    found = findings(diagnosis)
    asked = {found[name] for name in ("queue", "saturation", "time_to_first_token")}
    return (recording, diagnosis) if not asked & {"not checked", "not applicable"} else None


def test_a_queue_is_compute_with_queue_saturation_and_first_token_answered(tmp_path):
    with course(tmp_path, "chat", QueueSaturation()) as one:
        one.healthy(80)
        one.scrapes(25)
        one.inject()
        alert = one.alert("ChatFirstTokenBudgetBurn")
        one.scrapes(30)
        recording, diagnosis = one.watch(lambda: checked(one.captured(alert)))
    assert diagnosis.cause == "compute", diagnosis.table().to_string()
    texts = json.dumps(recording.requests.drop(columns="time").astype(str).to_dict("records"))
    assert "question answer" not in texts  # descriptors alone


def test_ratings_that_fall_without_load_are_not_compute(tmp_path):
    with course(tmp_path, "chat", BadVersion()) as one:
        one.healthy(80)
        one.inject()
        alert = one.alert("ChatRatingsBudgetBurn")
        one.judged_since(50)
        recording = one.captured(alert)
    diagnosis = diagnose(recording)
    assert diagnosis.cause != "compute", diagnosis.table().to_string()
    assert abs(diagnosis.onset.timestamp() - one.injected) < 10


class SameVersion(BadVersion):
    """The files of the version in service, under another name."""

    name, cause, description = "same-version", "none", "the same version again"


@pytest.mark.parametrize(("fault", "is_bad"), [(BadVersion(), True), (SameVersion(), False)], ids=["bad", "identical"])
def test_a_bad_version_is_model_by_its_replay_and_an_identical_one_never(fault: Fault, is_bad: bool, tmp_path):
    with course(tmp_path, "scoring", fault) as one:
        models = one.stage.project / "services/scoring/models"
        if not is_bad:
            for name in ("model.skops", "reference.parquet"):
                (models / "v2" / name).write_bytes((models / "v1" / name).read_bytes())
        one.healthy(120)
        one.inject()
        alerts = [one.alert("ScoringRightBudgetBurn")] if is_bad else []
        one.judged_since(150)
        recording: Recording = one.captured(*alerts)
    assert (recording.incident.versions.current, recording.incident.versions.last_good) == ("v2", "v1")
    diagnosis = diagnose(recording)
    told = diagnosis.table().to_string()
    if is_bad:
        assert diagnosis.cause == "model" and diagnosis.probability >= 0.95, told
        assert findings(diagnosis)["replay_of_last_good"] not in ("not checked", "not applicable")
    else:
        assert "model" not in (diagnosis.cause, *diagnosis.also), told
