"""The manifest of a run: everything needed to trust it and to repeat it."""

from __future__ import annotations

import logging
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from lepton_kit.errors import InputError
from lepton_kit.files import sha256_of, write_atomically

Status = Literal[
    "queued", "running", "succeeded", "failed", "timed_out", "kernel_died", "cancelled", "expectation_failed"
]
FILE = "manifest.json"
logger = logging.getLogger(__name__)


class Part(BaseModel):
    """Base of the manifest's parts: unknown fields are errors, so that a manifest means what its format says."""

    model_config = ConfigDict(extra="forbid")


class Input(Part):
    """A file, folder or table that the run read; `sha256` is None for what is not a local file."""

    parameter: str | None = None
    ref: str
    sha256: str | None
    run: str | None


class Result(Part):
    """A value recorded by the notebook, with the tolerances that a later run must keep.

    `title` is what readers see in place of the name, `headline` says that it stands for the notebook, and `better`
    which direction of a number is the better one; empty where the notebook does not say.
    """

    value: Any
    unit: str = ""
    rtol: float = 1e-6
    atol: float = 0.0
    compare: bool = True
    title: str = ""
    headline: bool = False
    better: Literal["", "higher", "lower"] = ""

    @property
    def is_single(self) -> bool:
        """Whether it is one number, text or truth value."""
        return isinstance(self.value, bool | int | float | str)


def title_of(name: str, result: Result) -> str:
    """Return what readers see of a result's name.

    >>> title_of("time_to_detect", Result(value=1)), title_of("mae", Result(value=1, title="Mean absolute error"))
    ('time to detect', 'Mean absolute error')
    """
    return result.title or name.replace("_", " ")


class Expectation(Part):
    """A condition that the notebook stated."""

    message: str
    passed: bool
    values: dict[str, Any]


class Artifact(Part):
    """A file that the run left."""

    file: str
    sha256: str
    bytes: int


class CellRun(Part):
    """What became of one code cell, counted from 1: completed, failed, interrupted, or not run."""

    number: int
    status: str
    duration_s: float | None


class RunError(Part):
    """What ended a run that did not succeed; `cell` counts code cells from 1."""

    cell: int | None
    name: str
    message: str


class Git(Part):
    """The commit that the project stood at."""

    commit: str
    dirty: bool


class Environment(Part):
    """The software and the machine that ran the notebook."""

    python: str
    platform: str
    host: str
    kernel: str
    packages: dict[str, str]


class Manifest(Part):
    """One run, from the moment it starts (`status` is `running`) to its end."""

    format: Literal[1] = 1
    run_id: str
    notebook: str
    name: str
    title: str
    notebook_sha256: str
    code_sha256: str
    key: str | None
    status: Status
    trigger: str
    started: datetime
    ended: datetime | None = None
    duration_s: float | None = None
    parameters: dict[str, Any]
    inputs: list[Input] = []
    results: dict[str, Result] = {}
    expectations: list[Expectation] = []
    artifacts: list[Artifact] = []
    executed_sha256: str | None = None
    cells: list[CellRun] = []
    error: RunError | None = None
    git: Git | None
    environment: Environment
    attempt: int = 1
    retry_of: str | None = None
    resumed_from: str | None = None
    secrets: dict[str, str] = {}
    checkpoints: list[dict[str, Any]] = []
    options: dict[str, Any] = {}

    def folder(self, project: Path) -> Path:
        """Return the run's folder."""
        return project / "runs" / self.run_id

    def save(self, folder: Path) -> None:
        """Write the manifest into the run's folder, whole or not at all."""
        write_atomically(folder / FILE, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Read a manifest.

        Raises
        ------
        InputError
            When the file is absent, or not a manifest of format 1.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError as error:
            raise InputError(f"run folder {str(path.parent)!r}: has no {FILE}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "file"
            raise InputError(f"manifest {str(path)!r}: {where}: {first['msg']}") from error


def all_runs(project: Path) -> list[Manifest]:
    """Return the manifests of all runs of a project, newest first; of one that cannot be read a warning tells."""
    found = []
    for path in (project / "runs").glob(f"*/{FILE}"):
        try:
            found.append(Manifest.load(path))
        except InputError as error:
            logger.warning("skipped: %s", error)
    return sorted(found, key=lambda run: (run.started, run.run_id), reverse=True)


def finished_runs(project: Path) -> list[Manifest]:
    """Return the manifests of all runs that have ended, however they ended, newest first."""
    return [manifest for manifest in all_runs(project) if manifest.ended is not None]


def find_run(given: str, project: Path, only: Status | None = None) -> Manifest:
    """Find a run by its id, the end of its id, its notebook's name (the newest run of it), or `latest`.

    Parameters
    ----------
    given
        What a person typed.
    project
        The project's root.
    only
        Of a notebook's runs, or of all, take the newest of this status.

    Raises
    ------
    InputError
        When none or several runs are meant.
    """
    if (exact := project / "runs" / given / FILE).is_file():
        return Manifest.load(exact)
    runs = all_runs(project)
    newest = [run for run in runs if given in (run.name, "latest") and only in (None, run.status)]
    meant = newest[:1] or [run for run in runs if run.run_id.endswith(given)]
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise InputError(f"run {given!r}: {len(meant)} runs end so: {', '.join(run.run_id for run in meant)}")
    kind = f" that {only}" if only else ""
    raise InputError(
        f"run {given!r}: none of the {len(runs)} runs{kind} in {project / 'runs'}; `lepton runs` lists them"
    )


def now() -> datetime:
    """Return the present time in UTC, to the millisecond."""
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def git_state(project: Path) -> Git | None:
    """Return the project's commit, or None where there is no git repository (or no git)."""
    command = ["git", "-C", str(project), "status", "--porcelain=v2", "--branch"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return None
    commit = next((line.split()[2] for line in lines if line.startswith("# branch.oid ")), "(initial)")
    if commit == "(initial)":
        return None  # a repository without a commit
    return Git(commit=commit, dirty=any(not line.startswith("#") for line in lines))


def environment(kernel: str) -> Environment:
    """Describe the present software and machine."""
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        host=platform.node(),
        kernel=kernel,
        packages=packages(),
    )


def code_sha256() -> str:
    """Return the hash of the installed `lepton_kit` itself."""
    kit = str(Path(__file__).parents[1])
    files = [os.path.join(at, name) for at, _, names in os.walk(kit) if "__pycache__" not in at for name in names]  # noqa: PTH118
    stats = ((file, os.stat(file)) for file in sorted(files))  # noqa: PTH116 - a hundred files, before each run
    return _code_sha256(kit, tuple((file, stat.st_mtime_ns, stat.st_size) for file, stat in stats))


def packages() -> dict[str, str]:
    """Return the versions of all installed packages by name."""
    # Whoever installs or removes a package makes or removes an entry of one of these folders.
    folders = (Path(entry or ".") for entry in sys.path)
    return _packages(tuple((str(folder), folder.stat().st_mtime_ns) for folder in folders if folder.is_dir()))


@lru_cache(maxsize=1)
def _code_sha256(kit: str, _as_of: tuple[tuple[str, int, int], ...]) -> str:
    return sha256_of(Path(kit))


@lru_cache(maxsize=1)
def _packages(folders: tuple[tuple[str, int], ...]) -> dict[str, str]:
    paths = [folder for folder, _ in folders]
    found = {name: dist.version for dist in metadata.distributions(path=paths) if (name := dist.metadata["Name"])}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))
