"""A process that runs queued jobs until none is left: `python -m lepton_kit.ops.watch.worker PROJECT`.

SIGTERM lets the present run end and takes no further one; SIGINT cancels the present run too. A job whose run was
cancelled, or whose worker was killed, is queued again; the idempotency key keeps it from being answered twice. A repair
that was broken off may have been done in part: it is not begun again by itself, it waits for a person.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lepton_kit.errors import InputError, LeptonError
from lepton_kit.ops.watch.evidence import freeze_alert, freeze_recovery, freeze_schedule, is_here
from lepton_kit.ops.watch.jobs import Job, Proposal
from lepton_kit.ops.watch.policy import RECORDING, SERVICE, Policy
from lepton_kit.ops.watch.queue import REPORT, Incident, Queue
from lepton_kit.project.settings import Settings, read_settings
from lepton_kit.runs.ending import repair
from lepton_kit.runs.ledger import heartbeat
from lepton_kit.runs.manifest import FILE, Manifest, find_run
from lepton_kit.runs.notebooks import locate_notebook, read_notebook
from lepton_kit.runs.parameters import read_parameters
from lepton_kit.runs.runner import Event, Options, Request, execute, has_answered, prepare

logger = logging.getLogger("lepton.watch")
RENDER_PAUSE_S = 60.0  # while jobs wait, the site is rendered no more often


class Signals:
    """Signals to this process: to take no further job, or to cancel the present one."""

    def __init__(self) -> None:
        self.stopping = False
        self._in_run = False
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._cancel)

    def _stop(self, *_: Any) -> None:
        self.stopping = True

    def _cancel(self, *_: Any) -> None:
        self.stopping = True
        if self._in_run:
            self._in_run = False  # a second signal must not break off the writing of the manifest
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def cancellable(self) -> Iterator[None]:
        """Let SIGINT raise KeyboardInterrupt within."""
        self._in_run = True
        try:
            yield
        finally:
            self._in_run = False


def work(project: Path, signals: Signals) -> None:
    """Run jobs until none is left, this process is asked to stop, or the process that started it has gone."""
    parent = os.getppid()
    queue = Queue(project)
    while not signals.stopping and os.getppid() == parent and (job := queue.take()) is not None:
        with heartbeat(partial(queue.still_running, job)):
            ended = _run(job, queue, project, signals)
        if ended is not None and job.incident is not None:
            with contextlib.suppress(KeyboardInterrupt), signals.cancellable():
                publish_run(ended, job.incident, queue, project)


def _run(job: Job, queue: Queue, project: Path, signals: Signals) -> Manifest | None:
    """Run a job and note how that went; None where no run ended."""
    try:
        settings = read_settings(project)
        if (why := why_to_wait(job, queue, project)) is not None:
            with signals.cancellable():
                queue.hold(job, why, rehearse(job, job.notebook, job.parameters, job.name, queue, settings, project))
            return None
        policy = Policy(settings, project) if job.kind == "alert" else None
        with signals.cancellable():
            run = run_job(job, queue, settings, project)
            is_telling = policy is not None and run.status == "succeeded"
            proposals = _proposals(policy, run, job, queue, settings, project) if policy and is_telling else []
    except KeyboardInterrupt:
        queue.leave(job, "give back", "cancelled: lepton watch was stopped; it will be run again")
        return None
    except LeptonError as error:
        queue.leave(job, "refuse", str(error))
    except Exception as error:  # a fault of ours or the machine's: the job must not vanish, nor end this process
        logger.exception("job %s", job.key)
        queue.leave(job, "refuse", f"{type(error).__name__}: {error}")
    else:
        queue.end(job, run.run_id, run.status, proposals, settings.remedies.most_per_hour, leaves_open(job, run))
        return run
    return None


def _proposals(
    policy: Policy, run: Manifest, job: Job, queue: Queue, settings: Settings, project: Path
) -> list[Proposal]:
    """Return the repairs that a diagnosis asks for, in the order of the objective that alerted, rehearsed."""
    incident = queue.incident(job.incident or "")
    service = incident.service if incident is not None else ""
    asked = policy.proposals(run.results, service=service)
    if incident is not None and len(asked) > 1:
        from lepton_kit.ops.watch.objectives import alerted_objective

        try:
            asked = policy.proposals(run.results, alerted_objective(incident, settings, project), service)
        except InputError as error:  # the repairs are proposed all the same, the likeliest cause first
            logger.warning("the objectives were not read: %s", error)
    return rehearsed(asked, job, queue, settings, project)


def rehearsed(asked: Sequence[Proposal], job: Job, queue: Queue, settings: Settings, project: Path) -> list[Proposal]:
    """Return the proposals of a diagnosis, each that a person may be asked for with its rehearsal.

    The first one that starts by itself at once is not rehearsed: it plans when it runs.
    """
    incident = queue.incident(job.incident or "")
    most = settings.remedies.most_per_hour
    waits = incident is not None and queue.over_limit(incident.service, incident.id, most)
    return [
        replace(one, rehearsal=rehearse(job, one.notebook, one.parameters, one.cause, queue, settings, project))
        if place or one.why or waits
        else one
        for place, one in enumerate(asked)
    ]


def rehearse(
    job: Job,
    runbook: str,
    parameters: Mapping[str, Any],
    cause: str,
    queue: Queue,
    settings: Settings,
    project: Path,
) -> str | None:
    """Run a repair's runbook on the incident's recording without a service, and return the run.

    None where the runbook cannot rehearse: it reads no recording, there is none, or the run could not be made.
    """
    incident = queue.incident(job.incident or "")
    try:
        notebook = locate_notebook(runbook, project)
        names = {parameter.name for parameter in read_parameters(read_notebook(notebook), notebook.name) or []}
        if incident is None or incident.recording is None or RECORDING not in names:
            return None
        is_here(project / incident.recording, project)
        given = dict(parameters) | {RECORDING: incident.recording} | ({SERVICE: ""} if SERVICE in names else {})
        plan = prepare(Request(notebook, given, f"rehearsal of {cause}", trigger=f"rehearsal:{cause}"), project)
        key = f"rehearsal:{incident.id}:{cause}:{incident.recording}"
        options = Options(timeout=settings.watch.run_timeout, idempotency_key=key)
        return execute(plan, project, lambda _: None, options).run_id
    except LeptonError as error:  # a person decides without it; the page says that there is none
        logger.warning("the repair of %s was not rehearsed: %s", cause, error)
        return None


def leaves_open(job: Job, run: Manifest) -> bool:
    """Say whether a run left its incident as it was: it found no cause, or what it did has not helped."""
    said = {name: result.value for name, result in run.results.items()}
    if job.kind == "alert":
        return run.status == "expectation_failed" or said.get("cause") == "unknown"
    return job.kind == "remedy" and (run.status != "succeeded" or said.get("verdict") != "recovered")


def why_to_wait(job: Job, queue: Queue, project: Path) -> str | None:
    """Say why a repair must wait for a person; None where it need not, or the job is none."""
    if job.kind != "remedy":
        return None
    return _broken_off(job, project) or _not_needed(job, queue, project) or _silenced(job, queue)


def _silenced(job: Job, queue: Queue) -> str | None:
    """Say that the alert is silenced where the repair would start by itself: somebody is at work there."""
    incident = queue.incident(job.incident or "")
    is_automatic = any(one.job == job.number and one.is_automatic for one in queue.remedies(job.incident or ""))
    return f"the alert is silenced {incident.silence}" if incident and incident.silence and is_automatic else None


def _broken_off(job: Job, project: Path) -> str | None:
    """Say which run of a repair had begun and did not come to its own end; None where none did."""
    if job.run_id is None:
        return None
    repair(project)  # such as the manifest of a run whose process was killed
    return None if has_answered(job.run_id, project) else f"run {job.run_id} was broken off: see what it did"


def _not_needed(job: Job, queue: Queue, project: Path) -> str | None:
    """Say why the repair of a further cause may not be needed any more, after that of the first; None where it is.

    It is while the first did not recover the indicator that alerted, or an objective is missed (`still_missed`): so
    long the evidence for the further cause stands. Where the first repair does not say so, it stands as well.
    """
    if (earlier := queue.follows_run(job)) is None:
        return None
    cause, run_id = earlier
    try:
        results = find_run(run_id, project).results
    except InputError as error:  # what the first repair found is not known: the evidence for this one stands
        logger.warning("run %s: %s", run_id, error)
        return None
    said = {name: one.value for name, one in results.items()}
    if said.get("verdict") == "recovered" and said.get("still_missed") == []:
        return f"the repair of the first cause, {cause!r}, recovered the service: no objective is missed any more"
    return None


def run_job(job: Job, queue: Queue, settings: Settings, project: Path) -> Manifest:
    """Run a job's notebook; one with a parameter `recording` on evidence that is captured for it.

    Raises InputError when the evidence cannot be captured, or a parameter is not what is needed.
    """
    notebook, given = locate_notebook(job.notebook, project), dict(job.parameters)
    names = {p.name for p in read_parameters(read_notebook(notebook), notebook.name) or []} - given.keys()
    incident = queue.incident(job.incident) if job.incident is not None else None
    if incident is not None and job.kind == "remedy" and SERVICE in names:
        given[SERVICE] = incident.service
    if "objectives" in names and (folder := _objectives_of(job, incident, settings, project)) is not None:
        given["objectives"] = folder
    if incident is not None and job.kind == "postmortem":
        given |= _left_by(incident, names, queue, settings, project)
    elif RECORDING in names:
        given[RECORDING] = _recording(job, incident, queue, settings, project)
    origin = f"{job.kind} {job.name}"
    plan = prepare(Request(notebook, given, origin, trigger=f"{job.kind}:{job.name}"), project)
    retries = 0 if job.kind == "remedy" else 1  # what a repair whose kernel died has done is for a person to see
    options = Options(timeout=settings.watch.run_timeout, retries=retries, idempotency_key=job.key)

    def on_event(event: Event) -> None:
        if event.kind == "run_started":
            queue.comes_to_run(job, event.run_id)
        elif event.kind == "not_tracked":
            logger.warning("run %s: %s", event.run_id, event.text)

    return execute(plan, project, on_event, options)


def _objectives_of(job: Job, incident: Incident | None, settings: Settings, project: Path) -> str | None:
    """Return the folder of the objectives of a job's service; None where it has none."""
    schedule = settings.schedules.get(job.name) if job.kind == "schedule" else None
    name = incident.service if incident is not None else schedule.service if schedule is not None else None
    service = settings.services.get(name or "")
    return service.objectives if service is not None and (project / service.objectives).is_dir() else None


