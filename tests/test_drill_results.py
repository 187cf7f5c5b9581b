"""Results of drills: their file, and their scores."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from lepton_kit import __version__
from lepton_kit.errors import InputError
from lepton_kit.ops.drill_results import FORMAT, Drilled, newest_results, read_results, write_results
from lepton_kit.ops.drill_scores import SCORED, confusion, drill_rows, reliability, scores, times

GOOD = Drilled(
    fault="nulls", severity=0.5, seed=7, kind="prices", causes=("data",), alert="GoogErrorsBudgetBurn",
    detected_after=10.0, cause="data", also=(), probability=0.97, confidence="high", diagnosed_after=12.0,
    remedy="repair-data", actions=("filled",), recovery="recovered", recovered_after=60.0, verdict="recovered",
)  # fmt: skip
CALM = dataclasses.replace(
    GOOD, fault="surge", severity=0.4, causes=("none",), alert="", detected_after=None, cause="none", remedy="",
    actions=(), recovery="", recovered_after=None, verdict="left alone",
)  # fmt: skip
LOST = dataclasses.replace(
    GOOD, fault="lost-worker", causes=("compute",), detected_after=90.0, cause="unknown", probability=0.4, actions=(),
    recovery="", recovered_after=None, verdict="asked a person", error="no worker to restart",
)  # fmt: skip


def results(project: Path, drilled: list[Drilled], seed: int = 3, **more) -> Path:
    return write_results(drilled, project / "drills", seed, live=False, **more)


def test_results_are_read_as_they_were_written(tmp_path):
    marked = dataclasses.replace(GOOD, extra={SCORED: {"cause": "model", "also": [], "probability": 0.6}})
    path = results(tmp_path, [marked, CALM], command="lepton drill", faults={"nulls": "missing values"})
    held = read_results(path)
    assert held.drills == (marked, CALM)
    assert (held.kind, held.seed, held.kit, held.command) == ("simulated", 3, __version__, "lepton drill")
    assert held.faults == {"nulls": "missing values"}
    assert json.loads(json.dumps(held.plain())) == json.loads(path.read_text())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not results of drills"),
        ('{"format": "other"}', "`format` must be"),
        (json.dumps({"format": FORMAT, "kind": "real", "seed": 0, "drills": []}), "kind: Input should be"),
        (json.dumps({"format": FORMAT, "kind": "live", "seed": 0, "drills": [{"fault": "x"}]}), r"drills\.0\."),
    ],
)
def test_a_file_that_holds_no_results_is_an_error_that_names_it(tmp_path, content, said):
    path = tmp_path / "20261125T101500Z-live-0.json"
    path.write_text(content)
    with pytest.raises(InputError, match=rf"{path.name}: .*{said}"):
        read_results(path)


def test_the_newest_results_are_taken_and_without_any_the_error_says_how_to_make_them(tmp_path):
    with pytest.raises(InputError, match="lepton drill"):
        newest_results(tmp_path)
    for name in ("20261125T101500Z-live-0.json", "20261124T235900Z-simulated-1.json"):
        (tmp_path / name).write_text("{}")
    assert newest_results(tmp_path).name == "20261125T101500Z-live-0.json"


def test_scores_count_what_was_named():
    pair = dataclasses.replace(
        GOOD, fault="nulls+cpu-taken", causes=("compute", "data"), cause="data", also=("compute",)
    )
    wrong = dataclasses.replace(CALM, cause="model", verdict="false repair")
    rows = drill_rows([GOOD, pair, LOST, CALM, wrong])
    found = scores(rows)
    assert found["right remedy first"] == 2 / 3  # of two at once either counts
    assert found["false repairs on benign"] == 1 / 2
    assert found["abstained"] == 1 / 5
    assert found["accuracy"] == 3 / 5
    matrix = confusion(rows)
    assert matrix.to_numpy().sum() == 5
    assert (matrix.loc["data", "data"], matrix.loc["compute", "unknown"], matrix.loc["none", "model"]) == (2, 1, 1)
    # data 1.0; compute, never named, 0; none: precision 1, recall 1/2
    assert found["macro-F1"] == pytest.approx((1 + 0 + 2 / 3) / 3)
    assert times(rows)["detect"].median == 10.0


def test_what_one_named_that_had_not_seen_the_fault_is_scored_in_place_of_what_was_done():
    rows = drill_rows([dataclasses.replace(GOOD, extra={SCORED: {"cause": "model", "also": [], "probability": 0.6}})])
    assert scores(rows)["accuracy"] == 0
    assert rows.loc[0, ["named", "probability"]].tolist() == ["model", 0.6]


def test_stated_probabilities_are_held_against_what_was_right():
    sure = [dataclasses.replace(GOOD, probability=0.97, cause=cause) for cause in ("data", "data", "data", "model")]
    table = reliability(drill_rows([*sure, LOST]))  # where nothing was named, nothing was stated
    assert table[["stated", "right", "drills"]].to_numpy().tolist() == [[pytest.approx(0.97), 0.75, 4]]
