"""The page of an incident: its executed postmortem runbook under the facts of the incident, whatever its texts hold."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ElementTree

import pytest
from bs4 import BeautifulSoup
from helpers import ROOT, copy_folders
from repairs import Everything, lay_incident, project_with_repairs, proposal, propose
from test_postmortem import content
from test_reports import facts_of, words_of
from watching import alert

from lepton_kit.diagnosis.history import History, read_history
from lepton_kit.errors import InputError
from lepton_kit.ops.incident_pages import card_of, header_html, publish_incident, publish_pdfs
from lepton_kit.ops.incident_summary import in_short
from lepton_kit.ops.watch.history import freeze_history
from lepton_kit.ops.watch.queue import Queue
from lepton_kit.ops.watch.status import newest_runs
from lepton_kit.ops.watch.webhook import Alert
from lepton_kit.project.settings import read_settings
from lepton_kit.reports.cards import published
from lepton_kit.reports.publish import unpublish
from lepton_kit.reports.quarto import find_quarto
from lepton_kit.reports.site import build_site
from lepton_kit.runs.manifest import finished_runs

STATES = ("firing", "resolved")
HOSTILE = "<script>document.title='owned'</script> {{< env HOME >}} `x` | [a](javascript:b) \x1b[31m"
WRITTEN = (
    "## Summary in plain words\n\nThe feed stood still.\n\n"
    "## What went well\n\n- <b>The alert</b> came\n- early\n\n## Actions\n"
    "| action | owner | due | type | state |\n|---|---|---|---|---|\n"
    "| watch the age | Kim | 2026-12-01 | detect | open |\n"
)


def told(*jobs, diagnosed=None, **changes):
    """A history, with what its diagnosis recorded."""
    diagnosis, repair = content()["jobs"]
    diagnosis["run"]["results"] |= {name: {"value": value} for name, value in (diagnosed or {}).items()}
    return History.model_validate(content(jobs=[diagnosis, *(jobs or [repair])], **changes))


def open_one(*jobs, **said):
    """An incident whose alert fires, without a repair unless one is given."""
    alert = content()["alert"] | {"status": "firing", "ends_at": None}
    diagnosis = content()["jobs"][0]
    diagnosis["run"]["results"] |= {name: {"value": value} for name, value in said.items()}
    return History.model_validate(content(jobs=[diagnosis, *jobs], alert=alert))


def header(history, known=()):
    return BeautifulSoup(header_html(history, "incidents/i/recording", set(known)), "html.parser")


def facts(history):
    return {name: words_of(value) for name, value in facts_of(header(history)).items()}


# --- facts and words ----------------------------------------------------------------------------------------------


def test_the_facts_say_what_happened_since_when_and_for_how_long():
    said = facts(told())
    assert said["Cause"] == "data (97% sure)"
    assert (said["Began"], said["Lasted"]) == ("2026-11-25 03:01:00 UTC", "20 min 0 s")
    assert said["Approval"] == "repair of data approved by Kim"
    assert header(told()).select("time[datetime='2026-11-25T03:01:00Z']")
    text = " ".join(in_short(told(), None))
    assert "Action taken: the feed was restarted (recovered). Recovered 20 min 0 s after it began." in text


def test_each_recorded_fact_names_the_run_the_result_and_the_files_that_it_is_from():
    titles = {row.th.text: row.td.get("title", "") for row in header(told()).find_all("tr")}
    run = content()["jobs"][0]["run"]
    sha256 = next(iter(run["inputs"].values()))
    assert titles["Cause"].startswith(f"run {run['run_id']}, result cause")
    assert sha256[:12] in titles["Began"]
    assert titles["Noticed"].startswith("ledger")


def test_only_an_open_incident_names_a_next_action():
    assert facts(open_one(next_action="Run the data repair."))["Next action"] == "Run the data repair."
    assert "Next action" not in facts(told(diagnosed={"next_action": "Run the data repair."}))


def test_the_next_action_is_the_one_that_the_repairs_wait_for_with_its_exact_command():
    def repair(state, **more):
        return content()["jobs"][1] | {"state": state, "run": None, "status": None, "decisions": []} | more

    said = facts(open_one(repair("waiting"), next_action="Run the data repair: restart the feed."))
    assert (said["Next action"], said["Command"]) == ("Decide on the data repair.", "lepton approve i")
    assert said["Approval"] == "pending: repair of data (the policy is to ask)"
    both = facts(open_one(repair("waiting"), repair("waiting", name="compute")))
    assert both["Command"] == "lepton approve i --cause data"
    assert "Wait: runbooks/remedy.ipynb is running" in facts(open_one(repair("running")))["Next action"]
    failed = content()["jobs"][1]
    failed["run"]["results"]["verdict"]["value"] = "not recovered"
    again = facts(open_one(failed))
    assert "did not help (not recovered): diagnose again" in again["Next action"]
    assert again["Command"] == "lepton run runbooks/alert.ipynb -p recording incidents/i/recording"
    assert "Command" not in facts(told())


def test_a_second_cause_is_named_in_the_summary_and_in_listings():
    one = open_one(also=["compute"], reasons=["data: rows repeat", "compute: requests take longer"])
    text = " ".join(in_short(one, None))
    assert "The diagnosis found the data at fault: rows repeat. Also involved: compute, as requests take" in text
    assert card_of(one, None).description == text


def test_a_page_of_shortened_windows_says_so():
    one = told(promise=content()["promise"] | {"time_scale": 600}, time_scale=600)
    assert "demo time ×600: all windows are 600 times shorter, 10 s stand for 1 h 40 min" in facts(one)["Time"]
    assert "All in demo time ×600." in card_of(one, None).description
    assert "Time" not in facts(told())


def test_began_is_the_onset_of_the_diagnosis_on_the_page_and_in_listings():
    onset = told().diagnosed["onset"]
    assert facts(told())["Began"] == f"{onset[:10]} {onset[11:19]} UTC"
    assert card_of(told(), None).date.startswith(f"{onset[:10]} {onset[11:19]}")


def test_earlier_incidents_that_were_alike_stand_among_the_facts_as_text():
    page = BeautifulSoup(header_html(told(), None, set(), ["<b>a</b> (not repaired)", "b"]), "html.parser")
    assert words_of(facts_of(page)["Seen before"]) == "<b>a</b> (not repaired); b"
    assert "Seen before" not in facts(told())


def test_only_runs_that_have_a_page_are_linked():
    links = header(told(), {"run-alert"}).select("a")
    assert [(link["href"], link.text) for link in links] == [("../../runs/run-alert/index.html", "diagnosis")]


# --- an incident that is over -------------------------------------------------------------------------------------


@pytest.fixture
def watched(project, monkeypatch):
    return laid(project, monkeypatch)


def laid(project, monkeypatch):
    project_with_repairs(project)
    copy_folders(project, "reports")
    monkeypatch.setenv("LEPTON_QUARTO", "none")
    return project


def runs_of(project, id):
    """The runs that made an incident's page: the project holds other incidents too."""
    return [one for one in finished_runs(project) if id in str(one.parameters)]


