"""Evidence: what a recording shows, one small pure function for each question.

Each function in `QUESTIONS` looks at one thing and answers with a finding from a short list, an effect size with its
unit, and the causes that this finding speaks for and against. A question that cannot be answered says why, and its
finding is `not checked`. Nothing here decides; `lepton_kit.diagnosis.causes` does.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from lepton_kit.data.drift import change_point, drift_table
from lepton_kit.diagnosis.case import (
    BREACHES,
    Case,
    Criteria,
    actual_size,
    actuals_by_period,
    by_time,
    failed,
    log_latency,
    misses,
    onset_of,
    onset_table,
)
from lepton_kit.models.evaluation import covered

Cause = Literal["data", "model", "compute", "none", "unknown"]
NOT_CHECKED = "not checked"


@dataclass(frozen=True)
class Evidence:
    """One answered question: what was found, how large, since when, and the causes it speaks for and against."""

    name: str
    finding: str
    summary: str
    effect: float = float("nan")
    unit: str = ""
    p_value: float | None = None
    onset: pd.Timestamp | None = None
    speaks_for: frozenset[Cause] = frozenset()
    speaks_against: frozenset[Cause] = frozenset()
    checked: bool = True


# --- the questions ------------------------------------------------------------------------------------------------


def coverage(case: Case) -> Evidence:
    """Answer whether the interval holds the actuals less often than the objective: `fell`, `held` or `unclear`.

    `held` does not speak for the model: an interval that became far too wide holds everything.
    """
    before, during = misses(case.before), misses(case.during)
    if few := _too_few(case, before, during, "judged requests"):
        return _not_checked("coverage", few)
    p_value = _honest_p_value(case, "interval misses", _share_p_value(before, during))
    held_before, held = 1 - before.mean(), 1 - during.mean()
    objective = case.criteria.coverage_objective
    finding = "held" if held >= objective else "fell" if p_value < case.criteria.alpha else "unclear"
    return Evidence(
        name="coverage",
        finding=finding,
        summary=f"interval held {held_before:.1%} of actuals before and {held:.1%} since; objective {objective:.0%}",
        effect=held - held_before,
        unit="change of share",
        p_value=p_value,
        onset=_onset(misses(case.requests), case),
        speaks_for=frozenset(("data", "model", "none") if finding == "fell" else ()),
        speaks_against=frozenset({"compute"} if finding == "fell" else ()),
    )


def contract(case: Case) -> Evidence:
    """Answer whether more inputs than before break their contract: `broken` or `kept`."""
    if not len(case.recording.features(case.requests).columns):
        return _not_checked("contract", "the requests hold no features")
    before, during = case.breaches.loc[case.before.index], case.breaches.loc[case.during.index]
    if few := _too_few(case, before, during, "requests"):
        return _not_checked("contract", few)
    rise = during.mean() - before.mean()
    worst = str(rise.idxmax())
    p_value = _share_p_value(before[worst], during[worst])
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
        onset=_onset(by_time(case.breaches[worst], pd.DatetimeIndex(case.requests["time"])), case) if broken else None,
        speaks_for=frozenset({"data"} if broken else ()),
        speaks_against=frozenset({"none"} if broken else {"data"}),
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
        return _not_checked("inputs_and_actuals", "too few requests with inputs and known actuals on each side")
    inputs, actual = moved.drop(index="actual"), moved.loc["actual"].to_dict()
    finding = _what_moved(inputs, actual, case.criteria)
    speaks: dict[str, tuple[set[Cause], set[Cause]]] = {
        "together": ({"none"}, {"data"}),
        "inputs alone": ({"data"}, {"none"}),
        "actuals alone": (set(), {"compute"}),
        "unmoved": ({"model", "compute"}, set()),
        "unclear": (set(), set()),
    }
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
        onset=_onset(actual_size(case.requests), case),
        speaks_for=frozenset(speaks[finding][0]),
        speaks_against=frozenset(speaks[finding][1]),
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
    if few := _too_few(case, before, during, "known actuals"):
        return _not_checked("actuals", few)
    if before.nunique() < 2 or during.nunique() < 2:
        return _not_checked("actuals", "the actuals never vary")
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
        speaks_for=frozenset({"data"} if reverting else ()),
        speaks_against=frozenset({"none"} if reverting else ()),
    )


def replay_of_last_good(case: Case) -> Evidence:
    """Answer the decisive question: whether the last good version would have done better on the same rows.

    `last good better` (outputs differ, and it would have met the objective), `fail alike`, `fail differently`,
    `agree` or `differ` (while the objective is met), or `unclear`. Rows that break the contract are left out: no
    model was made for them.
    """
    if case.unreplayed:
        return _not_checked("replay_of_last_good", "; ".join(dict.fromkeys(case.unreplayed.values())))
    judged = case.during.index.intersection(case.replayed["current"].index)
    actual = case.requests.loc[judged, "actual"].dropna()
    if len(actual) < case.criteria.least_rows:
        return _not_checked("replay_of_last_good", f"{len(actual)} requests with whole inputs and a known actual")
    current, last_good = (case.replayed[role].loc[actual.index] for role in ("current", "last_good"))
    held = _held(actual, current), _held(actual, last_good)
    difference = output_difference(current, last_good)
    finding = _replay_finding(*held, difference, case.criteria)
    speaks: dict[str, tuple[set[Cause], set[Cause]]] = {
        "last good better": ({"model"}, {"none", "data", "compute"}),
        "fail alike": ({"data", "none"}, {"model"}),
        "agree": (set(), {"model"}),
    }
    for_causes, against_causes = speaks.get(finding, (set(), set()))
    return Evidence(
        name="replay_of_last_good",
        finding=finding,
        summary=f"on the same {len(actual)} rows the current version holds {held[0]:.1%} of actuals and the last "
        f"good one {held[1]:.1%}; their bounds differ by {difference:.2f} interval widths",
        effect=difference,
        unit="interval widths",
        speaks_for=frozenset(for_causes),
        speaks_against=frozenset(against_causes),
    )


def output_difference(current: pd.DataFrame, last_good: pd.DataFrame) -> float:
    """Return the mean distance of two versions' interval bounds, in mean widths of the second one's interval.

    >>> one = pd.DataFrame({"lower": [-1.0], "upper": [1.0]})
    >>> output_difference(2 * one, one)
    0.5
    """
    bounds = ["lower", "upper"]
    width = float((last_good["upper"] - last_good["lower"]).mean())
    return float((current[bounds] - last_good[bounds]).abs().to_numpy().mean()) / width


def served_version(case: Case) -> Evidence:
    """Answer whether the service answered as the files of its version do: `matches` or `differs`."""
    if "current" not in case.replayed:
        return _not_checked("served_version", case.unreplayed["current"])
    own = case.requests[case.requests["version"] == case.recording.incident.versions.current]
    answered = own.dropna(subset=["lower", "upper"]).index.intersection(case.replayed["current"].index)
    if len(answered) < case.criteria.least_rows:
        return _not_checked("served_version", f"{len(answered)} answered requests of the current version")
    bounds = ["lower", "upper"]
    replayed, recorded = case.replayed["current"].loc[answered, bounds], case.requests.loc[answered, bounds]
    width = float((replayed["upper"] - replayed["lower"]).mean())
    apart = (recorded - replayed).abs().max(axis=1) / width > SAME_ANSWER
    differs = bool(apart.mean() >= case.criteria.broken_share)
    return Evidence(
        name="served_version",
        finding="differs" if differs else "matches",
        summary=f"{apart.mean():.1%} of {len(answered)} recorded answers are not what the version's files give",
        effect=float(apart.mean()),
        unit="share of answers",
        onset=_onset(by_time(apart, pd.DatetimeIndex(case.requests.loc[answered, "time"])), case) if differs else None,
        speaks_for=frozenset({"model"} if differs else ()),
        speaks_against=frozenset({"none"} if differs else ()),
    )


SAME_ANSWER = 1e-3
"""Bounds closer than this many interval widths are the same answer, computed on another processor."""


def deployment(case: Case) -> Evidence:
    """Answer whether a version went into service within the window, up to the onset: `deployed` or `no deployment`.

    One shortly after the onset (`dated_early`) counts too, as a change point may lie a few rows early.
    """
    window = case.recording.incident.window
    known = case.recording.incident.deployments
    if not known:
        return _not_checked("deployment", "the recording lists no deployments")
    latest = min(case.onset + dated_early(case), pd.Timestamp(window.end))
    inside = [item for item in known if window.start <= item.time <= latest]
    last = max(inside or known, key=lambda item: item.time)
    ago = case.onset - pd.Timestamp(last.time)
    amount, unit = _in_its_unit(ago)
    side = "before" if amount >= 0 else "after"
    return Evidence(
        name="deployment",
        finding="deployed" if inside else "no deployment",
        summary=f"{len(inside)} within the window; the last, {last.version}, {abs(amount):.0f} {unit} {side} the onset",
        effect=amount,
        unit=f"{unit} before the onset",
        onset=pd.Timestamp(last.time) if inside else None,
        speaks_for=frozenset({"model"} if inside else ()),
        speaks_against=frozenset(() if inside else {"model"}),
    )


EARLY_ROWS, EARLIEST, LONGEST_EARLY = 20, pd.Timedelta(seconds=10), pd.Timedelta(days=4)
"""By so many requests, but at least and at most so long, a change point may lie before what brought it: of a service
asked in every second, some seconds; of one asked daily, two requests over a weekend."""


def dated_early(case: Case) -> pd.Timedelta:
    """Return how long after the onset a deployment may still have brought it."""
    rows = case.during["time"].head(EARLY_ROWS + 1)
    passed = rows.iloc[-1] - case.onset if len(rows) else EARLIEST
    return min(max(passed, EARLIEST), LONGEST_EARLY)


def _in_its_unit(span: pd.Timedelta) -> tuple[float, str]:
    """Return a span as a number and the largest unit of which it has at least two: days, hours, minutes or s.

    >>> _in_its_unit(pd.Timedelta(minutes=-90))
    (-90.0, 'minutes')
    """
    seconds = span.total_seconds()
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if abs(seconds) >= 2 * length:
            return seconds / length, unit
    return seconds, "s"


def latency(case: Case) -> Evidence:
    """Answer whether requests took longer: `grew` or `steady`.

    The median and the 95th percentile are compared, as a few slow requests move only the latter, and the larger ratio
    counts, if it leads to times that are felt (`unfelt_ms`). Slow requests come in bursts, so the percentile has grown
    only where most stretches of time since the onset hold more of them than stretches before it (`_stretches`). A
    change point of the latency that counts in `onset_table` is growth too, wherever it lies.
    """
    before, during = (np.exp(log_latency(side)).dropna() for side in (case.before, case.during))
    if few := _too_few(case, before, during, "measured latencies"):
        return _not_checked("latency", few)
    was, since = before.quantile([0.5, 0.95]), during.quantile([0.5, 0.95])
    tails = before > was[0.95], during > was[0.95]
    burst_p = float(stats.mannwhitneyu(*map(_stretches, tails)).pvalue)
    p_values = float(stats.mannwhitneyu(before, during).pvalue), max(_share_p_value(*tails), burst_p)
    growths = zip(since / was, p_values, strict=True)
    ratio, p_value = max(growths, key=lambda growth: (growth[1] < case.criteria.alpha, growth[0]))
    summary = (
        f"median latency {was[0.5]:.3g} ms before and {since[0.5]:.3g} ms since; "
        f"95th percentile {was[0.95]:.3g} ms and {since[0.95]:.3g} ms"
    )
    series = by_time(log_latency(case.requests), pd.DatetimeIndex(case.requests["time"]))
    p_value = _honest_p_value(case, "latency", p_value)
    grew = _grew(case, ratio, p_value) or _counts_by_itself(case, "latency")
    if grew and since[0.95] < case.criteria.unfelt_ms:
        summary, grew = f"{summary}: nobody waits for less than {case.criteria.unfelt_ms:g} ms", False
    return _compute_evidence("latency", case, summary, ratio, p_value, series, grew)


STRETCHES = 10


def _stretches(hits: pd.Series) -> np.ndarray:
    """Return the share of hits in each of `STRETCHES` equally long stretches of rows (batch means; Conway, 1963)."""
    return np.array([part.mean() for part in np.array_split(hits.to_numpy(), STRETCHES)])


COUNTED = ("_total", "_count", "_sum", "_bucket", "_created")
"""Endings of series that only ever grow: how many waited so far says nothing of how many wait."""


def queue(case: Case) -> Evidence:
    """Answer whether a queue grew, of all gauges with queue in their name: `grew` or `steady`."""
    metrics = case.recording.metrics
    named = metrics["metric"].str.contains("queue", case=False, regex=False)
    series = metrics[named & ~metrics["metric"].str.endswith(COUNTED)]
    if series.empty:
        return _not_checked("queue", "no metric with queue in its name was recorded")
    values = series.groupby("time")["value"].max()
    before, during = values[values.index < case.onset], values[values.index >= case.onset]
    if few := _too_few(case, before, during, "values of the queue"):
        return _not_checked("queue", few)
    # One waiting request more on either side, so that an empty queue has a ratio too.
    ratio = float((during.mean() + 1) / (before.mean() + 1))
    p_value = float(stats.mannwhitneyu(before, during).pvalue)
    summary = f"mean queue {before.mean():.3g} before and {during.mean():.3g} since"
    return _compute_evidence("queue", case, summary, ratio, p_value, values, _grew(case, ratio, p_value))


def errors(case: Case) -> Evidence:
    """Answer whether the service failed (status 500 and above) or refused (429) more requests: `grew` or `steady`.

    A change point of the errors that counts in `onset_table` is growth too, wherever it lies.
    """
    before, during = failed(case.before), failed(case.during)
    if few := _too_few(case, before, during, "requests"):
        return _not_checked("errors", few)
    rise = float(during.mean() - before.mean())
    p_value = _honest_p_value(case, "errors", _share_p_value(before, during))
    grew = rise >= case.criteria.error_share and p_value < case.criteria.alpha
    summary = f"{before.mean():.1%} of requests failed before and {during.mean():.1%} since"
    series = by_time(failed(case.requests), pd.DatetimeIndex(case.requests["time"]))
    grew = grew or _counts_by_itself(case, "errors")
    return _compute_evidence("errors", case, summary, rise, p_value, series, grew, unit="change of share")


QUESTIONS: tuple[Callable[[Case], Evidence], ...] = (
    coverage,
    contract,
    inputs_and_actuals,
    actuals,
    replay_of_last_good,
    served_version,
    deployment,
    latency,
    queue,
    errors,
)


def gather(case: Case) -> tuple[Evidence, ...]:
    """Ask every question of a case."""
    return tuple(question(case) for question in QUESTIONS)


# --- below the questions ------------------------------------------------------------------------------------------


def _not_checked(name: str, why: str) -> Evidence:
    return Evidence(name, NOT_CHECKED, why, checked=False)


def _too_few(case: Case, before: pd.Series | pd.DataFrame, during: pd.Series | pd.DataFrame, what: str) -> str:
    least = case.criteria.least_rows
    enough = len(before) >= least and len(during) >= least
    return (
        ""
        if enough
        else f"{len(before)} {what} before the onset and {len(during)} since; {least} are needed on each side"
    )


def _share_p_value(before: pd.Series, during: pd.Series) -> float:
    """Return Fisher's exact p-value of two shares."""
    table = [[int(side.sum()), int(len(side) - side.sum())] for side in (before, during)]
    return float(stats.fisher_exact(table).pvalue)


