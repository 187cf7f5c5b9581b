import shutil
from dataclasses import replace
from pathlib import Path

import incident_variants as variants
import numpy as np
import pandas as pd
import pytest

from lepton_kit.data.profiles import profile_of
from lepton_kit.diagnosis import drift_watch
from lepton_kit.diagnosis.case import build_case
from lepton_kit.errors import InputError
from lepton_kit.models.flavors import PROFILE
from lepton_kit.telemetry.health import Periods, last_periods
from lepton_kit.telemetry.recordings import Recording


def watch(recording: Recording, periods: Periods | None = None):
    periods = periods or last_periods(recording)
    table = drift_watch.effects(drift_watch.compared(recording, periods), periods, drift_watch.Limits())
    return table.set_index("column"), drift_watch.verdict(build_case(recording), table)


def since_the_fault(recording: Recording) -> Periods:
    time = recording.requests["time"]
    return Periods(time.iloc[0], variants.fault_time(recording.requests), time.iloc[-1])


def test_calm_months_need_no_one():
    table, verdict = watch(variants.calm())
    assert not verdict.act and verdict.sentence.startswith("No one needs to act")
    assert not table["news"].any()


@pytest.mark.parametrize(
    ("make", "word"),
    [(variants.stuck_feed, "stale"), (lambda: variants.wrong_unit(100), "out_of_range"), (variants.nulls, "missing")],
)
def test_a_feed_that_breaks_its_contract_asks_for_action_and_says_since_when(make, word):
    recording = make()
    _, verdict = watch(recording)
    assert verdict.act and word in verdict.sentence
    assert f"{variants.fault_time(recording.requests):%Y-%m}" in verdict.sentence


def test_a_unit_that_changed_is_news_with_its_size_and_onset():
    recording = variants.wrong_unit(100)
    table, _ = watch(recording, since_the_fault(recording))
    worst = table.loc["return_0"]
    assert worst["moved"] and worst["news"] and worst["spread_ratio"] > 10
    assert abs(worst["since"] - variants.fault_time(recording.requests)).days <= 7


def test_a_shift_of_long_ago_has_moved_and_is_no_news():
    recording = variants.calm()
    names = [name for name in recording.requests if name.startswith("feature_")]
    recording = replace(recording, requests=recording.requests.assign(**{n: 5 * recording.requests[n] for n in names}))
    table, _ = watch(recording)
    inputs = table[table["kind"] == "input"]
    assert inputs["moved"].all() and not inputs["news"].any() and inputs["since"].isna().all()


def test_forecasts_that_fail_ask_for_action_though_no_input_moved(tmp_path):
    table, verdict = watch(variants.wrong_model(tmp_path))
    assert verdict.act and "interval held the actual" in verdict.sentence
    assert not table.loc[table["kind"] == "input", "news"].any()


def test_errors_and_forecasts_are_compared_with_what_the_version_gives_on_its_training_rows():
    recording = variants.calm()
    tables = drift_watch.compared(recording, last_periods(recording))
    assert "training rows" in tables.reference_is
    assert {"answer_lower", "answer_upper", "loss", "missed"} <= set(tables.reference) == set(tables.rows) - {"time"}
    assert 0.8 < 1 - tables.reference["missed"].mean() < 1


def test_without_training_rows_the_period_before_is_the_reference_and_said_to_be():
    recording = replace(variants.calm(), reference=pd.DataFrame())
    tables = drift_watch.compared(recording, last_periods(recording))
    assert tables.reference_is == "the period before"
    assert len(drift_watch.effects(tables, last_periods(recording), drift_watch.Limits())) > 0


def stored(recording: Recording, folder: Path, **columns) -> Recording:
    """Return a recording whose version in service has the profile of some rows beside it."""
    version = recording.incident.versions.current
    copied = Path(shutil.copytree(recording.models[version], folder / version))
    profile_of(recording.reference.assign(**columns)).save(copied / PROFILE)
    return replace(recording, models={**recording.models, version: copied})


def test_inputs_are_compared_with_the_profile_stored_with_the_model_in_service_which_is_named(tmp_path):
    calm = variants.calm()
    recording = stored(calm, tmp_path, return_0=100 * calm.reference["return_0"])
    tables = drift_watch.compared(recording, last_periods(recording))
    assert tables.reference_is.startswith(f"inputs: the profile of {len(calm.reference)} training rows, stored with")
    table, _ = watch(recording)
    inputs = table[table["kind"] == "input"]
    assert inputs.index[0] == "return_0" and inputs.loc["return_0", "spread_ratio"] < 0.1
    assert not inputs.loc["return_0", "news"]
    assert {"answer_lower", "missed"} <= set(table.index)


