import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from lepton_kit.errors import InputError
from lepton_kit.models import evaluation
from lepton_kit.models.evaluation import Bootstrap
from lepton_kit.models.forecasters import NORMAL_QUANTILE, forecast_table
from subjects.prices import evaluation as of_prices

DAYS = 400


@pytest.fixture
def actual():
    return pd.Series(np.random.default_rng(0).normal(0, 0.02, DAYS), index=pd.date_range("2020-01-01", periods=DAYS))


def gaussian(actual, std, prob_up=0.5):
    size = len(actual)
    return forecast_table(np.zeros(size), np.full(size, std), np.full(size, prob_up), actual.index)


def score(forecast, actual):
    return evaluation.interval_score(forecast["lower"], forecast["upper"], actual)


def test_the_true_spread_scores_better_than_a_wider_or_a_narrower_one(actual):
    by_std = {std: score(gaussian(actual, std), actual).mean() for std in (0.014, 0.02, 0.028)}
    assert min(by_std, key=by_std.get) == 0.02


def test_a_miss_below_costs_as_much_as_a_miss_above():
    bounds = pd.Series([-1.0, -1.0]), pd.Series([1.0, 1.0])
    assert evaluation.interval_score(*bounds, pd.Series([-1.5, 1.5]), level=0.8).tolist() == pytest.approx([7.0, 7.0])


def test_the_normal_quantile_is_scipys():
    assert norm.ppf(0.95) == pytest.approx(NORMAL_QUANTILE, rel=1e-15)


def test_the_negative_log_likelihood_is_lowest_for_the_true_spread(actual):
    true, wide = (of_prices.gaussian_nll(gaussian(actual, std), actual).mean() for std in (0.02, 0.03))
    assert true < wide


def test_mase_of_no_change_on_the_training_days_is_one(actual):
    assert of_prices.mase(actual, actual * 0, actual) == pytest.approx(1.0)


def test_mase_of_prices_that_never_moved_is_refused(actual):
    with pytest.raises(InputError, match="MASE is not defined"):
        of_prices.mase(actual, actual, actual * 0)


def test_a_sure_and_wrong_direction_costs_much_but_not_infinitely():
    loss = of_prices.direction_log_loss(pd.Series([1.0]), pd.Series([-0.01]))
    assert 20 < loss.iloc[0] < 40


def test_scores_of_no_change_agree_with_what_is_known(actual):
    close = pd.Series(100.0, index=actual.index)
    found = of_prices.scores(gaussian(actual, 0.02), actual, close, training_changes=np.expm1(actual) * 100)
    assert found["mase"] == pytest.approx(1.0)
    assert found["coverage"] == pytest.approx(0.9, abs=0.05)
    assert found["direction_accuracy"] == 0.5 and found["direction_log_loss"] == pytest.approx(np.log(2))


def test_the_means_of_the_daily_scores_are_the_scores(actual):
    given = gaussian(actual, 0.02), actual, pd.Series(100.0, index=actual.index), actual * 50
    overall = of_prices.scores(*given)
    change = np.expm1(actual) * 100
    assert overall["mase"] == pytest.approx(of_prices.mase(change, change * 0, actual * 50))
    for name, mean in of_prices.daily_scores(*given).mean().items():
        assert mean == pytest.approx(overall[name])


def test_the_bootstrap_is_seeded(actual):
    one, again, other = (evaluation.bootstrap_mean(actual, Bootstrap(seed=seed)) for seed in (1, 1, 2))
    assert one == again != other


def test_the_bootstrap_of_independent_days_agrees_with_the_textbook_error(actual):
    found = evaluation.bootstrap_mean(actual, Bootstrap(block=1))
    error = NORMAL_QUANTILE * actual.std() / np.sqrt(DAYS)
    assert (found.upper - found.lower) / 2 == pytest.approx(error, rel=0.1)


def test_blocks_widen_the_interval_when_neighbouring_days_are_alike():
    spells = pd.Series(np.repeat(np.random.default_rng(0).normal(size=40), 10))
    width = {b: np.ptp([*vars(evaluation.bootstrap_mean(spells, Bootstrap(block=b))).values()][1:]) for b in (1, 10)}
    assert width[10] > 2 * width[1]


