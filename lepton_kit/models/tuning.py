"""Tuning: a seeded random search over training settings, with successive halving over time-ordered folds.

The search sees the rows that a model may learn from, never the test part. The simplest of the settings that cannot be
told from the best is chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import pandas as pd
from sklearn.model_selection import ParameterGrid, ParameterSampler

from lepton_kit.data.splits import Fold, time_ordered_folds
from lepton_kit.errors import InputError, LeptonError
from lepton_kit.models.evaluation import Bootstrap, Interval, losses, paired_difference
from lepton_kit.models.forecasters import Architecture, Network, model_columns
from lepton_kit.models.training import Examples, TrainingSettings, train_on

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


@dataclass(frozen=True)
class Tuned:
    """The settings that were chosen, and every trial.

    `trials` has one row per trial, in the order of drawing; number 0 is the settings that the search started from.
    Columns: `trial`; the settings that were searched; `parameters` (of the network); `folds` scored; `newest_fold`,
    the mean interval score of the newest fold, which all trials share; and for those that reached the last round
    `interval_score` over all folds, its `difference` from the best (a share, with `lower` and `upper`, one standard
    error to either side), `tied` with the best and `chosen`; `note` says why a trial was given up.
    """

    settings: TrainingSettings
    trials: pd.DataFrame


@dataclass(eq=False)
class _Trial:
    """One draw, and the scores per day that it has reached so far, newest fold first."""

    number: int
    settings: TrainingSettings
    parameters: int
    scores: list[pd.Series] = field(default_factory=list)
    note: str = ""

    @property
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
) -> Tuned:
    """Search for better settings, and return the simplest of those that cannot be told from the best.

    Settings are drawn at random without repetition (Bergstra and Bengio (2012), "Random search for hyper-parameter
    optimization"). All are scored on the newest fold, the better half on the fold before it, and so on (successive
    halving: Jamieson and Talwalkar (2016), "Non-stochastic best arm identification and hyperparameter optimization").
    `base` takes part in every round. The choice among those of the last round is by the one-standard-error rule
    (Breiman et al. (1984), "Classification and regression trees", section 3.4.3), with scores compared day by day:
    the fewest parameters whose mean lies within one standard error of the best; then the earlier trial.

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

    Raises
    ------
    InputError
        When a setting or value is not allowed, rows are not in time order, or they are too few.
    LeptonError
        When every trial diverged.
    """
    check_time_order(given)
    racing = _draw(given, base, space, trials, seed)
    all_trials = list(racing)
    for fold in reversed(time_ordered_folds(len(given.target), folds)):
        racing = racing if fold.scored.stop == len(given.target) else _better_half(racing)
        for trial in racing:
            _score(trial, given, fold)
            if on_training:
                on_training()
        racing = [trial for trial in racing if not trial.note]
    if not racing:
        raise LeptonError(f"all {len(all_trials)} trials were given up; the first: {all_trials[0].note}")
    chosen, differences = _choose(racing)
    names = list(dict.fromkeys(name for grid in space for name in grid))
    return Tuned(chosen.settings, _table(all_trials, names, chosen, differences))


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


def _draw(given: Examples, base: TrainingSettings, space: Space, trials: int, seed: int) -> list[_Trial]:
    if trials < 1:
        raise InputError(f"trials = {trials}: must be at least 1")
    _check_space(space)
    grids = [{name: list(values) for name, values in grid.items()} for grid in space]
    sampler = ParameterSampler(grids, n_iter=min(trials, len(ParameterGrid(grids))), random_state=seed)
    drawn = dict.fromkeys([base, *(_with(base, values) for values in sampler)])  # a linear model has no width
    return [_Trial(number, settings, _size(given, settings)) for number, settings in enumerate(drawn)]


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


def _size(given: Examples, settings: TrainingSettings) -> int:
    columns = model_columns(given.features, settings.volatility)
    return count_parameters(Network(Architecture(settings.model, columns, settings.width, settings.volatility)))


def _better_half(racing: list[_Trial]) -> list[_Trial]:
    kept = sorted(racing, key=lambda trial: trial.mean)[: -(-len(racing) // 2)]
    return [trial for trial in racing if trial in kept or trial.number == 0]


def _score(trial: _Trial, given: Examples, fold: Fold) -> None:
    """Add a fold's interval scores per day to a trial, or note why it cannot be trained."""
    scored = given.rows(fold.scored)
    try:
        trained = train_on(given.rows(fold.train), given.rows(fold.validation), trial.settings)
    except InputError:
        raise
    except LeptonError as error:  # its loss diverged: bad settings, not a bad search
        trial.note = str(error)
        return
    trial.scores.append(losses(trained.forecaster, scored.features, scored.target))


def _choose(finalists: list[_Trial]) -> tuple[_Trial, dict[int, Interval]]:
    """Return the simplest trial within one standard error of the best, and every trial's difference from the best."""
    best = min(finalists, key=lambda trial: trial.mean)
    rule = Bootstrap(level=ONE_STANDARD_ERROR)
    differences = {trial.number: paired_difference(trial.pooled, best.pooled, rule) for trial in finalists}
    tied = [trial for trial in finalists if differences[trial.number].lower <= 0]
    return min(tied, key=lambda trial: (trial.parameters, trial.number)), differences


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
