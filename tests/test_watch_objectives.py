"""What is measured of two services that share a source, and what is said of what is not."""

from __future__ import annotations

import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs

import pytest
import yaml
from bs4 import BeautifulSoup
from helpers import lepton, lepton_here, listening, write_notebook
from monitors import metrics_target, needs_prometheus, prometheus
from services import wait_for
from watching import alert, watching, webhook

from lepton_kit.errors import InputError
from lepton_kit.ops.watch.objectives import declared_objectives, own_series, read_all_objectives, without_service
from lepton_kit.ops.watch.observer import Observer
from lepton_kit.ops.watch.page import status_page
from lepton_kit.ops.watch.queue import Queue
from lepton_kit.project.settings import read_settings
from lepton_kit.runs.manifest import all_runs
from lepton_kit.telemetry.prometheus import Prometheus
from lepton_kit.telemetry.store import Sample, Store

SETTINGS = """
[services.shop]
model = "none"
objectives = "slo/shop"
address = "http://127.0.0.1:9"

[services.scoring]
model = "none"
objectives = "slo/scoring"
address = "http://127.0.0.1:9"
match = { app = "scores", env = "prod" }

[watch]
workers = 0
report = false
"""
OBJECTIVE = """
apiVersion: openslo/v1
kind: SLO
metadata: {{name: {name}}}
spec:
  service: {service}
  budgetingMethod: Occurrences
  indicator:
    spec:
      ratioMetric:
        counter: true
        bad: {{metricSource: {{spec: {{query: '{metric}{{code="500"}}'}}}}}}
        total: {{metricSource: {{spec: {{query: '{metric}'}}}}}}
  timeWindow: [{{duration: 28d, isRolling: true}}]
  objectives: [{{target: 0.99}}]
"""


def objective(project, folder, service, name="answers", metric="requests_total"):
    path = project / folder / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(OBJECTIVE.format(name=name, service=service, metric=metric))


@pytest.fixture
def two(project):
    """A project with two services, whose objectives are called alike, and one of a service that nobody knows."""
    (project / "lepton.toml").write_text(SETTINGS)
    for service in ("shop", "scoring"):
        objective(project, f"slo/{service}", service)
    return project


def samples(labels, share):
    """An hour of requests of which a share fails."""
    now = time.time()
    for code, pace in (("200", 1 - share), ("500", share)):
        for number in range(241):
            yield Sample("requests_total", {**labels, "code": code}, now - 3600 + 15 * number, 100 * pace * number)


def fill(store):
    store.append(samples({"job": "shop"}, 0.0))
    store.append(samples({"job": "x", "app": "scores", "env": "prod"}, 0.5))
    store.append(samples({"job": "x", "app": "scores", "env": "test"}, 1.0))
    store.flush()


def what_is_not_measured(kit):
    """Wait until it is known what is not measured, and return the status as it is said after that."""
    wait_for(lambda: kit.client.get("/status.json").json()["not_measured"])
    return kit.client.get("/status.json").json()


def test_the_samples_of_two_services_never_mix(two):
    with Store(two / "telemetry") as store:
        fill(store)
    shown = lepton_here("slo", "status", project=two)
    assert shown.returncode == 0, shown.stderr
    rows = {line.split()[1]: line for line in shown.stdout.splitlines() if line.startswith("answers")}
    assert "100.0%" in rows["shop"]
    assert "page, ticket" in rows["scoring"]
    assert " 50 " in rows["scoring"]  # half of its requests, and none of the other environment
    assert "not measured" not in shown.stdout


def test_the_alerts_are_those_of_the_service_whose_requests_fail(two):
    with Store(two / "telemetry") as store:
        fill(store)
    with watching(two) as kit:
        fired = wait_for(lambda: kit.queue.incidents(10, status="firing"))
    assert {one.service for one in fired} == {"scoring"}


