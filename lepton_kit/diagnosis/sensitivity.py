"""What would change a verdict: the fewest findings that, were they others, would lead to another cause.

The search puts every other finding that `likelihoods.toml` knows in place of one that was made, or of an answer that
is missing, and weighs the whole evidence anew: one question at a time, then two. It says how far a verdict is from the
next one, and which question is worth asking. It does not say that such findings are likely.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from lepton_kit.diagnosis.causes import Diagnosis, decide
from lepton_kit.diagnosis.evidence import NOT_APPLICABLE, Cause, Evidence
from lepton_kit.diagnosis.ranking import (
    CAUSES,
    HYPOTHESES,
    HYPOTHESES_OF,
    Likelihoods,
    by_cause,
    combined,
    log_ratios,
    tempered,
)

MOST_TRIED = 20
"""Pairs of findings, the nearest ones, that are weighed in full for each other verdict."""


@dataclass(frozen=True)
class Change:
    """Another finding of one question in place of the present one, which may be that it was not checked."""

    question: str
    present: str
    other: str

    def __str__(self) -> str:
        """Return the change as a reader sees it."""
        return f"{self.question}: {self.other} (now: {self.present})"


Changes = tuple[Change, ...]


@dataclass(frozen=True)
class Flip:
    """Findings that would change the verdict, to which cause, and how far they are from the present ones.

    `factor` multiplies, over the changes, the most by which one moves the odds of any hypothesis: the smaller, the
    nearer is the other verdict.
    """

    changes: Changes
    cause: Cause
    probability: float
    factor: float


@dataclass(frozen=True)
class Check:
    """A question without an answer, and what its answer could do.

    `greatest_ratio` is the most by which one of its findings can move the odds of any cause, up or down; `finding` is
    that one. `verdict` is the cause that an answer would lead to, None where none changes the verdict by itself.
    """

    question: str
    why_not: str
    lacks: tuple[str, ...]
    finding: str
    greatest_ratio: float
    verdict: Cause | None

    @property
    def cost(self) -> tuple[bool, int, float]:
        """Return what sorts checks: those that more rows alone would answer last, then by the number of lacks."""
        return not self.lacks, len(self.lacks), -self.greatest_ratio


def flips(diagnosis: Diagnosis) -> tuple[Flip, ...]:
    """Return for each other verdict the smallest set of findings that leads to it; none where no one or two would.

    One finding is smaller than two; of as many, those are whose change is the least. The nearest verdict comes first.

    Examples
    --------
    >>> from lepton_kit.diagnosis.causes import diagnose
    >>> from lepton_kit.telemetry.recordings import FORMAT, Incident, Recording
    >>> incident = Incident(format=FORMAT, id="x", service="demo", versions={"current": "1"},
    ...                     window={"start": "2008-01-01T00:00Z", "end": "2008-02-01T00:00Z"})
    >>> nearest = flips(diagnose(Recording(incident)))[0]
    >>> len(nearest.changes), nearest.cause != "unknown"
    (1, True)
    """
    table = _Weighed.of(diagnosis)
    found: dict[Cause, Flip] = {}
    for one in table.flips_of([(change,) for change in table.ratios]):
        found.setdefault(one.cause, one)
    pairs = [(one, other) for one, other in combinations(table.ratios, 2) if one.question != other.question]
    for one in table.flips_of_pairs(pairs, {"unknown", *CAUSES} - {diagnosis.cause, *found}):
        found.setdefault(one.cause, one)
    return tuple(sorted(found.values(), key=lambda one: (len(one.changes), one.factor)))


def checks(diagnosis: Diagnosis) -> tuple[Check, ...]:
    """Return the questions without an answer: those that could change the verdict alone first, the cheapest first.

    A check costs what it lacks: a question that lacks one entry of the declaration is cheaper than one that lacks two,
    and both are cheaper than one that needs more rows than there are.
    """
    table = _Weighed.of(diagnosis)
    found = []
    for item in diagnosis.evidence:
        own = [change for change in table.ratios if change.question == item.name]
        if item.checked or not own:
            continue
        ratios = {change: float(np.exp(np.abs(table.ratios[change]).max())) for change in own}
        best = max(own, key=ratios.__getitem__)
        verdict = next((one.cause for one in table.flips_of([(change,) for change in own])), None)
        found.append(Check(item.name, item.summary, item.lacks, best.other, ratios[best], verdict))
    return tuple(sorted(found, key=lambda one: (one.verdict is None, one.cost)))


def flip_table(found: Sequence[Flip]) -> pd.DataFrame:
    """Return flips, a row each: the findings it takes, the verdict then, its probability, and how far they are."""
    rows = [("; ".join(map(str, one.changes)), one.cause, round(one.probability, 3), one.factor) for one in found]
    return pd.DataFrame(rows, columns=["if it were", "verdict", "probability", "odds change (×)"])


def check_table(found: Sequence[Check]) -> pd.DataFrame:
    """Return checks, a row each: the question, the strongest answer, its ratio, whether it decides, why it is open."""
    rows = [(one.question, one.finding, one.greatest_ratio, one.verdict or "the same", one.why_not) for one in found]
    return pd.DataFrame(
        rows, columns=["question", "strongest answer", "odds change up to (×)", "verdict then", "not checked, as"]
    )


@dataclass(frozen=True)
class _Weighed:
    """The evidence of a diagnosis, and every other finding of a question that applies, with its ratios."""

    evidence: tuple[Evidence, ...]
    likelihoods: Likelihoods
    cause: Cause
    present: dict[str, np.ndarray]
    ratios: dict[Change, np.ndarray]

    @classmethod
    def of(cls, diagnosis: Diagnosis) -> _Weighed:
        """Weigh every finding that the questions of a diagnosis could have had."""
        likelihoods = diagnosis.likelihoods
        present = {one.name: log_ratios(one.name, one.finding, likelihoods) for one in diagnosis.evidence}
        changes = [
            Change(one.name, one.finding, other)
            for one in diagnosis.evidence
            if one.finding != NOT_APPLICABLE and one.name in likelihoods.evidence
            for other in likelihoods.evidence[one.name].findings
            if other != one.finding
        ]
        ratios = {one: log_ratios(one.question, one.other, likelihoods) for one in changes}
        return cls(diagnosis.evidence, likelihoods, diagnosis.cause, present, ratios)

    def factor(self, changes: Changes) -> float:
        moved = [np.abs(self.ratios[one] - self.present[one.question]).max() for one in changes]
        return float(np.exp(sum(moved)))

    def odds(self, sets: Sequence[Changes]) -> np.ndarray:
        """Return the log-odds of every hypothesis (sets, hypotheses) where these findings took the place of others."""
        names = list(self.present)
        tables = np.tile(np.array(list(self.present.values())), (len(sets), 1, 1))
        for number, changes in enumerate(sets):
            for one in changes:
                tables[number, names.index(one.question)] = self.ratios[one]
        return combined(names, tables, self.likelihoods)

    def verdict(self, changes: Changes, odds: np.ndarray) -> tuple[Cause, float]:
        """Return the cause that would be named, and the probability of it, or of the likeliest where none is."""
        other = {one.question: one.other for one in changes}
        evidence = tuple(Evidence(one.name, other.get(one.name, one.finding), "") for one in self.evidence)
        hypotheses = tempered(pd.Series(odds, index=list(HYPOTHESES)), self.likelihoods.decision.temperature)
        named, likely = decide(evidence, hypotheses, self.likelihoods), by_cause(hypotheses)
        return (named[0], likely[named[0]]) if named else ("unknown", max(likely.values()))

    def flips_of(self, sets: Sequence[Changes]) -> Iterator[Flip]:
        """Yield the sets of findings that change the verdict, those first whose findings are nearest to the present."""
        if not sets:
            return
        odds = self.odds(sets)
        for number in sorted(range(len(sets)), key=lambda number: self.factor(sets[number])):
            cause, probability = self.verdict(sets[number], odds[number])
            if cause != self.cause:
                yield Flip(sets[number], cause, probability, self.factor(sets[number]))

    def flips_of_pairs(self, pairs: Sequence[Changes], verdicts: Collection[str]) -> Iterator[Flip]:
        """Yield the nearest pair of findings for each verdict that one leads to: too many to weigh each in full."""
        if not pairs or not verdicts:
            return
        odds = self.odds(pairs)
        factors = np.array([self.factor(pair) for pair in pairs])
        scaled = odds / self.likelihoods.decision.temperature
        weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        at_work = np.array([[name in HYPOTHESES_OF[cause] for cause in CAUSES] for name in HYPOTHESES], dtype=float)
        likely = (weights / weights.sum(axis=1, keepdims=True)) @ at_work
        is_named = likely.max(axis=1) >= self.likelihoods.decision.threshold
        first = np.where(is_named, np.array(CAUSES)[likely.argmax(axis=1)], "unknown")
        for verdict in sorted(verdicts):
            chosen = np.flatnonzero(first == verdict)
            for number in chosen[np.argsort(factors[chosen], kind="stable")][:MOST_TRIED]:
                cause, probability = self.verdict(pairs[number], odds[number])
                if cause == verdict:
                    yield Flip(pairs[number], cause, probability, float(factors[number]))
                    break
