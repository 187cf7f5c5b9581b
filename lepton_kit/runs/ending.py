"""What became of a run: reads back what its notebook recorded, and judges it; also where its runner was killed."""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any

from lepton_kit.errors import ExpectationFailed, InputError, RunnerDied
from lepton_kit.files import sha256_of, write_atomically
from lepton_kit.notebook import CHECKPOINT, END, EXPECTATION, INPUT, RESULT, payloads, was_not_run
from lepton_kit.runs.ledger import Ledger, Owner
from lepton_kit.runs.manifest import (
    FILE,
    NOTEBOOK,
    Artifact,
    CellRun,
    Expectation,
    Input,
    Manifest,
    Part,
    Result,
    RunError,
    Status,
    now,
    well_formed,
)
from lepton_kit.runs.notebooks import SKIPPED, is_counted, read_notebook, tags
from lepton_kit.runs.redaction import Redactor
from lepton_kit.secrets import resolve_secrets

logger = logging.getLogger(__name__)

LAST_WORDS = 128 * 1024  # bytes of a manifest, or of a notebook beyond its source; a few pages of the ledger among them


def complete(
    manifest: Manifest, folder: Path, status: Status, error: BaseException | None, redactor: Redactor | None
) -> Manifest:
    """Return the manifest of a run that has ended, without the value of any secret."""
    leak = _removed_leak(folder, redactor) if redactor else None
    try:
        status, wrong, found = _read_back(folder, status, error, {i.ref for i in manifest.inputs})
        found["inputs"] = manifest.inputs + found["inputs"]
    except Exception as unreadable:  # what the run left cannot be read back: the manifest must say that, not `running`
        wrong, found = RunError(cell=None, name=type(unreadable).__name__, message=str(unreadable)), {}
        if error is not None:  # why it ended comes first: whether it may be run again hangs on that
            message = f"{error}; and what it left cannot be read back: {wrong.name}: {unreadable}"
            wrong = RunError(cell=None, name=getattr(error, "ename", type(error).__name__), message=message)
        status = "failed" if status == "succeeded" else status
    if leak:
        status, wrong = "failed", leak
    ended = now()
    took = round((ended - manifest.started).total_seconds(), 3)
    found |= {"status": status, "ended": ended, "duration_s": took, "error": wrong}
    manifest = manifest.model_copy(update=found)
    return (_without_secrets(manifest, redactor) if redactor else manifest).well_formed()


def _without_secrets(manifest: Manifest, redactor: Redactor) -> Manifest:
    """Take the values of secrets out of what the notebook said; times, hashes and sizes are the kit's own words."""

    def clean(part: Part, *fields: str) -> Any:
        return part.model_copy(update={field: redactor.json(getattr(part, field)) for field in fields})

    said: Manifest = clean(manifest, "title", "parameters", "checkpoints", "ended_early")
    return said.model_copy(
        update={
            "inputs": [clean(each, "ref") for each in manifest.inputs],
            "results": {redactor.text(name): clean(each, "value", "unit") for name, each in manifest.results.items()},
            "expectations": [clean(each, "message", "values") for each in manifest.expectations],
            "artifacts": [clean(each, "file") for each in manifest.artifacts],
            "error": manifest.error and clean(manifest.error, "name", "message"),
        }
    )


def _removed_leak(folder: Path, redactor: Redactor) -> RunError | None:
    """Remove the files into which, or into whose names, the notebook wrote a secret; the engine's own are free of them.

    A folder comes before what lies in it.
    """
    removed = []
    for path in sorted(folder.rglob("*"), key=lambda path: len(path.parts)):
        if not os.path.lexists(path):  # it went with the folder around it
            continue
        name = path.relative_to(folder).as_posix()
        if secret := redactor.found_in_name(name) or _secret_held(path, folder, redactor):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            removed.append(f"{redactor.text(name)!r} (secret {secret!r})")
    message = f"the notebook wrote secrets into files, which were removed: {', '.join(sorted(removed))}"
    return RunError(cell=None, name="SecretLeaked", message=message) if removed else None


