"""Schedules: each due time is handled once, also after downtime and by two processes."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime

import pytest
from helpers import PATIENCE_S, write_notebook
from watching import watching

from lepton_kit.errors import InputError
from lepton_kit.ops.watch.queue import Queue
from lepton_kit.ops.watch.schedules import Schedules, cron_trigger, latest_due
from lepton_kit.runs.manifest import all_runs
from lepton_kit.runs.settings import read_settings

SETTINGS = """
[watch]
workers = 1

[schedules.nightly]
notebook = "runbooks/health.ipynb"
cron = "0 3 * * *"
parameters = { days = 2 }
"""


@pytest.fixture
def scheduled(project):
    """A project with a schedule that is due each night at three."""
    (project / "lepton.toml").write_text(SETTINGS)
    write_notebook(project / "runbooks/health.ipynb", ["lk.record('days', days)"], "days: int = 1")
    return project


def handled(project, ago):
    """Say that the schedule was handled last so many seconds ago."""
    with Queue(project)._transaction() as ledger:
        ledger.execute("INSERT OR REPLACE INTO schedules VALUES ('nightly', ?)", [time.time() - ago])


def schedules(project):
    return Schedules(read_settings(project), project, Queue(project), lambda: None)


def seconds(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def test_a_schedule_that_is_new_is_not_due_at_once(scheduled):
    assert schedules(scheduled).handle("nightly") is None
    assert schedules(scheduled).handle("nightly") is None
    assert Queue(scheduled).jobs() == []


def test_many_missed_times_become_one_run_for_the_latest_of_them(scheduled):
    handled(scheduled, 10 * 86400)
    due = schedules(scheduled).handle("nightly")
    assert time.time() - 86400 <= due <= time.time()
    assert datetime.fromtimestamp(due, UTC).strftime("%H:%M:%S") == "03:00:00"
    assert schedules(scheduled).handle("nightly") is None
    [job] = Queue(scheduled).jobs()
    assert (job.key, job.kind, job.parameters) == (f"schedule:nightly:{due:.0f}", "schedule", {"days": 2})


def test_of_many_that_handle_a_due_time_at_once_one_does(scheduled):
    handled(scheduled, 2 * 86400)
    made = [schedules(scheduled) for _ in range(8)]
    found = []
    threads = [threading.Thread(target=lambda one=one: found.append(one.handle("nightly"))) for one in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(due is not None for due in found) == 1
    assert len(Queue(scheduled).jobs()) == 1


def test_two_watch_processes_run_a_missed_time_once(scheduled):
    handled(scheduled, 3 * 86400)
    with watching(scheduled) as first, watching(scheduled) as second:
        [job] = first.ended()
        assert second.queue.counts() == {"queued": 0, "waiting": 0, "running": 0, "ended": 1, "refused": 0}
        said = second.client.get("/status.json").json()["schedules"]
        assert [one["name"] for one in said] == ["nightly"]
    [run] = all_runs(scheduled)
    assert (run.run_id, run.trigger, run.parameters) == (job.run_id, "schedule:nightly", {"days": 2})


def test_what_becomes_due_while_watching_is_run(scheduled):
    text = SETTINGS.replace("0 3 * * *", "* * * * *").replace("workers = 1", "workers = 0")
    (scheduled / "lepton.toml").write_text(text)
    handled(scheduled, 1)
    made = schedules(scheduled)
    trigger, _ = made._plans["nightly"]
    # The scheduler asks the clock, so that a test would wait a minute: the trigger is made due each second instead.
    made._plans["nightly"] = type(trigger)(second="*", timezone=UTC), made._plans["nightly"][1]
    made.start()
    deadline = time.monotonic() + PATIENCE_S
    while len(Queue(scheduled).jobs()) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    made.stop()
    jobs = Queue(scheduled).jobs()
    assert len({job.key for job in jobs}) == len(jobs) >= 2


@pytest.mark.parametrize(
    ("cron", "after", "now", "due"),
    [
        ("*/5 * * * *", "2026-11-25T03:00", "2026-11-25T03:04", None),
        ("*/5 * * * *", "2026-11-25T03:00", "2026-11-25T03:05", "2026-11-25T03:05"),
        ("* * * * *", "2020-01-01T00:00", "2026-11-25T03:05:30", "2026-11-25T03:05"),
        ("0 3 * * 0", "2026-11-01T00:00", "2026-11-25T00:00", "2026-11-22T03:00"),
        ("0 3 * * 7", "2026-11-01T00:00", "2026-11-25T00:00", "2026-11-22T03:00"),
        ("0 3 * * 1-5", "2026-11-01T00:00", "2026-11-22T12:00", "2026-11-20T03:00"),
        ("0 0 1 1 *", "2020-06-01T00:00", "2026-11-25T00:00", "2026-01-01T00:00"),
        ("0 0 29 2 *", "2020-06-01T00:00", "2026-11-25T00:00", "2024-02-29T00:00"),
    ],
)
def test_the_latest_due_time_is_that_of_cron(cron, after, now, due):
    found = latest_due(cron_trigger(cron, "UTC"), seconds(after), seconds(now))
    assert found == (due and seconds(due))


def test_a_time_zone_is_kept_over_its_change_to_summer_time():
    trigger = cron_trigger("30 9 * * *", "Europe/Berlin")
    assert latest_due(trigger, seconds("2026-03-28T00:00"), seconds("2026-03-28T12:00")) == seconds("2026-03-28T08:30")
    assert latest_due(trigger, seconds("2026-03-29T00:00"), seconds("2026-03-29T12:00")) == seconds("2026-03-29T07:30")


@pytest.mark.parametrize("cron", ["* * * *", "0 0 1 * 1", "* * * * 8", "* * * * 5-1", "* * * * */0", "x * * * *"])
def test_an_expression_that_cron_would_not_mean_so_is_refused(cron):
    with pytest.raises(InputError, match="cron"):
        cron_trigger(cron, "UTC")
