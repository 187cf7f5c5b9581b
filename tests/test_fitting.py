"""Models of any table by their task: fitted, kept as skops files, and judged, on tables that the kit did not make."""

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

from lepton_kit.data.contracts import contract_of
from lepton_kit.data.splits import split_by_class
from lepton_kit.errors import InputError
from lepton_kit.models import judging
from lepton_kit.models.evaluation import Bootstrap
from lepton_kit.models.fitting import KINDS, NAIVE, choose, examples_of, fit
from lepton_kit.models.flavors import load_model
from lepton_kit.models.tasks import task_of
from lepton_kit.telemetry.declaration import Declaration

ONE_BY_ONE = Bootstrap(samples=500, block=1)
TABLES = {
    "classification_binary": load_breast_cancer,
    "classification_multiclass": load_wine,
    "regression": load_diabetes,
}


class Given:
    """A bundled table with its declaration, contract and parts."""

    def __init__(self, task: str) -> None:
        table = TABLES[task](as_frame=True).frame.iloc[:, [0, 1, 2, 3, 4, 6, 7, -1]]
        middle = table.iloc[:, 0].median()
        table.insert(0, "kind", np.where(table.iloc[:, 0] > middle, "large", "small"))
        self.declaration = Declaration.model_validate({"task": task, "columns": {"target": "target"}})
        self.contract, self.task = contract_of(self.declaration, table), task_of(task)
        self.table = split_by_class(table, "target")

    def part(self, name: str):
        return examples_of(self.table, self.contract, self.declaration, name)


@pytest.fixture(scope="module", params=TABLES)
def given(request) -> Given:
    return Given(request.param)


@pytest.fixture(scope="module")
def binary() -> Given:
    return Given("classification_binary")


def test_every_kind_is_kept_without_a_pickle_and_loses_less_than_knowing_nothing(given, tmp_path):
    learnt, test = given.part("train"), given.part("test")
    losses = {}
    for kind in KINDS:
        model = fit(kind, learnt, given.contract, given.task, tmp_path / kind)
        assert {path.name for path in (tmp_path / kind).iterdir()} == {"model.skops", "model.json"}
        assert (model.task, model.columns, model.categorical) == (given.task, given.contract.features, ("kind",))
        losses[kind] = given.task.loss(model.predict(test.features), test.target)
    linear, trees, naive = (float(losses[kind].mean()) for kind in ("linear", "trees", NAIVE))
    assert linear < naive and trees < naive
    assert choose(losses) != NAIVE


def test_the_same_seed_gives_the_same_model_and_what_is_loaded_answers_alike(binary, tmp_path):
    learnt, test = binary.part("train"), binary.part("test")
    one, other = (fit("trees", learnt, binary.contract, binary.task, tmp_path / name, seed=3) for name in "ab")
    pd.testing.assert_frame_equal(one.predict(test.features), other.predict(test.features))
    pd.testing.assert_frame_equal(load_model(tmp_path / "a").predict(test.features), one.predict(test.features))


def test_a_category_that_was_never_seen_is_answered(binary, tmp_path):
    model = fit("linear", binary.part("train"), binary.contract, binary.task, tmp_path / "linear")
    strange = binary.part("test").features.head(3).assign(kind="unheard of")
    assert model.predict(strange)["proba"].between(0, 1).all()


def test_what_cannot_be_fitted_is_refused_and_never_taken_for_returns(binary, tmp_path):
    with pytest.raises(InputError, match="model 'gru': must be one of"):
        fit("gru", binary.part("train"), binary.contract, binary.task, tmp_path)
    forecasts = binary.declaration.model_copy(update={"task": "interval_forecast"})
    with pytest.raises(InputError, match="'interval_forecast': the kit fits no such model from a table"):
        examples_of(binary.table, binary.contract, forecasts, "train")
    columns = binary.declaration.columns.model_copy(update={"positive": "yes"})
    with pytest.raises(
        InputError, match=r"columns\.positive = 'yes': must be one of two classes; the target holds 0, 1"
    ):
        examples_of(binary.table, binary.contract, binary.declaration.model_copy(update={"columns": columns}), "train")
    with pytest.raises(InputError, match="lacks column split"):
        examples_of(binary.table.drop(columns="split"), binary.contract, binary.declaration, "train")
    few = binary.part("train")
    few = few.rows(slice(0, int(np.flatnonzero(few.target != few.target.iloc[0])[0]) + 1))
    with pytest.raises(InputError, match="has 1 rows to learn from; it needs 5"):
        fit("linear", few, binary.contract, binary.task, tmp_path)


