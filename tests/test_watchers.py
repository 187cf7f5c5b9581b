"""Several `lepton watch` on one PostgreSQL: an alert is one run, and who was killed is taken over."""

from __future__ import annotations

import contextlib
import platform
import time
from concurrent.futures import ThreadPoolExecutor, wait
from urllib.parse import quote

import psutil
import pytest
from helpers import write_notebook
from postgres import PASSWORD
from processes import Forked
from repairs import diagnosed, project_with_repairs, proposal, propose, repairs_made
from services import wait_for
from sqlalchemy import select, update
from watching import KNOWN, alert, watching, write_settings

from lepton_kit.ops.watch.approvals import make_decision
from lepton_kit.ops.watch.jobs import Start, take
from lepton_kit.ops.watch.queue import Queue
from lepton_kit.runs import ledger
from lepton_kit.runs.manifest import all_runs
from lepton_kit.runs.tables import CLAIMS, JOBS, RUNS, now

SLOW_ONCE = """
import time
started = lk.path("started")
is_first = not started.exists()
started.touch()
while is_first and not lk.path("go").exists():
    time.sleep(0.05)
"""


@pytest.fixture
def shared(plain_project, postgres_server):
    """A project whose ledger is in PostgreSQL, and whose alert `Known` starts a short runbook."""
    (plain_project / "lepton.toml").write_text(f'ledger = "{postgres_server.new_ledger()}"\n')
    write_settings(plain_project, KNOWN)
    write_notebook(plain_project / "runbooks/diagnose.ipynb", ["lk.record('days', 1)"])
    return plain_project


def test_an_alert_that_two_watchers_hear_of_is_one_run(shared):
    with watching(shared, "--insecure") as first, watching(shared, "--insecure") as second:
        for kit in (first, second, second, first):
            assert kit.post(alert(1), alert(2)).status_code == 202
        done = second.ended(2)
        [older, newer] = first.queue.incidents()
        pages = [first.client.get(path).text for path in ("/", "/status.json", "/metrics", f"/incidents/{older.id}")]
    assert {older.seen, newer.seen} == {4}
    assert older.id in pages[0]
    said = "".join([*pages, (shared / "watch.log").read_text()])
    assert PASSWORD not in said
    assert quote(PASSWORD, safe="") not in said
    assert sorted(job.run_id for job in done) == sorted(run.run_id for run in all_runs(shared))
    assert [job.attempts for job in done] == [1, 1]


def test_a_watcher_of_another_host_that_was_killed_in_a_run_is_taken_over_when_its_lease_is_over(shared):
    write_notebook(shared / "runbooks/diagnose.ipynb", [SLOW_ONCE])
    with watching(shared, "--insecure") as first:
        first.post(alert())
        wait_for((shared / "started").exists)
        first.kill(with_workers=True)
    with first.queue.transaction() as state:  # a process of another host cannot be looked at
        for table in (JOBS, RUNS, CLAIMS):
            state.execute(update(table).values(host="elsewhere", lease=now() + 600))
    with watching(shared, "--insecure") as second:
        assert second.queue.jobs()[0].state == "running"
        with second.queue.transaction() as state:
            for table in (JOBS, RUNS, CLAIMS):
                state.execute(update(table).values(lease=now()))
        [job] = second.ended()
    assert (job.status, job.attempts) == ("succeeded", 2)
    assert sorted(run.status for run in all_runs(shared)) == ["failed", "succeeded"]


def test_while_one_watcher_is_killed_another_that_runs_beside_it_takes_its_run_over(shared):
    write_notebook(shared / "runbooks/diagnose.ipynb", [SLOW_ONCE])
    with watching(shared, "--insecure") as first, watching(shared, "--insecure") as second:
        first.post(alert())
        wait_for((shared / "started").exists)
        with first.queue.transaction() as state:
            [worker] = state.scalars(select(JOBS.c.pid)).all()
        is_first = psutil.Process(worker).ppid() == first.process.pid
        runs_it, other = (first, second) if is_first else (second, first)
        runs_it.kill(with_workers=True)
        [job] = other.ended()
    assert (job.status, job.attempts) == ("succeeded", 2)


def works_elsewhere(say, project, lease):
    """Take a job as a process of another host does, and keep at it."""
    platform.node, ledger.LEASE_S = lambda: "elsewhere", lease
    say(Queue(project).take().number)
    time.sleep(600)


def test_a_job_of_another_host_is_left_alone_until_its_lease_is_over(either_project):
    queue = Queue(either_project)
    propose(queue, proposal())
    with Forked(works_elsewhere, either_project, 3.0) as worker:
        number = worker.receive()
    assert queue.requeue_abandoned() == []
    [job] = wait_for(queue.requeue_abandoned)
    assert (job.number, queue.take().attempts) == (number, 2)


def takes_all(say, project):
    """Take jobs as soon as all are there until none is left, and say which."""
    queue = Queue(project)
    say("ready")
    wait_for((project / "now").exists)
    say([job.number for job in iter(queue.take, None)])


def test_of_workers_that_take_jobs_at_once_each_gets_others_and_none_is_left(either_project):
    queue = Queue(either_project)
    for number in range(20):
        queue.add("schedule", "n", f"key:{number}", Start("n.ipynb", {}))
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(Forked(takes_all, either_project)) for _ in range(4)]
        assert [worker.receive() for worker in workers] == ["ready"] * 4
        (either_project / "now").touch()
        taken = [number for worker in workers for number in worker.receive()]
    assert sorted(taken) == sorted(job.number for job in queue.jobs())
    assert queue.counts()["running"] == 20


def test_of_two_repairs_of_a_service_that_are_taken_at_once_one_waits_for_the_other(either_project):
    queue = Queue(either_project)
    for number in (1, 2):
        propose(queue, proposal("compute", "ask"), number=number)
    for one in queue.waiting():
        queue.decide(one.job, make_decision(True, "Kim", "lepton approve", ""))
    another = Queue(either_project)
    with ThreadPoolExecutor(1) as beside:
        with queue.transaction(alone=False) as state:
            assert take(state) is not None
            other = beside.submit(another.take)
            wait([other], timeout=1)  # long enough to take the second repair, if nothing keeps it from that
        assert other.result() is None
    assert queue.counts()["running"] == 1


def test_a_repair_is_made_once_by_two_watchers(shared):
    project_with_repairs(shared)
    with watching(shared, "--insecure") as first, watching(shared, "--insecure") as second:
        for kit in (first, second, first, second):
            kit.post(diagnosed(cause="compute"))
        first.ended(2)
    assert repairs_made(shared) == ["compute of goog"]


def test_a_text_that_postgresql_cannot_keep_stands_in_no_other_alerts_way(shared):
    with watching(shared, "--insecure") as kit:
        assert kit.post(alert(1, says="nul: \0"), alert(2)).status_code == 202
        assert len(kit.queue.incidents()) == 2
