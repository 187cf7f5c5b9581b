"""Schedules: each due time is handled once, also after downtime and by two processes."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from helpers import PATIENCE_S, write_notebook
from watching import watching, write_settings

from lepton_kit.errors import InputError
from lepton_kit.ops.watch.queue import Queue
from lepton_kit.ops.watch.schedules import Cron, Schedules
from lepton_kit.project.settings import read_settings
from lepton_kit.runs.manifest import all_runs
from lepton_kit.runs.tables import SCHEDULES, replace

SETTINGS = """
[watch]
workers = 1

[schedules.nightly]
notebook = "runbooks/health.ipynb"
cron = "0 3 * * *"
parameters = { days = 2 }
"""


@pytest.fixture
def scheduled(either_project):
    """A project with a schedule that is due each night at three."""
    project = either_project
    write_settings(project, SETTINGS)
    write_notebook(project / "runbooks/health.ipynb", ["lk.record('days', days)"], "days: int = 1")
    return project


def handled(project, ago):
    """Say that the schedule was handled last so many seconds ago."""
    with Queue(project).transaction() as ledger:
        replace(ledger, SCHEDULES, name="nightly", handled=time.time() - ago)


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


class EachSecond(Cron):
    """Due each second."""

    def next_due(self, after):
        return after.replace(microsecond=0) + timedelta(seconds=1)

    def latest_due(self, after, now):
        return now // 1 if now // 1 > after else None


def test_what_becomes_due_while_watching_is_run(scheduled):
    text = SETTINGS.replace("0 3 * * *", "* * * * *").replace("workers = 1", "workers = 0")
    write_settings(scheduled, text)
    handled(scheduled, 1)
    made = schedules(scheduled)
    # The scheduler asks the clock, so that a test would wait a minute: the expression is made due each second instead.
    made.plans["nightly"] = EachSecond("* * * * *"), made.plans["nightly"][1]
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
        ("0 0 1 * 1", "2026-11-01T00:00", "2026-11-25T00:00", "2026-11-23T00:00"),  # the first, or a Monday
    ],
)
def test_the_latest_due_time_is_that_of_cron(cron, after, now, due):
    found = Cron(cron).latest_due(seconds(after), seconds(now))
    assert found == (due and seconds(due))


def test_a_time_zone_is_kept_over_its_change_to_summer_time():
    cron = Cron("30 9 * * *", "Europe/Berlin")
    assert cron.latest_due(seconds("2026-03-28T00:00"), seconds("2026-03-28T12:00")) == seconds("2026-03-28T08:30")
    assert cron.latest_due(seconds("2026-03-29T00:00"), seconds("2026-03-29T12:00")) == seconds("2026-03-29T07:30")


def due_times(cron, zone, first, last):
    """Return all due times of a span, in UTC."""
    due, found = Cron(cron, zone).next_due(datetime.fromisoformat(first).replace(tzinfo=UTC)), []
    while due.timestamp() <= seconds(last):
        found.append(f"{due.astimezone(UTC):%dT%H:%M}")
        due = Cron(cron, zone).next_due(due)
    return found


SPRING, AUTUMN = ("2026-03-28T12:00", "2026-03-30T12:00"), ("2026-10-24T12:00", "2026-10-26T12:00")


@pytest.mark.parametrize(
    ("cron", "span", "due"),
    [
        ("30 2 * * *", AUTUMN, ["25T00:30", "26T01:30"]),  # the first half past two
        ("0 3 * * *", AUTUMN, ["25T02:00", "26T02:00"]),
        ("0 2-3 * * *", AUTUMN, ["25T00:00", "25T02:00", "26T01:00", "26T02:00"]),
        ("30 2 * * *", SPRING, ["29T01:00", "30T00:30"]),  # not lost: when the clocks have changed, at three
        ("30 2,3 * * *", SPRING, ["29T01:00", "29T01:30", "30T00:30", "30T01:30"]),
        ("30 2 29 3 *", SPRING, ["29T01:00"]),
        ("0 3 * * 0", SPRING, ["29T01:00"]),
    ],
)
def test_a_time_that_a_change_of_clocks_repeats_or_leaves_out_is_due_once(cron, span, due):
    assert due_times(cron, "Europe/Berlin", *span) == due


@pytest.mark.parametrize(("span", "hours"), [(AUTUMN, 48), (SPRING, 48)])
def test_what_is_due_every_hour_is_so_at_each_that_comes(span, hours):
    assert len(due_times("30 * * * *", "Europe/Berlin", *span)) == hours
    assert len(due_times("*/5 * * * *", "Europe/Berlin", *span)) == 12 * hours
    assert len(due_times("*/5 * * * *", "Australia/Lord_Howe", "2026-04-04T00:00", "2026-04-05T00:00")) == 12 * 24


def test_the_latest_of_what_was_missed_over_a_change_of_clocks_is_due_once():
    cron, first = Cron("30 2 * * *", "Europe/Berlin"), seconds("2026-10-25T00:30")
    assert cron.latest_due(seconds("2026-10-24T12:00"), seconds("2026-10-25T12:00")) == first
    assert cron.latest_due(first, seconds("2026-10-25T12:00")) is None


@pytest.mark.parametrize("cron", ["0 0 30 2 *", "0 0 31 4,6,9,11 *", "0 0 30-31 2 *"])
def test_an_expression_that_is_never_due_is_refused(cron, scheduled):
    with pytest.raises(InputError, match=r"cron .*day-of-month"):
        Cron(cron)
    write_settings(scheduled, SETTINGS.replace("0 3 * * *", cron))
    with pytest.raises(InputError, match=r"lepton\.toml, schedules\.nightly: cron .*day-of-month"):
        schedules(scheduled)


def test_a_schedule_goes_on_after_a_clock_that_was_days_ahead(scheduled, monkeypatch):
    made, began = schedules(scheduled), time.time()
    ahead = [5 * 86400.0]
    monkeypatch.setattr(time, "time", lambda: began + ahead[0])
    handled(scheduled, 6 * 86400)
    assert made.handle("nightly") > began + 3 * 86400
    ahead[0] = 0.0
    assert made.handle("nightly") is None  # the clock is right again: handled up to now
    found = []
    for day in range(1, 8):
        ahead[0] = day * 86400.0
        found.append(made.handle("nightly"))
    assert None not in found
    keys = [job.key for job in Queue(scheduled).jobs(100)]
    assert len(set(keys)) == len(keys) == 8
    assert len({key.rpartition(":")[2] for key in keys}) == 7  # one time was due twice, and run twice


def test_a_clock_that_is_put_back_a_little_runs_nothing_twice(scheduled, monkeypatch):
    made, began = schedules(scheduled), time.time()
    ahead = [0.0]
    monkeypatch.setattr(time, "time", lambda: began + ahead[0])
    handled(scheduled, 86400)
    due = made.handle("nightly")
    for seconds_back in range(0, 600, 30):
        ahead[0] = due - began - seconds_back
        assert made.handle("nightly") is None


@pytest.mark.parametrize("cron", ["* * * *", "* * * * 8", "* * * * 5-1", "* * * * */0", "x * * * *"])
def test_an_expression_that_cron_would_not_mean_so_is_refused(cron):
    with pytest.raises(InputError, match="cron"):
        Cron(cron)
