"""SVG from a notebook is shapes and text alone on the site, however it is opened; runs keep it where it is small."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest
from helpers import write_notebook

from lepton_kit.reports.pictures import clean_svg
from lepton_kit.reports.story import first_figure, story_html
from lepton_kit.runs import figures
from lepton_kit.runs.check import update_outputs
from lepton_kit.runs.runner import Request, run_notebook

FRAME = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">{}</svg>'
HOSTILE = [
    "<script>steal()</script>",
    '<path d="M0 0" onclick="steal()"/>',
    '<a href="javascript:steal()"><path d="M0 0"/></a>',
    '<use xlink:href="https://example.org/steal.svg#a"/>',
    '<image href="https://example.org/steal.png"/>',
    '<image href="data:image/svg+xml;base64,c3RlYWw="/>',
    "<foreignObject><iframe src='https://example.org/steal'/></foreignObject>",
    "<style>@import url(https://example.org/steal.css);</style>",
    '<rect style="fill: url(https://example.org/steal)"/>',
    "<rect fill=\"url('https://example.org/steal')\"/>",
    '<set attributeName="href" to="javascript:steal()"/>',
    '<x:script xmlns:x="http://www.w3.org/1999/xhtml">steal()</x:script>',
]
PLOT = "import matplotlib.pyplot as plt\nfig, ax = plt.subplots()\nax.plot({})\nplt.show()"


@pytest.mark.parametrize("part", HOSTILE)
def test_what_acts_or_fetches_is_taken_away(part: str) -> None:
    cleaned = clean_svg(FRAME.format(part))
    assert cleaned is not None
    assert "steal" not in cleaned


def test_shapes_styles_and_references_within_stay() -> None:
    drawn = '<defs><path id="a" d="M0 0"/></defs><use xlink:href="#a" clip-path="url(#b)" style="stroke: #0072b2"/>'
    cleaned = clean_svg(FRAME.format(drawn))
    for part in ('id="a"', 'xlink:href="#a"', 'clip-path="url(#b)"', 'style="stroke: #0072b2"'):
        assert part in (cleaned or "")


@pytest.mark.parametrize("text", ["no svg", "<svg>", FRAME.format("").replace("svg", "html"), ""])
def test_what_is_no_svg_is_none(text: str) -> None:
    assert clean_svg(text) is None


def test_entities_are_not_expanded() -> None:
    assert clean_svg('<!DOCTYPE svg [<!ENTITY a "steal">]>' + FRAME.format("<text>&a;</text>")) is None


def test_a_small_figure_is_the_same_svg_each_time_and_a_large_one_is_none() -> None:
    made, axes = plt.subplots()
    axes.plot([1, 2])
    first, second = figures.small_svg(made), figures.small_svg(made)
    assert first is not None
    assert first == second
    axes.scatter(range(3000), range(3000))
    assert figures.small_svg(made) is None
    plt.close(made)


def test_a_run_keeps_the_svg_of_a_small_figure_beside_its_png_and_its_page_shows_it(project: Path) -> None:
    path = write_notebook(
        project / "plots.ipynb", ["lk.record('a', 1)", PLOT.format("[1, 2]"), PLOT.format("range(9000), 'o', ms=1")]
    )
    made = run_notebook(Request(path), project)
    notebook = nbformat.read(made.folder(project) / "notebook.ipynb", as_version=4)
    kinds = [set(out.data) & {"image/png", "image/svg+xml"} for c in notebook.cells for out in c.get("outputs", [])]
    assert [kind for kind in kinds if kind] == [{"image/png", "image/svg+xml"}, {"image/png"}]
    shown = story_html(notebook)
    assert re.findall(r'<img src="data:([a-z/+]+);base64,', shown) == ["image/svg+xml", "image/png"]
    first = first_figure(notebook)
    assert first is not None
    assert first.png.startswith(b"\x89PNG")
    assert 'width="' in (first.svg or "")


def test_a_committed_notebook_keeps_the_png_alone(project: Path) -> None:
    path = write_notebook(project / "plots.ipynb", [PLOT.format("[1, 2]")])
    update_outputs(path, project)
    (picture,) = [out.data for cell in nbformat.read(path, 4).cells for out in cell.get("outputs", []) if "data" in out]
    assert base64.b64decode(picture["image/png"]).startswith(b"\x89PNG")
    assert "image/svg+xml" not in picture
