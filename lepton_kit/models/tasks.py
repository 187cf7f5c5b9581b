"""What a model does, and how its answers are judged: the one place that knows what a prediction looks like.

A `Task` names the columns of a prediction, and holds four pure functions of answers and what came true: whether an
answer was a hit, what it lost, by how much it missed, and how far two versions' answers lie apart. Whatever else asks
how good an answer was (an objective, evidence, the gate of a deployment, a recovery) asks it through the task.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lepton_kit.errors import InputError
from lepton_kit.telemetry.declaration import TaskName

Judge = Callable[[pd.DataFrame, pd.Series], pd.Series]

LEVEL = 0.9
"""The share of rows that an interval claims to hold."""

NOT_NUMERIC = ("label", "language")
"""Columns of answers that hold text."""

PROBA = "proba_"
"""A column `proba_<class>` holds the probability of that class."""


@dataclass(frozen=True)
class Task:
    """A kind of prediction.

    Parameters
    ----------
    name
        As a declaration calls it.
    required
        The columns that every answer has; a class's probability is in `proba_<class>`.
    optional
        Columns that an answer may have beside them.
    promise
        What a hit is, in words that follow on "the share of answers".
    loss_name
        What `loss` is called.
    unit
        What `distance` is measured in.
    different, same
        From which mean distance on two versions answer differently, and up to which an answer is the same one.
    hit
        Of answers (n rows) and targets (n): 1.0 for an answer that was right, 0.0 for one that was not, NaN where
        either is unknown.
    loss
        Of answers and targets: what each answer lost, 0 or more; NaN where unknown.
    residual
        Of answers and targets: by how much each missed, in its own expected deviations; NaN where unknown.
    distance
        Of two versions' answers to the same rows: how far each pair lies apart.
    least
        The share of hits that such a model promises by itself, whatever it is made for; None where it promises none.
    """

    name: TaskName
    required: tuple[str, ...]
    optional: tuple[str, ...]
    promise: str
    loss_name: str
    unit: str
    different: float
    same: float
    hit: Judge
    loss: Judge
    residual: Judge
    distance: Callable[[pd.DataFrame, pd.DataFrame], pd.Series]
    least: float | None = None

    @property
    def has_numeric_target(self) -> bool:
        """Whether what comes true is a number: 0 or 1 of a binary class, a rating of a text."""
        return self.name not in ("classification_multiclass", "ranking")

    def numeric(self, table: pd.DataFrame) -> list[str]:
        """Return the numerical columns of answers, whatever their type in a table."""
        return [name for name in self.columns(table) if name not in NOT_NUMERIC and self.name != "ranking"]

    def judged(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of requests that hold an answer, and whose `actual` is known."""
        return table[self.answered(table) & table["actual"].notna()]

    def misses(self, requests: pd.DataFrame) -> pd.Series:
        """Return 1.0 for each judged request whose answer was no hit, else 0.0, by the index of the requests."""
        rows = self.judged(requests)
        if rows.empty:
            return pd.Series(dtype=float)
        missed: pd.Series = (1 - self.hit(rows, rows["actual"])).dropna()
        return missed

    def columns(self, table: pd.DataFrame) -> list[str]:
        """Return the columns of a table that hold answers of this task."""
        own = {*self.required, *self.optional}
        is_multiclass = self.name == "classification_multiclass"
        return [name for name in map(str, table) if name in own or (is_multiclass and name.startswith(PROBA))]

    def answered(self, table: pd.DataFrame) -> pd.Series:
        """Tell for each row whether it holds an answer: all that the task requires, and finite where it is a number."""
        known = table.reindex(columns=list(self.required)).replace([np.inf, -np.inf], np.nan)
        every: pd.Series = known.notna().all(axis=1)
        return every


def task_of(name: str) -> Task:
    """Return a task by its name; InputError when there is no such task."""
    if name not in TASKS:
        raise InputError(f"task {name!r}: must be one of {', '.join(TASKS)}")
    return TASKS[name]


def _known(values: pd.Series, *parts: pd.Series) -> pd.Series:
    """Return numbers, missing where one of the parts that they were made from is."""
    whole = np.logical_and.reduce([part.notna().to_numpy() for part in parts])
    return values.astype(float).where(whole)


# --- a number in an interval ------------------------------------------------------------------------------------------


