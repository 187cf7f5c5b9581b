"""Compression: which smaller form of a model may stand in for it, and what that costs and gains on this machine.

Any model of the kit: each candidate is kept in a folder, loaded from there and asked as a service asks it.

candidate        what it is
float32          the same weights in single precision, as an ONNX graph
float16          with weights of 16 bits
int8             with weights of 8 bits, and dynamic quantisation of what comes to them
pruned 1/2, 1/4  with that share of its hidden units, fitted anew
distilled …      a linear model, or a network with one narrow hidden layer, that learnt from its answers

Tried and left out: torchao 0.18 (int8). On this CPU it made networks with hidden layers of 16 and 256 units slower,
with 8-bit weights at 1,024 too; its dynamic kind gained there in batches, a third. Nothing else of it is needed here.
bfloat16: onnxruntime has no kernels of it for CPUs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch

from lepton_kit.errors import InputError, LeptonError
from lepton_kit.models import conversion
from lepton_kit.models.distillation import distil, distil_table
from lepton_kit.models.evaluation import Bootstrap, Decision, paired_difference
from lepton_kit.models.flavors import LoadedModel, Model, ModelFile, said_of
from lepton_kit.models.forecasters import Forecaster, ModelName
from lepton_kit.models.registry import COMPRESSED_FROM
from lepton_kit.models.training import Examples, repeatable

STANDARD = Bootstrap()
BATCH = 256
"""Rows of the batch that is timed."""

ORIGINAL = "original"
"""What the model to be compressed is called, among its candidates and by the gate."""

ALIKE = 0.9
"""A gain of this share of the greatest is as good: times vary by more."""

PAGE_KIB = 4.0
"""The least memory that two models differ by: a page."""

MEMORY_S = 300.0
"""What measuring the memory of all models may take."""

Goal = Literal["us_per_row", "us_per_batch", "memory_kib", "bytes"]
Reason = Literal["pays", "gains too little", "loses too much", "not judged", "no candidate"]

NARROW = 4
STUDENTS: dict[str, ModelName] = {"distilled linear": "linear", f"distilled mlp {NARROW}": "mlp"}
"""What is distilled: a linear model, and a network with this many hidden units."""


def candidates(
    model: Model, features: pd.DataFrame, folder: Path, seed: int = 0
) -> tuple[dict[str, Model], dict[str, str]]:
    """Return the smaller forms of a model, each kept in a folder of its own, and why there are not others.

    Parameters
    ----------
    features
        Rows that the model learnt from (n, columns): pruning and distillation ask it about them. Never those that will
        judge the candidates.
    """
    features = features[list(model.columns or map(str, features))]
    made: dict[str, Model] = {}
    refused: dict[str, str] = {}
    for name, make in (_graphs(model, features, folder) | _students(model, features, folder, seed)).items():
        try:
            one = make()
            one.predict(features[:1])  # a form may be written that cannot be asked
            made[name] = one
        except LeptonError as error:
            refused[name] = str(error)
    return made, refused


def _graphs(model: Model, features: pd.DataFrame, folder: Path) -> dict[str, Callable[[], Model]]:
    original = cache(lambda: conversion.as_onnx(model))

    def make(name: str) -> Model:
        if name == "float32" and getattr(model, "flavor", "") == "onnx":
            raise InputError("it is an ONNX graph already")
        graph = conversion.FORMS[name](original(), features)
        return conversion.kept_onnx(graph, said_of(model), folder / name.replace("/", "-"))

    return {name: partial(make, name) for name in conversion.FORMS}


def _students(model: Model, features: pd.DataFrame, folder: Path, seed: int) -> dict[str, Callable[[], Model]]:
    def make(name: str, kind: ModelName) -> Model:
        if isinstance(model, Forecaster):
            student = distil(model, features, kind, NARROW, seed=seed)
            student.save(folder / name)
            return student
        assert isinstance(model, LoadedModel)  # the other kind of model
        fitted = distil_table(model, features, kind, NARROW, seed)
        is_multiclass = model.task.name == "classification_multiclass"
        classes = tuple(fitted.classes_.tolist()) if is_multiclass else ()
        said = said_of(model).model_copy(update={"classes": classes, "positive": None})
        graph = conversion.of_estimator(fitted, model.columns, model.categorical)
        return conversion.kept_onnx(graph, said, folder / name)

    return {name: partial(make, name, kind) for name, kind in STUDENTS.items()}


# --- what each costs and gains ------------------------------------------------------------------------------------


def measure(
    models: Mapping[str, Model], held_out: Examples, bootstrap: Bootstrap = STANDARD, repeats: int = 100
) -> pd.DataFrame:
    """Return what each model loses and needs, side by side on this machine.

    Parameters
    ----------
    models
        The `original` first, then its candidates.
    held_out
        Rows that none of them learnt from.
    repeats
        Turns of the timing. The models take turns, and the least time counts: other work can only add to it.

    Returns
    -------
    DataFrame
        One row per model: `candidate`; `loss`, its mean by the task; `lost`, `lower` and `upper`, by how much that is
        above the original's, as a share of it, with a paired bootstrap interval; `us_per_row` and `us_per_batch`
        (`BATCH` rows at once), microseconds on one thread from checked values to answers; `memory_kib`, by which a
        process grows that loads it and answers a batch, libraries apart (NaN where the system does not tell, or in
        time); `bytes` of its own files.

    Raises
    ------
    InputError
        When there is no original, no row or no turn.
    """
    if next(iter(models), None) != ORIGINAL or repeats < 1 or held_out.target.empty:
        raise InputError(f"models {list(models)}: the {ORIGINAL!r} comes first; rows and repeats must be at least 1")
    features = held_out.features
    losses = {name: one.task.loss(one.predict(features), held_out.target) for name, one in models.items()}
    times = _take_turns(models, features, repeats)
    with tempfile.TemporaryDirectory() as scratch:
        folders = {name: Path(scratch) / str(place) for place, name in enumerate(models)}
        for name, one in models.items():
            one.save(folders[name])
        sizes = {
            name: sum(file.stat().st_size for file in folders[name].rglob("*") if file.is_file()) for name in models
        }
        memory = _memory(folders, features.iloc[np.arange(BATCH) % len(features)], Path(scratch))
    apart = {name: paired_difference(lost, losses[ORIGINAL], bootstrap) for name, lost in losses.items()}
    rows = [
        {
            "candidate": name, "loss": float(lost.mean()),
            "lost": apart[name].mean, "lower": apart[name].lower, "upper": apart[name].upper,
            "us_per_row": times[name, 1], "us_per_batch": times[name, BATCH],
            "memory_kib": memory[name], "bytes": sizes[name],
        }
        for name, lost in losses.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _take_turns(models: Mapping[str, Model], features: pd.DataFrame, repeats: int) -> dict[tuple[str, int], float]:
    """Return each model's least time for one row and for a batch, in microseconds, after some rounds to warm up."""
    times: dict[tuple[str, int], list[float]] = defaultdict(list)
    asked = {
        (name, rows): features[list(one.columns)].iloc[np.arange(rows) % len(features)].to_numpy()
        for name, one in models.items()
        for rows in (1, BATCH)
    }
    with repeatable(0):  # with one thread
        for turn in range(-5, repeats):
            for (name, rows), values in asked.items():
                began = time.perf_counter()
                models[name].answers(values)
                if turn >= 0:
                    times[name, rows].append(time.perf_counter() - began)
    return {key: 1e6 * min(taken) for key, taken in times.items()}


