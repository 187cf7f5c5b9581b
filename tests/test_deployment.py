"""Deployments: a new version beside the old one in a real service, tested, compared, promoted or taken back."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import lepton
from services import TOKEN, keep_model, project_with_model, row, serving, wait_for

from lepton_kit.cli import app
from lepton_kit.errors import InputError
from lepton_kit.models.registry import Registry
from lepton_kit.ops.deployment import Rehearsal, ServiceClient, deploy, integration_tests, rollback, wait_for_requests
from lepton_kit.ops.services import start_service
from lepton_kit.serving.canary import Counts, Rule, judge, read_counts
from lepton_kit.serving.control import note_deployment, read_deployments, read_desired_state

STEPS = (0.3, 1.0)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with serving(project_with_model(tmp_path_factory.mktemp("deployment")), "--workers", "2") as running:
        yield running


@pytest.fixture
def ours(service):
    """Give the service as it began: v1 promoted, and answering alone."""
    client, registry = client_of(service), registry_of(service)
    if client.version() != "v1" or client.candidate() is not None:
        client.reload("v1")
    if registry.current("goog") != "v1":
        registry.rollback("goog", "test", "begin again")
    return service


def client_of(service):
    return ServiceClient(str(service.client.base_url), TOKEN)


def registry_of(service):
    return Registry(service.folder.parents[1] / "models")


def asking(service, requests=150, **changes):
    def traffic(share):
        for number in range(requests):
            sent = {"row": {**row(-1 - number % 50), **changes}}
            service.client.post("/v1/predict", json=sent, headers={"X-Request-ID": f"{share}-{number}"})

    return traffic


def bring_in(service, version, traffic, **more):
    return deploy(client_of(service), registry_of(service), "goog", version, traffic, steps=STEPS, **more)


def test_a_version_that_is_no_worse_is_tested_takes_a_growing_share_and_is_promoted(ours):
    made = bring_in(ours, "v2", asking(ours), run_id="run-1")
    assert made.outcome == "promoted", made.reason
    assert [check.name for check in made.checks if not check.passed] == []
    first, last = made.steps
    assert first.old.requests + first.new.requests == 150
    assert 20 <= first.new.requests <= 70
    assert (last.old.requests, last.new.requests) == (0, 150)
    assert ours.predict().json()["version"] == registry_of(ours).current("goog") == "v2"
    assert read_desired_state(ours.folder).candidate is None
    kept = read_deployments(ours.folder)[-1]
    assert kept["version"] == "v2"
    assert kept["record"] == json.loads(json.dumps(made.record(), allow_nan=False))
    assert kept["record"]["run_id"] == "run-1"


def test_a_version_that_fails_users_is_taken_back_and_withdrawn_from_the_registry(ours):
    registry_of(ours).promote("goog", "v2", "test", "the gate said so")

    def traffic(share):
        def fails(request_id):
            return client.ask("POST", "/v1/predict", json={"row": {}}, headers={"X-Model-Version": "v2"})

        client = client_of(ours)
        asking(ours)(share)
        for number in range(20):
            fails(number)

    made = bring_in(ours, "v2", traffic)
    assert made.outcome == "rolled back"
    assert made.reason == "at 30%: share of requests without a forecast worse than v1's"
    assert len(made.steps) == 1
    assert ours.predict().json()["version"] == registry_of(ours).current("goog") == "v1"
    assert [one["version"] for one in read_deployments(ours.folder)[-2:]] == ["v2", "v1"]
    assert "rolled back" in read_deployments(ours.folder)[-1]["note"]


def test_a_version_whose_forecasts_are_not_those_of_the_registry_answers_no_user(ours):
    project = ours.folder.parents[1]
    bad = keep_model(project, shift=3.0)
    registry = registry_of(ours)
    golden = registry.golden("goog", bad).assign(mean=0.0)
    client = client_of(ours)
    client.reload("v1", bad)
    checks = {check.name: check.passed for check in integration_tests(client, registry.load("goog", bad), golden, bad)}
    assert not checks.pop("golden inputs give the golden outputs")
    assert all(checks.values())

    class Altered(Registry):
        def golden(self, name, version="current"):
            return golden

    client.reload("v1")
    made = deploy(client, Altered(registry.root), "goog", bad, asking(ours))
    assert made.outcome == "rolled back"
    assert made.steps == []
    assert "golden" in made.reason


def test_a_step_with_too_few_requests_is_not_judged_and_the_old_version_stays(ours):
    made = bring_in(ours, "v2", asking(ours, requests=5))
    assert made.outcome == "rolled back"
    assert "too few" in made.reason
    assert ours.predict().json()["version"] == "v1"


def test_an_error_on_the_way_leaves_the_old_version(ours):
    def traffic(share):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bring_in(ours, "v2", traffic)
    assert read_desired_state(ours.folder).candidate is None
    assert {ours.predict().json()["version"] for _ in range(10)} == {"v1"}


def test_a_candidate_that_somebody_withdraws_meanwhile_is_not_brought_back(ours):
    project = ours.folder.parents[1]

    def traffic(share):
        asking(ours)(share)
        told = rollback("goog", project, "test", "wrong")
        assert "candidate v2 is withdrawn, v1 answers alone; 2 worker(s) followed" in told

    made = bring_in(ours, "v2", traffic)
    assert made.outcome == "rolled back"
    assert "somebody else withdrew v2" in made.reason
    assert registry_of(ours).current("goog") == "v1"


def test_rolling_back_takes_one_command_while_the_service_runs_and_when_it_is_down(ours):
    project = ours.folder.parents[1]
    registry_of(ours).promote("goog", "v2", "test", "")
    client_of(ours).reload("v2")
    told = lepton("rollback", "goog", "--reason", "wrong forecasts", project=project)
    assert told.returncode == 0, told.stderr
    assert "service goog: v2 → v1; 2 worker(s) followed" in told.stdout
    assert {ours.predict().json()["version"] for _ in range(10)} == {"v1"}
    assert registry_of(ours).current("goog") == "v1"
    assert registry_of(ours).history("goog")[-1]["reason"] == "wrong forecasts"
    assert read_deployments(ours.folder)[-1]["note"] == "rolled back from v2: wrong forecasts"
    with pytest.raises(InputError, match="no earlier version"):
        rollback("goog", project, "test", "once more")


def test_rolling_back_a_service_that_is_down_is_followed_when_it_starts(tmp_path):
    project = project_with_model(tmp_path)
    Registry(project / "models").promote("goog", "v2", "test", "")
    told = rollback("goog", project, "test", "wrong")
    assert "v1 is promoted again; no service goog was ever started here" in told
    Registry(project / "models").promote("goog", "v2", "test", "")
    with serving(project) as running:
        assert running.predict().json()["version"] == "v2"
    assert "is not running; it will answer with v1" in rollback("goog", project, "test", "wrong")
    with serving(project) as running:
        assert running.predict().json()["version"] == "v1"
        assert [one["version"] for one in read_deployments(running.folder)] == ["v2", "v1"]


def test_a_service_with_requests_of_its_own_is_deployed_to_by_a_command(ours):
    project = ours.folder.parents[1]
    environment = {**os.environ, "LEPTON_ADMIN_TOKEN": TOKEN, "LEPTON_PROJECT": str(project)}
    words = ["deploy", "goog", "v2", "--steps", "50,100", "--step-seconds", "0.5"]
    process = subprocess.Popen(
        [sys.executable, "-m", "lepton_kit.cli", *words],
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None:
        ours.predict(row=row())
        time.sleep(0.01)  # requests enough to judge by, which leave the command a processor
    told = process.stdout.read()
    assert process.returncode == 0, told
    assert "v2 promoted: 7 integration tests passed, and in 2 steps nothing was worse" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["goog", "v1"], "LEPTON_ADMIN_TOKEN is not set"),
        (["goog", "v2", "--steps", "50,20,100"], "growing shares"),
        (["goog", "v2", "--steps", "half"], "--steps 'half'"),
        (["goog", "v2", "--step-seconds", "0"], "--step-seconds 0"),
        (["oil", "v2"], "does not run here"),
    ],
)
def test_what_cannot_be_deployed_is_said(ours, words, told, monkeypatch):
    monkeypatch.setenv("LEPTON_PROJECT", str(ours.folder.parents[1]))
    monkeypatch.delenv("LEPTON_ADMIN_TOKEN", raising=False)
    with pytest.raises(InputError, match=told):
        app(["deploy", *words], standalone_mode=False)


def test_what_answers_already_and_a_wrong_token_are_refused(ours):
    with pytest.raises(InputError, match="answers with already"):
        bring_in(ours, "v1", asking(ours))
    with pytest.raises(InputError, match="token is wrong"):
        deploy(ServiceClient(str(ours.client.base_url), "x"), registry_of(ours), "goog", "v2", asking(ours))


def test_a_version_that_does_not_answer_here_cannot_be_asked_by_name(ours):
    assert client_of(ours).predict({"row": row()}, "v2").status_code == 409


def test_waiting_for_requests_ends_when_there_are_enough_or_never_will_be(ours):
    began = client_of(ours).counts()["v1"].requests
    wait_for_requests(client_of(ours), "v1", 1, 0.1)(1.0)
    assert client_of(ours).counts()["v1"].requests == began


def test_a_service_ends_when_the_process_that_started_it_is_gone(tmp_path):
    project = project_with_model(tmp_path)
    program = (
        "import sys, time; from pathlib import Path; from lepton_kit.ops.services import start_service\n"
        "running = start_service(Path(sys.argv[1]), 'goog'); print(running.process.pid, flush=True); time.sleep(999)"
    )
    starter = subprocess.Popen([sys.executable, "-c", program, str(project)], stdout=subprocess.PIPE, text=True)
    service = int(starter.stdout.readline())
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    wait_for(lambda: not Path(f"/proc/{service}").exists() or "Z" in Path(f"/proc/{service}/stat").read_text())
    assert not (project / "services/goog/address").exists()


def test_a_service_of_the_same_name_that_runs_already_is_not_taken_for_the_new_one(ours):
    with pytest.raises(InputError, match="runs already"):
        start_service(ours.folder.parents[1], "goog")
    assert client_of(ours).version() == "v1"


@pytest.mark.parametrize(("version", "pair"), [("v2", ("v1", "v2")), ("v1", ("v1", "v3"))])
def test_a_rehearsal_begins_with_the_version_before_or_has_a_copy_and_touches_no_registry(tmp_path, version, pair):
    registry = Registry(project_with_model(tmp_path) / "models")
    before = registry.history("goog"), registry.versions("goog")
    service = Rehearsal(registry, "goog", version)
    try:
        assert (service.old, service.new) == pair
        assert service.version() == "v1"
        assert service.new in service.registry.versions("goog")
    finally:
        assert service.stop() == 0
    assert not service.project.exists()
    assert (registry.history("goog"), registry.versions("goog")) == before


def test_a_service_that_cannot_start_says_why(tmp_path):
    (tmp_path / "lepton.toml").write_text("")
    with pytest.raises(InputError, match="no version has been promoted"):
        start_service(tmp_path, "goog")


BOUNDS = (0.005, 0.05, 0.1, 0.5, math.inf)


def counts(requests=1000, fast=1.0, **more):
    """Give counts with a share of fast (5 to 50 ms) requests; the others took 100 to 500 ms."""
    slower = dict(zip(BOUNDS, (0.0, fast * requests, fast * requests, float(requests), float(requests)), strict=True))
    given = {"width": 0.05 * requests, "forecasts": requests, "actuals": requests, "inside": 0.9 * requests, **more}
    return Counts(requests=requests, slower=slower, **given)


@pytest.mark.parametrize(
    ("new", "worse"),
    [
        (counts(100), []),
        (counts(100, failed=10), ["share of requests without a forecast"]),
        (counts(100, failed=1), []),  # as chance may have it
        (counts(100, fast=0.8), ["95th percentile of the latency, s"]),
        (counts(100, fast=0.98), []),
        (counts(100, width=15.0), ["mean width of the 90 % interval"]),
        (counts(100, inside=60), ["share of actual values outside the interval"]),
        (counts(100, inside=85), []),
        (counts(100, actuals=0, inside=0), []),
    ],
)
def test_the_rule_finds_what_is_worse_and_not_what_chance_does(new, worse):
    assert [found.name for found in judge(counts(), new, Rule()) if found.verdict == "worse"] == worse


def test_latencies_of_different_times_are_not_judged_and_what_nobody_counted_is_not_known():
    verdicts = [found.verdict for found in judge(counts(), counts(100, fast=0.0), Rule(), is_same_time=False)]
    assert verdicts == ["not worse", "not known", "not worse", "not worse"]
    assert {found.verdict for found in judge(Counts(), Counts(requests=5), Rule())} == {"not known"}


def test_counts_are_read_from_the_metrics_and_subtracted(service):
    before = client_of(service).counts()["v1"]
    service.predict(row=row())
    service.client.post("/v1/predict", json={})
    did = client_of(service).counts()["v1"].since(before)
    assert (did.requests, did.failed, did.forecasts) == (2, 1, 1)
    assert did.slower[math.inf] == 2
    assert 0 < did.width < 1
    assert read_counts("") == {}


def test_a_rule_that_says_nothing_sensible_is_refused():
    for name in (field.name for field in dataclasses.fields(Rule)):
        with pytest.raises(InputError, match=name):
            Rule(**{name: -1})


def test_a_damaged_line_of_the_deployments_is_named(tmp_path):
    note_deployment(tmp_path, "v1", "first")
    with (tmp_path / "deployments.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(InputError, match="line 2"):
        read_deployments(tmp_path)
