"""Figures of pages: drawn in the theme of plots.py, without any state that other threads see."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lepton_kit.plots import THEME

SHARP = 2
"""Dots of a picture for one on the page, for screens that have so many."""


def draw_png(draw: Callable[[Axes], Any], width: float, height: float) -> bytes:
    """Return a drawing as a PNG picture; the same drawing gives the same bytes.

    Parameters
    ----------
    draw
        Draws into the axes that it is given.
    width, height
        In inches.
    """
    with mpl.rc_context(THEME):  # type: ignore[arg-type]
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        draw(figure.add_subplot())
        held = io.BytesIO()
        figure.savefig(held, format="png", dpi=SHARP * figure.dpi, facecolor="white", metadata={"Software": None})
    return held.getvalue()
