"""The report site: real runs, rendered by nbconvert and, where it is installed, by Quarto."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup, Tag
from helpers import PATIENCE_S, ROOT, copy_folders, lepton_here, write_notebook

import lepton_kit as lk
from lepton_kit.errors import InputError, LeptonError
from lepton_kit.reports.cards import Card
from lepton_kit.reports.facts import headlines
from lepton_kit.reports.health_history import history_html
from lepton_kit.reports.page import make_page, summary
from lepton_kit.reports.publish import measured, previous_run, publish_runs, reports_folder, unpublish
from lepton_kit.reports.quarto import find_quarto
from lepton_kit.reports.site import Site, build_site
from lepton_kit.reports.story import story_html
from lepton_kit.runs.manifest import Input, Manifest
from lepton_kit.runs.runner import Request, run_notebook

EVIL = (
    "<script>document.title = 'stolen'</script> | `tick`\n```\n<b>\n:::\n---\ntitle: stolen\n---\n::: {.callout-note}\n"
    "{{< env LEPTON_SECRET >}} {{< include /etc/passwd >}} </table> &amp; \\ $x$ @a [a](b)"
)
DIAGNOSIS = [
    "lk.input(table)\nlk.record('coverage', 0.7123456, unit='1')\nlk.record('mae', 2.345678, unit='USD')\n"
    "lk.record('cause', 'data')\nlk.record('rows', 1047, unit='rows')",
    "import pandas as pd\npd.DataFrame({'day': ['2008-09-15'], 'close': [433.86]})",
    "#| label: fig-cover\n#| fig-cap: 'Coverage < 90 % by month.'\n#| fig-alt: 'A line that \"falls\".'\n"
    "import matplotlib.pyplot as plt\nfig, ax = plt.subplots()\nax.plot([0.9, 0.7])\n"
    "lk.record('lowest', 0.7)\nplt.show()",
    "lk.expect(window > 0, 'the window is positive', window=window)",
    "with (lk.path('executions.txt')).open('a') as file:\n    _ = file.write('once\\n')",
]
HOSTILE = [
    "lk.record('text', text)\nlk.record('<b>name</b>', 1.0, unit='</td><script>u</script>')\n"
    "print(text)\nlk.expect(True, text)",
    "from IPython.display import HTML, Markdown, display\n"
    'display(HTML(\'<div onclick="x()">kept<script>document.title="stolen"</script></div>\'))\n'
    "display(HTML('<img src=x onerror=\"document.title=1\">'))\n"
    "display(Markdown('**bold** <script>document.title=\"stolen\"</script>\\n\\n::: {.callout-note}\\nx\\n:::'))\ntext",
    "shown = '''\n```\n:::\n---\ntitle: stolen\n---\n'''\nprint(shown)",
    "shown = '''\n\n{{< include /etc/passwd >}}\n\n{{< env LEPTON_SECRET >}}\n'''\nprint(shown)",
    "raise ValueError('``` {{< env LEPTON_SECRET >}} ' + text)",
    "print('never')",
    "print('nor this')",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Manifest]]:
    """A project (with a space in its path) whose notebooks have run: one left a table, one diagnosed it, one failed."""
    project = tmp_path_factory.mktemp("reports") / "my project"
    copy_folders(project, "reports")
    (project / "lepton.toml").write_text("")
    table = "import pandas as pd\npd.DataFrame({'a': [1]}).to_parquet(lk.artifact('clean.parquet'))"
    cleaning = write_notebook(project / "notebooks" / "01-clean.ipynb", [table], title="Cleaning")
    diagnosis = write_notebook(
        project / "runbooks" / "incident-diagnosis.ipynb", DIAGNOSIS, title="Why did coverage fall?",
        parameters="from pathlib import Path\ntable: Path = 'run:01-clean/clean.parquet'  # prices\nwindow: int = 30",
    )  # fmt: skip
    hostile = write_notebook(
        project / "notebooks" / "hostile.ipynb", HOSTILE, parameters="text: str = 'x'  # words",
        title="A <script>document.title='stolen'</script> {{< env LEPTON_SECRET >}} | `tick` *star*",
    )  # fmt: skip
    append_words(diagnosis, "See [cleaning](../notebooks/01-clean.ipynb) and [no such](gone.ipynb).")
    runs = {
        "clean": run_notebook(Request(cleaning), project),
        "diagnosis": run_notebook(Request(diagnosis, {"window": 20}), project),
        "hostile": run_notebook(Request(hostile, {"text": EVIL}), project),
    }
    assert [run.status for run in runs.values()] == ["succeeded", "succeeded", "failed"]
    return project, runs


def append_words(path: Path, words: str) -> None:
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_markdown_cell(f"## Next\n\n{words}"))
    nbformat.write(notebook, path)


@pytest.fixture(scope="module", params=["nbconvert", "quarto"])
def site(
    request: pytest.FixtureRequest, made: tuple[Path, dict[str, Manifest]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """The site of all three runs, by each of the two renderers."""
    if request.param == "quarto" and find_quarto() is None:
        pytest.skip("Quarto is not installed here")
    project = tmp_path_factory.mktemp(request.param) / "my project"
    shutil.copytree(made[0], project)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEPTON_SECRET", "hunter2")
        if request.param == "nbconvert":
            patch.setenv("LEPTON_QUARTO", "none")
        publish_runs(project, list(made[1].values()))
        yield build_site(project)


def page_of(site: Site, run: Manifest) -> BeautifulSoup:
    return BeautifulSoup((site.folder / "runs" / run.run_id / "index.html").read_text(encoding="utf-8"), "html.parser")


def facts_of(page: BeautifulSoup) -> dict[str, Tag]:
    table = page.select_one("table.facts")
    assert table is not None
    return {row.th.text: row.td for row in table.select("tr")}


def words_of(tag: Tag) -> str:
    """Return the words of a tag; where a long one may be broken is no word's end."""
    whole = BeautifulSoup(str(tag).replace("<wbr/>", ""), "html.parser")
    return " ".join(whole.get_text(" ").split())


