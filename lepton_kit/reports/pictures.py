"""Pictures of a notebook: what they are is seen by their content, whatever they are called."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from lepton_kit.reports.svg import clean_svg

LARGEST_SVG = 200_000
"""Characters of the largest SVG that a page shows; a larger one is shown as PNG where there is one, or not at all."""
LARGEST = 20 * 1024 * 1024
"""Bytes of the largest other picture that a page holds."""
RASTER = ("image/png", "image/jpeg", "image/gif", "image/webp")
SIGNATURES = {
    "image/png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "image/jpeg": re.compile(rb"\xff\xd8\xff"),
    "image/gif": re.compile(rb"GIF8[79]a"),
    "image/webp": re.compile(rb"RIFF.{4}WEBP", re.DOTALL),
}
"""How the files of these kinds begin."""


class Picture(NamedTuple):
    """A figure of a notebook: as PNG, what it shows in words, and as SVG where that is small."""

    png: bytes
    alt: str
    svg: str | None


def address_of(data: Mapping[str, Any]) -> str | None:
    """Return the picture among these kinds of one output as a data URL; None without one."""
    if svg := svg_of(data):
        return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
    return next((found for kind in RASTER if kind in data if (found := raster_address(decoded(data[kind])))), None)


def raster_address(content: bytes) -> str | None:
    """Return a bitmap as a data URL; None where browsers cannot show it, or it is too large.

    Examples
    --------
    >>> raster_address(b"GIF89a")
    'data:image/gif;base64,R0lGODlh'
    >>> raster_address(b"<script>")
    """
    kind = next((kind for kind, begins in SIGNATURES.items() if begins.match(content)), None)
    if kind is None or len(content) > LARGEST:
        return None
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def svg_of(data: Mapping[str, Any]) -> str | None:
    """Return a picture as an SVG that is safe to show, where it is there and small."""
    drawn = as_string(data.get("image/svg+xml", ""))
    if not 0 < len(drawn) <= LARGEST_SVG:
        return None
    return clean_svg(drawn, png_of(data))


def png_of(data: Mapping[str, Any]) -> bytes | None:
    """Return a picture as PNG, where it is one."""
    content = decoded(data.get("image/png", ""))
    return content if SIGNATURES["image/png"].match(content) else None


def decoded(held: Any) -> bytes:
    """Return what is written in base64; nothing where it is not."""
    try:
        return base64.b64decode("".join(as_string(held).split()), validate=True)
    except ValueError:
        return b""


def as_string(held: Any) -> str:
    """Return text of a notebook, which may be kept there as a list of its lines."""
    return "".join(map(str, held)) if isinstance(held, list) else str(held)
