"""How the demonstration follows an incident: each step in its order and its own time, by a real `lepton watch`."""

from __future__ import annotations

import dataclasses
import threading

import pytest
from helpers import write_notebook
from repairs import SETTINGS, diagnosed, project_with_repairs, repairs_made
from services import wait_for
from watching import watching

from lepton_kit.errors import LeptonError
from lepton_kit.ops import demo

POSTMORTEM = """
[postmortem]
runbook = "runbooks/look-back.ipynb"
"""


@pytest.fixture
def followed(project, monkeypatch):
    """A project in which an incident can be followed to its end, and what the demonstration says of it."""
    project_with_repairs(project)
    (project / "lepton.toml").write_text(SETTINGS + POSTMORTEM)
    write_notebook(project / "runbooks/look-back.ipynb", ["1"], "history: str = ''")
    monkeypatch.setattr(demo, "HEALTHY_S", 0.5)
    return project, []


def follow(project, kit, lines, happens):
    """Follow what happens once the fault has begun."""
    strikes = threading.Event()

    def happen() -> None:
        if strikes.wait(60):
            happens()

    thread = threading.Thread(target=happen)
    thread.start()
    try:
        return demo._Course(kit.client, project, lines.append, "goog").follow(strikes.set, "the feed of prices stops")
    finally:
        strikes.set()
        thread.join()


def fires(number=1):
    """Return an alert that began a moment after the fault."""
    return diagnosed(number, cause="data", next_action="Run the data repair.") | {"startsAt": "2999-11-25T03:00:00Z"}


def first(lines, part):
    return next(number for number, line in enumerate(lines) if part in line)


def test_an_incident_is_followed_to_its_postmortem_and_its_repair_is_approved_and_said_so(followed):
    project, lines = followed
    (project / "slow").touch()  # the repair runs until it has been seen to run
    with watching(project, "--insecure") as kit:

        def happens() -> None:
            kit.post(fires())
            wait_for(lambda: any("repair.ipynb runs" in line for line in lines))
            (project / "go").touch()
            wait_for(lambda: any("recovered" in line for line in lines))
            kit.post(fires() | {"status": "resolved", "endsAt": "2999-11-25T03:10:00Z"})

        incident = follow(project, kit, lines, happens)
    assert repairs_made(project) == ["data of goog"]
    assert incident["status"] == "resolved"
    assert [job["kind"] for job in incident["runs"]] == ["alert", "remedy", "postmortem"]
    assert incident["remedies"][0]["decisions"][0]["by"] == demo.APPROVED_BY
    told = [
        "the feed of prices stops", "alert Known (page) fires", "diagnose.ipynb runs", "diagnosis: cause data",
        "repair.ipynb waits for a yes", "approved by this demonstration in your place", "repair.ipynb runs",
        "repair of the data: recovered", "all objectives are met again",
    ]  # fmt: skip
    assert [first(lines, part) for part in told] == sorted(first(lines, part) for part in told)


def test_while_a_repair_waits_it_is_not_said_to_run(followed, monkeypatch):
    project, lines = followed
    monkeypatch.setattr(demo._Course, "_approve", lambda self, incident, repair: None)  # nobody decides
    monkeypatch.setattr(demo, "REPAIRED", dataclasses.replace(demo.REPAIRED, within_s=1.0))
    with watching(project, "--insecure") as kit, pytest.raises(LeptonError, match=r"step 'repair': .* within 1 s"):
        follow(project, kit, lines, lambda: kit.post(fires()))
    assert not [line for line in lines if "repair.ipynb" in line]


def test_a_step_that_does_not_come_is_named_with_its_time(followed, monkeypatch):
    project, lines = followed
    (project / "lepton.toml").write_text(SETTINGS.replace("workers = 2", "workers = 0"))  # nothing is ever diagnosed
    with watching(project, "--insecure") as kit:

        def ends_at(step: str, happens) -> None:
            with monkeypatch.context() as here:
                here.setattr(demo, step, dataclasses.replace(getattr(demo, step), within_s=1.0))
                named = f"step '{getattr(demo, step).name}': did not come within 1 s"
                with pytest.raises(LeptonError, match=named):
                    follow(project, kit, lines, happens)

        ends_at("ALERTED", lambda: None)
        ends_at("DIAGNOSED", lambda: kit.post(fires()))
        ends_at("HEALTHY", lambda: None)  # the alert still fires


def test_each_steps_time_begins_where_the_step_before_it_ended(followed, monkeypatch):
    """So slow an alert as it may be: the diagnosis has its whole time all the same."""
    project, lines = followed
    clock = [0.0]
    monkeypatch.setattr(demo.time, "monotonic", lambda: clock[0])
    course = demo._Course(None, project, lines.append, "goog")
    course._client = type("Client", (), {"get": lambda self, path: self, "json": lambda self: clocked()})()

    def clocked():
        clock[0] += 100.0
        return {"open": 0, "open_incidents": [], "recent_incidents": [], "ticks": clock[0]}

    monkeypatch.setattr(demo.time, "sleep", lambda seconds: None)
    one, other = demo.Step("one", 250.0), demo.Step("other", 250.0)
    assert course._wait(one, lambda status: status["ticks"] == 200.0)
    assert course._wait(other, lambda status: status["ticks"] == 400.0)
    with pytest.raises(LeptonError, match="step 'other'"):
        course._wait(other, lambda status: False)
