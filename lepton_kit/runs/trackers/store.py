"""Copies runs, whole folders, into a store such as a bucket, from which other machines fetch them."""

from __future__ import annotations

from lepton_kit.runs.manifest import FILE
from lepton_kit.runs.store import STORE, send
from lepton_kit.runs.trackers.base import Run, tracker


@tracker(STORE)
def _to_store(run: Run, target: str) -> str:
    return send(run.folder, f"runs/{run.manifest.run_id}", FILE, target)
