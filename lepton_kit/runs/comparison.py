"""Compares recorded results, number by number, with the tolerances that were declared when they were recorded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Difference:
    """One value that is not what it was: `result` names it, with the place inside a table, list or dict."""

    result: str
    old: Any
    new: Any
    allowed: str

    def __str__(self) -> str:
        return f"{self.result}: was {self.old!r}, now {self.new!r} (allowed: {self.allowed})"


def compare_results(old: dict[str, dict[str, Any]], new: dict[str, dict[str, Any]]) -> list[Difference]:
    """Compare results by name; each is the payload that `lepton_kit.notebook.record` leaves.

    Examples
    --------
    >>> was = {"mae": {"value": 1.0, "unit": "USD", "rtol": 0.1, "atol": 0.0, "compare": True}}
    >>> compare_results(was, {"mae": {**was["mae"], "value": 1.05}})
    []
    >>> print(compare_results(was, {"mae": {**was["mae"], "value": 2.0}})[0])
    mae: was 1.0, now 2.0 (allowed: ± 0.1)
    """
    found: list[Difference] = []
    for name in dict.fromkeys([*old, *new]):
        if name not in new:
            found.append(Difference(name, old[name]["value"], "nothing recorded", "the same results"))
        elif name not in old:
            found.append(Difference(name, "nothing recorded", new[name]["value"], "the same results"))
        elif old[name]["unit"] != new[name]["unit"]:
            found.append(Difference(f"{name} (unit)", old[name]["unit"], new[name]["unit"], "the same unit"))
        elif old[name]["compare"]:
            found += _compare(name, old[name]["value"], new[name]["value"], old[name]["rtol"], old[name]["atol"])
    return found


def _compare(place: str, old: Any, new: Any, rtol: float, atol: float) -> Iterator[Difference]:
    if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        for key in old:
            yield from _compare(f"{place}.{key}", old[key], new[key], rtol, atol)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _compare(f"{place}[{index}]", one, other, rtol, atol)
    elif _is_number(old) and _is_number(new):
        margin = atol + rtol * abs(old)
        if abs(new - old) > margin:
            yield Difference(place, old, new, f"± {margin:.4g}")
    elif old != new or type(old) is not type(new):
        yield Difference(place, old, new, "the same value")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
