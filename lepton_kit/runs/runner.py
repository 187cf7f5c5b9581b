"""Runs one notebook: check its parameters, make its folder, execute it through papermill, write its manifest."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lepton_kit.errors import ExpectationFailed, InputError
from lepton_kit.files import sha256_of
from lepton_kit.notebook import EXPECTATION, INPUT, RESULT, payloads
from lepton_kit.runs.manifest import (
    Artifact,
    CellRun,
    Expectation,
    Input,
    Manifest,
    Result,
    RunError,
    Status,
    code_sha256,
    environment,
    git_state,
    now,
    packages,
)
from lepton_kit.runs.notebooks import read_notebook, source_sha256, title_of
from lepton_kit.runs.parameters import Parameter, Sources, check_values, read_parameters
from lepton_kit.runs.references import is_remote, resolve

NOTEBOOK = "notebook.ipynb"


@dataclass(frozen=True)
class Request:
    """What somebody asks to be run: a notebook, values for its parameters, and who or what asks."""

    notebook: Path
    parameters: Mapping[str, Any] = field(default_factory=dict)
    given_by: str = "-p"
    trigger: str = "cli"
    pipeline_runs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """A request that has been checked: it can start now.

    `key` is the hash of everything that the results follow from (cells, values, content of inputs, the kit's code);
    it is None when an input is not a local file, whose content is known only when it is read.
    """

    notebook: Path
    name: str
    title: str
    kernel: str
    language: str
    values: dict[str, Any]
    inputs: list[Input]
    key: str | None
    trigger: str


@dataclass(frozen=True)
class Event:
    """Something happened: `kind` is `run_started`, `cell_started`, `cell_ended`, `run_ended` or `run_skipped`."""

    kind: str
    run_id: str
    name: str
    cell: int = 0
    cells: int = 0
    status: str = "running"


def run_notebook(request: Request, project: Path, on_event: Callable[[Event], None] | None = None) -> Manifest:
    """Run a notebook to its end and return its manifest.

    Raises
    ------
    InputError
        Before any kernel starts, when the notebook or a parameter is not what is needed.

    Notes
    -----
    A notebook that fails is no error here: the manifest's `status` and `error` say what happened. An interrupt is
    passed on once the manifest is written.
    """
    return execute(prepare(request, project), project, on_event)


def prepare(request: Request, project: Path) -> Plan:
    """Check a request completely, without starting a kernel or writing a byte."""
    notebook = read_notebook(request.notebook)
    name = request.notebook.name
    parameters = read_parameters(notebook, name)
    values = check_values(
        parameters, request.parameters, Sources(project, request.pipeline_runs), name, request.given_by
    )
    inputs = [_input(parameter, ref, project) for parameter, ref in _references(parameters or [], values)]
    kernel, language = _installed_kernel(notebook, name)
    return Plan(
        notebook=request.notebook,
        name=request.notebook.stem,
        title=title_of(notebook, request.notebook.stem),
        kernel=kernel,
        language=language,
        values=values,
        inputs=inputs,
        key=_key(source_sha256(notebook), values, inputs),
        trigger=request.trigger,
    )


def execute(plan: Plan, project: Path, on_event: Callable[[Event], None] | None = None) -> Manifest:
    """Run what `prepare` checked, in a new run folder."""
    tell = on_event or (lambda event: None)
    folder = _new_folder(plan.name, project)
    manifest = _first_manifest(plan, project, folder.name)
    manifest.save(folder)
    tell(Event("run_started", manifest.run_id, plan.name))
    status, error = _execute_through_papermill(plan, project, folder, tell)
    try:
        manifest = _complete(manifest, folder, status, error)
    except Exception as unreadable:  # what the run left cannot be read back: the manifest must say that, not `running`
        manifest = _ended(
            manifest, "failed", RunError(cell=None, name=type(unreadable).__name__, message=str(unreadable))
        )
    manifest.save(folder)
    tell(Event("run_ended", manifest.run_id, plan.name, status=manifest.status))
    if isinstance(error, KeyboardInterrupt):
        raise error
    return manifest


def kernel_environment(project: Path, folder: Path) -> dict[str, str]:
    """Return the environment that tells a kernel its project and its run."""
    return {**os.environ, "LEPTON_PROJECT": str(project), "LEPTON_RUN_DIR": str(folder)}


def _references(parameters: list[Parameter], values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (parameter, reference) for every path among the values."""
    found = []
    for parameter in parameters:
        if parameter.holds_path and (value := values[parameter.name]) is not None:
            items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
            found += [(parameter.name, item) for item in items if isinstance(item, str)]
    return found


def _input(parameter: str, reference: str, project: Path) -> Input:
    if is_remote(reference):
        return Input(parameter=parameter, ref=reference, sha256=None, run=None)
    found = resolve(reference, project)
    return Input(parameter=parameter, ref=found.pinned, sha256=sha256_of(found.path), run=found.run_id)


def _key(source: str, values: dict[str, Any], inputs: list[Input]) -> str | None:
    if any(i.sha256 is None and i.ref.startswith("http") for i in inputs):
        return None
    # A pinned reference names a run; its content is what counts, so that an equal input is no change.
    content = {i.ref: i.sha256 or i.ref for i in inputs}
    text = json.dumps([source, values, code_sha256(), packages()], sort_keys=True)
    for reference, sha256 in content.items():
        text = text.replace(json.dumps(reference), json.dumps(sha256))
    return hashlib.sha256(text.encode()).hexdigest()


def _installed_kernel(notebook: Any, origin: str) -> tuple[str, str]:
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    name = notebook.metadata.get("kernelspec", {}).get("name", "python3")
    manager = KernelSpecManager()
    try:
        return name, manager.get_kernel_spec(name).language
    except NoSuchKernel as error:
        known = ", ".join(manager.find_kernel_specs()) or "none"
        raise InputError(f"{origin}: its kernel {name!r} is not installed (installed are: {known})") from error


def _new_folder(name: str, project: Path) -> Path:
    run_id = f"{now():%Y%m%dT%H%M%SZ}-{name}-{secrets.token_hex(3)}"
    folder = project / "runs" / run_id
    try:
        (folder / "artifacts").mkdir(parents=True)
    except OSError as error:
        raise InputError(f"run folder {str(folder)!r} cannot be made: {error.strerror}") from error
    return folder


def _first_manifest(plan: Plan, project: Path, run_id: str) -> Manifest:
    path = plan.notebook
    return Manifest(
        run_id=run_id,
        notebook=path.relative_to(project).as_posix() if path.is_relative_to(project) else str(path),
        name=plan.name,
        title=plan.title,
        notebook_sha256=sha256_of(path),
        code_sha256=code_sha256(),
        key=plan.key,
        status="running",
        trigger=plan.trigger,
        started=now(),
        parameters=plan.values,
        inputs=plan.inputs,
        git=git_state(project),
        environment=environment(plan.kernel),
    )


def _execute_through_papermill(
    plan: Plan, project: Path, folder: Path, tell: Callable[[Event], None]
) -> tuple[Status, BaseException | None]:
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    # papermill guesses parameters with a regular expression and warns where it cannot; ours are checked already.
    logging.getLogger("papermill").setLevel(logging.ERROR)

    def on_cell(event: Any) -> None:
        tell(Event(f"cell_{event.kind}", folder.name, plan.name, event.number, event.total))

    try:
        papermill.execute_notebook(
            _literal_path(plan.notebook),
            _literal_path(folder / NOTEBOOK),
            parameters=plan.values,
            engine_name="lepton",
            kernel_name=plan.kernel,
            language=plan.language,
            progress_bar=False,
            kernel_env=kernel_environment(project, folder),
            kernel_cwd=str(folder),
            kernel_log=folder / "kernel.log",
            on_event=on_cell,
        )
    except PapermillExecutionError as error:
        return ("expectation_failed" if error.ename == ExpectationFailed.__name__ else "failed"), error
    except DeadKernelError as error:
        return "kernel_died", error
    except KeyboardInterrupt as error:
        return "cancelled", error
    except Exception as error:  # whatever it was, the manifest shall name it and not read `running` for ever
        return "failed", error
    return "succeeded", None


def _literal_path(path: Path) -> str:
    """Return a path whose braces papermill, which takes paths for templates, leaves as they are."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _complete(manifest: Manifest, folder: Path, status: Status, error: BaseException | None) -> Manifest:
    """Read back from the executed notebook what the run recorded, and say how it ended."""
    cells = _executed_cells(folder / NOTEBOOK)
    outputs = [output for cell in cells for output in cell.outputs]
    known = {i.ref for i in manifest.inputs}
    noted = [Input(**payload) for payload in payloads(outputs, INPUT)]
    expectations = [Expectation(**payload) for payload in payloads(outputs, EXPECTATION)]
    runs = [_cell_run(number, cell) for number, cell in enumerate(cells, start=1)]
    run_error = _run_error(cells, error)
    if status == "succeeded":
        status, run_error = _verdict(expectations, runs)
    return _ended(manifest, status, run_error).model_copy(
        update={
            "inputs": manifest.inputs + [i for i in noted if i.ref not in known],
            "results": {name: Result(**result) for name, result in recorded_results(cells).items()},
            "expectations": expectations,
            "artifacts": _artifacts(folder / "artifacts"),
            "executed_sha256": sha256_of(folder / NOTEBOOK) if (folder / NOTEBOOK).exists() else None,
            "cells": runs,
        }
    )


def _ended(manifest: Manifest, status: Status, error: RunError | None) -> Manifest:
    ended = now()
    took = round((ended - manifest.started).total_seconds(), 3)
    return manifest.model_copy(update={"status": status, "ended": ended, "duration_s": took, "error": error})


def _verdict(expectations: list[Expectation], cells: list[CellRun]) -> tuple[Status, RunError | None]:
    """Judge a notebook that raised nothing: it may have swallowed a broken expectation, or left by `sys.exit()`."""
    for broken in (each for each in expectations if not each.passed):
        message = f"expected: {broken.message}; got {broken.values}"
        return "expectation_failed", RunError(cell=None, name=ExpectationFailed.__name__, message=message)
    for cell in (each for each in cells if each.status != "completed"):
        return "failed", RunError(cell=cell.number, name="SystemExit", message="the notebook left before this cell ran")
    return "succeeded", None


def recorded_results(cells: list[Any]) -> dict[str, dict[str, Any]]:
    """Return the results recorded in cells' outputs, by name; the last one recorded under a name counts."""
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return {
        payload["name"]: {key: value for key, value in payload.items() if key != "name"}
        for payload in payloads(outputs, RESULT)
    }


def _artifacts(folder: Path) -> list[Artifact]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [
        Artifact(file=path.relative_to(folder).as_posix(), sha256=sha256_of(path), bytes=path.stat().st_size)
        for path in files
    ]


def _executed_cells(notebook: Path) -> list[Any]:
    """Return the code cells that papermill saved: none when it failed before its first save."""
    if not notebook.exists():
        return []
    return [cell for cell in read_notebook(notebook).cells if cell.cell_type == "code"]


def _cell_run(number: int, cell: Any) -> CellRun:
    noted = cell.metadata.get("papermill", {})
    return CellRun(number=number, status=noted.get("status", "pending"), duration_s=noted.get("duration"))


def _run_error(cells: list[Any], error: BaseException | None) -> RunError | None:
    if error is None:
        return None
    failed = (n for n, cell in enumerate(cells, 1) if cell.metadata.get("papermill", {}).get("exception"))
    return RunError(
        cell=next(failed, None),
        name=getattr(error, "ename", type(error).__name__),
        message=str(getattr(error, "evalue", error)),
    )
