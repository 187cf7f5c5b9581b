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


def log_ratios(evidence: Sequence[Evidence], likelihoods: Likelihoods) -> pd.DataFrame:
    """Return the natural logarithm of every finding's ratio (rows, by evidence) under every hypothesis (columns)."""
    rows = {
        item.name: [np.log(hypothesis_ratio(likelihoods.ratios(item.name, item.finding), name)) for name in HYPOTHESES]
        for item in evidence
    }
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(HYPOTHESES), dtype=float)
    follows = [name in likelihoods.evidence and not likelihoods.evidence[name].alone for name in table.index]
    has_company = (table[~np.array(follows, dtype=bool)] >= np.log(TELLING)).any()
    table.loc[follows, ~has_company] = table.loc[follows, ~has_company].clip(upper=0.0)
    return table


def log_odds(evidence: Sequence[Evidence], likelihoods: Likelihoods) -> pd.Series:
    """Return the logarithm of prior times likelihood of every hypothesis, up to a constant; not yet tempered."""
    table = log_ratios(evidence, likelihoods)
    groups = [likelihoods.evidence[name].group if name in likelihoods.evidence else name for name in table.index]
    prior = pd.Series({name: np.log(likelihoods.priors[name]) for name in HYPOTHESES})
    return prior + sum(
        (_of_group(part, likelihoods.decision.dependent) for _, part in table.groupby(groups)), start=0.0
    )


def _of_group(table: pd.DataFrame, dependent: float) -> pd.Series:
    """Add up the logarithms of one group: the strongest fully, the others in part."""
    strongest = table.abs().to_numpy().argmax(axis=0)
    full = pd.Series(table.to_numpy()[strongest, np.arange(table.shape[1])], index=table.columns)
    return full + dependent * (table.sum() - full)


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
