"""Writes runs where people look for them: MLflow, TensorBoard, OpenLineage, OpenTelemetry, RO-Crates, stores, your own.

The manifest stays the truth: a tracker gets a copy of what it says, once the run has ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Thread

from lepton_kit.errors import InputError
from lepton_kit.files import import_file
from lepton_kit.runs.manifest import FILE, Manifest
from lepton_kit.runs.store import STORE, send
from lepton_kit.runs.targets import Target
from lepton_kit.runs.trackers import (  # noqa: F401 - they register
    mlflow,
    openlineage,
    opentelemetry,
    ro_crate,
    tensorboard,
)
from lepton_kit.runs.trackers.base import TRACKERS, Run, tracker
from lepton_kit.secrets import without_password

__all__ = ["DEFAULTS", "TRACKERS", "Run", "track", "track_all", "tracker"]
MOST_S = 60.0
DEFAULTS = {
    "mlflow": "http://127.0.0.1:5000", "tensorboard": "exports/tensorboard",
    "openlineage": "exports/openlineage.jsonl",
    "opentelemetry": "exports/opentelemetry.jsonl", "ro-crate": "exports/ro-crate",
}  # fmt: skip
"""Where a run goes that no other place is given for: `mlflow server` listens there. A store must be named."""


@tracker(STORE)
def _to_store(run: Run, target: str) -> str:
    """Copy a run, the whole folder, into a store such as a bucket, from which other machines fetch it."""
    return send(run.folder, f"runs/{run.manifest.run_id}", FILE, target)


def track(run: Manifest, project: Path, name: str, target: Target) -> str:
    """Write a run that has ended into a tracker, one of `TRACKERS` or of `target.file`; return where it is there.

    Raises InputError when the run has not ended, there is no such tracker, or it cannot be reached or refuses the run.
    The run itself is as it was.
    """
    if run.ended is None:
        raise InputError(f"run {run.run_id!r}: is {run.status}; a tracker gets a run once it has ended")
    if target.file is not None:
        import_file(project / target.file, f"track.{name}.file")
    if name not in TRACKERS:
        raise InputError(f"tracker {name!r}: must be one of {', '.join(TRACKERS)}, or one with a file of its own")
    where = target.address(project)
    try:
        return TRACKERS[name](Run(run, run.folder(project)), where)
    except InputError:
        raise
    except Exception as error:  # such as a full disk, or whatever a tracker of one's own raises
        shown = without_password(where)
        words = without_password(f"{type(error).__name__}: {error}".replace(where, shown))
        raise InputError(f"tracker {name!r} = {shown!r}: {words}") from None


def track_all(run: Manifest, project: Path, targets: Mapping[str, Target], tell: Callable[[str], object]) -> None:
    """Write a run into several trackers at once; `tell` is given what went wrong, which ends nothing.

    One that takes longer than `MOST_S` seconds is not waited for: it may still come to its end, unless this process
    ends before.
    """
    failed: dict[str, str] = {}

    def write(name: str, target: Target) -> None:
        try:
            track(run, project, name, target)
        except InputError as error:
            failed[name] = str(error)

    threads = {name: Thread(target=write, args=(name, one), daemon=True) for name, one in targets.items()}
    for thread in threads.values():
        thread.start()
    deadline = time.monotonic() + MOST_S
    for name, thread in threads.items():
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            failed[name] = f"tracker {name!r}: did not take the run within {MOST_S:g} s"
        if name in failed:
            tell(f"{failed[name]}; to write it there later: lepton export {run.run_id} --tracker {name}")
