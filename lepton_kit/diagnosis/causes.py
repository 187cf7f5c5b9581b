"""From evidence to a cause: a table of rules that an operator can read, and nothing else.

A rule holds when every piece of evidence it names has one of the findings it lists. When the rules that hold agree on
one cause, that is the diagnosis. When they disagree, or none holds, the cause is `unknown`: never a guess.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lepton_kit.diagnosis.case import Case, Criteria, build_case, time_format
from lepton_kit.diagnosis.evidence import NOT_CHECKED, Cause, Evidence, gather
from lepton_kit.telemetry.recordings import Recording


@dataclass(frozen=True)
class Rule:
    """A cause, the findings that establish it, why they do, and what to do next."""

    cause: Cause
    findings: Mapping[str, tuple[str, ...]]
    reason: str
    next_action: str

    def holds(self, evidence: Mapping[str, Evidence]) -> bool:
        """Tell whether all findings are as the rule wants them."""
        return all(evidence[name].finding in allowed for name, allowed in self.findings.items())


RULES = (
    Rule(
        "data",
        {"contract": ("broken",)},
        "the inputs break their contract more often than before",
        "Run the data repair: stop the feed that breaks the contract, and serve from the last whole rows.",
    ),
    Rule(
        "data",
        {"inputs_and_actuals": ("inputs alone",)},
        "the inputs moved and the actuals did not move with them",
        "Run the data repair: compare the feed with its source, and look for a changed unit or meaning.",
    ),
    Rule(
        "model",
        {
            "replay_of_last_good": ("last good better",),
            "deployment": ("deployed", NOT_CHECKED),
            "contract": ("kept",),
            "inputs_and_actuals": ("unmoved", "together", "actuals alone", "unclear"),
        },
        "on the same rows, which are whole, the last good version answers differently and would have met the objective",
        "Run the model repair: put the last good version back into service, then find what changed.",
    ),
    Rule(
        "model",
        {"served_version": ("differs",)},
        "the service did not answer as the files of its version do",
        "Run the model repair: deploy the version again from the registry and compare its checksums.",
    ),
    Rule(
        "compute",
        {"latency": ("grew",)},
        "requests take longer",
        "Run the capacity repair: look for saturation, shed load or add a worker.",
    ),
    Rule(
        "compute",
        {"queue": ("grew",)},
        "requests wait longer in a queue",
        "Run the capacity repair: look for saturation, shed load or add a worker.",
    ),
    Rule(
        "compute",
        {"errors": ("grew",)},
        "the service fails more requests",
        "Run the capacity repair: read the errors in the log, restart or replace the worker that fails.",
    ),
    Rule(
        "none",
        {
            "coverage": ("fell",),
            "contract": ("kept",),
            "inputs_and_actuals": ("together",),
            "actuals": ("not reverting", NOT_CHECKED),
            "replay_of_last_good": ("fail alike",),
            "served_version": ("matches", NOT_CHECKED),
        },
        "the world changed: inputs and actuals moved together, and both versions fail alike on whole rows",
        "Compare some actuals since the onset with an independent source. "
        "If they agree, retrain on recent rows, then let the gate decide.",
    ),
    Rule(
        "none",
        {
            "coverage": ("held",),
            "contract": ("kept",),
            "inputs_and_actuals": ("unmoved", "together"),
            "actuals": ("not reverting", NOT_CHECKED),
            "replay_of_last_good": ("agree", NOT_CHECKED),
            "served_version": ("matches", NOT_CHECKED),
            "latency": ("steady",),
            "queue": ("steady", NOT_CHECKED),
            "errors": ("steady",),
        },
        "nothing that was checked left its limits",
        "Close the alert, and see whether its threshold is too tight.",
    ),
)

UNDECIDED = "Ask a person: read the evidence, and capture what was not checked."

HINTS = {
    ("actuals", "reverting"): "Compare some actuals since the onset with an independent source: they swing back, as "
    "faulty ones do.",
    ("replay_of_last_good", "last good better"): "The last good version would have met the objective on the same rows: "
    "consider it meanwhile.",
}
"""What a finding advises a person to do where the evidence does not decide."""

CONFIDENCE = {
    "high": "one cause is established, every question was answered, and no evidence speaks against it",
    "moderate": "one cause is established, but a question was not answered, or evidence speaks against it",
    "low": "one cause is established, but a question was not answered, and evidence speaks against it",
    "none": "the evidence does not decide",
}


@dataclass(frozen=True)
class Diagnosis:
    """What happened, how sure that is, why, what was not looked at, and the one next action.

    `confidence` is a key of `CONFIDENCE`, which says what it means. `onset_from` says what the onset rests on, and
    `time_format` how the table writes times.
    """

    cause: Cause
    confidence: str
    reasons: tuple[str, ...]
    onset: pd.Timestamp
    onset_from: str
    evidence: tuple[Evidence, ...]
    evidence_for: tuple[Evidence, ...]
    evidence_against: tuple[Evidence, ...]
    not_checked: tuple[str, ...]
    next_action: str
    time_format: str = "%Y-%m-%d"

    def table(self) -> pd.DataFrame:
        """Return the evidence, a row each, with `+` where it speaks for a cause and `-` where against it."""
        return pd.DataFrame([_row(item, self.time_format) for item in self.evidence])

    def as_dict(self) -> dict[str, Any]:
        """Return the diagnosis as JSON can hold it."""
        return {
            "cause": self.cause,
            "confidence": self.confidence,
            "confidence_means": CONFIDENCE[self.confidence],
            "reasons": list(self.reasons),
            "onset": self.onset.isoformat(),
            "onset_from": self.onset_from,
            "next_action": self.next_action,
            "evidence_for": [item.name for item in self.evidence_for],
            "evidence_against": [item.name for item in self.evidence_against],
            "not_checked": list(self.not_checked),
            "evidence": [_as_dict(item) for item in self.evidence],
        }


def diagnose(recording: Recording, criteria: Criteria | None = None) -> Diagnosis:
    """Say what caused an incident.

    Parameters
    ----------
    recording
        As `lepton_kit.telemetry.recordings.read_recording` returns it.
    criteria
        From where on an effect counts.

    Returns
    -------
    Diagnosis
        Its cause is `data`, `model`, `compute`, `none` (no fault), or `unknown` (the evidence does not decide).

    Raises
    ------
    InputError
        When a version's model files are there but unreadable.

    Examples
    --------
    A recording with nothing in it decides nothing:

    >>> from lepton_kit.telemetry.recordings import FORMAT, Incident
    >>> incident = Incident(format=FORMAT, id="x", service="demo", versions={"current": "1"},
    ...                     window={"start": "2008-01-01T00:00Z", "end": "2008-02-01T00:00Z"})
    >>> diagnose(Recording(incident)).cause
    'unknown'
    """
    case = build_case(recording, criteria)
    return conclude(case, gather(case))


def conclude(case: Case, evidence: tuple[Evidence, ...]) -> Diagnosis:
    """Apply the rules to the evidence of a case."""
    held = rules_that_hold(evidence)
    causes = {rule.cause for rule in held}
    cause: Cause = causes.pop() if len(causes) == 1 else "unknown"
    deciding = held[0] if cause != "unknown" else None
    against = tuple(item for item in evidence if cause in item.speaks_against)
    return Diagnosis(
        cause=cause,
        confidence=_confidence(cause, evidence, against),
        reasons=_reasons(held),
        onset=case.onset,
        onset_from=case.onset_from,
        evidence=evidence,
        evidence_for=tuple(item for item in evidence if cause in item.speaks_for),
        evidence_against=against,
        not_checked=_not_checked(case, evidence),
        next_action=deciding.next_action if deciding else _advice(evidence),
        time_format=time_format(case.recording),
    )


def rules_that_hold(evidence: tuple[Evidence, ...]) -> list[Rule]:
    """Return the rules whose every finding is there, in the order of the table."""
    by_name = {item.name: item for item in evidence}
    return [rule for rule in RULES if rule.holds(by_name)]


def rule_table() -> pd.DataFrame:
    """Return the rules as a table: cause, what must be found, why.

    >>> rule_table()["cause"].unique().tolist()
    ['data', 'model', 'compute', 'none']
    """
    rows = [
        {
            "cause": rule.cause,
            "when": ", and ".join(f"{name}: {' or '.join(allowed)}" for name, allowed in rule.findings.items()),
            "because": rule.reason,
        }
        for rule in RULES
    ]
    return pd.DataFrame(rows)


def _advice(evidence: tuple[Evidence, ...]) -> str:
    """Return what a person should do where the evidence does not decide."""
    findings = [(item.name, item.finding) for item in evidence]
    return " ".join([UNDECIDED, *(HINTS[finding] for finding in findings if finding in HINTS)])


def _confidence(cause: Cause, evidence: tuple[Evidence, ...], against: tuple[Evidence, ...]) -> str:
    if cause == "unknown":
        return "none"
    doubts = bool(against) + (not all(item.checked for item in evidence))
    return ("high", "moderate", "low")[doubts]


def _reasons(held: list[Rule]) -> tuple[str, ...]:
    return tuple(f"{rule.cause}: {rule.reason}" for rule in held) or ("no rule holds",)


NEVER_CHECKED = (
    "whether the actuals are right: only swings that the next actual undoes are looked for",
    "processor, memory and disk of the hosts",
    "what the log messages say: they are shown, not weighed",
    "more than one change: each series is searched for one onset only",
)


def _not_checked(case: Case, evidence: tuple[Evidence, ...]) -> tuple[str, ...]:
    unanswered = [f"{item.name}: {item.summary}" for item in evidence if not item.checked]
    if "topology.csv" in case.recording.absent:
        unanswered.append("other services: the recording has no topology.csv")
    return (*unanswered, *NEVER_CHECKED)


def _row(item: Evidence, time_format: str) -> dict[str, Any]:
    speaks: dict[str, str] = {
        cause: "+" if cause in item.speaks_for else "-" if cause in item.speaks_against else "" for cause in CAUSES
    }
    onset = item.onset.strftime(time_format) if item.onset is not None else ""
    effect = {"effect": item.effect, "unit": item.unit, "p": item.p_value, "since": onset}
    return {"evidence": item.name, "finding": item.finding, **speaks, **effect}


CAUSES: tuple[Cause, ...] = ("data", "model", "compute", "none")


def _as_dict(item: Evidence) -> dict[str, Any]:
    return {
        "name": item.name,
        "finding": item.finding,
        "summary": item.summary,
        "effect": item.effect if math.isfinite(item.effect) else None,
        "unit": item.unit,
        "p_value": item.p_value,
        "onset": item.onset.isoformat() if item.onset is not None else None,
        "speaks_for": sorted(item.speaks_for),
        "speaks_against": sorted(item.speaks_against),
        "checked": item.checked,
    }
