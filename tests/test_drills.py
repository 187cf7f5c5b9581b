"""Simulated drills from the fault to the recovered objective, and what a drill says when it did not end so."""

from __future__ import annotations

import dataclasses
import json
import tomllib

import pandas as pd
import pytest
from helpers import ROOT, lepton, lepton_here, truth_of

from lepton_kit.diagnosis.causes import diagnose
from lepton_kit.diagnosis.plans import Plan
from lepton_kit.diagnosis.recovery import Ratio, objective_of
from lepton_kit.diagnosis.repair_capacity import plan_capacity
from lepton_kit.diagnosis.repair_data import plan_data
from lepton_kit.diagnosis.repair_model import ModelPlan
from lepton_kit.errors import InputError
from lepton_kit.ops import drills
from lepton_kit.ops.drill_results import GOOD_ENDS, VERDICTS, Drill, write_results
from lepton_kit.ops.drills import drawn_drills, drill_simulated, result_table, verdict_of
from lepton_kit.ops.faults import FAULTS, Fault
from lepton_kit.ops.live_drills import drill_live, drill_project, live_names
from lepton_kit.ops.repairs import Trouble, rehearse, ways_recorded
from lepton_kit.ops.simulation import find_simulation
from lepton_kit.reports.cards import KINDS
from lepton_kit.telemetry.recordings import read_recording
from lepton_kit.telemetry.slo import read_objectives
from subjects.prices.recorded_drills import DRILLS, record_drill

RECORDINGS = ROOT / "runbooks/recordings"


@pytest.fixture(scope="module")
def objectives():
    return read_objectives(ROOT / "slo/goog")


@pytest.fixture(scope="module")
def prices():
    return find_simulation(ROOT, "goog")


@pytest.mark.parametrize(
    ("fault", "severity", "cause", "ends"),
    [
        ("nulls", 0.5, "data", "recovered"),
        ("diverged-retrain", 0.9, "model", "recovered"),
        ("nan-weights", 0.4, "model", "recovered"),
        ("cpu-taken", 0.9, "compute", "recovered"),
        ("surge", 0.6, "none", "left alone"),
        ("", None, "none", "left alone"),
    ],
)
def test_a_fault_is_found_repaired_and_its_objective_comes_back(fault, severity, cause, ends, prices):
    made = drill_simulated(Drill(fault, severity, 4), prices).drilled
    assert (made.cause, made.verdict) == (cause, ends), made
    assert made.is_as_it_should_be
    assert bool(made.alert) == (ends == "recovered")
    assert bool(made.actions) == (ends == "recovered")
    assert bool(made.basis) == (ends == "recovered")  # what it proves the remedy on


class LateFeed(Fault):
    name, cause, description = "late-feed", "data", "rows go on, with data of five hours ago"

    def apply(self, item, state):
        return dataclasses.replace(item, as_of=item.as_of - 5 * 3600)


class BusyNeighbour(Fault):
    name, cause, description = "busy-neighbour", "compute", "other work takes the processor for 20 s of each 50"
    severities = (0.5, 0.85)

    def inject(self, plant):
        take, began = plant.machine.take, plant.now

        def taken(now, service):
            for worker in plant.machine.running:
                worker.taken = self.severity * ((now - began) % 50 < 20)
            return take(now, service)

        plant.machine.take = taken


KNOWN = {**FAULTS, "late-feed": LateFeed, "busy-neighbour": BusyNeighbour}


def test_a_feed_that_is_late_is_not_restarted_and_no_repair_is_called_worse(objectives, prices):
    rehearsal = drill_simulated(Drill("late-feed", 1.0, 4), prices, KNOWN)
    made, recordings = rehearsal.drilled, [rehearsal.diagnoses[0].case.recording]
    assert (made.cause, made.alert) == ("data", "GoogFreshnessBudgetBurn")
    assert made.actions == ()
    plan = plan_data(recordings[0])
    assert plan.is_late and not plan.restart_feed and "catch up" in plan.action
    end = pd.Timestamp(recordings[0].incident.window.end)
    trouble = Trouble(recordings[0], end - pd.Timedelta(seconds=90), objective_of(recordings[0], objectives))
    as_bad = Ratio(0, 3 * trouble.latest.total)
    assert trouble.during.share > 0 == trouble.latest.share  # it began fresh
    assert trouble.judged(as_bad).verdict == "not recovered"


@pytest.mark.parametrize("severity", [0.5, 0.6, 0.7])
def test_a_neighbour_that_comes_and_goes_is_never_no_fault_while_its_alert_fires(severity, prices):
    made = drill_simulated(Drill("busy-neighbour", severity, 11), prices, KNOWN).drilled
    assert made.alert == "GoogLatencyBudgetBurn"
    assert made.cause in ("compute", "unknown")


