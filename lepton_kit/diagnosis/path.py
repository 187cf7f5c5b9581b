"""The path of an incident: from its cause over what moved to the objective that alerted, each step with its onset.

A step is there only where a check found it, and dated it before the objective fell; a signal, after the cause as well.
So with one cause the order of the steps holds by construction, and shows nothing of its own: what can be lacking is the
step of the cause, or the objective, which is named then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from lepton_kit.diagnosis.case import Case
from lepton_kit.diagnosis.evidence import NOT_CHECKED, Cause, Evidence, signal_order
from lepton_kit.diagnosis.evidence.model import dated_early
from lepton_kit.diagnosis.onset import sli_onset
from lepton_kit.diagnosis.recovery import alerted_objective
from lepton_kit.telemetry.slo import Objective, alert_name

COLUMNS = ("step", "what", "onset", "check", "finding")


@dataclass(frozen=True)
class Step:
    """One step: a cause, a signal that moved, or the objective that alerted.

    `onset` is in UTC, `check` the question or the symptom that found it, and `finding` what that found. `alert` is the
    name of the objective's alert, and empty elsewhere.
    """

    kind: Literal["cause", "signal", "objective"]
    what: str
    onset: pd.Timestamp
    check: str
    finding: str
    alert: str = ""


@dataclass(frozen=True)
class IncidentPath:
    """The steps, the cause first, and what was not found or not checked of it.

    `slack` is how exactly onsets are known: a cause may be dated so much later than its effects.
    """

    steps: tuple[Step, ...]
    not_checked: tuple[str, ...]
    slack: pd.Timedelta

    @property
    def is_in_order(self) -> bool:
        """Whether no step is dated earlier than one before it, but for the slack; by construction with one cause."""
        latest = pd.Series([step.onset for step in self.steps]).cummax()
        return all(step.onset >= before - self.slack for step, before in zip(self.steps, latest, strict=True))

    def table(self) -> pd.DataFrame:
        """Return a row per step, with the columns of `COLUMNS`; the onset is in ISO 8601."""
        rows = [(one.kind, one.what, one.onset.isoformat(), one.check, one.finding) for one in self.steps]
        return pd.DataFrame(rows, columns=list(COLUMNS))


def path_of(
    case: Case,
    evidence: Sequence[Evidence],
    for_causes: Sequence[tuple[Cause, Sequence[Evidence]]],
    objective: Objective | None = None,
) -> IncidentPath:
    """Return the path of a case from each cause to the objective that alerted.

    Parameters
    ----------
    case
        The recording, made ready to question.
    evidence
        All answers to the questions that were asked of it.
    for_causes
        Each cause that was named with the evidence that speaks for it, the strongest first; nothing of one unknown.
    objective
        The one that alerted, where the recording does not hold it.

    Examples
    --------
    >>> from lepton_kit.diagnosis.case import build_case
    >>> from lepton_kit.telemetry.recordings import FORMAT, Incident, Recording
    >>> incident = Incident(format=FORMAT, id="x", service="demo", versions={"current": "1"},
    ...                     window={"start": "2008-01-01T00:00Z", "end": "2008-02-01T00:00Z"})
    >>> path_of(build_case(Recording(incident)), (), ()).not_checked
    ('cause: the evidence does not decide', 'objective: no alert of an objective is in the recording')
    """
    end, slack = _objective(case, evidence, objective)
    latest = end.onset + slack if end else None
    causes = [step for one in for_causes if (step := _cause(case, *one, latest))]
    lacking = [
        f"{cause}: no evidence for it is dated{' before the objective fell' if end else ''}"
        for cause, _ in for_causes
        if cause not in [step.what for step in causes]
    ]
    lacking += [] if for_causes else ["cause: the evidence does not decide"]
    lacking += [] if end else ["objective: no alert of an objective is in the recording"]
    lacking += [f"{one.name}: {one.summary}" for one in evidence if one.finding == NOT_CHECKED and one.name in ORDERS]
    first = min((step.onset for step in causes), default=case.onset)
    between = _signals(case, causes, first - slack, latest)
    causes.sort(key=lambda step: step.onset)
    return IncidentPath((*causes, *between, *([end] if end else [])), tuple(lacking), slack)


ORDERS = ("first_signal", "objective", "deployment")
"""Questions whose answer may add a step or date one."""


def _objective(
    case: Case, evidence: Sequence[Evidence], objective: Objective | None
) -> tuple[Step | None, pd.Timedelta]:
    """Return the end of the path, by the SLI or else by the alert, and how exactly onsets are known."""
    recording, early = case.recording, dated_early(case)
    known = [one.objective() for one in recording.incident.promises] + ([objective] if objective else [])
    alerted = alerted_objective(recording, known)
    if alerted is None:
        return None, early
    asked = next((one.finding for one in evidence if one.name == "objective" and one.checked), "")
    seen, name = sli_onset(recording, case.criteria, alerted), alert_name(alerted)
    if seen is not None:
        slack = max(early, seen.last - seen.since)
        return Step("objective", alerted.title, seen.since, "its SLI over time", asked or "fell", name), slack
    since = min(pd.Timestamp(one.starts_at) for one in recording.incident.alerts)
    return Step("objective", alerted.title, since, "start of the alert", asked or "alerted", name), early


SYMPTOMS = ("promise", "ratings", "errors", "objective", "first_signal", "log_templates")
"""Questions whose answers are what a fault caused: one dates a cause only where nothing else does."""


def _cause(case: Case, cause: Cause, evidence: Sequence[Evidence], latest: pd.Timestamp | None) -> Step | None:
    """Return the step of a cause: the strongest evidence for it that is dated, is no chance, and came in time."""
    dated = [
        Step("cause", cause, one.onset, one.name, one.finding)
        for one in sorted(evidence, key=lambda one: one.name in SYMPTOMS)
        if one.onset is not None
        and (one.p_value is None or one.p_value < case.criteria.alpha)
        and (latest is None or one.onset <= latest)
    ]
    return dated[0] if dated else None


def _signals(case: Case, causes: Sequence[Step], first: pd.Timestamp, latest: pd.Timestamp | None) -> list[Step]:
    """Return the signals that moved between the cause and the objective, but for what moved at the cause's own moment.

    Of that moment only symptoms are steps: the others show the same change as the check that dated the cause.
    """
    same = {step.onset for step in causes}
    return [
        Step("signal", str(row["signal"]), row["since"], "change point", f"moved ({row['of']})")
        for row in signal_order(case).to_dict("records")
        if row["since"] >= first
        and (latest is None or row["since"] <= latest)
        and (row["since"] not in same or row["of"] in ("symptom", "errors"))
    ]
