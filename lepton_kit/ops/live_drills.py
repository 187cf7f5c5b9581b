"""Drills with real processes: a service over HTTP that is asked, `lepton watch`, and what it starts.

Each drill has a project of its own under `drills/`, a copy of what it needs of this one: a bad version that a fault
registers, and what repairs do, stays there. Objectives have windows that are `TIME_SCALE` times shorter than usual, and
the policy of every remedy is `auto`.

A drill happens on a stage: the reference server with real prices replayed at it, whose faults the load and the server's
folder carry out, or a declared service as it runs itself, whose faults a proxy before it carries out.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx

from lepton_kit.diagnosis.remedies import runbook_of
from lepton_kit.errors import InputError, LeptonError
from lepton_kit.models.registry import Registry
from lepton_kit.ops.actions import Values, command_environment, run_action
from lepton_kit.ops.declared import readiness
from lepton_kit.ops.drill_results import Basis, Drill, Drilled
from lepton_kit.ops.drills import verdict_of
from lepton_kit.ops.faults import FAULTS, Fault, find_fault
from lepton_kit.ops.following import (
    ALERTED,
    DIAGNOSED,
    LOOKED_BACK,
    REPAIRED,
    Approve,
    Follower,
    Seen,
    StepMissedError,
    nobody,
)
from lepton_kit.ops.load import find_arrivals, loaded
from lepton_kit.ops.proven import basis_of, with_runbook
from lepton_kit.ops.proxy import proxied
from lepton_kit.ops.service_operator import read_actions
from lepton_kit.ops.services import await_ready, end, is_ok, start, start_service
from lepton_kit.ops.watch.evidence import FOLDER
from lepton_kit.project.settings import NOTIFY_VARIABLE, REMEDIES_VARIABLE, WATCH_VARIABLE, Settings
from lepton_kit.reports.cards import KINDS
from lepton_kit.serving.replay import Plan
from lepton_kit.telemetry.declaration import Declaration
from lepton_kit.telemetry.slo import alert_name, read_objectives

Tell = Callable[[str], object]

HEALTHY_S = 30.0
"""Seconds without any alert before the fault."""

TIME_SCALE = 300
WATCH = f"time_scale = {TIME_SCALE}\nscrape_interval = 0.5\nsource = 'telemetry/drill'\n"
NOBODY = "urls = []\n"
"""Of `[notify]`: what is broken on purpose calls nobody."""

LOAD_S = 3600.0
"""Seconds of load at most: it ends with the drill."""

STARTED_S = 240.0
RATE, OBSERVED_S, FRESH_S, WORKERS = 25.0, 20.0, 8.0, 2  # the load of a busy machine comes seconds late
RESTART = 'actions.restart_feed = ["true"]\n'
"""How the replayed feed is restarted: the record of the action is enough (`ActiveFault`)."""

COPIED = ("runbooks", "reports", "notebooks")
ROOM = max(WORKERS + 1, os.cpu_count() or 1)
"""Workers that a repair may ask for: those beyond the machine's cores would take turns, and add hardly anything."""

IN_TIME_S = 0.02
"""A fifth of what the objective of the latency allows: load, flood and watch share the cores with the workers, so that
a request takes several times as long as a worker is busy with it."""

REMEDY = '[{cause}]\npolicy = "auto"\nparameters = {{ observe_seconds = {observed}{more} }}\n'


def remedies(may_have: str = "") -> str:
    """Return the settings by which every repair starts by itself; `may_have` are parameters of that of compute."""
    more = {"data": "", "model": "", "compute": may_have}
    told = [REMEDY.format(cause=cause, observed=OBSERVED_S, more=text) for cause, text in more.items()]
    return "most_per_hour = 100\nleast_probability = 0.5\n" + "".join(told)


