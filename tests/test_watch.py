"""`lepton watch` with real processes: posts over HTTP, runs in kernels, kills and restarts."""

from __future__ import annotations

import hashlib
import hmac
import json
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest
from helpers import PATIENCE_S, ROOT, lepton, lepton_here, write_notebook
from services import wait_for
from watching import KNOWN, alert, watching, webhook

from lepton_kit.errors import InputError
from lepton_kit.ops.watch.app import watch
from lepton_kit.ops.watch.objectives import read_all_objectives
from lepton_kit.ops.watch.policy import Policy, Routes
from lepton_kit.ops.watch.queue import Queue
from lepton_kit.ops.watch.schedules import Schedules
from lepton_kit.project.settings import read_settings
from lepton_kit.runs.manifest import Result, all_runs
from lepton_kit.telemetry.slo import alert_name

SETTINGS = (
    KNOWN
    + """\
parameters = { service = { label = "service" }, days = 3 }
on_resolved = { runbook = "runbooks/recovery.ipynb", parameters = { service = { label = "service" } } }
"""
)
TOKEN = "a bearer's secret"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def watched(project):
    """A project whose alert `Known` starts a short runbook."""
    (project / "lepton.toml").write_text(SETTINGS)
    write_notebook(project / "runbooks/diagnose.ipynb", ["lk.record('days', days)"], "service: str = ''\ndays: int = 1")
    write_notebook(project / "runbooks/recovery.ipynb", ["1"], "service: str = ''")
    return project


def settings(project, **changes):
    text = SETTINGS
    for old, new in changes.items():
        text = text.replace(f"{old} = ", f"{old} = {new} #", 1)
    (project / "lepton.toml").write_text(text)


def queue_only(project):
    settings(project, workers=0)


def test_a_firing_alert_runs_its_runbook_once_with_the_allowed_labels_alone(watched):
    with watching(watched, "--insecure") as kit:
        assert kit.post(alert(days="9000", secret="x")).status_code == 202
        for _ in range(3):
            assert kit.post(alert(days="9000", secret="x")).status_code == 202
        [job] = kit.ended()
        [incident] = kit.queue.incidents()
    [run] = all_runs(watched)
    assert (run.status, run.parameters, run.trigger) == ("succeeded", {"service": "goog", "days": 3}, "alert:Known")
    assert (job.run_id, job.status, incident.seen) == (run.run_id, "succeeded", 4)
    assert incident.id.startswith("20261125T030000Z-known-")


def test_a_resolved_alert_runs_the_recovery_check_once_and_a_late_firing_does_not_open_it_again(watched):
    with watching(watched, "--insecure") as kit:
        for status in ("firing", "resolved", "resolved", "firing"):
            assert kit.post(alert(status=status)).status_code == 202
        jobs = kit.ended(2)
        [incident] = kit.queue.incidents()
    assert [(job.kind, job.notebook, job.status) for job in jobs] == [
        ("alert", "runbooks/diagnose.ipynb", "succeeded"),
        ("recovery", "runbooks/recovery.ipynb", "succeeded"),
    ]
    assert (incident.status, incident.ends_at) == ("resolved", "2026-11-25T03:10:00.000000+00:00")


def test_an_alert_that_fires_again_later_is_another_incident(watched):
    queue_only(watched)
    with watching(watched, "--insecure") as kit:
        kit.post(alert(), alert(starts="2026-11-25T05:00:00+01:00"))
        assert len(kit.queue.incidents()) == len(kit.queue.jobs()) == 2


def test_unknown_alerts_are_recorded_and_start_nothing(watched):
    queue_only(watched)
    with watching(watched, "--insecure") as kit:
        assert kit.post(alert(alertname="Other")).status_code == 202
        [incident] = kit.queue.incidents()
        assert incident.note == "no runbook is set for alerts named 'Other'"
        assert kit.queue.jobs() == []


