"""What the status page says, as data: `/status.json` and the pages show the same."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lepton_kit.diagnosis.next_action import NextAction, RepairStage, of_incident
from lepton_kit.diagnosis.recorded import path_words
from lepton_kit.errors import InputError
from lepton_kit.ops.proven import proof_words
from lepton_kit.ops.watch.evidence import recording_folder
from lepton_kit.ops.watch.jobs import Job, Remedy
from lepton_kit.ops.watch.observer import Observer
from lepton_kit.ops.watch.policy import RECORDING, Routes
from lepton_kit.ops.watch.queue import REPORT, Incident, Queue
from lepton_kit.ops.watch.rehearsals import evidence_of, read_rehearsal
from lepton_kit.ops.watch.schedules import Schedules
from lepton_kit.project.settings import Settings, read_settings
from lepton_kit.runs.manifest import FILE, Manifest, newest_first
from lepton_kit.runs.parameters import run_command

MOST_RUNS, MOST_INCIDENTS, MOST_REFUSED, MOST_JOBS = 12, 50, 5, 100
PAGE_TRIGGER = "publish"
SHOWN_RESULTS = (
    "cause", "also", "probability", "confidence", "next_action", "onset",
    "path", "plan", "action", "applied", "verdict", "rolled_back", "ranking", "evidence",
)  # fmt: skip
"""What a diagnosis and a repair record that is shown beside their runs, or that other incidents are compared by."""


def status(
    project: Path, settings: Settings, queue: Queue, seen: Observer, schedules: Schedules, routes: Routes
) -> dict[str, Any]:
    """Return how the project stands: services, incidents, runs, schedules, the queue, and what goes wrong."""
    opened = queue.open_incidents()  # before the list: one that begins meanwhile is shown and not yet counted
    firing = queue.incidents(MOST_INCIDENTS, status="firing")
    recent = queue.over(MOST_RUNS)
    refused = [job for job in queue.jobs(MOST_REFUSED, state="refused") if job.incident is None]
    report = queue.notes().get(REPORT, ("", 0.0))[0]
    problems = dict(seen.problems) | ({"report site": report} if report else {})
    return {
        "project": project.name,
        "time": _now(),
        "time_scale": settings.watch.time_scale,
        "services": [asdict(state) for state in list(seen.services.values())],
        "open": max(opened, len(firing)),
        "open_incidents": [incident_facts(incident, queue, project, routes) for incident in firing],
        "recent_incidents": [incident_facts(incident, queue, project, routes) for incident in recent],
        "runs": [run_facts(run, project) for run in newest_runs(project, MOST_RUNS)],
        "schedules": _schedules(schedules),
        "queue": queue.counts(),
        "waiting": [job_facts(job, project) for job in queue.jobs(MOST_RUNS, state="queued")[::-1]],
        "approvals": [waiting_facts(remedy, queue, project) for remedy in queue.waiting()],
        "refused": [job_facts(job, project) for job in refused],
        "not_measured": [asdict(one) for one in seen.not_measured],
        "problems": problems,
    }


def incident_facts(incident: Incident, queue: Queue, project: Path, routes: Routes | None = None) -> dict[str, Any]:
    """Return an incident with the runs that it started, the command that diagnoses it, and what is to be done next.

    Without `routes`, an alert whose runbook has not been started has no such command.
    """
    annotations: Mapping[str, str] = incident.alert.get("annotations", {})
    main = queue.main_incident(incident.id)
    jobs = queue.jobs(20, incident=incident.id)[::-1]
    runs = {job.number: job.run_id for job in jobs if job.state == "ended"}
    told = diagnosed(main or incident, queue, project)
    name = incident.name
    facts = {
        **asdict(incident),
        "acknowledged": incident.acknowledged and _moment(incident.acknowledged),
        "silenced": incident.silence,
        "owner": _owners(project, _changed(project)).get(incident.service, ""),
        "onset": told.get("onset"),
        "path": path_words(told.get("path")),
        "summary": annotations.get("summary", ""),
        "flaps": queue.flaps(incident.id),
        "same_as": main.id if main else None,
        "runs": [job_facts(job, project) for job in jobs],
        "remedies": [remedy_facts(one, name, project, runs.get(one.job), told) for one in queue.remedies(incident.id)],
        "diagnose": diagnosis_command(main or incident, queue, project, routes),
    }
    following = next_action(main or incident, queue, project, facts["diagnose"])
    return facts | {"next_action": asdict(following) if following and incident.status == "firing" else None}


@lru_cache(maxsize=4)  # they are asked for with each incident of a list
def _owners(project: Path, _: float) -> dict[str, str]:
    with contextlib.suppress(InputError):  # a listing does not fail for that; `lepton doctor` and the watch tell
        return {name: service.owner for name, service in read_settings(project).services.items()}
    return {}


def _changed(project: Path) -> float:
    """Return when the settings were last changed."""
    with contextlib.suppress(OSError):
        return (project / "lepton.toml").stat().st_mtime
    return 0.0


def diagnosed(incident: Incident, queue: Queue, project: Path) -> dict[str, Any]:
    """Return what the diagnosis of an incident recorded: the first that named a cause, or else the last one."""
    looks = queue.jobs(MOST_JOBS, incident=incident.id, kind="alert", state="ended")[::-1]
    found = [run_results(job.run_id, project) for job in looks if job.run_id]
    telling = [said for said in found if said.get("cause", "unknown") != "unknown"]
    return next(iter(telling or found[::-1]), {})


def diagnosis_command(incident: Incident, queue: Queue, project: Path, routes: Routes | None) -> str:
    """Return the command that diagnoses this very incident, from its own recording; nothing where no runbook is set.

    Where its evidence has not been captured, the command does so first.
    """
    looks = queue.jobs(incident=incident.id, kind="alert")
    notebook = looks[0].notebook if looks else routes.runbook(incident.name) if routes else None
    if notebook is None:
        return ""
    given = dict(looks[0].parameters) if looks else {}
    if incident.recording is None and not (routes and routes.reads_recording(incident.name)):
        return run_command(notebook, given)
    recording = incident.recording or recording_folder(Path(), incident.id).as_posix()
    command = run_command(notebook, given | {RECORDING: recording})
    if (project / recording).is_dir():
        return command
    words = ["lepton", "capture", incident.service, "-o", recording, "--from", incident.starts_at[:19]]
    return f"{shlex.join(words)} && {command}"


def next_action(incident: Incident, queue: Queue, project: Path, diagnose: str) -> NextAction | None:
    """Return what is to be done next about an incident: by where its repairs stand, or as its diagnosis advises."""
    jobs = {job.number: job for job in queue.jobs(MOST_JOBS, incident=incident.id)}
    stages = []
    for one in queue.remedies(incident.id):
        job = jobs[one.job]
        results = run_results(job.run_id, project) if job.run_id and job.state == "ended" else {}
        planned = read_rehearsal(one.rehearsal, project).plan if one.rehearsal else ""
        plan = str(results.get("action") or planned)
        stages.append(RepairStage(one.cause, one.notebook, job.state, plan, str(results.get("verdict") or "")))
    looks = [job for job in jobs.values() if job.kind == "alert"]
    if any(job.state in ("queued", "running") for job in looks):
        return NextAction("Wait: the incident is being diagnosed.")
    words = diagnosed(incident, queue, project).get("next_action")
    advised = NextAction(str(words)) if words else None
    return of_incident(incident.id, stages, advised, diagnose) if diagnose or stages else None


def waiting_facts(remedy: Remedy, queue: Queue, project: Path) -> dict[str, Any]:
    """Return a repair that waits for a person, with what a decision needs."""
    incident = queue.incident(remedy.incident)
    told = diagnosed(incident, queue, project) if incident else {}
    return remedy_facts(remedy, incident.name if incident else "", project, None, told)


def remedy_facts(
    remedy: Remedy, alert: str, project: Path, run_id: str | None, told: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a repair, what was decided on it, and where its run has ended, what that found (`verdict`).

    `rehearsed` is what a person decides on (plan, rows, risk, undo, evidence), by name; `told` is what the diagnosis
    recorded; `proven` says when a drill last proved the runbook for this alert.
    """
    rehearsed, evidence = dict[str, str](), evidence_of(remedy.cause, told)
    if remedy.state == "waiting" and remedy.rehearsal:
        rehearsed = read_rehearsal(remedy.rehearsal, project).facts(remedy.service, evidence)
    elif remedy.state == "waiting":
        rehearsed = {"Rehearsal": "none: the runbook or the incident has no recording to rehearse on", **evidence}
    decisions = [{**asdict(one), "at": _moment(one.at)} for one in remedy.decisions]
    verdict = run_results(run_id, project).get("verdict") if run_id else None
    facts = {"since": _moment(remedy.queued), "decisions": decisions, "verdict": verdict, "rehearsed": rehearsed}
    proven = proof_words(alert, remedy.notebook, remedy.service, project)
    return {**asdict(remedy), **facts, "page": report_page(remedy.rehearsal, project), "proven": proven}


