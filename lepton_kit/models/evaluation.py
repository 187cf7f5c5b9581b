"""How good a forecast is: proper scores, bootstrap intervals, calibration, importance, and the gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm

from lepton_kit.errors import InputError
from lepton_kit.models.forecasters import Predictor, family
from lepton_kit.models.tasks import TASKS, Task
from lepton_kit.models.tasks import interval_score as interval_score  # notebooks read it here, beside the others

# --- scores -------------------------------------------------------------------------------------------------------


def losses(
    predictor: Predictor, features: pd.DataFrame, actual: pd.Series, task: Task = TASKS["interval_forecast"]
) -> pd.Series:
    """Return what a model of a task loses on each row of features (n, columns), given what came true (n,)."""
    return task.loss(predictor.predict(features), actual)


# --- uncertainty of a mean ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bootstrap:
    """How to resample: `block` neighbouring days stay together, so that calm and wild spells stay spells."""

    samples: int = 2000
    block: int = 10
    level: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("samples", "block"):
            if getattr(self, name) < 1:
                raise InputError(f"bootstrap {name} = {getattr(self, name)}: must be at least 1")
        if not 0 < self.level < 1:
            raise InputError(f"bootstrap level = {self.level}: must lie between 0 and 1")


@dataclass(frozen=True)
class Interval:
    """A mean with the interval that the bootstrap gives it."""

    mean: float
    lower: float
    upper: float


def bootstrap_mean(values: pd.Series, bootstrap: Bootstrap = Bootstrap()) -> Interval:
    """Return the mean of a series in time order, with its moving-block bootstrap interval (Künsch 1989).

    Parameters
    ----------
    values
        One value per day, in order (n,); n must be at least twice the block.

    Examples
    --------
    >>> found = bootstrap_mean(pd.Series(np.sin(np.arange(200.0))))
    >>> found.lower < 0 < found.upper
    True
    """
    data = values.to_numpy(dtype=float)
    tail = (1 - bootstrap.level) / 2
    lower, upper = np.quantile(data[resampled(len(data), bootstrap)].mean(axis=1), [tail, 1 - tail])
    return Interval(float(data.mean()), float(lower), float(upper))


def resampled(rows: int, bootstrap: Bootstrap) -> np.ndarray:
    """Return the positions of the rows that each sample of the moving-block bootstrap holds (samples, rows)."""
    if rows < 2 * bootstrap.block:
        raise InputError(f"{rows} days are too few for a bootstrap with blocks of {bootstrap.block} days")
    generator = np.random.default_rng(bootstrap.seed)
    blocks = -(-rows // bootstrap.block)
    starts = generator.integers(0, rows - bootstrap.block + 1, size=(bootstrap.samples, blocks))
    return (starts[:, :, None] + np.arange(bootstrap.block)).reshape(bootstrap.samples, -1)[:, :rows]


def paired_difference(candidate: pd.Series, other: pd.Series, bootstrap: Bootstrap = Bootstrap()) -> Interval:
    """Return the mean difference of two forecasters' scores on the same days, over the other's mean score.

    Below zero the candidate is better: −0.04 means that its score is 4 % lower. Days are compared in pairs, because
    both forecasters suffer on the same days.

    Examples
    --------
    >>> round(paired_difference(pd.Series([0.9] * 40), pd.Series([1.0] * 40)).upper, 6)
    -0.1
    """
    if not candidate.index.equals(other.index):
        raise InputError("two forecasters can be compared on the same days only")
    return bootstrap_mean((candidate - other) / float(other.mean()), bootstrap)


# --- calibration and conditions -----------------------------------------------------------------------------------


def calibration(
    forecast: pd.DataFrame, actual: pd.Series, levels: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
) -> pd.DataFrame:
    """Return how often the forecast Gaussian's central intervals held what came, beside how often they claim to.

    >>> forecast = pd.DataFrame({"mean": [0.0, 0.0], "std": [1.0, 1.0]})
    >>> calibration(forecast, pd.Series([0.5, 3.0]), levels=(0.5, 0.9))["coverage"].tolist()
    [0.5, 0.5]
    """
    distance = ((actual - forecast["mean"]) / forecast["std"]).abs()
    rows = [{"level": level, "coverage": float((distance <= norm.ppf((1 + level) / 2)).mean())} for level in levels]
    return pd.DataFrame(rows)


def permutation_importance(
    predictor: Predictor, features: pd.DataFrame, actual: pd.Series, repeats: int = 20, seed: int = 0
) -> pd.DataFrame:
    """Return how much worse the interval score becomes when a family of features is shuffled over the days.

    Breiman (2001), "Random forests", section 10. Columns of a family (returns, ranges, volumes, volatilities) are
    shuffled together, because each would stand in for the others.

    Returns
    -------
    DataFrame
        One row per family, most important first: `family`, and `increase` with its `std` over the repeats, as shares
        of the unshuffled score.
    """
    generator = np.random.default_rng(seed)
    base = _mean_score(predictor, features, actual)
    rows = []
    for name in dict.fromkeys(family(column) for column in features.columns):
        columns = [column for column in features.columns if family(column) == name]
        increases = []
        for _ in range(repeats):
            shuffled = features.copy()
            shuffled[columns] = features[columns].to_numpy()[generator.permutation(len(features))]
            increases.append(_mean_score(predictor, shuffled, actual) / base - 1)
        rows.append({"family": name, "increase": float(np.mean(increases)), "std": float(np.std(increases))})
    return pd.DataFrame(rows).sort_values("increase", ascending=False, ignore_index=True)


def _mean_score(predictor: Predictor, features: pd.DataFrame, actual: pd.Series) -> float:
    return float(losses(predictor, features, actual).mean())


# --- the gate -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """One comparison: `relative` is the paired difference, below zero where the candidate is better."""

    opponent: str
    relative: Interval
    passed: bool
    reason: str


@dataclass(frozen=True)
class Decision:
    """Whether to promote a candidate, and why."""

    promote: bool
    verdicts: tuple[Verdict, ...]

    @property
    def reasons(self) -> list[str]:
        """Return one sentence per comparison."""
        return [verdict.reason for verdict in self.verdicts]

    def table(self) -> pd.DataFrame:
        """Return one row per comparison."""
        rows: list[dict[str, Any]] = [
            {
                "opponent": verdict.opponent,
                "difference": verdict.relative.mean,
                "lower": verdict.relative.lower,
                "upper": verdict.relative.upper,
                "passed": verdict.passed,
            }
            for verdict in self.verdicts
        ]
        return pd.DataFrame(rows)


def gate(
    candidate: pd.Series,
    opponents: Mapping[str, pd.Series],
    margin: float = 0.05,
    bootstrap: Bootstrap = Bootstrap(),
    task: Task = TASKS["interval_forecast"],
) -> Decision:
    """Decide whether a candidate may become `current`.

    The rule, against every baseline and the present version alike:

    1. the candidate's mean loss is lower (`Task.loss`: of an interval forecast, its interval score), and
    2. the upper bound of the paired moving-block bootstrap interval of the relative difference lies below `margin`
       (the form of a non-inferiority test).

    A year of days seldom shows a gain of a few percent, so an upper bound below zero is reported, not required.

    The bounds are less sure than they claim. In simulation (200 days, blocks of 10, Student's t with 3 or 4 degrees of
    freedom, autocorrelation from 0 to 0.4) an interval of level 0.9 held the true mean in 84 to 87 % of cases, and its
    upper bound lay below that mean in 6 to 9 % instead of 5 %. So a bound near a border is undecided: look at a second
    block length too.

    Parameters
    ----------
    candidate
        What the candidate loses, one value per day or row (n,), as `losses` gives it.
    opponents
        The same of each baseline, and of the present version where there is one.
    margin
        The loss that the interval must not reach, as a share of the opponent's.
    bootstrap
        How to resample; rows that do not follow on each other need no blocks (`Bootstrap(block=1)`).
    task
        What both do: it names the loss.

    Examples
    --------
    >>> days = pd.Series(np.linspace(1, 2, 60))
    >>> gate(days * 0.9, {"EWMA volatility": days}).promote, gate(days * 1.1, {"EWMA volatility": days}).promote
    (True, False)
    """
    if not opponents:
        raise InputError("a gate needs at least one opponent: a baseline or the present version")
    if not margin >= 0:
        raise InputError(f"margin = {margin}: must be at least 0")
    verdicts = tuple(
        _judge(name, paired_difference(candidate, other, bootstrap), margin, task.loss_name)
        for name, other in opponents.items()
    )
    return Decision(all(verdict.passed for verdict in verdicts), verdicts)


def _judge(opponent: str, relative: Interval, margin: float, loss: str) -> Verdict:
    better, safe = relative.mean < 0, relative.upper < margin
    measured = f"{relative.mean:+.1%} ({relative.lower:+.1%} to {relative.upper:+.1%})"
    if not better:
        reason = f"not better than {opponent}: {loss} {measured}"
    elif not safe:
        reason = f"better than {opponent} on average, but the interval reaches a loss of {margin:.0%}: {measured}"
    elif relative.upper < 0:
        reason = f"better than {opponent}, and the interval lies below zero: {loss} {measured}"
    else:
        reason = f"better than {opponent} on average, and the interval ends below {margin:.0%}: {loss} {measured}"
    return Verdict(opponent, relative, better and safe, reason)