@needs_prometheus
def test_rules_of_two_services_with_objectives_of_one_name_do_not_mix_in_prometheus(two):
    (two / "rules").mkdir()
    made = lepton_here("slo", "rules", "--time-scale", "600", "-o", str(two / "rules/objectives.yml"), project=two)
    assert made.returncode == 0, made.stderr
    began = time.monotonic()

    def answer(share):
        def answer_one(request):
            grown = (time.monotonic() - began) * 100
            text = f'requests_total{{code="200"}} {grown * (1 - share)}\nrequests_total{{code="500"}} {grown * share}\n'
            request.send_response(200)
            request.send_header("Content-Type", "text/plain; version=0.0.4")
            request.end_headers()
            request.wfile.write(text.encode())

        return answer_one

    with metrics_target() as sound, metrics_target() as failing:
        sound.answer, failing.answer = answer(0.0), answer(0.5)
        config = {
            "global": {"scrape_interval": "250ms", "evaluation_interval": "1s"},
            "rule_files": ["rules/*.yml"],
            "scrape_configs": [
                {"job_name": "shop", "static_configs": [{"targets": [sound.instance]}]},
                {
                    "job_name": "x",
                    "static_configs": [{"targets": [failing.instance], "labels": {"app": "scores", "env": "prod"}}],
                },
            ],
        }
        with prometheus(two, config) as address:
            source = Prometheus(address)

            def burns():
                found = source.query("slo:bad_events:ratio_1h", 0, 4e9).drop_duplicates("labels", keep="last")
                shares = {
                    json.loads(text)["service"]: value
                    for text, value in zip(found["labels"], found["value"], strict=True)
                }
                firing = source.query('ALERTS{alertstate="firing"}', 0, 4e9)
                return shares if len(firing) and len(shares) == 2 else None

            shares = wait_for(burns)
            firing = source.query("ALERTS", 0, 4e9)
    assert shares["shop"] == 0
    assert shares["scoring"] == pytest.approx(0.5, abs=0.05)
    assert {json.loads(text)["service"] for text in firing["labels"]} == {"scoring"}


def test_a_label_that_a_selector_names_itself_stays_as_it_is(two):
    objective(two, "slo/shop", "shop", "other", 'requests_total{job="shop-old"}')
    text = (two / "slo/shop/other.yaml").read_text().replace('"}{code="500"}', '",code="500"}')
    (two / "slo/shop/other.yaml").write_text(text)
    settings = read_settings(two)
    found = {one.name: one for one in own_series(read_all_objectives(settings, two), settings) if one.service == "shop"}
    assert str(found["other"].total) == 'requests_total{job="shop-old"}'
    assert str(found["answers"].selector) == 'requests_total{code="500",job="shop"}'


def test_an_objective_of_a_misspelt_service_is_named_wherever_objectives_are_listed(two):
    objective(two, "slo/shop", "shpo", "misspelt")
    with Store(two / "telemetry") as store:
        fill(store)
    for words in (("slo", "list"), ("slo", "status")):
        shown = lepton(*words, project=two).stdout
        assert "not measured: misspelt of shpo (unknown service): its service 'shpo' is not declared" in shown
    with watching(two) as kit:
        said = what_is_not_measured(kit)
        page = BeautifulSoup(kit.client.get("/").text, "html.parser").get_text(" ")
    assert [(one["objective"], one["service"], one["reason"]) for one in said["not_measured"]] == [
        ("misspelt", "shpo", "unknown service")
    ]
    assert "objective misspelt of shpo" in said["problems"]
    assert "Objectives not measured" in page


def test_an_objective_without_samples_is_not_measured_and_says_so(two):
    objective(two, "slo/shop", "shop", "silent", "absent_total")
    with Store(two / "telemetry") as store:
        fill(store)
    shown = lepton_here("slo", "list", project=two).stdout
    assert "not measured: silent of shop (no samples): the source holds no samples of absent_total" in shown
    with watching(two) as kit:
        said = what_is_not_measured(kit)
    assert {one["objective"]: one["reason"] for one in said["not_measured"]} == {"silent": "no samples"}
    budgets = {one["name"]: one["budgets"] for one in said["services"]}
    assert {one["objective"]: one["is_measured"] for one in budgets["shop"]} == {"answers": True, "silent": False}


def test_objectives_without_any_telemetry_are_listed_and_not_measured(two):
    shown = lepton_here("slo", "list", project=two)
    assert shown.returncode == 0
    assert "no objective is measured: source of telemetry 'telemetry'" in shown.stdout


def test_two_objectives_of_one_service_and_name_in_two_folders_are_refused(two):
    objective(two, "slo/scoring", "shop")
    (two / "slo/scoring/answers.yaml").rename(two / "slo/scoring/again.yaml")
    with pytest.raises(InputError, match="also exists in another folder"):
        declared_objectives(read_settings(two), two)


