"""Models as ONNX graphs, and smaller forms of a graph: in half precision, with 8-bit weights, with fewer hidden units.

A graph runs in onnxruntime, whichever library trained it, and answers exactly what its model says of itself.
"""

from __future__ import annotations

import copy
import io
import logging
import tempfile
import textwrap
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.linalg import qr
from torch import Tensor

from lepton_kit.errors import InputError
from lepton_kit.models.exported import load_program
from lepton_kit.models.flavors import (
    DESCRIPTION,
    LoadedModel,
    Model,
    ModelFile,
    file_of,
    library,
    load_model,
    onnx_inputs,
    trusted_estimator,
)
from lepton_kit.models.forecasters import (
    FORECAST,
    FURTHEST_INPUT,
    NORMAL_QUANTILE,
    Forecaster,
    places_of,
)

Graph = Any
"""An `onnx.ModelProto`; onnx ships no types."""

BETWEEN = ("Tanh", "Relu", "Sigmoid", "Elu", "Selu", "LeakyRelu", "Softplus", "Softsign", "Gelu", "Identity")
"""What may lie between two dense layers: it acts on each hidden unit alone."""

LEAST_QUANTISED = 0.5
"""The share of a graph's weights that must become 8-bit ones."""


def as_onnx(model: Model) -> Graph:
    """Return a model as an ONNX graph in single precision.

    Raises InputError when it has no such form: it answers at an address, or holds what no converter knows.
    """
    if isinstance(model, Forecaster):
        return of_torch(_Whole(model), len(model.columns), FORECAST)
    assert isinstance(model, LoadedModel)  # the other kind of model
    if model.flavor == "http":
        raise InputError("only its answers can be had, as it is asked at an address")
    file = file_of(model)
    if model.flavor == "onnx":
        return library("onnx").load(file)
    if model.flavor == "torch.export":
        program: Any = load_program(file)[0]
        return _exported(lambda: torch.onnx.export(program, dynamo=True, verbose=False).model_proto)  # type: ignore[union-attr]
    return of_estimator(trusted_estimator(file), model.columns, model.categorical)


def of_estimator(estimator: Any, columns: tuple[str, ...], categorical: tuple[str, ...]) -> Graph:
    """Return a fitted estimator of scikit-learn as an ONNX graph; InputError where a part of it has no converter."""
    skl2onnx, types = library("skl2onnx"), library("skl2onnx.common.data_types")
    text, number = types.StringTensorType([None, 1]), types.FloatTensorType([None, 1])
    if any(hasattr(part, "transformers_") for _, part in getattr(estimator, "steps", [])):  # it picks columns by name
        inputs = [(name, text if name in categorical else number) for name in columns]
    else:
        inputs = [("rows", types.FloatTensorType([None, len(columns)]))]
    options = {id(estimator): {"zipmap": False}} if hasattr(estimator, "predict_proba") else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _take_plain_trees()
            graph = skl2onnx.to_onnx(estimator, initial_types=inputs, options=options)
            _rename(graph, {one.name: name for one, (name, _) in zip(graph.graph.input, inputs, strict=True)})
            return graph
    except Exception as error:  # every converter raises its own
        raise InputError(f"skl2onnx cannot write it ({_first(error)})") from error


def _rename(graph: Graph, names: dict[str, str]) -> None:
    """Name the inputs of a graph as the columns are: skl2onnx writes `credit_amount` for `credit amount`."""
    for one in graph.graph.input:
        one.name = names[one.name]
    for node in graph.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = names.get(name, name)


