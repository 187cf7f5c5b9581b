"""A real service: processes, HTTP, and what it leaves on the disk."""

import json
import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest
from helpers import PATIENCE_S, ROOT, contents, lepton, lepton_here
from services import ADMIN, TOKEN, keep_model, log_of, project_with_model, row, serving, wait_for

from lepton_kit.models.registry import Registry
from lepton_kit.serving.control import read_reports


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with serving(project_with_model(tmp_path_factory.mktemp("service")), "--workers", "2") as running:
        yield running


def logged(service, request_id):
    def question():
        held = log_of(service)
        return held[held["request_id"] == request_id].to_dict("records")

    return wait_for(question)


def test_one_row_gives_one_forecast_by_the_promoted_version(service):
    answer = service.predict(row=row()).json()
    assert answer["version"] == "v1"
    (forecast,) = answer["forecasts"]
    expected = Registry(service.folder.parents[1] / "models").load("goog").predict(_table([row()]))
    assert forecast["upper"] == pytest.approx(expected["upper"].iloc[0], rel=1e-12)


def test_a_batch_gives_a_forecast_per_row_and_the_log_holds_each(service):
    answer = service.client.post(
        "/v1/predict", json={"rows": [row(-2), row(-1)]}, headers={"X-Request-ID": "batch-of-two"}
    )
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "batch-of-two"
    first, second = logged(service, "batch-of-two")
    assert (first["row"], second["row"]) == (0, 1)
    assert second["feature_return_0"] == row(-1)["return_0"]
    assert first["mean"] == answer.json()["forecasts"][0]["mean"]
    assert first["version"] == "v1"
    assert first["status"] == 200


def test_a_request_that_is_wrong_is_answered_field_by_field_and_counted(service):
    before = service.sample("lepton_input_problems_total", problem="missing")
    wrong = {**row(), "return_0": "much", "return_1": None}
    del wrong["volatility_ewma"]
    answer = service.predict(row=wrong)
    assert answer.status_code == 422
    assert {found["field"] for found in answer.json()["fields"]} == {
        "row.return_0",
        "row.return_1",
        "row.volatility_ewma",
    }
    assert service.sample("lepton_input_problems_total", problem="missing") == before + 2
    assert logged(service, answer.headers["x-request-id"])[0]["status"] == 422


@pytest.mark.parametrize(
    "body",
    [b"", b"not json", b"[]", b'{"row": 1}', b'{"rows": []}', b"{}", b'{"row": {"return_0": NaN}}', b"[" * 100_000],
)
def test_a_body_that_is_no_request_is_refused_with_422(service, body):
    answer = service.client.post("/v1/predict", content=body)
    assert answer.status_code == 422
    assert answer.json()["fields"]


def test_unseen_names_and_values_out_of_range_are_answered_and_counted(service):
    unseen = service.sample("lepton_input_problems_total", problem="unseen")
    beyond = service.sample("lepton_input_problems_total", problem="out_of_range")
    assert service.predict(row={**row(), "moon": 3.0, "return_0": 9.0}).status_code == 200
    assert service.sample("lepton_input_problems_total", problem="unseen") == unseen + 1
    assert service.sample("lepton_input_problems_total", problem="out_of_range") == beyond + 1


def test_a_body_beyond_the_limit_is_answered_with_413(service):
    assert service.client.post("/v1/predict", content=b" " * (2 * 1024 * 1024 + 1)).status_code == 413


def test_an_actual_value_counts_once_and_says_whether_the_interval_held_it(service):
    inside = service.sample("lepton_forecast_actuals_total", inside="true")
    answer = service.predict(row=row()).json()
    told = {"request_id": answer["request_id"], "actual": answer["forecasts"][0]["mean"], "rating": 4}
    assert service.client.post("/v1/feedback", json=told).json()["counted"]
    assert not service.client.post("/v1/feedback", json=told).json()["counted"]
    assert service.sample("lepton_forecast_actuals_total", inside="true") == inside + 1
    (held,) = logged(service, answer["request_id"])
    assert (held["actual"], held["rating"]) == (told["actual"], 4)


@pytest.mark.parametrize("value", ["1e39", "-1e39", "1e309", "Infinity", "NaN", "1e31"])
def test_a_number_that_nobody_measured_is_refused_with_422_and_its_name(service, value):
    name = next(iter(row()))
    body = json.dumps({"row": row()}).replace(f'"{name}": {row()[name]}', f'"{name}": {value}')
    answer = service.client.post("/v1/predict", content=body)
    assert answer.status_code == 422
    assert name in answer.json()["fields"][0]["field"]
    assert service.client.post("/v1/feedback", content=f'{{"request_id": "a", "actual": {value}}}').status_code == 422


