"""The objectives of the services of lepton.toml, and what of them is not measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lepton_kit.errors import InputError
from lepton_kit.project.settings import Settings
from lepton_kit.telemetry.declaration import objectives_folder
from lepton_kit.telemetry.slo import alert_name

if TYPE_CHECKING:  # pandas: not for a project without services
    from lepton_kit.ops.watch.queue import Incident
    from lepton_kit.telemetry.backtest import Past
    from lepton_kit.telemetry.burn_rates import Status
    from lepton_kit.telemetry.selectors import Source
    from lepton_kit.telemetry.slo import Objective


MOST_INCIDENTS = 10_000
"""The newest incidents of the ledger that a backtest looks at."""


@dataclass(frozen=True)
class NotMeasured:
    """An objective that is not measured; `reason` as in `lepton_kit.telemetry.burn_rates.Unmeasured`."""

    objective: str
    title: str
    service: str
    reason: Literal["refused", "no samples", "unknown service"]
    detail: str

    @property
    def is_fault(self) -> bool:
        """Whether somebody must see to it; a service that was not asked yet has no samples either."""
        return self.reason != "no samples"


def declared_objectives(settings: Settings, project: Path) -> list[Objective]:
    """Return all objectives of the services' folders, also those of services that lepton.toml does not name.

    Raises InputError when a folder of a service holds none, a file is not readable, or a service has two of one name.
    """
    from lepton_kit.telemetry.slo import read_objectives

    folders = {
        one.objectives: None
        for name, one in settings.services.items()
        if one.objectives != objectives_folder(name) or (project / one.objectives).is_dir()
    }
    beside = sorted({path.parent for path in (project / "slo").rglob("*.y*ml")})  # of services that nobody declared
    folders |= dict.fromkeys(path.relative_to(project).as_posix() for path in beside)
    found: dict[tuple[str, str], Objective] = {}
    for folder in folders:
        for one in read_objectives(project / folder):
            if (one.service, one.name) in found:
                raise InputError(
                    f"{project / folder}: objective {one.name!r} of {one.service!r} also exists in another folder"
                )
            found[one.service, one.name] = one
    return list(found.values())


def read_all_objectives(settings: Settings, project: Path) -> list[Objective]:
    """Return the objectives of the services of the settings."""
    if not settings.services:
        return []
    return [one for one in declared_objectives(settings, project) if one.service in settings.services]


def own_series(objectives: Sequence[Objective], settings: Settings) -> list[Objective]:
    """Return objectives on the series of their own service alone, so that no other's samples are counted."""
    return [one.within(settings.series_of(one.service)) for one in objectives]


def without_service(objectives: Sequence[Objective], settings: Settings) -> list[NotMeasured]:
    """Return the objectives that nobody watches, since lepton.toml does not name their service."""
    known = ", ".join(settings.services) or "none"
    return [
        NotMeasured(
            one.name, one.title, one.service, "unknown service",
            f"its service {one.service!r} is not declared under [services] in lepton.toml (there are: {known})",
        )
        for one in objectives
        if one.service not in settings.services
    ]  # fmt: skip


def not_measured(statuses: Sequence[Status]) -> list[NotMeasured]:
    """Return the objectives that a source gave no samples of."""
    return [
        NotMeasured(one.name, one.title, one.service, why.reason, why.detail)
        for status in statuses
        if (one := status.objective) and (why := status.unmeasured) is not None
    ]


def alerted_objective(incident: Incident, settings: Settings, project: Path) -> Objective | None:
    """Return the objective whose alert an incident is; None where the alert belongs to none of its service.

    Raises InputError when the objectives cannot be read.
    """
    label = incident.alert.get("labels", {}).get("slo")
    return next(
        (
            one
            for one in read_all_objectives(settings, project)
            if one.service == incident.service and (label == one.name or incident.name == alert_name(one))
        ),
        None,
    )


def watched_past(objective: Objective, source: Source, start: float, end: float, project: Path) -> Past:
    """Return what a source holds of an objective in a time (Unix seconds), with its service's incidents by the ledger.

    The past begins at the first sample: before it nothing could have fired. An incident whose alert still fires lasts
    until `end`.

    Raises InputError when the source holds no sample of that time, or refuses them.
    """
    from lepton_kit.ops.watch.queue import Queue
    from lepton_kit.runs.ledger import Ledger
    from lepton_kit.telemetry.backtest import Incident, Past

    held = source.query(str(objective.total), start, end)
    if held.empty:
        raise InputError(f"backtest of {objective.name}: the source holds no samples of {objective.total} in that time")
    known = Queue(project).incidents(MOST_INCIDENTS) if Ledger(project).exists() else []
    happened = [
        Incident(f"{one.name} {one.id}", _unix(one.starts_at), _unix(one.ends_at) if one.ends_at else end)
        for one in known
        if one.service == objective.service
    ]
    first = max(start, held["time"].min().timestamp())
    within = tuple(one for one in happened if one.ended >= first and one.alerted <= end)
    return Past(source, first, end, within)


def recorded_pasts(objective: Objective, folder: Path) -> list[Past]:
    """Return the recordings of an objective's service in the folders of a folder; one without an alert is healthy time.

    Raises InputError when there is none, or one cannot be read.
    """
    import pandas as pd

    from lepton_kit.telemetry.backtest import Incident, Past
    from lepton_kit.telemetry.health import RecordedMetrics
    from lepton_kit.telemetry.recordings import read_recording

    found = []
    for path in sorted(folder.glob("*/incident.json")):
        recording = read_recording(path.parent)
        start, end = (at.timestamp() for at in (recording.incident.window.start, recording.incident.window.end))
        if recording.incident.service == objective.service:
            alerted = min((alert.starts_at.timestamp() for alert in recording.incident.alerts), default=None)
            happened = () if alerted is None else (Incident(path.parent.name, alerted, end),)
            source = RecordedMetrics(recording.metrics)
            first = source.query(str(objective.total), start, end)["time"].min()
            found.append(Past(source, end if first is pd.NaT else first.timestamp(), end, happened))
    if not found:
        raise InputError(f"--recordings {str(folder)!r}: no folder in it is a recording of {objective.service}")
    return found


def _unix(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()
