"""Writes runs as OpenLineage events (spec 2-0-2): what was read and what was made, for tools such as Marquez."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from lepton_kit import __version__
from lepton_kit.runs.trackers.base import Run, send, tracker

SCHEMA = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
PRODUCER = f"urn:lepton-kit:{__version__}"
ENDED = {"succeeded": "COMPLETE", "cancelled": "ABORT"}
"""What OpenLineage calls how a run ended; all else is FAIL."""


@tracker("openlineage")
def _to_openlineage(run: Run, target: str) -> str:
    """Send the events of a run to an OpenLineage receiver, or append them to a file of JSON lines.

    Who sends the same run twice sends the same events: receivers know a run by its `runId`.
    """
    events = [_event(run, "START", run.manifest.started)]
    events += [_event(run, ENDED.get(run.manifest.status, "FAIL"), run.manifest.ended or run.manifest.started)]
    return send("openlineage", target, "api/v1/lineage", events)


def _event(run: Run, kind: str, at: datetime) -> dict[str, Any]:
    manifest = run.manifest
    facets: dict[str, Any] = {"processing_engine": _facet("ProcessingEngine", version=__version__, name="lepton-kit")}
    if kind == "FAIL" and manifest.error is not None:
        said = f"{manifest.error.name}: {manifest.error.message}"
        facets["errorMessage"] = _facet("ErrorMessage", message=said, programmingLanguage="Python")
    made = [f"artifacts/{one.file}" for one in manifest.artifacts] if kind != "START" else []
    return {
        "eventType": kind, "eventTime": at.isoformat(), "producer": PRODUCER, "schemaURL": SCHEMA,
        "run": {"runId": str(uuid.uuid5(uuid.NAMESPACE_URL, manifest.run_id)), "facets": facets},
        "job": {"namespace": "lepton", "name": manifest.notebook},
        "inputs": [{"namespace": "lepton", "name": one.ref} for one in manifest.inputs],
        "outputs": [{"namespace": "lepton", "name": f"runs/{manifest.run_id}/{name}"} for name in made],
    }  # fmt: skip


def _facet(facet: str, **values: Any) -> dict[str, Any]:
    page = {"ProcessingEngine": "1-1-1", "ErrorMessage": "1-0-1"}[facet]
    schema = f"https://openlineage.io/spec/facets/{page}/{facet}RunFacet.json#/$defs/{facet}RunFacet"
    return {"_producer": PRODUCER, "_schemaURL": schema, **values}
