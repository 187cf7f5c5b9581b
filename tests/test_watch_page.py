"""The status page in a real browser: wide and on a phone, with hostile alerts, without one script or console error."""

from __future__ import annotations

import pytest
from browser import Browser
from bs4 import BeautifulSoup
from helpers import write_notebook
from watching import alert, watching

from lepton_kit.ops.watch.page import Reader, incident_page, refused_page, status_page

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
LONG = "x" * 300


def a_status(**changes):
    """Return a status with something of everything."""
    job = {
        "number": 1, "key": "k", "kind": "alert", "name": "GoogLatencyBudgetBurn", "incident": "i", "notebook": "n",
        "parameters": {}, "queued": 0.0, "state": "ended", "run_id": "20261125T030000Z-incident-diagnosis-3f9a2c",
        "status": "succeeded", "error": None, "started": 0.0, "ended": 1.0, "attempts": 1, "page": "/reports/x",
        "results": {"cause": "data", "also": ["compute"], "probability": 0.93},
    }  # fmt: skip
    decision = {"is_approved": True, "at": "2026-11-25T03:04:00+00:00", "by": "Kim", "via": "status page", "note": ""}
    remedy = {
        "job": 2, "incident": "i", "service": "goog", "cause": "data", "follows": None, "is_automatic": False,
        "why": "the policy of this cause is to ask", "state": "waiting", "error": None,
        "notebook": "runbooks/repair-data.ipynb",
        "queued": 0.0, "since": "2026-11-25T03:03:00+00:00", "decisions": [], "verdict": None, "after": None,
    }  # fmt: skip
    repair = job | {"number": 3, "kind": "remedy", "name": "compute", "results": {"verdict": "recovered"}}
    done = remedy | {"job": 3, "cause": "compute", "state": "ended", "verdict": "recovered", "decisions": [decision]}
    incident = {
        "id": "20261125T030000Z-goog-latency-budget-burn-cf122f45", "name": "GoogLatencyBudgetBurn", "service": "goog",
        "severity": "page", "status": "firing", "starts_at": "2026-11-25T03:00:00+00:00", "ends_at": None, "note": "",
        "summary": "Latency of goog: the error budget burns too fast", "runs": [job, repair],
        "remedies": [remedy, done], "owner": "search team", "silenced": "",
        "acknowledged": "2026-11-25T03:02:00+00:00", "acknowledged_by": "Kim",
    }  # fmt: skip
    budgets = [
        {"objective": "a", "title": title, "target": 0.99, "left": left}
        for title, left in [("Availability", 0.998), ("Latency", 0.12), ("Errors", -0.4), ("Coverage", None)]
    ]
    service = {
        "name": "goog", "model": "goog", "address": "http://127.0.0.1:8000", "is_up": True, "is_ready": True,
        "version": "v2", "problem": "", "looked": 0.0, "budgets": budgets,
    }  # fmt: skip
    run = {
        "run_id": job["run_id"], "title": "Diagnosis of an incident", "status": "running", "trigger": "alert:x",
        "started": "2026-11-25T03:00:10+00:00", "duration_s": None, "page": None,
    }  # fmt: skip
    whole = {
        "project": "lepton", "time": "2026-11-25T03:05:00+00:00", "services": [service], "open": 1,
        "open_incidents": [incident],
        "recent_incidents": [], "runs": [run], "waiting": [], "approvals": [], "refused": [], "problems": {},
        "schedules": [{"name": "nightly", "notebook": "runbooks/health.ipynb", "next": "2026-11-26T03:00:00+00:00"}],
        "queue": {"queued": 0, "waiting": 0, "running": 1, "ended": 4, "refused": 0},
    }  # fmt: skip
    return whole | changes


def words(status):
    return BeautifulSoup(status_page(status), "html.parser").get_text(" ")


def test_the_page_says_what_is_so_in_one_line():
    assert "1 open incident" in words(a_status())
    assert "All is well." in words(a_status(open=0, open_incidents=[]))
    down = [{**a_status()["services"][0], "is_up": False, "is_ready": False, "problem": "not running"}]
    assert "goog not ready" in words(a_status(open=0, open_incidents=[], services=down))


def test_incidents_beyond_those_shown_are_counted():
    text = words(a_status(open=1000))
    assert "1000 open incidents" in text
    assert "and 999 older ones" in text


def test_a_budget_is_said_in_words_too():
    text = words(a_status())
    for said in ("100% left", "12% left", "spent", "no data"):
        assert said in text


