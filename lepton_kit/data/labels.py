"""Labels: which are likely wrong, and which rows to ask people about (what they answer: `annotations`).

The ranking needs a model's out-of-fold probabilities and nothing else. Its source is confident learning (Northcutt,
Jiang and Chuang, JAIR 70, 2021), which ranks by the probability of the given label. Here the probabilities are
calibrated first: a model that learnt from wrong labels is too sure, and of some classes more than of others.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from lepton_kit.errors import InputError

RESOLUTION = 1e-7
"""Single precision holds no smaller step below 1, so that a smaller probability of a class is as good as none."""

STRENGTHS = (0.1, 1.0, 10.0)
"""How far the calibration may follow the labels (`C` of the regression); the one of least log loss is taken."""

REPEATS = 3
"""Lots of the folds that are averaged, so that a row's rank does not hang on one of them."""

MOST_STEPS = 100
"""Of the regression: with a hundred classes it is near its end by then, and stopping early keeps it from the labels."""


def out_of_fold(model: Any, features: pd.DataFrame, given: pd.Series, folds: int = 5, seed: int = 0) -> pd.DataFrame:
    """Return for each row the class probabilities of a model that has not seen it.

    Rows with the same features lie in one fold: a copy with the same wrong label would defend it.

    Parameters
    ----------
    model
        A scikit-learn classifier or pipeline with `predict_proba`; it is copied, and stays as it is.
    features, given
        Rows (n, features) and their labels (n,), none missing.

    Returns
    -------
    DataFrame
        A column per class, with the index of the rows.

    Raises
    ------
    InputError
        When a label is missing, there is one class only, or a class has fewer rows than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

    codes, classes = pd.factorize(given, sort=True)
    _check_classes(codes, list(classes), given, folds)
    alike = pd.util.hash_pandas_object(features.astype("string"), index=False)
    parts = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    made = cross_val_predict(model, features, codes, cv=parts, groups=alike, method="predict_proba")
    return pd.DataFrame(made, index=given.index, columns=list(classes))


def rank_labels(given: pd.Series, probabilities: pd.DataFrame, folds: int = 5, seed: int = 0) -> pd.DataFrame:
    """Rank rows by how likely their label is wrong, the likeliest first.

    The probabilities are calibrated by a regression of the given labels on their logarithms (Dirichlet calibration:
    Kull et al., NeurIPS 2019), again out of fold; `wrong` is 1 minus the calibrated probability of the given label. A
    mistake that nearly all rows of a kind share is learnt as if it were right, and not found.

    Parameters
    ----------
    given
        The labels (n,), with a unique index.
    probabilities
        Out-of-fold probabilities with a column per class (n, classes), in the order of `given`.

    Returns
    -------
    DataFrame
        By the index of `given`: `given`, `suggested` (the likeliest class), `wrong` (0 to 1), and `suspect`: whether
        another class is as likely as it usually is on rows that have its label (confident learning's rule).

    Raises
    ------
    InputError
        When a label is missing or has no column, a class has fewer rows than folds, or a probability is no number.

    Examples
    --------
    >>> given = pd.Series(["cat"] * 20 + ["dog"] * 20)
    >>> dog = pd.Series([0.1, 0.2] * 10 + [0.8, 0.9] * 10)
    >>> dog[3] = 0.95
    >>> rank_labels(given, pd.DataFrame({"cat": 1 - dog, "dog": dog})).head(1)[["given", "suggested"]].to_dict("index")
    {3: {'given': 'cat', 'suggested': 'dog'}}
    """
    if not (given.index.equals(probabilities.index) and given.index.is_unique):
        raise InputError("labels and probabilities must have the same index, and name each row once")
    classes = [name for name in probabilities if (given == name).any()]
    codes = pd.Index(classes).get_indexer(pd.Index(given))
    _check_classes(codes, classes, given, folds)
    chances = probabilities[classes].to_numpy(float)
    if not (known := (np.isfinite(chances) & (chances >= 0)).all(axis=1)).all():
        place = given.index[int(known.argmin())]
        raise InputError(f"row {place!r}: probabilities = {probabilities.loc[place].tolist()}: must be 0 or more")
    fitted = _calibrate(chances, codes, folds, seed)
    own, best = fitted[np.arange(len(codes)), codes], fitted.argmax(axis=1)
    usual = np.array([own[codes == one].mean() for one in range(len(classes))])
    suspect = (fitted.max(axis=1) >= usual[best]) & (best != codes)
    table = {"given": given, "suggested": np.array(classes, dtype=object)[best], "wrong": 1 - own, "suspect": suspect}
    return pd.DataFrame(table, index=given.index).sort_values("wrong", ascending=False, kind="stable")


def _check_classes(codes: np.ndarray, classes: Sequence[Any], given: pd.Series, folds: int) -> None:
    if (codes < 0).any():
        place = int(np.flatnonzero(codes < 0)[0])
        raise InputError(f"row {given.index[place]!r}: label = {given.iloc[place]!r}: must be a class with a column")
    if len(classes) < 2:
        raise InputError(f"labels: all are {', '.join(map(repr, classes)) or 'missing'}; there must be two classes")
    counts = np.bincount(codes, minlength=len(classes))
    if counts.min() < folds:
        raise InputError(f"class {classes[int(counts.argmin())]!r} has {counts.min()} rows; {folds} folds need {folds}")


def _calibrate(chances: np.ndarray, codes: np.ndarray, folds: int, seed: int) -> np.ndarray:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    floored = np.maximum(chances, RESOLUTION)
    logs = np.log(floored / floored.sum(axis=1, keepdims=True))

    def fit(strength: float, lot: int) -> np.ndarray:
        regression = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=MOST_STEPS))
        parts = StratifiedKFold(folds, shuffle=True, random_state=seed + lot)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            made: np.ndarray = cross_val_predict(regression, logs, codes, cv=parts, method="predict_proba")
        return made

    tried = {strength: fit(strength, 0) for strength in STRENGTHS}
    best = min(tried, key=lambda strength: log_loss(codes, tried[strength]))
    lots: np.ndarray = np.mean([tried[best], *(fit(best, lot) for lot in range(1, REPEATS))], axis=0)
    return lots


def queue(ranked: pd.DataFrame, count: int, annotations: pd.DataFrame | None = None, labellers: int = 2) -> pd.Index:
    """Return the ids of the rows whose label would help most, in the order in which to ask.

    First come rows on which labellers disagree, then those whose label is most likely wrong: near 1 where the model is
    sure of another class, about a half where it is unsure. What `labellers` people agree on is not asked again.
    """
    if annotations is None:
        return ranked.index[:count]
    answers = annotations.groupby("id")["label"].agg(["size", "nunique"]).reindex(ranked.index, fill_value=0)
    asked = ranked.index[(answers["size"] < labellers) | (answers["nunique"] > 1)]
    return asked[np.argsort(answers.loc[asked, "nunique"] <= 1, kind="stable")][:count]
