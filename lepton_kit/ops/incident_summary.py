"""What an incident's page says on top, and what listings say of it: facts, the next action, a few sentences."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from itertools import zip_longest
from typing import Any

import pandas as pd

from lepton_kit.diagnosis import postmortem
from lepton_kit.diagnosis.history import History, Job, utc
from lepton_kit.diagnosis.judgement import Judgement
from lepton_kit.diagnosis.next_action import NextAction, RepairStage, of_incident
from lepton_kit.reports.blocks import Figure
from lepton_kit.reports.facts import duration
from lepton_kit.reports.pictures import Picture
from lepton_kit.reports.values import sure
from lepton_kit.runs.parameters import run_command
from lepton_kit.telemetry.recordings import Recording

CAUSE_WORDS = {
    "data": "the data at fault", "model": "the model at fault", "compute": "the compute at fault",
    "none": "no fault", "unknown": "no cause that the evidence decides for",
}  # fmt: skip


@dataclass(frozen=True)
class Incident:
    """All that a page is made of.

    `figure` is the decisive one, which stands for the page in listings too.
    `recorded` is where its recording lies in the project, `after` the recording of what followed, `previous` the
    history of the last incident of the same alert, `linked` are the runs that have a page on the same site.
    """

    history: History
    judgement: Judgement
    recorded: str
    recording: Recording | None
    after: Recording | None
    figure: Figure | None
    drawn_timeline: Picture | None
    previous: History | None
    cost_per_minute: float | None
    currency: str
    linked: Collection[str] = ()


def facts_of(incident: Incident) -> dict[str, str]:
    """Return the facts on top of the page, by name; empty where there is nothing to say."""
    history, times = incident.history, postmortem.milestones(incident.history)
    said = history.diagnosed
    probability = said.get("probability")
    how_sure = f" ({sure(probability)} sure)" if isinstance(probability, float) else ""
    also = ", ".join(_list(said.get("also")))
    lasted = times.time_to_recover
    is_over = history.alert.status == "resolved"
    action = next_action(incident)
    return {
        "Incident": history.id,
        "Service": history.service,
        "Severity": history.alert.severity,
        "Status": "resolved" if is_over else "open",
        "Cause": f"{said.get('cause', 'not diagnosed')}{how_sure}" + (f", and {also}" if also else ""),
        "Next action": action.what if action else "",
        "Command": action.command if action else "",
        "Began": moment_words(times.onset),
        "Noticed": moment_words(times.alerted),
        "Over": moment_words(times.recovered),
        "Lasted": duration(lasted) if lasted is not None else "",
        "Time": scale_words(history.time_scale),
    }


def scale_words(scale: float) -> str:
    """Return how much shorter than usual all windows are; nothing where they are not.

    >>> scale_words(600), scale_words(1)
    ('demo time ×600: all windows are 600 times shorter, 10 s stand for 1 h 40 min', '')
    """
    if scale == 1:
        return ""
    return f"demo time ×{scale:g}: all windows are {scale:g} times shorter, 10 s stand for {duration(10 * scale)}"


def next_action(incident: Incident) -> NextAction | None:
    """Return what is to be done next about an incident that is open; None of one that is over."""
    history = incident.history
    if history.alert.status == "resolved":
        return None
    repairs = [
        RepairStage(
            job.name,
            job.notebook,
            job.state,
            str(_recorded(job, "action") or job.plan),
            str(_recorded(job, "verdict") or ""),
        )
        for job in history.jobs
        if job.kind == "remedy"
    ]
    looks = [job for job in history.jobs if job.kind == "alert"]
    given = {"recording": incident.recorded} if incident.recording is not None else {}
    diagnose = run_command(looks[0].notebook, given) if looks else ""
    advised = history.diagnosed.get("next_action")
    return of_incident(history.id, repairs, NextAction(str(advised)) if advised else None, diagnose)


def _recorded(job: Job, name: str) -> Any:
    return job.run.results[name].value if job.run and name in job.run.results else None


def in_short(incident: Incident) -> str:
    """Return what happened in a few sentences, from what runs recorded alone."""
    history, times = incident.history, postmortem.milestones(incident.history)
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
                sentences.append(f"At work beside it: {other}" + (f", as {reason}." if reason else "."))
    asked = [job for job in history.jobs if job.kind == "remedy"]
    for job, repair in zip(asked, postmortem.repairs(history).to_dict("records"), strict=True):
        if job.state == "ended" and repair["action"]:
            sentences.append(f"Done about it: {repair['action']} ({repair['verdict'] or repair['came to']}).")
    if times.time_to_recover is not None:
        sentences.append(f"It was over {duration(times.time_to_recover)} after it began.")
    elif history.alert.status == "firing":
        sentences.append("Ongoing.")
        if (action := next_action(incident)) is not None:
            sentences.append(f"Next: {action.what}")
    if history.time_scale != 1:
        sentences.append(f"All in demo time ×{history.time_scale:g}.")
    return " ".join(sentences)


def _list(value: Any) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else [str(value)] if value else []


def moment_words(time: pd.Timestamp | datetime | None) -> str:
    """Return a time in UTC as people write it; nothing where it is not known."""
    return "" if time is None else f"{utc(time):%Y-%m-%d %H:%M:%S} UTC"
