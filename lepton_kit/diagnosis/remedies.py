"""Remedies: for each cause what is done about it, as a plan that only reads, and what a plan may do to a service.

`plan_data`, `plan_model` and `plan_capacity` take a recording and say what to do. An `Operator` does it: that of a
running service is `lepton_kit.ops.operator.ServiceOperator`, and a drill's simulated service has one, too.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol

from lepton_kit.diagnosis.plans import REMEDIES
from lepton_kit.diagnosis.repair_capacity import CapacityPlan, Needs, Smaller, plan_capacity
from lepton_kit.diagnosis.repair_data import DataPlan, plan_data
from lepton_kit.diagnosis.repair_model import ModelPlan, plan_model
from lepton_kit.serving.mends import NO_MENDS, Mends

__all__ = [
    "REMEDIES",
    "CapacityPlan",
    "DataPlan",
    "ModelPlan",
    "Needs",
    "Operator",
    "Smaller",
    "State",
    "plan_capacity",
    "plan_data",
    "plan_model",
]


@dataclass(frozen=True)
class State:
    """What an operator may change of a service: the version, how large it is, and what it does to its rows."""

    version: str
    workers: int
    queue_limit: int
    mends: Mends = NO_MENDS

    def as_dict(self) -> dict[str, Any]:
        """Return the state as JSON can hold it."""
        return {**asdict(self), "mends": self.mends.model_dump(exclude_defaults=True)}


class Operator(Protocol):
    """What a remedy may do to a service; each action is recorded, and a state can be brought back."""

    def state(self) -> State:
        """Return what the service shall be doing now."""
        ...

    def set_state(self, state: State, why: str) -> None:
        """Bring the service to a state, whole or not at all."""
        ...

    def restart_workers(self, why: str) -> None:
        """Replace each worker by a fresh one, which loads the version from its verified files."""
        ...

    def restart_feed(self, why: str) -> bool:
        """Restart the feed; False where no way to do so is configured, or it failed."""
        ...


def apply_data(plan: DataPlan, operator: Operator) -> tuple[str, ...]:
    """Carry out a plan for a feed, and return what was done; nothing where there is nothing to do."""
    why, done = "; ".join(plan.reasons), []
    if plan.mends:
        state = operator.state()
        mends = state.mends.then(plan.mends)
        operator.set_state(State(state.version, state.workers, state.queue_limit, mends), why)
        done.append(f"the service mends its rows: {mends.summary}")
    if plan.restart_feed:
        restarted = operator.restart_feed(why)
        done.append("the feed was restarted" if restarted else "no way to restart the feed is configured, or it failed")
    return tuple(done)


def apply_model(plan: ModelPlan, operator: Operator) -> tuple[str, ...]:
    """Carry out a plan for a model, and return what was done."""
    why, state = "; ".join(plan.reasons), operator.state()
    if plan.kind == "reload":
        operator.restart_workers(why)
        return (f"fresh workers have loaded {plan.version} from its verified files",)
    operator.set_state(State(plan.version, state.workers, state.queue_limit, state.mends), why)
    return (f"{state.version} → {plan.version}",)


def apply_capacity(plan: CapacityPlan, operator: Operator) -> tuple[str, ...]:
    """Carry out a plan for a service's size, and return what was done."""
    why, state, done = "; ".join(plan.reasons), operator.state(), []
    if plan.resizes:
        wished = State(plan.version or state.version, plan.workers, plan.queue_limit, state.mends)
        operator.set_state(wished, why)
        done.append(
            f"{wished.workers} workers, at most {wished.queue_limit} requests in each, version {wished.version}"
        )
    if plan.restart:
        operator.restart_workers(why)
        done.append("each worker was replaced by a fresh one" + ("" if plan.resizes else "; no workers were added"))
    return tuple(done)
