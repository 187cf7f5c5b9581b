"""The report site in a real browser: from a folder and from a server, light and dark, wide and on a phone."""

from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from browser import Browser
from helpers import ROOT, write_notebook
from services import wait_for

from lepton_kit.reports.publish import publish_runs
from lepton_kit.reports.quarto import find_quarto
from lepton_kit.reports.site import build_site
from lepton_kit.runs.runner import Request, run_notebook

CELLS = [
    "lk.record('coverage', 0.71, unit='1')\nlk.record('cause', 'data')",
    "import pandas as pd\npd.DataFrame({f'column_{n}': [0.123456789] for n in range(20)})",
    "#| label: fig-cover\n#| fig-cap: Coverage by month.\n#| fig-alt: A line that falls.\n"
    "import matplotlib.pyplot as plt\nfig, ax = plt.subplots()\nax.plot([0.9, 0.7])\nplt.show()",
    "lk.expect(True, 'the window is positive')\nprint('a zebra ' + 'x' * 300)",
]


@pytest.fixture(scope="module", params=["nbconvert", "quarto"])
def pages(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[str]]]:
    """A site of two runs, by each of the two renderers: its folder, and the paths of its pages."""
    if request.param == "quarto" and find_quarto() is None:
        pytest.skip("Quarto is not installed here")
    project = tmp_path_factory.mktemp("pages")
    shutil.copytree(
        ROOT / "reports", project / "reports", ignore=shutil.ignore_patterns("_site", "runs", "incidents", "listings")
    )
    (project / "lepton.toml").write_text("")
    made = [
        run_notebook(Request(write_notebook(project / folder / f"{name}.ipynb", CELLS, title=f"About {name}")), project)
        for folder, name in (("runbooks", "incident-diagnosis"), ("runbooks", "service-health"))
    ]
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "nbconvert":
            patch.setenv("LEPTON_QUARTO", "none")
        publish_runs(project, made)
        site = build_site(project)
    yield site.folder, ["index.html", "incidents.html", "runs.html", f"runs/{made[0].run_id}/index.html"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def address(pages: tuple[Path, list[str]]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(pages[0]))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_page_is_whole_and_sound_to_read(
    pages: tuple[Path, list[str]], address: str, browser: Browser, dark: bool
) -> None:
    for path in pages[1]:
        shown = browser.open(address + path, 1280, dark=dark)
        assert not [one for one in shown["errors"] if "favicon" not in str(one)], path
        broken = "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src).join()"
        assert browser.value(broken) == "", path
        levels = browser.value("[...document.querySelectorAll('main :is(h1,h2,h3,h4)')].map(h => +h.tagName[1])")
        assert levels[0] == 1
        assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), (path, levels)
        assert browser.accessibility_faults() == [], path


def test_every_link_leads_somewhere(pages: tuple[Path, list[str]], address: str, browser: Browser) -> None:
    for path in pages[1]:
        browser.open(address + path, 1280)
        links = browser.value("[...document.querySelectorAll('a[href]')].map(a => a.href.split('#')[0])")
        inside = sorted({link for link in links if link.startswith(address)})
        lost = f"Promise.all({inside}.map(l => fetch(l).then(r => r.ok ? '' : l))).then(found => found.join(''))"
        assert browser.value(lost) == "", path


def test_a_phone_shows_pages_without_scrolling_sideways(
    pages: tuple[Path, list[str]], address: str, browser: Browser
) -> None:
    for path in pages[1]:
        assert browser.open(address + path, 390)["scroll"] <= 390, path


def test_pages_work_from_a_folder(pages: tuple[Path, list[str]], browser: Browser) -> None:
    for path in pages[1]:
        assert browser.open((pages[0] / path).as_uri(), 1280)["errors"] == [], path


@pytest.mark.parametrize("place", ["a server", "a folder"])
def test_search_finds_a_word_of_a_page(
    pages: tuple[Path, list[str]], address: str, browser: Browser, place: str
) -> None:
    if not (pages[0] / "search.json").is_file():
        pytest.skip("plain pages have no search")
    browser.open(address + "index.html" if place == "a server" else (pages[0] / "index.html").as_uri(), 1280)
    browser.value("document.querySelector('#quarto-search button').click()")
    wait_for(lambda: browser.value("!!document.querySelector('.aa-Input')"))
    typed = "i => { i.focus(); i.value = 'zebra'; i.dispatchEvent(new Event('input', { bubbles: true })) }"
    browser.value(f"({typed})(document.querySelector('.aa-Input'))")
    found = "[...document.querySelectorAll('.aa-Item a')].map(a => a.href).join()"
    assert "incident-diagnosis" in wait_for(lambda: browser.value(found))