def _secret_held(path: Path, folder: Path, redactor: Redactor) -> str | None:
    if path.is_symlink():
        return redactor.found_in_name(str(path.readlink()))
    is_ours = path in (folder / NOTEBOOK, folder / FILE)
    return redactor.found_in(path) if path.is_file() and not is_ours else None


def _read_back(
    folder: Path, status: Status, error: BaseException | None, known: set[str]
) -> tuple[Status, RunError | None, dict[str, Any]]:
    """Read from the executed notebook how the run ended, and what it recorded (as fields of its manifest)."""
    notebook = folder / NOTEBOOK
    written = notebook.exists()  # not where it failed before its first save
    cells = [cell for cell in read_notebook(notebook).cells if cell.cell_type == "code"] if written else []
    outputs = [output for cell in cells for output in cell.outputs]
    runs = []
    # The cell that papermill adds with values counts as the parameters' own.
    for number, cell in zip(accumulate(map(is_counted, cells)), cells, strict=True):
        noted = cell.metadata.get("papermill", {})
        runs.append(CellRun(number=number, status=noted.get("status", "not run"), duration_s=noted.get("duration")))
    expectations = [Expectation(**payload) for payload in payloads(outputs, EXPECTATION)]
    files = sorted(path for path in (folder / "artifacts").rglob("*") if path.is_file())
    artifacts = [
        Artifact(file=str(path.relative_to(folder / "artifacts")), sha256=sha256_of(path), bytes=path.stat().st_size)
        for path in files
    ]
    wrong = None
    if error is not None:
        failed = next((run.number for run in runs if run.status in ("failed", "interrupted")), None)
        name, message = getattr(error, "ename", type(error).__name__), str(getattr(error, "evalue", error))
        wrong = RunError(cell=failed, name=name, message=message)
    if status == "succeeded":
        meant = [
            run for run, cell in zip(runs, cells, strict=True) if SKIPPED not in tags(cell) and not was_not_run(cell)
        ]
        status, wrong = _verdict(expectations, meant, artifacts)
    return status, wrong, {
        "inputs": [Input(**payload) for payload in payloads(outputs, INPUT) if payload["ref"] not in known],
        "results": {name: Result(**result) for name, result in recorded_results(cells).items()},
        "expectations": expectations,
        "artifacts": artifacts,
        "checkpoints": list(payloads(outputs, CHECKPOINT)),
        "executed_sha256": sha256_of(notebook) if written else None,
        "cells": runs,
        "ended_early": next((payload["reason"] for payload in payloads(outputs, END)), None),
    }  # fmt: skip


def _verdict(
    expectations: list[Expectation], cells: list[CellRun], artifacts: list[Artifact]
) -> tuple[Status, RunError | None]:
    """Judge a notebook that raised nothing: it may have swallowed a broken expectation, or left by `sys.exit()`."""
    for broken in (each for each in expectations if not each.passed):
        message = f"expected: {broken.message}; got {broken.values}"
        return "expectation_failed", RunError(cell=None, name=ExpectationFailed.__name__, message=message)
    for cell in (each for each in cells if each.status != "completed"):
        if cell.status == "failed":  # papermill takes no exit for an error whose status is 0
            message = "this cell left the notebook (sys.exit): no cell after it ran"
        else:
            message = "the notebook left before this cell ran"
        return "failed", RunError(cell=cell.number, name="SystemExit", message=message)
    for artifact in (each for each in artifacts if well_formed(each.file) != each.file):  # as `save` would write it
        message = f"artifact {artifact.file!r}: its name is not UTF-8, so that nothing can name it"
        return "failed", RunError(cell=None, name="InputError", message=message)
    return "succeeded", None


def recorded_results(cells: list[Any]) -> dict[str, dict[str, Any]]:
    """Return the results recorded in cells' outputs, by name; the last one recorded under a name counts."""
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return {
        payload["name"]: {key: value for key, value in payload.items() if key != "name"}
        for payload in map(well_formed, payloads(outputs, RESULT))
    }


