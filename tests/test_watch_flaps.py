"""Alerts that flap: a new start each time, and one diagnosis per window."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from helpers import write_notebook
from services import wait_for
from sqlalchemy import select, update
from watching import alert, watching, write_settings

from lepton_kit.ops.watch.jobs import Start
from lepton_kit.ops.watch.queue import Queue
from lepton_kit.ops.watch.webhook import Alert
from lepton_kit.runs.tables import INCIDENTS

BEGAN = datetime(2026, 11, 25, 3, tzinfo=UTC)
WINDOW = 1800.0


class Router:
    def on_firing(self, _):
        return Start("runbooks/diagnose.ipynb", {})

    def on_resolved(self, _):
        return Start("runbooks/recovery.ipynb", {})


@pytest.fixture
def project(either_project):
    return either_project


@pytest.fixture
def queue(project):
    return Queue(project, flap_s=WINDOW)


def post(queue, minute, status="firing", number=1):
    starts = (BEGAN + timedelta(minutes=minute)).isoformat()
    queue.receive([Alert.model_validate(alert(number, status, starts))], "webhook", Router())
    return Alert.model_validate(alert(number, status, starts)).incident


def flap(queue, minutes):
    for minute in minutes:
        post(queue, minute)
        post(queue, minute, "resolved")


def until(queue, incident):
    """Return the seconds after which an incident is diagnosed."""
    with queue.transaction() as ledger:
        seconds = INCIDENTS.c.held_until - INCIDENTS.c.held_from
        return ledger.scalar(select(seconds).where(INCIDENTS.c.id == incident))


def move_time(ledger, seconds):
    moved = {name: INCIDENTS.c[name] + seconds for name in ("held_from", "held_until")}
    ledger.execute(update(INCIDENTS).values(moved))


def over(queue):
    """Let the time of all that waits be over."""
    with queue.transaction() as ledger:
        move_time(ledger, -1e4)


def test_an_alert_that_flaps_is_diagnosed_once_in_a_window_and_counted(queue):
    flap(queue, range(25))
    kinds = [job.kind for job in queue.jobs(100)]
    assert (kinds.count("alert"), kinds.count("recovery")) == (1, 1)
    incidents = queue.incidents(100)
    assert len(incidents) == 25
    first = incidents[-1]
    assert queue.flaps(first.id) == 24
    assert all(f"diagnosed as {first.id}" in one.note for one in incidents[:-1])
    assert queue.over(12) == [first]
    flap(queue, [30, 31, 61])
    assert [job.kind for job in queue.jobs(100)].count("alert") == 3


def test_another_severity_of_an_alert_does_not_push_out_what_was_diagnosed(queue):
    main = post(queue, 0)
    starts = (BEGAN + timedelta(minutes=1)).isoformat()
    ticket = [alert(2, status, starts, severity="ticket") for status in ("firing", "resolved")]
    for one in ticket:
        queue.receive([Alert.model_validate(one)], "webhook", Router())
    post(queue, 0, "resolved")
    assert len(queue.incidents()) == 2
    assert [one.id for one in queue.over(12)] == [main]


def test_an_alert_that_came_back_and_lasts_is_diagnosed_when_the_window_is_over(queue):
    flap(queue, [0])
    for job in (queue.take(), queue.take()):
        queue.end(job, "a-run", "succeeded")
    lasting = post(queue, 10)
    assert until(queue, lasting) == pytest.approx(20 * 60)
    assert queue.take() is None
    assert queue.queued() == 0
    over(queue)
    assert queue.queued() == 1
    job = queue.take()
    assert (job.kind, job.incident) == ("alert", lasting)
    post(queue, 10, "resolved")
    assert queue.take().kind == "recovery"  # it was diagnosed after all
    later = post(queue, 40)
    assert until(queue, later) == pytest.approx(20 * 60)  # counted from that diagnosis on, not from the first


def test_of_several_starts_without_an_end_the_last_one_waits(queue):
    post(queue, 0)
    first, second = post(queue, 5), post(queue, 7)
    assert queue.jobs(100)[0].incident == second
    assert len(queue.jobs(100)) == 2
    assert (until(queue, first), until(queue, second)) == (pytest.approx(25 * 60), pytest.approx(23 * 60))


def test_another_alert_and_an_old_start_are_no_flap(queue):
    post(queue, 0)
    post(queue, 5, number=2)
    post(queue, -90)
    assert len(queue.jobs(100)) == 3
    assert queue.queued() == 3


def test_what_waits_for_its_time_does_not_wait_for_a_clock_that_was_put_back(queue):
    post(queue, 0)
    post(queue, 5)
    with queue.transaction() as ledger:
        move_time(ledger, 1e7)
    assert queue.queued() == 2


def test_a_flapping_alert_of_a_webhook_runs_one_diagnosis_and_the_page_says_so(project):
    write_settings(
        project, '[watch]\nworkers = 1\nreport = false\n[alerts.Known]\nrunbook = "runbooks/diagnose.ipynb"\n'
    )
    write_notebook(project / "runbooks/diagnose.ipynb", ["1"])
    with watching(project, "--insecure") as kit:
        now = datetime.now(UTC)
        for number in range(10):
            starts = (now + timedelta(seconds=number)).isoformat()
            for status in ("firing", "resolved"):
                assert kit.post(alert(status=status, starts=starts)).status_code == 202
        kit.ended(1)
        wait_for(lambda: kit.queue.counts()["queued"] == 0)
        said = kit.client.get("/status.json").json()["recent_incidents"]
        page = kit.client.get("/").text
    assert len(kit.queue.jobs(100)) == 1
    assert [one["flaps"] for one in said] == [9]  # the others would push what was diagnosed and repaired out
    assert "Flapping: the alert fired again 9 times" in page
