"""From findings to probabilities: log-odds over what may have happened, added up evidence by evidence.

Each finding multiplies the odds of a hypothesis by its likelihood ratio (Bayes' rule; I. J. Good, Probability and the
Weighing of Evidence, 1950). Evidence that tells the same fact is grouped, and only the strongest of a group counts
fully, as a naive product would count that fact once per finding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from lepton_kit.diagnosis.evidence import Cause, Evidence
from lepton_kit.diagnosis.likelihoods import HYPOTHESES, Likelihoods, Ratios

CAUSES: tuple[Cause, ...] = ("data", "model", "compute", "none")
HYPOTHESES_OF: Mapping[Cause, tuple[str, ...]] = {
    "none": ("nothing", "world"),
    **{cause: tuple(name for name, at_work in HYPOTHESES.items() if cause in at_work) for cause in CAUSES[:3]},
}
"""The hypotheses under which a cause is at work."""

TELLING = 1.25
"""A finding that changes the odds of a cause by less than this factor says nothing about it."""


def hypothesis_ratio(ratios: Ratios, hypothesis: str) -> float:
    """Return how many times as likely a finding is under a hypothesis as where nothing happened.

    Two causes at once explain a finding as well as the better of them where its ratio is above 1; else the finding must
    survive both.

    >>> hypothesis_ratio(Ratios(data=100, compute=0.2), "data and compute")
    100.0
    >>> round(hypothesis_ratio(Ratios(data=0.5, compute=0.2), "data and compute"), 2)
    0.1
    """
    values = [float(getattr(ratios, cause)) for cause in HYPOTHESES[hypothesis]]
    return max(values) if any(value > 1 for value in values) else float(np.prod(values))


def log_ratios(name: str, finding: str, likelihoods: Likelihoods) -> np.ndarray:
    """Return the natural logarithm of a finding's ratio under every hypothesis, in the order of `HYPOTHESES`."""
    ratios = likelihoods.ratios(name, finding)
    return np.log([hypothesis_ratio(ratios, hypothesis) for hypothesis in HYPOTHESES])


def log_odds(evidence: Sequence[Evidence], likelihoods: Likelihoods) -> pd.Series:
    """Return the logarithm of prior times likelihood of every hypothesis, up to a constant; not yet tempered."""
    ratios = np.array([log_ratios(item.name, item.finding, likelihoods) for item in evidence])
    odds = combined([item.name for item in evidence], ratios.reshape(1, -1, len(HYPOTHESES)), likelihoods)
    return pd.Series(odds[0], index=list(HYPOTHESES))


def combined(names: Sequence[str], ratios: np.ndarray, likelihoods: Likelihoods) -> np.ndarray:
    """Return the log-odds of every hypothesis (sets, hypotheses), up to a constant, for many sets of findings at once.

    `ratios` are the logarithms of their ratios (sets, n, hypotheses), of the n pieces of evidence in `names`.
    """
    known = likelihoods.evidence
    follows = np.array([name in known and not known[name].alone for name in names], dtype=bool)
    has_company = (ratios[:, ~follows] >= np.log(TELLING)).any(axis=1)[:, None, :]
    ratios = np.where(follows[:, None] & ~has_company, np.minimum(ratios, 0.0), ratios)
    groups = np.array([known[name].group if name in known else name for name in names])
    prior = np.log([likelihoods.priors[name] for name in HYPOTHESES])
    odds = np.tile(prior, (len(ratios), 1))
    for group in dict.fromkeys(groups):
        own = ratios[:, groups == group]
        strongest = np.abs(own).argmax(axis=1)[:, None, :]  # counts fully, the others in part
        full = np.take_along_axis(own, strongest, axis=1)[:, 0]
        odds += full + likelihoods.decision.dependent * (own.sum(axis=1) - full)
    return odds


def probabilities(evidence: Sequence[Evidence], likelihoods: Likelihoods) -> pd.Series:
    """Return the probability of every hypothesis; they add up to 1.

    >>> from lepton_kit.diagnosis.likelihoods import read_likelihoods
    >>> found = [Evidence("contract", "broken", ""), Evidence("latency", "steady", "")]
    >>> probabilities(found, read_likelihoods()).idxmax()
    'data'
    """
    return tempered(log_odds(evidence, likelihoods), likelihoods.decision.temperature)


def tempered(odds: pd.Series, temperature: float) -> pd.Series:
    """Return probabilities from log-odds divided by a temperature (Guo et al., ICML 2017): above 1 less sure."""
    scaled = odds / temperature
    weights: pd.Series = (scaled - scaled.max()).map(np.exp)
    return weights / weights.sum()


def by_cause(probability: pd.Series) -> dict[Cause, float]:
    """Return the probability that each cause is at work, the likeliest first.

    Two causes at once count for both of them, so that the probabilities may add up to more than 1.
    """
    at_work = {cause: float(probability[list(names)].sum()) for cause, names in HYPOTHESES_OF.items()}
    return dict(sorted(at_work.items(), key=lambda item: item[1], reverse=True))


def weigh(evidence: Sequence[Evidence], likelihoods: Likelihoods) -> tuple[Evidence, ...]:
    """Return the evidence with the causes that each finding speaks for and against."""
    table = weights_of_evidence(evidence, likelihoods)
    telling = np.log(TELLING)
    return tuple(
        replace(
            item,
            speaks_for=frozenset(cause for cause in CAUSES if table.loc[item.name, cause] >= telling),
            speaks_against=frozenset(cause for cause in CAUSES if table.loc[item.name, cause] <= -telling),
        )
        for item in evidence
    )


def weights_of_evidence(evidence: Sequence[Evidence], likelihoods: Likelihoods) -> pd.DataFrame:
    """Return how much each finding speaks for each cause, in nats; below 0 it speaks against it.

    For a fault this is the logarithm of its ratio: how much likelier the finding is than where nothing happened. For
    `none` it is how much better a change of the world, or nothing, explains the finding than the best of the faults;
    a finding that no fault makes likelier counts for it as much as it counts against a fault.
    """
    rows = {item.name: _weights(likelihoods.ratios(item.name, item.finding)) for item in evidence}
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(CAUSES), dtype=float)


def _weights(ratios: Ratios) -> list[float]:
    faults = [ratios.data, ratios.model, ratios.compute]
    best = max(faults) if max(faults) > 1 else min(faults)
    return [*map(float, np.log(faults)), float(np.log(max(1.0, ratios.world) / best))]
