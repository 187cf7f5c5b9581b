"""Evidence of the rows: what they promise, one promise at a time, and what the service itself counted of them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lepton_kit.diagnosis.case import BREACHES, OUT_OF_ORDER, Case, by_time
from lepton_kit.diagnosis.evidence.base import Evidence, not_checked, onset_in, share_p_value, too_few
from lepton_kit.diagnosis.evidence.samples import gauge, growth
from lepton_kit.diagnosis.relations import asked_anew


def contract(case: Case) -> Evidence:
    """Answer whether more inputs than before break their contract: `broken` or `kept`."""
    before, during = case.breaches.loc[case.before.index], case.breaches.loc[case.during.index]
    if few := _no_inputs(case) or too_few(case, before, during, "requests") or case.unreadable:
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


def _no_inputs(case: Case) -> str:
    return "the requests hold no features" if case.inputs.columns.empty and case.categories.columns.empty else ""


# --- one promise at a time --------------------------------------------------------------------------------------------


def missing_values(case: Case) -> Evidence:
    """Answer whether more rows than before lack a value: `more` or `no more`."""
    return _breach(case, "missing_values", "missing")


def stale_values(case: Case) -> Evidence:
    """Answer whether more rows than before repeat the last ones though new ones were due: `more` or `no more`."""
    return _breach(case, "stale_values", "stale")


def duplicated_requests(case: Case) -> Evidence:
    """Answer whether more requests than before were answered already: `more` or `no more`."""
    return _breach(case, "duplicated_requests", "duplicated")


def _breach(case: Case, name: str, breach: str) -> Evidence:
    before, during = case.breaches.loc[case.before.index, breach], case.breaches.loc[case.during.index, breach]
    unreadable = case.unreadable if breach == "missing" else ""
    if few := _no_inputs(case) or too_few(case, before, during, "requests") or unreadable:
        return not_checked(name, few)
    if breach == "stale" and not case.requests["actual"].notna().any():
        return not_checked(name, "no actual is known, which would tell when new values were due")
    rise, p_value = float(during.mean() - before.mean()), share_p_value(before, during)
    more = rise >= case.criteria.broken_share and p_value < case.criteria.alpha
    return Evidence(
        name=name,
        finding="more" if more else "no more",
        summary=f"{BREACHES[breach]}: {before.mean():.1%} of rows before and {during.mean():.1%} since",
        effect=rise,
        unit="change of share",
        p_value=p_value,
        onset=onset_in(by_time(case.breaches[breach], pd.DatetimeIndex(case.requests["time"])), case) if more else None,
    )


UNITS = (10.0, 60.0, 100.0, 1000.0, 3600.0, 10_000.0, 1e6)
"""Factors between two units that are taken for one another: percent and shares, minutes and hours, thousandths."""

NEAR = 2.0
"""A change of the size by a factor between this many times less and more than one of `UNITS` is taken for that."""


def unit_factor(before: pd.Series, during: pd.Series) -> float | None:
    """Return the factor between two units by which the size of a feature changed; None where it changed by none.

    All three quartiles of the absolute values must have changed by about that factor: a market moves them by far less
    than any of `UNITS`, and a feed that is stuck has but one value.

    >>> returns = pd.Series([0.01, -0.02, 0.015, -0.01])
    >>> unit_factor(returns, 100 * returns), unit_factor(returns, 3 * returns), unit_factor(returns, returns / 1000)
    (100.0, None, 0.001)
    """
    was, since = (side.abs().replace([0, np.inf], np.nan).quantile([0.25, 0.5, 0.75]) for side in (before, during))
    change = np.log((since / was).to_numpy())
    if not np.isfinite(change).all():
        return None
    nearest = min(UNITS, key=lambda unit: abs(abs(change[1]) - np.log(unit)))
    if (np.abs(np.abs(change) - np.log(nearest)) > np.log(NEAR)).any():
        return None
    return nearest if change[1] > 0 else 1 / nearest


def _unit_factors(before: pd.DataFrame, since: pd.DataFrame) -> dict[str, float]:
    found = {str(name): unit_factor(before[name], since[name]) for name in since}
    return {name: factor for name, factor in found.items() if factor is not None}


def units(case: Case) -> Evidence:
    """Answer whether features came in another unit, and by which factor: `another unit` or `same unit`.

    All rows are compared, and by themselves those beyond the training rows' range, as only some may be at fault.
    """
    before, during = (asked_anew(case.inputs.loc[side.index]) for side in (case.before, case.during))
    if few := _no_inputs(case) or too_few(case, before, during, "rows of inputs that are not asked again"):
        return not_checked("units", few)
    beyond = during[case.breaches.loc[during.index, "out_of_range"]]
    factors, odd = _unit_factors(before, during), during
    if not factors and len(beyond) >= case.criteria.broken_share * len(during):
        factors, odd = _unit_factors(before, beyond), beyond
    listed = ", ".join(f"{name} × {factor:g}" for name, factor in list(factors.items())[:5])
    return Evidence(
        name="units",
        finding="another unit" if factors else "same unit",
        summary=f"{len(factors)} of {during.shape[1]} features changed by a factor between units"
        + (f": {listed} (in {len(odd)} of {len(during)} rows)" if factors else ""),
        effect=float(max(factors.values(), key=lambda factor: abs(np.log(factor)))) if factors else 1.0,
        unit="×",
    )


def relations(case: Case) -> Evidence:
    """Answer whether rows still follow on each other as they always did: `broken` or `kept`.

    What always agrees between a row and the one before it is read from the recording's first rows (`following`). No
    market breaks it, but a feed does that is stale, swaps columns, counts in another unit, or whose actuals are wrong.
    """
    kept = case.following
    if kept.empty:
        return not_checked("relations", "no value agrees with one of the row before it")
    before, during = kept[kept.index.isin(case.before.index)], kept[kept.index.isin(case.during.index)]
    if few := too_few(case, before, during, "requests that are not asked again"):
        return not_checked("relations", few)
    held_before, held, p_value = float(before.mean()), float(during.mean()), share_p_value(~before, ~during)
    broken = held <= held_before - OUT_OF_ORDER and p_value < case.criteria.alpha
    time = pd.DatetimeIndex(case.requests.loc[kept.index, "time"])
    return Evidence(
        name="relations",
        finding="broken" if broken else "kept",
        summary=f"{held_before:.0%} of the rows before and {held:.0%} since follow on another one, in all values that "
        "agreed at first",
        effect=held - held_before,
        unit="change of share",
        p_value=p_value,
        onset=onset_in(by_time(~kept, time), case) if broken else None,
    )


# --- what the service itself counted of its inputs --------------------------------------------------------------------


def freshness(case: Case) -> Evidence:
    """Answer whether the newest data grew old: `stale` or `fresh`.

    The age is the time of a scrape less that of the newest data behind any request (`as_of`).
    """
    newest = gauge(case.samples.get("lepton_newest_data_timestamp_seconds"))
    newest = newest[newest > 0]
    if newest.empty:
        return not_checked("freshness", "no request told the time of its newest data")
    ages = data_age(newest)
    before, during = ages[ages.index < case.onset], ages[ages.index >= case.onset]
    if min(len(before), len(during)) < FEWEST_SCRAPES:
        return not_checked("freshness", f"{len(before)} scrapes before the onset and {len(during)} since")
    stopped = stands_still(newest[newest.index >= case.onset])
    return Evidence(
        name="freshness",
        finding="stale" if stopped >= STANDING else "fresh",
        summary=f"the newest data were {before.median():.3g} s old before, {during.median():.3g} s since, and stood "
        f"still in {stopped:.0%} of the scrapes since",
        effect=stopped,
        unit="share of scrapes",
        onset=onset_in(ages, case) if stopped >= STANDING else None,
    )


FEWEST_SCRAPES, STANDING = 5, 0.5


def data_age(newest: pd.Series) -> pd.Series:
    """Return how old the newest data were at each scrape, s.

    >>> time = pd.to_datetime([100, 110, 120], unit="s", utc=True)
    >>> data_age(pd.Series([99.0, 109.0, 109.0], time)).tolist()
    [1.0, 1.0, 11.0]
    """
    return pd.Series(_seconds(newest.index) - newest.to_numpy(float), index=newest.index)


def stands_still(newest: pd.Series) -> float:
    """Return the share of scrapes at which the time of the newest data was what it was at the scrape before.

    >>> stands_still(pd.Series([1.0, 2.0, 2.0, 2.0]))
    0.6666666666666666
    """
    return float(newest.diff().iloc[1:].eq(0).mean()) if len(newest) > 1 else 0.0


def _seconds(times: pd.Index) -> np.ndarray:
    return pd.DatetimeIndex(times).as_unit("us").asi8 / 1e6


def input_problems(case: Case) -> Evidence:
    """Answer which values the service counted more of in a row: `missing`, `unseen`, `out of range`, or `no more`.

    Its range is that of its model's scaler: rows of another unit leave it, and so do sound ones where the scaler is
    wrong.
    """
    counted, rows = case.samples.get("lepton_input_problems_total"), case.samples.get("lepton_input_rows_total")
    if counted is None or rows is None:
        return not_checked("input_problems", "the service's count of its inputs was not recorded")
    asked = growth(rows)
    rates = {problem: _rates(growth(counted, problem=problem), asked, case) for problem in COUNTED_PROBLEMS}
    worst = max(rates, key=lambda problem: rates[problem][1] - rates[problem][0])
    was, since = rates[worst]
    return Evidence(
        name="input_problems",
        finding=worst.replace("_", " ") if since - was >= case.criteria.broken_share else "no more",
        summary=f"largest rise: {worst.replace('_', ' ')}, from {was:.2g} to {since:.2g} values a row",
        effect=since - was,
        unit="values a row",
    )


COUNTED_PROBLEMS = ("missing", "unseen", "out_of_range")


def _rates(grown: pd.Series, asked: pd.Series, case: Case) -> tuple[float, float]:
    """Return how many values were counted for each row, before the onset and since."""
    grown, asked = grown.align(asked, join="right", fill_value=0.0)
    is_before = asked.index < case.onset
    return _per(grown[is_before], asked[is_before]), _per(grown[~is_before], asked[~is_before])


def _per(counted: pd.Series, rows: pd.Series) -> float:
    total = float(rows.sum())
    return float(counted.sum()) / total if total else 0.0