@cache
def _take_plain_trees() -> None:
    """Let skl2onnx write boosted trees: of what it gives, onnx 1.23 takes neither arrays of arrays nor booleans."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    skl2onnx, known = library("skl2onnx"), library("skl2onnx.common._registration")
    for kind in (HistGradientBoostingClassifier, HistGradientBoostingRegressor):
        name = f"Sklearn{kind.__name__}"
        shape, options = known.get_shape_calculator(name), known._converter_pool[name]._options
        write = partial(_with_plain_numbers, known.get_converter(name))
        skl2onnx.update_registered_converter(kind, name, shape, write, overwrite=True, options=options)


def _with_plain_numbers(write: Callable[..., None], scope: Any, operator: Any, container: Any) -> None:
    add, is_set = container.add_node, getattr(operator.raw_operator, "is_categorical_", None)
    if is_set is not None and is_set.any():  # skl2onnx would compare their numbers, and answer wrongly
        raise ValueError("a split by the categories of a column has no form in ONNX")

    def plain(value: Any) -> Any:
        if not isinstance(value, list | np.ndarray):
            return value
        flat = np.ravel(value)
        return (flat.astype(int) if flat.dtype == bool else flat).tolist()

    container.add_node = lambda *given, **said: add(*given, **{key: plain(value) for key, value in said.items()})
    try:
        write(scope, operator, container)
    finally:
        container.add_node = add


def kept_onnx(graph: Graph, said: ModelFile, folder: Path) -> LoadedModel:
    """Write a graph as a model folder, with what is said of the model, and return it as loaded."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    described = said.model_copy(update={"flavor": "onnx", "file": "model.onnx"})
    (folder / DESCRIPTION).write_text(described.model_dump_json(indent=1, exclude_defaults=True) + "\n", "utf-8")
    made = load_model(folder)
    assert isinstance(made, LoadedModel)
    return made


# --- torch ------------------------------------------------------------------------------------------------------------


