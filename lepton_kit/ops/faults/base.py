"""What a fault is, and what it may do to a running or simulated service."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar

import numpy as np

from lepton_kit.errors import InputError
from lepton_kit.serving.replay import Item

if TYPE_CHECKING:  # PyTorch: only for who spoils a model
    from lepton_kit.models.forecasters import Forecaster

FaultCause = Literal["data", "model", "compute", "none"]
Kind = Literal["ewma", "constant"]


class Plant(Protocol):
    """What faults do to a simulated service, whose subject lists those that it can have. Times are of its clock (s)."""

    now: float
    rng: np.random.Generator

    @property
    def workers(self) -> int:
        """Return how many workers answer."""

    @property
    def utilisation(self) -> float:
        """Return the share of the workers' time that the usual load takes."""

    def current(self) -> Forecaster:
        """Return the version in service."""

    def deploy(self, forecaster: Forecaster, note: str) -> None:
        """Register a new version and put it into service."""

    def deploy_next(self, is_bad: bool) -> None:
        """Put the next version into service: one that answers wrongly, or exactly as the present one."""

    def corrupt(self, forecaster: Forecaster) -> None:
        """Let the running workers answer with this one; their version's files stay as they are."""

    def surge(self, factor: Callable[[float], float]) -> None:
        """Multiply the usual rate of the requests by a function of the time since now."""

    def flood_to(self, utilisation: float) -> None:
        """Send as many requests beside the usual load as bring the workers to this utilisation, which may exceed 1."""

    def slow(self, taken: float) -> None:
        """Take this share (0 to 1) of the processor from each worker that runs now."""

    def lose(self, count: int) -> None:
        """End this many workers, and those that replace them."""

    def leak(self, seconds: float) -> None:
        """Let each worker lose memory, so that it reaches the limit this many seconds after its start, or after now."""

    def change_world(self, share: float) -> None:
        """Let this share of the rows be of a changed world from now on: a wild year's days, or a topic that is new."""

    def crowd(self, share: float) -> None:
        """Let rows of one source take the place of this share of those of the others, until the feed is restarted."""


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
    from; its lower end is hard to see. `is_restartable` says whether a restart of the feed ends it. `kind` names the
    only kind of forecasters that it harms, where there is one, so that a simulated service can be of that.

    A fault is `live` when what `lepton serve` runs can have it, and `proxied` when a proxy can bring it about before
    any service: by `apply`, by `copies` of each request sent beside it, by the `delay` (s) of each body after its head,
    by the share of connections `dropped` between both, or where it `deploys` the bad version that the service declares.
    """

    name: ClassVar[str]
    cause: ClassVar[FaultCause]
    description: ClassVar[str]
    severities: ClassVar[tuple[float, float]] = (0.2, 1.0)
    usual: ClassVar[float] = 1.0
    live: ClassVar[bool] = True
    proxied: ClassVar[bool] = False
    is_restartable: ClassVar[bool] = False
    kind: ClassVar[Kind | None] = None
    delay: ClassVar[float] = 0.0
    dropped: ClassVar[float] = 0.0
    deploys: ClassVar[bool] = False

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

    @property
    def copies(self) -> int:
        """Return how many copies of each request a proxy sends beside it."""
        return 0

    def begin(self, service: Path) -> None:
        """Harm the running service whose state is in this folder; faults of the feed do nothing here."""

    def apply(self, item: Item, state: dict[str, Any]) -> Item:
        """Return what is sent in place of an item; `state` is the fault's own, kept from one item to the next."""
        return item

    def end(self, service: Path) -> None:
        """Undo what `begin` did."""

    def inject(self, plant: Plant) -> None:
        """Do to a simulated service what `begin` does to a running one."""

    def hits(self) -> bool:
        """Say by chance whether an item is hit, so that the share `severity` of them is."""
        return bool(self.rng.random() < self.severity)


FAULTS: dict[str, type[Fault]] = {}
"""All faults of this package by their names, as `fault` lists them."""

AFault = TypeVar("AFault", bound=type[Fault])


def fault(made: AFault) -> AFault:
    """List a fault in `FAULTS`: a decorator of its class."""
    FAULTS[made.name] = made
    return made
