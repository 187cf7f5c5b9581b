"""Acts on a service for a remedy, and writes down each action, so that it can be undone.

A `ServiceOperator` acts by what the service declares; a `ServeOperator` (`lepton_kit.ops.operator`) through the
control folder of `lepton serve`. `lepton_kit.ops.operator` returns the right one.

services/<name>/actions.jsonl   every action: time, run and who let it, action, why, before, after, outcome
"""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_kit.data.input_fixes import InputFixes, renamed
from lepton_kit.diagnosis.means import Way
from lepton_kit.diagnosis.plans import State
from lepton_kit.errors import InputError, LeptonError
from lepton_kit.files import append_line, read_lines
from lepton_kit.ops.actions import Outcome, Values, needs, run_action
from lepton_kit.ops.declared import readiness, service_address, ways_of
from lepton_kit.ops.watch.approvals import this_user
from lepton_kit.project.declarations import declared
from lepton_kit.serving.control import service_folder
from lepton_kit.telemetry.declaration import Command, Http

if TYPE_CHECKING:
    from lepton_kit.diagnosis.repair_capacity import Smaller
    from lepton_kit.diagnosis.workload import Measured
    from lepton_kit.models.retraining import Retrained
    from lepton_kit.telemetry.recordings import Recording

ACTIONS = "actions.jsonl"
FOLLOW_SECONDS = 120.0
"""Time for workers to follow: a moment, unless one hangs and another must begin while the machine is busy."""

LOOK_S = 0.2


