import math
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lepton_kit.errors import InputError
from lepton_kit.telemetry.detectors import (
    ALARM,
    WARM_UP,
    ContextDetector,
    TailDetector,
    TelemetryDetector,
    detect,
)

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))  # the scorer is the benchmark's; the package has no use for it

from detect import ALARM as NAB_ALARM  # noqa: E402
from detect import best_score, compare, cross_validated  # noqa: E402
from nab import PROFILES, Series, mark, normalised, probation, read_corpus, sweep  # noqa: E402

CORPUS = Path(os.environ.get("LEPTON_DATA", ROOT / "../shared/data")) / "nab"
DETECTORS = pytest.mark.parametrize("make", [TailDetector, ContextDetector, TelemetryDetector])
STANDARD = PROFILES["standard"]


def seasonal(count: int, seed: int = 0, period: float = 288.0) -> np.ndarray:
    """A daily cycle in 5-minute steps with noise, as a request rate has it."""
    return 100 + 40 * np.sin(np.arange(count) * 2 * np.pi / period) + np.random.default_rng(seed).normal(0, 4, count)


def with_gaps(values: np.ndarray) -> np.ndarray:
    values = values.copy()
    values[np.random.default_rng(1).random(len(values)) < 0.03] = np.nan
    return values


def alarms(values: np.ndarray) -> np.ndarray:
    return np.flatnonzero(TelemetryDetector().score(values) >= ALARM)


@DETECTORS
def test_one_by_one_and_in_a_batch_the_scores_are_the_same_to_the_last_bit(make):
    values = with_gaps(np.random.default_rng(0).gamma(2, 5, 2500))
    values[1200:1260] += 90
    one_by_one = make()
    scores = make().score(values)
    assert [one_by_one.update(value) for value in values] == scores.tolist()
    assert scores.max() > ALARM


@DETECTORS
def test_the_cuts_between_batches_change_nothing_in_a_history_that_is_full(make):
    values = with_gaps(np.random.default_rng(0).standard_t(3, 25_000))
    cut = make()
    pieces = np.split(values, np.sort(np.random.default_rng(2).integers(0, len(values), 60)))
    assert np.concatenate([cut.score(piece) for piece in pieces]).tolist() == make().score(values).tolist()


@DETECTORS
def test_memory_does_not_grow_with_what_was_seen(make):
    detector, values = make(), np.random.default_rng(0).normal(size=100_000)
    detector.score(values[:10_000])
    early = len(pickle.dumps(detector))
    detector.score(values[10_000:])
    assert len(pickle.dumps(detector)) == pytest.approx(early, rel=0.01)
    assert early < 1_500_000


@DETECTORS
def test_a_detector_that_was_stored_goes_on_as_if_nothing_happened(make):
    values = seasonal(3000)
    detector = make()
    detector.score(values[:1777])
    stored = pickle.loads(pickle.dumps(detector))
    assert stored.score(values[1777:]).tolist() == detector.score(values[1777:]).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_a_spike_is_found_at_its_first_value(seed):
    values = seasonal(6000, seed)
    values[4321:4324] += 150
    assert 4321 in alarms(values)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shift", [90, -90])
def test_a_level_shift_is_found_within_half_a_cycle_and_sounds_few_alarms(seed, shift):
    values = seasonal(6000, seed)
    values[4000:] += shift
    found = alarms(values)
    found = found[found >= 4000]
    assert found[0] < 4000 + 144
    assert len(found) <= 3  # 2,000 values are abnormal against all before


@pytest.mark.parametrize("seed", range(5))
def test_a_change_of_period_is_found_though_every_value_is_usual(seed):
    values = seasonal(6000, seed)
    values[4000:] = seasonal(2000, seed + 100, period=48.0)
    found = alarms(values)
    assert len(found[(found >= 4000) & (found < 4000 + 288)])
    assert TailDetector().score(values)[4000:].max() < ALARM


def test_seasonal_noise_sounds_no_alarm_but_a_rare_one():
    found = [len(alarms(seasonal(10_000, seed))) for seed in range(10)]
    assert sum(found) <= 2  # of 100,000 values
    assert TelemetryDetector().score(seasonal(10_000))[:WARM_UP].max() == 0


def test_one_incident_sounds_one_alarm():
    values = np.random.default_rng(0).normal(size=3000)
    values[2000:2060] += 15
    assert alarms(values).tolist() == [2000]