def test_a_page_starts_with_the_facts_of_its_run(site: Site, made: tuple[Path, dict[str, Manifest]]) -> None:
    run = made[1]["diagnosis"]
    facts = {name: words_of(value) for name, value in facts_of(page_of(site, run)).items()}
    assert facts == {
        "Notebook": "runbooks/incident-diagnosis.ipynb",
        "Status": "succeeded",
        "Cause": "data",
        "Started": f"{run.started:%Y-%m-%d %H:%M:%S} UTC",
        "Duration": f"{run.duration_s:.1f} s",
        "Parameters": f"table run:{made[1]['clean'].run_id}/clean.parquet window 20",
        "Results": "coverage 0.7123 mae 2.346 USD rows 1,047 rows lowest 0.7",
        "Expectations": "1 passed",
    }


def test_a_page_ends_with_what_is_needed_to_trust_and_repeat_its_run(
    site: Site, made: tuple[Path, dict[str, Manifest]]
) -> None:
    run, clean = made[1]["diagnosis"], made[1]["clean"]
    box = page_of(site, run).select_one(".provenance")
    assert box is not None
    for part in (run.run_id, run.notebook_sha256, run.code_sha256, clean.artifacts[0].sha256, "pandas", "Python"):
        assert part in words_of(box)
    command = box.select_one("pre.command")
    assert command is not None
    again, compare = command.text.replace("\\\n", "").split("\n")
    assert again.split() == [
        "lepton", "run", "runbooks/incident-diagnosis.ipynb",
        "-p", "table", f"run:{clean.run_id}/clean.parquet", "-p", "window", "20",
    ]  # fmt: skip
    assert compare == f"lepton check {run.run_id}"


def test_an_input_links_to_the_run_that_made_it(site: Site, made: tuple[Path, dict[str, Manifest]]) -> None:
    page = page_of(site, made[1]["diagnosis"])
    link = page.select_one(".provenance a")
    assert link is not None
    assert link["href"] == f"../../runs/{made[1]['clean'].run_id}/index.html"


def test_an_artifact_is_shown_with_its_hash(site: Site, made: tuple[Path, dict[str, Manifest]]) -> None:
    clean = made[1]["clean"]
    box = page_of(site, clean).select_one(".provenance")
    assert box is not None
    assert f"clean.parquet {clean.artifacts[0].bytes:,} B {clean.artifacts[0].sha256}" in words_of(box)


def test_links_to_notebooks_lead_to_their_pages(site: Site, made: tuple[Path, dict[str, Manifest]]) -> None:
    page = page_of(site, made[1]["diagnosis"])
    links = {link.text: link["href"] for link in page.select("p a[href]")}
    assert links["cleaning"] == f"../../runs/{made[1]['clean'].run_id}/index.html"
    assert "no such" not in links
    assert "and no such." in words_of(page)


def test_the_title_stands_once(site: Site, made: tuple[Path, dict[str, Manifest]]) -> None:
    assert [heading.text for heading in page_of(site, made[1]["diagnosis"]).select("h1")] == ["Why did coverage fall?"]


def test_a_figure_keeps_caption_and_alt_text_beside_other_outputs(
    site: Site, made: tuple[Path, dict[str, Manifest]]
) -> None:
    page = page_of(site, made[1]["diagnosis"])
    figures = page.select("figure img")
    assert [image["alt"] for image in figures] == ['A line that "falls".']
    assert "Coverage < 90 % by month." in words_of(page.select_one("figcaption") or page)
    assert "lowest = 0.7" in words_of(page)