def test_a_label_of_the_wrong_type_is_refused_and_recorded(watched):
    settings(watched, workers=0, parameters='{ days = { label = "days" } }')
    with watching(watched, "--insecure") as kit:
        kit.post(alert(1, days="soon"), alert(2), alert(3, days="5"))
        notes = {incident.fingerprint[-1]: incident.note for incident in kit.queue.incidents()}
        assert notes["1"].startswith("parameter 'days' = 'soon' (from label 'days'): must be int")
        assert notes["2"].startswith("the alert has no label 'days'")
        assert notes["3"] == ""
        assert [job.parameters for job in kit.queue.jobs()] == [{"days": "5"}]


def test_without_a_secret_posts_are_refused(watched):
    with watching(watched) as kit:
        refused = kit.post(alert())
        assert (refused.status_code, "neither token nor hmac" in refused.text) == (403, True)
        assert kit.queue.incidents() == []


def test_a_bearer_or_a_signature_lets_a_post_in_and_nothing_else_does(watched):
    queue_only(watched)
    text = (watched / "lepton.toml").read_text()
    secrets = 'token = "env:WATCH_TOKEN"\nhmac = "file:key"\n'
    (watched / "lepton.toml").write_text(text.replace("[watch]\n", "[watch]\n" + secrets))
    (watched / "key").write_text("a signer's secret\n")
    body = json.dumps(webhook(alert())).encode()
    signature = hmac.new(b"a signer's secret", body, hashlib.sha256).hexdigest()
    with watching(watched, "--insecure", WATCH_TOKEN=TOKEN) as kit:

        def post(**headers):
            headers = {"Content-Type": "application/json", **headers}
            return kit.client.post("/alerts", content=body, headers=headers).status_code

        wrong = [
            {}, {"Authorization": "Bearer"}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"},
            {"X-Lepton-Signature": "sha256="}, {"X-Lepton-Signature": f"sha256={'0' * 64}"},
            {"X-Lepton-Signature": signature},
        ]  # fmt: skip
        assert {post(**headers) for headers in wrong} == {401}
        assert kit.queue.incidents() == []
        assert post(**BEARER) == post(**{"X-Lepton-Signature": f"sha256={signature}"}) == 202
        changed = body.replace(b"Known", b"Kn0wn")
        headers = {"Content-Type": "application/json", "X-Lepton-Signature": f"sha256={signature}"}
        assert kit.client.post("/alerts", content=changed, headers=headers).status_code == 401


def test_what_is_no_webhook_is_refused_with_the_fields_named(watched):
    queue_only(watched)
    with watching(watched, "--insecure") as kit:

        def fields(body):
            answer = kit.client.post("/alerts", json=body)
            assert answer.status_code == 422, answer.text
            return {item["field"] for item in answer.json()["fields"]}

        assert fields(webhook(version="3")) == {"version"}
        assert fields(webhook({**alert(), "startsAt": "yesterday"})) == {"alerts.0.startsAt"}
        assert fields(webhook({**alert(), "startsAt": "2026-11-25T03:00:00"})) == {"alerts.0.startsAt"}
        assert fields(webhook({**alert(), "fingerprint": "../x"})) == {"alerts.0.fingerprint"}
        assert fields(webhook({**alert(), "labels": {"a": 1}})) == {"alerts.0.labels.a"}
        assert fields([]) == {"body"}
        for broken in (b"", b"{", b'{"version": "4", "alerts": [{"labels": {"a": "\\ud800"}}]}', b"[" * 100_000):
            headers = {"Content-Type": "application/json"}
            assert kit.client.post("/alerts", content=broken, headers=headers).status_code == 422
        as_form = kit.client.post(
            "/alerts", content=json.dumps(webhook(alert())), headers={"Content-Type": "text/plain"}
        )
        assert as_form.status_code == 415
        assert kit.queue.incidents() == []


def test_a_body_beyond_the_limit_is_refused_as_soon_as_it_is(watched):
    with watching(watched, "--insecure") as kit:
        huge = webhook(alert(padding="x" * 2_000_000))
        assert kit.client.post("/alerts", json=huge).status_code == 413

        def chunks():
            for _ in range(40):
                yield b" " * 65536

        assert kit.client.post("/alerts", content=chunks()).status_code == 413


