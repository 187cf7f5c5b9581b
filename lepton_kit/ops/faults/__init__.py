"""Faults that are put into a service on purpose, to see its alerts, diagnoses and remedies work.

A fault is a small class: its name, the cause that a diagnosis should find, what it is, how severe it may be, and what
it does. One that changes the requests overrides `apply`, which serves running and simulated services alike; one that
harms the service itself overrides `begin` and `end`, and `inject` for a simulated one. `FAULTS` lists them all; a new
one is a class under `@fault` in a module of this package, or a class in a file of one's own, which `read_fault_file`
reads. Two at once are written `units+cpu-taken`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lepton_kit.errors import InputError
from lepton_kit.files import import_file, single_name
from lepton_kit.ops.faults import benign, compute, data, model  # noqa: F401 - each lists its own
from lepton_kit.ops.faults.base import FAULTS, Fault, FaultCause, Plant, fault
from lepton_kit.serving.replay import Change, Item

__all__ = ["FAULTS", "Fault", "FaultCause", "Pair", "Plant", "fault", "find_fault", "injected", "read_fault_file"]


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
        found = self.parts[0].causes | self.parts[1].causes
        return found - {"none"} or found

    def begin(self, service: Path) -> None:
        for part in self.parts:
            part.begin(service)

    def apply(self, item: Item, state: dict[str, Any]) -> Item:
        for number, part in enumerate(self.parts):
            item = part.apply(item, state.setdefault(f"part {number}", {}))
        return item

    def end(self, service: Path) -> None:
        for part in self.parts:
            part.end(service)

    def inject(self, plant: Plant) -> None:
        for part in self.parts:
            part.inject(plant)


def find_fault(
    name: str, seed: int = 0, severity: float | None = None, known: Mapping[str, type[Fault]] = FAULTS
) -> Fault:
    """Return a fault by its name, or two at once by their names with a `+`.

    Raises InputError when there is none of that name, or the severity is not from above 0 to 1.
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

    Raises InputError when it cannot be imported, defines no subclass of `Fault` with a name, a cause and a description,
    or one has the name of a fault that is there already.
    """
    module = import_file(path, "--fault-file")
    own = [one for one in vars(module).values() if isinstance(one, type) and one.__module__ == module.__name__]
    found = [one for one in own if issubclass(one, Fault) and hasattr(one, "name")]
    if not found:
        raise InputError(f"--fault-file {path}: defines no class of lepton_kit.ops.faults.Fault with a name")
    for one in found:
        _check_class(one, path)
    return {one.name: one for one in found}


def _check_class(made: type[Fault], path: Path) -> None:
    for wanted in ("cause", "description"):
        if not hasattr(made, wanted):
            raise InputError(f"--fault-file {path}: class {made.__name__} lacks {wanted}")
    if made.cause not in ("data", "model", "compute", "none"):
        raise InputError(
            f"--fault-file {path}: cause {made.cause!r} of {made.__name__}: must be data, model, compute or none"
        )
    single_name(made.name, f"--fault-file {path}: fault")  # a live drill's folder is called so
    if FAULTS.get(made.name, made) is not made or "+" in made.name:
        raise InputError(f"--fault-file {path}: fault {made.name!r} is there already, or its name has a '+'")


@contextmanager
def injected(fault: Fault, after: float, service: Path | None) -> Iterator[Change]:
    """Give the change that leaves the first `after` seconds of a replay alone, and applies a fault from then on.

    `service` is the folder of its state; None on another machine, where only its feed can be changed. Raises InputError
    when the fault cannot be put into a running service.
    """
    if not fault.live:
        raise InputError(f"fault {fault.name!r}: nothing that `lepton serve` runs can have it; `lepton drill` may")
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
