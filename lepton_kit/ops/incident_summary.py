"""The header of an incident's page, and its line in listings: facts, the next action, a few sentences."""

from __future__ import annotations

from datetime import datetime
from itertools import zip_longest
from typing import Any

import pandas as pd

from lepton_kit.diagnosis import postmortem
from lepton_kit.diagnosis.history import History, utc
from lepton_kit.diagnosis.next_action import NextAction, RepairStage, of_incident
from lepton_kit.diagnosis.recorded import path_words
from lepton_kit.reports.facts import duration
from lepton_kit.reports.values import sure
from lepton_kit.runs.parameters import run_command

CAUSE_WORDS = {
    "data": "the data at fault", "model": "the model at fault", "compute": "the compute at fault",
    "none": "no fault", "unknown": "no cause that the evidence decides for",
}  # fmt: skip


def facts_of(history: History, recording: str | None) -> dict[str, str]:
    """Return the facts of an incident by name, empty where there is nothing to say."""
    times = postmortem.milestones(history)
    said = history.diagnosed
    probability = said.get("probability")
    how_sure = f" ({sure(probability)} sure)" if isinstance(probability, float) else ""
    also = ", ".join(_list(said.get("also")))
    lasted = times.time_to_recover
    is_over = history.alert.status == "resolved"
    action = next_action(history, recording)
    return {
        "Incident": history.id,
        "Service": history.service,
        "Severity": history.alert.severity,
        "Status": "resolved" if is_over else "open",
        "Cause": f"{said.get('cause', 'not diagnosed')}{how_sure}" + (f", and {also}" if also else ""),
        "Path": path_words(said.get("path")),
        "Path, not checked": "; ".join(_list(said.get("path_not_checked"))),
        "Next action": action.what if action else "",
        "Command": action.command if action else "",
        "Approval": "; ".join(_approvals(history)),
        "Began": moment_words(times.onset),
        "Noticed": moment_words(times.alerted),
        "Over": moment_words(times.recovered),
        "Lasted": duration(lasted) if lasted is not None else "",
        "Time": scale_words(history.time_scale),
    }


def sources_of(history: History) -> dict[str, str]:
    """Return for each fact of `facts_of` that was recorded where: the ledger, or a run, its results and its inputs."""
    run = history.diagnosis.run if history.diagnosis else None
    files = ", ".join(f"{ref} (sha256 {sha[:12]})" if sha else ref for ref, sha in run.inputs.items()) if run else ""
    made = {name: f"run {run.run_id}, result {key}; from {files}" for name, key in RECORDED.items()} if run else {}
    ledger = f"ledger, alert of incident {history.id}"
    return made | dict.fromkeys(("Service", "Severity", "Status", "Noticed", "Over"), ledger)


RECORDED = {
    "Cause": "cause, probability, also", "Path": "path", "Path, not checked": "path_not_checked", "Began": "onset",
}  # fmt: skip
"""The results of a diagnosis that facts are made of."""


def scale_words(scale: float) -> str:
    """Return how much shorter than usual all windows are; nothing where they are not.

    >>> scale_words(600), scale_words(1)
    ('demo time ×600: all windows are 600 times shorter, 10 s stand for 1 h 40 min', '')
    """
    if scale == 1:
        return ""
    return f"demo time ×{scale:g}: all windows are {scale:g} times shorter, 10 s stand for {duration(10 * scale)}"


def _approvals(history: History) -> list[str]:
    """Return for each repair that is not the policy's alone who decided on it, or that it waits for a decision."""
    said = []
    for job in (job for job in history.jobs if job.kind == "remedy"):
        if job.state == "waiting":
            said.append(f"pending: {job.what}" + (f" ({job.why})" if job.why else ""))
        elif job.decisions:
            said.append(f"{job.what} {job.approved_by}")
    return said


def next_action(history: History, recording: str | None) -> NextAction | None:
    """Return what is to be done next about an incident that is open; None of one that is over."""
    if history.alert.status == "resolved":
        return None
    repairs = [
        RepairStage(
            job.name, job.notebook, job.state, str(job.result("action") or job.plan), str(job.result("verdict") or "")
        )
        for job in history.jobs
        if job.kind == "remedy"
    ]
    looks = [job for job in history.jobs if job.kind == "alert"]
    given = {"recording": recording} if recording is not None else {}
    diagnose = run_command(looks[0].notebook, given) if looks else ""
    advised = history.diagnosed.get("next_action")
    return of_incident(history.id, repairs, NextAction(str(advised)) if advised else None, diagnose)


def in_short(history: History, recording: str | None) -> list[str]:
    """Return what happened in a few sentences, from what runs recorded alone."""
    times = postmortem.milestones(history)
    said = history.diagnosed
    began = times.onset or times.alerted
    happened = history.alert.summary or f"{history.alert.name} on {history.service}"
    sentences = [f"{happened}, from {moment_words(began)}."]
    if "cause" in said:
        cause = str(said["cause"])
        because = [str(reason).partition(": ")[2] or str(reason) for reason in said.get("reasons") or []]
        found = CAUSE_WORDS.get(cause, f"{cause} at fault")
        sentences.append(f"The diagnosis found {found}" + (f": {because[0]}." if because else "."))
        for other, reason in zip_longest(_list(said.get("also")), because[1:]):
            if other:
                sentences.append(f"Also involved: {other}" + (f", as {reason}." if reason else "."))
    asked = [job for job in history.jobs if job.kind == "remedy"]
    for job, repair in zip(asked, postmortem.repairs(history).to_dict("records"), strict=True):
        if job.state == "ended" and repair["action"]:
            sentences.append(f"Action taken: {repair['action']} ({repair['verdict'] or repair['status']}).")
    if times.time_to_recover is not None:
        sentences.append(f"Recovered {duration(times.time_to_recover)} after it began.")
    elif history.alert.status == "firing":
        sentences.append("Ongoing.")
        if (action := next_action(history, recording)) is not None:
            sentences.append(f"Next: {action.what}")
    if history.time_scale != 1:
        sentences.append(f"All in demo time ×{history.time_scale:g}.")
    return sentences


def _list(value: Any) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else [str(value)] if value else []


def moment_words(time: pd.Timestamp | datetime | None) -> str:
    """Return a time in UTC as people write it; nothing where it is not known."""
    return "" if time is None else f"{utc(time):%Y-%m-%d %H:%M:%S} UTC"
