"""What travels between who asks for a run and the worker of a cluster that executes it: files, packed as bytes."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from lepton_kit.errors import InputError
from lepton_kit.files import as_toml, sha256_of
from lepton_kit.runs.ending import reserves_of
from lepton_kit.runs.manifest import FILE
from lepton_kit.runs.notebooks import modules_in
from lepton_kit.runs.project import SETTINGS
from lepton_kit.runs.references import resolve
from lepton_kit.runs.runner import Plan

AT_HOME = ("cluster", "ledger", "notify", "track")  # settings that no worker reads, and that may hold passwords
OUTSIDE = Path("notebooks-from-elsewhere")  # where a notebook lies on the worker that does not lie in the project


def check_can_travel(plan: Plan) -> None:
    """Raise InputError where a plan needs what cannot be taken to a worker: secrets, or files above the project."""
    if plan.secrets:
        raise InputError(
            f"{plan.name}: parameter {next(iter(plan.secrets))!r} is a secret, which does not travel to a cluster: run "
            "it here (--cluster none)"
        )
    for each in plan.inputs:
        if each.sha256 and each.run is None and ".." in Path(each.ref).parts:
            raise InputError(
                f"{plan.name}: parameter {each.parameter!r} = {each.ref!r}: lies outside of the project, whose files "
                "alone travel to a cluster; an absolute path means the same file on each worker"
            )


def pack_plan(plan: Plan, project: Path) -> tuple[Plan, bytes]:
    """Return a plan whose paths are relative to a copy of the project, and that copy: all that the run needs.

    These are lepton.toml without its settings `AT_HOME`, the notebook with the modules beside it, the packages of
    `subjects/`, and the inputs that parameters name. An input by an absolute path does not travel.
    """
    project = project.resolve()
    there = {plan.notebook: _home(plan.notebook, project)}
    beside = _home(plan.beside, project)
    there |= {path: beside / path.name for path in modules_in(plan.beside)}
    there |= {path: path.relative_to(project) for path in modules_in(project / "subjects")}
    for each in plan.inputs:
        if each.sha256 is not None and not Path(each.ref).is_absolute():
            path = resolve(each.ref, project).path
            there[path] = path.relative_to(project) if path.is_relative_to(project) else Path(each.ref)
            if each.run is not None and (manifest := project / "runs" / each.run / FILE).is_file():
                there[manifest] = manifest.relative_to(project)
    with tempfile.TemporaryDirectory() as scratch:
        settings = Path(scratch) / SETTINGS
        settings.write_text(_travelling(project / SETTINGS), "utf-8")
        packed = _packed({settings: SETTINGS, **{path: str(name) for path, name in there.items()}}, dereference=True)
    return replace(plan, notebook=there[plan.notebook], beside=beside), packed


def _travelling(path: Path) -> str:
    """Return lepton.toml without the settings that stay at home, as TOML of a line each."""
    try:
        settings = tomllib.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not TOML: {error}") from error
    return "".join(f"{as_toml(name)} = {as_toml(held)}\n" for name, held in settings.items() if name not in AT_HOME)


def unpack_plan(plan: Plan, packed: bytes, root: Path) -> Plan:
    """Make the copy of the project in an empty folder; return the plan with its paths there.

    Raises InputError when an input that did not travel is not here, or not the same.
    """
    _unpack(packed, root)
    for each in plan.inputs:
        path = Path(each.ref)
        if each.sha256 and path.is_absolute() and not (path.exists() and sha256_of(path) == each.sha256):
            raise InputError(
                f"parameter {each.parameter!r} = {each.ref!r}: is not on the worker, or differs there: only files of "
                "the project travel"
            )
    return replace(plan, notebook=root / plan.notebook, beside=root / plan.beside)


def pack_run(folder: Path) -> bytes:
    """Return all that a run has left in its folder, without a manifest: that is written by who asked for the run."""
    left_out = {folder / FILE, *reserves_of(folder)}
    return _packed({path: path.name for path in sorted(folder.iterdir()) if path not in left_out}, dereference=False)


def unpack_run(packed: bytes, folder: Path) -> None:
    """Put what `pack_run` returned into a run's folder, each file whole; that all are there, its manifest says later.

    Raises InputError when it cannot be written, or would lead out of the folder.
    """
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".returned-") as arrived:
            _unpack(packed, Path(arrived))
            for path in sorted(Path(arrived).iterdir()):
                path.replace(folder / path.name)
    except (OSError, tarfile.TarError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"run folder {str(folder)!r}: what the worker sent back cannot be written: {why}") from error


def files_in(root: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of all files of a project but those of its runs, to see which of them change."""
    return {path.relative_to(root).as_posix(): _size_and_time(path) for path in _walk(root)}


def _walk(root: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(root):
        left_out = {"__pycache__", ".ipynb_checkpoints"} | ({"runs"} if Path(place) == root else set())
        folders[:] = [name for name in folders if name not in left_out]
        yield from (Path(place, name) for name in names)


def _size_and_time(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_size, found.st_mtime_ns


def _home(path: Path, project: Path) -> Path:
    """Return where a notebook, or the folder of one, lies on the worker, relative to the project."""
    path = path.resolve()
    if path.is_relative_to(project):
        return path.relative_to(project)
    return OUTSIDE if path.is_dir() else OUTSIDE / path.name


def _packed(names: Mapping[Path, str], dereference: bool) -> bytes:
    """Return files and folders as an archive, with the names that they have there."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", dereference=dereference) as archive:
        for path, name in names.items():
            archive.add(path, name, filter=_without_caches)
    return packed.getvalue()


def _without_caches(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in Path(entry.name).parts else entry


def _unpack(packed: bytes, folder: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
