"""References to inputs: files of the project, and `run:<notebook or run id>/<file>` for artifacts of earlier runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lepton_kit.errors import InputError

RUN_SCHEME = "run:"
REMOTE_SCHEMES = ("sample:", "http://", "https://")


@dataclass(frozen=True)
class Found:
    """Where a reference leads: the path, the reference with its run pinned, and that run's id (None for a file)."""

    path: Path
    pinned: str
    run_id: str | None = None


def is_remote(reference: str) -> bool:
    """Tell whether a reference names something other than a local file: bundled sample data or a URL."""
    return reference.startswith(REMOTE_SCHEMES)


def resolve(reference: str, project: Path, pipeline_runs: Mapping[str, str] | None = None) -> Found:
    """Find the file or folder that a reference names.

    Parameters
    ----------
    reference
        A path (absolute, or relative to the project's root) or `run:<notebook or run id>/<file>`.
    project
        The project's root.
    pipeline_runs
        Run ids by notebook name that come before any other run of that notebook: a pipeline's own earlier steps.

    Raises
    ------
    InputError
        When there is no such file, run or artifact.
    """
    if reference.startswith(RUN_SCHEME):
        return _resolve_artifact(reference, project, pipeline_runs or {})
    path = Path(reference).expanduser()
    path = path if path.is_absolute() else project / path
    if not path.exists():
        raise InputError(f"no file or folder {reference!r} (looked for {path})")
    return Found(path.resolve(), reference)


def _resolve_artifact(reference: str, project: Path, pipeline_runs: Mapping[str, str]) -> Found:
    owner, _, file = reference.removeprefix(RUN_SCHEME).partition("/")
    if not owner or not file or ".." in Path(file).parts:
        raise InputError(f"reference {reference!r}: must read run:<notebook or run id>/<file>")
    run = _run_named(pipeline_runs.get(owner, owner), project)
    if run is None:
        raise InputError(
            f"reference {reference!r}: no finished run of {owner!r} in {project / 'runs'}; "
            f"run that notebook first, such as `lepton run notebooks/{owner}.ipynb`"
        )
    path = run / "artifacts" / file
    if not path.exists():
        left = sorted(p.name for p in (run / "artifacts").glob("*"))
        raise InputError(f"reference {reference!r}: run {run.name} left no {file!r}; it left {left or 'nothing'}")
    pinned = reference if run.parent.name == "interactive" else f"{RUN_SCHEME}{run.name}/{file}"
    return Found(path.resolve(), pinned, run.name)


def _run_named(owner: str, project: Path) -> Path | None:
    """Return the folder of the run with this id, or of the newest successful run of this notebook."""
    from lepton_kit.runs.manifest import finished_runs  # manifest reads more than most callers of this module need

    if (exact := project / "runs" / owner).is_dir() and owner != "interactive":
        return exact
    candidates = [m.folder(project) for m in finished_runs(project) if m.name == owner and m.status == "succeeded"]
    if (by_hand := project / "runs" / "interactive" / owner).is_dir():
        candidates.append(by_hand)
    return max(candidates, key=lambda folder: (folder / "artifacts").stat().st_mtime, default=None)