def test_what_was_answered_outlives_a_kill_before_its_run(watched):
    queue_only(watched)
    with watching(watched, "--insecure") as kit:
        assert kit.post(alert()).status_code == 202
        kit.kill()
    settings(watched)
    with watching(watched, "--insecure") as kit:
        assert kit.post(alert()).status_code == 202
        kit.ended()
    assert [run.status for run in all_runs(watched)] == ["succeeded"]


def slow_runbook(project):
    """Make the runbook wait, in its first run only, until it is killed or told to go on."""
    cell = (
        "import time\nstarted = lk.path('started')\nis_first = not started.exists()\nstarted.touch()\n"
        "while is_first and not lk.path('go').exists():\n    time.sleep(0.05)"
    )
    write_notebook(project / "runbooks/diagnose.ipynb", [cell], "service: str = ''\ndays: int = 1")


def test_a_run_whose_machine_failed_is_repaired_and_run_again(watched):
    slow_runbook(watched)
    with watching(watched, "--insecure") as kit:
        kit.post(alert())
        wait_for((watched / "started").exists)
        kit.kill(with_workers=True)
    with watching(watched, "--insecure") as kit:
        [job] = kit.ended()
    runs = all_runs(watched)
    assert [run.status for run in runs] == ["succeeded", "failed"]
    assert runs[1].error.name == "RunnerDied"
    assert (job.run_id, job.attempts) == (runs[0].run_id, 2)


def test_a_run_whose_worker_alone_was_killed_is_run_again_by_the_same_watch(watched):
    slow_runbook(watched)
    with watching(watched, "--insecure") as kit:
        kit.post(alert())
        wait_for((watched / "started").exists)
        for worker in psutil.Process(kit.process.pid).children():
            worker.kill()
        [job] = kit.ended()
        assert (job.status, job.attempts) == ("succeeded", 2)
    assert sorted(run.status for run in all_runs(watched)) == ["failed", "succeeded"]


def test_a_run_outlives_the_kill_of_the_process_above_it_and_is_not_made_twice(watched):
    slow_runbook(watched)
    with watching(watched, "--insecure") as kit:
        kit.post(alert())
        wait_for((watched / "started").exists)
        kit.kill()
    with watching(watched, "--insecure") as kit:
        (watched / "go").touch()
        [job] = kit.ended()
    [run] = all_runs(watched)
    assert (run.status, job.run_id, job.attempts) == ("succeeded", run.run_id, 1)


def test_sigterm_cancels_a_run_that_does_not_end_in_time_and_the_next_start_makes_it_again(watched):
    slow_runbook(watched)
    (watched / "lepton.toml").write_text(SETTINGS.replace("workers = 1", "workers = 1\nstop_seconds = 0.2"))
    with watching(watched, "--insecure") as kit:
        kit.post(alert(1), alert(2))
        wait_for((watched / "started").exists)
        kit.process.send_signal(signal.SIGTERM)
        assert kit.process.wait(PATIENCE_S) == 0
    assert [run.status for run in all_runs(watched)] == ["cancelled"]
    assert Queue(watched).counts() == {"queued": 2, "waiting": 0, "running": 0, "ended": 0, "refused": 0}
    with watching(watched, "--insecure") as kit:
        kit.ended(2)
    assert sorted(run.status for run in all_runs(watched)) == ["cancelled", "succeeded", "succeeded"]


def is_closed(kit):
    """Say whether nobody listens any more."""
    try:
        kit.client.get("/healthz")
    except httpx.ConnectError:
        return True
    return False


def test_sigterm_lets_a_run_end_within_the_time(watched):
    slow_runbook(watched)
    with watching(watched, "--insecure") as kit:
        kit.post(alert(1), alert(2))
        wait_for((watched / "started").exists)
        kit.process.send_signal(signal.SIGTERM)
        wait_for(lambda: is_closed(kit))
        time.sleep(0.5)  # until its worker knows as well
        (watched / "go").touch()
        assert kit.process.wait(PATIENCE_S) == 0
    assert [run.status for run in all_runs(watched)] == ["succeeded"]
    assert Queue(watched).counts()["queued"] == 1


