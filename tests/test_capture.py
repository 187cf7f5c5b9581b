"""Incidents of a real service, frozen into recordings, and what the diagnosis makes of them."""

import json
import shutil
import time

import numpy as np
import pandas as pd
import pytest
from helpers import ROOT, lepton_here
from live import Samples
from services import features, log_of, project_with_model, read_requests, serving, wait_for

from lepton_kit.data.profiles import read_profile
from lepton_kit.diagnosis import capture as capturing
from lepton_kit.diagnosis.capture import capture
from lepton_kit.errors import InputError
from lepton_kit.models.flavors import PROFILE
from lepton_kit.models.registry import Registry
from lepton_kit.project.declarations import declared
from lepton_kit.serving.control import change_desired_state, note_deployment
from lepton_kit.telemetry.declaration import Declaration
from lepton_kit.telemetry.health import RecordedMetrics
from lepton_kit.telemetry.recordings import Promise, Versions, read_recording
from lepton_kit.telemetry.scrape import Scraper
from lepton_kit.telemetry.selectors import labels_text
from lepton_kit.telemetry.slo import read_objectives
from lepton_kit.telemetry.store import Store

ROWS = 40


class Live:
    """A service that has answered `ROWS` requests, a batch, a wrong one, and was told some actuals and ratings."""

    def __init__(self, service, source, start):
        self.service, self.source, self.start, self.end = service, source, start, time.time() + 0.5
        self.registry = service.folder.parents[1] / "models"

    def capture(self, folder, **changes):
        project = self.registry.parent
        own = {name: changes.pop(name) for name in [*Declaration.model_fields] if name in changes}
        declaration = declared(project, "goog").model_copy(update=own)
        given = {"name": "goog", "declaration": declaration, "project": project, "source": self.source}
        window = {"start": self.start, "end": self.end, "folder": folder}
        return capture(**(given | window | changes))


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    project = project_with_model(tmp_path_factory.mktemp("live"))
    source, rows = Samples(), features().tail(ROWS).to_dict("records")
    with serving(project) as service:
        start = int(time.time() * 1000) / 1000  # the log counts whole milliseconds, and an answer may take less
        for number, row in enumerate(rows):
            client = service.client
            client.post("/v1/predict", json={"row": row}, headers={"X-Request-ID": f"r{number}"})
            client.post("/v1/feedback", json={"request_id": f"r{number}", "actual": number / 1000})
            if number % 10 == 0:
                source.scrape(service)
                client.post("/v1/feedback", json={"request_id": f"r{number}", "rating": 2, "comment": "odd\x1b[31m"})
        client.post("/v1/predict", json={"rows": rows[:3]}, headers={"X-Request-ID": "batch"})
        assert client.post("/v1/predict", json={"row": {}}).status_code == 422
        with (service.folder / "service.jsonl").open("a") as log:
            log.write('{"time": "no time"}\nnot JSON\n' + "x" * 200_000 + "\n")
            hostile = {"time": "", "level": "ERROR", "message": "\x1b[2J" + "y" * 5000, "fields": {"deep": [[1]]}}
            log.write(json.dumps(hostile | {"time": pd.Timestamp.now(tz="UTC").isoformat()}) + "\n")
        wait_for(lambda: read_requests(service.folder / "requests", start, time.time())["status"].eq(422).any())
        yield Live(service, source, start)


@pytest.fixture(scope="module")
def frozen(live, tmp_path_factory):
    return live.capture(tmp_path_factory.mktemp("incidents") / "i1" / "recording")


def test_a_recording_holds_every_request_with_its_answer_actual_and_rating(frozen):
    requests = frozen.requests
    assert len(requests) == ROWS + 3 + 1
    one = requests.set_index("request_id").loc["r10"]
    assert one["actual"] == 0.010 and one["rating"] == 2 and one["feedback"] == r"odd\x1b[31m"
    assert one["version"] == "v1" and one["status"] == 200 and one["latency_ms"] > 0
    assert one["lower"] < one["mean"] < one["upper"]
    assert requests.loc[requests["status"] == 422, "mean"].isna().all()


def test_each_row_of_a_batch_has_an_id_of_its_own(frozen):
    assert {"batch", "batch/1", "batch/2"} <= set(frozen.requests["request_id"])


def test_the_recording_is_named_after_its_incident_and_its_window(live, frozen):
    assert (frozen.incident.id, frozen.incident.service) == ("i1", "goog")
    assert frozen.incident.window.start.timestamp() == pytest.approx(live.start)


def test_a_further_recording_of_an_incident_is_named_after_it_too(live, tmp_path):
    assert live.capture(tmp_path / "i1" / "recording-2").incident.id == "i1"


def test_the_objectives_of_the_service_are_kept_as_they_were(live, tmp_path):
    objectives = read_objectives(ROOT / "slo/goog")
    promises = [Promise.of(one, time_scale=60) for one in objectives]
    kept = live.capture(tmp_path / "promised", promises=promises).incident.promises
    assert [one.objective() for one in kept] == objectives
    assert {one.time_scale for one in kept} == {60}


