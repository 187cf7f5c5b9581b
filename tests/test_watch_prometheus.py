"""Real Prometheus and Alertmanager in front of `lepton watch`: what they say starts runbooks."""

from __future__ import annotations

import contextlib
import time

import httpx
import yaml
from helpers import write_notebook
from monitors import alertmanager, metrics_target, needs_alertmanager, needs_prometheus, prometheus
from services import wait_for
from watching import watching

from lepton_kit.runs.manifest import all_runs
from lepton_kit.telemetry.alerts import prometheus_rules
from lepton_kit.telemetry.slo import read_objectives

TOKEN = "a bearer's secret"
SETTINGS = """
[watch]
token = "env:WATCH_TOKEN"
workers = 1
report = false

[alerts.GoogErrorsBudgetBurn]
runbook = "runbooks/diagnose.ipynb"
parameters = { severity = { label = "severity" } }
on_resolved = "runbooks/recovery.ipynb"
severities = ["page"]
"""
OBJECTIVE = """
apiVersion: openslo/v1
kind: SLO
metadata: {name: goog-errors, displayName: Error rate, annotations: {lepton-kit/minimum-events: "5"}}
spec:
  service: goog
  description: Requests that were not refused.
  budgetingMethod: Occurrences
  indicator:
    metadata: {name: goog-errors}
    spec:
      ratioMetric:
        counter: true
        bad: {metricSource: {type: Prometheus, spec: {query: 'bad_total'}}}
        total: {metricSource: {type: Prometheus, spec: {query: 'all_total'}}}
  timeWindow: [{duration: 28d, isRolling: true}]
  objectives: [{target: 0.99}]
"""


def watched_project(project, more=""):
    (project / "lepton.toml").write_text(SETTINGS + more)
    write_notebook(project / "runbooks/diagnose.ipynb", ["1"], "severity: str = ''")
    write_notebook(project / "runbooks/recovery.ipynb", ["1"])
    (project / "slo").mkdir()
    (project / "slo/errors.yaml").write_text(OBJECTIVE)
    return project


def receiver(kit):
    """Return the configuration of an Alertmanager that posts to the watch."""
    hook = {
        "url": f"{str(kit.client.base_url).rstrip('/')}/alerts",
        "http_config": {"authorization": {"credentials": TOKEN}},
    }
    route = {"receiver": "lepton", "group_wait": "0s", "group_interval": "1s", "repeat_interval": "1h"}
    return {"route": route, "receivers": [{"name": "lepton", "webhook_configs": [hook]}]}


def rfc3339(seconds):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


@needs_alertmanager
def test_an_alert_of_alertmanager_starts_the_runbook_and_its_end_the_recovery_check(project):
    watched_project(project)
    with watching(project, WATCH_TOKEN=TOKEN) as kit, alertmanager(project, receiver(kit)) as address:
        labels = {"alertname": "GoogErrorsBudgetBurn", "service": "goog", "severity": "page"}
        firing = {"labels": labels, "annotations": {"summary": "really"}, "startsAt": rfc3339(time.time() - 60)}
        assert httpx.post(f"{address}/api/v2/alerts", json=[firing]).status_code == 200
        kit.ended(1)
        ended = {**firing, "endsAt": rfc3339(time.time() - 1)}
        assert httpx.post(f"{address}/api/v2/alerts", json=[ended]).status_code == 200
        jobs = kit.ended(2)
        [incident] = kit.queue.incidents()
    assert [(job.kind, job.status) for job in jobs] == [("alert", "succeeded"), ("recovery", "succeeded")]
    assert (incident.status, incident.origin, incident.alert["annotations"]) == (
        "resolved", "webhook", {"summary": "really"},
    )  # fmt: skip


@needs_prometheus
@needs_alertmanager
def test_a_burning_budget_fires_in_prometheus_and_starts_the_runbook_whose_watch_reads_the_same_prometheus(project):
    with contextlib.ExitStack() as stack:
        target = stack.enter_context(metrics_target())
        watched_project(project)
        # The watch must know Prometheus' address and Alertmanager the watch's, so Prometheus gets its own first.
        rules = prometheus_rules(read_objectives(project / "slo"), "http://127.0.0.1/{alert}", time_scale=600)
        (project / "rules.yml").write_text(rules)
        first = stack.enter_context(watching(project, WATCH_TOKEN=TOKEN))
        manager = stack.enter_context(alertmanager(project, receiver(first)))
        config = yaml.safe_load(
            f"""
            global: {{scrape_interval: 250ms, evaluation_interval: 1s}}
            rule_files: [{project / "rules.yml"}]
            scrape_configs: [{{job_name: goog, static_configs: [{{targets: ["{target.instance}"]}}]}}]
            alerting: {{alertmanagers: [{{static_configs: [{{targets: ["{manager.removeprefix("http://")}"]}}]}}]}}
            """
        )
        server = stack.enter_context(prometheus(project, config))
        began = time.monotonic()

        def fired():
            grown = (time.monotonic() - began) * 20
            target.text = (
                f"# TYPE bad_total counter\nbad_total {grown / 2}\n# TYPE all_total counter\nall_total {grown}\n"
            )
            return [job for job in first.queue.jobs() if job.state in ("ended", "refused")]

        [job] = wait_for(fired)
        assert (job.status, job.parameters) == ("succeeded", {"severity": "page"})
        assert all_runs(project)[0].trigger == "alert:GoogErrorsBudgetBurn"

        more = f'\n[services.goog]\nmodel = "goog"\naddress = "{target.address}"\n'
        text = SETTINGS.replace("[watch]", f'[watch]\nsource = "{server}"\ntime_scale = 600')
        (project / "lepton.toml").write_text(text + more)
        second = stack.enter_context(watching(project, WATCH_TOKEN=TOKEN))

        def spent():
            fired()
            said = second.client.get("/status.json").json()
            return said["services"][0]["budgets"] and said

        said = wait_for(spent)
        assert said["services"][0]["budgets"][0]["left"] < 0
        assert said["problems"] == {}
        assert {incident.origin for incident in second.queue.incidents()} == {"webhook"}  # none is raised twice
        assert not (project / "telemetry").exists()
