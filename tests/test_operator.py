"""The operator of a running service, and repairs that are observed, judged and undone."""

import contextlib
import json
import os
import signal
import sys
import threading
import time
from dataclasses import replace

import httpx
import pandas as pd
import psutil
import pytest
from helpers import ROOT, lepton
from live import Samples
from models_sample import google_prices
from services import captured, features, keep_model, project_with_model, row, serving, wait_for

from lepton_kit.data.input_fixes import InputFixes
from lepton_kit.diagnosis.plans import State
from lepton_kit.diagnosis.repair_model import ModelPlan
from lepton_kit.errors import InputError, LeptonError
from lepton_kit.models.registry import Registry
from lepton_kit.ops.operator import ServeOperator, operator_of, undo
from lepton_kit.ops.repairs import LOOKS, Trouble, act_on, objectives_table, rehearse, still_missed
from lepton_kit.ops.service_operator import read_actions
from lepton_kit.serving import control
from lepton_kit.serving.control import change_desired_state, read_deployments, read_desired_state, read_reports
from lepton_kit.telemetry.slo import read_objectives
from subjects.prices.features import next_day_return

OBJECTIVES = {one.name: one for one in read_objectives(ROOT / "slo/goog")}
HASTE = {"lepton_kit.serving.control.HUNG_SECONDS": 8.0, "lepton_kit.serving.supervisor.HUNG_SECONDS": 8.0}
"""A worker that hangs is replaced after these seconds: time enough for one that only has a busy machine."""

FEED = [sys.executable, "-c", "import pathlib; pathlib.Path('restarted').touch()"]


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    project = project_with_model(tmp_path_factory.mktemp("operator"))
    keep_model(project, shift=9.0)  # v3, whose forecasts lie far off
    Registry(project / "models").promote("goog", "v2", "test", "the second")
    (project / "lepton.toml").write_text(
        f"[services.goog]\nmodel = 'goog'\nactions.restart_feed = {json.dumps(FEED)}\n"
    )
    with pytest.MonkeyPatch.context() as here, serving(project, "--workers", "2", constants=HASTE) as running:
        here.setattr(control, "HUNG_SECONDS", 8.0)
        yield running


@pytest.fixture
def project(service):
    return service.folder.parents[1]


@pytest.fixture
def operator(service, project):
    """The operator of the service as it began: v2 alone, with two workers."""
    wait_for(lambda: len(read_reports(service.folder)) >= 1)
    ours = ServeOperator("goog", project, "run-1")
    if ours.state() != State("v2", 2, 64):
        ours.set_state(State("v2", 2, 64), "begin again")
    wait_for(lambda: len(read_reports(service.folder)) == 2)
    return ours


class Load:
    """Asks all the time, and tells each day's actual at once; when it is `spoilt`, two of three rows are wrong."""

    def __init__(self, service):
        self._address, self._over = str(service.client.base_url), threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.spoilt, self.judged = False, 0

    def judges(self, count):
        """Wait until so many more answers are judged, however slow the machine is."""
        until = self.judged + count
        wait_for(lambda: self.judged >= until)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _ask(self):
        table = features()
        actuals = next_day_return(google_prices()).reindex(table.index).tolist()
        with httpx.Client(base_url=self._address, timeout=30) as client:
            for number in range(10**6):
                day = 300 + number % 300
                asked = {"row": table.iloc[day].to_dict()}
                if self.spoilt and number % 3:
                    asked["row"]["return_0"] = 50.0
                made = client.post("/v1/predict", json=asked, headers={"X-Request-ID": f"d{time.time_ns()}"})
                if made.status_code == 200:
                    told = {"request_id": made.json()["request_id"], "actual": actuals[day]}
                    client.post("/v1/feedback", json=told)
                    self.judged += 1
                if self._over.wait(0.01):  # enough to judge by, and most of the machine is left to the others
                    return


def incident(service, project, load, version, folder, harm=lambda: None):
    """Record a service that answered with v2 and then with another version, or after something else harmed it."""
    source, start = Samples(), time.time()
    source.scrape(service)
    load.judges(100)
    source.scrape(service)
    onset = time.time()
    change_desired_state(service.folder, version=version)
    harm()
    wait_for(lambda: {one.version for one in read_reports(service.folder)} == {version})
    load.judges(150)
    source.scrape(service)
    recording = captured(service.folder, source, start, time.time(), folder)
    others = tuple(one for name, one in OBJECTIVES.items() if name != "goog-coverage")
    return Trouble(recording, pd.Timestamp(onset, unit="s", tz="UTC"), OBJECTIVES["goog-coverage"], others)


