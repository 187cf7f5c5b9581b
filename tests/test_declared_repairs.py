"""The repair runbooks on a service that the kit did not make, by the actions that it declares; with real processes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pandas as pd
import pytest
from declared_app import write
from helpers import contents, copy_folders, lepton
from monitors import free_port
from services import wait_for

from lepton_kit.diagnosis.plans import State
from lepton_kit.errors import InputError
from lepton_kit.ops.declared import readiness
from lepton_kit.ops.operator import operator_of, undo
from lepton_kit.ops.service_operator import read_actions
from lepton_kit.project.settings import read_settings
from lepton_kit.runs.manifest import find_run
from lepton_kit.telemetry.declaration import Declaration
from lepton_kit.telemetry.recordings import (
    FORMAT,
    Alert,
    Deployment,
    Incident,
    Recording,
    Versions,
    Window,
    read_recording,
    write_recording,
)
from lepton_kit.telemetry.scrape import Scraper
from lepton_kit.telemetry.store import Store

APP = Path(__file__).with_name("declared_app.py")
SECRET = "the key of the app's people"
OBJECTIVE = """
apiVersion: openslo/v1
kind: SLO
metadata:
  name: app-answered
  displayName: Requests answered
  annotations:
    lepton-kit/minimum-events: "20"
spec:
  service: app
  budgetingMethod: Occurrences
  indicator:
    metadata:
      name: app-answered
    spec:
      ratioMetric:
        counter: true
        good:
          metricSource:
            type: Prometheus
            spec:
              query: 'app_requests_total{code="200"}'
        total:
          metricSource:
            type: Prometheus
            spec:
              query: 'app_requests_total'
  timeWindow:
    - duration: 28d
      isRolling: true
  objectives:
    - target: 0.9