class _Whole(torch.nn.Module):
    """A forecaster with all that it does before and after its network, in single precision."""

    def __init__(self, forecaster: Forecaster) -> None:
        super().__init__()
        self.architecture, self.level = forecaster.architecture, forecaster.scaler.level
        self.network = copy.deepcopy(forecaster.network).float()
        self.center, self.spread = torch.tensor(forecaster.scaler.center), torch.tensor(forecaster.scaler.spread)
        names = range(len(self.architecture.columns))
        divided, volatility, self.ewma = places_of(self.architecture) if self._has_scale() else ([], [], -1)
        self.divided = torch.tensor([place in {*divided, *volatility} for place in names])
        self.logged = torch.tensor([place in {*volatility, self.ewma} for place in names])
        self.is_ewma = torch.tensor([place == self.ewma for place in names])

    def _has_scale(self) -> bool:
        return self.architecture.volatility != "constant"

    def forward(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Return the columns of `FORECAST` (n,) for rows (n, needed)."""
        inputs = rows[:, : len(self.center)]
        if self._has_scale():
            scale = rows[:, self.ewma]
            divisor = torch.where(self.is_ewma, self.level, torch.where(self.divided, scale[:, None], 1.0))
            ratio = inputs / divisor
            raw = torch.where(self.logged, torch.log(ratio), ratio)
        else:
            scale, raw = torch.full_like(rows[:, 0], self.level), inputs / self.level
        scaled = torch.clamp((raw - self.center) / self.spread, -FURTHEST_INPUT, FURTHEST_INPUT)
        mean, log_std, logits = self.network(scaled)
        mean, std = mean * scale, torch.exp(log_std) * scale
        half = NORMAL_QUANTILE * std
        return mean, std, mean - half, mean + half, torch.softmax(logits, dim=-1)[:, 1]


def of_torch(module: Any, columns: int, names: tuple[str, ...] = ()) -> Graph:
    """Return a module of torch that takes rows (n, columns) as an ONNX graph; `names` are those of its outputs.

    Raises InputError when it holds what the exporter does not know.
    """
    written: Any = io.BytesIO()  # which torch does not say that it takes

    def write() -> Graph:
        torch.onnx.export(  # the newer exporter takes 16 s for a recurrent network, this one 0.3 s
            module.float(), (torch.ones(4, columns),), written, input_names=["rows"], output_names=list(names) or None,
            dynamic_axes={name: {0: "n"} for name in ("rows", *names)}, dynamo=False,
        )  # fmt: skip
        return library("onnx").load_from_string(written.getvalue())

    return _exported(write)


def _exported(write: Callable[[], Graph]) -> Graph:
    library("onnxscript")  # torch's exporters need it
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # they name each library that is not installed
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            return write()
    except InputError:
        raise
    except Exception as error:  # of what it does not know, torch raises nearly anything
        raise InputError(f"torch cannot write it ({_first(error)})") from error


# --- smaller graphs ---------------------------------------------------------------------------------------------------


def in_half(graph: Graph) -> Graph:
    """Return a graph whose weights are 16-bit floats; onnxruntime computes with 32 bits where a CPU cannot with 16.

    Raises InputError when onnxruntime does not take it.
    """
    half = library("onnxruntime.transformers.float16").convert_float_to_float16
    made = half(copy.deepcopy(graph), keep_io_types=True)
    try:
        _session(made)
    except Exception as error:  # onnxruntime has a class of its own for each failure
        raise InputError(
            "onnxruntime refuses its graph in half precision, as one of its operators knows no such"
        ) from error
    return made


def in_int8(graph: Graph) -> Graph:
    """Return a graph whose dense layers hold 8-bit weights, and quantise what comes to them (dynamic quantisation).

    Raises InputError when fewer than half of its weights lie in such layers.
    """
    onnx, quantization = library("onnx"), library("onnxruntime.quantization")
    library("onnxruntime.quantization.quant_utils").add_pre_process_metadata(tagged := copy.deepcopy(graph))
    is_dense, none = any(n.op_type in ("Gemm", "MatMul") for n in graph.graph.node), "it has no dense layer to quantise"
    with tempfile.TemporaryDirectory() as scratch:
        written = Path(scratch) / "int8.onnx"
        try:
            # Without VNNI a CPU adds pairs of 8-bit products in 16 bits, where full-range weights overflow unseen.
            whole = quantization.QuantType.QInt8
            quantization.quantize_dynamic(tagged, written, weight_type=whole, reduce_range=True)
        except Exception as error:  # a graph may hold what it does not know
            raise InputError(f"onnxruntime cannot quantise it ({_first(error)})" if is_dense else none) from error
        made = onnx.load(written)
    eight = sum(_count(one) for one in made.graph.initializer if one.data_type == onnx.TensorProto.INT8)
    every = sum(map(_count, graph.graph.initializer))
    if eight < LEAST_QUANTISED * every:
        few = f"onnxruntime has 8-bit kernels for {eight} of its {every} weights only: its dense layers"
        raise InputError(few if is_dense else none)
    return made


def _count(weights: Any) -> int:
    return int(np.prod(weights.dims, initial=1))


def pruned(graph: Graph, rows: pd.DataFrame, share: float) -> Graph:
    """Return a graph with a share of the hidden units of its dense layers, and fitted anew to what it gave before.

    The units that span the others best are kept (QR with column pivoting of their activations), and the weights of the
    next layer become those that give its old output with least squares: Chee et al. (2022), "Model preserving
    compression for neural networks".

    Parameters
    ----------
    rows
        Rows (n, columns) that it learnt from, whose activations decide.
    share
        Of the units of each hidden layer that are kept, above 0 and below 1.

    Raises
    ------
    InputError
        When no dense layer follows on another.
    """
    if not 0 < share < 1:
        raise InputError(f"share = {share}: must lie between 0 and 1")
    made, hidden = copy.deepcopy(graph), _hidden_layers(graph)
    if not hidden:
        raise InputError("no dense layer follows on another, so that there are no hidden units to prune")
    del made.graph.value_info[:]  # sizes that will not hold any more
    before = _values(graph, rows, [after.output for layer in hidden for after in layer.after])
    for layer in hidden:
        units = _values(made, rows, [layer.units])[layer.units].astype(float)
        order = qr(units - units.mean(axis=0), mode="r", pivoting=True)[1]
        kept = np.sort(order[: max(1, round(share * units.shape[1]))])
        layer.before.keep(made, kept)
        for after in layer.after:
            after.fit(made, units[:, kept], before[after.output].astype(float))
    return made


@dataclass(frozen=True)
class _Dense:
    """A dense layer of a graph: the tensors it reads and gives, and the names of its weights and its bias."""

    given: str
    output: str
    weights: str
    bias: str | None
    is_turned: bool

    def keep(self, graph: Graph, units: np.ndarray) -> None:
        _set(graph, self.weights, lambda held: held[units] if self.is_turned else held[:, units])
        if self.bias:
            _set(graph, self.bias, lambda held: held[..., units])

    def fit(self, graph: Graph, rows: np.ndarray, wanted: np.ndarray) -> None:
        """Set weights that give what is wanted (n, outputs) for rows (n, inputs), with least squares."""
        seen = np.column_stack([rows, np.ones(len(rows))]) if self.bias else rows
        solved = np.linalg.lstsq(seen, wanted, rcond=None)[0]
        fitted = solved[: rows.shape[1]]
        _set(graph, self.weights, lambda _: fitted.T if self.is_turned else fitted)
        if self.bias:
            _set(graph, self.bias, lambda held: solved[-1].reshape(held.shape))


@dataclass(frozen=True)
class _Hidden:
    """Hidden units: the layer that gives them, the tensor that holds them, and the layers that read them."""

    before: _Dense
    units: str
    after: tuple[_Dense, ...]


def _hidden_layers(graph: Graph) -> list[_Hidden]:
    """Return the hidden layers whose units nothing but dense layers reads, in the order of the graph."""
    readers: dict[str, list[Any]] = defaultdict(list)
    for node in graph.graph.node:
        for name in node.input:
            readers[name].append(node)
    outputs = {one.name for one in graph.graph.output}
    dense, found = _dense_layers(graph, readers), []
    for layer in dense:
        units = layer.output
        while len(readers[units]) == 1 and readers[units][0].op_type in BETWEEN and units not in outputs:
            units = readers[units][0].output[0]
        after = [one for one in dense if one.given == units]
        if after and len(after) == len(readers[units]) and units not in outputs:
            found.append(_Hidden(layer, units, tuple(after)))
    return found


def _dense_layers(graph: Graph, readers: dict[str, list[Any]]) -> list[_Dense]:
    sizes = {one.name: tuple(one.dims) for one in graph.graph.initializer}
    vectors = {name for name, size in sizes.items() if np.prod(size) == max(size, default=0)}
    found = []
    for node in graph.graph.node:
        if node.op_type not in ("Gemm", "MatMul") or len(sizes.get(node.input[1], ())) != 2:
            continue
        said = {one.name: one.f or one.i for one in node.attribute}
        bias, output = (node.input[2] if len(node.input) > 2 else None), node.output[0]
        following = readers[output]
        if node.op_type == "MatMul" and len(following) == 1 and following[0].op_type == "Add":
            added = [name for name in following[0].input if name in vectors]
            bias, output = (added[0], following[0].output[0]) if added else (None, output)
        is_plain = said.get("alpha", 1) == said.get("beta", 1) == 1 and not said.get("transA")
        is_own = all(len(readers[name]) == 1 for name in (node.input[1], bias) if name)
        if is_plain and is_own and (bias is None or bias in vectors):
            found.append(_Dense(node.input[0], output, node.input[1], bias, bool(said.get("transB"))))
    return found


FORMS: dict[str, Callable[[Graph, pd.DataFrame], Graph]] = {
    "float32": lambda graph, _: graph,
    "float16": lambda graph, _: in_half(graph),
    "int8": lambda graph, _: in_int8(graph),
    "pruned 1/2": lambda graph, rows: pruned(graph, rows, 1 / 2),
    "pruned 1/4": lambda graph, rows: pruned(graph, rows, 1 / 4),
}
"""What makes each form of a graph in single precision, given rows that the model learnt from."""


def _values(graph: Graph, rows: pd.DataFrame, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return what a graph computes for rows, by the names of its tensors."""
    asked = copy.deepcopy(graph)
    asked.graph.output.extend(
        library("onnx").helper.make_empty_tensor_value_info(name) for name in dict.fromkeys(names)
    )
    session = _session(asked)
    return dict(zip(names, session.run(list(names), onnx_inputs(session, rows)), strict=True))


def _session(graph: Graph) -> Any:
    runtime = library("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1  # the same numbers every time
    return runtime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _first(error: Exception) -> str:
    """Return what went wrong in a library, in one short line."""
    line = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {textwrap.shorten(line, 100, placeholder=' …')}"


def _set(graph: Graph, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change weights of a graph."""
    helper = library("onnx.numpy_helper")
    for place, held in enumerate(graph.graph.initializer):
        if held.name == name:
            values = np.ascontiguousarray(change(helper.to_array(held)), dtype=np.float32)
            graph.graph.initializer[place].CopyFrom(helper.from_array(values, name))
