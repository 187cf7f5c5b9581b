"""Tuning: Optuna scores training settings on time-ordered folds, newest first, and prunes the poor ones.

The search sees the rows that a model may learn from, never the test part. The simplest of the settings that cannot be
told from the best is chosen, and how far the best one's score flatters it is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.model_selection import ParameterGrid, ParameterSampler

from lepton_kit.data.splits import time_ordered_folds
from lepton_kit.errors import InputError, LeptonError
from lepton_kit.models.evaluation import Bootstrap, Interval, paired_difference, resampled
from lepton_kit.models.forecasters import Architecture, Network, model_columns
from lepton_kit.models.studies import Search, run, study_file
from lepton_kit.models.training import Examples, TrainingSettings

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

Space = Sequence[Mapping[str, Sequence[Any]]]
"""Grids of settings, such as `[{"model": ["linear"]}, {"model": ["mlp", "gru"], "width": [4, 8]}]`."""

SPACE: Space = (
    {"model": ["linear"], "learning_rate": [0.001, 0.003, 0.01], "weight_decay": [0.1, 0.3, 1.0, 3.0]},
    {
        "model": ["mlp", "gru"],
        "width": [2, 4, 8],
        "learning_rate": [0.001, 0.003, 0.01],
        "weight_decay": [0.1, 0.3, 1.0, 3.0],
    },
)

FIXED = {
    "seed": "the best of several seeds is luck, not a setting",
    "lookback": "it fixes what a row holds, and the rows are given",
}
"""Settings that are not searched, and why."""

ONE_STANDARD_ERROR = 0.6827
"""Level of the interval that reaches one standard error to either side."""


SELECTION = Bootstrap(samples=1000)
"""How days are resampled to measure the selection bias."""


@dataclass(frozen=True)
class Tuned:
    """The settings that were chosen, every trial, and the selection bias.

    `trials` has one row per trial, in the order of drawing; number 0 is the settings that the search started from.
    Columns: `trial`; the settings that were searched; `parameters` (of the network); `folds` scored; `newest_fold`,
    the mean interval score of the newest fold, which all trials share; and for those that were scored on all folds
    `interval_score` over them, its `difference` from the best (a share, with `lower` and `upper`, one standard
    error to either side), `tied` with the best and `chosen`; `note` says why a trial was given up.

    `selection_bias` is by how much, as a share, the best interval score is expected to be too low because it is the
    lowest of several: the trial that is best on resampled days is scored on the days left out (Tsamardinos et al.
    (2018), "Bootstrapping the out-of-sample predictions for efficient and accurate cross-validation"). It compares the
    trials that were scored on all folds; what pruning on the newest fold adds to it is not measured.
    """

    settings: TrainingSettings
    trials: pd.DataFrame
    selection_bias: float


@dataclass(frozen=True)
class _Trial:
    """Settings, and what they reached: scores per day, newest fold first."""

    number: int
    settings: TrainingSettings
    parameters: int
    scores: list[pd.Series]
    finished: bool
    note: str

    @cached_property
    def pooled(self) -> pd.Series:
        scores: pd.Series = pd.concat(self.scores[::-1])
        return scores

    @property
    def mean(self) -> float:
        return float(self.pooled.mean())


def tune(
    given: Examples,
    base: TrainingSettings,
    space: Space = SPACE,
    trials: int = 12,
    folds: int = 3,
    seed: int = 0,
    on_training: Callable[[], None] | None = None,
    study: Path | None = None,
    jobs: int = 1,
) -> Tuned:
    """Search for better settings, and return the simplest of those that cannot be told from the best.

    Settings are drawn at random without repetition (Bergstra and Bengio (2012), "Random search for hyper-parameter
    optimization") and are the trials of an Optuna study. Each is scored fold by fold, the newest first, and pruned
    where it does worse than the median of those that finished. `base` is never pruned. The choice among those that
    finished is by the one-standard-error rule (Breiman et al. (1984), "Classification and regression trees", section
    3.4.3), with scores compared day by day: the fewest parameters whose mean lies within one standard error of the
    best; then the earlier trial.

    Parameters
    ----------
    given
        Rows to learn from, in time order, without the test part (n, columns).
    base
        Where the search starts, and the value of every setting that `space` does not name.
    space
        Grids of values by setting; `seed` and `lookback` cannot be searched.
    trials
        How many settings are drawn, beside `base`; where the space holds fewer, all of it.
    study
        File of the study (SQLite). A search that was killed goes on from it: no fold that was scored is scored again,
        and the result is that of a search without a break.
    jobs
        Processes that score trials at once. With more than 1, which trials are pruned depends on their timing.

    Raises
    ------
    InputError
        When a setting or value is not allowed, rows are not in time order, or they are too few, or the study in the
        file is of another search.
    LeptonError
        When every trial diverged.
    """
    if jobs < 1:
        raise InputError(f"jobs = {jobs}: must be at least 1")
    check_time_order(given)
    drawn = _draw(base, space, trials, seed)
    cuts = tuple(reversed(time_ordered_folds(len(given.target), folds)))
    with study_file(study, jobs) as file:
        search = Search(given, drawn, cuts, file, seed)
        found = [_trial(search, ended) for ended in run(search, jobs, on_training or (lambda: None))]
    if not (finalists := [trial for trial in found if trial.finished]):
        raise LeptonError(f"all {len(found)} trials were given up; the first: {found[0].note}")
    chosen, differences = _choose(finalists)
    names = list(dict.fromkeys(name for grid in space for name in grid))
    return Tuned(chosen.settings, _table(found, names, chosen, differences), _selection_bias(finalists))


def check_time_order(given: Examples) -> None:
    """Raise InputError unless each row comes after the one before it."""
    index = given.target.index
    if not given.features.index.equals(index):
        raise InputError("features and target: must have the same rows")
    if not (index.is_monotonic_increasing and index.is_unique):
        raise InputError("examples: rows must be sorted by time, each time once; folds by time need that")


def count_parameters(network: Network) -> int:
    """Return how many numbers a network has learnt."""
    return sum(weights.numel() for weights in network.parameters())


def _draw(base: TrainingSettings, space: Space, trials: int, seed: int) -> tuple[TrainingSettings, ...]:
    if trials < 1:
        raise InputError(f"trials = {trials}: must be at least 1")
    _check_space(space)
    grids = [{name: list(values) for name, values in grid.items()} for grid in space]
    sampler = ParameterSampler(grids, n_iter=min(trials, len(ParameterGrid(grids))), random_state=seed)
    return tuple(dict.fromkeys([base, *(_with(base, values) for values in sampler)]))  # a linear model has no width


def _check_space(space: Space) -> None:
    if not space:
        raise InputError("search space: is empty; give at least one grid such as {'width': [4, 8]}")
    allowed = {one.name for one in fields(TrainingSettings)} - set(FIXED)
    for grid in space:
        for name, values in grid.items():
            if name in FIXED:
                raise InputError(f"search space: {name} is not searched: {FIXED[name]}")
            if name not in allowed:
                raise InputError(f"search space: no setting {name!r}; there are {', '.join(sorted(allowed))}")
            if isinstance(values, str) or not isinstance(values, Sequence) or not values:
                raise InputError(f"search space: {name} = {values!r}: must be a list of values, at least one")


def _with(base: TrainingSettings, values: Mapping[str, Any]) -> TrainingSettings:
    try:
        settings = replace(base, **values)
    except InputError as error:
        raise InputError(f"search space: {error}") from error
    return replace(settings, width=base.width) if settings.model == "linear" else settings


def _trial(search: Search, ended: FrozenTrial) -> _Trial:
    settings, features = search.drawn[ended.number], search.given.features
    columns = model_columns(features, settings.volatility)
    network = Network(Architecture(settings.model, columns, settings.width, settings.volatility))
    known = ended.user_attrs.get("scores", [])
    scores = [pd.Series(own, features.index[fold.scored]) for fold, own in zip(search.folds, known, strict=False)]
    note = ended.user_attrs.get("note", "")
    return _Trial(ended.number, settings, count_parameters(network), scores, len(scores) == len(search.folds), note)


def _choose(finalists: list[_Trial]) -> tuple[_Trial, dict[int, Interval]]:
    """Return the simplest trial within one standard error of the best, and every trial's difference from the best."""
    best = min(finalists, key=lambda trial: trial.mean)
    rule = Bootstrap(level=ONE_STANDARD_ERROR)
    differences = {trial.number: paired_difference(trial.pooled, best.pooled, rule) for trial in finalists}
    tied = [trial for trial in finalists if differences[trial.number].lower <= 0]
    return min(tied, key=lambda trial: (trial.parameters, trial.number)), differences


def _selection_bias(finalists: list[_Trial]) -> float:
    """Return how much too low the best mean is, as a share of it; 0 of a single trial."""
    scores = np.column_stack([trial.pooled for trial in finalists])
    days, best = len(scores), int(np.argmin(scores.mean(axis=0)))
    bias = []
    for drawn in resampled(days, SELECTION):
        left_out = np.setdiff1d(np.arange(days), drawn)
        inside, outside = scores[drawn].mean(axis=0), scores[left_out].mean(axis=0)
        lucky = int(np.argmin(inside))
        bias.append(inside[best] - inside[lucky] + outside[lucky] - outside[best])
    return float(np.mean(bias) / scores[:, best].mean())


def _table(trials: list[_Trial], names: list[str], chosen: _Trial, differences: dict[int, Interval]) -> pd.DataFrame:
    rows = []
    for trial in trials:
        row: dict[str, Any] = {"trial": trial.number, **{name: getattr(trial.settings, name) for name in names}}
        row |= {"parameters": trial.parameters, "folds": len(trial.scores)}
        row["newest_fold"] = float(trial.scores[0].mean()) if trial.scores else float("nan")
        found = differences.get(trial.number, Interval(float("nan"), float("nan"), float("nan")))
        row["interval_score"] = trial.mean if trial.number in differences else float("nan")
        row |= {"difference": found.mean, "lower": found.lower, "upper": found.upper}
        row |= {"tied": found.lower <= 0, "chosen": trial is chosen, "note": trial.note}
        rows.append(row)
    return pd.DataFrame(rows)
