"""What pages show of a notebook: its words as Jupyter shows them, and for each kind of output a rule."""

from __future__ import annotations

import base64
import re
from typing import Any

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, new_raw_cell
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lepton_kit.reports.story import story_html
from lepton_kit.runs.notebooks import title_of

GIF = "R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
WEBP = "UklGRhoAAABXRUJQVlA4TA0AAAAvAAAAEAcQERGIiP4HAA=="
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n...").decode()
SVG = '<svg xmlns="http://www.w3.org/2000/svg"><path d="M0 0"/></svg>'
RUNS = [f"20260101T000000Z-{name}-abc123" for name in ("plain", "my notes", "50% of #1")]


def page(*cells: Any, **more: Any) -> BeautifulSoup:
    """Return the cells of a page as HTML."""
    return BeautifulSoup(story_html(new_notebook(cells=list(cells)), **more), "html.parser")


def words(source: str, attachments: Any = None, **more: Any) -> BeautifulSoup:
    return page(new_markdown_cell(source, attachments=attachments or {}), **more)


def shown(**data: Any) -> BeautifulSoup:
    """Return what a page shows of an output with these kinds, `text_html` for `text/html`."""
    kinds = {name.replace("__", ".").replace("_", "/", 1).replace("_", "+"): value for name, value in data.items()}
    return output(nbformat.from_dict({"output_type": "display_data", "metadata": {}, "data": kinds}))


def printed(text: str) -> BeautifulSoup:
    return output(new_output("stream", name="stdout", text=text))


def output(one: Any) -> BeautifulSoup:
    made = page(new_code_cell("1", outputs=[one], execution_count=1))
    made.details.decompose()
    return made


def repr_of(value: Any) -> dict[str, str]:
    return {"text_html": value._repr_html_(), "text_plain": repr(value)}


# --- words --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("![a](attachment:a.png)", "a.png"),
        ('![a](attachment:a.png "its title")', "a.png"),
        ("![a](attachment:my%20shot.png)", "my shot.png"),
        ("![a](<attachment:shot (2).png>)", "shot (2).png"),
        ("![a](attachment:%C3%BCbersicht.png)", "übersicht.png"),
        ("![a](attachment:übersicht.png)", "übersicht.png"),
        ("![a][later]\n\n[later]: attachment:a.png", "a.png"),
        ('<img src="attachment:a.png" width="300" alt="a">', "a.png"),
        ('<p><img alt=a src="attachment:my shot.png"></p>', "my shot.png"),
        ("| x |\n|---|\n| ![a](attachment:a.png) |", "a.png"),
    ],
)
def test_a_pasted_picture_is_shown_however_it_is_written(source: str, name: str) -> None:
    picture = words(source, {name: {"image/png": PNG}}).img
    assert picture is not None
    assert (picture["alt"], picture["src"]) == ("a", f"data:image/png;base64,{PNG}")


@pytest.mark.parametrize(("kind", "content"), [("gif", GIF), ("webp", WEBP), ("png", PNG)])
def test_pictures_of_all_kinds_that_browsers_know_are_shown(kind: str, content: str) -> None:
    address = f"data:image/{kind};base64,{content}"
    pasted = words(f"![a](attachment:a.{kind})", {f"a.{kind}": {f"image/{kind}": content}}).img
    written = words(f"![a]({address})").img
    made = shown(**{f"image_{kind}": content}).select_one("figure img")
    assert [one["src"] for one in (pasted, written, made) if one] == [address] * 3


def test_a_picture_that_is_gone_is_its_words_and_code_stays_code() -> None:
    assert words("![what it showed](attachment:gone.png)").text.strip() == "what it showed"
    made = words("Write `![x](attachment:x.png)`.\n\n```md\n![x](attachment:x.png)\n```", {"x.png": {"image/png": PNG}})
    assert made.img is None
    assert [one.text.strip() for one in made.select("code, pre")] == ["![x](attachment:x.png)"] * 2


