"""Repairs in the ledger: which start, which wait, who decided; the ledger's own rules, without a process."""

from __future__ import annotations

import contextlib
import sqlite3
import time

import pytest
from processes import Forked
from repairs import Everything, proposal, propose
from services import wait_for
from sqlalchemy import update
from watching import alert

from lepton_kit.errors import InputError
from lepton_kit.ops.watch import jobs
from lepton_kit.ops.watch.approvals import make_decision
from lepton_kit.ops.watch.jobs import Start
from lepton_kit.ops.watch.queue import Queue
from lepton_kit.ops.watch.webhook import Alert
from lepton_kit.runs.tables import JOBS


@pytest.fixture
def project(either_project):
    return either_project


@pytest.fixture
def queue(project):
    return Queue(project)


def yes(by="Kim"):
    return make_decision(True, by, "lepton approve", "")


def no(by="Kim", note=""):
    return make_decision(False, by, "lepton approve", note)


def states(queue, incident):
    return {one.cause: one.state for one in queue.remedies(incident)}


def whys(queue, incident):
    return {one.cause: one.why for one in queue.remedies(incident)}


def end(queue, status="succeeded"):
    job = queue.take()
    queue.end(job, f"run-{job.number}", status)
    return job


def fire(queue, number=1, status="firing"):
    posted = Alert.model_validate(alert(number, status))
    queue.receive([posted], "webhook", Everything())
    return posted.incident


def resolve(queue, number=1):
    return fire(queue, number, "resolved")


def test_a_repair_that_may_start_by_itself_is_taken_next(queue):
    incident = propose(queue, proposal())
    job = queue.take()
    assert (job.kind, job.name, job.incident, job.parameters) == ("remedy", "compute", incident, {"what": "compute"})
    assert queue.take() is None


def test_a_repair_that_must_ask_is_not_taken_until_a_person_has_said_yes(queue):
    incident = propose(queue, proposal("data", "the policy is to ask"))
    assert queue.take() is None
    assert queue.queued() == 0
    [one] = queue.waiting()
    assert queue.decide(one.job, yes("Kim Lee")) == incident
    assert queue.take().name == "data"
    [decision] = queue.remedies(incident)[0].decisions
    assert (decision.is_approved, decision.by, decision.via) == (True, "Kim Lee", "lepton approve")
    assert abs(decision.at - time.time()) < 60


def test_a_rejected_repair_never_runs_and_the_ledger_says_who_rejected_it(queue):
    incident = propose(queue, proposal("data", "ask"))
    queue.decide(queue.waiting()[0].job, no("Kim", "the feed is back"))
    assert queue.take() is None
    [job] = [job for job in queue.jobs() if job.kind == "remedy"]
    assert (job.state, job.error) == ("refused", "rejected by Kim: the feed is back")
    assert [one.is_approved for one in queue.remedies(incident)[0].decisions] == [False]


def test_a_repair_is_decided_on_once(queue):
    propose(queue, proposal("data", "ask"))
    job = queue.waiting()[0].job
    queue.decide(job, yes("Kim"))
    for late in (yes("Lee"), no("Lee")):
        with pytest.raises(InputError, match="approved already, by Kim"):
            queue.decide(job, late)
    with pytest.raises(InputError, match="there is none"):
        queue.decide(99, yes())


def test_who_proposes_again_changes_nothing(queue):
    incident = propose(queue, proposal())
    with queue.transaction() as ledger:
        jobs.propose(ledger, incident, [proposal()], 3)
    assert len(queue.remedies(incident)) == 1


def test_the_second_repair_starts_after_the_first_has_succeeded(queue):
    incident = propose(queue, proposal("model"), proposal("compute"))
    first = queue.take()
    assert (first.name, queue.take(), queue.queued()) == ("model", None, 0)
    assert [one.follows for one in queue.remedies(incident)] == [None, first.number]
    queue.end(first, "run", "succeeded")
    assert queue.take().name == "compute"


