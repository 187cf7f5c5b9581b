import numpy as np
import pandas as pd
import pytest
import torch
from models_sample import google_prices

from lepton_kit.data.splits import time_ordered_folds
from lepton_kit.errors import InputError, LeptonError
from lepton_kit.models.training import Examples, TrainingSettings, train_on
from lepton_kit.models.tuning import tune
from subjects.prices.examples import examples, train

QUICK = TrainingSettings("linear", epochs=4, patience=2)
RATES = ({"learning_rate": [0.001, 0.003, 0.01, 0.03]},)


@pytest.fixture(scope="module")
def learnt():
    """The rows a model may learn from, with few columns so that trainings are short."""
    prices = google_prices().drop(columns=["high", "low", "volume"])
    parts = [examples(prices, part, lookback=3) for part in ("train", "validation")]
    return Examples(pd.concat([part.features for part in parts]), pd.concat([part.target for part in parts]))


def test_the_same_seed_gives_the_same_search(learnt):
    first, again = (tune(learnt, QUICK, RATES, trials=3, folds=2, seed=4) for _ in range(2))
    assert first.settings == again.settings
    pd.testing.assert_frame_equal(first.trials, again.trials)


def test_another_seed_draws_other_settings(learnt):
    space = ({"learning_rate": list(np.geomspace(1e-4, 1e-2, 50))},)
    drawn = [tuple(tune(learnt, QUICK, space, trials=2, folds=2, seed=seed).trials["learning_rate"]) for seed in (0, 1)]
    assert drawn[0] != drawn[1]


def test_the_present_settings_take_part_in_every_round(learnt):
    poor = TrainingSettings("linear", epochs=1, learning_rate=0.3)
    trials = tune(learnt, poor, RATES, trials=4, folds=3).trials
    assert trials.loc[0, ["trial", "folds"]].tolist() == [0, 3]
    assert trials["newest_fold"].idxmin() != 0


def test_a_trial_that_is_worse_than_half_of_those_that_finished_is_pruned(learnt):
    trials = tune(learnt, QUICK, RATES, trials=4, folds=3).trials
    others = trials[trials["trial"] > 0]
    assert sorted(others["folds"])[:2] == [1, 1]
    stopped, went_on = (others.loc[others["folds"] == 1], others.loc[others["folds"] > 1])
    assert stopped["newest_fold"].min() >= went_on["newest_fold"].max()
    assert trials["folds"].sum() < 3 * len(trials)


def test_settings_that_cannot_learn_lose(learnt):
    """Days three times as wild as the volatility says can be learnt, though not with a learning rate of 1e-8."""
    wilder = Examples(learnt.features, 3 * learnt.target)
    still = TrainingSettings("linear", learning_rate=1e-8, epochs=20)
    tuned = tune(wilder, still, ({"learning_rate": [0.003, 0.01]},), folds=2)
    assert tuned.settings.learning_rate > 1e-8
    assert not tuned.trials.loc[0, "tied"] and tuned.trials.loc[0, "lower"] > 0.1


def test_of_equals_the_one_with_the_fewest_parameters_is_chosen(learnt):
    """With zero heads and a learning rate of 1e-8 every model is the EWMA baseline, whatever its width."""
    still = TrainingSettings("mlp", width=16, learning_rate=1e-8, epochs=1)
    tuned = tune(learnt, still, ({"width": [2, 4, 8]},), trials=3, folds=2)
    finalists = tuned.trials[tuned.trials["tied"]]
    assert tuned.settings.width == finalists["width"].min() < 16
    assert tuned.trials.loc[tuned.trials["chosen"], "parameters"].tolist() == [finalists["parameters"].min()]


def test_a_width_that_a_linear_model_does_not_have_makes_no_second_trial(learnt):
    tuned = tune(learnt, QUICK, ({"model": ["linear"], "width": [2, 4, 8]},), folds=2)
    assert len(tuned.trials) == 1 and tuned.settings == QUICK


def test_a_trial_that_diverges_is_given_up_and_noted(learnt):
    wild = ({"learning_rate": [1000.0], "weight_decay": [0.0], "epochs": [60], "patience": [60]},)
    trials = tune(learnt, QUICK, wild, trials=1, folds=2).trials
    assert "too high" in trials.loc[1, "note"] and not trials.loc[1, "chosen"]
    assert trials.loc[0, "chosen"]


def test_a_search_in_which_all_diverge_says_so(learnt):
    wild = TrainingSettings("linear", learning_rate=1000.0, weight_decay=0.0, epochs=60, patience=60)
    with pytest.raises(LeptonError, match="all 2 trials were given up; the first: loss is"):
        tune(learnt, wild, ({"batch_size": [16]},), folds=2)


def test_scores_do_not_see_the_rows_they_are_of(learnt):
    """The newest fold's rows are changed grossly: what was trained for it, and so its other forecasts, stays."""
    fold = time_ordered_folds(len(learnt.target), 2)[-1]
    changed = learnt.target.copy()
    changed.iloc[fold.scored] *= 7.0
    made = [
        train_on(given.rows(fold.train), given.rows(fold.validation), QUICK).forecaster
        for given in (learnt, Examples(learnt.features, changed))
    ]
    assert all(torch.equal(*pair) for pair in zip(*(one.network.parameters() for one in made), strict=True))


