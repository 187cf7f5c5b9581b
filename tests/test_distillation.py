"""Students of forecasters, and of models of tables."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from models_of_others import COLUMNS, NUMBERS, classifier, keep_skops, people
from models_sample import google_prices
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression

from lepton_kit.errors import InputError, LeptonError
from lepton_kit.models.conversion import kept_onnx, of_estimator
from lepton_kit.models.distillation import distil, distil_table, gaussian_divergence
from lepton_kit.models.flavors import load_model, said_of
from lepton_kit.models.forecasters import Architecture, Forecaster, Network, load_forecaster
from lepton_kit.models.training import TrainingSettings
from lepton_kit.serving.requests import prediction_model
from subjects.prices.examples import examples, train


@pytest.fixture(scope="module")
def prices():
    return google_prices()


@pytest.fixture(scope="module")
def parts(prices):
    return {part: examples(prices, part) for part in ("train", "validation", "test")}


@pytest.fixture(scope="module")
def teacher(prices):
    return train(prices, TrainingSettings("gru", epochs=12)).forecaster


@pytest.fixture(scope="module")
def student(teacher, parts):
    return distil(teacher, parts["train"].features)


def apart(teacher, student, features):
    """Return how far two models' answers lie apart, by their task."""
    return float(teacher.task.distance(student.predict(features), teacher.predict(features)).mean())


def changed(forecaster, change):
    """Return a copy of a forecaster whose network has been changed."""
    network = Network(forecaster.architecture)
    network.load_state_dict(forecaster.network.state_dict())
    with torch.no_grad():
        change(network)
    return replace(forecaster, network=network)


def test_the_divergence_is_that_of_torch():
    mean, log_std, other_mean, other_log_std = torch.randn(4, 50, dtype=torch.float64, generator=torch.manual_seed(1))
    one = torch.distributions.Normal(mean, log_std.exp())
    other = torch.distributions.Normal(other_mean, other_log_std.exp())
    expected = torch.distributions.kl_divergence(one, other)
    assert torch.allclose(gaussian_divergence(mean, log_std, other_mean, other_log_std), expected)


def test_a_student_comes_close_to_its_teacher_on_rows_that_it_has_not_seen(teacher, student, parts):
    """Close: far nearer than the EWMA baseline, as which every student begins."""
    start = Forecaster(student.architecture, teacher.scaler, Network(student.architecture))
    test = parts["test"].features
    assert apart(teacher, student, test) < 0.5 * apart(teacher, start, test)


@pytest.mark.parametrize("model", ["mlp", "gru"])
def test_a_wider_student_follows_its_teacher_more_closely(teacher, parts, model):
    rows = parts["train"].features
    narrow, wide = (apart(teacher, distil(teacher, rows, model, width), rows) for width in (1, 4))
    assert wide < narrow


def test_the_direction_is_the_teachers_own(teacher, student, parts):
    given = [one.predict(parts["test"].features)["prob_up"] for one in (teacher, student)]
    assert given[0].equals(given[1])