def _recording(job: Job, incident: Incident | None, queue: Queue, settings: Settings, project: Path) -> str:
    try:
        if incident is None:
            folder = freeze_schedule(job.name, job.key, settings, project)
        elif job.kind == "recovery":
            folder = freeze_recovery(incident, settings, project)
        elif job.kind == "remedy" and incident.recording:  # what the diagnosis that asks for it was made from
            folder = project / incident.recording
            is_here(folder, project)
        else:
            folder = freeze_alert(incident, settings, project, job.look)
    except Exception as error:
        if incident is not None:
            what = {"recovery": "recovery check", "remedy": "repair"}.get(job.kind, "runbook")
            queue.note(incident.id, f"the {what} did not start: its evidence could not be captured")
        raise InputError(f"no recording: {error}") from error
    relative = folder.relative_to(project).as_posix()
    if incident is not None and job.kind == "alert":
        from lepton_kit.ops.watch.history import settled_history  # pandas, which other jobs do not need

        queue.note(incident.id, incident.note, relative)
        try:
            settled_history(incident, queue, settings, project)  # what was promised is kept as it is now
        except InputError as error:  # the diagnosis goes on; the incident's page says what is missing
            logger.warning("the history of %s was not frozen: %s", incident.id, error)
    return relative


def _left_by(
    incident: Incident, names: set[str], queue: Queue, settings: Settings, project: Path
) -> dict[str, str | None]:
    """Return what an incident left, by the parameters of the postmortem that want it; None for what is missing.

    The history says what is missing, and why.
    """
    from lepton_kit.ops.watch.history import freeze_history, open_judgement  # pandas, which other jobs do not need

    after, missing = None, []
    if "after" in names:
        try:
            after = freeze_recovery(incident, settings, project)
        except Exception as error:  # whatever it is: the rest is to be looked back on all the same
            missing.append(f"evidence of what followed: {type(error).__name__}: {error}")
    kept = incident.recording if incident.recording and is_here(project / incident.recording, project) else None
    if kept is None:
        missing.append("recording: the incident has none")
    paths = {
        "history": freeze_history(incident, queue, settings, project, tuple(missing)),
        "after": after,
        "judgement": open_judgement(incident, project),
    }
    given = {name: path.relative_to(project).as_posix() if path else None for name, path in paths.items()}
    return {name: value for name, value in {**given, RECORDING: kept}.items() if name in names}


