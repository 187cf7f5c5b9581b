"""Checks with nbval that a notebook, or a run, still gives what it gave."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lepton_kit.errors import InputError, LeptonError
from lepton_kit.files import sha256_of, write_atomically
from lepton_kit.notebook import CHART, INPUT
from lepton_kit.runs.comparison import Difference
from lepton_kit.runs.ending import recorded_results
from lepton_kit.runs.manifest import NOTEBOOK, Manifest, Result
from lepton_kit.runs.notebooks import installed_kernel, is_text, read_notebook
from lepton_kit.runs.references import is_remote, resolve
from lepton_kit.runs.runner import kernel_environment
from lepton_kit.runs.shipped import folder_of

WRITTEN_BY_NOTEBOOKS = ("models",)  # copied into the scratch project, so that a check changes nothing


@dataclass(frozen=True)
class Check:
    """What a check found: the results that differ, and nbval's own report of everything else."""

    name: str
    passed: bool
    differences: list[Difference]
    report: str


def check_run(run: Manifest, project: Path, kernel: str | None = None) -> Check:
    """Repeat a run in a fresh kernel and compare every output with what it left; `kernel` names another one for it.

    Raises InputError when the run did not succeed, or its folder or an input is no longer what it was.
    """
    check_untouched(run, project)
    return _check(run.folder(project) / NOTEBOOK, run.run_id, project, folder_of(run.notebook, project), kernel)


def check_untouched(run: Manifest, project: Path) -> None:
    """Compare the files in a run's folder, and its inputs, with its manifest.

    Raises InputError when the run did not succeed, or something is no longer what it was.
    """
    if run.status != "succeeded":
        raise InputError(f"run {run.run_id!r}: its status is {run.status}; only a run that succeeded can be repeated")
    folder = run.folder(project)
    files = {folder / "artifacts" / artifact.file: artifact.sha256 for artifact in run.artifacts}
    for path, sha256 in {folder / NOTEBOOK: run.executed_sha256, **files}.items():
        if not path.is_file() or sha256_of(path) != sha256:
            raise InputError(
                f"run {run.run_id!r}: {path} has changed since the run wrote it, so the run cannot be repeated"
            )
    recorded = recorded_results(read_notebook(folder / NOTEBOOK).cells)
    if {name: Result(**result) for name, result in recorded.items()} != run.results:
        raise InputError(f"run {run.run_id!r}: the results in its manifest are not those in its notebook")
    for known in run.inputs:
        if not is_remote(known.ref) and sha256_of(resolve(known.ref, project).path) != known.sha256:
            raise InputError(f"run {run.run_id!r}: input {known.ref!r} has changed since; it cannot be repeated")


def check_notebook(notebook: Path, project: Path, kernel: str | None = None) -> Check:
    """Execute a committed notebook in a fresh kernel and compare every output with the committed one."""
    _check_holds_outputs(notebook)
    if not any(cell.get("outputs") for cell in read_notebook(notebook).cells):
        raise InputError(
            f"notebook {notebook.name!r}: has no outputs to compare with; `lepton check --update` makes them"
        )
    return _check(notebook, notebook.stem, project, notebook.parent, kernel)


def update_outputs(notebook: Path, project: Path, kernel: str | None = None) -> None:
    """Execute a committed notebook as it stands and keep the new outputs as those that later checks compare with.

    Raises InputError for a notebook as text, and LeptonError when a cell fails: the file is left as it was.
    """
    import nbformat
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    from lepton_kit.runs.client import LocalClient

    _check_holds_outputs(notebook)
    content = read_notebook(notebook)
    with _scratch_project(project) as (scratch, folder):
        used = installed_kernel(content, notebook.name, kernel).name
        client = LocalClient(content, kernel_name=used, record_timing=False)
        try:
            client.execute(env=kernel_environment(scratch, folder, notebook.parent), cwd=str(folder))
        except (CellExecutionError, DeadKernelError) as error:
            raise LeptonError(f"notebook {notebook.name!r}: a cell failed, outputs not updated: {error}") from error
    for cell in content.cells:
        _forget_this_run(cell)
    content.metadata.pop("widgets", None)
    write_atomically(notebook, str(nbformat.writes(content)) + "\n")


def _check_holds_outputs(notebook: Path) -> None:
    if is_text(notebook):
        raise InputError(
            f"notebook {notebook.name!r}: as text it holds no outputs; run it, and check that run: `lepton check RUN`"
        )


def _forget_this_run(cell: Any) -> None:
    """Remove what differs on every machine and says nothing to a reader, and of each figure all but its PNG."""
    cell.metadata.pop("execution", None)
    for output in cell.get("outputs", []):
        if "image/png" in output.get("data", {}):
            for kind in ("image/svg+xml", CHART):  # runs keep them for their pages; what is committed stays small
                output["data"].pop(kind, None)
        if INPUT in output.get("data", {}):
            output["data"][INPUT] = {}  # the run that it came from; that it is an input still shows


def _check(notebook: Path, name: str, project: Path, beside: Path, kernel: str | None) -> Check:
    import nbformat

    with _scratch_project(project) as (scratch, folder):
        copy = folder / NOTEBOOK
        nbformat.write(read_notebook(notebook), copy)  # nbval reads none that another tool left unlike the format
        found = folder / "differences.jsonl"
        used = installed_kernel(read_notebook(notebook), notebook.name, kernel).name
        run = _run_nbval(copy, found, kernel_environment(scratch, folder, beside), used)
        lines = found.read_text(encoding="utf-8").splitlines() if found.exists() else []
    return Check(name, run.returncode == 0, [Difference(**json.loads(line)) for line in lines], run.stdout + run.stderr)


def _run_nbval(
    notebook: Path, differences: Path, environment: dict[str, str], kernel: str
) -> subprocess.CompletedProcess[str]:
    from lepton_kit.runs.client import PROVISIONER

    # The inner pytest must see neither the project's own settings nor those of an outer pytest.
    environment = {key: value for key, value in environment.items() if not key.startswith("PYTEST_")}
    environment["JUPYTER_DEFAULT_PROVISIONER_NAME"] = PROVISIONER  # a kernel is forked where it may be, as for a run
    plain = ("-p", "no:cacheprovider", "-p", "no:xdist", "-c", os.devnull, "-q", "--color=no", "--tb=short")
    command = [
        sys.executable, "-m", "pytest", "--nbval", "--nbval-kernel-name", kernel, "-p", "lepton_kit.runs.nbval_plugin",
        *plain, "--rootdir", str(notebook.parent), "--lepton-differences", str(differences), str(notebook),
    ]  # fmt: skip
    return subprocess.run(command, env=environment, cwd=notebook.parent, capture_output=True, text=True)


@contextmanager
def _scratch_project(project: Path) -> Iterator[tuple[Path, Path]]:
    """Make a project like the given one that can be written to without changing it; yield it and a run folder."""
    with tempfile.TemporaryDirectory(prefix="lepton-check-") as name:
        scratch = Path(name)
        (scratch / "runs").mkdir()
        for entry in project.iterdir():
            if entry.name in WRITTEN_BY_NOTEBOOKS:
                shutil.copytree(entry, scratch / entry.name)
            elif entry.name != "runs":
                (scratch / entry.name).symlink_to(entry.resolve())
        for run in (project / "runs").glob("*") if (project / "runs").is_dir() else ():
            (scratch / "runs" / run.name).symlink_to(run.resolve())
        folder = scratch / "runs" / "check"
        (folder / "artifacts").mkdir(parents=True)
        yield scratch, folder
