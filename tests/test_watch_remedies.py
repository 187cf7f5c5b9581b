"""Repairs after a diagnosis with real processes: one each, whatever is killed, and what a person decides."""

from __future__ import annotations

import json
import shutil
import signal

import psutil
import pytest
from bs4 import BeautifulSoup
from helpers import PATIENCE_S, ROOT, copy_folders, lepton, lepton_here
from repairs import SETTINGS, Everything, diagnosed, project_with_repairs, proposal, propose, repairs_made
from services import wait_for
from test_watch_page import Browser
from watching import watching

from lepton_kit.diagnosis import postmortem
from lepton_kit.errors import InputError
from lepton_kit.ops.watch import worker
from lepton_kit.ops.watch.approvals import make_decision, read_form, refusal
from lepton_kit.ops.watch.evidence import recording_folder
from lepton_kit.ops.watch.history import history_of
from lepton_kit.ops.watch.jobs import Proposal
from lepton_kit.ops.watch.queue import Queue
from lepton_kit.ops.watch.webhook import Alert, Gate
from lepton_kit.project.settings import read_settings
from lepton_kit.runs.manifest import Manifest, all_runs
from lepton_kit.runs.runner import Request, run_notebook

TOKEN = "a bearer's secret"


@pytest.fixture
def repaired(project):
    return project_with_repairs(project)


@pytest.fixture
def asked(repaired):
    """A project with a repair that waits, and a watch without workers."""
    (repaired / "lepton.toml").write_text(SETTINGS.replace("workers = 2", "workers = 0"))
    propose(Queue(repaired), proposal("data", "the policy of this cause is to ask"))
    return repaired


def remedies(kit):
    [incident] = kit.queue.incidents()
    return kit.queue.remedies(incident.id)


def waiting(kit, number=1):
    return wait_for(lambda: len(found := kit.queue.waiting()) >= number and found)


def test_an_automatic_repair_runs_once_after_the_diagnosis_and_is_shown_with_what_it_found(repaired):
    with watching(repaired, "--insecure") as kit:
        for _ in range(3):
            kit.post(diagnosed(cause="compute"))
        jobs = kit.ended(2)
        status = kit.client.get("/status.json").json()
        page = kit.client.get("/").text
    assert [(job.kind, job.status) for job in jobs] == [("alert", "succeeded"), ("remedy", "succeeded")]
    assert repairs_made(repaired) == ["compute of goog"]
    [incident] = status["open_incidents"]
    assert [(one["cause"], one["verdict"]) for one in incident["remedies"]] == [("compute", "recovered")]
    assert "cause: compute (99%)" in page
    assert "repair of compute · recovered" in page
    listed = lepton_here("incidents", project=repaired).stdout
    assert "compute: recovered" in listed


def test_a_repair_waits_is_listed_and_runs_after_the_command_approved_it(repaired):
    with watching(repaired, "--insecure") as kit:
        kit.post(diagnosed(cause="data"))
        [one] = waiting(kit)
        assert repairs_made(repaired) == []
        listed = lepton("approve", project=repaired).stdout
        assert one.incident in listed
        assert "the policy of this cause is to ask" in listed
        wrong = lepton("approve", "no-such-end", project=repaired)
        assert (wrong.returncode, "Traceback" in wrong.stderr) == (2, False)
        made = lepton("approve", one.incident[-8:], "--by", "Kim Lee", "--note", "looks right", project=repaired)
        assert "approved by Kim Lee" in made.stdout
        kit.ended(2)
        again = lepton("approve", one.incident, project=repaired)
        assert again.returncode == 2
        page = kit.client.get(f"/incidents/{one.incident}").text
        status = kit.client.get("/status.json").json()
    assert repairs_made(repaired) == ["data of goog"]
    assert "<strong>Kim Lee</strong>" in page
    assert "looks right" in page
    assert "/approvals" not in page
    assert status["open_incidents"][0]["remedies"][0]["decisions"][0]["by"] == "Kim Lee"
    assert "data: recovered; approved by Kim Lee" in lepton_here("incidents", project=repaired).stdout
    assert "no repair waits" in lepton("approve", project=repaired).stdout


def test_without_a_name_the_user_and_the_machine_are_who_decided_also_while_nothing_watches(asked):
    [one] = Queue(asked).waiting()
    assert lepton("approve", one.incident, "--reject", project=asked).returncode == 0
    [remedy] = Queue(asked).remedies(one.incident)
    assert (remedy.state, remedy.decisions[0].is_approved) == ("refused", False)
    user, at, host = remedy.decisions[0].by.partition("@")
    assert all((user, at, host))