def test_metrics_are_those_of_the_service_alone(live, frozen, tmp_path):
    assert {"lepton_queue_requests", "http_server_request_duration_seconds_bucket"} <= set(frozen.metrics["metric"])
    live.source.scrape(live.service, job="other")
    again = live.capture(tmp_path / "again", end=time.time() + 1)
    assert {json.loads(text)["job"] for text in again.metrics["labels"]} == {"goog"}


def test_hostile_and_endless_log_lines_are_bounded_and_damaged_ones_counted(frozen):
    (hostile,) = frozen.logs.loc[frozen.logs["message"].str.contains("yyy"), "message"]
    assert len(hostile) < 550 and "\x1b" not in hostile
    assert "logs: 3 lines are damaged, and left out" in frozen.problems
    assert (frozen.logs["message"] == "POST /v1/predict answered 422").sum() == 1


def test_versions_their_files_and_training_rows_come_from_the_registry(frozen):
    assert frozen.incident.versions.current == "v1" and frozen.incident.versions.last_good is None
    assert set(frozen.models) == {"v1"} and len(frozen.reference) == 400
    assert "return_0" in frozen.reference and "actual" in frozen.reference
    profile = read_profile(frozen.models["v1"] / PROFILE)
    assert profile.rows >= 400 and "return_0" in profile.columns
    assert f"profile: of {profile.rows} rows that v1 learnt from" in frozen.incident.provenance.measured


def test_what_is_not_there_is_named_and_not_invented(live, tmp_path):
    frozen = live.capture(tmp_path / "r", deployments=None, logs="gone.jsonl", requests=(), model=None)
    said = " ".join([*frozen.incident.provenance.measured, *frozen.incident.provenance.derived, *frozen.problems])
    for part in (
        "no requests: the declaration names none",
        "deployments: no record of them",
        "no log lines",
        "gone.jsonl: no such file",
        "version in service: unknown",
        "no models: the declaration names none",
    ):
        assert part in said  # fmt: skip
    assert frozen.incident.deployments == () and {"logs.jsonl", "requests.parquet"} <= set(frozen.absent)


def test_nothing_of_this_machine_stands_in_the_recording(live, tmp_path):
    live.capture(tmp_path / "r", registry=str(tmp_path / "no-registry"))
    text = (tmp_path / "r" / "incident.json").read_text()
    assert str(tmp_path) not in text and str(live.service.folder) not in text


def test_alerts_are_taken_as_alertmanager_sends_them(live, tmp_path):
    alert = {
        "status": "firing",
        "labels": {"alertname": "GoogCoverage", "severity": "page"},
        "annotations": {"summary": "low"},
        "startsAt": "2026-11-25T03:16:56.123456789Z",
        "endsAt": "0001-01-01T00:00:00Z",
    }
    (kept,) = live.capture(tmp_path / "r", alerts=[alert]).incident.alerts
    assert (kept.name, kept.labels["severity"], kept.starts_at.year) == ("GoogCoverage", "page", 2026)
    with pytest.raises(InputError, match="startsAt"):
        live.capture(tmp_path / "r", alerts=[{"labels": {}}])


def test_changes_of_the_version_are_read_from_the_record_and_its_damaged_lines_are_counted(live, tmp_path):
    at = "2026-01-02T03:04:0{}Z"
    kept = [{"time": at.format(n), "version": v, "note": str(n)} for n, v in enumerate(["v1", "v1", "v2"])]
    (tmp_path / "deployments.jsonl").write_text("\n".join([*map(json.dumps, kept), "}{", '{"version": 3}']))
    frozen = live.capture(tmp_path / "r", deployments=str(tmp_path / "deployments.jsonl"))
    assert [(item.version, item.note) for item in frozen.incident.deployments] == [("v1", "0"), ("v2", "2")]
    assert [one for one in frozen.problems if one.startswith("deployments")] == [
        "deployments: 1 lines are damaged, and left out",
        "deployments: 1 entries have no time or version, and are left out",
    ]


def test_a_version_that_came_a_moment_ago_is_the_one_in_service(tmp_path):
    project = project_with_model(tmp_path)
    Registry(project / "models").promote("goog", "v2", "test", "better")
    row = features().iloc[-1].to_dict()
    with serving(project) as service:
        start = time.time()
        for _ in range(30):
            service.client.post("/v1/predict", json={"row": row})
        change_desired_state(service.folder, version="v1")
        note_deployment(service.folder, "v1", "by mistake")
        wait_for(lambda: service.client.get("/readyz").json()["version"] == "v1")
        for _ in range(5):
            service.client.post("/v1/predict", json={"row": row})
        wait_for(lambda: (read_requests(service.folder / "requests", start, time.time())["version"] == "v1").sum() == 5)
        frozen = Live(service, Samples(), start).capture(tmp_path / "r")
    assert frozen.incident.versions == Versions(current="v1", last_good="v2")