def test_two_repairs_that_ask_are_listed_in_order_and_the_second_runs_after_the_first_though_approved_before(queue):
    propose(queue, proposal("data", "ask"), proposal("compute", "ask"))
    first, second = queue.waiting()
    assert [(one.cause, one.after) for one in (first, second)] == [("data", None), ("compute", "data")]
    queue.decide(second.job, yes())
    assert (queue.take(), queue.queued()) == (None, 0)
    queue.decide(first.job, yes("Lee"))
    running = queue.take()
    assert (running.name, queue.take()) == ("data", None)
    queue.comes_to_run(running, "run-a")
    assert (queue.approved_by("run-a"), queue.approved_by("run-b")) == ("Lee (lepton approve)", None)
    queue.end(running, "run-a", "succeeded")
    later = queue.take()
    assert (later.name, queue.follows_run(later), queue.follows_run(running)) == ("compute", ("data", "run-a"), None)


def test_a_repair_that_started_by_itself_was_approved_by_the_policy(queue):
    propose(queue, proposal())
    queue.comes_to_run(queue.take(), "run-a")
    assert queue.approved_by("run-a") == "policy: auto"


@pytest.mark.parametrize("status", ["failed", "timed_out", "kernel_died", "expectation_failed"])
def test_the_second_repair_waits_for_a_person_when_the_first_has_failed(queue, status):
    incident = propose(queue, proposal("model"), proposal("compute"))
    end(queue, status)
    assert queue.take() is None
    queue.follow_up(None, "")
    assert whys(queue, incident)["compute"] == "the repair of the first cause, 'model', was refused or failed"
    queue.decide(queue.waiting()[0].job, yes())
    assert queue.take().name == "compute"


def test_the_second_repair_waits_for_the_decision_on_the_first_though_it_may_start_by_itself(queue):
    incident = propose(queue, proposal("data", "ask"), proposal("compute"))
    assert (queue.take(), states(queue, incident)) == (None, {"data": "waiting", "compute": "queued"})
    queue.decide(queue.waiting()[0].job, no())
    queue.follow_up(None, "")
    assert (queue.take(), states(queue, incident)["compute"]) == (None, "waiting")


def test_no_second_repair_of_a_service_starts_by_itself_while_one_has_not_ended(queue):
    first = propose(queue, proposal())
    running = queue.take()
    second = propose(queue, proposal(), number=2)
    other = propose(queue, proposal(), number=3, service="other")
    assert whys(queue, second)["compute"] == f"another repair of 'goog' has not ended yet (incident {first})"
    assert queue.take().incident == other
    queue.end(running, "run", "succeeded")
    assert queue.take() is None


def test_an_approved_repair_starts_when_the_one_that_runs_has_ended(queue):
    propose(queue, proposal())
    running = queue.take()
    second = propose(queue, proposal(), number=2)
    queue.decide(queue.waiting()[0].job, yes())
    assert (queue.take(), queue.queued()) == (None, 0)
    queue.end(running, "run", "succeeded")
    assert queue.take().incident == second


def test_what_is_over_the_limit_of_an_hour_waits_and_says_why_and_an_hour_later_another_may_start(queue):
    for number in (1, 2):
        propose(queue, proposal(), number=number, most=2)
        end(queue)
    third = propose(queue, proposal(), number=3, most=2)
    assert whys(queue, third)["compute"].startswith("2 repairs of 'goog' started by themselves within the hour")
    other = propose(queue, proposal(), number=4, most=2, service="other")
    assert states(queue, other) == {"compute": "queued"}
    end(queue)
    with queue.transaction() as ledger:
        ledger.execute(update(JOBS).values(queued=JOBS.c.queued - jobs.HOUR_S))
    assert states(queue, propose(queue, proposal(), number=5, most=2)) == {"compute": "queued"}


def test_repairs_that_a_person_approved_do_not_count_as_automatic(queue):
    for number in (1, 2, 3):
        propose(queue, proposal("data", "ask"), number=number, most=1)
        queue.decide(queue.waiting()[0].job, yes())
        end(queue)
    assert states(queue, propose(queue, proposal(), number=4, most=1)) == {"compute": "queued"}


def test_a_limit_of_none_lets_nothing_start_by_itself(queue):
    assert states(queue, propose(queue, proposal(), most=0)) == {"compute": "waiting"}


