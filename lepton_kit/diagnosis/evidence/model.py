"""Evidence of the model: what it promised, what another version makes of the same rows, what was deployed."""

from __future__ import annotations

import pandas as pd

from lepton_kit.diagnosis.case import Case, Criteria, by_time, misses
from lepton_kit.diagnosis.evidence.base import (
    Evidence,
    honest_p_value,
    not_checked,
    onset_in,
    share_p_value,
    too_few,
)
from lepton_kit.models.evaluation import covered


def coverage(case: Case) -> Evidence:
    """Answer whether the interval holds the actuals less often than the objective: `fell`, `held` or `unclear`.

    `held` does not speak for the model: an interval that became far too wide holds everything.
    """
    before, during = misses(case.before), misses(case.during)
    if few := too_few(case, before, during, "judged requests"):
        return not_checked("coverage", few)
    p_value = honest_p_value(case, "interval misses", share_p_value(before, during))
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
        onset=onset_in(misses(case.requests), case),
    )


def replay_of_last_good(case: Case) -> Evidence:
    """Answer the decisive question: whether the last good version would have done better on the same rows.

    `last good better` (outputs differ, and it would have met the objective), `fail alike`, `fail differently`,
    `agree` or `differ` (while the objective is met), or `unclear`. Rows that break the contract are left out: no
    model was made for them.
    """
    if case.unreplayed:
        return not_checked("replay_of_last_good", "; ".join(dict.fromkeys(case.unreplayed.values())))
    judged = case.during.index.intersection(case.replayed["current"].index)
    actual = case.requests.loc[judged, "actual"].dropna()
    if len(actual) < case.criteria.least_rows:
        return not_checked("replay_of_last_good", f"{len(actual)} requests with whole inputs and a known actual")
    current, last_good = (case.replayed[role].loc[actual.index] for role in ("current", "last_good"))
    held = _held(actual, current), _held(actual, last_good)
    difference = output_difference(current, last_good)
    finding = _replay_finding(*held, difference, case.criteria)
    return Evidence(
        name="replay_of_last_good",
        finding=finding,
        summary=f"on the same {len(actual)} rows the current version holds {held[0]:.1%} of actuals and the last "
        f"good one {held[1]:.1%}; their bounds differ by {difference:.2f} interval widths",
        effect=difference,
        unit="interval widths",
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
        return not_checked("served_version", case.unreplayed["current"])
    own = case.requests[case.requests["version"] == case.recording.incident.versions.current]
    answered = own.dropna(subset=["lower", "upper"]).index.intersection(case.replayed["current"].index)
    if len(answered) < case.criteria.least_rows:
        return not_checked("served_version", f"{len(answered)} answered requests of the current version")
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
        onset=onset_in(by_time(apart, pd.DatetimeIndex(case.requests.loc[answered, "time"])), case)
        if differs
        else None,
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
        return not_checked("deployment", "the recording lists no deployments")
    latest = min(case.onset + dated_early(case), pd.Timestamp(window.end))
    inside = [item for item in known if window.start <= item.time <= latest]
    last = max(inside or known, key=lambda item: item.time)
    ago = case.onset - pd.Timestamp(last.time)
    amount, unit = in_its_unit(ago)
    side = "before" if amount >= 0 else "after"
    return Evidence(
        name="deployment",
        finding="deployed" if inside else "no deployment",
        summary=f"{len(inside)} within the window; the last, {last.version}, {abs(amount):.0f} {unit} {side} the onset",
        effect=amount,
        unit=f"{unit} before the onset",
        onset=pd.Timestamp(last.time) if inside else None,
    )


EARLY_ROWS, EARLIEST, LONGEST_EARLY = 20, pd.Timedelta(seconds=10), pd.Timedelta(days=4)
"""By so many requests, but at least and at most so long, a change point may lie before what brought it: of a service
asked in every second, some seconds; of one asked daily, two requests over a weekend."""


def dated_early(case: Case) -> pd.Timedelta:
    """Return how long after the onset a deployment may still have brought it."""
    rows = case.during["time"].head(EARLY_ROWS + 1)
    passed = rows.iloc[-1] - case.onset if len(rows) else EARLIEST
    return min(max(passed, EARLIEST), LONGEST_EARLY)


def in_its_unit(span: pd.Timedelta) -> tuple[float, str]:
    """Return a span as a number and the largest unit of which it has at least two: days, hours, minutes or s.

    >>> in_its_unit(pd.Timedelta(minutes=-90))
    (-90.0, 'minutes')
    """
    seconds = span.total_seconds()
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if abs(seconds) >= 2 * length:
            return seconds / length, unit
    return seconds, "s"


def _held(actual: pd.Series, answers: pd.DataFrame) -> float:
    return float(covered(answers, actual).mean())


def _replay_finding(current: float, last_good: float, difference: float, criteria: Criteria) -> str:
    objective, different = criteria.coverage_objective, difference >= criteria.output_difference
    if current >= objective:
        return "differ" if different else "agree"
    if last_good < objective:
        return "fail differently" if different else "fail alike"
    return "last good better" if different else "unclear"