class ActiveFault:
    """When a fault is there: since it began, until a restart of the feed is recorded, where that ends it."""

    def __init__(self, fault: Fault, service: Path) -> None:
        self._fault, self._service = fault, service
        self._actions: int | None = None

    def begin(self) -> None:
        """Let the fault begin with the next request."""
        self._actions = len(read_actions(self._service))

    def is_on(self) -> bool:
        """Whether the fault is there now."""
        if self._actions is None:
            return False
        return not (self._fault.is_restartable and self._is_restarted())

    def _is_restarted(self) -> bool:
        done = read_actions(self._service)[self._actions :]
        return any((one["action"], one["outcome"]) == ("restart_feed", "done") for one in done)


@dataclass
class Stage:
    """A project with a running service, those who ask it, and the fault that it is to have."""

    project: Path
    fault: Fault
    name: str
    remedies: str = field(default_factory=remedies, kw_only=True)

    def __post_init__(self) -> None:
        self._active = ActiveFault(self.fault, self.project / "services" / self.name)

    @property
    def version(self) -> str:
        """Return the version of the model that is in service before the fault; empty where nothing tells."""
        return Registry(self.project / "models").current(self.name) or ""

    def running(self) -> contextlib.AbstractContextManager[str]:
        """Run the service until the end of what stands below this, and give its address."""
        raise NotImplementedError

    def asked(self) -> contextlib.AbstractContextManager[None]:
        """Let the service be asked, by those whose requests bring about the fault."""
        raise NotImplementedError

    def inject(self) -> None:
        """Let the fault begin with the next request."""
        self._active.begin()


# --- the reference server ---------------------------------------------------------------------------------------------


@dataclass
class Served(Stage):
    """The reference server, and real prices that are replayed at it."""

    seed: int = 0
    ratings: float = 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        """Run `lepton serve`."""
        service = start_service(self.project, self.name, workers=WORKERS, fresh_for=FRESH_S, seconds=STARTED_S)
        try:
            yield service.address
        finally:
            service.stop()

    def asked(self) -> contextlib.AbstractContextManager[None]:
        """Replay prices."""
        arrivals = find_arrivals(self.project, self.seed, rate=RATE)
        plan = Plan(arrivals, seconds=LOAD_S, feedback_after=1.0, ratings=self.ratings)
        return loaded(self.project / "services" / self.name, plan, self.fault, self._active.is_on)


def served(project: Path, drill: Drill, fault: Fault, model: str) -> Served:
    """Return the stage of a model that `lepton serve` serves."""
    own = remedies(f", most_workers = {ROOM}, in_time = {IN_TIME_S}")
    return Served(drill_project(project, fault.name, model), fault, model, drill.seed, remedies=own)


def drill_project(project: Path, name: str, model: str) -> Path:
    """Make a project for a drill under `drills/` of another one, and return it.

    Raises InputError when there is no such model, or lepton.toml has no section of a service of its name.
    """
    if not (project / "models" / model).is_dir():
        raise InputError(f"model {model!r}: not in {project / 'models'}; train one with `lepton pipeline goog`")
    settings = (project / "lepton.toml").read_text(encoding="utf-8")
    heading = f"[services.{model}]\n"
    service = tomllib.loads(settings).get("services", {}).get(model)
    if service is None or heading not in settings:
        raise InputError(f"{project / 'lepton.toml'}: has no section {heading.strip()}, which a live drill needs")
    if "restart_feed" not in service.get("actions", {}):
        settings = settings.replace(heading, f"{heading}{RESTART}")
    return _copied(project, name, settings, (*COPIED, "models", "slo"))


def _copied(project: Path, name: str, settings: str, parts: Sequence[str]) -> Path:
    made = project / "drills" / f"{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}-{name.replace('+', '-and-')}"
    made.mkdir(parents=True)
    (made / "lepton.toml").write_text(_with_own_ledger(settings), encoding="utf-8")
    left = ("_site", "_freeze", "__pycache__", ".ipynb_checkpoints", "runs")
    published = (*KINDS, "listings")  # of this project: the drill's site shows its own incidents alone
    for part in parts:
        if (project / part).is_dir():
            ignored = shutil.ignore_patterns(*left, *(published if part == "reports" else ()))
            shutil.copytree(project / part, made / part, ignore=ignored, dirs_exist_ok=True)
    return made


