"""A chart to look closer at: what a figure shows, for pages and JupyterLab to draw with hover and zoom.

It is read from the matplotlib figure, so that a notebook draws once. The picture stays what paper, PDF and GitHub show.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:  # matplotlib: pages are made without it
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_MARKS = 4000
FEWEST_POINTS = 5  # of a line; fewer are read off the picture
LONGEST = 200  # characters of a name


class Mark(BaseModel):
    """A point, one of a line, a step of a band, a bar, an event (a time with a name) or a level (a value with a name).

    `x` and `x2` are milliseconds since 1970, or numbers. `x2` is the end of a bar, `y2` the upper edge of a band.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["point", "line", "band", "bar", "event", "level"]
    name: str = Field(max_length=LONGEST)
    colour: str = Field(pattern="^#[0-9a-f]{6}$")
    x: float | None = None
    y: float | None = None
    x2: float | None = None
    y2: float | None = None


class Chart(BaseModel):
    """What a figure shows: the titles of its axes, what these are, and its marks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    x: str = Field(max_length=LONGEST)
    y: str = Field(max_length=LONGEST)
    is_time: bool
    is_log: bool = False
    marks: tuple[Mark, ...] = Field(max_length=MOST_MARKS, min_length=1)

    @classmethod
    def of_vega_lite(cls, held: Any) -> Self | None:
        """Return the chart that a specification by `vega_lite` shows; None for one that somebody else made."""
        try:
            return cls.model_validate({**held["usermeta"]["lepton"], "marks": held["datasets"]["marks"]})
        except (ValueError, TypeError, LookupError):
            return None

    def vega_lite(self, width: int | Literal["container"] = 560) -> dict[str, Any]:
        """Return a Vega-Lite 5 specification, `width` pixels wide: a point tells its values, a wheel zooms."""
        x_scale: dict[str, Any] = {"type": "utc" if self.is_time else "linear", "zero": False, "padding": 8}
        x = {"field": "x", "type": "temporal" if self.is_time else "quantitative", "title": self.x, "scale": x_scale}
        is_counted = any(one.kind == "bar" for one in self.marks)
        y_scale = {"type": "log" if self.is_log else "linear", "zero": is_counted, "padding": 0 if is_counted else 8}
        y = {"field": "y", "type": "quantitative", "title": self.y, "scale": y_scale}
        colours = {one.name: one.colour for one in self.marks if one.kind != "event"}
        domain = {"domain": list(colours), "range": list(colours.values())}
        named = {
            "field": "name",
            "type": "nominal",
            "scale": domain,
            "title": None,
            "legend": {"orient": "top", "symbolOpacity": 1},
        }
        exact = {"format": "%Y-%m-%d %H:%M:%S UTC", "timeUnit": "utcyearmonthdatehoursminutesseconds"}
        told = [{"field": "name", "title": "what"}, {**x, **(exact if self.is_time else {})}, y]
        layers: dict[str, dict[str, Any]] = {
            "band": {"mark": {"type": "area", "opacity": 0.3}, "encoding": {"x": x, "y": y, "y2": {"field": "y2"}}},
            "bar": {
                "mark": {"type": "bar", "opacity": 0.5},
                "encoding": {"x": x, "x2": {"field": "x2"}, "y": y, "y2": {"datum": 0}},
            },
            "level": {"mark": {"type": "rule", "strokeDash": [4, 3]}, "encoding": {"y": y}},
            "point": {"mark": {"type": "circle", "size": 40, "opacity": 1}, "encoding": {"x": x, "y": y}},
            "line": {"mark": {"type": "line", "point": {"size": 40}}, "encoding": {"x": x, "y": y}},
            "event": {
                "encoding": {"x": x},
                "layer": [
                    {"mark": {"type": "rule", "strokeWidth": 2}},
                    {
                        "mark": {"type": "text", "angle": 270, "align": "right", "dy": -5},
                        "encoding": {"text": {"field": "name"}, "y": {"value": 4}},
                    },
                ],
            },
        }
        event_colour = {"field": "colour", "type": "nominal", "scale": None}
        kinds = [kind for kind in layers if any(one.kind == kind for one in self.marks)]
        for kind in kinds:
            layers[kind]["transform"] = [{"filter": f"datum.kind == '{kind}'"}]
            is_event = kind == "event"
            layers[kind]["encoding"] |= {
                "color": event_colour if is_event else named, "tooltip": told[:2] if is_event else told,
            }  # fmt: skip
        layers[kinds[0]]["params"] = [{"name": "zoom", "select": "interval", "bind": "scales"}]
        return {
            "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
            "usermeta": {"lepton": self.model_dump(exclude={"marks"})},
            "width": width, "height": 280, "autosize": {"type": "fit", "contains": "padding"},
            "datasets": {"marks": [one.model_dump(exclude_none=True) for one in self.marks]},
            "data": {"name": "marks"},
            "layer": [layers[kind] for kind in kinds],
        }  # fmt: skip


def chart_of(figure: Figure) -> Chart | None:
    """Return a figure of one Axes as a chart; None where there is nothing in it to look closer at, or too much.

    That is a line of at least five points over time, or a histogram (`Axes.stairs`). A chart that would leave out
    something of the picture is not made.
    """
    from matplotlib.collections import PolyCollection
    from matplotlib.dates import AutoDateFormatter, ConciseDateFormatter, DateFormatter
    from matplotlib.patches import StepPatch
    from matplotlib.ticker import FixedLocator

    if len(figure.axes) != 1 or isinstance(figure.axes[0].yaxis.get_major_locator(), FixedLocator):  # rows of names
        return None
    axes = figure.axes[0]
    shown = [isinstance(one, PolyCollection) for one in axes.collections]
    shown += [isinstance(one, StepPatch) or _is_span(one, axes) for one in axes.patches]
    if axes.images or not all(shown):
        return None
    dates = (AutoDateFormatter, ConciseDateFormatter, DateFormatter)
    is_time = isinstance(axes.xaxis.get_major_formatter(), dates)
    marks = [*_bands(axes), *_bars(axes), *_spans(axes), *_lines(axes), *_events(axes)]
    points = sum(one.kind in ("line", "point") for one in marks)
    is_closer = any(one.kind == "bar" for one in marks) or (is_time and points >= FEWEST_POINTS)
    if not is_closer or len(marks) > MOST_MARKS:
        return None
    if is_time:
        marks = [one.model_copy(update={end: _moment(getattr(one, end)) for end in ("x", "x2")}) for one in marks]
    x, y = (" ".join(label.split())[:LONGEST] for label in (axes.get_xlabel(), axes.get_ylabel()))
    return Chart(x=x, y=y, is_time=is_time, is_log=axes.get_yscale() == "log", marks=tuple(marks))


def _lines(axes: Axes) -> Iterator[Mark]:
    """Yield the points of lines, and what spans the axes: a level from left to right; events are by their names."""
    for line in axes.lines:
        is_of_x, is_of_y = line.get_transform().contains_branch_separately(axes.transData)
        named: dict[str, Any] = {"name": _name(line.get_label(), axes), "colour": _hex(line.get_color())}
        kind: Literal["point", "line"] = "point" if line.get_linestyle() == "None" else "line"
        xs, ys = (np.asarray(values, dtype=float) for values in line.get_data(orig=False))
        if is_of_x and is_of_y:
            for x, y in zip(xs, ys, strict=True):
                if np.isfinite(x):
                    yield Mark(kind=kind, x=float(x), y=float(y) if np.isfinite(y) else None, **named)
        elif is_of_y and len(ys):
            yield Mark(kind="level", y=float(ys[0]), **named)


def _events(axes: Axes) -> Iterator[Mark]:
    from matplotlib.text import Annotation

    for text in axes.texts:
        if isinstance(text, Annotation) and text.xycoords == ("data", "axes fraction"):
            place = float(axes.convert_xunits(text.xy[0]))
            yield Mark(kind="event", x=place, name=text.get_text()[:LONGEST], colour=_hex(text.get_color()))


def _bands(axes: Axes) -> Iterator[Mark]:
    from matplotlib.collections import PolyCollection

    for band in axes.collections:
        if isinstance(band, PolyCollection) and axes.transData in (band.get_transform(), band.get_offset_transform()):
            named: dict[str, Any] = {"name": _name(band.get_label(), axes), "colour": _hex(band.get_facecolor()[0])}
            for path in band.get_paths():
                corners = np.asarray(path.vertices, dtype=float)
                for x in np.unique(corners[:, 0]):
                    edges = corners[corners[:, 0] == x, 1]
                    yield Mark(kind="band", x=float(x), y=float(edges.min()), y2=float(edges.max()), **named)


def _bars(axes: Axes) -> Iterator[Mark]:
    from matplotlib.patches import StepPatch

    for patch in axes.patches:
        if isinstance(patch, StepPatch):
            values, ends, _ = patch.get_data()
            named: dict[str, Any] = {"name": _name(patch.get_label(), axes), "colour": _hex(patch.get_edgecolor())}
            for value, start, end in zip(values, ends, ends[1:], strict=False):
                yield Mark(kind="bar", x=float(start), x2=float(end), y=float(value), **named)


def _spans(axes: Axes) -> Iterator[Mark]:
    """Yield the two edges of what spans the axes from left to right, as levels."""
    patches: list[Any] = list(axes.patches)
    for patch in patches:
        if _is_span(patch, axes):
            named: dict[str, Any] = {"name": _name(patch.get_label(), axes), "colour": _hex(patch.get_facecolor())}
            for y in np.unique(patch.get_path().vertices[:, 1] * patch.get_height() + patch.get_y()):
                yield Mark(kind="level", y=float(y), **named)


def _is_span(patch: Any, axes: Axes) -> bool:
    """Say whether a patch is one of `Axes.axhspan`: its heights alone are data."""
    from matplotlib.patches import Rectangle

    is_of: tuple[bool, bool] = patch.get_data_transform().contains_branch_separately(axes.transData)
    return isinstance(patch, Rectangle) and is_of == (False, True)


def _name(label: object, axes: Axes) -> str:
    """Return what something drawn is called: its label, or that of the axis."""
    words = str(label)
    return " ".join((axes.get_ylabel() if words.startswith("_") else words).split())[:LONGEST]


def _hex(colour: Any) -> str:
    from matplotlib.colors import to_hex

    return to_hex(colour)


def _moment(days: float | None) -> float | None:
    return None if days is None else round(days * 86_400_000)
