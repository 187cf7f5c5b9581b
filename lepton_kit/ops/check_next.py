"""The cheapest check that could change an incident's verdict: what it is, how to do it, and doing it where that works.

The kit by itself can look again: capture a longer window until now, in which there are more requests, actuals that came
since, and the versions to replay them through. What the declaration does not name is for a person to add.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from lepton_kit.diagnosis.causes import Diagnosis, diagnose
from lepton_kit.diagnosis.evidence import Cause
from lepton_kit.diagnosis.evidence.base import undeclared
from lepton_kit.diagnosis.sensitivity import Check, Flip, checks, flips
from lepton_kit.errors import InputError
from lepton_kit.ops.watch.evidence import freeze_longer, longer_window, recording_folder
from lepton_kit.ops.watch.queue import Incident
from lepton_kit.project.declarations import declared
from lepton_kit.project.settings import Settings
from lepton_kit.runs.parameters import run_command
from lepton_kit.telemetry.declaration import Declaration
from lepton_kit.telemetry.recordings import Recording, read_recording

Way = Literal["look again", "declare", "none"]


@dataclass(frozen=True)
class Again:
    """What a check that was run came to: its recording, its finding, the verdict then, and whether it is another."""

    recording: str
    finding: str
    cause: Cause
    probability: float
    is_changed: bool


@dataclass(frozen=True)
class NextCheck:
    """The verdict of an incident, what would flip it, and the cheapest check that could do so by itself.

    `flips` holds for each other verdict the smallest set of findings that leads to it, the nearest first. `way` says
    how the check is done: the kit looks again, a person declares the `entries` that are missing, or there is `none`.
    `command` does it. `by_itself` is the cheapest check that the kit can do by itself, and `again` is what came of it
    where it was run.
    """

    incident: str
    service: str
    recording: str
    cause: Cause
    probability: float
    flips: tuple[Flip, ...]
    check: Check | None
    way: Way
    entries: tuple[str, ...] = ()
    command: str = ""
    by_itself: Check | None = None
    again: Again | None = None


def next_check(incident: Incident, settings: Settings, project: Path) -> NextCheck:
    """Return the cheapest check that could change an incident's verdict.

    Raises InputError when the incident has no recording, or it cannot be read.
    """
    folder, recording = _recorded(incident, project)
    diagnosis = diagnose(recording)
    deciding = [one for one in checks(diagnosis) if one.verdict]
    check = next(iter(deciding), None)
    made = NextCheck(
        incident=incident.id,
        service=incident.service,
        recording=folder.relative_to(project).as_posix(),
        cause=diagnosis.cause,
        probability=round(float(diagnosis.probability), 4),
        flips=flips(diagnosis),
        check=check,
        way="none",
    )
    if check is None:
        return made
    declaration = declared(project, incident.service, settings)
    entries = _entries(check, declaration)
    return replace(
        made,
        way="declare" if entries else "look again",
        entries=tuple(f"services.{incident.service}.{entry}" for entry in entries),
        command=_command(incident, recording),
        by_itself=next((one for one in deciding if not _entries(one, declaration)), None),
    )


def _entries(check: Check, declaration: Declaration) -> tuple[str, ...]:
    """Return what the declaration must name before a check can be made; nothing where looking again may answer it."""
    return tuple(dict.fromkeys(entry for need in check.lacks for entry in undeclared(declaration, need)))


def run_check(found: NextCheck, incident: Incident, settings: Settings, project: Path) -> NextCheck:
    """Look again at a longer window, and return the check with what came of it.

    Raises InputError when the check is not one that the kit can do, or nothing can be captured.
    """
    if found.by_itself is None:
        why = f"first add {', '.join(found.entries)}" if found.entries else "no open question could change the verdict"
        raise InputError(f"incident {incident.id!r}: there is no check to run by itself: {why}")
    folder = freeze_longer(incident, _recorded(incident, project)[1].incident.window, settings, project)
    diagnosis = diagnose(read_recording(folder))
    finding = next(one.finding for one in diagnosis.evidence if one.name == found.by_itself.question)
    return replace(found, again=_again(folder, project, finding, diagnosis, found.cause))


def _again(folder: Path, project: Path, finding: str, diagnosis: Diagnosis, before: Cause) -> Again:
    probability, cause = round(float(diagnosis.probability), 4), diagnosis.cause
    return Again(folder.relative_to(project).as_posix(), finding, cause, probability, cause != before)


def _recorded(incident: Incident, project: Path) -> tuple[Path, Recording]:
    folder = project / incident.recording if incident.recording else recording_folder(project, incident.id)
    if not (folder / "incident.json").is_file():
        raise InputError(f"incident {incident.id!r}: has no recording in {folder}; `lepton capture` makes one")
    return folder, read_recording(folder)


def _command(incident: Incident, recording: Recording) -> str:
    """Return what captures a longer window by hand and diagnoses it."""
    folder = f"incidents/{incident.id}/recording-by-hand"
    start = f"{longer_window(recording.incident.window):%Y-%m-%dT%H:%M:%S}"
    capture = shlex.join(["lepton", "capture", incident.service, "-o", folder, "--from", start])
    return f"{capture} && {run_command('runbooks/incident-diagnosis.ipynb', {'recording': folder})}"
