"""From findings to probabilities: log-odds over what may have happened, added up evidence by evidence.

Each finding multiplies the odds of a hypothesis by its likelihood ratio (Bayes' rule; I. J. Good, Probability and the
Weighing of Evidence, 1950). Evidence that tells the same fact is grouped, and only the strongest of a group counts
fully, as a naive product would count that fact once per finding.

The ratios are read from `likelihoods.toml`, which an operator can edit: a file of one's own holds only what differs,
and is laid over the one that ships with the kit.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydantic
from pydantic import Field, PositiveFloat

from lepton_kit.diagnosis.evidence import Cause, Evidence
from lepton_kit.errors import InputError
from lepton_kit.telemetry.declaration import Section
from lepton_kit.telemetry.recordings import printable

SHIPPED = Path(__file__).with_name("likelihoods.toml")

HYPOTHESES: Mapping[str, tuple[str, ...]] = {
    "nothing": (),
    "world": ("world",),
    "data": ("data",),
    "model": ("model",),
    "compute": ("compute",),
    "data and model": ("data", "model"),
    "data and compute": ("data", "compute"),
    "model and compute": ("model", "compute"),
}
"""What may have happened, and what is at work then. `nothing` and `world` (a true change of it) are no fault."""


class Decision(Section):
    """When a cause is named; see `likelihoods.toml` for what each number means."""

    threshold: float = Field(gt=0, lt=1)
    second: float = Field(gt=0, lt=1)
    temperature: PositiveFloat
    dependent: float = Field(ge=0, le=1)
    none_needs: tuple[str, ...] = ()
    none_needs_one_of: tuple[str, ...] = ()
    world_needs: tuple[str, ...] = ()
    world_shown_by: Mapping[str, str] = Field(default_factory=dict)


class Ratios(Section):
    """How many times as likely a finding is under each cause as where nothing happened; 1 where none is given."""

    world: PositiveFloat = 1.0
    data: PositiveFloat = 1.0
    model: PositiveFloat = 1.0
    compute: PositiveFloat = 1.0
    because: str = ""


class Weighed(Section):
    """The ratios of each finding of one piece of evidence, and the group whose members tell the same fact.

    What is not evidence `alone` speaks for a hypothesis only where something else does, too.
    """

    group: str
    alone: bool = True
    findings: dict[str, Ratios]


class Likelihoods(Section):
    """Everything that turns findings into probabilities.

    Examples
    --------
    >>> table = read_likelihoods()
    >>> table.evidence["contract"].findings["broken"].data > 10
    True
    """

    decision: Decision
    priors: dict[str, PositiveFloat]
    evidence: dict[str, Weighed]

    def ratios(self, name: str, finding: str) -> Ratios:
        """Return the ratios of a finding; all 1 where the table does not know it, as a question not answered."""
        known = self.evidence.get(name)
        return known.findings.get(finding, Ratios()) if known else Ratios()


def read_likelihoods(path: Path | str | None = None) -> Likelihoods:
    """Read the table that ships with the kit, with an operator's own file laid over it.

    Raises
    ------
    InputError
        When the file is not readable, names evidence, findings or hypotheses that there are not, or holds a number
        that none may be.
    """
    if path is None:
        return _shipped()
    shipped = _parsed(SHIPPED)
    own = _parsed(Path(path))
    if unknown := _unknown(own, shipped):
        raise InputError(f"{path}: {unknown[0]}; the table that ships with the kit has {', '.join(unknown[1])}")
    return _checked(_laid_over(shipped, own), Path(path))


@cache
def _shipped() -> Likelihoods:
    return _checked(_parsed(SHIPPED), SHIPPED)


def _parsed(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as TOML ({printable(str(error), 200)})") from error


def _checked(table: dict[str, Any], path: Path) -> Likelihoods:
    try:
        return Likelihoods.model_validate(table)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"{path}: {place} = {printable(repr(first['input']), 80)}: {first['msg']}") from error


def _unknown(own: Mapping[str, Any], known: Mapping[str, Any], place: str = "") -> tuple[str, list[str]] | None:
    """Return the first key of a table that another one does not have, and what that has in its place."""
    for key, value in own.items():
        if key not in known:
            if isinstance(value, dict) or not place.startswith("evidence."):
                return f"{place}{key}: there is no such entry", list(known)
            continue  # a ratio that the shipped table leaves at 1
        if (
            isinstance(value, dict)
            and isinstance(known[key], dict)
            and (found := _unknown(value, known[key], f"{place}{key}."))
        ):
            return found
    return None


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    both = {
        key: _laid_over(below[key], value) if isinstance(value, dict) and isinstance(below.get(key), dict) else value
        for key, value in above.items()
    }
    return {**below, **both}


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

    >>> from lepton_kit.diagnosis.ranking import read_likelihoods
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
