"""Remedies: for each cause what is done about it, as a plan that only reads, and what a plan may do to a service.

The repairs that follow on a diagnosis come in the order that the alert asks for (`after_diagnosis`).

`plan_data`, `plan_model` and `plan_capacity` take a recording and say what to do. An `Operator` does it: that of a
running service is `lepton_kit.ops.service_operator.ServiceOperator`, and a drill's simulated service has one, too.
A service can do what it declares (`means_for`); what it cannot do is left to a person, and said.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from lepton_kit.data.input_fixes import NO_INPUT_FIXES, InputFixes
from lepton_kit.diagnosis.case import Case
from lepton_kit.diagnosis.evidence import Cause
from lepton_kit.diagnosis.means import Means, Step, Way, means_of
from lepton_kit.diagnosis.next_action import NextAction, repair_command
from lepton_kit.diagnosis.repair_capacity import CapacityPlan, Needs, is_hurt_by_refusals, plan_capacity
from lepton_kit.diagnosis.repair_data import DataPlan, plan_data
from lepton_kit.diagnosis.repair_model import ModelPlan, plan_model
from lepton_kit.errors import InputError
from lepton_kit.telemetry.recordings import Recording
from lepton_kit.telemetry.signals import role_of
from lepton_kit.telemetry.slo import Objective

REMEDIES: Mapping[Cause, str] = {"data": "repair-data", "model": "repair-model", "compute": "repair-capacity"}
"""The runbook that repairs each cause."""


Plan = DataPlan | ModelPlan | CapacityPlan


def plan_of(cause: Cause, recording: Recording, needs: Needs | None = None) -> Plan | None:
    """Return the plan of the repair of a cause; None of a cause without one.

    Raises InputError when the recording does not hold what the plan needs, such as a good version to go back to.
    """
    match cause:
        case "data":
            return plan_data(recording)
        case "model":
            return plan_model(recording)
        case "compute":
            return plan_capacity(recording, needs or Needs())
    return None


def planned(cause: Cause, case: Case) -> str:
    """Return in words what the repair of a cause would do to the service, or why there is no such plan."""
    try:
        plan = plan_of(cause, case.recording)
    except InputError as error:
        return f"it has no plan: {error}"
    return plan.action if plan else ""


CURES: Mapping[str, tuple[Cause, ...]] = {
    **dict.fromkeys(("newest_data", "watched_seconds", "stale_seconds", "input_problems", "invalid"), ("data",)),
    **dict.fromkeys(("targets_known", "interval_width"), ("data", "model")),
    **dict.fromkeys(("latency", "queue_time", "service_time", "queue_length", "saturation"), ("compute",)),
    **dict.fromkeys(("time_to_first_token", "time_per_output_token", "errors", "refusals", "up"), ("compute",)),
}
"""By the signal that an objective counts: the causes whose repair acts on it."""


def cures(objective: Objective) -> tuple[Cause, ...]:
    """Return the causes whose repair acts on an objective; none where that is not known of its metric.

    >>> from lepton_kit.telemetry.selectors import parse_selector
    >>> one = parse_selector("vllm:time_to_first_token_seconds_bucket"), parse_selector("vllm:request_success_total")
    >>> cures(Objective("a", "A", "demo", "", 0.99, 3600, "good", *one, 10))
    ('compute',)
    """
    return ("compute",) if is_hurt_by_refusals(objective) else CURES.get(role_of(objective.selector), ())


def in_order(causes: Sequence[str], objective: Objective | None) -> tuple[str, ...]:
    """Return causes in the order of their repairs: those that act on the objective that alerted come first.

    >>> in_order(["data", "compute"], None)
    ('data', 'compute')
    """
    first = cures(objective) if objective else ()
    return tuple(sorted(causes, key=lambda cause: bool(first) and cause not in first))


def after_diagnosis(
    causes: Sequence[str], objective: Objective | None, case: Case, recording: str = ""
) -> NextAction | None:
    """Return the repair that comes first, with its plan, and name those that follow; None where nothing is to repair.

    `causes` are as the diagnosis named them, the likeliest first; `recording` is where it lies, for the command.
    """
    repaired: list[Cause] = [cause for cause in REMEDIES if cause in causes]
    repaired.sort(key=in_order(causes, objective).index)
    if not repaired:
        return None
    first, *others = repaired
    said = f"Run the {first} repair: {planned(first, case)}."
    said += "".join(f" Then the {other} repair: {planned(other, case)}." for other in others)
    if objective and (acting := cures(objective)) and first not in acting:
        said += f" It does not act on the objective that alerted ({objective.title}): look at that again afterwards."
    runbook, incident = f"runbooks/{REMEDIES[first]}.ipynb", case.recording.incident
    declared = incident.declaration
    folder = declared.objectives if "objectives" in declared.model_fields_set else None  # a recording of format 1
    return NextAction(said, repair_command(runbook, recording, incident.service, folder) if recording else "")


@dataclass(frozen=True)
class State:
    """What an operator may change of a service; None of what is not known of it, or is left as it is.

    `version` answers, in `workers` processes with room for `queue_limit` requests each; each row gets `input_fixes`.
    """

    version: str | None = None
    workers: int | None = None
    queue_limit: int | None = None
    input_fixes: InputFixes = NO_INPUT_FIXES

    def as_dict(self) -> dict[str, Any]:
        """Return the state as JSON can hold it."""
        return {**asdict(self), "input_fixes": self.input_fixes.model_dump(exclude_defaults=True)}


class Operator(Protocol):
    """What a remedy may do to a service; each action is recorded, and a state can be restored.

    `ways` are the changes that it can make.
    """

    @property
    def ways(self) -> Collection[Way]:
        """The changes that it can make."""
        ...

    def state(self) -> State:
        """Return the desired state of the service."""
        ...

    def set_state(self, state: State, why: str) -> None:
        """Bring the service to a state, whole or not at all."""
        ...

    def restart_workers(self, why: str) -> None:
        """Replace each worker by a fresh one, which loads the version from its verified files."""
        ...

    def act_on_feed(self, way: Way, why: str) -> None:
        """Restart the feed or stop it; a LeptonError where that failed."""
        ...


def means_for(plan: Plan, ways: Collection[Way]) -> Means:
    """Return by which of its ways a service carries out a plan, what a person has to do, and what cannot be undone."""
    return means_of(list(_steps(plan)), ways)


def _steps(plan: Plan) -> Iterator[Step]:
    match plan:
        case DataPlan():
            # A feed whose rows keep their contract is never stopped.
            feed: tuple[Way, ...] = ("restart_feed", "stop_feed") if plan.is_broken else ("restart_feed",)
            if plan.input_fixes:
                yield Step(("fix_inputs", *feed), f"fix the rows on their way to the service ({plan.action})")
            if plan.restart_feed:
                yield Step(feed, "restart the feed")
        case ModelPlan(kind="reload"):
            yield Step(("restart",), plan.action)
        case ModelPlan():
            yield Step(("roll_back", "deploy"), plan.action)
        case CapacityPlan():
            if plan.resizes:
                yield Step(("scale",), f"{plan.workers} workers")
            if plan.restart:
                yield Step(("restart",), "replace each worker by a fresh one")


FEED_SAID: Mapping[Way, str] = {"restart_feed": "the feed was restarted", "stop_feed": "the feed was stopped"}


def carry_out(plan: Plan, operator: Operator) -> tuple[str, ...]:
    """Carry out a plan, and return what was done; nothing where there is nothing to do, or it cannot."""
    match plan:
        case DataPlan():
            return apply_data(plan, operator)
        case ModelPlan():
            return apply_model(plan, operator)
        case CapacityPlan():
            return apply_capacity(plan, operator)


def apply_data(plan: DataPlan, operator: Operator) -> tuple[str, ...]:
    """Carry out a plan for a feed, and return what was done; nothing where there is nothing to do, or it cannot."""
    why, done = "; ".join(plan.reasons), []
    for way in means_for(plan, operator.ways).ways:
        if way == "fix_inputs":
            state = operator.state()
            fixes = state.input_fixes.then(plan.input_fixes)
            operator.set_state(replace(state, input_fixes=fixes), why)
            done.append(f"input fixes turned on: {fixes.summary}")
        else:
            operator.act_on_feed(way, why)
            done.append(FEED_SAID[way])
    return tuple(done)


def apply_model(plan: ModelPlan, operator: Operator) -> tuple[str, ...]:
    """Carry out a plan for a model, and return what was done."""
    why, state = "; ".join(plan.reasons), operator.state()
    if not means_for(plan, operator.ways).ways:
        return ()
    if plan.kind == "reload":
        operator.restart_workers(why)
        return (f"fresh workers have loaded {plan.version} from its verified files",)
    operator.set_state(replace(state, version=plan.version), why)
    return (f"{state.version} → {plan.version or 'the version before'}",)


def apply_capacity(plan: CapacityPlan, operator: Operator) -> tuple[str, ...]:
    """Carry out a plan for a service's size, and return what was done."""
    why, state, done = "; ".join(plan.reasons), operator.state(), []
    ways = means_for(plan, operator.ways).ways
    if "scale" in ways:
        version = plan.version or state.version
        operator.set_state(replace(state, version=version, workers=plan.workers, queue_limit=plan.queue_limit), why)
        made = operator.state()
        limit = f", at most {made.queue_limit} requests in each, version {made.version}" if made.queue_limit else ""
        if made != state:
            done.append(f"{made.workers} workers{limit}")
    if "restart" in ways:
        operator.restart_workers(why)
        done.append("each worker was replaced by a fresh one" + ("" if plan.resizes else "; no workers were added"))
    return tuple(done)
