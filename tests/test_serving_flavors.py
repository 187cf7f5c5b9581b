"""Models of other makers: registered, served by a real `lepton serve`, asked by its own and the open protocol."""

import itertools
import json
import time

import numpy as np
import pandas as pd
import pytest
from helpers import lepton_here
from models_of_others import COLUMNS, NUMBERS, Scorer, classifier, keep_exported, keep_onnx, keep_skops, people
from services import ADMIN, TOKEN, log_of, serving
from sklearn.linear_model import LogisticRegression

from lepton_kit.errors import InputError
from lepton_kit.models.flavors import load_model
from lepton_kit.models.golden import golden_deviation
from lepton_kit.models.registry import Registry, register
from lepton_kit.models.tasks import TASKS
from lepton_kit.ops.deployment import ServiceClient, deploy
from lepton_kit.serving.canary import Counts, Rule, judge
from lepton_kit.telemetry.declaration import Declaration
from lepton_kit.telemetry.readers import read_requests

BINARY = TASKS["classification_binary"]
SENT = itertools.count()
ROW = {"age": 51.0, "income": 4.0, "colour": "red"}


@pytest.fixture(scope="module")
def table():
    return people()


@pytest.fixture(scope="module")
def project(tmp_path_factory, table):
    """Give a project with a classifier: v1 by skops, v2 the same on other rows, v3 wrong, v4 ONNX, v5 torch.export."""
    place = tmp_path_factory.mktemp("flavors")
    (place / "lepton.toml").write_text("")
    registry, reference = Registry(place / "models"), place / "reference.parquet"
    table.to_parquet(reference)
    table.to_csv(place / "reference.csv", index=False)
    wrong = classifier(table.assign(actual=1 - table["actual"]))
    numbers = LogisticRegression().fit(table[NUMBERS].to_numpy(), table["actual"])
    for number, folder in enumerate(
        (
            keep_skops(place / "one", classifier(table)),
            keep_skops(place / "two", classifier(people(seed=1))),
            keep_skops(place / "wrong", wrong),
            keep_onnx(place / "onnx", numbers, NUMBERS),
            keep_exported(place / "torch", Scorer(2), NUMBERS),
        ),
        1,
    ):
        assert register(registry, "credit", folder, reference=reference) == f"v{number}"
    registry.promote("credit", "v1", "test", "the first")
    return place


@pytest.fixture(scope="module")
def service(project):
    with serving(project, model="credit") as running:
        yield running


# --- the registry -----------------------------------------------------------------------------------------------------


def test_a_version_of_any_flavor_is_kept_with_all_that_is_needed_of_it(project, table):
    registry = Registry(project / "models")
    for version in ("v1", "v2", "v3", "v4", "v5"):
        model, golden = registry.load("credit", version), registry.golden("credit", version)
        assert golden_deviation(model, golden) == 0
        assert list(registry.reference("credit", version)) == [*model.columns, "actual"]
        assert registry.card("credit", version)["task"] == "classification_binary"
    assert registry.card("credit", "v4")["flavor"] == "onnx"
    with pytest.raises(InputError, match="has been changed"):
        (registry.folder("credit", "v5") / "model.pt2").open("ab").write(b" ")
        registry.load("credit", "v5")
    content = (registry.folder("credit", "v5") / "model.pt2").read_bytes()
    (registry.folder("credit", "v5") / "model.pt2").write_bytes(content[:-1])


def test_a_version_loaded_and_saved_again_is_the_same_version(project):
    registry = Registry(project / "models")
    again = registry.save("credit", registry.load("credit", "v1"), {"data": None}, registry.golden("credit", "v1"))
    assert again == "v1"


def test_the_command_keeps_a_model_and_says_where(project):
    words = ["register", "other", "one", "--reference", "reference.csv", "--note", "for a test", "--promote"]
    told = lepton_here(*words, project=project)
    assert told.returncode == 0 and "v1 is stored in" in told.stdout, told.stderr
    registry = Registry(project / "models")
    assert registry.current("other") == "v1" and registry.card("other")["purpose"] == "for a test"
    assert registry.load("other").categorical == ("colour",)


def test_answers_other_than_the_golden_ones_keep_nothing(project, table, tmp_path):
    registry, model = Registry(project / "models"), load_model(project / "one")
    golden = table[COLUMNS].tail(3).assign(proba=model.predict(table.tail(3))["proba"])
    golden.to_parquet(tmp_path / "golden.parquet")
    assert register(registry, "golden", project / "one", golden=tmp_path / "golden.parquet") == "v1"
    golden.assign(proba=golden["proba"] + 1e-3).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(InputError, match="answers otherwise"):
        register(registry, "golden", project / "one", golden=tmp_path / "other.parquet")
    golden.drop(columns="age").to_parquet(tmp_path / "less.parquet")
    with pytest.raises(InputError, match="lacks age"):
        register(registry, "golden", project / "one", golden=tmp_path / "less.parquet")
    assert registry.versions("golden") == ["v1"]