def interval_score(lower: pd.Series, upper: pd.Series, actual: pd.Series, level: float = LEVEL) -> pd.Series:
    """Return the interval score of each row: the width, and a penalty for every miss. Lower is better.

    Gneiting and Raftery (2007), "Strictly proper scoring rules, prediction, and estimation", equation 43.

    Parameters
    ----------
    lower, upper, actual
        Bounds of the central interval and what came, in the same unit (n,).
    level
        The share of rows that the interval claims to hold.

    Examples
    --------
    A row inside costs the width; a row 1 above the interval costs 1 · 2 / (1 − 0.9) = 20 more:

    >>> bounds = pd.Series([-1.0, -1.0]), pd.Series([1.0, 1.0])
    >>> interval_score(*bounds, actual=pd.Series([0.5, 2.0])).round(9).tolist()
    [2.0, 22.0]
    """
    penalty = 2 / (1 - level)
    return (upper - lower) + penalty * (lower - actual).clip(lower=0) + penalty * (actual - upper).clip(lower=0)


def covered(forecast: pd.DataFrame, actual: pd.Series) -> pd.Series:
    """Return for each row whether the interval held what came; the mean of it is the coverage.

    >>> covered(pd.DataFrame({"lower": [0.0, 0.0], "upper": [1.0, 1.0]}), pd.Series([1.0, 1.1])).tolist()
    [True, False]
    """
    return (actual >= forecast["lower"]) & (actual <= forecast["upper"])


def _interval_residual(answers: pd.DataFrame, target: pd.Series) -> pd.Series:
    half = (answers["upper"] - answers["lower"]) / 2
    middle = (answers["upper"] + answers["lower"]) / 2
    return 1.6448536269514722 * (target - middle) / half.where(half > 0)


def _interval_distance(one: pd.DataFrame, other: pd.DataFrame) -> pd.Series:
    bounds = ["lower", "upper"]
    width = float((other["upper"] - other["lower"]).mean())
    return (one[bounds] - other[bounds]).abs().mean(axis=1) / width


# --- a number ---------------------------------------------------------------------------------------------------------

CLOSE = 0.1
"""A number this close to what came true, as a part of it, was a hit."""


def _number_hit(answers: pd.DataFrame, target: pd.Series) -> pd.Series:
    near = (answers["prediction"] - target).abs() <= CLOSE * target.abs()
    return _known(near, answers["prediction"], target)


def _number_residual(answers: pd.DataFrame, target: pd.Series) -> pd.Series:
    missed = target - answers["prediction"]
    spread = 1.4826 * float((missed - missed.median()).abs().median())
    return missed / spread if spread > 0 else missed


def _number_distance(one: pd.DataFrame, other: pd.DataFrame) -> pd.Series:
    spread = float(other["prediction"].std())
    apart = (one["prediction"] - other["prediction"]).abs()
    return apart / spread if spread > 0 else apart


# --- a class ----------------------------------------------------------------------------------------------------------


def _binary_hit(answers: pd.DataFrame, target: pd.Series) -> pd.Series:
    given = answers["proba"]
    return _known((given >= 0.5) == (target >= 0.5), given, target)


def _binary_loss(answers: pd.DataFrame, target: pd.Series) -> pd.Series:
    given = answers["proba"].clip(1e-6, 1 - 1e-6)
    lost: pd.Series = -(target * np.log(given) + (1 - target) * np.log(1 - given))
    return lost


def _binary_residual(answers: pd.DataFrame, target: pd.Series) -> pd.Series:
    given = answers["proba"].clip(1e-6, 1 - 1e-6)
    return (target - given) / np.sqrt(given * (1 - given))


def _probabilities(answers: pd.DataFrame) -> pd.DataFrame:
    """Return the probability of each class (n, classes); of answers without, 1 for the class that was answered."""
    given = [name for name in map(str, answers) if name.startswith(PROBA)]
    if given:
        return answers[given].rename(columns=lambda name: str(name).removeprefix(PROBA))
    return pd.get_dummies(answers["label"]).astype(float).where(answers["label"].notna(), np.nan)


def _given_to(answers: pd.DataFrame, target: pd.Series) -> pd.Series:
    """Return the probability that each answer gave to the class that came true."""
    table, wanted = _probabilities(answers), target.astype(str)
    places = table.columns.astype(str).get_indexer(pd.Index(wanted))
    picked = np.where(places >= 0, table.to_numpy(float)[np.arange(len(table)), places], 0.0)
    return _known(pd.Series(picked, index=answers.index), answers["label"], target)


def _class_residual(answers: pd.DataFrame, target: pd.Series) -> pd.Series:
    given = _given_to(answers, target).clip(1e-6, 1 - 1e-6)
    return (1 - given) / np.sqrt(given * (1 - given))


