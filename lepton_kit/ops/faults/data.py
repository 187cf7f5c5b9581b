"""Faults of the feed: what is sent to a service is not what it should be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lepton_kit.errors import InputError
from lepton_kit.ops.faults.base import Fault, Plant, fault
from lepton_kit.serving.replay import Item


@fault
class StaleFeed(Fault):
    """The feed stops. Severity: the share of the requests that it answers with what it last had.

    >>> fault, state = StaleFeed(), {}
    >>> _ = fault.apply(Item({"return_0": 0.01}, 100.0, 0.0), state)
    >>> fault.apply(Item({"return_0": 0.02}, 200.0, 0.5), state)
    Item(row={'return_0': 0.01}, as_of=100.0, actual=0.5, copies=0)
    """

    name = "stale-feed"
    cause = "data"
    description = "the feed stops: rows, and the time of their newest data, stay as they were"
    severities = (0.3, 1.0)
    proxied = True
    is_restartable = True

    def apply(self, item: Item, state: dict[str, Any]) -> Item:
        held = state.setdefault("held", item)
        return replace(item, row=held.row, as_of=held.as_of) if self.hits() else item


@fault
class Units(Fault):
    """The feed counts in percent. Severity: the share of the requests that come in percent.

    >>> Units().apply(Item({"return_0": 0.01, "volume_0": 0.5, "size": "small"}, 0.0, 0.0), {}).row
    {'return_0': 1.0, 'volume_0': 0.5, 'size': 'small'}
    """

    name = "units"
    cause = "data"
    description = "the feed counts in percent: returns, ranges and volatilities are 100 times too large"
    severities = (0.5, 1.0)

    def apply(self, item: Item, state: dict[str, Any]) -> Item:
        if not self.hits():
            return item
        counted = {n: v for n, v in item.row.items() if isinstance(v, int | float) and not n.startswith("volume")}
        return replace(item, row={**item.row, **{name: value * 100 for name, value in counted.items()}})


@fault
class SwappedColumns(Fault):
    """The feed puts values into the wrong columns. Severity: the share of the requests with swapped columns.

    >>> SwappedColumns().apply(Item({"return_0": 0.01, "return_1": 0.02, "range_0": 0.03}, 0.0, 0.0), {}).row
    {'return_0': 0.03, 'return_1': 0.02, 'range_0': 0.01}
    """

    name = "swapped-columns"
    cause = "data"
    description = "the feed swaps each day's return with its range; the order of the days where there are no ranges"
    severities = (0.5, 1.0)

    def apply(self, item: Item, state: dict[str, Any]) -> Item:
        if not self.hits():
            return item
        returns = [name for name in item.row if name.startswith("return_")]
        twins = {name: name.replace("return_", "range_") for name in returns}
        pairs = {name: twin for name, twin in twins.items() if twin in item.row}
        other_days = dict(zip(returns, reversed(returns), strict=True))
        swapped = pairs | {twin: name for name, twin in pairs.items()} or other_days
        return replace(item, row={name: item.row[swapped.get(name, name)] for name in item.row})


@fault
class Nulls(Fault):
    """The feed leaves values out. Severity: the share of the rows that lack one.

    >>> item, fault = Item({"return_0": 0.01}, 0.0, 0.0), Nulls()
    >>> 20 < sum(fault.apply(item, {}).row["return_0"] is None for _ in range(100)) < 40
    True
    """

    name = "nulls"
    cause = "data"
    description = "the feed leaves out one value in 3 of 10 rows"
    severities = (0.06, 0.8)
    usual = 0.3

    def apply(self, item: Item, state: dict[str, Any]) -> Item:
        if not self.hits():
            return item
        lost = list(item.row)[self.rng.integers(len(item.row))]
        return replace(item, row={**item.row, lost: None})


@fault
class Duplicates(Fault):
    """The feed delivers twice. Severity: the share of the requests that are sent again under the same id.

    >>> Duplicates().apply(Item({"return_0": 0.01}, 0.0, 0.0), {}).copies
    1
    """

    name = "duplicates"
    cause = "data"
    description = "the feed delivers twice: requests are sent again, with the same id and the same row"
    severities = (0.1, 1.0)
    proxied = True
    is_restartable = True

    def apply(self, item: Item, state: dict[str, Any]) -> Item:
        return replace(item, copies=1) if self.hits() else item


@fault
class LabelShift(Fault):
    """Wrong actuals are reported. Severity: 1 multiplies the actuals by 4, and less by less.

    >>> LabelShift().apply(Item({}, 0.0, 0.01), {}).actual
    0.04
    """

    name = "label-shift"
    cause = "data"
    description = "the actuals are of another thing than the rows: up to 4 times as large as they are"
    severities = (0.4, 1.0)
    is_restartable = True

    def apply(self, item: Item, state: dict[str, Any]) -> Item:
        if isinstance(item.actual, str):
            raise InputError(f"fault label-shift: actual = {item.actual!r}: must be a number, a class has no size")
        return replace(item, actual=item.actual * (1 + 3 * self.severity))


@fault
class Scaled(Fault):
    """One number comes in another unit. Severity: the share of the requests in which it does.

    >>> Scaled(seed=1).apply(Item({"radius": 2.0, "size": "small"}, 0.0, 0.0), {}).row
    {'radius': 20.0, 'size': 'small'}
    """

    name = "scaled-column"
    cause = "data"
    description = "one column is ten times too large"
    severities = (0.5, 1.0)
    live, proxied = False, True
    is_restartable = True

    def apply(self, item: Item, state: dict[str, Any]) -> Item:
        numbers = sorted(name for name, value in item.row.items() if isinstance(value, int | float))
        if not numbers or not self.hits():
            return item
        name = state.setdefault("column", numbers[self.seed % len(numbers)])
        value = item.row.get(name)
        return replace(item, row={**item.row, name: value * 10}) if value is not None else item


@fault
class OneSource(Fault):
    """Sources fall silent, and rows of another take their place. Severity: the share of their rows that are lost.

    Live, the rows are what is given to `lepton replay`; this fault cannot change them.
    """

    name = "one-source"
    cause = "data"
    description = "the feed loses sources, and fills up with rows of the one that is left"
    severities = (0.7, 1.0)
    live = False
    is_restartable = True

    def inject(self, plant: Plant) -> None:
        plant.crowd(self.severity)


@fault
class RenamedCategory(Fault):
    """A category is spelt another way. Severity: the share of the requests in which it is.

    >>> RenamedCategory().apply(Item({"radius": 2.0, "size": "small"}, 0.0, 0.0), {}).row
    {'radius': 2.0, 'size': 'SMALL'}
    """

    name = "renamed-category"
    cause = "data"
    description = "the values of the columns that hold categories are spelt in capitals"
    severities = (0.5, 1.0)
    live, proxied = False, True
    is_restartable = True

    def apply(self, item: Item, state: dict[str, Any]) -> Item:
        row = {name: value.upper() if isinstance(value, str) else value for name, value in item.row.items()}
        return replace(item, row=row) if self.hits() else item
