"""Evidence of the model: what it promised, what another version makes of the same rows, what was deployed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy

from lepton_kit.diagnosis.case import Case
from lepton_kit.diagnosis.evidence.base import (
    Evidence,
    NotCheckedError,
    answer,
    compared,
    evidence,
    need_rows,
    onset_in,
    share_rose,
)
from lepton_kit.diagnosis.onset import by_time
from lepton_kit.diagnosis.rows import is_whole


def decompose_error(before: pd.DataFrame, during: pd.DataFrame, odds: pd.Series) -> dict[str, float]:
    """Split the rise of a mean loss into what the inputs, the relation and the model have of it; they add up.

    A reference model that did not change tells them apart (Cai, Namkoong and Yadlowsky, Diagnosing Model Performance
    Under Distribution Shift, 2023, in the form of Zhang, Singh, Ghassemi and Joshi, ICML 2023): what its error would
    have been on the old rows, weighted to look like the new ones, is due to the inputs; what it rose beyond that, to a
    relation that changed; and what the served answers rose beyond the reference, to the model.

    Parameters
    ----------
    before, during
        `served` and `last_good`, the loss of each row.
    odds
        Of each row of `before`, by its index, to be one of `during`, as `two_sample` gives them.

    Examples
    --------
    The served model became worse on rows where the reference did not:

    >>> before = pd.DataFrame({"served": [1.0, 1.0], "last_good": [1.0, 1.0]})
    >>> during = pd.DataFrame({"served": [3.0, 3.0], "last_good": [1.0, 1.0]})
    >>> decompose_error(before, during, pd.Series([1.0, 1.0]))
    {'inputs': 0.0, 'relation': 0.0, 'model': 2.0}
    """
    rise = during.mean() - before.mean()
    weights = odds.reindex(before.index).fillna(1.0)
    inputs = float((before["last_good"] * weights).sum() / weights.sum()) - float(before["last_good"].mean())
    reference, served = float(rise["last_good"]), float(rise["served"])
    return {"inputs": inputs, "relation": reference - inputs, "model": served - reference}


@evidence(needs=("task", "requests.features", "requests.target", "model.last_good"))
def error_decomposition(case: Case) -> Evidence:
    """Answer what most of the rise of the error is due to: `inputs`, `relation`, `model`, or `no rise`.

    The error is the task's loss; the reference is the last good version, replayed.
    """
    before, during = (paired_scores(case, side) for side in (case.before, case.during))
    need_rows(case, before, during, "judged requests")
    parts = decompose_error(before, during, compared(case).odds)
    share = sum(parts.values()) / max(float(before["served"].mean()), SMALLEST_LOSS)
    p_value = float(scipy.stats.mannwhitneyu(before["served"], during["served"]).pvalue)
    largest = max(parts, key=parts.__getitem__)
    rose = share >= RISE and p_value < case.criteria.alpha
    summary = (
        f"mean {case.task.loss_name} {share:+.0%}; of the rise {parts['inputs']:+.2g} is due to the inputs, "
        f"{parts['relation']:+.2g} to the relation and {parts['model']:+.2g} to the model"
    )
    return answer(largest if rose else "no rise", summary, share, "part of the score before", p_value)


RISE = 0.2


@evidence(needs=("task", "requests.target", "model.current", "model.last_good"))
def replay_of_last_good(case: Case) -> Evidence:
    """Answer the decisive question: whether the last good version would have done better on the same rows.

    `last good better` (outputs differ, and it would have kept the promise), `fail alike`, `fail differently`,
    `agree`, `differ` or `differ as a stand-in` (while the promise is kept), or `unclear`. Rows that break the contract
    are left out: no model was made for them.
    """
    judged = case.during.index.intersection(case.replayed["current"].index)
    actual = case.requests.loc[judged, "actual"].dropna()
    if len(actual) < case.criteria.least_rows:
        raise NotCheckedError(f"{len(actual)} requests with whole inputs and a known actual")
    current, last_good = (case.replayed[role].loc[actual.index] for role in ("current", "last_good"))
    held = tuple(float(case.task.hit(answers, actual).mean()) for answers in (current, last_good))
    difference = float(case.task.distance(current, last_good).mean())
    finding = _replay_finding(held[0], held[1], difference, case)
    if finding == "differ" and case.recording.incident.versions.stands_in_for:
        finding = "differ as a stand-in"
    summary = (
        f"on the same {len(actual)} rows {held[0]:.1%} of the current version's answers and {held[1]:.1%} of the last "
        f"good one's are {case.task.promise}; they differ by {difference:.2f} {case.task.unit}"
    )
    return answer(finding, summary, difference, case.task.unit)


def _replay_finding(current: float, last_good: float, difference: float, case: Case) -> str:
    least, limit = case.promised, case.criteria.output_difference
    different = difference >= (case.task.different if limit is None else limit)
    if current >= least:
        return "differ" if different else "agree"
    if last_good < least:
        return "fail differently" if different else "fail alike"
    return "last good better" if different else "unclear"


@evidence(needs=("task", "requests.target", "model.last_good"))
def replay_score(case: Case) -> Evidence:
    """Answer which version scores better on the same rows: `last good better`, `current better` or `alike`.

    The task's loss of each row is compared in pairs, with the answers that were served against those of the last
    good version. What counts is a mean difference of a tenth of the last good version's loss, and that most rows agree
    (Wilcoxon's signed rank test).
    """
    scores = paired_scores(case, case.during)
    if len(scores) < case.criteria.least_rows:
        raise NotCheckedError(f"{len(scores)} requests with whole inputs, an answer and a known actual")
    difference = scores["served"] - scores["last_good"]
    worse = float(difference.mean() / max(scores["last_good"].mean(), SMALLEST_LOSS))
    p_value = float(scipy.stats.wilcoxon(difference).pvalue) if difference.ne(0).any() else 1.0
    counts = abs(worse) >= BETTER and p_value < case.criteria.alpha
    finding = "alike" if not counts else "last good better" if worse > 0 else "current better"
    summary = (
        f"mean {case.task.loss_name} on {len(scores)} rows: {scores['served'].mean():.4g} served, "
        f"{scores['last_good'].mean():.4g} by the last good version ({worse:+.0%})"
    )
    return answer(finding, summary, worse, "part of the score", p_value)


BETTER, SMALLEST_LOSS = 0.1, 1e-9


def paired_scores(case: Case, side: pd.DataFrame) -> pd.DataFrame:
    """Return the losses of the answers that were served, and of the last good version's, of the same rows."""
    replayed, task = case.replayed["last_good"], case.task
    rows = task.judged(side).index.intersection(replayed.index)
    actual = case.requests.loc[rows, "actual"]
    served = case.requests.loc[rows, task.columns(case.requests)]
    losses = {"served": task.loss(served, actual), "last_good": task.loss(replayed.loc[rows], actual)}
    return pd.DataFrame(losses, index=rows).replace([np.inf, -np.inf], np.nan).dropna()


@evidence(needs=("task", "requests.version", "model.current"))
def served_version(case: Case) -> Evidence:
    """Answer whether the service answered as the files of its version do: `matches` or `differs`."""
    own = case.requests[case.requests["version"] == case.recording.incident.versions.current]
    answered = own[case.task.answered(own)].index.intersection(case.replayed["current"].index)
    if len(answered) < case.criteria.least_rows:
        raise NotCheckedError(f"{len(answered)} answered requests of the current version")
    recorded = case.requests.loc[answered, case.task.columns(case.requests)]
    apart = case.task.distance(recorded, case.replayed["current"].loc[answered]) > case.task.same
    share = float(apart.mean())
    summary = f"{share:.1%} of {len(answered)} recorded answers are not what the version's files give"
    if share < case.criteria.broken_share:
        return answer("matches", summary, share, "share of answers")
    onset = onset_in(by_time(apart, pd.DatetimeIndex(case.requests.loc[answered, "time"])), case)
    return answer("differs", summary, share, "share of answers", onset=onset)


@evidence(needs=("task", "requests"))
def outputs(case: Case) -> Evidence:
    """Answer whether requests got an answer, and answers still vary: `not finite`, `collapsed` or `sound`.

    Collapsed answers hardly vary any more, while the inputs do.
    """
    whole = case.inputs.index[is_whole(case.recording)]
    chosen = case.requests["status"].lt(400) | case.requests["status"].isna()
    before, during = (side[chosen.loc[side.index] & side.index.isin(whole)] for side in (case.before, case.during))
    need_rows(case, before, during, "answered requests")
    empty, empty_before = (~case.task.answered(side) for side in (during, before))
    rise = float(empty.mean() - empty_before.mean())
    left = variation_left(*(_as_numbers(case, side) for side in (before, during)))
    inputs_left = variation_left(case.inputs.loc[before.index], case.inputs.loc[during.index])
    collapsed = left < COLLAPSED <= inputs_left
    summary = (
        f"{empty.mean():.1%} of the answers since the onset are no numbers; the rest vary {left:.2g} times as much as "
        "before"
    )
    effect = (rise, "change of share") if rise > 0 else (left, "×")
    if rise < case.criteria.broken_share:
        return answer("collapsed" if collapsed else "sound", summary, *effect)
    is_empty = by_time(~case.task.answered(case.requests), pd.DatetimeIndex(case.requests["time"]))
    return answer("not finite", summary, *effect, onset=onset_in(is_empty, case))


def _as_numbers(case: Case, side: pd.DataFrame) -> pd.DataFrame:
    """Return the numbers of answers; of answers that are a class alone, 1 for the class that was answered."""
    numeric = [name for name in case.task.numeric(side) if name not in ("std", "prob_up")]
    return pd.get_dummies(side["label"]).astype(float) if not numeric and "label" in side else side[numeric]


COLLAPSED = 0.05


def variation_left(before: pd.DataFrame, during: pd.DataFrame) -> float:
    """Return how much of the variation of its columns is left, in the column that kept most; 1 where none varied.

    >>> variation_left(pd.DataFrame({"mean": [1.0, 2.0, 3.0]}), pd.DataFrame({"mean": [2.0, 2.0, 2.0]}))
    0.0
    """
    during = during.reindex(columns=before.columns, fill_value=0.0)
    was, since = (side.replace([np.inf, -np.inf], np.nan).std() for side in (before, during))
    left = (since / was.where(was > 0)).dropna()
    return float(left.max()) if len(left) else 1.0


@evidence(needs=("requests.status",))
def model_errors(case: Case) -> Evidence:
    """Answer whether the model itself failed more requests (status 500): `grew` or `steady`.

    The service answers 500 where its model raised an error or gave no number.
    """
    return share_rose(
        case, case.requests["status"].eq(500), case.criteria.error_share,
        lambda before, since: f"the model failed {before:.1%} of requests before and {since:.1%} since",
    )  # fmt: skip


@evidence()
def checksums(case: Case) -> Evidence:
    """Answer whether the files of the version in service are those that were registered: `hold` or `do not hold`.

    `lepton capture` compares them when it copies them.
    """
    current = case.recording.incident.versions.current
    hold = case.recording.incident.checksums.get(current)
    if hold is None:
        raise NotCheckedError("nothing notes whether the checksums of the version in service hold")
    summary = f"the files of {current} {'have' if hold else 'do not have'} the checksums that the registry keeps"
    return answer("hold" if hold else "do not hold", summary)


@evidence(needs=("requests.version",))
def answering_version(case: Case) -> Evidence:
    """Answer whether another version answers since the onset: `changed`, `stand-in`, `answers alike` or `the same`.

    A `stand-in` is the compressed form of the version that answered before.
    """
    before, during = (side.loc[case.answered[side.index], "version"] for side in (case.before, case.during))
    need_rows(case, before, during, "answered requests")
    usual = str(before.mode().iloc[0])
    was, since = float(before.ne(usual).mean()), float(during.ne(usual).mean())
    summary = f"{since:.1%} of the answers since the onset are of another version than {usual}, before {was:.1%}"
    if since - was < case.criteria.broken_share:
        return answer("the same", summary, since - was, "change of share")
    others = set(during[during.ne(usual)])
    stands_in = usual == case.recording.incident.versions.stands_in_for and all(
        _is_stand_in(case, version) for version in others
    )
    is_other = by_time(case.requests["version"].ne(usual), pd.DatetimeIndex(case.requests["time"]))
    finding = "stand-in" if stands_in else _unless_alike(case, others, "changed")
    return answer(finding, summary, since - was, "change of share", onset=onset_in(is_other, case))


@evidence(needs=("deployments",))
def deployment(case: Case) -> Evidence:
    """Answer whether a version came up to the onset: `deployed`, `stand-in`, `answers alike` or `no deployment`.

    Within the window, that is. One shortly after the onset (`dated_early`) counts too, as a change point may lie a few
    rows early. A `stand-in` was compressed from the version that answered before, to save time: what it answers differs
    on purpose, within the loss that let it stand in.
    """
    window = case.recording.incident.window
    if not (known := case.deployments):
        return answer("no deployment", "the service was first started within the window: no change")
    latest = min(case.onset + dated_early(case), pd.Timestamp(window.end))
    inside = [item for item in known if window.start <= item.time <= latest]
    last = max(inside or known, key=lambda item: item.time)
    ago = case.onset - pd.Timestamp(last.time)
    amount, unit = in_its_unit(ago)
    side = "before" if amount >= 0 else "after"
    finding = (
        "stand-in"
        if _is_stand_in(case, last.version)
        else _unless_alike(case, {item.version for item in inside}, "deployed")
    )
    told = f"{len(inside)} within the window; the last, {last.version}, {abs(amount):.0f} {unit} {side} the onset"
    unit = f"{unit} before the onset"
    if not inside:
        return answer("no deployment", told, amount, unit)
    return answer(finding, told, amount, unit, onset=pd.Timestamp(last.time))


def _is_stand_in(case: Case, version: str) -> bool:
    """Tell whether a version is the one in service, and stands in for another."""
    versions = case.recording.incident.versions
    return version == versions.current and versions.stands_in_for is not None


def _unless_alike(case: Case, versions: set[str], finding: str) -> str:
    """Return `answers alike` where the one version that came answers as the last good one does, else a finding."""
    return "answers alike" if versions == {case.recording.incident.versions.current} and case.answers_alike else finding


EARLY_ROWS, EARLIEST, LONGEST_EARLY = 20, pd.Timedelta(seconds=10), pd.Timedelta(days=4)
"""A change point may lie before its cause by this many requests, within the two durations: of a service
asked in every second, some seconds; of one asked daily, two requests over a weekend."""


def dated_early(case: Case) -> pd.Timedelta:
    """Return how long after the onset a deployment may still have caused it."""
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
