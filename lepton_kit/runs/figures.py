"""Figures of a run in two more forms beside the PNG: as SVG where that is small, and as a chart to look closer at."""

from __future__ import annotations

import sys
from typing import Any

from IPython.core.formatters import JSONFormatter, SVGFormatter, catch_format_error
from traitlets import Unicode

from lepton_kit.notebook import CHART

LARGEST_SVG = 100_000
"""Characters of the largest SVG that is kept; a figure of many points has its PNG alone."""


def in_more_forms(shell: Any) -> None:
    """Let an IPython shell show each matplotlib figure as SVG and as a chart too, where it can be."""
    display = shell.display_formatter
    display.formatters["image/svg+xml"] = FigureFormatter(parent=display)
    display.formatters[CHART] = ChartFormatter(parent=display)


class ChartFormatter(JSONFormatter):
    """Shows a figure as a chart."""

    format_type = Unicode(CHART)

    @catch_format_error  # type: ignore[untyped-decorator]
    def __call__(self, shown: Any) -> dict[str, Any] | None:
        """Return the chart of what is shown, or None where there is none."""
        matplotlib = sys.modules.get("matplotlib.figure")
        if matplotlib is None or not isinstance(shown, matplotlib.Figure):
            return None
        from lepton_kit.runs.charts import chart_of  # the import costs what only a figure should pay

        chart = chart_of(shown)
        return None if chart is None else chart.vega_lite()


class FigureFormatter(SVGFormatter):
    """Shows figures by their class: printers that are registered, the inline backend takes away when it is loaded."""

    @catch_format_error  # type: ignore[untyped-decorator]
    def __call__(self, shown: Any) -> str | None:
        """Return the SVG of what is shown, or None where there is none or it is large."""
        matplotlib = sys.modules.get("matplotlib.figure")
        if matplotlib is not None and isinstance(shown, matplotlib.Figure):
            return small_svg(shown)
        found: str | None = super().__call__(shown)
        return found


def small_svg(figure: Any) -> str | None:
    """Return a figure as SVG, the same text each time, or None where it is empty or large."""
    import matplotlib
    from IPython.core.pylabtools import print_figure

    with matplotlib.rc_context({"svg.hashsalt": "lepton"}):
        drawn = print_figure(figure, "svg", metadata={"Date": None})  # type: ignore[no-untyped-call] # IPython's
    return drawn if drawn is not None and len(drawn) <= LARGEST_SVG else None
