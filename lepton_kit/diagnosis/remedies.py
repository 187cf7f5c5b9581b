"""Remedies: for each cause what is done about it, as a plan that only reads, and what a plan may do to a service.

`plan_data`, `plan_model` and `plan_capacity` take a recording and say what to do. An `Operator` does it: that of a
running service is `lepton_kit.ops.service_operator.ServiceOperator`, and a drill's simulated service has one, too.
A service can do what it declares (`means_for`); what it cannot do is left to a person, and said.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from lepton_kit.data.input_fixes import NO_INPUT_FIXES, InputFixes
from lepton_kit.diagnosis.means import Means, Step, Way, means_of
from lepton_kit.diagnosis.plans import REMEDIES, Plan, plan_of
from lepton_kit.diagnosis.repair_capacity import CapacityPlan, Needs, Smaller, plan_capacity
from lepton_kit.diagnosis.repair_data import DataPlan, plan_data
from lepton_kit.diagnosis.repair_model import ModelPlan, plan_model

__all__ = [
    "REMEDIES",
    "CapacityPlan",
    "DataPlan",
    "ModelPlan",
    "Needs",
    "Operator",
    "Plan",
    "Smaller",
    "State",
    "plan_capacity",
    "plan_data",
    "plan_model",
    "plan_of",
]


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