class ServiceOperator:
    """The operator (`lepton_kit.diagnosis.remedies.Operator`) of a service, for a run or a command (`run_id`).

    It acts by what the service declares. What the service is doing is known from the recording of the incident, or from
    what was done to it here since. `by` is who approved it: the policy, or a person; what `who_let` says unless given.
    """

    def __init__(
        self,
        name: str,
        project: Path,
        run_id: str,
        by: str | None = None,
        seconds: float | None = None,
        *,
        recorded: Recording | None = None,
        workers: int | None = None,
    ) -> None:
        self.name, self.project, self.run_id = name, project, run_id
        self.by = by or who_let(run_id, project)
        self.folder = service_folder(project / "services", name)
        self.declaration = declared(project, name)
        self.ways = ways_of(name, self.declaration, project)
        self._seconds = FOLLOW_SECONDS if seconds is None else seconds
        self._state, self._previous = self._known(recorded, workers)

    def _known(self, recorded: Recording | None, workers: int | None) -> tuple[State, str | None]:
        """Return what is known of the service's state, and of the version that it had before."""
        state, previous, since = State(workers=workers), None, datetime.min.replace(tzinfo=UTC)
        if recorded is not None:
            versions, since = recorded.incident.versions, recorded.incident.window.end
            state, previous = State(versions.current, workers), versions.last_good
        done = done_to(self.folder)
        if done and datetime.fromisoformat(done[-1]["time"]) > since:
            last = done[-1]
            return state_of(last["after"]), None if last["action"] == "roll_back" else last["before"]["version"]
        return state, previous

    @property
    def address(self) -> str | None:
        """Where the service answers; None where that is not known."""
        return service_address(self.name, self.declaration, self.project)

    def is_up(self) -> bool:
        """Whether the service answers; where it has no address, nothing says that it does not."""
        return self.address is None or readiness(self.address, self.declaration).is_up

    def state(self) -> State:
        """Return what the service is doing, as far as that is known."""
        return self._state

    def set_state(self, state: State, why: str) -> None:
        """Bring the service to a version and a size by its actions, and wait until it is ready.

        Raises InputError when it declares no action for that; nothing is changed then. Raises LeptonError when an
        action fails, or the service is not ready in time.
        """
        if reason := self.cannot_reach(state):
            raise InputError(f"service {self.name!r}: {reason}")
        if state.version != self._state.version:
            way = self._way_to(state.version)
            named = state.version if "version" in needs(self._action(way)) else None
            self._become(way, Values(version=named), why, replace(self._state, version=state.version))
            self._await_ready()
        if state.workers is not None and state.workers != self._state.workers:
            self._become("scale", Values(workers=state.workers), why, replace(self._state, workers=state.workers))
            self._await_ready()

    def bring_back(self, state: State, why: str) -> None:
        """Bring an earlier state back."""
        self.set_state(state, why)

    def cannot_reach(self, state: State) -> str:
        """Say which action is not declared that a state needs; empty where there are all."""
        if state.input_fixes != self._state.input_fixes:
            return "input fixes cannot be applied here: only `lepton serve` fixes the rows that it receives"
        if state.version != self._state.version and self._way_to(state.version) not in self.ways:
            return f"no action deploy is declared that would bring {state.version or 'its earlier version'}"
        if state.workers == self._state.workers or (state.workers is not None and "scale" in self.ways):
            return ""
        return "how many workers there were is not known" if state.workers is None else "no action scale is declared"

    def restart_workers(self, why: str) -> None:
        """Restart the service by its action, and wait until it is ready."""
        self._run("restart", Values(), why)
        self._await_ready()

    def act_on_feed(self, way: Way, why: str) -> None:
        """Restart the feed or stop it by the declared action.

        Raises LeptonError when that failed; an InputError where no such action is declared.
        """
        self._run(way, Values(), why)

    def do(self, way: Way, values: Values, why: str) -> str:
        """Do one thing to the service, and return the command or the request that did it."""
        version = values.version if way == "deploy" else None if way == "roll_back" else self.state().version
        workers = values.workers if way == "scale" else self.state().workers
        return self._become(way, values, why, replace(self.state(), version=version, workers=workers))

    def preview(self, way: Way, values: Values) -> str:
        """Return the exact command or request that `do` would run, without doing anything."""
        return run_action(self._key(way), self._action(way), values, self.project, is_dry=True).shown

    def promote(self, made: Retrained) -> str:
        """Let the service answer with a candidate that passed the gate; return its version, `none` where it cannot."""
        return "none"

    def compressed(self, measured: Measured) -> Smaller | None:
        """Return the compressed version that may take the present one's place, and its time; None without."""
        return None

    def _become(self, way: Way, values: Values, why: str, after: State) -> str:
        """Run a declared action that leads to a state, and return the command or the request that did it."""
        shown = self._run(way, values, why, after).shown
        self._previous = self._state.version if way == "deploy" else None if way == "roll_back" else self._previous
        self._state = after
        return shown

    def _run(self, way: Way, values: Values, why: str, after: State | None = None) -> Outcome:
        """Run a declared action, write it down, and return how it ended."""
        before = self.state()
        outcome = run_action(self._key(way), self._action(way), values, self.project)
        said = "done" if outcome.is_done else str(outcome)
        more = {"command": outcome.shown, "code": outcome.code, "output": outcome.output}
        self._note(way, why, before, after or before if outcome.is_done else before, said, **more)
        if not outcome.is_done:
            raise LeptonError(f"service {self.name!r}: action {way}: {outcome}")
        return outcome

    def _action(self, way: Way) -> Command | Http:
        action = self.declaration.actions.get(way) if way != "fix_inputs" else None
        if action is None:
            raise InputError(f"service {self.name!r}: no action {way} is declared ({self._key(way)}); do it by hand")
        return action

    def _key(self, way: Way) -> str:
        return f"services.{self.name}.actions.{way}"

    def _note(self, action: str, why: str, before: State, after: State, outcome: str, **more: Any) -> None:
        entry = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "run": self.run_id,
            "by": self.by,
            "action": action,
            "why": why,
            "before": before.as_dict(),
            "after": after.as_dict(),
            "outcome": outcome,
            **more,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        append_line(self.folder / ACTIONS, entry)

    def _way_to(self, version: str | None) -> Way:
        """Return the action that brings a version: back to the one before where that is declared, else a deployment."""
        is_before = version == self._previous
        return "roll_back" if (is_before or version is None) and "roll_back" in self.ways else "deploy"

    def _await_ready(self) -> None:
        """Wait until the service is ready again; one without an address is taken at its action's word."""
        if self.address is None:
            return
        deadline = time.monotonic() + self._seconds
        while not (found := readiness(self.address, self.declaration)).is_ready:
            if time.monotonic() > deadline:
                raise LeptonError(
                    f"service {self.name!r}: is not ready {self._seconds:g} s after the action: {found.problem}"
                )
            time.sleep(LOOK_S)


def who_let(run_id: str, project: Path) -> str:
    """Return who let a run act: the policy or who approved it, as the ledger has it, else the user of this process."""
    from lepton_kit.ops.watch.queue import Queue
    from lepton_kit.runs.ledger import Ledger

    known = Queue(project).approved_by(run_id) if Ledger(project).exists() else None
    return known or this_user()


def read_actions(folder: Path) -> list[dict[str, Any]]:
    """Return what was done to a service, oldest first, as `actions.jsonl` has it; InputError when one is damaged."""

    def check(found: dict[str, Any]) -> None:
        datetime.fromisoformat(found["time"])
        _ = found["run"], found["action"], found["why"], found["before"], found["after"], found["outcome"]

    return read_lines(folder / ACTIONS, "an action", check)


def done_to(folder: Path) -> list[dict[str, Any]]:
    """Return those actions on a service that changed its state, oldest first."""
    return [one for one in read_actions(folder) if one["outcome"] == "done" and one["before"] != one["after"]]


def state_of(held: dict[str, Any]) -> State:
    """Return a state as `actions.jsonl` has it."""
    held = renamed(held)
    return State(**{**held, "input_fixes": InputFixes.model_validate(held.get("input_fixes", {}))})
