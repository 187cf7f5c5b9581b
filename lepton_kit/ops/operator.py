"""Acts on a running service of the project for a remedy, and writes down each action, so that it can be undone.

services/<name>/actions.jsonl   every action: time, run (who), action, why, before, after, outcome
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lepton_kit.diagnosis.remedies import State
from lepton_kit.errors import InputError, LeptonError
from lepton_kit.models.registry import Registry
from lepton_kit.runs.settings import read_settings
from lepton_kit.serving.config import read_config
from lepton_kit.serving.control import (
    Wish,
    change_wish,
    note_deployment,
    read_reports,
    read_wish,
    service_folder,
)

ACTIONS = "actions.jsonl"
FOLLOW_SECONDS = 60.0
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
        Who acts: the run of the remedy, for the records.
    seconds
        How long the workers may take to follow an action.

    Raises
    ------
    InputError
        When no such service was ever started here, or it does not run.
    """

    def __init__(self, name: str, project: Path, run_id: str, seconds: float = FOLLOW_SECONDS) -> None:
        self.project, self.run_id, self._seconds = project, run_id, seconds
        self.folder = service_folder(project / "services", name)
        config = read_config(self.folder)
        if config is None or not read_reports(self.folder):
            raise InputError(f"service {name!r}: does not run here; start it with `lepton serve`")
        self.config, self.registry = config, Registry(config.registry)

    def state(self) -> State:
        """Return what the service shall be doing now."""
        return self._state_of(read_wish(self.folder))

    def set_state(self, state: State, why: str) -> None:
        """Bring the service to a state, and wait until all workers follow.

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
            self._await_workers(wish)
        except LeptonError as error:
            change_wish(self.folder, **_changes(self._state_of(before)))
            self._note("set_state", why, self._state_of(before), state, f"undone: {error}")
            raise
        self._promote(before.version, state.version, why)
        self._note("set_state", why, self._state_of(before), state, "done")

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
            self._await_workers(wish, old)
        except LeptonError as error:
            self._note("restart_workers", why, state, state, str(error))
            raise
        self._note("restart_workers", why, state, state, "done")

    def restart_feed(self, why: str) -> bool:
        """Run the command that `[services.<name>] restart_feed` of lepton.toml gives; False where it fails."""
        state = self.state()
        settings = read_settings(self.project).services.get(self.folder.name)
        command = settings.restart_feed if settings else None
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

    def _await_workers(self, wish: Wish, old: frozenset[int] | set[int] = frozenset()) -> None:
        """Wait until as many workers as wished for have followed, none of the old ones among them."""
        deadline = time.monotonic() + self._seconds
        while True:
            reports = read_reports(self.folder)
            followed = [one for one in reports if one.generation >= wish.generation and one.pid not in old]
            if len(followed) == wish.workers == len(reports):
                break
            if time.monotonic() > deadline:
                raise LeptonError(
                    f"service {self.folder.name!r}: {len(followed)} of {wish.workers} workers followed within "
                    f"{self._seconds:g} s"
                )
            time.sleep(0.05)
        if wrong := sorted({report.error for report in followed if report.error}):
            raise LeptonError(f"service {self.folder.name!r}: {'; '.join(wrong)}")

    def _note(self, action: str, why: str, before: State, after: State, outcome: str, **more: Any) -> None:
        entry = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "run": self.run_id,
            "action": action,
            "why": why,
            "before": before.as_dict(),
            "after": after.as_dict(),
            "outcome": outcome,
            **more,
        }
        with (self.folder / ACTIONS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")  # one write: two who append do not mix their lines


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


def _action(line: str, origin: str) -> dict[str, Any]:
    try:
        found = dict(json.loads(line))
        datetime.fromisoformat(found["time"])
        _ = found["run"], found["action"], found["why"], found["before"], found["after"], found["outcome"]
    except (ValueError, TypeError, LookupError) as error:
        raise InputError(f"{origin} {line[:80]!r} is not an action; restore the file") from error
    return found


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