def test_a_picture_beside_the_notebook_is_shown() -> None:
    files = {"figures/my side.png": base64.b64decode(PNG), "a.svg": SVG.encode(), "b.png": b"<script>"}
    made = words("![a](figures/my%20side.png) ![b](a.svg) ![c](b.png)", beside=lambda path: files.get(path, b""))
    assert [str(one["src"])[:22] for one in made.select("img")] == ["data:image/png;base64,", "data:image/svg+xml;bas"]


@pytest.mark.parametrize(
    ("target", "page_of"),
    [
        ("plain.ipynb", RUNS[0]),
        ("./plain.ipynb", RUNS[0]),
        ("../runbooks/plain.ipynb", RUNS[0]),
        ("my%20notes.ipynb", RUNS[1]),
        ("<my notes.ipynb>", RUNS[1]),
        ("50%25%20of%20%231.ipynb", RUNS[2]),
        ("<50% of #1.ipynb>", RUNS[2]),
    ],
)
def test_a_link_to_a_notebook_leads_to_its_page(target: str, page_of: str) -> None:
    from urllib.parse import unquote

    (link,) = words(f"see [it]({target} 'title') and [none](gone.ipynb)", published=RUNS).select("a")
    assert unquote(str(link["href"])) == f"../../runs/{page_of}/index.html"
    assert not set(str(link["href"])) & set(' #"<>')
    reference = words(f"[it][1]\n\n[1]: {target}", published=RUNS)
    assert [unquote(str(one["href"])) for one in reference.select("a")] == [f"../../runs/{page_of}/index.html"]


def test_a_link_leads_to_the_heading_that_it_names_however_it_names_it() -> None:
    made = page(
        new_markdown_cell("[a](#What-we-found) [b](#what-we-found) [c](#2.-Load-the-data) [d](#nowhere) [e](#below)"),
        new_markdown_cell("## What we `found`\n\n## 2. Load the data\n\n<a name='below'></a>\n\n## What we found"),
    )
    links = {one.text: str(one["href"])[1:] for one in made.select("a[href]")}
    assert links == {"a": "what-we-found", "b": "what-we-found", "c": "load-the-data", "e": "below"}
    assert [one["id"] for one in made.select("h2")] == ["what-we-found", "load-the-data", "what-we-found-2"]
    assert made.find(id="below") is not None
    other = words("[x](plain.ipynb#What-we-found)", published=RUNS).a
    assert other is not None and str(other["href"]).endswith("/index.html#what-we-found")


def test_formulas_tables_lists_and_code_of_words_stay() -> None:
    made = words(
        "$a^2$ and $$\\frac{1}{2}$$\n\n| a | b |\n|---|---|\n| 1 | x |\n\n- [x] done\n- [ ] open\n\n```py\nx = 1\n```"
    )
    assert len(made.select("math")) == 2
    assert made.select_one("table.data td.words") is not None
    assert [one.text for one in made.select("li")] == ["☑ done", "☐ open"]
    assert made.select_one(".highlight pre") is not None


def test_the_title_is_left_out_and_a_comment_in_code_is_none() -> None:
    made = page(
        new_raw_cell("---\ntitle: x\n---"),
        new_markdown_cell("```sh\n# no title\n```"),
        new_markdown_cell("Title\n=====\nx"),
    )
    assert "# no title" in made.text
    assert "Title" not in made.text
    assert page(new_markdown_cell("<h1>Written as HTML</h1>")).h1 is not None  # no title that a run knows
    assert "title: x" not in made.text


@pytest.mark.parametrize(
    ("source", "title"),
    [
        ("```sh\n# no\n```\n# yes", "yes"),
        ("yes\n===\n", "yes"),
        ("text\n\n# yes", "yes"),
        ("~~~\n# no\n~~~", "none"),
        ("## no", "none"),
    ],
)
def test_a_title_is_a_heading_and_never_code(source: str, title: str) -> None:
    assert title_of(new_notebook(cells=[new_markdown_cell(source)]), "none") == title


