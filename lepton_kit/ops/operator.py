"""Acts on a running service of the project for a remedy, and writes down each action, so that it can be undone.

services/<name>/actions.jsonl   every action: time, run and who let it, action, why, before, after, outcome
"""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lepton_kit.diagnosis.remedies import State
from lepton_kit.errors import InputError, LeptonError
from lepton_kit.models.registry import Registry
from lepton_kit.ops.watch.approvals import this_user
from lepton_kit.project.settings import read_settings
from lepton_kit.runs.ledger import FILE as LEDGER
from lepton_kit.serving.config import read_config
from lepton_kit.serving.control import (
    Wish,
    change_wish,
    note_deployment,
    read_reports,
    read_wish,
    service_folder,
)
from lepton_kit.serving.following import Followed, await_workers, is_listening
from lepton_kit.serving.mends import Mends
from lepton_kit.telemetry.declaration import Command

ACTIONS = "actions.jsonl"
FOLLOW_SECONDS = 120.0
"""Time for workers to follow: a moment, unless one hangs and another must begin while the machine is busy."""

FEED_SECONDS = 120.0
LONGEST_OUTPUT = 500


class ServiceOperator:
    """The operator (`lepton_kit.diagnosis.remedies.Operator`) of a running service.

    Parameters
    ----------
    name
        The service's name.
    project
        The project's root.
    run_id
        What acts: the run of the remedy, for the records.
    by
        Who let it: the policy, or a person; what `who_let` says unless given.
    seconds
        How long the workers may take to follow an action.

    Raises
    ------
    InputError
        When no such service was ever started here, or it does not run.
    """

    def __init__(
        self, name: str, project: Path, run_id: str, by: str | None = None, seconds: float = FOLLOW_SECONDS
    ) -> None:
        self.project, self.run_id, self._seconds = project, run_id, seconds
        self.by = by or who_let(run_id, project)
        self.folder = service_folder(project / "services", name)
        config = read_config(self.folder)
        if config is None or not read_reports(self.folder):
            raise InputError(f"service {name!r}: does not run here; start it with `lepton serve`")
        self.config, self.registry = config, Registry(config.registry)

    def state(self) -> State:
        """Return what the service shall be doing now."""
        return self._state_of(read_wish(self.folder))

    def set_state(self, state: State, why: str) -> None:
        """Bring the service to a state, and wait until its workers follow; one that hangs is replaced.

        The registry's promoted version follows, too. A candidate that has a share of the requests is withdrawn.

        Raises
        ------
        InputError
            When the version is missing or damaged, or a number is not allowed; nothing is changed then.
        LeptonError
            When the workers do not follow: the state before is brought back.
        """
        before = read_wish(self.folder)
        self.registry.verify(self.config.model, state.version)
        changes = _changes(state) | ({"candidate": None, "share": 0.0} if before.candidate else {})
        wish = change_wish(self.folder, **changes)
        try:
            followed = await_workers(self.folder, wish, self._seconds)
        except LeptonError as error:
            change_wish(self.folder, **_changes(self._state_of(before)))
            self._note("set_state", why, self._state_of(before), state, f"undone: {error}")
            raise
        self._promote(before.version, state.version, why)
        self._note("set_state", why, self._state_of(before), state, "done", **_how(followed))

    def bring_back(self, state: State, why: str) -> None:
        """Bring an earlier state back, also where the service has ended: whoever starts it finds nothing half done.

        Raises
        ------
        LeptonError
            When workers are there, and do not follow; an InputError as `set_state` says.
        """
        try:
            self.set_state(state, why)
        except LeptonError as error:
            if isinstance(error, InputError) or is_listening(self.folder):
                raise
            before = read_wish(self.folder)
            change_wish(self.folder, **_changes(state))
            self._promote(before.version, state.version, why)
            self._note("set_state", why, self._state_of(before), state, "done", **_how(Followed(0, state.workers, ())))

    def restart_workers(self, why: str) -> None:
        """Replace each worker by a fresh one, after checking the version's files, and wait until all are new.

        Raises
        ------
        InputError
            When the files of the version are damaged: what answers is left alone then.
        LeptonError
            When the fresh workers do not begin in time.
        """
        state = self.state()
        self.registry.verify(self.config.model, state.version)
        old = {report.pid for report in read_reports(self.folder)}
        wish = change_wish(self.folder, restarts=read_wish(self.folder).restarts + 1)
        try:
            seconds = self._seconds * wish.workers  # one after the other
            followed = await_workers(self.folder, wish, seconds, old)
        except LeptonError as error:
            self._note("restart_workers", why, state, state, str(error))
            raise
        self._note("restart_workers", why, state, state, "done", **_how(followed))

    def restart_feed(self, why: str) -> bool:
        """Run the command that `actions.restart_feed` of `[services.<name>]` gives; False where it fails."""
        state = self.state()
        settings = read_settings(self.project).services.get(self.folder.name)
        declared = settings.actions.get("restart_feed") if settings else None
        command = list(declared.run) if isinstance(declared, Command) else None
        outcome = _run(command, self.project) if command else "no command is configured"
        self._note("restart_feed", why, state, state, outcome, command=command)
        return outcome == "done"

    def _state_of(self, wish: Wish) -> State:
        return State(wish.version, wish.workers, wish.queue_limit or self.config.queue_limit, wish.mends)

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
        with (self.folder / ACTIONS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")  # one write: two who append do not mix their lines


def who_let(run_id: str, project: Path) -> str:
    """Return who let a run act: the policy or who approved it, as the ledger has it, else the user of this process."""
    from lepton_kit.ops.watch.queue import Queue

    known = Queue(project).let_by(run_id) if (project / "runs" / LEDGER).is_file() else None
    return known or this_user()


def read_actions(folder: Path) -> list[dict[str, Any]]:
    """Return what was done to a service, oldest first, as `actions.jsonl` has it.

    Raises
    ------
    InputError
        When a line is damaged; the message names it.
    """
    path = folder / ACTIONS
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    return [_action(line, f"{path}: line {number}") for number, line in enumerate(lines, 1) if line]


def undo(name: str, project: Path, by: str, note: str) -> str:
    """Bring a service back to the state before the last action that changed it, and return what was done.

    An undo is an action itself: a second one brings back what the first took away.

    Raises
    ------
    InputError
        When nothing was changed yet, or the service has been changed otherwise since: nothing is done then.
    LeptonError
        When the workers do not follow.
    """
    operator = ServiceOperator(name, project, "lepton undo", by)
    done = [one for one in read_actions(operator.folder) if one["outcome"] == "done" and one["before"] != one["after"]]
    if not done:
        raise InputError(f"service {name!r}: no action on it is recorded that could be undone")
    last, now = done[-1], operator.state()
    if _state(last["after"]) != now:
        raise InputError(
            f"service {name!r}: is not as the last recorded action left it ({last['time']}: {last['why']}); somebody "
            "changed it since, so it is for a person to say what it shall be"
        )
    back = _state(last["before"])
    operator.set_state(back, f"undo of {last['action']} of {last['time']}" + (f": {note}" if note else ""))
    changes = [f"{what} {old} → {getattr(back, what)}" for what, old in vars(now).items() if old != getattr(back, what)]
    return f"service {name}: {', '.join(changes)}"


def _state(held: dict[str, Any]) -> State:
    return State(**{**held, "mends": Mends.model_validate(held.get("mends", {}))})


def _action(line: str, origin: str) -> dict[str, Any]:
    try:
        found = dict(json.loads(line))
        datetime.fromisoformat(found["time"])
        _ = found["run"], found["action"], found["why"], found["before"], found["after"], found["outcome"]
    except (ValueError, TypeError, LookupError) as error:
        raise InputError(f"{origin} {line[:80]!r} is not an action; restore the file") from error
    return found


def _how(followed: Followed) -> dict[str, Any]:
    """Return how the workers followed, for the records."""
    more = {"replaced": list(followed.replaced)} if followed.replaced else {}
    return {"workers_followed": f"{followed.workers} of {followed.wished}", **more}


def _changes(state: State) -> dict[str, Any]:
    return {name: getattr(state, name) for name in ("version", "workers", "queue_limit", "mends")}


def _run(command: list[str], project: Path) -> str:
    """Run a command in the project, without a shell and without the kit's secrets, and return `done` or what failed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LEPTON_")}
    try:
        ended = subprocess.run(
            command, cwd=project, env=kept, stdin=subprocess.DEVNULL, capture_output=True, timeout=FEED_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]!r} failed: {type(error).__name__}"
    said = (ended.stderr or ended.stdout).decode(errors="replace").strip()[-LONGEST_OUTPUT:]
    return "done" if ended.returncode == 0 else f"{command[0]!r} ended with {ended.returncode}: {said}"