def test_tables_stay_and_code_is_folded_without_its_options(site: Site, made: tuple[Path, dict[str, Manifest]]) -> None:
    page = page_of(site, made[1]["diagnosis"])
    assert [cell.text for cell in page.select("table.data tbody td")] == ["2008-09-15", "433.86"]
    folded = [code.get_text() for code in page.select("details")]
    assert any("ax.plot([0.9, 0.7])" in code for code in folded)
    assert "#|" not in page.get_text()
    assert "vnd.lepton" not in page.get_text()


def test_a_picture_that_was_pasted_into_words_is_shown_and_one_that_is_missing_is_told() -> None:
    drawn = '<svg xmlns="http://www.w3.org/2000/svg"><script>a()</script><path d="M0 0"/></svg>'
    words = nbformat.v4.new_markdown_cell(
        "![a dot](attachment:dot.png), ![a line](attachment:line.svg), ![nothing](attachment:gone.png)",
        attachments={"dot.png": {"image/png": "iVBORw0KGgo=\n"}, "line.svg": {"image/svg+xml": drawn}},
    )
    page = BeautifulSoup(story_html(nbformat.v4.new_notebook(cells=[words])), "html.parser")
    dot, line = page.select("img")
    assert (dot["src"], dot["alt"]) == ("data:image/png;base64,iVBORw0KGgo=", "a dot")
    shown = base64.b64decode(str(line["src"]).removeprefix("data:image/svg+xml;base64,")).decode()
    assert "<path" in shown and "script" not in shown
    assert page.text.strip().endswith(", nothing")


def test_rendering_executes_nothing(site: Site) -> None:
    assert (site.folder.parents[1] / "executions.txt").read_text() == "once\n"


def test_values_never_become_markup(site: Site, made: tuple[Path, dict[str, Manifest]]) -> None:
    page = page_of(site, made[1]["hostile"])
    assert not [script for script in page.select("script") if "stolen" in script.text]
    assert not page.select("main [onclick], main [onerror], .callout, .callout-warning, .callout-note")
    shown = " ".join(EVIL.split())
    facts = facts_of(page)
    assert words_of(facts["Parameters"]) == f"text {shown}"
    assert words_of(facts["Results"]) == f"text {shown} <b>name</b> 1 </td><script>u</script>"
    assert shown in words_of(facts["Error"])
    assert shown in [words_of(printed) for printed in page.select(".cell-output pre.output")]


def test_no_page_tells_what_a_shortcode_asked_for(site: Site) -> None:
    for page in site.folder.rglob("*.*"):
        if page.suffix in (".html", ".json", ".xml"):
            text = page.read_text(encoding="utf-8")
            assert "hunter2" not in text
            assert "root:x:0" not in text


def test_a_failed_run_is_told_as_it_was(site: Site, made: tuple[Path, dict[str, Manifest]]) -> None:
    page = page_of(site, made[1]["hostile"])
    assert words_of(facts_of(page)["Status"]) == "failed"
    assert [note.text for note in page.select(".cell-note")] == [
        "The run stopped in this cell.",
        "This cell was not run.",
        "This cell was not run.",
    ]
    assert facts_of(page)["Error"].select_one("a[href='#stopped-here']")
    assert page.select_one("#stopped-here")
    assert "Execution using papermill" not in page.text


def test_the_home_page_lists_all_runs_the_newest_first(site: Site, made: tuple[Path, dict[str, Manifest]]) -> None:
    for name in ("index.html", "runs.html"):
        page = BeautifulSoup((site.folder / name).read_text(encoding="utf-8"), "html.parser")
        links = [
            re.sub(r"^(\./)?runs/|/index.html$", "", link["href"]) for link in page.select("main a[href*='runs/2']")
        ]
        assert list(dict.fromkeys(links)) == [made[1][name].run_id for name in ("hostile", "diagnosis", "clean")]


def test_the_incidents_page_lists_diagnoses_alone(site: Site, made: tuple[Path, dict[str, Manifest]]) -> None:
    page = (site.folder / "incidents.html").read_text(encoding="utf-8")
    assert made[1]["diagnosis"].run_id in page
    assert made[1]["clean"].run_id not in page


def test_every_page_leads_to_the_others(site: Site, made: tuple[Path, dict[str, Manifest]]) -> None:
    page = page_of(site, made[1]["clean"])
    links = {link.text.strip(): link["href"] for link in page.select("nav a[href]")}
    folder = site.folder / "runs" / made[1]["clean"].run_id
    for name in ("Home", "Runs", "Incidents"):
        assert (folder / links[name]).resolve().is_relative_to(site.folder.resolve())
        assert (folder / links[name]).is_file()


