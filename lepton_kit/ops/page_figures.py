"""Figures of pages: drawn in the theme of plots.py, without any state that other threads see."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Drawing

from lepton_kit.plots import THEME
from lepton_kit.reports.blocks import Figure
from lepton_kit.reports.svg import clean_svg
from lepton_kit.runs.figures import small_svg

SHARP = 2
"""Dots of a picture for one on the page, for screens that have so many."""


def drawn(draw: Callable[[Axes], Any], *, caption: str, alt: str, name: str) -> Figure:
    """Return a drawing of the theme's size as a figure of a page; the same drawing gives the same bytes.

    Parameters
    ----------
    draw
        Draws into the axes that it is given.
    caption, alt, name
        The figure's caption, what it shows in words, and its name on the page.
    """
    with mpl.rc_context(THEME):  # type: ignore[arg-type]
        figure = Drawing()
        FigureCanvasAgg(figure)
        draw(figure.add_subplot())
        held = io.BytesIO()
        figure.savefig(held, format="png", dpi=SHARP * figure.dpi, facecolor="white", metadata={"Software": None})
        svg = small_svg(figure)
    return Figure(held.getvalue(), caption, alt, name, clean_svg(svg) if svg else None)
