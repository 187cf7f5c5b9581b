"""From evidence to a cause: ranked by probability, with what speaks for and against each, and one next action.

How findings become probabilities stands in `likelihoods.toml`, a table that an operator can read and edit. The
likeliest cause is the diagnosis where its probability reaches the table's threshold. Where it does not, the cause is
`unknown`: never a guess.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from lepton_kit.diagnosis.case import Case, build_case, time_format
from lepton_kit.diagnosis.evidence import NOT_CHECKED, Cause, Evidence, gather
from lepton_kit.diagnosis.evidence.promises import ANSWERS_WRONG, LATE, MISSED, UNCLEAR
from lepton_kit.diagnosis.localisation import Localisation
from lepton_kit.diagnosis.next_action import NextAction
from lepton_kit.diagnosis.onset import Criteria, Onset
from lepton_kit.diagnosis.path import IncidentPath, path_of
from lepton_kit.diagnosis.ranking import (
    CAUSES,
    Decision,
    Likelihoods,
    by_cause,
    probabilities,
    read_likelihoods,
    weigh,
    weights_of_evidence,
)
from lepton_kit.diagnosis.remedies import after_diagnosis, runbook_of
from lepton_kit.diagnosis.where import as_dict as localisation_as_dict
from lepton_kit.diagnosis.where import where
from lepton_kit.telemetry.recordings import Recording
from lepton_kit.telemetry.slo import Objective

NEXT_ACTIONS: Mapping[str, str] = {
    "world": "Compare some actuals since the onset with an independent source. "
    "If they agree, retrain on recent rows, then let the gate decide.",
    "nothing": "Close the alert, and see whether its threshold is too tight.",
    "unknown": "Ask a person: read the evidence, and capture what was not checked.",
}
"""What to do where no repair follows; where one does, its plan says so (`remedies.py`)."""

NEW_CLASS = ("label_drift", "new class")
HINTS = {
    NEW_CLASS: "Let people label rows of the new class (notebooks/06-labels.ipynb), and train a version that knows it.",
    ("actuals", "reverting"): "Compare some actuals since the onset with an independent source: they swing back, as "
    "faulty ones do.",
    ("replay_of_last_good", "last good better"): "The last good version would have met the objective on the same rows: "
    "consider it meanwhile.",
}
"""What a finding advises a person to do where the evidence does not decide; a new class, also where it does."""

CONFIDENCE = {
    "high": "the cause is at work with a probability of at least 0.95",
    "moderate": "the cause is at work with a probability of at least 0.85",
    "low": "the cause is at work with a probability above the threshold of the table, but below 0.85",
    "none": "the evidence does not decide: no cause reaches the threshold of the table",
}
HIGH, MODERATE = 0.95, 0.85

LIKELY = 0.1
"""Where no cause reaches the threshold, those of at least this probability are named."""


@dataclass(frozen=True)
class Ranked:
    """A cause, the probability that it is at work, and the evidence for and against it, the strongest first."""

    cause: Cause
    probability: float
    evidence_for: tuple[Evidence, ...]
    evidence_against: tuple[Evidence, ...]


@dataclass(frozen=True)
class Diagnosis:
    """What happened, how sure that is, why, what was not looked at, and the one next action.

    `also` holds the second cause of a compound fault. `probability` is that of `cause` being at work, and of the
    likeliest cause where that is `unknown`; `confidence` is a key of `CONFIDENCE`, which says what it means.
    `localisation` ranks the components of a service of several parts, or says why it does not.
    `likelihoods` is the table that weighed the evidence. `ranking` holds all causes, the likeliest first; two at
    once count for both, so their probabilities may add up to more than 1. `remedy` names the runbook that repairs
    the cause. `advice` says what a person does where no repair follows. `dated` holds the onset and what it rests
    on, and `time_format` how the table writes times.
    """

    cause: Cause
    confidence: str
    reasons: tuple[str, ...]
    dated: Onset
    evidence: tuple[Evidence, ...]
    evidence_for: tuple[Evidence, ...]
    evidence_against: tuple[Evidence, ...]
    not_checked: tuple[str, ...]
    case: Case = field(repr=False, compare=False)
    likelihoods: Likelihoods = field(repr=False, compare=False)
    advice: str
    localisation: Localisation | str = ""
    time_format: str = "%Y-%m-%d"
    also: tuple[Cause, ...] = ()
    probability: float = 0.0
    ranking: tuple[Ranked, ...] = ()
    remedy: str | None = None

    @property
    def onset(self) -> pd.Timestamp:
        """Return when the incident began (UTC)."""
        return self.dated.time

    def path(self, objective: Objective | None = None) -> IncidentPath:
        """Return the path from the cause to the objective that alerted, as far as evidence shows it.

        `objective` is the one that alerted, where the recording does not hold it.
        """
        by_cause = {one.cause: one.evidence_for for one in self.ranking}
        named = [(cause, by_cause[cause]) for cause in (self.cause, *self.also) if cause in by_cause]
        return path_of(self.case, self.evidence, named, objective)

    @cached_property
    def next_action(self) -> str:
        """Return what to do next, in words; `act` knows the objective that alerted and the command as well."""
        return self.act().what

    def act(self, objective: Objective | None = None, recording: str = "") -> NextAction:
        """Return what to do next: the plan of the repair that comes first, or what a person does.

        A repair that acts on the objective that alerted comes first; `recording` is where it lies, for the command.
        """
        causes = (self.cause, *self.also)
        return after_diagnosis(causes, objective, self.case, recording) or NextAction(self.advice)

    def table(self) -> pd.DataFrame:
        """Return the evidence, a row each, with `+` where it speaks for a cause and `-` where against it."""
        return pd.DataFrame([_row(item, self.time_format) for item in self.evidence])

    def ranking_table(self) -> pd.DataFrame:
        """Return the causes, a row each: probability, what speaks for it and against it, the strongest first."""
        rows = [
            {
                "cause": item.cause,
                "probability": round(item.probability, 3),
                "for": _told(item.evidence_for),
                "against": _told(item.evidence_against),
            }
            for item in self.ranking
        ]
        return pd.DataFrame(rows)

    def summary(self, objective: Objective | None = None, recording: str = "") -> dict[str, Any]:
        """Return what a run records of the diagnosis, by name: `lk.record(**diagnosis.summary())`.

        `objective` is the one that alerted and `recording` where the evidence lies: both go into the next command.
        """
        action, path = self.act(objective, recording), self.path(objective)
        return {
            "cause": self.cause,
            "also": list(self.also),
            "probability": self.probability,
            "confidence": self.confidence,
            "next_action": action.what,
            "next_command": action.command or "none",
            "onset": self.onset.isoformat(),
            "remedy": self.remedy or "none",
            "confidence_means": CONFIDENCE[self.confidence],
            "reasons": list(self.reasons),
            "not_checked": list(self.not_checked),
            "evidence_for": [item.name for item in self.evidence_for],
            "evidence_against": [item.name for item in self.evidence_against],
            "path": path.table(),
            "path_not_checked": list(path.not_checked),
            "ranking": self.ranking_table(),
            "evidence": self.table(),
        }

    def as_dict(self) -> dict[str, Any]:
        """Return the diagnosis as JSON can hold it."""
        return {
            **self.summary(),
            "remedy": self.remedy,
            "onset_from": str(self.dated),
            "path": self.path().table().to_dict("records"),
            "ranking": [_ranked_as_dict(item) for item in self.ranking],
            "localisation": localisation_as_dict(self.localisation),
            "evidence": [_as_dict(item) for item in self.evidence],
        }


def diagnose(
    recording: Recording, criteria: Criteria | None = None, likelihoods: Likelihoods | Path | str | None = None
) -> Diagnosis:
    """Say what caused an incident: `data`, `model`, `compute`, `none` (no fault), or `unknown`.

    `criteria` say from where on an effect counts; `likelihoods` is the table that ranks the causes, or the file of an
    operator's own one.

    Raises
    ------
    InputError
        When the table of likelihoods is not one.

    Examples
    --------
    A recording with nothing in it decides nothing:

    >>> from lepton_kit.telemetry.recordings import FORMAT, Incident
    >>> incident = Incident(format=FORMAT, id="x", service="demo", versions={"current": "1"},
    ...                     window={"start": "2008-01-01T00:00Z", "end": "2008-02-01T00:00Z"})
    >>> diagnose(Recording(incident)).cause
    'unknown'
    """
    table = likelihoods if isinstance(likelihoods, Likelihoods) else read_likelihoods(likelihoods)
    case = build_case(recording, criteria)
    return conclude(case, gather(case), table)


def conclude(case: Case, evidence: tuple[Evidence, ...], likelihoods: Likelihoods | None = None) -> Diagnosis:
    """Rank the causes by the evidence of a case, and name the likeliest if it is likely enough."""
    likelihoods = likelihoods or read_likelihoods()
    evidence = weigh(evidence, likelihoods)
    hypotheses = probabilities(evidence, likelihoods)
    ranking = rank(evidence, hypotheses, likelihoods)
    causes = decide(evidence, hypotheses, likelihoods)
    cause: Cause = causes[0] if causes else "unknown"
    own = next((item for item in ranking if item.cause == cause), None)
    return Diagnosis(
        cause=cause,
        also=causes[1:],
        probability=own.probability if own else ranking[0].probability,
        confidence=_confidence(own),
        reasons=_reasons(causes, ranking, likelihoods),
        dated=case.dated,
        evidence=evidence,
        evidence_for=own.evidence_for if own else (),
        evidence_against=own.evidence_against if own else (),
        not_checked=_not_checked(case, evidence),
        case=case,
        likelihoods=likelihoods,
        advice=_advice(cause, hypotheses, evidence),
        remedy=runbook_of(cause) or None,
        ranking=ranking,
        localisation=where(case.recording, case.onset),
        time_format=time_format(case.recording),
    )


def rank(evidence: tuple[Evidence, ...], hypotheses: pd.Series, likelihoods: Likelihoods) -> tuple[Ranked, ...]:
    """Return all causes with the evidence for and against each, the likeliest cause first."""
    weights = weights_of_evidence(evidence, likelihoods)

    def strongest(cause: Cause, chosen: list[Evidence]) -> tuple[Evidence, ...]:
        strength = weights[cause].abs()
        return tuple(sorted(chosen, key=lambda item: strength[item.name], reverse=True))

    return tuple(
        Ranked(
            cause,
            probability,
            strongest(cause, [item for item in evidence if cause in item.speaks_for]),
            strongest(cause, [item for item in evidence if cause in item.speaks_against]),
        )
        for cause, probability in by_cause(hypotheses).items()
    )


def decide(evidence: tuple[Evidence, ...], hypotheses: pd.Series, likelihoods: Likelihoods) -> tuple[Cause, ...]:
    """Return the cause that is likely enough, and a second one at work beside it; nothing where none is."""
    decision, likely = likelihoods.decision, by_cause(hypotheses)
    first, *others = likely
    if likely[first] < decision.threshold:
        return ()
    if first == "none":
        return ("none",) if _may_be_none(evidence, hypotheses, decision) else ()
    second = [cause for cause in others if cause != "none" and likely[cause] >= decision.second]
    return (first, *second[:1])


def _may_be_none(evidence: tuple[Evidence, ...], hypotheses: pd.Series, decision: Decision) -> bool:
    """Tell whether that there is no fault was checked.

    A promise must have been, and the objective that alerted must be kept, unless a change of the world makes the
    forecasts miss it. Such a change is only named where the evidence that could show a fault of the model instead was
    answered, or where a finding says that no version could have been right.
    """
    answers = {item.name: item.finding for item in evidence if item.checked}
    if not (set(decision.none_needs) <= set(answers) and set(decision.none_needs_one_of) & set(answers)):
        return False
    is_of_the_world = _is_of_the_world(hypotheses, evidence)
    unexplained = (MISSED, LATE, UNCLEAR) if is_of_the_world else (MISSED, LATE, UNCLEAR, ANSWERS_WRONG)
    if answers.get("objective") in unexplained:
        return False
    is_shown = any(answers.get(name) == finding for name, finding in decision.world_shown_by.items())
    return not is_of_the_world or is_shown or set(decision.world_needs) <= set(answers)


def _is_of_the_world(hypotheses: pd.Series, evidence: tuple[Evidence, ...]) -> bool:
    """Tell whether a change of the world is likelier than nothing, and the promise to the users was not kept in it."""
    kept = any((item.name, item.finding) == ("promise", "held") for item in evidence)
    return bool(hypotheses["world"] > hypotheses["nothing"]) and not kept


def likelihood_table(likelihoods: Likelihoods | None = None) -> pd.DataFrame:
    """Return the table of likelihood ratios: what each finding of each piece of evidence says of each cause.

    >>> table = likelihood_table().set_index(["evidence", "finding"])
    >>> bool(table.loc[("contract", "broken"), "data"] > 10)
    True
    """
    likelihoods = likelihoods or read_likelihoods()
    rows = [
        {"evidence": name, "group": known.group, "finding": finding, **ratios.model_dump(exclude={"because"})}
        for name, known in likelihoods.evidence.items()
        for finding, ratios in known.findings.items()
    ]
    return pd.DataFrame(rows)


def _advice(cause: Cause, hypotheses: pd.Series, evidence: tuple[Evidence, ...]) -> str:
    """Return what a person does where no repair follows; where the evidence does not decide, what to look at."""
    hints = {finding: HINTS[finding] for item in evidence if (finding := (item.name, item.finding)) in HINTS}
    if cause == "none":
        if not _is_of_the_world(hypotheses, evidence):
            return NEXT_ACTIONS["nothing"]
        return hints.get(NEW_CLASS, NEXT_ACTIONS["world"])
    return " ".join([NEXT_ACTIONS["unknown"], *hints.values()]) if cause == "unknown" else ""


def _confidence(own: Ranked | None) -> str:
    if own is None:
        return "none"
    return "high" if own.probability >= HIGH else "moderate" if own.probability >= MODERATE else "low"


def _reasons(causes: tuple[Cause, ...], ranking: tuple[Ranked, ...], likelihoods: Likelihoods) -> tuple[str, ...]:
    """Return a sentence for each cause that is named; where none is, for each that is likely."""
    named = [item for item in ranking if item.cause in causes]
    named = named or [item for item in ranking if item.probability >= LIKELY]
    return tuple(f"{item.cause}: {_because(item, likelihoods)}" for item in named)


def _because(item: Ranked, likelihoods: Likelihoods) -> str:
    told = [likelihoods.ratios(one.name, one.finding).because for one in item.evidence_for]
    known = list(dict.fromkeys(text for text in told if text))[:2]
    return ", and ".join(known) or (
        "nothing that was checked left its limits" if item.cause == "none" else "by elimination"
    )


MOST_TOLD = 4
"""Pieces of evidence for and against a cause that the table of causes names; all stand in the table of evidence."""


def _told(evidence: tuple[Evidence, ...]) -> str:
    more = f"; and {len(evidence) - MOST_TOLD} more" if len(evidence) > MOST_TOLD else ""
    return "; ".join(f"{item.name}: {item.finding}" for item in evidence[:MOST_TOLD]) + more


NEVER_CHECKED = (
    "whether the actuals are right: only what contradicts the inputs, or swings back, is seen",
    "processor and disk of the hosts, and the network before the service",
    "what the log messages say: new and bursting ones are counted, not understood",
    "more than one change: each series is searched for one onset only",
)


def _not_checked(case: Case, evidence: tuple[Evidence, ...]) -> tuple[str, ...]:
    """Return what was not looked at: what the recording lacks first, then the questions without an answer."""
    unanswered = list(case.recording.problems)
    unanswered += [f"{item.name}: {item.summary}" for item in evidence if item.finding == NOT_CHECKED]
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


def _as_dict(item: Evidence) -> dict[str, Any]:
    return {
        "name": item.name,
        "finding": item.finding,
        "summary": item.summary,
        "effect": _finite(item.effect),
        "unit": item.unit,
        "p_value": _finite(item.p_value),
        "onset": item.onset.isoformat() if item.onset is not None else None,
        "speaks_for": sorted(item.speaks_for),
        "speaks_against": sorted(item.speaks_against),
        "checked": item.checked,
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _ranked_as_dict(item: Ranked) -> dict[str, Any]:
    return {
        "cause": item.cause,
        "probability": item.probability,
        "evidence_for": [one.name for one in item.evidence_for],
        "evidence_against": [one.name for one in item.evidence_against],
    }
