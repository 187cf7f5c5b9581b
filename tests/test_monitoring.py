"""The monitoring folder: real servers take its files, and the dashboard asks for what exists."""

import json
import re
import subprocess
import time
from datetime import UTC, datetime, timedelta

import httpx
import pytest
import yaml
from helpers import ROOT, copy_folders, lepton_here
from monitors import alertmanager, metrics_target, needs_alertmanager, needs_prometheus, prometheus
from services import project_with_model, row, serving, wait_for

from lepton_kit.serving.metrics import ServiceMetrics
from lepton_kit.telemetry.slo import read_objectives

FOLDER = ROOT / "monitoring"
PROMETHEUS_OWN = {"up", "ALERTS"}
SUFFIXES = {
    "counter": ("_total",),
    "histogram": ("_bucket", "_sum", "_count"),
    "gauge": ("",),
    "summary": ("_sum", "_count"),
}
WORDS = {"by", "or", "and", "ignoring", "group_left", "vector"}


def dashboard():
    return json.loads((FOLDER / "grafana/dashboards/lepton.json").read_text())


def queries():
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"].replace("$__rate_interval", "1m").replace("$job", "goog")


def metrics_of(query):
    """Return the names in a query that are neither functions, nor words of PromQL, nor labels."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]|\b(by|ignoring|group_left)\s*\([^)]*\)', " ", query)
    return {name for name in re.findall(r"[a-zA-Z_:][\w:]*(?![\w:]*\s*\()", bare) if name not in WORDS}


def service_metrics():
    return {
        f"{family.name}{suffix}" for family in ServiceMetrics().registry.collect() for suffix in SUFFIXES[family.type]
    }


def rules():
    groups = yaml.safe_load((FOLDER / "rules/objectives.yml").read_text())["groups"]
    return {rule["record"] for group in groups for rule in group["rules"] if "record" in rule}


def test_the_committed_rules_are_those_of_the_objectives(own_project):
    made = lepton_here("slo", "rules", project=own_project)
    assert made.returncode == 0, made.stderr
    assert (FOLDER / "rules/objectives.yml").read_text() == made.stdout, (
        "run `lepton slo rules -o monitoring/rules/objectives.yml`"
    )


@needs_prometheus
@needs_alertmanager
@pytest.mark.parametrize(
    "words",
    [("promtool", "check", "config", "prometheus.yml"), ("amtool", "check-config", "alertmanager.yml")],
    ids=["prometheus", "alertmanager"],
)
def test_the_configuration_is_valid(words):
    checked = subprocess.run(words, cwd=FOLDER, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_alerts_get_no_label_that_the_embedded_evaluator_does_not_give():
    assert "external_labels" not in yaml.safe_load((FOLDER / "prometheus.yml").read_text())["global"]


def test_every_metric_of_the_dashboard_exists():
    known = service_metrics() | rules() | PROMETHEUS_OWN
    asked = {metric for _, query in queries() for metric in metrics_of(query)}
    assert asked <= known, asked - known
    assert {"up", "lepton_forecast_actuals_total", "slo:error_budget:left"} <= asked
    assert {"lepton_mended_rows_total", "lepton_quarantined_rows_total"} <= asked
    assert metrics_of('sum by (le) (rate(a_b{c="d"}[5m])) / ignoring (x) group_left () up or vector(0)') == {
        "a_b",
        "up",
    }


def test_the_dashboard_has_what_grafana_needs():
    board = dashboard()
    (source,) = yaml.safe_load((FOLDER / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((FOLDER / "grafana/provisioning/dashboards/lepton.yml").read_text())["providers"]
    assert provider["options"]["path"] == "$LEPTON_MONITORING/grafana/dashboards"
    assert provider["type"] == "file"
    wanted = {"type": source["type"], "uid": source["uid"]}
    assert board["uid"] == "lepton-kit"
    assert board["schemaVersion"] >= 36  # datasources are objects since
    assert "id" not in board  # Grafana gives one
    panels = board["panels"]
    assert [panel["title"] for panel in panels if panel["type"] == "row"] == ["Service", "Model", "Data", "SLO budget"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert board["templating"]["list"][0]["datasource"] == wanted
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies upon another panel"
        assert max(x for x, _ in cells) < 24
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"] == wanted
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert all(target["datasource"] == wanted and target["refId"] for target in panel["targets"])


@needs_prometheus
def test_prometheus_started_from_the_folder_loads_the_rules_and_answers_every_query_of_the_dashboard(tmp_path):
    copy_folders(tmp_path, "monitoring")
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    with metrics_target() as target:
        target.text = "lepton_input_rows_total 5\n"
        config["scrape_configs"][0]["static_configs"][0]["targets"] = [target.instance]
        config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = ["127.0.0.1:1"]
        with prometheus(tmp_path / "monitoring", config) as address, httpx.Client(base_url=address) as client:
            groups = client.get("/api/v1/rules").json()["data"]["groups"]
            assert {group["name"] for group in groups} == {
                f"slo-{one.name}" for one in read_objectives(ROOT / "slo/goog")
            }
            for _, query in queries():
                asked(client, query)


@needs_alertmanager
def test_alertmanager_started_from_the_folder_sends_an_alert_with_the_token(tmp_path):
    copy_folders(tmp_path, "monitoring")
    (tmp_path / "monitoring/webhook-token").write_text("open sesame")
    config = yaml.safe_load((FOLDER / "alertmanager.yml").read_text())
    config["route"]["group_wait"] = "0s"
    received = []

    def do_post(request):
        received.append((request.path, request.headers["Authorization"]))
        request.send_response(202)
        request.end_headers()

    with metrics_target() as hook:
        hook.server.RequestHandlerClass.do_POST = do_post
        webhook = config["receivers"][0]["webhook_configs"][0]
        assert webhook["url"] == "http://127.0.0.1:8088/alerts"
        webhook["url"] = f"{hook.address}/alerts"
        with alertmanager(tmp_path / "monitoring", config) as address:
            ends = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
            alert = {"labels": {"alertname": "GoogLatencyBudgetBurn", "service": "goog"}, "endsAt": ends}
            assert httpx.post(f"{address}/api/v2/alerts", json=[alert]).status_code == 200
            assert wait_for(lambda: received) == [("/alerts", "Bearer open sesame")]


def test_the_commands_of_the_readme_name_files_that_are_there():
    text = (FOLDER / "README.md").read_text()
    named = set(re.findall(r"monitoring/([\w./-]+)", text))
    made_there = {"webhook-token", "data/prometheus", "data/alertmanager", "data/grafana"}
    assert made_there <= named
    assert {name for name in named - made_there if not (FOLDER / name).exists()} == set()
    ignored = (ROOT / ".gitignore").read_text().split()
    assert {"/monitoring/webhook-token", "/monitoring/data/"} <= set(ignored)


@needs_prometheus
def test_every_panel_shows_something_of_a_real_service(tmp_path, own_project):
    project = project_with_model(tmp_path / "project")
    (tmp_path / "rules").mkdir()
    rules_file = str(tmp_path / "rules/objectives.yml")
    made = lepton_here("slo", "rules", "--time-scale", "600", "-o", rules_file, project=own_project)
    assert made.returncode == 0, made.stderr
    with serving(project) as service:
        config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "500ms", "scrape_timeout": "500ms"}
        config["scrape_configs"][0]["static_configs"][0]["targets"] = [service.client.base_url.netloc.decode()]
        config.pop("alerting")
        with prometheus(tmp_path, config) as address, httpx.Client(base_url=address) as client:

            def empty():
                for _ in range(5):
                    use(service)
                return {title for title, query in queries() if not any(map(is_number, asked(client, query)))}

            try:
                wait_for(lambda: empty() <= {"Alerts firing"})
            except AssertionError:
                raise AssertionError(f"panels without data: {empty()}") from None


def use(service):
    """Ask for forecasts, rightly and wrongly, and tell what came true."""
    answer = service.predict(row=row(), as_of=time.time()).json()
    service.client.post("/v1/feedback", json={"request_id": answer["request_id"], "actual": 0.001, "rating": 4})
    service.predict(row={**row(), "unseen": 1.0})
    service.predict(row={})


def asked(client, query):
    answer = client.get("/api/v1/query", params={"query": query}).json()
    assert answer["status"] == "success", answer
    return answer["data"]["result"]


def is_number(sample):
    return sample["value"][1] != "NaN"
