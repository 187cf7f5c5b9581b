"""Compression: a smaller forecaster that says nearly the same as its teacher, and what that costs and gains.

What makes these models slow is the kind of their body, not the number or precision of their weights: a recurrent body
takes its steps one after another. So a student of another kind is distilled from the teacher's answers. It reads the
same columns and is kept in the same files, so registry and service treat it as any other version. Narrower bodies are
students too; 8-bit weights made such small models slower (`benchmarks/compress.py`).
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lepton_kit.errors import InputError, LeptonError
from lepton_kit.models.evaluation import Bootstrap, Decision, Interval, gate, losses, paired_difference
from lepton_kit.models.forecasters import (
    FILES,
    FURTHEST_INPUT,
    Architecture,
    Forecaster,
    ModelName,
    Network,
    Predictor,
)
from lepton_kit.models.registry import COMPRESSED_FROM
from lepton_kit.models.training import Examples, repeatable
from lepton_kit.models.tuning import count_parameters

BATCH = 256
"""Rows of the batch that is timed."""

TEACHER, STUDENT = "teacher", "student"


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
    teacher
        The model to say the same as.
    features
        Rows to ask it about (n, columns): those that it learnt from, never those that will judge the student.
    model, width
        The student's body; a linear one has no width.
    steps
        Steps of the optimiser, at most.
    seed
        Of the student's first weights.

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

    The models take turns, so that a busy moment of the machine meets all alike; times are medians, with one thread,
    from checked values to forecasts as a service needs them (scaling, winsorising, network, interval).

    Parameters
    ----------
    forecasters
        Models by name.
    features
        Rows to ask about; they are repeated to `BATCH` rows.
    repeats
        How often each is timed.

    Returns
    -------
    DataFrame
        One row per model: `forecaster`, `parameters`, `bytes` on disk, `us_per_row` (one row alone, microseconds),
        `us_per_batch` (`BATCH` rows at once, microseconds).
    """
    if repeats < 1 or features.empty:
        raise InputError(f"repeats = {repeats} over {len(features)} rows: both must be at least 1")
    tasks = {
        (name, rows): _question(forecaster, features, rows)
        for name, forecaster in forecasters.items()
        for rows in (1, BATCH)
    }
    times = _take_turns(tasks, repeats)
    return pd.DataFrame(
        {
            "forecaster": list(forecasters),
            "parameters": [count_parameters(one.network) for one in forecasters.values()],
            "bytes": [bytes_on_disk(one) for one in forecasters.values()],
            "us_per_row": [times[name, 1] for name in forecasters],
            "us_per_batch": [times[name, BATCH] for name in forecasters],
        }
    )


def bytes_on_disk(forecaster: Forecaster) -> int:
    """Return the size of a model's files."""
    with tempfile.TemporaryDirectory() as scratch:
        forecaster.save(Path(scratch))
        return sum((Path(scratch) / name).stat().st_size for name in FILES)


@dataclass(frozen=True)
class Compression:
    """What a student gains and costs.

    `footprint` is as `footprints` gives it; `scores` holds the mean interval scores (log return); `loss` is the paired
    difference of the student's interval score from its teacher's, as a share; `decision` is the gate's word on the
    student against the opponents and its teacher alike.
    """

    footprint: pd.DataFrame
    scores: dict[str, float]
    loss: Interval
    decision: Decision
    margin: float

    @property
    def may_stand_in(self) -> bool:
        """Whether it may answer in its teacher's place.

        It passes the gate against all others, and against the teacher, which it need not beat, the whole interval of
        its loss lies below the margin (a test of non-inferiority).
        """
        others = [verdict.passed for verdict in self.decision.verdicts if verdict.opponent != TEACHER]
        return all(others) and self.loss.upper < self.margin

    def times_as_fast(self, column: str = "us_per_batch") -> float:
        """Return how many times as fast as its teacher the student is, by a column of the footprint."""
        measured = self.footprint.set_index("forecaster")[column]
        return float(measured[TEACHER] / measured[STUDENT])


def compression_report(
    teacher: Forecaster,
    student: Forecaster,
    test: Examples,
    opponents: Mapping[str, Predictor],
    margin: float = 0.05,
    bootstrap: Bootstrap | None = None,
) -> Compression:
    """Measure a student beside its teacher, on rows that neither has learnt from.

    Parameters
    ----------
    test
        Rows and what came true, in time order.
    opponents
        The naive forecasts that every version must beat, by name.
    margin
        The loss against the teacher that the interval must not reach, as a share of its interval score.
    bootstrap
        How to resample; as `Bootstrap()` where not given.

    Raises
    ------
    InputError
        When there is no opponent, or the rows are too few or lack a column.
    """
    if not opponents or {TEACHER, STUDENT} & set(opponents):
        raise InputError(f"opponents {sorted(opponents)}: at least one, none named {TEACHER!r} or {STUDENT!r}")
    rule = bootstrap or Bootstrap()
    daily = {
        who: losses(forecaster, test.features, test.target)
        for who, forecaster in {TEACHER: teacher, STUDENT: student, **opponents}.items()
    }
    others = {who: scores for who, scores in daily.items() if who != STUDENT}
    return Compression(
        footprint=footprints({TEACHER: teacher, STUDENT: student}, test.features),
        scores={who: float(scores.mean()) for who, scores in daily.items()},
        loss=paired_difference(daily[STUDENT], daily[TEACHER], rule),
        decision=gate(daily[STUDENT], others, margin, rule),
        margin=margin,
    )


def compressed_card(card: Mapping[str, Any], version: str, student: Forecaster, report: Compression) -> dict[str, Any]:
    """Return the model card of a student: its teacher's data, and under `compressed_from` its teacher's version.

    Parameters
    ----------
    card, version
        The teacher's, from the registry.
    student, report
        As `distil` and `compression_report` gave them.
    """
    architecture = student.architecture
    limits = [card["limits"]] if card.get("limits") else []
    return {
        "purpose": card.get("purpose", ""),
        "limits": "; ".join([*limits, f"distilled from {version}: stands in for it where time is short"]),
        "data": card.get("data"),
        "parameters": {**card.get("parameters", {}), "model": architecture.model, "width": architecture.width},
        COMPRESSED_FROM: version,
        "compression": {
            "loss": vars(report.loss),
            "may_stand_in": report.may_stand_in,
            "times_as_fast": {name: report.times_as_fast(name) for name in ("us_per_row", "us_per_batch")},
        },
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


def _question(forecaster: Forecaster, features: pd.DataFrame, rows: int) -> Callable[[], Any]:
    values = features[list(forecaster.architecture.needed)].to_numpy(float)
    asked = np.resize(values, (rows, values.shape[1]))

    def answer() -> np.ndarray:
        inputs, scale = forecaster.scaled(asked)
        return forecaster.answer(np.clip(inputs, -FURTHEST_INPUT, FURTHEST_INPUT), scale)

    return answer


def _take_turns(tasks: Mapping[tuple[str, int], Callable[[], Any]], repeats: int) -> dict[tuple[str, int], float]:
    """Return each task's median time in microseconds, after a few rounds to warm up."""
    times: dict[tuple[str, int], list[float]] = {key: [] for key in tasks}
    with _one_thread():
        for turn in range(-5, repeats):
            for key, task in tasks.items():
                began = time.perf_counter()
                task()
                if turn >= 0:
                    times[key].append(time.perf_counter() - began)
    return {key: 1e6 * float(np.median(taken)) for key, taken in times.items()}


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