def test_what_waits_is_withdrawn_when_the_alert_ends_and_cannot_be_approved_any_more(queue):
    incident = propose(queue, proposal("data", "ask"))
    job = queue.waiting()[0].job
    resolve(queue)
    assert (queue.waiting(), states(queue, incident)) == ([], {"data": "refused"})
    with pytest.raises(InputError, match="withdrawn: the alert ended"):
        queue.decide(job, yes())


def test_a_second_repair_that_is_queued_is_withdrawn_with_the_alert_whatever_becomes_of_the_first(queue):
    incident = propose(queue, proposal("data"), proposal("compute"))
    first = queue.take()
    resolve(queue)
    assert states(queue, incident) == {"data": "running", "compute": "refused"}
    queue.end(first, "run", "failed")
    queue.follow_up(None, "")
    assert (queue.waiting(), queue.take()) == ([], None)
    [job] = [job for job in queue.jobs() if job.name == "compute"]
    assert job.error == jobs.NOT_STARTED


def test_a_repair_that_is_held_after_its_alert_has_ended_asks_nobody(queue):
    incident = propose(queue, proposal("data"))
    job = queue.take()
    resolve(queue)
    queue.hold(job, "run x was broken off")
    assert (queue.waiting(), states(queue, incident)) == ([], {"data": "refused"})
    [held] = [job for job in queue.jobs() if job.kind == "remedy"]
    assert "run x was broken off" in held.error


@pytest.mark.parametrize(("first", "then", "highest"), [("ticket", "page", "page"), ("page", "ticket", "page")])
def test_the_severity_of_an_incident_is_the_highest_seen(queue, first, then, highest):
    posted = [Alert.model_validate(alert(number, severity=word)) for number, word in enumerate((first, then), 1)]
    for one in posted:
        queue.receive([one], "webhook", Everything())
    main, companion = (queue.incident(one.incident) for one in posted)
    assert (main.severity, queue.main_incident(companion.id)) == (highest, main)
    assert queue.main_incident(main.id) is None
    again = Alert.model_validate(alert(3, severity=then))
    queue.receive([again], "webhook", Everything())
    assert queue.main_incident(again.incident) == queue.incident(main.id)  # still told apart by its own severity
    assert [job.incident for job in queue.jobs()] == [main.id]


def test_a_diagnosis_that_ends_after_its_alert_proposes_nothing(queue):
    incident = fire(queue)
    job = queue.take()
    resolve(queue)
    queue.end(job, "run", "succeeded", [proposal()], 3)
    assert queue.remedies(incident) == []
    assert "no repair was proposed" in queue.incident(incident).note


def test_a_worker_whose_job_was_taken_over_proposes_nothing(queue):
    fire(queue)
    job = queue.take()
    with queue.transaction() as ledger:
        ledger.execute(update(JOBS).values(pid=1, born="another"))
    queue.end(job, "run", "succeeded", [proposal()], 3)
    assert [one.kind for one in queue.jobs()] == ["alert"]


def takes(say, project):
    """Ask for a job as soon as all are there, and say whether there was one."""
    queue = Queue(project)
    say("ready")
    wait_for((project / "now").exists)
    say(queue.take() is not None)


def test_of_many_workers_that_ask_at_once_one_gets_a_repair(project, queue):
    propose(queue, proposal())
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(Forked(takes, project)) for _ in range(4)]
        assert [worker.receive() for worker in workers] == ["ready"] * 4
        (project / "now").touch()
        assert sorted(worker.receive() for worker in workers) == [False, False, False, True]


POSTMORTEM = Start("runbooks/postmortem.ipynb", {})


def postmortems(queue, when="resolved"):
    queue.follow_up(POSTMORTEM, when)
    return [job.incident for job in queue.jobs() if job.kind == "postmortem"]


def test_a_repaired_incident_is_looked_back_on_once_when_its_alert_has_ended(queue):
    incident = propose(queue, proposal())
    assert postmortems(queue) == []
    end(queue)
    assert postmortems(queue) == []
    resolve(queue)
    assert postmortems(queue) == postmortems(queue) == [incident]


def test_an_incident_is_looked_back_on_at_its_repairs_end_where_the_policy_says_so(queue):
    incident = propose(queue, proposal("model"), proposal("data", "ask"))
    end(queue)
    assert postmortems(queue, "repaired") == []
    queue.decide(queue.waiting()[0].job, no())
    assert postmortems(queue, "repaired") == [incident]