def test_nothing_is_fetched_from_the_network(site: Site) -> None:
    for path in site.folder.rglob("*.html"):
        page = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        fetched = [str(tag.get("src") or tag.get("href")) for tag in page.select("[src], link[href]")]
        assert not [url for url in fetched if re.match(r"(https?:)?//", url)], path
    for path in site.folder.rglob("*.css"):
        assert not re.search(r"@import|url\([\"']?(https?:)?//", path.read_text(encoding="utf-8")), path


def dom_of(page: Path, browser: str, profile: Path) -> BeautifulSoup:
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-dev-shm-usage", f"--user-data-dir={profile}",
        "--virtual-time-budget=3000", "--dump-dom", page.resolve().as_uri(),
    ]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if run.returncode < 0:  # on a busy machine Chromium itself crashes now and then
        run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr[-2000:]
    return BeautifulSoup(run.stdout, "html.parser")


def test_a_browser_shows_the_hostile_page_and_runs_none_of_it(
    site: Site, made: tuple[Path, dict[str, Manifest]], tmp_path: Path
) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium is installed here")
    shown = dom_of(site.folder / "runs" / made[1]["hostile"].run_id / "index.html", browser, tmp_path)
    assert shown.title is not None
    assert shown.title.text.endswith("Lepton Kit reports")
    assert words_of(facts_of(shown)["Status"]) == "failed"


