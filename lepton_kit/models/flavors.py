"""Models of any maker: loaded by their flavor, asked for rows of features, answering in the columns of their task.

A folder says what it holds in its `model.json`, or by its files. No flavor executes code that a file holds: a pickle is
refused by its name, and a file that hides one by what is in it.

flavor         what is loaded                                                     library
kit            `model.safetensors`, `architecture.json`, `scaler.json`            torch
onnx           `*.onnx`                                                           onnxruntime
skops          `*.skops`: estimators of scikit-learn, of `TRUSTED` types only     skops
torch.export   `*.pt2`: a graph of ATen operators, without pickles                torch
mlflow         a folder with an `MLmodel` of one of the above                     that one's
http           an address: the Open Inference Protocol v2, or MLflow's            httpx
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np
import pandas as pd
from pydantic import ValidationError

from lepton_kit.errors import InputError
from lepton_kit.models.answers import Asked, Raw, in_columns
from lepton_kit.models.tasks import Task, task_of
from lepton_kit.telemetry.declaration import Names, Section, TaskName

if TYPE_CHECKING:  # PyTorch, a second and 200 MB: only for who loads a model of the kit
    from lepton_kit.models.forecasters import Forecaster

FlavorName = Literal["kit", "onnx", "skops", "torch.export", "mlflow", "http"]
DESCRIPTION = "model.json"
CARD, CHECKSUMS = "card.json", "SHA256SUMS"
GOLDEN, REFERENCE, PROFILE = "golden.parquet", "reference.parquet", "profile.json"
BESIDE = {CARD, CHECKSUMS, GOLDEN, PROFILE, REFERENCE}
"""What a registry keeps beside a model's own files."""

SUFFIXES: dict[str, FlavorName] = {".onnx": "onnx", ".skops": "skops", ".pt2": "torch.export"}
PICKLES = (".pkl", ".pickle", ".joblib", ".cloudpickle", ".pt", ".pth", ".bin")

TRUSTED = (
    "lepton_kit.models.normalisation.GroupScaler",
    "functools.partial",  # of a function that is itself on a list, or refused
    "numpy.dtype",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.neighbors._ball_tree.BallTree",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.tree._tree.Tree",
    "sklearn.utils.validation.check_array",
)
"""Types that a `*.skops` may hold beside the public estimators of scikit-learn and the types of NumPy and SciPy."""


