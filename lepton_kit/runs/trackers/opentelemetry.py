"""Writes runs as OpenTelemetry traces (OTLP 1, JSON encoding): a span for the run, and one for each cell that ran.

https://opentelemetry.io/docs/specs/otlp/#otlphttp; in a file, a line is a `TracesData`, as the collector reads it.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from lepton_kit import __version__
from lepton_kit.runs.manifest import NOTEBOOK, CellRun
from lepton_kit.runs.trackers.base import Run, send, tracker

INTERNAL, OK, ERROR = 1, 1, 2
"""A span's kind, and its status codes."""
STATUS = {"completed": {"code": OK}, "succeeded": {"code": OK}}
"""Of a run or a cell that ended well; any other is an error."""


@tracker("opentelemetry")
def _to_opentelemetry(run: Run, target: str) -> str:
    """Send a run's trace to an OTLP/HTTP receiver, or append it to a file of JSON lines.

    Who sends the same run twice sends the same ids: receivers know the spans by them.
    """
    resource = {"attributes": _attributes({"service.name": "lepton-kit", "service.version": __version__})}
    scope = {"name": "lepton_kit.runs", "version": __version__}
    spans = [_of_run(run), *_of_cells(run)]
    return send("opentelemetry", target, "v1/traces", [
        {"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": scope, "spans": spans}]}]}
    ])  # fmt: skip


def _of_run(run: Run) -> dict[str, Any]:
    made = run.manifest
    about = {"lepton.run_id": made.run_id, "lepton.status": made.status, "lepton.trigger": made.trigger}
    results = {f"lepton.result.{name}": value for name, value in {**run.words, **run.numbers}.items()}
    said = f"{made.error.name}: {made.error.message}" if made.error else made.status
    return {
        **_span(run, "", made.notebook, made.started, made.ended or made.started),
        "attributes": _attributes(about | results),
        "status": STATUS.get(made.status, {"code": ERROR, "message": said}),
    }


def _of_cells(run: Run) -> Iterator[dict[str, Any]]:
    """Give the spans of the cells, by the times that papermill wrote beside each."""
    if not run.manifest.cells or not (run.folder / NOTEBOOK).is_file():  # it ended before its first save, say
        return
    notebook = json.loads((run.folder / NOTEBOOK).read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for place, (cell, ran) in enumerate(zip(cells, run.manifest.cells, strict=True)):
        times = [cell["metadata"].get("papermill", {}).get(name) for name in ("start_time", "end_time")]
        if all(times):
            start, end = map(datetime.fromisoformat, times)
            yield {
                **_span(run, str(place), f"cell {ran.number}", start, end),
                "parentSpanId": _span_id(run, ""),
                "attributes": _attributes({"lepton.cell": ran.number}),
                "status": _status_of(run, ran),
            }


def _status_of(run: Run, ran: CellRun) -> dict[str, Any]:
    error = run.manifest.error
    about = {"message": f"{error.name}: {error.message}"} if error is not None and error.cell == ran.number else {}
    return STATUS.get(ran.status, {"code": ERROR, **about})


def _span(run: Run, which: str, name: str, start: datetime, end: datetime) -> dict[str, Any]:
    return {
        "traceId": uuid.uuid5(uuid.NAMESPACE_URL, run.manifest.run_id).hex, "spanId": _span_id(run, which),
        "name": name, "kind": INTERNAL, "startTimeUnixNano": _nanoseconds(start), "endTimeUnixNano": _nanoseconds(end),
    }  # fmt: skip


def _span_id(run: Run, which: str) -> str:
    return hashlib.sha256(f"{run.manifest.run_id} {which}".encode()).hexdigest()[:16]


def _nanoseconds(moment: datetime) -> str:
    """Return a time in Unix nanoseconds, as the JSON encoding wants whole numbers of 64 bits: as text."""
    return f"{round(moment.timestamp() * 1e6)}000"


def _attributes(values: dict[str, Any]) -> list[dict[str, Any]]:
    kinds = {str: "stringValue", float: "doubleValue"}
    return [
        {"key": name, "value": {"intValue": str(one)} if isinstance(one, int) else {kinds[type(one)]: one}}
        for name, one in values.items()
    ]