# --- outputs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"application_vnd__plotly__v1_json": {"data": []}}, "a Plotly chart"),
        (
            {"application_vnd__vegalite__v5_json": {}, "text_plain": "<VegaLite 5 object>\n\nIf you see this"},
            "a Vega chart",
        ),
        (
            {"application_vnd__jupyter__widget-view_json": {}, "text_plain": "HBox(children=())"},
            "an interactive widget",
        ),
        ({"application_geo_json": {}, "text_plain": "<IPython.core.display.GeoJSON object>"}, "a map (GeoJSON)"),
        ({"application_javascript": "x()", "text_plain": "<IPython.core.display.Javascript object>"}, "a script"),
        ({"application_pdf": "JVBERi0="}, "a PDF"),
        ({"audio_wav": "UklGRg=="}, "sound"),
        ({"video_mp4": "AAAA"}, "a video"),
        (
            {"image_png": "AAAA", "text_plain": "<Figure size 10x10 with 1 Axes>"},
            "an invalid, too large or unsupported picture",
        ),
        ({"image_tiff": "AAAA"}, "an invalid, too large or unsupported picture"),
        ({"application_x-own": "1"}, "an output of the kind application/x-own"),
        ({"text_x-own": "1"}, "an output of the kind text/x-own"),
        ({"text_html": "<iframe src='https://example.org'></iframe>"}, "a frame with another page"),
        ({"text_html": "<audio controls src='data:audio/wav;base64,x'></audio>"}, "sound"),
        ({"text_html": "<video controls><source src='x.mp4'></video>"}, "a video"),
        (
            {"text_html": "<div class='plotly-graph-div' id='x'></div><script>Plotly.newPlot()</script>"},
            "a Plotly chart",
        ),
        ({"text_html": "<script>draw()</script>"}, "what a script draws"),
        ({"text_html": "<object data='x.pdf'></object>"}, "an embedded object"),
    ],
)
def test_what_cannot_be_shown_is_named(data: dict[str, Any], named: str) -> None:
    made = shown(**data)
    line = made.select_one(".left-out")
    assert line is not None and named in line.text
    assert made.text.strip() == line.text.strip()


def test_empty_html_shows_nothing() -> None:
    assert shown(text_html="", text_plain="<IPython.core.display.HTML object>").text == ""


def test_a_chart_that_brings_a_picture_is_that_picture() -> None:
    made = shown(application_vnd__plotly__v1_json={}, image_png=PNG)
    assert made.select_one("figure img") is not None and made.select_one(".left-out") is None


def test_an_unknown_kind_with_words_shows_the_words_too() -> None:
    made = shown(application_vnd__mine_json={}, text_plain="3 rows of mine")
    assert "3 rows of mine" in made.text and "vnd.mine" in made.text


def test_formulas_and_json_are_shown() -> None:
    assert shown(text_latex="$\\displaystyle x^2$", text_plain="<IPython.core.display.Math object>").math is not None
    assert shown(text_latex="\\begin{matrix} 1 & 2 \\end{matrix}").select_one("mtd") is not None
    assert '"a": [' in shown(application_json={"a": [1]}, text_plain="<IPython.core.display.JSON object>").text


def test_an_estimator_is_its_text_and_nobody_is_asked_for_trust() -> None:
    made = shown(**repr_of(make_pipeline(StandardScaler(), Ridge(alpha=2)))).text
    assert "Ridge(alpha=2)" in made
    assert "trust" not in made.lower()
    asked = "<span>Make this Notebook Trusted to load map: File -> Trust Notebook</span><iframe srcdoc='x'></iframe>"
    assert shown(text_html=f"<div>{asked}</div>").text.startswith("Not shown on this page")


