"""Freezes what happened in an incident once it is over: `incidents/<id>/history.json`, and a page for people beside it.

Everything in the history was read from the ledger, from manifests and from the service's own record of actions. What
people judge goes into `judgement.md`, which is made once and never written over.
"""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lepton_kit.diagnosis import history as form
from lepton_kit.diagnosis.judgement import template
from lepton_kit.errors import InputError
from lepton_kit.files import SINGLE_NAME, single_name, write_atomically
from lepton_kit.ops.service_operator import ACTIONS, read_actions
from lepton_kit.ops.watch.evidence import FOLDER
from lepton_kit.ops.watch.jobs import Job, Remedy
from lepton_kit.ops.watch.objectives import alerted_objective
from lepton_kit.ops.watch.queue import Incident, Queue
from lepton_kit.ops.watch.rehearsals import read_rehearsal
from lepton_kit.project.settings import Settings
from lepton_kit.runs.manifest import FILE, Manifest, Result, fetch_run
from lepton_kit.telemetry.recordings import Promise

HISTORY, JUDGEMENT = "history.json", "judgement.md"
MOST_CHARACTERS = 20_000
"""A result that is longer as JSON is named and left out: it stands in the run's manifest."""
MOST_JOBS = 1000
MADE = "frozen by lepton watch from its ledger, the runs' manifests and the service's record of actions"


def freeze_history(
    incident: Incident, queue: Queue, settings: Settings, project: Path, missing: tuple[str, ...] = ()
) -> Path:
    """Write the history of an incident, whole or not at all, and return its path; `missing` is kept in it.

    Raises InputError when it cannot be written, or the ledger cannot be read.
    """
    path = incident_folder(incident, project) / HISTORY
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, history_of(incident, queue, settings, project, missing).model_dump_json(indent=1) + "\n")
    return path


def open_judgement(incident: Incident, project: Path) -> Path:
    """Return the page that people judge the incident on; it is made when it is not there, and else left as it is."""
    path = incident_folder(incident, project) / JUDGEMENT
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError), path.open("x", encoding="utf-8") as file:
        file.write(template(incident.id))
    return path


def incident_folder(incident: Incident, project: Path) -> Path:
    """Return where what an incident left lies."""
    return project / FOLDER / single_name(incident.id, "incident")


def history_of(
    incident: Incident, queue: Queue, settings: Settings, project: Path, missing: tuple[str, ...] = ()
) -> form.History:
    """Return the history of an incident as it is now, or as it was frozen once it was over.

    What was promised, and in which time, is kept from the first time that it was frozen: settings change.
    """
    frozen = frozen_history(incident, project)
    if frozen is not None and frozen.is_over:
        return frozen.model_copy(update={"missing": tuple(dict.fromkeys([*frozen.missing, *missing]))})
    repairs = {one.job: one for one in queue.remedies(incident.id)}
    problems = list(missing)
    jobs = [job for job in queue.jobs(MOST_JOBS, incident=incident.id)[::-1] if job.kind != "postmortem"]
    promise = (frozen and frozen.promise) or _promise(incident, settings, project, problems)
    service = settings.services.get(incident.service)
    return form.History(
        format=form.FORMAT,
        id=incident.id,
        service=incident.service,
        alert=_alert(incident),
        jobs=tuple(_job(job, repairs.get(job.number), project, problems) for job in jobs),
        actions=_actions(incident, project, problems),
        promise=promise,
        frozen=datetime.now(UTC),
        made=MADE,
        missing=tuple(problems),
        time_scale=promise.time_scale if promise else frozen.time_scale if frozen else settings.watch.time_scale,
        cost_per_minute=service.cost_per_minute if service else None,
        currency=service.currency if service else "",
        is_over=incident.status == "resolved" and all(job.state in ("ended", "refused") for job in jobs),
    )


def frozen_history(incident: Incident, project: Path) -> form.History | None:
    """Return the history of an incident as it was frozen last; None where it was not.

    Raises InputError when the file is damaged.
    """
    path = incident_folder(incident, project) / HISTORY
    return form.read_history(path) if path.is_file() else None


def settled_history(incident: Incident, queue: Queue, settings: Settings, project: Path) -> form.History:
    """Return the history of an incident, and freeze it where it was not yet, or was over since.

    What a postmortem has read is left as it is.
    """
    history, frozen = history_of(incident, queue, settings, project), frozen_history(incident, project)
    is_read = bool(queue.jobs(incident=incident.id, kind="postmortem"))
    if frozen is None or (history.is_over and not frozen.is_over and not is_read):
        freeze_history(incident, queue, settings, project)
    return history


def _alert(incident: Incident) -> form.Alert:
    summary = incident.alert.get("annotations", {}).get("summary", "")
    return form.Alert.model_validate({**vars(incident), "summary": summary})


def _job(job: Job, repair: Remedy | None, project: Path, problems: list[str]) -> form.Job:
    told: dict[str, Any] = {**vars(job), "run": _run(job, project, problems)}
    if repair is not None:
        decisions = [form.Decision.model_validate({**vars(one), "time": one.at}) for one in repair.decisions]
        plan = read_rehearsal(repair.rehearsal, project).plan if repair.rehearsal else ""
        told |= {"is_automatic": repair.is_automatic, "why": repair.why, "plan": plan, "decisions": decisions}
    return form.Job.model_validate(told)


def _run(job: Job, project: Path, problems: list[str]) -> form.Run | None:
    if job.run_id is None:
        return None
    try:
        fetch_run(job.run_id, project)  # by its whole id alone: another run is not this one
        made = Manifest.load(project / "runs" / job.run_id / FILE)
    except InputError as error:
        problems.append(f"run {job.run_id}: {error}")
        return None
    kept = {name: one for name, one in made.results.items() if _length(one) <= MOST_CHARACTERS}
    return form.Run(
        run_id=made.run_id,
        status=made.status,
        started=made.started,
        ended=made.ended,
        notebook_sha256=made.notebook_sha256,
        code_sha256=made.code_sha256,
        commit=made.git.commit if made.git else None,
        is_dirty=made.git.dirty if made.git else False,
        inputs={one.ref: one.sha256 for one in made.inputs},
        results={name: form.Fact(value=one.value, unit=one.unit) for name, one in kept.items()},
        left_out=tuple(name for name in made.results if name not in kept),
    )


def _length(result: Result) -> int:
    return len(json.dumps(result.value))


def _actions(incident: Incident, project: Path, problems: list[str]) -> tuple[form.Action, ...]:
    """Return what was done to the service since the incident began."""
    folder = project / "services" / incident.service
    if not SINGLE_NAME.fullmatch(incident.service) or not (folder / ACTIONS).is_file():
        problems.append(f"services/{incident.service}/{ACTIONS}: the service has no record of actions")
        return ()
    try:
        found = [form.Action.model_validate(action) for action in read_actions(folder)]
    except (InputError, ValidationError) as error:
        problems.append(f"services/{incident.service}/{ACTIONS}: {error}")
        return ()
    began = datetime.fromisoformat(incident.starts_at)
    return tuple(action for action in found if action.time >= began)


def _promise(incident: Incident, settings: Settings, project: Path, problems: list[str]) -> Promise | None:
    try:
        one = alerted_objective(incident, settings, project)
    except InputError as error:
        problems.append(f"objectives: {error}")
        return None
    if one is None:
        problems.append(f"no objective of service {incident.service!r} belongs to the alert {incident.name!r}")
        return None
    return Promise.of(one, settings.watch.time_scale)
