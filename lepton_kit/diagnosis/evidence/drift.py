"""Evidence of drift: whether inputs and actuals moved, each by itself and together, and whether their relation did."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd
import scipy

from lepton_kit.data.drift import MOST_CATEGORIES, effect_sizes, shift_table
from lepton_kit.diagnosis.case import Case, answered_by, sampled
from lepton_kit.diagnosis.evidence.base import (
    Evidence,
    NotCheckedError,
    answer,
    compared,
    evidence,
    is_apart,
    need_rows,
    onset_in,
)
from lepton_kit.diagnosis.evidence.new_class import new_classes
from lepton_kit.diagnosis.onset import Criteria, actual_size
from lepton_kit.diagnosis.rows import actuals_by_period, asked_anew


@evidence(needs=("requests.features", "requests.target"), time_series=True)
def inputs_and_actuals(case: Case) -> Evidence:
    """Answer what moved: `together`, `inputs alone`, `actuals alone`, `unmoved` or `unclear`.

    A real change of the world moves the actuals and the inputs, which are made of past actuals, alike. A fault on the
    way to the model moves its inputs and leaves the actuals: then the size of an input changed `apart_factor` times
    more, or less, than the spread of the actuals, or its mean shifted while they did not move. Inputs that moved by
    less are `unclear` beside actuals that did not move, and `together` with ones that moved almost, and as they did.
    Features must be stationary by design (returns, ratios, not price
    levels): a trend would count as moved.
    """
    moved = movement(case)
    if moved is None:
        raise NotCheckedError("too few requests with inputs and known actuals on each side")
    inputs, actual = moved.drop(index="actual"), moved.loc["actual"].to_dict()
    finding = _what_moved(inputs, actual, case.criteria)
    summary = (
        f"spread of the inputs × {inputs['spread_ratio'].median():.2f} (median of {len(inputs)}; from "
        f"{inputs['spread_ratio'].min():.2f} to {inputs['spread_ratio'].max():.2f}), of the actuals × "
        f"{actual['spread_ratio']:.2f}; means moved by up to {inputs['mean_shift'].abs().max():.2f} and "
        f"{abs(actual['mean_shift']):.2f} standard deviations"
    )
    ratio, p_value, onset = (
        actual["spread_ratio"],
        float(actual["spread_p"]),
        onset_in(actual_size(case.recording), case),
    )
    return answer(finding, summary, ratio, "× spread of the actuals", p_value, onset)


def movement(case: Case) -> pd.DataFrame | None:
    """Return `effect_sizes` from before to during for every input and `actual`, and what moved.

    Added are the columns `size_ratio`, `shifted` and `moved`.

    The size is the mean absolute value. For returns it changes as the spread does. A rolling volatility, which never is
    negative, has the size of the actuals' spread, while its own spread and mean move far more when the market changes;
    so such an input is never called shifted.

    Moved means: the spread changed by `spread_factor`, or the mean by one standard deviation, and not by chance
    (Brown–Forsythe and Kolmogorov–Smirnov, `alpha` divided by the number of rows of the table: Bonferroni).
    None when either side has too few rows with inputs and actuals. Requests that the service failed have inputs alone.
    """
    sides = [sampled(_inputs_with_actual(case, side), MOST_JUDGED) for side in (case.before, case.during)]
    if min(side["actual"].count() for side in sides) < case.criteria.least_rows or len(sides[0].columns) < 2:
        return None
    table = effect_sizes(*sides)
    alpha = case.criteria.alpha / len(table)
    spread = (_times(table["spread_ratio"]) >= case.criteria.spread_factor) & (table["spread_p"] < alpha)
    mean = (table["mean_shift"].abs() >= 1) & (table["ks_p"] < alpha)
    before, during = (side[table.index] for side in sides)
    with_sign = before.lt(0).any() & before.gt(0).any()
    return table.assign(
        size_ratio=during.abs().mean() / before.abs().mean(), shifted=mean & with_sign, moved=spread | mean
    )


@evidence(needs=("requests.target",), time_series=True)
def actuals(case: Case) -> Evidence:
    """Answer whether the actuals began to swing back, each undone by the next: `reverting` or `not reverting`.

    A wrong price makes two wrong returns, one up and one down. So noise or spikes in the prices that the actuals are
    made of push their lag-1 autocorrelation towards −0.5, where a market's is near 0. It counts from `reverting` below
    0 on, if it did not before, and not by chance: that of n independent values has a variance of 1/n (Bartlett, 1946).
    """
    before, during = (actuals_by_period(side) for side in (case.before, case.during))
    need_rows(case, before, during, "known actuals")
    if before.nunique() < 2 or during.nunique() < 2:
        raise NotCheckedError("the actuals never vary")
    was, since = before.autocorr(), during.autocorr()
    p_value = float(scipy.stats.norm.cdf(since * np.sqrt(len(during))))
    reverting = since <= -case.criteria.reverting < was and p_value < case.criteria.alpha
    summary = f"correlation of each actual with the one before it {was:.2f} before and {since:.2f} since"
    return answer("reverting" if reverting else "not reverting", summary, since, "lag-1 autocorrelation", p_value)


def _inputs_with_actual(case: Case, side: pd.DataFrame) -> pd.DataFrame:
    """Return the whole rows whose actual is known, and those that were failed: these never get one.

    A model that fails fails by its inputs, and the rows that it leaves are a choice: their inputs lie elsewhere though
    no feed has changed.
    """
    table = case.recording.features(side).assign(actual=side["actual"].to_numpy()).replace([np.inf, -np.inf], np.nan)
    is_whole = table.drop(columns="actual").notna().all(axis=1)
    is_told = table["actual"].notna() | side["status"].ge(500).to_numpy()
    return asked_anew(table[is_whole & is_told])


def _times(ratio: pd.Series) -> pd.Series:
    """Return how many times larger or smaller something became, at least 1; infinite where it vanished."""
    return ratio.where(ratio >= 1, 1 / ratio)


def _what_moved(inputs: pd.DataFrame, actual: dict[Hashable, Any], criteria: Criteria) -> str:
    moved = inputs[inputs["moved"]]
    apart = _times(moved["size_ratio"] / actual["spread_ratio"]) >= criteria.apart_factor
    if apart.any() or (moved["shifted"].any() and not actual["moved"]):
        return "inputs alone"
    if actual["moved"]:
        return "together" if len(moved) else "actuals alone"
    if not len(moved):
        return "unmoved"
    return "together" if _almost_moved(moved["size_ratio"], actual, criteria) else "unclear"


def _almost_moved(inputs: pd.Series, actual: dict[Hashable, Any], criteria: Criteria) -> bool:
    """Tell whether the actuals' spread went halfway (on a log scale) to counting, and each input's size with it."""
    ratio = actual["spread_ratio"]
    is_halfway = max(ratio, 1 / ratio) >= criteria.spread_factor**0.5 and actual["spread_p"] < criteria.alpha
    return bool(is_halfway and (_times(inputs / ratio) < criteria.spread_factor).all())


MOST_JUDGED = 3000
"""Rows of either side that are compared at most; more would make no effect clearer."""

PSI, DISTANCE = 0.25, 0.25
"""From here on a feature has drifted: population stability index beyond chance, and Wasserstein distance in sd."""


@evidence(needs=("requests.features",))
def drift(case: Case) -> Evidence:
    """Answer whether any feature's distribution moved, each by itself: `drifted` or `steady`.

    Effect sizes decide (PSI beyond what such samples show by chance, and the Wasserstein distance in standard
    deviations). The Kolmogorov–Smirnov test guards against chance, or χ² where a feature has few values; `alpha` is
    divided by the number of features. Categories have no distance: PSI and χ² decide.
    """
    sides = case.whole_inputs
    need_rows(case, *sides, "whole rows")
    sides = sampled(sides[0], MOST_JUDGED), sampled(sides[1], MOST_JUDGED)
    table, categories = shift_table(*sides), moved_categories(case)
    if not (len(table) or len(categories)):
        raise NotCheckedError("the requests hold no features")
    moved = (table["excess_psi"] >= PSI) & (table["wasserstein"] >= DISTANCE)
    moved &= table["p"] < case.criteria.alpha / max(len(table), 1)
    worst = table.loc[moved].head(3) if moved.any() else table.head(1)
    told = [f"{name} (PSI {row.psi:.2f}, Wasserstein {row.wasserstein:.2f} sd)" for name, row in worst.iterrows()]
    told += [f"{name} (a category, PSI {row.psi:.2f})" for name, row in categories.iterrows() if row.moved]
    count = int(moved.sum() + categories["moved"].sum())
    summary = f"{count} of {len(table) + len(categories)} features moved; the most: {', '.join(told) or 'none'}"
    psi, p_value = (
        pd.concat([table["psi"], categories["psi"]]).max(),
        pd.concat([table["p"], categories["chi2_p"]]).min(),
    )
    return answer("drifted" if count else "steady", summary, psi, "PSI", float(p_value))


def moved_categories(case: Case) -> pd.DataFrame:
    """Return `effect_sizes` of the features that are text, from before the onset to since, and whether each `moved`."""
    sides = [sampled(case.categories.loc[side.index], MOST_JUDGED) for side in (case.before, case.during)]
    if min(map(len, sides)) < case.criteria.least_rows:
        return effect_sizes(sides[0].head(0), sides[1].head(0)).assign(moved=False)
    table = effect_sizes(*sides)
    kinds = sides[0][table.index].nunique().clip(upper=MOST_CATEGORIES)
    by_chance = kinds * sum(1 / len(side) for side in sides)
    clear = table["chi2_p"] < case.criteria.alpha / max(len(table), 1)
    return table.assign(moved=clear & (table["psi"] - by_chance >= PSI))


@evidence(needs=("requests.features",))
def joint_drift(case: Case) -> Evidence:
    """Answer whether a classifier separates the rows since the onset from those before: `told apart` or `alike`."""
    found = compared(case)
    driving = ", ".join(f"{name} {share:.0%}" for name, share in found.drivers.head(3).items())
    summary = f"a classifier tells the rows apart with an area under the ROC curve of {found.auc:.2f}; by {driving}"
    return answer("told apart" if is_apart(found, case) else "alike", summary, found.auc, "AUC", found.p_value)


@evidence(needs=("requests.target",))
def label_drift(case: Case) -> Evidence:
    """Answer whether the distribution of the actuals moved: `drifted` or `steady`; of several classes see below.

    Judged as `drift` judges a feature, one actual for each period. Where classes came true that nobody knew:

    - `in place of known` if they are known ones spelt another way, or a known one fell to half of its share among the
      known and not by chance, or all are gone;
    - `known ones missed` if more of the known ones is answered wrongly;
    - `new class` if the known ones keep their shares and are answered as before, the inputs of its rows are others
      (`new_class.py`), and it is known what the version has learnt: no version can answer a class that it has not;
    - `unclear` otherwise.
    """
    task = case.recording.task
    if task is not None and task.name == "classification_multiclass" and (new := new_classes(case)):
        return new
    of_order = case.recording.incident.declaration.time_series
    before, during = (
        actuals_by_period(side) if of_order else side["actual"].dropna() for side in (case.before, case.during)
    )
    need_rows(case, before, during, "known actuals")
    row = effect_sizes(before.to_frame(), during.to_frame()).iloc[0]
    is_class = np.isnan(row["wasserstein"])
    by_chance = (9 if not is_class else before.nunique()) * (1 / len(before) + 1 / len(during))
    p_value = float(row["chi2_p"] if is_class else row["ks_p"])
    is_far = is_class or row["wasserstein"] >= DISTANCE
    told = "" if is_class else (
        f", Wasserstein {row['wasserstein']:.2f} sd, mean moved by {row['mean_shift']:.2f} sd, "
        f"spread × {row['spread_ratio']:.2f}"
    )  # fmt: skip
    drifted = row["psi"] - by_chance >= PSI and is_far and p_value < case.criteria.alpha
    summary = f"actuals: PSI {row['psi']:.2f}{told}"
    return answer("drifted" if drifted else "steady", summary, row["psi"], "PSI", p_value)


MEAN_ERROR = 0.5
"""The mean of the errors has moved from this many standard deviations on (a medium effect; Cohen 1988, section 2.2)."""


@evidence(needs=("task", "requests.features", "requests.target", "model.current", "model.last_good"))
def concept_drift(case: Case) -> Evidence:
    """Answer whether the actuals relate to the inputs in another way, while the inputs are as before.

    `changed`, `held`, `by one version` or `inputs moved`. They compare the current and the last good version,
    which saw neither side: replayed on the same rows, the errors of both (`Task.residual`) must have another spread or
    mean than before (Brown–Forsythe and Kolmogorov–Smirnov). Where those of one version alone have,
    it is that version which changed, and where the inputs moved too, it is not told whether the relation did (Gama,
    Žliobaitė, Bifet, Pechenizkiy and Bouchachia, "A survey on concept drift adaptation", ACM Computing Surveys 46(4),
    2014, call the former real drift, the latter virtual).
    """
    found, rows = compared(case), {}
    for role in ("current", "last_good"):
        sides = scaled_errors(case, role)
        need_rows(case, *sides, f"rows with a known actual and an answer of the {role.replace('_', ' ')} version")
        rows[role] = effect_sizes(*(side.to_frame("error") for side in sides)).loc["error"].to_dict()
    moved = [role for role, row in rows.items() if _errors_moved(row, case.criteria)]
    apart, both = is_apart(found, case), len(moved) == len(rows)
    last_good, current = rows["last_good"], rows["current"]
    finding = "held" if not moved else "by one version" if not both else "inputs moved" if apart else "changed"
    summary = (
        f"errors of the last good version on rows before and since: spread × {last_good['spread_ratio']:.2f}, mean "
        f"moved by {last_good['mean_shift']:.2f} standard deviations; of the current one × "
        f"{current['spread_ratio']:.2f}; the inputs are {'not ' if apart else ''}as before (AUC {found.auc:.2f})"
    )
    p_value = float(min(last_good["ks_p"], last_good["spread_p"]))
    return answer(finding, summary, last_good["spread_ratio"], "× spread of the errors", p_value)


def scaled_errors(case: Case, role: str) -> tuple[pd.Series, pd.Series]:
    """Return the errors of a replayed version before the onset and since, in their own expected deviations.

    Rows to which it gives no answer are left out.
    """
    judged = case.task.judged(answered_by(case, role))
    errors = case.task.residual(judged[case.task.columns(judged)], judged["actual"])
    errors = errors[np.isfinite(errors)]
    is_before = errors.index.isin(case.before.index)
    return errors[is_before], errors[~is_before]


def _errors_moved(row: dict[Hashable, Any], criteria: Criteria) -> bool:
    spread = max(row["spread_ratio"], 1 / row["spread_ratio"]) >= criteria.spread_factor
    mean = abs(row["mean_shift"]) >= MEAN_ERROR
    return bool((spread and row["spread_p"] < criteria.alpha) or (mean and row["ks_p"] < criteria.alpha))
