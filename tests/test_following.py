"""How a fault is followed to its postmortem: each step in its order and its own time, by a real `lepton watch`."""

from __future__ import annotations

import dataclasses
import threading
import time
from datetime import UTC, datetime

import httpx
import pytest
from helpers import lepton_here, write_notebook
from repairs import SETTINGS, diagnosed, project_with_repairs, repairs_made
from services import wait_for
from watching import watching

from lepton_kit.errors import LeptonError
from lepton_kit.ops.following import (
    ALERTED,
    DIAGNOSED,
    IDLE,
    LOOKED_BACK,
    RECOVERED,
    REPAIRED,
    Follower,
    Seen,
    StepMissedError,
)

POSTMORTEM = """
[postmortem]
runbook = "runbooks/look-back.ipynb"
"""
ALL = (ALERTED, DIAGNOSED, REPAIRED, RECOVERED, LOOKED_BACK, IDLE)


@pytest.fixture
def followed(project):
    """A project in which an incident can be followed to its end."""
    project_with_repairs(project)
    (project / "lepton.toml").write_text(SETTINGS + POSTMORTEM)
    write_notebook(project / "runbooks/look-back.ipynb", ["1"], "history: str = ''")
    return project


def fires(number=1):
    """Return an alert that began a moment after the fault."""
    return diagnosed(number, cause="data", next_action="Run the data repair.") | {"startsAt": "2999-11-25T03:00:00Z"}


def first(lines, part):
    return next(number for number, line in enumerate(lines) if part in line)


def test_an_incident_is_followed_to_its_postmortem_and_its_repair_is_approved_once(followed):
    (followed / "slow").touch()  # the repair runs until it has been seen to run
    lines, asked = [], []
    with watching(followed, "--insecure") as kit:

        def approve(incident, repair):
            asked.append(repair["cause"])
            said = lepton_here("approve", incident, "--by", "ada", project=followed)
            assert said.returncode == 0, said.stderr

        follower = Follower(kit.client, "goog", lines.append, approve)
        follower.inject(lambda: kit.post(fires()), healthy_s=0.5)
        others = threading.Thread(target=ends, args=(followed, kit, lines))
        others.start()
        follower.follow(*ALL)
        others.join()
    seen = follower.seen
    assert (repairs_made(followed), asked) == (["data of goog"], ["data"])
    assert seen.incident["status"] == "resolved" and not seen.firing
    assert [job["kind"] for job in seen.incident["runs"]] == ["alert", "remedy", "postmortem"]
    assert seen.incident["remedies"][0]["decisions"][0]["by"] == "ada"
    assert (seen.alert, seen.diagnosis["cause"], seen.repair["verdict"]) == ("Known", "data", "recovered")
    assert seen.injected <= seen.alerted <= seen.diagnosed <= seen.repaired
    told = [
        "alert Known (page) fires", "diagnose.ipynb runs", "diagnosis: cause data", "repair.ipynb waits for approval",
        "repair.ipynb runs", "repair of the data: recovered", "alert Known (page) has ended", "postmortem: run",
    ]  # fmt: skip
    assert [first(lines, part) for part in told] == sorted(first(lines, part) for part in told)


def ends(project, kit, lines):
    """Let the repair go on once it was seen to run, and the alert end once it has recovered."""
    wait_for(lambda: any("repair.ipynb runs" in line for line in lines))
    (project / "go").touch()
    wait_for(lambda: any("recovered" in line for line in lines))
    kit.post(fires() | {"status": "resolved", "endsAt": "2999-11-25T03:10:00Z"})


def test_a_step_that_does_not_come_is_named_with_its_time_and_what_was_seen_last(followed):
    lines = []
    with watching(followed, "--insecure") as kit:
        follower = Follower(kit.client, "goog", lines.append)  # nobody approves
        follower.inject(lambda: None, healthy_s=0.1)
        with pytest.raises(StepMissedError, match=r"step 'alert': did not come within 1 s; last seen: nothing"):
            follower.follow(within(ALERTED, 1.0))
        kit.post(fires())
        follower.follow(ALERTED, DIAGNOSED)
        with pytest.raises(StepMissedError, match=r"step 'repair': .*waits for approval .*\(firing: Known\)") as missed:
            follower.follow(within(REPAIRED, 1.0))
        assert missed.value.step == "repair"
        assert not [line for line in lines if "repair.ipynb runs" in line]
        harmed = []
        with pytest.raises(StepMissedError, match=r"step 'a service without alerts': .*Known fires before"):
            Follower(kit.client, "goog", lines.append).inject(lambda: harmed.append(1), 0.5, within_s=1.0)
        Follower(kit.client, "other", lines.append).inject(lambda: harmed.append(2), 0.5)  # not its alert
    assert harmed == [2]


def within(step, seconds):
    return dataclasses.replace(step, within_s=seconds)


