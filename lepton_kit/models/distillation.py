"""Distillation: a small model that has learnt to answer as a larger one does.

A student learns from its teacher's answers, not from what came true: Hinton, Vinyals and Dean (2015), "Distilling the
knowledge in a neural network".
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from lepton_kit.data.contracts import Contract
from lepton_kit.errors import InputError, LeptonError
from lepton_kit.models.fitting import pipeline
from lepton_kit.models.flavors import LoadedModel
from lepton_kit.models.forecasters import Architecture, Forecaster, ModelName, Network
from lepton_kit.models.tasks import PROBA
from lepton_kit.models.training import repeatable


def gaussian_divergence(mean: Tensor, log_std: Tensor, other_mean: Tensor, other_log_std: Tensor) -> Tensor:
    """Return the Kullback–Leibler divergence of each row's other Gaussian from the first, in nats (n,).

    Kullback and Leibler (1951), "On information and sufficiency", for two normal distributions. Zero where they agree.

    Examples
    --------
    Means one standard deviation apart cost half a nat:

    >>> zero = torch.zeros(1)
    >>> gaussian_divergence(zero, zero, zero + 1, zero).tolist()
    [0.5]
    """
    shift = (mean - other_mean) ** 2
    return other_log_std - log_std + (torch.exp(2 * log_std) + shift) / (2 * torch.exp(2 * other_log_std)) - 0.5


def distil(
    teacher: Forecaster,
    features: pd.DataFrame,
    model: ModelName = "linear",
    width: int = 2,
    steps: int = 200,
    seed: int = 0,
) -> Forecaster:
    """Return a student that has learnt to give the teacher's forecasts.

    It minimises the divergence of its Gaussians from the teacher's by L-BFGS over all rows at once. Scaler, columns and
    the softmax regression of the direction are the teacher's own.

    Parameters
    ----------
    features
        Rows to ask it about (n, columns): those that it learnt from, never those that will judge the student.
    model, width
        The student's body; a linear one has no width.

    Raises
    ------
    InputError
        When the model or width is not allowed, or the rows are not as the teacher needs them.
    LeptonError
        When the teacher's forecasts are not finite numbers, or the student's become so.

    Examples
    --------
    >>> from lepton_kit.models.forecasters import model_columns, untrained
    >>> returns = np.random.default_rng(1).normal(0, 0.01, size=90)
    >>> features = pd.DataFrame({"return_0": returns, "volatility_ewma": 0.01 + 0.1 * abs(returns)})
    >>> teacher = untrained(Architecture("mlp", model_columns(features), 8), features, level=0.01)
    >>> student = distil(teacher, features)
    >>> bool(np.allclose(student.predict(features), teacher.predict(features)))
    True
    """
    if steps < 1:
        raise InputError(f"steps = {steps}: must be at least 1")
    old = teacher.architecture
    architecture = Architecture(model, old.columns, width, old.volatility)
    inputs = torch.from_numpy(teacher.prepare(features)[0])
    mean, log_std = _answers(teacher.network, inputs)
    if not torch.isfinite(mean + log_std).all():
        raise LeptonError("the teacher gives forecasts that are not finite numbers; nothing can be learnt from it")
    with repeatable(seed):
        network = Network(architecture)
        network.direction.load_state_dict(teacher.network.direction.state_dict())
        _follow(network, inputs, mean, log_std, steps)
    return Forecaster(architecture, teacher.scaler, network)


def distil_table(teacher: LoadedModel, features: pd.DataFrame, kind: str, width: int = 4, seed: int = 0) -> Any:
    """Return a student of a classifier or a regression of any maker: a fitted pipeline of scikit-learn.

    A classifier's student learns the probability of each class: a row counts once for each class, with that weight.

    Parameters
    ----------
    features
        As for `distil`; none may be missing.
    kind, width
        `linear`, or `mlp` with one hidden layer of this width.

    Raises
    ------
    InputError
        When the task is another one, the classifier gives no probabilities, or a number is missing.
    """
    rows = features[list(teacher.columns)]
    numbers = tuple(name for name in teacher.columns if name not in teacher.categorical)
    if gaps := [name for name in numbers if rows[name].isna().any()]:
        raise InputError(f"a student reads no missing numbers; {', '.join(gaps)} has some")
    asked, answers, weights = _lesson(teacher, rows)
    is_class = teacher.task.name.startswith("classification")
    student = pipeline(kind, Contract(numbers, teacher.categorical), is_class, seed)
    if kind == "mlp":
        student[-1].set_params(
            hidden_layer_sizes=(width,), activation="tanh", solver="lbfgs", early_stopping=False, alpha=1e-4
        )
    counted = {} if weights is None else {f"{student.steps[-1][0]}__sample_weight": weights}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # how near it came, what it is measured by tells
        return student.fit(asked, answers, **counted)


def _lesson(teacher: LoadedModel, rows: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray, np.ndarray | None]:
    """Return rows, what to answer to each, and how much each counts (None: alike)."""
    given, task = teacher.predict(rows), teacher.task.name
    if task == "regression":
        return rows, given["prediction"].to_numpy(float), None
    if task == "classification_binary":
        shares, classes = np.column_stack([1 - given["proba"], given["proba"]]), np.array([0, 1])
    else:
        named = [name for name in map(str, given) if name.startswith(PROBA)]
        if task != "classification_multiclass" or not named:
            raise InputError(f"a {task} model that gives no probabilities has no student of a table")
        shares = given[named].to_numpy(float)
        classes = np.array(list(teacher.classes) or [name.removeprefix(PROBA) for name in named])
    is_counted = shares.T.ravel() > 0
    asked = pd.concat([rows] * len(classes), ignore_index=True)[is_counted]
    return asked, np.repeat(classes, len(rows))[is_counted], shares.T.ravel()[is_counted]


def _answers(network: Network, inputs: Tensor) -> tuple[Tensor, Tensor]:
    network.eval()
    with torch.no_grad():
        mean, log_std, _ = network(inputs)
    return mean, log_std


def _follow(network: Network, inputs: Tensor, mean: Tensor, log_std: Tensor, steps: int) -> None:
    """Bring a network's Gaussians to those given; its direction stays as it is."""
    learning = [*network.body.parameters(), *network.mean.parameters(), *network.log_std.parameters()]
    optimizer = torch.optim.LBFGS(learning, max_iter=steps, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        own_mean, own_log_std, _ = network(inputs)
        value = gaussian_divergence(mean, log_std, own_mean, own_log_std).mean()
        value.backward()  # type: ignore[no-untyped-call]  # torch does not type it
        return value

    network.train()
    optimizer.step(loss)  # type: ignore[no-untyped-call]  # nor this
    if not math.isfinite(loss().item()):
        raise LeptonError("the student's forecasts are not finite numbers; give fewer steps or another width")
