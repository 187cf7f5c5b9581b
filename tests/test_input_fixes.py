"""What a running service does to the rows of a faulty feed: over HTTP, while it runs, and after a start."""

import http.client
import json

import numpy as np
import pandas as pd
import pydantic
import pytest
from helpers import PATIENCE_S
from services import project_with_model, read_requests, row, serving, wait_for

from lepton_kit.data.input_fixes import InputFixer, InputFixes
from lepton_kit.errors import InputError
from lepton_kit.models.registry import Registry
from lepton_kit.serving.control import DesiredState, begin, change_desired_state, read_desired_state, read_reports
from lepton_kit.serving.requestlog import QUARANTINE, Quarantine


def kept_rows(folder):
    """Return the rows that a service keeps aside, as its files hold them."""
    paths = [(folder / QUARANTINE).with_suffix(".1.jsonl"), folder / QUARANTINE]
    held = [json.loads(line) for path in paths if path.is_file() for line in path.read_text().splitlines()]
    return pd.DataFrame([{**{name: one[name] for name in one if name != "values"}, **one["values"]} for one in held])


LEARNT = pd.DataFrame({"return_0": np.linspace(-0.03, 0.03, 60), "range_0": np.linspace(0.001, 0.05, 60)})


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with serving(project_with_model(tmp_path_factory.mktemp("input_fixes"))) as running:
        yield running


@pytest.fixture
def fixing(service):
    def fix(**changes):
        desired = change_desired_state(service.folder, input_fixes=InputFixes(**changes))
        wait_for(lambda: [one.generation for one in read_reports(service.folder)] == [desired.generation])
        return service

    yield fix
    fix()


def logged(service, request_id):
    def found():
        table = read_requests(service.folder / "requests", 0, 4e9)
        return table[table["request_id"] == request_id]

    wait_for(lambda: len(found()))
    return found()


def ask(service, request_id, **body):
    return service.client.post("/v1/predict", json=body, headers={"X-Request-ID": request_id})


def test_rows_in_percent_are_forecast_as_if_they_had_come_right_and_right_ones_stay(fixing):
    right = fixing().predict(row=row()).json()["forecasts"]
    service = fixing(scale=dict.fromkeys(row(), 0.01))
    percent = {name: 100 * value for name, value in row().items()}
    before = service.sample("lepton_mended_rows_total")
    answers = ask(service, "percent", rows=[percent, row()]).json()["forecasts"]
    assert [one["mean"] for one in answers] == pytest.approx([right[0]["mean"]] * 2, rel=1e-9)
    assert service.sample("lepton_mended_rows_total") - before == 1


def test_the_log_holds_the_rows_as_they_were_used_so_that_a_replay_gives_the_same_answer(fixing):
    service = fixing(scale=dict.fromkeys(row(), 0.01))
    ask(service, "used", row={name: 100 * value for name, value in row().items()})
    kept = logged(service, "used").iloc[0]
    assert {name: kept[f"feature_{name}"] for name in row()} == pytest.approx(row())
    forecaster = Registry(service.folder.parents[1] / "models").load("goog", "v1")
    features = pd.DataFrame([{name: kept[f"feature_{name}"] for name in row()}])
    assert forecaster.predict(features)["lower"].iloc[0] == pytest.approx(kept["lower"], rel=1e-9)


def test_missing_values_are_filled_with_a_value_or_with_the_last_that_came(fixing):
    service = fixing(fill={"return_0": 0.001, "volatility_ewma": "last"})
    whole = row(-5)
    ask(service, "whole", row=whole)
    lacking = {name: value for name, value in row().items() if name != "return_0"} | {"volatility_ewma": None}
    assert ask(service, "filled", row=lacking).status_code == 200
    kept = logged(service, "filled").iloc[0]
    assert kept["feature_return_0"] == 0.001
    assert kept["feature_volatility_ewma"] == pytest.approx(whole["volatility_ewma"])
    assert kept["feature_return_1"] == pytest.approx(row()["return_1"])


