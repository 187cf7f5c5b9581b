"""What a person is shown before deciding on a repair: what its rehearsal on the incident's own recording would do.

A rehearsal is a run of the repair's runbook without a service: it plans, and applies nothing.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from lepton_kit.diagnosis.recorded import rows_of
from lepton_kit.errors import InputError
from lepton_kit.runs.manifest import Result, find_run, title_of

MAY_COST, OBSERVED = "may_cost", "observe_seconds"
"""Parameters of a repair's runbook: the objectives that may get worse, and how long the service is observed (s)."""


@dataclass(frozen=True)
class Rehearsal:
    """What a rehearsal found; `figure` is a picture (PNG) of the rows or of the load, and `alt` what it shows.

    `by_hand` is what no action of the service does, and `lasting` says which part of the plan cannot be undone.
    """

    run_id: str
    status: str
    plan: str = ""
    reasons: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    may_cost: tuple[str, ...] | None = None
    observed_s: float | None = None
    by_hand: tuple[str, ...] = ()
    lasting: str = ""
    error: str = ""
    figure: bytes | None = field(default=None, repr=False)
    alt: str = ""

    def facts(self, service: str, evidence: Mapping[str, str]) -> dict[str, str]:
        """Return by name what a person decides on; nothing for what the runbook does not say."""
        if self.error:
            return {"Rehearsal": f"failed: {self.error}", **evidence}
        cost = "not stated by the runbook" if self.may_cost is None else ", ".join(self.may_cost) or "no objective"
        watched = f", within {self.observed_s:g} s" if self.observed_s else ""
        undo = f"lepton undo {service} (restores version, size and input fixes; a restart cannot be undone)"
        return {
            "Plan": self.plan,
            **({"By hand": "; ".join(self.by_hand)} if self.by_hand else {}),
            "Why": "; ".join(self.reasons),
            "Rows touched": "; ".join(self.rows) or "none",
            "Risk": f"may cost: {cost}; rolls back if another objective gets worse{watched}",
            "Undo": self.lasting or undo,
            **evidence,
        }

    @property
    def picture(self) -> str:
        """Return the figure as a data URL; empty where there is none."""
        return f"data:image/png;base64,{base64.b64encode(self.figure).decode()}" if self.figure else ""


@lru_cache(maxsize=100)  # a run that has ended does not change, and the page is asked for again and again
def read_rehearsal(run_id: str, project: Path) -> Rehearsal:
    """Return what a rehearsal found, from its manifest and its notebook."""
    from lepton_kit.reports.story import first_figure  # nbformat, which only this page of the watch needs
    from lepton_kit.runs.notebooks import read_notebook

    folder = project / "runs" / run_id
    try:
        run = find_run(run_id, project)
        picture = first_figure(read_notebook(folder / "notebook.ipynb"))
    except InputError as error:
        return Rehearsal(run_id, "unreadable", error=str(error))
    failed = run.error.message if run.error else "" if run.status == "succeeded" else run.status
    by_hand = run.results["by_hand"].value if "by_hand" in run.results else None
    cost, seconds = run.parameters.get(MAY_COST), run.parameters.get(OBSERVED)
    return Rehearsal(
        run_id=run_id,
        status=run.status,
        plan=str(run.results["plan"].value) if "plan" in run.results else "",
        reasons=tuple(" ".join(row) for row in _rows(run.results.get("reasons"))),
        rows=(*_counted(run.results), *(": ".join(row) for row in _rows(run.results.get("input_fixes")))),
        may_cost=tuple(map(str, cost)) if isinstance(cost, list) else None,
        observed_s=float(seconds) if isinstance(seconds, int | float) else None,
        by_hand=tuple(map(str, by_hand)) if isinstance(by_hand, list) else (),
        lasting=str(run.results["lasting"].value) if "lasting" in run.results else "",
        error=failed,
        figure=picture.png if picture else None,
        alt=picture.alt if picture else "",
    )


def evidence_of(cause: str, diagnosed: Mapping[str, Any]) -> dict[str, str]:
    """Return what speaks for a cause and against it, as the diagnosis ranked it.

    >>> ranking = {"columns": ["cause", "for", "against"], "rows": [["data", "contract: broken", ""]]}
    >>> evidence_of("data", {"ranking": ranking})
    {'Evidence for': 'contract: broken', 'Evidence against': 'none'}
    """
    own = next((row for row in rows_of(diagnosed.get("ranking")) if row.get("cause") == cause), None)
    if own is None:
        return {}
    return {f"Evidence {side}": str(own.get(side) or "none").replace("_", " ") for side in ("for", "against")}


def _counted(results: Mapping[str, Result]) -> tuple[str, ...]:
    """Return the results that count rows, in words."""
    return tuple(
        f"{title_of(name, one)}: {one.value:,}" for name, one in results.items() if one.unit == "rows" and one.is_single
    )


def _rows(result: Result | None) -> list[list[str]]:
    """Return the cells of a recorded table; none where it is no table."""
    if result is None or not isinstance(result.value, Mapping) or "rows" not in result.value:
        return []
    return [[str(cell) for cell in row] for row in result.value["rows"]]