def _with_own_ledger(settings: str) -> str:
    """Return settings that name no ledger: watchers of the project would take the drill's jobs, and it theirs.

    Raises InputError when the ledger is not on a line of its own before the first section.
    """
    sections = re.split(r"^(?=\[)", settings, flags=re.MULTILINE)
    sections[0] = re.sub(r"^ *ledger *=.*$", "", sections[0], flags=re.MULTILINE)
    own = "".join(sections)
    if "ledger" in tomllib.loads(own):
        raise InputError("lepton.toml, ledger: must be on one line before all sections, for a drill to have its own")
    return own


# --- a declared service -----------------------------------------------------------------------------------------------


@dataclass
class Declared(Stage):
    """A declared service as it runs itself, asked through a proxy that carries out the fault."""

    declaration: Declaration
    _service: int = 0

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        """Run what the declaration's `drill.start` says, until it is ready."""
        assert self.declaration.drill is not None

        def ready() -> bool:
            return readiness(self.address, self.declaration).is_ready

        if ready():
            at = f"services.{self.name}.address = {self.address!r}"
            raise InputError(f"{at}: answers already; stop what runs there first")
        with self._process(self.declaration.drill.start) as process:
            self._service = process.pid
            await_ready(process, ready, STARTED_S, f"service {self.name!r}", self._log)
            yield self.address

    @contextlib.contextmanager
    def asked(self) -> Iterator[None]:
        """Let the declaration's `drill.traffic` ask the proxy."""
        assert self.declaration.drill is not None
        with proxied(self.address, self.declaration.columns.features, self.fault, self._active.is_on) as proxy:
            filled = {"{address}": proxy, "{parent}": str(self._service)}
            with self._process([filled.get(word, word) for word in self.declaration.drill.traffic]):
                yield

    def inject(self) -> None:
        """Let the fault begin with the next request, or deploy the bad version.

        Raises LeptonError when the version cannot be deployed.
        """
        if self.fault.deploys:
            assert self.declaration.drill is not None
            values = Values(version=self.declaration.drill.bad_version)
            key = f"services.{self.name}.actions.deploy"
            done = run_action(key, self.declaration.actions["deploy"], values, self.project)
            if not done.is_done:
                raise LeptonError(str(done))
        super().inject()

    @property
    def version(self) -> str:
        """Return what the declaration names, or the registry of its model."""
        model = self.declaration.model
        if isinstance(model, str):
            return Registry(self.project / self.declaration.registry).current(model) or ""
        return str(model.current) if model else ""

    @property
    def _log(self) -> Path:
        return self.project / "incidents/drill.log"  # beside what `lepton watch` keeps

    @property
    def address(self) -> str:
        """Return where the service answers."""
        return str(self.declaration.address).rstrip("/")

    @contextlib.contextmanager
    def _process(self, words: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
        process = start(words, self.project, command_environment(), self._log)
        try:
            yield process
        finally:
            end(process, 20)


def declared(project: Path, fault: Fault, name: str) -> Declared:
    """Return the stage of a service that lepton.toml declares, or `subjects/<name>/declaration.toml`.

    Raises InputError when it is not declared, or says not how a drill starts it, or the fault's version or action is
    not declared.
    """
    settings = declared_settings(project, name)
    declaration = Settings.model_validate(tomllib.loads(settings)).services[name]
    drill, deploys = declaration.drill, fault.deploys
    if drill is None or declaration.address is None:
        raise InputError(f"services.{name}: a live drill needs 'address', 'drill.start' and 'drill.traffic'")
    if deploys and (drill.bad_version is None or "deploy" not in declaration.actions):
        raise InputError(f"services.{name}: fault {fault.name!r} needs 'drill.bad_version' and 'actions.deploy'")
    parts = (*COPIED, "subjects", declaration.objectives)
    return Declared(_copied(project, fault.name, settings, parts), fault, name, declaration)


def declared_settings(project: Path, name: str) -> str:
    """Return the text of a project's settings for one service alone, whose alerts start the diagnosis.

    Raises InputError when it is not declared.
    """
    text = (project / "lepton.toml").read_text(encoding="utf-8")
    own, kept = f"services.{name}", []
    for section in re.split(r"^(?=\[)", text, flags=re.MULTILINE):
        heading = section.lstrip("[").partition("]")[0]
        if (
            heading == own
            or heading.startswith(f"{own}.")
            or not heading.startswith(("services", "schedules", "alerts"))
        ):
            kept.append(section)
    made = "".join(kept)
    beside = project / "subjects" / name / "declaration.toml"
    if f"[{own}]" not in made:
        if not beside.is_file():
            raise InputError(f"service {name!r}: neither in {project / 'lepton.toml'} nor in {beside}")
        made += "\n" + beside.read_text(encoding="utf-8")
    declaration = Settings.model_validate(tomllib.loads(made)).services[name]
    diagnosis, health = "runbooks/incident-diagnosis.ipynb", "runbooks/service-health.ipynb"
    for objective in read_objectives(project / declaration.objectives):
        made += f'\n[alerts.{alert_name(objective)}]\nrunbook = "{diagnosis}"\non_resolved = "{health}"\n'
    return made


# --- what follows -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def following(
    stage: Stage,
    above: Mapping[str, str],
    tell: Callable[[str], object],
    approve: Approve = nobody,
) -> Iterator[Follower]:
    """Let a stage run, be asked, and be watched with variables of its own; yield what follows its incidents."""
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(stage.running())
        watch = stack.enter_context(watching(stage.project, above))
        tell(f"service at {address}; lepton watch observes it, status page at {watch}")
        stack.enter_context(stage.asked())
        client = stack.enter_context(httpx.Client(base_url=watch, timeout=30, trust_env=False))
        yield Follower(client, stage.name, tell, approve)


