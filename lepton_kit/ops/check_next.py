"""The cheapest check that could change an incident's verdict: what it is, how to do it, and doing it where that works.

The kit by itself can look again: capture a longer window until now, in which there are more requests, actuals that came
since, and the versions to replay them through. What the declaration does not name is for a person to add.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from lepton_kit.diagnosis.causes import Diagnosis, diagnose
from lepton_kit.diagnosis.evidence import Cause
from lepton_kit.diagnosis.evidence.base import undeclared
from lepton_kit.diagnosis.onset import Criteria
from lepton_kit.diagnosis.sensitivity import Check, Flip, checks, flips
from lepton_kit.errors import InputError
from lepton_kit.ops.watch.evidence import freeze_longer, promises_of, recording_folder
from lepton_kit.ops.watch.queue import Incident, Queue
from lepton_kit.project.declarations import declared
from lepton_kit.project.settings import Settings
from lepton_kit.runs.manifest import FILE, Manifest
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
    how the check is done: the kit looks again, a person adds the `entries` that are missing, of alternatives any one,
    or there is `none`. `command` looks again, after that. `by_itself` is the cheapest check that the kit can do by
    itself, and `again` is what came of it where it was run. `parameters_of` is the run whose parameters the diagnosis
    took, empty where it took the defaults.
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
    parameters_of: str = ""


def next_check(incident: Incident, settings: Settings, project: Path) -> NextCheck:
    """Return the cheapest check that could change an incident's verdict.

    Raises InputError when the incident has no recording, or it cannot be read.
    """
    folder, recording = _recorded(incident, project)
    run, asked = _diagnosed(incident, project)
    diagnosis = asked(recording)
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
        parameters_of=run,
    )
    if check is None:
        return made
    entries = _entries(check, incident.service, settings, project)
    own = (one for one in deciding if not _entries(one, incident.service, settings, project))
    return replace(
        made,
        way="declare" if entries else "look again",
        entries=entries,
        command=f"lepton check-next {incident.id} --run",
        by_itself=next(own, None),
    )


def _entries(check: Check, service: str, settings: Settings, project: Path) -> tuple[str, ...]:
    """Return what a person must add before a check can be made; nothing where looking again may answer it."""
    declaration, told = declared(project, service, settings), []
    for need in check.lacks:
        if need == "objectives":  # a service without any has a folder of them all the same
            has_some = bool(promises_of(service, settings, project))
            told += [] if has_some else [f"services.{service}.objectives (files in {declaration.objectives})"]
        elif entries := undeclared(declaration, need):
            told.append(f"services.{service}.{' or '.join(entries)}")
    return tuple(dict.fromkeys(told))


def _diagnosed(incident: Incident, project: Path) -> tuple[str, Callable[[Recording], Diagnosis]]:
    """Return the run that diagnosed an incident, if any, and how it did: by its criteria and likelihoods.

    Raises InputError when the run's manifest cannot be read.
    """
    jobs = Queue(project).jobs(1, incident=incident.id, kind="alert", state="ended", status="succeeded")
    if not jobs or jobs[0].run_id is None:
        return "", diagnose
    run = Manifest.load(project / "runs" / jobs[0].run_id / FILE)
    names = {one.name for one in fields(Criteria)}
    given: dict[str, Any] = {name: value for name, value in run.parameters.items() if name in names}
    given |= {name: given[name] or None for name in ("promise", "output_difference") if name in given}  # 0: not given
    likelihoods = run.parameters.get("likelihoods")
    of_own = project / likelihoods if likelihoods else None
    return run.run_id, lambda recording: diagnose(recording, Criteria(**given), of_own)


def run_check(found: NextCheck, incident: Incident, settings: Settings, project: Path) -> NextCheck:
    """Look again at a longer window, and return the check with what came of it.

    Raises InputError when the check is not one that the kit can do, or nothing can be captured.
    """
    if found.by_itself is None:
        why = f"first add {', '.join(found.entries)}" if found.entries else "no open question could change the verdict"
        raise InputError(f"incident {incident.id!r}: there is no check to run by itself: {why}")
    folder = freeze_longer(incident, _recorded(incident, project)[1].incident.window, settings, project)
    diagnosis = _diagnosed(incident, project)[1](read_recording(folder))
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
