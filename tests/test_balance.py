"""Rare classes: a moved threshold, weights and resampling, judged together with calibration."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lepton_kit.data import balance, gains
from lepton_kit.errors import InputError


def rare(seed: int, count: int = 1500, apart: float = 2.0) -> tuple[pd.DataFrame, pd.Series]:
    chance = np.random.default_rng(seed)
    target = pd.Series((chance.random(count) < 0.06).astype(int))
    table = pd.DataFrame(chance.normal(size=(count, 3)), columns=list("abc"))
    return table.assign(a=table["a"] + apart * target), target


MODEL = make_pipeline(StandardScaler(), LogisticRegression())


@pytest.fixture(scope="module")
def advised():
    return balance.advise(MODEL, *rare(0), cost_of_miss=5)


def test_where_a_moved_threshold_gains_it_is_advised_and_resampling_is_known_to_spoil_calibration(advised):
    table = advised.table.set_index("method")
    assert (advised.method, advised.reason) == ("threshold", "gains")
    assert 0.05 < advised.threshold < 0.45
    assert table.loc[["weights", "under", "over", "smote"], "spoils_calibration"].all()
    assert not table.loc[["none", "threshold"], "spoils_calibration"].any()
    assert (table.loc[["under", "over"], "calibration_error"] > 5 * table.loc["none", "calibration_error"]).all()


def test_intervals_hold_the_gain_and_nothing_gains_over_itself(advised):
    table = advised.table.set_index("method")
    for what in ("average_precision", "decision", "brier"):
        assert (table[f"{what}_lower"] <= table[f"{what}_gain"]).all()
        assert (table[f"{what}_gain"] <= table[f"{what}_upper"]).all()
        assert table.loc["none", [f"{what}_lower", f"{what}_gain", f"{what}_upper"]].tolist() == [0, 0, 0]


def test_where_nothing_can_be_told_apart_nothing_is_advised():
    advice = balance.advise(MODEL, *rare(1, 800, apart=0.0), methods=("under", "over"), cost_of_miss=1)
    assert (advice.method, advice.reason, advice.threshold) == (None, "gains_nothing", 0.5)


def test_a_gain_that_spoils_calibration_is_refused_with_that_reason():
    advice = balance.advise(MODEL, *rare(0), methods=("under", "over"), cost_of_miss=20)
    assert (advice.method, advice.reason) == (None, "spoils_calibration")
    assert advice.table.set_index("method").loc["over", "gains"]


def test_no_scored_row_is_resampled_or_fitted_on():
    features, target = rare(2)
    seen = []

    class Watching(LogisticRegression):
        def fit(self, rows, labels, sample_weight=None):
            self.fitted_on_ = set(map(tuple, np.asarray(rows)))
            return super().fit(rows, labels, sample_weight)

        def predict_proba(self, rows):
            seen.append(self.fitted_on_.isdisjoint(map(tuple, np.asarray(rows))))
            return super().predict_proba(rows)

    balance.advise(Watching(), features, target, methods=("threshold", "over", "under"))
    assert len(seen) > 12 and all(seen)


@pytest.mark.parametrize("groups", [None, pd.Series(np.arange(1500) // 10)])
def test_no_group_and_no_later_row_is_on_both_sides(groups):
    target = rare(3)[1]
    for cut in gains.cuts(target, groups, time_ordered=groups is None):
        known = np.r_[cut.fit, cut.choose]
        if groups is None:
            assert cut.fit.max() < cut.choose.min() <= cut.choose.max() < cut.scored.min()
        else:
            assert set(groups[known]).isdisjoint(groups[cut.scored]) and set(groups[cut.fit]).isdisjoint(
                groups[cut.choose]
            )


def test_samples_keep_groups_and_blocks_whole():
    groups = np.repeat(np.arange(20), 5)
    for sample in gains.draws(100, groups)[:5]:
        assert (np.bincount(groups[sample], minlength=20) % 5 == 0).all()
    for sample in gains.draws(100, time_ordered=True)[:5]:
        assert (np.bincount(sample // gains.BLOCK, minlength=10) % gains.BLOCK == 0).all()


def test_average_precision_is_that_of_scikit_learn_also_with_equal_answers():
    chance = np.random.default_rng(0)
    truth, chances = (chance.random(200) < 0.1).astype(int), chance.random(200).round(1)
    assert gains.average_precision(truth, chances) == pytest.approx(average_precision_score(truth, chances))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": pd.Series([0, 2] * 750)}, "target: must hold 0 and 1; it holds 0, 2"),
        ({"methods": ("adasyn",)}, "methods: adasyn: must be of none, threshold"),
        ({"target": pd.Series([1] * 3 + [0] * 1497)}, "class 1 has 3 rows; 4 folds need 8"),
        ({"groups": pd.Series(range(1500)), "time_ordered": True}, "cut by time or by group"),
    ],
)
def test_what_cannot_be_judged_is_refused_by_name(change, message):
    features, target = rare(0)
    with pytest.raises(InputError, match=message):
        balance.advise(MODEL, **{"features": features, "target": target, **change})


def test_a_class_that_a_stretch_of_time_lacks_is_refused():
    target = pd.Series([1] * 40 + [0] * 460)
    with pytest.raises(InputError, match=r"class 1: has no row in a part of fold \d in time; give fewer folds"):
        gains.cuts(target, time_ordered=True)
