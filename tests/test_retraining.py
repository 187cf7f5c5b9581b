from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from models_sample import google_prices

from lepton_kit.errors import InputError
from lepton_kit.models.evaluation import gate
from lepton_kit.models.registry import Registry
from lepton_kit.models.retraining import retrain
from lepton_kit.models.training import Examples, TrainingSettings
from subjects.prices.examples import train
from subjects.prices.features import next_day_return, price_features

SPACE = ({"model": ["linear"], "weight_decay": [0.3, 1.0]},)
FEW = {"space": SPACE, "trials": 2}


@pytest.fixture(scope="module")
def prices():
    return google_prices()


@pytest.fixture(scope="module")
def recent(prices):
    """The newest 400 rows as requests hold them, with what came true."""
    features = price_features(prices).iloc[-401:-1]
    return Examples(features, next_day_return(prices).loc[features.index])


@pytest.fixture(scope="module")
def present(prices):
    return train(prices, TrainingSettings("linear", epochs=5)).forecaster


@pytest.fixture(scope="module")
def broken(present):
    """A version whose intervals are five times too narrow, as after a fault in its weights."""
    network = type(present.network)(present.architecture)
    network.load_state_dict(present.network.state_dict())
    with torch.no_grad():
        network.log_std.bias -= np.log(5)
    return replace(present, network=network)


@pytest.fixture(scope="module")
def made(recent, broken):
    return retrain(recent, {"goog v2": broken}, **FEW)


def test_a_broken_version_is_beaten_and_the_gate_says_so(made):
    verdicts = {verdict.opponent: verdict for verdict in made.decision.verdicts}
    assert set(verdicts) == {"constant volatility", "EWMA volatility", "goog v2"}
    assert verdicts["goog v2"].passed and verdicts["goog v2"].relative.upper < -0.2


def test_the_decision_is_that_of_the_gate_on_the_scores_it_shows(made):
    scores = made.scores
    assert made.decision == gate(scores["candidate"], {who: scores[who] for who in scores.columns[1:]})


def test_the_rows_that_judge_were_seen_by_neither_tuning_nor_training(recent, broken, made):
    judged = recent.target.index.isin(made.scores.index)
    assert judged[-len(made.scores) :].all() and judged.sum() == len(made.scores) == 79
    target = recent.target.mask(judged, recent.target * 3)
    other = retrain(Examples(recent.features, target), {"goog v2": broken}, **FEW)
    pd.testing.assert_frame_equal(other.tuned.trials, made.tuned.trials)
    pairs = zip(other.forecaster.network.parameters(), made.forecaster.network.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


def test_the_candidate_reads_what_requests_to_the_present_version_hold(recent, present):
    more = Examples(recent.features.assign(return_99=0.0), recent.target)
    assert retrain(more, {"goog v1": present}, **FEW).forecaster.architecture.columns == present.architecture.columns


def test_a_model_without_volatility_information_stays_one(recent, prices):
    constant = train(prices, TrainingSettings("linear", epochs=5, volatility="constant")).forecaster
    only = Examples(recent.features[list(constant.architecture.needed)], recent.target)
    made = retrain(only, {"goog v1": constant}, **FEW)
    assert made.forecaster.architecture.volatility == "constant"
    assert list(made.scores) == ["candidate", "constant volatility", "goog v1"]


def test_a_saved_candidate_is_a_version_that_is_not_in_use(made, tmp_path):
    shelf = Registry(tmp_path / "models")
    version = made.save(shelf, "goog", "run-1")
    card = shelf.card("goog", version)
    assert shelf.current("goog") is None and shelf.load("goog", version).architecture == made.forecaster.architecture
    assert card["run_id"] == "run-1" and card["gate"] == made.decision.reasons
    assert pd.Timestamp(card["data"]["validation"][1]) < pd.Timestamp(card["data"]["test"][0])
    assert len(shelf.reference("goog", version)) == len(made.parts["train"].target)


def test_rows_without_a_column_that_requests_hold_are_refused(recent, present):
    less = Examples(recent.features.drop(columns="volume_3"), recent.target)
    with pytest.raises(InputError, match="recent rows lack volume_3"):
        retrain(less, {"goog v1": present}, **FEW)


def test_too_few_recent_rows_are_refused(recent, present):
    with pytest.raises(InputError, match="recent rows: too short: 40 rows"):
        retrain(recent.rows(slice(40)), {"goog v1": present}, **FEW)


def test_no_present_version_is_refused(recent):
    with pytest.raises(InputError, match="at least one present version"):
        retrain(recent, {}, **FEW)
