"""What a real Alertmanager says of silences: nobody is notified, no repair starts by itself, and nothing stays open."""

import time

import httpx
import pytest
from helpers import lepton_here
from monitors import alertmanager, metrics_target, needs_alertmanager
from repairs import Everything, project_with_repairs, proposal
from services import wait_for
from typer.testing import CliRunner
from watching import alert

from lepton_kit.cli import app
from lepton_kit.errors import InputError
from lepton_kit.ops.watch.approvals import make_decision
from lepton_kit.ops.watch.intake import Intake
from lepton_kit.ops.watch.notify import Notifier, notices
from lepton_kit.ops.watch.queue import Queue
from lepton_kit.ops.watch.silences import GONE_S, Silences, silence
from lepton_kit.ops.watch.status import incident_facts
from lepton_kit.ops.watch.webhook import Alert
from lepton_kit.ops.watch.worker import run_job, why_to_wait
from lepton_kit.project.settings import Notify, read_settings
from lepton_kit.runs.tables import NOTICES

LABELS = {"alertname": "Known", "service": "goog", "severity": "page"}
NOBODY = {"route": {"receiver": "nobody"}, "receivers": [{"name": "nobody"}]}


def rfc3339(seconds):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def raised(server, **more):
    """Let an alert fire in Alertmanager, and return it as it posts it."""
    firing = {"labels": LABELS, "startsAt": rfc3339(time.time() - 60), **more}
    assert server.post("/api/v2/alerts", json=[firing]).status_code == 200
    [known] = wait_for(lambda: server.get("/api/v2/alerts").json())
    return {**firing, "status": "firing", "fingerprint": known["fingerprint"], "startsAt": known["startsAt"]}


def silenced(server, seconds=3600):
    matcher = {"name": "alertname", "value": "Known", "isRegex": False, "isEqual": True}
    times = {"startsAt": rfc3339(time.time()), "endsAt": rfc3339(time.time() + seconds)}
    about = {"matchers": [matcher], **times, "createdBy": "Kim", "comment": "moving\nracks"}
    id = server.post("/api/v2/silences", json=about).json()["silenceID"]
    wait_for(lambda: server.get("/api/v2/alerts").json()[0]["status"]["silencedBy"])
    return id


@pytest.fixture
def incident(project):
    """Give a project with an incident of an alert that fires in a real Alertmanager, and that server."""
    project_with_repairs(project)
    queue = Queue(project)
    with alertmanager(project, NOBODY) as address, httpx.Client(base_url=address, timeout=30) as server:
        posted = Alert.model_validate(raised(server))
        queue.receive([posted], "webhook", Everything())
        intake = Intake(queue, Everything(), lambda: None)
        yield queue, server, Silences(address, queue, intake)
        intake.close()


def only(queue):
    [one] = queue.incidents()
    return one


@needs_alertmanager
def test_while_an_alert_is_silenced_nobody_is_notified_and_no_repair_starts_by_itself(incident, project):
    queue, server, silences = incident
    job = queue.take()
    queue.end(job, "run-1", "succeeded", [proposal("compute")], 3)
    silences.look()
    assert only(queue).silenced == ""
    repair = queue.take()
    assert why_to_wait(repair, queue, project) is None
    id = silenced(server)
    silences.look()
    assert only(queue).silenced.startswith("by Kim until ")
    assert only(queue).silenced.endswith(" UTC: moving racks")
    assert why_to_wait(repair, queue, project) == f"the alert is silenced {only(queue).silenced}"
    assert list(notices(incident_facts(only(queue), queue, project), "")) == []
    assert server.delete(f"/api/v2/silence/{id}").status_code == 200
    wait_for(lambda: not server.get("/api/v2/alerts").json()[0]["status"]["silencedBy"])
    silences.look()
    assert only(queue).silenced == ""
    assert [one.event for one in notices(incident_facts(only(queue), queue, project), "")] == ["opened"]


@needs_alertmanager
def test_a_repair_that_a_person_approved_runs_although_the_alert_is_silenced(incident, project):
    queue, server, silences = incident
    queue.end(queue.take(), "run-1", "succeeded", [proposal("data", "ask")], 3)
    silenced(server)
    silences.look()
    [waits] = queue.waiting()
    queue.decide(waits.job, make_decision(True, "Kim", "lepton approve", ""))
    job = queue.take()
    assert why_to_wait(job, queue, project) is None
    assert run_job(job, queue, read_settings(project), project).status == "succeeded"


@needs_alertmanager
def test_an_alert_that_ends_while_it_is_silenced_is_over_once_alertmanager_has_not_known_it_for_a_while(incident):
    queue, server, silences = incident
    silenced(server)
    silences.look()
    ended = {"labels": LABELS, "startsAt": only(queue).starts_at, "endsAt": rfc3339(time.time() - 1)}
    assert server.post("/api/v2/alerts", json=[ended]).status_code == 200
    wait_for(lambda: not server.get("/api/v2/alerts").json())
    gone = time.time()
    silences.look(gone)
    silences.look(gone + GONE_S - 1)  # an Alertmanager that was started anew would know it again by now
    assert only(queue).status == "firing"
    assert only(queue).silenced
    silences.look(gone + GONE_S)
    assert only(queue).status == "resolved"
    assert only(queue).ends_at[:19] == time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(gone))


@needs_alertmanager
def test_an_alert_that_was_not_silenced_is_not_ended_by_an_alertmanager_that_forgot_it(incident):
    queue, server, silences = incident
    ended = {"labels": LABELS, "startsAt": only(queue).starts_at, "endsAt": rfc3339(time.time() - 1)}
    assert server.post("/api/v2/alerts", json=[ended]).status_code == 200
    wait_for(lambda: not server.get("/api/v2/alerts").json())
    silences.look(time.time())
    silences.look(time.time() + 2 * GONE_S)
    assert only(queue).status == "firing"


