"""Models that other makers' tools wrote, small and real, for the tests of flavors, registry and serving."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import skops.io
import torch
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

COLUMNS = ["age", "income", "colour"]
NUMBERS = ["age", "income"]


def people(rows: int = 240, seed: int = 0) -> pd.DataFrame:
    """Return people with two numbers, a colour, and what came true (`actual`, 0 or 1)."""
    made = np.random.default_rng(seed)
    table = pd.DataFrame({"age": made.normal(40, 12, rows), "income": made.normal(3, 1, rows)})
    table["colour"] = made.choice(["red", "green", "blue"], rows)
    score = (table["age"] - 40) / 12 + (table["income"] - 3) + (table["colour"] == "red")
    return table.assign(actual=(score + made.logistic(size=rows) > 0).astype(int))


def classifier(table: pd.DataFrame, target: str = "actual") -> Any:
    """Return a pipeline of scikit-learn that takes numbers and categories."""
    columns = ColumnTransformer(
        [("numbers", StandardScaler(), NUMBERS), ("colour", OneHotEncoder(handle_unknown="ignore"), ["colour"])]
    )
    return make_pipeline(columns, LogisticRegression()).fit(table[COLUMNS], table[target])


def keep_skops(folder: Path, estimator: Any, **said: Any) -> Path:
    """Write an estimator as a model folder."""
    folder.mkdir(parents=True, exist_ok=True)
    skops.io.dump(estimator, folder / "model.skops")
    described = {"task": "classification_binary", "categorical": ["colour"], **said}
    (folder / "model.json").write_text(json.dumps(described))
    return folder


def keep_onnx(folder: Path, estimator: LogisticRegression, columns: list[str], **said: Any) -> Path:
    """Write a linear classifier of numbers as ONNX, as converters of scikit-learn do: a label and probabilities."""
    from onnx import TensorProto, checker, helper, numpy_helper

    folder.mkdir(parents=True, exist_ok=True)
    weights = numpy_helper.from_array(estimator.coef_.T.astype(np.float32), "weights")
    bias = numpy_helper.from_array(estimator.intercept_.astype(np.float32), "bias")
    one = numpy_helper.from_array(np.ones(1, np.float32), "one")
    half = numpy_helper.from_array(np.array([0.5], np.float32), "half")
    nodes = [
        helper.make_node("Gemm", ["rows", "weights", "bias"], ["score"]),
        helper.make_node("Sigmoid", ["score"], ["high"]),
        helper.make_node("Sub", ["one", "high"], ["low"]),
        helper.make_node("Concat", ["low", "high"], ["probabilities"], axis=1),
        helper.make_node("Greater", ["high", "half"], ["is_high"]),
        helper.make_node("Cast", ["is_high"], ["label"], to=TensorProto.INT64),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None, len(columns)])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, [None, 1]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 2]),
        ],
        [weights, bias, one, half],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(model)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    (folder / "model.json").write_text(json.dumps({"task": "classification_binary", "columns": columns, **said}))
    return folder


class Scorer(torch.nn.Module):
    """Rows to a probability."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(columns, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.layers(rows)).squeeze(-1)


def keep_exported(folder: Path, module: torch.nn.Module, columns: list[str], **said: Any) -> Path:
    """Write a module of torch as `torch.export` does."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = torch.zeros(4, len(columns))
    program = torch.export.export(module.eval(), (rows,), dynamic_shapes=({0: torch.export.Dim("rows")},))
    torch.export.save(program, folder / "model.pt2")
    (folder / "model.json").write_text(json.dumps({"task": "classification_binary", "columns": columns, **said}))
    return folder


def rewritten(archive: Path, record: str, change: Any) -> None:
    """Change one record of a zip archive: `change` takes its bytes and returns others."""
    with zipfile.ZipFile(archive) as old:
        held = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(archive, "w") as new:
        for name, content in held.items():
            new.writestr(name, change(content) if name.endswith(record) else content)