class Model(Protocol):
    """What every loaded model can do and says of itself."""

    @property
    def task(self) -> Task:
        """What it does."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The features of a row, in their order; empty where the model does not say."""

    @property
    def categorical(self) -> tuple[str, ...]:
        """The features that hold categories; the others hold numbers."""

    @property
    def optional(self) -> tuple[str, ...]:
        """The features that a row may lack."""

    def predict(self, features: pd.DataFrame) -> pd.DataFrame:
        """Return the prediction columns of the task, indexed like the features."""

    def answers(self, values: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
        """Return the names of the prediction columns (k), and their values (n, k), for checked values (n, columns)."""

    def beyond(self, values: np.ndarray) -> int | None:
        """Return how many of some checked values count as less extreme than they are; None where none ever does."""

    def save(self, folder: Path) -> None:
        """Write the model's own files into a folder."""


class ModelFile(Section):
    """What `model.json` says of the model beside it; every entry may be left out.

    Parameters
    ----------
    flavor, file
        How it is loaded, and from which file of the folder; by the file's ending unless given.
    task
        What it does.
    columns, categorical, optional
        The features of a row; those that hold categories; those that a row may lack.
    classes, positive
        The classes in the order of the model's probabilities, and the one that `proba` belongs to: the second.
    """

    flavor: FlavorName | None = None
    file: str | None = None
    task: TaskName | None = None
    columns: Names = ()
    categorical: Names = ()
    optional: Names = ()
    classes: tuple[bool | int | str, ...] = ()
    positive: bool | int | str | None = None


@dataclass(frozen=True)
class LoadedModel:
    """A model of another maker in memory; `ask` gives what it says of a table of its columns."""

    place: str
    flavor: FlavorName
    task: Task
    columns: tuple[str, ...]
    categorical: tuple[str, ...]
    optional: tuple[str, ...]
    classes: tuple[Any, ...]
    positive: Any
    ask: Callable[[pd.DataFrame], Raw]

    def predict(self, features: pd.DataFrame) -> pd.DataFrame:
        """Return the prediction columns of the task for rows of features.

        Raises InputError when a column is missing or holds text where numbers belong, the model fails on the rows, or
        its answers are not its task's.
        """
        rows = self._rows(features)
        try:
            raw = self.ask(rows)
        except InputError:
            raise
        except Exception as error:  # whatever another maker's library raises
            raise InputError(f"model {self.place}: fails on these rows ({type(error).__name__}: {error})") from error
        try:
            given = in_columns(self.task, raw, self.classes, self.positive)
        except InputError as error:
            raise InputError(f"model {self.place}: {error}") from error
        if len(given) != len(rows):
            raise InputError(f"model {self.place}: gave {len(given)} answers to {len(rows)} rows")
        return given.set_axis(rows.index)

    def answers(self, values: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
        """Return the names of the prediction columns, and their values, for values in the order of `columns`."""
        given = self.predict(pd.DataFrame(values, columns=list(self.columns)))
        return tuple(map(str, given)), given.to_numpy()

    def beyond(self, _: np.ndarray) -> None:
        """Return None: what it does with extreme values is not known."""

    def save(self, folder: Path) -> None:
        """Write the model's own files into a folder, with a `model.json` that says all that is known of it."""
        source = Path(self.place)
        if self.flavor == "http" or not source.exists():
            raise InputError(f"model {self.place}: only files can be kept in a folder")
        folder.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*BESIDE, ".*"))
        else:
            shutil.copy(source, folder)
        said = read_description(folder).model_copy(
            update={"task": self.task.name, "columns": self.columns, "categorical": self.categorical,
                    "optional": self.optional, "classes": self.classes, "positive": self.positive}
        )  # fmt: skip
        text = said.model_dump_json(indent=1, exclude_defaults=True)
        (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")

    def _rows(self, features: pd.DataFrame) -> pd.DataFrame:
        names = self.columns or tuple(map(str, features))
        if missing := [name for name in names if name not in features]:
            raise InputError(f"features lack {', '.join(missing)}; model {self.place} needs them")
        rows = features[list(names)].copy()
        for name in names:
            if name in self.categorical:
                rows[name] = rows[name].astype(object)
            elif self.columns or not isinstance(rows[name].dtype, pd.StringDtype):
                try:
                    rows[name] = pd.to_numeric(rows[name]).astype(float)
                except (ValueError, TypeError) as error:
                    raise InputError(
                        f"feature {name}: holds what is no number ({error}); is it categorical?"
                    ) from error
        return rows


def load_model(
    place: Path | str, task: Task | None = None, flavor: str | None = None, categorical: Sequence[str] = ()
) -> Model:
    """Return a model, ready to be asked.

    Parameters
    ----------
    place
        A folder, a file, or an address: `http://host/v2/models/M`, with or without `/versions/V`, or
        `http://host/invocations`.
    task
        What it does, where its `model.json` does not say.
    flavor
        How it is loaded, where its `model.json` and its files do not say.
    categorical
        The features that hold categories, where its `model.json` does not say.

    Raises
    ------
    InputError
        When a file is missing, damaged or could execute code, a library is missing, or what it does is not known.
    """
    if flavor is not None and flavor not in get_args(FlavorName):
        raise InputError(f"flavor {flavor!r}: must be one of {', '.join(get_args(FlavorName))}")
    if str(place).startswith(("http://", "https://")):
        from lepton_kit.models.remote import ask_over_http

        return _made("http", str(place), ModelFile(), task, ask_over_http(str(place)), categorical)
    path = Path(place)
    if not path.exists():
        raise InputError(f"model {place}: no such file or folder")
    described = read_description(path if path.is_dir() else path.parent)
    chosen, file = _what_is_there(path, described, flavor)
    if chosen == "kit":
        return _kit(path if path.is_dir() else path.parent, task)
    if chosen == "mlflow":
        chosen, file, columns = _in_mlflow(path)
        described = described.model_copy(update={"columns": described.columns or columns})
    return _made(chosen, str(place), described, task, _LOADERS[chosen](file), categorical)


def read_description(folder: Path) -> ModelFile:
    """Return the content of the `model.json` of a folder; an empty one where there is none.

    Raises InputError when it is not readable, or an entry is not allowed.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        return ModelFile()
    try:
        return ModelFile.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        place = ".".join(map(str, wrong["loc"])) or "the file"
        raise InputError(f"{path}: {place} = {wrong['input']!r}: {wrong['msg']}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from error


def _made(
    flavor: FlavorName, place: str, said: ModelFile, task: Task | None, asked: Asked, categorical: Sequence[str]
) -> LoadedModel:
    if task is None and said.task is None:
        raise InputError(f"model {place}: its task is not known; give it, or write it into {DESCRIPTION}")
    chosen = task or task_of(str(said.task))
    classes = said.classes or asked.classes
    if said.positive is not None and said.positive not in classes:
        raise InputError(f"model {place}: positive = {said.positive!r} is not one of its classes {list(classes)}")
    columns = said.columns or asked.columns
    if unknown := {*said.categorical, *said.optional} - set(columns or said.categorical):
        raise InputError(f"{DESCRIPTION} of {place}: {min(unknown)!r} is not one of its columns")
    categories = said.categorical or asked.categorical or tuple(one for one in categorical if one in columns)
    return LoadedModel(
        place, flavor, chosen, columns, categories, said.optional, classes, said.positive, asked.ask
    )  # fmt: skip


def _what_is_there(path: Path, said: ModelFile, flavor: str | None) -> tuple[FlavorName, Path]:
    """Return the flavor of a file or folder, and the file to load."""
    if path.is_file():
        files = [path]
    elif said.file is not None:
        files = [inside(path, said.file)]
    else:
        files = sorted(one for one in path.iterdir() if one.suffix in SUFFIXES)
    is_kit, is_mlflow = (path / "architecture.json").is_file(), (path / "MLmodel").is_file()
    wanted = flavor or said.flavor or ("mlflow" if is_mlflow else "kit" if is_kit else None)
    if wanted in ("kit", "mlflow"):
        return wanted, path  # type: ignore[return-value]
    known = [one for one in files if SUFFIXES.get(one.suffix) == wanted] or files if wanted else files
    if len(known) == 1 and (wanted or known[0].suffix in SUFFIXES):
        return wanted or SUFFIXES[known[0].suffix], known[0]  # type: ignore[return-value]
    if len(known) > 1:
        raise InputError(f"model {path}: holds {', '.join(one.name for one in known)}; {DESCRIPTION} must name one")
    there = files if path.is_file() else sorted(path.iterdir())
    pickled = [one.name for one in there if one.suffix in PICKLES]
    why = f"{pickled[0]} may be a pickle, which executes code when it is read; " if pickled else ""
    raise InputError(f"model {path}: {why}needs a file {', '.join(SUFFIXES)}, or model.safetensors of the kit")


def inside(folder: Path, name: str) -> Path:
    """Return a file of a folder that a description names; InputError where it leads out or is absent."""
    file = folder / name
    if not file.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{folder}: {name!r} leads out of the folder")
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    return file


def _kit(folder: Path, task: Task | None) -> Forecaster:
    from lepton_kit.models.forecasters import load_forecaster

    forecaster = load_forecaster(folder)
    if task is not None and task != forecaster.task:
        raise InputError(f"model {folder}: does {forecaster.task.name}, not {task.name}")
    return forecaster


def _library(name: str) -> Any:
    try:
        return __import__(name, fromlist=["*"])
    except ImportError as error:
        raise InputError(f"{name.partition('.')[0]} is not installed: pip install lepton-kit[models]") from error


# --- flavors ----------------------------------------------------------------------------------------------------------


def _onnx(file: Path) -> Asked:
    runtime = _library("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1  # workers would wait for each other's
    try:
        session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class of its own for each failure
        raise InputError(f"{file}: not a readable ONNX model ({str(error)[:300]})") from error
    inputs, outputs = session.get_inputs(), [one.name for one in session.get_outputs()]

    def ask(rows: pd.DataFrame) -> Raw:
        if len(inputs) == 1:
            fed = {inputs[0].name: rows.to_numpy(_onnx_type(inputs[0].type))}
        else:
            fed = {one.name: rows[one.name].to_numpy(_onnx_type(one.type)).reshape(-1, 1) for one in inputs}
        return dict(zip(outputs, session.run(outputs, fed), strict=True))

    named = tuple(one.name for one in inputs) if len(inputs) > 1 else ()
    return Asked(ask, named, tuple(one.name for one in inputs if "string" in one.type and len(inputs) > 1))


def _onnx_type(name: str) -> Any:
    known = {"float": np.float32, "double": np.float64, "int64": np.int64, "int32": np.int32, "bool": np.bool_}
    return known.get(name.removeprefix("tensor(").removesuffix(")"), object)


def _skops(file: Path) -> Asked:
    skops = _library("skops.io")
    try:
        others = sorted(set(skops.get_untrusted_types(file=file)) - set(TRUSTED))
        if others:
            raise InputError(f"{file}: holds {', '.join(others)}, which no list of trusted types names; not loaded")
        estimator = skops.load(file, trusted=list(TRUSTED))
    except InputError:
        raise
    except Exception as error:  # a zip, its schema, or the estimator in it may be damaged
        raise InputError(f"{file}: not a readable skops file ({type(error).__name__}: {error})") from error
    if not hasattr(estimator, "predict"):
        raise InputError(f"{file}: holds a {type(estimator).__name__}, which does not predict")
    ask = estimator.predict_proba if hasattr(estimator, "predict_proba") else estimator.predict
    names, classes = getattr(estimator, "feature_names_in_", ()), getattr(estimator, "classes_", ())
    is_named = len(names) > 0
    return Asked(
        lambda rows: ask(rows if is_named else rows.to_numpy()),
        tuple(map(str, names)),
        classes=tuple(one.item() if isinstance(one, np.generic) else one for one in classes),
    )


def _torch_export(file: Path) -> Asked:
    import torch

    from lepton_kit.models.exported import load_exported

    module, precision = load_exported(file)

    def ask(rows: pd.DataFrame) -> Raw:
        with torch.no_grad():
            given = module(torch.from_numpy(rows.to_numpy(float)).to(precision))
        if isinstance(given, Mapping):
            return {name: value.numpy() for name, value in given.items()}
        return np.column_stack([one.numpy() for one in given]) if isinstance(given, list | tuple) else given.numpy()

    return Asked(ask)


def _in_mlflow(path: Path) -> tuple[FlavorName, Path, tuple[str, ...]]:
    """Return the flavor and the file of an MLflow model whose file executes nothing, and its columns."""
    import yaml

    folder = path if path.is_dir() else path.parent
    try:
        said = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))
        flavors = dict(said["flavors"])
        inputs = json.loads((said.get("signature") or {}).get("inputs") or "[]")
        columns = tuple(str(one["name"]) for one in inputs if "name" in one)
    except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError) as error:
        raise InputError(f"{folder / 'MLmodel'}: not the description of an MLflow model ({error})") from error
    onnx, sklearn = flavors.get("onnx") or {}, flavors.get("sklearn") or {}
    if "data" in onnx:
        return "onnx", inside(folder, str(onnx["data"])), columns
    if sklearn.get("serialization_format") == "skops":
        return "skops", inside(folder, str(sklearn.get("pickled_model"))), columns
    kept = ", ".join(sorted(set(flavors) - {"python_function"})) or "python_function"
    raise InputError(
        f"{folder}: an MLflow model kept as {kept} is read by executing code of its files; serve it with "
        f"`mlflow models serve -m {folder}`, and declare that address (http://…/invocations)"
    )


_LOADERS: dict[str, Callable[[Path], Asked]] = {"onnx": _onnx, "skops": _skops, "torch.export": _torch_export}