def page_of(project, id):
    return BeautifulSoup((build_site(project).folder / "incidents" / id / "index.html").read_text(), "html.parser")


@pytest.fixture(scope="module")
def over(tmp_path_factory):
    """A project with the page of an incident that is over, whose texts are hostile, and the incident's id."""
    with pytest.MonkeyPatch.context() as patch:
        project = laid(tmp_path_factory.mktemp("over"), patch)
        ranking = {"columns": ["cause", "probability", "for", "against"], "rows": [["data", 0.97, "contract", HOSTILE]]}
        id = lay_incident(project, WRITTEN, ranking=ranking, reasons=["data: it is broken"], not_checked=[HOSTILE])
        publish_incident(project, id)
        return project, id, page_of(project, id)


def test_a_page_is_the_executed_postmortem_under_the_incidents_facts(over):
    page = over[2]
    assert words_of(facts_of(page)["Status"]) == "resolved"
    headings = [heading.text for heading in page.select("h2")]
    assert headings[:5] == ["Meaning", "Impact", "Diagnosis", "Mitigation", "Verify"]
    (run,) = runs_of(over[0], over[1])
    assert (run.name, run.trigger, run.status) == ("postmortem", "publish", "succeeded")
    assert newest_runs(over[0], 5) == []  # it only makes a page: the status page lists other runs
    text = words_of(page)
    for said in (
        "Time to recover",
        "requests, from onset to end",
        "restart feed",
        "lepton verify RUN",
        "notebook sha256",
    ):
        assert said in text, said


def test_the_decisive_figure_is_the_objective_that_alerted_and_stands_for_the_page(over):
    first = over[2].select_one("figure")
    assert first["id"] == "fig-objective"
    assert "svg" in first.img["src"][:30]
    (card,) = published(over[0] / "reports")
    assert card.image_alt == first.img["alt"]
    assert "Freshness, the objective that alerted" in words_of(over[2])


def test_what_people_wrote_is_told_apart_from_what_was_derived(over):
    (judged,) = [tag.parent for tag in over[2].find_all("p", string="Human judgement")]
    assert "The feed stood still." in judged.text and "watch the age" in judged.text
    assert [item.text for item in judged.select("ul li")] == ["<b>The alert</b> came", "early"]
    derived = [tag.parent.text for tag in over[2].find_all("p", string="Computed facts")]
    assert len(derived) > 4 and not [text for text in derived if "stood still" in text]


def test_text_never_becomes_markup(over):
    for part in ("document.title", "env HOME"):
        assert part in over[2].text
    assert not [tag for tag in over[2].select("main script, main a") if "owned" in tag.text or "javascript" in str(tag)]


