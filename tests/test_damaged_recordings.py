"""Recordings damaged in many ways, two or three at once: a diagnosis is made of what is left, and claims no more."""

from __future__ import annotations

import contextlib
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from helpers import ROOT

from lepton_kit.diagnosis import drift_watch
from lepton_kit.diagnosis.case import build_case
from lepton_kit.diagnosis.causes import conclude, diagnose
from lepton_kit.diagnosis.evidence import gather, questions
from lepton_kit.diagnosis.repair_data import plan_data
from lepton_kit.errors import InputError
from lepton_kit.telemetry.health import last_periods
from lepton_kit.telemetry.recordings import read_recording

BUNDLED = ROOT / "runbooks" / "recordings"
Change = Callable[[pd.DataFrame, np.random.Generator], pd.DataFrame]
FEATURE = "feature_return_0"


def some(table: pd.DataFrame, rng: np.random.Generator, share: float = 0.2) -> np.ndarray:
    return rng.random(len(table)) < share


def with_value(column: str, value: object) -> Change:
    """Some values of a column are another; where they fit no longer, the column is one of objects."""

    def change(table: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
        kind = table[column].dtype if isinstance(value, float) else object
        return table.assign(**{column: table[column].astype(kind).mask(some(table, rng), value)})

    return change


def with_column(column: str, make: Callable[[int], object]) -> Change:
    return lambda table, _: table.assign(**{column: make(len(table))})


def without(column: str) -> Change:
    return lambda table, _: table.drop(columns=column)


def text_of_numbers(table: pd.DataFrame, _: np.random.Generator) -> pd.DataFrame:
    return table.assign(**{FEATURE: table[FEATURE].map("{:.4f} %".format)})


def at_other_times(to: Callable[[pd.Series], pd.Series]) -> Change:
    return lambda table, _: table.assign(time=to(table["time"]))


def shuffled(table: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    return table.iloc[rng.permutation(len(table))]


REQUESTS: dict[str, Change] = {
    "1e39 in a feature": with_value(FEATURE, 1e39),
    "1e308 in a feature": with_value(FEATURE, 1e308),
    "infinite features": with_value(FEATURE, float("-inf")),
    "a feature of text": with_column(FEATURE, lambda n: ["north", "south"] * (n // 2) + ["east"] * (n % 2)),
    "numbers written as text": text_of_numbers,
    "a feature of lists": with_column("feature_list", lambda n: [[1.0, 2.0]] * n),
    "a feature of structures": with_column("feature_struct", lambda n: [{"a": 1, "b": "x"}] * n),
    "a feature of bytes": with_column("feature_bytes", lambda n: [b"\xff\x00"] * n),
    "a feature of truth": with_column("feature_flag", lambda n: np.arange(n) % 2 == 0),
    "a feature of categories": with_column("feature_kind", lambda n: pd.Categorical(["a", "b", None][:1] * n)),
    "a feature of times": with_column("feature_seen", lambda n: pd.Timestamp("2008-01-01", tz="UTC")),
    "a feature of decimals": with_column("feature_cents", lambda n: np.arange(n) * 10**15),
    "an empty feature": with_column("feature_none", lambda n: np.nan),
    "a constant feature": with_column("feature_same", lambda n: 3.0),
    "infinite answers": with_value("lower", float("inf")),
    "answers of 1e308": with_value("mean", 1e308),
    "actuals of 1e308": with_value("actual", -1e308),
    "infinite actuals": with_value("actual", float("inf")),
    "no actuals": with_value("actual", float("nan")),
    "no answers": with_column("mean", lambda n: np.nan),
    "NaN bounds": lambda table, rng: table.assign(lower=np.nan, upper=np.nan),
    "negative latency": with_value("latency_ms", -5.0),
    "latency of 1e300": with_value("latency_ms", 1e300),
    "infinite latency": with_value("latency_ms", float("inf")),
    "a status of text": with_column("status", lambda n: ["timeout", "200"] * (n // 2) + ["?"] * (n % 2)),
    "a status of 1e18": with_value("status", 1e18),
    "versions of numbers": with_column("version", lambda n: np.arange(n) % 3),
    "mixed ids": with_column("request_id", lambda n: [None] * n),
    "one id": with_column("request_id", lambda n: ["same"] * n),
    "no rows": lambda table, rng: table.head(0),
    "one row": lambda table, rng: table.head(1),
    "twenty rows": lambda table, rng: table.tail(20),
    "every row twice": lambda table, rng: pd.concat([table, table]),
    "shuffled rows": shuffled,
    "one moment": at_other_times(lambda time: pd.Series(time.iloc[0], index=time.index)),
    "the year 1": at_other_times(lambda time: time.dt.as_unit("s") - pd.Timedelta(days=365 * 1900)),
    "another zone": at_other_times(lambda time: time.dt.tz_convert("Asia/Kathmandu")),
    "no zone": at_other_times(lambda time: time.dt.tz_localize(None)),
    "an hour off": at_other_times(lambda time: time + pd.Timedelta(hours=1)),
    "no versions": without("version"),
    "no status": without("status"),
    "no latency": without("latency_ms"),
    "no times": without("time"),
    "no actual column": without("actual"),
    "no features": lambda table, rng: table[[name for name in table if not name.startswith("feature_")]],
}
METRICS: dict[str, Change] = {
    "infinite samples": with_value("value", float("inf")),
    "samples of 1e308": with_value("value", 1e308),
    "negative samples": with_value("value", -1.0),
    "no samples": lambda table, rng: table.head(0),
    "labels of lists": with_value("labels", "[1, 2]"),
    "labels of nothing": with_value("labels", None),
    "metrics of one moment": at_other_times(lambda time: pd.Series(time.iloc[0], index=time.index)),
    "metrics shuffled": shuffled,
    "metrics of text": lambda table, rng: table.assign(value=table["value"].astype(str)),
}
REFERENCE: dict[str, Change] = {
    "no reference rows": lambda table, rng: table.head(0),
    "one reference row": lambda table, rng: table.head(1),
    "infinite reference": lambda table, rng: table.mask(rng.random(table.shape) < 0.2, np.inf),
    "constant reference": lambda table, rng: table * 0 + 1,
    "reference of text": lambda table, rng: table.astype(str).map(lambda value: f"{value} %"),
    "other reference columns": lambda table, rng: table.add_prefix("other_"),
}
TABLES = {"requests": REQUESTS, "metrics": METRICS, "reference": REFERENCE}
WINDOWS = {
    "a window of the year 1": {"start": "0001-01-01T00:00:00Z", "end": "0001-01-02T00:00:00Z"},
    "a window of 8000 years": {"start": "0001-01-02T00:00:00Z", "end": "9999-12-30T00:00:00Z"},
    "a window of a microsecond": {"start": "2008-01-01T00:00:00Z", "end": "2008-01-01T00:00:00.000001Z"},
    "a window of the year 9999": {"start": "9998-01-01T00:00:00Z", "end": "9999-12-31T23:59:59Z"},
}
DAMAGES = [(part, name) for part, changes in TABLES.items() for name in changes] + [
    ("window", name) for name in WINDOWS
]


def damage(folder: Path, part: str, name: str, rng: np.random.Generator) -> None:
    if part == "window":
        incident = json.loads((folder / "incident.json").read_text())
        (folder / "incident.json").write_text(json.dumps({**incident, "window": WINDOWS[name]}))
        return
    path = folder / f"{part}.parquet"
    table = TABLES[part][name](pd.read_parquet(path), rng)
    table.reset_index(drop=True).to_parquet(path)


RUNS = 44
ORDER = np.random.default_rng(7).permutation(len(DAMAGES))


def draw(run: int) -> tuple[str, list[tuple[str, str]]]:
    """Return a recording and two damages; each comes once, and in the last runs again, three at a time."""
    base = ["volatility-2008", "stale-feed", "queue-saturation"][run % 3]
    places = ORDER[2 * run : 2 * run + 2]
    if not len(places):
        places = np.random.default_rng(run).choice(len(DAMAGES), 3, replace=False)
    return base, [DAMAGES[place] for place in places]


@pytest.mark.parametrize("run", range(RUNS))
def test_a_damaged_recording_is_diagnosed_without_a_traceback_and_never_cleared_unchecked(run, tmp_path):
    base, damages = draw(run)
    folder = shutil.copytree(BUNDLED / base, tmp_path / "recording")
    rng = np.random.default_rng(run)
    for part, name in damages:
        with contextlib.suppress(KeyError):  # an earlier damage took the column away
            damage(folder, part, name, rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        recording = read_recording(folder)
        case = build_case(recording)
        diagnosis = conclude(case, gather(case))
        with contextlib.suppress(InputError):  # such as inputs that the version in service does not take
            plan_data(recording)
        check_drift_watch(recording, case)
    json.dumps(diagnosis.as_dict(), allow_nan=False)
    assert not [item.summary for item in diagnosis.evidence if item.summary.startswith("failed:")], damages
    checked = {item.name for item in diagnosis.evidence if item.checked}
    assert diagnosis.cause != "none" or ("contract" in checked and checked & {"promise", "objective"}), damages


def check_drift_watch(recording, case) -> None:
    periods = last_periods(recording, 0)
    table = drift_watch.effects(drift_watch.compared(recording, periods), periods, drift_watch.Limits())
    said = drift_watch.verdict(case, table)
    is_known = all(one.checked for one in gather(case) if one.name in ("promise", "contract"))
    assert said.act or is_known or "No one needs to act" not in said.sentence


def test_a_recording_with_two_columns_of_one_name_is_read_without_that_table(tmp_path):
    folder = shutil.copytree(BUNDLED / "stale-feed", tmp_path / "recording")
    table = pq.read_table(folder / "requests.parquet")
    pq.write_table(table.append_column(FEATURE, table[FEATURE]), folder / "requests.parquet")
    recording = read_recording(folder)
    assert any("Multiple matches" in problem and FEATURE in problem for problem in recording.problems)
    assert diagnose(recording).cause == "unknown"


def test_a_question_that_fails_is_not_checked_and_says_why(monkeypatch):
    def contract(case):
        raise ValueError("no such luck")

    monkeypatch.setattr(questions, "QUESTIONS", (contract, *questions.QUESTIONS))
    found = gather(build_case(read_recording(BUNDLED / "stale-feed")))
    assert (found[0].name, found[0].checked) == ("contract", False)
    assert found[0].summary == "failed: ValueError: no such luck"


@pytest.mark.parametrize("value", ["north", {"a": 1}])
def test_inputs_that_cannot_be_read_are_never_no_fault(value, tmp_path):
    folder = shutil.copytree(BUNDLED / "volatility-2008", tmp_path / "recording")
    table = pd.read_parquet(folder / "requests.parquet")
    table.assign(**{FEATURE: [value] * len(table)}).to_parquet(folder / "requests.parquet")
    diagnosis = diagnose(read_recording(folder))
    assert diagnosis.cause == "unknown"
    assert any(line.startswith("contract:") for line in diagnosis.not_checked)