def test_a_stored_profile_that_is_damaged_is_named_and_the_training_rows_stand_in(tmp_path):
    recording = stored(variants.calm(), tmp_path)
    (recording.models[recording.incident.versions.current] / PROFILE).write_text('{"format": "other"}')
    said = drift_watch.compared(recording, last_periods(recording)).reference_is
    assert "training rows" in said and "the stored profile cannot be used (profile.json: format = 'other'" in said


def test_categories_are_compared_with_the_stored_profile_and_what_is_not_compared_is_named(tmp_path):
    calm = variants.calm()
    rows = np.arange(len(calm.requests))
    asked = {"feature_region": np.where(rows % 2, "north", "west"), "feature_ticket": [f"T{row}" for row in rows]}
    learnt = {"region": np.where(np.arange(len(calm.reference)) % 2, "north", "south"), "ticket": "T0"}
    recording = stored(replace(calm, requests=calm.requests.assign(**asked)), tmp_path, **learnt)
    periods = last_periods(recording)
    table = drift_watch.effects(drift_watch.compared(recording, periods), periods, drift_watch.Limits())
    region = table.set_index("column").loc["region"]
    assert region["moved"] and not region["news"] and region["kind"] == "input"
    recording = replace(recording, requests=recording.requests.drop(columns="feature_region").assign(feature_new=1.0))
    table = drift_watch.effects(drift_watch.compared(recording, periods), periods, drift_watch.Limits())
    assert table.attrs["left_out"]["new"] == "not in the reference"


@pytest.mark.parametrize("columns", [3, 60])
def test_tables_of_few_and_of_many_columns_are_compared_whole(columns):
    random = np.random.default_rng(1)
    periods = last_periods(variants.calm())
    rows = pd.DataFrame(random.normal(size=(400, columns))).rename(columns=str)
    rows.loc[200:, "0"] += 2
    stamped = rows.assign(time=pd.date_range(periods.start, periods.end, len(rows)))
    learnt = pd.DataFrame(random.normal(size=(400, columns))).rename(columns=str)
    tables = drift_watch.Compared(profile_of(learnt), learnt, "noise", stamped)
    table = drift_watch.effects(tables, periods, drift_watch.Limits())
    assert len(table) == columns
    assert table.loc[table["news"], "column"].tolist() == ["0"]
    assert abs(table.loc[0, "since"] - periods.split) < (periods.end - periods.start) / 20


def test_samples_of_one_distribution_do_not_count_as_moved():
    random = np.random.default_rng(0)
    periods = last_periods(variants.calm())
    rows = pd.DataFrame(random.normal(size=(200, 50))).rename(columns=str)
    stamped = rows.assign(time=[periods.start] * 100 + [periods.end] * 100)
    learnt = pd.DataFrame(random.normal(size=(100, 50))).rename(columns=str)
    tables = drift_watch.Compared(profile_of(learnt), learnt, "noise", stamped)
    assert drift_watch.effects(tables, periods, drift_watch.Limits())["moved"].sum() <= 1


def test_an_empty_recording_is_not_judged_and_not_an_error():
    empty = replace(variants.calm(), requests=variants.calm().requests.iloc[:0])
    table, verdict = watch(empty)
    assert table.empty and not verdict.act and "not known" in verdict.sentence


@pytest.mark.parametrize("wrong", [{"psi": 0}, {"alpha": 1}])
def test_a_limit_out_of_range_is_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        drift_watch.Limits(**wrong)


def test_answers_without_bounds_are_not_judged_and_nobody_is_told_to_rest():
    calm = variants.calm()
    bounds = {"lower": np.nan, "upper": np.nan}
    table, verdict = watch(replace(calm, requests=calm.requests.assign(**bounds)))
    assert "missed" not in table.index
    assert verdict.sentence.startswith("Not judged") and "No one needs to act" not in verdict.sentence


def test_a_category_that_moved_is_named():
    calm = variants.calm()
    is_before = calm.requests["time"] < variants.fault_time(calm.requests)
    region = np.where(is_before, np.where(np.arange(len(is_before)) % 2, "north", "south"), "west")
    _, verdict = watch(replace(calm, requests=calm.requests.assign(feature_region=region)))
    assert "region" in verdict.sentence