def test_what_was_done_is_published_again_without_another_run_unless_people_wrote_something(over):
    project, id, _ = over
    first = publish_incident(project, id)
    assert publish_incident(project, id).content == first.content
    assert len(runs_of(project, id)) == 1


def test_a_cost_is_that_of_the_minutes_from_onset_to_end(over):
    (run,) = runs_of(over[0], over[1])
    assert (run.results["cost"].unit, run.results["cost"].value) == ("EUR", pytest.approx(12 * 138.8 / 60, rel=1e-3))


def test_an_incident_is_compared_with_the_one_before_it_of_its_kind(over):
    project, id, _ = over
    again = lay_incident(project, number=8, onset="2026-11-25T09:01:56Z")
    publish_incident(project, again)
    page = page_of(project, again)
    links = [link["href"] for link in page.select("a") if f"incidents/{id}" in link["href"]]
    assert links and "the incident before" in page.text
    unpublish(project, [again])


# --- in the ledger ------------------------------------------------------------------------------------------------


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
    about = json.loads((folder / "incident.json").read_text()) | {"id": id}
    (folder / "incident.json").write_text(json.dumps(about))
    publish_incident(watched, id)
    (watched / "lepton.toml").write_text(text)  # the demonstration is over: windows as usual, and no such service
    queue.receive([posted["resolved"]], "webhook", Everything())
    pages = []
    for _ in range(2):
        publish_incident(watched, id)
        pages.append((watched / "reports" / "incidents" / id / "page.html").read_text())
        shutil.rmtree(watched / "slo", ignore_errors=True)
    assert pages[0] == pages[1]
    assert "demo time ×600" in pages[0]
    history = read_history(watched / "incidents" / id / "history.json")
    assert (history.is_over, history.promise.time_scale, history.promise.name) == (True, 600, "goog-latency")


def test_an_incident_of_the_ledger_is_published_listed_and_fed(watched):
    id = propose(Queue(watched), proposal("data", "ask"))
    publish_incident(watched, id)
    site = build_site(watched)
    page = BeautifulSoup((site.folder / "incidents" / id / "index.html").read_text(), "html.parser")
    assert [link["href"] for link in page.select(".downloads a")] == [
        "notebook.ipynb",
        "manifest.json",
        "history.json",
    ]
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


# --- as a PDF -----------------------------------------------------------------------------------------------------


def quarto_that_writes(path, text="%PDF"):
    """A program that stands in for Quarto: it makes a PDF of a few bytes, whatever it is given."""
    path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo 1.7.34 && exit\nprintf %s "{text}" > page.pdf\n')
    path.chmod(0o755)
    return str(path)


def test_a_pdf_is_made_where_there_is_none_or_the_incident_has_changed_and_kept_else(watched, tmp_path, monkeypatch):
    ids = [propose(Queue(watched), proposal("data", "ask"), number=number) for number in (1, 2)]
    for id in ids:
        publish_incident(watched, id)
    pdfs = [watched / "reports" / "incidents" / id / "incident.pdf" for id in ids]
    assert not any(pdf.exists() for pdf in pdfs)
    monkeypatch.setenv("LEPTON_QUARTO", quarto_that_writes(tmp_path / "quarto"))
    assert {card.id for card in publish_pdfs(watched)} == set(ids)
    assert publish_pdfs(watched) == []
    (watched / "incidents" / ids[0] / "judgement.md").write_text(WRITTEN)
    monkeypatch.setenv("LEPTON_QUARTO", quarto_that_writes(tmp_path / "quarto", "%PDF anew"))
    assert [card.id for card in publish_pdfs(watched)] == [ids[0]]
    assert [pdf.read_bytes() for pdf in pdfs] == [b"%PDF anew", b"%PDF"]
    publish_incident(watched, ids[0])
    assert pdfs[0].read_bytes() == b"%PDF anew"
    (watched / "incidents" / ids[0] / "judgement.md").write_text("")
    publish_incident(watched, ids[0])
    assert not pdfs[0].exists()


def test_a_pdf_without_quarto_is_an_error_that_says_what_is_needed(watched):
    with pytest.raises(InputError, match="a PDF needs Quarto"):
        publish_incident(watched, "x", with_pdf=True)
    with pytest.raises(InputError, match="a PDF needs Quarto"):
        publish_pdfs(watched)


def test_a_pdf_of_quarto_holds_what_the_page_says(over, monkeypatch):
    monkeypatch.undo()
    if find_quarto() is None:
        pytest.skip("Quarto is not installed here")
    project, id, _ = over
    publish_incident(project, id, with_pdf=True)
    made = (project / "reports" / "incidents" / id / "incident.pdf").read_bytes()
    assert made.startswith(b"%PDF") and made.count(b"/Type /Page\n") <= 10
