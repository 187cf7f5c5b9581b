"""Augmentation by kind of column: what a way changes, and whether it gains."""

import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from lepton_kit.data import augment
from lepton_kit.data.text_noise import text_noise
from lepton_kit.errors import InputError

ROWS = pd.DataFrame({"age": np.arange(400.0), "income": np.arange(400.0) % 7, "town": ["a", "b"] * 200})
LABELS = pd.Series([0, 1, 1, 0] * 100)


def made(way):
    return way(ROWS, LABELS, np.random.default_rng(0))


def test_jitter_stays_within_the_noise_that_was_measured():
    chance = np.random.default_rng(1)
    unit = np.repeat(np.arange(300), 2)
    repeats = pd.DataFrame({"unit": unit, "age": 10.0 * unit + chance.normal(0, 0.5, 600)})
    noise = augment.measured_noise(repeats, "unit")
    assert noise["age"] == pytest.approx(0.5, rel=0.1)
    features, target, weights = made(augment.jitter(noise))
    assert (features["age"] - ROWS["age"]).std() == pytest.approx(noise["age"], rel=0.1)
    pd.testing.assert_frame_equal(features[["income", "town"]], ROWS[["income", "town"]])
    assert target.equals(LABELS) and (weights == 1).all()


def test_masked_cells_are_unknown_and_about_their_share():
    features, target, _ = made(augment.mask(0.2))
    changed = (features != ROWS).mean()
    assert changed.between(0.1, 0.3).all() and target.equals(LABELS)
    assert set(features.loc[features["town"] != ROWS["town"], "town"]) == {"unknown"}
    assert set(features.loc[features["age"] != ROWS["age"], "age"]) == {ROWS["age"].median()}


def test_a_mixed_row_lies_between_two_and_has_both_labels_by_their_shares():
    features, target, weights = made(augment.mixup())
    first, second = features.iloc[:400].reset_index(drop=True), features.iloc[400:].reset_index(drop=True)
    pd.testing.assert_frame_equal(first, second)
    assert np.allclose(weights[:400] + weights[400:], 1) and target.iloc[:400].tolist() == LABELS.tolist()
    assert features["age"].between(0, 399).all() and set(features["town"]) == {"a", "b"}
    other = (first["age"] - weights[:400] * ROWS["age"]) / weights[400:]
    sure = weights[400:] > 0.01
    assert np.allclose(other[sure], other[sure].round(), atol=1e-6)
    assert (LABELS[other[sure].round()].to_numpy() == target.iloc[400:].to_numpy()[sure]).all()


def test_text_noise_drops_swaps_and_mistypes():
    texts = pd.DataFrame({"text": ["one two three four five six"] * 50})
    noisy = {
        how: text_noise("text", how, 0.3)(texts, LABELS[:50], np.random.default_rng(0))[0]["text"]
        for how in ("drop", "swap", "keyboard")
    }
    assert noisy["drop"].str.split().str.len().between(1, 6).all() and noisy["drop"].nunique() > 5
    assert {tuple(sorted(text.split())) for text in noisy["swap"]} == {tuple(sorted(texts["text"][0].split()))}
    assert noisy["swap"].nunique() > 5
    assert set(noisy["keyboard"].str.len()) == {27} and noisy["keyboard"].nunique() > 5


class Watching(LogisticRegression):
    """Notes whether a row that it is asked about was fitted on."""

    seen = []  # noqa: RUF012

    def fit(self, rows, labels, sample_weight=None):
        self.known_ = set(rows["age"])
        return super().fit(rows[["age"]], labels, sample_weight)

    def predict_proba(self, rows):
        self.seen.append(self.known_.isdisjoint(rows["age"]))
        return super().predict_proba(rows[["age"]])


def test_only_training_rows_are_copied():
    augment.advise(Watching(), ROWS, LABELS, {"jitter": augment.jitter({"income": 1.0})})
    assert len(Watching.seen) == 2 * 4 * augment.LOTS and all(Watching.seen)


def test_mistyped_copies_gain_where_requests_are_mistyped_and_noise_on_a_plain_number_is_refused():
    chance = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    target = pd.Series(chance.integers(0, 2, 240))
    words = ["".join(chance.choice(letters, 10)) for _ in range(2)]
    plain = pd.DataFrame({"text": [words[label] for label in target]})
    mistyped = text_noise("text", "keyboard", 0.7)(plain, target, chance)[0]
    model = make_pipeline(Column("text"), CountVectorizer(analyzer="char"), LogisticRegression(C=100))
    ways = {"keyboard": text_noise("text", "keyboard", 0.7)}
    advice = augment.advise(model, mistyped, target, ways, groups=pd.Series(range(240)))
    assert advice.way == "keyboard" and advice.table.set_index("way").loc["keyboard", "lower"] > 0
    numbers = pd.DataFrame({"x": chance.normal(size=240) + 2 * target})
    refused = augment.advise(LogisticRegression(), numbers, target, {"jitter": augment.jitter({"x": 3.0})})
    assert refused.way is None and not refused.table["gains"].any()


class Column:
    """A step that gives one column of texts."""

    def __init__(self, name):
        self.name = name

    def get_params(self, deep=True):
        return {"name": self.name}

    def set_params(self, **params):
        return self

    def fit(self, rows, target=None):
        return self

    def fit_transform(self, rows, target=None):
        return rows[self.name]

    def transform(self, rows):
        return rows[self.name]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: augment.jitter({"age": -1.0}), "noise = {'age': -1.0}: must be standard deviations"),
        (lambda: augment.mask(1.0), "share = 1.0: must lie between 0 and 1"),
        (lambda: augment.mixup(0), "alpha = 0: must be above 0"),
        (lambda: text_noise("text", "translate"), "how = 'translate': must be one of drop, swap, keyboard"),
        (lambda: augment.measured_noise(ROWS.assign(unit=range(400)), "unit"), "no unit was measured twice"),
    ],
)
def test_a_bad_way_is_refused_by_name(make, message):
    with pytest.raises(InputError, match=message):
        make()