def _memory(folders: Mapping[str, Path], rows: pd.DataFrame, scratch: Path) -> dict[str, float]:
    """Return by how many KiB a fresh process grows that loads each model and answers the rows."""
    rows.to_parquet(scratch / "rows.parquet")
    command = [sys.executable, "-m", "lepton_kit.models.footprint", str(scratch / "rows.parquet")]
    process = subprocess.Popen(
        [*command, *map(str, folders.values())], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True,
    )  # fmt: skip
    try:
        told, said = process.communicate(timeout=MEMORY_S)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)  # its children, too
        process.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        warnings.warn(f"the memory of the candidates was not measured: it took over {MEMORY_S:g} s", stacklevel=3)
        return dict.fromkeys(folders, float("nan"))
    if process.returncode:
        raise LeptonError(f"the memory of the candidates cannot be measured: {said.strip()[-300:]}")
    return dict(zip(folders, map(float, json.loads(told)), strict=True))


# --- the advice -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Advice:
    """Which candidate should stand in for the original: exactly one, or none.

    Parameters
    ----------
    candidate
        None where none pays.
    reason
        Why; `gains too little` also where the nearest gains nothing at all, or is slower; `not judged` where its loss
        is no share of the original's, which is 0 or unknown.
    nearest
        The candidate that `figures` are of: the chosen one, else the one that came nearest.
    figures
        `gain`: how many times as good as the original by the goal; the same by each goal under its name; `lost`,
        `lower` and `upper` as `measure` gives them.
    """

    candidate: str | None
    reason: Reason
    nearest: str | None
    goal: Goal
    least_gain: float
    margin: float
    figures: Mapping[str, float]

    def __str__(self) -> str:
        if self.nearest is None:
            return "none: the model has no smaller form here"
        gain, what = self.figures["gain"], GOALS[self.goal]
        loss = f"its loss is {self.figures['lost']:+.1%} ({self.figures['lower']:+.1%} to {self.figures['upper']:+.1%})"
        if self.candidate:
            return f"{self.candidate}: {gain:.1f} times less {what} than the original; {loss}"
        if self.reason == "loses too much":
            saved = f"{self.nearest} needs {gain:.1f} times less {what}"
            return f"none: {saved}, but {loss}; less than {self.margin:.0%} is asked"
        if self.reason == "not judged":
            saved = f"{self.nearest} needs {gain:.1f} times less {what}"
            return f"none: {saved}, but its loss is not judged: the original's is 0 or unknown, so no share of it tells"
        than = f"more {what} than the original" if gain < 1 else f"{gain:.2f} times less {what} than the original"
        return f"none: {self.nearest} needs {than}; {self.least_gain:g} times less is asked"