@pytest.mark.parametrize("ahead", [1e300, 1.8e12, 7 * 86400, float("inf")])  # 1.8e12: in milliseconds
def test_an_as_of_that_is_no_time_is_refused_and_freshness_goes_on_being_measured(service, ahead):
    body = json.dumps({"row": row(), "as_of": time.time() + ahead})
    answer = service.client.post("/v1/predict", content=body)
    assert answer.status_code == 422 and answer.json()["fields"][0]["field"] == "as_of"
    assert service.predict(row=row(), as_of=time.time() + 600).status_code == 200  # a clock that is ahead
    assert service.sample("lepton_newest_data_timestamp_seconds") <= time.time() + 1


def test_feedback_on_what_was_never_forecast_is_404_and_empty_feedback_422(service):
    assert service.client.post("/v1/feedback", json={"request_id": "nobody", "actual": 0.1}).status_code == 404
    assert service.client.post("/v1/feedback", json={"request_id": "nobody"}).status_code == 422


def test_metrics_of_both_workers_are_added_up(service):
    before = service.sample("lepton_predict_requests_total", outcome="answered")
    lines = len((service.folder / "service.jsonl").read_text().splitlines())
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: service.predict(row=row()).status_code, range(200)))
    assert set(answers) == {200}
    assert service.sample("lepton_predict_requests_total", outcome="answered") == before + 200
    assert service.sample("lepton_model_workers", version="v1", role="current") == 2
    assert service.sample("http_server_request_duration_seconds_bucket", http_route="/v1/predict", le="+Inf") >= 200
    since = (service.folder / "service.jsonl").read_text().splitlines()[lines:]
    workers = {json.loads(line)["fields"]["pid"] for line in since}
    assert len(workers) == 2


def test_the_docs_of_the_api_are_where_the_readme_says_and_name_every_route(service):
    [path] = re.findall(r"docs of its API at (/\w+)", (ROOT / "docs/services.md").read_text())
    page = service.client.get(path)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    for route, methods in service.client.get("/openapi.json").json()["paths"].items():
        assert all(f"{method.upper()} {route}" in page.text for method in methods)
    assert next(iter(row())) in page.text  # what a forecast is asked with
    assert not re.findall(r"<script|src=|https?://", page.text)


def test_an_address_that_is_not_served_adds_no_label(service):
    for number in range(3):
        assert service.client.get(f"/nothing/{number}").status_code == 404
    text = service.client.get("/metrics").text
    assert 'http_route="unmatched"' in text
    assert "/nothing/" not in text


def test_the_administrator_needs_the_token(service):
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer ünd".encode()}):
        assert service.client.post("/admin/reload", json={}, headers=headers).status_code == 401


def test_without_a_token_set_the_administrator_is_refused_whatever_is_given(tmp_path):
    with serving(project_with_model(tmp_path), token=None) as running:
        for headers in ({}, {"Authorization": "Bearer"}, ADMIN):
            assert running.client.post("/admin/workers", json={"workers": 1}, headers=headers).status_code == 403


def test_no_secret_is_in_what_the_service_leaves(service):
    service.client.post("/admin/reload", json={"version": "v9"}, headers=ADMIN)
    assert [path for path, content in contents(service.folder) if TOKEN.encode() in content] == []


def test_a_candidate_takes_its_share_a_reload_changes_all_workers_and_a_bad_version_changes_nothing(service):
    shared = service.client.post(
        "/admin/reload", json={"version": "v1", "candidate": "v2", "share": 0.5}, headers=ADMIN
    )
    assert shared.status_code == 200, shared.text
    served = [service.predict(row=row()).json()["version"] for _ in range(60)]
    assert 10 < served.count("v2") < 50
    assert service.client.post("/admin/reload", json={"version": "v2"}, headers=ADMIN).json()["version"] == "v2"
    assert {service.predict(row=row()).json()["version"] for _ in range(20)} == {"v2"}
    project = service.folder.parents[1]
    broken = keep_model(project, shift=7.0)
    (project / "models/goog" / broken / "model.safetensors").write_bytes(b"nothing")
    refused = service.client.post("/admin/reload", json={"version": broken}, headers=ADMIN)
    assert refused.status_code == 409
    assert "model.safetensors" in refused.json()["error"]
    assert {service.predict(row=row()).json()["version"] for _ in range(20)} == {"v2"}
    assert service.client.post("/admin/reload", json={}, headers=ADMIN).json()["version"] == "v1"  # the promoted one


def processor_time(process):
    times = process.cpu_times()
    return times.user + times.system


