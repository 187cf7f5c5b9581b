"""The whole chain with real processes: service, load, fault, alert, evidence, diagnosis, page."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from helpers import copy_project, lepton
from monitors import (
    BEARER,
    alertmanager,
    alertmanager_settings,
    free_port,
    needs_alertmanager,
    needs_prometheus,
    prometheus,
    prometheus_settings,
)
from services import project_with_model, serving, wait_for
from watching import watching

from lepton_kit.ops.load import Injection, drive, find_arrivals
from lepton_kit.ops.watch.queue import Queue
from lepton_kit.project.settings import WATCH_VARIABLE
from lepton_kit.runs.manifest import Manifest, all_runs
from lepton_kit.serving.replay import Plan
from lepton_kit.telemetry.rules import prometheus_rules
from lepton_kit.telemetry.slo import read_objectives

FRESHNESS = "GoogFreshnessBudgetBurn"
LIMIT_S, SLOWEST_S = "0.1", "2.5"  # buckets of the latency's histogram
SCALE = 600
WATCH = f"time_scale = {SCALE}\ntoken = 'env:WATCH_TOKEN'\nsource = '{{source}}'\n"


@pytest.fixture
def whole_project(project: Path) -> Path:
    """A project with a promoted model, and this repository's settings, objectives, runbook and report site."""
    project_with_model(project)
    copy_project(project, "slo", "runbooks", "reports", "subjects")
    slow = project / "slo/goog/latency.yaml"  # other tests take cores: how fast answers come is not what is tested here
    slow.write_text(slow.read_text().replace(f'le="{LIMIT_S}"', f'le="{SLOWEST_S}"'))
    slow = project / "subjects/scoring/slo/latency.yaml"
    slow.write_text(slow.read_text().replace('le="0.5"', 'le="10.0"'))
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
        kinds = {job.kind for job in queue.jobs(50, incident.parent.name) if job.status == "succeeded"}
        assert kinds >= {"alert", "remedy", "postmortem"}


@needs_prometheus
@needs_alertmanager
def test_the_same_with_prometheus_and_alertmanager_in_place_of_the_embedded_store_and_evaluator(whole_project):
    project = whole_project
    (project / "rules.yml").write_text(
        prometheus_rules(read_objectives(project / "slo/goog"), "http://127.0.0.1", SCALE)
    )
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(serving(project, "--workers", "2", "--fresh-for", "4"))
        source = stack.enter_context(
            prometheus(project, prometheus_settings(project, "goog", str(service.client.base_url)))
        )
        settings = {WATCH_VARIABLE: WATCH.format(source=source), "WATCH_TOKEN": BEARER}
        kit = stack.enter_context(watching(project, **settings))
        manager = stack.enter_context(alertmanager(project, alertmanager_settings(str(kit.client.base_url))))
        # Prometheus must know Alertmanager, which must know the watch, which must know Prometheus: it looks here.
        (project / "managers.json").write_text(json.dumps([{"targets": [manager.removeprefix("http://")]}]))
        plan = Plan(find_arrivals(project, 0, rate=25.0), 30.0, 10_000, feedback_after=1.0)
        drive("goog", project, plan, injection=Injection("stale-feed", 12.0))
        # On a busy machine another objective may burn as well, and have too few requests to be diagnosed.
        jobs = wait_for(lambda: [job for job in kit.queue.jobs() if job.name == FRESHNESS and job.state == "ended"])
        assert {job.status for job in jobs} == {"succeeded"}

        def pages():
            shown = [one["page"] for one in kit.client.get("/status.json").json()["runs"] if one["page"]]
            return [page for page in shown if "incident-diagnosis" in page]  # a repair may have rehearsed since

        assert "Incident diagnosis" in kit.client.get(wait_for(pages)[0]).text
    run = diagnosis_of_freshness(project)
    assert_is_of_data(run)
    assert not (project / "telemetry").exists()


def diagnosis_of_freshness(project: Path) -> Manifest:
    return next(run for run in all_runs(project) if run.trigger == f"alert:{FRESHNESS}")


def assert_is_of_data(run: Manifest) -> None:
    """Check that the data's fault was found; on a busy machine requests are slow as well, and that is a second one."""
    named = {run.results["cause"].value, *run.results["also"].value}
    assert "data" in named <= {"data", "compute"}, run.results["summaries"].value
