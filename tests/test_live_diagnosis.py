"""What the diagnosis makes of recordings of a real service that span seconds, where the shipped one spans years."""

import json

import pytest
from helpers import copy_folders, lepton
from live import Load, Samples
from services import ADMIN, captured, keep_model, project_with_model, serving

from lepton_kit.diagnosis.causes import diagnose
from lepton_kit.telemetry.recordings import write_recording

REQUESTS, FIRST_DAY = 80, 500
QUEUE_LIMIT, CLIENTS = 2, 8


@pytest.fixture(scope="module")
def incidents(tmp_path_factory):
    """Recordings of one service that was well, had a stale feed, counted in percent, got a wrong model, was crowded."""
    project, source = project_with_model(tmp_path_factory.mktemp("live")), Samples()
    wrong = keep_model(project, shift=3.0)
    with serving(project, "--queue-limit", str(QUEUE_LIMIT)) as service:
        load, windows = Load(service, source), {}

        def well():
            load.number = FIRST_DAY
            return load.drive(REQUESTS)

        def well_then(name, drive):
            start, onset = well()
            windows[name] = (start, drive()[1], onset)

        held = dict(load.rows[FIRST_DAY + REQUESTS])
        well_then("well", lambda: load.drive(REQUESTS))
        well_then("stale", lambda: load.drive(REQUESTS, lambda row: held))
        well_then("percent", lambda: load.drive(REQUESTS, lambda row: {name: 100 * row[name] for name in row}))
        start, onset = well()
        with load.crowd(CLIENTS):
            windows["crowd"] = (start, load.drive(REQUESTS // 4)[1], onset)
        start, onset = well()
        assert service.client.post("/admin/reload", json={"version": wrong}, headers=ADMIN).status_code == 200
        windows["model"] = (start, load.drive(REQUESTS)[1], onset)
        load.logged()
        folder = tmp_path_factory.mktemp("incidents")
        made = {
            name: captured(service.folder, source, start, end, folder / name)
            for name, (start, end, _) in windows.items()
        }
    return made, {name: onset for name, (*_, onset) in windows.items()}


@pytest.mark.parametrize(
    ("name", "cause"), [("stale", "data"), ("percent", "data"), ("crowd", "compute"), ("model", "model")]
)
def test_what_was_done_to_a_live_service_is_found_within_its_seconds(name, cause, incidents):
    recordings, onsets = incidents
    diagnosis = diagnose(recordings[name])
    # On a busy machine requests really are slower then: that is a second cause.
    named = {diagnosis.cause, *diagnosis.also}
    assert cause in named <= {cause, "compute"}, diagnosis.table().to_string()
    assert abs(diagnosis.onset.timestamp() - onsets[name]) < 2


def test_a_live_service_that_is_well_is_not_blamed_on_its_data_or_its_model(incidents):
    diagnosis = diagnose(incidents[0]["well"])
    assert diagnosis.cause not in ("data", "model")
    found = {item.name: item.finding for item in diagnosis.evidence}
    assert (found["contract"], found["served_version"], found["errors"]) == ("kept", "matches", "steady")


def test_a_deployment_is_told_in_seconds_and_times_with_their_seconds(incidents):
    diagnosis = diagnose(incidents[0]["model"])
    deployment = next(item for item in diagnosis.evidence if item.name == "deployment")
    assert deployment.finding == "deployed" and deployment.unit == "s before the onset"
    assert diagnosis.table()["since"].str.fullmatch(r"|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d").all()


def test_counters_of_a_queue_are_not_taken_for_its_length(incidents):
    diagnosis = diagnose(incidents[0]["well"])
    queue = next(item for item in diagnosis.evidence if item.name == "queue")
    assert queue.finding in ("steady", "not checked")


def test_the_runbook_diagnoses_a_captured_recording(incidents, project):
    copy_folders(project, "runbooks", without=("recordings",))
    write_recording(incidents[0]["stale"], project / "stale")
    done = lepton("run", "runbooks/incident-diagnosis.ipynb", "-p", "recording", "stale", project=project)
    assert done.returncode == 0, done.stdout + done.stderr
    (answer,) = (project / "runs").glob("*/artifacts/diagnosis.json")
    assert json.loads(answer.read_text())["cause"] == "data"