def short_trouble(service, folder):
    """Record a few answers, where it does not matter what became of them."""
    source, start = Samples(), time.time()
    with Load(service) as load:
        load.judges(10)
    source.scrape(service)
    recording = captured(service.folder, source, start, time.time(), folder)
    return Trouble(recording, pd.Timestamp(start, unit="s", tz="UTC"), OBJECTIVES["goog-coverage"])


def test_a_state_is_brought_about_and_written_down_with_who_and_why(operator, service):
    desired = State("v1", 2, 5, InputFixes(fill={"return_0": 0.0}))
    operator.set_state(desired, "a reason")
    assert operator.state() == desired
    assert {one.version for one in read_reports(service.folder)} == {"v1"}
    assert operator.registry.current("goog") == "v1"
    assert operator.registry.history("goog")[-1]["action"] == "rollback"
    told = read_actions(service.folder)[-1]
    assert (told["run"], told["action"], told["why"], told["outcome"]) == ("run-1", "set_state", "a reason", "done")
    assert (told["before"]["version"], told["after"]["version"]) == ("v2", "v1")
    assert read_deployments(service.folder)[-1]["version"] == "v1"
    lacking = {name: value for name, value in row().items() if name != "return_0"}
    assert service.predict(row=lacking).status_code == 200


def test_a_state_that_cannot_be_is_refused_and_nothing_is_changed(operator, service):
    before = read_desired_state(service.folder)
    with pytest.raises(InputError, match="no version 'v77'"):
        operator.set_state(State("v77", 2, 64), "a typing error")
    with pytest.raises(InputError, match="workers = 0"):
        operator.set_state(State("v2", 0, 64), "a typing error")
    assert read_desired_state(service.folder) == before


def test_a_state_that_the_workers_cannot_follow_is_undone(operator, service):
    with pytest.raises(LeptonError, match="the model needs only"):
        operator.set_state(State("v1", 2, 64, InputFixes(swap={"return_0": "spread_0"})), "columns exchanged")
    assert operator.state() == State("v2", 2, 64)
    assert operator.registry.current("goog") == "v2"
    assert read_actions(service.folder)[-1]["outcome"].startswith("undone: ")


def test_workers_are_replaced_by_fresh_ones(operator, service):
    old = {one.pid for one in read_reports(service.folder)}
    operator.restart_workers("they hang")
    new = {one.pid for one in read_reports(service.folder)}
    assert len(new) == 2
    assert not old & new
    assert service.predict().status_code == 200


