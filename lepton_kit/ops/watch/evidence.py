"""The evidence of an incident, frozen before its runbook starts."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_kit.errors import InputError
from lepton_kit.ops.watch.queue import Incident
from lepton_kit.runs.settings import Settings

if TYPE_CHECKING:  # pandas, which a worker needs only to capture, and `lepton watch` only for services
    from lepton_kit.telemetry.selectors import Source

FOLDER = "incidents"


def recording_folder(project: Path, incident: str) -> Path:
    """Return where the recording of an incident lies."""
    return project / FOLDER / incident / "recording"


def source_of(settings: Settings, project: Path) -> Source:
    """Open the source of telemetry that the settings name."""
    from lepton_kit.telemetry.sources import open_source

    where = settings.watch.source
    return open_source(where if is_address(where) else project / where)


def is_address(source: str) -> bool:
    """Say whether a source is a server, not a folder."""
    return source.startswith(("http://", "https://"))


def freeze(incident: Incident, settings: Settings, project: Path) -> Path:
    """Capture the evidence of an incident, unless that was done already, and return the recording's folder.

    Raises
    ------
    InputError
        When the alert names no service of lepton.toml, or its evidence cannot be captured.
    """
    from lepton_kit.diagnosis.capture import capture

    folder = recording_folder(project, incident.id)
    if (folder / "incident.json").is_file():
        return folder
    service = settings.services.get(incident.service)
    if service is None:
        known = ", ".join(settings.services) or "none"
        raise InputError(f"label service = {incident.service!r}: no service of lepton.toml (there are: {known})")
    end = time.time()
    before = settings.watch.evidence_hours * 3600 / settings.watch.time_scale
    start = min(datetime.fromisoformat(incident.starts_at).timestamp(), end) - before
    capture(
        project / "services" / incident.service,
        source_of(settings, project),
        project / service.registry,
        start,
        end,
        folder,
        [incident.alert],
    )
    return folder
