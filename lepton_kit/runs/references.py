"""References to inputs: files of the project, and `run:<notebook or run id>/<file>` for artifacts of earlier runs.

Where a notebook ran for several subjects (its parameter `subject`), `run:<subject>/<notebook>/<file>` says whose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lepton_kit.errors import InputError
from lepton_kit.files import SINGLE_NAME, sha256_of
from lepton_kit.runs.ids import the_one
from lepton_kit.runs.manifest import FILE, Manifest, fetch_run, finished_runs
from lepton_kit.runs.shipped import in_project_or_shipped

RUN_SCHEME = "run:"
SUBJECT = "subject"  # the parameter of a notebook that says whose data it works on
INTERACTIVE = "interactive"  # below runs/: what notebooks leave when a person runs them by hand
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


def resolve(
    reference: str, project: Path, pipeline_runs: Mapping[str, str] | None = None, subject: str | None = None
) -> Found:
    """Find the file or folder that a reference names.

    Parameters
    ----------
    reference
        A path (absolute, or relative to the project's root, or else to what the kit ships),
        `run:<notebook or run id>/<file>`, or `run:<subject>/<notebook>/<file>`.
    project
        The project's root. A run that is not here, and is named by its whole id, is fetched from its store.
    pipeline_runs
        Run ids by notebook name that come before any other run of that notebook: a pipeline's own earlier steps.

    subject
        Whose run is meant where the reference does not say it: that of the notebook which asks.

    Raises
    ------
    InputError
        When there is no such file, run or artifact, or runs of several subjects could be meant.
    """
    if reference.startswith(RUN_SCHEME):
        return _resolve_artifact(reference, project, pipeline_runs or {}, subject)
    return Found(in_project_or_shipped(reference, project), reference)


def _resolve_artifact(
    reference: str, project: Path, pipeline_runs: Mapping[str, str], subject: str | None = None
) -> Found:
    owner, _, file = reference.removeprefix(RUN_SCHEME).partition("/")
    first, _, rest = file.partition("/")
    fetch_run(pipeline_runs.get(owner, owner), project)
    is_known = owner in pipeline_runs or _known_owner(owner, project)
    if rest and not is_known and SINGLE_NAME.fullmatch(owner):
        owner, file, subject = first, rest, owner
    if not SINGLE_NAME.fullmatch(owner) or not file or Path(file).is_absolute() or ".." in Path(file).parts:
        raise InputError(f"reference {reference!r}: must read run:<notebook or run id>/<file>")
    folders = _run_folders(pipeline_runs.get(owner, owner), project, subject, reference)
    if not folders:
        raise InputError(
            f"reference {reference!r}: no finished run of {owner!r}{f' for {subject}' if subject else ''} in "
            f"{project / 'runs'}; "
            f"run that notebook first, such as `lepton run notebooks/{owner}.ipynb`"
        )
    paths = [path for folder in folders if (path := folder / "artifacts" / file).exists()]
    if not paths:
        left = sorted(path.name for path in (folders[0] / "artifacts").glob("*"))
        raise InputError(f"reference {reference!r}: {folders[0].name} left no {file!r}; it left {left or 'nothing'}")
    path = max(paths, key=lambda path: path.stat().st_mtime)
    run = path.parents[len(Path(file).parts)]
    if run.parent.name == INTERACTIVE:
        return Found(path.resolve(), reference, run.name)
    _check_unchanged(path, file, run, reference)
    return Found(path.resolve(), f"{RUN_SCHEME}{run.name}/{file}", run.name)


def _known_owner(owner: str, project: Path) -> bool:
    by_hand = project / "runs" / INTERACTIVE / owner
    return (
        (project / "runs" / owner).is_dir()
        or by_hand.is_dir()
        or any(run.name == owner or run.run_id.endswith(f"-{owner}") for run in finished_runs(project))
    )


def _run_folders(owner: str, project: Path, subject: str | None, reference: str) -> list[Path]:
    """Return the folder of the run with this id, or those of a notebook: its newest success, and its work by hand.

    A short id is taken where no notebook is called so. A run that names another subject is never one of them.
    """
    if owner != INTERACTIVE and (exact := project / "runs" / owner).is_dir():
        return [exact]
    successes = [run for run in finished_runs(project) if run.name == owner and run.status == "succeeded"]
    subjects = sorted({str(run.parameters[SUBJECT]) for run in successes if run.parameters.get(SUBJECT)})
    if subject is None and len(subjects) > 1:
        choices = " or ".join(f"run:{one}/{reference.removeprefix(RUN_SCHEME)}" for one in subjects)
        raise InputError(f"reference {reference!r}: {owner!r} ran for {' and '.join(subjects)}; write {choices}")
    successes = [run for run in successes if subject is None or run.parameters.get(SUBJECT) in (None, subject)]
    by_hand = project / "runs" / INTERACTIVE / owner
    named = [run.folder(project) for run in successes[:1]] + ([by_hand] if by_hand.is_dir() else [])
    if named or not (ids := [run.run_id for run in finished_runs(project) if run.run_id.endswith(f"-{owner}")]):
        return named
    return [project / "runs" / the_one(owner, ids, "run", "lepton runs")]


def _check_unchanged(path: Path, file: str, run: Path, reference: str) -> None:
    known = {artifact.file: artifact.sha256 for artifact in Manifest.load(run / FILE).artifacts}
    if file in known and sha256_of(path) != known[file]:
        raise InputError(f"reference {reference!r}: {path} has been changed since {run.name} left it; run that again")
