"""Evidence of the data: what the rows promise, and whether inputs and actuals moved, alone or together."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from lepton_kit.data.drift import drift_table
from lepton_kit.diagnosis.case import BREACHES, Case, Criteria, actual_size, actuals_by_period, by_time
from lepton_kit.diagnosis.evidence.base import Evidence, not_checked, onset_in, share_p_value, too_few


def contract(case: Case) -> Evidence:
    """Answer whether more inputs than before break their contract: `broken` or `kept`."""
    if not len(case.recording.features(case.requests).columns):
        return not_checked("contract", "the requests hold no features")
    before, during = case.breaches.loc[case.before.index], case.breaches.loc[case.during.index]
    if few := too_few(case, before, during, "requests"):
        return not_checked("contract", few)
    rise = during.mean() - before.mean()
    worst = str(rise.idxmax())
    p_value = share_p_value(before[worst], during[worst])
    broken = rise[worst] >= case.criteria.broken_share and p_value < case.criteria.alpha
    unknown = "" if len(case.recording.reference) else "; ranges not known, as there are no reference rows"
    unknown += "" if case.requests["actual"].notna().any() else "; repeats not judged, as there are no known actuals"
    return Evidence(
        name="contract",
        finding="broken" if broken else "kept",
        summary=f"largest rise: {worst} ({BREACHES[worst]}), from {before[worst].mean():.1%} to "
        f"{during[worst].mean():.1%} of rows{unknown}"
        if rise[worst] > 0
        else f"no promise is broken more often than before{unknown}",
        effect=float(rise[worst]),
        unit="change of share",
        p_value=p_value,
        onset=onset_in(by_time(case.breaches[worst], pd.DatetimeIndex(case.requests["time"])), case)
        if broken
        else None,
    )


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
        return not_checked("inputs_and_actuals", "too few requests with inputs and known actuals on each side")
    inputs, actual = moved.drop(index="actual"), moved.loc["actual"].to_dict()
    finding = _what_moved(inputs, actual, case.criteria)
    return Evidence(
        name="inputs_and_actuals",
        finding=finding,
        summary=f"spread of the inputs × {inputs['spread_ratio'].median():.2f} (median of {len(inputs)}; "
        f"from {inputs['spread_ratio'].min():.2f} to {inputs['spread_ratio'].max():.2f}), "
        f"of the actuals × {actual['spread_ratio']:.2f}; means moved by up to {inputs['mean_shift'].abs().max():.2f} "
        f"and {abs(actual['mean_shift']):.2f} standard deviations",
        effect=float(actual["spread_ratio"]),
        unit="× spread of the actuals",
        p_value=float(actual["spread_p"]),
        onset=onset_in(actual_size(case.requests), case),
    )


def movement(case: Case) -> pd.DataFrame | None:
    """Return `drift_table` from before to during for every input and `actual`, and what moved.

    Added are the columns `size_ratio`, `shifted` and `moved`.

    The size is the mean absolute value. For returns it changes as the spread does. A rolling volatility, which never is
    negative, has the size of the actuals' spread, while its own spread and mean move far more when the market changes;
    so such an input is never called shifted.

    Moved means: the spread changed by `spread_factor`, or the mean by one standard deviation, and not by chance
    (Brown–Forsythe and Kolmogorov–Smirnov, `alpha` divided by the number of rows of the table: Bonferroni).
    None when either side has too few rows with inputs and actuals.
    """
    sides = [_inputs_with_actual(case, side) for side in (case.before, case.during)]
    if min(len(side) for side in sides) < case.criteria.least_rows or len(sides[0].columns) < 2:
        return None
    table = drift_table(*sides)
    alpha = case.criteria.alpha / len(table)
    spread = (_times(table["spread_ratio"]) >= case.criteria.spread_factor) & (table["spread_p"] < alpha)
    mean = (table["mean_shift"].abs() >= 1) & (table["ks_p"] < alpha)
    before, during = (side[table.index] for side in sides)
    with_sign = before.lt(0).any() & before.gt(0).any()
    return table.assign(
        size_ratio=during.abs().mean() / before.abs().mean(), shifted=mean & with_sign, moved=spread | mean
    )


def actuals(case: Case) -> Evidence:
    """Answer whether the actuals began to swing back, each undone by the next: `reverting` or `not reverting`.

    A wrong price makes two wrong returns, one up and one down. So noise or spikes in the prices that the actuals are
    made of push their lag-1 autocorrelation towards −0.5, where a market's is near 0. It counts from `reverting` below
    0 on, if it did not before, and not by chance: that of n independent values has a variance of 1/n (Bartlett, 1946).
    """
    before, during = (actuals_by_period(side) for side in (case.before, case.during))
    if few := too_few(case, before, during, "known actuals"):
        return not_checked("actuals", few)
    if before.nunique() < 2 or during.nunique() < 2:
        return not_checked("actuals", "the actuals never vary")
    was, since = before.autocorr(), during.autocorr()
    p_value = float(stats.norm.cdf(since * np.sqrt(len(during))))
    reverting = since <= -case.criteria.reverting < was and p_value < case.criteria.alpha
    return Evidence(
        name="actuals",
        finding="reverting" if reverting else "not reverting",
        summary=f"correlation of each actual with the one before it {was:.2f} before and {since:.2f} since",
        effect=since,
        unit="lag-1 autocorrelation",
        p_value=p_value,
    )


def _inputs_with_actual(case: Case, side: pd.DataFrame) -> pd.DataFrame:
    table = case.recording.features(side).assign(actual=side["actual"].to_numpy())
    return table.replace([np.inf, -np.inf], np.nan).dropna()


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
