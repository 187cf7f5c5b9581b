"""What people are told of incidents: by a real `lepton watch`, through Apprise, to a real HTTP server."""

import json
import os
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from helpers import lepton_here
from receivers import SECRET
from repairs import Everything, diagnosed, project_with_repairs, proposal, propose
from services import wait_for
from watching import alert, watching

from lepton_kit.errors import InputError
from lepton_kit.ops.watch.notify import MOST_TRIES, Notifier, newest, notices, open_targets
from lepton_kit.ops.watch.queue import Queue
from lepton_kit.ops.watch.webhook import Alert
from lepton_kit.project.settings import Notify
from lepton_kit.runs.tables import NOTICES


def notifying(project):
    made = project_with_repairs(project)
    settings = (made / "lepton.toml").read_text()
    notify = "\n[notify]\nurls = ['env:NOTIFY_URL']\naddress = 'https://ops.example/'\n"
    (made / "lepton.toml").write_text(settings + notify)
    return made


@pytest.fixture
def project(tmp_path):
    return notifying(tmp_path)


@pytest.fixture
def either(either_project):
    """Give a project whose ledger is a file, and one whose ledger is in PostgreSQL."""
    return notifying(either_project)


def raised(project, number=1, status="firing", **labels):
    """Record an alert that starts a diagnosis, and return the incident."""
    posted = Alert.model_validate(alert(number, status, **labels) | ended(status))
    Queue(project).receive([posted], "webhook", Everything())
    return posted.incident


def ended(status="resolved"):
    return {"endsAt": datetime.now(UTC).isoformat()} if status == "resolved" else {}


def notifier(project, **settings):
    return Notifier(Notify(urls=["env:NOTIFY_URL"], **settings), project, Queue(project))


def due_now(project):
    """Let what waits for its next try be due."""
    with Queue(project).transaction() as ledger:
        ledger.execute(NOTICES.update().where(NOTICES.c.state == "waiting").values(due=0.0))


def test_people_are_told_once_of_each_step_of_an_incident_with_cause_command_and_link(project, receiver):
    with watching(project, "--insecure", LEPTON_REMEDIES="") as kit:
        kit.post(diagnosed(cause="data"))
        wait_for(lambda: any(one.startswith("Waits for approval") for one in receiver.titles()))
        [one] = kit.queue.waiting()
        assert lepton_here("approve", one.incident, project=project).returncode == 0
        wait_for(lambda: any(one.startswith("Repaired") for one in receiver.titles()))
        kit.post(diagnosed(cause="data", status="resolved") | ended())
        wait_for(lambda: any(one.startswith("Resolved") for one in receiver.titles()))
        problems = kit.client.get("/status.json").json()["problems"]
    about = "goog: Known (page)"
    assert sorted(receiver.titles()) == sorted(
        f"{words}: {about}"
        for words in ("Opened", "Diagnosed as data", "Waits for approval of the data repair", "Repaired", "Resolved")
    )
    waits = next(body["message"] for body in receiver.bodies if body["title"].startswith("Waits"))
    assert "something burns" in waits
    assert "Cause: data (99%)" in waits
    assert f"lepton approve {one.incident}" in waits
    assert f"https://ops.example/incidents/{one.incident}" in waits
    assert problems == {}
    listed = lepton_here("notify", project=project).stdout
    assert listed.count(" sent ") == 5
    assert SECRET not in listed


def test_a_notice_that_does_not_get_through_is_tried_again_and_then_given_up_and_reported(either, receiver):
    receiver.refuses = True
    raised(either)
    told = notifier(either)
    told.look()
    [row] = newest(Queue(either), 9)
    assert (row["state"], row["tries"]) == ("waiting", 1)
    assert row["due"] > time.time() + 5  # not at once
    [trouble] = told.troubles().values()
    assert trouble == "1 not sent: the service did not take it, or cannot be reached"
    receiver.refuses = False
    due_now(either)
    told.look()
    assert receiver.titles() == ["Opened: goog: Known (page)"]
    assert told.troubles() == {}
    receiver.refuses = True
    raised(either, 2)
    for _ in range(MOST_TRIES + 1):
        told.look()
        due_now(either)
    assert {row["state"]: row["tries"] for row in newest(Queue(either), 9)} == {"sent": 2, "given up": MOST_TRIES}
    assert "1 not sent" in next(iter(told.troubles().values()))
    assert SECRET not in json.dumps(newest(Queue(either), 9))