def test_a_reference_without_what_came_true_or_a_column_is_refused(project, table, tmp_path):
    registry = Registry(project / "models")
    for lacking, why in (("actual", "what came true"), ("colour", "lacks colour")):
        table.drop(columns=lacking).to_csv(tmp_path / "reference.csv", index=False)
        with pytest.raises(InputError, match=why):
            register(registry, "less", project / "one", reference=tmp_path / "reference.csv")


# --- the service ------------------------------------------------------------------------------------------------------


def tensor(name, values):
    kind = "BYTES" if isinstance(values[0], str) else "FP64"
    return {"name": name, "shape": [len(values), 1], "datatype": kind, "data": list(values)}


def test_a_classifier_answers_by_its_task_and_keeps_its_log(service, project):
    model = Registry(project / "models").load("credit", "v1")
    wanted = float(model.predict(pd.DataFrame([ROW]))["proba"].iloc[0])
    inside, loss = ("lepton_forecast_actuals_total", {"inside": "true"}), ("lepton_prediction_loss_sum", {})
    before = [service.sample(name, version="v1", **labels) for name, labels in (inside, loss)]
    answer = service.predict(row=ROW).json()
    assert answer["version"] == "v1" and answer["predictions"] == [{"proba": pytest.approx(wanted)}]
    told = {"request_id": answer["request_id"], "actual": 1, "rating": 4}
    assert service.client.post("/v1/feedback", json=told).status_code == 202
    wrong = service.client.post("/v1/feedback", json={**told, "actual": "yes"})
    assert wrong.status_code == 422 and "must be a number" in wrong.text
    row = log_of(service).set_index("request_id").loc[answer["request_id"]]
    assert row["proba"] == pytest.approx(wanted)
    assert (row["feature_colour"], row["feature_age"], row["actual"]) == ("red", 51.0, 1)
    now = [service.sample(name, version="v1", **labels) for name, labels in (inside, loss)]
    assert [one - old for one, old in zip(now, before, strict=True)] == [1, pytest.approx(-np.log(wanted))]


@pytest.mark.parametrize(
    ("change", "field"),
    [({"colour": 1.5}, "row.colour"), ({"age": "old"}, "row.age"), ({"age": None}, "row.age")],
)
def test_a_row_that_does_not_fit_is_refused_by_its_column(service, change, field):
    answer = service.predict(row={**ROW, **change})
    assert answer.status_code == 422
    assert field in [".".join(one["field"].split(".")[:2]) for one in answer.json()["fields"]]


def test_the_open_inference_protocol_is_answered(service, project, table):
    assert service.client.get("/v2/health/live").json() == {"live": True}
    assert service.client.get("/v2/health/ready").status_code == 200
    told = service.client.get("/v2/models/credit").json()
    assert [(one["name"], one["datatype"]) for one in told["inputs"]] == [
        ("age", "FP64"), ("income", "FP64"), ("colour", "BYTES"),
    ]  # fmt: skip
    asked = {"inputs": [tensor(name, table[name].head(3).tolist()) for name in COLUMNS]}
    wanted = Registry(project / "models").load("credit", "v1").predict(table.head(3))["proba"]
    for place in ("/v2/models/credit/infer", "/v2/models/credit/versions/1/infer"):
        answer = service.client.post(place, json=asked).json()
        (output,) = answer["outputs"]
        assert (answer["model_version"], output["name"], output["shape"]) == ("v1", "proba", [3])
        np.testing.assert_allclose(output["data"], wanted)
    for place, body, status in (
        ("/v2/models/other/infer", asked, 404),
        ("/v2/models/credit/versions/9/infer", asked, 409),
        ("/v2/models/credit/infer", {"inputs": []}, 422),
        ("/v2/models/credit/infer", {"inputs": asked["inputs"][:2]}, 422),
    ):
        assert service.client.post(place, json=body).status_code == status


def test_the_service_is_itself_a_model_over_http(service, project, table):
    remote = load_model(f"{str(service.client.base_url).rstrip('/')}/v2/models/credit", BINARY)
    assert (remote.columns, remote.categorical) == (tuple(COLUMNS), ("colour",))
    own = Registry(project / "models").load("credit", "v1").predict(table)
    np.testing.assert_allclose(remote.predict(table)["proba"], own["proba"])


