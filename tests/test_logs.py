import pandas as pd
import pytest

from lepton_kit.telemetry import logs
from lepton_kit.telemetry.health import Periods

START = pd.Timestamp("2026-01-01T00:00Z")
PERIODS = Periods(START, START + pd.Timedelta("1h"), START + pd.Timedelta("2h"))


def lines(before: list[str], now: list[str], level: str = "INFO") -> pd.DataFrame:
    at = [START + pd.Timedelta(minutes=1)] * len(before) + [PERIODS.split + pd.Timedelta(minutes=1)] * len(now)
    return pd.DataFrame({"time": at, "level": level, "message": before + now})


def marks(table: pd.DataFrame) -> dict[str, str]:
    return dict(zip(table["template"], table["mark"], strict=True))


def test_lines_that_differ_in_a_value_are_one_template():
    found = logs.digest(lines([], [f"worker {n} took {n}.5 s to load the model" for n in range(30)]), PERIODS)
    assert found["template"].tolist() == ["worker <*> took <number> s to load the model"]
    assert found["now"].tolist() == [30]


def test_statuses_keep_their_own_template():
    found = logs.digest(lines([], ["POST /v1/predict answered 422", "POST /v1/predict answered 429"] * 3), PERIODS)
    assert len(found) == 2


def test_a_template_that_was_not_there_before_is_new_and_stands_first():
    found = logs.digest(lines(["all is well"] * 20, ["all is well"] * 20 + ["the disk is full"]), PERIODS)
    assert found["template"].iloc[0] == "the disk is full"
    assert marks(found) == {"the disk is full": "new", "all is well": ""}


@pytest.mark.parametrize(
    ("before", "now", "mark"), [(10, 40, "bursting"), (10, 20, ""), (1, 4, ""), (40, 10, ""), (4, 0, "gone")]
)
def test_a_burst_needs_a_factor_and_enough_lines(before, now, mark):
    found = logs.digest(lines(["slow answer"] * before, ["slow answer"] * now), PERIODS)
    assert found["mark"].tolist() == [mark]


def test_levels_are_told_apart():
    both = pd.concat([lines(["the same"], [], "INFO"), lines([], ["the same"], "ERROR")])
    assert set(logs.digest(both, PERIODS)["level"]) == {"INFO", "ERROR"}


def test_hostile_lines_are_bounded_in_length_and_number():
    hostile = [f"{''.join(chr(97 + (n * k) % 26) for k in range(1, 9))} " * 400 + f"x{n}" for n in range(600)]
    found = logs.digest(lines([], ["\x1b[31m red \u202e", *hostile, ""]), PERIODS)
    assert len(found) <= logs.MOST_TEMPLATES + 1
    assert found["now"].sum() == 602
    assert found["template"].str.len().max() <= 2 * logs.LONGEST
    assert not found["template"].str.contains("\x1b|\u202e").any()


def test_lines_outside_both_periods_do_not_count():
    early = lines(["x"], []).assign(time=START - pd.Timedelta("1s"))
    assert logs.digest(early, PERIODS).empty
