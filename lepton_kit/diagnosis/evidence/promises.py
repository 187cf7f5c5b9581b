"""Evidence of the promise whose alert led here: whether it is still broken."""

from __future__ import annotations

import pandas as pd
import scipy

from lepton_kit.diagnosis.case import Case
from lepton_kit.diagnosis.evidence.base import (
    Evidence,
    NotCheckedError,
    answer,
    evidence,
    honest_p_value,
    need_rows,
    onset_in,
    share_p_value,
)
from lepton_kit.diagnosis.onset import misses
from lepton_kit.diagnosis.recovery import Ratio, alerted_objective, counts_hits, sli_ratio
from lepton_kit.telemetry.slo import Objective

MISSED, LATE, ANSWERS_WRONG, UNCLEAR = "missed", "answers late", "answers wrong", "unclear"

RECENT_SECONDS = 3600.0
"""The long window of a page; what burst shortly before the alert is in no shorter time since it."""


@evidence(needs=("objectives",))
def objective(case: Case) -> Evidence:
    """Answer whether the objective that alerted is missed: `missed`, `kept` or `unclear`.

    It is judged since the onset, since the first alert, and in the last hour, as an onset that is dated too early would
    hide what is wrong now, and what comes and goes may have gone before the alert; where too few events came in any of
    these times, it is `unclear`. Where none alerted, one that is missed for certain counts.

    One that counts right answers is `answers wrong`: a change of the world makes them so, and nothing else. One
    that counts the buckets of a histogram is `answers late`.
    """
    known = [one.objective() for one in case.recording.incident.promises]
    alerted = alerted_objective(case.recording, known)
    end = pd.Timestamp(case.recording.incident.window.end)
    recent = end - pd.Timedelta(seconds=RECENT_SECONDS / case.recording.incident.promises[0].time_scale)
    starts = {case.onset, recent, *(pd.Timestamp(alert.starts_at) for alert in case.recording.incident.alerts)}
    worst = {one: _worst(case, one, starts, end) for one in ([alerted] if alerted else known)}
    judged = {one: held for one, held in worst.items() if held is not None}
    if not judged:
        told = ", ".join(one.title for one in worst)
        if alerted is None:
            raise NotCheckedError(f"too few events since the onset to judge {told}")
        return answer(UNCLEAR, f"{told}: fewer than {alerted.minimum} events since the onset")
    one, held = min(judged.items(), key=lambda item: item[1].share - item[0].target)
    is_missed = held.share < one.target if alerted else held.interval[1] < one.target
    summary = f"{one.title}: {held.share:.2%} of {held.total:.0f} events good; {one.target:.2%} are promised"
    return answer(_kind(one) if is_missed else "kept", summary, held.share - one.target, "share above the objective")


def _kind(one: Objective) -> str:
    if counts_hits(one):
        return ANSWERS_WRONG
    return LATE if one.selector.metric.endswith("_bucket") else MISSED


def _worst(case: Case, one: Objective, starts: set[pd.Timestamp], end: pd.Timestamp) -> Ratio | None:
    """Return the lowest indicator since any of some times; None where none has the events that the objective needs."""
    found = [sli_ratio(case.recording, one, start, end) for start in starts if start < end]
    return min((held for held in found if held.total >= one.minimum), key=lambda held: held.share, default=None)


@evidence(needs=("task", "requests.target"))
def promise(case: Case) -> Evidence:
    """Answer whether fewer answers are right than is promised (`Case.promised`): `fell`, `held` or `unclear`.

    What right means is the task's: the class, a number close enough, an interval that held the actual, a good rating.
    `held` does not speak for the model: an interval that became far too wide holds everything.
    """
    before, during = (misses(case.recording, side) for side in (case.before, case.during))
    need_rows(case, before, during, "judged requests")
    p_value = honest_p_value(case, "misses", share_p_value(before, during))
    held_before, held = 1 - before.mean(), 1 - during.mean()
    finding = "held" if held >= case.promised else "fell" if p_value < case.criteria.alpha else "unclear"
    summary = (
        f"{held_before:.1%} of the answers before and {held:.1%} since were ones {case.task.promise}; objective "
        f"{case.promised:.0%}"
    )
    onset = onset_in(misses(case.recording, case.requests), case)
    return answer(finding, summary, held - held_before, "change of share", p_value, onset)


LOWER_RATING = 0.5
"""A mean rating that fell by so much, of 1 to 5, is one that users tell."""


@evidence(needs=("requests.rating",))
def ratings(case: Case) -> Evidence:
    """Answer whether users rate the answers lower than before: `fell` or `steady`."""
    known = case.requests.dropna(subset=["rating"])
    before, during = (known.loc[known.index.isin(side.index), "rating"] for side in (case.before, case.during))
    need_rows(case, before, during, "ratings")
    p_value = float(scipy.stats.mannwhitneyu(before, during, alternative="greater").pvalue)
    fell = during.mean() <= before.mean() - LOWER_RATING and p_value < case.criteria.alpha
    summary = f"mean rating {before.mean():.2f} before and {during.mean():.2f} since, of {len(known)} ratings"
    onset = onset_in(known.set_index("time")["rating"], case) if fell else None
    change = during.mean() - before.mean()
    return answer("fell" if fell else "steady", summary, change, "of 1 to 5", p_value, onset)