"""
SERIES = ("app_requests_total", "app_workers", "app_busy_seconds_total", "up")
ACTIONS = {
    "deploy": [sys.executable, str(APP), "deploy", "state.json", "{version}"],
    "roll_back": [sys.executable, str(APP), "deploy", "state.json", "good"],
    "scale": [sys.executable, str(APP), "scale", "state.json", "{workers}"],
}


class App:
    """The running service, and somebody who asks it all the time."""

    def __init__(self, project: Path) -> None:
        self.project = project
        port = free_port()
        self.address = f"http://127.0.0.1:{port}"
        self.be("good", 2)
        self.process = subprocess.Popen([sys.executable, str(APP), "serve", str(project / "state.json"), str(port)])
        self.store, self.rows, self._over = Store(project / "telemetry"), [], threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def be(self, version: str, workers: int) -> None:
        write(self.project / "state.json", {"version": version, "workers": workers})

    def declare(self, **actions: object) -> None:
        """Write lepton.toml: the service as it is declared, with these actions."""
        told = "".join(f"{name} = {json.dumps(words)}\n" for name, words in actions.items())
        (self.project / "lepton.toml").write_text(
            f"[services.app]\naddress = '{self.address}'\nobjectives = 'slo'\nprivate_key = 'env:APP_KEY'\n"
            "task = 'classification_binary'\n"
            "signals = { workers = 'app_workers', busy_seconds = 'app_busy_seconds_total' }\n"
            f"[services.app.actions]\n{told}"
        )

    def __enter__(self) -> App:
        wait_for(lambda: readiness(self.address, Declaration(address=self.address)).is_ready)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.process.kill()
        self.process.wait()

    def _ask(self) -> None:
        scraper = Scraper(self.store, {"app": self.address}, interval=0.2)
        with httpx.Client(base_url=self.address, timeout=30) as client:
            for number in range(10**6):
                if self._over.is_set():
                    return
                if number % 10 == 0:
                    scraper.scrape_once()
                began = time.time()
                answer = client.get("/ask")
                self.rows.append((began, f"r{number}", answer.text, answer.status_code, 1000 * (time.time() - began)))
                time.sleep(0.01)

    def incident(self, name: str, version: str, workers: int) -> Recording:
        """Let the service be well and then otherwise, and record that."""
        start, first = time.time(), len(self.rows)
        wait_for(lambda: len(self.rows) > first + 60)
        onset, first = time.time(), len(self.rows)
        self.be(version, workers)
        wait_for(lambda: len(self.rows) > first + 60)
        end = time.time()
        at = [datetime.fromtimestamp(moment, UTC) for moment in (start, onset, end)]
        came = [Deployment(time=at[0] - timedelta(hours=1), version="good")]
        came += [Deployment(time=at[1], version=version)] if version != "good" else []
        rows = pd.DataFrame(list(self.rows), columns=["time", "request_id", "version", "status", "latency_ms"])
        rows = rows[rows["time"].between(start, end)].reset_index(drop=True)
        rows["time"] = pd.to_datetime(rows["time"], unit="s", utc=True).dt.as_unit("us")
        parts = [self.store.query(each, start, end) for each in SERIES]
        incident = Incident(
            format=FORMAT,
            id=name,
            service="app",
            declaration=read_settings(self.project).services["app"],
            window=Window(start=at[0], end=at[2]),
            versions=Versions(current=version, last_good="good" if version != "good" else None),
            alerts=(Alert(name="AppAnsweredBudgetBurn", starts_at=at[1], labels={"slo": "app-answered"}),),
            deployments=tuple(came),
        )
        metrics = pd.concat(parts, ignore_index=True).sort_values("time", kind="stable", ignore_index=True)
        write_recording(
            Recording(incident, requests=rows.astype({"status": float}), metrics=metrics), self.project / name
        )
        return read_recording(self.project / name)


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    project = tmp_path_factory.mktemp("declared")
    copy_folders(project, "runbooks", without=("recordings",))
    (project / "slo").mkdir()
    (project / "slo/app.yaml").write_text(OBJECTIVE)
    with App(project) as running:
        yield running


@pytest.fixture(autouse=True)
def fresh(request, monkeypatch):
    monkeypatch.setenv("APP_KEY", SECRET)
    if "app" in request.fixturenames:
        running = request.getfixturevalue("app")
        shutil.rmtree(running.project / "services", ignore_errors=True)
        running.be("good", 2)


def run(app, runbook, recording, *words):
    done = lepton(
        "run", f"runbooks/{runbook}.ipynb", "-p", "recording", recording, "-p", "service", "app",
        "-p", "objectives", "slo", "-p", "observe_seconds", "5", *words, project=app.project,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: result.value for name, result in find_run(runbook, app.project).results.items()}


def test_a_bad_version_is_rolled_back_by_the_declared_action_and_the_recovery_judged(app):
    app.declare(**ACTIONS)
    app.incident("bad", "bad", 2)
    results = run(app, "repair-model", "bad")
    assert (results["applied"], results["action"], results["by_hand"]) == (True, "bad → good", [])
    assert results["verdict"] == "recovered", results["verdict_means"]
    assert results["sli_during"] < 0.7 < 0.9 < results["sli_after"]
    assert json.loads((app.project / "state.json").read_text())["version"] == "good"
    [told] = read_actions(app.project / "services/app")
    assert (told["action"], told["outcome"], told["run"]) == (
        "roll_back",
        "done",
        find_run("repair-model", app.project).run_id,
    )
    assert told["output"] == "version is good; key [secret env:APP_KEY]"
    assert [path for path, content in contents(app.project) if SECRET.encode() in content] == []
    assert undo("app", app.project, "Kim", "").startswith("service app: version good → bad")
    assert json.loads((app.project / "state.json").read_text())["version"] == "bad"


def test_a_service_that_is_too_small_grows_by_the_declared_action(app):
    app.declare(**ACTIONS)
    app.incident("small", "good", 1)
    results = run(app, "repair-capacity", "small", "-p", "wait", "0.000001")
    assert results["applied"] is True
    assert json.loads((app.project / "state.json").read_text())["workers"] >= 2
    assert results["verdict"] == "recovered", results["verdict_means"]


@pytest.mark.parametrize(("runbook", "lacking"), [("repair-model", "roll_back or deploy"), ("repair-data", "")])
def test_a_service_that_declares_no_action_is_left_alone_and_it_says_what_a_person_does(app, runbook, lacking):
    app.declare()
    app.incident("alone", "bad", 2)
    results = run(app, runbook, "alone")
    assert results["applied"] is False
    assert json.loads((app.project / "state.json").read_text())["version"] == "bad"
    assert not (app.project / "services/app/actions.jsonl").exists()
    if lacking:
        assert results["verdict"] == "not repaired"
        assert results["by_hand"] == [f"no action {lacking} is declared; by hand: roll back to good"]


def test_an_action_that_fails_is_said_and_what_was_is_kept(app):
    app.declare(**ACTIONS | {"scale": ["false"]})
    operator = operator_of("app", app.project, "run-1", workers=1)
    with pytest.raises(Exception, match=r"action scale: 'false' failed \(1\)"):
        operator.set_state(State(workers=3), "a test")
    assert operator.state() == State(workers=1)
    [told] = read_actions(operator.folder)
    assert (told["outcome"], told["before"]) == ("'false' failed (1)", told["after"])


def test_the_command_acts_and_shows_and_names_what_is_not_declared(app):
    app.declare(**ACTIONS)
    shown = lepton("act", "app", "scale", "--workers", "4", "--dry-run", project=app.project)
    assert shown.stdout == f"{sys.executable} {APP} scale state.json 4\n"
    assert json.loads((app.project / "state.json").read_text())["workers"] == 2
    done = lepton("act", "app", "scale", "--workers", "4", project=app.project)
    assert done.returncode == 0, done.stderr
    assert json.loads((app.project / "state.json").read_text())["workers"] == 4
    missing = lepton("act", "app", "restart", project=app.project)
    assert (missing.returncode, "services.app.actions.restart" in missing.stderr) == (2, True)
    unknown = lepton("act", "nobody", "restart", project=app.project)
    assert (unknown.returncode, "neither in lepton.toml" in unknown.stderr) == (2, True)


def test_without_a_way_back_a_change_is_not_taken_back_silently(app):
    app.declare(roll_back=ACTIONS["roll_back"])
    operator = operator_of("app", app.project, "run-1", recorded=app.incident("stuck", "bad", 2))
    operator.set_state(State("good"), "a test")
    assert operator.cannot_reach(State("bad")) == "no action deploy is declared that would bring bad"
    with pytest.raises(InputError, match="no action deploy is declared"):
        operator.bring_back(State("bad"), "a test")


def test_a_service_is_asked_where_it_is_ready_at_its_own_path_or_the_first_that_there_is(app):
    found = readiness(app.address, Declaration(address=app.address))
    assert (found.is_up, found.is_ready, found.problem) == (True, True, "")
    wrong = readiness(app.address, Declaration(address=app.address, ready="/nothing"))
    assert (wrong.is_up, wrong.is_ready, wrong.problem) == (True, False, "answers none of /nothing: declare `ready`")
    away = readiness("http://127.0.0.1:9", Declaration(address="http://127.0.0.1:9"))
    assert (away.is_up, away.problem) == (False, "does not answer (ConnectError)")
