"""Rare classes: weights, a moved threshold and resampling, judged together with calibration; one is advised, or none.

A resampled model claims the class shares of the resampled table, so that its probabilities are wrong on the real one.
What resampling gains at a threshold of 0.5, a moved threshold mostly gains too, and it leaves the probabilities alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
from sklearn.base import clone

from lepton_kit.data.gains import Cut, alike, average_precision, brier, calibration_error, cuts, draws, gain
from lepton_kit.errors import InputError

METHODS = ("none", "threshold", "weights", "under", "over", "smote")
"""The simplest first: a later one is advised only where it gains more than those before."""

SPOILT = 0.05
"""Share by which the Brier score may rise: it is for a method to show that it does no harm."""

Reason = Literal["gains", "gains_nothing", "spoils_calibration"]


@dataclass(frozen=True)
class Advice:
    """What to do about a rare class: `method` (None: nothing), why, and the threshold that goes with it.

    `table` has a row per method: its `threshold`, `average_precision`, the `decision` measure at the threshold (F1, or
    minus the mean cost), `brier` and `calibration_error` on rows that were not fitted on; what the method gains over
    doing nothing (`…_gain`, with `_lower` and `_upper`); `gains` (the decision's interval lies above 0) and
    `spoils_calibration`.
    """

    method: str | None
    reason: Reason
    threshold: float
    table: pd.DataFrame


def advise(
    model: Any,
    features: pd.DataFrame,
    target: pd.Series,
    groups: pd.Series | None = None,
    time_ordered: bool = False,
    cost_of_miss: float | None = None,
    methods: tuple[str, ...] = METHODS,
    folds: int = 4,
    seed: int = 0,
) -> Advice:
    """Judge ways to treat a rare class on folds, resampling their training rows only, and advise one or none.

    Parameters
    ----------
    model
        A scikit-learn classifier or pipeline with `predict_proba`; it is copied, and stays as it is.
    features, target
        Rows (n, features), and 1 for the rare class, else 0 (n,).
    groups, time_ordered
        Which rows belong together, as `gains.cuts` takes them; else those with the same features do.
    cost_of_miss
        What a missed rare row costs, in false alarms; without it, the decision is measured by F1.

    Raises
    ------
    InputError
        When the target is not 0 and 1, a class has too few rows, or there is no such method.
    """
    if set(target.unique()) != {0, 1}:
        raise InputError(f"target: must hold 0 and 1; it holds {', '.join(map(str, sorted(target.unique())[:5]))}")
    if unknown := set(methods) - set(METHODS):
        raise InputError(f"methods: {', '.join(sorted(unknown))}: must be of {', '.join(METHODS)}")
    if groups is None and not time_ordered:
        groups = alike(features)
    truth, decide = target.to_numpy(int), partial(decision, cost_of_miss=cost_of_miss)
    parts = cuts(target, groups, time_ordered, folds, seed)
    scored = np.concatenate([cut.scored for cut in parts])
    answers, thresholds = {}, {}
    for name in dict.fromkeys(("none", *methods)):
        found = [_answers(model, name, features, truth, cut, decide, seed) for cut in parts]
        chances, alarms = (np.concatenate([one[place] for one in found]) for place in (0, 1))
        answers[name], thresholds[name] = (chances, alarms), float(np.median([one[2] for one in found]))
    samples = draws(len(scored), None if groups is None else groups.to_numpy()[scored], time_ordered, seed)
    rows = [_row(name, truth[scored], answers, decide, samples) for name in answers]
    table = pd.DataFrame(rows).assign(threshold=list(thresholds.values()))
    method, reason = _choose(table, truth[scored], answers, decide, samples)
    return Advice(method, reason, thresholds[method or "none"], table)


def _answers(
    model: Any, method: str, features: pd.DataFrame, truth: np.ndarray, cut: Cut, decide: Any, seed: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the probabilities of a fold's scored rows, the alarms, and the threshold."""
    judge = fitted(model, method, features.iloc[cut.fit], truth[cut.fit], seed)
    threshold = 0.5
    if method == "threshold":
        threshold = best_threshold(truth[cut.choose], judge.predict_proba(features.iloc[cut.choose])[:, 1], decide)
    chances = judge.predict_proba(features.iloc[cut.scored])[:, 1]
    return chances, (chances >= threshold).astype(int), threshold


def best_threshold(truth: np.ndarray, chances: np.ndarray, decide: Any) -> float:
    """Return the probability from which on an alarm serves the decision best; the middle of the best ones."""
    tried = np.unique(np.quantile(chances, np.linspace(0, 1, 101)))
    found = np.array([decide(truth, (chances >= one).astype(int)) for one in tried])
    return float(np.median(tried[found == found.max()]))


def fitted(model: Any, method: str, features: pd.DataFrame, truth: np.ndarray, seed: int) -> Any:
    """Return the model fitted on these training rows, which alone a method treats."""
    steps = list(clone(model).steps) if hasattr(model, "steps") else [("model", clone(model))]
    try:
        from imblearn import over_sampling, under_sampling
        from imblearn.pipeline import Pipeline
    except ImportError as error:
        raise InputError("imbalanced-learn is not installed: pip install lepton-kit[train]") from error
    sampler = {
        "under": under_sampling.RandomUnderSampler(random_state=seed),
        "over": over_sampling.RandomOverSampler(random_state=seed),
        "smote": over_sampling.SMOTE(random_state=seed, k_neighbors=max(1, min(5, int(truth.sum()) - 1))),
    }.get(method)
    extra = {}
    if method == "weights":
        share = truth.mean()
        extra = {f"{steps[-1][0]}__sample_weight": np.where(truth == 1, 0.5 / share, 0.5 / (1 - share))}
    kept = [*steps[:-1], ("sampler", sampler), steps[-1]] if sampler else steps
    return Pipeline(kept).fit(features, truth, **extra)


def decision(truth: np.ndarray, alarms: np.ndarray, cost_of_miss: float | None) -> float:
    """Return what alarms (0 or 1) are worth: F1, or minus the mean cost per row in false alarms."""
    hits, misses = int((truth * alarms).sum()), int((truth * (1 - alarms)).sum())
    false = int(((1 - truth) * alarms).sum())
    if cost_of_miss is not None:
        return -(false + cost_of_miss * misses) / len(truth)
    return 2 * hits / max(1, 2 * hits + misses + false)


def _row(name: str, truth: np.ndarray, answers: Any, decide: Any, samples: list[np.ndarray]) -> dict[str, Any]:
    (chances, alarms), (plain, plain_alarms), tries = answers[name], answers["none"], max(1, len(answers) - 1)
    row: dict[str, Any] = {"method": name, "average_precision": average_precision(truth, chances)}
    row |= {"decision": decide(truth, alarms), "brier": brier(truth, chances)}
    row["calibration_error"] = calibration_error(truth, chances)
    found = {
        "average_precision": gain(average_precision, truth, chances, plain, samples, tries),
        "decision": gain(decide, truth, alarms, plain_alarms, samples, tries),
        "brier": gain(brier, truth, chances, plain, samples, tries),
    }
    for what, own in found.items():
        row |= {f"{what}_gain": own.mean, f"{what}_lower": own.lower, f"{what}_upper": own.upper}
    row["gains"] = found["decision"].lower > 0
    row["spoils_calibration"] = found["brier"].mean > SPOILT * brier(truth, plain)
    return row


def _choose(
    table: pd.DataFrame, truth: np.ndarray, answers: Any, decide: Any, samples: list[np.ndarray]
) -> tuple[str | None, Reason]:
    by_name = table.set_index("method")
    best: str | None = None
    for name in by_name.index[by_name["gains"] & ~by_name["spoils_calibration"]]:
        if best is None or gain(decide, truth, answers[name][1], answers[best][1], samples).lower > 0:
            best = str(name)
    if best:
        return best, "gains"
    return None, "spoils_calibration" if by_name["gains"].any() else "gains_nothing"