def _class_distance(one: pd.DataFrame, other: pd.DataFrame) -> pd.Series:
    first, second = _probabilities(one).align(_probabilities(other), fill_value=0.0)
    return (first - second).abs().sum(axis=1) / 2  # total variation


# --- ranked items -----------------------------------------------------------------------------------------------------

TOP = 10
"""Users see this many items at the top of the list."""


def _ranks(answers: pd.DataFrame, target: pd.Series) -> pd.Series:
    """Return the place (1 is the top) of what was chosen among what was offered; infinite where it is not."""

    def place(offered: object, chosen: object) -> float:
        items = [str(one) for one in offered] if isinstance(offered, list | tuple | np.ndarray) else []
        return items.index(str(chosen)) + 1.0 if str(chosen) in items else np.inf

    ranks = [place(offered, chosen) for offered, chosen in zip(answers["prediction"], target, strict=True)]
    return _known(pd.Series(ranks, index=answers.index, dtype=float), answers["prediction"], target)


def _rank_hit(answers: pd.DataFrame, target: pd.Series) -> pd.Series:
    ranks = _ranks(answers, target)
    return _known(ranks <= TOP, ranks)


def _rank_loss(answers: pd.DataFrame, target: pd.Series) -> pd.Series:
    ranks = _ranks(answers, target)
    return _known(1 - 1 / np.log2(1 + ranks), ranks)  # 1 − NDCG of one relevant item


def _rank_distance(one: pd.DataFrame, other: pd.DataFrame) -> pd.Series:
    def apart(first: object, second: object) -> float:
        tops = [
            list(map(str, side))[:TOP] if isinstance(side, list | tuple | np.ndarray) else []
            for side in (first, second)
        ]
        longest = max(map(len, tops))
        return 1 - len(set(tops[0]) & set(tops[1])) / longest if longest else float("nan")

    pairs = zip(one["prediction"], other["prediction"], strict=True)
    return pd.Series([apart(*pair) for pair in pairs], index=one.index, dtype=float)


# --- text -------------------------------------------------------------------------------------------------------------

GOOD_RATING = 4.0
"""A text is judged by its readers: from this rating of 1 to 5 on it was a hit."""


def _text_distance(one: pd.DataFrame, other: pd.DataFrame) -> pd.Series:
    first, second = one["tokens"].astype(float), other["tokens"].astype(float)
    return (first - second).abs() / pd.concat([first, second], axis=1).max(axis=1).clip(lower=1)


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "interval_forecast", ("lower", "upper"), ("mean", "std", "prob_up"), "whose interval held the actual",
            "interval score", "interval widths", 0.25, 1e-3,
            hit=lambda given, target: _known(covered(given, target), given["lower"], given["upper"], target),
            loss=lambda given, target: interval_score(given["lower"], given["upper"], target),
            residual=_interval_residual, distance=_interval_distance, least=LEVEL - 0.05,
        ),
        Task(
            "regression", ("prediction",), ("lower", "upper"), f"within {CLOSE:.0%} of the actual",
            "absolute error", "standard deviations", 0.25, 1e-3,
            hit=_number_hit, loss=lambda given, target: (given["prediction"] - target).abs(),
            residual=_number_residual, distance=_number_distance,
        ),
        Task(
            "classification_binary", ("proba",), ("label",), "of the right class",
            "log loss", "of probability", 0.05, 1e-3,
            hit=_binary_hit, loss=_binary_loss, residual=_binary_residual,
            distance=lambda one, other: (one["proba"] - other["proba"]).abs(),
        ),
        Task(
            "classification_multiclass", ("label",), (), "of the right class",
            "log loss", "of probability", 0.05, 1e-3,
            hit=lambda given, target: _known(given["label"].astype(str) == target.astype(str), given["label"], target),
            loss=lambda given, target: -np.log(_given_to(given, target).clip(lower=1e-6)),
            residual=_class_residual, distance=_class_distance,
        ),
        Task(
            "ranking", ("prediction",), (), f"whose {TOP} first items held what was chosen",
            "1 − NDCG", "of the first items", 0.25, 0.0,
            hit=_rank_hit, loss=_rank_loss, residual=_rank_loss, distance=_rank_distance,
        ),
        Task(
            "text", ("tokens",), ("length", "language", "out_of_vocabulary"), f"rated {GOOD_RATING:g} or better",
            "lost rating", "of the longer text", 0.25, 0.05,
            hit=lambda _, rating: _known(rating >= GOOD_RATING, rating),
            loss=lambda _, rating: 5.0 - rating, residual=lambda _, rating: 5.0 - rating, distance=_text_distance,
        ),
    )
}  # fmt: skip
