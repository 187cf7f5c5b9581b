"""How services have been: the SLIs of their published health runs, drawn and listed, as HTML.

Everything is read from the runs' cards, so that a thousand of them cost no more than their listing. The drawing is a
small SVG whose colours are those of the page, light or dark.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from lepton_kit.reports.cards import Card
from lepton_kit.reports.markup import render

GROUP = "service-health"
LAST, OPEN = 50, 10
"""Runs of a service that are looked at, and those of them that are listed without being asked for."""
COLUMNS = ("SLI", "Newest", "Against before", "Lowest", "Highest", "Course")
WIDTH, HEIGHT, MARGIN = 240, 40, 6
MARKS = {"worse": "M -4 -3 L 4 -3 L 0 4 Z", "better": "M -4 3 L 4 3 L 0 -4 Z"}
"""What stands for a verdict in a drawing: a triangle down or up, clear without its colour."""


def history_html(cards: Sequence[Card]) -> str:
    """Return the history of each service, by name, from the cards of published pages (the newest first)."""
    by_service: dict[tuple[str, str], list[Card]] = {}
    for card in cards:
        if card.kind == "runs" and card.group == GROUP and card.measured:
            by_service.setdefault((card.facts.get("service", ""), card.facts.get("input", "")), []).append(card)
    return render(
        "history.html.j2",
        services=[_history(*subject, runs[:LAST]) for subject, runs in sorted(by_service.items())],
        COLUMNS=COLUMNS, marks=MARKS, width=WIDTH, height=HEIGHT, open=OPEN,
        measure=_measure, number=_number, shown=shown,
    )  # fmt: skip


def _history(service: str, looked_at: str, newest_first: Sequence[Card]) -> dict[str, Any]:
    runs = newest_first[::-1]
    names = list(dict.fromkeys(str(row["sli"]) for card in newest_first for row in card.measured))
    return {
        "name": service, "input": looked_at, "runs": newest_first, "names": names,
        "first": runs[0].date[:16], "last": runs[-1].date[:16],
        "courses": [course for name in names if (course := _course(name, runs))],
    }  # fmt: skip


def _course(name: str, runs: Sequence[Card]) -> dict[str, Any]:
    """Return an SLI over the runs; nothing where it was never measured."""
    found = [_measure(card, name) for card in runs]
    values = [_number(row) for row in found]
    if not (known := [value for value in values if value is not None]):
        return {}
    unit = next(str(row["unit"]) for row in found if row)
    lowest, highest, newest = (shown(value, unit) for value in (min(known), max(known), values[-1]))
    points = _points(values)
    placed = [(str(row["verdict"]), *point) for row, point in zip(found, points, strict=True) if row and point]
    lines = [[*line] for is_there, line in groupby(points, key=bool) if is_there]  # a missing value interrupts it
    return {
        "name": name, "row": found[-1], "newest": newest, "lowest": lowest, "highest": highest, "lines": lines,
        "marks": [mark for mark in placed if mark[0] in MARKS],
    }  # fmt: skip


def _points(values: Sequence[float | None]) -> list[tuple[float, float] | None]:
    """Return where values are drawn, over equal steps, from the lowest to the highest."""
    known = [value for value in values if value is not None]
    low, reach = min(known), (max(known) - min(known)) or 1.0
    step, rise = (WIDTH - 2 * MARGIN) / max(1, len(values) - 1), (HEIGHT - 2 * MARGIN) / reach
    return [
        None if value is None else (MARGIN + place * step, HEIGHT - MARGIN - (value - low) * rise)
        for place, value in enumerate(values)
    ]


def shown(value: float | None, unit: str) -> str:
    """Return the value of an SLI as people write it.

    Examples
    --------
    >>> shown(0.98765, "share"), shown(1.0, "share"), shown(12.345, "ms"), shown(None, "share")
    ('98.77 %', '100 %', '12.3 ms', '–')
    """
    if value is None:
        return "–"
    if unit == "share":
        return f"{100 * value:.2f}".rstrip("0").rstrip(".") + " %"
    return f"{value:.3g}" + (f" {unit}" if unit == "ms" else "")


def _measure(card: Card, name: str) -> Mapping[str, Any] | None:
    return next((row for row in card.measured if row["sli"] == name), None)


def _number(row: Mapping[str, Any] | None, period: str = "now") -> float | None:
    value = row.get(period) if row else None
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    return float(value) if is_number else None  # type: ignore[arg-type]  # it is a number