def test_workers_are_added_ended_and_replaced_when_lost(service):
    def pids():
        return {report.pid for report in read_reports(service.folder)}

    before = pids()
    assert service.client.post("/admin/workers", json={"workers": 3}, headers=ADMIN).json()["answering"] == 3
    added = psutil.Process((pids() - before).pop())
    assert processor_time(added) < processor_time(added.parent()) / 2, "it is forked from what has imported everything"
    assert service.client.post("/admin/workers", json={"workers": 2}, headers=ADMIN).json()["answering"] == 2
    before = pids()
    lost = min(before)
    os.kill(lost, signal.SIGKILL)
    wait_for(lambda: len(pids()) == 2 and lost not in pids())
    wait_for(lambda: service.sample("lepton_model_workers", role="current") == 2)
    assert service.sample("lepton_worker_starts_total") >= 4


def test_beyond_the_queue_limit_requests_are_told_when_to_come_back(tmp_path):
    project = project_with_model(tmp_path)
    with serving(project, "--queue-limit", "1") as running:
        many = json.dumps({"rows": [row()] * 300}).encode()  # once: what is sent is there at the same time
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda _: running.client.post("/v1/predict", content=many), range(64)))
        statuses = {answer.status_code for answer in answers}
        assert statuses == {200, 429}
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert int(refused.headers["retry-after"]) >= 1
        assert running.predict(row=row()).status_code == 200


def test_a_stop_finishes_what_it_holds_and_the_log_is_whole_after_a_kill(tmp_path):
    project = project_with_model(tmp_path)
    with serving(project) as running, ThreadPoolExecutor(4) as pool:
        many = json.dumps({"rows": [row()] * 1000}).encode()
        held = [pool.submit(running.client.post, "/v1/predict", content=many) for _ in range(8)]
        wait_for(lambda: any(one.done() for one in held))
        running.process.send_signal(signal.SIGTERM)
        finished = [one.result().status_code for one in held if not one.exception()]
        assert finished.count(200) >= 4
        assert running.process.wait(PATIENCE_S) == 0
        assert len(log_of(running)) == 1000 * finished.count(200)
    with serving(project) as running:
        answered = [running.predict(row=row()).json()["request_id"] for _ in range(20)]
        wait_for(lambda: set(answered) <= set(log_of(running)["request_id"]))  # which the writer brings a moment later
        os.kill(read_reports(running.folder)[0].pid, signal.SIGKILL)
        assert set(answered) <= set(log_of(running)["request_id"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["oil"], "no version has been promoted"),
        (["goog@v7"], "no version 'v7'"),
        (["goog", "--workers", "0"], "workers = 0"),
        (["goog", "--port", "99999"], "cannot listen"),
        (["goog", "--name", "../x"], "service name"),
        (["goog", "--queue-limit", "0"], "--queue-limit 0"),
    ],
)
def test_what_cannot_be_served_is_said_before_anything_starts(words, told, tmp_path):
    refused = lepton_here("serve", *words, project=project_with_model(tmp_path))
    assert refused.returncode == 2
    assert told in refused.stderr
    assert not list(tmp_path.glob("services/*/address"))


def test_a_service_that_runs_already_is_not_started_again(tmp_path):
    project = project_with_model(tmp_path)
    with serving(project):
        again = lepton("serve", "goog", "--port", "0", project=project)
        assert again.returncode == 2
        assert "runs already at http://127.0.0.1:" in again.stderr


def _table(rows):
    import pandas as pd

    return pd.DataFrame(rows)


def test_data_that_one_worker_sees_keep_the_whole_service_fresh(tmp_path):
    with serving(project_with_model(tmp_path), "--workers", "2", "--fresh-for", "2") as running:

        def seen_by_both():
            httpx.post(f"{running.client.base_url}/v1/predict", json={"row": row(), "as_of": time.time()})
            workers = {
                fields["pid"]
                for line in (running.folder / "service.jsonl").open()
                if "status" in (fields := json.loads(line)["fields"])
            }
            return len(workers) == 2

        wait_for(seen_by_both)
        running.predict(row=row(), as_of=time.time())
        before = running.sample("lepton_freshness_seconds_total", state="stale")
        fresh = running.sample("lepton_freshness_seconds_total", state="fresh")

        def fresh_for_longer_than_the_other_saw_itself():  # 3 s of both
            assert running.predict(row=row(), as_of=time.time()).status_code == 200  # one connection, so one worker
            return running.sample("lepton_freshness_seconds_total", state="fresh") > fresh + 6

        wait_for(fresh_for_longer_than_the_other_saw_itself)
        assert running.sample("lepton_freshness_seconds_total", state="stale") == before
        wait_for(lambda: running.sample("lepton_freshness_seconds_total", state="stale") > before + 1)