@contextlib.contextmanager
def stopped(pids):
    """Stop processes, which then hang, and let those that are still there go on at the end."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def test_a_worker_that_hangs_is_replaced_so_that_a_repair_takes_effect(operator, service):
    first, second = (one.pid for one in read_reports(service.folder))
    with stopped([first]):
        operator.set_state(State("v1", 2, 9), "a repair")
        assert not psutil.pid_exists(first)
    told = read_actions(service.folder)[-1]
    assert (told["outcome"], told["replaced"]) == ("done", [first])
    reports = wait_for(lambda: len(found := read_reports(service.folder)) == 2 and found)
    assert {one.version for one in reports} == {"v1"}
    assert second in {one.pid for one in reports}
    assert service.predict().status_code == 200


def test_workers_that_all_hang_are_all_replaced(operator, service):
    old = [one.pid for one in read_reports(service.folder)]
    with stopped(old):
        operator.set_state(State("v1", 2, 9), "a repair")
    assert sorted(read_actions(service.folder)[-1]["replaced"]) == sorted(old)
    assert {one.version for one in read_reports(service.folder)} == {"v1"}
    assert service.predict().status_code == 200


def test_a_state_counts_as_reached_by_those_that_answer_when_the_others_take_too_long(operator, service, project):
    hasty = ServeOperator("goog", project, "run-2", by="Kim", seconds=3)
    with stopped([service.process.pid]):  # the supervisor, which would start the third
        hasty.set_state(State("v1", 3, 64), "a third worker takes long to begin")
    told = read_actions(service.folder)[-1]
    assert (told["outcome"], told["by"], told["workers_followed"]) == ("done", "Kim", "2 of 3")


def test_a_service_that_has_ended_is_said_at_once_and_the_state_before_is_what_a_new_start_finds(tmp_path):
    project = project_with_model(tmp_path / "project")
    with serving(project) as running:
        ours = ServeOperator("goog", project, "run-1")
        held = ours.state()
        ours.set_state(State("v1", 1, 5, InputFixes(fill={"return_0": 0.0})), "a repair")
        running.process.kill()
        wait_for(lambda: not read_reports(running.folder))
        with pytest.raises(LeptonError, match="does not run any more"):  # and not that they did not follow in time
            ours.set_state(State("v2", 1, 64), "another repair")
        ours.bring_back(held, "undone")
    assert ours.state() == held
    assert ours.registry.current("goog") == "v1"
    outcomes = [(one["outcome"][:6], one.get("workers_followed")) for one in read_actions(running.folder)]
    assert outcomes == [("done", "1 of 1"), ("undone", None), ("undone", None), ("done", "0 of 1")]


def test_the_feed_is_restarted_by_the_command_of_the_settings(operator, project):
    operator.act_on_feed("restart_feed", "it stands still")
    assert (project / "restarted").exists()
    settings = (project / "lepton.toml").read_text()
    try:
        (project / "lepton.toml").write_text("[services.goog]\nmodel = 'goog'\nactions.restart_feed = ['false']\n")
        with pytest.raises(LeptonError, match="'false' failed"):
            operator_of("goog", project, "run-1").act_on_feed("restart_feed", "again")
        (project / "lepton.toml").write_text("")
        with pytest.raises(InputError, match="no action restart_feed is declared"):
            operator_of("goog", project, "run-1").act_on_feed("restart_feed", "and again")
    finally:
        (project / "lepton.toml").write_text(settings)
    assert [one["outcome"] for one in read_actions(operator.folder)[-2:]] == ["done", "'false' failed (1)"]


def test_the_command_acts_on_what_lepton_serve_runs_through_its_control_folder(operator, service, project):
    shown = lepton("act", "goog", "scale", "--workers", "1", "--dry-run", project=project)
    assert shown.stdout == "scale, workers 1: through services/goog/control.json, which its workers follow\n"
    assert operator.state().workers == 2
    done = lepton("act", "goog", "deploy", "--version", "v1", project=project)
    assert done.returncode == 0, done.stderr
    assert operator.state() == State("v1", 2, 64)
    assert lepton("act", "goog", "deploy", "--version", "v1; reboot", project=project).returncode == 2


def test_a_service_that_does_not_run_has_no_operator(tmp_path):
    with pytest.raises(InputError, match="does not run here"):
        ServeOperator("goog", tmp_path, "run-1")


def test_a_repair_that_helps_stays_and_a_rehearsal_of_it_touches_nothing(operator, service, project, tmp_path):
    plan = ModelPlan("v2", "rollback", ())
    with Load(service) as load:
        trouble = incident(service, project, load, "v3", tmp_path / "incident")
        before = read_desired_state(service.folder)
        assert rehearse(plan, ["deploy"], trouble, None).recovery.verdict == "too few"
        assert read_desired_state(service.folder) == before  # a rehearsal touches nothing
        done = act_on(back_to("v2"), operator, trouble, 6, tmp_path / "after")
    assert trouble.before.share > 0.8 > 0.5 > trouble.during.share
    assert done.recovery.verdict == "recovered", done.recovery
    assert (done.applied, done.rolled_back, operator.state().version) == (True, False, "v2")
    assert done.looks["verdict"].iloc[-1] == "recovered"
    assert done.after.incident.service == "goog"
    held = read_desired_state(service.folder)
    rehearsed = rehearse(plan, ["deploy"], trouble, done.after)  # and judges what followed
    assert (rehearsed.recovery.verdict, rehearsed.applied, rehearsed.rolled_back) == ("recovered", False, False)
    assert read_desired_state(service.folder) == held


def test_a_repair_that_makes_things_worse_is_taken_back(operator, service, project, tmp_path):
    with Load(service) as load:
        trouble = incident(service, project, load, "v2", tmp_path / "incident")
        done = act_on(back_to("v3"), operator, trouble, 12, tmp_path / "after")
    assert done.recovery.verdict == "worse"
    assert done.rolled_back
    assert operator.state() == State("v2", 2, 64)
    assert {one.version for one in read_reports(service.folder)} == {"v2"}
    assert operator.registry.current("goog") == "v2"
    assert len(done.looks) < LOOKS  # it ended early
    assert "because it got worse" in read_actions(service.folder)[-1]["why"]


@pytest.mark.parametrize("may_cost", [(), ("errors",)], ids=["not allowed", "allowed"])
def test_a_repair_of_one_objective_that_breaks_another_is_rolled_back_unless_the_policy_allows_it(
    operator, service, project, tmp_path, may_cost
):
    def act(ours):
        ours.set_state(State("v2", 2, 64, InputFixes(quarantine=True)), "and broken rows are refused")
        return ("to v2, with a quarantine",)

    with Load(service) as load:

        def harm():
            load.spoilt = True

        trouble = replace(incident(service, project, load, "v3", tmp_path / "incident", harm), may_cost=may_cost)
        done = act_on(act, operator, trouble, 12, tmp_path / "after")
    judged, table = done.judged, objectives_table(trouble, done.judged).set_index("objective")
    assert trouble.during.share < 0.6
    assert done.recovery.after.share > 0.6 or done.recovery.verdict == "too few"
    assert done.recovery.verdict in (("recovered",) if may_cost else ("recovered", "too few"))  # ended early, else
    assert table.loc["Error rate", "until_repair"] == 1 > 0.6 > table.loc["Error rate", "after"]
    if may_cost:
        assert (judged.verdict, done.rolled_back) == ("recovered", False)
        assert table.loc["Error rate", "verdict"] == "worse, allowed by may_cost"
        assert operator.state().input_fixes.quarantine
    else:
        assert (judged.verdict, done.rolled_back) == ("worse", True)
        assert "Error rate fell by" in judged.reason
        assert operator.state() == State("v3", 2, 64)
        assert "Error rate fell by" in read_actions(service.folder)[-1]["why"]
    assert "goog-errors" in still_missed(trouble, judged)


def test_a_service_that_ends_while_it_is_repaired_is_one_clear_error_and_nothing_is_half_applied(tmp_path):
    project = project_with_model(tmp_path / "project")
    with serving(project) as running:
        ours, trouble = ServeOperator("goog", project, "run-1"), short_trouble(running, tmp_path / "incident")
        held = ours.state()

        def act(operator):
            operator.set_state(State("v2", 1, 9, InputFixes(quarantine=True)), "a repair")
            running.process.kill()
            return ("done",)

        with pytest.raises(LeptonError, match="ended while it was observed"):
            act_on(act, ours, trouble, 5, tmp_path / "after")
    assert ours.state() == held
    assert ours.registry.current("goog") == "v1"
    assert "stopped by LeptonError" in read_actions(running.folder)[-1]["why"]


def test_the_last_action_is_undone_by_a_command_and_an_undo_as_well(operator, service, project):
    operator.set_state(State("v1", 2, 9, InputFixes(fill={"return_0": 0.0})), "a repair")
    done = lepton("undo", "goog", "--by", "Kim", "--note", "the feed is whole", project=project)
    assert done.returncode == 0, done.stderr
    assert "version v1 → v2" in done.stdout
    assert operator.state() == State("v2", 2, 64)
    told = read_actions(service.folder)[-1]
    assert (told["by"], told["run"], told["why"].endswith(": the feed is whole")) == ("Kim", "lepton undo", True)
    assert undo("goog", project, "Kim", "").startswith("service goog: version v2 → v1")
    change_desired_state(service.folder, queue_limit=11)
    with pytest.raises(InputError, match="somebody changed it since"):
        undo("goog", project, "Kim", "")


def test_a_repair_that_is_interrupted_is_undone(operator, service, project, tmp_path):
    def act(ours):
        ours.set_state(replace(ours.state(), queue_limit=1), "on the way")
        raise KeyboardInterrupt

    trouble = short_trouble(service, tmp_path / "incident")
    with pytest.raises(KeyboardInterrupt):
        act_on(act, operator, trouble, 4, tmp_path / "after")
    assert operator.state() == State("v2", 2, 64)


def back_to(version):
    def act(operator):
        operator.set_state(replace(operator.state(), version=version), "a test")
        return (f"to {version}",)

    return act