def pictures(incident: Mapping[str, Any], project: Path) -> dict[int, tuple[str, str]]:
    """Return for each repair of an incident that waits its figure as an address, and what that shows."""
    waits = [one for one in incident["remedies"] if one["state"] == "waiting" and one["rehearsal"]]
    found = {one["job"]: read_rehearsal(one["rehearsal"], project) for one in waits}
    return {job: (one.picture, one.alt) for job, one in found.items() if one.figure}


def job_facts(job: Job, project: Path) -> dict[str, Any]:
    """Return a job, with the address of its run's page where there is one, and what its run found."""
    found = run_results(job.run_id, project) if job.run_id is not None and job.state == "ended" else {}
    shown = {name: value for name, value in found.items() if name not in ("ranking", "evidence", "path")}
    return {**asdict(job), "page": report_page(job.run_id, project), "results": shown}


@lru_cache(maxsize=1000)  # a run that has ended does not change, and the page is asked for again and again
def run_results(run_id: str, project: Path) -> dict[str, Any]:
    """Return those results of an ended run that are shown; none where its manifest cannot be read."""
    try:
        results = Manifest.load(project / "runs" / run_id / FILE).results
    except InputError:  # removed, or damaged: `lepton runs` tells
        return {}
    return {name: results[name].value for name in SHOWN_RESULTS if name in results}


