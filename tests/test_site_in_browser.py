"""The report site in a real browser: from a folder and from a server, light and dark, wide and on a phone."""

from __future__ import annotations

import base64
import itertools
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from browser import Browser
from helpers import Files, copy_folders, listening, write_notebook
from repairs import lay_incident
from services import wait_for

from lepton_kit.ops.incident_pages import publish_incident
from lepton_kit.reports.publish import publish_runs
from lepton_kit.reports.quarto import find_quarto
from lepton_kit.reports.site import build_site
from lepton_kit.runs.runner import Request, run_notebook

CELLS = [
    "lk.record('coverage', 0.71, unit='1')\nlk.record('cause', 'data')",
    "import pandas as pd\npd.DataFrame({f'column_{n}': [0.123456789] for n in range(20)})",
    "#| label: fig-cover\n#| fig-cap: Coverage by month.\n#| fig-alt: A line that falls.\n"
    "import matplotlib.pyplot as plt\nfig, ax = plt.subplots()\n"
    "ax.plot(pd.date_range('2026-11-25', periods=6, freq='h'), [0.9, 0.7, 0.8, 0.6, 0.9, 0.5], label='right answers')\n"
    "ax.set(xlabel='time (UTC)', ylabel='share (1)')\nplt.show()",
    "lk.expect(True, 'the window is positive')\nprint('a zebra ' + 'x' * 300)",
]
FORMULA = "The mean is $\\bar{x} = \\frac{1}{n} \\sum_i x_i$."


