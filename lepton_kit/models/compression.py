"""Compression: a smaller forecaster that answers nearly as its teacher does, and what that costs and gains.

What makes these models slow is the kind of their body, not the number or precision of their weights: a recurrent body
takes its steps one after another. So a student of another kind is distilled from the teacher's answers. It reads the
same columns and is kept in the same files, so registry and service treat it as any other version. Narrower bodies are
students too; 8-bit weights made such small models slower (`benchmarks/compress.py`).
"""

from __future__ import annotations

import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lepton_kit.errors import InputError, LeptonError
from lepton_kit.models.evaluation import Decision
from lepton_kit.models.forecasters import FILES, Architecture, Forecaster, ModelName, Network
from lepton_kit.models.registry import COMPRESSED_FROM
from lepton_kit.models.training import repeatable
from lepton_kit.models.tuning import count_parameters

BATCH = 256
"""Rows of the batch that is timed."""

TEACHER = "teacher"
"""What the gate calls a student's teacher."""


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

    It learns from the teacher's answers, not from what came true (Hinton, Vinyals and Dean (2015), "Distilling the
    knowledge in a neural network"): the divergence of its Gaussians from the teacher's, minimised by L-BFGS over all
    rows at once. Scaler, columns and the softmax regression of the direction are the teacher's own.

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
    if not isinstance(teacher, Forecaster):
        raise InputError(f"compression: torch models of the kit only, not a {type(teacher).__name__} of another maker")
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


def divergence(teacher: Forecaster, student: Forecaster, features: pd.DataFrame) -> float:
    """Return how far the student's Gaussians are from the teacher's, in nats per row; 0 says the same."""
    (mean, log_std), (other_mean, other_log_std) = (
        _answers(one.network, torch.from_numpy(one.prepare(features)[0])) for one in (teacher, student)
    )
    return float(gaussian_divergence(mean, log_std, other_mean, other_log_std).mean())


def footprints(forecasters: Mapping[str, Forecaster], features: pd.DataFrame, repeats: int = 100) -> pd.DataFrame:
    """Return what each model weighs and how long it takes, measured side by side.

    The models take turns, and the least time counts: other work on the machine can only add to it. One thread goes from
    checked values to forecasts as a service needs them (scaling, winsorising, network, interval).

    Parameters
    ----------
    features
        Rows to ask about; they are repeated to `BATCH` rows.

    Returns
    -------
    DataFrame
        One row per model: `forecaster`, `parameters`, `bytes` on disk, `us_per_row` (one row alone, microseconds),
        `us_per_batch` (`BATCH` rows at once, microseconds).
    """
    if repeats < 1 or features.empty:
        raise InputError(f"repeats = {repeats} over {len(features)} rows: both must be at least 1")
    times = _take_turns(forecasters, features, repeats)
    return pd.DataFrame(
        {
            "forecaster": list(forecasters),
            "parameters": [count_parameters(one.network) for one in forecasters.values()],
            "bytes": [_bytes_on_disk(one) for one in forecasters.values()],
            "us_per_row": [times[name, 1] for name in forecasters],
            "us_per_batch": [times[name, BATCH] for name in forecasters],
        }
    )


def _bytes_on_disk(forecaster: Forecaster) -> int:
    with tempfile.TemporaryDirectory() as scratch:
        forecaster.save(Path(scratch))
        return sum((Path(scratch) / name).stat().st_size for name in FILES)


def may_stand_in(decision: Decision, margin: float = 0.05) -> bool:
    """Return whether a student may answer in its teacher's place.

    It passes the gate against all others, and against the teacher, which it need not beat, the whole interval of its
    loss lies below the margin (a test of non-inferiority).

    Parameters
    ----------
    decision
        The gate's word on the student against the naive forecasts and its teacher, called `TEACHER`, on rows that
        neither has learnt from.
    margin
        The loss against the teacher that the interval must not reach, as a share of its interval score.

    Raises
    ------
    InputError
        When the teacher, or every naive forecast, is missing among the opponents.
    """
    against = {verdict.opponent: verdict for verdict in decision.verdicts}
    teacher = against.pop(TEACHER, None)
    if teacher is None or not against:
        raise InputError(f"opponents {sorted(against)}: must be the {TEACHER!r} and at least one naive forecast")
    return teacher.relative.upper < margin and all(verdict.passed for verdict in against.values())


def compressed_card(card: Mapping[str, Any], version: str, student: Forecaster, **measured: Any) -> dict[str, Any]:
    """Return the model card of a student: its teacher's data, and under `compressed_from` its teacher's version.

    Parameters
    ----------
    card, version
        The teacher's, from the registry.
    measured
        What is known of the student: `may_stand_in`, `loss`, `times_as_fast` (`us_per_row`, `us_per_batch`).
    """
    architecture = student.architecture
    limits = [card["limits"]] if card.get("limits") else []
    return {
        "purpose": card.get("purpose", ""),
        "limits": "; ".join([*limits, f"distilled from {version}: stands in for it where time is short"]),
        "data": card.get("data"),
        "parameters": {**card.get("parameters", {}), "model": architecture.model, "width": architecture.width},
        COMPRESSED_FROM: version,
        "compression": measured,
    }


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


def _take_turns(
    forecasters: Mapping[str, Forecaster], features: pd.DataFrame, repeats: int
) -> dict[tuple[str, int], float]:
    """Return each model's least time for one row and for a batch, in microseconds, after some rounds to warm up."""
    times: dict[tuple[str, int], list[float]] = defaultdict(list)
    with repeatable(0):  # with one thread
        for turn in range(-5, repeats):
            for name, forecaster in forecasters.items():
                values = features[list(forecaster.columns)].to_numpy(float)
                for rows in (1, BATCH):
                    asked = np.resize(values, (rows, values.shape[1]))
                    began = time.perf_counter()
                    forecaster.answers(asked)
                    if turn >= 0:
                        times[name, rows].append(time.perf_counter() - began)
    return {key: 1e6 * min(taken) for key, taken in times.items()}
