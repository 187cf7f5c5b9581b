"""What follows from a recording for a faulty model: the last good version, or the same one from its verified files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lepton_kit.diagnosis.case import Case, build_case
from lepton_kit.diagnosis.evidence.model import replay_of_last_good, served_version
from lepton_kit.diagnosis.means import Step
from lepton_kit.diagnosis.plans import Operator, Plan, remedy
from lepton_kit.errors import InputError
from lepton_kit.models.flavors import load_model
from lepton_kit.telemetry.recordings import Recording


@dataclass(frozen=True)
class ModelPlan(Plan):
    """Which version should answer, how to get there, and why.

    `kind` is `rollback` (to another version) or `reload` (the same version, in fresh workers, from its verified files).
    `version` is None where only the service itself knows which one was before.
    """

    version: str | None
    kind: Literal["rollback", "reload"]
    reasons: tuple[str, ...]

    @property
    def action(self) -> str:
        """Return in words what the plan does to a service."""
        known = self.version or "the version before"
        return f"roll back to {known}" if self.kind == "rollback" else f"load {known} anew"

    def steps(self) -> Sequence[Step]:
        """Return the one change: fresh workers, or another version."""
        return [Step(("restart",) if self.kind == "reload" else ("roll_back", "deploy"), self.action)]

    def carry_out(self, operator: Operator) -> tuple[str, ...]:
        """Restart the workers or change the version, and return what was done."""
        why, state = "; ".join(self.reasons), operator.state()
        if not self.means(operator.ways).ways:
            return ()
        if self.kind == "reload":
            operator.restart_workers(why)
            return (f"fresh workers have loaded {self.version} from its verified files",)
        operator.set_state(replace(state, version=self.version), why)
        return (f"{state.version} → {self.version or 'the version before'}",)


@remedy("model", runbook="repair-model")
def plan_model(recording: Recording) -> ModelPlan:
    """Choose the version that should answer, from the recording of an incident.

    The last good version answers at once, unless the files of the present one are whole and it was only the process
    that did not answer as they do: then fresh workers load them again, and no version is blamed.

    Raises
    ------
    InputError
        When there is no last good version to go back to, or a version's files in the recording are unreadable.
    """
    case = build_case(recording)
    served = served_version(case)
    damage = _damage(recording)
    if served.finding == "differs" and not damage:
        version = recording.incident.versions.current
        return ModelPlan(version, "reload", (served.summary, f"the files of {version} are as they were registered"))
    return ModelPlan(_last_good(recording), "rollback", tuple(said for said in (damage, *_reasons(case)) if said))


def _reasons(case: Case) -> tuple[str, ...]:
    versions = case.recording.incident.versions
    if versions.last_good is None:
        return f"nothing recorded says which version was before {versions.current}: its own roll_back does", "", ""
    replayed = replay_of_last_good(case)
    held = replayed.summary if replayed.checked else f"not replayed: {replayed.summary}"
    doubt = f"{versions.last_good} fails alike: going back will not help" if replayed.finding == "fail alike" else ""
    return f"{versions.last_good} was in service before {versions.current} and is known to be good", held, doubt


def _last_good(recording: Recording) -> str | None:
    versions = recording.incident.versions
    if versions.last_good is None and "roll_back" in recording.incident.declaration.actions:
        return None
    if versions.last_good is None or versions.last_good == versions.current:
        raise InputError(
            f"recording {recording.incident.id}: names no good version before {versions.current} to go back to; "
            "train one, and let the gate decide"
        )
    return versions.last_good


def _damage(recording: Recording) -> str:
    """Say what is wrong with the files of the version in service, as they were captured, or nothing."""
    version = recording.incident.versions.current
    if recording.incident.checksums.get(version) is False:
        return f"the files of {version} do not have the checksums that the registry keeps"
    if version not in recording.models:
        return f"the files of {version} are not in the recording, so they could not be verified"
    try:
        load_model(recording.models[version], recording.task)
    except InputError as error:
        return str(error)
    return ""
