"""Formulas of plain pages as MathML, which browsers draw by themselves: nothing is fetched from anywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bleach.sanitizer import Cleaner  # type: ignore[import-untyped] # it ships no types

from lepton_kit.reports.markup import as_text, visible

TAGS = [
    "math", "menclose", "mfrac", "mi", "mn", "mo", "mover", "mpadded", "mphantom", "mroot", "mrow", "mspace", "msqrt",
    "mstyle", "msub", "msubsup", "msup", "mtable", "mtd", "mtext", "mtr", "munder", "munderover",
]  # fmt: skip
ATTRIBUTES = [
    "accent", "columnalign", "columnspacing", "display", "displaystyle", "fence", "form", "height", "linebreak",
    "linethickness", "lspace", "mathsize", "mathvariant", "maxsize", "minsize", "movablelimits", "notation",
    "rowspacing", "rspace", "scriptlevel", "separator", "stretchy", "voffset", "width",
]  # fmt: skip
LONGEST = 10_000
"""Characters of a formula that is drawn."""
_CLEANER = Cleaner(tags=TAGS, attributes=ATTRIBUTES, strip=False)


def as_mathml(tex: str, display: str = "inline") -> str:
    r"""Return a formula in TeX as MathML; one that cannot be read stays as it was written.

    Parameters
    ----------
    tex
        Without the dollars around it.
    display
        `inline`, or `block` for a line of its own.

    Examples
    --------
    >>> as_mathml("a^2")
    '<math display="inline"><mrow><msup><mi>a</mi><mn>2</mn></msup></mrow></math>'
    >>> as_mathml(r"\left(")
    '<code>\\left(</code>'
    """
    from latex2mathml.converter import convert  # the import costs what only rendering should pay

    try:
        made = convert(tex, display=display) if len(tex) <= LONGEST else None
    except Exception:  # its errors have nothing else in common
        made = None
    if made is None:
        return f"<code>{as_text(tex)}</code>"
    return str(_CLEANER.clean(made))


def markdown_as_html(source: str, hold: Callable[[str], str] = str) -> str:
    r"""Return Markdown as HTML, with its formulas as MathML.

    Parameters
    ----------
    source
        The Markdown.
    hold
        Called with each piece of HTML that is made here, a formula or highlighted code, and returns what stands for it.

    Examples
    --------
    >>> markdown_as_html("A mean $m$.")
    '<p>A mean <math display="inline"><mrow><mi>m</mi></mrow></math>.</p>\n'
    """
    from nbconvert.filters.markdown_mistune import MarkdownWithMath  # the import costs what only rendering should pay

    return MarkdownWithMath(renderer=_renderer(hold)).render(source)


def _renderer(hold: Callable[[str], str]) -> Any:
    from nbconvert.filters.markdown_mistune import IPythonRenderer

    class Renderer(IPythonRenderer):
        def image(self, text: str, url: str, title: str | None = None) -> str:
            # One that is pasted, or lies beside the notebook, is found where links are: nbconvert fails without it.
            return str(super(IPythonRenderer, self).image(text, url, title))

        def block_code(self, code: str, info: str | None = None) -> str:
            return hold(highlighted(code, (info or "").split(maxsplit=1)[0] if info and info.strip() else ""))

        def inline_math(self, body: str) -> str:
            is_formula = body == body.strip()  # as for pandoc: with spaces inside, the dollars are money
            return hold(as_mathml(body)) if is_formula else str(super().inline_math(body))

        def block_math(self, body: str) -> str:
            return hold(as_mathml(body, "block"))

        def latex_environment(self, name: str, body: str) -> str:
            return hold(as_mathml(f"\\begin{{{name}}}{body}\\end{{{name}}}", "block"))

    return Renderer(escape=False, exclude_anchor_links=True)


def highlighted(code: str, language: str) -> str:
    """Return code as HTML with highlighted syntax; that of an unknown language as it is."""
    from pygments import highlight  # type: ignore[import-untyped] # the import costs what only publishing should pay
    from pygments.formatters import HtmlFormatter  # type: ignore[import-untyped]
    from pygments.lexers import TextLexer, get_lexer_by_name  # type: ignore[import-untyped]
    from pygments.util import ClassNotFound  # type: ignore[import-untyped]

    try:
        lexer = get_lexer_by_name(language or "text")
    except ClassNotFound:
        lexer = TextLexer()
    return visible(highlight(code, lexer, HtmlFormatter()))