def test_the_service_declares_itself(service, project):
    said = Declaration.model_validate(json.loads((service.folder / "declaration.json").read_text()))
    assert (said.task, said.model, said.time_series) == ("classification_binary", "credit", False)
    (place,) = said.requests
    assert place.sql == "sqlite:///services/credit/requests/requests.sqlite"
    assert said.columns.prediction_probas == ("answers.proba",)
    assert set(said.actions) == {"roll_back", "deploy", "scale", "restart"}
    assert list(project.glob(said.logs)) and (project / said.deployments).is_file()
    assert said.address == str(service.client.base_url).rstrip("/")


def test_its_requests_are_read_as_those_of_any_declared_service(service, project):
    said = Declaration.model_validate(json.loads((service.folder / "declaration.json").read_text()))
    answer = service.predict(rows=[ROW, {**ROW, "colour": "blue"}]).json()
    for row, actual in ((0, 1), (1, 0)):  # one of each class, or the reader says that the positive one never came true
        told = {"request_id": answer["request_id"], "row": row, "actual": actual}
        assert service.client.post("/v1/feedback", json=told).status_code == 202
    read = read_requests(said, project, time.time() - 60, time.time() + 1)
    assert not read.problems
    rows = read.table.set_index("request_id").loc[[answer["request_id"], f"{answer['request_id']}/1"]]
    assert rows["proba"].tolist() == [one["proba"] for one in answer["predictions"]]
    assert rows["feature_colour"].tolist() == ["red", "blue"] and rows["actual"].tolist() == [1, 0]
    assert (rows["status"] == 200).all() and (rows["version"] == answer["version"]).all()


def test_versions_of_other_flavors_answer_in_the_same_service(service, project, table):
    registry = Registry(project / "models")
    for version in ("v4", "v5"):
        body = {"version": "v1", "candidate": version, "share": 0}
        assert service.client.post("/admin/reload", json=body, headers=ADMIN).status_code == 200
        rows = table[NUMBERS].head(2).to_numpy().ravel().tolist()
        asked = {"inputs": [{"name": "rows", "shape": [2, 2], "datatype": "FP64", "data": rows}]}
        answer = service.client.post(f"/v2/models/credit/versions/{version}/infer", json=asked).json()
        wanted = registry.load("credit", version).predict(table.head(2))["proba"]
        np.testing.assert_allclose(answer["outputs"][0]["data"], wanted, atol=1e-6)
    service.client.post("/admin/reload", json={"version": "v1"}, headers=ADMIN)


def traffic(service, rows):
    """Ask for each row, and tell what came true of it at once."""

    def ask(share):
        for row in rows.to_dict("records"):
            sent = {"row": {name: row[name] for name in COLUMNS}}
            answer = service.client.post("/v1/predict", json=sent, headers={"X-Request-ID": f"sent-{next(SENT)}"})
            told = {"request_id": answer.json()["request_id"], "actual": row["actual"]}
            service.client.post("/v1/feedback", json=told)

    return ask


def test_a_classifier_that_is_wrong_is_taken_back_and_one_as_good_is_promoted(service, project):
    registry, client = Registry(project / "models"), ServiceClient(str(service.client.base_url), TOKEN)
    asking = traffic(service, people(120, seed=5))
    bad = deploy(client, registry, "credit", "v3", asking, steps=(0.5, 1.0))
    assert bad.outcome == "rolled back"
    assert "share of answers not of the right class" in bad.reason and "mean log loss" in bad.reason
    good = deploy(client, registry, "credit", "v2", asking, steps=(0.5, 1.0))
    assert good.outcome == "promoted", good.reason
    assert good.apart < bad.apart and good.record()["unit"] == "of probability"
    assert registry.current("credit") == "v2"


def test_a_version_without_golden_examples_is_not_deployed(service, project):
    registry = Registry(project / "models")
    bare = registry.save("credit", registry.load("credit", "v1"), {"data": "another"})
    with pytest.raises(InputError, match="keeps no golden examples"):
        deploy(ServiceClient(str(service.client.base_url), TOKEN), registry, "credit", bare, lambda share: None)


# --- the canary -------------------------------------------------------------------------------------------------------


def counted(requests, hits, loss):
    return Counts(
        requests=requests, actuals=requests, inside=hits * requests, loss=loss * requests,
        loss_squares=(loss**2 + 0.04) * requests, losses=requests,
    )  # fmt: skip


@pytest.mark.parametrize(("hits", "loss", "worse"), [(0.8, 0.4, []), (0.8, 0.6, ["mean log loss"]), (0.5, 0.4, None)])
def test_a_classifier_is_judged_by_its_hits_and_its_loss(hits, loss, worse):
    found = judge(counted(400, 0.8, 0.4), counted(400, hits, loss), Rule(), task=BINARY)
    bad = [one.name for one in found if one.verdict == "worse"]
    assert bad == (["share of answers not of the right class"] if worse is None else worse)