def test_what_is_not_filled_is_refused_as_before_and_the_log_says_what_was_missing(fixing):
    service = fixing(fill={"return_0": 0.0})
    answer = ask(service, "refused", row={**row(), "return_1": None})
    assert answer.status_code == 422
    assert answer.json()["fields"][0]["field"] == "row.return_1"
    kept = logged(service, "refused").iloc[0]
    assert np.isnan(kept["feature_return_1"])
    assert kept["feature_return_2"] == pytest.approx(row()["return_2"])


def test_a_row_of_which_hardly_anything_came_is_refused_even_where_all_could_be_filled(fixing):
    service = fixing(fill=dict.fromkeys(row(), 0.01))
    answer = ask(service, "empty", row={"return_0": 0.01})
    assert answer.status_code == 422
    assert answer.json()["rows"] == [0]


def test_rows_that_break_their_contract_are_refused_and_kept_as_they_came(fixing):
    service = fixing(quarantine=True)
    before = service.sample("lepton_quarantined_rows_total")
    wild = {**row(), "return_0": 9.0}
    assert ask(service, "wild", rows=[row(), wild]).status_code == 422
    assert ask(service, "null", row={**row(), "return_1": None}).status_code == 422
    assert ask(service, "whole-again", row=row()).status_code == 200
    kept = kept_rows(service.folder).set_index("request_id")
    assert kept.loc["wild", ["row", "return_0"]].tolist() == [1, 9.0]
    assert np.isnan(kept.loc["null", "return_1"])
    assert "whole-again" not in kept.index
    assert service.sample("lepton_quarantined_rows_total") - before == 2


def test_an_explicit_version_is_a_test_request_and_is_not_the_feed(fixing):
    service = fixing(scale=dict.fromkeys(row(), 0.01), fill={"return_0": 0.0})
    percent = {name: 100 * value for name, value in row().items()}
    plain = service.client.post("/v1/predict", json={"row": percent}, headers={"X-Model-Version": "v1"}).json()
    assert plain["forecasts"] != service.predict(row=percent).json()["forecasts"]
    lacking = {name: value for name, value in row().items() if name != "return_0"}
    named = {"headers": {"X-Model-Version": "v1"}}
    assert service.client.post("/v1/predict", json={"row": lacking}, **named).status_code == 422
    assert service.predict(row=lacking).status_code == 200


def test_input_fixes_stay_when_the_version_changes_and_the_queue_limit_follows(fixing):
    service = fixing(fill={"return_0": 0.0})
    lacking = {name: value for name, value in row().items() if name != "return_0"}
    desired = change_desired_state(service.folder, version="v2", queue_limit=3)
    wait_for(lambda: [one.generation for one in read_reports(service.folder)] == [desired.generation])
    assert service.predict(row=lacking).json()["version"] == "v2"
    rows = [row()] * 1000
    statuses = {service.predict(rows=rows).status_code for _ in range(3)}
    assert statuses == {200}
    change_desired_state(service.folder, version="v1", queue_limit=None)


def test_input_fixes_that_do_not_fit_the_version_are_reported_and_what_worked_goes_on(service):
    desired = change_desired_state(service.folder, input_fixes=InputFixes(swap={"return_0": "spread_0"}))
    told = wait_for(lambda: [one for one in read_reports(service.folder) if one.generation == desired.generation])
    assert "the model needs only 'return_0'" in told[0].error
    assert service.predict().status_code == 200
    change_desired_state(service.folder, input_fixes=InputFixes())


def test_each_worker_is_replaced_by_a_fresh_one_and_no_request_fails(service):
    old = {one.pid for one in read_reports(service.folder)}
    desired = change_desired_state(service.folder, restarts=read_desired_state(service.folder).restarts + 1)
    statuses = set()

    def replaced():
        statuses.add(service.predict().status_code)
        now = read_reports(service.folder)
        return now and not old & {one.pid for one in now} and all(one.generation >= desired.generation for one in now)

    wait_for(replaced)
    assert statuses == {200}


