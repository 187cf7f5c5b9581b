"""Models of other makers are loaded by their flavor, answer in their task's columns, and never execute code."""

from __future__ import annotations

import contextlib
import http.server
import io
import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
import torch
from helpers import listening
from models_of_others import (
    COLUMNS,
    NUMBERS,
    Scorer,
    classifier,
    keep_exported,
    keep_onnx,
    keep_skops,
    people,
    rewritten,
)
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import FunctionTransformer

from lepton_kit.errors import InputError
from lepton_kit.models.evaluation import Bootstrap, gate, losses
from lepton_kit.models.flavors import load_model
from lepton_kit.models.retraining import retrain
from lepton_kit.models.tasks import TASKS
from lepton_kit.models.training import Examples

BINARY, MANY = TASKS["classification_binary"], TASKS["classification_multiclass"]


class Bomb:
    """A pickle that makes a file where it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """Give the file that a bomb makes, and fail where it is there in the end."""
    place = tmp_path / "it-ran"
    yield place
    assert not place.exists(), "the file's code was executed"


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return people()


def test_a_pipeline_of_scikit_learn_takes_numbers_and_categories(tmp_path, table):
    estimator = classifier(table)
    model = load_model(keep_skops(tmp_path / "m", estimator))
    assert (model.columns, model.categorical, model.task) == (tuple(COLUMNS), ("colour",), BINARY)
    wanted = estimator.predict_proba(table[COLUMNS])[:, 1]
    found = model.predict(table.iloc[::-1])  # other columns, another order of rows
    assert list(found) == ["proba"]
    np.testing.assert_allclose(found.loc[table.index, "proba"], wanted)


def test_several_classes_answer_with_a_label_and_a_probability_each(tmp_path, table):
    model = load_model(
        keep_skops(
            tmp_path / "m", classifier(table, "colour"), task="classification_multiclass", categorical=["colour"]
        )
    )
    found = model.predict(table)
    assert list(found) == ["label", "proba_blue", "proba_green", "proba_red"]
    assert (found["label"] == table["colour"]).mean() > 0.95
    np.testing.assert_allclose(found.filter(like="proba_").sum(axis=1), 1)


def test_trees_of_scikit_learn_are_trusted(tmp_path, table):
    for number, estimator in enumerate((HistGradientBoostingClassifier(max_iter=3), RandomForestRegressor(3))):
        task = ("classification_binary", "regression")[number]
        folder = keep_skops(tmp_path / task, estimator.fit(table[NUMBERS], table["actual"]), task=task, categorical=[])
        assert len(load_model(folder).predict(table)) == len(table)


def test_the_probability_is_that_of_the_class_called_positive(tmp_path, table):
    words = classifier(table.assign(actual=table["actual"].map({0: "bad", 1: "good"})))
    one, other = (
        load_model(keep_skops(tmp_path / name, words, positive=name)).predict(table)["proba"]
        for name in ("bad", "good")
    )
    np.testing.assert_allclose(one + other, 1)
    assert np.corrcoef(other, table["actual"])[0, 1] > 0.3


def test_an_onnx_model_answers_with_its_probabilities_not_its_labels(tmp_path, table):
    estimator = LogisticRegression().fit(table[NUMBERS].to_numpy(), table["actual"])
    model = load_model(keep_onnx(tmp_path / "m", estimator, NUMBERS))
    np.testing.assert_allclose(
        model.predict(table)["proba"], estimator.predict_proba(table[NUMBERS].to_numpy())[:, 1], atol=1e-5
    )


def test_a_graph_of_torch_answers_as_its_module_does(tmp_path, table):
    torch.manual_seed(1)
    module = Scorer(2)
    model = load_model(keep_exported(tmp_path / "m", module, NUMBERS))
    with torch.no_grad():
        wanted = module(torch.tensor(table[NUMBERS].to_numpy(), dtype=torch.float32)).numpy()
    np.testing.assert_allclose(model.predict(table)["proba"], wanted, atol=1e-6)


def test_mlflow_folders_of_onnx_and_skops_are_read_without_mlflow(tmp_path, table):
    kept = keep_skops(tmp_path / "m", classifier(table))
    (kept / "model.json").write_text(json.dumps({"task": "classification_binary", "categorical": ["colour"]}))
    said = "flavors:\n  sklearn: {pickled_model: model.skops, serialization_format: skops}\n  python_function: {}\n"
    (kept / "MLmodel").write_text(said)
    assert load_model(kept).predict(table)["proba"].between(0, 1).all()
    kept = keep_onnx(tmp_path / "o", LogisticRegression().fit(table[NUMBERS], table["actual"]), NUMBERS)
    (kept / "model.json").unlink()
    inputs = json.dumps([{"name": name, "type": "double"} for name in NUMBERS])
    (kept / "MLmodel").write_text(
        json.dumps({"flavors": {"onnx": {"data": "model.onnx"}}, "signature": {"inputs": inputs}})
    )
    assert load_model(kept, BINARY).columns == tuple(NUMBERS)


# --- nothing is executed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["model.onnx", "model.skops", "model.pt2", "model.safetensors", "model.pkl", "model.pt"]
)
def test_a_pickle_by_any_name_is_refused_and_not_read(tmp_path, mark, name):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / name).write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(InputError):
        load_model(tmp_path / "m", BINARY)
    with pytest.raises(InputError):
        load_model(tmp_path / "m" / name, BINARY)


def test_a_pickled_mlflow_model_is_refused_with_the_way_out(tmp_path, mark):
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(Bomb(mark)))
    (tmp_path / "MLmodel").write_text(
        "flavors:\n  sklearn: {pickled_model: model.pkl, serialization_format: cloudpickle}\n"
    )
    with pytest.raises(InputError, match="mlflow models serve"):
        load_model(tmp_path, BINARY)


def test_a_type_that_is_on_no_list_is_refused_by_its_name(tmp_path, mark):
    skops.io.dump(FunctionTransformer(os.system), tmp_path / "model.skops")
    with pytest.raises(InputError, match=r"posix\.system"):
        load_model(tmp_path, BINARY)


def saved(bomb: Bomb) -> bytes:
    written = io.BytesIO()
    torch.save(bomb, written)
    return written.getvalue()


def in_program(change: Any) -> Any:
    def changed(content: bytes) -> bytes:
        program = json.loads(content)
        change(program)
        return json.dumps(program).encode()

    return changed


def test_sample_inputs_of_a_graph_are_never_read(tmp_path, mark, table):
    folder = keep_exported(tmp_path / "m", Scorer(2), NUMBERS)
    rewritten(folder / "model.pt2", "sample_inputs/model.pt", lambda _: saved(Bomb(mark)))
    assert len(load_model(folder).predict(table)) == len(table)
    assert not mark.exists()
    with contextlib.suppress(Exception):
        torch.export.load(folder / "model.pt2")  # what the kit must not do
    assert mark.exists()
    mark.unlink()


def test_a_graph_that_would_execute_something_is_refused(tmp_path, mark):
    call = f"__import__('os').system('touch {mark}')"

    def as_pickle(config: dict[str, Any]) -> None:
        next(iter(config["config"].values()))["use_pickle"] = True

    def as_size(program: dict[str, Any]) -> None:
        sizes = next(
            one for one in program["graph_module"]["graph"]["tensor_values"].values() if "as_expr" in one["sizes"][0]
        )
        sizes["sizes"][0]["as_expr"]["expr_str"] = call

    def as_target(program: dict[str, Any]) -> None:
        program["graph_module"]["graph"]["nodes"][0]["target"] = "torch.os.system"

    def as_name(program: dict[str, Any]) -> None:
        text = json.dumps(program["graph_module"]).replace('"rows"', json.dumps(f"rows={call}"))
        program["graph_module"] = json.loads(text)

    changes = {
        "model_weights_config.json": [as_pickle], "models/model.json": [as_size, as_target, as_name],
    }  # fmt: skip
    for record, kinds in changes.items():
        for change in kinds:
            folder = keep_exported(tmp_path / change.__name__, Scorer(2), NUMBERS)
            rewritten(folder / "model.pt2", record, in_program(change))
            with pytest.raises(InputError, match="torch would execute it"):
                load_model(folder)


# --- what is wrong is said --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"file": "../model.skops"}, "leads out"),
        ({"file": "other.skops"}, "no such file"),
        ({"flavor": "pickle"}, "flavor"),
        ({"colums": ["age"]}, "colums"),
        ({"categorical": ["shape"]}, "not one of its columns"),
        ({"positive": "maybe"}, "not one of its classes"),
        ({"task": None}, "task is not known"),
    ],
)
def test_a_wrong_description_is_named(tmp_path, table, said, why):
    folder = keep_skops(tmp_path / "m", classifier(table), **said)
    with pytest.raises(InputError, match=why):
        load_model(folder)


@pytest.mark.parametrize("name", ["model.onnx", "model.skops", "model.pt2"])
def test_a_cut_off_file_is_an_error(tmp_path, table, name):
    makers = {
        "model.onnx": lambda: keep_onnx(tmp_path, LogisticRegression().fit(table[NUMBERS], table["actual"]), NUMBERS),
        "model.skops": lambda: keep_skops(tmp_path, classifier(table)),
        "model.pt2": lambda: keep_exported(tmp_path, Scorer(2), NUMBERS),
    }
    makers[name]()
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=name):
        load_model(tmp_path)


def test_an_absent_library_names_the_extra(tmp_path, table, monkeypatch):
    folder = keep_skops(tmp_path, classifier(table))
    monkeypatch.setitem(__import__("sys").modules, "skops.io", None)
    with pytest.raises(InputError, match=r"lepton-kit\[models\]"):
        load_model(folder)


def test_rows_that_do_not_fit_are_named(tmp_path, table):
    model = load_model(keep_skops(tmp_path, classifier(table)))
    with pytest.raises(InputError, match="lack colour"):
        model.predict(table[NUMBERS])
    with pytest.raises(InputError, match="feature age"):
        model.predict(table.assign(age="old"))


def test_answers_of_another_task_are_an_error(tmp_path, table):
    estimator = RandomForestRegressor(3, random_state=0).fit(table[NUMBERS], table["income"] * 100)
    model = load_model(keep_skops(tmp_path, estimator, categorical=[]))
    with pytest.raises(InputError, match="no probabilities"):
        model.predict(table)


# --- the gate and what needs a model of the kit ---------------------------------------------------------------------


def test_the_gate_compares_classifiers_by_their_log_loss(tmp_path, table):
    fresh = people(400, seed=7)
    good = load_model(keep_skops(tmp_path / "good", classifier(table)))
    poor = load_model(keep_skops(tmp_path / "poor", classifier(table.assign(actual=1 - table["actual"]))))
    one, other = (losses(model, fresh, fresh["actual"], BINARY) for model in (good, poor))
    rule = Bootstrap(samples=200, block=1)
    decision = gate(one, {"v1": other}, bootstrap=rule, task=BINARY)
    assert decision.promote and "log loss" in decision.reasons[0]
    assert not gate(other, {"v2": one}, bootstrap=rule, task=BINARY).promote


def test_retraining_says_that_it_is_for_models_of_the_kit(tmp_path, table):
    model = load_model(keep_skops(tmp_path / "m", classifier(table)))
    with pytest.raises(InputError, match="retraining: torch models of the kit only"):
        retrain(Examples(table[NUMBERS], table["actual"]), {"v1": model})


# --- over HTTP --------------------------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[tuple[str, dict[str, Any]]]:
    """Give the address of a server, and the answers that it gives by path."""
    answers: dict[str, Any] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(None)

        def do_POST(self) -> None:
            self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def answer(self, body: Any) -> None:
            made = answers.get(self.path)
            self.send_response(200 if made is not None else 404)
            self.end_headers()
            self.wfile.write(json.dumps(made(body) if callable(made) else made).encode())

        def log_message(self, *_: Any) -> None: ...

    with listening(Handler) as address:
        yield address, answers


def test_a_server_of_the_open_inference_protocol_is_a_model(server, table):
    address, answers = server
    inputs = [{"name": name, "datatype": "FP64", "shape": [-1, 1]} for name in NUMBERS]
    inputs.append({"name": "colour", "datatype": "BYTES", "shape": [-1, 1]})
    answers["/v2/models/credit/versions/2"] = {"name": "credit", "inputs": inputs, "outputs": []}

    def infer(body: Any) -> Any:
        sent = {one["name"]: one for one in body["inputs"]}
        assert sent["colour"]["data"][0] in ("red", "green", "blue")
        share = [age / 100 for age in sent["age"]["data"]]
        return {"outputs": [{"name": "proba", "datatype": "FP64", "shape": [len(share)], "data": share}]}

    answers["/v2/models/credit/versions/2/infer"] = infer
    model = load_model(f"{address}/v2/models/credit/versions/2", BINARY)
    assert (model.columns, model.categorical) == (tuple(COLUMNS), ("colour",))
    rows = table[table["age"].between(1, 99)]
    np.testing.assert_allclose(model.predict(rows)["proba"], rows["age"] / 100)


def test_a_server_of_mlflow_is_a_model(server, table):
    address, answers = server

    def invoke(body: Any) -> Any:
        given = pd.DataFrame(**body["dataframe_split"])
        return {"predictions": [{"label": colour} for colour in given["colour"]]}

    answers["/invocations"] = invoke
    assert (load_model(f"{address}/invocations", MANY).predict(table[["colour"]])["label"] == table["colour"]).all()


def test_a_server_that_is_none_is_an_error(server):
    address, _ = server
    with pytest.raises(InputError, match="must end in /v2/models"):
        load_model(address, BINARY)
    with pytest.raises(InputError, match="answered 404"):
        load_model(f"{address}/v2/models/absent", BINARY)
    with pytest.raises(InputError, match="does not answer"):
        load_model("http://127.0.0.1:9/v2/models/absent", BINARY)