def test_two_incidents_sound_two_alarms():
    values = np.random.default_rng(0).normal(size=4000)
    values[2000] = values[3000] = 15
    assert alarms(values).tolist() == [2000, 3000]


@DETECTORS
def test_missing_and_infinite_values_score_nothing_and_teach_nothing(make):
    values = seasonal(2000)
    dirty = np.insert(values, [500, 900, 1500], [np.nan, np.inf, -np.inf])
    scores = make().score(dirty)
    assert scores[[500, 901, 1502]].tolist() == [0, 0, 0]
    assert np.delete(scores, [500, 901, 1502]).tolist() == make().score(values).tolist()
    assert make().score([np.nan] * 500).tolist() == [0.0] * 500


@DETECTORS
@pytest.mark.parametrize("constant", [0.0, 1.0, -3e7, 0.1])
def test_a_constant_is_quiet_and_a_departure_from_it_is_found(make, constant):
    values = np.full(1000, constant)
    assert make().score(values).max() == 0
    values[800] += max(1.0, abs(constant))
    assert make().score(values)[800] > ALARM


@DETECTORS
@pytest.mark.parametrize("count", [0, 1, WARM_UP])
def test_a_short_series_scores_nothing(make, count):
    assert make().score(np.random.default_rng(0).normal(size=count)).tolist() == [0.0] * count


@DETECTORS
def test_scores_stay_finite_and_in_range_whatever_the_numbers(make):
    generator = np.random.default_rng(0)
    for values in (
        generator.normal(size=1500) * 10 ** generator.uniform(-300, 307, 1500),
        np.where(generator.random(1500) < 0.01, 1.7e308, 5e-324),
        generator.integers(0, 2, 1500).astype(float),
    ):
        with np.errstate(all="raise", under="ignore"):
            scores = make().score(values)
        assert ((scores >= 0) & (scores <= 1)).all()


def test_values_of_two_dimensions_and_alarms_out_of_range_are_refused():
    with pytest.raises(InputError, match="2 dimensions"):
        TailDetector().score([[1.0, 2.0]])
    with pytest.raises(InputError, match=r"alarm = 1\.3"):
        TelemetryDetector(alarm=1.3)


def test_detect_returns_one_row_per_value_with_its_time():
    values = seasonal(3000)
    values[2500] = 400
    series = pd.Series(values, index=pd.date_range("2026-01-01", periods=3000, freq="5min", tz="UTC"))
    found = detect(series)
    assert list(found.columns) == ["time", "value", "score", "is_anomaly"]
    assert len(found) == 3000
    assert found.loc[found["is_anomaly"], "time"].tolist() == [series.index[2500]]
    assert detect(series, threshold=0.5)["is_anomaly"].sum() >= 1


def test_detect_takes_an_empty_series_and_missing_values_and_refuses_what_is_out_of_order():
    assert detect(pd.Series([], dtype=float, index=pd.DatetimeIndex([]))).empty
    assert detect(pd.Series([1, None, 2], dtype="Int64"))["score"].tolist() == [0, 0, 0]
    with pytest.raises(InputError, match="order of time"):
        detect(pd.Series([1.0, 2.0], index=pd.to_datetime(["2026-01-02", "2026-01-01"])))


# The scorer of the Numenta Anomaly Benchmark: 100 rows of which 15 are not scored, a window from row 40 to row 49.

ROW_44 = math.tanh(1.5) / math.tanh(2.5)  # 2σ(x) − 1 = tanh(x / 2); row 44 is 0.6 of the window before its right edge


def labelled(windows=((40, 49),), rows=100, name="made/one.csv") -> Series:
    return Series(name, pd.Series(pd.date_range("2026-01-01", periods=rows, freq="h")), np.zeros(rows), windows)


def raw_score(detections, series=None, profile=STANDARD) -> float:
    series = series or labelled()
    scores = np.zeros(len(series.values))
    scores[list(detections)] = 0.9
    return sweep([mark(series)], [scores], profile).at(0.5)


