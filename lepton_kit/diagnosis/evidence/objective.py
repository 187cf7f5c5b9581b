"""Evidence of the promise whose alert led here: whether it is still broken."""

from __future__ import annotations

import pandas as pd

from lepton_kit.diagnosis.case import Case
from lepton_kit.diagnosis.evidence.base import Evidence, not_checked
from lepton_kit.diagnosis.recovery import ACTUALS, Ratio, alerted_objective, sli_ratio
from lepton_kit.telemetry.slo import Objective

MISSED, FORECASTS_MISSED, UNCLEAR = "missed", "forecasts missed", "unclear"


def objective(case: Case) -> Evidence:
    """Answer whether the objective that alerted is missed: `missed`, `forecasts missed`, `kept` or `unclear`.

    It is judged since the onset and since the first alert, as an onset that is dated too early would hide what is wrong
    now; where too few events came since either, it is `unclear`. Where none alerted, one that is missed for certain
    counts. A change of the world can make forecasts miss, and nothing else.
    """
    known = [one.objective() for one in case.recording.incident.promises]
    if not known:
        return not_checked("objective", "the recording names no objective of the service")
    alerted = alerted_objective(case.recording, known)
    starts = {case.onset, *(pd.Timestamp(alert.starts_at) for alert in case.recording.incident.alerts)}
    end = pd.Timestamp(case.recording.incident.window.end)
    worst = {one: _worst(case, one, starts, end) for one in ([alerted] if alerted else known)}
    judged = {one: held for one, held in worst.items() if held is not None}
    if not judged:
        told = ", ".join(one.title for one in worst)
        if alerted is None:
            return not_checked("objective", f"too few events since the onset to judge {told}")
        return Evidence("objective", UNCLEAR, f"{told}: fewer than {alerted.minimum} events since the onset")
    one, held = min(judged.items(), key=lambda item: item[1].share - item[0].target)
    is_missed = held.share < one.target if alerted else held.interval[1] < one.target
    forecasts = one.total.metric == ACTUALS
    return Evidence(
        name="objective",
        finding="kept" if not is_missed else FORECASTS_MISSED if forecasts else MISSED,
        summary=f"{one.title}: {held.share:.2%} of {held.total:.0f} events good since the onset; {one.target:.2%} are "
        "promised",
        effect=held.share - one.target,
        unit="share above the objective",
    )


def _worst(case: Case, one: Objective, starts: set[pd.Timestamp], end: pd.Timestamp) -> Ratio | None:
    """Return the lowest indicator since any of some times; None where none has the events that the objective needs."""
    found = [sli_ratio(case.recording, one, start, end) for start in starts if start < end]
    return min((held for held in found if held.total >= one.minimum), key=lambda held: held.share, default=None)