@pytest.fixture(scope="module", params=["nbconvert", "quarto"])
def pages(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[str]]]:
    """A site of two runs, by each of the two renderers: its folder, and the paths of its pages."""
    if request.param == "quarto" and find_quarto() is None:
        pytest.skip("Quarto is not installed here")
    project = tmp_path_factory.mktemp("pages")
    copy_folders(project, "reports")
    (project / "lepton.toml").write_text("")
    made = [
        run_notebook(
            Request(write_notebook(project / folder / f"{name}.ipynb", CELLS, title=f"About {name}\n\n{FORMULA}")),
            project,
        )
        for folder, name in (("runbooks", "incident-diagnosis"), ("runbooks", "service-health"))
    ]
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "nbconvert":
            patch.setenv("LEPTON_QUARTO", "none")
        publish_runs(project, made)
        published = lay_incident(project, "## Summary in plain words\n\nThe feed stood still.\n")
        publish_incident(project, published)
        site = build_site(project)
    runs = f"runs/{made[0].run_id}/index.html"
    yield site.folder, ["index.html", "incidents.html", "runs.html", runs, f"incidents/{published}/index.html"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def address(pages: tuple[Path, list[str]]) -> Iterator[str]:
    with listening(partial(Files, directory=str(pages[0]))) as found:
        yield f"{found}/"


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


def test_a_page_is_dark_where_its_reader_likes_it_so(
    pages: tuple[Path, list[str]], address: str, browser: Browser
) -> None:
    lightness = (
        "[getComputedStyle(document.body), getComputedStyle(document.documentElement)]"
        ".map(s => s.backgroundColor.match(/[\\d.]+/g).map(Number)).find(c => c.length < 4)[0]"
    )
    shown = {}
    for dark in (False, True):
        browser.open(address + pages[1][-1], 1280, dark=dark)
        shown[dark] = (
            browser.value(lightness),
            browser.value("getComputedStyle(document.querySelector('main figure img')).filter"),
        )
    assert shown[False][0] > 240 and shown[False][1] == "none"
    assert shown[True][0] < 40 and "invert" in shown[True][1]


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


UNTOLD = """[...document.querySelectorAll('table, figure img')].filter(part => {
  const box = part.closest('.scroll, figure') || part.parentElement;
  const isCut = part.getBoundingClientRect().width > box.getBoundingClientRect().width + 1;
  return isCut && !(box.scrollWidth > box.clientWidth && getComputedStyle(box, '::before').content.includes('Scroll'));
}).map(part => part.outerHTML.slice(0, 100))"""
TOLD = "[...document.querySelectorAll('.wide')].map(box => getComputedStyle(box, '::before').content).length"
CUT_WORDS = r"""(() => {
  const cut = [], walk = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);
  for (let node; (node = walk.nextNode());) {
    if (node.parentElement.closest('pre, code, svg, script, style, .hash')) continue;
    for (const word of node.data.matchAll(/\p{L}{2,25}/gu)) {
      const range = document.createRange();
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      if (new Set([...range.getClientRects()].map(box => Math.round(box.top))).size > 1) cut.push(word[0]);
    }
  }
  return cut;
})()"""
SMALL = """[...document.querySelectorAll('figure img')].filter(
  image => image.getBoundingClientRect().width < 0.7 * Math.min(image.naturalWidth, 800)
).length"""


@pytest.mark.parametrize("width", [390, 1100])
def test_what_does_not_fit_scrolls_and_says_so_no_word_is_cut_and_figures_can_be_read(
    pages: tuple[Path, list[str]], address: str, browser: Browser, width: int
) -> None:
    for path in pages[1]:
        browser.open(address + path, width)
        assert (browser.value(UNTOLD), browser.value(CUT_WORDS), browser.value(SMALL)) == ([], [], 0), path
    browser.open(address + pages[1][3], width)
    assert browser.value(TOLD) > 0  # a table of twenty columns


def test_pages_work_from_a_folder(pages: tuple[Path, list[str]], browser: Browser) -> None:
    for path in pages[1]:
        assert browser.open((pages[0] / path).as_uri(), 1280)["errors"] == [], path


def test_no_table_of_an_incident_is_wider_than_its_column(
    pages: tuple[Path, list[str]], address: str, browser: Browser
) -> None:
    browser.open(address + pages[1][-1], 1200)
    assert browser.value("document.querySelectorAll('table.data').length") > 3
    wide = "[...document.querySelectorAll('.scroll')].filter(s => s.scrollWidth > s.clientWidth).map(s => s.innerText)"
    assert browser.value(wide) == []


def test_a_printed_incident_is_its_words_without_what_only_a_screen_needs(
    pages: tuple[Path, list[str]], address: str, browser: Browser
) -> None:
    browser.open(address + pages[1][-1], 1200)
    printed = base64.b64decode(browser.call("Page.printToPDF")["data"])
    assert printed.startswith(b"%PDF")
    browser.call("Emulation.setEmulatedMedia", media="print")
    shown = browser.value("document.body.innerText")
    browser.call("Emulation.setEmulatedMedia", media="")
    assert "The feed stood still." in shown
    assert not [words for words in ("Downloads", "Search", "Quarto was not found") if words in shown]


def test_a_reader_looks_closer_at_a_figure_and_back_and_paper_has_the_picture(
    pages: tuple[Path, list[str]], browser: Browser
) -> None:
    """From a folder, without a server, and on a phone: a chart with the same points, each of which tells its value."""
    assert browser.open((pages[0] / pages[1][3]).as_uri(), 390)["errors"] == []
    browser.value("document.querySelector('button.closer').click()")
    wait_for(lambda: browser.value("document.querySelectorAll('.chart:not([hidden]) svg .mark-symbol path').length"))
    points = "[...document.querySelectorAll('.chart svg .mark-symbol.role-mark path')]"
    browser.value(f"{points}[0].scrollIntoView({{block: 'center'}})")
    last = browser.value(
        f"{points}.map(p => p.getBoundingClientRect()).map(b => [b.x + b.width / 2, b.y + b.height / 2])"
    )
    assert len(last) == 6
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=last[-1][0], y=last[-1][1])
    told = wait_for(lambda: browser.value("document.querySelector('#vg-tooltip-element.visible')?.innerText"))
    for words in ("right answers", "2026-11-25 05:00:00 UTC", "0.5"):
        assert words in told
    assert browser.value("document.documentElement.scrollWidth") <= 390
    displayed = "getComputedStyle(document.querySelector('{}')).display"
    assert browser.value(displayed.format("figure img.closer-shown")) == "none"
    browser.call("Emulation.setEmulatedMedia", media="print")
    on_paper = [browser.value(displayed.format(part)) for part in ("figure img.closer-shown", ".chart")]
    browser.call("Emulation.setEmulatedMedia", media="")
    assert on_paper[0] != "none" and on_paper[1] == "none"
    browser.value("document.querySelector('button.closer').click()")
    assert browser.value("document.querySelector('.chart').hidden && !document.querySelector('.closer-shown')")