@pytest.mark.parametrize(
    "answer", ["<html>", "{}", "[1]", '[{"fingerprint": "a"}]', '[{"status": {"silencedBy": []}}]']
)
def test_what_is_no_alertmanager_is_named_and_changes_nothing(project, answer):
    queue = Queue(project)
    posted = Alert.model_validate({"status": "firing", "labels": LABELS, "startsAt": rfc3339(1e9), "fingerprint": "a"})
    queue.receive([posted], "webhook", Everything())
    queue.note_silences({posted.incident: ("by Kim", 2e9)})
    with metrics_target() as target:
        target.text = answer
        silences = Silences(target.address.replace("//", "//me:hunter2@"), queue, Intake(queue, Everything(), print))
        with pytest.raises(InputError, match=f"Alertmanager {target.address}: /api/v2/alerts is not readable"):
            silences.look()
    with pytest.raises(InputError, match="does not answer") as error:
        silences.look()
    assert "hunter2" not in str(error.value)
    assert only(queue).silenced == "by Kim"
    for wrong in ("ftp://me:hunter2@x", "http://me:hunter2@x:abc"):
        with pytest.raises(InputError, match="Alertmanager address") as error:
            Silences(wrong, queue, Intake(queue, Everything(), print))
        assert "hunter2" not in str(error.value)


def test_a_service_whose_alerts_are_evaluated_here_is_silenced_before_and_during_an_incident(project, receiver):
    (project / "lepton.toml").write_text(
        (project / "lepton.toml").read_text() + "\n[services.goog]\n[services.other]\n"
    )
    silenced = lepton_here(
        "silence", "goog", "--for", "30m", "--because", "moving racks", "--by", "Kim", project=project
    )
    assert "evaluates itself (silence posted ones in Alertmanager): silenced by Kim until " in silenced.stdout, (
        silenced.stderr
    )
    queue, posted = Queue(project), [Alert.model_validate(alert(number)) for number in (1, 2)]
    told = Notifier(Notify(urls=["env:NOTIFY_URL"]), project, queue)
    queue.receive(posted[:1], "embedded", Everything())
    told.look()
    assert only(queue).silence.endswith(" UTC: moving racks")
    assert (receiver.titles(), time.time() + 1700 < only(queue).silenced_until < time.time() + 1800) == ([], True)
    queue.note_silences({})  # Alertmanager knows of none: these are not its own
    assert only(queue).silence
    silence(queue, "goog", 0, "Kim", "")
    told.look()
    assert (only(queue).silence, receiver.titles()) == ("", ["Opened: goog: Known (page)"])
    silence(queue, "other", 60, "Kim", "")
    assert only(queue).silence == ""
    silence(queue, "goog", 60, "Kim", "")
    assert only(queue).silence  # while it is open
    queue.silence("goog", "by Kim", time.time() - 1)
    queue.receive(posted[1:], "embedded", Everything())
    assert [one.silence for one in queue.incidents()] == ["", ""]


def test_nobody_is_told_afterwards_of_an_incident_that_was_resolved_within_its_silence(project, receiver):
    queue, ended = Queue(project), time.time() - 60
    told = Notifier(Notify(urls=["env:NOTIFY_URL"]), project, queue)
    queue.receive([Alert.model_validate(alert(1))], "embedded", Everything())
    for until, titles in ((ended + 1, 0), (ended - 1, 2)):
        with queue.transaction() as ledger:
            ends = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(ended))
            ledger.exec_driver_sql(
                "UPDATE incidents SET silenced = 'by Kim', status = 'resolved',"
                f" silenced_until = {until}, ends_at = '{ends}'"
            )
        told.look()
        assert (only(queue).silence, len(receiver.titles())) == ("", titles)


def test_an_alert_that_was_posted_is_not_silenced_here(project):
    queue = Queue(project)
    silence(queue, "goog", 60, "Kim", "")
    queue.receive([Alert.model_validate(alert(1))], "webhook", Everything())
    assert only(queue).silenced == ""


@pytest.mark.parametrize(
    ("given", "why"),
    [(["none"], "not in lepton.toml, which declares goog"), (["goog", "--for", "8d"], "must be at most 7d"),
     (["goog", "--for", "soon"], "duration 'soon'"), (["goog", "--because", "a\x1b[2J"], "control characters")],
)  # fmt: skip
def test_a_silence_that_cannot_be_is_refused(project, monkeypatch, given, why):
    (project / "lepton.toml").write_text((project / "lepton.toml").read_text() + "\n[services.goog]\n")
    monkeypatch.chdir(project)
    refused = CliRunner().invoke(app, ["silence", *given])
    assert isinstance(refused.exception, InputError)
    assert why in str(refused.exception)


def test_a_silence_is_over_at_its_end_also_where_alertmanager_does_not_answer(project, receiver):
    queue = Queue(project)
    posted = Alert.model_validate(alert(1))
    queue.receive([posted], "webhook", Everything())
    told = Notifier(Notify(urls=["env:NOTIFY_URL"]), project, queue)
    receiver.refuses = True
    told.look()  # a notice waits for its next try
    receiver.refuses = False
    queue.note_silences({posted.incident: ("by Kim", time.time() + 60)})
    with queue.transaction() as ledger:
        ledger.execute(NOTICES.update().values(due=0.0))
    told.look()
    assert (only(queue).silence, receiver.titles()) == ("by Kim", [])
    queue.note_silences({posted.incident: ("by Kim", time.time() - 1)})
    told.look()
    assert (only(queue).silence, receiver.titles()) == ("", ["Opened: goog: Known (page)"])
    assert only(queue).silenced == "by Kim"  # by which an end without a word is told