def test_training_on_examples_is_training_on_their_table():
    prices = google_prices()
    fit, check = examples(prices, "train"), examples(prices, "validation")
    one, other = train(prices, QUICK), train_on(fit, check, QUICK)
    assert one.history.equals(other.history)


def test_every_training_is_reported(learnt):
    seen = []
    trials = tune(learnt, QUICK, RATES, trials=2, folds=2, on_training=lambda: seen.append(1)).trials
    assert len(seen) == trials["folds"].sum()


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ((), "is empty"),
        (({"depth": [3]},), "no setting 'depth'; there are batch_size"),
        (({"seed": [0, 1]},), "seed is not searched: the best of several seeds is luck"),
        (({"lookback": [5, 10]},), "lookback is not searched"),
        (({"width": []},), r"width = \[\]: must be a list of values"),
        (({"width": 4},), "width = 4: must be a list of values"),
        (({"model": "linear"},), "model = 'linear': must be a list of values"),
        (({"model": ["tree"]},), "search space: model = 'tree': must be one of"),
        (({"width": [0]},), "search space: width = 0"),
    ],
)
def test_a_bad_search_space_is_refused_by_name(learnt, space, message):
    with pytest.raises(InputError, match=message):
        tune(learnt, QUICK, space)


@pytest.mark.parametrize(("name", "value"), [("trials", 0), ("folds", 1)])
def test_a_bad_number_is_refused_by_name(learnt, name, value):
    with pytest.raises(InputError, match=f"{name} = {value}"):
        tune(learnt, QUICK, RATES, **{name: value})


def test_rows_that_are_too_few_are_refused(learnt):
    with pytest.raises(InputError, match="30 rows are too few for 3 folds"):
        tune(learnt.rows(slice(30)), QUICK, RATES)


def test_rows_out_of_order_are_refused(learnt):
    with pytest.raises(InputError, match="sorted by time"):
        tune(Examples(learnt.features.iloc[::-1], learnt.target.iloc[::-1]), QUICK, RATES)


SEARCH = {"space": RATES, "trials": 4, "folds": 3}


class Killed(BaseException):
    """Ends a search as a kill does: nothing of it catches this."""


@pytest.mark.parametrize("killed_at", [2, 6])
def test_a_search_that_was_killed_ends_as_one_without_a_break(learnt, tmp_path, killed_at):
    whole, seen = tune(learnt, QUICK, **SEARCH), []

    def kill():
        seen.append(1)
        if len(seen) == killed_at:
            raise Killed

    with pytest.raises(Killed):
        tune(learnt, QUICK, **SEARCH, study=tmp_path / "study.sqlite3", on_training=kill)
    seen.clear()
    killed_at = 0
    ended = tune(learnt, QUICK, **SEARCH, study=tmp_path / "study.sqlite3", on_training=kill)
    pd.testing.assert_frame_equal(ended.trials, whole.trials)
    assert ended.settings == whole.settings and ended.selection_bias == whole.selection_bias
    assert 0 < len(seen) < whole.trials["folds"].sum()


def test_a_finished_search_trains_nothing_again(learnt, tmp_path):
    first = tune(learnt, QUICK, **SEARCH, study=tmp_path / "study.sqlite3")
    seen = []
    again = tune(learnt, QUICK, **SEARCH, study=tmp_path / "study.sqlite3", on_training=lambda: seen.append(1))
    assert not seen
    pd.testing.assert_frame_equal(first.trials, again.trials)


@pytest.mark.parametrize(
    ("change", "what"),
    [({"seed": 9}, "settings"), ({"folds": 2}, "folds"), ({"given": slice(0, 300)}, "data and folds")],
)
def test_the_study_of_another_search_is_refused_by_name(learnt, tmp_path, change, what):
    file = tmp_path / "study.sqlite3"
    tune(learnt, QUICK, **{**SEARCH, "trials": 2}, study=file)
    given = learnt.rows(change.pop("given")) if "given" in change else learnt
    with pytest.raises(InputError, match=rf"study\.sqlite3': is of other {what}; remove it"):
        tune(given, QUICK, **{**SEARCH, "trials": 2, **change}, study=file)


def test_two_processes_score_the_same_settings_as_one(learnt):
    seen = []
    alone, together = (
        tune(learnt, QUICK, RATES, trials=3, folds=2, jobs=jobs, on_training=lambda: seen.append(1)).trials
        for jobs in (1, 2)
    )
    pd.testing.assert_series_equal(alone["newest_fold"], together["newest_fold"])
    assert len(seen) == alone["folds"].sum() + together["folds"].sum()


def test_the_best_of_many_that_are_equal_is_known_to_be_luck(learnt):
    """Settings that differ in noise alone: the lowest mean of them is too low; of one trial alone it is not."""
    chance = np.random.default_rng(3)
    noise = Examples(learnt.features, pd.Series(chance.normal(0, 0.02, len(learnt.target)), learnt.target.index))
    many = ({"learning_rate": [0.01, 0.02, 0.03, 0.04, 0.05], "batch_size": [16, 64]},)
    tuned = tune(noise, QUICK, many, trials=8, folds=2)
    assert 0 < tuned.selection_bias < 0.05
    assert tune(learnt, QUICK, ({"learning_rate": [QUICK.learning_rate]},), folds=2).selection_bias == 0
