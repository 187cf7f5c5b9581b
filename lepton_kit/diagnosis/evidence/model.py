"""Evidence of the model: what it promised, what another version makes of the same rows, what was deployed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from lepton_kit.diagnosis.case import Case, Criteria, by_time, is_finite, misses
from lepton_kit.diagnosis.evidence.base import (
    Evidence,
    honest_p_value,
    not_checked,
    onset_in,
    share_p_value,
    too_few,
)
from lepton_kit.models.tasks import covered, interval_score


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
    `agree`, `differ` or `differ as a stand-in` (while the objective is met), or `unclear`. Rows that break the contract
    are left out: no model was made for them.
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
    if finding == "differ" and case.recording.incident.versions.stands_in_for:
        finding = "differ as a stand-in"
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
    """Answer whether a version went into service up to the onset: `deployed`, `stand-in` or `no deployment`.

    Within the window, that is. One shortly after the onset (`dated_early`) counts too, as a change point may lie a few
    rows early. A `stand-in` was compressed from the version that answered before, to save time: what it answers differs
    on purpose, within the loss that let it stand in.
    """
    window = case.recording.incident.window
    if not case.recording.incident.deployments:
        return not_checked("deployment", "the recording lists no deployments")
    if not (known := case.deployments):
        return Evidence("deployment", "no deployment", "the service was first started within the window: no change")
    latest = min(case.onset + dated_early(case), pd.Timestamp(window.end))
    inside = [item for item in known if window.start <= item.time <= latest]
    last = max(inside or known, key=lambda item: item.time)
    ago = case.onset - pd.Timestamp(last.time)
    amount, unit = in_its_unit(ago)
    side = "before" if amount >= 0 else "after"
    return Evidence(
        name="deployment",
        finding="no deployment" if not inside else "stand-in" if _is_stand_in(case, last.version) else "deployed",
        summary=f"{len(inside)} within the window; the last, {last.version}, {abs(amount):.0f} {unit} {side} the onset",
        effect=amount,
        unit=f"{unit} before the onset",
        onset=pd.Timestamp(last.time) if inside else None,
    )


def _is_stand_in(case: Case, version: str) -> bool:
    """Tell whether a version is the one in service, and stands in for another."""
    versions = case.recording.incident.versions
    return version == versions.current and versions.stands_in_for is not None


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


def replay_score(case: Case) -> Evidence:
    """Answer which version scores better on the same rows: `last good better`, `current better` or `alike`.

    The interval score of each row is compared in pairs, with the answers that were served against those of the last
    good version. What counts is a mean difference of a tenth of the last good version's score, and that most rows agree
    (Wilcoxon's signed rank test).
    """
    if "last_good" not in case.replayed:
        return not_checked("replay_score", case.unreplayed["last_good"])
    scores = paired_scores(case, case.during)
    if len(scores) < case.criteria.least_rows:
        return not_checked("replay_score", f"{len(scores)} requests with whole inputs, an answer and a known actual")
    worse = float((scores["served"] - scores["last_good"]).mean() / scores["last_good"].mean())
    p_value = _paired_p_value(scores["served"] - scores["last_good"])
    counts = abs(worse) >= BETTER and p_value < case.criteria.alpha
    return Evidence(
        name="replay_score",
        finding="alike" if not counts else "last good better" if worse > 0 else "current better",
        summary=f"mean interval score on {len(scores)} rows: {scores['served'].mean():.4g} served, "
        f"{scores['last_good'].mean():.4g} by the last good version ({worse:+.0%})",
        effect=worse,
        unit="part of the score",
        p_value=p_value,
    )


BETTER = 0.1


def _paired_p_value(difference: pd.Series) -> float:
    return float(stats.wilcoxon(difference).pvalue) if difference.ne(0).any() else 1.0


def paired_scores(case: Case, side: pd.DataFrame) -> pd.DataFrame:
    """Return the interval scores of the answers that were served, and of the last good version's, of the same rows."""
    replayed = case.replayed["last_good"]
    rows = side.dropna(subset=["lower", "upper", "actual"]).index.intersection(replayed.index)
    actual = case.requests.loc[rows, "actual"]
    scores = {
        name: interval_score(answers.loc[rows, "lower"], answers.loc[rows, "upper"], actual)
        for name, answers in (("served", case.requests), ("last_good", replayed))
    }
    return pd.DataFrame(scores, index=rows)


@dataclass(frozen=True)
class Parts:
    """A rise of the mean loss, and the parts of it that the inputs, the relation and the model have; they add up."""

    rise: float
    inputs: float
    relation: float
    model: float


def decompose_error(before: pd.DataFrame, during: pd.DataFrame, odds: pd.Series) -> Parts:
    """Split the rise of an error into the shift of the inputs, of the relation, and the model.

    A yardstick model that did not change tells them apart (Cai, Namkoong and Yadlowsky, Diagnosing Model Performance
    Under Distribution Shift, 2023, in the form of Zhang, Singh, Ghassemi and Joshi, ICML 2023): what its error would
    have been on the old rows, weighted to look like the new ones, is due to the inputs; what it rose beyond that, to a
    relation that changed; and what the served answers rose beyond the yardstick, to the model.

    Parameters
    ----------
    before, during
        `served` and `last_good`, the loss of each row.
    odds
        Of each row of `before`, by its index, to be one of `during`, as `two_sample` gives them.

    Examples
    --------
    The served model became worse on rows where the yardstick did not:

    >>> before = pd.DataFrame({"served": [1.0, 1.0], "last_good": [1.0, 1.0]})
    >>> during = pd.DataFrame({"served": [3.0, 3.0], "last_good": [1.0, 1.0]})
    >>> decompose_error(before, during, pd.Series([1.0, 1.0]))
    Parts(rise=2.0, inputs=0.0, relation=0.0, model=2.0)
    """
    was, since = before.mean(), during.mean()
    weights = odds.reindex(before.index).fillna(1.0)
    reweighted = float((before["last_good"] * weights).sum() / weights.sum())
    rise, yardstick = since - was, float(since["last_good"] - was["last_good"])
    inputs = reweighted - float(was["last_good"])
    return Parts(float(rise["served"]), inputs, yardstick - inputs, float(rise["served"]) - yardstick)


def error_decomposition(case: Case) -> Evidence:
    """Answer what most of the rise of the error is due to: `inputs`, `relation`, `model`, or `no rise`.

    The error is the interval score; the yardstick is the last good version, replayed.
    """
    if "last_good" not in case.replayed:
        return not_checked("error_decomposition", case.unreplayed["last_good"])
    before, during = (paired_scores(case, side) for side in (case.before, case.during))
    if few := too_few(case, before, during, "judged requests"):
        return not_checked("error_decomposition", few)
    found = case.two_sample
    if isinstance(found, str):
        return not_checked("error_decomposition", found)
    parts = decompose_error(before, during, found.odds)
    share = parts.rise / float(before["served"].mean())
    p_value = float(stats.mannwhitneyu(before["served"], during["served"]).pvalue)
    largest = max(("inputs", "relation", "model"), key=lambda name: float(getattr(parts, name)))
    rose = share >= RISE and p_value < case.criteria.alpha
    return Evidence(
        name="error_decomposition",
        finding=largest if rose else "no rise",
        summary=f"mean interval score {share:+.0%}; of the rise {parts.inputs:+.2g} is due to the inputs, "
        f"{parts.relation:+.2g} to the relation and {parts.model:+.2g} to the model",
        effect=share,
        unit="part of the score before",
        p_value=p_value,
    )


RISE = 0.2


def outputs(case: Case) -> Evidence:
    """Answer whether answers are numbers and still vary: `not finite`, `collapsed` or `sound`.

    Collapsed answers hardly vary any more, while the inputs do.
    """
    whole = case.inputs.index[is_finite(case.inputs)]
    before, during = (side[side["status"].lt(400) & side.index.isin(whole)] for side in (case.before, case.during))
    if few := too_few(case, before, during, "answered requests"):
        return not_checked("outputs", few)
    empty = ~np.isfinite(during[ANSWER]).all(axis=1)
    rise = float(empty.mean() - (~np.isfinite(before[ANSWER]).all(axis=1)).mean())
    left = variation_left(before[ANSWER], during[ANSWER])
    inputs_left = variation_left(case.inputs.loc[before.index], case.inputs.loc[during.index])
    collapsed = left < COLLAPSED <= inputs_left
    return Evidence(
        name="outputs",
        finding="not finite" if rise >= case.criteria.broken_share else "collapsed" if collapsed else "sound",
        summary=f"{empty.mean():.1%} of the answers since the onset are no numbers; the rest vary {left:.2g} times as "
        "much as before",
        effect=rise if rise > 0 else left,
        unit="change of share" if rise > 0 else "×",
        onset=onset_in(by_time(~np.isfinite(case.requests["mean"]), pd.DatetimeIndex(case.requests["time"])), case)
        if rise >= case.criteria.broken_share
        else None,
    )


ANSWER = ["mean", "lower", "upper"]
COLLAPSED = 0.05


def variation_left(before: pd.DataFrame, during: pd.DataFrame) -> float:
    """Return how much of the variation of its columns is left, in the column that kept most; 1 where none varied.

    >>> variation_left(pd.DataFrame({"mean": [1.0, 2.0, 3.0]}), pd.DataFrame({"mean": [2.0, 2.0, 2.0]}))
    0.0
    """
    was, since = (side.replace([np.inf, -np.inf], np.nan).std() for side in (before, during))
    left = (since / was.where(was > 0)).dropna()
    return float(left.max()) if len(left) else 1.0


def model_errors(case: Case) -> Evidence:
    """Answer whether the model itself failed more requests (status 500): `grew` or `steady`.

    The service answers 500 where its model raised an error or gave no number.
    """
    before, during = (side["status"].eq(500) for side in (case.before, case.during))
    if few := too_few(case, before, during, "requests"):
        return not_checked("model_errors", few)
    rise, p_value = float(during.mean() - before.mean()), share_p_value(before, during)
    grew = rise >= case.criteria.error_share and p_value < case.criteria.alpha
    series = by_time(case.requests["status"].eq(500), pd.DatetimeIndex(case.requests["time"]))
    return Evidence(
        name="model_errors",
        finding="grew" if grew else "steady",
        summary=f"the model failed {before.mean():.1%} of requests before and {during.mean():.1%} since",
        effect=rise,
        unit="change of share",
        p_value=p_value,
        onset=onset_in(series, case) if grew else None,
    )


def checksums(case: Case) -> Evidence:
    """Answer whether the files of the version in service are those that were registered: `hold` or `do not hold`.

    `lepton capture` compares them when it copies them.
    """
    current = case.recording.incident.versions.current
    hold = case.recording.incident.checksums.get(current)
    if hold is None:
        return not_checked("checksums", "nothing notes whether the checksums of the version in service hold")
    return Evidence(
        name="checksums",
        finding="hold" if hold else "do not hold",
        summary=f"the files of {current} {'have' if hold else 'do not have'} the checksums that the registry keeps",
    )


def answering_version(case: Case) -> Evidence:
    """Answer whether another version than before answers since the onset: `changed`, `stand-in` or `the same`.

    A `stand-in` is the compressed form of the version that answered before.
    """
    before, during = (side.loc[side["status"].lt(400), "version"] for side in (case.before, case.during))
    if few := too_few(case, before, during, "answered requests"):
        return not_checked("answering_version", few)
    usual = str(before.mode().iloc[0])
    was, since = float(before.ne(usual).mean()), float(during.ne(usual).mean())
    changed = since - was >= case.criteria.broken_share
    others = set(during[during.ne(usual)])
    stands_in = usual == case.recording.incident.versions.stands_in_for and all(
        _is_stand_in(case, version) for version in others
    )
    return Evidence(
        name="answering_version",
        finding="the same" if not changed else "stand-in" if stands_in else "changed",
        summary=f"{since:.1%} of the answers since the onset are of another version than {usual}, before {was:.1%}",
        effect=since - was,
        unit="change of share",
        onset=onset_in(by_time(case.requests["version"].ne(usual), pd.DatetimeIndex(case.requests["time"])), case)
        if changed
        else None,
    )
