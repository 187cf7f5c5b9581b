"""Runs one notebook: check its parameters, make its folder, execute it through papermill, write its manifest."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from lepton_kit.errors import ExpectationFailed, InputError, RunnerDied, TimedOut, WorkerLost
from lepton_kit.files import sha256_of, single_name
from lepton_kit.runs.ending import complete, remove_unbegun, repair, reserves_of, take_reserves
from lepton_kit.runs.interrupts import deferred, deliver, pause
from lepton_kit.runs.ledger import Ledger, heartbeat
from lepton_kit.runs.manifest import (
    FILE,
    NOTEBOOK,
    Environment,
    Input,
    Manifest,
    Status,
    code_sha256,
    environment,
    find_run,
    git_state,
    now,
    packages,
)
from lepton_kit.runs.notebooks import (
    Kernel,
    chosen_cells,
    installed_kernel,
    modules_in,
    read_notebook,
    source_sha256,
    tags,
    title_of,
)
from lepton_kit.runs.parameters import Sources, check_values, path_references, read_parameters, shown
from lepton_kit.runs.redaction import Redactor
from lepton_kit.runs.references import SUBJECT, is_remote, resolve
from lepton_kit.runs.shipped import name_of
from lepton_kit.runs.targets import Target, set_targets
from lepton_kit.secrets import resolve_secrets, secret_environment

logger = logging.getLogger(__name__)
RETRIED: tuple[Status, ...] = ("kernel_died", "timed_out")  # the machine's failures; the notebook's own would recur
ANSWERS: tuple[Status, ...] = ("succeeded", "failed", "expectation_failed")  # these stand for an idempotency key


@dataclass(frozen=True)
class Request:
    """What somebody asks to be run: a notebook, values for its parameters, and who or what asks.

    `kernel` is the kernel to run it with, in place of the one that it names. `beside` is the folder whose modules it
    may import, where that is not its own.
    """

    notebook: Path
    parameters: Mapping[str, Any] = field(default_factory=dict)
    given_by: str = "-p"
    trigger: str = "cli"
    pipeline_runs: Mapping[str, str] = field(default_factory=dict)
    kernel: str | None = None
    beside: Path | None = None


@dataclass(frozen=True)
class Options:
    """How a run is to be executed.

    Parameters
    ----------
    cell_timeout, timeout
        How many seconds a cell, and the whole run from the start of its kernel on, may take; None is for ever.
    retries
        How often a run whose kernel died or which ran out of time is tried again, each time in a new run folder.
    backoff
        Seconds to wait before the first retry; each later wait is twice as long. A tenth is added at random at most.
    idempotency_key
        What asks twice with the same key gets one run: the second waits for the first. The key stands for good for a
        run that succeeded, failed or broke an expectation; after any other end it can be run again.
    keep_kernel
        For how many seconds the kernel of a run that did not succeed stays alive, for a person to look into.
    """

    cell_timeout: float | None = None
    timeout: float | None = None
    retries: int = 0
    backoff: float = 1.0
    idempotency_key: str | None = None
    keep_kernel: float | None = None


DEFAULTS = Options()


@dataclass(frozen=True)
class Plan:
    """A request that has been checked: it can start now. `secrets` are references, not values.

    `values` are put into the notebook: those given, and paths that were pinned to a run. All others stay as its own
    cell has them. `shown` is what the manifest says of all of them.
    `key` is the hash of everything that the results follow from (cells, values, content of inputs, the kit's code);
    it is None when an input is not a local file, whose content is known only when it is read.
    """

    notebook: Path
    name: str
    title: str
    kernel: Kernel
    beside: Path
    values: dict[str, Any]
    shown: dict[str, Any]
    inputs: list[Input]
    key: str | None
    trigger: str
    secrets: dict[str, str] = field(default_factory=dict)
    resumed_from: str | None = None


@dataclass(frozen=True)
class Event:
    """Something happened.

    `kind` is `run_started`, `run_placed` (on which worker of a cluster), `kernel_replaced` (the notebook's own is not
    installed), `cell_started`, `cell_output` (`text` is the last line), `cell_ended`, `kernel_kept` (how to attach to
    it), `run_ended`, `run_skipped`, `run_retried` (why, and after how many seconds), `not_tracked` (which tracker did
    not get the run, and why) or `run_refused` (why it did not begin).
    """

    kind: str
    run_id: str
    name: str
    cell: int = 0
    cells: int = 0
    status: str = "running"
    text: str = ""


@dataclass(frozen=True)
class Ended:
    """How the kernel's part of a run ended; `environment` says where, if not in this process' own."""

    status: Status
    error: BaseException | None
    environment: Environment | None = None


Place = Callable[[Plan, Path, Path, Callable[[Event], None], Options], Ended]
"""Executes a plan of a project into a run folder that has been made, such as on a worker of a cluster."""


def run_notebook(
    request: Request,
    project: Path,
    on_event: Callable[[Event], None] | None = None,
    options: Options = DEFAULTS,
) -> Manifest:
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
    return execute(prepare(request, project), project, on_event, options)


def prepare(request: Request, project: Path) -> Plan:
    """Check a request completely, without starting a kernel; only what the store holds of inputs is written."""
    notebook = read_notebook(request.notebook)
    name = single_name(request.notebook.name, "notebook's file name")
    kernel = installed_kernel(notebook, name, request.kernel)
    parameters = read_parameters(notebook, name)
    beside = request.beside or request.notebook.resolve().parent
    values = check_values(
        parameters, request.parameters, Sources(project, request.pipeline_runs), name, request.given_by
    )
    notebook, subject = chosen_cells(notebook, values), values.get(SUBJECT)
    inputs = [_input(parameter, ref, project, subject) for parameter, ref in path_references(parameters or [], values)]
    put_in = {
        p.name: values[p.name]
        for p in parameters or []
        if p.name in request.parameters or (p.holds_path and values[p.name] != p.default)
    }
    shown_values = {p.name: shown(p, values[p.name], p.name in put_in) for p in parameters or []}
    return Plan(
        notebook=request.notebook,
        name=request.notebook.stem,
        title=title_of(notebook, request.notebook.stem),
        kernel=kernel,
        beside=beside,
        values=put_in,
        shown=shown_values,
        inputs=inputs,
        key=_key(
            source_sha256(notebook) + _modules_sha256(beside) + _modules_sha256(project / "subjects"),
            shown_values,
            inputs,
        ),
        trigger=request.trigger,
        secrets={p.name: values[p.name] for p in parameters or [] if p.holds_secret and values[p.name] is not None},
    )


def execute(
    plan: Plan,
    project: Path,
    on_event: Callable[[Event], None] | None = None,
    options: Options = DEFAULTS,
    place: Place | None = None,
) -> Manifest:
    """Run what `prepare` checked, in a new run folder; or return the run that answers the idempotency key already.

    `place` executes it elsewhere than in a kernel of this process.
    """

    def tell(event: Event) -> None:
        if on_event is not None:
            with suppress(OSError):  # who listens may be gone, such as `head`: a run goes on without
                on_event(event)

    repair(project)
    if (key := options.idempotency_key) is None:
        return _with_retries(plan, project, tell, options, place)
    ledger = Ledger(project)
    while (claim := ledger.claim(key)).state == "busy":
        pause(0.2)
    if claim.run_id and (claim.state == "done" or has_answered(claim.run_id, project)):
        run = find_run(claim.run_id, project)
        ledger.finish(key, run.run_id)
        tell(Event("run_skipped", run.run_id, plan.name, status=run.status))
        return run
    with heartbeat(lambda: ledger.renew(key)):
        try:
            run = _with_retries(plan, project, tell, options, place)
            if run.status in ANSWERS:
                ledger.finish(key, run.run_id)
        finally:
            ledger.release(key)  # unless something has answered it
    return run


def has_answered(run_id: str, project: Path) -> bool:
    """Say whether a run has come to its own end, though the process that ran it may have been killed since."""
    if not (path := project / "runs" / run_id / FILE).exists():
        return False
    try:
        run = Manifest.load(path)
    except InputError as error:
        logger.warning("run %s counts as interrupted: %s", run_id, error)
        return False
    return run.status in ANSWERS and (run.error is None or run.error.name != RunnerDied.__name__)


def _with_retries(
    plan: Plan, project: Path, tell: Callable[[Event], None], options: Options, place: Place | None
) -> Manifest:
    run = _attempt(plan, project, tell, options, place, None)
    if run.error is not None and run.error.name == WorkerLost.__name__:
        text = f"{run.error.message}; it is repeated once on another worker"
        tell(Event("run_retried", run.run_id, plan.name, status=run.status, text=text))
        run = _attempt(plan, project, tell, options, place, run)
    for retry in range(options.retries):
        if run.status not in RETRIED:
            break
        wait = options.backoff * 2**retry * random.uniform(1, 1.1)
        text = f"{run.status}; attempt {retry + 2} of {options.retries + 1} in {wait:.1f} s"
        tell(Event("run_retried", run.run_id, plan.name, status=run.status, text=text))
        pause(wait)
        run = _attempt(plan, project, tell, options, place, run)
    return run


def _attempt(
    plan: Plan,
    project: Path,
    tell: Callable[[Event], None],
    options: Options,
    place: Place | None,
    earlier: Manifest | None,
) -> Manifest:
    """Run once; `earlier` is the run that this one repeats."""
    values = resolve_secrets(plan.secrets, project)
    redactor = Redactor(values) if values else None
    ledger, trackers = Ledger(project), set_targets(project)
    manifest = Manifest(
        run_id=f"{now():%Y%m%dT%H%M%SZ}-{plan.name}-{secrets.token_hex(3)}",
        notebook=name_of(plan.notebook, project),
        name=plan.name,
        title=plan.title,
        notebook_sha256=sha256_of(plan.notebook),
        code_sha256=code_sha256(),
        key=plan.key,
        status="running",
        trigger=plan.trigger,
        started=now(),
        parameters=plan.shown,
        given=sorted(plan.values),
        inputs=plan.inputs,
        git=git_state(project),
        environment=environment(plan.kernel.name),
        secrets=plan.secrets,
        resumed_from=plan.resumed_from,
        attempt=earlier.attempt + 1 if earlier else 1,
        retry_of=earlier.run_id if earlier else None,
        options=asdict(options),
    )
    with deferred():  # an interrupt finds a run that has begun and can say how it ended, or none
        folder = _begin(manifest, plan.notebook, project, ledger, options.idempotency_key)
        tell(Event("run_started", manifest.run_id, plan.name))
        if plan.kernel.instead_of is not None:
            text = f"its kernel {plan.kernel.instead_of!r} is not installed here; it runs with {plan.kernel.name!r}"
            tell(Event("kernel_replaced", manifest.run_id, plan.name, text=text))
        run_it = place or partial(execute_here, secrets=values, redactor=redactor)
        with heartbeat(lambda: ledger.still_runs(folder.name)):
            ended = run_it(plan, project, folder, tell, options)
        for reserve in reserves_of(folder):
            reserve.unlink(missing_ok=True)
        manifest = manifest.model_copy(update={"environment": ended.environment or manifest.environment})
        manifest = complete(manifest, folder, ended.status, ended.error, redactor)
        manifest.save(folder)
        try:
            ledger.ended(manifest.run_id, manifest.status)
        except InputError as full:  # the manifest says it, and a later repair reads it there
            logger.warning("%s", full)
        tell(Event("run_ended", manifest.run_id, plan.name, status=manifest.status))
    if isinstance(ended.error, KeyboardInterrupt):
        raise ended.error
    if trackers:
        _track(manifest, project, trackers, tell)
    return manifest


def _track(run: Manifest, project: Path, trackers: dict[str, Target], tell: Callable[[Event], None]) -> None:
    from lepton_kit.runs.trackers import track_all  # reads tables and speaks HTTP, which most runs need not

    track_all(run, project, trackers, lambda text: tell(Event("not_tracked", run.run_id, run.name, text=text)))


def _begin(manifest: Manifest, notebook: Path, project: Path, ledger: Ledger, key: str | None) -> Path:
    """Make a run's row in the ledger, then its folder, then its first manifest; where one cannot be made, none stays.

    A process killed in between leaves a row without a manifest: `repair` knows by it that nothing has begun.
    """
    folder = manifest.folder(project)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        ledger.started(manifest.run_id, key)
        try:
            (folder / "artifacts").mkdir(parents=True)
            take_reserves(folder, manifest, notebook)
            manifest.save(folder)
        except BaseException:
            remove_unbegun(folder)
            ledger.never_began(manifest.run_id)
            raise
    except OSError as error:
        raise InputError(f"run folder {str(folder)!r} cannot be made: {error.strerror}") from error
    return folder


def kernel_environment(
    project: Path,
    folder: Path,
    beside: Path,
    plan: Plan | None = None,
    secrets: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return the environment that tells a kernel its project, its run, its secrets, and what it may resume or import.

    A variable that a secret refers to is left out: a notebook gets the value by `lk.secret` alone.
    """
    told = {
        **os.environ,
        "LEPTON_PROJECT": str(project),
        "LEPTON_RUN_DIR": str(folder),
        "LEPTON_NOTEBOOK_DIR": str(beside),
    }
    for reference in plan.secrets.values() if plan else []:
        told.pop(reference.removeprefix("env:"), None)
    if plan and plan.resumed_from:
        told["LEPTON_RESUME_DIR"] = str(project / "runs" / plan.resumed_from / "checkpoints")
    return told | secret_environment(secrets or {})


def _input(parameter: str, reference: str, project: Path, subject: Any = None) -> Input:
    if is_remote(reference):
        return Input(parameter=parameter, ref=reference, sha256=None, run=None)
    found = resolve(reference, project, subject=subject if isinstance(subject, str) else None)
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


def _modules_sha256(folder: Path) -> str:
    """Return a hash of the modules beside a notebook, or of the subjects: what it imports of them is a part of it."""
    return "".join(f"{path.name} {sha256_of(path)}\n" for path in modules_in(folder))


def execute_here(
    plan: Plan,
    project: Path,
    folder: Path,
    tell: Callable[[Event], None],
    options: Options,
    *,
    secrets: Mapping[str, str] | None = None,
    redactor: Redactor | None = None,
) -> Ended:
    """Execute a plan in a kernel of this process, as every `Place` does in the end; `folder` holds `artifacts/`."""
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    def on_cell(kind: str, number: int, total: int, text: str) -> None:
        tell(Event(kind, folder.name, plan.name, number, total, text=text))

    def on_kept(connection_file: str) -> None:
        text = f"its kernel stays for {options.keep_kernel:g} s: jupyter console --existing {connection_file}"
        tell(Event("kernel_kept", folder.name, plan.name, text=text))

    try:
        deliver()
        _papermill().execute_notebook(
            _notebook_to_run(plan),
            None,  # the engine saves, atomically
            parameters=plan.values,
            engine_name="lepton",
            kernel_name=plan.kernel.name,
            language=plan.kernel.language,
            progress_bar=False,
            source_path=plan.notebook,
            save_path=folder / NOTEBOOK,
            redactor=redactor,
            reserve=reserves_of(folder)[0],
            kernel_env=kernel_environment(project, folder, plan.beside, plan, secrets),
            kernel_cwd=str(folder),
            kernel_log=folder / "kernel.log",
            cell_timeout=options.cell_timeout,
            run_timeout=options.timeout,
            keep_kernel=options.keep_kernel,
            on_kept=on_kept,
            on_event=on_cell,
        )
    except PapermillExecutionError as error:
        if not read_notebook(folder / NOTEBOOK).metadata.papermill.exception:
            return Ended("succeeded", None)  # the notebook expects this error: the cell is tagged `raises-exception`
        return Ended("expectation_failed" if error.ename == ExpectationFailed.__name__ else "failed", error)
    except TimedOut as error:
        return Ended("timed_out", error)
    except DeadKernelError as error:
        return Ended("kernel_died", error)
    except KeyboardInterrupt as error:
        return Ended("cancelled", error)
    except Exception as error:  # the manifest must name it, and not read `running` for ever
        return Ended("failed", error)
    return Ended("succeeded", None)


def _papermill() -> Any:
    import papermill

    from lepton_kit.runs.literals import LiteralTranslator

    papermill.translators.papermill_translators.register("python", LiteralTranslator)
    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of parameters, which are checked already
    return papermill


def _notebook_to_run(plan: Plan) -> Any:
    """Read the plan's notebook; values that an earlier run put into it are left out, as what is given now counts."""
    notebook = read_notebook(plan.notebook)
    notebook.cells = [cell for cell in notebook.cells if "injected-parameters" not in tags(cell)]
    notebook = chosen_cells(notebook, plan.shown)
    spec = {"name": plan.kernel.name, "display_name": plan.kernel.title, "language": plan.kernel.language}
    notebook.metadata["kernelspec"] = spec  # it opens with the kernel that ran it
    return notebook