@contextlib.contextmanager
def watching(project: Path, above: Mapping[str, str]) -> Iterator[str]:
    """Run `lepton watch` on a free port, with variables of its own, and yield its address."""
    written, log = project / FOLDER / "address", project / FOLDER / "demo.log"

    def address() -> str:
        return written.read_text("utf-8").strip() if written.exists() else ""

    if (found := address()) and is_ok(f"{found}/healthz"):
        raise InputError(f"lepton watch runs here already ({found}): stop it first")
    written.unlink(missing_ok=True)  # of one that was killed
    log.unlink(missing_ok=True)
    command = [sys.executable, "-m", "lepton_kit.cli", "watch", "--port", "0"]
    process = start(command, project, {**os.environ, **above}, log)
    try:
        yield await_ready(process, address, STARTED_S, "step 'lepton watch'", log)
    finally:
        end(process, 90)


# --- drills -----------------------------------------------------------------------------------------------------------


def live_names(known: Mapping[str, type[Fault]] = FAULTS, service: str | None = None) -> list[str]:
    """Return the faults that what `lepton serve` runs can have, or a declared service behind a proxy.

    >>> "memory-leak" in live_names(), "cpu-taken" in live_names()
    (False, True)
    """
    return [name for name, fault in known.items() if _can_have(fault, service)]


def _can_have(fault: Fault | type[Fault], service: str | None) -> bool:
    return fault.live if service is None else fault.proxied