@pytest.mark.parametrize("proposals", [[], [proposal("data", "ask")]])
def test_an_incident_whose_repair_never_ran_is_not_looked_back_on(queue, proposals):
    propose(queue, *proposals)
    resolve(queue)
    assert postmortems(queue) == []


EARLIER = """
CREATE TABLE incidents (
    id TEXT PRIMARY KEY, subject TEXT NOT NULL, fingerprint TEXT NOT NULL, starts_at TEXT NOT NULL,
    name TEXT NOT NULL, service TEXT NOT NULL,
    severity TEXT NOT NULL, status TEXT NOT NULL, ends_at TEXT, origin TEXT NOT NULL, alert TEXT NOT NULL,
    received REAL NOT NULL, seen INTEGER NOT NULL, note TEXT NOT NULL, recording TEXT,
    UNIQUE (fingerprint, starts_at));
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT UNIQUE NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL,
    incident TEXT, notebook TEXT NOT NULL, parameters TEXT NOT NULL, queued REAL NOT NULL, state TEXT NOT NULL,
    run_id TEXT, status TEXT, error TEXT, started REAL, ended REAL, attempts INTEGER NOT NULL DEFAULT 0,
    host TEXT, boot TEXT, pid INTEGER, born TEXT, lease REAL);
INSERT INTO incidents VALUES ('i', 's', 'f', '2026-11-25T03:00:00+00:00', 'Known', 'goog', 'page', 'firing', NULL,
    'webhook', '{}', 1.0, 1, '', NULL);
INSERT INTO jobs (key, kind, name, incident, notebook, parameters, queued, state)
    VALUES ('alert:f:x', 'alert', 'Known', 'i', 'runbooks/diagnose.ipynb', '{}', 1.0, 'queued');
"""


def test_the_ledger_of_an_earlier_release_goes_on_with_what_it_knows(plain_project):
    project = plain_project
    (project / "runs").mkdir()
    ledger = sqlite3.connect(project / "runs/ledger.sqlite")
    ledger.executescript(EARLIER)
    ledger.close()
    queue = Queue(project)
    job = queue.take()
    queue.end(job, "run", "succeeded", [proposal("data", "ask")], 3)
    queue.decide(queue.waiting()[0].job, yes())
    assert [(one.kind, one.state) for one in queue.jobs()] == [("remedy", "queued"), ("alert", "ended")]
    assert queue.incident("i").name == "Known"


def open_end(queue, leaves_open=True, status="succeeded"):
    job = queue.take()
    queue.end(job, f"run-{job.number}", status, leaves_open=leaves_open)
    return job


def test_an_incident_that_a_diagnosis_left_open_is_looked_at_again_while_its_alert_fires(queue):
    fire(queue)
    looks = []
    for _ in range(5):
        looks.append(open_end(queue).look)
        queue.look_again(0, most=3)
        queue.look_again(0, most=3)
        if not queue.queued():
            break
    assert looks == [1, 2, 3]
    assert len({job.key for job in queue.jobs()}) == 3


def test_it_is_looked_at_again_only_after_a_pause_and_not_once_a_cause_is_found(queue):
    fire(queue)
    open_end(queue)
    queue.look_again(3600, most=3)
    assert queue.queued() == 0
    queue.look_again(0, most=3)
    open_end(queue, leaves_open=False)
    queue.look_again(0, most=3)
    assert queue.queued() == 0


def test_an_incident_that_is_over_is_not_looked_at_again(queue):
    fire(queue)
    open_end(queue)
    resolve(queue)
    queue.look_again(0, most=3)
    assert queue.queued() == 0


def test_a_repair_that_did_not_help_is_followed_by_another_look_and_one_that_waits_is_not(queue):
    propose(queue, proposal("data", "ask"), number=2, service="other")
    incident = propose(queue, proposal("compute"), number=1)
    assert open_end(queue).kind == "remedy"
    queue.look_again(0, most=2)
    job = queue.take()
    assert (job.kind, job.look, job.incident) == ("alert", 2, incident)
    assert queue.take() is None
