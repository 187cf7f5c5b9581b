"""How well drills went: the scores that `benchmarks/drills.py` writes down and that a page of drills shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from sklearn.metrics import confusion_matrix, f1_score

from lepton_kit.ops.drill_results import Drilled

CAUSES = ("data", "model", "compute", "none")
NAMED = (*CAUSES, "unknown")
PROBABILITIES = (0, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
"""Edges of the groups in which stated probabilities are held against what was right."""

SCORED = "scored"
"""What `Drilled.extra` holds under this name is scored in place of what the drill acted on: `cause`, `also` and
`probability`, as named by one that had not seen this type of fault."""


@dataclass(frozen=True)
class Target:
    """What a score is wanted to be: at least (or at most) so much."""

    limit: float
    is_most: bool = False

    def is_met(self, value: float) -> bool:
        """Say whether a score is as wanted."""
        return value <= self.limit if self.is_most else value >= self.limit


TARGETS: Mapping[str, Target] = {
    "macro-F1": Target(0.95),
    "right remedy first": Target(0.95),
    "false repairs on benign": Target(0.01, is_most=True),
    "valid path": Target(0.9),
}


def drill_rows(drilled: Sequence[Drilled]) -> pd.DataFrame:
    """Return drills as the table that is scored, a row each.

    Its columns: `fault` and `severity`; `causes`, those truly at work; `alert`, empty where none fired; `named`, `also`
    and `probability` of the diagnosis; `verdict` of the repair; `path_flaw`, None where the path is not scored;
    `detected_after` counts seconds since the fault began and
    `recovered_after` since the alert, NaN where it was not.
    """
    rows = []
    for one in drilled:
        scored = one.extra.get(SCORED, {})
        rows.append(
            {
                "fault": one.fault,
                "severity": one.severity,
                "causes": tuple(one.causes),
                "alert": one.alert,
                "named": scored.get("cause", one.cause),
                "also": tuple(scored.get("also", one.also)),
                "probability": scored.get("probability", one.probability),
                "verdict": one.verdict,
                "detected_after": one.detected_after,
                "recovered_after": one.time_to_recover,
                "path_flaw": one.path_flaw,
            }
        )
    return pd.DataFrame(rows).astype({"detected_after": float, "recovered_after": float})


def hit(causes: Sequence[str], named: str) -> str:
    """Return the true cause to score a name against: of two at once, either counts.

    >>> hit(("compute", "data"), "data"), hit(("compute", "data"), "none")
    ('data', 'compute')
    """
    return named if named in causes else causes[0]


def scores(rows: pd.DataFrame, method: str = "named") -> dict[str, float]:
    """Return macro-F1 over the causes there were, accuracy, right remedy first, false repairs, and abstentions.

    `method` is the column of the rows that holds what was named. Shares are from 0 to 1; NaN where there was no drill
    to take the share of.

    Examples
    --------
    >>> rows = pd.DataFrame({"causes": [("data",), ("none",)], "named": ["data", "compute"]})
    >>> found = scores(rows)
    >>> found["right remedy first"], found["false repairs on benign"], found["macro-F1"]
    (1.0, 1.0, 0.5)
    """
    true = true_causes(rows, method)
    benign = is_benign(rows)
    right = true == rows[method]
    named = rows[method].isin(("data", "model", "compute"))
    return {
        "macro-F1": float(f1_score(true, rows[method], labels=sorted(set(true)), average="macro", zero_division=0)),
        "accuracy": float(right.mean()),
        "right remedy first": float(right[~benign].mean()),
        "right where one is named": float(right[~benign & named].mean()),
        "false repairs on benign": float(named[benign].mean()),
        "valid path": path_share(rows),
        "abstained": float((rows[method] == "unknown").mean()),
    }


def path_share(rows: pd.DataFrame) -> float:
    """Return the share of right diagnoses, of faults that alerted, whose path is valid; NaN where none is scored.

    With one cause its order holds by construction (`lepton_kit.diagnosis.path`): the share says then how often the step
    of the cause is there, dated no earlier than the fault, and the objective that alerted is the end.

    >>> path_share(pd.DataFrame({"path_flaw": ["valid", "out of order", None]}))
    0.5
    """
    flaws = rows["path_flaw"].dropna() if "path_flaw" in rows else pd.Series(dtype=str)
    return float((flaws == "valid").mean()) if len(flaws) else float("nan")


def true_causes(rows: pd.DataFrame, method: str = "named") -> pd.Series:
    """Return the true cause of each drill that a name is scored against."""
    return pd.Series(
        [hit(causes, named) for causes, named in zip(rows["causes"], rows[method], strict=True)],
        index=rows.index, dtype=object,
    )  # fmt: skip


def is_benign(rows: pd.DataFrame) -> pd.Series:
    """Say of each drill whether nothing was wrong."""
    return rows["causes"].map(lambda causes: tuple(causes) == ("none",)).astype(bool)


def confusion(rows: pd.DataFrame) -> pd.DataFrame:
    """Return how often each true cause (index) was named what (columns)."""
    counts = confusion_matrix(true_causes(rows), rows["named"], labels=list(NAMED))
    return pd.DataFrame(counts, index=list(NAMED), columns=list(NAMED)).loc[list(CAUSES)]


def reliability(rows: pd.DataFrame) -> pd.DataFrame:
    """Return how often the named cause was right, by the probability that the diagnosis gave it.

    Returns
    -------
    DataFrame
        `probability` (the group), `stated` (its mean), `right` (a share) and `drills`; groups without drills are left
        out, and so are drills in which no cause was named.
    """
    named = rows[rows["named"] != "unknown"]
    right = [name in causes for name, causes in zip(named["named"], named["causes"], strict=True)]
    bins = pd.cut(named["probability"].astype(float), list(PROBABILITIES), include_lowest=True)
    grouped = pd.DataFrame({"stated": named["probability"], "right": right}).groupby(bins, observed=True)
    return grouped.agg(stated=("stated", "mean"), right=("right", "mean"), drills=("right", "size")).reset_index()


def by_type(rows: pd.DataFrame) -> pd.DataFrame:
    """Return for each type of fault: drills, severities, alerts, first cause right, recovered, and median times (s)."""
    found = {}
    for name, part in rows.groupby("fault", sort=False):
        alerted = part[part["alert"] != ""]
        found[name] = {
            "drills": len(part),
            "least severity": part["severity"].min(),
            "greatest severity": part["severity"].max(),
            "alerts": len(alerted),
            "right": float((true_causes(part) == part["named"]).mean()),
            "recovered of alerts": float((alerted["verdict"] == "recovered").mean()) if len(alerted) else float("nan"),
            "detected after (s)": alerted["detected_after"].median(),
            "recovered after (s)": alerted["recovered_after"].median(),
        }
    return pd.DataFrame.from_dict(found, orient="index")


@dataclass(frozen=True)
class Times:
    """How long something took (s): in how many drills it came to that, the median and the 90th percentile, or NaN."""

    drills: int
    median: float
    p90: float


def times(rows: pd.DataFrame) -> dict[str, Times]:
    """Return how long it took to `detect` a fault, and from there to `recover`.

    Examples
    --------
    >>> rows = pd.DataFrame({"detected_after": [10.0, 20.0, None], "recovered_after": [None] * 3})
    >>> times(rows)["detect"]
    Times(drills=2, median=15.0, p90=19.0)
    """
    sides = {"detect": rows["detected_after"].dropna(), "recover": rows["recovered_after"].dropna()}
    return {name: Times(len(side), float(side.median()), float(side.quantile(0.9))) for name, side in sides.items()}
