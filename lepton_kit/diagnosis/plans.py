"""What a repair may do to a service, and what every plan of one is; `remedy` lists how each cause is repaired.

A plan only reads a recording. An `Operator` carries it out: that of a running service is
`lepton_kit.ops.service_operator.ServiceOperator`, and a drill's simulated service has one, too. A service can do what
it declares (`Plan.means`); what it cannot do is left to a person, and reported.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar

from lepton_kit.data.input_fixes import NO_INPUT_FIXES, InputFixes
from lepton_kit.diagnosis.evidence import Cause
from lepton_kit.diagnosis.means import Means, Step, Way, means_of


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


class Plan(ABC):
    """What to do about one cause; `reasons` says why, a sentence each."""

    reasons: tuple[str, ...]

    @property
    @abstractmethod
    def action(self) -> str:
        """Return in words what the plan does to a service."""

    @abstractmethod
    def steps(self) -> Sequence[Step]:
        """Return the changes that the plan makes."""

    @abstractmethod
    def carry_out(self, operator: Operator) -> tuple[str, ...]:
        """Carry out the plan, and return what was done; nothing where there is nothing to do, or it cannot."""

    def means(self, ways: Collection[Way]) -> Means:
        """Return by which of its ways a service carries out the plan, what a person does, and what cannot be undone."""
        return means_of(self.steps(), ways)


@dataclass(frozen=True)
class Remedy:
    """How a cause is repaired: the name of the runbook that does, and the function that plans it from a recording."""

    runbook: str
    plan: Callable[..., Plan]


REMEDIES: dict[Cause, Remedy] = {}
"""The remedy of each cause that has one, as `remedy` lists them."""

Planner = TypeVar("Planner", bound=Callable[..., Plan])


def remedy(cause: Cause, runbook: str) -> Callable[[Planner], Planner]:
    """List a function that plans the repair of a cause from a recording, and the runbook that runs it: a decorator."""

    def listed(plan: Planner) -> Planner:
        REMEDIES[cause] = Remedy(runbook, plan)
        return plan

    return listed