def repair(project: Path) -> list[Manifest]:
    """Tell the truth about the runs whose runner was killed, in manifests and notebooks, and return these runs.

    A run whose files cannot be read, or not be written, is warned of, and keeps nobody from going on.
    """
    ledger, repaired = Ledger(project), []
    for run_id, owner in ledger.take_over_abandoned():
        try:
            manifest = _repaired(run_id, owner, project, ledger)
        except Exception as error:  # such as a full disk: no run may stop the others
            logger.warning("run %s could not be repaired: %s", run_id, error)
            with suppress(InputError):
                ledger.hand_back(run_id, owner)
        else:
            repaired += [manifest] if manifest else []
    return repaired


def _repaired(run_id: str, owner: Owner, project: Path, ledger: Ledger) -> Manifest | None:
    folder = project / "runs" / run_id
    if not os.path.lexists(folder / FILE) and remove_unbegun(folder):
        ledger.never_began(run_id)
        return None
    try:
        manifest = Manifest.load(folder / FILE)
    except InputError as error:
        logger.warning("run %s was left by its process and cannot be read: %s", run_id, error)
        ledger.ended(run_id, "failed")
        return None
    if manifest.status == "running":
        _remove_half_written(folder)
        words = f"the process that ran it ({owner.pid} on {owner.host}) ended without reporting how the run went"
        try:
            _mark_cells_that_did_not_end(folder)
        except Exception as error:  # whatever the killed process left there
            logger.warning("run %s: its cells could not be marked: %s", run_id, error)
        manifest = complete(manifest, folder, "failed", RunnerDied(words), _redactor_again(manifest, project))
        manifest.save(folder)
    ledger.ended(run_id, manifest.status)
    return manifest


def _mark_cells_that_did_not_end(folder: Path) -> None:
    if not (folder / NOTEBOOK).exists():
        return
    import nbformat

    notebook = read_notebook(folder / NOTEBOOK)
    for cell in notebook.cells:
        noted = cell.metadata.get("papermill", {})
        if noted.get("status") == "running":
            noted.update(status="interrupted", exception=True)
        elif noted.get("status") == "pending":
            noted["status"] = "not run"
    write_atomically(folder / NOTEBOOK, nbformat.writes(notebook) + "\n")


def _redactor_again(manifest: Manifest, project: Path) -> Redactor | None:
    try:
        return Redactor(resolve_secrets(manifest.secrets, project)) if manifest.secrets else None
    except InputError as error:
        logger.warning("run %s: its files could not be searched for secrets: %s", manifest.run_id, error)
        return None


def remove_unbegun(folder: Path) -> bool:
    """Remove the folder of a run without a manifest, unless there are other files in it; return whether it is gone."""
    try:
        _remove_half_written(folder)
        for path in (folder / "artifacts", folder):
            if path.exists():
                path.rmdir()
    except OSError:
        return False
    return True


def _remove_half_written(folder: Path) -> None:
    """Remove what a killed process was writing, and the space that it kept."""
    for name in (NOTEBOOK, FILE):
        for half_written in folder.glob(f".{name}.*"):
            half_written.unlink(missing_ok=True)
    for reserve in reserves_of(folder):
        reserve.unlink(missing_ok=True)


def reserves_of(folder: Path) -> tuple[Path, Path]:
    """Return the files of nothing that give way to a run's notebook, and to its manifest with the ledger's row.

    A run that was killed leaves them there, for its repair.
    """
    return folder / ".reserve-notebook", folder / ".reserve-manifest"


def take_reserves(folder: Path, manifest: Manifest, notebook: Path) -> None:
    """Keep what the last words of a run may take.

    Raises OSError when the disk has not even that: the run would only be lost.
    """
    sizes = notebook.stat().st_size, len(manifest.model_dump_json())
    for reserve, size in zip(reserves_of(folder), sizes, strict=True):
        with reserve.open("wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, LAST_WORDS + 2 * size)
            else:
                file.write(bytes(LAST_WORDS + 2 * size))