def test_what_no_service_refers_to_is_told_too(two):
    objective(two, "slo", "shop", "stray")
    objective(two, "slo", "nobody", "lost")
    settings = read_settings(two)
    declared = declared_objectives(settings, two)
    assert [one.objective for one in without_service(declared, settings)] == ["lost"]
    assert "stray" in [one.name for one in read_all_objectives(settings, two)]


def test_the_runbooks_of_an_incident_read_the_objectives_of_its_service(two):
    more = '\n[alerts.Known]\nrunbook = "runbooks/diagnose.ipynb"\n'
    (two / "lepton.toml").write_text(SETTINGS.replace("workers = 0", "workers = 1") + more)
    write_notebook(two / "runbooks/diagnose.ipynb", ["1"], "objectives: 'Path' = 'slo'")
    with watching(two, "--insecure") as kit:
        kit.post(alert(1, service="shop"), alert(2, service="scoring"), alert(3, service="other"))
        jobs = kit.ended(3)
    services = {one.id: one.service for one in kit.queue.incidents()}
    given = {run.run_id: run.parameters["objectives"] for run in all_runs(two)}
    assert {services[job.incident]: given[job.run_id] for job in jobs if job.run_id} == {
        "shop": "slo/shop", "scoring": "slo/scoring", "other": "slo",
    }  # fmt: skip


class FakePrometheus:
    """An HTTP server that answers queries as a test says: no Prometheus can be made to give such answers."""

    def __init__(self):
        self.answer = lambda selector: (200, matrix([]))
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                asked = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
                code, content = fake.answer(asked["query"][0])
                body = json.dumps(content).encode()
                self.send_response(code)
                self.send_header("content-type", "application/json")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.handler, self.address = Handler, ""


def matrix(result, **more):
    return {"status": "success", "data": {"resultType": "matrix", "result": result}, **more}


def growing(selector, share=0.5):
    """A counter's last five minutes; of that of errors a share as steep."""
    now, pace = time.time(), share if 'code="500"' in selector else 1.0
    values = [[now - 300 + 15 * number, str(1000 * pace * number)] for number in range(21)]
    return {"metric": {"__name__": re.split(r"[{\[]", selector)[0], "code": "500"}, "values": values}


@pytest.fixture
def fake():
    server = FakePrometheus()
    with listening(server.handler) as server.address:
        yield server


NATIVE = {"metric": {"__name__": "took"}, "histograms": [[1.0, {"count": "3", "sum": "2", "buckets": []}]]}


def test_native_histograms_and_warnings_of_prometheus_are_told_and_end_nothing(fake):
    source = Prometheus(fake.address)
    fake.answer = lambda selector: (200, matrix([NATIVE, growing(selector)], warnings=["a store did not answer"]))
    found = source.query("took", 0, time.time())
    assert set(found["metric"]) == {"took"}
    assert source.warnings == {
        "took": ("a store did not answer", "1 series hold native histograms, which are not read")
    }
    fake.answer = lambda selector: (200, matrix([growing(selector)]))
    source.query("took", 0, time.time())
    assert source.warnings == {}


@pytest.mark.parametrize(
    "result",
    [
        [{"metric": {}, "values": [[1, "2"]]}],
        [{"values": [[1, "2"]]}],
        [{"metric": {"__name__": "a"}, "values": 1}],
        3,
        None,
    ],
)
def test_an_answer_of_another_form_is_an_error_with_the_address(fake, result):
    fake.answer = lambda _: (200, matrix(result))
    with pytest.raises(InputError, match=f"Prometheus {fake.address}: its answer to a"):
        Prometheus(fake.address).query("a", 0, 60)


REFUSALS = {
    "refused": lambda _: (422, {"status": "error", "errorType": "execution", "error": "too many samples"}),
    "out of time": lambda _: (503, {"status": "error", "errorType": "timeout", "error": "query timed out"}),
    "no JSON": lambda _: (502, "<html>"),
    "malformed": lambda _: (200, matrix([{"metric": {}}, {"values": 3}])),
}


