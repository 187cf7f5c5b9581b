import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lepton_kit.data import drift
from lepton_kit.errors import InputError


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_psi_is_zero_for_the_same_sample_and_grows_with_the_shift(rng):
    calm = rng.normal(size=500)
    values = [drift.population_stability_index(calm, calm + shift) for shift in (0, 0.5, 1, 2)]
    assert values[0] == 0
    assert values == sorted(values) and values[-1] > 1


def test_psi_of_two_bins_is_the_formula():
    index = drift.population_stability_index([0, 0, 1, 1], [0, 1, 1, 1], bins=2)
    assert index == pytest.approx(2 * 0.25 * np.log(0.75 / 0.25) / 2)


def test_psi_of_a_bin_nobody_falls_into_stays_finite():
    assert np.isfinite(drift.population_stability_index(np.arange(100.0), np.full(50, 1e6)))


def test_psi_of_one_bin_is_refused():
    with pytest.raises(InputError, match="bins = 1"):
        drift.population_stability_index([1.0], [1.0], bins=1)


@pytest.mark.parametrize("measure", [drift.population_stability_index, drift.kolmogorov_smirnov, drift.spread_ratio])
@pytest.mark.parametrize("sample", [[], [np.nan, np.inf]])
def test_a_sample_without_a_number_is_refused_and_named(measure, sample):
    with pytest.raises(InputError, match="current sample"):
        measure([1.0, 2.0], sample)


def compared(reference, current):
    return drift.effect_sizes(*(pd.DataFrame({"x": side}, dtype=float) for side in (reference, current))).loc["x"]


def test_missing_values_are_left_out():
    assert compared([-1, 1, np.nan], [0, 2, np.nan])["mean_shift"] == pytest.approx(1)


def test_a_constant_that_moved_has_no_bound_and_one_that_did_not_is_unmoved():
    assert compared([1, 1], [2, 2])["mean_shift"] == np.inf
    assert compared([1, 1], [0, 0])["mean_shift"] == -np.inf
    assert compared([1, 1], [1, 1])["wasserstein"] == 0
    assert drift.spread_ratio([1, 1], [5, 5]) == (1.0, 1.0)


def test_a_frozen_series_loses_its_spread(rng):
    ratio, p_value = drift.spread_ratio(rng.normal(size=100), np.zeros(50))
    assert ratio == 0 and p_value < 1e-6


def test_one_extreme_day_is_no_change_of_spread(rng):
    calm = rng.normal(size=200)
    wild = np.append(rng.normal(size=199), 8.0)
    ratio, p_value = drift.spread_ratio(calm, wild)
    assert ratio < 1.2 and p_value > 0.01


def test_the_table_puts_the_column_that_moved_first_and_says_what_it_leaves_out(rng):
    before = pd.DataFrame({"still": rng.normal(size=200), "moved": rng.normal(size=200), "empty": np.nan, "text": "a"})
    after = before.assign(moved=before["moved"] * 3)
    table = drift.effect_sizes(before, after)
    assert list(table.index) == ["moved", "still", "text"]
    assert table.attrs["left_out"] == {"empty": "no finite value"}
    assert table.loc["text", "psi"] == 0 and table.loc["text", "chi2_p"] == 1
    assert table.loc["moved", "spread_ratio"] == pytest.approx(3)
    assert table.loc["still", ["psi", "ks", "wasserstein", "mean_shift"]].tolist() == [0, 0, 0, 0]


def test_categories_are_compared_by_their_shares(rng):
    before = pd.DataFrame({"region": rng.choice(["north", "south", None], 400), "is_new": rng.random(400) < 0.5})
    alike = pd.DataFrame({"region": rng.choice(["north", "south"], 400), "is_new": rng.random(400) < 0.5})
    table = drift.effect_sizes(before, alike)
    assert (table["psi"] < 0.1).all() and (table["chi2_p"] > 0.01).all()
    moved = drift.effect_sizes(before, alike.assign(region=rng.choice(["north", "west"], 400)))
    assert moved.index[0] == "region" and moved.loc["region", "psi"] > 1 and moved.loc["region", "chi2_p"] < 1e-6
    assert np.isnan(moved.loc["region", "wasserstein"])


def test_a_column_of_lists_or_of_two_kinds_is_named_and_left_out():
    before = pd.DataFrame({"list": [[1.0]] * 4, "kind": ["a"] * 4, "number": range(4)})
    table = drift.effect_sizes(before, before.assign(kind=1.0))
    assert list(table.index) == ["number"]
    assert set(table.attrs["left_out"]) == {"list", "kind"}


def test_a_table_without_a_column_of_the_reference_is_refused():
    with pytest.raises(InputError, match="lacks column b"):
        drift.effect_sizes(pd.DataFrame({"a": [1.0], "b": [1.0]}), pd.DataFrame({"a": [1.0]}))


def test_a_change_point_is_found_near_where_it_was_planted(rng):
    series = pd.Series(np.append(rng.normal(size=120), rng.normal(loc=1.5, size=80)))
    found = drift.change_point(series)
    assert abs(found.position - 120) <= 5
    assert found.p_value < 1e-6
    assert found.after - found.before == pytest.approx(1.5, abs=0.4)


def test_a_change_of_volatility_is_found_in_the_absolute_values(rng):
    series = pd.Series(np.append(rng.normal(size=150), 3 * rng.normal(size=100)))
    assert drift.change_point(series).p_value > 0.01
    assert abs(drift.change_point(series.abs()).position - 150) <= 10


def test_noise_gives_a_false_change_point_no_more_often_than_its_p_value_says(rng):
    p_values = [drift.change_point(pd.Series(rng.normal(size=150))).p_value for _ in range(300)]
    assert np.mean(np.array(p_values) < 0.05) <= 0.08


def test_a_short_or_constant_series_has_no_change_point():
    assert drift.change_point(pd.Series(range(19))) is None
    assert drift.change_point(pd.Series([1.0] * 50)) is None
    assert drift.change_point(pd.Series([np.nan] * 50)) is None


def test_the_label_of_a_change_point_skips_missing_values():
    series = pd.Series([0.0, 0.1] * 10 + [np.nan] * 5 + [5.0, 5.1] * 10, index=range(100, 145))
    assert drift.change_point(series).label == 125


def test_each_statistic_of_a_large_table_is_scipys(rng):
    tied = {"tied": rng.integers(0, 9, 3000) * 1.0}
    before = pd.DataFrame(
        {"loud": rng.normal(size=3000), **tied, "gaps": np.where(rng.random(3000) < 0.1, np.nan, 1.5)}
    )
    during = pd.DataFrame({"loud": rng.normal(0.2, 2, 800), "tied": rng.integers(0, 8, 800) * 1.0, "gaps": 1.5})
    table = drift.effect_sizes(before, during)
    for column in before:
        was, now = before[column].dropna(), during[column]
        ks = stats.ks_2samp(was, now, method="asymp")
        distance = stats.wasserstein_distance(was, now) / (was.std(ddof=0) or 1)
        assert table.loc[column, ["ks", "ks_p", "wasserstein"]].tolist() == pytest.approx([*ks, distance])
    levene = stats.levene(before["loud"], during["loud"], center="median").pvalue
    assert table.loc["loud", "spread_p"] == pytest.approx(levene)


def test_rare_categories_of_one_distribution_do_not_tell_samples_apart():
    rng = np.random.default_rng(0)
    sides = [pd.DataFrame({"user": [f"u{one}" for one in rng.gamma(2, 150, n).astype(int)]}) for n in (800, 2500)]
    assert drift.two_sample(*sides).auc < 0.55
