"""The operator of a service: which one it has, and how what it did last is undone.

A `ServeOperator` acts on a service that `lepton serve` runs, through its control folder: the one place in `ops` that
repairs so.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_kit.diagnosis.means import Way
from lepton_kit.diagnosis.plans import State
from lepton_kit.diagnosis.repair_capacity import Smaller, smaller_of
from lepton_kit.diagnosis.workload import Measured
from lepton_kit.errors import InputError, LeptonError
from lepton_kit.models.registry import Registry
from lepton_kit.ops.actions import Values
from lepton_kit.ops.declared import OWN_WAYS, is_served_here
from lepton_kit.ops.service_operator import ServiceOperator, done_to, state_of
from lepton_kit.serving.control import (
    DesiredState,
    Followed,
    await_workers,
    change_desired_state,
    is_listening,
    note_deployment,
    read_config,
    read_desired_state,
    read_reports,
    service_folder,
)
from lepton_kit.telemetry.recordings import Recording

if TYPE_CHECKING:  # PyTorch: only for who trains
    from lepton_kit.models.retraining import Retrained


class ServeOperator(ServiceOperator):
    """The operator of a service that `lepton serve` runs.

    Raises InputError when no such service was ever started here, or it does not run.
    """

    def __init__(self, name: str, project: Path, run_id: str, by: str | None = None, seconds: float | None = None):
        folder = service_folder(project / "services", name)
        config = read_config(folder)
        if config is None or not read_reports(folder):
            raise InputError(f"service {name!r}: does not run here; start it with `lepton serve`")
        super().__init__(name, project, run_id, by, seconds)
        self.config, self.registry = config, Registry(config.registry)

    def _known(self, *_: Any) -> tuple[State, str | None]:
        return State(), None  # the control folder says more

    def state(self) -> State:
        """Return the desired state of the service."""
        return self._state_of(read_desired_state(self.folder))

    def set_state(self, state: State, why: str) -> None:
        """Bring the service to a state, and wait until its workers follow; one that hangs is replaced.

        The registry's promoted version follows, too. A candidate that has a share of the requests is withdrawn.

        Raises InputError when the version is missing or damaged, or a number is not allowed; nothing is changed then.
        Raises LeptonError when the workers do not follow: the earlier state is restored.
        """
        before = read_desired_state(self.folder)
        version = state.version or before.version
        self.registry.verify(self.config.model, version)
        changes = _changes(state) | ({"candidate": None, "share": 0.0} if before.candidate else {})
        desired = change_desired_state(self.folder, **changes)
        try:
            followed = await_workers(self.folder, desired, self._seconds)
        except LeptonError as error:
            change_desired_state(self.folder, **_changes(self._state_of(before)))
            self._note("set_state", why, self._state_of(before), state, f"undone: {error}")
            raise
        self._promote(before.version, version, why)
        self._note("set_state", why, self._state_of(before), state, "done", **_how(followed))

    def bring_back(self, state: State, why: str) -> None:
        """Restore an earlier state, even where the service has ended: its next start finds nothing half done.

        Raises LeptonError when workers are there, and do not follow; an InputError as `set_state` says.
        """
        try:
            self.set_state(state, why)
        except LeptonError as error:
            if isinstance(error, InputError) or self.is_up():
                raise
            before = read_desired_state(self.folder)
            change_desired_state(self.folder, **_changes(state))
            self._promote(before.version, state.version or before.version, why)
            followed = Followed(0, state.workers or before.workers, ())
            self._note("set_state", why, self._state_of(before), state, "done", **_how(followed))

    def cannot_reach(self, state: State) -> str:
        """Return nothing: every state can be reached."""
        return ""

    def restart_workers(self, why: str) -> None:
        """Replace each worker by a fresh one, after checking the version's files, and wait until all are new.

        Raises InputError when the files of the version are damaged: what answers is left alone then. Raises LeptonError
        when the fresh workers do not begin in time.
        """
        state, before = self.state(), read_desired_state(self.folder)
        self.registry.verify(self.config.model, before.version)
        old = {report.pid for report in read_reports(self.folder)}
        desired = change_desired_state(self.folder, restarts=before.restarts + 1)
        try:
            seconds = self._seconds * desired.workers  # one after the other
            followed = await_workers(self.folder, desired, seconds, old)
        except LeptonError as error:
            self._note("restart_workers", why, state, state, str(error))
            raise
        self._note("restart_workers", why, state, state, "done", **_how(followed))

    def do(self, way: Way, values: Values, why: str) -> str:
        """Do one thing to the service, and return what was done."""
        before = self.state()
        match way:
            case "scale" | "deploy":
                self.set_state(replace(before, **_given(way, values)), why)
            case "roll_back":
                good = self.registry.incumbent(self.config.model, before.version or "")
                if good is None:
                    raise InputError(
                        f"service {self.name!r}: the registry knows no good version before {before.version}"
                    )
                self.set_state(replace(before, version=good), why)
            case "restart":
                self.restart_workers(why)
            case _:
                return self._run(way, values, why).shown
        return f"{before.version}, {before.workers} workers → {self.state().version}, {self.state().workers} workers"

    def preview(self, way: Way, values: Values) -> str:
        """Return what `do` would do, without doing anything."""
        if way in self.declaration.actions and way not in OWN_WAYS:
            return super().preview(way, values)
        given = [f"{name} {value}" for name, value in vars(values).items() if value is not None]
        return f"{', '.join([way, *given])}: through services/{self.name}/control.json, which its workers follow"

    def is_up(self) -> bool:
        """Whether anything listens at the service's address."""
        return is_listening(self.folder)

    def promote(self, made: Retrained) -> str:
        """Register a candidate that passed the gate, let the service answer with it, and return its version."""
        if not made.decision.promote:
            raise InputError(f"the gate refuses the candidate: {'; '.join(made.decision.reasons)}")
        version = made.save(self.registry, self.config.model, self.run_id)
        self.set_state(replace(self.state(), version=version), f"passed the gate: {made.decision.reasons[0]}")
        return version

    def compressed(self, measured: Measured) -> Smaller | None:
        """Return the compressed version that may take the present one's place, with its time; None without."""
        model, version = self.config.model, self.state().version
        found = self.registry.compressed(model, version) if version else None
        return smaller_of(found, self.registry.card(model, found), measured) if found else None

    def _state_of(self, desired: DesiredState) -> State:
        return State(
            desired.version, desired.workers, desired.queue_limit or self.config.queue_limit, desired.input_fixes
        )

    def _promote(self, before: str, version: str, why: str) -> None:
        """Let the registry's promoted version be the one that answers, and note the deployment."""
        if before == version:
            return
        model, promoted = self.config.model, self.registry.current(self.config.model)
        if promoted != version:
            is_back = promoted is not None and self.registry.incumbent(model, promoted) == version
            if is_back:
                self.registry.rollback(model, self.run_id, why)
            else:
                self.registry.promote(model, version, self.run_id, why)
        note_deployment(self.folder, version, f"{before} → {version}: {why}"[:500], run_id=self.run_id)


