"""Formulas of plain pages: drawn by the browser alone, and never markup of their own."""

from __future__ import annotations

import pytest
from bs4 import BeautifulSoup

from lepton_kit.reports.maths import as_mathml, markdown_as_html


def test_formulas_in_lines_and_of_their_own_become_mathml():
    page = BeautifulSoup(markdown_as_html("Mean $\\bar{x}$.\n\n$$s = \\frac{1}{n} \\sum_i x_i$$\n"), "html.parser")
    inline, block = page.select("math")
    assert (inline["display"], block["display"]) == ("inline", "block")
    assert block.select_one("mfrac").text == "1n"
    assert "$" not in page.text


def test_an_environment_becomes_mathml():
    page = BeautifulSoup(markdown_as_html("\\begin{matrix} a & b \\\\ c & d \\end{matrix}"), "html.parser")
    assert [cell.text for cell in page.select("mtd")] == list("abcd")


def test_dollars_in_words_and_in_code_are_no_formula():
    assert "<math" not in markdown_as_html("It cost 3 $ and then 4 $ more; `$x$`.\n\n    $y$\n")


def test_what_cannot_be_read_stays_as_it_was_written():
    page = BeautifulSoup(markdown_as_html("A $\\frac{$ here."), "html.parser")
    assert page.code.text == "\\frac{"


@pytest.mark.parametrize(
    "tex", [r"\text{<img src=x onerror=a()>}", r"\href{javascript:a()}{x}", "<script>a()</script>"]
)
def test_a_formula_never_becomes_what_acts(tex):
    page = BeautifulSoup(as_mathml(tex), "html.parser")
    assert not page.select("img, script, [href], [onerror]")