@pytest.mark.parametrize(
    ("detections", "raw"),
    [
        ([], -1.0),  # the window is missed
        ([40], 1.0),  # its left edge
        ([44], ROW_44),
        ([49], math.tanh(0.25) / math.tanh(2.5)),  # the last row is a tenth of the window before its right edge
        ([49, 44, 46], ROW_44),  # the earliest counts
        ([44, 20], ROW_44 - 0.11),  # a false alarm before any window
        ([44, 54], ROW_44 - 0.11 * math.tanh(2.5 * 5 / 9)),  # 5 rows after it; its rows are 9 steps
        ([44, 99], ROW_44 - 0.11),  # long after it
        ([44, 3, 14], ROW_44),  # in the rows that are not scored
        ([15], -1.11),  # the first scored row
    ],
)
def test_a_detection_is_worth_what_the_paper_says(detections, raw):
    assert raw_score(detections) == pytest.approx(raw, abs=1e-6)


def test_the_profiles_weigh_false_alarms_and_misses():
    assert raw_score([20], profile=PROFILES["reward_low_FP_rate"]) == pytest.approx(-1.22)
    assert raw_score([20], profile=PROFILES["reward_low_FN_rate"]) == pytest.approx(-2.11)


@pytest.mark.parametrize("profile", PROFILES.values())
def test_the_null_detector_has_0_and_the_perfect_one_100(profile):
    corpus = [labelled(((40, 49), (70, 79))), labelled((), name="made/none.csv"), labelled(((20, 39),), 300, "b/c.csv")]
    marks = [mark(series) for series in corpus]
    null = sweep(marks, [np.zeros(len(series.values)) for series in corpus], profile).at(0.5)
    # the last window lies in the rows that are not scored: nobody can find it, and nobody is charged with it
    assert normalised(null, marks, profile) == 0
    perfect = [np.zeros(len(series.values)) for series in corpus[:2]]
    perfect[0][[40, 70]] = 1.0
    assert best_score(marks[:2], perfect, profile) == pytest.approx(100)


def test_probation_is_fifteen_per_cent_up_to_750_rows():
    assert [probation(rows) for rows in (10, 1538, 5000, 22_695)] == [1, 230, 750, 750]


def test_the_optimiser_finds_the_threshold_that_any_search_finds():
    generator = np.random.default_rng(0)
    corpus = [labelled(((40, 49), (60, 80))), labelled(((30, 50),), name="made/two.csv")]
    marks = [mark(series) for series in corpus]
    scores = [generator.integers(0, 12, 100) / 12 for _ in corpus]

    def at(threshold):
        return sum(
            raw_score(np.flatnonzero(score >= threshold), series) for series, score in zip(corpus, scores, strict=True)
        )

    curve = sweep(marks, scores, STANDARD)
    for threshold in [1.1, *np.arange(12) / 12]:
        assert curve.at(threshold) == pytest.approx(at(threshold))
    assert curve.best()[1] == pytest.approx(max(map(at, [1.1, *np.arange(12) / 12])))


def test_a_held_out_threshold_does_not_see_the_group_it_is_applied_to():
    corpus = [labelled(name="a/one.csv"), labelled(name="b/one.csv")]
    scores = [np.zeros(100), np.zeros(100)]
    scores[0][40], scores[1][40] = 0.9, 0.4  # either threshold is perfect for its own group
    assert best_score([mark(series) for series in corpus], scores, STANDARD) == pytest.approx(100)
    # 0.9 finds nothing in b; 0.4 finds a's anomaly
    assert cross_validated(corpus, [scores], STANDARD) == pytest.approx(50)


def test_a_published_score_that_does_not_come_out_again_is_named():
    table = pd.DataFrame({"File": ["made/one.csv"], "Threshold": [0.5]})
    scores = np.zeros(100)
    scores[44] = 0.9
    compare(table.assign(Score=ROW_44), [labelled()], [scores], STANDARD)
    with pytest.raises(InputError, match=r"made/one.csv: raw score 0.917429, but 0.500000 is published"):
        compare(table.assign(Score=0.5), [labelled()], [scores], STANDARD)


def test_a_corpus_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="has no data"):
        read_corpus(tmp_path)


def test_on_the_labelled_series_the_detector_scores_what_is_claimed():
    if not CORPUS.is_dir():
        pytest.skip(f"{CORPUS} is not there; it is the layout of https://github.com/numenta/NAB, set LEPTON_DATA")
    corpus = read_corpus(CORPUS)
    scores = [TelemetryDetector(NAB_ALARM).score(series.values) for series in corpus]
    assert best_score([mark(series) for series in corpus], scores, STANDARD) >= 70
    assert cross_validated(corpus, [scores], STANDARD) >= 65
