"""Makes an SVG safe to lie on a site: shapes and text alone.

On a page an SVG is a picture (`<img>`), in which a browser runs nothing. Opened by itself it is a page of the site, so
all that could act or fetch is taken away: only the elements and attributes below are kept.
"""

from __future__ import annotations

import re
import struct
from typing import Any
from xml.etree import ElementTree

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