def test_two_that_share_a_ledger_send_a_notice_once(either, receiver):
    for number in range(1, 6):
        raised(either, number, alertname=f"Known{number}")
    both = [notifier(either), notifier(either)]
    threads = [threading.Thread(target=one.look) for one in both for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(receiver.titles()) == len(set(receiver.titles())) == 5


def test_no_more_than_the_most_per_hour_are_sent_and_the_rest_is_reported(project, receiver):
    for number in range(1, 6):
        raised(project, number, alertname=f"Known{number}")
    told = notifier(project, most_per_hour=2)
    told.look()
    told.look()
    assert len(receiver.titles()) == 2
    assert told.troubles() == {"notices to env:NOTIFY_URL": "3 not sent: more than most_per_hour = 2"}


def test_what_is_not_asked_for_is_long_over_or_another_severity_of_the_same_is_not_told(project, receiver):
    raised(project)
    raised(project, 2, severity="ticket")  # of the same alert: one thing to find out
    raised(project, 3, "resolved", alertname="Other")
    told = notifier(project, on=["resolved"])
    told.look()
    assert receiver.titles() == ["Resolved: goog: Other (page)"]
    with Queue(project).transaction() as ledger:
        ledger.exec_driver_sql("UPDATE incidents SET received = received - 7200")
    notifier(project).look()
    assert receiver.titles() == ["Resolved: goog: Other (page)"]


def test_text_of_an_alert_is_cut_to_lines_of_a_bounded_length(project, receiver):
    raised(project, alertname="Known\nBurns " + "x" * 5000)
    notifier(project).look()
    [title] = receiver.titles()
    assert "\n" not in title
    assert len(title) <= 300


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (f"nosuchservice://{SECRET}", "'env:NOTIFY_URL' holds no address that Apprise knows"),
        (None, "there is no environment variable 'NOTIFY_URL'"),
    ],
)
def test_an_address_that_is_none_is_refused_before_anything_starts_and_without_its_secret(
    project, monkeypatch, value, words
):
    if value is not None:
        monkeypatch.setenv("NOTIFY_URL", value)
    with pytest.raises(InputError) as refused:
        open_targets(Notify(urls=["env:NOTIFY_URL"]), project)
    assert words in str(refused.value)
    assert SECRET not in str(refused.value)


def test_an_address_in_the_settings_itself_is_refused(project):
    with pytest.raises(InputError) as refused:
        open_targets(Notify(urls=[f"slack://{SECRET}"]), project)
    assert "must be given as a reference" in str(refused.value)
    assert SECRET not in str(refused.value)


def test_the_command_tries_each_address(project, receiver, monkeypatch):
    url = f"json://127.0.0.1:1/{SECRET}"
    (project / "lepton.toml").write_text("[notify]\nurls = ['env:NOTIFY_URL', 'env:OTHER_URL']\n")
    done = lepton_here("notify", "--test", project=project, NOTIFY_URL=os.environ["NOTIFY_URL"], OTHER_URL=url)
    assert done.returncode == 1
    assert "✓ env:NOTIFY_URL" in done.stdout
    assert "✗ env:OTHER_URL: the service did not take it" in done.stdout
    assert SECRET not in done.stdout + done.stderr
    assert receiver.titles() == ["Lepton Kit: test"]
    (project / "lepton.toml").write_text("")
    nobody = lepton_here("notify", "--test", project=project)
    assert nobody.returncode == 2
    assert "urls names no address" in nobody.stderr


