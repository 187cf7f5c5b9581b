"""Faults of a service that the kit did not make: what a proxy before it does to its requests, and a bad version.

`apply` changes a request's row and how often it is sent; `delay` and `dropped` say what becomes of its connection.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from lepton_kit.ops.faults.base import Fault
from lepton_kit.ops.faults.data import Duplicates, Nulls, StaleFeed
from lepton_kit.serving.replay import Item


class EdgeFault(Fault):
    """A fault that a proxy injects.

    Notes
    -----
    `delay` is how many seconds the body of a request stays away after its head; `dropped` the share of requests whose
    connection ends between both. `deploys` says that the fault is a version, which the declared action deploys.
    """

    delay: ClassVar[float] = 0.0
    dropped: ClassVar[float] = 0.0
    deploys: ClassVar[bool] = False


class Scaled(EdgeFault):
    """One number comes in another unit. Severity: the share of the requests in which it does.

    >>> Scaled(seed=1).apply(Item({"radius": 2.0, "size": "small"}, 0.0, 0.0), {}).row
    {'radius': 20.0, 'size': 'small'}
    """

    name = "scaled-column"
    cause = "data"
    description = "one column is ten times too large"
    severities = (0.5, 1.0)
    is_restartable = True

    def apply(self, item: Item, state: dict[str, Any]) -> Item:
        """Multiply one number, the same in all requests."""
        numbers = sorted(name for name, value in item.row.items() if isinstance(value, int | float))
        if not numbers or not self.hits():
            return item
        name = state.setdefault("column", numbers[self.seed % len(numbers)])
        value = item.row.get(name)
        return replace(item, row={**item.row, name: value * 10}) if value is not None else item


class RenamedCategory(EdgeFault):
    """A category is spelt another way. Severity: the share of the requests in which it is.

    >>> RenamedCategory().apply(Item({"radius": 2.0, "size": "small"}, 0.0, 0.0), {}).row
    {'radius': 2.0, 'size': 'SMALL'}
    """

    name = "renamed-category"
    cause = "data"
    description = "the values of the columns that hold categories are spelt in capitals"
    severities = (0.5, 1.0)
    is_restartable = True

    def apply(self, item: Item, state: dict[str, Any]) -> Item:
        """Spell texts in capitals."""
        row = {name: value.upper() if isinstance(value, str) else value for name, value in item.row.items()}
        return replace(item, row=row) if self.hits() else item


class Crowd(EdgeFault):
    """More requests than the service can answer. Severity: 1 sends ten in the place of each, and less fewer.

    >>> Crowd(severity=0.5).apply(Item({}, 0.0, 0.0), {}).copies
    4
    """

    name = "crowd"
    cause = "compute"
    description = "many more requests come than the service can answer in time"
    severities = (0.5, 1.0)
    usual = 0.6

    def apply(self, item: Item, state: dict[str, Any]) -> Item:
        """Send copies beside the request."""
        return replace(item, copies=round(9 * self.severity))


class SlowBodies(EdgeFault):
    """The network before the service is slow: each request's body comes half a second after its head."""

    name = "slow-network"
    cause = "compute"
    description = "the body of each request comes half a second after its head"
    delay = 0.5


class Dropped(EdgeFault):
    """Connections end between the head of a request and its body."""

    name = "dropped-connections"
    cause = "compute"
    description = "the connections of a third of the requests end before their bodies came"
    dropped = 1 / 3


class BadVersion(EdgeFault):
    """The declared action `deploy` puts a bad version into service."""

    name = "bad-version"
    cause = "model"
    description = "a version that answers wrongly is deployed"
    deploys = True


EDGE: dict[str, type[Fault]] = {
    fault.name: fault
    for fault in (Scaled, RenamedCategory, StaleFeed, Nulls, Duplicates, Crowd, SlowBodies, Dropped, BadVersion)
}
"""Those that a service which the kit did not make can have."""
