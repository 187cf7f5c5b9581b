"""Tells MLflow which version of a service served when: a run for each version's time in service."""

from __future__ import annotations

import time
from pathlib import Path

from lepton_kit.errors import InputError
from lepton_kit.ops.watch.evidence import source_to_capture
from lepton_kit.project.declarations import declared
from lepton_kit.project.settings import read_settings
from lepton_kit.runs.trackers.mlflow import MLflow
from lepton_kit.telemetry.declaration import Metric
from lepton_kit.telemetry.readers import read_deployments

BACK_S = 90 * 86400.0
"""How far back a metric is asked for versions."""


def export_served(service: str, project: Path, address: str) -> str:
    """Write a service's deployments into the experiment `<service> in service` of an MLflow server.

    Each is a run that begins with the deployment and ends with the next one; that of the version in service goes on.
    What is there already stays, and a run whose version was followed since then is ended. Ask which version served at
    a time by `attributes.start_time <= T`, the newest first.

    Returns
    -------
    str
        What was written, and where.

    Raises
    ------
    InputError
        When the service declares no deployments, nothing is known of them, or the server cannot be reached.
    """
    settings = read_settings(project)
    declaration = declared(project, service, settings)
    if declaration.deployments is None:
        raise InputError(f"service {service!r}: declares no deployments; set services.{service}.deployments")
    source = source_to_capture(settings, project) if isinstance(declaration.deployments, Metric) else None
    end = time.time()
    found, problems = read_deployments(declaration, project, source, declaration.series(service), end - BACK_S, end)
    if not found:
        why = "; ".join(problems) or "its record names none"
        raise InputError(f"service {service!r}: no deployment is known: {why}")
    with MLflow(address) as server:
        experiment = server.experiment(f"{service} in service")
        for place, (at, version, note) in enumerate(found):
            known_as = f"{service}@{at.isoformat()}"
            tags = {"service": service, "version": version, "mlflow.note.content": note}
            run, status = next(iter(server.find(experiment, known_as).items()), (None, "RUNNING"))
            run = run or server.begin(experiment, known_as, version, at.timestamp(), tags)
            if place + 1 < len(found) and status == "RUNNING":
                server.end(run, "FINISHED", found[place + 1][0].timestamp())
        return f"{service}: {len(found)} deployments: {server.page(experiment)}"
