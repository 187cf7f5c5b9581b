"""Earlier incidents whose diagnosis found the same, what they came to, and which repair ended them.

Only what the ledger and the manifests hold is read; a repair is named, never started.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_kit.ops.watch.queue import Incident, Queue
from lepton_kit.ops.watch.status import diagnosed, run_results
from lepton_kit.reports.facts import duration

if TYPE_CHECKING:
    from lepton_kit.diagnosis.likeness import Likeness

LEAST_ALIKE = 0.7
"""Likeness below which an earlier incident is not shown: from here on, drills that were alike had the same cause."""

MOST_COMPARED, MOST_SHOWN = 200, 3


def seen_before(incident: Incident, queue: Queue, project: Path) -> dict[str, Any]:
    """Return the earlier incidents that are over and were alike, the most alike first.

    `incidents` holds for each its id, service, when it began, its cause, how alike it is and in which findings, and
    where it ended repaired (`is_repaired`) the runbooks that repaired it and the seconds it took to recover.
    `compared` counts those that could be compared; `why_not` says why none could, and is empty otherwise.
    """
    from lepton_kit.diagnosis.likeness import findings_of, likeness  # 90 MB that only the page of an incident pays

    own = queue.main_incident(incident.id) or incident
    findings = findings_of(diagnosed(own, queue, project).get("evidence"))
    if not findings:
        return {"incidents": [], "compared": 0, "why_not": "no diagnosis of this incident has recorded its evidence"}
    earlier = [one for one in queue.over(MOST_COMPARED) if one.starts_at < own.starts_at]
    told = [(one, diagnosed(one, queue, project)) for one in earlier]
    known = [(one, said, likeness(findings, findings_of(said.get("evidence")))) for one, said in told]
    compared = [(one, said, found) for one, said, found in known if found is not None]
    facts = [
        _facts(one, said, found, own, queue, project) for one, said, found in compared if found.score >= LEAST_ALIKE
    ]
    facts.sort(key=lambda one: (one["alike"], one["is_same_service"], one["began"]), reverse=True)
    why_not = "" if compared else f"{len(earlier)} earlier incidents, none with enough findings in common to compare"
    return {"incidents": facts[:MOST_SHOWN], "compared": len(compared), "why_not": why_not}


def _facts(
    one: Incident, said: Mapping[str, Any], found: Likeness, own: Incident, queue: Queue, project: Path
) -> dict[str, Any]:
    repairs = _repairs(one, queue, project)
    began, also = _began(one, said), said.get("also") or []
    took = (datetime.fromisoformat(one.ends_at) - began).total_seconds() if one.ends_at else None
    return {
        "id": one.id, "name": one.name, "service": one.service, "is_same_service": one.service == own.service,
        "began": began.isoformat(), "cause": said.get("cause"), "also": also if isinstance(also, list) else [also],
        "alike": round(found.score, 2), "shared": list(found.shared),
        "is_repaired": bool(repairs), "repaired_by": repairs, "recovered_after_s": took if repairs else None,
    }  # fmt: skip


def _began(incident: Incident, said: Mapping[str, Any]) -> datetime:
    """Return the onset by the diagnosis, or else when the alert fired; its runbook may have recorded anything."""
    try:
        began = datetime.fromisoformat(said["onset"])
    except (KeyError, ValueError, TypeError):
        began = datetime.fromisoformat(incident.starts_at)
    return began if began.tzinfo else began.replace(tzinfo=UTC)


def _repairs(incident: Incident, queue: Queue, project: Path) -> list[str]:
    """Return the runbooks of the repairs after which the objective had recovered, and which were not undone."""
    runs = {job.number: job.run_id for job in queue.jobs(incident=incident.id, kind="remedy", state="ended")}
    names = []
    for one in queue.remedies(incident.id):
        results = run_results(run_id, project) if (run_id := runs.get(one.job)) else {}
        is_done = results.get("applied") is not False and not results.get("rolled_back")
        if results.get("verdict") == "recovered" and is_done:
            names.append(one.notebook)
    return names


def seen_words(seen: Mapping[str, Any]) -> list[str]:
    """Return what `seen_before` found in words, a line for each incident."""
    lines = [alike_words(one) for one in seen["incidents"]]
    return lines or [f"not known: {seen['why_not']}" if seen["why_not"] else f"none of {seen['compared']} is alike"]


def alike_words(one: Mapping[str, Any]) -> str:
    """Return one of the incidents that `seen_before` found in words."""
    cause = " and ".join([str(one["cause"] or "not diagnosed"), *one["also"]])
    where = "" if one["is_same_service"] else f"on {one['service']}, "
    ended = (
        f"repaired by {' and '.join(one['repaired_by'])}, recovered after {duration(one['recovered_after_s'])}"
        if one["is_repaired"]
        else "not repaired"
    )
    return f"{one['id']} ({where}{one['began'][:10]}, cause: {cause}, {ended}; alike {one['alike']:.2f})"
