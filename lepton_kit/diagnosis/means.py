"""What of a plan a service can do, by the actions that it declares, and whether it could be taken back.

Light to import: the policy of `lepton watch` asks it before any plan is made.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lepton_kit.telemetry.declaration import ActionName

Way = ActionName | Literal["fix_inputs"]
"""What changes a service: an action that it declares, or `fix_inputs`, which the kit's own server does to each row."""

UNDONE_BY: Mapping[Way, tuple[Way, ...]] = {
    "fix_inputs": ("fix_inputs",),
    "roll_back": ("deploy",),
    "deploy": ("deploy", "roll_back"),
    "scale": ("scale",),
    "stop_feed": ("restart_feed",),
}
"""What takes each change back; a restart changes nothing that could be."""

WAYS: Mapping[str, tuple[tuple[Way, ...], ...]] = {
    "data": (("fix_inputs", "restart_feed", "stop_feed"),),
    "model": (("roll_back", "deploy"), ("restart",)),
    "compute": (("scale",), ("restart",)),
}
"""By cause: the changes that its repair may ask for, each with the ways to make it, the first one preferred."""


@dataclass(frozen=True)
class Step:
    """One change that a plan makes, by the first of `ways` that a service can go; `what` a person does elsewhere."""

    ways: tuple[Way, ...]
    what: str


@dataclass(frozen=True)
class Means:
    """The steps of a plan, and which way a service can go for each; None where it can go none.

    Examples
    --------
    >>> steps = Step(("roll_back", "deploy"), "roll back to v1"), Step(("restart",), "restart it")
    >>> means = means_of(steps, ["deploy"])
    >>> means.ways, means.lasting
    (('deploy',), ())
    >>> means.by_hand
    ('no action restart is declared; by hand: restart it',)
    >>> means_of(steps, ["roll_back"]).lasting
    ('roll_back',)
    """

    chosen: tuple[tuple[Step, Way | None], ...]
    lasting: tuple[Way, ...]
    """The ways that cannot be undone."""

    @property
    def ways(self) -> tuple[Way, ...]:
        """The ways that are gone, in order, each once."""
        return tuple(dict.fromkeys(way for _, way in self.chosen if way))

    @property
    def by_hand(self) -> tuple[str, ...]:
        """What a person has to do, a sentence each."""
        return tuple(
            f"no action {' or '.join(w for w in step.ways if w != 'fix_inputs')} is declared; by hand: {step.what}"
            for step, way in self.chosen
            if way is None
        )


def means_of(steps: Sequence[Step], ways: Collection[Way]) -> Means:
    """Return by which of its ways a service makes the steps of a plan."""
    chosen = tuple((step, next((way for way in step.ways if way in ways), None)) for step in steps)
    gone = dict.fromkeys(way for _, way in chosen if way)
    return Means(chosen, tuple(way for way in gone if _lasts(way, ways)))


def why_to_ask(cause: str, ways: Collection[Way]) -> str:
    """Say why the repair of a cause cannot be left to itself, by a service's actions; empty where it can.

    >>> why_to_ask("model", ["roll_back"])
    'roll_back cannot be undone: no action deploy is declared'
    >>> why_to_ask("model", ["roll_back", "deploy"]), why_to_ask("compute", ["scale"])
    ('', '')
    >>> why_to_ask("data", [])
    'no action restart_feed or stop_feed is declared'
    """
    gone = [next((way for way in some if way in ways), None) for some in WAYS[cause]]
    for way in gone:
        if way is not None and _lasts(way, ways):
            return f"{way} cannot be undone: no action {' or '.join(UNDONE_BY[way])} is declared"
    if any(gone):
        return ""
    return f"no action {' or '.join(way for some in WAYS[cause] for way in some if way != 'fix_inputs')} is declared"


def _lasts(way: Way, ways: Collection[Way]) -> bool:
    return way in UNDONE_BY and not set(UNDONE_BY[way]) & set(ways)
