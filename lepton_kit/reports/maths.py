"""Formulas of plain pages as MathML, which browsers draw by themselves: nothing is fetched from anywhere."""

from __future__ import annotations

from typing import Any

from bleach.sanitizer import Cleaner  # type: ignore[import-untyped] # it ships no types

from lepton_kit.reports.markup import as_text

TAGS = [
    "math", "menclose", "mfrac", "mi", "mn", "mo", "mover", "mpadded", "mphantom", "mroot", "mrow", "mspace", "msqrt",
    "mstyle", "msub", "msubsup", "msup", "mtable", "mtd", "mtext", "mtr", "munder", "munderover",
]  # fmt: skip
ATTRIBUTES = [
    "accent", "columnalign", "columnspacing", "display", "displaystyle", "fence", "form", "height", "linebreak",
    "linethickness", "lspace", "mathsize", "mathvariant", "maxsize", "minsize", "movablelimits", "notation",
    "rowspacing", "rspace", "scriptlevel", "separator", "stretchy", "voffset", "width",
]  # fmt: skip
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
    '<code>&#92;left&#40;</code>'
    """
    from latex2mathml.converter import convert  # the import costs what only rendering should pay

    try:
        made = convert(tex, display=display)
    except Exception:  # its errors have nothing else in common
        return f"<code>{as_text(tex)}</code>"
    return str(_CLEANER.clean(made))


def markdown_as_html(source: str) -> str:
    r"""Return Markdown as HTML, with its formulas as MathML.

    >>> markdown_as_html("A mean $m$.")
    '<p>A mean <math display="inline"><mrow><mi>m</mi></mrow></math>.</p>\n'
    """
    from nbconvert.filters.markdown_mistune import MarkdownWithMath  # the import costs what only rendering should pay

    return MarkdownWithMath(renderer=_renderer()).render(source)


def _renderer() -> Any:
    from nbconvert.filters.markdown_mistune import IPythonRenderer

    class Renderer(IPythonRenderer):
        def inline_math(self, body: str) -> str:
            is_formula = body == body.strip()  # as for pandoc: with spaces inside, the dollars are money
            return as_mathml(body) if is_formula else str(super().inline_math(body))

        def block_math(self, body: str) -> str:
            return as_mathml(body, "block")

        def latex_environment(self, name: str, body: str) -> str:
            return as_mathml(f"\\begin{{{name}}}{body}\\end{{{name}}}", "block")

    return Renderer(escape=False, exclude_anchor_links=True)