def _honest_p_value(case: Case, symptom: str, p_value: float) -> float:
    # Where the onset was chosen from this very series, a test of the split takes it as known, and is too sure.
    if case.onset_from != f"change point of {symptom}":
        return p_value
    table = onset_table(case)
    return float(table.loc[table["symptom"] == symptom, "p"].iloc[0])


def _counts_by_itself(case: Case, symptom: str) -> bool:
    table = onset_table(case)
    return bool(table.loc[table["symptom"] == symptom, "counts"].any())


def _onset(series: pd.Series, case: Case) -> pd.Timestamp | None:
    change = change_point(series)
    if change is None or change.p_value >= case.criteria.alpha:
        return None
    return onset_of(change)


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


def _held(actual: pd.Series, answers: pd.DataFrame) -> float:
    return float(covered(answers, actual).mean())


def _replay_finding(current: float, last_good: float, difference: float, criteria: Criteria) -> str:
    objective, different = criteria.coverage_objective, difference >= criteria.output_difference
    if current >= objective:
        return "differ" if different else "agree"
    if last_good < objective:
        return "fail differently" if different else "fail alike"
    return "last good better" if different else "unclear"


def _grew(case: Case, ratio: float, p_value: float) -> bool:
    return ratio >= case.criteria.slower_factor and p_value < case.criteria.alpha


def _compute_evidence(
    name: str,
    case: Case,
    summary: str,
    effect: float,
    p_value: float,
    series: pd.Series,
    grew: bool,
    unit: str = "×",
) -> Evidence:
    return Evidence(
        name=name,
        finding="grew" if grew else "steady",
        summary=summary,
        effect=effect,
        unit=unit,
        p_value=p_value,
        onset=_onset(series, case) if grew else None,
        speaks_for=frozenset({"compute"} if grew else ()),
        speaks_against=frozenset({"none"} if grew else {"compute"}),
    )
