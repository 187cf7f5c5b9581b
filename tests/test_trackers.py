"""Runs in trackers: a real MLflow server, TensorBoard's own reader, OpenLineage events, RO-Crates, one's own."""

import base64
import http.server
import json
import shutil

import httpx
import mlflow_server
import numpy as np
import pandas as pd
import pytest
from google.protobuf.json_format import Parse
from helpers import Files, lepton_here, listening, write_notebook
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from lepton_kit.errors import InputError
from lepton_kit.runs import trackers
from lepton_kit.runs.manifest import Manifest, Result, find_run
from lepton_kit.runs.runner import Request, run_notebook
from lepton_kit.runs.targets import Target, set_targets
from lepton_kit.runs.trackers import DEFAULTS, track
from lepton_kit.runs.trackers.mlflow import MLflow

CELLS = [
    "import pandas as pd\nimport lepton_kit as lk",
    "lk.record('mae', 0.25, unit='USD')\nlk.record('is_better', True)\nlk.record('verdict', 'good')",
    "loss = pd.DataFrame({'epoch': [0, 1, 0, 1], 'model': ['a', 'a', 'b', 'b'], 'loss': [3.0, 2.0, 5.0, None]})\n"
    "loss.to_csv(lk.artifact('curves.csv'), index=False)",
]
PARAMETERS = "alpha: float = 0.5  # how much\nname: str = 'x'  # whose"
OWN = "from lepton_kit.runs.trackers import tracker\n\n@tracker('mine')\ndef write(run, target):\n"
CURVES = {"curves/a/loss": [(0, 3.0), (1, 2.0)], "curves/b/loss": [(0, 5.0)]}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A project with one run."""
    project = tmp_path_factory.mktemp("tracked")
    (project / "lepton.toml").write_text("")
    (project / "notebooks").mkdir()
    notebook = write_notebook(project / "notebooks" / "a.ipynb", CELLS, PARAMETERS)
    assert run_notebook(Request(notebook), project).status == "succeeded"
    return project


@pytest.fixture
def project(ran, tmp_path):
    """A copy of it."""
    return shutil.copytree(ran, tmp_path / "project")


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory):
    if (why := mlflow_server.missing()) is not None:
        pytest.skip(why)
    with mlflow_server.mlflow_server(tmp_path_factory.mktemp("mlflow")) as address:
        yield address


def ask(address, what, **sent):
    return httpx.post(f"{address}/api/2.0/mlflow/{what}", json=sent).raise_for_status().json()


def experiments(address):
    return {
        one["name"]: one["experiment_id"] for one in ask(address, "experiments/search", max_results=99)["experiments"]
    }


def runs_in(address, name):
    return ask(address, "runs/search", experiment_ids=[experiments(address)[name]]).get("runs", [])


def test_mlflow_holds_what_a_run_was_given_found_and_left(project, mlflow):
    run = find_run("a", project)
    page = track(run, project, "mlflow", Target(to=mlflow))
    (found,) = [one for one in runs_in(mlflow, "a") if one["info"]["run_name"] == run.run_id]
    assert page.endswith(found["info"]["run_id"]) and found["info"]["status"] == "FINISHED"
    assert found["info"]["start_time"] == round(run.started.timestamp() * 1000)
    assert found["info"]["end_time"] == round(run.ended.timestamp() * 1000)
    data = {kind: {one["key"]: one["value"] for one in found["data"][kind]} for kind in ("params", "metrics", "tags")}
    assert data["params"] == {"alpha": "0.5", "name": "x"}
    assert data["metrics"]["mae"] == 0.25 and data["metrics"]["is_better"] == 1
    assert data["tags"]["result.verdict"] == "good" and data["tags"]["lepton.status"] == "succeeded"
    for name, wanted in CURVES.items():
        asked = {"run_id": found["info"]["run_id"], "metric_key": name}
        told = httpx.get(f"{mlflow}/api/2.0/mlflow/metrics/get-history", params=asked).json()["metrics"]
        assert [(one.get("step", 0), one["value"]) for one in told] == wanted
    place = f"{found['info']['experiment_id']}/{found['info']['run_id']}/artifacts/artifacts/curves.csv"
    kept = httpx.get(f"{mlflow}/api/2.0/mlflow-artifacts/artifacts/{place}")
    assert kept.content == (run.folder(project) / "artifacts" / "curves.csv").read_bytes()


def test_a_run_is_written_once_and_one_left_half_written_is_written_anew(project, mlflow):
    run = find_run("a", project).model_copy(update={"name": "halves"})
    with MLflow(mlflow) as server:
        half = server.begin(server.experiment("halves"), run.run_id, run.run_id, 0.0, {})
    page = track(run, project, "mlflow", Target(to=mlflow))
    assert half not in page and track(run, project, "mlflow", Target(to=mlflow)) == page
    (found,) = runs_in(mlflow, "halves")
    assert page.endswith(found["info"]["run_id"]) and found["info"]["status"] == "FINISHED"


def test_mlflow_is_told_which_version_served_when(project, mlflow):
    (project / "lepton.toml").write_text('[services.served]\ndeployments = "deployed.jsonl"\n')
    first, second, third = (
        {"time": f"2026-11-30T1{hour}:00:00Z", "version": f"v{hour}", "note": ""} for hour in range(3)
    )
    for known in ([first, second], [first, second, third]):
        (project / "deployed.jsonl").write_text("".join(json.dumps(one) + "\n" for one in known))
        done = lepton_here("export", "--service", "served", "--mlflow", "--to", mlflow, project=project)
        assert done.returncode == 0, done.stderr
    runs = sorted((one["info"] for one in runs_in(mlflow, "served in service")), key=lambda one: one["start_time"])
    assert [(one["run_name"], one["status"]) for one in runs] == [
        ("v0", "FINISHED"), ("v1", "FINISHED"), ("v2", "RUNNING"),
    ]  # fmt: skip
    assert [one["end_time"] for one in runs[:2]] == [one["start_time"] for one in runs[1:]]


def test_tensorboard_reads_the_numbers_and_curves(project):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = find_run("a", project)
    folder = track(run, project, "tensorboard", Target(to="tb"))
    read = EventAccumulator(folder)
    read.Reload()
    assert [one.value for one in read.Scalars("mae")] == [0.25]
    for name, wanted in CURVES.items():
        assert [(one.step, one.value) for one in read.Scalars(name)] == wanted
    assert "alpha" in read.Tensors("parameters/text_summary")[0].tensor_proto.string_val[0].decode()
    before = sorted((project / "tb").rglob("*"))
    assert track(run, project, "tensorboard", Target(to="tb")) == folder
    assert sorted((project / "tb").rglob("*")) == before


def test_openlineage_gets_a_start_and_an_end_with_what_was_made(project):
    sent = []

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            sent.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(201)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_): ...

    run = find_run("a", project)
    with listening(Receiver) as address:
        track(run, project, "openlineage", Target(to=address))
    track(run, project, "openlineage", Target(to="events.jsonl"))
    (path, start), (_, end) = sent
    assert [json.loads(line) for line in (project / "events.jsonl").read_text().splitlines()] == [start, end]
    assert path == "/api/v1/lineage" and (start["eventType"], end["eventType"]) == ("START", "COMPLETE")
    assert start["run"]["runId"] == end["run"]["runId"] and start["job"]["name"] == "notebooks/a.ipynb"
    assert start["eventTime"] == run.started.isoformat() and end["eventTime"] == run.ended.isoformat()
    assert end["outputs"] == [{"namespace": "lepton", "name": f"runs/{run.run_id}/artifacts/curves.csv"}]


def test_opentelemetry_gets_a_span_for_the_run_and_one_for_each_cell_that_ran(project):
    sent = []

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            sent.append((self.path, self.headers["Content-Type"], body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_): ...

    notebook = write_notebook(project / "notebooks" / "c.ipynb", [*CELLS, "raise ValueError('no such day')", "1"])
    run = run_notebook(Request(notebook), project)
    with listening(Receiver) as address:
        track(run, project, "opentelemetry", Target(to=address))
    track(run, project, "opentelemetry", Target(to="traces.jsonl"))
    [(path, kind, body)] = sent
    assert (path, kind) == ("/v1/traces", "application/json")
    assert json.loads((project / "traces.jsonl").read_text()) == json.loads(body)
    whole = json.loads(body)
    for span in whole["resourceSpans"][0]["scopeSpans"][0]["spans"]:  # OTLP's JSON has ids in hexadecimal, not base64
        for name in {"traceId", "spanId", "parentSpanId"} & span.keys():
            span[name] = base64.b64encode(bytes.fromhex(span[name])).decode()
    read = Parse(json.dumps(whole), ExportTraceServiceRequest())  # an unknown or ill-typed field is an error
    first, *cells = read.resource_spans[0].scope_spans[0].spans
    assert (first.name, first.status.code, first.parent_span_id) == ("notebooks/c.ipynb", 2, b"")
    assert first.start_time_unix_nano == round(run.started.timestamp() * 1e6) * 1000
    told = {one.key: one.value for one in first.attributes}
    assert told["lepton.status"].string_value == "failed"
    assert told["lepton.result.mae"].double_value == 0.25
    assert [(cell.name, cell.status.code) for cell in cells] == [
        (f"cell {number}", code) for number, code in [(1, 1), (2, 1), (3, 1), (4, 1), (5, 2)]
    ]
    assert cells[-1].status.message == "ValueError: no such day"
    assert {cell.parent_span_id for cell in cells} == {first.span_id}
    assert len({span.span_id for span in [first, *cells]}) == 6
    assert {span.trace_id for span in [first, *cells]} == {first.trace_id}
    assert len(first.trace_id) == 16 and len(first.span_id) == 8
    assert all(first.start_time_unix_nano <= c.start_time_unix_nano <= c.end_time_unix_nano for c in cells)


@pytest.mark.parametrize("what", ["no notebook", "no cells"])
def test_opentelemetry_gets_the_span_of_a_run_that_left_no_cells(project, what):
    run = find_run("a", project)
    if what == "no cells":
        run = run.model_copy(update={"cells": []})
    else:
        (run.folder(project) / "notebook.ipynb").unlink()
    track(run, project, "opentelemetry", Target(to="traces.jsonl"))
    told = json.loads((project / "traces.jsonl").read_text())
    assert [one["name"] for one in told["resourceSpans"][0]["scopeSpans"][0]["spans"]] == ["notebooks/a.ipynb"]


def test_a_run_that_failed_says_so_with_its_error(project):
    notebook = write_notebook(project / "notebooks" / "b.ipynb", ["raise ValueError('no such day')"])
    run = run_notebook(Request(notebook), project)
    track(run, project, "openlineage", Target(to="events.jsonl"))
    end = json.loads((project / "events.jsonl").read_text().splitlines()[-1])
    assert end["eventType"] == "FAIL" and "no such day" in end["run"]["facets"]["errorMessage"]["message"]
    crate = json.loads(
        (project / track(run, project, "ro-crate", Target(to="crates")) / "ro-crate-metadata.json").read_text()
    )
    (action,) = [one for one in crate["@graph"] if one["@type"] == "CreateAction"]
    assert action["actionStatus"] == "http://schema.org/FailedActionStatus" and "no such day" in action["error"]


def test_an_ro_crate_holds_the_files_and_every_link_in_it_leads_somewhere(project):
    run = find_run("a", project)
    folder = project / track(run, project, "ro-crate", Target(to="crates"))
    graph = {one["@id"]: one for one in json.loads((folder / "ro-crate-metadata.json").read_text())["@graph"]}
    files = {one["@id"] for one in graph.values() if one["@type"] == "File"}
    assert files == {"notebook.ipynb", "manifest.json", "artifacts/curves.csv"}
    assert all((folder / name).read_bytes() == (run.folder(project) / name).read_bytes() for name in files)
    linked = {
        to["@id"] for one in graph.values() for value in one.values()
        for to in (value if isinstance(value, list) else [value]) if isinstance(to, dict)
    }  # fmt: skip
    assert linked - graph.keys() == {"https://w3id.org/ro/crate/1.1"}
    (action,) = [one for one in graph.values() if one["@type"] == "CreateAction"]
    assert {one["@id"] for one in action["result"]} == files and len(action["object"]) == 2


def test_a_project_with_trackers_writes_each_run_and_says_which_did_not_get_it(project):
    (project / "mine.py").write_text(f"{OWN}    open(target, 'a').write(run.manifest.run_id)\n    return target\n")
    (project / "lepton.toml").write_text(
        '[track]\nmlflow = "http://me:hunter22@127.0.0.1:9"\nmine = { to = "told.txt", file = "mine.py" }\n'
    )
    events = []
    run = run_notebook(Request(project / "notebooks" / "a.ipynb"), project, events.append)
    assert run.status == "succeeded" and (project / "told.txt").read_text() == run.run_id
    (told,) = [one.text for one in events if one.kind == "not_tracked"]
    assert "tracker 'mlflow' = 'http://127.0.0.1:9': cannot be reached" in told
    assert f"lepton export {run.run_id} --tracker mlflow" in told and "hunter22" not in told
    assert Manifest.load(run.folder(project) / "manifest.json") == run


def test_a_tracker_of_ones_own_that_raises_tells_no_password_and_one_that_hangs_is_not_waited_for(project, monkeypatch):
    monkeypatch.setattr(trackers, "MOST_S", 5.0)
    (project / "mine.py").write_text(f"{OWN}    raise RuntimeError(f'503 of {{target}} for http://t0ken@proxy')\n")
    (project / "slow.py").write_text(OWN.replace("mine", "slow") + "    import time\n    time.sleep(60)\n")
    (project / "lepton.toml").write_text(
        '[track]\nmine = { to = "http://me:hunter22@host", file = "mine.py" }\nslow = { to = "x", file = "slow.py" }\n'
    )
    told = []
    trackers.track_all(find_run("a", project), project, set_targets(project), told.append)
    assert (
        "tracker 'mine' = 'http://me:***@host': RuntimeError: 503 of http://me:***@host for http://***@proxy" in told[0]
    )
    assert "tracker 'slow': did not take the run within 5 s; to write it there later: lepton export" in told[1]
    done = lepton_here("export", "a", "--tracker", "mine", project=project)
    assert done.returncode == 2 and "hunter22" not in done.stdout + done.stderr and "t0ken" not in done.stderr


def test_curves_leave_out_what_is_no_number_and_keep_those_without_a_name(tmp_path):
    table = pd.DataFrame(
        {"step": [0, 1, 2], "name": [None, None, "a"], "loss": [1.0, np.inf, 3.0], "list": [[1], [2], [3]]}
    )
    result = Result(value={"columns": list(table), "rows": table.to_numpy().tolist()})
    manifest = Manifest.model_construct(results={"t": result}, artifacts=[])
    curves = trackers.Run(manifest, tmp_path).curves
    assert {name: curve.to_dict() for name, curve in curves.items()} == {"t/nan/loss": {0: 1.0}, "t/a/loss": {2: 3.0}}


def test_what_cannot_be_exported_is_refused_by_name(project):
    def refused(*words):
        done = lepton_here("export", *words, project=project)
        assert done.returncode == 2
        return done.stderr

    assert "nowhere to write to" in refused("a")
    assert "tracker 'wandb': must be one of" in refused("a", "--tracker", "wandb", "--to", "x")
    assert "--to 'x': stands for one tracker" in refused("a", "--mlflow", "--ro-crate", "--to", "x")
    assert "mlruns': must be the address of an MLflow server" in refused("a", "--mlflow", "--to", "mlruns")
    assert "'http://x/y': must be a folder" in refused("a", "--ro-crate", "--to", "http://x/y")
    assert "must be given an address or a folder" in refused("a", "--tensorboard", "--to", "")
    assert "must be given an address or a folder" in refused("a", "--store")  # none is named, so none would fetch it
    with listening(Files) as elsewhere:
        told = refused("a", "--mlflow", "--to", elsewhere.replace("http://", "http://t0ken@"))
        assert f"tracker 'mlflow' = '{elsewhere}'" in told
    assert "give either runs, or a service" in refused("--mlflow")
    assert "declares no deployments" in refused_service(project)
    with pytest.raises(InputError, match="is running; a tracker gets a run once it has ended"):
        track(
            find_run("a", project).model_copy(update={"ended": None, "status": "running"}),
            project,
            "mlflow",
            Target(to=""),
        )
    (project / "lepton.toml").write_text("[track]\nmlflow = { where = 'x' }\n")
    assert "track.mlflow" in refused("a", "--mlflow")


def refused_service(project):
    (project / "lepton.toml").write_text("[services.bare]\n")
    return lepton_here("export", "--service", "bare", "--mlflow", project=project).stderr


def test_a_run_goes_where_lepton_toml_says_and_else_to_the_usual_place(project):
    (project / "lepton.toml").write_text('[track]\nro-crate = "here"\n')
    run = find_run("a", project)
    assert lepton_here("export", "a", project=project).stdout == f"{run.run_id}: {project}/here/{run.run_id}\n"
    lepton_here("export", "a", "--openlineage", project=project)
    assert (project / DEFAULTS["openlineage"]).is_file()
