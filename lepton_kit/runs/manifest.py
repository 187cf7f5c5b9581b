"""The manifest of a run: everything needed to trust it and to repeat it."""

from __future__ import annotations

import heapq
import logging
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeGuard

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from lepton_kit.errors import InputError
from lepton_kit.files import SINGLE_NAME, sha256_of, single_name, write_atomically
from lepton_kit.runs.ids import the_one
from lepton_kit.runs.store import fetch

Status = Literal[
    "queued", "running", "succeeded", "failed", "timed_out", "kernel_died", "cancelled", "expectation_failed"
]
FILE, NOTEBOOK = "manifest.json", "notebook.ipynb"
RUN_ID = re.compile(r"\d{8}T\d{6}Z-.+-[0-9a-f]{6}")
logger = logging.getLogger(__name__)


def _one_name(name: str) -> str:
    try:
        return single_name(name, "name")
    except InputError as error:
        raise ValueError(str(error)) from error


def _inside(file: str) -> str:
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts or "\0" in file or not path.parts:
        raise ValueError(f"file {file!r}: must lie in the folder of the run's artifacts")
    return file


RunId = Annotated[str, AfterValidator(_one_name)]


def well_formed(value: Any) -> Any:
    r"""Return what JSON holds with every half of a surrogate pair written as its escape.

    >>> well_formed({"a": ["half \ud83d of it"]})
    {'a': ['half \\ud83d of it']}
    """
    if isinstance(value, dict):
        return {well_formed(key): well_formed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [well_formed(item) for item in value]
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


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

    @property
    def line(self) -> str:
        """The value in a line, with its unit."""
        if is_table(self.value):
            return f"table of {len(self.value['rows'])} rows: {', '.join(self.value['columns'])}"
        text = f"{self.value:.6g}" if isinstance(self.value, float) else str(self.value)
        return f"{text} {self.unit}" if self.unit not in ("", "1") else text


def is_table(value: Any) -> TypeGuard[Mapping[str, Any]]:
    """Say whether a recorded value is a table."""
    return isinstance(value, Mapping) and value.keys() == {"columns", "rows"}


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

    file: Annotated[str, AfterValidator(_inside)]
    sha256: str
    bytes: int


class CellRun(Part):
    """What became of one code cell: completed, failed, interrupted, or not run.

    `number` counts the notebook's code cells from 1; the cell that papermill adds with values for the parameters has
    the number of the parameters' cell.
    """

    number: int
    status: str
    duration_s: float | None


class RunError(Part):
    """What ended a run that did not succeed; `cell` counts the notebook's code cells from 1."""

    cell: int | None
    name: str
    message: str


class Git(Part):
    """The commit that the project stood at."""

    commit: str
    dirty: bool


class Environment(Part):
    """The software and the machine that ran the notebook; `worker` is its address where that was one of a cluster."""

    python: str
    platform: str
    host: str
    kernel: str
    packages: dict[str, str]
    worker: str | None = None


class Manifest(Part):
    """One run, from the moment it starts (`status` is `running`) to its end.

    `ended_early` is why its notebook left out the rest, which did not apply.
    """

    format: Literal[1] = 1
    run_id: RunId
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
    given: list[str] | None = None
    inputs: list[Input] = []
    results: dict[str, Result] = {}
    expectations: list[Expectation] = []
    artifacts: list[Artifact] = []
    executed_sha256: str | None = None
    cells: list[CellRun] = []
    ended_early: str | None = None
    error: RunError | None = None
    git: Git | None
    environment: Environment
    attempt: int = 1
    retry_of: RunId | None = None
    resumed_from: RunId | None = None
    secrets: dict[str, str] = {}
    checkpoints: list[dict[str, Any]] = []
    options: dict[str, Any] = {}

    @property
    def given_parameters(self) -> dict[str, Any]:
        """Return what a repetition is to be given: the others are the notebook's own defaults."""
        return {name: value for name, value in self.parameters.items() if self.given is None or name in self.given}

    def folder(self, project: Path) -> Path:
        """Return the run's folder."""
        return project / "runs" / self.run_id

    def well_formed(self) -> Manifest:
        """Return the same in text that UTF-8 can hold; see `well_formed`."""
        return Manifest.model_validate(well_formed(self.model_dump()))

    def save(self, folder: Path) -> None:
        """Write the manifest into the run's folder, whole or not at all."""
        write_atomically(folder / FILE, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Read a manifest.

        Raises InputError when the file is absent, cannot be read, is not a manifest of format 1, or is that of a run
        which another folder belongs to.
        """
        try:
            found = cls.model_validate_json(path.read_bytes())
        except FileNotFoundError as error:
            raise InputError(f"run folder {str(path.parent)!r}: has no {FILE}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "file"
            raise InputError(f"manifest {str(path)!r}: {where}: {first['msg']}") from error
        except OSError as error:
            raise InputError(f"manifest {str(path)!r} cannot be read: {error.strerror}") from error
        if found.run_id != path.parent.name:
            raise InputError(f"manifest {str(path)!r}: run_id = {found.run_id!r}: must be the name of its folder")
        return found


def all_runs(project: Path) -> list[Manifest]:
    """Return the manifests of all runs of a project, newest first; of one that cannot be read a warning tells."""
    found = {}
    for path in (project / "runs").glob(f"*/{FILE}"):
        try:
            found[path.parent.name] = Manifest.load(path)
        except InputError as error:
            logger.warning("skipped: %s", error)
    return [found[folder] for folder in newest_first({name: run.started for name, run in found.items()}, project)]


def newest_first(times: Mapping[str, Any], project: Path) -> list[str]:
    """Return the names of run folders, by name the time when each began, newest first.

    The ledger says in which order the runs began: a clock that is put back changes nothing in that. Runs that it does
    not know, such as those of another project, stand among them by their time.
    """
    from lepton_kit.runs.ledger import Ledger  # SQLAlchemy, which a notebook's kernel does not need

    try:
        order = Ledger(project).sequence()
    except InputError as error:
        logger.warning("the order of runs is that of their times: %s", error)
        order = {}
    known = sorted(times.keys() & order.keys(), key=order.__getitem__)
    others = sorted(times.keys() - order.keys(), key=lambda name: (times[name], name))
    return [*heapq.merge(known, others, key=times.__getitem__)][::-1]


def finished_runs(project: Path) -> list[Manifest]:
    """Return the manifests of all runs that have ended, however they ended, newest first."""
    return [manifest for manifest in all_runs(project) if manifest.ended is not None]


def fetch_run(given: str, project: Path) -> bool:
    """Say whether a run is here by its whole id, once the project's store, if it has one, was asked for it.

    Raises InputError when the store cannot be read.
    """
    if SINGLE_NAME.fullmatch(given) and (project / "runs" / given / FILE).is_file():
        return True
    return RUN_ID.fullmatch(given) is not None and fetch(project, f"runs/{given}", FILE)


def find_run(given: str, project: Path, only: Status | None = None) -> Manifest:
    """Find a run by its id, its end or beginning, its notebook's name (the newest run of it), or `latest`.

    `only` takes the newest of this status. By its whole id a run that is not here is fetched from the project's store.
    Raises InputError when none or several runs are meant, or the store cannot be read.
    """
    if fetch_run(given, project):
        return Manifest.load(project / "runs" / given / FILE)
    runs = {run.run_id: run for run in all_runs(project)}
    newest = (run for run in runs.values() if given in (run.name, "latest") and only in (None, run.status))
    if (found := next(newest, None)) is not None:
        return found
    return runs[the_one(given, runs, "run", "lepton runs", f" that {only}" if only else "")]


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
    # Installing or removing a package makes or removes an entry of one of these folders.
    folders = (Path(entry or ".") for entry in sys.path)
    return _packages(tuple((str(folder), folder.stat().st_mtime_ns) for folder in folders if folder.is_dir()))


@lru_cache(maxsize=1)
def _code_sha256(kit: str, _as_of: tuple[tuple[str, int, int], ...]) -> str:
    return sha256_of(Path(kit))


@lru_cache(maxsize=1)
def _packages(folders: tuple[tuple[str, int], ...]) -> dict[str, str]:
    found = {}
    for package in metadata.distributions(path=[folder for folder, _ in folders]):
        # `package.metadata` parses all of it as an e-mail: of hundreds of packages that takes half a second.
        text = package.read_text("METADATA") or package.read_text("PKG-INFO") or ""
        told = dict(re.findall(r"^(Name|Version): *(\S+)", re.split(r"\r?\n\r?\n", text, maxsplit=1)[0], re.MULTILINE))
        if {"Name", "Version"} <= told.keys():
            found[told["Name"]] = told["Version"]
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))