def test_where_one_request_takes_too_long_no_workers_are_added_and_the_plan_says_so(prices):
    rehearsal = drill_simulated(Drill("cpu-taken", 1.0, 4), prices)
    plan = plan_capacity(rehearsal.diagnoses[0].case.recording)
    assert plan.is_futile and plan.workers == plan.measured.workers
    assert plan.action.startswith("no number of workers helps")
    assert any("look at the disk" in reason for reason in plan.reasons)
    assert plan.queue_limit > 1  # sized for a request as it was before


def test_two_faults_at_once_are_both_repaired(prices):
    made = drill_simulated(Drill("nulls+cpu-taken", 0.8, 4), prices).drilled
    assert {made.cause, *made.also} == {"data", "compute"}
    assert "fill" in " ".join(made.actions)
    assert "workers" in " ".join(made.actions)


def test_times_of_a_drill_count_since_the_fault(prices):
    made = drill_simulated(Drill("nulls", 0.5, 4), prices).drilled
    assert made.detected_after <= made.diagnosed_after <= made.recovered_after
    assert made.time_to_recover == pytest.approx(made.recovered_after - made.detected_after)


@pytest.mark.parametrize(
    ("true", "named", "is_alerted", "has_acted", "recovery", "ends"),
    [
        ({"data"}, "data", True, True, "recovered", "recovered"),
        ({"data"}, "data", False, True, "", "acted without an alert"),  # no recovery is claimed
        ({"data"}, "data", True, True, "worse", "not recovered"),
        ({"data"}, "unknown", True, False, "", "asked a person"),
        ({"data"}, "none", True, False, "", "wrong cause"),
        ({"data"}, "none", False, False, "", "unnoticed"),
        ({"data", "compute"}, "compute", True, True, "recovered", "recovered"),
        ({"none"}, "none", False, False, "", "left alone"),
        ({"none"}, "compute", True, True, "recovered", "false repair"),
    ],
)
def test_a_verdict_claims_no_more_than_was_seen(true, named, is_alerted, has_acted, recovery, ends):
    assert verdict_of(true, named, is_alerted, has_acted, recovery) == ends in VERDICTS
    assert verdict_of(true, named, is_alerted, has_acted, recovery, is_false_alarm=True) == "false alarm"


@pytest.mark.parametrize(
    ("service", "fault", "severity", "cause", "ends"),
    [
        ("scoring", "stale-feed", 0.8, "data", "recovered"),
        ("scoring", "bad-version", 0.8, "model", "recovered"),
        ("chat", "queue-saturation", 0.6, "compute", "recovered"),
        ("chat", "same-version", 0.8, "none", "left alone"),
        ("support", "queue-saturation", 0.6, "compute", "recovered"),
        ("support", "new-topic", 0.6, "none", "left alone"),
    ],
)
def test_a_declared_service_is_drilled_by_the_simulation_of_its_subject(service, fault, severity, cause, ends):
    made = drill_simulated(Drill(fault, severity, 4), find_simulation(ROOT, service)).drilled
    assert (made.service, made.cause, made.verdict) == (service, cause, ends), made


@pytest.mark.parametrize(("service", "workers"), [("goog", 4), ("chat", 1)])
def test_a_rehearsal_tells_what_came_when_and_what_became_of_it(service, workers):
    made = drill_simulated(Drill("queue-saturation", 0.6, 4), find_simulation(ROOT, service))
    fault, alert, remedy, recovered = made.moments.values()
    assert made.window[0] < fault < alert < remedy < recovered <= made.window[1]
    requests, periods = made.recording.requests, made.periods().set_index("period")
    assert list(periods.index) == ["before the fault", "until the remedy", "since the remedy"]
    assert periods["requests"].sum() == len(requests)
    during = requests[requests["time"].between(fault, remedy, inclusive="left")]
    assert periods.loc["until the remedy", "refused"] == during["status"].between(400, 499).sum()
    assert periods["bad"].idxmax() == "until the remedy"
    (plan,) = made.plans
    assert list(periods["workers"]) == [workers, workers, plan.workers]
    sizes = made.sizes().set_index("workers")
    assert sizes.loc[plan.workers, "enough"]
    assert made.objectives()["verdict"].iloc[0] == "alerted: recovered"
    assert made.by_hand == ()


def test_a_rehearsal_in_which_nothing_happens_has_no_alert_and_nothing_to_judge(prices):
    made = drill_simulated(Drill("", None, 4), prices)
    assert [name for name, time in made.moments.items() if time is not None] == ["fault"]
    assert list(made.periods()["period"]) == ["before the fault", "since the fault"]
    assert made.sizes().empty and made.objectives().empty and made.judged is None


