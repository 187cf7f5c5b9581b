"""The whole chain with real processes: service, load, fault, alert, evidence, diagnosis, page."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from helpers import copy_project, lepton, unhurried
from monitors import alertmanager, needs_alertmanager, needs_prometheus, prometheus
from services import Service, project_with_model, serving, wait_for
from watching import Watching, watching

from lepton_kit.ops.load import Injection, drive, find_arrivals
from lepton_kit.ops.watch.queue import Queue
from lepton_kit.project.settings import WATCH_VARIABLE
from lepton_kit.runs.manifest import Manifest, all_runs
from lepton_kit.serving.replay import Plan
from lepton_kit.telemetry.rules import prometheus_rules
from lepton_kit.telemetry.slo import read_objectives

FRESHNESS = "GoogFreshnessBudgetBurn"
SCALE, BEARER = 600, "a bearer's secret"
WATCH = f"time_scale = {SCALE}\ntoken = 'env:WATCH_TOKEN'\nsource = '{{source}}'\n"


@pytest.fixture
def whole_project(project: Path) -> Path:
    """A project with a promoted model, and this repository's settings, objectives, runbook and report site."""
    project_with_model(project)
    copy_project(project, "slo", "runbooks", "reports")
    return unhurried(project)


def test_a_feed_that_stops_is_alerted_diagnosed_and_published_by_the_kit_alone(whole_project):
    made = lepton("demo", project=whole_project)
    assert made.returncode == 0, made.stdout + made.stderr
    run = diagnosis_of_freshness(whole_project)
    assert_is_of_data(run)
    page = whole_project / "reports/_site/runs" / run.run_id / "index.html"
    assert "Incident diagnosis" in page.read_text()
    assert not (whole_project / "incidents/address").exists()
    assert not (whole_project / "services/goog/address").exists()
    assert "approved by this demonstration" in made.stdout
    assert Queue(whole_project).open_incidents() == 0
    link = made.stdout.splitlines()[-1].partition("incident page: ")[2]
    incident = Path(link.removeprefix("file://"))
    assert incident.parent.name == Queue(whole_project).find(incident.parent.name).id
    assert "lepton demo" in incident.read_text()  # who let the repair run
    kinds = {job.kind for job in Queue(whole_project).jobs(50, incident.parent.name) if job.status == "succeeded"}
    assert kinds >= {"alert", "remedy", "postmortem"}


@needs_prometheus
@needs_alertmanager
def test_the_same_with_prometheus_and_alertmanager_in_place_of_the_embedded_store_and_evaluator(whole_project):
    project = whole_project
    (project / "rules.yml").write_text(prometheus_rules(read_objectives(project / "slo"), "http://127.0.0.1", SCALE))
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(serving(project, "--workers", "2", "--fresh-for", "4"))
        source = stack.enter_context(prometheus(project, prometheus_settings(project, service)))
        settings = {WATCH_VARIABLE: WATCH.format(source=source), "WATCH_TOKEN": BEARER}
        kit = stack.enter_context(watching(project, **settings))
        manager = stack.enter_context(alertmanager(project, alertmanager_settings(kit)))
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


def prometheus_settings(project: Path, service: Service) -> dict[str, Any]:
    target = str(service.client.base_url).rstrip("/").removeprefix("http://")
    return {
        "global": {"scrape_interval": "250ms", "evaluation_interval": "1s"},
        "rule_files": [str(project / "rules.yml")],
        "scrape_configs": [{"job_name": "goog", "static_configs": [{"targets": [target]}]}],
        "alerting": {
            "alertmanagers": [
                {"file_sd_configs": [{"files": [str(project / "managers.json")], "refresh_interval": "1s"}]}
            ]
        },
    }


def alertmanager_settings(kit: Watching) -> dict[str, Any]:
    url = f"{str(kit.client.base_url).rstrip('/')}/alerts"
    hook = {"url": url, "http_config": {"authorization": {"credentials": BEARER}}}
    route = {"receiver": "lepton", "group_wait": "0s", "group_interval": "1s", "repeat_interval": "1h"}
    return {"route": route, "receivers": [{"name": "lepton", "webhook_configs": [hook]}]}
