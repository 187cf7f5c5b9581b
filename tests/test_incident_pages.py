"""The page of an incident: from the ledger and from a history, on the site and as a PDF, whatever its texts hold."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from helpers import ROOT, copy_folders
from repairs import Everything, project_with_repairs, proposal, propose
from test_postmortem import content
from watching import alert

from lepton_kit.diagnosis.history import History, read_history
from lepton_kit.diagnosis.judgement import parse_judgement
from lepton_kit.errors import InputError
from lepton_kit.ops import incident_pages
from lepton_kit.ops.incident_pages import (
    Incident,
    figure_of_objective,
    make_pdf,
    page_blocks,
    publish_incident,
    publish_pdfs,
)
from lepton_kit.ops.watch.history import freeze_history
from lepton_kit.ops.watch.queue import Queue
from lepton_kit.ops.watch.webhook import Alert
from lepton_kit.project.settings import read_settings
from lepton_kit.reports.blocks import Table, Words, as_cells, as_markdown
from lepton_kit.reports.publish import unpublish
from lepton_kit.reports.quarto import find_quarto
from lepton_kit.reports.site import build_site
from lepton_kit.telemetry.recordings import read_recording

STATES = ("firing", "resolved")
HOSTILE = "<script>document.title='owned'</script> {{< env HOME >}} `x` | [a](javascript:b) \x1b[31m"
WRITTEN = (
    "## Summary in plain words\n\nThe feed stood still.\n\n"
    "## What went well\n\n<b>The alert</b> came early.\n\n## Actions\n"
    "| action | owner | due | type | state |\n|---|---|---|---|---|\n"
    "| watch the age | Kim | 2026-12-01 | detect | open |\n"
)


def incident(**changes):
    diagnosis = content()["jobs"][0]
    results = diagnosis["run"]["results"]
    ranking = {"columns": ["cause", "probability", "for", "against"], "rows": [["data", 0.97, "contract", HOSTILE]]}
    for name, value in {"ranking": ranking, "reasons": ["data: it is broken"], "not_checked": [HOSTILE]}.items():
        results[name] = {"value": value}
    history = History.model_validate(content(jobs=[diagnosis, content()["jobs"][1]], **changes))
    return Incident(history, parse_judgement(WRITTEN), "", None, None, None, None, history, None, "")


def quarto_that_writes(path, text="%PDF"):
    """A program that stands in for Quarto: it makes a PDF of a few bytes, whatever it is given."""
    path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo 1.7.34 && exit\nprintf %s "{text}" > page.pdf\n')
    path.chmod(0o755)
    return str(path)


def shown(blocks):
    """Return the page as a reader without styles reads it."""
    cells = as_cells(blocks)
    html = "".join(
        cell.source if cell.cell_type == "markdown" else str(cell.outputs[0].data.get("text/markdown", ""))
        for cell in cells
    )
    return BeautifulSoup(html.replace("```{=html}", "").replace("```", ""), "html.parser")


def test_a_page_says_what_happened_why_and_what_was_done():
    page = shown(page_blocks(incident()))
    facts = {row.th.text: row.td.text for row in page.select("table.facts tr")}
    assert facts["Cause"] == "data (97% sure)"
    assert facts["Began"] == "2026-11-25 03:01:00 UTC"
    assert facts["Lasted"] == "20 min 0 s"
    text = " ".join(page.get_text(" ").split())
    assert "Done about it: the feed was restarted (recovered). It was over 20 min 0 s after it began." in text
    assert "approved by Kim" in text
    assert "lepton verify run-alert" in text
    assert page.select("time[datetime='2026-11-25T03:01:00Z']")


def test_what_people_wrote_is_told_apart_from_what_was_derived():
    judged = shown(page_blocks(incident())).select(".judged")
    assert ["The feed stood still." in part.text for part in judged].count(True) == 1
    assert all(part.select_one(".by").text == "Written by people" for part in judged)
    assert "contract" not in "".join(part.text for part in judged)
    assert "<b>The alert</b> came early." in "".join(part.text for part in judged)


def test_a_list_that_people_wrote_is_a_list_on_the_site_and_in_a_pdf():
    blocks = [Words("Two things:\n\n- the alert <b>came</b>\n- early", is_judged=True)]
    assert [item.text for item in shown(blocks).select(".judged ul li")] == ["the alert <b>came</b>", "early"]
    words, _ = as_markdown(blocks)
    assert [line[:5] for line in words.splitlines() if line.startswith("- ")] == ["- the", "- ear"]


def test_only_an_open_incident_names_a_next_action():
    said = content()["jobs"][0]
    said["run"]["results"]["next_action"] = {"value": "Run the data repair."}
    for status, named in (("firing", True), ("resolved", False)):
        history = History.model_validate(content(jobs=[said], alert=content()["alert"] | {"status": status}))
        page = shown(page_blocks(replace(incident(), history=history)))
        assert ("Next action" in page.select_one("table.facts").text) is named


def open_incident(*jobs, **said):
    """An incident whose alert fires, with what its diagnosis recorded."""
    diagnosis = content()["jobs"][0]
    diagnosis["run"]["results"] |= {name: {"value": value} for name, value in said.items()}
    alert = content()["alert"] | {"status": "firing", "ends_at": None}
    history = History.model_validate(content(jobs=[diagnosis, *jobs], alert=alert))
    return replace(incident(), history=history, recorded="incidents/i/recording")


def facts_of(one):
    return {row.th.text: row.td.text for row in shown(page_blocks(one)).select("table.facts tr")}


def test_the_next_action_is_the_one_that_the_repairs_wait_for_with_its_exact_command():
    def repair(state, **more):
        return content()["jobs"][1] | {"state": state, "run": None, "status": None} | more

    facts = facts_of(open_incident(repair("waiting"), next_action="Run the data repair: restart the feed."))
    assert (facts["Next action"], facts["Command"]) == ("Decide on the data repair.", "lepton approve i")
    both = facts_of(open_incident(repair("waiting"), repair("waiting", name="compute")))
    assert both["Command"] == "lepton approve i --cause data"
    assert "Wait: runbooks/remedy.ipynb is running" in facts_of(open_incident(repair("running")))["Next action"]
    nothing = facts_of(open_incident(next_action="Run the data repair: restart the feed."))
    assert nothing["Next action"] == "Run the data repair: restart the feed."
    failed = content()["jobs"][1]
    failed["run"]["results"]["verdict"]["value"] = "not recovered"
    again = facts_of(open_incident(failed))
    assert "did not help (not recovered): diagnose again" in again["Next action"]
    assert again["Command"] == "lepton run runbooks/alert.ipynb"
    assert "Command" not in facts_of(incident())


def test_a_second_cause_is_named_in_the_summary_and_in_listings():
    one = open_incident(also=["compute"], reasons=["data: rows repeat", "compute: requests take longer"])
    text = " ".join(shown(page_blocks(one)).get_text(" ").split())
    assert "The diagnosis found the data at fault: rows repeat. At work beside it: compute, as requests take" in text
    assert "At work beside it: compute" in incident_pages._card(one).description


def test_a_page_of_shortened_windows_says_so():
    promise = content()["promise"] | {"time_scale": 600}
    history = History.model_validate(content(promise=promise, time_scale=600))
    page = shown(page_blocks(replace(incident(), history=history)))
    assert "demo time ×600: all windows are 600 times shorter, 10 s stand for 1 h 40 min" in page.text
    assert "All in demo time ×600." in page.text
    assert "demo time" not in shown(page_blocks(incident())).text


def test_began_is_the_onset_of_the_diagnosis_on_the_page_and_in_listings():
    one = incident()
    onset = one.history.diagnosed["onset"]
    assert facts_of(one)["Began"] == f"{onset[:10]} {onset[11:19]} UTC"
    assert incident_pages._card(one).date.startswith(f"{onset[:10]} {onset[11:19]}")


def test_publishing_later_gives_the_same_numbers_whatever_the_settings_say_by_then(watched):
    copy_folders(watched, "slo")
    text = (watched / "lepton.toml").read_text()
    services = '[services.goog]\nmodel = "goog"\ncost_per_minute = 3.5\n'
    (watched / "lepton.toml").write_text(services + text.replace("[watch]", "[watch]\ntime_scale = 600"))
    queue = Queue(watched)
    posted = {state: Alert.model_validate(alert(1, state, alertname="GoogLatencyBudgetBurn")) for state in STATES}
    id = posted["firing"].incident
    queue.receive([posted["firing"]], "webhook", Everything())
    queue.end(queue.take(), "run-1", "succeeded")
    folder = watched / "incidents" / id / "recording"
    shutil.copytree(ROOT / "runbooks/recordings/queue-saturation", folder)
    publish_incident(watched, id)
    (watched / "lepton.toml").write_text(text)  # the demonstration is over: windows as usual, and no such service
    queue.receive([posted["resolved"]], "webhook", Everything())
    assert incident_pages.gather(watched, id).history.time_scale == 600
    pages = []
    for _ in range(2):
        publish_incident(watched, id)
        pages.append((watched / "reports" / "incidents" / id / "index.ipynb").read_text())
        shutil.rmtree(watched / "slo", ignore_errors=True)
    assert pages[0] == pages[1]
    assert "demo time ×600" in pages[0]
    history = read_history(watched / "incidents" / id / "history.json")
    assert (history.is_over, history.promise.time_scale, history.promise.name) == (True, 600, "goog-latency")


def test_a_page_says_when_people_have_written_nothing():
    blank = Incident(**{**vars(incident()), "judgement": parse_judgement("")})
    assert "Nobody has written anything yet; it belongs into incidents/" in shown(page_blocks(blank)).text


def test_only_runs_that_have_a_page_are_linked():
    blocks = page_blocks(replace(incident(), linked={"run-alert"}))
    assert [link["href"] for link in shown(blocks).select("a")] == ["../../runs/run-alert/index.html"]


def test_impact_and_cost_are_measured_from_the_recording():
    recording = read_recording(ROOT / "runbooks/recordings/stale-feed")
    window = recording.incident.window
    alert = content()["alert"] | {"starts_at": str(window.start), "ends_at": str(window.end)}
    measured = Incident(
        **{**vars(incident(alert=alert)), "recording": recording, "cost_per_minute": 12.0, "currency": "EUR"}
    )
    table = next(b for b in page_blocks(measured) if isinstance(b, Table) and b.head[0] == "Impact")
    rows = {row[0]: row[1:] for row in table.rows}
    assert int(rows["requests, from onset to end"][0].replace(",", "")) > 0
    assert rows["cost, at 12 a minute"][1] == "EUR"


def test_the_decisive_figure_is_the_objective_that_alerted_before_during_and_after():
    shipped = ROOT / "runbooks/recordings/stale-feed-repaired"
    history = read_history(shipped / "history.json")
    recordings = [read_recording(shipped / name) for name in ("recording", "after")]
    figure = figure_of_objective(history, *recordings)
    assert figure.caption.startswith("Freshness, the objective that alerted")
    assert "from 100 % at first to 100 % at last; the lowest is 0 %" in figure.alt
    assert figure.svg.startswith("<svg")
    without = figure_of_objective(history.model_copy(update={"promise": None}), *recordings)
    assert without is None and figure_of_objective(history, None, None) is None


def test_the_previous_incident_of_the_kind_is_compared_by_results():
    one = incident()
    jobs = json.loads(one.history.model_dump_json())["jobs"]
    jobs[0]["run"]["results"]["cause"]["value"] = "model"
    other = Incident(**{**vars(one), "previous": History.model_validate(content(jobs=jobs, id="earlier"))})
    table = next(b for b in page_blocks(other) if isinstance(b, Table) and b.head[-1] == "This one")
    assert [list(row) for row in table.rows] == [["cause", "model", "data"]]


def test_text_never_becomes_markup_neither_on_the_site_nor_in_a_pdf():
    blocks = [Words(HOSTILE), Table(["a"], [[HOSTILE]])]
    page = shown(blocks)
    assert not page.select("script, a")
    assert "<script>document.title='owned'</script>" in page.text
    words, _ = as_markdown(blocks)
    paragraph, _head, _rule, row = [line for line in words.splitlines() if line]
    assert not set("<>{}`[]|()") & set(paragraph)
    assert row.count("|") == 2  # those of the table itself


@pytest.fixture
def watched(project, monkeypatch):
    project_with_repairs(project)
    copy_folders(project, "reports")
    monkeypatch.setenv("LEPTON_QUARTO", "none")
    return project


def test_an_incident_of_the_ledger_is_published_listed_and_fed(watched):
    id = propose(Queue(watched), proposal("data", "ask"))
    publish_incident(watched, id)
    site = build_site(watched)
    page = BeautifulSoup((site.folder / "incidents" / id / "index.html").read_text(), "html.parser")
    assert [link["href"] for link in page.select(".downloads a")] == ["history.json"]
    assert json.loads((site.folder / "incidents" / id / "history.json").read_text())["id"] == id
    for name in ("index.html", "incidents.html"):
        assert f"incidents/{id}/index.html" in (site.folder / name).read_text()
    items = ElementTree.parse(site.folder / "incidents.xml").getroot().findall("channel/item")
    assert [item.findtext("link") for item in items] == [f"incidents/{id}/index.html"]
    unpublish(watched, [id])
    assert id not in "".join(path.read_text() for path in build_site(watched).folder.rglob("*.*ml"))


def test_publishing_again_never_writes_over_what_people_wrote(watched):
    id = propose(Queue(watched), proposal("data", "ask"))
    publish_incident(watched, id)
    judgement = watched / "incidents" / id / "judgement.md"
    judgement.write_text(WRITTEN)
    publish_incident(watched, id)
    assert judgement.read_text() == WRITTEN
    page = build_site(watched).folder / "incidents" / id / "index.html"
    assert "The feed stood still." in page.read_text()


def test_publishing_leaves_the_frozen_history_as_the_postmortem_read_it(watched):
    queue = Queue(watched)
    incident = queue.incident(propose(queue, proposal("data", "ask")))
    frozen = freeze_history(incident, queue, read_settings(watched), watched)
    before = frozen.read_bytes()
    publish_incident(watched, incident.id)
    assert frozen.read_bytes() == before


def test_an_incident_that_is_not_in_the_ledger_is_an_error(watched):
    with pytest.raises(InputError, match="incident 'x': none of the ledger"):
        publish_incident(watched, "x")


def test_a_pdf_without_quarto_is_an_error_that_says_what_is_needed(tmp_path, monkeypatch):
    monkeypatch.setenv("LEPTON_QUARTO", "none")
    with pytest.raises(InputError, match="a PDF needs Quarto"):
        make_pdf(incident(), page_blocks(incident()), tmp_path)


def test_pdfs_are_made_of_published_incidents_that_have_none_or_have_changed(watched, tmp_path, monkeypatch):
    ids = [propose(Queue(watched), proposal("data", "ask"), number=number) for number in (1, 2)]
    for id in ids:
        publish_incident(watched, id)
    monkeypatch.setenv("LEPTON_QUARTO", quarto_that_writes(tmp_path / "quarto"))
    assert {card.id for card in publish_pdfs(watched)} == set(ids)
    assert publish_pdfs(watched) == []
    (watched / "incidents" / ids[0] / "judgement.md").write_text(WRITTEN)
    monkeypatch.setenv("LEPTON_QUARTO", quarto_that_writes(tmp_path / "quarto", "%PDF anew"))
    assert [card.id for card in publish_pdfs(watched)] == [ids[0]]
    pdfs = [(watched / "reports" / "incidents" / id / "incident.pdf").read_bytes() for id in ids]
    assert pdfs == [b"%PDF anew", b"%PDF"]


def test_publishing_again_keeps_a_pdf_that_says_the_same_and_no_other(watched, tmp_path, monkeypatch):
    id = propose(Queue(watched), proposal("data", "ask"))
    monkeypatch.setenv("LEPTON_QUARTO", quarto_that_writes(tmp_path / "quarto"))
    publish_incident(watched, id, with_pdf=True)
    publish_incident(watched, id)
    made = watched / "reports" / "incidents" / id / "incident.pdf"
    assert made.read_bytes() == b"%PDF"
    (watched / "incidents" / id / "judgement.md").write_text(WRITTEN)
    publish_incident(watched, id)
    assert not made.exists()


def test_pdfs_of_all_incidents_without_quarto_are_an_error_that_says_what_is_needed(watched):
    with pytest.raises(InputError, match="a PDF needs Quarto"):
        publish_pdfs(watched)


def test_a_pdf_has_two_to_four_pages(tmp_path: Path):
    if find_quarto() is None:
        pytest.skip("Quarto is not installed here")
    made = make_pdf(incident(), page_blocks(incident()), tmp_path)
    assert made.startswith(b"%PDF")
    assert made.count(b"/Type /Page\n") <= 4 or made.count(b"/Type/Page") <= 8