def publish_run(run: Manifest, incident: str, queue: Queue, project: Path) -> None:
    """Publish a run and its incident, and render the report site, unless that is off, or was done a moment ago.

    What goes wrong is kept for the status page: a run is none the worse for it.
    """
    if not read_settings(project).watch.report:
        return
    from lepton_kit.ops.incident_pages import publish_incident
    from lepton_kit.reports.publish import publish_runs
    from lepton_kit.reports.site import build_site

    try:
        try:
            publish_runs(project, [run, *_rehearsals(incident, queue, project)])
        finally:  # the page of the incident does not depend on that of one run
            publish_incident(project, incident)
        _publish_models(project)
        rendered = queue.notes().get(REPORT, ("", 0.0))[1]
        if queue.queued() and time.time() - rendered < RENDER_PAUSE_S:
            return  # the last of the waiting jobs renders
        build_site(project)
    except Exception as error:
        logger.warning("the report site was not rendered: %s", error)
        queue.set_note(REPORT, f"not rendered: {error}")
    else:
        queue.set_note(REPORT, "")


def _rehearsals(incident: str, queue: Queue, project: Path) -> list[Manifest]:
    """Return the rehearsals of the repairs that wait: their pages are read before somebody decides."""
    waits = [one.rehearsal for one in queue.remedies(incident) if one.state == "waiting" and one.rehearsal]
    return [Manifest.load(path) for run in waits if (path := project / "runs" / run / FILE).is_file()]


def _publish_models(project: Path) -> None:
    """Publish the models in use; a registry that cannot be read may be what an incident is about: its page is made."""
    from lepton_kit.ops.executed_pages import publish_promoted

    try:
        publish_promoted(project)
    except LeptonError as error:
        logger.warning("the models in use were not published: %s", error)


def main(arguments: list[str]) -> int:
    """Work in the project that is given."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    try:
        work(Path(arguments[0]), Signals())
    except InputError as error:
        logger.error("%s", error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