def drill_live(
    drills: Sequence[Drill],
    project: Path,
    known: Mapping[str, type[Fault]],
    tell: Tell,
    model: str = "goog",
    service: str | None = None,
) -> Iterator[Drilled]:
    """Go through live drills one after the other; `tell` gets a line for each step.

    A severity of None is the fault's usual one. `lepton serve` serves the promoted version of the model; a declared
    service that is drilled in its place runs itself, and its faults are those of a proxy before it. Raises InputError
    when a fault has no live form, or the project lacks what a drill needs.
    """
    faults = [find_fault(drill.fault, drill.seed, drill.severity, known) for drill in drills]
    for fault in faults:
        if not _can_have(fault, service):
            known_here = ", ".join(live_names(known, service))
            raise InputError(f"fault {fault.name!r}: has no live form here; simulate it, or drill {known_here}")
    for drill, fault in zip(drills, faults, strict=True):
        tell(f"— {fault.name} ({fault.severity:.2f}): {fault.description}")
        stage = served(project, drill, fault, model) if service is None else declared(project, fault, service)
        basis = basis_of(project, stage.name, "declared" if service else "served", model=stage.version)
        yield _drilled(drill, stage, basis, tell)


def _drilled(drill: Drill, stage: Stage, basis: Basis, tell: Tell) -> Drilled:
    """Start everything, follow the fault to its postmortem, and stop everything."""
    began, error, is_false_alarm = time.monotonic(), "", False

    def tell_of(text: str) -> None:
        tell(f"{time.monotonic() - began:6.1f} s  {text}")

    above = {REMEDIES_VARIABLE: stage.remedies, WATCH_VARIABLE: WATCH, NOTIFY_VARIABLE: NOBODY}
    with following(stage, {**above, "LEPTON_PROJECT": str(stage.project)}, tell_of) as follower:
        try:
            follower.inject(stage.inject, HEALTHY_S)
            tell_of(f"the fault has begun: {stage.fault.name}")
            follower.follow(ALERTED, DIAGNOSED, REPAIRED, LOOKED_BACK)
        except StepMissedError as missed:
            is_false_alarm = follower.seen.injected is None
            tell_of(str(missed))
            if follower.seen.repaired is not None:
                error = str(missed)
        except LeptonError as failed:
            error = str(failed)
            tell_of(f"error: {error}")
    return _result(drill, stage, basis, follower.seen, error, is_false_alarm)


def _result(drill: Drill, stage: Stage, basis: Basis, seen: Seen, error: str, is_false_alarm: bool) -> Drilled:
    fault, cause = stage.fault, str(seen.diagnosis.get("cause", "unknown"))
    recovery = str(seen.repair.get("verdict", ""))
    alerted, has_acted, alone = seen.alerted is not None, bool(seen.repair), seen.repaired_alone

    def since(end: float | None) -> float | None:
        return None if end is None or seen.injected is None else round(end - seen.injected, 1)

    return Drilled(
        fault=fault.name,
        severity=fault.severity,
        seed=drill.seed,
        kind="live",
        causes=tuple(sorted(fault.causes)),
        alert="false alarm" if is_false_alarm else str(alone["name"]) if alone else seen.alert,
        detected_after=since(seen.alerted),
        cause=cause,
        also=tuple(seen.diagnosis.get("also", ())),
        probability=float(seen.diagnosis.get("probability", 0.0)),
        confidence=str(seen.diagnosis.get("confidence", "none")),
        diagnosed_after=since(seen.diagnosed) or 0.0,
        remedy=runbook_of(cause),
        actions=(str(seen.repair.get("action", "")),) if has_acted else (),
        recovery=recovery,
        recovered_after=since(seen.repaired) if recovery == "recovered" else None,
        verdict=verdict_of(fault.causes, cause, alerted, has_acted, recovery, is_false_alarm),
        error=error,
        service=stage.name,
        basis=with_runbook(basis, seen.repaired_by, stage.project) if alone and seen.repaired_by else basis,
        extra={
            "project": str(stage.project),
            "postmortem": str(stage.project / "runs" / seen.postmortem) if seen.postmortem else "",
        },
    )
