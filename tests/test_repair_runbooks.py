"""The repair runbooks against a running service: applied, observed, judged."""

import contextlib
import json
import threading
import time

import httpx
import nbformat
import pandas as pd
import pytest
from helpers import ROOT, copy_folders, lepton
from live import Load, Samples
from services import ADMIN, captured, keep_model, project_with_model, serving, wait_for

from lepton_kit.models.registry import Registry
from lepton_kit.ops.service_operator import read_actions
from lepton_kit.runs.manifest import find_run
from lepton_kit.serving.control import change_desired_state, read_desired_state


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    project = project_with_model(tmp_path_factory.mktemp("runbooks"))
    keep_model(project, shift=9.0)  # v3, whose forecasts lie far off
    copy_folders(project, "runbooks", "slo", without=("recordings",))
    (project / "lepton.toml").write_text("[services.goog]\nmodel = 'goog'\n")
    with serving(project, "--workers", "1") as service:
        yield service


@pytest.fixture
def service(running):
    """The service, which is left as it was: the next test may be any other."""
    before = {**vars(read_desired_state(running.folder))}
    del before["generation"], before["restarts"]
    yield running
    change_desired_state(running.folder, **before)
    wait_for(lambda: running.sample("lepton_model_workers", version=before["version"]) == before["workers"])


@pytest.fixture
def bare(project):
    """A project without any service, and the recording of an incident of which nothing but the alert is known."""
    copy_folders(project, "runbooks", "slo", without=("recordings",))
    (project / "bare").mkdir()
    told = (ROOT / "runbooks/recordings/missing-values/incident.json").read_bytes()
    (project / "bare/incident.json").write_bytes(told)
    return project


@pytest.mark.parametrize("runbook", ["repair-data", "repair-model"])
def test_a_recording_without_metrics_and_requests_comes_to_no_verdict(bare, runbook):
    done = lepton("run", f"runbooks/{runbook}.ipynb", "-p", "recording", "bare", project=bare)
    assert done.returncode == 0, done.stdout + done.stderr
    results = find_run(runbook, bare).results
    assert (results["verdict"].value, results["applied"].value) == ("too few", False)


def test_a_size_cannot_be_found_without_requests_and_a_service_not_repaired_that_does_not_run(bare):
    sized = lepton("run", "runbooks/repair-capacity.ipynb", "-p", "recording", "bare", project=bare)
    assert sized.returncode != 0
    assert "0 requests were answered since the onset; 20 are needed" in sized.stdout + sized.stderr
    words = ["-p", "recording", "bare", "-p", "service", "goog"]
    gone = lepton("run", "runbooks/repair-model.ipynb", *words, project=bare)
    assert gone.returncode != 0
    assert "service 'goog': neither in lepton.toml nor in services/" in gone.stdout + gone.stderr
    assert not (bare / "services").exists()


def recorded(service, project, name, harm, then=lambda row: row):
    """Record 60 requests of a service that is well, and 60 after what harms it."""
    source = Samples()
    load = Load(service, source)
    start, _ = load.drive(60)
    harm()
    load.drive(60, then)
    source.scrape(service)
    load.logged()
    captured(service.folder, source, start, time.time(), project / name)
    return load


def run(project, runbook, recording, load, change=lambda row: row, seconds=6):
    """Run a runbook on the service while it is asked on, and return its results."""
    over = threading.Event()

    def go_on():
        while not over.is_set():
            load.number = 300
            with contextlib.suppress(httpx.TransportError):  # a worker that is replaced may cut a connection off
                load.drive(20, change, scrapes=1)
            time.sleep(0.1)  # load that leaves the runbook a processor

    asking = threading.Thread(target=go_on)
    asking.start()
    try:
        words = ["-p", "recording", recording, "-p", "service", "goog", "-p", "observe_seconds", str(seconds)]
        done = lepton("run", f"runbooks/{runbook}.ipynb", *words, project=project)
    finally:
        over.set()
        asking.join()
    assert done.returncode == 0, done.stdout + done.stderr
    made = find_run(runbook, project)
    return {name: result.value for name, result in made.results.items()}


def test_a_feed_in_percent_is_fixed_while_it_goes_on(service):
    project = service.folder.parents[1]

    def percent(row):
        return {name: 100 * value for name, value in row.items()}

    load = recorded(service, project, "percent", lambda: None, percent)
    before = service.sample("lepton_mended_rows_total")
    results = run(project, "repair-data", "percent", load, percent)
    assert results["applied"] is True
    assert set(read_desired_state(service.folder).input_fixes.scale.values()) == {0.01}
    assert service.sample("lepton_mended_rows_total") > before
    assert results["verdict"] == "recovered"
    assert results["rolled_back"] is False
    told = read_actions(service.folder)[-1]
    assert (told["action"], told["run"]) == ("set_state", find_run("repair-data", project).run_id)
    assert "@" in told["by"]  # run by hand
    assert results["objectives"]["rows"][0][0] == "Forecast sharpness"


def test_a_bad_version_is_rolled_back_and_the_indicator_recovers(service):
    project = service.folder.parents[1]
    registry = Registry(project / "models")

    def deploy():
        registry.promote("goog", "v3", "test", "by mistake")
        assert service.client.post("/admin/reload", json={"version": "v3"}, headers=ADMIN).status_code == 200

    load = recorded(service, project, "bad", deploy)
    results = run(project, "repair-model", "bad", load)
    assert (results["kind"], results["version"], results["applied"]) == ("rollback", "v1", True)
    assert results["verdict"] == "recovered"
    assert results["sli_after"] > results["sli_during"]
    assert registry.history("goog")[-1 - (results["retrained_version"] != "none")]["version"] == "v1"


def test_a_crowded_service_grows(service):
    project = service.folder.parents[1]
    source, before = Samples(), read_desired_state(service.folder)
    load = Load(service, source)
    start, _ = load.drive(60)
    with load.crowd(8):
        load.drive(120)
        source.scrape(service)
        load.logged()
        captured(service.folder, source, start, time.time(), project / "crowd")
        results = run(project, "repair-capacity", "crowd", load)
    assert results["applied"] is True
    made = find_run("repair-capacity", project)
    by_it = [one for one in read_actions(service.folder) if one["run"] == made.run_id]
    done = next(one["after"] for one in by_it if one["action"] == "set_state")
    assert done["queue_limit"] is not None
    assert f"{done['workers']} workers" in results["action"]
    wanted = before.workers if results["rolled_back"] else done["workers"]  # where the machine has no room for them
    assert read_desired_state(service.folder).workers == wanted
    kept = nbformat.read(made.folder(project) / "notebook.ipynb", 4)
    assert any("fig-waits" in cell.source for cell in kept.cells)
    judged = json.loads((made.folder(project) / "artifacts" / "recovery.json").read_text())
    assert results["objectives"]["rows"][0][-1] == f"alerted: {judged['verdict']}"  # others may have got worse
    assert (made.folder(project) / "artifacts" / "after" / "incident.json").exists()
    assert pd.Timestamp(read_actions(service.folder)[-1]["time"]) > pd.Timestamp(start, unit="s", tz="UTC")