@pytest.fixture
def own(
    made: tuple[Path, dict[str, Manifest]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, dict[str, Manifest]]:
    """The project and its runs for one test alone, rendered by nbconvert."""
    monkeypatch.setenv("LEPTON_QUARTO", "none")
    shutil.copytree(made[0], tmp_path / "own")
    return tmp_path / "own", made[1]


def test_without_quarto_the_site_says_so_in_one_line(own: tuple[Path, dict[str, Manifest]]) -> None:
    project, runs = own
    lines: list[str] = []
    publish_runs(project, [runs["clean"]])
    site = build_site(project, lines.append)
    assert site.tool == "nbconvert"
    assert site.note.startswith("Quarto was not found")
    assert "\n" not in site.note
    assert site.note in BeautifulSoup(site.index.read_text(encoding="utf-8"), "html.parser").text
    assert f"runs/{runs['clean'].run_id}/index.html" in lines


def test_what_is_no_longer_published_is_gone_with_all_that_lay_beside_it(
    own: tuple[Path, dict[str, Manifest]],
) -> None:
    project, runs = own
    publish_runs(project, list(runs.values()))
    build_site(project)
    unpublish(project, [runs["hostile"].run_id, runs["diagnosis"].run_id])
    site = build_site(project)
    for folder in (project / "reports" / "runs", site.folder / "runs"):
        assert [page.name for page in folder.iterdir()] == [runs["clean"].run_id]
    assert runs["hostile"].run_id not in "".join(path.read_text("utf-8") for path in site.folder.glob("*.*"))
    assert not list((project / "reports").glob(".building-*"))


def test_unpublishing_what_is_not_published_changes_nothing(own: tuple[Path, dict[str, Manifest]]) -> None:
    project, runs = own
    publish_runs(project, [runs["clean"]])
    with pytest.raises(InputError, match="'nothing': is not published"):
        unpublish(project, [runs["clean"].run_id, "nothing"])
    assert (project / "reports" / "runs" / runs["clean"].run_id).is_dir()


def test_only_what_changed_is_rendered_again(own: tuple[Path, dict[str, Manifest]]) -> None:
    project, runs = own
    publish_runs(project, [runs["clean"], runs["hostile"]])
    assert len(build_site(project).rendered) == 2
    untouched = project / "reports" / "_site" / "runs" / runs["clean"].run_id / "index.html"
    written = untouched.stat().st_ino, untouched.stat().st_mtime_ns
    publish_runs(project, [runs["clean"], runs["diagnosis"]])  # the first as it was
    site = build_site(project)
    assert site.rendered == (f"runs/{runs['diagnosis'].run_id}",)
    assert (untouched.stat().st_ino, untouched.stat().st_mtime_ns) == written
    assert {page.name for page in (site.folder / "runs").iterdir()} == {run.run_id for run in runs.values()}
    assert build_site(project).rendered == ()
    assert len(build_site(project, is_full=True).rendered) == 3


def test_a_page_more_renders_no_page_of_words_and_yet_they_list_it(own: tuple[Path, dict[str, Manifest]]) -> None:
    project, runs = own
    publish_runs(project, [runs["clean"]])
    build_site(project)
    publish_runs(project, [runs["diagnosis"]])
    lines: list[str] = []
    site = build_site(project, lines.append)
    assert lines == [f"runs/{runs['diagnosis'].run_id}/index.html"]
    for name in ("index.html", "runs.html", "incidents.html", "search.json"):
        assert f"runs/{runs['diagnosis'].run_id}/index.html" in (site.folder / name).read_text(encoding="utf-8"), name


def test_a_place_for_what_is_not_listed_is_an_error(own: tuple[Path, dict[str, Manifest]]) -> None:
    project, runs = own
    page = project / "reports" / "runs.qmd"
    page.write_text(page.read_text() + "\n::: {#nothing}\n:::\n")
    publish_runs(project, [runs["clean"]])
    with pytest.raises(InputError, match=r"runs\.html: has a place 'nothing'"):
        build_site(project)


def test_a_change_of_the_theme_renders_every_page_again(own: tuple[Path, dict[str, Manifest]]) -> None:
    project, runs = own
    publish_runs(project, list(runs.values()))
    build_site(project)
    with (project / "reports" / "lepton.css").open("a") as css:
        css.write("/* changed */\n")
    assert len(build_site(project).rendered) == 3


def test_a_site_of_no_runs_is_a_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEPTON_QUARTO", "none")
    copy_folders(tmp_path, "reports")
    assert "<p>None.</p>" in build_site(tmp_path).index.read_text(encoding="utf-8")


def test_a_failed_render_leaves_the_old_site_as_it_was(
    own: tuple[Path, dict[str, Manifest]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, runs = own
    publish_runs(project, list(runs.values()))
    before = build_site(project).index.read_bytes()
    failing = tmp_path / "quarto"  # stands in for a Quarto that fails half-way
    failing.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo 1.7.34 && exit\nmkdir -p "$4" && echo half > "$4/index.html"\nexit 1\n'
    )
    failing.chmod(0o755)
    monkeypatch.setenv("LEPTON_QUARTO", str(failing))
    with pytest.raises(LeptonError, match="could not render"):
        build_site(project)
    assert (project / "reports" / "_site" / "index.html").read_bytes() == before
    assert not list((project / "reports").glob(".building-*"))


def test_a_reader_never_finds_half_a_site(own: tuple[Path, dict[str, Manifest]]) -> None:
    project, runs = own
    publish_runs(project, [runs["clean"]])
    index = build_site(project).index
    missing, ended = [], threading.Event()

    def read() -> None:
        while not ended.wait(0.001):  # which leaves the interpreter to what is read
            try:
                is_whole = "</html>" in index.read_text(encoding="utf-8")
            except FileNotFoundError:
                is_whole = False
            if not is_whole:
                missing.append(time.monotonic())

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(3):
        build_site(project, is_full=True)
    ended.set()
    reader.join()
    assert not missing


def test_those_who_publish_at_once_do_not_collide(own: tuple[Path, dict[str, Manifest]]) -> None:
    project, runs = own
    command = [sys.executable, "-m", "lepton_kit.cli", "publish"]
    publishing = [
        subprocess.Popen(
            [*command, run.run_id], cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for run in runs.values()
    ]
    told = [process.communicate(timeout=PATIENCE_S)[0] for process in publishing]
    assert [process.returncode for process in publishing] == [0, 0, 0], told
    assert {page.name for page in (project / "reports" / "_site" / "runs").iterdir()} == {
        run.run_id for run in runs.values()
    }
    home = (project / "reports" / "_site" / "index.html").read_text(encoding="utf-8")
    assert all(run.run_id in home for run in runs.values())


def test_results_stand_beside_those_of_the_run_before(own: tuple[Path, dict[str, Manifest]]) -> None:
    project, runs = own
    again = run_notebook(Request(project / "runbooks" / "incident-diagnosis.ipynb", {"window": 21}), project)
    manifest = project / "runs" / again.run_id / "manifest.json"
    held = json.loads(manifest.read_text())
    held["results"]["mae"]["value"] = 2.0
    manifest.write_text(json.dumps(held))
    publish_runs(project, [runs["diagnosis"], Manifest.load(manifest)])
    page = page_of(build_site(project), again)
    rows = {row.td.text: words_of(row) for row in page.select("table.results tbody tr") if row.td}
    assert rows["mae"] == "mae 2 USD 2.346 -0.3457 (-14.7%)"
    assert rows["rows"] == "rows 1,047 rows 1,047 same"
    assert f"lepton diff {runs['diagnosis'].run_id} {again.run_id}" in words_of(page)


def test_runs_are_compared_only_with_those_of_the_same_service_and_input(own: tuple[Path, dict[str, Manifest]]) -> None:
    project, runs = own
    first = runs["diagnosis"]

    def kept(run_id: str, **changes: object) -> Manifest:
        run = first.model_copy(update={"run_id": f"{run_id}-incident-diagnosis-aaaaaa", **changes})
        (project / "runs" / run.run_id).mkdir()
        run.save(project / "runs" / run.run_id)
        return run

    live = [Input(parameter="recording", ref="incidents/x/recording", sha256="ab" * 32, run=None)]
    of_live = kept("29990101T000000Z", inputs=live)
    assert previous_run(of_live, project) is None
    same = kept("29990101T000001Z", inputs=live)
    assert previous_run(same, project) == of_live
    elsewhere = kept("29990101T000002Z", inputs=live, parameters={**first.parameters, "service": "scoring"})
    assert previous_run(elsewhere, project) is None
    nights = [
        kept(
            f"2999010{day}T030000Z",
            trigger="schedule:nightly",
            inputs=[live[0].model_copy(update={"ref": f"incidents/{day}"})],
        )
        for day in (2, 3)
    ]
    assert previous_run(nights[1], project) == nights[0]
    again = [
        kept(
            f"2999010{day}T000000Z",
            inputs=[
                Input(ref=f"run:2026110{day}T000000Z-01-data-cleaning-abcdef/clean.parquet", sha256=None, run=None)
            ],
        )
        for day in (4, 5)
    ]
    assert previous_run(again[1], project) == again[0]  # an artifact of the same notebook, by another run of it


def test_values_that_a_notebook_recorded_read_as_words(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs: list[dict[str, object]] = []
    monkeypatch.setattr("IPython.display.display", lambda bundle, raw: outputs.append(bundle))
    lk.record("also", [])
    lk.record("causes", ["data", "compute"])
    lk.record("probability", 0.99999, unit="1", title="Probability")
    lk.record("rolled_back", False)
    lk.record("lasted", float("nan"), unit="s")
    lk.record("counts", pd.DataFrame({"who": ["a", None], "is_up": [True, False], "n": [1234, 5]}))
    lk.expect(True, "enough", answered=["coverage", "contract"], extra=None)
    cells = [
        nbformat.v4.new_code_cell("1", outputs=[nbformat.v4.new_output("display_data", data=one) for one in outputs])
    ]
    cells[0].execution_count = 1
    page = BeautifulSoup(story_html(nbformat.v4.new_notebook(cells=cells)), "html.parser")
    text = " ".join(page.get_text(" ").split())
    for said in (
        "also = none", "causes = data, compute", "Probability = over 0.9999", "rolled back = no",
        "lasted = not known", "✓ enough (answered = coverage, contract, extra = none)",
    ):  # fmt: skip
        assert said in text
    assert [cell.text for cell in page.select("table.data td")] == ["a", "yes", "1,234", "–", "no", "5"]
    for python in ("[]", "False", "None", "nan", "['"):
        assert python not in text


def facts_of_card(where: str) -> dict[str, str]:
    return {"service": "goog", "input": where}


def test_an_sli_that_is_better_says_than_what() -> None:
    measured = [{"sli": "p50", "unit": "ms", "before": 7.2, "now": 5.11, "verdict": "better"}]
    alike = [{**measured[0], "now": 3.63, "verdict": "alike"}]
    made = [(3, "nightly", measured), (2, "nightly", alike), (1, "runbooks/recordings/stale-feed", measured)]
    cards = [
        Card("runs", f"r{day}", "t", f"2026-11-0{day}", "d", "service-health", (), None, facts_of_card(where), rows)
        for day, where, rows in made
    ]
    page = BeautifulSoup(history_html(cards), "html.parser")
    assert "▲ better than 7.2 ms" in page.text
    assert "not than in the run before" in page.text
    assert [head.text for head in page.select("h3")] == ["goog", "goog"]  # a rehearsal is no part of the live series
    assert ["stale-feed" in part.text for part in page.select("p.quiet")].count(True) == 1


def test_a_history_is_drawn_as_a_line_that_what_is_missing_interrupts_and_marks_what_got_worse() -> None:
    values = [(1.0, "alike"), (None, "not measured"), (3.0, "worse"), (2.0, "alike")]
    rows = [{"sli": "p50 <b>", "unit": "ms", "before": 1.5, "now": now, "verdict": verdict} for now, verdict in values]
    cards = [
        Card("runs", f"r{day}", "t", f"2026-11-0{day}", "d", "service-health", (), None, facts_of_card("x"), [row])
        for day, row in enumerate(rows, 1)
    ]
    page = BeautifulSoup(history_html(cards[::-1]), "html.parser")
    drawn = page.select_one("svg.spark")
    assert drawn is not None and drawn["aria-label"] == "p50 <b> over 4 runs: from 1 ms to 3 ms, 2 ms in the newest"
    assert len(drawn.select("polyline")) == 2 and len(drawn.select("path.worse")) == 1
    assert "▼ worse than 1.5 ms" in page.text and page.text.count("–") == 1


def test_slis_of_a_run_are_read_without_what_no_listing_shows() -> None:
    table = {
        "columns": ["sli", "unit", "before", "now", "verdict", "low"],
        "rows": [["p50", "ms", 7.2, 5.1, "better", 5]],
    }
    run = SimpleNamespace(results={"slis": SimpleNamespace(value=table)})
    assert measured(run) == [{"sli": "p50", "unit": "ms", "before": 7.2, "now": 5.1, "verdict": "better"}]  # type: ignore[arg-type]


def test_the_headlines_that_a_notebook_names_stand_for_it_by_their_titles(
    own: tuple[Path, dict[str, Manifest]],
) -> None:
    project, runs = own
    run = runs["diagnosis"]
    named = {"title": "Mean absolute error", "headline": True}
    mae = run.results["mae"].model_copy(update=named)
    run = run.model_copy(update={"results": {**run.results, "mae": mae}})
    assert headlines(run) == [("Mean absolute error", "2.346 USD")]
    assert summary(run).endswith("Mean absolute error 2.346 USD")
    publish_runs(project, [run])
    page = page_of(build_site(project), run)
    assert "Mean absolute error 2.346 USD and 3 more" in words_of(facts_of(page)["Results"])
    assert "Mean absolute error" in [row.td.text for row in page.select("table.results tbody tr")]


def test_a_page_offers_notebook_manifest_and_recording(own: tuple[Path, dict[str, Manifest]]) -> None:
    project, runs = own
    (project / "held").mkdir()
    (project / "held" / "incident.json").write_text("{}")
    run = runs["clean"].model_copy(update={"parameters": {"recording": "held"}})
    publish_runs(project, [run])
    site = build_site(project)
    links = [link["href"] for link in page_of(site, run).select(".downloads a")]
    assert links == ["notebook.ipynb", "manifest.json", "recording.zip"]
    folder = site.folder / "runs" / run.run_id
    assert json.loads((folder / "manifest.json").read_text())["run_id"] == run.run_id
    assert zipfile.ZipFile(folder / "recording.zip").namelist() == ["incident.json"]


def test_the_same_run_gives_the_same_page(made: tuple[Path, dict[str, Manifest]]) -> None:
    project, runs = made
    pages = [make_page(runs["diagnosis"], project, [])[0] for _ in range(2)]
    assert pages[0] == pages[1]


def test_a_run_whose_notebook_was_never_saved_has_a_page_that_says_so(
    made: tuple[Path, dict[str, Manifest]], tmp_path: Path
) -> None:
    lost = made[1]["clean"].model_copy(update={"status": "kernel_died"})
    page, figure = make_page(lost, tmp_path, [])
    assert "There is no executed notebook to show" in page
    assert "kernel died" in page
    assert figure is None


def test_option_lines_that_are_not_yaml_are_named_with_run_and_cell(
    made: tuple[Path, dict[str, Manifest]], tmp_path: Path
) -> None:
    run = made[1]["clean"]
    folder = tmp_path / "runs" / run.run_id
    write_notebook(folder / "notebook.ipynb", ["#| fig-cap: a: b\n1"])
    with pytest.raises(InputError, match=rf"run {run.run_id}: cell 2: its `#\|` lines are not YAML"):
        make_page(run, tmp_path, [])


def test_a_page_that_cannot_be_made_changes_no_other(made: tuple[Path, dict[str, Manifest]], tmp_path: Path) -> None:
    run = made[1]["clean"]
    copy_folders(tmp_path, "reports")
    write_notebook(tmp_path / "runs" / run.run_id / "notebook.ipynb", ["1"])
    publish_runs(tmp_path, [run])
    write_notebook(tmp_path / "runs" / run.run_id / "notebook.ipynb", ["#| fig-cap: a: b\n1"])
    page = tmp_path / "reports" / "runs" / run.run_id / "page.html"
    before = page.read_bytes()
    with pytest.raises(InputError):
        publish_runs(tmp_path, [run])
    assert page.read_bytes() == before


@pytest.mark.parametrize("renderer", ["plain", "quarto"])
def test_a_published_page_that_cannot_be_rendered_or_listed_is_left_out_and_named(
    made: tuple[Path, dict[str, Manifest]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renderer: str
) -> None:
    if renderer == "quarto" and find_quarto() is None:
        pytest.skip("Quarto is not installed here")
    if renderer == "plain":
        monkeypatch.setenv("LEPTON_QUARTO", "none")
    project, runs = tmp_path / "own", {name: run.run_id for name, run in made[1].items()}
    shutil.copytree(made[0], project)
    publish_runs(project, list(made[1].values()))
    pages = project / "reports" / "runs"
    (pages / runs["hostile"] / "page.html").write_bytes(b"\xff no text")
    (pages / runs["diagnosis"] / "card.json").write_text("[]")
    site = build_site(project)
    assert {one.page for one in site.left_out} == {f"runs/{runs['hostile']}", f"runs/{runs['diagnosis']}"}
    assert all(one.reason for one in site.left_out)
    assert [path.parent.name for path in site.folder.glob("runs/*/index.html")] == [runs["clean"]]
    assert runs["hostile"] not in (site.folder / "runs.html").read_text(encoding="utf-8")
    publish_runs(project, [made[1]["hostile"], made[1]["diagnosis"]])  # made anew, they are back
    assert build_site(project).left_out == ()
    assert len(list(site.folder.glob("runs/*/index.html"))) == 3


def test_a_page_of_an_earlier_version_is_left_out_until_it_is_published_again(
    own: tuple[Path, dict[str, Manifest]],
) -> None:
    project, runs = own
    publish_runs(project, [runs["clean"], runs["diagnosis"]])
    path = project / "reports" / "runs" / runs["clean"].run_id / "card.json"
    card = json.loads(path.read_text())
    card.pop("format")
    path.write_text(json.dumps(card))
    site = build_site(project)
    assert [one.page for one in site.left_out] == [f"runs/{runs['clean'].run_id}"]
    assert "another version" in site.left_out[0].reason
    assert [made.parent.name for made in site.folder.glob("runs/*/index.html")] == [runs["diagnosis"].run_id]
    publish_runs(project, [runs["clean"]])
    assert build_site(project).left_out == ()


def test_publishing_by_command_goes_on_past_a_bad_page_and_names_it(own: tuple[Path, dict[str, Manifest]]) -> None:
    project, runs = own
    bad = project / "runs" / runs["diagnosis"].run_id / "notebook.ipynb"
    write_notebook(bad, ["#| fig-cap: a: b\n1"])
    told = lepton_here("publish", runs["clean"].run_id, runs["diagnosis"].run_id, project=project)
    assert told.returncode != 0
    assert f"run {runs['diagnosis'].run_id} is left out: " in told.stderr
    site = project / "reports" / "_site"
    assert [path.parent.name for path in site.glob("runs/*/index.html")] == [runs["clean"].run_id]
    again = lepton_here("report", project=project)
    assert again.returncode == 0, again.stderr
    assert f"run {runs['diagnosis'].run_id} is left out: " in again.stderr
    assert {path.parent.name for path in site.glob("runs/*/index.html")} == {
        runs[name].run_id for name in ("clean", "hostile")
    }


def test_a_project_without_a_quarto_project_gets_the_frame_of_the_kit_and_keeps_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "lepton.css").write_text("/* mine */")
    reports = reports_folder(tmp_path)
    assert (reports / "lepton.css").read_text() == "/* mine */"
    assert (reports / "_quarto.yml").read_bytes() == (ROOT / "reports" / "_quarto.yml").read_bytes()
    assert not (reports / "screenshots").exists()


def test_a_file_where_the_quarto_project_should_be_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "reports").write_text("")
    with pytest.raises(InputError, match="must be a folder"):
        build_site(tmp_path)


def test_what_rendering_leaves_is_ignored_by_git() -> None:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("this copy of the project is not under git")
    made = ["reports/_site/a", "reports/runs/b", "reports/.quarto/c", "reports/.building-d/e", "reports/x.quarto_ipynb"]
    run = subprocess.run(["git", "check-ignore", *made], cwd=ROOT, capture_output=True, text=True, env={**os.environ})
    assert run.stdout.split() == made


@pytest.mark.skipif(find_quarto() is None, reason="Quarto is not installed here")
def test_of_a_project_without_a_home_page_quarto_makes_none_that_leads_elsewhere(
    made: tuple[Path, dict[str, Manifest]], tmp_path: Path
) -> None:
    project = tmp_path / "own"
    shutil.copytree(made[0], project)
    (project / "reports" / "index.qmd").unlink()
    settings = project / "reports" / "_quarto.yml"
    settings.write_text(settings.read_text().replace("      - href: index.qmd\n        text: Home\n", ""))
    publish_runs(project, [made[1]["clean"]])
    site = build_site(project)
    assert not site.index.exists()
    assert len(list(site.folder.glob("runs/*/index.html"))) == 1


@pytest.mark.skipif(find_quarto() is None, reason="Quarto is not installed here")
def test_a_page_in_quartos_frame_has_its_own_title_date_and_headings(
    made: tuple[Path, dict[str, Manifest]], tmp_path: Path
) -> None:
    project, run = tmp_path / "own", made[1]["diagnosis"]
    shutil.copytree(made[0], project)
    publish_runs(project, [run])
    page = page_of(build_site(project), run)
    assert page.title is not None and page.title.text == "Why did coverage fall? – Lepton Kit reports"
    assert [date.text for date in page.select("p.date")] == [f"{run.started:%Y-%m-%d %H:%M}"]
    assert [name.text for name in page.select(".quarto-category")] == ["succeeded", "runbook"]
    links = [link["data-scroll-target"] for link in page.select("#TOC a")]
    assert links[-3:] == ["#next", "#results", "#provenance"] and all(map(page.select_one, links))
    assert "lepton-page" not in str(page) and "⟦" not in str(page)
