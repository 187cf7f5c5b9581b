"""How services have been: the SLIs of their published health runs, drawn and listed, as HTML.

Everything is read from the runs' cards, so that a thousand of them cost no more than their listing. The drawing is a
small SVG whose colours are those of the page, light or dark.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from lepton_kit.reports.cards import Card
from lepton_kit.reports.markup import as_text, table

GROUP = "service-health"
LAST, OPEN = 50, 10
"""Runs of a service that are looked at, and those of them that are listed without being asked for."""

WIDTH, HEIGHT, MARGIN = 240, 40, 6

MARKS = {"worse": "M -4 -3 L 4 -3 L 0 4 Z", "better": "M -4 3 L 4 3 L 0 -4 Z"}
"""What stands for a verdict in a drawing: a triangle down or up, clear without its colour."""


def history_html(cards: Sequence[Card]) -> str:
    """Return the history of each service, by name, from the cards of published pages (the newest first)."""
    by_service: dict[tuple[str, str], list[Card]] = {}
    for card in cards:
        if card.kind == "runs" and card.group == GROUP and card.measured:
            by_service.setdefault((card.facts.get("service", ""), card.facts.get("input", "")), []).append(card)
    if not by_service:
        return "<p>No published run of service-health has measured a service yet.</p>"
    return "".join(_service_html(*subject, by_service[subject][:LAST]) for subject in sorted(by_service))


def _service_html(service: str, looked_at: str, newest_first: Sequence[Card]) -> str:
    runs = newest_first[::-1]
    first, last = (card.date[:16] for card in (runs[0], runs[-1]))
    if len(runs) == 1:
        said = f"One run, {last} UTC."
    else:
        said = f"The last {len(runs)} runs, from {first} to {last} UTC, a point for each, the oldest on the left."
    names = list(dict.fromkeys(str(row["sli"]) for card in reversed(runs) for row in card.measured))
    drawn = [row for name in names if (row := _course_row(name, runs))]
    return (
        f"<h3>{as_text(service or 'service not recorded')}</h3><p>{said} A triangle marks a run that found the "
        'SLI <span class="worse">▼ worse</span> or <span class="better">▲ better</span> than in the period '
        "before the one that it measured, whose value stands beside it: not than in the run before.</p>"
        + (f'<p class="quiet">Looked at: {as_text(looked_at)}</p>' if looked_at else "")
        + table(drawn, ["SLI", "Newest", "Against before", "Lowest", "Highest", "Course"], "files history")
        + _runs_html(names, newest_first)
    )


def _course_row(name: str, runs: Sequence[Card]) -> list[str]:
    """Return a line of the drawn table: an SLI over the runs; nothing where it was never measured."""
    found = [_measure(card, name) for card in runs]
    values = [_number(one) for one in found]
    known = [value for value in values if value is not None]
    if not known:
        return []
    unit = next(str(one["unit"]) for one in found if one)
    verdicts = [str(one["verdict"]) if one else "" for one in found]
    against = _verdict_html(found[-1]) if found[-1] else ""
    lowest, highest = (shown(value, unit) for value in (min(known), max(known)))
    newest = shown(values[-1], unit)
    label = f"{name} over {len(runs)} runs: from {lowest} to {highest}, {newest} in the newest"
    picture = sparkline(values, verdicts, label)
    return [as_text(name), newest, against, lowest, highest, picture]


def _runs_html(names: Sequence[str], runs: Sequence[Card]) -> str:
    head = ["Run", *map(as_text, names)]
    rows = [
        [f'<a href="{card.address}">{card.date[:16]}</a>', *(_cell(_measure(card, name)) for name in names)]
        for card in runs
    ]
    made = table(rows[:OPEN], head, "files history")
    if len(rows) > OPEN:
        more = table(rows[OPEN:], head, "files history")
        made += f"<details><summary>{len(rows) - OPEN} earlier runs</summary>{more}</details>"
    return made


def sparkline(values: Sequence[float | None], verdicts: Sequence[str], label: str) -> str:
    """Return a line over equal steps as SVG, from the lowest value to the highest; a missing value interrupts it.

    Parameters
    ----------
    values
        What is drawn, the oldest first.
    verdicts
        Of each value; those of `MARKS` are marked.
    label
        What it shows, in words.

    Examples
    --------
    >>> drawn = sparkline([1.0, None, 3.0, 2.0], ["alike", "", "worse", "alike"], "three values")
    >>> drawn.count("<polyline"), drawn.count('class="worse"'), 'aria-label="three values"' in drawn
    (2, 1, True)
    """
    known = [value for value in values if value is not None]
    low, reach = min(known), (max(known) - min(known)) or 1.0
    step = (WIDTH - 2 * MARGIN) / max(1, len(values) - 1)
    points = [
        None
        if value is None
        else (MARGIN + place * step, HEIGHT - MARGIN - (value - low) / reach * (HEIGHT - 2 * MARGIN))
        for place, value in enumerate(values)
    ]
    lines = "".join(_line(part) for part in _unbroken(points))
    marks = "".join(
        f'<path class="{verdict}" d="{MARKS[verdict]}" transform="translate({point[0]:.1f} {point[1]:.1f})"/>'
        for point, verdict in zip(points, verdicts, strict=True)
        if point is not None and verdict in MARKS
    )
    return (
        f'<svg class="spark" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'aria-label="{as_text(label)}">{lines}{marks}</svg>'
    )


def _unbroken(points: Sequence[tuple[float, float] | None]) -> list[list[tuple[float, float]]]:
    parts: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if point is None:
            parts.append([])
        else:
            parts[-1].append(point)
    return [part for part in parts if part]


def _line(points: Sequence[tuple[float, float]]) -> str:
    """Return a line through points with a dot at its end, which shows a single one too."""
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    x, y = points[-1]
    return f'<polyline points="{places}"/><circle cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>'


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
    return f"{value:.3g}" + (f" {as_text(unit)}" if unit == "ms" else "")


def _measure(card: Card, name: str) -> Mapping[str, Any] | None:
    return next((row for row in card.measured if row["sli"] == name), None)


def _number(row: Mapping[str, Any] | None, period: str = "now") -> float | None:
    value = row.get(period) if row else None
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    return float(value) if is_number else None  # type: ignore[arg-type]  # it is a number


def _cell(row: Mapping[str, Any] | None) -> str:
    value = _number(row)
    if row is None or value is None:
        return "–"
    return f"{shown(value, str(row['unit']))}<br>{_verdict_html(row)}"


def _verdict_html(row: Mapping[str, Any]) -> str:
    """Return a verdict with the value that it is against: that of the period before, in the same run."""
    verdict, before = str(row["verdict"]), _number(row, "before")
    mark = {"worse": "▼ ", "better": "▲ "}.get(verdict, "")
    if not mark:
        return f'<span class="quiet">{as_text(verdict)}</span>'
    against = f" than {shown(before, str(row['unit']))}" if before is not None else ""
    return f'<span class="{verdict}">{mark}{verdict}{against}</span>'
