"""How alike two incidents are: by what was found in both, whatever their alerts and texts say.

The measure is a weighted Jaccard index of the findings. A finding weighs as much as it speaks for a fault or a change
of the world, by the likelihood table that ships with the kit: "nothing moved" weighs nothing.

Of 97 simulated drills that alerted and were not the only one of their fault (`drawn_drills`, 4 of each, seed 11; goog,
scoring and chat; pairs of faults too), 95 had another drill that was alike by 0.70 or more. The nearest had the same
fault in 77 (81%; 66 of 74 where no pairs are), and a cause in common in all. Of another service alone it had the same
fault in 24 of 37 only: faults that look the same from outside, such as two kinds of wrong versions, are not told apart.
No benign drill was that alike to one of a fault.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lepton_kit.diagnosis.evidence import NOT_APPLICABLE, NOT_CHECKED
from lepton_kit.diagnosis.ranking import TELLING, read_likelihoods
from lepton_kit.diagnosis.recorded import rows_of

Findings = Mapping[str, str]
"""What each question that was answered found, by the question's name."""

LEAST_COMPARED = 0.5
"""Part of what spoke for a cause in either incident that must have been checked in the other one, too."""

LEAST_SHARED = 2
"""Findings that must speak for a cause in both incidents: one alone, such as slow answers, is no likeness."""


@dataclass(frozen=True)
class Likeness:
    """How alike two incidents are, from 0 to 1, and the findings that both have, the most telling first."""

    score: float
    shared: tuple[str, ...]


def findings_of(table: Any) -> dict[str, str]:
    """Return the findings of a table of evidence as a run recorded it (`Diagnosis.summary`); not what was not checked.

    >>> findings_of({"columns": ["evidence", "finding"], "rows": [["contract", "broken"], ["ratings", "not checked"]]})
    {'contract': 'broken'}
    """
    found = {str(row.get("evidence")): str(row.get("finding")) for row in rows_of(table)}
    return {name: finding for name, finding in found.items() if finding not in (NOT_CHECKED, NOT_APPLICABLE)}


def likeness(these: Findings, those: Findings) -> Likeness | None:
    """Return how alike the findings of two incidents are; None where they have too little in common to compare.

    Only questions that were answered for both are compared. Findings that speak for a cause count by their weight: the
    same ones as common, different ones as what sets the two apart.

    >>> feed = {"contract": "broken", "stale_values": "more", "latency": "steady"}
    >>> likeness(feed, feed | {"missing_values": "more"})
    Likeness(score=1.0, shared=('contract: broken', 'stale_values: more'))
    >>> likeness(feed, {"contract": "broken"}) is None
    True
    """
    both = these.keys() & those.keys()
    for own in (these, those):
        compared = sum(_weight(name, own[name]) for name in both)
        if compared == 0 or compared < LEAST_COMPARED * sum(_weight(*item) for item in own.items()):
            return None
    common = {name: weight for name in both if these[name] == those[name] and (weight := _weight(name, these[name]))}
    if len(common) < LEAST_SHARED:
        return None
    every = sum(max(_weight(name, these[name]), _weight(name, those[name])) for name in both)
    strongest = sorted(common, key=lambda name: (-common[name], name))
    return Likeness(sum(common.values()) / every, tuple(f"{name}: {these[name]}" for name in strongest))


def _weight(name: str, finding: str) -> float:
    """Return how much a finding speaks for the cause that it speaks for most, in nats; 0 where for none."""
    ratios = read_likelihoods().ratios(name, finding)
    most = max(ratios.world, ratios.data, ratios.model, ratios.compute)
    return math.log(most) if most >= TELLING else 0.0
