"""Notebooks that mean harm, on pages in a real browser: nothing of them runs, fetches, or reads what is not theirs."""

# ruff: noqa: E501
# What a notebook holds reads best in one line.

from __future__ import annotations

import base64
import json
import shutil
import struct
import threading
import zlib
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat
import pytest
from browser import Browser
from helpers import copy_folders, write_notebook
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, new_raw_cell

from lepton_kit.reports.publish import LeftOutError, publish_runs
from lepton_kit.reports.quarto import find_quarto
from lepton_kit.reports.site import Site, build_site
from lepton_kit.runs.manifest import Manifest
from lepton_kit.runs.runner import Request, run_notebook

SECRET = "hunter2-of-the-publisher"
OUTSIDE = "words-of-a-file-elsewhere"
SCRIPT = "<script>hit()</script>"


def png(seed: int) -> bytes:
    """Return a small picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0)
    rows = b"".join(b"\0" + bytes((seed * (row + 3) + at) % 256 for at in range(12)) for row in range(4))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def words(source: str, **more: Any) -> Any:
    return new_markdown_cell(source, **more)


def shown(data: dict[str, Any], source: str = "show()") -> Any:
    output = nbformat.from_dict({"output_type": "display_data", "metadata": {}, "data": data})
    return new_code_cell(source, outputs=[output], execution_count=1)


def printed(text: str) -> Any:
    return new_code_cell("print(x)", outputs=[new_output("stream", name="stdout", text=text)], execution_count=1)


def raised(name: str, message: str) -> Any:
    output = new_output("error", ename=name, evalue=message, traceback=[f"{name}: {message}"])
    return new_code_cell("raise_it()", outputs=[output], execution_count=1)


MARKDOWN = {
    "script": SCRIPT,
    "script-in-svg": f"<svg>{SCRIPT}<a xlink:href='javascript:hit()'><text y=9>x</text></a></svg>",
    "picture-event": "<img src=x onerror=hit()> <img src='/hit-picture'>",
    "svg-event": "<svg onload=hit()><animate onbegin=hit() attributeName=x dur=1s /></svg>",
    "frame": "<iframe src='javascript:parent.hit()'></iframe><iframe src='/hit-frame'></iframe>",
    "frame-within": "<iframe srcdoc='<script>parent.hit()</script>'></iframe>",
    "refresh": "<meta http-equiv='refresh' content='0;url=/hit-refresh'>",
    "sheet": "<link rel=stylesheet href=/hit-sheet><link rel=prefetch href=/hit-prefetch>",
    "base": "<base href='/hit-base/'> [x](a.html)",
    "style": "<style>@import url(/hit-import); body, main, p {background: url(/hit-style)}</style>words",
    "style-attribute": "<p style='background:url(/hit-attribute);cursor:url(/hit-cursor),auto'>x</p>",
    "style-escaped": "<p style='background:u\\72l(/hit-escaped);background:image-set(\"/hit-set\" 1x)'>x</p>",
    "link": "[x](javascript:hit()) <javascript:hit()> [y]\n\n[y]: javascript:hit()",
    "link-split": "<a href='java&#9;script:hit()'>x</a> <a href=' &#1;javascript:hit()'>y</a> [z](java&#x0A;script:hit())",
    "link-data": "[x](data:text/html,<script>hit()</script>) <a href='data:text/html;base64,PHNjcmlwdD4='>y</a>",
    "link-vbscript": "<a href='vbscript:hit()'>x</a> <a href='file:///etc/passwd'>y</a> <a href='//elsewhere/x'>z</a>",
    "picture": "![a](/hit-picture.png) ![b][ref] <img src='//127.0.0.1/hit'>\n\n[ref]: /hit-reference.png",
    "picture-set": "<img srcset='/hit-set 2x' src='data:,x'><picture><source srcset=/hit-source><img></picture><image src=/hit>",
    "media": "<video src=/hit-video poster=/hit-poster autoplay></video><audio src=/hit-audio autoplay><track src=/hit></audio>",
    "object": "<object data=/hit-object></object><embed src=/hit-embed><applet code=/hit></applet>",
    "form": "<form action=/hit><input autofocus onfocus=hit()><button formaction='javascript:hit()'>x</button></form>",
    "details": "<details open ontoggle=hit()><summary onclick=hit()>x</summary></details><p onmouseover=hit()>y</p>",
    "mutation-math": "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=hit()&gt;'>",
    "mutation-noscript": "<noscript><p title='</noscript><img src=x onerror=hit()>'></noscript>",
    "mutation-svg": "<svg></p><style><a id='</style><img src=1 onerror=hit()>'></svg>",
    "mutation-comment": "<!--> <img src=x onerror=hit()> --> <![CDATA[><img src=x onerror=hit()>]]>",
    "half-a-tag": "<img src=x onerror=hit() <b <a href=javascript:hit()>x <script",
    "forged-mark": "![&#xE000;0&#xE001;](a.png) <img alt='\ue0000\ue001' src='&#xE000;0&#xE001;'>\n\n```py\nx onerror=hit()\n```",
    "metadata": "words\n\n---\nfilters: [OUTSIDE/filter.lua]\ninclude-in-header: OUTSIDE/head.html\n---\n\nwords",
    "metadata-execute": "---\nexecute: {enabled: true}\nengine: jupyter\n---\n\n```{python}\nopen('OUTSIDE/touched', 'w')\n```",
    "environment": "{{< env LEPTON_TEST_SECRET >}}\n\n## {{< env LEPTON_TEST_SECRET >}}\n\n```\n{{< env LEPTON_TEST_SECRET >}}\n```",
    "include": "{{< include OUTSIDE/words.md >}}\n\n`{{< include OUTSIDE/words.md >}}`\n\n<p>{{< include OUTSIDE/words.md >}}</p>",
    "embed": "{{< embed x >}}\n\n{{< embed OUTSIDE/words.ipynb#fig >}}\n\n{{< video /hit-video.mp4 >}}",
    "raw-block": "```{=html}\n<script>hit()</script>\n```\n\n`<img src=x onerror=hit()>`{=html}",
    "raw-block-ended": "<p>\n```\n</p>\n\n```{=html}\n<script>hit()</script>\n```\n\n~~~{=html}\n<script>hit()</script>\n~~~",
    "cells": "```{ojs}\nhit()\n```\n\n```{mermaid}\ngraph TD\n```\n\n```{r}\nsystem('touch OUTSIDE/touched')\n```\n\n`{python} hit()`",
    "attributes": "[x]{onmouseover='hit()'}\n\n::: {.panel-tabset onclick='hit()'}\n## a\n:::\n\n## head {onclick='hit()'}",
    "heading": "## <img src=x onerror=hit()>\n\n## `<script>hit()</script>`{=html}\n\n### a {#b onclick=hit()}",
    "picture-elsewhere": "![x](../../outside.png) ![y](OUTSIDE/outside.png) ![z](linked.png) ![p](../../../../../../etc/passwd)",
    "ids": "<a id=leptonFetched></a><a id='x\" onclick=hit()'></a><form name=querySelector></form> [x](#leptonFetched)",
    "formula": "$\\href{javascript:hit()}{x}$ $$\\text{<img src=x onerror=hit()>}$$ $</math><script>hit()</script>$",
    "deep": ">" * 4000 + " x\n\n" + "<div>" * 5000 + "x",
    "places": "⟦title⟧ <!--⟦body⟧--> ⟦nothing⟧\n\n## ⟦contents⟧",
    "no-characters": "a\x00b\x1b[31m\x07 \x85 &#0; &#27;",
    "template": f"<template>{SCRIPT}</template><xmp>{SCRIPT}</xmp><plaintext>{SCRIPT}",
    "select": f"<select><option>{SCRIPT}</option></select><textarea>{SCRIPT}</textarea><title>{SCRIPT}</title>",
}
OUTPUTS = {
    "html": shown({"text/html": f"<b onclick=hit()>x</b>{SCRIPT}<img src=/hit-output>"}),
    "png-none": shown({"image/png": '"><script>hit()</script><img src=x onerror="hit()'}),
    "png-html": shown({"image/png": base64.b64encode(b"<script>hit()</script>").decode()}),
    "jpeg-html": shown({"image/jpeg": 'x" onerror="hit()', "image/gif": "'><script>hit()</script>"}),
    "svg": shown({"image/svg+xml": f"<svg xmlns='http://www.w3.org/2000/svg' onload='hit()'>{SCRIPT}<foreignObject/></svg>"}),
    "kind": shown({'image/x" onerror="hit()': "x", "text/x<script>hit()</script>": "y"}),
    "javascript": shown({"application/javascript": "hit()", "text/plain": "<Javascript object>"}),
    "markdown": shown({"text/markdown": f"{{{{< env LEPTON_TEST_SECRET >}}}}\n\n{SCRIPT}\n\n```{{=html}}\n{SCRIPT}\n```"}),
    "latex": shown({"text/latex": f"$\\href{{javascript:hit()}}{{x}}$ {SCRIPT}"}),
    "plain": shown({"text/plain": f"</pre>{SCRIPT}\n```\n:::\n---\ntitle: x\n---\n{{{{< env LEPTON_TEST_SECRET >}}}}"}),
    "json": shown({"application/json": {f"</pre>{SCRIPT}": "{{< env LEPTON_TEST_SECRET >}}"}}),
    "stream": printed(f"</pre>{SCRIPT}\x1b]8;;javascript:hit()\x1b\\x\x1b]8;;\x1b\\ \x1b[38;5;1\"onclick=hit()m y"),
    "error": raised(f"E{SCRIPT}", f"{SCRIPT} {{{{< env LEPTON_TEST_SECRET >}}}}"),
    "caption": shown(
        {"image/png": base64.b64encode(png(1)).decode()},
        f"#| fig-cap: '![a](/hit-caption) {SCRIPT} <img src=x onerror=hit()>'\n#| fig-alt: '\" onerror=\"hit()'\n"
        "#| label: 'fig-a\" onclick=\"hit()'\nplot()",
    ),
    "expectation": shown(
        {"application/vnd.lepton.expectation+json": {"passed": [SCRIPT]}, "text/plain": f"{SCRIPT} {{{{< env X >}}}}"}
    ),
    "style": shown(
        {"text/html": "<style>#a {background: url(/hit-sheet); color: red} @import '/hit';</style><table><tr><td id=a>1"}
    ),
    "code": shown({"text/plain": "1"}, f"x = '''\n```\n{SCRIPT}\n---\n{{{{< env LEPTON_TEST_SECRET >}}}}\n'''"),
}  # fmt: skip
LEFT_OUT = {"options": new_code_cell("#| fig-cap: a: b\n1", execution_count=1)}
NAMES = ["<img src=x onerror=hit()>", 'a" onfocus=hit() autofocus="', "50 % of #1 {{< env LEPTON_TEST_SECRET >}}"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Manifest]]:
    """A project with runs of hostile notebooks, beside files that are not theirs."""
    outside = tmp_path_factory.mktemp("outside")
    (outside / "words.md").write_text(OUTSIDE)
    (outside / "head.html").write_text(f"{SCRIPT}{OUTSIDE}")
    (outside / "outside.png").write_bytes(png(7))
    (outside / "filter.lua").write_text(f"io.open('{outside}/touched', 'w'):close()\nreturn {{}}\n")
    project = outside / "project"
    copy_folders(project, "reports")
    (project / "lepton.toml").write_text("")
    good = run_notebook(
        Request(write_notebook(project / "notebooks" / "good.ipynb", ["print('all is well')"])), project
    )
    (project / "notebooks" / "linked.png").symlink_to(outside / "outside.png")
    runs = {"good": good}
    for name in NAMES:
        path = write_notebook(project / "notebooks" / f"{name}.ipynb", ["1"], title=f"{SCRIPT} {{{{< env X >}}}}")
        runs[name] = run_notebook(Request(path), project)
    cells = {f"words-{name}": words(source) for name, source in MARKDOWN.items()}
    cells |= {f"output-{name}": cell for name, cell in OUTPUTS.items()} | LEFT_OUT
    cells["attachment"] = words(
        "![a](attachment:a.png) <img src='attachment:b.png'>",
        attachments={"a.png": {"text/html": SCRIPT}, "b.png": {"image/png": '"><script>hit()</script>'}},
    )
    for number, (name, cell) in enumerate(cells.items()):
        runs[name] = foreign_run(project, good, f"{good.run_id[:-6]}{number:06x}", [cell], outside)
    evil = {"filters": [f"{outside}/filter.lua"], "title": SCRIPT, "widgets": {"x": SCRIPT}}
    metadata = {"kernelspec": {"name": "python3", "display_name": SCRIPT, "language": f'">{SCRIPT}'}, **evil}
    header = new_raw_cell(f"---\nfilters: [{outside}/filter.lua]\ninclude-in-header: {outside}/head.html\n---")
    runs["notebook"] = foreign_run(
        project, good, f"{good.run_id[:-6]}ffffff", [header, new_code_cell("1", execution_count=1)], outside, metadata
    )
    return project, runs


def foreign_run(
    project: Path, like: Manifest, run_id: str, cells: list[Any], outside: Path, metadata: Any = None
) -> Manifest:
    """Lay down the folder of a run that this project did not make."""
    folder = project / "runs" / run_id
    folder.mkdir()
    text = nbformat.writes(new_notebook(cells=cells, metadata=metadata or {})).replace("OUTSIDE", str(outside))
    (folder / "notebook.ipynb").write_text(text, encoding="utf-8")
    manifest = json.loads((like.folder(project) / "manifest.json").read_text()) | {"run_id": run_id}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Manifest.load(folder / "manifest.json")


@pytest.fixture(scope="module", params=["plain", "quarto"])
def built(
    request: pytest.FixtureRequest, made: tuple[Path, dict[str, Manifest]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Site, list[str]]]:
    """The site of all of them, and what was said of those that are left out."""
    if request.param == "quarto" and find_quarto() is None:
        pytest.skip("Quarto is not installed here")
    project = tmp_path_factory.mktemp(request.param) / "project"
    shutil.copytree(made[0], project, symlinks=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEPTON_TEST_SECRET", SECRET)
        if request.param == "plain":
            patch.setenv("LEPTON_QUARTO", "none")
        with pytest.raises(LeftOutError) as told:
            publish_runs(project, list(made[1].values()))
        yield build_site(project), str(told.value).splitlines()


def pages_of(site: Site) -> list[str]:
    return [path.relative_to(site.folder).as_posix() for path in sorted(site.folder.rglob("*.html"))]


def test_a_page_that_cannot_be_made_is_named_and_stops_no_other(
    built: tuple[Site, list[str]], made: tuple[Path, dict[str, Manifest]]
) -> None:
    site, told = built
    bad = made[1]["options"].run_id
    assert [line.partition(" is left out: ")[0] for line in told] == [f"run {bad}"]
    assert site.left_out == ()
    assert {path.parent.name for path in site.folder.glob("runs/*/index.html")} == {
        run.run_id for run in made[1].values() if run.run_id != bad
    }
    assert len(made[1]) > 60


def test_no_page_holds_what_is_not_its_own(
    built: tuple[Site, list[str]], made: tuple[Path, dict[str, Manifest]]
) -> None:
    picture = base64.b64encode(png(7)).decode()
    for path in built[0].folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes().decode("utf-8", "replace")
            assert not [mark for mark in (SECRET, OUTSIDE, picture, "root:x:0") if mark in content], path
    assert not (made[0].parent / "touched").exists()


def test_no_page_holds_a_control_character(built: tuple[Site, list[str]]) -> None:
    for name in pages_of(built[0]):
        if name.startswith("runs/"):
            text = (built[0].folder / name).read_text(encoding="utf-8")
            assert not [one for one in text if ord(one) < 32 and one not in "\n\t"], name


def test_a_browser_runs_nothing_of_them_and_asks_for_nothing(built: tuple[Site, list[str]], tmp_path: Path) -> None:
    site = built[0]
    asked: list[str] = []

    class Server(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            asked.append(self.path)

    with (
        ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, directory=str(site.folder))) as server,
        Browser(tmp_path / "profile") as browser,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        browser.call("Network.enable")
        browser.call("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
        control = site.folder / "control.html"
        control.write_text(
            "<style></style><main><p onmouseover=hit()>x</p><script>hit()</script><img src=/sent></main>"
        )
        browser.open(f"{address}control.html", 1280)
        assert len(browser.value(TOUCH)) == 2  # what runs is seen, and what is asked for
        assert f"{address}sent" in sent_by(browser)
        control.unlink()
        figures = [path.relative_to(site.folder).as_posix() for path in site.folder.rglob("figure.png")]
        own = {address + quote(name) for name in (*OWN_FILES, *figures)}
        runs = [f"runs/{path.parent.name}/" for path in site.folder.glob("runs/*/*.html")]
        for name in ["index.html", "runs.html", *runs]:
            page = address + quote(name)
            browser.open(page, 1280)
            assert browser.value(TOUCH) == [], name
            ours = (page, "data:", "blob:", f"{address}site_libs/")
            assert {url for url in sent_by(browser) if not url.startswith(ours)} <= own, name
            assert browser.value("location.href") == page
        server.shutdown()
    assert not [path for path in asked if "hit" in path.rpartition("/")[2]]


def sent_by(browser: Browser) -> list[str]:
    return [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]


OWN_FILES = ("favicon.ico", "search.json", "listings.json", "search.json.js", "lepton.css")
WATCH = "window.hits = []; window.hit = () => { hits.push(document.currentScript?.outerHTML ?? new Error().stack) };"
TOUCH = """(async () => {
  for (const part of document.querySelectorAll("main *")) {
    if (part.closest("[href^=http], [href^=mailto]")) continue;
    for (const name of ["mouseover", "focus", "toggle", "pointerenter", "animationstart", "load", "error", "begin"])
      part.dispatchEvent(new Event(name));
    if (part.matches("a[href]")) {
      if (/^\\s*(java|vb)script|^data|^file/i.test(part.getAttribute("href"))) hits.push(part.outerHTML);
    } else if (!part.matches("button, input")) part.dispatchEvent(new MouseEvent("click"));
  }
  await new Promise((done) => setTimeout(done, 50));
  return hits;
})()"""
