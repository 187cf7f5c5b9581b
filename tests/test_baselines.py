import numpy as np
import pandas as pd
import pytest
from models_sample import google_prices

from lepton_kit.errors import InputError
from lepton_kit.models.baselines import ConstantVolatility, EwmaVolatility
from subjects.prices.examples import examples
from subjects.prices.trees import BoostedTrees


@pytest.fixture(scope="module")
def fit():
    return examples(google_prices(), "train")


def test_all_baselines_forecast_in_the_same_table(fit):
    for baseline in (ConstantVolatility.fitted(fit), EwmaVolatility(), BoostedTrees.fitted(fit)):
        forecast = baseline.predict(fit.features)
        assert list(forecast.columns) == ["mean", "std", "lower", "upper", "prob_up"]
        assert forecast.index.equals(fit.features.index)
        assert (forecast["lower"] <= forecast["mean"]).all() and (forecast["mean"] <= forecast["upper"]).all()


def test_the_constant_baseline_covers_about_nine_tenths_of_its_own_training_days(fit):
    forecast = ConstantVolatility.fitted(fit).predict(fit.features)
    assert ((fit.target >= forecast["lower"]) & (fit.target <= forecast["upper"])).mean() == pytest.approx(
        0.9, abs=0.06
    )


def test_the_trees_are_repeatable_and_depend_on_the_seed(fit):
    first, again, other = (BoostedTrees.fitted(fit, seed).predict(fit.features) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first, again, check_exact=True)
    assert not np.allclose(first["upper"], other["upper"])


def test_features_without_a_volatility_are_refused():
    with pytest.raises(InputError, match="volatility_ewma"):
        EwmaVolatility().predict(pd.DataFrame({"return_0": [0.1]}))