def test_a_fault_that_a_simulated_service_cannot_have_is_refused_with_those_that_it_can():
    chat = find_simulation(ROOT, "chat")
    with pytest.raises(InputError, match=r"'lost-worker'.*'chat' cannot have it, but bad-version"):
        drill_simulated(Drill("bad-version+lost-worker", None, 0), chat)
    assert set(FAULTS) >= {part for name in chat.faults for part in name.split("+")}


def test_a_service_without_a_simulation_is_named(project):
    (project / "lepton.toml").write_text('[services.mine]\naddress = "http://127.0.0.1:1"\n')
    with pytest.raises(InputError, match=r"'mine'.*has no subject with plant"):
        find_simulation(project, "mine")
    with pytest.raises(InputError, match=r"lepton\.toml: has no subject"):
        find_simulation(project)


def test_a_live_drill_has_a_site_of_its_own_without_the_pages_of_the_project(project):
    (project / "models/goog").mkdir(parents=True)
    (project / "lepton.toml").write_text('[services.goog]\nmodel = "goog"\n')
    kept = ["_quarto.yml", "index.qmd"]
    published = [f"{kind}/one/card.json" for kind in (*KINDS, "listings")]
    for name in (*kept, *published):
        path = project / "reports" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    made = drill_project(project, "nulls", "goog")
    found = {path.relative_to(made / "reports").as_posix() for path in (made / "reports").rglob("*") if path.is_file()}
    assert found == set(kept)
    assert (made / "models/goog").is_dir()  # the registry is no part of the site


def test_the_same_drill_ends_the_same(prices):
    first, again = (drill_simulated(Drill("nulls", 0.5, 9), prices).drilled for _ in range(2))
    assert first == again


def test_a_remedy_that_names_the_wrong_cause_is_no_good_end(prices, monkeypatch):
    def wrong(recording, likelihoods=None):
        return dataclasses.replace(diagnose(recording), cause="model", also=(), remedy="repair-model")

    monkeypatch.setattr(drills, "diagnose", wrong)
    made = drill_simulated(Drill("nulls", 0.5, 4), prices).drilled
    assert (made.verdict, made.is_as_it_should_be) == ("wrong cause", False)
    benign = drill_simulated(Drill("surge", 0.5, 4), prices).drilled
    assert (benign.verdict, benign.is_as_it_should_be) == ("false repair", False)


def test_a_remedy_that_does_nothing_leaves_the_objective_broken(prices, monkeypatch):
    class Idle(Plan):
        reasons, action = (), "nothing that helps"

        def steps(self):
            return ()

        def carry_out(self, operator):
            return (self.action,)

    monkeypatch.setattr(drills, "plan_of", lambda *_: Idle())
    made = drill_simulated(Drill("diverged-retrain", 0.9, 4), prices).drilled
    assert (made.verdict, made.recovery, made.recovered_after) == ("not recovered", "not recovered", None)


@pytest.mark.parametrize(("cause", "also"), [("model", ()), ("data", ("model",))], ids=["another", "a person as well"])
def test_a_drill_that_its_last_remedy_alone_did_not_recover_proves_nothing(cause, also, prices, monkeypatch):
    planned, found = drills.plan_of, []

    def diagnosed(recording):
        found.append(diagnose(recording))
        if len(found) == 1:
            return dataclasses.replace(found[0], also=("model",))
        return dataclasses.replace(found[-1], cause=cause, also=also)

    def plan_of(cause, recording, objectives):
        if cause == "model":
            raise InputError("no good version to go back to")
        return planned(cause, recording, objectives)

    monkeypatch.setattr(drills, "diagnose", diagnosed)
    monkeypatch.setattr(drills, "plan_of", plan_of)
    made = drill_simulated(Drill("nulls", 0.6, 1), prices).drilled
    assert (made.cause, made.also, made.error) == (cause, also, "no good version to go back to")
    assert made.recovered_after is not None and made.actions
    assert made.basis is None


def test_drills_go_evenly_through_the_severities():
    made = drawn_drills(["units"], 10, seed=3)
    low, high = FAULTS["units"].severities
    assert [one.severity for one in made] == sorted(one.severity for one in made)
    assert low <= made[0].severity < low + (high - low) / 10
    assert made == drawn_drills(["units"], 10, seed=3) != drawn_drills(["units"], 10, seed=4)
    with pytest.raises(InputError, match="count"):
        drawn_drills(["units"], 0, seed=0)
    assert len(drawn_drills(["units+cpu-taken", "nulls"], 2, 0)) == 4


