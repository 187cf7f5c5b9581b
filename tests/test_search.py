"""The search index: what a page says, word for word, without its code, in a file that a folder's pages can load."""

from __future__ import annotations

import json
from pathlib import Path

from lepton_kit.reports.search import LONGEST, entries_of, write_entries, write_index

PAGE = """<html><body><nav>Runs</nav><main><h1>Why did coverage fall?</h1>
<table class="facts"><tr><th scope="row">Status</th><td>succeeded</td></tr><tr><th scope="row">Cause</th><td>data</td>
</tr></table><dl><dt>window</dt><dd>20</dd><dt>service</dt><dd>goog</dd></dl>
<section id="meaning" class="level2"><h2>Meaning</h2><p>A promise was <b>broken</b>, and so an alert fired.</p>
<details class="code-fold"><summary>Code</summary><pre>import secrets_of_the_code</pre></details>
<table><tr><td>20261125T030000Z-<wbr>incident-<wbr>diagnosis</td><td>next</td></tr></table></section>
</main></body></html>"""


def test_cells_of_a_facts_table_do_not_run_together() -> None:
    top = entries_of(PAGE, "runs/a/index.html")[0]
    assert top["text"] == "Status: succeeded; Cause: data; window: 20; service: goog"


def test_each_heading_has_an_entry_of_its_own_that_leads_there() -> None:
    entries = entries_of(PAGE, "runs/a/index.html")
    assert [(entry["href"], entry["section"]) for entry in entries] == [
        ("runs/a/index.html", ""),
        ("runs/a/index.html#meaning", "Meaning"),
    ]
    assert {entry["title"] for entry in entries} == {"Why did coverage fall?"}
    assert entries[1]["text"] == (
        "A promise was broken, and so an alert fired. 20261125T030000Z-incident-diagnosis next"
    )


def test_code_and_navigation_are_not_found() -> None:
    text = json.dumps(entries_of(PAGE, "a"))
    assert "secrets_of_the_code" not in text
    assert "Runs" not in text


def test_text_of_a_page_stays_text_in_the_index() -> None:
    page = "<main><h1>A &lt;b&gt; title</h1><p>&lt;script&gt;steal()&lt;/script&gt;</p></main>"
    (entry,) = entries_of(page, "a")
    assert entry["text"] == "&lt;script&gt;steal()&lt;/script&gt;"
    assert "<" not in entry["title"]


def test_a_section_is_found_by_its_beginning_alone() -> None:
    (entry,) = entries_of(f"<main><p>{'word ' * LONGEST}</p></main>", "a")
    assert len(entry["text"]) <= LONGEST


def test_the_index_holds_all_pages_as_json_and_as_a_script(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        markup = f'<main><p>page "{name}" \\ ends</p></main>'
        write_entries(tmp_path / name / "index.html", f"{name}/index.html", markup)
    write_index(tmp_path, ["a/index.html", "b/index.html"])
    held = (tmp_path / "search.json").read_text()
    assert [entry["text"] for entry in json.loads(held)] == ['page "a" \\ ends', 'page "b" \\ ends']
    script = (tmp_path / "search.json.js").read_text()
    told = script.removeprefix('leptonFetched["search.json"](').removesuffix(");\n")
    assert json.loads(told) == held


def test_an_index_of_nothing_is_json(tmp_path: Path) -> None:
    write_index(tmp_path, [])
    assert json.loads((tmp_path / "search.json").read_text()) == []