class Watch:
    """Stands in for `lepton watch`, whose alerts no test can time: it says what it is told to, answer by answer."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.client = httpx.Client(base_url="http://watch", transport=httpx.MockTransport(self._answer))

    def _answer(self, _):
        said = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if said is None:
            return httpx.Response(503, text="the ledger is busy")
        return httpx.Response(200, json={"open_incidents": said, "recent_incidents": []})


def incident(name, starts_at, *runs):
    return {
        "id": name, "name": name, "service": "goog", "status": "firing", "starts_at": starts_at, "severity": "page",
        "summary": "it burns", "runs": list(runs), "remedies": [],
    }  # fmt: skip


def test_a_fault_waits_until_no_alert_has_fired_for_a_while():
    lines, began = [], time.monotonic()
    burns = [incident("Old", "2026-11-25T03:00:00+00:00")]
    Follower(Watch(burns, None, []).client, "goog", lines.append).inject(lambda: None, healthy_s=0.6)
    assert time.monotonic() - began >= 0.3 + 0.6  # since the second look, which had no answer
    assert any("Old fires before anything was done" in line for line in lines)
    assert any("503: the ledger is busy" in line for line in lines)


def test_an_incident_from_before_the_fault_is_not_its_alert():
    old = incident("Old", datetime.now(UTC).isoformat())
    time.sleep(0.01)
    watch = Watch([])
    follower = Follower(watch.client, "goog", print)
    follower.inject(lambda: None, healthy_s=0.0)
    watch.answers = [None, [old], [old, incident("New", "2999-01-01T00:00:00+00:00")]]
    follower.follow(ALERTED)
    assert follower.seen.alert == "New"


def test_of_two_incidents_each_result_counts_once_when_it_came(monkeypatch):
    def job(number, kind, **results):
        return {"number": number, "kind": kind, "name": "data", "state": "ended", "status": "succeeded", "error": None,
                "notebook": "n.ipynb", "run_id": f"r{number}", "results": results}  # fmt: skip

    looked = [job(1, "alert", cause="data"), job(3, "remedy", verdict="worse")]
    again = [job(2, "alert", cause="model"), job(4, "remedy", verdict="not recovered")]
    later = "2999-01-01T00:00:00+00:00"
    diagnosed = [incident("A", later, looked[0]), incident("B", later, again[0])]
    watch = Watch([])
    follower = Follower(watch.client, "goog", print)
    follower.inject(lambda: None, healthy_s=0.0)
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    watch.answers = [diagnosed]
    follower.follow(ALERTED)
    clock[0] = 200.0
    follower.follow(ALERTED)
    assert (follower.seen.diagnosis["cause"], follower.seen.diagnosed) == ("model", 100.0)
    watch.answers = [[incident("A", later, *looked), incident("B", later, *again)]]
    follower.follow(REPAIRED)
    clock[0] = 300.0
    follower.follow(REPAIRED)
    assert (follower.seen.repair["verdict"], follower.seen.repaired) == ("not recovered", 200.0)


def test_a_postmortem_that_fails_is_an_error():
    failed = {
        "number": 1,
        "kind": "postmortem",
        "state": "ended",
        "status": "failed",
        "run_id": "r1",
        "error": None,
        "results": {},
    }
    watch = Watch([])
    follower = Follower(watch.client, "goog", print)
    follower.inject(lambda: None, healthy_s=0.0)
    watch.answers = [[incident("New", "2999-01-01T00:00:00+00:00", failed)]]
    with pytest.raises(LeptonError, match="postmortem r1: failed"):
        follower.follow(LOOKED_BACK)


def test_each_steps_time_begins_where_the_step_before_it_ended(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def passes(seconds: float) -> None:
        clock[0] += 100.0

    monkeypatch.setattr(time, "sleep", passes)
    one = dataclasses.replace(ALERTED, within_s=250.0, is_reached=lambda seen: clock[0] >= 200.0)
    other = dataclasses.replace(ALERTED, name="other", within_s=250.0, is_reached=lambda seen: clock[0] >= 400.0)
    follower = Follower(Watch([]).client, "goog", print)
    follower.follow(one, other)
    with pytest.raises(LeptonError, match="step 'other'"):
        follower.follow(dataclasses.replace(other, is_reached=lambda seen: False))
    assert follower.seen.repaired_alone is None  # two repairs ran: nothing says which helped


@pytest.mark.parametrize(("of", "is_alone"), [("B", True), ("A", False)])
def test_a_repair_is_alone_where_one_ran_and_the_diagnosis_told_is_that_of_its_incident(of, is_alone):
    seen = Seen(diagnosis={"cause": "model"}, repairs={4: {"id": of, "name": "Burns"}})
    seen.diagnoses = {"A": {"cause": "data"}, "B": {"cause": "model"}}
    assert (seen.repaired_alone is not None) == is_alone
    seen.repairs[5] = {"id": "B", "name": "Burns"}
    assert seen.repaired_alone is None
