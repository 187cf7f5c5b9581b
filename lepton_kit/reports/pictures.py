"""Pictures of a notebook: what they are is seen by their content, whatever they are called.

On a page an SVG is a picture (`<img>`), in which a browser runs nothing. Opened by itself it is a page of the site, so
all that could act or fetch is taken away: only shapes and text are kept.
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple
from xml.etree import ElementTree

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
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
HREF = f"{{{XLINK}}}href"
ELEMENTS = {
    "svg", "g", "defs", "path", "use", "rect", "circle", "ellipse", "line", "polyline", "polygon", "text", "tspan",
    "clipPath", "mask", "marker", "pattern", "linearGradient", "radialGradient", "stop", "symbol", "title", "desc",
    "image", "style",
}  # fmt: skip
ATTRIBUTES = {
    "id", "class", "style", "transform", "d", "x", "y", "x1", "y1", "x2", "y2", "cx", "cy", "r", "rx", "ry", "dx", "dy",
    "width", "height", "viewBox", "version", "points", "offset", "rotate", "preserveAspectRatio", "clip-path",
    "clip-rule", "clipPathUnits", "mask", "fill", "fill-opacity", "fill-rule", "stroke", "stroke-width",
    "stroke-opacity", "stroke-linecap", "stroke-linejoin", "stroke-dasharray", "stroke-dashoffset", "stroke-miterlimit",
    "opacity", "stop-color", "stop-opacity", "font-family", "font-size", "font-style", "font-weight", "text-anchor",
    "dominant-baseline", "gradientUnits", "gradientTransform", "patternUnits", "patternTransform", "markerWidth",
    "markerHeight", "refX", "refY", "orient", "href", HREF,
}  # fmt: skip
OWN = {f"{{{SVG}}}{name}" for name in ELEMENTS}
PICTURE = re.compile(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=\s]+")
ACTING = re.compile(r"url\((?!\s*['\"]?#)|@|\\|expression|script:|image-set", re.IGNORECASE)

ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", XLINK)


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


def clean_svg(markup: str, png: bytes | None = None) -> str | None:
    """Return an SVG without what acts or fetches; None where it cannot be read.

    Parameters
    ----------
    markup
        The SVG.
    png
        The same picture as PNG: its size in pixels becomes that of the SVG.

    Examples
    --------
    >>> drawn = '<svg xmlns="http://www.w3.org/2000/svg" onload="a()"><script>b()</script><path d="M0 0"/></svg>'
    >>> clean_svg(drawn)
    '<svg xmlns="http://www.w3.org/2000/svg"><path d="M0 0" /></svg>'
    """
    from defusedxml.common import DefusedXmlException  # type: ignore[import-untyped]
    from defusedxml.ElementTree import ParseError, fromstring  # type: ignore[import-untyped] # it ships no types

    try:
        root = fromstring(markup)
    except (ParseError, DefusedXmlException, ValueError):  # such as one that declares entities
        return None
    if root.tag != f"{{{SVG}}}svg":
        return None
    _clean(root)
    if png is not None and png.startswith(b"\x89PNG"):
        root.set("width", str(struct.unpack(">I", png[16:20])[0]))
        root.set("height", str(struct.unpack(">I", png[20:24])[0]))
    return ElementTree.tostring(root, encoding="unicode")


def _clean(element: Any) -> None:
    for name, value in list(element.attrib.items()):
        if name not in ATTRIBUTES or ACTING.search(value) or (name in ("href", HREF) and not _is_inside(value)):
            del element.attrib[name]
    if element.tag == f"{{{SVG}}}style" and ACTING.search("".join(element.itertext())):
        element.text = ""
    for child in list(element):
        if child.tag in OWN:
            _clean(child)
        else:
            element.remove(child)


def _is_inside(address: str) -> bool:
    return address.startswith("#") or PICTURE.fullmatch(address) is not None