@pytest.mark.parametrize("fault", REFUSALS)
def test_one_objective_that_the_source_refuses_keeps_no_other_from_its_alert(two, fake, fault):
    objective(two, "slo/shop", "shop", "big", "big_total")
    more = f'source = "{fake.address}"\nembedded_alerts = true\n'
    (two / "lepton.toml").write_text(SETTINGS + more)

    def answer(selector):
        return REFUSALS[fault](selector) if "big_" in selector else (200, matrix([growing(selector)], warnings=["w"]))

    fake.answer = answer
    with watching(two) as kit:
        said = wait_for(lambda: (found := kit.client.get("/status.json").json())["open"] and found)
        page = status_page(said)
    assert {one["name"] for one in said["open_incidents"]} == {"AnswersBudgetBurn"}
    assert [(one["objective"], one["reason"]) for one in said["not_measured"]] == [("big", "refused")]
    assert fake.address in said["problems"]["objective big of shop"]
    assert said["problems"]['warning for requests_total{job="shop"}'] == "w"
    assert "objective big of shop" in page
    shown = lepton_here("slo", "status", project=two)
    assert "not measured: big of shop (refused)" in shown.stdout
    assert "page" in next(line for line in shown.stdout.splitlines() if line.startswith("answers"))


def test_a_server_that_does_not_answer_for_one_objective_delays_no_other(two, fake):
    objective(two, "slo/shop", "shop", "big", "big_total")
    (two / "lepton.toml").write_text(SETTINGS + f'source = "{fake.address}"\nembedded_alerts = true\n')
    hanging, let_go = threading.Event(), threading.Event()

    def answer(selector):
        if "big_" in selector:
            hanging.set()
            let_go.wait(120)
        return 200, matrix([growing(selector)])

    fake.answer = answer
    try:
        with watching(two) as kit:
            said = wait_for(lambda: (found := kit.client.get("/status.json").json())["open"] and found)
            assert hanging.is_set()
        assert not let_go.is_set()
    finally:
        let_go.set()
    assert "does not answer (timed out)" in said["problems"]["objective big of shop"]


def test_an_open_alert_does_not_end_because_its_objective_can_no_longer_be_measured(two, fake):
    (two / "lepton.toml").write_text(SETTINGS + f'source = "{fake.address}"\nembedded_alerts = true\ntime_scale = 20\n')
    fake.answer = lambda selector: (200, matrix([growing(selector)]))
    with watching(two) as kit:
        wait_for(lambda: kit.queue.open_incidents())
        opened = kit.queue.open_incidents()
    fake.answer = REFUSALS["refused"]
    with watching(two) as kit:
        said = what_is_not_measured(kit)
        assert {one["reason"] for one in said["not_measured"]} == {"refused"}
        assert said["open"] == opened > 0


def test_alerts_that_alertmanager_left_out_are_a_problem_until_it_sends_all(two):
    with watching(two, "--insecure") as kit:
        post = lambda **more: kit.client.post("/alerts", json=webhook(alert(), groupKey="{}:{a}", **more))  # noqa: E731
        assert post(truncatedAlerts=3).status_code == 202
        problems = kit.client.get("/status.json").json()["problems"]
        assert "Alertmanager left out 3 of 4" in problems["alerts of group '{}:{a}'"]
        post(truncatedAlerts=0)
        assert "alerts of group '{}:{a}'" not in kit.client.get("/status.json").json()["problems"]


def test_an_unreadable_answer_of_a_service_is_a_problem_on_the_status_page(two):
    with metrics_target() as target:
        target.text = 'requests_total{code="500"} 7 # {trace_id="4bf9"} 1 1760000000.1\n'
        (two / "lepton.toml").write_text(SETTINGS.replace("http://127.0.0.1:9", target.address))
        settings = read_settings(two)
        observer = Observer(settings, two, Queue(two), None)
        observer.look()
        assert "is no line of Prometheus' text format" in observer.problems["metrics of shop"]
        target.text = 'requests_total{code="500"} 7\n'
        observer.look()
        assert "metrics of shop" not in observer.problems
        observer.stop()


def test_the_committed_rules_name_the_service_of_every_series(project):
    objective(project, "slo", "shop")
    (project / "lepton.toml").write_text('[services.shop]\nmodel = "none"\n')
    groups = yaml.safe_load(lepton_here("slo", "rules", project=project).stdout)["groups"]
    asked = [rule["expr"] for group in groups for rule in group["rules"] if "requests_total" in rule["expr"]]
    assert asked
    assert all(expr.count("requests_total") == expr.count('job="shop"') for expr in asked)
