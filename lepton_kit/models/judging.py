"""Judges answers of any task: loss and hits per row with their intervals, by slice, and how far they are calibrated."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lepton_kit.data.contracts import Contract
from lepton_kit.errors import InputError
from lepton_kit.models.evaluation import Bootstrap, bootstrap_mean
from lepton_kit.models.evaluation import calibration as of_quantiles
from lepton_kit.models.tasks import PROBA, Task

SLICES, LEAST_OF_SLICE = ("low", "middle", "high"), 10
"""The quantiles of a number by which rows are sliced, and the fewest rows of a slice that is shown."""

BINS = 10


def judged(task: Task, answers: pd.DataFrame, target: pd.Series) -> pd.DataFrame:
    """Return each row's `loss` and `hit` (1 or 0), indexed like the target; their means are the scores."""
    return pd.DataFrame({"loss": task.loss(answers, target), "hit": task.hit(answers, target)}, index=target.index)


def scores(rows: pd.DataFrame, bootstrap: Bootstrap) -> pd.DataFrame:
    """Return the mean of loss and hit with their bootstrap intervals: `score`, `mean`, `lower`, `upper`."""
    found = [{"score": name, **vars(bootstrap_mean(rows[name], bootstrap))} for name in ("loss", "hit")]
    return pd.DataFrame(found)


def slices(rows: pd.DataFrame, features: pd.DataFrame, contract: Contract, bootstrap: Bootstrap) -> pd.DataFrame:
    """Return the scores by slice: each category, and the thirds of each number.

    Parameters
    ----------
    rows
        As `judged` gives it (n).
    features
        What the model was asked (n, columns), with the same index.

    Returns
    -------
    DataFrame
        `feature`, `slice`, `rows`, `loss`, `hit`, and the interval of the hits, `lower` and `upper`; the worst first.
        Slices of fewer than 10 rows are left out.
    """
    made = []
    for name in contract.features:
        groups = features[name].astype(str)
        if name in contract.numbers:
            if features[name].nunique() < len(SLICES):
                continue
            groups = pd.qcut(features[name].rank(method="first"), len(SLICES), labels=SLICES).astype(str)
        for group, part in rows.groupby(groups, observed=True):
            if len(part) < max(LEAST_OF_SLICE, 2 * bootstrap.block):
                continue
            hits = bootstrap_mean(part["hit"], bootstrap)
            made.append((name, group, len(part), float(part["loss"].mean()), hits.mean, hits.lower, hits.upper))
    table = pd.DataFrame(made, columns=["feature", "slice", "rows", "loss", "hit", "lower", "upper"])
    return table.sort_values(["hit", "loss"], ascending=[True, False], ignore_index=True)


def calibration(task: Task, answers: pd.DataFrame, target: pd.Series, bins: int = BINS) -> pd.DataFrame:
    """Return what answers claimed, and how often that came true: over probabilities, or over central intervals.

    Returns
    -------
    DataFrame
        `claimed`, `measured` and `rows`: of classes, bins of equally many rows by the probability of the positive class
        (binary) or of the answered one (multiclass); of an interval forecast, the shares that central intervals hold.

    Raises
    ------
    InputError
        When the task's answers claim no probability.

    Examples
    --------
    >>> from lepton_kit.models.tasks import task_of
    >>> answers = pd.DataFrame({"proba": [0.1, 0.2, 0.8, 0.9]})
    >>> calibration(task_of("classification_binary"), answers, pd.Series([0, 0, 1, 1]), bins=2).values.tolist()
    [[0.15000000000000002, 0.0, 2.0], [0.8500000000000001, 1.0, 2.0]]
    """
    if {"mean", "std"} <= set(answers):
        return of_quantiles(answers, target).set_axis(["claimed", "measured"], axis=1).assign(rows=len(target))
    if task.name == "classification_binary":
        claimed, came = answers["proba"], task.residual(answers, target) > 0
    elif probas := [name for name in map(str, answers) if name.startswith(PROBA)]:
        claimed, came = answers[probas].max(axis=1), task.hit(answers, target)
    else:
        raise InputError(f"task {task.name}: its answers claim no probability, so there is nothing to calibrate")
    bin_of = np.floor(claimed.rank(method="first").sub(1) * min(bins, len(claimed)) / len(claimed))
    table = pd.DataFrame({"claimed": claimed.to_numpy(float), "measured": came.to_numpy(float)})
    grouped = table.groupby(np.asarray(bin_of))
    return grouped.mean().assign(rows=grouped.size()).reset_index(drop=True)


def calibration_error(curve: pd.DataFrame) -> float:
    """Return the mean distance of claimed and measured shares over the rows (expected calibration error).

    >>> calibration_error(pd.DataFrame({"claimed": [0.2, 0.8], "measured": [0.1, 0.8], "rows": [10, 10]})).__round__(3)
    0.05
    """
    return float(np.average((curve["claimed"] - curve["measured"]).abs(), weights=curve["rows"]))
