"""Faults that can be put into a service's feed on purpose, to see its alerts, diagnoses and remedies work.

A fault is a small class: its name, the cause that a diagnosis should find, what it is, and what it does. One that
changes the requests overrides `apply`; one that harms the service itself overrides `begin` and `end`. `FAULTS` lists
them all; a new one is a class here and one line there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from lepton_kit.errors import InputError
from lepton_kit.serving.replay import Change, Item

Row = Mapping[str, float | None]


class Fault:
    """The base of all faults: one that does nothing.

    Parameters
    ----------
    seed
        Of whatever in the fault is left to chance.
    """

    name: ClassVar[str]
    cause: ClassVar[Literal["data", "model", "compute"]]
    description: ClassVar[str]

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)

    def begin(self, service: Path) -> None:
        """Harm the service whose state is in this folder; faults of the feed do nothing here."""

    def apply(self, item: Item, state: dict[str, Any]) -> Item:
        """Return what is sent in place of an item; `state` is the fault's own, kept from one item to the next."""
        return item

    def end(self, service: Path) -> None:
        """Undo what `begin` did."""


class StaleFeed(Fault):
    """The feed stops.

    >>> fault, state = StaleFeed(), {}
    >>> _ = fault.apply(Item({"return_0": 0.01}, 100.0, 0.0), state)
    >>> fault.apply(Item({"return_0": 0.02}, 200.0, 0.5), state)
    Item(row={'return_0': 0.01}, as_of=100.0, actual=0.5)
    """

    name = "stale-feed"
    cause = "data"
    description = "the feed stops: rows, and the time of their newest data, stay as they were"

    def apply(self, item: Item, state: dict[str, Any]) -> Item:
        """Send the first row again and again."""
        held = state.setdefault("held", item)
        return replace(item, row=held.row, as_of=held.as_of)


class Units(Fault):
    """The feed counts in percent.

    >>> Units().apply(Item({"return_0": 0.01, "volume_0": 0.5}, 0.0, 0.0), {}).row
    {'return_0': 1.0, 'volume_0': 0.5}
    """

    name = "units"
    cause = "data"
    description = "the feed counts in percent: returns, ranges and volatilities are 100 times too large"

    def apply(self, item: Item, state: dict[str, Any]) -> Item:
        """Multiply whatever is a share by 100; volumes are relative to their own average and stay."""
        changed = {n: v * 100 if v is not None and not n.startswith("volume") else v for n, v in item.row.items()}
        return replace(item, row=changed)


class SwappedColumns(Fault):
    """The feed puts values into the wrong columns.

    >>> SwappedColumns().apply(Item({"return_0": 0.01, "return_1": 0.02, "range_0": 0.03}, 0.0, 0.0), {}).row
    {'return_0': 0.03, 'return_1': 0.02, 'range_0': 0.01}
    """

    name = "swapped-columns"
    cause = "data"
    description = "the feed swaps each day's return with its range; the order of the days where there are no ranges"

    def apply(self, item: Item, state: dict[str, Any]) -> Item:
        """Swap the values of the columns."""
        returns = [name for name in item.row if name.startswith("return_")]
        twins = {name: name.replace("return_", "range_") for name in returns}
        pairs = {name: twin for name, twin in twins.items() if twin in item.row}
        other_days = dict(zip(returns, reversed(returns), strict=True))
        swapped = pairs | {twin: name for name, twin in pairs.items()} or other_days
        return replace(item, row={name: item.row[swapped.get(name, name)] for name in item.row})


class Nulls(Fault):
    """The feed leaves values out.

    >>> item, fault = Item({"return_0": 0.01}, 0.0, 0.0), Nulls()
    >>> 20 < sum(fault.apply(item, {}).row["return_0"] is None for _ in range(100)) < 40
    True
    """

    name = "nulls"
    cause = "data"
    description = "the feed leaves out one value in 3 of 10 rows"

    def apply(self, item: Item, state: dict[str, Any]) -> Item:
        """Leave out a value, sometimes."""
        if self.rng.random() >= 0.3:
            return item
        lost = list(item.row)[self.rng.integers(len(item.row))]
        return replace(item, row={**item.row, lost: None})


FAULTS: dict[str, type[Fault]] = {fault.name: fault for fault in (StaleFeed, Units, SwappedColumns, Nulls)}


def find_fault(name: str, seed: int = 0) -> Fault:
    """Return a fault by its name.

    Raises
    ------
    InputError
        When there is none of that name.
    """
    if name not in FAULTS:
        raise InputError(f"fault {name!r}: there is no such fault; there are {', '.join(FAULTS)}")
    return FAULTS[name](seed)


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
    """
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
