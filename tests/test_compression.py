from dataclasses import replace

import numpy as np
import pytest
import torch
from models_sample import google_prices

from lepton_kit.errors import InputError, LeptonError
from lepton_kit.models.baselines import ConstantVolatility, EwmaVolatility
from lepton_kit.models.compression import (
    compressed_card,
    distil,
    divergence,
    footprints,
    gaussian_divergence,
    may_stand_in,
)
from lepton_kit.models.evaluation import gate, losses
from lepton_kit.models.forecasters import Architecture, Forecaster, Network, load_forecaster
from lepton_kit.models.golden import golden_deviation, golden_examples
from lepton_kit.models.registry import Registry
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


@pytest.fixture(scope="module")
def opponents(parts):
    return {"constant volatility": ConstantVolatility.fitted(parts["train"]), "EWMA volatility": EwmaVolatility()}


def judged(teacher, student, test, opponents):
    """Return the gate's word on a student, on days that neither has seen."""
    others = {"teacher": teacher, **opponents}
    daily = {who: losses(one, test.features, test.target) for who, one in others.items()}
    return gate(losses(student, test.features, test.target), daily)


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
    assert divergence(teacher, student, test) < 0.2 * divergence(teacher, start, test)
    assert divergence(teacher, teacher, test) == 0


@pytest.mark.parametrize("model", ["mlp", "gru"])
def test_a_wider_student_follows_its_teacher_more_closely(teacher, parts, model):
    rows = parts["train"].features
    narrow, wide = (divergence(teacher, distil(teacher, rows, model, width), rows) for width in (1, 4))
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


def test_the_footprint_counts_numbers_and_bytes(teacher, student, parts, tmp_path):
    table = footprints({"teacher": teacher, "student": student}, parts["test"].features, repeats=3)
    table = table.set_index("forecaster")
    inputs = len(student.architecture.columns)
    assert table.loc["student", "parameters"] == 2 * (inputs + 1) + 2 * (inputs + 1)
    student.save(tmp_path / "student")
    assert table.loc["student", "bytes"] == sum(path.stat().st_size for path in (tmp_path / "student").iterdir())
    assert (table[["us_per_row", "us_per_batch"]] > 0).all(axis=None)


def test_a_linear_student_answers_a_batch_faster_than_its_recurrent_teacher(teacher, student, parts):
    """Measured side by side: ten steps after one another against one product, several times as long."""
    table = footprints({"teacher": teacher, "student": student}, parts["test"].features).set_index("forecaster")
    times = table.loc["teacher"] / table.loc["student"]
    assert times["us_per_batch"] > 1.5 and times["us_per_row"] > 1.2


def test_measuring_leaves_torch_as_it_was(student, parts):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        footprints({"student": student}, parts["test"].features, repeats=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_a_close_student_may_stand_in(teacher, student, parts, opponents):
    assert may_stand_in(judged(teacher, student, parts["test"], opponents))


def test_a_student_that_says_something_else_may_not_stand_in(teacher, student, parts, opponents):
    """Intervals half as wide: worse than the teacher, and than any naive forecast."""
    bad = changed(student, lambda network: network.log_std.bias.sub_(np.log(2)))
    found = judged(teacher, bad, parts["test"], opponents)
    assert not may_stand_in(found) and found.verdicts[0].relative.lower > 0.05
    assert not found.promote


def test_a_student_that_is_as_good_as_a_poor_teacher_may_not_stand_in(teacher, student, parts, opponents):
    poor = [changed(one, lambda network: network.log_std.bias.sub_(np.log(2))) for one in (teacher, student)]
    found = judged(*poor, parts["test"], opponents)
    assert found.verdicts[0].relative.upper < 0.05 and not may_stand_in(found)


def test_a_student_that_was_asked_no_naive_forecast_is_not_judged(teacher, student, parts):
    with pytest.raises(InputError, match="at least one naive forecast"):
        may_stand_in(judged(teacher, student, parts["test"], {}))


def test_a_compressed_version_is_found_by_its_teacher(teacher, student, parts, tmp_path):
    shelf = Registry(tmp_path / "models")
    card = {"run_id": "run-1", "limits": "one series", "data": {"sha256": "a"}, "parameters": {"model": "gru"}}
    golden = {one: golden_examples(forecaster, parts["test"].features) for one, forecaster in
              (("teacher", teacher), ("student", student))}  # fmt: skip
    first = shelf.save("goog", teacher, card, golden["teacher"])
    shelf.promote("goog", first, "run-1", "the first")
    assert shelf.compressed("goog") is None
    card_of_student = compressed_card(shelf.card("goog", first), first, student, may_stand_in=True)
    second = shelf.save("goog", student, {**card_of_student, "run_id": "run-2"}, golden["student"])
    assert shelf.compressed("goog") == shelf.compressed("goog", first) == second
    assert shelf.compressed("goog", second) is None
    assert shelf.current("goog") == first
    assert golden_deviation(shelf.load("goog", second), shelf.golden("goog", second)) == 0


def test_the_card_of_a_compressed_version_says_whence_it_is_and_what_it_costs(student):
    teachers = {"name": "goog", "created": "2026-01-01", "run_id": "run-1", "limits": "one series", "data": {"x": 1}}
    card = compressed_card({**teachers, "parameters": {"model": "gru", "seed": 4}}, "v3", student, loss={"mean": 0.01})
    assert card["compressed_from"] == "v3" and card["data"] == {"x": 1}
    assert card["parameters"] == {"model": "linear", "seed": 4, "width": 2}
    assert card["limits"].startswith("one series; distilled from v3")
    assert card["compression"] == {"loss": {"mean": 0.01}}
    assert not {"name", "created", "run_id"} & set(card)


def test_the_newest_of_several_compressed_versions_is_found(teacher, tmp_path, parts):
    shelf = Registry(tmp_path / "models")
    small = [distil(teacher, parts["train"].features, "mlp", width, steps=5) for width in (1, 2, 3)]
    saved = [
        shelf.save("goog", one, {"compressed_from": of}) for one, of in zip(small, ("v1", "v1", "v9"), strict=True)
    ]
    assert shelf.compressed("goog", "v1") == saved[1]
    with pytest.raises(InputError, match="no version 'v9'"):
        shelf.compressed("goog", "v9")


def test_a_student_reads_the_columns_of_its_teacher(teacher, student):
    assert student.architecture == Architecture("linear", teacher.architecture.columns, 2)
    assert student.scaler == teacher.scaler