@pytest.mark.parametrize("given", [{"samples": 0}, {"block": 0}, {"level": 1.0}])
def test_a_bad_bootstrap_is_refused(given):
    with pytest.raises(InputError, match="bootstrap"):
        Bootstrap(**given)


def test_too_few_days_for_a_bootstrap_are_refused(actual):
    with pytest.raises(InputError, match="19 days are too few"):
        evaluation.bootstrap_mean(actual.head(19))


def test_scores_of_different_days_are_not_compared(actual):
    with pytest.raises(InputError, match="same days"):
        evaluation.paired_difference(actual.head(100), actual.tail(100))


def test_the_true_gaussian_is_calibrated_and_a_narrow_one_is_not(actual):
    true = evaluation.calibration(gaussian(actual, 0.02), actual)
    assert (true["coverage"] - true["level"]).abs().max() < 0.06
    assert (evaluation.calibration(gaussian(actual, 0.01), actual)["coverage"] < true["level"] - 0.05).all()


class KnowsTheSpread:
    """A forecaster that uses one family of features and ignores the other."""

    def predict(self, features):
        size = len(features)
        return forecast_table(
            np.zeros(size), features["volatility_ewma"].to_numpy(), np.full(size, 0.5), features.index
        )


def test_shuffling_matters_only_for_features_that_are_used():
    generator = np.random.default_rng(1)
    spread = generator.choice([0.005, 0.05], DAYS)
    features = pd.DataFrame({"return_0": generator.normal(size=DAYS), "volatility_ewma": spread})
    found = evaluation.permutation_importance(KnowsTheSpread(), features, pd.Series(generator.normal(0, spread)))
    assert found["family"].tolist() == ["volatility", "return"]
    assert found["increase"][0] > 0.2 and found["increase"][1] == 0


def test_the_gate_promotes_a_better_candidate_and_says_where_the_interval_lies(actual):
    better, worse = score(gaussian(actual, 0.02), actual), score(gaussian(actual, 0.05), actual)
    decision = evaluation.gate(better, {"wide": worse})
    assert decision.promote and decision.verdicts[0].relative.upper < 0
    assert "better than wide, and the interval lies below zero" in decision.reasons[0]


def test_the_gate_refuses_a_candidate_that_loses_to_one_of_two(actual):
    middle, best, worst = (score(gaussian(actual, std), actual) for std in (0.03, 0.02, 0.06))
    decision = evaluation.gate(middle, {"worst": worst, "best": best})
    assert not decision.promote
    assert [verdict.passed for verdict in decision.verdicts] == [True, False]
    assert decision.reasons[1].startswith("not better than best")


def test_the_gate_refuses_an_equal_candidate(actual):
    same = score(gaussian(actual, 0.02), actual)
    assert not evaluation.gate(same, {"itself": same}).promote


def test_the_gate_refuses_a_lucky_average(actual):
    noise = pd.Series(np.random.default_rng(3).normal(0, 4, DAYS), index=actual.index)
    other = pd.Series(1.0, index=actual.index)
    decision = evaluation.gate(other + noise - noise.mean() - 0.01, {"other": other})
    assert not decision.promote
    assert "the interval reaches a loss of 5%" in decision.reasons[0]


def test_the_gate_tells_better_on_average_from_an_interval_below_zero(actual):
    noise = pd.Series(np.random.default_rng(3).normal(0, 0.3, DAYS), index=actual.index)
    other = pd.Series(1.0, index=actual.index)
    decision = evaluation.gate(other + noise - noise.mean() - 0.005, {"other": other})
    assert decision.promote and decision.table()["passed"][0]
    assert decision.table()["lower"][0] < 0 < decision.table()["upper"][0] < 0.05
    assert "better than other on average, and the interval ends below 5%" in decision.reasons[0]


def test_a_gate_without_opponents_or_with_a_negative_margin_is_refused(actual):
    with pytest.raises(InputError, match="at least one opponent"):
        evaluation.gate(actual, {})
    with pytest.raises(InputError, match=r"margin = -0\.1"):
        evaluation.gate(actual, {"other": actual}, margin=-0.1)