def test_a_compound_diagnosis_is_repaired_cause_by_cause_as_a_drill_does_by_itself(repaired):
    with watching(repaired, "--insecure", LEPTON_REMEDIES="data.policy = 'auto'\nmost_per_hour = 1000") as kit:
        kit.post(diagnosed(cause="data", also=["compute"]))
        jobs = kit.ended(3)
    assert repairs_made(repaired) == ["data of goog", "compute of goog"]
    assert jobs[2].started >= jobs[1].ended


def test_the_second_repair_of_a_compound_fault_runs_while_an_objective_is_missed_and_else_a_person_is_asked(repaired):
    above = "data.policy = 'auto'\nmost_per_hour = 1000"
    (repaired / "missed").write_text('["goog-latency"]')
    with watching(repaired, "--insecure", LEPTON_REMEDIES=above) as kit:
        kit.post(diagnosed(cause="data", also=["compute"]))
        kit.ended(3)
        (repaired / "missed").write_text("[]")
        kit.post(diagnosed(2, cause="data", also=["compute"]))
        [one] = waiting(kit)
        page = kit.client.get(f"/incidents/{one.incident}").text
        assert repairs_made(repaired) == ["data of goog", "compute of goog", "data of goog"]
        assert lepton("approve", one.incident, "--by", "Kim", project=repaired).returncode == 0
        kit.ended(6)
    assert (one.cause, one.why) == (
        "compute",
        "the repair of the first cause, 'data', recovered the service: no objective is missed any more",
    )
    assert "no objective is missed any more" in page
    assert repairs_made(repaired)[3:] == ["compute of goog"]


def test_two_watches_of_one_project_make_a_repair_once(repaired):
    with watching(repaired, "--insecure") as first, watching(repaired, "--insecure") as second:
        for kit in (first, second, first, second):
            kit.post(diagnosed(cause="compute"))
        first.ended(2)
    assert repairs_made(repaired) == ["compute of goog"]
    assert len(all_runs(repaired)) == 2


def test_a_repair_whose_worker_was_killed_half_way_is_not_begun_again_but_waits_for_a_person(repaired):
    (repaired / "slow").touch()
    with watching(repaired, "--insecure") as kit:
        kit.post(diagnosed(cause="compute"))
        wait_for(lambda: repairs_made(repaired))
        for worker in psutil.Process(kit.process.pid).children():
            worker.kill()
        [one] = waiting(kit)
        assert "was broken off: see what it did" in one.why
        assert repairs_made(repaired) == ["compute of goog"]
        (repaired / "go").touch()
        kit.queue.decide(one.job, make_decision(True, "Kim", "lepton approve", "nothing was changed yet"))
        jobs = kit.ended(2)
    assert [job.status for job in jobs] == ["succeeded", "succeeded"]
    assert repairs_made(repaired) == ["compute of goog"] * 2


def test_a_repair_that_was_cancelled_by_a_stop_waits_for_a_person_at_the_next_start(repaired):
    (repaired / "slow").touch()
    (repaired / "lepton.toml").write_text(SETTINGS.replace("workers = 2", "workers = 2\nstop_seconds = 0.2"))
    with watching(repaired, "--insecure") as kit:
        kit.post(diagnosed(cause="compute"))
        wait_for(lambda: repairs_made(repaired))
        kit.process.send_signal(signal.SIGTERM)
        assert kit.process.wait(PATIENCE_S) == 0
    with watching(repaired, "--insecure") as kit:
        [one] = waiting(kit)
    assert "was broken off" in one.why
    assert repairs_made(repaired) == ["compute of goog"]


def test_a_repair_outlives_the_kill_of_the_watch_above_it_and_is_not_made_twice(repaired):
    (repaired / "slow").touch()
    with watching(repaired, "--insecure") as kit:
        kit.post(diagnosed(cause="compute"))
        wait_for(lambda: repairs_made(repaired))
        kit.kill()
    with watching(repaired, "--insecure") as kit:
        (repaired / "go").touch()
        jobs = kit.ended(2)
    assert [job.status for job in jobs] == ["succeeded", "succeeded"]
    assert repairs_made(repaired) == ["compute of goog"]


# --- the form of the status page ---


def form(job, **changes):
    return {"job": str(job), "by": "Kim Lee", "note": "", "decision": "approve", **changes}


def send(kit, fields, **headers):
    origin = {"Origin": str(kit.client.base_url).rstrip("/")}
    return kit.client.post("/approvals", data=fields, headers=origin | headers)


