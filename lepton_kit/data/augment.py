"""Augmentation: changed copies of training rows by kind of column, judged on rows that were not fitted on.

A way takes training rows and returns further ones with their labels and weights. A copy has the label of its row; a
mixed row (`mixup`) has the labels of both rows, weighted by their shares in it. Ways for texts: `text_noise`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone

from lepton_kit.data.gains import Cut, alike, cuts, draws, gain
from lepton_kit.errors import InputError

Rows = tuple[pd.DataFrame, pd.Series, np.ndarray]
Way = Callable[[pd.DataFrame, pd.Series, np.random.Generator], Rows]


LOTS = 3
"""Lots of folds and copies whose losses are averaged per row: what one lot gains, another may lose."""


@dataclass(frozen=True)
class Advice:
    """The way that lowers the log loss most, or None where no way's interval lies above 0; and a row per way.

    `table` holds `way`, `log_loss` on rows that were not fitted on, the `gain` over no augmentation with `lower` and
    `upper` (all hold together in 95 % of cases), and `gains`.
    """

    way: str | None
    table: pd.DataFrame


def jitter(noise: Mapping[str, float]) -> Way:
    """Copy each row with normal noise on numbers: `noise` is each column's standard deviation of measuring it again."""
    if wrong := {name: value for name, value in noise.items() if not (np.isfinite(value) and value >= 0)}:
        raise InputError(f"noise = {wrong}: must be standard deviations, at least 0")

    def make(features: pd.DataFrame, target: pd.Series, chance: np.random.Generator) -> Rows:
        moved = {name: features[name] + chance.normal(0, std, len(features)) for name, std in noise.items()}
        return features.assign(**moved), target, np.ones(len(features))

    return make


def measured_noise(repeats: pd.DataFrame, unit: str) -> dict[str, float]:
    """Return each number's standard deviation among repeated measurements of the same unit, pooled over units.

    >>> measured_noise(pd.DataFrame({"who": [1, 1, 2, 2], "x": [1.0, 3.0, 7.0, 9.0]}), "who")
    {'x': 1.4142135623730951}
    """
    numbers = repeats.drop(columns=unit).select_dtypes("number")
    apart = numbers - numbers.groupby(repeats[unit]).transform("mean")
    freedom = len(repeats) - repeats[unit].nunique()
    if freedom < 1:
        raise InputError(f"unit = {unit!r}: no unit was measured twice, so that no noise is known")
    return {str(name): float(np.sqrt((apart[name] ** 2).sum() / freedom)) for name in numbers}


def mask(share: float = 0.1) -> Way:
    """Copy each row with a share of its cells unknown: a number becomes the median, a text `unknown`."""
    check_share(share)

    def make(features: pd.DataFrame, target: pd.Series, chance: np.random.Generator) -> Rows:
        copied = features.copy()
        for name in features:
            is_number = pd.api.types.is_numeric_dtype(features[name])
            unknown = features[name].median() if is_number else "unknown"
            copied[name] = features[name].mask(chance.random(len(features)) < share, unknown)
        return copied, target, np.ones(len(features))

    return make


def mixup(alpha: float = 0.2) -> Way:
    """Mix each row with another (Zhang et al. (2018), "mixup"): numbers by a share from Beta(alpha, alpha).

    Other columns are those of the larger share. The soft label stands as two rows: the label and the share of each.
    """
    if not alpha > 0:
        raise InputError(f"alpha = {alpha}: must be above 0")

    def make(features: pd.DataFrame, target: pd.Series, chance: np.random.Generator) -> Rows:
        other = chance.permutation(len(features))
        share = chance.beta(alpha, alpha, len(features))
        own, second = features.reset_index(drop=True), features.iloc[other].reset_index(drop=True)
        mixed = own.where(pd.Series(share >= 0.5), second)
        for name in features.select_dtypes("number"):
            mixed[name] = share * own[name] + (1 - share) * second[name]
        labels = pd.concat([target, target.iloc[other]], ignore_index=True)
        return pd.concat([mixed, mixed], ignore_index=True), labels, np.r_[share, 1 - share]

    return make


def advise(
    model: Any,
    features: pd.DataFrame,
    target: pd.Series,
    ways: Mapping[str, Way],
    groups: pd.Series | None = None,
    time_ordered: bool = False,
    folds: int = 4,
    seed: int = 0,
) -> Advice:
    """Judge ways on folds, adding rows to their training rows only, and advise the one that gains most, or none.

    Parameters
    ----------
    model
        A scikit-learn classifier or pipeline with `predict_proba`, whose last step takes `sample_weight`.
    features, target
        Rows (n, features) and their classes (n,).
    ways
        By name, such as `{"jitter": jitter({"age": 0.5})}`.
    groups, time_ordered
        Which rows belong together, as `gains.cuts` takes them; else those with the same features do.

    Raises
    ------
    InputError
        When a class has too few rows for the folds.
    """
    if groups is None and not time_ordered:
        groups = alike(features)
    lots = [cuts(target, groups, time_ordered, folds, seed + lot) for lot in range(LOTS)]
    scored = np.sort(np.concatenate([cut.scored for cut in lots[0]]))
    losses = {
        name: np.mean(
            [_lot(model, features, target, cuts_of, way, seed + lot) for lot, cuts_of in enumerate(lots)], axis=0
        )
        for name, way in {"none": None, **ways}.items()
    }
    samples = draws(len(scored), None if groups is None else groups.to_numpy()[scored], time_ordered, seed)
    rows = []
    for name, loss in losses.items():
        found = gain(lambda _, own: -float(own.mean()), loss, loss, losses["none"], samples, max(1, len(ways)))
        row = {"way": name, "log_loss": float(loss.mean()), "gain": found.mean, "lower": found.lower}
        rows.append({**row, "upper": found.upper, "gains": found.lower > 0})
    table = pd.DataFrame(rows)
    good = table[table["gains"]].sort_values("gain")
    return Advice(str(good["way"].iloc[-1]) if len(good) else None, table)


def _lot(
    model: Any, features: pd.DataFrame, target: pd.Series, parts: list[Cut], way: Way | None, seed: int
) -> np.ndarray:
    """Return the log loss of each scored row, in the order of the rows."""
    order = np.argsort(np.concatenate([cut.scored for cut in parts]))
    return np.concatenate([_losses(model, features, target, cut, way, seed) for cut in parts])[order]


def _losses(model: Any, features: pd.DataFrame, target: pd.Series, cut: Cut, way: Way | None, seed: int) -> np.ndarray:
    known = np.concatenate([cut.fit, cut.choose])
    rows, labels, weights = features.iloc[known], target.iloc[known], np.ones(len(known))
    if way:
        more, more_labels, more_weights = way(rows, labels, np.random.default_rng(seed))
        rows, labels = pd.concat([rows, more], ignore_index=True), pd.concat([labels, more_labels], ignore_index=True)
        weights = np.r_[weights, more_weights]
    fitted = clone(model)
    last = f"{fitted.steps[-1][0]}__" if hasattr(fitted, "steps") else ""
    fitted.fit(rows, labels, **{f"{last}sample_weight": weights})
    chances = fitted.predict_proba(features.iloc[cut.scored])
    places = pd.Index(fitted.classes_).get_indexer(target.iloc[cut.scored])
    own = np.where(places < 0, 0.0, chances[np.arange(len(chances)), places])
    losses: np.ndarray = -np.log(np.clip(own, 1e-15, None))
    return losses


def check_share(share: float) -> None:
    """Raise InputError unless a share lies between 0 and 1."""
    if not 0 < share < 1:
        raise InputError(f"share = {share}: must lie between 0 and 1")
