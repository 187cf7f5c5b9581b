"""The evidence of an incident, frozen before its runbook starts."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_kit.errors import InputError
from lepton_kit.files import single_name
from lepton_kit.ops.watch.queue import Incident
from lepton_kit.project.settings import Settings
from lepton_kit.runs.store import fetch, send, store_of

if TYPE_CHECKING:  # pandas, which a worker needs only to capture, and `lepton watch` only for services
    from lepton_kit.telemetry.recordings import Promise, Window
    from lepton_kit.telemetry.selectors import Source

logger = logging.getLogger("lepton.watch")
FOLDER = "incidents"
INCIDENT = "incident.json"
"""The file without which a recording is not whole."""


def recording_folder(project: Path, incident: str, look: int = 1) -> Path:
    """Return where the recording of an incident lies; each further look at one has another."""
    return project / FOLDER / single_name(incident, "incident") / ("recording" if look == 1 else f"recording-{look}")


def source_of(settings: Settings, project: Path, timeout: float = 30.0) -> Source:
    """Open the source of telemetry that the settings name; a server's answer may take `timeout` seconds."""
    from lepton_kit.telemetry.prometheus import open_source

    return open_source(settings.watch.source, project, timeout)


def source_to_capture(settings: Settings, project: Path) -> Source | None:
    """Open the source that the settings name; None while there is no store in its folder: the rest is captured then."""
    where = settings.watch.source
    return source_of(settings, project) if is_address(where) or (project / where).is_dir() else None


def is_address(source: str) -> bool:
    """Say whether a source is a server, not a folder."""
    return source.startswith(("http://", "https://"))


def freeze_alert(incident: Incident, settings: Settings, project: Path, look: int = 1) -> Path:
    """Capture the evidence of an incident, from `evidence_hours` before it on; return the recording's folder."""
    before = settings.watch.evidence_hours * 3600 / settings.watch.time_scale
    start = min(_began(incident), time.time()) - before
    folder = recording_folder(project, incident.id, look)
    return _freeze(incident.service, start, folder, settings, project, [incident.alert])


def freeze_longer(incident: Incident, window: Window, settings: Settings, project: Path) -> Path:
    """Capture twice the window before an incident's recording, until now; return the folder of that recording."""
    folders = (recording_folder(project, incident.id).with_name(f"recording-longer-{number}") for number in count(1))
    folder = next(one for one in folders if not one.exists())
    start = longer_window(window).timestamp()
    return _freeze(incident.service, start, folder, settings, project, [incident.alert])


def longer_window(window: Window) -> datetime:
    """Return where a window begins that is twice as long as another one, to the same end."""
    return window.start - (window.end - window.start)


def freeze_recovery(incident: Incident, settings: Settings, project: Path) -> Path:
    """Capture what followed on an alert, an hour at least: its later half against the earlier one shows recovery."""
    start = min(_began(incident), time.time() - 3600 / settings.watch.time_scale)
    folder = recording_folder(project, f"{incident.id}-recovery")
    return _freeze(incident.service, start, folder, settings, project, [incident.alert])


def freeze_schedule(name: str, key: str, settings: Settings, project: Path) -> Path:
    """Capture the evidence that a schedule asks for.

    `key` is its job's, `schedule:<name>:<due>`, or with some digits before the time (Unix seconds) where that was due
    twice, as the clock was ahead the first time.
    """
    schedule = settings.schedules.get(name)
    if schedule is None or schedule.service is None:
        raise InputError(f"schedule {name!r}: names no service in lepton.toml")
    start = time.time() - schedule.evidence_hours * 3600 / settings.watch.time_scale
    digits, _, due = key.removeprefix(f"schedule:{name}:").rpartition(":")
    moment = datetime.fromtimestamp(float(due), UTC)
    folder = recording_folder(project, f"{moment:%Y%m%dT%H%M%SZ}-{name}" + (f"-{digits}" if digits else ""))
    return _freeze(schedule.service, start, folder, settings, project, [])


def _began(incident: Incident) -> float:
    return datetime.fromisoformat(incident.starts_at).timestamp()


def _freeze(
    name: str, start: float, folder: Path, settings: Settings, project: Path, alerts: Sequence[Mapping[str, Any]]
) -> Path:
    """Capture a service's evidence from `start` until now, unless an earlier attempt did so, and return its folder.

    Raises InputError when it is no declared service, or its evidence cannot be captured.
    """
    from lepton_kit.diagnosis.capture import capture
    from lepton_kit.project.declarations import declared

    if is_here(folder, project):
        _keep(folder, project)
        return folder
    declaration = declared(project, name, settings)
    source, promises = source_to_capture(settings, project), promises_of(name, settings, project)
    if source is None and not declaration.requests and declaration.logs is None:
        raise InputError(
            f"service {name!r}: there is no telemetry store in {settings.watch.source}, and services.{name} names "
            "neither requests nor logs: nothing can be captured"
        )
    key = settings.capture.key
    capture(name, declaration, project, source, start, time.time(), folder, alerts, promises, key)
    _keep(folder, project)
    return folder


def is_here(folder: Path, project: Path) -> bool:
    """Say whether a recording is here and whole, once the project's store, if it has one, was asked for it.

    A store that cannot be read is warned of: an incident does not wait for it.
    """
    if (folder / INCIDENT).is_file():
        return True
    try:
        return fetch(project, folder.relative_to(project).as_posix(), INCIDENT)
    except InputError as error:
        logger.warning("%s", error)
        return False


def _keep(folder: Path, project: Path) -> None:
    """Copy a recording into the project's store, if it has one; the next who needs the recording tries again."""
    try:
        if (where := store_of(project)) is not None:
            send(folder, folder.relative_to(project).as_posix(), INCIDENT, where)
    except InputError as error:
        logger.warning("%s; to send it later: lepton export --incident %s --store", error, folder.parent.name)


def send_recordings(incident: str, project: Path, where: str) -> list[str]:
    """Copy the recordings of an incident into a store, and return their addresses there.

    Raises InputError when it has none here, or the store cannot be written.
    """
    held = sorted((project / FOLDER / single_name(incident, "incident")).glob(f"recording*/{INCIDENT}"))
    if not held:
        raise InputError(f"incident {incident!r}: has no recording in {project / FOLDER / incident}")
    return [send(one.parent, one.parent.relative_to(project).as_posix(), INCIDENT, where) for one in held]


def promises_of(name: str, settings: Settings, project: Path) -> list[Promise]:
    """Return a service's objectives; none where they cannot be read, which the diagnosis then says."""
    from lepton_kit.ops.watch.objectives import read_all_objectives
    from lepton_kit.telemetry.recordings import Promise

    with contextlib.suppress(InputError):
        known = read_all_objectives(settings, project)
        return [Promise.of(one, settings.watch.time_scale) for one in known if one.service == name]
    return []