GOALS: dict[str, str] = {
    "us_per_row": "time for one row",
    "us_per_batch": f"time for {BATCH} rows",
    "memory_kib": "memory",
    "bytes": "disk",
}
"""What each goal saves."""


def advise(
    measured: pd.DataFrame, goal: Goal = "us_per_batch", least_gain: float = 2.0, margin: float = 0.05
) -> Advice:
    """Return which candidate should stand in for the original, by what was measured.

    Of those whose loss interval ends below the margin, the one that gains most by the goal, if that is enough; of
    several that gain nearly as much (nine tenths), the one whose loss interval ends lowest.

    Parameters
    ----------
    measured
        As `measure` gives it.
    least_gain
        How many times less of the goal's unit a candidate must need.
    margin
        The loss that the interval must not reach, as a share of the original's.

    Examples
    --------
    >>> costs = {"us_per_row": [10, 4], "us_per_batch": [90, 120], "memory_kib": [9, 9], "bytes": [800, 200]}
    >>> losses = {"candidate": ["original", "int8"], "lost": [0, 0.01], "lower": [0, 0], "upper": [0, 0.02]}
    >>> measured = pd.DataFrame(losses | costs)
    >>> print(advise(measured))
    none: int8 needs more time for 256 rows than the original; 2 times less is asked
    >>> advise(measured, "bytes").candidate, advise(measured, "bytes", margin=0.01).reason
    ('int8', 'loses too much')
    """
    if goal not in get_args(Goal):
        raise InputError(f"goal = {goal!r}: must be one of {', '.join(get_args(Goal))}")
    if least_gain < 1 or margin < 0:
        raise InputError(f"least_gain = {least_gain}, margin = {margin}: must be at least 1, and at least 0")
    table = measured.assign(memory_kib=measured["memory_kib"].clip(lower=PAGE_KIB)).set_index("candidate")
    gains = table.loc[ORIGINAL, list(GOALS)].astype(float) / table[list(GOALS)].drop(index=ORIGINAL).astype(float)
    if gains.empty:
        return Advice(None, "no candidate", None, goal, least_gain, margin, {})
    gains = gains[gains[goal].notna()]
    if gains.empty:
        raise InputError(f"goal = {goal!r}: {GOALS[goal]} cannot be measured on this system: choose goal us_per_batch")
    is_judged = table.loc[gains.index, ["lost", "lower", "upper"]].abs().max(axis=1, skipna=False) < np.inf
    is_kept = table.loc[gains.index, "upper"] < margin
    is_enough = gains[goal] >= least_gain
    reason: Reason = "gains too little"
    if (is_kept & is_enough).any():
        own = gains.loc[is_kept & is_enough, goal]
        reason, among = "pays", -table.loc[own.index[own >= ALIKE * own.max()], "upper"]
    elif is_enough.any():
        is_worse = is_enough & is_judged
        reason, is_near = ("loses too much", is_worse) if is_worse.any() else ("not judged", is_enough)
        among = gains.loc[is_near, goal]
    else:
        among = gains.loc[is_kept, goal] if is_kept.any() else gains[goal]
    nearest = str(among.idxmax())
    figures = {"gain": gains.loc[nearest, goal], **gains.loc[nearest], **table.loc[nearest, ["lost", "lower", "upper"]]}
    known = {key: float(value) for key, value in figures.items()}
    return Advice(nearest if reason == "pays" else None, reason, nearest, goal, least_gain, margin, known)