def _given(way: Way, values: Values) -> dict[str, Any]:
    name = "workers" if way == "scale" else "version"
    if (value := getattr(values, name)) is None:
        raise InputError(f"action {way}: needs a value for {{{name}}}, and none is given")
    return {name: value}


def _how(followed: Followed) -> dict[str, Any]:
    """Return how the workers followed, for the records."""
    more = {"replaced": list(followed.replaced)} if followed.replaced else {}
    return {"workers_followed": f"{followed.workers} of {followed.wanted}", **more}


def _changes(state: State) -> dict[str, Any]:
    held = {name: getattr(state, name) for name in ("version", "workers", "queue_limit", "input_fixes")}
    return {name: value for name, value in held.items() if value is not None}


def operator_of(
    name: str,
    project: Path,
    run_id: str,
    by: str | None = None,
    recorded: Recording | None = None,
    workers: int | None = None,
) -> ServiceOperator:
    """Return the operator of a service.

    `run_id` is what acts and `by` who let it (what `who_let` says unless given), for the records. `recorded` is the
    incident that is repaired, `workers` how many were measured in it: what is known of a service that says neither its
    version nor its size. Raises InputError when the service is unknown, or `lepton serve` does not run it.
    """
    if is_served_here(name, project):
        return ServeOperator(name, project, run_id, by)
    return ServiceOperator(name, project, run_id, by, recorded=recorded, workers=workers)


def undo(name: str, project: Path, by: str, note: str) -> str:
    """Bring a service back to the state before the last action that changed it, and return what was done.

    An undo is an action itself: a second one brings back what the first took away.

    Raises InputError when nothing was changed yet, or the service has been changed otherwise since: nothing is done
    then. Raises LeptonError when the workers do not follow.
    """
    operator = operator_of(name, project, "lepton undo", by)
    if not (done := done_to(operator.folder)):
        raise InputError(f"service {name!r}: no action on it is recorded that could be undone")
    last, now = done[-1], operator.state()
    if state_of(last["after"]) != now:
        raise InputError(
            f"service {name!r}: is not as the last recorded action left it ({last['time']}: {last['why']}); somebody "
            "changed it since, so a person must decide"
        )
    back = state_of(last["before"])
    operator.set_state(back, f"undo of {last['action']} of {last['time']}" + (f": {note}" if note else ""))
    changes = [f"{what} {old} → {getattr(back, what)}" for what, old in vars(now).items() if old != getattr(back, what)]
    return f"service {name}: {', '.join(changes)}"