def test_the_page_approves_and_nothing_else_does(asked):
    with watching(asked, "--insecure") as kit:
        [one] = kit.queue.waiting()
        address = str(kit.client.base_url).rstrip("/")
        other = f"http://evil.example:{kit.client.base_url.port}"
        wrong = [
            {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://["},
            {"X-Forwarded-For": "203.0.113.9"},
            {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Sec-Fetch-Site": "none"},
            {"Host": other.removeprefix("http://"), "Origin": other},
        ]  # fmt: skip
        assert {send(kit, form(one.job), **headers).status_code for headers in wrong} == {403}
        assert kit.client.post("/approvals", data=form(one.job)).status_code == 403
        assert kit.client.get("/approvals").status_code == 405
        as_json = kit.client.post("/approvals", json=form(one.job), headers={"Origin": address})
        assert as_json.status_code == 415
        bad = [{"by": " "}, {"by": "x" * 200}, {"by": "a\u202eb"}, {"decision": "maybe"}, {"job": "-1"}, {"job": "99"}]
        assert {send(kit, form(one.job) | change).status_code for change in bad} == {422}
        assert send(kit, form(one.job, note="x" * 20_000)).status_code == 413
        assert [one.state for one in remedies(kit)] == ["waiting"]
        done = send(kit, form(one.job))
        assert (done.status_code, done.headers["location"]) == (303, f"/incidents/{one.incident}")
        assert "approved already, by Kim Lee" in send(kit, form(one.job)).text
        [remedy] = remedies(kit)
        assert (remedy.state, [(d.by, d.via) for d in remedy.decisions]) == ("queued", [("Kim Lee", "status page")])


def test_where_a_token_is_set_the_page_asks_for_it_and_takes_no_other(asked):
    text = (asked / "lepton.toml").read_text().replace("[watch]\n", '[watch]\ntoken = "env:WATCH_TOKEN"\n')
    (asked / "lepton.toml").write_text(text)
    with watching(asked, WATCH_TOKEN=TOKEN) as kit:
        [one] = kit.queue.waiting()
        assert 'name="token"' in kit.client.get(f"/incidents/{one.incident}").text
        for token in ("", "wrong", TOKEN.upper()):
            assert send(kit, form(one.job, token=token)).status_code == 401
        assert [one.state for one in remedies(kit)] == ["waiting"]
        assert send(kit, form(one.job, token=TOKEN, decision="reject", note="no")).status_code == 303
        assert [one.state for one in remedies(kit)] == ["refused"]


def test_without_a_token_no_other_machine_decides():
    headers = {"host": "127.0.0.1:8088", "origin": "http://127.0.0.1:8088", "sec-fetch-site": "same-origin"}
    assert refusal(Gate(open=True), headers, "127.0.0.1", {}) is None
    assert refusal(Gate(open=True), headers, "10.0.0.7", {})[0] == 403
    assert refusal(Gate(key=b"signer"), headers, None, {})[0] == 403
    assert refusal(Gate(token=b"secret"), {}, "10.0.0.7", {"token": "secret"}) is None


def test_a_form_with_too_many_fields_or_broken_text_is_refused_or_read_as_it_is():
    assert read_form(b"by=%ff&job=1") == {"by": "\ufffd", "job": "1"}
    with pytest.raises(InputError, match="more than"):
        read_form(b"&".join(b"a%d=1" % number for number in range(30)))


def test_a_browser_sends_the_form_and_a_page_of_another_origin_cannot(asked, tmp_path):
    with watching(asked, "--insecure") as kit, Browser(tmp_path / "profile") as browser:
        [one] = kit.queue.waiting()
        address = str(kit.client.base_url).rstrip("/")
        shown = browser.open(f"{address}/", 390)
        assert "1 repair waiting for your decision" in shown["text"]
        assert shown["scroll"] <= 390

        foreign = address.replace("127.0.0.1", "localhost") + "/healthz"  # the same port under another name
        browser.call("Page.navigate", url=foreign)
        wait_for(lambda: browser.value("document.readyState + location.href") == "complete" + foreign)
        markup = (
            f'<form method=post action="{address}/approvals"><input name=job value={one.job}><input name=by value=Eve>'
            "<button name=decision value=approve></button></form>"
        )
        browser.value(f"document.body.innerHTML = {json.dumps(markup)}; document.querySelector('button').click(); 1")
        wait_for(lambda: "Nothing was changed" in browser.value("document.body?.innerText ?? ''"))
        assert [one.state for one in kit.queue.waiting()] == ["waiting"]

        shown = browser.open(f"{address}/incidents/{one.incident}", 390)
        assert (shown["errors"], shown["scroll"] <= 390) == ([], True)
        browser.value("document.querySelector('[action=\"/approvals\"] [name=by]').value = 'Kim <b>Lee</b>'")
        browser.value("document.querySelector('[value=approve]').click(); 1")
        wait_for(lambda: "approved by Kim <b>Lee</b>" in browser.value("document.body?.innerText ?? ''"))
        assert kit.queue.waiting() == []


@pytest.fixture
def rehearsed(repaired):
    """A project whose repair of the data is the kit's own runbook, with an incident that waits for a yes."""
    text = SETTINGS.replace("runbooks/repair.ipynb", "runbooks/repair-data.ipynb", 1).replace('{ what = "data" }', "{}")
    (repaired / "lepton.toml").write_text(text.replace("workers = 2", "workers = 0"))
    shutil.copy(ROOT / "runbooks/repair-data.ipynb", repaired / "runbooks")
    copy_folders(repaired, "slo")
    queue = Queue(repaired)
    posted = Alert.model_validate(diagnosed(cause="data"))
    queue.receive([posted], "webhook", Everything())
    job = queue.take()
    recording = recording_folder(repaired, posted.incident)
    shutil.copytree(ROOT / "runbooks/recordings/missing-values", recording)
    queue.note(posted.incident, "", recording.relative_to(repaired).as_posix())
    asked = [Proposal("data", "runbooks/repair-data.ipynb", {}, "the policy of this cause is to ask")]
    settings = read_settings(repaired)
    run = run_notebook(Request(repaired / "runbooks/diagnose.ipynb", {"says": json.dumps(RANKED)}), repaired)
    [one] = worker.rehearsed(asked, job, queue, settings, repaired)
    queue.end(job, run.run_id, "succeeded", [one], 3)
    return repaired


RANKED = {
    "cause": "data",
    "ranking": {"columns": ["cause", "for", "against"], "rows": [["data", "contract: broken", "replay: alike"]]},
}


def test_before_somebody_decides_the_repair_has_rehearsed_and_page_and_command_show_what_it_would_do(rehearsed):
    [one] = Queue(rehearsed).waiting()
    run = Manifest.load(rehearsed / "runs" / one.rehearsal / "manifest.json")
    assert (run.status, run.parameters["service"], run.results["applied"].value) == ("succeeded", "", False)
    with watching(rehearsed, "--insecure") as kit:
        page = BeautifulSoup(kit.client.get(f"/incidents/{one.incident}").text, "html.parser")
        home = kit.client.get("/").text
    form = page.select_one(f"#repair-{one.job}")
    facts = dict(zip((dt.text for dt in form.select("dt")), (dd.text for dd in form.select("dd")), strict=True))
    assert facts["Plan"] == run.results["plan"].value == "fill 12 features where they are missing"
    assert "rows during: " in facts["Rows touched"] and "rows quarantined: " in facts["Rows touched"]
    assert facts["Risk"].startswith("may cost: errors; rolls back if another objective gets worse")
    assert "lepton undo goog" in facts["Undo"]
    assert (facts["Evidence for"], facts["Evidence against"]) == ("contract: broken", "replay: alike")
    assert form.select_one("img[src^='data:image/png;base64,']")["alt"].startswith("Two dots a feature")
    assert form.select_one("form") and f"Plan: {facts['Plan']}" in home
    assert "Decide on the data repair: fill 12 features" in page.text and f"lepton approve {one.incident}" in page.text
    for words in (["approve"], ["approve", one.incident, "--reject"]):
        told = lepton_here(*words, project=rehearsed).stdout
        for name in ("Plan", "Rows touched", "Risk", "Undo", "Evidence for", "Figure"):
            assert f"  {name}:" in told
        assert facts["Plan"] in told
    queue = Queue(rehearsed)
    history = history_of(queue.incident(one.incident), queue, read_settings(rehearsed), rehearsed)
    assert postmortem.repairs(history)["action"].tolist() == [f"planned: {facts['Plan']}"]


def test_a_repair_that_cannot_rehearse_is_asked_for_all_the_same_and_says_so(asked):
    [one] = Queue(asked).waiting()
    assert one.rehearsal is None
    assert "Rehearsal:" in lepton_here("approve", project=asked).stdout


def test_a_diagnosis_that_found_no_cause_is_made_again_until_the_most_looks(repaired):
    text = SETTINGS.replace("[watch]\n", "[watch]\nlook_again_minutes = 0.001\nmost_looks = 2\n")
    (repaired / "lepton.toml").write_text(text)
    with watching(repaired, "--insecure") as kit:
        kit.post(diagnosed(cause="unknown"))
        jobs = kit.ended(2)
        wait_for(lambda: kit.client.get("/status.json").json()["queue"]["queued"] == 0)
    assert [(job.kind, job.look) for job in jobs] == [("alert", 1), ("alert", 2)]
    assert jobs[0].run_id != jobs[1].run_id
    assert len(all_runs(repaired)) == 2