def test_what_a_diagnosis_and_a_repair_found_and_who_approved_it_is_said_in_words():
    text = words(a_status())
    text = " ".join(text.split())
    assert "cause: data and compute (93%)" in text
    assert "repair of compute · recovered" in text
    assert "compute repair approved by Kim , 2026-11-25 03:04 UTC (status page)" in text


def test_what_waits_for_a_person_is_at_the_top_and_leads_to_the_form():
    remedy = a_status()["open_incidents"][0]["remedies"][0]
    page = status_page(a_status(open=0, open_incidents=[], approvals=[remedy]))
    parsed = BeautifulSoup(page, "html.parser")
    assert "1 repair waiting for your decision" in parsed.select_one(".state.bad").get_text()
    assert parsed.select_one("a.button")["href"] == "/incidents/i#repair-2"
    assert parsed.select("form") == []  # this page loads itself again: what is being typed would be lost
    shown = BeautifulSoup(incident_page(an_incident()), "html.parser")
    assert [form["action"] for form in shown.select("#repair-2 form")] == ["/approvals"]
    assert shown.select("#repair-3 form, meta[http-equiv], [name=token]") == []
    assert (
        len(BeautifulSoup(incident_page(an_incident(), Reader(needs_token=True)), "html.parser").select("[name=token]"))
        == 1
    )


def an_incident():
    alert = {"labels": {"service": "goog"}, "annotations": {}}
    return a_status()["open_incidents"][0] | {"alert": alert, "origin": "webhook", "seen": 1, "recording": None}


def test_nothing_that_came_from_outside_becomes_markup():
    incident = a_status()["open_incidents"][0] | {
        "name": HOSTILE, "service": HOSTILE, "severity": HOSTILE, "note": HOSTILE, "summary": HOSTILE, "id": HOSTILE,
    }  # fmt: skip
    decision = {"is_approved": False, "at": "2026-11-25T03:04:00+00:00", "by": HOSTILE, "via": HOSTILE, "note": HOSTILE}
    remedy = incident["remedies"][0] | {
        "incident": HOSTILE, "service": HOSTILE, "cause": HOSTILE, "why": HOSTILE, "notebook": HOSTILE,
        "verdict": HOSTILE, "after": HOSTILE, "error": HOSTILE, "decisions": [decision],
    }  # fmt: skip
    job = incident["runs"][0] | {"results": dict.fromkeys(("cause", "also", "action", "verdict"), HOSTILE)}
    incident |= {"remedies": [remedy], "runs": [job]}
    outside = {"open_incidents": [incident], "approvals": [remedy], "problems": {HOSTILE: HOSTILE}, "project": HOSTILE}
    pages = [
        status_page(a_status(**outside)),
        incident_page(an_incident() | incident),
        refused_page(HOSTILE),
    ]
    for page in pages:
        parsed = BeautifulSoup(page, "html.parser")
        assert not parsed.select("script, img, [onerror], style")
        assert HOSTILE in parsed.get_text()


@pytest.fixture
def busy(project):
    """A watched project with hostile alerts, a run, and a schedule."""
    (project / "lepton.toml").write_text(
        '[watch]\nworkers = 1\nreport = false\n[alerts.Known]\nrunbook = "runbooks/diagnose.ipynb"\n'
        '[schedules.nightly]\nnotebook = "runbooks/diagnose.ipynb"\ncron = "0 3 * * *"\n'
    )
    write_notebook(project / "runbooks/diagnose.ipynb", ["1"], "days: int = 1", title="Diagnose <b>this</b>")
    return project


def test_a_browser_shows_the_page_wide_and_on_a_phone_and_runs_nothing(busy, tmp_path):
    with watching(busy, "--insecure") as kit:
        hostile = alert(2, alertname=HOSTILE, service=LONG, severity=HOSTILE)
        hostile["annotations"] = {"summary": HOSTILE + LONG}
        assert kit.post(alert(), hostile).status_code == 202
        kit.ended()
        address = str(kit.client.base_url)
        id = next(one.id for one in kit.queue.incidents() if one.name == HOSTILE)
        headers = kit.client.get("/").headers
        assert "script-src" not in headers["content-security-policy"]
        assert headers["content-security-policy"].startswith("default-src 'none'")
        with Browser(tmp_path / "profile") as browser:
            for path in ("/", f"/incidents/{id}", "/runbooks/Known"):
                for width in (1280, 390):
                    shown = browser.open(address.rstrip("/") + path, width)
                    assert shown["errors"] == [], (path, width)
                    assert shown["scroll"] <= width, (path, width)
                    assert shown["title"] != "owned"
                    assert (HOSTILE in shown["text"]) == (path != "/runbooks/Known")