def test_results_are_written_and_shown(tmp_path, prices):
    made = drill_simulated(Drill("nulls", 0.5, 4), prices).drilled
    written = json.loads(write_results([made], tmp_path / "drills", 4, live=False).read_text())
    assert written["drills"][0]["verdict"] == made.verdict
    shown = result_table([made]).iloc[0]
    assert (shown["fault"], shown["remedy"], shown["verdict"]) == ("nulls", "repair-data", "recovered")
    assert set(GOOD_ENDS) < set(VERDICTS)


@pytest.fixture
def whole(project):
    for name in ("slo", "subjects"):
        (project / name).symlink_to(ROOT / name)
    (project / "lepton.toml").write_text('[services.goog]\nmodel = "goog"\nsubject = "subjects.prices"\n')
    return project


def test_the_command_drills_a_fault_of_ones_own_and_fails_where_one_did_not_end_well(whole):
    (whole / "mine.py").write_text(
        "from lepton_kit.ops.faults import Fault\n\n\n"
        "class Rude(Fault):\n"
        "    name, cause, description = 'rude', 'none', 'said to be benign, and is not'\n\n"
        "    def inject(self, plant):\n        plant.slow(0.9)\n"
    )
    made = lepton("drill", "rude", "nulls", "--fault-file", "mine.py", "--seed", "4", project=whole)
    assert made.returncode == 1, made.stdout + made.stderr
    assert "false repair" in made.stdout
    assert "1 of 2 drills did not end as they should" in made.stdout
    [results] = (whole / "drills").glob("*.json")
    assert [one["fault"] for one in json.loads(results.read_text())["drills"]] == ["rude", "nulls"]


def test_a_fault_without_a_live_form_is_refused_by_a_live_drill(whole):
    refused = lepton_here("drill", "--live", "memory-leak", project=whole)
    assert refused.returncode == 2
    assert "no live form" in refused.stderr
    assert "memory-leak" not in live_names()
    assert {"nulls", "cpu-taken", "nan-weights", "lost-worker"} < set(live_names())


def test_a_live_drill_has_a_project_of_its_own(whole):
    with pytest.raises(InputError, match="model 'goog'"):
        drill_project(whole, "units", "goog")
    (whole / "models/goog").mkdir(parents=True)
    (whole / "lepton.toml").write_text("")
    with pytest.raises(InputError, match=r"\[services.goog\]"):
        drill_project(whole, "units", "goog")
    settings = (ROOT / "lepton.toml").read_text()
    (whole / "lepton.toml").write_text(f'ledger = "postgresql+psycopg://ops@db/watch"\n{settings}')
    made = drill_project(whole, "units+nulls", "goog")
    assert "ledger" not in tomllib.loads((made / "lepton.toml").read_text())  # jobs are the drill's own
    (whole / "lepton.toml").write_text(f'"ledger" = "postgresql+psycopg://ops@db/watch"\n{settings}')
    with pytest.raises(InputError, match="for a drill to have its own"):
        drill_project(whole, "units", "goog")
    assert made.parent == whole / "drills"
    assert 'actions.restart_feed = ["true"]' in (made / "lepton.toml").read_text()
    assert (made / "slo/goog/latency.yaml").is_file()
    with pytest.raises(InputError, match="no live form"):
        next(drill_live([Drill("memory-leak", None, 0)], whole, FAULTS, print))


@pytest.mark.parametrize("name", DRILLS)
def test_a_recorded_drill_is_diagnosed_and_its_repair_is_judged_recovered(name, objectives):
    incident, after = (read_recording(RECORDINGS / folder) for folder in (name, f"{name}-after"))
    diagnosis = diagnose(incident)
    assert diagnosis.cause == truth_of(RECORDINGS / name)["cause"] == DRILLS[name].cause
    trouble = Trouble(incident, diagnosis.onset, objective_of(incident, objectives))
    plan = ModelPlan("v1", "rollback", ())  # what is judged is what followed, whatever was planned
    assert rehearse(plan, ways_recorded(incident), trouble, after).recovery.verdict == "recovered"


def test_a_drill_is_recorded_the_same_each_time(tmp_path):
    record_drill("missing-values", tmp_path)
    for folder in ("missing-values", "missing-values-after"):
        again, shipped = read_recording(tmp_path / folder), read_recording(RECORDINGS / folder)
        assert bool(again.incident.promises) == (folder == "missing-values")  # the shipped one was recorded without
        later = {"promises", "format"}
        assert again.incident.model_dump(exclude=later) == shipped.incident.model_dump(exclude=later)
        assert again.requests["request_id"].tolist() == shipped.requests["request_id"].tolist()
        assert sum(file.stat().st_size for file in (tmp_path / folder).rglob("*") if file.is_file()) < 600_000