def test_an_alert_that_flaps_and_a_diagnosis_without_a_probability_are_no_trouble(project, receiver):
    queue, began = Queue(project, flap_s=3600), datetime.now(UTC)
    for status, minutes in (("firing", 10), ("resolved", 10), ("firing", 5)):
        posted = alert(1, status, starts=(began - timedelta(minutes=minutes)).isoformat())
        posted |= ended(status)
        queue.receive([Alert.model_validate(posted)], "webhook", Everything())
    told = Notifier(Notify(urls=["env:NOTIFY_URL"]), project, queue)
    told.look()
    assert sorted(receiver.titles()) == ["Opened: goog: Known (page)", "Resolved: goog: Known (page)"]
    facts = {
        "same_as": None,
        "runs": [{"kind": "alert", "state": "ended", "ended": 1.0, "number": 1, "results": {"cause": "data"}}],
        "remedies": [{"job": 2, "cause": "data", "state": "ended", "verdict": None, "decisions": [], "why": ""}],
        "service": "goog", "name": "Known", "severity": "", "next_action": None, "id": "i", "summary": "",
        "received": 0.0, "status": "firing", "ends_at": None,
        "owner": "", "acknowledged": None, "acknowledged_by": "", "silenced": "",
    }  # fmt: skip
    found = list(notices(facts, ""))  # the repair's run has not been noted yet
    assert [one.event for one in found] == ["opened", "diagnosed"]
    assert found[1].body == "Cause: data"
    seen_to = facts | {"owner": "search team", "acknowledged": "2026-11-25T03:00:00+00:00", "acknowledged_by": "Kim"}
    found = list(notices(seen_to, ""))
    assert [one.event for one in found] == ["opened", "acknowledged", "diagnosed"]
    assert found[2].body == "Cause: data\nOwner: search team\nAcknowledged by Kim"


def test_a_repair_that_waits_again_is_announced_again_however_long_ago_it_was_queued(project, receiver):
    incident = propose(Queue(project), proposal("data", "the policy is to ask"))
    told = notifier(project, on=["waiting"])
    told.look()
    told.look()
    assert len(receiver.titles()) == 1
    with Queue(project).transaction() as ledger:
        ledger.exec_driver_sql("UPDATE jobs SET queued = queued - 90000")
        ledger.exec_driver_sql(
            "INSERT INTO decisions (job, is_approved, at, by, via, note)"
            " SELECT number, 1, 0, 'Kim', 'page', '' FROM jobs WHERE state = 'waiting'"
        )
    told.look()
    assert receiver.titles() == ["Waits for approval of the data repair: goog: Known (page)"] * 2
    assert incident in receiver.bodies[1]["message"]


def test_of_more_incidents_than_a_page_lists_each_is_opened(project, receiver):
    for number in range(1, 61):
        raised(project, number, alertname=f"Known{number}")
    notifier(project, most_per_hour=100).look()
    assert len(set(receiver.titles())) == 60


def test_a_notice_that_is_being_sent_is_taken_by_no_other_and_its_end_is_not_overwritten(
    project, receiver, monkeypatch
):
    raised(project)
    second = notifier(project)
    sent = threading.Event()

    def slowly(title, body):
        second.look()  # while it is under way
        with Queue(project).transaction() as ledger:  # somebody else took it after all, and got it through
            ledger.execute(NOTICES.update().values(tries=2, state="sent"))
        sent.set()
        return "the first one gave up"

    monkeypatch.setattr("lepton_kit.ops.watch.notify.open_targets", lambda *_: {"env:NOTIFY_URL": slowly})
    notifier(project).look()
    assert sent.is_set()
    assert receiver.titles() == []
    [row] = newest(Queue(project), 9)
    assert (row["state"], row["error"]) == ("sent", "")


def test_whatever_goes_wrong_ends_no_thread_and_is_reported(project, receiver, monkeypatch):
    seen = []
    told = Notifier(Notify(urls=["env:NOTIFY_URL"]), project, Queue(project), on_trouble=seen.append)

    def broken():
        if not seen:
            raise KeyError("probability")
        raised(project) if len(seen) == 1 else None
        monkeypatch.undo()
        monkeypatch.setattr(told, "look", lambda: seen.append("looked"))

    monkeypatch.setattr("lepton_kit.ops.watch.notify.LOOK_S", 0.01)
    monkeypatch.setattr(told, "look", broken)
    told.start()
    wait_for(lambda: "looked" in seen)
    told.stop()
    assert seen[0] == {"notices": "KeyError: 'probability'"}
