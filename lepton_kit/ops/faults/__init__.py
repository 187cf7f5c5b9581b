"""Faults that are put into a service on purpose, to see its alerts, diagnoses and remedies work.

A fault is a small class: its name, the cause that a diagnosis should find, what it is, how severe it may be, and what
it does. One that changes the requests overrides `apply`, which serves running and simulated services alike; one that
harms the service itself overrides `begin` and `end`, and `strike` for a simulated one. `FAULTS` lists them all; a new
one is a class in this package and a line in its module's tuple, or a class in a file of one's own, which
`read_fault_file` reads. Two at once are written `units+cpu-taken`.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lepton_kit.errors import InputError
from lepton_kit.files import single_name
from lepton_kit.ops.faults.base import Fault, FaultCause, Plant
from lepton_kit.ops.faults.benign import BENIGN
from lepton_kit.ops.faults.compute import COMPUTE
from lepton_kit.ops.faults.data import DATA, Nulls, StaleFeed, SwappedColumns, Units
from lepton_kit.ops.faults.model import MODEL
from lepton_kit.serving.replay import Change, Item

__all__ = [
    "FAULTS",
    "PAIRS",
    "Fault",
    "FaultCause",
    "Nulls",
    "Pair",
    "Plant",
    "StaleFeed",
    "SwappedColumns",
    "Units",
    "find_fault",
    "injected",
    "read_fault_file",
]

FAULTS: dict[str, type[Fault]] = {fault.name: fault for fault in (*DATA, *MODEL, *COMPUTE, *BENIGN)}

PAIRS = (
    "units+cpu-taken",
    "nulls+queue-saturation",
    "swapped-columns+lost-worker",
    "wrong-version+cpu-taken",
    "nan-weights+queue-saturation",
    "nulls+wrong-version",
)
"""Pairs of which each part can be seen beside the other; of any others, one may hide the other."""


class Pair(Fault):
    """Two faults at once.

    >>> sorted(find_fault("units+cpu-taken").causes)
    ['compute', 'data']
    """

    def __init__(self, first: Fault, second: Fault) -> None:
        self.parts = (first, second)
        self.name = f"{first.name}+{second.name}"  # type: ignore[misc]
        self.cause = first.cause  # type: ignore[misc]
        self.description = f"{first.description}; and {second.description}"  # type: ignore[misc]
        self.live = first.live and second.live  # type: ignore[misc]
        self.kind = first.kind or second.kind  # type: ignore[misc]
        self.is_restartable = first.is_restartable and second.is_restartable  # type: ignore[misc]
        super().__init__(first.seed, max(first.severity, second.severity))

    @property
    def causes(self) -> frozenset[str]:
        """Return the causes of both."""
        found = self.parts[0].causes | self.parts[1].causes
        return found - {"none"} or found

    def begin(self, service: Path) -> None:
        """Begin both."""
        for part in self.parts:
            part.begin(service)

    def apply(self, item: Item, state: dict[str, Any]) -> Item:
        """Apply one after the other."""
        for number, part in enumerate(self.parts):
            item = part.apply(item, state.setdefault(f"part {number}", {}))
        return item

    def end(self, service: Path) -> None:
        """End both."""
        for part in self.parts:
            part.end(service)

    def strike(self, plant: Plant) -> None:
        """Strike with both."""
        for part in self.parts:
            part.strike(plant)


def find_fault(
    name: str, seed: int = 0, severity: float | None = None, known: Mapping[str, type[Fault]] = FAULTS
) -> Fault:
    """Return a fault by its name, or two at once by their names with a `+`.

    Raises
    ------
    InputError
        When there is none of that name, or the severity is not from above 0 to 1.
    """
    first, plus, second = name.partition("+")
    if plus:
        return Pair(find_fault(first, seed, severity, known), find_fault(second, seed + 1, severity, known))
    if name not in known:
        raise InputError(f"fault {name!r}: there is no such fault; there are {', '.join(known)}")
    return known[name](seed, severity)


def read_fault_file(path: Path) -> dict[str, type[Fault]]:
    """Import a Python file and return the fault classes that it defines, by their names.

    The file is executed: give only one that you trust.

    Raises
    ------
    InputError
        When it cannot be imported, defines no subclass of `Fault` with a name, a cause and a description, or one has
        the name of a fault that is there already.
    """
    if not path.is_file():
        raise InputError(f"--fault-file {path}: no such file")
    spec = importlib.util.spec_from_file_location(f"lepton_fault_file_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"--fault-file {path}: must be a Python file, such as my_fault.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"--fault-file {path}: cannot be imported ({type(error).__name__}: {error})") from error
    found = [
        one
        for one in vars(module).values()
        if isinstance(one, type) and issubclass(one, Fault) and one.__module__ == spec.name and hasattr(one, "name")
    ]
    for one in found:
        _check_class(one, path)
    if not found:
        raise InputError(f"--fault-file {path}: defines no class of lepton_kit.ops.faults.Fault with a name")
    return {one.name: one for one in found}


def _check_class(fault: type[Fault], path: Path) -> None:
    for wanted in ("cause", "description"):
        if not hasattr(fault, wanted):
            raise InputError(f"--fault-file {path}: class {fault.__name__} lacks {wanted}")
    if fault.cause not in ("data", "model", "compute", "none"):
        raise InputError(
            f"--fault-file {path}: cause {fault.cause!r} of {fault.__name__}: must be data, model, compute or none"
        )
    single_name(fault.name, f"--fault-file {path}: fault")  # a live drill's folder is called so
    if fault.name in FAULTS or "+" in fault.name:
        raise InputError(f"--fault-file {path}: fault {fault.name!r} is there already, or its name has a '+'")


@contextmanager
def injected(fault: Fault, after: float, service: Path | None) -> Iterator[Change]:
    """Give the change that leaves the first `after` seconds of a replay alone, and applies a fault from then on.

    Parameters
    ----------
    fault
        As `find_fault` gives it.
    after
        Seconds from the beginning of the load.
    service
        The folder of the service's state; None where the service is on another machine, and only its feed can be
        changed.

    Raises
    ------
    InputError
        When the fault cannot be put into a running service.
    """
    if not fault.live:
        raise InputError(f"fault {fault.name!r}: only a simulated service can have it; `lepton drill {fault.name}`")
    state: dict[str, Any] = {}
    has_begun = False

    def change(item: Item, seconds: float) -> Item:
        nonlocal has_begun
        if seconds < after:
            return item
        if not has_begun and service is not None:
            fault.begin(service)
        has_begun = True
        return fault.apply(item, state)

    try:
        yield change
    finally:
        if has_begun and service is not None:
            fault.end(service)