def test_colours_of_a_styled_table_stay() -> None:
    table = pd.DataFrame({"state": ["ok", "bad"], "burn": [0.2, 14.5]})
    styled = table.style.map(lambda value: "background-color: red; position: fixed" if value == "bad" else "")
    styled = styled.set_table_styles([{"selector": "th", "props": "color: blue"}]).bar(subset=["burn"])
    made = shown(text_html=styled.to_html(), text_plain="<pandas.io.formats.style.Styler at 0x7f>")
    styles = {cell.text.strip(): str(cell.get("style", "")) for cell in made.select("td")}
    assert "background-color: red" in styles["bad"] and "position" not in styles["bad"]
    assert "background-color: red" not in styles["ok"]
    assert "linear-gradient" in styles["14.500000"]
    assert "color: blue" in str(made.th["style"] if made.th else "")


def test_parts_of_html_that_mean_something_stay() -> None:
    made = shown(text_html="<form><button>Go</button></form><svg viewBox='0 0 9 9'><circle r=4 /></svg><b>bold</b>")
    assert made.b is not None and "Go" in made.text
    assert made.img is not None and "viewBox" in base64.b64decode(str(made.img["src"]).partition(",")[2]).decode()


# --- what was printed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("".join(f"\r{n:3} %" for n in range(0, 101, 5)) + "\ndone\n", "100 %\ndone"),
        ("\x1b[2K\rloading\x1b[2K\rready", "ready"),
        ("long line\rshort", "shortline"),
        ("a\r\nb\r\n", "a\nb"),
        ("12\b\b34", "34"),
        ("\x1b[32m 50%\x1b[0m\r\x1b[32m100%\x1b[0m", "100%"),
        ("\x1b]8;;https://example.org/x\x1b\\link\x1b]8;;\x1b\\ after", "link after"),
        ("\x1b]8;;https://example.org/x\x07link\x1b]8;;\x07 after", "link after"),
        ("\x1b]0;title\x07x\x1b[1A\x1b[?25ly\x1b[0Jz\x1bcw", "xyzw"),
        ("bell\a null\0 \x9b31mred\x85 \x1b]unended", "bell null red unended"),
    ],
)
def test_what_was_printed_is_shown_as_a_terminal_has_it_in_the_end(text: str, left: str) -> None:
    made = printed(text)
    assert made.pre is not None
    assert made.pre.get_text().strip() == left
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", made.get_text())


def test_colours_of_all_three_kinds_stay() -> None:
    made = printed(
        "\x1b[1;31mred\x1b[0m \x1b[38;5;208morange\x1b[0m \x1b[38;2;10;200;30mgreen\x1b[m \x1b[48:2::1:2:3mdark\x1b[0m"
    )
    found = {one.text: " ".join([*one.get("class", []), str(one.get("style", ""))]) for one in made.select("span")}
    assert "ansi-red" in found["red"] and "ansi-bold" in found["red"]
    assert "rgb(255,135,0)" in found["orange"] and "rgb(10,200,30)" in found["green"]
    assert "background-color: rgb(1,2,3)" in found["dark"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("".join(f"{n}\n" for n in range(100_000)), "99,851 of 100,001 lines"),
        ("0123456789" * 200_000, "1,975,000 characters"),
        ("\x1b[32mINFO\x1b[0m words\n" * 200_000, "of 200,001 lines"),
    ],
)
def test_of_a_very_long_output_the_middle_is_left_out_and_said(text: str, said: str) -> None:
    made = printed(text)
    line = made.select_one(".left-out")
    assert line is not None and said in line.text
    assert line.a is not None and line.a["href"] == "notebook.ipynb"
    assert len(str(made)) < 100_000
    first, last = made.select("pre")
    assert (first.text[:1], last.text.strip()[-3:]) == (re.sub("\x1b[^m]*m", "", text)[:1], text.strip()[-3:])


def test_of_a_very_long_table_the_middle_is_left_out_and_said() -> None:
    table = pd.DataFrame({"n": range(20_000), "m": range(20_000)})
    made = shown(text_html=table.to_html(), text_plain="n")
    assert "19,921 of 20,001 rows" in made.select_one(".left-out").text
    cells = [one.text for one in made.select("tbody th")]
    assert (cells[0], cells[-1]) == ("0", "19999")
    assert len(cells) < 100
    assert "left out here" in shown(text_html="<p>" + "<b>x</b>" * 100_000, text_plain="short").text