def run_facts(run: Manifest, project: Path) -> dict[str, Any]:
    """Return what a list of runs shows of one."""
    told = {
        "run_id": run.run_id, "title": run.title, "status": run.status, "trigger": run.trigger,
        "started": run.started.isoformat(), "duration_s": run.duration_s, "page": report_page(run.run_id, project),
    }  # fmt: skip
    cause = run.results.get("cause")
    return told | ({"cause": cause.value} if cause is not None and isinstance(cause.value, str) else {})


def report_page(run_id: str | None, project: Path) -> str | None:
    """Return the path, on this server, of a run's page in the report site."""
    made = run_id is not None and (project / "reports" / "_site" / "runs" / run_id / "index.html").is_file()
    return f"/reports/runs/{quote(run_id)}/index.html" if made and run_id else None


def newest_runs(project: Path, most: int) -> list[Manifest]:
    """Return the newest runs, but for those that only make a page of the report site.

    Their ids begin with the time, so that not all manifests are read for that.
    """
    names = [path.parent.name for path in (project / "runs").glob(f"*/{FILE}")]
    found: list[Manifest] = []
    for name in newest_first({name: name[:16] for name in names}, project):
        if len(found) == most:
            break
        try:
            run = Manifest.load(project / "runs" / name / FILE)
        except InputError:  # being written, or damaged: `lepton runs` tells
            continue
        if run.trigger != PAGE_TRIGGER:
            found.append(run)
    return found


def _schedules(schedules: Schedules) -> list[dict[str, Any]]:
    times = schedules.next_times()
    far = datetime.max.replace(tzinfo=UTC)
    ordered = sorted(times.items(), key=lambda item: item[1] or far)
    return [
        {"name": name, "notebook": schedules.notebook(name), "next": due and due.isoformat()} for name, due in ordered
    ]


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
