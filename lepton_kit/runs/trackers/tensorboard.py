"""Writes runs for TensorBoard: a folder of event files for each."""

from __future__ import annotations

import json
import shutil

from lepton_kit.errors import InputError
from lepton_kit.runs.trackers.base import Run, folder_in, tracker


@tracker("tensorboard")
def _to_tensorboard(run: Run, target: str) -> str:
    """Write a run as a folder of event files; one that is there already is as it was."""
    folder = folder_in(target, "tensorboard") / run.manifest.run_id
    if folder.exists():
        return str(folder)
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "tracker 'tensorboard': its package is not installed: pip install 'lepton-kit[track]'"
        ) from error
    half = folder.parent.with_name(f".{folder.parent.name}-{folder.name}")  # beside, where TensorBoard does not look
    shutil.rmtree(half, ignore_errors=True)  # what a killed process left
    at = run.manifest.started.timestamp()
    with SummaryWriter(str(half)) as events:
        for name, value in run.numbers.items():
            events.add_scalar(name, value, 0, at)
        for name, curve in run.curves.items():
            for step, value in curve.items():
                events.add_scalar(name, value, int(str(step)), at)
        for kind, told in (("parameters", run.manifest.parameters), ("results", run.words)):
            lines = [f"| {key} | {json.dumps(value, ensure_ascii=False)} |" for key, value in told.items()]
            if lines:
                events.add_text(kind, "\n".join(["| name | value |", "|---|---|", *lines]), 0, at)
    folder.parent.mkdir(parents=True, exist_ok=True)
    half.rename(folder)
    return str(folder)
