"""What every piece of evidence is, and what the questions share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pandas as pd
from scipy import stats

from lepton_kit.data.drift import change_point
from lepton_kit.diagnosis.case import Case, onset_of, onset_table

Cause = Literal["data", "model", "compute", "none", "unknown"]
NOT_CHECKED = "not checked"


@dataclass(frozen=True)
class Evidence:
    """One answered question: what was found, how large, since when.

    `speaks_for` and `speaks_against` name the causes that the finding makes more and less likely; they are filled from
    the table of likelihood ratios (`lepton_kit.diagnosis.ranking.weigh`), not by the question.
    """

    name: str
    finding: str
    summary: str
    effect: float = float("nan")
    unit: str = ""
    p_value: float | None = None
    onset: pd.Timestamp | None = None
    speaks_for: frozenset[Cause] = frozenset()
    speaks_against: frozenset[Cause] = frozenset()
    checked: bool = True


def not_checked(name: str, why: str) -> Evidence:
    """Return the evidence of a question that could not be answered."""
    return Evidence(name, NOT_CHECKED, why, checked=False)


def too_few(case: Case, before: pd.Series | pd.DataFrame, during: pd.Series | pd.DataFrame, what: str) -> str:
    """Say what is lacking where either side has fewer rows than are needed; nothing where both have enough."""
    least = case.criteria.least_rows
    enough = len(before) >= least and len(during) >= least
    return (
        ""
        if enough
        else f"{len(before)} {what} before the onset and {len(during)} since; {least} are needed on each side"
    )


def share_p_value(before: pd.Series, during: pd.Series) -> float:
    """Return Fisher's exact p-value of two shares."""
    table = [[int(side.sum()), int(len(side) - side.sum())] for side in (before, during)]
    return float(stats.fisher_exact(table).pvalue)


def honest_p_value(case: Case, symptom: str, p_value: float) -> float:
    """Return the p-value of the change point where the onset was chosen from this very series, else the given one.

    A test of the split takes the split as known, and is too sure where it was chosen.
    """
    if case.onset_from != f"change point of {symptom}":
        return p_value
    table = onset_table(case)
    return float(table.loc[table["symptom"] == symptom, "p"].iloc[0])


def counts_by_itself(case: Case, symptom: str) -> bool:
    """Tell whether a symptom has a change point that is large and not by chance, wherever it lies."""
    table = onset_table(case)
    return bool(table.loc[table["symptom"] == symptom, "counts"].any())


def onset_in(series: pd.Series, case: Case) -> pd.Timestamp | None:
    """Return when a series by time changed; None where it did not, or may have by chance."""
    change = change_point(series)
    if change is None or change.p_value >= case.criteria.alpha:
        return None
    return onset_of(change)