def test_the_last_good_version_is_the_one_promoted_before(live, tmp_path):
    registry = Registry(shutil.copytree(live.registry, tmp_path / "models"))
    registry.promote("goog", "v2", "test", "better")
    registry.promote("goog", "v1", "test", "no, it was better before")
    frozen = live.capture(tmp_path / "r", registry=str(registry.root))
    assert frozen.incident.versions.last_good == "v2" and set(frozen.models) == {"v1", "v2"}


def test_a_version_whose_files_are_damaged_is_left_out_and_named(live, tmp_path):
    registry = shutil.copytree(live.registry, tmp_path / "models")
    (registry / "goog" / "v1" / "model.safetensors").write_bytes(b"nothing")
    frozen = live.capture(tmp_path / "r", registry=str(registry))
    assert not frozen.models and "models/v1" in frozen.absent
    assert "models/v1: left out" in " ".join(frozen.incident.provenance.derived)


def test_a_recording_beyond_the_bounds_is_thinned_and_says_so(live, tmp_path, monkeypatch):
    for name, most in (("MOST_REQUESTS", 10), ("MOST_SAMPLES", 100), ("MOST_LINES", 20), ("MOST_REFERENCE", 50)):
        monkeypatch.setattr(capturing, name, most)
    frozen = live.capture(tmp_path / "r")
    assert len(frozen.requests) <= 10 and len(frozen.reference) == 50 and len(frozen.logs) <= 20
    assert len(frozen.metrics) < 400  # at least one sample of each series
    assert sum("is kept" in line for line in frozen.incident.provenance.derived) >= 3
    assert "POST /v1/predict answered 422" in set(frozen.logs["message"])


@pytest.mark.parametrize(
    ("jobs", "match", "kept"),
    [
        (["goog", "other", ""], {}, ["goog"]),
        (["other", ""], {}, [""]),  # those without a name may be the service's, those of another cannot
        (["other"], {}, []),
        (["goog", "other", ""], {"job": "other"}, ["other"]),
    ],
)
def test_no_sample_of_another_service_is_frozen(live, tmp_path, jobs, match, kept):
    metrics = pd.DataFrame(
        {
            "time": pd.Timestamp.now("UTC").as_unit("ms"),
            "metric": "up",
            "labels": [labels_text({"job": job, "instance": "i"}) for job in jobs],
            "value": 1.0,
        }
    )
    frozen = live.capture(tmp_path / "r", source=RecordedMetrics(metrics), match=match, end=time.time() + 60)
    assert [json.loads(text).get("job", "") for text in frozen.metrics["labels"]] == kept


def test_a_failure_leaves_the_recording_that_was_there(live, tmp_path):
    live.capture(tmp_path / "r")

    class Gone:
        def query(self, selector, start, end):
            raise InputError("the source is gone")

    with pytest.raises(InputError, match="gone"):
        live.capture(tmp_path / "r", source=Gone())
    assert len(read_recording(tmp_path / "r").requests) == ROWS + 4
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def test_a_window_without_requests_still_gives_a_recording(live, tmp_path):
    frozen = live.capture(tmp_path / "r", start=1000.0, end=2000.0)
    assert frozen.requests.empty and "requests.parquet" in frozen.absent
    assert frozen.incident.versions.current == "v1"


@pytest.mark.parametrize(("changes", "message"), [({"start": 5.0, "end": 5.0}, "earlier"), ({"end": np.nan}, "window")])
def test_a_window_that_is_none_is_refused(changes, message, live, tmp_path):
    with pytest.raises(InputError, match=message):
        live.capture(tmp_path / "r", **changes)


def test_the_command_captures_what_the_store_and_the_service_hold(tmp_path):
    project = project_with_model(tmp_path / "project")
    with serving(project) as service:
        scraper = Scraper(Store(project / "telemetry"), {"goog": str(service.client.base_url)}, interval=1.0)
        for row in features().tail(3).to_dict("records"):
            assert service.predict(row=row).status_code == 200
            scraper.scrape_once()
        wait_for(lambda: len(log_of(service)) == 3)
        done = lepton_here("capture", "goog", "--from", "10m", "-o", "incident", project=project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "recording incident: 3 requests" in done.stdout
    frozen = read_recording(project / "incident")
    answered = frozen.metrics[frozen.metrics["metric"] == "lepton_predict_requests_total"]
    assert answered.loc[answered["labels"].str.contains('"outcome":"answered"'), "value"].max() == 3
    for words, told in ((["--from", "soon", "-o", "incident"], "--from 'soon'"), (["-o", "models"], "not a recording")):
        refused = lepton_here("capture", "goog", *words, project=project)
        assert refused.returncode == 2
        assert told in refused.stderr
    assert (project / "models" / "goog").is_dir()