def test_distilling_twice_gives_the_same_student_bit_for_bit(teacher, parts):
    rows = parts["train"].features
    first, again = (distil(teacher, rows, "mlp", 2, steps=20, seed=3).network.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_distilling_leaves_the_teacher_as_it_was(prices, parts):
    own = train(prices, TrainingSettings("mlp", epochs=2)).forecaster
    before = {name: weights.clone() for name, weights in own.network.state_dict().items()}
    distil(own, parts["train"].features)
    assert all(torch.equal(before[name], weights) for name, weights in own.network.state_dict().items())


def test_a_teacher_without_volatility_information_has_such_a_student(prices, parts):
    constant = train(prices, TrainingSettings("mlp", epochs=5, volatility="constant")).forecaster
    student = distil(constant, parts["train"].features)
    assert student.architecture.volatility == "constant"
    assert student.predict(parts["test"].features)["std"].nunique() == 1


def test_a_student_lies_in_the_same_files_and_takes_the_same_requests(teacher, student, parts, tmp_path):
    student.save(tmp_path / "student")
    loaded = load_forecaster(tmp_path / "student")
    assert loaded.predict(parts["test"].features).equals(student.predict(parts["test"].features))
    row = parts["test"].features[list(teacher.architecture.needed)].iloc[0].to_dict()
    assert prediction_model(loaded).model_validate({"row": row}).row.model_extra == {}


def test_a_teacher_that_gives_no_numbers_teaches_nobody(teacher, parts):
    broken = changed(teacher, lambda network: network.mean.bias.fill_(torch.nan))
    with pytest.raises(LeptonError, match="teacher gives forecasts that are not finite"):
        distil(broken, parts["train"].features)


@pytest.mark.parametrize(("name", "value"), [("model", "tree"), ("width", 0), ("steps", 0)])
def test_a_bad_student_is_refused_by_name(teacher, parts, name, value):
    with pytest.raises(InputError, match=f"{name} = {value!r}"):
        distil(teacher, parts["train"].features, **{name: value})


def test_a_student_reads_the_columns_of_its_teacher(teacher, student):
    assert student.architecture == Architecture("linear", teacher.architecture.columns, 2)
    assert student.scaler == teacher.scaler


def kept(fitted, teacher, folder, classes=()):
    """Return a student of a table as a model of its teacher's task."""
    said = said_of(teacher).model_copy(update={"classes": classes})
    return kept_onnx(of_estimator(fitted, teacher.columns, teacher.categorical), said, folder)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_classifier_with_categories_has_a_student_that_answers_as_it_does(tmp_path, kind):
    learnt, fresh = people(600, seed=1), people(200, seed=2)
    teacher = load_model(keep_skops(tmp_path / "teacher", classifier(learnt)))
    student = kept(distil_table(teacher, learnt[COLUMNS], kind), teacher, tmp_path / "student")
    assert apart(teacher, student, fresh) < 0.02


def test_a_student_of_several_classes_learns_the_probability_of_each(tmp_path):
    learnt, fresh = people(600, seed=1), people(200, seed=2)
    named = pd.cut(learnt["age"] + 12 * learnt["income"], 3, labels=["low", "high", "middle"]).astype(str)
    forest = RandomForestClassifier(20, max_depth=4, random_state=0).fit(learnt[NUMBERS], named)
    place = keep_skops(tmp_path / "teacher", forest, task="classification_multiclass", categorical=[])
    teacher = load_model(place)
    fitted = distil_table(teacher, learnt[NUMBERS], "mlp", 8)
    student = kept(fitted, teacher, tmp_path / "student", tuple(fitted.classes_.tolist()))
    assert set(student.predict(fresh)["label"]) == {"low", "middle", "high"}
    assert apart(teacher, student, fresh) < 0.1


def test_a_regression_has_a_student_in_its_own_unit(tmp_path):
    learnt, fresh = people(600, seed=1), people(200, seed=2)
    forest = RandomForestRegressor(20, max_depth=5, random_state=0).fit(learnt[NUMBERS], 100 * learnt["income"])
    teacher = load_model(keep_skops(tmp_path / "teacher", forest, task="regression", categorical=[]))
    student = kept(distil_table(teacher, learnt[NUMBERS], "mlp", 8), teacher, tmp_path / "student")
    assert apart(teacher, student, fresh) < 0.2


def test_a_student_is_not_given_rows_with_missing_numbers(tmp_path):
    learnt = people()
    teacher = load_model(
        keep_skops(tmp_path / "m", LogisticRegression().fit(learnt[NUMBERS], learnt["actual"]), categorical=[])
    )
    with pytest.raises(InputError, match="no missing numbers; age has some"):
        distil_table(teacher, learnt[NUMBERS].assign(age=np.nan), "linear")


def test_a_task_without_probabilities_has_no_student_of_a_table(tmp_path):
    learnt = people()
    number = DummyRegressor().fit(learnt[NUMBERS], learnt["actual"])
    teacher = load_model(keep_skops(tmp_path / "m", number, task="text", categorical=[]))
    with pytest.raises(InputError):
        distil_table(teacher, learnt[NUMBERS], "linear")
