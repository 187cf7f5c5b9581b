"""The look back on an incident: what a machine can derive from its history and its recordings, as tables.

Measures as in the field: time to detect runs from the onset to the alert, to diagnose from the alert to the diagnosis,
to mitigate from the onset to the first action on the service, to recover from the onset to the end of the alert.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from lepton_kit.diagnosis.history import History, Job, utc
from lepton_kit.diagnosis.recorded import rows_of
from lepton_kit.diagnosis.recovery import Ratio, sli_ratio
from lepton_kit.diagnosis.rows import contract_breaches
from lepton_kit.telemetry.recordings import Recording

TIMELINE = ("time", "kind", "event", "source")
ALPHA = 0.01
"""From this p-value on, evidence may be chance: it dates nothing."""


@dataclass(frozen=True)
class Milestones:
    """The times (UTC) that an incident is measured by; None where it is not known, or did not come to that."""

    onset: pd.Timestamp | None
    alerted: pd.Timestamp
    diagnosed: pd.Timestamp | None
    mitigated: pd.Timestamp | None
    recovered: pd.Timestamp | None

    @property
    def time_to_detect(self) -> float | None:
        """Seconds from the onset to the alert; below 0 where the alert came before what the diagnosis dates."""
        return _seconds(self.onset, self.alerted)

    @property
    def time_to_diagnose(self) -> float | None:
        """Seconds from the alert to the end of the diagnosis."""
        return _seconds(self.alerted, self.diagnosed)

    @property
    def time_to_mitigate(self) -> float | None:
        """Seconds from the onset to the first action on the service."""
        return _seconds(self.onset, self.mitigated)

    @property
    def time_to_recover(self) -> float | None:
        """Seconds from the onset to the end of the alert."""
        return _seconds(self.onset, self.recovered)


def _seconds(start: pd.Timestamp | None, end: pd.Timestamp | None) -> float | None:
    return None if start is None or end is None else (end - start).total_seconds()


def milestones(history: History) -> Milestones:
    """Return when the incident began, was noticed, understood, acted upon, and was over.

    The onset is that of the diagnosis. The first action is that of the service's own record; without one, the end of
    the first repair that changed something.
    """
    diagnosis = history.diagnosis
    diagnosed = None
    if diagnosis and diagnosis.status == "succeeded":  # its job may go on to rehearse the repairs
        diagnosed = (diagnosis.run.ended if diagnosis.run else None) or diagnosis.ended
    return Milestones(
        onset=history.onset,
        alerted=utc(history.alert.starts_at),
        diagnosed=utc(diagnosed) if diagnosed else None,
        mitigated=_mitigated(history),
        recovered=utc(history.alert.ends_at) if history.alert.ends_at else None,
    )


def _mitigated(history: History) -> pd.Timestamp | None:
    if done := [utc(action.time) for action in history.actions if action.outcome == "done"]:
        return min(done)
    applied = [job.ended for job in history.jobs if job.ended and job.result("applied") is True]
    return utc(min(applied)) if applied else None


def signals(history: History) -> list[tuple[pd.Timestamp, str]]:
    """Return since when the evidence for the diagnosed causes was there, and what it was; not what chance explains.

    A diagnosis that recorded no dated evidence leaves the symptoms that it found to have moved.
    """
    said = history.diagnosed
    causes = _texts(said.get("cause")) + _texts(said.get("also"))
    found = []
    for row in rows_of(said.get("evidence")):
        speaks = any(row.get(cause) == "+" for cause in causes)
        p_value = row.get("p")  # what has none is not a matter of chance
        is_chance = isinstance(p_value, int | float) and p_value >= ALPHA
        if speaks and row.get("since") and not is_chance:
            found.append((utc(row["since"]), f"{row['evidence']}: {row['finding']}"))
    moved = [row for row in rows_of(said.get("onsets")) if row.get("counts") and row.get("since")]
    return found or [(utc(row["since"]), f"{row['symptom']} moves") for row in moved]


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [one for one in values if isinstance(one, str)]


# --- the timeline -------------------------------------------------------------------------------------------------


def timeline(history: History) -> pd.DataFrame:
    """Return what happened in order of time (UTC).

    Returns
    -------
    DataFrame
        `time`, `kind` (signal, alert, run, decision or action), `event`, `source`: where it is known from.
    """
    rows = [*_signals(history), *_alert(history), *_runs(history), *_decisions(history), *_actions(history)]
    table = pd.DataFrame(rows, columns=list(TIMELINE)).astype({"time": "datetime64[us, UTC]"})
    return table.sort_values("time", kind="stable", ignore_index=True)


_Row = tuple[pd.Timestamp, str, str, str]


def _signals(history: History) -> Iterator[_Row]:
    for time, what in signals(history):
        yield time, "signal", what, "diagnosis"
    if history.onset is not None:
        yield history.onset, "signal", "onset of the incident", "diagnosis"


def _alert(history: History) -> Iterator[_Row]:
    alert = history.alert
    yield utc(alert.starts_at), "alert", f"{alert.name} ({alert.severity or 'no severity'}) begins", "alert"
    yield utc(alert.received), "alert", "the alert is received", "ledger"
    if alert.ends_at:
        yield utc(alert.ends_at), "alert", f"{alert.name} ends", "alert"


def _runs(history: History) -> Iterator[_Row]:
    for job in history.jobs:
        source = job.run.run_id if job.run else "ledger"
        if job.why:
            yield utc(job.queued), "run", f"{job.what} waits: {job.why}", "ledger"
        if job.started and job.run:
            yield utc(job.started), "run", f"{job.what} begins", source
        if job.ended and job.kind != "postmortem":
            yield utc(job.ended), "run", f"{job.what} {_came_to(job)}", source


def _came_to(job: Job) -> str:
    if job.state != "ended":
        return f"is not made: {job.error}"
    found = {
        "alert": ("cause", job.result("cause")),
        "remedy": ("verdict", job.result("verdict")),
    }.get(job.kind, ("", None))
    said = f", {found[0]}: {found[1]}" if found[1] else ""
    return f"ends ({job.status}{said})"


def _decisions(history: History) -> Iterator[_Row]:
    for job in history.jobs:
        for one in job.decisions:
            word = "approved" if one.is_approved else "rejected"
            note = f": {one.note}" if one.note else ""
            yield utc(one.time), "decision", f"repair of {job.name} {word} by {one.by}{note}", one.via


def _actions(history: History) -> Iterator[_Row]:
    for action in history.actions:
        yield utc(action.time), "action", action.what, action.run or "service"


# --- impact -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Impact:
    """What the incident did from its onset to its end, as far as it was recorded.

    `affected` is the bad events among all that the objective counts; `spent` is the part of the objective's error
    budget that they used up, None without an objective or events.
    """

    start: pd.Timestamp
    end: pd.Timestamp
    is_over: bool
    requests: int
    failed: int
    refused: int
    rows_broken: int
    indicator: Ratio | None
    burn_rate: float | None
    spent: float | None

    @property
    def affected(self) -> float | None:
        """Bad events of the objective."""
        return None if self.indicator is None else self.indicator.total - self.indicator.good

    def table(self) -> pd.DataFrame:
        """Return a row for each number: `impact`, `number`, `unit`."""
        events = self.indicator.total if self.indicator else None
        rows = [
            ("requests, from onset to end", self.requests, "requests"),
            ("failed (status 500 and above)", self.failed, "requests"),
            ("refused for the load (status 429)", self.refused, "requests"),
            ("rows that broke their contract", self.rows_broken, "rows"),
            ("events of the objective", events, "events"),
            ("bad events of the objective", self.affected, "events"),
            ("burn rate", self.burn_rate, "×"),
            ("error budget spent", self.spent, "1"),
        ]
        return pd.DataFrame(rows, columns=["impact", "number", "unit"])


def impact(history: History, recording: Recording, after: Recording | None = None) -> Impact:
    """Return what the incident did to requests, rows and the error budget; `after` is what followed.

    The budget that is spent is burn rate times duration over the objective's window (Site Reliability Workbook, 2018,
    chapter 5), which takes the traffic of the incident for that of the whole window.
    """
    whole = recording if after is None else joined(recording, after)
    times = milestones(history)
    window = whole.incident.window
    start = max(times.onset or times.alerted, utc(window.start))
    end = min(times.recovered or utc(window.end), utc(window.end))
    during = whole.requests[(whole.requests["time"] >= start) & (whole.requests["time"] <= end)]
    broken = contract_breaches(whole).any(axis=1).reindex(during.index, fill_value=False)
    indicator, burn_rate, spent = _budget(history, whole, start, end)
    return Impact(
        start=start,
        end=end,
        is_over=times.recovered is not None,
        requests=len(during),
        failed=int(during["status"].ge(500).sum()),
        refused=int(during["status"].eq(429).sum()),
        rows_broken=int(broken.sum()),
        indicator=indicator,
        burn_rate=burn_rate,
        spent=spent,
    )


def _budget(
    history: History, recording: Recording, start: pd.Timestamp, end: pd.Timestamp
) -> tuple[Ratio | None, float | None, float | None]:
    if history.promise is None or end <= start:
        return None, None, None
    objective = history.promise.objective()
    ratio = sli_ratio(recording, objective, start, end)
    if not ratio.total:
        return None, None, None
    burn_rate = (1 - ratio.share) / objective.budget
    window = objective.window / history.promise.time_scale
    return ratio, burn_rate, burn_rate * (end - start).total_seconds() / window


def joined(recording: Recording, after: Recording) -> Recording:
    """Return two recordings of one service as one: what both hold counts once.

    Examples
    --------
    >>> from lepton_kit.telemetry.recordings import FORMAT, Incident
    >>> def recorded(first, last):
    ...     window = {"start": f"2008-01-{first:02}T00:00Z", "end": f"2008-01-{last:02}T00:00Z"}
    ...     days = pd.date_range(window["start"], window["end"])
    ...     rows = pd.DataFrame({"time": days, "request_id": days.strftime("%d"), "status": 200.0})
    ...     incident = Incident(format=FORMAT, id="x", service="demo", versions={"current": "1"}, window=window)
    ...     return Recording(incident, requests=rows)
    >>> len(joined(recorded(1, 5), recorded(4, 7)).requests)
    7
    """
    requests = pd.concat([recording.requests, after.requests], ignore_index=True)
    # The later one knows more: actuals that were not known yet.
    requests = requests.drop_duplicates(["time", "request_id", "status"], keep="last")
    metrics = pd.concat([recording.metrics, after.metrics], ignore_index=True)
    metrics = metrics.drop_duplicates(["time", "metric", "labels"])
    first, last = recording.incident.window, after.incident.window
    window = first.model_copy(update={"start": min(first.start, last.start), "end": max(first.end, last.end)})
    return replace(
        recording,
        incident=recording.incident.model_copy(update={"window": window}),
        requests=requests.sort_values("time", kind="stable", ignore_index=True),
        metrics=metrics.sort_values("time", kind="stable", ignore_index=True),
    )


# --- causes, actions, provenance ----------------------------------------------------------------------------------


def causes(history: History) -> pd.DataFrame:
    """Return what the diagnosis concluded: `question` and `answer`; a row says so where none succeeded."""
    said = history.diagnosed
    if "cause" not in said:
        return pd.DataFrame([("cause", "no diagnosis succeeded")], columns=["question", "answer"])
    names = ("cause", "also", "probability", "confidence", "reasons", "not_checked", "next_action")
    rows = [(name.replace("_", " "), _plain(said[name])) for name in names if name in said]
    return pd.DataFrame(rows, columns=["question", "answer"])


def repairs(history: History) -> pd.DataFrame:
    """Return the repairs: what each did and its outcome, its approval, or why it did not run.

    Returns
    -------
    DataFrame
        `cause`, `runbook`, `approval`, `status`, `action`, `applied`, `verdict`, `rolled back`.
    """
    rows = [
        (
            job.name, job.notebook, job.approved_by, _state(job),
            _plain(job.result("action")) or (f"planned: {job.plan}" if job.plan else ""),
            *(_plain(job.result(name)) for name in ("applied", "verdict", "rolled_back")),
        )
        for job in history.jobs
        if job.kind == "remedy"
    ]  # fmt: skip
    columns = ["cause", "runbook", "approval", "status", "action", "applied", "verdict", "rolled back"]
    return pd.DataFrame(rows, columns=columns)


def _state(job: Job) -> str:
    return str(job.status) if job.state == "ended" else f"{job.state}: {job.error}" if job.error else job.state


def actions(history: History) -> pd.DataFrame:
    """Return what was done to the service: `time`, `action`, `why`, `approval` (the policy, or a person), `run`."""
    approved_by = {job.run.run_id: job.approved_by for job in history.jobs if job.run and job.kind == "remedy"}
    rows = [
        (utc(one.time), one.what, one.why, one.by or approved_by.get(one.run, "not known"), one.run)
        for one in history.actions
    ]
    return pd.DataFrame(rows, columns=["time", "action", "why", "approval", "run"])


def provenance(history: History) -> pd.DataFrame:
    """Return the runs that all this rests on: `run`, `notebook`, `status`, `commit`, `notebook sha256`, `inputs`."""
    rows = [
        (
            job.run.run_id, job.notebook, job.run.status, _commit(job), job.run.notebook_sha256[:12],
            "; ".join(f"{ref} {sha[:12] if sha else ''}".strip() for ref, sha in job.run.inputs.items()),
        )
        for job in history.jobs
        if job.run
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["run", "notebook", "status", "commit", "notebook sha256", "inputs"])


def _commit(job: Job) -> str:
    run = job.run
    if run is None or run.commit is None:
        return "not known"
    return run.commit[:12] + (" and changes" if run.is_dirty else "")


def _plain(value: Any) -> str:
    """Return a recorded value in words.

    >>> [_plain(value) for value in (["data", "compute"], [], None, True, 0.987654)]
    ['data; compute', 'none', '', 'yes', '0.988']
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return "; ".join(map(str, value)) or "none"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