def test_the_parts_hold_each_class_in_its_share_and_no_row_twice(binary):
    twice = pd.concat([binary.table, binary.table.head(50)], ignore_index=True).drop(columns="split")
    split = split_by_class(twice, "target", seed=1)
    assert split.groupby("split")["target"].mean().between(0.55, 0.7).all()
    assert split.groupby(list(binary.contract.features))["split"].nunique().max() == 1
    assert split["split"].value_counts(normalize=True).round(1).to_dict() == {
        "train": 0.6,
        "validation": 0.2,
        "test": 0.2,
    }


def test_a_slice_in_which_the_model_fails_comes_first(binary, tmp_path):
    model = fit("linear", binary.part("train"), binary.contract, binary.task, tmp_path / "linear")
    test = binary.part("test")
    answers = model.predict(test.features)
    is_large = test.features["kind"] == "large"
    answers.loc[is_large, "proba"] = 1 - answers.loc[is_large, "proba"]
    rows = judging.judged(binary.task, answers, test.target)
    found = judging.slices(rows, test.features, binary.contract, ONE_BY_ONE)
    worst = found[found["feature"] == "kind"].iloc[0]
    assert (worst["slice"], worst["hit"] < 0.3, worst["lower"] <= worst["hit"] <= worst["upper"]) == (
        "large",
        True,
        True,
    )
    assert found["hit"].is_monotonic_increasing and (found["rows"] >= 10).all()


def test_scores_have_intervals_that_hold_the_mean(binary, tmp_path):
    test = binary.part("test")
    model = fit("linear", binary.part("train"), binary.contract, binary.task, tmp_path / "linear")
    scores = judging.scores(judging.judged(binary.task, model.predict(test.features), test.target), ONE_BY_ONE)
    assert scores["score"].tolist() == ["loss", "hit"]
    assert (scores["lower"] < scores["mean"]).all() and (scores["mean"] < scores["upper"]).all()


def test_a_model_that_is_too_sure_is_seen_in_its_calibration():
    chance = np.random.default_rng(0)
    true = pd.Series(chance.uniform(size=4000))
    came = pd.Series((chance.uniform(size=4000) < true).astype(float))
    task = task_of("classification_binary")
    honest, sure = (
        judging.calibration_error(judging.calibration(task, pd.DataFrame({"proba": proba}), came))
        for proba in (true, (true > 0.5) * 0.98 + 0.01)
    )
    assert honest < 0.03 and sure > 0.2


def test_calibration_is_of_intervals_where_answers_are_such_and_not_applicable_to_plain_numbers():
    chance = np.random.default_rng(0)
    came = pd.Series(chance.normal(size=2000))
    gaussian = pd.DataFrame({"mean": 0.0, "std": 1.0, "lower": -1.64, "upper": 1.64}, index=came.index)
    curve = judging.calibration(task_of("interval_forecast"), gaussian, came)
    assert judging.calibration_error(curve) < 0.02
    labels = pd.DataFrame({"label": ["a", "b"] * 50, "proba_a": [0.9, 0.2] * 50, "proba_b": [0.1, 0.8] * 50})
    multi = judging.calibration(task_of("classification_multiclass"), labels, pd.Series(["a", "a"] * 50), bins=2)
    assert multi["measured"].tolist() == [0.0, 1.0]
    with pytest.raises(InputError, match="claim no probability"):
        judging.calibration(task_of("regression"), pd.DataFrame({"prediction": [1.0]}), pd.Series([1.0]))
