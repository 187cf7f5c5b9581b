"""Keeps of a style sheet what tells things apart: colours, weights and lines, and nothing that fetches or moves."""

from __future__ import annotations

import re
from typing import Any

import tinycss2  # type: ignore[import-untyped] # it ships no types

PROPERTIES = re.compile(
    r"(background-)?color|background|opacity|font-(weight|style|size|variant-numeric)|text-(align|decoration|transform)"
    r"|vertical-align|white-space|width|padding(-(top|right|bottom|left))?"
    r"|border(-(top|right|bottom|left))?(-(color|style|width))?|border-(collapse|radius)"
)
FUNCTIONS = {"rgb", "rgba", "hsl", "hsla", "linear-gradient"}
PLAIN = {"ident", "number", "percentage", "dimension", "hash", "whitespace"}
_ONE = r"(?=[a-zA-Z.#])(?:[a-zA-Z]\w*)?(?:[.#][a-zA-Z_][\w-]*)*"
SELECTOR = re.compile(rf"(?=.{{1,200}}$){_ONE}(?:(?: *> *| +){_ONE}){{0,5}}")
"""Tags, classes and ids beneath each other; what depends on a mouse, on order or on content means nothing here."""
MOST_RULES = 50
"""Rules of a style sheet with other selectors than an id: each looks at all elements."""


def safe_style(style: str) -> str:
    """Return the declarations that only colour, weigh or line.

    Examples
    --------
    >>> safe_style("color:red; position: fixed; background: url(https://example.org/pixel)")
    'color: red'
    """
    found = tinycss2.parse_blocks_contents(style, skip_comments=True, skip_whitespace=True)
    kept = [one for one in found if one.type == "declaration" and PROPERTIES.fullmatch(one.lower_name)]
    return "; ".join(
        f"{one.lower_name}: {tinycss2.serialize(one.value).strip()}" for one in kept if all(map(_is_safe, one.value))
    )


def inline(soup: Any) -> None:
    """Write the rules of a page's own style sheets into its elements, and take the sheets away."""
    sheets = soup.find_all("style")
    text = "\n".join(sheet.get_text() for sheet in sheets)
    for sheet in sheets:
        sheet.decompose()
    by_id: dict[str, list[str]] = {}
    others: list[tuple[str, str]] = []
    for rule in tinycss2.parse_stylesheet(text, skip_comments=True, skip_whitespace=True):
        if rule.type != "qualified-rule" or not (style := safe_style(tinycss2.serialize(rule.content))):
            continue
        for selector in map(str.strip, tinycss2.serialize(rule.prelude).split(",")):
            if re.fullmatch(r"#[\w-]+", selector):
                by_id.setdefault(selector[1:], []).append(style)
            elif SELECTOR.fullmatch(selector):
                others.append((selector, style))
    for element in soup.find_all(id=True) if by_id else ():
        for style in reversed(by_id.get(element["id"], [])):
            _add(element, style)
    for selector, style in reversed(others[:MOST_RULES]):
        for element in soup.select(selector):
            _add(element, style)


def _add(element: Any, style: str) -> None:
    """Put declarations before those that an element has: of two that set the same, the last counts."""
    element["style"] = "; ".join(filter(None, [style, element.get("style", "")]))


def _is_safe(part: Any) -> bool:
    if part.type == "function":
        return part.lower_name in FUNCTIONS and all(map(_is_safe, part.arguments))
    return part.type in PLAIN or (part.type == "literal" and part.value in (",", "/"))
