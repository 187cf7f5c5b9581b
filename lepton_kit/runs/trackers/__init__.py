"""Writes runs where people look for them: MLflow, TensorBoard, OpenLineage, an RO-Crate, a store, or one's own.

The manifest stays the truth: a tracker gets a copy of what it says, once the run has ended.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lepton_kit.errors import InputError
from lepton_kit.files import import_file
from lepton_kit.runs.manifest import Manifest
from lepton_kit.runs.targets import Target, set_targets
from lepton_kit.runs.trackers import mlflow, openlineage, ro_crate, store, tensorboard  # noqa: F401 - they register
from lepton_kit.runs.trackers.base import TRACKERS, Run, tracker
from lepton_kit.secrets import without_password

__all__ = ["DEFAULTS", "TRACKERS", "Run", "track", "track_as_set", "tracker"]
DEFAULTS = {
    "mlflow": "http://127.0.0.1:5000", "tensorboard": "exports/tensorboard",
    "openlineage": "exports/openlineage.jsonl", "ro-crate": "exports/ro-crate",
    "store": "exports/store",
}  # fmt: skip
"""Where a run goes that no other place is given for: `mlflow server` listens there."""


def track(run: Manifest, project: Path, name: str, target: Target) -> str:
    """Write a run into a tracker, and return where it is there.

    Parameters
    ----------
    run
        A run that has ended.
    project
        The project's root, from which files and folders start.
    name
        Which tracker: one of `TRACKERS`, or one that `target.file` registers.
    target
        Where to.

    Raises
    ------
    InputError
        When the run has not ended, there is no such tracker, or it cannot be reached or refuses the run. The run
        itself is as it was.
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
    except OSError as error:
        raise InputError(f"tracker {name!r} = {without_password(where)!r}: {error.strerror or error}") from error


def track_as_set(run: Manifest, project: Path, tell: Callable[[str], object]) -> None:
    """Write a run into each tracker that lepton.toml names; `tell` is given what went wrong, which ends nothing."""
    try:
        targets = set_targets(project)
    except InputError as error:
        tell(str(error))
        return
    for name, target in targets.items():
        try:
            track(run, project, name, target)
        except Exception as error:  # a tracker of one's own may raise anything: the run is whole all the same
            said = error if isinstance(error, InputError) else f"tracker {name!r}: {type(error).__name__}: {error}"
            tell(f"{said}; to write it there later: lepton export {run.run_id} --tracker {name}")
