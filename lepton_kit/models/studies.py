"""Scores drawn settings as the trials of an Optuna study: pruned, resumable, and by several processes at once."""

from __future__ import annotations

import hashlib
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_kit.data.splits import Fold
from lepton_kit.data.tables import table_sha256
from lepton_kit.errors import InputError, LeptonError
from lepton_kit.files import locked
from lepton_kit.models.evaluation import losses
from lepton_kit.models.training import Examples, TrainingSettings, train_on

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

UNPRUNED = 2
"""Trials that finish before any is pruned: the settings in use, and one more."""


@dataclass(frozen=True)
class Search:
    """Rows, the settings that were drawn, and the folds to score them on, newest first.

    Trial i of the study is of settings i. Its user attributes are `scores`, a list per fold scored so far with a number
    per row, and `note`, why it was given up. `file` holds the study (SQLite); without one it lies in memory.
    """

    given: Examples
    drawn: tuple[TrainingSettings, ...]
    folds: tuple[Fold, ...]
    file: Path | None
    seed: int

    @cached_property
    def study(self) -> optuna.Study:
        """Return the study, new or as it was left."""
        import optuna  # half a second

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        patient = {"connect_args": {"timeout": 60}}  # seconds, while another process writes
        return optuna.create_study(
            storage=optuna.storages.RDBStorage(f"sqlite:///{self.file}", engine_kwargs=patient) if self.file else None,
            study_name="tuning",
            load_if_exists=True,
            sampler=optuna.samplers.RandomSampler(seed=self.seed),  # never asked: all settings are drawn
            pruner=optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED),
        )

    @cached_property
    def choices(self) -> dict[str, list[Any]]:
        """Return the values of each setting in which the drawn ones differ."""
        drawn = [asdict(settings) for settings in self.drawn]
        values = {name: list(dict.fromkeys(one[name] for one in drawn)) for name in drawn[0]}
        return {name: taken for name, taken in values.items() if len(taken) > 1}

    def scores(self, trial: int) -> list[list[float]]:
        """Return what a trial has scored so far."""
        scores: list[list[float]] = self.study.get_trials(deepcopy=False)[trial].user_attrs.get("scores", [])
        return scores


@contextmanager
def study_file(file: Path | None, jobs: int) -> Iterator[Path | None]:
    """Give the file of a study to one search at a time; several processes need one, which is removed after them."""
    if file is not None:
        with locked(file.with_name(f".{file.name}.lock")):
            yield file
    elif jobs > 1:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / "study.sqlite3"
    else:
        yield None


def run(search: Search, jobs: int, on_training: Callable[[], None]) -> list[FrozenTrial]:
    """Score what is not yet scored, the first trial before all others: they are measured against it."""
    from optuna.trial import Trial, TrialState

    study = search.study
    _check_same(search)
    for settings in search.drawn[len(study.get_trials(deepcopy=False)) :]:
        study.enqueue_trial({name: getattr(settings, name) for name in search.choices})
    left_off = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    for one in left_off:  # by a search that was killed: this one alone has the study
        _score(search, Trial(study, one._trial_id), on_training)
    waiting = [one.number for one in study.get_trials(deepcopy=False, states=(TrialState.WAITING,))]
    here = [number for number in waiting if jobs == 1 or number == 0]
    for _ in here:
        _score(search, study.ask(), on_training)
    if elsewhere := len(waiting) - len(here):
        unopened = replace(search)  # an open study does not travel
        with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
            for done in as_completed([pool.submit(_score_next, unopened) for _ in range(elsewhere)]):
                for _ in range(done.result()):
                    on_training()
    return study.get_trials(deepcopy=False)


def _check_same(search: Search) -> None:
    table = search.given.features.assign(target=search.given.target).reset_index()
    settings = hashlib.sha256(repr(search.drawn).encode()).hexdigest()
    own = {"data": table_sha256(table), "settings": settings, "folds": str(search.folds)}
    known = search.study.user_attrs
    if differing := [name for name in own if known.get(name, own[name]) != own[name]]:
        raise InputError(
            f"study {str(search.file)!r}: is of other {' and '.join(differing)}; remove it, or name another"
        )
    for name, value in own.items():
        search.study.set_user_attr(name, value)


def _score_next(search: Search) -> int:
    trainings: list[int] = []
    _score(search, search.study.ask(), lambda: trainings.append(1))
    return len(trainings)


def _score(search: Search, trial: optuna.Trial, on_training: Callable[[], None]) -> None:
    """Score a trial fold by fold, until all are scored, or it is pruned or diverges."""
    from optuna.trial import TrialState

    for name, values in search.choices.items():
        trial.suggest_categorical(name, values)
    for step in range(len(search.folds)):
        scores = search.scores(trial.number)
        if step == len(scores):
            try:
                scores = [*scores, _fold_scores(search, trial.number, search.folds[step])]
            except InputError:
                raise
            except LeptonError as error:  # its loss diverged: bad settings, not a bad search
                trial.set_user_attr("note", str(error))
                search.study.tell(trial, state=TrialState.PRUNED)
                return
            finally:
                on_training()
            trial.set_user_attr("scores", scores)
        is_last = step == len(search.folds) - 1
        if trial.number > 0 and not is_last and _is_poor(search, trial, step):
            search.study.tell(trial, state=TrialState.PRUNED)
            return
    search.study.tell(trial, _mean(search.scores(trial.number)))


def _is_poor(search: Search, trial: optuna.Trial, step: int) -> bool:
    """Report the mean so far over that of the first trial, so that folds compare, and ask the pruner."""
    scores, first = search.scores(trial.number), search.scores(0)
    if len(first) <= step:
        return False  # it diverged
    if step not in search.study.get_trials(deepcopy=False)[trial.number].intermediate_values:
        trial.report(_mean(scores[: step + 1]) / _mean(first[: step + 1]), step)
    return trial.should_prune()


def _mean(scores: list[list[float]]) -> float:
    return float(np.mean(np.concatenate(scores)))


def _fold_scores(search: Search, number: int, fold: Fold) -> list[float]:
    scored = search.given.rows(fold.scored)
    trained = train_on(search.given.rows(fold.train), search.given.rows(fold.validation), search.drawn[number])
    scores: list[float] = losses(trained.forecaster, scored.features, scored.target).tolist()
    return scores