def test_a_client_that_asks_within_half_a_second_of_its_workers_end_is_told_to_connect_anew(service):
    address, asked = service.client.base_url, json.dumps({"row": row()})
    kept = http.client.HTTPConnection(
        address.host, address.port, timeout=PATIENCE_S
    )  # it never connects twice by itself
    kept.auto_open = 0
    kept.connect()
    answers = []

    def is_asked_to_go():
        kept.request("POST", "/v1/predict", asked)
        answer = kept.getresponse()
        answers.append((answer.status, "version" in json.loads(answer.read())))
        return answer.getheader("connection") == "close"

    assert not is_asked_to_go()
    change_desired_state(service.folder, restarts=read_desired_state(service.folder).restarts + 1)
    wait_for(is_asked_to_go)
    assert set(answers) == {(200, True)}


# --- without a service --------------------------------------------------------------------------------------------


def test_a_start_keeps_the_input_fixes_of_the_feed_and_takes_its_own_queue_limit(tmp_path):
    begin(tmp_path, DesiredState("v1", queue_limit=7))
    change_desired_state(tmp_path, input_fixes=InputFixes(fill={"return_0": 0.0}))
    begun = begin(tmp_path, DesiredState("v2"))
    assert (begun.input_fixes, begun.queue_limit, begun.version) == (InputFixes(fill={"return_0": 0.0}), None, "v2")


def test_the_state_of_an_earlier_release_is_read_as_one_without_input_fixes(tmp_path):
    old = {"version": "v1", "candidate": None, "share": 0.0, "workers": 2, "generation": 4}
    (tmp_path / "control.json").write_text(json.dumps(old))
    desired = read_desired_state(tmp_path)
    assert (desired.input_fixes, desired.queue_limit, desired.restarts) == (InputFixes(), None, 0)


def test_input_fixes_that_an_earlier_release_stored_as_mends_stay_in_force(tmp_path):
    (tmp_path / "control.json").write_text(json.dumps({"version": "v1", "mends": {"fill": {"return_0": 0.5}}}))
    assert read_desired_state(tmp_path).input_fixes == InputFixes(fill={"return_0": 0.5})


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, 100_001])
def test_a_queue_limit_that_is_none_is_refused(limit):
    with pytest.raises(InputError, match="queue_limit"):
        DesiredState("v1", queue_limit=limit)


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": {"a": 0.0}},
        {"scale": {"a": -1.0}},
        {"swap": {"a": "b", "b": "c"}},
        {"swap": {"a": "a"}},
        {"drop": True},
    ],
)
def test_input_fixes_that_mean_nothing_are_refused(wrong):
    with pytest.raises(pydantic.ValidationError):
        InputFixes(**wrong)


def test_an_exchanged_row_is_put_back_and_a_sound_one_left():
    fixer = InputFixer(InputFixes(swap={"return_0": "range_0"}), ("return_0", "range_0"), LEARNT)
    fixed = fixer.fix(np.array([[0.02, -0.02], [-0.02, 0.02]]))
    assert fixed.values.tolist() == [[-0.02, 0.02], [-0.02, 0.02]]
    assert fixed.changed.tolist() == [True, False]


def test_a_last_value_that_was_out_of_range_fills_nothing():
    fixer = InputFixer(InputFixes(fill={"return_0": "last"}), ("return_0", "range_0"), LEARNT)
    rows = np.array([[0.01, 0.02], [7.0, 0.02], [np.nan, 0.02]])
    assert fixer.fix(rows).values[2, 0] == 0.01
    assert np.isnan(rows[2, 0])  # what came is not touched


def test_the_quarantine_is_bounded_and_keeps_the_newest(tmp_path):
    kept = Quarantine(tmp_path, most_bytes=20_000)
    values = np.full((1, 2), 9.0)
    for number in range(2000):
        kept.keep(f"r{number}", "v1", ("return_0", "range_0"), values, np.array([True]))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 80_000
    assert kept_rows(tmp_path)["request_id"].iloc[-1] == "r1999"


def test_a_version_without_the_rows_that_it_learnt_from_refuses_only_what_is_missing():
    fixer = InputFixer(InputFixes(quarantine=True), ("return_0",), None)
    assert fixer.fix(np.array([[1e6], [np.nan]])).broken.tolist() == [False, True]