def sweep(widths: Sequence[int], folder: Path, columns: int = 32, repeats: int = 30) -> pd.DataFrame:
    """Return what networks with two hidden layers need at each width, as ONNX graphs, to see from where a form pays.

    Parameters
    ----------
    widths
        Units of each hidden layer; the weights are random, which costs as much as trained ones.

    Returns
    -------
    DataFrame
        One row per width and form: `width`, `parameters`, `form` (`float32`, `float16`, `int8`, `pruned 1/2`),
        `us_per_row`, `us_per_batch`, `bytes`; and `faster`, how many times as fast as `float32` on a batch.
    """
    rows = pd.DataFrame(np.random.default_rng(0).normal(size=(BATCH, columns))).add_prefix("x")
    names, forms = tuple(map(str, rows)), ("float32", "float16", "int8", "pruned 1/2")
    found = []
    for width in widths:
        with repeatable(0):
            layers = [torch.nn.Linear(columns, width), torch.nn.Tanh(), torch.nn.Linear(width, width), torch.nn.Tanh()]
            network = torch.nn.Sequential(*layers, torch.nn.Linear(width, 1))
        single, said = conversion.of_torch(network, columns), ModelFile(task="regression", columns=names)
        models = {
            form: conversion.kept_onnx(conversion.FORMS[form](single, rows), said, folder / f"{width} {number}")
            for number, form in enumerate(forms)
        }
        times = _take_turns(models, rows, repeats)
        found += [
            {
                "width": width, "parameters": sum(p.numel() for p in network.parameters()), "form": form,
                "us_per_row": times[form, 1], "us_per_batch": times[form, BATCH],
                "bytes": Path(one.place, "model.onnx").stat().st_size,
                "faster": times["float32", BATCH] / times[form, BATCH],
            }
            for form, one in models.items()
        ]  # fmt: skip
    return pd.DataFrame(found)


def pays_from(swept: pd.DataFrame, form: str, least_gain: float = 1.1) -> int | None:
    """Return the least width from which a form is this much faster on a batch at every width; None where at none.

    >>> pays_from(pd.DataFrame({"width": [8, 64, 512], "form": "int8", "faster": [1.2, 0.8, 2.0]}), "int8")
    512
    """
    own = swept[swept["form"] == form].sort_values("width", ascending=False)
    wide = own["width"][(own["faster"] > least_gain).cummin()]
    return int(wide.min()) if len(wide) else None


def may_stand_in(decision: Decision, margin: float = 0.05) -> bool:
    """Return whether a candidate may answer in the original's place.

    It passes the gate against all others, and against the original, which it need not beat, the whole interval of its
    loss lies below the margin (a test of non-inferiority).

    Parameters
    ----------
    decision
        The gate's word on the candidate against the naive models and the `ORIGINAL`, on rows that neither has learnt
        from, and that did not choose the candidate.
    margin
        The loss against the original that the interval must not reach, as a share of its own.

    Raises
    ------
    InputError
        When the original, or every naive model, is missing among the opponents.
    """
    against = {verdict.opponent: verdict for verdict in decision.verdicts}
    original = against.pop(ORIGINAL, None)
    if original is None or not against:
        raise InputError(f"opponents {sorted(against)}: must be the {ORIGINAL!r} and at least one naive model")
    return original.relative.upper < margin and all(verdict.passed for verdict in against.values())


def compressed_card(
    card: Mapping[str, Any], version: str, advice: Advice, model: Model, **measured: Any
) -> dict[str, Any]:
    """Return the model card of a candidate: the original's data, and under `compressed_from` the original's version.

    Parameters
    ----------
    card, version
        The original's, from the registry.
    advice, model
        The candidate that was chosen.
    measured
        What is known of it: `may_stand_in`, `loss`, `times_as_fast` (`us_per_row`, `us_per_batch`).
    """
    limits = [card["limits"]] if card.get("limits") else []
    shape = vars(model.architecture) if isinstance(model, Forecaster) else {}
    return {
        "purpose": card.get("purpose", ""),
        "limits": "; ".join([*limits, f"{advice.candidate} of {version}: stands in for it where time is short"]),
        "data": card.get("data"),
        **{key: card[key] for key in ("subject",) if key in card},
        "parameters": {**card.get("parameters", {}), **{key: shape[key] for key in ("model", "width") if key in shape}},
        COMPRESSED_FROM: version,
        "compression": {"candidate": advice.candidate, **measured},
    }