def test_many_posts_at_once_with_a_kill_in_the_middle_queue_each_alert_once(watched):
    queue_only(watched)
    posts = [alert(number) for number in range(60) for _ in range(4)]
    address = watched / "incidents" / "address"

    def send(one):
        """Retry until the answer is 202, as Alertmanager does."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                where = address.read_text().strip()
                if client.post(f"{where}/alerts", json=webhook(one)).status_code == 202:
                    return True
            except (httpx.HTTPError, httpx.UnsupportedProtocol, OSError):
                time.sleep(0.1)
        return False

    with ThreadPoolExecutor(8) as senders, httpx.Client(timeout=5) as client:
        with watching(watched, "--insecure") as kit:
            sent = [senders.submit(send, one) for one in posts]
            wait_for(lambda: len(kit.queue.incidents(1000)) >= 20)
            kit.kill()
            address.unlink()
        with watching(watched, "--insecure") as kit:
            assert all(one.result() for one in sent)
            assert len(kit.queue.jobs(1000)) == len(kit.queue.incidents(1000)) == 60
            assert kit.queue.counts()["queued"] == 60


def test_a_runbook_that_fails_is_shown_as_failed_and_a_report_that_cannot_be_made_harms_nothing(watched):
    settings(watched, report="true")
    write_notebook(watched / "runbooks/diagnose.ipynb", ["1 / 0"], "service: str = ''\ndays: int = 1")
    (watched / "reports").write_text("no folder")
    with watching(watched, "--insecure") as kit:
        kit.post(alert())
        [job] = kit.ended()
        assert job.status == "failed"
        said = wait_for(lambda: kit.client.get("/status.json").json()["problems"])
        assert "must be a folder" in said["report site"]
        assert "ZeroDivisionError" not in kit.client.get("/").text
        assert '<span class="badge bad">failed</span>' in kit.client.get("/").text


def test_after_an_alert_its_run_has_a_page_in_the_report_site_that_the_status_page_leads_to(watched):
    settings(watched, report="true")
    (watched / "reports").mkdir()
    for name in ("_quarto.yml", "index.qmd", "incidents.qmd", "runs.qmd", "lepton.css", "theme.scss"):
        shutil.copy(ROOT / "reports" / name, watched / "reports")
    with watching(watched, "--insecure", LEPTON_QUARTO="none") as kit:
        kit.post(alert())
        kit.ended()
        page = wait_for(lambda: kit.client.get("/status.json").json()["runs"][0]["page"])
        assert f'href="{page}"' in kit.client.get("/").text
        shown = kit.client.get(page)
        assert (shown.status_code, "A notebook" in shown.text) == (200, True)
        assert kit.client.get("/reports/../lepton.toml").status_code == 404
        assert kit.client.get("/status.json").json()["problems"] == {}


def test_the_incidents_are_listed_and_shown_by_the_command(watched):
    queue_only(watched)
    with watching(watched, "--insecure") as kit:
        kit.post(alert(1), alert(2, alertname="Other"))
        page = kit.client.get(f"/incidents/{kit.queue.incidents()[0].id}")
        assert page.status_code == 200
        assert kit.client.get("/incidents/none").status_code == 404
        assert "lepton run runbooks/diagnose.ipynb" in kit.client.get("/runbooks/Known").text
        assert 'lepton_watch_jobs{state="queued"} 1.0' in kit.client.get("/metrics").text
    listed = lepton_here("incidents", project=watched).stdout
    assert "-known-" in listed
    assert "-other-" in listed
    [one] = [word for word in listed.split() if "-known-" in word]
    shown = lepton_here("incidents", one, "--json", project=watched)
    assert json.loads(shown.stdout)["runs"][0]["notebook"] == "runbooks/diagnose.ipynb"
    assert lepton_here("incidents", "nothing", project=watched).returncode == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[watch]\nworkers = -1", ["watch.workers", "-1"]),
        ("[watch]\nwrong = 1", ["watch.wrong"]),
        ('[watch]\ntoken = "env:NOT_SET"', ["NOT_SET"]),
        ('[alerts.A]\nrunbook = "runbooks/none.ipynb"', ["alerts.A", "runbooks/none.ipynb"]),
        ('[alerts.A]\nrunbook = "runbooks/diagnose.ipynb"\nparameters = { day = 1 }', ["'day'", "did you mean 'days'"]),
        ('[alerts.A]\nrunbook = "runbooks/diagnose.ipynb"\nparameters = { days = "x" }', ["days", "must be int"]),
        ('[alerts.A]\nrunbook = "runbooks/paths.ipynb"\nparameters = { file = { label = "x" } }', ["file", "no path"]),
        ('[schedules.s]\nnotebook = "runbooks/diagnose.ipynb"\ncron = "61 * * * *"', ["schedules.s", "61 * * * *"]),
        ('[schedules.s]\nnotebook = "runbooks/diagnose.ipynb"\ncron = "* * * * *"\ntimezone = "Mars/B"', ["Mars/B"]),
        ('[services.a]\nmodel = "m"\nobjectives = "none"', ["none", "objectives"]),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_one_clear_error_at_the_start(watched, text, words):
    write_notebook(watched / "runbooks/paths.ipynb", ["1"], "file: Path = 'x'")
    (watched / "lepton.toml").write_text(text)
    with pytest.raises(InputError) as told:
        watch(watched, "127.0.0.1", 0, insecure=False, announce=print)
    for word in words:
        assert word in str(told.value)
    assert not (watched / "incidents").exists()


def test_the_settings_of_the_project_itself_are_in_order(project, own_project):
    own = read_settings(own_project)
    routes, planned = Routes(own, own_project), Schedules(own, own_project, Queue(project), lambda: None)
    for objective in read_all_objectives(own, own_project):
        assert routes.runbook(alert_name(objective)) == "runbooks/incident-diagnosis.ipynb"
    assert set(planned.next_times()) == {"service-health", "drift-watch"}
    policy = Policy(own, own_project)
    asked = {
        cause: [one.why for one in policy.proposals({"cause": Result(value=cause), "probability": Result(value=0.99)})]
        for cause in ("data", "model", "compute", "none", "unknown")
    }
    waits = ["the policy of this cause is to ask"]
    assert asked == {"data": waits, "model": [""], "compute": [""], "none": [], "unknown": []}
    assert policy.postmortem.notebook == "runbooks/postmortem.ipynb"


def test_insecure_is_for_loopback_alone(watched):
    made = lepton("watch", "--port", "0", "--host", "0.0.0.0", "--insecure", project=watched, timeout=60)
    assert (made.returncode, "loopback" in made.stderr, "Traceback" in made.stderr) == (2, True, False)


def test_a_budget_that_burns_fast_and_slowly_is_diagnosed_once_and_its_recovery_checked_once(watched):
    with watching(watched, "--insecure") as kit:
        for status in ("firing", "resolved"):
            for number, severity in enumerate(("ticket", "page"), 1):
                assert kit.post(alert(number, status, severity=severity)).status_code == 202
        jobs = kit.ended(2)
        page, ticket = sorted(kit.queue.incidents(), key=lambda one: one.severity)
        assert len(kit.queue.jobs()) == 2
    assert [(job.kind, job.incident) for job in jobs] == [("alert", ticket.id), ("recovery", ticket.id)]
    assert page.note.endswith(f"the same as {ticket.id}")


@pytest.mark.parametrize(
    ("above", "told"),
    [
        ("workers = ", "variable LEPTON_WATCH: not TOML"),
        ("workers = 'many'", "'watch.workers' = 'many'.*from the variable LEPTON_WATCH"),
        ("wrokers = 1", "'watch.wrokers' = 1.*from the variable LEPTON_WATCH"),
    ],
)
def test_a_wrong_variable_above_the_settings_is_named_as_what_is_wrong(watched, monkeypatch, above, told):
    monkeypatch.setenv("LEPTON_WATCH", above)
    with pytest.raises(InputError, match=told):
        read_settings(watched)
    monkeypatch.setenv("LEPTON_WATCH", "workers = 3")
    assert read_settings(watched).watch.workers == 3
