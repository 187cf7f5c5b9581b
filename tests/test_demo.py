"""The whole chain with real processes: service, load, fault, alert, evidence, diagnosis, page."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from helpers import copy_project, lepton, unhurried
from monitors import free_port
from services import project_with_model

from lepton_kit.diagnosis.causes import diagnose
from lepton_kit.ops.watch.queue import Queue
from lepton_kit.runs.manifest import Manifest, all_runs
from lepton_kit.telemetry.recordings import read_recording

pytestmark = pytest.mark.alone
FRESHNESS = "GoogFreshnessBudgetBurn"


@pytest.fixture
def whole_project(project: Path) -> Path:
    """A project with a promoted model, and this repository's settings, objectives, runbook and report site."""
    project_with_model(project)
    copy_project(project, "slo", "runbooks", "reports", "subjects")
    for service in ("slo/goog", "subjects/scoring/slo"):
        unhurried(project / service / "latency.yaml")
    beside = project / "subjects/scoring/declaration.toml"
    beside.write_text(beside.read_text().replace("8200", str(free_port())))
    return project


def test_feeds_that_go_wrong_are_alerted_diagnosed_repaired_and_published_by_the_kit_alone(whole_project):
    made = lepton("demo", project=whole_project)
    assert made.returncode == 0, made.stdout + made.stderr
    run = diagnosis_of_freshness(whole_project)
    assert_is_of_data(run)
    assert "Incident diagnosis" in (whole_project / "reports/_site/runs" / run.run_id / "index.html").read_text()
    assert not (whole_project / "incidents/address").exists()
    assert not (whole_project / "services/goog/address").exists()
    queue = Queue(whole_project)
    assert queue.open_incidents() == 0
    for service, line in zip(("goog", "scoring"), made.stdout.splitlines()[-2:], strict=True):
        assert f"{service}: approved by this demonstration" in made.stdout
        link = line.partition(f"incident of {service}: ")[2]
        incident = Path(link.removeprefix("file://"))
        assert queue.find(incident.parent.name).service == service
        assert "lepton demo" in incident.read_text()  # who let the repair run
        kinds = {job.kind for job in queue.jobs(50, incident=incident.parent.name) if job.status == "succeeded"}
        assert kinds >= {"alert", "remedy", "postmortem"}
    assert_is_of_the_column(whole_project, incident)


def assert_is_of_the_column(project: Path, page: Path) -> None:
    """Check what was captured and found of scoring's column, which was ten times too large, and what was done."""
    known = Queue(project).find(page.parent.name)
    recording = read_recording(project / known.recording)
    assert recording.requests["actual"].notna().sum() > 50
    assert "scoring_decisions_total" in set(recording.metrics["metric"])
    diagnosis = diagnose(recording)
    assert diagnosis.cause == "data", diagnosis.table().to_string()
    began = pd.Timestamp(known.starts_at)
    assert abs((diagnosis.onset - began).total_seconds()) < 30  # the alert comes seconds after its fault
    assert "smoothness" in next(item.summary for item in diagnosis.evidence if item.name == "units")
    assert "restart_feed" in (project / "services/scoring/actions.jsonl").read_text()
    assert "smoothness" in page.read_text()


def diagnosis_of_freshness(project: Path) -> Manifest:
    return next(run for run in all_runs(project) if run.trigger == f"alert:{FRESHNESS}")


def assert_is_of_data(run: Manifest) -> None:
    """Check that the data's fault was found; on a busy machine requests are slow as well, and that is a second one."""
    named = {run.results["cause"].value, *run.results["also"].value}
    assert "data" in named <= {"data", "compute"}, run.results["summaries"].value