def test_times_are_told_in_utc_and_where_the_reader_is(
    pages: tuple[Path, list[str]], address: str, browser: Browser
) -> None:
    browser.call("Emulation.setTimezoneOverride", timezoneId="Asia/Tokyo")
    browser.open(address + pages[1][-1], 1200)
    shown = browser.value("document.querySelector('main time').innerText")
    browser.call("Emulation.setTimezoneOverride", timezoneId="")
    assert shown.startswith("2026-11-25 09:01:55 UTC (") and "6:01:55" in shown and "GMT+9" in shown


def test_a_formula_is_drawn_by_the_browser_alone(pages: tuple[Path, list[str]], browser: Browser) -> None:
    assert browser.open((pages[0] / pages[1][3]).as_uri(), 1200)["errors"] == []
    heights = "[f, f.firstElementChild].map(e => e.getBoundingClientRect().height)"
    whole, above = browser.value(f"(f => {heights})(document.querySelector('main math mfrac'))")
    assert whole > 1.5 * above > 0, "the numerator does not stand above the denominator"
    assert "frac" not in browser.value("document.querySelector('main').innerText")


def test_a_figure_is_a_picture_and_never_part_of_the_page(
    pages: tuple[Path, list[str]], address: str, browser: Browser
) -> None:
    for path in pages[1][-2:]:
        browser.open(address + path, 1200)
        assert browser.value("[...document.querySelectorAll('main figure img')].some(i => /svg/.test(i.src))"), path
        assert browser.value("document.querySelectorAll('main svg').length") == 0, path


def test_a_listing_is_filtered_and_sorted_and_whole_without_a_script(
    pages: tuple[Path, list[str]], address: str, browser: Browser
) -> None:
    rows = "[...document.querySelectorAll('table.listing tbody tr')].map(row => row.cells[1].innerText)"
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(address + "runs.html", 1280)
    assert sorted(browser.value(rows)) == ["About incident-diagnosis", "About service-health"]
    browser.call("Emulation.setScriptExecutionDisabled", value=False)
    browser.open(address + "runs.html", 1280)
    browser.value("document.querySelectorAll('table.listing th button')[1].click()")
    assert browser.value(rows) == ["About incident-diagnosis", "About service-health"]
    assert browser.value("document.querySelector('th[aria-sort]').getAttribute('aria-sort')") == "ascending"
    browser.value("document.querySelectorAll('table.listing th button')[1].click()")
    assert browser.value(rows) == ["About service-health", "About incident-diagnosis"]
    typed = "i => { i.value = 'HEALTH about'; i.dispatchEvent(new Event('input')) }"
    browser.value(f"({typed})(document.querySelector('.filter input'))")
    assert browser.value(rows) == ["About service-health"]
    assert browser.value("document.querySelector('.filter [role=status]').innerText") == "1 of 2"


@pytest.mark.parametrize("place", ["a server", "a folder"])
def test_search_finds_a_word_of_a_page(
    pages: tuple[Path, list[str]], address: str, browser: Browser, place: str
) -> None:
    browser.open(address + "index.html" if place == "a server" else (pages[0] / "index.html").as_uri(), 1280)
    assert "incident-diagnosis" in wait_for(lambda: found_by_search(browser, "zebra"))


def test_search_finds_a_word_of_a_facts_table_and_tells_it_as_it_stands(
    pages: tuple[Path, list[str]], address: str, browser: Browser
) -> None:
    browser.open(address + "index.html", 1280)
    assert "incident-diagnosis" in wait_for(lambda: found_by_search(browser, "coverage"))
    snippets = browser.value("[...document.querySelectorAll('.aa-Item, nav .search li')].map(i => i.innerText).join()")
    assert re.search(r"coverage:? 0\.71\b", " ".join(snippets.split()))


def found_by_search(browser: Browser, word: str) -> str:
    """Type a word into the search of the open page, and return the addresses that it offers."""
    if browser.value("!!document.querySelector('#quarto-search')"):
        browser.value("document.querySelector('.aa-Input') || document.querySelector('#quarto-search button').click()")
        wait_for(lambda: browser.value("!!document.querySelector('.aa-Input')"))
    typed = f"i => {{ i.focus(); i.value = '{word}'; i.dispatchEvent(new Event('input', {{ bubbles: true }})) }}"
    browser.value(f"({typed})(document.querySelector('.aa-Input, nav .search input'))")
    return str(browser.value("[...document.querySelectorAll('.aa-Item a, nav .search a')].map(a => a.href).join()"))
