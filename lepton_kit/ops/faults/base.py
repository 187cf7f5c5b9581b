"""What a fault is, and what it may do to a service, be it a running one or a simulated one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from lepton_kit.errors import InputError
from lepton_kit.models.forecasters import Forecaster
from lepton_kit.serving.replay import Item

FaultCause = Literal["data", "model", "compute", "none"]
Kind = Literal["ewma", "constant"]


class Plant(Protocol):
    """What a fault may do to a simulated service; times are seconds of its clock."""

    now: float
    rng: np.random.Generator

    @property
    def workers(self) -> int:
        """Return how many workers answer."""
        ...

    @property
    def utilisation(self) -> float:
        """Return the share of the workers' time that the usual load takes."""
        ...

    def current(self) -> Forecaster:
        """Return the version in service."""
        ...

    def deploy(self, forecaster: Forecaster, note: str) -> None:
        """Register a new version and put it into service."""
        ...

    def corrupt(self, forecaster: Forecaster) -> None:
        """Let the running workers answer with this one; their version's files stay as they are."""
        ...

    def surge(self, factor: Callable[[float], float]) -> None:
        """Multiply the usual rate of the requests by a function of the time since now."""
        ...

    def flood_to(self, utilisation: float) -> None:
        """Send as many requests beside the usual load as bring the workers to this utilisation, which may exceed 1."""
        ...

    def slow(self, taken: float) -> None:
        """Take this share (0 to 1) of the processor from each worker that runs now."""
        ...

    def lose(self, count: int) -> None:
        """End so many workers; what is started in their place ends, too."""
        ...

    def leak(self, seconds: float) -> None:
        """Let each worker lose memory, so that it reaches the limit so many seconds after its start, or after now."""
        ...

    def change_world(self, share: float) -> None:
        """Let this share of the days that are asked about be days of the real market's wild year from now on."""
        ...


class Fault:
    """The base of all faults: one that does nothing.

    Parameters
    ----------
    seed
        Of whatever in the fault is left to chance.
    severity
        Above 0, at most 1; each class says what it means. What is usual of the class unless given.

    Raises
    ------
    InputError
        When the severity is not from above 0 to 1.

    Notes
    -----
    `cause` is what a diagnosis should find, `none` where nothing is wrong. `severities` is the range that drills draw
    from; its lower end is hard to see. A fault is `live` when it can be put into a running service. `is_restartable`
    says whether a restart of the feed ends it. `kind` names the only kind of forecasters that it harms, where there is
    one, so that a plant can be of that.
    """

    name: ClassVar[str]
    cause: ClassVar[FaultCause]
    description: ClassVar[str]
    severities: ClassVar[tuple[float, float]] = (0.2, 1.0)
    usual: ClassVar[float] = 1.0
    live: ClassVar[bool] = True
    is_restartable: ClassVar[bool] = False
    kind: ClassVar[Kind | None] = None

    def __init__(self, seed: int = 0, severity: float | None = None) -> None:
        self.severity = self.usual if severity is None else severity
        if not 0 < self.severity <= 1:  # NaN is refused by this too
            raise InputError(f"severity {severity!r} of fault {self.name}: must be above 0, and at most 1")
        self.rng = np.random.default_rng(seed)
        self.seed = seed

    @property
    def causes(self) -> frozenset[str]:
        """Return all causes that a diagnosis should find."""
        return frozenset({self.cause})

    def begin(self, service: Path) -> None:
        """Harm the running service whose state is in this folder; faults of the feed do nothing here."""

    def apply(self, item: Item, state: dict[str, Any]) -> Item:
        """Return what is sent in place of an item; `state` is the fault's own, kept from one item to the next."""
        return item

    def end(self, service: Path) -> None:
        """Undo what `begin` did."""

    def strike(self, plant: Plant) -> None:
        """Do to a simulated service what `begin` does to a running one."""

    def hits(self) -> bool:
        """Say by chance whether an item is hit, so that the share `severity` of them is."""
        return bool(self.rng.random() < self.severity)
